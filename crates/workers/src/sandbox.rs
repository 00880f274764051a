//! Runs foreign commands (builds) where they can do no harm: in bubblewrap, with namespaces of their own, limits on
//! everything, and without network unless it is asked for.
//!
//! What must hold: without a working sandbox nothing runs at all; a run ends in bounded time with one clear
//! [`Outcome`], and nothing of it is left then, also when its future is dropped or the server is killed. The host's
//! processes that set the sandbox up see none of the environment that a definition asks for (`LD_PRELOAD`!).
//!
//! Limits on memory and processes are cgroups where those can be made (v1, v2, or both), and besides a watch on the
//! process tree. Absent on purpose: a container image. Commands see the host's `/usr` and named tools, read-only.

mod bwrap;
mod cgroup;
mod log;
mod watch;

pub use log::Log;

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::sync::oneshot;

/// What a run leaves free on the disk, in bytes: the control plane and rollbacks need it.
const DISK_FREE_BYTES_MIN: u64 = 256 << 20;

/// Why nothing could be run, or why it is not known how it ended.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say what the fields are")]
pub enum SandboxError {
    #[error("no sandbox is available on this machine: {why} ({hint})")]
    Unavailable { why: String, hint: &'static str },
    #[error("failed to {operation} for a sandboxed command")]
    Run { operation: &'static str, source: std::io::Error },
    #[error("the sandboxed command was killed but did not end within {} s", limit.as_secs())]
    Stuck { limit: Duration },
}

/// A folder or file of the host that a command sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bind {
    /// Its path on the host.
    pub from: PathBuf,
    /// Its absolute path in the sandbox.
    pub to: PathBuf,
    /// Whether it may be written to.
    pub writable: bool,
}

/// What one run may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// CPU seconds of all its processes together.
    pub cpu_seconds: u64,
    /// Memory of all its processes together, in MiB; half of it may be files in `/tmp`.
    pub memory_mib: u64,
    /// Processes and threads at the same time.
    pub processes: u64,
    /// Wall-clock time.
    pub time: Duration,
    /// Output, standard and error together, in bytes.
    pub output_bytes: u64,
    /// Growth of the writable folders together, in MiB.
    pub disk_mib: u64,
}

impl Default for Limits {
    /// Room for a large build: 30 minutes, 2 CPU hours, 4 GiB of memory, 1,024 threads, 64 MiB of output, 8 GiB of disk.
    fn default() -> Limits {
        Limits {
            cpu_seconds: 7_200,
            memory_mib: 4_096,
            processes: 1_024,
            time: Duration::from_secs(1_800),
            output_bytes: 64 << 20,
            disk_mib: 8_192,
        }
    }
}

/// What a command finds around it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Room {
    /// Folders and files of the host, in the order in which they are mounted.
    pub binds: Vec<Bind>,
    /// Tools of the host outside `/usr`, read-only at their own paths; their `bin` (or they themselves) come first
    /// in `PATH`.
    pub tool_paths: Vec<PathBuf>,
    /// Whether it shares the host's network; without, it has not even a loopback that anyone else is on.
    pub network: bool,
    /// The absolute path in the sandbox that it starts in.
    pub cwd: PathBuf,
    /// Its environment, besides `PATH`, `HOME`, `LANG`, `TZ`, `USER` and `TERM`, which it may replace.
    pub env: BTreeMap<String, String>,
    /// What it may use.
    pub limits: Limits,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// By itself, with this code.
    Exited(i32),
    /// By this signal (or with the code 128 + n, by which shells tell the same of a child).
    Signaled(i32),
    /// It did not begin: no such program, or a folder of the room is missing.
    NotStarted(String),
    /// It was killed after its wall-clock time.
    TimeLimit,
    /// It was killed for its CPU time.
    CpuLimit,
    /// It was killed for printing too much.
    OutputLimit,
    /// It was killed for having too many processes and threads.
    ProcessLimit,
    /// It was killed for using too much memory.
    MemoryLimit,
    /// It was killed for filling more of the disk than it may.
    DiskLimit,
    /// It was killed because the disk is nearly full, whoever has filled it.
    DiskFull,
}

impl Outcome {
    /// Whether the command succeeded.
    #[must_use]
    pub fn is_success(&self) -> bool {
        *self == Outcome::Exited(0)
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Outcome::Exited(code) => write!(f, "ended with exit code {code}"),
            Outcome::Signaled(signal) => write!(f, "was ended by signal {signal}"),
            Outcome::NotStarted(why) => write!(f, "could not be started: {why}"),
            Outcome::TimeLimit => f.write_str("was killed: it took longer than its time limit"),
            Outcome::CpuLimit => f.write_str("was killed: it used more CPU time than its limit"),
            Outcome::OutputLimit => f.write_str("was killed: it printed more than its output limit"),
            Outcome::ProcessLimit => f.write_str("was killed: it had more processes than its limit"),
            Outcome::MemoryLimit => f.write_str("was killed: it used more memory than its limit"),
            Outcome::DiskLimit => f.write_str("was killed: it filled more of the disk than its limit"),
            Outcome::DiskFull => {
                write!(f, "was ended: the disk has less than {} MiB free", DISK_FREE_BYTES_MIN >> 20)
            }
        }
    }
}

/// A sandbox that was tried and works. There is no other way to run a command.
#[derive(Debug, Clone)]
pub struct Sandbox {
    program: PathBuf,
    cgroups: bool,
}

impl Sandbox {
    /// Tries the sandbox once with all that it will need. `program` is bubblewrap: `bwrap`, or its path.
    pub async fn check(program: &Path) -> Result<Sandbox, SandboxError> {
        cgroup::remove_stale();
        let mut sandbox = Sandbox { program: program.to_owned(), cgroups: true };
        let first = sandbox.probe().await;
        if first.is_err() {
            // The cgroups may look usable and not be; the watch on the process tree does without.
            sandbox.cgroups = false;
            if sandbox.probe().await.is_ok() {
                tracing::info!("sandboxes are limited without cgroups: none can be joined on this machine");
                return Ok(sandbox);
            }
        }
        first.map(|()| sandbox)
    }

    /// Whether the kernel itself keeps a run's limits on memory and processes (cgroups).
    #[must_use]
    pub fn has_kernel_limits(&self) -> bool {
        self.cgroups && cgroup::Groups::create(&Limits::default()).complete()
    }

    /// The same without cgroups: limits on memory and processes then come from the watch alone.
    #[must_use]
    pub fn without_cgroups(self) -> Sandbox {
        Sandbox { cgroups: false, ..self }
    }

    async fn probe(&self) -> Result<(), SandboxError> {
        let unavailable = |why: String| SandboxError::Unavailable { hint: bwrap::hint(&why), why };
        let room = Room {
            binds: Vec::new(),
            tool_paths: Vec::new(),
            network: false,
            cwd: "/".into(),
            env: BTreeMap::new(),
            limits: Limits { time: Duration::from_secs(20), ..Limits::default() },
        };
        let log = Log::in_memory();
        let run = ["/bin/sh".to_owned(), "-c".to_owned(), "exit 42".to_owned()];
        match self.run(room, &run, &log).await {
            Ok(Outcome::Exited(42)) => Ok(()),
            Ok(Outcome::NotStarted(why)) => Err(unavailable(why)),
            Ok(other) => Err(unavailable(format!("a trial {other}: {}", log.tail(3)))),
            Err(error) => Err(unavailable(error.to_string())),
        }
    }

    /// Runs a command and writes what it prints to `log`. A dropped future kills it.
    pub async fn run(&self, room: Room, run: &[String], log: &Log) -> Result<Outcome, SandboxError> {
        let fail = |operation, source| SandboxError::Run { operation, source };
        let pipe = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC);
        let (cancelled, cancel) = pipe.map_err(|e| fail("make a pipe", e.into()))?;
        let (sandbox, run, log) = (self.clone(), run.to_vec(), log.clone());
        let (send, receive) = oneshot::channel();
        // A thread of its own, as the kernel ends the sandbox together with the thread that started it.
        std::thread::Builder::new()
            .name("sandbox".to_owned())
            .spawn(move || {
                // Nobody listens when the run was cancelled.
                let _ = send.send(watch::run(&sandbox, &room, &run, &log, cancelled));
            })
            .map_err(|e| fail("start a thread", e))?;
        let result = receive.await;
        drop(cancel);
        result.unwrap_or_else(|_| {
            Err(fail("watch over the process", std::io::Error::other("the watching thread failed")))
        })
    }
}

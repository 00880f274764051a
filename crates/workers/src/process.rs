//! Runs one child with limits: time, output, and an end for the whole process group. Used for teams' commands and
//! tests. What must hold: nothing of the group outlives [`Job::run`], also when its future is dropped; no secret
//! reaches a log; a child that prints without end neither fills the disk nor blocks.

use crate::secrets::{MaskStream, Masker};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};
use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::future::Future;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncReadExt, Interest};
use tokio::net::unix::pipe;
use tokio::process::{Child, Command};
use tokio::sync::Notify;

/// From SIGTERM to SIGKILL for a group that is ended early.
pub const STOP_GRACE: Duration = Duration::from_secs(2);
/// How long a killed leader may take to be gone; it takes longer only when the kernel holds it (a hung disk).
const KILL_WAIT: Duration = Duration::from_secs(10);
/// How long what is still in the pipes is read after the group has ended.
const DRAIN_WAIT: Duration = Duration::from_millis(500);
/// A log keeps its first bytes up to this, then only its end.
pub const LOG_HEAD_MAX_BYTES: usize = 1024 * 1024;
/// The end of the output that is kept whatever came before; a log file has at most the head and this.
pub const LOG_TAIL_MAX_BYTES: usize = 32 * 1024;
/// A child that prints more than this is ended.
pub const OUTPUT_MAX_BYTES: u64 = 256 * 1024 * 1024;
/// The niceness of a child that shall not take the CPU from what serves.
const NICE: i32 = 10;
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Why a child could not be run at all.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// There is no program to run.
    #[error("the command is empty")]
    Empty,
    /// The program cannot be started.
    #[error("cannot start '{program}'")]
    Start {
        /// As it was resolved.
        program: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The system refused to watch or end a child that runs.
    #[error("cannot follow process {pid}")]
    Follow {
        /// Of the group's leader.
        pid: i32,
        /// What the system says.
        source: std::io::Error,
    },
}

/// How a child ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// By itself.
    Exited(ExitStatus),
    /// Its time limit was over; its group was killed.
    TimedOut,
    /// The caller wanted no more of it; its group was killed.
    Cancelled,
    /// It printed more than [`OUTPUT_MAX_BYTES`]; its group was killed.
    Flooded,
}

/// What is left of a child.
#[derive(Debug)]
pub struct Finished {
    /// How it ended.
    pub ending: Ending,
    /// Its stdout, unmasked, when it was to be captured; at most the limit that was given and one byte.
    pub captured: Vec<u8>,
    /// The end of its output, masked, at most [`LOG_TAIL_MAX_BYTES`].
    pub tail: String,
}

impl Finished {
    /// The last `n` lines of the output that are not blank, oldest first.
    #[must_use]
    pub fn last_lines(&self, n: usize) -> Vec<String> {
        let mut lines: Vec<String> =
            self.tail.lines().rev().filter(|l| !l.trim().is_empty()).take(n).map(str::to_owned).collect();
        lines.reverse();
        lines
    }
}

/// A child to be run. Its environment is `env`, PATH and HOME, and nothing else; its stdin is empty.
#[derive(Debug)]
pub struct Job {
    /// The program and its arguments. A program with a '/' in it is relative to `dir`, others are looked up in PATH.
    pub command: Vec<String>,
    /// Where it runs.
    pub dir: PathBuf,
    /// Its environment.
    pub env: BTreeMap<String, String>,
    /// After this its group is ended.
    pub time_limit: Duration,
    /// Whether it runs with a lower priority.
    pub niced: bool,
    /// A file that the child and what it starts keep open as long as they live, for a lock on it.
    pub inherits: Option<OwnedFd>,
    /// Where the output goes, replaced when it exists. When it cannot be written the child runs on without.
    pub log: Option<PathBuf>,
    /// Keep stdout apart, up to so many bytes, instead of in the log.
    pub capture_max_bytes: Option<usize>,
    /// What must not be seen in the log.
    pub mask: Masker,
}

/// A program that was unpacked a moment ago can be busy: a child that another thread forks meanwhile holds all open files
/// until its own exec, the one that the program was written through included. That passes within milliseconds.
async fn patiently(command: &mut Command) -> std::io::Result<Child> {
    const TRIES_MAX: u32 = 100;
    const PAUSE: Duration = Duration::from_millis(5);
    for _ in 1..TRIES_MAX {
        match command.spawn() {
            Err(error) if error.kind() == std::io::ErrorKind::ExecutableFileBusy => {
                tokio::time::sleep(PAUSE).await
            }
            other => return other,
        }
    }
    command.spawn()
}

impl Job {
    /// Runs it until it exits, its time is over, it prints too much or `cancel` is ready. Returns when its whole group
    /// has been ended.
    ///
    /// # Errors
    /// When it could not be started, or not be followed (then it was killed).
    pub async fn run(self, cancel: impl Future<Output = ()>) -> Result<Finished, ProcessError> {
        let program = resolve(&self.command, &self.dir)?;
        let log = self.log.as_deref().and_then(create_log);
        let start = |source| ProcessError::Start { program: program.clone(), source };
        let output = Output::new(log, &self.mask, self.capture_max_bytes.unwrap_or(0));
        let (reader, writer) = std::io::pipe().map_err(start)?;
        let reader = pipe::Receiver::from_owned_fd(OwnedFd::from(reader)).map_err(start)?;
        let mut command = Command::new(&program);
        command.args(&self.command[1..]).current_dir(&self.dir).env_clear();
        command.env("PATH", std::env::var_os("PATH").unwrap_or_else(|| DEFAULT_PATH.into()));
        command.env("HOME", std::env::var_os("HOME").unwrap_or_else(|| "/".into()));
        command.envs(&self.env).stdin(Stdio::null()).process_group(0);
        match self.capture_max_bytes {
            Some(_) => command.stdout(Stdio::piped()),
            None => command.stdout(writer.try_clone().map_err(start)?),
        };
        command.stderr(writer);
        before_exec(&mut command, self.inherits, self.niced);
        let mut child = patiently(&mut command).await.map_err(start)?;
        // The command holds the pipe's writing end and the lock, which are the child's alone from here on.
        drop(command);

        let pid = child.id().and_then(|id| Pid::from_raw(id.cast_signed())).ok_or(ProcessError::Empty)?;
        let group = Group(Some(pid));
        let follow = |source| ProcessError::Follow { pid: pid.as_raw_nonzero().get(), source };
        let exited = watch_exit(pid).map_err(follow)?;
        let mut readers = tokio::task::JoinSet::new();
        readers.spawn(pump(reader, Arc::clone(&output), false));
        if let Some(stdout) = child.stdout.take() {
            readers.spawn(pump(stdout, Arc::clone(&output), true));
        }

        let early = tokio::select! {
            biased;
            gone = exited.readable() => gone.map(|_| None).map_err(follow)?,
            () = cancel => Some(Ending::Cancelled),
            () = output.flooded.notified() => Some(Ending::Flooded),
            () = tokio::time::sleep(self.time_limit) => Some(Ending::TimedOut),
        };
        if early.is_some() {
            let _ = kill_process_group(pid, Signal::TERM);
            let _ = tokio::time::timeout(STOP_GRACE, exited.readable()).await;
        }
        // The leader is not yet waited for, so its number still means this group and no other.
        let _ = kill_process_group(pid, Signal::KILL);
        let status = tokio::time::timeout(KILL_WAIT, child.wait())
            .await
            .unwrap_or_else(|_| Err(std::io::Error::other("it does not end after SIGKILL")))
            .map_err(follow)?;
        group.disarm();
        let _ =
            tokio::time::timeout(DRAIN_WAIT, async { while readers.join_next().await.is_some() {} }).await;
        readers.shutdown().await;
        let (captured, tail) = output.finish();
        Ok(Finished { ending: early.unwrap_or(Ending::Exited(status)), captured, tail })
    }
}

fn resolve(command: &[String], dir: &Path) -> Result<PathBuf, ProcessError> {
    match command.first().map(String::as_str) {
        None | Some("") => Err(ProcessError::Empty),
        Some(program) if program.contains('/') => Ok(dir.join(program)),
        Some(program) => Ok(PathBuf::from(program)),
    }
}

/// Without a log the command runs all the same: a full disk must not hold a rollback.
fn create_log(path: &Path) -> Option<File> {
    let created = File::create(path);
    created
        .inspect_err(|error| tracing::warn!(path = %path.display(), %error, "cannot make a command's log"))
        .ok()
}

/// Becomes readable when the process has exited; it is not waited for by that.
#[expect(unsafe_code, reason = "tokio wants a promise that the descriptor stays the same")]
fn watch_exit(pid: Pid) -> std::io::Result<AsyncFd<OwnedFd>> {
    let pidfd = pidfd_open(pid, PidfdFlags::NONBLOCK)?;
    // SAFETY: an OwnedFd is valid, and nothing replaces it while the AsyncFd owns it.
    Ok(unsafe { AsyncFd::register_with_interest(pidfd, Interest::READABLE)? })
}

#[expect(
    unsafe_code,
    reason = "only between fork and exec can one child alone be given a file or a niceness"
)]
fn before_exec(command: &mut Command, inherits: Option<OwnedFd>, niced: bool) {
    if inherits.is_none() && !niced {
        return;
    }
    // SAFETY: the closure only makes system calls on a descriptor that it owns; it allocates nothing, takes no lock.
    unsafe {
        command.pre_exec(move || {
            if let Some(file) = &inherits {
                rustix::io::fcntl_setfd(file, rustix::io::FdFlags::empty())?;
            }
            if niced {
                rustix::process::nice(NICE)?;
            }
            Ok(())
        });
    }
}

/// Kills the group unless its leader was waited for: the future of a run may be dropped at any await.
struct Group(Option<Pid>);

impl Group {
    fn disarm(mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(pid) = self.0 {
            let _ = kill_process_group(pid, Signal::KILL);
        }
    }
}

struct Output {
    kept: Mutex<Kept>,
    capture_max_bytes: usize,
    flooded: Notify,
}

struct Kept {
    log: Option<File>,
    mask: MaskStream,
    head: usize,
    /// Bytes that are neither in the head nor in the tail.
    skipped: u64,
    tail: VecDeque<u8>,
    total: u64,
    captured: Vec<u8>,
}

impl Output {
    fn new(log: Option<File>, mask: &Masker, capture_max_bytes: usize) -> Arc<Output> {
        let kept = Kept {
            log,
            mask: mask.stream(),
            head: 0,
            skipped: 0,
            tail: VecDeque::new(),
            total: 0,
            captured: Vec::new(),
        };
        Arc::new(Output { kept: Mutex::new(kept), capture_max_bytes, flooded: Notify::new() })
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, bytes: &[u8], capture: bool) {
        let mut kept = self.kept();
        kept.total = kept.total.saturating_add(bytes.len() as u64);
        if kept.total > OUTPUT_MAX_BYTES {
            self.flooded.notify_one();
        }
        if capture {
            // One byte more than the limit is kept, so that the reader can tell that it was passed.
            let room = (self.capture_max_bytes + 1).saturating_sub(kept.captured.len());
            kept.captured.extend_from_slice(&bytes[..bytes.len().min(room)]);
        } else {
            let mut masked = Vec::with_capacity(bytes.len());
            kept.mask.feed(bytes, &mut masked);
            kept.write(&masked);
        }
    }

    fn finish(&self) -> (Vec<u8>, String) {
        let mut kept = self.kept();
        let mut masked = Vec::new();
        kept.mask.finish(&mut masked);
        kept.write(&masked);
        let tail: Vec<u8> = std::mem::take(&mut kept.tail).into();
        if kept.head >= LOG_HEAD_MAX_BYTES {
            // The tail ring also holds what the head has; the file gets only what came after the head.
            let beyond = usize::try_from(kept.skipped).unwrap_or(usize::MAX).min(tail.len());
            let dropped = kept.skipped - beyond as u64;
            if dropped > 0 {
                kept.append(format!("\n[{dropped} bytes left out]\n").as_bytes());
            }
            kept.append(&tail[tail.len() - beyond..]);
        }
        (std::mem::take(&mut kept.captured), String::from_utf8_lossy(&tail).into_owned())
    }
}

impl Kept {
    fn write(&mut self, bytes: &[u8]) {
        let head = bytes.len().min(LOG_HEAD_MAX_BYTES - self.head);
        self.append(&bytes[..head]);
        self.head += head;
        self.skipped += (bytes.len() - head) as u64;
        let newest = &bytes[bytes.len().saturating_sub(LOG_TAIL_MAX_BYTES)..];
        let over = (self.tail.len() + newest.len()).saturating_sub(LOG_TAIL_MAX_BYTES);
        self.tail.drain(..over);
        self.tail.extend(newest);
    }

    fn append(&mut self, bytes: &[u8]) {
        if let Some(Err(error)) = self.log.as_mut().map(|log| log.write_all(bytes)) {
            tracing::warn!(%error, "a command's log ends early");
            self.log = None;
        }
    }
}

async fn pump(mut from: impl AsyncRead + Unpin, to: Arc<Output>, capture: bool) {
    let mut buffer = vec![0; 32 * 1024];
    while let Ok(n) = from.read(&mut buffer).await {
        if n == 0 {
            break;
        }
        to.add(&buffer[..n], capture);
    }
}

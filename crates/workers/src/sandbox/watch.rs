//! One run from start to end: one thread, one loop over the process's output, its end, and its limits.

use super::cgroup::Groups;
use super::{DISK_FREE_BYTES_MIN, Limits, Log, Outcome, Room, Sandbox, SandboxError, bwrap};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How often limits are looked at.
const TICK: Duration = Duration::from_millis(100);
/// How often the process tree is walked where cgroups keep its limits, and only CPU time is of interest.
const TREE_PERIOD: Duration = Duration::from_millis(500);
/// How often the disk is looked at, at least; a walk that takes long is repeated after twenty times its duration.
const DISK_PERIOD_MIN: Duration = Duration::from_secs(1);
/// How long a killed sandbox may take to be gone.
const KILL_TIME_MAX: Duration = Duration::from_secs(20);
/// The most files and folders in the writable folders.
const DISK_ENTRIES_MAX: usize = 2_000_000;
/// The largest report by bubblewrap about its child, in bytes.
const STATUS_BYTES_MAX: usize = 16 * 1024;
/// Clock ticks in a second, in `/proc/<pid>/stat`; the same on all of Linux's current architectures.
const TICKS_PER_SECOND: u64 = 100;
const CHUNK_BYTES: usize = 64 * 1024;

/// Run by the host's shell, with none of the room's environment: joins the groups, limits itself, and becomes
/// bubblewrap, which reads its options from descriptor 3 and reports on 4.
const ENTRY: &str = r#"
exec 3<&0 4>&2 </dev/null 2>&1
ulimit -c 0 && ulimit -S -t "$1" && ulimit -H -t $(($1 + 5)) && ulimit -f "$2" || exit 125
shift 2
while [ "$1" != -- ]; do echo 0 > "$1" || exit 125; shift; done
shift
exec nice -n 19 ionice -c 3 "$@"
"#;

pub(super) fn run(
    sandbox: &Sandbox,
    room: &Room,
    run: &[String],
    log: &Log,
    cancelled: OwnedFd,
) -> Result<Outcome, SandboxError> {
    let groups = if sandbox.cgroups { Groups::create(&room.limits) } else { Groups::default() };
    let options = bwrap::options(room).map_err(fail("prepare the environment"))?;
    let mut child = start(sandbox, room, run, &groups)?;
    let fed = child.stdin.take().map_or(Ok(()), |mut stdin| stdin.write_all(&options));
    let mut watch = Watch::new(child, room, &groups, log, cancelled)?;
    // A bubblewrap that has ended already says why in its output.
    fed.or_else(|e| if e.kind() == std::io::ErrorKind::BrokenPipe { Ok(()) } else { Err(e) })
        .map_err(fail("hand over the options"))?;
    let outcome = watch.until_end();
    log.end_of_run();
    outcome
}

fn fail(operation: &'static str) -> impl Fn(std::io::Error) -> SandboxError {
    move |source| SandboxError::Run { operation, source }
}

fn start(sandbox: &Sandbox, room: &Room, run: &[String], groups: &Groups) -> Result<Child, SandboxError> {
    let blocks = (room.limits.disk_mib << 20) / 512;
    let mut command = Command::new("/bin/sh");
    let entry = bwrap::etc_descriptors() + ENTRY;
    command.args(["-c", &entry, "sh", &room.limits.cpu_seconds.max(1).to_string(), &blocks.to_string()]);
    command.args(groups.doors()).arg("--").arg(&sandbox.program);
    command.args(["--args", "3", "--json-status-fd", "4", "--"]).args(run);
    command.env_clear().env("LC_ALL", "C").current_dir("/").process_group(0);
    command.env("PATH", std::env::var_os("PATH").unwrap_or_else(|| "/usr/bin:/bin".into()));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().map_err(fail("start a shell"))
}

/// Something that is read until its end without ever blocking.
struct Stream {
    file: Option<File>,
}

impl Stream {
    fn new(fd: impl Into<OwnedFd>) -> Stream {
        Stream { file: Some(File::from(fd.into())) }
    }

    /// One read; empty means the end.
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let Some(file) = &mut self.file else { return Ok(0) };
        let n = file.read(buffer)?;
        if n == 0 {
            self.file = None;
        }
        Ok(n)
    }
}

struct Watch<'a> {
    child: Child,
    /// The process that was started: bubblewrap itself.
    outer: OwnedFd,
    /// The first process of the sandbox: it ends last, after the kernel has ended all others.
    inner: Option<OwnedFd>,
    /// Whether bubblewrap has named it: it is looked up once, as later its number may be somebody else's.
    inner_known: bool,
    output: Stream,
    status: Stream,
    status_text: Vec<u8>,
    cancelled: OwnedFd,
    groups: &'a Groups,
    limits: Limits,
    writable: Vec<PathBuf>,
    log: &'a Log,
    printed: u64,
    started: Instant,
    /// Why and when it was killed.
    killed: Option<(Instant, Option<Outcome>)>,
    tree_due: Instant,
    disk_due: Instant,
    disk_before: u64,
}

impl<'a> Watch<'a> {
    fn new(
        mut child: Child,
        room: &Room,
        groups: &'a Groups,
        log: &'a Log,
        cancelled: OwnedFd,
    ) -> Result<Watch<'a>, SandboxError> {
        let open = |child: &Child| {
            let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
            let pid = pid.ok_or_else(|| std::io::Error::other("it has no process id"))?;
            Ok(pidfd_open(pid, PidfdFlags::empty())?)
        };
        let (Some(output), Some(status)) = (child.stdout.take(), child.stderr.take()) else {
            return Err(fail("read")(std::io::Error::other("a pipe is missing")));
        };
        let outer = open(&child).map_err(|e| {
            let _ = child.kill();
            let _ = child.wait();
            fail("watch over the process")(e)
        })?;
        let writable: Vec<PathBuf> =
            room.binds.iter().filter(|b| b.writable).map(|b| b.from.clone()).collect();
        let disk_before = disk_use(&writable).unwrap_or(0);
        let started = Instant::now();
        Ok(Watch {
            child,
            outer,
            inner: None,
            inner_known: false,
            output: Stream::new(output),
            status: Stream::new(status),
            status_text: Vec::new(),
            cancelled,
            groups,
            limits: room.limits,
            writable,
            log,
            printed: 0,
            started,
            killed: None,
            tree_due: started,
            disk_due: started + DISK_PERIOD_MIN,
            disk_before,
        })
    }

    fn until_end(&mut self) -> Result<Outcome, SandboxError> {
        let mut buffer = vec![0; CHUNK_BYTES];
        let mut outer_ended = false;
        let mut cancelled = false;
        let mut tick_due = Instant::now() + TICK;
        loop {
            let wait = tick_due.saturating_duration_since(Instant::now());
            let ready = self.wait(wait, outer_ended, cancelled).map_err(fail("wait"))?;
            if ready.status {
                self.read_status(&mut buffer)?;
            }
            if ready.output {
                self.read_output(&mut buffer)?;
            }
            if ready.inner {
                self.inner = None;
            }
            outer_ended |= ready.outer;
            if ready.cancelled {
                cancelled = true;
                self.kill(None);
            }
            let all_read = self.output.file.is_none() && self.status.file.is_none();
            if outer_ended && self.inner.is_none() && all_read {
                return self.outcome();
            }
            if Instant::now() >= tick_due {
                tick_due = Instant::now() + TICK;
                self.look_at_limits(outer_ended)?;
            }
        }
    }

    fn wait(&self, time: Duration, outer_ended: bool, cancelled: bool) -> std::io::Result<Ready> {
        let mut fds = Vec::with_capacity(5);
        let mut slots = [None; 5];
        let sources = [
            self.output.file.as_ref().map(AsFd::as_fd),
            self.status.file.as_ref().map(AsFd::as_fd),
            (!outer_ended).then(|| self.outer.as_fd()),
            self.inner.as_ref().map(AsFd::as_fd),
            (!cancelled).then(|| self.cancelled.as_fd()),
        ];
        for (slot, source) in slots.iter_mut().zip(&sources) {
            if let Some(fd) = source {
                *slot = Some(fds.len());
                fds.push(PollFd::new(fd, PollFlags::IN));
            }
        }
        let time = rustix::event::Timespec::try_from(time).map_err(std::io::Error::other)?;
        match poll(&mut fds, Some(&time)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let ready = |slot: Option<usize>| slot.is_some_and(|i| !fds[i].revents().is_empty());
        let [output, status, outer, inner, cancelled] = slots.map(ready);
        Ok(Ready { output, status, outer, inner, cancelled })
    }

    fn read_status(&mut self, buffer: &mut [u8]) -> Result<(), SandboxError> {
        let n = self.status.read(buffer).map_err(fail("read"))?;
        let room = STATUS_BYTES_MAX.saturating_sub(self.status_text.len());
        self.status_text.extend_from_slice(&buffer[..n.min(room)]);
        if !self.inner_known
            && let Some(pid) = self.reported("child-pid").and_then(|n| Pid::from_raw(i32::try_from(n).ok()?))
        {
            self.inner_known = true;
            // One that cannot be opened is gone already.
            self.inner = pidfd_open(pid, PidfdFlags::empty()).ok();
        }
        if self.killed.is_some() {
            self.send_kill();
        }
        Ok(())
    }

    /// A number from bubblewrap's reports: one JSON object after another.
    fn reported(&self, key: &str) -> Option<i64> {
        serde_json::Deserializer::from_slice(&self.status_text)
            .into_iter::<serde_json::Value>()
            .map_while(Result::ok)
            .find_map(|report| report.get(key)?.as_i64())
    }

    fn read_output(&mut self, buffer: &mut [u8]) -> Result<(), SandboxError> {
        let n = self.output.read(buffer).map_err(fail("read"))?;
        let room = self.limits.output_bytes.saturating_sub(self.printed);
        let kept = n.min(usize::try_from(room).unwrap_or(n));
        self.log.write(&buffer[..kept]);
        self.printed += n as u64;
        if kept < n {
            self.kill(Some(Outcome::OutputLimit));
        }
        Ok(())
    }

    fn look_at_limits(&mut self, outer_ended: bool) -> Result<(), SandboxError> {
        let now = Instant::now();
        if let Some((since, _)) = self.killed {
            self.send_kill();
            if now.duration_since(since) > KILL_TIME_MAX {
                return Err(SandboxError::Stuck { limit: KILL_TIME_MAX });
            }
            return Ok(());
        }
        if outer_ended {
            // The command has ended; what it has left behind ends with it.
            self.kill(None);
            return Ok(());
        }
        if now.duration_since(self.started) > self.limits.time {
            self.kill(Some(Outcome::TimeLimit));
        } else if let Some(breach) = self.groups.breach() {
            self.kill(Some(breach));
        } else if now >= self.tree_due {
            let complete = self.groups.complete();
            self.tree_due = now + if complete { TREE_PERIOD } else { Duration::ZERO };
            if let Some(breach) = tree_use(self.child.id(), !complete).breach(&self.limits) {
                self.kill(Some(breach));
            }
        }
        if now >= self.disk_due && self.killed.is_none() {
            let used = disk_use(&self.writable);
            self.disk_due = Instant::now() + DISK_PERIOD_MIN.max(now.elapsed() * 20);
            match used {
                Err(why) => self.kill(Some(why)),
                Ok(used) if used.saturating_sub(self.disk_before) >> 20 > self.limits.disk_mib => {
                    self.kill(Some(Outcome::DiskLimit));
                }
                Ok(_) => {}
            }
        }
        Ok(())
    }

    /// Ends everything; the first reason counts.
    fn kill(&mut self, why: Option<Outcome>) {
        if self.killed.is_none() {
            self.killed = Some((Instant::now(), why));
        }
        self.send_kill();
    }

    fn send_kill(&mut self) {
        // With its first process the kernel ends the whole sandbox, and bubblewrap sees that and ends. Before there
        // is one, bubblewrap is all there is. That they may be gone already is fine.
        let _ = match &self.inner {
            Some(inner) => pidfd_send_signal(inner, Signal::KILL),
            None => pidfd_send_signal(&self.outer, Signal::KILL),
        };
    }

    fn outcome(&mut self) -> Result<Outcome, SandboxError> {
        let status = self.child.wait().map_err(fail("collect the process"))?;
        if let Some((_, Some(why))) = self.killed.take() {
            return Ok(why);
        }
        if let Some(breach) = self.groups.breach() {
            return Ok(breach);
        }
        Ok(match self.reported("exit-code").and_then(|code| i32::try_from(code).ok()) {
            // RLIMIT_CPU's and RLIMIT_FSIZE's signals.
            Some(code) if code == 128 + Signal::XCPU.as_raw() => Outcome::CpuLimit,
            Some(code) if code == 128 + Signal::XFSZ.as_raw() => Outcome::DiskLimit,
            Some(code) if (129..=128 + 64).contains(&code) => Outcome::Signaled(code - 128),
            Some(code) => Outcome::Exited(code),
            None if self.printed == 0 => Outcome::NotStarted(format!("the sandbox ended with {status}")),
            None => Outcome::NotStarted(self.log.tail(1)),
        })
    }
}

impl Drop for Watch<'_> {
    /// Whatever way the watch ends: nothing goes on, and no zombie is left.
    fn drop(&mut self) {
        self.send_kill();
        let _ = pidfd_send_signal(&self.outer, Signal::KILL);
        let _ = self.child.wait();
    }
}

struct Ready {
    output: bool,
    status: bool,
    outer: bool,
    inner: bool,
    cancelled: bool,
}

/// What a process and its descendants use.
#[derive(Default)]
struct TreeUse {
    threads: u64,
    cpu_ticks: u64,
    memory_kib: u64,
}

impl TreeUse {
    fn breach(&self, limits: &Limits) -> Option<Outcome> {
        if self.cpu_ticks >= limits.cpu_seconds * TICKS_PER_SECOND {
            Some(Outcome::CpuLimit)
        } else if self.threads > limits.processes {
            Some(Outcome::ProcessLimit)
        } else if self.memory_kib >> 10 > limits.memory_mib {
            Some(Outcome::MemoryLimit)
        } else {
            None
        }
    }
}

/// Walks `/proc`. Orphans stay in the tree, as the sandbox's first process adopts them. Without `all` only CPU time
/// is summed up: cgroups keep the rest.
fn tree_use(root: u32, all: bool) -> TreeUse {
    let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    let mut stats = BTreeMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<u32>().ok()) else { continue };
        if let Some(stat) = fs::read_to_string(entry.path().join("stat")).ok().and_then(|t| Stat::parse(&t)) {
            children.entry(stat.parent).or_default().push(pid);
            stats.insert(pid, stat);
        }
    }
    let (mut used, mut seen, mut open) = (TreeUse::default(), BTreeSet::new(), vec![root]);
    while let Some(pid) = open.pop() {
        if !seen.insert(pid) {
            continue;
        }
        open.extend(children.get(&pid).into_iter().flatten());
        if let Some(stat) = stats.get(&pid) {
            used.cpu_ticks += stat.cpu_ticks;
            if all {
                used.threads += stat.threads;
                used.memory_kib += private_kib(pid);
            }
        }
    }
    used
}

struct Stat {
    parent: u32,
    cpu_ticks: u64,
    threads: u64,
}

impl Stat {
    fn parse(text: &str) -> Option<Stat> {
        // The command's name, in brackets, may hold anything.
        let fields: Vec<&str> = text.rsplit_once(") ")?.1.split(' ').collect();
        let number = |i: usize| fields.get(i)?.parse::<u64>().ok();
        Some(Stat {
            parent: u32::try_from(number(1)?).ok()?,
            // Its own, and that of its children that have ended.
            cpu_ticks: number(11)? + number(12)? + number(13)? + number(14)?,
            threads: number(17)?,
        })
    }
}

fn private_kib(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = |key| text.lines().find_map(|l| l.strip_prefix(key)?.trim().strip_suffix(" kB")?.parse().ok());
    line("RssAnon:").unwrap_or(0) + line("RssShmem:").unwrap_or(0)
}

/// The bytes that these folders take on the disk; an outcome when there are too many files, or the disk is nearly full.
fn disk_use(folders: &[PathBuf]) -> Result<u64, Outcome> {
    use std::os::unix::fs::MetadataExt;
    let (mut bytes, mut entries) = (0, 0);
    let mut open: Vec<PathBuf> = folders.to_vec();
    let nearly_full = |path: &Path| {
        rustix::fs::statvfs(path).is_ok_and(|s| s.f_bavail.saturating_mul(s.f_frsize) < DISK_FREE_BYTES_MIN)
    };
    if folders.iter().any(|f| nearly_full(f)) {
        return Err(Outcome::DiskFull);
    }
    while let Some(folder) = open.pop() {
        // What goes away meanwhile uses nothing.
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            entries += 1;
            if entries > DISK_ENTRIES_MAX {
                return Err(Outcome::DiskLimit);
            }
            let Ok(metadata) = entry.metadata() else { continue };
            bytes += metadata.blocks() * 512;
            if metadata.is_dir() {
                open.push(entry.path());
            }
        }
    }
    Ok(bytes)
}

//! Processes of boxes: started in a session of their own, without any pipe to the supervisor, so that they live on when
//! it dies; named by pid and start time, so that an adopted one is surely the same; watched by pidfd.

use crate::procfs::{self, Stat};
use rustix::process::{
    Pid, PidfdFlags, Resource, Rlimit, Signal, WaitId, WaitIdOptions, getrlimit, kill_process_group,
    pidfd_open, setrlimit, setsid, waitid,
};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tidegate_core::run_spec::BoxLimits;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// The lowest port that is chosen for boxes and endpoints.
const PORT_MIN: u16 = 10_240;
/// The least number of ports between that and the kernel's range; with fewer the kernel chooses.
const PORT_RANGE_MIN: u16 = 1_000;
/// The environment variable that names the fleet; with the next three it leads back from a process to its box.
pub(crate) const FLEET_VARIABLE: &str = "TIDEGATE_FLEET";
/// The box's target.
pub(crate) const TARGET_VARIABLE: &str = "TIDEGATE_TARGET";
/// The box's id within the target.
pub(crate) const BOX_VARIABLE: &str = "TIDEGATE_BOX";
/// How often the box was started.
pub(crate) const INCARNATION_VARIABLE: &str = "TIDEGATE_INCARNATION";

/// Names a process for ever, also after its pid was given to another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ProcessName {
    pub(crate) pid: u32,
    /// In clock ticks after boot.
    pub(crate) start_time: u64,
}

/// What to start.
#[derive(Debug)]
pub(crate) struct Launch {
    pub(crate) program: PathBuf,
    pub(crate) arguments: Vec<String>,
    /// The whole environment.
    pub(crate) environment: BTreeMap<String, String>,
    pub(crate) folder: PathBuf,
    /// Open for appending; standard output and error go there.
    pub(crate) log: File,
    pub(crate) limits: BoxLimits,
    /// The soft limit of open files when `limits` names none.
    pub(crate) open_files: Option<u64>,
}

/// A box's process: the leader of its own session.
#[derive(Debug)]
pub(crate) struct Process {
    name: ProcessName,
    pid: Pid,
    handle: AsyncFd<OwnedFd>,
}

/// A program that was unpacked a moment ago can be busy: a child that another thread forks meanwhile holds all open files
/// until its own exec, the one that the program was written through included. That passes within milliseconds.
fn patiently<T>(mut start: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    const TRIES_MAX: u32 = 100;
    const PAUSE: Duration = Duration::from_millis(5);
    for _ in 1..TRIES_MAX {
        match start() {
            Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy => std::thread::sleep(PAUSE),
            other => return other,
        }
    }
    start()
}

impl Process {
    /// Starts it. Must be called within the runtime; blocks until the program runs or could not be found.
    pub(crate) fn spawn(launch: Launch) -> io::Result<Process> {
        let mut command = Command::new(&launch.program);
        command
            .args(&launch.arguments)
            .env_clear()
            .envs(&launch.environment)
            .current_dir(&launch.folder)
            .stdin(Stdio::null())
            .stdout(launch.log.try_clone()?)
            .stderr(launch.log);
        let (limits, open_files) = (launch.limits, launch.open_files);
        #[expect(unsafe_code, reason = "std has no other way to make a session and set limits before exec")]
        // SAFETY: between fork and exec only system calls are made; nothing is allocated or locked.
        unsafe {
            command.pre_exec(move || {
                setsid()?;
                let hard = |resource| getrlimit(resource).maximum;
                if limits.memory_mib > 0 {
                    let bytes = Some(limits.memory_mib.saturating_mul(1 << 20));
                    setrlimit(Resource::As, Rlimit { current: bytes, maximum: bytes })?;
                }
                if limits.open_files > 0 {
                    let n = Some(limits.open_files);
                    setrlimit(Resource::Nofile, Rlimit { current: n, maximum: n })?;
                } else if open_files.is_some() {
                    let maximum = hard(Resource::Nofile);
                    setrlimit(Resource::Nofile, Rlimit { current: open_files, maximum })?;
                }
                Ok(())
            });
        }
        let child = patiently(|| command.spawn())?;
        // The child is reaped through its pidfd, in `exited`; dropping std's handle neither kills nor reaps it.
        let (pid, start_time) = (child.id(), procfs::start_time(child.id()).unwrap_or(0));
        Process::open(ProcessName { pid, start_time })
    }

    /// The process of that name, if it still runs. Must be called within the runtime.
    pub(crate) fn adopt(name: ProcessName) -> Option<Process> {
        let process = Process::open(name).ok()?;
        // The pidfd was opened first: if the name is right now, the pidfd is of that process.
        (Stat::read(name.pid)?.start_time == name.start_time).then_some(process)
    }

    fn open(name: ProcessName) -> io::Result<Process> {
        let pid = i32::try_from(name.pid)
            .ok()
            .and_then(Pid::from_raw)
            .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        let handle = pidfd_open(pid, PidfdFlags::empty())?;
        #[expect(unsafe_code, reason = "tokio cannot tell by itself that a handle type is well-behaved")]
        // SAFETY: an OwnedFd is one open handle from its creation to its drop, and the AsyncFd owns it.
        let handle = unsafe { AsyncFd::register_with_interest(handle, Interest::READABLE) }?;
        Ok(Process { name, pid, handle })
    }

    pub(crate) fn name(&self) -> ProcessName {
        self.name
    }

    /// Waits for its end, ends what is left of its session's group, and says how it ended.
    pub(crate) async fn exited(&self) -> String {
        if let Err(e) = self.handle.readable().await {
            return format!("it could not be watched: {e}");
        }
        self.signal(Signal::KILL);
        let status = waitid(WaitId::PidFd(self.handle.get_ref().as_fd()), WaitIdOptions::EXITED);
        match status {
            Ok(Some(status)) => match (status.exit_status(), status.terminating_signal()) {
                (Some(code), _) => format!("it exited with status {code}"),
                (None, Some(signal)) => format!("it was ended by signal {signal}"),
                (None, None) => "it exited".to_owned(),
            },
            // An adopted process is no child of ours, so how it ended is not known.
            _ => "it exited".to_owned(),
        }
    }

    /// Sends a signal to its process group.
    pub(crate) fn signal(&self, signal: Signal) {
        let _ = kill_process_group(self.pid, signal);
    }
}

/// A session leader that was started by this fleet.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    pub(crate) name: ProcessName,
    /// Target and id of the box.
    pub(crate) box_name: String,
    pub(crate) incarnation: u32,
}

/// All box processes of this fleet that run: also those that were started just before a crash and never recorded.
pub(crate) fn find_boxes(fleet: &str) -> Vec<Found> {
    let mut found = Vec::new();
    for stat in procfs::processes().into_iter().filter(|stat| stat.pid == stat.session) {
        const NAMES: [&str; 4] = [FLEET_VARIABLE, TARGET_VARIABLE, BOX_VARIABLE, INCARNATION_VARIABLE];
        let Some(vars) = procfs::environ(stat.pid, &NAMES) else { continue };
        if vars.get(FLEET_VARIABLE).map(String::as_str) != Some(fleet) {
            continue;
        }
        let incarnation = vars.get(INCARNATION_VARIABLE).and_then(|n| n.parse().ok());
        if let (Some(target), Some(id), Some(incarnation)) =
            (vars.get(TARGET_VARIABLE), vars.get(BOX_VARIABLE), incarnation)
        {
            let name = ProcessName { pid: stat.pid, start_time: stat.start_time };
            found.push(Found { name, box_name: format!("{target}/{id}"), incarnation });
        }
    }
    found
}

/// Ends a process group that no record belongs to.
pub(crate) fn end_stray(name: ProcessName) {
    if Stat::read(name.pid).is_some_and(|stat| stat.start_time == name.start_time)
        && let Some(pid) = i32::try_from(name.pid).ok().and_then(Pid::from_raw)
    {
        let _ = kill_process_group(pid, Signal::KILL);
    }
}

/// Chooses ports below the range that the kernel gives to outgoing connections, so that none of those can take a port
/// between its choice and its use, or while the fleet is down.
#[derive(Debug)]
pub(crate) struct Ports {
    state: Mutex<PortState>,
}

#[derive(Debug)]
struct PortState {
    next: u16,
    end: u16,
    taken: BTreeSet<u16>,
}

impl Ports {
    pub(crate) fn new() -> Ports {
        let end = procfs::first_ephemeral_port();
        let mut random = [0_u8; 2];
        // Without randomness two fleets merely try the same ports and find them taken.
        let _ = getrandom::fill(&mut random);
        let span = end.saturating_sub(PORT_MIN).max(1);
        let next = PORT_MIN.saturating_add(u16::from_le_bytes(random) % span);
        Ports { state: Mutex::new(PortState { next, end, taken: BTreeSet::new() }) }
    }

    /// A port that nobody listens on; it stays taken until it is given back.
    pub(crate) fn take(&self) -> io::Result<u16> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.end < PORT_MIN.saturating_add(PORT_RANGE_MIN) {
            let port = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
            state.taken.insert(port);
            return Ok(port);
        }
        for _ in PORT_MIN..state.end {
            let port = state.next;
            state.next = if port + 1 >= state.end { PORT_MIN } else { port + 1 };
            if !state.taken.contains(&port) && is_free(port) {
                state.taken.insert(port);
                return Ok(port);
            }
        }
        Err(io::Error::new(io::ErrorKind::AddrNotAvailable, "no port is free"))
    }

    /// Notes a port that a box or an endpoint already has.
    pub(crate) fn note(&self, port: u16) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).taken.insert(port);
    }

    /// Gives a port back.
    pub(crate) fn give_back(&self, port: u16) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).taken.remove(&port);
    }
}

/// Whether the port can be bound on all addresses; nothing ever listens on it here.
fn is_free(port: u16) -> bool {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with};
    let any = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port));
    socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None)
        .and_then(|socket| bind(&socket, &any))
        .is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_in_use_is_not_chosen() {
        let ports = Ports::new();
        let first = ports.take().unwrap();
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, first)).unwrap();
        ports.give_back(first);
        assert!(!is_free(first));
        ports.state.lock().unwrap().next = first;
        assert_ne!(ports.take().unwrap(), first);
        drop(listener);
    }

    #[test]
    fn a_program_that_is_still_open_for_writing_starts_once_it_is_closed() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("true");
        std::fs::copy("/bin/true", &program).unwrap();
        let mut writer = Some(File::options().append(true).open(&program).unwrap());
        let mut tries = 0;
        let mut child = patiently(|| {
            tries += 1;
            if tries == 3 {
                writer = None;
            }
            Command::new(&program).spawn()
        })
        .unwrap();
        assert!(child.wait().unwrap().success());
        assert_eq!(tries, 3);
    }

    #[tokio::test]
    async fn the_end_of_a_process_is_seen_and_told() {
        let dir = tempfile::tempdir().unwrap();
        let launch = |script: &str| Launch {
            program: "/bin/sh".into(),
            arguments: vec!["-c".into(), script.into()],
            environment: BTreeMap::new(),
            folder: dir.path().to_owned(),
            log: File::options().create(true).append(true).open(dir.path().join("log")).unwrap(),
            limits: BoxLimits { memory_mib: 0, open_files: 77 },
            open_files: None,
        };
        let process = Process::spawn(launch("ulimit -n; exit 3")).unwrap();
        assert_eq!(process.exited().await, "it exited with status 3");
        assert_eq!(std::fs::read_to_string(dir.path().join("log")).unwrap().trim(), "77");

        let process = Process::spawn(launch("sleep 600 & wait")).unwrap();
        let session = process.name().pid;
        assert!(Process::adopt(process.name()).is_some());
        let other = ProcessName { start_time: process.name().start_time + 1, ..process.name() };
        assert!(Process::adopt(other).is_none());
        process.signal(Signal::TERM);
        assert_eq!(process.exited().await, "it was ended by signal 15");
        assert!(procfs::processes().iter().all(|stat| stat.session != session));
    }
}

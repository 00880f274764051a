//! Processes that ran before the fleet: what they are, whether the fleet can look after them, and taking them up as boxes.
//!
//! What must hold: a process is taken up only if it is surely the one that was meant, leads a session of its own (so that
//! signals reach all of it and nothing else), and listens where requests will go.

use crate::boxes::BoxRecord;
use crate::disk;
use crate::process::{FLEET_VARIABLE, Process, ProcessName};
use crate::procfs::{self, Stat};
use crate::protocol::{Code, Refusal, SetSlot};
use crate::shared::Shared;
use crate::validate;
use std::fs::{self, File};
use std::path::PathBuf;
use tidegate_core::engine::RunningProcess;
use tidegate_core::run_spec::RunSpec;

/// The longest command line that is read, in bytes.
const ARGUMENTS_MAX_BYTES: usize = 64 << 10;

/// What a process is.
#[derive(Debug)]
pub struct Running {
    /// By which it is known for ever, and where it listens.
    pub process: RunningProcess,
    /// The program's file, for people: another one may stand at that path by now.
    pub program: PathBuf,
    /// The very bytes that run.
    pub image: File,
    /// Its command line.
    pub arguments: Vec<String>,
}

/// Why a process cannot be taken up.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say what the fields are")]
pub enum NotTakenUp {
    #[error("there is no process {pid}")]
    Gone { pid: u32 },
    #[error("process {pid} cannot be looked at: {source}; run tidegate as the user that it runs as")]
    Unreadable { pid: u32, source: std::io::Error },
    #[error(
        "process {pid} does not lead a session of its own, so signals would reach others or not all of it; start it \
         under an init system, or with setsid"
    )]
    NoSession { pid: u32 },
    #[error("process {pid} is a box of a fleet already")]
    Supervised { pid: u32 },
    #[error("process {pid} listens on no TCP port")]
    Silent { pid: u32 },
    #[error("process {pid} listens on several ports ({ports}); say which takes requests, as PID:PORT")]
    SeveralPorts { pid: u32, ports: String },
    #[error("process {pid} does not listen on port {port}")]
    OtherPort { pid: u32, port: u16 },
}

/// Looks at a process; with `port` it must listen there, and without one it must listen on a single port.
///
/// # Errors
/// It cannot be taken up.
pub fn look(pid: u32, port: Option<u16>) -> Result<Running, NotTakenUp> {
    let stat = Stat::read(pid).ok_or(NotTakenUp::Gone { pid })?;
    let unreadable = |source| NotTakenUp::Unreadable { pid, source };
    // Opened before anything else is read, and compared at the end: all of it is of one process.
    let image = File::open(format!("/proc/{pid}/exe")).map_err(unreadable)?;
    let program = fs::read_link(format!("/proc/{pid}/exe")).map_err(unreadable)?;
    let mut line = fs::read(format!("/proc/{pid}/cmdline")).map_err(unreadable)?;
    line.truncate(ARGUMENTS_MAX_BYTES);
    let words = line.split(|b| *b == 0).filter(|word| !word.is_empty());
    let arguments = words.map(|word| String::from_utf8_lossy(word).into_owned()).collect();
    if procfs::environ(pid, &[FLEET_VARIABLE]).is_some_and(|found| !found.is_empty()) {
        return Err(NotTakenUp::Supervised { pid });
    }
    if stat.session != pid {
        return Err(NotTakenUp::NoSession { pid });
    }
    let listens = |port| procfs::session_listens(pid, port) != Some(false);
    let port = match port {
        Some(port) if listens(port) => port,
        Some(port) => return Err(NotTakenUp::OtherPort { pid, port }),
        None => match procfs::listening_ports(pid)[..] {
            [port] => port,
            [] => return Err(NotTakenUp::Silent { pid }),
            ref several => {
                let ports = several.iter().map(u16::to_string).collect::<Vec<_>>().join(", ");
                return Err(NotTakenUp::SeveralPorts { pid, ports });
            }
        },
    };
    let same = Stat::read(pid).is_some_and(|again| again.start_time == stat.start_time);
    if !same {
        return Err(NotTakenUp::Gone { pid });
    }
    let process = RunningProcess { pid, start_time: stat.start_time, port };
    Ok(Running { process, program, image, arguments })
}

/// By what the process is known.
pub(crate) fn name(process: &RunningProcess) -> ProcessName {
    ProcessName { pid: process.pid, start_time: process.start_time }
}

/// Refuses a command that takes up what is not there, or not as the split says.
pub(crate) fn check(set: &SetSlot) -> Result<(), Refusal> {
    let Some(processes) = &set.takes_up else { return Ok(()) };
    let bad = |message: String| Refusal::new(Code::BadCommand, message);
    let [share] = &set.desired.split[..] else {
        return Err(bad("what is taken up runs one RunSpec".to_owned()));
    };
    if share.boxes as usize != processes.len() {
        return Err(bad(format!("{} processes are no {} boxes", processes.len(), share.boxes)));
    }
    for process in processes {
        // One that has ended since is started as a box instead, and holds up no other.
        let lives = Stat::read(process.pid).is_some_and(|stat| stat.start_time == process.start_time);
        match look(process.pid, Some(process.port)) {
            Err(error) if lives && !matches!(error, NotTakenUp::Gone { .. }) => {
                return Err(bad(error.to_string()));
            }
            _ => {}
        }
    }
    Ok(())
}

/// The record of a process that becomes a box, written before anybody counts on it; `None` if it has ended since, and then a
/// box is started instead. Whoever finds the record again finds the process by its name.
pub(crate) fn take_up(
    shared: &Shared,
    set: &SetSlot,
    run_spec: &RunSpec,
    process: &RunningProcess,
    id: String,
) -> Option<(BoxRecord, Process)> {
    let running = Process::adopt(name(process));
    let Some(running) = running else {
        tracing::warn!(slot = %set.slot, pid = process.pid, "a process ended before it was taken up; its box is started");
        return None;
    };
    let record = BoxRecord {
        id,
        slot: set.slot.clone(),
        secrets: validate::secrets_of(run_spec, &set.secrets),
        run_spec: run_spec.clone(),
        incarnation: 1,
        process: Some(running.name()),
        port: process.port,
        // It served whoever handed it over: it does not start, and has nothing to prove but that it still does.
        was_healthy: true,
        leaving: false,
    };
    let folder = shared.box_folder(&record);
    if let Err(error) = disk::private_dir(&folder).and_then(|()| record.write(&folder)) {
        // The next fleet takes it up again by the command, which is on disk.
        tracing::warn!(%error, slot = %set.slot, "a process that was taken up could not be recorded");
    }
    Some((record, running))
}

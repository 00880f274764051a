//! The lock under which a target's commands run. The engine takes it and the child inherits it, so that it is held as
//! long as any process of the command lives, whatever becomes of the engine. What must hold: a command starts only
//! when nothing of the one before is alive.
//!
//! What belongs to a command is told by two marks, neither of which needs to be written down in time before a crash:
//! it holds the lock's file open, or has the lock's path in its environment (a child of a child may have closed all
//! files that it did not know).

use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, PidfdFlags, Signal, getpid, pidfd_open, pidfd_send_signal};
use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Names the lock of the command that a process belongs to.
pub(super) const LOCK_VARIABLE: &str = "TIDEGATE_TARGET_LOCK";
/// How long what an earlier command left may take to die after SIGKILL.
const ENDING_MAX: Duration = Duration::from_secs(10);
const POLL_EVERY: Duration = Duration::from_millis(10);

/// Why a command cannot have its target for itself.
#[derive(Debug, thiserror::Error)]
pub(super) enum LockError {
    #[error("cannot use the lock {path}", path = path.display())]
    File { path: PathBuf, source: std::io::Error },
    #[error("processes {pids:?} of an earlier command do not end")]
    Held { pids: Vec<i32> },
}

/// Takes the lock. With `search` it first ends what an earlier command left, also what does not hold the lock; without
/// it only if the lock is held.
pub(super) async fn acquire(path: &Path, search: bool) -> Result<OwnedFd, LockError> {
    let fail = |source| LockError::File { path: path.to_owned(), source };
    let file = File::options().create(true).append(true).open(path).map_err(fail)?;
    let deadline = Instant::now() + ENDING_MAX;
    let mut search = search;
    loop {
        let mut pids = Vec::new();
        if search {
            let path = path.to_owned();
            pids = tokio::task::spawn_blocking(move || end_members(&path))
                .await
                .map_err(|e| fail(std::io::Error::other(e)))?
                .map_err(fail)?;
        }
        if pids.is_empty() {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(OwnedFd::from(file)),
                Err(rustix::io::Errno::WOULDBLOCK) => search = true,
                Err(e) => return Err(fail(e.into())),
            }
        }
        if Instant::now() >= deadline {
            return Err(LockError::Held { pids });
        }
        tokio::time::sleep(POLL_EVERY).await;
    }
}

/// Kills every process that belongs to a command of this lock; returns those that were there.
fn end_members(lock: &Path) -> std::io::Result<Vec<i32>> {
    let file = fs::metadata(lock)?;
    let mut mark = format!("{LOCK_VARIABLE}=").into_bytes();
    mark.extend_from_slice(lock.as_os_str().as_bytes());
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|n| n.parse().ok()).and_then(Pid::from_raw) else { continue };
        // First a handle, then the look: so the one that is killed is the one that was looked at.
        let Ok(handle) = pidfd_open(pid, PidfdFlags::empty()) else { continue };
        if belongs(pid, &mark, &file) {
            let _ = pidfd_send_signal(&handle, Signal::KILL);
            found.push(pid.as_raw_nonzero().get());
        }
    }
    Ok(found)
}

fn belongs(pid: Pid, mark: &[u8], lock: &fs::Metadata) -> bool {
    let dir = PathBuf::from(format!("/proc/{}", pid.as_raw_nonzero()));
    // A zombie has neither environment nor files, and no longer does anything.
    let marked = fs::read(dir.join("environ")).is_ok_and(|env| env.split(|b| *b == 0).any(|v| v == mark));
    // The engine itself has the file open at this moment, and so for an instant has each child of it that is between
    // fork and exec, whatever it will be.
    let ours = pid == getpid() || parent(&dir) == Some(getpid().as_raw_nonzero().get());
    marked
        || !ours
            && fs::read_dir(dir.join("fd")).is_ok_and(|files| {
                files.flatten().any(|entry| {
                    fs::metadata(entry.path()).is_ok_and(|f| (f.dev(), f.ino()) == (lock.dev(), lock.ino()))
                })
            })
}

fn parent(dir: &Path) -> Option<i32> {
    let stat = fs::read_to_string(dir.join("stat")).ok()?;
    // The name of the program, in parentheses, may hold anything; the state and the parent follow its end.
    stat[stat.rfind(')')? + 1..].split_whitespace().nth(1)?.parse().ok()
}

//! The command engine: a team's own `deploy`, `observe` and `rollback` move the target, so any tool can be deployed to
//! (design: engines; both shapes). The same contract as the fleet's: [`CommandEngine::set`] is idempotent and returns
//! at once, [`CommandEngine::observe`] tells what was seen.
//!
//! What must hold:
//! - A command is on disk before it is acted on, and one with a lower fence is refused, also after a restart.
//! - No two commands of a target overlap, whatever is killed when ([`lock`]): whatever a command started ends with it.
//!   What shall live on must be handed to something else (an init system, a platform).
//! - Nothing runs from bytes that were not verified since the slot was last changed.
//! - Nothing holds a rollback: it ends any deploy or observe of its target at once and has a capacity of its own.
//!   A rollback of another slot of the same target, already under way, is let finish within its time limit.
//! - The engine never gives up: what fails is reported as trouble and tried again with back-off.
//!
//! **Whose commands run:** those in the package of the split's first share that is not condemned. So the caller lists
//! the release that is being deployed first, and a rollback is run by the release that is returned to: with its
//! `rollback`, or with its `deploy` when it has none. As long as all that a split names is condemned, no command is run: what
//! a rollback returns to first hangs on what is seen. An empty split is run by the release that was there last, with an
//! empty `TIDEGATE_RUN_SPEC` and a split of `[]`.
//!
//! What is deployed to the server itself, definitions, has no commands: the server takes them in ([`Definitions`]), under the
//! same contract.
//!
//! `TIDEGATE_STATE_DIR` belongs to the slot: two pipelines of a target do not meet in it. In `TIDEGATE_SPLIT` the
//! `package_dir` of what a rollback leaves is null when its package does not verify: nothing may hold a rollback.

mod definitions;
mod lock;
mod observe;
mod reserve;
mod run;
mod state;
mod target;

pub use definitions::{Definitions, Given};
pub use observe::difference;
pub use state::SetError;

use reserve::Reserve;
use state::SlotState;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Seek, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use target::Target;
use tidegate_core::causes;
use tidegate_core::engine::{BoxObservation, Observation};
use tidegate_core::ids::{SlotId, TargetId};
use tidegate_fleet::package::{PackageStore, TrustedKeys};
use tidegate_fleet::protocol::SetSlot;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

/// Deploys that run at a time, over all targets.
pub const DEPLOYS_MAX: usize = 32;
/// Looks that run at a time. With more targets than these can serve, each is looked at less often.
pub const OBSERVES_MAX: usize = 8;
/// Rollbacks, and looks at targets that are being rolled back, that run at a time: their own, and more than a
/// service has targets.
pub const ROLLBACKS_MAX: usize = 512;
/// How long another process may have the engine's folder before that is an error, in milliseconds.
const TAKE_WAIT_MAX_MS: u64 = 2_000;
/// Between two tries to take it, in milliseconds.
const TAKE_RETRY_MS: u64 = 10;

/// Why the engine cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Its folder cannot be used.
    #[error("cannot use the folder {path}", path = path.display())]
    Dir {
        /// The folder or what is in it.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// Another process has it open.
    #[error("{} uses the command engine's folder {path}", process(*pid), path = path.display())]
    InUse {
        /// The folder.
        path: PathBuf,
        /// The process, if it has said so.
        pid: Option<u32>,
    },
    /// A newer version has written a slot's state. Nothing was changed.
    #[error(
        "{path} was written by the command engine of a newer version (form {found}, this version knows {})",
        state::VERSION,
        path = path.display()
    )]
    Newer {
        /// The slot's folder.
        path: PathBuf,
        /// Its form.
        found: u32,
    },
    /// A slot's state is damaged.
    #[error("cannot read the slot in {path}: {why}", path = path.display())]
    State {
        /// The slot's folder.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
}

/// What all targets have in common.
struct Shared {
    store: PackageStore,
    keys: TrustedKeys,
    deploys: Semaphore,
    observes: Semaphore,
    rollbacks: Semaphore,
    changes: watch::Sender<u64>,
    reserve: Reserve,
    definitions: Arc<dyn Definitions>,
}

/// The engine for slots whose RunSpecs have commands. Dropping it ends every command that runs.
pub struct CommandEngine {
    dir: PathBuf,
    shared: Arc<Shared>,
    targets: Mutex<Targets>,
    /// Held as long as the engine is open; a child does not inherit it.
    _in_use: File,
}

#[derive(Default)]
struct Targets {
    known: BTreeMap<TargetId, Arc<Target>>,
    workers: JoinSet<()>,
}

impl CommandEngine {
    /// Opens the engine in its folder and goes on where it was; `definitions` takes in what is deployed to the server itself. Must be called within a tokio runtime; blocks on the
    /// disk.
    ///
    /// # Errors
    /// When the folder cannot be used, another process uses it, or a slot's state cannot be read.
    pub fn open(
        dir: &Path,
        store: PackageStore,
        keys: TrustedKeys,
        definitions: Arc<dyn Definitions>,
    ) -> Result<CommandEngine, OpenError> {
        let fail = |path: &Path, source| OpenError::Dir { path: path.to_owned(), source };
        make_dir(dir).map_err(|e| fail(dir, e))?;
        // The path is also how processes of a command are known again, so it is the same however it was given.
        let dir = dir.canonicalize().map_err(|e| fail(dir, e))?;
        check_format(&dir)?;
        let in_use = take(&dir)?;
        let shared = Arc::new(Shared {
            store,
            keys,
            deploys: Semaphore::new(DEPLOYS_MAX),
            observes: Semaphore::new(OBSERVES_MAX),
            rollbacks: Semaphore::new(ROLLBACKS_MAX),
            changes: watch::Sender::new(0),
            reserve: Reserve::new(&dir),
            definitions,
        });
        let engine = CommandEngine { dir, shared, targets: Mutex::default(), _in_use: in_use };
        engine.shared.reserve.keep();
        engine.resume()?;
        Ok(engine)
    }

    /// Takes a command. When this returns Ok it is on disk and under way; repeating it is harmless, and takes the
    /// secrets that it brings. Blocks on the disk for the time of a small write.
    ///
    /// # Errors
    /// When the command is refused; then nothing was changed.
    pub fn set(&self, set: &SetSlot) -> Result<(), SetError> {
        let (id, reserve) = (&set.slot.target, &self.shared.reserve);
        if set.rollback {
            reserve.make_room();
        } else {
            reserve.keep();
        }
        let known = self.targets().known.get(id).cloned();
        let target = match known {
            Some(target) => target,
            None => {
                // A refused command must leave nothing behind.
                SlotState::accept(None, set)?;
                self.target(id).map_err(|source| SetError::Persist { path: self.target_dir(id), source })?
            }
        };
        target.set(set)?;
        // What is known of it is now told under the new fence: a rollback goes on with that.
        self.shared.changes.send_modify(|n| *n += 1);
        Ok(())
    }

    /// Runs a command's `observe` once for a slot that the engine does not know, and leaves nothing behind: what would be found
    /// if it were told that the split is there already. The package is in `packages`, and need not be in the engine's store.
    ///
    /// # Errors
    /// For people: the slot is known, the command is not valid, or `observe` failed.
    pub async fn look(&self, set: &SetSlot, packages: &PackageStore) -> Result<Vec<BoxObservation>, String> {
        if self.targets().known.get(&set.slot.target).is_some_and(|target| target.knows(&set.slot)) {
            return Err(format!("{} is known to the engine already", set.slot));
        }
        let dir = tempfile::Builder::new().prefix("look-").tempdir_in(&self.dir);
        let dir = dir.map_err(|error| format!("cannot make a folder in {}: {error}", self.dir.display()))?;
        let target = Arc::new(Target::to_look_at(dir.path().to_owned(), packages.clone()));
        target.set(&SetSlot { takes_up: Some(Vec::new()), ..set.clone() }).map_err(|error| causes(&error))?;
        target::look_once(&target, &self.shared).await
    }

    /// What is known of a slot. `None` when the slot is not, or when it was not looked at since the engine was opened
    /// and nothing is in the way; the first look follows at once, unless a command runs. While a target's command runs
    /// the boxes are those of the look before it.
    #[must_use]
    pub fn observe(&self, slot: &SlotId) -> Option<Observation> {
        let target = self.targets().known.get(&slot.target).cloned()?;
        target.observe(slot)
    }

    /// What is known of all slots, ordered by slot; without those of which [`CommandEngine::observe`] knows nothing.
    #[must_use]
    pub fn observe_all(&self) -> Vec<Observation> {
        let known: Vec<_> = self.targets().known.values().cloned().collect();
        known.iter().flat_map(|target| target.observe_all()).collect()
    }

    /// A number that grows whenever an observation may have changed.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.shared.changes.subscribe()
    }

    /// The highest epoch that any slot has accepted; a server that starts takes a higher one. 0 without slots.
    #[must_use]
    pub fn highest_epoch(&self) -> u64 {
        self.targets().known.values().map(|t| t.highest_epoch()).max().unwrap_or(0)
    }

    /// The kept logs of a slot's commands, oldest first, and the log of the last look. Blocks on the disk.
    #[must_use]
    pub fn logs(&self, slot: &SlotId) -> Vec<PathBuf> {
        run::logs(&self.target_dir(&slot.target).join("slots").join(slot.pipeline.as_str()))
    }

    fn targets(&self) -> MutexGuard<'_, Targets> {
        self.targets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn target_dir(&self, id: &TargetId) -> PathBuf {
        let (role, mut dir) = (id.role.to_string(), self.dir.join("targets"));
        for part in [id.service.as_str(), id.environment.as_str(), id.region.as_str(), id.az.as_str(), &role]
        {
            dir.push(part);
        }
        dir
    }

    fn target(&self, id: &TargetId) -> std::io::Result<Arc<Target>> {
        let mut targets = self.targets();
        if let Some(target) = targets.known.get(id) {
            return Ok(Arc::clone(target));
        }
        let target = Arc::new(Target::new(self.target_dir(id)));
        make_dir(target.dir())?;
        targets.known.insert(id.clone(), Arc::clone(&target));
        targets.workers.spawn(target::work(Arc::clone(&target), Arc::clone(&self.shared)));
        Ok(target)
    }

    /// Loads every slot.
    fn resume(&self) -> Result<(), OpenError> {
        let fail = |path: &Path, source| OpenError::Dir { path: path.to_owned(), source };
        for dir in slots(&self.dir)? {
            let state = SlotState::read(&dir).map_err(|why| damaged(&dir, why))?;
            let secrets = state::read_secrets(&dir).map_err(|why| damaged(&dir, why))?;
            // What was restored from a backup has only those in which something was.
            target::make_slot_dirs(&dir).map_err(|e| fail(&dir, e))?;
            let target = self.target(&state.slot.target).map_err(|e| fail(&dir, e))?;
            target.resume(state, secrets);
        }
        Ok(())
    }
}

/// Refuses an engine's folder that a newer version has written; it is only read, and need not be there.
///
/// # Errors
/// A slot's state is newer, or cannot be read.
pub fn check_format(dir: &Path) -> Result<(), OpenError> {
    for dir in slots(dir)? {
        SlotState::check_version(&dir).map_err(|why| damaged(&dir, why))?;
    }
    Ok(())
}

fn damaged(dir: &Path, why: state::ReadError) -> OpenError {
    let path = dir.to_owned();
    match why {
        state::ReadError::Version(found) if found > state::VERSION => OpenError::Newer { path, found },
        why => OpenError::State { path, why: why.to_string() },
    }
}

/// Locks the engine's folder for this process. A server that was just killed may have it for another moment.
fn take(dir: &Path) -> Result<File, OpenError> {
    let fail = |source| OpenError::Dir { path: dir.to_owned(), source };
    let open = File::options().read(true).write(true).create(true).truncate(false).open(dir.join(IN_USE));
    let mut in_use = open.map_err(fail)?;
    let mut waited_ms = 0;
    loop {
        match rustix::fs::flock(&in_use, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {
                // A hint only; always as long, so that it is written over in place even on a full disk.
                let _ = in_use.rewind().and_then(|()| writeln!(in_use, "{:>10}", std::process::id()));
                return Ok(in_use);
            }
            Err(rustix::io::Errno::WOULDBLOCK) if waited_ms < TAKE_WAIT_MAX_MS => {
                std::thread::sleep(Duration::from_millis(TAKE_RETRY_MS));
                waited_ms += TAKE_RETRY_MS;
            }
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(OpenError::InUse { path: dir.to_owned(), pid: said(dir) });
            }
            Err(e) => return Err(fail(e.into())),
        }
    }
}

/// The file that whoever uses the engine's folder has locked, and in which its number stands.
const IN_USE: &str = "in-use";

fn said(dir: &Path) -> Option<u32> {
    std::fs::read_to_string(dir.join(IN_USE)).ok()?.trim().parse().ok()
}

fn process(pid: Option<u32>) -> String {
    pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"))
}

/// Refuses an engine's folder that a process uses, without using it.
///
/// # Errors
/// It is in use, or cannot be looked at.
pub fn refuse_in_use(dir: &Path) -> Result<(), OpenError> {
    let fail = |source| OpenError::Dir { path: dir.to_owned(), source };
    let file = match File::open(dir.join(IN_USE)) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(fail(error)),
    };
    match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockShared) {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(OpenError::InUse { path: dir.to_owned(), pid: said(dir) }),
        Err(e) => Err(fail(e.into())),
    }
}

/// Every slot's folder: `targets/<service>/<environment>/<region>/<az>/<role>/slots/<pipeline>`.
fn slots(dir: &Path) -> Result<Vec<PathBuf>, OpenError> {
    let mut dirs = vec![dir.join("targets")];
    for level in ["", "", "", "", "", "slots"] {
        let mut below = Vec::new();
        for dir in dirs {
            let dir = dir.join(level);
            below.extend(folders(&dir).map_err(|source| OpenError::Dir { path: dir.clone(), source })?);
        }
        dirs = below;
    }
    // A folder without a state is of a first command that was never accepted.
    dirs.retain(|dir| dir.join("state.json").exists());
    Ok(dirs)
}

fn folders(dir: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    match fs::read_dir(dir) {
        Ok(entries) => {
            for entry in entries {
                let entry = entry?;
                if entry.file_type()?.is_dir() {
                    found.push(entry.path());
                }
            }
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
        Err(e) => return Err(e),
    }
    found.sort();
    Ok(found)
}

/// Makes a folder that only its owner may enter, and those above it.
fn make_dir(dir: &Path) -> std::io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

//! A backup: everything that a control plane has to know to go on, as of one moment, in a folder that only its owner may read.
//!
//! It has the layout of a data directory, so that its log is read and verified like any other. What must hold:
//! - The manifest is written last. A folder without one, or with a file that is not as it says, is half a backup, and is refused.
//! - The store in it says that it is one: no server starts on it, or on what was restored from it, before it is told to take
//!   over with a new epoch.
//! - What engines keep of their targets is taken after the store: they may be ahead of it, never behind it.
//!
//! Absent on purpose: boxes and what runs in them, which belong to the machine; mirrors, fetched dependencies and scratch, which
//! are made anew; and logs of builds.

mod files;
mod manifest;
mod restore;

pub use manifest::ManifestError;
pub use manifest::{MANIFEST, Manifest};
pub(crate) use restore::UNFINISHED;
pub use restore::{RestoreError, Restored, restore};

use crate::home;
use crate::serve::Dirs;
use files::Copier;
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, TryLockError};
use tidegate_api::{BackupMade, VERSION};
use tidegate_core::units::Timestamp;
use tidegate_runtime::{RuntimeError, Start};
use tidegate_store::{SqliteStore, Store, StoreError};

/// Why there is no backup.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say what the fields are")]
pub enum BackupError {
    #[error("another backup is being made")]
    Busy,
    #[error("{path} is no absolute path of a new folder: {why}", path = path.display())]
    Place { path: PathBuf, why: &'static str },
    #[error("failed to {what} {path}", path = path.display())]
    File { what: &'static str, path: PathBuf, source: io::Error },
    #[error("failed to copy the store")]
    Store(#[from] StoreError),
    #[error("failed to read the copy of the store")]
    Runtime(#[from] RuntimeError),
    #[error("failed to write the manifest")]
    Manifest(#[source] serde_json::Error),
}

impl BackupError {
    fn file<'a>(what: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> BackupError + use<'a> {
        move |source| BackupError::File { what, path: path.to_owned(), source }
    }
}

/// Makes backups of a server, one at a time.
#[derive(Debug)]
pub struct Backups {
    store: Arc<SqliteStore>,
    dirs: Dirs,
    turn: Mutex<()>,
}

impl Backups {
    /// Of this store in this data directory.
    #[must_use]
    pub fn new(store: Arc<SqliteStore>, dirs: Dirs) -> Backups {
        Backups { store, dirs, turn: Mutex::default() }
    }

    /// Makes a backup as the new folder `into`, and tells how many bytes it has written so far. Blocks on the disk; what the
    /// server does meanwhile waits for nothing of it. One that fails leaves nothing.
    ///
    /// # Errors
    /// The folder is there and not empty, something cannot be read or written, or another backup is being made.
    pub fn make(
        &self,
        into: &Path,
        now: Timestamp,
        told: &mut dyn FnMut(u64),
    ) -> Result<BackupMade, BackupError> {
        let _turn = match self.turn.try_lock() {
            Ok(turn) => turn,
            // Nothing is behind the lock that a panic could have left half done.
            Err(TryLockError::Poisoned(turn)) => turn.into_inner(),
            Err(TryLockError::WouldBlock) => return Err(BackupError::Busy),
        };
        prepare(into, &self.dirs.data)?;
        let made = self.fill(into, now, told);
        if made.is_err() {
            // Without its manifest it counts for nothing; what cannot be removed is refused all the same.
            let _ = fs::remove_dir_all(into);
        }
        made
    }

    /// When the last one was made.
    #[must_use]
    pub fn last(&self) -> Option<Timestamp> {
        let text = self.store.meta(LAST).ok().flatten()?;
        text.parse().ok().map(Timestamp)
    }

    fn fill(
        &self,
        into: &Path,
        now: Timestamp,
        told: &mut dyn FnMut(u64),
    ) -> Result<BackupMade, BackupError> {
        let mut copier = Copier::new(&self.dirs.data, into, told);
        copier.folder(Path::new("store"))?;
        let database = into.join("store").join(DATABASE);
        // It is the last one of what is restored from it.
        let last = now.0.to_string();
        self.store.snapshot(&database, &[(home::KEY, home::BACKUP), (LAST, &last)])?;
        copier.note(Path::new("store").join(DATABASE))?;
        let (epoch, position) = look_into(&into.join("store"))?;
        for name in ["tokens.json", "admin-token"] {
            copier.file(Path::new(name))?;
        }
        for name in ["keys", "secrets"] {
            copier.tree(Path::new(name), &is_finished)?;
        }
        // Whatever the store names is there: a package is kept before its release is told to be built.
        copier.links(Path::new("packages"), &is_finished)?;
        for name in ["fleet/format.json", "fleet/endpoints.json"] {
            copier.file(Path::new(name))?;
        }
        for name in ["fleet/slots", "fleet/configurations", "fleet/before"] {
            copier.tree(Path::new(name), &is_finished)?;
        }
        copier.tree(Path::new("commands/targets"), &of_commands)?;
        let entries = copier.finish()?;
        let (files, bytes) = (entries.len() as u64, entries.iter().map(|entry| entry.bytes).sum());
        let manifest = Manifest {
            version: 1,
            tidegate: VERSION_TEXT.to_owned(),
            made_at: now,
            epoch,
            position,
            entries,
        };
        manifest.write(into)?;
        // On a full disk it is not noted, and a backup is there all the same.
        if let Err(error) = self.store.set_meta(LAST, &now.0.to_string()) {
            tracing::warn!("the time of the backup is not noted: {error}");
        }
        let into = into.display().to_string();
        Ok(BackupMade { version: VERSION, into, made_at: now, epoch, position, files, bytes })
    }
}

/// The version of this program.
const VERSION_TEXT: &str = env!("CARGO_PKG_VERSION");
/// The store's setting that says when the last backup was made.
pub(crate) const LAST: &str = "last-backup";
/// The store's file.
const DATABASE: &str = "tidegate.db";

/// The last epoch, and the newest position in the log.
fn look_into(store: &Path) -> Result<(u64, u64), BackupError> {
    let copy = SqliteStore::open_to_read(store)
        .map_err(|error| BackupError::file("read", store)(io::Error::other(tidegate_core::causes(&error))))?;
    let newest = copy.facts(None, Start::Before(u64::MAX), 1)?;
    Ok((copy.last_epoch()?, newest.first().map_or(0, |fact| fact.position)))
}

/// Of the command engine's folders: what slots are to be, and what teams' commands have kept. Unpacked packages are made anew.
fn of_commands(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let in_state = path.components().any(|part| part.as_os_str() == "state");
    in_state || (is_finished(path) && !matches!(name, "packages" | "logs" | "lock"))
}

/// What begins with a dot is being written.
fn is_finished(path: &Path) -> bool {
    path.file_name().is_some_and(|name| !name.as_encoded_bytes().starts_with(b"."))
}

/// Makes the folder; an empty one that is there will do.
fn prepare(into: &Path, data: &Path) -> Result<(), BackupError> {
    let refused = |why| BackupError::Place { path: into.to_owned(), why };
    if !into.is_absolute() {
        return Err(refused("it is relative"));
    }
    let parent = into.parent().ok_or_else(|| refused("it is the root"))?;
    let parent = parent.canonicalize().map_err(BackupError::file("use the folder", parent))?;
    if parent.starts_with(data) {
        return Err(refused("it lies in the data directory, and would be lost with it"));
    }
    match fs::DirBuilder::new().mode(0o700).create(into) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let mut entries = fs::read_dir(into).map_err(BackupError::file("read", into))?;
            if entries.next().is_some() {
                return Err(refused("it is there, and is not empty"));
            }
            files::owner_only(into, 0o700).map_err(BackupError::file("make private", into))
        }
        Err(error) => Err(BackupError::file("make", into)(error)),
    }
}

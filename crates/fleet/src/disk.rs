//! The data folder: atomic writes, the lock that only one supervisor holds, and the space kept for rollbacks.
//!
//! What must hold: a file is either the old or the new one, never a part; what was accepted is on the disk before it
//! is acted upon; a rollback finds room on a disk that everything else has filled (X1).

use crate::error::{FleetError, is_full};
use crate::format::check_format;
use crate::process::find_boxes;
use rustix::fs::{FallocateFlags, FlockOperation, fallocate, flock, statvfs};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// The least space in bytes that is kept for rollbacks.
pub const RESERVE_MIN_BYTES: u64 = 64 << 20;
/// Reserved beyond three times the largest package: logs, records, the packages' folders.
const RESERVE_MARGIN_BYTES: u64 = 16 << 20;
/// The disk must have this many times the reserve free before the reserve is made again.
const RESERVE_REFILL_FACTOR: u64 = 2;

/// A folder of one fleet.
#[derive(Debug)]
pub(crate) struct DataDir {
    root: PathBuf,
    reserve_bytes: u64,
    reserve: Mutex<()>,
}

impl DataDir {
    /// Opens the folder, creating it with mode 0700; what a newer version has written is left as it is.
    pub(crate) fn open(root: &Path, reserve_bytes: u64) -> Result<DataDir, FleetError> {
        private_dir(root).map_err(FleetError::disk("create", root))?;
        let root = root.canonicalize().map_err(FleetError::disk("read", root))?;
        check_format(&root)?;
        for name in ["slots", "configurations", "boxes", "before"] {
            let path = root.join(name);
            private_dir(&path).map_err(FleetError::disk("create", &path))?;
        }
        Ok(DataDir { root, reserve_bytes, reserve: Mutex::new(()) })
    }

    /// The folder.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// A path in the folder.
    pub(crate) fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.root.join(name)
    }

    /// This folder's own name, made once and kept: marks its boxes in `/proc`. A copy of a folder gets a name of its own, so
    /// that its fleet takes no process for its own that belongs to the first; as long as such run, it is refused.
    pub(crate) fn identity(&self) -> Result<String, FleetError> {
        let (path, home) = (self.path("id"), self.path("home"));
        let here = fs::metadata(&self.root).map_err(FleetError::disk("read", &self.root))?.ino().to_string();
        let known = read_text(&path)?.filter(|id| id.len() == 32);
        let keep_home =
            || write_atomic(&home, here.as_bytes(), Durable::Yes).map_err(FleetError::disk("write", &home));
        match (known, read_text(&home)?) {
            (Some(id), Some(home)) if home == here => return Ok(id),
            (Some(id), None) => {
                // It was made before folders knew their place.
                keep_home()?;
                return Ok(id);
            }
            (Some(id), Some(_)) if !find_boxes(&id).is_empty() => {
                return Err(FleetError::Copied { data: self.root.clone() });
            }
            _ => {}
        }
        self.forget_processes()?;
        let mut bytes = [0_u8; 16];
        getrandom::fill(&mut bytes).map_err(|e| FleetError::disk("write", &path)(io::Error::other(e)))?;
        let id = tidegate_core::run_spec::hex(&bytes);
        // In this order: a crash in between makes yet another name.
        write_atomic(&path, id.as_bytes(), Durable::Yes).map_err(FleetError::disk("write", &path))?;
        keep_home()?;
        Ok(id)
    }

    /// What a copied or restored folder says of processes is about those of the first fleet: also of those that the first one took
    /// up, which do not carry its name.
    fn forget_processes(&self) -> Result<(), FleetError> {
        let mut files = entries(&self.path("slots"))?;
        for target in entries(&self.path("boxes"))? {
            files.extend(entries(&target)?.into_iter().map(|folder| folder.join("box.json")));
        }
        for file in files {
            let Ok(Some(serde_json::Value::Object(mut fields))) = read_json(&file) else { continue };
            let had =
                [fields.remove("takes_up"), fields.insert("process".to_owned(), serde_json::Value::Null)];
            if had[1].is_none() {
                fields.remove("process");
            }
            if had.into_iter().flatten().any(|value| !value.is_null()) {
                self.write_json(&file, &fields)?;
            }
        }
        Ok(())
    }

    /// Takes the lock, or says who has it.
    pub(crate) fn lock(&self) -> Result<Lock, FleetError> {
        let path = self.path("fleet.lock");
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(FleetError::disk("lock", &path))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut text = String::new();
                let _ = Read::by_ref(&mut file).take(32).read_to_string(&mut text);
                return Err(FleetError::AlreadyRunning {
                    data: self.root.clone(),
                    pid: text.trim().parse().ok(),
                });
            }
            Err(e) => return Err(FleetError::disk("lock", &path)(e.into())),
        }
        let lock = Lock { file };
        lock.sign();
        Ok(lock)
    }

    /// Writes a JSON file so that it is on the disk when this returns.
    pub(crate) fn write_json(&self, path: &Path, value: &impl Serialize) -> Result<(), FleetError> {
        write_json(path, value, Durable::Yes).map_err(FleetError::disk("write", path))
    }

    /// As [`DataDir::write_json`]; a rollback may use the reserved space for it.
    pub(crate) fn write_json_with_reserve(
        &self,
        path: &Path,
        value: &impl Serialize,
        rollback: bool,
    ) -> Result<(), FleetError> {
        match self.write_json(path, value) {
            Err(e) if rollback && e.is_disk_full() && self.lend_reserve() => self.write_json(path, value),
            other => other,
        }
    }

    /// Frees the reserved space. False when there was none.
    pub(crate) fn lend_reserve(&self) -> bool {
        let _guard = self.reserve.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let lent = fs::remove_file(self.path("reserve")).is_ok();
        if lent {
            tracing::warn!("the disk is full: the reserve was freed for a rollback");
        }
        lent
    }

    /// Makes the reserve, or makes it again, if the disk has room enough; `largest_package` in bytes.
    pub(crate) fn keep_reserve(&self, largest_package: u64) {
        let wanted =
            self.reserve_bytes.max(largest_package.saturating_mul(3).saturating_add(RESERVE_MARGIN_BYTES));
        let path = self.path("reserve");
        let _guard = self.reserve.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let has = fs::metadata(&path).map_or(0, |m| m.len());
        if has >= wanted {
            return;
        }
        let free = statvfs(&self.root).map_or(0, |s| s.f_bavail.saturating_mul(s.f_frsize));
        if free.saturating_add(has) < wanted.saturating_mul(RESERVE_REFILL_FACTOR) {
            return;
        }
        let made =
            OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path).and_then(
                |f| {
                    fallocate(&f, FallocateFlags::empty(), 0, wanted)?;
                    f.sync_all()
                },
            );
        if let Err(e) = made {
            let _ = fs::remove_file(&path);
            tracing::warn!(error = %e, "failed to reserve disk space for rollbacks");
        }
    }
}

/// The right to supervise this folder. It belongs to the open file, so it passes to another process with its handle.
#[derive(Debug)]
pub(crate) struct Lock {
    file: File,
}

impl Lock {
    /// Notes this process as the holder, for the message that a second fleet gives.
    pub(crate) fn sign(&self) {
        let mut file = &self.file;
        let _ = file.set_len(0).and_then(|()| file.rewind());
        let _ = write!(file, "{}", std::process::id());
    }

    /// The handle, to give away.
    pub(crate) fn handle(&self) -> &File {
        &self.file
    }

    /// A lock that was handed over.
    pub(crate) fn from_handle(handle: OwnedFd) -> Lock {
        Lock { file: handle.into() }
    }
}

/// Whether a write must outlive a loss of power.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Durable {
    Yes,
    /// Records of processes: those do not outlive it either.
    No,
}

/// Replaces a file by one with this content, mode 0600.
pub(crate) fn write_atomic(path: &Path, content: &[u8], durable: Durable) -> io::Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    let temporary = PathBuf::from(temporary);
    let write = || -> io::Result<()> {
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.write_all(content)?;
        if durable == Durable::Yes {
            file.sync_all()?;
        }
        fs::rename(&temporary, path)?;
        match path.parent() {
            Some(parent) if durable == Durable::Yes => File::open(parent)?.sync_all(),
            _ => Ok(()),
        }
    };
    write().inspect_err(|e| {
        if is_full(e) {
            let _ = fs::remove_file(&temporary);
        }
    })
}

/// [`write_atomic`] with JSON.
pub(crate) fn write_json(path: &Path, value: &impl Serialize, durable: Durable) -> io::Result<()> {
    write_atomic(path, &serde_json::to_vec(value).map_err(io::Error::other)?, durable)
}

/// Reads a JSON file; `None` when there is none.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, FleetError> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(FleetError::disk("read", path)(e)),
    };
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|source| FleetError::Corrupt { path: path.to_owned(), source })
}

/// Makes a folder, and those above it, that only the owner can open.
pub(crate) fn private_dir(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o700))
}

/// Reads a file of text; `None` when there is none.
fn read_text(path: &Path) -> Result<Option<String>, FleetError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(FleetError::disk("read", path)(e)),
    }
}

/// The paths in a folder, ordered; none when there is no such folder.
pub(crate) fn entries(dir: &Path) -> Result<Vec<PathBuf>, FleetError> {
    let list = match fs::read_dir(dir) {
        Ok(list) => list,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(FleetError::disk("read", dir)(e)),
    };
    let mut paths = list
        .map(|entry| entry.map(|e| e.path()))
        .collect::<io::Result<Vec<_>>>()
        .map_err(FleetError::disk("read", dir))?;
    paths.sort();
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_lock_names_the_holder_and_passes_with_the_handle() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::open(dir.path(), 0).unwrap();
        let lock = data.lock().unwrap();
        let why = data.lock().unwrap_err().to_string();
        assert!(why.contains(&format!("process {}", std::process::id())), "{why}");
        let handed = Lock::from_handle(lock.handle().try_clone().unwrap().into());
        drop(lock);
        assert!(matches!(data.lock(), Err(FleetError::AlreadyRunning { .. })));
        drop(handed);
        data.lock().unwrap();
    }

    #[test]
    fn the_reserve_is_made_lent_once_and_made_again() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::open(dir.path(), 1 << 20).unwrap();
        data.keep_reserve(0);
        assert!(fs::metadata(data.path("reserve")).unwrap().len() >= 1 << 20);
        assert!(data.lend_reserve());
        assert!(!data.lend_reserve());
        data.keep_reserve(0);
        assert!(data.lend_reserve());
    }

    #[test]
    fn the_folder_keeps_its_identity() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::open(dir.path(), 0).unwrap();
        assert_eq!(data.identity().unwrap(), data.identity().unwrap());
        assert_eq!(fs::metadata(dir.path()).unwrap().permissions().mode() & 0o777, 0o700);
        let identity = data.identity().unwrap();
        // One that was made before folders knew their place.
        fs::remove_file(data.path("home")).unwrap();
        assert_eq!(data.identity().unwrap(), identity);
        // It may be moved, and a copy is another one.
        let moved = dir.path().with_extension("moved");
        fs::rename(dir.path(), &moved).unwrap();
        let data = DataDir::open(&moved, 0).unwrap();
        assert_eq!(data.identity().unwrap(), identity);
        let copy = DataDir::open(dir.path(), 0).unwrap();
        for name in ["id", "home"] {
            fs::copy(data.path(name), copy.path(name)).unwrap();
        }
        let other = copy.identity().unwrap();
        assert_ne!(other, identity);
        assert_eq!(copy.identity().unwrap(), other);
        fs::remove_dir_all(moved).unwrap();
    }
}

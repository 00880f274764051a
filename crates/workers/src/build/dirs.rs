//! The folders of builds: scratch that goes away, and fetched dependencies that stay for a while.
//!
//! What must hold: dependencies are complete or absent, and are not removed while a build uses them.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

/// How many sets of dependencies are kept; the least recently used go first.
const CACHES_MAX: usize = 24;
const FRESH_PREFIX: &str = ".fetch-";

/// Makes a folder that is there and empty.
pub(super) fn make_empty(path: &Path) -> std::io::Result<()> {
    remove_tree(path)?;
    fs::create_dir_all(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o700))
}

/// Removes a folder with all its content, also where a build has made folders read-only.
///
/// # Errors
/// Something in it cannot be removed.
pub fn remove_tree(path: &Path) -> std::io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => {
            open_up(path)?;
            fs::remove_dir_all(path)
        }
        other => other,
    }
}

fn open_up(path: &Path) -> std::io::Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(0o700))?;
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            open_up(&entry.path())?;
        }
    }
    Ok(())
}

/// A folder that is removed when it is dropped.
pub(super) struct WorkDir {
    path: PathBuf,
    kept: bool,
}

impl WorkDir {
    pub(super) fn create(parent: &Path) -> std::io::Result<WorkDir> {
        WorkDir::with_prefix(parent, "build-")
    }

    fn with_prefix(parent: &Path, prefix: &str) -> std::io::Result<WorkDir> {
        let path = tempfile::Builder::new().prefix(prefix).tempdir_in(parent)?.keep();
        Ok(WorkDir { path, kept: false })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Removes it now and waits until that is done.
    pub(super) async fn remove(mut self) {
        self.kept = true;
        let path = self.path.clone();
        if let Ok(Err(error)) = tokio::task::spawn_blocking(move || remove_tree(&path)).await {
            tracing::warn!(path = %self.path.display(), %error, "failed to remove a build's folder");
        }
    }
}

impl Drop for WorkDir {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        let path = std::mem::take(&mut self.path);
        // Aside, as it may be large and this may be an async thread. What is missed (a command that is just being
        // killed may still write) is removed when the next server starts.
        std::thread::spawn(move || {
            if let Err(error) = remove_tree(&path) {
                tracing::warn!(path = %path.display(), %error, "failed to remove a build's folder");
            }
        });
    }
}

/// All kept dependencies.
pub(super) struct Caches {
    dir: PathBuf,
    used: Used,
}

/// How many builds use each set of dependencies.
type Used = Arc<Mutex<BTreeMap<String, usize>>>;

fn lock(used: &Used) -> MutexGuard<'_, BTreeMap<String, usize>> {
    used.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A set of dependencies in use.
pub(super) struct Cache {
    path: PathBuf,
    key: String,
    used: Used,
}

impl Cache {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Cache {
    fn drop(&mut self) {
        let mut used = lock(&self.used);
        if let Some(count) = used.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                used.remove(&self.key);
            }
        }
    }
}

impl Caches {
    /// Opens the folder, and removes what fetches that were interrupted have left.
    pub(super) fn open(dir: &Path) -> std::io::Result<Caches> {
        fs::create_dir_all(dir)?;
        // A fetch may make files that run with the server's rights; nobody else may get at them.
        fs::set_permissions(dir, fs::Permissions::from_mode(0o700))?;
        let dir = fs::canonicalize(dir)?;
        for entry in fs::read_dir(&dir)? {
            let entry = entry?;
            if entry.file_name().as_encoded_bytes().starts_with(FRESH_PREFIX.as_bytes()) {
                remove_tree(&entry.path())?;
            }
        }
        Ok(Caches { dir, used: Used::default() })
    }

    pub(super) fn path(&self) -> &Path {
        &self.dir
    }

    /// The dependencies of this key, if they were fetched before.
    pub(super) fn find(&self, key: &str) -> Option<Cache> {
        // While the lock is held nothing is removed.
        let mut used = lock(&self.used);
        let path = self.dir.join(key);
        let folder = File::open(&path).ok()?;
        // Only the order of removal depends on it.
        let _ = folder.set_modified(SystemTime::now());
        *used.entry(key.to_owned()).or_insert(0) += 1;
        Some(Cache { path, key: key.to_owned(), used: self.used.clone() })
    }

    /// A folder to fetch into.
    pub(super) fn begin(&self) -> std::io::Result<WorkDir> {
        WorkDir::with_prefix(&self.dir, FRESH_PREFIX)
    }

    /// Keeps what was fetched under its key. Another build may have been faster with the same; then that counts.
    pub(super) fn finish(&self, mut fresh: WorkDir, key: &str) -> std::io::Result<Cache> {
        match fs::rename(fresh.path(), self.dir.join(key)) {
            Ok(()) => fresh.kept = true,
            Err(_) if self.dir.join(key).is_dir() => {}
            Err(error) => return Err(error),
        }
        let found = self.find(key).ok_or_else(|| std::io::Error::from(std::io::ErrorKind::NotFound))?;
        self.remove_old()?;
        Ok(found)
    }

    fn remove_old(&self) -> std::io::Result<()> {
        let mut kept = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if !name.starts_with('.') {
                kept.push((entry.metadata()?.modified()?, name));
            }
        }
        kept.sort();
        let excess = kept.len().saturating_sub(CACHES_MAX);
        for (_, key) in kept.into_iter().take(excess) {
            let used = lock(&self.used);
            if used.contains_key(&key) {
                continue;
            }
            // Out of sight first: the removal takes time.
            let doomed = self.dir.join(format!("{FRESH_PREFIX}{key}"));
            fs::rename(self.dir.join(&key), &doomed)?;
            drop(used);
            remove_tree(&doomed)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_recently_used_dependencies_go_and_those_in_use_stay() {
        let dir = tempfile::tempdir().unwrap();
        let caches = Caches::open(dir.path()).unwrap();
        let old = SystemTime::UNIX_EPOCH;
        let add = |key: &str| {
            let fresh = caches.begin().unwrap();
            fs::create_dir(fresh.path().join("read-only")).unwrap();
            fs::write(fresh.path().join("read-only/file"), key).unwrap();
            fs::set_permissions(fresh.path().join("read-only"), fs::Permissions::from_mode(0o555)).unwrap();
            caches.finish(fresh, key).unwrap()
        };
        let in_use = add("in-use");
        File::open(in_use.path()).unwrap().set_modified(old).unwrap();
        for i in 0..CACHES_MAX {
            drop(add(&format!("key-{i:02}")));
        }
        assert!(caches.find("in-use").is_some());
        drop(in_use);
        File::open(dir.path().join("key-05")).unwrap().set_modified(old).unwrap();
        drop(add("newest"));
        assert!(caches.find("key-05").is_none());
        assert!(caches.find("newest").is_some());
        assert!(lock(&caches.used).is_empty());
        fs::create_dir(dir.path().join(".fetch-left")).unwrap();
        Caches::open(dir.path()).unwrap();
        assert!(!dir.path().join(".fetch-left").exists());
    }
}

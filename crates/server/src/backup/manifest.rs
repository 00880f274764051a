//! What is in a backup: written last, read first.

use super::BackupError;
use super::files::{self, hash_file};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Component, Path, PathBuf};
use tidegate_core::units::Timestamp;

/// The manifest's file.
pub const MANIFEST: &str = "manifest.json";
/// The newest form of manifest that this version reads.
const VERSION: u32 = 1;

/// Everything in a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Of this form.
    pub version: u32,
    /// The program that made it.
    pub tidegate: String,
    /// When.
    pub made_at: Timestamp,
    /// The server's epoch.
    pub epoch: u64,
    /// The newest entry of the log.
    pub position: u64,
    /// Every file but this one.
    pub(super) entries: Vec<Entry>,
}

/// A file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Entry {
    /// Within the backup, and within a data directory.
    pub(super) path: PathBuf,
    pub(super) bytes: u64,
    pub(super) sha256: String,
}

/// Why a folder is no backup that can be used.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say what the fields are")]
pub enum ManifestError {
    #[error("{path} has no manifest: it is no backup, or half a one", path = path.display())]
    Missing { path: PathBuf },
    #[error("failed to read {path}", path = path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("{path} cannot be read", path = path.display())]
    Form { path: PathBuf, source: serde_json::Error },
    #[error("the backup is of form {found}, made by tidegate {tidegate}; this version reads form {VERSION}")]
    Newer { found: u32, tidegate: String },
    #[error("the manifest names {path}, which is no place in a backup", path = path.display())]
    Place { path: PathBuf },
    #[error("{path} is missing from the backup", path = path.display())]
    Gone { path: PathBuf },
    #[error("{path} is not as it was backed up: it has the SHA-256 {found}, and {expected} was recorded", path = path.display())]
    Changed { path: PathBuf, found: String, expected: String },
    #[error("{path} is in the backup, and not in its manifest", path = path.display())]
    Stranger { path: PathBuf },
}

/// What every form of manifest says.
#[derive(Deserialize)]
struct Form {
    version: u32,
    #[serde(default)]
    tidegate: String,
}

impl Manifest {
    pub(super) fn write(&self, into: &Path) -> Result<(), BackupError> {
        let (new, path) = (into.join(".manifest.new"), into.join(MANIFEST));
        let text = serde_json::to_vec_pretty(self).map_err(BackupError::Manifest)?;
        let write = || -> io::Result<()> {
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
            file.write_all(&text)?;
            file.sync_all()?;
            fs::rename(&new, &path)?;
            files::sync_folder(into)
        };
        write().map_err(BackupError::file("write", &path))
    }

    /// Reads the manifest of a backup.
    ///
    /// # Errors
    /// There is none, or not one that this version reads.
    pub fn read(backup: &Path) -> Result<Manifest, ManifestError> {
        let path = backup.join(MANIFEST);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(ManifestError::Missing { path: backup.to_owned() });
            }
            Err(source) => return Err(ManifestError::File { path, source }),
        };
        let form = |source| ManifestError::Form { path: path.clone(), source };
        let Form { version, tidegate } = serde_json::from_slice(&text).map_err(form)?;
        if version != VERSION {
            return Err(ManifestError::Newer { found: version, tidegate });
        }
        let manifest: Manifest = serde_json::from_slice(&text).map_err(form)?;
        let outside = |path: &Path| {
            path.as_os_str().is_empty() || !path.components().all(|part| matches!(part, Component::Normal(_)))
        };
        match manifest.entries.iter().find(|entry| outside(&entry.path)) {
            Some(entry) => Err(ManifestError::Place { path: entry.path.clone() }),
            None => Ok(manifest),
        }
    }

    /// Reads every file of the backup, and compares it with what was recorded.
    ///
    /// # Errors
    /// The first file that is not there, not as it was, or not in the manifest.
    pub fn verify(&self, backup: &Path) -> Result<(), ManifestError> {
        for Entry { path, bytes, sha256 } in &self.entries {
            let (size, found) = match hash_file(&backup.join(path)) {
                Ok(hashed) => hashed,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    return Err(ManifestError::Gone { path: path.clone() });
                }
                Err(source) => return Err(ManifestError::File { path: backup.join(path), source }),
            };
            if size != *bytes || found != *sha256 {
                let (path, expected) = (path.clone(), sha256.clone());
                return Err(ManifestError::Changed { path, found, expected });
            }
        }
        let known: BTreeSet<&Path> = self.entries.iter().map(|entry| entry.path.as_path()).collect();
        let mut folders = vec![PathBuf::new()];
        while let Some(folder) = folders.pop() {
            let failed = |source| ManifestError::File { path: backup.join(&folder), source };
            for entry in fs::read_dir(backup.join(&folder)).map_err(failed)? {
                let entry = entry.map_err(failed)?;
                let path = folder.join(entry.file_name());
                if entry.file_type().map_err(failed)?.is_dir() {
                    folders.push(path);
                } else if path != Path::new(MANIFEST) && !known.contains(path.as_path()) {
                    return Err(ManifestError::Stranger { path });
                }
            }
        }
        Ok(())
    }
}

//! From a backup to a data directory that a server starts on. Everything is verified before anything is written.

use super::files::{copy_file, make_folder, sync_folder};
use super::manifest::{Entry, Manifest, ManifestError};
use crate::offline::OfflineLog;
use crate::owner::{self, AnotherUser};
use bytesize::ByteSize;
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use tidegate_core::units::Timestamp;
use tidegate_store::{OpenError, StoreLock};
use tidegate_workers::command_engine;

/// As long as it is there, what is in the data directory is not whole, and no server starts on it.
pub(crate) const UNFINISHED: &str = "restoring";
/// Left free beside what is restored, in bytes: a server reserves more than this when it starts.
const FREE_MIN_BYTES: u64 = 256 << 20;
/// What the engines of this machine keep: it is newer than any backup, and stays.
const ENGINES: [&str; 2] = ["fleet", "commands"];
/// Content that has its digest as its name: what is there already is the same.
const PACKAGES: &str = "packages";

fn iec(bytes: u64) -> String {
    ByteSize(bytes).display().iec().to_string()
}

/// Why nothing was restored.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say what the fields are")]
pub enum RestoreError {
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    #[error(transparent)]
    AnotherUser(#[from] AnotherUser),
    #[error("{source}; stop it first ('systemctl stop tidegate'), and a standby before it")]
    Serves { source: OpenError },
    #[error("{source}; stop that server first ('systemctl stop tidegate')")]
    Works { source: command_engine::OpenError },
    #[error("the store in the backup cannot be opened")]
    Store(#[from] crate::format::Unusable),
    #[error("the store in the backup is not in order")]
    Log(#[from] tidegate_runtime::VerifyError),
    #[error(
        "{path} is not empty: it holds {}. Move these aside; fleet, commands and packages may stay, if they are this \
         installation's",
        names.join(", "),
        path = path.display()
    )]
    NotEmpty { path: PathBuf, names: Vec<String> },
    #[error("the disk of {path} has {} free, and {} are needed", iec(*free), iec(*needed), path = path.display())]
    NoSpace { path: PathBuf, free: u64, needed: u64 },
    #[error("failed to write {path}; what was restored so far is not whole, and no server starts on it", path = path.display())]
    File { path: PathBuf, source: io::Error },
}

impl RestoreError {
    /// What is told of it, where a code and a hint go with it.
    #[must_use]
    pub fn told(&self) -> Option<tidegate_api::ErrorBody> {
        match self {
            RestoreError::Store(error) => error.told(),
            RestoreError::Manifest(_)
            | RestoreError::Log(_)
            | RestoreError::AnotherUser(_)
            | RestoreError::Serves { .. }
            | RestoreError::Works { .. }
            | RestoreError::NotEmpty { .. }
            | RestoreError::NoSpace { .. }
            | RestoreError::File { .. } => None,
        }
    }
}

/// What was restored.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Restored {
    /// Always 1.
    pub version: u32,
    /// The data directory.
    pub data: PathBuf,
    /// When the backup was made.
    pub made_at: Timestamp,
    /// The newest entry of the log.
    pub position: u64,
    /// How many files were restored.
    pub files: u64,
    /// Their size.
    pub bytes: u64,
    /// Engines of this machine were there: what they keep of their targets was left as it is.
    pub engines_stay: bool,
}

/// Restores a backup into a data directory that is empty, or holds nothing but what this machine's engines keep, and packages.
/// A restore that was interrupted is begun anew.
///
/// # Errors
/// The backup is not whole or of a newer version; a server works on the data directory, or it is not empty, or another user's; or
/// the disk fails.
pub fn restore(backup: &Path, data: &Path) -> Result<Restored, RestoreError> {
    let manifest = Manifest::read(backup)?;
    manifest.verify(backup)?;
    OfflineLog::open(backup)?.verify(None)?;
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| RestoreError::File { path, source }
    };
    owner::may_write(data)?;
    // Also of a server whose store somebody has moved aside under its feet.
    if let Err(source @ OpenError::InUse { .. }) = StoreLock::try_take_existing(&data.join("store")) {
        return Err(RestoreError::Serves { source });
    }
    command_engine::refuse_in_use(&data.join("commands")).map_err(|source| RestoreError::Works { source })?;
    make_folder(data).map_err(failed(data))?;
    let there = names(data).map_err(failed(data))?;
    let unfinished = data.join(UNFINISHED);
    let begun = there.contains(UNFINISHED);
    let may_stay = |name: &str| begun || ENGINES.contains(&name) || name == PACKAGES;
    let others: Vec<String> = there.iter().filter(|name| !may_stay(name)).cloned().collect();
    if !others.is_empty() {
        return Err(RestoreError::NotEmpty { path: data.to_owned(), names: others });
    }
    // What an interrupted restore has made of the engines' folders is no engine's.
    let engines_stay = ENGINES.iter().any(|name| there.contains(*name)) && !begun_with_engines(&unfinished);
    let wanted = |entry: &&Entry| {
        let of_engine = ENGINES.iter().any(|name| entry.path.starts_with(name));
        let known = entry.path.starts_with(PACKAGES) && is_same(&data.join(&entry.path), entry);
        !(known || of_engine && engines_stay)
    };
    let entries: Vec<&Entry> = manifest.entries.iter().filter(wanted).collect();
    let bytes = entries.iter().map(|entry| entry.bytes).sum();
    look_for_space(data, bytes)?;
    let engines = if engines_stay { "" } else { ENGINES_RESTORED };
    fs::write(&unfinished, engines).map_err(failed(&unfinished))?;
    let mut folders = BTreeSet::from([data.to_owned()]);
    for entry in &entries {
        let (from, to) = (backup.join(&entry.path), data.join(&entry.path));
        write_entry(&from, &to, entry, &mut folders).map_err(failed(&to))?;
    }
    folders.iter().try_for_each(|folder| sync_folder(folder).map_err(failed(folder)))?;
    fs::remove_file(&unfinished).and_then(|()| sync_folder(data)).map_err(failed(&unfinished))?;
    Ok(Restored {
        version: tidegate_api::VERSION,
        data: data.to_owned(),
        made_at: manifest.made_at,
        position: manifest.position,
        files: entries.len() as u64,
        bytes,
        engines_stay,
    })
}

/// What an unfinished restore notes of itself when the engines' folders are its own.
const ENGINES_RESTORED: &str = "engines\n";

fn begun_with_engines(unfinished: &Path) -> bool {
    fs::read_to_string(unfinished).is_ok_and(|text| text == ENGINES_RESTORED)
}

fn names(folder: &Path) -> io::Result<BTreeSet<String>> {
    let entries = fs::read_dir(folder)?;
    entries.map(|entry| entry.map(|e| e.file_name().to_string_lossy().into_owned())).collect()
}

/// Whether a package is there already; its bytes are verified at every start of a box.
fn is_same(path: &Path, entry: &Entry) -> bool {
    path.metadata().is_ok_and(|metadata| metadata.len() == entry.bytes)
}

fn look_for_space(data: &Path, bytes: u64) -> Result<(), RestoreError> {
    let needed = bytes.saturating_add(FREE_MIN_BYTES);
    let free = rustix::fs::statvfs(data).map_or(u64::MAX, |s| s.f_bavail.saturating_mul(s.f_frsize));
    if free >= needed {
        return Ok(());
    }
    Err(RestoreError::NoSpace { path: data.to_owned(), free, needed })
}

fn write_entry(from: &Path, to: &Path, entry: &Entry, folders: &mut BTreeSet<PathBuf>) -> io::Result<()> {
    if let Some(folder) = to.parent() {
        make_folder(folder)?;
        folders.insert(folder.to_owned());
    }
    match fs::remove_file(to) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let (_, found) = copy_file(from, to)?;
    // It was right a moment ago.
    if found == entry.sha256 { Ok(()) } else { Err(io::Error::other("the backup changed while it was read")) }
}

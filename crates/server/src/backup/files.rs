//! Copying files into a backup, and out of one: each is hashed while it is copied, readable by its owner alone, and on the disk
//! when this says so.

use super::BackupError;
use super::manifest::Entry;
use sha2::{Digest, Sha256};
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use tidegate_core::run_spec::hex;

/// Copied at a time.
const BLOCK_BYTES: usize = 1 << 20;

/// Takes a folder or file from everybody but its owner.
pub(super) fn owner_only(path: &Path, mode: u32) -> io::Result<()> {
    fs::set_permissions(path, Permissions::from_mode(mode))
}

/// Reads a file to its end; its size and its hash.
pub(super) fn hash_file(path: &Path) -> io::Result<(u64, String)> {
    hash_into(&mut File::open(path)?, &mut io::sink())
}

/// Copies everything that is read; its size and its hash.
pub(super) fn hash_into(from: &mut impl Read, to: &mut impl Write) -> io::Result<(u64, String)> {
    let (mut hash, mut bytes, mut block) = (Sha256::new(), 0, vec![0; BLOCK_BYTES]);
    loop {
        let read = from.read(&mut block)?;
        if read == 0 {
            return Ok((bytes, hex(&hash.finalize())));
        }
        hash.update(&block[..read]);
        to.write_all(&block[..read])?;
        bytes += read as u64;
    }
}

/// Copies a file into a new one, which is on the disk when this returns.
pub(super) fn copy_file(from: &Path, to: &Path) -> io::Result<(u64, String)> {
    let mut source = File::open(from)?;
    // What its owner could run stays so.
    let mode = 0o600 | (source.metadata()?.permissions().mode() & 0o100);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(to)?;
    let copied = hash_into(&mut source, &mut file)?;
    file.sync_all()?;
    Ok(copied)
}

/// Makes a folder that only its owner can open, and those above it.
pub(super) fn make_folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Makes what is in a folder known to the disk.
pub(super) fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Copies from a data directory into a backup.
pub(super) struct Copier<'a> {
    from: &'a Path,
    into: &'a Path,
    entries: Vec<Entry>,
    folders: Vec<PathBuf>,
    bytes: u64,
    told: &'a mut dyn FnMut(u64),
}

impl<'a> Copier<'a> {
    pub(super) fn new(from: &'a Path, into: &'a Path, told: &'a mut dyn FnMut(u64)) -> Copier<'a> {
        Copier { from, into, entries: Vec::new(), folders: vec![into.to_owned()], bytes: 0, told }
    }

    /// Makes a folder of the backup.
    pub(super) fn folder(&mut self, name: &Path) -> Result<(), BackupError> {
        let path = self.into.join(name);
        make_folder(&path).map_err(BackupError::file("make", &path))?;
        self.folders.push(path);
        Ok(())
    }

    /// Notes a file that is in the backup already.
    pub(super) fn note(&mut self, name: PathBuf) -> Result<(), BackupError> {
        let path = self.into.join(&name);
        let hashed = hash_file(&path).map_err(BackupError::file("read", &path))?;
        self.add(name, hashed);
        Ok(())
    }

    fn add(&mut self, path: PathBuf, (bytes, sha256): (u64, String)) {
        self.bytes += bytes;
        (self.told)(self.bytes);
        self.entries.push(Entry { path, bytes, sha256 });
    }

    /// Copies a file, if it is there.
    pub(super) fn file(&mut self, name: &Path) -> Result<(), BackupError> {
        let (from, to) = (self.from.join(name), self.into.join(name));
        if !from.is_file() {
            return Ok(());
        }
        if let Some(parent) = name.parent().filter(|parent| !self.into.join(parent).is_dir()) {
            self.folder(parent)?;
        }
        match copy_file(&from, &to) {
            Ok(hashed) => self.add(name.to_owned(), hashed),
            // It was replaced or removed just now: an engine's scratch.
            Err(error) if error.kind() == io::ErrorKind::NotFound && !from.exists() => {}
            Err(error) => return Err(BackupError::file("copy", &from)(error)),
        }
        Ok(())
    }

    /// Copies the files beneath a folder that are wanted, if it is there. Links are no files.
    pub(super) fn tree(&mut self, name: &Path, wanted: &dyn Fn(&Path) -> bool) -> Result<(), BackupError> {
        for (child, is_folder) in self.children(name)? {
            match (wanted(&child), is_folder) {
                (false, _) => {}
                (true, true) => self.tree(&child, wanted)?,
                (true, false) => self.file(&child)?,
            }
        }
        Ok(())
    }

    /// As [`Copier::tree`], of files that never change: they are shared with the data directory where the disk can do that.
    pub(super) fn links(&mut self, name: &Path, wanted: &dyn Fn(&Path) -> bool) -> Result<(), BackupError> {
        self.folder(name)?;
        for (child, is_folder) in self.children(name)? {
            let (from, to) = (self.from.join(&child), self.into.join(&child));
            if is_folder || !wanted(&child) {
                continue;
            }
            if fs::hard_link(&from, &to).is_ok() {
                self.note(child)?;
            } else {
                self.file(&child)?;
            }
        }
        Ok(())
    }

    /// The files and folders in a folder, ordered, and whether each is a folder.
    fn children(&self, name: &Path) -> Result<Vec<(PathBuf, bool)>, BackupError> {
        let path = self.from.join(name);
        let entries = match fs::read_dir(&path) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(BackupError::file("read", &path)(error)),
        };
        let mut found = Vec::new();
        for entry in entries {
            let entry = entry.map_err(BackupError::file("read", &path))?;
            let kind = entry.file_type().map_err(BackupError::file("read", &path))?;
            if kind.is_file() || kind.is_dir() {
                found.push((name.join(entry.file_name()), kind.is_dir()));
            }
        }
        found.sort();
        Ok(found)
    }

    /// Everything is on the disk.
    pub(super) fn finish(self) -> Result<Vec<Entry>, BackupError> {
        for folder in &self.folders {
            sync_folder(folder).map_err(BackupError::file("write", folder))?;
        }
        Ok(self.entries)
    }
}

//! Disk space that only a rollback may use. What must hold: on a disk that everything else has filled a rollback can
//! still be kept, unpacked, run and logged (X1).

use rustix::fs::{FallocateFlags, fallocate, statvfs};
use std::fs::{self, File};
use std::path::{Path, PathBuf};

/// The space kept, in bytes: room for a package of commands and what they write. A rollback also gets the space of the
/// package that it takes away.
pub(super) const RESERVE_BYTES: u64 = 32 << 20;
/// The reserve is made only on a disk with so many times its size free.
const FREE_FACTOR: u64 = 2;

#[derive(Debug)]
pub(super) struct Reserve {
    path: PathBuf,
}

impl Reserve {
    /// The reserve in the engine's folder.
    pub(super) fn new(dir: &Path) -> Reserve {
        Reserve { path: dir.join("reserve") }
    }

    fn free_bytes(&self) -> u64 {
        let dir = self.path.parent().unwrap_or(&self.path);
        statvfs(dir).map_or(0, |s| s.f_bavail.saturating_mul(s.f_frsize))
    }

    /// Makes the reserve if it is not there and the disk has room enough.
    pub(super) fn keep(&self) {
        if self.path.exists() || self.free_bytes() < RESERVE_BYTES * FREE_FACTOR {
            return;
        }
        let made = File::create(&self.path)
            .and_then(|file| Ok(fallocate(&file, FallocateFlags::empty(), 0, RESERVE_BYTES)?));
        if let Err(error) = made {
            tracing::warn!(%error, "cannot reserve disk space for rollbacks");
            let _ = fs::remove_file(&self.path);
        }
    }

    /// For a rollback: frees the reserve when the disk has less than that left.
    pub(super) fn make_room(&self) {
        if self.free_bytes() < RESERVE_BYTES && fs::remove_file(&self.path).is_ok() {
            tracing::warn!("the disk is full: the reserve was freed for a rollback");
        }
    }
}

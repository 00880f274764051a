//! Disk space set aside in a file, given back to the file system when a rollback finds the disk full.

use crate::model::Reserve;
use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;
use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::path::Path;

/// Written at a time where the file system cannot allocate without writing.
const BLOCK_BYTES: usize = 64 << 10;

#[derive(Debug)]
pub(super) struct ReserveFile {
    /// None where nothing is written and nothing is reserved.
    file: Option<File>,
    bytes: u64,
    held: bool,
}

impl ReserveFile {
    /// Reserves nothing.
    pub(super) fn none() -> Self {
        Self { file: None, bytes: 0, held: true }
    }

    /// Opens or makes the file and fills it if the disk allows; a full disk is no error.
    pub(super) fn open(path: &Path, bytes: u64) -> io::Result<Self> {
        let file = File::options().read(true).write(true).create(true).truncate(false).open(path)?;
        let mut reserve = Self { file: Some(file), bytes, held: false };
        reserve.tend()?;
        Ok(reserve)
    }

    pub(super) fn state(&self) -> Reserve {
        if self.held { Reserve::Held } else { Reserve::Missing }
    }

    /// Fills the file again if it is not full.
    pub(super) fn tend(&mut self) -> io::Result<Reserve> {
        if !self.held {
            match self.fill() {
                Ok(()) => self.held = true,
                Err(error) if is_full(&error) => {
                    self.file.as_ref().map_or(Ok(()), |file| file.set_len(0))?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(self.state())
    }

    /// Gives the space back; false if there was none to give.
    pub(super) fn release(&mut self) -> bool {
        let had = self.held && self.bytes > 0;
        self.held = self.bytes == 0;
        let emptied = |file: &File| file.set_len(0).and_then(|()| file.sync_all()).is_ok();
        had && self.file.as_ref().is_some_and(emptied)
    }

    fn fill(&self) -> io::Result<()> {
        let Some(file) = &self.file else { return Ok(()) };
        if file.metadata()?.len() > self.bytes {
            file.set_len(self.bytes)?;
        }
        if self.bytes > 0 {
            match fallocate(file, FallocateFlags::empty(), 0, self.bytes) {
                Ok(()) => {}
                Err(Errno::OPNOTSUPP | Errno::NOSYS) => self.fill_by_writing(file)?,
                Err(error) => return Err(error.into()),
            }
        }
        file.sync_all()
    }

    /// Writes noise, which a file system that compresses cannot shrink.
    fn fill_by_writing(&self, mut file: &File) -> io::Result<()> {
        file.seek(SeekFrom::Start(0))?;
        let mut noise: u64 = 0x9e37_79b9_7f4a_7c15;
        let mut block = Vec::with_capacity(BLOCK_BYTES);
        let mut left = self.bytes;
        while left > 0 {
            block.clear();
            while block.len() < BLOCK_BYTES {
                noise ^= noise << 13;
                noise ^= noise >> 7;
                noise ^= noise << 17;
                block.extend_from_slice(&noise.to_le_bytes());
            }
            let count = left.min(BLOCK_BYTES as u64);
            block.truncate(usize::try_from(count).unwrap_or(BLOCK_BYTES));
            file.write_all(&block)?;
            left -= count;
        }
        Ok(())
    }
}

/// The disk or the user's share of it is used up.
fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

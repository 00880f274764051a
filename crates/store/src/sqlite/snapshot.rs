//! A copy of the database as it is at one moment, while commits go on.
//!
//! How: everything is moved from the database's own log into its file, and from then until the copy is done nothing more is:
//! the file stands still while commits go into the log. So no commit waits longer than for that move, however large the
//! database is; what it costs is that the log grows meanwhile.

use super::open::DATABASE;
use super::{SqliteStore, store_error};
use crate::error::StoreError;
use rusqlite::{Connection, params};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::PoisonError;

/// Copied at a time.
const BLOCK_BYTES: usize = 1 << 20;
/// SQLite's own: so many pages in the log are moved at the next commit.
const LOG_PAGES: u32 = 1_000;

impl SqliteStore {
    /// Writes a copy of the store as the new file `into`, readable by its owner alone: of all that was committed when this
    /// was called, and of nothing later. In the copy alone, these settings are set. One copy is made at a time.
    ///
    /// # Errors
    /// The file is there already, or cannot be written, or the copy is damaged.
    pub fn snapshot(&self, into: &Path, settings: &[(&str, &str)]) -> Result<(), StoreError> {
        let _turn = self.snapshots.lock().unwrap_or_else(PoisonError::into_inner);
        let failed = |source: io::Error| StoreError::Database {
            operation: "copy the database",
            source: source.into(),
        };
        let source = self.database_file().map_err(failed)?;
        let still = Still::begin(self, source)?;
        copy(source, still.bytes, into).map_err(failed)?;
        drop(still);
        let finish = || -> rusqlite::Result<String> {
            let copy = Connection::open(into)?;
            copy.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
            for (key, value) in settings {
                copy.execute(
                    "INSERT INTO meta (id, value) VALUES (?1, ?2)
                     ON CONFLICT (id) DO UPDATE SET value = excluded.value",
                    params![key, value],
                )?;
            }
            copy.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
        };
        let answer =
            finish().map_err(|e| StoreError::Database { operation: "check the copy", source: e.into() })?;
        if answer != "ok" {
            return Err(StoreError::Corrupt { operation: "copy the database", source: answer.into() });
        }
        File::open(into).and_then(|file| file.sync_all()).map_err(failed)
    }

    /// What names the database's file on its disk: that of a copy is another one.
    ///
    /// # Errors
    /// The file system does not answer.
    pub fn file_number(&self) -> Result<u64, StoreError> {
        let metadata = self.dir.join(DATABASE).metadata();
        let failed = |source: io::Error| StoreError::Database {
            operation: "look at the database's file",
            source: source.into(),
        };
        metadata.map(|metadata| metadata.ino()).map_err(failed)
    }

    /// The file, opened once: to close it would take away the locks that SQLite has on it in this process (POSIX).
    fn database_file(&self) -> io::Result<&File> {
        if let Some(file) = self.database.get() {
            return Ok(file);
        }
        let file = File::open(self.dir.join(DATABASE))?;
        Ok(self.database.get_or_init(|| file))
    }
}

/// While it is there, nothing is written to the database's file.
struct Still<'a> {
    store: &'a SqliteStore,
    bytes: u64,
}

impl<'a> Still<'a> {
    fn begin(store: &'a SqliteStore, source: &File) -> Result<Self, StoreError> {
        const OPERATION: &str = "prepare a copy of the database";
        let inner = store.inner();
        // From here on its end lets the log be moved again, whatever comes.
        let mut still = Still { store, bytes: 0 };
        let begun = inner
            .connection
            .pragma_update(None, "wal_autocheckpoint", 0)
            .and_then(|()| {
                inner.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, i64>(0))
            })
            .map_err(|error| store_error(OPERATION, error));
        let bytes = source.metadata();
        drop(inner);
        let busy = begun?;
        let bytes =
            bytes.map_err(|source| StoreError::Database { operation: OPERATION, source: source.into() })?;
        if busy != 0 {
            let source = "its log cannot be moved into it".into();
            return Err(StoreError::Database { operation: OPERATION, source });
        }
        still.bytes = bytes.len();
        Ok(still)
    }
}

impl Drop for Still<'_> {
    fn drop(&mut self) {
        let inner = self.store.inner();
        // It sets a number in memory, and cannot fail.
        let _ = inner.connection.pragma_update(None, "wal_autocheckpoint", LOG_PAGES);
    }
}

fn copy(source: &File, bytes: u64, into: &Path) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(into)?;
    let mut block = vec![0; BLOCK_BYTES];
    let mut at = 0;
    while at < bytes {
        let wanted = usize::try_from(bytes - at).unwrap_or(BLOCK_BYTES).min(BLOCK_BYTES);
        source.read_exact_at(&mut block[..wanted], at)?;
        file.write_all(&block[..wanted])?;
        at += wanted as u64;
    }
    file.sync_all()
}

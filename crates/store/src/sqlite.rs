//! The store in one SQLite file: the embedded default. One connection that holds the file exclusively, WAL, and
//! `synchronous=FULL`, so that what was acknowledged survives the loss of power.

mod apply;
mod open;
mod query;
mod reserve;
mod snapshot;

use crate::error::{CommitError, StoreError};
use crate::model::{
    Commit, Due, EffectRecord, FactRecord, GROUP_MAX, Lane, Loaded, Reserve, Start, Waiting, check_id,
};
use crate::{OpenError, PAGE_MAX, Store};
pub use open::StoreLock;
use reserve::ReserveFile;
use rusqlite::{Connection, ErrorCode, TransactionBehavior};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

/// How a data directory is used.
#[derive(Debug, Clone)]
pub struct SqliteOptions {
    /// Disk space that only rollbacks may use once the disk is full, in bytes; 0 reserves none.
    pub reserve_bytes: u64,
}

impl Default for SqliteOptions {
    /// 16 MiB: some thousand commits of a rollback.
    fn default() -> Self {
        Self { reserve_bytes: 16 << 20 }
    }
}

/// See the head of this file.
#[derive(Debug)]
pub struct SqliteStore {
    inner: Mutex<Inner>,
    dir: PathBuf,
    /// See [`SqliteStore::snapshot`]; closed after the connection.
    database: OnceLock<File>,
    /// Held while one is made.
    snapshots: Mutex<()>,
    /// Held until all else is closed; fields are dropped in this order.
    _lock: Option<File>,
}

#[derive(Debug)]
struct Inner {
    connection: Connection,
    reserve: ReserveFile,
}

/// Why something within a transaction was given up: what the caller asked for, or what the database could not do.
enum Refusal {
    Commit(CommitError),
    Database(rusqlite::Error),
}

impl From<rusqlite::Error> for Refusal {
    fn from(error: rusqlite::Error) -> Self {
        Refusal::Database(error)
    }
}

impl SqliteStore {
    /// Opens the data directory, or makes it, and locks it for this process.
    ///
    /// # Errors
    /// See [`OpenError`]; nothing is changed in a directory that is in use, damaged, or written by a newer version.
    pub fn open(dir: &Path, options: &SqliteOptions) -> Result<Self, OpenError> {
        SqliteStore::open_locked(StoreLock::take(dir)?, options)
    }

    /// As [`SqliteStore::open`] by who has the lock already. Migrations are made now, and not while it was waited for.
    ///
    /// # Errors
    /// As of [`SqliteStore::open`].
    pub fn open_locked(lock: StoreLock, options: &SqliteOptions) -> Result<Self, OpenError> {
        open::open(lock, options)
    }

    /// What is in the data directory that the lock is of, to be read before it is opened; none if nothing is. It must be gone
    /// before the store is opened.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn look(lock: &StoreLock) -> Result<Option<Self>, OpenError> {
        open::read_locked(lock)
    }

    /// Opens a data directory that no server uses, to read it: nothing in it is changed, and no server starts on it meanwhile. A
    /// write fails.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open_to_read(dir: &Path) -> Result<Self, OpenError> {
        open::open_to_read(dir)
    }

    fn over(dir: &Path, connection: Connection, reserve: ReserveFile, lock: Option<File>) -> Self {
        let inner = Mutex::new(Inner { connection, reserve });
        let (database, snapshots) = (OnceLock::new(), Mutex::default());
        SqliteStore { inner, dir: dir.to_owned(), database, snapshots, _lock: lock }
    }

    /// The last epoch that was acquired; 0 before the first.
    ///
    /// # Errors
    /// If the store fails.
    pub fn last_epoch(&self) -> Result<u64, StoreError> {
        self.read("read the last epoch", query::last_epoch)
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // A panic within a transaction has rolled it back; what is behind the lock is sound.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read<T>(
        &self,
        operation: &'static str,
        read: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        read(&self.inner().connection).map_err(|error| store_error(operation, error))
    }

    /// Runs a transaction; when the disk is full, one of the rollback lane runs once more with the reserve freed.
    fn write<T>(
        &self,
        lane: Lane,
        operation: &'static str,
        transaction: impl Fn(&mut Connection) -> rusqlite::Result<T>,
    ) -> Result<T, CommitError> {
        let Inner { connection, reserve } = &mut *self.inner();
        if lane != Lane::Rollback && reserve.state() == Reserve::Missing {
            return Err(self.no_space());
        }
        let mut result = transaction(connection);
        if lane == Lane::Rollback && result.as_ref().is_err_and(is_full) && reserve.release() {
            result = transaction(connection);
        }
        result.map_err(|error| match is_full(&error) {
            true => self.no_space(),
            false => store_error(operation, error).into(),
        })
    }

    fn no_space(&self) -> CommitError {
        CommitError::NoSpace { place: self.dir.display().to_string() }
    }

    fn commit_group(&self, commits: &[Commit]) -> Vec<Result<(), CommitError>> {
        if commits.len() > 1 {
            let shared =
                self.write(Lane::Forward, "commit a group", |connection| apply_all(connection, commits));
            if let Ok(results) = shared {
                return results;
            }
            // The whole group was rolled back; each by itself tells which can be made, such as a rollback.
        }
        commits.iter().map(|commit| self.commit_single(commit)).collect()
    }

    fn commit_single(&self, commit: &Commit) -> Result<(), CommitError> {
        let one = std::slice::from_ref(commit);
        let results = self.write(commit.lane, "commit", |connection| apply_all(connection, one))?;
        results.into_iter().collect()
    }
}

fn apply_all(
    connection: &mut Connection,
    commits: &[Commit],
) -> rusqlite::Result<Vec<Result<(), CommitError>>> {
    let mut transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let mut results = Vec::with_capacity(commits.len());
    for commit in commits {
        let savepoint = transaction.savepoint()?;
        results.push(match apply::apply(&savepoint, commit) {
            Ok(()) => {
                savepoint.commit()?;
                Ok(())
            }
            Err(Refusal::Commit(error)) => {
                savepoint.finish()?;
                Err(error)
            }
            Err(Refusal::Database(error)) => return Err(error),
        });
    }
    transaction.commit()?;
    Ok(results)
}

fn is_full(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(ErrorCode::DiskFull)
}

fn is_corrupt(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase))
}

fn store_error(operation: &'static str, error: rusqlite::Error) -> StoreError {
    match is_corrupt(&error) {
        true => StoreError::Corrupt { operation, source: error.into() },
        false => StoreError::Database { operation, source: error.into() },
    }
}

/// Counters are stored as 64-bit signed integers, which no counter reaches; a larger one matches nothing stored.
fn to_sql(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn page(limit: usize) -> i64 {
    to_sql(limit.min(PAGE_MAX) as u64)
}

impl Store for SqliteStore {
    fn load(&self, id: &str) -> Result<Option<Loaded>, StoreError> {
        self.read("load an aggregate", |connection| query::load(connection, id))
    }

    fn list(&self, prefix: &str, after: &str, limit: usize) -> Result<Vec<String>, StoreError> {
        self.read("list aggregates", |connection| query::list(connection, prefix, after, page(limit)))
    }

    fn due(&self, now: i64, limit: usize) -> Result<Vec<Due>, StoreError> {
        self.read("list due timers", |connection| query::due(connection, now, page(limit)))
    }

    fn next_due(&self) -> Result<Option<i64>, StoreError> {
        self.read("find the next timer", query::next_due)
    }

    fn effects(&self, lane: Lane, now: i64, limit: usize) -> Result<Vec<EffectRecord>, StoreError> {
        self.read("list effects", |connection| query::effects(connection, lane, now, page(limit)))
    }

    fn next_effect_at(&self, lane: Lane) -> Result<Option<i64>, StoreError> {
        self.read("find the next effect", |connection| query::next_effect_at(connection, lane))
    }

    fn effect(&self, id: &str) -> Result<Option<EffectRecord>, StoreError> {
        self.read("load an effect", |connection| query::effect(connection, id))
    }

    fn waiting(&self) -> Result<Vec<Waiting>, StoreError> {
        self.read("count effects", query::waiting)
    }

    fn facts(
        &self,
        aggregate: Option<&str>,
        start: Start,
        limit: usize,
    ) -> Result<Vec<FactRecord>, StoreError> {
        self.read("read the log", |connection| query::facts(connection, aggregate, start, page(limit)))
    }

    fn document(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.read("load a document", |connection| query::document(connection, key))
    }

    fn meta(&self, key: &str) -> Result<Option<String>, StoreError> {
        self.read("read a setting", |connection| query::meta(connection, key))
    }

    fn set_meta(&self, key: &str, value: &str) -> Result<(), CommitError> {
        check_id("meta", key)?;
        self.write(Lane::Forward, "write a setting", |connection| query::set_meta(connection, key, value))
    }

    fn acquire_epoch(&self, above: u64) -> Result<u64, CommitError> {
        self.write(Lane::Rollback, "acquire an epoch", |connection| apply::acquire_epoch(connection, above))
    }

    fn commit_many(&self, commits: &[Commit]) -> Vec<Result<(), CommitError>> {
        commits.chunks(GROUP_MAX).flat_map(|group| self.commit_group(group)).collect()
    }

    fn tend(&self) -> Result<Reserve, StoreError> {
        let mut inner = self.inner();
        let held = inner.reserve.tend();
        held.map_err(|source| StoreError::Database { operation: "reserve disk space", source: source.into() })
    }
}

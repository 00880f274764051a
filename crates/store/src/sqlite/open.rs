//! Opening a data directory: lock, damage and version checks, migrations, in this order.

use super::reserve::ReserveFile;
use super::{SqliteOptions, SqliteStore, is_corrupt, is_full};
use crate::error::OpenError;
use crate::model::WRITTEN_BY;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, OptionalExtension};
use std::fs::{DirBuilder, File, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

/// The database's file in the data directory.
pub(super) const DATABASE: &str = "tidegate.db";
const LOCK: &str = "lock";
const RESERVE: &str = "reserve";

/// Statements kept ready; there are about twenty.
const STATEMENTS_KEPT: usize = 64;
/// A database up to this size is checked page by page when it is opened (tens of milliseconds); a larger one shows
/// damage when the damaged page is read.
const CHECK_BYTES_MAX: u64 = 64 << 20;

/// How long another holder of the lock is waited for. A child process that a server was just starting when it was
/// killed holds the lock until its `exec`.
const LOCK_WAIT_MAX_MS: u64 = 2_000;
const LOCK_RETRY_MS: u64 = 10;

mod embedded {
    refinery::embed_migrations!("migrations");
}

/// The right to use a data directory alone, apart from what is in it: whoever waits for it touches nothing else there. It ends
/// with the process, however that ends.
#[derive(Debug)]
pub struct StoreLock {
    file: File,
    dir: PathBuf,
}

impl StoreLock {
    /// Takes the lock of a data directory, which is made if it is not there, or says at once that another process has it.
    ///
    /// # Errors
    /// [`OpenError::InUse`] as long as another process has it, or reads it; else the directory cannot be used.
    pub fn try_take(dir: &Path) -> Result<StoreLock, OpenError> {
        if !dir.is_dir() {
            let in_dir = |source| OpenError::Directory { path: dir.to_owned(), source };
            DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(in_dir)?;
        }
        StoreLock::take_now(dir, true)
    }

    /// As [`StoreLock::try_take`] of a data directory that a server has used: one that was moved away while it was waited for is
    /// not made anew.
    ///
    /// # Errors
    /// As of [`StoreLock::try_take`]; also when it is not there.
    pub fn try_take_existing(dir: &Path) -> Result<StoreLock, OpenError> {
        StoreLock::take_now(dir, false)
    }

    fn take_now(dir: &Path, create: bool) -> Result<StoreLock, OpenError> {
        let in_dir = |source| OpenError::Directory { path: dir.to_owned(), source };
        let mut options = File::options();
        options.read(true).write(true).create(create).truncate(false).mode(0o600);
        let mut file = options.open(dir.join(LOCK)).map_err(in_dir)?;
        match file.try_lock() {
            Ok(()) => Ok(StoreLock { file, dir: dir.to_owned() }),
            Err(TryLockError::WouldBlock) => Err(in_use(dir, &mut file)),
            Err(TryLockError::Error(source)) => Err(in_dir(source)),
        }
    }

    /// As [`StoreLock::try_take`], after waiting a moment for one that is just ending.
    ///
    /// # Errors
    /// As of [`StoreLock::try_take`].
    pub fn take(dir: &Path) -> Result<StoreLock, OpenError> {
        let mut waited_ms = 0;
        loop {
            match StoreLock::try_take(dir) {
                Err(OpenError::InUse { .. }) if waited_ms < LOCK_WAIT_MAX_MS => {
                    thread::sleep(Duration::from_millis(LOCK_RETRY_MS));
                    waited_ms += LOCK_RETRY_MS;
                }
                taken => return taken,
            }
        }
    }

    /// The data directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Leaves this process's id for whoever comes next. It is a hint only.
    fn sign(&mut self) {
        // Always as long, so that it is written over in place even on a full disk.
        let _ = self.file.rewind().and_then(|()| writeln!(self.file, "{:>10}", std::process::id()));
    }
}

/// Opens what the lock is of. What cannot be opened, such as what a newer version has written, is left as it is.
pub(super) fn open(mut lock: StoreLock, options: &SqliteOptions) -> Result<SqliteStore, OpenError> {
    let dir = lock.dir.clone();
    let in_dir = |source| OpenError::Directory { path: dir.clone(), source };
    let database = dir.join(DATABASE);
    if database.is_file() {
        look(&database).map_err(|failure| failure.into_error(&database))?;
    }
    lock.sign();
    let path = dir.join(RESERVE);
    let reserve = ReserveFile::open(&path, options.reserve_bytes);
    let mut reserve = reserve.map_err(|source| OpenError::Reserve { path, source })?;
    let connection = match connect(&database) {
        // Nothing but the reserve is left: the server must come up, for rollbacks.
        Err(Failure::Full(_)) if reserve.release() => connect(&database),
        other => other,
    };
    let connection = connection.map_err(|failure| failure.into_error(&database))?;
    File::open(&dir).and_then(|dir| dir.sync_all()).map_err(in_dir)?;
    Ok(SqliteStore::over(&dir, connection, reserve, Some(lock.file)))
}

/// Whether this version may open the database, without changing anything.
fn look(path: &Path) -> Result<(), Failure> {
    read_only(path).and_then(|connection| refuse_newer(&connection)).map(|_| ())
}

/// As [`open`], for reading alone: no migration, no reserve, and nothing on the disk is changed.
pub(super) fn open_to_read(dir: &Path) -> Result<SqliteStore, OpenError> {
    let path = dir.join(DATABASE);
    if !path.is_file() {
        return Err(OpenError::Nothing { path: dir.to_owned() });
    }
    let lock = share_lock(dir)?;
    let connection = connect_to_read(&path).map_err(|failure| failure.into_error(&path))?;
    Ok(SqliteStore::over(dir, connection, ReserveFile::none(), lock))
}

/// As [`open_to_read`] by who has the lock, and keeps it. None of what an older version has written, or was killed before it had
/// written anything: that is migrated, and cannot be read as this version reads until then.
pub(super) fn read_locked(lock: &StoreLock) -> Result<Option<SqliteStore>, OpenError> {
    let path = lock.dir.join(DATABASE);
    if !path.is_file() {
        return Ok(None);
    }
    let failed = |failure: Failure| failure.into_error(&path);
    let connection = read_only(&path).map_err(failed)?;
    if refuse_newer(&connection).map_err(failed)? == Schema::Older {
        return Ok(None);
    }
    refuse_damaged(&connection, &path).map_err(failed)?;
    Ok(Some(SqliteStore::over(&lock.dir, connection, ReserveFile::none(), None)))
}

/// Keeps servers away as long as it is read. A folder without a lock, such as a backup, never had a server.
fn share_lock(dir: &Path) -> Result<Option<File>, OpenError> {
    let in_dir = |source| OpenError::Directory { path: dir.to_owned(), source };
    let mut file = match File::open(dir.join(LOCK)) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(in_dir(error)),
    };
    match file.try_lock_shared() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Err(in_use(dir, &mut file)),
        Err(TryLockError::Error(source)) => Err(in_dir(source)),
    }
}

fn in_use(dir: &Path, file: &mut File) -> OpenError {
    let mut text = String::new();
    let read = file.read_to_string(&mut text);
    let pid = read.ok().and_then(|_| text.trim().parse().ok());
    OpenError::InUse { path: dir.to_owned(), pid }
}

fn connect_to_read(path: &Path) -> Result<Connection, Failure> {
    let connection = read_only(path)?;
    refuse_newer(&connection)?;
    refuse_damaged(&connection, path)?;
    Ok(connection)
}

/// A database that was closed is read as it is, also from a disk that cannot be written. What a server that was killed has not
/// yet moved from the log into the database is read with it, and stays where it is.
fn read_only(path: &Path) -> Result<Connection, Failure> {
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    let has_log = Path::new(&log).metadata().is_ok_and(|metadata| metadata.len() > 0);
    let connection = if has_log {
        Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?
    } else {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI;
        Connection::open_with_flags(format!("file:{}?immutable=1", uri_path(path)), flags)?
    };
    connection.set_prepared_statement_cache_capacity(STATEMENTS_KEPT);
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    connection.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
    connection.pragma_update(None, "query_only", "ON")?;
    connection.pragma_update(None, "trusted_schema", "OFF")?;
    Ok(connection)
}

/// A path in a URI: everything that could mean something there is escaped.
fn uri_path(path: &Path) -> String {
    use std::fmt::Write as _;
    use std::os::unix::ffi::OsStrExt;
    path.as_os_str().as_bytes().iter().fold(String::new(), |mut text, &byte| {
        match byte {
            b'/' | b'-' | b'_' | b'.' => text.push(char::from(byte)),
            _ if byte.is_ascii_alphanumeric() => text.push(char::from(byte)),
            // Writing to a String cannot fail.
            _ => drop(write!(text, "%{byte:02X}")),
        }
        text
    })
}

enum Failure {
    Full(rusqlite::Error),
    Database(rusqlite::Error),
    Corrupt(String),
    Newer { found: u32, known: u32, by: Option<String> },
    NoWal(String),
    Migrate(Box<refinery::Error>),
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        if is_full(&error) {
            Failure::Full(error)
        } else if is_corrupt(&error) {
            Failure::Corrupt(error.to_string())
        } else {
            Failure::Database(error)
        }
    }
}

impl Failure {
    fn into_error(self, path: &Path) -> OpenError {
        let path: PathBuf = path.to_owned();
        match self {
            Failure::Full(source) | Failure::Database(source) => {
                OpenError::Database { path, source: source.into() }
            }
            Failure::Corrupt(detail) => OpenError::Corrupt { path, detail },
            Failure::Newer { found, known, by } => OpenError::Newer { path, found, known, by },
            Failure::NoWal(mode) => {
                let source =
                    io::Error::other(format!("the file system allows journal mode '{mode}' only, not WAL"));
                OpenError::Database { path, source: source.into() }
            }
            Failure::Migrate(source) => OpenError::Migrate { path, source },
        }
    }
}

fn connect(path: &Path) -> Result<Connection, Failure> {
    let mut connection = Connection::open(path)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS_KEPT);
    // Exclusive before WAL: the WAL's index is then in this process's memory and not in a mapped file.
    connection.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    connection.pragma_update(None, "trusted_schema", "OFF")?;
    refuse_newer(&connection)?;
    refuse_damaged(&connection, path)?;
    let mode: String = connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))?;
    if mode != "wal" {
        return Err(Failure::NoWal(mode));
    }
    // All pending migrations together, so that a crash leaves the old schema or the new one.
    let runner = embedded::migrations::runner().set_grouped(true);
    runner.run(&mut connection).map_err(|error| match full_cause(&error) {
        Some(error) => Failure::Full(error),
        None => Failure::Migrate(Box::new(error)),
    })?;
    Ok(connection)
}

fn full_cause(error: &refinery::Error) -> Option<rusqlite::Error> {
    let refinery::error::Kind::Connection(_, cause) = error.kind() else { return None };
    let cause = cause.downcast_ref::<rusqlite::Error>().filter(|cause| is_full(cause))?;
    cause.sqlite_error().map(|&code| rusqlite::Error::SqliteFailure(code, Some(cause.to_string())))
}

/// Whose form a database has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Schema {
    /// An older version's, or none yet.
    Older,
    /// This version's.
    Own,
}

fn refuse_newer(connection: &Connection) -> Result<Schema, Failure> {
    let known =
        embedded::migrations::runner().get_migrations().iter().map(|m| m.version().unsigned_abs()).max();
    let known = known.unwrap_or(0);
    const HISTORY: &str = "SELECT 1 FROM sqlite_schema WHERE name = 'refinery_schema_history'";
    if connection.query_row(HISTORY, [], |_| Ok(())).optional()?.is_none() {
        return Ok(Schema::Older);
    }
    const NEWEST: &str = "SELECT COALESCE(MAX(version), 0) FROM refinery_schema_history";
    let found = connection.query_row(NEWEST, [], |row| row.get(0))?;
    if found <= known {
        return Ok(if found == known { Schema::Own } else { Schema::Older });
    }
    // Where it stands may have changed with the schema; then it is not told. Nor is this version's own name, which a program has
    // as well that was made between two versions.
    const BY: &str = "SELECT value FROM meta WHERE id = ?1";
    let by = connection.query_row(BY, [WRITTEN_BY], |row| row.get::<_, String>(0)).ok();
    let by = by.filter(|by| by != env!("CARGO_PKG_VERSION"));
    Err(Failure::Newer { found, known, by })
}

fn refuse_damaged(connection: &Connection, path: &Path) -> Result<(), Failure> {
    let bytes = path.metadata().map_or(0, |metadata| metadata.len());
    if bytes > CHECK_BYTES_MAX {
        return Ok(());
    }
    let answer: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if answer == "ok" { Ok(()) } else { Err(Failure::Corrupt(answer)) }
}

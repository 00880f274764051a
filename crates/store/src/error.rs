//! What can go wrong, one variant for each thing that a caller may want to tell apart.

use std::error::Error;
use std::io;
use std::path::PathBuf;

/// A cause from below: the database, the file system.
pub(crate) type Source = Box<dyn Error + Send + Sync>;

/// Why the store could not answer.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database could not do it.
    #[error("cannot {operation}")]
    Database {
        /// What was being done.
        operation: &'static str,
        /// Why.
        source: Source,
    },
    /// The database file is damaged.
    #[error("cannot {operation}: the database file is damaged; stop the server and restore it from a backup")]
    Corrupt {
        /// What was being done.
        operation: &'static str,
        /// What the database says.
        source: Source,
    },
    /// A test asked for this.
    #[error("cannot {operation}: a fault was injected")]
    Injected {
        /// What was being done.
        operation: &'static str,
    },
}

/// Why a commit was not made.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// Somebody else was faster: load again and decide again.
    #[error("{aggregate} is at version {actual}, not {expected}")]
    Conflict {
        /// The aggregate that was written or relied upon.
        aggregate: String,
        /// The version that the commit expected.
        expected: u64,
        /// The version that it has; 0 if it does not exist.
        actual: u64,
    },
    /// A new aggregate must come with at least one fact.
    #[error("{aggregate} would be created without a fact")]
    NoFact {
        /// The aggregate.
        aggregate: String,
    },
    /// An effect of this id has not ended.
    #[error("effect {id} exists already")]
    EffectExists {
        /// The effect.
        id: String,
    },
    /// A document is written once.
    #[error("document {key} exists with other contents")]
    DocumentDiffers {
        /// The document.
        key: String,
    },
    /// An id has no valid form.
    #[error("'{id}' is no {what} id: 1 to 512 visible ASCII characters are expected")]
    BadId {
        /// What it would name.
        what: &'static str,
        /// Its first characters.
        id: String,
    },
    /// A commit names a thing twice.
    #[error("{what} {id} is twice in one commit")]
    Repeated {
        /// What it names.
        what: &'static str,
        /// Its id.
        id: String,
    },
    /// A content is too large.
    #[error("{what} {id} has {bytes} bytes; at most {limit} are allowed")]
    TooLarge {
        /// What it is.
        what: &'static str,
        /// Of which aggregate, effect or document.
        id: String,
        /// Its size.
        bytes: usize,
        /// The most that is allowed.
        limit: usize,
    },
    /// A commit is too long.
    #[error("a commit has {items} items; at most {limit} are allowed")]
    TooManyItems {
        /// Over all its lists.
        items: usize,
        /// The most that is allowed.
        limit: usize,
    },
    /// The disk is full. Nothing was changed.
    #[error("the disk that holds {place} is full: free some space; until then only rollbacks are recorded")]
    NoSpace {
        /// The data directory.
        place: String,
    },
    /// The store failed; see [`crate::Store::commit`] for what is known then.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a data directory could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The directory could not be made or entered.
    #[error("cannot use {} as data directory", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another server has it.
    #[error("{} is in use by another server{}", path.display(), pid_text(*pid))]
    InUse {
        /// The directory.
        path: PathBuf,
        /// The process id of that server, if it can be told.
        pid: Option<u32>,
    },
    /// A newer tidegate has written it; going back could misread it.
    #[error("{} was written by a newer version (schema {found}, this version knows {known})", path.display())]
    Newer {
        /// The database file.
        path: PathBuf,
        /// The schema that was found.
        found: u32,
        /// The newest schema that this version knows.
        known: u32,
    },
    /// The file is not a database, or it is damaged.
    #[error("{} is damaged: {detail}; restore it from a backup", path.display())]
    Corrupt {
        /// The database file.
        path: PathBuf,
        /// What the database says.
        detail: String,
    },
    /// The schema could not be brought to this version.
    #[error("cannot bring the schema of {} up to date", path.display())]
    Migrate {
        /// The database file.
        path: PathBuf,
        /// Why.
        source: Source,
    },
    /// The database could not be opened.
    #[error("cannot open {}", path.display())]
    Database {
        /// The database file.
        path: PathBuf,
        /// Why.
        source: Source,
    },
    /// The reserved disk space could not be made, and not because the disk is full.
    #[error("cannot reserve disk space in {}", path.display())]
    Reserve {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

fn pid_text(pid: Option<u32>) -> String {
    pid.map_or_else(String::new, |pid| format!(" (process {pid})"))
}

/// Where the log is not what was written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the log of {aggregate} is broken at fact {seq}: {what}")]
pub struct ChainBreak {
    /// Whose log.
    pub aggregate: String,
    /// At which of its facts.
    pub seq: u64,
    /// What is wrong with it.
    pub what: &'static str,
}

/// Why the chain is not verified.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// It is broken.
    #[error(transparent)]
    Break(#[from] ChainBreak),
    /// It could not be read.
    #[error(transparent)]
    Store(#[from] StoreError),
}

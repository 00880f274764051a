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
    /// The database file is damaged, or its disk does not give what is in it: SQLite says the same of both.
    #[error(
        "cannot {operation}: the database file is damaged, or its disk cannot read it; look at the disk (dmesg), and if that is \
         well, stop the server and restore a backup"
    )]
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
    /// The directory holds no database.
    #[error("there is no database in {}", path.display())]
    Nothing {
        /// The directory.
        path: PathBuf,
    },
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
    #[error(
        "{} was written by {} (schema {found}, this version knows {known})",
        path.display(),
        by.as_ref().map_or_else(|| "a newer version".to_owned(), |by| format!("tidegate {by}"))
    )]
    Newer {
        /// The database file.
        path: PathBuf,
        /// The schema that was found.
        found: u32,
        /// The newest schema that this version knows.
        known: u32,
        /// The version that wrote last, if it can be told.
        by: Option<String>,
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
#[error("the log of {aggregate} is broken at fact {seq}{at}: {what}", at = position_text(*position))]
pub struct ChainBreak {
    /// Whose log.
    pub aggregate: String,
    /// At which of its facts.
    pub seq: u64,
    /// Where in the log of all aggregates, if anything stands there.
    pub position: Option<u64>,
    /// What is wrong with it.
    pub what: Broken,
}

fn position_text(position: Option<u64>) -> String {
    position.map_or_else(String::new, |position| format!(" (position {position})"))
}

/// What is wrong with a fact: what was expected, and what was found.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// Something in it was changed, or it is another one's.
    #[error(
        "its contents do not have its hash: they give {}, and {} was recorded",
        short_hash(given),
        short_hash(recorded)
    )]
    Contents {
        /// The hash of what stands there now.
        given: [u8; 32],
        /// The hash that was recorded when it was appended.
        recorded: [u8; 32],
    },
    /// Another fact comes where it should.
    #[error("it is missing or not in its place: fact {found} comes there")]
    NotInPlace {
        /// The place in the aggregate's log that this one claims.
        found: u64,
    },
    /// The log is shorter than it was.
    #[error("it is missing at the end: {version} facts were recorded")]
    Missing {
        /// How many there were.
        version: u64,
    },
    /// Somebody appended to it.
    #[error("it is beyond the aggregate's version: {version} facts were recorded")]
    Beyond {
        /// How many there were.
        version: u64,
    },
    /// The last fact is not the one that was last appended.
    #[error(
        "the aggregate's head is not its hash: it has {}, and {} was recorded",
        short_hash(given),
        short_hash(recorded)
    )]
    Head {
        /// The last fact's.
        given: [u8; 32],
        /// The aggregate's.
        recorded: [u8; 32],
    },
    /// The log is of something that is not there.
    #[error("its aggregate is missing")]
    NoAggregate,
}

/// The beginning of a hash, for people.
fn short_hash(hash: &[u8; 32]) -> String {
    hash[..8].iter().map(|byte| format!("{byte:02x}")).collect()
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

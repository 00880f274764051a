//! The words between the store and its caller: plain values, and the shape that a commit must have.

use crate::error::CommitError;
use std::collections::BTreeSet;

/// Longest id, document key or meta key, in bytes.
pub const ID_BYTES_MAX: usize = 512;
/// Largest state, fact, cause, effect body or document, in bytes (32 MiB).
pub const BODY_BYTES_MAX: usize = 32 << 20;
/// Most rows in one answer.
pub const PAGE_MAX: usize = 10_000;
/// Most commits in one transaction; a longer list is made in several.
pub const GROUP_MAX: usize = 1_000;
/// Most items in one commit, over all its lists: three for each of 30,000 pipelines.
pub const COMMIT_ITEMS_MAX: usize = 100_000;

/// The meta key of the version of tidegate that wrote last. Every later version reads it, whatever else it changes.
pub const WRITTEN_BY: &str = "written-by";
/// The meta key of the last epoch; with its space it is none that a caller could set.
pub(crate) const EPOCH: &str = "last epoch";

/// An aggregate as of its last commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded {
    /// How many facts were ever appended to it; at least 1.
    pub version: u64,
    /// Its state, as the caller wrote it.
    pub state: Vec<u8>,
    /// When its next timer fires.
    pub due: Option<i64>,
    /// The hash of its last fact.
    pub head: [u8; 32],
}

/// An aggregate whose timer fires.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Due {
    /// Its id.
    pub id: String,
    /// When.
    pub at: i64,
}

/// One line of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FactRecord {
    /// Its place in the log of all aggregates: from 1, growing, in the order of commits.
    pub position: u64,
    /// Whose fact it is.
    pub aggregate: String,
    /// Its place in the aggregate's own log: 1, 2, 3, ...
    pub seq: u64,
    /// When it was decided.
    pub at: i64,
    /// Who or what caused it.
    pub cause: Vec<u8>,
    /// What happened.
    pub fact: Vec<u8>,
    /// See [`crate::fact_hash`].
    pub hash: [u8; 32],
}

/// Where a page of the log begins and which way it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// Facts with a greater position, oldest first; `After(0)` is the whole log.
    After(u64),
    /// Facts with a smaller position, newest first; `Before(u64::MAX)` begins with the newest.
    Before(u64),
}

/// Which queue an effect waits in. A rollback has its own queue and its own reserved disk space.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    /// Everything that is not a rollback.
    #[default]
    Forward,
    /// What returns a target to what it ran.
    Rollback,
    /// What tells people: however many pages nobody takes, nothing else waits for them.
    Page,
}

impl Lane {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Lane::Forward => "forward",
            Lane::Rollback => "rollback",
            Lane::Page => "page",
        }
    }
}

/// An effect that has not ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EffectRecord {
    /// Its id, which is its idempotency key.
    pub id: String,
    /// Who awaits its result.
    pub aggregate: String,
    /// Its queue.
    pub lane: Lane,
    /// What is to be done.
    pub body: Vec<u8>,
    /// How many attempts have failed.
    pub attempt: u32,
    /// It is not performed before this.
    pub not_before: i64,
    /// When it was committed.
    pub created_at: i64,
}

/// The effects of a lane that have not ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Waiting {
    /// The queue.
    pub lane: Lane,
    /// How many there are, those that are being performed included.
    pub effects: u64,
    /// When the oldest of them was committed.
    pub oldest: i64,
}

/// All that one decision changes, made durable together or not at all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Commit {
    /// When it was decided; the time of its facts and effects.
    pub at: i64,
    /// Whether it may use the reserved disk space.
    pub lane: Lane,
    /// Who or what caused it; recorded with every fact.
    pub cause: Vec<u8>,
    /// Aggregates relied upon, with the version that was read; 0 is "does not exist". Checked before all else.
    pub reads: Vec<(String, u64)>,
    /// Aggregates that change; each at most once.
    pub writes: Vec<AggregateWrite>,
    /// Write-once contents by key; the same bytes again are no change, other bytes are refused.
    pub documents: Vec<(String, Vec<u8>)>,
    /// Effects that need not be performed (any more); unknown ones are ignored. Ended before new ones are made.
    pub ended_effects: Vec<String>,
    /// Effects to be performed from now on.
    pub new_effects: Vec<EffectWrite>,
    /// Effects to be tried again later; unknown ones are ignored.
    pub postponed: Vec<Postpone>,
    /// Aggregates that are to look at the world anew: their timer becomes `at` unless it is earlier. Unknown ones are
    /// ignored.
    pub wake: Vec<String>,
}

/// What changes of one aggregate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AggregateWrite {
    /// Its id.
    pub id: String,
    /// The version that was loaded; 0 to create it.
    pub expected_version: u64,
    /// Appended to its log; may be empty except when it is created.
    pub facts: Vec<Vec<u8>>,
    /// Its whole new state.
    pub state: Vec<u8>,
    /// When its next timer fires.
    pub due: Option<i64>,
}

/// A new effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EffectWrite {
    /// Its id; refused while another effect of this id has not ended.
    pub id: String,
    /// Who awaits its result.
    pub aggregate: String,
    /// Its queue.
    pub lane: Lane,
    /// What is to be done.
    pub body: Vec<u8>,
    /// It is not performed before this.
    pub not_before: i64,
}

/// A failed attempt at an effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Postpone {
    /// The effect.
    pub id: String,
    /// How many attempts have failed by now.
    pub attempt: u32,
    /// When to try again.
    pub not_before: i64,
}

/// The reserved disk space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reserve {
    /// It is there.
    Held,
    /// The disk is full: forward commits are refused, rollbacks use what is left.
    Missing,
}

impl Commit {
    /// Refuses what no store takes, whatever is in it.
    pub(crate) fn check_shape(&self) -> Result<(), CommitError> {
        let items = self.reads.len()
            + self.writes.iter().map(|w| 1 + w.facts.len()).sum::<usize>()
            + self.documents.len()
            + self.ended_effects.len()
            + self.new_effects.len()
            + self.postponed.len()
            + self.wake.len();
        if items > COMMIT_ITEMS_MAX {
            return Err(CommitError::TooManyItems { items, limit: COMMIT_ITEMS_MAX });
        }
        check_body("cause", "", &self.cause)?;
        let mut writes = BTreeSet::new();
        for write in &self.writes {
            check_new("aggregate", &write.id, &mut writes)?;
            check_body("state", &write.id, &write.state)?;
            write.facts.iter().try_for_each(|fact| check_body("fact", &write.id, fact))?;
        }
        let mut documents = BTreeSet::new();
        for (key, body) in &self.documents {
            check_new("document", key, &mut documents)?;
            check_body("document", key, body)?;
        }
        let mut effects = BTreeSet::new();
        for effect in &self.new_effects {
            check_new("effect", &effect.id, &mut effects)?;
            check_id("aggregate", &effect.aggregate)?;
            check_body("effect", &effect.id, &effect.body)?;
        }
        Ok(())
    }
}

/// An id is 1 to [`ID_BYTES_MAX`] visible ASCII characters, so that byte order is the same everywhere.
pub(crate) fn check_id(what: &'static str, id: &str) -> Result<(), CommitError> {
    let visible = id.bytes().all(|byte| byte.is_ascii_graphic());
    if id.is_empty() || id.len() > ID_BYTES_MAX || !visible {
        return Err(CommitError::BadId { what, id: id.chars().take(80).collect() });
    }
    Ok(())
}

fn check_new<'a>(what: &'static str, id: &'a str, seen: &mut BTreeSet<&'a str>) -> Result<(), CommitError> {
    check_id(what, id)?;
    if !seen.insert(id) {
        return Err(CommitError::Repeated { what, id: id.to_owned() });
    }
    Ok(())
}

fn check_body(what: &'static str, id: &str, body: &[u8]) -> Result<(), CommitError> {
    if body.len() > BODY_BYTES_MAX {
        let (id, bytes) = (id.to_owned(), body.len());
        return Err(CommitError::TooLarge { what, id, bytes, limit: BODY_BYTES_MAX });
    }
    Ok(())
}

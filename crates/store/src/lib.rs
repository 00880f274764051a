//! What tidegate remembers, behind one narrow synchronous trait: aggregates with their state and next timer, the
//! hash-chained log of facts, and the effects that are still to be performed.
//!
//! What must hold here:
//! - A [`Commit`] is one transaction: all of it is durable when [`Store::commit`] returns `Ok`, or none of it is.
//! - A commit whose expected versions are not those of the store changes nothing and is a [`CommitError::Conflict`].
//! - Facts are only ever appended; each carries the hash of itself and of the one before it in its aggregate.
//! - A full disk refuses forward work and still takes rollbacks, out of a reserve that only they may use.
//! - [`MemoryStore`] and [`SqliteStore`] cannot be told apart through the trait: one conformance suite runs on both.
//!
//! Absent on purpose: any knowledge of pipelines. All contents are opaque bytes; times are milliseconds since
//! 1970-01-01 UTC and are given by the caller, since the store has no clock.

mod chain;
mod error;
mod memory;
mod model;
mod sqlite;

pub use chain::{GENESIS, Verified, fact_hash};
pub use error::{Broken, ChainBreak, CommitError, OpenError, StoreError, VerifyError};
pub use memory::{Fault, MemoryStore};
pub use model::{
    AggregateWrite, BODY_BYTES_MAX, COMMIT_ITEMS_MAX, Commit, Due, EffectRecord, EffectWrite, FactRecord,
    GROUP_MAX, ID_BYTES_MAX, Lane, Loaded, PAGE_MAX, Postpone, Reserve, Start, WRITTEN_BY, Waiting,
};
pub use sqlite::{SqliteOptions, SqliteStore, StoreLock};

/// The one door to what is remembered. It is synchronous, so that a deterministic simulator can drive it, and takes
/// `&self`, so that threads can share it; an implementation serializes what must be.
///
/// Every `limit` is clamped to [`PAGE_MAX`].
pub trait Store: Send + Sync {
    /// The aggregate as of its last commit; `None` if it has never been written.
    fn load(&self, id: &str) -> Result<Option<Loaded>, StoreError>;

    /// Ids of aggregates that begin with `prefix` and come after `after` (`""` begins), in byte order.
    fn list(&self, prefix: &str, after: &str, limit: usize) -> Result<Vec<String>, StoreError>;

    /// Aggregates whose timer is at or before `now`, the earliest first, then by id.
    fn due(&self, now: i64, limit: usize) -> Result<Vec<Due>, StoreError>;

    /// When the earliest timer of any aggregate fires.
    fn next_due(&self) -> Result<Option<i64>, StoreError>;

    /// Effects of the lane that may be performed at `now`, ordered by (`not_before`, id). One that is being performed
    /// is among them until it is ended or postponed: a caller asks for as many as it has in work, and some more.
    fn effects(&self, lane: Lane, now: i64, limit: usize) -> Result<Vec<EffectRecord>, StoreError>;

    /// When the earliest effect of the lane may be performed; in the past if one is waiting or in work.
    fn next_effect_at(&self, lane: Lane) -> Result<Option<i64>, StoreError>;

    /// One effect that has not ended.
    fn effect(&self, id: &str) -> Result<Option<EffectRecord>, StoreError>;

    /// How much waits in each lane in which something does. It looks at every effect that has not ended.
    fn waiting(&self) -> Result<Vec<Waiting>, StoreError>;

    /// A page of the log, of one aggregate or of all.
    fn facts(
        &self,
        aggregate: Option<&str>,
        start: Start,
        limit: usize,
    ) -> Result<Vec<FactRecord>, StoreError>;

    /// A write-once document.
    fn document(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError>;

    /// A setting of the installation, such as the version of tidegate that wrote last.
    fn meta(&self, key: &str) -> Result<Option<String>, StoreError>;

    /// Sets a setting of the installation, durably.
    fn set_meta(&self, key: &str, value: &str) -> Result<(), CommitError>;

    /// A number that no earlier call has returned, greater than all of them and than `above` (the highest epoch that
    /// an engine has seen, which matters after a restore from a backup). Durable, and possible on a full disk.
    fn acquire_epoch(&self, above: u64) -> Result<u64, CommitError>;

    /// Makes each commit in order, sharing one transaction where possible. Each has its own answer and a refused one
    /// does not hinder the others; a later one sees what an earlier one wrote.
    fn commit_many(&self, commits: &[Commit]) -> Vec<Result<(), CommitError>>;

    /// Makes one commit. After [`CommitError::Store`] it is unknown whether it will be found after a restart: load
    /// again before repeating it; a repeated one cannot count twice, because the version is checked.
    fn commit(&self, commit: &Commit) -> Result<(), CommitError> {
        self.commit_many(std::slice::from_ref(commit)).pop().unwrap_or(Ok(()))
    }

    /// Whether it forgets states and facts as soon as they are written, so that their bytes need not be made. What it is asked
    /// for of them is empty; versions, timers, effects and documents are there.
    fn is_forgetful(&self) -> bool {
        false
    }

    /// Tries to have the reserved disk space again after it was used. To be called from time to time.
    fn tend(&self) -> Result<Reserve, StoreError>;

    /// Checks the hash chain of one aggregate, or of all and that nothing is in the log that belongs to none. Commits
    /// may go on meanwhile.
    fn verify_chain(&self, aggregate: Option<&str>) -> Result<Verified, VerifyError> {
        chain::verify(self, aggregate)
    }
}

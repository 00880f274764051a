//! What can go wrong in the runtime, one variant for each thing that a caller may want to tell apart.

use tidegate_core::aggregate::WrongKind;
use tidegate_core::decision::Illegal;
use tidegate_store::{CommitError, StoreError};

/// Why the runtime could not read or write what is remembered.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// The store could not answer.
    #[error("cannot read {what}")]
    Read {
        /// What was asked for.
        what: String,
        /// Why not.
        source: StoreError,
    },
    /// The store did not take a commit, for another reason than a conflict or a full disk.
    #[error("cannot record {what}")]
    Write {
        /// What was to be recorded.
        what: String,
        /// Why not.
        source: CommitError,
    },
    /// Something is stored in a form that this version does not know.
    #[error("{what} is stored in a form that this version of tidegate does not know")]
    Decode {
        /// What was read.
        what: String,
        /// What the parser says.
        source: serde_json::Error,
    },
    /// Something cannot be written as JSON.
    #[error("{what} cannot be written as JSON")]
    Encode {
        /// What was to be written.
        what: String,
        /// What the serializer says.
        source: serde_json::Error,
    },
    /// The store holds an aggregate with a name that this version does not know.
    #[error("'{id}' names no aggregate that this version of tidegate knows")]
    UnknownAggregate {
        /// The name.
        id: String,
    },
    /// A state or a fact stands under the name of an aggregate of another kind.
    #[error("{aggregate} holds something of another kind of aggregate")]
    WrongKind {
        /// The aggregate.
        aggregate: String,
        /// What was found, if it was a fact.
        source: Option<WrongKind>,
    },
    /// A later version of tidegate has written to this store.
    #[error("a newer version of tidegate has written format {found}; this one knows formats up to {known}")]
    Newer {
        /// The format that was found.
        found: String,
        /// The newest that this version knows.
        known: u32,
    },
}

/// Why an event had no effect.
#[derive(Debug, thiserror::Error)]
pub enum SubmitError {
    /// It does not fit the state; whoever sent it is told why.
    #[error(transparent)]
    Illegal(#[from] Illegal),
    /// The disk is full and the event takes nothing back. Nothing was changed.
    #[error("the disk is full: free some space; until then only rollbacks are recorded")]
    NoSpace,
    /// Others changed what the decision relied on, again and again. Nothing was changed.
    #[error("{aggregate} was changed by others {tries} times while an event for it was decided")]
    Busy {
        /// The event's aggregate.
        aggregate: String,
        /// How often it was decided.
        tries: u32,
    },
    /// The store failed. Whether the event was recorded is unknown; deciding it again loads the state anew.
    #[error(transparent)]
    Store(#[from] RuntimeError),
}

/// Why the log and the state are not proven to agree.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The hash chain is broken or could not be read.
    #[error(transparent)]
    Chain(#[from] tidegate_store::VerifyError),
    /// Folding the log gives another state than the stored one (rule 10).
    #[error("the state of {aggregate} at version {version} is not what its log adds up to")]
    Differs {
        /// Whose.
        aggregate: String,
        /// At which of its facts.
        version: u64,
    },
    /// State or log could not be read.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
}

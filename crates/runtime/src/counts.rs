//! How often was decided, and what came of it: for whoever watches a server. Nothing is decided by it.

use crate::Outcome;
use crate::error::SubmitError;
use std::sync::atomic::{AtomicU64, Ordering};
use tidegate_core::decision::AggregateId;

/// Kinds of aggregates, in the order of [`kind`].
pub const KINDS: [&str; 4] = ["organisation", "team", "pipeline", "lease"];
/// What comes of a decision, in the order of [`Counts`]' columns.
pub const OUTCOMES: [&str; 4] = ["committed", "unchanged", "refused", "failed"];

/// Counted since the runtime was opened.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    decisions: [[AtomicU64; OUTCOMES.len()]; KINDS.len()],
    conflicts: AtomicU64,
}

/// What a runtime has counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counted {
    /// Events, by the kind of their aggregate ([`KINDS`]) and what came of them ([`OUTCOMES`]).
    pub decisions: [[u64; OUTCOMES.len()]; KINDS.len()],
    /// How often one was decided again because somebody else was faster.
    pub conflicts: u64,
}

impl Counts {
    pub(crate) fn decided(&self, own: &AggregateId, result: &Result<Outcome, SubmitError>) {
        let outcome = match result {
            Ok(outcome) if outcome.facts.is_empty() && outcome.effects.is_empty() => 1,
            Ok(_) => 0,
            Err(SubmitError::Illegal(_)) => 2,
            Err(SubmitError::NoSpace | SubmitError::Busy { .. } | SubmitError::Store(_)) => 3,
        };
        self.decisions[kind(own)][outcome].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn conflict(&self) {
        self.conflicts.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn read(&self) -> Counted {
        Counted {
            decisions: self.decisions.each_ref().map(|of| of.each_ref().map(|n| n.load(Ordering::Relaxed))),
            conflicts: self.conflicts.load(Ordering::Relaxed),
        }
    }
}

fn kind(id: &AggregateId) -> usize {
    match id {
        AggregateId::Organisation => 0,
        AggregateId::Team(_) => 1,
        AggregateId::Pipeline(_) => 2,
        AggregateId::Lease(_) => 3,
    }
}

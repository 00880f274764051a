//! What the store's tests share: short ways to write a commit.

use tidegate_store::{AggregateWrite, Commit, EffectWrite, Lane, Store};

/// A commit of one write.
pub(crate) fn write(
    id: &str,
    expected_version: u64,
    facts: &[&str],
    state: &str,
    due: Option<i64>,
) -> Commit {
    let facts = facts.iter().map(|fact| fact.as_bytes().to_vec()).collect();
    let write =
        AggregateWrite { id: id.to_owned(), expected_version, facts, state: state.as_bytes().to_vec(), due };
    Commit { at: 1_000, cause: b"a test".to_vec(), writes: vec![write], ..Commit::default() }
}

/// A new effect.
pub(crate) fn effect(id: &str, lane: Lane, not_before: i64) -> EffectWrite {
    EffectWrite {
        id: id.to_owned(),
        aggregate: "pipeline/a".to_owned(),
        lane,
        body: b"do".to_vec(),
        not_before,
    }
}

/// The ids of the effects that are ready.
pub(crate) fn ready(store: &dyn Store, lane: Lane, now: i64) -> Vec<String> {
    store.effects(lane, now, 100).unwrap().into_iter().map(|effect| effect.id).collect()
}

/// Deterministic numbers for tests; a failing one prints the seed that it began with.
pub(crate) struct Numbers(pub(crate) u64);

impl Numbers {
    /// The next one below `end`.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

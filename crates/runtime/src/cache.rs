//! States that were used lately, in memory. What stands here may be old: every commit checks the versions that it relied
//! on, and whatever is found to be old is dropped. What must hold:
//! - a version is never replaced by an older one;
//! - what was read from the store before somebody wrote is not taken in afterwards: a decision that changes nothing is
//!   never checked by a commit, so an old state must not stay.

use crate::codec::Entry;
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Mutex, MutexGuard, PoisonError};
use tidegate_core::decision::AggregateId;
use tidegate_core::units::Timestamp;

/// Aggregates share one of so many counters of changes.
const STRIPES: usize = 64;

/// The stripe of an aggregate; the same in every run.
pub(crate) fn stripe(id: &AggregateId, stripes: usize) -> usize {
    let mut hasher = DefaultHasher::new();
    id.hash(&mut hasher);
    usize::try_from(hasher.finish() % stripes as u64).unwrap_or(0)
}

/// The state of the counters when a read from the store began.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ticket(u64);

#[derive(Debug)]
pub(crate) struct Cache {
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    limit: usize,
    entries: BTreeMap<AggregateId, (u64, Entry)>,
    /// Entries by when they were used last.
    by_use: BTreeMap<u64, AggregateId>,
    uses: u64,
    changes: [u64; STRIPES],
}

impl Cache {
    /// Keeps at most `limit` aggregates, at least one.
    pub(crate) fn new(limit: usize) -> Cache {
        let inner = Inner {
            limit: limit.max(1),
            entries: BTreeMap::new(),
            by_use: BTreeMap::new(),
            uses: 0,
            changes: [0; STRIPES],
        };
        Cache { inner: Mutex::new(inner) }
    }

    /// The entry, or a ticket to bring it with.
    pub(crate) fn get(&self, id: &AggregateId) -> Result<Entry, Ticket> {
        let mut inner = self.lock();
        let Some((used, entry)) = inner.entries.get(id) else {
            return Err(Ticket(inner.changes[stripe(id, STRIPES)]));
        };
        let (used, entry) = (*used, entry.clone());
        // What was used a moment ago is far from being the oldest.
        if inner.uses - used > inner.limit as u64 / 4 {
            inner.put(id, entry.clone());
        }
        Ok(entry)
    }

    /// Takes in what was read from the store with this ticket, unless somebody has written meanwhile.
    pub(crate) fn bring(&self, id: &AggregateId, entry: Entry, ticket: Ticket) {
        let mut inner = self.lock();
        if inner.changes[stripe(id, STRIPES)] == ticket.0 && !inner.entries.contains_key(id) {
            inner.put(id, entry);
        }
    }

    /// Takes in what was committed, unless a newer version is here already.
    pub(crate) fn committed(&self, id: &AggregateId, entry: Entry) {
        let mut inner = self.lock();
        inner.changes[stripe(id, STRIPES)] += 1;
        if inner.entries.get(id).is_none_or(|(_, known)| known.version <= entry.version) {
            inner.put(id, entry);
        }
    }

    /// Notes that the aggregate's timer was set to `at` unless it was earlier.
    pub(crate) fn woken(&self, id: &AggregateId, at: Timestamp) {
        let mut inner = self.lock();
        inner.changes[stripe(id, STRIPES)] += 1;
        if let Some((_, entry)) = inner.entries.get_mut(id) {
            entry.due = Some(entry.due.map_or(at, |due| due.min(at)));
        }
    }

    /// Forgets an aggregate: what the store says of it is unknown.
    pub(crate) fn drop(&self, id: &AggregateId) {
        let mut inner = self.lock();
        inner.changes[stripe(id, STRIPES)] += 1;
        inner.remove(id);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn put(&mut self, id: &AggregateId, entry: Entry) {
        self.remove(id);
        while self.entries.len() >= self.limit {
            let Some((_, oldest)) = self.by_use.pop_first() else { break };
            self.entries.remove(&oldest);
        }
        self.uses += 1;
        self.by_use.insert(self.uses, id.clone());
        self.entries.insert(id.clone(), (self.uses, entry));
    }

    fn remove(&mut self, id: &AggregateId) {
        if let Some((used, _)) = self.entries.remove(id) {
            self.by_use.remove(&used);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: &str) -> AggregateId {
        AggregateId::Pipeline(n.parse().unwrap())
    }

    fn entry(version: u64) -> Entry {
        Entry { version, ..Entry::absent(&id("a")) }
    }

    fn bring(cache: &Cache, id: &AggregateId, version: u64) {
        let ticket = cache.get(id).unwrap_err();
        cache.bring(id, entry(version), ticket);
    }

    fn version(cache: &Cache, id: &AggregateId) -> Option<u64> {
        cache.get(id).ok().map(|e| e.version)
    }

    #[test]
    fn it_keeps_what_was_used_last() {
        let cache = Cache::new(2);
        bring(&cache, &id("a"), 1);
        bring(&cache, &id("b"), 1);
        assert_eq!(version(&cache, &id("a")), Some(1));
        bring(&cache, &id("c"), 1);
        assert_eq!(version(&cache, &id("b")), None, "a was used after b");
        assert_eq!((version(&cache, &id("a")), version(&cache, &id("c"))), (Some(1), Some(1)));
    }

    #[test]
    fn an_old_state_never_takes_the_place_of_a_new_one() {
        let cache = Cache::new(8);
        let early = cache.get(&id("a")).unwrap_err();
        cache.committed(&id("a"), entry(3));
        cache.committed(&id("a"), entry(2));
        assert_eq!(version(&cache, &id("a")), Some(3));
        cache.drop(&id("a"));
        cache.bring(&id("a"), entry(1), early);
        assert_eq!(version(&cache, &id("a")), None, "it was read before somebody wrote");
    }

    #[test]
    fn a_wake_only_sets_a_timer_earlier() {
        let cache = Cache::new(8);
        cache.committed(&id("a"), Entry { due: Some(Timestamp(5)), ..entry(1) });
        cache.woken(&id("a"), Timestamp(9));
        assert_eq!(cache.get(&id("a")).unwrap().due, Some(Timestamp(5)));
        cache.woken(&id("a"), Timestamp(2));
        assert_eq!(cache.get(&id("a")).unwrap().due, Some(Timestamp(2)));
    }
}

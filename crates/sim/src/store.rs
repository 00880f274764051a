//! The store that the simulated server sees: the one in memory, which dies with the server at a chosen moment, or says that
//! somebody else was faster. Everything that was committed before a crash is there after it.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, Ordering};
use tidegate_core::units::Timestamp;
use tidegate_runtime::Clock;
use tidegate_store::{
    Commit, CommitError, Due, EffectRecord, FactRecord, Lane, Loaded, MemoryStore, Reserve, Start, Store,
    StoreError,
};

/// Virtual time, set by the simulation.
#[derive(Debug, Default)]
pub(crate) struct VirtualClock {
    now_ms: AtomicI64,
}

impl VirtualClock {
    pub(crate) fn set(&self, now: i64) {
        self.now_ms.store(now, Ordering::SeqCst);
    }
}

impl Clock for VirtualClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.now_ms.load(Ordering::SeqCst))
    }
}

/// More faults than are ever asked for ahead.
const FAULTS_MAX: usize = 500;

/// When the server dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Death {
    BeforeCommit,
    AfterCommit,
}

#[derive(Debug, Default)]
pub(crate) struct MortalStore {
    pub(crate) inner: MemoryStore,
    dead: AtomicBool,
    /// 0 never, 1 before the next commit, 2 after it.
    dies: AtomicU32,
    conflicts: AtomicU32,
}

impl MortalStore {
    /// The server dies at its next commit.
    pub(crate) fn die_at_next(&self, death: Death) {
        let code = match death {
            Death::BeforeCommit => 1,
            Death::AfterCommit => 2,
        };
        self.dies.store(code, Ordering::SeqCst);
    }

    pub(crate) fn is_dead(&self) -> bool {
        self.dead.load(Ordering::SeqCst)
    }

    pub(crate) fn kill(&self) {
        self.dead.store(true, Ordering::SeqCst);
    }

    /// For a new server.
    pub(crate) fn revive(&self) {
        self.dead.store(false, Ordering::SeqCst);
        self.dies.store(0, Ordering::SeqCst);
        self.conflicts.store(0, Ordering::SeqCst);
    }

    /// So many of the next commits find that somebody else was faster.
    pub(crate) fn conflict_next(&self, times: u32) {
        self.conflicts.store(times, Ordering::SeqCst);
    }

    /// No fault that was asked for happens any more.
    pub(crate) fn calm(&self) {
        self.dies.store(0, Ordering::SeqCst);
        self.conflicts.store(0, Ordering::SeqCst);
        // Each commit takes one of the faults that were asked for; an empty one does nothing else.
        for _ in 0..FAULTS_MAX {
            let _ = self.inner.commit(&Commit::default());
        }
        let _ = self.inner.tend();
    }

    fn alive(&self) -> Result<(), StoreError> {
        if self.is_dead() { Err(StoreError::Injected { operation: "reach a dead store" }) } else { Ok(()) }
    }

    fn commit_one(&self, commit: &Commit) -> Result<(), CommitError> {
        self.alive()?;
        let gone = || CommitError::Store(StoreError::Injected { operation: "outlive the server" });
        if self.dies.compare_exchange(1, 0, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
            self.kill();
            return Err(gone());
        }
        let left = self.conflicts.load(Ordering::SeqCst);
        if let Some((id, version)) = commit.reads.first().filter(|_| left > 0) {
            self.conflicts.store(left - 1, Ordering::SeqCst);
            let (aggregate, expected, actual) = (id.clone(), *version, *version + 1);
            return Err(CommitError::Conflict { aggregate, expected, actual });
        }
        let made = self.inner.commit(commit);
        if self.dies.compare_exchange(2, 0, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
            self.kill();
            return Err(gone());
        }
        made
    }
}

impl Store for MortalStore {
    fn load(&self, id: &str) -> Result<Option<Loaded>, StoreError> {
        self.alive().and_then(|()| self.inner.load(id))
    }

    fn list(&self, prefix: &str, after: &str, limit: usize) -> Result<Vec<String>, StoreError> {
        self.alive().and_then(|()| self.inner.list(prefix, after, limit))
    }

    fn due(&self, now: i64, limit: usize) -> Result<Vec<Due>, StoreError> {
        self.alive().and_then(|()| self.inner.due(now, limit))
    }

    fn next_due(&self) -> Result<Option<i64>, StoreError> {
        self.alive().and_then(|()| self.inner.next_due())
    }

    fn effects(&self, lane: Lane, now: i64, limit: usize) -> Result<Vec<EffectRecord>, StoreError> {
        self.alive().and_then(|()| self.inner.effects(lane, now, limit))
    }

    fn next_effect_at(&self, lane: Lane) -> Result<Option<i64>, StoreError> {
        self.alive().and_then(|()| self.inner.next_effect_at(lane))
    }

    fn effect(&self, id: &str) -> Result<Option<EffectRecord>, StoreError> {
        self.alive().and_then(|()| self.inner.effect(id))
    }

    fn facts(
        &self,
        aggregate: Option<&str>,
        start: Start,
        limit: usize,
    ) -> Result<Vec<FactRecord>, StoreError> {
        self.alive().and_then(|()| self.inner.facts(aggregate, start, limit))
    }

    fn document(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.alive().and_then(|()| self.inner.document(key))
    }

    fn meta(&self, key: &str) -> Result<Option<String>, StoreError> {
        self.alive().and_then(|()| self.inner.meta(key))
    }

    fn set_meta(&self, key: &str, value: &str) -> Result<(), CommitError> {
        self.alive()?;
        self.inner.set_meta(key, value)
    }

    fn acquire_epoch(&self, above: u64) -> Result<u64, CommitError> {
        self.alive()?;
        self.inner.acquire_epoch(above)
    }

    fn commit_many(&self, commits: &[Commit]) -> Vec<Result<(), CommitError>> {
        commits.iter().map(|commit| self.commit_one(commit)).collect()
    }

    fn tend(&self) -> Result<Reserve, StoreError> {
        self.alive().and_then(|()| self.inner.tend())
    }
}

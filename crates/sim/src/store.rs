//! The store that the simulated server sees: the one in memory, which dies with the server at a chosen operation, or says
//! that somebody else was faster. Everything that was committed before a crash is there after it.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use tidegate_core::units::Timestamp;
use tidegate_runtime::Clock;
use tidegate_store::{
    Commit, CommitError, Due, EffectRecord, EffectWrite, FactRecord, Lane, Loaded, MemoryStore, Reserve,
    Start, Store, StoreError, Waiting,
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
/// A store that loses facts loses one of this many commits' last.
const LOSES_EVERY: u32 = 50;

/// Where the server dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Death {
    BeforeCommit,
    AfterCommit,
    /// Before any operation, reads included.
    AtOperation,
}

/// What is wrong with the store on purpose, for tests.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Wrong {
    #[default]
    Nothing,
    /// Effects are there for whoever performs them before they are committed.
    TellsEarly,
    /// Now and then the last fact of a commit is lost, and the state is not.
    LosesFacts,
}

#[derive(Debug, Default)]
pub(crate) struct MortalStore {
    pub(crate) inner: MemoryStore,
    wrong: Wrong,
    dead: AtomicBool,
    /// Where it dies, and how many of these go well before that.
    dies: Mutex<Option<(Death, u32)>>,
    conflicts: AtomicU32,
    commits: AtomicU32,
    /// Effects that were told of before they were committed.
    early: Mutex<Vec<EffectWrite>>,
}

impl MortalStore {
    pub(crate) fn new(wrong: Wrong) -> MortalStore {
        MortalStore { wrong, ..MortalStore::default() }
    }

    /// The server dies there, after so many of the same went well.
    pub(crate) fn die(&self, death: Death, after: u32) {
        *lock(&self.dies) = Some((death, after));
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
        *lock(&self.dies) = None;
        self.conflicts.store(0, Ordering::SeqCst);
    }

    /// So many of the next commits find that somebody else was faster.
    pub(crate) fn conflict_next(&self, times: u32) {
        self.conflicts.store(times, Ordering::SeqCst);
    }

    /// What was told of before it was committed; only of a store that is wrong.
    pub(crate) fn take_early(&self) -> Vec<EffectWrite> {
        std::mem::take(&mut *lock(&self.early))
    }

    /// No fault that was asked for happens any more.
    pub(crate) fn calm(&self) {
        *lock(&self.dies) = None;
        self.conflicts.store(0, Ordering::SeqCst);
        // Each commit takes one of the faults that were asked for; an empty one does nothing else.
        for _ in 0..FAULTS_MAX {
            let _ = self.inner.commit(&Commit::default());
        }
        let _ = self.inner.tend();
    }

    /// Whether the time to die there has come; if it is due there later, one more has gone well.
    fn dies_now(&self, here: Death) -> bool {
        let mut dies = lock(&self.dies);
        match *dies {
            Some((death, 0)) if death == here => {
                *dies = None;
                self.kill();
                true
            }
            Some((death, after)) if death == here => {
                *dies = Some((death, after - 1));
                false
            }
            _ => false,
        }
    }

    fn alive(&self) -> Result<(), StoreError> {
        if self.is_dead() || self.dies_now(Death::AtOperation) {
            return Err(StoreError::Injected { operation: "reach a dead store" });
        }
        Ok(())
    }

    fn commit_one(&self, commit: &Commit) -> Result<(), CommitError> {
        self.alive()?;
        let gone = || CommitError::Store(StoreError::Injected { operation: "outlive the server" });
        if self.wrong == Wrong::TellsEarly {
            lock(&self.early).extend(commit.new_effects.iter().cloned());
        }
        if self.dies_now(Death::BeforeCommit) {
            return Err(gone());
        }
        let left = self.conflicts.load(Ordering::SeqCst);
        if let Some((id, version)) = commit.reads.first().filter(|_| left > 0) {
            self.conflicts.store(left - 1, Ordering::SeqCst);
            let (aggregate, expected, actual) = (id.clone(), *version, *version + 1);
            return Err(CommitError::Conflict { aggregate, expected, actual });
        }
        let made = match self.without_a_fact(commit) {
            Some(less) => self.inner.commit(&less),
            None => self.inner.commit(commit),
        };
        if self.dies_now(Death::AfterCommit) {
            return Err(gone());
        }
        made
    }

    /// The commit without its last fact, if this store is wrong and it is time for it.
    fn without_a_fact(&self, commit: &Commit) -> Option<Commit> {
        if self.wrong != Wrong::LosesFacts
            || !(self.commits.fetch_add(1, Ordering::SeqCst) + 1).is_multiple_of(LOSES_EVERY)
        {
            return None;
        }
        let mut less = commit.clone();
        less.writes.iter_mut().find(|write| write.facts.len() > 1)?.facts.pop();
        Some(less)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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

    fn waiting(&self) -> Result<Vec<Waiting>, StoreError> {
        self.alive().and_then(|()| self.inner.waiting())
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

//! The store in memory, for the simulator and for tests: the same semantics as on disk, deterministic, with snapshots
//! for crashes (what was committed survives) and faults on demand.

use crate::chain::{GENESIS, fact_hash};
use crate::error::{CommitError, StoreError};
use crate::model::{
    Commit, Due, EPOCH, EffectRecord, EffectWrite, FactRecord, Lane, Loaded, Reserve, Start, Waiting,
    check_id,
};
use crate::{PAGE_MAX, Store};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What happens to a commit instead of success.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The disk is full: nothing is changed; a commit of the rollback lane succeeds all the same, out of the reserve.
    NoSpace,
    /// The store fails and nothing is changed.
    Refused,
    /// The store fails after the commit was made: its outcome is unknown to the caller.
    Unacknowledged,
}

/// See the head of this file.
#[derive(Debug, Default)]
pub struct MemoryStore {
    state: Mutex<State>,
    faults: Mutex<VecDeque<Fault>>,
    forgetful: bool,
}

#[derive(Debug, Clone, Default)]
struct State {
    aggregates: BTreeMap<String, Loaded>,
    due: BTreeSet<(i64, String)>,
    facts: Vec<FactRecord>,
    /// Positions by aggregate.
    facts_of: BTreeMap<String, Vec<u64>>,
    effects: BTreeMap<String, EffectRecord>,
    effects_by_time: BTreeSet<(Lane, i64, String)>,
    documents: BTreeMap<String, Vec<u8>>,
    meta: BTreeMap<String, String>,
    epoch: u64,
    reserve_used: bool,
}

impl MemoryStore {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty store that forgets states and facts (see [`Store::is_forgetful`]): for a simulation that is never started
    /// again, and whose caller remembers everything itself.
    #[must_use]
    pub fn forgetful() -> Self {
        Self { forgetful: true, ..Self::default() }
    }

    /// What would be found after a crash at this moment: all that was committed, and no faults to come.
    #[must_use]
    pub fn snapshot(&self) -> Self {
        Self { state: Mutex::new(self.state().clone()), faults: Mutex::default(), forgetful: self.forgetful }
    }

    /// Lets one of the next commits fail: the first call means the next commit, a second call the one after it, and
    /// so on. Commits are counted one by one within [`Store::commit_many`].
    pub fn fail_next(&self, fault: Fault) {
        self.faults().push_back(fault);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn faults(&self) -> MutexGuard<'_, VecDeque<Fault>> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn no_space() -> CommitError {
    CommitError::NoSpace { place: "memory".to_owned() }
}

fn injected() -> CommitError {
    StoreError::Injected { operation: "commit" }.into()
}

impl State {
    fn commit(&mut self, commit: &Commit, fault: Option<Fault>, forgetful: bool) -> Result<(), CommitError> {
        let check_and_apply = |state: &mut State| {
            commit.check_shape()?;
            state.check(commit)?;
            state.apply(commit, forgetful);
            Ok(())
        };
        match (fault, commit.lane) {
            (None | Some(Fault::Unacknowledged), Lane::Forward | Lane::Page) if self.reserve_used => {
                Err(no_space())
            }
            (Some(Fault::NoSpace), Lane::Forward | Lane::Page) => Err(no_space()),
            (Some(Fault::Refused), _) => Err(injected()),
            (Some(Fault::NoSpace), Lane::Rollback) => {
                self.reserve_used = true;
                check_and_apply(self)
            }
            (Some(Fault::Unacknowledged), _) => check_and_apply(self).and(Err(injected())),
            (None, _) => check_and_apply(self),
        }
    }

    fn check(&self, commit: &Commit) -> Result<(), CommitError> {
        for (id, expected) in &commit.reads {
            self.check_version(id, *expected)?;
        }
        for write in &commit.writes {
            self.check_version(&write.id, write.expected_version)?;
            if write.expected_version == 0 && write.facts.is_empty() {
                return Err(CommitError::NoFact { aggregate: write.id.clone() });
            }
        }
        for (key, body) in &commit.documents {
            if self.documents.get(key).is_some_and(|stored| stored != body) {
                return Err(CommitError::DocumentDiffers { key: key.clone() });
            }
        }
        for EffectWrite { id, .. } in &commit.new_effects {
            if self.effects.contains_key(id) && !commit.ended_effects.contains(id) {
                return Err(CommitError::EffectExists { id: id.clone() });
            }
        }
        Ok(())
    }

    fn check_version(&self, id: &str, expected: u64) -> Result<(), CommitError> {
        let actual = self.aggregates.get(id).map_or(0, |loaded| loaded.version);
        if actual != expected {
            return Err(CommitError::Conflict { aggregate: id.to_owned(), expected, actual });
        }
        Ok(())
    }

    fn apply(&mut self, commit: &Commit, forgetful: bool) {
        for write in &commit.writes {
            let (mut version, mut head) =
                self.aggregates.get(&write.id).map_or((0, GENESIS), |loaded| (loaded.version, loaded.head));
            if forgetful {
                version += write.facts.len() as u64;
            }
            for fact in write.facts.iter().filter(|_| !forgetful) {
                version += 1;
                head = fact_hash(&head, &write.id, version, commit.at, &commit.cause, fact);
                self.append(commit, &write.id, version, fact, head);
            }
            let loaded = Loaded { version, state: write.state.clone(), due: None, head };
            self.set_due(&write.id, None);
            self.aggregates.insert(write.id.clone(), loaded);
            self.set_due(&write.id, write.due);
        }
        self.documents.extend(commit.documents.iter().cloned());
        for id in &commit.ended_effects {
            if let Some(ended) = self.effects.remove(id) {
                self.effects_by_time.remove(&(ended.lane, ended.not_before, ended.id));
            }
        }
        for new in &commit.new_effects {
            self.effects_by_time.insert((new.lane, new.not_before, new.id.clone()));
            let EffectWrite { id, aggregate, lane, body, not_before } = new.clone();
            let record =
                EffectRecord { id, aggregate, lane, body, attempt: 0, not_before, created_at: commit.at };
            self.effects.insert(new.id.clone(), record);
        }
        for postpone in &commit.postponed {
            if let Some(effect) = self.effects.get_mut(&postpone.id) {
                self.effects_by_time.remove(&(effect.lane, effect.not_before, effect.id.clone()));
                (effect.attempt, effect.not_before) = (postpone.attempt, postpone.not_before);
                self.effects_by_time.insert((effect.lane, effect.not_before, effect.id.clone()));
            }
        }
        for id in &commit.wake {
            if let Some(due) = self.aggregates.get(id).map(|loaded| loaded.due) {
                self.set_due(id, Some(due.map_or(commit.at, |due| due.min(commit.at))));
            }
        }
    }

    fn append(&mut self, commit: &Commit, aggregate: &str, seq: u64, fact: &[u8], hash: [u8; 32]) {
        let position = self.facts.len() as u64 + 1;
        self.facts.push(FactRecord {
            position,
            aggregate: aggregate.to_owned(),
            seq,
            at: commit.at,
            cause: commit.cause.clone(),
            fact: fact.to_vec(),
            hash,
        });
        self.facts_of.entry(aggregate.to_owned()).or_default().push(position);
    }

    fn set_due(&mut self, id: &str, due: Option<i64>) {
        let Some(loaded) = self.aggregates.get_mut(id) else { return };
        if let Some(old) = std::mem::replace(&mut loaded.due, due) {
            self.due.remove(&(old, id.to_owned()));
        }
        self.due.extend(due.map(|at| (at, id.to_owned())));
    }

    fn fact(&self, position: u64) -> Option<FactRecord> {
        self.facts.get(usize::try_from(position.checked_sub(1)?).ok()?).cloned()
    }

    fn page(
        &self,
        positions: impl DoubleEndedIterator<Item = u64>,
        start: Start,
        limit: usize,
    ) -> Vec<FactRecord> {
        let fact = |position| self.fact(position);
        match start {
            Start::After(after) => positions.filter(|p| *p > after).take(limit).filter_map(fact).collect(),
            Start::Before(before) => {
                positions.rev().filter(|p| *p < before).take(limit).filter_map(fact).collect()
            }
        }
    }
}

impl Store for MemoryStore {
    fn load(&self, id: &str) -> Result<Option<Loaded>, StoreError> {
        Ok(self.state().aggregates.get(id).cloned())
    }

    fn list(&self, prefix: &str, after: &str, limit: usize) -> Result<Vec<String>, StoreError> {
        let state = self.state();
        let from = prefix.max(after).to_owned();
        let ids = state.aggregates.range(from..).map(|(id, _)| id);
        let ids = ids.take_while(|id| id.starts_with(prefix)).filter(|id| id.as_str() > after);
        Ok(ids.take(limit.min(PAGE_MAX)).cloned().collect())
    }

    fn due(&self, now: i64, limit: usize) -> Result<Vec<Due>, StoreError> {
        let state = self.state();
        let due = state.due.iter().take_while(|(at, _)| *at <= now).take(limit.min(PAGE_MAX));
        Ok(due.map(|(at, id)| Due { id: id.clone(), at: *at }).collect())
    }

    fn next_due(&self) -> Result<Option<i64>, StoreError> {
        Ok(self.state().due.first().map(|(at, _)| *at))
    }

    fn effects(&self, lane: Lane, now: i64, limit: usize) -> Result<Vec<EffectRecord>, StoreError> {
        let state = self.state();
        let times = state.effects_by_time.range((lane, i64::MIN, String::new())..);
        let ready = times.take_while(|(of, at, _)| *of == lane && *at <= now).take(limit.min(PAGE_MAX));
        Ok(ready.filter_map(|(_, _, id)| state.effects.get(id).cloned()).collect())
    }

    fn next_effect_at(&self, lane: Lane) -> Result<Option<i64>, StoreError> {
        let state = self.state();
        let mut times = state.effects_by_time.range((lane, i64::MIN, String::new())..);
        Ok(times.next().filter(|(of, _, _)| *of == lane).map(|(_, at, _)| *at))
    }

    fn effect(&self, id: &str) -> Result<Option<EffectRecord>, StoreError> {
        Ok(self.state().effects.get(id).cloned())
    }

    fn waiting(&self) -> Result<Vec<Waiting>, StoreError> {
        let state = self.state();
        let of = |lane: Lane| {
            let created = state.effects.values().filter(|e| e.lane == lane).map(|e| e.created_at);
            let effects = created.clone().count() as u64;
            created.min().map(|oldest| Waiting { lane, effects, oldest })
        };
        // In the order of their names.
        Ok([Lane::Forward, Lane::Page, Lane::Rollback].into_iter().filter_map(of).collect())
    }

    fn facts(
        &self,
        aggregate: Option<&str>,
        start: Start,
        limit: usize,
    ) -> Result<Vec<FactRecord>, StoreError> {
        let state = self.state();
        let limit = limit.min(PAGE_MAX);
        Ok(match (aggregate, start) {
            (Some(id), _) => {
                let positions = state.facts_of.get(id).map(Vec::as_slice).unwrap_or_default();
                state.page(positions.iter().copied(), start, limit)
            }
            (None, Start::After(after)) => {
                state.page(after.saturating_add(1)..=state.facts.len() as u64, start, limit)
            }
            (None, Start::Before(before)) => {
                state.page(1..before.min(state.facts.len() as u64 + 1), start, limit)
            }
        })
    }

    fn document(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.state().documents.get(key).cloned())
    }

    fn meta(&self, key: &str) -> Result<Option<String>, StoreError> {
        Ok(self.state().meta.get(key).cloned())
    }

    fn set_meta(&self, key: &str, value: &str) -> Result<(), CommitError> {
        check_id("meta", key)?;
        self.state().meta.insert(key.to_owned(), value.to_owned());
        Ok(())
    }

    fn acquire_epoch(&self, above: u64) -> Result<u64, CommitError> {
        let mut state = self.state();
        state.epoch = state.epoch.max(above).saturating_add(1);
        let epoch = state.epoch;
        state.meta.insert(EPOCH.to_owned(), epoch.to_string());
        Ok(epoch)
    }

    fn commit_many(&self, commits: &[Commit]) -> Vec<Result<(), CommitError>> {
        let mut state = self.state();
        commits.iter().map(|commit| state.commit(commit, self.faults().pop_front(), self.forgetful)).collect()
    }

    fn is_forgetful(&self) -> bool {
        self.forgetful
    }

    fn tend(&self) -> Result<Reserve, StoreError> {
        self.state().reserve_used = false;
        Ok(Reserve::Held)
    }
}

//! One event: load -> decide -> commit. Facts of all aggregates, their states, effects, documents and wakes are one
//! transaction, which fails if anything that the decision relied on has changed; then it is decided again.

use crate::cache::stripe;
use crate::codec::{Entry, Shared, encode, encode_state, parse_id};
use crate::error::{RuntimeError, SubmitError};
use crate::{Outcome, Runtime};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::sync::{MutexGuard, PoisonError};
use tidegate_core::aggregate::{self, State};
use tidegate_core::alarm::Word;
use tidegate_core::decision::{
    Actor, AggregateId, Decision, Effect, EffectId, Event, Fact, ForwardEffect, Illegal,
};
use tidegate_core::definition::PipelineDef;
use tidegate_core::ids::TeamId;
use tidegate_core::lease::{Lease, LeaseId};
use tidegate_core::organisation::Organisation;
use tidegate_core::pipeline::{Motion, Pipeline, PipelineEvent, Snapshots};
use tidegate_core::scope::Scope;
use tidegate_core::team::TeamEvent;
use tidegate_core::units::Timestamp;
use tidegate_store::{AggregateWrite, Commit, CommitError, EffectWrite, Lane};
use tracing::debug;

/// How often an event is decided at most, because others change what it relies on.
pub const DECIDE_TRIES_MAX: u32 = 32;

/// What goes along with an event.
#[derive(Clone, Copy, Default)]
pub(crate) struct With<'a> {
    /// The effect whose result it is: it ends with it.
    pub(crate) ends: Option<&'a EffectId>,
    /// The timer of the event's aggregate as the store has it, if it is known better than the cache knows it.
    pub(crate) timer: Option<Timestamp>,
}

/// Everything that a decision relies on.
struct Seen {
    entries: BTreeMap<AggregateId, Entry>,
    now: Timestamp,
}

/// What the core says to an event.
type Decided = Result<(State, Decision), Illegal>;

/// What one try came to.
enum Try {
    Done(Outcome),
    /// Nobody had worked until the moment of the decision.
    Late,
    /// The decision touches an aggregate that it had not seen.
    Unseen(AggregateId),
    /// Somebody was faster.
    Conflict,
}

impl Runtime {
    pub(crate) fn run(&self, event: &Event, cause: &Actor, with: With<'_>) -> Result<Outcome, SubmitError> {
        let own = event.aggregate();
        let result = self.in_turn(event, &own, cause, with);
        self.counts.decided(&own, &result);
        result
    }

    fn in_turn(
        &self,
        event: &Event,
        own: &AggregateId,
        cause: &Actor,
        with: With<'_>,
    ) -> Result<Outcome, SubmitError> {
        let _turn = self.turn(own);
        self.time_for(event)?;
        self.decide_often(event, own, cause, with)
    }

    /// Decides and commits, again as long as somebody is faster. Within the aggregate's turn.
    pub(crate) fn decide_often(
        &self,
        event: &Event,
        own: &AggregateId,
        cause: &Actor,
        with: With<'_>,
    ) -> Result<Outcome, SubmitError> {
        let mut extra = BTreeSet::new();
        for _ in 0..DECIDE_TRIES_MAX {
            match self.attempt(event, own, cause, with, &extra)? {
                Try::Done(outcome) => return Ok(outcome),
                Try::Unseen(id) => {
                    extra.insert(id);
                }
                Try::Late => self.time_for(event)?,
                Try::Conflict => self.counts.conflict(),
            }
        }
        Err(SubmitError::Busy { aggregate: own.to_string(), tries: DECIDE_TRIES_MAX })
    }

    /// Events of one aggregate are decided one after the other: together they would only conflict.
    pub(crate) fn turn(&self, id: &AggregateId) -> MutexGuard<'_, ()> {
        self.turns[stripe(id, self.turns.len())].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn attempt(
        &self,
        event: &Event,
        own: &AggregateId,
        cause: &Actor,
        with: With<'_>,
        extra: &BTreeSet<AggregateId>,
    ) -> Result<Try, SubmitError> {
        let (seen, decided) = self.decide(event, own, extra)?;
        if self.is_late(event, seen.now) {
            return Ok(Try::Late);
        }
        let (after, decision) = match decided {
            Ok(decided) => decided,
            Err(illegal) => {
                // A result that is not legal now never will be.
                if let Some(effect) = with.ends {
                    self.effect_done(effect)?;
                }
                return Err(illegal.into());
            }
        };
        let touched = decision.facts.iter().map(|(id, _)| id);
        if let Some(unseen) = touched.into_iter().find(|id| !seen.entries.contains_key(*id)) {
            return Ok(Try::Unseen(unseen.clone()));
        }
        let timer = with.timer.or(seen.entries[own].due);
        let idle = decision.facts.is_empty()
            && decision.effects.is_empty()
            && decision.cancelled.is_empty()
            && decision.wake.is_empty()
            && !decision.wake_all
            && decision.due == timer
            && with.ends.is_none();
        if idle {
            return Ok(Try::Done(Outcome { at: seen.now, facts: Vec::new(), effects: Vec::new() }));
        }
        let lane = lane(event, &decision, &seen.entries[own], &after);
        self.commit(own, cause, with, seen, decision, after, lane)
    }

    /// What the core decides on what is so now, and everything that it saw.
    fn decide(
        &self,
        event: &Event,
        own: &AggregateId,
        extra: &BTreeSet<AggregateId>,
    ) -> Result<(Seen, Decided), RuntimeError> {
        let (mut seen, snapshots) = self.look(event, own)?;
        for id in extra {
            self.see(&mut seen.entries, id)?;
        }
        seen.now = self.time(own, &seen.entries);
        let state = seen.entries[own].state.to_state();
        let decided = aggregate::decide(state, event, seen.now, &snapshots);
        Ok((seen, decided))
    }

    pub(crate) fn only_decide(&self, event: &Event) -> Result<Outcome, SubmitError> {
        let (seen, decided) = self.decide(event, &event.aggregate(), &BTreeSet::new())?;
        let (_, Decision { facts, effects, .. }) = decided?;
        Ok(Outcome { at: seen.now, facts, effects })
    }

    #[expect(clippy::too_many_arguments, reason = "all parts of one decision, used once")]
    fn commit(
        &self,
        own: &AggregateId,
        cause: &Actor,
        with: With<'_>,
        seen: Seen,
        decision: Decision,
        after: State,
        lane: Lane,
    ) -> Result<Try, SubmitError> {
        let (writes, entries) = self.writes(own, &seen, with.timer, &decision, after)?;
        let commit = self.make_commit(own, cause, with, &seen, &decision, writes, lane)?;
        let publishing = self.publishing.read().unwrap_or_else(PoisonError::into_inner);
        match self.store.commit(&commit) {
            Ok(()) => {
                let changed: Vec<AggregateId> = entries.keys().cloned().collect();
                self.publish(&commit, entries);
                drop(publishing);
                self.tell(own, &commit, &changed, &decision);
                let Decision { facts, effects, .. } = decision;
                Ok(Try::Done(Outcome { at: seen.now, facts, effects }))
            }
            Err(CommitError::Conflict { aggregate, .. }) => {
                self.cache.drop(&parse_id(&aggregate)?);
                Ok(Try::Conflict)
            }
            Err(CommitError::NoSpace { .. }) => Err(SubmitError::NoSpace),
            Err(source) => {
                // Whether it was made is unknown: nothing that it touched is known any more.
                seen.entries.keys().for_each(|id| self.cache.drop(id));
                decision.wake.iter().for_each(|id| self.cache.drop(id));
                if let Some(listener) = &self.options.listener {
                    let touched: Vec<AggregateId> = seen.entries.keys().cloned().collect();
                    listener.committed(&touched, &[Lane::Forward, Lane::Rollback, Lane::Page]);
                }
                Err(RuntimeError::Write { what: own.to_string(), source }.into())
            }
        }
    }

    #[expect(clippy::too_many_arguments, reason = "all parts of one decision, used once")]
    fn make_commit(
        &self,
        own: &AggregateId,
        cause: &Actor,
        with: With<'_>,
        seen: &Seen,
        decision: &Decision,
        writes: Vec<AggregateWrite>,
        lane: Lane,
    ) -> Result<Commit, RuntimeError> {
        let new_effects = decision.effects.iter().map(|new| {
            Ok(EffectWrite {
                id: new.id.0.clone(),
                aggregate: own.to_string(),
                lane: lane_of(&new.effect),
                body: encode(&new.effect, || format!("effect {}", new.id))?,
                not_before: seen.now.0,
            })
        });
        let documents = decision.run_specs.iter().map(|(digest, spec)| {
            Ok((run_spec_key(digest.as_str()), encode(spec, || format!("RunSpec {digest}"))?))
        });
        let mut wake: BTreeSet<String> = decision.wake.iter().map(ToString::to_string).collect();
        if decision.wake_all {
            wake.extend(self.list("pipeline/")?);
        }
        // Its own timer is what this decision says.
        wake.remove(&own.to_string());
        Ok(Commit {
            at: seen.now.0,
            lane,
            cause: encode(cause, || format!("the cause of a change to {own}"))?,
            reads: seen.entries.iter().map(|(id, entry)| (id.to_string(), entry.version)).collect(),
            writes,
            documents: documents.collect::<Result<_, RuntimeError>>()?,
            ended_effects: decision.cancelled.iter().chain(with.ends).map(|id| id.0.clone()).collect(),
            new_effects: new_effects.collect::<Result<_, RuntimeError>>()?,
            postponed: Vec::new(),
            wake: wake.into_iter().collect(),
        })
    }

    /// Brings what was committed into memory.
    fn publish(&self, commit: &Commit, entries: BTreeMap<AggregateId, Entry>) {
        self.newest_ms.fetch_max(commit.at, Ordering::SeqCst);
        for (id, entry) in entries {
            self.cache.committed(&id, entry);
        }
        for id in commit.wake.iter().filter_map(|id| parse_id(id).ok()) {
            self.cache.woken(&id, Timestamp(commit.at));
        }
    }

    /// Tells whoever listens of a commit.
    fn tell(&self, own: &AggregateId, commit: &Commit, changed: &[AggregateId], decision: &Decision) {
        let lanes: BTreeSet<Lane> = decision.effects.iter().map(|e| lane_of(&e.effect)).collect();
        debug!(
            aggregate = %own,
            facts = decision.facts.len(),
            effects = decision.effects.len(),
            wakes = commit.wake.len(),
            lane = ?commit.lane,
            at = %Timestamp(commit.at),
            "committed"
        );
        if let Some(listener) = &self.options.listener {
            listener.committed(changed, &lanes.into_iter().collect::<Vec<_>>());
        }
    }

    /// What is written of each aggregate, and what the cache holds of it afterwards.
    fn writes(
        &self,
        own: &AggregateId,
        seen: &Seen,
        timer: Option<Timestamp>,
        decision: &Decision,
        after: State,
    ) -> Result<Writes, RuntimeError> {
        let mut facts: BTreeMap<&AggregateId, Vec<&Fact>> = BTreeMap::new();
        for (id, fact) in &decision.facts {
            facts.entry(id).or_default().push(fact);
        }
        let timer = timer.or(seen.entries[own].due);
        if decision.due != timer || !decision.effects.is_empty() {
            facts.entry(own).or_default();
        }
        let (mut writes, mut entries, mut after) = (Vec::new(), BTreeMap::new(), Some(after));
        for (id, facts) in facts {
            let before = &seen.entries[id];
            if before.version == 0 && facts.is_empty() {
                continue;
            }
            let decided = if id == own { after.take() } else { None };
            debug_assert!(
                decided
                    .as_ref()
                    .is_none_or(|state| folded(id, before, &facts).is_ok_and(|folded| &folded == state)),
                "the facts of {id} do not add up to what was decided"
            );
            let state = decided.map_or_else(|| folded(id, before, &facts), Ok)?;
            let due = if id == own { decision.due } else { before.due };
            let encoded = facts.iter().map(|fact| match self.store.is_forgetful() {
                true => Ok(Vec::new()),
                false => encode(fact, || format!("a fact of {id}")),
            });
            let bytes = match self.store.is_forgetful() {
                true => Vec::new(),
                false => encode_state(id, seen.now, &state)?,
            };
            writes.push(AggregateWrite {
                id: id.to_string(),
                expected_version: before.version,
                facts: encoded.collect::<Result<_, RuntimeError>>()?,
                state: bytes,
                due: due.map(|at| at.0),
            });
            let version = before.version + facts.len() as u64;
            entries.insert(id.clone(), Entry { version, at: seen.now, due, state: Shared::new(state) });
        }
        Ok((writes, entries))
    }

    /// The aggregates that a decision on this event looks at, and their states as the core wants them.
    fn look(&self, event: &Event, own: &AggregateId) -> Result<(Seen, Snapshots), RuntimeError> {
        let mut seen = Seen { entries: BTreeMap::new(), now: Timestamp(i64::MIN) };
        let mut snapshots = Snapshots { switches: self.options.switches, ..Snapshots::default() };
        let entry = self.see(&mut seen.entries, own)?;
        let (Event::Pipeline(_, event), Shared::Pipeline(pipeline)) = (event, entry.state) else {
            return Ok((seen, snapshots));
        };
        if let Shared::Organisation(state) = self.see(&mut seen.entries, &AggregateId::Organisation)?.state {
            snapshots.organisation = state;
        }
        if let Some(team) = owner(&pipeline, event, &snapshots.organisation)
            && let Shared::Team(state) = self.see(&mut seen.entries, &AggregateId::Team(team))?.state
        {
            snapshots.team = state;
        }
        for lease in leases(&pipeline, event, &snapshots.organisation) {
            let id = AggregateId::Lease(lease.clone());
            // One that nobody holds is as one that is not there.
            if let Shared::Lease(state) = self.see(&mut seen.entries, &id)?.state
                && *state != Lease::Free
            {
                snapshots.leases.insert(lease, (*state).clone());
            }
        }
        Ok((seen, snapshots))
    }

    fn see(
        &self,
        entries: &mut BTreeMap<AggregateId, Entry>,
        id: &AggregateId,
    ) -> Result<Entry, RuntimeError> {
        let entry = self.load(id)?;
        entries.insert(id.clone(), entry.clone());
        Ok(entry)
    }

    /// The time of a decision: never before that of anything it relies on, and after the last one on its own aggregate, so
    /// that an effect that is named after the time is named once.
    fn time(&self, own: &AggregateId, seen: &BTreeMap<AggregateId, Entry>) -> Timestamp {
        let newest = seen.iter().map(|(id, entry)| match entry.at {
            at if id == own => Timestamp(at.0.saturating_add(1)),
            at => at,
        });
        newest.max().map_or(self.now(), |newest| newest.max(self.now()))
    }
}

/// The key of a RunSpec's document.
pub(crate) fn run_spec_key(digest: &str) -> String {
    format!("run-spec/{digest}")
}

/// The lane that an effect is queued in.
#[must_use]
pub fn lane_of(effect: &Effect) -> Lane {
    match effect {
        Effect::Forward(ForwardEffect::Page(_)) => Lane::Page,
        Effect::Forward(_) => Lane::Forward,
        Effect::Rollback(_) => Lane::Rollback,
    }
}

/// Whatever takes something back, or may, is recorded even on a full disk (rule 5).
fn lane(event: &Event, decision: &Decision, before: &Entry, after: &State) -> Lane {
    let back = |p: &Pipeline| p.slots.values().any(|slot| matches!(slot.motion, Motion::Back { .. }));
    let rolls_back = decision.effects.iter().any(|e| matches!(e.effect, Effect::Rollback(_)))
        || matches!(&before.state, Shared::Pipeline(p) if back(p))
        || matches!(after, State::Pipeline(p) if back(p))
        || matches!(
            event,
            Event::Team(_, TeamEvent::Evaluated { .. } | TeamEvent::Tick)
                // What is not given its time back could be taken back for nothing.
                | Event::Pipeline(_, PipelineEvent::RollbackOrdered { .. } | PipelineEvent::Resumed { .. })
        )
        || matches!(event, Event::Team(_, TeamEvent::Reported { words })
            if words.values().flat_map(BTreeMap::values).any(Word::is_bad));
    if rolls_back { Lane::Rollback } else { Lane::Forward }
}

/// The team whose state the decision needs: the owner, or who becomes it when a pipeline is applied for the first time.
fn owner(pipeline: &Pipeline, event: &PipelineEvent, organisation: &Organisation) -> Option<TeamId> {
    if pipeline.team.is_some() {
        return pipeline.team.clone();
    }
    let PipelineEvent::Applied { definition } = event else { return None };
    organisation.definition.as_ref()?.service(&definition.service).map(|s| s.team.clone())
}

/// Every lease that the decision may look at: of the targets that it has, and of those of a plan that it is about to get. Also
/// those that do not exist: that nobody has taken one is relied on as well.
fn leases(pipeline: &Pipeline, event: &PipelineEvent, organisation: &Organisation) -> BTreeSet<LeaseId> {
    let planned = |d| organisation.definition.as_ref().is_some_and(|o| pipeline.plan.is_of(d, o));
    let coming: Option<&PipelineDef> = match event {
        PipelineEvent::Applied { definition } => Some(definition),
        PipelineEvent::Tick => pipeline.definition.as_ref().filter(|d| !planned(d)).map(|d| &**d),
        _ => None,
    };
    let Some(service) = pipeline.definition.as_deref().or(coming).map(|d| &d.service) else {
        return BTreeSet::new();
    };
    let coming = coming
        .zip(organisation.definition.as_ref())
        .map(|(definition, organisation)| tidegate_core::plan::plan(definition, organisation));
    let mut scopes: Vec<Scope> = Vec::new();
    // A pipeline has a slot for every target of its plan; those of a Region stand together.
    for target in pipeline.slots.keys().chain(coming.iter().flat_map(|plan| plan.targets()).map(|t| &t.id)) {
        if scopes.last().is_none_or(|s| s.region != target.region || s.environment != target.environment) {
            scopes.push(Scope::of(target));
        }
    }
    scopes.into_iter().map(|scope| LeaseId::new(service, scope)).collect()
}

type Writes = (Vec<AggregateWrite>, BTreeMap<AggregateId, Entry>);

/// The state after these facts.
fn folded(id: &AggregateId, before: &Entry, facts: &[&Fact]) -> Result<State, RuntimeError> {
    let mut state = before.state.to_state();
    for fact in facts {
        let wrong = |wrong| RuntimeError::WrongKind { aggregate: id.to_string(), source: Some(wrong) };
        state.apply(fact).map_err(wrong)?;
    }
    Ok(state)
}

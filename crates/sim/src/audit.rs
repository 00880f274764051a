//! Reads the log as it grows, folds it, and remembers what the rules need to know of the past. It reads the store itself:
//! what the server believes is not asked.

use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use tidegate_core::aggregate::State;
use tidegate_core::decision::Fact;
use tidegate_core::ids::{CommitId, PipelineId, RegionId, ReleaseNo, RunSpecDigest, SlotId, TargetId};
use tidegate_core::invariants;
use tidegate_core::lease::Lease;
use tidegate_core::organisation::Organisation;
use tidegate_core::pipeline::{Blocker, Cause, Pipeline, PipelineFact, SlotState};
use tidegate_core::plan::StepId;
use tidegate_core::scope::Scope;
use tidegate_core::team::{Team, aggregate_name};
use tidegate_core::units::{Span, Timestamp};
use tidegate_store::{MemoryStore, Start, Store};

#[derive(Deserialize)]
struct Stored {
    at: Timestamp,
    state: State,
}

/// A conviction: what it tainted.
#[derive(Debug, Clone)]
pub(crate) struct Conviction {
    pub(crate) commits: BTreeSet<CommitId>,
    pub(crate) why: String,
    /// It returned together with this one, whose changes it contains: who clears that one clears it.
    with: Option<ReleaseNo>,
}

/// A bake that runs.
#[derive(Debug, Clone)]
pub(crate) struct Bake {
    pub(crate) started: i64,
    pub(crate) needed: Span,
    pub(crate) regions: Vec<RegionId>,
}

/// What the log says of the world, to be compared with it.
#[derive(Debug, Clone)]
pub(crate) enum Claim {
    /// Something was concluded of what an engine told, which was to have taken this generation.
    Taken { slot: SlotId, generation: u64 },
    /// A bake is over.
    Baked { pipeline: PipelineId, step: StepId, release: ReleaseNo, bake: Bake },
}

/// The fold of the log and its memory.
#[derive(Default)]
pub(crate) struct Audit {
    position: u64,
    versions: BTreeMap<String, u64>,
    times: BTreeMap<String, i64>,
    states: BTreeMap<String, State>,
    /// Steps that a release has passed.
    passed: BTreeSet<(PipelineId, StepId, ReleaseNo)>,
    /// What may run in a slot: what has entered the step of its target.
    pub(crate) allowed: BTreeMap<SlotId, BTreeSet<RunSpecDigest>>,
    /// When each bake began in the world, and how long it is to be in which Regions.
    bakes: BTreeMap<(PipelineId, StepId), Bake>,
    /// When each command to a slot was decided, in the world.
    pub(crate) ordered: BTreeMap<(SlotId, u64), i64>,
    /// The world's time at which the log is read.
    world: i64,
    /// The newest time in the log.
    pub(crate) newest: i64,
    /// How many facts decided something that people wait for or fear.
    pub(crate) turning_points: u64,
    /// What was concluded and is to be compared with the world.
    pub(crate) claims: Vec<Claim>,
    rejected: u64,
    /// The newest conviction of each pipeline.
    newest_rejected: BTreeMap<PipelineId, ReleaseNo>,
    /// The overrides under which each pipeline's newest entry was made, and at which step.
    entries: BTreeMap<PipelineId, (StepId, Vec<u64>)>,
    pub(crate) convicted: BTreeMap<(PipelineId, ReleaseNo), Conviction>,
    /// What was found while reading, by rule.
    pub(crate) found: Vec<(u8, String)>,
    /// The newest lines, for people.
    pub(crate) lines: Vec<String>,
    lines_kept: usize,
}

impl Audit {
    /// Nothing read yet; keeps so many lines for people.
    pub(crate) fn new(lines_kept: usize) -> Audit {
        Audit { lines_kept, ..Audit::default() }
    }

    pub(crate) fn pipelines(&self) -> impl Iterator<Item = (PipelineId, &Pipeline)> {
        self.states.iter().filter_map(|(id, state)| match state {
            State::Pipeline(p) => Some((id.strip_prefix("pipeline/")?.parse().ok()?, p)),
            _ => None,
        })
    }

    pub(crate) fn pipeline(&self, id: &PipelineId) -> Option<&Pipeline> {
        match self.states.get(&format!("pipeline/{id}")) {
            Some(State::Pipeline(p)) => Some(p),
            _ => None,
        }
    }

    pub(crate) fn team(&self) -> Option<&Team> {
        self.states.values().find_map(|s| if let State::Team(t) = s { Some(t) } else { None })
    }

    pub(crate) fn organisation(&self) -> Option<&Organisation> {
        self.states.values().find_map(|s| if let State::Organisation(o) = s { Some(o) } else { None })
    }

    pub(crate) fn leases(&self) -> impl Iterator<Item = (&String, &Lease)> {
        self.states.iter().filter_map(|(id, s)| if let State::Lease(l) = s { Some((id, l)) } else { None })
    }

    /// How many facts were read.
    pub(crate) fn facts(&self) -> u64 {
        self.position
    }

    /// How many releases were rejected.
    pub(crate) fn rejected(&self) -> u64 {
        self.rejected
    }

    /// Reads on; compares what changed with the stored states (rule 10).
    pub(crate) fn read(&mut self, store: &MemoryStore, world: i64) {
        self.world = world;
        let mut changed = BTreeSet::new();
        while let Ok(page) = store.facts(None, Start::After(self.position), 1_000) {
            let Some(last) = page.last() else { break };
            self.position = last.position;
            for record in page {
                let Ok(fact) = serde_json::from_slice::<Fact>(&record.fact) else {
                    self.found.push((10, format!("fact {} does not parse", record.position)));
                    continue;
                };
                self.newest = self.newest.max(record.at);
                let last = self.times.insert(record.aggregate.clone(), record.at);
                if last.is_some_and(|last| last > record.at) {
                    self.found.push((10, format!("time went back in {}", record.aggregate)));
                }
                if let (Fact::Pipeline(fact), Some(Ok(id))) =
                    (&fact, record.aggregate.strip_prefix("pipeline/").map(str::parse))
                {
                    self.note(&id, fact, Timestamp(record.at));
                }
                let state =
                    self.states.entry(record.aggregate.clone()).or_insert_with(|| initial(&record.aggregate));
                if state.apply(&fact).is_err() {
                    self.found.push((10, format!("fact {} is of another kind", record.position)));
                }
                *self.versions.entry(record.aggregate.clone()).or_default() += 1;
                let mut line = format!("{} {} {fact:?}", Timestamp(record.at), record.aggregate);
                if line.len() > 700 {
                    line = line.chars().take(700).collect();
                }
                self.lines.push(line);
                changed.insert(record.aggregate);
            }
        }
        let excess = self.lines.len().saturating_sub(self.lines_kept);
        self.lines.drain(..excess);
        for id in changed {
            self.compare(store, &id);
        }
    }

    fn compare(&mut self, store: &MemoryStore, id: &str) {
        let Ok(Some(loaded)) = store.load(id) else {
            self.found.push((10, format!("{id} has facts and no state")));
            return;
        };
        let stored: Result<Stored, _> = serde_json::from_slice(&loaded.state);
        let same = stored.is_ok_and(|s| Some(&s.state) == self.states.get(id) && s.at.0 >= self.times[id]);
        if !same || Some(&loaded.version) != self.versions.get(id) {
            self.found.push((10, format!("folding the log of {id} does not give its stored state")));
        }
    }

    /// What the rules need to know of a fact, before it is applied.
    fn note(&mut self, id: &PipelineId, fact: &PipelineFact, at: Timestamp) {
        self.turning_points += u64::from(matches!(
            fact,
            PipelineFact::Entered { .. }
                | PipelineFact::BakeStarted { .. }
                | PipelineFact::StepDone { .. }
                | PipelineFact::StepRollingBack { .. }
                | PipelineFact::StepRolledBack { .. }
                | PipelineFact::SlotAsked { .. }
                | PipelineFact::Built { .. }
                | PipelineFact::RunSpecsMade { .. }
                | PipelineFact::Defined { .. }
        ));
        match fact {
            PipelineFact::StepDone { step, release, .. } => {
                self.passed.insert((id.clone(), step.clone(), *release));
                self.baked(id, step, *release);
            }
            PipelineFact::BakeStarted { step, clock } => {
                let regions = clock.regions.keys().cloned().collect();
                let bake = Bake { started: self.world, needed: clock.minimum, regions };
                self.bakes.insert((id.clone(), step.clone()), bake);
            }
            PipelineFact::Entered { step, release, overrides, .. } => {
                self.entered(id, step, *release);
                self.started(id, fact, at);
                self.entries.insert(id.clone(), (step.clone(), overrides.clone()));
            }
            PipelineFact::SlotForward { target, release, generation, .. } => {
                self.starts(id, target, *release, at);
                let slot = SlotId { target: target.clone(), pipeline: id.clone() };
                let spec = self.pipeline(id).and_then(|p| p.run_spec(*release, &target.environment)).cloned();
                self.allowed.entry(slot).or_default().extend(spec);
                self.order(id, target, *generation);
            }
            PipelineFact::SlotAsked { target, generation, .. } => {
                self.concluded(id, target);
                self.order(id, target, *generation);
            }
            PipelineFact::SlotSettled { target, .. } => self.concluded(id, target),
            PipelineFact::SlotBack { target, generation, .. } => self.order(id, target, *generation),
            PipelineFact::Rejected { release, cause, taint, .. } => {
                self.rejected += 1;
                self.newest_rejected.insert(id.clone(), *release);
                let conviction = Conviction { commits: taint.clone(), why: cause.to_string(), with: None };
                self.convicted.insert((id.clone(), *release), conviction);
            }
            PipelineFact::StepRollingBack { step, release, cause, done, .. } => {
                // What was taken back has not passed any more.
                self.passed
                    .retain(|(of, at, passed)| of != id || at != step || done.is_some_and(|d| *passed <= d));
                // What its pipeline's retirement had left half way is only brought home, whatever somebody else is guilty of.
                let state = self.pipeline(id).and_then(|pipeline| pipeline.steps.get(step));
                let judged = state.and_then(|state| state.work.watched()).is_some_and(|(r, _)| r == *release);
                if judged {
                    self.taken_back(id, *release, cause);
                }
            }
            PipelineFact::TaintCleared { release, .. } => {
                self.convicted.remove(&(id.clone(), *release));
                self.convicted.retain(|(of, _), conviction| of != id || conviction.with != Some(*release));
            }
            _ => {}
        }
    }

    fn order(&mut self, id: &PipelineId, target: &TargetId, generation: u64) {
        let slot = SlotId { target: target.clone(), pipeline: id.clone() };
        self.ordered.insert((slot, generation), self.world);
    }

    /// Something follows from what an engine told of a target.
    fn concluded(&mut self, id: &PipelineId, target: &TargetId) {
        let Some(generation) = self.pipeline(id).and_then(|p| p.slots.get(target)).map(|s| s.generation)
        else {
            return;
        };
        let slot = SlotId { target: target.clone(), pipeline: id.clone() };
        self.claims.push(Claim::Taken { slot, generation });
    }

    /// Whoever is taken back for something that it did itself is convicted, whatever the state says of it.
    fn taken_back(&mut self, id: &PipelineId, release: ReleaseNo, cause: &Cause) {
        let own = match cause {
            Cause::Alarm { alarm, .. } => *alarm != aggregate_name(),
            Cause::Tests { .. } | Cause::Health { .. } | Cause::Person { .. } => true,
        };
        if own && !self.convicted.contains_key(&(id.clone(), release)) {
            let with = self.newest_rejected.get(id).copied();
            let conviction = Conviction { commits: BTreeSet::new(), why: cause.to_string(), with };
            self.convicted.insert((id.clone(), release), conviction);
        }
    }

    fn baked(&mut self, id: &PipelineId, step: &StepId, release: ReleaseNo) {
        match self.bakes.get(&(id.clone(), step.clone())).cloned() {
            Some(bake) => {
                let (pipeline, step) = (id.clone(), step.clone());
                self.claims.push(Claim::Baked { pipeline, step, release, bake });
            }
            None => self.found.push((3, format!("{release} of {id} passed {step} without a bake"))),
        }
    }

    /// Rule 7 on the states that the decision relied on: facts of others stand before this one in the log.
    fn started(&mut self, id: &PipelineId, fact: &PipelineFact, at: Timestamp) {
        let Some(pipeline) = self.pipeline(id) else { return };
        let start = invariants::start(id, pipeline, self.team(), self.organisation(), fact, at);
        self.found.extend(start.err().map(|violation| (violation.rule.number(), violation.to_string())));
    }

    fn entered(&mut self, id: &PipelineId, step: &StepId, release: ReleaseNo) {
        let mut found = Vec::new();
        if let Some(pipeline) = self.pipeline(id) {
            let steps: Vec<&StepId> = pipeline.plan.steps().map(|(_, s)| &s.id).collect();
            let before =
                steps.iter().position(|s| *s == step).and_then(|n| n.checked_sub(1)).map(|n| steps[n]);
            if let Some(before) = before
                && !self.passed.contains(&(id.clone(), before.clone(), release))
            {
                found.push((3, format!("{release} of {id} entered {step} without having passed {before}")));
            }
            if let Some(why) = self.tainted(id, pipeline, release) {
                found.push((6, format!("{release} of {id} entered {step}: {why}")));
            }
        }
        self.found.extend(found);
    }

    /// What a target's start needs of its own Region: quiet alarms (or an override), nobody who skips it, and all the
    /// Region's targets in the earlier steps of the stage on the release.
    fn starts(&mut self, id: &PipelineId, target: &TargetId, release: ReleaseNo, at: Timestamp) {
        let Some(pipeline) = self.pipeline(id) else { return };
        let scope = Scope::of(target);
        let mut found = Vec::new();
        if let Some((number, _)) = pipeline.skip_of(&scope, release) {
            found.push((7, format!("{release} of {id} goes to {target} although skip {number} stands")));
        }
        let overrides = self.entries.get(id).map(|(_, overrides)| overrides.as_slice()).unwrap_or_default();
        let firing = self
            .team()
            .is_some_and(|t| t.alarm(&scope, &aggregate_name()) == tidegate_core::alarm::AlarmState::Alarm);
        let step = pipeline.plan.step_of(target);
        let open = step.is_some_and(|(_, step)| {
            invariants::opened(pipeline, &step.id, release, overrides, at).contains(&Blocker::AggregateAlarm)
        });
        if firing && !open {
            found.push((7, format!("{release} of {id} goes to {target} although the aggregate alarm fires")));
        }
        if let Some((stage, step)) = step {
            let earlier = stage.steps.iter().take_while(|s| s.id != step.id).flat_map(|s| &s.targets);
            let passes = |t: &tidegate_core::ids::TargetId| {
                let step = pipeline.plan.step_of(t).and_then(|(_, step)| pipeline.steps.get(&step.id));
                step.and_then(|s| s.work.under_way()).is_some_and(|(passes, _)| passes == release)
            };
            let behind = earlier.filter(|t| t.id.region == target.region).find(|t| {
                let older = |slot: &SlotState| slot.current().is_none_or(|r| r < release);
                pipeline.slots.get(&t.id).is_none_or(|slot| older(slot)) || passes(&t.id)
            });
            if let Some(behind) = behind {
                found.push((3, format!("{release} of {id} goes to {target} before {}", behind.id)));
            }
        }
        self.found.extend(found);
    }

    fn tainted(&self, id: &PipelineId, pipeline: &Pipeline, release: ReleaseNo) -> Option<String> {
        if let Some(own) = self.convicted.get(&(id.clone(), release)) {
            return Some(format!("it was taken back: {}", own.why));
        }
        let changes: Vec<_> = pipeline.releases.range(..=release).flat_map(|(_, r)| &r.changes).collect();
        for ((of, convicted), conviction) in &self.convicted {
            let still = |commit: &&CommitId| {
                changes.iter().any(|c| &&c.commit.id == commit)
                    && !changes.iter().any(|c| c.commit.reverts.contains(commit))
            };
            let fixed = changes.iter().any(|c| conviction.commits.iter().any(|t| c.commit.names_as_fixed(t)));
            if of == id
                && *convicted < release
                && !fixed
                && let Some(commit) = conviction.commits.iter().find(still)
            {
                return Some(format!("it contains {} of {convicted}, which was rejected", commit.short()));
            }
        }
        None
    }
}

fn initial(id: &str) -> State {
    match id.split('/').next() {
        Some("team") => State::Team(Team::default()),
        Some("pipeline") => State::Pipeline(Pipeline::default()),
        Some("lease") => State::Lease(Lease::default()),
        _ => State::Organisation(Organisation::default()),
    }
}

//! What happened to a pipeline, and how it changes the state. Facts are stored for ever: a variant's shape is a contract.

use super::{
    Blind, Build, Capacity, Cause, Change, Cleared, HISTORY_MAX, Hold, Motion, Override, Pipeline, Reason,
    Release, SeenCommit, SlotState, Standing, StepState, Taint, Trouble, Work,
};
use crate::alarm::AlarmName;
use crate::bake::BakeClock;
use crate::change::Commit;
use crate::decision::{Actor, Awaited, EffectId};
use crate::definition::PipelineDef;
use crate::ids::{
    CommitId, EnvironmentId, PackageDigest, ReleaseNo, RunSpecDigest, SourceId, TargetId, TeamId,
};
use crate::plan::{Plan, StepId};
use crate::scope::Scope;
use crate::units::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// What happened to a pipeline.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum PipelineFact {
    /// Its definition was replaced; nothing that runs changes by it (X8).
    Defined {
        /// All of it.
        definition: Box<PipelineDef>,
        /// The owner of its service.
        team: TeamId,
        /// Where it leads.
        plan: Plan,
    },
    /// A source has new commits.
    CommitsSeen {
        /// Which.
        source: SourceId,
        /// Its newest commit.
        head: CommitId,
        /// Ancestors first.
        commits: Vec<Commit>,
        /// When.
        at: Timestamp,
    },
    /// A source cannot be used.
    SourceTroubled {
        /// Which.
        source: SourceId,
        /// Why, since when.
        trouble: Trouble,
    },
    /// A source can be used again.
    SourceRecovered {
        /// Which.
        source: SourceId,
    },
    /// A release was made of reviewed commits, and is built.
    ReleaseCreated {
        /// Its number.
        release: ReleaseNo,
        /// One commit of each source.
        commits: BTreeMap<SourceId, CommitId>,
        /// What it adds, with the reviews that counted.
        changes: Vec<Change>,
        /// When.
        at: Timestamp,
        /// The build.
        effect: EffectId,
        /// Until when its result is awaited.
        awaited: Awaited,
    },
    /// A failed build is tried again.
    BuildStarted {
        /// Of which release.
        release: ReleaseNo,
        /// The build.
        effect: EffectId,
        /// Until when its result is awaited.
        awaited: Awaited,
        /// Who wanted it.
        by: Actor,
        /// Why.
        reason: String,
    },
    /// A release is built.
    Built {
        /// Which.
        release: ReleaseNo,
        /// Its bytes.
        package: PackageDigest,
        /// What targets of each environment run.
        run_specs: BTreeMap<EnvironmentId, RunSpecDigest>,
        /// When.
        at: Timestamp,
    },
    /// A release cannot be built.
    BuildFailed {
        /// Which.
        release: ReleaseNo,
        /// Why.
        why: String,
        /// When.
        at: Timestamp,
    },
    /// A release may try to enter a step.
    CandidateSet {
        /// The step.
        step: StepId,
        /// The release; it takes the place of an older one that had not entered.
        release: ReleaseNo,
    },
    /// A candidate may not enter, or for other reasons than before.
    Waits {
        /// The step.
        step: StepId,
        /// The candidate.
        release: ReleaseNo,
        /// Why; empty when it no longer waits.
        reasons: Vec<Reason>,
    },
    /// A release entered a step.
    Entered {
        /// The step.
        step: StepId,
        /// The release.
        release: ReleaseNo,
        /// When.
        at: Timestamp,
        /// Overrides that opened blockers for it.
        overrides: Vec<u64>,
        /// Alarms that were firing then, under an override.
        masks: BTreeMap<Scope, BTreeSet<AlarmName>>,
    },
    /// A slot begins to move forward.
    SlotForward {
        /// The target.
        target: TargetId,
        /// To this release.
        release: ReleaseNo,
        /// The command's number.
        generation: u64,
        /// Until when a box has to be healthy.
        awaited: Awaited,
    },
    /// A slot begins to move back.
    SlotBack {
        /// The target.
        target: TargetId,
        /// From these releases, which have so many boxes.
        from: BTreeMap<ReleaseNo, u32>,
        /// To this one.
        to: Option<ReleaseNo>,
        /// The command's number.
        generation: u64,
        /// Boxes asked for at once.
        asked: u32,
        /// Until when a box has to be healthy.
        awaited: Awaited,
    },
    /// More boxes were asked for.
    SlotAsked {
        /// The target.
        target: TargetId,
        /// The command's number.
        generation: u64,
        /// How many in all.
        asked: u32,
    },
    /// Boxes became healthy, or fell back.
    SlotProgressed {
        /// The target.
        target: TargetId,
        /// How many of the new boxes have been healthy for long enough.
        settled: u32,
        /// Until when another one has to be.
        awaited: Awaited,
    },
    /// The engine told of something in the way, or that it is gone.
    SlotTroubled {
        /// The target.
        target: TargetId,
        /// What.
        trouble: Option<String>,
    },
    /// A rollback made no progress for too long; it goes on, and the on-call engineer was paged.
    SlotStuck {
        /// The target.
        target: TargetId,
        /// Until when a box has to be healthy until the next page.
        awaited: Awaited,
    },
    /// A slot has arrived: all its boxes run this release.
    SlotSettled {
        /// The target.
        target: TargetId,
        /// The release; `None` if it was stopped.
        release: Option<ReleaseNo>,
    },
    /// A target has enough healthy boxes, or no longer has.
    CapacityChanged {
        /// The target.
        target: TargetId,
        /// What the engine told.
        capacity: Capacity,
    },
    /// A step's tests began.
    TestsStarted {
        /// The step.
        step: StepId,
        /// The effect that runs them.
        effect: EffectId,
        /// Until when their result is awaited.
        awaited: Awaited,
    },
    /// A step's bake began.
    BakeStarted {
        /// The step.
        step: StepId,
        /// With nothing credited.
        clock: BakeClock,
    },
    /// Watched time and data points were credited, or not, because monitoring was blind.
    Watched {
        /// The step.
        step: StepId,
        /// The clock after it.
        clock: BakeClock,
        /// What was blind.
        blind: Option<Blind>,
    },
    /// A release passed a step.
    StepDone {
        /// The step.
        step: StepId,
        /// The release.
        release: ReleaseNo,
        /// When.
        at: Timestamp,
    },
    /// A release was rejected.
    Rejected {
        /// Which.
        release: ReleaseNo,
        /// What convicted it.
        cause: Cause,
        /// When.
        at: Timestamp,
        /// The changes that it added over what it is rolled back to.
        taint: BTreeSet<CommitId>,
        /// The first release that holds any of them.
        first: ReleaseNo,
    },
    /// A release was under way where the team's alarm fired.
    Suspected {
        /// Which.
        release: ReleaseNo,
        /// Where.
        scope: Scope,
        /// The alarm.
        cause: Cause,
        /// When.
        at: Timestamp,
    },
    /// A suspect comes back.
    SuspectReturned {
        /// Which.
        release: ReleaseNo,
    },
    /// A step's release is taken back.
    StepRollingBack {
        /// The step.
        step: StepId,
        /// The release.
        release: ReleaseNo,
        /// Why.
        cause: Cause,
        /// Since when.
        since: Timestamp,
        /// The release that is good there now.
        done: Option<ReleaseNo>,
    },
    /// A step's release was taken back.
    StepRolledBack {
        /// The step.
        step: StepId,
        /// When that was complete.
        at: Timestamp,
    },
    /// Firing alarms that were masked have been OK.
    MasksLifted {
        /// For this release.
        release: ReleaseNo,
        /// Where.
        scope: Scope,
        /// Which.
        alarms: BTreeSet<AlarmName>,
    },
    /// A person cleared a rejection: the release and its changes may go on.
    TaintCleared {
        /// The rejected release.
        release: ReleaseNo,
        /// By whom and why.
        cleared: Cleared,
    },
    /// A hold was placed.
    HoldPlaced {
        /// Its number.
        number: u64,
        /// Whose, why, until when.
        hold: Hold,
    },
    /// A hold was lifted, or has ended.
    HoldLifted {
        /// Its number.
        number: u64,
        /// By whom.
        by: Actor,
    },
    /// An override was given.
    Overridden {
        /// Its number.
        number: u64,
        /// For what, by whom, why, until when.
        allowed: Override,
    },
    /// A person ordered a rollback.
    RollbackOrdered {
        /// Of which release.
        release: ReleaseNo,
        /// Who.
        by: Actor,
        /// Why.
        reason: String,
    },
    /// Releases that nothing refers to any more were forgotten.
    ReleasesForgotten {
        /// Up to this one.
        before: ReleaseNo,
    },
}

impl Pipeline {
    /// The state after a fact.
    pub fn apply(&mut self, fact: &PipelineFact) {
        match fact {
            PipelineFact::Defined { definition, team, plan } => self.define(definition, team, plan),
            PipelineFact::CommitsSeen { source, head, commits, at } => {
                let state = self.sources.entry(source.clone()).or_default();
                state.head = Some(head.clone());
                state.pending.extend(commits.iter().map(|c| SeenCommit { commit: c.clone(), seen_at: *at }));
            }
            PipelineFact::SourceTroubled { source, trouble } => {
                self.sources.entry(source.clone()).or_default().trouble = Some(trouble.clone());
            }
            PipelineFact::SourceRecovered { source } => {
                self.sources.entry(source.clone()).or_default().trouble = None;
            }
            PipelineFact::ReleaseCreated { release, commits, changes, at, effect, awaited } => {
                for (source, commit) in commits {
                    let state = self.sources.entry(source.clone()).or_default();
                    state.released = Some(commit.clone());
                    state.pending.retain(|s| {
                        !changes.iter().any(|c| &c.source == source && c.commit.id == s.commit.id)
                    });
                }
                let build = Build::Building { effect: effect.clone(), awaited: *awaited };
                self.releases.insert(
                    *release,
                    Release {
                        commits: commits.clone(),
                        changes: changes.clone(),
                        created_at: *at,
                        build,
                        standing: Standing::Good,
                        suspected: 0,
                        masks: BTreeMap::new(),
                    },
                );
            }
            PipelineFact::BuildStarted { release, effect, awaited, .. } => {
                self.set_build(*release, Build::Building { effect: effect.clone(), awaited: *awaited });
            }
            PipelineFact::Built { release, package, run_specs, at } => {
                let (package, run_specs) = (package.clone(), run_specs.clone());
                self.set_build(*release, Build::Built { package, run_specs, at: *at });
            }
            PipelineFact::BuildFailed { release, why, at } => {
                self.set_build(*release, Build::Failed { why: why.clone(), at: *at });
            }
            PipelineFact::CandidateSet { step, release } => self.step(step).candidate = Some(*release),
            PipelineFact::Waits { step, reasons, .. } => self.step(step).waiting.clone_from(reasons),
            PipelineFact::Entered { step, release, at, masks, .. } => {
                let state = self.step(step);
                state.candidate = None;
                state.waiting.clear();
                state.work = Work::Deploying { release: *release, entered: *at };
                if let Some(release) = self.releases.get_mut(release) {
                    for (scope, alarms) in masks {
                        release.masks.entry(scope.clone()).or_default().extend(alarms.iter().cloned());
                    }
                }
            }
            PipelineFact::SlotForward { .. }
            | PipelineFact::SlotBack { .. }
            | PipelineFact::SlotAsked { .. }
            | PipelineFact::SlotProgressed { .. }
            | PipelineFact::SlotTroubled { .. }
            | PipelineFact::SlotStuck { .. }
            | PipelineFact::SlotSettled { .. }
            | PipelineFact::CapacityChanged { .. } => self.apply_to_slot(fact),
            PipelineFact::TestsStarted { .. }
            | PipelineFact::BakeStarted { .. }
            | PipelineFact::Watched { .. }
            | PipelineFact::StepDone { .. }
            | PipelineFact::StepRollingBack { .. }
            | PipelineFact::StepRolledBack { .. } => self.apply_to_step(fact),
            PipelineFact::Rejected { release, cause, at, taint, first } => {
                if let Some(state) = self.releases.get_mut(release) {
                    state.standing = Standing::Rejected { at: *at, cause: cause.clone() };
                }
                let taint = Taint { commits: taint.clone(), first: *first, cleared: None };
                self.taints.insert(*release, taint);
            }
            PipelineFact::Suspected { release, scope, cause, at } => {
                let Some(state) = self.releases.get_mut(release) else { return };
                if let Standing::Suspect { scopes, .. } = &mut state.standing {
                    scopes.insert(scope.clone());
                } else {
                    let scopes = BTreeSet::from([scope.clone()]);
                    state.standing = Standing::Suspect { since: *at, scopes, cause: cause.clone() };
                    state.suspected += 1;
                }
            }
            PipelineFact::SuspectReturned { release } => {
                if let Some(state) = self.releases.get_mut(release) {
                    state.standing = Standing::Good;
                }
            }
            PipelineFact::MasksLifted { release, scope, alarms } => {
                if let Some(masks) = self.releases.get_mut(release).and_then(|r| r.masks.get_mut(scope)) {
                    masks.retain(|m| !alarms.contains(m));
                }
            }
            PipelineFact::TaintCleared { release, cleared } => {
                if let Some(taint) = self.taints.get_mut(release) {
                    taint.cleared = Some(cleared.clone());
                }
                if let Some(state) = self.releases.get_mut(release) {
                    state.standing = Standing::Good;
                }
            }
            PipelineFact::HoldPlaced { number, hold } => {
                self.last_number = *number;
                self.holds.insert(*number, hold.clone());
            }
            PipelineFact::HoldLifted { number, .. } => {
                self.holds.remove(number);
            }
            PipelineFact::Overridden { number, allowed } => {
                self.last_number = *number;
                self.overrides.insert(*number, allowed.clone());
            }
            PipelineFact::RollbackOrdered { .. } => {}
            PipelineFact::ReleasesForgotten { before } => {
                self.releases = self.releases.split_off(before);
                self.taints.retain(|release, _| release >= before);
                self.overrides.retain(|_, o| o.release >= *before);
            }
        }
    }

    fn step(&mut self, id: &StepId) -> &mut StepState {
        self.steps.entry(id.clone()).or_default()
    }

    fn set_build(&mut self, release: ReleaseNo, build: Build) {
        if let Some(state) = self.releases.get_mut(&release) {
            state.build = build;
        }
    }

    /// Steps and targets keep their state by name. What is no longer planned is detached, not dropped.
    fn define(&mut self, definition: &PipelineDef, team: &TeamId, plan: &Plan) {
        self.definition = Some(definition.clone());
        self.team = Some(team.clone());
        self.plan = plan.clone();
        for source in &definition.sources {
            self.sources.entry(source.name.clone()).or_default();
        }
        self.sources.retain(|name, _| definition.sources.iter().any(|s| &s.name == name));
        for (_, step) in plan.steps() {
            self.steps.entry(step.id.clone()).or_default();
        }
        for slot in self.slots.values_mut() {
            slot.detached = true;
        }
        for target in plan.targets() {
            let slot = self.slots.entry(target.id.clone()).or_insert_with(|| SlotState {
                generation: 0,
                boxes: target.boxes,
                history: Vec::new(),
                motion: Motion::Settled,
                capacity: Capacity::Unknown,
                detached: false,
            });
            slot.detached = false;
            // The size of a fleet that runs is changed by the next release, as everything that affects boxes.
            if slot.history.is_empty() && slot.motion == Motion::Settled {
                slot.boxes = target.boxes;
            }
        }
    }

    fn apply_to_slot(&mut self, fact: &PipelineFact) {
        let planned =
            |target: &TargetId, plan: &Plan| plan.targets().find(|t| &t.id == target).map(|t| t.boxes);
        match fact {
            PipelineFact::SlotForward { target, release, generation, awaited } => {
                let boxes = planned(target, &self.plan);
                let Some(slot) = self.slots.get_mut(target) else { return };
                slot.boxes = boxes.unwrap_or(slot.boxes);
                slot.generation = *generation;
                let (release, awaited) = (*release, *awaited);
                slot.motion = Motion::Forward { release, asked: 0, settled: 0, awaited, trouble: None };
            }
            PipelineFact::SlotBack { target, from, to, generation, asked, awaited } => {
                let Some(slot) = self.slots.get_mut(target) else { return };
                slot.generation = *generation;
                let (from, to, asked, awaited) = (from.clone(), *to, *asked, *awaited);
                slot.motion = Motion::Back { from, to, asked, settled: 0, awaited, trouble: None };
            }
            PipelineFact::SlotAsked { target, generation, asked: more } => {
                let Some(slot) = self.slots.get_mut(target) else { return };
                slot.generation = *generation;
                if let Motion::Forward { asked, .. } | Motion::Back { asked, .. } = &mut slot.motion {
                    *asked = *more;
                }
            }
            PipelineFact::SlotProgressed { target, settled: now, awaited: until } => {
                let Some(slot) = self.slots.get_mut(target) else { return };
                if let Motion::Forward { settled, awaited, .. } | Motion::Back { settled, awaited, .. } =
                    &mut slot.motion
                {
                    *settled = *now;
                    *awaited = *until;
                }
            }
            PipelineFact::SlotTroubled { target, trouble: told } => {
                let Some(slot) = self.slots.get_mut(target) else { return };
                if let Motion::Forward { trouble, .. } | Motion::Back { trouble, .. } = &mut slot.motion {
                    trouble.clone_from(told);
                }
            }
            PipelineFact::SlotStuck { target, awaited: until } => {
                let Some(slot) = self.slots.get_mut(target) else { return };
                if let Motion::Back { awaited, .. } = &mut slot.motion {
                    *awaited = *until;
                }
            }
            PipelineFact::SlotSettled { target, release } => {
                let Some(slot) = self.slots.get_mut(target) else { return };
                match (release, &slot.motion) {
                    // It has no boxes any more: that none is healthy is nobody's trouble.
                    (None, _) => {
                        slot.history.clear();
                        slot.capacity = Capacity::Unknown;
                    }
                    (Some(release), Motion::Back { .. }) => {
                        slot.history.retain(|r| r <= release);
                        if slot.history.last() != Some(release) {
                            slot.history.push(*release);
                        }
                    }
                    (Some(release), Motion::Forward { .. } | Motion::Settled) => {
                        slot.history.push(*release);
                        let excess = slot.history.len().saturating_sub(HISTORY_MAX + 1);
                        slot.history.drain(..excess);
                    }
                }
                slot.motion = Motion::Settled;
            }
            PipelineFact::CapacityChanged { target, capacity } => {
                if let Some(slot) = self.slots.get_mut(target) {
                    slot.capacity = *capacity;
                }
            }
            _ => {}
        }
    }

    fn apply_to_step(&mut self, fact: &PipelineFact) {
        match fact {
            PipelineFact::TestsStarted { step, effect, awaited } => {
                let state = self.step(step);
                if let Some((release, entered)) = state.work.under_way() {
                    let (effect, awaited) = (effect.clone(), *awaited);
                    state.work = Work::Testing { release, entered, effect, awaited };
                }
            }
            PipelineFact::BakeStarted { step, clock } => {
                let state = self.step(step);
                if let Some((release, entered)) = state.work.under_way() {
                    state.work = Work::Baking { release, entered, clock: clock.clone(), blind: None };
                }
            }
            PipelineFact::Watched { step, clock: after, blind: now_blind } => {
                if let Work::Baking { clock, blind, .. } = &mut self.step(step).work {
                    clock.clone_from(after);
                    blind.clone_from(now_blind);
                }
            }
            PipelineFact::StepDone { step, release, at } => {
                let state = self.step(step);
                let entered = state.work.under_way().map_or(*at, |(_, entered)| entered);
                state.work = Work::Done { release: *release, entered, at: *at };
                state.done = Some(*release);
            }
            PipelineFact::StepRollingBack { step, release, cause, since, done } => {
                let state = self.step(step);
                state.work = Work::RollingBack { release: *release, since: *since, cause: cause.clone() };
                state.done = *done;
            }
            PipelineFact::StepRolledBack { step, at } => {
                let state = self.step(step);
                if let Work::RollingBack { release, cause, .. } = &state.work {
                    state.work = Work::RolledBack { release: *release, at: *at, cause: cause.clone() };
                }
            }
            _ => {}
        }
    }
}

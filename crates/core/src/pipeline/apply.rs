//! How facts change the state of a pipeline. Nothing is decided here.

use super::{
    Asked, Build, Capacity, HISTORY_MAX, Life, Motion, Pipeline, PipelineFact, Release, Retirement,
    SeenCommit, SlotState, Standing, StepState, Taint, Told, Work,
};
use crate::Shared;
use crate::definition::{PipelineDef, SourceDef};
use crate::ids::{ReleaseNo, SourceId, TargetId, TeamId};
use crate::plan::{Plan, StepId};
use crate::units::Timestamp;
use std::collections::{BTreeMap, BTreeSet};

impl Pipeline {
    /// The state after a fact.
    pub fn apply(&mut self, fact: &PipelineFact) {
        match fact {
            PipelineFact::Defined { definition, team, plan } => self.define(definition, team, plan),
            PipelineFact::CommitsSeen { source, head, commits, at } => {
                let state = self.sources.entry(source.clone()).or_default();
                state.head = Some(head.clone());
                state.pending.extend(commits.iter().map(|c| SeenCommit {
                    commit: c.clone(),
                    seen_at: *at,
                    told: None,
                }));
            }
            PipelineFact::ForgeTold { source, told, at } => {
                // A forge's words count only where one is named; those that stand here are of the one that is.
                let named = self.source_def(source).is_some_and(|source| source.review.is_some());
                let state = self.sources.entry(source.clone()).or_default();
                for seen in state.pending.iter_mut().filter(|_| named) {
                    if let Some(brought) = told.get(&seen.commit.id) {
                        seen.told = Some(Told { brought: brought.clone(), at: *at });
                    }
                }
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
                let new = Release {
                    commits: commits.clone(),
                    changes: changes.clone(),
                    created_at: *at,
                    build,
                    standing: Standing::Good,
                    suspected: 0,
                    masks: BTreeMap::new(),
                    origin: None,
                };
                self.releases.insert(*release, new.into());
            }
            PipelineFact::Adopted { adoption, run_specs, at } => {
                self.really(|p| p.take_over(adoption, run_specs, *at));
            }
            PipelineFact::BuildStarted { release, effect, awaited, .. } => {
                self.set_build(*release, Build::Building { effect: effect.clone(), awaited: *awaited });
            }
            PipelineFact::Resumed { absent, at } => self.apply_resumed(*absent, *at),
            PipelineFact::TurnAwaited { release, step, awaited, .. } => {
                self.apply_turn_awaited(*release, step.as_ref(), *awaited);
            }
            PipelineFact::Built { release, package, run_specs, at } => {
                let (package, run_specs) = (package.clone(), run_specs.clone());
                self.set_build(*release, Build::Built { package, run_specs, at: *at });
            }
            PipelineFact::RunSpecsMade { release, run_specs: made } => {
                let release = self.releases.get_mut(release).map(|release| &mut release.build);
                if let Some(Build::Built { run_specs, .. }) = release {
                    run_specs.extend(made.clone());
                }
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
            | PipelineFact::SlotResized { .. }
            | PipelineFact::SlotAsked { .. }
            | PipelineFact::SlotProgressed { .. }
            | PipelineFact::SlotTroubled { .. }
            | PipelineFact::SlotStuck { .. }
            | PipelineFact::SlotSettled { .. }
            | PipelineFact::GlassBroken { .. }
            | PipelineFact::CapacityChanged { .. } => self.apply_to_slot(fact),
            PipelineFact::TestsStarted { .. }
            | PipelineFact::BakeStarted { .. }
            | PipelineFact::Watched { .. }
            | PipelineFact::StepDone { .. }
            | PipelineFact::StepRollingBack { .. }
            | PipelineFact::StepRecalled { .. }
            | PipelineFact::StepRolledBack { .. } => self.apply_to_step(fact),
            PipelineFact::Rejected { release, cause, at, taint, first } => {
                if let Some(state) = self.releases.get_mut(release) {
                    state.standing = Standing::Rejected { at: *at, cause: cause.clone() };
                }
                let taint = Taint { commits: taint.clone(), first: *first, cleared: None };
                self.taints.insert(*release, taint);
            }
            PipelineFact::PageOpened { key, page } => {
                self.pages.insert(key.clone(), page.clone());
            }
            PipelineFact::PageResolved { key } => {
                self.pages.remove(key);
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
            PipelineFact::RegionSkipped { number, skip } => {
                self.last_number = *number;
                self.skips.insert(*number, skip.clone());
            }
            PipelineFact::SkipLifted { number, .. } => {
                self.skips.remove(number);
            }
            PipelineFact::Retiring { retirement } => self.retire(retirement),
            PipelineFact::Retired { .. } => {
                if let Life::Retiring(retirement) = &self.life {
                    self.life = Life::Retired(retirement.clone());
                }
            }
            PipelineFact::Revived { .. } => self.life = Life::Active,
            PipelineFact::ObservingBegan { at } => self.begin_observing(*at),
            PipelineFact::ObservingEnded { .. } => self.end_observing(),
            PipelineFact::Pretended { fact } => self.apply(fact),
            PipelineFact::RollbackOrdered { .. } => {}
            PipelineFact::ReleasesForgotten { before } => {
                self.releases = self.releases.split_off(before).into();
                self.taints.retain(|release, _| release >= before);
                self.overrides.retain(|_, o| o.release >= *before);
                self.skips.retain(|_, skip| skip.release.is_none_or(|release| release >= *before));
            }
        }
    }

    /// What the definition says of a source.
    pub(super) fn source_def(&self, source: &SourceId) -> Option<&SourceDef> {
        self.definition.as_ref()?.sources.iter().find(|s| &s.name == source)
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
    fn define(&mut self, definition: &Shared<PipelineDef>, team: &TeamId, plan: &Shared<Plan>) {
        if let Some(known) = &self.definition {
            // What one forge said of a source is not what another says, nor of another repository or branch.
            for source in &definition.sources {
                let asked = Asked::of(source);
                let same = known.sources.iter().any(|s| s.name == source.name && Asked::of(s) == asked);
                let state = self.sources.get_mut(&source.name).filter(|_| !same);
                state.into_iter().flat_map(|s| &mut s.pending).for_each(|seen| seen.told = None);
            }
        }
        self.definition = Some(definition.clone());
        self.team = Some(team.clone());
        let known = std::mem::replace(&mut self.plan, plan.clone());
        for source in &definition.sources {
            self.sources.entry(source.name.clone()).or_default();
        }
        self.sources.retain(|name, _| definition.sources.iter().any(|s| &s.name == name));
        for (_, step) in plan.steps() {
            self.steps.entry(step.id.clone()).or_default();
        }
        self.recall(&known, plan);
        for slot in self.slots.values_mut() {
            slot.detached = true;
        }
        for target in plan.targets() {
            let new = || SlotState {
                generation: 0,
                boxes: target.boxes,
                history: Vec::new(),
                finished: None,
                motion: Motion::Settled,
                capacity: Capacity::Unknown,
                detached: false,
                glass: None,
            };
            let slot = self.slots.entry(target.id.clone()).or_insert_with(|| new().into());
            slot.detached = false;
            // The size of a fleet that runs is changed by the next release, as everything that affects boxes.
            if slot.history.is_empty() && slot.motion == Motion::Settled {
                slot.boxes = target.boxes;
            }
        }
    }

    /// What is in work in a step that is no more, or has lost boxes of it to another, or that something which it has not passed
    /// has come to stand before, is called again to where it has come to (rule 3); so is what waits there. Its boxes keep it,
    /// and are watched until it comes by.
    fn recall(&mut self, known: &Plan, plan: &Plan) {
        let lost = |id: &StepId, release: ReleaseNo| {
            let old = known.step(id).into_iter().flat_map(|(_, step)| &step.targets);
            let mut running = old.filter(|t| self.slots.get(&t.id).is_some_and(|slot| slot.runs(release)));
            running.any(|t| plan.step_of(&t.id).is_some_and(|(_, step)| step.id != *id))
        };
        let before: BTreeMap<&StepId, &StepId> =
            plan.steps().zip(plan.steps().skip(1)).map(|((_, one), (_, next))| (&next.id, &one.id)).collect();
        let planned: BTreeSet<&StepId> = plan.steps().map(|(_, step)| &step.id).collect();
        let passed: BTreeMap<StepId, Option<ReleaseNo>> =
            self.steps.iter().map(|(id, state)| (id.clone(), state.done)).collect();
        let mut recalled: BTreeMap<ReleaseNo, Timestamp> = BTreeMap::new();
        for (id, state) in self.steps.iter_mut() {
            let here = planned.contains(id);
            let may = |release: ReleaseNo| {
                here && before
                    .get(id)
                    .is_none_or(|before| passed.get(*before).copied().flatten() >= Some(release))
            };
            let under_way = match &state.work {
                Work::Recalled { release, entered } => Some((*release, *entered)),
                work => work.under_way(),
            };
            let goes = |(release, _): &(ReleaseNo, Timestamp)| !may(*release) || lost(id, *release);
            if let Some((release, entered)) = under_way.filter(goes) {
                let since = recalled.entry(release).or_insert(entered);
                *since = entered.min(*since);
                state.work = Work::Free;
            }
            if !here && matches!(state.work, Work::RollingBack { .. }) {
                state.work = Work::Free;
            }
            if state.candidate.is_some_and(|release| !may(release)) {
                state.candidate = None;
                state.waiting.clear();
            }
        }
        // A step that ends its stage now bakes for the stage: what has not finished that comes by again.
        for step in plan.stages.iter().filter_map(|stage| stage.steps.last()) {
            let finished = step.targets.iter().filter_map(|t| self.slots.get(&t.id)?.finished).max();
            let was_last = known
                .step(&step.id)
                .is_none_or(|(stage, _)| stage.steps.last().is_some_and(|s| s.id == step.id));
            if let Some(state) =
                self.steps.get_mut(&step.id).filter(|state| !was_last && state.done > finished)
            {
                state.done = finished;
            }
        }
        for (_, step) in plan.steps() {
            let runs = |release: &ReleaseNo| {
                step.targets.iter().any(|t| self.slots.get(&t.id).is_some_and(|slot| slot.runs(*release)))
            };
            let Some((release, entered)) = recalled.iter().rev().find(|(release, _)| runs(release)) else {
                continue;
            };
            // Where it has passed it is watched already.
            let may = |work: &Work| match work {
                Work::Free => true,
                Work::Done { release: done, .. } => done < release,
                _ => false,
            };
            if let Some(state) = self.steps.get_mut(&step.id).filter(|state| may(&state.work)) {
                state.work = Work::Recalled { release: *release, entered: *entered };
            }
        }
    }

    /// Nothing but rollbacks is in work any more; what was waits before its step, in case the pipeline is revived.
    fn retire(&mut self, retirement: &Retirement) {
        for release in self.releases.values_mut() {
            if matches!(release.build, Build::Building { .. }) {
                let why = "its pipeline was retired".to_owned();
                release.build = Build::Failed { why, at: retirement.since };
            }
        }
        for state in self.steps.values_mut() {
            state.waiting.clear();
            if let Some((release, _)) = state.work.under_way() {
                state.candidate = state.candidate.max(Some(release));
                state.work = Work::Free;
            }
        }
        for slot in self.slots.values_mut() {
            slot.motion = match std::mem::replace(&mut slot.motion, Motion::Settled) {
                Motion::Forward { asked: 0, .. } => Motion::Settled,
                Motion::Forward { release, asked, .. } => Motion::Abandoned { release, asked },
                other => other,
            };
        }
        self.life = Life::Retiring(retirement.clone());
    }

    fn apply_to_slot(&mut self, fact: &PipelineFact) {
        let configuration = self.is_configuration();
        let planned =
            |target: &TargetId, plan: &Plan| plan.targets().find(|t| &t.id == target).map(|t| t.boxes);
        match fact {
            PipelineFact::SlotForward { target, release, generation, awaited } => {
                let boxes = planned(target, &self.plan);
                let Some(slot) = self.slots.get_mut(target) else { return };
                if !configuration {
                    slot.boxes = boxes.unwrap_or(slot.boxes);
                }
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
            PipelineFact::GlassBroken { target, glass, generation } => {
                if let Some(slot) = self.slots.get_mut(target) {
                    (slot.glass, slot.generation) = (Some(glass.id.clone()), *generation);
                }
            }
            PipelineFact::SlotResized { target, boxes } => {
                if let Some(slot) = self.slots.get_mut(target) {
                    slot.boxes = *boxes;
                }
            }
            PipelineFact::SlotAsked { target, generation, asked: more, left } => {
                let Some(slot) = self.slots.get_mut(target) else { return };
                slot.generation = *generation;
                if let (Motion::Back { from, .. }, Some(left)) = (&mut slot.motion, left) {
                    from.clone_from(left);
                }
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
                        slot.finished = None;
                        slot.capacity = Capacity::Unknown;
                    }
                    (Some(release), Motion::Back { .. }) => {
                        slot.finished = slot.finished.map(|finished| finished.min(*release));
                        slot.history.retain(|r| r <= release);
                        if slot.history.last() != Some(release) {
                            slot.history.push(*release);
                        }
                    }
                    (Some(release), Motion::Forward { .. } | Motion::Settled | Motion::Abandoned { .. }) => {
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
                state.pass(*release);
                self.finish(step);
            }
            PipelineFact::StepRollingBack { step, release, cause, since, done } => {
                let state = self.step(step);
                state.work = Work::RollingBack { release: *release, since: *since, cause: cause.clone() };
                state.done = *done;
            }
            PipelineFact::StepRecalled { step, done, .. } => {
                let state = self.step(step);
                if let Some((release, entered)) = state.work.watched() {
                    state.work = Work::Recalled { release, entered };
                }
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

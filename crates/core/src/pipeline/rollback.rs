//! Taking releases back: who is guilty, what returns, and to what (X1, X4, M3, M7).
//!
//! The code that starts a rollback takes no gate, window, hold or queue as an argument, so none can hold it: it reads the
//! pipeline, writes facts, seizes leases and orders effects of the rollback lane.

use super::decide::Deciding;
use super::{Break, Cause, Matter, Motion, Pipeline, PipelineFact, SlotState, Standing, Work};
use crate::decision::Severity;
use crate::definition::RollbackScope;
use crate::ids::{CommitId, ReleaseNo, TargetId};
use crate::lease::{LeaseFact, LeaseId};
use crate::plan::{Step, StepId};
use crate::scope::Scope;
use crate::window::WindowState;
use std::collections::{BTreeMap, BTreeSet};

/// The tainted changes that a release still contains, by the rejected release that brought them.
pub(super) fn tainted(pipeline: &Pipeline, release: ReleaseNo) -> Vec<(ReleaseNo, Vec<CommitId>)> {
    let mut all = Vec::new();
    for (rejected, taint) in &pipeline.taints {
        if taint.cleared.is_some() || release < taint.first {
            continue;
        }
        let after = || pipeline.releases.range(taint.first..=release).flat_map(|(_, r)| &r.changes);
        if after().any(|c| taint.commits.iter().any(|t| c.commit.names_as_fixed(t))) {
            continue;
        }
        let contained: BTreeSet<&CommitId> = after().map(|c| &c.commit.id).collect();
        let still: Vec<CommitId> = taint
            .commits
            .iter()
            .filter(|c| contained.contains(c) && in_effect(pipeline, c, release, 0))
            .cloned()
            .collect();
        // A revert is itself a change that may have been reverted; what only reverts tainted changes is not held.
        if !still.is_empty() {
            all.push((*rejected, still));
        }
    }
    all
}

/// Whether a commit is in effect in a release: no revert of it is in effect there.
fn in_effect(pipeline: &Pipeline, commit: &CommitId, release: ReleaseNo, depth: u32) -> bool {
    const REVERTS_OF_REVERTS_MAX: u32 = 32;
    depth > REVERTS_OF_REVERTS_MAX
        || !pipeline
            .releases
            .range(..=release)
            .flat_map(|(_, r)| &r.changes)
            .filter(|c| c.commit.reverts.contains(commit))
            .any(|c| in_effect(pipeline, &c.commit.id, release, depth + 1))
}

/// Whether a target may be returned to this release, and whether it may stay on it.
pub(super) fn is_good(pipeline: &Pipeline, release: ReleaseNo) -> bool {
    pipeline.releases.get(&release).is_some_and(|r| r.standing == Standing::Good)
        && tainted(pipeline, release).is_empty()
}

impl Deciding<'_> {
    /// Rejects a release: it and its changes never go on by themselves, and what runs it, or a release that contains its
    /// changes, returns everywhere in unfinished waves (or in all of production, if the definition or the person says so).
    pub(super) fn reject(&mut self, release: ReleaseNo, cause: Cause, everywhere: bool) {
        let Some(state) = self.p.releases.get(&release) else { return };
        if matches!(state.standing, Standing::Rejected { .. }) || self.switches.has(Break::NoRejection) {
            return;
        }
        let good_before = self
            .p
            .slots
            .values()
            .filter(|slot| slot.runs(release))
            .flat_map(|slot| slot.history.iter().copied())
            .filter(|r| *r < release && is_good(&self.p, *r))
            .max();
        let never_ran = !self.p.slots.values().any(|slot| slot.runs(release));
        let over = |r: ReleaseNo| if never_ran { r == release } else { good_before.is_none_or(|g| r > g) };
        let added: Vec<(ReleaseNo, CommitId)> = self
            .p
            .releases
            .range(..=release)
            .filter(|(no, _)| over(**no))
            .flat_map(|(no, r)| r.changes.iter().map(|c| (*no, c.commit.id.clone())))
            .collect();
        let first = added.first().map_or(release, |(no, _)| *no);
        let taint = added.into_iter().map(|(_, commit)| commit).collect();
        let at = self.now;
        self.fact(PipelineFact::Rejected { release, cause: cause.clone(), at, taint, first });
        let everywhere = everywhere || self.p.settings().rollback == RollbackScope::Production;
        let targets = self.targets_of(|p, target, r| {
            !is_good(p, r)
                && r >= first
                && (p.unfinished(target, r) || (everywhere && p.in_production(target)))
        });
        self.take_back(&targets, release, &cause);
        self.stop_passing(&cause);
    }

    /// What was rejected and only passes through a step, whose boxes keep it (their wave has finished) or never had it, goes
    /// no further.
    fn stop_passing(&mut self, cause: &Cause) {
        if self.switches.has(Break::NoRollback) || self.waits_for_the_window() {
            return;
        }
        let passing = self.p.steps.iter().filter_map(|(id, state)| {
            let (release, _) = state.work.under_way()?;
            let standing = &self.p.releases.get(&release)?.standing;
            // A suspect comes back by itself, where it was taken back.
            let goes_on = is_good(&self.p, release) || matches!(standing, Standing::Suspect { .. });
            (!goes_on).then(|| (id.clone(), release, state.done))
        });
        for (step, release, done) in passing.collect::<Vec<_>>() {
            self.step_returns(step, release, cause, done);
        }
    }

    fn step_returns(&mut self, step: StepId, release: ReleaseNo, cause: &Cause, done: Option<ReleaseNo>) {
        if let Some(Work::Testing { effect, .. }) = self.p.steps.get(&step).map(|s| &s.work) {
            self.out.cancelled.push(effect.clone());
        }
        let (cause, since) = (cause.clone(), self.now);
        self.fact(PipelineFact::StepRollingBack { step, release, cause, since, done });
    }

    /// Takes a release back in one Region because the team's aggregate alarm fired while it was under way there (M3). It
    /// comes back once by itself; a second time rejects it.
    pub(super) fn suspect(&mut self, release: ReleaseNo, scope: &Scope, cause: Cause) {
        let Some(state) = self.p.releases.get(&release) else { return };
        match &state.standing {
            Standing::Rejected { .. } => return,
            Standing::Suspect { scopes, .. } if scopes.contains(scope) => return,
            Standing::Suspect { .. } => {}
            Standing::Good if state.suspected > 0 => return self.reject(release, cause, false),
            Standing::Good => {}
        }
        if self.switches.has(Break::NoRollback) {
            return;
        }
        let at = self.now;
        self.fact(PipelineFact::Suspected { release, scope: scope.clone(), cause: cause.clone(), at });
        // A newer one that is good goes on: the alarm does not speak of it, or it is spoken of next.
        let targets = self.targets_of(|p, target, r| {
            r >= release && !is_good(p, r) && &Scope::of(target) == scope && p.unfinished(target, r)
        });
        let first =
            targets.iter().filter_map(|t| self.p.plan.step_of(t)).map(|(_, step)| step.id.clone()).next();
        self.take_back(&targets, release, &cause);
        self.call_back(release);
        if let Some(step) = first {
            self.candidate(&step, release);
        }
    }

    /// Calls a suspect back where it stays in its wave: in steps that none of the Region's targets are in, because others have more
    /// AZs. There it is under way, or has passed, without having passed what comes before (rule 3). Its boxes stay and are watched.
    fn call_back(&mut self, release: ReleaseNo) {
        let plan = self.p.plan.clone();
        for stage in &plan.stages {
            let done = |p: &Pipeline, step: &Step| p.steps.get(&step.id).and_then(|state| state.done);
            let mut passed = stage.steps.first().and_then(|step| done(&self.p, step));
            for step in stage.steps.iter().skip(1) {
                let before = passed;
                passed = passed.min(done(&self.p, step));
                let Some(work) = self.p.steps.get(&step.id).map(|state| &state.work) else { continue };
                // Where the wave has finished, it is over.
                let watched = |here| step.targets.iter().any(|target| self.p.is_watched(&target.id, here));
                let goes = |here: &ReleaseNo| *here >= release && before < Some(*here);
                let here = match work.under_way() {
                    Some((here, _)) => Some(here),
                    None => work.watched().map(|(here, _)| here).filter(|here| watched(*here)),
                };
                let Some(here) = here.filter(goes) else { continue };
                if let Work::Testing { effect, .. } = work {
                    self.out.cancelled.push(effect.clone());
                }
                self.fact(PipelineFact::StepRecalled { step: step.id.clone(), release: here, done: passed });
            }
        }
    }

    /// Targets on which some release that satisfies the predicate has boxes, in the order of the plan.
    fn targets_of(&self, holds: impl Fn(&Pipeline, &TargetId, ReleaseNo) -> bool) -> Vec<TargetId> {
        let planned = self.p.plan.targets().map(|t| &t.id);
        let detached = self.p.slots.iter().filter(|(_, slot)| slot.detached).map(|(id, _)| id);
        planned
            .chain(detached)
            .filter(|id| {
                self.p
                    .slots
                    .get(*id)
                    .is_some_and(|slot| slot.running().iter().any(|r| holds(&self.p, id, *r)))
            })
            .cloned()
            .collect()
    }

    /// Starts the return of these targets, each to the newest release that was good on it, and of their steps.
    fn take_back(&mut self, targets: &[TargetId], release: ReleaseNo, cause: &Cause) {
        if self.switches.has(Break::NoRollback) || self.waits_for_the_window() {
            return;
        }
        let came = self.came(release);
        let mut steps: BTreeMap<StepId, ()> = BTreeMap::new();
        let mut returned = Vec::new();
        for target in targets {
            if self.return_slot(target) {
                returned.push(target.clone());
            }
            if let Some((_, step)) = self.p.plan.step_of(target) {
                steps.insert(step.id.clone(), ());
            }
        }
        for step in steps.into_keys() {
            self.step_back(&step, release, cause);
        }
        // Candidates that wait elsewhere stay where they are: their gate says why they may not enter.
        if !returned.is_empty() {
            let text = self.rollback_text(release, came, &returned, cause);
            let title = format!("{}: {release} is rolled back", self.id);
            self.page(Matter::Rollback(release), Severity::High, title, text);
        }
    }

    /// A deliberate break: no rollback asks the window.
    fn waits_for_the_window(&self) -> bool {
        let windows = self.team.definition.as_ref().map(|team| &team.windows);
        self.switches.has(Break::RollbackAsksWindow)
            && windows.is_some_and(|w| matches!(w.check(self.now), WindowState::Closed { .. }))
    }

    fn step_back(&mut self, step: &StepId, release: ReleaseNo, cause: &Cause) {
        let Some((_, planned)) = self.p.plan.step(step) else { return };
        let moves_back = |target: &TargetId| match self.p.slots.get(target).map(|s| &s.motion) {
            Some(Motion::Back { to, from, .. }) => Some((*to, from.keys().max().copied())),
            _ => None,
        };
        let back: Vec<_> = planned.targets.iter().filter_map(|t| moves_back(&t.id)).collect();
        if back.is_empty() {
            return;
        }
        let taken = back.iter().filter_map(|(_, from)| *from).max().unwrap_or(release);
        // What had stayed behind before has no say in what has passed.
        let state = self.p.steps.get(step);
        let before = state.and_then(|state| state.done);
        let after = |slot: &SlotState| match &slot.motion {
            Motion::Back { to, .. } => *to,
            Motion::Settled | Motion::Forward { .. } | Motion::Abandoned { .. } => slot.current(),
        };
        let slots = planned.targets.iter().filter_map(|t| self.p.slots.get(&t.id));
        let with_say = slots.filter(|slot| slot.current() >= before);
        let done = with_say.map(|slot| after(slot)).chain([before]).min().flatten();
        let passed = state.and_then(|state| state.passed_up_to(done));
        let done = if done < before { passed } else { done };
        self.step_returns(step.clone(), taken, cause, done);
    }

    /// Returns one slot at once; false if it is on its way to a good release already.
    pub(super) fn return_slot(&mut self, target: &TargetId) -> bool {
        let Some(slot) = self.p.slots.get(target) else { return false };
        let boxes = slot.boxes;
        let from: BTreeMap<ReleaseNo, u32> = match &slot.motion {
            Motion::Settled => slot.current().map(|r| (r, boxes)).into_iter().collect(),
            // A good release that replaces a condemned one is the way out.
            Motion::Forward { release, .. } if is_good(&self.p, *release) => return false,
            Motion::Forward { release, asked, .. } | Motion::Abandoned { release, asked } => {
                let rest = slot.current().map(|r| (r, boxes.saturating_sub(*asked)));
                rest.into_iter().chain([(*release, *asked)]).collect()
            }
            Motion::Back { to: Some(to), .. } if is_good(&self.p, *to) => return false,
            Motion::Back { to: None, .. } => return false,
            Motion::Back { to: Some(to), from, asked, .. } => {
                let mut from = from.clone();
                from.insert(*to, *asked);
                from
            }
        };
        let to = slot.history.iter().rev().copied().find(|r| is_good(&self.p, *r));
        let asked = to.and_then(|to| from.get(&to).copied()).unwrap_or(0);
        let from = from.into_iter().filter(|(r, _)| Some(*r) != to).collect();
        let generation = slot.generation + 1;
        let awaited = self.progress_deadline();
        self.look_again(awaited.deadline);
        let scope = Scope::of(target);
        self.fact(PipelineFact::SlotBack { target: target.clone(), from, to, generation, asked, awaited });
        self.seize(&scope);
        self.order_slot(target);
        true
    }

    pub(super) fn seize(&mut self, scope: &Scope) {
        if self.p.observes() {
            return;
        }
        let Some(service) = self.p.definition.as_ref().map(|d| d.service.clone()) else { return };
        let id = LeaseId::new(&service, scope.clone());
        if !self.leases.get(&id).is_some_and(|lease| lease.is_rolling_back(self.id)) {
            self.lease(id, LeaseFact::Seized { pipeline: self.id.clone() });
        }
    }
}

impl Pipeline {
    fn in_production(&self, target: &TargetId) -> bool {
        self.plan.step_of(target).is_some_and(|(stage, _)| stage.production)
    }
}

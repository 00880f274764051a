//! A pipeline that only observes decides and records everything, and moves nothing: a team watches it beside the tool that it has.
//! What is really so is set aside, and the decisions are about what would be: engines are taken to do at once what they
//! would be asked for, tests to pass, and monitoring is the real one. No lease is taken, nobody is paged, and every fact of that
//! kind is recorded as pretended. When the pipeline acts again, what is really so is what it goes on from: nothing is deployed for
//! the change of modes.

use super::decide::Deciding;
use super::{Capacity, Motion, Pipeline, PipelineFact, Release, SlotState, Standing, StepState, Taint, Work};
use crate::Shared;
use crate::alarm::AlarmName;
use crate::decision::Illegal;
use crate::definition::{Mode, PipelineDef};
use crate::engine::{BoxHealth, BoxObservation, Fence, Observation};
use crate::ids::{ReleaseNo, SlotId, TargetId};
use crate::plan::{Plan, StepId};
use crate::scope::Scope;
use crate::units::{Span, Timestamp};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// How often it is looked at what would have come of what would have been asked for.
const LOOK_EVERY: Span = Span::seconds(1);

/// What is really so while a pipeline only observes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reality {
    /// Since when it observes.
    pub since: Timestamp,
    /// By what plan.
    pub plan: Shared<Plan>,
    /// What each step has passed.
    pub steps: Shared<BTreeMap<StepId, Shared<StepState>>>,
    /// What each target runs.
    pub slots: Shared<BTreeMap<TargetId, Shared<SlotState>>>,
    /// What was rejected before.
    pub taints: BTreeMap<ReleaseNo, Taint>,
    /// What is thought of releases that are not simply good.
    pub verdicts: BTreeMap<ReleaseNo, Verdict>,
}

/// What is thought of a release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Verdict {
    /// Its standing.
    pub standing: Standing,
    /// How often it was suspected.
    pub suspected: u32,
    /// Alarms that do not count for it, by Region.
    pub masks: BTreeMap<Scope, BTreeSet<AlarmName>>,
}

impl Verdict {
    fn of(release: &Release) -> Option<Verdict> {
        let Release { standing, suspected, masks, .. } = release;
        let simply_good = *standing == Standing::Good && *suspected == 0 && masks.is_empty();
        let verdict = || Verdict { standing: standing.clone(), suspected: *suspected, masks: masks.clone() };
        (!simply_good).then(verdict)
    }
}

impl Pipeline {
    /// Whether it moves nothing, and only says what it would.
    #[must_use]
    pub fn observes(&self) -> bool {
        self.reality.is_some()
    }

    /// What its targets really run.
    #[must_use]
    pub fn real_slots(&self) -> &BTreeMap<TargetId, Shared<SlotState>> {
        self.reality.as_ref().map_or(&self.slots, |reality| &reality.slots)
    }

    pub(super) fn begin_observing(&mut self, since: Timestamp) {
        let reality = Reality {
            since,
            plan: self.plan.clone(),
            steps: self.steps.clone(),
            slots: self.slots.clone(),
            taints: self.taints.clone(),
            verdicts: self
                .releases
                .iter()
                .filter_map(|(no, release)| Some((*no, Verdict::of(release)?)))
                .collect(),
        };
        self.reality = Some(reality.into());
        // Nobody tells of boxes from now on, so what they were short of would stay for ever.
        let slots: Vec<TargetId> = self.slots.keys().cloned().collect();
        for target in slots {
            if let Some(slot) = self.slots.get_mut(&target).filter(|slot| slot.capacity != Capacity::Unknown)
            {
                slot.capacity = Capacity::Unknown;
            }
        }
    }

    /// What was made meanwhile does not start by itself, and what was thought of releases in pretence was not.
    pub(super) fn end_observing(&mut self) {
        let Some(reality) = self.reality.take() else { return };
        let Reality { plan, steps, slots, taints, mut verdicts, since: _ } = (*reality).clone();
        (self.plan, self.steps, self.slots, self.taints) = (plan, steps, slots, taints);
        self.observed = self.newest().map(|(no, _)| no);
        let differs = |(no, release): &(&ReleaseNo, &Shared<Release>)| {
            Verdict::of(release).as_ref() != verdicts.get(no)
        };
        let wrong: Vec<ReleaseNo> = self.releases.iter().filter(differs).map(|(no, _)| *no).collect();
        for no in wrong {
            let real = verdicts.remove(&no);
            let Some(release) = self.releases.get_mut(&no) else { continue };
            let good = || Verdict { standing: Standing::Good, suspected: 0, masks: BTreeMap::new() };
            let Verdict { standing, suspected, masks } = real.unwrap_or_else(good);
            (release.standing, release.suspected, release.masks) = (standing, suspected, masks);
        }
    }

    /// Does something to what is really so.
    pub(super) fn really(&mut self, change: impl FnOnce(&mut Pipeline)) {
        let Some(mut reality) = self.reality.take() else { return change(self) };
        let swap = |p: &mut Pipeline, reality: &mut Reality| {
            std::mem::swap(&mut p.plan, &mut reality.plan);
            std::mem::swap(&mut p.steps, &mut reality.steps);
            std::mem::swap(&mut p.slots, &mut reality.slots);
        };
        swap(self, &mut reality);
        change(self);
        swap(self, &mut reality);
        self.reality = Some(reality);
    }
}

impl PipelineFact {
    /// What happened, or would have.
    #[must_use]
    pub fn plain(&self) -> &PipelineFact {
        match self {
            PipelineFact::Pretended { fact } => fact.plain(),
            fact => fact,
        }
    }

    /// Whether it speaks of what moves, or of what is thought of it: where a pipeline only observes, that is pretence.
    fn moves(&self) -> bool {
        match self {
            PipelineFact::CandidateSet { .. }
            | PipelineFact::Waits { .. }
            | PipelineFact::Entered { .. }
            | PipelineFact::SlotForward { .. }
            | PipelineFact::SlotBack { .. }
            | PipelineFact::SlotResized { .. }
            | PipelineFact::SlotAsked { .. }
            | PipelineFact::SlotProgressed { .. }
            | PipelineFact::SlotTroubled { .. }
            | PipelineFact::SlotStuck { .. }
            | PipelineFact::GlassBroken { .. }
            | PipelineFact::SlotSettled { .. }
            | PipelineFact::CapacityChanged { .. }
            | PipelineFact::TestsStarted { .. }
            | PipelineFact::BakeStarted { .. }
            | PipelineFact::Watched { .. }
            | PipelineFact::StepDone { .. }
            | PipelineFact::Rejected { .. }
            | PipelineFact::Suspected { .. }
            | PipelineFact::SuspectReturned { .. }
            | PipelineFact::StepRollingBack { .. }
            | PipelineFact::StepRecalled { .. }
            | PipelineFact::StepRolledBack { .. }
            | PipelineFact::MasksLifted { .. }
            | PipelineFact::TaintCleared { .. }
            | PipelineFact::RollbackOrdered { .. } => true,
            PipelineFact::Defined { .. }
            | PipelineFact::CommitsSeen { .. }
            | PipelineFact::SourceTroubled { .. }
            | PipelineFact::SourceRecovered { .. }
            | PipelineFact::ForgeTold { .. }
            | PipelineFact::ReleaseCreated { .. }
            | PipelineFact::BuildStarted { .. }
            | PipelineFact::Resumed { .. }
            | PipelineFact::TurnAwaited { .. }
            | PipelineFact::Adopted { .. }
            | PipelineFact::Built { .. }
            | PipelineFact::RunSpecsMade { .. }
            | PipelineFact::BuildFailed { .. }
            | PipelineFact::HoldPlaced { .. }
            | PipelineFact::HoldLifted { .. }
            | PipelineFact::Overridden { .. }
            | PipelineFact::RegionSkipped { .. }
            | PipelineFact::SkipLifted { .. }
            | PipelineFact::Retiring { .. }
            | PipelineFact::Retired { .. }
            | PipelineFact::Revived { .. }
            | PipelineFact::PageOpened { .. }
            | PipelineFact::PageResolved { .. }
            | PipelineFact::ObservingBegan { .. }
            | PipelineFact::ObservingEnded { .. }
            | PipelineFact::Pretended { .. }
            | PipelineFact::ReleasesForgotten { .. } => false,
        }
    }
}

impl Deciding<'_> {
    /// The fact as it is recorded.
    pub(super) fn as_recorded(&self, fact: PipelineFact) -> PipelineFact {
        if self.p.observes() && fact.moves() {
            PipelineFact::Pretended { fact: Box::new(fact) }
        } else {
            fact
        }
    }

    /// What moves is not left half way by somebody who then only observes.
    ///
    /// # Errors
    /// Something is under way.
    pub(super) fn may_observe(&self, new: &PipelineDef) -> Result<(), Illegal> {
        if new.mode == Mode::Act || self.p.observes() {
            return Ok(());
        }
        let busy = self.p.steps.iter().find(|(_, state)| {
            state.work.under_way().is_some() || matches!(state.work, Work::RollingBack { .. })
        });
        let moving = self.p.slots.iter().find(|(_, slot)| slot.motion != Motion::Settled);
        let what = match (busy, moving) {
            (Some((step, state)), _) => format!("{step} is {}", state.work.phase()),
            (None, Some((target, _))) => format!("{target} moves"),
            (None, None) => return Ok(()),
        };
        let text = format!(
            "{} cannot begin to only observe while {what}; hold it, and wait until nothing moves",
            self.id
        );
        Err(Illegal::new(text))
    }

    pub(super) fn begin_to_observe(&mut self) {
        let wanted =
            self.p.definition.as_ref().is_some_and(|definition| definition.mode == Mode::ObserveOnly);
        if wanted && !self.p.observes() {
            let at = self.now;
            self.fact(PipelineFact::ObservingBegan { at });
        }
    }

    pub(super) fn end_observing(&mut self) {
        if self.p.observes() {
            let at = self.now;
            self.fact(PipelineFact::ObservingEnded { at });
        }
    }

    /// Tells of slots what engines would if they had done what they would have been asked for.
    pub(super) fn pretend(&mut self) {
        if !self.p.observes() {
            return;
        }
        let moves = |slot: &SlotState| matches!(slot.motion, Motion::Forward { .. } | Motion::Back { .. });
        let moving = self.p.slots.iter().filter(|(_, slot)| moves(slot)).map(|(target, _)| target.clone());
        for target in moving.collect::<Vec<_>>() {
            if let Some(seen) = self.pretended(&target) {
                self.slot_observed(&seen);
            }
            if self.p.slots.get(&target).is_some_and(|slot| moves(slot)) {
                self.look_again(self.now + LOOK_EVERY);
            }
        }
    }

    fn pretended(&self, target: &TargetId) -> Option<Observation> {
        let slot = self.p.slots.get(target)?;
        let (new, asked, since, old) = match &slot.motion {
            Motion::Forward { release, asked, awaited, .. } => {
                (Some(*release), *asked, awaited.since, slot.current())
            }
            Motion::Back { to, from, asked, awaited, .. } => {
                (*to, *asked, awaited.since, from.keys().next().copied())
            }
            Motion::Settled | Motion::Abandoned { .. } => return None,
        };
        // What is taken back to nothing is gone.
        let old = old.filter(|_| new.is_some());
        let spec = |release: ReleaseNo| self.p.run_spec(release, &target.environment);
        let new_boxes =
            new.and_then(spec).into_iter().flat_map(|s| std::iter::repeat_n((s, since), asked as usize));
        let rest = slot.boxes.saturating_sub(asked) as usize;
        let old_boxes =
            old.and_then(spec).into_iter().flat_map(|s| std::iter::repeat_n((s, Timestamp(0)), rest));
        let boxes = new_boxes.chain(old_boxes).enumerate().map(|(n, (run_spec, since))| BoxObservation {
            id: n.to_string(),
            incarnation: 1,
            run_spec: run_spec.clone(),
            health: BoxHealth::Healthy { since },
            weight: 1,
        });
        Some(Observation {
            slot: SlotId { target: target.clone(), pipeline: self.id.clone() },
            fence: Fence { epoch: 0, generation: slot.generation },
            boxes: boxes.collect(),
            trouble: None,
            glass: None,
        })
    }
}

//! Which targets take part when a release enters a step, and where a wave is finished. A target stays behind when a person
//! skips its Region, or when its Region has not come as far as this step: no Region skips a step of its own (rule 3), so it
//! catches up from its first step on.

use super::{Motion, Pipeline, Reason, Skip, SlotState, Standing};
use crate::ids::{RegionId, ReleaseNo, TargetId};
use crate::plan::{Placed, Stage, Step, StepId, Target};
use crate::scope::Scope;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt;

/// A Region in which a step's target runs an older release than the step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LeftOut {
    /// The Region.
    pub region: RegionId,
    /// What it runs; `None` if it never ran any.
    pub runs: Option<ReleaseNo>,
    /// The number of the skip that a person placed there, if one stands, and the skip.
    pub skip: Option<(u64, Skip)>,
    /// What the step has passed or has in work, if that is rejected: then nothing catches up.
    pub rejected: Option<ReleaseNo>,
}

impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.runs, self.rejected) {
            (Some(release), Some(_)) => write!(f, "{} runs {release}", self.region)?,
            (Some(release), None) => write!(f, "{} still runs {release}", self.region)?,
            (None, _) => write!(f, "{} runs nothing yet", self.region)?,
        }
        match (&self.skip, self.rejected) {
            (Some((number, skip)), _) => {
                write!(f, ": skipped by {}: {} (skip {number})", skip.by, skip.reason)
            }
            (None, Some(rejected)) => write!(f, ": {rejected} is rejected"),
            (None, None) => f.write_str(" and catches up"),
        }
    }
}

impl Pipeline {
    /// The skip that keeps a release from starting in a Region, and its number.
    #[must_use]
    pub fn skip_of(&self, scope: &Scope, release: ReleaseNo) -> Option<(u64, &Skip)> {
        let applies = |skip: &Skip| &skip.scope == scope && skip.release.is_none_or(|r| r == release);
        self.skips.iter().find(|(_, skip)| applies(skip)).map(|(number, skip)| (*number, skip))
    }

    /// Regions that run an older release than the step has in work or has passed, with the reason.
    #[must_use]
    pub fn left_out(&self, step: &Step) -> Vec<LeftOut> {
        let Some(state) = self.steps.get(&step.id) else { return Vec::new() };
        let Some(release) = state.work.under_way().map(|(r, _)| r).max(state.done) else { return Vec::new() };
        self.older_than(step, release)
    }

    /// Regions of a step that run an older release than this one.
    pub(super) fn older_than(&self, step: &Step, release: ReleaseNo) -> Vec<LeftOut> {
        let older = |slot: &SlotState| slot.current() < Some(release) && !slot.runs(release);
        let standing = self.releases.get(&release).map(|state| &state.standing);
        let rejected = matches!(standing, Some(Standing::Rejected { .. })).then_some(release);
        let slots = step.targets.iter().filter_map(|t| Some((&t.id, self.slots.get(&t.id)?)));
        slots
            .filter(|(_, slot)| older(slot))
            .map(|(target, slot)| LeftOut {
                region: target.region.clone(),
                runs: slot.current(),
                skip: self.skip_of(&Scope::of(target), release).map(|(number, skip)| (number, skip.clone())),
                rejected,
            })
            .collect()
    }

    /// Every slot of a target in the plan, and where it stands. Both are in the order of their names, so that one pass finds
    /// all without looking for any.
    pub(super) fn planned(&self) -> impl Iterator<Item = (&Placed, &SlotState)> {
        let mut slots = self.slots.iter().peekable();
        self.plan.by_name().iter().filter_map(move |placed| {
            while slots.next_if(|(target, _)| **target < placed.target).is_some() {}
            let found = slots.peek().filter(|(target, _)| **target == placed.target);
            found.map(|(_, slot)| (placed, &***slot))
        })
    }

    /// Of each step in the plan's order the oldest release that a target of it stands still on; `None` where all move.
    pub(super) fn oldest(&self) -> Vec<Option<Option<ReleaseNo>>> {
        let mut oldest: Vec<Option<Option<ReleaseNo>>> = vec![None; self.plan.steps().count()];
        for (placed, slot) in self.planned().filter(|(_, slot)| slot.motion == Motion::Settled) {
            let one = &mut oldest[placed.step];
            *one = Some(one.map_or(slot.current(), |oldest| oldest.min(slot.current())));
        }
        oldest
    }

    /// The targets that a release moves if it enters the step now.
    pub(super) fn movers<'a>(&self, stage: &Stage, step: &'a Step, release: ReleaseNo) -> Vec<&'a Target> {
        let moves = |target: &&Target| {
            self.slots.get(&target.id).is_some_and(|slot| slot.is_behind(release))
                && self.skip_of(&Scope::of(&target.id), release).is_none()
        };
        let moves: Vec<&Target> = step.targets.iter().filter(moves).collect();
        if moves.is_empty() {
            return moves;
        }
        let late = self.late(stage, step, release);
        moves.into_iter().filter(|target| !late.contains(&target.id.region)).collect()
    }

    /// The Regions that have not come along to a step: a target of theirs in an earlier step of the stage runs an older release
    /// than this one, or has not passed there.
    fn late<'a>(&self, stage: &'a Stage, step: &Step, release: ReleaseNo) -> BTreeSet<&'a RegionId> {
        let mut late = BTreeSet::new();
        for before in earlier(stage, step) {
            let passes = self.steps.get(&before.id).and_then(|state| state.work.under_way());
            let passes = passes.is_some_and(|(passes, _)| passes == release);
            let here = |target: &TargetId| {
                !passes && self.slots.get(target).is_some_and(|slot| slot.current() >= Some(release))
            };
            late.extend(before.targets.iter().filter(|t| !here(&t.id)).map(|t| &t.id.region));
        }
        late
    }

    /// Whether some Region carries the release on through this step: it runs it in all its targets up to here, or will when
    /// the release enters. A Region with fewer AZs than the others carries it through steps in which it has no target.
    fn carried(&self, stage: &Stage, step: &Step, release: ReleaseNo) -> bool {
        let late = self.late(stage, step, release);
        let here = |target: &Target| {
            self.skip_of(&Scope::of(&target.id), release).is_none()
                || self.slots.get(&target.id).is_some_and(|slot| slot.current() >= Some(release))
        };
        let came = |target: &&Target| !late.contains(&target.id.region);
        let own = step.regions();
        let mut passing = earlier(stage, step).flat_map(|before| &before.targets);
        step.targets.iter().filter(came).any(here)
            || passing.any(|target| came(&target) && !own.contains(&target.id.region))
    }

    /// Why a release that would move these targets has nowhere to go in a step; nothing if it has.
    pub(super) fn nowhere(
        &self,
        stage: &Stage,
        step: &Step,
        release: ReleaseNo,
        movers: &[&Target],
    ) -> Vec<Reason> {
        let again = self.steps.get(&step.id).is_some_and(|s| s.done >= Some(release));
        if !movers.is_empty() || !again && self.carried(stage, step, release) {
            return Vec::new();
        }
        let reason = |target: &Target| {
            let scope = Scope::of(&target.id);
            match self.skip_of(&scope, release) {
                Some((skip, of)) => {
                    Reason::Skipped { skip, scope, by: of.by.clone(), reason: of.reason.clone() }
                }
                None => Reason::RegionBehind { scope },
            }
        };
        let behind = |t: &&Target| self.slots.get(&t.id).is_some_and(|slot| slot.current() < Some(release));
        step.targets.iter().filter(behind).map(reason).collect()
    }

    /// Whether a release's way through its wave has not ended on a target: until then its boxes are watched, and return
    /// together with the rest of the wave. What is in no step any more, and does not move, is left alone.
    #[must_use]
    pub fn unfinished(&self, target: &TargetId, release: ReleaseNo) -> bool {
        self.slots.get(target).is_some_and(|slot| slot.has_unfinished(release))
    }

    /// Whether a target runs a release whose wave is unfinished there.
    #[must_use]
    pub fn is_watched(&self, target: &TargetId, release: ReleaseNo) -> bool {
        self.slots.get(target).is_some_and(|slot| slot.runs(release) && slot.has_unfinished(release))
    }

    /// The Regions in which a release bakes in a step: where the step's targets run it; or, where it only passes through
    /// because the Regions that it goes to have no target in the step, where the wave does.
    pub(super) fn bakes_in<'a>(
        &self,
        stage: &'a Stage,
        step: &'a Step,
        release: ReleaseNo,
    ) -> BTreeSet<&'a RegionId> {
        let regions = |targets: &mut dyn Iterator<Item = &'a Target>| -> BTreeSet<&'a RegionId> {
            targets.filter(|t| self.is_watched(&t.id, release)).map(|t| &t.id.region).collect()
        };
        let own = regions(&mut step.targets.iter());
        let wave =
            if own.is_empty() { regions(&mut stage.steps.iter().flat_map(|s| &s.targets)) } else { own };
        if wave.is_empty() { step.regions() } else { wave }
    }

    /// The newest release that has finished every wave; `None` before there is one.
    #[must_use]
    pub fn everywhere(&self) -> Option<ReleaseNo> {
        let mut finished: Vec<Option<ReleaseNo>> = vec![None; self.plan.stages.len()];
        for (placed, slot) in self.planned() {
            finished[placed.stage] = finished[placed.stage].max(slot.finished);
        }
        finished.into_iter().min().flatten()
    }

    /// Notes which Regions of a step's stage have finished it: the stage's last step has passed, and all of the Region's
    /// targets run what has passed.
    pub(super) fn finish(&mut self, step: &StepId) {
        let Some((stage, _)) = self.plan.step(step) else { return };
        let last = stage.steps.last().and_then(|last| self.steps.get(&last.id)).and_then(|last| last.done);
        let mut finished: Vec<(TargetId, ReleaseNo)> = Vec::new();
        for region in stage.regions() {
            let own = || stage.steps.iter().filter(|s| s.targets.iter().any(|t| &t.id.region == region));
            let targets: Vec<&TargetId> =
                own().flat_map(|s| &s.targets).map(|t| &t.id).filter(|t| &t.region == region).collect();
            let oldest = targets.iter().map(|t| self.slots.get(*t)?.current()).min().flatten();
            let Some(release) = oldest.filter(|release| Some(*release) <= last) else { continue };
            let passing = |s: &Step| {
                let work = self.steps.get(&s.id).map(|state| &state.work);
                work.and_then(super::Work::under_way).is_some_and(|(r, _)| r == release)
            };
            if !own().any(passing) {
                finished.extend(targets.into_iter().map(|t| (t.clone(), release)));
            }
        }
        for (target, release) in finished {
            if let Some(slot) = self.slots.get_mut(&target) {
                slot.finished = slot.finished.max(Some(release));
            }
        }
    }
}

/// The steps of a stage before this one.
fn earlier<'a>(stage: &'a Stage, step: &Step) -> impl Iterator<Item = &'a Step> {
    stage.steps.iter().take_while(move |before| before.id != step.id)
}

//! The end of a pipeline, and its return. A deleted pipeline is Retiring: rollbacks that are under way finish, everything
//! else is cancelled, boxes stay as they are, and results that come late are dropped. Then it is Retired, and keeps its
//! history. Applying a definition of its name revives it: what was left half way is taken back first, as by a rollback,
//! and comes again through the gates.

use super::decide::Deciding;
use super::{Build, Life, Motion, PipelineFact, Retirement, Work};
use crate::decision::{Actor, EffectId};
use crate::ids::TargetId;
use crate::team::TeamFact;

impl Deciding<'_> {
    /// Ends the pipeline.
    pub(super) fn retire(&mut self, by: &Actor, reason: &str) {
        self.end_observing();
        let builds = self.p.releases.values().filter_map(|release| match &release.build {
            Build::Building { effect, .. } => Some(effect.clone()),
            Build::Failed { .. } | Build::Built { .. } => None,
        });
        let tests = self.p.steps.values().filter_map(|step| match &step.work {
            Work::Testing { effect, .. } => Some(effect.clone()),
            _ => None,
        });
        let deployments = self.p.slots.iter().filter_map(|(target, slot)| match slot.motion {
            Motion::Forward { .. } => Some(EffectId(format!("{}/{target}/{}", self.id, slot.generation))),
            Motion::Settled | Motion::Back { .. } | Motion::Abandoned { .. } => None,
        });
        let cancelled: Vec<EffectId> = builds.chain(tests).chain(deployments).collect();
        self.out.cancelled.extend(cancelled);
        let retirement = Retirement { by: by.clone(), reason: reason.to_owned(), since: self.now };
        self.fact(PipelineFact::Retiring { retirement });
        self.team_fact(TeamFact::PipelineRemoved { pipeline: self.id.clone() });
    }

    /// A retiring pipeline is retired when nothing is being taken back any more.
    pub(super) fn end_retirement(&mut self) {
        let back = |motion: &Motion| matches!(motion, Motion::Back { .. });
        if matches!(self.p.life, Life::Retiring(_)) && !self.p.slots.values().any(|slot| back(&slot.motion)) {
            let at = self.now;
            self.fact(PipelineFact::Retired { at });
        }
    }

    /// Takes the pipeline up again.
    pub(super) fn revive(&mut self) {
        let at = self.now;
        self.fact(PipelineFact::Revived { at });
        let abandoned = |motion: &Motion| matches!(motion, Motion::Abandoned { .. });
        let targets: Vec<TargetId> =
            self.p.slots.iter().filter(|(_, s)| abandoned(&s.motion)).map(|(id, _)| id.clone()).collect();
        for target in targets {
            self.return_slot(&target);
        }
    }
}

//! What people order: holds, overrides, skips, rollbacks, and another try. Each order is checked, and recorded with who
//! gave it and why.

use super::adopt::ADOPTED;
use super::decide::Deciding;
use super::{Build, Cause, Cleared, Hold, Override, PipelineEvent, PipelineFact, Skip, Standing};
use crate::decision::{Actor, Illegal};
use crate::ids::{ReleaseNo, StageId};
use crate::scope::Scope;
use crate::units::Span;

/// Longest life of an override.
const OVERRIDE_MAX: Span = Span::hours(7 * 24);

impl Deciding<'_> {
    /// What people order of a pipeline that goes on.
    pub(super) fn ordered(&mut self, event: &PipelineEvent) -> Result<(), Illegal> {
        let number = self.p.last_number + 1;
        match event {
            PipelineEvent::HoldPlaced { by, reason, until, stage } => {
                let known = |stage: &StageId| self.p.plan.stages.iter().any(|s| &s.id == stage);
                if let Some(stage) = stage.as_ref().filter(|stage| !known(stage)) {
                    return Err(Illegal::new(format!("{} has no stage '{stage}'", self.id)));
                }
                let (by, reason, since) = (by.clone(), reason.clone(), self.now);
                let hold = Hold { by, reason, since, until: *until, stage: stage.clone() };
                self.fact(PipelineFact::HoldPlaced { number, hold });
            }
            PipelineEvent::HoldLifted { hold, by } => {
                if !self.p.holds.contains_key(hold) {
                    return Err(Illegal::new(format!("{} has no hold {hold}", self.id)));
                }
                self.fact(PipelineFact::HoldLifted { number: *hold, by: by.clone() });
            }
            PipelineEvent::Overridden { release, blockers, steps, by, reason, expires } => {
                self.known(*release)?;
                if let Some(step) = steps.iter().find(|s| self.p.plan.step(s).is_none()) {
                    return Err(Illegal::new(format!("{} has no step '{step}'", self.id)));
                }
                let allowed = Override {
                    release: *release,
                    blockers: blockers.clone(),
                    steps: steps.clone(),
                    by: by.clone(),
                    reason: reason.clone(),
                    at: self.now,
                    expires: (*expires).min(self.now + OVERRIDE_MAX),
                };
                self.fact(PipelineFact::Overridden { number, allowed });
            }
            PipelineEvent::RegionSkipped { scope, release, by, reason } => {
                self.may_skip(scope, *release)?;
                let (scope, by, reason, since) = (scope.clone(), by.clone(), reason.clone(), self.now);
                let skip = Skip { scope, release: *release, by, reason, since };
                self.fact(PipelineFact::RegionSkipped { number, skip });
            }
            PipelineEvent::SkipLifted { skip, by } => {
                if !self.p.skips.contains_key(skip) {
                    return Err(Illegal::new(format!("{} has no skip {skip}", self.id)));
                }
                self.fact(PipelineFact::SkipLifted { number: *skip, by: by.clone() });
            }
            PipelineEvent::RollbackOrdered { release, by, reason, everywhere } => {
                self.rollback_ordered(*release, by, reason, *everywhere)?;
            }
            PipelineEvent::Retried { release, by, reason } => self.retried(*release, by, reason)?,
            PipelineEvent::RetireOrdered { by, reason } => self.retire(by, reason),
            PipelineEvent::Adopted { adoption } => self.adopt(adoption)?,
            PipelineEvent::Applied { .. }
            | PipelineEvent::Tick
            | PipelineEvent::Resumed { .. }
            | PipelineEvent::TurnAwaited { .. }
            | PipelineEvent::SourceObserved { .. }
            | PipelineEvent::SourceFailed { .. }
            | PipelineEvent::ForgeTold { .. }
            | PipelineEvent::BuildEnded { .. }
            | PipelineEvent::SlotsObserved { .. }
            | PipelineEvent::TestsEnded { .. }
            | PipelineEvent::Watched { .. } => {
                return Err(Illegal::new("this is no order of a person"));
            }
        }
        Ok(())
    }

    fn known(&self, release: ReleaseNo) -> Result<(), Illegal> {
        if self.p.releases.contains_key(&release) {
            return Ok(());
        }
        Err(Illegal::new(format!("{} has no release {release}", self.id)))
    }

    /// One skip for each Region and release, so that there are never many.
    fn may_skip(&self, scope: &Scope, release: Option<ReleaseNo>) -> Result<(), Illegal> {
        if let Some(release) = release {
            self.known(release)?;
        }
        if !self.p.plan.targets().any(|t| &Scope::of(&t.id) == scope) {
            return Err(Illegal::new(format!("{} does not deploy to {scope}", self.id)));
        }
        let same = |skip: &Skip| &skip.scope == scope && skip.release == release;
        match self.p.skips.iter().find(|(_, skip)| same(skip)) {
            Some((number, skip)) => {
                let Skip { by, reason, .. } = skip;
                Err(Illegal::new(format!("{scope} is skipped already by {by}: {reason} (skip {number})")))
            }
            None => Ok(()),
        }
    }

    pub(super) fn rollback_ordered(
        &mut self,
        release: ReleaseNo,
        by: &Actor,
        reason: &str,
        everywhere: bool,
    ) -> Result<(), Illegal> {
        self.known(release)?;
        if let Some(Standing::Rejected { cause, .. }) = self.p.releases.get(&release).map(|r| &r.standing) {
            return Err(Illegal::new(format!("{release} is rejected already: {cause}")));
        }
        if release == ADOPTED {
            let text = format!(
                "{release} is what ran before, and there is nothing to return to; merge a change instead"
            );
            return Err(Illegal::new(text));
        }
        self.fact(PipelineFact::RollbackOrdered { release, by: by.clone(), reason: reason.to_owned() });
        let cause = Cause::Person { by: by.clone(), reason: reason.to_owned() };
        self.reject(release, cause, everywhere);
        Ok(())
    }

    /// A person can try again from any ended state (with a reason): a failed build, or a rejected release.
    pub(super) fn retried(&mut self, release: ReleaseNo, by: &Actor, reason: &str) -> Result<(), Illegal> {
        self.known(release)?;
        let Some(state) = self.p.releases.get(&release) else { return Ok(()) };
        let commits = state.commits.clone();
        match (&state.build, &state.standing) {
            (Build::Failed { .. }, _) => {
                if let Some((effect, awaited)) = self.order_build(release, commits) {
                    let (by, reason) = (by.clone(), reason.to_owned());
                    self.fact(PipelineFact::BuildStarted { release, effect, awaited, by, reason });
                }
                Ok(())
            }
            (Build::Built { .. }, Standing::Rejected { .. }) => {
                let cleared = Cleared { by: by.clone(), reason: reason.to_owned(), at: self.now };
                self.fact(PipelineFact::TaintCleared { release, cleared });
                self.complete_run_specs(Some(release));
                let behind = self.p.plan.steps().map(|(_, step)| step.id.clone()).find(|id| {
                    self.p.steps.get(id).is_some_and(|s| s.done.is_none_or(|done| done < release))
                });
                if let Some(step) = behind {
                    self.candidate(&step, release);
                }
                Ok(())
            }
            // What was made while the pipeline only observed waits for a person's word.
            (Build::Built { .. }, Standing::Good)
                if self.p.observed >= Some(release) && release != ADOPTED =>
            {
                let newer = self.p.slots.values().filter_map(|slot| slot.current()).max();
                if newer > Some(release) {
                    let text =
                        format!("{release} is older than what runs, and no step goes to an older release");
                    return Err(Illegal::new(text));
                }
                let first = self.p.plan.steps().next().map(|(_, step)| step.id.clone());
                if let Some(first) = first {
                    self.candidate(&first, release);
                }
                Ok(())
            }
            (Build::Building { .. }, _) => Err(Illegal::new(format!("{release} is being built"))),
            (Build::Built { .. }, Standing::Good | Standing::Suspect { .. }) => {
                Err(Illegal::new(format!("nothing of {release} has failed; it goes on by itself")))
            }
        }
    }
}

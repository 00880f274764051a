//! Releases enter steps: who comes to a step, and what happens when its gates are open.

use super::adopt::ADOPTED;
use super::decide::Deciding;
use super::gates::{self, Blocker, Gate};
use super::rollback::is_good;
use super::{Break, Build, PipelineFact, Release, Standing};
use crate::alarm::AlarmName;
use crate::ids::{RegionId, ReleaseNo};
use crate::lease::LeaseFact;
use crate::plan::{Stage, Step, Target};
use crate::scope::Scope;
use crate::team::TeamFact;
use crate::units::Timestamp;
use std::collections::{BTreeMap, BTreeSet};

impl Deciding<'_> {
    /// Lets candidates in whose gates are open, later steps first.
    pub(super) fn enter_steps(&mut self) {
        let plan = self.p.plan.clone();
        // What has finished every wave does not change while releases enter.
        let everywhere = self.p.everywhere();
        // Nor what a step's targets stand on before it is its turn.
        let oldest = self.p.oldest();
        let steps: Vec<(&Stage, &Step)> = plan.steps().collect();
        for (at, (stage, step)) in steps.iter().enumerate().rev() {
            let before = at.checked_sub(1).and_then(|before| steps.get(before)).map(|(_, before)| *before);
            // What passed last may have been rejected, and what passed before it overtaken by it.
            let passed = match before {
                Some(before) => self.p.steps.get(&before.id).and_then(|state| {
                    [state.done, state.before]
                        .into_iter()
                        .flatten()
                        .find(|release| is_good(&self.p, *release))
                }),
                None => self.newest_built(),
            };
            self.call(stage, step, passed, everywhere, oldest[at]);
            let Some(state) = self.p.steps.get(&step.id) else { continue };
            let Some(release) = state.candidate else { continue };
            if !self.needs(step, release) {
                continue;
            }
            match gates::check(&self.p, stage, step, before, release, &self.around()) {
                Gate::Open => self.enter(stage, step, release),
                Gate::Closed(reasons) => {
                    if let Some(at) = gates::looks_again(&self.p, &reasons, &self.team) {
                        self.look_again(at);
                    }
                    if self.p.steps.get(&step.id).is_some_and(|s| s.waiting != reasons) {
                        self.fact(PipelineFact::Waits { step: step.id.clone(), release, reasons });
                    }
                }
            }
        }
    }

    /// Whether the candidate is newer than what the step has in work or has passed, or some target of it does not run it
    /// yet (it was taken back there as a suspect, its Region was skipped, or the target is new).
    pub(super) fn needs(&self, step: &Step, release: ReleaseNo) -> bool {
        let Some(state) = self.p.steps.get(&step.id) else { return false };
        let newest = state.work.under_way().map(|(r, _)| r).max(state.done);
        let behind = |t: &Target| self.p.slots.get(&t.id).is_some_and(|slot| slot.is_behind(release));
        newest.is_none_or(|n| n < release) || newest == Some(release) && step.targets.iter().any(behind)
    }

    /// The newest good release that is built: what comes to the first step, also to one that was not the first when the
    /// release was made.
    fn newest_built(&self) -> Option<ReleaseNo> {
        let built = |release: &Release| matches!(release.build, Build::Built { .. });
        let mut newest_first = self.p.releases.iter().rev();
        let may =
            |no: ReleaseNo| self.p.observed.is_none_or(|observed| no > observed) && is_good(&self.p, no);
        newest_first.find(|(no, release)| built(release) && may(**no)).map(|(no, _)| *no)
    }

    /// Calls a release to a step where none waits: the newest good one that has passed the step before, and that is new
    /// here or has targets to move; or, for targets that are new or were skipped, the newest that has finished every wave.
    /// `oldest` is what a target of the step stands still on.
    fn call(
        &mut self,
        stage: &Stage,
        step: &Step,
        passed: Option<ReleaseNo>,
        everywhere: Option<ReleaseNo>,
        oldest: Option<Option<ReleaseNo>>,
    ) {
        let Some(state) = self.p.steps.get(&step.id) else { return };
        if state.candidate.is_some() || state.work.under_way().is_some() {
            return;
        }
        let behind = |release: &ReleaseNo| oldest.is_some_and(|oldest| oldest < Some(*release));
        let wanted = |release: &ReleaseNo| {
            // What comes from the step before, and is not everywhere yet, goes on also where all boxes run it: the step may have
            // been renamed.
            let new = match state.done {
                Some(done) => done < *release,
                None => passed == Some(*release) && everywhere < Some(*release),
            };
            state.done.is_none_or(|done| done <= *release)
                && (new || behind(release) && !self.p.movers(stage, step, *release).is_empty())
                && is_good(&self.p, *release)
        };
        // What was handed over stays where it ran: nobody has reviewed it, and nobody has asked for it elsewhere.
        let deployable = |release: &ReleaseNo| *release != ADOPTED;
        let release = [passed, everywhere].into_iter().flatten().filter(deployable).filter(wanted).max();
        if let Some(release) = release {
            self.fact(PipelineFact::CandidateSet { step: step.id.clone(), release });
        }
    }

    fn enter(&mut self, stage: &Stage, step: &Step, release: ReleaseNo) {
        let movers = self.p.movers(stage, step, release);
        let open = gates::overridden(&self.p, step, release, self.now);
        let mut masks = BTreeMap::new();
        if open.contains(&Blocker::AggregateAlarm) {
            for scope in movers.iter().map(|target| Scope::of(&target.id)) {
                let views =
                    self.judges(step.role).into_iter().map(|n| self.team.view(&scope, &n, &BTreeSet::new()));
                let firing: BTreeSet<AlarmName> =
                    views.filter(|v| v.in_alarm).flat_map(|v| v.firing).collect();
                if !firing.is_empty() {
                    masks.insert(scope, firing);
                }
            }
        }
        let in_force = |o: &super::Override| {
            o.release == release && o.expires > self.now && (o.steps.is_empty() || o.steps.contains(&step.id))
        };
        let overrides = self.p.overrides.iter().filter(|(_, o)| in_force(o)).map(|(n, _)| *n).collect();
        if matches!(self.p.releases.get(&release).map(|r| &r.standing), Some(Standing::Suspect { .. })) {
            self.fact(PipelineFact::SuspectReturned { release });
            if !self.p.observes() {
                self.team_fact(TeamFact::SuspectTurnTaken { pipeline: self.id.clone() });
            }
        }
        let mut leases = super::orders::leases_of(&self.p, &movers);
        if self.switches.has(Break::NoLease) || self.p.observes() {
            leases.clear();
        }
        for lease in leases {
            self.lease(lease, LeaseFact::Taken { pipeline: self.id.clone(), step: step.id.clone() });
        }
        let left = self.p.older_than(step, release).into_iter();
        let without: BTreeMap<RegionId, u64> =
            left.filter_map(|left| Some((left.region, left.skip?.0))).collect();
        let (step_id, at) = (step.id.clone(), self.entry_time(step));
        self.fact(PipelineFact::Entered { step: step_id, release, at, overrides, masks, without });
        for target in &movers {
            let Some(generation) = self.p.slots.get(&target.id).map(|slot| slot.generation + 1) else {
                continue;
            };
            let (target, awaited) = (target.id.clone(), self.progress_deadline());
            self.look_again(awaited.deadline);
            self.fact(PipelineFact::SlotForward { target: target.clone(), release, generation, awaited });
            self.order_slot(&target);
        }
        if movers.is_empty() {
            // It only passes through; no engine will tell that it has arrived.
            self.look_again(self.now);
        }
    }

    /// When a release enters: after every alarm that its gate has seen. So an alarm that is recorded later counts from the
    /// very millisecond of the entry on, and one that had come and gone before does not (both have the time of the period
    /// that they were evaluated over).
    fn entry_time(&self, step: &Step) -> Timestamp {
        let scopes: BTreeSet<Scope> = step.targets.iter().map(|t| Scope::of(&t.id)).collect();
        let alarms =
            scopes.iter().filter_map(|scope| self.team.scopes.get(scope)).flat_map(|all| all.values());
        let seen = alarms.filter_map(|status| status.last_alarm.as_ref()).map(|last| last.at).max();
        seen.map_or(self.now, |seen| self.now.max(Timestamp(seen.0 + 1)))
    }
}

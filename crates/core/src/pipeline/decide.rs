//! What follows from an event. First what the event itself says, then one pass of [`super::advance`], which looks at
//! everything again: signals are no hints, so a lost one costs time and never an outcome.

use super::advance::advance;
use super::gates::Surroundings;
use super::{
    Build, Capacity, Cause, Cleared, Hold, Motion, Override, PENDING_COMMITS_MAX, Pipeline, PipelineEvent,
    PipelineFact, Standing, Trouble, Work,
};
use crate::bake::WatchedInterval;
use crate::change::SourceObservation;
use crate::decision::{
    Actor, AggregateId, Decision, Effect, EffectId, Fact, ForwardEffect, Illegal, RollbackEffect,
};
use crate::definition::PipelineDef;
use crate::engine::{BoxHealth, Observation};
use crate::ids::{PackageDigest, PipelineId, ReleaseNo, Role, SourceId, TargetId};
use crate::lease::{Lease, LeaseFact, LeaseId};
use crate::organisation::Organisation;
use crate::rollout::{self, Direction, Next};
use crate::scope::Scope;
use crate::team::{Team, TeamFact};
use crate::units::{Span, Timestamp};
use std::collections::{BTreeMap, BTreeSet};

/// Longest life of an override.
const OVERRIDE_MAX: Span = Span::hours(7 * 24);

/// States of other aggregates that a decision relies on; the runtime checks at commit that they are still the same.
#[derive(Debug, Clone, Default)]
pub struct Snapshots {
    /// The team that owns the pipeline's service.
    pub team: Team,
    /// The organisation.
    pub organisation: Organisation,
    /// The leases of the pipeline's service.
    pub leases: BTreeMap<LeaseId, Lease>,
    /// Breaks of the rules, for tests.
    pub switches: Switches,
}

/// Deliberate breaks of the rules: they exist to prove that tests and the demo notice. A server accepts them only in a
/// build for development.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Switches {
    /// Nothing is taken back.
    pub rollback_off: bool,
    /// Every commit counts as reviewed.
    pub review_off: bool,
    /// Guilty releases are taken back, and come again.
    pub rejection_off: bool,
}

/// A decision in the making: working copies that every fact changes at once.
pub(super) struct Deciding<'a> {
    pub(super) id: &'a PipelineId,
    pub(super) p: Pipeline,
    pub(super) team: Team,
    pub(super) organisation: &'a Organisation,
    pub(super) leases: BTreeMap<LeaseId, Lease>,
    pub(super) now: Timestamp,
    pub(super) switches: Switches,
    pub(super) out: Decision,
}

/// Decides on an event.
///
/// # Errors
/// The event does not fit the state.
pub(crate) fn decide(
    id: &PipelineId,
    state: Pipeline,
    event: &PipelineEvent,
    now: Timestamp,
    snapshots: &Snapshots,
) -> Result<(Pipeline, Decision), Illegal> {
    let mut d = Deciding {
        id,
        p: state,
        team: snapshots.team.clone(),
        organisation: &snapshots.organisation,
        leases: snapshots.leases.clone(),
        now,
        switches: snapshots.switches,
        out: Decision::default(),
    };
    if d.p.definition.is_none() && !matches!(event, PipelineEvent::Applied { .. }) {
        return Err(Illegal::new(format!("there is no pipeline '{id}'")));
    }
    d.take(event)?;
    advance(&mut d);
    Ok((d.p, d.out))
}

impl Deciding<'_> {
    /// Records a fact of this pipeline.
    pub(super) fn fact(&mut self, fact: PipelineFact) {
        self.p.apply(&fact);
        self.out.facts.push((AggregateId::Pipeline(self.id.clone()), Fact::Pipeline(fact)));
    }

    /// Records a fact of a lease.
    pub(super) fn lease(&mut self, id: LeaseId, fact: LeaseFact) {
        self.leases.entry(id.clone()).or_default().apply(&fact);
        // Others may have waited for it, or have lost it.
        self.wake_others();
        self.out.facts.push((AggregateId::Lease(id), Fact::Lease(fact)));
    }

    /// Records a fact of the team.
    pub(super) fn team_fact(&mut self, fact: TeamFact) {
        let Some(team) = self.p.team.clone() else { return };
        self.team.apply(&fact);
        self.out.facts.push((AggregateId::Team(team), Fact::Team(fact)));
    }

    pub(super) fn wake_others(&mut self) {
        let others = self.team.pipelines.iter().filter(|p| *p != self.id).cloned().map(AggregateId::Pipeline);
        for other in others {
            if !self.out.wake.contains(&other) {
                self.out.wake.push(other);
            }
        }
    }

    /// Asks to be told the time at the latest then.
    pub(super) fn look_again(&mut self, at: Timestamp) {
        let at = at.max(Timestamp(self.now.0 + 1));
        self.out.due = Some(self.out.due.map_or(at, |due| due.min(at)));
    }

    pub(super) fn around(&self) -> Surroundings<'_> {
        Surroundings {
            id: self.id,
            team: &self.team,
            organisation: self.organisation,
            leases: &self.leases,
            now: self.now,
        }
    }

    fn take(&mut self, event: &PipelineEvent) -> Result<(), Illegal> {
        match event {
            PipelineEvent::Applied { definition } => self.applied(definition),
            PipelineEvent::Tick => {
                self.follow_the_region_list();
                Ok(())
            }
            PipelineEvent::SourceObserved { source, observation } => {
                self.source_observed(source, observation)
            }
            PipelineEvent::SourceFailed { source, why } => self.source_failed(source, why),
            PipelineEvent::BuildEnded { effect, result } => {
                self.build_ended(effect, result);
                Ok(())
            }
            PipelineEvent::SlotObserved { observation } => {
                self.slot_observed(observation);
                Ok(())
            }
            PipelineEvent::TestsEnded { effect, result } => {
                self.tests_ended(effect, result);
                Ok(())
            }
            PipelineEvent::Watched { grants } => {
                for grant in grants {
                    self.watched(grant);
                }
                Ok(())
            }
            PipelineEvent::HoldPlaced { by, reason, until, stage } => {
                if let Some(stage) =
                    stage.as_ref().filter(|s| !self.p.plan.stages.iter().any(|p| &p.id == *s))
                {
                    return Err(Illegal::new(format!("{} has no stage '{stage}'", self.id)));
                }
                let hold = Hold {
                    by: by.clone(),
                    reason: reason.clone(),
                    since: self.now,
                    until: *until,
                    stage: stage.clone(),
                };
                let number = self.p.last_number + 1;
                self.fact(PipelineFact::HoldPlaced { number, hold });
                Ok(())
            }
            PipelineEvent::HoldLifted { hold, by } => {
                if !self.p.holds.contains_key(hold) {
                    return Err(Illegal::new(format!("{} has no hold {hold}", self.id)));
                }
                self.fact(PipelineFact::HoldLifted { number: *hold, by: by.clone() });
                Ok(())
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
                let number = self.p.last_number + 1;
                self.fact(PipelineFact::Overridden { number, allowed });
                Ok(())
            }
            PipelineEvent::RollbackOrdered { release, by, reason, everywhere } => {
                self.rollback_ordered(*release, by, reason, *everywhere)
            }
            PipelineEvent::Retried { release, by, reason } => self.retried(*release, by, reason),
        }
    }

    fn known(&self, release: ReleaseNo) -> Result<(), Illegal> {
        if self.p.releases.contains_key(&release) {
            return Ok(());
        }
        Err(Illegal::new(format!("{} has no release {release}", self.id)))
    }

    fn applied(&mut self, definition: &PipelineDef) -> Result<(), Illegal> {
        let Some(organisation) = &self.organisation.definition else {
            return Err(Illegal::new("no organisation has been applied yet"));
        };
        let Some(service) = organisation.service(&definition.service) else {
            return Err(Illegal::new(format!("there is no service '{}'", definition.service)));
        };
        if self.p.definition.as_ref().is_some_and(|d| d.service != definition.service) {
            return Err(Illegal::new("a pipeline cannot be moved to another service; make a new one"));
        }
        let plan = crate::plan::plan(definition, organisation);
        if self.p.definition.as_ref() == Some(definition) && self.p.plan == plan {
            return Ok(());
        }
        let team = service.team.clone();
        self.fact(PipelineFact::Defined { definition: Box::new(definition.clone()), team, plan });
        if !self.team.pipelines.contains(self.id) {
            self.team_fact(TeamFact::PipelineAdded { pipeline: self.id.clone() });
        }
        Ok(())
    }

    /// A Region that was added to the central list comes into every pipeline (C2).
    fn follow_the_region_list(&mut self) {
        let (Some(organisation), Some(definition)) =
            (&self.organisation.definition, self.p.definition.clone())
        else {
            return;
        };
        let plan = crate::plan::plan(&definition, organisation);
        let Some(team) = organisation.service(&definition.service).map(|s| s.team.clone()) else { return };
        if self.p.plan != plan || self.p.team.as_ref() != Some(&team) {
            self.fact(PipelineFact::Defined { definition: Box::new(definition), team, plan });
        }
    }

    fn source_observed(&mut self, source: &SourceId, seen: &SourceObservation) -> Result<(), Illegal> {
        let Some(state) = self.p.sources.get(source) else {
            return Err(Illegal::new(format!("{} has no source '{source}'", self.id)));
        };
        let trouble = if seen.rewritten {
            let known = state.head.as_ref().map_or("", |h| h.short());
            Some(format!(
                "the history was rewritten: {known} is no ancestor of {} any more; no source moves backward, so push \
                 a mainline that contains {known}",
                seen.head.short()
            ))
        } else if state.pending.len() + seen.commits.len() > PENDING_COMMITS_MAX {
            Some(format!(
                "more than {PENDING_COMMITS_MAX} commits wait for review; name the history that was there before as 'since'"
            ))
        } else {
            None
        };
        if let Some(why) = trouble {
            return self.source_failed(source, &why);
        }
        let (had_trouble, new_head) = (state.trouble.is_some(), state.head.as_ref() != Some(&seen.head));
        let known: BTreeSet<_> = state.pending.iter().map(|s| s.commit.id.clone()).collect();
        if had_trouble {
            self.fact(PipelineFact::SourceRecovered { source: source.clone() });
        }
        if new_head {
            let commits = seen.commits.iter().filter(|c| !known.contains(&c.id)).cloned().collect();
            let (source, head, at) = (source.clone(), seen.head.clone(), self.now);
            self.fact(PipelineFact::CommitsSeen { source, head, commits, at });
        }
        Ok(())
    }

    fn source_failed(&mut self, source: &SourceId, why: &str) -> Result<(), Illegal> {
        let Some(state) = self.p.sources.get(source) else {
            return Err(Illegal::new(format!("{} has no source '{source}'", self.id)));
        };
        if state.trouble.as_ref().is_none_or(|t| t.why != why) {
            let since = state.trouble.as_ref().map_or(self.now, |t| t.since);
            let trouble = Trouble { why: why.to_owned(), since };
            self.fact(PipelineFact::SourceTroubled { source: source.clone(), trouble });
        }
        Ok(())
    }

    /// The first result of the build that is awaited counts; any other is late and changes nothing.
    fn build_ended(&mut self, effect: &EffectId, result: &Result<PackageDigest, String>) {
        let awaited = self.p.releases.iter().find(|(_, release)| {
            matches!(&release.build, Build::Building { effect: awaited, .. } if awaited == effect)
        });
        let Some(release) = awaited.map(|(no, _)| *no) else { return };
        let at = self.now;
        match result {
            Ok(package) => {
                let Some(definition) = self.p.definition.clone() else { return };
                let specs = self.run_specs(&definition, package);
                let run_specs = specs.iter().map(|(e, spec)| (e.clone(), spec.digest())).collect();
                // Environments that call the same endpoints share one.
                let unique: BTreeMap<_, _> = specs.into_values().map(|spec| (spec.digest(), spec)).collect();
                self.out.run_specs.extend(unique);
                self.fact(PipelineFact::Built { release, package: package.clone(), run_specs, at });
                let first = self.p.plan.steps().next().map(|(_, step)| step.id.clone());
                if let Some(first) = first {
                    self.candidate(&first, release);
                }
            }
            Err(why) => self.build_failed(release, why),
        }
    }

    pub(super) fn build_failed(&mut self, release: ReleaseNo, why: &str) {
        let at = self.now;
        self.fact(PipelineFact::BuildFailed { release, why: why.to_owned(), at });
        let title = format!("{}: {release} cannot be built", self.id);
        let text = format!("{why}\nNext: push a fix, or tidegate retry {release} --pipeline {}", self.id);
        self.page(&format!("build/{release}"), crate::decision::Severity::Low, title, text);
    }

    /// Makes a release the candidate of a step, unless a newer one is.
    pub(super) fn candidate(&mut self, step: &crate::plan::StepId, release: ReleaseNo) {
        let newer = self.p.steps.get(step).is_some_and(|s| s.candidate.is_some_and(|c| c >= release));
        if !newer {
            self.fact(PipelineFact::CandidateSet { step: step.clone(), release });
        }
    }

    fn tests_ended(&mut self, effect: &EffectId, result: &Result<(), String>) {
        let awaited = self.p.steps.iter().find_map(|(id, step)| match &step.work {
            Work::Testing { release, effect: awaited, .. } if awaited == effect => {
                Some((id.clone(), *release))
            }
            _ => None,
        });
        let Some((step, release)) = awaited else { return };
        match result {
            Ok(()) => self.start_bake(&step),
            Err(why) => self.reject(release, Cause::Tests { step, why: why.clone() }, false),
        }
    }

    fn slot_observed(&mut self, seen: &Observation) {
        let target = &seen.slot.target;
        let Some(slot) = self.p.slots.get(target).filter(|_| &seen.slot.pipeline == self.id) else { return };
        if seen.fence.generation < slot.generation {
            return;
        }
        self.note_capacity(seen);
        let Some(slot) = self.p.slots.get(target) else { return };
        let (direction, wanted, asked, settled, had_trouble) = match &slot.motion {
            Motion::Settled => return,
            Motion::Forward { release, asked, settled, trouble, .. } => {
                (Direction::Forward, Some(*release), *asked, *settled, trouble.clone())
            }
            Motion::Back { to, asked, settled, trouble, .. } => {
                (Direction::Back, *to, *asked, *settled, trouble.clone())
            }
        };
        let Some(wanted) = wanted else {
            if seen.boxes.is_empty() {
                self.fact(PipelineFact::SlotSettled { target: target.clone(), release: None });
            }
            return;
        };
        let Some(new) = self.p.run_spec(wanted, &target.environment).cloned() else { return };
        let boxes = slot.boxes;
        let of_new = || seen.boxes.iter().filter(|b| b.run_spec == new);
        let healthy = of_new().filter(|b| b.health.is_healthy()).count();
        let healthy = u32::try_from(healthy).unwrap_or(boxes);
        let sick = of_new().find_map(|b| match &b.health {
            BoxHealth::Unhealthy { reason } => Some(format!("box {}: {reason}", b.id)),
            _ => None,
        });
        // A box that starts again says nothing: what it said last stands until it is healthy.
        let starts = of_new().any(|b| matches!(b.health, BoxHealth::Starting { .. }));
        let before = || had_trouble.clone().filter(|_| starts);
        let trouble = seen.trouble.clone().or(sick).or_else(before);
        if trouble != had_trouble {
            self.fact(PipelineFact::SlotTroubled { target: target.clone(), trouble });
        }
        if healthy != settled {
            // Only more healthy boxes are progress; boxes that come and go do not put the deadline off.
            let awaited = if healthy > settled { self.progress_deadline() } else { self.awaited(target) };
            self.fact(PipelineFact::SlotProgressed { target: target.clone(), settled: healthy, awaited });
        }
        match rollout::next(&self.rolling(), direction, boxes, &new, asked, &seen.boxes, self.now) {
            Next::Ask(more) => self.ask(target, more, direction),
            // Moving slots are observed again at least every second.
            Next::Wait | Next::WaitUntil(_) => {}
            Next::Complete => {
                self.fact(PipelineFact::SlotSettled { target: target.clone(), release: Some(wanted) })
            }
        }
    }

    fn awaited(&self, target: &TargetId) -> crate::decision::Awaited {
        match self.p.slots.get(target).map(|s| &s.motion) {
            Some(Motion::Forward { awaited, .. } | Motion::Back { awaited, .. }) => *awaited,
            Some(Motion::Settled) | None => self.progress_deadline(),
        }
    }

    fn ask(&mut self, target: &TargetId, asked: u32, direction: Direction) {
        // A rollback of another pipeline may have taken the lease: then nothing more is replaced until it is back.
        if direction == Direction::Forward && !self.holds_lease(target) {
            return;
        }
        let Some(generation) = self.p.slots.get(target).map(|s| s.generation + 1) else { return };
        self.fact(PipelineFact::SlotAsked { target: target.clone(), generation, asked });
        let Some(order) = self.order(target) else { return };
        let effect = match direction {
            Direction::Forward => Effect::Forward(ForwardEffect::Deploy(order)),
            Direction::Back => Effect::Rollback(RollbackEffect::Return(order)),
        };
        self.effect(format!("{target}/{generation}"), effect);
    }

    /// Whether the lease that the target's deployment took is still its own, or is it again.
    pub(super) fn holds_lease(&self, target: &TargetId) -> bool {
        let id = LeaseId::new(&target.service, Scope::of(target));
        self.leases.get(&id).is_some_and(|lease| lease.is_deploying(self.id))
    }

    fn note_capacity(&mut self, seen: &Observation) {
        let target = &seen.slot.target;
        let Some(slot) = self.p.slots.get(target).filter(|_| target.role == Role::Main) else { return };
        if slot.history.is_empty() {
            return;
        }
        let minimum = rollout::minimum_healthy(&self.rolling(), slot.boxes);
        let healthy = seen.boxes.iter().filter(|b| b.health.is_healthy()).count();
        let healthy = u32::try_from(healthy).unwrap_or(u32::MAX);
        let capacity =
            if healthy >= minimum { Capacity::Enough } else { Capacity::Short { healthy, minimum } };
        if slot.capacity != capacity {
            self.fact(PipelineFact::CapacityChanged { target: target.clone(), capacity });
        }
    }

    fn watched(&mut self, grant: &super::Grant) {
        let baking: Vec<_> = self
            .p
            .plan
            .steps()
            .filter(|(stage, step)| {
                stage.environment == grant.scope.environment && step.regions().contains(&grant.scope.region)
            })
            .filter_map(|(_, step)| match &self.p.steps.get(&step.id)?.work {
                Work::Baking { release, clock, blind, .. } => {
                    Some((step.id.clone(), step.role, *release, clock.clone(), blind.clone()))
                }
                _ => None,
            })
            .collect();
        for (step, role, release, mut clock, was_blind) in baking {
            let watch = self.watch(&grant.scope, role, release);
            // What this grant says is newer than what the team's alarms last recorded.
            let blind: BTreeSet<_> = watch
                .blind
                .union(&grant.blind.intersection(&watch.leaves).cloned().collect())
                .cloned()
                .collect();
            let nothing = BTreeMap::new();
            let spec = self.p.run_spec(release, &grant.scope.environment);
            let interval = WatchedInterval {
                from: grant.from,
                until: grant.until,
                quiet: blind.is_empty() && !watch.in_alarm,
                requests: spec.and_then(|s| grant.requests.get(s)).unwrap_or(&nothing),
            };
            let before = clock.clone();
            clock.credit(&grant.scope.region, &interval, self.now);
            let blind = if blind.is_empty() {
                None
            } else {
                let (since, paged) = was_blind.as_ref().map_or((grant.from, false), |b| (b.since, b.paged));
                Some(super::Blind { since, alarms: blind, paged })
            };
            if clock != before || blind != was_blind {
                self.fact(PipelineFact::Watched { step, clock, blind });
            }
        }
    }

    fn rollback_ordered(
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
        self.fact(PipelineFact::RollbackOrdered { release, by: by.clone(), reason: reason.to_owned() });
        let cause = Cause::Person { by: by.clone(), reason: reason.to_owned() };
        self.reject(release, cause, everywhere);
        Ok(())
    }

    /// A person can try again from any ended state (with a reason): a failed build, or a rejected release.
    fn retried(&mut self, release: ReleaseNo, by: &Actor, reason: &str) -> Result<(), Illegal> {
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
                let behind = self.p.plan.steps().map(|(_, step)| step.id.clone()).find(|id| {
                    self.p.steps.get(id).is_some_and(|s| s.done.is_none_or(|done| done < release))
                });
                if let Some(step) = behind {
                    self.candidate(&step, release);
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

//! One pass over a pipeline: alarms first, then what has run out of time, then what has arrived, then what may start. It
//! takes no hints from the event that caused it.

use super::decide::Deciding;
use super::gates::{self, Blocker, Gate};
use super::{Build, Cause, Change, Motion, PipelineFact, Standing, Work, review};
use crate::alarm::{AlarmName, AlarmState, high_severity_name};
use crate::bake::BakeClock;
use crate::decision::{Actor, Effect, ForwardEffect, Severity};
use crate::ids::{ReleaseNo, Role, TargetId};
use crate::lease::{LeaseFact, LeaseId};
use crate::plan::{Stage, Step, StepId};
use crate::scope::Scope;
use crate::team::{TeamFact, View, aggregate_name, metric_alarms, one_box_name};
use crate::units::{Span, Timestamp};
use std::collections::{BTreeMap, BTreeSet};

/// How long a bake may be blind until the on-call engineer is told.
pub(super) const BLIND_PAGE_AFTER: Span = Span::minutes(10);

/// How many releases are remembered beyond those that something still refers to.
const RELEASES_KEPT: usize = 100;

pub(super) fn advance(d: &mut Deciding<'_>) {
    d.lift_masks();
    d.heed_alarms();
    d.end_holds();
    d.time_out();
    d.complete_steps();
    d.make_release();
    d.enter_steps();
    d.release_leases();
    d.end_suspect_turn();
    d.forget_releases();
}

/// What the alarms say of a release in a Region.
pub(super) struct Watch {
    pub(super) in_alarm: bool,
    pub(super) blind: BTreeSet<AlarmName>,
    /// Every metric alarm that counts for it.
    pub(super) leaves: BTreeSet<AlarmName>,
}

impl Deciding<'_> {
    /// The composite alarms that judge a step: the team's aggregate, the service's own, and the one-box's (M3, M4).
    fn judges(&self, role: Role) -> Vec<AlarmName> {
        let mut names = Vec::new();
        if let Some(definition) = &self.p.definition {
            if role == Role::OneBox {
                names.push(one_box_name(&definition.service));
            }
            names.push(high_severity_name(&definition.service));
        }
        names.push(aggregate_name());
        names
    }

    fn masks(&self, release: ReleaseNo, scope: &Scope) -> BTreeSet<AlarmName> {
        self.p.releases.get(&release).and_then(|r| r.masks.get(scope)).cloned().unwrap_or_default()
    }

    pub(super) fn watch(&self, scope: &Scope, role: Role, release: ReleaseNo) -> Watch {
        let masks = self.masks(release, scope);
        let mut all = Watch { in_alarm: false, blind: BTreeSet::new(), leaves: BTreeSet::new() };
        for name in self.judges(role) {
            let View { in_alarm, blind, .. } = self.team.view(scope, &name, &masks);
            all.in_alarm |= in_alarm;
            all.blind.extend(blind);
        }
        let one_box_too = |alarm: &crate::alarm::MetricAlarm| {
            alarm.scope == crate::alarm::Scope::Service || role == Role::OneBox
        };
        let leaves = self.team.services.iter().flat_map(metric_alarms).filter(one_box_too).map(|a| a.name);
        all.leaves.extend(leaves);
        all
    }

    /// Masks end when their alarm has been OK for the first time.
    fn lift_masks(&mut self) {
        let mut lifted = Vec::new();
        for (release, state) in &self.p.releases {
            for (scope, masks) in &state.masks {
                let quiet = |alarm: &&AlarmName| self.team.alarm(scope, alarm) == AlarmState::Ok;
                let alarms: BTreeSet<AlarmName> = masks.iter().filter(quiet).cloned().collect();
                if !alarms.is_empty() {
                    lifted.push((*release, scope.clone(), alarms));
                }
            }
        }
        for (release, scope, alarms) in lifted {
            self.fact(PipelineFact::MasksLifted { release, scope, alarms });
        }
    }

    /// Whether a composite alarm has fired for a release since it entered; what fired, if so.
    fn fired(
        &self,
        name: &AlarmName,
        scope: &Scope,
        release: ReleaseNo,
        entered: Timestamp,
    ) -> Option<Cause> {
        let masks = self.masks(release, scope);
        let evidence = if masks.is_empty() {
            let status = self.team.scopes.get(scope)?.get(name)?;
            let last = status.last_alarm.as_ref()?;
            if status.state != AlarmState::Alarm && last.at < entered {
                return None;
            }
            last.evidence.clone()
        } else {
            let view = self.team.view(scope, name, &masks);
            if !view.in_alarm {
                return None;
            }
            self.team.describe(scope, &view.firing)
        };
        Some(Cause::Alarm { alarm: name.clone(), scope: scope.clone(), evidence })
    }

    /// Rolls back what alarms speak against: in every state of a step until its wave is finished (K3).
    fn heed_alarms(&mut self) {
        let mut guilty: Vec<(ReleaseNo, Cause)> = Vec::new();
        let mut suspect: Vec<(ReleaseNo, Scope, Cause)> = Vec::new();
        for (stage, step) in self.p.plan.steps() {
            let Some(state) = self.p.steps.get(&step.id) else { continue };
            let under_watch = match &state.work {
                Work::Done { release, entered, .. } if !self.p.finished(stage, *release) => {
                    Some((*release, *entered))
                }
                other => other.under_way(),
            };
            let Some((release, entered)) = under_watch else { continue };
            for target in &step.targets {
                let scope = Scope::of(&target.id);
                for name in self.judges(step.role) {
                    let Some(cause) = self.fired(&name, &scope, release, entered) else { continue };
                    if name == aggregate_name() {
                        suspect.push((release, scope.clone(), cause));
                    } else {
                        guilty.push((release, cause));
                        break;
                    }
                }
            }
        }
        for (release, cause) in guilty {
            self.reject(release, cause, false);
        }
        for (release, scope, cause) in suspect {
            self.suspect(release, &scope, cause);
        }
    }

    fn end_holds(&mut self) {
        let now = self.now;
        let ended: Vec<u64> =
            self.p.holds.iter().filter(|(_, h)| h.until.is_some_and(|u| u <= now)).map(|(n, _)| *n).collect();
        for number in ended {
            self.fact(PipelineFact::HoldLifted { number, by: Actor::Tidegate });
        }
    }

    /// Whatever is awaited has a deadline (rule 8).
    fn time_out(&mut self) {
        let now = self.now;
        let mut builds = Vec::new();
        for (no, release) in &self.p.releases {
            if let Build::Building { effect, awaited } = &release.build {
                builds.push((*no, effect.clone(), awaited.deadline));
            }
        }
        for (release, effect, deadline) in builds {
            if deadline <= now {
                self.out.cancelled.push(effect);
                self.build_failed(release, "no result within its time limit");
            } else {
                self.look_again(deadline);
            }
        }
        let slots: Vec<TargetId> = self.p.slots.keys().cloned().collect();
        for target in slots {
            self.time_out_slot(&target);
        }
        let steps: Vec<StepId> = self.p.steps.keys().cloned().collect();
        for step in steps {
            self.time_out_step(&step);
        }
    }

    fn time_out_slot(&mut self, target: &TargetId) {
        let Some(slot) = self.p.slots.get(target) else { return };
        match slot.motion.clone() {
            Motion::Settled => {}
            // Nothing more is asked for while a rollback has its lease: that is not its fault, and then it has time left.
            Motion::Forward { asked, settled, awaited, .. }
                if settled >= asked && !self.holds_lease(target) =>
            {
                let half = Span(self.rolling().progress_deadline.millis() / 2);
                if awaited.deadline.since(self.now) <= half {
                    let awaited = self.progress_deadline();
                    self.fact(PipelineFact::SlotProgressed { target: target.clone(), settled, awaited });
                }
                self.look_again(self.now + half);
            }
            Motion::Forward { release, awaited, trouble, .. } if awaited.deadline <= self.now => {
                let why = trouble.unwrap_or_else(|| "no box became healthy in time".to_owned());
                self.reject(release, Cause::Health { target: target.clone(), why }, false);
            }
            Motion::Back { awaited, trouble, to, .. } if awaited.deadline <= self.now => {
                let awaited = self.progress_deadline();
                self.look_again(awaited.deadline);
                self.fact(PipelineFact::SlotStuck { target: target.clone(), awaited });
                let to = to.map_or_else(|| "nothing".to_owned(), |r| r.to_string());
                let title = format!("{}: the rollback of {target} makes no progress", self.id);
                let why = trouble.unwrap_or_else(|| "the engine tells of nothing in its way".to_owned());
                let text = format!("to {to}; {why}. tidegate goes on trying.");
                self.page(&format!("stuck/{target}"), Severity::High, title, text);
            }
            Motion::Forward { awaited, .. } | Motion::Back { awaited, .. } => {
                self.look_again(awaited.deadline)
            }
        }
    }

    fn time_out_step(&mut self, id: &StepId) {
        let Some(state) = self.p.steps.get(id) else { return };
        match state.work.clone() {
            Work::Testing { release, awaited, .. } => {
                if awaited.deadline <= self.now {
                    let why = "no result within the tests' time limit".to_owned();
                    self.reject(release, Cause::Tests { step: id.clone(), why }, false);
                } else {
                    self.look_again(awaited.deadline);
                }
            }
            Work::Baking { clock, blind, .. } if blind.as_ref().is_none_or(|b| !b.paged) => {
                // Monitoring that tells nothing at all is as blind as monitoring without data.
                let told = clock.regions.values().map(|c| c.until).min().unwrap_or(clock.started);
                let unwatched = || super::Blind { since: told, alarms: BTreeSet::new(), paged: false };
                let blind = blind.unwrap_or_else(unwatched);
                let tell_at = blind.since + BLIND_PAGE_AFTER;
                if tell_at > self.now {
                    return self.look_again(tell_at);
                }
                let mut names: Vec<&str> = blind.alarms.iter().map(AlarmName::as_str).collect();
                if names.is_empty() {
                    names.push("any alarm");
                }
                let title = format!("{}: the bake of {id} stands still, monitoring is blind", self.id);
                let text = format!("no data since {} for {}", blind.since, names.join(", "));
                self.page(&format!("blind/{id}"), Severity::Low, title, text);
                let blind = Some(super::Blind { paged: true, ..blind });
                self.fact(PipelineFact::Watched { step: id.clone(), clock, blind });
            }
            _ => {}
        }
    }

    /// Steps whose slots have arrived, or whose bake is over.
    fn complete_steps(&mut self) {
        let plan = self.p.plan.clone();
        for (stage, step) in plan.steps() {
            let Some(state) = self.p.steps.get(&step.id) else { continue };
            let all_settled = step
                .targets
                .iter()
                .all(|t| self.p.slots.get(&t.id).is_some_and(|slot| slot.motion == Motion::Settled));
            match state.work.clone() {
                Work::Deploying { release, .. } if all_settled => {
                    let order =
                        if stage.tests.is_empty() { None } else { self.order_tests(stage, step, release) };
                    match order {
                        Some((effect, awaited)) => {
                            self.look_again(awaited.deadline);
                            self.fact(PipelineFact::TestsStarted { step: step.id.clone(), effect, awaited });
                        }
                        None => self.start_bake(&step.id),
                    }
                }
                Work::RollingBack { .. } if all_settled => {
                    let at = self.now;
                    self.fact(PipelineFact::StepRolledBack { step: step.id.clone(), at });
                }
                _ => {}
            }
            self.complete_bake(&step.id);
        }
    }

    pub(super) fn start_bake(&mut self, step: &StepId) {
        let Some((stage, planned)) = self.p.plan.step(step) else { return };
        let requirements = self
            .p
            .definition
            .as_ref()
            .and_then(|d| d.stages.iter().find(|s| s.environment == stage.environment))
            .map(|s| s.bake.data.clone())
            .unwrap_or_default();
        let clock = BakeClock::start(self.now, planned.bake, &requirements, planned.regions());
        self.fact(PipelineFact::BakeStarted { step: step.clone(), clock });
    }

    fn complete_bake(&mut self, step: &StepId) {
        let Some(Work::Baking { release, clock, .. }) = self.p.steps.get(step).map(|s| &s.work) else {
            return;
        };
        if !clock.missing().is_empty() {
            return;
        }
        let (release, at) = (*release, self.now);
        self.fact(PipelineFact::StepDone { step: step.clone(), release, at });
        if let Some(next) = self.p.plan.next(step).map(|(_, next)| next.id.clone()) {
            self.candidate(&next, release);
        }
    }

    /// Makes a release of the newest reviewed commits, unless one is being built: later commits wait, and the next build
    /// takes the newest.
    fn make_release(&mut self) {
        let Some(definition) = self.p.definition.clone() else { return };
        if self.p.releases.values().any(|r| matches!(r.build, Build::Building { .. })) {
            return;
        }
        let (mut commits, mut changes, mut anything_new) = (BTreeMap::new(), Vec::new(), false);
        for source in &definition.sources {
            let Some(state) = self.p.sources.get(&source.name) else { return };
            let newest = if self.switches.review_off {
                review::unchecked(state)
            } else {
                review::newest_approved(state, &self.team)
            };
            if let Some((commit, taken)) = newest {
                anything_new = true;
                commits.insert(source.name.clone(), commit.clone());
                changes.extend(taken.into_iter().map(|(seen, review)| Change {
                    source: source.name.clone(),
                    commit: seen.commit.clone(),
                    review,
                }));
            } else if let Some(released) = &state.released {
                commits.insert(source.name.clone(), released.clone());
            } else {
                return;
            }
        }
        if !anything_new {
            return;
        }
        let release = ReleaseNo(self.p.newest().map_or(1, |(no, _)| no.0 + 1));
        let Some((effect, awaited)) = self.order_build(release, commits.clone()) else { return };
        let at = self.now;
        self.look_again(awaited.deadline);
        self.fact(PipelineFact::ReleaseCreated { release, commits, changes, at, effect, awaited });
    }

    /// Lets candidates in whose gates are open, later steps first.
    fn enter_steps(&mut self) {
        let plan = self.p.plan.clone();
        let steps: Vec<(&Stage, &Step)> = plan.steps().collect();
        for (stage, step) in steps.into_iter().rev() {
            self.fill_new_targets(step);
            let Some(state) = self.p.steps.get(&step.id) else { continue };
            let Some(release) = state.candidate else { continue };
            if !self.needs(step, release) {
                continue;
            }
            match gates::check(&self.p, stage, step, release, &self.around()) {
                Gate::Open => self.enter(step, release),
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
    /// yet (it was taken back there as a suspect, or the target is new).
    fn needs(&self, step: &Step, release: ReleaseNo) -> bool {
        let Some(state) = self.p.steps.get(&step.id) else { return false };
        let newest = state.work.under_way().map(|(r, _)| r).max(state.done);
        let behind = |slot: &super::SlotState| {
            slot.motion == Motion::Settled && slot.current().is_none_or(|current| current < release)
        };
        newest.is_none_or(|n| n < release)
            || newest == Some(release)
                && step.targets.iter().any(|t| self.p.slots.get(&t.id).is_some_and(behind))
    }

    /// A target that came into the definition later gets the newest release that has finished everywhere, through the
    /// gates of its step; a step that is new as a whole gets what has passed the step before it.
    fn fill_new_targets(&mut self, step: &Step) {
        let Some(state) = self.p.steps.get(&step.id) else { return };
        let passed_before = || {
            let before = self.p.plan.steps().take_while(|(_, s)| s.id != step.id).last()?;
            self.p.steps.get(&before.1.id)?.done
        };
        let release = if state.done.is_none() { passed_before() } else { self.p.everywhere() };
        let Some(release) = release else { return };
        let empty = |t: &crate::plan::Target| {
            self.p.slots.get(&t.id).is_some_and(|s| s.history.is_empty() && s.motion == Motion::Settled)
        };
        let idle = state.candidate.is_none() && state.work.under_way().is_none();
        let good = self.p.releases.get(&release).is_some_and(|r| r.standing == Standing::Good);
        if idle && good && step.targets.iter().any(empty) {
            self.fact(PipelineFact::CandidateSet { step: step.id.clone(), release });
        }
    }

    fn enter(&mut self, step: &Step, release: ReleaseNo) {
        let open = gates::overridden(&self.p, step, release, self.now);
        let mut masks = BTreeMap::new();
        if open.contains(&Blocker::AggregateAlarm) {
            for target in &step.targets {
                let scope = Scope::of(&target.id);
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
            self.team_fact(TeamFact::SuspectTurnTaken { pipeline: self.id.clone() });
        }
        for lease in super::orders::leases_of(&self.p, step) {
            self.lease(lease, LeaseFact::Taken { pipeline: self.id.clone(), step: step.id.clone() });
        }
        let (step_id, at) = (step.id.clone(), self.entry_time(step));
        self.fact(PipelineFact::Entered { step: step_id, release, at, overrides, masks });
        for target in &step.targets {
            let Some(slot) = self.p.slots.get(&target.id) else { continue };
            if slot.motion != Motion::Settled || slot.current() == Some(release) {
                continue;
            }
            let generation = slot.generation + 1;
            let awaited = self.progress_deadline();
            self.look_again(awaited.deadline);
            let id = target.id.clone();
            self.fact(PipelineFact::SlotForward { target: id.clone(), release, generation, awaited });
            if let Some(order) = self.order(&id) {
                self.effect(format!("{id}/{generation}"), Effect::Forward(ForwardEffect::Deploy(order)));
            }
        }
    }

    /// When a release enters: after every alarm that its gate has seen. So an alarm that is recorded later counts from the
    /// very millisecond of the entry on, and one that had come and gone before does not (both have the time of the period
    /// that they were evaluated over).
    fn entry_time(&self, step: &Step) -> Timestamp {
        let scopes: BTreeSet<Scope> = step.targets.iter().map(|t| Scope::of(&t.id)).collect();
        let alarms = scopes.iter().filter_map(|scope| self.team.scopes.get(scope)).flat_map(BTreeMap::values);
        let seen = alarms.filter_map(|status| status.last_alarm.as_ref()).map(|last| last.at).max();
        seen.map_or(self.now, |seen| self.now.max(Timestamp(seen.0 + 1)))
    }

    /// Deploying and rolling back hold the lease; testing and baking do not.
    fn release_leases(&mut self) {
        let moving = |scope: &Scope, wanted: fn(&Motion) -> bool| {
            self.p.slots.iter().any(|(id, slot)| &Scope::of(id) == scope && wanted(&slot.motion))
        };
        let forward = |scope| moving(scope, |motion| matches!(motion, Motion::Forward { .. }));
        let back = |scope| moving(scope, |motion| matches!(motion, Motion::Back { .. }));
        let mut ended: Vec<(LeaseId, LeaseFact)> = Vec::new();
        for (id, lease) in &self.leases {
            let pipeline = || self.id.clone();
            if lease.is_interrupted(self.id) && !forward(&id.scope) {
                ended.push((id.clone(), LeaseFact::GivenUp { pipeline: pipeline() }));
            }
            if lease.is_deploying(self.id) && !forward(&id.scope)
                || lease.is_rolling_back(self.id) && !back(&id.scope)
            {
                ended.push((id.clone(), LeaseFact::Released { pipeline: pipeline() }));
            }
        }
        for (id, fact) in ended {
            self.lease(id, fact);
            // What waits here for the lease had its look before it was free.
            self.look_again(self.now);
        }
    }

    /// The turn of a suspect that came back ends when its wave is finished or it was rejected.
    fn end_suspect_turn(&mut self) {
        if self.team.suspect_turn.as_ref() != Some(self.id) {
            return;
        }
        let on_its_way = self.p.plan.steps().any(|(stage, step)| {
            let Some(state) = self.p.steps.get(&step.id) else { return false };
            let release = match &state.work {
                Work::Done { release, .. } if !self.p.finished(stage, *release) => Some(*release),
                other => other.under_way().map(|(release, _)| release),
            };
            release
                .and_then(|r| self.p.releases.get(&r))
                .is_some_and(|r| r.suspected > 0 && r.standing == Standing::Good)
        });
        if !on_its_way {
            self.team_fact(TeamFact::SuspectTurnEnded { pipeline: self.id.clone() });
            self.wake_others();
        }
    }

    /// Forgets old releases that no target, step or taint can need any more.
    fn forget_releases(&mut self) {
        if self.p.releases.len() <= 2 * RELEASES_KEPT {
            return;
        }
        let kept = self.p.releases.keys().rev().nth(RELEASES_KEPT).copied();
        let in_slots = self.p.slots.values().flat_map(|s| s.history.iter().copied().chain(s.running())).min();
        let in_steps = self
            .p
            .steps
            .values()
            .filter_map(|s| {
                s.candidate.into_iter().chain(s.done).chain(s.work.under_way().map(|(r, _)| r)).min()
            })
            .min();
        let tainted = self.p.taints.values().filter(|t| t.cleared.is_none()).map(|t| t.first).min();
        let Some(before) = [kept, in_slots, in_steps, tainted].into_iter().flatten().min() else { return };
        if self.p.releases.first_key_value().is_some_and(|(first, _)| *first < before) {
            self.fact(PipelineFact::ReleasesForgotten { before });
        }
    }
}

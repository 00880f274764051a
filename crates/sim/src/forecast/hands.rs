//! What a server's hands do, in the virtual world: builds, tests, orders to boxes, observations, commits.

use super::ForecastError;
use super::boxes::Starting;
use super::scenario::Fault;
use super::world::{Happening, World};
use std::collections::BTreeSet;
use tidegate_core::change::{Commit, SourceObservation};
use tidegate_core::decision::{
    Actor, BuildOrder, Effect, Event, Fact, ForwardEffect, NewEffect, RollbackEffect, SlotOrder,
};
use tidegate_core::definition::EngineDef;
use tidegate_core::ids::{CommitId, PackageDigest, ReleaseNo, Role, SlotId};
use tidegate_core::organisation::OrganisationEvent;
use tidegate_core::pipeline::{Blocker, Cause, Override, PipelineEvent, PipelineFact, Reason};
use tidegate_core::plan::StepId;
use tidegate_core::scope::Scope;
use tidegate_core::team::TeamEvent;
use tidegate_core::units::{Span, Timestamp};
use tidegate_runtime::{Lane, lane_of};

/// A fix that waits for the alarm that it would end is let pass after this, for so long.
const NOTICED_AFTER: Span = Span::minutes(10);
const OVERRIDE_FOR: Span = Span::hours(24);
/// What stands in the log as the reason of a large-scale event and of its alarm.
const EVENT: &str = "large-scale-event";

impl World<'_> {
    /// Performs what one decision ordered, in the order in which its lanes would bring it: results come back through the queue.
    /// Nothing else is pending, since nothing here is interrupted.
    pub(super) fn perform(&mut self, mut effects: Vec<NewEffect>) -> Result<(), ForecastError> {
        let place = |lane| [Lane::Rollback, Lane::Forward, Lane::Page].iter().position(|l| *l == lane);
        effects.sort_by(|a, b| {
            let (of_a, of_b) = (place(lane_of(&a.effect)), place(lane_of(&b.effect)));
            (of_a, &a.id).cmp(&(of_b, &b.id))
        });
        for NewEffect { id, effect } in effects {
            match effect {
                Effect::Forward(ForwardEffect::Build(BuildOrder { release, .. })) => {
                    let takes = if self.booting { Span::ZERO } else { self.scenario.build_time };
                    self.at(self.now + takes, Happening::Built(id, release));
                }
                Effect::Forward(ForwardEffect::Test(_)) => {
                    self.at(self.now + self.scenario.test_time, Happening::Tested(id));
                }
                Effect::Forward(ForwardEffect::Deploy(order))
                | Effect::Rollback(RollbackEffect::Return(order)) => {
                    self.runtime.effect_done(&id)?;
                    self.at(self.now + self.delay(&order.slot), Happening::Arrives(Box::new(order)));
                }
                Effect::Forward(ForwardEffect::Page(_)) => {
                    self.pages += u64::from(!self.booting);
                    self.runtime.effect_done(&id)?;
                }
            }
        }
        Ok(())
    }

    /// How late an order comes to a slot's boxes.
    fn delay(&self, slot: &SlotId) -> Span {
        let into = self.now.since(self.start);
        let late = self.scenario.faults.iter().filter_map(|fault| match fault {
            Fault::SlowEngine(s)
                if (s.from..s.until).contains(&into)
                    && s.region.as_ref().is_none_or(|region| region == &slot.target.region) =>
            {
                Some(s.delay)
            }
            _ => None,
        });
        late.max().filter(|_| !self.booting).unwrap_or(Span::ZERO)
    }

    pub(super) fn happen(&mut self, happening: Happening) -> Result<(), ForecastError> {
        match happening {
            Happening::Commit => self.merge(Vec::new()).map(|_| ()),
            Happening::Built(effect, release) => {
                let package = PackageDigest::new(format!("{:064x}", release.0));
                let result = package.map_err(|invalid| invalid.to_string());
                self.result(&effect.clone(), PipelineEvent::BuildEnded { effect, result })
            }
            Happening::Tested(effect) => {
                self.result(&effect.clone(), PipelineEvent::TestsEnded { effect, result: Ok(()) })
            }
            Happening::Arrives(order) => self.arrives(&order),
            Happening::Observe(slot) => self.observe(slot),
            Happening::Shows(scope) => self.shows(&scope),
            Happening::Sample(scope) => self.sample(&scope),
            Happening::Begins(n) => self.fault_turns(n, true),
            Happening::Ends(n) => self.fault_turns(n, false),
            Happening::Mend { release, fixes, flaws } => self.mend(release, fixes, flaws),
            Happening::LetPass(step) => self.let_pass(step),
        }
    }

    /// Engines tell of this slot, and of all others that there is something to tell of at this moment.
    fn observe(&mut self, first: SlotId) -> Result<(), ForecastError> {
        let mut slots = vec![first];
        while let Some(slot) = self.next_observed() {
            slots.push(slot);
        }
        let (epoch, time_out) = (self.runtime.epoch(), self.start_time_out());
        let observe = |slot| self.boxes.observe(slot, epoch, self.now, time_out);
        let observations = slots.iter().map(observe).collect();
        self.tell(PipelineEvent::SlotsObserved { observations })?;
        let scopes: BTreeSet<Scope> = slots.iter().map(|slot| Scope::of(&slot.target)).collect();
        scopes.iter().try_for_each(|scope| self.shows(scope))
    }

    fn start_time_out(&self) -> Span {
        match &self.input.pipeline.run.engine {
            EngineDef::Process(process) => process.health.start_timeout.max(self.scenario.box_start_time),
            EngineDef::Command(_) | EngineDef::Configuration(_) | EngineDef::Definitions(_) => {
                self.scenario.box_start_time
            }
        }
    }

    fn arrives(&mut self, order: &SlotOrder) -> Result<(), ForecastError> {
        let (time_out, now) = (self.start_time_out(), self.now);
        let takes = if self.booting { Span::ZERO } else { self.scenario.box_start_time };
        let ill = self.sick_box(&order.slot);
        let flaws = &self.flaws;
        let newest = order.desired.split.first().map(|share| share.run_spec.clone());
        let times = self.boxes.obey(order, now, |spec| {
            let sick = ill.as_ref().is_some_and(|ill| ill == spec) && newest.as_ref() == Some(spec);
            let never = if flaws.crashes(&order.slot, spec) { u32::MAX } else { u32::from(sick) };
            Starting { takes, time_out, never }
        });
        let settings = self.input.pipeline.settings(&self.input.organisation);
        let settle = if self.booting { Span::ZERO } else { settings.rolling.healthy_for };
        let back = !order.desired.condemned.is_empty();
        for at in times {
            let look = if back { at } else { at + settle };
            self.at(look, Happening::Observe(order.slot.clone()));
            self.may_show(order, at);
        }
        let scope = Scope::of(&order.slot.target);
        self.shows(&scope)
    }

    /// Regressions of what an order brings show when boxes are healthy, or later.
    fn may_show(&mut self, order: &SlotOrder, healthy: Timestamp) {
        let mut times = BTreeSet::new();
        for share in &order.desired.split {
            for regression in self.flaws.of.get(&share.run_spec).into_iter().flatten() {
                times.extend(self.flaws.regressions.get(regression).map(|r| healthy + r.after));
            }
        }
        for at in times {
            self.at(at, Happening::Shows(Scope::of(&order.slot.target)));
        }
    }

    /// What a box of this slot never becomes healthy with.
    fn sick_box(&self, slot: &SlotId) -> Option<tidegate_core::ids::RunSpecDigest> {
        let sick = self.scenario.faults.iter().enumerate().find_map(|(n, fault)| match fault {
            Fault::SickBox(sick) if sick.region == slot.target.region && !self.mended.contains(&n) => {
                Some(ReleaseNo(sick.release))
            }
            _ => None,
        })?;
        let first = self.input.organisation.region(&slot.target.region).and_then(|r| r.azs.first());
        let here = slot.target.role == Role::Main && first == Some(&slot.target.az);
        let pipeline = self.runtime.pipeline(&self.id).ok().flatten()?;
        let production = pipeline.plan.step_of(&slot.target).is_some_and(|(stage, _)| stage.production);
        pipeline.run_spec(sick, &slot.target.environment).filter(|_| here && production).cloned()
    }

    /// A commit is merged that was approved before, and that fixes these.
    pub(super) fn merge(&mut self, fixes: Vec<CommitId>) -> Result<CommitId, ForecastError> {
        self.commits += 1;
        let id = commit_id(0, self.commits);
        let commit = Commit {
            id: id.clone(),
            parents: self.head.iter().cloned().collect(),
            author_name: "somebody".to_owned(),
            author_email: "somebody@simulated.invalid".to_owned(),
            committed_at: self.now,
            subject: format!("change {}", self.commits),
            reverts: Vec::new(),
            fixes: fixes.iter().map(ToString::to_string).collect(),
        };
        self.head = Some(id.clone());
        let Some(source) = self.input.pipeline.sources.first().map(|s| s.name.clone()) else { return Ok(id) };
        let approved = TeamEvent::Approved { commit: id.clone(), by: self.approver.clone() };
        self.submit(&Event::Team(self.team.clone(), approved))?;
        let observation = SourceObservation { head: id.clone(), commits: vec![commit], rewritten: false };
        self.tell(PipelineEvent::SourceObserved { source, observation })?;
        Ok(id)
    }

    /// Somebody merges a fix, or says that the release was not guilty.
    fn mend(
        &mut self,
        release: ReleaseNo,
        fixes: Vec<CommitId>,
        flaws: BTreeSet<usize>,
    ) -> Result<(), ForecastError> {
        if flaws.is_empty() {
            let sick = self.scenario.faults.iter().enumerate();
            let healed: Vec<usize> = sick
                .filter(|(_, fault)| matches!(fault, Fault::SickBox(s) if s.release == release.0))
                .map(|(n, _)| n)
                .collect();
            for n in healed {
                self.mended.insert(n);
                self.over.entry(n).or_insert(self.now);
            }
            let by = Actor::User(self.approver.clone());
            let reason = "its change was not at fault".to_owned();
            return self.tell(PipelineEvent::Retried { release, by, reason });
        }
        // Known before the release that the commit makes.
        self.fixed_by.insert(commit_id(0, self.commits + 1), flaws);
        self.merge(fixes).map(|_| ())
    }

    /// The alarm that a fix would end must not keep it out: a person overrides it (W3), if it still fires.
    fn let_pass(&mut self, step: StepId) -> Result<(), ForecastError> {
        let pipeline = self.pipeline()?;
        let alarm = |r: &Reason| matches!(r, Reason::AggregateAlarm { .. });
        let waits = pipeline.steps.get(&step).filter(|state| state.waiting.iter().any(alarm));
        let candidate = waits.and_then(|state| state.candidate);
        let Some(release) = candidate.filter(|release| self.brings_a_fix(*release)) else { return Ok(()) };
        let given = |o: &Override| o.release == release && o.steps.contains(&step) && o.expires > self.now;
        if pipeline.overrides.values().any(given) {
            return Ok(());
        }
        self.tell(PipelineEvent::Overridden {
            release,
            blockers: BTreeSet::from([Blocker::AggregateAlarm]),
            steps: BTreeSet::from([step]),
            by: Actor::User(self.approver.clone()),
            reason: "it is the fix".to_owned(),
            expires: self.now + OVERRIDE_FOR,
        })
    }

    /// Whether a release has a fix in it that what runs elsewhere has not.
    fn brings_a_fix(&self, release: ReleaseNo) -> bool {
        self.fixes.first().is_some_and(|first| *first <= release)
            && self.flawed.get(&release).is_some_and(BTreeSet::is_empty)
    }

    /// What the world has to know of what was decided.
    pub(super) fn learn(&mut self, fact: &Fact) {
        let Fact::Pipeline(fact) = fact else { return };
        match fact.plain() {
            PipelineFact::ReleaseCreated { release, changes, .. } => {
                let before = self.flawed.range(..*release).next_back();
                let mut flaws = before.map(|(_, flaws)| flaws.clone()).unwrap_or_default();
                for fixed in changes.iter().filter_map(|change| self.fixed_by.get(&change.commit.id)) {
                    self.fixes.insert(*release);
                    flaws.retain(|flaw| !fixed.contains(flaw));
                }
                let brings =
                    |n: &usize| self.flaws.regressions.get(n).is_some_and(|r| r.release == release.0);
                let new: Vec<usize> = self.flaws.regressions.keys().copied().filter(brings).collect();
                for regression in new {
                    flaws.insert(regression);
                    if let Some(change) = changes.last() {
                        self.culprits.insert(regression, change.commit.id.clone());
                    }
                }
                self.flawed.insert(*release, flaws);
            }
            PipelineFact::Built { release, run_specs, .. } => {
                let flaws = self.flawed.get(release).filter(|flaws| !flaws.is_empty());
                for (spec, flaws) in run_specs.values().zip(std::iter::repeat(flaws)) {
                    if let Some(flaws) = flaws {
                        self.flaws.of.insert(spec.clone(), flaws.clone());
                    }
                }
            }
            PipelineFact::Entered { release, .. } => {
                self.progress = self.now;
                self.shows_at_once(*release);
            }
            PipelineFact::StepDone { .. } => self.progress = self.now,
            PipelineFact::StepRolledBack { .. } => {
                self.progress = self.now;
                for n in self.flaws.crashing() {
                    if self.began.contains_key(&n) {
                        self.over.insert(n, self.now);
                    }
                }
            }
            PipelineFact::Rejected { release, cause, taint, .. } => {
                let flaws = self.flawed.get(release).cloned().unwrap_or_default();
                for regression in flaws.iter().filter(|_| !matches!(cause, Cause::Person { .. })) {
                    self.exposure.caught(*regression, self.now);
                }
                let culprits = flaws.iter().filter_map(|n| self.culprits.get(n));
                let fixes = culprits.chain(taint).cloned().collect();
                let mend = Happening::Mend { release: *release, fixes, flaws };
                self.at(self.now + self.scenario.fix_time, mend);
            }
            // A newer candidate that waits for the same is no news to the core.
            PipelineFact::CandidateSet { step, release } | PipelineFact::Waits { step, release, .. }
                if self.brings_a_fix(*release) =>
            {
                self.at(self.now + NOTICED_AFTER, Happening::LetPass(step.clone()));
            }
            PipelineFact::Suspected { release, .. } => {
                let flaws = self.flawed.get(release).cloned().unwrap_or_default();
                flaws.iter().for_each(|regression| self.exposure.caught(*regression, self.now));
            }
            _ => {}
        }
    }

    /// Boxes that do not start show it from the moment at which their release enters.
    fn shows_at_once(&mut self, release: ReleaseNo) {
        let crashes = self.flaws.crashing();
        let flaws = self.flawed.get(&release).into_iter().flatten();
        let mut shown: Vec<usize> = flaws.filter(|n| crashes.contains(n)).copied().collect();
        let sick = self.scenario.faults.iter().enumerate();
        let comes = |fault: &Fault| matches!(fault, Fault::SickBox(sick) if sick.release == release.0);
        shown.extend(sick.filter(|(_, fault)| comes(fault)).map(|(n, _)| n));
        for n in shown {
            self.began.entry(n).or_insert(self.now);
            self.over.remove(&n);
        }
    }

    /// A fault with a time begins or ends.
    fn fault_turns(&mut self, n: usize, begins: bool) -> Result<(), ForecastError> {
        let times = if begins { &mut self.began } else { &mut self.over };
        times.insert(n, self.now);
        let Some(fault) = self.scenario.faults.get(n) else { return Ok(()) };
        match fault {
            Fault::LargeScaleEvent(_) => {
                let name = tidegate_core::alarm::AlarmName::new(EVENT).map_err(ForecastError::Name)?;
                let (by, reason) = (Actor::User(self.approver.clone()), "simulated".to_owned());
                let event = if begins {
                    OrganisationEvent::AlarmRaised { name, reason, by }
                } else {
                    OrganisationEvent::AlarmCleared { name, by }
                };
                self.submit(&Event::Organisation(event))
            }
            Fault::Blind(blind) => self.goes_dark(&blind.region.clone(), begins),
            Fault::Outage(outage) => self.outage(outage, begins),
            Fault::SlowEngine(_) | Fault::Regression(_) | Fault::SickBox(_) => Ok(()),
        }
    }
}

/// An invented commit of a source.
pub(super) fn commit_id(source: usize, n: u64) -> CommitId {
    CommitId::new(format!("{:08x}{source:08x}{n:024x}", 0x51e7_0000_u64 + n))
        .expect("forty hexadecimal digits are a commit's name")
}

//! What runs when a simulation begins: release 1, everywhere, deployed by the real core with definitions that make nothing
//! wait; then the true definitions are applied, which redeploys nothing.

use super::ForecastError;
use super::world::{Happening, Place, World};
use std::collections::{BTreeMap, BTreeSet};
use tidegate_core::alarm::{AlarmState, Metric, MetricAlarm};
use tidegate_core::change::{Commit, SourceObservation};
use tidegate_core::decision::Event;
use tidegate_core::definition::{Bake, OrganisationDef, PipelineDef};
use tidegate_core::ids::{RegionId, ReleaseNo, SlotId};
use tidegate_core::organisation::OrganisationEvent;
use tidegate_core::pipeline::PipelineEvent;
use tidegate_core::plan::Plan;
use tidegate_core::scope::Scope;
use tidegate_core::team::{Report, TeamEvent, leaf_names};
use tidegate_core::units::Span;
use tidegate_core::window::Windows;

impl World<'_> {
    /// Puts release 1 everywhere, sets the alarms, applies the definitions, and fills the queue.
    pub(super) fn boot(&mut self) -> Result<(), ForecastError> {
        self.apply(&eager(&self.input.organisation), &hurried(&self.input.pipeline))?;
        self.imports()?;
        if let Some(stuck) = self.run()? {
            return Err(ForecastError::Start { why: stuck.why });
        }
        let pipeline = self.pipeline()?;
        if pipeline.everywhere() != Some(ReleaseNo(1)) {
            return Err(ForecastError::Start { why: "release 1 does not reach every step".to_owned() });
        }
        self.lay_out(&pipeline.plan);
        self.set_alarms()?;
        self.now = self.start.max(self.now);
        self.progress = self.now;
        self.tick_clock();
        let input = self.input;
        self.apply(&input.organisation, &input.pipeline)?;
        self.booting = false;
        for at in self.scenario.arrivals(self.start, &self.zone) {
            self.at(at, Happening::Commit);
        }
        for (n, fault) in self.scenario.faults.iter().enumerate() {
            use super::scenario::Fault;
            let (from, until) = match fault {
                Fault::Outage(o) => (o.from, o.until),
                Fault::Blind(b) => (b.from, b.until),
                Fault::LargeScaleEvent(e) => (e.from, e.until),
                Fault::SlowEngine(s) => (s.from, s.until),
                Fault::Regression(_) | Fault::SickBox(_) => continue,
            };
            self.at(self.start + from, Happening::Begins(n));
            self.at(self.start + until, Happening::Ends(n));
        }
        Ok(())
    }

    fn apply(&mut self, organisation: &OrganisationDef, pipeline: &PipelineDef) -> Result<(), ForecastError> {
        let definition = Box::new(organisation.clone());
        self.submit(&Event::Organisation(OrganisationEvent::Applied { definition }))?;
        let Some(team) = organisation.team(&self.team) else { return Err(ForecastError::NoOwner) };
        let event = TeamEvent::Applied {
            definition: Box::new(team.clone()),
            services: organisation.services.iter().filter(|s| s.team == self.team).cloned().collect(),
            emails: organisation.users.iter().map(|u| (u.name.clone(), u.emails.clone())).collect(),
            accounts: organisation.accounts(),
        };
        self.submit(&Event::Team(self.team.clone(), event))?;
        self.tell(PipelineEvent::Applied { definition: Box::new(pipeline.clone()) })
    }

    /// The first commit of every source.
    fn imports(&mut self) -> Result<(), ForecastError> {
        let sources: Vec<_> = self.input.pipeline.sources.iter().map(|s| s.name.clone()).collect();
        for (n, source) in sources.into_iter().enumerate() {
            let id = super::hands::commit_id(n, 0);
            if n == 0 {
                self.head = Some(id.clone());
            }
            let approved = TeamEvent::Approved { commit: id.clone(), by: self.approver.clone() };
            self.submit(&Event::Team(self.team.clone(), approved))?;
            let commit = Commit {
                id: id.clone(),
                parents: Vec::new(),
                author_name: "somebody".to_owned(),
                author_email: "somebody@simulated.invalid".to_owned(),
                committed_at: self.now,
                subject: "what was there before".to_owned(),
                reverts: Vec::new(),
                fixes: Vec::new(),
            };
            let observation = SourceObservation { head: id, commits: vec![commit], rewritten: false };
            self.tell(PipelineEvent::SourceObserved { source, observation })?;
        }
        Ok(())
    }

    /// Every environment and Region, and its traffic.
    pub(super) fn lay_out(&mut self, plan: &Plan) {
        let of_production = plan.stages.iter().filter(|s| s.production).flat_map(|s| s.regions());
        let production: BTreeSet<RegionId> = of_production.cloned().collect();
        let rates = self.rates(&production);
        self.exposure.all_milli = rates.values().sum();
        let tests = self.scenario.traffic.test_requests_per_second.saturating_mul(1_000);
        for (stage, step) in plan.steps() {
            for target in &step.targets {
                let milli = match stage.production {
                    true => rates.get(&target.id.region).copied().unwrap_or(0),
                    false => tests,
                };
                let place = self.places.entry(Scope::of(&target.id)).or_insert_with(|| Place {
                    slots: Vec::new(),
                    production: stage.production,
                    milli,
                    sampler: None,
                    states: BTreeMap::new(),
                    blind: BTreeSet::new(),
                    dark: 0,
                    outages: BTreeSet::new(),
                });
                place.slots.push(SlotId { target: target.id.clone(), pipeline: self.id.clone() });
            }
        }
    }

    /// Every alarm says what it says when nothing is wrong. One that fires then knows the service otherwise than the
    /// simulation does, and is left out.
    fn set_alarms(&mut self) -> Result<(), ForecastError> {
        let scopes: Vec<Scope> = self.places.keys().cloned().collect();
        let mut found = BTreeMap::new();
        for scope in &scopes {
            found.insert(scope.clone(), self.monitoring.normally(&self.normal(scope)));
        }
        let fires: BTreeSet<_> = found
            .values()
            .flat_map(|f| {
                f.reports.iter().filter(|(_, r)| r.state == AlarmState::Alarm).map(|(n, _)| n.clone())
            })
            .collect();
        for name in &fires {
            self.monitoring.leave_out(name);
            self.assumptions
                .push(format!("{name} is left out: it would fire on the simulated service at rest"));
        }
        let services = || self.input.organisation.services.iter().filter(|s| s.team == self.team);
        let all: Vec<_> = services().flat_map(leaf_names).collect();
        let asks = |alarm: &MetricAlarm| matches!(alarm.metric, Metric::Promql { .. });
        if services().any(|s| !s.outside.is_empty() || s.alarms.iter().any(asks)) {
            let assumption =
                "what alarms from outside and in PromQL would say is unknown here; they are taken to be OK";
            self.assumptions.push(assumption.to_owned());
        }
        for (scope, found) in found {
            let state = |name| match found.reports.get(name) {
                Some(report) if report.state != AlarmState::Alarm => report.clone(),
                _ => Report { state: AlarmState::Ok, why: "nothing is wrong".to_owned() },
            };
            let alarms: BTreeMap<_, _> = all.iter().map(|name| (name.clone(), state(name))).collect();
            if let Some(place) = self.places.get_mut(&scope) {
                let own = alarms.iter().filter(|(name, _)| found.reports.contains_key(*name));
                place.states = own.map(|(name, report)| (name.clone(), report.state)).collect();
                place.blind = found.blind.difference(&fires).cloned().collect();
            }
            let event = TeamEvent::Evaluated { scope, at: self.now, alarms };
            self.submit(&Event::Team(self.team.clone(), event))?;
        }
        Ok(())
    }
}

/// No window.
fn eager(organisation: &OrganisationDef) -> OrganisationDef {
    let mut eager = organisation.clone();
    for team in &mut eager.teams {
        team.windows = Windows::Always;
    }
    eager
}

/// No tests and no bakes.
fn hurried(pipeline: &PipelineDef) -> PipelineDef {
    let mut hurried = pipeline.clone();
    for stage in &mut hurried.stages {
        stage.tests.clear();
        stage.bake = Bake {
            one_box: Span::ZERO,
            az: Span::ZERO,
            first_wave: Span::ZERO,
            second_wave: Span::ZERO,
            last_wave: Span::ZERO,
            data: Vec::new(),
        }
        .into();
    }
    hurried.rolling.healthy_for = Some(Span::ZERO);
    hurried
}

//! What monitoring does, in the virtual world: samples of Regions where something shows, alarms, and grants of watched time.

use super::ForecastError;
use super::result::{EndlessBake, ShutGate, Stuck};
use super::scenario::Outage;
use super::traffic::{self, Load};
use super::world::{Happening, Place, World};
use std::collections::{BTreeMap, BTreeSet};
use tidegate_core::alarm::{AlarmName, AlarmState};
use tidegate_core::bake::{BakeClock, Missing};
use tidegate_core::decision::Event;
use tidegate_core::ids::{EnvironmentId, RegionId, ReleaseNo, Role, RunSpecDigest};
use tidegate_core::pipeline::{Grant, Pipeline, PipelineEvent, Work};
use tidegate_core::plan::StepId;
use tidegate_core::scope::Scope;
use tidegate_core::team::{Report, TeamEvent};
use tidegate_core::units::{Span, Timestamp};

/// When a count of requests should be complete is looked at again after this.
const COUNT_AGAIN: Span = Span::seconds(1);
/// A bake of which nobody can tell when it ends is looked at this often, for this long.
const LOOK_AGAIN: Span = Span::minutes(10);
const PATIENCE: Span = Span::hours(24);

/// A bake that runs.
struct Bake<'a> {
    step: &'a StepId,
    environment: &'a EnvironmentId,
    role: Role,
    release: ReleaseNo,
    entered: Timestamp,
    clock: &'a BakeClock,
}

fn bakes(pipeline: &Pipeline) -> impl Iterator<Item = Bake<'_>> {
    pipeline.plan.steps().filter_map(|(stage, step)| match &pipeline.steps.get(&step.id)?.work {
        Work::Baking { release, entered, clock, .. } => Some(Bake {
            step: &step.id,
            environment: &stage.environment,
            role: step.role,
            release: *release,
            entered: *entered,
            clock,
        }),
        _ => None,
    })
}

impl World<'_> {
    /// Grants the time since the last grant wherever something bakes; false if nothing does.
    pub(super) fn watch(&mut self) -> Result<bool, ForecastError> {
        let pipeline = self.pipeline()?;
        let mut grants: BTreeMap<Scope, Grant> = BTreeMap::new();
        for bake in bakes(&pipeline) {
            for (region, credit) in bake.clock.regions.iter().filter(|(_, c)| c.until < self.now) {
                let scope = Scope { environment: bake.environment.clone(), region: region.clone() };
                let Some(place) = self.places.get(&scope) else { continue };
                let grant = grants.entry(scope.clone()).or_insert_with(|| Grant {
                    scope: scope.clone(),
                    from: credit.until,
                    until: self.now,
                    blind: place.blind.clone(),
                    requests: BTreeMap::new(),
                });
                grant.from = grant.from.min(credit.until);
                let spec = pipeline.run_spec(bake.release, bake.environment);
                if let Some(spec) = spec.filter(|_| !bake.clock.data.is_empty() && place.dark == 0) {
                    let counted = self.requests(place, spec, self.now.since(credit.until));
                    grant.requests.insert(spec.clone(), counted);
                }
            }
        }
        if grants.is_empty() {
            return Ok(false);
        }
        self.tell(PipelineEvent::Watched { grants: grants.into_values().collect() })?;
        Ok(true)
    }

    /// Requests by API to the boxes that run this, over a time in which they were as they are now.
    fn requests(&self, place: &Place, spec: &RunSpecDigest, time: Span) -> BTreeMap<String, u64> {
        let milli: u64 = self.loads(place).iter().filter(|l| l.runs(spec)).map(|l| l.milli).sum();
        let apis = self.scenario.traffic.apis.iter();
        apis.map(|api| {
            let milli = u128::from(milli) * u128::from(api.share.get()) / 100;
            let count = milli * u128::from(time.millis()) / 1_000_000;
            (api.name.clone(), u64::try_from(count).unwrap_or(u64::MAX))
        })
        .collect()
    }

    fn loads(&self, place: &Place) -> Vec<Load> {
        traffic::loads(&self.boxes, &place.slots, place.milli, &self.flaws, self.now)
    }

    /// Whether watched time counts at present for a step of this role.
    fn is_quiet(&self, place: &Place, role: Role) -> bool {
        let counts = |alarm: &AlarmName| role == Role::OneBox || !self.monitoring.is_of_one_box(alarm);
        let alarms = place.states.iter().filter(|(_, state)| **state != AlarmState::Ok).map(|(name, _)| name);
        place.outages.is_empty() && !alarms.chain(&place.blind).any(counts)
    }

    /// When the first bake ends, if everything stays as it is; `None` if none will. One of which that cannot be told is looked
    /// at now and then.
    pub(super) fn bake_ends(&self, pipeline: &Pipeline) -> Option<Timestamp> {
        let later = self.now + LOOK_AGAIN;
        let patient = later.since(self.progress) <= PATIENCE;
        bakes(pipeline).filter_map(|bake| self.bake_end(pipeline, &bake).or(patient.then_some(later))).min()
    }

    fn bake_end(&self, pipeline: &Pipeline, bake: &Bake<'_>) -> Option<Timestamp> {
        let mut end = self.now;
        for missing in bake.clock.missing() {
            let (Missing::Time { region, .. } | Missing::Requests { region, .. }) = &missing;
            let scope = Scope { environment: bake.environment.clone(), region: region.clone() };
            let place = self.places.get(&scope).filter(|place| self.is_quiet(place, bake.role))?;
            let until = bake.clock.regions.get(region)?.until;
            end = end.max(match &missing {
                Missing::Time { left, .. } => until + *left,
                Missing::Requests { api, seen, needed, .. } => {
                    let spec = pipeline.run_spec(bake.release, bake.environment)?;
                    let per_day = self.requests(place, spec, Span::hours(24));
                    let per_day: u64 = per_day
                        .iter()
                        .filter(|(name, _)| api.as_ref().is_none_or(|api| &api == name))
                        .map(|(_, n)| n)
                        .sum();
                    let time = u128::from(needed - seen) * 86_400_000
                        / u128::from(Some(per_day).filter(|n| *n > 0)?);
                    until + Span(u64::try_from(time).ok()?).plus(COUNT_AGAIN)
                }
            });
        }
        Some(end)
    }

    /// Something in a Region may be other than it was: who meets a regression is counted anew, and it is sampled if
    /// alarms may show it.
    pub(super) fn shows(&mut self, scope: &Scope) -> Result<(), ForecastError> {
        let Some(place) = self.places.get(scope).filter(|_| !self.booting) else { return Ok(()) };
        let ill = place.slots.iter().any(|id| self.boxes.slots.get(id).is_some_and(|slot| slot.is_ill()));
        let known = place.sampler.is_some() || place.dark > 0;
        if !ill && !known && self.flaws.of.is_empty() {
            return Ok(());
        }
        let loads = self.loads(place);
        let burns = loads.iter().any(|load| !load.burns.is_empty());
        let production = place.production;
        self.count(scope, &loads, production);
        if !(ill || burns || known) {
            return Ok(());
        }
        let next = self.monitoring.next_sample(self.now);
        let normal = self.normal(scope);
        let Some(place) = self.places.get_mut(scope) else { return Ok(()) };
        let sampler = place.sampler.get_or_insert_with(|| self.monitoring.begin(&normal));
        if sampler.next.is_none() {
            if sampler.rested() {
                self.monitoring.resume(sampler);
            }
            sampler.next = Some(next);
            self.at(next, Happening::Sample(scope.clone()));
        }
        Ok(())
    }

    /// A Region as it is when nothing is wrong with its boxes.
    pub(super) fn normal(&self, scope: &Scope) -> traffic::Sample {
        let Some(place) = self.places.get(scope) else { return traffic::Sample::default() };
        let quiet = traffic::Flaws::default();
        let loads = traffic::loads(&self.boxes, &place.slots, place.milli, &quiet, self.now);
        let (every, canaries) = (self.monitoring.every, &self.monitoring.canaries);
        traffic::sample(&loads, &quiet, &self.scenario.traffic, canaries, self.now, every)
    }

    /// Counts who meets which regression in a Region from now on. Before production nobody is a customer.
    fn count(&mut self, scope: &Scope, loads: &[Load], production: bool) {
        let regressions: Vec<usize> = self.flaws.regressions.keys().copied().collect();
        for n in regressions {
            let Some(regression) = self.flaws.regressions.get(&n) else { continue };
            let burning: Vec<&Load> = loads.iter().filter(|load| load.burns.contains(&n)).collect();
            let harmed =
                burning.iter().map(|load| traffic::exposed(load, regression, &self.scenario.traffic));
            if production {
                self.exposure.set(n, &scope.region, harmed.sum());
            }
            let places = self.burning.entry(n).or_default();
            if !burning.is_empty() {
                places.insert(scope.clone());
                self.began.entry(n).or_insert(self.now);
                self.over.remove(&n);
            } else if places.remove(scope) && places.is_empty() {
                self.over.insert(n, self.now);
            }
        }
    }

    /// A sample of a Region ends, and with it perhaps a period of its alarms.
    pub(super) fn sample(&mut self, scope: &Scope) -> Result<(), ForecastError> {
        self.cost.samples += 1;
        let Some(place) = self.places.get(scope) else { return Ok(()) };
        let loads = self.loads(place);
        let (every, canaries) = (self.monitoring.every, &self.monitoring.canaries);
        let measured = (place.dark == 0)
            .then(|| traffic::sample(&loads, &self.flaws, &self.scenario.traffic, canaries, self.now, every));
        let quiet = self.is_quiet(place, Role::OneBox);
        let troubled = place.dark > 0 || loads.iter().any(|load| !load.burns.is_empty());
        let Some(place) = self.places.get_mut(scope) else { return Ok(()) };
        let Some(mut sampler) = place.sampler.take() else { return Ok(()) };
        let found = self.monitoring.evaluate(&mut sampler, loads, measured, self.now, &place.states);
        let next = sampler.next;
        let mut blind = place.blind.clone();
        blind.retain(|name| !found.reports.contains_key(name));
        blind.extend(found.blind);
        let states = &place.states;
        let changed: BTreeMap<_, _> = found
            .reports
            .into_iter()
            .filter(|(name, report)| states.get(name) != Some(&report.state))
            .collect();
        if next.is_some() || troubled || !changed.is_empty() || !quiet {
            place.sampler = Some(sampler);
        }
        if let Some(next) = next {
            self.at(next, Happening::Sample(scope.clone()));
        }
        self.changes(scope, changed, blind)
    }

    /// Tells the team of alarms that changed; what was watched until now is granted as it was until now.
    fn changes(
        &mut self,
        scope: &Scope,
        changed: BTreeMap<AlarmName, Report>,
        blind: BTreeSet<AlarmName>,
    ) -> Result<(), ForecastError> {
        let Some(place) = self.places.get(scope) else { return Ok(()) };
        if changed.is_empty() && place.blind == blind {
            return Ok(());
        }
        self.watch()?;
        if let Some(place) = self.places.get_mut(scope) {
            place.blind = blind;
            place.states.extend(changed.iter().map(|(name, report)| (name.clone(), report.state)));
        }
        if changed.is_empty() {
            return Ok(());
        }
        let event = TeamEvent::Evaluated { scope: scope.clone(), at: self.now, alarms: changed };
        self.submit(&Event::Team(self.team.clone(), event))
    }

    /// A Region's monitoring stops, or has data again.
    pub(super) fn goes_dark(&mut self, region: &RegionId, begins: bool) -> Result<(), ForecastError> {
        let of = |(scope, place): (&Scope, &Place)| {
            (place.production && &scope.region == region).then(|| scope.clone())
        };
        let Some(scope) = self.places.iter().find_map(of) else { return Ok(()) };
        self.watch()?;
        self.shows(&scope)?;
        if let Some(place) = self.places.get_mut(&scope) {
            place.dark = if begins { place.dark + 1 } else { place.dark.saturating_sub(1) };
        }
        self.shows(&scope)
    }

    /// An alarm of elsewhere fires, or ends.
    pub(super) fn outage(&mut self, outage: &Outage, begins: bool) -> Result<(), ForecastError> {
        let of = |(scope, place): (&Scope, &Place)| {
            (place.production && scope.region == outage.region).then(|| scope.clone())
        };
        let (Some(scope), Some(alarm)) = (self.places.iter().find_map(of), self.alarm_of_elsewhere(outage))
        else {
            return Ok(());
        };
        self.watch()?;
        if let Some(place) = self.places.get_mut(&scope) {
            if begins {
                place.outages.insert(alarm.clone());
            } else {
                place.outages.remove(&alarm);
            }
        }
        let state = if begins { AlarmState::Alarm } else { AlarmState::Ok };
        let why = if begins { "an outage that no release caused" } else { "the outage is over" };
        let alarms = BTreeMap::from([(alarm, Report { state, why: why.to_owned() })]);
        let event = TeamEvent::Evaluated { scope, at: self.now, alarms };
        self.submit(&Event::Team(self.team.clone(), event))
    }

    /// Why nothing goes on, if something still should.
    pub(super) fn stuck(&self, pipeline: &Pipeline, why: &str) -> Option<Stuck> {
        let since = |release: ReleaseNo, step: &StepId| {
            let waits = self.journal.releases.get(&release).map_or(&[][..], |r| &r.waits);
            waits.iter().filter(|w| &w.step == step).map(|w| w.from).min().unwrap_or(self.now)
        };
        let gate = |(step, state): (&StepId, &tidegate_core::Shared<tidegate_core::pipeline::StepState>)| {
            let release = state.candidate.filter(|_| !state.waiting.is_empty())?;
            let (since, reasons) = (since(release, step), state.waiting.clone());
            Some(ShutGate { step: step.clone(), release, since, reasons })
        };
        let gates: Vec<ShutGate> = pipeline.steps.iter().filter_map(gate).collect();
        let endless = bakes(pipeline).map(|bake| EndlessBake {
            step: bake.step.clone(),
            release: bake.release,
            since: bake.entered,
            missing: bake.clock.missing(),
            blind: self.blind(bake.environment, bake.clock),
        });
        let bakes: Vec<EndlessBake> = endless.collect();
        let nothing = gates.is_empty() && bakes.is_empty();
        (!nothing).then(|| Stuck { why: why.to_owned(), gates, bakes })
    }

    fn blind(&self, environment: &EnvironmentId, clock: &BakeClock) -> BTreeMap<RegionId, BTreeSet<String>> {
        let alarms = |region: &RegionId| -> Option<BTreeSet<String>> {
            let scope = Scope { environment: environment.clone(), region: region.clone() };
            let place = self.places.get(&scope)?;
            let no_data =
                place.states.iter().filter(|(_, s)| **s == AlarmState::InsufficientData).map(|(n, _)| n);
            Some(no_data.chain(&place.blind).map(ToString::to_string).collect())
        };
        let all = clock.regions.keys().filter_map(|region| Some((region.clone(), alarms(region)?)));
        all.filter(|(_, alarms)| !alarms.is_empty()).collect()
    }
}

//! When what is on its way arrives (X5): the real scheduler, run ahead on a virtual clock from the states as they are now. Once
//! with everything outside of it as quick as it can be, once as slow as it is still allowed to be: an estimate is the range
//! between the two. What must hold: nothing of it reaches the world, and it comes to an end soon.

use super::boxes::Boxes;
use super::result::{Release, Stuck};
use super::scenario::{Api, Commits, Scenario, Traffic};
use super::world::{Happening, World};
use super::{ForecastError, Input, missing};
use crate::store::VirtualClock;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tidegate_core::alarm::AlarmState;
use tidegate_core::decision::Event;
use tidegate_core::definition::EngineDef;
use tidegate_core::ids::{CommitId, PipelineId, ReleaseNo, SlotId};
use tidegate_core::pipeline::{Build, Motion, Pipeline, SlotState, Work};
use tidegate_core::plan::StepId;
use tidegate_core::scope::Scope;
use tidegate_core::team::{Report, TeamEvent, leaf_names};
use tidegate_core::units::{Percent, Span, Timestamp};
use tidegate_runtime::{Clock, Runtime};

/// How many moments each look ahead has at most: a release through a hundred steps has some five thousand.
const MOMENTS_MAX: u64 = 20_000;
/// How many of the newest builds tell how long the next one takes.
const BUILDS: usize = 10;
/// So many requests per second that no bake waits for its data.
const AMPLE: u64 = 10_000_000;
/// The most APIs that requests are spread over.
const APIS_MAX: usize = 100;

/// When what is on its way in a pipeline arrives.
#[derive(Debug, Clone)]
pub struct Estimates {
    /// When it was looked.
    pub made_at: Timestamp,
    /// What was taken for granted, for people.
    pub assumptions: Vec<String>,
    last: Option<StepId>,
    quick: Ahead,
    slow: Ahead,
}

/// A time between two others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expected {
    /// Not before.
    pub earliest: Timestamp,
    /// Not after; `None` if it may never be by itself.
    pub latest: Option<Timestamp>,
}

/// One look ahead.
#[derive(Debug, Clone)]
struct Ahead {
    releases: BTreeMap<ReleaseNo, Release>,
    stuck: Option<Stuck>,
}

/// Looks ahead for a pipeline; `None` if there is no such pipeline, or it was retired.
///
/// # Errors
/// If the states cannot be read, or the pipeline does not come to rest.
pub fn estimates(runtime: &Runtime, id: &PipelineId) -> Result<Option<Estimates>, ForecastError> {
    let Some(pipeline) = runtime.pipeline(id)?.filter(|p| p.life.is_active()) else { return Ok(None) };
    let organisation = runtime.organisation()?.definition.as_deref().cloned();
    let (Some(organisation), Some(definition)) = (organisation, pipeline.definition.as_deref().cloned())
    else {
        return Ok(None);
    };
    let mut input = Input { organisation, pipeline: definition, scenario: Scenario::default() };
    let mut assumptions = Vec::new();
    let mut look = |scenario| {
        input.scenario = scenario;
        ahead(runtime, &input, &mut assumptions)
    };
    let [quick, slow] = paces(&pipeline).map(&mut look);
    let (quick, slow) = (quick?, slow?);
    assumptions.insert(0, "nothing fails, and no further commit overtakes it".to_owned());
    let mut said = BTreeSet::new();
    assumptions.retain(|assumption| said.insert(assumption.clone()));
    let last = pipeline.plan.steps().last().map(|(_, step)| step.id.clone());
    Ok(Some(Estimates { made_at: runtime.now(), assumptions, last, quick, slow }))
}

impl Estimates {
    /// When a release enters a step, or a newer one that takes its changes along; `None` if neither does by itself.
    #[must_use]
    pub fn enters(&self, release: ReleaseNo, step: &StepId) -> Option<Expected> {
        self.between(|ahead| ahead.first(release, step, |pass| Some(pass.entered)))
    }

    /// As [`Estimates::enters`], when it has passed the step.
    #[must_use]
    pub fn passes(&self, release: ReleaseNo, step: &StepId) -> Option<Expected> {
        self.between(|ahead| ahead.first(release, step, |pass| pass.done))
    }

    /// As [`Estimates::passes`], of the pipeline's last step.
    #[must_use]
    pub fn everywhere(&self, release: ReleaseNo) -> Option<Expected> {
        self.passes(release, self.last.as_ref()?)
    }

    /// The release that brings a commit, also if it has not been made yet.
    #[must_use]
    pub fn release_of(&self, commit: &CommitId) -> Option<ReleaseNo> {
        let brings = |release: &&Release| release.changes.iter().any(|change| &change.commit == commit);
        self.quick.releases.values().find(brings).map(|release| release.release)
    }

    /// Why neither this release nor a newer one goes on by itself, if it does not.
    #[must_use]
    pub fn stuck(&self, release: ReleaseNo) -> Option<String> {
        let stuck = self.quick.stuck.as_ref()?;
        let gate = stuck.gates.iter().find(|gate| gate.release >= release).map(|gate| {
            let reasons: Vec<String> = gate.reasons.iter().map(ToString::to_string).collect();
            format!("{} waits before {}: {}", gate.release, gate.step, reasons.join("; "))
        });
        gate.or_else(|| {
            let bake = stuck.bakes.iter().find(|bake| bake.release >= release)?;
            let all: Vec<String> = bake.missing.iter().map(missing).collect();
            Some(format!("{} bakes in {}: missing {}", bake.release, bake.step, all.join(", ")))
        })
    }

    fn between(&self, time: impl Fn(&Ahead) -> Option<Timestamp>) -> Option<Expected> {
        let (quick, slow) = (time(&self.quick), time(&self.slow));
        let earliest = [quick, slow].into_iter().flatten().min()?;
        Some(Expected { earliest, latest: quick.max(slow).filter(|_| quick.is_some() && slow.is_some()) })
    }
}

impl Ahead {
    fn first(
        &self,
        release: ReleaseNo,
        step: &StepId,
        time: impl Fn(&super::Pass) -> Option<Timestamp>,
    ) -> Option<Timestamp> {
        let passes = self.releases.range(release..).flat_map(|(_, r)| &r.passes);
        passes.filter(|pass| &pass.step == step).filter_map(time).min()
    }
}

/// How long what tidegate does not decide takes: as quick as the quickest builds of late, tests and boxes at once; and as slow
/// as the slowest of them, with all the time that tests and boxes are given.
fn paces(pipeline: &Pipeline) -> [Scenario; 2] {
    let built = pipeline.releases.values().rev().filter_map(|release| match &release.build {
        Build::Built { at, .. } => Some(at.since(release.created_at)),
        Build::Building { .. } | Build::Failed { .. } => None,
    });
    let built: Vec<Span> = built.take(BUILDS).collect();
    let definition = pipeline.definition.as_deref();
    let limit = definition.map_or(Span::ZERO, |d| d.build.limits.time);
    let tests = |stage: &tidegate_core::definition::StageDef| {
        stage.tests.iter().fold(Span::ZERO, |sum, test| sum.plus(test.time_limit))
    };
    let tests = definition.and_then(|d| d.stages.iter().map(tests).max()).unwrap_or(Span::ZERO);
    let start = definition.map_or(Span::ZERO, |d| match &d.run.engine {
        EngineDef::Process(process) => process.health.start_timeout,
        EngineDef::Command(command) => command.time_limit,
        EngineDef::Configuration(_) | EngineDef::Definitions(_) => Span::ZERO,
    });
    let scenario = |build_time, test_time, box_start_time| Scenario {
        length: Span::ZERO,
        commits: Commits::At(Vec::new()),
        build_time,
        test_time,
        box_start_time,
        traffic: traffic(pipeline),
        ..Scenario::default()
    };
    [
        scenario(built.iter().min().copied().unwrap_or(Span::ZERO), Span::ZERO, Span::ZERO),
        scenario(built.iter().max().copied().unwrap_or(limit), tests, start),
    ]
}

/// Requests enough for every bake, of every API that one waits for.
fn traffic(pipeline: &Pipeline) -> Traffic {
    let needed = pipeline.plan.stages.iter().flat_map(|stage| pipeline.requirements(stage));
    let apis: BTreeSet<String> = needed.filter_map(|data| data.api).collect();
    let share = u8::try_from(100 / apis.len().clamp(1, APIS_MAX)).unwrap_or(1);
    let share = Percent::new(share).expect("a part of a hundred is a percentage");
    let api = |name: String| Api { name, share };
    let apis = match apis.is_empty() {
        true => vec![api("any".to_owned())],
        false => apis.into_iter().take(APIS_MAX).map(api).collect(),
    };
    Traffic { requests_per_second: AMPLE, test_requests_per_second: AMPLE, apis }
}

fn ahead(runtime: &Runtime, input: &Input, assumptions: &mut Vec<String>) -> Result<Ahead, ForecastError> {
    let clock = Arc::new(VirtualClock::default());
    let now = runtime.now();
    clock.set(now.0);
    let shared: Arc<dyn Clock> = Arc::<VirtualClock>::clone(&clock);
    let copy = runtime.ahead(&input.pipeline.name, shared)?.ok_or(ForecastError::NoOwner)?;
    let mut world = World::around(input, copy, clock, now, now)?;
    world.moments_max = MOMENTS_MAX;
    world.resume(assumptions)?;
    let stuck = world.run()?;
    Ok(Ahead { releases: world.journal.releases, stuck })
}

impl World<'_> {
    /// Goes on from the states that the runtime has.
    fn resume(&mut self, assumptions: &mut Vec<String>) -> Result<(), ForecastError> {
        let pipeline = self.pipeline()?;
        self.booting = false;
        self.lay_out(&pipeline.plan);
        self.journal.begin(&pipeline);
        self.quieten(assumptions)?;
        for (target, state) in &pipeline.slots {
            let slot = SlotId { target: target.clone(), pipeline: self.id.clone() };
            let start = self.scenario.box_start_time;
            put(&mut self.boxes, &slot, &pipeline, state, self.now, start);
            if state.motion != Motion::Settled {
                let healthy = self.now + start;
                let settled = healthy + pipeline.settings().rolling.healthy_for;
                for at in [self.now, healthy, settled] {
                    self.at(at, Happening::Observe(slot.clone()));
                }
            }
        }
        for (release, state) in &pipeline.releases {
            if let Build::Building { effect, awaited } = &state.build {
                let at = awaited.since + self.scenario.build_time;
                self.at(at, Happening::Built(effect.clone(), *release));
            }
        }
        for state in pipeline.steps.values() {
            if let Work::Testing { effect, awaited, .. } = &state.work {
                self.at(awaited.since + self.scenario.test_time, Happening::Tested(effect.clone()));
            }
        }
        // What may start now starts, whatever timers say.
        self.tell(tidegate_core::pipeline::PipelineEvent::Tick)
    }

    /// Alarms that fire or have no data are over at once: when they will be, nobody can tell.
    fn quieten(&mut self, assumptions: &mut Vec<String>) -> Result<(), ForecastError> {
        let team = self.runtime.team(&self.team)?;
        let scopes: Vec<Scope> = self.places.keys().cloned().collect();
        for scope in scopes {
            let mut alarms = BTreeMap::new();
            for name in team.services.iter().flat_map(leaf_names) {
                let state = team.alarm(&scope, &name);
                if state == AlarmState::Alarm {
                    assumptions.push(format!("{name}, which fires in {scope}, is over at once"));
                }
                if state != AlarmState::Ok {
                    let why = "looking ahead".to_owned();
                    alarms.insert(name, Report { state: AlarmState::Ok, why });
                }
            }
            if !alarms.is_empty() {
                let event = TeamEvent::Evaluated { scope, at: self.now, alarms };
                self.submit(&Event::Team(self.team.clone(), event))?;
            }
        }
        Ok(())
    }
}

/// The boxes of a slot as its state says: those that were asked for and are not healthy yet start now.
fn put(
    boxes: &mut Boxes,
    slot: &SlotId,
    pipeline: &Pipeline,
    state: &SlotState,
    now: Timestamp,
    start: Span,
) {
    let spec = |release: ReleaseNo| pipeline.run_spec(release, &slot.target.environment).cloned();
    let mut running: Vec<(ReleaseNo, u32, u32)> = Vec::new();
    let mut rest = state.boxes;
    match &state.motion {
        Motion::Forward { release, asked, settled, .. } => {
            running.push((*release, *asked, asked.saturating_sub(*settled)));
            rest = rest.saturating_sub(*asked);
        }
        Motion::Back { from, to, asked, settled, .. } => {
            if let Some(to) = to {
                running.push((*to, *asked, asked.saturating_sub(*settled)));
                rest = rest.saturating_sub(*asked);
                for (release, had) in from {
                    running.push((*release, (*had).min(rest), 0));
                    rest -= (*had).min(rest);
                }
            } else {
                rest = 0;
            }
        }
        Motion::Settled | Motion::Abandoned { .. } => {}
    }
    running.extend(state.current().map(|current| (current, rest, 0)));
    let running: Vec<_> = running
        .into_iter()
        .filter_map(|(release, boxes, starting)| Some((spec(release)?, boxes, starting)))
        .collect();
    boxes.put(slot, state.generation, &running, now, start);
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn input(pipeline: &Value) -> Input {
        let region = |n: usize| json!({"name": format!("region-{n}"), "azs": ["a", "b"], "traffic": 10 + n});
        let organisation = json!({
            "schema": "tidegate.organisation/1", "name": "acme", "users": [{"name": "alice"}, {"name": "bob"}],
            "teams": [{"name": "shop", "members": ["alice", "bob"], "windows": {"weekly": {
                "time_zone": "Europe/Berlin", "open": [{"days": ["monday", "tuesday", "friday"], "hours": "09:00-16:00"}]}}}],
            "services": [{"name": "shop", "team": "shop"}],
            "regions": (0..4).map(region).collect::<Vec<_>>()
        });
        let scenario = json!({
            "schema": "tidegate.scenario/1", "length": "20h", "commits": {"at": ["2026-01-05T09:00:00Z", "2026-01-05T13:00:00Z"]}, "build_time": "7m",
            "test_time": "3m", "box_start_time": "20s"
        });
        Input {
            organisation: serde_json::from_value(organisation).unwrap(),
            pipeline: serde_json::from_value(pipeline.clone()).unwrap(),
            scenario: serde_json::from_value(scenario).unwrap(),
        }
    }

    fn pipeline() -> Value {
        json!({
            "schema": "tidegate.pipeline/1", "name": "shop-app", "service": "shop",
            "sources": [{"name": "code", "url": "https://git.invalid/shop"}],
            "build": {"package": [{"from": "bin", "to": "bin"}]},
            "run": {"engine": {"process": {"command": ["bin/shop"], "health": {"path": "/health"}}}},
            "stages": [
                {"environment": "gamma", "regions": ["region-0"], "one_box": true,
                    "tests": [{"name": "smoke", "run": ["bin/smoke"]}]},
                {"environment": "production", "one_box": true,
                    "bake": {"data": [{"api": "POST /orders", "requests": 100}]}}
            ]
        })
    }

    /// The world after so many moments.
    fn halted(input: &Input, moments: u64) -> World<'_> {
        let mut world = World::new(input).unwrap();
        world.boot().unwrap();
        world.moments_max = world.cost.moments + moments;
        assert!(matches!(world.run(), Err(ForecastError::Circle { .. })), "it is still on its way");
        world
    }

    #[test]
    fn what_happens_lies_between_what_was_estimated_at_any_moment_before() {
        let mut input = input(&pipeline());
        let plan = tidegate_core::plan::plan(&input.pipeline, &input.organisation);
        input.scenario.traffic = traffic(&Pipeline { plan: plan.into(), ..Pipeline::default() });
        let mut checked = 0;
        for moments in [2, 5, 11, 23, 47, 60, 80, 120, 160, 200] {
            let mut world = halted(&input, moments);
            let newest = world.pipeline().unwrap().newest().unwrap().0;
            let estimates = estimates(&world.runtime, &world.id).unwrap().unwrap();
            assert_eq!(estimates.stuck(newest), None);
            let now = world.now;
            world.moments_max = u64::MAX;
            assert_eq!(world.run().unwrap(), None);
            let release = &world.journal.releases[&newest];
            for pass in release.passes.iter().filter(|pass| pass.done > Some(now)) {
                let (truth, told) = (pass.done.unwrap(), estimates.passes(newest, &pass.step).unwrap());
                let latest = told.latest.unwrap();
                assert!(
                    told.earliest <= truth && truth <= latest,
                    "{newest} in {} at {truth}, told at {now} {} to {latest}",
                    pass.step,
                    told.earliest
                );
                checked += 1;
            }
        }
        assert!(checked > 60, "{checked}");
    }

    #[test]
    fn what_does_not_go_on_by_itself_says_why() {
        let input = input(&pipeline());
        let mut world = halted(&input, 40);
        let newest = world.pipeline().unwrap().newest().unwrap().0;
        let (by, reason) =
            (tidegate_core::decision::Actor::User(world.approver.clone()), "too risky".to_owned());
        world
            .tell(tidegate_core::pipeline::PipelineEvent::HoldPlaced { by, reason, until: None, stage: None })
            .unwrap();
        let estimates = estimates(&world.runtime, &world.id).unwrap().unwrap();
        assert_eq!(estimates.everywhere(newest), None);
        let why = estimates.stuck(newest).unwrap();
        assert!(why.contains("hold 1 by alice: too risky"), "{why}");
        assert_eq!(world.runtime.pipeline(&world.id).unwrap().unwrap().holds.len(), 1, "it only looked");
    }
}

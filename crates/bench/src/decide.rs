//! What one decision costs: the core alone, over the events of a pipeline through gamma and 24 Regions with 76 AZs, as a server
//! would tell them: commits, builds, every box's start, every second of every bake, and a release that is taken back. Boxes,
//! builds and monitoring are virtual and obey at once; time is virtual.

use crate::report::{Figure, percentile};
use crate::scene::Scene;
use anyhow::{Context, Result, anyhow, bail};
use serde_json::{Value, json};
use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;
use tidegate_core::aggregate::{State, decide};
use tidegate_core::alarm::AlarmState;
use tidegate_core::change::{Commit, SourceObservation};
use tidegate_core::decision::{
    AggregateId, Effect, Event, ForwardEffect, NewEffect, RollbackEffect, SlotOrder,
};
use tidegate_core::definition::{OrganisationDef, PipelineDef};
use tidegate_core::engine::{BoxHealth, BoxObservation, Fence, Observation};
use tidegate_core::ids::{CommitId, PackageDigest, PipelineId, ReleaseNo, SlotId, TeamId};
use tidegate_core::lease::Lease;
use tidegate_core::organisation::OrganisationEvent;
use tidegate_core::pipeline::{Grant, Pipeline, PipelineEvent, Snapshots, Standing, Work};
use tidegate_core::scope::Scope;
use tidegate_core::team::{Report, TeamEvent, metric_alarms};
use tidegate_core::units::{Span, Timestamp};

const REGIONS: usize = 24;
const AZS: usize = 76;
/// Decisions that one event may lead to.
const FOLLOW_UPS_MAX: usize = 100_000;
/// Virtual seconds that a release may take.
const SECONDS_MAX: usize = 10_000;

/// Measures.
pub(crate) fn take(_: &Scene) -> Result<Figure> {
    let mut world = World::new()?;
    world.release()?;
    world.release()?;
    world.bad_release()?;
    let mut text = format!(
        "decide: a pipeline through gamma and {REGIONS} Regions with {AZS} AZs, two good releases and one that is taken back\n\
         {:<14}{:>9}{:>12}{:>12}{:>12}\n",
        "event", "count", "median us", "p99 us", "longest us"
    );
    let all: Vec<f64> = world.took_us.values().flatten().copied().collect();
    let mut values = BTreeMap::new();
    let mut tell = |name: &str, took: &[f64]| {
        let [median, p99, longest] = [0.5, 0.99, 1.0].map(|part| percentile(took.iter().copied(), part));
        text.push_str(&format!("{name:<14}{:>9}{median:>12.1}{p99:>12.1}{longest:>12.1}\n", took.len()));
        values.insert(
            name.to_owned(),
            json!({"count": took.len(), "median_us": median, "p99_us": p99, "longest_us": longest}),
        );
    };
    for (kind, took) in &world.took_us {
        tell(kind, took);
    }
    tell("all", &all);
    Figure::new("decide", text, values)
}

struct World {
    now: Timestamp,
    states: BTreeMap<AggregateId, State>,
    due: Option<Timestamp>,
    effects: VecDeque<NewEffect>,
    slots: BTreeMap<SlotId, (u64, Vec<BoxObservation>)>,
    started: u32,
    commits: Vec<CommitId>,
    took_us: BTreeMap<&'static str, Vec<f64>>,
    pipeline: PipelineId,
    team: TeamId,
}

impl World {
    fn new() -> Result<World> {
        let organisation: OrganisationDef = serde_json::from_value(organisation())?;
        let definition: PipelineDef = serde_json::from_value(pipeline(&bakes()))?;
        let findings = tidegate_core::lint::pipeline(&definition, &organisation);
        anyhow::ensure!(findings.is_empty(), "the definition is refused: {findings:?}");
        let mut world = World {
            now: Timestamp(1_750_000_000_000),
            states: BTreeMap::new(),
            due: None,
            effects: VecDeque::new(),
            slots: BTreeMap::new(),
            started: 0,
            commits: Vec::new(),
            took_us: BTreeMap::new(),
            pipeline: definition.name.clone(),
            team: "shop".parse()?,
        };
        let team = TeamEvent::Applied {
            definition: Box::new(organisation.teams.first().context("there is no team")?.clone()),
            services: organisation.services.clone(),
            emails: organisation.users.iter().map(|u| (u.name.clone(), u.emails.clone())).collect(),
            accounts: organisation.accounts(),
        };
        let definition_of = Box::new(organisation);
        world.send(Event::Organisation(OrganisationEvent::Applied { definition: definition_of }))?;
        world.send(Event::Team(world.team.clone(), team))?;
        world.tell(PipelineEvent::Applied { definition: Box::new(definition) })?;
        let targets: Vec<Scope> = world.look()?.plan.targets().map(|t| Scope::of(&t.id)).collect();
        for scope in targets {
            world.alarm(scope, AlarmState::Ok)?;
        }
        world.took_us.clear();
        Ok(world)
    }

    /// A good release goes everywhere.
    fn release(&mut self) -> Result<()> {
        let release = self.push()?;
        for _ in 0..SECONDS_MAX {
            let pipeline = self.look()?;
            let last = pipeline.plan.steps().last().context("there is no step")?.1.id.clone();
            if pipeline.steps.get(&last).is_some_and(|step| step.done == Some(release)) {
                return Ok(());
            }
            self.second()?;
        }
        bail!("{release} does not pass: {:?}", self.look()?.steps)
    }

    /// A release is caught when it bakes in production's third wave.
    fn bad_release(&mut self) -> Result<()> {
        let release = self.push()?;
        for _ in 0..SECONDS_MAX {
            let pipeline = self.look()?;
            let baking = pipeline.plan.steps().find(|(stage, step)| {
                let work = pipeline.steps.get(&step.id).map(|s| &s.work);
                stage.id.to_string() == "wave-3"
                    && matches!(work, Some(Work::Baking { release: r, .. }) if *r == release)
            });
            if let Some((_, step)) = baking {
                let scope =
                    step.targets.first().map(|t| Scope::of(&t.id)).context("the step has no target")?;
                self.alarm(scope, AlarmState::Alarm)?;
                break;
            }
            self.second()?;
        }
        for _ in 0..SECONDS_MAX {
            let pipeline = self.look()?;
            let under_way = pipeline.steps.values().any(|s| s.work.under_way().is_some());
            let rejected = pipeline.releases.get(&release).is_some_and(|r| r.standing != Standing::Good);
            if rejected && !under_way {
                return Ok(());
            }
            self.second()?;
        }
        bail!("{release} is not taken back")
    }

    fn push(&mut self) -> Result<ReleaseNo> {
        let id = CommitId::new(format!("{:040x}", 0xc0ff_ee00_usize + self.commits.len()))?;
        let commit = Commit {
            id: id.clone(),
            parents: self.commits.last().cloned().into_iter().collect(),
            author_name: "Alice".to_owned(),
            author_email: "alice@example.test".to_owned(),
            committed_at: self.now,
            subject: "a change".to_owned(),
            reverts: Vec::new(),
            fixes: Vec::new(),
        };
        self.commits.push(id.clone());
        let approved = TeamEvent::Approved { commit: id.clone(), by: "bob".parse()? };
        self.send(Event::Team(self.team.clone(), approved))?;
        let observation = SourceObservation { head: id, commits: vec![commit], rewritten: false };
        self.tell(PipelineEvent::SourceObserved { source: "code".parse()?, observation })?;
        Ok(self.look()?.newest().context("no release was made")?.0)
    }

    /// A second passes that monitoring watches.
    fn second(&mut self) -> Result<()> {
        let from = self.now;
        self.now = from + Span::seconds(1);
        let pipeline = self.look()?;
        let baking = pipeline.plan.steps().filter(|(_, step)| {
            pipeline.steps.get(&step.id).is_some_and(|s| matches!(s.work, Work::Baking { .. }))
        });
        let scopes: std::collections::BTreeSet<Scope> =
            baking.flat_map(|(_, step)| step.targets.iter().map(|t| Scope::of(&t.id))).collect();
        let grant = |scope| Grant {
            scope,
            from,
            until: self.now,
            blind: Default::default(),
            requests: Default::default(),
        };
        let grants: Vec<Grant> = scopes.into_iter().map(grant).collect();
        if !grants.is_empty() {
            self.tell(PipelineEvent::Watched { grants })?;
        }
        if self.due.is_some_and(|due| due <= self.now) {
            self.tell(PipelineEvent::Tick)?;
        }
        Ok(())
    }

    /// All metric alarms of a Region are in this state.
    fn alarm(&mut self, scope: Scope, state: AlarmState) -> Result<()> {
        let Some(State::Team(team)) = self.states.get(&AggregateId::Team(self.team.clone())) else {
            bail!("there is no team");
        };
        let report = Report { state, why: "it is measured".to_owned() };
        let names = team.services.iter().flat_map(metric_alarms).map(|alarm| alarm.name);
        let alarms = names.map(|name| (name, report.clone())).collect();
        self.send(Event::Team(self.team.clone(), TeamEvent::Evaluated { scope, at: self.now, alarms }))?;
        self.work()
    }

    /// Tells the pipeline, and does what follows.
    fn tell(&mut self, event: PipelineEvent) -> Result<()> {
        self.send(Event::Pipeline(self.pipeline.clone(), event))?;
        self.work()
    }

    fn work(&mut self) -> Result<()> {
        for _ in 0..FOLLOW_UPS_MAX {
            let Some(next) = self.effects.pop_front() else { return Ok(()) };
            let pipeline = self.pipeline.clone();
            match next.effect {
                Effect::Forward(ForwardEffect::Build(order)) => {
                    let digest = format!("{:064x}", order.release.0);
                    let result = Ok(PackageDigest::new(digest)?);
                    self.send(Event::Pipeline(
                        pipeline,
                        PipelineEvent::BuildEnded { effect: next.id, result },
                    ))?;
                }
                Effect::Forward(ForwardEffect::Test(_)) => {
                    let event = PipelineEvent::TestsEnded { effect: next.id, result: Ok(()) };
                    self.send(Event::Pipeline(pipeline, event))?;
                }
                Effect::Forward(ForwardEffect::Page(_)) => {}
                Effect::Forward(ForwardEffect::Deploy(order))
                | Effect::Rollback(RollbackEffect::Return(order)) => self.obey(&order)?,
            }
        }
        bail!("there is always something left to do")
    }

    /// Boxes start and become healthy, one after the other.
    fn obey(&mut self, order: &SlotOrder) -> Result<()> {
        let (generation, boxes) = self.slots.entry(order.slot.clone()).or_default();
        if order.generation <= *generation {
            return Ok(());
        }
        *generation = order.generation;
        let mut rest = std::mem::take(boxes);
        for share in &order.desired.split {
            for _ in 0..share.boxes {
                boxes.push(match rest.iter().position(|b| b.run_spec == share.run_spec) {
                    Some(at) => rest.remove(at),
                    None => {
                        self.started += 1;
                        BoxObservation {
                            id: format!("box-{}", self.started),
                            incarnation: 1,
                            run_spec: share.run_spec.clone(),
                            health: BoxHealth::Starting { since: self.now },
                            weight: 1,
                        }
                    }
                });
            }
        }
        boxes.sort_by(|a, b| a.id.cmp(&b.id));
        let fence = Fence { epoch: 1, generation: *generation };
        let mut told = vec![boxes.clone()];
        for n in 0..boxes.len() {
            if let Some(starting) = boxes.get_mut(n).filter(|b| !b.health.is_healthy()) {
                starting.health = BoxHealth::Healthy { since: self.now };
                told.push(boxes.clone());
            }
        }
        for boxes in told {
            let observation =
                Observation { slot: order.slot.clone(), fence, boxes, trouble: None, glass: None };
            self.send(Event::Pipeline(
                self.pipeline.clone(),
                PipelineEvent::SlotsObserved { observations: vec![observation] },
            ))?;
        }
        Ok(())
    }

    /// Decides, and lets everybody look who has to.
    fn send(&mut self, event: Event) -> Result<()> {
        let mut queue = VecDeque::from([event]);
        while let Some(event) = queue.pop_front() {
            let id = event.aggregate();
            let state = self.states.get(&id).cloned().unwrap_or_else(|| State::initial(&id));
            let snapshots = self.snapshots();
            let begun = Instant::now();
            let decided = decide(state, &event, self.now, &snapshots);
            let took = begun.elapsed().as_secs_f64() * 1e6;
            let (state, decision) =
                decided.map_err(|illegal| anyhow!("{id} does not take {event:?}: {illegal}"))?;
            self.took_us.entry(kind(&event)).or_default().push(took);
            self.states.insert(id.clone(), state);
            for (other, fact) in decision.facts.iter().filter(|(of, _)| *of != id) {
                let state = self.states.entry(other.clone()).or_insert_with(|| State::initial(other));
                state.apply(fact).map_err(|error| anyhow!("{other} does not take {fact:?}: {error:?}"))?;
            }
            if matches!(id, AggregateId::Pipeline(_)) {
                self.due = decision.due;
            }
            self.effects.extend(decision.effects);
            let all = decision.wake_all.then(|| self.states.keys().cloned());
            for woken in all.into_iter().flatten().chain(decision.wake) {
                if let AggregateId::Pipeline(pipeline) = woken {
                    queue.push_back(Event::Pipeline(pipeline, PipelineEvent::Tick));
                }
            }
        }
        Ok(())
    }

    fn look(&self) -> Result<&Pipeline> {
        match self.states.get(&AggregateId::Pipeline(self.pipeline.clone())) {
            Some(State::Pipeline(pipeline)) => Ok(pipeline),
            _ => bail!("there is no pipeline"),
        }
    }

    fn snapshots(&self) -> Snapshots {
        let mut snapshots = Snapshots::default();
        for (id, state) in &self.states {
            match (id, state) {
                (_, State::Team(team)) => snapshots.team = team.clone().into(),
                (_, State::Organisation(organisation)) => {
                    snapshots.organisation = organisation.clone().into()
                }
                (AggregateId::Lease(id), State::Lease(lease)) if *lease != Lease::Free => {
                    snapshots.leases.insert(id.clone(), lease.clone());
                }
                _ => {}
            }
        }
        snapshots
    }
}

fn kind(event: &Event) -> &'static str {
    match event {
        Event::Organisation(_) => "organisation",
        Event::Team(..) => "team",
        Event::Pipeline(_, PipelineEvent::Tick) => "tick",
        Event::Pipeline(_, PipelineEvent::SlotsObserved { .. }) => "boxes seen",
        Event::Pipeline(_, PipelineEvent::Watched { .. }) => "bake watched",
        Event::Pipeline(..) => "other",
    }
}

fn bakes() -> Value {
    json!({"one_box": "30s", "az": "15s", "first_wave": "60s", "second_wave": "40s", "last_wave": "30s"})
}

/// One team and its service, in all Regions.
pub(crate) fn organisation() -> Value {
    let azs = ["a", "b", "c", "d"];
    let regions: Vec<Value> = (0..REGIONS)
        .map(|n| {
            let count = AZS / REGIONS + usize::from(n < AZS % REGIONS);
            json!({"name": format!("region-{n}"), "azs": &azs[..count], "traffic": 10 + n})
        })
        .collect();
    json!({
        "schema": "tidegate.organisation/1", "name": "bench",
        "users": [
            {"name": "alice", "emails": ["alice@example.test"]}, {"name": "bob", "emails": ["bob@example.test"]}
        ],
        "teams": [{"name": "shop", "members": ["alice", "bob"], "pages": [{"webhook": "http://pager.invalid/"}]}],
        "services": [{"name": "shop", "team": "shop"}],
        "regions": regions
    })
}

/// Through gamma and all Regions, with these bakes.
pub(crate) fn pipeline(bake: &Value) -> Value {
    json!({
        "schema": "tidegate.pipeline/1", "name": "shop-app", "service": "shop",
        "sources": [{"name": "code", "url": "https://git.invalid/shop"}],
        "build": {"package": [{"from": "bin", "to": "bin"}]},
        "run": {"engine": {"process": {"command": ["bin/shop"], "health": {"path": "/health"}}}},
        "stages": [
            {"environment": "gamma", "regions": ["region-0", "region-1"], "one_box": true, "bake": bake,
                "tests": [{"name": "smoke", "run": ["bin/smoke"]}]},
            {"environment": "production", "one_box": true, "bake": bake}
        ],
        "rolling": {"healthy_for": "0s"}
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pipeline_takes_good_releases_everywhere_and_a_bad_one_back() {
        let mut world = World::new().unwrap();
        assert_eq!(
            world
                .look()
                .unwrap()
                .plan
                .targets()
                .filter(|t| t.id.to_string().contains("/production/"))
                .count(),
            AZS + REGIONS
        );
        world.release().unwrap();
        world.bad_release().unwrap();
        let kinds: Vec<&str> = world.took_us.keys().copied().collect();
        assert_eq!(kinds, ["bake watched", "boxes seen", "other", "team", "tick"]);
    }
}

//! Many pipelines in one runtime on SQLite, in this process. One is driven through everything by the real runtime, on a
//! virtual clock and with a virtual fleet that obeys at once; the others are copies of what the store then holds of it, under
//! names of their own: team, service, pipeline and leases. A copy has the state and the timer of its original and one fact
//! instead of its log.

use crate::decide;
use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Instant;
use tidegate_core::alarm::AlarmState;
use tidegate_core::change::{Commit as Change, SourceObservation};
use tidegate_core::decision::{Actor, Effect, Event, ForwardEffect, RollbackEffect, SlotOrder};
use tidegate_core::definition::{OrganisationDef, PipelineDef};
use tidegate_core::engine::{BoxHealth, BoxObservation, Fence, Observation};
use tidegate_core::ids::{CommitId, PackageDigest, PipelineId, ReleaseNo, SlotId, TeamId};
use tidegate_core::organisation::OrganisationEvent;
use tidegate_core::pipeline::{Grant, Pipeline, PipelineEvent, Work};
use tidegate_core::scope::Scope;
use tidegate_core::team::{Report, TeamEvent, metric_alarms};
use tidegate_core::units::{Span, Timestamp};
use tidegate_runtime::{Clock, Lane, Listener, Options, PendingEffect, Runtime};
use tidegate_store::{AggregateWrite, Commit, SqliteOptions, SqliteStore, Start, Store};

/// The name that team, service and pipeline of the original have in theirs.
const ORIGINAL: &str = "shop";
/// Copies in one transaction.
const GROUP: usize = 100;
/// Effects that are read at once.
const EFFECTS_MAX: usize = 256;
/// Virtual seconds that anything may take.
const SECONDS_MAX: usize = 10_000;
/// Effects that one event may lead to, one after the other.
const FOLLOW_UPS_MAX: usize = 10_000;

/// A clock that stands still until it is moved, or until it is let go.
#[derive(Debug)]
pub(crate) struct SceneClock {
    base_ms: AtomicI64,
    goes_since: Option<Instant>,
}

impl SceneClock {
    fn standing(at: Timestamp) -> SceneClock {
        SceneClock { base_ms: AtomicI64::new(at.0), goes_since: None }
    }

    /// Goes on from there.
    pub(crate) fn going(at: Timestamp) -> SceneClock {
        SceneClock { goes_since: Some(Instant::now()), ..SceneClock::standing(at) }
    }
}

impl Clock for SceneClock {
    fn now(&self) -> Timestamp {
        let gone = self.goes_since.map_or(0, |since| i64::try_from(since.elapsed().as_millis()).unwrap_or(0));
        Timestamp(self.base_ms.load(Ordering::SeqCst) + gone)
    }
}

/// A slot of a virtual fleet.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Slot {
    generation: u64,
    started: u32,
    boxes: Vec<BoxObservation>,
}

impl Slot {
    /// Does what it is told, if that is news.
    pub(crate) fn obey(&mut self, order: &SlotOrder, now: Timestamp) {
        if order.generation <= self.generation {
            return;
        }
        self.generation = order.generation;
        let mut before = std::mem::take(&mut self.boxes);
        for share in &order.desired.split {
            for _ in 0..share.boxes {
                let known = before.iter().position(|b| b.run_spec == share.run_spec);
                let next = known.map(|at| before.remove(at)).unwrap_or_else(|| {
                    self.started += 1;
                    BoxObservation {
                        id: format!("box-{:06}", self.started),
                        incarnation: 1,
                        run_spec: share.run_spec.clone(),
                        health: BoxHealth::Starting { since: now },
                        weight: 1,
                    }
                });
                self.boxes.push(next);
            }
        }
        self.boxes.sort_by(|a, b| a.id.cmp(&b.id));
    }

    /// What it shows; boxes are healthy so long after their start.
    pub(crate) fn observe(&mut self, slot: &SlotId, epoch: u64, now: Timestamp, start: Span) -> Observation {
        for starting in &mut self.boxes {
            if matches!(starting.health, BoxHealth::Starting { since } if since + start <= now) {
                starting.health = BoxHealth::Healthy { since: now };
            }
        }
        let fence = Fence { epoch, generation: self.generation };
        Observation { slot: slot.clone(), fence, boxes: self.boxes.clone(), trouble: None, glass: None }
    }
}

/// The event that tells of a package for whatever was ordered.
pub(crate) fn built(pending: &PendingEffect, release: ReleaseNo) -> Result<PipelineEvent> {
    let result = Ok(PackageDigest::new(format!("{:064x}", release.0))?);
    Ok(PipelineEvent::BuildEnded { effect: pending.id.clone(), result })
}

/// All metric alarms of the team are in this state there.
pub(crate) fn alarms(runtime: &Runtime, team: &TeamId, scope: Scope, state: AlarmState) -> Result<Event> {
    let report = Report { state, why: "it is measured".to_owned() };
    let known = runtime.team(team)?;
    let names = known.services.iter().flat_map(metric_alarms).map(|alarm| alarm.name);
    let alarms = names.map(|name| (name, report.clone())).collect();
    Ok(Event::Team(team.clone(), TeamEvent::Evaluated { scope, at: runtime.now(), alarms }))
}

/// What is copied.
pub(crate) struct Original {
    aggregates: Vec<AggregateWrite>,
    slots: BTreeMap<SlotId, Slot>,
    /// When it was so.
    pub(crate) at: Timestamp,
    /// Bytes of its pipeline's state.
    pub(crate) state_bytes: usize,
}

impl Original {
    /// Everything rests after a release has gone everywhere.
    pub(crate) fn at_rest(dir: &Path) -> Result<Original> {
        let mut driver = Driver::new(dir)?;
        driver.release()?;
        driver.until(|pipeline| {
            let last = pipeline.plan.steps().last().map(|(_, step)| &step.id);
            last.and_then(|id| pipeline.steps.get(id)).is_some_and(|s| s.done == Some(ReleaseNo(1)))
        })?;
        driver.copy()
    }

    /// A second release is being deployed in an AZ of each Region of the third wave.
    pub(crate) fn deploying(dir: &Path) -> Result<Original> {
        let mut driver = Driver::new(dir)?;
        for number in [1, 2] {
            driver.release()?;
            driver.until(|pipeline| match number {
                1 => pipeline.plan.steps().last().is_some_and(|(_, step)| {
                    pipeline.steps.get(&step.id).is_some_and(|s| s.done == Some(ReleaseNo(1)))
                }),
                _ => pipeline.plan.steps().any(|(_, step)| {
                    let work = pipeline.steps.get(&step.id).map(|s| &s.work);
                    step.id.as_str() == "wave-3/az-1" && work.is_some_and(|w| w.under_way().is_some())
                }),
            })?;
        }
        driver.obey_all()?;
        driver.copy()
    }

    /// Writes so many copies into a new store, after the organisation.
    pub(crate) fn fill(&self, dir: &Path, count: usize) -> Result<()> {
        let store = SqliteStore::open(dir, &SqliteOptions::default())?;
        let shared = self.aggregates.iter().filter(|a| a.id == "organisation").cloned().collect();
        self.write(&store, vec![shared])?;
        let own: Vec<&AggregateWrite> = self.aggregates.iter().filter(|a| a.id != "organisation").collect();
        for first in (0..count).step_by(GROUP) {
            let copies = first..(first + GROUP).min(count);
            let renamed = copies.map(|n| own.iter().map(|a| renamed(a, &name(n))).collect::<Result<_>>());
            self.write(&store, renamed.collect::<Result<_>>()?)?;
        }
        Ok(())
    }

    fn write(&self, store: &SqliteStore, all: Vec<Vec<AggregateWrite>>) -> Result<()> {
        let commit = |writes| {
            let cause = serde_json::to_vec(&Actor::Tidegate)?;
            Ok(Commit { at: self.at.0, lane: Lane::Forward, cause, writes, ..Commit::default() })
        };
        let commits: Vec<Commit> = all.into_iter().map(commit).collect::<Result<_>>()?;
        store.commit_many(&commits).into_iter().collect::<Result<Vec<()>, _>>().context("failed to copy")?;
        Ok(())
    }

    /// The fleets of so many copies.
    pub(crate) fn slots(&self, count: usize) -> Result<BTreeMap<SlotId, Slot>> {
        let mut all = BTreeMap::new();
        for n in 0..count {
            for (id, slot) in &self.slots {
                let id = serde_json::to_string(id)?.replace(ORIGINAL, &name(n));
                all.insert(serde_json::from_str(&id)?, slot.clone());
            }
        }
        Ok(all)
    }
}

fn name(number: usize) -> String {
    format!("s{number:05}")
}

/// The team of a copy.
pub(crate) fn team(number: usize) -> Result<TeamId> {
    Ok(name(number).parse()?)
}

/// The pipeline of a copy.
pub(crate) fn pipeline(number: usize) -> Result<PipelineId> {
    Ok(format!("{}-app", name(number)).parse()?)
}

fn renamed(original: &AggregateWrite, name: &str) -> Result<AggregateWrite> {
    let text = |bytes: &[u8]| -> Result<Vec<u8>> {
        Ok(std::str::from_utf8(bytes)?.replace(ORIGINAL, name).into_bytes())
    };
    Ok(AggregateWrite {
        id: original.id.replace(ORIGINAL, name),
        expected_version: 0,
        facts: original.facts.iter().map(|fact| text(fact)).collect::<Result<_>>()?,
        state: text(&original.state)?,
        due: original.due,
    })
}

/// Drives the original.
struct Driver {
    store: Arc<SqliteStore>,
    clock: Arc<SceneClock>,
    runtime: Runtime,
    slots: BTreeMap<SlotId, Slot>,
    commits: Vec<CommitId>,
    pipeline: PipelineId,
    team: TeamId,
}

impl Driver {
    fn new(dir: &Path) -> Result<Driver> {
        let organisation: OrganisationDef = serde_json::from_value(decide::organisation())?;
        let bake =
            json!({"one_box": "1s", "az": "1s", "first_wave": "1s", "second_wave": "1s", "last_wave": "1s"});
        let definition: PipelineDef = serde_json::from_value(decide::pipeline(&bake))?;
        let store = Arc::new(SqliteStore::open(dir, &SqliteOptions::default())?);
        let clock = Arc::new(SceneClock::standing(Timestamp(1_750_000_000_000)));
        let runtime = Runtime::open(Arc::clone(&store) as _, Arc::clone(&clock) as _, Options::default(), 0)?;
        let team = TeamEvent::Applied {
            definition: Box::new(organisation.teams.first().context("there is no team")?.clone()),
            services: organisation.services.clone(),
            emails: organisation.users.iter().map(|u| (u.name.clone(), u.emails.clone())).collect(),
            accounts: organisation.accounts(),
        };
        let driver = Driver {
            store,
            clock,
            runtime,
            slots: BTreeMap::new(),
            commits: Vec::new(),
            pipeline: definition.name.clone(),
            team: ORIGINAL.parse()?,
        };
        let definition_of = Box::new(organisation);
        driver.submit(&Event::Organisation(OrganisationEvent::Applied { definition: definition_of }))?;
        driver.submit(&Event::Team(driver.team.clone(), team))?;
        driver.tell(PipelineEvent::Applied { definition: Box::new(definition) })?;
        let scopes: BTreeSet<Scope> = driver.look()?.plan.targets().map(|t| Scope::of(&t.id)).collect();
        for scope in scopes {
            driver.submit(&alarms(&driver.runtime, &driver.team, scope, AlarmState::Ok)?)?;
        }
        Ok(driver)
    }

    fn submit(&self, event: &Event) -> Result<()> {
        self.runtime.submit(event, &Actor::Tidegate)?;
        Ok(())
    }

    fn tell(&self, event: PipelineEvent) -> Result<()> {
        self.submit(&Event::Pipeline(self.pipeline.clone(), event))
    }

    fn look(&self) -> Result<Arc<Pipeline>> {
        self.runtime.pipeline(&self.pipeline)?.context("there is no pipeline")
    }

    /// A reviewed commit is on the mainline.
    fn release(&mut self) -> Result<()> {
        let id = CommitId::new(format!("{:040x}", 0xc0ff_ee00_usize + self.commits.len()))?;
        let commit = Change {
            id: id.clone(),
            parents: self.commits.last().cloned().into_iter().collect(),
            author_name: "Alice".to_owned(),
            author_email: "alice@example.test".to_owned(),
            committed_at: self.runtime.now(),
            subject: "a change".to_owned(),
            reverts: Vec::new(),
            fixes: Vec::new(),
        };
        self.commits.push(id.clone());
        let approved = TeamEvent::Approved { commit: id.clone(), by: "bob".parse()? };
        self.submit(&Event::Team(self.team.clone(), approved))?;
        let observation = SourceObservation { head: id, commits: vec![commit], rewritten: false };
        self.tell(PipelineEvent::SourceObserved { source: "code".parse()?, observation })
    }

    /// Goes on until it is so.
    fn until(&mut self, so: impl Fn(&Pipeline) -> bool) -> Result<()> {
        for _ in 0..SECONDS_MAX {
            if self.work(&so)? {
                return Ok(());
            }
            self.second()?;
        }
        bail!("it does not come to it: {:?}", self.look()?.steps)
    }

    /// Does what is ordered; whether it is so already.
    fn work(&mut self, so: &impl Fn(&Pipeline) -> bool) -> Result<bool> {
        for _ in 0..FOLLOW_UPS_MAX {
            self.runtime.tick_due(EFFECTS_MAX)?;
            if so(&*self.look()?) {
                return Ok(true);
            }
            let mut pending = Vec::new();
            for lane in [Lane::Rollback, Lane::Forward, Lane::Page] {
                pending.extend(self.runtime.effects(lane, 1)?);
            }
            let Some(next) = pending.into_iter().next() else { return Ok(false) };
            self.perform(&next)?;
        }
        bail!("there is always something left to do")
    }

    fn perform(&mut self, next: &PendingEffect) -> Result<()> {
        match &next.effect {
            Effect::Forward(ForwardEffect::Build(order)) => {
                let event = Event::Pipeline(self.pipeline.clone(), built(next, order.release)?);
                self.runtime.submit_result(&next.id, &event)?;
            }
            Effect::Forward(ForwardEffect::Test(_)) => {
                let event = PipelineEvent::TestsEnded { effect: next.id.clone(), result: Ok(()) };
                self.runtime.submit_result(&next.id, &Event::Pipeline(self.pipeline.clone(), event))?;
            }
            Effect::Forward(ForwardEffect::Page(_)) => self.runtime.effect_done(&next.id)?,
            Effect::Forward(ForwardEffect::Deploy(order))
            | Effect::Rollback(RollbackEffect::Return(order)) => {
                let slot = self.slots.entry(order.slot.clone()).or_default();
                slot.obey(order, self.runtime.now());
                let seen = slot.observe(&order.slot, self.runtime.epoch(), self.runtime.now(), Span::ZERO);
                self.runtime.effect_done(&next.id)?;
                self.tell(PipelineEvent::SlotsObserved { observations: vec![seen] })?;
            }
        }
        Ok(())
    }

    /// Deployments that are ordered begin, and go no further.
    fn obey_all(&mut self) -> Result<()> {
        let pending = self.runtime.effects(Lane::Forward, EFFECTS_MAX)?;
        ensure!(!pending.is_empty(), "nothing is being deployed");
        for next in pending {
            if let Effect::Forward(ForwardEffect::Deploy(order)) = &next.effect {
                let now = self.runtime.now();
                self.slots.entry(order.slot.clone()).or_default().obey(order, now);
            }
        }
        Ok(())
    }

    /// A second passes that monitoring watches.
    fn second(&mut self) -> Result<()> {
        let from = self.runtime.now();
        self.clock.base_ms.fetch_add(1_000, Ordering::SeqCst);
        let pipeline = self.look()?;
        let baking = pipeline.plan.steps().filter(|(_, step)| {
            pipeline.steps.get(&step.id).is_some_and(|s| matches!(s.work, Work::Baking { .. }))
        });
        let scopes: BTreeSet<Scope> =
            baking.flat_map(|(_, step)| step.targets.iter().map(|t| Scope::of(&t.id))).collect();
        let until = self.runtime.now();
        let grant = |scope| Grant { scope, from, until, blind: BTreeSet::new(), requests: BTreeMap::new() };
        let grants: Vec<Grant> = scopes.into_iter().map(grant).collect();
        if grants.is_empty() { Ok(()) } else { self.tell(PipelineEvent::Watched { grants }) }
    }

    fn copy(self) -> Result<Original> {
        let mut aggregates = Vec::new();
        let mut state_bytes = 0;
        for id in self.store.list("", "", tidegate_store::PAGE_MAX)? {
            let loaded = self.store.load(&id)?.context("an aggregate vanished")?;
            let first = self.store.facts(Some(&id), Start::After(0), 1)?;
            if id.starts_with("pipeline/") {
                state_bytes = loaded.state.len();
            }
            aggregates.push(AggregateWrite {
                facts: first.into_iter().map(|record| record.fact).collect(),
                state: loaded.state,
                due: loaded.due,
                expected_version: 0,
                id,
            });
        }
        Ok(Original { aggregates, slots: self.slots, at: self.runtime.now(), state_bytes })
    }
}

/// Opens a runtime on copies, as a server does.
pub(crate) fn open(dir: &Path, at: Timestamp, listener: Option<Arc<dyn Listener>>) -> Result<Runtime> {
    let store = Arc::new(SqliteStore::open(dir, &SqliteOptions::default())?);
    let options = Options { listener, ..Options::default() };
    Ok(Runtime::open(store, Arc::new(SceneClock::going(at)), options, 0)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidegate_core::pipeline::Motion;

    #[test]
    fn copies_deploy_and_an_alarm_takes_back_the_one_that_it_is_about() {
        let dir = tempfile::tempdir().unwrap();
        let original = Original::deploying(&dir.path().join("original")).unwrap();
        let copies = dir.path().join("copies");
        original.fill(&copies, 3).unwrap();
        let runtime = open(&copies, original.at, None).unwrap();
        let names: Vec<PipelineId> = (0..3).map(|n| pipeline(n).unwrap()).collect();
        assert_eq!(runtime.pipelines().unwrap(), names);
        let slots = original.slots(3).unwrap();
        let mut scope = None;
        for id in &names {
            let known = runtime.pipeline(id).unwrap().unwrap();
            let moving = known.slots.iter().filter(|(_, s)| matches!(s.motion, Motion::Forward { .. }));
            let moving: Vec<_> = moving.map(|(target, _)| target.clone()).collect();
            assert_eq!(moving.len(), 3, "one AZ of each Region of the wave");
            assert!(moving.iter().all(|target| {
                slots.contains_key(&SlotId { pipeline: id.clone(), target: target.clone() })
            }));
            scope = moving.first().map(Scope::of);
        }
        let event = alarms(&runtime, &team(1).unwrap(), scope.unwrap(), AlarmState::Alarm).unwrap();
        runtime.submit(&event, &Actor::Tidegate).unwrap();
        runtime.tick_due(EFFECTS_MAX).unwrap();
        let back = runtime.effects(Lane::Rollback, EFFECTS_MAX).unwrap();
        assert!(!back.is_empty());
        let own = names[1].to_string();
        assert!(
            back.iter().all(|effect| effect.aggregate.to_string() == format!("pipeline/{own}")),
            "{back:?}"
        );
    }
}

//! A small organisation on a store of either kind, with a clock that is set by hand.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use tempfile::TempDir;
use tidegate_core::aggregate::State;
use tidegate_core::change::{Commit, SourceObservation};
use tidegate_core::decision::{Actor, AggregateId, Effect, Event, ForwardEffect, RollbackEffect, SlotOrder};
use tidegate_core::definition::{OrganisationDef, PipelineDef};
use tidegate_core::engine::{BoxHealth, BoxObservation, Fence, Observation};
use tidegate_core::ids::{CommitId, PackageDigest, PipelineId, ReleaseNo, TargetId};
use tidegate_core::organisation::OrganisationEvent;
use tidegate_core::pipeline::PipelineEvent;
use tidegate_core::team::TeamEvent;
use tidegate_core::units::{Span, Timestamp};
use tidegate_runtime::{Clock, Lane, Listener, Options, Outcome, PendingEffect, Runtime, SubmitError};
use tidegate_store::{MemoryStore, SqliteOptions, SqliteStore, Store};

pub(crate) const START: Timestamp = Timestamp(1_767_600_000_000);

const ORGANISATION: &str = r#"{
    "schema": "tidegate.organisation/1", "name": "test",
    "users": [{"name": "ada", "emails": ["ada@shop.example"]}, {"name": "ben", "emails": ["ben@shop.example"]}],
    "teams": [{"name": "shop", "members": ["ada", "ben"], "late_approval": "allow",
               "pages": [{"webhook": "http://127.0.0.1:9/page"}]}],
    "services": [{"name": "frontend", "team": "shop"}],
    "regions": [{"name": "eu-1", "azs": ["a", "b"], "traffic": 1}, {"name": "us-1", "azs": ["a", "b"], "traffic": 2}]
}"#;

const PIPELINE: &str = r#"{
    "schema": "tidegate.pipeline/1", "name": "PIPELINE", "service": "frontend",
    "sources": [{"name": "app", "url": "https://git.example/app"}],
    "build": {"package": [{"from": "bin", "to": "bin"}]},
    "run": {"engine": {"process": {"command": ["bin/app"], "health": {"path": "/"}}}},
    "stages": [{"environment": "gamma", "regions": ["eu-1"]}, {"environment": "production", "one_box": true}],
    "rolling": {"healthy_for": "0s"}
}"#;

/// A clock that stands until it is set, or leaps.
#[derive(Debug, Default)]
pub(crate) struct HandClock {
    now_ms: AtomicI64,
    /// After so many looks it leaps by so much.
    leap: Mutex<Option<(u32, Span)>>,
}

impl HandClock {
    pub(crate) fn set(&self, now: Timestamp) {
        self.now_ms.store(now.0, Ordering::SeqCst);
    }

    /// It is looked at so many times as it is, and then it is so much later.
    pub(crate) fn leap_after(&self, looks: u32, span: Span) {
        *self.leap.lock().unwrap() = Some((looks, span));
    }

    /// Whether it has leapt.
    pub(crate) fn has_leapt(&self) -> bool {
        self.leap.lock().unwrap().is_none()
    }

    pub(crate) fn pass(&self, span: Span) {
        self.set(self.now() + span);
    }
}

impl Clock for HandClock {
    fn now(&self) -> Timestamp {
        let mut leap = self.leap.lock().unwrap();
        match *leap {
            Some((0, span)) => {
                *leap = None;
                self.now_ms.fetch_add(i64::try_from(span.millis()).unwrap(), Ordering::SeqCst);
            }
            Some((looks, span)) => *leap = Some((looks - 1, span)),
            None => {}
        }
        Timestamp(self.now_ms.load(Ordering::SeqCst))
    }
}

type Heard = (Vec<AggregateId>, Vec<Lane>);

/// Remembers what it was told.
#[derive(Debug, Default)]
pub(crate) struct Ear(pub(crate) Mutex<Vec<Heard>>);

impl Listener for Ear {
    fn committed(&self, aggregates: &[AggregateId], lanes: &[Lane]) {
        self.0.lock().unwrap().push((aggregates.to_vec(), lanes.to_vec()));
    }
}

pub(crate) struct World {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) memory: Option<Arc<MemoryStore>>,
    pub(crate) clock: Arc<HandClock>,
    pub(crate) ear: Arc<Ear>,
    pub(crate) runtime: Runtime,
    _dir: Option<TempDir>,
}

/// Runs the test on both stores.
pub(crate) fn on_both(test: impl Fn(World)) {
    test(World::memory());
    let dir = TempDir::new().unwrap();
    let store = Arc::new(SqliteStore::open(dir.path(), &SqliteOptions::default()).unwrap());
    test(World::on(store, None, Some(dir)));
}

fn pipeline() -> PipelineId {
    id("frontend")
}

pub(crate) fn id(name: &str) -> PipelineId {
    name.parse().unwrap()
}

pub(crate) fn event(event: PipelineEvent) -> Event {
    Event::Pipeline(pipeline(), event)
}

pub(crate) fn tidegate() -> Actor {
    Actor::Tidegate
}

fn open(store: &Arc<dyn Store>, clock: &Arc<HandClock>, ear: &Arc<Ear>) -> Runtime {
    let options = Options { cache: 3, listener: Some(ear.clone()), ..Options::default() };
    Runtime::open(store.clone(), clock.clone(), options, 0).unwrap()
}

/// The definition of the small organisation's pipeline is applied, edited.
pub(crate) fn applied(name: &str, edit: impl FnOnce(&mut PipelineDef)) -> Event {
    let mut definition: PipelineDef = serde_json::from_str(&PIPELINE.replace("PIPELINE", name)).unwrap();
    edit(&mut definition);
    Event::Pipeline(id(name), PipelineEvent::Applied { definition: Box::new(definition) })
}

impl World {
    pub(crate) fn memory() -> World {
        let memory = Arc::new(MemoryStore::new());
        World::on(memory.clone(), Some(memory), None)
    }

    pub(crate) fn on(store: Arc<dyn Store>, memory: Option<Arc<MemoryStore>>, dir: Option<TempDir>) -> World {
        let clock = Arc::new(HandClock::default());
        clock.set(START);
        let ear = Arc::new(Ear::default());
        let runtime = open(&store, &clock, &ear);
        let world = World { store, memory, clock, ear, runtime, _dir: dir };
        world.apply_organisation();
        world.apply("frontend").unwrap();
        world
    }

    /// The process dies and another one starts on what is durable.
    pub(crate) fn restart(&mut self) {
        self.runtime = open(&self.store, &self.clock, &self.ear);
    }

    pub(crate) fn submit(&self, event: &Event) -> Result<Outcome, SubmitError> {
        self.runtime.submit(event, &tidegate())
    }

    fn apply_organisation(&self) {
        let definition: OrganisationDef = serde_json::from_str(ORGANISATION).unwrap();
        let team = TeamEvent::Applied {
            definition: Box::new(definition.teams[0].clone()),
            services: definition.services.clone(),
            emails: definition.users.iter().map(|u| (u.name.clone(), u.emails.clone())).collect(),
            accounts: definition.accounts(),
        };
        let applied = OrganisationEvent::Applied { definition: Box::new(definition) };
        self.submit(&Event::Organisation(applied)).unwrap();
        self.submit(&Event::Team("shop".parse().unwrap(), team)).unwrap();
    }

    pub(crate) fn apply(&self, name: &str) -> Result<Outcome, SubmitError> {
        self.submit(&applied(name, |_| ()))
    }

    /// A reviewed commit arrives; it is built when this returns. The release's number is that of the commit.
    pub(crate) fn commit(&self, number: u64) -> Outcome {
        let commit: CommitId = format!("{number:040x}").parse().unwrap();
        let approved = TeamEvent::Approved { commit: commit.clone(), by: "ben".parse().unwrap() };
        self.submit(&Event::Team("shop".parse().unwrap(), approved)).unwrap();
        let parents =
            if number > 1 { vec![format!("{:040x}", number - 1).parse().unwrap()] } else { Vec::new() };
        let commits = vec![Commit {
            id: commit.clone(),
            parents,
            author_name: "ada".into(),
            author_email: "ada@shop.example".into(),
            committed_at: START,
            subject: format!("change {number}"),
            reverts: Vec::new(),
            fixes: Vec::new(),
        }];
        let observation = SourceObservation { head: commit, commits, rewritten: false };
        self.submit(&event(PipelineEvent::SourceObserved { source: "app".parse().unwrap(), observation }))
            .unwrap()
    }

    /// The only effect of the forward lane of this kind.
    pub(crate) fn building(&self) -> PendingEffect {
        let pending = self.runtime.effects(Lane::Forward, 100).unwrap();
        let build = |e: &&PendingEffect| matches!(e.effect, Effect::Forward(ForwardEffect::Build(_)));
        pending.iter().find(build).expect("a build is ordered").clone()
    }

    pub(crate) fn built(&self) -> Event {
        let package = PackageDigest::new("ab".repeat(32)).unwrap();
        event(PipelineEvent::BuildEnded { effect: self.building().id, result: Ok(package) })
    }

    /// Builds the newest commit; its first step is entered.
    pub(crate) fn build(&self) -> Outcome {
        self.runtime.submit_result(&self.building().id, &self.built()).unwrap()
    }

    pub(crate) fn orders(&self, lane: Lane) -> Vec<(PendingEffect, SlotOrder)> {
        let slot = |pending: PendingEffect| match pending.effect.clone() {
            Effect::Forward(ForwardEffect::Deploy(order))
            | Effect::Rollback(RollbackEffect::Return(order)) => Some((pending, order)),
            Effect::Forward(_) => None,
        };
        self.runtime.effects(lane, 100).unwrap().into_iter().filter_map(slot).collect()
    }

    /// What the engine says: so many boxes of the release in the target, all healthy.
    pub(crate) fn seen(&self, target: &str, release: u64, boxes: usize) -> Event {
        let target: TargetId = target.parse().unwrap();
        let state = self.runtime.pipeline(&pipeline()).unwrap().unwrap();
        let run_spec = state.run_spec(ReleaseNo(release), &target.environment).unwrap().clone();
        let generation = state.slots[&target].generation;
        let one = |n: usize| BoxObservation {
            id: format!("box-{n}"),
            incarnation: 1,
            run_spec: run_spec.clone(),
            health: BoxHealth::Healthy { since: START },
            weight: 1,
        };
        let observation = Observation {
            slot: tidegate_core::ids::SlotId { target, pipeline: pipeline() },
            fence: Fence { epoch: self.runtime.epoch(), generation },
            boxes: (0..boxes).map(one).collect(),
            trouble: None,
            glass: None,
        };
        event(PipelineEvent::SlotsObserved { observations: vec![observation] })
    }

    /// The stored state, read past the runtime's memory.
    pub(crate) fn stored(&self, name: &str) -> State {
        #[derive(serde::Deserialize)]
        struct Stored {
            #[serde(rename = "at")]
            _at: Timestamp,
            state: State,
        }
        let loaded = self.store.load(name).unwrap().unwrap();
        serde_json::from_slice::<Stored>(&loaded.state).unwrap().state
    }
}

//! Several at once: whoever was slower decides again on what the faster one has left.

use crate::world::{World, event, id, on_both, tidegate};
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};
use tidegate_core::decision::Event;
use tidegate_core::lease::Lease;
use tidegate_core::pipeline::{Motion, PipelineEvent};
use tidegate_core::team::TeamEvent;
use tidegate_runtime::{Lane, Options, Runtime};
use tidegate_store::{
    Commit, CommitError, Due, EffectRecord, FactRecord, Loaded, MemoryStore, Reserve, Start, Store,
    StoreError, Waiting,
};

fn hold(reason: String) -> PipelineEvent {
    PipelineEvent::HoldPlaced { by: tidegate(), reason, until: None, stage: None }
}

#[test]
fn a_decision_on_an_old_state_is_made_again() {
    on_both(|w| {
        // A second runtime on the same store has its own memory, which grows old.
        let other = Runtime::open(w.store.clone(), w.clock.clone(), Options::default(), 0).unwrap();
        assert!(other.pipeline(&id("frontend")).unwrap().unwrap().holds.is_empty());
        for n in 0..5 {
            let here = event(hold(format!("here {n}")));
            let there = event(hold(format!("there {n}")));
            w.submit(&here).unwrap();
            other.submit(&there, &tidegate()).unwrap();
        }
        let holds = other.pipeline(&id("frontend")).unwrap().unwrap().holds.clone();
        assert_eq!(holds.keys().copied().collect::<Vec<_>>(), (1..=10).collect::<Vec<_>>());
        other.verify_log(None).unwrap();
    });
}

#[test]
fn a_lease_that_came_into_being_meanwhile_is_noticed() {
    on_both(|w| {
        w.apply("config").unwrap();
        w.commit(1);
        let other = Runtime::open(w.store.clone(), w.clock.clone(), Options::default(), 0).unwrap();
        // The other one has seen that there is no lease; then one is taken.
        other.submit(&Event::Pipeline(id("config"), PipelineEvent::Tick), &tidegate()).unwrap();
        let lease = tidegate_core::lease::LeaseId::new(
            &"frontend".parse().unwrap(),
            tidegate_core::scope::Scope::try_from("gamma/eu-1".to_owned()).unwrap(),
        );
        assert_eq!(*other.lease(&lease).unwrap(), Lease::Free);
        w.build();
        let commit: tidegate_core::ids::CommitId = "e".repeat(40).parse().unwrap();
        let observation = tidegate_core::change::SourceObservation {
            head: commit.clone(),
            commits: vec![tidegate_core::change::Commit {
                id: commit.clone(),
                parents: Vec::new(),
                author_name: "ada".into(),
                author_email: "ada@shop.example".into(),
                committed_at: w.runtime.now(),
                subject: "config".into(),
                reverts: Vec::new(),
                fixes: Vec::new(),
            }],
            rewritten: false,
        };
        let approved = TeamEvent::Approved { commit, by: "ben".parse().unwrap() };
        other.submit(&Event::Team("shop".parse().unwrap(), approved), &tidegate()).unwrap();
        let source = "app".parse().unwrap();
        let seen = PipelineEvent::SourceObserved { source, observation };
        let ordered = other.submit(&Event::Pipeline(id("config"), seen), &tidegate()).unwrap();
        let effect = ordered.effects[0].clone();
        let package = Ok(tidegate_core::ids::PackageDigest::new("ef".repeat(32)).unwrap());
        let built = PipelineEvent::BuildEnded { effect: effect.id.clone(), result: package };
        other.submit_result(&effect.id, &Event::Pipeline(id("config"), built)).unwrap();
        let config = other.pipeline(&id("config")).unwrap().unwrap();
        assert!(config.slots.values().all(|s| s.motion == Motion::Settled), "the lease is held");
        assert!(config.steps.values().any(|s| !s.waiting.is_empty()), "and that is why it waits");
        assert!(
            matches!(&*other.lease(&lease).unwrap(), Lease::Deploying { pipeline, .. } if *pipeline == id("frontend"))
        );
    });
}

#[test]
fn threads_lose_nothing() {
    const THREADS: usize = 4;
    const EACH: usize = 10;
    on_both(|w: World| {
        for name in ["p0", "p1", "p2", "p3"] {
            w.apply(name).unwrap();
        }
        let w = Arc::new(w);
        std::thread::scope(|scope| {
            for thread in 0..THREADS {
                let w = w.clone();
                scope.spawn(move || {
                    for n in 0..EACH {
                        // Its own pipeline, one that all share, and the team that all of them rely on.
                        let own = Event::Pipeline(id(&format!("p{thread}")), hold(format!("{n}")));
                        w.submit(&own).unwrap();
                        w.submit(&event(hold(format!("{thread}/{n}")))).unwrap();
                        let commit = format!("{:040x}", thread * 100 + n).parse().unwrap();
                        let by = "ada".parse().unwrap();
                        let approved = TeamEvent::Approved { commit, by };
                        w.submit(&Event::Team("shop".parse().unwrap(), approved)).unwrap();
                    }
                });
            }
        });
        let shared = w.runtime.pipeline(&id("frontend")).unwrap().unwrap();
        assert_eq!(shared.holds.len(), THREADS * EACH);
        assert_eq!(w.runtime.team(&"shop".parse().unwrap()).unwrap().approvals.len(), THREADS * EACH);
        w.runtime.verify_log(None).unwrap();
    });
}

/// A store whose commits are visible for a while before they return, when the gate is set: each commit that orders an effect
/// tells that it was made and then waits.
#[derive(Default)]
struct SlowToReturn {
    inner: MemoryStore,
    gate: Mutex<Option<(Sender<()>, Receiver<()>)>>,
}

impl Store for SlowToReturn {
    fn commit_many(&self, commits: &[Commit]) -> Vec<Result<(), CommitError>> {
        let made = self.inner.commit_many(commits);
        if commits.iter().any(|c| !c.new_effects.is_empty())
            && let Some((made, go_on)) = self.gate.lock().unwrap().take()
        {
            made.send(()).unwrap();
            go_on.recv().unwrap();
        }
        made
    }
    fn load(&self, id: &str) -> Result<Option<Loaded>, StoreError> {
        self.inner.load(id)
    }
    fn list(&self, prefix: &str, after: &str, limit: usize) -> Result<Vec<String>, StoreError> {
        self.inner.list(prefix, after, limit)
    }
    fn due(&self, now: i64, limit: usize) -> Result<Vec<Due>, StoreError> {
        self.inner.due(now, limit)
    }
    fn next_due(&self) -> Result<Option<i64>, StoreError> {
        self.inner.next_due()
    }
    fn effects(&self, lane: Lane, now: i64, limit: usize) -> Result<Vec<EffectRecord>, StoreError> {
        self.inner.effects(lane, now, limit)
    }
    fn next_effect_at(&self, lane: Lane) -> Result<Option<i64>, StoreError> {
        self.inner.next_effect_at(lane)
    }
    fn effect(&self, id: &str) -> Result<Option<EffectRecord>, StoreError> {
        self.inner.effect(id)
    }
    fn waiting(&self) -> Result<Vec<Waiting>, StoreError> {
        self.inner.waiting()
    }
    fn facts(&self, of: Option<&str>, start: Start, limit: usize) -> Result<Vec<FactRecord>, StoreError> {
        self.inner.facts(of, start, limit)
    }
    fn document(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.inner.document(key)
    }
    fn meta(&self, key: &str) -> Result<Option<String>, StoreError> {
        self.inner.meta(key)
    }
    fn set_meta(&self, key: &str, value: &str) -> Result<(), CommitError> {
        self.inner.set_meta(key, value)
    }
    fn acquire_epoch(&self, above: u64) -> Result<u64, CommitError> {
        self.inner.acquire_epoch(above)
    }
    fn tend(&self) -> Result<Reserve, StoreError> {
        self.inner.tend()
    }
}

#[test]
fn whoever_performs_an_effect_sees_the_state_that_ordered_it() {
    let store = Arc::new(SlowToReturn::default());
    let w = World::on(store.clone(), None, None);
    let (made, was_made) = channel();
    let (let_go, go_on) = channel();
    *store.gate.lock().unwrap() = Some((made, go_on));
    std::thread::scope(|scope| {
        scope.spawn(|| w.commit(1));
        was_made.recv().unwrap();
        let (tell, told) = channel();
        let runtime = &w.runtime;
        scope.spawn(move || {
            let ordered = runtime.effects(Lane::Forward, 8).unwrap();
            let releases = runtime.pipeline(&id("frontend")).unwrap().unwrap().releases.len();
            tell.send((ordered.len(), releases)).unwrap();
        });
        // Either it does not return before the commit has, or it knows the release already.
        let early = told.recv_timeout(std::time::Duration::from_millis(300));
        let_go.send(()).unwrap();
        assert_eq!(early.or_else(|_| told.recv()).unwrap(), (1, 1));
    });
}

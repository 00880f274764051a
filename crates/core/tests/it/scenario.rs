//! A small world around the core: one team with two services and two Regions, virtual time, and verbs. After every decision:
//! folding its facts gives its state (rule 10), and the rules hold as far as states show them (`tidegate_core::invariants`).

use crate::fleet::Fleet;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use tidegate_core::aggregate::{State, decide};
use tidegate_core::alarm::{AlarmName, AlarmState};
use tidegate_core::change::{Commit, SourceObservation};
use tidegate_core::decision::{
    Actor, AggregateId, Effect, EffectId, Event, Fact, ForwardEffect, Illegal, NewEffect, Page,
    RollbackEffect,
};
use tidegate_core::definition::{OrganisationDef, PipelineDef};
use tidegate_core::engine::Observation;
use tidegate_core::ids::{CommitId, PackageDigest, PipelineId, ReleaseNo, SlotId, TeamId, UserId};
use tidegate_core::invariants;
use tidegate_core::organisation::OrganisationEvent;
use tidegate_core::pipeline::{Grant, Motion, PipelineEvent, Snapshots};
use tidegate_core::scope::Scope;
use tidegate_core::team::{Report, TeamEvent, metric_alarms};
use tidegate_core::units::{Span, Timestamp};

/// Follow-ups of one verb: more mean that the world runs in a circle.
const FOLLOW_UPS_MAX: usize = 2_000;

pub(crate) const R1: ReleaseNo = ReleaseNo(1);
pub(crate) const R2: ReleaseNo = ReleaseNo(2);
pub(crate) const R3: ReleaseNo = ReleaseNo(3);
pub(crate) const R4: ReleaseNo = ReleaseNo(4);

pub(crate) struct Scenario {
    pub(crate) now: Timestamp,
    pub(crate) states: BTreeMap<AggregateId, State>,
    pub(crate) fleet: Fleet,
    /// Every fact so far.
    pub(crate) log: Vec<(AggregateId, Fact)>,
    pub(crate) pages: Vec<Page>,
    /// When a pipeline wants to be told the time.
    pub(crate) due: BTreeMap<PipelineId, Timestamp>,
    /// Orders to targets whose names contain one of these are not obeyed.
    stopped: BTreeSet<String>,
    builds_stopped: bool,
    tests_stopped: bool,
    /// Orders and builds that nobody has done yet.
    pub(crate) undone: VecDeque<NewEffect>,
    /// Effects that need not be done any more.
    pub(crate) cancelled: BTreeSet<EffectId>,
    commits: u64,
    heads: BTreeMap<PipelineId, CommitId>,
}

pub(crate) fn scope(text: &str) -> Scope {
    Scope::try_from(text.to_owned()).unwrap()
}

pub(crate) fn user(name: &str) -> Actor {
    Actor::User(UserId::new(name).unwrap())
}

pub(crate) fn organisation_json() -> Value {
    json!({
        "schema": "tidegate.organisation/1", "name": "test",
        "users": [{"name": "alice", "emails": ["alice@example.org"]}, {"name": "bob", "emails": ["bob@example.org"]}],
        "teams": [{"name": "shop", "members": ["alice", "bob"], "pages": [{"webhook": "http://pager.invalid/"}]}],
        "services": [{"name": "frontend", "team": "shop"}, {"name": "backend", "team": "shop"}],
        "regions": [
            {"name": "north", "azs": ["a", "b"], "traffic": 1},
            {"name": "east", "azs": ["a", "b", "c"], "traffic": 9}
        ]
    })
}

/// Gamma in one Region, with a one-box, then production in two waves: north, east.
pub(crate) fn pipeline_json(name: &str, service: &str) -> Value {
    json!({
        "schema": "tidegate.pipeline/1", "name": name, "service": service,
        "sources": [{"name": "app", "url": "https://git.invalid/app"}],
        "build": {"package": [{"from": "bin", "to": "bin"}]},
        "run": {"engine": {"process": {"command": ["bin/app"], "health": {"path": "/health"}}}},
        "stages": [
            {"environment": "gamma", "regions": ["north"], "one_box": true},
            {"environment": "production", "one_box": true}
        ],
        "rolling": {"healthy_for": "0s"}
    })
}

impl Scenario {
    /// The organisation, its alarms all quiet, and no pipeline.
    pub(crate) fn empty() -> Scenario {
        Scenario::with_organisation(&organisation_json())
    }

    pub(crate) fn with_organisation(organisation: &Value) -> Scenario {
        let mut s = Scenario {
            now: Timestamp(1_750_000_000_000),
            states: BTreeMap::new(),
            fleet: Fleet::default(),
            log: Vec::new(),
            pages: Vec::new(),
            due: BTreeMap::new(),
            stopped: BTreeSet::new(),
            builds_stopped: false,
            tests_stopped: false,
            undone: VecDeque::new(),
            cancelled: BTreeSet::new(),
            commits: 0,
            heads: BTreeMap::new(),
        };
        s.apply_organisation(organisation);
        s.quiet_everywhere();
        s
    }

    /// With one pipeline, `frontend`.
    pub(crate) fn new() -> Scenario {
        let mut s = Scenario::empty();
        s.apply(&pipeline_json("frontend", "frontend"));
        s
    }

    /// With a release that has passed every step.
    pub(crate) fn running() -> Scenario {
        let mut s = Scenario::new();
        s.release("frontend");
        s.finish("frontend", R1);
        s
    }

    pub(crate) fn apply_organisation(&mut self, organisation: &Value) {
        let definition: OrganisationDef = serde_json::from_value(organisation.clone()).unwrap();
        assert_eq!(tidegate_core::lint::organisation(&definition), []);
        self.apply_organisation_of_before(definition);
    }

    /// One that was applied before it was checked for what it is checked for now.
    pub(crate) fn apply_organisation_of_before(&mut self, definition: OrganisationDef) {
        let team = TeamEvent::Applied {
            definition: Box::new(definition.teams[0].clone()),
            services: definition.services.clone(),
            emails: definition.users.iter().map(|u| (u.name.clone(), u.emails.clone())).collect(),
            accounts: definition.accounts(),
        };
        let definition = Box::new(definition);
        self.send(Event::Organisation(OrganisationEvent::Applied { definition })).unwrap();
        self.team_event(team);
    }

    pub(crate) fn apply(&mut self, pipeline: &Value) {
        let definition: PipelineDef = serde_json::from_value(pipeline.clone()).unwrap();
        let organisation = self.organisation().definition.unwrap();
        assert_eq!(tidegate_core::lint::pipeline(&definition, &organisation), []);
        let id = definition.name.clone();
        let definition = Box::new(definition);
        self.send(Event::Pipeline(id, PipelineEvent::Applied { definition })).unwrap();
        self.work();
    }

    // --- what happens -------------------------------------------------------------------------------------------------

    /// Tells one aggregate, and everybody whom that wakes.
    pub(crate) fn send(&mut self, event: Event) -> Result<(), Illegal> {
        self.decide(&event)?;
        Ok(())
    }

    pub(crate) fn pipeline_event(&mut self, pipeline: &str, event: PipelineEvent) -> Result<(), Illegal> {
        self.send(Event::Pipeline(PipelineId::new(pipeline).unwrap(), event))
    }

    pub(crate) fn team_event(&mut self, event: TeamEvent) {
        self.send(Event::Team(TeamId::new("shop").unwrap(), event)).unwrap();
    }

    fn decide(&mut self, event: &Event) -> Result<(), Illegal> {
        let mut queue = VecDeque::from([event.clone()]);
        let mut first = true;
        for _ in 0..FOLLOW_UPS_MAX {
            let Some(event) = queue.pop_front() else { return Ok(()) };
            let id = event.aggregate();
            let old = self.state(&id);
            let snapshots = self.snapshots();
            let (state, decision) = match decide(old.clone(), &event, self.now, &snapshots) {
                Ok(decided) => decided,
                Err(illegal) if first => return Err(illegal),
                Err(illegal) => panic!("a wake of {id} is illegal: {illegal}"),
            };
            first = false;
            let again = decide(old, &event, self.now, &snapshots).unwrap();
            assert_eq!(
                again,
                (state.clone(), decision.clone()),
                "the same event, time and states decide the same"
            );
            for (aggregate, fact) in &decision.facts {
                let mut folded = self.state(aggregate);
                if let (AggregateId::Pipeline(id), State::Pipeline(p), Fact::Pipeline(fact)) =
                    (aggregate, &folded, fact)
                {
                    let (team, organisation) = (&*snapshots.team, &*snapshots.organisation);
                    let start = invariants::start(id, p, Some(team), Some(organisation), fact, self.now);
                    assert_eq!(start, Ok(()), "rule 7");
                }
                folded.apply(fact).unwrap();
                self.states.insert(aggregate.clone(), folded);
            }
            assert_eq!(self.state(&id), state, "rule 10: folding the facts of {event:?}");
            self.log.extend(decision.facts);
            if let AggregateId::Pipeline(pipeline) = &id {
                match decision.due {
                    Some(due) => self.due.insert(pipeline.clone(), due),
                    None => self.due.remove(pipeline),
                };
                crate::rules::check(self, pipeline);
            }
            self.undone.retain(|new| !decision.cancelled.contains(&new.id));
            self.cancelled.extend(decision.cancelled);
            for new in decision.effects {
                match new.effect {
                    Effect::Forward(ForwardEffect::Page(page)) => self.pages.push(page),
                    _ => self.undone.push_back(new),
                }
            }
            let woken = if decision.wake_all { self.states.keys().cloned().collect() } else { decision.wake };
            for pipeline in woken {
                if let AggregateId::Pipeline(pipeline) = pipeline {
                    queue.push_back(Event::Pipeline(pipeline, PipelineEvent::Tick));
                }
            }
        }
        panic!("the world runs in a circle");
    }

    /// Builds, deploys and tests until nothing is left to do; engines tell of moving slots again and again.
    pub(crate) fn work(&mut self) {
        for _ in 0..FOLLOW_UPS_MAX {
            let mut kept = VecDeque::new();
            while let Some(next) = self.undone.pop_front() {
                if !self.perform(&next) {
                    kept.push_back(next);
                }
            }
            let kept_before = kept.len();
            self.undone = kept;
            self.observe();
            if self.undone.len() == kept_before {
                return;
            }
        }
        panic!("there is always something left to do");
    }

    /// Does one thing, unless whoever does it is stopped.
    fn perform(&mut self, next: &NewEffect) -> bool {
        let effect = next.effect.clone();
        match effect {
            Effect::Forward(ForwardEffect::Build(order)) if !self.builds_stopped => {
                let result = Ok(package(&order.pipeline, order.release));
                let event = PipelineEvent::BuildEnded { effect: next.id.clone(), result };
                self.send(Event::Pipeline(order.pipeline, event)).unwrap();
            }
            Effect::Forward(ForwardEffect::Test(order)) if !self.tests_stopped => {
                let event = PipelineEvent::TestsEnded { effect: next.id.clone(), result: Ok(()) };
                self.send(Event::Pipeline(order.pipeline, event)).unwrap();
            }
            Effect::Forward(ForwardEffect::Deploy(order))
            | Effect::Rollback(RollbackEffect::Return(order))
                if !self.is_stopped(&order.slot) =>
            {
                let boxes = self.fleet.boxes(&order.slot);
                let left = invariants::minimum(self.look(order.slot.pipeline.as_str()), &order, boxes);
                assert_eq!(left, Ok(()), "rule 2");
                for observation in self.fleet.obey(&order, self.now) {
                    self.tell(observation);
                }
            }
            _ => return false,
        }
        true
    }

    fn is_stopped(&self, slot: &SlotId) -> bool {
        let name = slot.to_string();
        self.stopped.iter().any(|stopped| name.contains(stopped))
    }

    pub(crate) fn tell(&mut self, observation: Observation) {
        let pipeline = observation.slot.pipeline.clone();
        self.send(Event::Pipeline(
            pipeline,
            PipelineEvent::SlotsObserved { observations: vec![observation] },
        ))
        .unwrap();
    }

    /// Engines tell of the slots that move.
    fn observe(&mut self) {
        for pipeline in self.pipelines() {
            let moving =
                self.look(pipeline.as_str()).slots.iter().filter(|(_, s)| s.motion != Motion::Settled);
            let slots =
                moving.map(|(target, _)| SlotId { target: target.clone(), pipeline: pipeline.clone() });
            for id in slots.collect::<Vec<_>>() {
                if !self.is_stopped(&id) {
                    self.fleet.observe(&id).into_iter().for_each(|seen| self.tell(seen));
                }
            }
            // Whoever wants to look again at once is not kept waiting.
            if self.due.get(&pipeline).is_some_and(|due| *due <= self.now + Span(1)) {
                self.now = self.now + Span(1);
                self.send(Event::Pipeline(pipeline, PipelineEvent::Tick)).unwrap();
            }
        }
    }

    pub(crate) fn stop_builds(&mut self) {
        self.builds_stopped = true;
    }

    pub(crate) fn start_builds(&mut self) {
        self.builds_stopped = false;
        self.work();
    }

    pub(crate) fn stop_tests(&mut self) {
        self.tests_stopped = true;
    }

    pub(crate) fn stop_engines(&mut self, of: &str) {
        self.stopped.insert(of.to_owned());
    }

    pub(crate) fn start_all(&mut self) {
        self.stopped.clear();
        (self.builds_stopped, self.tests_stopped) = (false, false);
        self.work();
    }

    /// A commit on top of the pipeline's mainline, by alice.
    pub(crate) fn draft(&mut self, pipeline: &str) -> Commit {
        self.commits += 1;
        let parent = self.heads.get(&PipelineId::new(pipeline).unwrap());
        Commit {
            id: CommitId::new(format!("{:040x}", 0xc0ff_ee00_u64 + self.commits)).unwrap(),
            parents: parent.into_iter().cloned().collect(),
            author_name: "Alice".to_owned(),
            author_email: "Alice@Example.org".to_owned(),
            committed_at: self.now,
            subject: format!("change {}", self.commits),
            reverts: Vec::new(),
            fixes: Vec::new(),
        }
    }

    /// The commit comes to the mainline.
    pub(crate) fn push(&mut self, pipeline: &str, commit: Commit) -> CommitId {
        let id = commit.id.clone();
        self.heads.insert(PipelineId::new(pipeline).unwrap(), id.clone());
        let observation = SourceObservation { head: id.clone(), commits: vec![commit], rewritten: false };
        let source = "app".parse().unwrap();
        self.pipeline_event(pipeline, PipelineEvent::SourceObserved { source, observation }).unwrap();
        self.work();
        id
    }

    pub(crate) fn approve(&mut self, commit: &CommitId, by: &str) {
        let by = UserId::new(by).unwrap();
        self.team_event(TeamEvent::Approved { commit: commit.clone(), by });
        self.work();
    }

    /// A commit that bob has approved comes to the mainline.
    pub(crate) fn push_reviewed(&mut self, pipeline: &str, commit: Commit) -> ReleaseNo {
        self.approve(&commit.id, "bob");
        self.push(pipeline, commit);
        self.pipeline(pipeline).newest().unwrap().0
    }

    /// A reviewed commit, built, and in the first step if that is free.
    pub(crate) fn release(&mut self, pipeline: &str) -> ReleaseNo {
        let commit = self.draft(pipeline);
        self.push_reviewed(pipeline, commit)
    }

    pub(crate) fn tick(&mut self) {
        for pipeline in self.pipelines() {
            self.send(Event::Pipeline(pipeline, PipelineEvent::Tick)).unwrap();
        }
        self.work();
    }

    /// Time passes that nobody watches.
    pub(crate) fn wait(&mut self, time: Span) {
        self.now = self.now + time;
        self.tick();
    }

    /// Time passes that monitoring watches everywhere.
    pub(crate) fn watch(&mut self, time: Span) {
        let nothing = BTreeSet::new();
        self.watch_blind(time, &nothing);
    }

    pub(crate) fn watch_blind(&mut self, time: Span, blind: &BTreeSet<AlarmName>) {
        let from = self.now;
        self.now = from + time;
        let until = self.now;
        let grant = |scope| Grant { scope, from, until, blind: blind.clone(), requests: BTreeMap::new() };
        let grants: Vec<Grant> = self.scopes().into_iter().map(grant).collect();
        for pipeline in self.pipelines() {
            let event = PipelineEvent::Watched { grants: grants.clone() };
            self.send(Event::Pipeline(pipeline, event)).unwrap();
        }
        self.work();
    }

    /// Watches until the release has passed the step.
    pub(crate) fn pass(&mut self, pipeline: &str, step: &str, release: ReleaseNo) {
        for _ in 0..200 {
            if self.step(pipeline, step).done == Some(release) {
                return;
            }
            self.watch(Span::minutes(30));
        }
        panic!("{release} does not pass {step}: {:?}", self.step(pipeline, step));
    }

    /// Watches until the release is in the step.
    pub(crate) fn reach(&mut self, pipeline: &str, step: &str, release: ReleaseNo) {
        for _ in 0..200 {
            if self.step(pipeline, step).work.under_way().is_some_and(|(r, _)| r == release) {
                return;
            }
            self.watch(Span::minutes(15));
        }
        panic!("{release} does not reach {step}: {:#?}", self.pipeline(pipeline).steps);
    }

    /// Watches until the one-box of gamma has passed, and lets engines tell for a while.
    pub(crate) fn pass_one_box(&mut self) {
        for _ in 0..200 {
            if self.phase("frontend", "gamma/one-box") == "done" {
                return;
            }
            self.watch(Span::minutes(5));
        }
        panic!("the one-box does not pass");
    }

    pub(crate) fn finish(&mut self, pipeline: &str, release: ReleaseNo) {
        self.pass(pipeline, "wave-2/az-3", release);
    }

    pub(crate) fn alarm(&mut self, place: &str, name: &str, state: AlarmState) {
        self.now = self.now + Span::seconds(1);
        let report = Report { state, why: format!("{name} is {state:?}") };
        let alarms = BTreeMap::from([(AlarmName::new(name).unwrap(), report)]);
        let event = TeamEvent::Evaluated { scope: scope(place), at: self.now, alarms };
        self.team_event(event);
    }

    /// A metric alarm fires (`true`) and is OK, and the pipelines have not heard of it yet.
    pub(crate) fn team_only(&mut self, place: &str, name: &str, firing: &[bool]) {
        for fires in firing {
            self.now = self.now + Span::seconds(1);
            self.team_only_at(place, name, *fires, self.now);
        }
    }

    /// The same, over a period that ended then.
    pub(crate) fn team_only_at(&mut self, place: &str, name: &str, fires: bool, at: Timestamp) {
        let id = AggregateId::Team(TeamId::new("shop").unwrap());
        let state = if fires { AlarmState::Alarm } else { AlarmState::Ok };
        let report = Report { state, why: name.to_owned() };
        let alarms = BTreeMap::from([(AlarmName::new(name).unwrap(), report)]);
        let event = TeamEvent::Evaluated { scope: scope(place), at, alarms };
        let event = Event::Team(TeamId::new("shop").unwrap(), event);
        let (state, _) = decide(self.state(&id), &event, self.now, &Snapshots::default()).unwrap();
        self.states.insert(id, state);
    }

    /// A metric alarm fires, and everybody looks.
    pub(crate) fn fires(&mut self, place: &str, name: &str) {
        self.alarm(place, name, AlarmState::Alarm);
        self.work();
    }

    pub(crate) fn ok(&mut self, place: &str, name: &str) {
        self.alarm(place, name, AlarmState::Ok);
        self.work();
    }

    pub(crate) fn quiet_everywhere(&mut self) {
        for place in self.scopes() {
            self.quiet(&place);
        }
    }

    fn quiet(&mut self, place: &Scope) {
        let names = self.team().services.iter().flat_map(metric_alarms).map(|a| a.name).collect::<Vec<_>>();
        let report = Report { state: AlarmState::Ok, why: "quiet".to_owned() };
        let alarms = names.into_iter().map(|name| (name, report.clone())).collect();
        self.team_event(TeamEvent::Evaluated { scope: place.clone(), at: self.now, alarms });
    }

    pub(crate) fn hold(&mut self, pipeline: &str, by: &str, reason: &str, until: Option<Timestamp>) {
        let (by, reason) = (user(by), reason.to_owned());
        self.pipeline_event(pipeline, PipelineEvent::HoldPlaced { by, reason, until, stage: None }).unwrap();
    }

    pub(crate) fn rollback(&mut self, pipeline: &str, release: ReleaseNo) {
        let (by, reason) = (user("alice"), "looks wrong".to_owned());
        let event = PipelineEvent::RollbackOrdered { release, by, reason, everywhere: false };
        self.pipeline_event(pipeline, event).unwrap();
        self.work();
    }

    pub(crate) fn retry(&mut self, pipeline: &str, release: ReleaseNo) {
        let event = PipelineEvent::Retried { release, by: user("bob"), reason: "it was the disk".to_owned() };
        self.pipeline_event(pipeline, event).unwrap();
        self.work();
    }
}

fn package(pipeline: &PipelineId, release: ReleaseNo) -> PackageDigest {
    let name = tidegate_core::run_spec::hex(format!("{pipeline}-{release}").as_bytes());
    PackageDigest::new(format!("{name:0>64}")).unwrap()
}

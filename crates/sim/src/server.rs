//! The virtual server: the real runtime, and around it what a server's loops and workers do, with delays and losses.

use crate::repo::Flaw;
use crate::rng::{Rng, hash_of};
use crate::script::Deed;
use crate::setup::{self, team};
use crate::store::Death;
use crate::world::Happening;
use crate::{Mutation, Sim};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tidegate_core::alarm::{AlarmName, AlarmState};
use tidegate_core::decision::{
    Actor, BuildOrder, Effect, EffectId, Event, ForwardEffect, RollbackEffect, SlotOrder, TestOrder,
};
use tidegate_core::engine::Fence;
use tidegate_core::ids::{PipelineId, RunSpecDigest, SlotId, SourceId};
use tidegate_core::organisation::OrganisationEvent;
use tidegate_core::pipeline::{Build, Grant, Motion, PipelineEvent, StepState, Switches, Work};
use tidegate_core::run_spec::RunSpec;
use tidegate_core::scope::Scope;
use tidegate_core::team::{Report as AlarmReport, TeamEvent};
use tidegate_core::units::{Span, Timestamp};
use tidegate_runtime::{Lane, Options, Outcome, PendingEffect, Runtime, SubmitError};
use tidegate_store::Store;

/// How many effects are performed at a time in each lane.
const EFFECTS_MAX: usize = 16;

/// A server between two crashes; all of it is lost in one.
pub(crate) struct Server {
    pub(crate) runtime: Runtime,
    pub(crate) life: u64,
    in_flight: BTreeSet<EffectId>,
    /// Up to where each Region was watched, and how far the clock was off then.
    watched: BTreeMap<Scope, (i64, i64)>,
    /// How often it looked at its timers.
    rounds: u64,
}

impl Sim {
    pub(crate) fn start_server(&mut self) {
        self.store.revive();
        self.paused_until = 0;
        if let Some(after) = self.start_dies_after.take() {
            self.store.die(Death::AtOperation, after);
        }
        let (store, clock) = (Arc::clone(&self.store), Arc::clone(&self.clock));
        let switches = match self.options.mutation {
            Some(Mutation::Core(broken)) => Switches::from(broken),
            _ => Switches::default(),
        };
        let options = Options { cache: self.cache, switches, listener: None };
        let Ok(runtime) = Runtime::open(store, clock, options, self.fleet.highest_epoch()) else {
            return self.at(1_000, Happening::StartServer);
        };
        // What fails is told again.
        let _ = runtime.at_work();
        self.lives += 1;
        let life = self.lives;
        self.server =
            Some(Server { runtime, life, in_flight: BTreeSet::new(), watched: BTreeMap::new(), rounds: 0 });
        self.disturbed(self.now);
        for (after, happening) in [
            (50, Happening::Dispatch { life, lane: Lane::Rollback }),
            (100, Happening::Dispatch { life, lane: Lane::Forward }),
            (120, Happening::Dispatch { life, lane: Lane::Page }),
            (150, Happening::Tick { life }),
            (200, Happening::Observe { life }),
            (300, Happening::Monitor { life }),
            (400, Happening::Poll { life }),
        ] {
            self.at(after, happening);
        }
    }

    /// The server dies: what was not committed is lost, the world goes on.
    pub(crate) fn crash(&mut self) {
        let before: usize = self.fleet.slots.values().map(|s| s.boxes.len()).sum();
        self.server = None;
        self.report.crashes += 1;
        let after: usize = self.fleet.slots.values().map(|s| s.boxes.len()).sum();
        if before != after {
            self.crash_changed_boxes = Some(format!("{before} boxes before a crash, {after} after it"));
        }
        // Mostly for a moment, now and then for a while, and seldom for longer than anything may take.
        let longest = match self.rng.clone().range(0, 1_000) {
            0..30 => 1_200_000,
            30..200 => 60_000,
            _ => 5_000,
        };
        let down = self.rng.range(100, longest);
        self.at(down, Happening::StartServer);
    }

    pub(crate) fn apply_definitions(&mut self, shape: u64) {
        let organisation = setup::organisation(shape);
        let team_event = setup::team_of(&organisation);
        let mut events = vec![
            Event::Organisation(OrganisationEvent::Applied { definition: Box::new(organisation) }),
            Event::Team(team(), team_event),
        ];
        for definition in setup::pipelines(shape) {
            let id = definition.name.clone();
            events.push(Event::Pipeline(id, PipelineEvent::Applied { definition: Box::new(definition) }));
        }
        for event in events {
            let applied = self.submit(&event, &Actor::Tidegate);
            debug_assert!(applied.is_some(), "{event:?} is refused");
        }
    }

    /// Submits an event that nobody repeats by itself; `None` if it did not go through.
    pub(crate) fn submit(&mut self, event: &Event, cause: &Actor) -> Option<Outcome> {
        if self.paused_until > self.now {
            return None;
        }
        self.server.as_ref()?.runtime.submit(event, cause).ok()
    }

    pub(crate) fn serve(&mut self, happening: Happening) {
        let Some(mut server) = self.server.take() else { return };
        let life = server.life;
        match happening {
            Happening::Dispatch { lane, .. } => {
                let again = self.rng.range(200, 1_000);
                self.at(again, Happening::Dispatch { life, lane });
                self.dispatch(&mut server, lane);
            }
            Happening::Tick { .. } => {
                self.at(500, Happening::Tick { life });
                // What fails is told again.
                let _ = server.runtime.at_work();
                let _ = server.runtime.tick_due(100);
                server.runtime.give_times();
                server.rounds += 1;
                if server.rounds % 20 == 0 {
                    let _ = server.runtime.tend();
                }
            }
            Happening::Observe { .. } => {
                self.at(1_000, Happening::Observe { life });
                self.observe(&server);
            }
            Happening::Monitor { .. } => {
                self.at(4_000, Happening::Monitor { life });
                self.monitor(&mut server);
            }
            Happening::Poll { .. } => {
                self.at(5_000, Happening::Poll { life });
                self.poll(&server);
            }
            Happening::Result { effect, event, .. } => self.result(&mut server, effect, event),
            Happening::Late { event, .. } => {
                let _ = server.runtime.submit(&event, &Actor::Tidegate);
            }
            _ => {}
        }
        self.server = Some(server);
    }

    fn dispatch(&mut self, server: &mut Server, lane: Lane) {
        let Ok(effects) = server.runtime.effects(lane, EFFECTS_MAX + server.in_flight.len()) else { return };
        for pending in effects {
            if server.in_flight.contains(&pending.id) {
                continue;
            }
            self.perform(server, pending);
            if self.store.is_dead() {
                return;
            }
        }
    }

    fn perform(&mut self, server: &mut Server, pending: PendingEffect) {
        let PendingEffect { id, attempt, effect, .. } = pending;
        match effect {
            Effect::Forward(ForwardEffect::Build(order)) => self.build(server, id, &order),
            Effect::Forward(ForwardEffect::Test(order)) => self.test(server, id, &order),
            Effect::Forward(ForwardEffect::Deploy(order))
            | Effect::Rollback(RollbackEffect::Return(order)) => {
                self.command(server, &id, attempt, &order);
            }
            Effect::Forward(ForwardEffect::Page(_)) => {
                self.report.pages += 1;
                let _ = server.runtime.effect_done(&id);
            }
        }
    }

    fn build(&mut self, server: &mut Server, id: EffectId, order: &BuildOrder) {
        let (package, succeeds) = self.sources.build(&order.pipeline, &order.commits);
        let result = if succeeds { Ok(package) } else { Err("cc: exit status 1".to_owned()) };
        let event = PipelineEvent::BuildEnded { effect: id.clone(), result };
        let takes = self.rng.range(3_000, 20_000);
        self.come_back(server, id, Event::Pipeline(order.pipeline.clone(), event), takes);
    }

    fn test(&mut self, server: &mut Server, id: EffectId, order: &TestOrder) {
        let fails =
            self.sources.packages.get(&order.package).is_some_and(|p| p.flaws.contains(&Flaw::FailsTests));
        let result = if fails { Err("smoke: exit status 1".to_owned()) } else { Ok(()) };
        let event = PipelineEvent::TestsEnded { effect: id.clone(), result };
        let takes = self.rng.range(1_000, 10_000);
        self.come_back(server, id, Event::Pipeline(order.pipeline.clone(), event), takes);
    }

    /// A result comes back later: once, twice, or never.
    fn come_back(&mut self, server: &mut Server, effect: EffectId, event: Event, takes: i64) {
        server.in_flight.insert(effect.clone());
        let happening =
            Happening::Result { life: server.life, effect: effect.clone(), event: Box::new(event) };
        let subject = hash_of(&effect.0);
        if self.script.strikes(Deed::LoseResult, subject, 20_000).is_some() {
            return;
        }
        if self.script.strikes(Deed::RepeatResult, subject, 100_000).is_some() {
            self.at(takes + 7_000, happening.clone());
        }
        let late = self.script.strikes(Deed::DelayResult, subject, 20_000);
        self.at(late.map_or(takes, |mut chance| chance.range(150_000, 600_000)), happening);
    }

    fn result(&mut self, server: &mut Server, effect: EffectId, event: Box<Event>) {
        match server.runtime.submit_result(&effect, &event) {
            Ok(_) | Err(SubmitError::Illegal(_)) => {
                server.in_flight.remove(&effect);
            }
            Err(SubmitError::NoSpace | SubmitError::Busy { .. } | SubmitError::Store(_)) => {
                self.at(1_000, Happening::Result { life: server.life, effect, event });
            }
        }
    }

    fn command(&mut self, server: &mut Server, id: &EffectId, attempt: u32, order: &SlotOrder) {
        if self.deaf_until > self.now {
            let again = server.runtime.now() + Span::seconds(2);
            let _ = server.runtime.effect_failed(id, attempt + 1, again);
            return;
        }
        self.fetch(order);
        let fence = Fence { epoch: server.runtime.epoch(), generation: order.generation };
        let decided_at = self.decided_at(&order.slot, order.generation);
        let (slot, desired) = (order.slot.clone(), order.desired.clone());
        let subject = hash_of(&id.0);
        if let Some(mut chance) = self.script.strikes(Deed::DelayCommand, subject, 100_000) {
            // On its way for long; it may arrive after a newer one, or when its server is dead.
            let late = chance.range(500, 10_000);
            self.at(late, Happening::Deliver { slot, desired, fence, decided_at });
        } else {
            self.fleet.set(&slot, &desired, fence, decided_at);
        }
        if self.script.strikes(Deed::RepeatCommand, subject, 50_000).is_some() {
            // Nobody notes that it was sent: it is sent again.
            return;
        }
        let _ = server.runtime.effect_done(id);
    }

    /// An engine fetches what it is to run.
    fn fetch(&mut self, order: &SlotOrder) {
        for share in &order.desired.split {
            let Ok(Some(body)) = self.store.inner.document(&format!("run-spec/{}", share.run_spec)) else {
                continue;
            };
            let Ok(spec) = serde_json::from_slice::<RunSpec>(&body) else { continue };
            if let Some(package) = self.sources.packages.get(&spec.package) {
                self.fleet.behaviour.insert(share.run_spec.clone(), package.clone());
            }
        }
    }

    /// Effects that the store told of before they were committed (a deliberate break).
    pub(crate) fn perform_early(&mut self) {
        let early = self.store.take_early();
        let Some(epoch) = self.server.as_ref().map(|s| s.runtime.epoch()) else { return };
        for write in early {
            let Ok(Effect::Forward(ForwardEffect::Deploy(order))) = serde_json::from_slice(&write.body)
            else {
                continue;
            };
            self.fetch(&order);
            let fence = Fence { epoch, generation: order.generation };
            self.fleet.set(&order.slot, &order.desired, fence, self.now);
        }
    }

    /// When the command of that generation was decided.
    fn decided_at(&self, slot: &SlotId, generation: u64) -> i64 {
        self.audit.ordered.get(&(slot.clone(), generation)).map_or(self.now, |at| *at)
    }

    /// Moving slots every second, the others now and then.
    fn observe(&mut self, server: &Server) {
        if self.deaf_until > self.now {
            return;
        }
        for id in server.runtime.pipelines().unwrap_or_default() {
            let Ok(Some(pipeline)) = server.runtime.pipeline(&id) else { continue };
            let mut observations = Vec::new();
            for (target, slot) in &pipeline.slots {
                let moving = slot.motion != Motion::Settled;
                if !moving && (slot.history.is_empty() || !self.rng.chance(100)) {
                    continue;
                }
                let slot = SlotId { target: target.clone(), pipeline: id.clone() };
                let observation = self.fleet.observe(&slot, self.skew);
                let subject = hash_of(&slot.to_string());
                if let Some(mut chance) = self.script.strikes(Deed::DelayObservation, subject, 20_000) {
                    let late = chance.range(500, 4_000);
                    let event = PipelineEvent::SlotsObserved { observations: vec![observation] };
                    let event = Box::new(Event::Pipeline(id.clone(), event));
                    self.at(late, Happening::Late { life: server.life, event });
                    continue;
                }
                observations.push(observation);
            }
            if !observations.is_empty() {
                let event = Event::Pipeline(id.clone(), PipelineEvent::SlotsObserved { observations });
                let _ = server.runtime.submit(&event, &Actor::Tidegate);
            }
            if self.store.is_dead() {
                return;
            }
        }
    }

    /// Evaluates alarms, then grants what was watched.
    fn monitor(&mut self, server: &mut Server) {
        for scope in self.scopes() {
            // An interval in which the clock was set has no length that anybody could tell.
            let before = server.watched.get(&scope).copied().filter(|(_, skew)| *skew == self.skew);
            let from = before.map_or(self.now, |(from, _)| from);
            let blind =
                |at: i64| self.blind.get(&scope).is_some_and(|all| all.iter().any(|(_, until)| *until > at));
            let (blind, was_blind) = (blind(self.now), blind(from));
            if !self.evaluate(server, &scope, blind) {
                continue;
            }
            server.watched.insert(scope.clone(), (self.now, self.skew));
            if from < self.now {
                self.grant(server, &scope, from, was_blind);
            }
            if self.store.is_dead() {
                return;
            }
        }
    }

    /// False if the alarms' states could not be recorded.
    fn evaluate(&mut self, server: &Server, scope: &Scope, blind: bool) -> bool {
        let states: BTreeMap<AlarmName, AlarmState> = self
            .alarms(scope)
            .into_iter()
            .map(|(name, fired)| {
                let state = match (blind, fired) {
                    (true, _) => AlarmState::InsufficientData,
                    (false, true) => AlarmState::Alarm,
                    (false, false) => AlarmState::Ok,
                };
                (name, state)
            })
            .collect();
        let Ok(recorded) = server.runtime.team(&team()) else { return false };
        let recorded = |name: &AlarmName| recorded.scopes.get(scope)?.get(name).map(|status| status.state);
        // What was not recorded, because the clock was behind, is told again.
        let alarms: BTreeMap<AlarmName, AlarmReport> = states
            .into_iter()
            .filter(|(name, state)| recorded(name) != Some(*state))
            .map(|(name, state)| (name, AlarmReport { state, why: format!("{state:?}") }))
            .collect();
        if alarms.is_empty() {
            self.forget_fired(scope, blind);
            return true;
        }
        let event =
            TeamEvent::Evaluated { scope: scope.clone(), at: Timestamp(self.now + self.skew), alarms };
        match server.runtime.submit(&Event::Team(team(), event), &Actor::Tidegate) {
            Ok(_) => {
                self.forget_fired(scope, blind);
                true
            }
            Err(_) => false,
        }
    }

    /// What was told need not be told again; while monitoring is blind, metrics are not lost.
    fn forget_fired(&mut self, scope: &Scope, blind: bool) {
        if !blind {
            self.fired.retain(|(of, _)| of != scope);
        }
    }

    /// Grants what was watched since then: as long as a clock says that nobody sets, up to what the other one says.
    fn grant(&mut self, server: &Server, scope: &Scope, from: i64, blind: bool) {
        for id in server.runtime.pipelines().unwrap_or_default() {
            let Ok(Some(pipeline)) = server.runtime.pipeline(&id) else { continue };
            let bakes = |step: &StepState| match &step.work {
                Work::Baking { clock, .. } => clock.regions.contains_key(&scope.region),
                _ => false,
            };
            if !pipeline.steps.values().any(|step| bakes(step)) {
                continue;
            }
            let grant = Grant {
                scope: scope.clone(),
                from: Timestamp(from + self.skew),
                until: Timestamp(self.now + self.skew),
                blind: if blind { self.alarms(scope).into_keys().collect() } else { BTreeSet::new() },
                requests: if blind { BTreeMap::new() } else { self.requests(&id, scope, from) },
            };
            let event = PipelineEvent::Watched { grants: vec![grant] };
            let _ = server.runtime.submit(&Event::Pipeline(id, event), &Actor::Tidegate);
        }
    }

    /// Ten requests a second to every box that serves.
    fn requests(
        &self,
        pipeline: &PipelineId,
        scope: &Scope,
        from: i64,
    ) -> BTreeMap<RunSpecDigest, BTreeMap<String, u64>> {
        let mut all: BTreeMap<RunSpecDigest, BTreeMap<String, u64>> = BTreeMap::new();
        let count = u64::try_from((self.now - from) / 100).unwrap_or(0);
        for (slot, state) in &self.fleet.slots {
            if &slot.pipeline != pipeline || &Scope::of(&slot.target) != scope {
                continue;
            }
            for one in state.boxes.values().filter(|b| b.serves_since().is_some()) {
                *all.entry(one.run_spec.clone()).or_default().entry("GET /".to_owned()).or_default() += count;
            }
        }
        all
    }

    fn poll(&mut self, server: &Server) {
        for id in server.runtime.pipelines().unwrap_or_default() {
            let Ok(Some(pipeline)) = server.runtime.pipeline(&id) else { continue };
            for (source, state) in &pipeline.sources {
                let Some(seen) = self.look(source, state.head.as_ref()) else { continue };
                let event = PipelineEvent::SourceObserved { source: source.clone(), observation: seen };
                let _ = server.runtime.submit(&Event::Pipeline(id.clone(), event), &Actor::Tidegate);
            }
        }
    }

    fn look(
        &self,
        source: &SourceId,
        head: Option<&tidegate_core::ids::CommitId>,
    ) -> Option<tidegate_core::change::SourceObservation> {
        self.sources.repos.get(source)?.observe(head)
    }
}

/// How long builds may take at most before their result is given up: what people wait for before they try again.
pub(crate) fn failed_build(build: &Build, now: i64) -> bool {
    matches!(build, Build::Failed { at, .. } if Timestamp(now).since(*at) > Span::seconds(10))
}

/// Chance for a handler that has no other.
pub(crate) fn flip(rng: &mut Rng) -> bool {
    rng.chance(500)
}

//! The world of an exploration: one pipeline alone with its team and its leases, builders and tests that answer at once, and
//! engines that do what they are told when the exploration says so. A copy of it goes another way.

use super::engine::Boxes;
use super::path::Path;
use super::{BOXES_MAX, Counterexample};
use crate::aggregate::{State, decide};
use crate::change::{Commit, SourceObservation};
use crate::decision::{
    AggregateId, Decision, Effect, Event, Fact, ForwardEffect, NewEffect, RollbackEffect, SlotOrder,
};
use crate::definition::{Mode, OrganisationDef, PipelineDef};
use crate::ids::{CommitId, PackageDigest, PipelineId, RunSpecDigest, TargetId, TeamId, UserId};
use crate::invariants::{self, Violation};
use crate::organisation::OrganisationEvent;
use crate::pipeline::{Grant, Motion, Pipeline, PipelineEvent, Snapshots, Switches, Work};
use crate::scope::Scope;
use crate::team::{Report, TeamEvent, leaf_names};
use crate::units::{Span, Timestamp};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

/// The most rounds in which boxes become healthy until nothing moves: two for each further box, forward and back.
const ROUNDS_MAX: usize = 8 * BOXES_MAX as usize;
/// When it begins: a Monday, early in the morning (UTC).
const BEGIN: Timestamp = Timestamp(1_750_050_000_000);
/// More than any bake counts.
const REQUESTS: u64 = 1 << 40;

type Went = Result<(), Box<Counterexample>>;

#[derive(Clone)]
pub(super) struct World {
    pub(super) pipeline: Pipeline,
    pub(super) path: Path,
    pub(super) events: usize,
    id: PipelineId,
    team: TeamId,
    approver: UserId,
    now: Timestamp,
    due: Option<Timestamp>,
    around: Snapshots,
    /// Builds and tests that nobody has done yet.
    undone: VecDeque<NewEffect>,
    /// The newest order to each target.
    orders: BTreeMap<TargetId, Arc<SlotOrder>>,
    boxes: BTreeMap<TargetId, Boxes>,
    commits: u64,
}

impl World {
    /// With the definition applied; nothing if the core does not take it, which it then says itself.
    pub(super) fn new(
        definition: &PipelineDef,
        organisation: &OrganisationDef,
        switches: Switches,
    ) -> Result<Option<World>, Box<Counterexample>> {
        let (mut definition, organisation) = (definition.clone(), organisation.clone());
        // What only observes breaks nothing now, and may act later.
        definition.mode = Mode::Act;
        for stage in &mut definition.stages {
            stage.boxes_per_az = stage.boxes_per_az.min(BOXES_MAX);
        }
        let Some(service) = organisation.service(&definition.service) else { return Ok(None) };
        let (Some(team), Ok(approver)) = (organisation.team(&service.team), UserId::new("somebody")) else {
            return Ok(None);
        };
        let mut of_team = Box::new(team.clone());
        // Whoever reviews is not what is explored, nor whom pages reach.
        of_team.members = vec![approver.clone()];
        of_team.pages.clear();
        let services: Vec<_> =
            organisation.services.iter().filter(|s| s.team == team.name).cloned().collect();
        let mut world = World {
            pipeline: Pipeline::default(),
            path: Path::default(),
            events: 0,
            id: definition.name.clone(),
            team: team.name.clone(),
            approver,
            now: BEGIN,
            due: None,
            around: Snapshots { switches, ..Snapshots::default() },
            undone: VecDeque::new(),
            orders: BTreeMap::new(),
            boxes: BTreeMap::new(),
            commits: 0,
        };
        world.tell_organisation(OrganisationEvent::Applied { definition: Box::new(organisation.clone()) });
        let names: Vec<_> = services.iter().flat_map(leaf_names).collect();
        let (emails, accounts) = (BTreeMap::new(), BTreeMap::new());
        world.tell_team(TeamEvent::Applied { definition: of_team, services, emails, accounts });
        world.tell(&PipelineEvent::Applied { definition: Box::new(definition) })?;
        let scopes: BTreeSet<Scope> = world.pipeline.plan.targets().map(|t| Scope::of(&t.id)).collect();
        let quiet = Report { state: crate::alarm::AlarmState::Ok, why: String::new() };
        for scope in scopes {
            let alarms = names.iter().map(|name| (name.clone(), quiet.clone())).collect();
            world.tell_team(TeamEvent::Evaluated { scope, at: BEGIN, alarms });
        }
        Ok(world.pipeline.definition.is_some().then_some(world))
    }

    fn tell_organisation(&mut self, event: OrganisationEvent) {
        let state = State::Organisation((*self.around.organisation).clone());
        if let Ok((State::Organisation(state), _)) =
            decide(state, &Event::Organisation(event), self.now, &self.around)
        {
            self.around.organisation = Arc::new(state);
        }
    }

    fn tell_team(&mut self, event: TeamEvent) {
        let state = State::Team((*self.around.team).clone());
        let event = Event::Team(self.team.clone(), event);
        if let Ok((State::Team(state), _)) = decide(state, &event, self.now, &self.around) {
            self.around.team = Arc::new(state);
        }
    }

    /// Decides, and checks every rule.
    pub(super) fn tell(&mut self, event: &PipelineEvent) -> Went {
        self.events += 1;
        let event = Event::Pipeline(self.id.clone(), event.clone());
        let before = State::Pipeline(self.pipeline.clone());
        // What is not legal here changes nothing.
        let Ok((State::Pipeline(pipeline), decision)) = decide(before, &event, self.now, &self.around) else {
            return Ok(());
        };
        self.pipeline = pipeline;
        self.due = decision.due;
        for (aggregate, fact) in &decision.facts {
            match (aggregate, fact) {
                (AggregateId::Lease(id), Fact::Lease(fact)) => {
                    self.around.leases.entry(id.clone()).or_default().apply(fact);
                }
                (AggregateId::Team(_), Fact::Team(fact)) => Arc::make_mut(&mut self.around.team).apply(fact),
                _ => {}
            }
        }
        self.path.add(&self.pipeline, &decision);
        self.check(&decision)
            .map_err(|violation| Box::new(Counterexample { violation, path: self.path.lines() }))?;
        self.undone.retain(|effect| !decision.cancelled.contains(&effect.id));
        for new in decision.effects {
            match new.effect {
                Effect::Forward(ForwardEffect::Page(_)) => {}
                Effect::Forward(ForwardEffect::Deploy(order))
                | Effect::Rollback(RollbackEffect::Return(order)) => {
                    self.orders.insert(order.slot.target.clone(), Arc::new(order));
                }
                Effect::Forward(ForwardEffect::Build(_) | ForwardEffect::Test(_)) => {
                    self.undone.push_back(new)
                }
            }
        }
        Ok(())
    }

    fn check(&self, decision: &Decision) -> Result<(), Violation> {
        let (id, p) = (&self.id, &self.pipeline);
        let (team, organisation) = (&*self.around.team, &*self.around.organisation);
        for (_, fact) in &decision.facts {
            if let Fact::Pipeline(fact) = fact {
                invariants::start(id, p, Some(team), Some(organisation), fact, self.now)?;
            }
        }
        invariants::one_az([(id, p)], |id| self.around.leases.get(id))?;
        let nothing = Boxes::default();
        for new in &decision.effects {
            if let Effect::Forward(ForwardEffect::Deploy(order))
            | Effect::Rollback(RollbackEffect::Return(order)) = &new.effect
            {
                let boxes = self.boxes.get(&order.slot.target).unwrap_or(&nothing).all();
                invariants::minimum(p, order, &boxes)?;
            }
        }
        invariants::order(id, p)?;
        invariants::one_box_first(id, p)?;
        invariants::returned(id, p)?;
        invariants::untainted(id, p)?;
        let next = self.now + Span(1);
        invariants::deadlines(id, p, decision.due, next)?;
        if decision.due.is_some_and(|due| due <= next) {
            Ok(())
        } else {
            invariants::reasons(id, p, Some(team))
        }
    }

    /// A reviewed commit comes to every source.
    pub(super) fn push(&mut self) -> Went {
        let sources: Vec<_> = self.pipeline.sources.keys().cloned().collect();
        for source in sources {
            self.commits += 1;
            let Ok(id) = CommitId::new(format!("{:040x}", self.commits)) else { continue };
            self.tell_team(TeamEvent::Approved { commit: id.clone(), by: self.approver.clone() });
            let parent = self.pipeline.sources.get(&source).and_then(|s| s.head.clone());
            let commit = Commit {
                id: id.clone(),
                parents: parent.into_iter().collect(),
                author_name: "Anybody".to_owned(),
                author_email: "anybody@example.invalid".to_owned(),
                committed_at: self.now,
                subject: "a change".to_owned(),
                reverts: Vec::new(),
                fixes: Vec::new(),
            };
            let observation = SourceObservation { head: id, commits: vec![commit], rewritten: false };
            self.tell(&PipelineEvent::SourceObserved { source, observation })?;
        }
        self.perform()
    }

    /// Builds and tests answer.
    fn perform(&mut self) -> Went {
        while let Some(next) = self.undone.pop_front() {
            match next.effect {
                Effect::Forward(ForwardEffect::Build(order)) => {
                    let digest = PackageDigest::new(format!("{:064x}", order.release.0));
                    let result = digest.map_err(|error| error.to_string());
                    self.tell(&PipelineEvent::BuildEnded { effect: next.id, result })?;
                }
                _ => self.tell(&PipelineEvent::TestsEnded { effect: next.id, result: Ok(()) })?,
            }
        }
        Ok(())
    }

    fn moving(&self, wanted: fn(&Motion) -> bool) -> Vec<TargetId> {
        let moving = self.pipeline.slots.iter().filter(|(_, slot)| wanted(&slot.motion));
        moving.map(|(target, _)| target.clone()).collect()
    }

    /// The target that lags behind in the step that goes on: the last one; none if one at a time is not `wanted`.
    pub(super) fn last_to_move(&self, wanted: bool) -> Option<TargetId> {
        self.moving(|m| matches!(m, Motion::Forward { .. })).pop().filter(|_| wanted)
    }

    /// Lets boxes become healthy until nothing moves but `last`.
    pub(super) fn settle(&mut self, last: Option<&TargetId>) -> Went {
        for _ in 0..ROUNDS_MAX {
            self.perform()?;
            self.look_at_once()?;
            let mut moving = self.moving(|m| matches!(m, Motion::Forward { .. } | Motion::Back { .. }));
            moving.retain(|target| Some(target) != last);
            if moving.is_empty() {
                break;
            }
            self.round(&moving)?;
        }
        Ok(())
    }

    /// Lets this one arrive.
    pub(super) fn settle_one(&mut self, target: &TargetId) -> Went {
        for _ in 0..ROUNDS_MAX {
            if self.pipeline.slots.get(target).is_none_or(|slot| slot.motion == Motion::Settled) {
                break;
            }
            self.round(std::slice::from_ref(target))?;
            self.look_at_once()?;
        }
        self.perform()
    }

    /// Whoever wants to look again at once is not kept waiting.
    fn look_at_once(&mut self) -> Went {
        if self.due.is_some_and(|due| due <= self.now + Span(1)) {
            self.now = self.now + Span(1);
            return self.tell(&PipelineEvent::Tick);
        }
        Ok(())
    }

    /// One box of each target becomes healthy, which is told; then all others are.
    fn round(&mut self, targets: &[TargetId]) -> Went {
        for target in targets {
            if let Some(order) = self.orders.get(target) {
                self.boxes.entry(target.clone()).or_default().obey(order, self.now);
            }
        }
        let several = targets.iter().any(|t| self.boxes.get(t).is_some_and(|b| b.starting() > 1));
        let healthy_for = self.pipeline.settings().rolling.healthy_for;
        let since = self.now - healthy_for;
        for boxes in if several { &[1, usize::MAX][..] } else { &[usize::MAX] } {
            let observations = targets.iter().filter_map(|target| {
                let (order, slot) = (self.orders.get(target)?, self.boxes.get_mut(target)?);
                slot.become_healthy(*boxes, since);
                Some(slot.observe(order))
            });
            let event = PipelineEvent::SlotsObserved { observations: observations.collect() };
            self.tell(&event)?;
        }
        Ok(())
    }

    /// Time passes until the next bake has been watched for long enough, or until somebody wants to look; false if nobody
    /// waits for the time.
    pub(super) fn pass_time(&mut self) -> Result<bool, Box<Counterexample>> {
        let (mut left, mut scopes, mut specs) = (None, BTreeSet::new(), BTreeSet::new());
        for (stage, step) in self.pipeline.plan.steps() {
            let Some(Work::Baking { release, clock, .. }) =
                self.pipeline.steps.get(&step.id).map(|s| &s.work)
            else {
                continue;
            };
            let watched = clock.regions.values().map(|credit| credit.watched).min().unwrap_or(clock.minimum);
            let missing = Span(clock.minimum.millis().saturating_sub(watched.millis()).max(1));
            left = Some(left.map_or(missing, |left: Span| left.min(missing)));
            scopes.extend(
                clock
                    .regions
                    .keys()
                    .map(|region| Scope { environment: stage.environment.clone(), region: region.clone() }),
            );
            specs.extend(self.pipeline.run_spec(*release, &stage.environment).cloned());
        }
        let from = self.now;
        match (left, self.due) {
            (Some(left), _) => {
                self.now = from + left;
                let requests = self.requests(&specs);
                let until = self.now;
                let grant =
                    |scope| Grant { scope, from, until, blind: BTreeSet::new(), requests: requests.clone() };
                let grants = scopes.into_iter().map(grant).collect();
                self.tell(&PipelineEvent::Watched { grants })?;
            }
            (None, Some(due)) => {
                self.now = due.max(from);
                self.tell(&PipelineEvent::Tick)?;
            }
            (None, None) => return Ok(false),
        }
        Ok(true)
    }

    /// As many requests as any bake may need.
    fn requests(&self, specs: &BTreeSet<RunSpecDigest>) -> BTreeMap<RunSpecDigest, BTreeMap<String, u64>> {
        let stages = self.pipeline.plan.stages.iter();
        let apis: BTreeMap<String, u64> = stages
            .flat_map(|stage| self.pipeline.requirements(stage))
            .map(|needed| (needed.api.unwrap_or_else(|| "GET /".to_owned()), REQUESTS))
            .collect();
        specs.iter().map(|spec| (spec.clone(), apis.clone())).collect()
    }
}

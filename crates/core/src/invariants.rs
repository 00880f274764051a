//! What must hold of states (the rules that always hold, docs/rules.md), as far as states alone show it: one function for
//! each rule. They decide nothing and correct nothing; whoever drives the core asks them after every event: the scenarios of
//! its tests, the exploration of a definition ([`crate::explore`]) and the simulator.
//!
//! What must hold here: a function reads what a rule is about and not what the code that decides has concluded of it, or it
//! would find a mistake right. What only the past or the world shows (whether monitoring really watched, what bytes a box
//! runs, how long a rollback took) is the simulator's.

use crate::alarm::AlarmName;
use crate::decision::SlotOrder;
use crate::engine::BoxObservation;
use crate::ids::{
    EnvironmentId, PipelineId, RegionId, ReleaseNo, Role, ServiceId, SlotId, SourceId, TargetId,
};
use crate::lease::{Lease, LeaseId};
use crate::organisation::Organisation;
use crate::pipeline::{
    Blocker, Build, Life, Motion, Pipeline, PipelineFact, SourceState, Standing, Work, unreviewed,
};
use crate::plan::{StepId, Target};
use crate::rollout::minimum_healthy;
use crate::scope::Scope;
use crate::team::Team;
use crate::units::Timestamp;
use crate::window::WindowState;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// A rule of the design; its number is that of docs/rules.md.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// 1: of a service in an environment, over all its pipelines, at most one AZ of a Region is deployed to at a time.
    OneAz = 1,
    /// 2: a target's healthy share never falls below its minimum because of tidegate.
    Minimum = 2,
    /// 3: no release enters a step without having passed the one before.
    Order = 3,
    /// 5: nothing holds a rollback.
    Rollback = 5,
    /// 6: a tainted change does not re-enter by itself.
    Taint = 6,
    /// 7: a deployment starts only when window and alarms allow, or under an override.
    Start = 7,
    /// 8: whatever waits has a reason; whatever is awaited has a deadline.
    Waiting = 8,
}

impl Rule {
    /// Its number.
    #[must_use]
    pub fn number(self) -> u8 {
        self as u8
    }
}

/// A rule that does not hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{subject}: {evidence}")]
pub struct Violation {
    /// Which.
    pub rule: Rule,
    /// Of what.
    pub subject: Box<Subject>,
    /// What shows it.
    pub evidence: Box<Evidence>,
}

impl Violation {
    fn new(rule: Rule, subject: Subject, evidence: Evidence) -> Violation {
        Violation { rule, subject: Box::new(subject), evidence: Box::new(evidence) }
    }
}

/// What a rule does not hold of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// A service in a Region of an environment.
    Region(LeaseId),
    /// A pipeline's slot on a target.
    Slot(SlotId),
    /// A pipeline's step.
    Step(PipelineId, StepId),
    /// A pipeline's source.
    Source(PipelineId, SourceId),
    /// A pipeline.
    Pipeline(PipelineId),
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Subject::Region(lease) => write!(f, "{lease}"),
            Subject::Slot(slot) => write!(f, "{slot}"),
            Subject::Step(pipeline, step) => write!(f, "{step} of {pipeline}"),
            Subject::Source(pipeline, source) => write!(f, "source {source} of {pipeline}"),
            Subject::Pipeline(pipeline) => write!(f, "{pipeline}"),
        }
    }
}

/// What shows that a rule does not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Evidence {
    /// Several are deployed to at once.
    Together(BTreeSet<SlotId>),
    /// A release is deployed in two steps at once.
    TwoSteps(ReleaseNo, StepId, StepId),
    /// What is deployed to does not stand under its lease, which is this.
    NoLease(Lease),
    /// A split leaves so few healthy boxes.
    TooFew {
        /// Before.
        before: u32,
        /// When it has been carried out, until a new box is healthy.
        after: u32,
        /// How many there must be.
        minimum: u32,
    },
    /// A release is here and has not passed the step before.
    NotPassed(ReleaseNo, StepId),
    /// An AZ is brought to a release that its Region's one-box does not run.
    NoOneBox(ReleaseNo),
    /// A release was rejected, and does not move back.
    Stays(ReleaseNo),
    /// A release is on its way although it was rejected.
    Rejected(ReleaseNo),
    /// A release is on its way although it contains changes of a rejected one.
    Tainted(ReleaseNo, ReleaseNo),
    /// A release enters although its pipeline was retired.
    Retired(ReleaseNo),
    /// A release enters although this alarm of the organisation is raised.
    OrganisationAlarm(ReleaseNo, AlarmName),
    /// A release enters although this hold stands.
    Held(ReleaseNo, u64),
    /// A release enters although the team's window is closed.
    WindowClosed(ReleaseNo),
    /// A release waits without a reason.
    NoReason(ReleaseNo),
    /// It is in this phase, and nothing of it moves.
    NothingMoves(&'static str),
    /// A bake that misses nothing goes on.
    BakeIsOver,
    /// Reviewed commits wait, and nothing is built.
    CommitsWait,
    /// It was retired, and this is so.
    NotRetired(&'static str),
    /// Something is awaited until then, and nobody looks by then.
    NoTimer(Awaiting, Timestamp),
}

impl fmt::Display for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Evidence::Together(slots) => {
                let names: Vec<String> = slots.iter().map(ToString::to_string).collect();
                write!(f, "these are deployed to at once: {}", names.join(", "))
            }
            Evidence::TwoSteps(release, one, other) => write!(f, "{release} deploys in {one} and in {other}"),
            Evidence::NoLease(lease) => write!(f, "it is deployed to, and its lease is {lease:?}"),
            Evidence::TooFew { before, after, minimum } => {
                write!(f, "of {before} healthy boxes {after} are left, and {minimum} are needed")
            }
            Evidence::NotPassed(release, before) => {
                write!(f, "{release} is here and has not passed {before}")
            }
            Evidence::NoOneBox(release) => {
                write!(f, "it is brought to {release}, which no one-box of its Region runs")
            }
            Evidence::Stays(release) => {
                write!(f, "it runs {release}, which was rejected, and does not move back")
            }
            Evidence::Rejected(release) => write!(f, "{release} is on its way and was rejected"),
            Evidence::Tainted(release, rejected) => {
                write!(f, "{release} is on its way and contains changes of {rejected}, which was rejected")
            }
            Evidence::Retired(release) => write!(f, "{release} enters although the pipeline was retired"),
            Evidence::OrganisationAlarm(release, alarm) => {
                write!(f, "{release} enters although the organisation's alarm {alarm} is raised")
            }
            Evidence::Held(release, hold) => write!(f, "{release} enters although hold {hold} stands"),
            Evidence::WindowClosed(release) => {
                write!(f, "{release} enters although the team's window is closed")
            }
            Evidence::NoReason(release) => write!(f, "{release} waits without a reason"),
            Evidence::NothingMoves(phase) => write!(f, "it is {phase} and none of its targets moves"),
            Evidence::BakeIsOver => f.write_str("it bakes and misses nothing"),
            Evidence::CommitsWait => f.write_str("its commits wait without a reason"),
            Evidence::NotRetired(what) => write!(f, "it was retired, and {what}"),
            Evidence::NoTimer(what, deadline) => {
                write!(f, "{what} is awaited until {deadline}, and nobody looks by then")
            }
        }
    }
}

/// Something that is awaited.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Awaiting {
    /// A build's result.
    Build(ReleaseNo),
    /// The result of a step's tests.
    Tests(StepId),
    /// Another healthy box of a target.
    Motion(TargetId),
}

impl fmt::Display for Awaiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Awaiting::Build(release) => write!(f, "the build of {release}"),
            Awaiting::Tests(step) => write!(f, "the tests of {step}"),
            Awaiting::Motion(target) => write!(f, "the motion of {target}"),
        }
    }
}

fn slot(pipeline: &PipelineId, target: &TargetId) -> SlotId {
    SlotId { target: target.clone(), pipeline: pipeline.clone() }
}

/// Rule 1: of a service in an environment, over all its pipelines, at most one AZ of a Region is deployed to, under the lease
/// of its pipeline; and a release is deployed in one step at a time, so in no more Regions than that says.
///
/// # Errors
/// The first that is deployed to beside another, or without the lease.
pub fn one_az<'a>(
    pipelines: impl IntoIterator<Item = (&'a PipelineId, &'a Pipeline)>,
    lease: impl Fn(&LeaseId) -> Option<&'a Lease>,
) -> Result<(), Violation> {
    type Place<'a> = (&'a ServiceId, &'a EnvironmentId, &'a RegionId);
    let violation = |subject, evidence| Err(Violation::new(Rule::OneAz, subject, evidence));
    let mut moving: BTreeMap<Place<'_>, BTreeSet<(&PipelineId, &TargetId)>> = BTreeMap::new();
    // What only observes moves nothing.
    for (id, pipeline) in pipelines.into_iter().filter(|(_, pipeline)| !pipeline.observes()) {
        let mut steps = BTreeMap::new();
        for (target, slot) in &pipeline.slots {
            let Motion::Forward { release, .. } = &slot.motion else { continue };
            let place = (&target.service, &target.environment, &target.region);
            moving.entry(place).or_default().insert((id, target));
            let Some((_, step)) = pipeline.plan.step_of(target) else { continue };
            if let Some(other) = steps.insert(*release, &step.id).filter(|other| *other != &step.id) {
                let evidence = Evidence::TwoSteps(*release, other.clone(), step.id.clone());
                return violation(Subject::Pipeline(id.clone()), evidence);
            }
        }
    }
    for ((service, _, _), targets) in &moving {
        for (pipeline, target) in targets {
            let lease = lease(&LeaseId::new(service, Scope::of(target)));
            if !lease.is_some_and(|l| l.is_deploying(pipeline) || l.is_interrupted(pipeline)) {
                let evidence = Evidence::NoLease(lease.cloned().unwrap_or_default());
                return violation(Subject::Slot(slot(pipeline, target)), evidence);
            }
        }
    }
    for ((service, environment, region), targets) in moving {
        if targets.len() > 1 {
            let scope = Scope { environment: environment.clone(), region: region.clone() };
            let together = targets.into_iter().map(|(pipeline, target)| slot(pipeline, target)).collect();
            return violation(Subject::Region(LeaseId::new(service, scope)), Evidence::Together(together));
        }
    }
    Ok(())
}

/// Rule 2: what an engine is asked for leaves a target its minimum of healthy boxes, or as many as it had, whatever new boxes
/// do. `boxes` are those that it has. A one-box has no minimum, values take no box out, and what is drained has none left.
///
/// # Errors
/// It does not.
pub fn minimum(pipeline: &Pipeline, order: &SlotOrder, boxes: &[BoxObservation]) -> Result<(), Violation> {
    let Some(state) = pipeline.slots.get(&order.slot.target) else { return Ok(()) };
    let desired = &order.desired;
    if order.slot.target.role == Role::OneBox || desired.rest.is_some() || desired.split.is_empty() {
        return Ok(());
    }
    let count = |of: usize| u32::try_from(of).unwrap_or(u32::MAX);
    let minimum = minimum_healthy(&pipeline.settings().rolling, state.boxes);
    let healthy = || boxes.iter().filter(|b| b.health.is_healthy());
    let before = count(healthy().count());
    let stay = desired
        .split
        .iter()
        .map(|share| share.boxes.min(count(healthy().filter(|b| b.run_spec == share.run_spec).count())));
    // With a surge nothing leaves before what replaces it is healthy.
    let after = if desired.surge { before } else { stay.sum() };
    if after >= before.min(minimum) {
        return Ok(());
    }
    let evidence = Evidence::TooFew { before, after, minimum };
    Err(Violation::new(Rule::Minimum, Subject::Slot(order.slot.clone()), evidence))
}

/// Rule 3: what is on its way through a step has passed the step before and not been taken back from there.
///
/// # Errors
/// The first step of which that is not so.
pub fn order(id: &PipelineId, pipeline: &Pipeline) -> Result<(), Violation> {
    let done = |id: &StepId| pipeline.steps.get(id).and_then(|state| state.done);
    // The step that has been passed least, of those that come before.
    let mut least: Option<&StepId> = None;
    for stage in &pipeline.plan.stages {
        for (n, step) in stage.steps.iter().enumerate() {
            let here = pipeline.steps.get(&step.id).and_then(|state| state.work.under_way());
            if let (Some((release, _)), Some(before)) = (here, least)
                && done(before) < Some(release)
            {
                let evidence = Evidence::NotPassed(release, before.clone());
                let subject = Subject::Step(id.clone(), step.id.clone());
                return Err(Violation::new(Rule::Order, subject, evidence));
            }
            least = least.filter(|least| n > 0 && done(least) < done(&step.id)).or(Some(&step.id));
        }
        // A wave is passed when its last step is.
        least = stage.steps.last().map(|step| &step.id);
    }
    Ok(())
}

/// Rule 3, of a definition that does not change meanwhile: in production, an AZ is brought to a release that its Region's
/// one-box runs. Definitions are deployed to the server, which is one.
///
/// # Errors
/// The first AZ of which that is not so.
pub fn one_box_first(id: &PipelineId, pipeline: &Pipeline) -> Result<(), Violation> {
    if pipeline.definition.as_ref().is_some_and(|definition| definition.defines().is_some()) {
        return Ok(());
    }
    for (target, state) in &pipeline.slots {
        let Motion::Forward { release, .. } = &state.motion else { continue };
        let production = pipeline.plan.step_of(target).is_some_and(|(stage, _)| stage.production);
        if target.role == Role::OneBox || !production {
            continue;
        }
        let first = pipeline.slots.iter().any(|(other, slot)| {
            other.role == Role::OneBox
                && Scope::of(other) == Scope::of(target)
                && slot.motion == Motion::Settled
                && slot.current() >= Some(*release)
        });
        if !first {
            let (subject, evidence) = (Subject::Slot(slot(id, target)), Evidence::NoOneBox(*release));
            return Err(Violation::new(Rule::Order, subject, evidence));
        }
    }
    Ok(())
}

/// Rule 5: what was rejected moves back in the same commit, wherever its wave is unfinished.
///
/// # Errors
/// The first target that stays on it, or goes on to it.
pub fn returned(id: &PipelineId, pipeline: &Pipeline) -> Result<(), Violation> {
    for (target, state) in &pipeline.slots {
        let release = match &state.motion {
            Motion::Back { .. } => continue,
            Motion::Forward { release, .. } => Some(*release),
            Motion::Settled | Motion::Abandoned { .. } => state.current(),
        };
        let Some(release) = release else { continue };
        if is_rejected(pipeline, release) && pipeline.unfinished(target, release) {
            let (subject, evidence) = (Subject::Slot(slot(id, target)), Evidence::Stays(release));
            return Err(Violation::new(Rule::Rollback, subject, evidence));
        }
    }
    Ok(())
}

fn is_rejected(pipeline: &Pipeline, release: ReleaseNo) -> bool {
    pipeline.releases.get(&release).is_some_and(|r| matches!(r.standing, Standing::Rejected { .. }))
}

/// Rule 6: what is on its way was not rejected, and contains no change of a rejected release that nobody has cleared, unless
/// it, or something between them, reverts or fixes it.
///
/// # Errors
/// The first step of which that is not so.
pub fn untainted(id: &PipelineId, pipeline: &Pipeline) -> Result<(), Violation> {
    for (step, state) in &pipeline.steps {
        let Some((release, _)) = state.work.under_way() else { continue };
        let rejected = is_rejected(pipeline, release).then_some(Evidence::Rejected(release));
        let tainted = || tainted_by(pipeline, release).map(|by| Evidence::Tainted(release, by));
        if let Some(evidence) = rejected.or_else(tainted) {
            let subject = Subject::Step(id.clone(), step.clone());
            return Err(Violation::new(Rule::Taint, subject, evidence));
        }
    }
    Ok(())
}

/// The rejected release whose changes are still in this one; whatever reverts or fixes one of them speaks for it.
fn tainted_by(pipeline: &Pipeline, release: ReleaseNo) -> Option<ReleaseNo> {
    let standing = pipeline.taints.iter().filter(|(by, taint)| taint.cleared.is_none() && **by < release);
    let mut unanswered = standing.filter(|(_, taint)| {
        let changes = || pipeline.releases.range(taint.first..=release).flat_map(|(_, r)| &r.changes);
        let contained = changes().any(|c| taint.commits.contains(&c.commit.id));
        let answered = changes().any(|c| {
            taint.commits.iter().any(|t| c.commit.reverts.contains(t) || c.commit.names_as_fixed(t))
        });
        contained && !answered
    });
    unanswered.next().map(|(by, _)| *by)
}

/// Rule 7: whether a release may enter a step as this fact says, judged on the states from before it; other facts are no
/// starts. Of the team's alarms only what they were then could tell.
///
/// # Errors
/// Retirement, an alarm of the organisation, a hold or the window speaks against it, and no override stands for that.
pub fn start(
    id: &PipelineId,
    pipeline: &Pipeline,
    team: Option<&Team>,
    organisation: Option<&Organisation>,
    fact: &PipelineFact,
    now: Timestamp,
) -> Result<(), Violation> {
    let PipelineFact::Entered { step, release, overrides, .. } = fact else { return Ok(()) };
    let open = opened(pipeline, step, *release, overrides, now);
    let Some((stage, _)) = pipeline.plan.step(step) else { return Ok(()) };
    let raised = || organisation.and_then(|o| o.alarms.keys().next());
    let held = pipeline.holds.iter().find(|(_, hold)| {
        hold.until.is_none_or(|until| until > now) && hold.stage.as_ref().is_none_or(|s| *s == stage.id)
    });
    let windows = || team.and_then(|t| t.definition.as_ref()).map(|d| &d.windows);
    let shut = || windows().is_some_and(|w| matches!(w.check(now), WindowState::Closed { .. }));
    let against = if !pipeline.life.is_active() {
        Some(Evidence::Retired(*release))
    } else if let Some(alarm) = raised().filter(|_| !open.contains(&Blocker::OrganisationAlarm)) {
        Some(Evidence::OrganisationAlarm(*release, alarm.clone()))
    } else if let Some((number, _)) = held.filter(|_| !open.contains(&Blocker::Hold)) {
        Some(Evidence::Held(*release, *number))
    } else {
        let closed = stage.production && !open.contains(&Blocker::Window) && shut();
        closed.then_some(Evidence::WindowClosed(*release))
    };
    let violation = |evidence| Violation::new(Rule::Start, Subject::Step(id.clone(), step.clone()), evidence);
    against.map_or(Ok(()), |evidence| Err(violation(evidence)))
}

/// The blockers that these overrides open for a release at a step.
#[must_use]
pub fn opened(
    pipeline: &Pipeline,
    step: &StepId,
    release: ReleaseNo,
    overrides: &[u64],
    now: Timestamp,
) -> BTreeSet<Blocker> {
    let given = overrides.iter().filter_map(|n| pipeline.overrides.get(n));
    given
        .filter(|o| o.release == release && o.expires > now)
        .filter(|o| o.steps.is_empty() || o.steps.contains(step))
        .flat_map(|o| o.blockers.iter().copied())
        .collect()
}

/// Everything that a pipeline awaits, and until when.
pub fn awaited(pipeline: &Pipeline) -> impl Iterator<Item = (Awaiting, Timestamp)> {
    let builds = pipeline.releases.iter().filter_map(|(no, r)| match &r.build {
        Build::Building { awaited, .. } => Some((Awaiting::Build(*no), awaited.deadline)),
        Build::Failed { .. } | Build::Built { .. } => None,
    });
    let tests = pipeline.steps.iter().filter_map(|(step, s)| match &s.work {
        Work::Testing { awaited, .. } => Some((Awaiting::Tests(step.clone()), awaited.deadline)),
        _ => None,
    });
    let slots = pipeline.slots.iter().filter_map(|(target, s)| match &s.motion {
        Motion::Forward { awaited, .. } | Motion::Back { awaited, .. } => {
            Some((Awaiting::Motion(target.clone()), awaited.deadline))
        }
        Motion::Settled | Motion::Abandoned { .. } => None,
    });
    builds.chain(tests).chain(slots)
}

/// Rule 8, the second half: somebody looks (`due`) when the first deadline is over, or at `soonest` if it is over by then.
///
/// # Errors
/// Nobody does.
pub fn deadlines(
    id: &PipelineId,
    pipeline: &Pipeline,
    due: Option<Timestamp>,
    soonest: Timestamp,
) -> Result<(), Violation> {
    let Some((what, deadline)) = awaited(pipeline).min_by_key(|(_, deadline)| *deadline) else {
        return Ok(());
    };
    if due.is_some_and(|due| due <= deadline.max(soonest)) {
        return Ok(());
    }
    let evidence = Evidence::NoTimer(what, deadline);
    Err(Violation::new(Rule::Waiting, Subject::Pipeline(id.clone()), evidence))
}

/// Rule 8, the first half: whatever waits has a reason, and what is retired has an end. To be asked of a pipeline that is not
/// about to look again.
///
/// # Errors
/// The first that waits for nothing.
pub fn reasons(id: &PipelineId, pipeline: &Pipeline, team: Option<&Team>) -> Result<(), Violation> {
    for (step, state) in &pipeline.steps {
        // What is left of a step that a definition no longer has waits for nothing.
        let Some((_, planned)) = pipeline.plan.step(step) else { continue };
        let newest = state.work.under_way().map(|(r, _)| r).max(state.done);
        let motion = |t: &Target| pipeline.slots.get(&t.id).map(|slot| &slot.motion);
        let moves = || planned.targets.iter().any(|t| motion(t).is_some_and(|m| *m != Motion::Settled));
        let nothing = match &state.work {
            Work::Deploying { .. } | Work::RollingBack { .. } if !moves() => {
                Some(Evidence::NothingMoves(state.work.phase()))
            }
            Work::Baking { clock, .. } if clock.missing().is_empty() => Some(Evidence::BakeIsOver),
            _ => None,
        };
        let unreasoned =
            state.candidate.filter(|c| newest.is_none_or(|n| n < *c) && state.waiting.is_empty());
        if let Some(evidence) = unreasoned.map(Evidence::NoReason).or(nothing) {
            let subject = Subject::Step(id.clone(), step.clone());
            return Err(Violation::new(Rule::Waiting, subject, evidence));
        }
    }
    let building = pipeline.releases.values().any(|r| matches!(r.build, Build::Building { .. }));
    let Some(team) = team.filter(|_| !building) else { return Ok(()) };
    let approved = |s: &SourceState| !s.pending.is_empty() && unreviewed(s, team).is_empty();
    // A release has a commit of every source, so it waits for those that have none yet.
    if !pipeline.sources.values().all(|s| s.released.is_some() || approved(s)) {
        return Ok(());
    }
    let waits = pipeline.sources.iter().find(|(_, s)| approved(s));
    waits.map_or(Ok(()), |(source, _)| {
        let subject = Subject::Source(id.clone(), source.clone());
        Err(Violation::new(Rule::Waiting, subject, Evidence::CommitsWait))
    })
}

/// Rule 8, of a retired pipeline: it has nothing in work but rollbacks, and is retired when those have ended.
///
/// # Errors
/// It goes on, or does not end.
pub fn retirement(id: &PipelineId, pipeline: &Pipeline) -> Result<(), Violation> {
    let motion = |wanted: fn(&Motion) -> bool| pipeline.slots.values().any(|slot| wanted(&slot.motion));
    let back = motion(|m| matches!(m, Motion::Back { .. }));
    let so = match &pipeline.life {
        Life::Active => None,
        Life::Retiring(_) if !back => Some("nothing is taken back any more, and it has not ended"),
        Life::Retiring(_) | Life::Retired(_) if motion(|m| matches!(m, Motion::Forward { .. })) => {
            Some("something goes forward")
        }
        Life::Retiring(_) | Life::Retired(_) => {
            let works = pipeline.steps.values().find(|step| step.work.under_way().is_some());
            works.map(|step| step.work.phase())
        }
    };
    let violation =
        |what| Violation::new(Rule::Waiting, Subject::Pipeline(id.clone()), Evidence::NotRetired(what));
    so.map_or(Ok(()), |what| Err(violation(what)))
}

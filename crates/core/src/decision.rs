//! What a decision is made of: who caused it, what follows from it (facts), what shall be done (effects), and who has to
//! look again (wakes). The runtime commits all of it in one transaction, or nothing.

use crate::definition::{BuildDef, PageTarget, SourceDef, TestSpec};
use crate::engine::{Desired, RunningProcess};
use crate::ids::{CommitId, PipelineId, ReleaseNo, RunSpecDigest, SlotId, SourceId, TeamId, UserId};
use crate::ids::{EnvironmentId, PackageDigest, RegionId, ServiceId};
use crate::lease::{LeaseFact, LeaseId};
use crate::organisation::{OrganisationEvent, OrganisationFact};
use crate::pipeline::{PipelineEvent, PipelineFact};
use crate::plan::StepId;
use crate::run_spec::RunSpec;
use crate::team::{TeamEvent, TeamFact};
use crate::units::{Span, Timestamp};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// Who or what caused an event; every entry of the log names one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Actor {
    /// A person.
    User(UserId),
    /// tidegate itself: a timer, an observation, an alarm.
    Tidegate,
    /// Somebody at a machine of the fleet, by the name that its system knows.
    Machine(String),
    /// Definitions that were deployed by a pipeline: whoever wrote and approved its commits.
    Release {
        /// The pipeline.
        pipeline: PipelineId,
        /// The release that brought them.
        release: ReleaseNo,
    },
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Actor::User(user) => write!(f, "{user}"),
            Actor::Tidegate => f.write_str("tidegate"),
            Actor::Machine(user) => write!(f, "{user} at the machine"),
            Actor::Release { pipeline, release } => write!(f, "{pipeline} {release}"),
        }
    }
}

/// An event that does not fit the state: nothing happens, and whoever sent it is told why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Illegal {
    /// For people, as a lower-case fragment.
    pub message: String,
}

impl Illegal {
    /// With this message.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into() }
    }
}

/// Names one aggregate: a unit of state with its own log.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum AggregateId {
    /// The organisation.
    Organisation,
    /// A team.
    Team(TeamId),
    /// A pipeline.
    Pipeline(PipelineId),
    /// The lease of a service in a Region of an environment.
    Lease(LeaseId),
}

impl fmt::Display for AggregateId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AggregateId::Organisation => f.write_str("organisation"),
            AggregateId::Team(id) => write!(f, "team/{id}"),
            AggregateId::Pipeline(id) => write!(f, "pipeline/{id}"),
            AggregateId::Lease(id) => write!(f, "lease/{id}"),
        }
    }
}

/// What happened to one aggregate. State is the fold of these.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Fact {
    /// To the organisation.
    Organisation(OrganisationFact),
    /// To a team.
    Team(TeamFact),
    /// To a pipeline.
    Pipeline(PipelineFact),
    /// To a lease.
    Lease(LeaseFact),
}

/// What an aggregate can be told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Event {
    /// To the organisation.
    Organisation(OrganisationEvent),
    /// To a team.
    Team(TeamId, TeamEvent),
    /// To a pipeline.
    Pipeline(PipelineId, PipelineEvent),
}

impl Event {
    /// The aggregate that it is for.
    #[must_use]
    pub fn aggregate(&self) -> AggregateId {
        match self {
            Event::Organisation(_) => AggregateId::Organisation,
            Event::Team(id, _) => AggregateId::Team(id.clone()),
            Event::Pipeline(id, _) => AggregateId::Pipeline(id.clone()),
        }
    }
}

/// Names an effect: unique in its pipeline or team, never used again. It is the idempotency key.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EffectId(pub String);

impl fmt::Display for EffectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for EffectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Something to do in the world, committed before it is done and performed at least once.
#[must_use]
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Effect {
    /// Goes forward, in the forward lane.
    Forward(ForwardEffect),
    /// Takes something back, in a lane with queue and workers of its own (X1).
    Rollback(RollbackEffect),
}

/// Effects that a full disk, a busy queue or a hold may delay.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum ForwardEffect {
    /// Build a release; the result comes back as [`PipelineEvent::BuildEnded`].
    Build(BuildOrder),
    /// Bring a slot forward; the result comes back as observations.
    Deploy(SlotOrder),
    /// Run a step's tests; the result comes back as [`PipelineEvent::TestsEnded`].
    Test(TestOrder),
    /// Tell the on-call engineer; nothing waits for it.
    Page(Page),
}

/// Effects of a rollback.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum RollbackEffect {
    /// Take a slot back; the result comes back as observations.
    Return(SlotOrder),
}

/// What a slot shall be brought to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SlotOrder {
    /// The slot.
    pub slot: SlotId,
    /// Orders the commands to this slot; the server's epoch is added when it is sent.
    pub generation: u64,
    /// The split; its RunSpecs are documents of the store.
    pub desired: Desired,
    /// It is there already: the engine takes it up and moves nothing. The processes of a fleet; none of a team's commands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub takes_up: Option<Vec<RunningProcess>>,
    /// What somebody did at the machine that this order knows of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acknowledges: Option<String>,
}

/// What to build.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BuildOrder {
    /// The pipeline.
    pub pipeline: PipelineId,
    /// The release that it is for.
    pub release: ReleaseNo,
    /// One commit of each source.
    pub commits: BTreeMap<SourceId, CommitId>,
    /// The sources, as they were defined when the release was made.
    pub sources: Vec<SourceDef>,
    /// How to build, as it was defined then.
    pub build: BuildDef,
}

/// What to test.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TestOrder {
    /// The pipeline.
    pub pipeline: PipelineId,
    /// The step that waits for the result.
    pub step: StepId,
    /// What is tested, and where the test programs are.
    pub release: ReleaseNo,
    /// The package with the test programs.
    pub package: PackageDigest,
    /// The service.
    pub service: ServiceId,
    /// Whose endpoints are called.
    pub environment: EnvironmentId,
    /// In each of these Regions.
    pub regions: Vec<RegionId>,
    /// Other services' endpoints that the tests may need, and their environment.
    pub endpoints: BTreeMap<ServiceId, EnvironmentId>,
    /// The tests.
    pub tests: Vec<TestSpec>,
}

/// How urgent a page is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// Wakes somebody.
    High,
    /// Can wait for the morning.
    Low,
}

/// A message for the on-call engineer (M6).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Page {
    /// The same for all pages about one thing.
    pub key: String,
    /// How urgent it is.
    pub severity: Severity,
    /// One line.
    pub title: String,
    /// What, where, why, since when, and what to run next.
    pub text: String,
    /// When it was decided.
    pub at: Timestamp,
    /// Where it goes.
    pub to: Vec<PageTarget>,
    /// Whether it begins or ends.
    #[serde(default, skip_serializing_if = "PageKind::is_opened")]
    pub kind: PageKind,
    /// The release that it is about: what its boxes served is told as well, as far as metrics say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub about: Option<PageAbout>,
}

/// Whether a page calls somebody, or says that its matter is over.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PageKind {
    /// It calls somebody.
    #[default]
    Opened,
    /// What it was sent for is over.
    Resolved,
}

impl PageKind {
    fn is_opened(&self) -> bool {
        *self == PageKind::Opened
    }
}

/// A release of a pipeline.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PageAbout {
    /// The pipeline.
    pub pipeline: PipelineId,
    /// The release.
    pub release: ReleaseNo,
}

/// A new effect with its name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewEffect {
    /// Its name.
    pub id: EffectId,
    /// What to do.
    pub effect: Effect,
}

/// Everything that follows from one event. Empty when nothing does.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Decision {
    /// In the order in which they happened; facts of several aggregates are committed together.
    pub facts: Vec<(AggregateId, Fact)>,
    /// What to do.
    pub effects: Vec<NewEffect>,
    /// Effects that need not be done any more.
    pub cancelled: Vec<EffectId>,
    /// RunSpecs that effects refer to.
    pub run_specs: Vec<(RunSpecDigest, RunSpec)>,
    /// Aggregates that have to look again at once, because what they rely on has changed.
    pub wake: Vec<AggregateId>,
    /// Every pipeline has to look again.
    pub wake_all: bool,
    /// When this aggregate has to be told the time again at the latest; `None` if only an event can change anything.
    pub due: Option<Timestamp>,
}

/// How an effect or a step ended before its time: how long it may take at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Awaited {
    /// Since when.
    pub since: Timestamp,
    /// When it is given up.
    pub deadline: Timestamp,
}

impl Awaited {
    /// From now on for at most `limit`.
    #[must_use]
    pub fn new(now: Timestamp, limit: Span) -> Awaited {
        Awaited { since: now, deadline: now + limit }
    }
}

//! What people write and apply: the organisation and its pipelines, as canonical JSON. A richer way to write them
//! comes out as this same model. Whatever is not written has the article's figure as its default.
//!
//! Reading checks shapes (unknown fields, units, names); what only shows over several values is checked by
//! [`crate::lint`]; where a pipeline's steps come from is [`crate::plan`].

mod connections;
mod defaults;

pub use connections::{
    Accounts, AlertmanagerDef, EmailDef, GithubDef, GitlabDef, MailTls, PageTarget, PagerDutyDef,
    PrometheusDef, ReviewDef, SlackDef,
};
pub use defaults::{
    Bake, BakeDef, DataRequirement, DefaultsDef, Profile, RollbackScope, Rolling, RollingDef, Settings,
};

use crate::alarm::{MetricAlarm, OutsideAlarm};
use crate::expr::Expression;
use crate::ids::{
    AzId, CommitId, EnvironmentId, PipelineId, RegionId, SecretName, ServiceId, SourceId, StageId, TeamId,
    UserId,
};
use crate::run_spec::{CommandSpec, ConfigurationSpec, DefinitionsSpec, ProcessSpec};
use crate::units::Span;
use crate::window::Windows;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The schema names that this version reads and writes.
pub const ORGANISATION_SCHEMA: &str = "tidegate.organisation/1";
/// As [`ORGANISATION_SCHEMA`], of a pipeline.
pub const PIPELINE_SCHEMA: &str = "tidegate.pipeline/1";

/// People, teams, services and the central Region list (C2).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OrganisationDef {
    /// Always `tidegate.organisation/1`.
    pub schema: String,
    /// For people.
    pub name: String,
    /// Everybody who may be given a token.
    pub users: Vec<UserDef>,
    /// The teams.
    pub teams: Vec<TeamDef>,
    /// The services, each owned by one team.
    pub services: Vec<ServiceDef>,
    /// All Regions, in any order; the planner orders them by traffic.
    pub regions: Vec<RegionDef>,
    /// The Prometheus that alarms' PromQL is asked of, unless a team has its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prometheus: Option<PrometheusDef>,
}

/// A person.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UserDef {
    /// The name that approvals, holds and the log show.
    pub name: UserId,
    /// Addresses under which this person commits: who wrote a commit cannot approve it (R1).
    #[serde(default)]
    pub emails: Vec<String>,
    /// The names under which this person reviews changes on forges.
    #[serde(default, skip_serializing_if = "Accounts::is_empty")]
    pub accounts: Accounts,
    /// Beyond what membership in a team gives.
    #[serde(default)]
    pub roles: Vec<OrgRole>,
}

/// A role in the whole organisation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum OrgRole {
    /// May apply definitions, set the organisation's alarms, and make tokens.
    Administrator,
    /// May dial down bake times in an emergency (K5).
    PrincipalEngineer,
}

/// A team.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TeamDef {
    /// Its name.
    pub name: TeamId,
    /// Who may review and steer.
    pub members: Vec<UserId>,
    /// Who may say beside them in which state the team's alarms from outside are, and nothing else: programs, such as an
    /// Alertmanager.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reporters: Vec<UserId>,
    /// Whether a commit may be approved after it was merged; the record says that it was late.
    #[serde(default)]
    pub late_approval: LateApproval,
    /// When deployments to production may start (W4).
    #[serde(default)]
    pub windows: Windows,
    /// Where the on-call engineer is paged (M6).
    #[serde(default)]
    pub pages: Vec<PageTarget>,
    /// The high-severity aggregate alarm (M3); without one, any service's high-severity alarm or the canaries' alarm.
    #[serde(default)]
    pub aggregate: Option<Expression>,
    /// The Prometheus that its alarms' PromQL is asked of; without one, the organisation's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prometheus: Option<PrometheusDef>,
    /// How critical its services are that do not say it themselves.
    #[serde(default, skip_serializing_if = "Profile::is_standard")]
    pub profile: Profile,
    /// What its pipelines do not say themselves, in one place: for its standard services and for its critical ones. What is
    /// not said here either is the profile's.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub defaults: BTreeMap<Profile, DefaultsDef>,
}

/// What a team thinks of approvals that come after the merge.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum LateApproval {
    /// They do not count: the commit has to be reverted and to come again.
    #[default]
    Forbid,
    /// They count and are marked as late.
    Allow,
}

/// A service.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ServiceDef {
    /// Its name.
    pub name: ServiceId,
    /// The owner.
    pub team: TeamId,
    /// Its metric alarms in every environment and Region, those of its one-boxes included (M1, M4, T4); without any, the
    /// standard set. An alarm over canary failures belongs to the canaries' composite.
    #[serde(default)]
    pub alarms: Vec<MetricAlarm>,
    /// Alarms beside these whose state comes from outside, in every environment and Region.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub outside: Vec<OutsideAlarm>,
    /// Synthetic tests that run continuously against every environment and Region.
    #[serde(default)]
    pub canaries: Vec<CanarySpec>,
    /// How critical it is; as its team says without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<Profile>,
}

/// A continuous synthetic test of one API, as a customer would call it (T3, M3).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CanarySpec {
    /// Unique within the service.
    pub name: String,
    /// HTTP method.
    #[serde(default = "CanarySpec::default_method")]
    pub method: String,
    /// Path and query, beginning with '/'.
    pub path: String,
    /// Request body.
    #[serde(default)]
    pub body: Option<String>,
    /// The status that counts as success.
    #[serde(default = "CanarySpec::default_status")]
    pub expect_status: u16,
    /// A text that the answer must contain.
    #[serde(default)]
    pub expect_body_contains: Option<String>,
    /// From the start of one run to the start of the next.
    #[serde(default = "CanarySpec::default_every")]
    pub every: Span,
    /// Limit of one run.
    #[serde(default = "CanarySpec::default_timeout")]
    pub timeout: Span,
}

impl CanarySpec {
    fn default_method() -> String {
        "GET".to_owned()
    }
    fn default_status() -> u16 {
        200
    }
    fn default_every() -> Span {
        Span::seconds(10)
    }
    fn default_timeout() -> Span {
        Span::seconds(5)
    }
}

/// A Region of the central list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RegionDef {
    /// Its name.
    pub name: RegionId,
    /// Its AZs or cells, in the order in which they are deployed to; at least one.
    pub azs: Vec<AzId>,
    /// Relative traffic, in any unit that is the same for all; the planner puts the lowest first (P2).
    pub traffic: u64,
}

/// A pipeline.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PipelineDef {
    /// Always `tidegate.pipeline/1`.
    pub schema: String,
    /// Its name, unique in the organisation.
    pub name: PipelineId,
    /// The service whose targets it deploys to.
    pub service: ServiceId,
    /// Where its changes come from; at least one (S2).
    pub sources: Vec<SourceDef>,
    /// How a package is made of them.
    pub build: BuildDef,
    /// What its targets run.
    pub run: RunDef,
    /// Pre-production stages and production, in order.
    pub stages: Vec<StageDef>,
    /// Batch sizes.
    #[serde(default, skip_serializing_if = "RollingDef::is_empty")]
    pub rolling: RollingDef,
    /// What a rejection returns; as its team's defaults say without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollback: Option<RollbackScope>,
    /// Whether it moves anything.
    #[serde(default, skip_serializing_if = "Mode::is_act")]
    pub mode: Mode,
}

/// Whether a pipeline moves anything.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// It does what it decides.
    #[default]
    Act,
    /// It decides and records what it would do, and moves nothing: to be watched beside the tool that deploys today.
    ObserveOnly,
}

impl Mode {
    fn is_act(&self) -> bool {
        *self == Mode::Act
    }
}

impl PipelineDef {
    /// Whether it deploys definitions to the server itself: what that may define.
    #[must_use]
    pub fn defines(&self) -> Option<&DefinitionsSpec> {
        match &self.run.engine {
            EngineDef::Definitions(definitions) => Some(definitions),
            EngineDef::Process(_) | EngineDef::Command(_) | EngineDef::Configuration(_) => None,
        }
    }
}

/// A git repository and branch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SourceDef {
    /// Its name in this pipeline; also the folder that the build finds it in.
    pub name: SourceId,
    /// Any git URL.
    pub url: String,
    /// The mainline.
    #[serde(default = "SourceDef::default_branch")]
    pub branch: String,
    /// The name of a secret that opens it.
    #[serde(default)]
    pub secret: Option<SecretName>,
    /// Commits up to and including this one count as reviewed: the history that was there before tidegate.
    #[serde(default)]
    pub since: Option<CommitId>,
    /// How often it is looked at when nobody notifies.
    #[serde(default = "SourceDef::default_poll")]
    pub poll: Span,
    /// Where its changes are reviewed, so that what was approved there needs no other approval.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub review: Option<ReviewDef>,
}

impl SourceDef {
    fn default_branch() -> String {
        "main".to_owned()
    }
    fn default_poll() -> Span {
        Span::minutes(1)
    }
}

/// How packages are built, in a sandbox (B1 to B4).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BuildDef {
    /// Commands with network, cached by the digest of `lock_files`.
    #[serde(default)]
    pub fetch: Vec<BuildStep>,
    /// Files that decide what `fetch` brings, relative to the sources.
    #[serde(default)]
    pub lock_files: Vec<String>,
    /// Commands without network: compile, lint, test.
    #[serde(default)]
    pub steps: Vec<BuildStep>,
    /// What goes into the package.
    pub package: Vec<PackagePath>,
    /// Environment of all commands.
    #[serde(default)]
    pub environment: BTreeMap<String, String>,
    /// Limits of the whole build.
    #[serde(default)]
    pub limits: BuildLimits,
}

/// One command of a build.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BuildStep {
    /// For people and logs.
    pub name: String,
    /// Program and arguments; no shell unless it is named.
    pub run: Vec<String>,
}

/// A file or folder that goes into the package.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PackagePath {
    /// Relative to the sources.
    pub from: String,
    /// Relative to the package's root.
    pub to: String,
}

/// Limits of a build.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct BuildLimits {
    /// From start to end.
    pub time: Span,
    /// CPU time of one command, in seconds.
    pub cpu_seconds: u64,
    /// Memory of all processes together, in MiB.
    pub memory_mib: u64,
    /// Processes and threads at once.
    pub processes: u64,
    /// Output of one build, in MiB.
    pub output_mib: u64,
    /// The largest file that it may write, in MiB.
    pub file_mib: u64,
}

impl Default for BuildLimits {
    fn default() -> Self {
        Self {
            time: Span::minutes(30),
            cpu_seconds: 3_600,
            memory_mib: 4_096,
            processes: 512,
            output_mib: 64,
            file_mib: 2_048,
        }
    }
}

/// What targets run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RunDef {
    /// The kind of thing that they run.
    pub engine: EngineDef,
    /// Environment variables.
    #[serde(default)]
    pub environment: BTreeMap<String, String>,
    /// Environment variables whose values are secrets, by name.
    #[serde(default)]
    pub secrets: BTreeMap<String, SecretName>,
    /// Services that it calls; the stage says in which environment (T5).
    #[serde(default)]
    pub calls: Vec<ServiceId>,
}

/// The kind of thing that is deployed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum EngineDef {
    /// A server process under the local fleet.
    Process(ProcessSpec),
    /// The team's own commands.
    Command(CommandSpec),
    /// Values for the boxes of the same service that another pipeline's processes are: as many as there are of those, so
    /// `boxes_per_az` says nothing here.
    Configuration(ConfigurationSpec),
    /// Definitions of this server's pipelines: one stage in one Region, where it is one unit whatever the Region's AZs.
    Definitions(DefinitionsSpec),
}

/// An environment that releases pass: beta, gamma, or production with its waves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StageDef {
    /// The environment; `production` is planned in waves and obeys windows.
    pub environment: EnvironmentId,
    /// The Regions that it stands in; empty for all of the central list.
    #[serde(default)]
    pub regions: Vec<RegionId>,
    /// Boxes of each AZ's main fleet.
    #[serde(default = "StageDef::default_boxes")]
    pub boxes_per_az: u32,
    /// Whether each Region has a permanent one-box that is deployed to first (T3, P4).
    #[serde(default)]
    pub one_box: bool,
    /// Production: waves placed by hand. Without any the planner lays them out (P2).
    #[serde(default)]
    pub waves: Vec<WaveDef>,
    /// Commands that are run against the environment after each step's deployment.
    #[serde(default)]
    pub tests: Vec<TestSpec>,
    /// Bake times.
    #[serde(default, skip_serializing_if = "BakeDef::is_empty")]
    pub bake: BakeDef,
    /// The environment whose endpoints are called for services of other teams; without one, production (T5).
    #[serde(default)]
    pub others: Option<EnvironmentId>,
    /// The environment whose endpoints are called for the team's own services; without one, this stage's (T5); zeta
    /// names production here.
    #[serde(default)]
    pub own: Option<EnvironmentId>,
}

impl StageDef {
    fn default_boxes() -> u32 {
        3
    }

    /// Whether this is the production environment.
    #[must_use]
    pub fn is_production(&self) -> bool {
        self.environment.as_str() == "production"
    }
}

/// A wave that was placed by hand.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WaveDef {
    /// A stable name; `wave-1`, `wave-2`, ... without one.
    #[serde(default)]
    pub name: Option<StageId>,
    /// Its Regions.
    pub regions: Vec<RegionId>,
    /// Its steps after the one-box, each a list of `region/az`; without any, the first AZ of every Region, then the
    /// second, and so on.
    #[serde(default)]
    pub steps: Vec<Vec<String>>,
}

/// A test of a stage: a program in the package, run against the environment's endpoints (T2).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TestSpec {
    /// For people and logs.
    pub name: String,
    /// Program (relative to the package) and arguments.
    pub run: Vec<String>,
    /// Limit of one run.
    #[serde(default = "TestSpec::default_time_limit")]
    pub time_limit: Span,
}

impl TestSpec {
    fn default_time_limit() -> Span {
        Span::minutes(10)
    }
}

/// The organisation's definition, or a pipeline's.
#[derive(Debug, Clone, PartialEq)]
pub enum Definition {
    /// The organisation's.
    Organisation(Box<OrganisationDef>),
    /// A pipeline's.
    Pipeline(Box<PipelineDef>),
}

impl OrganisationDef {
    /// The service's definition.
    #[must_use]
    pub fn service(&self, id: &ServiceId) -> Option<&ServiceDef> {
        self.services.iter().find(|s| &s.name == id)
    }

    /// The team's definition.
    #[must_use]
    pub fn team(&self, id: &TeamId) -> Option<&TeamDef> {
        self.teams.iter().find(|t| &t.name == id)
    }

    /// The Region's entry.
    #[must_use]
    pub fn region(&self, id: &RegionId) -> Option<&RegionDef> {
        self.regions.iter().find(|r| &r.name == id)
    }

    /// The names that users have on forges, of those who have any.
    #[must_use]
    pub fn accounts(&self) -> BTreeMap<UserId, Accounts> {
        let known = self.users.iter().filter(|user| !user.accounts.is_empty());
        known.map(|user| (user.name.clone(), user.accounts.clone())).collect()
    }

    /// The user's entry.
    #[must_use]
    pub fn user(&self, id: &UserId) -> Option<&UserDef> {
        self.users.iter().find(|u| &u.name == id)
    }
}

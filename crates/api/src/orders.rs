//! What people tell the server to do. Every order that weakens or stops something carries a reason.

use crate::Finding;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use tidegate_core::alarm::AlarmState;
use tidegate_core::definition::{OrganisationDef, PipelineDef};
use tidegate_core::ids::{
    EnvironmentId, PackageDigest, PipelineId, RegionId, ReleaseNo, SecretName, StageId, TargetId, TeamId,
    UserId,
};
use tidegate_core::pipeline::Blocker;
use tidegate_core::plan::StepId;
use tidegate_core::units::{Span, Timestamp};
use utoipa::ToSchema;

/// Something was done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Done {
    /// Always 1.
    pub version: u32,
    /// What, for people.
    pub text: String,
    /// The number of the hold, override or skip that was made.
    pub number: Option<u64>,
}

/// A definition was taken, or would be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Applied {
    /// Always 1.
    pub version: u32,
    /// The organisation or the pipeline, by its name.
    pub name: String,
    /// Whether it differs from what was there.
    pub changed: bool,
    /// It was only looked at.
    pub dry_run: bool,
    /// Always empty: a definition with findings is refused.
    pub findings: Vec<Finding>,
}

/// Definitions that are to be taken together, or none of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Definitions {
    /// Each as the text of its JSON document, in any order: so a finding can show its line.
    pub definitions: Vec<String>,
}

/// Definitions were taken together, or would be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AllApplied {
    /// Always 1.
    pub version: u32,
    /// Each, in the order in which they were sent.
    pub applied: Vec<Applied>,
}

/// The organisation's definition as it was applied.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct OrganisationDefinition {
    /// Always 1.
    pub version: u32,
    /// As described by `/v1/schemas/organisation.json`, with every default written out.
    #[schema(value_type = Object)]
    pub definition: OrganisationDef,
}

/// A pipeline's definition as it was applied.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PipelineDefinition {
    /// Always 1.
    pub version: u32,
    /// The pipeline is retired or on its way there; applying its definition revives it.
    pub retired: bool,
    /// As described by `/v1/schemas/pipeline.json`, with every default written out.
    #[schema(value_type = Object)]
    pub definition: PipelineDef,
}

/// A member of the team has read exactly this commit and agrees.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ApprovalRequest {
    /// The commit's full name, or at least 7 digits of one that a pipeline of the team has seen.
    pub commit: String,
    /// The team for which it is approved; needed by members of several.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub team: Option<TeamId>,
}

/// Stops new starts of a pipeline.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct HoldRequest {
    /// Why.
    pub reason: String,
    /// After which time it ends by itself, such as `2h`; without one it stands until it is lifted.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub expires_in: Option<Span>,
    /// Only this stage.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub stage: Option<StageId>,
}

/// Lets one release pass blockers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct OverrideRequest {
    /// The release's number.
    #[schema(value_type = u64)]
    pub release: ReleaseNo,
    /// `window`, `aggregate-alarm`, `organisation-alarm`, `hold`.
    #[schema(value_type = Vec<String>)]
    pub blockers: BTreeSet<Blocker>,
    /// At these steps, such as `wave-1/one-box`; at all when empty.
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    pub steps: BTreeSet<StepId>,
    /// Why.
    pub reason: String,
    /// After which time it ends, such as `1h`.
    #[schema(value_type = String)]
    pub expires_in: Span,
}

/// Leaves a Region out of starts. What runs there stays, and catches up through its own steps when the skip is lifted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SkipRequest {
    /// The Region.
    #[schema(value_type = String)]
    pub region: RegionId,
    /// In this environment; production unless another is named.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub environment: Option<EnvironmentId>,
    /// Only this release; all of them until it is lifted when none is named.
    #[serde(default)]
    #[schema(value_type = Option<u64>)]
    pub release: Option<ReleaseNo>,
    /// Why.
    pub reason: String,
}

/// Deletes a pipeline: what is being taken back goes on, everything else is cancelled, boxes run on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RetireRequest {
    /// Why.
    pub reason: String,
}

/// Rejects a release: it is rolled back wherever it is under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RollbackRequest {
    /// The release's number.
    #[schema(value_type = u64)]
    pub release: ReleaseNo,
    /// Why.
    pub reason: String,
    /// Waves that have finished return as well.
    #[serde(default)]
    pub everywhere: bool,
}

/// Tries a failed build, or a release that was rejected, again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RetryRequest {
    /// The release's number.
    #[schema(value_type = u64)]
    pub release: ReleaseNo,
    /// Why.
    pub reason: String,
}

/// Raises or clears an alarm of the organisation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AlarmRequest {
    /// Why.
    pub reason: String,
}

/// Says in which state an alarm from outside is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReportRequest {
    /// `ok`, `alarm` or `insufficient-data`.
    #[schema(value_type = String)]
    pub state: AlarmState,
    /// Why, for people.
    pub why: String,
    /// When it was so, in milliseconds since 1970-01-01T00:00:00Z; now without one. What is not newer than what is known
    /// changes nothing.
    #[serde(default)]
    #[schema(value_type = Option<i64>)]
    pub at: Option<Timestamp>,
    /// How long it counts, such as `2m`, if shorter than the alarm's time to live.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub ttl: Option<Span>,
}

/// What became of an Alertmanager's message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AlertsTaken {
    /// Always 1.
    pub version: u32,
    /// Alerts that were understood.
    pub taken: usize,
    /// The others.
    pub ignored: Vec<IgnoredAlert>,
}

/// An alert that says nothing to tidegate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct IgnoredAlert {
    /// Its name.
    pub alert: String,
    /// Why it was ignored.
    pub why: String,
}

/// A repository has new commits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NotifyRequest {
    /// As it stands in the pipelines' definitions.
    pub url: String,
}

/// Makes a token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TokenRequest {
    /// For this user.
    #[schema(value_type = String)]
    pub user: UserId,
}

/// A secret's value, on its way in. It is never told again.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SecretRequest {
    /// 4 bytes to 64 KiB, without NUL; one newline at its end is not part of it.
    pub value: String,
}

impl std::fmt::Debug for SecretRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SecretRequest([secret])")
    }
}

/// The secrets that are kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SecretNames {
    /// Always 1.
    pub version: u32,
    /// Their names, in order.
    #[schema(value_type = Vec<String>)]
    pub names: Vec<SecretName>,
}

/// A new token; it is told this once and kept nowhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TokenCreated {
    /// Always 1.
    pub version: u32,
    /// Whose it is.
    #[schema(value_type = String)]
    pub user: UserId,
    /// To be sent as `Authorization: Bearer <token>`.
    pub token: String,
}

/// Hands over a service that runs already.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AdoptRequest {
    /// The folder on the server's machine that has what runs, laid out as a package of the pipeline is.
    pub folder: String,
    /// Of a pipeline with processes: which run on which target, each as `PID` or `PID:PORT`.
    #[serde(default)]
    #[schema(value_type = BTreeMap<String, Vec<String>>)]
    pub processes: BTreeMap<TargetId, Vec<String>>,
    /// Of a pipeline with commands: all targets of these environments; without any, of all.
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    pub environments: BTreeSet<EnvironmentId>,
    /// Take it on the requester's word that the processes run what the folder has, where the server cannot see it.
    #[serde(default)]
    pub unproven: bool,
    /// Why.
    pub reason: String,
    /// Only look.
    #[serde(default)]
    pub dry_run: bool,
}

/// What was handed over, or would be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Adopted {
    /// Always 1.
    pub version: u32,
    /// The pipeline.
    #[schema(value_type = String)]
    pub pipeline: PipelineId,
    /// Always release 0.
    #[schema(value_type = u64)]
    pub release: ReleaseNo,
    /// What runs, as it is returned to.
    #[schema(value_type = String)]
    pub package: PackageDigest,
    /// It was only looked at.
    pub dry_run: bool,
    /// Where it runs.
    pub targets: Vec<AdoptedTarget>,
    /// What to know about it, for people.
    pub notes: Vec<String>,
}

/// A target that was handed over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AdoptedTarget {
    /// Which.
    #[schema(value_type = String)]
    pub target: TargetId,
    /// Each of its boxes, for people: the process, its port and program, or what the team's command calls it.
    pub boxes: Vec<String>,
}

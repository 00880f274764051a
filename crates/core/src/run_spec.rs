//! What a slot of a target runs: an immutable document, named by its digest. Restart and rollback use the stored
//! RunSpec, never today's definition (design rule: editing a pipeline redeploys nothing).

use crate::ids::{EnvironmentId, PackageDigest, RunSpecDigest, SecretName, ServiceId};
use crate::units::Span;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

/// Everything that decides what a box does, but for what differs from box to box (address, Region, AZ).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunSpec {
    /// The service that it belongs to.
    pub service: ServiceId,
    /// The bytes: verified against this digest and their signature before anything starts (B4).
    pub package: PackageDigest,
    /// Environment variables of every box.
    pub environment: BTreeMap<String, String>,
    /// Environment variables whose values are secrets kept on the server, by name.
    pub secrets: BTreeMap<String, SecretName>,
    /// The services that this one calls, and in which environment (T5); the Region is the target's own.
    pub endpoints: BTreeMap<ServiceId, EnvironmentId>,
    /// What kind of thing is deployed.
    pub workload: Workload,
}

impl RunSpec {
    /// SHA-256 of the canonical JSON: fields in the order of their declaration, maps in the order of their keys.
    #[must_use]
    pub fn digest(&self) -> RunSpecDigest {
        let json =
            serde_json::to_vec(self).expect("a RunSpec has only string keys and no failing serializer");
        RunSpecDigest::new(hex(&Sha256::digest(json))).expect("SHA-256 in hexadecimal is a valid digest")
    }
}

/// Lower-case hexadecimal.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The kind of thing that a slot holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Workload {
    /// A server process, supervised and proxied to by the local fleet.
    Process(ProcessSpec),
    /// A team's own commands (infrastructure, static assets, a tool, a platform of the team's own).
    Command(CommandSpec),
    /// Values for the processes of the same service, taken up while they run.
    Configuration(ConfigurationSpec),
    /// Definitions for the server itself.
    Definitions(DefinitionsSpec),
}

/// A server process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ProcessSpec {
    /// The program and its arguments; the program's path is relative to the unpacked package.
    pub command: Vec<String>,
    /// When a box counts as healthy.
    pub health: HealthCheck,
    /// Limits of each box.
    #[serde(default)]
    pub limits: BoxLimits,
    /// How long a box that leaves may finish the requests in flight.
    #[serde(default = "ProcessSpec::default_drain_timeout")]
    pub drain_timeout: Span,
    /// How long a box has after SIGTERM before SIGKILL.
    #[serde(default = "ProcessSpec::default_stop_timeout")]
    pub stop_timeout: Span,
}

impl ProcessSpec {
    fn default_drain_timeout() -> Span {
        Span::seconds(30)
    }
    fn default_stop_timeout() -> Span {
        Span::seconds(10)
    }
}

/// An HTTP health check on the box's own address. Healthy is a 2xx answer within `timeout`, `healthy_after` times in a row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HealthCheck {
    /// Path and query, beginning with '/'.
    pub path: String,
    /// From the end of one check to the next.
    #[serde(default = "HealthCheck::default_interval")]
    pub interval: Span,
    /// Limit of one check.
    #[serde(default = "HealthCheck::default_timeout")]
    pub timeout: Span,
    /// Passed checks in a row until a box is healthy; at least 1.
    #[serde(default = "HealthCheck::default_healthy_after")]
    pub healthy_after: u32,
    /// Failed checks in a row until a healthy box is unhealthy; at least 1.
    #[serde(default = "HealthCheck::default_unhealthy_after")]
    pub unhealthy_after: u32,
    /// How long a starting box may take to become healthy for the first time.
    #[serde(default = "HealthCheck::default_start_timeout")]
    pub start_timeout: Span,
}

impl HealthCheck {
    fn default_interval() -> Span {
        Span::seconds(5)
    }
    fn default_timeout() -> Span {
        Span::seconds(2)
    }
    fn default_healthy_after() -> u32 {
        2
    }
    fn default_unhealthy_after() -> u32 {
        3
    }
    fn default_start_timeout() -> Span {
        Span::seconds(60)
    }
}

/// Limits of one box; zero means no limit.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BoxLimits {
    /// Address space in MiB (RLIMIT_AS).
    #[serde(default)]
    pub memory_mib: u64,
    /// Open files (RLIMIT_NOFILE).
    #[serde(default)]
    pub open_files: u64,
}

/// Configuration and feature flags (S5): the package's files, given to the running boxes of the service's own processes on
/// the same target. A box finds them in the folder `$TIDEGATE_CONFIGURATION/<pipeline>`, which changes as a whole; a box
/// that starts, starts with those that it is to have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ConfigurationSpec {
    /// Path and query, beginning with '/', that is called with POST at a box whose files have changed, from the box's own
    /// machine. A 2xx answer says that the box works with them now. After any other, or none, the box has its files of
    /// before again; it counts as unhealthy with the new ones, and its answer is the reason.
    pub reload: String,
    /// Limit of one such call; longer than nothing.
    #[serde(default = "ConfigurationSpec::default_timeout")]
    pub timeout: Span,
}

impl ConfigurationSpec {
    fn default_timeout() -> Span {
        Span::seconds(5)
    }
}

/// Pipelines as code that apply themselves (C1): the package's folder of TypeScript, applied to the server that deploys it, as
/// a whole or not at all. It is in place when every definition of it has been taken; until then its findings are what is in
/// the deployment's way. Pipelines that it does not name stay as they are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DefinitionsSpec {
    /// The folder, relative to the package's root.
    #[serde(default = "DefinitionsSpec::default_folder")]
    pub folder: String,
    /// What it may define: whoever may approve its commits may define that much.
    #[serde(default)]
    pub scope: DefinitionsScope,
}

impl DefinitionsSpec {
    fn default_folder() -> String {
        "pipelines".to_owned()
    }
}

/// What a folder of definitions may define.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum DefinitionsScope {
    /// Pipelines of the services of the team that owns this one's service.
    #[default]
    Team,
    /// Everything: pipelines of all teams, and the organisation with its users, roles and Regions. Its reviewers are as
    /// mighty as administrators.
    Organisation,
}

/// A team's own `deploy`, `observe` and `rollback`, run from the unpacked package. Each must be idempotent.
///
/// Environment of each command: `TIDEGATE_SERVICE`, `TIDEGATE_PIPELINE`, `TIDEGATE_ENVIRONMENT`, `TIDEGATE_REGION`,
/// `TIDEGATE_AZ`, `TIDEGATE_ROLE`, `TIDEGATE_TARGET`, `TIDEGATE_RUN_SPEC`, `TIDEGATE_PACKAGE_DIR`, `TIDEGATE_GENERATION`,
/// `TIDEGATE_STATE_DIR` (a folder that belongs to the target and stays) and, for the shape of many boxes,
/// `TIDEGATE_SPLIT`: a JSON list of `{"run_spec": digest, "package_dir": path, "boxes": n}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CommandSpec {
    /// One unit, or many boxes by a split.
    pub shape: Shape,
    /// Brings the target to the RunSpec (one unit) or to the split (many boxes).
    pub deploy: Vec<String>,
    /// Prints what is so, as JSON: `{"boxes": [{"id", "run_spec", "healthy", "reason"?}]}`; one box for one unit.
    pub observe: Vec<String>,
    /// Puts the target back to the RunSpec or the split that is given; the same as `deploy` when empty.
    #[serde(default)]
    pub rollback: Vec<String>,
    /// Limit of one run of `deploy` or `rollback`; `observe` has a tenth of it.
    #[serde(default = "CommandSpec::default_time_limit")]
    pub time_limit: Span,
}

impl CommandSpec {
    fn default_time_limit() -> Span {
        Span::minutes(30)
    }
}

/// What an engine can be asked for (design section 3, engines).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Shape {
    /// The target is replaced as a whole and put back as a whole.
    OneUnit,
    /// A split over RunSpecs can be asked for and is observed box by box.
    ManyBoxes,
}

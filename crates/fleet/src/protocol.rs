//! The words that the control plane and the fleet exchange: HTTP/1 with JSON over a Unix socket that only the owner
//! can open. The wire is a contract: a field is added with a default and never changes its meaning.
//!
//! Server and fleet are upgraded one after the other, so each version speaks its own protocol and the one before. Who asks says in
//! the header [`PROTOCOL_HEADER`] in which one, and is answered in it: what came later is left out. It knows from
//! `GET /v1/status` which ones the fleet speaks. That question, `POST /v1/stop` and `POST /v1/upgrade` mean the same to all versions
//! for ever. What was said in each protocol stands in `tests/it/wire`.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use tidegate_core::engine::{BrokenGlass, Desired, Fence, Observation, RunningProcess};
use tidegate_core::ids::{
    EnvironmentId, PipelineId, RegionId, RunSpecDigest, SecretName, ServiceId, SlotId, TargetId,
};
use tidegate_core::metrics::{Cell, UnroutedCell};
use tidegate_core::run_spec::RunSpec;

/// The newest protocol that this program speaks; it grows when an older party could misread a newer one.
pub const PROTOCOL_VERSION: u32 = 1;
/// The oldest one: that of the release before.
pub const PROTOCOL_OLDEST: u32 = 1;
/// The header of a request that says in which protocol it is, and its answer shall be; without it, in the first.
pub const PROTOCOL_HEADER: &str = "tidegate-protocol";
/// The control socket's name in the fleet's data folder.
pub const SOCKET_NAME: &str = "fleet.sock";
/// The longest time in milliseconds that `GET /v1/watch` holds an answer back.
pub const WATCH_HOLD_MAX_MS: u64 = 30_000;
/// The longest request or answer body on the control socket, in bytes. The largest is a page of metrics: at most
/// about 20,000 cells of about 1 KiB.
pub const CONTROL_BODY_MAX_BYTES: usize = 64 << 20;
/// How much of the end of a box's log `GET /v1/boxes/log` gives, in bytes.
pub const LOG_TAIL_BYTES: u64 = 64 << 10;

/// Body of `PUT /v1/slots`: brings a slot to a split. Repeating it is harmless.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetSlot {
    /// The slot.
    pub slot: SlotId,
    /// Orders the commands; one that is lower than the highest accepted one is refused.
    pub fence: Fence,
    /// What the slot shall be brought to.
    pub desired: Desired,
    /// The RunSpecs that `desired` names; those that the slot already knows may be left out.
    pub run_specs: Vec<RunSpec>,
    /// The values of the secrets that the RunSpecs name.
    pub secrets: BTreeMap<SecretName, String>,
    /// Whether this is a rollback: it may use the disk space that is kept for rollbacks.
    #[serde(default)]
    pub rollback: bool,
    /// Processes that run already and become the slot's boxes, as many as the split has: none is started, and each serves
    /// after one passed check, because whoever hands it over has seen it healthy. A team's own commands are only asked what
    /// they see.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub takes_up: Option<Vec<RunningProcess>>,
    /// What somebody did at the machine that this command knows of: without it a command to a slot that was put back there is
    /// refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acknowledges: Option<String>,
    /// The fleet's own: this command was put in place of the server's by somebody at the machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub glass: Option<BrokenGlass>,
}

/// Body of `POST /v1/glass`: puts a slot back to what its target ran before, without the server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BreakGlass {
    /// The target.
    pub target: TargetId,
    /// Its slot of this pipeline; may be left out where there is only one.
    #[serde(default)]
    pub pipeline: Option<PipelineId>,
    /// To this RunSpec; without it, to the newest before the present one whose package verifies.
    #[serde(default)]
    pub to: Option<RunSpecDigest>,
    /// The user of the system.
    pub by: String,
    /// Why.
    pub reason: String,
}

/// Answer to `POST /v1/glass`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PutBack {
    /// The slot.
    pub slot: SlotId,
    /// What was done.
    pub glass: BrokenGlass,
    /// What ran, and leaves.
    pub from: Vec<RunSpecDigest>,
    /// How many boxes there are.
    pub boxes: u32,
    /// Newer ones that were passed over, and why.
    pub passed_over: Vec<String>,
}

/// Answer to `PUT /v1/slots`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Accepted {
    /// The newest command that the slot has accepted.
    pub fence: Fence,
}

/// Answer to `GET /v1/slots` and `GET /v1/watch`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Observations {
    /// Give it as `after` to the next watch. It grows also over restarts of the fleet.
    pub version: u64,
    /// All slots, or for a watch those that changed since, ordered by slot.
    pub observations: Vec<Observation>,
}

/// Answer to `GET /v1/metrics`: a page of closed seconds. Ask again with `after_second = complete_until` until that
/// no longer grows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MetricsPage {
    /// What each box did in each second, ordered by second.
    pub cells: Vec<Cell>,
    /// Requests that no box could take.
    pub unrouted: Vec<UnroutedCell>,
    /// Everything up to this second, and nothing after it, is in this page. Seconds since 1970-01-01T00:00:00Z.
    pub complete_until: i64,
}

/// What an endpoint leads to: a service in an environment and Region.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EndpointKey {
    /// The service that answers.
    pub service: ServiceId,
    /// In this environment.
    pub environment: EnvironmentId,
    /// In this Region.
    pub region: RegionId,
}

impl std::fmt::Display for EndpointKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}/{}", self.service, self.environment, self.region)
    }
}

impl EndpointKey {
    /// The endpoint that a target's boxes stand behind.
    #[must_use]
    pub fn of(target: &tidegate_core::ids::TargetId) -> EndpointKey {
        EndpointKey {
            service: target.service.clone(),
            environment: target.environment.clone(),
            region: target.region.clone(),
        }
    }
}

/// Body of `PUT /v1/endpoints`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetEndpoint {
    /// What it leads to.
    pub endpoint: EndpointKey,
    /// The port to listen on; without it a free one is chosen on first use and kept for ever.
    #[serde(default)]
    pub listen: Option<u16>,
}

/// One stable listening address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Endpoint {
    /// What it leads to.
    pub endpoint: EndpointKey,
    /// Where it listens, such as `http://127.0.0.1:20012`.
    pub url: String,
    /// The port of that address.
    pub port: u16,
    /// Why it does not listen at present; the fleet goes on trying.
    #[serde(default)]
    pub trouble: Option<String>,
}

/// Answer to `GET /v1/endpoints`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Endpoints {
    /// All endpoints, ordered by what they lead to.
    pub endpoints: Vec<Endpoint>,
}

/// Answer to `GET /v1/status`, in whatever protocol: a field is only ever added, and what is not known is passed over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Of the program.
    pub version: String,
    /// [`PROTOCOL_VERSION`] of the program.
    pub protocol: u32,
    /// [`PROTOCOL_OLDEST`] of the program; 0 if it does not say, and then it speaks one alone.
    #[serde(default)]
    pub oldest: u32,
    /// The process that supervises.
    pub pid: u32,
    /// The highest epoch that any slot has accepted; a server that starts takes a higher one.
    pub highest_epoch: u64,
    /// How many boxes there are, those that leave included.
    pub boxes: u32,
}

impl Status {
    /// The protocols that it speaks.
    #[must_use]
    pub fn speaks(&self) -> Protocols {
        Protocols {
            oldest: if self.oldest == 0 { self.protocol } else { self.oldest },
            newest: self.protocol,
        }
    }
}

/// Protocols that a program speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Protocols {
    /// The oldest.
    pub oldest: u32,
    /// The newest.
    pub newest: u32,
}

impl Protocols {
    /// This program's.
    pub const OWN: Protocols = Protocols { oldest: PROTOCOL_OLDEST, newest: PROTOCOL_VERSION };

    /// The newest one that both speak.
    #[must_use]
    pub fn common(self, other: Protocols) -> Option<u32> {
        let newest = self.newest.min(other.newest);
        (newest >= self.oldest.max(other.oldest)).then_some(newest)
    }
}

impl std::fmt::Display for Protocols {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.oldest == self.newest {
            true => write!(f, "{}", self.newest),
            false => write!(f, "{} to {}", self.oldest, self.newest),
        }
    }
}

/// Body of `POST /v1/stop`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stop {
    /// Whether the boxes are drained and stopped too; else they run on and the next fleet on this folder adopts them.
    pub boxes: bool,
}

/// Answer to `POST /v1/upgrade`: the new process that takes over. `GET /v1/status` names it once it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upgrading {
    /// The new process.
    pub pid: u32,
}

/// Why a command was refused, for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Code {
    /// A newer command was accepted before.
    StaleFence,
    /// The same fence was accepted with another content.
    FenceReused,
    /// Another pipeline's slot already runs processes on this target.
    SlotTaken,
    /// Somebody at the machine has put the slot back, and the command does not know of it.
    GlassBroken,
    /// The command contradicts itself or asks for what the fleet cannot do.
    BadCommand,
    /// The body is not the JSON that was expected.
    BadJson,
    /// There is no such path, box or slot.
    NotFound,
    /// The disk is full; nothing was changed.
    DiskFull,
    /// It does not speak the protocol that it was asked in.
    OtherProtocol,
    /// Another process has taken over; ask again, the socket's path leads to it.
    HandedOver,
    /// Something failed in the fleet; nothing was changed.
    Internal,
}

/// The body of every answer that is not a success.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// For programs.
    pub code: Code,
    /// For people.
    pub message: String,
}

impl Refusal {
    /// A refusal with its reason.
    pub fn new(code: Code, message: impl Into<String>) -> Refusal {
        Refusal { code, message: message.into() }
    }

    /// The HTTP status that goes with the code.
    #[must_use]
    pub fn status(&self) -> u16 {
        match self.code {
            Code::StaleFence | Code::FenceReused | Code::SlotTaken | Code::GlassBroken => 409,
            Code::BadCommand | Code::BadJson => 400,
            Code::NotFound => 404,
            Code::OtherProtocol => 426,
            Code::DiskFull => 507,
            Code::HandedOver => 503,
            Code::Internal => 500,
        }
    }
}

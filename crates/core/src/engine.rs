//! What tidegate asks of an engine and what an engine tells: the words between the core and whatever moves boxes.
//! The core knows these shapes and nothing of the product behind them.

use crate::ids::{RunSpecDigest, SlotId};
use crate::units::Timestamp;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Orders the commands to a slot. A server that starts takes an epoch above every one seen before, so neither an old
/// server nor a restored backup can command an engine; generations order the commands of one epoch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fence {
    /// Of the server that commands.
    pub epoch: u64,
    /// Of the command within (target, slot).
    pub generation: u64,
}

impl fmt::Display for Fence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.epoch, self.generation)
    }
}

/// So many boxes of one RunSpec.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Share {
    /// What they run.
    pub run_spec: RunSpecDigest,
    /// How many of them; for one unit, 1.
    pub boxes: u32,
}

/// What a slot shall be brought to. The engine goes there at once: how many boxes may be out at a time was decided by
/// whoever chose this split, and shows in how little it differs from the one before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Desired {
    /// How many boxes of each RunSpec; empty drains and stops the slot.
    pub split: Vec<Share>,
    /// RunSpecs whose boxes get no more requests as long as at least `minimum_serving` other boxes are healthy: what
    /// was convicted stops serving before it is replaced.
    pub condemned: Vec<RunSpecDigest>,
    /// Boxes that must go on serving while condemned ones are taken out; 0 for a one-box.
    pub minimum_serving: u32,
    /// Start the new box and see it healthy before the old one is drained (fleets of fewer than three boxes).
    pub surge: bool,
    /// What boxes beyond the split have, where another slot says how many boxes there are: of configuration only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rest: Option<Rest>,
}

/// A process that runs already, and that an engine takes up as a box instead of starting one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunningProcess {
    /// The leader of its session.
    pub pid: u32,
    /// In clock ticks after boot: with the pid it names the process for ever.
    pub start_time: u64,
    /// Where it listens, on this machine.
    pub port: u16,
}

/// What boxes beyond a split have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Rest {
    /// Nothing of the slot.
    Nothing,
    /// This.
    RunSpec(RunSpecDigest),
}

/// What an engine says of one box.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BoxObservation {
    /// Unique within the target, and never used again for another box.
    pub id: String,
    /// Grows with each start of the box's process.
    pub incarnation: u32,
    /// What it runs. Of a configuration slot: what it is to have; a box without any of the slot's is told with what its
    /// process runs.
    pub run_spec: RunSpecDigest,
    /// How it is. Of a configuration slot: healthy if its process is and works with these values.
    pub health: BoxHealth,
    /// Its share of the Region's requests relative to the other boxes'; 0 is none.
    pub weight: u32,
}

/// The life of a box.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum BoxHealth {
    /// It was started and has not been healthy yet.
    Starting {
        /// When its process was started.
        since: Timestamp,
    },
    /// It passes its health checks.
    Healthy {
        /// Since when without a break.
        since: Timestamp,
    },
    /// It was healthy and is not, or did not become healthy in time, or exited and waits for its next start.
    Unhealthy {
        /// What was seen, for people: the last check's answer, the exit status, the log's last line.
        reason: String,
    },
    /// It gets no new requests, finishes those in flight and stops.
    Leaving,
}

impl BoxHealth {
    /// Whether it serves.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        matches!(self, BoxHealth::Healthy { .. })
    }
}

/// What an engine says of a slot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Observation {
    /// The slot.
    pub slot: SlotId,
    /// The newest command that the engine has accepted.
    pub fence: Fence,
    /// Its boxes, those that leave included, ordered by id.
    pub boxes: Vec<BoxObservation>,
    /// Why the command cannot be carried out at present (the package does not verify, no port is free, the team's
    /// command failed); the engine goes on trying. `None` when nothing is in the way.
    pub trouble: Option<String>,
    /// Somebody at the machine has put the slot back; no command is taken that does not know of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub glass: Option<BrokenGlass>,
}

/// Somebody has put a slot back at the machine itself, because the server could not be asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BrokenGlass {
    /// Names the deed; never used again.
    pub id: String,
    /// What was put back.
    pub run_spec: RunSpecDigest,
    /// The user of the machine's system.
    pub by: String,
    /// Why.
    pub reason: String,
    /// When, by the machine's clock.
    pub at: Timestamp,
}

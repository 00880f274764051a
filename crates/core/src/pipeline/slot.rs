//! A pipeline's slot on a target: what runs there, what ran there before, and how it moves.

use crate::decision::Awaited;
use crate::ids::ReleaseNo;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// State of a pipeline's slot on a target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SlotState {
    /// The newest command's number.
    pub generation: u64,
    /// How many boxes it has.
    pub boxes: u32,
    /// Releases that were good on it, the one that it runs last; empty if it never ran any.
    pub history: Vec<ReleaseNo>,
    /// The newest release whose wave is finished here: it stays when a newer one is taken back.
    #[serde(default)]
    pub finished: Option<ReleaseNo>,
    /// Whether it moves.
    pub motion: Motion,
    /// Whether enough of its boxes are healthy, as last told by the engine.
    pub capacity: Capacity,
    /// It is in no step of the definition any more: its boxes run on, and nothing moves it.
    pub detached: bool,
    /// What somebody did last at the machine, by its name there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub glass: Option<String>,
}

impl SlotState {
    /// The release that it runs, apart from what moves.
    #[must_use]
    pub fn current(&self) -> Option<ReleaseNo> {
        self.history.last().copied()
    }

    /// Whether it stands still and runs an older release than this one.
    #[must_use]
    pub fn is_behind(&self, release: ReleaseNo) -> bool {
        self.motion == Motion::Settled && self.current() < Some(release)
    }

    /// Whether a release may have boxes on it now.
    #[must_use]
    pub fn runs(&self, release: ReleaseNo) -> bool {
        self.current() == Some(release)
            || match &self.motion {
                Motion::Settled => false,
                Motion::Forward { release: new, .. } | Motion::Abandoned { release: new, .. } => {
                    *new == release
                }
                Motion::Back { from, to, .. } => from.contains_key(&release) || *to == Some(release),
            }
    }

    /// Whether a release's way through its wave has not ended here; see [`super::Pipeline::unfinished`].
    pub(super) fn has_unfinished(&self, release: ReleaseNo) -> bool {
        self.finished.is_none_or(|finished| finished < release)
            && !(self.detached && self.motion == Motion::Settled)
    }

    /// Every release that may have boxes on it now.
    #[must_use]
    pub fn running(&self) -> BTreeSet<ReleaseNo> {
        let mut all: BTreeSet<ReleaseNo> = self.current().into_iter().collect();
        match &self.motion {
            Motion::Settled => {}
            Motion::Forward { release, .. } | Motion::Abandoned { release, .. } => {
                all.insert(*release);
            }
            Motion::Back { from, to, .. } => {
                all.extend(from.keys());
                all.extend(to);
            }
        }
        all
    }
}

/// How a slot moves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Motion {
    /// It does not: all boxes run the current release.
    Settled,
    /// A release goes forward.
    Forward {
        /// Which.
        release: ReleaseNo,
        /// How many boxes of it were asked for.
        asked: u32,
        /// How many of them have been healthy for long enough.
        settled: u32,
        /// Until when another one has to be.
        awaited: Awaited,
        /// What the engine or unhealthy boxes said last.
        trouble: Option<String>,
    },
    /// Its pipeline was retired while a release went forward: the boxes stay as they are.
    Abandoned {
        /// Which.
        release: ReleaseNo,
        /// How many boxes of it were asked for.
        asked: u32,
    },
    /// Releases are taken back.
    Back {
        /// These, and how many boxes each had.
        from: BTreeMap<ReleaseNo, u32>,
        /// To this one; `None` drains and stops the slot.
        to: Option<ReleaseNo>,
        /// How many boxes of it were asked for.
        asked: u32,
        /// How many are healthy.
        settled: u32,
        /// Until when another one has to be, or the on-call engineer is paged again.
        awaited: Awaited,
        /// What the engine or unhealthy boxes said last.
        trouble: Option<String>,
    },
}

/// Healthy boxes of a target against its minimum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Capacity {
    /// Never deployed to, or not told yet.
    Unknown,
    /// At or above the minimum.
    Enough,
    /// Below it.
    Short {
        /// Healthy boxes.
        healthy: u32,
        /// How many there must be.
        minimum: u32,
    },
}

//! A step: what waits before it, what is in work in it, and what has passed it.

use super::{Cause, HISTORY_MAX, Reason};
use crate::alarm::AlarmName;
use crate::bake::BakeClock;
use crate::decision::{Awaited, EffectId};
use crate::ids::{RegionId, ReleaseNo};
use crate::units::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// State of a step.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StepState {
    /// The newest release that may enter and has not.
    pub candidate: Option<ReleaseNo>,
    /// Why it has not.
    pub waiting: Vec<Reason>,
    /// The release in work.
    pub work: Work,
    /// The release that passed last and still runs here.
    pub done: Option<ReleaseNo>,
    /// The release that had passed before that one: what a return may fall back to. What an edit called back may run here
    /// without having passed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<ReleaseNo>,
    /// Those that had passed before that, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub earlier: Vec<ReleaseNo>,
}

impl StepState {
    /// A release has passed.
    pub(super) fn pass(&mut self, release: ReleaseNo) {
        if self.done == Some(release) {
            return;
        }
        self.earlier.extend(self.before);
        self.before = self.done.replace(release);
        self.earlier.dedup();
        let excess = self.earlier.len().saturating_sub(HISTORY_MAX);
        self.earlier.drain(..excess);
    }

    /// The newest release up to this one that has passed: others that a return comes to had run there before an edit.
    pub(super) fn passed_up_to(&self, release: Option<ReleaseNo>) -> Option<ReleaseNo> {
        self.earlier
            .iter()
            .copied()
            .map(Some)
            .chain([self.before, self.done])
            .filter(|passed| *passed <= release)
            .max()?
    }
}

/// The life of a release in a step.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Work {
    /// Nothing has entered yet.
    #[default]
    Free,
    /// Boxes are replaced.
    Deploying {
        /// By this release.
        release: ReleaseNo,
        /// When it entered.
        entered: Timestamp,
    },
    /// The stage's tests run.
    Testing {
        /// Against this release.
        release: ReleaseNo,
        /// When it entered.
        entered: Timestamp,
        /// The effect that runs them.
        effect: EffectId,
        /// Until when their result is awaited.
        awaited: Awaited,
    },
    /// It is watched.
    Baking {
        /// This release.
        release: ReleaseNo,
        /// When it entered.
        entered: Timestamp,
        /// What it has earned.
        clock: BakeClock,
        /// Alarms without data, since when, if there are any.
        blind: Option<Blind>,
    },
    /// It has passed.
    Done {
        /// This release.
        release: ReleaseNo,
        /// When it entered.
        entered: Timestamp,
        /// When it had passed.
        at: Timestamp,
    },
    /// It was under way when the definition changed, or when it was taken back from the step before in a Region that has none of
    /// the step's targets: it passes what stands before the step first. Its boxes are watched.
    Recalled {
        /// This release.
        release: ReleaseNo,
        /// When it entered.
        entered: Timestamp,
    },
    /// It is taken back.
    RollingBack {
        /// This release.
        release: ReleaseNo,
        /// Since when.
        since: Timestamp,
        /// Why.
        cause: Cause,
    },
    /// It was taken back.
    RolledBack {
        /// This release.
        release: ReleaseNo,
        /// When that was complete.
        at: Timestamp,
        /// Why.
        cause: Cause,
    },
}

/// Monitoring without data while a release bakes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Blind {
    /// Since when.
    pub since: Timestamp,
    /// Where.
    #[serde(default)]
    pub regions: BTreeSet<RegionId>,
    /// Which alarms.
    pub alarms: BTreeSet<AlarmName>,
    /// Whether the on-call engineer was told.
    pub paged: bool,
}

impl Work {
    /// The release that is on its way through the step: entered and not yet passed or taken back.
    #[must_use]
    pub fn under_way(&self) -> Option<(ReleaseNo, Timestamp)> {
        match self {
            Work::Deploying { release, entered }
            | Work::Testing { release, entered, .. }
            | Work::Baking { release, entered, .. } => Some((*release, *entered)),
            Work::Free
            | Work::Done { .. }
            | Work::Recalled { .. }
            | Work::RollingBack { .. }
            | Work::RolledBack { .. } => None,
        }
    }

    /// The release whose boxes in the step alarms speak of, as long as its wave is not finished, and when it entered.
    #[must_use]
    pub fn watched(&self) -> Option<(ReleaseNo, Timestamp)> {
        match self {
            Work::Done { release, entered, .. } | Work::Recalled { release, entered } => {
                Some((*release, *entered))
            }
            other => other.under_way(),
        }
    }

    /// One word for it.
    #[must_use]
    pub fn phase(&self) -> &'static str {
        match self {
            Work::Free => "free",
            Work::Deploying { .. } => "deploying",
            Work::Testing { .. } => "testing",
            Work::Baking { .. } => "baking",
            Work::Done { .. } => "done",
            Work::Recalled { .. } => "recalled",
            Work::RollingBack { .. } => "rolling back",
            Work::RolledBack { .. } => "rolled back",
        }
    }
}

//! What a pipeline can be told.

use super::adopt::Adoption;
use super::gates::Blocker;
use crate::alarm::AlarmName;
use crate::change::SourceObservation;
use crate::decision::{Actor, EffectId};
use crate::definition::{PipelineDef, ReviewDef, SourceDef};
use crate::engine::Observation;
use crate::forge::Brought;
use crate::ids::{CommitId, PackageDigest, ReleaseNo, RunSpecDigest, SourceId, StageId};
use crate::plan::StepId;
use crate::scope::Scope;
use crate::units::{Span, Timestamp};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Which forge was asked about which mainline.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Asked {
    /// The forge.
    pub review: ReviewDef,
    /// The repository that bears out what it says.
    pub url: String,
    /// The mainline.
    pub branch: String,
}

impl Asked {
    /// What a source names to be asked; nothing if its changes are reviewed nowhere.
    #[must_use]
    pub fn of(source: &SourceDef) -> Option<Asked> {
        let review = source.review.clone()?;
        Some(Asked { review, url: source.url.clone(), branch: source.branch.clone() })
    }
}

/// What a pipeline can be told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum PipelineEvent {
    /// A definition that passed [`crate::lint::pipeline`].
    Applied {
        /// All of it.
        definition: Box<PipelineDef>,
    },
    /// A person hands over what runs already.
    Adopted {
        /// What, from where, by whom.
        adoption: Adoption,
    },
    /// Time has passed, or something that the pipeline relies on has changed.
    Tick,
    /// For so long nobody worked: no server ran, it was frozen, or the clock has jumped ahead.
    Resumed {
        /// How long.
        absent: Span,
    },
    /// A build or tests waited for their turn until now.
    TurnAwaited {
        /// The effect.
        effect: EffectId,
    },
    /// A source was looked at.
    SourceObserved {
        /// Which.
        source: SourceId,
        /// What was found.
        observation: SourceObservation,
    },
    /// A source cannot be read.
    SourceFailed {
        /// Which.
        source: SourceId,
        /// Why, for people.
        why: String,
    },
    /// A forge was asked how commits of a source came to its mainline.
    ForgeTold {
        /// Which source.
        source: SourceId,
        /// What it said, and what of that the repository bears out.
        told: BTreeMap<CommitId, Brought>,
        /// What the source named when it was asked; without it nothing is believed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        asked: Option<Box<Asked>>,
    },
    /// A build has ended.
    BuildEnded {
        /// The effect.
        effect: EffectId,
        /// The package, or which command failed, how, and the end of its log.
        result: Result<PackageDigest, String>,
    },
    /// Engines told of slots: whatever one look at them brought, so that it is one decision and one commit.
    SlotsObserved {
        /// What they told, each slot's in the order in which it was so.
        observations: Vec<Observed>,
    },
    /// A step's tests have ended.
    TestsEnded {
        /// The effect.
        effect: EffectId,
        /// Which test failed, how, and the end of its output.
        result: Result<(), String>,
    },
    /// Monitoring has watched.
    Watched {
        /// One interval for each Region.
        grants: Vec<Grant>,
    },
    /// A person stops new starts.
    HoldPlaced {
        /// Who.
        by: Actor,
        /// Why.
        reason: String,
        /// When it ends by itself.
        until: Option<Timestamp>,
        /// Only this stage.
        stage: Option<StageId>,
    },
    /// A hold is lifted.
    HoldLifted {
        /// Its number.
        hold: u64,
        /// By whom.
        by: Actor,
    },
    /// A person lets a release pass blockers.
    Overridden {
        /// Which release.
        release: ReleaseNo,
        /// Which blockers.
        blockers: BTreeSet<Blocker>,
        /// At which steps; empty for all.
        steps: BTreeSet<StepId>,
        /// Who.
        by: Actor,
        /// Why.
        reason: String,
        /// When it ends.
        expires: Timestamp,
    },
    /// A person leaves a Region out of the starts of releases.
    RegionSkipped {
        /// The Region, in an environment.
        scope: Scope,
        /// Only this release.
        release: Option<ReleaseNo>,
        /// Who.
        by: Actor,
        /// Why.
        reason: String,
    },
    /// A Region takes part again.
    SkipLifted {
        /// The skip's number.
        skip: u64,
        /// By whom.
        by: Actor,
    },
    /// A person deletes the pipeline.
    RetireOrdered {
        /// Who.
        by: Actor,
        /// Why.
        reason: String,
    },
    /// A person rejects a release: it is rolled back and never goes on by itself.
    RollbackOrdered {
        /// Which release.
        release: ReleaseNo,
        /// Who.
        by: Actor,
        /// Why.
        reason: String,
        /// Finished production waves too.
        everywhere: bool,
    },
    /// A person wants a failed build, or a release that was rejected, tried again.
    Retried {
        /// Which release.
        release: ReleaseNo,
        /// Who.
        by: Actor,
        /// Why.
        reason: String,
    },
}

/// An engine's observation of one of the pipeline's slots.
pub type Observed = Observation;

/// An interval that monitoring has watched in one Region, without a gap.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grant {
    /// Where.
    pub scope: Scope,
    /// Its start.
    pub from: Timestamp,
    /// Its end.
    pub until: Timestamp,
    /// Metric alarms that had no data, whether or not they are beneath the aggregate.
    pub blind: BTreeSet<AlarmName>,
    /// Requests by RunSpec and API, of the pipeline's service.
    pub requests: BTreeMap<RunSpecDigest, BTreeMap<String, u64>>,
}

//! A pipeline: its sources, its releases, and what every step and target does. This file is the state and how facts change
//! it; [`decide`](super::decide) and the files beside this one decide.

mod adopt;
mod advance;
mod apply;
mod deadlines;
mod decide;
mod enter;
mod event;
mod facts;
mod gates;
mod glass;
mod observed;
mod observing;
mod orders;
mod paging;
mod part;
mod people;
mod retire;
mod review;
mod rollback;
mod slot;
mod step;
mod switches;
mod watch;
mod why;

pub use adopt::{ADOPTED, Adoption};
pub use decide::Snapshots;
pub(crate) use decide::decide;
pub use event::{Asked, Grant, Observed, PipelineEvent};
pub use facts::PipelineFact;
pub use gates::{Blocker, Gate, Reason};
pub use observing::{Reality, Verdict};
pub use orders::run_specs;
pub(crate) use paging::told_of_ends;
pub use paging::{Matter, OpenPage};
pub use part::LeftOut;
pub use review::{ApprovedIn, Lack, Review, Unreviewed, unreviewed};
pub use slot::{Capacity, Motion, SlotState};
pub use step::{Blind, StepState, Work};
pub use switches::{Break, Switches};
pub use why::{NotFound, Place, Position, StepPosition, Why, why};

use crate::Shared;
use crate::alarm::AlarmName;
use crate::change::Commit;
use crate::decision::{Actor, Awaited, EffectId};
use crate::definition::{DataRequirement, EngineDef, PipelineDef, Settings};
use crate::engine::Observation;
use crate::forge::Brought;
use crate::ids::{
    CommitId, EnvironmentId, PackageDigest, ReleaseNo, RunSpecDigest, SourceId, StageId, TargetId, TeamId,
};
use crate::plan::{Plan, Stage, StepId};
use crate::scope::Scope;
use crate::units::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// How many earlier releases a target keeps near, with their bytes, to return to.
pub const HISTORY_MAX: usize = 5;

/// How many commits a source may have waiting; a source with more is in trouble and says so.
pub const PENDING_COMMITS_MAX: usize = 10_000;

/// State of a pipeline.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pipeline {
    /// What was applied last; `None` until the first time.
    pub definition: Option<Shared<PipelineDef>>,
    /// The team that owns its service.
    pub team: Option<TeamId>,
    /// Its stages, steps and targets.
    pub plan: Shared<Plan>,
    /// Its sources.
    pub sources: BTreeMap<SourceId, SourceState>,
    /// Its releases.
    pub releases: Shared<BTreeMap<ReleaseNo, Shared<Release>>>,
    /// What each step does.
    pub steps: Shared<BTreeMap<StepId, Shared<StepState>>>,
    /// What its slot of each target does, also of targets that are no longer in the plan.
    pub slots: Shared<BTreeMap<TargetId, Shared<SlotState>>>,
    /// Changes that may not come in again by themselves, by the rejected release that brought them (X4).
    pub taints: BTreeMap<ReleaseNo, Taint>,
    /// Holds that stand, by number.
    pub holds: BTreeMap<u64, Hold>,
    /// Overrides that were given, by number.
    pub overrides: BTreeMap<u64, Override>,
    /// Regions that people leave out of starts, by number.
    #[serde(default)]
    pub skips: BTreeMap<u64, Skip>,
    /// The last number given to a hold, an override or a skip.
    pub last_number: u64,
    /// Whether it goes on, or was deleted.
    #[serde(default)]
    pub life: Life,
    /// While it only observes, what is really so; steps, slots and taints are what would be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reality: Option<Shared<Reality>>,
    /// Releases up to this one were made while it only observed: they start only when a person says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed: Option<ReleaseNo>,
    /// When somebody worked again, the last time that nobody had while it awaited something or baked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resumed: Option<Timestamp>,
    /// Pages whose matter is not over, by their keys.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub pages: BTreeMap<String, OpenPage>,
}

/// Whether a pipeline goes on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Life {
    /// It does.
    #[default]
    Active,
    /// It was deleted: what is being taken back goes on, and nothing else is begun.
    Retiring(Retirement),
    /// It was deleted, and nothing moves any more. Its boxes run on, its history stays.
    Retired(Retirement),
}

impl Pipeline {
    /// What holds for all its stages: as it was planned. A definition that was planned before there were defaults has all of
    /// its figures in itself.
    #[must_use]
    pub fn settings(&self) -> Settings {
        let planned = self.plan.settings.clone();
        planned.or_else(|| Some(self.definition.as_ref()?.settings_alone())).unwrap_or_default()
    }

    /// The data points that every bake of a stage needs, in each Region.
    #[must_use]
    pub fn requirements(&self, stage: &Stage) -> Vec<DataRequirement> {
        let written = || {
            let stages = self.definition.iter().flat_map(|d| &d.stages);
            stages.filter(|s| s.environment == stage.environment).find_map(|s| s.bake.data.clone())
        };
        stage.data.clone().or_else(written).unwrap_or_default()
    }
}

impl Life {
    /// Who deleted it, why and when; `None` while it goes on.
    #[must_use]
    pub fn retirement(&self) -> Option<&Retirement> {
        match self {
            Life::Active => None,
            Life::Retiring(retirement) | Life::Retired(retirement) => Some(retirement),
        }
    }

    /// Whether it goes on.
    #[must_use]
    pub fn is_active(&self) -> bool {
        matches!(self, Life::Active)
    }
}

/// A person's word that a pipeline shall end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Retirement {
    /// Who.
    pub by: Actor,
    /// Why.
    pub reason: String,
    /// When.
    pub since: Timestamp,
}

/// State of a source.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceState {
    /// The mainline's newest commit, as last seen.
    pub head: Option<CommitId>,
    /// Commits that are in no release yet, ancestors first.
    pub pending: Vec<SeenCommit>,
    /// The commit that the newest release took.
    pub released: Option<CommitId>,
    /// What is wrong with it, and since when.
    pub trouble: Option<Trouble>,
}

/// A commit and when it was first seen on the mainline.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SeenCommit {
    /// The commit.
    pub commit: Commit,
    /// When it was first seen on the mainline: approvals after this are late.
    pub seen_at: Timestamp,
    /// What a forge says of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub told: Option<Told>,
}

/// How a commit came to the mainline, by a forge's word.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Told {
    /// The word, and what of it the repository bears out.
    pub brought: Brought,
    /// When the forge was asked, by tidegate's clock.
    pub at: Timestamp,
}

/// Something that keeps a source from being read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trouble {
    /// For people.
    pub why: String,
    /// Since when.
    pub since: Timestamp,
}

/// A release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Release {
    /// One commit of each source.
    pub commits: BTreeMap<SourceId, CommitId>,
    /// The changes that it adds to the release before it.
    pub changes: Vec<Change>,
    /// When it was made.
    pub created_at: Timestamp,
    /// Its package.
    pub build: Build,
    /// What is thought of it.
    pub standing: Standing,
    /// How often it was suspected so far.
    pub suspected: u32,
    /// Metric alarms that were firing when it entered under an override, by Region: they do not roll it back until they
    /// have been OK once.
    pub masks: BTreeMap<Scope, BTreeSet<AlarmName>>,
    /// Of release 0, which was not built but ran before: who handed it over, from where, and why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
}

/// Where a release comes from that nobody reviewed: the one exception to rule 4, by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Origin {
    /// Who.
    pub by: Actor,
    /// The folder that its package was made of.
    pub from: String,
    /// Why.
    pub reason: String,
}

/// A reviewed commit in a release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Change {
    /// Where it comes from.
    pub source: SourceId,
    /// The commit.
    pub commit: Commit,
    /// Who approved it.
    pub review: Review,
}

/// A release's package.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Build {
    /// It is being built.
    Building {
        /// The effect that does it.
        effect: EffectId,
        /// Until when its result is awaited.
        awaited: Awaited,
    },
    /// It cannot be built.
    Failed {
        /// Which command failed, how, and the end of its log.
        why: String,
        /// When.
        at: Timestamp,
    },
    /// It is there.
    Built {
        /// The bytes.
        package: PackageDigest,
        /// What targets of each environment run.
        run_specs: BTreeMap<EnvironmentId, RunSpecDigest>,
        /// When.
        at: Timestamp,
    },
}

/// What is thought of a release (design, rollback and guilt).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Standing {
    /// Nothing speaks against it.
    Good,
    /// It was under way where the team's aggregate alarm fired; it comes back once by itself.
    Suspect {
        /// Since when.
        since: Timestamp,
        /// Where it was taken back.
        scopes: BTreeSet<Scope>,
        /// The alarm.
        cause: Cause,
    },
    /// It did harm, or a person said so; it never goes on by itself.
    Rejected {
        /// When.
        at: Timestamp,
        /// What convicted it.
        cause: Cause,
    },
}

/// Why something is taken back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Cause {
    /// An alarm fired.
    Alarm {
        /// Which.
        alarm: AlarmName,
        /// Where.
        scope: Scope,
        /// The metric alarms beneath it, with values and thresholds.
        evidence: Vec<String>,
    },
    /// A step's tests failed.
    Tests {
        /// Which step.
        step: StepId,
        /// Which test, how, and the end of its output.
        why: String,
    },
    /// Its boxes did not become healthy.
    Health {
        /// Where.
        target: TargetId,
        /// What the boxes said.
        why: String,
    },
    /// A person decided so.
    Person {
        /// Who.
        by: Actor,
        /// Why.
        reason: String,
    },
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cause::Alarm { alarm, scope, evidence } => {
                write!(f, "alarm {alarm} in {scope}")?;
                if !evidence.is_empty() {
                    write!(f, " ({})", evidence.join("; "))?;
                }
                Ok(())
            }
            Cause::Tests { step, why } => write!(f, "tests of {step} failed: {why}"),
            Cause::Health { target, why } => write!(f, "boxes of {target} did not become healthy: {why}"),
            Cause::Person { by, reason } => write!(f, "{by}: {reason}"),
        }
    }
}

/// Changes of a rejected release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Taint {
    /// The changes that the release added over what it was rolled back to.
    pub commits: BTreeSet<CommitId>,
    /// The first release that holds any of them.
    pub first: ReleaseNo,
    /// Who cleared it and why, if somebody did.
    pub cleared: Option<Cleared>,
}

/// A person's word that tainted changes may go in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cleared {
    /// Who.
    pub by: Actor,
    /// Why.
    pub reason: String,
    /// When.
    pub at: Timestamp,
}

/// A person's stop of all new starts. Several may stand; all must be lifted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hold {
    /// Whose it is.
    pub by: Actor,
    /// Why.
    pub reason: String,
    /// Since when.
    pub since: Timestamp,
    /// When it ends by itself.
    pub until: Option<Timestamp>,
    /// Only this stage, or the whole pipeline.
    pub stage: Option<StageId>,
}

/// A person's word that a release may pass blockers (W3). It never opens review, order, lease, capacity or taint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Override {
    /// For which release.
    pub release: ReleaseNo,
    /// Which blockers.
    pub blockers: BTreeSet<Blocker>,
    /// At which steps; empty for all.
    pub steps: BTreeSet<StepId>,
    /// Who.
    pub by: Actor,
    /// Why.
    pub reason: String,
    /// When it was given.
    pub at: Timestamp,
    /// When it ends.
    pub expires: Timestamp,
}

/// A person's word that releases start without a Region. What runs there stays, and catches up through its own steps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Skip {
    /// The Region, in an environment.
    pub scope: Scope,
    /// Only this release; without one, all of them until it is lifted.
    pub release: Option<ReleaseNo>,
    /// Who.
    pub by: Actor,
    /// Why.
    pub reason: String,
    /// Since when.
    pub since: Timestamp,
}

impl Pipeline {
    /// The RunSpec of a release in an environment; `None` if it is not built or not meant for it.
    #[must_use]
    pub fn run_spec(&self, release: ReleaseNo, environment: &EnvironmentId) -> Option<&RunSpecDigest> {
        match &self.releases.get(&release)?.build {
            Build::Built { run_specs, .. } => run_specs.get(environment),
            Build::Building { .. } | Build::Failed { .. } => None,
        }
    }

    /// Whether it gives values to the boxes of another pipeline, and so has as many of them as there are.
    #[must_use]
    pub fn is_configuration(&self) -> bool {
        let engine = self.definition.as_ref().map(|d| &d.run.engine);
        matches!(engine, Some(EngineDef::Configuration(_)))
    }

    /// How many boxes a slot of its should have, as far as an observation can say.
    #[must_use]
    pub fn size(&self, slot: &SlotState, seen: &Observation) -> u32 {
        if self.is_configuration() { u32::try_from(seen.boxes.len()).unwrap_or(u32::MAX) } else { slot.boxes }
    }

    /// The newest release that has been made.
    #[must_use]
    pub fn newest(&self) -> Option<(ReleaseNo, &Release)> {
        self.releases.last_key_value().map(|(no, release)| (*no, &**release))
    }
}

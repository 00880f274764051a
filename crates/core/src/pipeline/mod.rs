//! A pipeline: its sources, its releases, and what every step and target does. This file is the state and how facts change
//! it; [`decide`](super::decide) and the files beside this one decide.

mod advance;
mod decide;
mod event;
mod facts;
mod gates;
mod orders;
mod review;
mod rollback;
mod why;

pub(crate) use decide::decide;
pub use decide::{Snapshots, Switches};
pub use event::{Grant, Observed, PipelineEvent};
pub use facts::PipelineFact;
pub use gates::{Blocker, Gate, Reason};
pub use review::{Review, Unreviewed, unreviewed};
pub use why::{NotFound, Place, Position, StepPosition, Why, why};

use crate::alarm::AlarmName;
use crate::bake::BakeClock;
use crate::change::Commit;
use crate::decision::{Actor, Awaited, EffectId};
use crate::definition::PipelineDef;
use crate::ids::{
    CommitId, EnvironmentId, PackageDigest, ReleaseNo, RunSpecDigest, SourceId, StageId, TargetId, TeamId,
};
use crate::plan::{Plan, StepId};
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
    pub definition: Option<PipelineDef>,
    /// The team that owns its service.
    pub team: Option<TeamId>,
    /// Its stages, steps and targets.
    pub plan: Plan,
    /// Its sources.
    pub sources: BTreeMap<SourceId, SourceState>,
    /// Its releases.
    pub releases: BTreeMap<ReleaseNo, Release>,
    /// What each step does.
    pub steps: BTreeMap<StepId, StepState>,
    /// What its slot of each target does, also of targets that are no longer in the plan.
    pub slots: BTreeMap<TargetId, SlotState>,
    /// Changes that may not come in again by themselves, by the rejected release that brought them (X4).
    pub taints: BTreeMap<ReleaseNo, Taint>,
    /// Holds that stand, by number.
    pub holds: BTreeMap<u64, Hold>,
    /// Overrides that were given, by number.
    pub overrides: BTreeMap<u64, Override>,
    /// The last number given to a hold or an override.
    pub last_number: u64,
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
            Work::Free | Work::Done { .. } | Work::RollingBack { .. } | Work::RolledBack { .. } => None,
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
            Work::RollingBack { .. } => "rolling back",
            Work::RolledBack { .. } => "rolled back",
        }
    }
}

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
    /// Whether it moves.
    pub motion: Motion,
    /// Whether enough of its boxes are healthy, as last told by the engine.
    pub capacity: Capacity,
    /// It is in no step of the definition any more: its boxes run on, and nothing moves it.
    pub detached: bool,
}

impl SlotState {
    /// The release that it runs, apart from what moves.
    #[must_use]
    pub fn current(&self) -> Option<ReleaseNo> {
        self.history.last().copied()
    }

    /// Every release that may have boxes on it now.
    #[must_use]
    pub fn running(&self) -> BTreeSet<ReleaseNo> {
        let mut all: BTreeSet<ReleaseNo> = self.current().into_iter().collect();
        match &self.motion {
            Motion::Settled => {}
            Motion::Forward { release, .. } => {
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

impl Pipeline {
    /// The RunSpec of a release in an environment; `None` if it is not built or not meant for it.
    #[must_use]
    pub fn run_spec(&self, release: ReleaseNo, environment: &EnvironmentId) -> Option<&RunSpecDigest> {
        match &self.releases.get(&release)?.build {
            Build::Built { run_specs, .. } => run_specs.get(environment),
            Build::Building { .. } | Build::Failed { .. } => None,
        }
    }

    /// The newest release that has been made.
    #[must_use]
    pub fn newest(&self) -> Option<(ReleaseNo, &Release)> {
        self.releases.last_key_value().map(|(no, release)| (*no, release))
    }

    /// Whether a release's way through a stage has ended: its last step is Done with it or with a newer one.
    #[must_use]
    pub fn finished(&self, stage: &crate::plan::Stage, release: ReleaseNo) -> bool {
        let last = stage.steps.last().and_then(|step| self.steps.get(&step.id));
        last.is_some_and(|step| step.done.is_some_and(|done| done >= release))
    }

    /// Releases that have finished every stage; the newest of them is everywhere.
    #[must_use]
    pub fn everywhere(&self) -> Option<ReleaseNo> {
        let last = self.plan.steps().last()?;
        self.steps.get(&last.1.id)?.done
    }
}

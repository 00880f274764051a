//! What is so now: every state with the reason beside it.

use crate::estimate::{EstimatesStatus, Eta};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use tidegate_core::alarm::{AlarmName, AlarmState};
use tidegate_core::bake::Missing;
use tidegate_core::decision::Actor;
use tidegate_core::ids::{
    AzId, CommitId, EnvironmentId, PackageDigest, PipelineId, RegionId, ReleaseNo, Role, ServiceId, SourceId,
    StageId, TargetId, TeamId, UserId,
};
use tidegate_core::pipeline::{Blocker, Cause, LeftOut, Reason};
use tidegate_core::plan::StepId;
use tidegate_core::scope::Scope;
use tidegate_core::units::{Span, Timestamp};
use utoipa::ToSchema;

/// The answer to `GET /v1/status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Status {
    /// Always 1.
    pub version: u32,
    /// When it was so.
    #[schema(value_type = i64)]
    pub now: Timestamp,
    /// What tidegate itself has to do and cannot at present, oldest first: builds that the machine fails, pages that nobody
    /// takes, a full disk. It goes on trying.
    pub troubles: Vec<WorkTrouble>,
    /// Servers that wait to take over when this one ends, in the order in which they came.
    #[serde(default)]
    pub standbys: Vec<StandbyStatus>,
    /// When the last backup was made; nothing if there has never been one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<i64>)]
    pub last_backup: Option<Timestamp>,
    /// The organisation.
    pub organisation: OrganisationStatus,
    /// The teams of the pipelines below.
    pub teams: Vec<TeamStatus>,
    /// The pipelines, ordered by name.
    pub pipelines: Vec<PipelineStatus>,
    /// There are more pipelines: the `after` that brings them.
    #[schema(value_type = Option<String>)]
    pub next: Option<PipelineId>,
}

/// Something that tidegate has to do and cannot at present.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WorkTrouble {
    /// What it has to do, or to keep.
    pub what: String,
    /// Why the last try failed, or what is so now.
    pub why: String,
    /// Since when.
    #[schema(value_type = i64)]
    pub since: Timestamp,
    /// How many tries have failed; 0 for what is not tried but lasts.
    pub tries: u32,
}

/// A server that waits to take over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StandbyStatus {
    /// Its process.
    pub pid: u32,
    /// The version of tidegate that it is.
    pub tidegate: String,
    /// Where it says that it waits; none if it listens only once it has taken over.
    pub url: Option<String>,
    /// Since when it waits.
    #[schema(value_type = i64)]
    pub since: Timestamp,
}

/// The organisation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OrganisationStatus {
    /// Its name; none before its definition was applied.
    pub name: Option<String>,
    /// Alarms that hold every start.
    pub alarms: Vec<RaisedAlarm>,
}

/// An alarm that somebody raised for the whole organisation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RaisedAlarm {
    /// Which.
    #[schema(value_type = String)]
    pub name: AlarmName,
    /// Who raised it.
    #[schema(value_type = Object)]
    pub by: Actor,
    /// Why.
    pub reason: String,
    /// Since when.
    #[schema(value_type = i64)]
    pub since: Timestamp,
}

/// A team.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TeamStatus {
    /// Which.
    #[schema(value_type = String)]
    pub name: TeamId,
    /// Its alarms that are not OK.
    pub alarms: Vec<TeamAlarm>,
    /// The pipeline whose suspect release is on its way back; one at a time.
    #[schema(value_type = Option<String>)]
    pub suspect_turn: Option<PipelineId>,
}

/// An alarm of a team that is not OK.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TeamAlarm {
    /// Where: environment and Region.
    #[schema(value_type = String)]
    pub scope: Scope,
    /// Which.
    #[schema(value_type = String)]
    pub name: AlarmName,
    /// `alarm` or `insufficient-data`.
    #[schema(value_type = String)]
    pub state: AlarmState,
    /// Since when.
    #[schema(value_type = i64)]
    pub since: Timestamp,
    /// Values and thresholds.
    pub why: String,
}

/// A pipeline.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PipelineStatus {
    /// Which.
    #[schema(value_type = String)]
    pub name: PipelineId,
    /// The service that it deploys.
    #[schema(value_type = Option<String>)]
    pub service: Option<ServiceId>,
    /// The service's owner.
    #[schema(value_type = Option<String>)]
    pub team: Option<TeamId>,
    /// Where its changes come from.
    pub sources: Vec<SourceStatus>,
    /// Newest first; the older ones that nothing runs are left out.
    pub releases: Vec<ReleaseStatus>,
    /// In order.
    pub stages: Vec<StageStatus>,
    /// Targets that are in no stage any more; their boxes run on.
    pub detached: Vec<TargetStatus>,
    /// Holds that stand.
    pub holds: Vec<HoldStatus>,
    /// Overrides that have not ended.
    pub overrides: Vec<OverrideStatus>,
    /// Regions that people leave out of starts.
    #[serde(default)]
    pub skips: Vec<SkipStatus>,
    /// It was deleted.
    #[serde(default)]
    pub retirement: Option<RetirementStatus>,
    /// Since when it only observes: its steps and targets are then what would be, and nothing moves.
    #[serde(default)]
    #[schema(value_type = Option<i64>)]
    pub observes_since: Option<Timestamp>,
    /// How the estimates in steps and releases were made; none if nothing is on its way, or if there was no time to make them.
    #[serde(default)]
    pub estimates: Option<EstimatesStatus>,
}

/// A source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SourceStatus {
    /// Which.
    #[schema(value_type = String)]
    pub name: SourceId,
    /// The mainline's newest commit.
    #[schema(value_type = Option<String>)]
    pub head: Option<CommitId>,
    /// Commits that are in no release yet, ancestors first; at most 50.
    pub pending: Vec<CommitStatus>,
    /// How many commits are in no release yet.
    pub pending_count: usize,
    /// What keeps it from being read.
    pub trouble: Option<TroubleStatus>,
}

/// A commit that is in no release yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CommitStatus {
    /// Its full name.
    #[schema(value_type = String)]
    pub commit: CommitId,
    /// The first line of its message.
    pub subject: String,
    /// As its author wrote it.
    pub author: String,
    /// When it was first seen on the mainline.
    #[schema(value_type = i64)]
    pub seen_at: Timestamp,
    /// Whose word is missing; none when it counts as reviewed.
    pub unreviewed: Option<String>,
}

/// Something in the way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TroubleStatus {
    /// What.
    pub why: String,
    /// Since when.
    #[schema(value_type = i64)]
    pub since: Timestamp,
}

/// A release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReleaseStatus {
    /// Its number.
    #[schema(value_type = u64)]
    pub release: ReleaseNo,
    /// One commit of each source.
    #[schema(value_type = BTreeMap<String, String>)]
    pub commits: BTreeMap<SourceId, CommitId>,
    /// What it adds to the release before.
    pub changes: Vec<ChangeStatus>,
    /// When it was made.
    #[schema(value_type = i64)]
    pub created_at: Timestamp,
    /// Its package.
    pub build: BuildStatus,
    /// What is thought of it.
    pub standing: StandingStatus,
    /// Its changes may not come in again by themselves.
    pub taint: Option<TaintStatus>,
    /// When it is everywhere, if it is on its way; also if a newer one takes its changes along.
    #[serde(default)]
    pub everywhere: Option<Eta>,
    /// Of release 0, which was not built but ran before: by whom, from where and why it was handed over.
    #[serde(default)]
    pub adopted: Option<String>,
}

/// A reviewed commit in a release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ChangeStatus {
    /// Where it comes from.
    #[schema(value_type = String)]
    pub source: SourceId,
    /// Its full name.
    #[schema(value_type = String)]
    pub commit: CommitId,
    /// The first line of its message.
    pub subject: String,
    /// As its author wrote it.
    pub author: String,
    /// Who approved it.
    #[schema(value_type = String)]
    pub approved_by: UserId,
    /// When.
    #[schema(value_type = i64)]
    pub approved_at: Timestamp,
    /// After it was on the mainline.
    pub late: bool,
    /// The change on a forge where it was approved; none if it was by a word to tidegate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approved_on: Option<String>,
}

/// A release's package.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum BuildStatus {
    /// It is being built.
    Building {
        /// Since when.
        #[schema(value_type = i64)]
        since: Timestamp,
        /// When it is given up.
        #[schema(value_type = i64)]
        deadline: Timestamp,
    },
    /// It cannot be built.
    Failed {
        /// Which command failed, how, and the end of its log.
        why: String,
        /// When.
        #[schema(value_type = i64)]
        at: Timestamp,
    },
    /// It is there.
    Built {
        /// The digest of its bytes.
        #[schema(value_type = String)]
        package: PackageDigest,
        /// When.
        #[schema(value_type = i64)]
        at: Timestamp,
    },
}

/// What is thought of a release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum StandingStatus {
    /// Nothing speaks against it.
    Good,
    /// It was under way where the team's alarm fired; it comes back once by itself.
    Suspect {
        /// Since when.
        #[schema(value_type = i64)]
        since: Timestamp,
        /// Where it was taken back.
        #[schema(value_type = Vec<String>)]
        scopes: BTreeSet<Scope>,
        /// The alarm.
        cause: CauseStatus,
    },
    /// It did harm, or a person said so.
    Rejected {
        /// When.
        #[schema(value_type = i64)]
        at: Timestamp,
        /// What convicted it.
        cause: CauseStatus,
    },
}

/// Changes that may not come in again by themselves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TaintStatus {
    /// Which.
    #[schema(value_type = Vec<String>)]
    pub commits: BTreeSet<CommitId>,
    /// Who cleared it and why.
    pub cleared: Option<String>,
}

/// Why something is taken back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CauseStatus {
    /// For people.
    pub text: String,
    /// As the core says it.
    #[schema(value_type = Object)]
    pub cause: Cause,
}

impl From<&Cause> for CauseStatus {
    fn from(cause: &Cause) -> CauseStatus {
        CauseStatus { text: cause.to_string(), cause: cause.clone() }
    }
}

/// Beta, gamma, or a production wave.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StageStatus {
    /// Which.
    #[schema(value_type = String)]
    pub name: StageId,
    /// Its environment.
    #[schema(value_type = String)]
    pub environment: EnvironmentId,
    /// Whether windows apply.
    pub production: bool,
    /// In order.
    pub steps: Vec<StepStatus>,
}

/// A step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StepStatus {
    /// Such as `wave-1/az-2`.
    #[schema(value_type = String)]
    pub name: StepId,
    /// `one-box` or `main`.
    #[schema(value_type = String)]
    pub role: Role,
    /// What it does.
    pub work: WorkStatus,
    /// The release that passed last and still runs here.
    #[schema(value_type = Option<u64>)]
    pub done: Option<ReleaseNo>,
    /// The release that wants to enter, and why it may not.
    pub waiting: Option<WaitingStatus>,
    /// What it deploys to.
    pub targets: Vec<TargetStatus>,
    /// When the release in work has passed.
    #[serde(default)]
    pub passes: Option<Eta>,
    /// When the release that waits enters.
    #[serde(default)]
    pub waiting_enters: Option<Eta>,
    /// Regions that run an older release than the step, because somebody skips them or because they catch up.
    #[serde(default)]
    pub left_out: Vec<LeftOutStatus>,
}

/// A Region that runs an older release than a step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LeftOutStatus {
    /// The Region.
    #[schema(value_type = String)]
    pub region: RegionId,
    /// What it runs and why, for people.
    pub text: String,
    /// The number of the skip that stands there.
    pub skip: Option<u64>,
}

impl From<&LeftOut> for LeftOutStatus {
    fn from(left: &LeftOut) -> LeftOutStatus {
        let skip = left.skip.as_ref().map(|(number, _)| *number);
        LeftOutStatus { region: left.region.clone(), text: left.to_string(), skip }
    }
}

/// The life of a release in a step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "phase", rename_all = "kebab-case")]
pub enum WorkStatus {
    /// Nothing has entered yet.
    Free,
    /// Boxes are replaced.
    Deploying {
        /// By this release.
        #[schema(value_type = u64)]
        release: ReleaseNo,
        /// When it entered.
        #[schema(value_type = i64)]
        since: Timestamp,
    },
    /// The stage's tests run.
    Testing {
        /// Against this release.
        #[schema(value_type = u64)]
        release: ReleaseNo,
        /// When it entered.
        #[schema(value_type = i64)]
        since: Timestamp,
        /// When they are given up.
        #[schema(value_type = i64)]
        deadline: Timestamp,
    },
    /// It is watched.
    Baking {
        /// This release.
        #[schema(value_type = u64)]
        release: ReleaseNo,
        /// When it entered.
        #[schema(value_type = i64)]
        since: Timestamp,
        /// What it has earned and what is missing.
        bake: BakeStatus,
    },
    /// It has passed.
    Done {
        /// This release.
        #[schema(value_type = u64)]
        release: ReleaseNo,
        /// When it entered.
        #[schema(value_type = i64)]
        since: Timestamp,
        /// When it had passed.
        #[schema(value_type = i64)]
        at: Timestamp,
    },
    /// It was under way when the definition changed, or when it was taken back from the step before in another Region: it passes
    /// what stands before the step first. Its boxes are watched.
    Recalled {
        /// This release.
        #[schema(value_type = u64)]
        release: ReleaseNo,
        /// When it entered.
        #[schema(value_type = i64)]
        since: Timestamp,
    },
    /// It is taken back.
    RollingBack {
        /// This release.
        #[schema(value_type = u64)]
        release: ReleaseNo,
        /// Since when.
        #[schema(value_type = i64)]
        since: Timestamp,
        /// Why.
        cause: CauseStatus,
    },
    /// It was taken back.
    RolledBack {
        /// This release.
        #[schema(value_type = u64)]
        release: ReleaseNo,
        /// When that was complete.
        #[schema(value_type = i64)]
        at: Timestamp,
        /// Why.
        cause: CauseStatus,
    },
}

/// A running bake.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BakeStatus {
    /// When the deployment was complete.
    #[schema(value_type = i64)]
    pub started: Timestamp,
    /// How much watched, quiet time each Region needs.
    #[schema(value_type = String)]
    pub needed: Span,
    /// What each Region has.
    pub regions: Vec<RegionBake>,
    /// What is missing, in words; empty when it is over.
    pub missing: Vec<String>,
    /// Monitoring has no data, so that no time counts.
    pub blind: Option<BlindStatus>,
}

/// What a Region has earned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RegionBake {
    /// Which.
    #[schema(value_type = String)]
    pub region: RegionId,
    /// Watched, quiet time.
    #[schema(value_type = String)]
    pub watched: Span,
    /// Data points.
    pub data: Vec<DataStatus>,
}

/// Data points counted for a bake.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DataStatus {
    /// Requests to this API; to all of them if none is named.
    pub api: Option<String>,
    /// So far.
    pub seen: u64,
    /// To come to.
    pub needed: u64,
}

/// Monitoring without data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BlindStatus {
    /// Since when.
    #[schema(value_type = i64)]
    pub since: Timestamp,
    /// Which alarms.
    #[schema(value_type = Vec<String>)]
    pub alarms: BTreeSet<AlarmName>,
}

/// A release before a step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WaitingStatus {
    /// Which.
    #[schema(value_type = u64)]
    pub release: ReleaseNo,
    /// Why it has not entered.
    pub reasons: Vec<ReasonStatus>,
}

/// Why a release may not enter a step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReasonStatus {
    /// For people.
    pub text: String,
    /// What an override would have to name; none when no override opens it.
    #[schema(value_type = Option<String>)]
    pub blocker: Option<Blocker>,
    /// As the core says it.
    #[schema(value_type = Object)]
    pub reason: Reason,
}

impl From<&Reason> for ReasonStatus {
    fn from(reason: &Reason) -> ReasonStatus {
        ReasonStatus { text: reason.to_string(), blocker: reason.blocker(), reason: reason.clone() }
    }
}

/// The pipeline's slot of a target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TargetStatus {
    /// Its stable name.
    #[schema(value_type = String)]
    pub name: TargetId,
    /// Its Region.
    #[schema(value_type = String)]
    pub region: RegionId,
    /// Its AZ or cell.
    #[schema(value_type = String)]
    pub az: AzId,
    /// How many boxes it has.
    pub boxes: u32,
    /// The release that it runs, apart from what moves.
    #[schema(value_type = Option<u64>)]
    pub current: Option<ReleaseNo>,
    /// Whether it moves.
    pub motion: MotionStatus,
    /// Whether enough of its boxes are healthy.
    pub capacity: CapacityStatus,
}

/// How a slot moves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum MotionStatus {
    /// It does not.
    Settled,
    /// A release goes forward.
    Forward {
        /// Which.
        #[schema(value_type = u64)]
        release: ReleaseNo,
        /// Boxes of it that were asked for.
        asked: u32,
        /// Of those, how many have been healthy for long enough.
        settled: u32,
        /// Until when another one has to be.
        #[schema(value_type = i64)]
        deadline: Timestamp,
        /// What is in the way.
        trouble: Option<String>,
    },
    /// Its pipeline was retired while a release went forward: the boxes stay as they are.
    Abandoned {
        /// Which.
        #[schema(value_type = u64)]
        release: ReleaseNo,
        /// Boxes of it that were asked for.
        asked: u32,
    },
    /// Releases are taken back.
    Back {
        /// These.
        #[schema(value_type = Vec<u64>)]
        from: BTreeSet<ReleaseNo>,
        /// To this one; without one the slot is drained and stopped.
        #[schema(value_type = Option<u64>)]
        to: Option<ReleaseNo>,
        /// Boxes of it that were asked for.
        asked: u32,
        /// Of those, how many are healthy.
        settled: u32,
        /// When the on-call engineer is paged unless another one is.
        #[schema(value_type = i64)]
        deadline: Timestamp,
        /// What is in the way.
        trouble: Option<String>,
    },
}

/// Healthy boxes of a target against its minimum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum CapacityStatus {
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

/// A person's stop of all new starts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HoldStatus {
    /// Its number, by which it is lifted.
    pub number: u64,
    /// Whose it is.
    #[schema(value_type = Object)]
    pub by: Actor,
    /// Why.
    pub reason: String,
    /// Since when.
    #[schema(value_type = i64)]
    pub since: Timestamp,
    /// When it ends by itself.
    #[schema(value_type = Option<i64>)]
    pub until: Option<Timestamp>,
    /// Only this stage.
    #[schema(value_type = Option<String>)]
    pub stage: Option<StageId>,
}

/// A person's word that releases start without a Region.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SkipStatus {
    /// Its number, by which it is lifted.
    pub number: u64,
    /// Environment and Region.
    #[schema(value_type = String)]
    pub scope: Scope,
    /// Only this release.
    #[schema(value_type = Option<u64>)]
    pub release: Option<ReleaseNo>,
    /// Whose it is.
    #[schema(value_type = Object)]
    pub by: Actor,
    /// Why.
    pub reason: String,
    /// Since when.
    #[schema(value_type = i64)]
    pub since: Timestamp,
}

/// The end of a pipeline.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RetirementStatus {
    /// Nothing is being taken back any more.
    pub complete: bool,
    /// Who deleted it.
    #[schema(value_type = Object)]
    pub by: Actor,
    /// Why.
    pub reason: String,
    /// When.
    #[schema(value_type = i64)]
    pub since: Timestamp,
}

/// A person's word that a release may pass blockers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OverrideStatus {
    /// Its number.
    pub number: u64,
    /// For which release.
    #[schema(value_type = u64)]
    pub release: ReleaseNo,
    /// Which blockers.
    #[schema(value_type = Vec<String>)]
    pub blockers: BTreeSet<Blocker>,
    /// At which steps; at all when empty.
    #[schema(value_type = Vec<String>)]
    pub steps: BTreeSet<StepId>,
    /// Who.
    #[schema(value_type = Object)]
    pub by: Actor,
    /// Why.
    pub reason: String,
    /// When it was given.
    #[schema(value_type = i64)]
    pub at: Timestamp,
    /// When it ends.
    #[schema(value_type = i64)]
    pub expires: Timestamp,
}

/// What a bake waits for, in words.
pub(crate) fn missing_text(missing: &Missing) -> String {
    match missing {
        Missing::Time { region, left } => format!("{left} of watched time in {region}"),
        Missing::Requests { region, api: Some(api), seen, needed } => {
            format!("{} of {needed} requests to {api} in {region}", needed.saturating_sub(*seen))
        }
        Missing::Requests { region, api: None, seen, needed } => {
            format!("{} of {needed} requests in {region}", needed.saturating_sub(*seen))
        }
    }
}

impl BakeStatus {
    /// What a bake clock says.
    #[must_use]
    pub fn new(
        clock: &tidegate_core::bake::BakeClock,
        blind: Option<&tidegate_core::pipeline::Blind>,
    ) -> BakeStatus {
        let data = |seen: &[u64]| {
            let counted = clock.data.iter().zip(seen);
            counted
                .map(|(d, seen)| DataStatus { api: d.api.clone(), seen: *seen, needed: d.requests })
                .collect()
        };
        let region = |(region, credit): (&RegionId, &tidegate_core::bake::Credit)| RegionBake {
            region: region.clone(),
            watched: credit.watched,
            data: data(&credit.requests),
        };
        BakeStatus {
            started: clock.started,
            needed: clock.minimum,
            regions: clock.regions.iter().map(region).collect(),
            missing: clock.missing().iter().map(missing_text).collect(),
            blind: blind.map(|b| BlindStatus { since: b.since, alarms: b.alarms.clone() }),
        }
    }
}

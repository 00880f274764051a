//! What happened to a pipeline; how that changes the state is in [`super::apply`]. Facts are stored for ever: a variant's shape is a contract.

use super::{
    Adoption, Blind, Capacity, Cause, Change, Cleared, Hold, OpenPage, Override, Reason, Retirement, Skip,
    Trouble,
};
use crate::Shared;
use crate::alarm::AlarmName;
use crate::bake::BakeClock;
use crate::change::Commit;
use crate::decision::{Actor, Awaited, EffectId};
use crate::definition::PipelineDef;
use crate::engine::BrokenGlass;
use crate::forge::Brought;
use crate::ids::{
    CommitId, EnvironmentId, PackageDigest, RegionId, ReleaseNo, RunSpecDigest, SourceId, TargetId, TeamId,
};
use crate::plan::{Plan, StepId};
use crate::scope::Scope;
use crate::units::{Span, Timestamp};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// What happened to a pipeline.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum PipelineFact {
    /// Its definition was replaced; nothing that runs changes by it (X8).
    Defined {
        /// All of it.
        definition: Shared<PipelineDef>,
        /// The owner of its service.
        team: TeamId,
        /// Where it leads.
        plan: Shared<Plan>,
    },
    /// A source has new commits.
    CommitsSeen {
        /// Which.
        source: SourceId,
        /// Its newest commit.
        head: CommitId,
        /// Ancestors first.
        commits: Vec<Commit>,
        /// When.
        at: Timestamp,
    },
    /// A source cannot be used.
    SourceTroubled {
        /// Which.
        source: SourceId,
        /// Why, since when.
        trouble: Trouble,
    },
    /// A source can be used again.
    SourceRecovered {
        /// Which.
        source: SourceId,
    },
    /// A forge said how commits came to the mainline, or says otherwise than before.
    ForgeTold {
        /// Of which source.
        source: SourceId,
        /// What it said, and what of that the repository bears out.
        told: BTreeMap<CommitId, Brought>,
        /// When it was asked.
        at: Timestamp,
    },
    /// A release was made of reviewed commits, and is built.
    ReleaseCreated {
        /// Its number.
        release: ReleaseNo,
        /// One commit of each source.
        commits: BTreeMap<SourceId, CommitId>,
        /// What it adds, with the reviews that counted.
        changes: Vec<Change>,
        /// When.
        at: Timestamp,
        /// The build.
        effect: EffectId,
        /// Until when its result is awaited.
        awaited: Awaited,
    },
    /// A failed build is tried again.
    BuildStarted {
        /// Of which release.
        release: ReleaseNo,
        /// The build.
        effect: EffectId,
        /// Until when its result is awaited.
        awaited: Awaited,
        /// Who wanted it.
        by: Actor,
        /// Why.
        reason: String,
    },
    /// For so long nobody worked: what was awaited has as much more time.
    Resumed {
        /// How long.
        absent: Span,
        /// Since when somebody works again.
        at: Timestamp,
    },
    /// A build or tests have waited for their turn: their time begins anew.
    TurnAwaited {
        /// Of which release.
        release: ReleaseNo,
        /// The tests of this step; `None` for the build.
        step: Option<StepId>,
        /// Until when their result is awaited.
        awaited: Awaited,
    },
    /// What ran before tidegate is release 0 now. Nothing was deployed.
    Adopted {
        /// What, from where, by whom.
        adoption: Adoption,
        /// What targets of each environment run, so that it can be returned to.
        run_specs: BTreeMap<EnvironmentId, RunSpecDigest>,
        /// When.
        at: Timestamp,
    },
    /// A release is built.
    Built {
        /// Which.
        release: ReleaseNo,
        /// Its bytes.
        package: PackageDigest,
        /// What targets of each environment run.
        run_specs: BTreeMap<EnvironmentId, RunSpecDigest>,
        /// When.
        at: Timestamp,
    },
    /// Environments have come to the definition since a release was built that may yet be deployed there.
    RunSpecsMade {
        /// The release.
        release: ReleaseNo,
        /// What targets of each new environment run.
        run_specs: BTreeMap<EnvironmentId, RunSpecDigest>,
    },
    /// A release cannot be built.
    BuildFailed {
        /// Which.
        release: ReleaseNo,
        /// Why.
        why: String,
        /// When.
        at: Timestamp,
    },
    /// A release may try to enter a step.
    CandidateSet {
        /// The step.
        step: StepId,
        /// The release; it takes the place of an older one that had not entered.
        release: ReleaseNo,
    },
    /// A candidate may not enter, or for other reasons than before.
    Waits {
        /// The step.
        step: StepId,
        /// The candidate.
        release: ReleaseNo,
        /// Why; empty when it no longer waits.
        reasons: Vec<Reason>,
    },
    /// A release entered a step.
    Entered {
        /// The step.
        step: StepId,
        /// The release.
        release: ReleaseNo,
        /// When.
        at: Timestamp,
        /// Overrides that opened blockers for it.
        overrides: Vec<u64>,
        /// Alarms that were firing then, under an override.
        masks: BTreeMap<Scope, BTreeSet<AlarmName>>,
        /// Regions that it does not go to because of these skips.
        #[serde(default)]
        without: BTreeMap<RegionId, u64>,
    },
    /// A slot begins to move forward.
    SlotForward {
        /// The target.
        target: TargetId,
        /// To this release.
        release: ReleaseNo,
        /// The command's number.
        generation: u64,
        /// Until when a box has to be healthy.
        awaited: Awaited,
    },
    /// A slot begins to move back.
    SlotBack {
        /// The target.
        target: TargetId,
        /// From these releases, which have so many boxes.
        from: BTreeMap<ReleaseNo, u32>,
        /// To this one.
        to: Option<ReleaseNo>,
        /// The command's number.
        generation: u64,
        /// Boxes asked for at once.
        asked: u32,
        /// Until when a box has to be healthy.
        awaited: Awaited,
    },
    /// The boxes that a configuration slot gives values to became more or fewer.
    SlotResized {
        /// The target.
        target: TargetId,
        /// How many there are.
        boxes: u32,
    },
    /// More boxes were asked for.
    SlotAsked {
        /// The target.
        target: TargetId,
        /// The command's number.
        generation: u64,
        /// How many in all.
        asked: u32,
        /// How many boxes each release that is taken back keeps, where there are several: those that serve, as far as they go.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        left: Option<BTreeMap<ReleaseNo, u32>>,
    },
    /// Boxes became healthy, or fell back.
    SlotProgressed {
        /// The target.
        target: TargetId,
        /// How many of the new boxes have been healthy for long enough.
        settled: u32,
        /// Until when another one has to be.
        awaited: Awaited,
    },
    /// The engine told of something in the way, or that it is gone.
    SlotTroubled {
        /// The target.
        target: TargetId,
        /// What.
        trouble: Option<String>,
    },
    /// Somebody at the machine has put a slot back, without the server.
    GlassBroken {
        /// The target.
        target: TargetId,
        /// What was put back, by whom, why, when.
        glass: BrokenGlass,
        /// The number of the command that knows of it.
        generation: u64,
    },
    /// A rollback made no progress for too long; it goes on, and the on-call engineer was paged.
    SlotStuck {
        /// The target.
        target: TargetId,
        /// Until when a box has to be healthy until the next page.
        awaited: Awaited,
    },
    /// A slot has arrived: all its boxes run this release.
    SlotSettled {
        /// The target.
        target: TargetId,
        /// The release; `None` if it was stopped.
        release: Option<ReleaseNo>,
    },
    /// A target has enough healthy boxes, or no longer has.
    CapacityChanged {
        /// The target.
        target: TargetId,
        /// What the engine told.
        capacity: Capacity,
    },
    /// A step's tests began.
    TestsStarted {
        /// The step.
        step: StepId,
        /// The effect that runs them.
        effect: EffectId,
        /// Until when their result is awaited.
        awaited: Awaited,
    },
    /// A step's bake began.
    BakeStarted {
        /// The step.
        step: StepId,
        /// With nothing credited.
        clock: BakeClock,
    },
    /// Watched time and data points were credited, or not, because monitoring was blind.
    Watched {
        /// The step.
        step: StepId,
        /// The clock after it.
        clock: BakeClock,
        /// What was blind.
        blind: Option<Blind>,
    },
    /// A release passed a step.
    StepDone {
        /// The step.
        step: StepId,
        /// The release.
        release: ReleaseNo,
        /// When.
        at: Timestamp,
    },
    /// A release was rejected.
    Rejected {
        /// Which.
        release: ReleaseNo,
        /// What convicted it.
        cause: Cause,
        /// When.
        at: Timestamp,
        /// The changes that it added over what it is rolled back to.
        taint: BTreeSet<CommitId>,
        /// The first release that holds any of them.
        first: ReleaseNo,
    },
    /// A release was under way where the team's alarm fired.
    Suspected {
        /// Which.
        release: ReleaseNo,
        /// Where.
        scope: Scope,
        /// The alarm.
        cause: Cause,
        /// When.
        at: Timestamp,
    },
    /// A suspect comes back.
    SuspectReturned {
        /// Which.
        release: ReleaseNo,
    },
    /// A step's release is taken back.
    StepRollingBack {
        /// The step.
        step: StepId,
        /// The release.
        release: ReleaseNo,
        /// Why.
        cause: Cause,
        /// Since when.
        since: Timestamp,
        /// The release that is good there now.
        done: Option<ReleaseNo>,
    },
    /// What is in a step was taken back from one before, and passes there again first; its boxes stay.
    StepRecalled {
        /// Which.
        step: StepId,
        /// What is there.
        release: ReleaseNo,
        /// What has passed the step, and all before it.
        done: Option<ReleaseNo>,
    },
    /// A step's release was taken back.
    StepRolledBack {
        /// The step.
        step: StepId,
        /// When that was complete.
        at: Timestamp,
    },
    /// The on-call engineer was paged, and is told when it is over.
    PageOpened {
        /// The same for all pages about one thing.
        key: String,
        /// What it is about.
        page: OpenPage,
    },
    /// What the on-call engineer was paged for is over.
    PageResolved {
        /// The page's key.
        key: String,
    },
    /// Firing alarms that were masked have been OK.
    MasksLifted {
        /// For this release.
        release: ReleaseNo,
        /// Where.
        scope: Scope,
        /// Which.
        alarms: BTreeSet<AlarmName>,
    },
    /// A person cleared a rejection: the release and its changes may go on.
    TaintCleared {
        /// The rejected release.
        release: ReleaseNo,
        /// By whom and why.
        cleared: Cleared,
    },
    /// A hold was placed.
    HoldPlaced {
        /// Its number.
        number: u64,
        /// Whose, why, until when.
        hold: Hold,
    },
    /// A hold was lifted, or has ended.
    HoldLifted {
        /// Its number.
        number: u64,
        /// By whom.
        by: Actor,
    },
    /// An override was given.
    Overridden {
        /// Its number.
        number: u64,
        /// For what, by whom, why, until when.
        allowed: Override,
    },
    /// Starts leave a Region out.
    RegionSkipped {
        /// The skip's number.
        number: u64,
        /// Where, by whom, why.
        skip: Skip,
    },
    /// A Region takes part again.
    SkipLifted {
        /// The skip's number.
        number: u64,
        /// By whom.
        by: Actor,
    },
    /// The pipeline was deleted. What was being built, tested or deployed is not any more.
    Retiring {
        /// By whom and why.
        retirement: Retirement,
    },
    /// Nothing moves any more.
    Retired {
        /// When.
        at: Timestamp,
    },
    /// A deleted pipeline goes on.
    Revived {
        /// When.
        at: Timestamp,
    },
    /// A person ordered a rollback.
    RollbackOrdered {
        /// Of which release.
        release: ReleaseNo,
        /// Who.
        by: Actor,
        /// Why.
        reason: String,
    },
    /// It only observes from now on.
    ObservingBegan {
        /// When.
        at: Timestamp,
    },
    /// It acts from now on, from what is really so.
    ObservingEnded {
        /// When.
        at: Timestamp,
    },
    /// What would have happened if it did not only observe.
    Pretended {
        /// That.
        fact: Box<PipelineFact>,
    },
    /// Releases that nothing refers to any more were forgotten.
    ReleasesForgotten {
        /// Up to this one.
        before: ReleaseNo,
    },
}

//! What a simulation comes to: the shape of `tidegate simulate --json`, a contract with a version.

use super::scenario::Fault;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use tidegate_core::bake::Missing;
use tidegate_core::ids::{CommitId, PipelineId, RegionId, ReleaseNo};
use tidegate_core::pipeline::{Cause, Reason};
use tidegate_core::plan::StepId;
use tidegate_core::scope::Scope;
use tidegate_core::units::{Span, Timestamp};

/// The schema name that this version writes.
pub const FORECAST_SCHEMA: &str = "tidegate.forecast/1";

/// What a simulation came to. Times are milliseconds since 1970-01-01T00:00:00Z.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Forecast {
    /// Always `tidegate.forecast/1`.
    pub schema: String,
    /// What was simulated.
    pub pipeline: PipelineId,
    /// The zone that business days are counted in, by its IANA name.
    pub time_zone: String,
    /// When it began.
    pub start: Timestamp,
    /// When nothing was left to happen, or no longer could.
    pub end: Timestamp,
    /// The pipeline's steps, in order.
    pub steps: Vec<Step>,
    /// Every release that was made, in order; the first of them is release 2, as release 1 ran when it began.
    pub releases: Vec<Release>,
    /// Figures over all of it.
    pub totals: Totals,
    /// What went wrong, in the scenario's order, and what came of it.
    pub faults: Vec<FaultReport>,
    /// Why not everything arrived; `None` if it did.
    pub stuck: Option<Stuck>,
    /// What was taken for granted beyond the scenario, for people.
    pub assumptions: Vec<String>,
    /// How much was decided for it.
    pub cost: Cost,
}

/// A step of the pipeline.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// Its name.
    pub id: StepId,
    /// The stage or wave that it belongs to.
    pub stage: String,
    /// The Regions that it deploys to.
    pub regions: Vec<RegionId>,
    /// How many targets it has.
    pub targets: usize,
    /// How long it bakes at least.
    pub bake: Span,
}

/// A release on its way.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Release {
    /// Its number.
    pub release: ReleaseNo,
    /// When it was made and its build began.
    pub created: Timestamp,
    /// The changes that it brings.
    pub changes: Vec<Change>,
    /// When it was built.
    pub built: Option<Timestamp>,
    /// How it went through the steps, in the order in which it entered; a step is there twice if it came back to it.
    pub passes: Vec<Pass>,
    /// What it waited for, in order.
    pub waits: Vec<Wait>,
    /// When it was everywhere; `None` if it never was (a newer one took its changes along, or it was rejected).
    pub everywhere: Option<Timestamp>,
    /// Rejections and suspicions.
    pub verdicts: Vec<Verdict>,
    /// Alarms that somebody let it pass, because it brings the fix.
    pub overrides: Vec<Passed>,
}

/// An override.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Passed {
    /// When it was given.
    pub at: Timestamp,
    /// For these steps.
    pub steps: BTreeSet<StepId>,
    /// Why.
    pub reason: String,
}

/// A change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Change {
    /// The commit; invented.
    pub commit: CommitId,
    /// When it was merged.
    pub at: Timestamp,
}

/// A release in a step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pass {
    /// The step.
    pub step: StepId,
    /// When it entered: boxes begin to be replaced.
    pub entered: Timestamp,
    /// When all targets ran it and its bake began.
    pub baking: Option<Timestamp>,
    /// When it had passed.
    pub done: Option<Timestamp>,
    /// When it began to be taken back.
    pub taken_back: Option<Timestamp>,
    /// When nothing of it was left there.
    pub back: Option<Timestamp>,
}

/// A release before a step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wait {
    /// The step.
    pub step: StepId,
    /// Since when it waited for these reasons.
    pub from: Timestamp,
    /// Until when; `None` if it did at the end.
    pub until: Option<Timestamp>,
    /// What its gates said.
    pub reasons: Vec<Reason>,
}

/// What was thought of a release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Verdict {
    /// When.
    pub at: Timestamp,
    /// Rejected; else suspected, and it comes back by itself.
    pub rejected: bool,
    /// The step that it was furthest in.
    pub step: Option<StepId>,
    /// Where the alarm fired or the boxes were; `None` if the cause has no place.
    pub scope: Option<Scope>,
    /// Why.
    pub cause: Cause,
}

/// Figures over all of a simulation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Totals {
    /// Changes that were merged.
    pub changes: usize,
    /// Of those, how many are everywhere.
    pub changes_everywhere: usize,
    /// From the merge of a change until it was everywhere: the median; `None` if none was.
    pub to_all_regions_median: Option<Span>,
    /// The same, for nine of ten changes.
    pub to_all_regions_p90: Option<Span>,
    /// That time without Saturdays and Sundays: the median. A business day of it is 24 hours.
    pub business_time_median: Option<Span>,
    /// The same, for nine of ten changes.
    pub business_time_p90: Option<Span>,
    /// Releases that were made.
    pub releases: usize,
    /// Releases that reached every step.
    pub releases_everywhere: usize,
    /// Thousandths of a release per day (of 24 hours) that reached every step, from the start to the last arrival.
    pub releases_per_day_milli: u64,
    /// Changes of a release that reached every step, those of releases that it overtook included: the median.
    pub changes_per_release_median: Option<u64>,
    /// Customers' requests that met a regression until it was caught.
    pub requests_exposed: u64,
    /// Customers' requests in all.
    pub requests: u64,
    /// Pages to the on-call engineer.
    pub pages: u64,
}

/// A fault, and what came of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FaultReport {
    /// As the scenario has it.
    pub fault: Fault,
    /// When it began: the first box with it served, or its time came; `None` if it never did.
    pub began: Option<Timestamp>,
    /// Releases that were rejected or suspected for it, or while it lasted.
    pub verdicts: BTreeMap<ReleaseNo, Vec<Verdict>>,
    /// When nobody was exposed any more, or its time was over.
    pub over: Option<Timestamp>,
    /// Who met it; of a regression only.
    pub exposed: Option<Exposed>,
}

/// Customers who met a regression.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exposed {
    /// Requests that it harmed until it was caught.
    pub requests_until_caught: u64,
    /// Requests that it harmed in all.
    pub requests: u64,
    /// Of all customers' requests in all Regions between its first harm and its last, one in a million.
    pub share_ppm: u64,
    /// The largest share of all customers' requests that it harmed at a time, one in a million.
    pub peak_ppm: u64,
    /// Requests that it harmed, by Region of production.
    pub regions: BTreeMap<RegionId, u64>,
}

/// Why a simulation ended before everything had arrived.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stuck {
    /// In words.
    pub why: String,
    /// Gates that will not open.
    pub gates: Vec<ShutGate>,
    /// Bakes that will not end.
    pub bakes: Vec<EndlessBake>,
}

/// A gate that will not open by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShutGate {
    /// Before this step.
    pub step: StepId,
    /// This release waits.
    pub release: ReleaseNo,
    /// Since when.
    pub since: Timestamp,
    /// For this.
    pub reasons: Vec<Reason>,
}

/// A bake that will not end by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EndlessBake {
    /// The step.
    pub step: StepId,
    /// The release.
    pub release: ReleaseNo,
    /// Since when it bakes.
    pub since: Timestamp,
    /// What it has too little of.
    pub missing: Vec<Missing>,
    /// Alarms without data, by Region.
    pub blind: BTreeMap<RegionId, BTreeSet<String>>,
}

/// How much a simulation decided.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cost {
    /// Moments at which something happened.
    pub moments: u64,
    /// Events that the runtime decided on.
    pub decisions: u64,
    /// Facts that followed.
    pub facts: u64,
    /// Samples of Regions' boxes.
    pub samples: u64,
}

impl Forecast {
    /// How long customers' requests were exposed to regressions until they were caught, one in a million of all.
    #[must_use]
    pub fn exposed_ppm(&self) -> u64 {
        ppm(self.totals.requests_exposed, self.totals.requests)
    }
}

/// A part in millionths of the whole.
#[must_use]
pub(super) fn ppm(part: u64, whole: u64) -> u64 {
    u64::try_from(u128::from(part) * 1_000_000 / u128::from(whole.max(1))).unwrap_or(u64::MAX)
}

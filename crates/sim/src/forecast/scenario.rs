//! What a simulation is given beside the definitions: when it begins, how commits arrive, how long things take, how many
//! requests customers make, and what goes wrong. JSON, of a schema with a version; what is not written has a default.

use jiff::civil;
use jiff::tz::{TimeZone, TimeZoneDatabase};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use tidegate_core::definition::TeamDef;
use tidegate_core::ids::{RegionId, ServiceId};
use tidegate_core::units::{Percent, Span, Timestamp};
use tidegate_core::window::{Windows, Zone};

/// The schema name that this version reads.
pub const SCENARIO_SCHEMA: &str = "tidegate.scenario/1";
/// The longest simulated time in which commits arrive.
pub const LENGTH_MAX: Span = Span::hours(24 * 92);
/// The most commits of one simulation.
pub const COMMITS_MAX: usize = 20_000;
/// The most faults of one simulation.
pub const FAULTS_MAX: usize = 100;

/// What happens while a pipeline is simulated.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// Always `tidegate.scenario/1`.
    pub schema: String,
    /// When it begins; Monday 2026-01-05, 00:00 in the time zone, unless given.
    #[serde(default)]
    pub start: Option<Moment>,
    /// How long commits arrive; the simulation goes on until the last of them is everywhere.
    #[serde(default = "Scenario::default_length")]
    pub length: Span,
    /// The zone whose days and hours count for commits and for the picture; the team's window has one, else UTC.
    #[serde(default)]
    pub time_zone: Option<Zone>,
    /// How commits arrive.
    #[serde(default)]
    pub commits: Commits,
    /// How long a build takes.
    #[serde(default = "Scenario::default_build_time")]
    pub build_time: Span,
    /// From the start of a box until it is healthy.
    #[serde(default = "Scenario::default_box_start_time")]
    pub box_start_time: Span,
    /// How long a stage's tests take.
    #[serde(default = "Scenario::default_test_time")]
    pub test_time: Span,
    /// From a rejection until somebody has merged the fix, or has tried again what was not guilty.
    #[serde(default = "Scenario::default_fix_time")]
    pub fix_time: Span,
    /// The requests of customers.
    #[serde(default)]
    pub traffic: Traffic,
    /// What goes wrong; at most [`FAULTS_MAX`].
    #[serde(default)]
    pub faults: Vec<Fault>,
}

impl Default for Scenario {
    fn default() -> Scenario {
        Scenario {
            schema: SCENARIO_SCHEMA.to_owned(),
            start: None,
            length: Scenario::default_length(),
            time_zone: None,
            commits: Commits::default(),
            build_time: Scenario::default_build_time(),
            box_start_time: Scenario::default_box_start_time(),
            test_time: Scenario::default_test_time(),
            fix_time: Scenario::default_fix_time(),
            traffic: Traffic::default(),
            faults: Vec::new(),
        }
    }
}

/// How commits arrive. Each was approved before it was merged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Commits {
    /// So many on each day from Monday to Friday, evenly from 09:00 to 17:00.
    PerBusinessDay(u32),
    /// At these times, in any order; those outside of the simulated time are left out.
    At(Vec<Moment>),
    /// At the commit times of this git repository's mainline (a folder); without a start, its newest `length`.
    Git(String),
}

impl Default for Commits {
    fn default() -> Commits {
        Commits::PerBusinessDay(10)
    }
}

/// The requests of customers, spread over Regions as the Region list's `traffic` says, and over boxes evenly; a one-box gets
/// at most a tenth of its Region's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Traffic {
    /// In all production Regions together.
    pub requests_per_second: u64,
    /// In each Region of each environment before production.
    pub test_requests_per_second: u64,
    /// The APIs and their shares of the requests.
    pub apis: Vec<Api>,
}

impl Default for Traffic {
    fn default() -> Traffic {
        let apis = vec![Api { name: "GET /".to_owned(), share: full() }];
        Traffic { requests_per_second: 10_000, test_requests_per_second: 20, apis }
    }
}

fn full() -> Percent {
    Percent::new(100).expect("all of it is 100 %")
}

/// One API.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Api {
    /// As metrics name it, such as `POST /orders`.
    pub name: String,
    /// In percent of the requests; all APIs together make 100.
    pub share: Percent,
}

/// Something that goes wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Fault {
    /// A change that does harm where it runs.
    Regression(Regression),
    /// An alarm of another service of the team fires, for a reason that no release has.
    Outage(Outage),
    /// A Region's monitoring has no data.
    Blind(Blind),
    /// Somebody raises an alarm for the whole organisation by hand.
    LargeScaleEvent(Between),
    /// Orders reach boxes late.
    SlowEngine(SlowEngine),
    /// One box of the first AZ never becomes healthy with a release, by no fault of its change.
    SickBox(SickBox),
}

/// A change that does harm where it runs, until it is fixed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Regression {
    /// The release that brings it, as a number; release 1 runs everywhere when the simulation begins.
    pub release: u64,
    /// What it does.
    pub harm: Harm,
    /// A slow burn: it begins when a box has run for so long.
    #[serde(default)]
    pub after: Span,
    /// Only requests to this API.
    #[serde(default)]
    pub api: Option<String>,
    /// Only in this Region, in whatever environment.
    #[serde(default)]
    pub region: Option<RegionId>,
    /// Only on boxes that get more requests per second than this.
    #[serde(default)]
    pub above_requests_per_second: Option<u64>,
}

/// What a regression does to requests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Harm {
    /// So many percent of them fail, 1 to 100.
    Faults(Percent),
    /// Each takes so much longer.
    Latency(Span),
    /// Boxes end when they start.
    Crash,
}

/// See [`Fault::Outage`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Outage {
    /// In production there.
    pub region: RegionId,
    /// The service; without one, the first other one of the team, or the service itself if there is no other.
    #[serde(default)]
    pub service: Option<ServiceId>,
    /// After the start.
    pub from: Span,
    /// After the start.
    pub until: Span,
}

/// See [`Fault::Blind`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Blind {
    /// In production there.
    pub region: RegionId,
    /// After the start.
    pub from: Span,
    /// After the start.
    pub until: Span,
}

/// An interval.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Between {
    /// After the start.
    pub from: Span,
    /// After the start.
    pub until: Span,
}

/// See [`Fault::SlowEngine`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SlowEngine {
    /// Only in this Region.
    #[serde(default)]
    pub region: Option<RegionId>,
    /// After the start.
    pub from: Span,
    /// After the start.
    pub until: Span,
    /// By how much.
    pub delay: Span,
}

/// See [`Fault::SickBox`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SickBox {
    /// With this release, as a number, until somebody tries it again.
    pub release: u64,
    /// In production there.
    pub region: RegionId,
}

/// A point in time, written as RFC 3339 has it: `2026-01-05T09:00:00+01:00`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub struct Moment(pub Timestamp);

/// A text that is no point in time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no point in time: write one with its offset, such as 2026-01-05T09:00:00Z")]
pub struct InvalidMoment(String);

impl FromStr for Moment {
    type Err = InvalidMoment;
    fn from_str(text: &str) -> Result<Moment, InvalidMoment> {
        let parsed = text.parse::<jiff::Timestamp>();
        parsed
            .map(|at| Moment(Timestamp(at.as_millisecond())))
            .map_err(|_| InvalidMoment(text.chars().take(40).collect()))
    }
}

impl TryFrom<String> for Moment {
    type Error = InvalidMoment;
    fn try_from(text: String) -> Result<Moment, InvalidMoment> {
        text.parse()
    }
}

impl From<Moment> for String {
    fn from(moment: Moment) -> String {
        moment.0.to_string()
    }
}

impl fmt::Debug for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl Scenario {
    fn default_length() -> Span {
        Span::hours(24 * 7)
    }
    fn default_build_time() -> Span {
        Span::minutes(5)
    }
    fn default_box_start_time() -> Span {
        Span::seconds(30)
    }
    fn default_test_time() -> Span {
        Span::minutes(5)
    }
    fn default_fix_time() -> Span {
        Span::hours(1)
    }

    /// The zone whose days count.
    #[must_use]
    pub fn zone(&self, team: Option<&TeamDef>) -> TimeZone {
        let of_team = team.and_then(|team| match &team.windows {
            Windows::Always => None,
            Windows::Weekly(weekly) => Some(&weekly.time_zone),
        });
        let zone = self.time_zone.as_ref().or(of_team).map(ToString::to_string);
        // Its name was checked with the same database when it was read.
        zone.and_then(|name| TimeZoneDatabase::bundled().get(&name).ok()).unwrap_or(TimeZone::UTC)
    }

    /// When it begins.
    #[must_use]
    pub fn begins(&self, zone: &TimeZone) -> Timestamp {
        let monday = || instant(civil::date(2026, 1, 5).to_datetime(civil::Time::midnight()), zone);
        self.start.map_or_else(monday, |moment| moment.0)
    }

    /// When commits arrive, in order; never before `start`.
    #[must_use]
    pub fn arrivals(&self, start: Timestamp, zone: &TimeZone) -> Vec<Timestamp> {
        let end = start + self.length;
        let mut all: Vec<Timestamp> = match &self.commits {
            Commits::At(times) => times.iter().map(|moment| moment.0).collect(),
            Commits::PerBusinessDay(count) => per_business_day(*count, start, end, zone),
            Commits::Git(_) => Vec::new(),
        };
        all.retain(|at| start <= *at && *at < end);
        all.sort_unstable();
        all.truncate(COMMITS_MAX);
        all
    }
}

/// From 09:00 to 17:00, each in the middle of its share of the day.
fn per_business_day(count: u32, start: Timestamp, end: Timestamp, zone: &TimeZone) -> Vec<Timestamp> {
    const DAY_SECONDS: i64 = 8 * 3_600;
    let mut all = Vec::new();
    let Some(mut date) = local(start, zone).map(civil::DateTime::date) else { return all };
    while instant(date.to_datetime(civil::Time::midnight()), zone) < end && all.len() < COMMITS_MAX {
        if is_business_day(date) {
            let opens = date.to_datetime(civil::time(9, 0, 0, 0));
            for n in 0..i64::from(count) {
                let into = DAY_SECONDS * (2 * n + 1) / (2 * i64::from(count));
                all.push(Timestamp(instant(opens, zone).0 + into * 1_000));
            }
        }
        let Ok(tomorrow) = date.tomorrow() else { break };
        date = tomorrow;
    }
    all
}

/// Monday to Friday.
#[must_use]
pub(super) fn is_business_day(date: civil::Date) -> bool {
    !matches!(date.weekday(), civil::Weekday::Saturday | civil::Weekday::Sunday)
}

/// What clock and calendar say in the zone; `None` beyond the calendar.
#[must_use]
pub(super) fn local(at: Timestamp, zone: &TimeZone) -> Option<civil::DateTime> {
    jiff::Timestamp::from_millisecond(at.0).ok().map(|at| zone.to_datetime(at))
}

/// The instant of a local time; of one that daylight saving time skips, the one right after.
#[must_use]
pub(super) fn instant(at: civil::DateTime, zone: &TimeZone) -> Timestamp {
    let found = zone.to_ambiguous_timestamp(at).compatible();
    Timestamp(found.map_or(i64::MAX, |at| at.as_millisecond()))
}

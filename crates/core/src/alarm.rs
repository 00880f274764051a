//! Alarms on metrics (M1, M4): what an alarm is, and when it is in ALARM.
//!
//! A [`MetricAlarm`] is a definition. An [`Aggregate`] is what was seen in one period; [`evaluate`] judges the newest
//! periods and explains itself with a value that is kept as the cause of a rollback. What must hold: numbers are whole
//! thousandths, so the same cells give the same decision on every machine; a period without data is never taken for a good
//! one unless the definition says so (X2).

mod aggregate;
mod evaluate;
mod metric;
mod outside;
mod standard;
#[cfg(test)]
mod tests;

pub use aggregate::Aggregate;
pub use evaluate::{EXTRA_PERIODS, Evaluated, Explanation, Point, evaluate};
pub use metric::{InvalidPercentile, InvalidQuantity, Metric, Percentile, Quantity, Statistic};
pub use outside::{Heard, OutsideAlarm, Source, Word};
pub(crate) use outside::{Heeded, Known};
pub use standard::{alarm_prefix, high_severity_name, standard_alarms};

use crate::ids::{InvalidId, Text};
use crate::units::Span;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;

/// An alarm's name: 1 to 128 of `A-Z a-z 0-9 _ - .`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, JsonSchema)]
#[serde(try_from = "String")]
#[schemars(with = "String")]
pub struct AlarmName(Text);

impl Serialize for AlarmName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl AlarmName {
    /// Checks the text.
    ///
    /// # Errors
    /// If it is no alarm name.
    pub fn new(text: impl Into<String>) -> Result<AlarmName, InvalidId> {
        let text = text.into();
        let why = if text.is_empty() {
            "it is empty"
        } else if text.chars().any(|c| !c.is_ascii_alphanumeric() && !matches!(c, '_' | '-' | '.')) {
            "only letters, digits, '_', '-' and '.' are allowed"
        } else if text.len() > 128 {
            "it is longer than 128 characters"
        } else {
            return Ok(AlarmName(Text(text.into())));
        };
        Err(InvalidId { what: "alarm name", text: text.chars().take(80).collect(), why })
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0.0
    }
}

impl fmt::Display for AlarmName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for AlarmName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for AlarmName {
    type Err = InvalidId;
    fn from_str(text: &str) -> Result<AlarmName, InvalidId> {
        AlarmName::new(text)
    }
}

impl TryFrom<String> for AlarmName {
    type Error = InvalidId;
    fn try_from(text: String) -> Result<AlarmName, InvalidId> {
        AlarmName::new(text)
    }
}

impl From<AlarmName> for String {
    fn from(name: AlarmName) -> String {
        name.as_str().to_owned()
    }
}

/// The state of an alarm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum AlarmState {
    /// There is data, and it is within the threshold.
    Ok,
    /// The threshold was crossed often enough.
    Alarm,
    /// There is too little data to say either: blind (X2).
    InsufficientData,
}

impl fmt::Display for AlarmState {
    /// As the function of an expression that asks for it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            AlarmState::Ok => "OK",
            AlarmState::Alarm => "ALARM",
            AlarmState::InsufficientData => "INSUFFICIENT_DATA",
        })
    }
}

/// An alarm on one metric of a service in one environment and Region.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MetricAlarm {
    /// Unique in its team.
    pub name: AlarmName,
    /// Whose boxes are measured.
    #[serde(default)]
    pub scope: Scope,
    /// What is measured; its documentation names the unit.
    pub metric: Metric,
    /// How a value is compared with the threshold.
    #[serde(default)]
    pub comparison: Comparison,
    /// In the metric's unit.
    pub threshold: Quantity,
    /// The length of one period.
    #[serde(default)]
    pub period: Period,
    /// How many breaching periods of how many.
    #[serde(default)]
    pub datapoints: Datapoints,
    /// What a period without data counts as.
    #[serde(default)]
    pub missing: MissingData,
    /// A period with fewer requests than this (of the metric's API) has no data for rates and latencies; one with
    /// fewer canary runs has none for canary failures. The count of faults is never missing for that reason: where
    /// traffic is low, a `faults` alarm sees a single one (X2).
    #[serde(default = "MetricAlarm::default_min_samples")]
    pub min_samples: u64,
}

impl MetricAlarm {
    fn default_min_samples() -> u64 {
        5
    }

    /// How many of the newest periods [`evaluate`] looks at: N and [`EXTRA_PERIODS`].
    #[must_use]
    pub fn periods(&self) -> usize {
        usize::from(self.datapoints.n()) + EXTRA_PERIODS
    }

    /// The metric's value in a period; `None` is missing data.
    #[must_use]
    pub fn value(&self, seen: &Aggregate) -> Option<Quantity> {
        match seen.samples(&self.metric) {
            Some(samples) if samples < self.min_samples => None,
            _ => seen.value(&self.metric),
        }
    }
}

/// Whose boxes an alarm measures.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Scope {
    /// All boxes of the service in the environment and Region, and requests that no box took.
    #[default]
    Service,
    /// The Region's one-box alone (M4).
    OneBox,
}

/// How a value crosses the threshold.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Comparison {
    /// Above.
    #[default]
    #[serde(rename = ">")]
    Above,
    /// Above or equal.
    #[serde(rename = ">=")]
    AtLeast,
    /// Below.
    #[serde(rename = "<")]
    Below,
    /// Below or equal.
    #[serde(rename = "<=")]
    AtMost,
}

impl Comparison {
    /// Whether the value crosses the threshold.
    #[must_use]
    pub fn breaches(self, value: Quantity, threshold: Quantity) -> bool {
        match self {
            Comparison::Above => value > threshold,
            Comparison::AtLeast => value >= threshold,
            Comparison::Below => value < threshold,
            Comparison::AtMost => value <= threshold,
        }
    }

    /// Of several values, the one that says most about a breach: the largest, or for `<` and `<=` the smallest.
    pub(crate) fn worst(self, values: impl Iterator<Item = Quantity>) -> Option<Quantity> {
        match self {
            Comparison::Above | Comparison::AtLeast => values.max(),
            Comparison::Below | Comparison::AtMost => values.min(),
        }
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Comparison::Above => ">",
            Comparison::AtLeast => ">=",
            Comparison::Below => "<",
            Comparison::AtMost => "<=",
        })
    }
}

/// What a period without data counts as, in the way of CloudWatch; [`evaluate`] has the rules.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum MissingData {
    /// As nothing; INSUFFICIENT_DATA when there is nothing else.
    #[default]
    Missing,
    /// As within the threshold: for metrics that exist only when something is wrong.
    NotBreaching,
    /// As crossing it: for heartbeats.
    Breaching,
    /// The alarm keeps its state.
    Ignore,
}

/// The length of a period: whole seconds, from one second to one day. One minute unless given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "Span", into = "Span")]
#[schemars(with = "Span")]
pub struct Period(Span);

/// A span that is no period of an alarm.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0} is not a period: whole seconds from 1s to 1d are expected")]
pub struct InvalidPeriod(Span);

impl Period {
    /// Checks the range.
    ///
    /// # Errors
    /// If it is not whole seconds between one second and one day.
    pub fn new(span: Span) -> Result<Period, InvalidPeriod> {
        let ok = span.0.is_multiple_of(1_000) && (Span::seconds(1)..=Span::hours(24)).contains(&span);
        if ok { Ok(Period(span)) } else { Err(InvalidPeriod(span)) }
    }

    /// Its length.
    #[must_use]
    pub const fn span(self) -> Span {
        self.0
    }

    /// Its length in seconds, 1 to 86,400.
    #[must_use]
    pub const fn seconds(self) -> u64 {
        self.0.millis() / 1_000
    }
}

impl Default for Period {
    fn default() -> Period {
        Period(Span::minutes(1))
    }
}

impl TryFrom<Span> for Period {
    type Error = InvalidPeriod;
    fn try_from(span: Span) -> Result<Period, InvalidPeriod> {
        Period::new(span)
    }
}

impl From<Period> for Span {
    fn from(period: Period) -> Span {
        period.0
    }
}

/// M of N: so many of the newest so many periods must breach. Written `"2 of 3"`; 1 <= M <= N <= [`Datapoints::MAX`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub struct Datapoints {
    m: u16,
    n: u16,
}

/// A text or pair that is no M of N.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a number of data points: write \"M of N\" with 1 <= M <= N <= {max}, such as \"2 of 3\"", max = Datapoints::MAX)]
pub struct InvalidDatapoints(String);

impl Datapoints {
    /// The most periods that an alarm looks at.
    pub const MAX: u16 = 100;

    /// Checks the range.
    ///
    /// # Errors
    /// Unless 1 <= m <= n <= [`Datapoints::MAX`].
    pub fn new(m: u16, n: u16) -> Result<Datapoints, InvalidDatapoints> {
        let datapoints = Datapoints { m, n };
        if 1 <= m && m <= n && n <= Self::MAX {
            Ok(datapoints)
        } else {
            Err(InvalidDatapoints(datapoints.to_string()))
        }
    }

    /// Breaching periods to ALARM.
    #[must_use]
    pub const fn m(self) -> u16 {
        self.m
    }

    /// Periods looked at.
    #[must_use]
    pub const fn n(self) -> u16 {
        self.n
    }
}

impl Default for Datapoints {
    fn default() -> Datapoints {
        Datapoints { m: 2, n: 3 }
    }
}

impl fmt::Display for Datapoints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.m, self.n)
    }
}

impl FromStr for Datapoints {
    type Err = InvalidDatapoints;
    fn from_str(text: &str) -> Result<Datapoints, InvalidDatapoints> {
        let pair = text.split_once(" of ").and_then(|(m, n)| Some((m.parse().ok()?, n.parse().ok()?)));
        pair.and_then(|(m, n)| Datapoints::new(m, n).ok())
            .ok_or_else(|| InvalidDatapoints(text.chars().take(40).collect()))
    }
}

impl TryFrom<String> for Datapoints {
    type Error = InvalidDatapoints;
    fn try_from(text: String) -> Result<Datapoints, InvalidDatapoints> {
        text.parse()
    }
}

impl From<Datapoints> for String {
    fn from(datapoints: Datapoints) -> String {
        datapoints.to_string()
    }
}

//! What can be measured, in which unit, and the numbers that come out.

use super::Comparison;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// A metric over one period. Rates and shares are percentages (0 to 100), latencies milliseconds, counts are per period.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Metric {
    /// Faults (5xx, broken connections, time-outs, and requests that no box took) in percent of the requests.
    FaultRate {
        /// Only this API, such as `POST /orders`; requests that no box took belong to none.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        api: Option<String>,
    },
    /// Errors of the client (4xx) in percent of the requests.
    ErrorRate {
        /// Only this API.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        api: Option<String>,
    },
    /// The number of faults.
    Faults {
        /// Only this API.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        api: Option<String>,
    },
    /// The number of requests.
    Requests {
        /// Only this API.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        api: Option<String>,
    },
    /// A percentile of the latency of all requests together, in milliseconds.
    Latency {
        /// Which, such as `"p99"`.
        percentile: Percentile,
        /// Only this API.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        api: Option<String>,
    },
    /// CPU time of a box, in percent of one core: two busy cores are 200.
    Cpu {
        /// Over boxes and seconds.
        #[serde(default)]
        statistic: Statistic,
    },
    /// Resident memory of a box, in MiB.
    Memory {
        /// Over boxes and seconds.
        #[serde(default)]
        statistic: Statistic,
    },
    /// Disk used by a box's folder, in MiB.
    Disk {
        /// Over boxes and seconds.
        #[serde(default)]
        statistic: Statistic,
    },
    /// The number of log lines with an error level, over all boxes.
    LogErrors,
    /// Boxes that fail their health checks, in percent of the boxes (of the seconds reported by them).
    UnhealthyBoxes,
    /// Canary runs that failed, in percent of the runs.
    CanaryFailures,
    /// A gauge that the team reports under a name of its own, in its own unit.
    Custom {
        /// The name.
        name: String,
        /// Over the reports of the period.
        #[serde(default)]
        statistic: Statistic,
    },
    /// What the team's Prometheus answers at the end of the period, in the query's own unit: exactly one finite number.
    /// Anything else, and no answer, is a period without data.
    Promql {
        /// In PromQL. `$service`, `$environment` and `$region` stand for the alarm's place, `$period` for the length of a
        /// period, such as `60s`.
        query: String,
    },
}

impl Metric {
    /// What stands after a number of this metric: `%`, `ms`, `MiB`, or nothing.
    #[must_use]
    pub fn unit(&self) -> &'static str {
        match self {
            Metric::FaultRate { .. }
            | Metric::ErrorRate { .. }
            | Metric::Cpu { .. }
            | Metric::UnhealthyBoxes
            | Metric::CanaryFailures => " %",
            Metric::Latency { .. } => " ms",
            Metric::Memory { .. } | Metric::Disk { .. } => " MiB",
            Metric::Faults { .. }
            | Metric::Requests { .. }
            | Metric::LogErrors
            | Metric::Custom { .. }
            | Metric::Promql { .. } => "",
        }
    }
}

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut name = |what: &dyn fmt::Display, api: &Option<String>| match api {
            Some(api) => write!(f, "{what} of {api}"),
            None => write!(f, "{what}"),
        };
        match self {
            Metric::FaultRate { api } => name(&"fault rate", api),
            Metric::ErrorRate { api } => name(&"error rate", api),
            Metric::Faults { api } => name(&"faults", api),
            Metric::Requests { api } => name(&"requests", api),
            Metric::Latency { percentile, api } => name(&format_args!("{percentile} latency"), api),
            Metric::Cpu { statistic } => write!(f, "{statistic} CPU"),
            Metric::Memory { statistic } => write!(f, "{statistic} memory"),
            Metric::Disk { statistic } => write!(f, "{statistic} disk"),
            Metric::LogErrors => f.write_str("errors in logs"),
            Metric::UnhealthyBoxes => f.write_str("unhealthy boxes"),
            Metric::CanaryFailures => f.write_str("failed canary runs"),
            Metric::Custom { name, statistic } => write!(f, "{statistic} {name}"),
            Metric::Promql { query } => write!(f, "PromQL {}", Short(query)),
        }
    }
}

/// A query on one line, cut where it gets long.
struct Short<'a>(&'a str);

impl Short<'_> {
    const CHARS_MAX: usize = 80;
}

impl fmt::Display for Short<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let line = self.0.split_whitespace().collect::<Vec<_>>().join(" ");
        match line.char_indices().nth(Self::CHARS_MAX) {
            Some((end, _)) => write!(f, "{}...", &line[..end]),
            None => f.write_str(&line),
        }
    }
}

/// How a gauge's samples become one number.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Statistic {
    /// The mean of all samples.
    #[default]
    Average,
    /// The largest sample.
    Maximum,
}

impl fmt::Display for Statistic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Statistic::Average => "average",
            Statistic::Maximum => "maximum",
        })
    }
}

/// A percentile, in thousandths from 1 to 1,000. Written `"p50"`, `"p99"`, `"p99.9"`, `"p100"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub struct Percentile(u16);

/// A text or number that is no percentile.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{0}' is not a percentile: write p and a number above 0 up to 100 with at most one decimal, such as p99.9"
)]
pub struct InvalidPercentile(String);

impl Percentile {
    /// Checks the range.
    ///
    /// # Errors
    /// Unless 1 <= `per_mille` <= 1,000.
    pub fn new(per_mille: u16) -> Result<Percentile, InvalidPercentile> {
        let percentile = Percentile(per_mille);
        if (1..=1_000).contains(&per_mille) {
            Ok(percentile)
        } else {
            Err(InvalidPercentile(percentile.to_string()))
        }
    }

    /// In thousandths, 1 to 1,000.
    #[must_use]
    pub fn per_mille(self) -> u32 {
        u32::from(self.0)
    }
}

impl fmt::Display for Percentile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0 / 10, self.0 % 10) {
            (whole, 0) => write!(f, "p{whole}"),
            (whole, tenth) => write!(f, "p{whole}.{tenth}"),
        }
    }
}

impl FromStr for Percentile {
    type Err = InvalidPercentile;
    fn from_str(text: &str) -> Result<Percentile, InvalidPercentile> {
        let digits =
            |part: &str, most| (1..=most).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_digit());
        let per_mille = text.strip_prefix('p').and_then(|number| {
            let (whole, tenth) = number.split_once('.').unwrap_or((number, "0"));
            if !digits(whole, 3) || !digits(tenth, 1) {
                return None;
            }
            Some(whole.parse::<u16>().ok()? * 10 + tenth.parse::<u16>().ok()?)
        });
        per_mille
            .and_then(|n| Percentile::new(n).ok())
            .ok_or_else(|| InvalidPercentile(text.chars().take(40).collect()))
    }
}

impl TryFrom<String> for Percentile {
    type Error = InvalidPercentile;
    fn try_from(text: String) -> Result<Percentile, InvalidPercentile> {
        text.parse()
    }
}

impl From<Percentile> for String {
    fn from(percentile: Percentile) -> String {
        percentile.to_string()
    }
}

/// A number with at most three decimals, kept in whole thousandths: a threshold, or a metric's value. In JSON a plain
/// number, such as `1`, `0.5` or `250`; from -1,000,000,000,000 to 1,000,000,000,000.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "f64", into = "f64")]
#[schemars(with = "f64")]
pub struct Quantity(i64);

/// A number that is no quantity.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{0:?} is out of range: a number with at most three decimals, up to 1e12, is expected")]
pub struct InvalidQuantity(f64);

impl Quantity {
    const LIMIT: i64 = 1_000_000_000_000_000;

    /// From thousandths, clamped to the range.
    #[must_use]
    pub const fn thousandths(n: i64) -> Quantity {
        if n > Self::LIMIT {
            Quantity(Self::LIMIT)
        } else if n < -Self::LIMIT {
            Quantity(-Self::LIMIT)
        } else {
            Quantity(n)
        }
    }

    /// A whole number.
    #[must_use]
    pub const fn whole(n: i64) -> Quantity {
        Self::thousandths(n.saturating_mul(1_000))
    }

    /// `amount * scale / of`, rounded up to a thousandth, so that what is not zero never looks like zero and a value above
    /// a threshold stays above it.
    pub(super) fn ratio(amount: u128, scale: u128, of: u128) -> Quantity {
        let thousandths = amount.saturating_mul(scale.saturating_mul(1_000)).div_ceil(of.max(1));
        Self::thousandths(i64::try_from(thousandths).unwrap_or(i64::MAX))
    }

    /// The nearest quantity in the direction of a breach, so that what crosses a threshold by less than a thousandth still
    /// crosses it; none for what is no finite number. Out of the range it is the end of the range.
    #[must_use]
    pub fn towards(number: f64, comparison: Comparison) -> Option<Quantity> {
        if !number.is_finite() {
            return None;
        }
        let thousandths = number * 1_000.0;
        let nearest = thousandths.round();
        // What is a number of thousandths but for the last bits of its binary form is that number.
        let exact = (thousandths - nearest).abs() <= nearest.abs() * 1e-12 + 1e-9;
        let rounded = match comparison {
            _ if exact => nearest,
            Comparison::Above | Comparison::AtLeast => thousandths.ceil(),
            Comparison::Below | Comparison::AtMost => thousandths.floor(),
        };
        Some(Self::thousandths(rounded as i64))
    }

    /// In thousandths.
    #[must_use]
    pub const fn as_thousandths(self) -> i64 {
        self.0
    }

    /// As a floating-point number, for display and charts; exact to the thousandth.
    #[must_use]
    pub const fn as_f64(self) -> f64 {
        self.0 as f64 / 1_000.0
    }
}

impl TryFrom<f64> for Quantity {
    type Error = InvalidQuantity;
    fn try_from(number: f64) -> Result<Quantity, InvalidQuantity> {
        let thousandths = (number * 1_000.0).round();
        let in_range = thousandths.abs() <= Self::LIMIT as f64;
        // The nearest number with three decimals must be the number itself, but for the last bits of its binary form.
        let exact = (number * 1_000.0 - thousandths).abs() <= thousandths.abs() * 1e-12 + 1e-9;
        if in_range && exact { Ok(Quantity(thousandths as i64)) } else { Err(InvalidQuantity(number)) }
    }
}

impl From<Quantity> for f64 {
    fn from(quantity: Quantity) -> f64 {
        quantity.as_f64()
    }
}

impl fmt::Display for Quantity {
    /// With as many decimals as it needs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.0 < 0 { "-" } else { "" };
        let (whole, rest) = (self.0.unsigned_abs() / 1_000, self.0.unsigned_abs() % 1_000);
        if rest == 0 {
            return write!(f, "{sign}{whole}");
        }
        write!(f, "{sign}{whole}.{}", format!("{rest:03}").trim_end_matches('0'))
    }
}

impl fmt::Debug for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

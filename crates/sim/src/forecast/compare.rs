//! Two definitions on the same commits and the same faults, side by side.

use super::result::Forecast;
use super::text::{about, business_days, exposed};
use super::words::describe;
use serde::{Deserialize, Serialize};
use std::fmt::Write;
use tidegate_core::units::Span;

/// The schema name that this version writes.
pub const COMPARISON_SCHEMA: &str = "tidegate.comparison/1";

/// Two forecasts and what is between them: of `other`, minus `this`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Comparison {
    /// Always `tidegate.comparison/1`.
    pub schema: String,
    /// The first.
    pub this: Forecast,
    /// The other.
    pub other: Forecast,
    /// How many milliseconds later the median change is everywhere with the other; negative is earlier. `None` if with one of
    /// them no change is.
    pub median_later_ms: Option<i64>,
    /// How many requests more meet a regression until it is caught with the other; negative is fewer.
    pub exposed_more: i64,
}

/// Compares two forecasts of the same scenario.
#[must_use]
pub fn compare(this: Forecast, other: Forecast) -> Comparison {
    let ms = |span: Option<Span>| span.map(|s| i64::try_from(s.millis()).unwrap_or(i64::MAX));
    let count = |f: &Forecast| i64::try_from(f.totals.requests_exposed).unwrap_or(i64::MAX);
    let (a, b) = (ms(this.totals.to_all_regions_median), ms(other.totals.to_all_regions_median));
    Comparison {
        schema: COMPARISON_SCHEMA.to_owned(),
        median_later_ms: a.zip(b).map(|(a, b)| b - a),
        exposed_more: count(&other) - count(&this),
        this,
        other,
    }
}

impl Comparison {
    /// For people, at most 100 characters wide. The names say which is which.
    #[must_use]
    pub fn text(&self, this: &str, other: &str) -> String {
        let short = |name: &str| name.chars().take(28).collect::<String>();
        let mut out = format!("{:<34}{:>30}{:>30}\n", "", short(this), short(other));
        let mut row = |name: &str, of: &dyn Fn(&Forecast) -> String| {
            let _ = writeln!(out, "{name:<34}{:>30}{:>30}", of(&self.this), of(&self.other));
        };
        let span = |s: Option<Span>| s.map_or_else(|| "never".to_owned(), about);
        let days = |s: Option<Span>| s.map_or_else(|| "never".to_owned(), business_days);
        row("to all Regions, median", &|f| span(f.totals.to_all_regions_median));
        row("to all Regions, p90", &|f| span(f.totals.to_all_regions_p90));
        row("business days, median", &|f| days(f.totals.business_time_median));
        row("changes everywhere", &|f| format!("{} of {}", f.totals.changes_everywhere, f.totals.changes));
        row("releases everywhere", &|f| format!("{} of {}", f.totals.releases_everywhere, f.totals.releases));
        row("requests exposed before detection", &|f| f.totals.requests_exposed.to_string());
        row("of all requests", &|f| exposed(f));
        row("pages", &|f| f.totals.pages.to_string());
        for n in 0..self.this.faults.len() {
            row(&format!("fault {}: caught after", n + 1), &|f| caught(f, n));
            row(&format!("fault {}: caught in", n + 1), &|f| caught_in(f, n));
        }
        for (n, report) in self.this.faults.iter().enumerate() {
            let _ = writeln!(out, "fault {}: {}", n + 1, describe(&report.fault));
        }
        let _ = writeln!(out, "{}", self.verdict(this, other));
        out
    }

    fn verdict(&self, this: &str, other: &str) -> String {
        let speed = match self.median_later_ms {
            Some(ms) if ms < 0 => format!("{} faster than {this}", about(Span(ms.unsigned_abs()))),
            Some(ms) if ms > 0 => format!("{} slower than {this}", about(Span(ms.unsigned_abs()))),
            Some(_) => format!("as fast as {this}"),
            None => "not to be compared in speed".to_owned(),
        };
        let exposed = match self.exposed_more {
            0 => "exposes as many requests".to_owned(),
            n if n > 0 => format!("exposes {n} requests more"),
            n => format!("exposes {} requests fewer", n.unsigned_abs()),
        };
        format!("{other} is {speed} (median) and {exposed}.")
    }
}

fn first(forecast: &Forecast, n: usize) -> Option<(&super::result::FaultReport, &super::result::Verdict)> {
    let report = forecast.faults.get(n)?;
    Some((report, report.verdicts.values().flatten().min_by_key(|v| v.at)?))
}

fn caught(forecast: &Forecast, n: usize) -> String {
    let after = first(forecast, n).and_then(|(report, v)| Some(about(v.at.since(report.began?))));
    after.unwrap_or_else(|| "not".to_owned())
}

fn caught_in(forecast: &Forecast, n: usize) -> String {
    let step = first(forecast, n).and_then(|(_, v)| v.step.as_ref().map(ToString::to_string));
    step.unwrap_or_else(|| "-".to_owned())
}

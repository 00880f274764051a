//! A forecast in words and in a picture of characters, at most 100 wide.

use super::picture::{Doing, Row, letter, rows};
use super::result::{FaultReport, Forecast, Release, Stuck, Wait};
use super::scenario::local;
use super::words::{describe, missing};
use jiff::civil;
use jiff::tz::{TimeZone, TimeZoneDatabase};
use std::collections::BTreeMap;
use std::fmt::Write;
use tidegate_core::pipeline::{Cause, Reason};
use tidegate_core::units::{Span, Timestamp};

const WIDTH: usize = 100;
/// The most releases that are told one by one, and the most waits of one.
const RELEASES_MAX: usize = 40;
const WAITS_MAX: usize = 3;
/// Shorter waits are not told.
const WAIT_TOLD_MIN: Span = Span::minutes(10);

/// The forecast for people.
#[must_use]
pub fn text(forecast: &Forecast) -> String {
    let zone = zone(forecast);
    let mut out = String::new();
    head(&mut out, forecast, &zone);
    picture(&mut out, forecast, &zone);
    releases(&mut out, forecast, &zone);
    for report in &forecast.faults {
        fault(&mut out, report, &zone);
    }
    if let Some(stuck) = &forecast.stuck {
        ends_early(&mut out, stuck, &zone);
    }
    for assumption in &forecast.assumptions {
        line(&mut out, 0, &format!("assumed: {assumption}"));
    }
    out
}

pub(super) fn zone(forecast: &Forecast) -> TimeZone {
    TimeZoneDatabase::bundled().get(&forecast.time_zone).unwrap_or(TimeZone::UTC)
}

/// `Mon 05 Jan 09:24`.
pub(super) fn when(at: Timestamp, zone: &TimeZone) -> String {
    local(at, zone).map_or_else(|| at.to_string(), |at| at.strftime("%a %d %b %H:%M").to_string())
}

/// In its two largest units: `3d4h`, `12m`.
pub(super) fn about(span: Span) -> String {
    let minute = 60_000;
    let rough = match span.millis() {
        n if n >= 86_400_000 => n / 3_600_000 * 3_600_000,
        n if n >= minute => n / minute * minute,
        n => n / 1_000 * 1_000,
    };
    Span(rough).to_string()
}

/// `4.6`: days of 24 hours.
pub(super) fn business_days(span: Span) -> String {
    let tenths = (span.millis() + 4_320_000) / 8_640_000;
    format!("{}.{}", tenths / 10, tenths % 10)
}

/// The share of requests that met a regression until it was caught.
pub(super) fn exposed(f: &Forecast) -> String {
    percent(f.exposed_ppm().max(u64::from(f.totals.requests_exposed > 0)))
}

/// `0.37 %`, from one in a million.
pub(super) fn percent(ppm: u64) -> String {
    match ppm {
        0 => "0 %".to_owned(),
        1..=99 => "below 0.01 %".to_owned(),
        _ => format!("{}.{:02} %", ppm / 10_000, ppm % 10_000 / 100),
    }
}

fn line(out: &mut String, indent: usize, text: &str) {
    let (mut used, mut first) = (0, true);
    for word in text.split_whitespace() {
        let length = word.chars().count();
        if used > 0 && indent + used + 1 + length > WIDTH {
            out.push('\n');
            used = 0;
        }
        if used == 0 {
            out.push_str(&" ".repeat(if first { indent } else { indent + 4 }));
            used = if first { 0 } else { 4 };
            first = false;
        } else {
            out.push(' ');
            used += 1;
        }
        out.push_str(word);
        used += length;
    }
    out.push('\n');
}

fn head(out: &mut String, f: &Forecast, zone: &TimeZone) {
    let t = &f.totals;
    let _ =
        writeln!(out, "{}, {} to {} ({})", f.pipeline, when(f.start, zone), when(f.end, zone), f.time_zone);
    let days =
        |s: Option<Span>| s.map_or(String::new(), |s| format!(" ({} business days)", business_days(s)));
    let span = |s: Option<Span>| s.map_or_else(|| "never".to_owned(), about);
    let rows = [
        (
            "to all Regions",
            format!(
                "median {}{}, p90 {}{}",
                span(t.to_all_regions_median),
                days(t.business_time_median),
                span(t.to_all_regions_p90),
                days(t.business_time_p90)
            ),
        ),
        ("changes", format!("{} merged, {} everywhere", t.changes, t.changes_everywhere)),
        (
            "releases",
            format!(
                "{} made, {} everywhere, {}.{:02} a day, {} changes each",
                t.releases,
                t.releases_everywhere,
                t.releases_per_day_milli / 1_000,
                t.releases_per_day_milli % 1_000 / 10,
                t.changes_per_release_median.unwrap_or(0)
            ),
        ),
        (
            "exposed",
            format!(
                "{} of {} requests before a regression was caught ({})",
                t.requests_exposed,
                t.requests,
                exposed(f)
            ),
        ),
        ("pages", t.pages.to_string()),
    ];
    for (name, value) in rows {
        let _ = writeln!(out, "  {name:<16}{value}");
    }
    out.push('\n');
}

fn picture(out: &mut String, f: &Forecast, zone: &TimeZone) {
    let rows = rows(f);
    let label = rows.iter().map(|row| row.name.chars().count()).max().unwrap_or(0).min(30) + 2;
    let columns = WIDTH - label;
    let all = f.end.since(f.start).millis().max(1);
    let column_ms = all.div_ceil(columns as u64).max(1);
    let column =
        |at: Timestamp| usize::try_from(at.since(f.start).millis() / column_ms).unwrap_or(usize::MAX);
    let _ = writeln!(out, "{}{}", " ".repeat(label), days(f, zone, columns, &column));
    for Row { name, stretches } in &rows {
        let mut cells = vec!['.'; columns];
        for stretch in stretches {
            let (from, until) = (column(stretch.from), column(stretch.until).min(columns - 1));
            let mark = if stretch.doing == Doing::Returns { '!' } else { letter(stretch.release) };
            for cell in cells.iter_mut().take(until + 1).skip(from).filter(|cell| **cell != '!') {
                *cell = mark;
            }
        }
        let name: String = name.chars().take(label - 2).collect();
        let _ = writeln!(out, "{name:<label$}{}", cells.into_iter().collect::<String>());
    }
    let each = about(Span(column_ms));
    line(
        out,
        0,
        &format!(
            "A column is {each}. A digit is the last of the release that is in the step; ! is taken back."
        ),
    );
    out.push('\n');
}

/// The days above the columns in which they begin; all of them if there is room.
fn days(f: &Forecast, zone: &TimeZone, columns: usize, column: &impl Fn(Timestamp) -> usize) -> String {
    let mut cells = vec![' '; columns];
    let Some(first) = local(f.start, zone) else { return String::new() };
    let mut date = first.date();
    let mut free = 0;
    loop {
        let at = super::scenario::instant(date.to_datetime(civil::Time::midnight()), zone);
        if at >= f.end {
            break;
        }
        let name = date.strftime("|%a %d").to_string();
        let from = column(at);
        if at >= f.start && from >= free && from + name.len() <= columns {
            for (cell, c) in cells.iter_mut().skip(from).zip(name.chars()) {
                *cell = c;
            }
            free = from + name.len() + 1;
        }
        let Ok(tomorrow) = date.tomorrow() else { break };
        date = tomorrow;
    }
    cells.into_iter().collect::<String>().trim_end().to_owned()
}

fn releases(out: &mut String, f: &Forecast, zone: &TimeZone) {
    let mut told = 0;
    let mut overtaken: Vec<&Release> = Vec::new();
    for release in &f.releases {
        let rejected = release.verdicts.iter().find(|v| v.rejected);
        let end = match (release.everywhere, rejected) {
            (Some(at), _) => {
                format!("everywhere {}, after {}", when(at, zone), about(at.since(release.created)))
            }
            (None, Some(verdict)) => format!("rejected {}", when(verdict.at, zone)),
            (None, None) => {
                overtaken.push(release);
                continue;
            }
        };
        told += 1;
        if told > RELEASES_MAX {
            continue;
        }
        others(out, &mut overtaken, &format!("overtaken by {}", release.release));
        let text = format!(
            "{} {}, made {}, {end}",
            release.release,
            changes(release.changes.len()),
            when(release.created, zone)
        );
        line(out, 0, &text);
        // What was rejected waits for nothing that would make it go on.
        for wait in longest(release, f.end).into_iter().filter(|_| rejected.is_none()) {
            line(out, 6, &wait);
        }
        for passed in &release.overrides {
            let steps: Vec<&str> = passed.steps.iter().map(|s| s.as_str()).collect();
            let text =
                format!("let into {} by hand {}: {}", steps.join(", "), when(passed.at, zone), passed.reason);
            line(out, 6, &text);
        }
    }
    if told > RELEASES_MAX {
        line(out, 0, &format!("... and {} more; --json has them all", told - RELEASES_MAX));
    } else {
        others(out, &mut overtaken, "not everywhere at the end");
    }
    out.push('\n');
}

/// Releases that have one fate in one line.
fn others(out: &mut String, releases: &mut Vec<&Release>, fate: &str) {
    let all = std::mem::take(releases);
    let (Some(first), Some(last)) = (all.first(), all.last()) else { return };
    let count = changes(all.iter().map(|r| r.changes.len()).sum());
    let text = match all.len() {
        1 => format!("{} {count}, {fate}", first.release),
        _ => format!("{} to {} {count}, {fate}", first.release, last.release),
    };
    line(out, 0, &text);
}

fn changes(n: usize) -> String {
    if n == 1 { "1 change".to_owned() } else { format!("{n} changes") }
}

/// The longest waits of a release, by step and kind of reason.
fn longest(release: &Release, end: Timestamp) -> Vec<String> {
    let mut by: BTreeMap<(&str, String), u64> = BTreeMap::new();
    for Wait { step, from, until, reasons } in &release.waits {
        let took = until.unwrap_or(end).since(*from).millis();
        let mut words: Vec<String> = reasons.iter().map(brief).collect();
        words.dedup();
        *by.entry((step.as_str(), words.join("; "))).or_default() += took;
    }
    let mut all: Vec<_> = by.into_iter().filter(|(_, took)| *took >= WAIT_TOLD_MIN.millis()).collect();
    all.sort_by(|a, b| (b.1, &a.0).cmp(&(a.1, &b.0)));
    let told = all.into_iter().take(WAITS_MAX);
    told.map(|((step, words), took)| format!("waited {} for {step}: {words}", about(Span(took)))).collect()
}

/// A reason without what changes from hour to hour.
fn brief(reason: &Reason) -> String {
    match reason {
        Reason::Window { opens: Some(_) } => "outside the deployment window".to_owned(),
        Reason::LeaseHeld { holder, .. } => format!("a Region is in use: {holder}"),
        Reason::StepBusy { release, .. } => format!("{release} is in it"),
        other => other.to_string(),
    }
}

fn fault(out: &mut String, report: &FaultReport, zone: &TimeZone) {
    line(out, 0, &describe(&report.fault));
    let Some(began) = report.began else { return line(out, 6, "it never came to be") };
    line(out, 6, &format!("began {}", when(began, zone)));
    for (release, verdicts) in &report.verdicts {
        for verdict in verdicts {
            let word = if verdict.rejected { "rejected" } else { "suspected and taken back there" };
            let after = about(verdict.at.since(began));
            let step = verdict.step.as_ref().map(|s| format!(" in {s}")).unwrap_or_default();
            let cause = shorter(&verdict.cause);
            line(
                out,
                6,
                &format!("{release} {word} {}, {after} later,{step}: {cause}", when(verdict.at, zone)),
            );
        }
    }
    if report.verdicts.is_empty() {
        line(out, 6, "no release was taken back for it");
    }
    if let Some(exposed) = &report.exposed {
        let regions: Vec<String> =
            exposed.regions.iter().map(|(region, n)| format!("{region} {n}")).collect();
        let whom = if regions.is_empty() {
            "no customer met it".to_owned()
        } else {
            format!(
                "harmed {} requests until it was caught, {} in all ({} of all meanwhile, {} at the worst): {}",
                exposed.requests_until_caught,
                exposed.requests,
                percent(exposed.share_ppm),
                percent(exposed.peak_ppm),
                regions.join(", ")
            )
        };
        line(out, 6, &whom);
    }
    match report.over {
        Some(over) => line(out, 6, &format!("over {}, after {}", when(over, zone), about(over.since(began)))),
        None => line(out, 6, "not over at the end"),
    }
}

/// The cause with its first piece of evidence.
fn shorter(cause: &Cause) -> String {
    match cause {
        Cause::Alarm { alarm, scope, evidence } => {
            let first = evidence.first().map(|e| format!(" ({e})")).unwrap_or_default();
            format!("{alarm} in {scope}{first}")
        }
        other => other.to_string(),
    }
}

fn ends_early(out: &mut String, stuck: &Stuck, zone: &TimeZone) {
    line(out, 0, &format!("does not end: {}", stuck.why));
    for gate in &stuck.gates {
        let reasons: Vec<String> = gate.reasons.iter().map(ToString::to_string).collect();
        let text = format!(
            "{} waits for {} since {}: {}",
            gate.release,
            gate.step,
            when(gate.since, zone),
            reasons.join("; ")
        );
        line(out, 6, &text);
    }
    for bake in &stuck.bakes {
        let text = format!("{} bakes in {} since {}:", bake.release, bake.step, when(bake.since, zone));
        let missing = bake.missing.iter().take(3).map(missing);
        let blind = bake.blind.iter().map(|(region, alarms)| {
            let some: Vec<&str> = alarms.iter().take(3).map(String::as_str).collect();
            format!("{region} has no data for {} alarms ({}, ...)", alarms.len(), some.join(", "))
        });
        let why: Vec<String> = missing.chain(blind.take(3)).collect();
        line(out, 6, &format!("{text} {}", why.join("; ")));
    }
}

//! The waves over time, for the text and for the drawing: a row for each step (or, where those are too many, each stage),
//! and on it who was in it from when until when.

use super::result::Forecast;
use tidegate_core::ids::ReleaseNo;
use tidegate_core::units::Timestamp;

/// A picture of more rows than this has one for each stage.
const ROWS_MAX: usize = 40;

/// What a release did in a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Doing {
    /// Boxes were replaced, tests ran.
    Deploys,
    /// It was watched.
    Bakes,
    /// It was taken back.
    Returns,
}

/// A stretch of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stretch {
    pub(super) release: ReleaseNo,
    pub(super) doing: Doing,
    pub(super) from: Timestamp,
    pub(super) until: Timestamp,
}

/// A row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) name: String,
    pub(super) stretches: Vec<Stretch>,
}

/// The rows, in the pipeline's order.
pub(super) fn rows(forecast: &Forecast) -> Vec<Row> {
    let by_stage = forecast.steps.len() > ROWS_MAX;
    let mut rows: Vec<Row> = Vec::new();
    for step in &forecast.steps {
        let name = if by_stage { step.stage.clone() } else { step.id.to_string() };
        if rows.last().is_none_or(|row| row.name != name) {
            rows.push(Row { name, stretches: Vec::new() });
        }
        let Some(row) = rows.last_mut() else { continue };
        for release in &forecast.releases {
            for pass in release.passes.iter().filter(|pass| pass.step == step.id) {
                let ends = pass.taken_back.or(pass.done).unwrap_or(forecast.end);
                let bakes = pass.baking.unwrap_or(ends).min(ends);
                let mut add = |doing, from: Timestamp, until: Timestamp| {
                    if from < until {
                        row.stretches.push(Stretch { release: release.release, doing, from, until });
                    }
                };
                add(Doing::Deploys, pass.entered, bakes);
                add(Doing::Bakes, bakes, ends);
                if let Some(from) = pass.taken_back {
                    add(Doing::Returns, from, pass.back.unwrap_or(forecast.end));
                }
            }
        }
        row.stretches.sort_by_key(|s| (s.from, s.release));
    }
    rows
}

/// One character for a release.
pub(super) fn letter(release: ReleaseNo) -> char {
    let digit = u32::try_from(release.0 % 36).unwrap_or(0);
    char::from_digit(digit, 36).unwrap_or('?')
}

//! Figures as they are told: text for people, one versioned JSON document for scripts.

use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::{Value, json};
use std::io::Write;

/// What one measurement came to.
pub(crate) struct Figure {
    /// As in `./run bench NAME`.
    pub(crate) name: &'static str,
    /// For people: whole lines.
    pub(crate) text: String,
    /// For scripts; names carry their units.
    pub(crate) values: Value,
}

impl Figure {
    pub(crate) fn new(name: &'static str, text: String, values: impl Serialize) -> Result<Figure> {
        let values = serde_json::to_value(values).context("failed to write the figure")?;
        Ok(Figure { name, text, values })
    }
}

/// Prints to stdout; fails when nobody reads.
pub(crate) fn print(text: &str) -> Result<()> {
    std::io::stdout().lock().write_all(text.as_bytes()).context("failed to print")
}

/// Prints all figures.
pub(crate) fn print_json(machine: &str, figures: &[Figure]) -> Result<()> {
    let figures: serde_json::Map<String, Value> =
        figures.iter().map(|figure| (figure.name.to_owned(), figure.values.clone())).collect();
    let document = json!({ "version": 1, "machine": machine, "figures": figures });
    print(&format!("{document:#}\n"))
}

/// The middle one of some numbers; 0 of none.
pub(crate) fn median(numbers: impl IntoIterator<Item = f64>) -> f64 {
    percentile(numbers, 0.5)
}

/// The number below which this part of all is; 0 of none.
pub(crate) fn percentile(numbers: impl IntoIterator<Item = f64>, part: f64) -> f64 {
    let mut all: Vec<f64> = numbers.into_iter().collect();
    all.sort_by(f64::total_cmp);
    let last = all.len().saturating_sub(1);
    all.get((last as f64 * part).round() as usize).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_and_percentiles_reach_the_ends() {
        assert_eq!(median([3.0, 1.0, 2.0]), 2.0);
        assert_eq!(percentile([5.0, 1.0], 0.0), 1.0);
        assert_eq!(percentile((0..=100).map(f64::from), 0.99), 99.0);
        assert_eq!(median([]), 0.0);
    }
}

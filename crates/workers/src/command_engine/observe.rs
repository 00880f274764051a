//! Reads what a team's `observe` prints. What must hold: what does not have the documented shape is trouble, never a
//! guess, and a box is healthy "since" the first look of an unbroken row of looks that found it so.

use serde::Deserialize;
use std::collections::BTreeMap;
use tidegate_core::engine::{BoxHealth, BoxObservation, Desired};
use tidegate_core::ids::RunSpecDigest;
use tidegate_core::run_spec::Shape;
use tidegate_core::units::Timestamp;

/// The most boxes of a target.
const BOXES_MAX: usize = 10_000;
/// The longest id or reason, in bytes.
const TEXT_MAX_BYTES: usize = 256;
/// The most that `observe` may print to stdout, in bytes: more than [`BOXES_MAX`] boxes need.
pub(super) const PRINT_MAX_BYTES: usize = 4 * 1024 * 1024;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Print {
    boxes: Vec<PrintedBox>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PrintedBox {
    id: String,
    run_spec: RunSpecDigest,
    healthy: bool,
    #[serde(default)]
    reason: Option<String>,
}

/// Reads the JSON; `before` are the boxes of the look before.
pub(super) fn read(
    print: &[u8],
    shape: Shape,
    before: &[BoxObservation],
    now: Timestamp,
) -> Result<Vec<BoxObservation>, String> {
    if print.len() > PRINT_MAX_BYTES {
        return Err(format!("it printed more than {PRINT_MAX_BYTES} bytes"));
    }
    let print: Print = serde_json::from_slice(print).map_err(|e| format!("what it printed is wrong: {e}"))?;
    if print.boxes.len() > BOXES_MAX {
        return Err(format!("it printed more than {BOXES_MAX} boxes"));
    }
    if shape == Shape::OneUnit && print.boxes.len() > 1 {
        return Err("it printed several boxes of one unit".to_owned());
    }
    let mut boxes = BTreeMap::new();
    for printed in print.boxes {
        if printed.id.is_empty() || printed.id.len() > TEXT_MAX_BYTES {
            return Err(format!("a box's id must have 1 to {TEXT_MAX_BYTES} bytes"));
        }
        let id = printed.id.clone();
        if boxes.insert(id.clone(), observed(printed, before, now)).is_some() {
            return Err(format!("it printed box '{id}' twice"));
        }
    }
    Ok(boxes.into_values().collect())
}

fn observed(printed: PrintedBox, before: &[BoxObservation], now: Timestamp) -> BoxObservation {
    let same = before.iter().find(|b| b.id == printed.id && b.run_spec == printed.run_spec);
    let health = match (printed.healthy, same.map(|b| &b.health)) {
        (true, Some(BoxHealth::Healthy { since })) => BoxHealth::Healthy { since: *since },
        (true, _) => BoxHealth::Healthy { since: now },
        (false, _) => {
            let reason = printed.reason.unwrap_or_else(|| "observe says that it is not healthy".to_owned());
            BoxHealth::Unhealthy { reason: reason.chars().take(TEXT_MAX_BYTES).collect() }
        }
    };
    let weight = u32::from(printed.healthy);
    BoxObservation { id: printed.id, incarnation: 1, run_spec: printed.run_spec, health, weight }
}

/// How the boxes differ from the split, for people; `None` when they do not.
#[must_use]
pub fn difference(boxes: &[BoxObservation], desired: &Desired) -> Option<String> {
    let mut counts: BTreeMap<&RunSpecDigest, (u32, u32)> = BTreeMap::new();
    for found in boxes {
        counts.entry(&found.run_spec).or_default().0 += 1;
    }
    for share in &desired.split {
        counts.entry(&share.run_spec).or_default().1 += share.boxes;
    }
    let differing: Vec<String> = counts
        .iter()
        .filter(|(_, (found, wanted))| found != wanted)
        .map(|(run_spec, (found, wanted))| {
            format!("{found} instead of {wanted} of {}", run_spec.as_str().get(..12).unwrap_or_default())
        })
        .collect();
    (!differing.is_empty()).then(|| format!("observe shows {}", differing.join(", ")))
}

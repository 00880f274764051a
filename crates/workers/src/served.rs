//! How many requests the boxes of each RunSpec have answered, and how many of them with a fault, for those who are told of a
//! rollback. Only what metrics tell is counted: what was reported since the server began to read, at most [`KEPT_S`] after the
//! last report.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use tidegate_core::ids::RunSpecDigest;
use tidegate_core::metrics::Cell;
use tidegate_core::units::Timestamp;

/// How long counts are kept after their boxes have reported last, in seconds: a rollback takes longer than that nowhere.
pub const KEPT_S: i64 = 24 * 3_600;
/// The most RunSpecs; those that were heard of the longest ago go first.
pub const RUN_SPECS_MAX: usize = 20_000;

/// What was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Count {
    /// Requests.
    pub requests: u64,
    /// Of them, those that failed: 5xx, broken connections and time-outs.
    pub faults: u64,
    /// The first second that was counted.
    pub since: Timestamp,
}

/// Counts by RunSpec.
#[derive(Debug, Default)]
pub struct Served(Mutex<BTreeMap<RunSpecDigest, Known>>);

#[derive(Debug)]
struct Known {
    requests: u64,
    faults: u64,
    first: i64,
    last: i64,
}

impl Served {
    /// Adds what boxes reported; each second of a box once.
    pub fn take(&self, cells: &[Cell]) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for cell in cells {
            let (requests, faults) =
                cell.apis.values().fold((0, 0), |(r, f), api| (r + api.requests, f + api.faults));
            for run_spec in std::iter::once(&cell.run_spec).chain(&cell.configuration) {
                let new = || Known { requests: 0, faults: 0, first: cell.second, last: cell.second };
                let known = all.entry(run_spec.clone()).or_insert_with(new);
                known.requests += requests;
                known.faults += faults;
                known.first = known.first.min(cell.second);
                known.last = known.last.max(cell.second);
            }
        }
        if let Some(newest) = cells.iter().map(|cell| cell.second).max() {
            all.retain(|_, known| known.last > newest - KEPT_S);
        }
        while all.len() > RUN_SPECS_MAX {
            let oldest = all.iter().min_by_key(|(_, known)| known.last).map(|(digest, _)| digest.clone());
            let Some(oldest) = oldest else { break };
            all.remove(&oldest);
        }
    }

    /// What boxes of these RunSpecs have answered together; `None` if none has reported.
    #[must_use]
    pub fn of<'a>(&self, run_specs: impl IntoIterator<Item = &'a RunSpecDigest>) -> Option<Count> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        run_specs.into_iter().filter_map(|digest| all.get(digest)).fold(None, |sum, known| {
            let sum = sum.unwrap_or(Count { requests: 0, faults: 0, since: Timestamp(i64::MAX) });
            Some(Count {
                requests: sum.requests + known.requests,
                faults: sum.faults + known.faults,
                since: sum.since.min(Timestamp(known.first * 1_000)),
            })
        })
    }
}

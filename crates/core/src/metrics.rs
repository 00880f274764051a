//! Standard metrics (M1): what every box reports for every second without any work by its team.
//!
//! Latencies are kept as mergeable sketches, so that a percentile over boxes or seconds is computed from all samples and
//! never from other percentiles. The sketch is integer-only: the same samples give the same bytes on every machine.

use crate::ids::{EnvironmentId, RegionId, RunSpecDigest, ServiceId, TargetId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What one box did in one second. A box reports a cell for every second of its life, also when nothing happened:
/// a reported zero is data, a missing cell is blindness (X2).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cell {
    /// The second that it covers: seconds since 1970-01-01T00:00:00Z.
    pub second: i64,
    /// The target that the box belongs to.
    pub target: TargetId,
    /// The box within the target.
    pub box_id: String,
    /// What the box ran.
    pub run_spec: RunSpecDigest,
    /// The configuration that it worked with, of each configuration pipeline.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub configuration: Vec<RunSpecDigest>,
    /// Requests by API, such as `POST /orders`; an API without requests in this second may be absent.
    pub apis: BTreeMap<String, ApiCell>,
    /// CPU time used, in thousandths of one core over this second.
    pub cpu_millicores: u32,
    /// Resident memory in KiB.
    pub memory_kib: u64,
    /// Disk used by the box's folder in KiB.
    pub disk_kib: u64,
    /// Lines with an error level in the box's log.
    pub log_errors: u32,
    /// Whether the box passed its health checks at the end of this second.
    pub healthy: bool,
}

/// Requests that no box could take (none was healthy), per endpoint and second. Each was answered with a 503 and counts
/// as a fault of the service in that Region.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UnroutedCell {
    /// As in [`Cell`].
    pub second: i64,
    /// The service that was called.
    pub service: ServiceId,
    /// In this environment.
    pub environment: EnvironmentId,
    /// In this Region.
    pub region: RegionId,
    /// How many requests.
    pub requests: u64,
}

/// The requests of one API in one second on one box.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApiCell {
    /// Requests that ended in this second.
    pub requests: u64,
    /// Of those, the server's failures: status 5xx, a broken connection, a time-out.
    pub faults: u64,
    /// Of those, the client's errors: status 4xx.
    pub errors: u64,
    /// Time from the request's head to the answer's end, in microseconds.
    pub latency: Sketch,
}

impl ApiCell {
    /// Adds another cell's requests to this one's.
    pub fn merge(&mut self, other: &ApiCell) {
        self.requests += other.requests;
        self.faults += other.faults;
        self.errors += other.errors;
        self.latency.merge(&other.latency);
    }
}

/// A mergeable quantile sketch of whole numbers: log-linear buckets, 64 to each power of two, so a quantile is at most
/// 1/64 (1.6 %) above the true sample. (The layout of HdrHistogram, kept sparse.)
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Sketch {
    buckets: BTreeMap<u16, u64>,
}

const SUB_BITS: u32 = 6;

impl Sketch {
    /// The number of different buckets: indices are below this.
    pub const BUCKETS: usize = ((64 - SUB_BITS as usize) << SUB_BITS) + (1 << SUB_BITS);

    /// The bucket that a sample falls into.
    #[must_use]
    pub fn bucket(sample: u64) -> u16 {
        let bits = u64::BITS - sample.leading_zeros();
        let index = if bits <= SUB_BITS + 1 {
            sample
        } else {
            let shift = bits - SUB_BITS - 1;
            (u64::from(shift) << SUB_BITS) + (sample >> shift)
        };
        u16::try_from(index).unwrap_or(u16::MAX)
    }

    /// The largest sample of a bucket.
    #[must_use]
    pub fn upper_bound(bucket: u16) -> u64 {
        let index = u64::from(bucket);
        if index < 2 << SUB_BITS {
            return index;
        }
        let shift = (index >> SUB_BITS) - 1;
        let mantissa = index - (shift << SUB_BITS);
        u64::try_from(((u128::from(mantissa) + 1) << shift) - 1).unwrap_or(u64::MAX)
    }

    /// Adds one sample.
    pub fn record(&mut self, sample: u64) {
        self.add(Self::bucket(sample), 1);
    }

    /// Adds `count` samples of a bucket.
    pub fn add(&mut self, bucket: u16, count: u64) {
        if count > 0 {
            *self.buckets.entry(bucket).or_insert(0) += count;
        }
    }

    /// Adds all samples of another sketch.
    pub fn merge(&mut self, other: &Sketch) {
        for (bucket, count) in &other.buckets {
            *self.buckets.entry(*bucket).or_insert(0) += count;
        }
    }

    /// How many samples it holds.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.values().sum()
    }

    /// The smallest value that at least `per_mille` thousandths of the samples do not exceed; `None` without samples.
    #[must_use]
    pub fn quantile(&self, per_mille: u32) -> Option<u64> {
        let count = self.count();
        if count == 0 {
            return None;
        }
        let rank = (u128::from(count) * u128::from(per_mille)).div_ceil(1000).max(1);
        let mut seen = 0_u128;
        for (bucket, n) in &self.buckets {
            seen += u128::from(*n);
            if seen >= rank {
                return Some(Self::upper_bound(*bucket));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_bucket_holds_its_samples_within_a_sixty_fourth(sample in any::<u64>()) {
            let upper = Sketch::upper_bound(Sketch::bucket(sample));
            prop_assert!(upper >= sample);
            prop_assert!(upper - sample <= sample / 64);
            prop_assert!(usize::from(Sketch::bucket(sample)) < Sketch::BUCKETS);
        }

        #[test]
        fn quantiles_of_merged_halves_are_those_of_the_whole(
            samples in prop::collection::vec(0_u64..10_000_000, 1..200), cut in any::<prop::sample::Index>(),
            per_mille in 0_u32..=1000,
        ) {
            let of = |part: &[u64]| part.iter().fold(Sketch::default(), |mut s, x| { s.record(*x); s });
            let (left, right) = samples.split_at(cut.index(samples.len()));
            let mut merged = of(left);
            merged.merge(&of(right));
            prop_assert_eq!(merged.quantile(per_mille), of(&samples).quantile(per_mille));
            let mut sorted = samples.clone();
            sorted.sort_unstable();
            let rank = (sorted.len() * per_mille as usize).div_ceil(1000).max(1);
            let exact = sorted[rank - 1];
            let got = merged.quantile(per_mille).unwrap();
            prop_assert!(got >= exact && got - exact <= exact / 64);
        }
    }
}

//! Counts customers' requests that meet a regression, while time passes.

use std::collections::BTreeMap;
use tidegate_core::ids::RegionId;
use tidegate_core::units::{Span, Timestamp};

/// Millionths of a request.
type Micro = u128;

/// What every regression does to customers.
#[derive(Debug, Default)]
pub(super) struct Exposures {
    /// All customers' requests, in thousandths per second.
    pub(super) all_milli: u64,
    all: Micro,
    of: BTreeMap<usize, Meets>,
}

/// Who meets one regression.
#[derive(Debug, Default)]
pub(super) struct Meets {
    /// Thousandths of a request per second now, by Region.
    rates: BTreeMap<RegionId, u64>,
    regions: BTreeMap<RegionId, Micro>,
    /// All customers' requests from its first harm on, and up to its last.
    since: Option<Micro>,
    until: Micro,
    pub(super) caught: Option<Timestamp>,
    until_caught: Micro,
    peak_milli: u64,
}

impl Exposures {
    /// Time passes in which nothing changes.
    pub(super) fn pass(&mut self, time: Span) {
        let before = self.all;
        self.all += Micro::from(self.all_milli) * Micro::from(time.millis());
        for one in self.of.values_mut() {
            let milli: u64 = one.rates.values().sum();
            if milli == 0 || time == Span::ZERO {
                continue;
            }
            one.since.get_or_insert(before);
            one.until = self.all;
            one.peak_milli = one.peak_milli.max(milli);
            for (region, milli) in &one.rates {
                let met = Micro::from(*milli) * Micro::from(time.millis());
                *one.regions.entry(region.clone()).or_default() += met;
                if one.caught.is_none() {
                    one.until_caught += met;
                }
            }
        }
    }

    /// From now on so many thousandths of a request per second of a Region meet a regression.
    pub(super) fn set(&mut self, regression: usize, region: &RegionId, milli: u64) {
        let one = self.of.entry(regression).or_default();
        match milli {
            0 => one.rates.remove(region),
            milli => one.rates.insert(region.clone(), milli),
        };
    }

    /// Somebody noticed it; the first time counts.
    pub(super) fn caught(&mut self, regression: usize, at: Timestamp) {
        self.of.entry(regression).or_default().caught.get_or_insert(at);
    }

    /// All customers' requests so far.
    pub(super) fn requests(&self) -> u64 {
        whole(self.all)
    }

    /// What became of a regression: see the result's shape.
    pub(super) fn tell(&self, regression: usize) -> super::result::Exposed {
        let nothing = Meets::default();
        let one = self.of.get(&regression).unwrap_or(&nothing);
        let harmed: Micro = one.regions.values().sum();
        let meanwhile = one.since.map_or(0, |since| one.until - since);
        super::result::Exposed {
            requests_until_caught: whole(one.until_caught),
            requests: whole(harmed),
            share_ppm: super::result::ppm(whole(harmed), whole(meanwhile)),
            peak_ppm: super::result::ppm(one.peak_milli, self.all_milli),
            regions: one.regions.iter().map(|(region, met)| (region.clone(), whole(*met))).collect(),
        }
    }
}

fn whole(micro: Micro) -> u64 {
    u64::try_from(micro / 1_000_000).unwrap_or(u64::MAX)
}

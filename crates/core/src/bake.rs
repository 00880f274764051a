//! The bake clock (K1 to K3, X2): time counts only while the system was watched and quiet. Monitoring grants intervals
//! that it has watched; nothing else advances the clock, so downtime, blindness and clocks that jump credit nothing.

use crate::definition::DataRequirement;
use crate::ids::RegionId;
use crate::units::{Span, Timestamp};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A grant that comes later than this after its end was not watched live: it earns no bake (but its alarms count).
pub const LIVE_WITHIN: Span = Span::seconds(30);

/// A running bake.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BakeClock {
    /// When the deployment was complete: nothing before that counts.
    pub started: Timestamp,
    /// How much watched, quiet time each Region needs.
    pub minimum: Span,
    /// Data points that each Region needs.
    pub data: Vec<DataRequirement>,
    /// What each Region of the step has so far.
    pub regions: BTreeMap<RegionId, Credit>,
}

/// What a Region has earned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Credit {
    /// Watched, quiet time.
    pub watched: Span,
    /// Up to where grants were taken; time before it is never credited again.
    pub until: Timestamp,
    /// Requests counted for each requirement, in the order of [`BakeClock::data`].
    pub requests: Vec<u64>,
}

/// An interval of one Region that was watched without a gap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatchedInterval<'a> {
    /// Its start.
    pub from: Timestamp,
    /// Its end; never after the time of the event that brings it.
    pub until: Timestamp,
    /// No alarm and no blind one during it.
    pub quiet: bool,
    /// Requests by API to boxes that run the release.
    pub requests: &'a BTreeMap<String, u64>,
}

/// What a bake still waits for in one Region.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Missing {
    /// Watched time.
    Time {
        /// Where.
        region: RegionId,
        /// How much is still to come.
        left: Span,
    },
    /// Data points.
    Requests {
        /// Where.
        region: RegionId,
        /// To which API; all together if none is named.
        api: Option<String>,
        /// Counted so far.
        seen: u64,
        /// Needed.
        needed: u64,
    },
}

impl BakeClock {
    /// A clock that begins now with nothing credited.
    pub fn start<'a>(
        now: Timestamp,
        minimum: Span,
        data: &[DataRequirement],
        regions: impl IntoIterator<Item = &'a RegionId>,
    ) -> BakeClock {
        let credit = Credit { watched: Span::ZERO, until: now, requests: vec![0; data.len()] };
        let regions = regions.into_iter().map(|r| (r.clone(), credit.clone())).collect();
        BakeClock { started: now, minimum, data: data.to_vec(), regions }
    }

    /// Credits an interval to a Region: only what lies after everything credited before, only if it was quiet, and only
    /// if it is live at `now`.
    pub fn credit(&mut self, region: &RegionId, interval: &WatchedInterval<'_>, now: Timestamp) {
        let Some(credit) = self.regions.get_mut(region) else { return };
        let until = interval.until.min(now);
        if until <= credit.until {
            return;
        }
        let from = interval.from.max(credit.until);
        credit.until = until;
        if !interval.quiet || now.since(until) > LIVE_WITHIN {
            return;
        }
        credit.watched = credit.watched.plus(until.since(from));
        for (requirement, counted) in self.data.iter().zip(&mut credit.requests) {
            *counted += match &requirement.api {
                Some(api) => interval.requests.get(api).copied().unwrap_or(0),
                None => interval.requests.values().sum(),
            };
        }
    }

    /// Whether nothing is missing.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.regions.values().all(|credit| {
            let counted = || self.data.iter().zip(&credit.requests);
            credit.watched >= self.minimum && counted().all(|(wanted, seen)| *seen >= wanted.requests)
        })
    }

    /// What is still missing; empty when the bake is over.
    #[must_use]
    pub fn missing(&self) -> Vec<Missing> {
        let mut all = Vec::new();
        for (region, credit) in &self.regions {
            if credit.watched < self.minimum {
                let left = Span(self.minimum.millis() - credit.watched.millis());
                all.push(Missing::Time { region: region.clone(), left });
            }
            for (requirement, seen) in self.data.iter().zip(&credit.requests) {
                if *seen < requirement.requests {
                    all.push(Missing::Requests {
                        region: region.clone(),
                        api: requirement.api.clone(),
                        seen: *seen,
                        needed: requirement.requests,
                    });
                }
            }
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn region() -> RegionId {
        RegionId::new("eu-1").unwrap()
    }

    fn clock(minimum: u64, requests: u64) -> BakeClock {
        let data = [DataRequirement { api: Some("POST /orders".into()), requests }];
        BakeClock::start(Timestamp(0), Span(minimum), &data, [&region()])
    }

    fn grant(clock: &mut BakeClock, from: i64, until: i64, quiet: bool, orders: u64, now: i64) {
        let requests = BTreeMap::from([("POST /orders".to_owned(), orders)]);
        let interval =
            WatchedInterval { from: Timestamp(from), until: Timestamp(until), quiet, requests: &requests };
        clock.credit(&region(), &interval, Timestamp(now));
    }

    #[test]
    fn both_time_and_data_are_needed() {
        let mut clock = clock(10_000, 100);
        grant(&mut clock, 0, 10_000, true, 99, 10_000);
        let missing =
            Missing::Requests { region: region(), api: Some("POST /orders".into()), seen: 99, needed: 100 };
        assert_eq!(clock.missing(), [missing]);
        assert!(!clock.is_over());
        grant(&mut clock, 10_000, 11_000, true, 1, 11_000);
        assert_eq!(clock.missing(), []);
        assert!(clock.is_over());
    }

    #[test]
    fn blind_repeated_late_and_early_intervals_earn_nothing() {
        let mut clock = clock(10_000, 0);
        let left = |c: &BakeClock| match &c.missing()[..] {
            [Missing::Time { left, .. }] => left.millis(),
            other => panic!("{other:?}"),
        };
        grant(&mut clock, -5_000, 1_000, true, 0, 1_000);
        assert_eq!(left(&clock), 9_000, "what was before the bake does not count");
        grant(&mut clock, 1_000, 2_000, false, 0, 2_000);
        grant(&mut clock, 1_000, 2_000, true, 0, 2_000);
        assert_eq!(left(&clock), 9_000, "a blind second is not made good by telling of it again");
        grant(&mut clock, 2_000, 3_000, true, 0, 3_000 + 60_000);
        assert_eq!(left(&clock), 9_000, "a gap that is read afterwards was not watched");
        grant(&mut clock, 3_000, 999_000, true, 0, 4_000);
        assert_eq!(left(&clock), 8_000, "the future is not credited");
    }

    proptest! {
        /// A clock that jumps credits nothing: credit never exceeds the time that has passed.
        #[test]
        fn credit_never_exceeds_elapsed_time(
            grants in prop::collection::vec((-50_i64..200, 0_i64..100, any::<bool>(), 0_i64..40), 0..60)
        ) {
            let mut clock = clock(u64::MAX / 2, 0);
            let mut now = 0;
            for (from, length, quiet, step) in grants {
                now += step;
                grant(&mut clock, from, from + length, quiet, 0, now);
                let credited = clock.regions[&region()].watched.millis();
                prop_assert!(credited <= u64::try_from(now).unwrap());
            }
        }
    }
}

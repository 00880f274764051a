//! Puts the switches of `behaviour.rs` into effect.

use crate::behaviour::{
    FAULT_PERCENT_IN_PRODUCTION, SLOW_BURN_AFTER_SECONDS, SLOW_BURN_MAX_MS, SLOW_BURN_MS_PER_SECOND,
};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The bugs of this build.
pub struct Faults {
    production: bool,
    started: Instant,
    requests: AtomicU64,
}

impl Faults {
    /// Bugs show in the environment `production` only.
    pub fn new(environment: &str) -> Self {
        Self { production: environment == "production", started: Instant::now(), requests: AtomicU64::new(0) }
    }

    /// Whether the next request shall fail: exactly so many of every 100, evenly spread.
    pub fn fails(&self) -> bool {
        let n = self.requests.fetch_add(1, Ordering::Relaxed);
        self.production && is_struck(n, FAULT_PERCENT_IN_PRODUCTION)
    }

    /// How much longer an answer takes by now.
    pub fn delay(&self) -> Duration {
        if !self.production {
            return Duration::ZERO;
        }
        let burning = self.started.elapsed().as_secs().saturating_sub(SLOW_BURN_AFTER_SECONDS);
        Duration::from_millis((burning * SLOW_BURN_MS_PER_SECOND).min(SLOW_BURN_MAX_MS))
    }
}

fn is_struck(n: u64, percent: u64) -> bool {
    (n + 1) * percent / 100 > n * percent / 100
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exactly_so_many_of_a_hundred_are_struck() {
        for percent in [0, 1, 5, 50, 100] {
            let struck = (0..1000).filter(|n| is_struck(*n, percent)).count() as u64;
            assert_eq!(struck, percent * 10);
        }
    }

    #[test]
    fn before_production_nothing_is_wrong() {
        let faults = Faults::new("beta");
        assert!((0..200).all(|_| !faults.fails()));
        assert_eq!(faults.delay(), Duration::ZERO);
    }
}

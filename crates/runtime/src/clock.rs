//! Where the runtime has the time from. The simulator gives it another clock.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};
use tidegate_core::units::Timestamp;

/// Tells the time.
pub trait Clock: Send + Sync {
    /// The time now; never before what an earlier call has returned.
    fn now(&self) -> Timestamp;
}

/// The machine's clock. While it is set back it stands still, so that it never goes backward within a process.
#[derive(Debug, Default)]
pub struct SystemClock {
    last_ms: AtomicI64,
}

impl SystemClock {
    /// A clock that has not been asked yet.
    #[must_use]
    pub fn new() -> SystemClock {
        SystemClock::default()
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let now = i64::try_from(now).unwrap_or(i64::MAX);
        Timestamp(self.last_ms.fetch_max(now, Ordering::SeqCst).max(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_was_ahead_stands_still() {
        let ahead = i64::MAX - 1;
        let clock = SystemClock { last_ms: AtomicI64::new(ahead) };
        assert_eq!(clock.now(), Timestamp(ahead));
        let clock = SystemClock::new();
        let first = clock.now();
        assert!(first > Timestamp(0) && clock.now() >= first);
    }
}

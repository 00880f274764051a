//! How much one user may say of alarms: a bucket that fills again. A thousand words a second are a fault of whoever sends
//! them, and must cost others nothing.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;
use tidegate_core::ids::UserId;

/// Requests at once.
pub(super) const BURST: f64 = 200.0;
/// Requests a second in the long run.
pub(super) const PER_SECOND: f64 = 50.0;

/// By user; users are those of the organisation, so there are not many.
#[derive(Debug, Default)]
pub(super) struct Limiter(Mutex<BTreeMap<UserId, Bucket>>);

#[derive(Debug)]
struct Bucket {
    left: f64,
    at: Instant,
}

impl Limiter {
    /// Whether the user may send one more.
    pub(super) fn allows(&self, user: &UserId, now: Instant) -> bool {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let bucket = all.entry(user.clone()).or_insert(Bucket { left: BURST, at: now });
        let filled = now.saturating_duration_since(bucket.at).as_secs_f64() * PER_SECOND;
        *bucket = Bucket { left: (bucket.left + filled).min(BURST), at: now.max(bucket.at) };
        let allowed = bucket.left >= 1.0;
        if allowed {
            bucket.left -= 1.0;
        }
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_burst_passes_and_then_so_many_a_second_and_nobody_pays_for_another() {
        let (limiter, begin) = (Limiter::default(), Instant::now());
        let (alice, bob) = (UserId::new("alice").unwrap(), UserId::new("bob").unwrap());
        let allowed = |user: &UserId, at: Instant| (0..1_000).filter(|_| limiter.allows(user, at)).count();
        assert_eq!(allowed(&alice, begin), 200);
        assert_eq!(allowed(&alice, begin + Duration::from_millis(500)), 25);
        assert_eq!(allowed(&bob, begin + Duration::from_millis(500)), 200);
        assert_eq!(allowed(&alice, begin + Duration::from_secs(3_600)), 200);
    }
}

//! What the hands cannot do at present, for people to see. It is kept in memory alone: what is still so after a restart
//! is found again at the next try.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tidegate_api::WorkTrouble;
use tidegate_core::units::{Span, Timestamp};

/// How many are remembered; of more, the newest are not.
const TROUBLES_MAX: usize = 1_000;
/// A trouble that was not met again so long after its next try is over: nobody wants it done any more.
const OVER_AFTER: Span = Span::minutes(1);

/// By what is to be done.
#[derive(Debug, Default)]
pub struct Troubles(Mutex<BTreeMap<String, Known>>);

#[derive(Debug)]
struct Known {
    trouble: WorkTrouble,
    forgotten_at: Timestamp,
}

impl Troubles {
    /// A try of `what` failed; the next one is at `again`.
    pub(super) fn failed(&self, id: &str, what: String, why: &str, now: Timestamp, again: Timestamp) {
        self.note(id, what, why, now, again, 1);
    }

    /// Something is so, and has not begun with a try.
    pub(super) fn lasts(&self, id: &str, what: String, why: &str, now: Timestamp) {
        self.note(id, what, why, now, now, 0);
    }

    fn note(&self, id: &str, what: String, why: &str, now: Timestamp, again: Timestamp, more: u32) {
        let mut all = self.lock();
        let known = all.get(id).map(|known| (known.trouble.since, known.trouble.tries));
        if known.is_none() && all.len() >= TROUBLES_MAX {
            return;
        }
        let (since, tries) = known.unwrap_or((now, 0));
        let trouble = WorkTrouble { what, why: why.to_owned(), since, tries: tries.saturating_add(more) };
        all.insert(id.to_owned(), Known { trouble, forgotten_at: again + OVER_AFTER });
    }

    /// It is done, or needs not be done any more.
    pub(super) fn over(&self, id: &str) {
        self.lock().remove(id);
    }

    /// Whether people are told of it.
    pub(crate) fn is_told(&self, id: &str) -> bool {
        self.lock().contains_key(id)
    }

    /// Those that last, oldest first.
    pub(crate) fn list(&self, now: Timestamp) -> Vec<WorkTrouble> {
        let mut all = self.lock();
        all.retain(|_, known| known.forgotten_at > now);
        let mut list: Vec<WorkTrouble> = all.values().map(|known| known.trouble.clone()).collect();
        list.sort_by(|a, b| (a.since, &a.what).cmp(&(b.since, &b.what)));
        list
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Known>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trouble_lasts_from_its_first_try_until_it_is_over_or_not_met_again() {
        let troubles = Troubles::default();
        let fail = |id: &str, now: i64| {
            troubles.failed(id, id.to_owned(), "no room", Timestamp(now), Timestamp(now + 500));
        };
        let listed = |now: i64| -> Vec<(String, i64, u32)> {
            let list = troubles.list(Timestamp(now));
            list.into_iter().map(|t| (t.what, t.since.0, t.tries)).collect()
        };
        fail("z", 0);
        fail("a", 10);
        fail("z", 1_000);
        assert_eq!(listed(1_000), [("z".to_owned(), 0, 2), ("a".to_owned(), 10, 1)]);
        assert_eq!(listed(60_510), [("z".to_owned(), 0, 2)], "the other was not met again");
        troubles.over("z");
        assert_eq!(listed(60_510), []);
        fail("z", 70_000);
        assert_eq!(listed(70_000), [("z".to_owned(), 70_000, 1)]);
    }
}

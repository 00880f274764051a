//! Delivers pages. A destination that does not answer holds nothing else up, not even the page's other destinations.

use super::Hands;
use super::dispatch::Performed;
use futures_util::future::join_all;
use std::sync::{Arc, PoisonError};
use tidegate_core::decision::{EffectId, Page};
use tidegate_core::definition::PageTarget;
use tidegate_core::units::Span;
use tidegate_workers::notify::Delivery;

/// A page that nobody has taken after this is old news; until then it is tried with growing pauses, restarts included.
const TRIED_MAX: Span = Span::hours(1);

pub(super) async fn perform(hands: &Arc<Hands>, id: &EffectId, page: &Page) -> Performed {
    let tries = page.to.iter().enumerate().map(|(n, target)| deliver(hands, id, page, n, target));
    let failures: Vec<String> = join_all(tries).await.into_iter().flatten().collect();
    let why = failures.join("; ");
    let old = hands.runtime.now().since(page.at) >= TRIED_MAX;
    if !failures.is_empty() && !old {
        return Performed::Failed(why);
    }
    hands.paged.lock().unwrap_or_else(PoisonError::into_inner).retain(|(of, _)| of != id);
    if failures.is_empty() { Performed::Done } else { Performed::GivenUp(why) }
}

/// One try with one of the page's destinations, unless it has been paged; why it failed. A destination is named by its
/// place, for its address may hold a secret.
async fn deliver(hands: &Hands, id: &EffectId, page: &Page, n: usize, target: &PageTarget) -> Option<String> {
    let paged = || hands.paged.lock().unwrap_or_else(PoisonError::into_inner);
    let key = (id.clone(), n);
    if paged().contains(&key) {
        return None;
    }
    let PageTarget::Webhook(url) = target;
    match hands.notifier.deliver(url, &id.0, page).await {
        Delivery::Delivered => {
            paged().insert(key);
            None
        }
        Delivery::GaveUp { why } => Some(format!("webhook {}: {why}", n + 1)),
    }
}

//! Delivers pages. A destination that does not answer holds nothing else up.

use super::Hands;
use super::dispatch::Performed;
use std::sync::Arc;
use tidegate_core::decision::{EffectId, Page};
use tidegate_core::definition::PageTarget;
use tidegate_workers::notify::Delivery;

pub(super) async fn perform(hands: &Arc<Hands>, id: &EffectId, page: &Page) -> Performed {
    for target in &page.to {
        let PageTarget::Webhook(url) = target;
        match hands.notifier.deliver(url, &id.0, page).await {
            Delivery::Delivered => {}
            // The notifier has tried again and again within its limits; the page stays in the log for whoever looks.
            Delivery::GaveUp { why } => {
                tracing::error!(effect = %id, title = page.title, "a page was given up: {why}")
            }
        }
    }
    Performed::Done
}

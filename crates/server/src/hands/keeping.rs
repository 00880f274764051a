//! Lets what nobody needs any more go, once a day, when no build runs.

use super::{ALL_BUILDS, Hands};
use crate::gc;
use std::sync::Arc;
use std::time::Duration;
use tidegate_core::causes;
use tokio_util::sync::CancellationToken;

/// After a start: there is other work then.
const FIRST: Duration = Duration::from_secs(3_600);
/// From one time to the next.
const PERIOD: Duration = Duration::from_secs(24 * 3_600);

pub(super) async fn run(hands: Arc<Hands>, stop: CancellationToken) {
    let mut pause = FIRST;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
        pause = PERIOD;
        let places = tokio::select! {
            () = stop.cancelled() => return,
            places = hands.build_places.acquire_many(ALL_BUILDS) => places,
        };
        let Ok(_places) = places else { return };
        match hands.blocking(|hands| gc::collect(hands, false)).await {
            Ok(answer) => {
                tracing::info!(items = answer.items.len(), bytes = answer.bytes, "what nobody needs is gone")
            }
            Err(error) => tracing::warn!("nothing is collected: {}", causes(&error)),
        }
    }
}

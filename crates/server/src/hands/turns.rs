//! Builds and tests that wait for their turn say so: until they have it their time does not run.

use super::Hands;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tidegate_core::decision::EffectId;
use tidegate_core::ids::PipelineId;
use tidegate_core::pipeline::PipelineEvent;
use tokio::sync::{Semaphore, SemaphorePermit};

/// How often what waits says so: more than once in the shortest time that anything has beyond its own limit.
const SAID_EVERY: Duration = Duration::from_secs(20);

/// A place, as soon as one is free; none if the server is stopping.
pub(super) async fn place<'a>(
    hands: &Arc<Hands>,
    places: &'a Semaphore,
    id: &EffectId,
    pipeline: &PipelineId,
) -> Option<SemaphorePermit<'a>> {
    let mut place = pin!(places.acquire());
    loop {
        match tokio::time::timeout(SAID_EVERY, &mut place).await {
            Ok(place) => return place.ok(),
            Err(_) => waits(hands, id, pipeline).await,
        }
    }
}

/// It has waited until now.
pub(super) async fn waits(hands: &Arc<Hands>, effect: &EffectId, pipeline: &PipelineId) {
    hands.tell(pipeline, PipelineEvent::TurnAwaited { effect: effect.clone() }).await;
}

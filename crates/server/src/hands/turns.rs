//! Builds and tests that wait for their turn say so: until they have it their time does not run. So do those that begin for the
//! first time in the server's life: what an earlier server had begun of them is lost.

use super::Hands;
use std::collections::BTreeSet;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tidegate_core::decision::EffectId;
use tidegate_core::ids::PipelineId;
use tidegate_core::pipeline::PipelineEvent;
use tokio::sync::{Semaphore, SemaphorePermit};

/// How often what waits says so: more than once in the shortest time that anything has beyond its own limit.
const SAID_EVERY: Duration = Duration::from_secs(20);

/// What has had its turn in this server's life. What is tried again because of the machine's trouble gets no more time for it.
#[derive(Debug, Default)]
pub struct Turns(Mutex<BTreeSet<EffectId>>);

impl Turns {
    fn begun(&self) -> MutexGuard<'_, BTreeSet<EffectId>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It will not come again, or has not begun after all.
    pub(super) fn ended(&self, effect: &EffectId) {
        self.begun().remove(effect);
    }
}

/// A place, as soon as one is free; none if the server is stopping.
pub(super) async fn place<'a>(
    hands: &Arc<Hands>,
    places: &'a Semaphore,
    id: &EffectId,
    pipeline: &PipelineId,
) -> Option<SemaphorePermit<'a>> {
    let mut place = pin!(places.acquire());
    let place = loop {
        match tokio::time::timeout(SAID_EVERY, &mut place).await {
            Ok(place) => break place.ok()?,
            // What has had its turn, and is tried again, has its time.
            Err(_) if hands.turns.begun().contains(id) => {}
            Err(_) => waits(hands, id, pipeline).await,
        }
    };
    if hands.turns.begun().insert(id.clone()) {
        waits(hands, id, pipeline).await;
    }
    Some(place)
}

/// It has waited until now.
pub(super) async fn waits(hands: &Arc<Hands>, effect: &EffectId, pipeline: &PipelineId) {
    hands.tell(pipeline, PipelineEvent::TurnAwaited { effect: effect.clone() }).await;
}

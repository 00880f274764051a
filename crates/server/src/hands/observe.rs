//! Brings what engines see to the pipelines: at once when something changes, and every second for slots that move. Whoever
//! sees that the fleet has died starts it again.

use super::Hands;
use crate::fleet;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tidegate_core::causes;
use tidegate_core::engine::{BoxHealth, Observation};
use tidegate_core::ids::{PipelineId, SlotId};
use tidegate_core::pipeline::{Motion, PipelineEvent};
use tidegate_fleet::client::ClientError;
use tokio_util::sync::CancellationToken;

/// Moving slots are observed at least this often, also if nothing changes: a box may have become healthy for long enough.
const MOVING_EVERY: Duration = Duration::from_millis(500);
/// The trouble that the fleet is gone.
const FLEET: &str = "fleet";
/// The same for people.
const FLEET_TROUBLE: &str = "the fleet does not answer: its boxes run, and customers do not reach them";
/// The trouble that there is no protocol that both speak, for people.
const PROTOCOL_TROUBLE: &str =
    "the fleet takes no orders: its boxes run and serve customers, and nothing of them is seen";
/// Looks in a row at which nobody listened until the fleet counts as dead: one that hands over to its successor does not.
const GONE_AFTER: u32 = 2;
/// Pause after the fleet could not be asked.
const TROUBLE_PAUSE: Duration = Duration::from_millis(500);

pub(super) async fn run_fleet(hands: Arc<Hands>, stop: CancellationToken) {
    let (mut seen, mut gone) = (0, 0);
    while !stop.is_cancelled() {
        let look = async {
            tokio::select! {
                changed = hands.engines.fleet.watch(seen) => changed,
                // All slots, whether they changed or not.
                () = tokio::time::sleep(MOVING_EVERY) => hands.engines.fleet.slots().await,
            }
        };
        let told = tokio::select! {
            () = stop.cancelled() => return,
            told = look => told,
        };
        match told {
            Ok(observations) => {
                (seen, gone) = (observations.version, 0);
                hands.troubles.over(FLEET);
                hands.telemetry.fleet(true);
                tell(&hands, observations.observations).await;
            }
            Err(error) => {
                tracing::warn!("the fleet does not answer: {error}");
                hands.telemetry.fleet(false);
                gone = if fleet::is_gone(&error) { gone + 1 } else { 0 };
                seen = 0;
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = bring_back(&hands, gone, &error) => {}
                }
            }
        }
    }
}

/// Tells people that the fleet does not answer, and starts it again if it has died.
async fn bring_back(hands: &Arc<Hands>, gone: u32, error: &ClientError) {
    let what = match error {
        ClientError::Protocol { .. } => PROTOCOL_TROUBLE,
        _ => FLEET_TROUBLE,
    };
    let tell = |why: &str| hands.troubles.lasts(FLEET, what.to_owned(), why, hands.runtime.now());
    tell(&causes(error));
    if gone >= GONE_AFTER {
        match fleet::ensure(&hands.dirs).await {
            Ok(_) => return tracing::warn!("the fleet had died, and was started again"),
            Err(error) => {
                tracing::error!("{error}");
                tell(&error.to_string());
            }
        }
    }
    tokio::time::sleep(TROUBLE_PAUSE).await;
}

pub(super) async fn run_commands(hands: Arc<Hands>, stop: CancellationToken) {
    let mut changes = hands.engines.commands.changes();
    while !stop.is_cancelled() {
        changes.mark_unchanged();
        let observations = hands.engines.commands.observe_all();
        tell(&hands, observations).await;
        tokio::select! {
            () = stop.cancelled() => {}
            _ = changes.changed() => {}
            () = tokio::time::sleep(MOVING_EVERY) => {}
        }
    }
}

async fn tell(hands: &Arc<Hands>, observations: Vec<Observation>) {
    let mut by_pipeline: BTreeMap<PipelineId, Vec<Observation>> = BTreeMap::new();
    for observation in observations {
        note_shortage(hands, &observation);
        if matters(hands, &observation) {
            by_pipeline.entry(observation.slot.pipeline.clone()).or_default().push(observation);
        }
    }
    for (pipeline, observations) in by_pipeline {
        hands.tell(&pipeline, PipelineEvent::SlotsObserved { observations }).await;
    }
}

/// The trouble that a slot has too few healthy boxes.
pub(crate) fn shortage_of(slot: &SlotId) -> String {
    format!("slot {slot}")
}

/// Tells people of boxes that are to be there and are not, and what is in their way. A slot that moves tells it itself.
fn note_shortage(hands: &Hands, seen: &Observation) {
    let id = shortage_of(&seen.slot);
    let Some((healthy, minimum)) = shortage(hands, seen) else { return hands.troubles.over(&id) };
    let sick = seen.boxes.iter().find_map(|b| match &b.health {
        BoxHealth::Unhealthy { reason } => Some(format!("box {}: {reason}", b.id)),
        _ => None,
    });
    let why = seen.trouble.clone().or(sick).unwrap_or_else(|| "they are starting".to_owned());
    let what = format!("{} has {healthy} healthy boxes and needs {minimum}", seen.slot.target);
    hands.troubles.lasts(&id, what, &why, hands.runtime.now());
}

fn shortage(hands: &Hands, seen: &Observation) -> Option<(usize, u32)> {
    let pipeline = hands.runtime.pipeline(&seen.slot.pipeline).ok().flatten()?;
    let slot = pipeline.real_slots().get(&seen.slot.target).filter(|s| s.motion == Motion::Settled)?;
    slot.current()?;
    let minimum =
        tidegate_core::rollout::minimum_healthy(&pipeline.settings().rolling, pipeline.size(slot, seen));
    let healthy = seen.boxes.iter().filter(|b| b.health.is_healthy()).count();
    (u32::try_from(healthy).unwrap_or(u32::MAX) < minimum).then_some((healthy, minimum))
}

/// Whether an observation can change anything: the slot moves, or its capacity is not what was recorded. Only saves work:
/// the pipeline decides again in any case.
fn matters(hands: &Hands, seen: &Observation) -> bool {
    let Ok(Some(pipeline)) = hands.runtime.pipeline(&seen.slot.pipeline) else { return false };
    if pipeline.observes() {
        return false;
    }
    let Some(slot) = pipeline.slots.get(&seen.slot.target) else { return false };
    let new_deed = seen.glass.as_ref().is_some_and(|glass| slot.glass.as_ref() != Some(&glass.id));
    if new_deed
        || matches!(slot.motion, Motion::Forward { .. } | Motion::Back { .. })
        || pipeline.size(slot, seen) != slot.boxes
    {
        return true;
    }
    if pipeline.definition.is_none() || !pipeline.life.is_active() {
        return false;
    }
    let minimum =
        tidegate_core::rollout::minimum_healthy(&pipeline.settings().rolling, pipeline.size(slot, seen));
    let healthy = seen.boxes.iter().filter(|b| b.health.is_healthy()).count();
    let enough = u32::try_from(healthy).unwrap_or(u32::MAX) >= minimum;
    enough != matches!(slot.capacity, tidegate_core::pipeline::Capacity::Enough)
}

//! Performs the effects of one lane, each at least once. An effect stays in the store until its end is recorded; one that
//! fails is tried again with growing pauses.

use super::Hands;
use crate::telemetry::{Ended, belongs, effect_kind};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tidegate_core::decision::{Effect, EffectId, ForwardEffect, RollbackEffect, TestOrder};
use tidegate_core::ids::{ReleaseNo, SlotId};
use tidegate_core::pipeline::Motion;
use tidegate_core::units::{Span, Timestamp};
use tidegate_runtime::{Lane, PendingEffect};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

/// How many effects of a lane are in work at once, ...
const IN_WORK_MAX: usize = 256;
/// ... beside builds and tests, most of which wait for their turn, and must not hold up what moves boxes meanwhile.
const LONG_MAX: usize = 4_096;
/// First pause after a failure; doubled with each further one.
const RETRY_FIRST: Span = Span(250);
/// Longest pause between two tries.
const RETRY_MAX: Span = Span::seconds(30);
/// What was given up is shown so long.
const GIVEN_UP_SHOWN: Span = Span::hours(24);
/// The store is looked at anew at least this often, whatever was signalled.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// What came of one try.
pub(super) enum Performed {
    /// It is done, and its end still has to be recorded.
    Done,
    /// Its result was told, and its end recorded with it.
    Told,
    /// It has to be tried again, for this reason.
    Failed(String),
    /// It is not tried again, for this reason.
    GivenUp(String),
}

/// What is being performed.
#[derive(Default)]
struct InWork {
    quick: BTreeSet<EffectId>,
    long: BTreeSet<EffectId>,
}

impl InWork {
    /// Whether it is to be begun now: it is not in work, and there is room.
    fn begin(&mut self, pending: &PendingEffect) -> bool {
        let (among, max) = match pending.effect {
            Effect::Forward(ForwardEffect::Build(_) | ForwardEffect::Test(_)) => (&mut self.long, LONG_MAX),
            _ => (&mut self.quick, IN_WORK_MAX),
        };
        among.len() < max && among.insert(pending.id.clone())
    }

    fn end(&mut self, id: &EffectId) {
        let _ = self.quick.remove(id) || self.long.remove(id);
    }
}

pub(super) async fn run(hands: Arc<Hands>, lane: Lane, stop: CancellationToken) {
    let mut signal = hands.signals.lane(lane);
    let mut in_work = InWork::default();
    let mut tasks: JoinSet<EffectId> = JoinSet::new();
    while !stop.is_cancelled() {
        signal.mark_unchanged();
        match hands.blocking(move |h| h.runtime.effects(lane, IN_WORK_MAX + LONG_MAX)).await {
            Ok(pending) => {
                for effect in pending {
                    if in_work.begin(&effect) {
                        let hands = Arc::clone(&hands);
                        tasks.spawn(async move {
                            let id = effect.id.clone();
                            let span = span(&hands, &effect).await;
                            perform(&hands, effect).instrument(span).await;
                            id
                        });
                    }
                }
            }
            Err(error) => tracing::error!("cannot read effects: {error}"),
        }
        let pause = pause(&hands, lane, tasks.is_empty()).await;
        tokio::select! {
            () = stop.cancelled() => {}
            _ = signal.changed() => {}
            () = tokio::time::sleep(pause) => {}
            Some(ended) = tasks.join_next() => match ended {
                Ok(id) => in_work.end(&id),
                Err(failed) => {
                    // The effect is still in the store; forgetting all that is not running lets it be tried again.
                    tracing::error!("an effect's task failed: {failed}");
                    if tasks.is_empty() {
                        in_work = InWork::default();
                    }
                }
            },
        }
    }
}

async fn pause(hands: &Arc<Hands>, lane: Lane, idle: bool) -> Duration {
    if !idle {
        return PAUSE_MAX;
    }
    match hands.blocking(move |h| (h.runtime.next_effect_at(lane), h.runtime.now())).await {
        (Ok(Some(at)), now) => Duration::from(at.since(now)).clamp(Duration::from_millis(1), PAUSE_MAX),
        _ => PAUSE_MAX,
    }
}

/// What an effect does, for people.
fn name(effect: &Effect) -> String {
    match effect {
        Effect::Rollback(RollbackEffect::Return(order)) => {
            format!("the order of {} to return {}", order.slot.pipeline, order.slot.target)
        }
        Effect::Forward(ForwardEffect::Deploy(order)) => {
            format!("the order of {} to move {}", order.slot.pipeline, order.slot.target)
        }
        Effect::Forward(ForwardEffect::Build(order)) => {
            format!("the build of {} {}", order.pipeline, order.release)
        }
        Effect::Forward(ForwardEffect::Test(order)) => {
            format!("the tests of {} {} in {}", order.pipeline, order.release, order.step)
        }
        Effect::Forward(ForwardEffect::Page(page)) => format!("the page \"{}\"", page.title),
    }
}

/// Whose effect it is, on every line that is logged while it is performed.
async fn span(hands: &Arc<Hands>, pending: &PendingEffect) -> tracing::Span {
    let id = &pending.id;
    let (span, of) = match &pending.effect {
        Effect::Rollback(RollbackEffect::Return(order)) | Effect::Forward(ForwardEffect::Deploy(order)) => {
            let slot = order.slot.clone();
            let release = hands.blocking(move |h| moving(h, &slot)).await;
            let SlotId { pipeline, target } = &order.slot;
            let span =
                tracing::info_span!("effect", %id, %pipeline, %target, release = tracing::field::Empty);
            if let Some(release) = release {
                span.record("release", tracing::field::display(release));
            }
            (span, release.map(|release| (pipeline, release)))
        }
        Effect::Forward(ForwardEffect::Build(build)) => {
            let (pipeline, release) = (&build.pipeline, build.release);
            (tracing::info_span!("effect", %id, %pipeline, %release), Some((pipeline, release)))
        }
        Effect::Forward(ForwardEffect::Test(test)) => {
            let TestOrder { pipeline, release, step, .. } = test;
            (tracing::info_span!("effect", %id, %pipeline, %release, %step), Some((pipeline, *release)))
        }
        Effect::Forward(ForwardEffect::Page(page)) => {
            (tracing::info_span!("effect", %id, page = page.key.as_str()), None)
        }
    };
    if let Some((pipeline, release)) = of {
        belongs(&span, pipeline, release);
    }
    span
}

/// The release that a slot is brought to, or that it returns from.
fn moving(hands: &Hands, slot: &SlotId) -> Option<ReleaseNo> {
    let pipeline = hands.runtime.pipeline(&slot.pipeline).ok().flatten()?;
    match &pipeline.slots.get(&slot.target)?.motion {
        Motion::Forward { release, .. } | Motion::Abandoned { release, .. } => Some(*release),
        Motion::Back { from, .. } => from.keys().next_back().copied(),
        Motion::Settled => None,
    }
}

async fn perform(hands: &Arc<Hands>, pending: PendingEffect) {
    let PendingEffect { id, attempt, effect, ordered_at, .. } = pending;
    let (what, kind) = (name(&effect), effect_kind(&effect));
    let performed = match effect {
        Effect::Rollback(RollbackEffect::Return(order)) => hands.engines.set(hands, &order, true).await,
        Effect::Forward(ForwardEffect::Deploy(order)) => hands.engines.set(hands, &order, false).await,
        Effect::Forward(ForwardEffect::Build(order)) => super::builds::perform(hands, &id, &order).await,
        Effect::Forward(ForwardEffect::Test(order)) => super::tests_run::perform(hands, &id, &order).await,
        Effect::Forward(ForwardEffect::Page(page)) => super::pages::perform(hands, &id, &page).await,
    };
    let ended = match &performed {
        Performed::Told | Performed::Done => Ended::Done,
        Performed::Failed(_) => Ended::Failed,
        Performed::GivenUp(_) => Ended::GivenUp,
    };
    hands.telemetry.tried(kind, ended, hands.runtime.now().since(ordered_at).into());
    if !matches!(performed, Performed::Failed(_)) {
        hands.turns.ended(&id);
    }
    let recorded = match performed {
        Performed::Told => {
            hands.troubles.over(&id.0);
            Ok(())
        }
        Performed::Done => {
            hands.troubles.over(&id.0);
            let id = id.clone();
            hands.blocking(move |h| h.runtime.effect_done(&id)).await
        }
        Performed::GivenUp(why) => {
            tracing::error!(attempt, "{what} is given up: {why}");
            let now = hands.runtime.now();
            hands.troubles.failed(&id.0, what, &format!("given up: {why}"), now, now + GIVEN_UP_SHOWN);
            let id = id.clone();
            hands.blocking(move |h| h.runtime.effect_done(&id)).await
        }
        Performed::Failed(why) => {
            let pause = Span(RETRY_FIRST.millis().saturating_mul(1 << attempt.min(16))).min(RETRY_MAX);
            tracing::warn!(attempt, "{what} failed and is tried again in {pause}: {why}");
            let now = hands.runtime.now();
            let again: Timestamp = now + pause;
            hands.troubles.failed(&id.0, what, &why, now, again);
            let id = id.clone();
            hands.blocking(move |h| h.runtime.effect_failed(&id, attempt, again)).await
        }
    };
    if let Err(error) = recorded {
        tracing::error!("the end of an effect cannot be recorded, so it will be repeated: {error}");
        // A full disk must not turn into a busy loop.
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

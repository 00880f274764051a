//! Tells aggregates the time when their next due time has come. The due times are the store's: they survive the process.

use super::Hands;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How many aggregates are told at once.
const BATCH: usize = 256;
/// The longest pause: due times are looked at anew at least this often, whatever was signalled.
const PAUSE_MAX: Duration = Duration::from_secs(1);

pub(super) async fn run(hands: Arc<Hands>, stop: CancellationToken) {
    let mut commits = hands.signals.any();
    while !stop.is_cancelled() {
        commits.mark_unchanged();
        let told = hands.blocking(|h| h.runtime.tick_due(BATCH)).await;
        let pause = match told {
            Ok(n) if n >= BATCH => continue,
            Ok(_) => match hands.blocking(|h| (h.runtime.next_due(), h.runtime.now())).await {
                (Ok(Some(due)), now) => Duration::from(due.since(now)).min(PAUSE_MAX),
                (Ok(None), _) => PAUSE_MAX,
                (Err(error), _) => {
                    tracing::error!("cannot read due times: {error}");
                    PAUSE_MAX
                }
            },
            Err(error) => {
                tracing::error!("cannot tell pipelines the time: {error}");
                PAUSE_MAX
            }
        };
        let _ = hands.blocking(|h| h.runtime.tend()).await.inspect_err(|error| {
            tracing::warn!("the reserved disk space cannot be looked after: {error}");
        });
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(pause) => {}
            _ = commits.changed() => {}
        }
    }
}

//! Tells aggregates the time when their next due time has come. The due times are the store's: they survive the process.

use super::Hands;
use std::sync::Arc;
use std::time::Duration;
use tidegate_core::units::Span;
use tidegate_runtime::Reserve;
use tokio_util::sync::CancellationToken;

/// How many aggregates are told at once.
const BATCH: usize = 256;
/// The longest pause: due times are looked at anew at least this often, whatever was signalled.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// With less free than this, in bytes, the disk counts as full: the next commit may not fit.
const FREE_MIN_BYTES: u64 = 1 << 20;
/// With less free than this, in bytes, builds are ended: so much they leave for everything else.
const FREE_LOW_BYTES: u64 = 256 << 20;
/// Under which the trouble of a disk that is nearly full is known.
const DISK_LOW: &str = "disk-low";
/// Under which the disk's trouble is known.
const DISK: &str = "disk";

/// A clock that is further behind what was recorded is told of. Less is what decisions of one moment make of it.
const BEHIND_MAX: Span = Span::seconds(10);
/// Under which the clock's trouble is known.
const CLOCK: &str = "clock";

/// Tells people when time stands still.
fn look_at_the_clock(hands: &Hands) {
    let behind = hands.runtime.behind();
    if behind <= BEHIND_MAX {
        return hands.troubles.over(CLOCK);
    }
    let why = format!(
        "the clock is {} behind the newest entry of the log: rollbacks work, and nothing else goes on until it has caught up",
        Span::seconds(behind.millis() / 1_000)
    );
    hands.troubles.lasts(CLOCK, "time stands still".to_owned(), &why, hands.runtime.now());
}

/// Has the reserve made again if it was used, and tells people of a disk that is full.
fn look_at_the_disk(hands: &Hands) {
    let reserve = hands.runtime.tend().inspect_err(|error| {
        tracing::warn!("the reserved disk space cannot be looked after: {error}");
    });
    hands.telemetry.reserve(!matches!(reserve, Ok(Reserve::Missing)));
    let data = &hands.dirs.data;
    let free = rustix::fs::statvfs(data).map_or(u64::MAX, |s| s.f_bavail.saturating_mul(s.f_frsize));
    let now = hands.runtime.now();
    if free < FREE_LOW_BYTES {
        let what = format!("builds have no room in {}", data.display());
        let why = format!("{} MiB are free: 'tidegate gc --dry-run' says what can go", free >> 20);
        hands.troubles.lasts(DISK_LOW, what, &why, now);
    } else {
        hands.troubles.over(DISK_LOW);
    }
    if free >= FREE_MIN_BYTES && !matches!(reserve, Ok(Reserve::Missing)) {
        return hands.troubles.over(DISK);
    }
    let why = "the disk is full: free some space; until then only rollbacks are recorded";
    hands.troubles.lasts(DISK, format!("nothing is kept in {}", data.display()), why, now);
}

pub(super) async fn run(hands: Arc<Hands>, stop: CancellationToken) {
    let mut commits = hands.signals.any();
    while !stop.is_cancelled() {
        commits.mark_unchanged();
        let told = hands.blocking(|h| {
            h.runtime.at_work()?;
            let told = h.runtime.tick_due(BATCH);
            h.runtime.give_times();
            told
        });
        let told = told.await;
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
        hands.blocking(look_at_the_disk).await;
        look_at_the_clock(&hands);
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(pause) => {}
            _ = commits.changed() => {}
        }
    }
}

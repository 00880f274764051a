//! Keeps the data directory in bounds: lets what nobody needs any more go, once a day and when the disk budget is exceeded, when
//! no build runs; and lets no build begin while what is needed is more than the budget.

use super::{ALL_BUILDS, Hands};
use crate::gc::{self, GcError, Usage};
use bytesize::ByteSize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tidegate_api::GcAnswer;
use tidegate_core::causes;
use tidegate_core::units::Span;
use tokio::sync::{Notify, OwnedSemaphorePermit};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// From a start to the first look at the disk: there is other work then.
const FIRST_LOOK: Duration = Duration::from_secs(10);
/// From one look to the next where there is a budget, unless a build has ended before, ...
const LOOK_EVERY: Duration = Duration::from_secs(15 * 60);
/// ... and where there is none: then it is for the figures alone.
const LOOK_EVERY_UNBOUND: Duration = Duration::from_secs(3_600);
/// A look that is younger counts: each reads every folder there is.
const LOOK_COUNTS: Duration = Duration::from_secs(20);
/// From a start to the first time that what nobody needs goes.
const FIRST: Duration = Duration::from_secs(3_600);
/// From one time to the next.
const PERIOD: Duration = Duration::from_secs(24 * 3_600);
/// The trouble is told until a look finds that it is over; the next one may have to wait for a build.
const TOLD_FOR: Span = Span::hours(24);

/// What is known of the data directory's size, and how large it may be.
#[derive(Debug, Default)]
pub struct Keeping {
    budget: Option<u64>,
    looked: Mutex<Looked>,
    look: Notify,
}

/// The last look at the disk, if there was one.
#[derive(Debug, Default)]
struct Looked {
    usage: Option<Usage>,
    /// When it was; none if something has been built since.
    at: Option<Instant>,
}

impl Keeping {
    /// With a budget in bytes, or none.
    #[must_use]
    pub fn new(budget: Option<u64>) -> Keeping {
        Keeping { budget, ..Keeping::default() }
    }

    pub(crate) fn budget(&self) -> Option<u64> {
        self.budget
    }

    /// What was in use at the last look, if there was one.
    pub(crate) fn usage(&self) -> Option<Usage> {
        self.looked().usage.clone()
    }

    fn looked(&self) -> MutexGuard<'_, Looked> {
        self.looked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn has_just_looked(&self) -> bool {
        self.looked().at.is_some_and(|at| at.elapsed() < LOOK_COUNTS)
    }

    /// A build has ended: what was seen before counts no more.
    pub(super) fn built(&self) {
        self.looked().at = None;
        self.look_soon();
    }

    /// The disk is to be looked at soon.
    fn look_soon(&self) {
        if self.budget.is_some() {
            self.look.notify_one();
        }
    }

    /// In words, if more is used than the budget allows.
    fn exceeded(&self) -> Option<String> {
        let (budget, used) = (self.budget?, self.usage()?.lasting());
        let words = |bytes: u64| ByteSize(bytes).display().iec();
        (used > budget).then(|| {
            format!(
                "the data directory uses {}, more than its disk budget of {}; 'tidegate gc --dry-run' says what uses it",
                words(used),
                words(budget)
            )
        })
    }
}

/// Why no build may begin. Where that is not known, or was so at the last look, the disk is looked at.
pub(super) async fn refuses_builds(hands: &Arc<Hands>) -> Option<String> {
    let keeping = &hands.keeping;
    keeping.budget?;
    let unsure = keeping.usage().is_none() || keeping.exceeded().is_some();
    if unsure && !keeping.has_just_looked() {
        hands.blocking(measured).await;
        if keeping.exceeded().is_some() {
            keeping.look_soon();
        }
    }
    keeping.exceeded()
}

/// Collects with every place for builds, which are free again when it has ended, whether or not somebody still waits for it.
pub(crate) async fn collect(hands: &Arc<Hands>, places: OwnedSemaphorePermit) -> Result<GcAnswer, GcError> {
    let work = move |hands: &Hands| {
        let _places = places;
        gc::collect(hands, false)
    };
    hands.blocking(work).await
}

pub(super) async fn run(hands: Arc<Hands>, stop: CancellationToken) {
    let (mut due, mut pause) = (Instant::now() + FIRST, FIRST_LOOK);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
            () = hands.keeping.look.notified() => {}
        }
        pause = if hands.keeping.budget.is_some() { LOOK_EVERY } else { LOOK_EVERY_UNBOUND };
        if !hands.keeping.has_just_looked() {
            hands.blocking(measured).await;
        }
        if Instant::now() >= due || hands.keeping.exceeded().is_some() {
            let places = tokio::select! {
                () = stop.cancelled() => return,
                places = Arc::clone(&hands.build_places).acquire_many_owned(ALL_BUILDS) => places,
            };
            let Ok(places) = places else { return };
            due = Instant::now() + PERIOD;
            match collect(&hands, places).await {
                Ok(answer) => {
                    let (items, bytes) = (answer.items.len(), answer.bytes);
                    tracing::info!(items, bytes, "what nobody needs is gone");
                }
                Err(error) => tracing::warn!("nothing is collected: {}", causes(&error)),
            }
        }
    }
}

/// Looks at the disk, and tells people if more is used than the budget allows. Blocks on the disk.
pub(crate) fn measured(hands: &Hands) {
    const ID: &str = "disk-budget";
    let keeping = &hands.keeping;
    let usage = Usage::measure(&hands.dirs.data);
    *keeping.looked() = Looked { usage: Some(usage), at: Some(Instant::now()) };
    match keeping.exceeded() {
        None => hands.troubles.over(ID),
        Some(why) => {
            let now = hands.runtime.now();
            let what = "the disk budget is exceeded, and no build begins".to_owned();
            hands.troubles.failed(ID, what, &why, now, now + TOLD_FOR);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_look_counts_for_a_while_and_not_beyond_a_build() {
        let keeping = Keeping::new(Some(1 << 30));
        assert!(!keeping.has_just_looked() && keeping.exceeded().is_none(), "nothing is known yet");
        *keeping.looked() = Looked { usage: Some(Usage::default()), at: Some(Instant::now()) };
        assert!(keeping.has_just_looked());
        keeping.built();
        assert!(!keeping.has_just_looked() && keeping.usage().is_some());
        keeping.look.notified().await;
    }
}

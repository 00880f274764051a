//! Keeps the data directory in bounds: lets what nobody needs any more go, once a day and when the disk budget is exceeded, when
//! no build runs; and lets no build begin while what is needed is more than the budget.

use super::{ALL_BUILDS, Hands};
use crate::gc::{self, Usage};
use bytesize::ByteSize;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tidegate_core::causes;
use tidegate_core::units::Span;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// From a start to the first look at the disk: there is other work then.
const FIRST_LOOK: Duration = Duration::from_secs(10);
/// From one look to the next, unless a build has ended before.
const LOOK_EVERY: Duration = Duration::from_secs(15 * 60);
/// From a start to the first time that what nobody needs goes.
const FIRST: Duration = Duration::from_secs(3_600);
/// From one time to the next.
const PERIOD: Duration = Duration::from_secs(24 * 3_600);
/// A trouble is over when it was not met again at the next look.
const AGAIN: Span = Span::minutes(15);

/// What is known of the data directory's size, and how large it may be.
#[derive(Debug, Default)]
pub struct Keeping {
    budget: Option<u64>,
    usage: Mutex<Option<Usage>>,
    look: Notify,
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
        self.usage.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The disk is to be looked at soon.
    pub(super) fn look_soon(&self) {
        self.look.notify_one();
    }

    /// In words, if more is used than the budget allows.
    fn exceeded(&self) -> Option<String> {
        let (budget, used) = (self.budget?, self.usage()?.total());
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
    if keeping.usage().is_none() || keeping.exceeded().is_some() {
        look(hands).await;
    }
    let why = keeping.exceeded()?;
    keeping.look_soon();
    Some(why)
}

async fn look(hands: &Arc<Hands>) {
    hands.blocking(measured).await;
}

pub(super) async fn run(hands: Arc<Hands>, stop: CancellationToken) {
    let (mut due, mut pause) = (Instant::now() + FIRST, FIRST_LOOK);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
            () = hands.keeping.look.notified() => {}
        }
        pause = LOOK_EVERY;
        look(&hands).await;
        if Instant::now() >= due || hands.keeping.exceeded().is_some() {
            let places = tokio::select! {
                () = stop.cancelled() => return,
                places = hands.build_places.acquire_many(ALL_BUILDS) => places,
            };
            let Ok(_places) = places else { return };
            due = Instant::now() + PERIOD;
            match hands.blocking(|hands| gc::collect(hands, false)).await {
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
    *keeping.usage.lock().unwrap_or_else(PoisonError::into_inner) = Some(usage);
    match keeping.exceeded() {
        None => hands.troubles.over(ID),
        Some(why) => {
            let now = hands.runtime.now();
            let what = "the disk budget is exceeded, and no build begins".to_owned();
            hands.troubles.failed(ID, what, &why, now, now + AGAIN);
        }
    }
}

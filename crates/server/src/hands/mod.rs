//! The hands of the server: what performs effects and what brings events in. Nothing is decided here.
//!
//! Every loop is a reconciler that takes no hints: a signal only makes it look earlier. Each lane has its own loop and its
//! own places, so that nothing of the forward lane, however slow, holds a rollback (X1).

mod builds;
mod dispatch;
mod engines;
mod forges;
mod keeping;
mod monitor;
mod observe;
mod overview;
mod pages;
mod prometheus;
mod signals;
mod sources;
mod telling;
mod tests_run;
mod timers;
mod troubles;
mod turns;

pub use engines::Engines;
pub use forges::Forges;
pub use keeping::Keeping;
pub(crate) use keeping::{collect, measured};
pub(crate) use observe::shortage_of;
pub use overview::Overview;
pub(crate) use overview::Summary;
pub use signals::Signals;
pub use sources::Poller;
pub use troubles::Troubles;
pub use turns::Turns;

use crate::backup::Backups;
use crate::serve::Dirs;
use crate::telemetry::Telemetry;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::SystemTime;
use tidegate_core::decision::{Actor, EffectId, Event};
use tidegate_core::ids::{PipelineId, ReleaseNo};
use tidegate_core::pipeline::PipelineEvent;
use tidegate_core::units::Timestamp;
use tidegate_fleet::package::{PackageStore, SigningKey, TrustedKeys};
use tidegate_runtime::{Runtime, RuntimeError, SubmitError};
use tidegate_workers::canary::Canaries;
use tidegate_workers::monitor::About;
use tidegate_workers::notify::Notifier;
use tidegate_workers::prometheus::Prometheus;
use tidegate_workers::secrets::SecretStore;
use tidegate_workers::served::Served;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// How many builds run at once. A build takes all the CPU that is left over; two of them would only get in each other's way.
pub const BUILDS_AT_ONCE: usize = 1;
/// Every place for a build: whoever has them all knows that none runs.
pub(crate) const ALL_BUILDS: u32 = BUILDS_AT_ONCE as u32;
/// How many steps are tested at once.
pub const TESTS_AT_ONCE: usize = 4;

/// What the hands work with.
pub struct Hands {
    /// Decides and remembers.
    pub runtime: Arc<Runtime>,
    /// Tells of commits.
    pub signals: Arc<Signals>,
    /// Every pipeline in a few words.
    pub overview: Overview,
    /// Moves boxes and units.
    pub engines: Arc<Engines>,
    /// Keeps packages.
    pub packages: PackageStore,
    /// Signs them.
    pub signing_key: Arc<SigningKey>,
    /// Verifies them.
    pub trusted_keys: TrustedKeys,
    /// Secrets by name.
    pub secrets: SecretStore,
    /// Delivers pages.
    pub notifier: Notifier,
    /// Destinations, by their place in the page, that have taken a page which others have not.
    pub paged: Mutex<BTreeSet<(EffectId, usize)>>,
    /// The texts of pages that are being delivered, with what metrics said at the first try.
    pub page_texts: Mutex<BTreeMap<EffectId, String>>,
    /// What boxes have answered.
    pub served: Served,
    /// What cannot be done at present.
    pub troubles: Arc<Troubles>,
    /// Figures about the server itself.
    pub telemetry: Telemetry,
    /// When the process began.
    pub started: SystemTime,
    /// The newest entry of the log when it did.
    pub began_at: u64,
    /// Keeps when the last backup was made.
    pub backups: Arc<Backups>,
    /// Runs canaries.
    pub canaries: Canaries,
    /// Asks what alarms' PromQL says.
    pub prometheus: Prometheus<About>,
    /// Reads sources.
    pub poller: Arc<Poller>,
    /// Asks forges about what came of them.
    pub forges: Forges,
    /// Where everything is.
    pub dirs: Dirs,
    /// What the disk budget is, and what is used of it.
    pub keeping: Keeping,
    /// Tools of the machine that builds may use, read-only.
    pub tool_paths: Vec<PathBuf>,
    /// Places for builds.
    pub build_places: Arc<Semaphore>,
    /// Which builds and tests have had their turn.
    pub turns: Turns,
    /// Places for tests.
    pub test_places: Semaphore,
}

impl Hands {
    /// Starts every loop; they end when `stop` is cancelled.
    pub fn start(self: &Arc<Self>, tasks: &mut JoinSet<()>, stop: &CancellationToken) {
        use tidegate_runtime::Lane;
        tasks.spawn(dispatch::run(Arc::clone(self), Lane::Rollback, stop.clone()));
        tasks.spawn(dispatch::run(Arc::clone(self), Lane::Forward, stop.clone()));
        tasks.spawn(dispatch::run(Arc::clone(self), Lane::Page, stop.clone()));
        tasks.spawn(keeping::run(Arc::clone(self), stop.clone()));
        tasks.spawn(telling::run(Arc::clone(self), stop.clone()));
        tasks.spawn(timers::run(Arc::clone(self), stop.clone()));
        tasks.spawn(observe::run_fleet(Arc::clone(self), stop.clone()));
        tasks.spawn(observe::run_commands(Arc::clone(self), stop.clone()));
        tasks.spawn(monitor::run(Arc::clone(self), stop.clone()));
        tasks.spawn(sources::run(Arc::clone(self), stop.clone()));
    }

    /// Asks for something that every pipeline's summary may tell.
    async fn overview<T: Send + 'static>(
        self: &Arc<Self>,
        ask: impl FnOnce(&BTreeMap<PipelineId, overview::Summary>) -> T + Send + 'static,
    ) -> Result<T, RuntimeError> {
        self.blocking(|h| h.overview.look(&h.runtime, &h.signals).map(|all| ask(&all))).await
    }

    /// Tells a pipeline something that tidegate itself has found. What the pipeline does not take is logged, not lost: it is
    /// found again at the next look.
    pub(crate) async fn tell(self: &Arc<Self>, pipeline: &PipelineId, event: PipelineEvent) {
        let event = Event::Pipeline(pipeline.clone(), event);
        if let Err(error) = self.submit(event).await {
            tracing::warn!(pipeline = pipeline.as_str(), "an event was not taken: {error}");
        }
    }

    pub(crate) async fn submit(self: &Arc<Self>, event: Event) -> Result<(), SubmitError> {
        self.blocking(move |hands| hands.runtime.submit(&event, &Actor::Tidegate).map(|_| ())).await
    }

    /// Tells the result of an effect; both are committed together.
    pub(crate) async fn tell_result(
        self: &Arc<Self>,
        effect: &EffectId,
        pipeline: &PipelineId,
        event: PipelineEvent,
    ) -> Result<(), SubmitError> {
        let (effect, event) = (effect.clone(), Event::Pipeline(pipeline.clone(), event));
        self.blocking(move |hands| hands.runtime.submit_result(&effect, &event).map(|_| ())).await
    }

    /// Runs something that waits for the disk without holding up other tasks.
    pub(crate) async fn blocking<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Hands) -> T + Send + 'static,
    ) -> T {
        let hands = Arc::clone(self);
        match tokio::task::spawn_blocking(move || work(&hands)).await {
            Ok(done) => done,
            Err(failed) => std::panic::resume_unwind(failed.into_panic()),
        }
    }

    /// When the last backup was made.
    pub(crate) fn last_backup(&self) -> Option<Timestamp> {
        self.backups.last()
    }

    /// The log of a release's build.
    #[must_use]
    pub fn build_log(dirs: &Dirs, pipeline: &PipelineId, release: ReleaseNo) -> PathBuf {
        dirs.logs.join("builds").join(pipeline.as_str()).join(format!("{release}.log"))
    }
}

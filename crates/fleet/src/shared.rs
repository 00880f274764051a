//! What all parts of one fleet process share.

use crate::FleetConfig;
use crate::board::Board;
use crate::boxes::BoxRecord;
use crate::collect::Metrics;
use crate::disk::DataDir;
use crate::endpoints::EndpointTable;
use crate::listen::Clients;
use crate::package::PackageStore;
use crate::process::Ports;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};
use tidegate_core::ids::TargetId;
use tidegate_core::run_spec::{ProcessSpec, RunSpec, Workload};
use tidegate_core::units::Timestamp;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

/// How many boxes are unpacked and started at one time; rollbacks have as many of their own.
pub(crate) const STARTS_AT_ONCE_MAX: u32 = 4;

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: FleetConfig,
    pub(crate) data: DataDir,
    /// Marks this fleet's processes.
    pub(crate) fleet_id: String,
    pub(crate) packages: PackageStore,
    pub(crate) ports: Ports,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) board: Board,
    pub(crate) endpoints: Arc<EndpointTable>,
    pub(crate) clients: Arc<Clients>,
    /// The soft limit of open files that boxes get unless they name one.
    pub(crate) open_files: Option<u64>,
    pub(crate) starts: Arc<Semaphore>,
    pub(crate) rollback_starts: Arc<Semaphore>,
    /// Each box's task holds a receiver while it lives.
    pub(crate) lives: watch::Sender<()>,
    /// Nothing may be started or stopped any more: another process supervises, or is about to.
    pub(crate) frozen: AtomicBool,
    /// Whether a process that this one took over from still serves its clients.
    pub(crate) predecessor: watch::Sender<bool>,
}

impl Shared {
    pub(crate) fn box_folder(&self, record: &BoxRecord) -> PathBuf {
        self.target_folder(&record.slot.target).join(&record.id)
    }

    pub(crate) fn target_folder(&self, target: &TargetId) -> PathBuf {
        self.data.path(Path::new("boxes").join(target.to_string().replace('/', ".")))
    }

    /// The process of a box's RunSpec; the fleet makes boxes of no other kind.
    pub(crate) fn process_spec(&self, run_spec: &RunSpec) -> ProcessSpec {
        match &run_spec.workload {
            Workload::Process(spec) => spec.clone(),
            Workload::Command(_) | Workload::Configuration(_) | Workload::Definitions(_) => {
                unreachable!("a slot of boxes with another workload is refused when it is set")
            }
        }
    }

    pub(crate) fn is_frozen(&self) -> bool {
        self.frozen.load(Ordering::SeqCst)
    }

    /// The right to start a box.
    pub(crate) async fn start_permit(&self, rollback: bool) -> Result<OwnedSemaphorePermit, String> {
        let lane = if rollback { &self.rollback_starts } else { &self.starts };
        Arc::clone(lane).acquire_owned().await.map_err(|_| "the fleet is ending".to_owned())
    }

    /// Waits until no start is under way; with `frozen` set before, none begins any more.
    pub(crate) async fn starts_done(&self) {
        for lane in [&self.starts, &self.rollback_starts] {
            // The lanes are never closed.
            let _ = lane.acquire_many(STARTS_AT_ONCE_MAX).await;
        }
    }

    /// Waits until the process before this one has served its last client: its requests in flight are not seen here.
    pub(crate) async fn predecessor_gone(&self) {
        let mut predecessor = self.predecessor.subscribe();
        // The sender lives as long as self.
        let _ = predecessor.wait_for(|there| !*there).await;
    }
}

pub(crate) fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

//! The local data plane: supervises boxes (processes) and is the reverse proxy to them. A process of its own, started
//! as `tidegate fleet`, so that the control plane can come and go without a request noticing.
//!
//! Who does what: [`protocol`] and [`client`] are what the control plane sees; `slots` accepts commands and reconciles,
//! by the pure `plan`; `boxes` is the life of one box, `start` its start, `configuration` the values it takes up while it
//! runs; `board` is what is so, and who gets requests;
//! `proxy`, `pool`, `answer`, `listen` and `threads` are the path of a request; `metrics` and `collect` count; `handover` is the
//! upgrade without a failed request; [`package`] verifies what runs.
//!
//! What must hold: a box runs only bytes that were verified just before; boxes and their supervisor die independently;
//! a request is never lost because of tidegate; commands are on disk before they are acted upon.

mod answer;
mod api;
mod board;
mod boxes;
pub mod client;
mod collect;
mod configuration;
mod disk;
mod endpoints;
mod error;
mod format;
mod glass;
mod handover;
mod health;
mod listen;
mod metrics;
pub mod package;
mod plan;
mod pool;
mod process;
mod procfs;
pub mod protocol;
mod proxy;
mod route;
pub mod running;
mod shared;
mod slots;
mod start;
mod threads;
mod validate;

pub use boxes::{RESTART_DELAY_MAX_MS, RESTART_DELAY_MIN_MS};
pub use client::{ClientError, FleetClient};
pub use collect::LOG_MAX_BYTES;
pub use disk::RESERVE_MIN_BYTES;
pub use error::FleetError;
pub use format::check_format;
pub use glass::may_go_back_to;
pub use listen::REQUEST_LIMIT_MS;
pub use pool::IDLE_MAX_MS;

use crate::disk::{DataDir, Lock};
use crate::package::PackageStore;
use crate::shared::{STARTS_AT_ONCE_MAX, Shared};
use crate::slots::Supervisor;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Semaphore, mpsc, watch};

/// How long adopted boxes are waited for before clients are accepted, in milliseconds: those that were healthy serve
/// again after one passed check.
const ADOPTED_WAIT_MS: u64 = 3_000;
/// How long requests in flight are waited for when the fleet stops without its boxes, in milliseconds.
const STOP_REQUESTS_LIMIT_MS: u64 = 5_000;
/// The pause between two looks at them, in milliseconds.
const STOP_LOOK_MS: u64 = 10;
/// The period in milliseconds at which idle connections are closed and the disk reserve is looked at.
const HOUSEKEEPING_PERIOD_MS: u64 = 1_000;
/// The reserve is looked at each so many periods.
const RESERVE_PERIODS: u64 = 30;

/// How to run a fleet.
#[derive(Debug, Clone)]
pub struct FleetConfig {
    /// The fleet's folder: control socket, commands, boxes. Created with mode 0700.
    pub data: PathBuf,
    /// The package store.
    pub packages: PathBuf,
    /// The keys whose signatures are trusted; read at every start of a box.
    pub trusted_keys: PathBuf,
    /// Disk space kept for rollbacks, in bytes; three times the largest package is kept when that is more.
    pub reserve_bytes: u64,
    /// The time within which something must move in a request: a byte of it or of its answer.
    pub request_limit: Duration,
    /// Take over from the fleet that runs on this folder; without one this is a plain start.
    pub take_over: bool,
    /// The program and its arguments that `POST /v1/upgrade` starts: this fleet with `take_over`. Empty: refused.
    pub upgrade_command: Vec<OsString>,
}

impl FleetConfig {
    /// The defaults for these paths; no upgrade command.
    pub fn new(
        data: impl Into<PathBuf>,
        packages: impl Into<PathBuf>,
        trusted_keys: impl Into<PathBuf>,
    ) -> Self {
        FleetConfig {
            data: data.into(),
            packages: packages.into(),
            trusted_keys: trusted_keys.into(),
            reserve_bytes: RESERVE_MIN_BYTES,
            request_limit: Duration::from_millis(REQUEST_LIMIT_MS),
            take_over: false,
            upgrade_command: Vec::new(),
        }
    }

    /// The control socket of the fleet on this folder, for [`FleetClient::new`].
    #[must_use]
    pub fn socket(data: &Path) -> PathBuf {
        data.join(protocol::SOCKET_NAME)
    }
}

/// Why a running fleet ends.
#[derive(Debug)]
pub(crate) enum FleetEnd {
    /// Its boxes run on.
    Stop,
    StopWithBoxes,
    HandOver(tokio::net::UnixStream),
}

/// Runs a fleet until it is stopped or has handed over. On SIGTERM and SIGINT it stops without its boxes. Must run in
/// a multi-threaded tokio runtime; the process should end soon after it returns.
pub async fn run(config: FleetConfig) -> Result<(), FleetError> {
    let open_files = raise_open_files();
    let data = DataDir::open(&config.data, config.reserve_bytes)?;
    let handed = if config.take_over { handover::take(&data)? } else { None };
    let (lock, listeners, seconds, predecessor) = match handed {
        Some(handed) => {
            let (lock, listeners, seconds, stream) = handed.into_parts();
            (lock, listeners, seconds, Some(stream))
        }
        None => {
            let lock = data.lock()?;
            format::keep(&data)?;
            (lock, BTreeMap::new(), Vec::new(), None)
        }
    };
    let shared = share(config, data, listeners, open_files, predecessor.is_some())?;
    if let Some(mut stream) = predecessor {
        handover::confirm(&mut stream)?;
        lock.sign();
        // The process before has let go: whatever is in the way of this, boxes are supervised.
        if let Err(error) = format::keep(&shared.data) {
            tracing::warn!(%error, "the form of the fleet's folder is not kept");
        }
        seconds.into_iter().for_each(|second| metrics::lock(&shared.metrics.retained).push(second));
        tokio::spawn(handover::guide(Arc::clone(&shared), stream));
    }
    let housekeeping = tokio::spawn(keep_house(Arc::clone(&shared)));
    let result = supervise(&shared, lock).await;
    housekeeping.abort();
    result
}

fn share(
    config: FleetConfig,
    data: DataDir,
    listeners: BTreeMap<u16, TcpListener>,
    open_files: Option<u64>,
    has_predecessor: bool,
) -> Result<Arc<Shared>, FleetError> {
    let packages = PackageStore::open(&config.packages)
        .map_err(|e| FleetError::disk("read", &config.packages)(std::io::Error::other(e)))?;
    let ports = process::Ports::new();
    let metrics = Arc::<collect::Metrics>::default();
    let endpoints = endpoints::EndpointTable::load(&data, &ports, &metrics, listeners)?;
    let clients = listen::Clients::new(config.request_limit)
        .map_err(FleetError::disk("start", "the proxy's threads"))?;
    Ok(Arc::new(Shared {
        fleet_id: data.identity()?,
        packages,
        ports,
        metrics,
        board: board::Board::new(),
        endpoints: Arc::new(endpoints),
        clients: Arc::new(clients),
        open_files,
        starts: Arc::new(Semaphore::new(STARTS_AT_ONCE_MAX as usize)),
        rollback_starts: Arc::new(Semaphore::new(STARTS_AT_ONCE_MAX as usize)),
        lives: watch::Sender::new(()),
        frozen: AtomicBool::new(false),
        predecessor: watch::Sender::new(has_predecessor),
        config,
        data,
    }))
}

/// Supervises until the end; begins anew when a hand-over failed.
async fn supervise(shared: &Arc<Shared>, lock: Lock) -> Result<(), FleetError> {
    loop {
        shared.frozen.store(false, Ordering::SeqCst);
        let supervisor = Arc::new(Supervisor::start(shared)?);
        let mut collector = shared.metrics.start().map_err(FleetError::disk("read", "/proc"))?;
        let control = api::bind(shared)?;
        let successors = handover::bind(shared)?;
        supervisor.adopted_serve(Duration::from_millis(ADOPTED_WAIT_MS)).await;
        shared.endpoints.accept(&shared.clients);
        let (end, mut ends) = mpsc::channel(1);
        let api = api::Api { shared: Arc::clone(shared), supervisor: Arc::clone(&supervisor), end };
        let control = tokio::spawn(api::serve(control, api));
        tracing::info!(data = %shared.config.data.display(), "the fleet serves");
        match next_end(&mut ends, &successors).await? {
            FleetEnd::HandOver(stream) => {
                collector.stop();
                let given = handover::give(shared, &supervisor, &lock, stream).await;
                if let Ok(stream) = given {
                    // Should the successor die, the next fleet can start at once.
                    drop(lock);
                    shared.endpoints.let_go();
                    handover::serve_remaining(shared, stream).await;
                    control.abort();
                    return Ok(());
                }
                tracing::error!(error = ?given.err(), "the successor failed; this process goes on");
                supervisor.freeze().await;
                control.abort();
            }
            end => {
                stop(shared, &supervisor, matches!(end, FleetEnd::StopWithBoxes)).await;
                control.abort();
                return Ok(());
            }
        }
    }
}

async fn next_end(
    ends: &mut mpsc::Receiver<FleetEnd>,
    successors: &tokio::net::UnixListener,
) -> Result<FleetEnd, FleetError> {
    let listen = |kind| signal(kind).map_err(FleetError::disk("read", "signals"));
    let (mut terminate, mut interrupt) = (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
    loop {
        tokio::select! {
            Some(end) = ends.recv() => return Ok(end),
            _ = terminate.recv() => return Ok(FleetEnd::Stop),
            _ = interrupt.recv() => return Ok(FleetEnd::Stop),
            successor = successors.accept() => match successor {
                Ok((stream, _)) => return Ok(FleetEnd::HandOver(stream)),
                Err(error) => tracing::warn!(%error, "failed to accept a successor"),
            },
        }
    }
}

async fn stop(shared: &Arc<Shared>, supervisor: &Supervisor, boxes: bool) {
    shared.endpoints.stop_accepting();
    shared.clients.set_leaving(true);
    if boxes {
        supervisor.halt().await;
    } else {
        let busy = || shared.board.serving().into_values().flatten().any(|upstream| upstream.in_flight() > 0);
        let done = async {
            while busy() {
                tokio::time::sleep(Duration::from_millis(STOP_LOOK_MS)).await;
            }
        };
        // Whatever takes longer is broken off with the process.
        let _ = tokio::time::timeout(Duration::from_millis(STOP_REQUESTS_LIMIT_MS), done).await;
        supervisor.freeze().await;
    }
    for name in [protocol::SOCKET_NAME, "handover.sock"] {
        // It leads nowhere now; the next fleet replaces it anyway.
        let _ = std::fs::remove_file(shared.data.path(name));
    }
}

/// Closes what was idle for too long, and keeps the disk reserve.
async fn keep_house(shared: Arc<Shared>) {
    let mut ticks = tokio::time::interval(Duration::from_millis(HOUSEKEEPING_PERIOD_MS));
    for n in 0_u64.. {
        ticks.tick().await;
        for upstream in shared.board.serving().into_values().flatten() {
            pool::close_old(&upstream);
        }
        if n % RESERVE_PERIODS == 0 {
            let shared = Arc::clone(&shared);
            // Its failure was logged, and it is tried again.
            let _ = tokio::task::spawn_blocking(move || {
                let packages = disk::entries(&shared.config.packages).unwrap_or_default();
                let size = |path: &PathBuf| std::fs::metadata(path).map_or(0, |m| m.len());
                shared.data.keep_reserve(packages.iter().map(size).max().unwrap_or(0));
            })
            .await;
        }
    }
}

/// Raises this process's limit of open files as far as it may; the limit that there was is what boxes get.
fn raise_open_files() -> Option<u64> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    // Without it fewer clients are served at one time.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    limit.current
}

//! The life of one box: start, health, restart with back-off, drain, stop.
//!
//! What must hold: nothing starts that was not verified just before; a box is recorded so that the next supervisor finds
//! its process again, whenever this one dies; a box that leaves finishes the requests in flight, within its limit.

use crate::collect::LOG_NAME;
use crate::configuration::{Files, Held, Keeper, Wanted};
use crate::disk::{self, Durable};
use crate::health;
use crate::metrics::BoxMeter;
use crate::pool;
use crate::process::{Process, ProcessName};
use crate::route::Upstream;
use crate::shared::{Shared, now};
use crate::start;
use rustix::process::Signal;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::{Read, Seek, SeekFrom};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tidegate_core::engine::BoxHealth;
use tidegate_core::ids::{PipelineId, RunSpecDigest, SecretName, SlotId};
use tidegate_core::run_spec::{ProcessSpec, RunSpec};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

/// The pause before the first restart of a box that failed, in milliseconds; it doubles with each failure.
pub const RESTART_DELAY_MIN_MS: u64 = 250;
/// The longest pause between two starts, in milliseconds.
pub const RESTART_DELAY_MAX_MS: u64 = 30_000;
/// A box that was healthy for this long has its next restart after the shortest pause again, in milliseconds.
pub(crate) const RESTART_DELAY_RESET_MS: u64 = 60_000;
/// While a box starts, it is asked this often in milliseconds until it accepts connections.
const START_LOOK_MS: u64 = 25;
/// How much of the end of the log is searched for its last line, in bytes.
const LAST_LINE_BYTES: u64 = 4 << 10;
/// The longest last line that is shown, in characters.
const LAST_LINE_CHARS: usize = 200;

/// What is known of a box on disk: everything that the next supervisor needs.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct BoxRecord {
    pub(crate) id: String,
    pub(crate) slot: SlotId,
    pub(crate) run_spec: RunSpec,
    /// The values of the RunSpec's secrets.
    pub(crate) secrets: BTreeMap<SecretName, String>,
    pub(crate) incarnation: u32,
    pub(crate) process: Option<ProcessName>,
    pub(crate) port: u16,
    /// Whether this process passed its health checks: an adopted one then serves after one check.
    pub(crate) was_healthy: bool,
    /// Whether it was told to leave.
    pub(crate) leaving: bool,
}

impl BoxRecord {
    /// As in the environment of its process.
    pub(crate) fn box_name(&self) -> String {
        format!("{}/{}", self.slot.target, self.id)
    }

    pub(crate) fn write(&self, folder: &Path) -> std::io::Result<()> {
        disk::write_json(&folder.join(RECORD_NAME), self, Durable::No)
    }
}

/// The name of the record in a box's folder.
pub(crate) const RECORD_NAME: &str = "box.json";

/// What a box's slot tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    Run,
    /// Drain, stop, and be gone.
    Leave,
    /// Drain and stop; the next fleet starts it again.
    Halt,
}

/// What a box tells its slot.
#[derive(Debug, Clone)]
pub(crate) struct BoxState {
    pub(crate) incarnation: u32,
    pub(crate) health: BoxHealth,
    pub(crate) upstream: Option<Arc<Upstream>>,
    /// Why it cannot even be started.
    pub(crate) trouble: Option<String>,
    /// What it has of each configuration pipeline.
    pub(crate) configuration: BTreeMap<PipelineId, Held>,
    pub(crate) gone: bool,
}

/// A box as its slot holds it.
#[derive(Debug)]
pub(crate) struct BoxHandle {
    pub(crate) run_spec: RunSpecDigest,
    pub(crate) order: watch::Sender<Order>,
    /// What it is to have of each configuration pipeline.
    pub(crate) wanted: watch::Sender<Arc<Wanted>>,
    pub(crate) state: Arc<Mutex<BoxState>>,
    pub(crate) task: tokio::task::JoinHandle<()>,
}

/// What a slot shares with its boxes.
#[derive(Debug, Default)]
pub(crate) struct SlotSignals {
    /// A box changed.
    pub(crate) changed: Notify,
    /// The slot's newest command is a rollback.
    pub(crate) rollback: AtomicBool,
}

/// Begins (or takes up again) the life of a box.
pub(crate) fn spawn(
    shared: &Arc<Shared>,
    signals: &Arc<SlotSignals>,
    record: BoxRecord,
    process: Option<Process>,
    meter: Arc<BoxMeter>,
    wanted: Wanted,
) -> BoxHandle {
    let order = if record.leaving { Order::Leave } else { Order::Run };
    let (sender, receiver) = watch::channel(order);
    let (wanted_sender, wanted) = watch::channel(Arc::new(wanted));
    let state = Arc::new(Mutex::new(BoxState {
        incarnation: record.incarnation,
        health: BoxHealth::Starting { since: now() },
        upstream: None,
        trouble: None,
        configuration: BTreeMap::new(),
        gone: false,
    }));
    let run_spec = record.run_spec.digest();
    shared.ports.note(record.port);
    let life = Life {
        folder: shared.box_folder(&record),
        shared: Arc::clone(shared),
        signals: Arc::clone(signals),
        state: Arc::clone(&state),
        order: receiver,
        wanted,
        files: Files::default(),
        healthy: watch::Sender::new(false),
        meter,
        failures: 0,
        _alive: shared.lives.subscribe(),
        record,
    };
    let task = tokio::spawn(life.live(process));
    BoxHandle { run_spec, order: sender, wanted: wanted_sender, state, task }
}

struct Life {
    shared: Arc<Shared>,
    signals: Arc<SlotSignals>,
    record: BoxRecord,
    folder: PathBuf,
    meter: Arc<BoxMeter>,
    state: Arc<Mutex<BoxState>>,
    order: watch::Receiver<Order>,
    wanted: watch::Receiver<Arc<Wanted>>,
    files: Files,
    /// As in the state; its configuration waits for it.
    healthy: watch::Sender<bool>,
    failures: u32,
    _alive: watch::Receiver<()>,
}

/// How a run of the process ended.
enum End {
    Exited(String),
    /// It runs, but is not (or no longer) healthy.
    Failed(String),
    Ordered,
}

impl Life {
    async fn live(mut self, mut process: Option<Process>) {
        let adopted = process.is_some();
        loop {
            if *self.order.borrow() != Order::Run && process.is_none() {
                return self.finish().await;
            }
            let (running, adopted) = match process.take() {
                Some(running) => (running, adopted),
                None => match self.start().await {
                    Ok(started) => (started, false),
                    Err(trouble) => {
                        self.set(|state| {
                            state.health = BoxHealth::Unhealthy { reason: trouble.clone() };
                            state.trouble = Some(trouble);
                        });
                        self.pause().await;
                        continue;
                    }
                },
            };
            let reason = self.run(running, adopted).await;
            if let Some(reason) = reason {
                tracing::warn!(r#box = self.record.box_name(), reason, "a box failed");
                self.pause().await;
            }
        }
    }

    async fn start(&mut self) -> Result<Process, String> {
        let (wanted, files) = (Arc::clone(&self.wanted.borrow()), self.files.clone());
        start::start(&self.shared, &self.signals, &mut self.record, &self.folder, wanted, files).await
    }

    /// From a running process to its end; why it has to be started again, unless it was told to leave.
    async fn run(&mut self, process: Process, adopted: bool) -> Option<String> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.record.port));
        let role = self.record.slot.target.role;
        let upstream = Arc::new(Upstream::new(address, role, Arc::clone(&self.meter)));
        self.meter.session_is_new.store(!adopted, Ordering::SeqCst);
        self.meter.session.store(process.name().pid, Ordering::SeqCst);
        let incarnation = self.record.incarnation;
        self.set(|state| {
            state.incarnation = incarnation;
            state.health = BoxHealth::Starting { since: now() };
            state.upstream = Some(Arc::clone(&upstream));
            state.trouble = None;
        });
        let spec = self.shared.process_spec(&self.record.run_spec);
        let since = Instant::now();
        let keeper = self.keeper(&upstream).keep();
        let end = tokio::select! {
            end = self.watch_over(&process, &upstream, &spec, adopted && self.record.was_healthy) => end,
            never = keeper => match never {},
        };
        self.healthy.send_replace(false);
        if self.meter.healthy.swap(false, Ordering::SeqCst)
            && since.elapsed() > Duration::from_millis(RESTART_DELAY_RESET_MS)
        {
            self.failures = 0;
        }
        let reason = match end {
            End::Exited(how) => Some(self.with_last_line(how)),
            End::Failed(why) => {
                let why = self.with_last_line(why);
                self.set(|state| state.health = BoxHealth::Unhealthy { reason: why.clone() });
                self.stop(&process, &upstream, &spec).await;
                Some(why)
            }
            End::Ordered => {
                self.set(|state| state.health = BoxHealth::Leaving);
                self.record.leaving = *self.order.borrow() == Order::Leave;
                // Should it be lost, the slot finds that the box is surplus once more.
                let _ = self.record.write(&self.folder);
                self.stop(&process, &upstream, &spec).await;
                None
            }
        };
        self.meter.session.store(0, Ordering::SeqCst);
        self.record.process = None;
        self.record.was_healthy = false;
        pool::close_idle(&upstream);
        self.set(|state| {
            state.upstream = None;
            if let Some(reason) = &reason {
                state.health = BoxHealth::Unhealthy { reason: reason.clone() };
            }
        });
        reason
    }

    /// Gives the running process its configuration.
    fn keeper(&self, upstream: &Arc<Upstream>) -> Keeper {
        Keeper {
            shared: Arc::clone(&self.shared),
            signals: Arc::clone(&self.signals),
            state: Arc::clone(&self.state),
            meter: Arc::clone(&self.meter),
            upstream: Arc::clone(upstream),
            files: self.files.clone(),
            ended: Arc::default(),
            folder: self.folder.clone(),
            wanted: self.wanted.clone(),
            healthy: self.healthy.subscribe(),
        }
    }

    async fn watch_over(
        &mut self,
        process: &Process,
        upstream: &Upstream,
        spec: &ProcessSpec,
        was_healthy: bool,
    ) -> End {
        let health = &spec.health;
        let mut order = self.order.clone();
        let mut watch = Watch { passed: 0, failed: 0, healthy: false, since: Instant::now(), owned: false };
        let needed = if was_healthy { 1 } else { health.healthy_after.max(1) };
        let mut pause = Duration::ZERO;
        loop {
            let result = tokio::select! {
                biased;
                // Without its slot (the fleet is frozen) nobody may order anything.
                Ok(_) = order.wait_for(|order| *order != Order::Run) => return End::Ordered,
                how = process.exited() => return End::Exited(how),
                result = watch.next_check(pause, process, upstream, spec) => result,
            };
            pause = Duration::from(health.interval);
            match result {
                Ok(()) => {
                    (watch.passed, watch.failed) = (watch.passed + 1, 0);
                    if !watch.healthy && watch.passed >= needed {
                        (watch.healthy, watch.since) = (true, Instant::now());
                        self.set_healthy();
                    }
                }
                Err(why) => {
                    (watch.passed, watch.failed) = (0, watch.failed + 1);
                    if watch.healthy && watch.failed >= health.unhealthy_after.max(1) {
                        (watch.healthy, watch.since) = (false, Instant::now());
                        self.meter.healthy.store(false, Ordering::SeqCst);
                        self.healthy.send_replace(false);
                        let reason = self.with_last_line(why);
                        self.set(|state| state.health = BoxHealth::Unhealthy { reason });
                    } else if !watch.healthy && watch.since.elapsed() >= Duration::from(health.start_timeout)
                    {
                        return End::Failed(format!(
                            "it was not healthy within {}: {why}",
                            health.start_timeout
                        ));
                    } else if !watch.healthy {
                        pause = pause.min(Duration::from_millis(START_LOOK_MS << watch.failed.min(6)));
                    }
                }
            }
        }
    }

    fn set_healthy(&mut self) {
        self.record.was_healthy = true;
        // Should it be lost, the box merely has to pass more checks after an adoption.
        let _ = self.record.write(&self.folder);
        self.meter.healthy.store(true, Ordering::SeqCst);
        self.set(|state| state.health = BoxHealth::Healthy { since: now() });
        self.healthy.send_replace(true);
    }

    /// Drains, then ends the process.
    async fn stop(&self, process: &Process, upstream: &Upstream, spec: &ProcessSpec) {
        // The slot took the box out of the routing table when it was told; those that read an older one are waited for.
        let drained = async {
            self.shared.predecessor_gone().await;
            upstream.drain().await;
        };
        tokio::select! {
            biased;
            () = drained => {}
            _ = process.exited() => return,
            () = tokio::time::sleep(Duration::from(spec.drain_timeout)) => {}
        }
        process.signal(Signal::TERM);
        let exited = tokio::time::timeout(Duration::from(spec.stop_timeout), process.exited()).await;
        if exited.is_err() {
            process.signal(Signal::KILL);
            process.exited().await;
        }
    }

    /// Waits before the next start, unless told to leave.
    async fn pause(&mut self) {
        let delay =
            RESTART_DELAY_MIN_MS.checked_shl(self.failures).unwrap_or(u64::MAX).min(RESTART_DELAY_MAX_MS);
        self.failures = (self.failures + 1).min(16);
        let mut order = self.order.clone();
        let leave = order.wait_for(|order| *order != Order::Run);
        // A timeout means that nobody told it to leave.
        let _ = tokio::time::timeout(Duration::from_millis(delay), leave).await;
    }

    /// The process is gone, and the box with it if it was told to leave.
    async fn finish(self) {
        if *self.order.borrow() == Order::Leave {
            if let Err(error) = tokio::fs::remove_dir_all(&self.folder).await
                && error.kind() != std::io::ErrorKind::NotFound
            {
                tracing::warn!(%error, folder = %self.folder.display(), "failed to remove a box's folder");
            }
            self.shared.ports.give_back(self.record.port);
        }
        self.meter.closed.store(true, Ordering::SeqCst);
        self.set(|state| {
            state.health = BoxHealth::Leaving;
            state.gone = true;
        });
    }

    fn set(&self, change: impl FnOnce(&mut BoxState)) {
        change(&mut crate::metrics::lock(&self.state));
        self.signals.changed.notify_one();
    }

    fn with_last_line(&self, reason: String) -> String {
        match last_line(&self.folder.join(LOG_NAME)) {
            Some(line) => format!("{reason}; its log ends with: {line}"),
            None => reason,
        }
    }
}

struct Watch {
    passed: u32,
    failed: u32,
    healthy: bool,
    since: Instant,
    owned: bool,
}

impl Watch {
    async fn next_check(
        &mut self,
        pause: Duration,
        process: &Process,
        upstream: &Upstream,
        spec: &ProcessSpec,
    ) -> Result<(), String> {
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = upstream.suspect.notified() => {}
        }
        health::check(upstream, &spec.health).await?;
        if !self.owned {
            health::owns_port(process.name().pid, upstream.address.port()).await?;
            self.owned = true;
        }
        Ok(())
    }
}

fn last_line(log: &Path) -> Option<String> {
    let mut file = std::fs::File::open(log).ok()?;
    let length = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(LAST_LINE_BYTES))).ok()?;
    let mut text = Vec::new();
    file.take(LAST_LINE_BYTES).read_to_end(&mut text).ok()?;
    let text = String::from_utf8_lossy(&text);
    let line = text.lines().rev().find(|line| !line.trim().is_empty())?;
    Some(line.trim().chars().take(LAST_LINE_CHARS).collect())
}

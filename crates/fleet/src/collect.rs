//! Closes each second: takes what the proxy counted, and asks `/proc`, the box's log and its folder for the rest. Runs
//! in a thread of its own, so that neither slow disks nor a busy runtime hold it up.

use crate::metrics::{BoxMeter, Retained, Second, lock};
use crate::procfs;
use crate::route::Route;
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tidegate_core::ids::TargetId;
use tidegate_core::metrics::{Cell, UnroutedCell};

/// The longest log of a box in bytes; a longer one is moved to `log.1` and begun anew.
pub const LOG_MAX_BYTES: u64 = 8 << 20;
/// How much of a box's log is searched for errors each second, in bytes; of more, only the end.
const LOG_SCAN_MAX_BYTES: u64 = 1 << 20;
/// Seconds from one measurement of a box's folder to the next.
const DISK_PERIOD_SECONDS: i64 = 10;
/// The most entries that are looked at when a folder is measured.
const DISK_ENTRIES_MAX: usize = 50_000;
/// Clock ticks per second in `/proc`: fixed in Linux's interface to programs.
const TICKS_PER_SECOND: u64 = 100;
/// How long after the end of a second it is closed, in milliseconds.
const CLOSE_DELAY_MS: u64 = 2;

/// All that is measured.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    pub(crate) retained: Mutex<Retained>,
    meters: Mutex<Vec<Arc<BoxMeter>>>,
    routes: Mutex<Vec<Arc<Route>>>,
    stopped: Mutex<bool>,
    stop: Condvar,
}

impl Metrics {
    /// The box's meter; a new one is read every second from now on, until it is closed.
    pub(crate) fn meter(
        &self,
        target: &TargetId,
        box_id: &str,
        new: impl FnOnce() -> BoxMeter,
    ) -> Arc<BoxMeter> {
        let mut meters = lock(&self.meters);
        if let Some(meter) = meters.iter().find(|m| m.box_id == box_id && m.target == *target) {
            return Arc::clone(meter);
        }
        let meter = Arc::new(new());
        meters.push(Arc::clone(&meter));
        meter
    }

    /// Counts this endpoint's unrouted requests from now on.
    pub(crate) fn add_route(&self, route: Arc<Route>) {
        lock(&self.routes).push(route);
    }

    /// The boxes that are measured.
    pub(crate) fn meters(&self) -> Vec<Arc<BoxMeter>> {
        lock(&self.meters).clone()
    }

    /// The endpoints.
    pub(crate) fn routes(&self) -> Vec<Arc<Route>> {
        lock(&self.routes).clone()
    }

    /// Begins to close seconds; ends with [`Collector::stop`].
    pub(crate) fn start(self: &Arc<Self>) -> std::io::Result<Collector> {
        *lock(&self.stopped) = false;
        let metrics = Arc::clone(self);
        let thread = std::thread::Builder::new().name("metrics".to_owned()).spawn(move || metrics.run())?;
        Ok(Collector { metrics: Arc::clone(self), thread: Some(thread) })
    }

    fn run(&self) {
        let mut samples: BTreeMap<(String, String), Sample> = BTreeMap::new();
        let mut last = Instant::now();
        loop {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            let to_next = Duration::from_secs(1) - Duration::from_nanos(u64::from(now.subsec_nanos()));
            let stopped = lock(&self.stopped);
            let wait = to_next + Duration::from_millis(CLOSE_DELAY_MS);
            let waited = self.stop.wait_timeout_while(stopped, wait, |stopped| !*stopped);
            if *waited.unwrap_or_else(std::sync::PoisonError::into_inner).0 {
                return;
            }
            let closed = unix_second() - 1;
            if closed > lock(&self.retained).complete_until() {
                let elapsed = last.elapsed();
                last = Instant::now();
                self.close(closed, elapsed, &mut samples);
            }
        }
    }

    fn close(&self, second: i64, elapsed: Duration, samples: &mut BTreeMap<(String, String), Sample>) {
        let usage = procfs::usage_by_session();
        let meters = self.meters();
        let mut cells = Vec::with_capacity(meters.len());
        for meter in &meters {
            // Read before the counts are taken, so that the last cell holds the last requests.
            let last = meter.closed.load(Ordering::SeqCst);
            let key = (meter.target.to_string(), meter.box_id.clone());
            let sample = samples.entry(key.clone()).or_default();
            cells.push(sample.cell(meter, second, elapsed, &usage));
            if last {
                samples.remove(&key);
                lock(&self.meters).retain(|m| !Arc::ptr_eq(m, meter));
            }
        }
        let unrouted = self
            .routes()
            .iter()
            .filter_map(|route| {
                let requests = route.unrouted.swap(0, Ordering::Relaxed);
                (requests > 0).then(|| UnroutedCell {
                    second,
                    service: route.key.service.clone(),
                    environment: route.key.environment.clone(),
                    region: route.key.region.clone(),
                    requests,
                })
            })
            .collect();
        lock(&self.retained).push(Second { second, cells, unrouted });
    }
}

/// The running thread.
#[derive(Debug)]
pub(crate) struct Collector {
    metrics: Arc<Metrics>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Collector {
    /// Ends it; what was counted since the last closed second stays where it is.
    pub(crate) fn stop(&mut self) {
        *lock(&self.metrics.stopped) = true;
        self.metrics.stop.notify_all();
        if let Some(thread) = self.thread.take() {
            // A panic there was reported where it happened.
            let _ = thread.join();
        }
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.stop();
    }
}

pub(crate) fn unix_second() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .ok()
        .and_then(|d| i64::try_from(d.as_secs()).ok())
        .unwrap_or(0)
}

/// What must be remembered from one second to the next.
#[derive(Debug, Default)]
struct Sample {
    session: u32,
    ticks: u64,
    log_offset: Option<u64>,
    disk_kib: u64,
    disk_measured: Option<i64>,
}

impl Sample {
    fn cell(
        &mut self,
        meter: &BoxMeter,
        second: i64,
        elapsed: Duration,
        usage: &BTreeMap<u32, (u64, u64)>,
    ) -> Cell {
        let session = meter.session.load(Ordering::SeqCst);
        let (ticks, pages) = usage.get(&session).copied().unwrap_or((0, 0));
        let used = match session == self.session {
            true => ticks.saturating_sub(self.ticks),
            false if meter.session_is_new.load(Ordering::SeqCst) => ticks,
            false => 0,
        };
        (self.session, self.ticks) = (session, ticks);
        let elapsed_ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX).max(1);
        let millicores = used.saturating_mul(1_000_000) / TICKS_PER_SECOND / elapsed_ms;
        if self.disk_measured.is_none_or(|at| second - at >= DISK_PERIOD_SECONDS) {
            self.disk_measured = Some(second);
            self.disk_kib = disk_kib(&meter.folder);
        }
        Cell {
            second,
            target: meter.target.clone(),
            box_id: meter.box_id.clone(),
            run_spec: meter.run_spec.clone(),
            configuration: lock(&meter.configuration).clone(),
            apis: meter.take(),
            cpu_millicores: u32::try_from(millicores).unwrap_or(u32::MAX),
            memory_kib: pages.saturating_mul(rustix::param::page_size() as u64) / 1024,
            disk_kib: self.disk_kib,
            log_errors: self.scan_log(&meter.folder, meter.log_seen).unwrap_or(0),
            healthy: meter.healthy.load(Ordering::SeqCst),
        }
    }

    /// Counts the error lines that are new, and begins the log anew when it is too long.
    fn scan_log(&mut self, folder: &Path, seen: u64) -> std::io::Result<u32> {
        let path = folder.join(LOG_NAME);
        let mut file = OpenOptions::new().read(true).write(true).open(&path)?;
        let length = file.metadata()?.len();
        let offset = self.log_offset.unwrap_or(seen);
        // A log that is shorter than what was read of it was begun anew.
        let from = if offset <= length { offset.max(length.saturating_sub(LOG_SCAN_MAX_BYTES)) } else { 0 };
        let (errors, until) = count_errors(&mut file, from)?;
        self.log_offset = Some(until);
        if length > LOG_MAX_BYTES {
            fs::copy(&path, folder.join("log.1"))?;
            // The box appends, so its next line lands at the new beginning. Lines of this very instant are lost.
            file.set_len(0)?;
            self.log_offset = Some(0);
        }
        Ok(errors)
    }
}

/// The name of the log in a box's folder.
pub(crate) const LOG_NAME: &str = "log";

fn count_errors(file: &mut File, from: u64) -> std::io::Result<(u32, u64)> {
    let mut text = Vec::new();
    file.seek(SeekFrom::Start(from))?;
    file.by_ref().take(LOG_SCAN_MAX_BYTES).read_to_end(&mut text)?;
    // A line that has not ended yet is counted when it has.
    let whole = text.iter().rposition(|b| *b == b'\n').map_or(0, |n| n + 1);
    let errors =
        text.get(..whole).unwrap_or(&[]).split(|b| *b == b'\n').filter(|line| is_error(line)).count();
    let read = if whole == 0 && text.len() as u64 >= LOG_SCAN_MAX_BYTES { text.len() } else { whole };
    Ok((u32::try_from(errors).unwrap_or(u32::MAX), from + read as u64))
}

fn is_error(line: &[u8]) -> bool {
    line.split(|b| !b.is_ascii_alphanumeric() && *b != b'_')
        .any(|word| matches!(word, b"ERROR" | b"FATAL" | b"panicked"))
}

fn disk_kib(folder: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let mut folders = vec![folder.to_owned()];
    let (mut blocks, mut seen) = (0_u64, 0_usize);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            seen += 1;
            if seen > DISK_ENTRIES_MAX {
                return blocks / 2;
            }
            if let Ok(meta) = entry.metadata() {
                blocks += meta.blocks();
                if meta.is_dir() {
                    folders.push(entry.path());
                }
            }
        }
    }
    // Blocks are of 512 bytes.
    blocks / 2
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn error_lines_are_counted_once_and_when_they_have_ended() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = OpenOptions::new().create(true).append(true).open(dir.path().join(LOG_NAME)).unwrap();
        let mut sample = Sample::default();
        let mut scan = || sample.scan_log(dir.path(), 7).unwrap();
        write!(log, "ERROR.\nINFO all is well\n").unwrap();
        assert_eq!(scan(), 0);
        write!(log, "2026 ERROR: a\nINFO ERRORS=0\nthread 'main' panicked at x\n[FATAL] b\nERR").unwrap();
        assert_eq!(scan(), 3);
        writeln!(log, "OR c").unwrap();
        assert_eq!(scan(), 1);
        assert_eq!(scan(), 0);
    }

    #[test]
    fn a_long_log_begins_anew() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = OpenOptions::new().create(true).append(true).open(dir.path().join(LOG_NAME)).unwrap();
        let mut sample = Sample::default();
        sample.scan_log(dir.path(), 0).unwrap();
        log.write_all(&vec![b'x'; usize::try_from(LOG_MAX_BYTES).unwrap()]).unwrap();
        log.write_all(b"\nERROR at the end\n").unwrap();
        assert_eq!(sample.scan_log(dir.path(), 0).unwrap(), 1);
        assert_eq!(log.metadata().unwrap().len(), 0);
        writeln!(log, "FATAL first line").unwrap();
        assert_eq!(sample.scan_log(dir.path(), 0).unwrap(), 1);
        assert!(disk_kib(dir.path()) >= LOG_MAX_BYTES / 1024);
    }
}

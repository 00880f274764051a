//! Standard metrics (M1): counting on the path of a request, and the seconds that were closed.
//!
//! A request leaves one record of four bytes behind a lock that is held for a push; everything else happens once a
//! second in [`crate::collect`]. A second that could not be closed in time is missing, and its requests are counted in
//! the next one that is closed: a gap is blindness and must not look like a quiet second (X2).

use hyper::Method;
use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tidegate_core::ids::{RunSpecDigest, TargetId};
use tidegate_core::metrics::{ApiCell, Cell, Sketch, UnroutedCell};

use crate::protocol::MetricsPage;

/// The most labels of a service; requests beyond them are counted under [`OTHER`].
pub(crate) const LABELS_MAX: usize = 64;
/// The label of requests that have none of their own.
pub(crate) const OTHER: &str = "other";
/// How long closed seconds are kept: a control plane that was down this long misses nothing.
pub(crate) const RETAINED_SECONDS: usize = 15 * 60;
/// The most cells that are kept: 15 minutes of 550 boxes, of about 1 KiB each.
pub(crate) const RETAINED_CELLS_MAX: usize = 500_000;
/// A page of the answer ends with the second that reaches this many cells.
pub(crate) const CELLS_PER_PAGE: usize = 20_000;
/// Records of one box that wait for the end of the second; beyond it they are summed up at once.
const RECORDS_MAX: usize = 1 << 16;
/// The longest segment of a path that can be part of a label, in bytes.
const SEGMENT_MAX_BYTES: usize = 40;

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every critical section leaves its data whole at each step, so a panic in another one does not spoil it.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Good,
    /// The server's failure.
    Fault,
    /// The client's error.
    Error,
}

impl Outcome {
    pub(crate) fn of(status: hyper::StatusCode) -> Outcome {
        if status.is_server_error() {
            Outcome::Fault
        } else if status.is_client_error() {
            Outcome::Error
        } else {
            Outcome::Good
        }
    }
}

/// The label of a request: known, or to be learned when its answer shows that there is such an API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Label {
    Known(u8),
    New(Box<str>),
}

/// The labels of one service's requests: `METHOD /first-segment`, with the second segment where that is no id.
#[derive(Debug, Default)]
pub(crate) struct Labels {
    table: arc_swap::ArcSwap<LabelTable>,
    learning: Mutex<()>,
}

#[derive(Debug, Clone)]
struct LabelTable {
    numbers: BTreeMap<Box<str>, u8>,
    names: Vec<Box<str>>,
}

impl Default for LabelTable {
    fn default() -> Self {
        LabelTable { numbers: BTreeMap::new(), names: vec![OTHER.into()] }
    }
}

const OTHER_NUMBER: u8 = 0;

impl Labels {
    /// The label of a request.
    pub(crate) fn of(&self, method: &Method, path: &str) -> Label {
        let mut buffer = [0_u8; 16 + 2 * (SEGMENT_MAX_BYTES + 1)];
        let Some(text) = label_text(method, path, &mut buffer) else { return Label::Known(OTHER_NUMBER) };
        let table = self.table.load();
        match table.numbers.get(text) {
            Some(number) => Label::Known(*number),
            None if table.names.len() >= LABELS_MAX => Label::Known(OTHER_NUMBER),
            None => Label::New(text.into()),
        }
    }

    /// The number of a label, which is learned unless the box said that there is nothing there.
    fn number(&self, label: &Label, exists: bool) -> u8 {
        match label {
            Label::Known(number) => *number,
            Label::New(_) if !exists => OTHER_NUMBER,
            Label::New(text) => self.learn(text),
        }
    }

    fn learn(&self, text: &str) -> u8 {
        let _one_at_a_time = lock(&self.learning);
        let table = self.table.load();
        if let Some(number) = table.numbers.get(text) {
            return *number;
        }
        match u8::try_from(table.names.len()) {
            Ok(number) if table.names.len() < LABELS_MAX => {
                let mut table = LabelTable::clone(&table);
                table.names.push(text.into());
                table.numbers.insert(text.into(), number);
                self.table.store(Arc::new(table));
                number
            }
            _ => OTHER_NUMBER,
        }
    }

    fn name(&self, number: u8) -> String {
        let table = self.table.load();
        table.names.get(usize::from(number)).map_or_else(|| OTHER.to_owned(), ToString::to_string)
    }
}

fn label_text<'b>(method: &Method, path: &str, buffer: &'b mut [u8]) -> Option<&'b str> {
    let standard = [
        Method::GET,
        Method::POST,
        Method::PUT,
        Method::DELETE,
        Method::PATCH,
        Method::HEAD,
        Method::OPTIONS,
    ];
    if !standard.contains(method) {
        return None;
    }
    let mut segments = path.strip_prefix('/')?.split('/');
    let first = segments
        .next()
        .filter(|s| s.len() <= SEGMENT_MAX_BYTES && s.bytes().all(|b| b.is_ascii_graphic()))?;
    let second = segments.next().filter(|s| is_name(s));
    let parts = [method.as_str(), " /", first, second.map_or("", |_| "/"), second.unwrap_or("")];
    let mut length = 0;
    for part in parts {
        buffer.get_mut(length..length + part.len())?.copy_from_slice(part.as_bytes());
        length += part.len();
    }
    std::str::from_utf8(buffer.get(..length)?).ok()
}

/// Whether a segment names a thing and not one of many: ids have digits, or are long.
fn is_name(segment: &str) -> bool {
    const NAME_MAX_BYTES: usize = 24;
    !segment.is_empty()
        && segment.len() <= NAME_MAX_BYTES
        && segment.bytes().all(|b| b.is_ascii_alphabetic() || b == b'-' || b == b'_' || b == b'.')
}

/// What is counted for one box over all its starts.
#[derive(Debug)]
pub(crate) struct BoxMeter {
    pub(crate) target: TargetId,
    pub(crate) box_id: String,
    pub(crate) run_spec: RunSpecDigest,
    /// The configuration that it works with.
    pub(crate) configuration: Mutex<Vec<RunSpecDigest>>,
    /// Where its log and its files are.
    pub(crate) folder: PathBuf,
    /// How much of its log was there, in bytes, when this process began to watch it.
    pub(crate) log_seen: u64,
    labels: Arc<Labels>,
    counts: Mutex<Counts>,
    pub(crate) healthy: AtomicBool,
    /// Of its process; 0 when there is none.
    pub(crate) session: AtomicU32,
    /// This process started that session, so all its CPU time is to be counted; an adopted one's was counted before.
    pub(crate) session_is_new: AtomicBool,
    /// The box is gone: its next cell is its last.
    pub(crate) closed: AtomicBool,
}

#[derive(Debug, Default)]
struct Counts {
    records: Vec<u32>,
    summed: BTreeMap<String, ApiCell>,
}

impl BoxMeter {
    pub(crate) fn new(
        target: TargetId,
        box_id: String,
        run_spec: RunSpecDigest,
        folder: PathBuf,
        labels: Arc<Labels>,
    ) -> BoxMeter {
        let log_seen = std::fs::metadata(folder.join(crate::collect::LOG_NAME)).map_or(0, |m| m.len());
        BoxMeter {
            target,
            box_id,
            run_spec,
            configuration: Mutex::default(),
            folder,
            log_seen,
            labels,
            counts: Mutex::default(),
            healthy: AtomicBool::new(false),
            session: AtomicU32::new(0),
            session_is_new: AtomicBool::new(false),
            closed: AtomicBool::new(false),
        }
    }

    /// Counts a request that has ended.
    pub(crate) fn record(&self, label: &Label, exists: bool, outcome: Outcome, latency_us: u64) {
        let number = self.labels.number(label, exists);
        let bits = match outcome {
            Outcome::Good => 0,
            Outcome::Fault => 1,
            Outcome::Error => 2,
        };
        let record = u32::from(Sketch::bucket(latency_us)) | u32::from(number) << 16 | bits << 24;
        let mut counts = lock(&self.counts);
        counts.records.push(record);
        if counts.records.len() >= RECORDS_MAX {
            let records = std::mem::take(&mut counts.records);
            self.sum_up(&records, &mut counts.summed);
        }
    }

    /// Adds what another process counted for this box.
    pub(crate) fn add(&self, apis: BTreeMap<String, ApiCell>) {
        let mut counts = lock(&self.counts);
        for (name, cell) in apis {
            counts.summed.entry(name).or_default().merge(&cell);
        }
    }

    /// What was counted since the last call.
    pub(crate) fn take(&self) -> BTreeMap<String, ApiCell> {
        let Counts { records, mut summed } = std::mem::take(&mut *lock(&self.counts));
        self.sum_up(&records, &mut summed);
        summed
    }

    fn sum_up(&self, records: &[u32], into: &mut BTreeMap<String, ApiCell>) {
        let mut cells: BTreeMap<u8, ApiCell> = BTreeMap::new();
        for record in records {
            let [low, high, number, bits] = record.to_le_bytes();
            let cell = cells.entry(number).or_default();
            cell.requests += 1;
            cell.faults += u64::from(bits == 1);
            cell.errors += u64::from(bits == 2);
            cell.latency.add(u16::from_le_bytes([low, high]), 1);
        }
        for (number, cell) in cells {
            into.entry(self.labels.name(number)).or_default().merge(&cell);
        }
    }
}

/// A closed second.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Second {
    pub(crate) second: i64,
    pub(crate) cells: Vec<Cell>,
    pub(crate) unrouted: Vec<UnroutedCell>,
}

/// The closed seconds of the last while.
#[derive(Debug, Default)]
pub(crate) struct Retained {
    seconds: VecDeque<Second>,
    cells: usize,
    complete_until: i64,
}

impl Retained {
    /// The newest closed second.
    pub(crate) fn complete_until(&self) -> i64 {
        self.complete_until
    }

    /// Adds a second that is newer than all before it; an older one is dropped.
    pub(crate) fn push(&mut self, second: Second) {
        if second.second <= self.complete_until {
            return;
        }
        self.complete_until = second.second;
        self.cells += second.cells.len();
        self.seconds.push_back(second);
        while self.seconds.len() > RETAINED_SECONDS || self.cells > RETAINED_CELLS_MAX {
            let Some(oldest) = self.seconds.pop_front() else { break };
            self.cells -= oldest.cells.len();
        }
    }

    /// The seconds after that one, up to a page.
    pub(crate) fn page(&self, after_second: i64) -> MetricsPage {
        let mut page =
            MetricsPage { complete_until: after_second.min(self.complete_until), ..MetricsPage::default() };
        let first = self.seconds.partition_point(|s| s.second <= after_second);
        for second in self.seconds.iter().skip(first) {
            if page.cells.len() >= CELLS_PER_PAGE {
                return page;
            }
            page.cells.extend_from_slice(&second.cells);
            page.unrouted.extend_from_slice(&second.unrouted);
            page.complete_until = second.second;
        }
        page.complete_until = self.complete_until;
        page
    }

    /// Everything, for the next process.
    pub(crate) fn export(&self) -> Vec<Second> {
        self.seconds.iter().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(method: &str, path: &str) -> String {
        let mut buffer = [0_u8; 128];
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        label_text(&method, path, &mut buffer).unwrap_or(OTHER).to_owned()
    }

    #[test]
    fn labels_name_apis_and_not_things() {
        for (method, path, label) in [
            ("GET", "/", "GET /"),
            ("POST", "/orders", "POST /orders"),
            ("GET", "/orders/17", "GET /orders"),
            ("GET", "/orders/3f2a-77", "GET /orders"),
            ("GET", "/v1/orders/17/lines", "GET /v1/orders"),
            ("GET", "/orders/", "GET /orders"),
            ("BREW", "/pot", OTHER),
            ("GET", "*", OTHER),
        ] {
            assert_eq!(text(method, path), label, "{method} {path}");
        }
        assert_eq!(text("GET", &format!("/{}", "x".repeat(100))), OTHER);
    }

    #[test]
    fn labels_are_bounded_and_a_404_makes_none() {
        let labels = Arc::new(Labels::default());
        let meter = BoxMeter::new(
            "a/b/c/d/main".parse().unwrap(),
            "b1".into(),
            RunSpecDigest::new("0".repeat(64)).unwrap(),
            PathBuf::new(),
            Arc::clone(&labels),
        );
        let hit =
            |path: &str, exists| meter.record(&labels.of(&Method::GET, path), exists, Outcome::Good, 100);
        hit("/scan", false);
        (0..200).for_each(|n| hit(&format!("/api{n}"), true));
        let cells = meter.take();
        assert_eq!(cells.len(), LABELS_MAX);
        assert_eq!(cells.values().map(|c| c.requests).sum::<u64>(), 201);
        assert_eq!(cells[OTHER].requests, 201 - (LABELS_MAX as u64 - 1));
        assert!(meter.take().is_empty());
    }

    #[test]
    fn pages_are_whole_seconds_and_old_ones_go() {
        let mut retained = Retained::default();
        for second in 1..=(RETAINED_SECONDS as i64 + 10) {
            retained.push(Second { second, cells: Vec::new(), unrouted: Vec::new() });
        }
        assert_eq!(retained.seconds.len(), RETAINED_SECONDS);
        assert_eq!(retained.seconds[0].second, 11);
        assert_eq!(retained.page(0).complete_until, RETAINED_SECONDS as i64 + 10);
        retained.push(Second { second: 5, cells: Vec::new(), unrouted: Vec::new() });
        assert_eq!(retained.complete_until(), RETAINED_SECONDS as i64 + 10);
    }
}

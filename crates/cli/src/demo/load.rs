//! The customers of the demo: a load generator that calls every endpoint at a fixed rate over keep-alive connections.
//!
//! What must hold in it: **no request is ever sent twice**, so a failure counts as one. A connection that the server
//! closes between two requests, or announces to close, is replaced and is no failure: HTTP allows that to a server. After
//! [`LoadGenerator::stop`] every request sent is counted either as ok or under one kind of failure.
//!
//! A connection sends on a fixed timetable whatever the answers take; what it is too busy for is counted as skipped and
//! not caught up, so a slow server is not given less load in the figures than it had.

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Method, Request, Response, StatusCode, body::Incoming, header};
use hyper_util::rt::TokioIo;
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tidegate_core::metrics::Sketch;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};

/// From the start of a request, its connection included if it needs one, to the end of its answer.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// An answer with a longer body counts as broken.
const BODY_MAX_BYTES: usize = 1024 * 1024;
/// Seconds for which an endpoint's tallies are kept one by one: an hour, several times the story.
const SECONDS_KEPT: usize = 3600;
/// The newest failures of an endpoint that are kept in words.
const FAILURES_KEPT: usize = 20;
/// `{n}` in a path or a body runs from 1 to this.
const NUMBERS: u64 = 1000;

/// One kind of request.
#[derive(Debug, Clone)]
pub(crate) struct LoadRequest {
    /// Its method.
    pub(crate) method: Method,
    /// Path and query; `{n}` becomes a number from 1 to 1000 that changes with every request.
    pub(crate) path: String,
    /// The body, with `{n}` likewise; may be empty.
    pub(crate) body: String,
}

impl LoadRequest {
    /// A GET.
    pub(crate) fn get(path: &str) -> Self {
        Self { method: Method::GET, path: path.to_string(), body: String::new() }
    }

    /// A POST.
    pub(crate) fn post(path: &str, body: &str) -> Self {
        Self { method: Method::POST, path: path.to_string(), body: body.to_string() }
    }
}

/// An endpoint and what is asked of it.
#[derive(Debug, Clone)]
pub(crate) struct LoadTarget {
    /// The name in the counters, such as `frontend/production/eu-1`; unique.
    pub(crate) name: String,
    /// Where it listens.
    pub(crate) address: SocketAddr,
    /// Requests per second over all connections; at least 1.
    pub(crate) rate_per_second: u32,
    /// Keep-alive connections; at least 1.
    pub(crate) connections: u32,
    /// What is asked, in turn; a kind that stands twice is asked twice as often. At least one.
    pub(crate) requests: Vec<LoadRequest>,
}

/// Requests that got no good answer, by kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Failures {
    /// Status 5xx.
    pub(crate) server_error: u64,
    /// Any other status outside of 2xx.
    pub(crate) unexpected_status: u64,
    /// No connection could be made.
    pub(crate) connect: u64,
    /// The connection broke after the request had been sent in part or whole, or the answer was not HTTP.
    pub(crate) broken: u64,
    /// No whole answer within 5 s.
    pub(crate) timeout: u64,
}

impl Failures {
    /// All of them.
    pub(crate) fn total(&self) -> u64 {
        self.server_error + self.unexpected_status + self.connect + self.broken + self.timeout
    }

    fn count(&mut self, failure: &Failure) {
        let counter = match failure {
            Failure::Status(status) if status.is_server_error() => &mut self.server_error,
            Failure::Status(_) => &mut self.unexpected_status,
            Failure::Connect(_) => &mut self.connect,
            Failure::Broken(_) => &mut self.broken,
            Failure::Timeout => &mut self.timeout,
        };
        *counter += 1;
    }

    fn since(&self, earlier: &Self) -> Self {
        Self {
            server_error: self.server_error.saturating_sub(earlier.server_error),
            unexpected_status: self.unexpected_status.saturating_sub(earlier.unexpected_status),
            connect: self.connect.saturating_sub(earlier.connect),
            broken: self.broken.saturating_sub(earlier.broken),
            timeout: self.timeout.saturating_sub(earlier.timeout),
        }
    }
}

/// What became of some requests. A request belongs to the second in which it was sent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Requests that were begun.
    pub(crate) sent: u64,
    /// Of those, answered with 2xx.
    pub(crate) ok: u64,
    /// Of those, the rest, but for those in flight.
    pub(crate) failed: Failures,
    /// Requests of the timetable for which the connection was too busy.
    pub(crate) skipped: u64,
    /// Samples by bucket of a [`Sketch`], whose own map gives nothing back for [`Self::since`].
    latency: BTreeMap<u16, u64>,
}

impl Tally {
    #[cfg(test)]
    /// Time from the request's begin to its answer's end in microseconds, of all requests that were answered.
    pub(crate) fn latency(&self) -> Sketch {
        let mut sketch = Sketch::default();
        self.latency.iter().for_each(|(bucket, count)| sketch.add(*bucket, *count));
        sketch
    }

    /// What was added after an earlier state of the same tally.
    pub(crate) fn since(&self, earlier: &Self) -> Self {
        let before = |bucket: u16| earlier.latency.get(&bucket).copied().unwrap_or(0);
        let later = |(bucket, count): (&u16, &u64)| (*bucket, count.saturating_sub(before(*bucket)));
        Self {
            sent: self.sent.saturating_sub(earlier.sent),
            ok: self.ok.saturating_sub(earlier.ok),
            failed: self.failed.since(&earlier.failed),
            skipped: self.skipped.saturating_sub(earlier.skipped),
            latency: self.latency.iter().map(later).filter(|(_, count)| *count > 0).collect(),
        }
    }

    fn add(&mut self, other: &Self) {
        self.sent += other.sent;
        self.ok += other.ok;
        self.failed.server_error += other.failed.server_error;
        self.failed.unexpected_status += other.failed.unexpected_status;
        self.failed.connect += other.failed.connect;
        self.failed.broken += other.failed.broken;
        self.failed.timeout += other.failed.timeout;
        self.skipped += other.skipped;
        other.latency.iter().for_each(|(bucket, count)| *self.latency.entry(*bucket).or_insert(0) += count);
    }
}

/// The tallies of all endpoints since each was armed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Counters {
    /// By the endpoint's name.
    pub(crate) targets: BTreeMap<String, Tally>,
}

impl Counters {
    /// What was added after an earlier snapshot.
    pub(crate) fn since(&self, earlier: &Self) -> Self {
        let nothing = Tally::default();
        let later = |(name, tally): (&String, &Tally)| {
            (name.clone(), tally.since(earlier.targets.get(name).unwrap_or(&nothing)))
        };
        Self { targets: self.targets.iter().map(later).collect() }
    }

    /// The sum over the endpoints whose name is accepted.
    pub(crate) fn sum(&self, accept: impl Fn(&str) -> bool) -> Tally {
        self.targets.iter().filter(|(name, _)| accept(name)).fold(Tally::default(), |mut sum, (_, tally)| {
            sum.add(tally);
            sum
        })
    }
}

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("status {0}")]
    Status(StatusCode),
    #[error("failed to connect: {0}")]
    Connect(std::io::Error),
    #[error("the connection broke: {0}")]
    Broken(String),
    #[error("no answer in time")]
    Timeout,
}

/// The load generator. Dropping it breaks off the requests in flight; [`Self::stop`] waits for them.
pub(crate) struct LoadGenerator {
    endpoints: BTreeMap<String, Arc<Endpoint>>,
    stop: watch::Sender<bool>,
    connections: JoinSet<()>,
}

impl LoadGenerator {
    /// Begins to call all endpoints. Nothing is counted before an endpoint is armed.
    pub(crate) fn start(targets: Vec<LoadTarget>) -> Self {
        Self::start_with(targets, REQUEST_TIMEOUT)
    }

    fn start_with(targets: Vec<LoadTarget>, request_timeout: Duration) -> Self {
        let stop = watch::Sender::new(false);
        let mut connections = JoinSet::new();
        let mut endpoints = BTreeMap::new();
        for target in targets {
            let (name, count) = (target.name.clone(), target.connections);
            let endpoint = Arc::new(Endpoint {
                target,
                request_timeout,
                armed: AtomicBool::new(false),
                served: watch::Sender::new(false),
                record: Mutex::default(),
            });
            for index in 0..count {
                connections.spawn(Caller::new(endpoint.clone(), index).run(stop.subscribe()));
            }
            endpoints.insert(name, endpoint);
        }
        Self { endpoints, stop, connections }
    }

    /// Counts this endpoint's requests from now on; those in flight are not counted. An unknown name does nothing.
    pub(crate) fn arm(&self, name: &str) {
        if let Some(endpoint) = self.endpoints.get(name) {
            endpoint.armed.store(true, Ordering::SeqCst);
        }
    }

    /// Waits until the endpoint has given its first good answer; `false` when it did not within the time given.
    pub(crate) async fn wait_served(&self, name: &str, within: Duration) -> bool {
        let Some(endpoint) = self.endpoints.get(name) else { return false };
        let mut served = endpoint.served.subscribe();
        matches!(timeout(within, served.wait_for(|served| *served)).await, Ok(Ok(_)))
    }

    /// The counters as they are.
    pub(crate) fn snapshot(&self) -> Counters {
        let total =
            |(name, endpoint): (&String, &Arc<Endpoint>)| (name.clone(), endpoint.record().total.clone());
        Counters { targets: self.endpoints.iter().map(total).collect() }
    }

    #[cfg(test)]
    /// An endpoint's tallies by second (since 1970-01-01T00:00:00Z), for the newest hour.
    pub(crate) fn seconds(&self, name: &str) -> BTreeMap<i64, Tally> {
        self.endpoints.get(name).map(|endpoint| endpoint.record().seconds.clone()).unwrap_or_default()
    }

    /// The newest failures in words, such as `frontend/beta/eu-1: POST /orders: status 502 Bad Gateway`.
    pub(crate) fn failures(&self) -> Vec<String> {
        let of = |(name, endpoint): (&String, &Arc<Endpoint>)| {
            endpoint.record().failures.iter().map(|text| format!("{name}: {text}")).collect::<Vec<_>>()
        };
        self.endpoints.iter().flat_map(of).collect()
    }

    /// Sends no further request, waits for those in flight (at most 5 s), and returns the final counters.
    pub(crate) async fn stop(mut self) -> Counters {
        self.stop.send_replace(true);
        while self.connections.join_next().await.is_some() {}
        self.snapshot()
    }
}

struct Endpoint {
    target: LoadTarget,
    request_timeout: Duration,
    armed: AtomicBool,
    served: watch::Sender<bool>,
    record: Mutex<Record>,
}

#[derive(Default)]
struct Record {
    total: Tally,
    seconds: BTreeMap<i64, Tally>,
    failures: VecDeque<String>,
}

impl Record {
    /// Applies a change to the total and to its second.
    fn add(&mut self, second: i64, change: impl Fn(&mut Tally)) {
        change(&mut self.total);
        change(self.seconds.entry(second).or_default());
        if self.seconds.len() > SECONDS_KEPT {
            self.seconds.pop_first();
        }
    }
}

impl Endpoint {
    /// Counters are all that changes under the lock, so what a panicking thread left behind is usable.
    fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn finished(&self, second: i64, name: &str, result: Result<(), Failure>, micros: u64) {
        let mut record = self.record();
        let answered = matches!(result, Ok(()) | Err(Failure::Status(_)));
        record.add(second, |tally| {
            match &result {
                Ok(()) => tally.ok += 1,
                Err(failure) => tally.failed.count(failure),
            }
            if answered {
                *tally.latency.entry(Sketch::bucket(micros)).or_insert(0) += 1;
            }
        });
        if let Err(failure) = result {
            record.failures.push_back(format!("{name}: {failure}"));
            if record.failures.len() > FAILURES_KEPT {
                record.failures.pop_front();
            }
        }
    }
}

/// One keep-alive connection and its timetable.
struct Caller {
    endpoint: Arc<Endpoint>,
    index: u32,
    connection: Option<SendRequest<Full<Bytes>>>,
}

impl Caller {
    fn new(endpoint: Arc<Endpoint>, index: u32) -> Self {
        Self { endpoint, index, connection: None }
    }

    async fn run(mut self, mut stop: watch::Receiver<bool>) {
        let LoadTarget { rate_per_second, connections, .. } = self.endpoint.target;
        let period = Duration::from_secs(1) * connections / rate_per_second.max(1);
        // The connections' timetables are shifted against each other, so that requests are evenly spread.
        let mut timetable = interval_at(Instant::now() + period * self.index / connections, period);
        timetable.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut before: Option<Instant> = None;
        for number in (u64::from(self.index)..).step_by(connections as usize) {
            let due = tokio::select! {
                biased;
                _ = stop.changed() => return,
                due = timetable.tick() => due,
            };
            let passed =
                before.map_or(1.0, |before| ((due - before).as_secs_f64() / period.as_secs_f64()).round());
            before = Some(due);
            self.request(number, passed as u64 - 1).await;
        }
    }

    /// Sends one request and counts what became of it.
    async fn request(&mut self, number: u64, skipped: u64) {
        let endpoint = self.endpoint.clone();
        let kinds = &endpoint.target.requests;
        let kind = &kinds[usize::try_from(number).unwrap_or(0) % kinds.len()];
        let n = (number % NUMBERS + 1).to_string();
        let request = Request::builder()
            .method(kind.method.clone())
            .uri(kind.path.replace("{n}", &n))
            .header(header::HOST, endpoint.target.address.to_string())
            .body(Full::from(kind.body.replace("{n}", &n)))
            .expect("the demo's own paths are valid");
        let armed = endpoint.armed.load(Ordering::SeqCst);
        let second = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs() as i64);
        let begun = Instant::now();
        if armed {
            endpoint.record().add(second, |tally| {
                tally.sent += 1;
                tally.skipped += skipped;
            });
        }
        // Whoever broke off or failed leaves no connection behind: `exchange` puts it back only when all went well.
        let result = timeout(endpoint.request_timeout, self.exchange(request)).await;
        let result = match result {
            Err(_elapsed) => Err(Failure::Timeout),
            Ok(Ok(status)) if status.is_success() => Ok(()),
            Ok(Ok(status)) => Err(Failure::Status(status)),
            Ok(Err(failure)) => Err(failure),
        };
        if result.is_ok() {
            endpoint.served.send_if_modified(|served| !std::mem::replace(served, true));
        }
        if armed {
            let micros = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
            endpoint.finished(second, &format!("{} {}", kind.method, kind.path), result, micros);
        }
    }

    async fn exchange(&mut self, request: Request<Full<Bytes>>) -> Result<StatusCode, Failure> {
        let (mut connection, response) = self.send(request).await?;
        let status = response.status();
        Limited::new(response.into_body(), BODY_MAX_BYTES)
            .collect()
            .await
            .map_err(|error| Failure::Broken(error.to_string()))?;
        // An error here is a connection that the server closes after the answer, as it may.
        if connection.ready().await.is_ok() {
            self.connection = Some(connection);
        }
        Ok(status)
    }

    async fn send(
        &mut self,
        request: Request<Full<Bytes>>,
    ) -> Result<(SendRequest<Full<Bytes>>, Response<Incoming>), Failure> {
        let broken = |error: hyper::Error| Failure::Broken(error.to_string());
        let mut request = request;
        if let Some(mut connection) = self.connection.take() {
            match connection.try_send_request(request).await {
                Ok(response) => return Ok((connection, response)),
                // The connection was closed while it was idle: the request comes back only if no byte of it was sent.
                Err(mut error) => match error.take_message() {
                    Some(unsent) => request = unsent,
                    None => return Err(broken(error.into_error())),
                },
            }
        }
        let mut connection = self.connect().await?;
        let response = connection.send_request(request).await.map_err(broken)?;
        Ok((connection, response))
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>, Failure> {
        let stream = TcpStream::connect(self.endpoint.target.address).await.map_err(Failure::Connect)?;
        stream.set_nodelay(true).map_err(Failure::Connect)?;
        let (sender, connection) =
            handshake(TokioIo::new(stream)).await.map_err(|error| Failure::Broken(error.to_string()))?;
        // It ends with its sender; what breaks it is told to the request in flight.
        tokio::spawn(connection);
        Ok(sender)
    }
}

#[cfg(test)]
#[path = "load_tests.rs"]
mod tests;

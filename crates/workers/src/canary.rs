//! Canary tests: requests that are made to every endpoint without end, so that a broken service is seen also when no
//! customer calls. What must hold: a canary runs at its own pace whatever another one's endpoint does; a run that gets
//! no answer is a failure, never silence; results and runs under way are bounded.

use reqwest::Method;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tidegate_core::definition::CanarySpec;
use tidegate_core::ids::{EnvironmentId, RegionId, ServiceId};
use tidegate_core::units::Span;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

/// How long results are kept, in seconds.
pub const KEPT_SECONDS: i64 = 15 * 60;
/// At most so many cells are kept; the oldest go first.
pub const CELLS_MAX: usize = 200_000;
/// Runs that are under way at a time, over all endpoints. A canary whose turn comes later runs later.
pub const CONCURRENT_MAX: usize = 128;
/// A canary is not run more often than this, whatever its definition says.
pub const EVERY_MIN: Span = Span(100);
/// So much of an answer's body is searched; a longer body is read no further.
const BODY_MAX_BYTES: usize = 64 * 1024;
/// The longest `last_failure`, in characters.
const FAILURE_MAX: usize = 200;

/// What canaries call: a service in an environment and Region.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct CanaryKey {
    /// The service that is called.
    pub service: ServiceId,
    /// In this environment.
    pub environment: EnvironmentId,
    /// In this Region.
    pub region: RegionId,
}

/// The canaries of one endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CanaryTarget {
    /// Where it is, such as `http://127.0.0.1:8080`, without a '/' at its end.
    pub endpoint: String,
    /// What is run against it.
    pub canaries: Vec<CanarySpec>,
}

/// The runs against one endpoint that ended in one second. A second in which none ended has no cell.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CanaryCell {
    /// Seconds since 1970-01-01T00:00:00Z.
    pub second: i64,
    /// As in [`CanaryKey`].
    pub service: ServiceId,
    /// As in [`CanaryKey`].
    pub environment: EnvironmentId,
    /// As in [`CanaryKey`].
    pub region: RegionId,
    /// How many runs ended.
    pub runs: u32,
    /// How many of them failed.
    pub failures: u32,
    /// The canary's name and what was seen, of the last that failed.
    pub last_failure: Option<String>,
}

/// The client could not be made.
#[derive(Debug, thiserror::Error)]
#[error("cannot make the HTTP client for canaries")]
pub struct CanaryError(#[from] reqwest::Error);

/// Runs canaries until it is dropped.
#[derive(Debug)]
pub struct Canaries {
    running: Mutex<BTreeMap<CanaryKey, Running>>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Running {
    target: CanaryTarget,
    /// Aborts the loop when dropped.
    _task: JoinSet<()>,
}

#[derive(Debug)]
struct Shared {
    turns: Semaphore,
    cells: Mutex<BTreeMap<(i64, CanaryKey), Counts>>,
}

#[derive(Debug, Default)]
struct Counts {
    runs: u32,
    failures: u32,
    last_failure: Option<String>,
}

impl Default for Canaries {
    fn default() -> Canaries {
        Canaries::new()
    }
}

impl Canaries {
    /// No canary runs yet.
    #[must_use]
    pub fn new() -> Canaries {
        let shared = Shared { turns: Semaphore::new(CONCURRENT_MAX), cells: Mutex::default() };
        Canaries { running: Mutex::default(), shared: Arc::new(shared) }
    }

    /// From now on runs exactly these; what is the same as before goes on undisturbed. Must be called within a tokio
    /// runtime.
    ///
    /// # Errors
    /// When the system lacks what an HTTP client needs; then the new ones do not run.
    pub fn set(&self, targets: BTreeMap<CanaryKey, CanaryTarget>) -> Result<(), CanaryError> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.retain(|key, old| targets.get(key) == Some(&old.target));
        for (key, target) in targets {
            if running.contains_key(&key) {
                continue;
            }
            // A client of its own has connections of its own.
            let client = crate::https::client()
                .redirect(reqwest::redirect::Policy::none())
                .pool_max_idle_per_host(1)
                .build()?;
            let mut task = JoinSet::new();
            task.spawn(run_all(client, key.clone(), target.clone(), Arc::clone(&self.shared)));
            running.insert(key, Running { target, _task: task });
        }
        Ok(())
    }

    /// The cells of the seconds after this one that are over, ordered by second.
    #[must_use]
    pub fn cells_after(&self, second: i64) -> Vec<CanaryCell> {
        let now = now_second();
        let cells = self.shared.cells();
        let ended = cells.iter().filter(|((at, _), _)| *at > second && *at < now);
        ended
            .map(|((second, key), counts)| CanaryCell {
                second: *second,
                service: key.service.clone(),
                environment: key.environment.clone(),
                region: key.region.clone(),
                runs: counts.runs,
                failures: counts.failures,
                last_failure: counts.last_failure.clone(),
            })
            .collect()
    }
}

impl Shared {
    fn cells(&self) -> MutexGuard<'_, BTreeMap<(i64, CanaryKey), Counts>> {
        self.cells.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn record(&self, key: &CanaryKey, failure: Option<String>) {
        let second = now_second();
        let mut cells = self.cells();
        let counts = cells.entry((second, key.clone())).or_default();
        counts.runs += 1;
        if let Some(why) = failure {
            counts.failures += 1;
            counts.last_failure = Some(why.chars().take(FAILURE_MAX).collect());
        }
        while cells.len() > CELLS_MAX
            || cells.first_key_value().is_some_and(|((at, _), _)| *at < second - KEPT_SECONDS)
        {
            cells.pop_first();
        }
    }
}

/// Starts each canary of an endpoint when it is due. One that is still under way is not started a second time.
async fn run_all(client: reqwest::Client, key: CanaryKey, target: CanaryTarget, shared: Arc<Shared>) {
    let start = Instant::now();
    if target.canaries.is_empty() {
        return;
    }
    let mut due: Vec<Option<Instant>> =
        target.canaries.iter().map(|canary| Some(start + offset(&key, canary))).collect();
    let target = Arc::new(target);
    let mut under_way: JoinSet<(usize, Instant)> = JoinSet::new();
    loop {
        let next = due.iter().enumerate().filter_map(|(i, at)| Some(((*at)?, i))).min();
        let timer = async {
            match next {
                Some((at, i)) => {
                    sleep_until(at).await;
                    (at, i)
                }
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            (at, i) = timer => {
                due[i] = None;
                let (client, key, target, shared) =
                    (client.clone(), key.clone(), Arc::clone(&target), Arc::clone(&shared));
                under_way.spawn(async move {
                    run_one(&client, &key, &target.endpoint, &target.canaries[i], &shared).await;
                    (i, at)
                });
            }
            Some(ended) = under_way.join_next() => {
                let Ok((i, started)) = ended else { continue };
                due[i] = Some(following(started, every(&target.canaries[i]), Instant::now()));
            }
        }
    }
}

async fn run_one(
    client: &reqwest::Client,
    key: &CanaryKey,
    endpoint: &str,
    canary: &CanarySpec,
    shared: &Shared,
) {
    // Nobody closes the semaphore.
    let Ok(_turn) = shared.turns.acquire().await else { return };
    let timeout = Duration::from(canary.timeout);
    let failure = match tokio::time::timeout(timeout, call(client, endpoint, canary)).await {
        Ok(Ok(())) => None,
        Ok(Err(why)) => Some(format!("{}: {why}", canary.name)),
        Err(_) => Some(format!("{}: no answer within {}", canary.name, canary.timeout)),
    };
    shared.record(key, failure);
}

async fn call(client: &reqwest::Client, endpoint: &str, canary: &CanarySpec) -> Result<(), String> {
    let method = Method::from_bytes(canary.method.as_bytes()).map_err(|e| e.to_string())?;
    let mut request = client.request(method, format!("{endpoint}{}", canary.path));
    if let Some(body) = &canary.body {
        request = request.body(body.clone());
    }
    let mut answer = request.send().await.map_err(|e| innermost(&e))?;
    let status = answer.status().as_u16();
    // The body is read also when nothing is expected of it: only then the connection can be used again.
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(|e| innermost(&e))? {
        body.extend_from_slice(&chunk);
        if body.len() >= BODY_MAX_BYTES {
            body.truncate(BODY_MAX_BYTES);
            break;
        }
    }
    if status != canary.expect_status {
        return Err(format!("answered {status} instead of {}", canary.expect_status));
    }
    match &canary.expect_body_contains {
        Some(text) if !contains(&body, text.as_bytes()) => {
            Err(format!("its answer does not contain '{text}'"))
        }
        _ => Ok(()),
    }
}

fn contains(body: &[u8], text: &[u8]) -> bool {
    text.is_empty() || body.windows(text.len()).any(|part| part == text)
}

fn innermost(error: &reqwest::Error) -> String {
    let mut innermost: &dyn std::error::Error = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

fn every(canary: &CanarySpec) -> Duration {
    canary.every.max(EVERY_MIN).into()
}

/// Where in its period a canary runs: the same each time and different for each, so that not all run at once.
fn offset(key: &CanaryKey, canary: &CanarySpec) -> Duration {
    let name = format!("{}/{}/{}/{}", key.service, key.environment, key.region, canary.name);
    let hash = Sha256::digest(name);
    let number = hash.iter().take(8).fold(0_u64, |n, byte| n << 8 | u64::from(*byte));
    Duration::from_millis(number % canary.every.max(EVERY_MIN).millis())
}

/// The first point of the row `started`, `started + every`, ... that is not over; those that were missed are left out.
fn following(started: Instant, every: Duration, now: Instant) -> Instant {
    let missed = now.saturating_duration_since(started).as_nanos() / every.as_nanos().max(1);
    let steps = u32::try_from(missed + 1).unwrap_or(u32::MAX);
    started + every.saturating_mul(steps)
}

fn now_second() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_late_run_keeps_the_rhythm_and_skips_what_was_missed() {
        let (start, every) = (Instant::now(), Duration::from_secs(10));
        let at = |s| start + Duration::from_secs(s);
        assert_eq!(following(start, every, at(1)), at(10));
        assert_eq!(following(start, every, at(35)), at(40));
        assert_eq!(following(start, every, at(40)), at(50));
    }

    #[test]
    fn canaries_are_spread_over_their_period() {
        let canary = |name: &str| CanarySpec {
            name: name.to_owned(),
            method: "GET".to_owned(),
            path: "/".to_owned(),
            body: None,
            expect_status: 200,
            expect_body_contains: None,
            every: Span::seconds(8),
            timeout: Span::seconds(1),
        };
        let mut eighths = [0; 8];
        for region in 0..160 {
            let key = CanaryKey {
                service: "frontend".parse().unwrap(),
                environment: "production".parse().unwrap(),
                region: format!("r-{region}").parse().unwrap(),
            };
            let offset = offset(&key, &canary("front-page"));
            assert!(offset < Duration::from_secs(8));
            eighths[usize::try_from(offset.as_secs()).unwrap()] += 1;
        }
        assert!(eighths.iter().all(|n| (8..=36).contains(n)), "{eighths:?}");
    }
}

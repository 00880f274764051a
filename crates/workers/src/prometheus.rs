//! Asks a Prometheus for one number at one point in time. What must hold: an answer is exactly one finite number about the
//! time that was asked for, or a reason why there is none; a server that is slow, lies or is gone costs bounded time, memory
//! and connections, and never becomes a number.

use reqwest::Url;
use serde::Deserialize;
use serde::de::IgnoredAny;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tidegate_core::units::Timestamp;
use tokio::sync::Semaphore;

/// The longest body that is read, in bytes: one number has some two hundred.
pub const BODY_MAX_BYTES: usize = 256 * 1024;
/// Queries that are under way at a time.
pub const CONCURRENT_MAX: usize = 8;
/// Queries that are under way or wait; one more is refused at once.
pub const WAITING_MAX: usize = 2_000;
/// The longest reason that is passed on, in characters.
const REASON_MAX: usize = 200;
/// An answer about another time than the one that was asked for, by more than so many seconds, is none.
const OFF_MAX_S: f64 = 1.0;

/// A server that is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// Before `/api/v1/query`.
    pub url: String,
    /// Sent as the bearer token.
    pub token: Option<String>,
}

/// The client could not be made.
#[derive(Debug, thiserror::Error)]
#[error("cannot make the HTTP client for Prometheus")]
pub struct PrometheusError(#[from] reqwest::Error);

/// What was asked for, and the number or why there is none.
pub type Told<K> = (K, Result<f64, String>);

/// Asks in the background, and keeps what was answered until it is taken. `K` says what an answer is for.
#[derive(Debug)]
pub struct Prometheus<K> {
    client: reqwest::Client,
    limit: Duration,
    places: Arc<Semaphore>,
    turns: Arc<Semaphore>,
    answers: Arc<Mutex<Vec<Told<K>>>>,
}

impl<K: Send + 'static> Prometheus<K> {
    /// Each question is answered within `limit`, the wait for its turn included.
    ///
    /// # Errors
    /// When the system lacks what an HTTP client needs.
    pub fn new(limit: Duration) -> Result<Prometheus<K>, PrometheusError> {
        let client = crate::https::client().redirect(reqwest::redirect::Policy::none()).build()?;
        Ok(Prometheus {
            client,
            limit,
            places: Arc::new(Semaphore::new(WAITING_MAX)),
            turns: Arc::new(Semaphore::new(CONCURRENT_MAX)),
            answers: Arc::default(),
        })
    }

    /// Asks for the query's value at a time. Must be called within a tokio runtime; the answer is among those of
    /// [`Prometheus::answers`] later on.
    pub fn ask(&self, key: K, server: Server, query: String, at: Timestamp) {
        let answers = Arc::clone(&self.answers);
        let keep = move |answer| {
            answers.lock().unwrap_or_else(PoisonError::into_inner).push((key, answer));
        };
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
            return keep(Err(format!("{WAITING_MAX} queries are waiting already")));
        };
        let (client, turns, limit) = (self.client.clone(), Arc::clone(&self.turns), self.limit);
        let asked = Instant::now();
        tokio::spawn(async move {
            let work = async {
                // Nobody closes the semaphore.
                let _turn = turns.acquire().await;
                if asked.elapsed() >= limit {
                    // Whoever had the turn before has used up the time of all.
                    return std::future::pending().await;
                }
                query_once(&client, &server, &query, at).await
            };
            let answer = tokio::time::timeout(limit, work).await;
            drop(place);
            keep(answer.unwrap_or_else(|_| Err(format!("no answer within {} ms", limit.as_millis()))));
        });
    }

    /// What was answered since the last call.
    #[must_use]
    pub fn answers(&self) -> Vec<Told<K>> {
        std::mem::take(&mut self.answers.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Asks once; why there is no number, without the server's address, which may hold a secret.
async fn query_once(
    client: &reqwest::Client,
    server: &Server,
    query: &str,
    at: Timestamp,
) -> Result<f64, String> {
    let text = format!("{}/api/v1/query", server.url.trim_end_matches('/'));
    let mut url = Url::parse(&text).map_err(|_| "its address is not usable".to_owned())?;
    let seconds = format!("{}.{:03}", at.0.div_euclid(1_000), at.0.rem_euclid(1_000));
    url.query_pairs_mut().append_pair("query", query).append_pair("time", &seconds);
    let mut request = client.get(url).header(reqwest::header::ACCEPT, "application/json");
    if let Some(token) = &server.token {
        request = request.bearer_auth(token);
    }
    let mut answer = request.send().await.map_err(|error| innermost(&error))?;
    let status = answer.status();
    let mut body = Vec::new();
    while let Some(piece) = answer.chunk().await.map_err(|error| innermost(&error))? {
        if body.len() + piece.len() > BODY_MAX_BYTES {
            return Err(format!("its answer has more than {BODY_MAX_BYTES} bytes"));
        }
        body.extend_from_slice(&piece);
    }
    match serde_json::from_slice::<Answer>(&body) {
        Ok(Answer { data: Some(data), status, .. }) if status == "success" => number(&data, at),
        Ok(Answer { error: Some(error), .. }) => Err(format!("it refused the query: {}", short(&error))),
        _ => Err(format!("it answered {status} and nothing that a Prometheus says")),
    }
}

/// The API's envelope, as far as it matters.
#[derive(Debug, Deserialize)]
struct Answer {
    status: String,
    data: Option<Data>,
    error: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(tag = "resultType", content = "result", rename_all = "lowercase")]
enum Data {
    Vector(Vec<Series>),
    Scalar((f64, String)),
    Matrix(IgnoredAny),
    String(IgnoredAny),
}

/// Its labels are nobody's business here: what they say, twice or not at all, changes no number.
#[derive(Debug, Deserialize)]
struct Series {
    value: Option<(f64, String)>,
}

fn number(data: &Data, asked: Timestamp) -> Result<f64, String> {
    let (at, text) = match data {
        Data::Scalar(sample) => sample,
        Data::Vector(series) => match &series[..] {
            [Series { value: Some(sample) }] => sample,
            [] => return Err("it answered nothing".to_owned()),
            [_] => return Err("it answered a histogram, and one number is expected".to_owned()),
            more => return Err(format!("it answered {} series, and one is expected", more.len())),
        },
        Data::Matrix(_) | Data::String(_) => {
            return Err("it answered no instant vector and no scalar".to_owned());
        }
    };
    if (at - asked.0 as f64 / 1_000.0).abs() > OFF_MAX_S {
        return Err("it answered about another time than it was asked for".to_owned());
    }
    match text.parse::<f64>() {
        Ok(number) if number.is_finite() => Ok(number),
        _ => Err(format!("it answered {}, which is no finite number", short(text))),
    }
}

/// One line of bounded length.
fn short(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(REASON_MAX).collect()
}

/// The innermost cause; the outer ones repeat the address.
fn innermost(error: &reqwest::Error) -> String {
    let mut why: &dyn std::error::Error = error;
    if why.source().is_none() {
        return "the request failed".to_owned();
    }
    while let Some(inner) = why.source() {
        why = inner;
    }
    short(&why.to_string())
}

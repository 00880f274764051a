//! The HTTP client for forges: lists of several pages, conditional requests, and what a forge says when it has enough.

use reqwest::header::{ACCEPT, ETAG, HeaderMap, IF_NONE_MATCH, LINK, RETRY_AFTER, USER_AGENT};
use reqwest::{StatusCode, Url};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How long one request may take.
const REQUEST_MAX: Duration = Duration::from_secs(20);
/// The longest page that is read, in bytes: a hundred entries of GitHub have some 2 MiB.
const PAGE_MAX_BYTES: usize = 8 << 20;
/// How many pages are remembered with their ETags, and how many bytes of them; the longest unused go first.
const KEPT_MAX: usize = 2_000;
/// As [`KEPT_MAX`]: 32 MiB.
const KEPT_MAX_BYTES: usize = 32 << 20;
/// How long a forge that has enough is left alone if it does not say.
const LIMITED_FOR: Duration = Duration::from_secs(60);
/// And at most, whatever it says.
const LIMITED_MAX: Duration = Duration::from_secs(3_600);
/// The longest text of a forge that is passed on, in characters.
const SAID_MAX_CHARS: usize = 200;

/// A forge's API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// Before every path.
    pub api: String,
    /// Sent as the bearer token.
    pub token: Option<String>,
}

/// The client could not be made.
#[derive(Debug, thiserror::Error)]
#[error("cannot make the HTTP client for forges")]
pub struct ClientError(#[from] reqwest::Error);

/// Why a forge says nothing. The messages are free of secrets.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say what the fields are")]
pub enum ForgeError {
    #[error("it does not answer: {why}")]
    Silent { why: String },
    #[error("it refuses the token ({status}): {said}")]
    Refused { status: u16, said: String },
    #[error("it has no such repository, or does not show it with this token ({status})")]
    Unknown { status: u16 },
    #[error("it does not know what it was asked about ({status}): {said}")]
    Unprocessable { status: u16, said: String },
    #[error("it takes no more requests for {} s", wait.as_secs().max(1))]
    Limited { wait: Duration },
    #[error("it answered {status} and not what its API says: {said}")]
    Strange { status: u16, said: String },
    #[error("its answer cannot be read: {why}")]
    Unreadable { why: String },
    #[error("its answer has more than {pages} pages or {PAGE_MAX_BYTES} bytes")]
    TooLong { pages: usize },
}

/// How requests have ended.
#[derive(Debug, Default)]
pub struct Counted {
    /// With an answer.
    pub answered: AtomicU64,
    /// With the word that the last answer is still so.
    pub unchanged: AtomicU64,
    /// Otherwise.
    pub failed: AtomicU64,
}

/// A page that is remembered.
#[derive(Clone)]
struct Kept {
    etag: String,
    body: Vec<u8>,
    next: Option<String>,
    used: u64,
}

#[derive(Default)]
struct Memory {
    pages: BTreeMap<(String, String), Kept>,
    bytes: usize,
    uses: u64,
}

/// Asks forges. It knows tokens, and is shown to nobody.
pub struct Client {
    http: reqwest::Client,
    memory: Mutex<Memory>,
    /// By API and token: until when nothing is asked there.
    limited: Mutex<BTreeMap<(String, String), Instant>>,
    counted: Counted,
}

impl Client {
    /// Nothing is asked yet.
    ///
    /// # Errors
    /// When the system lacks what an HTTP client needs.
    pub fn new() -> Result<Client, ClientError> {
        let http = crate::https::client()
            // A token goes nowhere but to the address in the definition.
            .redirect(reqwest::redirect::Policy::none())
            .timeout(REQUEST_MAX)
            .build()?;
        Ok(Client { http, memory: Mutex::default(), limited: Mutex::default(), counted: Counted::default() })
    }

    /// How requests have ended so far.
    #[must_use]
    pub fn counted(&self) -> &Counted {
        &self.counted
    }

    /// All pages of a list, and how many requests were made for it.
    pub async fn pages(
        &self,
        server: &Server,
        path: &str,
        pages_max: usize,
    ) -> (Result<Vec<Vec<u8>>, ForgeError>, usize) {
        let (mut pages, mut requests) = (Vec::new(), 0);
        let mut next = Some(format!("{}{path}", server.api.trim_end_matches('/')));
        while let Some(url) = next.take() {
            if pages.len() == pages_max {
                return (Err(ForgeError::TooLong { pages: pages_max }), requests);
            }
            if let Some(wait) = self.limited(server) {
                return (Err(ForgeError::Limited { wait }), requests);
            }
            requests += 1;
            match self.page(server, &url).await {
                Ok((body, following)) => {
                    pages.push(body);
                    next = following;
                }
                Err(error) => {
                    self.counted.failed.fetch_add(1, Ordering::Relaxed);
                    if let ForgeError::Limited { wait } = error {
                        let mut limited = self.limited.lock().unwrap_or_else(PoisonError::into_inner);
                        limited.insert(key(server), Instant::now() + wait);
                    }
                    return (Err(error), requests);
                }
            }
        }
        (Ok(pages), requests)
    }

    fn limited(&self, server: &Server) -> Option<Duration> {
        let mut limited = self.limited.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        limited.retain(|_, until| *until > now);
        limited.get(&key(server)).map(|until| *until - now)
    }

    async fn page(&self, server: &Server, url: &str) -> Result<(Vec<u8>, Option<String>), ForgeError> {
        let parsed = Url::parse(url)
            .map_err(|_| ForgeError::Silent { why: "its address is not usable".to_owned() })?;
        let place = (url.to_owned(), server.token.clone().unwrap_or_default());
        let known = self.known(&place);
        let mut request = self.http.get(parsed).header(ACCEPT, "application/json");
        request = request.header(USER_AGENT, concat!("tidegate/", env!("CARGO_PKG_VERSION")));
        // Which GitHub asks for, and others do not mind.
        request = request.header("x-github-api-version", "2022-11-28");
        if let Some(token) = &server.token {
            request = request.bearer_auth(token);
        }
        if let Some(known) = &known {
            request = request.header(IF_NONE_MATCH, &known.etag);
        }
        let silent = |error: reqwest::Error| ForgeError::Silent { why: innermost(&error) };
        let mut answer = request.send().await.map_err(silent)?;
        let (status, headers) = (answer.status(), answer.headers().clone());
        let mut body = Vec::new();
        while let Some(piece) = answer.chunk().await.map_err(silent)? {
            if body.len() + piece.len() > PAGE_MAX_BYTES {
                return Err(ForgeError::TooLong { pages: 1 });
            }
            body.extend_from_slice(&piece);
        }
        match (status, known) {
            (StatusCode::NOT_MODIFIED, Some(known)) => {
                // The page is as it was, and there may be more of them by now.
                let next = if headers.contains_key(LINK) { next_of(&headers, server)? } else { known.next };
                self.counted.unchanged.fetch_add(1, Ordering::Relaxed);
                Ok((known.body, next))
            }
            (StatusCode::OK, _) => {
                let next = next_of(&headers, server)?;
                self.counted.answered.fetch_add(1, Ordering::Relaxed);
                let kept = text(&headers, ETAG.as_str()).filter(|_| next.is_some() || !is_full(url, &body));
                if let Some(etag) = kept {
                    let kept =
                        Kept { etag: etag.to_owned(), body: body.clone(), next: next.clone(), used: 0 };
                    self.keep(place, kept);
                }
                Ok((body, next))
            }
            (status, _) => Err(failure(status, &headers, &body)),
        }
    }

    fn known(&self, place: &(String, String)) -> Option<Kept> {
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        memory.uses += 1;
        let uses = memory.uses;
        let kept = memory.pages.get_mut(place)?;
        kept.used = uses;
        Some(kept.clone())
    }

    fn keep(&self, place: (String, String), kept: Kept) {
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        let memory = &mut *memory;
        memory.uses += 1;
        memory.bytes += kept.body.len();
        let kept = Kept { used: memory.uses, ..kept };
        if let Some(old) = memory.pages.insert(place, kept) {
            memory.bytes -= old.body.len();
        }
        while memory.pages.len() > KEPT_MAX || memory.bytes > KEPT_MAX_BYTES {
            let oldest =
                memory.pages.iter().min_by_key(|(_, kept)| kept.used).map(|(place, _)| place.clone());
            let Some(old) = oldest.and_then(|place| memory.pages.remove(&place)) else { break };
            memory.bytes -= old.body.len();
        }
    }
}

fn key(server: &Server) -> (String, String) {
    (server.api.clone(), server.token.clone().unwrap_or_default())
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// Whether a page has as many entries as were asked for: the next one may begin without this one changing, and a forge that says
/// only that this has not changed would hide it.
fn is_full(url: &str, body: &[u8]) -> bool {
    let asked = Url::parse(url).ok().and_then(|url| {
        let size = url.query_pairs().find(|(name, _)| matches!(&**name, "per_page" | "limit"))?;
        size.1.parse::<usize>().ok()
    });
    let entries = serde_json::from_slice::<Vec<serde::de::IgnoredAny>>(body).map_or(0, |all| all.len());
    asked.is_some_and(|asked| entries >= asked)
}

/// The address of the next page. One that leads elsewhere would get the token.
fn next_of(headers: &HeaderMap, server: &Server) -> Result<Option<String>, ForgeError> {
    let links = headers.get_all(LINK).iter().filter_map(|value| value.to_str().ok());
    let next = links.flat_map(|links| links.split(',')).find_map(|link| {
        let (address, relation) = link.trim().strip_prefix('<')?.split_once('>')?;
        relation.split(';').any(|r| matches!(r.trim(), "rel=\"next\"" | "rel=next")).then_some(address)
    });
    let Some(next) = next else { return Ok(None) };
    let origin = |text: &str| Url::parse(text).ok().map(|url| url.origin());
    if origin(next).is_none() || origin(next) != origin(&server.api) {
        let why = "its next page is at another address than its API".to_owned();
        return Err(ForgeError::Unreadable { why });
    }
    Ok(Some(next.to_owned()))
}

fn failure(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> ForgeError {
    let (code, said) = (status.as_u16(), said(body));
    let none_left = ["x-ratelimit-remaining", "ratelimit-remaining"];
    let spent = none_left.iter().any(|name| text(headers, name) == Some("0"));
    let asked_to_wait = headers.contains_key(RETRY_AFTER) || said.contains("rate limit");
    match code {
        429 => ForgeError::Limited { wait: wait(headers) },
        403 | 503 if spent || asked_to_wait => ForgeError::Limited { wait: wait(headers) },
        401 | 403 => ForgeError::Refused { status: code, said },
        404 => ForgeError::Unknown { status: code },
        422 => ForgeError::Unprocessable { status: code, said },
        _ => ForgeError::Strange { status: code, said },
    }
}

/// How long it wants to be left alone.
fn wait(headers: &HeaderMap) -> Duration {
    let number = |name: &str| text(headers, name).and_then(|text| text.trim().parse::<u64>().ok());
    let after = number("retry-after").map(Duration::from_secs);
    let reset = || {
        let at = number("x-ratelimit-reset").or_else(|| number("ratelimit-reset"))?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Some(Duration::from_secs(at).saturating_sub(now))
    };
    let wait = after.or_else(reset).unwrap_or(LIMITED_FOR);
    wait.clamp(Duration::from_secs(1), LIMITED_MAX)
}

/// The message of a forge's error, on one line of bounded length.
fn said(body: &[u8]) -> String {
    let parsed: Option<serde_json::Value> = serde_json::from_slice(body).ok();
    let message = parsed.as_ref().and_then(|value| {
        ["message", "error"].iter().find_map(|name| value.get(name)).map(|text| match text {
            serde_json::Value::String(text) => text.clone(),
            other => other.to_string(),
        })
    });
    let message = message.unwrap_or_else(|| "it does not say why".to_owned());
    message.chars().map(|c| if c.is_control() { ' ' } else { c }).take(SAID_MAX_CHARS).collect()
}

/// The innermost cause; the outer ones repeat the address.
fn innermost(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return format!("no answer within {} s", REQUEST_MAX.as_secs());
    }
    let mut why: &dyn std::error::Error = error;
    if why.source().is_none() {
        return "the request failed".to_owned();
    }
    while let Some(inner) = why.source() {
        why = inner;
    }
    why.to_string().chars().map(|c| if c.is_control() { ' ' } else { c }).take(SAID_MAX_CHARS).collect()
}

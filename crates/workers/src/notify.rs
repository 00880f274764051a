//! Pages people: an HTTP POST in the format of its destination, or a mail. It only performs; what must be paged, and that a
//! page which was given up is tried again, is kept by whoever calls.
//!
//! What must hold: a destination that does not answer holds up nothing but its own pages, and those for a bounded
//! time; every try of a page carries the same idempotency key, so that a receiver can tell a repetition; every format's limits
//! are kept by cutting, because half a page is better than none.

mod format;
mod mail;

pub use mail::Mailbox;

use reqwest::StatusCode;
use reqwest::header::{HeaderName, HeaderValue};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tidegate_core::decision::Page;
use tokio::sync::Semaphore;

/// Carries the key of a delivery; the page's own key, which is in the body, tells what it is about.
pub const KEY_HEADER: HeaderName = HeaderName::from_static("idempotency-key");
/// The longest body, in bytes; a longer page is refused.
pub const BODY_MAX_BYTES: usize = 64 * 1024;
/// Pages to one destination that are under way or wait; one more is refused at once.
pub const QUEUE_MAX: usize = 100;
/// Pages to one destination that are under way at a time.
pub const CONCURRENT_MAX: usize = 4;
/// Destinations that are remembered; those without pages under way are forgotten first.
const DESTINATIONS_MAX: usize = 1_000;

/// Where a page goes. It holds secrets: it is never shown.
#[derive(Clone)]
pub enum Address {
    /// A URL that gets a JSON POST of tidegate's own form.
    Webhook(String),
    /// PagerDuty's Events API v2.
    PagerDuty {
        /// Where events go.
        url: String,
        /// The integration's key.
        routing_key: String,
    },
    /// An incoming webhook of Slack.
    Slack(String),
    /// Before an Alertmanager's `/api/v2/alerts`.
    Alertmanager(String),
    /// A mailbox.
    Mail(Mailbox),
}

impl Address {
    /// PagerDuty's own address.
    pub const PAGERDUTY: &str = "https://events.pagerduty.com/v2/enqueue";

    /// What it is, without anything that could be secret.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Address::Webhook(_) => "webhook",
            Address::PagerDuty { .. } => "pagerduty",
            Address::Slack(_) => "slack",
            Address::Alertmanager(_) => "alertmanager",
            Address::Mail(_) => "email",
        }
    }

    /// Whose queue its pages stand in.
    fn queue(&self) -> String {
        match self {
            Address::Webhook(url) => url.clone(),
            Address::PagerDuty { url, routing_key } => format!("pagerduty {url} {routing_key}"),
            Address::Slack(url) => format!("slack {url}"),
            Address::Alertmanager(url) => format!("alertmanager {url}"),
            Address::Mail(mailbox) => format!("mail {} {}", mailbox.server, mailbox.to),
        }
    }
}

/// What became of a page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Delivery {
    /// The destination answered with a 2xx.
    Delivered,
    /// It was not delivered within the limits, or cannot be.
    GaveUp {
        /// What was seen last.
        why: String,
    },
}

/// Limits of one page. By default it takes at most 5 * 10 s + (1 + 2 + 4 + 8) s = 65 s once it has its turn.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Of one try, from the connection to the answer's head.
    pub attempt_timeout: Duration,
    /// Tries; at least 1.
    pub attempts_max: u32,
    /// Before the second try; doubled before each further one.
    pub retry_first: Duration,
    /// At most so long between two tries.
    pub retry_max: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            attempt_timeout: Duration::from_secs(10),
            attempts_max: 5,
            retry_first: Duration::from_secs(1),
            retry_max: Duration::from_secs(30),
        }
    }
}

/// The client could not be made.
#[derive(Debug, thiserror::Error)]
#[error("cannot make the HTTP client for pages")]
pub struct NotifierError(#[from] reqwest::Error);

/// Sends pages. Cheap to clone; all clones share the queues.
#[derive(Debug, Clone)]
pub struct Notifier {
    client: reqwest::Client,
    limits: Limits,
    destinations: Arc<Mutex<BTreeMap<String, Arc<Destination>>>>,
}

#[derive(Debug)]
struct Destination {
    /// A place in the queue, and then a turn.
    places: Semaphore,
    turns: Semaphore,
}

impl Notifier {
    /// A notifier with these limits.
    ///
    /// # Errors
    /// When the system lacks what an HTTP client needs.
    pub fn new(limits: Limits) -> Result<Notifier, NotifierError> {
        let client = crate::https::client()
            .redirect(reqwest::redirect::Policy::none())
            .timeout(limits.attempt_timeout)
            .build()?;
        Ok(Notifier { client, limits, destinations: Arc::default() })
    }

    /// Delivers a page. Bounded in time by the limits and the destination's queue. The `idempotency_key` is visible ASCII, the
    /// same for every try of this page and no other's.
    pub async fn deliver(&self, address: &Address, idempotency_key: &str, page: &Page) -> Delivery {
        let gave_up = |why: String| Delivery::GaveUp { why };
        let destination = self.destination(address.queue());
        let Ok(_place) = destination.places.try_acquire() else {
            return gave_up(format!("{QUEUE_MAX} pages to this destination are waiting already"));
        };
        let letter = match self.write(address, idempotency_key, page) {
            Ok(letter) => letter,
            Err(why) => return gave_up(why),
        };
        // Nobody closes the semaphore.
        let Ok(_turn) = destination.turns.acquire().await else {
            return gave_up("the notifier is closed".to_owned());
        };
        let (mut pause, mut attempt) = (self.limits.retry_first, 1);
        loop {
            let tried = match &letter {
                Letter::Post { url, key, body } => self.attempt(url, key, body.clone()).await,
                Letter::Mail(mail) => mail.send(self.limits.attempt_timeout).await,
            };
            match tried {
                Ok(()) => return Delivery::Delivered,
                Err(Failure { why, retry }) if !retry || attempt >= self.limits.attempts_max => {
                    return gave_up(if self.limits.attempts_max > 1 {
                        format!("{why} (try {attempt})")
                    } else {
                        why
                    });
                }
                Err(Failure { why, .. }) => {
                    tracing::warn!(idempotency_key, attempt, "a page was not delivered: {why}");
                }
            }
            tokio::time::sleep(pause).await;
            pause = pause.saturating_mul(2).min(self.limits.retry_max);
            attempt += 1;
        }
    }

    /// A page in the form of its destination.
    fn write(&self, address: &Address, idempotency_key: &str, page: &Page) -> Result<Letter, String> {
        let (url, body) = match address {
            Address::Webhook(url) => (url.clone(), format::webhook(page)),
            Address::PagerDuty { url, routing_key } => (url.clone(), format::pagerduty(page, routing_key)),
            Address::Slack(url) => (url.clone(), format::slack(page)),
            Address::Alertmanager(url) => {
                (format!("{}/api/v2/alerts", url.trim_end_matches('/')), format::alertmanager(page))
            }
            Address::Mail(mailbox) => {
                return mail::Mail::write(mailbox, idempotency_key, page)
                    .map(|mail| Letter::Mail(Box::new(mail)));
            }
        };
        let body = body.map_err(|error| format!("the page is no JSON: {error}"))?;
        if body.len() > BODY_MAX_BYTES {
            return Err(format!("the page has {} bytes, and {BODY_MAX_BYTES} are allowed", body.len()));
        }
        let key = HeaderValue::from_str(idempotency_key)
            .map_err(|_| "the idempotency key cannot stand in a header".to_owned())?;
        Ok(Letter::Post { url, key, body })
    }

    async fn attempt(&self, url: &str, key: &HeaderValue, body: Vec<u8>) -> Result<(), Failure> {
        let request = self
            .client
            .post(url)
            .header(KEY_HEADER, key)
            .header(reqwest::header::CONTENT_TYPE, "application/json")
            .body(body);
        match request.send().await {
            Ok(answer) if answer.status().is_success() => Ok(()),
            Ok(answer) => {
                let status = answer.status();
                let later =
                    [StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_EARLY, StatusCode::TOO_MANY_REQUESTS];
                let retry = status.is_server_error() || later.contains(&status);
                Err(Failure { why: format!("the destination answered {status}"), retry })
            }
            Err(error) => Err(Failure {
                why: describe(&error, self.limits.attempt_timeout),
                retry: !error.is_builder(),
            }),
        }
    }

    fn destination(&self, queue: String) -> Arc<Destination> {
        let mut all = self.destinations.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= DESTINATIONS_MAX && !all.contains_key(&queue) {
            all.retain(|_, destination| Arc::strong_count(destination) > 1);
        }
        let new = || Destination { places: Semaphore::new(QUEUE_MAX), turns: Semaphore::new(CONCURRENT_MAX) };
        Arc::clone(all.entry(queue).or_insert_with(|| Arc::new(new())))
    }
}

/// A page as it is sent.
enum Letter {
    Post { url: String, key: HeaderValue, body: Vec<u8> },
    Mail(Box<mail::Mail>),
}

struct Failure {
    why: String,
    retry: bool,
}

/// What went wrong with a request, without its address: a webhook's address may hold a secret.
fn describe(error: &reqwest::Error, timeout: Duration) -> String {
    if error.is_timeout() {
        return format!("no answer within {} ms", timeout.as_millis());
    }
    // The innermost source names the cause; the outer ones repeat the address.
    let mut source = std::error::Error::source(error);
    let mut why =
        if error.is_builder() { "its address is not usable" } else { "the request failed" }.to_owned();
    while let Some(inner) = source {
        why = inner.to_string();
        source = inner.source();
    }
    why
}

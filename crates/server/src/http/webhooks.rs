//! Webhooks of forges: hints to look at a source now. What one says is not even read; truth is what the forge's API and the
//! repository answer, and a source that gets no webhook is looked at at its own pace.
//!
//! What must hold: nothing is done for one that is not signed with the source's own secret, but compute that signature; nor for one
//! that was taken before; a thousand a second cost a bounded part of the server and lead to one look a second.

use super::{Api, ApiError, act};
use crate::telemetry::{Kind, Page};
use axum::Json;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Path, Request, State};
use axum::http::HeaderMap;
use axum::http::header::CONTENT_LENGTH;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use std::collections::{BTreeSet, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tidegate_api::{Code, Done, ErrorAnswer};
use tidegate_core::definition::ReviewDef;
use tidegate_core::ids::{PipelineId, SourceId};
use tidegate_runtime::Runtime;
use tidegate_workers::secrets::SecretStore;
use tokio::sync::Semaphore;

/// The largest webhook, in bytes. GitHub sends up to 25 MiB; what is larger than this is found by polling.
pub(super) const WEBHOOK_MAX_BYTES: usize = 1 << 20;
/// Webhooks that are in work at a time, with at most [`WEBHOOK_MAX_BYTES`] each: 64 MiB. One more is refused at once.
const AT_ONCE_MAX: usize = 64;
/// Of those, how many are checked at a time, among the requests that the server works on ([`super::REQUESTS_AT_ONCE_MAX`]).
const CHECKED_AT_ONCE_MAX: usize = 4;
/// How long the body of one may take to arrive.
const BODY_TIME_MAX: Duration = Duration::from_secs(10);
/// How many webhooks are remembered so that they are not taken twice: a hundred a minute for an hour and a half.
const REMEMBERED_MAX: usize = 10_000;
/// How long one is remembered; one that is older than this costs one look at a source.
const REMEMBERED_FOR: Duration = Duration::from_secs(24 * 3_600);
/// How far a signed time may be from the server's clock, in seconds.
const TIME_OFF_MAX_S: i64 = 300;
/// At most one line of the log tells of refused webhooks in this time.
const TOLD_EVERY: Duration = Duration::from_secs(60);
/// What begins a key of GitLab's signed webhooks.
const KEY_PREFIX: &str = "whsec_";

type Digested = [u8; 32];

/// How webhooks end, in the order of the counters.
const ENDS: [&str; 5] = ["taken", "forged", "replayed", "too-large", "too-many"];

/// What is remembered of webhooks.
#[derive(Debug)]
pub(super) struct Webhooks {
    places: Semaphore,
    checks: Semaphore,
    taken: Mutex<Remembered>,
    counted: [AtomicU64; ENDS.len()],
    told: Mutex<Option<Instant>>,
}

/// Webhooks that were taken.
#[derive(Debug, Default)]
struct Remembered {
    all: BTreeSet<Digested>,
    /// The same, oldest first.
    by_age: VecDeque<(Digested, Instant)>,
}

impl Default for Webhooks {
    fn default() -> Webhooks {
        Webhooks {
            places: Semaphore::new(AT_ONCE_MAX),
            checks: Semaphore::new(CHECKED_AT_ONCE_MAX),
            taken: Mutex::default(),
            counted: Default::default(),
            told: Mutex::default(),
        }
    }
}

/// How a webhook ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Taken,
    Forged,
    Replayed,
    TooLarge,
    TooMany,
}

impl Webhooks {
    fn count(&self, end: End) {
        self.counted[end as usize].fetch_add(1, Ordering::Relaxed);
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if end != End::Taken && told.is_none_or(|at| at.elapsed() > TOLD_EVERY) {
            *told = Some(Instant::now());
            let of = |end: End| self.counted[end as usize].load(Ordering::Relaxed);
            tracing::warn!(
                forged = of(End::Forged),
                replayed = of(End::Replayed),
                too_large = of(End::TooLarge),
                too_many = of(End::TooMany),
                "webhooks were refused, so often since the server started"
            );
        }
    }

    /// Whether this one was taken before; from now on it was.
    fn is_known(&self, digest: Digested, now: Instant) -> bool {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let Remembered { all, by_age } = &mut *taken;
        let is_old = |at: Instant| now.saturating_duration_since(at) > REMEMBERED_FOR;
        while by_age.len() >= REMEMBERED_MAX || by_age.front().is_some_and(|(_, at)| is_old(*at)) {
            let Some((oldest, _)) = by_age.pop_front() else { break };
            all.remove(&oldest);
        }
        if !all.insert(digest) {
            return true;
        }
        by_age.push_back((digest, now));
        false
    }

    /// How webhooks have ended.
    pub(super) fn write(&self, page: &mut Page) {
        let name = "tidegate_webhooks_total";
        page.family(name, Kind::Counter, "Webhooks of forges, by how they ended.");
        for (end, count) in ENDS.iter().zip(&self.counted) {
            page.sample(name, &[("end", end)], count.load(Ordering::Relaxed) as f64);
        }
    }
}

/// Takes the webhook of a forge: the source is looked at soon. It carries no token; the forge signs it with the secret that the
/// source's definition names.
#[utoipa::path(post, path = "/v1/webhooks/{pipeline}/{source}",
    request_body(content = String, content_type = "application/json", description = "whatever the forge sends"),
    params(("pipeline" = String, Path), ("source" = String, Path)),
    responses((status = 200, body = Done), (status = 401, body = ErrorAnswer), (status = 409, body = ErrorAnswer),
        (status = 413, body = ErrorAnswer), (status = 429, body = ErrorAnswer)))]
pub(super) async fn webhook(
    State(api): State<Api>,
    Path((pipeline, source)): Path<(String, String)>,
    request: Request,
) -> Result<Json<Done>, ApiError> {
    let webhooks = Arc::clone(&api.webhooks);
    let ended = take(&api, pipeline, source, request).await;
    webhooks.count(ended.as_ref().err().copied().unwrap_or(End::Taken));
    match ended {
        Ok(()) => Ok(Json(act::done("the source is looked at"))),
        Err(end) => Err(refusal(end)),
    }
}

fn refusal(end: End) -> ApiError {
    let (code, message, hint) = match end {
        // Whether there is such a source is nobody's business who cannot sign for it.
        End::Taken | End::Forged => (
            Code::Unauthenticated,
            "the webhook is not signed with the secret of a source that is named so",
            "see docs/reviews.md for what the source's definition and the forge have to say",
        ),
        End::Replayed => (
            Code::Illegal,
            "the very same webhook was taken before, or its time is not now",
            "nothing is lost: sources are looked at at their own pace as well",
        ),
        End::TooLarge => (
            Code::TooLarge,
            "the webhook is larger than is taken",
            "nothing is lost: sources are looked at at their own pace as well",
        ),
        End::TooMany => (
            Code::TooMany,
            "more webhooks are in work than are taken at a time",
            "nothing is lost: sources are looked at at their own pace as well",
        ),
    };
    ApiError::new(code, message, hint)
}

async fn take(api: &Api, pipeline: String, source: String, request: Request) -> Result<(), End> {
    let (parts, body) = request.into_parts();
    let sign = Signature::of(&parts.headers).ok_or(End::Forged)?;
    let (Ok(pipeline), Ok(source)) = (PipelineId::new(pipeline), SourceId::new(source)) else {
        return Err(End::Forged);
    };
    let length = parts.headers.get(CONTENT_LENGTH).and_then(|l| l.to_str().ok()?.parse::<usize>().ok());
    if length.is_some_and(|length| length > WEBHOOK_MAX_BYTES) {
        return Err(End::TooLarge);
    }
    let _place = api.webhooks.places.try_acquire().map_err(|_| End::TooMany)?;
    let body = read(body).await?;
    let _check = api.webhooks.checks.acquire().await.map_err(|_| End::TooMany)?;
    let outside = Arc::clone(&api.collaborators);
    let checked =
        api.run(move |runtime| Ok(check(runtime, outside.secrets(), &pipeline, &source, &sign, &body)));
    let (url, digest) = checked.await.map_err(|_| End::TooMany)??;
    if api.webhooks.is_known(digest, Instant::now()) {
        return Err(End::Replayed);
    }
    api.collaborators.source_hinted(&url);
    Ok(())
}

async fn read(body: Body) -> Result<Bytes, End> {
    let read = tokio::time::timeout(BODY_TIME_MAX, to_bytes(body, WEBHOOK_MAX_BYTES)).await;
    read.map_err(|_| End::TooMany)?.map_err(|_| End::TooLarge)
}

/// How a webhook says that it comes from the forge.
#[derive(Debug)]
enum Signature {
    /// GitHub, Gitea, Forgejo: an HMAC of the body.
    OfBody(Digested),
    /// GitLab's signing token, by the rules of Standard Webhooks: HMACs of name, time and body, one of which has to fit.
    Standard { id: String, time: String, macs: Vec<Digested> },
    /// GitLab's secret token, as it is.
    Token(String),
}

impl Signature {
    fn of(headers: &HeaderMap) -> Option<Signature> {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        if let Some(mac) = text("x-hub-signature-256") {
            return Some(Signature::OfBody(from_hex(mac.strip_prefix("sha256=")?)?));
        }
        if let Some(macs) = text("webhook-signature") {
            let macs = macs.split(' ').filter_map(|mac| mac.strip_prefix("v1,"));
            let macs = macs.filter_map(|mac| STANDARD.decode(mac).ok()?.try_into().ok()).collect();
            let (id, time) = (text("webhook-id")?.to_owned(), text("webhook-timestamp")?.to_owned());
            return Some(Signature::Standard { id, time, macs });
        }
        text("x-gitlab-token").map(|token| Signature::Token(token.to_owned()))
    }
}

fn from_hex(text: &str) -> Option<Digested> {
    let mut bytes = [0; 32];
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    for (n, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * n..2 * n + 2], 16).ok()?;
    }
    Some(bytes)
}

/// Checks a webhook. The source's repository, and what the webhook is remembered by. That is not the name that a forge gives to a
/// delivery: GitHub's signature does not cover it, so whoever sends a webhook again can give it another one.
fn check(
    runtime: &Runtime,
    secrets: &SecretStore,
    pipeline: &PipelineId,
    source: &SourceId,
    sign: &Signature,
    body: &[u8],
) -> Result<(String, Digested), End> {
    let state = runtime.pipeline(pipeline).ok().flatten().ok_or(End::Forged)?;
    let defined = state.definition.iter().flat_map(|d| &d.sources).find(|s| &s.name == source);
    let source = defined.ok_or(End::Forged)?;
    let review = source.review.as_ref().ok_or(End::Forged)?;
    let secret = review.webhook().and_then(|name| secrets.get(name).ok()).ok_or(End::Forged)?;
    let secret = secret.expose().trim();
    match (review, sign) {
        (ReviewDef::Github(_), Signature::OfBody(mac)) => {
            fits(secret.as_bytes(), &[body], mac)?;
        }
        (ReviewDef::Gitlab(_), Signature::Standard { id, time, macs }) => {
            let decoded = secret.strip_prefix(KEY_PREFIX).and_then(|key| STANDARD.decode(key).ok());
            let key = decoded.unwrap_or_else(|| secret.as_bytes().to_vec());
            let signed = [id.as_bytes(), b".", time.as_bytes(), b".", body];
            if !macs.iter().any(|mac| fits(&key, &signed, mac).is_ok()) {
                return Err(End::Forged);
            }
            let now = runtime.now().0.div_euclid(1_000);
            let off = time.parse::<i64>().map_err(|_| End::Forged)?.saturating_sub(now).saturating_abs();
            if off > TIME_OFF_MAX_S {
                return Err(End::Replayed);
            }
        }
        (ReviewDef::Gitlab(_), Signature::Token(token)) => {
            // Both are hashed under a key that nobody outside knows, so how long the comparison takes says nothing.
            let mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).map_err(|_| End::Forged)?;
            let expected = mac.chain_update(secret).finalize().into_bytes();
            fits(secret.as_bytes(), &[token.as_bytes()], &expected.into())?;
        }
        (ReviewDef::Github(_), Signature::Standard { .. } | Signature::Token(_))
        | (ReviewDef::Gitlab(_), Signature::OfBody(_)) => return Err(End::Forged),
    }
    let name = format!("{pipeline}/{}/", source.name);
    let seen = Sha256::new().chain_update(name).chain_update(Sha256::digest(body));
    let digest = match sign {
        // The same event in another delivery is signed anew, with its own name and time.
        Signature::Standard { id, time, .. } => seen.chain_update(id).chain_update(time),
        Signature::OfBody(_) | Signature::Token(_) => seen,
    };
    Ok((source.url.clone(), digest.finalize().into()))
}

/// Whether this is the HMAC-SHA256 of these parts one after the other; how long that takes does not depend on where it differs.
fn fits(key: &[u8], parts: &[&[u8]], mac: &Digested) -> Result<(), End> {
    let mut hmac = Hmac::<Sha256>::new_from_slice(key).map_err(|_| End::Forged)?;
    parts.iter().for_each(|part| hmac.update(part));
    hmac.verify_slice(mac).map_err(|_| End::Forged)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(n: usize) -> Digested {
        let mut digest = [0; 32];
        digest[..8].copy_from_slice(&n.to_be_bytes());
        digest
    }

    #[test]
    fn so_many_are_remembered_for_so_long() {
        let (webhooks, begin) = (Webhooks::default(), Instant::now());
        let known = |n: usize, at: Instant| webhooks.is_known(digest(n), at);
        assert!(!known(0, begin) && known(0, begin + REMEMBERED_FOR));
        assert!(!known(0, begin + REMEMBERED_FOR + Duration::from_secs(1)), "that is long ago");
        assert!((1..REMEMBERED_MAX).all(|n| !known(n, begin + REMEMBERED_FOR)));
        assert!(known(REMEMBERED_MAX - 1, begin + REMEMBERED_FOR));
        assert!(!known(REMEMBERED_MAX, begin + REMEMBERED_FOR), "the oldest goes");
        let taken = webhooks.taken.lock().unwrap();
        assert_eq!((taken.all.len(), taken.by_age.len()), (REMEMBERED_MAX, REMEMBERED_MAX));
    }
}

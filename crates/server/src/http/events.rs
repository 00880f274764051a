//! The log as it grows, as server-sent events: one `fact` for each entry, with its position as the event's id, so that a
//! client that comes back with `Last-Event-ID` misses nothing and sees nothing twice. A slow client holds up nobody: the log
//! is read when the client takes more.

use super::extract::{Caller, Params};
use super::{Api, ApiError};
use crate::view;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::IntoResponse;
use axum::response::sse::{Event, KeepAlive, Sse};
use futures_util::Stream;
use serde::Deserialize;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tidegate_api::{Code, LogEntry};
use tidegate_core::decision::AggregateId;
use tidegate_core::ids::PipelineId;
use tidegate_runtime::Start;
use tokio::sync::{OwnedSemaphorePermit, watch};

/// How often a silent stream says that it is alive, in milliseconds.
const KEEP_ALIVE_MS: u64 = 10_000;
/// Entries that are read at once.
const PAGE: usize = 200;

/// Which entries.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct EventsQuery {
    /// From the one after this position; without it (and without `Last-Event-ID`) from now on.
    after: Option<u64>,
    /// Only this pipeline's own.
    pipeline: Option<String>,
}

struct Following {
    api: Api,
    only: Option<AggregateId>,
    position: u64,
    ready: VecDeque<LogEntry>,
    commits: watch::Receiver<u64>,
    /// With the token of whoever follows.
    headers: HeaderMap,
    _place: OwnedSemaphorePermit,
}

/// Follows the log.
#[utoipa::path(get, path = "/v1/events", params(EventsQuery, ("Last-Event-ID" = Option<u64>, Header)),
    security(("token" = [])), responses((status = 200, content_type = "text/event-stream", body = LogEntry)))]
pub(super) async fn events(
    State(api): State<Api>,
    _caller: Caller,
    headers: HeaderMap,
    Params(query): Params<EventsQuery>,
) -> Result<impl IntoResponse, ApiError> {
    let only = query.pipeline.map(PipelineId::new).transpose()?.map(AggregateId::Pipeline);
    let place = Arc::clone(&api.streams).try_acquire_owned().map_err(|_| {
        ApiError::new(Code::Busy, "too many clients follow events already", "try again later")
    })?;
    // The receiver comes before the position, so that a commit in between is seen.
    let mut commits = api.commits.clone();
    commits.mark_unchanged();
    let resumed = match headers.get("last-event-id") {
        Some(value) => {
            let position = value.to_str().ok().and_then(|text| text.parse::<u64>().ok());
            Some(position.ok_or_else(|| {
                ApiError::bad("Last-Event-ID is no position", "send the id of the last event that was seen")
            })?)
        }
        None => query.after,
    };
    let position = match resumed {
        Some(position) => position,
        None => api.run(newest).await?,
    };
    let following =
        Following { api, only, position, ready: VecDeque::new(), commits, headers, _place: place };
    let alive = KeepAlive::new().interval(Duration::from_millis(KEEP_ALIVE_MS));
    Ok(Sse::new(stream(following)).keep_alive(alive))
}

fn newest(runtime: &tidegate_runtime::Runtime) -> Result<u64, ApiError> {
    Ok(runtime.log(None, Start::Before(u64::MAX), 1)?.first().map_or(0, |entry| entry.position))
}

fn stream(following: Following) -> impl Stream<Item = Result<Event, Infallible>> {
    futures_util::stream::unfold(following, |mut following| async move {
        let entry = following.next().await?;
        // An entry of the log is JSON by its making; if it were not, the stream ends and the client comes back.
        let event = Event::default().id(entry.position.to_string()).event("fact").json_data(&entry).ok()?;
        Some((Ok(event), following))
    })
}

impl Following {
    /// The next entry; `None` when the server ends, its log cannot be read, or whoever follows may do so no more.
    async fn next(&mut self) -> Option<LogEntry> {
        loop {
            if let Some(entry) = self.ready.pop_front() {
                return Some(entry);
            }
            if self.api.stop.is_cancelled() {
                return None;
            }
            self.commits.mark_unchanged();
            Caller::of(&self.api, &self.headers).await.ok()?;
            let (only, after) = (self.only.clone(), self.position);
            let page =
                self.api.run(move |runtime| Ok(runtime.log(only.as_ref(), Start::After(after), PAGE)?));
            self.ready = page.await.ok()?.into_iter().map(view::log_entry).collect();
            if let Some(last) = self.ready.back() {
                self.position = last.position;
                continue;
            }
            tokio::select! {
                changed = self.commits.changed() => changed.ok()?,
                () = self.api.stop.cancelled() => return None,
            }
        }
    }
}

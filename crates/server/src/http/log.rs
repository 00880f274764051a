//! The log: in pages, by who and what, and the proof that it is whole.

use super::extract::{Caller, Params};
use super::read::no_pipeline;
use super::{Api, ApiError};
use crate::view;
use axum::Json;
use axum::extract::State;
use serde::Deserialize;
use tidegate_api::{ErrorAnswer, LogPage, LogVerified, VERSION};
use tidegate_core::decision::AggregateId;
use tidegate_core::ids::{PipelineId, RegionId};
use tidegate_core::units::Timestamp;
use tidegate_runtime::Start;
use tidegate_runtime::audit::LogFilter;

/// The most entries in one page of the log.
pub(super) const LOG_PAGE_MAX: usize = 1_000;
/// How many entries come when nothing else is said.
const LOG_PAGE_DEFAULT: usize = 100;

/// Which entries: those that everything given fits.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct LogQuery {
    /// Only this pipeline's own.
    pipeline: Option<String>,
    /// From the one after this position; without it the newest come.
    after: Option<u64>,
    /// The newest before this position.
    before: Option<u64>,
    /// At most so many; 100 when nothing is said, 1,000 at most.
    limit: Option<usize>,
    /// Caused by this user, by `tidegate` itself, or by a pipeline of definitions (`NAME`, or `NAME/r7`).
    by: Option<String>,
    /// That name this release, such as `r7`.
    release: Option<String>,
    /// That name this Region.
    region: Option<String>,
    /// Not before this.
    since: Option<i64>,
    /// Before this.
    until: Option<i64>,
}

/// What happened, oldest first.
#[utoipa::path(get, path = "/v1/log", params(LogQuery), security(("token" = [])),
    responses((status = 200, body = LogPage), (status = 404, body = ErrorAnswer)))]
pub(super) async fn log(
    State(api): State<Api>,
    _caller: Caller,
    Params(query): Params<LogQuery>,
) -> Result<Json<LogPage>, ApiError> {
    let limit = query.limit.unwrap_or(LOG_PAGE_DEFAULT).clamp(1, LOG_PAGE_MAX);
    let start = match (query.after, query.before) {
        (Some(_), Some(_)) => return Err(ApiError::bad("both 'after' and 'before' are given", "give one")),
        (Some(after), None) => Start::After(after),
        (None, before) => Start::Before(before.unwrap_or(u64::MAX)),
    };
    let only = query.pipeline.map(PipelineId::new).transpose()?;
    let filter = LogFilter {
        aggregate: only.clone().map(AggregateId::Pipeline),
        by: query.by,
        release: query.release.map(|release| release.parse()).transpose()?,
        region: query.region.map(RegionId::new).transpose()?,
        since: query.since.map(Timestamp),
        until: query.until.map(Timestamp),
    };
    let page = api.run(move |runtime| {
        if let Some(id) = only.as_ref().filter(|id| matches!(runtime.pipeline(id), Ok(None))) {
            return Err(no_pipeline(id));
        }
        Ok(view::log_page(runtime.search_log(&filter, start, limit)?, start))
    });
    page.await.map(Json)
}

/// Whose log.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct VerifyQuery {
    /// Only this pipeline's own.
    pipeline: Option<String>,
}

/// Whether the log's chain is whole, and adds up to the stored states.
#[utoipa::path(get, path = "/v1/log/verify", params(VerifyQuery), security(("token" = [])),
    responses((status = 200, body = LogVerified), (status = 404, body = ErrorAnswer),
        (status = 500, body = ErrorAnswer)))]
pub(super) async fn verify_log(
    State(api): State<Api>,
    _caller: Caller,
    Params(query): Params<VerifyQuery>,
) -> Result<Json<LogVerified>, ApiError> {
    let only = query.pipeline.map(PipelineId::new).transpose()?;
    let verified = api.run(move |runtime| {
        if let Some(id) = only.as_ref().filter(|id| matches!(runtime.pipeline(id), Ok(None))) {
            return Err(no_pipeline(id));
        }
        Ok(runtime.verify_log(only.map(AggregateId::Pipeline).as_ref())?)
    });
    let verified = verified.await?;
    Ok(Json(LogVerified { version: VERSION, aggregates: verified.aggregates, facts: verified.facts }))
}

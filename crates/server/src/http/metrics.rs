//! Figures about the server itself, for Prometheus.

use super::extract::{Caller, Params};
use super::{Api, ApiError};
use crate::telemetry::{CONTENT_TYPE, Page, of_runtime};
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use std::sync::Arc;

/// How fine.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct MetricsQuery {
    /// Also by pipeline, of those in which something moves: as many series as there are such pipelines.
    #[serde(default)]
    pipelines: bool,
}

/// The server's figures in Prometheus's text format. It needs a token like everything else: behind a proxy, nobody could tell who
/// asks by where they come from.
#[utoipa::path(get, path = "/metrics", params(MetricsQuery), security(("token" = [])),
    responses((status = 200, content_type = "text/plain", body = String)))]
pub(super) async fn metrics(
    State(api): State<Api>,
    _caller: Caller,
    Params(query): Params<MetricsQuery>,
) -> Result<Response, ApiError> {
    let (outside, webhooks) = (Arc::clone(&api.collaborators), Arc::clone(&api.webhooks));
    let page = api.run(move |runtime| {
        let mut page = Page::default();
        of_runtime(&mut page, runtime)?;
        outside.measure(&mut page, query.pipelines);
        webhooks.write(&mut page);
        Ok(page.into_text())
    });
    Ok(([(header::CONTENT_TYPE, CONTENT_TYPE)], page.await?).into_response())
}

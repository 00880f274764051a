//! Definitions come in here, and their JSON Schemas can be read.

use super::extract::{Caller, Params, Text};
use super::{Api, ApiError, act, read};
use crate::apply;
use axum::Json;
use axum::extract::{Path, State};
use axum::response::Response;
use serde::Deserialize;
use tidegate_api::{Applied, ErrorAnswer};
use tidegate_core::definition::{OrganisationDef, PipelineDef};

/// How to take it.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct ApplyQuery {
    /// Only look whether it would be taken.
    #[serde(default)]
    dry_run: bool,
}

/// Takes the organisation's definition. Only administrators may.
#[utoipa::path(put, path = "/v1/organisation", params(ApplyQuery), security(("token" = [])),
    request_body(content = String, content_type = "application/json",
        description = "as described by /v1/schemas/organisation.json"),
    responses((status = 200, body = Applied), (status = 422, body = ErrorAnswer)))]
pub(super) async fn put_organisation(
    State(api): State<Api>,
    caller: Caller,
    Params(query): Params<ApplyQuery>,
    Text(text): Text,
) -> Result<Json<Applied>, ApiError> {
    let applied = api.run(move |runtime| {
        act::administrator(runtime, &caller)?;
        Ok(apply::organisation(runtime, &text, &caller.actor(), query.dry_run)?)
    });
    applied.await.map(Json)
}

/// Takes a pipeline's definition; its name is in it. Only administrators may.
#[utoipa::path(put, path = "/v1/pipelines", params(ApplyQuery), security(("token" = [])),
    request_body(content = String, content_type = "application/json",
        description = "as described by /v1/schemas/pipeline.json"),
    responses((status = 200, body = Applied), (status = 422, body = ErrorAnswer)))]
pub(super) async fn put_pipeline(
    State(api): State<Api>,
    caller: Caller,
    Params(query): Params<ApplyQuery>,
    Text(text): Text,
) -> Result<Json<Applied>, ApiError> {
    let applied = api.run(move |runtime| {
        act::administrator(runtime, &caller)?;
        Ok(apply::pipeline(runtime, &text, &caller.actor(), query.dry_run)?)
    });
    applied.await.map(Json)
}

/// The JSON Schema of a definition.
pub(super) async fn schema(Path(name): Path<String>) -> Result<Response, ApiError> {
    let schema = match name.as_str() {
        "organisation.json" => schemars::schema_for!(OrganisationDef),
        "pipeline.json" => schemars::schema_for!(PipelineDef),
        _ => {
            let hint = "there are organisation.json and pipeline.json";
            return Err(ApiError::not_found("there is no such schema", hint));
        }
    };
    Ok(read::json_text(format!("{:#}", schema.as_value())))
}

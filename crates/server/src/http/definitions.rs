//! Definitions come in and go out here, and their JSON Schemas can be read.

use super::extract::{Caller, Params, Text};
use super::{Api, ApiError, act, read};
use crate::apply;
use axum::Json;
use axum::extract::{Path, State};
use axum::response::Response;
use serde::Deserialize;
use tidegate_api::{Applied, ErrorAnswer, OrganisationDefinition, PipelineDefinition, VERSION};
use tidegate_core::definition::{OrganisationDef, PipelineDef};
use tidegate_core::ids::PipelineId;

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

/// The organisation's definition as it was applied.
#[utoipa::path(get, path = "/v1/organisation", security(("token" = [])),
    responses((status = 200, body = OrganisationDefinition), (status = 404, body = ErrorAnswer)))]
pub(super) async fn organisation(
    State(api): State<Api>,
    _caller: Caller,
) -> Result<Json<OrganisationDefinition>, ApiError> {
    let read = api.run(|runtime| {
        let definition = runtime.organisation()?.definition.as_deref().cloned();
        definition.ok_or_else(|| {
            let hint = "apply one with 'tidegate apply'";
            ApiError::not_found("no organisation has been applied yet", hint)
        })
    });
    Ok(Json(OrganisationDefinition { version: VERSION, definition: read.await? }))
}

/// A pipeline's definition as it was applied, and whether the pipeline is retired.
#[utoipa::path(get, path = "/v1/pipelines/{pipeline}", security(("token" = [])),
    params(("pipeline" = String, Path)),
    responses((status = 200, body = PipelineDefinition), (status = 404, body = ErrorAnswer)))]
pub(super) async fn pipeline(
    State(api): State<Api>,
    _caller: Caller,
    Path(id): Path<String>,
) -> Result<Json<PipelineDefinition>, ApiError> {
    let id = PipelineId::new(id)?;
    let read = api.run(move |runtime| {
        let found = runtime.pipeline(&id)?;
        let retired = found.as_ref().is_some_and(|pipeline| !pipeline.life.is_active());
        let definition = found.and_then(|pipeline| pipeline.definition.as_deref().cloned());
        let definition = definition.ok_or_else(|| read::no_pipeline(&id))?;
        Ok(PipelineDefinition { version: VERSION, retired, definition })
    });
    read.await.map(Json)
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

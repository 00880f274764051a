//! Definitions come in and go out here, and their JSON Schemas can be read.

use super::extract::{Caller, Params, Text, parse};
use super::{Api, ApiError, act, read};
use crate::apply::{ApplyError, Of};
use axum::Json;
use axum::extract::{Path, State};
use axum::response::Response;
use serde::Deserialize;
use tidegate_api::document::{self, FINDINGS_MAX};
use tidegate_api::{
    AllApplied, Applied, Definitions, ErrorAnswer, Finding, OrganisationDefinition, PipelineDefinition,
    VERSION,
};
use tidegate_core::definition::{Definition, OrganisationDef, PipelineDef};
use tidegate_core::ids::PipelineId;
use tidegate_runtime::Runtime;

/// How to take it.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct ApplyQuery {
    /// Only look whether it would be taken.
    #[serde(default)]
    dry_run: bool,
}

/// Takes definitions together, all of them or none: pipelines are judged against the organisation that comes with them. Only
/// administrators may.
#[utoipa::path(put, path = "/v1/definitions", params(ApplyQuery), security(("token" = [])), request_body = Definitions,
    responses((status = 200, body = AllApplied), (status = 422, body = ErrorAnswer)))]
pub(super) async fn put_definitions(
    State(api): State<Api>,
    caller: Caller,
    Params(query): Params<ApplyQuery>,
    Text(text): Text,
) -> Result<Json<AllApplied>, ApiError> {
    let read = move || {
        let Definitions { definitions } = parse(&text)?;
        let one = |text: String| {
            let read = if is_organisation(&text) { organisation_of(&text) } else { pipeline_of(&text) };
            (read, text)
        };
        Ok(definitions.into_iter().map(one).collect())
    };
    let applied = apply(&api, caller, query, read, true).await?;
    Ok(Json(AllApplied { version: VERSION, applied }))
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
    one(&api, caller, query, organisation_of, text).await
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
    one(&api, caller, query, pipeline_of, text).await
}

/// A definition that was read, or what is wrong with its text.
type Read = Result<Definition, Vec<Finding>>;

fn organisation_of(text: &str) -> Read {
    document::read(text).map(|definition| Definition::Organisation(Box::new(definition)))
}

fn pipeline_of(text: &str) -> Read {
    document::read(text).map(|definition| Definition::Pipeline(Box::new(definition)))
}

/// By its schema's name, also if the document is broken elsewhere.
fn is_organisation(text: &str) -> bool {
    text.contains("\"tidegate.organisation/")
}

async fn one(
    api: &Api,
    caller: Caller,
    query: ApplyQuery,
    read: fn(&str) -> Read,
    text: String,
) -> Result<Json<Applied>, ApiError> {
    let mut applied = apply(api, caller, query, move || Ok(vec![(read(&text), text)]), false).await?;
    applied.pop().map(Json).ok_or_else(|| ApiError::internal("the definition has gone"))
}

/// Applies what is read; findings are told at the lines of their texts, and of `many` with the index of theirs. Only
/// administrators are read at all.
async fn apply(
    api: &Api,
    caller: Caller,
    ApplyQuery { dry_run }: ApplyQuery,
    read: impl FnOnce() -> Result<Vec<(Read, String)>, ApiError> + Send + 'static,
    many: bool,
) -> Result<Vec<Applied>, ApiError> {
    let applier = api.applier.clone();
    let work = move |runtime: &Runtime| {
        act::administrator(runtime, &caller)?;
        let of = |n: usize| many.then_some(n);
        let (mut definitions, mut texts, mut unread) = (Vec::new(), Vec::new(), Vec::new());
        for (n, (read, text)) in read()?.into_iter().enumerate() {
            texts.push(text);
            match read {
                Ok(definition) => definitions.push(definition),
                Err(found) => unread.extend(found.into_iter().map(|f| Finding { definition: of(n), ..f })),
            }
        }
        if !unread.is_empty() {
            unread.truncate(FINDINGS_MAX);
            return Err(ApiError::definitions(unread));
        }
        let changed = match applier.apply(&definitions, &caller.actor(), dry_run) {
            Ok(changed) => changed,
            Err(ApplyError::Wrong(wrong)) => {
                let told = wrong.into_iter().map(|wrong| match wrong.of {
                    Of::Given(n) => {
                        Finding { definition: of(n), ..document::placed(wrong.finding, &texts[n]) }
                    }
                    Of::Pipeline(id) => {
                        Finding { pipeline: Some(id.to_string()), ..document::plain(wrong.finding) }
                    }
                });
                return Err(ApiError::definitions(told.collect()));
            }
            Err(error) => return Err(error.into()),
        };
        let applied = definitions.iter().zip(changed).map(|(definition, changed)| {
            let name = match definition {
                Definition::Organisation(organisation) => organisation.name.clone(),
                Definition::Pipeline(pipeline) => pipeline.name.to_string(),
            };
            Applied { version: VERSION, name, changed, dry_run, findings: Vec::new() }
        });
        Ok(applied.collect())
    };
    api.run(work).await
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

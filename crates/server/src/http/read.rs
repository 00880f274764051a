//! What can be read: states, endpoints, packages, build logs.

use super::extract::{Caller, Params};
use super::{Api, ApiError};
use crate::estimates::Estimator;
use crate::view;
use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::time::Instant;
use tidegate_api::{Endpoints, ErrorAnswer, Health, PackagesVerified, Status, VERSION, WhyAnswer, WhyCommit};
use tidegate_core::ids::{PipelineId, ReleaseNo};
use tidegate_core::pipeline::NotFound;
use tidegate_runtime::Runtime;
use tokio::fs::File;
use tokio::io::AsyncReadExt;

/// The most pipelines in one status; `next` brings more.
pub(super) const STATUS_PIPELINES_MAX: usize = 100;
/// The most troubles in one status, the oldest.
const STATUS_TROUBLES_MAX: usize = 50;
/// The most pipelines that are searched for a commit when none is named.
const WHY_PIPELINES_MAX: usize = 1_000;
/// A build log is sent in pieces of so many bytes.
const FILE_PIECE_BYTES: usize = 64 << 10;

/// A document that was made before.
pub(super) fn json_text(text: String) -> Response {
    ([(CONTENT_TYPE, "application/json")], text).into_response()
}

/// Whether the server serves.
#[utoipa::path(get, path = "/v1/health", responses((status = 200, body = Health)))]
pub(super) async fn health() -> Json<Health> {
    Json(Health { version: VERSION, ready: true })
}

/// Which pipelines.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct StatusQuery {
    /// Only this one.
    pipeline: Option<String>,
    /// Only those after this one.
    after: Option<String>,
}

/// What is so now, with the reason beside every state.
#[utoipa::path(get, path = "/v1/status", params(StatusQuery), security(("token" = [])),
    responses((status = 200, body = Status), (status = 404, body = ErrorAnswer)))]
pub(super) async fn status(
    State(api): State<Api>,
    _caller: Caller,
    Params(query): Params<StatusQuery>,
) -> Result<Json<Status>, ApiError> {
    let only = query.pipeline.map(PipelineId::new).transpose()?;
    let after = query.after.map(PipelineId::new).transpose()?;
    let mut troubles = api.collaborators.troubles();
    troubles.truncate(STATUS_TROUBLES_MAX);
    let standbys = api.collaborators.standbys();
    let backups = api.collaborators.backups();
    let estimator = Arc::clone(&api.estimator);
    let status = move |runtime: &Runtime| status_of(runtime, &estimator, only, after);
    let all = move |runtime: &Runtime| {
        let last_backup = backups.and_then(|backups| backups.last());
        Ok(Status { troubles, standbys, last_backup, ..status(runtime)? })
    };
    api.run(all).await.map(Json)
}

fn status_of(
    runtime: &Runtime,
    estimator: &Estimator,
    only: Option<PipelineId>,
    after: Option<PipelineId>,
) -> Result<Status, ApiError> {
    let (now, begun) = (runtime.now(), Instant::now());
    let ids = match &only {
        Some(id) => vec![id.clone()],
        None => runtime.pipelines()?.into_iter().filter(|id| after.as_ref().is_none_or(|a| id > a)).collect(),
    };
    let (mut pipelines, mut teams) = (Vec::new(), BTreeMap::new());
    for id in ids.iter().take(STATUS_PIPELINES_MAX) {
        let found = runtime.pipeline(id)?;
        let Some(state) = found.filter(|p| p.definition.is_some()) else {
            if only.is_none() {
                continue;
            }
            return Err(no_pipeline(id));
        };
        let team = match &state.team {
            Some(team) => runtime.team(team)?,
            None => std::sync::Arc::default(),
        };
        let mut status = view::pipeline(id, &state, &team, now);
        estimator.tell(runtime, &state, &mut status, begun);
        pipelines.push(status);
        if let Some(name) = &state.team {
            teams.insert(name.clone(), team);
        }
    }
    if only.is_none() && after.is_none() {
        // Teams whose pipelines are still to come are told as well: they may have alarms.
        for id in runtime.teams()? {
            let team = runtime.team(&id)?;
            teams.entry(id).or_insert(team);
        }
    }
    Ok(Status {
        version: VERSION,
        now,
        troubles: Vec::new(),
        standbys: Vec::new(),
        last_backup: None,
        organisation: view::organisation(&*runtime.organisation()?),
        teams: teams.iter().map(|(id, team)| view::team(id, team)).collect(),
        pipelines,
        next: ids.get(STATUS_PIPELINES_MAX).and_then(|_| ids.get(STATUS_PIPELINES_MAX - 1).cloned()),
    })
}

pub(super) fn no_pipeline(id: &PipelineId) -> ApiError {
    ApiError::not_found(format!("there is no pipeline '{id}'"), "see 'tidegate status' for their names")
}

/// In which pipeline.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct WhyQuery {
    /// In all of them when none is named.
    pipeline: Option<String>,
}

/// Where a commit is, and why it is not further.
#[utoipa::path(get, path = "/v1/why/{commit}", params(WhyQuery, ("commit" = String, Path,
        description = "the beginning of the commit's name")), security(("token" = [])),
    responses((status = 200, body = WhyAnswer), (status = 404, body = ErrorAnswer)))]
pub(super) async fn why(
    State(api): State<Api>,
    _caller: Caller,
    Path(commit): Path<String>,
    Params(query): Params<WhyQuery>,
) -> Result<Json<WhyAnswer>, ApiError> {
    let only = query.pipeline.map(PipelineId::new).transpose()?;
    let estimator = Arc::clone(&api.estimator);
    api.run(move |runtime| why_of(runtime, &estimator, &commit, only)).await.map(Json)
}

fn why_of(
    runtime: &Runtime,
    estimator: &Estimator,
    commit: &str,
    only: Option<PipelineId>,
) -> Result<WhyAnswer, ApiError> {
    let ids = match &only {
        Some(id) => vec![id.clone()],
        None => runtime.pipelines()?,
    };
    if ids.len() > WHY_PIPELINES_MAX {
        let message = format!("there are more than {WHY_PIPELINES_MAX} pipelines to search");
        return Err(ApiError::bad(message, "name the pipeline"));
    }
    let (mut commits, mut names, begun) = (Vec::new(), BTreeSet::new(), Instant::now());
    for id in ids {
        let Some(pipeline) = runtime.pipeline(&id)? else {
            if only.is_some() {
                return Err(no_pipeline(&id));
            }
            continue;
        };
        let team = match &pipeline.team {
            Some(team) => runtime.team(team)?,
            None => std::sync::Arc::default(),
        };
        match tidegate_core::pipeline::why(&pipeline, &team, commit) {
            Ok(why) => {
                names.insert(why.commit.clone());
                let mut why = WhyCommit::new(id, why);
                estimator.tell_why(runtime, &pipeline, &mut why, begun);
                commits.push(why);
            }
            Err(NotFound::Unknown(_)) => {}
            Err(error @ NotFound::Ambiguous(_)) => return Err(error.into()),
        }
    }
    match names.len() {
        0 => Err(NotFound::Unknown(commit.to_owned()).into()),
        1 => Ok(WhyAnswer { version: VERSION, commits }),
        _ => Err(NotFound::Ambiguous(commit.to_owned()).into()),
    }
}

/// Where services are called.
#[utoipa::path(get, path = "/v1/endpoints", security(("token" = [])), responses((status = 200, body = Endpoints)))]
pub(super) async fn endpoints(State(api): State<Api>, _caller: Caller) -> Result<Json<Endpoints>, ApiError> {
    let mut endpoints = api.collaborators.endpoints().await.map_err(ApiError::internal)?;
    endpoints.sort();
    Ok(Json(Endpoints { version: VERSION, endpoints }))
}

/// Whether every package is what its name and its signature say.
#[utoipa::path(get, path = "/v1/packages/verify", security(("token" = [])),
    responses((status = 200, body = PackagesVerified)))]
pub(super) async fn verify_packages(
    State(api): State<Api>,
    _caller: Caller,
) -> Result<Json<PackagesVerified>, ApiError> {
    api.collaborators.verify_packages().await.map(Json).map_err(ApiError::internal)
}

/// The output of a release's build, as far as it has come.
#[utoipa::path(get, path = "/v1/builds/{pipeline}/{release}/log", security(("token" = [])),
    params(("pipeline" = String, Path), ("release" = String, Path)),
    responses((status = 200, content_type = "text/plain", body = String), (status = 404, body = ErrorAnswer)))]
pub(super) async fn build_log(
    State(api): State<Api>,
    _caller: Caller,
    Path((pipeline, release)): Path<(String, String)>,
) -> Result<Response, ApiError> {
    let (pipeline, release): (PipelineId, ReleaseNo) = (PipelineId::new(pipeline)?, release.parse()?);
    let file = match File::open(api.collaborators.build_log(&pipeline, release)).await {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let message = format!("there is no build log of {release} of {pipeline}");
            return Err(ApiError::not_found(message, "it begins with the build, and is not kept for ever"));
        }
        Err(error) => return Err(ApiError::internal(format!("cannot read the build log: {error}"))),
    };
    let pieces = futures_util::stream::try_unfold(file, |mut file| async move {
        let mut piece = vec![0; FILE_PIECE_BYTES];
        let read = file.read(&mut piece).await?;
        piece.truncate(read);
        Ok::<_, io::Error>((read > 0).then(|| (Bytes::from(piece), file)))
    });
    Ok(([(CONTENT_TYPE, "text/plain; charset=utf-8")], Body::from_stream(pieces)).into_response())
}

//! Collecting what nobody needs.

use super::extract::{Body, Caller};
use super::{Api, ApiError, act};
use axum::Json;
use axum::extract::State;
use tidegate_api::{Code, ErrorAnswer, GcAnswer, GcRequest};

/// Removes what nobody needs any more, or tells what that is. Only administrators may.
#[utoipa::path(post, path = "/v1/gc", request_body = GcRequest, security(("token" = [])),
    responses((status = 200, body = GcAnswer), (status = 403, body = ErrorAnswer), (status = 503, body = ErrorAnswer)))]
pub(super) async fn collect(
    State(api): State<Api>,
    caller: Caller,
    Body(request): Body<GcRequest>,
) -> Result<Json<GcAnswer>, ApiError> {
    api.run(move |runtime| act::administrator(runtime, &caller)).await?;
    match api.collaborators.collect(request.dry_run).await {
        Some(answer) => answer.map(Json).map_err(ApiError::internal),
        None => Err(ApiError::new(
            Code::Busy,
            "a build runs, and may need what nobody knows of yet; or it is collected already",
            "try again later",
        )),
    }
}

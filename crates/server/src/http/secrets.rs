//! Secrets: administrators keep them by name; definitions name them; nobody gets a value back.

use super::extract::{Body, Caller};
use super::{Api, ApiError, act};
use axum::Json;
use axum::extract::{Path, State};
use tidegate_api::{Done, ErrorAnswer, SecretNames, SecretRequest, VERSION};
use tidegate_core::causes;
use tidegate_core::ids::SecretName;
use tidegate_workers::secrets::Secret;

/// The names of the secrets that are kept. Only administrators may.
#[utoipa::path(get, path = "/v1/secrets", security(("token" = [])),
    responses((status = 200, body = SecretNames), (status = 403, body = ErrorAnswer)))]
pub(super) async fn secret_names(
    State(api): State<Api>,
    caller: Caller,
) -> Result<Json<SecretNames>, ApiError> {
    let outside = api.collaborators.clone();
    let names = api.run(move |runtime| {
        act::administrator(runtime, &caller)?;
        let names = outside.secrets().names().map_err(|e| ApiError::internal(causes(&e)))?;
        Ok(SecretNames { version: VERSION, names })
    });
    names.await.map(Json)
}

/// Keeps a secret under a name; an older value is replaced, and used from the next start on. Only administrators may.
#[utoipa::path(put, path = "/v1/secrets/{name}", request_body = SecretRequest, security(("token" = [])),
    params(("name" = String, Path)),
    responses((status = 200, body = Done), (status = 400, body = ErrorAnswer), (status = 403, body = ErrorAnswer)))]
pub(super) async fn set_secret(
    State(api): State<Api>,
    caller: Caller,
    Path(name): Path<String>,
    Body(request): Body<SecretRequest>,
) -> Result<Json<Done>, ApiError> {
    let name = SecretName::new(name)?;
    let outside = api.collaborators.clone();
    let done = api.run(move |runtime| {
        act::administrator(runtime, &caller)?;
        let value = Secret::new(request.value).map_err(|why| {
            ApiError::bad(format!("secret '{name}' is not usable: {why}"), "nothing was changed")
        })?;
        outside.secrets().set(&name, &value).map_err(|e| ApiError::internal(causes(&e)))?;
        tracing::info!(secret = %name, by = %caller.0, "a secret was set");
        Ok(act::done(format!("secret '{name}' is kept")))
    });
    done.await.map(Json)
}

/// Forgets a secret. Only administrators may.
#[utoipa::path(delete, path = "/v1/secrets/{name}", security(("token" = [])), params(("name" = String, Path)),
    responses((status = 200, body = Done), (status = 403, body = ErrorAnswer), (status = 404, body = ErrorAnswer)))]
pub(super) async fn remove_secret(
    State(api): State<Api>,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<Json<Done>, ApiError> {
    let name = SecretName::new(name)?;
    let outside = api.collaborators.clone();
    let done = api.run(move |runtime| {
        act::administrator(runtime, &caller)?;
        let secrets = outside.secrets();
        if !secrets.names().map_err(|e| ApiError::internal(causes(&e)))?.contains(&name) {
            let hint = "'tidegate secret list' shows the names that are kept";
            return Err(ApiError::not_found(format!("there is no secret '{name}'"), hint));
        }
        secrets.remove(&name).map_err(|e| ApiError::internal(causes(&e)))?;
        tracing::info!(secret = %name, by = %caller.0, "a secret was removed");
        Ok(act::done(format!("secret '{name}' is forgotten")))
    });
    done.await.map(Json)
}

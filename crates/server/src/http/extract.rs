//! What handlers take out of requests; whatever cannot be taken is told in the API's own form.

use super::{Api, ApiError};
use crate::auth::Rights;
use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Query, Request};
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use serde::de::DeserializeOwned;
use tidegate_api::Code;
use tidegate_core::decision::Actor;
use tidegate_core::ids::UserId;

/// A user with a valid token whom the organisation knows; may read everything.
#[derive(Debug, Clone)]
pub(super) struct Caller(pub(super) UserId);

impl Caller {
    pub(super) fn actor(&self) -> Actor {
        Actor::User(self.0.clone())
    }
}

impl FromRequestParts<Api> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Caller, ApiError> {
        Caller::of(api, &parts.headers).await
    }
}

impl Caller {
    /// Whose token these headers carry, as of now.
    pub(super) async fn of(api: &Api, headers: &HeaderMap) -> Result<Caller, ApiError> {
        let refused = |message: &str| {
            let hint = "send 'Authorization: Bearer <token>'; an administrator makes tokens";
            ApiError::new(Code::Unauthenticated, message, hint)
        };
        let header = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        let token = header.and_then(|value| value.strip_prefix("Bearer "));
        let token = token.ok_or_else(|| refused("the request carries no token"))?;
        let user = api.tokens.user_of(token.trim()).ok_or_else(|| refused("the token is not known"))?;
        let asked = user.clone();
        let known = api.run(move |runtime| {
            let organisation = runtime.organisation()?;
            Ok(Rights { user: &asked, organisation: organisation.definition.as_deref() }.known())
        });
        if !known.await? {
            return Err(refused("the token's user is not in the organisation's definition"));
        }
        Ok(Caller(user))
    }
}

/// A JSON body.
pub(super) struct Body<T>(pub(super) T);

impl<T: DeserializeOwned> FromRequest<Api> for Body<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, api: &Api) -> Result<Body<T>, ApiError> {
        let Text(text) = Text::from_request(request, api).await?;
        parse(&text).map(Body)
    }
}

/// Reads a body of JSON.
pub(super) fn parse<T: DeserializeOwned>(text: &str) -> Result<T, ApiError> {
    let mut parser = serde_json::Deserializer::from_str(text);
    let hint = "see /v1/openapi.json";
    let value = serde_path_to_error::deserialize(&mut parser)
        .map_err(|error| ApiError::bad(format!("the body does not fit: {error}"), hint))?;
    parser.end().map_err(|error| ApiError::bad(format!("the body goes on: {error}"), hint))?;
    Ok(value)
}

/// A body of text.
pub(super) struct Text(pub(super) String);

impl FromRequest<Api> for Text {
    type Rejection = ApiError;

    async fn from_request(request: Request, api: &Api) -> Result<Text, ApiError> {
        let bytes = Bytes::from_request(request, api).await.map_err(|rejection| {
            if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
                let message = "the body is larger than this path takes";
                ApiError::new(Code::TooLarge, message, "send less, or in parts")
            } else {
                ApiError::bad("the body could not be read", "send it again")
            }
        })?;
        let text = String::from_utf8(bytes.into());
        text.map(Text).map_err(|_| ApiError::bad("the body is no UTF-8 text", "send UTF-8"))
    }
}

/// The query's parameters.
pub(super) struct Params<T>(pub(super) T);

impl<T: DeserializeOwned> FromRequestParts<Api> for Params<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &Api) -> Result<Params<T>, ApiError> {
        let query = Query::try_from_uri(&parts.uri);
        let Query(value) = query.map_err(|error| ApiError::bad(error.body_text(), "see /v1/openapi.json"))?;
        Ok(Params(value))
    }
}

//! From what went wrong to what is told of it. What is the server's own affair is logged in full and told in short.

use crate::adopt::NotAdopted;
use crate::apply::ApplyError;
use crate::auth::AuthError;
use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use tidegate_api::{Code, ErrorAnswer, ErrorBody, Finding, VERSION, document};
use tidegate_core::causes;
use tidegate_core::ids::InvalidId;
use tidegate_core::pipeline::NotFound;
use tidegate_runtime::{RuntimeError, SubmitError, VerifyError};

/// A refusal, ready to be sent.
#[derive(Debug, Clone)]
pub struct ApiError(pub(super) ErrorBody);

impl ApiError {
    pub(super) fn new(code: Code, message: impl Into<String>, hint: impl Into<String>) -> ApiError {
        ApiError(ErrorBody { code, message: message.into(), hint: hint.into(), findings: Vec::new() })
    }

    pub(super) fn bad(message: impl Into<String>, hint: impl Into<String>) -> ApiError {
        ApiError::new(Code::BadRequest, message, hint)
    }

    pub(super) fn definitions(findings: Vec<Finding>) -> ApiError {
        let message = match findings.len() {
            1 => "the definition is refused: 1 finding".to_owned(),
            n => format!("the definition is refused: {n} findings"),
        };
        let hint = "mend what the findings say and apply it again; nothing was changed".to_owned();
        ApiError(ErrorBody { code: Code::Definition, message, hint, findings })
    }

    pub(super) fn forbidden(message: impl Into<String>, hint: impl Into<String>) -> ApiError {
        ApiError::new(Code::Forbidden, message, hint)
    }

    pub(super) fn not_found(message: impl Into<String>, hint: impl Into<String>) -> ApiError {
        ApiError::new(Code::NotFound, message, hint)
    }

    pub(super) fn internal(message: impl Into<String>) -> ApiError {
        let message = message.into();
        tracing::error!("a request failed: {message}");
        ApiError::new(Code::Internal, message, "see the server's log")
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (status, Json(ErrorAnswer { version: VERSION, error: self.0 })).into_response()
    }
}

impl From<RuntimeError> for ApiError {
    fn from(error: RuntimeError) -> ApiError {
        ApiError::internal(causes(&error))
    }
}

impl From<SubmitError> for ApiError {
    fn from(error: SubmitError) -> ApiError {
        let message = error.to_string();
        match error {
            SubmitError::Illegal(_) => {
                ApiError::new(Code::Illegal, message, "see 'tidegate status' for what is so now")
            }
            SubmitError::NoSpace => {
                ApiError::new(Code::NoSpace, message, "free some disk space and try again")
            }
            SubmitError::Busy { .. } => ApiError::new(Code::Busy, message, "try again"),
            SubmitError::Store(error) => error.into(),
        }
    }
}

impl From<NotAdopted> for ApiError {
    fn from(error: NotAdopted) -> ApiError {
        match error {
            NotAdopted::Refused { message, hint } => ApiError::new(Code::Illegal, message, hint),
            NotAdopted::Submit(error @ SubmitError::Illegal(_)) => {
                let hint = "hand over every box of each target of an environment, as the definition says, or none of it; \
                            see 'tidegate status --json' for its targets and what they run";
                ApiError::new(Code::Illegal, error.to_string(), hint)
            }
            NotAdopted::Submit(error) => error.into(),
            NotAdopted::Failed(why) => ApiError::internal(why),
        }
    }
}

impl From<ApplyError> for ApiError {
    fn from(error: ApplyError) -> ApiError {
        match error {
            ApplyError::Wrong(wrong) => {
                let findings = wrong.into_iter().map(|wrong| document::plain(wrong.finding)).collect();
                ApiError::definitions(findings)
            }
            ApplyError::NoOrganisation => {
                let hint = "apply the organisation's definition first";
                ApiError::new(Code::Illegal, error.to_string(), hint)
            }
            ApplyError::Submit(error) => error.into(),
            ApplyError::Runtime(error) => error.into(),
        }
    }
}

impl From<AuthError> for ApiError {
    fn from(error: AuthError) -> ApiError {
        ApiError::internal(causes(&error))
    }
}

impl From<InvalidId> for ApiError {
    fn from(error: InvalidId) -> ApiError {
        ApiError::bad(error.to_string(), "mend the name")
    }
}

impl From<VerifyError> for ApiError {
    fn from(error: VerifyError) -> ApiError {
        let body = crate::offline::broken(&error);
        tracing::error!("{}", body.message);
        ApiError(body)
    }
}

impl From<NotFound> for ApiError {
    fn from(error: NotFound) -> ApiError {
        let code = match error {
            NotFound::Unknown(_) => Code::NotFound,
            NotFound::Ambiguous(_) => Code::Ambiguous,
        };
        ApiError::new(code, error.to_string(), "see 'tidegate status' for the commits that are known")
    }
}

//! Backups. The answer comes in lines: a large one takes longer than an answer may take to begin.

use super::extract::{Body, Caller};
use super::{Api, ApiError, act};
use crate::backup::{BackupError, Backups};
use axum::body::Body as Bytes;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use futures_util::Stream;
use std::convert::Infallible;
use std::error::Error;
use std::io::{self, ErrorKind};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tidegate_api::{BackupLine, BackupRequest, Code, ErrorAnswer};
use tidegate_core::causes;
use tidegate_core::units::Timestamp;
use tokio::sync::oneshot;

/// How often a backup that goes on says so.
const WORKING_EVERY: Duration = Duration::from_secs(2);

/// Makes a backup in a folder of the server's machine. Only administrators may. It goes on also if nobody listens any more.
#[utoipa::path(post, path = "/v1/backups", request_body = BackupRequest, security(("token" = [])),
    responses((status = 200, content_type = "application/x-ndjson", body = BackupLine),
        (status = 403, body = ErrorAnswer)))]
pub(super) async fn back_up(
    State(api): State<Api>,
    caller: Caller,
    Body(request): Body<BackupRequest>,
) -> Result<Response, ApiError> {
    let now = api
        .run(move |runtime| {
            act::administrator(runtime, &caller)?;
            Ok(runtime.now())
        })
        .await?;
    let backups = api.collaborators.backups().ok_or_else(|| {
        ApiError::new(Code::Illegal, "this server keeps nothing on a disk", "there is nothing to back up")
    })?;
    let lines = lines(begin(backups, request.into.into(), now));
    Ok(([(CONTENT_TYPE, "application/x-ndjson")], Bytes::from_stream(lines)).into_response())
}

/// A backup that is being made.
struct Making {
    bytes: Arc<AtomicU64>,
    end: Option<oneshot::Receiver<BackupLine>>,
}

fn begin(backups: Arc<Backups>, into: PathBuf, now: Timestamp) -> Making {
    let bytes = Arc::<AtomicU64>::default();
    let (told, end) = oneshot::channel();
    let counted = Arc::clone(&bytes);
    tokio::task::spawn_blocking(move || {
        let made = backups.make(&into, now, &mut |bytes| counted.store(bytes, Ordering::Relaxed));
        let line = match made {
            Ok(made) => {
                tracing::info!(into = made.into, bytes = made.bytes, "a backup was made");
                BackupLine::Made(made)
            }
            Err(error) => {
                tracing::warn!(into = %into.display(), "no backup was made: {}", causes(&error));
                BackupLine::Failed(refusal(&error).0)
            }
        };
        // Whether anybody still listens is no matter of the backup's.
        let _ = told.send(line);
    });
    Making { bytes, end: Some(end) }
}

fn refusal(error: &BackupError) -> ApiError {
    let message = causes(error);
    match error {
        BackupError::Busy => ApiError::new(Code::Busy, message, "wait for its end"),
        BackupError::Place { .. } => {
            ApiError::bad(message, "name a new folder outside of the data directory")
        }
        _ if is_full(error) => ApiError::new(
            Code::NoSpace,
            message,
            "name a folder on a disk with more room; nothing was left behind",
        ),
        _ => ApiError::new(Code::Internal, message, "nothing was left behind; see the server's log"),
    }
}

/// Whether a full disk is beneath it.
fn is_full(error: &BackupError) -> bool {
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if error.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == ErrorKind::StorageFull) {
            return true;
        }
        cause = error.source();
    }
    false
}

fn lines(making: Making) -> impl Stream<Item = Result<String, Infallible>> {
    futures_util::stream::unfold(making, |mut making| async move {
        let end = making.end.as_mut()?;
        let line = match tokio::time::timeout(WORKING_EVERY, end).await {
            Err(_) => BackupLine::Working { bytes: making.bytes.load(Ordering::Relaxed) },
            Ok(Ok(line)) => {
                making.end = None;
                line
            }
            Ok(Err(_)) => {
                making.end = None;
                BackupLine::Failed(ApiError::internal("the backup broke off").0)
            }
        };
        let text = serde_json::to_string(&line).unwrap_or_default() + "\n";
        Some((Ok(text), making))
    })
}

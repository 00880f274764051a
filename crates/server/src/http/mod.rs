//! The HTTP API. Handlers extract, convert, call and convert; what may be done by whom is asked in [`act`], and everything
//! is decided by the runtime. Every answer is JSON with a version, errors included; every request is bounded in size,
//! time and number.

mod act;
mod backup;
mod definitions;
mod error;
mod events;
mod extract;
mod gc;
mod limiter;
mod log;
mod metrics;
mod orders;
mod outside;
mod read;
mod secrets;
pub(crate) mod standby;
#[cfg(test)]
mod tests;
mod webhooks;

pub use error::ApiError;

use crate::adopt::NotAdopted;
use crate::apply::Applier;
use crate::auth::Tokens;
use crate::backup::Backups;
use crate::estimates::Estimator;
use crate::telemetry::Page;
use axum::extract::{DefaultBodyLimit, Request};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use futures_util::future::BoxFuture;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tidegate_api::{
    AdoptRequest, Adopted, Code, Endpoint, GcAnswer, PackagesVerified, StandbyStatus, WorkTrouble,
};
use tidegate_core::decision::Actor;
use tidegate_core::ids::{PipelineId, ReleaseNo};
use tidegate_runtime::Runtime;
use tidegate_workers::secrets::SecretStore;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use utoipa::OpenApi;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// The largest request body, in bytes: a definition of 30,000 lines.
pub const BODY_MAX_BYTES: usize = 4 << 20;
/// The largest body of definitions that are applied together, in bytes: those of a few thousand pipelines.
pub const DEFINITIONS_MAX_BYTES: usize = 64 << 20;
/// How long a request may take until its answer begins, in milliseconds. Applying an organisation looks at every pipeline.
pub const REQUEST_LIMIT_MS: u64 = 60_000;
/// How many requests read or write states at once; the others wait for their turn within their time.
pub const REQUESTS_AT_ONCE_MAX: usize = 32;
/// How many clients follow events at once.
pub const EVENT_STREAMS_MAX: usize = 256;

/// What the API needs of the rest of the server and does not do itself.
pub trait Collaborators: Send + Sync {
    /// A repository has new commits: look now.
    fn source_changed(&self, url: &str);
    /// A webhook says that a repository, or what is said of it, has changed: look soon. It may be called a thousand times a second.
    fn source_hinted(&self, url: &str) {
        self.source_changed(url);
    }
    /// The file with the output of a release's build; it may grow, and may not be there (any more).
    fn build_log(&self, pipeline: &PipelineId, release: ReleaseNo) -> PathBuf;
    /// What tidegate has to do and cannot at present, oldest first.
    fn troubles(&self) -> Vec<WorkTrouble>;
    /// Servers that wait to take over from this one.
    fn standbys(&self) -> Vec<StandbyStatus> {
        Vec::new()
    }
    /// Where services are called; an error is told to the caller in its words.
    fn endpoints(&self) -> BoxFuture<'_, Result<Vec<Endpoint>, String>>;
    /// The secrets that definitions name.
    fn secrets(&self) -> &SecretStore;
    /// Takes over what a request names, or only looks.
    fn adopt<'a>(
        &'a self,
        pipeline: &'a PipelineId,
        request: &'a AdoptRequest,
        by: &'a Actor,
    ) -> BoxFuture<'a, Result<Adopted, NotAdopted>>;
    /// Reads every package and compares it with its digest and signature.
    fn verify_packages(&self) -> BoxFuture<'_, Result<PackagesVerified, String>>;
    /// Writes figures about what the server does beside the runtime; it may block. With `by_pipeline` also those of each
    /// pipeline in which something moves.
    fn measure(&self, _page: &mut Page, _by_pipeline: bool) {}
    /// Removes what nobody needs any more, or only tells what that is; none while a build runs that may need what nobody knows of
    /// yet.
    fn collect(&self, _dry_run: bool) -> BoxFuture<'_, Option<Result<GcAnswer, String>>> {
        Box::pin(std::future::ready(None))
    }
    /// Makes backups; none where nothing is on a disk.
    fn backups(&self) -> Option<Arc<Backups>> {
        None
    }
}

/// What handlers work with.
#[derive(Clone)]
pub struct Api {
    runtime: Arc<Runtime>,
    tokens: Arc<Tokens>,
    collaborators: Arc<dyn Collaborators>,
    commits: watch::Receiver<u64>,
    stop: CancellationToken,
    turns: Arc<Semaphore>,
    streams: Arc<Semaphore>,
    words: Arc<limiter::Limiter>,
    newest: Arc<outside::Newest>,
    webhooks: Arc<webhooks::Webhooks>,
    estimator: Arc<Estimator>,
    applier: Applier,
}

impl Api {
    /// `commits` changes with every commit of the runtime; event streams end when it is gone or `stop` is cancelled.
    pub fn new(
        runtime: Arc<Runtime>,
        applier: Applier,
        tokens: Arc<Tokens>,
        collaborators: Arc<dyn Collaborators>,
        commits: watch::Receiver<u64>,
        stop: CancellationToken,
    ) -> Api {
        Api {
            runtime,
            tokens,
            collaborators,
            commits,
            stop,
            turns: Arc::new(Semaphore::new(REQUESTS_AT_ONCE_MAX)),
            streams: Arc::new(Semaphore::new(EVENT_STREAMS_MAX)),
            words: Arc::default(),
            newest: Arc::default(),
            webhooks: Arc::default(),
            estimator: Arc::default(),
            applier,
        }
    }

    /// Does what reads or writes states, in its turn, where it may block.
    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Runtime) -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let turn = Arc::clone(&self.turns).acquire_owned().await;
        let turn = turn.map_err(|_| ApiError::internal("the server is ending"))?;
        let runtime = Arc::clone(&self.runtime);
        let done = tokio::task::spawn_blocking(move || {
            let result = work(&runtime);
            drop(turn);
            result
        });
        done.await.map_err(|error| ApiError::internal(format!("a request's work ended early: {error}")))?
    }
}

#[derive(OpenApi)]
#[openapi(info(
    title = "tidegate",
    description = "Takes every reviewed commit to production safely and by itself, and takes it back by itself.",
    license(name = "Apache-2.0", identifier = "Apache-2.0"),
))]
struct Description;

/// All routes.
pub fn router(api: Api) -> axum::Router {
    let large = DefaultBodyLimit::max(DEFINITIONS_MAX_BYTES);
    let message = DefaultBodyLimit::max(outside::MESSAGE_MAX_BYTES);
    let (router, mut openapi) = OpenApiRouter::with_openapi(Description::openapi())
        .routes(routes!(read::health))
        .routes(routes!(metrics::metrics))
        .routes(routes!(read::status))
        .routes(routes!(read::why))
        .routes(routes!(log::log))
        .routes(routes!(log::verify_log))
        .routes(routes!(read::endpoints))
        .routes(routes!(read::verify_packages))
        .routes(routes!(read::build_log))
        .routes(routes!(events::events))
        .routes(routes!(definitions::organisation, definitions::put_organisation))
        .routes(routes!(definitions::put_pipeline))
        .routes(routes!(definitions::pipeline))
        .merge(OpenApiRouter::new().routes(routes!(definitions::put_definitions)).layer(large))
        .routes(routes!(orders::approve))
        .routes(routes!(orders::place_hold))
        .routes(routes!(orders::lift_hold))
        .routes(routes!(orders::override_blockers))
        .routes(routes!(orders::skip_region))
        .routes(routes!(orders::lift_skip))
        .routes(routes!(orders::retire))
        .routes(routes!(orders::adopt))
        .routes(routes!(orders::roll_back))
        .routes(routes!(orders::retry))
        .routes(routes!(orders::raise_alarm, orders::clear_alarm))
        .routes(routes!(outside::report))
        .merge(OpenApiRouter::new().routes(routes!(outside::alertmanager)).layer(message))
        .routes(routes!(webhooks::webhook))
        .routes(routes!(orders::notify))
        .routes(routes!(orders::create_token))
        .routes(routes!(orders::revoke_tokens))
        .routes(routes!(backup::back_up))
        .routes(routes!(gc::collect))
        .routes(routes!(secrets::secret_names))
        .routes(routes!(secrets::set_secret, secrets::remove_secret))
        .split_for_parts();
    let bearer = SecurityScheme::Http(HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build());
    openapi.components.get_or_insert_default().add_security_scheme("token", bearer);
    let openapi: Arc<str> = openapi.to_json().unwrap_or_default().into();
    router
        .route("/v1/openapi.json", get(move || std::future::ready(read::json_text(openapi.to_string()))))
        .route("/v1/schemas/{name}", get(definitions::schema))
        .fallback(|| async { ApiError::new(Code::NotFound, "there is no such path", "see /v1/openapi.json") })
        .method_not_allowed_fallback(|| async {
            ApiError::new(Code::BadRequest, "this path does not take this method", "see /v1/openapi.json")
        })
        .layer(DefaultBodyLimit::max(BODY_MAX_BYTES))
        .layer(axum::middleware::from_fn(limited))
        .with_state(api)
}

/// Ends a request whose answer does not begin in time. What it had begun to record may yet be recorded.
async fn limited(request: Request, next: Next) -> Response {
    let limit = Duration::from_millis(REQUEST_LIMIT_MS);
    match tokio::time::timeout(limit, next.run(request)).await {
        Ok(response) => response,
        Err(_) => {
            let hint = "look with 'tidegate status' whether it was done, and try again";
            ApiError::new(Code::TimedOut, "the request took too long", hint).into_response()
        }
    }
}

//! The control socket: extract, convert, call, convert. Only the owner of the data folder can open it.

use crate::FleetEnd;
use crate::error::FleetError;
use crate::protocol::{
    BreakGlass, CONTROL_BODY_MAX_BYTES, Code, Endpoints, LOG_TAIL_BYTES, PROTOCOL_HEADER, PROTOCOL_OLDEST,
    PROTOCOL_VERSION, Protocols, Refusal, SOCKET_NAME, SetEndpoint, SetSlot, Status, Stop, Upgrading,
    WATCH_HOLD_MAX_MS,
};
use crate::shared::Shared;
use crate::slots::{self, Supervisor};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::Duration;
use tidegate_core::ids::TargetId;
use tokio::net::UnixListener;
use tokio::sync::{Semaphore, mpsc};

/// The most connections to the control socket at one time.
const CONTROL_CONNECTIONS_MAX: usize = 256;
/// How long a control connection may take to send a request's head, in milliseconds.
const CONTROL_HEAD_LIMIT_MS: u64 = 30_000;

/// What the handlers need.
#[derive(Debug, Clone)]
pub(crate) struct Api {
    pub(crate) shared: Arc<Shared>,
    pub(crate) supervisor: Arc<Supervisor>,
    pub(crate) end: mpsc::Sender<FleetEnd>,
}

/// Opens the control socket. It takes the path over from a socket that was there, in one step.
pub(crate) fn bind(shared: &Shared) -> Result<UnixListener, FleetError> {
    let path = shared.data.path(SOCKET_NAME);
    let temporary = shared.data.path(format!("{SOCKET_NAME}.new"));
    let open = || -> std::io::Result<UnixListener> {
        match std::fs::remove_file(&temporary) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let listener = UnixListener::bind(&temporary)?;
        std::fs::set_permissions(&temporary, std::fs::Permissions::from_mode(0o600))?;
        std::fs::rename(&temporary, &path)?;
        Ok(listener)
    };
    open().map_err(|source| FleetError::Listen { path: path.clone(), source })
}

/// Serves the control socket until it is dropped.
pub(crate) async fn serve(listener: UnixListener, api: Api) {
    let slots = Arc::new(Semaphore::new(CONTROL_CONNECTIONS_MAX));
    loop {
        let Ok(permit) = Arc::clone(&slots).acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "failed to accept on the control socket");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let api = api.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let api = api.clone();
                async move { Ok::<_, Infallible>(answer(&api, request).await) }
            });
            // A client that breaks off is its own affair.
            let _ = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(Duration::from_millis(CONTROL_HEAD_LIMIT_MS))
                .serve_connection(TokioIo::new(stream), service)
                .await;
            drop(permit);
        });
    }
}

async fn answer(api: &Api, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let (content_type, status, body) = match route(api, request).await {
        Ok(Answer::Json(body)) => ("application/json", 200, body),
        Ok(Answer::Text(body)) => ("text/plain", 200, body),
        Err(refusal) => {
            ("application/json", refusal.status(), serde_json::to_vec(&refusal).unwrap_or_default())
        }
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(content_type));
    response
}

enum Answer {
    Json(Vec<u8>),
    Text(Vec<u8>),
}

fn json(value: &impl Serialize) -> Result<Answer, Refusal> {
    serde_json::to_vec(value).map(Answer::Json).map_err(|e| Refusal::new(Code::Internal, e.to_string()))
}

async fn route(api: &Api, request: Request<Incoming>) -> Result<Answer, Refusal> {
    let (head, body) = request.into_parts();
    let query = query(head.uri.query().unwrap_or_default());
    let shared = &api.shared;
    if shared.is_frozen() {
        return Err(Refusal::new(Code::HandedOver, "another process has taken over this fleet"));
    }
    // These mean the same in every protocol: they are how parties that do not understand each other get out of that.
    if !matches!(head.uri.path(), "/v1/status" | "/v1/stop" | "/v1/upgrade") {
        check_protocol(&head.headers)?;
    }
    match (&head.method, head.uri.path()) {
        (&Method::PUT, "/v1/slots") => {
            let set: SetSlot = read(body).await?;
            let supervisor = Arc::clone(&api.supervisor);
            json(&blocking(move || supervisor.set(set)).await?)
        }
        (&Method::POST, "/v1/glass") => {
            let order: BreakGlass = read(body).await?;
            let supervisor = Arc::clone(&api.supervisor);
            json(&blocking(move || supervisor.break_glass(&order)).await?)
        }
        (&Method::GET, "/v1/slots") => json(&shared.board.observations(0)),
        (&Method::GET, "/v1/watch") => watch(shared, number(&query, "after")?).await,
        (&Method::GET, "/v1/metrics") => {
            let after = number(&query, "after_second")?;
            json(&crate::metrics::lock(&shared.metrics.retained).page(after))
        }
        (&Method::GET, "/v1/endpoints") => json(&Endpoints { endpoints: shared.endpoints.list() }),
        (&Method::PUT, "/v1/endpoints") => set_endpoint(api, read(body).await?).await,
        (&Method::GET, "/v1/status") => json(&Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            protocol: PROTOCOL_VERSION,
            oldest: PROTOCOL_OLDEST,
            pid: std::process::id(),
            highest_epoch: api.supervisor.highest_epoch(),
            boxes: u32::try_from(shared.board.boxes()).unwrap_or(u32::MAX),
        }),
        (&Method::GET, "/v1/boxes/log") => log(shared, &query),
        (&Method::POST, "/v1/stop") => {
            let stop: Stop = read(body).await?;
            let end = if stop.boxes { FleetEnd::StopWithBoxes } else { FleetEnd::Stop };
            // A full channel means that it is ending already.
            let _ = api.end.try_send(end);
            json(&())
        }
        (&Method::POST, "/v1/upgrade") => {
            let pid = crate::handover::spawn_successor(&shared.config)
                .map_err(|e| Refusal::new(Code::Internal, format!("failed to start the successor: {e}")))?;
            json(&Upgrading { pid })
        }
        (method, path) => Err(Refusal::new(Code::NotFound, format!("there is no {method} {path}"))),
    }
}

/// Refuses what is said in a protocol that this program does not speak.
fn check_protocol(headers: &header::HeaderMap) -> Result<(), Refusal> {
    let asked = match headers.get(PROTOCOL_HEADER) {
        // Before there was a choice.
        None => Some(1),
        Some(value) => value.to_str().ok().and_then(|text| text.parse::<u32>().ok()),
    };
    let own = Protocols::OWN;
    match asked {
        Some(asked) if (own.oldest..=own.newest).contains(&asked) => Ok(()),
        Some(asked) => {
            let why = format!("this fleet speaks protocol {own}, and was asked in {asked}");
            Err(Refusal::new(Code::OtherProtocol, why))
        }
        None => Err(Refusal::new(Code::BadCommand, format!("{PROTOCOL_HEADER} is to be a number"))),
    }
}

async fn watch(shared: &Shared, after: u64) -> Result<Answer, Refusal> {
    let mut changes = shared.board.changes();
    let hold = Duration::from_millis(WATCH_HOLD_MAX_MS);
    // A version from the future is answered at once, with everything; a timeout means that nothing changed.
    let _ = tokio::time::timeout(hold, changes.wait_for(|version| *version != after)).await;
    if shared.is_frozen() {
        return Err(Refusal::new(Code::HandedOver, "another process has taken over this fleet"));
    }
    json(&shared.board.observations(after))
}

async fn set_endpoint(api: &Api, set: SetEndpoint) -> Result<Answer, Refusal> {
    let supervisor = Arc::clone(&api.supervisor);
    let key = set.endpoint.clone();
    blocking(move || supervisor.ensure_endpoint(&set.endpoint, set.listen, false)).await?;
    let made = api.shared.endpoints.list().into_iter().find(|e| e.endpoint == key);
    json(&made.ok_or_else(|| Refusal::new(Code::Internal, "the endpoint was not made"))?)
}

fn log(shared: &Shared, query: &BTreeMap<String, String>) -> Result<Answer, Refusal> {
    let none = || Refusal::new(Code::NotFound, "there is no such box");
    let target: TargetId = query.get("target").and_then(|t| t.parse().ok()).ok_or_else(none)?;
    let path = query.get("box").and_then(|id| slots::log_path(shared, &target, id)).ok_or_else(none)?;
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = std::fs::File::open(&path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL_BYTES)))?;
        let mut text = Vec::new();
        file.take(LOG_TAIL_BYTES).read_to_end(&mut text)?;
        Ok(text)
    };
    read().map(Answer::Text).map_err(|e| Refusal::new(Code::Internal, format!("failed to read the log: {e}")))
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Refusal> + Send + 'static,
) -> Result<T, Refusal> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|e| Err(Refusal::new(Code::Internal, format!("the command broke off: {e}"))))
}

async fn read<T: DeserializeOwned>(body: Incoming) -> Result<T, Refusal> {
    let bad = |why: String| Refusal::new(Code::BadJson, why);
    let bytes = Limited::new(body, CONTROL_BODY_MAX_BYTES)
        .collect()
        .await
        .map_err(|e| bad(e.to_string()))?
        .to_bytes();
    serde_json::from_slice(&bytes).map_err(|e| bad(e.to_string()))
}

/// The pairs of a query; none of the values here ever needs escaping.
fn query(text: &str) -> BTreeMap<String, String> {
    text.split('&')
        .filter_map(|pair| pair.split_once('='))
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .collect()
}

fn number<N: std::str::FromStr>(query: &BTreeMap<String, String>, name: &str) -> Result<N, Refusal> {
    query
        .get(name)
        .and_then(|n| n.parse().ok())
        .ok_or_else(|| Refusal::new(Code::BadCommand, format!("a number is expected as {name}")))
}

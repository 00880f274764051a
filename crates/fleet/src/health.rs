//! What is asked of one box by HTTP: whether it is healthy, and that it takes up its configuration.

use crate::pool::{Connection, Failed, Upload};
use crate::procfs;
use crate::route::Upstream;
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::{Method, Request, Response, header};
use std::time::Duration;
use tidegate_core::run_spec::HealthCheck;

/// How much is read of an answer that says why, in bytes.
const REASON_MAX_BYTES: usize = 16 << 10;
/// The longest reason that is shown, in characters.
const REASON_MAX_CHARS: usize = 200;

/// Asks the box once. The error says what was seen, for people.
pub(crate) async fn check(upstream: &Upstream, health: &HealthCheck) -> Result<(), String> {
    let limit = Duration::from(health.timeout);
    match tokio::time::timeout(limit, ask(upstream, &health.path)).await {
        Ok(result) => result,
        Err(_) => Err(format!("GET {} got no answer within {}", health.path, health.timeout)),
    }
}

async fn ask(upstream: &Upstream, path: &str) -> Result<(), String> {
    let answer = call(upstream, Method::GET, path, "tidegate-health").await?;
    if answer.status().is_success() {
        Ok(())
    } else {
        Err(format!("GET {path} answered {}", answer.status()))
    }
}

/// Tells the box that its configuration has changed. The error says why it cannot work with it, as it answered.
pub(crate) async fn reload(upstream: &Upstream, path: &str) -> Result<(), String> {
    let answer = call(upstream, Method::POST, path, "tidegate-configuration").await?;
    let status = answer.status();
    if status.is_success() {
        return Ok(());
    }
    let body = Limited::new(answer.into_body(), REASON_MAX_BYTES).collect().await;
    let body = body.map(|body| body.to_bytes()).unwrap_or_default();
    let text = String::from_utf8_lossy(&body);
    let line: String =
        text.lines().next().unwrap_or_default().trim().chars().take(REASON_MAX_CHARS).collect();
    let colon = if line.is_empty() { "" } else { ": " };
    Err(format!("POST {path} answered {status}{colon}{line}"))
}

async fn call(
    upstream: &Upstream,
    method: Method,
    path: &str,
    agent: &'static str,
) -> Result<Response<Incoming>, String> {
    let mut connection =
        Connection::open(upstream).await.map_err(|e| format!("it does not accept connections: {e}"))?;
    let request = Request::builder()
        .method(&method)
        .uri(path)
        .header(header::HOST, upstream.address.to_string())
        .header(header::USER_AGENT, agent)
        .header(header::CONNECTION, "close")
        .body(Upload::none())
        .map_err(|e| format!("the path {path} is not valid: {e}"))?;
    connection.exchange(request).await.map_err(|failed| match failed {
        Failed::NotSent(_) => format!("{method} {path}: the connection was closed"),
        Failed::Broken(e) => format!("{method} {path}: {e}"),
    })
}

/// Whether it is the box's own process that listens, and not another one that came first to its port.
pub(crate) async fn owns_port(session: u32, port: u16) -> Result<(), String> {
    let listens = tokio::task::spawn_blocking(move || procfs::session_listens(session, port)).await;
    match listens {
        Ok(Some(false)) => Err(format!("another process listens on its port {port}")),
        // Where /proc does not tell, the answer to the health check has to do.
        _ => Ok(()),
    }
}

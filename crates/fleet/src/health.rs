//! One HTTP health check of one box.

use crate::pool::{Connection, Failed, Upload};
use crate::procfs;
use crate::route::Upstream;
use hyper::Request;
use hyper::header;
use std::time::Duration;
use tidegate_core::run_spec::HealthCheck;

/// Asks the box once. The error says what was seen, for people.
pub(crate) async fn check(upstream: &Upstream, health: &HealthCheck) -> Result<(), String> {
    let limit = Duration::from(health.timeout);
    match tokio::time::timeout(limit, ask(upstream, &health.path)).await {
        Ok(result) => result,
        Err(_) => Err(format!("GET {} got no answer within {}", health.path, health.timeout)),
    }
}

async fn ask(upstream: &Upstream, path: &str) -> Result<(), String> {
    let mut connection =
        Connection::open(upstream).await.map_err(|e| format!("it does not accept connections: {e}"))?;
    let request = Request::builder()
        .uri(path)
        .header(header::HOST, upstream.address.to_string())
        .header(header::USER_AGENT, "tidegate-health")
        .header(header::CONNECTION, "close")
        .body(Upload::none())
        .map_err(|e| format!("the health check's path {path} is not valid: {e}"))?;
    let answer = connection.exchange(request).await.map_err(|failed| match failed {
        Failed::NotSent(_) => format!("GET {path}: the connection was closed"),
        Failed::Broken(e) => format!("GET {path}: {e}"),
    })?;
    if answer.status().is_success() {
        Ok(())
    } else {
        Err(format!("GET {path} answered {}", answer.status()))
    }
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

//! What a server answers that waits: to every question the same, that it is a standby, and which server works.

use super::ApiError;
use crate::standby::Holder;
use axum::Router;
use axum::response::IntoResponse;
use tidegate_api::Code;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Answers until the wait is over. Requests that are under way then get their answer; the next ones are for whoever listens next.
pub(crate) async fn serve(listener: TcpListener, holder: watch::Receiver<Holder>, over: CancellationToken) {
    let answer = move || {
        let answer = refusal(&holder.borrow());
        async move { answer.into_response() }
    };
    let router = Router::new().fallback(answer);
    let served = axum::serve(listener, router).with_graceful_shutdown(over.cancelled_owned()).await;
    if let Err(error) = served {
        tracing::warn!("the standby does not answer any more: {error}");
    }
}

fn refusal(holder: &Holder) -> ApiError {
    let hint = match holder.url() {
        Some(url) => format!("ask {url}; this one answers once it has taken over"),
        None => "ask again in a moment".to_owned(),
    };
    ApiError::new(Code::Standby, format!("this server is a standby: {holder}"), hint)
}

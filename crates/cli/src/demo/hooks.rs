//! A webhook receiver on loopback: what the on-call's pager is in the demo. It keeps every JSON document that is posted
//! to it, in the order of arrival, and lets a caller wait for one.

use axum::Router;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{StatusCode, Uri};
use axum::routing::post;
use serde_json::Value;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};

/// The largest document that is taken; a larger one is answered with 413.
const BODY_MAX_BYTES: usize = 256 * 1024;
/// As many documents are kept; a further one is answered with 507.
const HOOKS_MAX: usize = 10_000;

/// A document that was posted.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Hook {
    /// The path of the URL that it was posted to.
    pub(crate) path: String,
    /// When it arrived.
    pub(crate) received: SystemTime,
    /// The document.
    pub(crate) body: Value,
}

/// The receiver; it stops when it is dropped.
pub(crate) struct HookReceiver {
    address: SocketAddr,
    inbox: Arc<Inbox>,
    server: JoinHandle<()>,
}

struct Inbox {
    hooks: Mutex<Vec<Hook>>,
    count: watch::Sender<usize>,
}

impl Inbox {
    /// A push is all that happens under the lock, so what a panicking thread left behind is whole.
    fn hooks(&self) -> MutexGuard<'_, Vec<Hook>> {
        self.hooks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl HookReceiver {
    /// Listens on a free port of 127.0.0.1.
    ///
    /// # Errors
    /// When no port can be had.
    pub(crate) async fn start() -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let inbox = Arc::new(Inbox { hooks: Mutex::new(Vec::new()), count: watch::Sender::new(0) });
        let router = Router::new()
            .route("/", post(receive))
            .route("/{*path}", post(receive))
            .layer(DefaultBodyLimit::max(BODY_MAX_BYTES))
            .with_state(inbox.clone());
        let server = tokio::spawn(async move {
            // It accepts until the task is aborted; accept errors are retried by axum.
            let _ = axum::serve(listener, router).await;
        });
        Ok(Self { address, inbox, server })
    }

    /// The URL to post to; a path may be added to it, such as `/pager`.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    #[cfg(test)]
    /// All documents so far, the oldest first.
    pub(crate) fn hooks(&self) -> Vec<Hook> {
        self.inbox.hooks().clone()
    }

    /// The first document that the predicate accepts, whether it is there already or arrives within the time given.
    pub(crate) async fn wait_for(&self, predicate: impl Fn(&Hook) -> bool, within: Duration) -> Option<Hook> {
        let deadline = Instant::now() + within;
        let mut count = self.inbox.count.subscribe();
        let mut seen = 0;
        loop {
            count.mark_unchanged();
            {
                let hooks = self.inbox.hooks();
                if let Some(hook) = hooks[seen..].iter().find(|hook| predicate(hook)) {
                    return Some(hook.clone());
                }
                seen = hooks.len();
            }
            timeout_at(deadline, count.changed()).await.ok()?.ok()?;
        }
    }
}

impl Drop for HookReceiver {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn receive(State(inbox): State<Arc<Inbox>>, uri: Uri, body: String) -> StatusCode {
    let Ok(body) = serde_json::from_str(&body) else { return StatusCode::BAD_REQUEST };
    let count = {
        let mut hooks = inbox.hooks();
        if hooks.len() >= HOOKS_MAX {
            return StatusCode::INSUFFICIENT_STORAGE;
        }
        hooks.push(Hook { path: uri.path().to_string(), received: SystemTime::now(), body });
        hooks.len()
    };
    inbox.count.send_replace(count);
    StatusCode::NO_CONTENT
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    const WITHIN: Duration = Duration::from_secs(10);

    async fn post_text(receiver: &HookReceiver, path: &str, body: &str) -> u16 {
        let mut stream = TcpStream::connect(receiver.address).await.unwrap();
        let length = body.len();
        let request = format!(
            "POST {path} HTTP/1.1\r\nhost: h\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer.split(' ').nth(1).unwrap().parse().unwrap()
    }

    #[tokio::test]
    async fn keeps_documents_in_order_and_finds_one() {
        let receiver = HookReceiver::start().await.unwrap();
        assert_eq!(receiver.url(), format!("http://127.0.0.1:{}", receiver.address.port()));
        assert_eq!(post_text(&receiver, "/", r#"{"n": 1}"#).await, 204);
        assert_eq!(post_text(&receiver, "/pager", r#"{"n": 2}"#).await, 204);
        let kept: Vec<_> = receiver.hooks().into_iter().map(|hook| (hook.path, hook.body)).collect();
        assert_eq!(kept, [("/".to_string(), json!({"n": 1})), ("/pager".to_string(), json!({"n": 2}))]);
        let found = receiver.wait_for(|hook| hook.body["n"] == 2, WITHIN).await.unwrap();
        assert_eq!(found.path, "/pager");
    }

    #[tokio::test]
    async fn waits_for_one_that_comes_later() {
        let receiver = HookReceiver::start().await.unwrap();
        let (found, status) = tokio::join!(
            receiver.wait_for(|hook| hook.path == "/pager", WITHIN),
            post_text(&receiver, "/pager", "[]")
        );
        assert_eq!((found.unwrap().body, status), (json!([]), 204));
    }

    #[tokio::test]
    async fn does_not_wait_for_ever() {
        let receiver = HookReceiver::start().await.unwrap();
        assert_eq!(post_text(&receiver, "/", "1").await, 204);
        assert_eq!(receiver.wait_for(|hook| hook.path == "/pager", Duration::from_millis(20)).await, None);
    }

    #[tokio::test]
    async fn refuses_what_is_no_json_or_too_large() {
        let receiver = HookReceiver::start().await.unwrap();
        assert_eq!(post_text(&receiver, "/", "no json").await, 400);
        assert_eq!(post_text(&receiver, "/", &format!("\"{}\"", "x".repeat(BODY_MAX_BYTES))).await, 413);
        assert_eq!(receiver.hooks(), []);
    }
}

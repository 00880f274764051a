//! Connections to boxes. A connection is driven by the request that uses it and by nobody while it is idle, so a request
//! costs no change of task or thread: each of the proxy's threads keeps its own. Whether an idle one was closed meanwhile is
//! seen when it is taken.
//!
//! What must hold: a connection returns to the pool only when its last exchange is wholly done; none is used that was
//! idle for longer than [`IDLE_MAX_MS`], which is well below the time after which servers close idle connections (the
//! shortest default in use is 2 s), so a box does not close one just as a request goes out on it.

use crate::listen::ClientSide;
use crate::metrics::lock;
use crate::route::Upstream;
use crate::threads;
use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::client::conn::http1::{Builder, Connection as Driver, SendRequest};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};
use tokio::net::TcpStream;

/// The longest time that a connection to a box stays idle and is used again, in milliseconds. Boxes must keep idle
/// connections open for longer.
pub const IDLE_MAX_MS: u64 = 1_000;
/// The most idle connections to one box.
pub(crate) const IDLE_PER_BOX_MAX: usize = 512;
/// The longest request body in bytes.
pub(crate) const REQUEST_BODY_MAX_BYTES: u64 = 1 << 30;
/// The longest head of an answer, and the most that is buffered of its body, in bytes.
const ANSWER_BUFFER_MAX_BYTES: usize = 256 << 10;
/// The longest time to connect to a box, in milliseconds: it is on this machine.
const CONNECT_LIMIT_MS: u64 = 1_000;

/// A request's body on its way to the box, with its limit.
#[derive(Debug)]
pub(crate) struct Upload {
    inner: Option<(Incoming, Arc<ClientSide>)>,
    left: u64,
}

impl Upload {
    pub(crate) fn new(inner: Incoming, client: &Arc<ClientSide>) -> Upload {
        let inner = (!inner.is_end_stream()).then(|| (inner, Arc::clone(client)));
        Upload { inner, left: REQUEST_BODY_MAX_BYTES }
    }

    /// No body.
    pub(crate) fn none() -> Upload {
        Upload { inner: None, left: 0 }
    }
}

/// Why a body broke off: it is longer than its limit, or the other side closed the connection.
pub(crate) type BodyError = Box<dyn std::error::Error + Send + Sync>;

impl Body for Upload {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Some((inner, client)) = &mut self.inner else { return Poll::Ready(None) };
        let Some(frame) = ready!(Pin::new(inner).poll_frame(cx)) else { return Poll::Ready(None) };
        let frame = frame?;
        client.activity.moved();
        if let Some(data) = frame.data_ref() {
            match self.left.checked_sub(data.len() as u64) {
                Some(left) => self.left = left,
                None => return Poll::Ready(Some(Err("the request body is too long".into()))),
            }
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(|(inner, _)| inner.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map_or_else(|| SizeHint::with_exact(0), |(inner, _)| inner.size_hint())
    }
}

/// A connection to a box, used by one request at a time.
#[derive(Debug)]
pub(crate) struct Connection {
    sender: SendRequest<Upload>,
    driver: Driver<TokioIo<TcpStream>, Upload>,
    closed: bool,
    idle_since: Instant,
}

/// Idle connections to one box by the thread that drives them; the newest last.
#[derive(Debug)]
pub(crate) struct Idle(Vec<Mutex<Vec<Connection>>>);

impl Default for Idle {
    fn default() -> Idle {
        Idle((0..threads::count()).map(|_| Mutex::default()).collect())
    }
}

impl Idle {
    fn pop(&self) -> Option<Connection> {
        lock(self.0.get(threads::current())?).pop()
    }

    fn push(&self, connection: Connection) {
        let Some(own) = self.0.get(threads::current()) else { return };
        let mut own = lock(own);
        if own.len() < IDLE_PER_BOX_MAX / self.0.len() {
            own.push(connection);
        }
    }

    /// Closes those of all threads that were idle for longer.
    fn close(&self, longer_than: Duration) {
        for idle in &self.0 {
            let mut idle = lock(idle);
            let old = idle.partition_point(|c| c.idle_since.elapsed() >= longer_than);
            let old: Vec<Connection> = idle.drain(..old).collect();
            drop(idle);
            drop(old);
        }
    }
}

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum Failed {
    /// The request never went out; here it is again.
    NotSent(Box<Request<Upload>>),
    /// The box may have seen it.
    Broken(hyper::Error),
}

impl Connection {
    /// Connects to a box.
    pub(crate) async fn open(upstream: &Upstream) -> std::io::Result<Connection> {
        let limit = Duration::from_millis(CONNECT_LIMIT_MS);
        let stream = tokio::time::timeout(limit, TcpStream::connect(upstream.address))
            .await
            .map_err(|_| std::io::Error::from(std::io::ErrorKind::TimedOut))??;
        stream.set_nodelay(true)?;
        let (sender, driver) = Builder::new()
            .max_buf_size(ANSWER_BUFFER_MAX_BYTES)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(std::io::Error::other)?;
        Ok(Connection { sender, driver, closed: false, idle_since: Instant::now() })
    }

    /// An idle connection that is still open and has not been idle for too long.
    pub(crate) fn take_idle(upstream: &Upstream) -> Option<Connection> {
        loop {
            let mut connection = upstream.idle.pop()?;
            if connection.idle_since.elapsed() > Duration::from_millis(IDLE_MAX_MS) {
                // Those below it have been idle for longer.
                close_old(upstream);
                return None;
            }
            connection.drive(&mut Context::from_waker(std::task::Waker::noop()));
            if !connection.closed && connection.sender.is_ready() {
                return Some(connection);
            }
        }
    }

    /// Lets it do what it can at present.
    pub(crate) fn drive(&mut self, cx: &mut Context<'_>) {
        if !self.closed && Pin::new(&mut self.driver).poll(cx).is_ready() {
            self.closed = true;
        }
    }

    /// Sends a request and waits for the head of its answer; the body needs [`Connection::drive`].
    pub(crate) async fn exchange(&mut self, request: Request<Upload>) -> Result<Response<Incoming>, Failed> {
        let answer = self.sender.try_send_request(request);
        let mut answer = std::pin::pin!(answer);
        let result = poll_fn(|cx| {
            self.drive(cx);
            answer.as_mut().poll(cx)
        })
        .await;
        result.map_err(|mut e| match e.take_message() {
            Some(request) => Failed::NotSent(Box::new(request)),
            None => Failed::Broken(e.into_error()),
        })
    }

    /// Gives it back after an exchange, if that is wholly done.
    pub(crate) fn give_back(mut self, upstream: &Upstream, cx: &mut Context<'_>) {
        self.drive(cx);
        if self.closed || !self.sender.is_ready() {
            return;
        }
        self.idle_since = Instant::now();
        upstream.idle.push(self);
    }

    /// After an answer with status 101: the bare connection, and what was read from it already.
    pub(crate) async fn into_tunnel(mut self) -> (TcpStream, Bytes) {
        poll_fn(|cx| {
            self.drive(cx);
            if self.closed { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
        let parts = self.driver.into_parts();
        (parts.io.into_inner(), parts.read_buf)
    }
}

/// Closes all idle connections to a box.
pub(crate) fn close_idle(upstream: &Upstream) {
    upstream.idle.close(Duration::ZERO);
}

/// Closes those that were idle for too long.
pub(crate) fn close_old(upstream: &Upstream) {
    upstream.idle.close(Duration::from_millis(IDLE_MAX_MS));
}

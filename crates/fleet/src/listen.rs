//! The proxy's side towards clients: accepting connections and watching over their limits.
//!
//! A connection's limits are looked at by one coarse timer per connection, so that no request pays for a timer: nothing
//! moved during a whole time limit, in a request or between two, ends it.

use crate::proxy;
use crate::route::Route;
use crate::threads::Threads;
use hyper::header::HeaderValue;
use hyper::server::conn::http1::Builder;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::task::Poll;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::MissedTickBehavior;

/// The most client connections at one time, over all endpoints; further ones wait to be accepted.
pub(crate) const CLIENT_CONNECTIONS_MAX: usize = 50_000;
/// The longest head of a request, in bytes.
pub(crate) const REQUEST_HEAD_MAX_BYTES: usize = 64 << 10;
/// How long a client's connection may be without a request, in milliseconds: longer than clients keep theirs.
pub(crate) const CLIENT_IDLE_MAX_MS: u64 = 5 * 60_000;
/// The time in milliseconds within which something must move in a request: a byte of it or of its answer.
pub const REQUEST_LIMIT_MS: u64 = 60_000;
/// A time limit is looked at this often within its length.
const LOOKS_PER_LIMIT: u32 = 8;
/// The longest time between two looks, in milliseconds.
const LOOK_PERIOD_MAX_MS: u64 = 5_000;
/// The pause after a failed accept (no file handles left), in milliseconds.
const ACCEPT_RETRY_DELAY_MS: u64 = 20;

/// What all connections of the proxy share.
#[derive(Debug)]
pub(crate) struct Clients {
    request_limit: Duration,
    leaving: AtomicBool,
    slots: Arc<Semaphore>,
    closed: Notify,
    threads: Threads,
}

impl Clients {
    /// Starts the threads that serve them.
    pub(crate) fn new(request_limit: Duration) -> std::io::Result<Clients> {
        Ok(Clients {
            threads: Threads::start()?,
            request_limit,
            leaving: AtomicBool::new(false),
            slots: Arc::new(Semaphore::new(CLIENT_CONNECTIONS_MAX)),
            closed: Notify::new(),
        })
    }

    /// From now on (or no longer) each answer asks its client to come back on a new connection.
    pub(crate) fn set_leaving(&self, leaving: bool) {
        self.leaving.store(leaving, Ordering::SeqCst);
    }

    /// Waits until no client is connected.
    pub(crate) async fn all_closed(&self) {
        loop {
            let notified = self.closed.notified();
            tokio::pin!(notified);
            notified.as_mut().enable();
            if self.slots.available_permits() == CLIENT_CONNECTIONS_MAX {
                return;
            }
            notified.await;
        }
    }
}

/// One client's connection.
#[derive(Debug)]
pub(crate) struct ClientSide {
    pub(crate) route: Arc<Route>,
    pub(crate) activity: Activity,
    /// The client's address, for `X-Forwarded-For`.
    pub(crate) peer: HeaderValue,
    clients: Arc<Clients>,
}

impl ClientSide {
    pub(crate) fn is_leaving(&self) -> bool {
        self.clients.leaving.load(Ordering::Relaxed)
    }
}

/// Whether something moves on a connection.
#[derive(Debug, Default)]
pub(crate) struct Activity {
    moves: AtomicU32,
    in_request: AtomicBool,
    expired: AtomicBool,
}

impl Activity {
    pub(crate) fn begin(&self) {
        self.in_request.store(true, Ordering::Relaxed);
        self.expired.store(false, Ordering::Relaxed);
        self.moved();
    }

    pub(crate) fn end(&self) {
        self.in_request.store(false, Ordering::Relaxed);
        self.moved();
    }

    pub(crate) fn moved(&self) {
        // Only this connection's own task writes; a plain addition is enough.
        self.moves.store(self.moves.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
    }

    /// Nothing moved for the time limit: whoever waits gives up.
    pub(crate) fn is_expired(&self) -> bool {
        self.expired.load(Ordering::Relaxed)
    }
}

/// Accepts clients of one endpoint while `accepting` is true; those connected are served on.
pub(crate) async fn accept(
    listener: TcpListener,
    route: Arc<Route>,
    clients: Arc<Clients>,
    mut accepting: watch::Receiver<bool>,
) {
    loop {
        let Ok(permit) = Arc::clone(&clients.slots).acquire_owned().await else { return };
        let accepted = tokio::select! {
            biased;
            _ = accepting.wait_for(|accepting| !*accepting) => return,
            accepted = listener.accept() => accepted,
        };
        // From here on a connection belongs to the thread that serves it.
        let (stream, peer) = match accepted.and_then(|(stream, peer)| Ok((stream.into_std()?, peer))) {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::debug!(%error, endpoint = %route.key, "failed to accept a client");
                tokio::time::sleep(Duration::from_millis(ACCEPT_RETRY_DELAY_MS)).await;
                continue;
            }
        };
        let peer = HeaderValue::try_from(peer.ip().to_string())
            .unwrap_or_else(|_| HeaderValue::from_static("unknown"));
        let client = Arc::new(ClientSide {
            route: Arc::clone(&route),
            activity: Activity::default(),
            peer,
            clients: Arc::clone(&clients),
        });
        let shared = Arc::clone(&clients);
        clients.threads.spawn(async move {
            if let Ok(stream) = TcpStream::from_std(stream) {
                serve(stream, client).await;
            }
            drop(permit);
            shared.closed.notify_waiters();
        });
    }
}

/// Serves one client until the connection ends or idles for too long.
async fn serve(stream: TcpStream, client: Arc<ClientSide>) {
    // Without it answers are merely later.
    let _ = stream.set_nodelay(true);
    let limit = client.clients.request_limit;
    let period =
        (limit / LOOKS_PER_LIMIT).clamp(Duration::from_millis(10), Duration::from_millis(LOOK_PERIOD_MAX_MS));
    let service = {
        let client = Arc::clone(&client);
        service_fn(move |request| {
            let answer = proxy::handle(Arc::clone(&client), request);
            async move { Ok::<_, Infallible>(answer.await) }
        })
    };
    let connection = Builder::new()
        .max_buf_size(REQUEST_HEAD_MAX_BYTES)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    tokio::pin!(connection);
    let mut looks = tokio::time::interval(period);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last = (0, Duration::ZERO);
    poll_fn(|cx| {
        while looks.poll_tick(cx).is_ready() {
            let activity = &client.activity;
            let moves = activity.moves.load(Ordering::Relaxed);
            last = if moves == last.0 { (moves, last.1 + period) } else { (moves, Duration::ZERO) };
            if !activity.in_request.load(Ordering::Relaxed) {
                if last.1 > Duration::from_millis(CLIENT_IDLE_MAX_MS) {
                    return Poll::Ready(());
                }
            } else if last.1 > limit + period {
                // The request was told to give up at the look before, and did not: its client takes nothing.
                return Poll::Ready(());
            } else if last.1 >= limit {
                activity.expired.store(true, Ordering::Relaxed);
            }
        }
        // A connection that breaks off is the client's own affair.
        connection.as_mut().poll(cx).map(|_| ())
    })
    .await;
}

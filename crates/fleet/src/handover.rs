//! How one fleet process follows another without a failed request.
//!
//! The new process connects to `handover.sock`. The old one lets go of all boxes, accepts nobody any more, and gives its
//! listening sockets, its lock and its closed seconds; clients that connect meanwhile wait in the sockets' queues. The
//! new one says that it is ready, and from the old one's "go" on it supervises. The old one then serves its remaining
//! clients, asking each to come back on a new connection, by the routes that the new one sends it, and sends back what
//! it counts. Who supervises is clear at each moment: before the "go" the old one, which takes up its work again if the
//! new one fails; after it the new one.

use crate::FleetConfig;
use crate::disk::Lock;
use crate::error::FleetError;
use crate::metrics::{BoxMeter, Second};
use crate::protocol::{EndpointKey, PROTOCOL_OLDEST, PROTOCOL_VERSION, Protocols};
use crate::route::{Table, Upstream};
use crate::shared::Shared;
use crate::slots::Supervisor;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tidegate_core::ids::{RunSpecDigest, TargetId};
use tidegate_core::metrics::ApiCell;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// How long each step of the hand-over may take, in milliseconds: longer than [`REMAINING_CLIENTS_LIMIT_MS`], because a
/// process hands over only when the one before it has ended.
const STEP_LIMIT_MS: u64 = 45_000;
/// How long the old process serves its remaining clients, in milliseconds.
pub(crate) const REMAINING_CLIENTS_LIMIT_MS: u64 = 30_000;
/// How often the old process sends what it counted, in milliseconds.
const COUNTS_PERIOD_MS: u64 = 100;
/// Handles in one message; the kernel takes at most 253.
const HANDLES_PER_MESSAGE: usize = 200;
/// The longest frame in bytes: 15 minutes of metrics.
const FRAME_MAX_BYTES: usize = 1 << 30;
const READY: u8 = b'R';
const GO: u8 = b'G';
const HANDLES: u8 = b'H';

/// Both parties pass over what they do not know, so that a newer one can say more.
#[derive(Debug, Serialize, Deserialize)]
struct Hello {
    protocol: u32,
    /// The oldest one that the new process speaks; without it, no other.
    #[serde(default)]
    oldest: u32,
}

impl Hello {
    fn own() -> Hello {
        Hello { protocol: PROTOCOL_VERSION, oldest: PROTOCOL_OLDEST }
    }

    /// The protocol that both speak.
    fn common(&self) -> Option<u32> {
        let oldest = if self.oldest == 0 { self.protocol } else { self.oldest };
        Protocols::OWN.common(Protocols { oldest, newest: self.protocol })
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Estate {
    /// Of this and of all that follows.
    protocol: u32,
    /// Of the listening sockets that follow, in this order.
    ports: Vec<u16>,
    seconds: Vec<Second>,
}

/// Where the old process shall send requests.
#[derive(Debug, Serialize, Deserialize)]
struct Routes {
    endpoints: Vec<(EndpointKey, Vec<RouteBox>)>,
}

#[derive(Debug, Serialize, Deserialize)]
struct RouteBox {
    target: TargetId,
    box_id: String,
    run_spec: RunSpecDigest,
    port: u16,
}

/// What the old process counted since its last frame.
#[derive(Debug, Serialize, Deserialize)]
struct Counts {
    boxes: Vec<(TargetId, String, BTreeMap<String, ApiCell>)>,
    unrouted: Vec<(EndpointKey, u64)>,
}

/// What a new process was given.
#[derive(Debug)]
pub(crate) struct Handed {
    pub(crate) lock: Lock,
    pub(crate) listeners: BTreeMap<u16, TcpListener>,
    pub(crate) seconds: Vec<Second>,
    stream: UnixStream,
}

fn socket(shared: &crate::disk::DataDir) -> PathBuf {
    shared.path("handover.sock")
}

fn failed(what: &str, error: impl std::fmt::Display) -> FleetError {
    FleetError::TakeOver { why: format!("{what}: {error}") }
}

/// Starts the program of today as the next process of this fleet.
pub(crate) fn spawn_successor(config: &FleetConfig) -> io::Result<u32> {
    let (program, arguments) = config.upgrade_command.split_first().ok_or_else(|| {
        io::Error::new(io::ErrorKind::Unsupported, "this fleet was not told the command of its successor")
    })?;
    let mut child =
        std::process::Command::new(program).args(arguments).stdin(std::process::Stdio::null()).spawn()?;
    let pid = child.id();
    // Reaps it should it fail early; on success this process ends first.
    std::thread::Builder::new().name("successor".to_owned()).spawn(move || child.wait())?;
    Ok(pid)
}

/// Waits for a successor to knock.
pub(crate) fn bind(shared: &Shared) -> Result<tokio::net::UnixListener, FleetError> {
    let path = socket(&shared.data);
    let open = || -> io::Result<tokio::net::UnixListener> {
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let listener = UnixListener::bind(&path)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
        listener.set_nonblocking(true)?;
        tokio::net::UnixListener::from_std(listener)
    };
    open().map_err(|source| FleetError::Listen { path: path.clone(), source })
}

/// The new process: asks for everything. `None` when nobody runs there.
pub(crate) fn take(data: &crate::disk::DataDir) -> Result<Option<Handed>, FleetError> {
    let Ok(mut stream) = UnixStream::connect(socket(data)) else { return Ok(None) };
    let limit = Some(Duration::from_millis(STEP_LIMIT_MS));
    let receive = || -> io::Result<Handed> {
        stream.set_read_timeout(limit)?;
        stream.set_write_timeout(limit)?;
        write_frame(&mut stream, &Hello::own())?;
        let estate: Estate = read_frame(&mut stream)?;
        if !(PROTOCOL_OLDEST..=PROTOCOL_VERSION).contains(&estate.protocol) {
            let why = format!("the running fleet speaks protocol {}", estate.protocol);
            return Err(io::Error::other(format!("{why}, and this one {}", Protocols::OWN)));
        }
        let mut handles = receive_handles(&stream, estate.ports.len() + 1)?.into_iter();
        let lock = handles.next().ok_or_else(|| io::Error::other("the lock was not handed over"))?;
        Ok(Handed {
            lock: Lock::from_handle(lock),
            listeners: estate.ports.into_iter().zip(handles.map(TcpListener::from)).collect(),
            seconds: estate.seconds,
            stream,
        })
    };
    receive().map(Some).map_err(|e| failed("the running fleet did not hand over", e))
}

/// The new process: everything is in place. When this returns well the old process has let go.
pub(crate) fn confirm(handed: &mut UnixStream) -> Result<(), FleetError> {
    let mut answer = [0];
    handed
        .write_all(&[READY])
        .and_then(|()| handed.read_exact(&mut answer))
        .map_err(|e| failed("the running fleet did not let go", e))?;
    if answer == [GO] { Ok(()) } else { Err(failed("the running fleet did not let go", "an unknown answer")) }
}

impl Handed {
    /// Takes the stream out, for [`confirm`] and [`guide`].
    pub(crate) fn into_parts(self) -> (Lock, BTreeMap<u16, TcpListener>, Vec<Second>, UnixStream) {
        (self.lock, self.listeners, self.seconds, self.stream)
    }
}

/// The new process: tells the old one where requests go, and takes over what it counts, until it has ended.
pub(crate) async fn guide(shared: Arc<Shared>, stream: UnixStream) {
    let exchange = async {
        stream.set_nonblocking(true)?;
        let (mut read, mut write) = tokio::net::UnixStream::from_std(stream)?.into_split();
        let routes = async {
            let mut changes = shared.board.changes();
            loop {
                changes.borrow_and_update();
                if write_frame_async(&mut write, &routes_of(&shared)).await.is_err()
                    || changes.changed().await.is_err()
                {
                    // What it still has to tell is read to the end.
                    std::future::pending::<()>().await;
                }
            }
        };
        let counts = async {
            loop {
                let counts: Counts = read_frame_async(&mut read).await?;
                let meters = shared.metrics.meters();
                for (target, box_id, apis) in counts.boxes {
                    if let Some(meter) = meters.iter().find(|m| m.box_id == box_id && m.target == target) {
                        meter.add(apis);
                    }
                }
                for (key, requests) in counts.unrouted {
                    if let Some(route) = shared.endpoints.route(&key) {
                        route.unrouted.fetch_add(requests, Ordering::Relaxed);
                    }
                }
            }
        };
        tokio::select! {
            () = routes => Ok(()),
            done = counts => done,
        }
    };
    // Its end closes the stream, which ends the reading with an error.
    let ended: io::Result<()> = exchange.await;
    tracing::info!(ended = ?ended.err(), "the process before this one has ended");
    shared.predecessor.send_replace(false);
}

fn routes_of(shared: &Shared) -> Routes {
    let of = |upstream: &Arc<Upstream>| RouteBox {
        target: upstream.meter.target.clone(),
        box_id: upstream.meter.box_id.clone(),
        run_spec: upstream.meter.run_spec.clone(),
        port: upstream.address.port(),
    };
    let serving = shared.board.serving();
    Routes {
        endpoints: serving.into_iter().map(|(key, boxes)| (key, boxes.iter().map(of).collect())).collect(),
    }
}

/// The old process: gives everything away. After an error it still supervises, once it has taken its boxes up again.
pub(crate) async fn give(
    shared: &Arc<Shared>,
    supervisor: &Supervisor,
    lock: &Lock,
    stream: tokio::net::UnixStream,
) -> Result<tokio::net::UnixStream, FleetError> {
    let mut stream = stream.into_std().map_err(|e| failed("the connection of the successor", e))?;
    let limit = Some(Duration::from_millis(STEP_LIMIT_MS));
    let greeted = tokio::task::spawn_blocking(move || -> io::Result<(UnixStream, u32)> {
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(limit)?;
        stream.set_write_timeout(limit)?;
        let hello: Hello = read_frame(&mut stream)?;
        let protocol = hello.common().ok_or_else(|| {
            let why = format!("the successor speaks protocol {}", hello.protocol);
            io::Error::other(format!("{why}, and this one {}", Protocols::OWN))
        })?;
        Ok((stream, protocol))
    })
    .await
    .map_err(|e| failed("the greeting of the successor", e))?;
    let (mut stream, protocol) = greeted.map_err(|e| failed("the greeting of the successor", e))?;

    shared.predecessor_gone().await;
    shared.endpoints.stop_accepting();
    supervisor.freeze().await;
    let gather = || -> io::Result<_> {
        let sockets = shared.endpoints.sockets()?;
        Ok((sockets, lock.handle().try_clone()?, crate::metrics::lock(&shared.metrics.retained).export()))
    };
    let (sockets, lock, seconds) = gather().map_err(|e| failed("copying the sockets", e))?;
    let given = tokio::task::spawn_blocking(move || -> io::Result<UnixStream> {
        let ports = sockets.iter().map(|(port, _)| *port).collect();
        write_frame(&mut stream, &Estate { protocol, ports, seconds })?;
        let mut handles = vec![lock.as_fd()];
        handles.extend(sockets.iter().map(|(_, listener)| listener.as_fd()));
        send_handles(&stream, &handles)?;
        let mut answer = [0];
        stream.read_exact(&mut answer)?;
        if answer != [READY] {
            return Err(io::Error::other("an unknown answer"));
        }
        stream.write_all(&[GO])?;
        stream.set_nonblocking(true)?;
        Ok(stream)
    })
    .await
    .map_err(|e| failed("handing over", e))?
    .map_err(|e| failed("handing over", e))?;
    tokio::net::UnixStream::from_std(given).map_err(|e| failed("handing over", e))
}

/// The old process: serves its remaining clients until they are gone or the limit has passed.
pub(crate) async fn serve_remaining(shared: &Arc<Shared>, stream: tokio::net::UnixStream) {
    shared.clients.set_leaving(true);
    let (mut read, mut write) = stream.into_split();
    let mut known: Vec<Arc<Upstream>> = shared.board.serving().into_values().flatten().collect();
    let routes = async {
        // Without the new process the last routes stay in force.
        while let Ok(routes) = read_frame_async::<Routes>(&mut read).await {
            follow(shared, &mut known, routes);
        }
        std::future::pending::<()>().await
    };
    let serve = async {
        let limit = tokio::time::sleep(Duration::from_millis(REMAINING_CLIENTS_LIMIT_MS));
        let mut limit = std::pin::pin!(limit);
        loop {
            let done = tokio::select! {
                () = shared.clients.all_closed() => true,
                () = &mut limit => true,
                () = tokio::time::sleep(Duration::from_millis(COUNTS_PERIOD_MS)) => false,
            };
            // Should the new process be gone as well, nobody is left to be told.
            let _ = send_counts(shared, &mut write).await;
            if done {
                return;
            }
        }
    };
    tokio::select! {
        () = routes => {}
        () = serve => {}
    }
}

fn follow(shared: &Shared, known: &mut Vec<Arc<Upstream>>, routes: Routes) {
    for (key, boxes) in routes.endpoints {
        let Some(route) = shared.endpoints.route(&key) else { continue };
        let mut upstreams = Vec::with_capacity(boxes.len());
        for b in boxes {
            let same = |u: &&Arc<Upstream>| {
                u.address.port() == b.port && u.meter.box_id == b.box_id && u.meter.target == b.target
            };
            if let Some(upstream) = known.iter().find(same) {
                upstreams.push(Arc::clone(upstream));
                continue;
            }
            let meter = shared.metrics.meter(&b.target, &b.box_id, || {
                let labels = Arc::clone(&route.labels);
                BoxMeter::new(b.target.clone(), b.box_id.clone(), b.run_spec.clone(), PathBuf::new(), labels)
            });
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, b.port));
            let upstream = Arc::new(Upstream::new(address, b.target.role, meter));
            known.push(Arc::clone(&upstream));
            upstreams.push(upstream);
        }
        route.table.store(Arc::new(Table::new(upstreams)));
    }
}

async fn send_counts(shared: &Shared, write: &mut tokio::net::unix::OwnedWriteHalf) -> io::Result<()> {
    let mut boxes = Vec::new();
    for meter in shared.metrics.meters() {
        let apis = meter.take();
        if !apis.is_empty() {
            boxes.push((meter.target.clone(), meter.box_id.clone(), apis));
        }
    }
    let mut unrouted = Vec::new();
    for route in shared.metrics.routes() {
        let requests = route.unrouted.swap(0, Ordering::Relaxed);
        if requests > 0 {
            unrouted.push((route.key.clone(), requests));
        }
    }
    if boxes.is_empty() && unrouted.is_empty() {
        return Ok(());
    }
    write_frame_async(write, &Counts { boxes, unrouted }).await
}

fn encode(value: &impl Serialize) -> io::Result<Vec<u8>> {
    let body = serde_json::to_vec(value).map_err(io::Error::other)?;
    let length = u32::try_from(body.len()).map_err(io::Error::other)?;
    Ok([&length.to_le_bytes()[..], &body].concat())
}

fn length_of(prefix: [u8; 4]) -> io::Result<usize> {
    let length = u32::from_le_bytes(prefix) as usize;
    if length <= FRAME_MAX_BYTES { Ok(length) } else { Err(io::Error::other("the frame is too long")) }
}

fn write_frame(stream: &mut UnixStream, value: &impl Serialize) -> io::Result<()> {
    stream.write_all(&encode(value)?)
}

fn read_frame<T: DeserializeOwned>(stream: &mut UnixStream) -> io::Result<T> {
    let mut prefix = [0; 4];
    stream.read_exact(&mut prefix)?;
    let mut body = vec![0; length_of(prefix)?];
    stream.read_exact(&mut body)?;
    serde_json::from_slice(&body).map_err(io::Error::other)
}

async fn write_frame_async(
    stream: &mut tokio::net::unix::OwnedWriteHalf,
    value: &impl Serialize,
) -> io::Result<()> {
    stream.write_all(&encode(value)?).await
}

async fn read_frame_async<T: DeserializeOwned>(
    stream: &mut tokio::net::unix::OwnedReadHalf,
) -> io::Result<T> {
    let mut prefix = [0; 4];
    stream.read_exact(&mut prefix).await?;
    let mut body = vec![0; length_of(prefix)?];
    stream.read_exact(&mut body).await?;
    serde_json::from_slice(&body).map_err(io::Error::other)
}

fn send_handles(stream: &UnixStream, handles: &[BorrowedFd<'_>]) -> io::Result<()> {
    for batch in handles.chunks(HANDLES_PER_MESSAGE) {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(HANDLES_PER_MESSAGE))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !ancillary.push(SendAncillaryMessage::ScmRights(batch)) {
            return Err(io::Error::other("too many handles in one message"));
        }
        sendmsg(stream, &[IoSlice::new(&[HANDLES])], &mut ancillary, SendFlags::empty())?;
    }
    Ok(())
}

fn receive_handles(stream: &UnixStream, count: usize) -> io::Result<Vec<OwnedFd>> {
    let mut handles = Vec::with_capacity(count);
    while handles.len() < count {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(HANDLES_PER_MESSAGE))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut byte = [0];
        let message =
            recvmsg(stream, &mut [IoSliceMut::new(&mut byte)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
        if message.bytes == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(received) = message {
                handles.extend(received);
            }
        }
    }
    Ok(handles)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    /// What the parties of protocol 1 said when one followed the other; recorded once and never again. A later version
    /// understands it, and says the same to a party that speaks no later protocol.
    const HELLO: &str = r#"{"protocol":1,"oldest":1}"#;
    const ESTATE: &str = r#"{"protocol":1,"ports":[20012],"seconds":[
        {"second":1795889322,"cells":[],"unrouted":[]}]}"#;
    const ROUTES: &str = r#"{"endpoints":[[{"service":"shop","environment":"production","region":"eu-1"},
        [{"target":"shop/production/eu-1/a/main","box_id":"b1","run_spec":
            "17694f9b8d02f977f702cb6959b08e1ac9f0aee8454e2a468b392aa4d85e00d1","port":20013}]]]}"#;
    const COUNTS: &str = r#"{"boxes":[["shop/production/eu-1/a/main","b1",{}]],
        "unrouted":[[{"service":"shop","environment":"production","region":"eu-1"},3]]}"#;

    fn both_ways<T: Serialize + DeserializeOwned>(said: &str) -> T {
        let understood: T = serde_json::from_str(said).unwrap();
        let again = serde_json::to_value(&understood).unwrap();
        assert_eq!(again, serde_json::from_str::<Value>(said).unwrap());
        understood
    }

    #[test]
    fn what_parties_of_the_first_protocol_say_is_understood_and_said_the_same_way() {
        assert_eq!(both_ways::<Hello>(HELLO).common(), Some(1));
        both_ways::<Estate>(ESTATE);
        both_ways::<Routes>(ROUTES);
        both_ways::<Counts>(COUNTS);
    }

    #[test]
    fn parties_speak_the_newest_protocol_that_both_know() {
        let spoken = |hello: &str| serde_json::from_str::<Hello>(hello).unwrap().common();
        assert_eq!(spoken(r#"{"protocol":1}"#), Some(1), "one that does not say which is its oldest");
        assert_eq!(spoken(r#"{"protocol":2,"oldest":1,"more":[]}"#), Some(1));
        assert_eq!(spoken(r#"{"protocol":2}"#), None);
        assert_eq!(spoken(r#"{"protocol":3,"oldest":2}"#), None);
    }
}

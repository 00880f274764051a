//! The load generator: keep-alive connections, each with one request at a time, no retries. It parses no more of an
//! answer than it needs, so that it is cheap beside what is measured; its own CPU is told with the figures.
//!
//! A request that does not get a whole answer with status 200 has failed, whatever the reason.

use crate::machine::Cpu;
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// Bytes in a body, of a request (POST) and of an answer.
pub(crate) const BODY_BYTES: usize = 1024;
/// The longest answer with its head, in bytes.
const ANSWER_MAX_BYTES: usize = 16 << 10;
/// How long requests in flight are waited for at the end; one that takes longer has failed.
const END_MAX: Duration = Duration::from_secs(10);
/// How many failures are kept in words.
const FAILURES_KEPT: usize = 5;

/// What is to be called, and how.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    /// Where.
    pub(crate) address: SocketAddr,
    /// Keep-alive connections.
    pub(crate) connections: u32,
    /// Requests a second over all connections; `None`: each goes as fast as it can.
    pub(crate) per_second: Option<u32>,
    /// Every second request is a POST with a body: those are never sent twice by a proxy.
    pub(crate) posts: bool,
}

/// What became of the requests.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Outcome {
    /// Answered with 200, whole.
    pub(crate) good: u64,
    /// All others.
    pub(crate) failed: u64,
    /// Some of the failures in words.
    pub(crate) failures: Vec<String>,
    /// From the first request to the last answer.
    pub(crate) seconds: f64,
    /// Of the good answers.
    pub(crate) p50_us: u32,
    /// Of the good answers.
    pub(crate) p99_us: u32,
    /// What the load generator's process used meanwhile.
    pub(crate) cpu: Cpu,
}

impl Outcome {
    pub(crate) fn per_second(&self) -> f64 {
        self.good as f64 / self.seconds
    }
}

/// A running load.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    connections: JoinSet<Counted>,
    begun: Instant,
    cpu: Cpu,
}

#[derive(Debug, Default)]
struct Counted {
    latencies_us: Vec<u32>,
    failed: u64,
    failures: Vec<String>,
}

impl Load {
    /// Begins.
    pub(crate) fn start(plan: Plan) -> Result<Load> {
        let stop = Arc::new(AtomicBool::new(false));
        let cpu = Cpu::own()?;
        let mut connections = JoinSet::new();
        for index in 0..plan.connections {
            connections.spawn(run(plan, index, Arc::clone(&stop)));
        }
        Ok(Load { stop, connections, begun: Instant::now(), cpu })
    }

    /// Sends no further request, waits for the answers, and tells what became of all.
    pub(crate) async fn end(mut self) -> Result<Outcome> {
        self.stop.store(true, Ordering::Relaxed);
        let mut outcome = Outcome::default();
        let mut latencies = Vec::new();
        let all = async {
            while let Some(counted) = self.connections.join_next().await {
                let mut counted = counted.context("failed to run a connection")?;
                latencies.append(&mut counted.latencies_us);
                outcome.failed += counted.failed;
                outcome.failures.append(&mut counted.failures);
            }
            anyhow::Ok(())
        };
        if let Ok(result) = timeout(END_MAX, all).await {
            result?;
        }
        let unanswered = self.connections.len() as u64;
        if unanswered > 0 {
            outcome.failures.push(format!("{unanswered} requests without an answer"));
        }
        outcome.failed += unanswered;
        outcome.failures.truncate(FAILURES_KEPT);
        outcome.seconds = self.begun.elapsed().as_secs_f64();
        outcome.cpu = Cpu::own()? - self.cpu;
        outcome.good = latencies.len() as u64;
        latencies.sort_unstable();
        let at = |part: f64| latencies.get((latencies.len() as f64 * part) as usize).copied().unwrap_or(0);
        (outcome.p50_us, outcome.p99_us) = (at(0.5), at(0.99));
        Ok(outcome)
    }
}

async fn run(plan: Plan, index: u32, stop: Arc<AtomicBool>) -> Counted {
    let mut counted = Counted::default();
    let mut connection = None;
    let post = [
        format!("POST /orders HTTP/1.1\r\nhost: {}\r\ncontent-length: {BODY_BYTES}\r\n\r\n", plan.address)
            .as_bytes(),
        &[b'x'; BODY_BYTES],
    ]
    .concat();
    let get = format!("GET /items/17 HTTP/1.1\r\nhost: {}\r\n\r\n", plan.address).into_bytes();
    let period = plan.per_second.map(|rate| Duration::from_secs(1) * plan.connections / rate.max(1));
    let first = Instant::now() + period.unwrap_or_default() * index / plan.connections;
    for number in 0_u32.. {
        if let Some(period) = period {
            tokio::time::sleep_until((first + period * number).into()).await;
        }
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let request = if plan.posts && number % 2 == 1 { &post } else { &get };
        let begun = Instant::now();
        match exchange(plan.address, &mut connection, request).await {
            Ok(()) => {
                counted.latencies_us.push(u32::try_from(begun.elapsed().as_micros()).unwrap_or(u32::MAX));
            }
            Err(error) => {
                connection = None;
                counted.failed += 1;
                if counted.failures.len() < FAILURES_KEPT {
                    counted.failures.push(format!("{error:#}"));
                }
                // A server that is not there must not be asked in a busy loop.
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }
    counted
}

struct Connection {
    stream: TcpStream,
    buffer: Box<[u8; ANSWER_MAX_BYTES]>,
}

async fn exchange(address: SocketAddr, kept: &mut Option<Connection>, request: &[u8]) -> Result<()> {
    let mut connection = match kept.take() {
        Some(connection) => connection,
        None => {
            let stream = TcpStream::connect(address).await.context("failed to connect")?;
            stream.set_nodelay(true)?;
            Connection { stream, buffer: Box::new([0; ANSWER_MAX_BYTES]) }
        }
    };
    connection.stream.write_all(request).await.context("failed to send")?;
    let (buffer, mut filled) = (&mut connection.buffer[..], 0);
    let mut head = None;
    let head = loop {
        match &head {
            Some(Head { length, .. }) if filled >= *length => break head,
            _ if filled == buffer.len() => anyhow::bail!("the answer is too long"),
            _ => {}
        }
        match connection.stream.read(&mut buffer[filled..]).await.context("failed to receive")? {
            0 => anyhow::bail!("the connection was closed after {filled} bytes"),
            n => filled += n,
        }
        if head.is_none() {
            head = Head::parse(&buffer[..filled])?;
        }
    };
    let head = head.context("there was no head")?;
    anyhow::ensure!(head.status == 200, "status {}", head.status);
    anyhow::ensure!(head.length == filled, "the answer is longer than it says");
    if !head.closes {
        *kept = Some(connection);
    }
    Ok(())
}

/// What matters of an answer's head.
struct Head {
    status: u16,
    /// Of head and body, in bytes.
    length: usize,
    closes: bool,
}

impl Head {
    /// `None` as long as it is not complete.
    fn parse(bytes: &[u8]) -> Result<Option<Head>> {
        let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") else { return Ok(None) };
        let text = std::str::from_utf8(&bytes[..end]).context("the head is no text")?;
        let mut lines = text.split("\r\n");
        let status =
            lines.next().and_then(|line| line.get(9..12)?.parse().ok()).context("there is no status")?;
        let mut head = Head { status, length: end + 4, closes: false };
        let mut length = None;
        for (name, value) in lines.filter_map(|line| line.split_once(':')) {
            if name.eq_ignore_ascii_case("content-length") {
                length = value.trim().parse::<usize>().ok();
            } else if name.eq_ignore_ascii_case("connection") {
                head.closes = value.trim().eq_ignore_ascii_case("close");
            }
        }
        head.length += length.context("the answer has no content-length")?;
        Ok(Some(head))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_tells_status_length_and_whether_the_connection_stays() {
        let text = b"HTTP/1.1 503 No\r\nContent-Length: 7\r\nconnection: close\r\n\r\nsorry";
        let head = Head::parse(text).unwrap().unwrap();
        assert_eq!((head.status, head.length, head.closes), (503, text.len() + 2, true));
        assert!(Head::parse(b"HTTP/1.1 200 OK\r\n").unwrap().is_none());
        assert!(Head::parse(b"HTTP/1.1 200 OK\r\n\r\n").is_err());
    }
}

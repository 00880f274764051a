//! Clients that keep their connections, do not retry, and count.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// What one answer was.
#[derive(Debug, Clone, Default)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: Vec<u8>,
}

/// One connection.
pub(crate) struct Client {
    pub(crate) reader: BufReader<TcpStream>,
}

impl Client {
    pub(crate) fn connect(port: u16) -> std::io::Result<Client> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        Ok(Client { reader: BufReader::new(stream) })
    }

    pub(crate) fn send(&mut self, text: &[u8]) -> std::io::Result<()> {
        self.reader.get_mut().write_all(text)
    }

    /// Reads an answer; `body` is false for HEAD.
    pub(crate) fn receive(&mut self, body: bool) -> std::io::Result<Answer> {
        let mut answer = self.receive_head()?;
        if !body {
            return Ok(answer);
        }
        if answer.headers.get("transfer-encoding").map(String::as_str) == Some("chunked") {
            loop {
                let mut size = String::new();
                self.reader.read_line(&mut size)?;
                let size = usize::from_str_radix(size.trim(), 16).map_err(std::io::Error::other)?;
                let mut chunk = vec![0; size + 2];
                self.reader.read_exact(&mut chunk)?;
                answer.body.extend_from_slice(&chunk[..size]);
                if size == 0 {
                    return Ok(answer);
                }
            }
        }
        match answer.headers.get("content-length").map(|n| n.parse().unwrap()) {
            Some(length) => {
                answer.body = vec![0; length];
                self.reader.read_exact(&mut answer.body)?;
            }
            None => {
                self.reader.read_to_end(&mut answer.body)?;
            }
        }
        Ok(answer)
    }

    pub(crate) fn receive_head(&mut self) -> std::io::Result<Answer> {
        let mut answer = Answer::default();
        let mut line = String::new();
        if self.reader.read_line(&mut line)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        answer.status = line.split(' ').nth(1).unwrap().parse().unwrap();
        loop {
            let mut line = String::new();
            self.reader.read_line(&mut line)?;
            match line.trim_end().split_once(": ") {
                Some((name, value)) => answer.headers.insert(name.to_ascii_lowercase(), value.to_owned()),
                None => return Ok(answer),
            };
        }
    }

    pub(crate) fn ask(&mut self, method: &str, path: &str, body: &[u8]) -> std::io::Result<Answer> {
        let head =
            format!("{method} {path} HTTP/1.1\r\nhost: shop\r\ncontent-length: {}\r\n\r\n", body.len());
        self.send(&[head.as_bytes(), body].concat())?;
        self.receive(method != "HEAD")
    }
}

/// One request on a connection of its own.
pub(crate) fn ask(port: u16, method: &str, path: &str) -> Answer {
    Client::connect(port).unwrap().ask(method, path, b"").unwrap()
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) good: AtomicU64,
    pub(crate) failed: AtomicU64,
    pub(crate) by_box: Mutex<BTreeMap<String, u64>>,
    pub(crate) by_version: Mutex<BTreeMap<String, u64>>,
    pub(crate) failures: Mutex<Vec<String>>,
    stop: AtomicBool,
}

/// Clients that ask without a pause, POSTs and GETs in turn.
pub(crate) struct Load {
    pub(crate) counters: Arc<Counters>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    pub(crate) fn start(port: u16, clients: usize) -> Load {
        let counters = Arc::<Counters>::default();
        let threads = (0..clients)
            .map(|_| {
                let counters = Arc::clone(&counters);
                std::thread::spawn(move || run(port, &counters))
            })
            .collect();
        Load { counters, threads }
    }

    pub(crate) fn good(&self) -> u64 {
        self.counters.good.load(Ordering::SeqCst)
    }

    /// Waits until so many more requests were answered.
    pub(crate) async fn more(&self, n: u64) {
        let before = self.good();
        crate::support::eventually("requests are answered", async || {
            (self.good() >= before + n).then_some(())
        })
        .await;
    }

    /// Ends it; the number of good answers. Panics if a request failed.
    pub(crate) fn finish(self) -> u64 {
        self.counters.stop.store(true, Ordering::SeqCst);
        for thread in self.threads {
            thread.join().unwrap();
        }
        let failures = self.counters.failures.lock().unwrap();
        let failed = self.counters.failed.load(Ordering::SeqCst);
        assert_eq!(
            failed,
            0,
            "of {} requests failed: {failures:?}",
            self.counters.good.load(Ordering::SeqCst)
        );
        self.counters.good.load(Ordering::SeqCst)
    }
}

fn run(port: u16, counters: &Counters) {
    let mut client = None;
    let body = vec![b'x'; 1024];
    for n in 0_u64.. {
        if counters.stop.load(Ordering::SeqCst) {
            return;
        }
        let (method, body) = if n % 2 == 0 { ("POST", &body[..]) } else { ("GET", &b""[..]) };
        let result = match client.take() {
            Some(client) => Ok(client),
            None => Client::connect(port),
        }
        .and_then(|mut connected: Client| {
            let answer = connected.ask(method, "/work", body)?;
            Ok((connected, answer))
        });
        match result {
            Ok((connected, answer)) if answer.status == 200 && answer.body == body => {
                counters.good.fetch_add(1, Ordering::SeqCst);
                for (map, header) in [(&counters.by_box, "x-box"), (&counters.by_version, "x-version")] {
                    *map.lock().unwrap().entry(answer.headers[header].clone()).or_default() += 1;
                }
                if answer.headers.get("connection").map(String::as_str) != Some("close") {
                    client = Some(connected);
                }
            }
            other => {
                counters.failed.fetch_add(1, Ordering::SeqCst);
                let what = match other {
                    Ok((_, answer)) => format!("{} {}", answer.status, String::from_utf8_lossy(&answer.body)),
                    Err(error) => format!("{method}: {error}"),
                };
                let mut failures = counters.failures.lock().unwrap();
                if failures.len() < 10 {
                    failures.push(what);
                }
            }
        }
    }
}

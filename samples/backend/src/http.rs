//! As much of HTTP/1.1 as the sample needs: a server with keep-alive and one thread per connection, and a client that
//! keeps one connection per thread and host. Heads, bodies, threads and waits are limited.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

/// Longest line of a head, and the most lines that it may have.
const LINE_MAX_BYTES: u64 = 8 * 1024;
const HEAD_MAX_LINES: usize = 100;
/// Longest body of a request or an answer.
const BODY_MAX_BYTES: usize = 64 * 1024;
/// Connections that are served at once; one more is answered with 503.
const CONNECTIONS_MAX: usize = 256;
const THREAD_STACK_BYTES: usize = 256 * 1024;
/// How long a connection may be idle: longer than any client in front of the service keeps one.
const IDLE_TIMEOUT: Duration = Duration::from_secs(90);
/// How long the client waits for a connection, and then for each part of an answer.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(2);

/// A request.
pub struct Request {
    pub method: String,
    pub path: String,
    pub body: String,
}

/// An answer with a body of plain text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    pub status: u16,
    pub body: String,
}

impl Response {
    pub fn new(status: u16, body: impl Into<String>) -> Self {
        Self { status, body: body.into() }
    }
}

/// The value of a field in a form such as `item=7&quantity=2`.
pub fn field<'a>(form: &'a str, name: &str) -> Option<&'a str> {
    form.trim()
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .find(|(key, _)| *key == name)
        .map(|(_, value)| value)
}

/// Serves until the process ends.
pub fn serve(
    listener: &TcpListener,
    handler: Arc<dyn Fn(&Request) -> Response + Send + Sync>,
) -> io::Result<()> {
    let open = Arc::new(AtomicUsize::new(0));
    loop {
        let mut stream = match listener.accept() {
            Ok((stream, _)) => stream,
            // The client went away before it was accepted.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
            Err(error) => return Err(error),
        };
        let place = Place::take(&open);
        if place.taken > CONNECTIONS_MAX {
            let _ = write_response(&mut stream, &Response::new(503, "too many connections\n"), false);
            continue;
        }
        let handler = handler.clone();
        let spawned = thread::Builder::new().stack_size(THREAD_STACK_BYTES).spawn(move || {
            let _place = place;
            // An error here is the client's: it went away or broke the protocol, and its connection ends.
            let _ = serve_connection(stream, &*handler);
        });
        if let Err(error) = spawned {
            eprintln!("ERROR failed to start a thread: {error}");
        }
    }
}

/// One of the places for connections; given back when dropped.
struct Place {
    open: Arc<AtomicUsize>,
    taken: usize,
}

impl Place {
    fn take(open: &Arc<AtomicUsize>) -> Self {
        Self { open: open.clone(), taken: open.fetch_add(1, Ordering::SeqCst) + 1 }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Ordering::SeqCst);
    }
}

fn serve_connection(stream: TcpStream, handler: &dyn Fn(&Request) -> Response) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(IDLE_TIMEOUT))?;
    stream.set_write_timeout(Some(IDLE_TIMEOUT))?;
    let mut reader = BufReader::new(stream);
    while let Some(head) = read_head(&mut reader)? {
        let mut words = head.first_line.split(' ');
        let (Some(method), Some(path), Some(protocol)) = (words.next(), words.next(), words.next()) else {
            return write_response(reader.get_mut(), &Response::new(400, "no request line\n"), false);
        };
        if head.chunked || head.length.is_none_or(|length| length > BODY_MAX_BYTES) {
            return write_response(
                reader.get_mut(),
                &Response::new(413, "a short Content-Length is needed\n"),
                false,
            );
        }
        let keep_alive = protocol == "HTTP/1.1" && !head.close;
        let (method, path) = (method.to_string(), path.to_string());
        let body = read_body(&mut reader, head.length.unwrap_or(0))?;
        let response = handler(&Request { method, path, body });
        write_response(reader.get_mut(), &response, keep_alive)?;
        if !keep_alive {
            break;
        }
    }
    Ok(())
}

struct Head {
    first_line: String,
    /// Of the body; `None` when it is no number.
    length: Option<usize>,
    chunked: bool,
    close: bool,
}

/// Reads a head; `None` when the other side closed the connection before it sent one.
fn read_head(reader: &mut BufReader<TcpStream>) -> io::Result<Option<Head>> {
    let Some(first_line) = read_line(reader)? else { return Ok(None) };
    let mut head = Head { first_line, length: Some(0), chunked: false, close: false };
    for _ in 0..HEAD_MAX_LINES {
        let line = read_line(reader)?.ok_or(io::ErrorKind::UnexpectedEof)?;
        if line.is_empty() {
            return Ok(Some(head));
        }
        let Some((name, value)) = line.split_once(':') else { continue };
        let value = value.trim();
        match name.to_ascii_lowercase().as_str() {
            "content-length" => head.length = value.parse().ok(),
            "transfer-encoding" => head.chunked = true,
            "connection" => head.close = value.eq_ignore_ascii_case("close"),
            _ => {}
        }
    }
    Err(invalid("the head has too many lines"))
}

fn read_line(reader: &mut BufReader<TcpStream>) -> io::Result<Option<String>> {
    let mut line = String::new();
    if reader.by_ref().take(LINE_MAX_BYTES).read_line(&mut line)? == 0 {
        return Ok(None);
    }
    match line.strip_suffix('\n') {
        Some(line) => Ok(Some(line.trim_end_matches('\r').to_string())),
        None => Err(invalid("a line of the head is too long or was cut off")),
    }
}

fn read_body(reader: &mut BufReader<TcpStream>, length: usize) -> io::Result<String> {
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    String::from_utf8(body).map_err(|_| invalid("the body is not UTF-8"))
}

fn write_response(stream: &mut TcpStream, response: &Response, keep_alive: bool) -> io::Result<()> {
    let Response { status, body } = response;
    let reason = match status {
        200 => "OK",
        201 => "Created",
        404 => "Not Found",
        500 => "Internal Server Error",
        _ => "Status",
    };
    let connection = if keep_alive { "keep-alive" } else { "close" };
    // One write, so that an answer is one packet.
    let text = format!(
        "HTTP/1.1 {status} {reason}\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\
         Connection: {connection}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(text.as_bytes())
}

fn invalid(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

thread_local! {
    /// The thread's idle connection to each host.
    static IDLE: RefCell<BTreeMap<String, BufReader<TcpStream>>> = const { RefCell::new(BTreeMap::new()) };
}

/// Calls `endpoint` (`http://host:port` or `host:port`). The request must be idempotent: when a kept connection turns
/// out to have been closed meanwhile, it is sent once more on a new one.
pub fn call(endpoint: &str, method: &str, path: &str, body: &str) -> io::Result<Response> {
    let host = endpoint.strip_prefix("http://").unwrap_or(endpoint).trim_end_matches('/');
    if let Some(connection) = IDLE.with_borrow_mut(|idle| idle.remove(host)) {
        match exchange(connection, host, method, path, body) {
            Err(error) if was_closed(&error) => {}
            result => return result,
        }
    }
    exchange(connect(host)?, host, method, path, body)
}

fn was_closed(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof)
}

fn connect(host: &str) -> io::Result<BufReader<TcpStream>> {
    let address = host.to_socket_addrs()?.next().ok_or_else(|| invalid("the host has no address"))?;
    let stream = TcpStream::connect_timeout(&address, CLIENT_TIMEOUT)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(CLIENT_TIMEOUT))?;
    stream.set_write_timeout(Some(CLIENT_TIMEOUT))?;
    Ok(BufReader::new(stream))
}

fn exchange(
    mut connection: BufReader<TcpStream>,
    host: &str,
    method: &str,
    path: &str,
    body: &str,
) -> io::Result<Response> {
    let length = body.len();
    let text = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {length}\r\n\r\n{body}");
    connection.get_mut().write_all(text.as_bytes())?;
    let head = read_head(&mut connection)?.ok_or(io::ErrorKind::UnexpectedEof)?;
    let status = head.first_line.split(' ').nth(1).and_then(|word| word.parse().ok());
    let status = status.ok_or_else(|| invalid("the answer has no status"))?;
    let length = head.length.filter(|length| !head.chunked && *length <= BODY_MAX_BYTES);
    let body = read_body(&mut connection, length.ok_or_else(|| invalid("the answer's length is unknown"))?)?;
    if !head.close {
        IDLE.with_borrow_mut(|idle| idle.insert(host.to_string(), connection));
    }
    Ok(Response { status, body })
}

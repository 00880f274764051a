//! One request, over a connection of its own.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// How long an answer may take.
const ANSWER_MAX: Duration = Duration::from_secs(30);

/// Status and body of a POST with these headers; none when nobody answers.
pub(crate) fn post(address: &str, path: &str, headers: &str, body: &str) -> Option<(u16, String)> {
    let length = body.len();
    let head = format!("POST {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n");
    ask(address, &format!("{head}content-length: {length}\r\n{headers}\r\n{body}"))
}

/// Status and body of a GET; none when nobody answers.
pub(crate) fn get(address: &str, path: &str, token: Option<&str>) -> Option<(u16, String)> {
    let authorization = token.map(|t| format!("authorization: Bearer {t}\r\n")).unwrap_or_default();
    ask(
        address,
        &format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n{authorization}\r\n"),
    )
}

fn ask(address: &str, request: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(ANSWER_MAX)).ok()?;
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.split_whitespace().nth(1)?.parse().ok()?, body.to_owned()))
}

//! The program in the packages that are deployed here, and what all proxies stand before: the cheapest server of 1 KiB
//! answers. `/health` is always good, `/address` tells where it listens; in a bad release all else fails.

use crate::load::BODY_BYTES;
use anyhow::{Context, Result};
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// The longest request with its body, in bytes.
const REQUEST_MAX_BYTES: usize = 16 << 10;

struct Answers {
    work: Vec<u8>,
    health: Vec<u8>,
    address: Vec<u8>,
}

/// Serves where the fleet wants it to.
pub(crate) async fn run(bad: bool) -> Result<()> {
    let address = std::env::var("TIDEGATE_ADDRESS").context("TIDEGATE_ADDRESS is not set")?;
    let listener =
        TcpListener::bind(&address).await.with_context(|| format!("failed to listen on {address}"))?;
    let answer = |status: &str, body: &[u8]| {
        let head = format!(
            "HTTP/1.1 {status}\r\ncontent-type: text/plain\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        [head.as_bytes(), body].concat()
    };
    let answers = Arc::new(Answers {
        work: answer(if bad { "500 Bad release" } else { "200 OK" }, &[b'x'; BODY_BYTES]),
        health: answer("200 OK", b"healthy"),
        address: answer("200 OK", address.as_bytes()),
    });
    loop {
        let (stream, _) = listener.accept().await.context("failed to accept")?;
        let answers = Arc::clone(&answers);
        // A client that breaks off is its own affair.
        tokio::spawn(async move { serve(stream, &answers).await });
    }
}

async fn serve(mut stream: TcpStream, answers: &Answers) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = vec![0; REQUEST_MAX_BYTES];
    let mut filled = 0;
    loop {
        let length = loop {
            match request_length(&buffer[..filled]) {
                Some(length) if length <= filled => break length,
                _ if filled == buffer.len() => return Ok(()),
                _ => {}
            }
            match stream.read(&mut buffer[filled..]).await? {
                0 => return Ok(()),
                n => filled += n,
            }
        };
        let path = buffer[..length].split(|b| *b == b' ').nth(1).unwrap_or_default();
        let answer = match path {
            b"/health" => &answers.health,
            b"/address" => &answers.address,
            _ => &answers.work,
        };
        stream.write_all(answer).await?;
        buffer.copy_within(length..filled, 0);
        filled -= length;
    }
}

/// Of head and body; `None` as long as the head is not complete.
fn request_length(bytes: &[u8]) -> Option<usize> {
    let end = bytes.windows(4).position(|w| w == b"\r\n\r\n")? + 4;
    let text = std::str::from_utf8(&bytes[..end]).ok()?;
    let length = text.split("\r\n").filter_map(|line| line.split_once(':')).find_map(|(name, value)| {
        if name.eq_ignore_ascii_case("content-length") { value.trim().parse::<usize>().ok() } else { None }
    });
    Some(end + length.unwrap_or(0))
}

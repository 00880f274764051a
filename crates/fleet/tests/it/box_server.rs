//! The program in the tests' packages: a small HTTP server on std alone.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Mutex;
use std::time::Duration;

/// Runs the server if this process is a box; else does nothing.
pub(crate) fn main() {
    let Ok(mode) = std::env::var("TEST_MODE") else { return };
    let Ok(address) = std::env::var("TIDEGATE_ADDRESS") else { return };
    println!("box {} starts", std::env::var("TIDEGATE_BOX").unwrap());
    if mode == "exit" {
        println!("FATAL this box exits at once");
        std::process::exit(7);
    }
    *values().lock().unwrap() = read_values().unwrap();
    if *values().lock().unwrap() == "666" {
        std::process::exit(6);
    }
    let listener = TcpListener::bind(&address).unwrap();
    for stream in listener.incoming().flatten() {
        let mode = mode.clone();
        std::thread::spawn(move || {
            let _ = serve(stream, &mode);
        });
    }
}

/// What this process works with.
fn values() -> &'static Mutex<String> {
    static VALUES: Mutex<String> = Mutex::new(String::new());
    &VALUES
}

/// The values that the box is given; none if there are none.
fn read_values() -> Result<String, String> {
    let folder = std::env::var("TIDEGATE_CONFIGURATION").map_err(|e| e.to_string())?;
    let text = match std::fs::read_to_string(std::path::Path::new(&folder).join("flags/limit")) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok("none".to_owned()),
        Err(e) => return Err(e.to_string()),
    };
    match text.trim().parse::<u32>() {
        Ok(limit) => Ok(limit.to_string()),
        Err(e) => Err(format!("limit '{}': {e}", text.trim())),
    }
}

struct Request {
    method: String,
    path: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Request {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }
}

fn read_request(reader: &mut BufReader<TcpStream>) -> std::io::Result<Option<Request>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split_whitespace();
    let (method, path) = (words.next().unwrap().to_owned(), words.next().unwrap().to_owned());
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let line = line.trim_end();
        if line.is_empty() {
            break;
        }
        let (name, value) = line.split_once(':').unwrap();
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let mut request = Request { method, path, headers, body: Vec::new() };
    if let Some(length) = request.header("content-length").map(|n| n.parse().unwrap()) {
        request.body = vec![0; length];
        reader.read_exact(&mut request.body)?;
    } else if request.header("transfer-encoding") == Some("chunked") {
        loop {
            let mut size = String::new();
            reader.read_line(&mut size)?;
            let size = usize::from_str_radix(size.trim(), 16).unwrap();
            let mut chunk = vec![0; size + 2];
            reader.read_exact(&mut chunk)?;
            request.body.extend_from_slice(&chunk[..size]);
            if size == 0 {
                break;
            }
        }
    }
    Ok(Some(request))
}

fn serve(stream: TcpStream, mode: &str) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut out = stream.try_clone()?;
    let mut reader = BufReader::new(stream);
    while let Some(request) = read_request(&mut reader)? {
        let path = request.path.split('?').next().unwrap().to_owned();
        let number = || request.path.split('=').nth(1).and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
        let (status, body): (&str, Vec<u8>) = match path.as_str() {
            "/healthz" if mode == "sick" || std::path::Path::new("../sick").exists() => {
                ("503 Sick", b"sick".to_vec())
            }
            "/slow" => {
                std::thread::sleep(Duration::from_millis(number()));
                ("200 OK", b"slow".to_vec())
            }
            "/fail" => ("500 Failed", b"no".to_vec()),
            "/missing" => ("404 Missing", b"no".to_vec()),
            "/die" => std::process::exit(9),
            "/close" => return Ok(()),
            "/log" => {
                println!("ERROR the box was asked to say so");
                std::io::stdout().flush()?;
                ("200 OK", Vec::new())
            }
            "/env" => {
                let all: String = std::env::vars().map(|(n, v)| format!("{n}={v}\n")).collect();
                ("200 OK", all.into_bytes())
            }
            "/head" => {
                let all: String = request.headers.iter().map(|(n, v)| format!("{n}: {v}\n")).collect();
                ("200 OK", format!("{} {}\n{all}", request.method, request.path).into_bytes())
            }
            "/values" => ("200 OK", values().lock().unwrap().clone().into_bytes()),
            "/reload" => match read_values() {
                _ if std::path::Path::new("../mute").exists() => {
                    std::thread::sleep(Duration::from_secs(600));
                    ("200 OK", Vec::new())
                }
                Ok(new) => {
                    if new == "666" {
                        std::thread::spawn(|| {
                            std::thread::sleep(Duration::from_millis(100));
                            std::process::exit(6);
                        });
                    }
                    *values().lock().unwrap() = new;
                    ("204 Taken", Vec::new())
                }
                Err(why) => ("422 Refused", format!("{why}\nand more").into_bytes()),
            },
            "/big" => ("200 OK", vec![b'b'; usize::try_from(number()).unwrap()]),
            "/chunked" => {
                write!(out, "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")?;
                for part in ["one", "two", "three"] {
                    write!(out, "{:x}\r\n{part}\r\n", part.len())?;
                    out.flush()?;
                }
                write!(out, "0\r\n\r\n")?;
                continue;
            }
            "/upgrade" => {
                write!(
                    out,
                    "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\nhello"
                )?;
                let mut buffer = [0; 1024];
                loop {
                    let n = reader.read(&mut buffer)?;
                    if n == 0 {
                        return Ok(());
                    }
                    out.write_all(&buffer[..n])?;
                }
            }
            _ => ("200 OK", request.body.clone()),
        };
        let length = body.len();
        let head = format!(
            "HTTP/1.1 {status}\r\ncontent-length: {length}\r\nx-box: {}\r\nx-version: {}\r\n\r\n",
            std::env::var("TIDEGATE_BOX").unwrap(),
            std::env::var("VERSION").unwrap_or_default(),
        );
        let body = if request.method == "HEAD" { Vec::new() } else { body };
        out.write_all(&[head.into_bytes(), body].concat())?;
        if request.header("connection") == Some("close") {
            return Ok(());
        }
    }
    Ok(())
}

//! The program in the tests' packages: a small HTTP server on std alone. The package says in a file how it behaves.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Mutex;

/// What a faulty box answers customers.
pub(crate) const FAULT: &str = "the release is faulty";

/// Runs the server if this process is a box; else does nothing.
///
/// Behaviours: `good`; `broken` answers well and says in its own metrics that it is broken; `exits` at once; `sick` never passes a health check; `faulty` answers customers with faults;
/// `stubborn` takes no SIGTERM (its script sees to that).
pub(crate) fn main() {
    let (Ok(behaviour), Ok(address)) = (std::env::var("BEHAVIOUR"), std::env::var("TIDEGATE_ADDRESS")) else {
        return;
    };
    if behaviour == "exits" {
        println!("FATAL the configuration has no database");
        std::process::exit(7);
    }
    *LIMIT.lock().unwrap() = limit().unwrap_or_else(|why| panic!("{why}"));
    let listener = TcpListener::bind(&address).unwrap();
    for stream in listener.incoming().flatten() {
        let behaviour = behaviour.clone();
        std::thread::spawn(move || serve(&stream, &behaviour));
    }
}

/// The limit that this process works with.
static LIMIT: Mutex<String> = Mutex::new(String::new());

/// The limit of the box's configuration; `none` without one.
fn limit() -> Result<String, String> {
    let folder = std::env::var("TIDEGATE_CONFIGURATION").map_err(|e| e.to_string())?;
    let Ok(text) = std::fs::read_to_string(format!("{folder}/flags/limit")) else {
        return Ok("none".to_owned());
    };
    let text = text.trim();
    text.parse::<u32>().map(|limit| limit.to_string()).map_err(|e| format!("limit '{text}': {e}"))
}

fn serve(mut stream: &TcpStream, behaviour: &str) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream).lines();
    while let Some(line) = lines.next().transpose()? {
        let path = line.split_whitespace().nth(1).unwrap_or_default().to_owned();
        // Nobody sends these boxes a body.
        let mut last = false;
        while let Some(header) = lines.next().transpose()?.filter(|header| !header.is_empty()) {
            last |= header.eq_ignore_ascii_case("connection: close");
        }
        let (status, body) = match path.as_str() {
            "/health" if behaviour == "sick" => ("503 Sick", "the database does not answer".to_owned()),
            "/metrics" => {
                let broken = u8::from(behaviour == "broken");
                ("200 OK", format!("# TYPE shop_broken gauge\nshop_broken {broken}\n"))
            }
            "/limit" => ("200 OK", LIMIT.lock().unwrap().clone()),
            "/reload" => match limit() {
                Ok(limit) => {
                    *LIMIT.lock().unwrap() = limit;
                    ("204 Taken", String::new())
                }
                Err(why) => ("422 Refused", why),
            },
            "/env" => ("200 OK", std::env::vars().map(|(name, value)| format!("{name}={value}\n")).collect()),
            "/health" => ("200 OK", String::new()),
            _ if behaviour == "faulty" => ("500 Faulty", FAULT.to_owned()),
            _ => ("200 OK", std::env::var("VERSION").unwrap_or_default()),
        };
        let head = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n", body.len());
        stream.write_all(&[head, body].concat().into_bytes())?;
        if last {
            break;
        }
    }
    Ok(())
}

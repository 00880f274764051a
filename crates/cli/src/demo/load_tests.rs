//! The load generator against real servers on loopback that behave well, badly, and as HTTP allows.

use super::*;
use std::future::Future;
use std::net::Ipv4Addr;
use std::sync::atomic::AtomicU64;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

const WITHIN: Duration = Duration::from_secs(20);

/// What a test server does after it has read a request.
#[derive(Clone, Copy)]
enum Answer {
    /// Answers with this status and keeps the connection.
    Status(u16),
    /// Answers 200, says that it closes, and closes.
    Close,
    /// Answers 200 and closes without a word.
    SilentClose,
    /// Closes without an answer.
    Drop,
    /// Does not answer.
    Hang,
}

/// A server on a free port; `answer` is given the request's head and the number of requests before it.
struct Server {
    address: SocketAddr,
    connections: Arc<AtomicU64>,
    _tasks: JoinSet<()>,
}

async fn server(answer: impl Fn(&str, u64) -> Answer + Send + Sync + 'static) -> Server {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let connections = Arc::new(AtomicU64::new(0));
    let (answer, requests, counted) = (Arc::new(answer), Arc::new(AtomicU64::new(0)), connections.clone());
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut open = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            counted.fetch_add(1, Ordering::SeqCst);
            open.spawn(serve(stream, answer.clone(), requests.clone()));
        }
    });
    Server { address, connections, _tasks: tasks }
}

async fn serve(mut stream: TcpStream, answer: Arc<impl Fn(&str, u64) -> Answer>, requests: Arc<AtomicU64>) {
    while let Some(request) = read_request(&mut stream).await {
        let (status, close) = match answer(&request, requests.fetch_add(1, Ordering::SeqCst)) {
            Answer::Status(status) => (status, ""),
            Answer::Close => (200, "connection: close\r\n"),
            Answer::SilentClose => {
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
                return;
            }
            Answer::Drop => return,
            Answer::Hang => std::future::pending().await,
        };
        let text = format!("HTTP/1.1 {status} Status\r\n{close}content-length: 2\r\n\r\nok");
        if stream.write_all(text.as_bytes()).await.is_err() || !close.is_empty() {
            return;
        }
    }
}

/// Head and body of a request as text; `None` when the client has closed.
async fn read_request(stream: &mut TcpStream) -> Option<String> {
    let mut text = String::new();
    let mut buffer = [0; 4096];
    loop {
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap_or("0");
            if body.len() >= length.parse::<usize>().unwrap() {
                return Some(text);
            }
        }
        let count = stream.read(&mut buffer).await.ok().filter(|count| *count > 0)?;
        text.push_str(std::str::from_utf8(&buffer[..count]).unwrap());
    }
}

fn target(address: SocketAddr, requests: Vec<LoadRequest>) -> Vec<LoadTarget> {
    vec![LoadTarget { name: "shop".to_string(), address, rate_per_second: 200, connections: 4, requests }]
}

fn get() -> Vec<LoadRequest> {
    vec![LoadRequest::get("/")]
}

/// Polls until the condition holds.
async fn until(condition: impl Fn() -> bool) {
    let poll = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    timeout(WITHIN, poll).await.expect("the condition holds in time");
}

/// Arms the endpoint, waits until `count` requests ended, and stops.
async fn run(generator: LoadGenerator, count: u64) -> Tally {
    generator.arm("shop");
    until(|| {
        let tally = generator.snapshot().sum(|_| true);
        tally.ok + tally.failed.total() >= count
    })
    .await;
    bounded(generator.stop()).await.targets["shop"].clone()
}

async fn bounded<T>(future: impl Future<Output = T>) -> T {
    timeout(WITHIN, future).await.expect("it ends in time")
}

#[tokio::test]
async fn a_good_server_has_no_failure_and_every_request_is_counted() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = seen.clone();
    let server = server(move |request, _| {
        log.lock().unwrap().push(request.to_string());
        Answer::Status(200)
    })
    .await;
    let mix = vec![LoadRequest::get("/items/{n}"), LoadRequest::post("/orders", "item={n}&quantity=1")];
    let generator = LoadGenerator::start(target(server.address, mix));
    assert!(generator.wait_served("shop", WITHIN).await);
    assert_eq!(
        generator.snapshot().targets["shop"],
        Tally::default(),
        "nothing is counted before it is armed"
    );
    generator.arm("shop");
    until(|| generator.snapshot().targets["shop"].ok >= 40).await;
    let early = generator.snapshot();
    until(|| generator.snapshot().since(&early).targets["shop"].ok >= 20).await;
    assert_eq!(generator.failures(), Vec::<String>::new());
    let seconds = generator.seconds("shop");
    assert!(seconds.values().map(|tally| tally.ok).sum::<u64>() >= 60);
    let last = bounded(generator.stop()).await;
    let tally = &last.targets["shop"];
    assert_eq!((tally.sent, tally.failed.total()), (tally.ok, 0));
    assert_eq!(tally.latency().count(), tally.ok);
    let part = last.since(&early);
    assert_eq!(part.targets["shop"].latency().count(), part.targets["shop"].ok);
    assert_eq!(server.connections.load(Ordering::SeqCst), 4, "connections are kept");
    let seen = seen.lock().unwrap();
    assert!(seen.len() as u64 >= tally.sent);
    assert!(seen.iter().any(|request| request.starts_with("GET /items/1 ")));
    assert!(seen.iter().any(|request| request.starts_with("POST /orders ") && request.contains("item=2&")));
}

#[tokio::test]
async fn failures_are_counted_by_kind() {
    let server = server(|_, n| match n % 4 {
        0 => Answer::Status(200),
        1 => Answer::Status(503),
        2 => Answer::Status(404),
        _ => Answer::Drop,
    })
    .await;
    let tally = run(LoadGenerator::start(target(server.address, get())), 80).await;
    assert_eq!(tally.sent, tally.ok + tally.failed.total());
    let Failures { server_error, unexpected_status, broken, connect, timeout } = tally.failed;
    assert!(tally.ok >= 15 && server_error >= 15 && unexpected_status >= 15 && broken >= 15, "{tally:?}");
    assert_eq!((connect, timeout), (0, 0));
}

#[tokio::test]
async fn a_server_that_closes_between_requests_has_no_failure() {
    for answer in [Answer::Close, Answer::SilentClose] {
        let server = server(move |_, n| if n % 3 == 0 { answer } else { Answer::Status(200) }).await;
        // Each connection rests for 400 ms, so the silent close has long arrived when it sends again.
        let mut targets = target(server.address, get());
        targets[0].connections = 80;
        let tally = run(LoadGenerator::start(targets), 240).await;
        assert_eq!(tally.failed, Failures::default());
        assert!(server.connections.load(Ordering::SeqCst) > 100, "each close made a new connection");
    }
}

#[tokio::test]
async fn a_port_that_nobody_listens_on_fails_to_connect() {
    let address = {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        listener.local_addr().unwrap()
    };
    let generator = LoadGenerator::start(target(address, get()));
    assert!(!generator.wait_served("shop", Duration::from_millis(50)).await);
    generator.arm("shop");
    until(|| !generator.failures().is_empty()).await;
    assert!(
        generator.failures()[0].starts_with("shop: GET /: failed to connect: "),
        "{:?}",
        generator.failures()
    );
    let tally = run(generator, 5).await;
    assert_eq!((tally.sent, tally.ok, tally.latency().count()), (tally.failed.connect, 0, 0));
}

#[tokio::test]
async fn a_hanging_server_times_out_and_what_was_not_sent_is_told() {
    let server = server(|_, n| if n == 5 { Answer::Hang } else { Answer::Status(200) }).await;
    let generator = LoadGenerator::start_with(target(server.address, get()), Duration::from_secs(1));
    generator.arm("shop");
    until(|| generator.snapshot().targets["shop"].skipped >= 5).await;
    let tally = run(generator, 0).await;
    assert_eq!(tally.failed, Failures { timeout: 1, ..Failures::default() });
    assert_eq!(tally.sent, tally.ok + 1);
}

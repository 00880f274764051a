//! HTTP as clients speak it.

use crate::load::{Client, Load, ask};
use crate::support::{Fleet, main_slot, slot};
use std::io::Read;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_in_its_variety() {
    let fleet = Fleet::start().await;
    let (main, spec) = (main_slot(), fleet.run_spec("1", "ok"));
    fleet.bring(&main, &[(&spec, 1)]).await;
    let port = fleet.port(&main).await;

    // Many requests on one connection, of several kinds.
    let mut client = Client::connect(port).unwrap();
    assert_eq!(client.ask("POST", "/echo", b"hello").unwrap().body, b"hello");
    let head = client.ask("HEAD", "/big?n=5000", b"").unwrap();
    assert_eq!((head.status, head.headers["content-length"].as_str()), (200, "5000"));
    assert_eq!(client.ask("GET", "/chunked", b"").unwrap().body, b"onetwothree");
    assert_eq!(client.ask("GET", "/big?n=3000000", b"").unwrap().body.len(), 3_000_000);
    assert_eq!(client.ask("POST", "/echo", &vec![7; 2_000_000]).unwrap().body, vec![7; 2_000_000]);
    assert_eq!(client.ask("GET", "/missing", b"").unwrap().status, 404);

    // A chunked upload, and one that waits to be told to go on.
    client.send(b"POST /echo HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n4\r\ndefg\r\n0\r\n\r\n").unwrap();
    assert_eq!(client.receive(true).unwrap().body, b"abcdefg");
    client
        .send(b"POST /echo HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 4\r\n\r\n")
        .unwrap();
    assert_eq!(client.receive_head().unwrap().status, 100);
    client.send(b"late").unwrap();
    assert_eq!(client.receive(true).unwrap().body, b"late");

    // What belongs to one connection does not pass; who asked does.
    client
        .send(b"GET http://elsewhere/head?q=1 HTTP/1.1\r\nconnection: keep-alive, x-mine\r\nx-mine: 1\r\nte: trailers\r\n\
                x-forwarded-for: 10.0.0.1\r\nx-kept: 2\r\n\r\n")
        .unwrap();
    let seen = String::from_utf8(client.receive(true).unwrap().body).unwrap();
    assert!(seen.starts_with("GET /head?q=1\n"), "{seen}");
    for line in ["host: elsewhere", "x-forwarded-for: 10.0.0.1, 127.0.0.1", "x-kept: 2"] {
        assert!(seen.lines().any(|l| l == line), "{line} is not in\n{seen}");
    }
    assert!(!seen.contains("x-mine") && !seen.contains("te: "), "{seen}");

    // HTTP/1.0 without a host, closed by the server.
    let mut old = Client::connect(port).unwrap();
    old.send(b"GET /chunked HTTP/1.0\r\n\r\n").unwrap();
    let answer = old.receive(true).unwrap();
    assert_eq!((answer.status, &answer.body[..]), (200, &b"onetwothree"[..]));
    assert!(!answer.headers.contains_key("transfer-encoding"));

    // What is no request, and what is too long.
    let mut bad = Client::connect(port).unwrap();
    bad.send(b"CONNECT elsewhere:443 HTTP/1.1\r\nhost: elsewhere\r\n\r\n").unwrap();
    assert_eq!(bad.receive(true).unwrap().status, 405);
    let mut long = Client::connect(port).unwrap();
    long.send(format!("GET /{} HTTP/1.1\r\nhost: a\r\n\r\n", "x".repeat(100_000)).as_bytes()).unwrap();
    assert!(matches!(long.receive(true).unwrap().status, 414 | 431));
    let mut huge = Client::connect(port).unwrap();
    huge.send(b"POST /echo HTTP/1.1\r\nhost: a\r\ncontent-length: 99999999999\r\n\r\n").unwrap();
    assert_eq!(huge.receive(true).unwrap().status, 413);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upgrade_of_the_protocol_passes_through() {
    let fleet = Fleet::start().await;
    let (main, spec) = (main_slot(), fleet.run_spec("1", "ok"));
    fleet.bring(&main, &[(&spec, 1)]).await;
    let mut client = Client::connect(fleet.port(&main).await).unwrap();
    client.send(b"GET /upgrade HTTP/1.1\r\nhost: a\r\nconnection: Upgrade\r\nupgrade: echo\r\n\r\n").unwrap();
    let answer = client.receive_head().unwrap();
    assert_eq!((answer.status, answer.headers["upgrade"].as_str()), (101, "echo"));
    let mut hello = [0; 5];
    client.reader.read_exact(&mut hello).unwrap();
    assert_eq!(&hello, b"hello");
    for text in [&b"ping"[..], b"pong"] {
        client.send(text).unwrap();
        let mut back = vec![0; text.len()];
        client.reader.read_exact(&mut back).unwrap();
        assert_eq!(back, text);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_in_which_nothing_moves_is_ended_at_its_limit() {
    let fleet = Fleet::start().await;
    let (main, spec) = (main_slot(), fleet.run_spec("1", "ok"));
    fleet.bring(&main, &[(&spec, 1)]).await;
    // The limit of these tests' fleets is 2 s.
    let port = fleet.port(&main).await;
    assert_eq!(ask(port, "POST", "/slow?ms=20000").status, 504);
    assert_eq!(ask(port, "POST", "/slow?ms=500").status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_one_box_gets_a_tenth_at_most_and_the_azs_share_the_rest() {
    let fleet = Fleet::start().await;
    let one_box = slot("shop/production/eu-1/a/one-box");
    let (a, b, spec) = (main_slot(), slot("shop/production/eu-1/b/main"), fleet.run_spec("1", "ok"));
    fleet.bring(&one_box, &[(&spec, 1)]).await;
    let port = fleet.port(&one_box).await;
    assert_eq!(ask(port, "GET", "/work").status, 200, "alone it serves");
    fleet.bring(&a, &[(&spec, 2)]).await;
    fleet.bring(&b, &[(&spec, 1)]).await;
    let load = Load::start(port, 4);
    load.more(2000).await;
    let by_box = load.counters.by_box.lock().unwrap().clone();
    load.finish();
    let of = async |slot| {
        fleet.observe(slot).await.boxes.into_iter().map(|b| (b.id, b.weight)).collect::<Vec<_>>()
    };
    let one = &of(&one_box).await[0];
    let total: u64 = by_box.values().sum();
    let share = by_box[&one.0];
    assert!(share > 0 && share * 10 <= total + 20, "{share} of {total}");
    for (id, weight) in of(&a).await.into_iter().chain(of(&b).await) {
        assert_eq!((weight, one.1), (9, 3));
        assert!(by_box[&id] * 100 / total >= 25, "{by_box:?}");
    }
}

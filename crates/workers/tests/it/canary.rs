//! Canaries against real listeners.

use crate::webhook::Server;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tidegate_core::definition::CanarySpec;
use tidegate_core::units::Span;
use tidegate_workers::canary::{Canaries, CanaryCell, CanaryKey, CanaryTarget};
use tokio::time::Instant;

const PATIENCE: Duration = Duration::from_secs(30);

fn key(region: &str) -> CanaryKey {
    CanaryKey {
        service: "frontend".parse().unwrap(),
        environment: "production".parse().unwrap(),
        region: region.parse().unwrap(),
    }
}

fn spec(name: &str, method: &str, timeout: Span) -> CanarySpec {
    CanarySpec {
        name: name.to_owned(),
        method: method.to_owned(),
        path: "/orders?n=1".to_owned(),
        body: (method == "POST").then(|| "an order".to_owned()),
        expect_status: 200,
        expect_body_contains: Some("welcome".to_owned()),
        every: Span(100),
        timeout,
    }
}

fn target(server: &Server, canaries: &[CanarySpec]) -> CanaryTarget {
    CanaryTarget { endpoint: server.url.clone(), canaries: canaries.to_vec() }
}

/// The closed cells of a Region, once they satisfy `enough`.
async fn cells(canaries: &Canaries, region: &str, enough: impl Fn(&[CanaryCell]) -> bool) -> Vec<CanaryCell> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut cells = canaries.cells_after(0);
        cells.retain(|cell| cell.region.as_str() == region);
        if enough(&cells) {
            return cells;
        }
        assert!(Instant::now() < deadline, "too few: {cells:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn runs(cells: &[CanaryCell]) -> u32 {
    cells.iter().map(|cell| cell.runs).sum()
}

#[tokio::test]
async fn a_healthy_endpoint_is_called_all_the_time_on_one_connection() {
    let server = Server::start(|_| Some((200, "you are welcome"))).await;
    let canaries = Canaries::new();
    let spec = spec("order", "POST", Span::seconds(20));
    let targets = BTreeMap::from([(key("eu-1"), target(&server, std::slice::from_ref(&spec)))]);
    canaries.set(targets.clone()).unwrap();
    let seen = cells(&canaries, "eu-1", |cells| cells.len() >= 2 && runs(cells) >= 8).await;
    assert!(seen.iter().all(|cell| cell.failures == 0 && cell.last_failure.is_none()), "{seen:?}");
    assert!(seen.iter().all(|cell| cell.runs <= 11), "every 100 ms: {seen:?}");
    assert!(canaries.cells_after(seen[0].second).iter().all(|cell| cell.second > seen[0].second));

    canaries.set(targets).unwrap();
    let before = server.requests().len();
    cells(&canaries, "eu-1", |cells| runs(cells) as usize > before + 2).await;
    let requests = server.requests();
    let connections: BTreeSet<usize> = requests.iter().map(|r| r.connection).collect();
    assert_eq!(connections.len(), 1, "the same ones set again go on undisturbed");
    assert!(requests[0].head.starts_with("post /orders?n=1 http/1.1\r\n"), "{}", requests[0].head);
    assert_eq!(requests[0].body, "an order");

    canaries.set(BTreeMap::new()).unwrap();
    let after = server.requests().len();
    // One run may have been under way; a second one is 100 ms later at the earliest, so five would be seen here.
    let stopped = Instant::now();
    while stopped.elapsed() < Duration::from_millis(600) {
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(server.requests().len() <= after + 1);
    }
}

#[tokio::test]
async fn every_way_to_fail_is_counted_and_named() {
    let wrong = Server::start(|_| Some((500, "welcome"))).await;
    let empty = Server::start(|_| Some((200, "go away"))).await;
    let gone = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let canaries = Canaries::new();
    let get = [spec("front", "GET", Span::seconds(20))];
    let nobody = CanaryTarget { endpoint: format!("http://{gone}"), canaries: get.to_vec() };
    canaries
        .set(BTreeMap::from([
            (key("wrong"), target(&wrong, &get)),
            (key("empty"), target(&empty, &get)),
            (key("gone"), nobody),
        ]))
        .unwrap();
    for (region, why) in [
        ("wrong", "front: answered 500 instead of 200"),
        ("empty", "front: its answer does not contain 'welcome'"),
        ("gone", "front: Connection refused (os error 111)"),
    ] {
        let seen = cells(&canaries, region, |cells| !cells.is_empty()).await;
        assert!(seen.iter().all(|cell| cell.failures == cell.runs), "{seen:?}");
        assert_eq!(seen[0].last_failure.as_deref(), Some(why));
    }
}

#[tokio::test]
async fn an_endpoint_that_never_answers_fails_and_holds_no_other_up() {
    let hanging = Server::start(|_| None).await;
    let good = Server::start(|_| Some((200, "welcome"))).await;
    let canaries = Canaries::new();
    let slow = [spec("hang", "GET", Span(400))];
    let fast = [spec("front", "GET", Span::seconds(20))];
    canaries
        .set(BTreeMap::from([(key("eu-1"), target(&hanging, &slow)), (key("eu-2"), target(&good, &fast))]))
        .unwrap();
    let seen = cells(&canaries, "eu-1", |cells| runs(cells) >= 2).await;
    assert_eq!(seen[0].last_failure.as_deref(), Some("hang: no answer within 400ms"));
    assert!(seen.iter().all(|cell| cell.failures == cell.runs && cell.runs <= 3), "{seen:?}");
    let seen = cells(&canaries, "eu-2", |cells| runs(cells) >= 8).await;
    assert!(seen.iter().all(|cell| cell.failures == 0), "{seen:?}");
}

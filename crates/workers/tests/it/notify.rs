//! Pages to real listeners: that answer, fail, refuse, and never answer.

use crate::webhook::Server;
use std::sync::Arc;
use std::time::Duration;
use tidegate_core::decision::{Page, PageKind, Severity};
use tidegate_core::definition::PageTarget;
use tidegate_core::units::Timestamp;
use tidegate_workers::notify::{Address, Delivery, Limits, Notifier, QUEUE_MAX};
use tokio::net::TcpListener;
use tokio::time::Instant;

fn limits() -> Limits {
    Limits {
        attempt_timeout: Duration::from_secs(20),
        attempts_max: 3,
        retry_first: Duration::from_millis(20),
        retry_max: Duration::from_millis(40),
    }
}

fn page() -> Page {
    Page {
        key: "frontend/rollback".to_owned(),
        severity: Severity::High,
        title: "frontend r7 is rolled back in eu-1".to_owned(),
        text: "alarm one-box-faults".to_owned(),
        at: Timestamp(1_000),
        to: vec![PageTarget::Webhook("http://127.0.0.1/secret".to_owned())],
        kind: PageKind::Opened,
        about: None,
    }
}

fn webhook(url: impl Into<String>) -> Address {
    Address::Webhook(url.into())
}

fn why(delivery: Delivery) -> String {
    match delivery {
        Delivery::GaveUp { why } => why,
        Delivery::Delivered => panic!("it was delivered"),
    }
}

#[tokio::test]
async fn a_page_is_repeated_under_the_same_key_until_it_is_taken() {
    let server = Server::start(|n| Some((if n < 2 { 503 } else { 204 }, ""))).await;
    let notifier = Notifier::new(limits()).unwrap();
    assert_eq!(
        notifier.deliver(&webhook(format!("{}/hook", server.url)), "p-1", &page()).await,
        Delivery::Delivered
    );
    let requests = server.requests();
    assert_eq!(requests.len(), 3);
    for request in &requests {
        assert!(request.head.starts_with("post /hook http/1.1\r\n"), "{}", request.head);
        assert!(request.head.contains("\r\nidempotency-key: p-1\r\n"), "{}", request.head);
        assert!(request.head.contains("\r\ncontent-type: application/json\r\n"), "{}", request.head);
        expect_test::expect![[r#"{"key":"frontend/rollback","severity":"high","title":"frontend r7 is rolled back in eu-1","text":"alarm one-box-faults","at":"1970-01-01T00:00:01.000Z"}"#]]
            .assert_eq(&request.body);
    }
}

#[tokio::test]
async fn what_repeating_cannot_mend_is_given_up_at_once() {
    let server = Server::start(|_| Some((404, ""))).await;
    let notifier = Notifier::new(limits()).unwrap();
    assert_eq!(
        why(notifier.deliver(&webhook(server.url.clone()), "p-1", &page()).await),
        "the destination answered 404 Not Found (try 1)"
    );
    assert_eq!(server.requests().len(), 1);
    assert!(why(notifier.deliver(&webhook("no address"), "p-1", &page()).await).contains("(try 1)"));
    assert!(why(notifier.deliver(&webhook(server.url.clone()), "two\nlines", &page()).await).contains("key"));
    let mut long = page();
    long.text = "x".repeat(70_000);
    assert!(
        why(notifier.deliver(&webhook(server.url.clone()), "p-2", &long).await).contains("65536 are allowed")
    );
    assert_eq!(server.requests().len(), 1);
}

#[tokio::test]
async fn a_page_is_given_up_after_the_last_try() {
    let server = Server::start(|_| Some((500, ""))).await;
    let notifier = Notifier::new(limits()).unwrap();
    assert_eq!(
        why(notifier.deliver(&webhook(server.url.clone()), "p-1", &page()).await),
        "the destination answered 500 Internal Server Error (try 3)"
    );
    assert_eq!(server.requests().len(), 3);
    // Nobody listens there: the port was free a moment ago.
    let gone = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let why = why(notifier.deliver(&webhook(format!("http://{gone}/secret-path")), "p-1", &page()).await);
    assert!(why.ends_with("(try 3)") && !why.contains("secret-path"), "{why}");
}

#[tokio::test]
async fn a_destination_that_never_answers_is_bounded_and_holds_nothing_else_up() {
    let hanging = Server::start(|_| None).await;
    let good = Server::start(|_| Some((200, "ok"))).await;
    let notifier = Notifier::new(Limits { attempts_max: 1, ..limits() }).unwrap();
    let mut pages = tokio::task::JoinSet::new();
    let started = Instant::now();
    for n in 0..=QUEUE_MAX {
        let (notifier, url) = (notifier.clone(), hanging.url.clone());
        pages.spawn(async move { notifier.deliver(&webhook(url.clone()), &format!("p-{n}"), &page()).await });
    }
    let first = pages.join_next().await.unwrap().unwrap();
    assert_eq!(why(first), "100 pages to this destination are waiting already");
    assert_eq!(notifier.deliver(&webhook(good.url.clone()), "other", &page()).await, Delivery::Delivered);
    assert!(started.elapsed() < Duration::from_secs(15), "the other one waited: {:?}", started.elapsed());
    drop(pages);

    let notifier = Notifier::new(Limits { attempt_timeout: Duration::from_millis(200), ..limits() }).unwrap();
    let started = Instant::now();
    assert_eq!(
        why(notifier.deliver(&webhook(hanging.url.clone()), "p", &page()).await),
        "no answer within 200 ms (try 3)"
    );
    assert!((Duration::from_millis(600)..Duration::from_secs(15)).contains(&started.elapsed()));
}

#[tokio::test]
async fn an_https_webhook_is_called_only_if_its_certificate_is_trusted() {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://localhost:{}/page", listener.local_addr().unwrap().port());
    let server = tokio::spawn(async move {
        let mut refusals = Vec::new();
        for _ in 0..limits().attempts_max {
            let (stream, _) = listener.accept().await.unwrap();
            refusals.push(acceptor.accept(stream).await.map(|_| ()).unwrap_err().to_string());
        }
        refusals
    });
    let notifier = Notifier::new(limits()).unwrap();
    let told = why(notifier.deliver(&webhook(url.clone()), "key", &page()).await);
    assert!(told.contains("certificate"), "{told}");
    // The handshake itself went well: it was the client that said no, and nothing of the page was sent.
    let refusals = server.await.unwrap();
    assert!(refusals.iter().all(|r| r.contains("UnknownCA") || r.contains("certificate")), "{refusals:?}");
}

#[tokio::test]
async fn every_format_is_posted_to_its_place_and_tried_again_when_it_is_too_much() {
    for (n, kind) in ["pagerduty", "slack", "alertmanager"].into_iter().enumerate() {
        let server = Server::start(|n| Some(([429, 503, 202][n.min(2)], "ok"))).await;
        let (base, secret) = (server.url.clone(), "hunter22".to_owned());
        let (address, path) = match n {
            0 => {
                (Address::PagerDuty { url: format!("{base}/v2/enqueue"), routing_key: secret }, "/v2/enqueue")
            }
            1 => (Address::Slack(format!("{base}/services/hunter22")), "/services/hunter22"),
            _ => (Address::Alertmanager(format!("{base}/")), "/api/v2/alerts"),
        };
        assert_eq!(address.kind(), kind);
        let notifier = Notifier::new(limits()).unwrap();
        assert_eq!(notifier.deliver(&address, "p-1", &page()).await, Delivery::Delivered);
        let requests = server.requests();
        assert_eq!(requests.len(), 3, "{kind}");
        assert!(requests.iter().all(|r| r.head.starts_with(&format!("post {path} http/1.1\r\n"))), "{kind}");
        assert!(requests.iter().all(|r| r.body == requests[0].body), "{kind}: each try says the same");
        assert!(requests[0].body.contains("frontend r7 is rolled back in eu-1"), "{}", requests[0].body);

        let refusing = Server::start(|_| Some((400, "invalid"))).await;
        let address = match address {
            Address::PagerDuty { routing_key, .. } => {
                Address::PagerDuty { url: refusing.url.clone(), routing_key }
            }
            Address::Slack(_) => Address::Slack(format!("{}/hunter22", refusing.url)),
            _ => Address::Alertmanager(refusing.url.clone()),
        };
        let why = why(notifier.deliver(&address, "p-1", &page()).await);
        assert_eq!(why, "the destination answered 400 Bad Request (try 1)", "{kind}");
    }
}

//! Questions to servers that speak Prometheus's HTTP API: well, slowly, lying, or not at all. A real Prometheus is asked where
//! whole servers are tested.

use crate::webhook;
use std::time::Duration;
use tidegate_core::units::Timestamp;
use tidegate_workers::prometheus::{CONCURRENT_MAX, Prometheus, Server};
use tokio::time::Instant;

const AT: Timestamp = Timestamp(1_700_000_000_000);
const PATIENCE: Duration = Duration::from_secs(20);

fn server(url: &str) -> Server {
    Server { url: url.to_owned(), token: None }
}

/// Waits until so many questions are answered.
async fn answers<K: Ord + Clone + Send + 'static>(
    prometheus: &Prometheus<K>,
    count: usize,
) -> Vec<(K, Result<f64, String>)> {
    let (mut all, end) = (Vec::new(), Instant::now() + PATIENCE);
    while all.len() < count {
        assert!(Instant::now() < end, "only {} of {count} were answered", all.len());
        all.extend(prometheus.answers());
        tokio::task::yield_now().await;
    }
    all.sort_by(|(a, _), (b, _)| a.cmp(b));
    all
}

/// What one answer comes to.
async fn told(status: u16, body: &'static str) -> Result<f64, String> {
    let listener = webhook::Server::start(move |_| Some((status, body))).await;
    let prometheus = Prometheus::new(PATIENCE).unwrap();
    prometheus.ask((), server(&listener.url), "up".to_owned(), AT);
    answers(&prometheus, 1).await.remove(0).1
}

#[tokio::test]
async fn exactly_one_finite_number_is_an_answer_and_nothing_else() {
    let mut table = String::new();
    for (status, body) in [
        (
            200,
            r#"{"status":"success","data":{"resultType":"vector","result":[{"metric":{"job":"a"},"value":[1700000000,"0.25"]}]}}"#,
        ),
        (200, r#"{"status":"success","data":{"resultType":"scalar","result":[1700000000.0,"-3"]}}"#),
        // The same label twice, and warnings, change no number.
        (
            200,
            r#"{"status":"success","warnings":["slow"],"data":{"resultType":"vector","result":[{"metric":{"a":"1","a":"2"},"value":[1700000000,"1e3"]}]}}"#,
        ),
        (200, r#"{"status":"success","data":{"resultType":"vector","result":[]}}"#),
        (
            200,
            r#"{"status":"success","data":{"resultType":"vector","result":[{"metric":{},"value":[1700000000,"1"]},{"metric":{},"value":[1700000000,"1"]}]}}"#,
        ),
        (
            200,
            r#"{"status":"success","data":{"resultType":"vector","result":[{"metric":{},"value":[1700000000,"NaN"]}]}}"#,
        ),
        (200, r#"{"status":"success","data":{"resultType":"scalar","result":[1700000000,"+Inf"]}}"#),
        (200, r#"{"status":"success","data":{"resultType":"scalar","result":[1700000000,"1e999"]}}"#),
        (200, r#"{"status":"success","data":{"resultType":"scalar","result":[1700000000,"many"]}}"#),
        (200, r#"{"status":"success","data":{"resultType":"scalar","result":[1699999990,"0"]}}"#),
        (
            200,
            r#"{"status":"success","data":{"resultType":"vector","result":[{"metric":{},"histogram":[1700000000,{"count":"1"}]}]}}"#,
        ),
        (200, r#"{"status":"success","data":{"resultType":"matrix","result":[]}}"#),
        (200, r#"{"status":"success","data":{"resultType":"string","result":[1700000000,"0"]}}"#),
        (400, r#"{"status":"error","errorType":"bad_data","error":"parse error:\nunexpected )"}"#),
        (503, r#"{"status":"error","errorType":"timeout","error":"query timed out"}"#),
        (200, r#"{"status":"error","data":{"resultType":"scalar","result":[1700000000,"0"]}}"#),
        (401, "Unauthorized"),
        (302, ""),
        (200, "<html>0</html>"),
        (200, ""),
    ] {
        table.push_str(&match told(status, body).await {
            Ok(number) => format!("{number}\n"),
            Err(why) => format!("no data: {why}\n"),
        });
    }
    expect_test::expect![[r#"
        0.25
        -3
        1000
        no data: it answered nothing
        no data: it answered 2 series, and one is expected
        no data: it answered NaN, which is no finite number
        no data: it answered +Inf, which is no finite number
        no data: it answered 1e999, which is no finite number
        no data: it answered many, which is no finite number
        no data: it answered about another time than it was asked for
        no data: it answered a histogram, and one number is expected
        no data: it answered no instant vector and no scalar
        no data: it answered no instant vector and no scalar
        no data: it refused the query: parse error: unexpected )
        no data: it refused the query: query timed out
        no data: it answered 200 OK and nothing that a Prometheus says
        no data: it answered 401 Unauthorized and nothing that a Prometheus says
        no data: it answered 302 Found and nothing that a Prometheus says
        no data: it answered 200 OK and nothing that a Prometheus says
        no data: it answered 200 OK and nothing that a Prometheus says
    "#]]
    .assert_eq(&table);
}

#[tokio::test]
async fn a_question_names_its_time_and_carries_the_token() {
    let listener = webhook::Server::start(|_| Some((200, "{}"))).await;
    let prometheus = Prometheus::new(PATIENCE).unwrap();
    let asked = Server { url: format!("{}/prom/", listener.url), token: Some("hunter22".to_owned()) };
    prometheus.ask((), asked, "a{b=\"c d\"} + 1".to_owned(), Timestamp(1_700_000_000_250));
    answers(&prometheus, 1).await;
    let head = &listener.requests()[0].head;
    let line = "get /prom/api/v1/query?query=a%7bb%3d%22c+d%22%7d+%2b+1&time=1700000000.250 http/1.1\r\n";
    assert!(head.starts_with(line), "{head}");
    assert!(head.contains("\r\nauthorization: bearer hunter22\r\n"), "{head}");
}

#[tokio::test]
async fn a_server_that_hangs_or_is_gone_costs_bounded_time_and_connections() {
    let hanging = webhook::Server::start(|_| None).await;
    let limit = Duration::from_millis(300);
    let prometheus = Prometheus::new(limit).unwrap();
    let started = Instant::now();
    for n in 0..50 {
        prometheus.ask(n, server(&hanging.url), "up".to_owned(), AT);
    }
    for (_, answer) in answers(&prometheus, 50).await {
        assert_eq!(answer.unwrap_err(), "no answer within 300 ms");
    }
    assert!(started.elapsed() >= limit && started.elapsed() < PATIENCE, "{:?}", started.elapsed());
    assert!(hanging.requests().len() <= CONCURRENT_MAX, "the others waited, and not for ever");

    let gone = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    prometheus.ask(0, server(&format!("http://{gone}/secret")), "up".to_owned(), AT);
    prometheus.ask(1, server("no address"), "up".to_owned(), AT);
    for (_, answer) in answers(&prometheus, 2).await {
        let why = answer.unwrap_err();
        assert!(!why.contains("secret") && !why.is_empty(), "an address may hold a secret: {why}");
    }
}

#[tokio::test]
async fn an_answer_that_never_ends_is_read_no_further() {
    let body: &'static str = Box::leak("x".repeat(300_000).into_boxed_str());
    assert_eq!(told(200, body).await.unwrap_err(), "its answer has more than 262144 bytes");
}

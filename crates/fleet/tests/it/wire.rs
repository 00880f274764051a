//! What was really said between a server and a fleet in each protocol, recorded once and never again (`wire/<protocol>/`): this
//! version understands all of it in both directions, and says the same.
//!
//! `./run golden` records the present protocol if it was not; a real fleet and a real client talk through a relay that listens.

use crate::support::{Fleet, eventually, main_slot};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use tidegate_core::engine::{Rest, RunningProcess};
use tidegate_core::ids::SlotId;
use tidegate_core::run_spec::{ConfigurationSpec, RunSpec, Workload};
use tidegate_core::units::Span;
use tidegate_fleet::FleetClient;
use tidegate_fleet::protocol::{
    Accepted, BreakGlass, EndpointKey, Endpoints, MetricsPage, Observations, PROTOCOL_OLDEST,
    PROTOCOL_VERSION, PutBack, Refusal, SetEndpoint, SetSlot, Status, Stop, Upgrading,
};

const RECORDS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/wire");

/// One question and its answer.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Exchange {
    /// Method and path, with its query.
    asked: String,
    /// The header that says in which protocol.
    protocol: String,
    /// What was sent; null for nothing.
    body: Value,
    /// The HTTP status of the answer.
    status: u16,
    answer: Value,
}

/// Whatever is recorded, by protocol.
fn records() -> BTreeMap<u32, Vec<Exchange>> {
    let mut all = BTreeMap::new();
    for entry in std::fs::read_dir(RECORDS).unwrap().map(|entry| entry.unwrap()) {
        let protocol = entry.file_name().to_str().unwrap().strip_suffix(".json").unwrap().parse().unwrap();
        all.insert(protocol, serde_json::from_slice(&std::fs::read(entry.path()).unwrap()).unwrap());
    }
    all
}

/// That a value is understood as this type, and that the type says it the same way.
#[track_caller]
fn both_ways<T: DeserializeOwned + Serialize>(of: &Exchange, said: &Value) {
    let understood: T = serde_json::from_value(said.clone()).unwrap_or_else(|e| panic!("{e}: {of:#?}"));
    assert_eq!(serde_json::to_value(&understood).unwrap(), *said, "{}", of.asked);
}

#[test]
fn what_was_said_in_every_protocol_that_is_spoken_is_understood_and_said_the_same_way() {
    let records = records();
    for protocol in PROTOCOL_OLDEST..=PROTOCOL_VERSION {
        let exchanges =
            records.get(&protocol).unwrap_or_else(|| panic!("protocol {protocol} is not recorded"));
        for exchange in exchanges {
            check(exchange);
        }
        // Each kind was recorded.
        let kinds: Vec<String> = exchanges
            .iter()
            .map(|e| format!("{} {}", e.asked.split('?').next().unwrap(), e.status))
            .collect();
        for kind in [
            "GET /v1/status 200",
            "PUT /v1/slots 200",
            "PUT /v1/slots 409",
            "PUT /v1/slots 400",
            "POST /v1/glass 200",
            "GET /v1/slots 200",
            "GET /v1/watch 200",
            "GET /v1/metrics 200",
            "PUT /v1/endpoints 200",
            "GET /v1/endpoints 200",
            "GET /v1/boxes/log 200",
            "GET /v1/boxes/log 404",
            "POST /v1/upgrade 200",
            "POST /v1/stop 200",
        ] {
            assert!(kinds.iter().any(|k| k == kind), "{kind} is missing in {kinds:#?}");
        }
    }
}

fn check(exchange: &Exchange) {
    let Exchange { asked, body, status, answer, .. } = exchange;
    let path = asked.split('?').next().unwrap();
    match path {
        "PUT /v1/slots" => both_ways::<SetSlot>(exchange, body),
        "POST /v1/glass" => both_ways::<BreakGlass>(exchange, body),
        "PUT /v1/endpoints" => both_ways::<SetEndpoint>(exchange, body),
        "POST /v1/stop" => both_ways::<Stop>(exchange, body),
        _ => assert_eq!(*body, Value::Null, "{asked}"),
    }
    match (path, status) {
        (_, 400..) => both_ways::<Refusal>(exchange, answer),
        ("GET /v1/status", _) => both_ways::<Status>(exchange, answer),
        ("PUT /v1/slots", _) => both_ways::<Accepted>(exchange, answer),
        ("POST /v1/glass", _) => both_ways::<PutBack>(exchange, answer),
        ("GET /v1/slots" | "GET /v1/watch", _) => both_ways::<Observations>(exchange, answer),
        ("GET /v1/metrics", _) => both_ways::<MetricsPage>(exchange, answer),
        ("GET /v1/endpoints", _) => both_ways::<Endpoints>(exchange, answer),
        ("PUT /v1/endpoints", _) => both_ways::<tidegate_fleet::protocol::Endpoint>(exchange, answer),
        ("POST /v1/upgrade", _) => both_ways::<Upgrading>(exchange, answer),
        ("GET /v1/boxes/log", _) => assert!(answer.is_string()),
        ("POST /v1/stop", _) => assert_eq!(*answer, Value::Null),
        _ => panic!("nobody knows what {asked} is"),
    }
}

/// Sends what was recorded, as it was, and gives what this version's fleet answers.
fn ask(socket: &Path, asked: &str, protocol: Option<&str>, body: &Value) -> (u16, Value) {
    let mut stream = UnixStream::connect(socket).unwrap();
    let text = if body.is_null() { String::new() } else { body.to_string() };
    let said = protocol.map(|p| format!("tidegate-protocol: {p}\r\n")).unwrap_or_default();
    let head = format!(
        "{asked} HTTP/1.1\r\nhost: fleet\r\nconnection: close\r\n{said}content-length: {}\r\n\r\n",
        text.len()
    );
    stream.write_all(&[head, text].concat().into_bytes()).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let Message { first, body, .. } = parse(&answer).unwrap();
    (first.split(' ').nth(1).unwrap().parse().unwrap(), body)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_of_every_protocol_that_is_spoken_are_answered_and_others_are_told() {
    for (protocol, exchanges) in records().into_iter().filter(|(p, _)| *p >= PROTOCOL_OLDEST) {
        let fleet = Fleet::start().await;
        let socket = fleet.data.join("fleet.sock");
        for exchange in exchanges {
            let what = exchange.asked.split('?').next().unwrap().to_owned();
            // Fences and boxes are of another fleet; what a command says is taken all the same.
            if matches!(what.as_str(), "PUT /v1/slots" | "PUT /v1/endpoints") && exchange.status == 200
                || what.starts_with("GET") && !what.contains("boxes") && !what.contains("watch")
            {
                let header = Some(exchange.protocol.as_str());
                let (status, answer) = ask(&socket, &exchange.asked, header, &exchange.body);
                assert_eq!(status, exchange.status, "protocol {protocol}: {}: {answer}", exchange.asked);
                check(&Exchange { answer, ..exchange });
            }
        }
        let (status, answer) = ask(&socket, "GET /v1/slots", None, &Value::Null);
        assert_eq!(status, 200, "who says nothing means the first protocol: {answer}");
        let (status, answer) = ask(&socket, "GET /v1/slots", Some("99"), &Value::Null);
        assert_eq!((status, &answer["code"]), (426, &json!("other-protocol")), "{answer}");
        assert!(answer["message"].as_str().unwrap().contains("and was asked in 99"), "{answer}");
        let (status, answer) = ask(&socket, "GET /v1/status", Some("99"), &Value::Null);
        assert_eq!((status, &answer["protocol"]), (200, &json!(PROTOCOL_VERSION)), "{answer}");
        assert_eq!(answer["oldest"], json!(PROTOCOL_OLDEST));
    }
}

/// A request or an answer.
struct Message {
    first: String,
    protocol: Option<String>,
    body: Value,
}

/// None as long as it is not whole.
fn parse(bytes: &[u8]) -> Option<Message> {
    let text = String::from_utf8_lossy(bytes);
    let (head, body) = text.split_once("\r\n\r\n")?;
    let header = |name: &str| {
        head.lines().find_map(|line| {
            let (key, value) = line.split_once(": ")?;
            key.eq_ignore_ascii_case(name).then(|| value.to_owned())
        })
    };
    let length: usize = header("content-length").map_or(0, |value| value.parse().unwrap());
    if body.len() < length {
        return None;
    }
    // A box's log is text.
    let body = match (body.is_empty(), serde_json::from_str(body)) {
        (true, _) => Value::Null,
        (false, Ok(value)) => value,
        (false, Err(_)) => Value::String(body.to_owned()),
    };
    Some(Message { first: head.lines().next()?.to_owned(), protocol: header("tidegate-protocol"), body })
}

/// Listens to what is said to a fleet.
struct Relay {
    client: FleetClient,
    heard: Arc<Mutex<Vec<Exchange>>>,
}

impl Relay {
    fn start(dir: &Path, fleet: PathBuf) -> Relay {
        let socket = dir.join("relay.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let heard = Arc::<Mutex<Vec<Exchange>>>::default();
        let all = Arc::clone(&heard);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (fleet, all) = (fleet.clone(), Arc::clone(&all));
                std::thread::spawn(move || pass_on(stream, &fleet, &all));
            }
        });
        Relay { client: FleetClient::new(socket), heard }
    }
}

fn pass_on(mut client: UnixStream, fleet: &Path, heard: &Mutex<Vec<Exchange>>) {
    let mut fleet = UnixStream::connect(fleet).unwrap();
    let (request, asked) = read_whole(&mut client);
    fleet.write_all(&request).unwrap();
    let (answer, answered) = read_whole(&mut fleet);
    let words: Vec<&str> = asked.first.split(' ').collect();
    heard.lock().unwrap().push(Exchange {
        asked: format!("{} {}", words[0], words[1]),
        protocol: asked.protocol.unwrap(),
        body: asked.body,
        status: answered.first.split(' ').nth(1).unwrap().parse().unwrap(),
        answer: answered.body,
    });
    client.write_all(&answer).unwrap();
    let _ = client.shutdown(Shutdown::Both);
}

fn read_whole(stream: &mut UnixStream) -> (Vec<u8>, Message) {
    let (mut bytes, mut block) = (Vec::new(), [0; 4096]);
    loop {
        if let Some(message) = parse(&bytes) {
            return (bytes, message);
        }
        let count = stream.read(&mut block).unwrap();
        assert!(count > 0, "it broke off");
        bytes.extend_from_slice(&block[..count]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "records what is said in the present protocol: ./run golden"]
async fn record_the_wire() {
    let path = Path::new(RECORDS).join(format!("{PROTOCOL_VERSION}.json"));
    if path.exists() {
        eprintln!("{} is there: what was said is never recorded anew", path.display());
        return;
    }
    let mut fleet = Fleet::start().await;
    let dir = tempfile::tempdir().unwrap();
    let relay = Relay::start(dir.path(), fleet.data.join("fleet.sock"));
    let (main, old, new) = (main_slot(), spec(&fleet, "1"), spec(&fleet, "2"));
    relay.client.status().await.unwrap();
    fleet.client = relay.client.clone();
    fleet.bring(&main, &[(&old, 2)]).await;
    // What a server says of a rollback, with all that can be said.
    let mut back = command(&fleet, &[(&new, 1), (&old, 1)]);
    back.desired.condemned = vec![new.digest()];
    back.desired.minimum_serving = 1;
    back.desired.surge = true;
    back.rollback = true;
    fleet.set(&back).await.unwrap();
    fleet.settled(&main, &[(&new, 1), (&old, 1)]).await;
    // What is refused: an order that came too late, and one that contradicts itself.
    let mut late = fleet.command_for(&main, &[(&old, 2)]);
    late.fence.epoch = 0;
    fleet.set(&late).await.unwrap_err();
    let mut empty = fleet.command_for(&main, &[(&old, 2)]);
    empty.run_specs.clear();
    empty.desired.split[0].run_spec = spec(&fleet, "unknown").digest();
    fleet.set(&empty).await.unwrap_err();
    // And one to take up a process that is not there.
    let mut taken = fleet.command_for(&crate::support::slot("shop/production/eu-1/b/main"), &[(&old, 1)]);
    taken.takes_up = Some(vec![RunningProcess { pid: 4_194_304, start_time: 1, port: 8_080 }]);
    fleet.set(&taken).await.unwrap();
    // Values for boxes.
    let flags = SlotId { pipeline: "flags".parse().unwrap(), ..main.clone() };
    let limit = RunSpec {
        package: fleet.pack("limit", "7"),
        environment: [].into(),
        workload: Workload::Configuration(ConfigurationSpec {
            reload: "/reload".to_owned(),
            timeout: Span::seconds(2),
        }),
        ..old.clone()
    };
    let mut values = fleet.command_for(&flags, &[(&limit, 2)]);
    values.desired.rest = Some(Rest::Nothing);
    fleet.set(&values).await.unwrap();
    fleet.set(&command(&fleet, &[(&new, 2)])).await.unwrap();
    fleet.settled(&main, &[(&new, 2)]).await;
    let order = BreakGlass {
        target: main.target.clone(),
        pipeline: Some(main.pipeline.clone()),
        to: Some(old.digest()),
        by: "alice".to_owned(),
        reason: "the site is down".to_owned(),
    };
    let done = relay.client.break_glass(&order).await.unwrap();
    fleet.settled(&main, &[(&old, 2)]).await;
    let unknowing = command(&fleet, &[(&new, 2)]);
    fleet.set(&unknowing).await.unwrap_err();
    let mut knowing = command(&fleet, &[(&new, 2)]);
    knowing.acknowledges = Some(done.glass.id.clone());
    fleet.set(&knowing).await.unwrap();
    fleet.settled(&main, &[(&new, 2)]).await;
    let port = fleet.port(&main).await;
    crate::load::ask(port, "GET", "/work");
    let endpoint = EndpointKey::of(&main.target);
    relay.client.set_endpoint(&SetEndpoint { endpoint, listen: None }).await.unwrap();
    eventually("the request is counted", async || {
        let page = relay.client.metrics(0).await.unwrap();
        page.cells.iter().any(|cell| !cell.apis.is_empty()).then_some(())
    })
    .await;
    let seen = relay.client.slots().await.unwrap();
    let of_main = seen.observations.iter().find(|o| o.slot == main).unwrap();
    relay.client.box_log(&main.target, &of_main.boxes[0].id).await.unwrap();
    relay.client.box_log(&main.target, "no-such-box").await.unwrap_err();
    let next = relay.client.upgrade().await.unwrap().pid;
    eventually("the successor supervises", async || {
        relay.client.status().await.ok().filter(|s| s.pid == next)
    })
    .await;
    relay.client.stop(Stop { boxes: true }).await.unwrap();
    let mut heard = relay.heard.lock().unwrap().clone();
    // Looks that saw what an earlier one had seen say nothing more.
    let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
    heard.retain(|exchange| {
        let kind = format!("{} {}", exchange.asked.split('?').next().unwrap(), exchange.status);
        let count = kinds.entry(kind).or_default();
        *count += 1;
        !exchange.asked.starts_with("GET") || *count <= 3 || exchange.asked.contains("metrics")
    });
    let last = heard.iter().rposition(|e| e.asked.contains("metrics")).unwrap();
    let mut n = 0;
    heard.retain(|exchange| {
        n += 1;
        !exchange.asked.contains("metrics") || n - 1 == last
    });
    heard.iter().for_each(check);
    std::fs::create_dir_all(RECORDS).unwrap();
    let text = serde_json::to_string_pretty(&heard).unwrap();
    std::fs::write(&path, text + "\n").unwrap();
}

/// A version of the program; nothing in its words names this machine. The second one needs a secret.
fn spec(fleet: &Fleet, version: &str) -> RunSpec {
    let exe = std::env::current_exe().unwrap();
    let text = format!("#!/bin/sh\nTEST_EXE=1 exec {} role_box --exact --nocapture\n", exe.display());
    let mut spec = fleet.run_spec(version, "ok");
    spec.package = fleet.pack("run", &text);
    spec.environment.remove("TEST_EXE");
    if version == "2" {
        spec.secrets = [("PASSWORD".to_owned(), "password".parse().unwrap())].into();
    }
    spec
}

/// A command with the value of the secret that the second version needs.
fn command(fleet: &Fleet, split: &[(&RunSpec, u32)]) -> SetSlot {
    let secrets = [("password".parse().unwrap(), "very secret".to_owned())].into();
    SetSlot { secrets, ..fleet.command_for(&main_slot(), split) }
}

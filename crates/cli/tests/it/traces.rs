//! Traces for a collector of OpenTelemetry, where they are asked for: what is really sent, read with the protocol's own types.

use crate::world::{World, definitions, release};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::sync::{Arc, Mutex};

/// Takes spans.
struct Collector {
    url: String,
    spans: Arc<Mutex<Vec<Span>>>,
}

impl Collector {
    fn start() -> Collector {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/v1/traces", listener.local_addr().unwrap());
        let spans = Arc::new(Mutex::new(Vec::new()));
        let taken = Arc::clone(&spans);
        // Ends with the process of the test.
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let Some(request) = read(&stream) else { continue };
                let scopes = request.resource_spans.into_iter().flat_map(|of| of.scope_spans);
                taken.lock().unwrap().extend(scopes.flat_map(|scope| scope.spans));
                let _ =
                    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
            }
        });
        Collector { url, spans }
    }

    /// Effects that are about all of these.
    fn effects(&self, about: &[(&str, &str)]) -> Vec<Span> {
        let is = |span: &Span, key: &str, value: &str| {
            span.attributes.iter().any(|attribute| {
                let told = attribute.value.as_ref().and_then(|told| told.value.as_ref());
                attribute.key == key && matches!(told, Some(Value::StringValue(told)) if told == value)
            })
        };
        let all = self.spans.lock().unwrap();
        let named = all.iter().filter(|span| span.name == "effect");
        named.filter(|span| about.iter().all(|(key, value)| is(span, key, value))).cloned().collect()
    }
}

fn read(stream: &TcpStream) -> Option<ExportTraceServiceRequest> {
    let mut reader = BufReader::new(stream);
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        match line.trim_end().to_ascii_lowercase().split_once(": ") {
            Some(("content-length", value)) => length = value.parse().ok()?,
            Some(_) => {}
            None if line.trim_end().is_empty() => break,
            None => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    ExportTraceServiceRequest::decode(&body[..]).ok()
}

fn start(world: &World, url: &str) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    world.start_by(command.env("OTEL_BSP_SCHEDULE_DELAY", "100"), &["--traces", url]);
}

#[test]
fn all_that_is_done_for_a_release_is_one_trace_over_restarts_of_the_server() {
    let collector = Collector::start();
    let world = World::start();
    world.end_server();
    start(&world, &collector.url);
    let repo = world.repo("shop");
    world.land(&repo, &[]);
    let mut definition = definitions::application(&repo);
    world.apply("app", &definition).well();
    world.until_passed("app", 1);
    let target = "shop/beta/eu/a/main";
    let deployed = |release: &str| collector.effects(&[("release", release), ("target", target)]);
    world.until("the deployment was told", || (!deployed("r1").is_empty()).then_some(()));
    let built = collector.effects(&[("release", "r1"), ("pipeline", "app")]);
    assert!(built.len() > deployed("r1").len(), "the build is told as well: {built:?}");

    definition["stages"][0]["bake"]["az"] = serde_json::json!("1h");
    world.apply("app", &definition).well();
    world.land(&repo, &[("version", "2")]);
    world.until("r2 runs", || (!deployed("r2").is_empty()).then_some(()));
    world.kill_server();
    start(&world, &collector.url);
    let before = collector.effects(&[("release", "r2")]).len();
    world.bob(&["rollback", "app", "r2", "--reason", "it looks wrong"]).well();
    world.until("the return was told", || {
        (collector.effects(&[("release", "r2")]).len() > before).then_some(())
    });
    let traces = |of: &str| -> BTreeSet<Vec<u8>> {
        collector.effects(&[("release", of)]).into_iter().map(|span| span.trace_id).collect()
    };
    assert_eq!((traces("r1").len(), traces("r2").len()), (1, 1), "one trace for each");
    assert!(traces("r1").is_disjoint(&traces("r2")));
    let timed =
        |span: &Span| span.end_time_unix_nano >= span.start_time_unix_nano && span.start_time_unix_nano > 0;
    assert!(collector.effects(&[]).iter().all(timed));
}

#[test]
fn a_collector_that_is_gone_holds_nothing_up_and_an_address_that_is_none_is_told() {
    let world = World::start();
    world.end_server();
    // Nobody listens there: the port was free, and is taken by nobody in between who would answer.
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    start(&world, &format!("http://{gone}/v1/traces"));
    let repo = world.repo("shop");
    world.land(&repo, &[]);
    world.apply("app", &definitions::application(&repo)).well();
    world.until_passed("app", 1);
    assert!(release(&world.pipeline("app"), 1).is_some());
    world.end_server();
    let told = world.refused(&world.data(), &["--traces", "not an address"]);
    assert!(told.talk.contains("failed to tell of traces"), "{told:?}");
}

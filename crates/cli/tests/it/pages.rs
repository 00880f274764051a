//! A webhook that does not answer: it holds up nothing, and a user sees that nobody was paged.

use crate::world::monitoring;
use crate::world::{World, definitions, words};
use serde_json::json;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tidegate_api::WorkStatus;

/// A rollback of one box takes a second or two; not so long on any machine, and no page is given up within it.
const ROLLBACK_MAX: Duration = Duration::from_secs(30);

/// A page's key and body.
type Call = (String, String);

/// Takes every call and answers none, until it is told to.
#[derive(Clone)]
struct Pager {
    url: String,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    answers: bool,
    first: Option<Instant>,
    calls: Vec<Call>,
    answered: Vec<Call>,
    waiting: Vec<TcpStream>,
}

impl Pager {
    fn start() -> Pager {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/page", listener.local_addr().unwrap());
        let pager = Pager { url, state: Arc::default() };
        let own = pager.clone();
        // Ends with the process of the test.
        std::thread::spawn(move || listener.incoming().flatten().for_each(|stream| own.take(stream)));
        pager
    }

    fn take(&self, mut stream: TcpStream) {
        let Some(call) = read(&stream) else { return };
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.first.get_or_insert_with(Instant::now);
        state.calls.push(call.clone());
        if state.answers {
            if stream.write_all(b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n").is_ok() {
                state.answered.push(call);
            }
        } else {
            state.waiting.push(stream);
        }
    }

    fn answer_from_now_on(&self) {
        let mut state = self.state.lock().unwrap();
        state.answers = true;
        state.waiting.clear();
    }

    fn first(&self) -> Option<Instant> {
        self.state.lock().unwrap().first
    }

    fn calls(&self) -> Vec<Call> {
        self.state.lock().unwrap().calls.clone()
    }

    fn answered(&self) -> Vec<Call> {
        self.state.lock().unwrap().answered.clone()
    }
}

fn read(stream: &TcpStream) -> Option<Call> {
    let mut reader = BufReader::new(stream);
    let (mut key, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(": ") else {
            if line.trim_end().is_empty() {
                break;
            }
            continue;
        };
        match name.to_ascii_lowercase().as_str() {
            "idempotency-key" => key = value.to_owned(),
            "content-length" => length = value.parse().ok()?,
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some((key, String::from_utf8(body).ok()?))
}

#[test]
fn a_webhook_that_does_not_answer_holds_up_nothing_and_is_told_of() {
    let (silent, second) = (Pager::start(), Pager::start());
    second.answer_from_now_on();
    let mut organisation = definitions::organisation();
    organisation["teams"][0]["pages"] = json!([{"webhook": silent.url}, {"webhook": second.url}]);
    let world = World::start_with(&organisation, None);
    let repo = world.repo("shop");
    world.land(&repo, &[]);
    let mut definition = definitions::application(&repo);
    world.apply("app", &definition).well();
    world.until_passed("app", 1);

    definition["stages"][0]["bake"]["az"] = json!("1h");
    world.apply("app", &definition).well();
    world.land(&repo, &[("version", "2")]);
    world.until("r2 bakes", || {
        let pipeline = world.pipeline("app");
        matches!(crate::world::steps(&pipeline).next()?.work, WorkStatus::Baking { .. }).then_some(())
    });
    let asked = Instant::now();
    world.bob(&["rollback", "app", "r2", "--reason", "it looks wrong"]).well();
    world.until_everywhere("app", 1);
    assert!(asked.elapsed() < ROLLBACK_MAX, "the rollback took {:?}", asked.elapsed());
    assert_eq!(silent.answered(), []);
    world.until("the page is under way", || (!silent.calls().is_empty()).then_some(()));
    // The one that answers is not behind the one that does not.
    world.until("the other destination is paged", || (!second.answered().is_empty()).then_some(()));
    let behind = second.first().unwrap().saturating_duration_since(silent.first().unwrap());
    assert!(behind < Duration::from_secs(8), "it was paged {behind:?} after the one that does not answer");

    let status = world.until("the trouble shows", || {
        let status = words(&world.cli(&["status"]).well());
        status.contains("TROUBLE the page \"app: r2 is rolled back\" (for ").then_some(status)
    });
    assert!(status.contains("no answer within 10000 ms"), "{status}");
    assert!(!status.contains(&silent.url), "an address may hold a secret: {status}");

    silent.answer_from_now_on();
    world.until("the page arrives", || (!silent.answered().is_empty()).then_some(()));
    world.until("the trouble is over", || world.status().troubles.is_empty().then_some(()));
    let (calls, answered) = (silent.calls(), silent.answered());
    assert_eq!(answered.len(), 1, "{answered:?}");
    assert!(calls.len() >= 2 && calls.iter().all(|call| *call == answered[0]), "{calls:?}");
    assert!(answered[0].1.contains("it looks wrong"), "{answered:?}");
    assert_eq!(second.answered(), answered, "each was paged once");
}

/// A mail server that takes everything, and what it was told.
fn mail_server() -> (String, Arc<Mutex<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, said) = (listener.local_addr().unwrap().to_string(), Arc::<Mutex<String>>::default());
    let all = Arc::clone(&said);
    // Ends with the process of the test.
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let _ = take_mails(&stream, &all);
        }
    });
    (address, said)
}

fn take_mails(mut stream: &TcpStream, said: &Mutex<String>) -> std::io::Result<()> {
    stream.write_all(b"220 mail.test ESMTP\r\n")?;
    let mut in_text = false;
    for line in BufReader::new(stream).lines() {
        let line = line?;
        said.lock().unwrap_or_else(PoisonError::into_inner).push_str(&format!("{line}\n"));
        let answer = match line.split(' ').next().unwrap_or_default() {
            "." if in_text => {
                in_text = false;
                "250 taken\r\n"
            }
            _ if in_text => continue,
            "DATA" => {
                in_text = true;
                "354 go on\r\n"
            }
            "QUIT" => return stream.write_all(b"221 bye\r\n"),
            _ => "250 ok\r\n",
        };
        stream.write_all(answer.as_bytes())?;
    }
    Ok(())
}

/// What a server in Go answers: a long answer comes in pieces, each after a line with its length.
fn read_in_pieces(address: &str, path: &str) -> String {
    let (status, body) = crate::world::get(address, path, None).unwrap();
    assert_eq!(status, 200, "{path}: {body}");
    match body.contains("\r\n") {
        true => body.split("\r\n").skip(1).step_by(2).collect(),
        false => body,
    }
}

#[test]
fn a_rollback_pages_in_every_format_and_its_end_is_told() {
    let (pagerduty, slack) = (Pager::start(), Pager::start());
    pagerduty.answer_from_now_on();
    slack.answer_from_now_on();
    let (mail, said) = mail_server();
    let mut organisation = definitions::organisation();
    let alertmanager = monitoring::is_there().then(monitoring::free_address);
    organisation["teams"][0]["pages"] = json!([
        {"pagerduty": {"routing_key": "pagerduty", "url": pagerduty.url}},
        {"slack": {"url": "slack"}},
        {"email": {"to": "oncall@shop.test", "from": "tidegate@shop.test", "server": mail, "tls": "none"}},
    ]);
    if let Some(address) = &alertmanager {
        let target = json!({"alertmanager": {"url": format!("http://{address}")}});
        organisation["teams"][0]["pages"].as_array_mut().unwrap().push(target);
    }
    let world = World::start_with(&organisation, None);
    for (name, value) in [("pagerduty", "a routing key"), ("slack", slack.url.as_str())] {
        let file = world.dir().join(name);
        std::fs::write(&file, value).unwrap();
        world.cli_with(&["secret", "set", name], std::fs::File::open(file).unwrap()).well();
    }
    // It is told here, and tells nobody.
    let nobody = monitoring::free_address();
    let _alertmanager = alertmanager
        .as_ref()
        .map(|address| monitoring::Server::alertmanager(world.dir(), address, &nobody, "nobody's"));
    let repo = world.repo("shop");
    world.land(&repo, &[]);
    let mut definition = definitions::application(&repo);
    world.apply("app", &definition).well();
    world.until_passed("app", 1);
    // Without an end: it waits for more requests than there will be.
    definition["stages"][0]["bake"] = json!({"az": "1s", "data": [{"requests": 1_000_000}]});
    world.apply("app", &definition).well();
    let commit = world.land(&repo, &[("version", "2")]);
    world.until("r2 bakes", || {
        let pipeline = world.pipeline("app");
        matches!(crate::world::steps(&pipeline).next()?.work, WorkStatus::Baking { .. }).then_some(())
    });
    let endpoint = world.endpoint("shop", "beta", "eu");
    for _ in 0..20 {
        assert_eq!(crate::world::get(&endpoint, "/", None).unwrap().0, 200);
    }
    world.until("monitoring has counted them", || {
        let pipeline = world.pipeline("app");
        match &crate::world::steps(&pipeline).next()?.work {
            WorkStatus::Baking { bake, .. } => {
                bake.regions.iter().any(|r| r.data[0].seen >= 20).then_some(())
            }
            _ => None,
        }
    });
    world.bob(&["rollback", "app", "r2", "--reason", "it looks wrong"]).well();
    world.until_everywhere("app", 1);

    let bodies = |pager: &Pager| -> Vec<serde_json::Value> {
        let answered = pager.answered();
        answered.iter().map(|(_, body)| serde_json::from_str(body).unwrap()).collect()
    };
    let events = world.until("PagerDuty has both", || Some(bodies(&pagerduty)).filter(|all| all.len() == 2));
    assert_eq!(
        (&events[0]["event_action"], &events[1]["event_action"]),
        (&json!("trigger"), &json!("resolve"))
    );
    assert_eq!(events[0]["dedup_key"], events[1]["dedup_key"]);
    assert_eq!(events[0]["routing_key"], "a routing key");
    let text = events[0]["payload"]["custom_details"]["text"].as_str().unwrap();
    for says in [
        "What: r2 of app is being rolled back.\n",
        &format!("{} \"a change\" by alice", &commit[..10]),
        "Why: bob: it looks wrong",
        "Where: beta/eu (a/main to r1)",
        "tidegate retry app r2 --reason WHY",
    ] {
        assert!(text.contains(says), "{says:?} is missing:\n{text}");
    }
    assert!(text.contains("\nRequests: by its metrics, boxes of r2 have answered 20 since 20"), "{text}");
    assert!(text.ends_with(", 0 of them with a fault (5xx, broken or timed out)"), "{text}");
    let messages = world.until("Slack has both", || Some(bodies(&slack)).filter(|all| all.len() == 2));
    assert_eq!(messages[0]["text"], "app: r2 is rolled back");
    assert_eq!(messages[1]["text"], "Over: app: r2 is rolled back");
    let mails = world.until("both mails are there", || {
        let said = said.lock().unwrap().clone();
        (said.matches("\n.\n").count() == 2).then_some(said)
    });
    assert!(mails.contains("Subject: Over: app: r2 is rolled back"), "{mails}");
    if let Some(address) = &alertmanager {
        let took = |status: &str| {
            let line =
                format!("alertmanager_alerts_received_total{{status=\"{status}\",version=\"v2\"}} 1\n");
            read_in_pieces(address, "/metrics").contains(&line)
        };
        world.until("the Alertmanager has both", || (took("firing") && took("resolved")).then_some(()));
        let last = read_in_pieces(address, "/api/v2/alerts");
        assert!(!last.contains("TidegatePage"), "they are one alert, and it is over: {last}");
    }
    world.until("nothing is in the way", || world.status().troubles.is_empty().then_some(()));
    assert!(!world.cli(&["log"]).well().contains("routing key"), "a secret stays one");
}

//! A webhook that does not answer: it holds up nothing, and a user sees that nobody was paged.

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
        match line.trim_end().split_once(": ") {
            Some(("idempotency-key", value)) => key = value.to_owned(),
            Some(("content-length", value)) => length = value.parse().ok()?,
            None if line.trim_end().is_empty() => break,
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

//! Server and fleet of different versions: they speak what both know, and say so where that is nothing. The other version is a stand-in
//! that answers on the fleet's socket; what was really said in each protocol is tried in `crates/fleet/tests/it/wire.rs`.

use crate::world::{World, definitions, run, words};
use serde_json::{Value, json};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex};

/// What was asked: method and path, the protocol that it was said to be in, and the body.
type Asked = (String, Option<String>, Value);

/// A fleet of another version.
struct StandIn {
    socket: PathBuf,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl StandIn {
    /// Listens where the fleet of this world did, which has ended.
    fn start(world: &World, protocol: u32, oldest: u32) -> StandIn {
        let socket = world.data().join("fleet/fleet.sock");
        let _ = fs::remove_file(&socket);
        let listener = UnixListener::bind(&socket).unwrap();
        let asked = Arc::<Mutex<Vec<Asked>>>::default();
        let seen = Arc::clone(&asked);
        // Ends with the process of the test.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let seen = Arc::clone(&seen);
                std::thread::spawn(move || answer(&stream, protocol, oldest, &seen));
            }
        });
        StandIn { socket, asked }
    }

    fn asked(&self, what: &str) -> Vec<Asked> {
        self.asked.lock().unwrap().iter().filter(|(asked, ..)| asked.starts_with(what)).cloned().collect()
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        // The next fleet, and the end of the world, find nobody here.
        let _ = fs::remove_file(&self.socket);
    }
}

fn answer(mut stream: &UnixStream, protocol: u32, oldest: u32, seen: &Mutex<Vec<Asked>>) -> Option<()> {
    let mut reader = BufReader::new(stream);
    let mut first = String::new();
    reader.read_line(&mut first).ok()?;
    let mut words = first.split_whitespace();
    let asked = format!("{} {}", words.next()?, words.next()?);
    let (mut length, mut said) = (0, None);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        match line.trim_end().to_lowercase().split_once(": ") {
            Some(("content-length", value)) => length = value.parse().unwrap(),
            Some(("tidegate-protocol", value)) => said = Some(value.to_owned()),
            Some(_) => {}
            None => break,
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    seen.lock().unwrap().push((asked.clone(), said, body.clone()));
    let answer = match asked.split('?').next().unwrap() {
        // It says more than this version knows.
        "GET /v1/status" => json!({"version": "99.1.0", "protocol": protocol, "oldest": oldest, "cells": 7,
            "pid": std::process::id(), "highest_epoch": 1, "boxes": 0}),
        "GET /v1/slots" => json!({"version": 1, "observations": []}),
        // Nothing ever changes; whoever waits for it is left waiting, as by a fleet.
        "GET /v1/watch" => {
            let _ = reader.read_line(&mut String::new());
            return None;
        }
        "GET /v1/metrics" => json!({"cells": [], "unrouted": [], "complete_until": 0}),
        "GET /v1/endpoints" => json!({"endpoints": []}),
        "PUT /v1/slots" => json!({"fence": body["fence"]}),
        "PUT /v1/endpoints" => json!({"endpoint": body["endpoint"], "url": "http://127.0.0.1:1", "port": 1}),
        "POST /v1/upgrade" => json!({"pid": std::process::id(), "of": "99.1.0"}),
        _ => json!(null),
    };
    let text = answer.to_string();
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", text.len());
    stream.write_all(&[head, text].concat().into_bytes()).ok()
}

/// A world whose own fleet has ended, and whose server is to be started again.
fn without_a_fleet() -> World {
    let world = World::start();
    world.end_server();
    world.end_fleet();
    world
}

fn fleet(world: &World, word: &str) -> crate::world::Told {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    run(command.env_clear().args(["fleet", word, "--data"]).arg(world.data()))
}

#[test]
fn a_newer_fleet_is_spoken_to_in_the_protocol_that_both_know() {
    let world = without_a_fleet();
    let newer = StandIn::start(&world, 2, 1);
    world.restart_server();
    let repo = world.repo("shop");
    world.land(&repo, &[]);
    world.apply("app", &definitions::application(&repo)).well();
    let (_, said, order) = world.until("it is given an order", || newer.asked("PUT /v1/slots").pop());
    assert_eq!(said.as_deref(), Some("1"));
    assert!(order["fence"]["epoch"].as_u64().unwrap() > 1, "above every epoch that it has seen: {order}");
    assert_eq!(order["slot"]["pipeline"], "app");
    let troubles = world.status().troubles;
    assert!(!troubles.iter().any(|trouble| trouble.what.contains("the fleet")), "{troubles:?}");
    assert!(world.get("/metrics").contains("\ntidegate_fleet_up 1\n"));
    world.end_server();
}

#[test]
fn a_fleet_that_speaks_nothing_known_is_refused_in_words_and_can_be_upgraded() {
    let world = without_a_fleet();
    let stranger = StandIn::start(&world, 3, 2);
    world.restart_server();
    let repo = world.repo("shop");
    world.land(&repo, &[]);
    world.apply("app", &definitions::application(&repo)).well();
    let status = world.until("the status says so", || {
        let status = words(&world.cli(&["status"]).well());
        status.contains("TROUBLE the fleet takes no orders").then_some(status)
    });
    let why = "the fleet is of tidegate 99.1.0 and speaks protocol 2 to 3; this is ";
    assert!(status.contains(why), "{status}");
    assert!(status.contains("its boxes run and serve customers"), "{status}");
    world.until("the release waits for it", || {
        let troubles = world.status().troubles;
        troubles.iter().any(|trouble| trouble.what.contains("app") && trouble.why.contains(why)).then_some(())
    });
    let doctor =
        run(Command::new(env!("CARGO_BIN_EXE_tidegate")).arg("doctor").arg("--data").arg(world.data()));
    assert!(doctor.code == 1 && words(&doctor.out).contains(why), "{doctor:?}");
    for what in ["PUT", "GET /v1/slots", "GET /v1/watch", "GET /v1/metrics"] {
        assert_eq!(stranger.asked(what), [], "it is asked nothing that it could misread");
    }
    // These words mean the same to every version.
    assert!(fleet(&world, "status").well().contains("version 99.1.0"));
    assert!(fleet(&world, "upgrade").well().contains("took over from"));
    assert_eq!(stranger.asked("POST /v1/upgrade").len(), 1);
    // Once one is there that is understood, everything goes on.
    drop(stranger);
    world.until("a fleet of this version runs", || world.fleet_pid());
    world.until_passed("app", 1);
    world.until("all is well", || world.status().troubles.is_empty().then_some(()));
}

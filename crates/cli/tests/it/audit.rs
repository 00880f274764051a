//! Who did what: by its filters, as JSON lines, with and without a server; and what shows when somebody changes the log.

use crate::world::{Told, World, definitions, run};
use rusqlite::Connection;
use std::process::Command;
use tidegate_api::{ErrorAnswer, LogEntry, LogPage, LogVerified};

/// The command on the world's data directory, whether or not a server runs there.
fn at_disk(world: &World, arguments: &[&str]) -> Told {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    run(command.env_clear().env("TIDEGATE_DATA", world.data()).args(arguments))
}

fn entries(lines: &str) -> Vec<LogEntry> {
    lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// A server on which people have held and lifted.
fn audited() -> World {
    let world = World::start();
    let repo = world.repo("shop");
    world.apply("app", &definitions::application(&repo)).well();
    world.bob(&["hold", "app", "--reason", "wait for the audit"]).well();
    world.bob(&["skip", "app", "eu", "--environment", "beta", "--reason", "cables"]).well();
    world.cli(&["alarm", "set", "storm", "--reason", "packet loss"]).well();
    world
}

#[test]
fn who_did_what_is_found_with_and_without_a_server() {
    let world = audited();
    let texts = |page: String| -> Vec<String> {
        let page: LogPage = serde_json::from_str(&page).unwrap();
        page.entries.into_iter().map(|entry| entry.text).collect()
    };
    let skipped = "skip 2: starts without beta/eu by bob: cables";
    let checks: [(&[&str], &[&str]); 5] = [
        (&["--by", "bob"], &["hold 1 placed by bob: wait for the audit", skipped]),
        (&["app", "--by", "bob", "--region", "eu"], &[skipped]),
        (&["--by", "bob", "--limit", "1"], &[skipped]),
        (&["--by", "bob", "--since", "1970-01-02", "--until", "2d"], &[]),
        (&["--by", "nobody", "--since", "1h"], &[]),
    ];
    let everything = |who: &str| {
        for (arguments, expected) in &checks {
            let arguments = [&["log", "--json"], *arguments].concat();
            assert_eq!(texts(at_disk(&world, &arguments).well()), **expected, "{who}: {arguments:?}");
        }
        let log = entries(&at_disk(&world, &["log", "export"]).well());
        let positions: Vec<u64> = log.iter().map(|entry| entry.position).collect();
        assert_eq!(positions, (1..=log.len() as u64).collect::<Vec<_>>(), "{who}");
        assert!(log.iter().all(|entry| entry.version == 1 && entry.hash.len() == 64), "{who}");
        let verified = at_disk(&world, &["log", "verify", "--json"]).well();
        let verified: LogVerified = serde_json::from_str(&verified).unwrap();
        assert!(verified.facts >= log.len() as u64, "{who}");
        let after = at_disk(&world, &["log", "export", "--by", "bob", "--after", "1"]).well();
        assert_eq!(entries(&after).len(), 2, "{who}");
        log
    };
    let from_server = everything("the server");
    world.end_server();
    let from_disk = everything("the disk");
    assert_eq!(from_disk[..from_server.len()], from_server);
    // One that was killed has left its address, and a part of the store in the database's own log.
    world.restart_server();
    world.bob(&["unhold", "app", "1"]).well();
    world.kill_server();
    let told = at_disk(&world, &["log", "--by", "bob", "--limit", "1"]).well();
    assert!(told.ends_with("hold 1 lifted by bob  [bob]\n"), "{told}");
    let told = at_disk(&world, &["log", "verify"]).well();
    assert!(told.starts_with("the log is in order: "), "{told}");
    world.restart_server();
}

#[test]
fn a_log_that_somebody_changed_is_found_at_the_place() {
    let world = audited();
    assert!(world.cli(&["log", "--verify"]).well().starts_with("the log is in order: "), "the older words");
    let hold = world.log().into_iter().find(|e| e.text.contains("wait for the audit")).unwrap();
    assert_eq!(hold.aggregate, "pipeline/app");
    world.end_server();
    let database = world.data().join("store/tidegate.db");
    let connection = Connection::open(&database).unwrap();
    connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
    drop(connection);
    let whole = std::fs::read(&database).unwrap();
    let (position, seq) = (hold.position, hold.seq);
    let place = format!("the log of pipeline/app is broken at fact {seq} (position {position}): ");
    let checks = [
        (
            "UPDATE facts SET fact = CAST(replace(CAST(fact AS TEXT), 'the audit', 'nothing!!') AS BLOB)
             WHERE position = ?1",
            format!("{place}its contents do not have its hash: they give "),
        ),
        (
            "UPDATE facts SET cause = CAST('{\"user\":\"alice\"}' AS BLOB) WHERE position = ?1",
            format!("{place}its contents do not have its hash: they give "),
        ),
        (
            "DELETE FROM facts WHERE position = ?1",
            format!(
                "the log of pipeline/app is broken at fact {seq} (position {}): it is missing or not in its place: \
                 fact {} comes there",
                position + 1,
                seq + 1
            ),
        ),
        (
            "UPDATE facts SET position = position * 1000 WHERE position = ?1",
            format!(
                "the log of pipeline/app is broken at fact {seq} (position {}): it is missing or not in its place: \
                 fact {} comes there",
                position + 1,
                seq + 1
            ),
        ),
        (
            "INSERT INTO facts SELECT 9999, aggregate, seq + 1, at, cause, fact, hash FROM facts
             WHERE aggregate = 'pipeline/app' AND seq = (SELECT version FROM aggregates WHERE id = 'pipeline/app')
             AND ?1 > 0",
            "(position 9999): its contents do not have its hash: they give ".to_owned(),
        ),
    ];
    for (sql, expected) in &checks {
        std::fs::write(&database, &whole).unwrap();
        let connection = Connection::open(&database).unwrap();
        assert_eq!(connection.execute(sql, [i64::try_from(position).unwrap()]), Ok(1), "{sql}");
        drop(connection);
        let told = at_disk(&world, &["log", "verify"]);
        assert_eq!((told.code, told.out.as_str()), (1, ""), "{sql}: {told:?}");
        let message = "tidegate: TG012: the log is NOT in order: ";
        assert!(told.talk.starts_with(message) && told.talk.contains(expected), "{sql}: {told:?}");
        let told = at_disk(&world, &["log", "verify", "--json"]);
        let answer: ErrorAnswer = serde_json::from_str(&told.talk).unwrap();
        assert!(answer.error.message.contains(expected), "{answer:?}");
    }
    // The server starts on it, and says the same.
    world.restart_server();
    let told = world.cli(&["log", "verify"]);
    assert_eq!((told.code, told.out.as_str()), (1, ""), "{told:?}");
    assert!(told.talk.contains("the log is NOT in order: "), "{told:?}");
}

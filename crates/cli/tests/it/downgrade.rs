//! What a newer version has written is refused in words, by the server and by whoever only reads, and not a byte of it is changed.

use crate::world::{Told, World, definitions, run, words};
use rusqlite::Connection;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use tidegate_store::{AggregateWrite, Commit, SqliteOptions, SqliteStore, Store};

fn tidegate(arguments: &[&str], data: &Path) -> Told {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    run(command
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap())
        .args(arguments)
        .arg("--data")
        .arg(data))
}

/// Every file below a folder, with its content.
fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap()) {
            let kind = entry.file_type().unwrap();
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_file() {
                found.insert(entry.path(), Sha256::digest(fs::read(entry.path()).unwrap()).to_vec());
            }
        }
    }
    found
}

fn store(data: &Path) -> SqliteStore {
    SqliteStore::open(&data.join("store"), &SqliteOptions::default()).unwrap()
}

fn sql(data: &Path, text: &str) {
    Connection::open(data.join("store/tidegate.db")).unwrap().execute_batch(text).unwrap();
}

fn replace(path: &Path, change: impl FnOnce(&mut Value)) {
    let mut value: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    change(&mut value);
    fs::write(path, serde_json::to_vec(&value).unwrap()).unwrap();
}

/// A server that is started, also as a standby, refuses with these words, and changes nothing.
#[track_caller]
fn refuses(data: &Path, says: &str, install: &str) {
    let before = files(data);
    for arguments in
        [&["serve", "--listen", "127.0.0.1:0"][..], &["serve", "--standby", "--listen", "127.0.0.1:0"]]
    {
        let told = tidegate(arguments, data);
        let talk = words(&told.talk);
        assert_eq!((told.code, told.out.as_str()), (1, ""), "{told:?}");
        assert!(talk.starts_with("tidegate: TG016: ") && talk.contains(says), "{says}: {talk}");
        assert!(talk.contains("hint: nothing was changed") && talk.contains(install), "{talk}");
    }
    let after = files(data);
    let changed: Vec<_> = after.iter().filter(|(path, hash)| before.get(*path) != Some(*hash)).collect();
    assert!(changed.is_empty() && before.len() == after.len(), "{changed:?}");
}

/// Whoever only reads the store refuses it with these words.
#[track_caller]
fn is_not_read(data: &Path, says: &str) {
    let before = files(data);
    for arguments in [&["log"][..], &["log", "verify"], &["log", "export"]] {
        let told = tidegate(arguments, data);
        assert_eq!((told.code, told.out.as_str()), (1, ""), "{arguments:?}: {told:?}");
        let talk = words(&told.talk);
        assert!(talk.starts_with("tidegate: TG016: ") && talk.contains(says), "{arguments:?}: {talk}");
    }
    let doctor = tidegate(&["doctor", "--json"], data);
    let answer: Value = serde_json::from_str(&doctor.out).unwrap();
    let check = answer["checks"].as_array().unwrap().iter().find(|check| check["name"] == "store").unwrap();
    assert!(check["health"] == "fail" && check["seen"].as_str().unwrap().contains(says), "{check}");
    assert!(check["mend"].as_str().unwrap().contains("none goes back"), "{check}");
    assert!(files(data) == before, "nothing was changed");
}

#[test]
fn a_store_that_a_newer_version_has_written_is_refused() {
    let world = World::start();
    let backup = world.dir().join("backup");
    world.cli(&["backup", backup.to_str().unwrap()]).well();
    // Killed, so that what a newer server would have left in the database's own log is there as well.
    world.kill_server();
    world.end_fleet();
    let data = world.data();
    let kept = store(&data).meta("written-by").unwrap();
    assert_eq!(kept.as_deref(), Some(env!("CARGO_PKG_VERSION")));

    let by = "was written by tidegate 99.1.0, and this is tidegate ";
    store(&data).set_meta("written-by", "99.1.0").unwrap();
    refuses(&data, by, "install tidegate 99.1.0 or a newer one");
    is_not_read(&data, by);
    let schema = "was written by tidegate 99.1.0 (schema 99, this version knows ";
    sql(
        &data,
        "INSERT INTO refinery_schema_history SELECT 99, 'of the future', applied_on, checksum
         FROM refinery_schema_history WHERE version = 1",
    );
    refuses(&data, schema, "install tidegate 99.1.0 or a newer one");
    is_not_read(&data, schema);
    sql(&data, "DELETE FROM refinery_schema_history WHERE version = 99");

    store(&data).set_meta("written-by", env!("CARGO_PKG_VERSION")).unwrap();
    store(&data).set_meta("runtime-format", "99").unwrap();
    let format = "a newer version of tidegate has written format 99; this one knows formats up to ";
    refuses(&data, format, "install that version again");
    is_not_read(&data, format);
    store(&data).set_meta("runtime-format", "1").unwrap();

    // A fact that this version does not know, in its place in the chain.
    let team = store(&data).load("team/web").unwrap().unwrap();
    let fact = br#"{"team":{"sang_a_song":{"how":"well"}}}"#.to_vec();
    let write = AggregateWrite {
        id: "team/web".to_owned(),
        expected_version: team.version,
        facts: vec![fact],
        state: team.state,
        due: team.due,
    };
    let cause = serde_json::to_vec("tidegate").unwrap();
    let commit = Commit { at: 1, cause, writes: vec![write], ..Commit::default() };
    store(&data).commit(&commit).unwrap();
    refuses(
        &data,
        "is stored in a form that this version of tidegate does not know",
        "install that version again",
    );

    // Nor is a backup of such a store read, or brought back.
    sql(&backup_as_data(&backup), "UPDATE meta SET value = '99.1.0' WHERE id = 'written-by'");
    let database = backup.join("store/tidegate.db");
    replace(&backup.join("manifest.json"), |manifest| {
        let entries = manifest["entries"].as_array_mut().unwrap();
        let entry = entries.iter_mut().find(|entry| entry["path"] == "store/tidegate.db").unwrap();
        let hash = Sha256::digest(fs::read(&database).unwrap());
        entry["sha256"] = json!(hash.iter().map(|byte| format!("{byte:02x}")).collect::<String>());
        entry["bytes"] = json!(fs::metadata(&database).unwrap().len());
    });
    let into = world.dir().join("restored");
    let told = tidegate(&["restore", backup.to_str().unwrap()], &into);
    assert!(told.code == 1 && words(&told.talk).starts_with("tidegate: TG016: "), "{told:?}");
    assert!(told.talk.contains(by) && !into.exists(), "{told:?}");
    let told = tidegate(&["log", "verify"], &backup);
    assert!(told.code == 1 && told.talk.contains(by), "{told:?}");
}

/// A backup is laid out as a data directory.
fn backup_as_data(backup: &Path) -> PathBuf {
    backup.to_owned()
}

/// A team's tool that has nothing to do.
const TOOL: &str = "#!/bin/sh\necho '{\"boxes\": []}'\n";

#[test]
fn what_newer_engines_have_written_is_refused_and_not_misread() {
    let world = World::start();
    let repo = world.repo("assets");
    let build = "set -e; mkdir out; cp tool.sh version out; chmod +x out/tool.sh\n";
    world.land(&repo, &[("tool.sh", TOOL), ("build.sh", build)]);
    let command = |kind: &str| json!(["tools/tool.sh", kind]);
    let mut definition = definitions::application(&repo);
    definition["name"] = json!("assets");
    definition["build"]["package"] = json!([{"from": "out", "to": "tools"}]);
    definition["run"] = json!({"engine": {"command": {"shape": "one-unit", "deploy": command("deploy"),
        "observe": command("observe"), "rollback": command("rollback")}}});
    world.apply("assets", &definition).well();
    let state = world.data().join("commands/targets/shop/beta/eu/a/main/slots/assets/state.json");
    world.until("the engine has accepted a command", || state.is_file().then_some(()));
    world.end_server();
    world.end_fleet();
    let data = world.data();

    let format = data.join("fleet/format.json");
    let was = fs::read(&format).unwrap();
    fs::write(&format, r#"{"format": 99, "tidegate": "99.1.0", "cells": 3}"#).unwrap();
    refuses(
        &data,
        "was written by the fleet of tidegate 99.1.0 (form 99, this version knows 1)",
        "install tidegate 99.1.0 or a newer one",
    );
    // Nor does the fleet alone start there.
    let before = files(&data);
    let mut fleet = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    fleet
        .args(["fleet", "run", "--data"])
        .arg(data.join("fleet"))
        .arg("--packages")
        .arg(data.join("packages"));
    let told = run(fleet.arg("--trusted-keys").arg(data.join("keys/trusted.pub")));
    assert!(told.code == 1 && told.talk.contains("was written by the fleet of tidegate 99.1.0"), "{told:?}");
    assert!(files(&data) == before);
    fs::write(&format, was).unwrap();

    replace(&state, |state| {
        state["version"] = json!(99);
        state["more"] = json!(true);
    });
    refuses(
        &data,
        "was written by the command engine of a newer version (form 99, this version knows 1)",
        "install that version again",
    );
    replace(&state, |state| {
        state["version"] = json!(1);
        state.as_object_mut().unwrap().remove("more");
    });
    world.restart_server();
}

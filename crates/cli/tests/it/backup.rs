//! A backup while the server works, a store that is lost, and copies that nobody should start: engines take commands from
//! whoever was told to take over, and from nobody else; what runs is not touched meanwhile.

use crate::world::{Told, World, alive, can_have_a_disk, definitions, get, on_disk, run, steps};
use rusqlite::Connection;
use serde_json::{Value, json};
use sha2::Digest;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use tidegate_api::{BackupMade, MotionStatus};

fn restore(backup: &Path, data: &Path) -> Told {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    run(command.env_clear().arg("restore").arg(backup).arg("--data").arg(data))
}

/// `cp -r`: everything but sockets.
fn copy(from: &Path, to: &Path) {
    let mut command = Command::new("cp");
    command.arg("-r").arg(from).arg(to).stderr(std::process::Stdio::null()).status().unwrap();
    assert!(to.is_dir());
}

fn back_up(world: &World, into: &Path) -> BackupMade {
    let told = world.cli(&["backup", into.to_str().unwrap(), "--json"]).well();
    serde_json::from_str(&told).unwrap()
}

/// Moves everything aside that is not the engines'.
fn lose(data: &Path, aside: &Path) {
    fs::create_dir(aside).unwrap();
    for entry in fs::read_dir(data).unwrap().map(|entry| entry.unwrap()) {
        let name = entry.file_name();
        if !["fleet", "commands", "packages"].iter().any(|kept| name == *kept) {
            fs::rename(entry.path(), aside.join(name)).unwrap();
        }
    }
}

/// Calls an endpoint without a pause until it is told to end; how many calls were answered, and how many were not well.
fn call(endpoint: &str, end: &AtomicBool, good: &AtomicU64, bad: &AtomicU64) {
    while !end.load(Ordering::SeqCst) {
        let well = get(endpoint, "/", None).is_some_and(|(status, _)| status == 200);
        (if well { good } else { bad }).fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn a_store_that_is_lost_after_a_backup_in_the_middle_of_a_rollout_is_restored() {
    let world = World::start();
    let repo = world.repo("shop");
    world.land(&repo, &[]);
    let mut definition = definitions::application(&repo);
    definition["stages"][0]["boxes_per_az"] = json!(3);
    definition["rolling"]["healthy_for"] = json!("400ms");
    world.apply("app", &definition).well();
    world.until_passed("app", 1);
    let eu = world.endpoint("shop", "beta", "eu");
    let backup = world.dir().join("backup");
    let (end, good, bad) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| call(&eu, &end, &good, &bad));
        world.land(&repo, &[("version", "2")]);
        world.until("the first of three boxes runs r2", || {
            match steps(&world.pipeline("app")).next().unwrap().targets[0].motion {
                MotionStatus::Forward { settled, .. } if settled > 0 => Some(()),
                _ => None,
            }
        });
        let made = back_up(&world, &backup);
        assert!(made.bytes > 0 && made.epoch > 0 && made.position > 0, "{made:?}");
        assert!(world.log().last().unwrap().position >= made.position);
        // The server goes on, and people do: none of it is in the backup.
        world.until_passed("app", 2);
        world.bob(&["hold", "app", "--reason", "after the backup"]).well();
        world.kill_server();

        lose(&world.data(), &world.dir().join("lost"));
        let boxes = world.box_pids();
        let told = restore(&backup, &world.data());
        assert!(told.talk.contains("--new-epoch") && told.talk.contains("stays"), "{told:?}");
        told.well();
        for _ in 0..3 {
            let told = world.refused(&world.data(), &[]);
            assert!(told.talk.contains("was restored from a backup"), "{told:?}");
        }
        assert_eq!(world.box_pids(), boxes, "no box was touched");

        world.take_over();
        assert_eq!(world.pipeline("app").holds, [], "what came after the backup is not known");
        world.until_passed("app", 2);
        world.until_everywhere("app", 2);
        world.land(&repo, &[("version", "3")]);
        world.until_passed("app", 3);
        end.store(true, Ordering::SeqCst);
    });
    assert_eq!(get(&eu, "/", None), Some((200, "3".to_owned())));
    assert!(good.into_inner() > 0);
    assert_eq!(bad.into_inner(), 0, "requests failed");
    world.cli(&["log", "verify"]).well();
    world.cli(&["packages", "verify"]).well();
    // From now on it is a server like any other.
    world.end_server();
    world.restart_server();
}

#[test]
fn a_backup_brings_everything_back_on_a_machine_that_has_nothing() {
    let world = World::start();
    let repo = world.repo("shop");
    world.land(&repo, &[]);
    world.apply("app", &definitions::application(&repo)).well();
    world.until_passed("app", 1);
    let backup = world.dir().join("backup");
    back_up(&world, &backup);
    for (path, mode) in modes(&backup) {
        assert_eq!(mode & 0o077, 0, "{} has mode {mode:o}", path.display());
    }
    let told = world.cli(&["backup", backup.to_str().unwrap()]);
    assert_eq!(told.code, 3, "{told:?}");
    assert!(told.talk.contains("it is there, and is not empty"), "{told:?}");
    let told = world.cli(&["backup", world.data().join("inside").to_str().unwrap()]);
    assert!(told.talk.contains("it lies in the data directory"), "{told:?}");
    let told = world.bob(&["backup", world.dir().join("other").to_str().unwrap()]);
    assert!(told.talk.contains("bob is not an administrator"), "{told:?}");
    // Its log is read as it lies there.
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    let told = run(command.env_clear().args(["log", "verify", "--data"]).arg(&backup)).well();
    assert!(told.starts_with("the log is in order: "), "{told}");

    // The machine is lost, with its boxes.
    world.lose_machine();
    restore(&backup, &world.data()).well();
    world.take_over();
    world.until("boxes run again", || {
        let pids = world.box_pids();
        let runs = |pid: &Value| pid.as_u64().is_some_and(|pid| alive(u32::try_from(pid).unwrap()));
        (!pids.is_empty() && pids.iter().all(|(_, pid)| runs(pid))).then_some(())
    });
    let eu = world.endpoint("shop", "beta", "eu");
    world.until("customers are served", || (get(&eu, "/", None)? == (200, "1".to_owned())).then_some(()));
    world.land(&repo, &[("version", "2")]);
    world.until_passed("app", 2);
}

/// A team's tool that keeps what it has deployed where tidegate tells it to.
const TOOL: &str = r#"#!/bin/sh
state=$TIDEGATE_STATE_DIR
if [ "$1" != observe ]; then
    mkdir -p "$state/inner" && echo kept > "$state/inner/more" && printf %s "$TIDEGATE_RUN_SPEC" > "$state/.spec"
elif [ -s "$state/.spec" ]; then
    echo "{\"boxes\": [{\"id\": \"unit\", \"run_spec\": \"$(cat "$state/.spec")\", \"healthy\": true}]}"
else
    echo '{"boxes": []}'
fi
"#;

#[test]
fn what_teams_commands_have_kept_comes_back_with_the_fences_of_their_targets() {
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
    definition["rolling"]["healthy_for"] = json!("0s");
    world.apply("assets", &definition).well();
    world.until_passed("assets", 1);
    let backup = world.dir().join("backup");
    back_up(&world, &backup);
    world.lose_machine();
    restore(&backup, &world.data()).well();
    let slot = world.data().join("commands/targets/shop/beta/eu/a/main/slots/assets");
    assert_eq!(fs::read_to_string(slot.join("state/inner/more")).unwrap(), "kept\n");
    assert!(slot.join("state/.spec").is_file() && slot.join("state.json").is_file());
    assert!(world.refused(&world.data(), &[]).talk.contains("was restored from a backup"));
    world.take_over();
    world.land(&repo, &[("version", "2")]);
    world.until_passed("assets", 2);
    world.cli(&["log", "verify"]).well();
}

#[test]
fn what_is_no_whole_backup_is_refused_and_nothing_is_written() {
    let world = World::start();
    let backup = world.dir().join("backup");
    back_up(&world, &backup);
    let data = world.dir().join("restored");
    let check = |says: &str, harm: &dyn Fn(&Path)| {
        let broken = world.dir().join("broken");
        copy(&backup, &broken);
        harm(&broken);
        let told = restore(&broken, &data);
        assert_eq!((told.code, told.out.as_str()), (1, ""), "{says}: {told:?}");
        assert!(told.talk.contains(says), "{says}: {told:?}");
        assert!(!data.exists(), "{says}: nothing is written");
        fs::remove_dir_all(&broken).unwrap();
    };
    let remove = |name: &'static str| move |dir: &Path| fs::remove_file(dir.join(name)).unwrap();
    check("has no manifest: it is no backup, or half a one", &remove("manifest.json"));
    check("store/tidegate.db is missing from the backup", &remove("store/tidegate.db"));
    check("tokens.json is not as it was backed up: it has the SHA-256 ", &|dir| {
        let mut bytes = fs::read(dir.join("tokens.json")).unwrap();
        let last = bytes.len() - 2;
        bytes[last] ^= 1;
        fs::write(dir.join("tokens.json"), bytes).unwrap();
    });
    check("secrets/more is in the backup, and not in its manifest", &|dir| {
        fs::create_dir_all(dir.join("secrets")).unwrap();
        fs::write(dir.join("secrets/more"), "x").unwrap();
    });
    check("the manifest names ../elsewhere, which is no place in a backup", &|dir| {
        change(dir, |manifest| manifest["entries"][0]["path"] = json!("../elsewhere"));
    });
    check("the backup is of form 2, made by tidegate 9.0; this version reads form 1", &|dir| {
        change(dir, |manifest| {
            *manifest = json!({"version": 2, "tidegate": "9.0", "more": true});
        });
    });
    check("was written by a newer version (schema 99, this version knows ", &|dir| {
        let sql = "INSERT INTO refinery_schema_history SELECT 99, 'from the future', applied_on, checksum
                   FROM refinery_schema_history WHERE version = 1";
        forge(dir, sql);
    });
    check("the store in the backup is not in order: the log of ", &|dir| {
        forge(dir, "UPDATE facts SET at = at + 1 WHERE position = 1");
    });

    // Where a server works, also when somebody has moved its store aside under its feet.
    let serves = format!("process {}", world.server_pid());
    for (aside, says) in
        [(&[][..], "stop it first"), (&["store", "tokens.json"][..], "stop that server first")]
    {
        let moved: Vec<_> =
            aside.iter().map(|name| (world.data().join(name), world.dir().join(name))).collect();
        moved.iter().for_each(|(from, to)| fs::rename(from, to).unwrap());
        let told = restore(&backup, &world.data());
        moved.iter().for_each(|(from, to)| fs::rename(to, from).unwrap());
        assert!(told.code == 1 && told.talk.contains(says) && told.talk.contains(&serves), "{told:?}");
    }
    // Where something is already, and where there is no room.
    fs::create_dir(&data).unwrap();
    fs::write(data.join("tokens.json"), "mine").unwrap();
    let told = restore(&backup, &data);
    assert!(told.talk.contains("is not empty: it holds tokens.json. Move these aside"), "{told:?}");
    assert_eq!(fs::read_to_string(data.join("tokens.json")).unwrap(), "mine");
    fs::remove_file(data.join("tokens.json")).unwrap();
    if can_have_a_disk() {
        let told = run(on_disk(&data, 16).arg("restore").arg(&backup).arg("--data").arg(&data));
        assert_eq!(told.code, 1, "{told:?}");
        assert!(told.talk.contains(" MiB free, and ") && told.talk.contains("are needed"), "{told:?}");
    }
    // One that was interrupted: no server starts there, and it is begun anew.
    restore(&backup, &data).well();
    fs::write(data.join("restoring"), "engines\n").unwrap();
    fs::remove_file(data.join("admin-token")).unwrap();
    let told = world.refused(&data, &["--new-epoch"]);
    assert!(told.talk.contains("was interrupted"), "{told:?}");
    restore(&backup, &data).well();
    assert!(data.join("admin-token").is_file() && !data.join("restoring").exists());
}

#[test]
fn a_backup_that_finds_no_room_leaves_nothing() {
    if !can_have_a_disk() || !rustix::process::geteuid().is_root() {
        return;
    }
    let world = World::start_with(&definitions::organisation(), Some(256));
    let small = world.dir().join("small");
    fs::create_dir(&small).unwrap();
    // Where the server is, this folder is a disk on which no database fits.
    let mut mount = Command::new("nsenter");
    mount
        .arg("-t")
        .arg(world.server_pid().to_string())
        .args(["-m", "mount", "-t", "tmpfs", "-o", "size=32k", "none"]);
    assert_eq!(run(mount.arg(&small)).code, 0);
    let told = world.cli(&["backup", small.join("monday").to_str().unwrap()]);
    assert_eq!((told.code, told.out.as_str()), (1, ""), "{told:?}");
    assert!(told.talk.contains("TG010: ") && told.talk.contains("No space left on device"), "{told:?}");
    let seen =
        PathBuf::from(format!("/proc/{}/root", world.server_pid())).join(small.strip_prefix("/").unwrap());
    assert_eq!(fs::read_dir(seen).unwrap().count(), 0, "nothing is left");
    world.cli(&["backup", world.dir().join("monday").to_str().unwrap()]).well();
}

/// Changes the store of a backup, and its manifest so that it fits.
fn forge(dir: &Path, sql: &str) {
    let path = dir.join("store/tidegate.db");
    assert_eq!(Connection::open(&path).unwrap().execute(sql, []), Ok(1));
    let bytes = closed(&path);
    let hash: String = sha2::Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    change(dir, |manifest| {
        let entries = manifest["entries"].as_array_mut().unwrap();
        let entry = entries.iter_mut().find(|entry| entry["path"] == "store/tidegate.db").unwrap();
        entry["bytes"] = json!(bytes.len());
        entry["sha256"] = json!(hash);
    });
}

fn change(dir: &Path, change: impl FnOnce(&mut Value)) {
    let path = dir.join("manifest.json");
    let mut manifest: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    change(&mut manifest);
    fs::write(&path, manifest.to_string()).unwrap();
}

/// The bytes of a database that nobody has open, with what its own log still held.
fn closed(path: &Path) -> Vec<u8> {
    let database = Connection::open(path).unwrap();
    database.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
    drop(database);
    fs::read(path).unwrap()
}

/// Every file and folder beneath one, and itself, with its mode.
fn modes(dir: &Path) -> Vec<(PathBuf, u32)> {
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    let mut found = vec![(dir.to_owned(), mode(dir))];
    for entry in fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
        match entry.is_dir() {
            true => found.extend(modes(&entry)),
            false => found.push((entry.clone(), mode(&entry))),
        }
    }
    found
}

#[test]
fn a_copy_of_a_running_data_directory_harms_nothing() {
    let world = World::start();
    let repo = world.repo("shop");
    world.land(&repo, &[]);
    world.apply("app", &definitions::application(&repo)).well();
    world.until_passed("app", 1);
    let boxes = world.box_pids();
    let elsewhere = world.dir().join("copy");
    copy(&world.data(), &elsewhere);
    let told = world.refused(&elsewhere, &[]);
    assert!(told.talk.contains("this data directory is a copy of another one"), "{told:?}");
    // Also when somebody insists, as long as the boxes of the first run on this machine.
    let told = world.refused(&elsewhere, &["--new-epoch"]);
    assert!(told.talk.contains("failed to start the fleet"), "{told:?}");
    let log = fs::read_to_string(elsewhere.join("fleet/fleet.log")).unwrap();
    assert!(log.contains("is a copy of another fleet's folder") || told.talk.contains("is a copy"), "{log}");
    assert_eq!(world.box_pids(), boxes, "the first one's boxes run on");
    world.land(&repo, &[("version", "2")]);
    world.until_passed("app", 2);
    world.cli(&["log", "verify"]).well();
}

#[test]
fn an_old_store_does_not_command_engines_that_have_seen_a_newer_one_however_often_it_is_started() {
    let world = World::start();
    let repo = world.repo("shop");
    world.land(&repo, &[]);
    world.apply("app", &definitions::application(&repo)).well();
    world.until_passed("app", 1);
    world.end_server();
    let database = world.data().join("store/tidegate.db");
    let old = closed(&database);
    for version in ["2", "3", "4"] {
        world.restart_server();
        world.land(&repo, &[("version", version)]);
        world.until_passed("app", version.parse().unwrap());
        world.end_server();
    }
    let (new, boxes) = (closed(&database), world.box_pids());
    // In place: the same file with what it held before.
    fs::write(&database, old).unwrap();
    let refusal = || {
        let talk = world.refused(&world.data(), &[]).talk;
        talk.lines().last().unwrap().to_owned()
    };
    let first = refusal();
    assert!(first.contains("the engines have seen a server with epoch"), "{first}");
    for _ in 0..5 {
        assert_eq!(refusal(), first, "it comes no nearer");
    }
    assert_eq!(world.box_pids(), boxes);
    closed(&database);
    fs::write(&database, new).unwrap();
    world.restart_server();
    assert_eq!(world.told().iter().filter(|text| text.starts_with("r4 passed")).count(), 1);
    // One that was made before stores knew their place starts, and knows it from then on.
    world.end_server();
    let home = |sql: &str| {
        let database = Connection::open(&database).unwrap();
        database.execute(sql, []).unwrap()
    };
    assert_eq!(home("DELETE FROM meta WHERE id = 'home'"), 1);
    world.restart_server();
    world.end_server();
    assert_eq!(home("DELETE FROM meta WHERE id = 'home'"), 1);
}

//! Worst moments: a data directory that cannot be written, or not be read, and clocks an hour off.

use crate::world::broken::{Broken, breaking, can_break_reads};
use crate::world::{Repo, World, can_have_a_disk, definitions, get, run, words};
use rustix::process::{Pid, Resource, Rlimit};
use serde_json::json;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

#[test]
fn a_data_directory_that_cannot_be_written_is_told_and_left_alone() {
    if !can_have_a_disk() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new("unshare");
    command.arg(if rustix::process::geteuid().is_root() { "-m" } else { "-Urm" });
    let script = r#"mount -t tmpfs -o ro none "$1" && shift && exec "$@""#;
    command.args(["sh", "-c", script, "sh"]).arg(dir.path()).arg(env!("CARGO_BIN_EXE_tidegate"));
    command.args(["serve", "--listen", "127.0.0.1:0", "--data"]).arg(dir.path());
    let told = run(&mut command);
    assert_eq!((told.code, told.out.as_str()), (1, ""), "{told:?}");
    assert!(told.talk.contains("Read-only file system") && told.talk.contains("failed to "), "{told:?}");
}

/// The library that tells a process another time.
pub(crate) fn faketime() -> Option<PathBuf> {
    let folders = fs::read_dir("/usr/lib").ok()?.flatten().map(|entry| entry.path());
    folders.map(|folder| folder.join("faketime/libfaketimeMT.so.1")).find(|path| path.is_file())
}

#[test]
fn with_a_clock_an_hour_behind_a_rollback_works_and_people_are_told() {
    let Some(library) = faketime() else {
        eprintln!("SKIPPED: libfaketime is not installed (on Debian: faketime)");
        return;
    };
    let world = World::start();
    world.end_server();
    world.end_fleet();
    // The clock is an hour ahead, of the server and of its fleet, ...
    world.start_by(&mut in_an_hour(&library), &[]);
    let repo = world.repo("shop");
    world.land(&repo, &[]);
    let mut definition = definitions::application(&repo);
    world.apply("app", &definition).well();
    world.until_passed("app", 1);
    definition["stages"][0]["bake"]["az"] = json!("2h");
    world.apply("app", &definition).well();
    world.land(&repo, &[("version", "2")]);
    world.until("r2 bakes", || world.told().iter().any(|t| t.contains("bakes for 2h")).then_some(()));
    let newest = world.log().last().unwrap().at;
    world.end_server();
    world.stop_fleet_alone();
    // ... and is mended: for tidegate it is an hour behind what it has recorded.
    world.restart_server();
    world.until("the status tells of it", || {
        let troubles = world.status().troubles;
        let stands = troubles.iter().find(|trouble| trouble.what == "time stands still")?;
        stands.why.contains("behind the newest entry of the log").then_some(())
    });
    let log = fs::read_to_string(world.dir().join("server.log")).unwrap();
    assert!(log.contains("the clock is behind the newest time on record"), "{log}");
    let mut doctor = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    let told = run(doctor.arg("doctor").arg("--data").arg(world.data()));
    assert!(told.code == 1 && told.out.contains("time stands still"), "{told:?}");
    world.bob(&["rollback", "app", "r2", "--reason", "it looks wrong"]).well();
    world.until_everywhere("app", 1);
    let eu = world.endpoint("shop", "beta", "eu");
    assert_eq!(get(&eu, "/", None), Some((200, "1".to_owned())));
    // Time never goes back in the log, and no bake was credited for the jump.
    let log = world.log();
    assert!(log.last().unwrap().at >= newest);
    assert!(!log.iter().any(|entry| entry.text.starts_with("r2 passed")));
    world.cli(&["log", "verify"]).well();
}

#[test]
fn a_deployment_goes_on_after_an_hour_in_which_no_server_ran() {
    let Some(library) = faketime() else {
        eprintln!("SKIPPED: libfaketime is not installed (on Debian: faketime)");
        return;
    };
    let (world, repo) = running();
    let mut definition = definitions::application(&repo);
    definition["rolling"]["healthy_for"] = json!("10s");
    world.apply("app", &definition).well();
    world.land(&repo, &[("version", "2")]);
    let told = |text: &str| world.told().iter().any(|told| told.contains(text)).then_some(());
    let asked = || world.told().iter().filter(|told| told.ends_with(": 1 boxes asked for")).count();
    world.until("a box of r2 is asked for", || (asked() == 2).then_some(()));
    world.kill_server();
    world.stop_fleet_alone();
    // Its thirty seconds are long over by the clock; but nobody has looked at its boxes.
    world.start_by(&mut in_an_hour(&library), &[]);
    world.until_passed("app", 2);
    assert!(told("REJECTED").is_none(), "{:?}", world.told());
    let absent = world.told().into_iter().find(|told| told.starts_with("nobody worked for 1h"));
    assert!(absent.is_some_and(|told| told.ends_with("what is awaited has as much more time")));
}

/// The program as it is an hour later. Without tools outside of the system: not every one starts with another time.
fn in_an_hour(library: &Path) -> Command {
    let mut ahead = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    ahead.env("LD_PRELOAD", library).env("FAKETIME", "+1h").env("PATH", "/usr/bin:/bin");
    ahead.env("FAKETIME_DONT_FAKE_MONOTONIC", "1").env("DONT_FAKE_MONOTONIC", "1");
    ahead
}

/// A server whose application's first release has passed.
fn running() -> (World, Repo) {
    let world = World::start();
    let repo = world.repo("shop");
    world.land(&repo, &[]);
    world.apply("app", &definitions::application(&repo)).well();
    world.until_passed("app", 1);
    (world, repo)
}

/// From now on, each write of a process beyond so many bytes of a file fails; none: as before.
fn limit_files(pid: u32, bytes: Option<u64>) {
    let pid = Pid::from_raw(i32::try_from(pid).unwrap());
    let limit = Rlimit { current: bytes, maximum: None };
    rustix::process::prlimit(pid, Resource::Fsize, limit).unwrap();
}

#[test]
fn a_disk_that_returns_errors_loses_nothing_and_stops_no_box() {
    let (world, repo) = running();
    world.end_server();
    // A write that may not be made is an error to the server, as one of a broken disk is, and not its end.
    let mut command = Command::new("sh");
    command.args(["-c", r#"trap '' XFSZ && exec "$0" "$@""#]).arg(env!("CARGO_BIN_EXE_tidegate"));
    world.start_by(&mut command, &[]);
    let eu = world.endpoint("shop", "beta", "eu");
    let before = world.log().len();

    limit_files(world.server_pid(), Some(512));
    let told = world.bob(&["hold", "app", "--reason", "while the disk fails"]);
    assert_eq!((told.code, told.out.as_str()), (1, ""), "{told:?}");
    assert!(told.talk.contains("TG012: cannot record pipeline/app"), "{told:?}");
    for _ in 0..3 {
        assert_eq!(get(&eu, "/", None), Some((200, "1".to_owned())));
    }
    let folder = world.dir().join("backup");
    let told = world.cli(&["backup", folder.to_str().unwrap()]);
    assert!(told.code == 1 && !folder.exists(), "no half of a backup is left: {told:?}");
    assert_eq!(world.pipeline("app").holds, []);
    assert_eq!(world.log().len(), before);

    limit_files(world.server_pid(), None);
    world.bob(&["hold", "app", "--reason", "when it is mended"]).well();
    assert_eq!(world.pipeline("app").holds.len(), 1);
    world.cli(&["backup", folder.to_str().unwrap()]).well();
    world.bob(&["unhold", "app", "1"]).well();
    world.land(&repo, &[("version", "2")]);
    world.until_passed("app", 2);
    world.cli(&["log", "verify"]).well();
}

#[test]
fn a_store_that_cannot_be_read_is_told_and_loses_nothing() {
    if !can_break_reads() {
        return;
    }
    let (world, repo) = running();
    let eu = world.endpoint("shop", "beta", "eu");
    let answers = || (0..3).for_each(|_| assert_eq!(get(&eu, "/", None), Some((200, "1".to_owned()))));
    let before = world.log();
    world.end_server();

    // A server that cannot read its store does not start, and says what it could not do.
    let store = world.data().join("store");
    let (database, wal) = (store.join("tidegate.db"), store.join("tidegate.db-wal"));
    let mut command = breaking(&[&database, &wal]);
    command.arg("-o").arg(world.dir().join("strace")).arg(env!("CARGO_BIN_EXE_tidegate"));
    command.args(["serve", "--listen", "127.0.0.1:0", "--data"]).arg(world.data());
    let told = run(&mut command);
    assert_eq!((told.code, told.out.as_str()), (1, ""), "{told:?}");
    assert!(told.talk.contains("disk I/O error"), "{told:?}");
    answers();

    // One that runs refuses what it would have to read, and leaves no half of a backup.
    world.restart_server();
    let broken = Broken::reads(world.server_pid(), &[&database, &wal]);
    let folder = world.dir().join("backup");
    let told = world.cli(&["backup", folder.to_str().unwrap()]);
    assert!(broken.failed() > 0, "it has read");
    assert!(told.code == 1 && !folder.exists(), "{told:?}");
    assert!(told.talk.contains("or its disk cannot read it"), "{told:?}");
    answers();
    drop(broken);
    assert!(world.log().starts_with(&before));
    world.cli(&["backup", folder.to_str().unwrap()]).well();
    world.land(&repo, &[("version", "2")]);
    world.until_passed("app", 2);
    world.cli(&["log", "verify"]).well();
}

#[test]
fn packages_that_cannot_be_read_leave_boxes_as_they_are_until_they_can() {
    if !can_break_reads() {
        return;
    }
    let (world, repo) = running();
    let eu = world.endpoint("shop", "beta", "eu");
    let packages = world.data().join("packages");
    let known = |ends: &str| {
        let all = fs::read_dir(&packages).unwrap().map(|entry| entry.unwrap().path());
        all.filter(|path| path.to_string_lossy().ends_with(ends)).collect::<Vec<_>>()
    };
    let first = known(".tar");
    world.bob(&["hold", "app", "--reason", "until the disk is broken"]).well();
    world.land(&repo, &[("version", "2")]);
    let second = world.until("r2 is built", || known(".tar").into_iter().find(|tar| !first.contains(tar)));
    let broken = Broken::reads(world.fleet_pid().unwrap(), &[&second]);
    world.bob(&["unhold", "app", "1"]).well();
    world.until("the status tells of it", || {
        let status = words(&world.cli(&["status"]).well());
        status.contains("Input/output error").then_some(())
    });
    assert!(broken.failed() > 0);
    for _ in 0..3 {
        assert_eq!(get(&eu, "/", None), Some((200, "1".to_owned())));
    }
    drop(broken);
    world.until_passed("app", 2);
    world.until_everywhere("app", 2);
    world.until("no trouble is left", || world.status().troubles.is_empty().then_some(()));
}

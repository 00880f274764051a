//! Worst moments: a data directory that cannot be written, and clocks an hour off.

use crate::world::{World, can_have_a_disk, definitions, get, run};
use serde_json::json;
use std::fs;
use std::path::PathBuf;
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
fn faketime() -> Option<PathBuf> {
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
    let mut ahead = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    // Without tools outside of the system: not every one starts with another time.
    ahead.env("LD_PRELOAD", library).env("FAKETIME", "+1h").env("PATH", "/usr/bin:/bin");
    ahead.env("FAKETIME_DONT_FAKE_MONOTONIC", "1").env("DONT_FAKE_MONOTONIC", "1");
    world.start_by(&mut ahead, &[]);
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
    assert!(
        fs::read_to_string(world.dir().join("server.log"))
            .unwrap()
            .contains("the clock is behind the newest time on record")
            || world.server_log().contains("the clock is behind"),
        "it is told"
    );
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

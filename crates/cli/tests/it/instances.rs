//! One data directory: a second server, and the fleet's own commands.

use crate::world::{World, alive, definitions, run};
use std::process::Command;
use std::time::{Duration, Instant};

#[test]
fn a_second_server_on_the_same_data_directory_is_refused_and_the_first_goes_on() {
    let world = World::start();
    let repo = world.repo("shop");
    world.land(&repo, &[]);
    world.apply("app", &definitions::application(&repo)).well();
    let begun = Instant::now();
    let mut second = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    second.args(["serve", "--listen", "127.0.0.1:0", "--data"]).arg(world.data());
    let told = run(&mut second);
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    let why = format!(
        "tidegate: TG015: {} is in use by another server (process {})\n\
         hint: with --standby this one waits, and takes over when that one ends\n",
        world.data().join("store").display(),
        world.server_pid()
    );
    assert_eq!((told.code, told.out.as_str(), told.talk.as_str()), (1, "", why.as_str()));
    assert!(world.address().is_some(), "the first server's address still stands where it is looked for");
    world.until_passed("app", 1);
}

#[test]
fn a_fleet_is_upgraded_and_ended_by_command() {
    let world = World::start();
    let repo = world.repo("shop");
    world.land(&repo, &[]);
    world.apply("app", &definitions::application(&repo)).well();
    world.until_passed("app", 1);
    let data = world.data().to_owned();
    let fleet = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
        run(command.env("TIDEGATE_DATA", &data).arg("fleet").args(arguments))
    };
    let pid =
        |told: String| told.split(|c: char| !c.is_ascii_digit()).find(|n| !n.is_empty()).map(str::to_owned);
    let before = pid(fleet(&["status"]).well());
    let told = fleet(&["upgrade"]).well();
    assert!(told.contains("took over from"), "{told}");
    let after = pid(fleet(&["status"]).well());
    assert_eq!(after, pid(told));
    assert_ne!(after, before);
    let boxes: Vec<u32> = world
        .box_records()
        .iter()
        .filter_map(|(_, r)| u32::try_from(r["process"]["pid"].as_u64()?).ok())
        .collect();
    assert_eq!((boxes.len(), boxes.iter().all(|pid| alive(*pid))), (1, true));

    world.end_server();
    let told = fleet(&["stop", "--boxes"]).well();
    assert_eq!(told, "the fleet has ended, with its boxes\n");
    assert!(!boxes.iter().any(|pid| alive(*pid)));
    let told = fleet(&["status"]);
    assert_eq!((told.code, told.talk.contains("no fleet answers at ")), (4, true), "{told:?}");
    world.restart_server();
    world.until("the box runs again", || {
        let records = world.box_records();
        records
            .iter()
            .any(|(_, r)| r["process"]["pid"].as_u64().is_some_and(|p| alive(p as u32)))
            .then_some(())
    });
}

//! A server that is killed in the middle of a deployment and of a rollback on the local fleet; a fleet that dies alone.

use crate::world::{World, alive, definitions, get, steps, wait_for};
use serde_json::{Value, json};
use std::fs;
use std::path::PathBuf;
use tidegate_api::{MotionStatus, WorkStatus, WorkTrouble};

#[test]
fn a_killed_server_goes_on_with_deployment_and_rollback() {
    let world = World::start();
    let repo = world.repo("shop");
    world.land(&repo, &[]);
    let mut definition = definitions::application(&repo);
    definition["stages"][0]["boxes_per_az"] = json!(3);
    definition["rolling"]["healthy_for"] = json!("400ms");
    world.apply("app", &definition).well();
    world.until_passed("app", 1);
    let eu = world.endpoint("shop", "beta", "eu");

    world.land(&repo, &[("version", "2")]);
    world.until("the first of three boxes runs r2", || match motion(&world) {
        MotionStatus::Forward { settled, .. } if settled > 0 => Some(()),
        _ => None,
    });
    world.kill_server();
    assert_eq!(get(&eu, "/", None).map(|(status, _)| status), Some(200), "boxes serve without the server");
    world.restart_server();
    world.until_passed("app", 2);
    let told = world.told();
    assert_eq!(told.iter().filter(|t| t.contains("enters beta/az-1")).count(), 2, "{told:#?}");

    definition["stages"][0]["bake"]["az"] = json!("1h");
    world.apply("app", &definition).well();
    world.land(&repo, &[("version", "3")]);
    world.until("r3 bakes", || {
        matches!(steps(&world.pipeline("app")).next()?.work, WorkStatus::Baking { .. }).then_some(())
    });
    world.bob(&["rollback", "app", "r3", "--reason", "it looks wrong"]).well();
    assert!(matches!(motion(&world), MotionStatus::Back { .. }), "it is under way: {:?}", motion(&world));
    world.kill_server();
    assert_eq!(get(&eu, "/", None).map(|(status, _)| status), Some(200));
    world.restart_server();
    world.until_everywhere("app", 2);
    for _ in 0..12 {
        assert_eq!(get(&eu, "/", None), Some((200, "2".to_owned())));
    }
    let told = world.told();
    assert_eq!(told.iter().filter(|t| t.starts_with("r3 REJECTED")).count(), 1, "{told:#?}");
    world.cli(&["log", "--verify"]).well();
}

#[test]
fn a_fleet_that_dies_alone_is_started_again_and_finds_its_boxes() {
    let world = World::start();
    let repo = world.repo("shop");
    world.land(&repo, &[]);
    world.apply("app", &definitions::application(&repo)).well();
    world.until_passed("app", 1);
    let eu = world.endpoint("shop", "beta", "eu");
    let fleet = world.fleet_pid().expect("there is a fleet");
    let process = |(folder, record): (PathBuf, Value)| (folder, record["process"]["pid"].clone());
    let boxes: Vec<_> = world.box_records().into_iter().map(process).collect();
    assert!(boxes.iter().all(|(_, pid)| pid.is_u64()) && !boxes.is_empty(), "{boxes:?}");
    let (told, server) = (world.told().len(), world.server_pid());

    // The next one cannot start before its log can be opened.
    let (log, aside) = (world.data().join("fleet/fleet.log"), world.dir().join("fleet.log"));
    fs::rename(&log, &aside).unwrap();
    fs::create_dir(&log).unwrap();
    let pid = rustix::process::Pid::from_raw(i32::try_from(fleet).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    wait_for(|| (!alive(fleet)).then_some(())).expect("the fleet dies");
    world.until("status says that the fleet is gone", || {
        let troubles = world.status().troubles;
        let gone = |t: &WorkTrouble| t.what.starts_with("the fleet does not answer");
        troubles.iter().any(|t| gone(t) && t.why.contains("failed to start the fleet")).then_some(())
    });
    fs::remove_dir(&log).unwrap();
    world.until("customers are served again", || (get(&eu, "/", None)?.0 == 200).then_some(()));
    world.until("status says that all is well", || world.status().troubles.is_empty().then_some(()));
    assert_ne!(world.fleet_pid(), Some(fleet));
    assert_eq!(world.server_pid(), server);
    assert_eq!(world.box_records().into_iter().map(process).collect::<Vec<_>>(), boxes, "the same processes");
    let since = world.told().split_off(told);
    let moved = ["enters", "moves to", "boxes asked for", "returns", "REJECTED"];
    assert!(!since.iter().any(|text| moved.iter().any(|word| text.contains(word))), "{since:#?}");
    // And it takes orders: a release goes through.
    world.land(&repo, &[("version", "2")]);
    world.until_everywhere("app", 2);
}

/// How the first AZ moves.
pub(crate) fn motion(world: &World) -> MotionStatus {
    steps(&world.pipeline("app")).next().unwrap().targets[0].motion.clone()
}

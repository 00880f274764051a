//! A server that is killed in the middle of a deployment and of a rollback on the local fleet.

use crate::world::{World, definitions, get, steps};
use serde_json::json;
use tidegate_api::{MotionStatus, WorkStatus};

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

/// How the first AZ moves.
fn motion(world: &World) -> MotionStatus {
    steps(&world.pipeline("app")).next().unwrap().targets[0].motion.clone()
}

//! A pipeline that only observes, on a whole server: releases are built, and nothing is deployed.

use crate::world::{World, definitions, words};
use serde_json::json;

#[test]
fn releases_are_built_and_nothing_is_deployed_until_it_acts() {
    let world = World::start();
    let repo = world.repo("shop");
    let mut definition = definitions::application(&repo);
    definition["mode"] = json!("observe-only");
    world.land(&repo, &[]);
    world.apply("app", &definition).well();
    world.until_passed("app", 1);
    let told = world.told();
    assert!(told.iter().any(|line| line == "WOULD BE: r1 passed beta/az-1"), "{told:#?}");
    assert!(!told.iter().any(|line| line == "r1 passed beta/az-1"));
    assert_eq!(world.box_records(), [], "no box was started");
    let status = words(&world.cli(&["status", "app"]).well());
    assert!(
        status.contains("OBSERVES ONLY") && status.contains("what follows is what it would do"),
        "{status}"
    );
    world.kill_server();
    world.restart_server();

    definition["mode"] = json!("act");
    world.apply("app", &definition).well();
    assert!(world.pipeline("app").observes_since.is_none());
    world.land(&repo, &[("version", "2")]);
    world.until_passed("app", 2);
    let moved = world.told().into_iter().filter(|line| line.contains(" enters beta/az-1"));
    let moved: Vec<String> = moved.collect();
    assert_eq!(moved, ["WOULD BE: r1 enters beta/az-1", "r2 enters beta/az-1"]);
    assert_eq!(world.box_records().len(), 1);
}

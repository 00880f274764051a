//! What people do to a Region or to a whole pipeline: leave it out, let it catch up, delete it, revive it.

use crate::world::{World, alive, definitions, get, steps};
use serde_json::json;
use tidegate_core::ids::ReleaseNo;

/// The application in production's two Regions, each one wave.
fn in_two_regions(repo: &crate::world::Repo) -> serde_json::Value {
    let mut definition = definitions::application(repo);
    definition["stages"] = json!([{
        "environment": "production", "boxes_per_az": 1, "one_box": true,
        "bake": {"one_box": "100ms", "az": "100ms", "first_wave": "100ms", "second_wave": "100ms", "last_wave": "100ms"},
        "waves": [{"regions": ["eu", "us"]}]
    }]);
    definition
}

/// What the boxes of a Region answer: their version.
fn version(world: &World, region: &str) -> String {
    get(&world.endpoint("shop", "production", region), "/", None).unwrap().1
}

#[test]
fn a_region_that_is_skipped_stays_behind_and_catches_up_by_itself() {
    let world = World::start();
    let repo = world.repo("shop");
    world.land(&repo, &[]);
    world.apply("app", &in_two_regions(&repo)).well();
    world.until_everywhere("app", 1);
    let skip = world.bob(&["skip", "app", "us", "--reason", "its power is maintained"]).well();
    let number: String = skip.chars().filter(char::is_ascii_digit).collect();
    let commit = world.land(&repo, &[("version", "2")]);
    world.until("eu runs r2", || {
        let pipeline = world.pipeline("app");
        let mut eu = steps(&pipeline).flat_map(|s| &s.targets).filter(|t| t.region.as_str() == "eu");
        eu.all(|t| t.current == Some(ReleaseNo(2))).then_some(())
    });
    assert_eq!((version(&world, "eu").as_str(), version(&world, "us").as_str()), ("2", "1"));
    let why = world.bob(&["why", &commit]).well();
    assert!(why.contains("skipped by bob: its power is maintained"), "{why}");
    world.bob(&["unskip", "app", &number]).well();
    world.until_everywhere("app", 2);
    assert_eq!(version(&world, "us"), "2");
}

#[test]
fn the_boxes_of_a_retired_pipeline_run_on_and_its_definition_revives_it() {
    let world = World::start();
    let repo = world.repo("shop");
    world.land(&repo, &[]);
    world.apply("app", &definitions::application(&repo)).well();
    world.until_passed("app", 1);
    let refused = world.bob(&["retire", "app", "--reason", "moved"]);
    assert!(refused.code != 0 && refused.talk.contains("administrator"), "{refused:?}");
    world.cli(&["retire", "app", "--reason", "the service moved"]).well();
    let told = world.cli(&["status"]).well();
    assert!(told.contains("RETIRED") && told.contains("the service moved"), "{told}");
    world.land(&repo, &[("version", "2")]);
    let held = world.bob(&["hold", "app", "--reason", "too late"]);
    assert!(held.code != 0 && held.talk.contains("applying its definition revives it"), "{held:?}");
    let records = world.box_records();
    assert!(records.len() == 1 && records.iter().all(|(_, r)| alive(pid(r))), "{records:?}");
    let box_of_before = pid(&records[0].1);
    assert_eq!(get(&world.endpoint("shop", "beta", "eu"), "/", None).unwrap(), (200, "1".to_owned()));
    world.apply("app", &definitions::application(&repo)).well();
    world.until_passed("app", 2);
    assert!(!alive(box_of_before), "it was replaced");
    assert_eq!(get(&world.endpoint("shop", "beta", "eu"), "/", None).unwrap(), (200, "2".to_owned()));
}

fn pid(record: &serde_json::Value) -> u32 {
    u32::try_from(record["process"]["pid"].as_u64().unwrap()).unwrap()
}

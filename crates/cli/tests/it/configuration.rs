//! Flags that go their own way to the boxes of an application, and are taken back by themselves (S4, S5).

use crate::world::{World, definitions, get, release};
use serde_json::json;
use tidegate_api::StandingStatus;

/// What the boxes work with, each asked in its turn.
fn limits(world: &World, boxes: usize) -> Vec<String> {
    let endpoint = world.endpoint("shop", "beta", "eu");
    (0..boxes).map(|_| get(&endpoint, "/limit", None).unwrap().1).collect()
}

#[test]
fn flags_change_while_the_boxes_run_and_a_value_that_they_cannot_parse_is_taken_back() {
    const BOXES: usize = 3;
    let world = World::start();
    let (code, flags) = (world.repo("shop"), world.repo("flags"));
    world.land(&code, &[]);
    let mut application = definitions::application(&code);
    application["stages"][0]["boxes_per_az"] = json!(BOXES);
    world.apply("app", &application).well();
    world.until_passed("app", 1);
    assert_eq!(limits(&world, BOXES), ["none"; BOXES]);

    world.land(&flags, &[("limit", "1")]);
    let mut definition = definitions::flags(&flags);
    world.apply("flags", &definition).well();
    world.until_passed("flags", 1);
    assert_eq!(limits(&world, BOXES), ["1"; BOXES], "as many as there are, whatever the definition says");
    let log = world.log();
    let asked = log.iter().filter(|e| e.aggregate == "pipeline/flags" && e.text.contains("boxes asked for"));
    assert_eq!(asked.count(), BOXES, "one after the other");
    world.land(&flags, &[("limit", "2")]);
    world.until_passed("flags", 2);
    assert_eq!(limits(&world, BOXES), ["2"; BOXES]);
    let records = world.box_records();
    assert!(records.iter().all(|(_, record)| record["incarnation"] == 1), "no process was started again");

    definition["rolling"]["progress_deadline"] = json!("3s");
    world.apply("flags", &definition).well();
    world.land(&flags, &[("limit", "many")]);
    let cause = world.until("r3 is rejected", || match release(&world.pipeline("flags"), 3)?.standing {
        StandingStatus::Rejected { cause, .. } => Some(cause.text),
        _ => None,
    });
    assert!(
        cause.contains("POST /reload answered 422") && cause.contains("limit 'many': invalid digit"),
        "{cause}"
    );
    world.until_everywhere("flags", 2);
    assert_eq!(limits(&world, BOXES), ["2"; BOXES]);
    let good = release(&world.pipeline("app"), 1).unwrap();
    assert!(matches!(good.standing, StandingStatus::Good), "the application is not guilty: {good:?}");

    // The application's next release starts with the values.
    world.land(&code, &[("version", "2")]);
    world.until_passed("app", 2);
    assert_eq!(limits(&world, BOXES), ["2"; BOXES]);
}

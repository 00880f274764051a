//! When a commit arrives, as a server tells it: from the real scheduler run ahead of the real state.

use crate::world::{World, definitions, steps};
use serde_json::json;
use tidegate_api::WhyAnswer;

#[test]
fn why_and_status_tell_when_a_commit_arrives_and_why_it_does_not() {
    let world = World::start();
    let repo = world.repo("shop");
    let first = world.land(&repo, &[]);
    let mut definition = definitions::application(&repo);
    definition["stages"] = json!([{
        "environment": "production", "boxes_per_az": 1, "one_box": true,
        "bake": {"one_box": "3h", "az": "1h", "first_wave": "12h"}, "waves": [{"regions": ["eu", "us"]}]
    }]);
    world.apply("app", &definition).well();
    world.until("r1 bakes", || {
        let pipeline = world.pipeline("app");
        let mut all = steps(&pipeline).map(|step| step.passes);
        all.any(|passes| passes.is_some()).then_some(())
    });
    let answer: WhyAnswer = serde_json::from_str(&world.cli(&["why", &first, "--json"]).well()).unwrap();
    let arrival = answer.commits[0].arrival.as_ref().unwrap();
    let everywhere = arrival.everywhere.unwrap();
    let azs = answer.commits[0].steps.len() as u64 - 1;
    let bakes = 3 + (azs - 1) + 12;
    let hours = |at: tidegate_core::units::Timestamp| at.since(arrival.made.made_at).millis() / 3_600_000;
    assert!((bakes - 1..=bakes).contains(&hours(everywhere.earliest)), "{arrival:?} of {bakes} h");
    assert!((bakes - 1..=bakes + 1).contains(&hours(everywhere.latest.unwrap())), "{arrival:?} of {bakes} h");
    let told = world.cli(&["why", &first]).well();
    assert!(
        ["; passes in 2h59m", "; passes in 3h00m"].iter().any(|passes| told.contains(passes))
            && told.contains("everywhere in ")
            && told.contains("as long as nothing fails"),
        "{told}"
    );
    let told = world.cli(&["status"]).well();
    assert!(told.contains("; passes in ") && told.contains("; everywhere in "), "{told}");
    world.bob(&["hold", "app", "--reason", "too risky"]).well();
    let told = world.until("the hold is known to stop it", || {
        let told = world.cli(&["why", &first]).well();
        told.contains("does not get everywhere by itself").then_some(told)
    });
    assert!(told.contains("hold 1 by bob: too risky"), "{told}");
}

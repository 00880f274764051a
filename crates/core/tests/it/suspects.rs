//! Releases that were merely there when the team's aggregate alarm fired (M3): taken back, and back once by themselves.

use crate::scenario::{R1, R2, Scenario, organisation_json, pipeline_json};
use tidegate_core::pipeline::{PipelineFact, Standing};
use tidegate_core::units::Span;

const OTHERS: &str = "Backend_High_Fault_Rate";

fn one_wave() -> serde_json::Value {
    let mut all = pipeline_json("frontend", "frontend");
    all["stages"][1]["waves"] = serde_json::json!([{"regions": ["north", "east"]}]);
    all
}

/// Release 2 bakes in the first AZ of both Regions.
fn under_way() -> Scenario {
    let mut s = Scenario::empty();
    s.apply(&one_wave());
    s.release("frontend");
    s.pass("frontend", "wave-1/az-3", R1);
    s.release("frontend");
    s.reach("frontend", "wave-1/az-1", R2);
    s
}

#[test]
fn suspects_return_only_in_the_alarming_region() {
    let mut s = under_way();
    s.fires("production/north", OTHERS);
    assert_eq!(s.runs("frontend", "frontend/production/north/a/main"), Some(R1));
    assert_eq!(s.runs("frontend", "frontend/production/north/a/one-box"), Some(R1));
    assert_eq!(s.runs("frontend", "frontend/production/east/a/main"), Some(R2));
    assert!(matches!(s.pipeline("frontend").releases[&R2].standing, Standing::Suspect { .. }));
    assert!(s.pipeline("frontend").taints.is_empty(), "nobody is guilty");
}

/// The third AZ is only in the other Region, where the release stays.
#[test]
fn a_suspect_that_is_under_way_where_its_region_is_not_passes_again_before_it_goes_on() {
    let mut all = one_wave();
    all["stages"][1]["waves"] = serde_json::json!([{"regions": ["north", "east"]}, {"regions": ["west"]}]);
    let mut organisation = organisation_json();
    let west = serde_json::json!({"name": "west", "azs": ["a"], "traffic": 20});
    organisation["regions"].as_array_mut().unwrap().push(west);
    let mut s = Scenario::with_organisation(&organisation);
    s.apply(&all);
    s.release("frontend");
    s.pass("frontend", "wave-2/az-1", R1);
    s.release("frontend");
    s.reach("frontend", "wave-1/az-3", R2);
    s.fires("production/north", OTHERS);
    assert_eq!(s.phase("frontend", "wave-1/az-3"), "recalled");
    assert_eq!(s.runs("frontend", "frontend/production/east/c/main"), Some(R2), "nothing is wrong there");
    assert_eq!(s.runs("frontend", "frontend/production/north/b/main"), Some(R1));
    s.ok("production/north", OTHERS);
    s.watch(Span::minutes(59));
    assert_eq!(s.phase("frontend", "wave-1/az-3"), "recalled", "and the next wave waits as well");
    s.pass("frontend", "wave-2/az-1", R2);
    assert_eq!(s.runs("frontend", "frontend/production/north/b/main"), Some(R2), "through all of its steps");
}

/// With one AZ in the Region that is suspected, and three in the other: the second has passed, the third is under way.
#[test]
fn a_suspect_passes_again_also_what_had_passed_where_its_region_is_not() {
    let mut all = one_wave();
    all["stages"][1]["waves"] =
        serde_json::json!([{"regions": ["south", "east"]}, {"regions": ["north", "west"]}]);
    let mut organisation = organisation_json();
    for (name, traffic) in [("south", 1), ("west", 20)] {
        let region = serde_json::json!({"name": name, "azs": ["a"], "traffic": traffic});
        organisation["regions"].as_array_mut().unwrap().push(region);
    }
    let mut s = Scenario::with_organisation(&organisation);
    s.apply(&all);
    s.release("frontend");
    s.pass("frontend", "wave-2/az-2", R1);
    s.release("frontend");
    s.reach("frontend", "wave-1/az-3", R2);
    assert_eq!(s.step("frontend", "wave-1/az-2").done, Some(R2));
    s.fires("production/south", OTHERS);
    let phases = |s: &Scenario| ["az-2", "az-3"].map(|step| s.phase("frontend", &format!("wave-1/{step}")));
    assert_eq!(phases(&s), ["recalled", "recalled"]);
    assert_eq!(s.step("frontend", "wave-1/az-2").done, Some(R1));
    for target in ["b", "c"] {
        assert_eq!(s.runs("frontend", &format!("frontend/production/east/{target}/main")), Some(R2));
    }
    s.ok("production/south", OTHERS);
    s.watch(Span::minutes(59));
    assert_eq!(phases(&s), ["recalled", "recalled"]);
    for _ in 0..20 {
        s.watch(Span::minutes(30));
        let south = s.runs("frontend", "frontend/production/south/a/main");
        let west = s.runs("frontend", "frontend/production/west/a/one-box");
        assert!(west == Some(R1) || south == Some(R2), "not in the next wave before it is back in this one");
    }
    s.pass("frontend", "wave-2/az-2", R2);
}

#[test]
fn a_suspect_comes_back_after_the_pause_and_goes_on() {
    let mut s = under_way();
    s.fires("production/north", OTHERS);
    s.now = s.now + Span::minutes(5);
    s.ok("production/north", OTHERS);
    assert_eq!(
        s.waits("frontend", "wave-1/one-box"),
        "it was rolled back as a suspect; waiting for the alarm in production/north to be quiet for 1h"
    );
    s.watch(Span::minutes(59));
    assert_eq!(s.runs("frontend", "frontend/production/north/a/one-box"), Some(R1));
    s.watch(Span::minutes(1));
    assert_eq!(s.runs("frontend", "frontend/production/north/a/one-box"), Some(R2));
    s.pass("frontend", "wave-1/az-3", R2);
    assert_eq!(s.runs("frontend", "frontend/production/north/a/main"), Some(R2), "through all of its steps");
    assert_eq!(s.team().suspect_turn, None);
}

#[test]
fn a_second_suspicion_rejects() {
    let mut s = under_way();
    s.fires("production/north", OTHERS);
    s.now = s.now + Span::minutes(5);
    s.ok("production/north", OTHERS);
    s.watch(Span::hours(1));
    assert_eq!(s.count(|f| matches!(f, PipelineFact::SuspectReturned { .. })), 1);
    s.fires("production/north", OTHERS);
    assert!(matches!(s.pipeline("frontend").releases[&R2].standing, Standing::Rejected { .. }));
    assert_eq!(s.runs("frontend", "frontend/production/east/a/main"), Some(R1), "now everywhere");
    assert_eq!(s.team().suspect_turn, None);
}

#[test]
fn suspects_come_back_one_pipeline_at_a_time() {
    let mut s = Scenario::running();
    s.apply(&pipeline_json("backend", "backend"));
    s.release("backend");
    s.finish("backend", R1);
    s.release("frontend");
    s.release("backend");
    // The canaries' alarm is nobody's own: a metric alarm of the team's expression.
    s.fires("gamma/north", "Frontend_High_Fault_Rate");
    // Frontend's own alarm convicts frontend; backend was merely there.
    assert!(matches!(s.pipeline("frontend").releases[&R2].standing, Standing::Rejected { .. }));
    assert!(matches!(s.pipeline("backend").releases[&R2].standing, Standing::Suspect { .. }));
    s.now = s.now + Span::minutes(5);
    s.ok("gamma/north", "Frontend_High_Fault_Rate");
    s.watch(Span::hours(1));
    assert_eq!(s.team().suspect_turn, Some("backend".parse().unwrap()));
    assert_eq!(s.runs("backend", "backend/gamma/north/a/one-box"), Some(R2));
    s.finish("backend", R2);
    assert_eq!(s.team().suspect_turn, None);
}

#[test]
fn the_second_of_two_suspects_waits_for_its_turn() {
    let mut organisation = crate::scenario::organisation_json();
    organisation["services"]
        .as_array_mut()
        .unwrap()
        .push(serde_json::json!({"name": "mailer", "team": "shop"}));
    let mut s = Scenario::with_organisation(&organisation);
    for name in ["frontend", "backend"] {
        s.apply(&pipeline_json(name, name));
        s.release(name);
    }
    s.finish("frontend", R1);
    s.finish("backend", R1);
    s.release("frontend");
    s.release("backend");
    s.fires("gamma/north", "Mailer_High_Fault_Rate");
    s.now = s.now + Span::minutes(5);
    s.ok("gamma/north", "Mailer_High_Fault_Rate");
    s.watch(Span::hours(1));
    let first = s.team().suspect_turn.unwrap();
    let second = if first.as_str() == "frontend" { "backend" } else { "frontend" };
    let text = s.waits(second, "gamma/one-box");
    assert_eq!(text, format!("it was rolled back as a suspect; {first} comes back first"));
    s.finish(first.as_str(), R2);
    s.finish(second, R2);
    assert_eq!(s.paged("is rolled back"), 2);
}

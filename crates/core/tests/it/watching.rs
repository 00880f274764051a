//! Bakes end by watched, quiet time and by data, never by silence (X2).

use crate::scenario::{R1, Scenario, pipeline_json, scope};
use std::collections::{BTreeMap, BTreeSet};
use tidegate_core::alarm::{AlarmName, AlarmState};
use tidegate_core::ids::RunSpecDigest;
use tidegate_core::pipeline::{Grant, PipelineEvent, Work};
use tidegate_core::units::{Span, Timestamp};

fn baking() -> Scenario {
    let mut s = Scenario::new();
    s.release("frontend");
    assert_eq!(s.phase("frontend", "gamma/one-box"), "baking");
    s
}

#[test]
fn no_data_does_not_bake() {
    let mut s = baking();
    s.alarm("gamma/north", "Frontend_High_P99_Latency", AlarmState::InsufficientData);
    s.watch(Span::hours(30));
    assert_eq!(s.phase("frontend", "gamma/one-box"), "baking");
    s.ok("gamma/north", "Frontend_High_P99_Latency");
    s.watch(Span::minutes(59));
    assert_eq!(s.phase("frontend", "gamma/one-box"), "baking", "the blind hours earned nothing");
    s.watch(Span::minutes(1));
    assert_eq!(s.phase("frontend", "gamma/one-box"), "done");
}

#[test]
fn a_blind_bake_pages_after_ten_minutes_and_once() {
    let mut s = baking();
    let blind = BTreeSet::from([AlarmName::new("Frontend_High_Fault_Rate").unwrap()]);
    s.watch_blind(Span::minutes(1), &blind);
    s.watch_blind(Span::minutes(8), &blind);
    assert_eq!(s.paged("monitoring is blind"), 0);
    s.watch_blind(Span::minutes(1), &blind);
    s.watch_blind(Span::minutes(60), &blind);
    assert_eq!(s.paged("monitoring is blind"), 1);
    assert_eq!(s.paged("Frontend_High_Fault_Rate"), 1, "it says which");
}

#[test]
fn time_that_nobody_watched_earns_nothing_and_pages() {
    let mut s = baking();
    s.watch(Span::minutes(1));
    let due = s.due[&"frontend".parse().unwrap()];
    assert_eq!(due.since(s.now), Span::minutes(10), "a bake that nobody watches is awaited as well");
    s.wait(Span::minutes(10));
    s.wait(Span::hours(5));
    assert_eq!(s.paged("the bake of gamma/one-box stands still"), 1);
    s.watch(Span::minutes(58));
    assert_eq!(s.phase("frontend", "gamma/one-box"), "baking");
    s.watch(Span::minutes(1));
    assert_eq!(s.phase("frontend", "gamma/one-box"), "done");
}

#[test]
fn a_gap_that_is_read_afterwards_earns_nothing() {
    let mut s = baking();
    let from = s.now;
    s.now = from + Span::hours(4);
    let grant = Grant {
        scope: scope("gamma/north"),
        from,
        until: from + Span::hours(3),
        blind: BTreeSet::new(),
        requests: BTreeMap::new(),
    };
    s.pipeline_event("frontend", PipelineEvent::Watched { grants: vec![grant] }).unwrap();
    let Work::Baking { clock, .. } = s.step("frontend", "gamma/one-box").work else { panic!() };
    assert!(clock.regions.values().all(|credit| credit.watched == Span::ZERO));
}

#[test]
fn data_points_are_needed_as_well_and_count_only_on_boxes_of_the_release() {
    let mut s = Scenario::empty();
    let mut with_data = pipeline_json("frontend", "frontend");
    with_data["stages"][0]["bake"] = serde_json::json!({"data": [{"api": "POST /orders", "requests": 100}]});
    s.apply(&with_data);
    s.release("frontend");
    s.watch(Span::hours(30));
    assert_eq!(s.phase("frontend", "gamma/one-box"), "baking");
    let ours = s.pipeline("frontend").run_spec(R1, &"gamma".parse().unwrap()).unwrap().clone();
    let other = RunSpecDigest::new("a".repeat(64)).unwrap();
    for (spec, phase) in [(other, "baking"), (ours, "done")] {
        let from: Timestamp = s.now;
        s.now = from + Span::seconds(1);
        let requests = BTreeMap::from([(spec, BTreeMap::from([("POST /orders".to_owned(), 100)]))]);
        let grant =
            Grant { scope: scope("gamma/north"), from, until: s.now, blind: BTreeSet::new(), requests };
        s.pipeline_event("frontend", PipelineEvent::Watched { grants: vec![grant] }).unwrap();
        assert_eq!(s.phase("frontend", "gamma/one-box"), phase);
    }
}

#[test]
fn one_region_that_stays_blind_is_paged_for_although_the_others_are_watched() {
    let mut s = Scenario::empty();
    let mut one_wave = pipeline_json("frontend", "frontend");
    one_wave["stages"][1]["waves"] = serde_json::json!([{"regions": ["north", "east"]}]);
    s.apply(&one_wave);
    s.release("frontend");
    s.reach("frontend", "wave-1/one-box", R1);
    let alarm: AlarmName = AlarmName::new("Frontend_High_Fault_Rate").unwrap();
    for _ in 0..11 {
        let from = s.now;
        s.now = from + Span::minutes(1);
        let until = s.now;
        let grant = |region: &str, blind: BTreeSet<AlarmName>| Grant {
            scope: scope(&format!("production/{region}")),
            from,
            until,
            blind,
            requests: BTreeMap::new(),
        };
        let grants = vec![grant("north", BTreeSet::from([alarm.clone()])), grant("east", BTreeSet::new())];
        s.pipeline_event("frontend", PipelineEvent::Watched { grants }).unwrap();
    }
    assert_eq!(s.paged("monitoring is blind"), 1);
}

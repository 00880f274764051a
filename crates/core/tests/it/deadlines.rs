//! Time in which nobody worked, and time in which a build or tests wait for their turn, is not held against them.

use crate::scenario::{R1, R2, Scenario, pipeline_json};
use serde_json::json;
use tidegate_core::pipeline::{Build, PipelineEvent, PipelineFact, Standing};
use tidegate_core::units::Span;

const HOUR: Span = Span::hours(1);

/// Nobody worked for so long, and then the time is told.
fn absence(s: &mut Scenario, absent: Span) {
    s.now = s.now + absent;
    s.pipeline_event("frontend", PipelineEvent::Resumed { absent }).unwrap();
    s.tick();
}

fn resumed(s: &Scenario) -> usize {
    s.count(|fact| matches!(fact, PipelineFact::Resumed { .. }))
}

fn is_good(s: &Scenario) -> bool {
    s.pipeline("frontend").releases[&R2].standing == Standing::Good
}

#[test]
fn a_deployment_has_its_time_left_after_an_hour_in_which_nobody_worked() {
    let mut s = Scenario::running();
    s.stop_engines("gamma");
    s.release("frontend");
    s.wait(Span::minutes(4));
    for _ in 0..3 {
        absence(&mut s, HOUR);
        assert!(is_good(&s));
    }
    assert_eq!(resumed(&s), 3);
    s.wait(Span::minutes(5));
    assert!(is_good(&s), "of its ten minutes one is left");
    s.wait(Span::minutes(2));
    assert!(!is_good(&s), "what is left is no more than what was");
    assert_eq!(s.phase("frontend", "gamma/one-box"), "rolling back");
    // A rollback that could not go on is not stuck.
    absence(&mut s, HOUR);
    assert_eq!(s.paged("makes no progress"), 0);
    s.wait(Span::minutes(10));
    assert_eq!(s.paged("makes no progress"), 1);
}

#[test]
fn builds_and_tests_have_their_time_left() {
    let mut s = Scenario::new();
    let mut with_tests = pipeline_json("frontend", "frontend");
    with_tests["stages"][0]["tests"] = json!([{"name": "smoke", "run": ["bin/smoke"]}]);
    s.apply(&with_tests);
    s.stop_builds();
    s.release("frontend");
    s.wait(Span::minutes(30));
    absence(&mut s, HOUR);
    assert!(matches!(s.pipeline("frontend").releases[&R1].build, Build::Building { .. }));
    s.stop_tests();
    s.start_builds();
    assert_eq!(s.phase("frontend", "gamma/one-box"), "testing");
    absence(&mut s, HOUR);
    assert_eq!(s.phase("frontend", "gamma/one-box"), "testing");
    let due = s.deadlines("frontend").into_iter().min().unwrap();
    s.wait(due.since(s.now));
    assert_eq!(s.phase("frontend", "gamma/one-box"), "rolled back", "in the end it has an end");
}

#[test]
fn a_bake_that_nobody_could_watch_is_not_blind_at_once() {
    let mut s = Scenario::running();
    s.release("frontend");
    assert_eq!(s.phase("frontend", "gamma/one-box"), "baking");
    absence(&mut s, HOUR);
    s.wait(Span::minutes(9));
    assert_eq!(s.paged("monitoring is blind"), 0);
    s.wait(Span::minutes(2));
    assert_eq!(s.paged("monitoring is blind"), 1);
}

#[test]
fn where_nothing_is_awaited_nothing_is_recorded() {
    let mut s = Scenario::running();
    absence(&mut s, HOUR);
    assert_eq!(resumed(&s), 0);
}

#[test]
fn the_time_of_builds_and_tests_begins_when_they_have_their_turn() {
    let mut s = Scenario::new();
    let mut with_tests = pipeline_json("frontend", "frontend");
    with_tests["stages"][0]["tests"] = json!([{"name": "smoke", "run": ["bin/smoke"]}]);
    s.apply(&with_tests);
    s.stop_builds();
    s.release("frontend");
    let build = s.build_effect("frontend", R1);
    let waits = |s: &mut Scenario, effect, minutes: u32| {
        for _ in 0..minutes * 3 {
            s.pipeline_event("frontend", PipelineEvent::TurnAwaited { effect: Clone::clone(effect) })
                .unwrap();
            s.wait(Span::seconds(20));
        }
    };
    waits(&mut s, &build, 120);
    let told = s.count(|fact| matches!(fact, PipelineFact::TurnAwaited { .. }));
    assert!((20..=24).contains(&told), "once in five minutes, and not each time: {told}");
    s.wait(Span::minutes(30));
    assert!(
        matches!(s.pipeline("frontend").releases[&R1].build, Build::Building { .. }),
        "as long as it may take"
    );
    s.stop_tests();
    s.start_builds();
    let tests = s.undone[0].id.clone();
    waits(&mut s, &tests, 60);
    assert_eq!(s.phase("frontend", "gamma/one-box"), "testing");
    s.pipeline_event("frontend", PipelineEvent::TurnAwaited { effect: build }).unwrap();
    let due = s.deadlines("frontend").into_iter().min().unwrap();
    s.wait(due.since(s.now));
    assert_ne!(s.phase("frontend", "gamma/one-box"), "testing");
    // What is over waits in vain.
    s.pipeline_event("frontend", PipelineEvent::TurnAwaited { effect: tests }).unwrap();
}

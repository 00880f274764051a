//! Releases follow each other (P3), the next as soon as the step is free.

use crate::scenario::{R1, R2, R3, R4, Scenario};
use tidegate_core::pipeline::PipelineFact;
use tidegate_core::units::Span;

#[test]
fn the_next_release_enters_a_step_as_soon_as_it_is_free() {
    let mut s = Scenario::new();
    s.release("frontend");
    s.release("frontend");
    assert_eq!(s.waits("frontend", "gamma/one-box"), "r1 is baking here");
    s.watch(Span::hours(1));
    assert_eq!(s.runs("frontend", "frontend/gamma/north/a/one-box"), Some(R2));
    assert_eq!(s.runs("frontend", "frontend/gamma/north/a/main"), Some(R1));
}

#[test]
fn at_most_one_candidate_waits_and_a_newer_one_takes_its_place() {
    let mut s = Scenario::new();
    s.release("frontend");
    s.release("frontend");
    s.release("frontend");
    s.release("frontend");
    assert_eq!(s.step("frontend", "gamma/one-box").candidate, Some(R4));
    s.watch(Span::hours(1));
    assert_eq!(s.runs("frontend", "frontend/gamma/north/a/one-box"), Some(R4));
    let skipped = |f: &PipelineFact| matches!(f, PipelineFact::Entered { release: R2 | R3, .. });
    assert_eq!(s.count(skipped), 0);
    s.finish("frontend", R4);
    assert_eq!(s.pipeline("frontend").everywhere(), Some(R4));
}

#[test]
fn bake_end_promotes_exactly_once() {
    let mut s = Scenario::new();
    s.release("frontend");
    s.watch(Span::minutes(59));
    assert_eq!(s.phase("frontend", "gamma/one-box"), "baking");
    s.watch(Span::minutes(1));
    assert_eq!(s.phase("frontend", "gamma/az-1"), "baking", "by itself");
    for _ in 0..5 {
        s.tick();
    }
    s.finish("frontend", R1);
    for _ in 0..20 {
        s.watch(Span::hours(2));
    }
    let steps = s.pipeline("frontend").plan.steps().count();
    assert_eq!(s.count(|f| matches!(f, PipelineFact::StepDone { .. })), steps);
    assert_eq!(s.count(|f| matches!(f, PipelineFact::Entered { .. })), steps);
}

#[test]
fn holds_are_owned_several_may_stand() {
    let mut s = Scenario::new();
    s.hold("frontend", "alice", "release freeze", None);
    s.hold("frontend", "bob", "demo", Some(s.now + Span::hours(1)));
    s.release("frontend");
    let both = "hold 1 by alice: release freeze; hold 2 by bob: demo";
    assert_eq!(s.waits("frontend", "gamma/one-box"), both);
    let due = s.due[&"frontend".parse().unwrap()];
    assert_eq!(due.since(s.now), Span::hours(1), "it is looked at again when a hold ends");
    s.wait(Span::hours(1));
    assert_eq!(s.waits("frontend", "gamma/one-box"), "hold 1 by alice: release freeze");
    let by = crate::scenario::user("bob");
    s.pipeline_event("frontend", tidegate_core::pipeline::PipelineEvent::HoldLifted { hold: 1, by }).unwrap();
    assert_eq!(s.phase("frontend", "gamma/one-box"), "deploying");
}

#[test]
fn a_window_holds_production_only_and_opens_by_itself() {
    let mut organisation = crate::scenario::organisation_json();
    // 2025-06-15, when scenarios begin, is a Sunday; gamma takes it past Monday's dawn.
    organisation["teams"][0]["windows"] = serde_json::json!({
        "weekly": {"time_zone": "UTC", "open": [{"days": ["tuesday"], "hours": "09:00-17:00"}]}
    });
    let mut s = Scenario::with_organisation(&organisation);
    s.apply(&crate::scenario::pipeline_json("frontend", "frontend"));
    s.release("frontend");
    s.pass("frontend", "gamma/az-2", R1);
    let text = s.waits("frontend", "wave-1/one-box");
    assert_eq!(text, "outside the deployment window, which opens 2025-06-17T09:00:00.000Z");
    // No event comes but the time that the pipeline asked to be told.
    for _ in 0..3 {
        let due = s.due[&"frontend".parse().unwrap()];
        if s.phase("frontend", "wave-1/one-box") == "free" {
            s.wait(due.since(s.now));
        }
    }
    assert!(s.now.to_string().starts_with("2025-06-17T09:00:00."), "{}", s.now);
    assert_eq!(s.waits("frontend", "wave-1/one-box"), "");
    assert_eq!(s.phase("frontend", "wave-1/one-box"), "baking");
}

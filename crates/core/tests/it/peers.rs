//! Mistakes that users of other systems complain about, each under the name of what tidegate shows instead. Those that other
//! files tell already are named in docs/peers.md.

use crate::scenario::{R1, R2, Scenario, organisation_json, pipeline_json};
use serde_json::json;
use tidegate_core::pipeline::{Build, Cause, Standing, Work};
use tidegate_core::units::Span;

const FAULTS: &str = "Frontend_High_Fault_Rate";

/// flagger#1801: the threshold was breached while a release waited, and nothing was rolled back.
#[test]
fn an_alarm_counts_in_every_state_of_a_step() {
    let mut tested = pipeline_json("frontend", "frontend");
    tested["stages"][0]["tests"] = json!([{"name": "smoke", "run": ["bin/smoke"]}]);
    type Stop = fn(&mut Scenario);
    let states: [(&str, Stop); 4] = [
        ("deploying", |s| s.stop_engines("gamma")),
        ("testing", Scenario::stop_tests),
        ("baking", |_| {}),
        ("done", |_| {}),
    ];
    for (phase, stop) in states {
        let mut s = Scenario::empty();
        s.apply(&tested);
        s.release("frontend");
        s.finish("frontend", R1);
        stop(&mut s);
        s.release("frontend");
        if phase == "done" {
            s.pass("frontend", "gamma/one-box", R2);
        }
        assert_eq!(s.phase("frontend", "gamma/one-box"), phase);
        s.fires("gamma/north", FAULTS);
        s.start_all();
        assert_eq!(s.phase("frontend", "gamma/one-box"), "rolled back", "it fired while {phase}");
        assert_eq!(s.runs("frontend", "frontend/gamma/north/a/one-box"), Some(R1));
    }
}

/// flagger#1800, argo-rollouts#2168: a rollback was as slow as the rollout.
#[test]
fn rollback_has_its_own_batch_size() {
    let mut s = Scenario::empty();
    let mut careful = pipeline_json("frontend", "frontend");
    careful["stages"][0]["boxes_per_az"] = json!(20);
    careful["rolling"]["max_unavailable_percent"] = json!(5);
    s.apply(&careful);
    s.release("frontend");
    s.finish("frontend", R1);
    let orders = |s: &Scenario| {
        let target = "frontend/gamma/north/a/main".parse().unwrap();
        s.pipeline("frontend").slots[&target].generation
    };
    let before = orders(&s);
    s.release("frontend");
    s.reach("frontend", "gamma/az-1", R2);
    let forward = orders(&s) - before;
    s.fires("gamma/north", FAULTS);
    let back = orders(&s) - before - forward;
    assert_eq!(s.runs("frontend", "frontend/gamma/north/a/main"), Some(R1));
    assert!(forward > 20, "one box after another: {forward} orders");
    assert!(back < forward, "{back} orders back, {forward} forward");
}

/// kargo's documentation of windows: closed windows also hold rollbacks.
#[test]
fn rollback_passes_a_closed_window() {
    let mut organisation = organisation_json();
    // Scenarios begin on a Sunday.
    let open = json!([{"days": ["tuesday"], "hours": "09:00-17:00"}]);
    organisation["teams"][0]["windows"] = json!({"weekly": {"time_zone": "UTC", "open": open}});
    let mut s = Scenario::with_organisation(&organisation);
    s.apply(&pipeline_json("frontend", "frontend"));
    s.release("frontend");
    s.reach("frontend", "wave-1/one-box", R1);
    s.wait(Span::hours(10));
    s.fires("production/north", FAULTS);
    assert!(s.now.to_string().starts_with("2025-06-17T19:"), "it is closed at {}", s.now);
    assert_eq!(s.phase("frontend", "wave-1/one-box"), "rolled back");
}

/// argo-rollouts#2737, #2088: no rollback of a group.
#[test]
fn the_aggregate_alarm_rolls_all_back_in_that_region() {
    let mut s = Scenario::running();
    s.apply(&pipeline_json("backend", "backend"));
    s.release("backend");
    s.finish("backend", R1);
    s.release("frontend");
    s.release("backend");
    s.fires("gamma/north", FAULTS);
    for pipeline in ["frontend", "backend"] {
        assert_eq!(s.phase(pipeline, "gamma/one-box"), "rolled back", "{pipeline}");
    }
    let standing = |pipeline: &str| s.pipeline(pipeline).releases[&R2].standing.clone();
    assert!(matches!(standing("frontend"), Standing::Rejected { .. }), "its own alarm convicts it");
    assert!(matches!(standing("backend"), Standing::Suspect { .. }), "it was merely under way");
}

/// argo-rollouts#2276, #2658: nobody could see why an analysis had failed.
#[test]
fn the_cause_is_in_the_decision() {
    let mut s = Scenario::running();
    s.release("frontend");
    s.fires("gamma/north", FAULTS);
    let Work::RolledBack { cause, .. } = s.step("frontend", "gamma/one-box").work else { panic!() };
    assert_eq!(
        cause.to_string(),
        "alarm Frontend_High_Severity in gamma/north (Frontend_High_Fault_Rate: Frontend_High_Fault_Rate is Alarm)"
    );
}

/// argo-rollouts#841, #2897: a retry after a failed analysis was broken.
#[test]
fn a_person_can_retry_with_a_reason_from_any_ended_state() {
    // A build that failed.
    let mut s = Scenario::new();
    s.stop_builds();
    s.release("frontend");
    s.wait(Span::hours(1));
    assert!(matches!(s.pipeline("frontend").releases[&R1].build, Build::Failed { .. }));
    s.start_all();
    s.retry("frontend", R1);
    s.finish("frontend", R1);
    // A release that an alarm took back, and one that a person took back.
    for by_a_person in [false, true] {
        let mut s = Scenario::running();
        s.release("frontend");
        if by_a_person {
            s.rollback("frontend", R2);
        } else {
            s.fires("gamma/north", FAULTS);
            s.ok("gamma/north", FAULTS);
        }
        assert_eq!(s.phase("frontend", "gamma/one-box"), "rolled back");
        s.retry("frontend", R2);
        s.finish("frontend", R2);
    }
}

/// spinnaker#2085: a failure could not be told from a rollback.
#[test]
fn a_rollback_that_makes_no_progress_is_told_apart_from_one_that_has_ended() {
    let mut s = Scenario::running();
    s.release("frontend");
    s.stop_engines("gamma");
    s.fires("gamma/north", FAULTS);
    let due = s.due[&"frontend".parse().unwrap()];
    s.wait(due.since(s.now));
    let Work::RollingBack { cause, .. } = s.step("frontend", "gamma/one-box").work else { panic!() };
    assert!(matches!(cause, Cause::Alarm { .. }));
    assert_eq!(s.paged("makes no progress"), 1);
    s.start_all();
    let Work::RolledBack { cause: ended, .. } = s.step("frontend", "gamma/one-box").work else { panic!() };
    assert_eq!(ended, cause);
}

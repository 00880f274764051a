//! Overrides (W3): recorded, limited, and no licence for what breaks afterwards.

use crate::scenario::{R1, R2, Scenario, scope, user};
use std::collections::BTreeSet;
use tidegate_core::pipeline::{Blocker, PipelineEvent, PipelineFact, Work};
use tidegate_core::plan::StepId;
use tidegate_core::units::Span;

const KNOWN: &str = "Backend_High_Fault_Rate";

fn allow(s: &mut Scenario, blockers: &[Blocker], steps: &[&str], time: Span) {
    let event = PipelineEvent::Overridden {
        release: R2,
        blockers: blockers.iter().copied().collect(),
        steps: steps.iter().map(|s| StepId((*s).into())).collect(),
        by: user("bob"),
        reason: "it mends the backend".to_owned(),
        expires: s.now + time,
    };
    s.pipeline_event("frontend", event).unwrap();
    s.work();
}

/// Release 2 waits before gamma because an alarm of the other service fires there.
fn blocked() -> Scenario {
    let mut s = Scenario::running();
    s.fires("gamma/north", KNOWN);
    s.wait(Span::seconds(1));
    s.release("frontend");
    assert_eq!(s.phase("frontend", "gamma/one-box"), "done");
    s
}

#[test]
fn an_override_opens_its_blockers_and_is_recorded() {
    let mut s = blocked();
    s.hold("frontend", "alice", "freeze", None);
    allow(&mut s, &[Blocker::AggregateAlarm], &[], Span::hours(1));
    assert_eq!(s.waits("frontend", "gamma/one-box"), "hold 1 by alice: freeze", "the hold is not among them");
    allow(&mut s, &[Blocker::Hold], &["gamma/one-box"], Span::hours(1));
    assert_eq!(s.phase("frontend", "gamma/one-box"), "baking");
    let recorded = |f: &PipelineFact| {
        matches!(f, PipelineFact::Entered { overrides, masks, .. }
            if overrides == &[2, 3] && masks[&scope("gamma/north")].iter().any(|m| m.as_str() == KNOWN))
    };
    assert_eq!(s.count(recorded), 1);
}

#[test]
fn an_override_expires_and_is_for_its_steps_only() {
    let mut s = blocked();
    allow(&mut s, &[Blocker::AggregateAlarm], &["gamma/az-1"], Span::hours(1));
    assert_eq!(s.phase("frontend", "gamma/one-box"), "done");
    s.wait(Span::hours(1));
    allow(&mut s, &[Blocker::AggregateAlarm], &["gamma/one-box"], Span::ZERO);
    assert_eq!(s.phase("frontend", "gamma/one-box"), "done", "one that has expired opens nothing");
    allow(&mut s, &[Blocker::AggregateAlarm], &["gamma/one-box"], Span::hours(1));
    s.watch(Span::hours(2));
    assert_eq!(s.phase("frontend", "gamma/az-1"), "done");
    assert!(
        s.waits("frontend", "gamma/az-1").contains(KNOWN),
        "promoted only under an override of the next step"
    );
}

#[test]
fn a_leaf_that_fired_at_entry_does_not_roll_back_and_another_one_does() {
    let mut s = blocked();
    allow(&mut s, &[Blocker::AggregateAlarm], &[], Span::hours(1));
    s.watch(Span::minutes(10));
    assert_eq!(s.phase("frontend", "gamma/one-box"), "baking");
    s.fires("gamma/north", "Backend_High_P99_Latency");
    assert!(matches!(s.step("frontend", "gamma/one-box").work, Work::RolledBack { release: R2, .. }));
    assert_eq!(s.runs("frontend", "frontend/gamma/north/a/one-box"), Some(R1));
}

#[test]
fn a_mask_ends_when_its_alarm_is_ok_for_the_first_time() {
    let mut s = blocked();
    allow(&mut s, &[Blocker::AggregateAlarm], &[], Span::hours(1));
    s.now = s.now + Span::minutes(1);
    s.ok("gamma/north", KNOWN);
    assert_eq!(s.phase("frontend", "gamma/one-box"), "baking", "what it was masked for counts no more");
    s.now = s.now + Span::minutes(1);
    s.fires("gamma/north", KNOWN);
    assert_eq!(s.phase("frontend", "gamma/one-box"), "rolled back");
}

#[test]
fn an_override_never_opens_order_taint_or_lease() {
    let mut s = Scenario::running();
    s.release("frontend");
    s.rollback("frontend", R2);
    let all: BTreeSet<Blocker> =
        [Blocker::Window, Blocker::AggregateAlarm, Blocker::OrganisationAlarm, Blocker::Hold].into();
    allow(&mut s, &all.into_iter().collect::<Vec<_>>(), &[], Span::hours(1));
    s.watch(Span::minutes(30));
    assert_eq!(s.runs("frontend", "frontend/gamma/north/a/one-box"), Some(R1));
    let unknown = PipelineEvent::Overridden {
        release: R2,
        blockers: BTreeSet::new(),
        steps: BTreeSet::from([StepId("delta/az-1".into())]),
        by: user("bob"),
        reason: String::new(),
        expires: s.now,
    };
    assert_eq!(
        s.pipeline_event("frontend", unknown).unwrap_err().message,
        "frontend has no step 'delta/az-1'"
    );
}

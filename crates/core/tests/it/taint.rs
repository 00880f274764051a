//! Guilt stays (X4): rejected releases and their changes come in again only by a revert, a fix, or a person's word.

use crate::scenario::{R1, R2, R3, R4, Scenario};
use tidegate_core::ids::{CommitId, ReleaseNo};
use tidegate_core::pipeline::{PipelineFact, Reason, Standing};
use tidegate_core::units::Span;

const FAULTS: &str = "Frontend_High_Fault_Rate";

/// The commit that is rejected in gamma's one-box with release 2, after release 1 was everywhere.
fn rejected() -> (Scenario, CommitId) {
    let mut s = Scenario::running();
    let commit = s.draft("frontend");
    let id = commit.id.clone();
    s.push_reviewed("frontend", commit);
    s.fires("gamma/north", FAULTS);
    s.ok("gamma/north", FAULTS);
    assert!(matches!(s.pipeline("frontend").releases[&R2].standing, Standing::Rejected { .. }));
    (s, id)
}

fn held(s: &Scenario) -> bool {
    s.step("frontend", "gamma/one-box")
        .waiting
        .iter()
        .any(|r| matches!(r, Reason::Tainted { rejected: R2, .. }))
}

#[test]
fn a_release_that_contains_a_tainted_change_stays_out_and_says_which() {
    let (mut s, id) = rejected();
    assert_eq!(s.release("frontend"), R3);
    assert!(held(&s));
    let text = s.waits("frontend", "gamma/one-box");
    assert!(text.contains(&format!("it still contains {} of r2", id.short())), "{text}");
    s.watch(Span::hours(50));
    assert_eq!(s.runs("frontend", "frontend/gamma/north/a/one-box"), Some(R1));
}

#[test]
fn a_revert_lets_in() {
    let (mut s, id) = rejected();
    let mut revert = s.draft("frontend");
    revert.reverts = vec![id];
    s.push_reviewed("frontend", revert);
    assert_eq!(s.runs("frontend", "frontend/gamma/north/a/one-box"), Some(R3));
    s.finish("frontend", R3);
}

#[test]
fn a_revert_of_the_revert_keeps_out() {
    let (mut s, id) = rejected();
    let mut revert = s.draft("frontend");
    revert.reverts = vec![id];
    let reverted = revert.id.clone();
    s.push_reviewed("frontend", revert);
    s.pass("frontend", "gamma/one-box", R3);
    let mut again = s.draft("frontend");
    again.reverts = vec![reverted];
    assert_eq!(s.push_reviewed("frontend", again), R4);
    assert!(held(&s));
}

#[test]
fn a_fix_that_names_one_of_them_lets_in() {
    let (mut s, id) = rejected();
    let mut fix = s.draft("frontend");
    fix.fixes = vec![id.as_str()[..12].to_owned(), "abc".to_owned()];
    if id.as_str()[..12].bytes().all(|b| b == b'0') {
        fix.fixes = vec![id.to_string()];
    }
    s.push_reviewed("frontend", fix);
    assert_eq!(s.runs("frontend", "frontend/gamma/north/a/one-box"), Some(R3));
}

#[test]
fn a_retry_with_a_reason_clears_and_is_recorded() {
    let (mut s, _) = rejected();
    s.retry("frontend", R2);
    assert_eq!(s.runs("frontend", "frontend/gamma/north/a/one-box"), Some(R2));
    let cleared = |f: &PipelineFact| matches!(f, PipelineFact::TaintCleared { cleared, .. } if cleared.reason == "it was the disk");
    assert_eq!(s.count(cleared), 1);
    s.finish("frontend", R2);
}

#[test]
fn rejected_stays_rejected() {
    let (mut s, _) = rejected();
    for _ in 0..60 {
        s.watch(Span::hours(1));
    }
    assert_eq!(s.runs("frontend", "frontend/gamma/north/a/one-box"), Some(R1));
    let ordered = s.pipeline_event(
        "frontend",
        tidegate_core::pipeline::PipelineEvent::RollbackOrdered {
            release: R2,
            by: crate::scenario::user("bob"),
            reason: "twice".to_owned(),
            everywhere: false,
        },
    );
    assert!(ordered.unwrap_err().message.starts_with("r2 is rejected already"));
}

#[test]
fn what_was_under_way_with_a_tainted_change_returns_too() {
    let mut s = Scenario::running();
    s.release("frontend");
    s.reach("frontend", "gamma/az-1", R2);
    s.release("frontend");
    assert_eq!(s.runs("frontend", "frontend/gamma/north/a/one-box"), Some(R3));
    s.rollback("frontend", R2);
    for target in ["a/one-box", "a/main", "b/main"] {
        assert_eq!(s.runs("frontend", &format!("frontend/gamma/north/{target}")), Some(R1), "{target}");
    }
    assert_eq!(s.pipeline("frontend").releases[&R3].standing, Standing::Good, "it is not guilty itself");
    assert_eq!(s.pipeline("frontend").taints.keys().collect::<Vec<_>>(), [&ReleaseNo(2)]);
}

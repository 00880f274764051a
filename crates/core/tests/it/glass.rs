//! Somebody put a target back at the machine while the server could not be asked: it learns of it, and does not fight it.

use crate::scenario::{R1, R2, R3, Scenario};
use tidegate_core::ids::{ReleaseNo, SlotId};
use tidegate_core::pipeline::{Standing, Work};

const TARGET: &str = "frontend/production/east/a/main";

/// The target is put back to a release; whether the scenario's rules hold is checked after every decision.
fn put_back(s: &mut Scenario, target: &str, to: ReleaseNo) {
    let slot = SlotId { target: target.parse().unwrap(), pipeline: "frontend".parse().unwrap() };
    let spec = s.pipeline("frontend").run_spec(to, &slot.target.environment).unwrap().clone();
    let seen = s.fleet.break_glass(&slot, &spec, s.now);
    s.tell(seen.clone());
    // The engine tells it again until it has a command that knows of it.
    s.tell(seen);
    s.work();
}

fn rejected(s: &Scenario, release: ReleaseNo) -> String {
    match &s.pipeline("frontend").releases[&release].standing {
        Standing::Rejected { cause, .. } => cause.to_string(),
        other => panic!("{release} is {other:?}"),
    }
}

#[test]
fn a_release_that_was_under_way_is_rejected_everywhere_and_stays_so() {
    let mut s = Scenario::running();
    s.release("frontend");
    s.reach("frontend", "wave-2/az-2", R2);
    put_back(&mut s, TARGET, R1);
    assert_eq!(rejected(&s, R2), "carol at the machine: the site is down");
    assert_eq!(s.runs("frontend", TARGET), Some(R1));
    assert_eq!(s.runs("frontend", "frontend/production/east/b/main"), Some(R1), "its whole wave returns");
    assert_eq!(
        s.fleet
            .observe(&SlotId { target: TARGET.parse().unwrap(), pipeline: "frontend".parse().unwrap() })
            .unwrap()
            .glass,
        None
    );
    s.wait(tidegate_core::units::Span::hours(24));
    assert_eq!(s.runs("frontend", TARGET), Some(R1), "nothing brings it back");
}

#[test]
fn what_had_finished_is_returned_where_somebody_did_so_and_the_next_release_passes() {
    let mut s = Scenario::running();
    s.release("frontend");
    s.finish("frontend", R2);
    put_back(&mut s, TARGET, R1);
    assert_eq!(s.runs("frontend", TARGET), Some(R1));
    assert_eq!(s.runs("frontend", "frontend/production/east/b/main"), Some(R2), "a finished wave keeps it");
    assert!(!matches!(s.step("frontend", "wave-2/az-1").work, Work::RollingBack { .. }));
    let mut fix = s.draft("frontend");
    let bad = s.pipeline("frontend").releases[&R2].changes[0].commit.id.clone();
    fix.reverts = vec![bad];
    assert_eq!(s.push_reviewed("frontend", fix), R3);
    s.finish("frontend", R3);
    assert_eq!(s.runs("frontend", TARGET), Some(R3));
}

#[test]
fn a_rollback_that_was_under_way_goes_on() {
    let mut s = Scenario::running();
    s.release("frontend");
    s.reach("frontend", "wave-2/az-1", R2);
    s.stop_engines(TARGET);
    s.rollback("frontend", R2);
    assert_eq!(s.runs("frontend", TARGET), Some(R2), "its engine does not obey");
    put_back(&mut s, TARGET, R1);
    s.start_all();
    assert_eq!(s.runs("frontend", TARGET), Some(R1));
    assert_eq!(s.phase("frontend", "wave-2/az-1"), "rolled back");
    assert_eq!(rejected(&s, R2), "alice: looks wrong", "who was first");
}

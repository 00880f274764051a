//! Where a release returns to, how, and what is watched (X1, P5, K3).

use crate::scenario::{R1, R2, R3, Scenario, pipeline_json, user};
use tidegate_core::decision::{Effect, RollbackEffect};
use tidegate_core::engine::{BoxHealth, BoxObservation, Fence, Observation};
use tidegate_core::ids::{PipelineId, RunSpecDigest, SlotId, TargetId};
use tidegate_core::pipeline::{Build, Cause, PipelineEvent, PipelineFact, Standing, Work};
use tidegate_core::units::{Span, Timestamp};

const ONE_BOX: &str = "frontend/gamma/north/a/one-box";
const FAULTS: &str = "Frontend_High_Fault_Rate";

#[test]
fn a_revert_goes_straight_to_the_release_before_without_a_canary() {
    let mut s = Scenario::running();
    s.release("frontend");
    s.reach("frontend", "wave-2/az-3", R2);
    let started = s.count(|f| matches!(f, PipelineFact::BakeStarted { .. }));
    s.rollback("frontend", R2);
    for az in ["a", "b", "c"] {
        assert_eq!(s.runs("frontend", &format!("frontend/production/east/{az}/main")), Some(R1));
    }
    assert_eq!(
        s.count(|f| matches!(f, PipelineFact::BakeStarted { .. })),
        started,
        "nothing bakes on the way back"
    );
}

#[test]
fn what_is_returned_to_is_not_condemned_when_its_bytes_are_the_same() {
    let mut s = Scenario::running();
    release_of_the_bytes_of_r1(&mut s);
    assert_eq!(s.phase("frontend", "gamma/one-box"), "baking");
    s.stop_engines("gamma");
    s.rollback("frontend", R2);
    let condemned = s.undone.iter().filter_map(|new| match &new.effect {
        Effect::Rollback(RollbackEffect::Return(order)) => Some(order.desired.condemned.len()),
        _ => None,
    });
    assert_eq!(condemned.collect::<Vec<_>>(), [0]);
}

/// What it returned to first does not come up there, and is rejected as well: its box goes before those that serve (rule 2 is
/// checked with each order).
#[test]
fn a_rollback_that_goes_further_back_takes_first_what_does_not_serve() {
    let mut s = Scenario::empty();
    let mut many = pipeline_json("frontend", "frontend");
    many["stages"][1]["boxes_per_az"] = serde_json::json!(4);
    many["stages"][1]["waves"] = serde_json::json!([{"regions": ["north"]}, {"regions": ["east"]}]);
    s.apply(&many);
    for release in [R1, R2] {
        s.release("frontend");
        s.finish("frontend", release);
    }
    s.release("frontend");
    s.reach("frontend", "wave-1/az-2", R3);
    let target: TargetId = "frontend/production/north/a/main".parse().unwrap();
    let r2 = s.pipeline("frontend").run_spec(R2, &target.environment).unwrap().clone();
    s.fleet.sick.insert(r2.clone());
    s.rollback("frontend", R3);
    let slot = SlotId { target, pipeline: "frontend".parse().unwrap() };
    let begun = s.fleet.boxes(&slot).iter().filter(|each| each.run_spec == r2).count();
    assert_eq!(begun, 1, "a box of r2 was begun with, and does not serve");
    let event = PipelineEvent::RollbackOrdered {
        release: R2,
        by: user("alice"),
        reason: "it does not come up".to_owned(),
        everywhere: true,
    };
    s.pipeline_event("frontend", event).unwrap();
    s.work();
    assert_eq!(s.runs("frontend", "frontend/production/north/a/main"), Some(R1));
}

/// r2 has the bytes of r1, and r3 has half of the boxes, when r2 is rejected, and r3 with it: three serve r1, and of the others no
/// more may go at once than the limit allows.
#[test]
fn boxes_of_what_is_returned_to_are_no_other_release_s() {
    let mut s = Scenario::empty();
    let mut many = pipeline_json("frontend", "frontend");
    many["stages"][1]["boxes_per_az"] = serde_json::json!(6);
    many["stages"][1]["waves"] = serde_json::json!([{"regions": ["north"]}, {"regions": ["east"]}]);
    s.apply(&many);
    s.release("frontend");
    s.finish("frontend", R1);
    release_of_the_bytes_of_r1(&mut s);
    s.start_all();
    s.finish("frontend", R2);
    let target: TargetId = "frontend/production/north/a/main".parse().unwrap();
    s.stop_engines("production/north/a/main");
    s.release("frontend");
    s.reach("frontend", "wave-1/az-1", R3);
    let spec = |s: &Scenario, release| {
        s.pipeline("frontend").run_spec(release, &target.environment).unwrap().clone()
    };
    let (good, bad) = (spec(&s, R1), spec(&s, R3));
    assert_eq!(good, spec(&s, R2));
    let half: Vec<RunSpecDigest> = [&good, &good, &good, &bad, &bad, &bad].map(Clone::clone).to_vec();
    for boxes in [vec![good.clone(); 6], half.clone()] {
        told(&mut s, &target, &boxes);
    }
    let event = PipelineEvent::RollbackOrdered {
        release: R2,
        by: user("alice"),
        reason: "it was wrong from the start".to_owned(),
        everywhere: true,
    };
    s.pipeline_event("frontend", event).unwrap();
    told(&mut s, &target, &half);
    let mut orders = s.undone.iter().filter_map(|new| match &new.effect {
        Effect::Rollback(RollbackEffect::Return(order)) if order.slot.target == target => Some(order),
        _ => None,
    });
    let split = &orders.next_back().unwrap().desired.split;
    let of = |spec: &RunSpecDigest| -> u32 {
        split.iter().filter(|share| share.run_spec == *spec).map(|share| share.boxes).sum()
    };
    assert_eq!((of(&good) + of(&bad), of(&bad) >= 1), (6, true), "{split:?}");
}

/// An engine tells of healthy boxes.
fn told(s: &mut Scenario, target: &TargetId, boxes: &[RunSpecDigest]) {
    let pipeline: PipelineId = "frontend".parse().unwrap();
    let generation = s.pipeline("frontend").slots[target].generation;
    let healthy = |(n, run_spec): (usize, &RunSpecDigest)| BoxObservation {
        id: n.to_string(),
        incarnation: 1,
        run_spec: run_spec.clone(),
        health: BoxHealth::Healthy { since: Timestamp(0) },
        weight: 1,
    };
    s.tell(Observation {
        slot: SlotId { target: target.clone(), pipeline },
        fence: Fence { epoch: 1, generation },
        boxes: boxes.iter().enumerate().map(healthy).collect(),
        trouble: None,
        glass: None,
    });
}

/// Such as after a change of what is not packaged: it shares the RunSpec.
fn release_of_the_bytes_of_r1(s: &mut Scenario) {
    let Build::Built { package, .. } = s.pipeline("frontend").releases[&R1].build.clone() else {
        panic!("it runs")
    };
    s.stop_builds();
    s.release("frontend");
    let ended = PipelineEvent::BuildEnded { effect: s.build_effect("frontend", R2), result: Ok(package) };
    s.undone.clear();
    s.pipeline_event("frontend", ended).unwrap();
    s.work();
}

#[test]
fn rollback_in_several_regions_converges() {
    let mut s = Scenario::empty();
    let mut one_wave = pipeline_json("frontend", "frontend");
    one_wave["stages"][1]["waves"] = serde_json::json!([{"regions": ["north", "east"]}]);
    s.apply(&one_wave);
    s.release("frontend");
    s.pass("frontend", "wave-1/az-3", R1);
    s.release("frontend");
    s.reach("frontend", "wave-1/az-2", R2);
    s.stop_engines("production/east");
    s.fires("production/north", FAULTS);
    assert_eq!(s.runs("frontend", "frontend/production/north/b/main"), Some(R1), "one Region does not wait");
    assert_eq!(s.phase("frontend", "wave-1/az-2"), "rolling back");
    s.start_all();
    assert_eq!(s.phase("frontend", "wave-1/az-2"), "rolled back");
    assert_eq!(s.runs("frontend", "frontend/production/east/b/main"), Some(R1));
}

#[test]
fn boxes_that_do_not_become_healthy_reject_at_the_deadline() {
    let mut s = Scenario::running();
    s.stop_engines("gamma");
    s.release("frontend");
    let spec = s.pipeline("frontend").run_spec(R2, &"gamma".parse().unwrap()).unwrap().clone();
    s.fleet.sick.insert(spec);
    s.start_all();
    assert_eq!(s.phase("frontend", "gamma/one-box"), "deploying");
    s.wait(Span::minutes(9));
    assert_eq!(s.phase("frontend", "gamma/one-box"), "deploying");
    // A box that happens to start again at the deadline has said before what is wrong.
    let slot = SlotId { target: ONE_BOX.parse().unwrap(), pipeline: "frontend".parse().unwrap() };
    s.fleet.start_again(&slot, s.now);
    s.wait(Span::minutes(1));
    assert_eq!(s.phase("frontend", "gamma/one-box"), "rolled back");
    let Standing::Rejected { cause, .. } = s.pipeline("frontend").releases[&R2].standing.clone() else {
        panic!()
    };
    assert!(matches!(&cause, Cause::Health { why, .. } if why.contains("exited with status 1")), "{cause}");
    assert_eq!(s.runs("frontend", ONE_BOX), Some(R1));
}

#[test]
fn a_target_that_ran_nothing_goes_to_stopped() {
    let mut s = Scenario::new();
    s.release("frontend");
    assert_eq!(s.runs("frontend", ONE_BOX), Some(R1));
    s.rollback("frontend", R1);
    assert_eq!(s.runs("frontend", ONE_BOX), None);
    assert_eq!(s.phase("frontend", "gamma/one-box"), "rolled back");
}

#[test]
fn the_target_of_a_rollback_is_the_newest_good_one_and_is_found_anew() {
    let mut s = Scenario::running();
    s.release("frontend");
    s.reach("frontend", "gamma/az-1", R2);
    let mut fixed = s.draft("frontend");
    fixed.subject = "third".to_owned();
    s.push_reviewed("frontend", fixed);
    assert_eq!(s.runs("frontend", ONE_BOX), Some(R3));
    // R3 returns to R2, the newest that was good there; on the way R2 is rejected as well.
    s.stop_engines("one-box");
    s.rollback("frontend", R3);
    s.rollback("frontend", R2);
    s.start_all();
    assert_eq!(s.runs("frontend", ONE_BOX), Some(R1));
    assert_eq!(s.step("frontend", "gamma/one-box").done, Some(R1));
    assert_eq!(s.phase("frontend", "gamma/one-box"), "rolled back");
}

#[test]
fn bake_is_monitored_to_its_end_and_earlier_steps_until_the_wave_is_finished() {
    let mut s = Scenario::running();
    s.release("frontend");
    s.reach("frontend", "wave-2/az-3", R2);
    assert_eq!(s.phase("frontend", "wave-2/one-box"), "done");
    // Only the one-box is guilty, and it has passed its step long ago.
    s.fires("production/east", "Frontend_OneBox_High_P50_Latency");
    for target in ["a/one-box", "a/main", "b/main", "c/main"] {
        assert_eq!(s.runs("frontend", &format!("frontend/production/east/{target}")), Some(R1), "{target}");
    }
    assert_eq!(s.runs("frontend", "frontend/production/north/a/main"), Some(R2), "that wave is finished");
}

#[test]
fn gamma_never_rolls_production_back() {
    let mut s = Scenario::running();
    s.release("frontend");
    s.reach("frontend", "wave-1/az-1", R2);
    s.fires("gamma/north", FAULTS);
    assert_eq!(s.phase("frontend", "wave-1/az-1"), "baking");
}

#[test]
fn production_returns_as_a_whole_where_the_definition_says_so() {
    let mut s = Scenario::empty();
    let mut all = pipeline_json("frontend", "frontend");
    all["rollback"] = serde_json::json!("production");
    s.apply(&all);
    s.release("frontend");
    s.finish("frontend", R1);
    s.release("frontend");
    s.reach("frontend", "wave-2/one-box", R2);
    s.fires("production/east", FAULTS);
    assert_eq!(s.runs("frontend", "frontend/production/north/a/main"), Some(R1));
    assert_eq!(s.runs("frontend", "frontend/gamma/north/a/main"), Some(R2));
}

#[test]
fn an_alarm_that_came_and_went_between_two_looks_still_rolls_back() {
    let mut s = Scenario::running();
    s.release("frontend");
    // The pipeline is told only when both are over.
    let before = s.count(|f| matches!(f, PipelineFact::Rejected { .. }));
    s.team_only("gamma/north", FAULTS, &[true, false]);
    assert_eq!(s.count(|f| matches!(f, PipelineFact::Rejected { .. })), before);
    s.tick();
    assert!(matches!(s.step("frontend", "gamma/one-box").work, Work::RolledBack { release: R2, .. }));
}

#[test]
fn an_alarm_counts_from_the_millisecond_of_the_entry_on_and_not_before() {
    let mut s = Scenario::running();
    // It comes and goes in the millisecond before the release is there.
    let at = s.now;
    s.team_only_at("gamma/north", FAULTS, true, at);
    s.team_only_at("gamma/north", FAULTS, false, at);
    s.release("frontend");
    let (_, entered) = s.step("frontend", "gamma/one-box").work.under_way().unwrap();
    assert!(entered > at, "it enters after all that its gate has seen");
    s.tick();
    assert_eq!(s.phase("frontend", "gamma/one-box"), "baking");
    // And again in the very millisecond of the entry.
    s.now = s.now.max(entered);
    s.team_only_at("gamma/north", FAULTS, true, entered);
    s.team_only_at("gamma/north", FAULTS, false, entered);
    s.tick();
    assert_eq!(s.phase("frontend", "gamma/one-box"), "rolled back");
}

#[test]
fn an_alarm_counts_while_boxes_are_being_replaced() {
    let mut s = Scenario::running();
    s.release("frontend");
    s.stop_engines("gamma/north/a/main");
    s.pass("frontend", "gamma/one-box", R2);
    assert_eq!(s.phase("frontend", "gamma/az-1"), "deploying");
    s.fires("gamma/north", FAULTS);
    assert_eq!(s.phase("frontend", "gamma/az-1"), "rolling back");
    s.start_all();
    assert_eq!(s.phase("frontend", "gamma/az-1"), "rolled back");
    assert_eq!(s.runs("frontend", "frontend/gamma/north/a/main"), Some(R1));
}

#[test]
fn an_order_that_a_newer_one_supersedes_is_not_performed_any_more() {
    let mut s = Scenario::running();
    s.stop_engines("gamma");
    s.release("frontend");
    let orders = |s: &Scenario| s.undone.iter().map(|new| new.id.0.clone()).collect::<Vec<_>>();
    let forward = orders(&s);
    assert_eq!(forward.len(), 1, "{forward:?}");
    // Repeated by the server's next life, with an epoch that engines take, it would bring back what was taken back.
    s.rollback("frontend", R2);
    let back = orders(&s);
    assert_eq!(back.len(), 1, "{back:?}");
    assert_ne!(back, forward);
    s.start_all();
    assert_eq!(s.runs("frontend", ONE_BOX), Some(R1));
}

//! A pipeline of configuration beside one of processes: the same steps, windows and rollback, over boxes that are another
//! pipeline's (S4, S5).

use crate::scenario::{R1, R2, Scenario, pipeline_json};
use serde_json::{Value, json};
use tidegate_core::decision::{Effect, Fact, ForwardEffect};
use tidegate_core::ids::{ReleaseNo, SlotId};
use tidegate_core::pipeline::{Cause, Motion, PipelineEvent, PipelineFact, Standing};
use tidegate_core::units::Span;

fn flags_json() -> Value {
    let mut flags = pipeline_json("flags", "frontend");
    flags["run"] = json!({"engine": {"configuration": {"reload": "/reload"}}});
    flags
}

/// Processes that run everywhere, six in each AZ, and a pipeline of flags without a release.
fn six_boxes_and_flags() -> Scenario {
    let mut s = Scenario::empty();
    let mut processes = pipeline_json("frontend", "frontend");
    for stage in processes["stages"].as_array_mut().unwrap() {
        stage["boxes_per_az"] = 6.into();
    }
    s.apply(&processes);
    s.release("frontend");
    s.finish("frontend", R1);
    s.apply(&flags_json());
    s
}

fn slot(target: &str) -> SlotId {
    SlotId { target: target.parse().unwrap(), pipeline: "flags".parse().unwrap() }
}

/// How many boxes of a target are told to have what a release of the flags is.
fn having(s: &Scenario, target: &str, release: ReleaseNo) -> usize {
    let slot = slot(target);
    let spec = s.pipeline("flags").run_spec(release, &slot.target.environment).cloned().unwrap();
    let seen = s.fleet.observe(&slot).unwrap();
    seen.boxes.iter().filter(|b| b.run_spec == spec).count()
}

/// How many boxes of a target were asked for, one order after the other.
fn asked(s: &Scenario, target: &str) -> Vec<u32> {
    let facts = s.log.iter().filter_map(|(_, fact)| match fact {
        Fact::Pipeline(PipelineFact::SlotAsked { target: of, asked, .. }) if of.to_string() == target => {
            Some(*asked)
        }
        _ => None,
    });
    facts.collect()
}

const MAIN: &str = "frontend/production/north/a/main";

#[test]
fn flags_take_every_step_and_change_a_third_of_the_boxes_at_a_time() {
    let mut s = six_boxes_and_flags();
    let from = s.log.len();
    s.release("flags");
    s.finish("flags", R1);
    s.log.drain(..from);
    for target in [MAIN, "frontend/production/east/c/main", "frontend/gamma/north/b/main"] {
        assert_eq!(having(&s, target, R1), 6, "{target}");
        // The engine obeys at once, so two take up their values and then the next two.
        assert_eq!(
            asked(&s, target),
            [2, 4, 6],
            "as many boxes as the processes are, whatever this definition says"
        );
    }
    assert_eq!(s.pipeline("frontend").newest().unwrap().0, R1, "the processes were not touched");
}

#[test]
fn values_that_a_box_cannot_work_with_are_taken_back_and_rejected() {
    let mut s = six_boxes_and_flags();
    s.release("flags");
    s.finish("flags", R1);
    s.stop_engines("gamma/north/a/one-box");
    s.release("flags");
    let bad = s.pipeline("flags").run_spec(R2, &"gamma".parse().unwrap()).cloned().unwrap();
    s.fleet.sick.insert(bad);
    s.start_all();
    let one_box = "frontend/gamma/north/a/one-box";
    assert_eq!(having(&s, one_box, R2), 1, "the one-box was asked first");
    s.wait(Span::minutes(11));
    let pipeline = s.pipeline("flags");
    let Standing::Rejected { cause: Cause::Health { why, .. }, .. } = &pipeline.releases[&R2].standing else {
        panic!("{:?}", pipeline.releases[&R2].standing)
    };
    assert!(why.contains("POST /reload answered 422"), "{why}");
    assert_eq!((having(&s, one_box, R2), having(&s, one_box, R1)), (0, 1));
    assert!(
        matches!(s.pipeline("frontend").releases[&R1].standing, Standing::Good),
        "only the flags are guilty"
    );
}

#[test]
fn the_first_values_are_taken_back_to_none_and_the_boxes_stay() {
    let mut s = six_boxes_and_flags();
    s.release("flags");
    s.reach("flags", "wave-1/az-1", R1);
    assert_eq!(having(&s, MAIN, R1), 6);
    s.rollback("flags", R1);
    assert_eq!(having(&s, MAIN, R1), 0);
    assert_eq!(s.pipeline("flags").slots[&MAIN.parse().unwrap()].current(), None);
    assert_eq!(s.fleet.observe(&slot(MAIN)).unwrap().boxes.len(), 6, "they run on, without values");
}

/// Flags that were everywhere before there was any box.
fn flags_before_boxes() -> Scenario {
    let mut s = Scenario::empty();
    s.apply(&flags_json());
    s.apply(&pipeline_json("frontend", "frontend"));
    s.release("flags");
    s.finish("flags", R1);
    s.release("frontend");
    s.finish("frontend", R1);
    s
}

#[test]
fn a_fleet_that_is_not_there_yet_starts_with_the_values() {
    let s = flags_before_boxes();
    assert_eq!(having(&s, MAIN, R1), 3, "boxes that start later have them as well");
}

#[test]
fn a_pipeline_of_processes_does_not_become_one_of_configuration() {
    let mut s = Scenario::running();
    let before = s.pipeline("frontend");
    let mut other = flags_json();
    other["name"] = "frontend".into();
    let definition = Box::new(serde_json::from_value(other).unwrap());
    let refused = s.pipeline_event("frontend", PipelineEvent::Applied { definition }).unwrap_err();
    assert!(refused.to_string().contains("cannot change the kind of thing"), "{refused}");
    assert_eq!(s.pipeline("frontend"), before);
}

#[test]
fn boxes_that_came_after_the_first_values_get_the_next_ones_a_third_at_a_time() {
    let mut s = flags_before_boxes();
    let from = s.log.len();
    s.release("flags");
    s.finish("flags", R2);
    s.log.drain(..from);
    assert_eq!(asked(&s, MAIN), [1, 2, 3]);
    assert_eq!(having(&s, MAIN, R2), 3);
}

/// The engine obeys the next order of the flags to the target, and no other.
fn obey_one(s: &mut Scenario) {
    let next = s.undone.iter().position(|new| {
        matches!(&new.effect, Effect::Forward(ForwardEffect::Deploy(order)) if order.slot == slot(MAIN))
    });
    let Some(Effect::Forward(ForwardEffect::Deploy(order))) =
        s.undone.remove(next.unwrap()).map(|n| n.effect)
    else {
        panic!("it was there")
    };
    for observation in s.fleet.obey(&order, s.now) {
        s.pipeline_event("flags", PipelineEvent::SlotsObserved { observations: vec![observation] }).unwrap();
    }
}

#[test]
fn a_split_that_was_made_for_more_boxes_does_not_stand_when_the_slot_settles() {
    let mut s = six_boxes_and_flags();
    let mut flags = flags_json();
    flags["rolling"]["healthy_for"] = "1m".into();
    s.apply(&flags);
    s.stop_engines("production/north/a/main#flags");
    s.release("flags");
    for _ in 0..200 {
        if s.undone.iter().any(|new| format!("{new:?}").contains(MAIN)) {
            break;
        }
        s.watch(Span::minutes(5));
    }
    obey_one(&mut s);
    obey_one(&mut s);
    assert_eq!(having(&s, MAIN, R1), 2, "it is half way");
    let processes = SlotId { pipeline: "frontend".parse().unwrap(), ..slot(MAIN) };
    s.fleet.resize(&processes, 2);
    s.start_all();
    s.wait(Span::minutes(2));
    let settled = s.pipeline("flags").slots[&MAIN.parse().unwrap()].clone();
    assert_eq!((settled.current(), settled.motion.clone()), (Some(R1), Motion::Settled));
    s.fleet.resize(&processes, 6);
    assert_eq!(having(&s, MAIN, R1), 6, "boxes that come later have what the slot runs");
}

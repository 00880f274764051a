//! Definitions that change under what runs (X8, C2).

use crate::scenario::{R1, R2, R3, Scenario, organisation_json, pipeline_json};
use serde_json::json;
use tidegate_core::aggregate::{State, decide};
use tidegate_core::decision::{Event, Fact};
use tidegate_core::ids::PipelineId;
use tidegate_core::lease::Lease;
use tidegate_core::pipeline::{Motion, Pipeline, PipelineEvent, PipelineFact, Standing};
use tidegate_core::units::Span;

#[test]
fn editing_redeploys_nothing_and_keeps_rollback_targets() {
    let mut s = Scenario::running();
    s.release("frontend");
    s.reach("frontend", "wave-2/az-2", R2);
    let (slots, steps) = (s.pipeline("frontend").slots, s.pipeline("frontend").steps);
    let mut edited = pipeline_json("frontend", "frontend");
    edited["run"]["environment"] = json!({"LOG": "debug"});
    edited["stages"][1]["boxes_per_az"] = json!(6);
    s.apply(&edited);
    assert_eq!(s.pipeline("frontend").slots, slots);
    assert_eq!(s.pipeline("frontend").steps, steps);
    s.rollback("frontend", R2);
    assert_eq!(s.runs("frontend", "frontend/production/east/b/main"), Some(R1));
}

#[test]
fn removing_a_stage_redeploys_nothing() {
    let mut s = Scenario::running();
    let entered = s.log.len();
    let mut edited = pipeline_json("frontend", "frontend");
    edited["stages"].as_array_mut().unwrap().remove(0);
    s.apply(&edited);
    s.watch(Span::hours(30));
    assert_eq!(s.log.len(), entered + 1, "only the definition was recorded");
    let p = s.pipeline("frontend");
    let gamma = &p.slots[&"frontend/gamma/north/a/main".parse().unwrap()];
    assert!(gamma.detached && gamma.current() == Some(R1), "its boxes run on, its history stays");
}

#[test]
fn a_new_region_is_filled_with_the_release_that_is_everywhere() {
    let mut s = Scenario::running();
    let mut organisation = organisation_json();
    organisation["regions"].as_array_mut().unwrap().push(json!({"name": "west", "azs": ["a"], "traffic": 5}));
    s.apply_organisation(&organisation);
    s.quiet_everywhere();
    s.tick();
    for _ in 0..40 {
        s.watch(Span::hours(1));
    }
    assert_eq!(s.runs("frontend", "frontend/production/west/a/one-box"), Some(R1));
    assert_eq!(s.runs("frontend", "frontend/production/west/a/main"), Some(R1));
}

/// What is remembered of a plan saves work and nothing else: with it, without it, and after a restart the same is decided.
#[test]
fn a_plan_is_not_made_again_of_the_same_definitions_and_always_of_others() {
    let mut s = Scenario::running();
    let id = PipelineId::new("frontend").unwrap();
    let tick = |s: &Scenario, p: Pipeline| {
        let event = Event::Pipeline(id.clone(), PipelineEvent::Tick);
        match decide(State::Pipeline(p), &event, s.now, &s.snapshots()).unwrap() {
            (State::Pipeline(p), decision) => (p, decision),
            other => panic!("{other:?}"),
        }
    };
    let remembers = |s: &Scenario, p: &Pipeline| {
        let (pipeline, organisation) = (p.definition.as_ref().unwrap(), s.organisation().definition.unwrap());
        p.plan.is_of(pipeline, &organisation)
    };
    let told = s.pipeline("frontend").clone();
    let known = tick(&s, told.clone()).0;
    assert!(!remembers(&s, &told) && remembers(&s, &known));
    let read: Pipeline = serde_json::from_value(serde_json::to_value(&known).unwrap()).unwrap();
    assert!(!remembers(&s, &read) && read == known);
    assert_eq!(tick(&s, read.clone()), tick(&s, known.clone()));

    let mut organisation = organisation_json();
    organisation["regions"].as_array_mut().unwrap().push(json!({"name": "west", "azs": ["a"], "traffic": 5}));
    s.apply_organisation(&organisation);
    let after = tick(&s, known.clone());
    let west = |p: &Pipeline| p.slots.keys().any(|target| target.region.as_str() == "west");
    assert!(!remembers(&s, &known) && !west(&known) && west(&after.0));
    assert_eq!(tick(&s, read), after);
    assert!(remembers(&s, &after.0));
}

#[test]
fn a_new_az_is_filled_through_its_own_step_and_returns_alone() {
    let mut s = Scenario::running();
    let facts = s.log.len();
    let mut organisation = organisation_json();
    organisation["regions"][0]["azs"] = json!(["a", "b", "c"]);
    s.apply_organisation(&organisation);
    s.tick();
    assert_eq!(s.phase("frontend", "wave-1/az-3"), "baking");
    assert_eq!(forward(&s, facts), ["frontend/production/north/c/main", "frontend/gamma/north/c/main"]);
    s.fires("production/north", "Frontend_High_Fault_Rate");
    assert_eq!(s.runs("frontend", "frontend/production/north/c/main"), None, "it ran nothing before");
    assert_eq!(
        s.runs("frontend", "frontend/production/north/a/main"),
        Some(R1),
        "its wave was finished long ago"
    );
}

#[test]
fn a_new_region_with_more_azs_than_its_wave_goes_az_by_az_and_holds_nobody_up() {
    let mut s = Scenario::running();
    s.release("frontend");
    s.reach("frontend", "wave-2/az-1", R2);
    let facts = s.log.len();
    let mut organisation = organisation_json();
    let west = json!({"name": "west", "azs": ["a", "b", "c", "d"], "traffic": 5});
    organisation["regions"].as_array_mut().unwrap().push(west);
    s.apply_organisation(&organisation);
    let mut edited = pipeline_json("frontend", "frontend");
    edited["stages"][1]["waves"] = json!([{"regions": ["north"]}, {"regions": ["east", "west"]}]);
    s.apply(&edited);
    s.quiet_everywhere();
    for _ in 0..120 {
        s.watch(Span::minutes(30));
    }
    assert_eq!(s.pipeline("frontend").everywhere(), Some(R2));
    let to_r2 = s.log[facts..].iter().filter_map(|(_, fact)| match fact {
        Fact::Pipeline(PipelineFact::SlotForward { target, release: R2, .. }) => Some(target.to_string()),
        _ => None,
    });
    let west: Vec<String> = to_r2.filter(|t| t.contains("west")).collect();
    let name = |t: &str| format!("frontend/production/west/{t}");
    let in_order = ["a/one-box", "a/main", "b/main", "c/main", "d/main"].map(name);
    assert_eq!(west, in_order, "each once, in its own order");
    assert!(s.pipeline("frontend").steps.values().all(|step| step.candidate.is_none()));
}

/// The targets that were moved forward since then.
fn forward(s: &Scenario, since: usize) -> Vec<String> {
    let moved = s.log[since..].iter().filter_map(|(_, fact)| match fact {
        Fact::Pipeline(PipelineFact::SlotForward { target, .. }) => Some(target.to_string()),
        _ => None,
    });
    moved.collect()
}

/// Without the Region east, and so without the second wave.
fn without_east() -> serde_json::Value {
    let mut edited = pipeline_json("frontend", "frontend");
    edited["stages"][1]["regions"] = json!(["north"]);
    edited
}

#[test]
fn a_removed_target_finishes_what_it_does_and_is_left_alone() {
    let mut s = Scenario::running();
    s.release("frontend");
    s.stop_engines("production/east");
    s.reach("frontend", "wave-2/one-box", R2);
    s.apply(&without_east());
    let one_box = || "frontend/production/east/a/one-box".parse().unwrap();
    let slot = s.pipeline("frontend").slots[&one_box()].clone();
    assert!(slot.detached && matches!(slot.motion, Motion::Forward { release: R2, .. }));
    s.start_all();
    let slot = s.pipeline("frontend").slots[&one_box()].clone();
    assert_eq!((slot.motion.clone(), slot.history.last()), (Motion::Settled, Some(&R2)));
    assert_eq!(s.lease("frontend", "production/east"), Lease::Free);
    // What comes later is not its business, neither forward nor back.
    s.release("frontend");
    s.reach("frontend", "wave-1/az-1", R3);
    s.rollback("frontend", R2);
    assert_eq!(s.runs("frontend", "frontend/production/east/a/one-box"), Some(R2));
    assert_eq!(s.runs("frontend", "frontend/production/east/a/main"), Some(R1));
}

#[test]
fn a_removed_target_whose_boxes_do_not_become_healthy_returns() {
    let mut s = Scenario::running();
    s.release("frontend");
    s.stop_engines("production/east");
    s.reach("frontend", "wave-2/one-box", R2);
    s.apply(&without_east());
    s.wait(Span::minutes(11));
    s.start_all();
    assert_eq!(s.runs("frontend", "frontend/production/east/a/one-box"), Some(R1));
    assert_eq!(s.lease("frontend", "production/east"), Lease::Free);
}

#[test]
fn a_removed_target_that_comes_back_does_not_keep_what_was_rejected_meanwhile() {
    let mut s = Scenario::running();
    s.release("frontend");
    s.reach("frontend", "wave-2/one-box", R2);
    s.apply(&without_east());
    s.rollback("frontend", R2);
    let target = "frontend/production/east/a/one-box";
    assert_eq!(s.runs("frontend", target), Some(R2), "it is left alone");
    s.apply(&pipeline_json("frontend", "frontend"));
    s.work();
    assert_eq!(s.runs("frontend", target), Some(R1));
    assert_eq!(s.lease("frontend", "production/east"), Lease::Free);
}

#[test]
fn tests_of_a_step_that_is_removed_convict_nobody() {
    let mut s = Scenario::empty();
    let mut tested = pipeline_json("frontend", "frontend");
    tested["stages"][0]["tests"] = json!([{"name": "smoke", "run": ["bin/smoke"]}]);
    s.apply(&tested);
    s.stop_tests();
    s.release("frontend");
    assert_eq!(s.phase("frontend", "gamma/one-box"), "testing");
    let mut edited = tested.clone();
    edited["stages"].as_array_mut().unwrap().remove(0);
    s.apply(&edited);
    let tests = s.cancelled.iter().filter(|id| id.0.contains("/test/")).count();
    assert_eq!(tests, 1, "nobody awaits their result");
    s.wait(Span::hours(10));
    assert_eq!(s.pipeline("frontend").releases[&R1].standing, Standing::Good);
}

#[test]
fn an_older_edit_is_no_new_one_and_a_service_cannot_be_exchanged() {
    let mut s = Scenario::running();
    let facts = s.log.len();
    s.apply(&pipeline_json("frontend", "frontend"));
    assert_eq!(s.log.len(), facts, "applying the same again records nothing");
    let definition = serde_json::from_value(pipeline_json("frontend", "backend")).unwrap();
    let illegal = s.pipeline_event("frontend", PipelineEvent::Applied { definition: Box::new(definition) });
    assert!(
        illegal
            .unwrap_err()
            .message
            .starts_with("pipeline 'frontend' cannot be moved from service 'frontend'")
    );
}

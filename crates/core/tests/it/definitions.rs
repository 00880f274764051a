//! Definitions that change under what runs (X8, C2).

use crate::scenario::{R1, R2, Scenario, organisation_json, pipeline_json};
use serde_json::json;
use tidegate_core::pipeline::PipelineEvent;
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

#[test]
fn an_older_edit_is_no_new_one_and_a_service_cannot_be_exchanged() {
    let mut s = Scenario::running();
    let facts = s.log.len();
    s.apply(&pipeline_json("frontend", "frontend"));
    assert_eq!(s.log.len(), facts, "applying the same again records nothing");
    let definition = serde_json::from_value(pipeline_json("frontend", "backend")).unwrap();
    let illegal = s.pipeline_event("frontend", PipelineEvent::Applied { definition: Box::new(definition) });
    assert!(illegal.unwrap_err().message.starts_with("a pipeline cannot be moved to another service"));
}

//! Pipelines that are deleted (design, "Definitions that change"), and their return.

use crate::scenario::{R1, R2, Scenario, pipeline_json, user};
use tidegate_core::decision::{AggregateId, Fact};
use tidegate_core::ids::PipelineId;
use tidegate_core::lease::Lease;
use tidegate_core::pipeline::{Build, Life, Motion, PipelineEvent, PipelineFact, Work};
use tidegate_core::team::TeamFact;
use tidegate_core::units::Span;

const ONE_BOX: &str = "frontend/gamma/north/a/one-box";

impl Scenario {
    fn retire(&mut self, pipeline: &str) {
        let event = PipelineEvent::RetireOrdered { by: user("alice"), reason: "merged into one".to_owned() };
        self.pipeline_event(pipeline, event).unwrap();
    }

    fn motion(&self, target: &str) -> Motion {
        self.pipeline("frontend").slots[&target.parse().unwrap()].motion.clone()
    }
}

#[test]
fn nothing_more_is_begun_boxes_stay_and_leases_are_given_back() {
    let mut s = Scenario::running();
    s.apply(&pipeline_json("settings", "frontend"));
    s.stop_engines("#frontend");
    s.release("frontend");
    s.release("settings");
    assert!(matches!(s.motion(ONE_BOX), Motion::Forward { .. }));
    assert_eq!(s.phase("settings", "gamma/one-box"), "free", "it waits for the lease");
    s.hold("frontend", "bob", "freeze", None);
    s.retire("frontend");
    s.work();
    let p = s.pipeline("frontend");
    assert!(matches!(&p.life, Life::Retired(r) if r.reason == "merged into one"), "{:?}", p.life);
    assert_eq!(s.phase("settings", "gamma/one-box"), "baking", "the lease is free");
    assert_eq!(s.runs("frontend", ONE_BOX), Some(R1), "boxes stay");
    assert!(!s.team().pipelines.contains(&PipelineId::new("frontend").unwrap()));
    // Commits, alarms and time change nothing.
    let before = s.pipeline("frontend");
    s.release("frontend");
    s.fires("gamma/north", "Frontend_High_Fault_Rate");
    s.watch(Span::hours(50));
    assert_eq!(s.pipeline("frontend"), before);
    let text = s.pipeline_event(
        "frontend",
        PipelineEvent::Retried { release: R1, by: user("bob"), reason: "again".to_owned() },
    );
    let text = text.unwrap_err().message;
    assert!(text.starts_with("frontend was retired by alice at "), "{text}");
    assert!(text.ends_with("merged into one; applying its definition revives it"), "{text}");
}

#[test]
fn a_build_is_cancelled_and_its_late_result_is_dropped() {
    let mut s = Scenario::running();
    s.stop_builds();
    s.release("frontend");
    let effect = s.build_effect("frontend", R2);
    s.retire("frontend");
    assert!(s.cancelled.contains(&effect), "{:?}", s.cancelled);
    s.start_all();
    assert!(matches!(s.pipeline("frontend").releases[&R2].build, Build::Failed { .. }));
    assert_eq!(s.count(|f| matches!(f, PipelineFact::Built { release: R2, .. })), 0);
}

#[test]
fn a_rollback_that_is_under_way_finishes_and_then_the_pipeline_is_retired() {
    let mut s = Scenario::running();
    s.release("frontend");
    s.stop_engines("gamma");
    s.rollback("frontend", R2);
    s.retire("frontend");
    assert!(matches!(s.pipeline("frontend").life, Life::Retiring(_)));
    assert!(matches!(s.motion(ONE_BOX), Motion::Back { .. }));
    s.wait(Span::minutes(11));
    assert_eq!(s.paged("makes no progress"), 1, "it is not given up");
    s.start_all();
    assert_eq!(s.runs("frontend", ONE_BOX), Some(R1));
    assert!(matches!(s.pipeline("frontend").life, Life::Retired(_)));
    assert_eq!(s.phase("frontend", "gamma/one-box"), "rolled back");
    assert_eq!(s.lease("frontend", "gamma/north"), Lease::Free);
}

#[test]
fn applying_its_definition_revives_it_and_takes_back_what_was_left_half_way() {
    let mut s = Scenario::running();
    // Half of the boxes of an AZ run the new release when the pipeline is deleted.
    let target = "frontend/gamma/north/a/main";
    let mut many = pipeline_json("frontend", "frontend");
    many["rolling"] = serde_json::json!({"healthy_for": "30s"});
    s.apply(&many);
    s.release("frontend");
    s.now = s.now + Span::minutes(1);
    s.work();
    s.pass_one_box();
    assert!(matches!(s.motion(target), Motion::Forward { asked: 1.., .. }), "{:?}", s.motion(target));
    s.retire("frontend");
    s.work();
    assert!(matches!(s.motion(target), Motion::Abandoned { release: R2, .. }));
    assert_eq!(s.runs("frontend", target), None, "boxes of two releases");
    s.apply(&many);
    assert!(s.pipeline("frontend").life.is_active());
    assert_eq!(s.count(|f| matches!(f, PipelineFact::Revived { .. })), 1);
    assert!(s.team().pipelines.contains(&PipelineId::new("frontend").unwrap()));
    let team = AggregateId::Team("shop".parse().unwrap());
    let changes = s.log.iter().filter(|(id, f)| {
        *id == team
            && matches!(f, Fact::Team(TeamFact::PipelineRemoved { .. } | TeamFact::PipelineAdded { .. }))
    });
    assert_eq!(changes.count(), 3);
    // It was taken back, and comes again.
    let returned = |f: &PipelineFact| matches!(f, PipelineFact::SlotSettled { target: t, release: Some(R1) } if t.to_string() == target);
    assert_eq!(s.count(returned), 2, "once when it came, and once now");
    assert_eq!(s.phase("frontend", "gamma/az-1"), "deploying");
    s.apply(&pipeline_json("frontend", "frontend"));
    s.finish("frontend", R2);
    assert_eq!(s.runs("frontend", target), Some(R2));
}

#[test]
fn what_was_being_tested_or_baked_comes_again_after_the_return() {
    let mut s = Scenario::running();
    s.release("frontend");
    s.reach("frontend", "wave-1/az-1", R2);
    s.retire("frontend");
    assert!(s.pipeline("frontend").steps.values().all(|step| step.work.under_way().is_none()));
    s.apply(&pipeline_json("frontend", "frontend"));
    assert!(matches!(s.step("frontend", "wave-1/az-1").work, Work::Deploying { .. } | Work::Baking { .. }));
    s.finish("frontend", R2);
}

//! A pipeline that only observes: it decides everything and moves nothing, and a change of modes deploys nothing.

use crate::scenario::{R1, R2, R3, Scenario, pipeline_json};
use serde_json::{Value, json};
use tidegate_core::decision::Fact;
use tidegate_core::ids::ReleaseNo;
use tidegate_core::pipeline::{Adoption, PipelineEvent, PipelineFact, Standing};

const FAULTS: &str = "Frontend_High_Fault_Rate";

fn definition(mode: &str) -> Value {
    let mut definition = pipeline_json("frontend", "frontend");
    definition["mode"] = json!(mode);
    definition
}

/// Nothing may be asked of engines, and nobody is paged for it: an alarm of the team is as real as before.
fn nothing_moved(s: &Scenario) {
    assert_eq!(s.undone.iter().collect::<Vec<_>>(), Vec::<&_>::new());
    assert_eq!(s.pages.iter().find(|page| page.key.starts_with("frontend/")), None);
    assert!(s.fleet.is_empty(), "no engine was told anything");
    let leases = s.log.iter().filter(|(_, fact)| matches!(fact, Fact::Lease(_)));
    assert_eq!(leases.count(), 0, "no lease is held against others");
}

/// What a target would run.
fn would_run(s: &Scenario, target: &str) -> Option<ReleaseNo> {
    s.pipeline("frontend").slots[&target.parse().unwrap()].current()
}

fn observing() -> Scenario {
    let mut s = Scenario::empty();
    s.apply(&definition("observe-only"));
    s
}

#[test]
fn a_release_goes_its_whole_way_in_pretence() {
    let mut s = observing();
    assert_eq!(s.release("frontend"), R1);
    s.finish("frontend", R1);
    nothing_moved(&s);
    let pipeline = s.pipeline("frontend");
    assert!(pipeline.observes());
    assert!(pipeline.real_slots().values().all(|slot| slot.history.is_empty()));
    let moves =
        |fact: &PipelineFact| matches!(fact, PipelineFact::Entered { .. } | PipelineFact::SlotSettled { .. });
    let told = s.log.iter().filter_map(|(_, fact)| match fact {
        Fact::Pipeline(fact) if moves(fact.plain()) => Some(matches!(fact, PipelineFact::Pretended { .. })),
        _ => None,
    });
    let told: Vec<bool> = told.collect();
    assert!(!told.is_empty() && told.iter().all(|pretended| *pretended), "the log cannot be misread");
}

#[test]
fn an_alarm_takes_back_in_pretence_what_was_deployed_in_pretence() {
    let mut s = observing();
    s.release("frontend");
    s.finish("frontend", R1);
    s.release("frontend");
    s.reach("frontend", "wave-2/az-1", R2);
    s.fires("production/east", FAULTS);
    for _ in 0..5 {
        s.wait(tidegate_core::units::Span::seconds(2));
    }
    assert_eq!(s.phase("frontend", "wave-2/az-1"), "rolled back");
    assert_eq!(would_run(&s, "frontend/production/east/a/main"), Some(R1));
    assert!(matches!(s.pipeline("frontend").releases[&R2].standing, Standing::Rejected { .. }));
    nothing_moved(&s);
}

#[test]
fn acting_begins_with_what_is_really_so_and_deploys_nothing_by_itself() {
    let mut s = observing();
    s.release("frontend");
    s.finish("frontend", R1);
    s.release("frontend");
    s.reach("frontend", "wave-1/az-1", R2);
    s.rollback("frontend", R2);
    s.apply(&definition("act"));
    s.wait(tidegate_core::units::Span::hours(24));
    nothing_moved(&s);
    let pipeline = s.pipeline("frontend");
    assert!(!pipeline.observes());
    assert!(pipeline.slots.values().all(|slot| slot.history.is_empty() && slot.generation == 0));
    assert_eq!(pipeline.releases[&R2].standing, Standing::Good, "it was rejected in pretence");
    assert_eq!(pipeline.taints.len(), 0);

    // The next merge goes, and a person may say that what was observed shall.
    s.retry("frontend", R2);
    assert_eq!(s.runs("frontend", "frontend/gamma/north/a/one-box"), Some(R2));
    assert_eq!(s.release("frontend"), R3);
    s.finish("frontend", R3);
    assert_eq!(s.runs("frontend", "frontend/production/east/a/main"), Some(R3));
}

#[test]
fn what_runs_is_handed_over_while_it_is_observed() {
    let mut s = observing();
    s.release("frontend");
    s.finish("frontend", R1);
    let target = "frontend/gamma/north/a/one-box";
    let running = |pid| tidegate_core::engine::RunningProcess { pid, start_time: 1, port: 1 };
    let pipeline = s.pipeline("frontend");
    let gamma = pipeline.plan.targets().filter(|t| t.id.environment.as_str() == "gamma");
    let gamma: std::collections::BTreeMap<_, _> =
        gamma.map(|t| (t.id.clone(), (1..=t.boxes).map(running).collect())).collect();
    let orders = gamma.len();
    let adoption = Adoption {
        package: tidegate_core::ids::PackageDigest::new("a".repeat(64)).unwrap(),
        from: "/opt/frontend".to_owned(),
        targets: gamma,
        by: crate::scenario::user("alice"),
        reason: "before we switch".to_owned(),
    };
    s.pipeline_event("frontend", PipelineEvent::Adopted { adoption }).unwrap();
    assert_eq!(s.undone.len(), orders, "the engine takes it up");
    s.work();
    assert_eq!(would_run(&s, target), Some(R1), "what would be is as before");
    s.apply(&definition("act"));
    assert_eq!(s.runs("frontend", target), Some(ReleaseNo(0)));
}

#[test]
fn nothing_is_left_half_way_by_a_change_of_modes() {
    let mut s = Scenario::new();
    s.release("frontend");
    let definition_of = |mode: &str| Box::new(serde_json::from_value(definition(mode)).unwrap());
    let event = PipelineEvent::Applied { definition: definition_of("observe-only") };
    let why = s.pipeline_event("frontend", event.clone()).unwrap_err().to_string();
    assert!(why.contains("cannot begin to only observe while gamma/one-box is baking"), "{why}");
    s.finish("frontend", R1);
    let before = s.pipeline("frontend").slots;
    s.pipeline_event("frontend", event).unwrap();
    s.release("frontend");
    s.finish("frontend", R2);
    assert_eq!(*s.pipeline("frontend").real_slots(), *before, "its boxes are as they were");
    s.apply(&definition("act"));
    assert_eq!(s.runs("frontend", "frontend/production/east/a/main"), Some(R1));
    // An edit and its end while it observed.
    s.apply(&definition("observe-only"));
    s.pipeline_event(
        "frontend",
        PipelineEvent::RetireOrdered { by: crate::scenario::user("alice"), reason: "over".into() },
    )
    .unwrap();
    assert!(!s.pipeline("frontend").observes());
    assert_eq!(s.runs("frontend", "frontend/production/east/a/main"), Some(R1));
}

#[test]
fn what_was_thought_of_releases_is_not_changed_by_pretence() {
    let mut s = Scenario::running();
    s.release("frontend");
    s.reach("frontend", "wave-1/az-1", R2);
    s.rollback("frontend", R2);
    let before = s.pipeline("frontend");
    s.apply(&definition("observe-only"));
    s.retry("frontend", R2);
    assert_eq!(s.pipeline("frontend").releases[&R2].standing, Standing::Good, "in pretence");
    s.watch(tidegate_core::units::Span::hours(1));
    s.apply(&definition("act"));
    let after = s.pipeline("frontend");
    assert_eq!((&after.releases[&R2], &after.taints), (&before.releases[&R2], &before.taints));
    s.wait(tidegate_core::units::Span::hours(24));
    assert_eq!(s.runs("frontend", "frontend/production/north/a/main"), Some(R1));
}

#[test]
fn what_is_being_built_when_it_acts_again_does_not_start_by_itself() {
    let mut s = observing();
    s.stop_builds();
    assert_eq!(s.release("frontend"), R1);
    s.apply(&definition("act"));
    s.start_all();
    s.wait(tidegate_core::units::Span::hours(1));
    nothing_moved(&s);
    s.retry("frontend", R1);
    assert_eq!(s.runs("frontend", "frontend/gamma/north/a/one-box"), Some(R1));
}

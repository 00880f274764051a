//! The rules that always hold, as far as they are the core's, and one test for each. `check` runs after every decision of
//! every scenario; rules 2 and 7 are checked where orders are given and facts are folded, rule 10 where decisions are taken.

use crate::scenario::{R1, R2, Scenario, pipeline_json, user};
use tidegate_core::alarm::AlarmName;
use tidegate_core::decision::{Actor, Event};
use tidegate_core::ids::{PipelineId, SlotId};
use tidegate_core::invariants;
use tidegate_core::lease::Lease;
use tidegate_core::organisation::OrganisationEvent;
use tidegate_core::pipeline::{Build, PipelineEvent, PipelineFact, Work};
use tidegate_core::units::Span;

/// After a decision of this pipeline.
pub(crate) fn check(s: &Scenario, decided: &PipelineId) {
    let (ids, leases, team) = (s.pipelines(), s.leases(), s.team());
    let pipelines = || ids.iter().map(|id| (id, s.look(id.as_str())));
    let p = s.look(decided.as_str());
    let due = s.due.get(decided).copied();
    // What is overdue already is decided on by the next tick at once.
    let next = s.now + Span(1);
    let looks = due.is_some_and(|due| due <= next);
    let reasons =
        if p.life.is_active() && !looks { invariants::reasons(decided, p, Some(&team)) } else { Ok(()) };
    let found = [
        invariants::one_az(pipelines(), |id| leases.get(id)),
        invariants::order(decided, p),
        invariants::returned(decided, p),
        invariants::untainted(decided, p),
        invariants::deadlines(decided, p, due, next),
        invariants::retirement(decided, p),
        reasons,
    ];
    if let Some(violation) = found.into_iter().find_map(Result::err) {
        panic!("rule {}: {violation}", violation.rule.number());
    }
}

#[test]
fn rule_1_at_most_one_az_of_a_region_over_all_pipelines_of_a_service() {
    let mut s = Scenario::new();
    s.apply(&pipeline_json("settings", "frontend"));
    s.stop_engines("gamma");
    s.release("frontend");
    s.release("settings");
    assert_eq!(s.phase("frontend", "gamma/one-box"), "deploying");
    assert_eq!(s.phase("settings", "gamma/one-box"), "free");
    assert_eq!(
        s.waits("settings", "gamma/one-box"),
        "frontend/gamma/north is in use: frontend deploys gamma/one-box"
    );
    s.start_all();
    assert_eq!(s.phase("frontend", "gamma/one-box"), "baking");
    assert_eq!(s.phase("settings", "gamma/one-box"), "baking", "baking holds no lease");
    assert_eq!(s.lease("frontend", "gamma/north"), Lease::Free);
    s.finish("frontend", R1);
    s.finish("settings", R1);
}

#[test]
fn rule_1_a_deployment_that_a_rollback_interrupted_goes_on_before_another_begins() {
    let mut s = Scenario::running();
    s.apply(&pipeline_json("settings", "frontend"));
    s.release("settings");
    s.finish("settings", R1);
    s.release("settings");
    assert_eq!(s.phase("settings", "gamma/one-box"), "baking");
    // The release of `frontend` stands half way when `settings` is taken back in the same Region. `assets` is woken first
    // when that has ended, and would take the lease if it were free.
    s.apply(&pipeline_json("assets", "frontend"));
    s.stop_engines("#frontend");
    s.release("frontend");
    s.release("assets");
    assert_eq!(s.phase("frontend", "gamma/one-box"), "deploying");
    s.rollback("settings", R2);
    assert_eq!(s.phase("settings", "gamma/one-box"), "rolled back");
    let lease = s.lease("frontend", "gamma/north");
    assert!(lease.is_deploying(&PipelineId::new("frontend").unwrap()), "{lease:?}");
    assert_eq!(s.phase("assets", "gamma/one-box"), "free");
    s.start_all();
    assert_eq!(s.phase("assets", "gamma/one-box"), "baking");
    s.finish("frontend", R2);
    s.finish("assets", R1);
}

#[test]
fn rule_1_a_deployment_waits_for_a_long_rollback_without_guilt_and_with_time_left() {
    let mut s = Scenario::running();
    s.apply(&pipeline_json("settings", "frontend"));
    s.release("settings");
    s.finish("settings", R1);
    s.release("settings");
    s.stop_engines("#frontend");
    s.release("frontend");
    s.stop_engines("#settings");
    s.rollback("settings", R2);
    let frontend = PipelineId::new("frontend").unwrap();
    assert!(s.lease("frontend", "gamma/north").is_interrupted(&frontend));
    // Far beyond the time that a box may take.
    for _ in 0..60 {
        s.wait(Span::minutes(1));
        let left = s.deadlines("frontend").into_iter().min().unwrap().since(s.now);
        assert!(left >= Span::minutes(4), "{left}");
    }
    s.start_all();
    assert_eq!(s.phase("settings", "gamma/one-box"), "rolled back");
    s.finish("frontend", R2);
}

#[test]
fn rule_2_the_minimum_holds_forward_and_back_and_no_second_az_is_touched_below_it() {
    let mut s = Scenario::running();
    let target = "frontend/production/east/b/main";
    let slot = SlotId { target: target.parse().unwrap(), pipeline: "frontend".parse().unwrap() };
    let observation = s.fleet.break_boxes(&slot, 2);
    // A settled slot's capacity is told as well.
    s.pipeline_event("frontend", PipelineEvent::SlotsObserved { observations: vec![observation] }).unwrap();
    s.release("frontend");
    s.pass("frontend", "wave-1/az-2", R2);
    assert_eq!(s.phase("frontend", "wave-2/one-box"), "done");
    assert_eq!(s.waits("frontend", "wave-2/one-box"), format!("{target} has 1 healthy boxes and needs 2"));
}

#[test]
fn rule_3_no_step_is_skipped() {
    let mut s = Scenario::running();
    let plan: Vec<_> = s.pipeline("frontend").plan.steps().map(|(_, step)| step.id.clone()).collect();
    let entered: Vec<_> = s
        .log
        .iter()
        .filter_map(|(_, fact)| match fact {
            tidegate_core::decision::Fact::Pipeline(PipelineFact::Entered { step, .. }) => Some(step.clone()),
            _ => None,
        })
        .collect();
    assert_eq!(entered, plan);
    s.release("frontend");
    s.watch(Span::minutes(59));
    assert_eq!(s.phase("frontend", "gamma/one-box"), "baking");
    assert_eq!(s.step("frontend", "gamma/az-1").candidate, None);
}

#[test]
fn rule_4_nothing_unreviewed_is_built() {
    let mut s = Scenario::new();
    let commit = s.draft("frontend");
    s.push("frontend", commit);
    s.wait(Span::hours(100));
    assert!(s.pipeline("frontend").releases.is_empty());
    assert!(s.undone.is_empty());
}

#[test]
fn rule_5_rollback_passes_every_gate() {
    let mut s = Scenario::running();
    s.apply(&pipeline_json("settings", "frontend"));
    s.release("frontend");
    s.reach("frontend", "wave-2/one-box", R2);
    // Somebody else deploys in the Region, everything is held, and an alarm of the organisation is raised.
    s.hold("frontend", "bob", "freeze", None);
    let (name, by) = (AlarmName::new("Large_Scale_Event").unwrap(), user("bob"));
    let raised = OrganisationEvent::AlarmRaised { name, reason: "cables".to_owned(), by };
    s.send(Event::Organisation(raised)).unwrap();
    s.fires("gamma/north", "Backend_High_Fault_Rate");
    s.fires("production/east", "Frontend_High_Fault_Rate");
    for target in ["north/a/one-box", "north/a/main", "north/b/main", "east/a/one-box"] {
        let kept = target.starts_with("north");
        let runs = s.runs("frontend", &format!("frontend/production/{target}"));
        assert_eq!(runs, Some(if kept { R2 } else { R1 }), "{target}: a finished wave keeps it");
    }
    assert_eq!(s.phase("frontend", "wave-2/one-box"), "rolled back");
}

#[test]
fn rule_5_rollback_seizes_the_lease_from_whoever_deploys() {
    let mut s = Scenario::running();
    s.apply(&pipeline_json("settings", "frontend"));
    s.release("frontend");
    assert_eq!(s.phase("frontend", "gamma/one-box"), "baking");
    s.stop_engines("#settings");
    s.release("settings");
    let lease = s.lease("frontend", "gamma/north");
    assert!(lease.is_deploying(&"settings".parse().unwrap()), "{lease:?}");
    s.stop_engines("#frontend");
    s.rollback("frontend", R2);
    let lease = s.lease("frontend", "gamma/north");
    assert!(lease.is_rolling_back(&"frontend".parse().unwrap()), "{lease:?}");
    s.start_all();
    assert_eq!(s.runs("frontend", "frontend/gamma/north/a/one-box"), Some(R1));
    assert_eq!(s.phase("settings", "gamma/one-box"), "baking", "and then it goes on");
}

#[test]
fn rule_6_a_rejected_release_does_not_re_enter() {
    let mut s = Scenario::running();
    s.release("frontend");
    s.fires("gamma/north", "Frontend_High_Fault_Rate");
    s.ok("gamma/north", "Frontend_High_Fault_Rate");
    let entered = s.count(|f| matches!(f, PipelineFact::Entered { .. }));
    for _ in 0..100 {
        s.watch(Span::hours(1));
    }
    assert_eq!(s.count(|f| matches!(f, PipelineFact::Entered { .. })), entered);
}

#[test]
fn rule_7_a_start_needs_quiet_alarms_and_no_alarm_of_the_organisation() {
    let mut s = Scenario::new();
    let (name, by) = (AlarmName::new("Large_Scale_Event").unwrap(), user("bob"));
    let raised =
        OrganisationEvent::AlarmRaised { name: name.clone(), reason: "cables".to_owned(), by: by.clone() };
    s.send(Event::Organisation(raised)).unwrap();
    s.fires("gamma/north", "Backend_High_Fault_Rate");
    s.release("frontend");
    assert_eq!(
        s.waits("frontend", "gamma/one-box"),
        "the team's aggregate alarm fires in gamma/north (Backend_High_Fault_Rate); \
         the organisation's alarm Large_Scale_Event is raised by bob: cables"
    );
    s.ok("gamma/north", "Backend_High_Fault_Rate");
    assert_eq!(s.phase("frontend", "gamma/one-box"), "free");
    s.send(Event::Organisation(OrganisationEvent::AlarmCleared { name, by })).unwrap();
    assert_eq!(s.phase("frontend", "gamma/one-box"), "deploying");
}

#[test]
fn rule_8_what_times_out_is_decided_and_what_follows_is_awaited_too() {
    let mut s = Scenario::new();
    let mut with_tests = pipeline_json("frontend", "frontend");
    with_tests["stages"][0]["tests"] = serde_json::json!([{"name": "smoke", "run": ["bin/smoke"]}]);
    s.apply(&with_tests);
    s.release("frontend");
    s.finish("frontend", R1);
    s.stop_tests();
    s.release("frontend");
    assert_eq!(s.phase("frontend", "gamma/one-box"), "testing");
    s.stop_engines("gamma");
    let due = s.due[&PipelineId::new("frontend").unwrap()];
    s.wait(due.since(s.now));
    assert!(matches!(s.step("frontend", "gamma/one-box").work, Work::RollingBack { .. }));
    let before = s.pages.len();
    let due = s.due[&PipelineId::new("frontend").unwrap()];
    s.wait(due.since(s.now));
    assert_eq!(s.pages.len(), before + 1, "a rollback that makes no progress pages, and goes on");
    assert_eq!(s.paged("makes no progress"), 1);
    s.start_all();
    assert_eq!(s.phase("frontend", "gamma/one-box"), "rolled back");
}

#[test]
fn rule_10_an_illegal_event_changes_nothing() {
    let mut s = Scenario::running();
    let (before, facts) = (s.states.clone(), s.log.len());
    let by: Actor = user("alice");
    assert!(s.pipeline_event("frontend", PipelineEvent::HoldLifted { hold: 9, by: by.clone() }).is_err());
    let event = PipelineEvent::Retried { release: R1, by, reason: "why not".to_owned() };
    assert!(s.pipeline_event("frontend", event).is_err());
    assert!(s.pipeline_event("nobody", PipelineEvent::Tick).is_err());
    assert_eq!((s.states, s.log.len()), (before, facts));
}

#[test]
fn a_build_that_fails_or_times_out_is_tried_again_by_a_person() {
    let mut s = Scenario::new();
    s.stop_builds();
    s.release("frontend");
    let late = s.build_effect("frontend", R1);
    s.wait(Span::minutes(41));
    assert!(matches!(s.pipeline("frontend").releases[&R1].build, Build::Failed { .. }));
    assert_eq!(s.paged("r1 cannot be built"), 1);
    let result = Err("cc: no space left".to_owned());
    s.pipeline_event("frontend", PipelineEvent::BuildEnded { effect: late.clone(), result: result.clone() })
        .unwrap();
    s.undone.clear();
    s.retry("frontend", R1);
    let effect = s.build_effect("frontend", R1);
    assert_ne!(effect, late);
    s.pipeline_event("frontend", PipelineEvent::BuildEnded { effect, result }).unwrap();
    s.undone.clear();
    s.retry("frontend", R1);
    s.start_all();
    assert_eq!(s.phase("frontend", "gamma/one-box"), "baking");
}

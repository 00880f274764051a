//! A service that ran before tidegate: what is there becomes release 0, moves nothing, and is what the first release returns to.

use crate::scenario::{R1, Scenario, user};
use std::collections::BTreeMap;
use tidegate_core::decision::{Effect, ForwardEffect};
use tidegate_core::engine::RunningProcess;
use tidegate_core::ids::{PackageDigest, ReleaseNo, TargetId};
use tidegate_core::pipeline::{ADOPTED, Adoption, PipelineEvent, Standing};

const MAIN: &str = "frontend/production/north/a/main";

fn adoption(targets: &[(&str, u32)]) -> Adoption {
    let running = |pid| RunningProcess { pid, start_time: 7, port: 8_000 };
    let targets = targets.iter().map(|(target, boxes)| {
        let target: TargetId = target.parse().unwrap();
        (target, (1..=*boxes).map(running).collect())
    });
    Adoption {
        package: PackageDigest::new("a".repeat(64)).unwrap(),
        from: "/opt/frontend".to_owned(),
        targets: targets.collect::<BTreeMap<_, _>>(),
        by: user("alice"),
        reason: "it ran for years".to_owned(),
    }
}

fn adopt(s: &mut Scenario, adoption: Adoption) -> Result<(), String> {
    let told = s.pipeline_event("frontend", PipelineEvent::Adopted { adoption });
    told.map_err(|illegal| illegal.to_string())
}

/// Every target of the scenario's pipeline with as many boxes as it should have.
fn everything(s: &Scenario) -> Vec<(String, u32)> {
    s.pipeline("frontend").plan.targets().map(|t| (t.id.to_string(), t.boxes)).collect()
}

/// The same of one environment.
fn whole(s: &Scenario, environment: &str) -> Vec<(String, u32)> {
    let of = format!("frontend/{environment}/");
    everything(s).into_iter().filter(|(target, _)| target.starts_with(&of)).collect()
}

fn named(targets: &[(String, u32)]) -> Vec<(&str, u32)> {
    targets.iter().map(|(target, boxes)| (target.as_str(), *boxes)).collect()
}

#[test]
fn what_runs_is_release_0_and_engines_only_take_it_up() {
    let mut s = Scenario::new();
    let all = everything(&s);
    adopt(&mut s, adoption(&named(&all))).unwrap();
    assert_eq!(s.undone.len(), all.len(), "an order for each target");
    for new in &s.undone {
        let Effect::Forward(ForwardEffect::Deploy(order)) = &new.effect else { panic!("{new:?}") };
        let boxes: u32 = order.desired.split.iter().map(|share| share.boxes).sum();
        assert_eq!(order.takes_up.as_ref().map(Vec::len), Some(boxes as usize), "{}", order.slot);
    }
    s.work();
    let pipeline = s.pipeline("frontend");
    assert!(pipeline.slots.values().all(|slot| slot.current() == Some(ADOPTED)));
    assert!(pipeline.steps.values().all(|step| step.done == Some(ADOPTED)));
    assert_eq!(pipeline.releases[&ADOPTED].origin.as_ref().unwrap().from, "/opt/frontend");

    // From then on it is a pipeline as any other.
    assert_eq!(s.release("frontend"), R1);
    s.reach("frontend", "wave-2/az-1", R1);
    s.rollback("frontend", R1);
    assert!(matches!(s.pipeline("frontend").releases[&R1].standing, Standing::Rejected { .. }));
    for (target, _) in &all {
        // What has finished its wave with it keeps it.
        let kept = !target.contains("/production/east/");
        assert_eq!(s.runs("frontend", target), Some(if kept { R1 } else { ADOPTED }), "{target}");
    }
}

#[test]
fn an_environment_that_is_not_handed_over_is_filled_by_the_first_release() {
    let mut s = Scenario::new();
    let production = whole(&s, "production");
    adopt(&mut s, adoption(&named(&production))).unwrap();
    s.work();
    assert_eq!(s.runs("frontend", MAIN), Some(ADOPTED));
    assert_eq!(s.step("frontend", "wave-1/az-1").done, Some(ADOPTED));
    assert_eq!(s.step("frontend", "gamma/one-box").done, None);
    // Nobody has reviewed it, and nobody wants it elsewhere: it does not go on by itself.
    s.wait(tidegate_core::units::Span::hours(24));
    let moved = s.pipeline("frontend").slots.iter().filter(|(_, slot)| slot.generation > 0).count();
    assert_eq!(moved, production.len());
    s.release("frontend");
    s.finish("frontend", R1);
    assert_eq!(s.runs("frontend", "frontend/gamma/north/a/one-box"), Some(R1));
    assert_eq!(s.runs("frontend", MAIN), Some(R1));
}

#[test]
fn what_cannot_be_adopted_is_refused_with_the_reason() {
    let check = |s: &mut Scenario, targets: &[(&str, u32)], expected: &str| {
        let before = s.pipeline("frontend");
        let why = adopt(s, adoption(targets)).unwrap_err();
        assert!(why.contains(expected), "{why}");
        assert_eq!(s.pipeline("frontend"), before, "nothing has changed");
    };
    let mut s = Scenario::new();
    let production = whole(&s, "production");
    let with = |boxes: u32| {
        let all = named(&production).into_iter();
        all.map(|(target, its)| (target, if target == MAIN { boxes } else { its })).collect::<Vec<_>>()
    };
    check(&mut s, &[], "no target is named");
    check(&mut s, &with(2), "has 3 boxes by its definition, and 2 are handed over");
    check(&mut s, &[("frontend/production/north/z/main", 3)], "has no target");
    check(
        &mut s,
        &[(MAIN, 3)],
        "an environment is handed over as a whole or not at all, and nothing is named for \
         frontend/production/north/a/one-box, frontend/production/north/b/main",
    );
    adopt(&mut s, adoption(&named(&production))).unwrap();
    check(&mut s, &with(3), "was adopted already, by alice from /opt/frontend");
    let mut s = Scenario::new();
    s.release("frontend");
    check(&mut s, &with(3), "has deployed to");
}

#[test]
fn nobody_takes_release_0_back() {
    let mut s = Scenario::new();
    let production = whole(&s, "production");
    adopt(&mut s, adoption(&named(&production))).unwrap();
    s.work();
    let order = PipelineEvent::RollbackOrdered {
        release: ReleaseNo(0),
        by: user("alice"),
        reason: "a mistake".to_owned(),
        everywhere: true,
    };
    let why = s.pipeline_event("frontend", order).unwrap_err().to_string();
    assert!(why.contains("there is nothing to return to"), "{why}");
    assert_eq!(s.runs("frontend", MAIN), Some(ADOPTED));
}

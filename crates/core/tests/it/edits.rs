//! Every kind of edit at every moment of a release's way (X8): nothing is redeployed, no rollback target is lost, and what was
//! under way goes on.

use crate::scenario::{R2, R3, Scenario, organisation_json, pipeline_json};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use tidegate_core::decision::Fact;
use tidegate_core::ids::{ReleaseNo, TargetId};
use tidegate_core::pipeline::{Motion, Pipeline, PipelineEvent, PipelineFact, Standing};
use tidegate_core::scope::Scope;
use tidegate_core::units::Span;

/// Far longer than any release of these needs to be everywhere.
const HOURS: usize = 120;

/// What somebody changes: the organisation, the pipeline, or both.
type Edit = fn(&mut Value, &mut Value);

fn waves(pipeline: &mut Value, waves: Value) {
    let production = pipeline["stages"].as_array_mut().unwrap().last_mut().unwrap();
    production["waves"] = waves;
}

const EDITS: [(&str, Edit); 11] = [
    ("a stage is renamed", |_, p| p["stages"][0]["environment"] = json!("delta")),
    ("a stage is removed", |_, p| drop(p["stages"].as_array_mut().unwrap().remove(0))),
    ("a stage is inserted at the beginning", |_, p| {
        p["stages"].as_array_mut().unwrap().insert(0, json!({"environment": "beta", "regions": ["east"]}));
    }),
    ("a stage is inserted between two", |_, p| {
        let zeta = json!({"environment": "zeta", "regions": ["north"], "own": "production"});
        p["stages"].as_array_mut().unwrap().insert(1, zeta);
    }),
    ("stages are exchanged", |_, p| p["stages"].as_array_mut().unwrap().reverse()),
    ("waves are renamed", |_, p| {
        let named = json!([{"name": "small", "regions": ["north"]}, {"name": "large", "regions": ["east"]}]);
        waves(p, named);
    }),
    ("waves are exchanged", |_, p| waves(p, json!([{"regions": ["east"]}, {"regions": ["north"]}]))),
    ("waves are joined", |_, p| waves(p, json!([{"regions": ["north", "east"]}]))),
    ("a Region is removed", |_, p| {
        let production = p["stages"].as_array_mut().unwrap().last_mut().unwrap();
        production["regions"] = json!(["north"]);
    }),
    ("a Region is added", |o, _| {
        let west = json!({"name": "west", "azs": ["a", "b"], "traffic": 5});
        o["regions"].as_array_mut().unwrap().push(west);
    }),
    ("an AZ is added and boxes are doubled", |o, p| {
        o["regions"][0]["azs"] = json!(["a", "b", "c"]);
        p["stages"][1]["boxes_per_az"] = json!(6);
    }),
];

const STEPS: [&str; 10] = [
    "gamma/one-box",
    "gamma/az-1",
    "gamma/az-2",
    "wave-1/one-box",
    "wave-1/az-1",
    "wave-1/az-2",
    "wave-2/one-box",
    "wave-2/az-1",
    "wave-2/az-2",
    "wave-2/az-3",
];

/// Each step being deployed to, and baking.
fn moments() -> impl Iterator<Item = (&'static str, bool)> {
    STEPS.into_iter().flat_map(|step| [(step, true), (step, false)])
}

/// R1 everywhere, R2 in the step, and then the edit; how it was before that, and how long the log.
fn edited(edit: Edit, step: &str, deploying: bool) -> (Scenario, Pipeline, usize) {
    let mut s = Scenario::running();
    if deploying {
        // Whatever comes before the step is where its engines work.
        match STEPS.iter().position(|s| *s == step) {
            Some(0) | None => s.stop_engines("gamma/north/a/one-box"),
            Some(before) => {
                s.release("frontend");
                s.pass("frontend", STEPS[before - 1], R2);
                let target =
                    s.look("frontend").plan.step(&step.to_owned().into()).unwrap().1.targets[0].id.clone();
                s.stop_engines(&target.to_string());
            }
        }
    }
    if s.look("frontend").newest().is_some_and(|(no, _)| no < R2) {
        s.release("frontend");
    }
    s.reach("frontend", step, R2);
    let (before, facts) = (s.pipeline("frontend"), s.log.len());
    let (mut organisation, mut pipeline) = (organisation_json(), pipeline_json("frontend", "frontend"));
    edit(&mut organisation, &mut pipeline);
    s.apply_organisation(&organisation);
    s.apply(&pipeline);
    s.quiet_everywhere();
    (s, before, facts)
}

/// Lets everything go on until the release is everywhere and nothing moves.
fn settles(s: &mut Scenario, what: &str, release: ReleaseNo) {
    let done = |p: &Pipeline| {
        p.everywhere() == Some(release) && p.slots.values().all(|slot| slot.motion == Motion::Settled)
    };
    for _ in 0..HOURS {
        if done(s.look("frontend")) {
            return;
        }
        s.watch(Span::hours(1));
    }
    panic!("{what}: {release} is not everywhere: {:?}", s.look("frontend").steps);
}

/// Which releases were sent to each target since then, in order; forward and back.
fn moves(s: &Scenario, since: usize) -> (BTreeMap<TargetId, Vec<ReleaseNo>>, usize) {
    let (mut forward, mut back) = (BTreeMap::<_, Vec<ReleaseNo>>::new(), 0);
    for (_, fact) in &s.log[since..] {
        match fact {
            Fact::Pipeline(PipelineFact::SlotForward { target, release, .. }) => {
                forward.entry(target.clone()).or_default().push(*release);
            }
            Fact::Pipeline(PipelineFact::SlotBack { .. }) => back += 1,
            _ => {}
        }
    }
    (forward, back)
}

#[test]
fn an_edit_redeploys_nothing_and_what_is_under_way_goes_on() {
    for (name, edit) in EDITS {
        for (step, deploying) in moments() {
            let what = format!("{name} while {step} is {}", if deploying { "deployed to" } else { "baking" });
            let (mut s, before, facts) = edited(edit, step, deploying);
            s.start_all();
            settles(&mut s, &what, R2);
            let (forward, back) = moves(&s, facts);
            assert_eq!(back, 0, "{what}: nothing was wrong, so nothing returns");
            for (target, releases) in forward {
                let had = before.slots.get(&target).and_then(|slot| slot.running().last().copied());
                let once = releases.windows(2).all(|pair| pair[0] < pair[1]);
                assert!(
                    once && releases.first().copied() > had,
                    "{what}: {target} ran {had:?}, got {releases:?}"
                );
            }
            s.release("frontend");
            settles(&mut s, &what, R3);
        }
    }
}

#[test]
fn an_edit_loses_no_rollback_target() {
    for (name, edit) in EDITS {
        for (step, deploying) in moments() {
            let what = format!("{name} while {step} is {}", if deploying { "deployed to" } else { "baking" });
            let (mut s, before, _) = edited(edit, step, deploying);
            s.start_all();
            s.rollback("frontend", R2);
            s.watch(Span::hours(1));
            for target in s.look("frontend").plan.targets() {
                let slot = &s.look("frontend").slots[&target.id];
                assert_eq!(slot.motion, Motion::Settled, "{what}: {}", target.id);
                let had = before.slots.get(&target.id).map_or(&[][..], |slot| &slot.history);
                let expected = had.iter().rfind(|no| **no != R2).copied();
                match slot.finished {
                    // Only a wave that is finished keeps it.
                    Some(R2) => assert_eq!(slot.current(), Some(R2), "{what}: {}", target.id),
                    // What is new may have been brought to what is everywhere.
                    _ if expected.is_none() => assert!(slot.current() < Some(R2), "{what}: {}", target.id),
                    _ => assert_eq!(slot.current(), expected, "{what}: {} had {had:?}", target.id),
                }
            }
            // The way is free for what mends it.
            let mut mend = s.draft("frontend");
            mend.reverts =
                before.releases[&R2].changes.iter().map(|change| change.commit.id.clone()).collect();
            s.push_reviewed("frontend", mend);
            settles(&mut s, &what, R3);
        }
    }
}

#[test]
fn what_was_under_way_is_watched_after_an_edit() {
    for (name, edit) in EDITS {
        for (step, deploying) in moments() {
            let what = format!("{name} while {step} is {}", if deploying { "deployed to" } else { "baking" });
            let (mut s, before, _) = edited(edit, step, deploying);
            let (_, planned) = before.plan.step(&step.to_owned().into()).unwrap();
            let target = planned.targets[0].id.clone();
            let finished = s.look("frontend").slots.get(&target).is_none_or(|slot| slot.finished == Some(R2));
            // What is in no step any more is left alone.
            if finished || s.look("frontend").plan.step_of(&target).is_none() {
                continue;
            }
            s.fires(&Scope::of(&target).to_string(), "Frontend_High_Fault_Rate");
            let standing = &s.look("frontend").releases[&R2].standing;
            assert!(matches!(standing, Standing::Rejected { .. }), "{what}: {standing:?}");
        }
    }
}

#[test]
fn a_stage_that_comes_is_passed_before_what_follows_it() {
    let zeta = EDITS.iter().find(|(name, _)| *name == "a stage is inserted between two").unwrap().1;
    for (step, deploying) in moments().filter(|(step, _)| step.starts_with("wave-1")) {
        let (mut s, _, _) = edited(zeta, step, deploying);
        s.start_all();
        let passed = |s: &Scenario| s.step("frontend", "zeta/az-2").done == Some(R2);
        while !passed(&s) {
            let beyond = s.step("frontend", "wave-2/one-box").work.under_way();
            assert!(beyond.is_none_or(|(release, _)| release < R2), "{step}: {beyond:?}");
            s.watch(Span::minutes(10));
        }
        settles(&mut s, step, R2);
    }
}

#[test]
fn a_release_keeps_its_place_also_when_the_newest_cannot_be_built() {
    let mut s = Scenario::running();
    s.release("frontend");
    s.reach("frontend", "gamma/one-box", R2);
    s.stop_builds();
    s.release("frontend");
    let effect = s.build_effect("frontend", R3);
    let ended = PipelineEvent::BuildEnded { effect, result: Err("it does not compile".to_owned()) };
    s.pipeline_event("frontend", ended).unwrap();
    let mut pipeline = pipeline_json("frontend", "frontend");
    pipeline["stages"][0]["environment"] = json!("delta");
    s.apply(&pipeline);
    s.quiet_everywhere();
    settles(&mut s, "renamed", R2);
}

#[test]
fn what_was_called_back_and_returned_to_passes_its_step_before_it_goes_on() {
    let mut s = Scenario::running();
    let mut pipeline = pipeline_json("frontend", "frontend");
    pipeline["stages"][1]["bake"] = json!({"one_box": "10h"});
    s.apply(&pipeline);
    s.release("frontend");
    s.reach("frontend", "wave-1/one-box", R2);
    s.release("frontend");
    s.pass("frontend", "gamma/az-2", R3);
    // R3 overtakes what the edit calls back, and is rejected after the one-box.
    waves(&mut pipeline, json!([{"name": "small", "regions": ["north"]}, {"regions": ["east"]}]));
    s.apply(&pipeline);
    s.reach("frontend", "small/az-1", R3);
    assert_eq!(s.step("frontend", "small/one-box").before, None, "R2 has not passed it");
    s.rollback("frontend", R3);
    assert_eq!(s.runs("frontend", "frontend/production/north/a/one-box"), Some(R2));
    assert!(s.step("frontend", "small/one-box").done < Some(R2));
    let entered = |s: &Scenario, step: &str| {
        s.step("frontend", step).work.under_way().is_some_and(|(release, _)| release == R2)
    };
    for _ in 0..HOURS {
        if entered(&s, "small/az-1") {
            break;
        }
        s.watch(Span::minutes(15));
    }
    assert!(entered(&s, "small/az-1") && s.step("frontend", "small/one-box").done == Some(R2));
}

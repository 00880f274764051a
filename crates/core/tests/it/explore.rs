//! What the exploration of a definition sees, and what it tells of it (X7). That it is able to see is proven with layouts that
//! the static checks would refuse and with deliberate breaks of the rules.

use crate::scenario::{organisation_json, pipeline_json};
use expect_test::{Expect, expect};
use serde_json::{Value, json};
use tidegate_core::definition::{OrganisationDef, PipelineDef};
use tidegate_core::explore::{self, EVENTS_MAX, Explored, explore};
use tidegate_core::pipeline::{Break, Switches};

fn explored(pipeline: &Value, organisation: &Value, switches: Switches) -> Result<Explored, String> {
    let definition: PipelineDef = serde_json::from_value(pipeline.clone()).unwrap();
    let organisation: OrganisationDef = serde_json::from_value(organisation.clone()).unwrap();
    explore(&definition, &organisation, switches).map_err(|found| {
        let rule = found.violation.rule.number();
        format!("{}\nrule {rule}: {}\n", found.path.join("\n"), found.violation)
    })
}

fn check(pipeline: &Value, switches: Switches, expected: &Expect) {
    expected.assert_eq(&explored(pipeline, &organisation_json(), switches).unwrap_err());
}

fn by_hand(waves: &Value) -> Value {
    let mut all = pipeline_json("frontend", "frontend");
    all["stages"][1]["waves"] = waves.clone();
    all
}

#[test]
fn a_good_definition_is_explored_to_its_end() {
    let explored =
        explored(&pipeline_json("frontend", "frontend"), &organisation_json(), Switches::default()).unwrap();
    assert!(explored.everywhere, "{explored:?}");
    assert!(explored.rejections >= 10, "one in each step: {explored:?}");
    assert!(explored.events < EVENTS_MAX / 10, "{explored:?}");
}

#[test]
fn definitions_of_every_kind_that_may_be_taken_are_explored_to_their_end() {
    let change = |change: &dyn Fn(&mut Value)| {
        let mut one = pipeline_json("frontend", "frontend");
        change(&mut one);
        explored(&one, &organisation_json(), Switches::default())
    };
    let sources = change(&|p| {
        let more = json!({"name": "tests", "url": "https://git.invalid/tests"});
        p["sources"].as_array_mut().unwrap().push(more);
    });
    assert!(sources.as_ref().is_ok_and(|e| e.everywhere), "several sources: {sources:?}");
    let hasty =
        change(&|p| p["stages"][1]["bake"] = json!({"one_box": "0s", "az": "0s", "first_wave": "0s"}));
    assert!(hasty.as_ref().is_ok_and(|e| e.everywhere), "no bakes: {hasty:?}");
    let one = change(&|p| p["stages"][1]["boxes_per_az"] = json!(1));
    assert!(one.as_ref().is_ok_and(|e| e.everywhere), "one box in each AZ: {one:?}");
}

#[test]
fn two_azs_of_a_region_in_one_step_are_found_with_the_way_there() {
    let waves =
        json!([{"regions": ["north"]}, {"regions": ["east"], "steps": [["east/a", "east/b"], ["east/c"]]}]);
    check(
        &by_hand(&waves),
        Switches::default(),
        &expect![[r#"
        r1 is made
        r1 passes gamma/one-box, gamma/az-1, gamma/az-2, wave-1/one-box, wave-1/az-1, wave-1/az-2, wave-2/one-box
        r1 enters wave-2/az-1
        rule 1: frontend/production/east: these are deployed to at once: frontend/production/east/a/main#frontend, frontend/production/east/b/main#frontend
    "#]],
    );
}

#[test]
fn a_production_without_one_boxes_is_found() {
    let mut without = pipeline_json("frontend", "frontend");
    without["stages"][1]["one_box"] = json!(false);
    check(
        &without,
        Switches::default(),
        &expect![[r#"
        r1 is made
        r1 passes gamma/one-box, gamma/az-1, gamma/az-2
        r1 enters wave-1/az-1
        rule 3: frontend/production/north/a/main#frontend: it is brought to r1, which no one-box of its Region runs
    "#]],
    );
}

#[test]
fn a_core_that_breaks_a_rule_is_found_with_the_way_there() {
    let one = pipeline_json("frontend", "frontend");
    check(
        &one,
        Break::NoLease.into(),
        &expect![[r#"
        r1 is made
        r1 enters gamma/one-box
        rule 1: frontend/gamma/north/a/one-box#frontend: it is deployed to, and its lease is Free
    "#]],
    );
    check(
        &one,
        Break::StepNotPassed.into(),
        &expect![[r#"
        r1 is made
        r1 passes gamma/one-box, gamma/az-1
        r1 enters gamma/az-2
        frontend/gamma/north/b/main is brought to 3 new boxes
        it bakes in gamma/az-2
        r1 enters wave-1/one-box
        rule 3: wave-1/one-box of frontend: r1 is here and has not passed gamma/az-2
    "#]],
    );
    check(
        &one,
        Break::NoRollback.into(),
        &expect![[r#"
        r1 is made
        r1 passes gamma/one-box, gamma/az-1, gamma/az-2, wave-1/one-box, wave-1/az-1, wave-1/az-2, wave-2/one-box, wave-2/az-1, wave-2/az-2, wave-2/az-3
        r2 is made
        r2 enters gamma/one-box
        r3 is made
        r2 is rejected (tidegate: what if)
        rule 5: frontend/gamma/north/a/one-box#frontend: it runs r2, which was rejected, and does not move back
    "#]],
    );
    check(
        &one,
        Break::TaintLetIn.into(),
        &expect![[r#"
        r1 is made
        r1 passes gamma/one-box, gamma/az-1, gamma/az-2, wave-1/one-box, wave-1/az-1, wave-1/az-2, wave-2/one-box, wave-2/az-1, wave-2/az-2, wave-2/az-3
        r2 is made
        r2 enters gamma/one-box
        r3 is made
        r2 is rejected (tidegate: what if)
        frontend/gamma/north/a/one-box is returned to r1
        r3 enters gamma/one-box
        rule 6: gamma/one-box of frontend: r3 is on its way and contains changes of r2, which was rejected
    "#]],
    );
    check(
        &one,
        Break::HoldsIgnored.into(),
        &expect![[r#"
        r1 is made
        r1 passes gamma/one-box, gamma/az-1, gamma/az-2, wave-1/one-box, wave-1/az-1, wave-1/az-2, wave-2/one-box, wave-2/az-1, wave-2/az-2, wave-2/az-3
        r2 is made
        everything is held
        r2 passes gamma/one-box
        r2 enters gamma/az-1
        rule 7: gamma/az-1 of frontend: r2 enters although hold 1 stands
    "#]],
    );
    check(
        &one,
        Break::NoDeadlines.into(),
        &expect![[r#"
        r1 is made
        r1 enters gamma/one-box
        frontend/gamma/north/a/one-box is brought to 1 new boxes
        rule 8: frontend: the motion of frontend/gamma/north/a/one-box is awaited until 2025-06-16T05:10:00.000Z, and nobody looks by then
    "#]],
    );
    let mut large = pipeline_json("frontend", "frontend");
    large["stages"][0]["boxes_per_az"] = json!(4);
    check(
        &large,
        Break::HalfBatches.into(),
        &expect![[r#"
        r1 is made
        r1 passes gamma/one-box, gamma/az-1, gamma/az-2, wave-1/one-box, wave-1/az-1, wave-1/az-2, wave-2/one-box, wave-2/az-1, wave-2/az-2, wave-2/az-3
        r2 is made
        r2 passes gamma/one-box
        r2 enters gamma/az-1
        frontend/gamma/north/a/main is brought to 2 new boxes
        rule 2: frontend/gamma/north/a/main#frontend: of 4 healthy boxes 2 are left, and 3 are needed
    "#]],
    );
}

#[test]
fn configuration_data_and_windows_are_explored_too() {
    let mut flags = pipeline_json("flags", "frontend");
    flags["run"] = json!({"engine": {"configuration": {"reload": "/reload"}}});
    let mut data = pipeline_json("frontend", "frontend");
    data["stages"][1]["bake"] = json!({"data": [{"api": "POST /orders", "requests": 1000}, {"requests": 5}]});
    data["rolling"]["healthy_for"] = json!("30s");
    data["stages"][0]["boxes_per_az"] = json!(1);
    let mut hours = organisation_json();
    hours["teams"][0]["windows"] = json!({"weekly": {
        "time_zone": "Europe/Berlin", "open": [{"days": ["tuesday"], "hours": "09:00-16:00"}]
    }});
    for (pipeline, organisation) in
        [(&flags, organisation_json()), (&data, organisation_json()), (&data, hours.clone())]
    {
        let explored = explored(pipeline, &organisation, Switches::default()).unwrap();
        assert!(explored.everywhere, "{explored:?} {pipeline}");
    }
    hours["teams"][0]["windows"]["weekly"]["open"] = json!([]);
    let explored = explored(&data, &hours, Switches::default()).unwrap();
    assert!(!explored.everywhere, "a window that never opens is no violation, and no endless story");
}

#[test]
fn the_article_s_size_is_explored_in_few_events_and_the_finding_says_how_it_comes() {
    let regions: Vec<Value> = (0..24)
        .map(|n| {
            let azs = &["a", "b", "c", "d"][..if n < 4 { 4 } else { 3 }];
            json!({"name": format!("region-{n}"), "azs": azs, "traffic": 10 + n})
        })
        .collect();
    let mut organisation = organisation_json();
    organisation["regions"] = json!(regions);
    let mut pipeline = pipeline_json("frontend", "frontend");
    pipeline["stages"][0]["regions"] = json!(["region-0", "region-1"]);
    let explored = explored(&pipeline, &organisation, Switches::default()).unwrap();
    assert!(explored.everywhere && explored.events < EVENTS_MAX / 2, "{explored:?}");
    pipeline["stages"][1]["one_box"] = json!(false);
    let definition: PipelineDef = serde_json::from_value(pipeline).unwrap();
    let organisation: OrganisationDef = serde_json::from_value(organisation).unwrap();
    let found = explore::findings(&definition, &organisation);
    assert_eq!(found.len(), 1);
    expect!["TG150 at /stages: rule 3 would not hold: 1. r1 is made; 2. r1 passes gamma/one-box, gamma/az-1, gamma/az-2, gamma/az-3, gamma/az-4; 3. r1 enters wave-1/az-1. frontend/production/region-0/a/main#frontend: it is brought to r1, which no one-box of its Region runs (lay the stages out so that this cannot come about)"].assert_eq(&found[0].to_string());
}

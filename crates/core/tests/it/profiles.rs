//! Profiles of services and defaults of teams (K1): what a pipeline does not say itself.

use crate::scenario::{R1, R2, Scenario, organisation_json, pipeline_json};
use expect_test::{Expect, expect};
use serde_json::{Value, json};
use std::fmt::Write as _;
use tidegate_core::definition::{OrganisationDef, PipelineDef, RollbackScope};
use tidegate_core::lint;
use tidegate_core::pipeline::{Motion, Pipeline, Work};
use tidegate_core::plan::plan;
use tidegate_core::units::Span;

fn definition(value: &Value) -> PipelineDef {
    serde_json::from_value(value.clone()).unwrap()
}

fn organisation(value: &Value) -> OrganisationDef {
    serde_json::from_value(value.clone()).unwrap()
}

/// 24 Regions of one AZ each.
fn large() -> Value {
    let mut all = organisation_json();
    let region = |n: u32| json!({"name": format!("r{n:02}"), "azs": ["a"], "traffic": n});
    all["regions"] = (1..=24).map(region).collect();
    all
}

/// The waves of production with their bakes, and what holds for all stages.
fn check(pipeline: &Value, in_it: &Value, expected: Expect) {
    let plan = plan(&definition(pipeline), &organisation(in_it));
    let mut told = String::new();
    for stage in plan.stages.iter().filter(|stage| stage.production) {
        let bakes: Vec<String> = stage.steps.iter().map(|step| step.bake.to_string()).collect();
        writeln!(told, "{}: {} Regions, {}", stage.id, stage.regions().len(), bakes.join(", ")).unwrap();
    }
    let settings = plan.settings.unwrap();
    let rolling = settings.rolling;
    writeln!(
        told,
        "{}: {} % out, {} % healthy, {} % back, healthy for {}, {:?}",
        settings.profile,
        rolling.max_unavailable_percent.get(),
        rolling.min_healthy_percent.get(),
        rolling.rollback_percent.get(),
        rolling.healthy_for,
        settings.rollback,
    )
    .unwrap();
    expected.assert_eq(&told);
}

/// A pipeline that says nothing of all this.
fn silent() -> Value {
    let mut pipeline = pipeline_json("frontend", "frontend");
    pipeline.as_object_mut().unwrap().remove("rolling");
    pipeline["stages"] = json!([{"environment": "production", "one_box": true}]);
    pipeline
}

#[test]
fn a_standard_service_has_the_article_s_figures() {
    check(
        &silent(),
        &large(),
        expect![[r#"
            wave-1: 1 Regions, 1h, 12h
            wave-2: 1 Regions, 1h, 4h
            wave-3: 3 Regions, 1h, 3h
            wave-4: 12 Regions, 1h, 2h
            wave-5: 7 Regions, 1h, 2h
            standard: 33 % out, 66 % healthy, 33 % back, healthy for 10s, UnfinishedWaves
        "#]],
    );
}

#[test]
fn a_critical_service_is_treated_more_carefully() {
    let mut critical = large();
    critical["services"][0]["profile"] = json!("critical");
    check(
        &silent(),
        &critical,
        expect![[r#"
            wave-1: 1 Regions, 2h, 1d
            wave-2: 1 Regions, 2h, 8h
            wave-3: 3 Regions, 2h, 7h
            wave-4: 6 Regions, 2h, 6h
            wave-5: 6 Regions, 2h, 5h
            wave-6: 6 Regions, 2h, 4h
            wave-7: 1 Regions, 2h, 4h
            critical: 5 % out, 66 % healthy, 33 % back, healthy for 30s, UnfinishedWaves
        "#]],
    );
}

/// The pipeline's own word is before the team's, and the team's before the profile's; a service's profile is before its team's.
#[test]
fn the_nearer_word_counts() {
    let mut all = organisation_json();
    all["teams"][0]["profile"] = json!("critical");
    all["teams"][0]["defaults"] = json!({
        "critical": {"bake": {"first_wave": "36h", "one_box": "3h"}, "rolling": {"max_unavailable_percent": 10}},
        "standard": {"rollback": "production"},
    });
    let mut pipeline = silent();
    pipeline["stages"][0]["bake"] = json!({"one_box": "90m"});
    check(
        &pipeline,
        &all,
        expect![[r#"
            wave-1: 1 Regions, 1h30m, 30m, 1d12h
            wave-2: 1 Regions, 1h30m, 30m, 30m, 8h
            critical: 10 % out, 66 % healthy, 33 % back, healthy for 30s, UnfinishedWaves
        "#]],
    );
    all["services"][0]["profile"] = json!("standard");
    check(
        &pipeline,
        &all,
        expect![[r#"
            wave-1: 1 Regions, 1h30m, 15m, 12h
            wave-2: 1 Regions, 1h30m, 15m, 15m, 4h
            standard: 33 % out, 66 % healthy, 33 % back, healthy for 10s, Production
        "#]],
    );
    pipeline["rollback"] = json!("unfinished-waves");
    let settings = definition(&pipeline).settings(&organisation(&all));
    assert_eq!(settings.rollback, RollbackScope::UnfinishedWaves);
    // Said by itself, it is the same wherever it stands.
    let whole = definition(&pipeline).completed(&organisation(&all));
    assert_eq!(
        plan(&whole, &organisation(&all)).stages,
        plan(&definition(&pipeline), &organisation(&all)).stages
    );
}

/// Where nobody counts requests, a default that asks for some would never let a bake end.
#[test]
fn requests_by_default_are_asked_of_boxes_that_get_some() {
    let mut all = organisation_json();
    all["teams"][0]["defaults"] = json!({"standard": {"bake": {"data": [{"requests": 100}]}}});
    let asked = |pipeline: &Value| {
        let plan = plan(&definition(pipeline), &organisation(&all));
        plan.stages[0].data.clone().unwrap().len()
    };
    assert_eq!(asked(&silent()), 1);
    let mut command = silent();
    command["run"]["engine"] =
        json!({"command": {"shape": "one-unit", "deploy": ["deploy"], "observe": ["observe"]}});
    assert_eq!(asked(&command), 0);
    command["stages"][0]["bake"] = json!({"data": [{"requests": 1}]});
    assert_eq!(asked(&command), 1, "what it says itself is its own affair");
}

#[test]
fn defaults_that_break_a_rule_are_found_where_they_stand() {
    let mut all = organisation_json();
    all["teams"][0]["defaults"] = json!({"critical": {"rolling": {"max_unavailable_percent": 50}}});
    let found = lint::organisation(&organisation(&all));
    let told: Vec<String> = found.iter().map(ToString::to_string).collect();
    expect![[r#"
        [
            "TG127 at /teams/0/defaults/critical/rolling: 50 % out and 66 % healthy cannot hold together (the two add up to at most 100)",
            "TG128 at /teams/0/defaults/critical/rolling: at most 33 % may be out and at least 66 % must be healthy, found 50 and 66 (use smaller batches (requirement P5))",
        ]
    "#]]
    .assert_debug_eq(&told);
    let unknown = json!({"importent": {}});
    all["teams"][0]["defaults"] = unknown;
    let refused = serde_json::from_value::<OrganisationDef>(all).unwrap_err().to_string();
    assert!(refused.contains("`importent`") && refused.contains("`critical`"), "{refused}");
}

/// As with a new Region, one edit of the organisation reaches every pipeline, and nothing is deployed for it.
#[test]
fn a_service_that_becomes_critical_bakes_longer_from_the_next_bake_on() {
    let mut s = Scenario::running();
    s.release("frontend");
    s.reach("frontend", "wave-1/one-box", R2);
    let slots = s.pipeline("frontend").slots;
    let mut all = organisation_json();
    all["services"][0]["profile"] = json!("critical");
    s.apply_organisation(&all);
    s.quiet_everywhere();
    s.tick();
    assert_eq!(s.pipeline("frontend").slots, slots);
    s.reach("frontend", "wave-1/az-1", R2);
    let p = s.pipeline("frontend");
    let moving = p.slots.values().filter(|slot| slot.motion != Motion::Settled).count();
    assert_eq!(moving, 0, "it bakes: {p:?}");
    let Work::Baking { clock, .. } = &p.steps[&"wave-1/az-1".to_owned().into()].work else { panic!("{p:?}") };
    assert_eq!(clock.minimum, Span::minutes(30));
    assert_eq!(s.runs("frontend", "frontend/production/east/a/main"), Some(R1));
}

/// A store from before there were profiles: its definitions have every figure in themselves, and its plans none.
#[test]
fn a_pipeline_from_before_profiles_keeps_its_figures() {
    let mut written = pipeline_json("frontend", "frontend");
    written["rolling"] = json!({
        "max_unavailable_percent": 20, "min_healthy_percent": 70, "rollback_percent": 30,
        "healthy_for": "7s", "progress_deadline": "4m",
    });
    written["rollback"] = json!("production");
    written["stages"][1]["bake"]["data"] = json!([{"requests": 100}]);
    let mut old = serde_json::to_value(Pipeline {
        plan: plan(&definition(&written), &organisation(&organisation_json())).into(),
        definition: Some(definition(&written).into()),
        ..Pipeline::default()
    })
    .unwrap();
    assert!(old["plan"].as_object_mut().unwrap().remove("settings").is_some());
    for stage in old["plan"]["stages"].as_array_mut().unwrap() {
        assert!(stage.as_object_mut().unwrap().remove("data").is_some());
    }
    let old: Pipeline = serde_json::from_value(old).unwrap();
    let settings = old.settings();
    assert_eq!(definition(&written).rolling.or(Default::default()), settings.rolling);
    assert_eq!(
        (settings.rolling.healthy_for, settings.rollback),
        (Span::seconds(7), RollbackScope::Production)
    );
    let production = old.plan.stages.iter().find(|stage| stage.production).unwrap();
    assert_eq!(old.requirements(production).len(), 1);
}

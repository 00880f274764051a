//! Definitions that are not right are refused with code, place, line, marker and hint, and change nothing.

use super::*;
use expect_test::{Expect, expect};
use tidegate_api::ErrorAnswer;

async fn refused(world: &World, path: &str, text: &str, expected: Expect) {
    let before = world.newest_position();
    let (status, answer) = world.call("PUT", path, &world.admin, text).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{answer}");
    let answer: ErrorAnswer = serde_json::from_value(answer).unwrap();
    let mut shown = format!("{} {}\n", answer.error.code, answer.error.message);
    for finding in &answer.error.findings {
        let of = finding.pipeline.as_ref().map(|p| format!(" of pipeline {p}")).unwrap_or_default();
        shown.push_str(&format!("{} at {}{of}: {}\n", finding.code, finding.place, finding.message));
        shown.push_str(&finding.excerpt.as_ref().map(|e| e.render()).unwrap_or_default());
        shown.push_str(&format!("  hint: {}\n", finding.hint));
    }
    expected.assert_eq(&shown);
    assert_eq!(world.newest_position(), before, "nothing may change");
}

fn text(value: &Value) -> String {
    format!("{value:#}")
}

fn changed(mut value: Value, pointer: &str, to: Value) -> String {
    *value.pointer_mut(pointer).unwrap() = to;
    text(&value)
}

#[tokio::test]
async fn an_unknown_field_is_refused() {
    let world = applied().await;
    let misspelt = text(&pipeline()).replace("\"bake\"", "\"bakes\"");
    refused(
        &world,
        "/v1/pipelines",
        &misspelt,
        expect![[r#"
        TG008 the definition is refused: 1 finding
        TG103 at /stages/0/bakes: unknown field 'bakes'
        41 |       "bakes": {
           |       ^^^^^^^
          hint: did you mean "bake"?
    "#]],
    )
    .await;
}

#[tokio::test]
async fn a_bad_expression_is_refused_at_its_character() {
    let world = applied().await;
    let mut definition = organisation();
    definition["teams"][0]["aggregate"] = json!("ALARM(\"Canaries_High_Severity\") AND OR");
    refused(
        &world,
        "/v1/organisation",
        &text(&definition),
        expect![[r#"
        TG008 the definition is refused: 1 finding
        TG104 at /teams/0/aggregate: a condition is expected before OR
        30 |       "aggregate": "ALARM(\"Canaries_High_Severity\") AND OR",
           |                                                         ^^
          hint: write a condition such as ALARM("name")
    "#]],
    )
    .await;
    definition["teams"][0]["aggregate"] = json!("ALARM(\"Canaries_High_Severety\")");
    refused(&world, "/v1/organisation", &text(&definition), expect![[r#"
        TG008 the definition is refused: 1 finding
        TG112 at /teams/0/aggregate: there is no alarm "Canaries_High_Severety" (at character 8); did you mean "Canaries_High_Severity"?
        30 |       "aggregate": "ALARM(\"Canaries_High_Severety\")",
           |                    ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
          hint: an aggregate is made of the names of the team's alarms
    "#]]).await;
}

#[tokio::test]
async fn two_azs_of_a_region_in_one_step_are_refused() {
    let world = applied().await;
    let both = changed(pipeline(), "/stages/1/waves/0/steps", json!([["eu-1/a", "eu-1/b"]]));
    refused(
        &world,
        "/v1/pipelines",
        &both,
        expect![[r#"
        TG008 the definition is refused: 1 finding
        TG101 at /stages/1/waves/0/steps/0: this step deploys to eu-1/a and eu-1/b at the same time
        58 |             [
           |             ^
          hint: never two AZs of one Region at once: put them in different steps (requirement P1)
    "#]],
    )
    .await;
}

#[tokio::test]
async fn a_bake_of_minus_one_is_refused() {
    let world = applied().await;
    let negative = changed(pipeline(), "/stages/0/bake/az", json!("-1s"));
    refused(
        &world,
        "/v1/pipelines",
        &negative,
        expect![[r#"
            TG008 the definition is refused: 1 finding
            TG104 at /stages/0/bake/az: '-1s' is not a span of time: it is negative
            42 |         "az": "-1s"
               |               ^^^^^
              hint: write a whole number and a unit, such as 90s, 1h30m or 250ms
        "#]],
    )
    .await;
    let number = changed(pipeline(), "/stages/0/bake/az", json!(-1));
    refused(
        &world,
        "/v1/pipelines",
        &number,
        expect![[r#"
            TG008 the definition is refused: 1 finding
            TG104 at /stages/0/bake/az: invalid type: integer `-1`, expected a string
            42 |         "az": -1
               |               ^^
              hint: write a value that fits; GET /v1/schemas/organisation.json and pipeline.json describe them
        "#]],
    )
    .await;
}

#[tokio::test]
async fn broken_json_and_missing_fields_are_refused() {
    let world = applied().await;
    refused(
        &world,
        "/v1/pipelines",
        "{\n  \"schema\": tidegate\n}",
        expect![[r#"
        TG008 the definition is refused: 1 finding
        TG102 at : expected ident
        2 |   "schema": tidegate
          |              ^
          hint: write one JSON document
    "#]],
    )
    .await;
    refused(
        &world,
        "/v1/pipelines",
        "",
        expect![[r#"
        TG008 the definition is refused: 1 finding
        TG102 at : EOF while parsing a value
        1 | 
          | ^
          hint: write one JSON document
    "#]],
    )
    .await;
    refused(
        &world,
        "/v1/organisation",
        "{\"schema\": \"x\"}",
        expect![[r#"
        TG008 the definition is refused: 1 finding
        TG105 at : 'name' is missing
        1 | {"schema": "x"}
          | ^^^^^^^^^^^^^^^
          hint: add "name"
    "#]],
    )
    .await;
}

#[tokio::test]
async fn an_organisation_that_breaks_a_pipeline_is_refused_and_names_it() {
    let world = applied().await;
    let mut definition = organisation();
    definition["regions"].as_array_mut().unwrap().remove(1);
    refused(&world, "/v1/organisation", &text(&definition), expect![[r#"
        TG008 the definition is refused: 1 finding
        TG111 at /stages/1/waves/1/regions/0 of pipeline frontend: 'us-1' is not in the organisation's Region list
          hint: add the Region there, or mend the name
    "#]]).await;
}

#[tokio::test]
async fn applying_again_changes_nothing_and_a_dry_run_neither() {
    let world = applied().await;
    let before = world.newest_position();
    let mut other = pipeline();
    other["stages"][0]["boxes_per_az"] = json!(5);
    for (path, definition, changed) in [
        ("/v1/organisation", organisation(), false),
        ("/v1/pipelines", pipeline(), false),
        ("/v1/pipelines?dry_run=true", other, true),
    ] {
        let (status, answer) = world.call("PUT", path, &world.admin, &definition.to_string()).await;
        assert_eq!((status, &answer["changed"]), (StatusCode::OK, &json!(changed)), "{answer}");
    }
    assert_eq!(world.newest_position(), before);
}

#[tokio::test]
async fn teams_that_were_not_told_are_told_at_the_next_start() {
    let world = applied().await;
    // As if the server had ended between the organisation's commit and its teams'.
    let mut definition: tidegate_core::definition::OrganisationDef =
        serde_json::from_value(organisation()).unwrap();
    definition.teams[1].members.push("carol".parse().unwrap());
    let event = tidegate_core::organisation::OrganisationEvent::Applied { definition: Box::new(definition) };
    world.runtime.submit(&Event::Organisation(event), &Actor::Tidegate).unwrap();
    crate::apply::complete(&world.runtime).unwrap();
    let team = world.runtime.team(&"data".parse().unwrap()).unwrap();
    assert_eq!(team.definition.as_deref().unwrap().members.len(), 2);
    let before = world.newest_position();
    crate::apply::complete(&world.runtime).unwrap();
    assert_eq!(world.newest_position(), before);
}

#[tokio::test]
async fn a_pipeline_without_an_organisation_and_a_body_that_is_too_large_are_refused() {
    let world = empty();
    let (status, answer) = world.call("PUT", "/v1/pipelines", &world.admin, &pipeline().to_string()).await;
    assert_eq!((status, &answer["error"]["code"]), (StatusCode::CONFLICT, &json!("TG004")), "{answer}");
    let large = " ".repeat(super::super::BODY_MAX_BYTES + 1);
    let (status, answer) = world.call("PUT", "/v1/pipelines", &world.admin, &large).await;
    let expected = (StatusCode::PAYLOAD_TOO_LARGE, &json!("TG007"));
    assert_eq!((status, &answer["error"]["code"]), expected, "{answer}");
}

#[tokio::test]
async fn what_was_applied_can_be_read_with_every_default_and_be_applied_again() {
    let world = empty();
    for path in ["/v1/organisation", "/v1/pipelines/frontend"] {
        let (status, answer) = world.call("GET", path, &world.admin, "").await;
        assert_eq!((status, &answer["error"]["code"]), (StatusCode::NOT_FOUND, &json!("TG003")), "{answer}");
    }
    let world = applied().await;
    let before = world.newest_position();
    let reads = [("/v1/organisation", "/v1/organisation"), ("/v1/pipelines/frontend", "/v1/pipelines")];
    for (from, to) in reads {
        let (status, _) = world.call("GET", from, "", "").await;
        assert_eq!(status, StatusCode::UNAUTHORIZED);
        let (status, answer) = world.call("GET", from, &world.token("bob"), "").await;
        assert_eq!((status, &answer["version"]), (StatusCode::OK, &json!(1)), "{answer}");
        let (status, again) = world.call("PUT", to, &world.admin, &answer["definition"].to_string()).await;
        assert_eq!((status, &again["changed"]), (StatusCode::OK, &json!(false)), "{again}");
    }
    assert_eq!(world.newest_position(), before);
    let (_, answer) = world.call("GET", "/v1/pipelines/frontend", &world.admin, "").await;
    assert_eq!(answer["definition"]["rollback"], Value::Null, "that is its team's and its profile's");
    assert_eq!(answer["retired"], false);
    let reason = json!({"reason": "replaced"}).to_string();
    let (status, answer) = world.call("DELETE", "/v1/pipelines/frontend", &world.admin, &reason).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let (_, answer) = world.call("GET", "/v1/pipelines/frontend", &world.admin, "").await;
    assert_eq!(answer["retired"], true);
    let (_, openapi) = world.call("GET", "/v1/openapi.json", "", "").await;
    for path in ["/v1/organisation", "/v1/pipelines/{pipeline}"] {
        assert!(openapi["paths"][path]["get"].is_object(), "{path}");
    }
}

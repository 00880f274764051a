//! Definitions that are wrong: refused with code, place and hint, and nothing is changed.

use crate::world::{World, definitions};
use expect_test::{Expect, expect};
use serde_json::{Value, json};

/// What must be the same before and after a refusal: states but for the time, and the log.
fn all_of_it(world: &World) -> (Value, usize) {
    let mut status: Value = serde_json::from_str(&world.get("/v1/status")).unwrap();
    status["now"] = Value::Null;
    (status, world.log().len())
}

fn check(world: &World, name: &str, definition: &Value, expected: Expect) {
    let before = all_of_it(world);
    let told = world.apply(name, definition);
    assert_eq!((told.code, told.out.as_str()), (3, ""), "{told:?}");
    expected.assert_eq(&told.talk.replace(world.dir().to_str().unwrap(), "DIR"));
    assert_eq!(all_of_it(world), before);
}

#[test]
fn a_definition_that_is_wrong_is_refused_and_nothing_changes() {
    let world = World::start();
    let repo = world.repo("shop");
    let good = definitions::application(&repo);
    world.apply("app", &good).well();
    // From then on nothing happens by itself: the repository is empty.
    world.until("the source was looked at", || world.pipeline("app").sources.remove(0).trouble);
    let with = |pointer: &str, value: Value| {
        let mut definition = good.clone();
        *definition.pointer_mut(pointer).unwrap() = value;
        definition
    };

    check(
        &world,
        "unknown",
        &with("/rolling", json!({"max_unavailable": 10})),
        expect![[r#"
        tidegate: TG008: the definition is refused: 1 finding

        TG103: unknown field 'max_unavailable'
          at DIR/unknown.json:26:5 (/rolling/max_unavailable)
            26 |     "max_unavailable": 10
               |     ^^^^^^^^^^^^^^^^^
          hint: known here: max_unavailable_percent, min_healthy_percent, rollback_percent, healthy_for, progress_deadline

        hint: mend what the findings say and apply it again; nothing was changed
    "#]],
    );
    check(
        &world,
        "minus",
        &with("/stages/0/bake/az", json!("-1s")),
        expect![[r#"
        tidegate: TG008: the definition is refused: 1 finding

        TG104: '-1s' is not a span of time: it is negative
          at DIR/minus.json:63:15 (/stages/0/bake/az)
            63 |         "az": "-1s"
               |               ^^^^^
          hint: write a whole number and a unit, such as 90s, 1h30m or 250ms

        hint: mend what the findings say and apply it again; nothing was changed
    "#]],
    );
    check(
        &world,
        "number",
        &with("/stages/0/bake/az", json!(-1)),
        expect![[r#"
        tidegate: TG008: the definition is refused: 1 finding

        TG104: invalid type: integer `-1`, expected a string
          at DIR/number.json:63:15 (/stages/0/bake/az)
            63 |         "az": -1
               |               ^^
          hint: write a value that fits; GET /v1/schemas/organisation.json and pipeline.json describe them

        hint: mend what the findings say and apply it again; nothing was changed
    "#]],
    );
    let waves = json!([{"environment": "production", "one_box": true, "waves": [
        {"regions": ["eu", "us"], "steps": [["eu/a", "us/b", "us/a"]]}
    ]}]);
    check(
        &world,
        "two",
        &with("/stages", waves),
        expect![[r#"
            tidegate: TG008: the definition is refused: 1 finding

            TG101: this step deploys to us/b and us/a at the same time
              at DIR/two.json:71:13 (/stages/0/waves/0/steps/0)
                71 |             [
                   |             ^
              hint: never two AZs of one Region at once: put them in different steps (requirement P1)

            hint: mend what the findings say and apply it again; nothing was changed
        "#]],
    );

    let mut organisation = definitions::organisation();
    organisation["teams"][0]["aggregate"] = json!("ALARM(\"Shop_Faults\") AND (OK(\"Stock_Faults\")");
    check(
        &world,
        "expression",
        &organisation,
        expect![[r#"
            tidegate: TG008: the definition is refused: 1 finding

            TG104: this '(' is not closed
              at DIR/expression.json:59:46 (/teams/0/aggregate)
                59 |       "aggregate": "ALARM(\"Shop_Faults\") AND (OK(\"Stock_Faults\")",
                   |                                              ^
              hint: add ')' where the group ends

            hint: mend what the findings say and apply it again; nothing was changed
        "#]],
    );

    // What was there is still there and works.
    assert_eq!(world.apply("app", &good).well().split_whitespace().nth(1), Some("unchanged"));
}

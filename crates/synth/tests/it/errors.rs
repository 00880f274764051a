//! How errors read.

use crate::{TEAM, told, web};
use expect_test::{Expect, expect};

fn check(files: &[(&str, &str)], expected: Expect) {
    expected.assert_eq(&told(files));
}

fn check_web(members: &str, expected: Expect) {
    check(&[("team.ts", TEAM), ("web.ts", &web(members))], expected);
}

#[test]
fn syntax() {
    check(
        &[("a.ts", "interface A {\n  a: number\n}\nconst x: = 3;\n")],
        expect![[r#"
        TG310: Unexpected token
          at a.ts:4:10
            4 | const x: = 3;
              |          ^
          hint: mend the line; an editor with the types shows it as you write
    "#]],
    );
}

#[test]
fn an_exception_shows_the_line_and_its_callers() {
    check(
        &[
            (
                "a.ts",
                "import { boom } from './b';\ninterface X { a: number }\n\nfunction go(x: X): void {\n  boom(x.a);\n}\ngo({ a: 7 });\n",
            ),
            (
                "b.ts",
                "export type T = string;\nexport function boom(x: unknown): never {\n  throw new Error(`bad value ${String(x)}`);\n}\n",
            ),
        ],
        expect![[r#"
            TG320: Error: bad value 7
              at b.ts:3:39
                3 |   throw new Error(`bad value ${String(x)}`);
                  |                                       ^
              and a.ts:5:8
              and a.ts:7:1
              hint: mend what the line says
        "#]],
    );
}

#[test]
fn a_missing_import() {
    check(
        &[("a.ts", "import { b } from './team/b';\nexport default b;\n")],
        expect![[r#"
        TG313: there is no team/b.ts
          at a.ts:1:19
            1 | import { b } from './team/b';
              |                   ^^^^^^^^^^
          hint: mend the name of the file
    "#]],
    );
}

#[test]
fn a_wrong_value_deep_in_the_model() {
    check_web(
        "  stages() {\n    const [first, ...more] = super.stages();\n    return [first, { environment: \"production\", oneBox: true, bake: { oneBox: \"1 hour\" as any } }];\n  }",
        expect![[r#"
            TG104: '1 hour' is not a span of time: write a whole number and a unit, such as 90s, 1h30m or 250ms
              at web.ts:7:71 (stages[1].bake.oneBox of class Web)
                7 |     return [first, { environment: "production", oneBox: true, bake: { oneBox: "1 hour" as any } }];
                  |                                                                       ^^^^^^^^^^^^^^^^^^^^^^^
              hint: write a whole number and a unit, such as 90s, 1h30m or 250ms
        "#]],
    );
}

#[test]
fn a_name_that_was_not_imported() {
    check_web(
        "  stages() {\n    return [beta()];\n  }",
        expect![[r#"
        TG320: ReferenceError: beta is not defined
          at web.ts:6:13 (class Web)
            6 |     return [beta()];
              |             ^^^^
          hint: import { beta } from "tidegate"
    "#]],
    );
}

#[test]
fn a_value_of_the_parent_class() {
    let team = TEAM.replace("boxesPerAz: 1", "boxesPerAz: -1");
    check(
        &[("team.ts", &team), ("web.ts", &web(""))],
        expect![[r#"
            TG104: invalid value: integer `-1`, expected a whole number from 0 up
              at team.ts:14:40 (stages[0].boxesPerAz of class Web)
                14 |     return [beta({ regions: ["north"], boxesPerAz: -1 }), gamma({ regions: ["north"] }), production(
                   |                                        ^^^^^^^^^^^^^^
              hint: write a value that fits; the library's types say which
        "#]],
    );
}

#[test]
fn a_slip_in_a_property() {
    check_web(
        "  rolling() {\n    return { maxUnavailablePercnt: 10 };\n  }",
        expect![[r#"
            TG103: unknown field 'maxUnavailablePercnt'
              at web.ts:6:14 (rolling.maxUnavailablePercnt of class Web)
                6 |     return { maxUnavailablePercnt: 10 };
                  |              ^^^^^^^^^^^^^^^^^^^^^^^^
              hint: did you mean "maxUnavailablePercent"?
        "#]],
    );
}

#[test]
fn a_slip_in_a_member() {
    check_web(
        "  boxesPerAZ = 5;",
        expect![[r#"
            TG333: no pipeline has a 'boxesPerAZ'
              at web.ts:5:3 (boxesPerAZ of class Web)
                5 |   boxesPerAZ = 5;
                  |   ^^^^^^^^^^^^^^^
              hint: did you mean 'boxesPerAz'? If it is your own, name it less like that one
        "#]],
    );
}

#[test]
fn a_value_that_is_missing() {
    let pipeline = "import { ApplicationPipeline, files } from 'tidegate';\nclass Web extends ApplicationPipeline {\n  repository = 'x';\n  command = ['./x'];\n  build() { return { package: [files('x')] }; }\n}\nexport default new Web();\n";
    check(
        &[("web.ts", pipeline)],
        expect![[r#"
            TG105: 'service' is missing
              at web.ts:2:7 (class Web)
                2 | class Web extends ApplicationPipeline {
                  |       ^^^
              hint: add "service"
        "#]],
    );
}

#[test]
fn a_repository_that_nobody_has_named() {
    let pipeline = "import { ApplicationPipeline, files } from 'tidegate';\nclass Web extends ApplicationPipeline {\n  service = 'web';\n  command = ['./x'];\n  build() { return { package: [files('x')] }; }\n}\nexport default new Web();\n";
    check(
        &[("web.ts", pipeline)],
        expect![[r#"
        TG320: TypeError: say where the code is: repository = "https://...", or a method sources()
          at web.ts:2:7 (class Web)
            2 | class Web extends ApplicationPipeline {
              |       ^^^
          hint: mend what the line says
    "#]],
    );
}

#[test]
fn two_of_one_name() {
    let other = web("").replace("Web", "Other");
    check(
        &[("other.ts", &other), ("team.ts", TEAM), ("web.ts", &web(""))],
        expect![[r#"
        TG332: there is a second pipeline by the name of 'web-app'
          at web.ts:3:7
            3 | class Web extends ShopPipeline {
              |       ^^^
          and other.ts:3:7
          hint: give one of them another name: name = "..."
    "#]],
    );
}

#[test]
fn a_class_without_new() {
    check(
        &[("team.ts", TEAM)],
        expect![[r#"
        TG331: no file exports a pipeline
          at team.ts:3:23
            3 | export abstract class ShopPipeline extends ApplicationPipeline {
              |                       ^^^^^^^^^^^^
          hint: a class alone is a parent; write: export default new ShopPipeline()
    "#]],
    );
}

#[test]
fn a_function_where_a_value_is_expected() {
    check_web(
        "  rolling() {\n    return { healthyFor: () => \"1s\" } as any;\n  }",
        expect![[r#"
        TG330: it is a function, not a value
          at web.ts:6:14 (rolling.healthyFor of class Web)
            6 |     return { healthyFor: () => "1s" } as any;
              |              ^^^^^^^^^^^^^^^^^^^^^^
          hint: call it, or write its value
    "#]],
    );
}

#[test]
fn a_mistake_in_the_organisation() {
    let text = "import { Organisation } from \"tidegate\";\nexport default new Organisation({\n  name: \"acme\",\n  users: [{ name: \"alice\", roles: [\"admin\"] }],\n  teams: [], services: [], regions: [],\n});\n";
    check(
        &[("o.ts", text)],
        expect![[r#"
            TG104: unknown variant `admin`, expected `administrator` or `principal-engineer`
              at o.ts:4:36 (users[0].roles[0] of class Organisation)
                4 |   users: [{ name: "alice", roles: ["admin"] }],
                  |                                    ^^^^^^^
              hint: write a value that fits; the library's types say which
        "#]],
    );
}

#[test]
fn a_parent_that_gives_up_shared_things() {
    check(
        &[("a.ts", "Object.prototype.polluted = 1;\n")],
        expect![[r#"
            TG320: TypeError: object is not extensible
              at a.ts:1:1
                1 | Object.prototype.polluted = 1;
                  | ^^^^^^
              hint: what all files share cannot be changed; use a function or a class of your own
        "#]],
    );
}

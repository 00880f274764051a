//! What the library makes of pipelines: the canonical model, with the article's figures.

use crate::{TEAM, json, run, web};
use serde_json::json;
use tidegate_core::definition::{BakeDef, PipelineDef, RollingDef};
use tidegate_core::run_spec::ProcessSpec;
use tidegate_synth::Subject;

fn one(files: &[(&str, &str)]) -> (serde_json::Value, PipelineDef) {
    let made = run(files).unwrap();
    let [document] = &made.documents[..] else { panic!("{made:?}") };
    let Subject::Pipeline(pipeline) = &document.subject else { panic!("{document:?}") };
    (json(document), (**pipeline).clone())
}

#[test]
fn a_subclass_of_a_few_lines_is_a_whole_pipeline() {
    let (json, def) = one(&[("team.ts", TEAM), ("web.ts", &web(""))]);
    assert_eq!(json["name"], "web-app");
    assert_eq!(json["sources"][0]["url"], "https://git.acme.test/web.git");
    assert_eq!(json["build"]["package"], json!([{"from": "target/web", "to": "web"}]));
    assert_eq!(json["run"]["engine"]["process"]["command"], json!(["./web"]));
    let stages: Vec<_> =
        def.stages.iter().map(|s| (s.environment.as_str(), s.one_box, s.boxes_per_az)).collect();
    assert_eq!(stages, [("beta", false, 1), ("gamma", true, 3), ("production", true, 3)]);
}

#[test]
fn what_the_library_does_not_say_is_the_model_s() {
    let (_, def) = one(&[("team.ts", TEAM), ("web.ts", &web(""))]);
    assert_eq!(def.rolling, RollingDef::default());
    assert_eq!(def.stages[2].bake, BakeDef::default());
    let tidegate_core::definition::EngineDef::Process(process) = &def.run.engine else { panic!("{def:?}") };
    let plain: ProcessSpec =
        serde_json::from_value(json!({"command": ["./web"], "health": {"path": "/health"}})).unwrap();
    assert_eq!(process, &plain);
}

#[test]
fn a_method_adds_to_its_parent_s() {
    let members = "  bake() { return { ...super.bake(), oneBox: '2h' as const }; }\n  tests() { return [{ name: 'all', run: ['./t'] }]; }\n  boxesPerAz = 6;\n  rollbackAll = true;\n  name = 'shop-web';";
    let (json, _) = one(&[("team.ts", TEAM), ("web.ts", &web(members))]);
    assert_eq!(json["name"], "shop-web");
    assert_eq!(json["rollback"], "production");
    let [beta, _, production] = &json["stages"].as_array().unwrap()[..] else { panic!("{json}") };
    assert_eq!((&beta["boxes_per_az"], &production["boxes_per_az"]), (&json!(1), &json!(6)));
    assert_eq!(beta["bake"], json!({"one_box": "2h"}), "the rest is the team's and the profile's");
    assert_eq!(beta["tests"][0]["run"], json!(["./t"]));
}

#[test]
fn a_source_says_where_it_is_reviewed() {
    let members = "  sources() { return [{ name: 'code', url: 'https://git.acme.test/web.git', review: { github: { repository: 'acme/web', token: 'github' } } }]; }";
    let (json, def) = one(&[("team.ts", TEAM), ("web.ts", &web(members))]);
    let review =
        json!({"github": {"repository": "acme/web", "api": "https://api.github.com", "token": "github"}});
    assert_eq!(json["sources"][0]["review"], review);
    assert_eq!(def.sources[0].review.as_ref().unwrap().repository(), "acme/web");
}

#[test]
fn a_field_that_is_declared_again_keeps_its_value() {
    let members = "  declare health: { path: string };\n  drainTimeout: any;\n  boxesPerAz: number;";
    let (json, _) = one(&[("team.ts", TEAM), ("web.ts", &web(members))]);
    assert_eq!(json["stages"][2]["boxes_per_az"], 3);
    assert_eq!(json["run"]["engine"]["process"]["drain_timeout"], "30s");
}

#[test]
fn users_names_keep_their_letters() {
    let members = "  environment() { return { LOG_LEVEL: 'info', aB: 'x' }; }\n  secrets() { return { DB_PASSWORD: 'db' }; }";
    let (json, _) = one(&[("team.ts", TEAM), ("web.ts", &web(members))]);
    assert_eq!(json["run"]["environment"], json!({"LOG_LEVEL": "info", "aB": "x"}));
    assert_eq!(json["run"]["secrets"], json!({"DB_PASSWORD": "db"}));
}

#[test]
fn every_kind_has_its_engine() {
    let text = r#"
import { ConfigurationPipeline, DefinitionsPipeline, InfrastructurePipeline, OperatingSystemPipeline, OperatorToolsPipeline, files } from "tidegate";
const shared = { service: "web", repository: "https://git.acme.test/x", build: () => ({ package: [files("x")] }) };
const commands = { deploy: ["./deploy"], observe: ["./observe"] };
class I extends InfrastructurePipeline { service: string; deploy: string[]; observe: string[]; build: any; }
class O extends OperatingSystemPipeline { service: string; deploy: string[]; observe: string[]; build: any; manyBoxes = true; }
class T extends OperatorToolsPipeline { service: string; deploy: string[]; observe: string[]; build: any; }
class C extends ConfigurationPipeline { service: string; build: any; }
class D extends DefinitionsPipeline { service: string; region = "north"; }
export const all = [
  Object.assign(new I(), shared, commands), [Object.assign(new O(), shared, commands)],
  Object.assign(new T(), shared, commands), Object.assign(new C(), shared),
  Object.assign(new D(), { ...shared, build: D.prototype.build }),
];
export const again = all[0];
"#;
    let made = run(&[("all.ts", text)]).unwrap();
    let engine = |n: usize| json(&made.documents[n])["run"]["engine"].clone();
    let names: Vec<&str> = made.documents.iter().map(|d| d.name()).collect();
    assert_eq!(names, ["web-config", "web-infrastructure", "web-os", "web-pipelines", "web-tools"]);
    assert_eq!(engine(0), json!({"configuration": {"reload": "/reload", "timeout": "5s"}}));
    assert_eq!(engine(1)["command"]["shape"], "one-unit");
    assert_eq!(engine(2)["command"]["shape"], "many-boxes");
    assert_eq!(engine(3), json!({"definitions": {"folder": "pipelines", "scope": "team"}}));
    assert_eq!(json(&made.documents[3])["stages"][0]["bake"]["first_wave"], "15m");
    assert_eq!(json(&made.documents[4])["stages"][0]["boxes_per_az"], 1);
}

#[test]
fn the_same_folder_gives_the_same_bytes_and_its_notes() {
    let text = format!("{}console.log('made', {{ a: [1] }});\n", web(""));
    let files = [("team.ts", TEAM), ("web.ts", &text)];
    let (first, second) = (run(&files).unwrap(), run(&files).unwrap());
    assert_eq!(first.documents, second.documents);
    assert_eq!(first.notes, ["made {\"a\":[1]}"]);
    assert_eq!(first.documents[0].digest.len(), 64);
}

#[test]
fn spans_are_whole_and_positive() {
    for wrong in
        ["minutes(-1)", "seconds(NaN)", "hours(1 / 0)", "seconds(1.00001)", "milliseconds('5' as any + 'x')"]
    {
        let text = format!("import {{ hours, milliseconds, minutes, seconds }} from 'tidegate';\n{wrong};");
        let found = crate::problems(&[("a.ts", &text)]);
        assert!(found[0].message.starts_with("RangeError: a span of time"), "{wrong}: {found:?}");
    }
}

#[test]
fn errors_of_one_s_own_keep_their_name() {
    let text = "class Wrong extends Error { name = 'Wrong'; }\nthrow new Wrong('no');";
    assert_eq!(crate::problems(&[("a.ts", text)])[0].message, "Wrong: no");
}

#[test]
fn a_thousand_pipelines_are_made_in_one_go() {
    let regions = "const regions = Array.from({ length: 24 }, (_, n) => ({ name: `r${n}`, azs: n < 4 ? ['a','b','c','d'] : ['a','b','c'], traffic: n }));";
    let many = "import { Organisation } from 'tidegate';\nimport { ShopPipeline } from './team';\n"
        .to_owned()
        + regions
        + "\nclass Web extends ShopPipeline { constructor(public service: string) { super(); } }\nexport const organisation = new Organisation({ name: 'acme', users: [], teams: [], services: [], regions });\nexport default Array.from({ length: 1000 }, (_, n) => new Web(`s${n}`));\n";
    let made = run(&[("team.ts", TEAM), ("all.ts", &many)]).unwrap();
    assert_eq!(made.documents.len(), 1_001);
}

#[test]
fn the_example_of_the_docs_is_a_pipeline() {
    let docs = include_str!("../../../../docs/pipelines.md");
    let blocks: Vec<&str> =
        docs.split("```ts\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    let [team, web, organisation, own] = blocks[..] else { panic!("{blocks:?}") };
    let files = [("team.ts", team), ("web.ts", web), ("organisation.ts", organisation), ("own.ts", own)];
    let made = run(&files).unwrap();
    let (Subject::Organisation(organisation), Subject::Pipeline(pipeline)) =
        (&made.documents[0].subject, &made.documents[1].subject)
    else {
        panic!("{made:?}")
    };
    assert_eq!(tidegate_core::lint::organisation(organisation), []);
    assert_eq!(pipeline.name.as_str(), "web-app");
    for document in &made.documents {
        let Subject::Pipeline(pipeline) = &document.subject else { continue };
        assert_eq!(tidegate_core::explore::pipeline(pipeline, organisation), []);
    }
    assert_eq!(pipeline.stages[2].bake.one_box.unwrap().to_string(), "2h");
}

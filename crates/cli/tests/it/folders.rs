//! Folders of TypeScript and a server: what is applied, what is refused at which line, and what would change.

use crate::commands::Server;
use crate::world::{World, definitions, steps};
use expect_test::expect;
use serde_json::{Value, json};
use std::fs;
use tidegate_api::WorkStatus;
use tidegate_core::decision::Fact;
use tidegate_core::pipeline::PipelineFact;

const ORGANISATION: &str = r#"import { Organisation } from "tidegate";
export default new Organisation({
  name: "acme",
  users: [{ name: "alice", emails: ["alice@acme.test"] }, { name: "bob", emails: ["bob@acme.test"] }],
  teams: [{ name: "shop", members: ["alice", "bob"] }],
  services: [{ name: "cart", team: "shop" }, { name: "web", team: "shop" }],
  regions: [{ name: "north", azs: ["a", "b"], traffic: 10 }],
});
"#;

const TEAM: &str = r#"import { ApplicationPipeline, beta, files, gamma, minutes, production, step } from "tidegate";
export abstract class ShopPipeline extends ApplicationPipeline {
  get repository() { return `https://git.acme.test/${this.service}.git`; }
  get command() { return [`./${this.service}`]; }
  build() { return { steps: [step("build", "make")], package: [files("out", this.service)] }; }
  stages() { return [beta({ regions: ["north"], boxesPerAz: 1 }), gamma({ regions: ["north"] }), production()]; }
}
"#;

fn pipeline(class: &str, service: &str, more: &str) -> String {
    format!(
        "import {{ ShopPipeline }} from \"./team\";\nexport class {class} extends ShopPipeline {{\n  \
         service = \"{service}\";\n{more}}}\nexport default new {class}();\n"
    )
}

/// A server, and a folder `pipelines` beside its data with the pipelines cart-app and web-app.
fn folder() -> (Server, String) {
    let server = Server::start();
    let folder = server.data().join("pipelines");
    fs::create_dir(&folder).unwrap();
    let files = [
        ("organisation.ts", ORGANISATION.to_owned()),
        ("team.ts", TEAM.to_owned()),
        ("cart.ts", pipeline("Cart", "cart", "")),
        ("web.ts", pipeline("Web", "web", "")),
    ];
    files.iter().for_each(|(name, text)| fs::write(folder.join(name), text).unwrap());
    let folder = folder.to_str().unwrap().to_owned();
    (server, folder)
}

fn well(server: &Server, arguments: &[&str]) -> String {
    let (code, out, talk) = server.run(arguments);
    assert_eq!((code, talk.as_str()), (0, ""), "{out}");
    out
}

#[test]
fn what_is_applied_is_what_synth_prints() {
    let (server, folder) = folder();
    // Also without an organisation on the server: the pipelines are judged by the one that comes with them.
    let out = well(&server, &["apply", "--dry-run", &folder]);
    assert!(
        out.lines().count() == 3 && out.lines().all(|line| line.contains("  would be changed (")),
        "{out}"
    );
    assert_eq!(well(&server, &["diff", &folder]).lines().next(), Some("organisation acme  new"));

    let out = well(&server, &["apply", &folder]);
    let told: Vec<_> = out.lines().map(|line| line.split(" (").next().unwrap()).collect();
    assert_eq!(told, ["acme  applied", "cart-app  applied", "web-app  applied"]);
    let (_, lines, _) = server.run(&["synth", &folder]);
    // The same JSON in files is the same to the server.
    for (n, line) in lines.lines().enumerate() {
        let file = server.data().join(format!("{n}.json"));
        fs::write(&file, line).unwrap();
        let out = well(&server, &["apply", file.to_str().unwrap()]);
        assert!(out.contains("  unchanged ("), "{out}");
    }
    assert!(
        well(&server, &["apply", "--dry-run", &folder]).lines().all(|line| line.contains("  unchanged ("))
    );
    let out = well(&server, &["diff", &folder, "--exit-code"]);
    assert_eq!(out.lines().last(), Some("nothing would change"), "{out}");
}

#[test]
fn a_refusal_is_shown_at_its_line_and_nothing_is_applied() {
    let (server, folder) = folder();
    well(&server, &["apply", &folder]);
    let web = server.data().join("pipelines/web.ts");
    let cart = server.data().join("pipelines/cart.ts");
    fs::write(&cart, pipeline("Cart", "cart", "  boxesPerAz = 0;\n")).unwrap();
    fs::write(&web, pipeline("Web", "web", "  boxesPerAz = 5;\n")).unwrap();
    for dry_run in [&["--dry-run"][..], &[]] {
        let (code, out, talk) = server.run(&[&["apply", &folder], dry_run].concat());
        assert_eq!((code, out.as_str()), (3, ""), "{talk}");
        assert!(talk.contains("TG129: an AZ has at least one box"), "{talk}");
        assert!(talk.contains("cart.ts:4:3") && talk.contains("boxesPerAz = 0;\n"), "{talk}");
    }
    // Nothing of either pipeline has changed.
    fs::write(&cart, pipeline("Cart", "cart", "")).unwrap();
    fs::write(&web, pipeline("Web", "web", "")).unwrap();
    assert!(well(&server, &["diff", &folder]).ends_with("nothing would change\n"));
}

#[test]
fn files_are_taken_together_each_with_its_findings() {
    let (server, folder) = folder();
    let (_, lines, _) = server.run(&["synth", &folder]);
    let (mut files, mut texts) = (Vec::new(), Vec::new());
    for (n, line) in lines.lines().enumerate() {
        files.push(server.data().join(format!("{n}.json")).to_str().unwrap().to_owned());
        texts.push(line.to_owned());
    }
    let write = |n: usize, text: &str| fs::write(&files[n], text).unwrap();
    (0..3).for_each(|n| write(n, &texts[n]));
    (1..3).for_each(|n| write(n, &texts[n].replace("\"boxes_per_az\":3", "\"boxes_per_az\":0")));
    let apply: Vec<&str> = [&["apply"][..], &files.iter().map(String::as_str).collect::<Vec<_>>()].concat();
    let (code, out, talk) = server.run(&apply);
    assert_eq!((code, out.as_str()), (3, ""), "{talk}");
    for file in &files[1..] {
        assert!(talk.contains(&format!("  at {file}:1:")), "{talk}");
    }
    write(1, &texts[1]);
    write(2, &texts[1]);
    let (code, _, talk) = server.run(&apply);
    assert_eq!(code, 3, "{talk}");
    assert!(talk.contains("TG143: pipeline 'cart-app' is defined twice"), "{talk}");
    // Nothing was taken, the organisation neither.
    assert_eq!(well(&server, &["diff", &folder]).lines().next(), Some("organisation acme  new"));
    write(2, &texts[2]);
    well(&server, &apply);
    assert!(well(&server, &["diff", &folder]).ends_with("nothing would change\n"));
}

#[test]
fn diff_says_what_changes_and_when_it_counts() {
    let (server, folder) = folder();
    well(&server, &["apply", &folder]);
    let organisation = ORGANISATION
        .replace("traffic: 10 }", "traffic: 10 }, { name: \"south\", azs: [\"a\"], traffic: 20 }");
    fs::write(server.data().join("pipelines/organisation.ts"), organisation).unwrap();
    fs::remove_file(server.data().join("pipelines/cart.ts")).unwrap();
    let more = "  bake() { return { ...super.bake(), oneBox: \"2m\" }; }\n  boxesPerAz = 5;\n";
    fs::write(server.data().join("pipelines/web.ts"), pipeline("Web", "web", more)).unwrap();
    fs::write(server.data().join("pipelines/new.ts"), pipeline("Next", "cart", "  name = \"next\";\n"))
        .unwrap();
    let (code, out, talk) = server.run(&["diff", &folder, "--exit-code"]);
    assert_eq!((code, talk.as_str()), (1, ""), "{out}");
    expect![[r#"
        organisation acme  changed
          regions[south]: nothing -> {"azs":["a"],"name":"south","traffic":20}
        pipeline next  new
          step beta/az-1  new
            + cart/beta/north/a/main
          step beta/az-2  new
            + cart/beta/north/b/main
          step gamma/one-box  new
            + cart/gamma/north/a/one-box
          step gamma/az-1  new
            + cart/gamma/north/a/main
          step gamma/az-2  new
            + cart/gamma/north/b/main
          step wave-1/one-box  new
            + cart/production/north/a/one-box
          step wave-1/az-1  new
            + cart/production/north/a/main
          step wave-1/az-2  new
            + cart/production/north/b/main
          step wave-2/one-box  new
            + cart/production/south/a/one-box
          step wave-2/az-1  new
            + cart/production/south/a/main
        pipeline web-app  changed
          stages[beta].bake.one_box: "1h" -> "2m"
            counts for bakes that begin from now on; those under way keep theirs
          stages[gamma].bake.one_box: "1h" -> "2m"
            counts for bakes that begin from now on; those under way keep theirs
          stages[gamma].boxes_per_az: 3 -> 5
            counts with the next deployment to each target; fleets that run keep their size
          stages[production].bake.one_box: "1h" -> "2m"
            counts for bakes that begin from now on; those under way keep theirs
          stages[production].boxes_per_az: 3 -> 5
            counts with the next deployment to each target; fleets that run keep their size
          step wave-2/one-box  new
            + web/production/south/a/one-box
          step wave-2/az-1  new
            + web/production/south/a/main
        pipeline cart-app  on the server only, follows the organisation
          step wave-2/one-box  new
            + cart/production/south/a/one-box
          step wave-2/az-1  new
            + cart/production/south/a/main
        applying this redeploys nothing that runs
    "#]]
    .assert_eq(&out);
    assert_eq!(server.run(&["diff", &folder]).0, 0);
    let json: Value = serde_json::from_str(&well(&server, &["diff", &folder, "--json"])).unwrap();
    assert_eq!((&json["version"], &json["different"]), (&json!(1), &json!(true)));
    let states: Vec<_> =
        json["pipelines"].as_array().unwrap().iter().map(|p| [&p["name"], &p["state"]]).collect();
    assert_eq!(json!(states), json!([["next", "new"], ["web-app", "changed"], ["cart-app", "not-given"]]));
}

#[test]
fn diff_tells_which_releases_are_under_way_in_steps_that_go() {
    let world = World::start();
    let repo = world.repo("shop");
    let mut definition = definitions::application(&repo);
    definition["stages"][0]["bake"]["az"] = json!("1h");
    world.apply("app", &definition).well();
    world.land(&repo, &[("limit", "1\n")]);
    world.until("r1 bakes", || {
        let pipeline = world.pipeline("app");
        let baking = steps(&pipeline).any(|step| matches!(step.work, WorkStatus::Baking { .. }));
        baking.then_some(())
    });
    let before = world.log().len();
    definition["stages"][0]["environment"] = json!("gamma");
    definition["run"]["environment"]["COLOUR"] = json!("blue");
    let file = world.dir().join("app.json");
    fs::write(&file, definition.to_string()).unwrap();
    let out = world.cli(&["diff", file.to_str().unwrap()]).well();
    for line in [
        "  run.environment.COLOUR: nothing -> \"blue\"\n    counts for releases that are built from now on; those that are built keep theirs\n",
        "  step beta/az-1  gone\n    - shop/beta/eu/a/main\n",
        "  step gamma/az-1  new\n    + shop/gamma/eu/a/main\n",
        "  in flight: r1 bakes in beta/az-1, which goes: the step's work ends there\n",
        "  in flight: boxes run on where no step deploys any more: shop/beta/eu/a/main\n",
        "applying this redeploys nothing that runs\n",
    ] {
        assert!(out.contains(line), "{line}: {out}");
    }
    let mut inserted = definitions::application(&repo);
    let alpha = json!({"environment": "alpha", "regions": ["us"], "boxes_per_az": 1});
    inserted["stages"].as_array_mut().unwrap().insert(0, alpha);
    inserted["stages"][1]["bake"]["az"] = json!("1h");
    fs::write(&file, inserted.to_string()).unwrap();
    let out = world.cli(&["diff", file.to_str().unwrap()]).well();
    let line = "  in flight: r1 bakes in beta/az-1, and passes alpha/az-2 first from now on\n";
    assert!(out.contains(line), "{out}");

    inserted["service"] = json!("stock");
    fs::write(&file, inserted.to_string()).unwrap();
    for command in [&["diff"][..], &["apply", "--dry-run"], &["apply"]] {
        let told = world.cli(&[command, &[file.to_str().unwrap()]].concat());
        assert!(told.code != 0 && told.talk.contains("TG145"), "{command:?}: {told:?}");
    }
    let mut since = world.log().into_iter().skip(before).map(|entry| entry.fact);
    assert!(
        !since.any(|fact| matches!(fact, Fact::Pipeline(PipelineFact::Defined { .. }))),
        "a look changes nothing"
    );
}

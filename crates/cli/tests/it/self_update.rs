//! A folder of pipelines that is a source with a pipeline: a change of it applies itself, and one that is wrong is taken back.

use crate::world::{Repo, World, steps};
use std::fs;
use tidegate_api::{MotionStatus, StandingStatus};
use tidegate_core::decision::Actor;
use tidegate_core::ids::ReleaseNo;

const STOCK: &str = r#"import { ApplicationPipeline, beta, files, git } from "tidegate";

class Stock extends ApplicationPipeline {
  service = "stock";
  command = ["./stock"];
  sources() { return [git("/nowhere/at/all")]; }
  build() { return { package: [files("stock")] }; }
  stages() { return [beta({ regions: ["eu"] })]; }
  environment() { return { COLOUR: "blue" }; }
}

export default new Stock();
"#;

/// The folder's own pipeline, which is in the folder as well.
fn own(repo: &Repo) -> String {
    let path = repo.path().display();
    format!(
        r#"import {{ DefinitionsPipeline, git, seconds }} from "tidegate";

class Own extends DefinitionsPipeline {{
  name = "own";
  service = "shop";
  region = "us";
  sources() {{ return [git("{path}", {{ poll: "200ms" }})]; }}
  bake() {{ return {{ ...super.bake(), firstWave: "100ms" as const }}; }}
  rolling() {{ return {{ ...super.rolling(), healthyFor: seconds(0), progressDeadline: seconds(4) }}; }}
}}

export default new Own();
"#
    )
}

/// A server, and the folder in a repository, applied by the administrator and then deployed by its own pipeline as r1.
fn started() -> (World, Repo) {
    started_with(|own| own, &[])
}

/// As [`started`], with another pipeline of its own and more files.
fn started_with(change: impl Fn(String) -> String, more: &[(&str, &str)]) -> (World, Repo) {
    let world = World::start();
    let repo = world.repo("definitions");
    fs::create_dir(repo.path().join("pipelines")).unwrap();
    let own = change(own(&repo));
    for (name, text) in [("stock.ts", STOCK), ("own.ts", &own)].iter().chain(more) {
        fs::write(repo.path().join("pipelines").join(name), text).unwrap();
    }
    world.cli(&["apply", repo.path().to_str().unwrap()]).well();
    world.land(&repo, &[]);
    world.until_passed("own", 1);
    (world, repo)
}

fn colour(world: &World) -> String {
    let definition = world.get("/v1/pipelines/stock-app");
    let definition: serde_json::Value = serde_json::from_str(&definition).unwrap();
    definition["definition"]["run"]["environment"]["COLOUR"].as_str().unwrap().to_owned()
}

/// Waits until the release was rejected and its target has what was before; why it was rejected.
fn rejected(world: &World, release: u64) -> String {
    world.until(&format!("r{release} is taken back"), || {
        let pipeline = world.pipeline("own");
        let target = steps(&pipeline).flat_map(|step| &step.targets).next()?;
        let back =
            matches!(target.motion, MotionStatus::Settled) && target.current < Some(ReleaseNo(release));
        let found = pipeline.releases.iter().find(|r| r.release == ReleaseNo(release) && back)?;
        match &found.standing {
            StandingStatus::Rejected { cause, .. } => Some(cause.text.clone()),
            _ => None,
        }
    })
}

/// As [`World::land`], naming the commit whose fault it mends.
fn mend(world: &World, repo: &Repo, bad: &str, files: &[(&str, &str)]) {
    let commit = repo.commit(files, &format!("mends it\n\nFixes: {bad}"));
    world.bob(&["approve", &commit]).well();
    repo.merge(&commit);
}

#[test]
fn a_change_of_the_folder_applies_itself_and_a_wrong_one_is_taken_back() {
    let (world, repo) = started();
    assert_eq!(colour(&world), "blue");
    world.land(&repo, &[("pipelines/stock.ts", &STOCK.replace("blue", "red"))]);
    world.until_passed("own", 2);
    assert_eq!(colour(&world), "red");
    let by = world.log().into_iter().rev().find(|entry| entry.aggregate == "pipeline/stock-app").unwrap().by;
    assert_eq!(by, Actor::Release { pipeline: "own".parse().unwrap(), release: ReleaseNo(2) });

    // Nothing of a folder with a finding is taken, what is right in it neither.
    let wrong = STOCK.replace("blue", "green").replace("command", "boxesPerAz = 0;\n  command");
    let bad = world.land(&repo, &[("pipelines/stock.ts", &wrong)]);
    let why = rejected(&world, 3);
    assert!(why.contains(": deploy: TG129 at stock.ts:5:3: an AZ has at least one box"), "{why}");
    assert_eq!(colour(&world), "red");

    // What mends it comes in by itself, and what a person takes back has the definitions of before.
    mend(&world, &repo, &bad, &[("pipelines/stock.ts", &STOCK.replace("blue", "white"))]);
    world.until_passed("own", 4);
    assert_eq!(colour(&world), "white");
    world.bob(&["rollback", "own", "r4", "--everywhere", "--reason", "too bright"]).well();
    world.until("the definitions of before", || (colour(&world) == "red").then_some(()));
}

#[test]
fn a_folder_defines_what_its_team_owns_and_no_more() {
    let (world, repo) = started();
    let organisation = "import { Organisation } from 'tidegate';\nexport default new Organisation({ name: 'mine', users: [{ name: 'alice', roles: ['administrator'] }], teams: [], services: [], regions: [] });\n";
    let bad = world.land(&repo, &[("pipelines/organisation.ts", organisation)]);
    let why = rejected(&world, 2);
    assert!(why.contains("TG144 at organisation.ts"), "{why}");
    assert!(why.contains("own may not define the organisation"), "{why}");

    fs::remove_file(repo.path().join("pipelines/organisation.ts")).unwrap();
    let wider = own(&repo).replace("region =", "scope = \"organisation\" as const;\n  region =");
    mend(&world, &repo, &bad, &[("pipelines/own.ts", &wider)]);
    let why = rejected(&world, 3);
    assert!(why.contains("TG144 at own.ts:"), "{why}");
    assert!(why.contains("own may not define who may define more than the team's pipelines"), "{why}");

    let bad = [bad, repo.head()].join("\nFixes: ");
    let secret = STOCK.replace("command =", "secrets() { return { KEY: \"payments-key\" }; }\n  command =");
    mend(&world, &repo, &bad, &[("pipelines/own.ts", &own(&repo)), ("pipelines/stock.ts", &secret)]);
    let why = rejected(&world, 4);
    assert!(why.contains("TG144 at stock.ts"), "{why}");
    assert!(why.contains("a use of secret 'payments-key', which no pipeline of the team has yet"), "{why}");
}

fn organisation(more: &[&str]) -> String {
    let mut organisation = crate::world::definitions::organisation();
    for name in more {
        let service = serde_json::json!({"name": name, "team": "web"});
        organisation["services"].as_array_mut().unwrap().push(service);
    }
    format!(
        "import {{ Organisation }} from \"tidegate\";\nexport default new Organisation({organisation});\n"
    )
}

#[test]
fn a_return_is_held_by_nothing_that_came_with_the_release_and_revives_nobody() {
    let everything = |own: String| own.replace("region =", "scope = \"organisation\" as const;\n  region =");
    let other = STOCK.replace("Stock", "Other").replace("service =", "name = \"other\";\n  service =");
    let (world, repo) =
        started_with(everything, &[("organisation.ts", &organisation(&[])), ("other.ts", &other)]);
    let cart = STOCK.replace("Stock", "Cart").replace("\"stock\";", "\"cart\";");
    fs::remove_file(repo.path().join("pipelines/other.ts")).unwrap();
    world.land(
        &repo,
        &[
            ("pipelines/organisation.ts", &organisation(&["cart"])),
            ("pipelines/cart.ts", &cart),
            ("pipelines/stock.ts", &STOCK.replace("blue", "red")),
        ],
    );
    world.until_passed("own", 2);
    assert_eq!(colour(&world), "red");
    world.cli(&["retire", "other", "--reason", "nobody calls it"]).well();
    // The organisation of before has no service for what came with r2 and stays.
    world.bob(&["rollback", "own", "r2", "--everywhere", "--reason", "too early"]).well();
    world.until("r1 is back", || {
        let pipeline = world.pipeline("own");
        let target = steps(&pipeline).flat_map(|step| &step.targets).next()?;
        let back = matches!(target.motion, MotionStatus::Settled) && target.current == Some(ReleaseNo(1));
        back.then_some(())
    });
    assert_eq!(colour(&world), "blue");
    assert!(world.get("/v1/pipelines/cart-app").contains("\"retired\":false"));
    assert!(world.get("/v1/pipelines/other").contains("\"retired\":true"), "a person's word stands");
}

#[test]
fn a_server_that_is_killed_goes_on_with_what_it_was_taking() {
    let (world, repo) = started();
    let commit = repo.commit(&[("pipelines/stock.ts", &STOCK.replace("blue", "red"))], "red");
    world.bob(&["approve", &commit]).well();
    repo.merge(&commit);
    let after = world.log().len();
    world.until("r2 is on its way", || {
        let entries = world.log();
        entries[after..].iter().any(|entry| entry.text.contains("r2 enters")).then_some(())
    });
    world.kill_server();
    world.restart_server();
    world.until_passed("own", 2);
    assert_eq!(colour(&world), "red");
}

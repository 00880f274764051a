//! The library's types are real: the TypeScript compiler takes what is right, and refuses what is wrong. It is an npm package,
//! fetched once into the target folder; where it cannot be had, these tests say so and pass over.

use crate::{TEAM, web};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

const VERSION: &str = "5.9.3";

/// The compiler's program, or `None` where it cannot be installed.
fn compiler() -> Option<PathBuf> {
    let room = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("typescript-{VERSION}"));
    fs::create_dir_all(&room).unwrap();
    // Tests run in processes of their own: one of them installs, the others wait for it.
    let lock = File::create(room.join("lock")).unwrap();
    lock.lock().unwrap();
    let program = room.join("node_modules/typescript/bin/tsc");
    if !program.exists() {
        let package = format!("typescript@{VERSION}");
        let arguments =
            ["install", "--no-audit", "--no-fund", "--no-save", "--fetch-retries=1", "--fetch-timeout=30000"];
        let installed = Command::new("npm").args(arguments).arg(&package).current_dir(&room).output();
        if !installed.is_ok_and(|output| output.status.success()) || !program.exists() {
            eprintln!("NOT CHECKED: the TypeScript compiler cannot be installed (npm install {package})");
            return None;
        }
    }
    Some(program)
}

/// A folder as `tidegate init` makes it, with these files.
fn folder(files: &[(&str, &str)]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let own = [("tidegate.d.ts", tidegate_synth::DECLARATIONS), ("tsconfig.json", tidegate_synth::TSCONFIG)];
    for (name, text) in files.iter().chain(&own) {
        fs::write(dir.path().join(name), text).unwrap();
    }
    dir
}

/// What the compiler says of a folder; empty when it takes it.
fn compile(program: &Path, files: &[(&str, &str)]) -> String {
    let dir = folder(files);
    let output = Command::new("node").arg(program).arg("-p").arg(dir.path()).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn what_is_right_compiles() {
    let Some(program) = compiler() else { return };
    let members = "  bake() {\n    return { ...super.bake(), oneBox: hours(2), az: \"90s\" as const, data: [atLeast(100, \"POST /orders\")] };\n  }\n  tests() {\n    return [test(\"all\", \"./itest\", \"--fast\")];\n  }\n  waves() {\n    return [wave(\"north\"), wave(\"south\", \"east\")];\n  }\n  health = { path: \"/ready\", timeout: seconds(1) };\n  rollbackAll = true;\n  name = \"web\";";
    let text =
        "import { atLeast, hours, seconds, test, wave } from \"tidegate\";\n".to_owned() + &web(members);
    let organisation = "import { Organisation } from \"tidegate\";\nexport default new Organisation({\n  name: \"acme\",\n  users: [{ name: \"alice\", roles: [\"administrator\"] }],\n  teams: [{ name: \"shop\", members: [\"alice\"], windows: { weekly: { timeZone: \"Europe/Berlin\", open: [{ days: [\"monday\"], hours: \"09:00-16:00\" }] } } }],\n  services: [{ name: \"web\", team: \"shop\", alarms: [{ name: \"Slow\", metric: { latency: { percentile: \"p99\" } }, threshold: 500 }] }],\n  regions: [{ name: \"north\", azs: [\"a\"], traffic: 1 }],\n});\n";
    let files = [("team.ts", TEAM), ("web.ts", &*text), ("organisation.ts", organisation)];
    assert_eq!(compile(&program, &files), "");
    crate::run(&files[..2]).unwrap();
    crate::run(&files[2..]).unwrap();
}

/// The examples that the documentation shows and the benchmark measures.
#[test]
fn the_examples_compile() {
    let Some(program) = compiler() else { return };
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let read = |path: &str| fs::read_to_string(root.join(path)).unwrap();
    let names = ["organisation.ts", "orders.ts", "team.ts"];
    let texts = names.map(|name| read(&format!("docs/simulate/pipelines/{name}")));
    let files: Vec<(&str, &str)> = names.into_iter().zip(texts.iter().map(String::as_str)).collect();
    assert_eq!(compile(&program, &files), "");
    crate::run(&files).unwrap();
    let names = ["assets", "backend", "frontend", "infrastructure", "organisation", "team"]
        .map(|n| format!("{n}.ts"));
    let texts = names.each_ref().map(|name| read(&format!("crates/cli/src/demo/pipelines/{name}")));
    let place =
        "export const pages = \"http://127.0.0.1:1\";\nexport const repositories = \"/repositories\";\n";
    let demo = names.iter().map(String::as_str).zip(texts.iter().map(String::as_str));
    let demo: Vec<(&str, &str)> = demo.chain([("place.ts", place)]).collect();
    assert_eq!(compile(&program, &demo), "");
    crate::run(&demo).unwrap();
    assert_eq!(compile(&program, &[("team.ts", &read("crates/bench/src/synth/team.ts"))]), "");
}

#[test]
fn what_is_wrong_does_not() {
    let Some(program) = compiler() else { return };
    for members in [
        "  boxesPerAz = \"3\";",
        "  drainTimeout = 30;",
        "  drainTimeout = \"30 seconds\";",
        "  service = 7;",
        "  command = \"./web\";",
        "  bake() { return { onebox: 1 }; }",
        "  bake(): Bake { return { oneBox: hours(1), firstwave: hours(1) }; }",
        "  tests() { return [\"./itest\"]; }",
        "  stages() { return [production({ boxes: 3 })]; }",
        "  stages() { return [beta({ regions: \"north\" })]; }",
        "  build() { return { steps: [] }; }",
        "  environment() { return { PORT: 80 }; }",
        "  rolling() { return { healthyFor: minutes(\"1\") }; }",
        "  health = { timeout: seconds(1) };",
        "  override boxesPerAZ = 3;",
    ] {
        let imports = "import { type Bake, beta, hours, minutes, production, seconds } from \"tidegate\";\nexport type Used = Bake;\nexport const used = [beta, hours, minutes, production, seconds];\n";
        let text = imports.to_owned() + &web(members);
        let said = compile(&program, &[("team.ts", TEAM), ("web.ts", &text)]);
        assert!(said.contains("web.ts("), "{members} compiles: {said}");
    }
    for text in [
        "class X extends ApplicationPipeline { service = \"x\"; command = [\"./x\"]; }",
        "new ApplicationPipeline();",
        "new Organisation({ name: \"acme\" });",
    ] {
        let text = format!(
            "import {{ ApplicationPipeline, Organisation }} from \"tidegate\";\nexport const used = [ApplicationPipeline, Organisation];\n{text}\n"
        );
        let said = compile(&program, &[("a.ts", &text)]);
        assert!(said.contains("a.ts("), "{text} compiles: {said}");
    }
}

#[test]
fn the_declarations_are_those_of_the_library() {
    let Some(program) = compiler() else { return };
    let dir = tempfile::tempdir().unwrap();
    let library = dir.path().join("tidegate.ts");
    fs::write(&library, tidegate_synth::SOURCE).unwrap();
    let arguments =
        ["--declaration", "--emitDeclarationOnly", "--strict", "--target", "es2022", "--module", "esnext"];
    let output = Command::new("node").arg(&program).args(arguments).arg(&library).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    let made = fs::read_to_string(dir.path().join("tidegate.d.ts")).unwrap();
    expect_test::expect_file!["../../library/tidegate.d.ts"].assert_eq(&made);
}

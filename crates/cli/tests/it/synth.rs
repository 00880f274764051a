//! Pipelines as code, as a user meets them: from an empty repository to a simulation, without a server.

use crate::world::Told;
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::Command;
use tempfile::TempDir;

fn tidegate(dir: &Path, args: &[&str]) -> Told {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    let output = command.args(args).current_dir(dir).env_remove("TIDEGATE_DATA").output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Told { code: output.status.code().unwrap(), out: text(output.stdout), talk: text(output.stderr) }
}

/// A repository with a Cargo.toml, as `init` has left it.
fn repository() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("Cargo.toml"), "[package]\nname = \"web\"\n").unwrap();
    let told = tidegate(dir.path(), &["init"]);
    assert_eq!(told.code, 0, "{}", told.talk);
    dir
}

#[test]
fn init_writes_a_folder_that_is_right_and_overwrites_nothing() {
    let dir = repository();
    let team = dir.path().join("pipelines/team.ts");
    fs::write(&team, fs::read_to_string(&team).unwrap() + "// mine\n").unwrap();
    let again = tidegate(dir.path(), &["init"]).well();
    assert_eq!(again.lines().filter(|line| line.starts_with("kept")).count(), 5, "{again}");
    assert!(fs::read_to_string(&team).unwrap().ends_with("// mine\n"));
    let checked = tidegate(dir.path(), &["check"]).well();
    for part in
        ["web-app (./pipelines/web.ts, class Web)", "cargo test --release", "wave-2", "takes at least"]
    {
        assert!(checked.contains(part), "{part}: {checked}");
    }
}

#[test]
fn synth_prints_the_same_definitions_each_time() {
    let dir = repository();
    let first = tidegate(dir.path(), &["synth"]).well();
    assert_eq!(first, tidegate(dir.path(), &["synth", "pipelines"]).well());
    let lines: Vec<Value> = first.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines[0]["schema"], "tidegate.organisation/1");
    assert_eq!(lines[1]["name"], "web-app");
    let json: Value = serde_json::from_str(&tidegate(dir.path(), &["synth", "--json"]).well()).unwrap();
    assert_eq!(json["documents"][1]["definition"], lines[1]);
    assert_eq!(json["documents"][1]["digest"].as_str().unwrap().len(), "sha256:".len() + 64);
    let schema: Value =
        serde_json::from_str(&tidegate(dir.path(), &["synth", "--schema", "pipeline"]).well()).unwrap();
    assert!(schema["properties"]["stages"].is_object());
}

#[test]
fn a_rule_that_is_broken_is_shown_at_its_line_and_is_exit_code_1() {
    let dir = repository();
    let web = dir.path().join("pipelines/web.ts");
    let text = fs::read_to_string(&web).unwrap().replace("  service", "  boxesPerAz = 0;\n  service");
    fs::write(&web, text).unwrap();
    for word in ["check", "simulate"] {
        let told = tidegate(dir.path(), &[word, "pipelines"]);
        assert_eq!(told.code, 1, "{}", told.talk);
        assert!(told.talk.contains("TG129: an AZ has at least one box"), "{}", told.talk);
        assert!(told.talk.contains("boxesPerAz = 0;\n"), "{}", told.talk);
    }
    let json = tidegate(dir.path(), &["check", "--json"]);
    let told: Value = serde_json::from_str(&json.talk).unwrap();
    assert_eq!(told["problems"][0]["code"], "TG129");
}

#[test]
fn a_folder_is_simulated_and_checked_with_files() {
    let dir = repository();
    let args =
        ["simulate", "pipelines", "--pipeline", "web-app", "--commits", "1", "--length", "1d", "--json"];
    let forecast: Value = serde_json::from_str(&tidegate(dir.path(), &args).well()).unwrap();
    assert_eq!(forecast["totals"]["changes_everywhere"], 1);
    let lines = tidegate(dir.path(), &["synth"]).well();
    for (name, line) in ["organisation.json", "web.json"].iter().zip(lines.lines()) {
        fs::write(dir.path().join(name), line).unwrap();
    }
    let checked = tidegate(dir.path(), &["check", "organisation.json", "web.json"]).well();
    assert!(checked.starts_with("web-app (web.json)"), "{checked}");
}

#[test]
fn what_init_proposes_is_right_for_each_kind_of_repository() {
    for (file, text) in [
        ("Cargo.toml", "[package]\nname = \"web\"\n"),
        ("package.json", r#"{"name": "web", "scripts": {"build": "true", "test": "true"}}"#),
        ("pyproject.toml", "[project]\nname = \"web\"\n[tool.pytest.ini_options]\n"),
        ("go.mod", "module git.acme.test/web\n"),
        ("pom.xml", "<project><artifactId>web</artifactId><version>1</version></project>"),
        ("README", ""),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let repository = dir.path().join("web");
        fs::create_dir(&repository).unwrap();
        fs::write(repository.join(file), text).unwrap();
        tidegate(&repository, &["init"]).well();
        let lines = tidegate(&repository, &["synth"]).well();
        assert_eq!(lines.lines().count(), 2, "{file}: {lines}");
        let checked = tidegate(&repository, &["check"]).well();
        assert!(checked.starts_with("web-app ("), "{file}: {checked}");
    }
}

/// Runs the proposed commands one after the other, without network, in the repository; then looks for what is packaged.
fn build(repository: &Path) {
    tidegate(repository, &["init"]).well();
    let lines = tidegate(repository, &["synth"]).well();
    let pipeline: Value = serde_json::from_str(lines.lines().nth(1).unwrap()).unwrap();
    for step in pipeline["build"]["steps"].as_array().unwrap() {
        let run: Vec<&str> = step["run"].as_array().unwrap().iter().map(|w| w.as_str().unwrap()).collect();
        let mut command = Command::new(run[0]);
        // The cache of this machine stands for the build's; there is nothing to fetch.
        command.args(&run[1..]).current_dir(repository).env_remove("CARGO_TARGET_DIR");
        let output = command.output().unwrap();
        assert!(output.status.success(), "{run:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    for path in pipeline["build"]["package"].as_array().unwrap() {
        assert!(repository.join(path["from"].as_str().unwrap()).exists(), "{path}");
    }
}

#[test]
fn what_init_proposes_for_cargo_builds_and_tests() {
    let dir = tempfile::tempdir().unwrap();
    let files = [
        ("Cargo.toml", "[package]\nname = \"my_web\"\nedition = \"2024\"\n[workspace]\n"),
        ("Cargo.lock", "version = 4\n[[package]]\nname = \"my_web\"\nversion = \"0.0.0\"\n"),
        ("src/main.rs", "fn main() {}\n#[test]\nfn it_is_tested() {}\n"),
    ];
    fs::create_dir(dir.path().join("src")).unwrap();
    files.iter().for_each(|(name, text)| fs::write(dir.path().join(name), text).unwrap());
    build(dir.path());
}

#[test]
fn what_init_proposes_for_npm_builds_and_tests() {
    if Command::new("npm").arg("--version").output().is_err() {
        eprintln!("SKIPPED: npm is not on this machine");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let script = r#"{"name": "web", "version": "1.0.0", "scripts": {"build": "echo 1 > built", "test": "test -f built"}}"#;
    let lock = r#"{"name": "web", "version": "1.0.0", "lockfileVersion": 3, "packages": {"": {"name": "web", "version": "1.0.0"}}}"#;
    fs::write(dir.path().join("package.json"), script).unwrap();
    fs::write(dir.path().join("package-lock.json"), lock).unwrap();
    build(dir.path());
    assert!(dir.path().join("built").exists());
}

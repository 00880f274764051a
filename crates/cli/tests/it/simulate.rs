//! `tidegate simulate` as a user meets it: without a server, on files.

use crate::world::Told;
use expect_test::expect;
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use tempfile::TempDir;
use tidegate_sim::forecast::Forecast;

/// The files of docs/simulate.md.
fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/simulate").join(name)
}

fn told(output: Output) -> Told {
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Told { code: output.status.code().unwrap(), out: text(output.stdout), talk: text(output.stderr) }
}

fn tidegate(dir: &Path, args: &[&str]) -> Told {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    told(command.arg("simulate").args(args).current_dir(dir).env_remove("TIDEGATE_DATA").output().unwrap())
}

/// Two Regions and a pipeline with short bakes, in a folder of their own.
fn folder() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let organisation = json!({
        "schema": "tidegate.organisation/1", "name": "acme", "users": [{"name": "alice"}],
        "teams": [{"name": "shop", "members": ["alice"]}], "services": [{"name": "web", "team": "shop"}],
        "regions": [
            {"name": "north", "azs": ["a"], "traffic": 1}, {"name": "south", "azs": ["a"], "traffic": 3}
        ]
    });
    let pipeline = |bake: &str| {
        json!({
            "schema": "tidegate.pipeline/1", "name": "web-app", "service": "web",
            "sources": [{"name": "code", "url": "https://git.invalid/web"}],
            "build": {"package": [{"from": "bin", "to": "bin"}]},
            "run": {"engine": {"process": {"command": ["bin/web"], "health": {"path": "/health"}}}},
            "stages": [{"environment": "production", "one_box": true, "bake": {"first_wave": bake}}]
        })
    };
    write(&dir, "organisation.json", &organisation);
    write(&dir, "pipeline.json", &pipeline("12h"));
    write(&dir, "hasty.json", &pipeline("1h"));
    dir
}

fn write(dir: &TempDir, name: &str, value: &Value) {
    fs::write(dir.path().join(name), format!("{value:#}")).unwrap();
}

const FILES: [&str; 2] = ["organisation.json", "pipeline.json"];

fn simulate(dir: &TempDir, more: &[&str]) -> Told {
    tidegate(dir.path(), &[&FILES, more].concat())
}

#[test]
fn the_example_s_change_goes_everywhere() {
    let folder = example("pipelines");
    let dir = tempfile::tempdir().unwrap();
    let svg = dir.path().join("waves.svg");
    let args = [
        folder.to_str().unwrap(),
        "--commits",
        "1",
        "--length",
        "1d",
        "--json",
        "--svg",
        svg.to_str().unwrap(),
    ];
    let forecast: Forecast = serde_json::from_str(&tidegate(dir.path(), &args).well()).unwrap();
    assert_eq!((forecast.schema.as_str(), forecast.totals.changes_everywhere), ("tidegate.forecast/1", 1));
    let targets: usize = forecast.steps.iter().filter(|s| s.stage != "gamma").map(|s| s.targets).sum();
    assert_eq!(targets, 76 + 24);
    assert!(fs::read_to_string(svg).unwrap().starts_with("<svg "));
    // What the page shows of faults is read as well.
    let burn: Value = serde_json::from_str(&fs::read_to_string(example("slow-burn.json")).unwrap()).unwrap();
    assert_eq!(burn["schema"], "tidegate.scenario/1");
    serde_json::from_value::<tidegate_sim::forecast::Scenario>(burn).unwrap();
}

/// K4, of what a folder of TypeScript makes: ten changes a day, time counted without Saturdays and Sundays.
#[test]
fn a_change_of_the_example_takes_four_to_five_business_days() {
    let dir = tempfile::tempdir().unwrap();
    let args = [example("pipelines").to_str().unwrap(), "--commits", "10", "--json"].map(str::to_owned);
    let told = tidegate(dir.path(), &args.each_ref().map(String::as_str)).well();
    let forecast: Forecast = serde_json::from_str(&told).unwrap();
    assert!(forecast.stuck.is_none(), "{told}");
    let day = 86_400_000;
    let median = forecast.totals.business_time_median.unwrap().millis();
    assert!((4 * day..=5 * day).contains(&median), "{:?}", forecast.totals);
}

#[test]
fn a_fault_is_caught_and_two_definitions_are_compared() {
    let dir = folder();
    let common =
        ["--commits", "1", "--length", "1d", "--fault", "regression,release=2,faults=50,region=south"];
    let text = simulate(&dir, &common).well();
    assert!(
        text.contains("r2 rejected Tue 06 Jan 02:10, 1m later,") && text.contains("in wave-2/one-box:"),
        "{text}"
    );
    let text = simulate(&dir, &[&common[..], &["--compare", "hasty.json"]].concat()).well();
    assert!(text.contains("hasty.json is ") && text.contains(" faster than pipeline.json"), "{text}");
    let json = simulate(&dir, &[&common[..], &["--compare", "hasty.json", "--json"]].concat()).well();
    let comparison: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(comparison["schema"], "tidegate.comparison/1");
}

#[test]
fn commits_come_as_they_did_in_a_repository() {
    let dir = folder();
    let repo = dir.path().join("web");
    let git = |args: &[&str], date: &str| {
        let mut command = Command::new("git");
        command.args(["-c", "user.name=a", "-c", "user.email=a@acme.test", "-c", "commit.gpgsign=false"]);
        command
            .args(args)
            .current_dir(dir.path())
            .env("GIT_COMMITTER_DATE", date)
            .env("GIT_AUTHOR_DATE", date);
        command.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1");
        let output = command.output().unwrap();
        assert!(output.status.success(), "{output:?}");
    };
    let at = "2026-03-02T10:00:00Z";
    git(&["init", "--quiet", "--initial-branch=main", "web"], at);
    for date in ["2026-01-01T00:00:00Z", "2026-03-02T10:00:00Z", "2026-03-03T09:30:00Z"] {
        git(&["-C", "web", "commit", "--quiet", "--allow-empty", "-m", "a change"], date);
    }
    let json = simulate(&dir, &["--git", repo.to_str().unwrap(), "--length", "3d", "--json"]).well();
    let forecast: Forecast = serde_json::from_str(&json).unwrap();
    let merged: Vec<String> =
        forecast.releases.iter().flat_map(|r| &r.changes).map(|c| c.at.to_string()).collect();
    assert_eq!(merged, ["2026-03-02T10:00:00.000Z", "2026-03-03T09:30:00.000Z"]);
    let missing = simulate(&dir, &["--git", "nowhere"]);
    assert!(
        missing.code == 1 && missing.talk.contains("failed to read the history of nowhere"),
        "{missing:?}"
    );
}

#[test]
fn bad_files_are_told_with_their_place() {
    let dir = folder();
    let check = |scenario: Value, expected: expect_test::Expect| {
        write(&dir, "scenario.json", &scenario);
        let told = simulate(&dir, &["scenario.json"]);
        assert_eq!((told.code, told.out.as_str()), (3, ""), "{told:?}");
        expected.assert_eq(&told.talk);
    };
    check(
        json!({"schema": "tidegate.scenario/1", "faults": [{"blind": {"region": "mars", "from": "1h", "until": "2h"}}]}),
        expect![[r#"
            tidegate: TG008: it cannot be simulated: 1 finding

            TG203: the pipeline does not deploy to 'mars' there
              at scenario.json:6:19 (/faults/0/blind/region)
                6 |         "region": "mars",
                  |                   ^^^^^^
              hint: known here: north, south

            hint: mend what the findings say; 'tidegate simulate --schema' describes scenarios
        "#]],
    );
    check(
        json!({"schema": "tidegate.scenario/1", "lenght": "1d"}),
        expect![[r#"
        tidegate: TG008: it cannot be simulated: 1 finding

        TG103: unknown field 'lenght'
          at scenario.json:2:3 (/lenght)
            2 |   "lenght": "1d",
              |   ^^^^^^^^
          hint: did you mean "length"?

        hint: mend what the findings say; 'tidegate simulate --schema' describes scenarios
    "#]],
    );
    check(
        json!({"schema": "tidegate.scenario/1", "length": "soon"}),
        expect![[r#"
        tidegate: TG008: it cannot be simulated: 1 finding

        TG104: 'soon' is not a span of time: write a whole number and a unit, such as 90s, 1h30m or 250ms
          at scenario.json:2:13 (/length)
            2 |   "length": "soon",
              |             ^^^^^^
          hint: write a whole number and a unit, such as 90s, 1h30m or 250ms

        hint: mend what the findings say; 'tidegate simulate --schema' describes scenarios
    "#]],
    );
    let flag = simulate(&dir, &["--fault", "sick-box,release=2,region=mars"]);
    assert!(flag.code == 3 && flag.talk.contains("TG203"), "{flag:?}");
    let usage = tidegate(dir.path(), &["pipeline.json"]);
    assert!(usage.code == 2 && usage.talk.contains("organisation"), "{usage:?}");
}

#[test]
fn what_never_ends_is_no_success() {
    let dir = folder();
    let path = dir.path().join("organisation.json");
    let mut organisation: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    organisation["teams"][0]["windows"] = json!({"weekly": {"time_zone": "UTC", "open": []}});
    write(&dir, "organisation.json", &organisation);
    let told = simulate(&dir, &["--commits", "1", "--length", "1d"]);
    assert_eq!(told.code, 1, "{told:?}");
    assert!(told.out.contains("r2 waits for wave-1/one-box since"), "{told:?}");
    assert!(told.out.contains("outside the deployment window, which does"), "{told:?}");
    assert!(told.talk.contains("not everything arrives"), "{told:?}");
}

#[test]
fn the_schema_of_scenarios_can_be_read() {
    let schema: Value = serde_json::from_str(&tidegate(Path::new("."), &["--schema"]).well()).unwrap();
    assert!(schema["properties"]["faults"].is_object(), "{schema}");
}

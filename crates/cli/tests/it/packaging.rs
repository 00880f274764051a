//! What is shipped beside the binary: the alert rules, tried with Prometheus's own tool against figures that a server really tells,
//! and the systemd unit, whose command line is run.

use crate::world::{World, alive, definitions, run};
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

fn packaging(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../packaging").join(name)
}

/// Whether a program is installed; else says so loudly.
fn is_there(program: &str, package: &str) -> bool {
    let there = Command::new(program).arg("--version").output().is_ok();
    if !there {
        eprintln!("SKIPPED: {program} is not installed (on Debian: {package})");
    }
    there
}

#[test]
fn the_alert_rules_are_right_and_fire_when_they_should() {
    if !is_there("promtool", "prometheus") {
        return;
    }
    let told = run(Command::new("promtool").args(["check", "rules"]).arg(packaging("tidegate.rules.yml")));
    assert_eq!(told.code, 0, "{told:?}");
    let told =
        run(Command::new("promtool").args(["test", "rules"]).arg(packaging("tidegate.rules.test.yml")));
    assert_eq!(told.code, 0, "{told:?}");
}

#[test]
fn the_figures_are_those_that_the_rules_ask_for() {
    let world = World::start();
    let repo = world.repo("shop");
    world.land(&repo, &[]);
    world.apply("app", &definitions::application(&repo)).well();
    world.until_passed("app", 1);
    let folder = world.dir().join("backup");
    world.cli(&["backup", folder.to_str().unwrap()]).well();
    let page = world.until("the disk was looked at", || {
        Some(world.get("/metrics")).filter(|page| page.contains("tidegate_disk_used_bytes{"))
    });
    let names: BTreeSet<&str> = page
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| line.split(['{', ' ']).next().unwrap())
        .collect();
    let rules = fs::read_to_string(packaging("tidegate.rules.yml")).unwrap();
    let asked = rules.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let asked: BTreeSet<&str> = asked.filter(|word| word.starts_with("tidegate_")).collect();
    assert!(asked.len() > 8, "{asked:?}");
    let missing: Vec<_> = asked.difference(&names).collect();
    assert!(missing.is_empty(), "{missing:?} are not told:\n{page}");
    // What really happened is counted.
    let value = |sample: &str| -> f64 {
        let line = page.lines().find(|line| line.starts_with(&format!("{sample} ")));
        line.unwrap_or_else(|| panic!("{sample} is missing:\n{page}"))
            .rsplit_once(' ')
            .unwrap()
            .1
            .parse()
            .unwrap()
    };
    assert_eq!(value(r#"tidegate_effect_tries_total{effect="build",end="done"}"#), 1.0);
    assert!(value(r#"tidegate_effect_latency_seconds_count{effect="deploy"}"#) >= 1.0);
    assert_eq!(value(r#"tidegate_builds_total{result="built"}"#), 1.0);
    assert_eq!(value(r#"tidegate_pipelines{life="active"}"#), 1.0);
    assert_eq!(value("tidegate_fleet_up"), 1.0);
    assert_eq!(value("tidegate_store_reserve_held"), 1.0);
    assert!(value(r#"tidegate_decisions_total{aggregate="pipeline",outcome="committed"}"#) > 5.0);
    assert!(value("tidegate_epoch") >= 1.0 && value("process_resident_memory_bytes") > 1e6);
    assert!(!page.contains("pipeline=\"app\""), "not by pipeline, unless it is asked for");
    let by_pipeline = world.try_get("/metrics?pipelines=true").unwrap();
    assert!(by_pipeline.contains("# TYPE tidegate_pipeline_steps gauge"), "{by_pipeline}");
    // How many series there are does not depend on how many pipelines there are.
    let mut another = definitions::application(&repo);
    another["name"] = "other".into();
    world.apply("other", &another).well();
    let series = |page: &str| page.lines().filter(|line| !line.starts_with('#')).count();
    let more = world.get("/metrics");
    assert!(more.contains(r#"tidegate_pipelines{life="active"} 2"#), "{more}");
    assert_eq!(series(&more), series(&page));
    let told = crate::world::get(&world.address().unwrap(), "/metrics", None).unwrap();
    assert_eq!(told.0, 401, "a token is needed");
    if is_there("promtool", "prometheus") {
        let path = world.dir().join("page");
        fs::write(&path, &page).unwrap();
        let mut lint = Command::new("promtool");
        lint.args(["check", "metrics"]).stdin(fs::File::open(&path).unwrap());
        let output = lint.output().unwrap();
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success() && words.is_empty(), "{words}");
    }
}

#[test]
fn a_rollback_is_measured_and_told_in_lines_with_release_and_target() {
    let world = World::start();
    world.end_server();
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    world.start_by(command.env("TIDEGATE_LOG_FORMAT", "json"), &[]);
    let repo = world.repo("shop");
    world.land(&repo, &[]);
    let mut definition = definitions::application(&repo);
    world.apply("app", &definition).well();
    world.until_passed("app", 1);
    definition["stages"][0]["bake"]["az"] = serde_json::json!("1h");
    world.apply("app", &definition).well();
    world.land(&repo, &[("version", "2")]);
    world.until("r2 bakes", || world.told().iter().any(|t| t.contains("bakes for 1h")).then_some(()));
    world.bob(&["rollback", "app", "r2", "--reason", "it looks wrong"]).well();
    world.until("the rollback is measured", || {
        world.get("/metrics").contains("tidegate_rollback_duration_seconds_count 1\n").then_some(())
    });
    let page = world.get("/metrics");
    assert!(page.contains("tidegate_rejections_total 1\n"), "{page}");
    let log = fs::read_to_string(world.dir().join("server.log")).unwrap();
    let lines: Vec<serde_json::Value> =
        log.lines().filter(|l| l.starts_with('{')).map(|line| serde_json::from_str(line).unwrap()).collect();
    let line = |text: &str| {
        lines.iter().find(|line| line["message"].as_str().is_some_and(|m| m.contains(text))).expect(text)
    };
    let ordered = line("rollback of r2 ordered by bob: it looks wrong");
    assert_eq!(
        (&ordered["pipeline"], &ordered["release"], &ordered["by"]),
        (&"app".into(), &"r2".into(), &"bob".into())
    );
    let back = line("returns from r2 to r1");
    assert_eq!((&back["release"], &back["target"]), (&"r1,r2".into(), &"shop/beta/eu/a/main".into()));
    assert!(back["position"].is_u64() && back["timestamp"].is_string() && back["level"] == "INFO");
}

/// What the unit's service runs, with the program and the data directory of a test.
fn exec_start(world: &World) -> Vec<String> {
    let unit = fs::read_to_string(packaging("tidegate.service")).unwrap();
    let line = unit.lines().find_map(|line| line.strip_prefix("ExecStart=")).unwrap();
    let (binary, data) = (env!("CARGO_BIN_EXE_tidegate"), world.data());
    let words = line.split(' ').map(|word| match word {
        "/usr/local/bin/tidegate" => binary.to_owned(),
        "/var/lib/tidegate" => data.to_str().unwrap().to_owned(),
        other => other.to_owned(),
    });
    words.collect()
}

#[test]
fn the_units_command_serves_says_that_it_is_ready_and_leaves_boxes_when_it_ends() {
    let unit = fs::read_to_string(packaging("tidegate.service")).unwrap();
    for line in ["Type=notify", "KillMode=process", "OOMPolicy=continue", "Restart=always"] {
        assert!(unit.lines().any(|l| l == line), "{line}");
    }
    let world = World::start();
    let repo = world.repo("shop");
    world.land(&repo, &[]);
    world.apply("app", &definitions::application(&repo)).well();
    world.until_passed("app", 1);
    let (boxes, fleet) = (world.box_pids(), world.fleet_pid().unwrap());
    world.end_server();

    let socket = world.dir().join("notify");
    let manager = UnixDatagram::bind(&socket).unwrap();
    manager.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let hear = || {
        let mut bytes = [0; 256];
        let count = manager.recv(&mut bytes).expect("the service tells of itself in time");
        String::from_utf8(bytes[..count].to_vec()).unwrap()
    };
    let words = exec_start(&world);
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).args(["--listen", "127.0.0.1:0"]).env("NOTIFY_SOCKET", &socket);
    world.start_as_it_is(&mut command);
    let heard = hear();
    let address = world.address().expect("it serves when it says so");
    assert_eq!(heard, format!("READY=1\nSTATUS=serves at http://{address}"));
    // As systemd does with KillMode=process: the main process is told, and nobody else.
    world.end_server();
    assert_eq!(hear(), "STOPPING=1");
    assert_eq!(world.fleet_pid(), Some(fleet));
    assert_eq!(world.box_pids(), boxes);
    assert!(boxes.iter().all(|(_, pid)| alive(u32::try_from(pid.as_u64().unwrap()).unwrap())));
    world.restart_server();
}

#[test]
fn systemd_understands_the_units() {
    if !is_there("systemd-analyze", "systemd") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    for name in ["tidegate.service", "tidegate-standby.service"] {
        let unit = fs::read_to_string(packaging(name)).unwrap();
        let unit = unit.replace("/usr/local/bin/tidegate", env!("CARGO_BIN_EXE_tidegate"));
        let path = dir.path().join(name);
        fs::write(&path, unit).unwrap();
        let told = run(Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&path));
        let about: Vec<&str> = told.talk.lines().filter(|line| line.contains("tidegate")).collect();
        assert!(told.code == 0 && about.is_empty(), "{told:?}");
    }
}

#[test]
fn both_units_run_the_same_and_either_waits_for_the_other() {
    let lines = |name: &str| -> Vec<String> {
        let unit = fs::read_to_string(packaging(name)).unwrap();
        let told = |line: &&str| !line.is_empty() && !line.starts_with('#');
        let apart = |line: &&str| line.starts_with("Description=") || line.starts_with("After=");
        unit.lines().filter(told).filter(|line| !apart(line)).map(str::to_owned).collect()
    };
    assert_eq!(lines("tidegate.service"), lines("tidegate-standby.service"));
    assert!(lines("tidegate.service").iter().any(|l| l.contains("tidegate serve --standby --data ")));
}

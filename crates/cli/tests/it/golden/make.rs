//! Makes the golden data directory of this version: a real server is brought into the middle of everything, and then the machine
//! dies. `./run golden` does it, once for each release.

use super::place::{self, LONG, PLACE, pipeline};
use super::{ARCHIVES, archives};
use crate::world::{Repo, World, run, steps};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use tidegate_api::{BuildStatus, MotionStatus, PipelineStatus, WorkStatus};

/// What a team's command looks after: one file. It says of itself what it was made from.
const TOOL: &str = r#"#!/bin/sh
case $1 in
    deploy) cp "$TIDEGATE_PACKAGE_DIR/tools/version" "$CONTROL/live" ;;
    observe)
        if cmp -s "$TIDEGATE_PACKAGE_DIR/tools/version" "$CONTROL/live"; then
            echo "{\"boxes\": [{\"id\": \"live\", \"run_spec\": \"$TIDEGATE_RUN_SPEC\", \"healthy\": true}]}"
        else
            echo '{"boxes": []}'
        fi ;;
esac
"#;
/// A build of a version that is not the first takes this long.
const SLOW_BUILD: &str = "set -e; mkdir out; [ \"$(cat version)\" = 1 ] || sleep 8; cp run version behaviour out; chmod +x out/run\n";
/// What is in the data directory, and in the folder around it, that an upgrade meets.
const PACKED: [&str; 13] = [
    "control",
    "repositories",
    "data/admin-token",
    "data/tokens.json",
    "data/store/tidegate.db",
    "data/store/tidegate.db-wal",
    "data/store/lock",
    "data/keys",
    "data/secrets",
    "data/packages",
    "data/commands",
    "data/fleet",
    "data/logs",
];

#[test]
#[ignore = "makes a golden data directory: ./run golden"]
fn make_a_golden_data_directory() {
    let archive = Path::new(ARCHIVES).join(format!("{}.tar.gz", env!("CARGO_PKG_VERSION")));
    assert!(
        !archives().contains(&archive),
        "{} is there: a release's archive is never made anew",
        archive.display()
    );
    assert!(place::can_have_a_place());
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("data")).unwrap();
    let world = place::start(dir, &[], &[]);
    let services = ["web", "back", "bakes", "slow", "looks", "assets"];
    world.apply("organisation", &place::organisation(&services)).well();
    let world = world.with_people();

    let [web, back, bakes, slow, looks, assets] = services.map(|name| world.repo(name));
    adopt(&world);
    world.land(&web, &[]);
    world.apply("web", &pipeline("web", 3)).well();
    let all_is_well = ["alarm", "report", "team", "beta/eu", "Web_Checks", "ok", "--why", "all checks pass"];
    world.bob(&all_is_well).well();
    world.until_passed("web", 1);
    settle(&world, &back, &pipeline("back", 3), "back");
    world.land(&bakes, &[]);
    let mut definition = pipeline("bakes", 1);
    definition["stages"][0]["bake"]["az"] = json!(LONG);
    world.apply("bakes", &definition).well();
    until_it_bakes(&world, "bakes", 1);
    world.bob(&["hold", "bakes", "--reason", "until the audit is over"]).well();
    world.land(&slow, &[("build.sh", SLOW_BUILD)]);
    world.apply("slow", &pipeline("slow", 1)).well();
    world.until_passed("slow", 1);
    let mut definition = pipeline("looks", 1);
    definition["mode"] = json!("observe-only");
    settle(&world, &looks, &definition, "looks");
    drop(assets);

    // What returns, what moves and what is built, each with some seconds to go.
    let mut definition = pipeline("back", 3);
    definition["stages"][0]["bake"]["az"] = json!(LONG);
    definition["rolling"]["healthy_for"] = json!("4s");
    world.apply("back", &definition).well();
    world.land(&back, &[("version", "2")]);
    until_it_bakes(&world, "back", 2);
    let mut definition = pipeline("web", 3);
    definition["rolling"]["healthy_for"] = json!("4s");
    world.apply("web", &definition).well();
    world.land(&web, &[("version", "2")]);
    let moves = |pipeline: &PipelineStatus| match motion(pipeline) {
        MotionStatus::Forward { settled, .. } => settled > 0,
        _ => false,
    };
    world.until("web moves", || moves(&world.pipeline("web")).then_some(()));
    world.bob(&all_is_well).well();
    world.bob(&["rollback", "back", "r2", "--reason", "it looks wrong"]).well();
    world.land(&slow, &[("version", "2")]);
    world.until("everything is under way at once", || {
        let status = world.status();
        let of = |name: &str| status.pipelines.iter().find(|p| p.name.as_str() == name).unwrap();
        let builds = of("slow").releases.iter().any(|r| matches!(r.build, BuildStatus::Building { .. }));
        let returns = matches!(motion(of("back")), MotionStatus::Back { .. });
        let page = status.troubles.iter().any(|t| t.what.contains("back: r2 is rolled back"));
        (builds && returns && page && moves(of("web"))).then_some(())
    });
    let fleet = world.fleet_pid().unwrap();
    world.kill_server();
    kill(fleet);
    for (_, pid) in world.box_pids() {
        kill(u32::try_from(pid.as_u64().unwrap()).unwrap());
    }
    pack(&world, &archive);
}

/// What ran before tidegate, and was handed over.
fn adopt(world: &World) {
    let command = |kind: &str| json!(["tools/tool.sh", kind]);
    let mut definition = pipeline("assets", 1);
    definition["build"]["package"] = json!([{"from": "out", "to": "tools"}]);
    definition["run"] = json!({
        "engine": {"command": {"shape": "one-unit", "deploy": command("deploy"), "observe": command("observe"),
            "time_limit": "20s"}},
        "environment": {"CONTROL": format!("{PLACE}/control")}
    });
    world.apply("assets", &definition).well();
    let (folder, control) = (world.dir().join("live/tools"), world.dir().join("control"));
    fs::create_dir_all(&folder).unwrap();
    fs::create_dir(&control).unwrap();
    fs::write(control.join("live"), "0").unwrap();
    fs::write(folder.join("version"), "0").unwrap();
    fs::write(folder.join("tool.sh"), TOOL).unwrap();
    fs::set_permissions(folder.join("tool.sh"), fs::Permissions::from_mode(0o755)).unwrap();
    let folder = format!("{PLACE}/live");
    let words =
        ["adopt", "assets", "--folder", &folder, "--environment", "beta", "--reason", "it ran for years"];
    world.cli(&words).well();
    world.until_everywhere("assets", 0);
}

/// The first release of a pipeline passes.
fn settle(world: &World, repo: &Repo, definition: &serde_json::Value, name: &str) {
    world.land(repo, &[]);
    world.apply(name, definition).well();
    world.until_passed(name, 1);
}

fn until_it_bakes(world: &World, name: &str, release: u64) {
    world.until("it bakes", || {
        let pipeline = world.pipeline(name);
        let work = steps(&pipeline).next()?.work.clone();
        matches!(work, WorkStatus::Baking { release: bakes, .. } if bakes.0 == release).then_some(())
    });
}

fn motion(pipeline: &PipelineStatus) -> MotionStatus {
    steps(pipeline).next().unwrap().targets[0].motion.clone()
}

fn kill(pid: u32) {
    let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    // One that was just ending is gone.
    let _ = kill_process(pid, Signal::KILL);
}

fn pack(world: &World, archive: &Path) {
    // Room for rollbacks, unpacked packages, and what git lays out in every repository: all of it is made anew.
    let left_out = [
        "reserve",
        "*.sock",
        "hooks",
        "in-use",
        "fleet.log",
        "*/fleet/boxes/*/*/package",
        "*/slots/*/packages",
    ];
    let mut tar = Command::new("tar");
    tar.arg("--directory").arg(world.dir()).args(["--sort=name", "--mtime=@0", "--owner=0", "--group=0"]);
    tar.args(["--numeric-owner", "--gzip"]).args(left_out.map(|name| format!("--exclude={name}")));
    let there = PACKED.iter().filter(|name| world.dir().join(name).exists());
    run(tar.arg("--create").arg("--file").arg(archive).args(there)).well();
    let bytes = fs::metadata(archive).unwrap().len();
    eprintln!("{}: {} KiB", archive.display(), bytes >> 10);
    assert!(bytes < 300 << 10, "{bytes} bytes are too many for a repository");
}

//! A service that ran before tidegate is handed over, with real processes and commands that nobody of tidegate's started.

use crate::world::{Repo, World, alive, definitions, get, release, steps, words};
use serde_json::json;
use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use tidegate_api::{BuildStatus, WorkStatus};

const TARGET: &str = "shop/beta/eu/a/main";

/// Stays the leader of the session that the program runs in, so that what runs can be seen to be this script.
const RUN: &str = r#"#!/bin/sh
here=$(dirname "$0")
BEHAVIOUR=good VERSION=$(cat "$here/version") "$TEST_EXE" role_box --exact --nocapture &
wait
"#;

/// A folder as the pipeline's package is, in which this version is.
fn folder(world: &World, name: &str, version: &str) -> PathBuf {
    let folder = world.dir().join(name);
    fs::create_dir_all(folder.join("app")).unwrap();
    fs::write(folder.join("app/run"), RUN).unwrap();
    fs::set_permissions(folder.join("app/run"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(folder.join("app/version"), version).unwrap();
    folder
}

/// A process that serves and was not started by tidegate; the processes of its session end with it.
struct Old(Child, u16);

impl Old {
    fn start(folder: &Path, session: bool) -> Old {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut command = if session { Command::new("setsid") } else { Command::new("env") };
        command.arg("app/run").current_dir(folder).stdin(Stdio::null()).stdout(Stdio::null());
        command.env("TEST_EXE", std::env::current_exe().unwrap());
        if !session {
            // A group of its own is not enough.
            command.process_group(0);
        }
        command
            .env("TIDEGATE_ADDRESS", format!("127.0.0.1:{port}"))
            .env("TIDEGATE_CONFIGURATION", "/nowhere");
        let old = Old(command.spawn().unwrap(), port);
        crate::world::wait_for(|| TcpStream::connect(("127.0.0.1", port)).ok()).expect("it serves");
        old
    }

    fn named(&self) -> String {
        format!("{TARGET}={}:{}", self.0.id(), self.1)
    }
}

impl Drop for Old {
    fn drop(&mut self) {
        if let Ok(None) = self.0.try_wait() {
            let pid = rustix::process::Pid::from_child(&self.0);
            let _ = rustix::process::kill_process_group(pid, rustix::process::Signal::KILL);
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
}

/// What is in the server's store of packages, and beside it.
fn packages(world: &World) -> Vec<PathBuf> {
    let folders = ["packages", "tests"].map(|name| world.data().join(name));
    let all = folders.iter().flat_map(|folder| fs::read_dir(folder).unwrap());
    let mut all: Vec<_> = all.map(|entry| entry.unwrap().path()).collect();
    all.sort();
    all
}

fn until_it_bakes(world: &World) {
    world.until("it bakes", || {
        let pipeline = world.pipeline("app");
        matches!(steps(&pipeline).next()?.work, WorkStatus::Baking { .. }).then_some(())
    });
}

fn adopt<'a>(folder: &'a Path, more: &[&'a str]) -> Vec<&'a str> {
    let mut words =
        vec!["adopt", "app", "--folder", folder.to_str().unwrap(), "--reason", "it ran for years"];
    words.extend(more);
    words
}

#[test]
fn processes_that_run_become_release_0_and_what_is_returned_to() {
    let world = World::start();
    let repo = world.repo("shop");
    // What is merged already would be deployed at once; where the pipeline only observes, it would only be. It is what runs.
    let build = "set -e; mkdir out; cp run version out; chmod +x out/run\n";
    world.land(&repo, &[("build.sh", build), ("run", RUN), ("version", "0")]);
    let mut definition = definitions::application(&repo);
    definition["mode"] = json!("observe-only");
    // What has passed keeps its release when that is taken back.
    definition["stages"][0]["bake"]["az"] = json!("1h");
    // A box that starts is told of for a while.
    let health = &mut definition["run"]["engine"]["process"]["health"];
    (health["interval"], health["healthy_after"]) = (json!("1s"), json!(2));
    world.apply("app", &definition).well();
    until_it_bakes(&world);
    let folder = folder(&world, "running", "0");
    let mut old = Old::start(&folder, true);
    let (pid, named) = (old.0.id(), old.named());

    let before = packages(&world);
    let dry = world.cli(&adopt(&folder, &["--box", &named, "--dry-run"])).well();
    assert!(
        dry.contains(&format!("process {pid} on port {}", old.1)) && dry.contains("would be r0"),
        "{dry}"
    );
    assert!(release(&world.pipeline("app"), 0).is_none(), "nothing has changed");
    assert_eq!(packages(&world), before, "nothing is kept");
    let told = world.cli(&adopt(&folder, &["--box", &named])).well();
    assert!(told.contains("this is r0 of app") && told.contains("nothing was deployed"), "{told}");
    // Its box has started long ago, and serves.
    let troubles = world.status().troubles;
    assert!(troubles.is_empty(), "{troubles:?}");
    let (code, body) = get(&world.endpoint("shop", "beta", "eu"), "/", None).unwrap();
    assert_eq!((code, body.as_str()), (200, "0"));
    world.until("it is known when r1 would be everywhere", || {
        release(&world.pipeline("app"), 1).unwrap().everywhere
    });
    assert_eq!(release(&world.pipeline("app"), 0).unwrap().everywhere, None, "it is on no way");

    definition["mode"] = json!("act");
    world.apply("app", &definition).well();
    world.until_everywhere("app", 0);
    let package = |number: u64| match release(&world.pipeline("app"), number).unwrap().build {
        BuildStatus::Built { package, .. } => package,
        other => panic!("{other:?}"),
    };
    assert_eq!(package(0), package(1), "what runs was built once more");
    let mut longer = definition.clone();
    let gamma = json!({"environment": "gamma", "regions": ["eu"], "boxes_per_az": 1});
    longer["stages"].as_array_mut().unwrap().push(gamma);
    world.apply("app", &longer).well();
    world.apply("app", &definition).well();
    world.until("the box is looked after", || world.box_records().into_iter().next());
    let process = |world: &World| world.box_records()[0].1["process"]["pid"].clone();
    assert_eq!(process(&world), json!(pid));
    let answers = |version: &str| {
        let endpoint = world.endpoint("shop", "beta", "eu");
        world.until(&format!("version {version} answers"), || {
            get(&endpoint, "/", None).filter(|(status, body)| *status == 200 && body == version)
        });
    };
    answers("0");
    let status = world.cli(&["status", "app"]).well();
    let handed = format!("ran before; handed over by admin from {}: it ran for years", folder.display());
    assert!(words(&status).contains(&handed), "{status}");
    assert!(
        world
            .told()
            .iter()
            .any(|line| line.starts_with("r0 is what runs on 1 targets, handed over by admin"))
    );
    let again = world.cli(&adopt(&folder, &["--box", &named]));
    assert!(again.code == 3 && again.talk.contains("was adopted already"), "{again:?}");

    // Whatever dies, the process goes on.
    world.kill_server();
    let fleet = world.fleet_pid().unwrap();
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(i32::try_from(fleet).unwrap()).unwrap(),
        rustix::process::Signal::KILL,
    )
    .unwrap();
    world.restart_server();
    answers("0");
    assert!(alive(pid));
    assert_eq!(process(&world), json!(pid));

    // The next release replaces it, and a rollback starts what was handed over.
    world.land(&repo, &[("version", "2")]);
    // A parent hears of its child's end.
    old.0.wait().unwrap();
    until_it_bakes(&world);
    answers("2");
    world.bob(&["rollback", "app", "r2", "--reason", "a drill"]).well();
    world.until_everywhere("app", 0);
    answers("0");
}

#[test]
fn what_could_not_be_returned_to_is_refused() {
    let world = World::start();
    let repo: Repo = world.repo("shop");
    world.apply("app", &definitions::application(&repo)).well();
    let right = folder(&world, "right", "0");
    let old = Old::start(&right, true);
    let ours = Old::start(&right, false);
    let named = old.named();
    // Whoever only looks is told the same.
    let refused = |folder: &Path, boxes: &[&str], part: &str| {
        for more in [&[][..], &["--dry-run"]] {
            let told = world.cli(&adopt(folder, &[boxes, more].concat()));
            assert!(told.code != 0 && words(&told.talk).contains(part), "{boxes:?} {more:?}: {told:?}");
        }
    };
    let wrong = folder(&world, "wrong", "0");
    fs::write(wrong.join("app/run"), "#!/bin/sh\nexec other\n").unwrap();
    refused(&wrong, &["--box", &named], "and not the bytes of");
    fs::remove_file(wrong.join("app/run")).unwrap();
    refused(&wrong, &["--box", &named], "the folder has no app/run, which the definition's command runs");
    refused(&world.dir().join("nothing"), &["--box", &named], "cannot use");
    let cloned = folder(&world, "cloned", "0");
    fs::create_dir(cloned.join(".git")).unwrap();
    refused(
        &cloned,
        &["--box", &named],
        "is a git repository, and not laid out as the pipeline's package is",
    );
    refused(&right, &[], "0 processes are named");
    refused(&right, &["--box", "shop/beta/eu=1"], "target");
    refused(&right, &["--box", &format!("{TARGET}=soon")], "'soon' names no process");
    refused(&right, &["--box", &format!("{TARGET}=4194304")], "there is no process 4194304");
    refused(&right, &["--box", &format!("{TARGET}={}:1", old.0.id())], "does not listen on port 1");
    refused(&right, &["--box", &ours.named()], "does not lead a session of its own");
    refused(&right, &["--box", &named, "--box", &named], "is named for shop/beta/eu/a/main already");
    refused(&right, &["--box", &named.replace("/a/", "/z/")], "app has no target 'shop/beta/eu/z/main'");
    let second = Old::start(&right, true);
    refused(
        &right,
        &["--box", &named, "--box", &second.named()],
        "has 1 boxes by its definition, and 2 are handed over",
    );
    let mut more = definitions::application(&repo);
    more["stages"][0]["one_box"] = json!(true);
    world.apply("app", &more).well();
    refused(&right, &["--box", &named], "nothing is named for shop/beta/eu/a/one-box");
    let member = world.bob(&adopt(&right, &["--box", &named]));
    assert!(member.code == 3 && member.talk.contains("bob is not an administrator"), "{member:?}");
    assert_eq!(world.pipeline("app").releases, []);
    assert_eq!(packages(&world), Vec::<PathBuf>::new(), "what is refused leaves nothing");
    assert!([&old, &ours, &second].iter().all(|each| alive(each.0.id())), "all of them go on");
}

/// What a team's command looks after: one file. It says of itself what it was made from.
const TOOL: &str = r#"#!/bin/sh
echo "$1" >> "$CONTROL/journal"
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

#[test]
fn what_commands_look_after_is_observed_and_not_deployed() {
    let world = World::start();
    let (repo, control) = (world.repo("assets"), world.dir().join("control"));
    fs::create_dir(&control).unwrap();
    let mut definition = definitions::application(&repo);
    let command = |kind: &str| json!(["tools/tool.sh", kind]);
    definition["build"]["package"] = json!([{"from": "out", "to": "tools"}]);
    definition["stages"][0]["bake"]["az"] = json!("1h");
    definition["run"] = json!({
        "engine": {"command": {"shape": "one-unit", "deploy": command("deploy"), "observe": command("observe"),
            "time_limit": "20s"}},
        "environment": {"CONTROL": control}
    });
    world.apply("app", &definition).well();
    let build = "set -e; mkdir out; cp tool.sh version out; chmod +x out/tool.sh\n";
    let folder = world.dir().join("live-folder");
    fs::create_dir_all(folder.join("tools")).unwrap();
    fs::write(folder.join("tools/tool.sh"), TOOL).unwrap();
    fs::set_permissions(folder.join("tools/tool.sh"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(folder.join("tools/version"), "0").unwrap();

    fs::write(control.join("live"), "something else").unwrap();
    let other = world.cli(&adopt(&folder, &[]));
    assert!(other.code == 3 && other.talk.contains("observe shows 0 instead of 1"), "{other:?}");
    fs::write(control.join("live"), "0").unwrap();
    let dry = world.cli(&adopt(&folder, &["--dry-run"])).well();
    assert!(dry.contains("shop/beta/eu/a/main  live") && dry.contains("would be r0"), "{dry}");
    assert_eq!(packages(&world), Vec::<PathBuf>::new(), "nothing is kept");
    world.cli(&adopt(&folder, &["--environment", "beta"])).well();
    let troubles = world.status().troubles;
    assert!(troubles.is_empty(), "{troubles:?}");
    world.until_everywhere("app", 0);
    let journal = || fs::read_to_string(control.join("journal")).unwrap();
    world.until("the engine has looked for itself", || (journal().lines().count() > 2).then_some(()));
    assert!(journal().lines().all(|line| line == "observe"), "{}", journal());

    world.land(&repo, &[("tool.sh", TOOL), ("build.sh", build), ("version", "1")]);
    until_it_bakes(&world);
    assert_eq!(fs::read_to_string(control.join("live")).unwrap(), "1");
    world.bob(&["rollback", "app", "r1", "--reason", "a drill"]).well();
    world.until_everywhere("app", 0);
    assert_eq!(fs::read_to_string(control.join("live")).unwrap(), "0", "deployed from what was handed over");
}

//! Two servers on one data directory: one works, the others wait, and one of them takes over when that one ends, however it ends.
//! There are never two, and customers notice nothing.

use crate::crash::motion;
use crate::world::{Told, World, alive, definitions, get, run, wait_for, words};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::fs::{self, File};
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tidegate_api::{MotionStatus, StandbyStatus};
use tidegate_fleet::protocol::{Code, SetSlot};
use tidegate_fleet::{FleetClient, FleetConfig};

/// Longer than a take-over may take even on a busy machine.
const TAKE_OVER_MAX: Duration = Duration::from_secs(30);

/// A server that waits, until it is taken from here or dropped.
struct Standby {
    child: Option<Child>,
}

impl Standby {
    /// Starts one, and waits until the server that works knows of it.
    fn start(world: &World, listen: &str) -> Standby {
        Standby::start_by(&mut Command::new(env!("CARGO_BIN_EXE_tidegate")), world, listen)
    }

    fn start_by(command: &mut Command, world: &World, listen: &str) -> Standby {
        let log = File::options().create(true).append(true).open(world.dir().join("server.log")).unwrap();
        command.args(["serve", "--standby", "--listen", listen, "--data"]).arg(world.data());
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).process_group(0);
        let standby = Standby { child: Some(command.spawn().unwrap()) };
        world.until("the server knows of its standby", || standby.seen(world));
        standby
    }

    fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    /// What the server that works says of it.
    fn seen(&self, world: &World) -> Option<StandbyStatus> {
        world.status().standbys.into_iter().find(|standby| standby.pid == self.pid())
    }

    /// Where it answers while it waits.
    fn address(&self, world: &World) -> String {
        self.seen(world).unwrap().url.unwrap()["http://".len()..].to_owned()
    }

    /// The world's server from now on, which it must become.
    fn takes_over(mut self, world: &World) {
        world.follow(self.child.take().unwrap());
    }

    /// Asks it to end, and waits until it has; how it ended.
    fn end(mut self) -> bool {
        let mut child = self.child.take().unwrap();
        signal(child.id(), Signal::TERM);
        wait_for(|| child.try_wait().unwrap()).expect("it ends when it is asked to").success()
    }
}

impl Drop for Standby {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn signal(pid: u32, signal: Signal) {
    kill_process(Pid::from_raw(i32::try_from(pid).unwrap()).unwrap(), signal).unwrap();
}

/// The error that a standby answers.
fn refusal(address: &str, path: &str) -> Option<Value> {
    let (status, body) = get(address, path, None)?;
    assert_eq!(status, 503, "{body}");
    let answer: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(answer["error"]["code"], "TG014", "{answer}");
    Some(answer["error"].clone())
}

/// The newest command of the application's slot that the fleet has accepted.
fn command(world: &World) -> SetSlot {
    let files = fs::read_dir(world.data().join("fleet/slots")).unwrap();
    let path =
        files.map(|entry| entry.unwrap().path()).find(|path| path.extension().is_some_and(|e| e == "json"));
    serde_json::from_slice(&fs::read(path.unwrap()).unwrap()).unwrap()
}

/// How the fleet refuses a command.
fn refused(world: &World, set: &SetSlot) -> Option<Code> {
    let client = FleetClient::new(FleetConfig::socket(&world.data().join("fleet")));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(client.set_slot(set)).unwrap_err().code()
}

/// Three boxes, whose rollout takes a while.
fn slow(world: &World, repo: &crate::world::Repo) {
    let mut definition = definitions::application(repo);
    definition["stages"][0]["boxes_per_az"] = json!(3);
    definition["rolling"]["healthy_for"] = json!("400ms");
    world.apply("app", &definition).well();
}

fn until_half_way(world: &World) {
    world.until("the first of three boxes runs the new release", || match motion(world) {
        MotionStatus::Forward { settled, .. } if settled > 0 => Some(()),
        _ => None,
    });
}

/// Calls an endpoint without a pause until it is told to end.
fn call(endpoint: &str, end: &AtomicBool, good: &AtomicU64, bad: &AtomicU64) {
    while !end.load(Ordering::SeqCst) {
        let well = get(endpoint, "/", None).is_some_and(|(status, _)| status == 200);
        (if well { good } else { bad }).fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn a_standby_takes_over_from_a_killed_server_in_the_middle_of_a_rollout() {
    let world = World::start();
    let repo = world.repo("shop");
    world.land(&repo, &[]);
    slow(&world, &repo);
    world.until_passed("app", 1);
    let eu = world.endpoint("shop", "beta", "eu");
    let before = command(&world);

    let standby = Standby::start(&world, "127.0.0.1:0");
    let (waits, works) = (standby.address(&world), world.address().unwrap());
    for path in ["/v1/health", "/v1/status", "/metrics", "/no/such/path"] {
        let error = refusal(&waits, path).unwrap();
        let message = error["message"].as_str().unwrap();
        assert!(
            message.contains(&format!("process {} works at http://{works}", world.server_pid())),
            "{error}"
        );
        assert!(error["hint"].as_str().unwrap().starts_with(&format!("ask http://{works};")), "{error}");
    }
    let told = run(Command::new(env!("CARGO_BIN_EXE_tidegate"))
        .env_clear()
        .env("TIDEGATE_TOKEN", "any")
        .args(["status", "--server", &format!("http://{waits}")]));
    assert!(told.code == 1 && told.talk.starts_with("tidegate: TG014: this server is a standby"), "{told:?}");
    assert!(world.get("/metrics").contains("\ntidegate_standbys 1\n"));
    let shown = world.cli(&["status"]).well();
    assert!(
        shown.contains(&format!("standby  process {} at http://{waits} waits", standby.pid())),
        "{shown}"
    );
    let doctor =
        run(Command::new(env!("CARGO_BIN_EXE_tidegate")).arg("doctor").arg("--data").arg(world.data()));
    assert!(doctor.out.contains("the server has it open, and a standby waits"), "{doctor:?}");

    let starts = world.dir().join("starts");
    let (end, good, bad) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| call(&eu, &end, &good, &bad));
        // Each start of a box of the next release leaves a line.
        let run = fs::read_to_string(repo.path().join("run")).unwrap();
        let noted = run.replacen('\n', &format!("\necho start >> {}\n", starts.display()), 1);
        world.land(&repo, &[("version", "2"), ("run", &noted)]);
        until_half_way(&world);
        let begun = Instant::now();
        world.kill_server();
        standby.takes_over(&world);
        let took = begun.elapsed();
        eprintln!("the standby served {took:?} after the kill");
        assert!(took < TAKE_OVER_MAX, "{took:?}");
        assert_eq!(world.address(), Some(waits), "it serves where it has waited");
        world.until_passed("app", 2);
        end.store(true, Ordering::SeqCst);
    });
    assert!(good.into_inner() > 0);
    assert_eq!(bad.into_inner(), 0, "requests failed");
    // Nothing was done twice: the release entered once, and three boxes of it were started.
    let told = world.told();
    assert_eq!(told.iter().filter(|t| t.starts_with("r2 enters beta/az-1")).count(), 1, "{told:#?}");
    assert_eq!(fs::read_to_string(&starts).unwrap(), "start\nstart\nstart\n");
    // And a server from before, that somehow lived on, would command nothing.
    let now = command(&world);
    assert!(now.fence.epoch > before.fence.epoch, "{} {}", now.fence, before.fence);
    let mut late = before;
    late.fence.generation = now.fence.generation + 1_000;
    assert_eq!(refused(&world, &late), Some(Code::StaleFence));
    assert!(world.status().standbys.is_empty(), "nobody waits any more");
    world.cli(&["log", "verify"]).well();
}

#[test]
fn a_server_that_is_asked_to_end_hands_over_its_address_and_the_service_manager_is_told() {
    let world = World::start();
    let repo = world.repo("shop");
    world.land(&repo, &[]);
    slow(&world, &repo);
    world.until_passed("app", 1);
    let works = world.address().unwrap();
    let socket = world.dir().join("notify");
    let manager = UnixDatagram::bind(&socket).unwrap();
    manager.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let hear = || {
        let mut bytes = [0; 256];
        let count = manager.recv(&mut bytes).expect("the service tells of itself in time");
        String::from_utf8(bytes[..count].to_vec()).unwrap()
    };
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    let standby = Standby::start_by(command.env("NOTIFY_SOCKET", &socket), &world, &works);
    let heard = hear();
    let expected =
        format!("READY=1\nSTATUS=standby: process {} works at http://{works}, since ", world.server_pid());
    assert!(heard.starts_with(&expected), "{heard}");
    assert_eq!(standby.seen(&world).unwrap().url, None, "the address is the other one's");
    world.land(&repo, &[("version", "2")]);
    until_half_way(&world);
    let begun = Instant::now();
    world.end_server();
    standby.takes_over(&world);
    assert!(begun.elapsed() < TAKE_OVER_MAX, "{:?}", begun.elapsed());
    assert_eq!(world.address(), Some(works.clone()));
    let serves = format!("READY=1\nSTATUS=serves at http://{works}");
    let told = std::iter::repeat_with(hear).find(|told| !told.contains("standby"));
    assert_eq!(told, Some(serves));
    world.until_passed("app", 2);
}

#[test]
fn of_two_standbys_one_takes_over_and_the_other_one_goes_on_waiting() {
    let world = World::start();
    let one = Standby::start(&world, "127.0.0.1:0");
    let other = Standby::start(&world, "127.0.0.1:0");
    assert_eq!(world.status().standbys.len(), 2);
    let (at_one, at_other) = (one.address(&world), other.address(&world));
    world.kill_server();
    let healthy = |address: &str| get(address, "/v1/health", None).is_some_and(|(status, _)| status == 200);
    let first_wins = wait_for(|| match (healthy(&at_one), healthy(&at_other)) {
        (false, false) => None,
        (true, true) => panic!("both serve"),
        (first, _) => Some(first),
    });
    let (next, last) = if first_wins.unwrap() { (one, other) } else { (other, one) };
    next.takes_over(&world);
    let address = last.address(&world);
    let works = format!("process {} works at http://", world.server_pid());
    world.until("the other one names the new server", || {
        refusal(&address, "/")?["message"].as_str()?.contains(&works).then_some(())
    });
    // A third one, that is told to end while it waits.
    let third = Standby::start(&world, "127.0.0.1:0");
    assert!(third.end());
    assert_eq!(world.status().standbys.len(), 1);
    world.kill_server();
    last.takes_over(&world);
    assert!(world.status().standbys.is_empty());
    world.cli(&["log", "verify"]).well();
}

#[test]
fn a_server_that_is_frozen_keeps_its_place_and_its_standby_says_so() {
    let world = World::start();
    let standby = Standby::start(&world, "127.0.0.1:0");
    let address = standby.address(&world);
    let silent = |expected: bool| {
        wait_for(|| {
            let message = refusal(&address, "/")?["message"].as_str()?.to_owned();
            (message.contains("IT DOES NOT ANSWER") == expected).then_some(message)
        })
    };
    signal(world.server_pid(), Signal::STOP);
    // By then it has tried to take the store dozens of times.
    let message = silent(true).expect("it says that the other one does not answer");
    assert!(message.contains(&format!("kill -9 {}", world.server_pid())), "{message}");
    // Who asks the frozen one is told the same, and does not wait for ever.
    for command in ["status", "doctor"] {
        let mut tidegate = Command::new(env!("CARGO_BIN_EXE_tidegate"));
        let told = run(tidegate.env_remove("TIDEGATE_SERVER").arg(command).arg("--data").arg(world.data()));
        let all = words(&format!("{}{}", told.out, told.talk));
        assert!(told.code != 0 && all.contains("DOES NOT ANSWER"), "{told:?}");
        assert!(all.contains(&format!("kill -9 {}", world.server_pid())), "{told:?}");
    }
    signal(world.server_pid(), Signal::CONT);
    silent(false).expect("it says that the other one answers again");
    assert!(standby.seen(&world).is_some(), "the first one works, and the second waits");
    signal(world.server_pid(), Signal::STOP);
    silent(true).unwrap();
    world.kill_server();
    standby.takes_over(&world);
}

/// A team's tool whose first deploy never ends.
const TOOL: &str = r#"#!/bin/sh
state=$TIDEGATE_STATE_DIR
case $1 in
deploy)
    if [ ! -e "$state/pid" ]; then
        echo $$ > "$state/pid.new" && mv "$state/pid.new" "$state/pid"
        exec sleep 3601
    fi
    printf %s "$TIDEGATE_RUN_SPEC" > "$state/spec" ;;
observe)
    if [ -s "$state/spec" ]; then
        echo "{\"boxes\": [{\"id\": \"unit\", \"run_spec\": \"$(cat "$state/spec")\", \"healthy\": true}]}"
    else
        echo '{"boxes": []}'
    fi ;;
esac
"#;

/// Processes with this command line.
fn processes(line: &[&str]) -> Vec<u32> {
    let wanted = line.join("\0") + "\0";
    let pids = fs::read_dir("/proc").unwrap().flatten().filter_map(|e| e.file_name().to_str()?.parse().ok());
    pids.filter(|pid| fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|found| found == wanted.as_bytes()))
        .collect()
}

#[test]
fn what_the_dead_server_had_started_is_ended_before_it_is_started_again() {
    let world = World::start();
    let tool = world.repo("assets");
    let build = "set -e; mkdir out; cp tool.sh version out; chmod +x out/tool.sh\n";
    world.land(&tool, &[("tool.sh", TOOL), ("build.sh", build)]);
    let command = |kind: &str| json!(["tools/tool.sh", kind]);
    let mut definition = definitions::application(&tool);
    definition["name"] = json!("assets");
    definition["build"]["package"] = json!([{"from": "out", "to": "tools"}]);
    definition["run"] = json!({"engine": {"command": {"shape": "one-unit", "deploy": command("deploy"),
        "observe": command("observe"), "rollback": command("rollback"), "time_limit": "1h"}}});
    definition["rolling"] = json!({"healthy_for": "0s", "progress_deadline": "2h"});
    let told: Told = world.apply("assets", &definition);
    told.well();
    let state = world.data().join("commands/targets/shop/beta/eu/a/main/slots/assets/state/pid");
    let deploy = world.until("the team's command runs", || fs::read_to_string(&state).ok());
    let deploy: u32 = deploy.trim().parse().unwrap();
    // And a build, told from those of other tests by how long it sleeps.
    let seconds = (1_000_000 + std::process::id()).to_string();
    let repo = world.repo("shop");
    world.land(&repo, &[("build.sh", &format!("exec sleep {seconds}\n"))]);
    let mut definition = definitions::application(&repo);
    definition["build"]["limits"]["time"] = json!("1h");
    world.apply("app", &definition).well();
    let built = world.until("the build runs", || processes(&["sleep", &seconds]).first().copied());
    assert!(alive(deploy));

    let standby = Standby::start(&world, "127.0.0.1:0");
    world.kill_server();
    standby.takes_over(&world);
    world.until_passed("assets", 1);
    assert!(!alive(deploy), "the command of the dead server has ended");
    let again = world.until("the build runs again", || match processes(&["sleep", &seconds])[..] {
        [pid] if pid != built => Some(pid),
        _ => None,
    });
    assert!(alive(again) && !alive(built));
}

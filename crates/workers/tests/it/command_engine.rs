//! The command engine with real scripts, processes and packages, and with an engine that is killed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;
use tidegate_core::engine::{Desired, Fence, Observation, Share};
use tidegate_core::ids::{PackageDigest, RunSpecDigest, SlotId};
use tidegate_core::run_spec::{CommandSpec, RunSpec, Shape, Workload};
use tidegate_core::units::{Span, Timestamp};
use tidegate_fleet::package::{
    ExternalParameters, PackItem, PackageStore, Provenance, SigningKey, TrustedKeys, pack,
};
use tidegate_fleet::protocol::SetSlot;
use tidegate_workers::command_engine::{CommandEngine, Definitions, Given, OpenError, SetError};
use tokio::time::Instant;

const PATIENCE: Duration = Duration::from_secs(40);
/// Names the fixture's folder to a test binary that is run as the engine's process.
const DRIVER: &str = "TIDEGATE_TEST_DRIVER";

/// A team's tool. It writes a line to the journal when it starts, while it lives, and when it ends; as long as the file
/// hold-<kind> is there it goes on living, and so do three helpers of it: two leave its process group, one of them
/// without the open files, the other without the environment.
const TOOL: &str = r#"#!/bin/sh
kind=$1
run="$kind:$TIDEGATE_RUN_SPEC:$$"
note() { echo "$1 $run" >> "$CONTROL/journal"; }
note start
tick() { while :; do note tick; sleep 0.01; done; }
if [ "$kind" != observe ]; then
    tick &
    export run CONTROL
    setsid bash -c '
        for fd in $(ls /proc/$$/fd); do [ "$fd" -lt 3 ] || eval "exec $fd>&-"; done
        while :; do echo "away $run" >> "$CONTROL/journal"; sleep 0.01; done' > /dev/null 2>&1 &
    setsid env -i run="$run" CONTROL="$CONTROL" PATH="$PATH" sh -c '
        while :; do echo "bare $run" >> "$CONTROL/journal"; sleep 0.01; done' > /dev/null 2>&1 &
    while [ -e "$CONTROL/hold-$kind" ]; do note tick; sleep 0.01; done
    if [ -e "$CONTROL/fail-$kind" ]; then echo "the $SECRET_WORD cloud says no"; exit 3; fi
    if [ -e "$CONTROL/flood-$kind" ]; then yes "$SECRET_WORD"; fi
    echo "$TIDEGATE_RUN_SPEC" > "$TIDEGATE_STATE_DIR/run_spec"
    if [ -n "$TIDEGATE_SPLIT" ]; then
        echo "$TIDEGATE_SPLIT" | tr '}' '\n' |
            sed -n 's/.*"run_spec":"\([0-9a-f]*\)".*"boxes":\([0-9]*\).*/\1 \2/p' > "$TIDEGATE_STATE_DIR/split"
    fi
    env | grep '^TIDEGATE_' | sort > "$CONTROL/env-$kind"
elif [ -n "$TIDEGATE_SPLIT" ]; then
    while [ -e "$CONTROL/hold-observe" ]; do sleep 0.01; done
    boxes=
    while read -r run_spec n; do
        while [ "$n" -gt 0 ]; do
            boxes="$boxes,{\"id\":\"$(echo "$run_spec" | cut -c 1-8)-$n\",\"run_spec\":\"$run_spec\",\"healthy\":true}"
            n=$((n - 1))
        done
    done < "$TIDEGATE_STATE_DIR/split"
    echo "{\"boxes\": [${boxes#,}]}"
elif [ -s "$TIDEGATE_STATE_DIR/run_spec" ]; then
    echo "{\"boxes\": [{\"id\": \"unit\", \"run_spec\": \"$(cat "$TIDEGATE_STATE_DIR/run_spec")\", \"healthy\": true}]}"
else
    echo '{"boxes": []}'
fi
note end
"#;

struct Fixture {
    dir: tempfile::TempDir,
}

impl Fixture {
    fn new() -> Fixture {
        let fixture = Fixture { dir: tempfile::tempdir().unwrap() };
        fs::create_dir(fixture.control()).unwrap();
        fixture
    }

    fn control(&self) -> PathBuf {
        self.dir.path().join("control")
    }

    fn flag(&self, name: &str) -> PathBuf {
        let path = self.control().join(name);
        fs::write(&path, "").unwrap();
        path
    }

    fn package(&self, version: &str) -> PackageDigest {
        let source = self.dir.path().join(format!("source-{version}"));
        fs::create_dir_all(&source).unwrap();
        fs::write(source.join("version"), version).unwrap();
        fs::write(source.join("tool.sh"), TOOL).unwrap();
        fs::set_permissions(source.join("tool.sh"), fs::Permissions::from_mode(0o755)).unwrap();
        let mut tar = Vec::new();
        pack(&[PackItem { from: source, to: PathBuf::new() }], &mut tar).unwrap();
        let (store, key) = (store(self.dir.path()), key(self.dir.path()));
        let parameters = ExternalParameters { steps: Vec::new(), dependencies_key: None };
        let provenance = Provenance::new(parameters, Vec::new(), key.key_id(), Timestamp(0), Timestamp(1));
        store.put(&tar[..], "tool", provenance, &key).unwrap()
    }

    fn run_spec(&self, version: &str, shape: Shape) -> RunSpec {
        let tool = |kind: &str| vec!["./tool.sh".to_owned(), kind.to_owned()];
        RunSpec {
            service: "frontend".parse().unwrap(),
            package: self.package(version),
            environment: BTreeMap::from([("CONTROL".to_owned(), self.control().display().to_string())]),
            secrets: BTreeMap::from([("SECRET_WORD".to_owned(), "cloud-token".parse().unwrap())]),
            endpoints: BTreeMap::new(),
            workload: Workload::Command(CommandSpec {
                shape,
                deploy: tool("deploy"),
                observe: tool("observe"),
                rollback: tool("rollback"),
                time_limit: Span::minutes(1),
            }),
        }
    }

    fn journal(&self) -> Vec<String> {
        let text = fs::read_to_string(self.control().join("journal")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    fn count(&self, start: &str) -> usize {
        self.journal().iter().filter(|line| line.starts_with(start)).count()
    }

    /// Nothing of a run is heard of any more once another one has started.
    fn assert_no_overlap(&self) {
        let (mut over, mut current) = (BTreeSet::new(), String::new());
        for line in self.journal() {
            let (what, run) = line.split_once(' ').unwrap();
            if what == "start" {
                over.insert(std::mem::replace(&mut current, run.to_owned()));
            }
            assert!(!over.contains(run) && run == current, "{line}: overlaps with {current}");
        }
    }

    fn engine(&self) -> CommandEngine {
        open(self.dir.path()).unwrap()
    }
}

impl Drop for Fixture {
    /// The tool's helpers never end by themselves, and the engine ends those of a run only before the next one: whoever
    /// has this fixture's folder in its environment ends here.
    fn drop(&mut self) {
        let control = format!("CONTROL={}", self.control().display());
        for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let environment = fs::read(process.path().join("environ")).unwrap_or_default();
            let pid = process.file_name().to_str().and_then(|pid| pid.parse().ok());
            if environment.split(|byte| *byte == 0).any(|variable| variable == control.as_bytes())
                && let Some(pid) = pid.and_then(rustix::process::Pid::from_raw)
            {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
    }
}

fn store(dir: &Path) -> PackageStore {
    PackageStore::open(&dir.join("packages")).unwrap()
}

fn key(dir: &Path) -> SigningKey {
    SigningKey::load_or_create(&dir.join("signing.key"), &dir.join("trusted.pub")).unwrap()
}

/// Definitions come only with the whole server, whose tests have them.
struct Nobody;

impl Definitions for Nobody {
    fn take(&self, given: &Given<'_>) -> Result<(), String> {
        panic!("{given:?}")
    }
}

fn open(dir: &Path) -> Result<CommandEngine, OpenError> {
    let keys = TrustedKeys::load(&dir.join("trusted.pub")).unwrap();
    CommandEngine::open(&dir.join("engine"), store(dir), keys, Arc::new(Nobody))
}

fn slot(pipeline: &str) -> SlotId {
    SlotId { target: "frontend/production/eu-1/a/main".parse().unwrap(), pipeline: pipeline.parse().unwrap() }
}

fn set(generation: u64, split: &[(&RunSpec, u32)], rollback: bool) -> SetSlot {
    let share = |(spec, boxes): &(&RunSpec, u32)| Share { run_spec: spec.digest(), boxes: *boxes };
    SetSlot {
        slot: slot("assets"),
        fence: Fence { epoch: 1, generation },
        desired: Desired {
            split: split.iter().map(share).collect(),
            condemned: Vec::new(),
            minimum_serving: 0,
            surge: false,
            rest: None,
        },
        run_specs: split.iter().map(|(spec, _)| (*spec).clone()).collect(),
        secrets: BTreeMap::from([("cloud-token".parse().unwrap(), "hunter2hunter2".to_owned())]),
        rollback,
        takes_up: None,
        acknowledges: None,
        glass: None,
    }
}

async fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "timed out waiting: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn observed(engine: &CommandEngine, fits: impl Fn(&Observation) -> bool) -> Observation {
    let mut last = None;
    let deadline = Instant::now() + PATIENCE;
    let mut changes = engine.changes();
    loop {
        if let Some(seen) = engine.observe(&slot("assets")) {
            if fits(&seen) {
                return seen;
            }
            last = Some(seen);
        }
        let changed = tokio::time::timeout_at(deadline, changes.changed()).await;
        assert!(changed.is_ok(), "not observed in time; last: {last:?}");
    }
}

fn runs(spec: &RunSpec) -> impl Fn(&Observation) -> bool {
    let digest = spec.digest();
    move |seen| {
        let specs: Vec<&RunSpecDigest> =
            seen.boxes.iter().filter(|b| b.health.is_healthy()).map(|b| &b.run_spec).collect();
        specs == [&digest] && seen.trouble.is_none()
    }
}

/// Not a test of its own: the process that the tests below kill.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "is run by other tests as a process of its own"]
async fn driver() {
    let Some(dir) = std::env::var_os(DRIVER).map(PathBuf::from) else { return };
    let engine = open(&dir).unwrap();
    let set: SetSlot = serde_json::from_slice(&fs::read(dir.join("set.json")).unwrap()).unwrap();
    engine.set(&set).unwrap();
    let _ = tokio::time::timeout(3 * PATIENCE, std::future::pending::<()>()).await;
}

/// Not a test of its own: it runs where the engine's folder is a disk of 96 MiB.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "is run by another test as a process of its own"]
async fn driver_on_a_full_disk() {
    let Some(dir) = std::env::var_os(DRIVER).map(PathBuf::from) else { return };
    let fixture = Fixture { dir: tempfile::tempdir_in(&dir).unwrap() };
    fs::create_dir(fixture.control()).unwrap();
    std::os::unix::fs::symlink(dir.join("disk"), fixture.dir.path().join("engine")).unwrap();
    let (a, b) = (fixture.run_spec("a", Shape::OneUnit), fixture.run_spec("b", Shape::OneUnit));
    let engine = fixture.engine();
    for (generation, spec) in [(1, &a), (2, &b)] {
        engine.set(&set(generation, &[(spec, 1)], false)).unwrap();
        observed(&engine, runs(spec)).await;
    }
    let mut fill = fs::File::create(dir.join("disk/fill")).unwrap();
    for block in [1 << 20, 4096] {
        while fill.write_all(&vec![1; block]).is_ok() {}
    }
    assert!(matches!(engine.set(&set(3, &[(&a, 1)], false)), Err(SetError::Persist { .. })));
    engine.set(&set(3, &[(&a, 1)], true)).unwrap();
    observed(&engine, runs(&a)).await;
    println!("rolled back on a full disk");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_works_on_a_full_disk() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("disk")).unwrap();
    let mut command = Command::new("unshare");
    // A mount of its own that ends with the process; only root may do that without a user namespace.
    command.arg(if rustix::process::geteuid().is_root() { "-m" } else { "-Urm" });
    let mount = r#"mount -t tmpfs -o size=96m none "$TIDEGATE_TEST_DRIVER/disk" && exec "$0" "$@""#;
    command.args(["sh", "-c", mount]).arg(std::env::current_exe().unwrap());
    command.args(["--exact", "command_engine::driver_on_a_full_disk", "--ignored", "--nocapture"]);
    let output = tokio::task::spawn_blocking({
        let path = dir.path().to_owned();
        move || command.env(DRIVER, path).stdin(Stdio::null()).output().unwrap()
    })
    .await
    .unwrap();
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && said.contains("rolled back on a full disk"), "{said}");
}

struct Driver(std::process::Child);

impl Driver {
    fn start(fixture: &Fixture, set: &SetSlot) -> Driver {
        fs::write(fixture.dir.path().join("set.json"), serde_json::to_vec(set).unwrap()).unwrap();
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "command_engine::driver", "--ignored"]);
        command.env(DRIVER, fixture.dir.path()).stdout(Stdio::null()).stderr(Stdio::null());
        Driver(command.spawn().unwrap())
    }

    fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Kills the engine in the middle of a command, shows that the command lives on, and lets another engine take over.
async fn killed_in_the_middle(fixture: &Fixture, set: &SetSlot, kind: &str, spec: &RunSpec) {
    let hold = fixture.flag(&format!("hold-{kind}"));
    let (started, before) = (format!("start {kind}"), fixture.count(&format!("start {kind}")));
    let driver = Driver::start(fixture, set);
    let heard = || ["tick", "away", "bare"].map(|who| fixture.count(&format!("{who} {kind}")));
    let earlier = heard();
    let all_went_on = |since: [usize; 3]| heard().iter().zip(since).all(|(now, then)| *now > then + 2);
    until("the command and its helpers run", || {
        (fixture.count(&started) == before + 1 && all_went_on(earlier)).then_some(())
    })
    .await;
    driver.kill();
    let then = heard();
    until("all outlive the engine", || all_went_on(then).then_some(())).await;

    let engine = fixture.engine();
    until("the command is run again", || (fixture.count(&started) == before + 2).then_some(())).await;
    fs::remove_file(hold).unwrap();
    observed(&engine, runs(spec)).await;
    fixture.assert_no_overlap();

    let mut stale = set.clone();
    stale.fence.generation -= 1;
    assert!(
        matches!(engine.set(&stale), Err(SetError::StaleFence { accepted, .. }) if accepted == set.fence)
    );
    assert_eq!(engine.highest_epoch(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_killed_in_the_middle_of_deploy_goes_on_alone() {
    let fixture = Fixture::new();
    let a = fixture.run_spec("a", Shape::OneUnit);
    killed_in_the_middle(&fixture, &set(1, &[(&a, 1)], false), "deploy", &a).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_killed_in_the_middle_of_rollback_goes_on_alone() {
    let fixture = Fixture::new();
    let (a, b) = (fixture.run_spec("a", Shape::OneUnit), fixture.run_spec("b", Shape::OneUnit));
    let engine = fixture.engine();
    engine.set(&set(1, &[(&a, 1)], false)).unwrap();
    observed(&engine, runs(&a)).await;
    engine.set(&set(2, &[(&b, 1)], false)).unwrap();
    observed(&engine, runs(&b)).await;
    assert!(matches!(open(fixture.dir.path()), Err(OpenError::InUse { .. })));
    drop(engine);
    killed_in_the_middle(&fixture, &set(3, &[(&a, 1)], true), "rollback", &a).await;
    assert_eq!(fixture.count("start deploy"), 2, "nothing is deployed on the way back");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_ends_a_deploy_that_hangs_and_is_run_by_what_it_returns_to() {
    let fixture = Fixture::new();
    let (a, b) = (fixture.run_spec("a", Shape::OneUnit), fixture.run_spec("b", Shape::OneUnit));
    let engine = fixture.engine();
    engine.set(&set(1, &[(&a, 1)], false)).unwrap();
    observed(&engine, runs(&a)).await;
    fixture.flag("hold-deploy");
    engine.set(&set(2, &[(&b, 1)], false)).unwrap();
    until("the deploy hangs", || (fixture.count("start deploy") == 2).then_some(())).await;
    let asked = Instant::now();
    engine.set(&set(3, &[(&a, 1)], true)).unwrap();
    until("the rollback runs", || (fixture.count("end rollback") == 1).then_some(())).await;
    assert!(asked.elapsed() < Duration::from_secs(15), "{:?}", asked.elapsed());
    let seen = observed(&engine, |seen| runs(&a)(seen) && seen.fence.generation == 3).await;
    assert_eq!(seen.boxes.len(), 1);
    fixture.assert_no_overlap();
    let env = fs::read_to_string(fixture.control().join("env-rollback")).unwrap();
    assert!(env.contains(&format!("TIDEGATE_RUN_SPEC={}\n", a.digest())), "{env}");
    assert!(env.contains(&a.package.to_string()), "{env}");
    assert!(env.contains("TIDEGATE_TARGET=frontend/production/eu-1/a/main\n"), "{env}");
    assert!(!env.contains("TIDEGATE_SPLIT"), "{env}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_only_condemns_ends_a_deploy_and_runs_no_command_of_what_is_condemned() {
    let fixture = Fixture::new();
    let (a, b) = (fixture.run_spec("a", Shape::ManyBoxes), fixture.run_spec("b", Shape::ManyBoxes));
    let engine = fixture.engine();
    engine.set(&set(1, &[(&b, 2)], false)).unwrap();
    observed(&engine, |seen| seen.boxes.len() == 2).await;
    let hold = fixture.flag("hold-deploy");
    engine.set(&set(2, &[(&b, 3)], false)).unwrap();
    until("the deploy hangs", || (fixture.count("start deploy") == 2).then_some(())).await;

    // Also by an engine that was just started and has seen nothing: it looks, for the next order hangs on that.
    drop(engine);
    let engine = fixture.engine();
    until("the deploy hangs again", || (fixture.count("start deploy") == 3).then_some(())).await;
    let condemned = |mut set: SetSlot| {
        set.desired.condemned = vec![b.digest()];
        set
    };
    engine.set(&condemned(set(3, &[(&b, 3)], true))).unwrap();
    let seen = observed(&engine, |seen| seen.fence.generation == 3).await;
    assert_eq!((seen.boxes.len(), seen.trouble), (2, None));
    assert_eq!(fixture.count("start rollback"), 0);
    assert_eq!(fixture.count("end deploy"), 1, "what hung was ended");

    fs::remove_file(hold).unwrap();
    engine.set(&condemned(set(4, &[(&a, 1), (&b, 2)], true))).unwrap();
    observed(&engine, |seen| seen.boxes.iter().any(|b| b.run_spec == a.digest())).await;
    let rollbacks =
        |lines: Vec<String>| lines.into_iter().filter(|l| l.starts_with("start rollback")).collect();
    let rollbacks: Vec<String> = rollbacks(fixture.journal());
    assert!(matches!(&rollbacks[..], [one] if one.contains(a.digest().as_str())), "{rollbacks:?}");
    fixture.assert_no_overlap();
}

/// By an engine that was just started and has seen neither, so that it has to look first.
#[tokio::test(flavor = "multi_thread")]
async fn two_rollbacks_of_one_target_do_not_hold_each_other_up() {
    let fixture = Fixture::new();
    let (a, b) = (fixture.run_spec("a", Shape::ManyBoxes), fixture.run_spec("b", Shape::ManyBoxes));
    let of = |pipeline: &str, set: SetSlot| SetSlot { slot: slot(pipeline), ..set };
    let engine = fixture.engine();
    for pipeline in ["assets", "images"] {
        engine.set(&of(pipeline, set(1, &[(&b, 2)], false))).unwrap();
        until("it is deployed", || engine.observe(&slot(pipeline)).filter(|seen| seen.boxes.len() == 2))
            .await;
    }
    drop(engine);
    let hold = fixture.flag("hold-observe");
    let engine = fixture.engine();
    for pipeline in ["assets", "images"] {
        let mut condemns = of(pipeline, set(2, &[(&b, 2)], true));
        condemns.desired.condemned = vec![b.digest()];
        engine.set(&condemns).unwrap();
        assert_eq!(engine.observe(&slot(pipeline)), None, "it was not looked at yet");
    }
    fs::remove_file(hold).unwrap();
    for pipeline in ["assets", "images"] {
        until("it is seen", || engine.observe(&slot(pipeline))).await;
        let mut returns = of(pipeline, set(3, &[(&a, 1), (&b, 1)], true));
        returns.desired.condemned = vec![b.digest()];
        engine.set(&returns).unwrap();
    }
    for pipeline in ["assets", "images"] {
        let back = |seen: &Observation| seen.boxes.iter().any(|each| each.run_spec == a.digest());
        until("it is back", || engine.observe(&slot(pipeline)).filter(back)).await;
    }
    assert_eq!(fixture.count("start rollback"), 2);
    fixture.assert_no_overlap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deploy_that_hangs_is_ended_after_its_time_and_tried_again() {
    let fixture = Fixture::new();
    let mut a = fixture.run_spec("a", Shape::OneUnit);
    if let Workload::Command(command) = &mut a.workload {
        command.time_limit = Span::seconds(10);
    }
    let hold = fixture.flag("hold-deploy");
    let engine = fixture.engine();
    engine.set(&set(1, &[(&a, 1)], false)).unwrap();
    let seen = observed(&engine, |seen| seen.trouble.is_some()).await;
    assert_eq!(seen.trouble.unwrap(), "deploy was ended after its time limit of 10s");
    fs::remove_file(hold).unwrap();
    observed(&engine, runs(&a)).await;
    fixture.assert_no_overlap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deploy_that_fails_is_told_without_its_secrets_and_tried_again() {
    let fixture = Fixture::new();
    let a = fixture.run_spec("a", Shape::OneUnit);
    let fail = fixture.flag("fail-deploy");
    let engine = fixture.engine();
    engine.set(&set(1, &[(&a, 1)], false)).unwrap();
    let seen = observed(&engine, |seen| seen.trouble.is_some()).await;
    assert_eq!(seen.trouble.unwrap(), "deploy failed with exit status: 3: the [secret] cloud says no");
    fs::remove_file(fail).unwrap();
    observed(&engine, runs(&a)).await;
    let logs = engine.logs(&slot("assets"));
    assert!(logs.len() >= 3, "{logs:?}");
    assert_eq!(fs::read_to_string(&logs[0]).unwrap(), "the [secret] cloud says no\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deploy_that_prints_without_end_is_ended_and_its_log_is_small() {
    let fixture = Fixture::new();
    let a = fixture.run_spec("a", Shape::OneUnit);
    let flood = fixture.flag("flood-deploy");
    let engine = fixture.engine();
    engine.set(&set(1, &[(&a, 1)], false)).unwrap();
    let seen = observed(&engine, |seen| seen.trouble.is_some()).await;
    let trouble = seen.trouble.unwrap();
    assert!(trouble.starts_with("deploy was ended because it printed too much: [secret]"), "{trouble}");
    fs::remove_file(flood).unwrap();
    observed(&engine, runs(&a)).await;
    let log = fs::read(&engine.logs(&slot("assets"))[0]).unwrap();
    assert!((1024 * 1024..1024 * 1024 + 40 * 1024).contains(&log.len()), "{}", log.len());
    assert!(!String::from_utf8_lossy(&log).contains("hunter2"));
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_runs_from_a_package_whose_bytes_were_changed() {
    let fixture = Fixture::new();
    let a = fixture.run_spec("a", Shape::OneUnit);
    let tar = fixture.dir.path().join(format!("packages/{}.tar", a.package));
    let good = fs::read(&tar).unwrap();
    let mut file = fs::File::options().append(true).open(&tar).unwrap();
    file.write_all(b"x").unwrap();
    drop(file);
    let engine = fixture.engine();
    engine.set(&set(1, &[(&a, 1)], false)).unwrap();
    let seen = observed(&engine, |seen| seen.trouble.is_some()).await;
    let trouble = seen.trouble.unwrap();
    assert!(trouble.contains("has other bytes than its name says"), "{trouble}");
    assert_eq!(fixture.journal(), Vec::<String>::new());
    fs::write(&tar, good).unwrap();
    observed(&engine, runs(&a)).await;
}

#[tokio::test]
async fn what_runs_already_is_looked_at_and_not_deployed() {
    let fixture = Fixture::new();
    let spec = fixture.run_spec("0", Shape::OneUnit);
    // What is only looked at has its package somewhere else.
    let (packages, aside) = (fixture.dir.path().join("packages"), fixture.dir.path().join("aside"));
    fs::rename(&packages, &aside).unwrap();
    let store = PackageStore::open(&aside).unwrap();
    let engine = fixture.engine();
    let taken_up =
        |generation| SetSlot { takes_up: Some(Vec::new()), ..set(generation, &[(&spec, 1)], false) };
    assert_eq!(engine.look(&taken_up(0), &store).await, Ok(Vec::new()), "the tool finds nothing that runs");
    assert!(engine.observe(&slot("assets")).is_none(), "a look leaves nothing behind");
    let left =
        fs::read_dir(fixture.dir.path().join("engine")).unwrap().map(|entry| entry.unwrap().file_name());
    assert_eq!(left.filter(|name| name.to_string_lossy().starts_with("look-")).count(), 0);
    fs::remove_dir(&packages).unwrap();
    fs::rename(&aside, &packages).unwrap();

    engine.set(&taken_up(1)).unwrap();
    until("it is looked at", || engine.observe(&slot("assets")).filter(|seen| seen.boxes.is_empty())).await;
    let difference = tidegate_workers::command_engine::difference(&[], &taken_up(1).desired);
    assert!(difference.is_some_and(|words| words.starts_with("observe shows 0 instead of 1")));
    assert_eq!(fixture.count("start deploy"), 0);
    assert!(
        engine.look(&taken_up(2), &store).await.is_err(),
        "a slot that is known is not looked at on the side"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_split_is_deployed_taken_back_and_emptied_and_drift_is_mended() {
    let fixture = Fixture::new();
    let (a, b) = (fixture.run_spec("a", Shape::ManyBoxes), fixture.run_spec("b", Shape::ManyBoxes));
    let engine = fixture.engine();
    let counts =
        |of: &Observation, spec: &RunSpec| of.boxes.iter().filter(|x| x.run_spec == spec.digest()).count();
    engine.set(&set(1, &[(&b, 1), (&a, 3)], false)).unwrap();
    observed(&engine, |seen| (counts(seen, &b), counts(seen, &a)) == (1, 3)).await;
    let env = fs::read_to_string(fixture.control().join("env-deploy")).unwrap();
    assert!(env.contains(&format!("TIDEGATE_RUN_SPEC={}\n", b.digest())), "the first share leads: {env}");

    // What is rolled back from cannot be verified any more: that holds nothing.
    fs::remove_file(fixture.dir.path().join(format!("packages/{}.tar", b.package))).unwrap();
    let mut back = set(2, &[(&b, 1), (&a, 3)], true);
    back.desired.condemned.push(b.digest());
    engine.set(&back).unwrap();
    until("the rollback runs", || (fixture.count("end rollback") == 1).then_some(())).await;
    let env = fs::read_to_string(fixture.control().join("env-rollback")).unwrap();
    assert!(env.contains(&format!("TIDEGATE_RUN_SPEC={}\n", a.digest())), "{env}");
    assert!(
        env.contains(&format!("{{\"run_spec\":\"{}\",\"package_dir\":null,\"boxes\":1}}", b.digest())),
        "{env}"
    );

    engine.set(&set(3, &[(&a, 4)], true)).unwrap();
    observed(&engine, |seen| counts(seen, &a) == 4 && seen.boxes.len() == 4 && seen.trouble.is_none()).await;

    // Somebody takes a box away; an engine that is opened anew looks, sees it and mends it.
    drop(engine);
    let state = fixture.dir.path().join("engine/targets/frontend/production/eu-1/a/main/slots/assets/state");
    fs::write(state.join("split"), format!("{} 3\n", a.digest())).unwrap();
    let engine = fixture.engine();
    let seen = observed(&engine, |seen| seen.trouble.is_some()).await;
    assert!(seen.trouble.unwrap().starts_with("observe shows 3 instead of 4 of"));
    observed(&engine, |seen| counts(seen, &a) == 4 && seen.trouble.is_none()).await;

    engine.set(&set(4, &[], true)).unwrap();
    observed(&engine, |seen| seen.boxes.is_empty() && seen.trouble.is_none()).await;
    fixture.assert_no_overlap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_valid_is_refused_and_changes_nothing() {
    let fixture = Fixture::new();
    let (a, b) = (fixture.run_spec("a", Shape::OneUnit), fixture.run_spec("b", Shape::OneUnit));
    let engine = fixture.engine();
    let why = |set: &SetSlot| engine.set(set).unwrap_err().to_string();
    let mut unknown = set(1, &[(&a, 1)], false);
    unknown.run_specs.clear();
    assert!(why(&unknown).ends_with("is named but not given"));
    assert!(why(&set(1, &[(&a, 1), (&b, 1)], false)).ends_with("the split names several"));
    assert!(engine.observe(&slot("assets")).is_none());
    assert!(!fixture.dir.path().join("engine/targets").exists());

    engine.set(&set(5, &[(&a, 1)], false)).unwrap();
    engine.set(&set(5, &[(&a, 1)], false)).unwrap();
    assert!(matches!(engine.set(&set(5, &[(&b, 1)], false)), Err(SetError::FenceReused { .. })));
    assert!(matches!(engine.set(&set(4, &[(&b, 1)], false)), Err(SetError::StaleFence { .. })));
    observed(&engine, runs(&a)).await;
    // The slot knows it already, so it need not be given; and nothing is run for the same content.
    let mut again = set(6, &[(&a, 1)], false);
    again.run_specs.clear();
    engine.set(&again).unwrap();
    observed(&engine, |seen| seen.fence.generation == 6).await;
    assert_eq!(fixture.count("start deploy"), 1);
}

//! Builds that would take the machine down: each fails with the limit by name, the server answers meanwhile, and the next
//! good commit builds.

use crate::world::{World, definitions, release, words};
use serde_json::json;
use std::fs;
use std::time::{Duration, Instant};
use tidegate_api::BuildStatus;

/// The server answers within this while a build does its worst, on a machine on which other tests run.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// Watches a build that cannot go well; why it failed.
fn fails(world: &World, number: u64) -> String {
    let mut slowest = Duration::ZERO;
    let why = world.until(&format!("the build of r{number} fails"), || {
        let asked = Instant::now();
        let found = release(&world.pipeline("app"), number)?.build;
        slowest = slowest.max(asked.elapsed());
        match found {
            BuildStatus::Failed { why, .. } => Some(why),
            BuildStatus::Built { .. } => panic!("r{number} was built"),
            BuildStatus::Building { .. } => None,
        }
    });
    assert!(slowest < ANSWER_MAX, "the server took {slowest:?} to answer");
    why
}

#[test]
fn a_build_that_runs_wild_fails_by_a_named_limit_and_the_next_one_builds() {
    let world = World::start();
    let repo = world.repo("shop");
    let good = fs::read_to_string(repo.path().join("build.sh")).unwrap();
    let mut definition = definitions::application(&repo);
    definition["build"]["limits"] =
        json!({"time": "6s", "processes": 48, "output_mib": 1, "memory_mib": 512});
    world.apply("app", &definition).well();

    let bad = [
        ("forks() { forks | forks & }; forks; sleep 60", "had more processes than its limit"),
        ("head -c 1G /dev/zero | tr '\\0' x", "printed more than its output limit"),
        ("echo it hangs; sleep 600", "took longer than its time limit"),
    ];
    for (number, (script, limit)) in (1..).zip(bad) {
        let commit = world.land(&repo, &[("build.sh", script)]);
        let begun = Instant::now();
        let why = fails(&world, number);
        assert!(why.starts_with(&format!("step 'compile' was killed: it {limit}")), "{why}");
        assert!(begun.elapsed() < Duration::from_secs(40), "it took {:?}", begun.elapsed());
        let status = words(&world.cli(&["status", "app"]).well());
        assert!(status.contains("FAILED to build") && status.contains(limit), "{status}");
        let why = world.cli(&["why", &commit[..10]]).well();
        assert!(
            words(&why)
                .contains(&format!("it is in r{number}, which cannot be built: step 'compile' was killed")),
            "{why}"
        );
        let log = world.cli(&["build-log", "app", &format!("r{number}")]).well();
        assert!(log.trim_end().ends_with(limit), "{}", &log[log.len().saturating_sub(500)..]);
        assert!(log.len() < 2 << 20, "{} bytes of log", log.len());
    }
    world.land(&repo, &[("build.sh", &good)]);
    world.until_passed("app", 4);
    let left =
        fs::read_dir(world.data().join("builds")).unwrap().flatten().map(|e| e.path()).collect::<Vec<_>>();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_build_leaves_the_files_of_a_test_that_runs_alone() {
    let world = World::start();
    let repo = world.repo("shop");
    let control = world.dir().display();
    let check = format!(
        "#!/bin/sh\ntouch {control}/tested\nwhile [ ! -e {control}/go ]; do sleep 0.05; done\n\
         cat \"$TIDEGATE_PACKAGE_DIR/app/version\" && ls -d \"$TIDEGATE_TEST_DIR\"\n"
    );
    let build = "set -e; mkdir out; cp run version behaviour check out; chmod +x out/run out/check\n";
    world.land(&repo, &[("check", &check), ("build.sh", build)]);
    let mut definition = definitions::application(&repo);
    definition["stages"][0]["tests"] = json!([{"name": "check", "run": ["app/check"], "time_limit": "50s"}]);
    world.apply("app", &definition).well();
    world.until("the test of r1 runs", || fs::exists(world.dir().join("tested")).unwrap().then_some(()));
    world.land(&repo, &[("version", "2")]);
    world.until("r2 is built", || {
        matches!(release(&world.pipeline("app"), 2)?.build, BuildStatus::Built { .. }).then_some(())
    });
    fs::write(world.dir().join("go"), "").unwrap();
    world.until_passed("app", 2);
    assert!(!world.told().iter().any(|t| t.contains("REJECTED")), "{:#?}", world.told());
    assert!(
        fs::read_dir(world.data().join("tests")).unwrap().next().is_none(),
        "a test's files are removed after it"
    );
}

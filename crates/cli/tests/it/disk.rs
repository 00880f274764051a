//! A full disk, or a data directory larger than its budget: nothing is built and a user is told why, a rollback works as ever, and
//! when there is room again all goes on.

use crate::world::{Repo, World, can_have_a_disk, definitions, get, release, run, steps, words};
use serde_json::json;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};
use tidegate_api::{BuildStatus, WorkStatus};

/// Room for what store, fleet and command engine reserve (112 MiB), and for what a build has to leave free (256 MiB).
const DISK_MIB: u32 = 512;

fn fill(path: &Path) {
    let mut file = File::create(path).unwrap();
    for block in [1 << 20, 4096, 1] {
        while file.write_all(&vec![1; block]).is_ok() {}
    }
}

fn bakes(world: &World, number: u64) -> Option<()> {
    let pipeline = world.pipeline("app");
    let first = steps(&pipeline).next()?;
    matches!(&first.work, WorkStatus::Baking { release, .. } if release.0 == number).then_some(())
}

/// r1 has passed, and r2 bakes for an hour; the repository, and the commit of r2.
fn until_r2_bakes(world: &World) -> (Repo, String) {
    let repo = world.repo("shop");
    world.land(&repo, &[]);
    let mut definition = definitions::application(&repo);
    world.apply("app", &definition).well();
    world.until_passed("app", 1);
    definition["stages"][0]["bake"]["az"] = json!("1h");
    world.apply("app", &definition).well();
    let bad = world.land(&repo, &[("version", "2")]);
    world.until("r2 bakes", || bakes(world, 2));
    (repo, bad)
}

#[test]
fn on_a_full_disk_a_rollback_works_and_nothing_else_is_lost() {
    if !can_have_a_disk() {
        return;
    }
    let world = World::start_with(&definitions::organisation(), Some(DISK_MIB));
    let (repo, bad) = until_r2_bakes(&world);
    let eu = world.endpoint("shop", "beta", "eu");

    // The next release is being built when the disk becomes full.
    let script = "set -e; mkdir out; cp run version behaviour out; chmod +x out/run; echo copied; sleep 4; \
                  head -c 4M /dev/zero > large; rm large\n";
    let message = format!("another way\n\nFixes: {bad}");
    let mends = repo.commit(&[("version", "3"), ("build.sh", script)], &message);
    let after = repo.commit(&[("version", "4")], &message);
    world.bob(&["approve", &mends]).well();
    repo.merge(&mends);
    world.until("r3 is being built", || {
        let log = world.cli(&["build-log", "app", "r3"]);
        log.out.contains("copied\n").then_some(())
    });
    let filling = world.data().join("fill");
    fill(&filling);

    let told = world.bob(&["approve", &after]);
    assert_eq!(told.code, 1, "{told:?}");
    assert!(
        told.talk.contains("the disk is full: free some space; until then only rollbacks are recorded"),
        "{told:?}"
    );
    let of_the_build = "step 'compile' was ended: the disk has less than 256 MiB free";
    world.until("the status tells of the disk and of the build", || {
        let status = words(&world.cli(&["status"]).well());
        let both = status.contains("the disk is full") && status.contains("the build of app r3");
        (both && status.contains(of_the_build)).then_some(())
    });
    // What was refused has left nothing behind.
    let approved = format!("{} approved by bob", &after[..10]);
    let approvals = || world.told().iter().filter(|text| **text == approved).count();
    assert_eq!(approvals(), 0);

    world.bob(&["rollback", "app", "r2", "--reason", "it looks wrong"]).well();
    world.until_everywhere("app", 1);
    for _ in 0..6 {
        assert_eq!(get(&eu, "/", None), Some((200, "1".to_owned())));
    }
    assert!(world.told().iter().any(|t| t.starts_with("r2 REJECTED: bob: it looks wrong")));
    assert!(matches!(release(&world.pipeline("app"), 3).unwrap().build, BuildStatus::Building { .. }));

    fs::remove_file(filling).unwrap();
    world.until("r3 is built and bakes", || bakes(&world, 3));
    world.until("no trouble is left", || world.status().troubles.is_empty().then_some(()));
    world.bob(&["approve", &after]).well();
    repo.merge(&after);
    world.until("r4 is built", || {
        matches!(release(&world.pipeline("app"), 4)?.build, BuildStatus::Built { .. }).then_some(())
    });
    assert_eq!(approvals(), 1);
    let told = world.told();
    for once in [
        "r2 REJECTED: bob: it looks wrong",
        "rollback of r2 ordered by bob: it looks wrong",
        "r3 enters beta/az-1",
    ] {
        assert_eq!(told.iter().filter(|text| *text == once).count(), 1, "{once}: {told:#?}");
    }
    world.cli(&["log", "--verify"]).well();
}

/// A file that uses so much of the disk.
fn take(path: &Path, mib: u64) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let file = File::create(path).unwrap();
    rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), 0, mib << 20).unwrap();
}

/// A folder of so many MiB that nobody needs, two hours old.
fn unneeded(world: &World, name: &str, mib: u64) {
    let folder = world.data().join(name);
    take(&folder.join("large"), mib);
    let then = SystemTime::now() - Duration::from_secs(2 * 3_600);
    File::open(folder).unwrap().set_modified(then).unwrap();
}

#[test]
fn a_disk_budget_takes_what_nobody_needs_and_then_holds_builds_and_no_rollback() {
    let world = World::start();
    let (repo, bad) = until_r2_bakes(&world);

    for (budget, says) in [("12", "less than 512.0 MiB"), ("much", "such as 50GiB")] {
        let mut serve = Command::new(env!("CARGO_BIN_EXE_tidegate"));
        serve.args(["serve", "--data"]).arg(world.data()).args(["--disk-budget", budget]);
        let told = run(&mut serve);
        assert!(told.code == 2 && told.talk.contains(says), "{told:?}");
    }
    let (mirror, dependencies) = (format!("mirrors/{}", "ab".repeat(16)), "cache/cd");
    // However old they are, packages that a rollback may need stay; one that nobody names goes with the rest.
    let packages = world.data().join("packages");
    let all =
        || fs::read_dir(&packages).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_file());
    let needed: Vec<_> = all().collect();
    let old = SystemTime::now() - Duration::from_secs(60 * 24 * 3_600);
    needed.iter().for_each(|path| File::open(path).unwrap().set_modified(old).unwrap());
    let stranger = "0123".repeat(16);
    for path in &needed {
        let name = path.file_name().unwrap().to_str().unwrap();
        let (_, end) = name.split_once('.').unwrap();
        let copy = packages.join(format!("{stranger}.{end}"));
        fs::copy(path, &copy).unwrap();
        File::open(copy).unwrap().set_modified(old + Duration::from_secs(59 * 24 * 3_600 + 1_800)).unwrap();
    }
    unneeded(&world, &mirror, 400);
    unneeded(&world, dependencies, 300);
    world.end_server();
    let mut serve = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    world.start_by(serve.env("TIDEGATE_DISK_BUDGET", "700MiB"), &[]);
    world.until("what is easiest to have again is gone", || {
        (!world.data().join(&mirror).exists()).then_some(())
    });
    assert_eq!(all().collect::<BTreeSet<_>>(), needed.iter().cloned().collect());
    let told = world.cli(&["gc", "--dry-run"]).well();
    assert!(told.contains("can go: 0 of what nobody needs\n"), "{told}");
    assert!(told.contains(" of a budget of 700.0 MiB: "), "{told}");
    assert!(world.data().join(dependencies).exists(), "the budget is kept to without");
    let page = world.get("/metrics");
    assert!(page.contains("tidegate_disk_budget_bytes 734003200\n"), "{page}");

    // What is needed alone is more than the budget.
    let large = world.data().join("fleet/large");
    take(&large, 800);
    // The server may be at it.
    let told = world.until("it is collected", || Some(world.cli(&["gc"])).filter(|told| told.code == 0)).out;
    assert!(told.contains("dependencies") && !world.data().join(dependencies).exists(), "{told}");
    let status = words(&world.cli(&["status"]).well());
    assert!(status.contains("TROUBLE the disk budget is exceeded, and no build begins"), "{status}");
    let message = format!("another way\n\nFixes: {bad}");
    let mends = repo.commit(&[("version", "3")], &message);
    world.bob(&["approve", &mends]).well();
    repo.merge(&mends);
    world.until("the status tells of the build that waits", || {
        let status = words(&world.cli(&["status"]).well());
        let both = status.contains("the build of app r3") && status.contains("disk budget of 700.0 MiB");
        both.then_some(())
    });
    world.bob(&["rollback", "app", "r2", "--reason", "it looks wrong"]).well();
    world.until_everywhere("app", 1);
    let eu = world.endpoint("shop", "beta", "eu");
    assert_eq!(get(&eu, "/", None), Some((200, "1".to_owned())));
    assert!(matches!(release(&world.pipeline("app"), 3).unwrap().build, BuildStatus::Building { .. }));

    fs::remove_file(large).unwrap();
    world.until("r3 is built and bakes", || bakes(&world, 3));
    world.until("no trouble is left", || world.status().troubles.is_empty().then_some(()));
}

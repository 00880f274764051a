//! Boxes that do not do what they should, and what a box is told.

use crate::world::{World, alive, definitions, get, release, wait_for, words};
use serde_json::json;
use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::time::{Duration, Instant};
use tidegate_api::{BuildStatus, MotionStatus, StandingStatus};

/// A release that never becomes healthy is taken back; its cause, as the status tells it.
fn taken_back(behaviour: &str) -> (World, String) {
    let world = World::start();
    let repo = world.repo("shop");
    let mut definition = definitions::application(&repo);
    definition["rolling"]["progress_deadline"] = json!("4s");
    definition["run"]["engine"]["process"]["health"]["start_timeout"] = json!("1s");
    // As a user would have it at first: what is good is given its time.
    world.land(&repo, &[]);
    world.apply("app", &definitions::application(&repo)).well();
    world.until_passed("app", 1);
    world.apply("app", &definition).well();
    world.land(&repo, &[("behaviour", behaviour)]);
    let cause = world.until("r2 is rejected", || match release(&world.pipeline("app"), 2)?.standing {
        StandingStatus::Rejected { cause, .. } => Some(cause.text),
        _ => None,
    });
    world.until_everywhere("app", 1);
    let eu = world.endpoint("shop", "beta", "eu");
    assert_eq!(get(&eu, "/", None).unwrap(), (200, "1".to_owned()));
    let folders = world.until("nothing of r2 is left", || {
        let records = world.box_records();
        (records.len() == 1).then_some(records)
    });
    assert!(
        folders.iter().all(|(_, r)| alive(u32::try_from(r["process"]["pid"].as_u64().unwrap()).unwrap()))
    );
    (world, cause)
}

#[test]
fn a_box_that_exits_at_once_is_taken_back_with_its_last_words() {
    let (world, cause) = taken_back("exits");
    let begin = "boxes of shop/beta/eu/a/main did not become healthy: box ";
    let end = ": it exited with status 7; its log ends with: FATAL the configuration has no database";
    assert!(cause.starts_with(begin) && cause.ends_with(end), "{cause}");
    let status = world.cli(&["status", "app"]).well();
    assert!(status.contains("REJECTED") && status.contains("rolled back"), "{status}");
}

#[test]
fn a_box_that_never_becomes_healthy_is_taken_back_with_what_its_check_said() {
    let (world, cause) = taken_back("sick");
    assert!(cause.contains("did not become healthy: box ") && cause.contains("503"), "{cause}");
    assert!(world.told().iter().any(|t| t.starts_with("r2 REJECTED: boxes of shop/beta/eu/a/main")));
}

#[test]
fn a_box_that_takes_no_sigterm_is_killed_in_bounded_time() {
    let world = World::start();
    let repo = world.repo("shop");
    world.land(&repo, &[("behaviour", "stubborn")]);
    world.apply("app", &definitions::application(&repo)).well();
    world.until_passed("app", 1);
    let pids: Vec<u32> = world
        .box_records()
        .iter()
        .map(|(_, record)| u32::try_from(record["process"]["pid"].as_u64().unwrap()).unwrap())
        .collect();
    assert_eq!(pids.len(), 1);
    let pid = rustix::process::Pid::from_raw(i32::try_from(pids[0]).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert!(alive(pids[0]), "the box takes no SIGTERM");
    world.land(&repo, &[("behaviour", "good"), ("version", "2")]);
    world.until_passed("app", 2);
    // The deployment is complete when they have left; their processes end with the time to stop (1 s) after it.
    let begun = Instant::now();
    wait_for(|| pids.iter().all(|pid| !alive(*pid)).then_some(())).expect("they are killed");
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
}

#[test]
fn a_package_whose_bytes_were_changed_does_not_start_and_is_found() {
    let world = World::start();
    let repo = world.repo("shop");
    world.land(&repo, &[]);
    let mut definition = definitions::application(&repo);
    world.apply("app", &definition).well();
    world.until_passed("app", 1);
    assert!(world.cli(&["packages", "verify"]).well().contains("1 packages are in order, 0 are not"));
    changed_under_a_box(&world);

    // The second release is built, and held back while somebody changes its bytes.
    world.bob(&["hold", "app", "--reason", "look at it"]).well();
    world.land(&repo, &[("version", "2")]);
    let digest = world.until("r2 is built", || match release(&world.pipeline("app"), 2)?.build {
        BuildStatus::Built { package, .. } => Some(package),
        _ => None,
    });
    let tar = world.data().join("packages").join(format!("{digest}.tar"));
    let good = fs::read(&tar).unwrap();
    fs::File::options().append(true).open(&tar).unwrap().write_all(b"x").unwrap();
    let told = world.cli(&["packages", "verify"]);
    assert_eq!(told.code, 1, "{told:?}");
    assert!(told.out.starts_with(&format!("BAD {digest}  ")), "{told:?}");
    assert!(told.out.ends_with("1 packages are in order, 1 are not\n"), "{told:?}");

    definition["rolling"]["progress_deadline"] = json!("3s");
    world.apply("app", &definition).well();
    world.bob(&["unhold", "app", "1"]).well();
    let trouble = world.until("the trouble shows", || {
        let pipeline = world.pipeline("app");
        let targets = crate::world::steps(&pipeline).flat_map(|s| &s.targets);
        targets
            .filter_map(|t| match &t.motion {
                MotionStatus::Forward { trouble, .. } => trouble.clone(),
                _ => None,
            })
            .next()
    });
    assert!(trouble.contains(&format!("package {} does not run: ", digest.short())), "{trouble}");
    assert!(trouble.contains("other bytes than its name says"), "{trouble}");
    world.until("r2 is rejected", || {
        matches!(release(&world.pipeline("app"), 2)?.standing, StandingStatus::Rejected { .. }).then_some(())
    });
    world.until_everywhere("app", 1);
    let status = world.cli(&["status", "app"]).well();
    assert!(status.contains(digest.short()), "{status}");
    let eu = world.endpoint("shop", "beta", "eu");
    assert_eq!(get(&eu, "/", None).unwrap(), (200, "1".to_owned()));

    // With its own bytes again it may be tried again.
    fs::write(&tar, good).unwrap();
    world.bob(&["retry", "app", "r2", "--reason", "the bytes are back"]).well();
    world.until_passed("app", 2);
}

/// The bytes that a box runs are changed, and it falls.
fn changed_under_a_box(world: &World) {
    let BuildStatus::Built { package, .. } = release(&world.pipeline("app"), 1).unwrap().build else {
        panic!()
    };
    let tar = world.data().join("packages").join(format!("{package}.tar"));
    let good = fs::read(&tar).unwrap();
    fs::File::options().append(true).open(&tar).unwrap().write_all(b"x").unwrap();
    let record = &world.box_records()[0].1;
    let pid = i32::try_from(record["process"]["pid"].as_i64().unwrap()).unwrap();
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(pid).unwrap(),
        rustix::process::Signal::KILL,
    )
    .unwrap();
    let status = world.until("the trouble shows", || {
        let status = words(&world.cli(&["status"]).well());
        status.contains("other bytes than its name says").then_some(status)
    });
    let what = "TROUBLE shop/beta/eu/a/main has 0 healthy boxes and needs 1 ";
    assert!(
        status.contains(what) && status.contains(&format!("package {} does not run: ", package.short())),
        "{status}"
    );
    let eu = world.endpoint("shop", "beta", "eu");
    assert_eq!(get(&eu, "/", None).unwrap().0, 503);
    fs::write(&tar, good).unwrap();
    world
        .until("the box starts again by itself", || get(&eu, "/", None).filter(|(status, _)| *status == 200));
    world.until("the trouble is over", || world.status().troubles.is_empty().then_some(()));
}

#[test]
fn a_box_is_told_its_place_its_endpoints_and_its_configuration() {
    let world = World::start();
    let repo = world.repo("shop");
    world.land(&repo, &[]);
    let mut definition = definitions::application(&repo);
    definition["run"]["environment"]["GREETING"] = json!("good day");
    definition["run"]["calls"] = json!(["stock"]);
    definition["stages"][0]["regions"] = json!(["us"]);
    world.apply("app", &definition).well();
    world.until_passed("app", 1);
    let us = world.endpoint("shop", "beta", "us");
    let stock = world.endpoint("stock", "beta", "us");
    // Two boxes take turns.
    let seen: BTreeMap<String, BTreeMap<String, String>> = world.until("both boxes answer", || {
        let mut seen = BTreeMap::new();
        for _ in 0..20 {
            let (status, body) = get(&us, "/env", None)?;
            assert_eq!(status, 200, "{body}");
            let pair = |line: &str| line.split_once('=').map(|(n, v)| (n.to_owned(), v.to_owned()));
            let environment: BTreeMap<String, String> = body.lines().filter_map(pair).collect();
            seen.insert(environment["TIDEGATE_AZ"].clone(), environment);
        }
        (seen.len() == 2).then_some(seen)
    });
    for (az, environment) in &seen {
        let is = |name: &str, value: &str| {
            assert_eq!(environment.get(name).map(String::as_str), Some(value), "{name} in {environment:#?}");
        };
        is("TIDEGATE_SERVICE", "shop");
        is("TIDEGATE_ENVIRONMENT", "beta");
        is("TIDEGATE_REGION", "us");
        is("TIDEGATE_ROLE", "main");
        is("TIDEGATE_TARGET", &format!("shop/beta/us/{az}/main"));
        // The team's own service is called in the same stage.
        is("TIDEGATE_ENDPOINT_STOCK", &format!("http://{stock}"));
        is("GREETING", "good day");
        let address = &environment["TIDEGATE_ADDRESS"];
        is("PORT", address.rsplit_once(':').unwrap().1);
        // It is its own address.
        let (_, own) = get(address, "/env", None).unwrap();
        assert!(own.contains(&format!("TIDEGATE_ADDRESS={address}\n")), "{own}");
        // Of the server's own environment nothing reaches it.
        assert!(
            !environment.keys().any(|name| name.starts_with("CARGO") || name.starts_with("NEXTEST")),
            "{own}"
        );
    }
}

//! A slot is put back at the machine, without a server, and stays so until a server knows of it.

use crate::load::{Load, ask};
use crate::support::{Fleet, main_slot};
use tidegate_core::ids::SlotId;
use tidegate_core::run_spec::RunSpec;
use tidegate_fleet::protocol::{BreakGlass, Code, PutBack};

fn order(slot: &SlotId) -> BreakGlass {
    BreakGlass {
        target: slot.target.clone(),
        pipeline: None,
        to: None,
        by: "alice".to_owned(),
        reason: "the site is down".to_owned(),
    }
}

async fn put_back(fleet: &Fleet, slot: &SlotId, to: &RunSpec) -> PutBack {
    let done = fleet.client.break_glass(&order(slot)).await.unwrap();
    assert_eq!(done.glass.run_spec, to.digest());
    done
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_ran_before_serves_again_and_no_server_undoes_it_unknowingly() {
    let mut fleet = Fleet::start().await;
    let (slot, old, bad) = (main_slot(), fleet.run_spec("1", "ok"), fleet.run_spec("2", "ok"));
    let next = fleet.run_spec("3", "ok");
    fleet.bring(&slot, &[(&old, 3)]).await;
    fleet.bring(&slot, &[(&bad, 1), (&old, 2)]).await;
    fleet.bring(&slot, &[(&bad, 3)]).await;
    let port = fleet.port(&slot).await;
    let load = Load::start(port, 2);
    load.more(20).await;
    let done = put_back(&fleet, &slot, &old).await;
    assert_eq!((done.boxes, &done.from), (3, &vec![bad.digest()]));
    fleet.settled(&slot, &[(&old, 3)]).await;
    load.more(20).await;
    load.finish();
    assert_eq!(ask(port, "GET", "/work").headers["x-version"], "1");
    let seen = fleet.observe(&slot).await;
    assert_eq!(
        seen.glass.as_ref().map(|glass| (glass.by.as_str(), glass.reason.as_str())),
        Some(("alice", "the site is down"))
    );

    // Whatever a server had decided before, or decides without having looked, is refused; also by a fleet that was killed.
    fleet.child.kill().unwrap();
    fleet.child.wait().unwrap();
    fleet.restart().await;
    let unknowing = fleet.command_for(&slot, &[(&bad, 3)]);
    let error = fleet.set(&unknowing).await.unwrap_err();
    assert_eq!(error.code(), Some(Code::GlassBroken), "{error}");
    assert!(error.to_string().contains("was put back by alice at the machine (the site is down)"), "{error}");
    fleet.settled(&slot, &[(&old, 3)]).await;

    let mut knowing = fleet.command_for(&slot, &[(&next, 3)]);
    knowing.acknowledges = Some(done.glass.id.clone());
    fleet.set(&knowing).await.unwrap();
    fleet.settled(&slot, &[(&next, 3)]).await;
    assert_eq!(fleet.observe(&slot).await.glass, None);
    put_back(&fleet, &slot, &old).await;
    // What was put away by hand is not what the next hand finds.
    let error = fleet.client.break_glass(&order(&slot)).await.unwrap_err();
    assert!(error.to_string().contains("ran nothing before what it runs now"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_way_forward_goes_back_and_half_way_back_goes_on() {
    let fleet = Fleet::start().await;
    let (slot, old, new) = (main_slot(), fleet.run_spec("1", "ok"), fleet.run_spec("2", "ok"));
    fleet.bring(&slot, &[(&old, 3)]).await;
    fleet.bring(&slot, &[(&new, 1), (&old, 2)]).await;
    let done = put_back(&fleet, &slot, &old).await;
    fleet.settled(&slot, &[(&old, 3)]).await;
    let mut set = fleet.command_for(&slot, &[(&old, 1), (&new, 2)]);
    (set.rollback, set.desired.condemned) = (true, vec![new.digest()]);
    set.acknowledges = Some(done.glass.id);
    fleet.set(&set).await.unwrap();
    put_back(&fleet, &slot, &old).await;
    fleet.settled(&slot, &[(&old, 3)]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_what_was_whole_here_and_verifies_is_put_back() {
    let fleet = Fleet::start().await;
    let slot = main_slot();
    let refused = async |order: BreakGlass, part: &str| {
        let error = fleet.client.break_glass(&order).await.unwrap_err();
        assert!(error.to_string().contains(part), "{error}");
    };
    refused(order(&slot), "this fleet has no target shop/production/eu-1/a/main").await;
    let run = |version: &str| {
        format!("#!/bin/sh\nVERSION={version} exec \"$TEST_EXE\" role_box --exact --nocapture\n")
    };
    let spec = |version: &str| RunSpec {
        package: fleet.pack("run", &run(version)),
        ..fleet.run_spec(version, "ok")
    };
    let (first, second, third) = (spec("1"), spec("2"), spec("3"));
    fleet.bring(&slot, &[(&first, 1)]).await;
    refused(order(&slot), "ran nothing before what it runs now").await;
    refused(BreakGlass { pipeline: Some("other".parse().unwrap()), ..order(&slot) }, "has slots of app only")
        .await;
    fleet.bring(&slot, &[(&second, 1)]).await;
    fleet.bring(&slot, &[(&third, 1)]).await;
    refused(BreakGlass { to: Some(third.digest()), ..order(&slot) }, "was never whole with RunSpec").await;

    let tar = fleet.dir.path().join("packages").join(format!("{}.tar", second.package));
    let mut bytes = std::fs::read(&tar).unwrap();
    bytes[600] ^= 1;
    std::fs::write(&tar, bytes).unwrap();
    let done = put_back(&fleet, &slot, &first).await;
    assert!(
        done.passed_over.len() == 1 && done.passed_over[0].contains("has other bytes than its name says"),
        "{done:?}"
    );
    fleet.settled(&slot, &[(&first, 1)]).await;
}

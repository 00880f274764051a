//! Boxes and packages that are no good, a second fleet, a full disk.

use crate::load::ask;
use crate::support::{Fleet, PATIENCE, alive, eventually, main_slot, reason, slot};
use std::process::Stdio;
use std::time::Instant;
use tidegate_core::engine::BoxHealth;
use tidegate_core::run_spec::{RunSpec, Workload};
use tidegate_core::units::Span;
use tidegate_fleet::protocol::Code;

fn process(spec: &mut RunSpec) -> &mut tidegate_core::run_spec::ProcessSpec {
    match &mut spec.workload {
        Workload::Process(process) => process,
        Workload::Command(_) | Workload::Configuration(_) | Workload::Definitions(_) => {
            panic!("not a process")
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_box_that_exits_at_once_is_started_again_and_says_why() {
    let fleet = Fleet::start().await;
    let (main, spec) = (main_slot(), fleet.run_spec("1", "exit"));
    fleet.set(&fleet.command_for(&main, &[(&spec, 1)])).await.unwrap();
    let seen = fleet
        .until(&main, "it was started three times", |o| {
            o.boxes.first().is_some_and(|b| b.incarnation >= 3 && !reason(b).is_empty())
        })
        .await;
    let why = reason(&seen.boxes[0]);
    assert!(why.contains("status 7") && why.contains("FATAL this box exits at once"), "{why}");
    assert!(seen.trouble.is_none());
    let log = fleet.client.box_log(&main.target, &seen.boxes[0].id).await.unwrap();
    assert!(log.matches("FATAL").count() >= 3, "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_box_that_never_becomes_healthy_gets_no_request_and_is_started_again() {
    let fleet = Fleet::start().await;
    let (main, good, mut sick) = (main_slot(), fleet.run_spec("good", "ok"), fleet.run_spec("sick", "sick"));
    process(&mut sick).health.start_timeout = Span(400);
    fleet.set(&fleet.command_for(&main, &[(&good, 1), (&sick, 1)])).await.unwrap();
    let seen = fleet
        .until(&main, "the sick box was started twice", |o| {
            o.boxes.iter().any(|b| b.incarnation >= 2 && reason(b).contains("not healthy within"))
                && o.boxes.iter().any(|b| b.health.is_healthy())
        })
        .await;
    let sick_box = seen.boxes.iter().find(|b| b.run_spec == sick.digest()).unwrap();
    assert!(reason(sick_box).contains("503"), "{}", reason(sick_box));
    assert_eq!(sick_box.weight, 0);
    let port = fleet.port(&main).await;
    for _ in 0..10 {
        assert_eq!(ask(port, "GET", "/work").headers["x-version"], "good");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_healthy_box_that_falls_ill_serves_no_more_until_it_is_well() {
    let fleet = Fleet::start().await;
    let (main, spec) = (main_slot(), fleet.run_spec("1", "ok"));
    fleet.bring(&main, &[(&spec, 2)]).await;
    let ill = fleet.observe(&main).await.boxes[0].id.clone();
    let mark = fleet.box_folder(&main.target, &ill).join("sick");
    std::fs::write(&mark, "").unwrap();
    let health =
        |o: &tidegate_core::engine::Observation| o.boxes.iter().find(|b| b.id == ill).unwrap().clone();
    fleet.until(&main, "it is ill", |o| !health(o).health.is_healthy() && health(o).weight == 0).await;
    std::fs::remove_file(&mark).unwrap();
    let seen =
        fleet.until(&main, "it is well", |o| health(o).health.is_healthy() && health(o).weight > 0).await;
    assert_eq!(health(&seen).incarnation, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_box_that_ignores_sigterm_is_killed_in_time() {
    let fleet = Fleet::start().await;
    let (main, mut spec) = (main_slot(), fleet.run_spec("1", "stubborn"));
    process(&mut spec).stop_timeout = Span(300);
    fleet.bring(&main, &[(&spec, 1)]).await;
    let pid = fleet.pid(&main, &fleet.observe(&main).await.boxes[0]);
    let start = Instant::now();
    fleet.set(&fleet.command_for(&main, &[])).await.unwrap();
    fleet.until(&main, "it leaves", |o| o.boxes.iter().all(|b| b.health == BoxHealth::Leaving)).await;
    fleet.settled(&main, &[]).await;
    assert!(start.elapsed().as_millis() >= 300 && !alive(pid));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tampered_bytes_are_not_started_and_only_that_slot_suffers() {
    let fleet = Fleet::start().await;
    let (main, beside) = (main_slot(), slot("shop/production/eu-1/b/main"));
    let spec = fleet.run_spec("1", "ok");
    fleet.bring(&beside, &[(&spec, 1)]).await;
    let tar = fleet.dir.path().join("packages").join(format!("{}.tar", fleet.package));
    let right = std::fs::read(&tar).unwrap();
    let mut wrong = right.clone();
    let at = wrong.windows(4).position(|w| w == b"exec").unwrap();
    wrong[at] = b'E';
    std::fs::remove_file(&tar).unwrap();
    std::fs::write(&tar, &wrong).unwrap();
    fleet.set(&fleet.command_for(&main, &[(&spec, 1)])).await.unwrap();
    let seen = fleet.until(&main, "it is refused", |o| o.trouble.is_some()).await;
    let trouble = seen.trouble.unwrap();
    assert!(trouble.contains(fleet.package.short()) && trouble.contains("SHA-256"), "{trouble}");
    assert_eq!((seen.boxes[0].incarnation, seen.boxes[0].weight), (0, 0));
    assert!(fleet.observe(&beside).await.boxes[0].health.is_healthy());
    std::fs::remove_file(&tar).unwrap();
    std::fs::write(&tar, &right).unwrap();
    fleet.settled(&main, &[(&spec, 1)]).await;
    fleet.until(&main, "the trouble is over", |o| o.trouble.is_none()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_fleet_on_the_same_folder_is_refused() {
    let fleet = Fleet::start().await;
    let output = Fleet::command(fleet.dir.path()).stdout(Stdio::null()).output().unwrap();
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3));
    let pid = format!("process {}", fleet.child.id());
    assert!(message.contains("another fleet") && message.contains(&pid), "{message}");
    assert_eq!(fleet.client.status().await.unwrap().pid, fleet.child.id());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failing_box_is_replaced_by_another_for_a_request_that_can_be_repeated() {
    let fleet = Fleet::start().await;
    let (main, spec) = (main_slot(), fleet.run_spec("1", "ok"));
    fleet.bring(&main, &[(&spec, 2)]).await;
    let port = fleet.port(&main).await;
    // The box closes the connection without an answer: a GET goes to the other box, which closes it as well.
    assert_eq!(ask(port, "GET", "/close").status, 502);
    assert_eq!(ask(port, "POST", "/close").status, 502);
    // The box dies: it is started again by itself, and meanwhile the other one serves.
    assert_eq!(ask(port, "POST", "/die").status, 502);
    let start = Instant::now();
    for _ in 0..50 {
        assert_eq!(ask(port, "POST", "/work").status, 200);
    }
    assert!(start.elapsed() < PATIENCE);
    let seen = fleet.until(&main, "it is back", |o| o.boxes.iter().all(|b| b.health.is_healthy())).await;
    assert_eq!(seen.boxes.iter().map(|b| b.incarnation).max(), Some(2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_full_disk_a_rollback_still_works() {
    // The reserve is 17 MiB: three times the package and the margin.
    let fleet = Fleet::start_on(Some(64)).await;
    let (main, old, new) = (main_slot(), fleet.run_spec("1", "ok"), fleet.run_spec("2", "ok"));
    fleet.bring(&main, &[(&new, 1)]).await;
    let reserve = fleet.data.join("reserve");
    eventually("there is a reserve", async || {
        std::fs::metadata(&reserve).ok().filter(|m| m.len() > 16 << 20)
    })
    .await;
    let mut filler = std::fs::File::create(fleet.data.join("filler")).unwrap();
    let full = std::io::copy(&mut std::io::repeat(0), &mut filler).unwrap_err();
    assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);

    let refused = fleet.set(&fleet.command_for(&main, &[(&old, 1)])).await.unwrap_err();
    assert_eq!(refused.code(), Some(Code::DiskFull), "{refused}");
    assert!(refused.to_string().contains("nothing was changed"), "{refused}");
    let seen = fleet.observe(&main).await;
    assert!(seen.fence.generation == 1 && seen.boxes[0].health.is_healthy());

    let mut rollback = fleet.command_for(&main, &[(&old, 1)]);
    rollback.rollback = true;
    fleet.set(&rollback).await.unwrap();
    fleet.settled(&main, &[(&old, 1)]).await;
    assert_eq!(ask(fleet.port(&main).await, "GET", "/work").headers["x-version"], "1");
    assert!(!reserve.exists());
}

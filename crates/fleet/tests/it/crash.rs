//! The fleet's own death: boxes live on, commands are remembered, ports stay.

use crate::load::ask;
use crate::support::{Fleet, alive, eventually, main_slot};
use tidegate_fleet::protocol::{Code, Stop};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_fleet_finds_its_boxes_again_with_the_same_pids() {
    let mut fleet = Fleet::start().await;
    let (main, spec) = (main_slot(), fleet.run_spec("1", "ok"));
    fleet.bring(&main, &[(&spec, 3)]).await;
    let (port, before) = (fleet.port(&main).await, fleet.observe(&main).await);
    let pids: Vec<u32> = before.boxes.iter().map(|b| fleet.pid(&main, b)).collect();
    // One box's record is as it was just before its process was started.
    let record = fleet.box_folder(&main.target, &before.boxes[0].id).join("box.json");
    fleet.child.kill().unwrap();
    fleet.child.wait().unwrap();
    let mut json: serde_json::Value = serde_json::from_slice(&std::fs::read(&record).unwrap()).unwrap();
    json["process"] = serde_json::Value::Null;
    json["was_healthy"] = false.into();
    std::fs::write(&record, json.to_string()).unwrap();
    fleet.restart().await;
    fleet.settled(&main, &[(&spec, 3)]).await;
    let after = fleet.observe(&main).await;
    let again: Vec<u32> = after.boxes.iter().map(|b| fleet.pid(&main, b)).collect();
    assert_eq!(pids, again);
    assert!(after.boxes.iter().all(|b| b.incarnation == 1));
    assert_eq!(fleet.port(&main).await, port);
    assert_eq!(ask(port, "GET", "/work").status, 200);
    // The end of an adopted process is seen although it is no child.
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(pids[1].cast_signed()).unwrap(),
        rustix::process::Signal::KILL,
    )
    .unwrap();
    fleet.until(&main, "it is started again", |o| o.boxes[1].incarnation == 2).await;
    fleet.settled(&main, &[(&spec, 3)]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_command_is_refused_also_after_a_restart() {
    let mut fleet = Fleet::start().await;
    let (main, spec) = (main_slot(), fleet.run_spec("1", "ok"));
    let mut set = fleet.command_for(&main, &[(&spec, 1)]);
    set.fence.epoch = 7;
    fleet.set(&set).await.unwrap();
    fleet.settled(&main, &[(&spec, 1)]).await;
    fleet.child.kill().unwrap();
    fleet.child.wait().unwrap();
    fleet.restart().await;
    let mut stale = fleet.command_for(&main, &[]);
    stale.fence.epoch = 6;
    assert_eq!(fleet.set(&stale).await.unwrap_err().code(), Some(Code::StaleFence));
    let status = fleet.client.status().await.unwrap();
    assert_eq!((status.highest_epoch, status.boxes), (7, 1));
    fleet.set(&set).await.unwrap();
    fleet.settled(&main, &[(&spec, 1)]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_leaves_the_boxes_or_takes_them_along() {
    let mut fleet = Fleet::start().await;
    let (main, spec) = (main_slot(), fleet.run_spec("1", "ok"));
    fleet.bring(&main, &[(&spec, 2)]).await;
    let boxes = fleet.observe(&main).await.boxes;
    let pids: Vec<u32> = boxes.iter().map(|b| fleet.pid(&main, b)).collect();
    fleet.client.stop(Stop { boxes: false }).await.unwrap();
    assert!(fleet.child.wait().unwrap().success());
    assert!(pids.iter().all(|pid| alive(*pid)));
    fleet.restart().await;
    fleet.settled(&main, &[(&spec, 2)]).await;
    fleet.client.stop(Stop { boxes: true }).await.unwrap();
    assert!(fleet.child.wait().unwrap().success());
    eventually("the boxes end", async || pids.iter().all(|pid| !alive(*pid)).then_some(())).await;
    fleet.restart().await;
    fleet.settled(&main, &[(&spec, 2)]).await;
    let again = fleet.observe(&main).await.boxes;
    assert_eq!(
        again.iter().map(|b| (&b.id, b.incarnation)).collect::<Vec<_>>(),
        boxes.iter().map(|b| (&b.id, 2)).collect::<Vec<_>>()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_of_a_fleets_folder_leaves_the_boxes_of_the_first_alone() {
    let fleet = Fleet::start().await;
    let (main, spec) = (main_slot(), fleet.run_spec("1", "ok"));
    fleet.bring(&main, &[(&spec, 2)]).await;
    let boxes = fleet.observe(&main).await.boxes;
    let pids: Vec<u32> = boxes.iter().map(|b| fleet.pid(&main, b)).collect();
    let port = fleet.port(&main).await;
    let elsewhere = tempfile::tempdir().unwrap();
    // Sockets cannot be copied, and are not.
    let mut copying = std::process::Command::new("cp");
    copying.arg("-r").arg(fleet.dir.path()).arg(elsewhere.path().join("copy"));
    copying.stderr(std::process::Stdio::null()).status().unwrap();
    let mut second = Fleet::spawn(&elsewhere.path().join("copy"));
    assert_eq!(second.wait().unwrap().code(), Some(3), "it is refused");
    assert!(pids.iter().all(|pid| alive(*pid)));
    let after: Vec<u32> = fleet.observe(&main).await.boxes.iter().map(|b| fleet.pid(&main, b)).collect();
    assert_eq!(after, pids);
    assert_eq!(ask(port, "GET", "/work").status, 200);
}

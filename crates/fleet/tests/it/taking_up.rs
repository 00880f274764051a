//! Processes that ran before the fleet become its boxes without being started again.

use crate::load::ask;
use crate::support::{Fleet, alive, main_slot};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use tidegate_core::engine::RunningProcess;
use tidegate_core::run_spec::Workload;
use tidegate_core::units::Span;
use tidegate_fleet::protocol::Code;
use tidegate_fleet::running;

/// A box's program that nobody supervises, in a session of its own or in ours.
struct Alone(Child, u16);

impl Alone {
    fn start(version: &str, session: bool) -> Alone {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let exe = std::env::current_exe().unwrap();
        let mut command = if session { Command::new("setsid") } else { Command::new("env") };
        command.arg(exe).args(["role_box", "--exact", "--nocapture"]);
        command.env("TEST_MODE", "ok").env("VERSION", version).env("TIDEGATE_BOX", "none");
        command
            .env("TIDEGATE_ADDRESS", format!("127.0.0.1:{port}"))
            .env("TIDEGATE_CONFIGURATION", "/nowhere");
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
        let alone = Alone(child, port);
        let end = std::time::Instant::now() + crate::support::PATIENCE;
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(std::time::Instant::now() < end, "the program does not listen");
            std::thread::yield_now();
        }
        alone
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }

    fn process(&self) -> RunningProcess {
        running::look(self.pid(), Some(self.1)).unwrap().process
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_go_on_as_boxes_over_restarts_and_are_replaced_and_returned_to_as_any_other() {
    let mut fleet = Fleet::start().await;
    let slot = main_slot();
    let (adopted, new) = (fleet.run_spec("0", "ok"), fleet.run_spec("1", "ok"));
    let mut alone: Vec<Alone> = (0..2).map(|_| Alone::start("0", true)).collect();
    let mut set = fleet.command_for(&slot, &[(&adopted, 2)]);
    set.takes_up = Some(alone.iter().map(Alone::process).collect());
    fleet.set(&set).await.unwrap();
    // A server that was killed before it noted the answer says it again, also as a newer one.
    set.fence.epoch += 1;
    fleet.set(&set).await.unwrap();
    fleet.settled(&slot, &[(&adopted, 2)]).await;
    let pids = |fleet: &Fleet, boxes: &[tidegate_core::engine::BoxObservation]| {
        let mut pids: Vec<u32> = boxes.iter().map(|b| fleet.pid(&slot, b)).collect();
        pids.sort_unstable();
        pids
    };
    let mut known: Vec<u32> = alone.iter().map(Alone::pid).collect();
    known.sort_unstable();
    assert_eq!(pids(&fleet, &fleet.observe(&slot).await.boxes), known);
    let port = fleet.port(&slot).await;
    assert_eq!(ask(port, "GET", "/work").headers["x-version"], "0");

    fleet.child.kill().unwrap();
    fleet.child.wait().unwrap();
    fleet.restart().await;
    fleet.settled(&slot, &[(&adopted, 2)]).await;
    assert_eq!(pids(&fleet, &fleet.observe(&slot).await.boxes), known, "the same processes");

    let mut next = fleet.command_for(&slot, &[(&new, 2)]);
    next.fence.epoch = set.fence.epoch;
    fleet.set(&next).await.unwrap();
    // Their parent is this test, which hears of their end.
    let ended = tokio::task::spawn_blocking(move || {
        for each in &mut alone {
            each.0.wait().unwrap();
        }
    });
    fleet.settled(&slot, &[(&new, 2)]).await;
    ended.await.unwrap();
    assert_eq!(ask(port, "GET", "/work").headers["x-version"], "1");
    let mut back = fleet.command_for(&slot, &[(&adopted, 2)]);
    (back.fence.epoch, back.rollback) = (set.fence.epoch, true);
    fleet.set(&back).await.unwrap();
    fleet.settled(&slot, &[(&adopted, 2)]).await;
    assert_eq!(ask(port, "GET", "/work").headers["x-version"], "0", "started from the package this time");
}

/// Whoever handed it over has seen it healthy, so it need not show for as long as one that starts that it is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_taken_up_serves_after_one_check() {
    let fleet = Fleet::start().await;
    let (slot, mut spec) = (main_slot(), fleet.run_spec("0", "ok"));
    let Workload::Process(process) = &mut spec.workload else { panic!("{spec:?}") };
    // A second check would come too late for anybody.
    (process.health.interval, process.health.healthy_after) = (Span::hours(1), 2);
    let alone = Alone::start("0", true);
    let mut set = fleet.command_for(&slot, &[(&spec, 1)]);
    set.takes_up = Some(vec![alone.process()]);
    fleet.set(&set).await.unwrap();
    fleet.settled(&slot, &[(&spec, 1)]).await;
    assert_eq!(ask(fleet.port(&slot).await, "GET", "/work").headers["x-version"], "0");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_fleet_could_not_look_after_is_refused_and_left_alone() {
    let fleet = Fleet::start().await;
    let (slot, spec) = (main_slot(), fleet.run_spec("0", "ok"));
    let (with, without) = (Alone::start("0", true), Alone::start("0", false));
    let why = |error: running::NotTakenUp| error.to_string();
    assert!(why(running::look(without.pid(), None).unwrap_err()).contains("does not lead a session"), "ours");
    assert!(why(running::look(with.pid(), Some(1)).unwrap_err()).contains("does not listen on port 1"));
    let mine = std::process::id();
    assert!(running::look(mine, None).is_err(), "this test leads no session or listens nowhere");
    assert_eq!(running::look(with.pid(), None).unwrap().process, with.process(), "the only port is found");

    let refused = async |processes: Vec<RunningProcess>, part: &str| {
        let mut set = fleet.command_for(&slot, &[(&spec, 1)]);
        set.takes_up = Some(processes);
        let error = fleet.set(&set).await.unwrap_err();
        assert_eq!(error.code(), Some(Code::BadCommand));
        assert!(error.to_string().contains(part), "{error}");
    };
    refused(vec![with.process(), with.process()], "2 processes are no 1 boxes").await;
    refused(vec![RunningProcess { port: 1, ..with.process() }], "does not listen on port 1").await;
    assert!(alive(with.pid()) && alive(without.pid()));
    assert!(fleet.client.slots().await.unwrap().observations.is_empty(), "the slot is not known");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_is_one_slot_s_and_one_that_has_ended_is_started_again() {
    let fleet = Fleet::start().await;
    let (first, second) = (main_slot(), crate::support::slot("shop/production/eu-1/b/main"));
    let spec = fleet.run_spec("0", "ok");
    let alone = Alone::start("0", true);
    let mut set = fleet.command_for(&first, &[(&spec, 1)]);
    set.takes_up = Some(vec![alone.process()]);
    fleet.set(&set).await.unwrap();
    let mut same = fleet.command_for(&second, &[(&spec, 1)]);
    same.takes_up = Some(vec![alone.process()]);
    let error = fleet.set(&same).await.unwrap_err();
    assert_eq!(error.code(), Some(Code::BadCommand));
    assert!(error.to_string().contains(&format!("is a box of slot {first}")), "{error}");

    let mut gone = Alone::start("0", true);
    let process = gone.process();
    gone.0.kill().unwrap();
    gone.0.wait().unwrap();
    let mut late = fleet.command_for(&second, &[(&spec, 1)]);
    late.takes_up = Some(vec![process]);
    // It ended after somebody looked, which is as if it had ended a moment later: its box is started from the package.
    fleet.set(&late).await.unwrap();
    fleet.settled(&second, &[(&spec, 1)]).await;
    let its = fleet.pid(&second, &fleet.observe(&second).await.boxes[0]);
    assert!(its != gone.pid() && alive(its) && alive(alone.pid()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_ends_while_no_fleet_runs_is_started_again_from_its_package() {
    let mut fleet = Fleet::start().await;
    let (slot, spec) = (main_slot(), fleet.run_spec("0", "ok"));
    let mut alone = Alone::start("0", true);
    let mut set = fleet.command_for(&slot, &[(&spec, 1)]);
    set.takes_up = Some(vec![alone.process()]);
    fleet.set(&set).await.unwrap();
    fleet.settled(&slot, &[(&spec, 1)]).await;
    fleet.child.kill().unwrap();
    fleet.child.wait().unwrap();
    alone.0.kill().unwrap();
    alone.0.wait().unwrap();
    fleet.restart().await;
    fleet.settled(&slot, &[(&spec, 1)]).await;
    let now = fleet.pid(&slot, &fleet.observe(&slot).await.boxes[0]);
    assert!(now != alone.pid() && alive(now));
    assert_eq!(ask(fleet.port(&slot).await, "GET", "/work").headers["x-version"], "0");
}

/// What was taken up does not carry the first fleet's name, so the copy cannot see it by that: it has to forget it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copied_folder_takes_up_no_process_of_the_first_fleet() {
    let fleet = Fleet::start().await;
    let (slot, spec) = (main_slot(), fleet.run_spec("0", "ok"));
    let alone = Alone::start("0", true);
    let mut set = fleet.command_for(&slot, &[(&spec, 1)]);
    set.takes_up = Some(vec![alone.process()]);
    fleet.set(&set).await.unwrap();
    fleet.settled(&slot, &[(&spec, 1)]).await;
    let second = fleet.copied().await;
    second.settled(&slot, &[(&spec, 1)]).await;
    let pid = async |of: &Fleet| of.pid(&slot, &of.observe(&slot).await.boxes[0]);
    assert_ne!(pid(&second).await, alone.pid(), "it starts a box of its own");
    assert_eq!(pid(&fleet).await, alone.pid(), "which is still the first one's");
    assert!(alive(alone.pid()));
}

//! Configuration of boxes that run: given to as many as asked for, as a whole, and kept over every death.

use crate::load::ask;
use crate::support::{Fleet, eventually, main_slot, reason};
use tidegate_core::engine::{BoxHealth, Observation, Rest};
use tidegate_core::ids::SlotId;
use tidegate_core::run_spec::{ConfigurationSpec, RunSpec, Workload};
use tidegate_core::units::Span;
use tidegate_fleet::protocol::{Code, SetSlot};

fn flags_slot() -> SlotId {
    SlotId { pipeline: "flags".parse().unwrap(), ..main_slot() }
}

impl Fleet {
    /// Flags with this limit.
    fn flags(&self, limit: &str) -> RunSpec {
        RunSpec {
            package: self.pack("limit", limit),
            environment: [].into(),
            workload: Workload::Configuration(ConfigurationSpec {
                reload: "/reload".to_owned(),
                timeout: Span::seconds(2),
            }),
            ..self.run_spec("", "")
        }
    }

    fn flags_command(&self, split: &[(&RunSpec, u32)], rest: Option<&RunSpec>) -> SetSlot {
        let mut set = self.command_for(&flags_slot(), split);
        set.desired.rest = Some(rest.map_or(Rest::Nothing, |rest| Rest::RunSpec(rest.digest())));
        set.run_specs.extend(rest.cloned());
        set
    }

    async fn give(&self, split: &[(&RunSpec, u32)], rest: Option<&RunSpec>) {
        self.set(&self.flags_command(split, rest)).await.unwrap();
    }

    /// Waits until so many boxes are told to be healthy with these values.
    async fn have(&self, spec: &RunSpec, boxes: usize) -> Observation {
        let healthy = |o: &Observation| healthy_with(o, spec);
        self.until(&flags_slot(), "the boxes have the values", |o| healthy(o) == boxes).await
    }

    /// The values that the service's boxes work with, in the order of the turns.
    async fn values(&self, asked: usize) -> Vec<String> {
        let port = self.port(&main_slot()).await;
        let answer = || String::from_utf8(ask(port, "GET", "/values").body).unwrap();
        let mut all: Vec<String> = (0..asked).map(|_| answer()).collect();
        all.sort();
        all
    }
}

fn healthy_with(o: &Observation, spec: &RunSpec) -> usize {
    o.boxes.iter().filter(|b| b.run_spec == spec.digest() && b.health.is_healthy()).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn running_boxes_take_up_values_as_many_as_asked_for_without_a_restart() {
    let fleet = Fleet::start().await;
    let (main, spec) = (main_slot(), fleet.run_spec("1", "ok"));
    let (one, two) = (fleet.flags("1"), fleet.flags("2"));
    fleet.bring(&main, &[(&spec, 3)]).await;
    fleet.give(&[], None).await;
    let seen = fleet.until(&flags_slot(), "every box is told", |o| o.boxes.len() == 3).await;
    assert!(seen.boxes.iter().all(|b| b.run_spec == spec.digest() && b.health.is_healthy()), "{seen:?}");

    fleet.give(&[(&one, 1)], None).await;
    fleet.have(&one, 1).await;
    assert_eq!(fleet.values(3).await, ["1", "none", "none"]);
    fleet.give(&[(&one, 3)], Some(&one)).await;
    fleet.have(&one, 3).await;
    fleet.give(&[(&two, 2), (&one, 1)], Some(&one)).await;
    let seen = fleet.have(&two, 2).await;
    assert_eq!(healthy_with(&seen, &one), 1);
    assert_eq!(fleet.values(3).await, ["1", "2", "2"]);
    fleet.give(&[], None).await;
    fleet
        .until(&flags_slot(), "they have none", |o| o.boxes.iter().all(|b| b.run_spec == spec.digest()))
        .await;
    assert_eq!(fleet.values(3).await, ["none", "none", "none"]);

    let boxes = fleet.observe(&main).await.boxes;
    assert!(boxes.iter().all(|b| b.incarnation == 1), "no process was started again");
    assert_eq!(fleet.client.status().await.unwrap().boxes, 3, "a box that is configured is counted once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_box_that_refuses_its_values_says_why_and_goes_on_with_those_it_had() {
    let fleet = Fleet::start().await;
    let (main, spec) = (main_slot(), fleet.run_spec("1", "ok"));
    let (one, bad) = (fleet.flags("1"), fleet.flags("many"));
    fleet.bring(&main, &[(&spec, 2)]).await;
    fleet.give(&[(&one, 2)], Some(&one)).await;
    fleet.have(&one, 2).await;
    fleet.give(&[(&bad, 1), (&one, 1)], Some(&one)).await;
    let seen = fleet
        .until(&flags_slot(), "it refuses", |o| {
            o.boxes.iter().any(|b| b.run_spec == bad.digest() && reason(b).contains("422"))
        })
        .await;
    let sick = seen.boxes.iter().find(|b| b.run_spec == bad.digest()).unwrap();
    assert_eq!(
        reason(sick),
        "POST /reload answered 422 Unprocessable Entity: limit 'many': invalid digit found in string"
    );
    assert_eq!(fleet.values(2).await, ["1", "1"], "it serves on");
    let healthy = fleet.observe(&main).await.boxes.iter().all(|b| b.health.is_healthy());
    assert!(healthy, "its process is as healthy as before");

    // A process that is started again, for whatever reason, has the values that it worked with.
    let refusing = fleet.observe(&main).await.boxes.into_iter().find(|b| b.id == sick.id).unwrap();
    let pid = rustix::process::Pid::from_raw(fleet.pid(&main, &refusing).cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    fleet
        .until(&main, "it is started again", |o| {
            o.boxes.iter().any(|b| b.id == sick.id && b.incarnation == 2 && b.health.is_healthy())
        })
        .await;
    assert_eq!(fleet.values(2).await, ["1", "1"]);

    // Taken back.
    fleet.give(&[(&one, 2)], Some(&one)).await;
    fleet.have(&one, 2).await;
    assert_eq!(fleet.values(2).await, ["1", "1"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_that_keep_a_box_down_after_it_took_them_are_taken_back() {
    let fleet = Fleet::start().await;
    let (main, spec) = (main_slot(), fleet.run_spec("1", "ok"));
    // It answers that it works with them, and dies of them then and at every start.
    let (one, deadly) = (fleet.flags("1"), fleet.flags("666"));
    fleet.bring(&main, &[(&spec, 1)]).await;
    fleet.give(&[(&one, 1)], Some(&one)).await;
    fleet.have(&one, 1).await;
    fleet.give(&[(&deadly, 1)], Some(&deadly)).await;
    fleet.until(&main, "it dies of them", |o| o.boxes.iter().any(|b| b.incarnation >= 3)).await;
    let mut back = fleet.flags_command(&[(&one, 1)], Some(&one));
    back.rollback = true;
    fleet.set(&back).await.unwrap();
    fleet.have(&one, 1).await;
    assert_eq!(fleet.values(1).await, ["1"]);
    // It has them also after a start that has nothing to do with them.
    let running = fleet.observe(&main).await.boxes.remove(0);
    let pid = rustix::process::Pid::from_raw(fleet.pid(&main, &running).cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    fleet.until(&main, "it is started again", |o| o.boxes[0].incarnation > running.incarnation).await;
    fleet.have(&one, 1).await;
    assert_eq!(fleet.values(1).await, ["1"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_that_a_box_was_started_with_can_be_taken_back_to_none() {
    let fleet = Fleet::start().await;
    let (main, spec) = (main_slot(), fleet.run_spec("1", "ok"));
    let one = fleet.flags("1");
    fleet.give(&[(&one, 1)], Some(&one)).await;
    // It starts with them and does not say that it works with them until it is asked to work without.
    fleet.set(&fleet.command_for(&main, &[(&spec, 1)])).await.unwrap();
    let id = fleet.until(&main, "it starts", |o| o.boxes.len() == 1).await.boxes[0].id.clone();
    let mute = fleet.box_folder(&main.target, &id).join("mute");
    eventually("it has a folder", async || std::fs::write(&mute, "").ok()).await;
    fleet.settled(&main, &[(&spec, 1)]).await;
    let mut none = fleet.flags_command(&[], None);
    none.rollback = true;
    fleet.set(&none).await.unwrap();
    std::fs::remove_file(&mute).unwrap();
    fleet
        .until(&flags_slot(), "it works without", |o| {
            o.fence == none.fence
                && o.boxes.iter().all(|b| b.run_spec == spec.digest() && b.health.is_healthy())
        })
        .await;
    assert_eq!(fleet.values(1).await, ["none"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_box_that_does_not_answer_is_bounded_and_asked_again() {
    let fleet = Fleet::start().await;
    let (main, spec, one) = (main_slot(), fleet.run_spec("1", "ok"), fleet.flags("1"));
    fleet.bring(&main, &[(&spec, 1)]).await;
    let mute = fleet.box_folder(&main.target, &fleet.observe(&main).await.boxes[0].id).join("mute");
    std::fs::write(&mute, "").unwrap();
    fleet.give(&[(&one, 1)], Some(&one)).await;
    let seen = fleet.until(&flags_slot(), "it gives up", |o| !reason(&o.boxes[0]).is_empty()).await;
    assert_eq!(reason(&seen.boxes[0]), "POST /reload got no answer within 2s");
    std::fs::remove_file(&mute).unwrap();
    fleet.have(&one, 1).await;
    assert_eq!(fleet.values(1).await, ["1"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn boxes_that_start_have_the_values_and_keep_them_over_the_fleets_death() {
    let mut fleet = Fleet::start().await;
    let (main, spec) = (main_slot(), fleet.run_spec("1", "ok"));
    let (one, two) = (fleet.flags("1"), fleet.flags("2"));
    // Before there is any box.
    fleet.give(&[(&one, 1)], Some(&one)).await;
    let seen = fleet.until(&flags_slot(), "it is accepted", |_| true).await;
    assert_eq!(seen.boxes, []);
    fleet.bring(&main, &[(&spec, 2)]).await;
    fleet.have(&one, 2).await;
    assert_eq!(fleet.values(2).await, ["1", "1"]);
    fleet.child.kill().unwrap();
    fleet.child.wait().unwrap();
    fleet.restart().await;
    let seen = fleet.have(&one, 2).await;
    assert!(seen.boxes.iter().all(|b| b.incarnation == 1));
    assert_eq!(fleet.values(2).await, ["1", "1"]);
    fleet.give(&[(&two, 2)], Some(&two)).await;
    fleet.have(&two, 2).await;
    // A new release of the processes: its boxes have them from the start.
    let new = fleet.run_spec("2", "ok");
    fleet.bring(&main, &[(&new, 2)]).await;
    fleet.have(&two, 2).await;
    assert_eq!(fleet.values(2).await, ["2", "2"]);
    // What a successor finds is what was there.
    let next = fleet.client.upgrade().await.unwrap().pid;
    eventually("the successor supervises", async || {
        fleet.client.status().await.ok().filter(|s| s.pid == next)
    })
    .await;
    fleet.have(&two, 2).await;
    fleet.give(&[(&one, 2)], Some(&one)).await;
    fleet.have(&one, 2).await;
    assert_eq!(fleet.values(2).await, ["1", "1"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_whose_bytes_were_changed_reach_no_box() {
    let fleet = Fleet::start().await;
    let (main, spec, one) = (main_slot(), fleet.run_spec("1", "ok"), fleet.flags("1"));
    fleet.bring(&main, &[(&spec, 1)]).await;
    let tar = fleet.dir.path().join("packages").join(format!("{}.tar", one.package));
    let bytes = std::fs::read(&tar).unwrap();
    std::fs::remove_file(&tar).unwrap();
    std::fs::write(&tar, [&bytes[..], b"more"].concat()).unwrap();
    fleet.give(&[(&one, 1)], Some(&one)).await;
    let seen = fleet.until(&flags_slot(), "it is noticed", |o| !reason(&o.boxes[0]).is_empty()).await;
    assert!(reason(&seen.boxes[0]).contains("does not run"), "{seen:?}");
    assert_eq!(fleet.values(1).await, ["none"]);
    assert!(fleet.observe(&main).await.boxes[0].health.is_healthy());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_configuration_cannot_be_is_refused() {
    let fleet = Fleet::start().await;
    let (main, spec, one) = (main_slot(), fleet.run_spec("1", "ok"), fleet.flags("1"));
    fleet.bring(&main, &[(&spec, 1)]).await;
    let as_boxes = fleet.command_for(&flags_slot(), &[(&one, 1)]);
    assert_eq!(fleet.set(&as_boxes).await.unwrap_err().code(), Some(Code::SlotTaken));
    let mut process = fleet.flags_command(&[(&spec, 1)], None);
    assert_eq!(fleet.set(&process).await.unwrap_err().code(), Some(Code::BadCommand));
    process.slot = main.clone();
    assert_eq!(fleet.set(&process).await.unwrap_err().code(), Some(Code::BadCommand));
    let mut elsewhere = one.clone();
    elsewhere.workload =
        Workload::Configuration(ConfigurationSpec { reload: "reload".to_owned(), timeout: Span::seconds(1) });
    let bad_path = fleet.flags_command(&[(&elsewhere, 1)], None);
    assert_eq!(fleet.set(&bad_path).await.unwrap_err().code(), Some(Code::BadCommand));
    assert!(matches!(fleet.observe(&main).await.boxes[0].health, BoxHealth::Healthy { .. }));
}

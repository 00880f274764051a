//! A store that fails, a disk that is full, a process that dies.

use crate::world::{World, event, id, on_both, tidegate};
use tidegate_core::alarm::{AlarmName, AlarmState};
use tidegate_core::decision::Event;
use tidegate_core::ids::ReleaseNo;
use tidegate_core::pipeline::{Motion, PipelineEvent, Work};
use tidegate_core::scope::Scope;
use tidegate_core::team::{Report, TeamEvent, metric_alarms};
use tidegate_core::units::Span;
use tidegate_runtime::{Lane, Reserve, SubmitError};
use tidegate_store::Fault;

fn hold() -> Event {
    event(PipelineEvent::HoldPlaced { by: tidegate(), reason: "test".into(), until: None, stage: None })
}

fn order_rollback(release: u64) -> Event {
    let (by, reason, everywhere) = (tidegate(), "it hurts".into(), false);
    event(PipelineEvent::RollbackOrdered { release: ReleaseNo(release), by, reason, everywhere })
}

/// The first step of gamma has release 1 and gets release 2; nothing has moved yet.
fn second_release_enters(w: &World) {
    w.commit(1);
    w.build();
    w.submit(&w.seen("frontend/gamma/eu-1/a/main", 1, 0)).unwrap();
    w.submit(&w.seen("frontend/gamma/eu-1/a/main", 1, 3)).unwrap();
}

#[test]
fn a_crash_between_commit_and_dispatch_repeats_the_effect() {
    on_both(|mut w| {
        w.commit(1);
        w.build();
        let before = w.orders(Lane::Forward);
        assert_eq!(before.len(), 1);
        w.restart();
        assert_eq!(w.orders(Lane::Forward), before, "the same effect under the same name");
        w.runtime.effect_done(&before[0].0.id).unwrap();
        w.restart();
        assert_eq!(w.orders(Lane::Forward), []);
    });
}

#[test]
fn a_full_disk_refuses_forward_work_and_takes_rollbacks() {
    let w = World::memory();
    let memory = w.memory.clone().unwrap();
    second_release_enters(&w);
    memory.fail_next(Fault::NoSpace);
    assert!(matches!(w.submit(&hold()), Err(SubmitError::NoSpace)));
    assert!(w.runtime.pipeline(&id("frontend")).unwrap().unwrap().holds.is_empty());

    memory.fail_next(Fault::NoSpace);
    let outcome = w.submit(&order_rollback(1)).unwrap();
    assert!(!outcome.effects.is_empty());
    assert_eq!(w.orders(Lane::Rollback).len(), 1);
    assert!(w.submit(&hold()).is_ok(), "the pipeline moves back: all that it records comes first");

    // The rollback's observations and its effect's end are recorded on the full disk as well.
    let back = w.orders(Lane::Rollback)[0].0.id.clone();
    w.runtime.effect_done(&back).unwrap();
    let done = w.submit(&w.seen("frontend/gamma/eu-1/a/main", 1, 0)).unwrap();
    assert!(!done.facts.is_empty());
    let pipeline = w.runtime.pipeline(&id("frontend")).unwrap().unwrap();
    assert!(pipeline.slots.values().all(|s| s.motion == Motion::Settled));
    assert!(matches!(w.submit(&hold()), Err(SubmitError::NoSpace)), "nothing goes back any more");
    assert_eq!(w.runtime.tend().unwrap(), Reserve::Held);
    w.submit(&hold()).unwrap();
}

#[test]
fn alarms_are_recorded_on_a_full_disk_and_the_woken_pipeline_rolls_back() {
    let w = World::memory();
    let memory = w.memory.clone().unwrap();
    second_release_enters(&w);
    let team = w.runtime.team(&"shop".parse().unwrap()).unwrap();
    let alarms = metric_alarms(&team.services[0]);
    let report = |name: &AlarmName, state| (name.clone(), Report { state, why: "5 % faults".into() });
    let fires = alarms.iter().map(|a| report(&a.name, AlarmState::Alarm)).collect();
    let scope = Scope::try_from("gamma/eu-1".to_owned()).unwrap();
    w.clock.pass(Span::seconds(5));
    let evaluated = TeamEvent::Evaluated { scope, at: w.runtime.now(), alarms: fires };
    memory.fail_next(Fault::NoSpace);
    w.submit(&Event::Team("shop".parse().unwrap(), evaluated)).unwrap();
    w.clock.pass(Span::seconds(1));
    assert_eq!(w.runtime.tick_due(10).unwrap(), 1, "its tick takes something back");
    assert_eq!(w.orders(Lane::Rollback).len(), 1);
    let pipeline = w.runtime.pipeline(&id("frontend")).unwrap().unwrap();
    assert!(pipeline.steps.values().any(|s| matches!(s.work, Work::RollingBack { .. })));
}

#[test]
fn a_tick_that_finds_the_disk_full_says_so_and_stands() {
    let w = World::memory();
    let memory = w.memory.clone().unwrap();
    w.commit(1);
    let due = w.runtime.next_due().unwrap().unwrap();
    w.clock.set(due);
    memory.fail_next(Fault::NoSpace);
    assert!(w.runtime.tick_due(10).is_err());
    assert_eq!(w.runtime.next_due().unwrap(), Some(due));
    assert_eq!(w.runtime.tick_due(10).unwrap(), 1);
}

#[test]
fn after_a_commit_of_unknown_outcome_the_state_is_read_anew() {
    let w = World::memory();
    let memory = w.memory.clone().unwrap();
    memory.fail_next(Fault::Unacknowledged);
    assert!(matches!(w.submit(&hold()), Err(SubmitError::Store(_))));
    assert_eq!(w.runtime.pipeline(&id("frontend")).unwrap().unwrap().holds.len(), 1, "it was made");
    memory.fail_next(Fault::Refused);
    assert!(matches!(w.submit(&hold()), Err(SubmitError::Store(_))));
    assert_eq!(w.runtime.pipeline(&id("frontend")).unwrap().unwrap().holds.len(), 1, "it was not");
    w.submit(&hold()).unwrap();
    assert_eq!(w.runtime.pipeline(&id("frontend")).unwrap().unwrap().holds.len(), 2);
    w.runtime.verify_log(None).unwrap();
}

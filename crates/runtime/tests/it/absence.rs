//! Time in which nobody worked.

use crate::world::{START, World, event, id, on_both};
use tidegate_core::decision::{Actor, Event, Fact};
use tidegate_core::ids::ReleaseNo;
use tidegate_core::pipeline::{Build, PipelineEvent, PipelineFact};
use tidegate_core::team::TeamEvent;
use tidegate_core::units::{Span, Timestamp};
use tidegate_runtime::{ABSENCE_MIN, Clock, Start, SubmitError};
use tidegate_store::Fault;

fn deadline(w: &World) -> Timestamp {
    match &w.runtime.pipeline(&id("frontend")).unwrap().unwrap().releases[&ReleaseNo(1)].build {
        Build::Building { awaited, .. } => awaited.deadline,
        other => panic!("{other:?}"),
    }
}

/// How long it was each time, newest first.
fn absences(w: &World) -> Vec<Span> {
    let log = w.runtime.log(None, Start::Before(u64::MAX), 100).unwrap();
    let of = |fact: &Fact| match fact {
        Fact::Pipeline(PipelineFact::Resumed { absent, .. }) => Some(*absent),
        _ => None,
    };
    log.iter().filter_map(|entry| of(&entry.fact)).collect()
}

/// Somebody says that he works, and gives everybody his time.
fn say(w: &World) {
    w.runtime.at_work().unwrap();
    w.runtime.give_times();
}

/// Somebody works for so long, and looks at the timers as a server does.
fn work(w: &World, seconds: u64) {
    for _ in 0..seconds {
        w.clock.pass(Span::seconds(1));
        w.runtime.at_work().unwrap();
        w.runtime.tick_due(100).unwrap();
    }
}

/// A build was awaited for a minute (until then), and no server ran for two hours since.
fn back_after_two_hours() -> (World, Timestamp) {
    let mut w = World::memory();
    w.runtime.at_work().unwrap();
    w.commit(1);
    work(&w, 60);
    let before = deadline(&w);
    w.clock.pass(Span::hours(2));
    w.restart();
    (w, before)
}

#[test]
fn what_is_awaited_has_the_time_back_in_which_no_server_ran() {
    on_both(|mut w| {
        w.runtime.at_work().unwrap();
        w.commit(1);
        work(&w, 600);
        let before = deadline(&w);
        w.clock.pass(Span::hours(5));
        w.restart();
        say(&w);
        let [absent] = absences(&w)[..] else { panic!("{:?}", absences(&w)) };
        // That somebody worked is kept every ten seconds.
        assert!((Span::hours(5)..=Span::hours(5).plus(Span::seconds(11))).contains(&absent), "{absent}");
        assert_eq!(deadline(&w), before + absent);
        // Its time still has an end.
        let left = deadline(&w).since(w.clock.now()).millis() / 1_000;
        work(&w, left + 2);
        let build =
            w.runtime.pipeline(&id("frontend")).unwrap().unwrap().releases[&ReleaseNo(1)].build.clone();
        assert!(matches!(build, Build::Failed { .. }), "{build:?}");
    });
}

#[test]
fn a_short_absence_is_none_and_who_never_says_that_he_works_is_never_absent() {
    on_both(|w| {
        w.commit(1);
        w.clock.pass(Span::hours(1));
        w.submit(&event(PipelineEvent::Tick)).unwrap();
        assert_eq!(absences(&w), []);
    });
    on_both(|mut w| {
        w.runtime.at_work().unwrap();
        w.commit(1);
        work(&w, 60);
        w.clock.pass(Span(ABSENCE_MIN.millis() / 2));
        w.restart();
        say(&w);
        assert_eq!(absences(&w), []);
    });
}

#[test]
fn a_frozen_process_or_a_clock_that_jumps_ahead_is_noticed_by_whatever_comes_first() {
    on_both(|w| {
        w.runtime.at_work().unwrap();
        w.commit(1);
        work(&w, 60);
        let before = deadline(&w);
        w.clock.pass(Span::hours(2));
        // The first thing that is told may be anything, and would find the build overdue.
        w.runtime.submit(&event(PipelineEvent::Tick), &Actor::Tidegate).unwrap();
        assert_eq!(absences(&w), [Span::hours(2)]);
        assert_eq!(deadline(&w), before + Span::hours(2));
        say(&w);
        assert_eq!(absences(&w).len(), 1, "it is given back once");
    });
}

/// The machine stands still between two looks at the clock, wherever an event has come to by then.
#[test]
fn an_event_that_waits_over_an_absence_is_decided_on_after_the_time_was_given() {
    for looks in 0..6 {
        on_both(|w| {
            w.runtime.at_work().unwrap();
            w.commit(1);
            work(&w, 60);
            let before = deadline(&w);
            w.clock.leap_after(looks, Span::hours(2));
            w.submit(&event(PipelineEvent::Tick)).unwrap();
            if w.clock.has_leapt() {
                assert_eq!(deadline(&w), before + Span::hours(2), "after {looks} looks");
            }
            assert!(looks > 0 || w.clock.has_leapt());
        });
    }
}

#[test]
fn an_older_store_in_which_it_is_not_kept_counts_from_its_newest_entry() {
    on_both(|mut w| {
        w.commit(1);
        let before = deadline(&w);
        w.clock.pass(Span::hours(1));
        w.restart();
        say(&w);
        assert_eq!(absences(&w), [Span::hours(1)]);
        assert_eq!(deadline(&w), before + Span::hours(1));
    });
}

#[test]
fn who_cannot_be_given_time_yet_is_not_decided_on_before() {
    let (w, before) = back_after_two_hours();
    let memory = w.memory.clone().unwrap();
    (0..3).for_each(|_| memory.fail_next(Fault::Refused));
    say(&w);
    assert_eq!(absences(&w), []);
    // The store refuses it twice more, and then it comes before what would find the build overdue.
    let tick = event(PipelineEvent::Tick);
    assert!(matches!(w.submit(&tick), Err(SubmitError::Store(_))));
    assert!(w.runtime.tick_due(100).is_err());
    assert_eq!(deadline(&w), before);
    w.runtime.tick_due(100).unwrap();
    assert!(deadline(&w) >= before + Span::hours(2));
    assert_eq!(absences(&w).len(), 1);
}

#[test]
fn a_server_that_dies_before_all_were_given_their_time_owes_the_rest() {
    let (mut w, before) = back_after_two_hours();
    w.memory.clone().unwrap().fail_next(Fault::Refused);
    say(&w);
    // Somebody else's entry is the newest now, and the server dies.
    w.submit(&approval()).unwrap();
    w.clock.pass(Span::seconds(40));
    w.restart();
    say(&w);
    let [absent] = absences(&w)[..] else { panic!("{:?}", absences(&w)) };
    assert!(absent >= Span::hours(2), "{absent}");
    assert_eq!(deadline(&w), before + absent);
}

#[test]
fn nobody_is_given_the_same_time_twice() {
    on_both(|mut w| {
        w.commit(1);
        w.clock.pass(Span::hours(1));
        // It is not kept that somebody works, since nobody says so: as after a crash.
        for hours in [1, 2] {
            w.restart();
            say(&w);
            w.store.set_meta("at-work", &START.0.to_string()).unwrap();
            assert_eq!(absences(&w).len(), hours);
            w.clock.pass(Span::hours(1));
        }
        assert_eq!(absences(&w), [Span::hours(1), Span::hours(1)]);
    });
}

fn approval() -> Event {
    let word = TeamEvent::Approved { commit: "f".repeat(40).parse().unwrap(), by: "ada".parse().unwrap() };
    Event::Team("shop".parse().unwrap(), word)
}

/// What would be a commit on a full disk is none of a rollback's reserve, but for the time itself.
#[test]
fn on_a_full_disk_time_is_given_back_and_nothing_else_is_decided_with_it() {
    let (w, before) = back_after_two_hours();
    w.memory.clone().unwrap().fail_next(Fault::NoSpace);
    say(&w);
    assert!(deadline(&w) >= before + Span::hours(2));
    let log = w.runtime.log(None, Start::Before(u64::MAX), 1).unwrap();
    assert!(matches!(&log[0].fact, Fact::Pipeline(PipelineFact::Resumed { .. })), "{log:?}");
}

#[test]
fn what_is_about_a_team_waits_for_nobody_s_time() {
    on_both(|w| {
        w.runtime.at_work().unwrap();
        w.commit(1);
        work(&w, 60);
        w.clock.pass(Span::hours(2));
        w.submit(&approval()).unwrap();
        assert_eq!(absences(&w), [], "only who awaits something is told, when he is");
        w.runtime.tick_due(100).unwrap();
        assert_eq!(absences(&w), [Span::hours(2)]);
    });
}

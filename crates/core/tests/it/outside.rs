//! Alarms from outside: they judge like those of tidegate's own monitoring, and silence is blindness.

use crate::scenario::{R1, R2, Scenario, organisation_json, pipeline_json, scope};
use serde_json::json;
use std::collections::BTreeMap;
use tidegate_core::aggregate::{State, decide};
use tidegate_core::alarm::{AlarmName, AlarmState, Word};
use tidegate_core::decision::{AggregateId, Event, Fact};
use tidegate_core::ids::TeamId;
use tidegate_core::pipeline::{Snapshots, Standing};
use tidegate_core::team::{TeamEvent, TeamFact, aggregate_name};
use tidegate_core::units::{Span, Timestamp};

const PAYMENTS: &str = "Frontend_Payments";

/// A service with an alarm from the API, and one for its one-boxes from an Alertmanager.
fn with_outside() -> Scenario {
    let mut organisation = organisation_json();
    organisation["services"][0]["outside"] = json!([
        {"name": PAYMENTS, "ttl": "5m"},
        {"name": "Frontend_OneBox_Panics", "scope": "one-box", "from": "alertmanager", "ttl": "1h"},
    ]);
    let mut s = Scenario::with_organisation(&organisation);
    s.apply(&pipeline_json("frontend", "frontend"));
    s
}

fn said(s: &mut Scenario, state: AlarmState) {
    let now = s.now;
    said_at(s, state, now);
}

fn said_at(s: &mut Scenario, state: AlarmState, at: Timestamp) {
    tell(s, PAYMENTS, Word::State { state, why: "so many fail".to_owned(), at, ttl: None });
}

fn tell(s: &mut Scenario, name: &str, word: Word) {
    let of_place = BTreeMap::from([(AlarmName::new(name).unwrap(), word)]);
    let words = ["gamma/north", "production/north", "production/east"];
    let words = words.iter().map(|place| (scope(place), of_place.clone())).collect();
    s.team_event(TeamEvent::Reported { words });
}

fn quiet(s: &mut Scenario) {
    let at = s.now;
    tell(s, "Frontend_OneBox_Panics", Word::Quiet { at, why: "a watchdog".to_owned() });
}

fn state(s: &Scenario) -> AlarmState {
    s.team().alarm(&scope("gamma/north"), &AlarmName::new(PAYMENTS).unwrap())
}

/// The team's timer, which the runtime keeps.
fn due(s: &Scenario) -> Option<Timestamp> {
    s.team().due()
}

fn passes(s: &mut Scenario, time: Span) {
    s.now = s.now + time;
    s.team_event(TeamEvent::Tick);
}

#[test]
fn what_nobody_speaks_of_is_blind_and_nothing_bakes() {
    let mut s = with_outside();
    s.release("frontend");
    assert_eq!(s.phase("frontend", "gamma/one-box"), "baking");
    s.watch(Span::hours(3));
    assert_eq!(s.phase("frontend", "gamma/one-box"), "baking", "neither has been heard of");
    quiet(&mut s);
    s.watch(Span::hours(1));
    assert_eq!(s.phase("frontend", "gamma/one-box"), "baking", "one has not been heard of");
    for _ in 0..14 {
        said(&mut s, AlarmState::Ok);
        quiet(&mut s);
        s.watch(Span::minutes(4));
    }
    assert_eq!(s.phase("frontend", "gamma/one-box"), "baking", "56 minutes of an hour");
    s.watch(Span::minutes(4));
    assert_eq!(s.phase("frontend", "gamma/one-box"), "done");
}

#[test]
fn a_word_runs_out_by_itself_and_an_alarm_does_not_become_good_by_that() {
    let mut s = with_outside();
    said(&mut s, AlarmState::Alarm);
    assert_eq!(state(&s), AlarmState::Alarm);
    assert_eq!(due(&s), Some(s.now + Span::minutes(5)));
    passes(&mut s, Span(299_999));
    assert_eq!(state(&s), AlarmState::Alarm);
    passes(&mut s, Span(1));
    assert_eq!((state(&s), due(&s)), (AlarmState::InsufficientData, None));
    let team = s.team();
    let status = &team.scopes[&scope("gamma/north")][&AlarmName::new(PAYMENTS).unwrap()];
    assert!(
        status.why.starts_with("no word that counts since 2025-06-15T15:11:40")
            && status.why.ends_with("it was ALARM"),
        "{}",
        status.why
    );
    assert!(status.last_alarm.is_some(), "that it fired is not forgotten");
    assert_eq!(team.alarm(&scope("gamma/north"), &aggregate_name()), AlarmState::InsufficientData);
    // What was heard before says nothing any more, nor does saying it again.
    said_at(&mut s, AlarmState::Ok, status.heard.unwrap().at.unwrap());
    assert_eq!(state(&s), AlarmState::InsufficientData);
    said(&mut s, AlarmState::Ok);
    assert_eq!(state(&s), AlarmState::Ok);
}

#[test]
fn a_word_rolls_back_what_is_under_way_and_closes_the_gate() {
    let mut s = with_outside();
    said(&mut s, AlarmState::Ok);
    quiet(&mut s);
    s.release("frontend");
    assert_eq!(s.phase("frontend", "gamma/one-box"), "baking");
    s.now = s.now + Span::seconds(1);
    said(&mut s, AlarmState::Alarm);
    s.work();
    let standing = |s: &Scenario, release| s.pipeline("frontend").releases[&release].standing.clone();
    assert!(matches!(standing(&s, R1), Standing::Rejected { .. }), "{:?}", standing(&s, R1));
    let told = format!("{:?}", standing(&s, R1));
    assert!(
        told.contains("Frontend_High_Severity") && told.contains("Frontend_Payments: so many fail"),
        "{told}"
    );
    // While it fires, nothing enters.
    s.release("frontend");
    assert_ne!(s.phase("frontend", "gamma/one-box"), "baking");
    s.now = s.now + Span::seconds(1);
    said(&mut s, AlarmState::Ok);
    s.tick();
    assert_eq!(standing(&s, R2), Standing::Good);
}

#[test]
fn an_alarm_that_ran_out_keeps_the_gate_closed_until_somebody_says_that_it_is_over() {
    let mut s = with_outside();
    said(&mut s, AlarmState::Alarm);
    passes(&mut s, Span::minutes(6));
    assert_eq!(state(&s), AlarmState::InsufficientData);
    s.release("frontend");
    assert_ne!(s.phase("frontend", "gamma/one-box"), "baking");
    let waiting = s.pipeline("frontend").steps.values().flat_map(|step| step.waiting.clone()).next().unwrap();
    assert_eq!(
        waiting.to_string(),
        "nobody outside has said that Frontend_Payments is over in gamma/north, which fired last"
    );
    said(&mut s, AlarmState::Ok);
    s.work();
    assert_eq!(s.phase("frontend", "gamma/one-box"), "baking");
    // What was OK and ran out closes nothing: it only does not bake.
    passes(&mut s, Span::minutes(6));
    assert_eq!(state(&s), AlarmState::InsufficientData);
    assert!(s.team().unheard().is_empty());
}

#[test]
fn a_thousand_words_a_second_are_few_facts_and_wake_nobody() {
    let mut s = with_outside();
    said(&mut s, AlarmState::Ok);
    let before = s.log.len();
    for _ in 0..1_000 {
        s.now = s.now + Span(1);
        said(&mut s, AlarmState::Ok);
    }
    assert_eq!(s.log.len(), before, "it counts for nearly five minutes still");
    s.now = s.now + Span::minutes(3);
    let team = TeamId::new("shop").unwrap();
    let word = Word::State { state: AlarmState::Ok, why: "fine".to_owned(), at: s.now, ttl: None };
    let words = [(scope("gamma/north"), [(AlarmName::new(PAYMENTS).unwrap(), word)].into())].into();
    let own = State::Team(s.team());
    let event = Event::Team(team.clone(), TeamEvent::Reported { words });
    let (_, decision) = decide(own, &event, s.now, &Snapshots::default()).unwrap();
    let [(AggregateId::Team(of), Fact::Team(TeamFact::AlarmRenewed { alarm, .. }))] = &decision.facts[..]
    else {
        panic!("{decision:?}")
    };
    assert_eq!((of, alarm.as_str()), (&team, PAYMENTS));
    assert_eq!((decision.wake.len(), decision.wake_all), (0, false));
    assert!(decision.due > Some(s.now), "{:?}", decision.due);
}

#[test]
fn each_source_speaks_of_its_own_alarms_alone() {
    let mut s = with_outside();
    let mut refused = |name: &str, word: Word| {
        let words = [(scope("gamma/north"), [(AlarmName::new(name).unwrap(), word)].into())].into();
        let event = Event::Team(TeamId::new("shop").unwrap(), TeamEvent::Reported { words });
        s.send(event).unwrap_err().to_string()
    };
    let quiet = Word::Quiet { at: Timestamp(0), why: String::new() };
    let why = refused(PAYMENTS, quiet.clone());
    assert_eq!(why, "the alarm 'Frontend_Payments' is not told by an Alertmanager");
    assert_eq!(
        refused("Frontend_High_Fault_Rate", quiet),
        "the team has no alarm 'Frontend_High_Fault_Rate' from outside"
    );
    let state = Word::State { state: AlarmState::Ok, why: String::new(), at: Timestamp(0), ttl: None };
    assert_eq!(
        refused("Frontend_OneBox_Panics", state),
        "the alarm 'Frontend_OneBox_Panics' is not told by the API"
    );
}

#[test]
fn an_evaluation_that_comes_later_than_a_word_still_reaches_the_aggregate() {
    let mut s = with_outside();
    quiet(&mut s);
    said(&mut s, AlarmState::Ok);
    s.now = s.now + Span::seconds(5);
    said(&mut s, AlarmState::Alarm);
    s.now = s.now + Span(900);
    said(&mut s, AlarmState::Ok);
    assert_eq!(s.team().alarm(&scope("gamma/north"), &aggregate_name()), AlarmState::Ok);
    // The second that ended before the words came is evaluated after them.
    s.team_only_at("gamma/north", "Frontend_High_Fault_Rate", true, s.now - Span(950));
    assert_eq!(s.team().alarm(&scope("gamma/north"), &aggregate_name()), AlarmState::Alarm);
}

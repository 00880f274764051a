//! An event's way through: facts, states, effects, documents, wakes and timers.

use crate::world::{START, World, applied, event, id, on_both, tidegate};
use std::collections::BTreeSet;
use tidegate_core::alarm::{AlarmName, AlarmState, Word};
use tidegate_core::decision::{Actor, AggregateId, Effect, Event, ForwardEffect};
use tidegate_core::ids::{PackageDigest, ReleaseNo, TeamId};
use tidegate_core::lease::{Lease, LeaseId};
use tidegate_core::pipeline::{Build, PipelineEvent};
use tidegate_core::scope::Scope;
use tidegate_core::team::TeamEvent;
use tidegate_core::units::{Span, Timestamp};
use tidegate_runtime::{Lane, Start, SubmitError};

fn gamma_lease() -> LeaseId {
    LeaseId::new(&"frontend".parse().unwrap(), Scope::try_from("gamma/eu-1".to_owned()).unwrap())
}

#[test]
fn facts_of_all_aggregates_effects_and_documents_come_together() {
    on_both(|w| {
        w.commit(1);
        let outcome = w.build();
        let touched: BTreeSet<String> = outcome.facts.iter().map(|(id, _)| id.to_string()).collect();
        assert_eq!(touched, ["lease/frontend/gamma/eu-1", "pipeline/frontend"].map(str::to_owned).into());
        assert!(matches!(&*w.runtime.lease(&gamma_lease()).unwrap(), Lease::Deploying { .. }));
        let [(pending, order)] = &w.orders(Lane::Forward)[..] else { panic!("one order is expected") };
        assert_eq!(pending.id, outcome.effects[0].id);
        assert_eq!((pending.aggregate.clone(), pending.attempt), (AggregateId::Pipeline(id("frontend")), 0));
        let pipeline = w.runtime.pipeline(&id("frontend")).unwrap().unwrap();
        let spec = pipeline.run_spec(ReleaseNo(1), &order.slot.target.environment).unwrap();
        assert_eq!(w.runtime.run_spec(spec).unwrap().unwrap().digest(), *spec);
        assert!(w.ear.0.lock().unwrap().last().unwrap().1.contains(&Lane::Forward));
    });
}

/// Such as of a change to what is not packaged, or of what was handed over and is built now.
#[test]
fn two_releases_of_the_same_bytes_share_a_document_in_a_new_environment() {
    on_both(|w| {
        for release in 1..=2 {
            w.commit(release);
            w.build();
        }
        let edit = applied("frontend", |definition| {
            let mut beta = definition.stages[0].clone();
            beta.environment = "beta".parse().unwrap();
            definition.stages.insert(0, beta);
        });
        w.submit(&edit).unwrap();
        let pipeline = w.runtime.pipeline(&id("frontend")).unwrap().unwrap();
        let of = |release: u64| pipeline.run_spec(ReleaseNo(release), &"beta".parse().unwrap()).unwrap();
        assert_eq!(of(1), of(2));
        assert_eq!(w.runtime.run_spec(of(1)).unwrap().unwrap().digest(), *of(1));
    });
}

#[test]
fn what_is_only_considered_is_decided_and_changes_nothing() {
    on_both(|w| {
        let before = (w.stored("pipeline/frontend"), w.ear.0.lock().unwrap().len());
        let commit: tidegate_core::ids::CommitId = "f".repeat(40).parse().unwrap();
        let hold = event(PipelineEvent::HoldLifted { hold: 7, by: tidegate() });
        let Err(SubmitError::Illegal(why)) = w.runtime.consider(&hold) else { panic!("it is not legal") };
        assert_eq!(why.to_string(), "frontend has no hold 7");
        let approved = TeamEvent::Approved { commit, by: "ada".parse().unwrap() };
        let approved = Event::Team("shop".parse().unwrap(), approved);
        let considered = w.runtime.consider(&approved).unwrap();
        assert!(!considered.facts.is_empty());
        assert_eq!((w.stored("pipeline/frontend"), w.ear.0.lock().unwrap().len()), before);
        assert_eq!(w.submit(&approved).unwrap().facts, considered.facts, "it comes to the same");
    });
}

#[test]
fn a_decision_that_changes_nothing_is_no_commit() {
    on_both(|w| {
        w.commit(1);
        w.build();
        let heard = w.ear.0.lock().unwrap().len();
        let seen = w.seen("frontend/gamma/eu-1/a/main", 1, 0);
        let first = w.submit(&seen).unwrap();
        assert!(!first.facts.is_empty(), "boxes are asked for");
        assert!(w.ear.0.lock().unwrap().len() > heard);
        let heard = w.ear.0.lock().unwrap().len();
        for _ in 0..3 {
            w.clock.pass(Span::seconds(1));
            let again = w.submit(&w.seen("frontend/gamma/eu-1/a/main", 1, 0)).unwrap();
            assert!(again.facts.is_empty() && again.effects.is_empty());
        }
        assert_eq!(w.ear.0.lock().unwrap().len(), heard, "nothing was committed");
    });
}

#[test]
fn a_result_ends_its_effect_and_counts_once() {
    on_both(|w| {
        w.commit(1);
        let (effect, result) = (w.building().id, w.built());
        let first = w.runtime.submit_result(&effect, &result).unwrap();
        assert!(!first.facts.is_empty());
        assert!(w.store.effect(&effect.0).unwrap().is_none(), "it has ended with its result");
        let other = Ok(PackageDigest::new("cd".repeat(32)).unwrap());
        let late = event(PipelineEvent::BuildEnded { effect: effect.clone(), result: other });
        let before = w.stored("pipeline/frontend");
        assert!(w.runtime.submit_result(&effect, &late).unwrap().facts.is_empty());
        assert_eq!(w.stored("pipeline/frontend"), before, "a stale result changes nothing");
    });
}

#[test]
fn what_does_not_fit_changes_nothing_and_a_result_that_does_not_fit_is_dropped() {
    on_both(|w| {
        w.commit(1);
        let heard = w.ear.0.lock().unwrap().len();
        let unknown = event(PipelineEvent::HoldLifted { hold: 7, by: tidegate() });
        let Err(SubmitError::Illegal(why)) = w.submit(&unknown) else { panic!("it is not legal") };
        assert_eq!(why.to_string(), "frontend has no hold 7");
        assert_eq!(w.ear.0.lock().unwrap().len(), heard);
        let effect = w.building().id;
        assert!(matches!(w.runtime.submit_result(&effect, &unknown), Err(SubmitError::Illegal(_))));
        assert!(w.store.effect(&effect.0).unwrap().is_none());
    });
}

#[test]
fn whoever_relies_on_a_team_is_woken_and_ticks_are_told_once() {
    on_both(|w| {
        w.apply("config").unwrap();
        w.commit(1);
        w.build();
        w.clock.pass(Span::seconds(1));
        assert!(w.runtime.tick_due(100).unwrap() > 0, "the new lease has woken the other pipeline");
        assert_eq!(w.runtime.tick_due(100).unwrap(), 0);
        let by = "ada".parse().unwrap();
        let commit = "f".repeat(40).parse().unwrap();
        let approved = TeamEvent::Approved { commit, by };
        w.submit(&Event::Team("shop".parse().unwrap(), approved)).unwrap();
        w.clock.pass(Span::seconds(1));
        assert!(w.runtime.next_due().unwrap().is_some_and(|due| due <= w.runtime.now()));
        assert_eq!(w.runtime.tick_due(1).unwrap(), 1, "no more than was asked for");
        assert_eq!(w.runtime.tick_due(100).unwrap(), 1);
        assert_eq!(w.runtime.tick_due(100).unwrap(), 0);
    });
}

#[test]
fn a_timer_fires_at_the_deadline() {
    on_both(|w| {
        w.commit(1);
        let pipeline = w.runtime.pipeline(&id("frontend")).unwrap().unwrap();
        let Build::Building { awaited, .. } = &pipeline.releases.values().next().unwrap().build else {
            panic!("it builds")
        };
        assert_eq!(w.runtime.next_due().unwrap(), Some(awaited.deadline));
        w.clock.set(awaited.deadline);
        assert_eq!(w.runtime.tick_due(100).unwrap(), 1);
        let pipeline = w.runtime.pipeline(&id("frontend")).unwrap().unwrap();
        assert!(matches!(pipeline.releases.values().next().unwrap().build, Build::Failed { .. }));
    });
}

#[test]
fn effects_are_performed_again_until_they_end() {
    on_both(|w| {
        w.commit(1);
        let effect = w.building();
        assert!(matches!(effect.effect, Effect::Forward(ForwardEffect::Build(_))));
        let later = START + Span::minutes(1);
        w.runtime.effect_failed(&effect.id, 1, later).unwrap();
        assert_eq!(w.runtime.effects(Lane::Forward, 10).unwrap(), []);
        assert_eq!(w.runtime.next_effect_at(Lane::Forward).unwrap(), Some(later));
        w.clock.set(later);
        assert_eq!(w.building().attempt, 1);
        w.runtime.effect_done(&effect.id).unwrap();
        w.runtime.effect_done(&effect.id).unwrap();
        assert_eq!(w.runtime.effects(Lane::Forward, 10).unwrap(), []);
    });
}

#[test]
fn time_never_goes_back_and_no_two_decisions_of_an_aggregate_share_a_moment() {
    on_both(|mut w| {
        w.clock.pass(Span::hours(2));
        let late = w.commit(1).at;
        w.clock.set(START);
        w.restart();
        let hold = |reason: &str| {
            event(PipelineEvent::HoldPlaced {
                by: tidegate(),
                reason: reason.into(),
                until: None,
                stage: None,
            })
        };
        let first = w.submit(&hold("a")).unwrap().at;
        let second = w.submit(&hold("b")).unwrap().at;
        assert!(late < first && first < second, "{late} {first} {second}");
        let pipeline = w.runtime.pipeline(&id("frontend")).unwrap().unwrap();
        assert_eq!(pipeline.holds[&1].since, first);
    });
}

#[test]
fn the_log_names_who_did_what_and_adds_up_to_the_state() {
    on_both(|w| {
        w.commit(1);
        w.build();
        let ada = Actor::User("ada".parse().unwrap());
        let by = ada.clone();
        let hold = PipelineEvent::HoldPlaced { by, reason: "a launch".into(), until: None, stage: None };
        w.runtime.submit(&event(hold), &ada).unwrap();
        let own = AggregateId::Pipeline(id("frontend"));
        let newest = &w.runtime.log(Some(&own), Start::Before(u64::MAX), 1).unwrap()[0];
        assert_eq!((&newest.aggregate, &newest.cause), (&own, &ada));
        let all = w.runtime.log(None, Start::After(0), 1_000).unwrap();
        let verified = w.runtime.verify_log(None).unwrap();
        assert_eq!(verified.facts, all.len() as u64);
        assert_eq!(w.runtime.verify_log(Some(&own)).unwrap().facts, newest.seq);
    });
}

#[test]
fn a_state_that_is_not_the_fold_of_its_log_shows() {
    let w = crate::world::World::memory();
    w.commit(1);
    let own = AggregateId::Pipeline(id("frontend"));
    w.runtime.verify_log(Some(&own)).unwrap();
    let loaded = w.store.load("pipeline/frontend").unwrap().unwrap();
    let text = String::from_utf8(loaded.state).unwrap();
    let forged = text.replace("\"last_number\":0", "\"last_number\":9");
    assert_ne!(text, forged);
    let write = tidegate_store::AggregateWrite {
        id: "pipeline/frontend".into(),
        expected_version: loaded.version,
        facts: Vec::new(),
        state: forged.into_bytes(),
        due: None,
    };
    w.store.commit(&tidegate_store::Commit { writes: vec![write], ..Default::default() }).unwrap();
    let broken = w.runtime.verify_log(None).unwrap_err().to_string();
    assert!(
        broken.contains("pipeline/frontend") && broken.contains("not what its log adds up to"),
        "{broken}"
    );
}

#[test]
fn what_a_newer_version_wrote_is_not_opened() {
    let mut w = crate::world::World::memory();
    let epoch = w.runtime.epoch();
    w.restart();
    assert!(w.runtime.epoch() > epoch);
    w.store.set_meta("runtime-format", "2").unwrap();
    let options = tidegate_runtime::Options::default();
    let refused = tidegate_runtime::Runtime::open(w.store.clone(), w.clock.clone(), options, 0).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "a newer version of tidegate has written format 2; this one knows formats up to 1"
    );
}

#[test]
fn every_pipeline_and_team_is_listed_and_absent_ones_are_none() {
    on_both(|w| {
        w.apply("config").unwrap();
        assert_eq!(w.runtime.pipelines().unwrap(), [id("config"), id("frontend")]);
        assert_eq!(w.runtime.teams().unwrap(), ["shop".parse().unwrap()]);
        assert!(w.runtime.pipeline(&id("nobody")).unwrap().is_none());
        assert_eq!(w.runtime.team(&"shop".parse().unwrap()).unwrap().pipelines.len(), 2);
        assert!(w.runtime.organisation().unwrap().definition.is_some());
        assert_eq!(*w.runtime.lease(&gamma_lease()).unwrap(), Lease::Free);
        let timer = w.runtime.next_due().unwrap();
        assert!(timer.is_none_or(|due| due > Timestamp(0)));
    });
}

#[test]
fn a_word_from_outside_runs_out_at_its_time_also_after_a_restart() {
    on_both(|mut w| {
        let team: TeamId = "shop".parse().unwrap();
        let known = w.runtime.team(&team).unwrap();
        let mut services = (*known.services).clone();
        let outside = r#"[{"name": "Payments", "ttl": "5m"}]"#;
        services[0].outside = serde_json::from_str(outside).unwrap();
        let definition = Box::new(known.definition.as_deref().unwrap().clone());
        let (emails, accounts) = (known.emails.clone(), known.accounts.clone());
        let applied = TeamEvent::Applied { definition, services, emails, accounts };
        w.submit(&Event::Team(team.clone(), applied)).unwrap();
        let (scope, alarm): (Scope, AlarmName) =
            ("gamma/eu-1".to_owned().try_into().unwrap(), "Payments".parse().unwrap());
        let at = w.runtime.now();
        let word = Word::State { state: AlarmState::Alarm, why: "declined".to_owned(), at, ttl: None };
        let words = [(scope.clone(), [(alarm.clone(), word)].into())].into();
        w.submit(&Event::Team(team.clone(), TeamEvent::Reported { words })).unwrap();
        let state = |w: &World| w.runtime.team(&team).unwrap().alarm(&scope, &alarm);
        w.clock.set(at + Span::minutes(5) - Span(1));
        w.restart();
        w.runtime.tick_due(100).unwrap();
        assert_eq!(state(&w), AlarmState::Alarm);
        assert_eq!(w.runtime.next_due().unwrap(), Some(at + Span::minutes(5)));
        w.clock.set(at + Span::minutes(5));
        assert!(w.runtime.tick_due(100).unwrap() > 0);
        assert_eq!(state(&w), AlarmState::InsufficientData);
        w.runtime.tick_due(100).unwrap();
        assert_ne!(w.runtime.next_due().unwrap(), Some(at + Span::minutes(5)), "once");
        w.runtime.verify_log(None).unwrap();
    });
}

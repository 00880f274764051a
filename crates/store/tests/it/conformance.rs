//! One suite for every store: what holds for one holds for the other.

use crate::support::{effect, ready, write};
use tidegate_store::{
    BODY_BYTES_MAX, Commit, CommitError, Due, GENESIS, Lane, MemoryStore, Postpone, Reserve, SqliteOptions,
    SqliteStore, Start, Store, Verified, Waiting, fact_hash,
};

macro_rules! conformance {
    ($($name:ident),* $(,)?) => {
        mod memory {
            $(#[test] fn $name() { super::$name(&super::MemoryStore::new()); })*
        }
        mod sqlite {
            $(#[test] fn $name() {
                let dir = tempfile::tempdir().unwrap();
                let store = super::SqliteStore::open(dir.path(), &super::SqliteOptions { reserve_bytes: 4096 });
                super::$name(&store.unwrap());
            })*
        }
    };
}

conformance!(
    loads_what_was_committed,
    refuses_stale_writes_and_reads,
    creates_only_with_a_fact,
    changes_all_or_nothing,
    lists_due_timers_in_order,
    wakes_what_exists,
    keeps_effects_until_they_end,
    counts_what_waits,
    keeps_documents_once,
    pages_through_the_log,
    chains_facts,
    lists_by_prefix,
    answers_each_of_a_group,
    refuses_bad_shapes,
    epochs_grow,
    keeps_settings,
);

fn loads_what_was_committed(store: &dyn Store) {
    assert_eq!(store.load("pipeline/a").unwrap(), None);
    store.commit(&write("pipeline/a", 0, &["one", "two"], "state 2", Some(50))).unwrap();
    let loaded = store.load("pipeline/a").unwrap().unwrap();
    assert_eq!((loaded.version, loaded.state.as_slice(), loaded.due), (2, b"state 2".as_slice(), Some(50)));

    store.commit(&write("pipeline/a", 2, &[], "state 2b", None)).unwrap();
    let later = store.load("pipeline/a").unwrap().unwrap();
    assert_eq!((later.version, later.state.as_slice(), later.due), (2, b"state 2b".as_slice(), None));
    assert_eq!(later.head, loaded.head, "without a fact the chain does not grow");
    assert_eq!(store.tend().unwrap(), Reserve::Held);
}

fn refuses_stale_writes_and_reads(store: &dyn Store) {
    store.commit(&write("team/t", 0, &["one"], "s", None)).unwrap();
    for expected in [0, 2, u64::MAX] {
        let refused = store.commit(&write("team/t", expected, &["x"], "x", None)).unwrap_err();
        assert!(
            matches!(&refused, CommitError::Conflict { aggregate, expected: e, actual: 1 }
                if aggregate == "team/t" && *e == expected),
            "{refused}"
        );
    }
    let reading = |version| Commit {
        reads: vec![("team/t".to_owned(), version), ("team/none".to_owned(), 0)],
        ..write("pipeline/a", 0, &["one"], "s", None)
    };
    let refused = store.commit(&reading(0)).unwrap_err();
    assert!(matches!(refused, CommitError::Conflict { expected: 0, actual: 1, .. }), "{refused}");
    assert_eq!(store.load("pipeline/a").unwrap(), None);
    store.commit(&reading(1)).unwrap();
    let gone = Commit { reads: vec![("team/none".to_owned(), 3)], ..Commit::default() };
    let refused = store.commit(&gone).unwrap_err();
    assert_eq!(refused.to_string(), "team/none is at version 0, not 3");
}

fn creates_only_with_a_fact(store: &dyn Store) {
    let refused = store.commit(&write("pipeline/a", 0, &[], "s", None)).unwrap_err();
    assert!(matches!(refused, CommitError::NoFact { .. }), "{refused}");
    assert_eq!(store.load("pipeline/a").unwrap(), None);
}

fn changes_all_or_nothing(store: &dyn Store) {
    store.commit(&write("team/t", 0, &["one"], "s", None)).unwrap();
    let mut commit = write("pipeline/a", 0, &["one"], "s", Some(1));
    commit.documents.push(("doc".to_owned(), b"bytes".to_vec()));
    commit.new_effects.push(effect("e1", Lane::Forward, 0));
    commit.writes.extend(write("team/t", 9, &["late"], "x", None).writes);
    store.commit(&commit).unwrap_err();
    assert_eq!(store.load("pipeline/a").unwrap(), None);
    assert_eq!(store.document("doc").unwrap(), None);
    assert_eq!(store.effect("e1").unwrap(), None);
    assert_eq!(store.next_due().unwrap(), None);
    assert_eq!(store.facts(None, Start::After(0), 10).unwrap().len(), 1);
}

fn lists_due_timers_in_order(store: &dyn Store) {
    for (id, due) in [("c", Some(20)), ("b", Some(10)), ("a", Some(20)), ("d", None), ("e", Some(-5))] {
        store.commit(&write(id, 0, &["one"], "s", due)).unwrap();
    }
    let due = |at, id: &str| Due { id: id.to_owned(), at };
    assert_eq!(store.due(19, 10).unwrap(), [due(-5, "e"), due(10, "b")]);
    assert_eq!(store.due(20, 3).unwrap(), [due(-5, "e"), due(10, "b"), due(20, "a")]);
    assert_eq!(store.next_due().unwrap(), Some(-5));
    store.commit(&write("e", 1, &[], "s", None)).unwrap();
    store.commit(&write("b", 1, &["two"], "s", Some(30))).unwrap();
    assert_eq!(store.due(100, 10).unwrap(), [due(20, "a"), due(20, "c"), due(30, "b")]);
    assert_eq!(store.next_due().unwrap(), Some(20));
}

fn wakes_what_exists(store: &dyn Store) {
    for (id, due) in [("early", Some(5)), ("late", Some(5_000)), ("never", None)] {
        store.commit(&write(id, 0, &["one"], "s", due)).unwrap();
    }
    let wake = ["early", "late", "never", "unknown"].map(str::to_owned).to_vec();
    store.commit(&Commit { at: 1_000, wake, ..Commit::default() }).unwrap();
    let due = |id: &str| store.load(id).unwrap().map(|loaded| loaded.due);
    assert_eq!(due("early"), Some(Some(5)));
    assert_eq!(due("late"), Some(Some(1_000)));
    assert_eq!(due("never"), Some(Some(1_000)));
    assert_eq!(due("unknown"), None);
    assert_eq!(store.due(1_000, 10).unwrap().len(), 3);
}

fn keeps_effects_until_they_end(store: &dyn Store) {
    let mut commit = write("pipeline/a", 0, &["one"], "s", None);
    commit.new_effects =
        vec![effect("e2", Lane::Forward, 5), effect("e1", Lane::Forward, 5), effect("e0", Lane::Forward, 9)];
    commit.new_effects.push(effect("r1", Lane::Rollback, 7));
    store.commit(&commit).unwrap();
    assert_eq!(ready(store, Lane::Forward, 4), Vec::<String>::new());
    assert_eq!(ready(store, Lane::Forward, 5), ["e1", "e2"]);
    assert_eq!(ready(store, Lane::Forward, 9), ["e1", "e2", "e0"]);
    assert_eq!(ready(store, Lane::Rollback, 9), ["r1"]);
    assert_eq!(store.effects(Lane::Forward, 9, 1).unwrap().len(), 1);
    assert_eq!(store.next_effect_at(Lane::Forward).unwrap(), Some(5));
    assert_eq!(store.next_effect_at(Lane::Rollback).unwrap(), Some(7));

    let postponed = ["e1", "unknown"].map(|id| Postpone { id: id.to_owned(), attempt: 2, not_before: 30 });
    store.commit(&Commit { postponed: postponed.to_vec(), ..Commit::default() }).unwrap();
    let record = store.effect("e1").unwrap().unwrap();
    assert_eq!((record.attempt, record.not_before, record.created_at), (2, 30, 1_000));
    assert_eq!((record.body.as_slice(), record.aggregate.as_str()), (b"do".as_slice(), "pipeline/a"));
    assert_eq!(ready(store, Lane::Forward, 29), ["e2", "e0"]);
    assert_eq!(store.effect("unknown").unwrap(), None);

    let again = Commit { new_effects: vec![effect("e2", Lane::Forward, 1)], ..Commit::default() };
    let refused = store.commit(&again).unwrap_err();
    assert!(matches!(&refused, CommitError::EffectExists { id } if id == "e2"), "{refused}");
    store.commit(&Commit { ended_effects: vec!["e2".to_owned(), "unknown".to_owned()], ..again }).unwrap();
    assert_eq!(store.effect("e2").unwrap().map(|effect| effect.not_before), Some(1));
    let ended_effects = ["e0", "e1", "e2", "r1"].map(str::to_owned).to_vec();
    store.commit(&Commit { ended_effects, ..Commit::default() }).unwrap();
    assert_eq!(store.effect("e1").unwrap(), None);
    assert_eq!(store.next_effect_at(Lane::Forward).unwrap(), None);
    assert_eq!(store.next_effect_at(Lane::Rollback).unwrap(), None);
}

fn counts_what_waits(store: &dyn Store) {
    assert_eq!(store.waiting().unwrap(), []);
    let mut first = write("pipeline/a", 0, &["one"], "s", None);
    first.new_effects = vec![effect("e1", Lane::Rollback, 9), effect("e2", Lane::Page, 1)];
    store.commit(&Commit { at: 500, ..first }).unwrap();
    let mut second = write("pipeline/a", 1, &["two"], "s", None);
    second.new_effects = vec![effect("e3", Lane::Rollback, 1), effect("e4", Lane::Forward, 1)];
    store.commit(&Commit { at: 700, ..second }).unwrap();
    let waiting = |lane, effects, oldest| Waiting { lane, effects, oldest };
    let all = [waiting(Lane::Forward, 1, 700), waiting(Lane::Page, 1, 500), waiting(Lane::Rollback, 2, 500)];
    assert_eq!(store.waiting().unwrap(), all);
    let ended = ["e1", "e4"].map(str::to_owned).to_vec();
    store.commit(&Commit { ended_effects: ended, ..Commit::default() }).unwrap();
    assert_eq!(store.waiting().unwrap(), [waiting(Lane::Page, 1, 500), waiting(Lane::Rollback, 1, 700)]);
}

fn keeps_documents_once(store: &dyn Store) {
    let put = |bytes: &[u8]| {
        store.commit(&Commit { documents: vec![("spec/1".to_owned(), bytes.to_vec())], ..Commit::default() })
    };
    put(b"bytes").unwrap();
    put(b"bytes").unwrap();
    let refused = put(b"other").unwrap_err();
    assert!(matches!(&refused, CommitError::DocumentDiffers { key } if key == "spec/1"), "{refused}");
    assert_eq!(store.document("spec/1").unwrap().as_deref(), Some(b"bytes".as_slice()));
    assert_eq!(store.document("spec/2").unwrap(), None);
}

fn pages_through_the_log(store: &dyn Store) {
    store.commit(&write("a", 0, &["a1", "a2"], "s", None)).unwrap();
    store.commit(&write("b", 0, &["b1"], "s", None)).unwrap();
    store.commit(&write("a", 2, &["a3"], "s", None)).unwrap();
    store.commit(&write("a", 2, &["lost"], "s", None)).unwrap_err();
    store.commit(&write("b", 1, &["b2"], "s", None)).unwrap();
    let page = |aggregate, start, limit| -> Vec<(u64, String)> {
        let facts = store.facts(aggregate, start, limit).unwrap();
        facts.into_iter().map(|fact| (fact.position, String::from_utf8(fact.fact).unwrap())).collect()
    };
    let line = |position: u64, text: &str| (position, text.to_owned());
    assert_eq!(
        page(None, Start::After(0), 9),
        [line(1, "a1"), line(2, "a2"), line(3, "b1"), line(4, "a3"), line(5, "b2")]
    );
    assert_eq!(page(None, Start::After(2), 2), [line(3, "b1"), line(4, "a3")]);
    assert_eq!(page(None, Start::After(5), 2), []);
    assert_eq!(page(None, Start::After(u64::MAX), 2), []);
    assert_eq!(page(None, Start::Before(u64::MAX), 2), [line(5, "b2"), line(4, "a3")]);
    assert_eq!(page(None, Start::Before(2), 9), [line(1, "a1")]);
    assert_eq!(page(None, Start::Before(0), 9), []);
    assert_eq!(page(Some("a"), Start::After(1), 9), [line(2, "a2"), line(4, "a3")]);
    assert_eq!(page(Some("b"), Start::Before(5), 9), [line(3, "b1")]);
    assert_eq!(page(Some("c"), Start::After(0), 9), []);
}

fn chains_facts(store: &dyn Store) {
    assert_eq!(store.verify_chain(None).unwrap(), Verified::default());
    assert_eq!(store.verify_chain(Some("none")).unwrap(), Verified::default());
    store.commit(&write("a", 0, &["a1", "a2"], "s", None)).unwrap();
    store.commit(&write("b", 0, &["b1"], "s", None)).unwrap();
    let first = fact_hash(&GENESIS, "a", 1, 1_000, b"a test", b"a1");
    let second = fact_hash(&first, "a", 2, 1_000, b"a test", b"a2");
    let facts = store.facts(Some("a"), Start::After(0), 9).unwrap();
    assert_eq!(facts.iter().map(|fact| fact.hash).collect::<Vec<_>>(), [first, second]);
    assert_eq!(store.load("a").unwrap().unwrap().head, second);
    assert_eq!(store.verify_chain(Some("a")).unwrap(), Verified { aggregates: 1, facts: 2 });
    assert_eq!(store.verify_chain(None).unwrap(), Verified { aggregates: 2, facts: 3 });
    // More than one page of the verification, in one aggregate and over all.
    let many: Vec<String> = (0..450).map(|number| number.to_string()).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    store.commit(&write("b", 1, &many, "s", None)).unwrap();
    assert_eq!(store.verify_chain(Some("b")).unwrap(), Verified { aggregates: 1, facts: 451 });
    assert_eq!(store.verify_chain(None).unwrap(), Verified { aggregates: 2, facts: 453 });
}

fn lists_by_prefix(store: &dyn Store) {
    for id in ["pipeline/b", "pipeline/a", "pipelines", "organisation", "pipeline/a-b", "team/x"] {
        store.commit(&write(id, 0, &["one"], "s", None)).unwrap();
    }
    let list = |prefix, after, limit| store.list(prefix, after, limit).unwrap();
    assert_eq!(list("pipeline/", "", 9), ["pipeline/a", "pipeline/a-b", "pipeline/b"]);
    assert_eq!(list("pipeline/", "pipeline/a", 1), ["pipeline/a-b"]);
    assert_eq!(list("pipeline/", "team/x", 9), Vec::<String>::new());
    assert_eq!(list("", "", 2), ["organisation", "pipeline/a"]);
    assert_eq!(list("", "pipeline/b", 9), ["pipelines", "team/x"]);
}

fn answers_each_of_a_group(store: &dyn Store) {
    let group = [
        write("a", 0, &["a1"], "s", None),
        write("a", 0, &["stale"], "s", None),
        write("a", 1, &["a2"], "s", None),
        Commit { reads: vec![("a".to_owned(), 2)], ..write("b", 0, &["b1"], "s", None) },
        Commit { reads: vec![("a".to_owned(), 1)], ..write("c", 0, &["c1"], "s", None) },
    ];
    let answers: Vec<bool> = store.commit_many(&group).iter().map(Result::is_ok).collect();
    assert_eq!(answers, [true, false, true, true, false]);
    assert_eq!(store.verify_chain(None).unwrap(), Verified { aggregates: 2, facts: 3 });
    assert!(store.commit_many(&[]).is_empty());
    store.commit(&Commit::default()).unwrap();
}

fn refuses_bad_shapes(store: &dyn Store) {
    for id in ["", "white space", "größe", "line\n", &"x".repeat(513)] {
        let refused = store.commit(&write(id, 0, &["one"], "s", None)).unwrap_err();
        assert!(matches!(refused, CommitError::BadId { .. }), "{refused}");
    }
    let mut twice = write("a", 0, &["one"], "s", None);
    twice.writes.extend(twice.writes.clone());
    let refused = store.commit(&twice).unwrap_err();
    assert_eq!(refused.to_string(), "aggregate a is twice in one commit");
    let twice = Commit { new_effects: vec![effect("e", Lane::Forward, 0); 2], ..Commit::default() };
    assert!(matches!(store.commit(&twice).unwrap_err(), CommitError::Repeated { what: "effect", .. }));
    let large =
        Commit { documents: vec![("d".to_owned(), vec![0; BODY_BYTES_MAX + 1])], ..Commit::default() };
    assert!(matches!(store.commit(&large).unwrap_err(), CommitError::TooLarge { what: "document", .. }));
    let long = Commit { wake: vec!["a".to_owned(); 100_001], ..Commit::default() };
    assert!(matches!(store.commit(&long).unwrap_err(), CommitError::TooManyItems { items: 100_001, .. }));
    assert_eq!(store.list("", "", 9).unwrap(), Vec::<String>::new());
}

fn epochs_grow(store: &dyn Store) {
    assert_eq!(store.acquire_epoch(0).unwrap(), 1);
    assert_eq!(store.acquire_epoch(0).unwrap(), 2);
    assert_eq!(store.acquire_epoch(10).unwrap(), 11);
    assert_eq!(store.acquire_epoch(3).unwrap(), 12);
}

fn keeps_settings(store: &dyn Store) {
    assert_eq!(store.meta("app").unwrap(), None);
    store.set_meta("app", "0.1.0").unwrap();
    store.set_meta("app", "0.2.0").unwrap();
    assert_eq!(store.meta("app").unwrap().as_deref(), Some("0.2.0"));
    assert!(matches!(store.set_meta("last epoch", "0").unwrap_err(), CommitError::BadId { .. }));
}

//! Random commits leave the same visible state in memory and on disk, after a restart as well.

use crate::support::effect;
use proptest::prelude::*;
use tidegate_store::{
    AggregateWrite, Commit, CommitError, Lane, MemoryStore, Postpone, SqliteOptions, SqliteStore, Start,
    Store,
};

/// Few names and small numbers, so that commits meet.
const NAMES: u64 = 4;

fn name(what: &'static str) -> impl Strategy<Value = String> {
    (0..NAMES).prop_map(move |number| format!("{what}/{number}"))
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..3)
}

/// Versions are right or wrong by chance: `lag` is taken from the version that the store has.
#[derive(Debug, Clone)]
struct Write {
    id: String,
    lag: u64,
    facts: Vec<Vec<u8>>,
    state: Vec<u8>,
    due: Option<i64>,
}

fn some_write() -> impl Strategy<Value = Write> {
    let lag = prop_oneof![6 => Just(0u64), 1 => Just(1u64)];
    let facts = prop::collection::vec(bytes(), 0..4);
    (name("aggregate"), lag, facts, bytes(), prop::option::of(-9..9i64))
        .prop_map(|(id, lag, facts, state, due)| Write { id, lag, facts, state, due })
}

#[derive(Debug, Clone)]
struct Step {
    commit: Commit,
    writes: Vec<Write>,
    reads: Vec<(String, u64)>,
}

fn some_step() -> impl Strategy<Value = Step> {
    let lane = prop_oneof![Just(Lane::Forward), Just(Lane::Rollback)];
    let effects = prop::collection::vec((name("effect"), lane, -9..9i64), 0..3);
    let postponed = prop::collection::vec((name("effect"), 0..9u32, -9..9i64), 0..2);
    let ended = prop::collection::vec(name("effect"), 0..3);
    let documents = prop::collection::vec((name("document"), bytes()), 0..2);
    let lists = (effects, postponed, ended, documents, prop::collection::vec(name("aggregate"), 0..2));
    let read = (name("aggregate"), prop_oneof![6 => Just(0u64), 1 => Just(1u64)]);
    let writes = prop::collection::vec(some_write(), 0..3);
    (-9..9i64, bytes(), writes, prop::collection::vec(read, 0..2), lists).prop_map(
        |(at, cause, writes, reads, lists)| {
            let (effects, postponed, ended_effects, documents, wake) = lists;
            let new_effects = effects.into_iter().map(|(id, lane, at)| effect(&id, lane, at)).collect();
            let postpone = |(id, attempt, not_before)| Postpone { id, attempt, not_before };
            let postponed = postponed.into_iter().map(postpone).collect();
            let commit = Commit {
                at,
                cause,
                new_effects,
                postponed,
                ended_effects,
                documents,
                wake,
                ..Commit::default()
            };
            Step { commit, writes, reads }
        },
    )
}

fn resolve(step: Step, store: &dyn Store) -> Commit {
    let version = |id: &str| store.load(id).unwrap().map_or(0, |loaded| loaded.version);
    let write = |w: Write| {
        let expected_version = version(&w.id).saturating_sub(w.lag);
        AggregateWrite { id: w.id, expected_version, facts: w.facts, state: w.state, due: w.due }
    };
    let reads = step.reads.into_iter().map(|(id, lag)| (version(&id).saturating_sub(lag), id));
    Commit {
        reads: reads.map(|(version, id)| (id, version)).collect(),
        writes: step.writes.into_iter().map(write).collect(),
        ..step.commit
    }
}

/// All that can be seen through the trait.
fn visible(store: &dyn Store) -> String {
    let each = |what: &str| (0..NAMES).map(move |number| format!("{what}/{number}")).collect::<Vec<_>>();
    let aggregates: Vec<_> = each("aggregate").iter().map(|id| store.load(id).unwrap()).collect();
    let logs: Vec<_> =
        each("aggregate").iter().map(|id| store.facts(Some(id), Start::Before(20), 3).unwrap()).collect();
    let effects: Vec<_> = each("effect").iter().map(|id| store.effect(id).unwrap()).collect();
    let documents: Vec<_> = each("document").iter().map(|key| store.document(key).unwrap()).collect();
    let lanes = [Lane::Forward, Lane::Rollback].map(|lane| {
        let ready = [-3, 0, 9].map(|now| crate::support::ready(store, lane, now));
        (ready, store.next_effect_at(lane).unwrap())
    });
    format!(
        "{aggregates:#?} {logs:#?} {effects:#?} {documents:#?} {lanes:#?} {:#?} {:?} {:?} {:?} {:?}",
        store.facts(None, Start::After(0), 1_000).unwrap(),
        [-3, 0, 9].map(|now| store.due(now, 3).unwrap()),
        store.next_due().unwrap(),
        store.list("", "", 9).unwrap(),
        store.verify_chain(None).unwrap(),
    )
}

fn answers(results: Vec<Result<(), CommitError>>) -> Vec<String> {
    results.into_iter().map(|result| format!("{result:?}")).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn stores_cannot_be_told_apart(groups in prop::collection::vec(prop::collection::vec(some_step(), 1..4), 1..12)) {
        let dir = tempfile::tempdir().unwrap();
        let options = SqliteOptions { reserve_bytes: 0 };
        let memory = MemoryStore::new();
        let disk = SqliteStore::open(dir.path(), &options).unwrap();
        for group in groups {
            let commits: Vec<Commit> = group.into_iter().map(|step| resolve(step, &memory)).collect();
            prop_assert_eq!(answers(memory.commit_many(&commits)), answers(disk.commit_many(&commits)));
            prop_assert_eq!(visible(&memory), visible(&disk));
        }
        drop(disk);
        let disk = SqliteStore::open(dir.path(), &options).unwrap();
        prop_assert_eq!(visible(&memory.snapshot()), visible(&disk));
    }
}

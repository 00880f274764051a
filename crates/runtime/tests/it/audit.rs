//! The log by who, what, where and when.

use tidegate_core::decision::AggregateId;
use tidegate_core::units::Timestamp;
use tidegate_runtime::Start;
use tidegate_runtime::audit::{Found, LogFilter, SEARCH_MAX, search};
use tidegate_store::{AggregateWrite, Commit, MemoryStore, Store};

/// Appends these facts to a pipeline, all at once.
fn append(store: &MemoryStore, pipeline: &str, at: i64, by: &str, facts: &[&str]) {
    let id = format!("pipeline/{pipeline}");
    let facts = facts.iter().map(|fact| format!("{{\"pipeline\":{fact}}}").into_bytes()).collect();
    let expected_version = store.load(&id).unwrap().map_or(0, |loaded| loaded.version);
    let write = AggregateWrite { id, expected_version, facts, state: b"{}".to_vec(), due: None };
    store
        .commit(&Commit { at, cause: by.as_bytes().to_vec(), writes: vec![write], ..Commit::default() })
        .unwrap();
}

fn hour(n: i64) -> i64 {
    n * 3_600_000
}

/// Two pipelines over ten hours.
fn store() -> MemoryStore {
    let store = MemoryStore::new();
    let (ada, bob) = (r#"{"user":"ada"}"#, r#"{"user":"bob"}"#);
    let lifted = r#"{"hold-lifted":{"number":1,"by":"tidegate"}}"#;
    let settled = r#"{"slot-settled":{"target":"shop/beta/eu/a/main","release":7}}"#;
    let passed = r#"{"step-done":{"step":"beta/az-1","release":7,"at":0}}"#;
    append(&store, "app", hour(1), ada, &[lifted, passed]);
    append(&store, "app", hour(3), "\"tidegate\"", &[settled]);
    append(&store, "flags", hour(5), bob, &[lifted, settled, passed]);
    let release = r#"{"release":{"pipeline":"folder","release":3}}"#;
    append(&store, "app", hour(7), release, &[lifted]);
    append(&store, "app", hour(9), bob, &[lifted]);
    store
}

fn positions(found: &Found) -> Vec<u64> {
    found.entries.iter().map(|entry| entry.position).collect()
}

#[test]
fn entries_are_found_by_who_what_where_and_when() {
    let store = store();
    let check = |filter: LogFilter, expected: &[u64]| {
        let forward = search(&store, &filter, Start::After(0), 100).unwrap();
        assert_eq!(positions(&forward), expected, "{filter:?}");
        let mut backward = positions(&search(&store, &filter, Start::Before(u64::MAX), 100).unwrap());
        backward.reverse();
        assert_eq!(backward, expected, "backward, {filter:?}");
    };
    let by = |who: &str| LogFilter { by: Some(who.to_owned()), ..LogFilter::default() };
    check(LogFilter::default(), &[1, 2, 3, 4, 5, 6, 7, 8]);
    check(by("ada"), &[1, 2]);
    check(by("tidegate"), &[3]);
    check(by("folder"), &[7]);
    check(by("folder/r3"), &[7]);
    check(by("folder/r4"), &[]);
    let app = AggregateId::Pipeline("app".parse().unwrap());
    check(LogFilter { aggregate: Some(app.clone()), ..by("bob") }, &[8]);
    let release = LogFilter { release: Some("r7".parse().unwrap()), ..LogFilter::default() };
    check(release.clone(), &[2, 3, 5, 6]);
    check(LogFilter { aggregate: Some(app), ..release.clone() }, &[2, 3]);
    check(LogFilter { region: Some("eu".parse().unwrap()), ..release }, &[3, 5]);
    let times = |since: Option<i64>, until: Option<i64>| LogFilter {
        since: since.map(Timestamp),
        until: until.map(Timestamp),
        ..LogFilter::default()
    };
    check(times(Some(hour(5)), None), &[4, 5, 6, 7, 8]);
    check(times(None, Some(hour(5))), &[1, 2, 3]);
    check(times(Some(hour(3)), Some(hour(7))), &[3, 4, 5, 6]);
    check(times(Some(hour(9) + 1), None), &[]);
    check(LogFilter { since: Some(Timestamp(hour(4))), ..by("bob") }, &[4, 5, 6, 8]);
}

#[test]
fn a_time_is_found_although_commits_waited_for_each_other() {
    let store = MemoryStore::new();
    let lifted = r#"{"hold-lifted":{"number":1,"by":"tidegate"}}"#;
    // Each even one was decided almost an hour before the one that came before it.
    for n in 0..200 {
        let at = if n % 2 == 0 { hour(n) } else { hour(n) - hour(2) + 60_000 };
        append(&store, "app", at, "\"tidegate\"", &[lifted]);
    }
    for n in 0..200 {
        let filter = LogFilter { since: Some(Timestamp(hour(n))), ..LogFilter::default() };
        let found = search(&store, &filter, Start::After(0), 1_000).unwrap();
        let all = search(&store, &LogFilter::default(), Start::After(0), 1_000).unwrap();
        let expected = all.entries.iter().filter(|entry| entry.at.0 >= hour(n)).count();
        assert_eq!(found.entries.len(), expected, "since hour {n}");
    }
}

#[test]
fn a_long_log_is_searched_in_parts() {
    let store = MemoryStore::new();
    let lifted = r#"{"hold-lifted":{"number":1,"by":"tidegate"}}"#;
    append(&store, "app", 0, r#"{"user":"ada"}"#, &[lifted]);
    let many = vec![lifted; SEARCH_MAX + 1_000];
    append(&store, "app", 1, "\"tidegate\"", &many);
    append(&store, "app", 2, r#"{"user":"ada"}"#, &[lifted]);
    let ada = LogFilter { by: Some("ada".to_owned()), ..LogFilter::default() };
    let (mut after, mut seen, mut asked) = (0, Vec::new(), 0);
    while let Some(reached) = {
        let found = search(&store, &ada, Start::After(after), 10).unwrap();
        seen.extend(positions(&found));
        asked += 1;
        found.reached
    } {
        assert!(reached > after);
        after = reached;
    }
    assert_eq!((seen, asked), (vec![1, many.len() as u64 + 2], 3));
    let back = search(&store, &ada, Start::Before(many.len() as u64), 10).unwrap();
    assert_eq!(back.entries, []);
    let back = search(&store, &ada, Start::Before(back.reached.unwrap()), 10).unwrap();
    assert_eq!(positions(&back), [1]);
}

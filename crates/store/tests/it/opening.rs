//! Opening a data directory: what persists, what is refused, and what tampering shows.

use crate::support::{effect, ready, write};
use rusqlite::Connection;
use std::error::Error;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use tidegate_store::{
    GENESIS, Lane, OpenError, SqliteOptions, SqliteStore, Store, StoreError, StoreLock, VerifyError,
    WRITTEN_BY, fact_hash,
};

fn open(dir: &Path) -> Result<SqliteStore, OpenError> {
    SqliteStore::open(dir, &SqliteOptions { reserve_bytes: 4096 })
}

/// Changes the database behind the store's back.
fn tamper(dir: &Path, sql: &str) {
    let connection = Connection::open(dir.join("tidegate.db")).unwrap();
    connection.execute_batch(sql).unwrap();
}

#[test]
fn everything_persists() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("new/data");
    let store = open(&dir).unwrap();
    let mut commit = write("a", 0, &["one"], "state", Some(7));
    commit.new_effects.push(effect("e1", Lane::Rollback, 3));
    commit.documents.push(("doc".to_owned(), b"bytes".to_vec()));
    store.commit(&commit).unwrap();
    assert_eq!(store.acquire_epoch(0).unwrap(), 1);
    let before = store.load("a").unwrap();
    drop(store);

    let store = open(&dir).unwrap();
    assert_eq!(store.load("a").unwrap(), before);
    assert_eq!(store.next_due().unwrap(), Some(7));
    assert_eq!(ready(&store, Lane::Rollback, 3), ["e1"]);
    assert_eq!(store.document("doc").unwrap().as_deref(), Some(b"bytes".as_slice()));
    assert_eq!(store.acquire_epoch(0).unwrap(), 2);
    assert_eq!(dir.join("reserve").metadata().unwrap().len(), 4096);
}

#[test]
fn a_second_server_is_refused_until_the_first_ends() {
    let dir = tempfile::tempdir().unwrap();
    let first = open(dir.path()).unwrap();
    let refused = open(dir.path()).unwrap_err();
    assert!(
        matches!(refused, OpenError::InUse { pid: Some(pid), .. } if pid == std::process::id()),
        "{refused}"
    );
    assert!(refused.to_string().contains("is in use by another server (process "), "{refused}");
    drop(first);
    open(dir.path()).unwrap();
}

#[test]
fn a_newer_schema_is_refused_and_left_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).unwrap();
    store.set_meta(WRITTEN_BY, "9.0.0").unwrap();
    drop(store);
    tamper(
        dir.path(),
        "INSERT INTO refinery_schema_history SELECT 99, 'from the future', applied_on, checksum
         FROM refinery_schema_history WHERE version = 1",
    );
    let files = || -> Vec<_> {
        let mut files: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().path()).collect();
        files.sort();
        files.into_iter().map(|path| (std::fs::read(&path).unwrap(), path)).collect()
    };
    std::fs::write(dir.path().join("lock"), "        17\n").unwrap();
    let before = files();
    // Also with another reserve than the newer version's.
    let refused = SqliteStore::open(dir.path(), &SqliteOptions { reserve_bytes: 64 }).unwrap_err();
    assert!(matches!(refused, OpenError::Newer { found: 99, known: 2, .. }), "{refused}");
    let says = "was written by tidegate 9.0.0 (schema 99, this version knows 2)";
    assert!(refused.to_string().ends_with(says), "{refused}");
    assert!(files() == before, "nothing was changed");
    let refused = SqliteStore::open_to_read(dir.path()).unwrap_err();
    assert!(refused.to_string().ends_with(says), "{refused}");
    // One that does not tell is refused as well.
    tamper(dir.path(), "DROP TABLE meta");
    let refused = open(dir.path()).unwrap_err();
    assert!(refused.to_string().contains("was written by a newer version (schema 99"), "{refused}");
}

#[test]
fn a_changed_migration_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()).unwrap());
    tamper(dir.path(), "UPDATE refinery_schema_history SET checksum = '1'");
    let refused = open(dir.path()).unwrap_err();
    assert!(matches!(refused, OpenError::Migrate { .. }), "{refused}");
    assert!(refused.source().unwrap().to_string().contains("is different than"), "{refused:?}");
}

#[test]
fn damage_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tidegate.db");
    std::fs::write(&path, "this is no database, and long enough to have a header. ".repeat(100)).unwrap();
    let refused = open(dir.path()).unwrap_err();
    assert!(matches!(refused, OpenError::Corrupt { .. }), "{refused}");
    assert!(refused.to_string().ends_with("restore it from a backup"), "{refused}");

    std::fs::remove_file(&path).unwrap();
    drop(open(dir.path()).unwrap());
    // The second page belongs to the schema's first table.
    File::options().write(true).open(&path).unwrap().write_all_at(&[0xff; 4096], 4096).unwrap();
    let refused = open(dir.path()).unwrap_err();
    assert!(matches!(refused, OpenError::Corrupt { .. }), "{refused}");
}

#[test]
fn a_place_that_is_no_directory_is_named() {
    let parent = tempfile::tempdir().unwrap();
    let file = parent.path().join("file");
    std::fs::write(&file, "").unwrap();
    let refused = open(&file).unwrap_err();
    assert!(matches!(refused, OpenError::Directory { .. }), "{refused}");
}

/// What verification says after the log was changed by hand; the same for all aggregates and for the one.
fn after(sql: &str) -> String {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).unwrap();
    store.commit(&write("a", 0, &["a1", "a2", "a3"], "s", None)).unwrap();
    store.commit(&write("b", 0, &["b1", "b2"], "s", None)).unwrap();
    drop(store);
    tamper(dir.path(), sql);
    let store = open(dir.path()).unwrap();
    let text = |error: VerifyError| match error {
        VerifyError::Break(found) => found.to_string(),
        VerifyError::Store(error) => error.to_string(),
    };
    let one = text(store.verify_chain(Some("a")).unwrap_err());
    let all = text(store.verify_chain(None).unwrap_err());
    assert_eq!(one, all);
    store.verify_chain(Some("b")).unwrap();
    one
}

#[test]
fn tampering_with_the_log_shows() {
    let check = |sql: &str, place: &str, what: &str| {
        let told = after(sql);
        let expected = format!("the log of a is broken at fact {place}: {what}");
        assert!(told.starts_with(&expected), "{sql}: {told}");
    };
    let contents = "its contents do not have its hash: they give ";
    check(
        "UPDATE facts SET fact = CAST('a9' AS BLOB) WHERE aggregate = 'a' AND seq = 2",
        "2 (position 2)",
        contents,
    );
    check("UPDATE facts SET at = 1 WHERE aggregate = 'a' AND seq = 1", "1 (position 1)", contents);
    check("UPDATE facts SET cause = x'00' WHERE aggregate = 'a' AND seq = 3", "3 (position 3)", contents);
    let missing = "it is missing or not in its place: fact 3 comes there";
    check("DELETE FROM facts WHERE aggregate = 'a' AND seq = 2", "2 (position 3)", missing);
    let swap =
        "UPDATE facts SET position = 99 WHERE position = 1; UPDATE facts SET position = 1 WHERE position = 2;
                UPDATE facts SET position = 2 WHERE position = 99;";
    check(swap, "1 (position 1)", "it is missing or not in its place: fact 2 comes there");
    let relabel = "UPDATE facts SET seq = 4 - seq WHERE aggregate = 'a'";
    check(relabel, "1 (position 1)", "it is missing or not in its place: fact 3 comes there");
    check(
        "DELETE FROM facts WHERE aggregate = 'a' AND seq = 3",
        "3",
        "it is missing at the end: 3 facts were recorded",
    );
    // Somebody who knows how hashes are made, and has not changed the aggregate.
    let chain = ["a1", "a2", "a3", "a4"].iter().zip(1..);
    let forged = chain
        .fold(GENESIS, |head, (fact, seq)| fact_hash(&head, "a", seq, 1_000, b"a test", fact.as_bytes()));
    let forged: String = forged.iter().map(|byte| format!("{byte:02x}")).collect();
    let append = format!(
        "INSERT INTO facts SELECT 9, aggregate, 4, at, cause, CAST('a4' AS BLOB), x'{forged}' FROM facts
         WHERE position = 3"
    );
    check(&append, "4 (position 9)", "it is beyond the aggregate's version: 3 facts were recorded");
    check(
        "UPDATE aggregates SET version = 2 WHERE id = 'a'",
        "3 (position 3)",
        "it is beyond the aggregate's version: 2 facts were recorded",
    );
    check(
        "UPDATE aggregates SET head = zeroblob(32) WHERE id = 'a'",
        "3 (position 3)",
        "the aggregate's head is not its hash: it has ",
    );
    check("DELETE FROM aggregates WHERE id = 'a'", "3 (position 3)", "its aggregate is missing");
    assert_eq!(
        after("UPDATE facts SET hash = x'00' WHERE aggregate = 'a' AND seq = 1"),
        "cannot read the log"
    );
}

/// Every file of a folder with its bytes.
fn files(dir: &Path) -> Vec<(std::ffi::OsString, Vec<u8>)> {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
    let mut all: Vec<_> =
        entries.map(|entry| (entry.file_name(), std::fs::read(entry.path()).unwrap())).collect();
    all.sort();
    all
}

#[test]
fn a_closed_database_is_read_without_a_change() {
    let parent = tempfile::tempdir().unwrap();
    // Signs that mean something in a URI.
    let dir = parent.path().join("a b?c#d%20");
    let refused = SqliteStore::open_to_read(&dir).unwrap_err();
    assert!(matches!(refused, OpenError::Nothing { .. }), "{refused}");
    let store = open(&dir).unwrap();
    store.commit(&write("a", 0, &["one"], "s", None)).unwrap();
    let refused = SqliteStore::open_to_read(&dir).unwrap_err();
    assert!(matches!(refused, OpenError::InUse { .. }), "{refused}");
    drop(store);
    let before = files(&dir);
    let reading = SqliteStore::open_to_read(&dir).unwrap();
    assert_eq!(reading.verify_chain(None).unwrap().facts, 1);
    assert_eq!(SqliteStore::open_to_read(&dir).unwrap().verify_chain(None).unwrap().facts, 1, "two at once");
    assert!(reading.commit(&write("a", 1, &["two"], "s", None)).is_err());
    assert!(reading.acquire_epoch(0).is_err());
    let refused = open(&dir).unwrap_err();
    assert!(matches!(refused, OpenError::InUse { .. }), "no server starts meanwhile: {refused}");
    drop(reading);
    assert_eq!(files(&dir), before);
    open(&dir).unwrap();
}

#[test]
fn what_a_killed_server_left_in_the_log_of_the_database_is_read_with_it() {
    let parent = tempfile::tempdir().unwrap();
    let (dir, copy) = (parent.path().join("data"), parent.path().join("copy"));
    let store = open(&dir).unwrap();
    store.commit(&write("a", 0, &["one"], "s", None)).unwrap();
    // What is on the disk while the server runs is what a kill leaves behind.
    std::fs::create_dir(&copy).unwrap();
    for (name, bytes) in files(&dir) {
        std::fs::write(copy.join(name), bytes).unwrap();
    }
    assert!(copy.join("tidegate.db-wal").metadata().unwrap().len() > 0);
    let before = files(&copy);
    let reading = SqliteStore::open_to_read(&copy).unwrap();
    assert_eq!(reading.verify_chain(None).unwrap().facts, 1);
    drop(reading);
    assert_eq!(files(&copy), before);
}

#[test]
fn damage_found_later_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).unwrap();
    let large = "x".repeat(64 << 10);
    store.commit(&write("a", 0, &["one"], &large, None)).unwrap();
    drop(store);
    let store = open(dir.path()).unwrap();
    let path = dir.path().join("tidegate.db");
    let bytes = path.metadata().unwrap().len();
    // All pages but the first are overwritten while the store has the file open and has read none of them yet.
    let garbage = vec![0xff; usize::try_from(bytes - 4096).unwrap()];
    File::options().write(true).open(&path).unwrap().write_all_at(&garbage, 4096).unwrap();
    let failed = [store.load("a").map(drop), store.facts(None, tidegate_store::Start::After(0), 9).map(drop)];
    let corrupt = failed.iter().any(|result| matches!(result, Err(StoreError::Corrupt { .. })));
    assert!(corrupt, "{failed:?}");
}

#[test]
fn a_database_of_the_first_version_keeps_its_effects_in_flight() {
    const FIRST: &str = include_str!("../../migrations/V1__aggregates_facts_effects.sql");
    let begin = FIRST.find("CREATE TABLE effects").unwrap();
    let end = FIRST.find("CREATE TABLE documents").unwrap();
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).unwrap();
    let mut commit = write("a", 0, &["one"], "state", None);
    commit.new_effects = vec![effect("back", Lane::Rollback, 3), effect("on", Lane::Forward, 4)];
    store.commit(&commit).unwrap();
    drop(store);
    tamper(
        dir.path(),
        &format!(
            "ALTER TABLE effects RENAME TO kept; DROP INDEX effects_by_time; {}
             INSERT INTO effects SELECT * FROM kept; DROP TABLE kept;
             DELETE FROM refinery_schema_history WHERE version > 1;",
            &FIRST[begin..end]
        ),
    );
    let store = open(dir.path()).unwrap();
    assert_eq!(ready(&store, Lane::Rollback, 9), ["back"]);
    assert_eq!(ready(&store, Lane::Forward, 9), ["on"]);
    let commit = write("a", 1, &["two"], "state", None);
    store
        .commit(&tidegate_store::Commit { new_effects: vec![effect("tell", Lane::Page, 1)], ..commit })
        .unwrap();
    assert_eq!(ready(&store, Lane::Page, 9), ["tell"]);
    assert_eq!(ready(&store, Lane::Forward, 9), ["on"], "what tells people is in nobody's way");
}

#[test]
fn who_waits_for_the_lock_touches_nothing_and_migrates_when_it_has_it() {
    mod embedded {
        refinery::embed_migrations!("migrations");
    }
    // A store of an older version, whose server works: it has the lock and nothing of it is known here.
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("store");
    std::fs::create_dir(&dir).unwrap();
    let path = dir.join("tidegate.db");
    let mut older = Connection::open(&path).unwrap();
    let runner = embedded::migrations::runner().set_target(refinery::Target::Version(1));
    runner.run(&mut older).unwrap();
    drop(older);
    let lock = File::create(dir.join("lock")).unwrap();
    lock.lock().unwrap();
    let bytes = std::fs::read(&path).unwrap();
    let names = || {
        let mut names: Vec<_> = std::fs::read_dir(&dir).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        names
    };
    for _ in 0..3 {
        assert!(matches!(StoreLock::try_take_existing(&dir), Err(OpenError::InUse { .. })));
    }
    assert_eq!((std::fs::read(&path).unwrap(), names()), (bytes, vec!["lock".into(), "tidegate.db".into()]));
    drop(lock);
    let lock = StoreLock::try_take_existing(&dir).unwrap();
    assert!(SqliteStore::look(&lock).unwrap().is_none(), "what is older is migrated before it is read");
    let store = SqliteStore::open_locked(lock, &SqliteOptions { reserve_bytes: 4096 }).unwrap();
    let mut commit = write("a", 0, &["one"], "state", None);
    commit.new_effects.push(effect("e1", Lane::Page, 3));
    store.commit(&commit).expect("the lane came with the second schema");
    drop(store);
    // One that was moved away is not made anew by whoever has waited for it.
    let aside = parent.path().join("aside");
    std::fs::rename(&dir, &aside).unwrap();
    assert!(matches!(StoreLock::try_take_existing(&dir), Err(OpenError::Directory { .. })));
    assert!(!dir.exists());
}

/// The first start was killed before the first migration was there.
#[test]
fn a_database_without_any_schema_is_made_whole() {
    for header in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tidegate.db");
        if header {
            let mode = "PRAGMA journal_mode = WAL";
            let connection = Connection::open(&path).unwrap();
            connection.query_row(mode, [], |row| row.get::<_, String>(0)).unwrap();
        } else {
            File::create(&path).unwrap();
        }
        let lock = StoreLock::try_take(dir.path()).unwrap();
        assert!(SqliteStore::look(&lock).unwrap().is_none());
        let store = SqliteStore::open_locked(lock, &SqliteOptions { reserve_bytes: 4096 }).unwrap();
        store.commit(&write("a", 0, &["one"], "state", None)).unwrap();
    }
}

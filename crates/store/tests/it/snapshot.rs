//! A copy while commits go on: it is what was there when it was begun, and nobody waits for it.

use crate::support::write;
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use tidegate_store::{SqliteOptions, SqliteStore, Start, Store};

fn open(dir: &std::path::Path) -> SqliteStore {
    SqliteStore::open(dir, &SqliteOptions { reserve_bytes: 4096 }).unwrap()
}

#[test]
fn a_copy_is_one_moment_of_a_store_that_goes_on() {
    let parent = tempfile::tempdir().unwrap();
    let (data, backup) = (parent.path().join("data"), parent.path().join("backup"));
    let store = open(&data);
    let large = "x".repeat(1 << 20);
    for number in 0..16 {
        store.commit(&write(&format!("big/{number}"), 0, &["one"], &large, None)).unwrap();
    }
    store.acquire_epoch(6).unwrap();
    std::fs::create_dir(&backup).unwrap();
    let (stop, made) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        // Each commit changes two aggregates: a copy in which they differ is of no moment.
        scope.spawn(|| {
            for version in 0.. {
                let mut both = write("a", version, &["fact"], &version.to_string(), None);
                both.writes.extend(write("b", version, &["fact"], &version.to_string(), None).writes);
                store.commit(&both).unwrap();
                made.store(version + 1, Ordering::SeqCst);
                if stop.load(Ordering::SeqCst) {
                    break;
                }
            }
        });
        for n in 0..4 {
            while made.load(Ordering::SeqCst) < (n + 1) * 20 {
                std::thread::yield_now();
            }
            let before = made.load(Ordering::SeqCst);
            let dir = backup.join(n.to_string());
            std::fs::create_dir(&dir).unwrap();
            store.snapshot(&dir.join("tidegate.db"), &[("home", "a backup")]).unwrap();
            let copy = SqliteStore::open_to_read(&dir).unwrap();
            let of = |id: &str| copy.load(id).unwrap().unwrap().state;
            assert_eq!(of("a"), of("b"), "one moment");
            let version = copy.load("a").unwrap().unwrap().version;
            assert!(version >= before, "all that was committed before is in it: {version}, {before}");
            copy.verify_chain(None).unwrap();
            assert_eq!(copy.last_epoch().unwrap(), 7);
            assert_eq!(copy.meta("home").unwrap().as_deref(), Some("a backup"));
        }
        stop.store(true, Ordering::SeqCst);
    });
    assert_eq!(store.meta("home").unwrap(), None, "the copy alone has it");
    let path = backup.join("0/tidegate.db");
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let refused = store.snapshot(&path, &[]).unwrap_err();
    assert_eq!(refused.to_string(), "cannot copy the database");
    // The log is moved again, and the store is whole after a restart.
    let facts = store.facts(None, Start::Before(u64::MAX), 1).unwrap()[0].position;
    drop(store);
    let store = open(&data);
    assert_eq!(store.verify_chain(None).unwrap().facts, facts);
    let numbers = [store.file_number().unwrap(), open(&backup.join("0")).file_number().unwrap()];
    assert_ne!(numbers[0], numbers[1]);
}

#[test]
fn the_log_does_not_grow_for_ever_after_a_copy() {
    let parent = tempfile::tempdir().unwrap();
    let data = parent.path().join("data");
    let store = open(&data);
    store.commit(&write("a", 0, &["one"], "s", None)).unwrap();
    let locked = locks(store.file_number().unwrap());
    assert!(!locked.is_empty());
    // One that fails half way must not leave it standing still.
    store.snapshot(&parent.path().join("nowhere/tidegate.db"), &[]).unwrap_err();
    store.snapshot(&parent.path().join("copy.db"), &[]).unwrap();
    let large = "x".repeat(1 << 20);
    for version in 1..40 {
        store.commit(&write("a", version, &["fact"], &large, None)).unwrap();
    }
    let log = data.join("tidegate.db-wal").metadata().unwrap().len();
    assert!(log < 16 << 20, "{log} bytes");
    assert_eq!(locks(store.file_number().unwrap()), locked, "SQLite's own lock is still there");
}

/// The POSIX locks on a file.
fn locks(file: u64) -> Vec<String> {
    let all = std::fs::read_to_string("/proc/locks").unwrap();
    let of_file = all.lines().filter(|line| line.contains("POSIX") && line.contains(&format!(":{file} ")));
    of_file.map(|line| line.split_once(' ').unwrap().1.to_owned()).collect()
}

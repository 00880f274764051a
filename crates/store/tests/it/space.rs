//! A full disk: forward work is refused and loses nothing, rollbacks go on. Needs to mount a small file system.

use crate::support::write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use tidegate_store::{
    Commit, CommitError, Fault, Lane, MemoryStore, Reserve, SqliteOptions, SqliteStore, Store,
};

const DISK: &str = "size=8m";
const OPTIONS: SqliteOptions = SqliteOptions { reserve_bytes: 2 << 20 };

/// A small file system of its own, unmounted at the end.
struct Disk(tempfile::TempDir);

impl Disk {
    fn mount() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", DISK, "tmpfs"]).arg(dir.path()).output();
        match mount {
            Ok(output) if output.status.success() => Some(Self(dir)),
            other => {
                println!("skipped: a tmpfs cannot be mounted here: {other:?}");
                None
            }
        }
    }

    fn data(&self) -> PathBuf {
        self.0.path().join("data")
    }

    fn filler(&self) -> PathBuf {
        self.0.path().join("filler")
    }

    /// Takes every byte that is left.
    fn fill(&self) {
        use std::io::Write;
        let mut file = fs::File::options().append(true).create(true).open(self.filler()).unwrap();
        for size in [64 << 10, 4 << 10] {
            while file.write_all(&vec![0; size]).is_ok() {}
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.0.path()).status();
    }
}

/// One more fact for an aggregate, with a state of 16 KiB.
fn next(store: &dyn Store, id: &str, lane: Lane) -> Commit {
    let version = store.load(id).unwrap().map_or(0, |loaded| loaded.version);
    Commit { lane, ..write(id, version, &["fact"], &"s".repeat(16 << 10), None) }
}

/// Forward commits until the disk is full; how many were made.
fn exhaust(store: &dyn Store) -> u64 {
    const COMMITS_MAX: u64 = 10_000;
    for made in 0..COMMITS_MAX {
        match store.commit(&next(store, "forward", Lane::Forward)) {
            Ok(()) => {}
            Err(CommitError::NoSpace { .. }) => return made,
            Err(other) => panic!("{other}"),
        }
    }
    panic!("the disk is not full after {COMMITS_MAX} commits");
}

fn version(store: &dyn Store, id: &str) -> u64 {
    store.load(id).unwrap().map_or(0, |loaded| loaded.version)
}

fn open(path: &Path) -> SqliteStore {
    SqliteStore::open(path, &OPTIONS).unwrap()
}

#[test]
fn a_full_disk_holds_no_rollback() {
    let Some(disk) = Disk::mount() else { return };
    let store = open(&disk.data());
    store.commit(&next(&store, "forward", Lane::Forward)).unwrap();
    disk.fill();
    let made = 1 + exhaust(&store);
    let refused = store.commit(&next(&store, "forward", Lane::Forward)).unwrap_err();
    assert!(refused.to_string().contains("is full: free some space"), "{refused}");
    assert_eq!(version(&store, "forward"), made);
    assert_eq!(store.tend().unwrap(), Reserve::Held);

    store.commit(&next(&store, "rollback", Lane::Rollback)).unwrap();
    assert_eq!(store.tend().unwrap(), Reserve::Missing);
    // What the reserve has freed is for rollbacks only, in a group as well.
    let group = [
        next(&store, "forward", Lane::Forward),
        next(&store, "rollback", Lane::Rollback),
        next(&store, "forward", Lane::Forward),
    ];
    let answers = store.commit_many(&group);
    assert!(matches!(answers[0], Err(CommitError::NoSpace { .. })), "{answers:?}");
    assert!(answers[1].is_ok(), "{answers:?}");
    assert!(matches!(answers[2], Err(CommitError::NoSpace { .. })), "{answers:?}");
    for _ in 0..20 {
        store.commit(&next(&store, "rollback", Lane::Rollback)).unwrap();
    }
    assert_eq!(store.verify_chain(None).unwrap().facts, made + 22);

    fs::remove_file(disk.filler()).unwrap();
    assert_eq!(store.tend().unwrap(), Reserve::Held);
    store.commit(&next(&store, "forward", Lane::Forward)).unwrap();
    assert_eq!(version(&store, "forward"), made + 1);
}

#[test]
fn a_server_starts_on_a_full_disk() {
    let Some(disk) = Disk::mount() else { return };
    let store = open(&disk.data());
    store.commit(&next(&store, "forward", Lane::Forward)).unwrap();
    drop(store);
    disk.fill();
    let store = open(&disk.data());
    assert_eq!(store.acquire_epoch(0).unwrap(), 1);
    store.commit(&next(&store, "rollback", Lane::Rollback)).unwrap();
    drop(store);
    // The reserve is used up in part by now, and a start cannot have it back.
    disk.fill();
    let store = open(&disk.data());
    assert_eq!(version(&store, "rollback"), 1);
    assert_eq!(store.tend().unwrap(), Reserve::Missing);
    assert!(matches!(
        store.commit(&next(&store, "forward", Lane::Forward)).unwrap_err(),
        CommitError::NoSpace { .. }
    ));
    store.verify_chain(None).unwrap();
}

#[test]
fn memory_behaves_alike() {
    let store = MemoryStore::new();
    store.fail_next(Fault::NoSpace);
    assert_eq!(exhaust(&store), 0);
    store.commit(&next(&store, "forward", Lane::Forward)).unwrap();
    store.fail_next(Fault::NoSpace);
    store.commit(&next(&store, "rollback", Lane::Rollback)).unwrap();
    assert_eq!(exhaust(&store), 0);
    assert_eq!(store.tend().unwrap(), Reserve::Held);
    store.commit(&next(&store, "forward", Lane::Forward)).unwrap();

    let crashed = store.snapshot();
    store.fail_next(Fault::Refused);
    store.fail_next(Fault::Unacknowledged);
    for expected in [2, 3] {
        store.commit(&next(&store, "forward", Lane::Forward)).unwrap_err();
        assert_eq!(version(&store, "forward"), expected);
    }
    assert_eq!(version(&crashed, "forward"), 2);
    assert_eq!(crashed.verify_chain(None).unwrap().facts, 3);
}

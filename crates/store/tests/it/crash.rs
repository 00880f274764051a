//! kill -9 at random moments: what was acknowledged is there, and what is there is whole.

use crate::support::{Numbers, effect, write};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tidegate_store::{Commit, Lane, SqliteOptions, SqliteStore, Start, Store};

const KILLS: u64 = 30;
const AGGREGATES: u64 = 3;
const DIR: &str = "TIDEGATE_STORE_CRASH_DIR";
/// More than the child makes before it is killed; it ends by itself if the parent is gone.
const COMMITS_MAX: u64 = 20_000;

fn open(dir: &Path) -> SqliteStore {
    SqliteStore::open(dir, &SqliteOptions { reserve_bytes: 4096 }).unwrap()
}

/// Commit number `number`: a fact to one aggregate, and the effect of the number instead of the one before.
fn numbered(number: u64) -> Commit {
    let id = format!("aggregate/{}", number % AGGREGATES);
    let mut commit = write(&id, number / AGGREGATES, &[&number.to_string()], &number.to_string(), None);
    commit.new_effects.push(effect(&format!("effect/{number}"), Lane::Forward, 0));
    commit.ended_effects.extend(number.checked_sub(1).map(|before| format!("effect/{before}")));
    commit
}

/// How many commits are there; each left one fact.
fn count(store: &dyn Store) -> u64 {
    store.facts(None, Start::Before(u64::MAX), 1).unwrap().first().map_or(0, |fact| fact.position)
}

/// Not a test by itself: what [`acknowledged_commits_survive_kill`] starts and kills.
#[test]
#[ignore = "the child of another test"]
fn child() {
    let Some(dir) = std::env::var_os(DIR) else { return };
    let store = open(Path::new(&dir));
    let mut out = std::io::stdout();
    let mut next = count(&store);
    let end = next + COMMITS_MAX;
    while next < end {
        // Single commits and groups in turn.
        let size = if next.is_multiple_of(2) { 1 } else { 5 };
        let group: Vec<Commit> = (next..next + size).map(numbered).collect();
        store.commit_many(&group).into_iter().for_each(Result::unwrap);
        next += size;
        writeln!(out, "ack {next}").and_then(|()| out.flush()).unwrap();
    }
}

/// Runs the child, kills it after some acknowledgements and an instant more; how many commits it acknowledged.
fn run_and_kill(dir: &Path, numbers: &mut Numbers) -> Option<u64> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "crash::child", "--ignored", "--nocapture"])
        .env(DIR, dir)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let acks = BufReader::new(child.stdout.take().unwrap()).lines();
    let acks = acks.map_while(Result::ok).filter_map(|line| line.strip_prefix("ack ")?.parse().ok());
    let kill_after = 1 + numbers.below(60);
    let mut last = None;
    for (seen, ack) in (1..).zip(acks) {
        last = Some(ack);
        if seen == kill_after {
            let moment = Instant::now() + Duration::from_micros(numbers.below(3_000));
            while Instant::now() < moment {
                std::hint::spin_loop();
            }
            child.kill().unwrap();
        }
    }
    assert!(!child.wait().unwrap().success(), "the child was not killed");
    last
}

#[test]
fn acknowledged_commits_survive_kill() {
    let seed: u64 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().subsec_nanos().into();
    println!("seed {seed}");
    let mut numbers = Numbers(seed | 1);
    let dir = tempfile::tempdir().unwrap();
    for _ in 0..KILLS {
        let acknowledged = run_and_kill(dir.path(), &mut numbers).unwrap();
        let store = open(dir.path());
        let made = count(&store);
        // Beyond the last acknowledgement there may be one more group, whole or not at all.
        assert!(
            (acknowledged..=acknowledged + 5).contains(&made),
            "{acknowledged} acknowledged, {made} made"
        );
        let verified = store.verify_chain(None).unwrap();
        assert_eq!((verified.facts, verified.aggregates), (made, AGGREGATES.min(made)));
        for number in made.saturating_sub(AGGREGATES)..made {
            let loaded = store.load(&format!("aggregate/{}", number % AGGREGATES)).unwrap().unwrap();
            assert_eq!(loaded.state, number.to_string().as_bytes());
            assert_eq!(loaded.version, number / AGGREGATES + 1);
        }
        let effects = store.effects(Lane::Forward, 0, 9).unwrap();
        let effects: Vec<_> = effects.into_iter().map(|effect| effect.id).collect();
        assert_eq!(effects, [format!("effect/{}", made - 1)]);
    }
}

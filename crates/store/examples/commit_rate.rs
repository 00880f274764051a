//! Prints how many durable commits per second the disk under a directory allows, one by one and in groups:
//! `cargo run --release -p tidegate-store --example commit_rate -- DIR`. The directory must not exist; it is removed.

use std::error::Error;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tidegate_store::{AggregateWrite, Commit, EffectWrite, Lane, SqliteOptions, SqliteStore, Store};

const MEASURE: Duration = Duration::from_secs(5);
const AGGREGATES: u64 = 1_000;
const STATE_BYTES: usize = 2_048;
const FACT_BYTES: usize = 300;

/// A commit as a pipeline makes it: a fact, the new state, one effect ended and one begun.
fn numbered(number: u64) -> Commit {
    let id = format!("pipeline/{}", number % AGGREGATES);
    let write = AggregateWrite {
        id: id.clone(),
        expected_version: number / AGGREGATES,
        facts: vec![vec![b'f'; FACT_BYTES]],
        state: vec![b's'; STATE_BYTES],
        due: i64::try_from(number).ok(),
    };
    let effect = EffectWrite {
        id: format!("effect/{number}"),
        aggregate: id,
        lane: Lane::Forward,
        body: vec![b'e'; FACT_BYTES],
        not_before: 0,
    };
    Commit {
        cause: b"{\"system\":\"benchmark\"}".to_vec(),
        writes: vec![write],
        new_effects: vec![effect],
        ended_effects: number
            .checked_sub(AGGREGATES)
            .map(|old| format!("effect/{old}"))
            .into_iter()
            .collect(),
        ..Commit::default()
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let dir: PathBuf = std::env::args_os().nth(1).ok_or("usage: commit_rate DIR")?.into();
    std::fs::create_dir(&dir)?;
    let store = SqliteStore::open(&dir, &SqliteOptions::default())?;
    let mut next = 0;
    for group in [1, 10, 100] {
        let (begin, first) = (Instant::now(), next);
        while begin.elapsed() < MEASURE {
            let commits: Vec<Commit> = (next..next + group).map(numbered).collect();
            store.commit_many(&commits).into_iter().collect::<Result<Vec<()>, _>>()?;
            next += group;
        }
        println!(
            "groups of {group:>3}: {:>7.0} commits/s",
            (next - first) as f64 / begin.elapsed().as_secs_f64()
        );
    }
    let begin = Instant::now();
    let verified = store.verify_chain(None)?;
    println!("verified {} facts in {:.2} s", verified.facts, begin.elapsed().as_secs_f64());
    drop(store);
    std::fs::remove_dir_all(&dir)?;
    Ok(())
}

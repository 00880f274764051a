//! Durable commits on SQLite, one by one and in groups: what the disk under the temporary folder allows.

use crate::report::Figure;
use crate::scene::Scene;
use anyhow::{Context, Result};
use serde_json::json;
use std::time::{Duration, Instant};
use tidegate_store::{AggregateWrite, Commit, EffectWrite, Lane, SqliteOptions, SqliteStore, Store};

const MEASURE: Duration = Duration::from_secs(4);
const GROUPS: [u64; 3] = [1, 10, 100];
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

/// Measures.
pub(crate) fn take(scene: &Scene) -> Result<Figure> {
    let store = SqliteStore::open(&scene.folder("commits")?, &SqliteOptions::default())?;
    let mut next = 0;
    let mut rates = Vec::new();
    for group in GROUPS {
        let (begin, first) = (Instant::now(), next);
        while begin.elapsed() < MEASURE {
            let commits: Vec<Commit> = (next..next + group).map(numbered).collect();
            store
                .commit_many(&commits)
                .into_iter()
                .collect::<Result<Vec<()>, _>>()
                .context("failed to commit")?;
            next += group;
        }
        rates.push((next - first) as f64 / begin.elapsed().as_secs_f64());
    }
    let begin = Instant::now();
    let facts = store.verify_chain(None).context("failed to verify the chain")?.facts;
    let verified_s = begin.elapsed().as_secs_f64();
    let mut text = format!(
        "commits: durable ones on SQLite (WAL, synchronous=FULL), each a fact of {FACT_BYTES} bytes, a state of {STATE_BYTES}, one \
         effect ended and one begun\n"
    );
    for (group, rate) in GROUPS.iter().zip(&rates) {
        text.push_str(&format!("in groups of {group:>3}: {rate:>8.0} commits/s\n"));
    }
    text.push_str(&format!("verifying the chain of {facts} facts: {verified_s:.2} s\n"));
    let by_group: std::collections::BTreeMap<String, f64> =
        GROUPS.iter().map(ToString::to_string).zip(rates).collect();
    Figure::new(
        "commits",
        text,
        json!({"commits_per_second_by_group": by_group, "facts_verified": facts, "verified_s": verified_s}),
    )
}

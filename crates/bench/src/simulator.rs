//! How fast the simulator is that checks tidegate's rules: seeds of its campaign on all CPUs, and on one.

use crate::machine::{self, Cpu};
use crate::report::Figure;
use crate::scene::Scene;
use anyhow::{Result, ensure};
use serde_json::json;
use std::time::{Duration, Instant};
use tidegate_sim::{Options, campaign};

/// How long each is measured.
const MEASURE: Duration = Duration::from_secs(20);
/// The same seeds in every run.
const FIRST_SEED: u64 = 1;

/// Measures.
pub(crate) fn take(_: &Scene) -> Result<Figure> {
    let mut text = format!(
        "simulator: seeds of the campaign with all faults\n{:<9}{:>8}{:>14}{:>14}{:>14}\n",
        "threads", "seeds", "seeds/min", "events/s", "CPU s/seed"
    );
    let mut values = Vec::new();
    for threads in [1, machine::cpus()] {
        let (before, begun) = (Cpu::own()?, Instant::now());
        let tally = campaign::search(FIRST_SEED, Options::default(), threads, |_| begun.elapsed() < MEASURE);
        ensure!(tally.failure.is_none(), "a rule was broken: {:?}", tally.failure.map(|f| f.headline()));
        let cpu_s = (Cpu::own()? - before).total() / tally.seeds.max(1) as f64;
        let took_s = begun.elapsed().as_secs_f64();
        let (seeds, events) = (tally.seeds as f64 / took_s * 60.0, tally.sum.events as f64 / took_s);
        text.push_str(&format!("{threads:<9}{:>8}{seeds:>14.1}{events:>14.0}{cpu_s:>14.2}\n", tally.seeds));
        values.push(json!({
            "threads": threads, "seeds": tally.seeds, "seeds_per_minute": seeds, "events_per_second": events,
            "cpu_s_per_seed": cpu_s
        }));
    }
    Figure::new("simulator", text, values)
}

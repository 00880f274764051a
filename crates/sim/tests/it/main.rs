//! Runs of the simulator: a fixed number of seeds on which all rules must hold, and proofs that the checker notices.

mod forecast;

use tidegate_core::pipeline::Switches;
use tidegate_sim::{Options, Report, Sim};

/// How many seeds `cargo test` runs; a longer search takes TIDEGATE_SEEDS (a number) and TIDEGATE_SEED (the
/// first), and TIDEGATE_LINES of the log with a failure.
const SEEDS: u64 = 3;
/// Within how many seeds the checker must notice a deliberate break of a rule.
const NOTICED_WITHIN: u64 = 8;

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

fn run(seed: u64, switches: Switches) -> Result<Report, String> {
    let log_lines = number("TIDEGATE_LINES").map_or(50, |n| usize::try_from(n).unwrap_or(50));
    let sim = Sim::new(seed, Options { switches, log_lines, ..Options::default() });
    sim.run().map_err(|failure| failure.to_string())
}

#[test]
fn seeds() {
    let first = number("TIDEGATE_SEED").unwrap_or(1);
    let count = number("TIDEGATE_SEEDS").unwrap_or(SEEDS);
    let mut failed = Vec::new();
    for seed in first..first + count {
        match run(seed, Switches::default()) {
            Ok(report) => println!("seed {seed}: {report:?}"),
            Err(failure) => {
                println!("{failure}");
                failed.push(seed);
            }
        }
    }
    assert!(failed.is_empty(), "failed seeds: {failed:?}");
}

#[test]
fn the_same_seed_gives_the_same_run() {
    assert_eq!(run(3, Switches::default()), run(3, Switches::default()));
}

/// The checker must find something.
fn notices(switches: Switches) {
    let found = (1..=NOTICED_WITHIN).find_map(|seed| run(seed, switches).err());
    assert!(found.is_some(), "nobody noticed {switches:?}");
}

#[test]
fn a_rollback_that_does_not_happen_is_noticed() {
    notices(Switches { rollback_off: true, ..Switches::default() });
}

#[test]
fn a_review_that_nobody_asks_for_is_noticed() {
    notices(Switches { review_off: true, ..Switches::default() });
}

#[test]
fn a_guilty_release_that_comes_again_is_noticed() {
    notices(Switches { rejection_off: true, ..Switches::default() });
}

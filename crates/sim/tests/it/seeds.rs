//! Seeds on which all rules must hold and everything must converge: those that once found something, and a fixed budget of
//! others. For a search use `tidegate sim soak`.

use std::path::Path;
use tidegate_sim::campaign::{self, Tally};
use tidegate_sim::{Options, Sim};

/// Seeds that found something once, with what it was.
const KEPT: [(u64, &str); 10] = [
    (2, "an order whose end was not recorded was repeated by the next server, and undid a newer one"),
    (7, "the checker wanted a reason from a step that the definition no longer had"),
    (1_003, "the simulated monitoring told an alarm's end once, while the clock was behind, and never again"),
    (3_005, "an AZ that was removed and came back kept a release that had been rejected meanwhile"),
    (2_008, "what an edit had called back was returned to, and went on without having passed its step"),
    (
        1_042,
        "a wave whose last AZ was removed was left without its bake, and taken back while the next one went on",
    ),
    (117_696_840_291_188_797, "a suspect went on in an AZ that only another Region of its wave has"),
    (
        117_696_925_206_839_301,
        "a rollback that went further back took out a box that served before one that did not yet; and a bake of what no \
         box ran any more waited for its requests",
    ),
    (
        117_697_025_645_019_258,
        "a suspect took the turn of a newer release, whose alarm was masked as a fix's, and it never came by again",
    ),
    (
        117_697_077_798_174_825,
        "two returns of one decision came to a release that had run there before an edit, as if it had passed",
    ),
];

/// How many seeds each of the four tests below runs; see docs/simulator.md for what that takes.
const SEEDS: u64 = 6;

#[test]
fn kept_seeds() {
    for (seed, why) in KEPT {
        if let Err(failure) = Sim::new(seed, Options::default()).run() {
            panic!("{failure}\nit was kept because {why}");
        }
    }
}

/// Runs some seeds; the file of one that fails is beside the test's binary.
fn hold(first: u64) {
    let Tally { seeds, failure, .. } = campaign::search(first, Options::default(), 1, |begun| begun < SEEDS);
    if let Some(failure) = failure {
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let (failure, path) =
            campaign::keep(failure, Options::default(), directory).expect("the file can be written");
        panic!("{failure}\n`tidegate sim replay {}` runs it again", path.display());
    }
    assert_eq!(seeds, SEEDS);
}

#[test]
fn all_rules_hold_on_seeds_1() {
    hold(1_001);
}

#[test]
fn all_rules_hold_on_seeds_2() {
    hold(2_001);
}

#[test]
fn all_rules_hold_on_seeds_3() {
    hold(3_001);
}

#[test]
fn all_rules_hold_on_seeds_4() {
    hold(4_001);
}

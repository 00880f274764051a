//! Deliberate breaks of the rules: the checker must see each within a few seeds, as a break of the rule that it is.

use tidegate_core::pipeline::Break;
use tidegate_sim::{Mutation, Options, Sim};

/// Within how many seeds each must be seen; see docs/simulator.md for how many it takes.
const SEEN_WITHIN: u64 = 8;

/// The first seed on which the mutation is seen must show a break of this rule.
fn seen_as(rule: u8, mutation: Mutation) {
    let options = Options { mutation: Some(mutation), ..Options::default() };
    let seen = (1..=SEEN_WITHIN).find_map(|seed| Sim::new(seed, options).run().err());
    let failure = seen.unwrap_or_else(|| panic!("nobody saw {mutation:?}"));
    println!("{mutation:?}: {}", failure.headline());
    assert_eq!(failure.rule, rule, "{failure}");
}

macro_rules! mutations {
    ($($name:ident: rule $rule:literal, $mutation:expr;)*) => {
        $(#[test]
        fn $name() {
            seen_as($rule, $mutation);
        })*
    };
}

mutations! {
    a_lease_that_is_not_taken: rule 1, Mutation::Core(Break::NoLease);
    a_batch_of_half_the_boxes: rule 2, Mutation::Core(Break::HalfBatches);
    a_step_entered_without_passing_the_one_before: rule 3, Mutation::Core(Break::StepNotPassed);
    a_result_accepted_with_an_old_generation: rule 3, Mutation::Core(Break::OldGenerations);
    a_bake_clock_that_counts_blind_time: rule 3, Mutation::Core(Break::BlindTimeCounts);
    a_review_that_nobody_asks_for: rule 4, Mutation::Core(Break::NoReview);
    a_rollback_that_does_not_happen: rule 5, Mutation::Core(Break::NoRollback);
    a_rollback_that_asks_the_window: rule 5, Mutation::Core(Break::RollbackAsksWindow);
    a_guilty_release_that_is_not_rejected: rule 5, Mutation::Core(Break::NoRejection);
    a_tainted_release_that_is_let_in: rule 6, Mutation::Core(Break::TaintLetIn);
    a_hold_that_stops_nobody: rule 7, Mutation::Core(Break::HoldsIgnored);
    a_deadline_that_nobody_keeps: rule 8, Mutation::Core(Break::NoDeadlines);
    an_engine_that_takes_an_old_fence: rule 9, Mutation::OldFencesTaken;
    an_effect_dispatched_before_the_commit: rule 10, Mutation::DispatchBeforeCommit;
    a_fact_that_the_store_loses: rule 10, Mutation::FactsLost;
}

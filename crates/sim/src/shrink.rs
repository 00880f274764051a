//! Makes the list of a failure short: choices are left out as long as the same rule is still broken without them. First whole
//! kinds of deeds, then halves, quarters and so on of what remains (delta debugging), with a limit of runs.

use crate::script::Choice;
use crate::{Failure, Options, Sim};
use std::collections::BTreeSet;

/// How much later than before a run with fewer choices may fail.
const LATER_MAX_MS: i64 = 300_000;

/// What shrinking came to.
#[derive(Debug, Clone)]
pub struct Shrunk {
    /// The failure with the shortest list that was found.
    pub failure: Box<Failure>,
    /// How many runs it took.
    pub runs: u32,
}

struct Shrinking {
    options: Options,
    best: Box<Failure>,
    runs: u32,
    runs_max: u32,
}

/// Shortens the list of a failure that was met under these options, in at most so many runs.
#[must_use]
pub fn shrink(failure: Box<Failure>, options: Options, runs_max: u32) -> Shrunk {
    let mut shrinking = Shrinking { options, best: failure, runs: 0, runs_max };
    let kinds: BTreeSet<_> = shrinking.best.choices.iter().map(|choice| choice.deed).collect();
    for kind in kinds {
        let rest = shrinking.best.choices.iter().copied().filter(|choice| choice.deed != kind).collect();
        shrinking.try_with(rest);
    }
    shrinking.leave_out_parts();
    Shrunk { failure: shrinking.best, runs: shrinking.runs }
}

impl Shrinking {
    fn leave_out_parts(&mut self) {
        let mut parts = 2;
        while self.runs < self.runs_max && !self.best.choices.is_empty() {
            let size = self.best.choices.len().div_ceil(parts);
            let shorter = (0..parts).any(|part| {
                let left_out = part * size..(part + 1) * size;
                let rest = self.best.choices.iter().enumerate().filter(|(n, _)| !left_out.contains(n));
                let rest: Vec<Choice> = rest.map(|(_, choice)| *choice).collect();
                rest.len() < self.best.choices.len() && self.try_with(rest)
            });
            match shorter {
                true => parts = 2.max(parts - 1),
                false if size == 1 => return,
                false => parts = (2 * parts).min(self.best.choices.len()),
            }
        }
    }

    /// Whether the same rule is broken with this list; then it is the best so far.
    fn try_with(&mut self, choices: Vec<Choice>) -> bool {
        if self.runs >= self.runs_max {
            return false;
        }
        self.runs += 1;
        // What has not failed a while after that is taken not to fail.
        let end_ms = self.best.at_ms + LATER_MAX_MS;
        match Sim::recorded(self.best.seed, self.options, &choices).run_until(end_ms) {
            Err(failure)
                if failure.rule == self.best.rule && failure.choices.len() < self.best.choices.len() =>
            {
                self.best = failure;
                true
            }
            _ => false,
        }
    }
}

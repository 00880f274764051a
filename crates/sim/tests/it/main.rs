//! Runs of the simulator: seeds on which all rules must hold, proofs that the checker notices, and what is done with a failure.

#![expect(clippy::unwrap_used, reason = "a simulation that cannot be set up is a failed test")]

mod forecast;
mod mutations;
mod recordings;
mod seeds;

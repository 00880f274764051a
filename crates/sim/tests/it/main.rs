//! Runs of the simulator: seeds on which all rules must hold, proofs that the checker notices, and what is done with a failure.

mod forecast;
mod mutations;
mod recordings;
mod seeds;

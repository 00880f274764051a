//! The part of tidegate that decides. It is pure: no async, no I/O, no clock, no randomness, no environment;
//! everything a decision needs is in its arguments, so the simulator and the server run the same code.
//! What does things lives in the crate with that thing's name, never here.

pub mod alarm;
pub mod engine;
pub mod expr;
pub mod ids;
pub mod metrics;
pub mod run_spec;
pub mod units;
pub mod window;

//! The part of tidegate that decides. It is pure: no async, no I/O, no clock, no randomness, no environment;
//! everything a decision needs is in its arguments, so the simulator and the server run the same code.
//! What does things lives in the crate with that thing's name, never here.
//!
//! Where things are decided: [`aggregate::decide`] is the door. [`pipeline`] has the rest: which releases are made
//! (`make_release` with the review gate), what may enter a step (its gates), how fast boxes are replaced ([`rollout`]), when
//! a bake is over ([`bake`]), who is guilty and what returns (its rollback). [`team`] and [`organisation`] hold alarms.

pub mod about;
pub mod aggregate;
pub mod alarm;
pub mod bake;
mod causes;
pub mod change;
pub mod decision;
pub mod definition;
pub mod engine;
pub mod explore;
pub mod expr;
pub mod forge;
pub mod ids;
pub mod invariants;
pub mod lease;
pub mod lint;
pub mod metrics;
pub mod organisation;
pub mod pipeline;
pub mod plan;
pub mod rollout;
pub mod run_spec;
pub mod scope;
mod shared;
pub mod team;
pub mod units;
pub mod window;

pub use causes::causes;
pub use shared::Shared;

//! The runtime on both stores: what is committed together, what is decided again, and what a crash and a full disk change.

#![expect(clippy::unwrap_used, reason = "a test that fails says where")]

mod absence;
mod audit;
mod faults;
mod races;
mod submit;
mod world;

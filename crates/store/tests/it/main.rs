//! The store through its public face, on real files and real processes.
#![expect(clippy::unwrap_used, reason = "tests, whose helper functions clippy does not take for such")]

mod conformance;
mod crash;
mod equivalence;
mod opening;
mod snapshot;
mod space;
mod support;

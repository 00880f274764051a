//! Tests of the hands on real processes, repositories and sandboxes.
#![expect(clippy::unwrap_used, reason = "a test's helpers fail the test")]

mod build;
mod git;
mod sandbox;
mod canary;
mod command_engine;
mod notify;
mod test_runner;
mod webhook;

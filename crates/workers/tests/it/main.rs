//! Tests of the hands on real processes, repositories and sandboxes.
#![expect(clippy::unwrap_used, reason = "a test's helpers fail the test")]

mod answers;
mod build;
mod canary;
mod changes;
mod command_engine;
mod forge;
mod git;
mod mail;
mod notify;
mod prometheus;
mod sandbox;
mod test_runner;
mod webhook;

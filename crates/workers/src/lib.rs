//! To be described.

pub mod git;

pub mod secrets;

pub mod canary;
pub mod command_engine;
pub mod notify;
pub mod process;
pub mod test_runner;

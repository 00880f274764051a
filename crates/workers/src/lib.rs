//! The hands: what reaches out of the control plane. Sources, builds, tests, canaries, the command engine, pages.
//!
//! What must hold: whatever is done here is bounded in time, output and memory, leaves nothing behind, and shows no
//! secret.

pub mod build;
pub mod canary;
pub mod command_engine;
pub mod forge;
pub mod git;
pub mod https;
pub mod monitor;
pub mod notify;
pub mod process;
pub mod prometheus;
pub mod sandbox;
pub mod secrets;
pub mod served;
pub mod test_runner;

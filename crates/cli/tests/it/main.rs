//! The command as a user meets it: its words and exit codes against an API ([`commands`]), and whole servers with fleet,
//! repositories, sandbox and boxes to which bad things happen ([`world`] is what they stand in). Of each bad thing it is
//! shown that a user is told what is wrong, that nothing waits without end, and that nothing is lost.
//!
//! The test binary starts itself again as the boxes: one of its "tests" does nothing unless it is started so.

#![expect(clippy::unwrap_used, reason = "a failed unwrap fails the test, also in its helpers")]

mod adopt;
mod alarms;
mod audit;
mod backup;
mod box_server;
mod boxes;
mod builds;
mod campaign;
mod command_engine;
mod commands;
mod configuration;
mod crash;
mod definitions;
mod demo;
mod disk;
mod doctor;
mod downgrade;
mod estimates;
mod folders;
mod forge;
mod glass;
mod golden;
mod instances;
mod observing;
mod operating;
mod packaging;
mod pages;
mod protocol;
mod regions;
mod retention;
mod self_update;
mod sim;
mod simulate;
mod sources;
mod standby;
mod synth;
mod traces;
mod upgrade;
mod world;
mod worst;

/// A box's process, when the environment says so.
#[test]
fn role_box() {
    box_server::main();
}

//! The fleet with real processes, sockets and packages. The test binary starts itself again as the fleet and as the
//! boxes: two of its "tests" do nothing unless they are started so.

#![expect(clippy::unwrap_used, reason = "a failed unwrap fails the test, also in its helpers")]

mod box_server;
mod configuration;
mod crash;
mod deploy;
mod failure;
mod glass;
mod load;
mod metrics;
mod proxy;
mod support;
mod taking_up;
mod upgrade;
mod wire;

/// The fleet process, when the environment says so.
#[test]
fn role_fleet() {
    support::fleet_main();
}

/// A box's process, when the environment says so.
#[test]
fn role_box() {
    box_server::main();
}

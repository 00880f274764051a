//! Turns the runtime's word of a commit into wake-ups of the loops. A signal carries nothing: whoever hears it looks anew.

use tidegate_core::decision::AggregateId;
use tidegate_runtime::{Lane, Listener};
use tokio::sync::watch;

/// Counters that grow with every commit that concerns somebody.
#[derive(Debug)]
pub struct Signals {
    forward: watch::Sender<u64>,
    rollback: watch::Sender<u64>,
    any: watch::Sender<u64>,
}

impl Default for Signals {
    fn default() -> Self {
        Self { forward: watch::Sender::new(0), rollback: watch::Sender::new(0), any: watch::Sender::new(0) }
    }
}

impl Signals {
    /// Changes when a lane has new effects.
    #[must_use]
    pub fn lane(&self, lane: Lane) -> watch::Receiver<u64> {
        match lane {
            Lane::Forward => self.forward.subscribe(),
            Lane::Rollback => self.rollback.subscribe(),
        }
    }

    /// Changes with every commit.
    #[must_use]
    pub fn any(&self) -> watch::Receiver<u64> {
        self.any.subscribe()
    }
}

impl Listener for Signals {
    fn committed(&self, _aggregates: &[AggregateId], lanes: &[Lane]) {
        if lanes.contains(&Lane::Forward) {
            self.forward.send_modify(|n| *n += 1);
        }
        if lanes.contains(&Lane::Rollback) {
            self.rollback.send_modify(|n| *n += 1);
        }
        self.any.send_modify(|n| *n += 1);
    }
}

//! Turns the runtime's word of a commit into wake-ups of the loops, and into the list of what the overview has to look at
//! again. A wake-up carries nothing: whoever hears it looks anew.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tidegate_core::decision::AggregateId;
use tidegate_core::ids::PipelineId;
use tidegate_runtime::{Lane, Listener};
use tokio::sync::watch;

/// Counters that grow with every commit that concerns somebody.
#[derive(Debug)]
pub struct Signals {
    forward: watch::Sender<u64>,
    rollback: watch::Sender<u64>,
    page: watch::Sender<u64>,
    any: watch::Sender<u64>,
    changed: Mutex<Changed>,
}

/// Which pipelines have changed since somebody took note.
#[derive(Debug)]
enum Changed {
    Everything,
    These(BTreeSet<PipelineId>),
}

impl Default for Signals {
    fn default() -> Self {
        Self {
            forward: watch::Sender::new(0),
            rollback: watch::Sender::new(0),
            page: watch::Sender::new(0),
            any: watch::Sender::new(0),
            changed: Mutex::new(Changed::Everything),
        }
    }
}

impl Signals {
    /// Changes when a lane has new effects.
    #[must_use]
    pub fn lane(&self, lane: Lane) -> watch::Receiver<u64> {
        match lane {
            Lane::Forward => self.forward.subscribe(),
            Lane::Rollback => self.rollback.subscribe(),
            Lane::Page => self.page.subscribe(),
        }
    }

    /// The pipelines that have changed since this was asked last; `None` for all of them.
    pub(super) fn take_changed(&self) -> Option<BTreeSet<PipelineId>> {
        match std::mem::replace(&mut *self.changed(), Changed::These(BTreeSet::new())) {
            Changed::Everything => None,
            Changed::These(ids) => Some(ids),
        }
    }

    /// These have not been taken note of after all.
    pub(super) fn changed_again(&self, ids: impl Iterator<Item = PipelineId>) {
        if let Changed::These(changed) = &mut *self.changed() {
            changed.extend(ids);
        }
    }

    /// Nothing has been taken note of after all.
    pub(super) fn changed_everything(&self) {
        *self.changed() = Changed::Everything;
    }

    fn changed(&self) -> MutexGuard<'_, Changed> {
        self.changed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes with every commit.
    #[must_use]
    pub fn any(&self) -> watch::Receiver<u64> {
        self.any.subscribe()
    }
}

impl Listener for Signals {
    fn committed(&self, aggregates: &[AggregateId], lanes: &[Lane]) {
        self.changed_again(aggregates.iter().filter_map(|id| match id {
            AggregateId::Pipeline(id) => Some(id.clone()),
            AggregateId::Organisation | AggregateId::Team(_) | AggregateId::Lease(_) => None,
        }));
        if lanes.contains(&Lane::Forward) {
            self.forward.send_modify(|n| *n += 1);
        }
        if lanes.contains(&Lane::Rollback) {
            self.rollback.send_modify(|n| *n += 1);
        }
        if lanes.contains(&Lane::Page) {
            self.page.send_modify(|n| *n += 1);
        }
        self.any.send_modify(|n| *n += 1);
    }
}

//! A runtime that looks ahead: the states that a pipeline's decisions rely on, as they are now, on a clock of its own and on a
//! store that forgets. Whatever happens there happens nowhere else.

use crate::codec::{Entry, Shared, encode_state};
use crate::error::RuntimeError;
use crate::{Clock, Options, Runtime, write};
use std::collections::BTreeSet;
use std::sync::Arc;
use tidegate_core::aggregate::State;
use tidegate_core::decision::AggregateId;
use tidegate_core::ids::PipelineId;
use tidegate_core::lease::{Lease, LeaseId};
use tidegate_core::scope::Scope;
use tidegate_store::{AggregateWrite, Commit, MemoryStore, Store};

/// More aggregates than one pipeline's decisions rely on.
const CACHE: usize = 4_096;

impl Runtime {
    /// A copy that looks ahead for one pipeline; `None` if there is no such pipeline. Effects are not in it: what is awaited
    /// stands in the states. Leases that other pipelines hold are free there, because nobody drives those.
    ///
    /// # Errors
    /// If the store fails or holds something unknown.
    pub fn ahead(&self, id: &PipelineId, clock: Arc<dyn Clock>) -> Result<Option<Runtime>, RuntimeError> {
        let Some(pipeline) = self.pipeline(id)? else { return Ok(None) };
        let mut ids = BTreeSet::from([AggregateId::Organisation, AggregateId::Pipeline(id.clone())]);
        ids.extend(pipeline.team.clone().map(AggregateId::Team));
        if let Some(definition) = &pipeline.definition {
            let lease = |target| AggregateId::Lease(LeaseId::new(&definition.service, Scope::of(target)));
            ids.extend(pipeline.slots.keys().map(lease));
        }
        let mut writes = Vec::new();
        for aggregate in ids {
            let entry = self.load(&aggregate)?;
            if entry.version > 0 {
                writes.push(copy(&aggregate, &entry, id)?);
            }
        }
        let store = MemoryStore::forgetful();
        let begin = Commit { at: self.now().0, writes, ..Commit::default() };
        store.commit(&begin).map_err(|source| write("a copy to look ahead", source))?;
        let options = Options { cache: CACHE, listener: None, ..self.options.clone() };
        Runtime::open(Arc::new(store), clock, options, self.epoch).map(Some)
    }
}

fn copy(id: &AggregateId, entry: &Entry, pipeline: &PipelineId) -> Result<AggregateWrite, RuntimeError> {
    let state = match &entry.state {
        Shared::Lease(lease) => State::Lease(own(lease, pipeline)),
        other => other.to_state(),
    };
    Ok(AggregateWrite {
        id: id.to_string(),
        expected_version: 0,
        facts: vec![Vec::new()],
        state: encode_state(id, entry.at, &state)?,
        due: entry.due.map(|at| at.0),
    })
}

/// What a lease is to one pipeline if the others let go of it.
fn own(lease: &Lease, own: &PipelineId) -> Lease {
    match lease {
        Lease::Deploying { pipeline, .. } if pipeline == own => lease.clone(),
        Lease::Free | Lease::Deploying { .. } => Lease::Free,
        Lease::RollingBack { pipelines, interrupted } => {
            let interrupted = interrupted.clone().filter(|i| &i.pipeline == own);
            match (pipelines.contains(own), interrupted) {
                (true, interrupted) => {
                    Lease::RollingBack { pipelines: BTreeSet::from([own.clone()]), interrupted }
                }
                (false, Some(i)) => Lease::Deploying { pipeline: i.pipeline, step: i.step },
                (false, None) => Lease::Free,
            }
        }
    }
}

//! Rule 10: the chain is whole, and folding the log gives the stored state.

use crate::Runtime;
use crate::codec::{Entry, decode, parse_id};
use crate::error::{RuntimeError, VerifyError};
use tidegate_core::aggregate::State;
use tidegate_core::decision::{AggregateId, Fact};
use tidegate_store::{Start, Verified};

/// Facts read at a time while folding.
const FOLD_PAGE: usize = 500;

impl Runtime {
    /// Checks the hash chain of one aggregate or of all, folds their facts again and compares what comes out with the
    /// stored states. Commits may go on meanwhile.
    ///
    /// # Errors
    /// The first aggregate whose chain is broken, whose log does not add up to its state, or that cannot be read.
    pub fn verify_log(&self, aggregate: Option<&AggregateId>) -> Result<Verified, VerifyError> {
        let name = aggregate.map(ToString::to_string);
        let verified = self.store.verify_chain(name.as_deref())?;
        match aggregate {
            Some(id) => self.verify_fold(id)?,
            None => {
                for id in self.list("")? {
                    self.verify_fold(&parse_id(&id)?)?;
                }
            }
        }
        Ok(verified)
    }

    fn verify_fold(&self, id: &AggregateId) -> Result<(), VerifyError> {
        let name = id.to_string();
        let read = |source| RuntimeError::Read { what: format!("the log of {name}"), source };
        let Some(loaded) = self.store.load(&name).map_err(read)? else { return Ok(()) };
        let stored = Entry::decode(id, &loaded)?.state.to_state();
        let (mut state, mut seq, mut position) = (State::initial(id), 0, 0);
        while seq < loaded.version {
            let page = self.store.facts(Some(&name), Start::After(position), FOLD_PAGE).map_err(read)?;
            let Some(last) = page.last() else { break };
            position = last.position;
            for record in page.iter().filter(|record| record.seq <= loaded.version) {
                let fact: Fact = decode(&record.fact, || format!("fact {} of {name}", record.seq))?;
                state.apply(&fact).map_err(|wrong| RuntimeError::WrongKind {
                    aggregate: name.clone(),
                    source: Some(wrong),
                })?;
                seq = record.seq;
            }
        }
        if seq != loaded.version || state != stored {
            return Err(VerifyError::Differs { aggregate: name, version: loaded.version });
        }
        Ok(())
    }
}

//! Timers: one Tick for each pipeline, and each team, whose time has come.

use crate::Runtime;
use crate::codec::{encode, encode_state, parse_id};
use crate::error::{RuntimeError, SubmitError};
use crate::submit::With;
use tidegate_core::decision::{Actor, AggregateId, Event};
use tidegate_core::pipeline::PipelineEvent;
use tidegate_core::team::TeamEvent;
use tidegate_core::units::{Span, Timestamp};
use tidegate_store::{AggregateWrite, Commit, CommitError, Due, Lane, PAGE_MAX};
use tracing::warn;

/// One that refuses its Tick is told the time again after this.
const REFUSED_TICK_PAUSE: Span = Span::minutes(1);

impl Runtime {
    /// Tells each aggregate whose timer has fired the time, at most `limit` of them; returns how many were told.
    ///
    /// # Errors
    /// The first thing that went wrong, after all others have had their turn: on a full disk pipelines that roll back
    /// go on. The timer of one that failed still stands; call again after a pause.
    pub fn tick_due(&self, limit: usize) -> Result<usize, RuntimeError> {
        let due = self
            .store
            .due(self.now().0, PAGE_MAX)
            .map_err(|source| RuntimeError::Read { what: "the timers".to_owned(), source })?;
        let (mut told, mut failed) = (0, None);
        for timer in due {
            if told >= limit {
                break;
            }
            match self.fire(&timer) {
                Ok(true) => told += 1,
                Ok(false) => {}
                Err(error) => {
                    failed.get_or_insert(error);
                }
            }
        }
        failed.map_or(Ok(told), Err)
    }

    /// Whether one was told the time.
    fn fire(&self, timer: &Due) -> Result<bool, RuntimeError> {
        let id = parse_id(&timer.id)?;
        let event = match &id {
            AggregateId::Pipeline(pipeline) => Event::Pipeline(pipeline.clone(), PipelineEvent::Tick),
            AggregateId::Team(team) => Event::Team(team.clone(), TeamEvent::Tick),
            AggregateId::Organisation | AggregateId::Lease(_) => {
                self.set_timer(&id, None)?;
                return Ok(false);
            }
        };
        let with = With { timer: Some(Timestamp(timer.at)), ..With::default() };
        match self.run(&event, &Actor::Tidegate, with) {
            Ok(_) => Ok(true),
            Err(SubmitError::Illegal(illegal)) => {
                warn!(aggregate = %id, why = %illegal, "an aggregate refused to be told the time");
                self.set_timer(&id, Some(self.now() + REFUSED_TICK_PAUSE))?;
                Ok(false)
            }
            Err(SubmitError::NoSpace) => Err(no_space(&id)),
            // The next round comes to it again.
            Err(SubmitError::Busy { aggregate, tries }) => {
                warn!(%aggregate, tries, "a timer waits: others change what it relies on");
                Ok(false)
            }
            Err(SubmitError::Store(error)) => Err(error),
        }
    }

    /// Sets the timer of an aggregate and nothing else.
    fn set_timer(&self, id: &AggregateId, due: Option<Timestamp>) -> Result<(), RuntimeError> {
        let _turn = self.turn(id);
        self.cache.drop(id);
        let entry = self.load(id)?;
        if entry.version == 0 {
            return Ok(());
        }
        let write = AggregateWrite {
            id: id.to_string(),
            expected_version: entry.version,
            facts: Vec::new(),
            state: encode_state(id, entry.at, &entry.state.to_state())?,
            due: due.map(|at| at.0),
        };
        let commit = Commit {
            at: self.now().0,
            lane: Lane::Forward,
            cause: encode(&Actor::Tidegate, || "a cause".to_owned())?,
            writes: vec![write],
            ..Commit::default()
        };
        let made = self.store.commit(&commit);
        self.cache.drop(id);
        match made {
            // A conflict means that it was decided on meanwhile, which set the timer.
            Ok(()) | Err(CommitError::Conflict { .. }) => Ok(()),
            Err(source) => Err(RuntimeError::Write { what: id.to_string(), source }),
        }
    }
}

fn no_space(id: &AggregateId) -> RuntimeError {
    let source = CommitError::NoSpace { place: "the data directory".to_owned() };
    RuntimeError::Write { what: id.to_string(), source }
}

//! Time in which nobody works: no server ran, it was frozen (a signal, a virtual machine that stood still), or the clock has
//! jumped ahead. Nothing that was awaited could come then, so that it is given as much more time before anything else is
//! decided: a deployment is not taken back for an hour in which nobody looked at its boxes.

use crate::Runtime;
use crate::codec::parse_id;
use crate::error::{RuntimeError, SubmitError};
use crate::submit::With;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use tidegate_core::decision::{Actor, AggregateId, Event};
use tidegate_core::ids::PipelineId;
use tidegate_core::pipeline::PipelineEvent;
use tidegate_core::units::{Span, Timestamp};
use tracing::{info, warn};

/// Less than this between two calls of [`Runtime::at_work`] is no absence.
pub const ABSENCE_MIN: Span = Span::seconds(30);
/// While something is awaited, it is kept this often that somebody works.
const KEPT_EVERY: Span = Span::seconds(10);
/// Where it is kept, as milliseconds since 1970.
const KEY: &str = "at-work";
/// Nobody has said so far that he works.
const NEVER: i64 = i64::MIN;

/// Until when somebody has worked.
pub(crate) struct AtWork {
    until_ms: AtomicI64,
    /// Whether somebody is owed time.
    owes: AtomicBool,
    books: Mutex<Books>,
}

struct Books {
    /// What is kept in the store.
    kept_ms: i64,
    /// Who could not be given the time back so far.
    owed: BTreeMap<PipelineId, Span>,
}

impl AtWork {
    pub(crate) fn new() -> AtWork {
        let books = Books { kept_ms: NEVER, owed: BTreeMap::new() };
        AtWork { until_ms: AtomicI64::new(NEVER), owes: AtomicBool::new(false), books: Mutex::new(books) }
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Runtime {
    /// Says that somebody works, and gives what is awaited the time back in which nobody did. To be called once a second or so, and
    /// before anything else after a start. Whoever never calls it (a simulation, whose time leaps) is never absent.
    ///
    /// # Errors
    /// If the store cannot be read or written. Whoever could not be given time is decided on only when that was done.
    pub fn at_work(&self) -> Result<(), RuntimeError> {
        let mut books = self.at_work.books();
        let now = self.now();
        let last = match self.at_work.until_ms.load(Ordering::SeqCst) {
            NEVER => self.worked_until(&mut books)?.unwrap_or(now),
            known => Timestamp(known),
        };
        let absent = now.since(last);
        if absent >= ABSENCE_MIN {
            let absent = Span::seconds(absent.millis().div_ceil(1_000));
            info!(%absent, "nobody worked for a while; what is awaited gets as much more time");
            for id in self.list("pipeline/")? {
                if let Ok(AggregateId::Pipeline(pipeline)) = parse_id(&id) {
                    let owed = books.owed.entry(pipeline).or_insert(Span::ZERO);
                    *owed = owed.plus(absent);
                }
            }
        }
        self.at_work.until_ms.store(now.0, Ordering::SeqCst);
        books.owed.retain(|pipeline, absent| self.give_back(pipeline, *absent).is_err());
        self.at_work.owes.store(!books.owed.is_empty(), Ordering::SeqCst);
        // As long as time is owed, what is kept says how much.
        let due = books.owed.is_empty() && now.since(Timestamp(books.kept_ms)) >= KEPT_EVERY;
        if due && self.next_due()?.is_some() {
            // On a full disk it is tried again as rarely.
            books.kept_ms = now.0;
            let set = self.store.set_meta(KEY, &now.0.to_string());
            set.map_err(|source| RuntimeError::Write { what: "that somebody works".to_owned(), source })?;
        }
        Ok(())
    }

    /// Before an event is decided on, which may come before the next call of [`Runtime::at_work`].
    pub(crate) fn notice_absence(&self, event: &Event) -> Result<(), SubmitError> {
        let until = self.at_work.until_ms.load(Ordering::SeqCst);
        let lapsed = until != NEVER && self.now().since(Timestamp(until)) >= ABSENCE_MIN;
        if lapsed {
            self.at_work()?;
        }
        if !self.at_work.owes.load(Ordering::SeqCst) {
            return Ok(());
        }
        let mut books = self.at_work.books();
        if let Event::Pipeline(pipeline, _) = event
            && let Some(absent) = books.owed.get(pipeline)
        {
            self.give_back(pipeline, *absent)?;
            books.owed.remove(pipeline);
        }
        Ok(())
    }

    /// Until when somebody has worked before this runtime was opened, as far as is known.
    fn worked_until(&self, books: &mut Books) -> Result<Option<Timestamp>, RuntimeError> {
        let read = self.store.meta(KEY);
        let what = || "until when somebody worked".to_owned();
        let read = read.map_err(|source| RuntimeError::Read { what: what(), source })?;
        if let Some(at) = read.and_then(|text| text.parse().ok()) {
            books.kept_ms = at;
        }
        // What was committed later was committed by somebody.
        let newest = self.newest_ms.load(Ordering::SeqCst).max(books.kept_ms);
        Ok((newest != NEVER).then_some(Timestamp(newest)))
    }

    fn give_back(&self, pipeline: &PipelineId, absent: Span) -> Result<(), SubmitError> {
        let event = Event::Pipeline(pipeline.clone(), PipelineEvent::Resumed { absent });
        match self.run_now(&event, &Actor::Tidegate, With::default()) {
            Ok(_) | Err(SubmitError::Illegal(_)) => Ok(()),
            // Nothing can be decided on it, now or ever.
            Err(SubmitError::Store(RuntimeError::Decode { .. } | RuntimeError::WrongKind { .. })) => Ok(()),
            Err(error) => {
                warn!(pipeline = pipeline.as_str(), %absent, %error, "time in which nobody worked is not given back yet");
                Err(error)
            }
        }
    }
}

//! Time in which nobody works: no server ran, it was frozen (a signal, a virtual machine that stood still), or the clock has
//! jumped ahead. Nothing that was awaited could come then, so that it is given as much more time: a deployment is not taken back
//! for an hour in which nobody looked at its boxes.
//!
//! What must hold: a pipeline is decided on only after it was given its time. An absence is only booked when it is noticed, which
//! takes no decision and no commit; each pipeline gets its own time before its next event, in its own turn. So nobody waits for
//! the time of others, and what is about a team (alarms) waits for nobody's.

use crate::Runtime;
use crate::codec::{Entry, Shared, parse_id};
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

/// If less than this passes in which nobody says that he works, somebody does.
pub const ABSENCE_MIN: Span = Span::seconds(30);
/// While something is awaited, it is kept this often that somebody works.
const KEPT_EVERY: Span = Span::seconds(10);
/// Where it is kept, as milliseconds since 1970.
const KEY: &str = "at-work";
/// Nobody has said so far that he works.
const NEVER: i64 = i64::MIN;
/// So many pipelines are given their time in one call of [`Runtime::give_times`]; others get it before their next event.
const GIVEN_MAX: usize = 256;

/// From when until when nobody worked.
#[derive(Clone, Copy)]
struct Absence {
    from: Timestamp,
    until: Timestamp,
}

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
    /// Who was not given his time yet.
    owed: BTreeMap<PipelineId, Vec<Absence>>,
}

impl AtWork {
    pub(crate) fn new() -> AtWork {
        let books = Books { kept_ms: NEVER, owed: BTreeMap::new() };
        AtWork { until_ms: AtomicI64::new(NEVER), owes: AtomicBool::new(false), books: Mutex::new(books) }
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn owed(&self, pipeline: &PipelineId) -> Vec<Absence> {
        if !self.owes.load(Ordering::SeqCst) {
            return Vec::new();
        }
        self.books().owed.get(pipeline).cloned().unwrap_or_default()
    }

    /// So many absences of a pipeline, the first ones, are settled.
    fn paid(&self, pipeline: &PipelineId, count: usize) {
        let mut books = self.books();
        if let Some(owed) = books.owed.get_mut(pipeline) {
            owed.drain(..count.min(owed.len()));
            if owed.is_empty() {
                books.owed.remove(pipeline);
            }
        }
        self.owes.store(!books.owed.is_empty(), Ordering::SeqCst);
    }
}

impl Runtime {
    /// Says that somebody works. To be called once a second or so, and before anything else after a start. Whoever never calls it
    /// (a simulation, whose time leaps) is never absent.
    ///
    /// # Errors
    /// If it cannot be read until when somebody has worked before; no timer may be looked at then.
    pub fn at_work(&self) -> Result<(), RuntimeError> {
        self.notice_absence()?;
        if let Err(error) = self.keep_at_work() {
            warn!(%error, "it cannot be kept that somebody works");
        }
        Ok(())
    }

    /// Gives some of those who are owed time theirs, if they have had no event before. To be called now and then.
    pub fn give_times(&self) {
        let owed: Vec<PipelineId> = self.at_work.books().owed.keys().take(GIVEN_MAX).cloned().collect();
        for pipeline in owed {
            let _turn = self.turn(&AggregateId::Pipeline(pipeline.clone()));
            // What cannot be done now is done before the pipeline's next event.
            if let Err(error) = self.give_time(&pipeline) {
                warn!(pipeline = pipeline.as_str(), %error, "time in which nobody worked is not given back yet");
            }
        }
    }

    /// Whatever is decided is decided by somebody who works: books the time in which nobody did.
    pub(crate) fn notice_absence(&self) -> Result<(), RuntimeError> {
        let now = self.now();
        if !self.has_lapsed(now) {
            self.at_work.until_ms.fetch_max(now.0, Ordering::SeqCst);
            return Ok(());
        }
        let mut books = self.at_work.books();
        let until = self.at_work.until_ms.load(Ordering::SeqCst);
        let from = if until == NEVER { self.worked_until(&mut books)? } else { Timestamp(until) };
        if now.since(from) >= ABSENCE_MIN {
            let absent = Span::seconds(now.since(from).millis().div_ceil(1_000));
            info!(%absent, "nobody worked for a while; what is awaited gets as much more time");
            for id in self.list("pipeline/")? {
                if let Ok(AggregateId::Pipeline(pipeline)) = parse_id(&id) {
                    books.owed.entry(pipeline).or_default().push(Absence { from, until: now });
                }
            }
            self.at_work.owes.store(!books.owed.is_empty(), Ordering::SeqCst);
        }
        // Only now, so that whoever finds that nothing has lapsed finds what is owed.
        self.at_work.until_ms.fetch_max(now.0, Ordering::SeqCst);
        Ok(())
    }

    /// Before an event is decided on: notices an absence, if anybody ever said that he works, and gives the pipeline its time. Only
    /// pipelines await anything. Within its turn.
    pub(crate) fn time_for(&self, event: &Event) -> Result<(), SubmitError> {
        let Event::Pipeline(pipeline, what) = event else { return Ok(()) };
        if self.at_work.until_ms.load(Ordering::SeqCst) == NEVER {
            return Ok(());
        }
        match self.notice_absence().map_err(SubmitError::from).and_then(|()| self.give_time(pipeline)) {
            // Nothing holds a rollback.
            Err(_) if matches!(what, PipelineEvent::RollbackOrdered { .. }) => Ok(()),
            given => given,
        }
    }

    /// Whether nobody had worked for a while at the moment for which an event was decided on: it may have waited.
    pub(crate) fn is_late(&self, event: &Event, now: Timestamp) -> bool {
        let until = self.at_work.until_ms.load(Ordering::SeqCst);
        let awaits =
            matches!(event, Event::Pipeline(_, what) if !matches!(what, PipelineEvent::Resumed { .. }));
        awaits && until != NEVER && now.since(Timestamp(until)) >= ABSENCE_MIN
    }

    fn has_lapsed(&self, now: Timestamp) -> bool {
        let until = self.at_work.until_ms.load(Ordering::SeqCst);
        until == NEVER || now.since(Timestamp(until)) >= ABSENCE_MIN
    }

    /// Gives a pipeline the time that it is owed. Within its turn.
    pub(crate) fn give_time(&self, pipeline: &PipelineId) -> Result<(), SubmitError> {
        let owed = self.at_work.owed(pipeline);
        if owed.is_empty() {
            return Ok(());
        }
        let id = AggregateId::Pipeline(pipeline.clone());
        let (state, at) = match self.load(&id) {
            Ok(Entry { state: Shared::Pipeline(state), at, .. }) => (state, at),
            // Nothing can be decided on it, now or ever.
            Ok(_) | Err(RuntimeError::Decode { .. } | RuntimeError::WrongKind { .. }) => {
                self.at_work.paid(pipeline, owed.len());
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        // Somebody who has decided on it has worked: a server that died before all had their time goes on with the rest.
        let absent = owed.iter().map(|absence| absence.until.since(absence.from.max(at)));
        let absent = Span::seconds(absent.fold(Span::ZERO, Span::plus).millis().div_ceil(1_000));
        if absent > Span::ZERO && state.awaits() {
            let event = Event::Pipeline(pipeline.clone(), PipelineEvent::Resumed { absent });
            match self.decide_often(&event, &id, &Actor::Tidegate, With::default()) {
                Ok(_) | Err(SubmitError::Illegal(_)) => {}
                Err(error) => return Err(error),
            }
        }
        self.at_work.paid(pipeline, owed.len());
        Ok(())
    }

    /// Until when somebody has worked before this runtime was opened, as far as is known.
    fn worked_until(&self, books: &mut Books) -> Result<Timestamp, RuntimeError> {
        let read = self.store.meta(KEY).map_err(|source| {
            let what = "until when somebody worked".to_owned();
            RuntimeError::Read { what, source }
        })?;
        if let Some(kept) = read.and_then(|text| text.parse().ok()) {
            books.kept_ms = kept;
            return Ok(Timestamp(kept));
        }
        // A store in which it was never kept: somebody has made its newest entry. Kept at once, before there is a newer one.
        let newest = self.newest_ms.load(Ordering::SeqCst);
        let until = if newest == NEVER { self.now() } else { Timestamp(newest) };
        if let Err(error) = self.keep(until) {
            warn!(%error, "it cannot be kept until when somebody worked");
        }
        books.kept_ms = until.0;
        Ok(until)
    }

    /// As long as time is owed, what is kept says how much.
    fn keep_at_work(&self) -> Result<(), RuntimeError> {
        let until = Timestamp(self.at_work.until_ms.load(Ordering::SeqCst));
        let mut books = self.at_work.books();
        let due = books.owed.is_empty() && until.since(Timestamp(books.kept_ms)) >= KEPT_EVERY;
        if !due || self.next_due()?.is_none() {
            return Ok(());
        }
        // On a full disk it is tried again as rarely.
        books.kept_ms = until.0;
        drop(books);
        self.keep(until)
    }

    fn keep(&self, until: Timestamp) -> Result<(), RuntimeError> {
        let what = || "that somebody works".to_owned();
        let set = self.store.set_meta(KEY, &until.0.to_string());
        set.map_err(|source| RuntimeError::Write { what: what(), source })
    }
}

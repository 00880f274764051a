//! The durable loop around the core: load -> decide -> commit -> dispatch effects -> their results come back as events.
//!
//! What must hold here:
//! - An event is one transaction: facts of all aggregates, their new states, effects, documents and wakes are durable
//!   together or not at all, and nothing is done in the world before that.
//! - A commit fails, and the event is decided again, if anything that its decision relied on has changed, also if it came
//!   into being.
//! - Time never goes back within an aggregate, whatever the clock does.
//! - What takes something back is recorded even when the disk is full (X1).
//! - Time in which nobody worked is not held against what is awaited.
//! - A decision that changes nothing costs no commit: moving slots are observed every second.
//!
//! Absent on purpose: threads, timers and the performing of effects. All methods are synchronous; whoever owns the runtime
//! calls [`Runtime::tick_due`] when [`Runtime::next_due`] has come, and performs [`Runtime::effects`].

mod absence;
mod ahead;
pub mod audit;
mod cache;
mod clock;
mod codec;
mod counts;
mod error;
mod submit;
mod timers;

pub use absence::ABSENCE_MIN;
pub use clock::{Clock, SystemClock};
pub use counts::{Counted, KINDS, OUTCOMES};
pub use error::{RuntimeError, SubmitError, VerifyError};
pub use submit::{DECIDE_TRIES_MAX, lane_of};
pub use tidegate_store::{Lane, Reserve, Start, Verified, Waiting};

use absence::AtWork;
use audit::{Found, LogFilter};
use cache::Cache;
use codec::{Entry, Shared, decode, parse_id};
use counts::Counts;
use std::fmt;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use submit::{With, run_spec_key};
use tidegate_core::decision::{Actor, AggregateId, Effect, EffectId, Event, Fact, NewEffect};
use tidegate_core::ids::{PipelineId, RunSpecDigest, TeamId};
use tidegate_core::lease::{Lease, LeaseId};
use tidegate_core::organisation::Organisation;
use tidegate_core::pipeline::{Pipeline, Switches};
use tidegate_core::run_spec::RunSpec;
use tidegate_core::team::Team;
use tidegate_core::units::{Span, Timestamp};
use tidegate_store::{Commit, CommitError, PAGE_MAX, Postpone, Store, StoreError};
use tracing::warn;

/// The form in which states and facts are written; a store with a newer one is not opened.
const FORMAT: u32 = 1;
const FORMAT_KEY: &str = "runtime-format";

/// Events of so many aggregates can be decided at the same time, if no two fall together.
const TURNS: usize = 64;

/// A clock further behind the newest time on record than this is reported.
const CLOCK_BEHIND_MAX: Span = Span::minutes(1);

/// Is told of commits, so that nobody has to ask whether there is something new.
pub trait Listener: Send + Sync {
    /// After a commit, on the thread that made it: which aggregates have changed, and which lanes have new effects.
    /// [`Runtime::next_due`] may have changed as well, also when both are empty. To be quick.
    fn committed(&self, aggregates: &[AggregateId], lanes: &[Lane]);
}

/// How a runtime is set up.
#[derive(Clone)]
pub struct Options {
    /// How many aggregates are kept in memory; at least 1.
    pub cache: usize,
    /// Breaks of the rules, for tests.
    pub switches: Switches,
    /// Who is told of commits.
    pub listener: Option<Arc<dyn Listener>>,
}

impl Default for Options {
    fn default() -> Options {
        Options { cache: 4_096, switches: Switches::default(), listener: None }
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("cache", &self.cache)
            .field("switches", &self.switches)
            .field("listener", &self.listener.is_some())
            .finish()
    }
}

/// What came of an event.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// When it was decided.
    pub at: Timestamp,
    /// What happened; empty when the event changed nothing.
    pub facts: Vec<(AggregateId, Fact)>,
    /// What is to be done: the same as [`Runtime::effects`] tells of it.
    pub effects: Vec<NewEffect>,
}

/// An effect that waits to be performed, or is being performed.
#[derive(Debug, Clone, PartialEq)]
pub struct PendingEffect {
    /// Its name, which is its idempotency key.
    pub id: EffectId,
    /// Who awaits its result.
    pub aggregate: AggregateId,
    /// How many attempts have failed.
    pub attempt: u32,
    /// What to do.
    pub effect: Effect,
    /// When it was ordered.
    pub ordered_at: Timestamp,
}

/// A line of the log.
#[derive(Debug, Clone, PartialEq)]
pub struct LogEntry {
    /// Its place in the log of all aggregates.
    pub position: u64,
    /// Whose fact it is.
    pub aggregate: AggregateId,
    /// Its place in the aggregate's own log, from 1.
    pub seq: u64,
    /// When it was decided.
    pub at: Timestamp,
    /// Who or what caused it.
    pub cause: Actor,
    /// What happened.
    pub fact: Fact,
    /// Proves it and all before it in its aggregate's log: [`tidegate_store::fact_hash`].
    pub hash: [u8; 32],
}

/// See the head of this file.
pub struct Runtime {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    options: Options,
    epoch: u64,
    cache: Cache,
    turns: Vec<Mutex<()>>,
    counts: Counts,
    at_work: AtWork,
    /// The newest time that was recorded: for the runtime it is never earlier than that.
    newest_ms: AtomicI64,
    /// Held by each commit from before it is in the store until it is in the cache as well, and taken whole by whoever reads
    /// effects: so what performs an effect never sees a state from before it was ordered.
    publishing: RwLock<()>,
}

impl fmt::Debug for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Runtime").field("epoch", &self.epoch).field("options", &self.options).finish()
    }
}

/// Whether the store says in which form states and facts are written, which must be one that this version knows.
///
/// # Errors
/// If a newer version of tidegate has written to it, or it fails.
pub fn check_format(store: &dyn Store) -> Result<bool, RuntimeError> {
    let format = store.meta(FORMAT_KEY).map_err(|source| read("the format", source))?;
    match format.map(|found| (found.parse::<u32>(), found)) {
        None => Ok(false),
        Some((Ok(known), _)) if known <= FORMAT => Ok(true),
        Some((_, found)) => Err(RuntimeError::Newer { found, known: FORMAT }),
    }
}

impl Runtime {
    /// Opens the runtime on a store and acquires an epoch above every earlier one and above `fence_above`, the highest
    /// that an engine has seen.
    ///
    /// # Errors
    /// If the store fails, or a newer version of tidegate has written to it.
    pub fn open(
        store: Arc<dyn Store>,
        clock: Arc<dyn Clock>,
        options: Options,
        fence_above: u64,
    ) -> Result<Runtime, RuntimeError> {
        if !check_format(&*store)? {
            store.set_meta(FORMAT_KEY, &FORMAT.to_string()).map_err(|source| write("the format", source))?;
        }
        let epoch = store.acquire_epoch(fence_above).map_err(|source| write("a new epoch", source))?;
        let cache = Cache::new(options.cache);
        let turns = (0..TURNS).map(|_| Mutex::new(())).collect();
        let newest =
            store.facts(None, Start::Before(u64::MAX), 1).map_err(|source| read("the log", source))?;
        let newest = newest.first().map_or(i64::MIN, |fact| fact.at);
        let now = clock.now();
        if Timestamp(newest).since(now) > CLOCK_BEHIND_MAX {
            warn!(
                clock = %now,
                recorded = %Timestamp(newest),
                "the clock is behind the newest time on record; time stands still until it has caught up"
            );
        }
        let newest_ms = AtomicI64::new(newest);
        let (counts, at_work, publishing) = (Counts::default(), AtWork::new(), RwLock::default());
        Ok(Runtime { store, clock, options, epoch, cache, turns, counts, at_work, newest_ms, publishing })
    }

    /// What every command to an engine is fenced with.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The time by which timers fire and effects are due: the clock's, but never earlier than the newest time on record.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.clock.now().max(Timestamp(self.newest_ms.load(Ordering::SeqCst)))
    }

    /// How far the clock is behind the newest time on record: as long as it is, time stands still.
    #[must_use]
    pub fn behind(&self) -> Span {
        Timestamp(self.newest_ms.load(Ordering::SeqCst)).since(self.clock.now())
    }

    /// Decides on an event and makes what follows durable.
    ///
    /// # Errors
    /// See [`SubmitError`]; unless it is [`SubmitError::Store`], nothing was changed.
    pub fn submit(&self, event: &Event, cause: &Actor) -> Result<Outcome, SubmitError> {
        self.run(event, cause, With::default())
    }

    /// Decides on an event as [`Runtime::submit`] would at this moment, and keeps nothing of it: whether it is legal, and what would
    /// come of it.
    ///
    /// # Errors
    /// As of [`Runtime::submit`]; nothing is ever changed.
    pub fn consider(&self, event: &Event) -> Result<Outcome, SubmitError> {
        self.only_decide(event)
    }

    /// As [`Runtime::submit`] with the result of an effect, which ends in the same transaction. A result that is not legal
    /// (any more) is dropped: the effect ends all the same.
    ///
    /// # Errors
    /// As of [`Runtime::submit`].
    pub fn submit_result(&self, effect: &EffectId, event: &Event) -> Result<Outcome, SubmitError> {
        self.run(event, &Actor::Tidegate, With { ends: Some(effect), ..With::default() })
    }

    /// When the earliest timer fires; in the past if one has and was not told yet.
    ///
    /// # Errors
    /// If the store fails.
    pub fn next_due(&self) -> Result<Option<Timestamp>, RuntimeError> {
        let due = self.store.next_due().map_err(|source| read("the timers", source))?;
        Ok(due.map(Timestamp))
    }

    /// Effects of the lane that may be performed now, those that are being performed included. The states that ordered them
    /// can be read from here on.
    ///
    /// # Errors
    /// If the store fails or holds something unknown.
    pub fn effects(&self, lane: Lane, limit: usize) -> Result<Vec<PendingEffect>, RuntimeError> {
        let due =
            self.store.effects(lane, self.now().0, limit).map_err(|source| read("the effects", source))?;
        drop(self.publishing.write().unwrap_or_else(PoisonError::into_inner));
        let pending = due.into_iter().map(|record| {
            Ok(PendingEffect {
                effect: decode(&record.body, || format!("effect {}", record.id))?,
                aggregate: parse_id(&record.aggregate)?,
                attempt: record.attempt,
                ordered_at: Timestamp(record.created_at),
                id: EffectId(record.id),
            })
        });
        pending.collect()
    }

    /// When the earliest effect of the lane may be performed; in the past if one waits or is being performed.
    ///
    /// # Errors
    /// If the store fails.
    pub fn next_effect_at(&self, lane: Lane) -> Result<Option<Timestamp>, RuntimeError> {
        let at = self.store.next_effect_at(lane).map_err(|source| read("the effects", source))?;
        Ok(at.map(Timestamp))
    }

    /// How much waits in each lane in which something does.
    ///
    /// # Errors
    /// If the store fails.
    pub fn waiting(&self) -> Result<Vec<Waiting>, RuntimeError> {
        self.store.waiting().map_err(|source| read("the effects", source))
    }

    /// What was decided since this runtime was opened.
    #[must_use]
    pub fn counted(&self) -> Counted {
        self.counts.read()
    }

    /// Ends an effect whose result is no event (a page that was sent, a command that an engine has taken).
    ///
    /// # Errors
    /// If the store fails; the effect will be performed again.
    pub fn effect_done(&self, id: &EffectId) -> Result<(), RuntimeError> {
        self.change_effect(id, Commit { ended_effects: vec![id.0.clone()], ..Commit::default() })
    }

    /// Notes that the `attempt`th try of an effect has failed (counted from 1) and that it is to be tried again then.
    ///
    /// # Errors
    /// If the store fails; the effect is due as before.
    pub fn effect_failed(
        &self,
        id: &EffectId,
        attempt: u32,
        retry_at: Timestamp,
    ) -> Result<(), RuntimeError> {
        let postpone = Postpone { id: id.0.clone(), attempt, not_before: retry_at.0 };
        self.change_effect(id, Commit { postponed: vec![postpone], ..Commit::default() })
    }

    /// Housekeeping of effects must go on when the disk is full: it is what a rollback's effects need as well.
    fn change_effect(&self, id: &EffectId, commit: Commit) -> Result<(), RuntimeError> {
        let commit = Commit { at: self.now().0, lane: Lane::Rollback, ..commit };
        self.store.commit(&commit).map_err(|source| write(&format!("the end of effect {id}"), source))
    }

    /// A pipeline; `None` if it was never applied.
    ///
    /// # Errors
    /// If the store fails or holds something unknown.
    pub fn pipeline(&self, id: &PipelineId) -> Result<Option<Arc<Pipeline>>, RuntimeError> {
        let entry = self.load(&AggregateId::Pipeline(id.clone()))?;
        Ok(match entry.state {
            Shared::Pipeline(state) if entry.version > 0 => Some(state),
            _ => None,
        })
    }

    /// A team; empty if it was never applied.
    ///
    /// # Errors
    /// If the store fails or holds something unknown.
    pub fn team(&self, id: &TeamId) -> Result<Arc<Team>, RuntimeError> {
        Ok(match self.load(&AggregateId::Team(id.clone()))?.state {
            Shared::Team(state) => state,
            _ => Arc::default(),
        })
    }

    /// The organisation; empty if it was never applied.
    ///
    /// # Errors
    /// If the store fails or holds something unknown.
    pub fn organisation(&self) -> Result<Arc<Organisation>, RuntimeError> {
        Ok(match self.load(&AggregateId::Organisation)?.state {
            Shared::Organisation(state) => state,
            _ => Arc::default(),
        })
    }

    /// A lease; free if nobody ever took it.
    ///
    /// # Errors
    /// If the store fails or holds something unknown.
    pub fn lease(&self, id: &LeaseId) -> Result<Arc<Lease>, RuntimeError> {
        Ok(match self.load(&AggregateId::Lease(id.clone()))?.state {
            Shared::Lease(state) => state,
            _ => Arc::default(),
        })
    }

    /// Every pipeline, by name.
    ///
    /// # Errors
    /// If the store fails or holds something unknown.
    pub fn pipelines(&self) -> Result<Vec<PipelineId>, RuntimeError> {
        let ids = self.list("pipeline/")?;
        ids.iter()
            .map(|id| match parse_id(id)? {
                AggregateId::Pipeline(id) => Ok(id),
                _ => Err(RuntimeError::UnknownAggregate { id: id.clone() }),
            })
            .collect()
    }

    /// Every team, by name.
    ///
    /// # Errors
    /// If the store fails or holds something unknown.
    pub fn teams(&self) -> Result<Vec<TeamId>, RuntimeError> {
        let ids = self.list("team/")?;
        ids.iter()
            .map(|id| match parse_id(id)? {
                AggregateId::Team(id) => Ok(id),
                _ => Err(RuntimeError::UnknownAggregate { id: id.clone() }),
            })
            .collect()
    }

    /// What effects refer to by digest; `None` if no release has it.
    ///
    /// # Errors
    /// If the store fails or holds something unknown.
    pub fn run_spec(&self, digest: &RunSpecDigest) -> Result<Option<RunSpec>, RuntimeError> {
        let what = || format!("RunSpec {digest}");
        let key = run_spec_key(digest.as_str());
        let bytes = self.store.document(&key).map_err(|source| read(&what(), source))?;
        bytes.map(|bytes| decode(&bytes, what)).transpose()
    }

    /// A page of the log, of one aggregate or of all.
    ///
    /// # Errors
    /// If the store fails or holds something unknown.
    pub fn log(
        &self,
        aggregate: Option<&AggregateId>,
        start: Start,
        limit: usize,
    ) -> Result<Vec<LogEntry>, RuntimeError> {
        let filter = LogFilter { aggregate: aggregate.cloned(), ..LogFilter::default() };
        self.search_log(&filter, start, limit).map(|found| found.entries)
    }

    /// As [`Runtime::log`], of what fits a filter: see [`audit::search`].
    ///
    /// # Errors
    /// If the store fails or holds something unknown.
    pub fn search_log(&self, filter: &LogFilter, start: Start, limit: usize) -> Result<Found, RuntimeError> {
        audit::search(&*self.store, filter, start, limit)
    }

    /// See [`audit::verify`].
    ///
    /// # Errors
    /// The first aggregate whose chain is broken, whose log does not add up to its state, or that cannot be read.
    pub fn verify_log(&self, aggregate: Option<&AggregateId>) -> Result<Verified, VerifyError> {
        audit::verify(&*self.store, aggregate)
    }

    /// Tries to have the reserved disk space again after it was used. To be called from time to time.
    ///
    /// # Errors
    /// If the store fails.
    pub fn tend(&self) -> Result<Reserve, RuntimeError> {
        self.store.tend().map_err(|source| read("the reserved disk space", source))
    }

    /// The aggregate from memory or from the store; an absent one has version 0.
    fn load(&self, id: &AggregateId) -> Result<Entry, RuntimeError> {
        let ticket = match self.cache.get(id) {
            Ok(entry) => return Ok(entry),
            Err(ticket) => ticket,
        };
        let name = id.to_string();
        let entry = match self.store.load(&name).map_err(|source| read(&name, source))? {
            Some(loaded) => Entry::decode(id, &loaded)?,
            None => Entry::absent(id),
        };
        self.cache.bring(id, entry.clone(), ticket);
        Ok(entry)
    }

    /// Every id that begins with the prefix.
    fn list(&self, prefix: &str) -> Result<Vec<String>, RuntimeError> {
        let mut all: Vec<String> = Vec::new();
        loop {
            let after = all.last().map_or("", String::as_str);
            let page = self
                .store
                .list(prefix, after, PAGE_MAX)
                .map_err(|source| read("the list of aggregates", source))?;
            if page.is_empty() {
                return Ok(all);
            }
            all.extend(page);
        }
    }
}

fn read(what: &str, source: StoreError) -> RuntimeError {
    RuntimeError::Read { what: what.to_owned(), source }
}

fn write(what: &str, source: CommitError) -> RuntimeError {
    RuntimeError::Write { what: what.to_owned(), source }
}

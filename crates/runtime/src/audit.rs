//! Who did what, when, and to what: the log by its filters, in pages, and the proof that it is whole (rule 10). Everything
//! here reads a store, and needs no runtime: a log is looked at also where no server runs.

use crate::LogEntry;
use crate::codec::{Entry, decode, parse_id};
use crate::error::{RuntimeError, VerifyError};
use tidegate_core::about::named;
use tidegate_core::aggregate::State;
use tidegate_core::decision::{Actor, AggregateId, Fact};
use tidegate_core::ids::{RegionId, ReleaseNo};
use tidegate_core::units::{Span, Timestamp};
use tidegate_store::{FactRecord, PAGE_MAX, Start, Store, StoreError, Verified};

/// Facts read at a time, so that commits get their turn in between.
const PAGE: usize = 500;
/// Facts that one search looks at; whoever wants more asks again from where it came to.
pub const SEARCH_MAX: usize = 20_000;
/// The log is in the order of commits, and their times are, but for decisions that waited for their commit: never as long as
/// this.
const DISORDER_MAX: Span = Span::hours(1);

/// Which entries of the log are wanted; those that every given part fits.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogFilter {
    /// Of this aggregate.
    pub aggregate: Option<AggregateId>,
    /// Caused by this one: a user, `tidegate`, or a pipeline of definitions (`NAME` or `NAME/r7`).
    pub by: Option<String>,
    /// That name this release.
    pub release: Option<ReleaseNo>,
    /// That name this Region.
    pub region: Option<RegionId>,
    /// Not before this.
    pub since: Option<Timestamp>,
    /// Before this.
    pub until: Option<Timestamp>,
}

/// A part of the log.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// In the order of the search.
    pub entries: Vec<LogEntry>,
    /// How far the search came: it goes on from there. None when there is nothing more.
    pub reached: Option<u64>,
}

/// At most `limit` entries that fit the filter, from `start` on. It looks at [`SEARCH_MAX`] entries at most.
///
/// # Errors
/// If the store fails or holds something unknown.
pub fn search(
    store: &dyn Store,
    filter: &LogFilter,
    start: Start,
    limit: usize,
) -> Result<Found, RuntimeError> {
    let name = filter.aggregate.as_ref().map(ToString::to_string);
    let mut start = match (start, filter.since) {
        (Start::After(after), Some(since)) => Start::After(after.max(before_time(store, since)?)),
        (start, _) => start,
    };
    let (mut found, mut seen) = (Found { entries: Vec::new(), reached: None }, 0);
    while seen < SEARCH_MAX {
        let wanted = if filter.is_whole() { limit - found.entries.len() } else { PAGE };
        let page = store.facts(name.as_deref(), start, wanted.min(PAGE)).map_err(|e| read("the log", e))?;
        for record in &page {
            if filter.is_past(record, start) {
                return Ok(found.at_end());
            }
            found.reached = Some(record.position);
            found.entries.extend(filter.take(record)?);
            if found.entries.len() >= limit {
                return Ok(found);
            }
        }
        let Some(last) = page.last() else { return Ok(found.at_end()) };
        seen += page.len();
        start = match start {
            Start::After(_) => Start::After(last.position),
            Start::Before(_) => Start::Before(last.position),
        };
    }
    Ok(found)
}

/// What of the newest facts this version does not know although a tidegate has written it: its hash is right. A fact that somebody
/// has changed is none of these.
///
/// # Errors
/// If the store fails.
pub fn unknown(store: &dyn Store, newest: usize) -> Result<Option<RuntimeError>, RuntimeError> {
    let records = store.facts(None, Start::Before(u64::MAX), newest).map_err(|e| read("the log", e))?;
    for record in &records {
        if let Err(error) = LogFilter::default().take(record)
            && store.verify_chain(Some(&record.aggregate)).is_ok()
        {
            return Ok(Some(error));
        }
    }
    Ok(None)
}

impl Found {
    /// Nothing comes after what was found; whoever found something may ask again, and is told so then.
    fn at_end(mut self) -> Found {
        if self.entries.is_empty() {
            self.reached = None;
        }
        self
    }
}

impl LogFilter {
    /// Whether every entry of the aggregate fits.
    fn is_whole(&self) -> bool {
        LogFilter { aggregate: self.aggregate.clone(), ..LogFilter::default() } == *self
    }

    /// Whether nothing that fits comes after this one.
    fn is_past(&self, record: &FactRecord, way: Start) -> bool {
        let at = Timestamp(record.at);
        match way {
            Start::After(_) => self.until.is_some_and(|until| at.since(until) > DISORDER_MAX),
            Start::Before(_) => self.since.is_some_and(|since| since.since(at) > DISORDER_MAX),
        }
    }

    fn take(&self, record: &FactRecord) -> Result<Option<LogEntry>, RuntimeError> {
        let at = Timestamp(record.at);
        if self.since.is_some_and(|since| at < since) || self.until.is_some_and(|until| at >= until) {
            return Ok(None);
        }
        let what = || format!("entry {} of the log", record.position);
        let cause: Actor = decode(&record.cause, what)?;
        if self.by.as_ref().is_some_and(|by| !is_by(&cause, by)) {
            return Ok(None);
        }
        let aggregate = parse_id(&record.aggregate)?;
        let fact: Fact = decode(&record.fact, what)?;
        if self.release.is_some() || self.region.is_some() {
            let named = named(&aggregate, &fact);
            let release = self.release.is_none_or(|release| named.releases.contains(&release));
            if !release || self.region.as_ref().is_some_and(|region| !named.regions.contains(region)) {
                return Ok(None);
            }
        }
        let (position, seq, hash) = (record.position, record.seq, record.hash);
        Ok(Some(LogEntry { position, aggregate, seq, at, cause, fact, hash }))
    }
}

fn is_by(cause: &Actor, by: &str) -> bool {
    match cause {
        Actor::User(user) => user.as_str() == by,
        Actor::Tidegate => by == "tidegate",
        Actor::Machine(user) => user == by,
        Actor::Release { pipeline, release } => match by.split_once('/') {
            Some((name, number)) => name == pipeline.as_str() && number == release.to_string(),
            None => by == pipeline.as_str(),
        },
    }
}

/// A position up to which everything is older than this.
fn before_time(store: &dyn Store, since: Timestamp) -> Result<u64, RuntimeError> {
    let next = |after| store.facts(None, Start::After(after), 1).map_err(|e| read("the log", e));
    let newest = store.facts(None, Start::Before(u64::MAX), 1).map_err(|e| read("the log", e))?;
    let (mut low, mut high) = (0, newest.first().map_or(0, |fact| fact.position));
    while low < high {
        let middle = low + (high - low) / 2;
        match next(middle)?.first() {
            Some(fact) if since.since(Timestamp(fact.at)) > DISORDER_MAX => low = fact.position,
            _ => high = middle,
        }
    }
    Ok(low)
}

/// Checks the hash chain of one aggregate or of all, folds their facts again and compares what comes out with the
/// stored states. Commits may go on meanwhile.
///
/// # Errors
/// The first aggregate whose chain is broken, whose log does not add up to its state, or that cannot be read.
pub fn verify(store: &dyn Store, aggregate: Option<&AggregateId>) -> Result<Verified, VerifyError> {
    let name = aggregate.map(ToString::to_string);
    let verified = store.verify_chain(name.as_deref())?;
    if let Some(id) = aggregate {
        verify_fold(store, id)?;
        return Ok(verified);
    }
    let mut after = String::new();
    loop {
        let page = store.list("", &after, PAGE_MAX).map_err(|e| read("the list of aggregates", e))?;
        let Some(last) = page.last() else { return Ok(verified) };
        after.clone_from(last);
        for id in &page {
            verify_fold(store, &parse_id(id)?)?;
        }
    }
}

fn verify_fold(store: &dyn Store, id: &AggregateId) -> Result<(), VerifyError> {
    let name = id.to_string();
    let read = |source| RuntimeError::Read { what: format!("the log of {name}"), source };
    let Some(loaded) = store.load(&name).map_err(read)? else { return Ok(()) };
    let stored = Entry::decode(id, &loaded)?.state.to_state();
    let (mut state, mut seq, mut position) = (State::initial(id), 0, 0);
    while seq < loaded.version {
        let page = store.facts(Some(&name), Start::After(position), PAGE).map_err(read)?;
        let Some(last) = page.last() else { break };
        position = last.position;
        for record in page.iter().filter(|record| record.seq <= loaded.version) {
            let fact: Fact = decode(&record.fact, || format!("fact {} of {name}", record.seq))?;
            state
                .apply(&fact)
                .map_err(|wrong| RuntimeError::WrongKind { aggregate: name.clone(), source: Some(wrong) })?;
            seq = record.seq;
        }
    }
    if seq != loaded.version || state != stored {
        return Err(VerifyError::Differs { aggregate: name, version: loaded.version });
    }
    Ok(())
}

fn read(what: &str, source: StoreError) -> RuntimeError {
    RuntimeError::Read { what: what.to_owned(), source }
}

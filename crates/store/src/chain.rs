//! The hash chain of the log. A fact that is changed, removed, moved or slipped in shows, unless whoever does it writes
//! all that follows anew, the head included; keep a head elsewhere to see that too.

use crate::error::{Broken, ChainBreak, VerifyError};
use crate::{FactRecord, PAGE_MAX, Start, Store};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

/// What stands for the hash before an aggregate's first fact.
pub const GENESIS: [u8; 32] = [0; 32];

/// Facts read at a time while verifying, so that commits get their turn in between.
const VERIFY_PAGE: usize = 200;

/// What was found in order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Verified {
    /// Aggregates.
    pub aggregates: u64,
    /// Their facts.
    pub facts: u64,
}

/// SHA-256 over the previous fact's hash ([`GENESIS`] for the first), then aggregate, seq, at, cause and fact. Integers
/// are 8 bytes, big-endian; each text and content is preceded by its length as such an integer.
#[must_use]
pub fn fact_hash(
    previous: &[u8; 32],
    aggregate: &str,
    seq: u64,
    at: i64,
    cause: &[u8],
    fact: &[u8],
) -> [u8; 32] {
    let mut hash = Sha256::new();
    let framed = |hash: &mut Sha256, bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_be_bytes());
        hash.update(bytes);
    };
    hash.update(previous);
    framed(&mut hash, aggregate.as_bytes());
    hash.update(seq.to_be_bytes());
    hash.update(at.to_be_bytes());
    framed(&mut hash, cause);
    framed(&mut hash, fact);
    hash.finalize().into()
}

/// The end of an aggregate's chain as far as it was followed.
#[derive(Clone, Copy)]
struct End {
    seq: u64,
    hash: [u8; 32],
    position: u64,
}

type Ends = BTreeMap<String, End>;

pub(crate) fn verify<S: Store + ?Sized>(store: &S, aggregate: Option<&str>) -> Result<Verified, VerifyError> {
    let mut ends = Ends::new();
    if let Some(id) = aggregate {
        verify_aggregate(store, id, &mut ends)?;
    } else {
        verify_all(store, &mut ends)?;
    }
    let facts = ends.values().map(|end| end.seq).sum();
    Ok(Verified { aggregates: ends.len() as u64, facts })
}

/// Reads the whole log once, then each aggregate for its head and for what was committed meanwhile.
fn verify_all<S: Store + ?Sized>(store: &S, ends: &mut Ends) -> Result<(), VerifyError> {
    let mut position = 0;
    loop {
        let page = store.facts(None, Start::After(position), VERIFY_PAGE)?;
        let Some(last) = page.last() else { break };
        position = last.position;
        page.iter().try_for_each(|fact| check_fact(fact, ends))?;
    }
    let mut after = String::new();
    loop {
        let ids = store.list("", &after, PAGE_MAX)?;
        let Some(last) = ids.last() else { break };
        after.clone_from(last);
        ids.iter().try_for_each(|id| verify_aggregate(store, id, ends))?;
    }
    // An aggregate and its first facts come in one commit, so whatever has facts was to be found in the list.
    for (id, end) in ends.iter() {
        if store.load(id)?.is_none() {
            return Err(broken(id, end.seq, Some(end.position), Broken::NoAggregate).into());
        }
    }
    Ok(())
}

/// Follows one aggregate's log from where it was left up to its present version, and compares its head.
fn verify_aggregate<S: Store + ?Sized>(store: &S, id: &str, ends: &mut Ends) -> Result<(), VerifyError> {
    // The newest fact is read before the version, which therefore cannot be behind it.
    let newest = store.facts(Some(id), Start::Before(u64::MAX), 1)?;
    let newest = newest.first().map(|fact| (fact.seq, fact.position));
    let Some(loaded) = store.load(id)? else {
        return match newest {
            None => Ok(()),
            Some((seq, position)) => Err(broken(id, seq, Some(position), Broken::NoAggregate).into()),
        };
    };
    let version = loaded.version;
    if let Some((seq, position)) = newest.filter(|(seq, _)| *seq > version) {
        return Err(broken(id, seq, Some(position), Broken::Beyond { version }).into());
    }
    let mut end = ends.get(id).copied().unwrap_or(End { seq: 0, hash: GENESIS, position: 0 });
    while end.seq < version {
        let wanted = usize::try_from(version - end.seq).unwrap_or(VERIFY_PAGE).min(VERIFY_PAGE);
        let page = store.facts(Some(id), Start::After(end.position), wanted)?;
        if page.is_empty() {
            return Err(broken(id, end.seq + 1, None, Broken::Missing { version }).into());
        }
        page.iter().try_for_each(|fact| check_fact(fact, ends))?;
        end = ends.get(id).copied().unwrap_or(end);
    }
    if end.hash != loaded.head {
        let what = Broken::Head { given: end.hash, recorded: loaded.head };
        return Err(broken(id, version, Some(end.position), what).into());
    }
    Ok(())
}

fn check_fact(fact: &FactRecord, ends: &mut Ends) -> Result<(), ChainBreak> {
    let (seq, hash) = ends.get(&fact.aggregate).map_or((0, GENESIS), |end| (end.seq, end.hash));
    let here = Some(fact.position);
    if fact.seq != seq + 1 {
        return Err(broken(&fact.aggregate, seq + 1, here, Broken::NotInPlace { found: fact.seq }));
    }
    let given = fact_hash(&hash, &fact.aggregate, fact.seq, fact.at, &fact.cause, &fact.fact);
    if given != fact.hash {
        let what = Broken::Contents { given, recorded: fact.hash };
        return Err(broken(&fact.aggregate, fact.seq, here, what));
    }
    let end = End { seq: fact.seq, hash: fact.hash, position: fact.position };
    ends.insert(fact.aggregate.clone(), end);
    Ok(())
}

fn broken(aggregate: &str, seq: u64, position: Option<u64>, what: Broken) -> ChainBreak {
    ChainBreak { aggregate: aggregate.to_owned(), seq, position, what }
}

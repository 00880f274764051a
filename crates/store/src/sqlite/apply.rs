//! What is written: one commit within its savepoint. Checks come first within each list; whatever is refused, the
//! caller undoes the savepoint.

use super::{Refusal, to_sql};
use crate::chain::{GENESIS, fact_hash};
use crate::error::CommitError;
use crate::model::{AggregateWrite, Commit, EPOCH};
use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params};

pub(super) fn apply(connection: &Connection, commit: &Commit) -> Result<(), Refusal> {
    commit.check_shape().map_err(Refusal::Commit)?;
    for (id, expected) in &commit.reads {
        let actual = version_and_head(connection, id)?.0;
        if actual != *expected {
            return Err(conflict(id, *expected, actual));
        }
    }
    for write in &commit.writes {
        apply_write(connection, commit, write)?;
    }
    for (key, body) in &commit.documents {
        put_document(connection, key, body)?;
    }
    apply_effects(connection, commit)?;
    const WAKE: &str = "UPDATE aggregates SET due = ?2 WHERE id = ?1 AND (due IS NULL OR due > ?2)";
    for id in &commit.wake {
        connection.prepare_cached(WAKE)?.execute(params![id, commit.at])?;
    }
    Ok(())
}

fn conflict(id: &str, expected: u64, actual: u64) -> Refusal {
    Refusal::Commit(CommitError::Conflict { aggregate: id.to_owned(), expected, actual })
}

fn version_and_head(connection: &Connection, id: &str) -> rusqlite::Result<(u64, [u8; 32])> {
    let mut statement = connection.prepare_cached("SELECT version, head FROM aggregates WHERE id = ?1")?;
    let found =
        statement.query_row([id], |row| Ok((super::query::unsigned(row, 0)?, row.get(1)?))).optional()?;
    Ok(found.unwrap_or((0, GENESIS)))
}

fn apply_write(connection: &Connection, commit: &Commit, write: &AggregateWrite) -> Result<(), Refusal> {
    let (actual, mut head) = version_and_head(connection, &write.id)?;
    if actual != write.expected_version {
        return Err(conflict(&write.id, write.expected_version, actual));
    }
    if actual == 0 && write.facts.is_empty() {
        return Err(Refusal::Commit(CommitError::NoFact { aggregate: write.id.clone() }));
    }
    const FACT: &str = "INSERT INTO facts (position, aggregate, seq, at, cause, fact, hash)
                        SELECT COALESCE(MAX(position), 0) + 1, ?1, ?2, ?3, ?4, ?5, ?6 FROM facts";
    let mut version = actual;
    for fact in &write.facts {
        version += 1;
        head = fact_hash(&head, &write.id, version, commit.at, &commit.cause, fact);
        let values = params![write.id, to_sql(version), commit.at, commit.cause, fact, head];
        connection.prepare_cached(FACT)?.execute(values)?;
    }
    const AGGREGATE: &str =
        "INSERT INTO aggregates (id, version, state, due, head) VALUES (?1, ?2, ?3, ?4, ?5)
        ON CONFLICT (id) DO UPDATE SET version = excluded.version, state = excluded.state, due = excluded.due,
                                       head = excluded.head";
    let values = params![write.id, to_sql(version), write.state, write.due, head];
    connection.prepare_cached(AGGREGATE)?.execute(values)?;
    Ok(())
}

fn put_document(connection: &Connection, key: &str, body: &[u8]) -> Result<(), Refusal> {
    const SQL: &str = "INSERT INTO documents (id, body) VALUES (?1, ?2) ON CONFLICT (id) DO NOTHING";
    let inserted = connection.prepare_cached(SQL)?.execute(params![key, body])?;
    if inserted == 0 && super::query::document(connection, key)?.as_deref() != Some(body) {
        return Err(Refusal::Commit(CommitError::DocumentDiffers { key: key.to_owned() }));
    }
    Ok(())
}

fn apply_effects(connection: &Connection, commit: &Commit) -> Result<(), Refusal> {
    for id in &commit.ended_effects {
        connection.prepare_cached("DELETE FROM effects WHERE id = ?1")?.execute([id])?;
    }
    const NEW: &str = "INSERT INTO effects (id, aggregate, lane, body, attempt, not_before, created_at)
                       VALUES (?1, ?2, ?3, ?4, 0, ?5, ?6) ON CONFLICT (id) DO NOTHING";
    for new in &commit.new_effects {
        let values = params![new.id, new.aggregate, new.lane.as_str(), new.body, new.not_before, commit.at];
        if connection.prepare_cached(NEW)?.execute(values)? == 0 {
            return Err(Refusal::Commit(CommitError::EffectExists { id: new.id.clone() }));
        }
    }
    const POSTPONE: &str = "UPDATE effects SET attempt = ?2, not_before = ?3 WHERE id = ?1";
    for postpone in &commit.postponed {
        let values = params![postpone.id, postpone.attempt, postpone.not_before];
        connection.prepare_cached(POSTPONE)?.execute(values)?;
    }
    Ok(())
}

pub(super) fn acquire_epoch(connection: &mut Connection, above: u64) -> rusqlite::Result<u64> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let last = super::query::last_epoch(&transaction)?;
    let epoch = last.max(above).saturating_add(1);
    super::query::set_meta(&transaction, EPOCH, &epoch.to_string())?;
    transaction.commit()?;
    Ok(epoch)
}

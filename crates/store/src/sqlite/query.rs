//! What is read. Every statement uses an index and has a limit.

use super::to_sql;
use crate::model::{Due, EPOCH, EffectRecord, FactRecord, Lane, Loaded, Start, Waiting};
use rusqlite::types::Type;
use rusqlite::{Connection, Error, OptionalExtension, Params, Result, Row, params};

/// Greater than every character of an id.
const PAST_IDS: char = '\u{7f}';

pub(super) fn load(connection: &Connection, id: &str) -> Result<Option<Loaded>> {
    let mut statement =
        connection.prepare_cached("SELECT version, state, due, head FROM aggregates WHERE id = ?1")?;
    let loaded = |row: &Row<'_>| {
        let version = unsigned(row, 0)?;
        Ok(Loaded { version, state: row.get(1)?, due: row.get(2)?, head: row.get(3)? })
    };
    statement.query_row([id], loaded).optional()
}

pub(super) fn list(connection: &Connection, prefix: &str, after: &str, limit: i64) -> Result<Vec<String>> {
    const SQL: &str = "SELECT id FROM aggregates WHERE id >= ?1 AND id < ?2 AND id > ?3 ORDER BY id LIMIT ?4";
    rows(connection, SQL, params![prefix, format!("{prefix}{PAST_IDS}"), after, limit], |row| row.get(0))
}

pub(super) fn due(connection: &Connection, now: i64, limit: i64) -> Result<Vec<Due>> {
    const SQL: &str = "SELECT id, due FROM aggregates WHERE due <= ?1 ORDER BY due, id LIMIT ?2";
    rows(connection, SQL, params![now, limit], |row| Ok(Due { id: row.get(0)?, at: row.get(1)? }))
}

pub(super) fn next_due(connection: &Connection) -> Result<Option<i64>> {
    let mut statement =
        connection.prepare_cached("SELECT due FROM aggregates WHERE due IS NOT NULL ORDER BY due LIMIT 1")?;
    statement.query_row([], |row| row.get(0)).optional()
}

const EFFECT: &str = "SELECT id, aggregate, lane, body, attempt, not_before, created_at FROM effects";

pub(super) fn effects(
    connection: &Connection,
    lane: Lane,
    now: i64,
    limit: i64,
) -> Result<Vec<EffectRecord>> {
    let sql = format!("{EFFECT} WHERE lane = ?1 AND not_before <= ?2 ORDER BY not_before, id LIMIT ?3");
    rows(connection, &sql, params![lane.as_str(), now, limit], effect_record)
}

pub(super) fn next_effect_at(connection: &Connection, lane: Lane) -> Result<Option<i64>> {
    let mut statement = connection
        .prepare_cached("SELECT not_before FROM effects WHERE lane = ?1 ORDER BY not_before, id LIMIT 1")?;
    statement.query_row([lane.as_str()], |row| row.get(0)).optional()
}

pub(super) fn effect(connection: &Connection, id: &str) -> Result<Option<EffectRecord>> {
    let mut statement = connection.prepare_cached(&format!("{EFFECT} WHERE id = ?1"))?;
    statement.query_row([id], effect_record).optional()
}

pub(super) fn waiting(connection: &Connection) -> Result<Vec<Waiting>> {
    const SQL: &str = "SELECT lane, COUNT(*), MIN(created_at) FROM effects GROUP BY lane ORDER BY lane";
    rows(connection, SQL, [], |row| {
        Ok(Waiting { lane: lane(row, 0)?, effects: unsigned(row, 1)?, oldest: row.get(2)? })
    })
}

fn lane(row: &Row<'_>, column: usize) -> Result<Lane> {
    match row.get_ref(column)?.as_str()? {
        "forward" => Ok(Lane::Forward),
        "rollback" => Ok(Lane::Rollback),
        "page" => Ok(Lane::Page),
        other => Err(Error::InvalidColumnType(column, format!("lane {other}"), Type::Text)),
    }
}

fn effect_record(row: &Row<'_>) -> Result<EffectRecord> {
    Ok(EffectRecord {
        id: row.get(0)?,
        aggregate: row.get(1)?,
        lane: lane(row, 2)?,
        body: row.get(3)?,
        attempt: row.get(4)?,
        not_before: row.get(5)?,
        created_at: row.get(6)?,
    })
}

pub(super) fn facts(
    connection: &Connection,
    aggregate: Option<&str>,
    start: Start,
    limit: i64,
) -> Result<Vec<FactRecord>> {
    let (bound, order, position) = match start {
        Start::After(position) => (">", "ASC", to_sql(position)),
        Start::Before(position) => ("<", "DESC", to_sql(position)),
    };
    let of = if aggregate.is_some() { "AND aggregate = ?3" } else { "" };
    let sql = format!(
        "SELECT position, aggregate, seq, at, cause, fact, hash FROM facts
         WHERE position {bound} ?1 {of} ORDER BY position {order} LIMIT ?2"
    );
    match aggregate {
        Some(id) => rows(connection, &sql, params![position, limit, id], fact_record),
        None => rows(connection, &sql, params![position, limit], fact_record),
    }
}

fn fact_record(row: &Row<'_>) -> Result<FactRecord> {
    Ok(FactRecord {
        position: unsigned(row, 0)?,
        aggregate: row.get(1)?,
        seq: unsigned(row, 2)?,
        at: row.get(3)?,
        cause: row.get(4)?,
        fact: row.get(5)?,
        hash: row.get(6)?,
    })
}

pub(super) fn document(connection: &Connection, key: &str) -> Result<Option<Vec<u8>>> {
    let mut statement = connection.prepare_cached("SELECT body FROM documents WHERE id = ?1")?;
    statement.query_row([key], |row| row.get(0)).optional()
}

pub(super) fn meta(connection: &Connection, key: &str) -> Result<Option<String>> {
    let mut statement = connection.prepare_cached("SELECT value FROM meta WHERE id = ?1")?;
    statement.query_row([key], |row| row.get(0)).optional()
}

pub(super) fn last_epoch(connection: &Connection) -> Result<u64> {
    let last = meta(connection, EPOCH)?.unwrap_or_else(|| "0".to_owned());
    last.parse().map_err(|error| Error::FromSqlConversionFailure(0, Type::Text, Box::new(error)))
}

pub(super) fn set_meta(connection: &Connection, key: &str, value: &str) -> Result<()> {
    const SQL: &str = "INSERT INTO meta (id, value) VALUES (?1, ?2)
                       ON CONFLICT (id) DO UPDATE SET value = excluded.value";
    connection.prepare_cached(SQL)?.execute([key, value]).map(|_| ())
}

fn rows<T>(
    connection: &Connection,
    sql: &str,
    params: impl Params,
    row: impl FnMut(&Row<'_>) -> Result<T>,
) -> Result<Vec<T>> {
    connection.prepare_cached(sql)?.query_map(params, row)?.collect()
}

pub(super) fn unsigned(row: &Row<'_>, column: usize) -> Result<u64> {
    let number: i64 = row.get(column)?;
    u64::try_from(number)
        .map_err(|error| Error::FromSqlConversionFailure(column, Type::Integer, error.into()))
}

//! The log as it is told.

use serde::{Deserialize, Serialize};
use tidegate_core::decision::{Actor, Fact};
use tidegate_core::units::Timestamp;
use utoipa::ToSchema;

/// Some entries of the log, oldest first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct LogPage {
    /// Always 1.
    pub version: u32,
    /// Oldest first.
    pub entries: Vec<LogEntry>,
    /// The `after` that brings the next entries; none when there are no more. With a filter there may be more although none
    /// came: a search looks at a limited part of the log.
    pub next: Option<u64>,
    /// The `before` that brings earlier entries; none when there are none, and when `after` was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub earlier: Option<u64>,
}

/// One fact.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct LogEntry {
    /// Always 1.
    pub version: u32,
    /// Its place in the whole log; grows with every commit.
    pub position: u64,
    /// To what it happened: `pipeline/frontend`, `team/shop`, `organisation`, `lease/frontend/production/eu-1`.
    pub aggregate: String,
    /// Its place in that one's own log: 1, 2, 3, ...
    pub seq: u64,
    /// When it was decided.
    #[schema(value_type = i64)]
    pub at: Timestamp,
    /// Who or what caused it: `{"user": "alice"}` or `"tidegate"`.
    #[schema(value_type = Object)]
    pub by: Actor,
    /// What happened, for people.
    pub text: String,
    /// What happened.
    #[schema(value_type = Object)]
    pub fact: Fact,
    /// Proves the fact and all before it in its aggregate's log, in hexadecimal digits. Kept elsewhere, it shows also a log that
    /// was written anew from there on.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub hash: String,
}

/// The log's chain is unbroken, and folding it gives the stored state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LogVerified {
    /// Always 1.
    pub version: u32,
    /// How many aggregates were looked at.
    pub aggregates: u64,
    /// How many facts they have.
    pub facts: u64,
}

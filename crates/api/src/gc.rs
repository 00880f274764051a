//! What can go, and what has gone.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Collects what nobody needs any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct GcRequest {
    /// Only tell what would go.
    pub dry_run: bool,
}

/// What went, or would go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct GcAnswer {
    /// Always 1.
    pub version: u32,
    /// Nothing was removed.
    pub dry_run: bool,
    /// One by one; the first 10,000.
    pub items: Vec<GcItem>,
    /// What all of them used.
    pub bytes: u64,
    /// What the parts of the data directory used before.
    pub used: Vec<GcUse>,
    /// What the data directory may use, in bytes; nothing if it has no budget.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<u64>,
    /// What could not be removed, and why.
    pub failed: Vec<String>,
}

/// Something that nobody needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct GcItem {
    /// `package`, `mirror`, `build-log`, `scratch`, or with a budget `dependencies`.
    pub kind: String,
    /// Which.
    pub name: String,
    /// On the disk.
    pub bytes: u64,
}

/// A part of the data directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct GcUse {
    /// Its folder.
    pub name: String,
    /// On the disk.
    pub bytes: u64,
}

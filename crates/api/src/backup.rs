//! A backup as it is ordered and told of.

use crate::ErrorBody;
use serde::{Deserialize, Serialize};
use tidegate_core::units::Timestamp;
use utoipa::ToSchema;

/// Makes a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BackupRequest {
    /// The absolute path of a new folder, as the server sees it.
    pub into: String,
}

/// One line of the answer: how far it is, and at last what came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum BackupLine {
    /// It goes on.
    Working {
        /// Bytes written so far.
        bytes: u64,
    },
    /// It is there, whole.
    Made(BackupMade),
    /// There is none, and nothing of it is left.
    Failed(ErrorBody),
}

/// A backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BackupMade {
    /// Always 1.
    pub version: u32,
    /// Its folder.
    pub into: String,
    /// When it was begun.
    #[schema(value_type = i64)]
    pub made_at: Timestamp,
    /// The server's epoch.
    pub epoch: u64,
    /// The newest entry of the log that is in it.
    pub position: u64,
    /// How many files it has.
    pub files: u64,
    /// Their size in bytes.
    pub bytes: u64,
}

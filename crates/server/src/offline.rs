//! A data directory on which no server runs, as it is read: nothing in it is changed.

use crate::format::{self, Unusable};
use crate::view;
use std::path::Path;
use tidegate_api::{Code, ErrorBody, LogPage, LogVerified, VERSION};
use tidegate_core::causes;
use tidegate_core::decision::AggregateId;
use tidegate_runtime::{RuntimeError, VerifyError, audit};
use tidegate_store::SqliteStore;

pub use tidegate_runtime::Start;
pub use tidegate_runtime::audit::LogFilter;
pub use tidegate_store::OpenError;

/// The log of a data directory, or of a backup.
#[derive(Debug)]
pub struct OfflineLog {
    store: SqliteStore,
}

impl OfflineLog {
    /// Opens the log; as long as it is open, no server starts there.
    ///
    /// # Errors
    /// There is none, a server has it, a newer version has written it, or it cannot be read.
    pub fn open(data: &Path) -> Result<OfflineLog, Unusable> {
        let path = data.join("store");
        let store = SqliteStore::open_to_read(&path)?;
        format::check_store(&store, &path)?;
        Ok(OfflineLog { store })
    }

    /// As the API's `/v1/log`.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn page(&self, filter: &LogFilter, start: Start, limit: usize) -> Result<LogPage, RuntimeError> {
        audit::search(&self.store, filter, start, limit).map(|found| view::log_page(found, start))
    }

    /// As the API's `/v1/log/verify`, of one aggregate or of all.
    ///
    /// # Errors
    /// The log is not in order, or cannot be read.
    pub fn verify(&self, aggregate: Option<&AggregateId>) -> Result<LogVerified, VerifyError> {
        let verified = audit::verify(&self.store, aggregate)?;
        Ok(LogVerified { version: VERSION, aggregates: verified.aggregates, facts: verified.facts })
    }
}

/// How it is told that a log is not in order.
#[must_use]
pub fn broken(error: &VerifyError) -> ErrorBody {
    ErrorBody {
        code: Code::Internal,
        message: format!("the log is NOT in order: {}", causes(error)),
        hint: "it was changed behind the server's back, or the disk is damaged: compare it with a backup or an export".to_owned(),
        findings: Vec::new(),
    }
}

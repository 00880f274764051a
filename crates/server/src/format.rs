//! Whether this version may use what is on the disk. Every version reads what earlier ones have written, and goes on from it; none
//! reads what a later one has written: it could misread it, and what it then decides cannot be taken back. So what is newer is
//! refused in words, and nothing of it is changed.
//!
//! What tells: the store's schema, the form of states and facts, and the version that wrote last, which is kept before a server's
//! first fact; the form of the fleet's folder, unless a fleet runs there and speaks for itself; the form of each slot of the
//! command engine.

use std::path::{Path, PathBuf};
use tidegate_api::{Code, ErrorBody};
use tidegate_core::causes;
use tidegate_fleet::{FleetClient, FleetConfig, FleetError};
use tidegate_runtime::{RuntimeError, audit};
use tidegate_store::{CommitError, OpenError, SqliteStore, Store, StoreError, StoreLock, WRITTEN_BY};
use tidegate_workers::command_engine;

/// This version of tidegate.
pub(crate) const OWN: &str = env!("CARGO_PKG_VERSION");
/// So many of the newest facts are read before a server starts.
const FACTS_READ: usize = 100;

/// Why a data directory, or a backup, is of no use to this version.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say what the fields are")]
pub enum Unusable {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error("{path} was written by tidegate {by}, and this is tidegate {OWN}", path = path.display())]
    Newer { path: PathBuf, by: String },
    #[error("{path} is in a form that this version of tidegate does not know", path = path.display())]
    Unknown { path: PathBuf, source: RuntimeError },
    #[error(transparent)]
    Fleet(FleetError),
    #[error(transparent)]
    Commands(command_engine::OpenError),
    #[error("failed to look which version has written {path}", path = path.display())]
    Read { path: PathBuf, source: StoreError },
    #[error("failed to keep which version writes the store")]
    Keep(#[source] CommitError),
}

impl Unusable {
    /// What is told of it, where a code and a hint go with it.
    #[must_use]
    pub fn told(&self) -> Option<ErrorBody> {
        let by = match self {
            Unusable::Open(error) => return of_store(error),
            Unusable::Newer { by, .. } => Some(by.clone()),
            Unusable::Fleet(FleetError::Newer { by, .. }) => by.clone(),
            Unusable::Unknown { .. } | Unusable::Commands(command_engine::OpenError::Newer { .. }) => None,
            Unusable::Fleet(_) | Unusable::Commands(_) | Unusable::Read { .. } | Unusable::Keep(_) => {
                return None;
            }
        };
        Some(newer(causes(self), by))
    }
}

/// What is told of a store that cannot be opened, where a code and a hint go with it.
pub(crate) fn of_store(error: &OpenError) -> Option<ErrorBody> {
    match error {
        OpenError::Newer { by, .. } => Some(newer(causes(error), by.clone())),
        OpenError::InUse { .. } => Some(ErrorBody {
            code: Code::InUse,
            message: causes(error),
            hint: "with --standby this one waits, and takes over when that one ends".to_owned(),
            findings: Vec::new(),
        }),
        OpenError::Nothing { .. }
        | OpenError::Directory { .. }
        | OpenError::Corrupt { .. }
        | OpenError::Database { .. }
        | OpenError::Reserve { .. }
        | OpenError::Migrate { .. } => None,
    }
}

fn newer(message: String, by: Option<String>) -> ErrorBody {
    let install = match by {
        Some(by) => format!("install tidegate {by} or a newer one"),
        None => "install that version again, or a newer one".to_owned(),
    };
    let hint = format!(
        "nothing was changed, and boxes go on serving: {install}; there is no way back but to restore a backup that \
         tidegate {OWN} has made"
    );
    ErrorBody { code: Code::Newer, message, hint, findings: Vec::new() }
}

/// Refuses a data directory that a newer version has written.
pub(crate) async fn check(data: &Path, lock: &StoreLock) -> Result<(), Unusable> {
    if let Some(store) = SqliteStore::look(lock)? {
        check_store(&store, lock.dir())?;
        // Between two versions there are programs of the same name: what one of them has added shows here.
        let unknown = |source| Unusable::Unknown { path: lock.dir().to_owned(), source };
        if let Some(error) = audit::unknown(&store, FACTS_READ).map_err(unknown)? {
            return Err(unknown(error));
        }
    }
    let fleet = data.join("fleet");
    // One that runs has opened the folder, and says which protocols it speaks.
    if FleetClient::new(FleetConfig::socket(&fleet)).status().await.is_err() {
        tidegate_fleet::check_format(&fleet).map_err(Unusable::Fleet)?;
    }
    command_engine::check_format(&data.join("commands")).map_err(Unusable::Commands)
}

/// Refuses a store that a newer version has written; it is only read.
pub(crate) fn check_store(store: &SqliteStore, path: &Path) -> Result<(), Unusable> {
    let read = |source| Unusable::Read { path: path.to_owned(), source };
    let by = store.meta(WRITTEN_BY).map_err(read)?;
    if let Some(by) = by.filter(|by| is_newer(by, OWN)) {
        return Err(Unusable::Newer { path: path.to_owned(), by });
    }
    let unknown = |source| Unusable::Unknown { path: path.to_owned(), source };
    tidegate_runtime::check_format(store).map_err(unknown).map(|_| ())
}

/// Keeps that this version writes. To be called before it does.
pub(crate) fn keep(store: &SqliteStore, path: &Path) -> Result<(), Unusable> {
    let kept = store.meta(WRITTEN_BY).map_err(|source| Unusable::Read { path: path.to_owned(), source })?;
    if kept.as_deref() == Some(OWN) {
        return Ok(());
    }
    match store.set_meta(WRITTEN_BY, OWN) {
        Ok(()) => Ok(()),
        // A server comes up on a full disk, for rollbacks; it is kept at the next start.
        Err(error @ CommitError::NoSpace { .. }) => {
            tracing::warn!("the version that writes is not kept: {error}");
            Ok(())
        }
        Err(error) => Err(Unusable::Keep(error)),
    }
}

/// Whether a version comes after another one; what is no version is none that is known.
fn is_newer(found: &str, known: &str) -> bool {
    match (semver::Version::parse(found), semver::Version::parse(known)) {
        (Ok(found), Ok(known)) => found > known,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_ordered_as_versions_and_what_is_none_is_refused() {
        for (found, known, newer) in [
            ("0.1.0", "0.1.0", false),
            ("0.1.9", "0.1.10", false),
            ("0.10.0", "0.9.0", true),
            ("1.0.0-rc.1", "1.0.0", false),
            ("1.0.0", "1.0.0-rc.1", true),
            ("next", "0.1.0", true),
            ("", "0.1.0", true),
        ] {
            assert_eq!(is_newer(found, known), newer, "{found} after {known}");
        }
        assert!(!is_newer(OWN, OWN));
    }
}

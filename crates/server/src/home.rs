//! Which data directory a store belongs to: the one in which it was made. A copy, whoever made it and how, knows less than the
//! engines do as soon as the first one goes on; so no server starts on one before a person says that it is to take over.

use crate::serve::ServeError;
use tidegate_store::{CommitError, SqliteStore, Store};

/// The store's setting.
pub(crate) const KEY: &str = "home";
/// Its value in a backup.
pub(crate) const BACKUP: &str = "backup";

/// Refuses a store that came here as a copy, unless it is to take over. What is to be kept of its place once it has.
pub(crate) fn check(store: &SqliteStore, take_over: bool) -> Result<Option<String>, ServeError> {
    let read = |source| ServeError::Home { source };
    let here = format!("file {}", store.file_number().map_err(read)?);
    match store.meta(KEY).map_err(read)? {
        Some(home) if home == here => Ok(None),
        // It was made just now, or before stores knew their place.
        None => Ok(Some(here)),
        Some(_) if take_over => Ok(Some(here)),
        Some(home) if home == BACKUP => Err(ServeError::Restored),
        Some(_) => Err(ServeError::Copied),
    }
}

/// Keeps the place of a store that has started here.
pub(crate) fn keep(store: &SqliteStore, home: Option<String>) -> Result<(), ServeError> {
    let Some(home) = home else { return Ok(()) };
    match store.set_meta(KEY, &home) {
        Ok(()) => Ok(()),
        // A server comes up on a full disk, for rollbacks; it is kept at the next start.
        Err(error @ CommitError::NoSpace { .. }) => {
            tracing::warn!("the place of the store is not kept: {error}");
            Ok(())
        }
        Err(error) => Err(ServeError::KeepHome(error)),
    }
}

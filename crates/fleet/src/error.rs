//! Why the fleet cannot start or go on. What merely keeps one box from running is that slot's trouble and no error here.

use std::path::PathBuf;

/// Why [`crate::run`] ended other than by a stop or a hand-over.
#[derive(Debug, thiserror::Error)]
pub enum FleetError {
    /// The data folder cannot be used.
    #[error("failed to {operation} {}", path.display())]
    Disk {
        /// What was tried: `create`, `write`, `read`, `lock`.
        operation: &'static str,
        /// Where.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Another fleet supervises this folder.
    #[error(
        "failed to start: another fleet{} already runs on {}; stop it first, or start with --take-over",
        pid.map(|pid| format!(" (process {pid})")).unwrap_or_default(),
        data.display()
    )]
    AlreadyRunning {
        /// The data folder.
        data: PathBuf,
        /// The process that holds it, where it is known.
        pid: Option<u32>,
    },
    /// The data folder is a copy of another one, whose boxes run on this machine.
    #[error(
        "failed to start: {} is a copy of another fleet's folder, whose boxes run on this machine; end those boxes first",
        data.display()
    )]
    Copied {
        /// The data folder.
        data: PathBuf,
    },
    /// A file of the data folder is not what a fleet wrote.
    #[error("failed to read {}: it is not a file of this version's fleet", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// A newer version's fleet has written the data folder. Nothing was changed.
    #[error(
        "{} was written by the fleet of {} (form {found}, this version knows {known})",
        data.display(),
        by.as_ref().map_or_else(|| "a newer version".to_owned(), |by| format!("tidegate {by}"))
    )]
    Newer {
        /// The data folder.
        data: PathBuf,
        /// Its form.
        found: u32,
        /// The newest form that this version knows.
        known: u32,
        /// The version that wrote it, if it says so.
        by: Option<String>,
    },
    /// The control socket cannot be opened.
    #[error("failed to listen on {}", path.display())]
    Listen {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// There is no fleet to take over from, or it did not hand over.
    #[error("failed to take over from the running fleet: {why}")]
    TakeOver {
        /// What went wrong.
        why: String,
    },
}

impl FleetError {
    pub(crate) fn disk(
        operation: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(std::io::Error) -> FleetError {
        let path = path.into();
        move |source| FleetError::Disk { operation, path, source }
    }

    /// Whether the disk was full.
    pub(crate) fn is_disk_full(&self) -> bool {
        matches!(self, FleetError::Disk { source, .. } if is_full(source))
    }
}

/// Whether the system said that there is no room, in general or for this user.
pub(crate) fn is_full(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded)
}

//! The data directory.

use super::{Check, ServerSeen};
use crate::backup::UNFINISHED;
use crate::owner::AnotherUser;
use crate::serve::ServeError;
use crate::{format, home, standby};
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use tidegate_core::causes;
use tidegate_core::units::Timestamp;
use tidegate_fleet::protocol::Protocols;
use tidegate_fleet::{ClientError, FleetClient, FleetConfig};
use tidegate_store::{OpenError, SqliteStore, Store};

/// With less free than this, in bytes, nothing can be kept.
const FREE_FAIL_BYTES: u64 = 64 << 20;
/// With less free than this, in bytes, the reserves (112 MiB) and a build (256 MiB) do not fit.
const FREE_WARN_BYTES: u64 = 512 << 20;
/// The fewest free files on a disk.
const FILES_MIN: u64 = 10_000;
/// What to do about a store that a newer version has written.
const NO_WAY_BACK: &str = "install that version again, or a newer one; none goes back";

pub(super) fn writable(data: &Path) -> Check {
    const NAME: &str = "data-directory";
    let path = data.join(format!(".doctor-{}", std::process::id()));
    let write = || -> io::Result<()> {
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        file.write_all(b"x")?;
        file.sync_all()
    };
    let written = write();
    let _ = fs::remove_file(&path);
    match written {
        Ok(()) => Check::ok(NAME, format!("{} can be written", data.display())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let mend = "it is made when a server starts on it; look whether the name is right";
            Check::fail(NAME, format!("{} is not there", data.display()), mend)
        }
        Err(error) => Check::fail(
            NAME,
            format!("{} cannot be written: {error}", data.display()),
            "the server's user has to own it, and its disk must be mounted for writing and have room (mount, df)",
        ),
    }
}

pub(super) fn of_another_user(error: &AnotherUser) -> Check {
    Check::fail(
        "data-directory",
        error.to_string(),
        "run the doctor as that user: others cannot see what is there",
    )
}

/// Whether what is secret is its owner's alone, and everything is the same user's. Root may look on behalf of the server's user.
pub(super) fn private(data: &Path) -> Check {
    const NAME: &str = "permissions";
    let Ok(owner) = fs::metadata(data).map(|metadata| metadata.uid()) else {
        return Check::ok(NAME, "not looked at: there is no data directory");
    };
    let mut wrong = Vec::new();
    let names = [
        "",
        "store",
        "keys",
        "keys/signing.key",
        "secrets",
        "tokens.json",
        "admin-token",
        "commands",
        "fleet",
    ];
    for name in names {
        let path = if name.is_empty() { data.to_owned() } else { data.join(name) };
        let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
        let mode = metadata.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            wrong.push(format!("{} has mode {mode:o}", path.display()));
        }
        let uid = metadata.uid();
        if uid != owner {
            wrong
                .push(format!("{} belongs to user {uid}, and the data directory to {owner}", path.display()));
        }
    }
    if wrong.is_empty() {
        return Check::ok(NAME, "what is secret is its owner's alone");
    }
    let mend = "end the server, run 'chmod -R go-rwx DIR', give everything to the server's user ('chown -R'), and start it again";
    Check::fail(NAME, wrong.join("; "), mend)
}

pub(super) fn disk(data: &Path) -> Check {
    const NAME: &str = "disk";
    // Of a folder that is still to be made, the one above it counts.
    let Some(disk) = data.ancestors().find_map(|folder| rustix::fs::statvfs(folder).ok()) else {
        return Check::fail(
            NAME,
            format!("the disk of {} does not answer", data.display()),
            "look at mounts",
        );
    };
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    let seen = format!("{} MiB are free for {}", free >> 20, data.display());
    let mend = "free some space, or give it a larger disk; 'tidegate gc --dry-run' says what can go";
    if free < FREE_FAIL_BYTES {
        return Check::fail(NAME, seen, mend);
    }
    if free < FREE_WARN_BYTES {
        return Check::warn(NAME, format!("{seen}: a build may not fit"), mend);
    }
    // Some file systems have no such number.
    if disk.f_files > 0 && disk.f_favail < FILES_MIN {
        return Check::warn(NAME, format!("{seen}, but only {} files can be made", disk.f_favail), mend);
    }
    Check::ok(NAME, seen)
}

pub(super) fn store(data: &Path, server: &Result<ServerSeen, String>) -> Check {
    const NAME: &str = "store";
    if data.join(UNFINISHED).exists() {
        let mend = "run 'tidegate restore' again, to its end";
        return Check::fail(NAME, "a restore was interrupted: what is there is not whole", mend);
    }
    let store = match SqliteStore::open_to_read(&data.join("store")) {
        Ok(store) => store,
        Err(OpenError::InUse { .. }) if server.is_ok() => {
            let standbys = match standby::waiting(data).len() {
                0 => String::new(),
                1 => ", and a standby waits".to_owned(),
                n => format!(", and {n} standbys wait"),
            };
            return Check::ok(NAME, format!("the server has it open{standbys}"));
        }
        Err(error @ OpenError::InUse { .. }) => {
            let mend = "look at that process and its log; if it hangs, end it with 'kill -9': a standby takes over, or start another";
            return Check::fail(NAME, format!("{error}, which does not answer"), mend);
        }
        Err(OpenError::Nothing { .. }) => return Check::ok(NAME, "there is none: no server has run here"),
        Err(error @ OpenError::Newer { .. }) => return Check::fail(NAME, causes(&error), NO_WAY_BACK),
        Err(error) => {
            let mend = "restore it from a backup (tidegate restore)";
            return Check::fail(NAME, causes(&error), mend);
        }
    };
    if let Err(error) = format::check_store(&store, &data.join("store")) {
        return Check::fail(NAME, causes(&error), NO_WAY_BACK);
    }
    match home::check(&store, false) {
        Ok(_) => Check::ok(NAME, "it can be read; 'tidegate log verify' reads all of it"),
        Err(error @ (ServeError::Restored | ServeError::Copied)) => {
            let mend = "if this one is to take over, start it once with 'serve --new-epoch'";
            Check::warn(NAME, error.to_string(), mend)
        }
        Err(error) => Check::fail(NAME, causes(&error), "look at the disk"),
    }
}

pub(super) async fn fleet(data: &Path, server: &Result<ServerSeen, String>) -> Check {
    const NAME: &str = "fleet";
    let client = FleetClient::new(FleetConfig::socket(&data.join("fleet")));
    match client.status().await {
        Ok(status) if Protocols::OWN.common(status.speaks()).is_none() => {
            let error = ClientError::Protocol { version: status.version.clone(), theirs: status.speaks() };
            Check::fail(NAME, error.to_string(), "until then its boxes run on and serve, and take no orders")
        }
        Ok(status) if status.version == env!("CARGO_PKG_VERSION") => {
            let deaf: Vec<String> = match client.endpoints().await {
                Ok(all) => all.iter().filter_map(deaf).collect(),
                Err(error) => vec![format!("its endpoints are not known: {}", causes(&error))],
            };
            if deaf.is_empty() {
                return Check::ok(
                    NAME,
                    format!("it runs as process {} with {} boxes", status.pid, status.boxes),
                );
            }
            let mend = "end what has the port ('ss -ltnp' shows it); the fleet goes on trying";
            Check::fail(NAME, deaf.join("; "), mend)
        }
        Ok(status) => Check::warn(
            NAME,
            format!("it runs version {}, and this is {}", status.version, env!("CARGO_PKG_VERSION")),
            "run 'tidegate fleet upgrade': no request fails",
        ),
        Err(error) if server.is_ok() => {
            let mend =
                "the server starts it again; if it does not, see fleet/fleet.log in the data directory";
            Check::fail(NAME, format!("it does not answer: {}", causes(&error)), mend)
        }
        Err(_) => Check::ok(NAME, "it does not run; a server starts it"),
    }
}

/// Why customers cannot call an endpoint, if they cannot.
fn deaf(endpoint: &tidegate_fleet::protocol::Endpoint) -> Option<String> {
    let why = endpoint.trouble.as_ref()?;
    Some(format!("nobody can call port {}: {why}", endpoint.port))
}

/// Whether there is a backup, and of when. The server says so, or where none runs its store.
pub(super) fn backup(data: &Path, server: &Result<ServerSeen, String>) -> Check {
    const NAME: &str = "backup";
    let never = || Check::warn(NAME, "there has never been one", "run 'tidegate backup FOLDER' every day");
    let made = |at: Timestamp| Check::ok(NAME, format!("the last one was made at {at}"));
    if let Ok(server) = server {
        return server.last_backup.map_or_else(never, made);
    }
    let Ok(store) = SqliteStore::open_to_read(&data.join("store")) else {
        return Check::ok(NAME, "not looked at: the store is in use, or there is none");
    };
    match store.meta(crate::backup::LAST) {
        Ok(at) => at.and_then(|at| at.parse().ok()).map(Timestamp).map_or_else(never, made),
        Err(error) => Check::fail(NAME, causes(&error), "look at the store first"),
    }
}

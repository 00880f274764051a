//! The local fleet: a process of its own that outlives the server. It is found again if it runs, and started if not: when the
//! server starts, and whenever the fleet has died alone. Its boxes live on without it, and it finds them again.

use crate::serve::Dirs;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tidegate_core::causes;
use tidegate_fleet::FleetConfig;
use tidegate_fleet::client::{ClientError, FleetClient};
use tidegate_fleet::protocol::Status;

/// How long a fleet that was started may take until it answers.
const START_MAX: Duration = Duration::from_secs(20);
/// Between two looks whether it answers.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// The fleet does not run, and cannot be started.
#[derive(Debug, thiserror::Error)]
#[error("failed to start the fleet: {why} (its log is {log})", log = log.display())]
pub struct FleetError {
    /// What is in the way.
    pub why: String,
    /// Where it says more.
    pub log: PathBuf,
}

/// Whether nobody listens where the fleet should: it has died. One that is slow to answer has not.
pub(crate) fn is_gone(error: &ClientError) -> bool {
    matches!(error, ClientError::Connect { source, .. }
        if matches!(source.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused))
}

/// Finds the fleet, or starts it; with what it says of itself, so that nobody has to ask one again that may have died since.
/// Two cannot run: the second ends at once.
///
/// # Errors
/// It cannot be started, or does not answer within [`START_MAX`].
pub(crate) async fn ensure(dirs: &Dirs) -> Result<(FleetClient, Status), FleetError> {
    let client = FleetClient::new(FleetConfig::socket(&dirs.fleet));
    if let Ok(status) = client.status().await {
        return Ok((client, status));
    }
    let log = dirs.fleet.join("fleet.log");
    let failed = |why: String| FleetError { why, log: log.clone() };
    let open = || fs::OpenOptions::new().create(true).append(true).mode(0o600).open(&log);
    let (out, err) = (open().map_err(|e| failed(causes(&e)))?, open().map_err(|e| failed(causes(&e)))?);
    // Not by its path: the file may have been replaced by a newer build.
    let mut child = Command::new("/proc/self/exe")
        .arg("fleet")
        .arg("run")
        .arg("--data")
        .arg(&dirs.fleet)
        .arg("--packages")
        .arg(&dirs.packages)
        .arg("--trusted-keys")
        .arg(dirs.trusted_keys())
        .stdin(Stdio::null())
        .stdout(out)
        .stderr(err)
        // A process group of its own: what interrupts the server on a terminal does not reach the fleet.
        .process_group(0)
        .spawn()
        .map_err(|e| failed(causes(&e)))?;
    let begun = Instant::now();
    let answers = loop {
        match client.status().await {
            Ok(status) => break Ok(status),
            Err(error) if begun.elapsed() > START_MAX => break Err(failed(error.to_string())),
            Err(_) => {}
        }
        if let Ok(Some(status)) = child.try_wait() {
            break Err(failed(format!("it ended with {status}")));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    };
    // Reaps it if it ends before the server does.
    std::thread::spawn(move || child.wait());
    answers.map(|status| (client, status))
}

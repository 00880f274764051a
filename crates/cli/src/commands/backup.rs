//! `tidegate backup`.

use crate::Global;
use crate::client::Client;
use crate::error::CliError;
use crate::text::{print, size};
use clap::Args;
use std::path::{Path, PathBuf};
use tidegate_api::{BackupLine, BackupMade, BackupRequest};

/// Make a backup while the server runs, in a new folder of its machine. Only administrators may.
///
/// It is of one moment and holds all that a control plane has to know to go on: the store, packages, keys, secrets, tokens, and
/// what the engines keep of their targets. Nothing waits for it. Only its owner can read it; it holds every secret. Its log is
/// read with 'tidegate log --data FOLDER', and it is brought back with 'tidegate restore'.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The new folder, outside of the data directory. The server has to be able to make it.
    into: PathBuf,
}

pub(crate) async fn run(global: &Global, options: Options) -> Result<(), CliError> {
    let made = make(&Client::new(global)?, &options.into).await?;
    if global.json {
        let text = serde_json::to_string(&made).map_err(|e| CliError::failed("write JSON", e))?;
        return print(&format!("{text}\n"));
    }
    print(&format!(
        "{}  {} files, {}; up to position {} of the log\n",
        made.into,
        made.files,
        size(made.bytes),
        made.position
    ))
}

async fn make(client: &Client, into: &Path) -> Result<BackupMade, CliError> {
    let into = std::path::absolute(into).map_err(|e| CliError::failed("find the folder's path", e))?;
    let into = into.to_str().ok_or_else(|| CliError::Usage("the folder's name is no UTF-8".to_owned()))?;
    let mut response = client.stream_post("/v1/backups", &BackupRequest { into: into.to_owned() }).await?;
    let mut text = Vec::new();
    while let Some(piece) = client.piece(&mut response).await? {
        text.extend_from_slice(&piece);
        while let Some(end) = text.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = text.drain(..=end).collect();
            let line = serde_json::from_slice(&line).map_err(|error| {
                CliError::failed("read the server's answer (is it another version?)", error)
            })?;
            match line {
                BackupLine::Working { .. } => {}
                BackupLine::Made(made) => return Ok(made),
                BackupLine::Failed(error) => return Err(CliError::Answered(Box::new(error))),
            }
        }
    }
    Err(CliError::Unreachable("the server ended before the backup did".to_owned()))
}

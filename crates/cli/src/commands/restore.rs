//! `tidegate restore`.

use crate::Global;
use crate::error::CliError;
use crate::text::{print, size};
use clap::Args;
use std::path::PathBuf;
use tidegate_server::backup::restore;

/// Bring a backup back into a data directory (--data) on which no server runs.
///
/// Every file is compared with what was recorded, and the log is verified, before anything is written. The data directory must be
/// empty, but for what the engines of this machine keep (the folders fleet and commands) and packages: they are newer than any
/// backup, and stay as they are.
///
/// The server then starts only with 'serve --new-epoch': from then on engines take commands from it and from no server before
/// it. What was decided after the backup is not known any more: boxes run on with what they have, approvals and holds have to
/// be given again, and commits that were merged since go through every step again.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The backup's folder.
    from: PathBuf,
}

pub(crate) async fn run(global: &Global, options: Options) -> Result<(), CliError> {
    let data = global.data.clone().ok_or_else(|| CliError::Usage("where to? give --data DIR".to_owned()))?;
    let restoring = tokio::task::spawn_blocking(move || restore(&options.from, &data));
    let restored = restoring
        .await
        .map_err(|error| CliError::failed("restore the backup", error))?
        .map_err(|error| CliError::told(error.told(), "restore the backup", error))?;
    if global.json {
        let text = serde_json::to_string(&restored).map_err(|e| CliError::failed("write JSON", e))?;
        return print(&format!("{text}\n"));
    }
    let data = restored.data.display();
    print(&format!(
        "{data}  {} files, {}, as of {} (position {} of the log)\n",
        restored.files,
        size(restored.bytes),
        restored.made_at,
        restored.position
    ))?;
    if restored.engines_stay {
        eprintln!("tidegate: what this machine's engines keep of their targets was there, and stays");
    }
    eprintln!("tidegate: start it with 'tidegate serve --data {data} --new-epoch'");
    Ok(())
}

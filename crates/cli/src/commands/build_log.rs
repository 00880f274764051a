//! `tidegate build-log`.

use crate::Global;
use crate::client::Client;
use crate::error::CliError;
use crate::text::print;
use clap::Args;
use tidegate_core::ids::{PipelineId, ReleaseNo};

/// Print the output of a release's build, as far as it has come.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The pipeline.
    pipeline: PipelineId,
    /// The release, such as r7.
    release: ReleaseNo,
}

pub(crate) async fn run(global: &Global, options: Options) -> Result<(), CliError> {
    let client = Client::new(global)?;
    let path = format!("/v1/builds/{}/{}/log", options.pipeline, options.release);
    let mut response = client.stream(&path, None).await?;
    while let Some(piece) = client.piece(&mut response).await? {
        // A build's output is a stranger's text: it does not get to move the cursor.
        let text: String = String::from_utf8_lossy(&piece)
            .chars()
            .map(|c| if c.is_control() && c != '\n' && c != '\t' { ' ' } else { c })
            .collect();
        print(&text)?;
    }
    Ok(())
}

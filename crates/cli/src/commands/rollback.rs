//! `tidegate rollback`.

use super::tell_done;
use crate::Global;
use crate::client::Client;
use crate::error::CliError;
use clap::Args;
use tidegate_api::RollbackRequest;
use tidegate_core::ids::{PipelineId, ReleaseNo};

/// Reject a release and take it back: every target of every unfinished wave that runs it returns at once.
///
/// Nothing holds a rollback. Its changes do not come in again by themselves.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The pipeline.
    pipeline: PipelineId,
    /// The release, such as r7.
    release: ReleaseNo,
    /// Why.
    #[arg(long)]
    reason: String,
    /// Waves that have finished return as well.
    #[arg(long)]
    everywhere: bool,
}

pub(crate) async fn run(global: &Global, options: Options) -> Result<(), CliError> {
    let request =
        RollbackRequest { release: options.release, reason: options.reason, everywhere: options.everywhere };
    let path = format!("/v1/pipelines/{}/rollbacks", options.pipeline);
    tell_done(global, &Client::new(global)?.post(&path, &request).await?)
}

//! `tidegate unskip`.

use super::tell_done;
use crate::Global;
use crate::client::Client;
use crate::error::CliError;
use clap::Args;
use tidegate_core::ids::PipelineId;

/// Let a Region that was skipped take part again: it catches up through its own steps.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The pipeline.
    pipeline: PipelineId,
    /// The skip's number.
    skip: u64,
}

pub(crate) async fn run(global: &Global, options: Options) -> Result<(), CliError> {
    let path = format!("/v1/pipelines/{}/skips/{}", options.pipeline, options.skip);
    tell_done(global, &Client::new(global)?.delete(&path).await?)
}

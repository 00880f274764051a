//! `tidegate unhold`.

use super::tell_done;
use crate::Global;
use crate::client::Client;
use crate::error::CliError;
use clap::Args;
use tidegate_core::ids::PipelineId;

/// Lift a hold of a pipeline.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The pipeline.
    pipeline: PipelineId,
    /// The hold's number.
    hold: u64,
}

pub(crate) async fn run(global: &Global, options: Options) -> Result<(), CliError> {
    let path = format!("/v1/pipelines/{}/holds/{}", options.pipeline, options.hold);
    tell_done(global, &Client::new(global)?.delete(&path).await?)
}

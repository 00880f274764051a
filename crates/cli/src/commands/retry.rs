//! `tidegate retry`.

use super::tell_done;
use crate::Global;
use crate::client::Client;
use crate::error::CliError;
use clap::Args;
use tidegate_api::RetryRequest;
use tidegate_core::ids::{PipelineId, ReleaseNo};

/// Try a failed build again, or let a rejected release and its changes go on.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The pipeline.
    pipeline: PipelineId,
    /// The release, such as r7.
    release: ReleaseNo,
    /// Why.
    #[arg(long)]
    reason: String,
}

pub(crate) async fn run(global: &Global, options: Options) -> Result<(), CliError> {
    let request = RetryRequest { release: options.release, reason: options.reason };
    let path = format!("/v1/pipelines/{}/retries", options.pipeline);
    tell_done(global, &Client::new(global)?.post(&path, &request).await?)
}

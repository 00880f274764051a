//! `tidegate retire`.

use super::tell_done;
use crate::Global;
use crate::client::Client;
use crate::error::CliError;
use clap::Args;
use tidegate_api::RetireRequest;
use tidegate_core::ids::PipelineId;

/// Delete a pipeline. Only administrators may.
///
/// Rollbacks that are under way finish; builds, tests and deployments are cancelled; boxes run on as they are. Its history
/// stays. Applying its definition again revives it: what was left half way is taken back, and comes again through the gates.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The pipeline.
    pipeline: PipelineId,
    /// Why.
    #[arg(long)]
    reason: String,
}

pub(crate) async fn run(global: &Global, options: Options) -> Result<(), CliError> {
    let request = RetireRequest { reason: options.reason };
    let path = format!("/v1/pipelines/{}", options.pipeline);
    tell_done(global, &Client::new(global)?.delete_with(&path, &request).await?)
}

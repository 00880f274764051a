//! `tidegate hold`.

use super::tell_done;
use crate::Global;
use crate::client::Client;
use crate::error::CliError;
use clap::Args;
use tidegate_api::HoldRequest;
use tidegate_core::ids::{PipelineId, StageId};
use tidegate_core::units::Span;

/// Hold a pipeline: no release enters a step until the hold is lifted. What is under way goes on, and so do rollbacks.
///
/// Prints the hold's number. Several holds may stand; all must be lifted.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The pipeline.
    pipeline: PipelineId,
    /// Why.
    #[arg(long)]
    reason: String,
    /// After which time it ends by itself, such as 2h.
    #[arg(long = "for", value_name = "SPAN")]
    lasts: Option<Span>,
    /// Only this stage, such as wave-1.
    #[arg(long)]
    stage: Option<StageId>,
}

pub(crate) async fn run(global: &Global, options: Options) -> Result<(), CliError> {
    let request = HoldRequest { reason: options.reason, expires_in: options.lasts, stage: options.stage };
    let path = format!("/v1/pipelines/{}/holds", options.pipeline);
    tell_done(global, &Client::new(global)?.post(&path, &request).await?)
}

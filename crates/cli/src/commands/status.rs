//! `tidegate status`.

use crate::Global;
use crate::client::{Client, query};
use crate::error::CliError;
use crate::render;
use crate::text::Paint;
use clap::Args;
use tidegate_api::Status;
use tidegate_core::ids::PipelineId;

/// Show what is so now: every release, step and target, and beside each the reason why it is not further.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Only this pipeline.
    pipeline: Option<PipelineId>,
    /// Only pipelines after this one, when there are too many for one answer.
    #[arg(long, conflicts_with = "pipeline")]
    after: Option<PipelineId>,
}

pub(crate) async fn run(global: &Global, options: Options) -> Result<(), CliError> {
    let pairs = [
        ("pipeline", options.pipeline.map(|p| p.to_string())),
        ("after", options.after.map(|p| p.to_string())),
    ];
    let answer = Client::new(global)?.get::<Status>(&format!("/v1/status{}", query(&pairs))).await?;
    answer.tell(global, |status| render::status(status, Paint::stdout()))
}

//! `tidegate why`.

use crate::Global;
use crate::client::{Client, query};
use crate::error::CliError;
use crate::render;
use crate::text::Paint;
use clap::Args;
use tidegate_api::WhyAnswer;
use tidegate_core::ids::PipelineId;

/// Say where a commit is, and why it is not further.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The beginning of the commit's name.
    commit: String,
    /// Only in this pipeline.
    #[arg(long)]
    pipeline: Option<PipelineId>,
}

pub(crate) async fn run(global: &Global, options: Options) -> Result<(), CliError> {
    if options.commit.is_empty() || !options.commit.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(CliError::Usage(format!("'{}' is not the beginning of a commit's name", options.commit)));
    }
    let commit = options.commit.to_ascii_lowercase();
    let pairs = [("pipeline", options.pipeline.map(|p| p.to_string()))];
    let path = format!("/v1/why/{commit}{}", query(&pairs));
    let answer = Client::new(global)?.get::<WhyAnswer>(&path).await?;
    answer.tell(global, |why| render::why(why, Paint::stdout()))
}

//! `tidegate log`.

use crate::Global;
use crate::client::{Client, query};
use crate::error::CliError;
use crate::render;
use crate::text::Paint;
use clap::Args;
use tidegate_api::{LogPage, LogVerified};
use tidegate_core::ids::PipelineId;

/// Show what happened, who or what caused it, and when; oldest first.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Only this pipeline.
    pipeline: Option<PipelineId>,
    /// From the entry after this position; without it the newest are shown.
    #[arg(long, value_name = "POSITION")]
    after: Option<u64>,
    /// How many entries, 1,000 at most.
    #[arg(long, default_value_t = 100)]
    limit: usize,
    /// Instead of showing it: check that nobody has changed the log, and that it adds up to what is stored.
    #[arg(long, conflicts_with_all = ["pipeline", "after", "limit"])]
    verify: bool,
}

pub(crate) async fn run(global: &Global, options: Options) -> Result<(), CliError> {
    let client = Client::new(global)?;
    if options.verify {
        let answer = client.get::<LogVerified>("/v1/log/verify").await?;
        return answer.tell(global, |v| {
            format!("the log is in order: {} facts of {} aggregates\n", v.facts, v.aggregates)
        });
    }
    let pairs = [
        ("pipeline", options.pipeline.map(|p| p.to_string())),
        ("after", options.after.map(|p| p.to_string())),
        ("limit", Some(options.limit.to_string())),
    ];
    let answer = client.get::<LogPage>(&format!("/v1/log{}", query(&pairs))).await?;
    answer.tell(global, |page| {
        page.entries.iter().map(|e| render::entry(e, render::Moment::Day, Paint::stdout())).collect()
    })
}

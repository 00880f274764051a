//! `tidegate skip`.

use super::tell_done;
use crate::Global;
use crate::client::Client;
use crate::error::CliError;
use clap::Args;
use tidegate_api::SkipRequest;
use tidegate_core::ids::{EnvironmentId, PipelineId, RegionId, ReleaseNo};

/// Leave a Region out: releases start in the other Regions of a wave without it.
///
/// What runs in the Region stays, and what is under way there goes on. Prints the skip's number. When the skip is lifted,
/// the Region catches up through its own steps, one AZ at a time, with the release that is everywhere else or with the
/// next one. A wave needs at least one Region: while all of its Regions are skipped, releases wait before it.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The pipeline.
    pipeline: PipelineId,
    /// The Region.
    region: RegionId,
    /// Why.
    #[arg(long)]
    reason: String,
    /// Only this release, such as r7; without it, every release until the skip is lifted.
    #[arg(long)]
    release: Option<ReleaseNo>,
    /// The environment that the Region is skipped in.
    #[arg(long, default_value = "production")]
    environment: EnvironmentId,
}

pub(crate) async fn run(global: &Global, options: Options) -> Result<(), CliError> {
    let Options { pipeline, region, reason, release, environment } = options;
    let request = SkipRequest { region, environment: Some(environment), release, reason };
    let path = format!("/v1/pipelines/{pipeline}/skips");
    tell_done(global, &Client::new(global)?.post(&path, &request).await?)
}

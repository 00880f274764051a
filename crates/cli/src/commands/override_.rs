//! `tidegate override`.

use super::tell_done;
use crate::Global;
use crate::client::Client;
use crate::error::CliError;
use clap::{Args, ValueEnum};
use tidegate_api::OverrideRequest;
use tidegate_core::ids::{PipelineId, ReleaseNo};
use tidegate_core::pipeline;
use tidegate_core::plan::StepId;
use tidegate_core::units::Span;

/// Let one release pass blockers, for a reason and for a time.
///
/// Never opens review, order, leases, capacity or the ban on rejected changes.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The pipeline.
    pipeline: PipelineId,
    /// The release, such as r7.
    release: ReleaseNo,
    /// What it may pass; may be given more than once.
    #[arg(long = "blocker", required = true)]
    blockers: Vec<Blocker>,
    /// At which step, such as wave-1/one-box; may be given more than once; at all steps if it is not.
    #[arg(long = "step")]
    steps: Vec<String>,
    /// After which time it ends, such as 1h.
    #[arg(long = "for", value_name = "SPAN")]
    lasts: Span,
    /// Why.
    #[arg(long)]
    reason: String,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Blocker {
    /// The team's time window.
    Window,
    /// The team's aggregate alarm.
    AggregateAlarm,
    /// The organisation's alarms.
    OrganisationAlarm,
    /// Holds.
    Hold,
}

impl From<Blocker> for pipeline::Blocker {
    fn from(blocker: Blocker) -> pipeline::Blocker {
        match blocker {
            Blocker::Window => pipeline::Blocker::Window,
            Blocker::AggregateAlarm => pipeline::Blocker::AggregateAlarm,
            Blocker::OrganisationAlarm => pipeline::Blocker::OrganisationAlarm,
            Blocker::Hold => pipeline::Blocker::Hold,
        }
    }
}

pub(crate) async fn run(global: &Global, options: Options) -> Result<(), CliError> {
    let request = OverrideRequest {
        release: options.release,
        blockers: options.blockers.into_iter().map(Into::into).collect(),
        steps: options.steps.into_iter().map(StepId::from).collect(),
        reason: options.reason,
        expires_in: options.lasts,
    };
    let path = format!("/v1/pipelines/{}/overrides", options.pipeline);
    tell_done(global, &Client::new(global)?.post(&path, &request).await?)
}

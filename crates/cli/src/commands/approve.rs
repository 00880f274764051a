//! `tidegate approve`.

use super::tell_done;
use crate::Global;
use crate::client::Client;
use crate::error::CliError;
use clap::Args;
use tidegate_api::ApprovalRequest;
use tidegate_core::ids::TeamId;

/// Approve exactly one commit, as a member of the team who has read it and did not write it.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The commit's full name, or at least 7 digits of one that is on the mainline.
    commit: String,
    /// The team; needed by members of several.
    #[arg(long)]
    team: Option<TeamId>,
}

pub(crate) async fn run(global: &Global, options: Options) -> Result<(), CliError> {
    let request = ApprovalRequest { commit: options.commit, team: options.team };
    tell_done(global, &Client::new(global)?.post("/v1/approvals", &request).await?)
}

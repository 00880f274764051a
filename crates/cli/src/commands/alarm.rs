//! `tidegate alarm`: alarms of the whole organisation.

use super::tell_done;
use crate::Global;
use crate::client::Client;
use crate::error::CliError;
use clap::{Args, Subcommand};
use tidegate_api::AlarmRequest;
use tidegate_core::alarm::AlarmName;

/// Raise or clear an alarm of the whole organisation: while one is raised, nothing starts anywhere.
///
/// What is under way goes on, and rollbacks are not held. Only administrators may.
#[derive(Debug, Args)]
pub(crate) struct Options {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Raise it, such as for a large-scale event.
    Set {
        /// Its name, such as large-scale-event.
        name: AlarmName,
        /// Why; everybody who waits reads it.
        #[arg(long)]
        reason: String,
    },
    /// Clear it; what waited for it starts.
    Clear {
        /// Its name.
        name: AlarmName,
    },
}

pub(crate) async fn run(global: &Global, options: Options) -> Result<(), CliError> {
    let client = Client::new(global)?;
    let answer = match options.action {
        Action::Set { name, reason } => {
            client.put(&format!("/v1/alarms/{name}"), &AlarmRequest { reason }).await?
        }
        Action::Clear { name } => client.delete(&format!("/v1/alarms/{name}")).await?,
    };
    tell_done(global, &answer)
}

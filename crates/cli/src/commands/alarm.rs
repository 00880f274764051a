//! `tidegate alarm`: alarms of the whole organisation, and words on those from outside.

use super::tell_done;
use crate::Global;
use crate::client::Client;
use crate::error::CliError;
use clap::{Args, Subcommand};
use tidegate_api::{AlarmRequest, ReportRequest};
use tidegate_core::alarm::{AlarmName, AlarmState};
use tidegate_core::ids::{InvalidId, TeamId};
use tidegate_core::scope::Scope;
use tidegate_core::units::Span;

/// Raise or clear an alarm of the whole organisation, or say in which state a team's alarm from outside is.
///
/// While an alarm of the organisation is raised, nothing starts anywhere. What is under way goes on, and rollbacks are not held.
/// Only administrators may raise and clear. A team's alarm from outside is one that a service's definition names under
/// 'outside'; members of the team may say its state, which counts for the alarm's time to live and is INSUFFICIENT_DATA after it.
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
    /// Say in which state a team's alarm from outside is.
    Report {
        /// The team.
        team: TeamId,
        /// Where, as environment/region.
        #[arg(value_parser = place)]
        place: Scope,
        /// The alarm.
        name: AlarmName,
        /// Its state.
        state: Said,
        /// Why; it stands beside the state, and in the cause of a rollback.
        #[arg(long)]
        why: String,
        /// How long it counts, such as 2m, if shorter than the alarm's time to live.
        #[arg(long)]
        ttl: Option<Span>,
    },
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Said {
    Ok,
    Alarm,
    InsufficientData,
}

impl From<Said> for AlarmState {
    fn from(said: Said) -> AlarmState {
        match said {
            Said::Ok => AlarmState::Ok,
            Said::Alarm => AlarmState::Alarm,
            Said::InsufficientData => AlarmState::InsufficientData,
        }
    }
}

fn place(text: &str) -> Result<Scope, InvalidId> {
    Scope::try_from(text.to_owned())
}

pub(crate) async fn run(global: &Global, options: Options) -> Result<(), CliError> {
    let client = Client::new(global)?;
    let answer = match options.action {
        Action::Set { name, reason } => {
            client.put(&format!("/v1/alarms/{name}"), &AlarmRequest { reason }).await?
        }
        Action::Clear { name } => client.delete(&format!("/v1/alarms/{name}")).await?,
        Action::Report { team, place, name, state, why, ttl } => {
            let request = ReportRequest { state: state.into(), why, at: None, ttl };
            client.put(&format!("/v1/teams/{team}/alarms/{place}/{name}"), &request).await?
        }
    };
    tell_done(global, &answer)
}

//! `tidegate token`.

use crate::Global;
use crate::client::Client;
use crate::error::CliError;
use clap::{Args, Subcommand};
use tidegate_api::{TokenCreated, TokenRequest};
use tidegate_core::ids::UserId;

/// Make tokens. Only administrators may.
#[derive(Debug, Args)]
pub(crate) struct Options {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Make a token for a user of the organisation, and print it. It is shown this once.
    Create {
        /// The user.
        user: UserId,
    },
}

pub(crate) async fn run(global: &Global, options: Options) -> Result<(), CliError> {
    let Action::Create { user } = options.action;
    let client = Client::new(global)?;
    let answer = client.post::<TokenCreated>("/v1/tokens", &TokenRequest { user }).await?;
    answer.tell(global, |created| format!("{}\n", created.token))
}

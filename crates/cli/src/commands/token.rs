//! `tidegate token`.

use super::tell_done;
use crate::Global;
use crate::client::Client;
use crate::error::CliError;
use clap::{Args, Subcommand};
use tidegate_api::{TokenCreated, TokenRequest};
use tidegate_core::ids::UserId;

/// Make and revoke tokens. Only administrators may.
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
    /// Revoke all tokens of a user: they open nothing any more, from the next request on.
    Revoke {
        /// The user.
        user: UserId,
    },
}

pub(crate) async fn run(global: &Global, options: Options) -> Result<(), CliError> {
    let client = Client::new(global)?;
    match options.action {
        Action::Create { user } => {
            let answer = client.post::<TokenCreated>("/v1/tokens", &TokenRequest { user }).await?;
            answer.tell(global, |created| format!("{}\n", created.token))
        }
        Action::Revoke { user } => tell_done(global, &client.delete(&format!("/v1/tokens/{user}")).await?),
    }
}

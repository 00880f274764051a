//! `tidegate secret`.

use crate::Global;
use crate::client::Client;
use crate::commands::tell_done;
use crate::error::CliError;
use clap::{Args, Subcommand};
use std::io::{IsTerminal, Read};
use tidegate_api::{Done, SecretNames, SecretRequest};
use tidegate_core::ids::SecretName;

/// The longest value that is read, in bytes; the server takes less.
const VALUE_MAX_BYTES: u64 = 1 << 20;

/// Keep secrets that definitions name: for git, for builds, for boxes. Only administrators may; no value is ever shown.
#[derive(Debug, Args)]
pub(crate) struct Options {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Keep the value that is read from standard input, such as `tidegate secret set git < key`.
    Set {
        /// Lower-case letters, digits and '-'.
        name: SecretName,
    },
    /// Show the names that are kept.
    List,
    /// Forget a secret.
    Remove {
        /// Its name.
        name: SecretName,
    },
}

pub(crate) async fn run(global: &Global, options: Options) -> Result<(), CliError> {
    let client = Client::new(global)?;
    match options.action {
        Action::Set { name } => {
            let value = read_value()?;
            let answer = client.put::<Done>(&format!("/v1/secrets/{name}"), &SecretRequest { value }).await?;
            tell_done(global, &answer)
        }
        Action::List => {
            let answer = client.get::<SecretNames>("/v1/secrets").await?;
            answer.tell(global, |secrets| secrets.names.iter().map(|name| format!("{name}\n")).collect())
        }
        Action::Remove { name } => {
            let answer = client.delete::<Done>(&format!("/v1/secrets/{name}")).await?;
            tell_done(global, &answer)
        }
    }
}

fn read_value() -> Result<String, CliError> {
    let stdin = std::io::stdin();
    if stdin.is_terminal() {
        eprintln!("the value, ended by Ctrl-D on a line of its own (what you type is seen):");
    }
    let mut value = String::new();
    let read = stdin.lock().take(VALUE_MAX_BYTES).read_to_string(&mut value);
    read.map_err(|error| CliError::failed("read the secret from standard input", error))?;
    Ok(value)
}

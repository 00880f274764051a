//! `tidegate packages`.

use crate::Global;
use crate::client::Client;
use crate::error::CliError;
use clap::{Args, Subcommand};
use tidegate_api::PackagesVerified;

/// Look after packages.
#[derive(Debug, Args)]
pub(crate) struct Options {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Read every package and compare it with its digest and its signature. Fails if one is not what it says.
    Verify,
}

pub(crate) async fn run(global: &Global, options: Options) -> Result<(), CliError> {
    let Action::Verify = options.action;
    let answer = Client::new(global)?.get::<PackagesVerified>("/v1/packages/verify").await?;
    answer.tell(global, |verified| {
        let bad: String = verified.bad.iter().map(|b| format!("BAD {}  {}\n", b.package, b.why)).collect();
        format!("{bad}{} packages are in order, {} are not\n", verified.good, verified.bad.len())
    })?;
    match answer.value.bad.len() {
        0 => Ok(()),
        bad => Err(CliError::Failed {
            what: "verify all packages".to_owned(),
            why: format!(
                "{bad} are not what they say; no box starts from them, and a new build replaces them"
            ),
        }),
    }
}

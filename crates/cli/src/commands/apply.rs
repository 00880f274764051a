//! `tidegate apply`.

use crate::Global;
use crate::client::{Answer, Client};
use crate::error::CliError;
use clap::Args;
use std::path::{Path, PathBuf};
use tidegate_api::Applied;

/// Apply definitions: the organisation's and pipelines', as JSON files. The organisation's goes first, whatever the order.
///
/// Each file is taken as a whole or not at all; the first that is refused ends the command, and what was applied before it
/// stays. Editing a definition redeploys nothing by itself.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The files; '-' is stdin.
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Only look whether they would be taken.
    #[arg(long)]
    dry_run: bool,
}

pub(crate) async fn run(global: &Global, options: Options) -> Result<(), CliError> {
    let client = Client::new(global)?;
    let mut documents = Vec::new();
    for file in &options.files {
        let text = read(file).map_err(|e| CliError::failed(format!("read {}", file.display()), e))?;
        documents.push((!is_organisation(&text), file, text));
    }
    // Pipelines live in the organisation; among themselves they keep the order in which they were given.
    documents.sort_by_key(|(pipeline, _, _)| *pipeline);
    for (pipeline, file, text) in documents {
        let path = if pipeline { "/v1/pipelines" } else { "/v1/organisation" };
        let dry_run = if options.dry_run { "?dry_run=true" } else { "" };
        let answer: Answer<Applied> = match client.put_text(&format!("{path}{dry_run}"), text).await {
            Ok(answer) => answer,
            Err(CliError::Answered(error)) => {
                return Err(CliError::Refused { file: file.display().to_string(), error });
            }
            Err(error) => return Err(error),
        };
        answer.tell(global, |applied| {
            let what = match (applied.changed, applied.dry_run) {
                (true, true) => "would be changed",
                (true, false) => "applied",
                (false, _) => "unchanged",
            };
            format!("{}  {what} ({})\n", applied.name, file.display())
        })?;
    }
    Ok(())
}

fn read(file: &Path) -> std::io::Result<String> {
    if file == Path::new("-") {
        std::io::read_to_string(std::io::stdin())
    } else {
        std::fs::read_to_string(file)
    }
}

/// By its schema's name, also if the document is broken elsewhere: the server says what is wrong.
fn is_organisation(text: &str) -> bool {
    text.contains("\"tidegate.organisation/")
}

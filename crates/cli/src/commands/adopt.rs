//! `tidegate adopt`.

use crate::Global;
use crate::client::Client;
use crate::error::CliError;
use crate::text::clean;
use clap::Args;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use tidegate_api::{AdoptRequest, Adopted};
use tidegate_core::ids::{EnvironmentId, PipelineId, TargetId};

/// Hand over a service that runs already: it becomes release 0, and nothing is deployed. Only administrators may.
///
/// The pipeline's definition is applied before, and none of its releases has been deployed. The folder has what runs, laid out as
/// the pipeline's package is (a clone of a repository is not): it is kept as a package, so that a rollback has something real to
/// return to. Refused is what could not be returned to: a process that runs other bytes than the folder's, boxes of another number
/// than the definition's, a part of an environment without the rest, or an 'observe' of the team that shows something else.
///
/// For a pipeline with processes, name each box's process: it goes on as it is, tidegate looks after it, and requests reach it
/// through the service's endpoint (see 'tidegate endpoints'). For a pipeline with commands, the team's 'observe' says what runs.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The pipeline.
    pipeline: PipelineId,
    /// The folder with what runs, on the server's machine.
    #[arg(long, value_name = "DIR")]
    folder: PathBuf,
    /// A box of a pipeline with processes, such as web/production/north/a/main=4711:8080; the port may be left out if there is
    /// only one. Once for each box.
    #[arg(long = "box", value_name = "TARGET=PID[:PORT]", value_parser = named_box)]
    boxes: Vec<(TargetId, String)>,
    /// Of a pipeline with commands: only this environment's targets. May be given several times.
    #[arg(long = "environment", value_name = "NAME", conflicts_with = "boxes")]
    environments: Vec<EnvironmentId>,
    /// Take it on your word that the processes run what the folder has, where the server cannot see it: such as a program that
    /// a script of the folder has started from elsewhere.
    #[arg(long)]
    unproven: bool,
    /// Why.
    #[arg(long)]
    reason: String,
    /// Only look whether it would be taken over, and what would be.
    #[arg(long)]
    dry_run: bool,
}

fn named_box(text: &str) -> Result<(TargetId, String), String> {
    let (target, process) = text.split_once('=').ok_or("write TARGET=PID or TARGET=PID:PORT")?;
    let target = target.parse::<TargetId>().map_err(|error| error.to_string())?;
    Ok((target, process.to_owned()))
}

pub(crate) async fn run(global: &Global, options: Options) -> Result<(), CliError> {
    let folder = std::path::absolute(&options.folder)
        .map_err(|error| CliError::failed(format!("find {}", options.folder.display()), error))?;
    let mut processes: BTreeMap<TargetId, Vec<String>> = BTreeMap::new();
    for (target, process) in options.boxes {
        processes.entry(target).or_default().push(process);
    }
    let request = AdoptRequest {
        folder: folder.to_string_lossy().into_owned(),
        processes,
        environments: options.environments.into_iter().collect::<BTreeSet<_>>(),
        unproven: options.unproven,
        reason: options.reason,
        dry_run: options.dry_run,
    };
    let path = format!("/v1/pipelines/{}/adopt", options.pipeline);
    Client::new(global)?.post::<Adopted>(&path, &request).await?.tell(global, told)
}

fn told(adopted: &Adopted) -> String {
    let mut text = String::new();
    for target in &adopted.targets {
        for each in &target.boxes {
            text.push_str(&format!("{}  {}\n", target.target, clean(each)));
        }
    }
    let what = if adopted.dry_run { "would be" } else { "is" };
    let package = adopted.package.short();
    text.push_str(&format!(
        "this {what} {} of {} (package {package}); nothing ",
        adopted.release, adopted.pipeline
    ));
    text.push_str(if adopted.dry_run { "was changed\n" } else { "was deployed\n" });
    for note in &adopted.notes {
        text.push_str(&format!("note: {}\n", clean(note)));
    }
    text
}

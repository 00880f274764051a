//! `tidegate apply`.

use crate::Global;
use crate::client::{Answer, Client};
use crate::error::CliError;
use crate::folder::Folder;
use crate::text::clean;
use clap::Args;
use std::path::{Path, PathBuf};
use tidegate_api::{AllApplied, Definitions, ErrorBody, Finding};
use tidegate_core::lint;

/// Apply definitions: the organisation's and pipelines', as JSON files or as folders of TypeScript, in any order.
///
/// All that is given is taken together or not at all: pipelines are judged against the organisation that comes with them, and a
/// new organisation against every pipeline that is on the server. Editing a definition redeploys nothing by itself.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The files and folders; '-' is stdin.
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Only look whether they would be taken.
    #[arg(long)]
    dry_run: bool,
}

/// A definition as it is sent.
struct Definition {
    /// Where it is written, for people.
    name: String,
    text: String,
    /// The folder that it comes from, by its index, and its own index there.
    from: Option<(usize, usize)>,
}

pub(crate) async fn run(global: &Global, options: Options) -> Result<(), CliError> {
    let client = Client::new(global)?;
    let (mut given, mut folders) = (Vec::new(), Vec::new());
    for file in &options.files {
        if file.is_dir() {
            let folder = Folder::read(file)?;
            given.extend(of_folder(&folder, folders.len()));
            folders.push(folder);
            continue;
        }
        let text = read(file).map_err(|e| CliError::failed(format!("read {}", file.display()), e))?;
        given.push(Definition { name: file.display().to_string(), text, from: None });
    }
    // As the server takes them: pipelines live in the organisation. It is known by its schema's name, also if it is broken.
    given.sort_by_key(|definition| !definition.text.contains("\"tidegate.organisation/"));
    let dry_run = if options.dry_run { "?dry_run=true" } else { "" };
    let body = Definitions { definitions: given.iter().map(|definition| definition.text.clone()).collect() };
    let answer: Answer<AllApplied> = match client.put(&format!("/v1/definitions{dry_run}"), &body).await {
        Err(CliError::Answered(error)) => return Err(refused(&given, &folders, error)),
        answer => answer?,
    };
    answer.tell(global, |all| {
        let lines = all.applied.iter().zip(&given).map(|(applied, definition)| {
            let what = match (applied.changed, applied.dry_run) {
                (true, true) => "would be changed",
                (true, false) => "applied",
                (false, _) => "unchanged",
            };
            format!("{}  {what} ({})\n", applied.name, clean(&definition.name))
        });
        lines.collect()
    })
}

fn of_folder(folder: &Folder, index: usize) -> Vec<Definition> {
    let of = folder.made.documents.iter().enumerate().map(|(n, document)| Definition {
        name: folder.path.join(&document.file).display().to_string(),
        text: document.json.clone(),
        from: Some((index, n)),
    });
    of.collect()
}

/// The server's findings where people wrote what they are about: at the lines of TypeScript, or in the files of JSON.
fn refused(given: &[Definition], folders: &[Folder], error: Box<ErrorBody>) -> CliError {
    let of = |finding: &Finding| finding.definition.and_then(|n| given.get(n));
    if let Some((first, _)) = error.findings.first().and_then(|f| of(f)?.from) {
        let here = error.findings.iter().filter_map(|finding| {
            let (_, document) = of(finding)?.from.filter(|(folder, _)| *folder == first)?;
            let (place, message) = (finding.place.as_str(), finding.message.as_str());
            Some((document, lint::Finding::new(&finding.code, place, message, &finding.hint)))
        });
        let (folder, here) = (&folders[first], here.collect::<Vec<_>>());
        let elsewhere = error.findings.len() - here.len();
        if elsewhere > 0 {
            eprintln!(
                "note: there are {elsewhere} more findings outside of {}, told when these are mended",
                clean(&folder.path.display().to_string())
            );
        }
        let problems = folder.problems(here);
        return match problems.and_then(|problems| folder.refuse(problems, true)) {
            Err(told) => told,
            Ok(()) => CliError::Answered(error),
        };
    }
    CliError::Refused { files: given.iter().map(|definition| definition.name.clone()).collect(), error }
}

fn read(file: &Path) -> std::io::Result<String> {
    if file == Path::new("-") {
        std::io::read_to_string(std::io::stdin())
    } else {
        std::fs::read_to_string(file)
    }
}

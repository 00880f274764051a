//! `tidegate apply`.

use crate::Global;
use crate::client::{Answer, Client};
use crate::error::CliError;
use crate::folder::Folder;
use crate::text::clean;
use clap::Args;
use std::path::{Path, PathBuf};
use tidegate_api::{Applied, ErrorBody};
use tidegate_core::lint;
use tidegate_synth::Subject;

/// Apply definitions: the organisation's and pipelines', as JSON files or as folders of TypeScript. The organisation's goes
/// first, whatever the order.
///
/// Each definition is taken as a whole or not at all; the first that is refused ends the command. What was applied before it
/// stays, and what came after it is told. Editing a definition redeploys nothing by itself. With --dry-run pipelines are judged
/// against the organisation that the server has.
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
    pipeline: bool,
    /// Where it is written, for people.
    name: String,
    text: String,
    /// The folder that it comes from, by its index, and its own index there.
    from: Option<(usize, usize)>,
}

pub(crate) async fn run(global: &Global, options: Options) -> Result<(), CliError> {
    let client = Client::new(global)?;
    let (mut documents, mut folders) = (Vec::new(), Vec::new());
    for file in &options.files {
        if file.is_dir() {
            let folder = Folder::read(file)?;
            documents.extend(of_folder(&folder, folders.len()));
            folders.push(folder);
            continue;
        }
        let text = read(file).map_err(|e| CliError::failed(format!("read {}", file.display()), e))?;
        let name = file.display().to_string();
        documents.push(Definition { pipeline: !is_organisation(&text), name, text, from: None });
    }
    // Pipelines live in the organisation; among themselves they keep the order in which they were given.
    documents.sort_by_key(|definition| definition.pipeline);
    for (n, definition) in documents.iter().enumerate() {
        if let Err(error) = put(global, &client, &options, &folders, definition).await {
            tell_rest(&documents[n + 1..], options.dry_run);
            return Err(error);
        }
    }
    Ok(())
}

async fn put(
    global: &Global,
    client: &Client,
    options: &Options,
    folders: &[Folder],
    definition: &Definition,
) -> Result<(), CliError> {
    let path = if definition.pipeline { "/v1/pipelines" } else { "/v1/organisation" };
    let dry_run = if options.dry_run { "?dry_run=true" } else { "" };
    let answer: Answer<Applied> =
        match client.put_text(&format!("{path}{dry_run}"), definition.text.clone()).await {
            Ok(answer) => answer,
            Err(CliError::Answered(error)) => {
                if let Some((folder, document)) = definition.from {
                    in_its_lines(&folders[folder], document, &error)?;
                }
                return Err(CliError::Refused { file: definition.name.clone(), error });
            }
            Err(error) => return Err(error),
        };
    answer.tell(global, |applied| {
        let what = match (applied.changed, applied.dry_run) {
            (true, true) => "would be changed",
            (true, false) => "applied",
            (false, _) => "unchanged",
        };
        format!("{}  {what} ({})\n", applied.name, definition.name)
    })
}

/// What was not sent any more: what was applied before is on stdout.
fn tell_rest(rest: &[Definition], dry_run: bool) {
    let what = if dry_run { "not looked at" } else { "not applied" };
    for definition in rest {
        eprintln!("note: {what}, because it comes after what was refused: {}", clean(&definition.name));
    }
}

fn of_folder(folder: &Folder, index: usize) -> Vec<Definition> {
    let of = folder.made.documents.iter().enumerate().map(|(n, document)| Definition {
        pipeline: matches!(document.subject, Subject::Pipeline(_)),
        name: folder.path.join(&document.file).display().to_string(),
        text: document.json.clone(),
        from: Some((index, n)),
    });
    of.collect()
}

/// Fails with the server's findings at the lines of the TypeScript, if they are findings in this definition.
fn in_its_lines(folder: &Folder, document: usize, error: &ErrorBody) -> Result<(), CliError> {
    if error.findings.iter().any(|finding| finding.pipeline.is_some()) {
        return Ok(());
    }
    let found = error.findings.iter().map(|f| {
        let finding = lint::Finding::new(&f.code, f.place.as_str(), f.message.as_str(), &f.hint);
        (document, finding)
    });
    let problems = folder.problems(found.collect())?;
    folder.refuse(problems, true)
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

//! Folders of pipelines as code, for all commands that take definitions.

use crate::error::CliError;
use crate::text::clean;
use std::path::{Path, PathBuf};
use tidegate_core::causes;
use tidegate_core::definition::{OrganisationDef, PipelineDef};
use tidegate_core::explore;
use tidegate_core::lint;
use tidegate_synth::{Problem, Subject, Synth, SynthError, Synthesized};

/// The word under which the binary is its own evaluator.
pub(crate) const CHILD: &str = "__synth";

/// A folder that was synthesized.
#[derive(Debug)]
pub(crate) struct Folder {
    pub(crate) path: PathBuf,
    pub(crate) made: Synthesized,
    synth: Synth,
}

impl Folder {
    /// Synthesizes a folder, or the folder `pipelines` in it; what its program prints is told on stderr.
    pub(crate) fn read(path: &Path) -> Result<Folder, CliError> {
        let inside = path.join("pipelines");
        let path = if inside.is_dir() { inside } else { path.to_owned() };
        let program = std::env::current_exe().map_err(|e| CliError::failed("find this program", e))?;
        let synth = Synth::new(program, &[CHILD]);
        match synth.folder(&path) {
            Ok(made) => {
                tell(&made.notes);
                tell(made.missing.as_slice());
                Ok(Folder { path, made, synth })
            }
            Err(error) => Err(failed(&path, error)),
        }
    }

    /// The organisation, if the folder has one.
    pub(crate) fn organisation(&self) -> Option<&OrganisationDef> {
        self.made.documents.iter().find_map(|document| match &document.subject {
            Subject::Organisation(organisation) => Some(&**organisation),
            Subject::Pipeline(_) => None,
        })
    }

    /// What the rules, and `also` whoever asks, say against it; pipelines are judged by the rules only where there is an
    /// organisation, here or given.
    pub(crate) fn lint(
        &self,
        given: Option<&OrganisationDef>,
        also: impl Fn(&PipelineDef) -> Option<lint::Finding>,
    ) -> Result<Vec<Problem>, CliError> {
        let organisation = given.or(self.organisation());
        let mut findings = Vec::new();
        for (n, document) in self.made.documents.iter().enumerate() {
            let of = match (&document.subject, organisation) {
                (Subject::Organisation(organisation), _) => lint::organisation(organisation),
                (Subject::Pipeline(pipeline), Some(organisation)) => {
                    explore::pipeline(pipeline, organisation)
                }
                (Subject::Pipeline(_), None) => Vec::new(),
            };
            let more = match &document.subject {
                Subject::Pipeline(pipeline) => also(pipeline),
                Subject::Organisation(_) => None,
            };
            findings.extend(of.into_iter().chain(more).map(|finding| (n, finding)));
        }
        self.problems(findings)
    }

    /// Findings, each with its document's index, as problems with their lines.
    pub(crate) fn problems(&self, findings: Vec<(usize, lint::Finding)>) -> Result<Vec<Problem>, CliError> {
        if findings.is_empty() {
            return Ok(Vec::new());
        }
        self.synth.problems(&self.made, findings).map_err(|error| failed(&self.path, error))
    }

    /// An error if there are problems.
    pub(crate) fn refuse(&self, problems: Vec<Problem>, by_server: bool) -> Result<(), CliError> {
        if problems.is_empty() {
            return Ok(());
        }
        Err(CliError::Problems { folder: self.path.display().to_string(), problems, by_server })
    }
}

fn tell(notes: &[String]) {
    for note in notes {
        eprintln!("note: {}", clean(note));
    }
}

fn failed(path: &Path, error: SynthError) -> CliError {
    match error {
        SynthError::Problems { problems, notes } => {
            tell(&notes);
            CliError::Problems { folder: path.display().to_string(), problems, by_server: false }
        }
        error => CliError::Failed { what: format!("synthesize {}", path.display()), why: causes(&error) },
    }
}

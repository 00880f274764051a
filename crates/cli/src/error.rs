//! How a command fails. Exit codes: 0 done, 1 an error, 2 wrong usage, 3 the server refused (not allowed, not legal now,
//! not there, a definition with findings), 4 the server cannot be reached, 130 interrupted.

use crate::text::clean;
use std::error::Error;
use std::process::ExitCode;
use tidegate_api::{ErrorAnswer, ErrorBody, VERSION};
use tidegate_core::causes;
use tidegate_synth::Problem;

/// Why a command did not do what it was told.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    /// The command makes no sense as it was given.
    #[error("{0}")]
    Usage(String),
    /// The server answered with an error.
    #[error("{}", .0.message)]
    Answered(Box<ErrorBody>),
    /// The server refused files, none of which it has taken.
    #[error("{}: {}", files.join(", "), error.message)]
    Refused {
        /// Which, in the order in which they were sent.
        files: Vec<String>,
        /// Why.
        error: Box<ErrorBody>,
    },
    /// A file that this command has judged itself.
    #[error("{file}: {}", error.message)]
    Unsound {
        /// Which.
        file: String,
        /// Why.
        error: Box<ErrorBody>,
    },
    /// A folder of pipelines is not right.
    #[error("{folder}: {} {}", problems.len(), if problems.len() == 1 { "problem" } else { "problems" })]
    Problems {
        /// Which.
        folder: String,
        /// What is wrong.
        problems: Vec<Problem>,
        /// Whether the server said so.
        by_server: bool,
    },
    /// Something on this machine cannot be used as it is, and what it is has a code.
    #[error("{}", .0.message)]
    Local(Box<ErrorBody>),
    /// The server does not answer.
    #[error("cannot reach the server: {0}")]
    Unreachable(String),
    /// Something on this machine failed.
    #[error("failed to {what}: {why}")]
    Failed {
        /// What was tried.
        what: String,
        /// How it failed.
        why: String,
    },
    /// Somebody ended it before it was done.
    #[error("interrupted")]
    Interrupted,
    /// Nobody reads the output any more.
    #[error("the output was closed")]
    Closed,
}

impl CliError {
    pub(crate) fn failed(what: impl Into<String>, error: impl Error) -> CliError {
        CliError::Failed { what: what.into(), why: causes(&error) }
    }

    /// As it is told where a code and a hint go with it, or as [`CliError::failed`].
    pub(crate) fn told(body: Option<ErrorBody>, what: impl Into<String>, error: impl Error) -> CliError {
        body.map_or_else(|| CliError::failed(what, error), |body| CliError::Local(Box::new(body)))
    }

    /// Tells it on stderr, and gives the exit code.
    pub(crate) fn report(&self, json: bool) -> ExitCode {
        match self {
            CliError::Answered(error)
            | CliError::Local(error)
            | CliError::Refused { error, .. }
            | CliError::Unsound { error, .. }
                if json =>
            {
                let answer = ErrorAnswer { version: VERSION, error: (**error).clone() };
                eprintln!("{}", serde_json::to_string(&answer).unwrap_or_default());
            }
            CliError::Answered(error) | CliError::Local(error) => eprint!("{}", render(error, &[])),
            CliError::Refused { files, error } => eprint!("{}", render(error, files)),
            CliError::Unsound { file, error } => eprint!("{}", render(error, std::slice::from_ref(file))),
            CliError::Problems { problems, .. } if json => {
                let answer = serde_json::json!({"version": VERSION, "problems": problems});
                eprintln!("{answer}");
            }
            CliError::Problems { problems, .. } => {
                eprintln!("tidegate: {self}");
                problems.iter().for_each(|problem| eprint!("\n{problem}"));
            }
            CliError::Closed => {}
            other => eprintln!("tidegate: {other}"),
        }
        ExitCode::from(self.code())
    }

    fn code(&self) -> u8 {
        match self {
            CliError::Closed => 0,
            CliError::Usage(_) => 2,
            CliError::Interrupted => 130,
            CliError::Problems { by_server: true, .. } => 3,
            CliError::Answered(error) | CliError::Refused { error, .. } if error.code.status() < 500 => 3,
            CliError::Unreachable(_) => 4,
            CliError::Answered(_)
            | CliError::Local(_)
            | CliError::Refused { .. }
            | CliError::Unsound { .. }
            | CliError::Problems { .. }
            | CliError::Failed { .. } => 1,
        }
    }
}

/// The server's error for people: code, message, each finding with its place in one of the files, line and marker, and what to
/// do.
pub(crate) fn render(error: &ErrorBody, files: &[String]) -> String {
    let mut out = format!("tidegate: {}: {}\n", error.code, clean(&error.message));
    for finding in &error.findings {
        let of = match (&finding.pipeline, files.get(finding.definition.unwrap_or(0))) {
            (Some(pipeline), _) => format!("pipeline {pipeline}"),
            (None, Some(file)) => clean(file),
            (None, None) => "the document".to_owned(),
        };
        let line = finding.excerpt.as_ref().map(|e| format!(":{}:{}", e.line, e.column)).unwrap_or_default();
        let place = if finding.place.is_empty() { "/" } else { &finding.place };
        out.push_str(&format!(
            "\n{}: {}\n  at {of}{line} ({place})\n",
            finding.code,
            clean(&finding.message)
        ));
        if let Some(excerpt) = &finding.excerpt {
            excerpt.render().lines().for_each(|line| out.push_str(&format!("    {line}\n")));
        }
        out.push_str(&format!("  hint: {}\n", clean(&finding.hint)));
    }
    if !error.findings.is_empty() {
        out.push('\n');
    }
    out.push_str(&format!("hint: {}\n", clean(&error.hint)));
    out
}

//! A failure as a file that can be run again: the seed, the options and the list of choices; beside them, for people, what was
//! seen and the end of the log. The format has a version; a file of another one is refused.

use crate::script::Choice;
use crate::{Failure, Mutation, Options, Sim};
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::{Path, PathBuf};

/// What every file begins with.
const FORMAT: &str = "tidegate.sim-recording/1";
/// The largest file that is read, in bytes: ten thousand choices and as many lines of the log.
const BYTES_MAX: u64 = 16 * 1024 * 1024;

/// See the head of this file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recording {
    format: String,
    /// Makes the world: its shape, how long boxes take to start, and so on.
    pub seed: u64,
    /// The break of a rule that the run was made with, if any.
    pub mutation: Option<Mutation>,
    /// Length of the phase with faults, in virtual seconds.
    pub safety_s: i64,
    /// Limit of the phase without, in virtual seconds.
    pub liveness_s: i64,
    /// The rule that was broken; 0 if something did not converge.
    pub rule: u8,
    /// What was seen.
    pub evidence: String,
    /// All that happens beyond the ordinary course of the world, in order.
    pub choices: Vec<Choice>,
    /// The newest lines of the log.
    pub log: Vec<String>,
}

/// A file that cannot be run.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum RecordingError {
    #[error("cannot read {path}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{path} has more than {BYTES_MAX} bytes")]
    TooLarge { path: PathBuf },
    #[error("{path} is no recording of the simulator")]
    Parse { path: PathBuf, source: serde_json::Error },
    #[error("{path} is a recording of format '{found}'; this version reads '{FORMAT}'")]
    Format { path: PathBuf, found: String },
    #[error("cannot write {path}")]
    Write { path: PathBuf, source: std::io::Error },
}

impl Recording {
    /// Of a failure that was met under these options.
    #[must_use]
    pub fn of(failure: &Failure, options: Options) -> Recording {
        Recording {
            format: FORMAT.to_owned(),
            seed: failure.seed,
            mutation: options.mutation,
            safety_s: options.safety_s,
            liveness_s: options.liveness_s,
            rule: failure.rule,
            evidence: failure.evidence.clone(),
            choices: failure.choices.clone(),
            log: failure.log.clone(),
        }
    }

    /// Reads a file.
    ///
    /// # Errors
    /// If it cannot be read, is too large, is no recording, or one of another format.
    pub fn read(path: &Path) -> Result<Recording, RecordingError> {
        let failed = |source| RecordingError::Read { path: path.to_owned(), source };
        if fs::metadata(path).map_err(failed)?.len() > BYTES_MAX {
            return Err(RecordingError::TooLarge { path: path.to_owned() });
        }
        let text = fs::read(path).map_err(failed)?;
        let parse = |source| RecordingError::Parse { path: path.to_owned(), source };
        let value: serde_json::Value = serde_json::from_slice(&text).map_err(parse)?;
        match value.get("format").and_then(serde_json::Value::as_str) {
            Some(FORMAT) | None => serde_json::from_value(value).map_err(parse),
            Some(found) => Err(RecordingError::Format { path: path.to_owned(), found: found.to_owned() }),
        }
    }

    /// Writes it into a directory that exists, under a name made of its seed; returns the file's path.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write_into(&self, directory: &Path) -> Result<PathBuf, RecordingError> {
        let path = directory.join(format!("tidegate-sim-{}.json", self.seed));
        let failed = |source| RecordingError::Write { path: path.clone(), source };
        let mut text = serde_json::to_vec_pretty(self).map_err(|e| failed(e.into()))?;
        text.push(b'\n');
        fs::write(&path, text).map_err(failed)?;
        Ok(path)
    }

    /// The run again; it fails as it did, or the failure is mended.
    #[must_use]
    pub fn sim(&self, log_lines: usize) -> Sim {
        let Recording { mutation, safety_s, liveness_s, .. } = *self;
        Sim::recorded(self.seed, Options { mutation, safety_s, liveness_s, log_lines }, &self.choices)
    }
}

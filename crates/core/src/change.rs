//! A commit as a source tells of it. Author and text are written by strangers: nothing here is trusted beyond its shape.

use crate::ids::CommitId;
use crate::units::Timestamp;
use serde::{Deserialize, Serialize};

/// One commit of a mainline's history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Commit {
    /// Its full name.
    pub id: CommitId,
    /// Its parents' names; more than one for a merge.
    pub parents: Vec<CommitId>,
    /// As the author wrote it.
    pub author_name: String,
    /// Compared, without regard to case, with the addresses of the organisation's users.
    pub author_email: String,
    /// When it was committed, by the committer's clock.
    pub committed_at: Timestamp,
    /// The first line of its message.
    pub subject: String,
    /// Commits that it says it reverts (`This reverts commit ...`).
    pub reverts: Vec<CommitId>,
    /// Commits, or beginnings of their names (at least 7 digits), in its `Fixes:` trailers.
    pub fixes: Vec<String>,
}

impl Commit {
    /// Whether one of its `Fixes:` trailers names this commit.
    #[must_use]
    pub fn names_as_fixed(&self, commit: &CommitId) -> bool {
        self.fixes.iter().any(|f| f.len() >= 7 && commit.as_str().starts_with(f.as_str()))
    }
}

/// What a look at a source found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceObservation {
    /// The mainline's newest commit.
    pub head: CommitId,
    /// The commits that the pipeline has not seen yet, ancestors first.
    pub commits: Vec<Commit>,
    /// The mainline's newest commit that was known before is not among the ancestors of `head`: history was rewritten.
    pub rewritten: bool,
}

//! What a forge says of the changes that were reviewed and merged on it, and what of that a repository bears out. Which approvals
//! count is decided in `pipeline/review.rs`; nothing here decides.
//!
//! What must hold: times in here are the forge's clock, and are compared with one another alone; all texts were written by
//! strangers.

use crate::ids::CommitId;
use crate::units::Timestamp;
use serde::{Deserialize, Serialize};
use std::fmt;

/// The most changes that are kept of one commit: more than one have brought it only where branches were merged by hand.
pub const CHANGES_MAX: usize = 5;
/// The most older heads of one change that are compared with its newest.
pub const OLDER_HEADS_MAX: usize = 5;
/// The most reviewers whose last words are kept of one change.
pub const REVIEWERS_MAX: usize = 50;

/// Whose API it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Forge {
    /// GitHub, or what answers its API.
    Github,
    /// GitLab.
    Gitlab,
}

impl Forge {
    /// Both.
    pub const ALL: [Forge; 2] = [Forge::Github, Forge::Gitlab];

    /// What it calls a change that is reviewed.
    #[must_use]
    pub fn change(self) -> &'static str {
        match self {
            Forge::Github => "pull request",
            Forge::Gitlab => "merge request",
        }
    }
}

impl fmt::Display for Forge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Forge::Github => "GitHub",
            Forge::Gitlab => "GitLab",
        })
    }
}

/// A change that is reviewed on a forge: a pull request, or a merge request.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChangeRef {
    /// Where.
    pub forge: Forge,
    /// The repository that it was merged in.
    pub repository: String,
    /// Its number there.
    pub number: u64,
}

impl fmt::Display for ChangeRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = match self.forge {
            Forge::Github => '#',
            Forge::Gitlab => '!',
        };
        write!(f, "{} {}{mark}{}", self.forge.change(), self.repository, self.number)
    }
}

/// How a commit came to the mainline.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Brought {
    /// The forge that was asked.
    pub forge: Forge,
    /// The repository that it was asked about.
    pub repository: String,
    /// The merged changes that it names; none for a commit that was pushed without one.
    pub changes: Vec<MergedChange>,
}

/// A merged change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MergedChange {
    /// Which.
    pub number: u64,
    /// For people to look at.
    pub url: String,
    /// Its newest commit when it was merged.
    pub head: CommitId,
    /// When it was merged.
    pub merged_at: Timestamp,
    /// When it was pointed at another branch for the last time: what was approved before was shown against another one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retargeted_at: Option<Timestamp>,
    /// The account that opened it.
    pub author: String,
    /// The addresses of everybody who wrote or committed a commit of it.
    pub authors: Vec<String>,
    /// Their accounts, where the forge knows them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub accounts: Vec<String>,
    /// What each reviewer said last.
    pub words: Vec<ReviewWord>,
    /// Older heads that were approved, of which the repository bears out that the newest is one of them and no more than that: the
    /// change was brought up to date with the mainline since, by a merge or a rebase; those of them that have shown what this commit
    /// brings.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub same: Vec<CommitId>,
    /// What became of it in the repository, for the commit that this is about.
    pub landed: Landed,
}

/// A reviewer's last word.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReviewWord {
    /// The reviewer's account.
    pub account: String,
    /// The word.
    pub says: Says,
    /// The newest commit of the change at that time.
    pub of: Option<CommitId>,
    /// When.
    pub at: Timestamp,
}

/// What a reviewer says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Says {
    /// It may be merged.
    Approved,
    /// It may not, as it is.
    ChangesRequested,
    /// An approval was withdrawn, by its giver or somebody else.
    Dismissed,
}

/// What a repository bears out of a change's merge.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Landed {
    /// The commit is one of the change's own.
    Own,
    /// It merges the change's head, and has the files that this gives.
    Merge,
    /// It alone brings what the change's head would, and has the files that merging it gives.
    Squash,
    /// It is one of as many as the change has, the last of which has the files that merging the head gives.
    Rebase,
    /// None of these.
    Otherwise {
        /// What does not fit.
        why: String,
    },
}

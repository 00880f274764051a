//! What GitLab's REST API answers about merge requests. Answers grow with versions; what is not known here is left out.
//!
//! GitLab does not say which head an approval was for. It says when each head came and when the approval was given, by one
//! clock: an approval is for the head that was the newest then.

use super::github::{commit_id, cut, entries, entry, time};
use super::{ForgeError, Listed};
use serde::Deserialize;
use tidegate_core::forge::{REVIEWERS_MAX, ReviewWord, Says};
use tidegate_core::ids::CommitId;
use tidegate_core::units::Timestamp;

#[derive(Debug, Deserialize)]
struct MergeRequest {
    iid: u64,
    #[serde(default)]
    web_url: String,
    merged_at: Option<String>,
    target_branch: String,
    sha: Option<String>,
    merge_commit_sha: Option<String>,
    squash_commit_sha: Option<String>,
    author: Option<Account>,
    references: Option<References>,
}

#[derive(Debug, Deserialize)]
struct References {
    full: String,
}

#[derive(Debug, Deserialize)]
struct Account {
    username: String,
}

#[derive(Debug, Deserialize)]
struct Approvals {
    #[serde(default)]
    approved_by: Vec<ApprovedBy>,
}

#[derive(Debug, Deserialize)]
struct ApprovedBy {
    user: Option<Account>,
    approved_at: Option<String>,
}

#[derive(Debug, Deserialize)]
struct RawNote {
    #[serde(default)]
    system: bool,
    body: String,
    author: Option<Account>,
    created_at: Option<String>,
}

#[derive(Debug, Deserialize)]
struct RawVersion {
    head_commit_sha: String,
    created_at: Option<String>,
}

#[derive(Debug, Deserialize)]
struct RequestCommit {
    id: String,
}

/// Somebody approves of a merge request as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Approval {
    /// Who.
    pub account: String,
    /// Since when; older versions of GitLab do not say.
    pub at: Option<Timestamp>,
}

/// A line of a merge request's history: somebody approved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// Who.
    pub account: String,
    /// When.
    pub at: Timestamp,
}

/// A head that a merge request had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    /// The commit.
    pub head: CommitId,
    /// Since when.
    pub at: Timestamp,
}

/// A project's path as one part of an address.
#[must_use]
pub fn escaped(project: &str) -> String {
    project.replace('/', "%2F")
}

/// The merged merge requests to this branch of this project, of those that are listed for a commit.
///
/// # Errors
/// It is not what the API says.
pub fn changes(pages: &[Vec<u8>], project: &str, branch: &str) -> Result<Vec<Listed>, ForgeError> {
    let all: Vec<MergeRequest> = entries(pages)?;
    Ok(all.into_iter().filter_map(|request| merged(request, project, branch)).collect())
}

fn merged(request: MergeRequest, project: &str, branch: &str) -> Option<Listed> {
    let of = request.references?.full;
    let (path, _) = of.rsplit_once('!')?;
    if request.target_branch != branch || !path.eq_ignore_ascii_case(project) {
        return None;
    }
    let commit = |text: Option<String>| text.and_then(|id| CommitId::new(id).ok());
    let head = commit(request.sha)?;
    let (merge, squashed) = (commit(request.merge_commit_sha), commit(request.squash_commit_sha));
    Some(Listed {
        number: request.iid,
        url: cut(&request.web_url),
        merged_at: time(request.merged_at.as_deref())?,
        author: request.author.map(|author| cut(&author.username)).unwrap_or_default(),
        // Without a merge commit the mainline was moved forward, to the squashed commit if there is one.
        landed: merge.or_else(|| squashed.clone()).unwrap_or_else(|| head.clone()),
        head,
        squashed,
    })
}

/// Who approves of it.
///
/// # Errors
/// It is not what the API says.
pub fn approvals(pages: &[Vec<u8>]) -> Result<Vec<Approval>, ForgeError> {
    let all = pages.iter().map(|page| entry::<Approvals>(page)).collect::<Result<Vec<_>, _>>()?;
    let all = all.into_iter().flat_map(|approvals| approvals.approved_by);
    let approval = |by: ApprovedBy| {
        Some(Approval { account: cut(&by.user?.username), at: time(by.approved_at.as_deref()) })
    };
    let mut approvals: Vec<Approval> = all.filter_map(approval).collect();
    if approvals.len() > REVIEWERS_MAX {
        // Who comes early must not crowd out a member.
        approvals.sort_by_key(|approval| approval.at);
        approvals.drain(..approvals.len() - REVIEWERS_MAX);
    }
    Ok(approvals)
}

/// When somebody approved, by the merge request's history.
///
/// # Errors
/// It is not what the API says.
pub fn notes(pages: &[Vec<u8>]) -> Result<Vec<Note>, ForgeError> {
    let all: Vec<RawNote> = entries(pages)?;
    let approves =
        all.into_iter().filter(|note| note.system && note.body.trim() == "approved this merge request");
    let note = |note: RawNote| {
        Some(Note { account: cut(&note.author?.username), at: time(note.created_at.as_deref())? })
    };
    Ok(approves.filter_map(note).collect())
}

/// The heads that it had, oldest first.
///
/// # Errors
/// It is not what the API says.
pub fn versions(pages: &[Vec<u8>]) -> Result<Vec<Version>, ForgeError> {
    let all: Vec<RawVersion> = entries(pages)?;
    let version = |raw: RawVersion| {
        let at = time(raw.created_at.as_deref());
        let at = at.ok_or_else(|| ForgeError::Unreadable { why: "a version has no time".to_owned() })?;
        Ok(Version { head: commit_id(raw.head_commit_sha)?, at })
    };
    let mut all = all.into_iter().map(version).collect::<Result<Vec<_>, ForgeError>>()?;
    all.sort_by_key(|version| version.at);
    Ok(all)
}

/// The merge request's own commits.
///
/// # Errors
/// It is not what the API says.
pub fn commits(pages: &[Vec<u8>]) -> Result<Vec<CommitId>, ForgeError> {
    let commits: Vec<RequestCommit> = entries(pages)?;
    commits.into_iter().map(|commit| commit_id(commit.id)).collect()
}

/// The approvals as words on the heads that were there when they were given. One of which nobody says when it was given is for no
/// head that is known, and as old as can be.
#[must_use]
pub fn words(approvals: &[Approval], notes: &[Note], versions: &[Version]) -> Vec<ReviewWord> {
    let word = |approval: &Approval| {
        let noted = || notes.iter().rev().find(|note| note.account == approval.account).map(|note| note.at);
        let at = approval.at.or_else(noted);
        let of = at.and_then(|at| versions.iter().rev().find(|version| version.at <= at));
        ReviewWord {
            account: approval.account.clone(),
            says: Says::Approved,
            of: of.map(|version| version.head.clone()),
            at: at.unwrap_or(Timestamp(0)),
        }
    };
    approvals.iter().map(word).collect()
}

/// When what it is compared with changed last while its head stayed: it was pointed at another branch.
#[must_use]
pub fn retargeted_at(versions: &[Version]) -> Option<Timestamp> {
    let same = versions.windows(2).filter(|pair| pair[0].head == pair[1].head);
    same.map(|pair| pair[1].at).max()
}

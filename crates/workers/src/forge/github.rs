//! What GitHub's REST API answers about pull requests, and Gitea's and Forgejo's, which is the same but for what stands here as
//! theirs. Answers grow with versions; what is not known here is left out.

use super::{ForgeError, Listed};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use tidegate_core::forge::{REVIEWERS_MAX, ReviewWord, Says};
use tidegate_core::ids::CommitId;
use tidegate_core::units::Timestamp;

/// The longest address and account, in characters; longer ones are cut.
pub(super) const TEXT_MAX_CHARS: usize = 300;
/// The events after which a pull request is compared with something else than before.
const RETARGETED: [&str; 3] =
    ["base_ref_changed", "automatic_base_change_succeeded", "base_ref_force_pushed"];

/// By commit, the accounts that had a hand in it.
pub type Accounts = BTreeMap<CommitId, Hands>;

/// The accounts that had a hand in a commit, where they are known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hands {
    /// Whose it is.
    pub author: Option<String>,
    /// Who made it.
    pub committer: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Pull {
    number: u64,
    #[serde(default)]
    html_url: String,
    merged_at: Option<String>,
    merge_commit_sha: Option<String>,
    user: Option<Account>,
    head: Tip,
    base: Tip,
}

#[derive(Debug, Deserialize)]
struct Account {
    login: String,
}

#[derive(Debug, Deserialize)]
struct Tip {
    #[serde(rename = "ref")]
    branch: String,
    sha: String,
    repo: Option<Repository>,
}

#[derive(Debug, Deserialize)]
struct Repository {
    full_name: String,
}

#[derive(Debug, Deserialize)]
struct PullReview {
    user: Option<Account>,
    state: String,
    commit_id: Option<String>,
    submitted_at: Option<String>,
    /// Of Gitea, where a dismissed review keeps its state.
    #[serde(default)]
    dismissed: bool,
}

#[derive(Debug, Deserialize)]
struct PullCommit {
    sha: String,
    /// The accounts that the addresses in the commit belong to, if they are known.
    author: Option<Committer>,
    committer: Option<Committer>,
}

/// Of an address that is nobody's GitHub says null, or an account without a name.
#[derive(Debug, Deserialize)]
struct Committer {
    login: Option<String>,
}

#[derive(Debug, Deserialize)]
struct IssueEvent {
    /// Of GitHub.
    event: Option<String>,
    /// Of Gitea.
    #[serde(rename = "type")]
    kind: Option<String>,
    created_at: Option<String>,
}

/// Whether the API is Gitea's or Forgejo's, by its address.
#[must_use]
pub fn is_gitea(api: &str) -> bool {
    api.trim_end_matches('/').ends_with("/api/v1")
}

/// The merged pull requests to this branch of this repository, of those that are listed for a commit.
///
/// # Errors
/// It is not what the API says.
pub fn changes(pages: &[Vec<u8>], repository: &str, branch: &str) -> Result<Vec<Listed>, ForgeError> {
    let pulls: Vec<Pull> = entries(pages)?;
    Ok(pulls.into_iter().filter_map(|pull| merged(pull, repository, branch)).collect())
}

/// As [`changes`], where one is answered and no list.
///
/// # Errors
/// It is not what the API says.
pub fn change(pages: &[Vec<u8>], repository: &str, branch: &str) -> Result<Vec<Listed>, ForgeError> {
    let pulls = pages.iter().map(|page| entry::<Pull>(page)).collect::<Result<Vec<_>, _>>()?;
    Ok(pulls.into_iter().filter_map(|pull| merged(pull, repository, branch)).collect())
}

fn merged(pull: Pull, repository: &str, branch: &str) -> Option<Listed> {
    let of = pull.base.repo.as_ref()?;
    if pull.base.branch != branch || !of.full_name.eq_ignore_ascii_case(repository) {
        return None;
    }
    Some(Listed {
        number: pull.number,
        url: cut(&pull.html_url),
        head: CommitId::new(pull.head.sha).ok()?,
        merged_at: time(pull.merged_at.as_deref())?,
        // The account of somebody who has left is nobody's.
        author: pull.user.map(|user| cut(&user.login)).unwrap_or_default(),
        landed: CommitId::new(pull.merge_commit_sha?).ok()?,
        squashed: None,
    })
}

/// What those reviewers said last who spoke last. A comment is no word on whether it may be merged.
///
/// # Errors
/// It is not what the API says.
pub fn words(pages: &[Vec<u8>]) -> Result<Vec<ReviewWord>, ForgeError> {
    let reviews: Vec<PullReview> = entries(pages)?;
    let mut last: BTreeMap<String, ReviewWord> = BTreeMap::new();
    for review in reviews {
        let says = match review.state.as_str() {
            _ if review.dismissed => Says::Dismissed,
            "APPROVED" => Says::Approved,
            "CHANGES_REQUESTED" | "REQUEST_CHANGES" => Says::ChangesRequested,
            "DISMISSED" => Says::Dismissed,
            _ => continue,
        };
        let (Some(user), Some(at)) = (review.user, time(review.submitted_at.as_deref())) else { continue };
        let account = cut(&user.login);
        let of = review.commit_id.and_then(|id| CommitId::new(id).ok());
        let word = ReviewWord { account: account.clone(), says, of, at };
        // They are listed in the order in which they were given.
        if last.get(&account).is_none_or(|known| known.at <= at) {
            last.insert(account, word);
        }
    }
    let mut words: Vec<ReviewWord> = last.into_values().collect();
    words.sort_by(|a, b| (a.at, &a.account).cmp(&(b.at, &b.account)));
    // Anybody may review a public repository: who comes early must not crowd out a member.
    words.drain(..words.len().saturating_sub(REVIEWERS_MAX));
    Ok(words)
}

/// The pull request's own commits.
///
/// # Errors
/// It is not what the API says.
pub fn commits(pages: &[Vec<u8>]) -> Result<Vec<CommitId>, ForgeError> {
    let commits: Vec<PullCommit> = entries(pages)?;
    commits.into_iter().map(|commit| commit_id(commit.sha)).collect()
}

/// The accounts of whoever wrote or committed each of the pull request's own commits, by whatever address.
///
/// # Errors
/// It is not what the API says.
pub fn accounts(pages: &[Vec<u8>]) -> Result<Accounts, ForgeError> {
    let commits: Vec<PullCommit> = entries(pages)?;
    let login = |account: Option<Committer>| Some(cut(&account?.login?));
    let of = |commit: PullCommit| {
        let hands = Hands { author: login(commit.author), committer: login(commit.committer) };
        Ok((commit_id(commit.sha)?, hands))
    };
    commits.into_iter().map(of).collect()
}

/// When it was pointed at another branch for the last time, by somebody or by GitHub because the one before was deleted, or that
/// branch was rewritten.
///
/// # Errors
/// It is not what the API says.
pub fn retargeted_at(pages: &[Vec<u8>]) -> Result<Option<Timestamp>, ForgeError> {
    let events: Vec<IssueEvent> = entries(pages)?;
    let is = |event: &IssueEvent| {
        let of_github = event.event.as_deref().is_some_and(|e| RETARGETED.contains(&e));
        of_github || event.kind.as_deref() == Some("change_target_branch")
    };
    Ok(events.iter().filter(|e| is(e)).filter_map(|e| time(e.created_at.as_deref())).max())
}

pub(super) fn entry<T: DeserializeOwned>(page: &[u8]) -> Result<T, ForgeError> {
    serde_json::from_slice(page).map_err(|error| ForgeError::Unreadable { why: cut(&error.to_string()) })
}

pub(super) fn entries<T: DeserializeOwned>(pages: &[Vec<u8>]) -> Result<Vec<T>, ForgeError> {
    let pages = pages.iter().map(|page| entry::<Option<Vec<T>>>(page)).collect::<Result<Vec<_>, _>>()?;
    // Gitea says null for an empty list.
    Ok(pages.into_iter().flatten().flatten().collect())
}

pub(super) fn commit_id(text: String) -> Result<CommitId, ForgeError> {
    CommitId::new(text).map_err(|error| ForgeError::Unreadable { why: error.to_string() })
}

pub(super) fn time(text: Option<&str>) -> Option<Timestamp> {
    Timestamp::parse(text?)
}

pub(super) fn cut(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(TEXT_MAX_CHARS).collect()
}

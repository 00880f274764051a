//! Asks a forge how commits came to a mainline, and looks in the repository what of that is so. What comes of it is not decided
//! here.
//!
//! What must hold: a forge that is slow, lies, is gone or has enough costs bounded time, memory and requests, and never becomes an
//! answer; what is told of a commit is all that the forge said of it in one go, or nothing.

mod client;
pub mod github;
pub mod gitlab;

pub use client::{Client, ClientError, Counted, ForgeError, Server};

use crate::git::{BorneOut, GitError, Merge, Mirror};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};
use tidegate_core::definition::ReviewDef;
use tidegate_core::forge::{Brought, CHANGES_MAX, Landed, MergedChange, OLDER_HEADS_MAX, ReviewWord, Says};
use tidegate_core::ids::CommitId;
use tidegate_core::units::Timestamp;

/// The most requests to a forge of one look at a source: with one look a minute 6,000 an hour, of which those that find nothing
/// new cost a forge's limit nothing. What is left is asked at the next look.
pub const REQUESTS_MAX: usize = 100;
/// The most commits of one look that are asked about in vain: a forge that fails at so many is in trouble.
const FAILED_MAX: usize = 5;
/// When a look has taken so long, what it has found is told, and the next one goes on.
const LOOK_MAX: Duration = Duration::from_secs(60);
/// The most accounts that are kept of one change's authors.
const ACCOUNTS_MAX: usize = 250;
/// The most pages of one list; with 100 entries each.
const PAGES_MAX: usize = 10;

/// A merged change, as a forge lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its number in its repository.
    pub number: u64,
    /// For people.
    pub url: String,
    /// Its newest commit when it was merged.
    pub head: CommitId,
    /// When it was merged.
    pub merged_at: Timestamp,
    /// The account that opened it.
    pub author: String,
    /// The commit that the mainline got.
    pub landed: CommitId,
    /// The commit that it was made one in before it was merged.
    pub squashed: Option<CommitId>,
}

/// What is said of a merged change besides.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Details {
    /// What each reviewer said last.
    pub words: Vec<ReviewWord>,
    /// The commits that reviewers were shown.
    pub own: Vec<CommitId>,
    /// The accounts that had a hand in each of them, where the forge says.
    pub accounts: github::Accounts,
    /// When it was pointed at another branch for the last time.
    pub retargeted_at: Option<Timestamp>,
}

/// Why not everything is known that was asked for.
#[derive(Debug, thiserror::Error)]
pub enum Stopped {
    /// The forge.
    #[error(transparent)]
    Forge(#[from] ForgeError),
    /// The repository.
    #[error(transparent)]
    Git(#[from] GitError),
}

/// What came of asking.
#[derive(Debug, Default)]
pub struct Told {
    /// By commit; those that were not asked about are missing.
    pub brought: BTreeMap<CommitId, Brought>,
    /// Those that were asked about in vain.
    pub failed: BTreeSet<CommitId>,
    /// What came in between: what ended the asking, or else what the first of those that failed met with.
    pub stopped: Option<Stopped>,
}

/// What is asked, and where.
#[derive(Debug, Clone)]
pub struct Question<'a> {
    /// The forge.
    pub review: &'a ReviewDef,
    /// Its address and token.
    pub server: &'a Server,
    /// The mainline.
    pub branch: &'a str,
    /// The commits of which it is not known yet how they came, in the order in which they are asked about. Merges are best asked
    /// about before what they bring, which needs no question of its own then.
    pub commits: &'a [CommitId],
}

impl Stopped {
    /// Whether it is about the forge as a whole, so that it is no use to ask about another commit.
    #[must_use]
    pub fn ends_the_look(&self) -> bool {
        matches!(
            self,
            Stopped::Forge(
                ForgeError::Silent { .. }
                    | ForgeError::Limited { .. }
                    | ForgeError::Refused { .. }
                    | ForgeError::Unknown { .. }
            )
        )
    }

    /// Whether it is about this change, and will be so again however often it is asked: then it is what is known of it.
    fn is_of_the_change(&self) -> bool {
        matches!(
            self,
            Stopped::Forge(
                ForgeError::TooLong { .. } | ForgeError::Unreadable { .. } | ForgeError::Unprocessable { .. }
            ) | Stopped::Git(GitError::TimeLimit { .. })
        )
    }
}

/// Asks about commits, one after the other, as far as [`REQUESTS_MAX`] and a minute go.
pub async fn ask(client: &Client, mirror: &Mirror, question: &Question<'_>) -> Told {
    let mut told = Told::default();
    let mut known: BTreeMap<u64, (MergedChange, BorneOut)> = BTreeMap::new();
    let begun = Instant::now();
    let mut asker = Asker { client, question, requests: 0 };
    for commit in question.commits {
        if told.brought.contains_key(commit) {
            continue;
        }
        if asker.requests >= REQUESTS_MAX || begun.elapsed() >= LOOK_MAX || told.failed.len() >= FAILED_MAX {
            break;
        }
        match asker.about(commit, mirror, &mut known).await {
            Ok(listed) => asker.tell(commit, &listed, &known, &mut told.brought),
            Err(stopped) => {
                // Whoever remembers it asks about others before, so that none waits for one that fails each time.
                told.failed.insert(commit.clone());
                if stopped.ends_the_look() {
                    told.stopped = Some(stopped);
                    break;
                }
                told.stopped.get_or_insert(stopped);
            }
        }
    }
    told
}

/// Heads that were approved and are not the newest.
fn older_heads(words: &[ReviewWord], head: &CommitId) -> Vec<CommitId> {
    let approved = words.iter().filter(|word| word.says == Says::Approved);
    let older: BTreeSet<&CommitId> =
        approved.filter_map(|word| word.of.as_ref()).filter(|of| *of != head).collect();
    older.into_iter().take(OLDER_HEADS_MAX).cloned().collect()
}

struct Asker<'a> {
    client: &'a Client,
    question: &'a Question<'a>,
    requests: usize,
}

impl Asker<'_> {
    /// The numbers of the changes that brought a commit; all about them is known then.
    async fn about(
        &mut self,
        commit: &CommitId,
        mirror: &Mirror,
        known: &mut BTreeMap<u64, (MergedChange, BorneOut)>,
    ) -> Result<Vec<u64>, Stopped> {
        let listed = self.changes(commit).await?;
        let numbers = listed.iter().map(|listed| listed.number).collect();
        for listed in listed {
            if known.contains_key(&listed.number) {
                continue;
            }
            let (details, borne_out) = match self.look_at(&listed, mirror).await {
                Ok(found) => found,
                Err(stopped) if stopped.is_of_the_change() => {
                    let why_not = Some(stopped.to_string());
                    (Details::default(), BorneOut { why_not, ..BorneOut::default() })
                }
                Err(stopped) => return Err(stopped),
            };
            let wrote = details.accounts.iter().filter(|(id, _)| !borne_out.written_by_nobody.contains(*id));
            let hands = wrote.flat_map(|(id, hands)| {
                let committer = hands.committer.as_ref().filter(|_| !borne_out.rebased.contains(id));
                hands.author.iter().chain(committer)
            });
            let accounts: BTreeSet<&String> = hands.collect();
            let change = MergedChange {
                number: listed.number,
                url: listed.url,
                head: listed.head,
                merged_at: listed.merged_at,
                retargeted_at: details.retargeted_at,
                author: listed.author,
                authors: borne_out.authors.clone(),
                accounts: accounts.into_iter().take(ACCOUNTS_MAX).cloned().collect(),
                words: details.words,
                same: Vec::new(),
                landed: Landed::Own,
            };
            known.insert(listed.number, (change, borne_out));
        }
        Ok(numbers)
    }

    async fn look_at(&mut self, listed: &Listed, mirror: &Mirror) -> Result<(Details, BorneOut), Stopped> {
        let details = self.details(listed).await?;
        let older = older_heads(&details.words, &listed.head);
        let merge = Merge {
            reference: &self.reference(listed.number),
            head: &listed.head,
            landed: &listed.landed,
            squashed: listed.squashed.as_ref(),
            own: &details.own,
            older: &older,
            branch: self.question.branch,
        };
        let borne_out = mirror.bears_out(&merge).await?;
        Ok((details, borne_out))
    }

    /// Tells of a commit, and of all the others that the same changes have brought.
    fn tell(
        &self,
        commit: &CommitId,
        listed: &[u64],
        known: &BTreeMap<u64, (MergedChange, BorneOut)>,
        brought: &mut BTreeMap<CommitId, Brought>,
    ) {
        let review = self.question.review;
        let none = || Brought {
            forge: review.forge(),
            repository: review.repository().to_owned(),
            changes: Vec::new(),
        };
        brought.entry(commit.clone()).or_insert_with(none);
        for (change, borne_out) in listed.iter().filter_map(|number| known.get(number)) {
            let landed = |about: &CommitId| match (borne_out.commits.get(about), &borne_out.why_not) {
                (Some(landed), _) => landed.clone(),
                (None, Some(why)) => Landed::Otherwise { why: why.clone() },
                (None, None) => {
                    let why =
                        format!("{} is neither one of its commits nor what became of them", about.short());
                    Landed::Otherwise { why }
                }
            };
            let others = self.question.commits.iter().filter(|c| borne_out.commits.contains_key(*c));
            for about in others.chain([commit]) {
                let told = brought.entry(about.clone()).or_insert_with(none);
                let there = told.changes.iter().any(|c| c.number == change.number);
                if !there && told.changes.len() < CHANGES_MAX {
                    let vouch = borne_out.same.iter().filter(|(_, commits)| commits.contains(about));
                    let same = vouch.map(|(older, _)| older.clone()).collect();
                    told.changes.push(MergedChange { same, landed: landed(about), ..change.clone() });
                }
            }
        }
    }

    fn reference(&self, number: u64) -> String {
        match self.question.review {
            ReviewDef::Github(_) => format!("refs/pull/{number}/head"),
            ReviewDef::Gitlab(_) => format!("refs/merge-requests/{number}/head"),
        }
    }

    async fn changes(&mut self, commit: &CommitId) -> Result<Vec<Listed>, ForgeError> {
        let branch = self.question.branch;
        let mut listed = match self.question.review {
            ReviewDef::Github(def) if github::is_gitea(&def.api) => {
                let path = format!("/repos/{}/commits/{commit}/pull", def.repository);
                match self.pages(&path).await {
                    Ok(pages) => github::change(&pages, &def.repository, branch)?,
                    // No change brought it, or the repository is not known, which the next question shows.
                    Err(ForgeError::Unknown { .. }) => {
                        self.pages(&format!("/repos/{}", def.repository)).await?;
                        Vec::new()
                    }
                    Err(error) => return Err(error),
                }
            }
            ReviewDef::Github(def) => {
                let path = format!("/repos/{}/commits/{commit}/pulls?per_page=100", def.repository);
                match self.pages(&path).await {
                    Ok(pages) => github::changes(&pages, &def.repository, branch)?,
                    // The commit is not known there (yet).
                    Err(ForgeError::Unprocessable { .. }) => Vec::new(),
                    Err(error) => return Err(error),
                }
            }
            ReviewDef::Gitlab(def) => {
                let project = gitlab::escaped(&def.project);
                let path =
                    format!("/projects/{project}/repository/commits/{commit}/merge_requests?per_page=100");
                match self.pages(&path).await {
                    Ok(pages) => gitlab::changes(&pages, &def.project, branch)?,
                    // The commit is not known there (yet), or the project is not, which the next question shows.
                    Err(ForgeError::Unknown { .. }) => {
                        self.pages(&format!("/projects/{project}")).await?;
                        Vec::new()
                    }
                    Err(error) => return Err(error),
                }
            }
        };
        listed.truncate(CHANGES_MAX);
        Ok(listed)
    }

    async fn details(&mut self, listed: &Listed) -> Result<Details, ForgeError> {
        let number = listed.number;
        match self.question.review {
            ReviewDef::Github(def) => {
                let gitea = github::is_gitea(&def.api);
                let size = if gitea { "limit=50" } else { "per_page=100" };
                let pulls = format!("/repos/{}/pulls/{number}", def.repository);
                let reviews = self.pages(&format!("{pulls}/reviews?{size}")).await?;
                let commits = self.pages(&format!("{pulls}/commits?{size}")).await?;
                let events = if gitea { "timeline" } else { "events" };
                let issue = format!("/repos/{}/issues/{number}/{events}?{size}", def.repository);
                let events = self.pages(&issue).await?;
                Ok(Details {
                    words: github::words(&reviews)?,
                    own: github::commits(&commits)?,
                    accounts: github::accounts(&commits)?,
                    retargeted_at: github::retargeted_at(&events)?,
                })
            }
            ReviewDef::Gitlab(def) => {
                let of = format!("/projects/{}/merge_requests/{number}", gitlab::escaped(&def.project));
                let versions = gitlab::versions(&self.pages(&format!("{of}/versions?per_page=100")).await?)?;
                let commits = self.pages(&format!("{of}/commits?per_page=100")).await?;
                let approvals = self.pages(&format!("{of}/approvals")).await?;
                let approvals = gitlab::approvals(&approvals)?;
                // Before GitLab told when an approval was given, only the change's history did.
                let notes = if approvals.iter().any(|approval| approval.at.is_none()) {
                    let notes = format!("{of}/notes?sort=asc&order_by=created_at&per_page=100");
                    gitlab::notes(&self.pages(&notes).await?)?
                } else {
                    Vec::new()
                };
                Ok(Details {
                    words: gitlab::words(&approvals, &notes, &versions),
                    own: gitlab::commits(&commits)?,
                    // It names addresses alone, which the commits have as well.
                    accounts: BTreeMap::new(),
                    retargeted_at: gitlab::retargeted_at(&versions),
                })
            }
        }
    }

    async fn pages(&mut self, path: &str) -> Result<Vec<Vec<u8>>, ForgeError> {
        let (pages, requests) = self.client.pages(self.question.server, path, PAGES_MAX).await;
        self.requests += requests;
        pages
    }
}

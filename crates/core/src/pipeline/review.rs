//! The review gate (R1): every commit on the mainline needs the approval of a member of the team who did not write it.
//! Approvals bind exact commits: by a word to tidegate, or by a review on a forge of the change that brought the commit, as it
//! was merged. An unapproved commit stalls its own source only, and the stall says whose word is missing.

use super::{SeenCommit, SourceState};
use crate::definition::LateApproval;
use crate::forge::{Brought, ChangeRef, Forge, Landed, MergedChange, ReviewWord, Says};
use crate::ids::{CommitId, UserId};
use crate::team::Team;
use crate::units::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// The most reasons of a forge that one text names.
const LACKS_SHOWN_MAX: usize = 3;

/// A review as it counted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Review {
    /// Who approved.
    pub by: UserId,
    /// When tidegate learned of it.
    pub at: Timestamp,
    /// After the commit was on the mainline.
    pub late: bool,
    /// Where, if not by a word to tidegate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on: Option<ApprovedIn>,
}

/// A review on a forge.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApprovedIn {
    /// What was approved.
    pub change: ChangeRef,
    /// For people to look at.
    pub url: String,
    /// By which account.
    pub account: String,
    /// When, by the forge's clock.
    pub said_at: Timestamp,
    /// What of it the repository bears out.
    pub landed: Landed,
}

/// Why a commit does not count as reviewed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Unreviewed {
    /// Nobody has approved it.
    NoApproval {
        /// Who could.
        members: Vec<UserId>,
        /// Whether the team still counts an approval now that it is merged.
        late_allowed: bool,
    },
    /// Only its author has.
    OnlyByAuthor {
        /// The author.
        author: UserId,
    },
    /// The approval came after the merge, which this team forbids.
    TooLate {
        /// Who approved.
        by: UserId,
    },
    /// A forge was asked, and what it says does not count either.
    OnForge {
        /// What it lacks.
        lacks: Vec<Lack>,
        /// What is missing besides.
        by_hand: Box<Unreviewed>,
    },
}

/// Why what a forge says does not make a commit reviewed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Lack {
    /// It knows of no merged change that brought the commit.
    Pushed {
        /// Where.
        forge: Forge,
        /// In this repository.
        repository: String,
    },
    /// What was merged is not what the change's head gives, so whatever was approved is not this.
    NotAsApproved {
        /// The change.
        change: ChangeRef,
        /// What does not fit.
        why: String,
    },
    /// Nobody approved the change.
    NoApproval {
        /// The change.
        change: ChangeRef,
    },
    /// Somebody approved who is nobody's account in the team.
    Stranger {
        /// The change.
        change: ChangeRef,
        /// The account.
        account: String,
    },
    /// Somebody approved who opened the change, or wrote a part of it.
    ByAuthor {
        /// The change.
        change: ChangeRef,
        /// Who.
        by: UserId,
    },
    /// An approval was withdrawn, or its giver asked for changes since.
    Withdrawn {
        /// The change.
        change: ChangeRef,
        /// Whose.
        account: String,
        /// The last word.
        says: Says,
    },
    /// Another head was approved than the one that was merged.
    OtherHead {
        /// The change.
        change: ChangeRef,
        /// Who approved.
        by: UserId,
        /// What; none if the forge does not say.
        approved: Option<CommitId>,
        /// What was merged.
        merged: CommitId,
    },
    /// It was approved before it was pointed at the branch that it was merged into.
    Retargeted {
        /// The change.
        change: ChangeRef,
        /// Who approved.
        by: UserId,
    },
    /// The approval came after the merge, which this team forbids.
    TooLate {
        /// The change.
        change: ChangeRef,
        /// Who approved.
        by: UserId,
    },
}

impl fmt::Display for Unreviewed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unreviewed::NoApproval { members, late_allowed } => {
                let names: Vec<&str> = members.iter().map(UserId::as_str).collect();
                write!(f, "no approval by a team member other than its author ({})", names.join(", "))?;
                if *late_allowed {
                    Ok(())
                } else {
                    f.write_str("; this team forbids late approval, so revert it and let it come again through review")
                }
            }
            Unreviewed::OnlyByAuthor { author } => {
                write!(f, "approved only by {author}, who wrote it; another member has to")
            }
            Unreviewed::TooLate { by } => write!(
                f,
                "approved by {by} after the merge, which this team forbids; revert it and let it come again through review"
            ),
            Unreviewed::OnForge { lacks, by_hand } => {
                for lack in lacks.iter().take(LACKS_SHOWN_MAX) {
                    write!(f, "{lack}; ")?;
                }
                if lacks.len() > LACKS_SHOWN_MAX {
                    write!(f, "and {} more; ", lacks.len() - LACKS_SHOWN_MAX)?;
                }
                write!(f, "{by_hand}")
            }
        }
    }
}

impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Lack::Pushed { forge, repository } => {
                write!(f, "it came by no merged {} of {repository}", forge.change())
            }
            Lack::NotAsApproved { change, why } => write!(f, "{change} does not vouch for it: {why}"),
            Lack::NoApproval { change } => write!(f, "nobody has approved {change}"),
            Lack::Stranger { change, account } => {
                write!(f, "{change} was approved by '{account}', which is no account of a team member")
            }
            Lack::ByAuthor { change, by } => {
                write!(f, "{change} was approved by {by}, who opened it or wrote a part of it")
            }
            Lack::Withdrawn { change, account, says } => match says {
                Says::ChangesRequested => {
                    write!(f, "the last word of '{account}' on {change} asks for changes")
                }
                Says::Dismissed | Says::Approved => {
                    write!(f, "the approval of {change} by '{account}' was withdrawn")
                }
            },
            Lack::OtherHead { change, by, approved: Some(approved), merged } => {
                let (approved, merged) = (approved.short(), merged.short());
                write!(f, "{change} was approved by {by} for {approved}, but {merged} was merged")
            }
            Lack::OtherHead { change, by, approved: None, merged } => {
                let merged = merged.short();
                write!(
                    f,
                    "{change} was approved by {by} for nobody knows which commit, and {merged} was merged"
                )
            }
            Lack::Retargeted { change, by } => {
                write!(f, "{change} was approved by {by} before it was pointed at this branch")
            }
            Lack::TooLate { change, by } => {
                write!(f, "{change} was approved by {by} after the merge, which this team forbids")
            }
        }
    }
}

/// Judges one commit.
///
/// # Errors
/// Whose word is missing.
pub(super) fn judge(seen: &SeenCommit, team: &Team) -> Result<Review, Unreviewed> {
    let by_hand = judge_by_hand(seen, team);
    let (Some(told), true) = (&seen.told, by_hand.as_ref().map_or(true, |review| review.late)) else {
        return by_hand;
    };
    match (judge_on_forge(&told.brought, told.at, team), by_hand) {
        // A late one by hand gives way to one that was in time.
        (Ok(review), Ok(by_hand)) => Ok(if review.late { by_hand } else { review }),
        (Ok(review), Err(_)) | (Err(_), Ok(review)) => Ok(review),
        (Err(lacks), Err(by_hand)) => Err(Unreviewed::OnForge { lacks, by_hand: Box::new(by_hand) }),
    }
}

fn judge_by_hand(seen: &SeenCommit, team: &Team) -> Result<Review, Unreviewed> {
    let author = team.user_of(&seen.commit.author_email);
    let approvals = team.approvals.get(&seen.commit.id).map_or(&[][..], Vec::as_slice);
    let wrote = |user: &UserId| team.commits_as(user, &seen.commit.author_email);
    let by_others = || approvals.iter().filter(|a| !wrote(&a.by));
    let late = |at: Timestamp| at > seen.seen_at;
    let review = |by: &UserId, at, late| Review { by: by.clone(), at, late, on: None };
    if let Some(approval) = by_others().find(|a| !late(a.at)) {
        return Ok(review(&approval.by, approval.at, false));
    }
    let late_allowed = team.late_approval() == LateApproval::Allow;
    match (by_others().next(), author) {
        (Some(approval), _) if late_allowed => Ok(review(&approval.by, approval.at, true)),
        (Some(approval), _) => Err(Unreviewed::TooLate { by: approval.by.clone() }),
        (None, Some(author)) if !approvals.is_empty() => {
            Err(Unreviewed::OnlyByAuthor { author: author.clone() })
        }
        (None, _) => {
            let members = team.definition.as_ref().map_or(&[][..], |d| d.members.as_slice());
            let members = members.iter().filter(|m| !wrote(m)).cloned().collect();
            Err(Unreviewed::NoApproval { members, late_allowed })
        }
    }
}

/// An approval on the forge counts that is a member's last word, who wrote nothing of the change, about the head that was merged or
/// one that was only brought up to date since; and the repository bears out that this head is what came.
fn judge_on_forge(brought: &Brought, told_at: Timestamp, team: &Team) -> Result<Review, Vec<Lack>> {
    let Brought { forge, repository, changes } = brought;
    if changes.is_empty() {
        return Err(vec![Lack::Pushed { forge: *forge, repository: repository.clone() }]);
    }
    let (mut late, mut lacks) = (None, Vec::new());
    for merged in changes {
        let number = merged.number;
        let change = ChangeRef { forge: *forge, repository: repository.clone(), number };
        if let Landed::Otherwise { why } = &merged.landed {
            lacks.push(Lack::NotAsApproved { change, why: why.clone() });
            continue;
        }
        let before = lacks.len();
        for word in &merged.words {
            let by = match counts(word, merged, &change, team) {
                Ok(by) => by,
                Err(lack) => {
                    lacks.push(lack);
                    continue;
                }
            };
            let is_late = word.at > merged.merged_at;
            let review = Review {
                by: by.clone(),
                at: told_at,
                late: is_late,
                on: Some(ApprovedIn {
                    change: change.clone(),
                    url: merged.url.clone(),
                    account: word.account.clone(),
                    said_at: word.at,
                    landed: merged.landed.clone(),
                }),
            };
            if !is_late {
                return Ok(review);
            }
            if team.late_approval() == LateApproval::Allow {
                late.get_or_insert(review);
            } else {
                lacks.push(Lack::TooLate { change: change.clone(), by: by.clone() });
            }
        }
        if lacks.len() == before && late.is_none() {
            lacks.push(Lack::NoApproval { change });
        }
    }
    late.ok_or(lacks)
}

/// Whose approval a reviewer's last word is, apart from when it was said.
fn counts<'a>(
    word: &ReviewWord,
    merged: &MergedChange,
    change: &ChangeRef,
    team: &'a Team,
) -> Result<&'a UserId, Lack> {
    let (change, account) = (change.clone(), word.account.clone());
    if word.says != Says::Approved {
        return Err(Lack::Withdrawn { change, account, says: word.says });
    }
    let members = team.definition.as_ref().map_or(&[][..], |d| d.members.as_slice());
    let member = team.user_on(change.forge, &account).filter(|user| members.contains(user));
    let Some(user) = member else { return Err(Lack::Stranger { change, account }) };
    let by = user.clone();
    let mut hands = merged.accounts.iter().chain([&merged.author]);
    let has_a_hand = hands.any(|other| other.eq_ignore_ascii_case(&account));
    if has_a_hand || merged.authors.iter().any(|address| is_of(address, user, change.forge, team)) {
        return Err(Lack::ByAuthor { change, by });
    }
    if !word.of.as_ref().is_some_and(|of| *of == merged.head || merged.same.contains(of)) {
        let (approved, merged) = (word.of.clone(), merged.head.clone());
        return Err(Lack::OtherHead { change, by, approved, merged });
    }
    if merged.retargeted_at.is_some_and(|at| at >= word.at) {
        return Err(Lack::Retargeted { change, by });
    }
    Ok(user)
}

/// Whether somebody commits under this address, those included that a forge gives to accounts whose own is private.
fn is_of(address: &str, user: &UserId, forge: Forge, team: &Team) -> bool {
    if team.commits_as(user, address) {
        return true;
    }
    let Some(account) = team.accounts.get(user).and_then(|accounts| accounts.on(forge)) else { return false };
    // `7+octocat@users.noreply.github.com`, `octocat@users.noreply.github.com`, `7-bob@users.noreply.gitlab.com`.
    let Some((name, host)) = address.split_once('@') else { return false };
    let bare = name.trim_start_matches(|c: char| c.is_ascii_digit()).trim_start_matches(['+', '-']);
    let is = |name: &str| name.eq_ignore_ascii_case(account);
    host.to_ascii_lowercase().contains("noreply") && (is(name) || is(bare))
}

/// Every pending commit of a source that does not count as reviewed, ancestors first.
#[must_use]
pub fn unreviewed<'a>(source: &'a SourceState, team: &Team) -> Vec<(&'a SeenCommit, Unreviewed)> {
    source.pending.iter().filter_map(|seen| judge(seen, team).err().map(|why| (seen, why))).collect()
}

/// The newest mainline commit whose whole pending ancestry is approved, and that ancestry, ancestors first.
pub(super) fn newest_approved<'a>(
    source: &'a SourceState,
    team: &Team,
) -> Option<(&'a CommitId, Vec<(&'a SeenCommit, Review)>)> {
    let by_id: BTreeMap<&CommitId, &SeenCommit> = source.pending.iter().map(|s| (&s.commit.id, s)).collect();
    // Ancestors come first, so that one pass knows whether all of a commit's ancestry is approved.
    let mut reviews: BTreeMap<&CommitId, Review> = BTreeMap::new();
    for seen in &source.pending {
        let ancestry = seen.commit.parents.iter().all(|p| !by_id.contains_key(p) || reviews.contains_key(p));
        if let (true, Ok(review)) = (ancestry, judge(seen, team)) {
            reviews.insert(&seen.commit.id, review);
        }
    }
    let mut at = source.head.as_ref();
    while let Some(id) = at.filter(|id| !reviews.contains_key(id)) {
        at = by_id.get(id).and_then(|seen| seen.commit.parents.first());
    }
    let chosen = at?;
    let (mut wanted, mut open) = (BTreeSet::new(), vec![chosen]);
    while let Some(id) = open.pop() {
        if let Some(seen) = by_id.get(id).filter(|_| wanted.insert(id)) {
            open.extend(seen.commit.parents.iter());
        }
    }
    let taken = source
        .pending
        .iter()
        .filter(|s| wanted.contains(&s.commit.id))
        .filter_map(|s| Some((s, reviews.get(&s.commit.id)?.clone())))
        .collect();
    Some((chosen, taken))
}

/// Takes the mainline's newest commit without asking for reviews; for the test-only switch that proves that somebody would
/// notice.
pub(super) fn unchecked(source: &SourceState) -> Option<(&CommitId, Vec<(&SeenCommit, Review)>)> {
    let head = source.head.as_ref().filter(|_| !source.pending.is_empty())?;
    let review = |seen: &SeenCommit| Review {
        by: UserId::new("nobody").expect("a word is a valid user name"),
        at: seen.seen_at,
        late: false,
        on: None,
    };
    Some((head, source.pending.iter().map(|s| (s, review(s))).collect()))
}

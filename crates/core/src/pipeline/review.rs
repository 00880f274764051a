//! The review gate (R1): every commit on the mainline needs the approval of a member of the team who did not write it.
//! Approvals bind exact commits. An unapproved commit stalls its own source only, and the stall says whose word is missing.

use super::{SeenCommit, SourceState};
use crate::definition::LateApproval;
use crate::ids::{CommitId, UserId};
use crate::team::Team;
use crate::units::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// A review as it counted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Review {
    /// Who approved.
    pub by: UserId,
    /// When.
    pub at: Timestamp,
    /// After the commit was on the mainline.
    pub late: bool,
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
        }
    }
}

/// Judges one commit.
///
/// # Errors
/// Whose word is missing.
pub(super) fn judge(seen: &SeenCommit, team: &Team) -> Result<Review, Unreviewed> {
    let author = team.user_of(&seen.commit.author_email);
    let approvals = team.approvals.get(&seen.commit.id).map_or(&[][..], Vec::as_slice);
    let by_others = || approvals.iter().filter(|a| Some(&a.by) != author);
    let late = |at: Timestamp| at > seen.seen_at;
    if let Some(approval) = by_others().find(|a| !late(a.at)) {
        return Ok(Review { by: approval.by.clone(), at: approval.at, late: false });
    }
    let late_allowed = team.late_approval() == LateApproval::Allow;
    match (by_others().next(), author) {
        (Some(approval), _) if late_allowed => {
            Ok(Review { by: approval.by.clone(), at: approval.at, late: true })
        }
        (Some(approval), _) => Err(Unreviewed::TooLate { by: approval.by.clone() }),
        (None, Some(author)) if !approvals.is_empty() => {
            Err(Unreviewed::OnlyByAuthor { author: author.clone() })
        }
        (None, _) => {
            let members = team.definition.as_ref().map_or(&[][..], |d| d.members.as_slice());
            let members = members.iter().filter(|m| Some(*m) != author).cloned().collect();
            Err(Unreviewed::NoApproval { members, late_allowed })
        }
    }
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
    };
    Some((head, source.pending.iter().map(|s| (s, review(s))).collect()))
}

//! The sources: linear histories in which some commits are flawed, some mend or revert others, and some were not reviewed.
//! What a package does is decided by the commits that it is built from.

use crate::rng::{Rng, hex_of};
use crate::setup::{PEOPLE, email, word};
use std::collections::{BTreeMap, BTreeSet};
use tidegate_core::change::{Commit, SourceObservation};
use tidegate_core::ids::{CommitId, PackageDigest, PipelineId, SourceId, UserId};
use tidegate_core::units::Timestamp;

/// What a commit breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Flaw {
    FailsBuild,
    FailsTests,
    /// Its boxes start and are never healthy.
    NeverHealthy,
    /// Its boxes make an alarm fire so long after they began to serve.
    Alarm {
        after_ms: i64,
    },
}

#[derive(Debug, Clone)]
pub(crate) struct SimCommit {
    pub(crate) commit: Commit,
    pub(crate) author: &'static str,
    pub(crate) flaw: Option<Flaw>,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Repo {
    pub(crate) history: Vec<SimCommit>,
}

/// What a builder has made.
#[derive(Debug, Clone)]
pub(crate) struct Package {
    pub(crate) pipeline: PipelineId,
    /// All commits in it, ancestors included.
    pub(crate) commits: BTreeSet<CommitId>,
    pub(crate) flaws: BTreeSet<Flaw>,
}

impl Repo {
    /// Adds a commit to the mainline.
    pub(crate) fn push(&mut self, source: &SourceId, now: i64, draft: Draft, rng: &mut Rng) -> SimCommit {
        let number = self.history.len();
        let author = rng.pick(&PEOPLE).copied().unwrap_or(PEOPLE[0]);
        let commit = Commit {
            id: word(&hex_of(&format!("{source}/{number}"), 40)),
            parents: self.history.last().map(|c| c.commit.id.clone()).into_iter().collect(),
            author_name: author.to_owned(),
            author_email: email(author),
            committed_at: Timestamp(now),
            subject: format!("change {number}: {draft:?}").chars().take(100).collect(),
            reverts: draft.reverts,
            fixes: draft.fixes.iter().map(|c| c.as_str()[..12].to_owned()).collect(),
        };
        let pushed = SimCommit { commit, author, flaw: draft.flaw };
        self.history.push(pushed.clone());
        pushed
    }

    /// What a look at it finds, for somebody who knew `head`.
    pub(crate) fn observe(&self, head: Option<&CommitId>) -> Option<SourceObservation> {
        let newest = self.history.last()?;
        let known =
            head.and_then(|h| self.history.iter().position(|c| &c.commit.id == h)).map_or(0, |n| n + 1);
        let commits = self.history[known..].iter().map(|c| c.commit.clone()).collect();
        Some(SourceObservation { head: newest.commit.id.clone(), commits, rewritten: false })
    }

    /// A commit and all its ancestors.
    pub(crate) fn ancestry(&self, commit: &CommitId) -> &[SimCommit] {
        let end = self.history.iter().position(|c| &c.commit.id == commit).map_or(0, |n| n + 1);
        &self.history[..end]
    }

    /// Flawed commits of the ancestry that nothing later in it mends.
    pub(crate) fn unmended(&self, commit: &CommitId) -> Vec<&SimCommit> {
        let all = self.ancestry(commit);
        let mended = |n: usize, id: &CommitId| {
            all[n + 1..].iter().any(|c| c.commit.reverts.contains(id) || c.commit.names_as_fixed(id))
        };
        all.iter()
            .enumerate()
            .filter(|(n, c)| c.flaw.is_some() && !mended(*n, &c.commit.id))
            .map(|(_, c)| c)
            .collect()
    }
}

/// What a commit will say and do.
#[derive(Debug, Clone, Default)]
pub(crate) struct Draft {
    pub(crate) flaw: Option<Flaw>,
    pub(crate) reverts: Vec<CommitId>,
    pub(crate) fixes: Vec<CommitId>,
}

/// All repositories and what was built of them, and who truly approved what.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sources {
    pub(crate) repos: BTreeMap<SourceId, Repo>,
    pub(crate) packages: BTreeMap<PackageDigest, Package>,
    pub(crate) approvals: BTreeMap<CommitId, BTreeSet<UserId>>,
    /// Approvals that were given while the store failed: they may have been recorded.
    unsure: BTreeMap<CommitId, BTreeSet<UserId>>,
}

impl Sources {
    /// Builds: the same commits give the same bytes. The second value is whether the build succeeds.
    pub(crate) fn build(
        &mut self,
        pipeline: &PipelineId,
        commits: &BTreeMap<SourceId, CommitId>,
    ) -> (PackageDigest, bool) {
        let digest: PackageDigest = word(&hex_of(&format!("{pipeline} {commits:?}"), 64));
        let mut package =
            Package { pipeline: pipeline.clone(), commits: BTreeSet::new(), flaws: BTreeSet::new() };
        for (source, commit) in commits {
            let Some(repo) = self.repos.get(source) else { continue };
            package.commits.extend(repo.ancestry(commit).iter().map(|c| c.commit.id.clone()));
            package.flaws.extend(repo.unmended(commit).iter().filter_map(|c| c.flaw));
        }
        let succeeds = !package.flaws.contains(&Flaw::FailsBuild);
        self.packages.insert(digest.clone(), package);
        (digest, succeeds)
    }

    pub(crate) fn find(&self, commit: &CommitId) -> Option<&SimCommit> {
        self.repos.values().flat_map(|r| &r.history).find(|c| &c.commit.id == commit)
    }

    /// Whether somebody who did not write it has approved it.
    pub(crate) fn reviewed(&self, commit: &CommitId) -> bool {
        let Some(known) = self.find(commit) else { return false };
        let by_another = |by: &BTreeSet<UserId>| by.iter().any(|user| user.as_str() != known.author);
        self.approvals.get(commit).is_some_and(by_another) || self.unsure.get(commit).is_some_and(by_another)
    }

    /// Somebody has approved, and nobody knows whether it was recorded.
    pub(crate) fn maybe_approved(&mut self, commit: &CommitId, by: &UserId) {
        self.unsure.entry(commit.clone()).or_default().insert(by.clone());
    }
}

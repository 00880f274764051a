//! What a repository bears out of a change that a forge says was merged: that the files which came are those which merging the
//! approved head gives. A forge's word alone would vouch for whatever else a merge commit holds.
//!
//! What must hold: a commit is vouched for only if it is the change's own by name and came with it, or its files are computed here
//! to be the merge's; an older head vouches for nothing that its reviewer was not shown; whatever cannot be computed is told and
//! vouched for by nobody.

use super::{CALL_TIME_MAX, GitError, Mirror};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tidegate_core::forge::Landed;
use tidegate_core::ids::CommitId;
use tokio::io::AsyncReadExt;

/// The most commits of a change that are looked at; GitHub lists no more than these.
pub const OWN_COMMITS_MAX: usize = 250;
/// The most merges within a change that are computed anew; whoever made more of them wrote them.
const MERGES_MAX: usize = 20;
/// The most commits of a change that are compared with those that they were rebased from; an older head vouches for no others.
const TWINS_MAX: usize = 50;
/// How long fetching a change's head may take: much less than a whole repository.
const FETCH_ONE_TIME_MAX: Duration = Duration::from_secs(60);
/// The most addresses of authors that are kept of a change; one with more is vouched for by nobody.
const AUTHORS_MAX: usize = 100;
/// The longest address, in characters; longer ones are cut.
const ADDRESS_CHARS_MAX: usize = 200;
/// What git says when a repository does not have, or does not give, what is asked for by name.
const ABSENT: [&str; 3] = ["couldn't find remote ref", "not our ref", "unadvertised object"];
/// The committer of what is done on GitHub's pages.
const GITHUB: &str = "noreply@github.com";
/// What is read of commits, in bytes: more is a change that nobody vouches for.
const READ_BYTES_MAX: u64 = 8 << 20;
/// Between the commits that git prints. It may stand in a subject as well; what is then read is none of the commits asked for.
const RECORD: char = '\u{1}';
/// Between the fields of a commit, in none of which it can stand.
const FIELD: char = '\u{0}';

/// A merge, by a forge's word.
#[derive(Debug, Clone)]
pub struct Merge<'a> {
    /// The reference under which the forge keeps the change's head.
    pub reference: &'a str,
    /// The change's head.
    pub head: &'a CommitId,
    /// The commit that the mainline got.
    pub landed: &'a CommitId,
    /// The commit that all of the change was made one in, where it was merged after that.
    pub squashed: Option<&'a CommitId>,
    /// The change's own commits: those that reviewers were shown.
    pub own: &'a [CommitId],
    /// Heads that it had before and that were approved.
    pub older: &'a [CommitId],
    /// The mainline.
    pub branch: &'a str,
}

/// What the repository bears out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BorneOut {
    /// Commits that the change's head vouches for.
    pub commits: BTreeMap<CommitId, Landed>,
    /// Who wrote or committed the change's own commits, and those of [`BorneOut::same`].
    pub authors: Vec<String>,
    /// Those of the change's own commits that nobody wrote: merges that have just the files that merging gives.
    pub written_by_nobody: BTreeSet<CommitId>,
    /// Those of them that are commits of an older head, made anew: whoever committed them wrote nothing of them.
    pub rebased: BTreeSet<CommitId>,
    /// The older heads that the head is, brought up to date, and nothing more; and the commits that each of them vouches for.
    pub same: BTreeMap<CommitId, BTreeSet<CommitId>>,
    /// Why the commit that the mainline got is not among them.
    pub why_not: Option<String>,
}

/// One of a change's own commits.
struct Own {
    id: CommitId,
    parents: Vec<CommitId>,
    author: String,
    /// Whoever rebases or amends a commit of somebody else has had a hand in it.
    committer: String,
    subject: String,
    /// In `Co-authored-by:` trailers.
    others: Vec<String>,
}

impl Own {
    /// Whose it is. A committer that is the forge itself is no member's address.
    fn by(&self, committer_too: bool) -> impl Iterator<Item = String> {
        let committer = committer_too.then_some(&self.committer).into_iter();
        [&self.author].into_iter().chain(committer).chain(&self.others).cloned()
    }

    /// Whether another commit may be this one, made anew. Whoever amended this one must be known by that one as well.
    fn may_have_become(&self, other: &Own) -> bool {
        let hands = [self.author.as_str(), other.committer.as_str(), GITHUB];
        self.author == other.author
            && self.subject == other.subject
            && self.others == other.others
            && hands.contains(&self.committer.as_str())
    }
}

impl Mirror {
    /// Looks what became of a merged change.
    ///
    /// # Errors
    /// The repository cannot be read at present; nothing is known then.
    pub async fn bears_out(&self, merge: &Merge<'_>) -> Result<BorneOut, GitError> {
        let nothing = |why: String| Ok(BorneOut { why_not: Some(why), ..BorneOut::default() });
        let Merge { head, landed, own, branch, .. } = merge;
        if own.len() >= OWN_COMMITS_MAX {
            return nothing(format!("it has {OWN_COMMITS_MAX} commits or more, and no more can be listed"));
        }
        if !self.has(head).await? && !self.fetch_reference(merge.reference).await? {
            return nothing(format!("the repository has no reference '{}'", merge.reference));
        }
        if !self.has(head).await? {
            return nothing(format!("the repository does not have its head {}", head.short()));
        }
        let Some(commits) = self.own_commits(head, own).await? else {
            return nothing("not all of its commits are below its head".to_owned());
        };
        let tip = self.head(branch).await?;
        if !self.is_ancestor(landed, &tip).await? {
            return nothing(format!("{} is not on {branch}", landed.short()));
        }
        let ids: BTreeSet<CommitId> = commits.iter().map(|c| c.id.clone()).collect();
        let forward = ids.contains(*landed);
        let merged = if forward { Ok(Vec::new()) } else { self.merged(merge, &commits).await? };
        let mut found = BorneOut::default();
        // What was on the mainline before came by itself, whatever the forge lists.
        let came = if forward {
            Some(ids)
        } else {
            let made = merged.iter().flatten().filter(|(_, how)| *how == Landed::Rebase).count();
            self.came(&ids, &format!("{landed}~{}", made.max(1))).await?
        };
        let Some(came) = came else {
            return nothing(format!("what came with {} cannot be listed", landed.short()));
        };
        found.commits.extend(came.into_iter().map(|id| (id, Landed::Own)));
        match merged {
            Ok(merged) => found.commits.extend(merged),
            Err(why) => found.why_not = Some(why),
        }
        found.written_by_nobody = self.clean_merges(&commits).await?;
        let mut authors = BTreeSet::new();
        if found.why_not.is_none() {
            self.older_heads(merge, &commits, &mut found, &mut authors).await?;
        }
        for commit in commits.iter().filter(|c| !found.written_by_nobody.contains(&c.id)) {
            // Whoever rebased a commit, and did nothing else to it, wrote nothing of it.
            authors.extend(commit.by(!found.rebased.contains(&commit.id)));
        }
        if authors.len() > AUTHORS_MAX {
            return nothing(format!("it was written by more than {AUTHORS_MAX} people"));
        }
        found.authors = authors.into_iter().collect();
        Ok(found)
    }

    /// Those of these commits that are not below another; nothing if that is too long a list.
    async fn came(
        &self,
        ids: &BTreeSet<CommitId>,
        before: &str,
    ) -> Result<Option<BTreeSet<CommitId>>, GitError> {
        let mut input: String = ids.iter().map(|id| format!("{id}\n")).collect();
        input.push_str(&format!("^{before}\n"));
        let Some(listed) = self.with_input(&["rev-list", "--stdin"], &input).await? else { return Ok(None) };
        let listed = listed.lines().filter_map(|id| CommitId::new(id).ok());
        Ok(Some(listed.filter(|id| ids.contains(id)).collect()))
    }

    /// Finds the older heads that merging into what the head begins at gives the head's files of, and what they vouch for.
    /// Whoever wrote those wrote the change as well.
    async fn older_heads(
        &self,
        merge: &Merge<'_>,
        own: &[Own],
        found: &mut BorneOut,
        authors: &mut BTreeSet<String>,
    ) -> Result<(), GitError> {
        if merge.older.is_empty() {
            return Ok(());
        }
        let Some(base) = self.base(merge, own).await? else { return Ok(()) };
        for older in merge.older {
            let there = self.has(older).await? || self.fetch_reference(older.as_str()).await?;
            if !there || self.is_merge_of(merge.head, &base, older).await?.is_err() {
                continue;
            }
            let limit = format!("--max-count={OWN_COMMITS_MAX}");
            let listed = self.local(&["rev-list", &limit, older.as_str(), &format!("^{base}")]).await?;
            let ids: Vec<CommitId> = listed.lines().filter_map(|id| CommitId::new(id).ok()).collect();
            let Some(shown) = self.read_own(&ids).await?.filter(|_| ids.len() < OWN_COMMITS_MAX) else {
                continue;
            };
            let nobody = self.clean_merges(&shown).await?;
            let plain: Vec<&Own> = shown.iter().filter(|c| !nobody.contains(&c.id)).collect();
            authors.extend(plain.iter().flat_map(|c| c.by(true)));
            let vouched = self.vouched_for(&plain, own, found).await?;
            found.same.insert(older.clone(), vouched);
        }
        Ok(())
    }

    /// What an older head vouches for, whose commits these are, but for merges that bring nothing of their own: for them, for what
    /// they became when the change was rebased, for such merges, and for what was made of the whole change. All else came after
    /// it, even if it was taken back again.
    async fn vouched_for(
        &self,
        shown: &[&Own],
        own: &[Own],
        found: &mut BorneOut,
    ) -> Result<BTreeSet<CommitId>, GitError> {
        let below: BTreeSet<&CommitId> = shown.iter().map(|c| &c.id).collect();
        let of = |what: &[Landed]| -> Vec<CommitId> {
            found.commits.iter().filter(|(_, how)| what.contains(how)).map(|(id, _)| id.clone()).collect()
        };
        let (whole, rebased) = (of(&[Landed::Merge, Landed::Squash]), of(&[Landed::Rebase]));
        let nobody = found.written_by_nobody.iter().filter(|id| found.commits.contains_key(*id));
        let mut vouched: BTreeSet<CommitId> = nobody.cloned().collect();
        // Of these the forge says whose they are.
        let mut known = BTreeSet::new();
        let rebased = self.read_own(&rebased).await?.unwrap_or_default();
        let mut compared = 0;
        for (commit, is_own) in own.iter().map(|c| (c, true)).chain(rebased.iter().map(|c| (c, false))) {
            let mut twin = below.get(&commit.id).copied();
            if twin.is_none() {
                for of in shown.iter().filter(|of| of.may_have_become(commit)) {
                    compared += 1;
                    if compared <= TWINS_MAX && self.is_rebased(commit, of).await? {
                        found.rebased.insert(commit.id.clone());
                        twin = Some(&of.id);
                        break;
                    }
                }
            }
            let Some(twin) = twin else { continue };
            if is_own {
                known.insert(twin);
            }
            if found.commits.contains_key(&commit.id) {
                vouched.insert(commit.id.clone());
            }
        }
        // A part of the older head that is no part of the newest may be anybody's.
        if known == below {
            vouched.extend(whole);
        }
        Ok(vouched)
    }

    /// Whether a commit has exactly the files that making `of` anew on its parent gives.
    async fn is_rebased(&self, commit: &Own, of: &Own) -> Result<bool, GitError> {
        let ([onto], [from]) = (&commit.parents[..], &of.parents[..]) else { return Ok(false) };
        let base = format!("--merge-base={from}");
        let args = ["merge-tree", "--write-tree", "--no-messages", &base, onto.as_str(), of.id.as_str()];
        let finished = self.git.run(&args, &[], CALL_TIME_MAX).await?;
        if finished.code != Some(0) {
            return Ok(false);
        }
        let has = self.local(&["rev-parse", "--verify", &format!("{}^{{tree}}", commit.id)]).await?;
        Ok(finished.text().lines().next() == Some(has.as_str()))
    }

    /// The merges among these commits that have just the files that merging gives. They were written by nobody: they are of
    /// whoever pressed the button.
    async fn clean_merges(&self, commits: &[Own]) -> Result<BTreeSet<CommitId>, GitError> {
        let (mut clean, mut merges) = (BTreeSet::new(), 0);
        for commit in commits {
            let [first, second] = &commit.parents[..] else { continue };
            merges += 1;
            if merges <= MERGES_MAX && self.is_merge_of(&commit.id, first, second).await?.is_ok() {
                clean.insert(commit.id.clone());
            }
        }
        Ok(clean)
    }

    /// The mainline's commit that the change's head was brought up to date with last.
    async fn base(&self, merge: &Merge<'_>, own: &[Own]) -> Result<Option<CommitId>, GitError> {
        let ids: BTreeSet<&CommitId> = own.iter().map(|own| &own.id).collect();
        if !ids.contains(merge.landed) {
            let before = format!("{}^1", merge.landed);
            let base =
                self.git.run(&["merge-base", &before, merge.head.as_str()], &[], CALL_TIME_MAX).await?;
            return Ok(CommitId::new(base.text()).ok());
        }
        // The mainline was moved forward: it is what the change's own commits stand on, if that is one commit.
        let below: BTreeSet<&CommitId> =
            own.iter().flat_map(|own| &own.parents).filter(|parent| !ids.contains(parent)).collect();
        Ok((below.len() == 1).then(|| below.into_iter().next().cloned()).flatten())
    }

    /// What was made of the change when it was merged, if it is what its head gives.
    async fn merged(
        &self,
        merge: &Merge<'_>,
        own: &[Own],
    ) -> Result<Result<Vec<(CommitId, Landed)>, String>, GitError> {
        let Merge { head, landed, squashed, .. } = merge;
        match &self.parents(landed).await?[..] {
            [first, second] if second == *head => {
                let right = self.is_merge_of(landed, first, head).await?;
                Ok(right.map(|()| vec![((*landed).clone(), Landed::Merge)]))
            }
            [first, second] if Some(second) == *squashed => {
                let [base] = &self.parents(second).await?[..] else {
                    return Ok(Err(format!("{} is no squashed commit", second.short())));
                };
                if let Err(why) = self.is_merge_of(second, base, head).await? {
                    return Ok(Err(why));
                }
                let right = self.is_merge_of(landed, first, second).await?;
                Ok(right.map(|()| vec![((*landed).clone(), Landed::Merge), (second.clone(), Landed::Squash)]))
            }
            [_, second] => Ok(Err(format!(
                "{} merges {}, and its head is {}",
                landed.short(),
                second.short(),
                head.short()
            ))),
            [only] => {
                if let Some(rebased) = self.rebased(landed, head, own).await? {
                    return Ok(Ok(rebased));
                }
                let right = self.is_merge_of(landed, only, head).await?;
                Ok(right.map(|()| vec![((*landed).clone(), Landed::Squash)]))
            }
            parents => Ok(Err(format!("{} has {} parents", landed.short(), parents.len()))),
        }
    }

    /// The commits that the change's own were made anew in: as many, by the same people, with the same subjects, and the last with
    /// the files that merging the head gives.
    async fn rebased(
        &self,
        last: &CommitId,
        head: &CommitId,
        own: &[Own],
    ) -> Result<Option<Vec<(CommitId, Landed)>>, GitError> {
        let plain: Vec<&Own> = own.iter().filter(|c| c.parents.len() < 2).collect();
        if plain.len() < 2 {
            return Ok(None);
        }
        let (mut chain, mut at) = (Vec::new(), last.clone());
        while chain.len() < plain.len() {
            let [only] = &self.parents(&at).await?[..] else { return Ok(None) };
            chain.push(std::mem::replace(&mut at, only.clone()));
        }
        let Some(made) = self.read_own(&chain).await? else { return Ok(None) };
        let told = |c: &Own| (c.author.clone(), c.subject.clone());
        let (mut made, mut plain): (Vec<_>, Vec<_>) =
            (made.iter().map(told).collect(), plain.into_iter().map(told).collect());
        made.sort();
        plain.sort();
        if made != plain || self.is_merge_of(last, &at, head).await?.is_err() {
            return Ok(None);
        }
        Ok(Some(chain.into_iter().map(|id| (id, Landed::Rebase)).collect()))
    }

    /// Whether a commit has exactly the files that merging `theirs` into `ours` gives, without anybody's hand.
    async fn is_merge_of(
        &self,
        commit: &CommitId,
        ours: &CommitId,
        theirs: &CommitId,
    ) -> Result<Result<(), String>, GitError> {
        let args = ["merge-tree", "--write-tree", "--no-messages", ours.as_str(), theirs.as_str()];
        let finished = self.git.run(&args, &[], CALL_TIME_MAX).await?;
        let (ours, theirs) = (ours.short(), theirs.short());
        match finished.code {
            Some(0) => {}
            Some(1) => {
                return Ok(Err(format!("{theirs} does not merge into {ours} without conflicts")));
            }
            _ => return Ok(Err(format!("{theirs} cannot be merged into {ours}: {}", finished.message))),
        }
        let text = finished.text();
        let merged = text.lines().next().unwrap_or_default();
        let has = self.local(&["rev-parse", "--verify", &format!("{commit}^{{tree}}")]).await?;
        if merged == has {
            return Ok(Ok(()));
        }
        Ok(Err(format!("{} has other files than {theirs} gives on top of {ours}", commit.short())))
    }

    async fn parents(&self, commit: &CommitId) -> Result<Vec<CommitId>, GitError> {
        let listed = self.local(&["rev-list", "--parents", "--max-count=1", commit.as_str()]).await?;
        Ok(listed.split_whitespace().skip(1).filter_map(|p| CommitId::new(p).ok()).collect())
    }

    /// The change's own commits; none if one is not there, or not below the head.
    async fn own_commits(&self, head: &CommitId, own: &[CommitId]) -> Result<Option<Vec<Own>>, GitError> {
        let Some(commits) = self.read_own(own).await? else { return Ok(None) };
        let mut input: String = own.iter().map(|id| format!("{id}\n")).collect();
        input.push_str(&format!("^{head}\n"));
        let outside = self.with_input(&["rev-list", "--max-count=1", "--stdin"], &input).await?;
        Ok((outside.as_deref() == Some("") && !own.is_empty()).then_some(commits))
    }

    /// These commits, in this order; none if one is not there.
    async fn read_own(&self, ids: &[CommitId]) -> Result<Option<Vec<Own>>, GitError> {
        let format = "--format=%x01%H%x00%P%x00%ae%x00%ce%x00%s%x00%(trailers:key=Co-authored-by,valueonly)";
        let input: String = ids.iter().map(|id| format!("{id}\n")).collect();
        let args = ["log", "--no-walk=unsorted", "--stdin", "--no-show-signature", format];
        let Some(listed) = self.with_input(&args, &input).await? else { return Ok(None) };
        let read: Vec<Own> = listed.split(RECORD).filter_map(read_one).collect();
        Ok((read.iter().map(|own| &own.id).eq(ids)).then_some(read))
    }

    /// What a call prints that reads names of commits; none if it does not know one.
    async fn with_input(&self, args: &[&str], input: &str) -> Result<Option<String>, GitError> {
        let read = async |mut stdout: tokio::process::ChildStdout| {
            let mut bytes = Vec::new();
            (&mut stdout).take(READ_BYTES_MAX).read_to_end(&mut bytes).await?;
            Ok(bytes)
        };
        let (bytes, finished) = self.git.run_with(args, &[], input.as_bytes(), CALL_TIME_MAX, read).await?;
        let text = String::from_utf8_lossy(&bytes).trim_end().to_owned();
        Ok((finished.code == Some(0) && (bytes.len() as u64) < READ_BYTES_MAX).then_some(text))
    }

    /// Fetches what a reference of the repository names, under no name here; whether there is one.
    async fn fetch_reference(&self, reference: &str) -> Result<bool, GitError> {
        let _fetching = self.fetching_one.lock().await;
        let args = [
            "fetch",
            "--quiet",
            "--no-tags",
            "--no-auto-maintenance",
            "--no-write-fetch-head",
            "--no-recurse-submodules",
            "--end-of-options",
            &self.url,
            reference,
        ];
        let time = self.fetch_time.min(FETCH_ONE_TIME_MAX);
        let finished = self.git.run(&args, &[], time).await?;
        match finished.code {
            Some(0) => Ok(true),
            _ if ABSENT.iter().any(|word| finished.message.contains(word)) => Ok(false),
            _ => Err(self.fetch_error(finished.message)),
        }
    }
}

fn read_one(text: &str) -> Option<Own> {
    let mut fields = text.split(FIELD);
    let mut field = || fields.next();
    let (id, parents, author, committer, subject) = (field()?, field()?, field()?, field()?, field()?);
    let address = |text: &str| -> String { text.trim().chars().take(ADDRESS_CHARS_MAX).collect() };
    let others = field()?.lines().filter_map(|line| Some(line.rsplit_once('<')?.1.split_once('>')?.0));
    Some(Own {
        id: CommitId::new(id.trim()).ok()?,
        parents: parents.split_whitespace().filter_map(|p| CommitId::new(p).ok()).collect(),
        author: address(author),
        committer: address(committer),
        subject: subject.to_owned(),
        others: others.map(address).collect(),
    })
}

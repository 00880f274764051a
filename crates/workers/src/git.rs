//! Sources: what has come to a repository's mainline, and its files at a commit. Through the git command line,
//! because that is the only client that understands every git server.
//!
//! What must hold: the answer depends on the repository alone, nothing from it is executed, and all it says (names,
//! subjects, paths) is taken as untrusted text with limits.

mod changes;
mod command;
mod commit;

pub use changes::{BorneOut, Merge, OWN_COMMITS_MAX};

use crate::secrets::Secret;
use command::{Finished, Git, SETTINGS_FILE};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};
use tidegate_core::change::{Commit, SourceObservation};
use tidegate_core::ids::CommitId;
use tidegate_core::units::Timestamp;
use tokio::io::BufReader;
use tokio::sync::Mutex;

/// How long a fetch may take: the first one of a large repository.
pub const FETCH_TIME_MAX: Duration = Duration::from_secs(20 * 60);
/// How long a call on the mirror may take.
pub const CALL_TIME_MAX: Duration = Duration::from_secs(120);
/// The most that an exported commit's files may have together, in bytes: 4 GiB.
pub const EXPORT_BYTES_MAX: u64 = 4 << 30;
/// The most new commits that one observation may find.
pub const COMMITS_MAX: usize = 2_000;
const EXPORT_PREFIX: &str = ".export-";
/// How many branches an error lists.
const BRANCHES_SHOWN_MAX: usize = 10;

/// Why a source cannot be read. The messages are free of secrets.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say what the fields are")]
pub enum GitError {
    #[error("'{url}' is not a usable repository URL: {why}")]
    Url { url: String, why: &'static str },
    #[error("failed to use the mirror {path}", path = path.display())]
    Mirror { path: PathBuf, source: std::io::Error },
    #[error("failed to run 'git {call}'")]
    Call { call: String, source: std::io::Error },
    #[error("'git {call}' took longer than {} seconds", limit.as_secs())]
    TimeLimit { call: String, limit: Duration },
    #[error("'git {call}' ended with exit code {code:?}: {message}")]
    Failed { call: String, code: Option<i32>, message: String },
    #[error("repository {url} is not there (any more): {message}")]
    RepositoryMissing { url: String, message: String },
    #[error("repository {url} does not let us in: {message}")]
    AccessDenied { url: String, message: String },
    #[error("failed to fetch {url}: {message}")]
    Fetch { url: String, message: String },
    #[error("repository {url} has no commit yet")]
    Empty { url: String },
    #[error("repository {url} has no branch '{branch}'; it has {existing}")]
    BranchMissing { url: String, branch: String, existing: String },
    #[error(
        "repository {url} has more than {limit} new commits; name the commit up to which its history counts as \
         reviewed as 'since' in the source's definition"
    )]
    TooManyCommits { url: String, limit: usize },
    #[error("commit {commit} is not in the mirror of {url}")]
    CommitMissing { url: String, commit: CommitId },
    #[error(
        "the files of commit {commit} have {bytes} bytes together, more than the limit of {EXPORT_BYTES_MAX}"
    )]
    TooLarge { commit: CommitId, bytes: u64 },
}

/// A local copy of a repository's branches, in a folder of its own. One process uses it at a time.
pub struct Mirror {
    git: Git,
    url: String,
    /// Held while references change: when the newest fetch that went well began.
    fetching: Mutex<Option<Instant>>,
    /// Held while something is fetched that no reference here will name: nobody who looks at branches waits for that.
    fetching_one: Mutex<()>,
    fetch_time: Duration,
}

impl Mirror {
    /// Opens the mirror in `dir`, and makes it if it is not there; does not contact the repository. `secret` is
    /// `user:password`, a token, or for ssh a private key.
    pub async fn open(dir: &Path, url: &str, secret: Option<Secret>) -> Result<Mirror, GitError> {
        check_url(url)?;
        let dir =
            std::path::absolute(dir).map_err(|source| GitError::Mirror { path: dir.to_owned(), source })?;
        let git = Git::new(&dir, url, secret);
        let mirror = Mirror {
            git,
            url: url.to_owned(),
            fetching: Mutex::new(None),
            fetching_one: Mutex::new(()),
            fetch_time: FETCH_TIME_MAX,
        };
        mirror.prepare().await?;
        remove_leavings(&mirror.git.dir).map_err(|e| mirror.fail(e))?;
        Ok(mirror)
    }

    /// The same with another limit for a fetch than [`FETCH_TIME_MAX`].
    #[must_use]
    pub fn with_fetch_time(self, fetch_time: Duration) -> Mirror {
        Mirror { fetch_time, ..self }
    }

    /// The URL that it mirrors.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    fn fail(&self, source: std::io::Error) -> GitError {
        GitError::Mirror { path: self.git.dir.clone(), source }
    }

    async fn prepare(&self) -> Result<(), GitError> {
        let dir = &self.git.dir;
        fs::create_dir_all(dir).map_err(|e| self.fail(e))?;
        fs::write(dir.join(SETTINGS_FILE), self.git.settings()).map_err(|e| self.fail(e))?;
        if !dir.join("HEAD").exists() {
            self.init("sha1").await?;
        }
        Ok(())
    }

    async fn init(&self, format: &str) -> Result<(), GitError> {
        let format = format!("--object-format={format}");
        self.local(&["init", "--quiet", "--bare", "--template=", &format, "."]).await.map(|_| ())
    }

    /// Throws the copy away and begins anew: for one that is damaged or of another object format.
    async fn reset(&self, format: &str) -> Result<(), GitError> {
        let remove = |e: fs::DirEntry| {
            if e.file_type()?.is_dir() { fs::remove_dir_all(e.path()) } else { fs::remove_file(e.path()) }
        };
        fs::read_dir(&self.git.dir)
            .and_then(|mut entries| entries.try_for_each(|e| remove(e?)))
            .and_then(|()| fs::write(self.git.dir.join(SETTINGS_FILE), self.git.settings()))
            .map_err(|e| self.fail(e))?;
        self.init(format).await
    }

    /// Brings the branches up to date. A copy that turns out damaged is made anew once. Many that ask at the same time share
    /// a fetch that began after they had asked.
    pub async fn fetch(&self) -> Result<(), GitError> {
        let asked = Instant::now();
        let mut fetched = self.fetching.lock().await;
        if fetched.is_some_and(|began| began > asked) {
            return Ok(());
        }
        let begins = Instant::now();
        self.fetch_now().await?;
        *fetched = Some(begins);
        Ok(())
    }

    async fn fetch_now(&self) -> Result<(), GitError> {
        if !self.git.dir.join("HEAD").exists() {
            self.prepare().await?;
        }
        remove_stale_locks(&self.git.dir).map_err(|e| self.fail(e))?;
        let mut result = self.fetch_once().await?;
        let says =
            |r: &Finished, words: &[&str]| r.code != Some(0) && words.iter().any(|w| r.message.contains(w));
        if says(&result, &["mismatched algorithms"]) {
            let sha256 = self.local(&["rev-parse", "--show-object-format"]).await? == "sha256";
            self.reset(if sha256 { "sha1" } else { "sha256" }).await?;
            result = self.fetch_once().await?;
        } else if says(&result, &["is corrupt", "bad object", "unable to read tree", "invalid sha1 pointer"])
        {
            tracing::warn!(
                url = self.url,
                message = result.message,
                "the mirror is damaged and is made anew"
            );
            self.reset("sha1").await?;
            result = self.fetch_once().await?;
        }
        if result.code != Some(0) {
            return Err(self.fetch_error(result.message));
        }
        // By this the collector knows when it was used last.
        let used = File::open(&self.git.dir).and_then(|dir| dir.set_modified(SystemTime::now()));
        used.map_err(|e| self.fail(e))?;
        // Packs what has come together; does nothing most of the time.
        self.git.run(&["gc", "--auto", "--quiet"], &[], FETCH_TIME_MAX).await?;
        Ok(())
    }

    async fn fetch_once(&self) -> Result<Finished, GitError> {
        let branches = "+refs/heads/*:refs/heads/*";
        let args = [
            "fetch",
            "--quiet",
            "--prune",
            "--no-tags",
            "--no-auto-maintenance",
            "--no-write-fetch-head",
            "--no-recurse-submodules",
            "--update-head-ok",
            "--end-of-options",
            &self.url,
            branches,
        ];
        self.git.run(&args, &[], self.fetch_time).await
    }

    fn fetch_error(&self, message: String) -> GitError {
        let url = self.url.clone();
        let says = |words: &[&str]| words.iter().any(|w| message.contains(w));
        if says(&["Authentication failed", "could not read Username", "Permission denied", "error: 403"]) {
            return GitError::AccessDenied { url, message };
        }
        if says(&["not found", "does not appear to be a git repository", "does not exist", "not a git repo"])
        {
            return GitError::RepositoryMissing { url, message };
        }
        GitError::Fetch { url, message }
    }

    /// A call on the mirror that has to succeed; what it prints.
    async fn local(&self, args: &[&str]) -> Result<String, GitError> {
        self.local_with(args, &[]).await.map(|f| f.text())
    }

    async fn local_with(&self, args: &[&str], env: &[(&str, &Path)]) -> Result<Finished, GitError> {
        let finished = self.git.run(args, env, CALL_TIME_MAX).await?;
        if finished.code == Some(0) {
            return Ok(finished);
        }
        let call = args.first().copied().unwrap_or_default().to_owned();
        Err(GitError::Failed { call, code: finished.code, message: finished.message })
    }

    async fn has(&self, commit: &CommitId) -> Result<bool, GitError> {
        let name = format!("{commit}^{{commit}}");
        Ok(self.git.run(&["cat-file", "-e", &name], &[], CALL_TIME_MAX).await?.code == Some(0))
    }

    /// The commits on `branch`, as last fetched, that are not reachable from `known` (what was seen last) nor from
    /// `since` (the baseline accepted at the beginning): parents first. More than `limit` or [`COMMITS_MAX`] of them
    /// are an error, as a part of them would hide what is not reviewed.
    pub async fn observe(
        &self,
        branch: &str,
        known: Option<&CommitId>,
        since: Option<&CommitId>,
        limit: usize,
    ) -> Result<SourceObservation, GitError> {
        let head = self.head(branch).await?;
        if known == Some(&head) {
            return Ok(SourceObservation { head, commits: Vec::new(), rewritten: false });
        }
        let rewritten = match known {
            Some(known) => !self.is_ancestor(known, &head).await?,
            None => false,
        };
        let limit = limit.min(COMMITS_MAX);
        let mut args = ["rev-list", "--topo-order", "--reverse"].map(str::to_owned).to_vec();
        args.extend([format!("--max-count={}", limit + 1), head.to_string()]);
        for seen in [known, since].into_iter().flatten() {
            if self.has(seen).await? {
                args.push(format!("^{seen}"));
            }
        }
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let listed = self.local(&args).await?;
        let ids: Vec<&str> = listed.lines().collect();
        if ids.len() > limit {
            return Err(GitError::TooManyCommits { url: self.url.clone(), limit });
        }
        Ok(SourceObservation { head, commits: self.commits(&ids).await?, rewritten })
    }

    /// When the commits of `branch`, as last fetched, came to be, along first parents: the newest first, at most `limit`.
    pub async fn commit_times(&self, branch: &str, limit: usize) -> Result<Vec<Timestamp>, GitError> {
        let head = self.head(branch).await?;
        let count = format!("--max-count={limit}");
        let listed = self.local(&["log", "--first-parent", "--format=%ct", &count, head.as_str()]).await?;
        let seconds = listed.lines().filter_map(|line| line.parse::<i64>().ok());
        Ok(seconds.map(|s| Timestamp(s.saturating_mul(1_000))).collect())
    }

    async fn head(&self, branch: &str) -> Result<CommitId, GitError> {
        let name = format!("refs/heads/{branch}");
        let found = self.git.run(&["show-ref", "--verify", "--hash", &name], &[], CALL_TIME_MAX).await?;
        if let (Some(0), Ok(head)) = (found.code, CommitId::new(found.text())) {
            return Ok(head);
        }
        let listed = self.local(&["for-each-ref", "--format=%(refname:lstrip=2)", "refs/heads"]).await?;
        let url = self.url.clone();
        if listed.is_empty() {
            return Err(GitError::Empty { url });
        }
        let existing: Vec<String> =
            listed.lines().take(BRANCHES_SHOWN_MAX).map(|b| format!("'{b}'")).collect();
        Err(GitError::BranchMissing { url, branch: branch.to_owned(), existing: existing.join(", ") })
    }

    async fn commits(&self, ids: &[&str]) -> Result<Vec<Commit>, GitError> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let input = ids.join("\n") + "\n";
        let (commits, finished) = self
            .git
            .run_with(&["cat-file", "--batch"], &[], input.as_bytes(), CALL_TIME_MAX, async |stdout| {
                let mut stdout = BufReader::new(stdout);
                let mut commits = Vec::with_capacity(ids.len());
                while let Some(commit) = commit::read_commit(&mut stdout).await? {
                    commits.push(commit);
                }
                Ok(commits)
            })
            .await?;
        if finished.code == Some(0) && commits.len() == ids.len() {
            return Ok(commits);
        }
        Err(GitError::Failed { call: "cat-file".to_owned(), code: finished.code, message: finished.message })
    }

    /// Whether `older` is `newer` or an ancestor of it. A commit that the mirror does not have is nobody's ancestor.
    pub async fn is_ancestor(&self, older: &CommitId, newer: &CommitId) -> Result<bool, GitError> {
        if !self.has(newer).await? {
            return Err(GitError::CommitMissing { url: self.url.clone(), commit: newer.clone() });
        }
        if !self.has(older).await? {
            return Ok(false);
        }
        let args = ["merge-base", "--is-ancestor", older.as_str(), newer.as_str()];
        let finished = self.git.run(&args, &[], CALL_TIME_MAX).await?;
        match finished.code {
            Some(0) => Ok(true),
            Some(1) => Ok(false),
            code => Err(GitError::Failed { call: "merge-base".to_owned(), code, message: finished.message }),
        }
    }

    /// Writes the files of `commit` to the folder `to`, which is made, or empty: as a checkout would, without `.git`,
    /// submodules, LFS and any filter that would run a program.
    pub async fn export(&self, commit: &CommitId, to: &Path) -> Result<(), GitError> {
        if !self.has(commit).await? {
            return Err(GitError::CommitMissing { url: self.url.clone(), commit: commit.clone() });
        }
        let bytes = self.size(commit).await?;
        if bytes > EXPORT_BYTES_MAX {
            return Err(GitError::TooLarge { commit: commit.clone(), bytes });
        }
        let to =
            std::path::absolute(to).map_err(|source| GitError::Mirror { path: to.to_owned(), source })?;
        fs::create_dir_all(&to).map_err(|source| GitError::Mirror { path: to.clone(), source })?;
        let room = tempfile::Builder::new().prefix(EXPORT_PREFIX).tempdir_in(&self.git.dir);
        let room = room.map_err(|e| self.fail(e))?;
        let index = room.path().join("index");
        let env: [(&str, &Path); 2] = [("GIT_INDEX_FILE", &index), ("GIT_WORK_TREE", &to)];
        self.local_with(&["read-tree", "--reset", "-u", commit.as_str()], &env).await.map(|_| ())
    }

    async fn size(&self, commit: &CommitId) -> Result<u64, GitError> {
        let args = ["ls-tree", "-r", "-z", "--format=%(objectsize)", commit.as_str()];
        let listed = self.local_with(&args, &[]).await?;
        let size = |s: &[u8]| std::str::from_utf8(s).ok().and_then(|s| s.trim().parse::<u64>().ok());
        Ok(listed.stdout.split(|b| *b == 0).filter_map(size).fold(0, u64::saturating_add))
    }
}

/// What a server that was killed leaves of its exports and keys.
fn remove_leavings(dir: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.as_encoded_bytes();
        if name.starts_with(command::KEY_PREFIX.as_bytes()) {
            fs::remove_file(entry.path())?;
        } else if name.starts_with(EXPORT_PREFIX.as_bytes()) {
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

/// What a git that was killed leaves in the way of the next one. Exports under way have folders of their own, which
/// are hidden, and are left alone.
fn remove_stale_locks(dir: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        let name = entry.file_name();
        let hidden = name.as_encoded_bytes().starts_with(b".");
        if kind.is_dir() && name != "objects" && !hidden {
            remove_stale_locks(&entry.path())?;
        } else if kind.is_file() && (name.as_encoded_bytes().ends_with(b".lock") || name == "gc.pid") {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Only what names a repository: no option, no remote helper, no password (it would be stored and shown).
fn check_url(url: &str) -> Result<(), GitError> {
    let refuse = |why| {
        let url = url.split_once("://").map_or(url, |(_, rest)| rest);
        let shown = url.rsplit_once('@').map_or(url, |(_, host)| host);
        Err(GitError::Url { url: shown.chars().take(200).collect(), why })
    };
    if url.is_empty() || url.len() > 2_000 || url.chars().any(char::is_control) {
        return refuse("it is empty, longer than 2,000 bytes, or contains control characters");
    }
    let Some((scheme, rest)) = url.split_once("://") else {
        let scp =
            url.split_once(':').is_some_and(|(host, path)| !host.contains('/') && !path.starts_with(':'));
        return match url {
            _ if url.starts_with('-') || url.contains("::") => refuse("no such transport is allowed"),
            _ if url.starts_with('/') || scp => Ok(()),
            _ => refuse("write an absolute path, a URL, or user@host:path"),
        };
    };
    let user = rest.split('/').next().and_then(|host| host.rsplit_once('@')).map_or("", |(user, _)| user);
    match scheme {
        "file" | "https" | "http" | "ssh" | "git" if user.contains(':') => {
            refuse("it contains a password; keep that as a secret, and name the secret in the source")
        }
        "https" | "http" if !user.is_empty() => {
            refuse("it contains a user or token; keep that as a secret, and name the secret in the source")
        }
        "file" | "https" | "http" | "ssh" | "git" if !rest.starts_with('-') => Ok(()),
        _ => refuse("only file, https, http, ssh and git are allowed"),
    }
}

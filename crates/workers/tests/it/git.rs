//! Sources: real repositories, the real git.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tidegate_core::ids::CommitId;
use tidegate_workers::git::{GitError, Mirror};
use tidegate_workers::secrets::Secret;

/// A repository to commit to, and a mirror's place beside it.
pub(crate) struct Repo {
    pub(crate) dir: tempfile::TempDir,
}

impl Repo {
    pub(crate) fn new() -> Repo {
        Repo::with("sha1")
    }

    fn with(format: &str) -> Repo {
        let repo = Repo { dir: tempfile::tempdir().unwrap() };
        fs::create_dir(repo.path()).unwrap();
        repo.git(&["init", "-q", "-b", "main", &format!("--object-format={format}")]);
        repo
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.dir.path().join("repo")
    }

    pub(crate) fn url(&self) -> String {
        format!("file://{}", self.path().display())
    }

    pub(crate) fn git(&self, args: &[&str]) -> String {
        let out = Command::new("git")
            .args(["-c", "user.name=Ann", "-c", "user.email=ann@example.com"])
            .args(args)
            .current_dir(self.path())
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_COMMITTER_DATE", "2024-01-02T03:04:05Z")
            .env("GIT_AUTHOR_DATE", "2024-01-02T03:04:05Z")
            .output()
            .unwrap();
        assert!(out.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap().trim().to_owned()
    }

    pub(crate) fn commit(&self, message: &str) -> CommitId {
        self.git(&["add", "-A"]);
        self.git(&["commit", "-q", "--allow-empty", "-m", message]);
        self.head()
    }

    fn head(&self) -> CommitId {
        self.commit_at("HEAD")
    }

    pub(crate) fn commit_at(&self, name: &str) -> CommitId {
        self.git(&["rev-parse", name]).parse().unwrap()
    }

    pub(crate) async fn mirror(&self) -> Mirror {
        Mirror::open(&self.dir.path().join("mirror"), &self.url(), None).await.unwrap()
    }
}

fn subjects(commits: &[tidegate_core::change::Commit]) -> Vec<&str> {
    commits.iter().map(|c| c.subject.as_str()).collect()
}

#[tokio::test]
async fn new_commits_come_parents_first_with_what_they_revert_and_fix() {
    let repo = Repo::new();
    let first = repo.commit("first");
    let mirror = repo.mirror().await;
    mirror.fetch().await.unwrap();
    let seen = mirror.observe("main", None, None, 10).await.unwrap();
    assert_eq!((seen.head.clone(), subjects(&seen.commits)), (first.clone(), vec!["first"]));

    fs::write(repo.path().join("file"), "x").unwrap();
    let second = repo.commit("second");
    repo.git(&["checkout", "-q", "-b", "side", first.as_str()]);
    repo.commit("side");
    repo.git(&["checkout", "-q", "main"]);
    repo.git(&["merge", "-q", "--no-ff", "-m", "merge", "side"]);
    repo.git(&["revert", "--no-edit", second.as_str()]);
    let head = repo.commit(&format!("repair\n\nFixes: {} (\"second\")", second.short()));

    mirror.fetch().await.unwrap();
    let seen = mirror.observe("main", Some(&first), None, 10).await.unwrap();
    assert_eq!(seen.head, head);
    assert!(!seen.rewritten);
    let names = subjects(&seen.commits);
    assert_eq!(names[2..], ["merge", "Revert \"second\"", "repair"]);
    assert!(names[..2].contains(&"second") && names[..2].contains(&"side"));
    assert_eq!(seen.commits[2].parents.len(), 2);
    assert_eq!(seen.commits[3].reverts, std::slice::from_ref(&second));
    assert_eq!(seen.commits[4].fixes, [second.short()]);
    assert_eq!(seen.commits[4].author_email, "ann@example.com");
    assert_eq!(seen.commits[4].committed_at.to_string(), "2024-01-02T03:04:05.000Z");

    let since = mirror.observe("main", None, Some(&seen.commits[2].id), 10).await.unwrap();
    assert_eq!(subjects(&since.commits), ["Revert \"second\"", "repair"]);
    assert_eq!(mirror.observe("main", None, None, 6).await.unwrap().commits.len(), 6);
    let error = mirror.observe("main", None, None, 5).await.unwrap_err();
    assert!(matches!(error, GitError::TooManyCommits { limit: 5, .. }), "{error}");
    assert!(error.to_string().contains("'since'"), "{error}");
    let none = mirror.observe("main", Some(&head), Some(&first), 10).await.unwrap();
    assert_eq!((none.commits.len(), none.rewritten), (0, false));
    assert!(mirror.is_ancestor(&first, &head).await.unwrap());
    assert!(!mirror.is_ancestor(&head, &first).await.unwrap());
}

#[tokio::test]
async fn a_rewritten_history_is_told_and_unknown_commits_are_nobodys_ancestors() {
    let repo = Repo::new();
    let first = repo.commit("first");
    let lost = repo.commit("lost");
    let mirror = repo.mirror().await;
    mirror.fetch().await.unwrap();
    repo.git(&["reset", "-q", "--hard", first.as_str()]);
    let other = repo.commit("other");
    mirror.fetch().await.unwrap();
    let seen = mirror.observe("main", Some(&lost), Some(&first), 10).await.unwrap();
    assert!(seen.rewritten);
    assert_eq!((seen.head, subjects(&seen.commits)), (other.clone(), vec!["other"]));
    let unknown: CommitId = "0123456789".repeat(4).parse().unwrap();
    assert!(mirror.observe("main", Some(&unknown), None, 10).await.unwrap().rewritten);
    assert!(!mirror.is_ancestor(&unknown, &other).await.unwrap());
    let to = repo.dir.path().join("out");
    assert!(matches!(mirror.export(&unknown, &to).await, Err(GitError::CommitMissing { .. })));
}

#[tokio::test]
async fn an_empty_a_branchless_and_a_vanished_repository_are_told_apart() {
    let repo = Repo::new();
    let mirror = repo.mirror().await;
    mirror.fetch().await.unwrap();
    assert!(matches!(mirror.observe("main", None, None, 10).await, Err(GitError::Empty { .. })));
    let first = repo.commit("first");
    mirror.fetch().await.unwrap();
    assert!(matches!(mirror.observe("main~0", None, None, 10).await, Err(GitError::BranchMissing { .. })));
    let error = mirror.observe("trunk", None, None, 10).await.unwrap_err().to_string();
    assert!(error.ends_with("has no branch 'trunk'; it has 'main'"), "{error}");

    let away = repo.dir.path().join("away");
    fs::rename(repo.path(), &away).unwrap();
    let error = mirror.fetch().await.unwrap_err();
    assert!(matches!(error, GitError::RepositoryMissing { .. }), "{error}");
    assert_eq!(mirror.observe("main", None, None, 10).await.unwrap().head, first, "the mirror still answers");
    fs::rename(&away, repo.path()).unwrap();
    mirror.fetch().await.unwrap();
}

#[tokio::test]
async fn an_export_has_the_files_as_they_are_and_runs_nothing() {
    let repo = Repo::new();
    let root = repo.path();
    fs::create_dir(root.join("bin")).unwrap();
    fs::write(root.join("bin/tool"), "tool").unwrap();
    fs::set_permissions(root.join("bin/tool"), fs::Permissions::from_mode(0o755)).unwrap();
    symlink("/etc/passwd", root.join("link")).unwrap();
    fs::write(root.join("text"), "$Format:%H$\r\n").unwrap();
    fs::write(root.join("left-out"), "not left out").unwrap();
    fs::write(root.join(".gitattributes"), "left-out export-ignore\ntext export-subst filter=evil\n")
        .unwrap();
    let commit = repo.commit("files");
    let mirror = repo.mirror().await;
    mirror.fetch().await.unwrap();
    // What would run if hooks were honoured, in the source and in the mirror.
    let trace = repo.dir.path().join("trace");
    for hooks in [root.join(".git/hooks"), repo.dir.path().join("mirror/hooks")] {
        fs::create_dir_all(&hooks).unwrap();
        for hook in ["post-checkout", "post-index-change", "reference-transaction"] {
            fs::write(hooks.join(hook), format!("#!/bin/sh\ntouch {}\n", trace.display())).unwrap();
            fs::set_permissions(hooks.join(hook), fs::Permissions::from_mode(0o755)).unwrap();
        }
    }
    mirror.fetch().await.unwrap();
    let to = repo.dir.path().join("out");
    mirror.export(&commit, &to).await.unwrap();
    assert!(!to.join(".git").exists() && !trace.exists());
    assert_eq!(fs::read(to.join("text")).unwrap(), b"$Format:%H$\r\n");
    assert_eq!(fs::read(to.join("left-out")).unwrap(), b"not left out");
    assert_eq!(fs::read_link(to.join("link")).unwrap(), Path::new("/etc/passwd"));
    assert_eq!(fs::metadata(to.join("bin/tool")).unwrap().permissions().mode() & 0o111, 0o111);
    assert!(!repo.dir.path().join("mirror/index").exists());
}

#[tokio::test]
async fn repositories_of_either_object_format_are_mirrored_and_a_damaged_mirror_is_made_anew() {
    let repo = Repo::with("sha256");
    let first = repo.commit("first");
    assert_eq!(first.as_str().len(), 64);
    let mirror = repo.mirror().await;
    mirror.fetch().await.unwrap();
    assert_eq!(mirror.observe("main", None, None, 10).await.unwrap().commits[0].id, first);

    let place = repo.dir.path().join("mirror");
    fs::write(place.join("packed-refs.lock"), "").unwrap();
    fs::write(place.join("refs/heads/main.lock"), "").unwrap();
    fs::write(place.join(".key-left"), "private").unwrap();
    let second = repo.commit("second");
    let mirror = repo.mirror().await;
    assert!(!place.join(".key-left").exists());
    mirror.fetch().await.unwrap();
    assert_eq!(mirror.observe("main", Some(&first), None, 10).await.unwrap().head, second);

    fs::remove_dir_all(&place).unwrap();
    mirror.fetch().await.unwrap();
    assert_eq!(mirror.observe("main", Some(&first), None, 10).await.unwrap().head, second);
}

#[tokio::test]
async fn a_server_that_never_answers_ends_at_the_time_limit() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("git://{}/repo", listener.local_addr().unwrap());
    let dir = tempfile::tempdir().unwrap();
    let mirror = Mirror::open(dir.path(), &url, None).await.unwrap();
    let mirror = mirror.with_fetch_time(Duration::from_millis(300));
    let started = Instant::now();
    let error = mirror.fetch().await.unwrap_err();
    assert!(matches!(error, GitError::TimeLimit { .. }), "{error}");
    assert!(started.elapsed() < Duration::from_secs(10));
}

#[tokio::test]
async fn many_that_ask_at_once_share_a_fetch_and_whoever_asks_later_sees_what_came_since() {
    let repo = Repo::new();
    repo.commit("one");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("git://{}/repo", listener.local_addr().unwrap());
    let calls = Arc::new(AtomicUsize::new(0));
    let (base, counted) = (repo.dir.path().to_owned(), Arc::clone(&calls));
    // Ends with the process of the test.
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            counted.fetch_add(1, Ordering::SeqCst);
            let mut daemon = Command::new("git");
            daemon.args(["daemon", "--inetd", "--export-all"]).arg(format!("--base-path={}", base.display()));
            let (input, output) = (stream.try_clone().unwrap(), stream);
            daemon.stdin(OwnedFd::from(input)).stdout(OwnedFd::from(output)).status().unwrap();
        }
    });
    let mirror = Arc::new(Mirror::open(&repo.dir.path().join("mirror"), &url, None).await.unwrap());
    let mut all = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let mirror = Arc::clone(&mirror);
        all.spawn(async move { mirror.fetch().await.unwrap() });
    }
    all.join_all().await;
    assert_eq!(calls.load(Ordering::SeqCst), 2, "the first one's, and one for all that came during it");
    let two = repo.commit("two");
    mirror.fetch().await.unwrap();
    assert_eq!(calls.load(Ordering::SeqCst), 3);
    assert_eq!(mirror.observe("main", None, None, 10).await.unwrap().head, two);
    let again = mirror.observe("main", Some(&two), None, 10).await.unwrap();
    assert_eq!((again.head, again.commits.len(), again.rewritten), (two, 0, false));
}

#[tokio::test]
async fn a_password_reaches_its_own_server_and_no_message() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/repo.git", listener.local_addr().unwrap());
    let server = std::thread::spawn(move || {
        let mut seen = Vec::new();
        while !seen.iter().any(|line: &String| line.starts_with("Authorization")) {
            let (stream, _) = listener.accept().unwrap();
            let mut stream = BufReader::new(stream);
            loop {
                let mut head = Vec::new();
                for line in stream.by_ref().lines().map_while(Result::ok) {
                    if line.is_empty() {
                        break;
                    }
                    head.push(line);
                }
                if head.is_empty() {
                    break;
                }
                let body = "hunter2 is what you sent";
                let status =
                    if head.iter().any(|l| l.starts_with("Authorization")) { "500 No" } else { "401 No" };
                write!(
                    stream.get_mut(),
                    "HTTP/1.1 {status}\r\nWWW-Authenticate: Basic realm=\"x\"\r\nContent-Type: text/plain\r\n\
                     Content-Length: {}\r\n\r\n{body}",
                    body.len()
                )
                .unwrap();
                seen.extend(head);
            }
        }
        seen
    });
    let dir = tempfile::tempdir().unwrap();
    let secret = Secret::new("ann:hunter2").unwrap();
    let mirror = Mirror::open(dir.path(), &url, Some(secret)).await.unwrap();
    let error = format!("{:?}", mirror.fetch().await.unwrap_err());
    assert!(!error.contains("hunter2"), "{error}");
    let seen = server.join().unwrap();
    assert!(seen.contains(&"Authorization: Basic YW5uOmh1bnRlcjI=".to_owned()), "{seen:?}");
    let settings = fs::read_to_string(dir.path().join("tidegate.gitconfig")).unwrap();
    assert!(!settings.contains("hunter2"));
}

#[tokio::test]
async fn urls_that_name_no_plain_repository_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut shown = String::new();
    for url in [
        "",
        "repo",
        "-u/x",
        "--upload-pack=x:y",
        "ext::sh -c true",
        "ssh://-oProxyCommand=x/y",
        "https://ann:hunter2@host/x",
        "https://token@host/x",
        "ftp://host/x",
        "https://host/x\ny",
    ] {
        let error = Mirror::open(dir.path(), url, None).await.map(|_| ()).unwrap_err();
        shown += &format!("{error}\n");
    }
    for url in ["/srv/x", "git@host:x.git", "ssh://git@host:22/x", "https://host/x", "file:///srv/x"] {
        Mirror::open(&dir.path().join("fine"), url, None).await.unwrap();
    }
    expect_test::expect![[r#"
        '' is not a usable repository URL: it is empty, longer than 2,000 bytes, or contains control characters
        'repo' is not a usable repository URL: write an absolute path, a URL, or user@host:path
        '-u/x' is not a usable repository URL: no such transport is allowed
        '--upload-pack=x:y' is not a usable repository URL: no such transport is allowed
        'ext::sh -c true' is not a usable repository URL: no such transport is allowed
        '-oProxyCommand=x/y' is not a usable repository URL: only file, https, http, ssh and git are allowed
        'host/x' is not a usable repository URL: it contains a password; keep that as a secret, and name the secret in the source
        'host/x' is not a usable repository URL: it contains a user or token; keep that as a secret, and name the secret in the source
        'host/x' is not a usable repository URL: only file, https, http, ssh and git are allowed
        'host/x
        y' is not a usable repository URL: it is empty, longer than 2,000 bytes, or contains control characters
    "#]]
    .assert_eq(&shown);
}

//! A forge on a loopback port: as much of GitHub's and GitLab's APIs as a source's reviews need, over a repository that keeps the
//! heads of changes as they do. It is asked by the server's real client.

use super::Repo;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};

/// When everything was merged, by its clock.
pub(crate) const MERGED_AT: &str = "2026-01-02T12:00:00Z";
/// Before that.
pub(crate) const BEFORE: &str = "2026-01-02T11:00:00Z";
/// After that.
pub(crate) const AFTER: &str = "2026-01-02T13:00:00Z";
/// What opens it.
pub(crate) const TOKEN: &str = "a-token-of-this-forge";

/// How it behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mood {
    Well,
    /// Connections are taken and closed.
    Down,
    /// It takes no requests for a second.
    Limited,
}

/// A merged change.
#[derive(Debug, Clone)]
pub(crate) struct Change {
    number: u64,
    head: String,
    landed: String,
    /// Those of which it is said to have brought them.
    brought: Vec<String>,
    own: Vec<String>,
    author: String,
    /// Who said what of which head, and when.
    reviews: Vec<(String, &'static str, String, &'static str)>,
}

struct State {
    mood: Mood,
    changes: Vec<Change>,
    asked: Vec<String>,
}

/// It serves as long as the test's process lives.
pub(crate) struct Forge {
    pub(crate) url: String,
    state: Arc<Mutex<State>>,
}

/// How a change is merged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum How {
    Merge,
    Squash,
    Rebase,
    FastForward,
    /// By a merge commit that brings something else as well.
    Evil,
}

impl Forge {
    pub(crate) fn start() -> Forge {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let state = State { mood: Mood::Well, changes: Vec::new(), asked: Vec::new() };
        let state = Arc::new(Mutex::new(state));
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // Whoever asks may go away in the middle.
                let _ = serve(stream, &shared);
            }
        });
        Forge { url, state }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub(crate) fn is(&self, mood: Mood) {
        self.state().mood = mood;
    }

    /// How often it was asked for something whose path contains this.
    pub(crate) fn asked(&self, what: &str) -> usize {
        self.state().asked.iter().filter(|path| path.contains(what)).count()
    }

    /// Somebody reviews a change's head.
    pub(crate) fn review(&self, number: u64, who: &str, says: &'static str, head: &str, at: &'static str) {
        let mut state = self.state();
        let change = state.changes.iter_mut().find(|c| c.number == number).unwrap();
        change.reviews.push((who.to_owned(), says, head.to_owned(), at));
    }

    /// The branch `work` is a change by alice, reviewed by nobody yet, which bob merges to the mainline; its head. The branch goes on
    /// from the mainline then.
    pub(crate) fn merge(&self, repo: &Repo, number: u64, how: How) -> String {
        let head = repo.head();
        let main = repo.git(&["rev-parse", "main"]);
        let own = repo.git(&["rev-list", "--reverse", &head, &format!("^{main}")]);
        let own: Vec<String> = own.lines().map(str::to_owned).collect();
        for name in ["pull", "merge-requests"] {
            repo.git(&["update-ref", &format!("refs/{name}/{number}/head"), &head]);
        }
        repo.git(&["checkout", "--quiet", "-B", "work", "main"]);
        match how {
            How::Merge | How::Evil => {
                repo.git_as("bob", &["merge", "--quiet", "--no-ff", "-m", "Merge a change", &head]);
            }
            How::Squash => {
                repo.git(&["merge", "--quiet", "--squash", &head]);
                repo.git(&["commit", "--quiet", "-m", "A change (squashed)"]);
            }
            How::Rebase => {
                let onto = ["cherry-pick", "--allow-empty", "--keep-redundant-commits"];
                repo.git_as(
                    "bob",
                    &[&onto[..], &own.iter().map(String::as_str).collect::<Vec<_>>()].concat(),
                );
            }
            How::FastForward => {
                repo.git(&["merge", "--quiet", "--ff-only", &head]);
            }
        }
        if how == How::Evil {
            std::fs::write(repo.path().join("evil"), "x").unwrap();
            repo.git(&["add", "--all"]);
            repo.git_as("bob", &["commit", "--quiet", "--amend", "--no-edit"]);
        }
        let landed = repo.head();
        let brought = repo.git(&["rev-list", &landed, &format!("^{main}")]);
        let brought = brought.lines().map(str::to_owned).collect();
        let author = "alice-on-forge".to_owned();
        let (head, reviews) = (head.clone(), Vec::new());
        let change =
            Change { number, head: head.clone(), landed: landed.clone(), brought, own, author, reviews };
        self.state().changes.push(change);
        repo.merge(&landed);
        head
    }
}

fn serve(stream: TcpStream, state: &Mutex<State>) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut state = state.lock().unwrap();
    if state.mood == Mood::Down {
        return Ok(());
    }
    let (mut first, mut token) = (String::new(), false);
    stream.read_line(&mut first)?;
    loop {
        let mut line = String::new();
        stream.read_line(&mut line)?;
        token |= line.trim().eq_ignore_ascii_case(&format!("authorization: Bearer {TOKEN}"));
        if line.trim().is_empty() {
            break;
        }
    }
    let path = first.split_whitespace().nth(1).unwrap_or_default().to_owned();
    state.asked.push(path.clone());
    let (status, headers, body) = match state.mood {
        Mood::Limited => ("429 Too Many Requests", "retry-after: 1\r\n", json!({"message": "enough"})),
        _ if !token => ("401 Unauthorized", "", json!({"message": "Bad credentials"})),
        Mood::Well | Mood::Down => match answer(&state.changes, &path) {
            Some(body) => ("200 OK", "", body),
            None => ("404 Not Found", "", json!({"message": "Not Found"})),
        },
    };
    let body = body.to_string();
    let length = body.len();
    let answer =
        format!("HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {length}\r\n{headers}\r\n{body}");
    stream.get_mut().write_all(answer.as_bytes())
}

fn answer(changes: &[Change], path: &str) -> Option<Value> {
    let path = path.split('?').next()?;
    let of = |number: &str| changes.iter().find(|c| c.number.to_string() == number);
    if let Some(rest) = path.strip_prefix("/repos/acme/shop/") {
        let parts: Vec<&str> = rest.split('/').collect();
        return Some(match parts[..] {
            ["commits", commit, "pulls"] => brought(changes, commit).map(pull).collect(),
            ["pulls", number, "reviews"] => of(number)?.reviews.iter().map(review).collect(),
            ["pulls", number, "commits"] => of(number)?.own.iter().map(|sha| json!({"sha": sha})).collect(),
            ["issues", _, "events"] => json!([]),
            _ => return None,
        });
    }
    let rest = path.strip_prefix("/projects/acme%2Fshop/")?;
    let parts: Vec<&str> = rest.split('/').collect();
    Some(match parts[..] {
        ["repository", "commits", commit, "merge_requests"] => {
            brought(changes, commit).map(merge_request).collect()
        }
        ["merge_requests", number, "versions"] => {
            json!([{"id": 1, "head_commit_sha": of(number)?.head, "created_at": "2026-01-01T00:00:00.000Z"}])
        }
        ["merge_requests", number, "commits"] => of(number)?.own.iter().map(|id| json!({"id": id})).collect(),
        ["merge_requests", number, "approvals"] => {
            let by = of(number)?.reviews.iter();
            let by: Vec<Value> =
                by.map(|(who, _, _, at)| json!({"user": {"username": who}, "approved_at": at})).collect();
            json!({"approved_by": by})
        }
        _ => return None,
    })
}

fn brought<'a>(changes: &'a [Change], commit: &'a str) -> impl Iterator<Item = &'a Change> {
    changes.iter().filter(move |change| change.brought.iter().any(|b| b == commit))
}

fn pull(change: &Change) -> Value {
    json!({
        "number": change.number, "state": "closed", "html_url": format!("https://forge.test/{}", change.number),
        "merged_at": MERGED_AT, "merge_commit_sha": change.landed, "user": {"login": change.author},
        "head": {"ref": "work", "sha": change.head, "repo": null},
        "base": {"ref": "main", "sha": change.head, "repo": {"full_name": "acme/shop"}}
    })
}

fn review((who, says, of, at): &(String, &'static str, String, &'static str)) -> Value {
    json!({"user": {"login": who}, "state": says, "commit_id": of, "submitted_at": at})
}

fn merge_request(change: &Change) -> Value {
    json!({
        "iid": change.number, "state": "merged", "web_url": format!("https://forge.test/{}", change.number),
        "merged_at": MERGED_AT, "target_branch": "main", "sha": change.head, "author": {"username": change.author},
        "merge_commit_sha": (change.landed != change.head).then_some(&change.landed), "squash_commit_sha": null,
        "references": {"full": format!("acme/shop!{}", change.number)}
    })
}

//! What forges answer: how each answer is read (in `forge/`, whose README says where they come from), and a client that is served
//! well, in pieces, or badly.

use crate::answers::Server as Answers;
use crate::git::Repo;
use expect_test::expect;
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tidegate_core::definition::ReviewDef;
use tidegate_core::forge::{Landed, ReviewWord, Says};
use tidegate_core::ids::CommitId;
use tidegate_core::units::Timestamp;
use tidegate_workers::forge::{self, Client, ForgeError, Listed, Question, Server, Stopped, github, gitlab};

macro_rules! page {
    ($name:literal) => {
        &[include_bytes!(concat!("forge/", $name, ".json")).to_vec()]
    };
}

fn id(digit: char) -> CommitId {
    CommitId::new(digit.to_string().repeat(40)).unwrap()
}

fn at(text: &str) -> Timestamp {
    Timestamp::parse(text).unwrap()
}

/// Of each change its number, head, what landed, what was squashed, and its author.
fn listed(all: &[Listed]) -> Vec<(u64, char, char, Option<char>, &str)> {
    let digit = |id: &CommitId| id.as_str().chars().next().unwrap();
    let all = all.iter().map(|l| {
        (l.number, digit(&l.head), digit(&l.landed), l.squashed.as_ref().map(digit), l.author.as_str())
    });
    all.collect()
}

fn shown(words: &[ReviewWord]) -> String {
    let line = |w: &ReviewWord| {
        let of = w.of.as_ref().map_or("-", |id| &id.as_str()[..1]);
        format!("{} {:?} {of} {}\n", w.account, w.says, w.at)
    };
    words.iter().map(line).collect()
}

#[test]
fn merged_pull_requests_to_the_branch_and_repository_are_read_forks_included() {
    let all = github::changes(page!("github-pulls"), "Acme/Shop", "main").unwrap();
    let expected = [
        (12, 'a', 'c', None, "alice-gh"),
        (16, 'b', 'e', None, "carol-gh"),
        (17, 'b', 'c', None, "alice-gh"),
    ];
    assert_eq!(listed(&all), expected);
    assert_eq!(all[0].merged_at, at("2026-11-03T10:00:00Z"));
    assert_eq!(all[0].url, "https://github.test/acme/shop/pull/12");
    assert_eq!(github::changes(page!("github-pulls"), "acme/shop", "release").unwrap(), []);
    assert_eq!(github::changes(&[b"[]".to_vec()], "acme/shop", "main").unwrap(), []);
}

#[test]
fn a_reviewer_s_last_word_is_what_is_read_and_a_comment_is_none() {
    expect![[r#"
        carol-gh ChangesRequested a 2026-11-02T14:00:00.000Z
        dave-gh Dismissed a 2026-11-02T15:00:00.000Z
        bob-gh Approved a 2026-11-03T09:00:00.000Z
        grace-gh Approved a 2026-11-03T10:00:01.000Z
    "#]]
    .assert_eq(&shown(&github::words(page!("github-reviews")).unwrap()));
    assert_eq!(github::commits(page!("github-commits")).unwrap(), [id('b'), id('a')]);
    let retargeted = github::retargeted_at(page!("github-events")).unwrap();
    assert_eq!(retargeted, Some(at("2026-11-02T11:45:00Z")));
    assert_eq!(github::retargeted_at(&[b"[]".to_vec()]).unwrap(), None);
    // Each of them counts.
    for event in ["base_ref_changed", "automatic_base_change_succeeded", "base_ref_force_pushed"] {
        let page = json!([{"event": event, "created_at": "2026-11-02T11:00:00Z"}]).to_string().into_bytes();
        assert_eq!(github::retargeted_at(&[page]).unwrap(), Some(at("2026-11-02T11:00:00Z")), "{event}");
    }
    let accounts = github::accounts(page!("github-commits")).unwrap();
    let of = |digit| (accounts[&id(digit)].author.as_deref(), accounts[&id(digit)].committer.as_deref());
    assert_eq!(of('b'), (Some("alice-gh"), Some("bob-gh")));
    assert_eq!(of('a'), (Some("alice-gh"), Some("alice-gh")));
    let nobody = json!([{"sha": id('a'), "author": null, "committer": {}}]).to_string().into_bytes();
    assert_eq!(github::accounts(&[nobody]).unwrap()[&id('a')], github::Hands::default());
}

#[test]
fn gitea_is_read_where_it_differs() {
    assert!(
        github::is_gitea("https://git.acme.test/api/v1/")
            && !github::is_gitea("https://ghe.acme.test/api/v3")
    );
    let one = github::change(page!("gitea-pull"), "acme/shop", "main").unwrap();
    assert_eq!(listed(&one), [(12, 'a', 'c', None, "alice")]);
    expect![[r#"
        carol ChangesRequested a 2026-11-02T12:00:00.000Z
        bob Approved a 2026-11-02T13:00:00.000Z
        dave Dismissed a 2026-11-02T14:00:00.000Z
    "#]]
    .assert_eq(&shown(&github::words(page!("gitea-reviews")).unwrap()));
    assert_eq!(github::words(&[b"null".to_vec()]).unwrap(), []);
    let retargeted = github::retargeted_at(page!("gitea-timeline")).unwrap();
    assert_eq!(retargeted, Some(at("2026-11-02T11:00:00Z")));
}

#[test]
fn merge_requests_are_read_by_how_they_were_merged() {
    let all = gitlab::changes(page!("gitlab-merge-requests"), "acme/web/shop", "main").unwrap();
    let expected = [
        (1, 'a', 'c', None, "alice.lab"),
        (2, 'a', 'c', Some('e'), "alice.lab"),
        (3, 'a', 'e', Some('e'), "alice.lab"),
        (4, 'a', 'a', None, "alice.lab"),
    ];
    assert_eq!(listed(&all), expected);
    assert_eq!(gitlab::commits(page!("gitlab-commits")).unwrap(), [id('a'), id('b')]);
    assert_eq!(gitlab::escaped("acme/web/shop"), "acme%2Fweb%2Fshop");
}

#[test]
fn an_approval_on_gitlab_is_for_the_head_that_was_the_newest_when_it_was_given() {
    let versions = gitlab::versions(page!("gitlab-versions")).unwrap();
    let approvals = gitlab::approvals(page!("gitlab-approvals")).unwrap();
    expect![[r#"
        bob.lab Approved a 2026-11-02T13:00:00.000Z
        carol.lab Approved b 2026-11-02T11:59:00.000Z
    "#]]
    .assert_eq(&shown(&gitlab::words(&approvals, &[], &versions)));

    // Where GitLab does not say when, the history does; what a person wrote is no history.
    let approvals = gitlab::approvals(page!("gitlab-approvals-17")).unwrap();
    let notes = gitlab::notes(page!("gitlab-notes")).unwrap();
    expect![[r#"
        bob.lab Approved a 2026-11-02T13:00:00.000Z
        carol.lab Approved - 1970-01-01T00:00:00.000Z
    "#]]
    .assert_eq(&shown(&gitlab::words(&approvals, &notes, &versions)));

    // The same head was compared with something else from then on.
    assert_eq!(gitlab::retargeted_at(&versions), Some(at("2026-11-02T12:30:00.200Z")));
    assert_eq!(gitlab::retargeted_at(&versions[..2]), None);
}

#[test]
fn what_is_no_answer_of_the_api_is_an_error_and_nothing_was_said() {
    for page in ["", "<html>", "{}", r#"{"message":"Not Found"}"#, r#"[{"number":"12"}]"#] {
        let pages = [page.as_bytes().to_vec()];
        assert!(github::changes(&pages, "acme/shop", "main").is_err(), "{page}");
        assert!(gitlab::changes(&pages, "acme/shop", "main").is_err(), "{page}");
        assert!(github::words(&pages).is_err() && gitlab::versions(&pages).is_err(), "{page}");
    }
    assert!(github::commits(&[br#"[{"sha":"HEAD"}]"#.to_vec()]).is_err());
    let approved = Says::Approved;
    assert!(github::words(&[b"[]".to_vec()]).unwrap().iter().all(|word| word.says != approved));
}

#[test]
fn of_very_many_words_the_newest_are_kept() {
    let account = |n: u64| if n == 60 { "bob".to_owned() } else { format!("stranger-{n:02}") };
    let time = |n: u64| format!("2026-11-02T11:{:02}:00Z", n - 1);
    let review = |n| json!({"user": {"login": account(n)}, "state": "APPROVED", "commit_id": id('a'), "submitted_at": time(n)});
    let page = |entries: Vec<serde_json::Value>| json!(entries).to_string().into_bytes();
    let words = github::words(&[page((1..=60).map(review).collect())]).unwrap();
    let ends = |words: Vec<&str>| (words.len(), words[0].to_owned(), words[words.len() - 1].to_owned());
    let expected = (50, "stranger-11".to_owned(), "bob".to_owned());
    assert_eq!(ends(words.iter().map(|w| &*w.account).collect()), expected);
    let by = |n| json!({"user": {"username": account(n)}, "approved_at": time(n)});
    let all = json!({"approved_by": (1..=60).map(by).collect::<Vec<_>>()}).to_string().into_bytes();
    let approvals = gitlab::approvals(&[all]).unwrap();
    assert_eq!(ends(approvals.iter().map(|a| &*a.account).collect()), expected);
}

fn server(answers: &Answers) -> Server {
    Server { api: answers.url.clone(), token: Some("a-token".to_owned()) }
}

#[tokio::test]
async fn a_list_is_read_to_its_end_and_what_is_unchanged_is_not_sent_again() {
    let answers = Answers::start(|request, url| {
        assert!(request.contains("authorization: bearer a-token\r\n"), "{request}");
        assert!(request.contains("x-github-api-version: 2022-11-28\r\n"), "{request}");
        let (etag, next, body) = match request.contains("get /list?page=2 ") {
            false => (
                "\"one\"",
                format!("link: <{url}/list?page=2>; rel=\"next\", <{url}/x>; rel=\"last\"\r\n"),
                "[1]",
            ),
            true => ("\"two\"", String::new(), "[2]"),
        };
        if request.contains(&format!("if-none-match: {etag}\r\n")) {
            return ("304 Not Modified".to_owned(), format!("etag: {etag}\r\n"), String::new());
        }
        ("200 OK".to_owned(), format!("etag: {etag}\r\n{next}"), body.to_owned())
    })
    .await;
    let client = Client::new().unwrap();
    for _ in 0..2 {
        let (pages, requests) = client.pages(&server(&answers), "/list", 10).await;
        assert_eq!((pages.unwrap(), requests), (vec![b"[1]".to_vec(), b"[2]".to_vec()], 2));
    }
    let counted = client.counted();
    let counts = [&counted.answered, &counted.unchanged, &counted.failed].map(|c| c.load(Ordering::Relaxed));
    assert_eq!(counts, [2, 2, 0]);
    let (pages, _) = client.pages(&server(&answers), "/list", 1).await;
    assert_eq!(pages, Err(ForgeError::TooLong { pages: 1 }));
}

#[tokio::test]
async fn a_next_page_that_begins_while_a_full_one_stays_as_it_is_is_read() {
    // The last page is full; whoever remembers it is told that it is unchanged, as it is, and of no next one.
    let grown = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&grown);
    let answers = Answers::start(move |request, url| {
        let (grown, known) = (seen.load(Ordering::Relaxed), request.contains("if-none-match"));
        let link = format!("link: <{url}/list?per_page=2&page=2>; rel=\"next\"\r\n");
        match (request.contains("&page=2 "), request.contains("/told?")) {
            (true, _) => ("200 OK".to_owned(), String::new(), "[3]".to_owned()),
            // It says so in its answer that nothing has changed.
            (_, true) if known => ("304 Not Modified".to_owned(), link, String::new()),
            (_, false) if known => ("304 Not Modified".to_owned(), String::new(), String::new()),
            (_, told) => {
                let link = if grown || told { link } else { String::new() };
                ("200 OK".to_owned(), format!("etag: \"same\"\r\n{link}"), "[1,2]".to_owned())
            }
        }
    })
    .await;
    let client = Client::new().unwrap();
    let read = async |path: &str| client.pages(&server(&answers), path, 10).await.0.unwrap().len();
    assert_eq!(read("/list?per_page=2").await, 1);
    grown.store(true, Ordering::Relaxed);
    assert_eq!(read("/list?per_page=2").await, 2);
    assert_eq!((read("/told?per_page=2").await, read("/told?per_page=2").await), (2, 2));
}

fn github_at(url: &str) -> ReviewDef {
    serde_json::from_value(json!({"github": {"repository": "acme/shop", "api": url}})).unwrap()
}

#[tokio::test]
async fn one_commit_or_change_that_fails_each_time_keeps_no_other_from_its_answer() {
    // Nobody can read what is said of `a`; `b` came by a change with more reviews than are read; `c` by none.
    let answers = Answers::start(|request, url| {
        let path = request.split_whitespace().nth(1).unwrap_or_default();
        let sha = |digit| id(digit).to_string();
        let body = if path.contains(&sha('a')) {
            "<html>".to_owned()
        } else if path.contains(&sha('b')) {
            json!([{
                "number": 7, "html_url": "", "merged_at": "2026-11-03T10:00:00Z", "merge_commit_sha": sha('b'),
                "user": {"login": "alice"}, "head": {"ref": "work", "sha": sha('d'), "repo": null},
                "base": {"ref": "main", "sha": sha('e'), "repo": {"full_name": "acme/shop"}}
            }])
            .to_string()
        } else {
            "[]".to_owned()
        };
        let next = format!("link: <{url}/pulls/7/reviews?page=2>; rel=\"next\"\r\n");
        let headers = if path.contains("/reviews") { next } else { String::new() };
        ("200 OK".to_owned(), headers, body)
    })
    .await;
    let repo = Repo::new();
    repo.commit("begin");
    let mirror = repo.mirror().await;
    mirror.fetch().await.unwrap();
    let (review, commits) = (github_at(&answers.url), [id('a'), id('b'), id('c')]);
    let server = server(&answers);
    let question = Question { review: &review, server: &server, branch: "main", commits: &commits };
    let told = forge::ask(&Client::new().unwrap(), &mirror, &question).await;
    assert_eq!(told.brought.keys().collect::<Vec<_>>(), [&commits[1], &commits[2]]);
    let Landed::Otherwise { why } = &told.brought[&commits[1]].changes[0].landed else { panic!() };
    assert!(why.starts_with("its answer has more than 10 pages"), "{why}");
    assert_eq!(told.brought[&commits[2]].changes, []);
    assert_eq!(
        told.failed.into_iter().collect::<Vec<_>>(),
        [id('a')],
        "it is asked about after others next time"
    );
    assert!(matches!(told.stopped, Some(Stopped::Forge(ForgeError::Unreadable { .. }))));
}

#[tokio::test]
async fn gitea_s_word_that_it_knows_no_change_counts_only_where_it_knows_the_repository() {
    for there in [true, false] {
        let answers = Answers::start(move |request, _| {
            let known = there && request.contains("get /api/v1/repos/acme/shop ");
            let status = if known { "200 OK" } else { "404 Not Found" };
            (status.to_owned(), String::new(), "{}".to_owned())
        })
        .await;
        let repo = Repo::new();
        let mirror = repo.mirror().await;
        let api = format!("{}/api/v1", answers.url);
        let (review, commits) = (github_at(&api), [id('a')]);
        let server = Server { api, token: None };
        let question = Question { review: &review, server: &server, branch: "main", commits: &commits };
        let told = forge::ask(&Client::new().unwrap(), &mirror, &question).await;
        assert_eq!((told.brought.len(), told.stopped.is_some()), if there { (1, false) } else { (0, true) });
    }
}

#[tokio::test]
async fn a_next_page_elsewhere_does_not_get_the_token() {
    let other = Answers::start(|_, _| panic!("nobody asks here")).await;
    let elsewhere = other.url.clone();
    let answers = Answers::start(move |_, _| {
        ("200 OK".to_owned(), format!("link: <{elsewhere}/list?page=2>; rel=\"next\"\r\n"), "[1]".to_owned())
    })
    .await;
    let (pages, _) = Client::new().unwrap().pages(&server(&answers), "/list", 10).await;
    let why = "its next page is at another address than its API".to_owned();
    assert_eq!(pages, Err(ForgeError::Unreadable { why }));
}

/// What an answer that is none comes to, in words, and how many requests a second question makes.
async fn failure(status: &'static str, headers: &'static str, body: &'static str) -> (String, usize) {
    let answers = Answers::start(move |_, _| (status.to_owned(), headers.to_owned(), body.to_owned())).await;
    let client = Client::new().unwrap();
    let (pages, _) = client.pages(&server(&answers), "/list", 10).await;
    let told = pages.unwrap_err().to_string();
    let (_, again) = client.pages(&server(&answers), "/list", 10).await;
    (told, again)
}

#[tokio::test]
async fn a_forge_that_refuses_or_has_enough_says_so_and_one_that_has_enough_is_left_alone() {
    let mut table = String::new();
    for (status, headers, body) in [
        ("401 Unauthorized", "", r#"{"message":"Bad credentials"}"#),
        ("403 Forbidden", "x-ratelimit-remaining: 4999\r\n", r#"{"message":"Resource not accessible"}"#),
        ("403 Forbidden", "x-ratelimit-remaining: 0\r\nx-ratelimit-reset: 9999999999\r\n", "{}"),
        ("403 Forbidden", "", r#"{"message":"You have exceeded a secondary rate limit"}"#),
        ("429 Too Many Requests", "retry-after: 7\r\n", ""),
        ("503 Service Unavailable", "retry-after: 9\r\n", ""),
        ("404 Not Found", "", r#"{"message":"404 Project Not Found"}"#),
        ("422 Unprocessable", "", r#"{"message":"No commit found for SHA: a"}"#),
        ("301 Moved", "location: http://127.0.0.1:1/\r\n", r#"{"message":"Moved Permanently"}"#),
        ("500 Oops", "", "<html>\u{1b}[2J</html>"),
    ] {
        let (told, again) = failure(status, headers, body).await;
        table.push_str(&format!("{told}; {again}\n"));
    }
    expect![[r#"
        it refuses the token (401): Bad credentials; 1
        it refuses the token (403): Resource not accessible; 1
        it takes no more requests for 3600 s; 0
        it takes no more requests for 60 s; 0
        it takes no more requests for 7 s; 0
        it takes no more requests for 9 s; 0
        it has no such repository, or does not show it with this token (404); 1
        it does not know what it was asked about (422): No commit found for SHA: a; 1
        it answered 301 and not what its API says: Moved Permanently; 1
        it answered 500 and not what its API says: it does not say why; 1
    "#]]
    .assert_eq(&table);
    let gone = Server { api: "http://127.0.0.1:1".to_owned(), token: None };
    let (pages, _) = Client::new().unwrap().pages(&gone, "/list", 10).await;
    let told = pages.unwrap_err().to_string();
    assert!(told.starts_with("it does not answer: ") && told.contains("refused"), "{told}");
}

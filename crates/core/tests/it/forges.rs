//! Approvals that were given on forges (R1): which of a reviewer's words counts for which commit.

use crate::scenario::{R1, Scenario, organisation_json, pipeline_json};
use expect_test::{Expect, expect};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use tidegate_core::change::Commit;
use tidegate_core::forge::{Brought, Forge, Landed, MergedChange, ReviewWord, Says};
use tidegate_core::ids::CommitId;
use tidegate_core::pipeline::{Asked, PipelineEvent, Position, why};
use tidegate_core::units::Timestamp;

/// By the forge's clock, which is far from tidegate's.
const MERGED_AT: Timestamp = Timestamp(1_000_000);
const BEFORE: Timestamp = Timestamp(900_000);
const AFTER: Timestamp = Timestamp(1_000_001);

fn id(digit: char) -> CommitId {
    CommitId::new(digit.to_string().repeat(40)).unwrap()
}

/// Alice writes, bob and carol review, dave is somebody else's.
fn world(late: &str) -> Scenario {
    let mut organisation = organisation_json();
    organisation["users"] = json!([
        {"name": "alice", "emails": ["alice@example.org"], "accounts": {"github": "alice-gh"}},
        {"name": "bob", "emails": ["bob@example.org"], "accounts": {"github": "Bob-GH", "gitlab": "bob.lab"}},
        {"name": "carol", "accounts": {"github": "carol-gh"}},
        {"name": "dave", "accounts": {"github": "dave-gh"}}
    ]);
    organisation["teams"][0]["members"] = json!(["alice", "bob", "carol"]);
    organisation["teams"][0]["late_approval"] = json!(late);
    let mut s = Scenario::with_organisation(&organisation);
    let mut definition = pipeline_json("frontend", "frontend");
    definition["sources"][0]["review"] = json!({"github": {"repository": "acme/shop"}});
    s.apply(&definition);
    s
}

fn word(account: &str, says: Says, of: char, at: Timestamp) -> ReviewWord {
    ReviewWord { account: account.to_owned(), says, of: Some(id(of)), at }
}

fn approved(account: &str) -> ReviewWord {
    word(account, Says::Approved, 'a', BEFORE)
}

/// Pull request 12 by alice, whose head `a` was merged.
fn change(words: &[ReviewWord]) -> MergedChange {
    MergedChange {
        number: 12,
        url: "https://github.test/acme/shop/pull/12".to_owned(),
        head: id('a'),
        merged_at: MERGED_AT,
        retargeted_at: None,
        author: "alice-gh".to_owned(),
        authors: vec!["Alice@example.org".to_owned()],
        accounts: Vec::new(),
        words: words.to_vec(),
        same: Vec::new(),
        landed: Landed::Merge,
    }
}

fn tell(s: &mut Scenario, commit: &CommitId, changes: Vec<MergedChange>) {
    let brought = Brought { forge: Forge::Github, repository: "acme/shop".to_owned(), changes };
    let told = BTreeMap::from([(commit.clone(), brought)]);
    let asked = Asked::of(&s.pipeline("frontend").definition.as_ref().unwrap().sources[0]);
    tell_of(s, told, asked);
}

fn tell_of(s: &mut Scenario, told: BTreeMap<CommitId, Brought>, asked: Option<Asked>) {
    let (source, asked) = ("app".parse().unwrap(), asked.map(Box::new));
    s.pipeline_event("frontend", PipelineEvent::ForgeTold { source, told, asked }).unwrap();
}

fn pushed(s: &mut Scenario) -> Commit {
    let commit = s.draft("frontend");
    s.push("frontend", commit.clone());
    commit
}

/// What a commit that such changes brought is told, in a team that forbids late approval.
fn outcome(changes: Vec<MergedChange>) -> String {
    outcome_where("forbid", changes)
}

fn outcome_where(late: &str, changes: Vec<MergedChange>) -> String {
    let mut s = world(late);
    let commit = pushed(&mut s);
    tell(&mut s, &commit.id, changes);
    let p = s.pipeline("frontend");
    match why(&p, &s.team(), commit.id.as_str()).unwrap().position {
        Position::Unreviewed { why } => {
            let own = "; no approval by a team member other than its author (bob, carol)";
            let text = why.split(own).next().unwrap().to_owned();
            assert_ne!(text, why, "{why}");
            assert_eq!(p.releases.len(), 0);
            text
        }
        Position::Building { release: R1 } | Position::OnItsWay { release: R1 } => {
            let review = &p.releases[&R1].changes[0].review;
            let on = review.on.as_ref().unwrap();
            assert_eq!(review.at, s.now, "it is recorded by tidegate's clock");
            let late = if review.late { ", late" } else { "" };
            format!("approved by {} in {} as {}{late}", review.by, on.change, on.account)
        }
        other => format!("{other:?}"),
    }
}

fn check(words: &[ReviewWord], expected: Expect) {
    expected.assert_eq(&outcome(vec![change(words)]));
}

#[test]
fn a_member_s_approval_of_the_merged_head_counts_whatever_the_case_of_the_account() {
    check(&[approved("bob-gh")], expect!["approved by bob in pull request acme/shop#12 as bob-gh"]);
    check(
        &[word("bob-gh", Says::ChangesRequested, 'a', BEFORE), approved("CAROL-GH")],
        expect!["approved by carol in pull request acme/shop#12 as CAROL-GH"],
    );
}

#[test]
fn what_does_not_count_is_told_with_its_reason() {
    check(&[], expect!["nobody has approved pull request acme/shop#12"]);
    check(
        &[word("bob-gh", Says::Approved, 'b', BEFORE)],
        expect!["pull request acme/shop#12 was approved by bob for bbbbbbbbbb, but aaaaaaaaaa was merged"],
    );
    check(
        &[ReviewWord { of: None, ..approved("bob-gh") }],
        expect![
            "pull request acme/shop#12 was approved by bob for nobody knows which commit, and aaaaaaaaaa was merged"
        ],
    );
    check(
        &[word("bob-gh", Says::Dismissed, 'a', BEFORE)],
        expect!["the approval of pull request acme/shop#12 by 'bob-gh' was withdrawn"],
    );
    check(
        &[word("bob-gh", Says::ChangesRequested, 'a', BEFORE)],
        expect!["the last word of 'bob-gh' on pull request acme/shop#12 asks for changes"],
    );
    check(
        &[approved("alice-gh")],
        expect!["pull request acme/shop#12 was approved by alice, who opened it or wrote a part of it"],
    );
    check(
        &[approved("dave-gh"), approved("mallory")],
        expect![
            "pull request acme/shop#12 was approved by 'dave-gh', which is no account of a team member; pull request acme/shop#12 was approved by 'mallory', which is no account of a team member"
        ],
    );
    check(
        &[word("bob-gh", Says::Approved, 'a', AFTER)],
        expect!["pull request acme/shop#12 was approved by bob after the merge, which this team forbids"],
    );
    expect!["it came by no merged pull request of acme/shop"].assert_eq(&outcome(Vec::new()));
    let landed = Landed::Otherwise { why: "5d6e has other files than 1a2b gives".to_owned() };
    expect!["pull request acme/shop#12 does not vouch for it: 5d6e has other files than 1a2b gives"]
        .assert_eq(&outcome(vec![MergedChange { landed, ..change(&[approved("bob-gh")]) }]));
    let retargeted_at = Some(Timestamp(950_000));
    expect!["pull request acme/shop#12 was approved by bob before it was pointed at this branch"]
        .assert_eq(&outcome(vec![MergedChange { retargeted_at, ..change(&[approved("bob-gh")]) }]));
}

#[test]
fn an_older_head_counts_if_it_was_only_brought_up_to_date_since() {
    let older = word("bob-gh", Says::Approved, 'b', BEFORE);
    let same = vec![id('b')];
    expect!["approved by bob in pull request acme/shop#12 as bob-gh"]
        .assert_eq(&outcome(vec![MergedChange { same: same.clone(), ..change(&[older]) }]));
    let other = word("bob-gh", Says::Approved, 'c', BEFORE);
    expect!["pull request acme/shop#12 was approved by bob for cccccccccc, but aaaaaaaaaa was merged"]
        .assert_eq(&outcome(vec![MergedChange { same, ..change(&[other]) }]));
}

#[test]
fn whoever_wrote_a_part_of_a_change_does_not_approve_it_also_under_an_address_that_the_forge_gave() {
    for address in ["BOB@example.org", "7+bob-gh@users.noreply.github.com", "Bob-GH@users.noreply.github.com"]
    {
        let mut change = change(&[approved("bob-gh")]);
        change.authors.push(address.to_owned());
        let text = outcome(vec![change]);
        assert!(text.ends_with("approved by bob, who opened it or wrote a part of it"), "{address}: {text}");
    }
    let mut other = change(&[approved("bob-gh")]);
    other.authors.push("7+bob-gh-2@users.noreply.github.com".to_owned());
    assert!(outcome(vec![other]).starts_with("approved by bob"), "that is somebody else");
}

#[test]
fn whoever_wrote_a_part_by_an_address_that_only_the_forge_knows_or_that_two_have_does_not_approve_it() {
    let mut by_account = change(&[approved("bob-gh")]);
    by_account.accounts = vec!["alice-gh".to_owned(), "BOB-gh".to_owned()];
    let text = outcome(vec![by_account]);
    assert!(text.ends_with("approved by bob, who opened it or wrote a part of it"), "{text}");

    let mut organisation = organisation_json();
    organisation["users"] = json!([
        {"name": "alice", "emails": ["alice@example.org", "team@example.org"]},
        {"name": "bob", "emails": ["Team@example.org"], "accounts": {"github": "bob-gh"}}
    ]);
    let definition = serde_json::from_value(organisation).unwrap();
    let found: Vec<String> =
        tidegate_core::lint::organisation(&definition).iter().map(ToString::to_string).collect();
    expect!["TG117 at /users/1/emails/0: 'Team@example.org' is alice's address already (an address is one person's)"]
        .assert_eq(&found.join("\n"));
    // Organisations of before may have it.
    let mut s = world("allow");
    s.apply_organisation_of_before(definition);
    let mut commit = s.draft("frontend");
    commit.author_email = "team@example.org".to_owned();
    s.push("frontend", commit.clone());
    let mut both = change(&[approved("bob-gh")]);
    both.authors = vec!["team@example.org".to_owned()];
    tell(&mut s, &commit.id, vec![both]);
    s.approve(&commit.id, "bob");
    s.approve(&commit.id, "alice");
    assert_eq!(s.pipeline("frontend").releases.len(), 0, "neither of the two has approved somebody else's");
}

#[test]
fn an_answer_that_was_under_way_when_the_source_came_to_name_something_else_is_dropped() {
    let differ: [fn(&mut Value); 5] = [
        |source| {
            source["review"] = json!({"github": {"repository": "acme/shop", "api": "https://git.acme.test"}})
        },
        |source| source["review"] = json!({"gitlab": {"project": "acme/shop"}}),
        |source| source["branch"] = json!("release"),
        |source| source["url"] = json!("https://git.acme.test/other.git"),
        |source| drop(source.as_object_mut().unwrap().remove("review")),
    ];
    for (n, differ) in differ.into_iter().enumerate() {
        let mut s = world("forbid");
        let (first, second) = (pushed(&mut s), pushed(&mut s));
        let before = s.pipeline("frontend").definition.as_ref().unwrap().sources[0].clone();
        tell(&mut s, &second.id, vec![change(&[approved("bob-gh")])]);
        let mut definition = pipeline_json("frontend", "frontend");
        definition["sources"][0]["review"] = json!({"github": {"repository": "acme/shop"}});
        differ(&mut definition["sources"][0]);
        s.apply(&definition);
        let brought = Brought {
            forge: Forge::Github,
            repository: "acme/shop".to_owned(),
            changes: vec![change(&[approved("bob-gh")])],
        };
        for asked in [Asked::of(&before), None] {
            let told = BTreeMap::from([(first.id.clone(), brought.clone())]);
            tell_of(&mut s, told, asked);
        }
        let p = s.pipeline("frontend");
        let told = p.sources.values().flat_map(|s| &s.pending).filter(|seen| seen.told.is_some()).count();
        assert_eq!((p.releases.len(), told), (0, 0), "{n}");
    }
}

#[test]
fn an_approval_after_the_merge_counts_where_the_team_allows_it_and_one_in_time_goes_before() {
    let late = word("bob-gh", Says::Approved, 'a', AFTER);
    expect!["approved by bob in pull request acme/shop#12 as bob-gh, late"]
        .assert_eq(&outcome_where("allow", vec![change(std::slice::from_ref(&late))]));
    expect!["approved by carol in pull request acme/shop#12 as carol-gh"]
        .assert_eq(&outcome_where("allow", vec![change(&[late, approved("carol-gh")])]));
}

#[test]
fn one_of_several_changes_that_brought_a_commit_is_enough() {
    let mut other = change(&[approved("bob-gh")]);
    other.number = 13;
    expect!["approved by bob in pull request acme/shop#13 as bob-gh"]
        .assert_eq(&outcome(vec![change(&[]), other]));
}

#[test]
fn a_word_that_is_withdrawn_or_given_later_is_heeded_while_the_commit_waits() {
    let mut s = world("allow");
    let (first, second) = (pushed(&mut s), pushed(&mut s));
    tell(&mut s, &second.id, vec![change(&[approved("bob-gh")])]);
    assert_eq!(s.pipeline("frontend").releases.len(), 0, "its ancestor is approved by nobody");
    tell(&mut s, &second.id, vec![change(&[word("bob-gh", Says::Dismissed, 'a', BEFORE)])]);
    tell(&mut s, &first.id, vec![change(&[approved("bob-gh")])]);
    let p = s.pipeline("frontend");
    assert_eq!(p.releases[&R1].changes.len(), 1, "the second was withdrawn in time");
    assert_eq!(p.releases[&R1].changes[0].commit.id, first.id);
    let before = s.log.len();
    tell(&mut s, &second.id, vec![change(&[word("bob-gh", Says::Dismissed, 'a', BEFORE)])]);
    tell(&mut s, &first.id, vec![change(&[approved("bob-gh")])]);
    assert_eq!(s.log.len(), before, "neither is news");
}

#[test]
fn an_account_that_is_added_later_makes_what_was_said_before_count() {
    let mut s = world("allow");
    let commit = pushed(&mut s);
    tell(&mut s, &commit.id, vec![change(&[approved("bobby")])]);
    assert_eq!(s.pipeline("frontend").releases.len(), 0);
    let mut organisation = organisation_json();
    organisation["users"][1]["accounts"] = json!({"github": "bobby"});
    s.apply_organisation(&organisation);
    s.tick();
    assert_eq!(s.pipeline("frontend").releases.len(), 1);
}

#[test]
fn an_approval_by_hand_counts_beside_a_forge_that_lacks_one() {
    let mut s = world("allow");
    let commit = pushed(&mut s);
    tell(&mut s, &commit.id, Vec::new());
    s.approve(&commit.id, "bob");
    let review = s.pipeline("frontend").releases[&R1].changes[0].review.clone();
    assert_eq!((review.by.as_str(), review.on), ("bob", None));
}

#[test]
fn what_one_forge_said_is_forgotten_when_the_source_names_another() {
    let mut s = world("forbid");
    let (first, second) = (pushed(&mut s), pushed(&mut s));
    tell(&mut s, &second.id, vec![change(&[approved("bob-gh")])]);
    let mut definition = pipeline_json("frontend", "frontend");
    definition["sources"][0]["review"] = json!({"github": {"repository": "acme/other"}});
    s.apply(&definition);
    tell(&mut s, &first.id, vec![change(&[approved("bob-gh")])]);
    assert_eq!(s.pipeline("frontend").releases[&R1].changes.len(), 1);
    let p = s.pipeline("frontend");
    assert!(p.sources.values().next().unwrap().pending[0].told.is_none());
}

#[test]
fn logs_and_states_of_before_are_read_as_they_were() {
    let seen: tidegate_core::pipeline::SeenCommit = serde_json::from_value(json!({
        "commit": {"id": id('a'), "parents": [], "author_name": "A", "author_email": "a@b", "committed_at": 0,
            "subject": "s", "reverts": [], "fixes": []},
        "seen_at": 5
    }))
    .unwrap();
    assert_eq!(seen.told, None);
    let review: tidegate_core::pipeline::Review =
        serde_json::from_value(json!({"by": "bob", "at": 5, "late": false})).unwrap();
    assert_eq!(review.on, None);
    let fact = json!({"team": {"defined": {"definition": {"name": "shop", "members": []}, "services": [], "emails": {}}}});
    serde_json::from_value::<tidegate_core::decision::Fact>(fact).unwrap();
}

fn codes(pipeline: &Value) -> Vec<(String, String)> {
    let organisation = serde_json::from_value(organisation_json()).unwrap();
    let definition = serde_json::from_value(pipeline.clone()).unwrap();
    let findings = tidegate_core::lint::pipeline(&definition, &organisation);
    findings.into_iter().map(|f| (f.code, f.place)).collect()
}

#[test]
fn what_names_a_forge_is_checked() {
    let of = |review: Value| {
        let mut definition = pipeline_json("frontend", "frontend");
        definition["sources"][0]["review"] = review;
        codes(&definition)
    };
    for good in [
        json!({"github": {"repository": "acme/shop.js", "token": "github", "webhook": "hook"}}),
        json!({"gitlab": {"project": "acme/web/shop", "api": "https://git.acme.test/api/v4"}}),
    ] {
        assert_eq!(of(good), []);
    }
    let at = |place: &str| vec![("TG148".to_owned(), place.to_owned())];
    for bad in ["shop", "acme/shop/more", "acme/..", "acme/", "acme/a b", "acme/shop?x"] {
        let review = json!({"github": {"repository": bad}});
        assert_eq!(of(review), at("/sources/0/review/github/repository"), "{bad}");
    }
    assert_eq!(of(json!({"gitlab": {"project": "shop"}})), at("/sources/0/review/gitlab/project"));
    for bad in ["git.acme.test", "https://me:secret@git.acme.test/api", "https://git.acme.test/api?x=y"] {
        let review = json!({"github": {"repository": "acme/shop", "api": bad}});
        assert_eq!(of(review), at("/sources/0/review/github/api"), "{bad}");
    }
    let mut organisation = organisation_json();
    organisation["users"][0]["accounts"] = json!({"github": "Octo", "gitlab": "alice"});
    organisation["users"][1]["accounts"] = json!({"github": "octo", "gitlab": "@bob"});
    let definition = serde_json::from_value(organisation).unwrap();
    let found: Vec<String> =
        tidegate_core::lint::organisation(&definition).iter().map(ToString::to_string).collect();
    expect![[r#"
        TG117 at /users/1/accounts/github: 'octo' is alice's account already (an account is one person's)
        TG117 at /users/1/accounts/gitlab: '@bob' is no name of an account on GitLab (write the name alone, without '@', address or spaces)"#]]
    .assert_eq(&found.join("\n"));
}

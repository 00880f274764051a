//! The review gate (R1) and what becomes of commits.

use crate::scenario::{R1, R2, Scenario, organisation_json};
use serde_json::json;
use tidegate_core::change::SourceObservation;
use tidegate_core::pipeline::{PipelineEvent, PipelineFact, Position, why};
use tidegate_core::units::Span;

fn newest_commit(s: &Scenario) -> Option<String> {
    let p = s.pipeline("frontend");
    p.newest().map(|(_, r)| r.commits.values().next().unwrap().to_string())
}

fn why_not(s: &Scenario, commit: &str) -> String {
    match why(&s.pipeline("frontend"), &s.team(), commit).unwrap().position {
        Position::Unreviewed { why } => why,
        other => format!("{other:?}"),
    }
}

#[test]
fn an_unreviewed_commit_makes_no_release_and_says_whose_word_is_missing() {
    let mut s = Scenario::new();
    let commit = s.draft("frontend");
    let id = s.push("frontend", commit);
    assert_eq!(newest_commit(&s), None);
    let text = why_not(&s, id.as_str());
    assert!(text.starts_with("no approval by a team member other than its author (bob)"), "{text}");
}

#[test]
fn the_author_s_own_approval_does_not_count() {
    let mut s = Scenario::new();
    let commit = s.draft("frontend");
    s.approve(&commit.id, "alice");
    let id = s.push("frontend", commit);
    assert_eq!(newest_commit(&s), None, "addresses are compared without regard to case");
    assert_eq!(why_not(&s, id.as_str()), "approved only by alice, who wrote it; another member has to");
    s.approve(&id, "bob");
    assert_eq!(newest_commit(&s).as_deref(), Some(id.as_str()), "in the same instant it is not late");
}

#[test]
fn late_approval_counts_only_where_the_team_allows_it() {
    for (setting, counts) in [("forbid", false), ("allow", true)] {
        let mut organisation = organisation_json();
        organisation["teams"][0]["late_approval"] = json!(setting);
        let mut s = Scenario::with_organisation(&organisation);
        s.apply(&crate::scenario::pipeline_json("frontend", "frontend"));
        let commit = s.draft("frontend");
        let id = s.push("frontend", commit);
        s.wait(Span::minutes(1));
        s.approve(&id, "bob");
        assert_eq!(newest_commit(&s).is_some(), counts, "{setting}");
        if counts {
            assert!(s.pipeline("frontend").releases[&R1].changes[0].review.late);
        } else {
            assert!(why_not(&s, id.as_str()).starts_with("approved by bob after the merge"));
        }
    }
}

#[test]
fn approvals_bind_exact_commits() {
    let mut s = Scenario::new();
    let first = s.draft("frontend");
    s.approve(&first.id, "bob");
    // What is pushed is the same change, amended: another commit.
    let mut amended = s.draft("frontend");
    amended.subject = first.subject;
    s.push("frontend", amended);
    assert_eq!(newest_commit(&s), None);
}

#[test]
fn an_unreviewed_ancestor_stalls_what_stands_on_it() {
    let mut s = Scenario::new();
    let (first, second) = {
        let first = s.draft("frontend");
        s.approve(&first.id, "bob");
        let first = s.push("frontend", first);
        let unreviewed = s.draft("frontend");
        let unreviewed = s.push("frontend", unreviewed);
        (first, unreviewed)
    };
    let third = s.draft("frontend");
    s.approve(&third.id, "bob");
    let third = s.push("frontend", third);
    assert_eq!(newest_commit(&s).as_deref(), Some(first.as_str()));
    let position = why(&s.pipeline("frontend"), &s.team(), third.as_str()).unwrap().position;
    assert!(matches!(position, Position::BehindUnreviewed { commit, .. } if commit == second));
}

#[test]
fn a_source_whose_history_was_rewritten_says_so_and_moves_nowhere() {
    let mut s = Scenario::new();
    s.release("frontend");
    let mut other = s.draft("frontend");
    other.parents.clear();
    s.approve(&other.id, "bob");
    let observation = SourceObservation { head: other.id.clone(), commits: vec![other], rewritten: true };
    let event = PipelineEvent::SourceObserved { source: "app".parse().unwrap(), observation };
    s.pipeline_event("frontend", event).unwrap();
    let p = s.pipeline("frontend");
    assert_eq!(p.releases.len(), 1);
    let trouble = p.sources.values().next().unwrap().trouble.clone().unwrap();
    assert!(trouble.why.starts_with("the history was rewritten"), "{}", trouble.why);
}

#[test]
fn while_one_builds_later_commits_wait_and_the_next_build_takes_the_newest() {
    let mut s = Scenario::new();
    s.stop_builds();
    s.release("frontend");
    let second = s.draft("frontend");
    s.push_reviewed("frontend", second);
    let third = s.draft("frontend");
    let id = third.id.clone();
    s.push_reviewed("frontend", third);
    assert_eq!(s.pipeline("frontend").releases.len(), 1);
    s.start_all();
    let p = s.pipeline("frontend");
    assert_eq!(p.releases.len(), 2);
    assert_eq!(p.releases[&R2].changes.len(), 2);
    assert_eq!(newest_commit(&s), Some(id.to_string()));
}

#[test]
fn the_first_result_of_a_build_counts_and_a_second_changes_nothing() {
    let mut s = Scenario::new();
    s.stop_builds();
    s.release("frontend");
    let effect = s.build_effect("frontend", R1);
    s.start_all();
    let before = s.pipeline("frontend");
    let result = Err("lost and found".to_owned());
    s.pipeline_event("frontend", PipelineEvent::BuildEnded { effect, result }).unwrap();
    assert_eq!(s.pipeline("frontend"), before);
    assert_eq!(s.count(|f| matches!(f, PipelineFact::BuildFailed { .. })), 0);
}

//! Merges of changes, with the real git: what a change's approved head vouches for, and what it does not.

use crate::git::Repo;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use tidegate_core::forge::Landed;
use tidegate_core::ids::CommitId;
use tidegate_workers::git::{BorneOut, Merge};

const NUMBER: &str = "refs/pull/7/head";

/// A repository whose mainline has a commit, and a change of two commits on a branch of it; the forge keeps its head.
struct Scene {
    repo: Repo,
    base: CommitId,
    own: Vec<CommitId>,
    /// Heads that the change had before.
    older: Vec<CommitId>,
}

impl Scene {
    fn new() -> Scene {
        let repo = Repo::new();
        write(&repo, "old", "1\n2\n3\n4\n5\n6\n7\n");
        let base = repo.commit("begin");
        repo.git(&["checkout", "-q", "-b", "change"]);
        write(&repo, "one", "1");
        let first = repo.commit("one");
        write(&repo, "two", "2");
        let second = repo.commit("two");
        repo.git(&["update-ref", NUMBER, second.as_str()]);
        repo.git(&["checkout", "-q", "main"]);
        Scene { repo, base, own: vec![first, second], older: Vec::new() }
    }

    fn head(&self) -> &CommitId {
        self.own.last().unwrap()
    }

    /// Something else comes to the mainline.
    fn meanwhile(&self) -> CommitId {
        write(&self.repo, "other", "x");
        self.repo.commit("meanwhile")
    }

    fn merge(&self) -> CommitId {
        self.repo.git(&["merge", "-q", "--no-ff", "-m", "Merge pull request #7", self.head().as_str()]);
        self.repo.commit_at("HEAD")
    }

    fn squash(&self) -> CommitId {
        self.repo.git(&["merge", "-q", "--squash", self.head().as_str()]);
        self.repo.commit("Two things (#7)")
    }

    fn rebase(&self) -> Vec<CommitId> {
        self.repo.git(&["cherry-pick", self.own[0].as_str(), self.own[1].as_str()]);
        vec![self.repo.commit_at("HEAD~1"), self.repo.commit_at("HEAD")]
    }

    async fn look(&self, landed: &CommitId) -> BorneOut {
        self.look_at(landed, None, &self.own).await
    }

    async fn look_at(&self, landed: &CommitId, squashed: Option<&CommitId>, own: &[CommitId]) -> BorneOut {
        // The branch is gone, as after most merges; the forge's own reference is all that keeps the head.
        self.repo.git(&["branch", "-q", "-D", "change"]);
        let mirror = self.repo.mirror().await;
        mirror.fetch().await.unwrap();
        let head = self.head();
        let older = &self.older[..];
        let merge = Merge { reference: NUMBER, head, landed, squashed, own, older, branch: "main" };
        mirror.bears_out(&merge).await.unwrap()
    }
}

fn write(repo: &Repo, name: &str, text: &str) {
    fs::write(repo.path().join(name), text).unwrap();
}

fn found(borne_out: &BorneOut, commits: &[&CommitId]) -> Vec<Option<Landed>> {
    commits.iter().map(|commit| borne_out.commits.get(*commit).cloned()).collect()
}

/// The change's own commits are vouched for, what was made of them is not, and why.
#[track_caller]
fn refused(borne_out: &BorneOut, scene: &Scene, why: &str) {
    let own: Vec<&CommitId> = borne_out.commits.keys().collect();
    let mut expected: Vec<&CommitId> = scene.own.iter().collect();
    expected.sort();
    assert_eq!(own, expected);
    let told = borne_out.why_not.as_deref().unwrap();
    assert!(told.contains(why), "{told}");
}

#[tokio::test]
async fn a_merge_commit_with_the_files_that_merging_gives_is_vouched_for() {
    let scene = Scene::new();
    let other = scene.meanwhile();
    let merge = scene.merge();
    let told = scene.look(&merge).await;
    let commits = [&merge, &scene.own[0], &scene.own[1], &other, &scene.base];
    let expected = [Some(Landed::Merge), Some(Landed::Own), Some(Landed::Own), None, None];
    assert_eq!((found(&told, &commits), told.why_not), (expected.to_vec(), None));
    assert_eq!(told.authors, ["ann@example.com"]);
}

#[tokio::test]
async fn a_merge_commit_that_smuggles_something_in_is_not() {
    let scene = Scene::new();
    scene.merge();
    write(&scene.repo, "evil", "x");
    scene.repo.git(&["add", "-A"]);
    scene.repo.git(&["commit", "-q", "--amend", "--no-edit"]);
    let evil = scene.repo.commit_at("HEAD");
    let told = scene.look(&evil).await;
    refused(&told, &scene, "has other files than");
}

#[tokio::test]
async fn one_that_merges_another_head_or_leaves_out_what_conflicts_is_not() {
    let scene = Scene::new();
    scene.repo.git(&["merge", "-q", "--no-ff", "-m", "Merge pull request #7", scene.own[0].as_str()]);
    let other = scene.repo.commit_at("HEAD");
    refused(&scene.look(&other).await, &scene, "and its head is");

    let scene = Scene::new();
    write(&scene.repo, "two", "mine");
    scene.repo.commit("conflict");
    scene.repo.git(&["merge", "-q", "--no-ff", "-X", "ours", "-m", "Merge", scene.head().as_str()]);
    let resolved = scene.repo.commit_at("HEAD");
    refused(&scene.look(&resolved).await, &scene, "without conflicts");
}

#[tokio::test]
async fn a_squashed_change_is_vouched_for_and_an_earlier_commit_under_it_is_not() {
    let scene = Scene::new();
    let other = scene.meanwhile();
    let squashed = scene.squash();
    let told = scene.look(&squashed).await;
    let expected = vec![Some(Landed::Squash), None, Some(Landed::Own)];
    assert_eq!(found(&told, &[&squashed, &other, &scene.own[0]]), expected);

    let scene = Scene::new();
    scene.repo.git(&["merge", "-q", "--squash", scene.head().as_str()]);
    write(&scene.repo, "evil", "x");
    let evil = scene.repo.commit("Two things (#7)");
    refused(&scene.look(&evil).await, &scene, "has other files than");
}

#[tokio::test]
async fn rebased_commits_are_vouched_for_together_and_one_before_them_is_not() {
    let scene = Scene::new();
    let other = scene.meanwhile();
    let made = scene.rebase();
    let told = scene.look(&made[1]).await;
    let expected = vec![None, Some(Landed::Rebase), Some(Landed::Rebase)];
    assert_eq!((found(&told, &[&other, &made[0], &made[1]]), told.why_not), (expected, None));

    // As many commits, the last of which has other files.
    let scene = Scene::new();
    scene.meanwhile();
    scene.rebase();
    write(&scene.repo, "evil", "x");
    scene.repo.git(&["add", "-A"]);
    scene.repo.git(&["commit", "-q", "--amend", "--no-edit"]);
    refused(&scene.look(&scene.repo.commit_at("HEAD")).await, &scene, "has other files than");
}

#[tokio::test]
async fn a_mainline_that_was_moved_forward_has_the_change_s_own_commits() {
    let scene = Scene::new();
    scene.repo.git(&["merge", "-q", "--ff-only", scene.head().as_str()]);
    let told = scene.look(scene.head()).await;
    let expected = vec![Some(Landed::Own), Some(Landed::Own), None];
    assert_eq!((found(&told, &[&scene.own[0], &scene.own[1], &scene.base]), told.why_not), (expected, None));
}

#[tokio::test]
async fn a_commit_below_the_head_that_reviewers_were_not_shown_is_not_vouched_for() {
    // It was pushed to the mainline before, so the change does not show it; and the merge names the root as what came before.
    let repo = Repo::new();
    write(&repo, "old", "1");
    let base = repo.commit("begin");
    write(&repo, "evil", "x");
    let evil = repo.commit("evil");
    write(&repo, "good", "x");
    let good = repo.commit("good");
    repo.git(&["update-ref", NUMBER, good.as_str()]);
    let tree = format!("{good}^{{tree}}");
    let args =
        ["commit-tree", &tree, "-p", base.as_str(), "-p", good.as_str(), "-m", "Merge pull request #7"];
    let merge: CommitId = repo.git(&args).parse().unwrap();
    repo.git(&["update-ref", "refs/heads/main", merge.as_str()]);
    repo.git(&["branch", "-q", "change"]);
    let scene = Scene { repo, base, own: vec![good], older: Vec::new() };
    let told = scene.look(&merge).await;
    assert_eq!(found(&told, &[&merge, &evil]), [Some(Landed::Merge), None]);
}

#[tokio::test]
async fn a_squashed_commit_that_is_merged_is_looked_at_itself() {
    for evil in [false, true] {
        let scene = Scene::new();
        scene.repo.git(&["checkout", "-q", "--detach"]);
        let _ = scene.repo.git(&["merge", "-q", "--squash", scene.head().as_str()]);
        if evil {
            write(&scene.repo, "evil", "x");
        }
        let squashed = scene.repo.commit("Two things");
        scene.repo.git(&["checkout", "-q", "main"]);
        scene.meanwhile();
        scene.repo.git(&["merge", "-q", "--no-ff", "-m", "Merge branch", squashed.as_str()]);
        let merge = scene.repo.commit_at("HEAD");
        let told = scene.look_at(&merge, Some(&squashed), &scene.own).await;
        if evil {
            refused(&told, &scene, "has other files than");
        } else {
            let expected = vec![Some(Landed::Merge), Some(Landed::Squash)];
            assert_eq!(found(&told, &[&merge, &squashed]), expected);
        }
    }
}

/// The change goes on from its head, and is then this; what it was is an older head.
fn brought_up_to_date(scene: Scene, own: impl FnOnce(&Repo) -> Vec<CommitId>) -> Scene {
    let older = vec![scene.head().clone()];
    scene.repo.git(&["checkout", "-q", "change"]);
    let own = own(&scene.repo);
    scene.repo.git(&["update-ref", NUMBER, own.last().unwrap().as_str()]);
    scene.repo.git(&["checkout", "-q", "main"]);
    Scene { own, older, ..scene }
}

fn rebased_on_main(repo: &Repo) -> Vec<CommitId> {
    repo.git(&["rebase", "-q", "main"]);
    vec![repo.commit_at("HEAD~1"), repo.commit_at("HEAD")]
}

#[tokio::test]
async fn an_older_head_is_the_same_if_it_was_only_brought_up_to_date_since() {
    // By a rebase, and the mainline was moved forward.
    let scene = Scene::new();
    scene.meanwhile();
    let scene = brought_up_to_date(scene, rebased_on_main);
    scene.repo.git(&["merge", "-q", "--ff-only", scene.head().as_str()]);
    let told = scene.look(scene.head()).await;
    assert_eq!(told.same, vouches(&scene.older[0], &[&scene.own[0], &scene.own[1]]));

    // By a rebase, then merged and squashed; something else has come in between.
    for squash in [false, true] {
        let scene = Scene::new();
        scene.meanwhile();
        let scene = brought_up_to_date(scene, rebased_on_main);
        write(&scene.repo, "third", "x");
        scene.repo.commit("and more");
        let landed = if squash { scene.squash() } else { scene.merge() };
        let told = scene.look(&landed).await;
        assert_eq!(told.same, vouches(&scene.older[0], &[&scene.own[0], &scene.own[1], &landed]), "{squash}");
    }

    // By a merge of the mainline into it.
    let scene = Scene::new();
    scene.meanwhile();
    let before = scene.own.clone();
    let scene = brought_up_to_date(scene, |repo| {
        repo.git(&["merge", "-q", "--no-ff", "-m", "Merge branch 'main'", "main"]);
        [before, vec![repo.commit_at("HEAD")]].concat()
    });
    let landed = scene.merge();
    let told = scene.look(&landed).await;
    let all: Vec<&CommitId> = scene.own.iter().chain([&landed]).collect();
    assert_eq!((told.same, told.why_not), (vouches(&scene.older[0], &all), None));

    // By a rebase, and then rebased once more when it was merged.
    let scene = Scene::new();
    scene.meanwhile();
    let scene = brought_up_to_date(scene, rebased_on_main);
    write(&scene.repo, "third", "x");
    scene.repo.commit("and more");
    let made = scene.rebase();
    let told = scene.look(&made[1]).await;
    let all = [&scene.own[0], &scene.own[1], &made[0], &made[1]];
    assert_eq!((told.same, told.why_not), (vouches(&scene.older[0], &all), None));
}

/// What an older head vouches for.
fn vouches(older: &CommitId, commits: &[&CommitId]) -> BTreeMap<CommitId, BTreeSet<CommitId>> {
    BTreeMap::from([(older.clone(), commits.iter().map(|id| (*id).clone()).collect())])
}

#[tokio::test]
async fn a_commit_that_was_on_the_mainline_before_is_not_vouched_for_though_the_change_lists_it() {
    // The older head was approved; somebody puts a commit on the mainline and in the change, and the forge lists it as its own.
    let scene = Scene::new();
    let pushed = scene.meanwhile();
    let before = scene.own.clone();
    let scene = brought_up_to_date(scene, |repo| {
        repo.git(&["merge", "-q", "--no-ff", "-m", "Merge branch 'main'", "main"]);
        [before, vec![pushed.clone(), repo.commit_at("HEAD")]].concat()
    });
    let landed = scene.merge();
    let told = scene.look(&landed).await;
    let [first, second, _, head] = &scene.own[..] else { panic!() };
    let of = |commit| told.commits.get(commit).cloned();
    assert_eq!((of(&pushed), of(first), of(&landed)), (None, Some(Landed::Own), Some(Landed::Merge)));
    assert_eq!(told.same, vouches(&scene.older[0], &[first, second, head, &landed]));

    // The same where the mainline was moved forward to the merge: the older head is not what came then.
    let scene = Scene::new();
    let before = scene.own.clone();
    scene.repo.git(&["checkout", "-q", "-b", "side", "main"]);
    write(&scene.repo, "other", "x");
    let aside = scene.repo.commit("aside");
    let scene = brought_up_to_date(scene, |repo| {
        repo.git(&["merge", "-q", "--no-ff", "-m", "Merge branch 'side'", "side"]);
        [before, vec![aside.clone(), repo.commit_at("HEAD")]].concat()
    });
    scene.repo.git(&["merge", "-q", "--ff-only", scene.head().as_str()]);
    let told = scene.look(scene.head()).await;
    assert_eq!((told.same.len(), told.why_not), (0, None));
}

#[tokio::test]
async fn an_older_head_does_not_vouch_for_what_came_after_it_and_was_taken_back() {
    for how in ["merge", "rebase", "forward"] {
        let scene = Scene::new();
        let before = scene.own.clone();
        let scene = brought_up_to_date(scene, |repo| {
            write(repo, "evil", "x");
            let evil = repo.commit("evil");
            repo.git(&["revert", "--no-edit", evil.as_str()]);
            [before, vec![evil, repo.commit_at("HEAD")]].concat()
        });
        let mut made = Vec::new();
        let landed = match how {
            "merge" => scene.merge(),
            "rebase" => {
                scene.meanwhile();
                let own: Vec<&str> = scene.own.iter().map(CommitId::as_str).collect();
                scene.repo.git(&[&["cherry-pick"], &own[..]].concat());
                made.extend(["HEAD~3", "HEAD~2"].map(|name| scene.repo.commit_at(name)));
                scene.repo.commit_at("HEAD")
            }
            _ => {
                scene.repo.git(&["merge", "-q", "--ff-only", scene.head().as_str()]);
                scene.head().clone()
            }
        };
        let told = scene.look(&landed).await;
        assert_eq!(told.why_not, None, "{how}");
        let own = scene.own.iter().map(|id| told.commits.get(id).cloned());
        assert!(own.eq(vec![Some(Landed::Own); 4]), "{how}: the head vouches for all of them");
        let mut expected = vec![&scene.own[0], &scene.own[1]];
        expected.extend(&made);
        if how == "merge" {
            expected.push(&landed);
        }
        assert_eq!(told.same, vouches(&scene.older[0], &expected), "{how}");
    }
}

#[tokio::test]
async fn whoever_commits_what_somebody_else_wrote_has_a_hand_in_it_unless_it_is_only_rebased() {
    let by_bob = ["-c", "user.name=Bob", "-c", "user.email=bob@example.com"];
    let scene = Scene::new();
    scene.repo.git(&["checkout", "-q", "change"]);
    write(&scene.repo, "evil", "x");
    scene.repo.git(&["add", "-A"]);
    scene.repo.git(&[&by_bob[..], &["commit", "-q", "--amend", "--no-edit"]].concat());
    let own = vec![scene.own[0].clone(), scene.repo.commit_at("HEAD")];
    scene.repo.git(&["update-ref", NUMBER, own[1].as_str()]);
    scene.repo.git(&["checkout", "-q", "main"]);
    let scene = Scene { own, ..scene };
    let landed = scene.merge();
    assert_eq!(scene.look(&landed).await.authors, ["ann@example.com", "bob@example.com"]);

    let scene = Scene::new();
    scene.meanwhile();
    let scene = brought_up_to_date(scene, |repo| {
        repo.git(&[&by_bob[..], &["rebase", "-q", "main"]].concat());
        vec![repo.commit_at("HEAD~1"), repo.commit_at("HEAD")]
    });
    let landed = scene.merge();
    let told = scene.look(&landed).await;
    assert_eq!((told.same.len(), &told.authors[..]), (1, &["ann@example.com".to_owned()][..]));
}

#[tokio::test]
async fn an_older_head_is_another_if_anything_was_done_to_the_change_since() {
    let evil = |repo: &Repo| {
        write(repo, "evil", "x");
        repo.git(&["add", "-A"]);
        repo.git(&["commit", "-q", "--amend", "--no-edit"]);
    };
    // One more commit; a commit that was amended; one that was left out; a merge of the mainline that brings more.
    for what in ["more", "amended", "fewer", "merged"] {
        let scene = Scene::new();
        scene.meanwhile();
        let before = scene.own.clone();
        let scene = brought_up_to_date(scene, |repo| match what {
            "more" => {
                write(repo, "evil", "x");
                [before, vec![repo.commit("more")]].concat()
            }
            "amended" => {
                rebased_on_main(repo);
                evil(repo);
                vec![repo.commit_at("HEAD~1"), repo.commit_at("HEAD")]
            }
            "fewer" => {
                repo.git(&["reset", "-q", "--hard", "HEAD~1"]);
                vec![before[0].clone()]
            }
            _ => {
                repo.git(&["merge", "-q", "--no-ff", "-m", "Merge branch 'main'", "main"]);
                evil(repo);
                [before, vec![repo.commit_at("HEAD")]].concat()
            }
        });
        let landed = scene.merge();
        let told = scene.look(&landed).await;
        assert_eq!((told.same, told.why_not), (BTreeMap::new(), None), "{what}");
    }
}

#[tokio::test]
async fn whoever_wrote_an_older_head_that_is_the_same_is_an_author_too() {
    let scene = Scene::new();
    scene.repo.git(&["checkout", "-q", "change"]);
    scene.repo.git(&["commit", "-q", "--amend", "--no-edit", "--author", "Cy <cy@example.com>"]);
    let second = scene.repo.commit_at("HEAD");
    scene.repo.git(&["checkout", "-q", "main"]);
    scene.meanwhile();
    let scene = Scene { own: vec![scene.own[0].clone(), second], ..scene };
    let scene = brought_up_to_date(scene, |repo| {
        rebased_on_main(repo);
        repo.git(&["commit", "-q", "--amend", "--no-edit", "--author", "Ann <ann@example.com>"]);
        vec![repo.commit_at("HEAD~1"), repo.commit_at("HEAD")]
    });
    let landed = scene.merge();
    let told = scene.look(&landed).await;
    // The second commit is by somebody else now, and nobody knows whose account's it was.
    assert_eq!(told.same, vouches(&scene.older[0], &[&scene.own[0]]));
    assert_eq!(told.authors, ["ann@example.com", "cy@example.com"]);
}

#[tokio::test]
async fn everybody_who_wrote_a_part_is_an_author() {
    let scene = Scene::new();
    scene.repo.git(&["checkout", "-q", "change"]);
    write(&scene.repo, "three", "3");
    scene.repo.git(&["add", "-A"]);
    let message = "three\n\nCo-authored-by: Bob <bob@example.com>";
    scene.repo.git(&["commit", "-q", "--author", "Cy <cy@example.com>", "-m", message]);
    let third = scene.repo.commit_at("HEAD");
    scene.repo.git(&["update-ref", NUMBER, third.as_str()]);
    scene.repo.git(&["checkout", "-q", "main"]);
    let scene = Scene { own: [scene.own.clone(), vec![third]].concat(), ..scene };
    let merge = scene.merge();
    let told = scene.look(&merge).await;
    assert_eq!(told.authors, ["ann@example.com", "bob@example.com", "cy@example.com"]);
}

#[tokio::test]
async fn whoever_brings_a_change_up_to_date_writes_nothing_of_it_unless_the_merge_brings_more() {
    for evil in [false, true] {
        let scene = Scene::new();
        scene.meanwhile();
        let before = scene.own.clone();
        let scene = brought_up_to_date(scene, |repo| {
            let merge = ["merge", "-q", "--no-ff", "-m", "Merge branch 'main'", "main"];
            repo.git(&[&["-c", "user.name=Bob", "-c", "user.email=bob@example.com"][..], &merge].concat());
            if evil {
                write(repo, "evil", "x");
                repo.git(&["add", "-A"]);
                repo.git(&["commit", "-q", "--amend", "--no-edit"]);
            }
            [before, vec![repo.commit_at("HEAD")]].concat()
        });
        let landed = scene.merge();
        let told = scene.look(&landed).await;
        let expected: &[&str] =
            if evil { &["ann@example.com", "bob@example.com"] } else { &["ann@example.com"] };
        assert_eq!(told.authors, expected);
    }
}

#[tokio::test]
async fn what_cannot_be_looked_at_is_vouched_for_by_nobody() {
    let scene = Scene::new();
    let merge = scene.squash();
    scene.repo.git(&["update-ref", "-d", NUMBER]);
    let told = scene.look(&merge).await;
    assert_eq!(told.commits.len(), 0);
    assert_eq!(told.why_not.as_deref(), Some("the repository has no reference 'refs/pull/7/head'"));

    // Commits that are not below its head are not its own, whatever the forge says.
    let scene = Scene::new();
    let other = scene.meanwhile();
    let merge = scene.merge();
    let told = scene.look_at(&merge, None, &[scene.own[0].clone(), other]).await;
    assert_eq!(
        (told.commits.len(), told.why_not.as_deref()),
        (0, Some("not all of its commits are below its head"))
    );

    // What is said to have landed is not on the mainline.
    let scene = Scene::new();
    let merge = scene.merge();
    scene.repo.git(&["reset", "-q", "--hard", scene.base.as_str()]);
    let told = scene.look(&merge).await;
    assert_eq!(told.commits.len(), 0);
    assert!(told.why_not.unwrap().ends_with("is not on main"));
}

//! A repository that vanishes and comes back, and one that does not answer.

use crate::world::{World, definitions, words};
use serde_json::json;
use std::fs;
use std::net::TcpListener;
use tidegate_core::ids::CommitId;

#[test]
fn a_repository_that_vanishes_is_told_of_and_the_pipeline_goes_on_when_it_is_back() {
    let world = World::start();
    let repo = world.repo("shop");
    let first = world.land(&repo, &[]);
    world.apply("app", &definitions::application(&repo)).well();
    world.until_passed("app", 1);

    let away = world.dir().join("away");
    fs::rename(repo.path(), &away).unwrap();
    let trouble = world.until("the trouble shows", || world.pipeline("app").sources.remove(0).trouble);
    let url = repo.path().display();
    assert!(trouble.why.starts_with(&format!("repository {url} is not there (any more): ")), "{trouble:?}");
    let status = world.cli(&["status", "app"]).well();
    assert!(
        status.contains("TROUBLE") && status.contains("since ") && status.contains("is not there"),
        "{status}"
    );
    let why = world.cli(&["why", &first[..10]]).well();
    assert!(why.contains("everywhere"), "{why}");

    // What runs, runs on; the trouble keeps the time of its beginning.
    world.until_everywhere("app", 1);
    let later = world.pipeline("app").sources.remove(0);
    assert_eq!((later.trouble, later.head), (Some(trouble), Some(CommitId::new(first).unwrap())));

    // It comes back as a copy, with a commit that was pushed there meanwhile.
    assert!(
        std::process::Command::new("cp").arg("-a").arg(&away).arg(repo.path()).status().unwrap().success()
    );
    world.land(&repo, &[("version", "2")]);
    world.until_passed("app", 2);
    assert_eq!(world.pipeline("app").sources[0].trouble, None);
    let told = world.told();
    let heard = |what: &str| told.iter().filter(|text| text.starts_with(what)).count();
    assert_eq!((heard("code cannot be read: "), heard("code can be read again")), (1, 1), "{told:#?}");
}

#[test]
fn a_repository_that_does_not_answer_is_told_of_and_holds_up_no_other() {
    let world = World::start();
    // Connections are taken by the system and never answered.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let repo = world.repo("shop");
    let mut definition = definitions::application(&repo);
    definition["name"] = json!("hangs");
    definition["sources"][0]["url"] = json!(format!("http://{}/shop.git", silent.local_addr().unwrap()));
    world.apply("hangs", &definition).well();
    world.land(&repo, &[]);
    world.apply("app", &definitions::application(&repo)).well();
    world.until_passed("app", 1);
    world.until("the trouble shows", || {
        let status = words(&world.cli(&["status", "hangs"]).well());
        let trouble = "TROUBLE reading source code of hangs (for ";
        (status.contains(trouble) && status.contains("the repository has not answered for 1")).then_some(())
    });
    silent.set_nonblocking(true).unwrap();
    assert_eq!(silent.incoming().take_while(Result::is_ok).count(), 1, "it is asked once at a time");
    world.end_server();
}

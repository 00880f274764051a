//! What nobody needs goes, and what a rollback may need stays, however old it is.

use crate::world::{World, definitions, get, release};
use serde_json::json;
use std::fs::{self, File};
use std::path::Path;
use std::time::{Duration, SystemTime};
use tidegate_api::{BuildStatus, GcAnswer};

/// Everything in a folder was written so many days ago.
fn age(folder: &Path, days: u64) {
    let then = SystemTime::now() - Duration::from_secs(days * 24 * 3_600);
    File::open(folder).unwrap().set_modified(then).unwrap();
    for entry in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap()) {
        if entry.file_type().unwrap().is_dir() {
            age(&entry.path(), days);
        } else {
            File::open(entry.path()).unwrap().set_modified(then).unwrap();
        }
    }
}

fn collect(world: &World, arguments: &[&str]) -> GcAnswer {
    let told = world.cli(&[&["gc", "--json"], arguments].concat()).well();
    serde_json::from_str(&told).unwrap()
}

fn names(answer: &GcAnswer, kind: &str) -> Vec<String> {
    let mut names: Vec<String> =
        answer.items.iter().filter(|item| item.kind == kind).map(|item| item.name.clone()).collect();
    names.sort();
    names
}

#[test]
fn what_no_release_can_return_to_goes_and_a_rollback_finds_what_it_needs() {
    let world = World::start();
    let repo = world.repo("shop");
    world.land(&repo, &[]);
    let mut definition = definitions::application(&repo);
    world.apply("app", &definition).well();
    world.until_passed("app", 1);
    for number in 2..=8 {
        world.land(&repo, &[("version", &number.to_string())]);
        world.until_passed("app", number);
    }
    let package = |number: u64| match release(&world.pipeline("app"), number).unwrap().build {
        BuildStatus::Built { package, .. } => package.to_string(),
        other => panic!("{other:?}"),
    };
    // A target remembers what it runs and the five before; two are older.
    let mut old = [package(1), package(2)];
    old.sort();
    let none: [String; 0] = [];
    assert_eq!(names(&collect(&world, &["--dry-run"]), "package"), none, "what is young stays");
    let data = world.data();
    for folder in ["packages", "mirrors", "logs"] {
        age(&data.join(folder), 60);
    }
    let stranger = "ab".repeat(16);
    fs::create_dir(data.join("mirrors").join(&stranger)).unwrap();
    age(&data.join("mirrors").join(&stranger), 60);
    fs::create_dir_all(data.join("builds/left/read-only")).unwrap();

    let told = collect(&world, &["--dry-run"]);
    assert!(
        told.dry_run && told.bytes > 0 && told.used.iter().any(|used| used.name == "packages"),
        "{told:?}"
    );
    assert_eq!(names(&told, "package"), old);
    assert_eq!(names(&told, "mirror"), [stranger.as_str()]);
    assert_eq!(names(&told, "build-log"), ["app r1", "app r2"]);
    assert!(data.join("mirrors").join(&stranger).is_dir(), "nothing went");
    // What is in use may be another by now: the server works.
    assert_eq!(collect(&world, &["--dry-run"]).items, told.items);
    let refused = world.bob(&["gc"]);
    assert!(refused.talk.contains("bob is not an administrator"), "{refused:?}");

    let went = collect(&world, &[]);
    assert_eq!((names(&went, "package"), went.failed), (old.to_vec(), Vec::<String>::new()));
    assert!(!data.join("mirrors").join(&stranger).exists() && !data.join("builds/left").exists());
    assert!(world.cli(&["packages", "verify"]).well().starts_with("6 packages are in order, 0 are not"));
    let told = world.cli(&["gc", "--dry-run"]).well();
    assert!(told.contains(" can go: 0 of what nobody needs\n") && told.contains("in use: "), "{told}");

    // A rollback finds what it returns to.
    definition["stages"][0]["bake"]["az"] = json!("1h");
    world.apply("app", &definition).well();
    world.land(&repo, &[("version", "9")]);
    world.until("r9 bakes", || world.told().iter().any(|text| text.contains("bakes for 1h")).then_some(()));
    world.bob(&["rollback", "app", "r9", "--reason", "it looks wrong"]).well();
    world.until_everywhere("app", 8);
    let eu = world.endpoint("shop", "beta", "eu");
    assert_eq!(get(&eu, "/", None), Some((200, "8".to_owned())));
    world.cli(&["log", "verify"]).well();
}

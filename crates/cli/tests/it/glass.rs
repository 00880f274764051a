//! The worst day: the server is dead, and somebody puts a target back at the machine. The server learns of it when it returns.

use crate::world::{Told, World, definitions, get, release, run, words};
use std::process::Command;
use tidegate_api::StandingStatus;

const TARGET: &str = "shop/beta/eu/a/main";

/// `tidegate fleet ...` by carol.
fn at_the_machine(world: &World, arguments: &[&str]) -> Told {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.env_clear().env("USER", "carol").args(["fleet", "--data"]).arg(world.data()).args(arguments);
    run(&mut command)
}

fn put_back(world: &World, arguments: &[&str]) -> Told {
    at_the_machine(world, &[&["rollback"], arguments].concat())
}

#[test]
fn a_target_is_put_back_without_the_server_which_learns_of_it_when_it_returns() {
    let world = World::start();
    let repo = world.repo("shop");
    world.land(&repo, &[]);
    world.apply("app", &definitions::application(&repo)).well();
    world.until_passed("app", 1);
    world.land(&repo, &[("version", "2")]);
    world.until_passed("app", 2);
    let endpoint = world.endpoint("shop", "beta", "eu");
    let answer = || get(&endpoint, "/", None);
    assert_eq!(answer(), Some((200, "2".to_owned())));

    world.kill_server();
    let nowhere = put_back(&world, &["shop/beta/eu/b/main", "--reason", "down"]);
    assert!(
        nowhere.code == 1 && nowhere.talk.contains("this fleet has no target shop/beta/eu/b/main"),
        "{nowhere:?}"
    );
    // What it may go back to is told, and is chosen by its beginning.
    let fleet = at_the_machine(&world, &["status"]).well();
    let (_, before) = fleet.split_once("ran RunSpec ").unwrap_or_else(|| panic!("{fleet}"));
    let (digest, _) = before.split_once(' ').unwrap();
    let wrong = put_back(&world, &[TARGET, "--reason", "down", "--to", "nothing"]);
    assert!(wrong.code == 1 && wrong.talk.contains(&format!("but to {digest}")), "{wrong:?}");
    let told = put_back(&world, &[TARGET, "--reason", "the site is down", "--to", &digest[..6]]).well();
    assert!(told.contains("again, 1 of 1 boxes are healthy"), "{told}");
    assert_eq!(answer(), Some((200, "1".to_owned())));

    world.restart_server();
    let cause =
        world.until("the server has learnt of it", || match release(&world.pipeline("app"), 2)?.standing {
            StandingStatus::Rejected { cause, .. } => Some(cause.text),
            _ => None,
        });
    assert_eq!(cause, "carol at the machine: the site is down");
    world.until_everywhere("app", 1);
    assert_eq!(answer(), Some((200, "1".to_owned())));
    let deed = format!("{TARGET} was PUT BACK by carol at the machine: the site is down");
    assert!(world.told().contains(&deed), "{:#?}", world.told());

    let status = words(&world.cli(&["status"]).well());
    assert!(status.contains("it is REJECTED, and runs here no more"), "{status}");
    assert!(status.contains("left out eu runs r1: r2 is rejected"), "{status}");

    // It is not fought, and life goes on.
    world.land(&repo, &[("version", "3")]);
    let waits = world.until("the next release is held by the taint", || {
        let told = world.told();
        told.iter().rev().find(|line| line.starts_with("r3 waits for beta/az-1")).cloned()
    });
    assert!(waits.contains("r2"), "{waits}");
    world.bob(&["retry", "app", "r2", "--reason", "it was the database"]).well();
    world.until_passed("app", 3);
    assert_eq!(answer(), Some((200, "3".to_owned())));
}

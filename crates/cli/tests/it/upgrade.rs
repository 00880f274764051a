//! tidegate itself is upgraded, as an administrator does it: a new program is put in the place of the old one while a release is half
//! way out, the server is started again, and the fleet is taken over. Customers notice nothing.

use crate::crash::motion;
use crate::world::{World, alive, definitions, get, run};
use serde_json::json;
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use tidegate_api::MotionStatus;

/// As `install -m 755` does it: another file under the same name; the old one lives on in those that run it.
fn install(to: &Path) -> u64 {
    let new = to.with_extension("new");
    fs::copy(env!("CARGO_BIN_EXE_tidegate"), &new).unwrap();
    fs::rename(&new, to).unwrap();
    fs::metadata(to).unwrap().ino()
}

/// Which file a process runs.
fn program(pid: u32) -> u64 {
    fs::metadata(format!("/proc/{pid}/exe")).unwrap().ino()
}

fn pids(world: &World) -> BTreeSet<u32> {
    world.box_pids().iter().filter_map(|(_, pid)| u32::try_from(pid.as_u64()?).ok()).collect()
}

#[test]
fn a_new_program_takes_server_and_fleet_over_in_the_middle_of_a_rollout() {
    let world = World::start();
    world.end_server();
    world.end_fleet();
    let installed = world.dir().join("tidegate");
    let old = install(&installed);
    world.start_by(&mut Command::new(&installed), &[]);
    assert_eq!((program(world.server_pid()), program(world.fleet_pid().unwrap())), (old, old));
    let repo = world.repo("shop");
    world.land(&repo, &[]);
    let mut definition = definitions::application(&repo);
    definition["stages"][0]["boxes_per_az"] = json!(3);
    world.apply("app", &definition).well();
    world.until_passed("app", 1);
    // Slow enough that what follows falls into it.
    definition["rolling"]["healthy_for"] = json!("3s");
    world.apply("app", &definition).well();
    let eu = world.endpoint("shop", "beta", "eu");
    let (end, good, bad) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !end.load(Ordering::SeqCst) {
                let well = get(&eu, "/", None).is_some_and(|(status, _)| status == 200);
                (if well { &good } else { &bad }).fetch_add(1, Ordering::SeqCst);
            }
        });
        world.land(&repo, &[("version", "2")]);
        let half_way = || match motion(&world) {
            MotionStatus::Forward { settled, .. } if settled > 0 => Some(settled),
            _ => None,
        };
        let settled = world.until("the first of three boxes runs r2", half_way);

        let new = install(&installed);
        assert_ne!(new, old);
        world.end_server();
        world.start_by(&mut Command::new(&installed), &[]);
        assert_eq!(program(world.server_pid()), new);
        let (fleet, boxes) = (world.fleet_pid().unwrap(), pids(&world));
        assert_eq!(program(fleet), old, "the old fleet serves on, and takes the new server's orders");
        let told = run(Command::new(&installed).args(["fleet", "upgrade", "--data"]).arg(world.data()));
        assert!(told.well().contains(&format!("took over from {fleet} ")));
        let next = world.fleet_pid().unwrap();
        assert_eq!(program(next), new);
        assert_ne!(next, fleet);
        // Of at most three boxes, one was being replaced meanwhile; the others are the same processes.
        let still: Vec<_> = pids(&world).intersection(&boxes).copied().collect();
        assert!(still.len() >= 2 && still.iter().all(|pid| alive(*pid)), "{still:?} of {boxes:?}");
        let now = motion(&world);
        assert!(
            matches!(now, MotionStatus::Forward { .. }),
            "it is under way still, after {settled}: {now:?}"
        );
        world.until_passed("app", 2);
        end.store(true, Ordering::SeqCst);
    });
    assert!(good.into_inner() > 0);
    assert_eq!(bad.into_inner(), 0, "requests failed");
    assert_eq!(get(&eu, "/", None), Some((200, "2".to_owned())));
    world.cli(&["log", "verify"]).well();
}

//! Golden data directories: what each released version leaves when its machine dies in the middle of everything. Every later
//! version opens all of them, nothing is lost, and everything goes on (crates/cli/tests/golden/README.md).

mod make;
mod place;

use crate::world::{get, run, steps};
use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::{Receiver, channel};
use tidegate_api::{BuildStatus, LogPage, MotionStatus, PipelineStatus, StandingStatus, WorkStatus};

/// Where they are.
const ARCHIVES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden");

/// All of them, by version.
fn archives() -> Vec<PathBuf> {
    let files = std::fs::read_dir(ARCHIVES).unwrap().map(|entry| entry.unwrap().path());
    let mut archives: Vec<_> = files.filter(|path| path.to_str().unwrap().ends_with(".tar.gz")).collect();
    archives.sort();
    archives
}

#[test]
fn what_every_released_version_has_left_in_the_middle_of_everything_goes_on() {
    if !place::can_have_a_place() {
        return;
    }
    let archives = archives();
    assert!(!archives.is_empty());
    for archive in archives {
        eprintln!("{}", archive.display());
        goes_on(&archive);
    }
}

fn goes_on(archive: &Path) {
    let dir = tempfile::tempdir().unwrap();
    run(Command::new("tar")
        .args(["--extract", "--gzip", "--directory"])
        .arg(dir.path())
        .arg("--file")
        .arg(archive))
    .well();
    let pager = answer(place::pager());
    // It is a copy, and does not start by itself.
    let told = place::refused(dir.path());
    assert!(told.contains("is a copy of another one") && told.contains("--new-epoch"), "{told}");
    // Its log is read by this version before any server has touched it.
    let mut verify = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    let before =
        run(verify.env_clear().args(["log", "verify", "--data"]).arg(dir.path().join("data"))).well();
    assert!(before.starts_with("the log is in order: "), "{before}");

    let newest = run(Command::new(env!("CARGO_BIN_EXE_tidegate"))
        .env_clear()
        .args(["log", "--limit", "1", "--json", "--data"])
        .arg(dir.path().join("data")));
    let newest: LogPage = serde_json::from_str(&newest.well()).unwrap();
    let Some(clock) = place::clock(newest.entries[0].at) else { return };
    let world = place::start(dir, &clock, &["--new-epoch"]);
    let told_before = world.log().len();
    let world = world.with_people();
    // What stood still stands there: the hold, the bake, what was handed over, what only observes.
    let bakes = world.pipeline("bakes");
    assert_eq!(
        bakes.holds.iter().map(|h| h.reason.as_str()).collect::<Vec<_>>(),
        ["until the audit is over"]
    );
    assert!(matches!(first(&bakes).work, WorkStatus::Baking { release, .. } if release.0 == 1), "{bakes:?}");
    assert!(world.pipeline("looks").observes_since.is_some());
    world.until_everywhere("assets", 0);
    // What was built is built, and goes on to its boxes.
    world.until("r2 of slow is built", || {
        let pipeline = world.pipeline("slow");
        let release = pipeline.releases.iter().find(|r| r.release.0 == 2)?;
        matches!(release.build, BuildStatus::Built { .. }).then_some(())
    });
    world.until_everywhere("slow", 2);
    // What returned is back, and whoever was to be paged is paged of it.
    world.until_everywhere("back", 1);
    let back = world.pipeline("back");
    let rejected = back.releases.iter().find(|r| r.release.0 == 2).map(|r| r.standing.clone());
    assert!(matches!(rejected, Some(StandingStatus::Rejected { .. })), "{rejected:?}");
    // Others come as well, such as about a bake that is blind.
    let next = || pager.recv_timeout(crate::world::PATIENCE).expect("the page is delivered");
    while !next().contains("back: r2 is rolled back") {}
    // What was half way is done; of an alarm from outside nobody has spoken for too long, so nothing bakes until somebody does.
    world.until_everywhere("web", 2);
    world.until("web bakes blind", || match &first(&world.pipeline("web")).work {
        WorkStatus::Baking { bake, .. } => {
            bake.blind.as_ref()?.alarms.iter().any(|name| name.as_str() == "Web_Checks").then_some(())
        }
        _ => None,
    });
    let said = ["alarm", "report", "team", "beta/eu", "Web_Checks", "ok", "--why", "all checks pass"];
    world.bob(&said).well();
    world.until_passed("web", 2);
    world.until_passed("slow", 2);
    for (service, version) in [("web", "2"), ("back", "1"), ("bakes", "1"), ("slow", "2")] {
        let endpoint = world.endpoint(service, "beta", "eu");
        let answer =
            world.until("boxes serve", || get(&endpoint, "/", None).filter(|(status, _)| *status == 200));
        assert_eq!(answer.1, version, "{service}");
    }
    // Nothing was decided twice.
    let told = world.told();
    let count = |text: &str| told.iter().filter(|line| line.starts_with(text)).count();
    assert_eq!(count("r2 REJECTED"), 1, "{told:#?}");
    assert!(told.len() > told_before);
    // And what comes next goes its way, by a repository that is where it was.
    let repo = world.repo_again("web");
    world.land(&repo, &[("version", "3")]);
    world.until_passed("web", 3);
    assert!(!world.status().pipelines.iter().any(returns), "nothing is left under way");
    let after = world.cli(&["log", "verify"]).well();
    assert!(after.starts_with("the log is in order: "), "{after}");
    world.cli(&["packages", "verify"]).well();
}

fn first(pipeline: &PipelineStatus) -> &tidegate_api::StepStatus {
    steps(pipeline).next().unwrap()
}

fn returns(pipeline: &PipelineStatus) -> bool {
    steps(pipeline)
        .flat_map(|step| &step.targets)
        .any(|target| matches!(target.motion, MotionStatus::Back { .. }))
}

/// Takes every page, and gives its body.
fn answer(listener: TcpListener) -> Receiver<String> {
    let (pages, received) = channel();
    // Ends when nobody wants any more.
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut reader = BufReader::new(&stream);
            let mut length = 0;
            loop {
                let mut line = String::new();
                if reader.read_line(&mut line).unwrap_or(0) == 0 || line.trim_end().is_empty() {
                    break;
                }
                if let Some(("content-length", value)) = line.trim_end().to_lowercase().split_once(": ") {
                    length = value.parse().unwrap();
                }
            }
            let mut body = vec![0; length];
            if reader.read_exact(&mut body).is_err() {
                continue;
            }
            let _ = stream.write_all(b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n");
            let page: Value = serde_json::from_slice(&body).unwrap();
            if pages.send(page.to_string()).is_err() {
                return;
            }
        }
    });
    received
}

//! The demo notices when a rule does not hold: with rollback, review or rejection switched off, `demo --exit` fails and
//! says where. And whatever ends it, nothing is left running. nextest runs two of these side by side, each on ports and
//! in a folder of its own.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// A demo, in a folder of temporary files of its own.
fn demo(dir: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.arg("demo").args(arguments).env("TMPDIR", dir).stdin(Stdio::null());
    command
}

/// Processes that run from below this folder or name it in their arguments or their environment.
fn left_in(dir: &Path) -> Vec<String> {
    let name = dir.as_os_str().as_encoded_bytes();
    let mentions = |bytes: &[u8]| bytes.windows(name.len()).any(|part| part == name);
    let mut left = Vec::new();
    for process in std::fs::read_dir("/proc").unwrap().flatten() {
        let path = process.path();
        let pid = process.file_name().into_string().unwrap_or_default();
        if pid.parse::<u32>().is_err() || pid == std::process::id().to_string() {
            continue;
        }
        // One that ends while it is looked at is not left.
        let arguments = std::fs::read(path.join("cmdline")).unwrap_or_default();
        let environment = std::fs::read(path.join("environ")).unwrap_or_default();
        let folder = std::fs::read_link(path.join("cwd")).unwrap_or_default();
        if mentions(&arguments) || mentions(&environment) || folder.starts_with(dir) {
            left.push(format!("{pid} {}", String::from_utf8_lossy(&arguments).replace('\0', " ")));
        }
    }
    left
}

fn fails_with(rule: Option<&str>, chapters: &str, expected: &str) {
    let dir = tempfile::tempdir().unwrap();
    let mut arguments = vec!["--exit", "--chapters", chapters];
    if let Some(rule) = rule {
        arguments.extend(["--test-only-disable", rule]);
    }
    let Output { status, stdout, stderr } = demo(dir.path(), &arguments).output().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains(expected), "{said}");
    assert_eq!(left_in(dir.path()), Vec::<String>::new());
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "files are left");
}

#[test]
fn without_review_the_story_fails_in_its_third_chapter() {
    fails_with(
        Some("review"),
        "3",
        "chapter 3 did not happen as told: a release was made of a commit that nobody",
    );
}

#[test]
fn without_rollback_the_story_fails_in_its_fourth_chapter() {
    fails_with(Some("rollback"), "1,4", "chapter 4 did not happen as told: it is not rolled back");
}

#[test]
fn without_rejection_the_story_fails_in_its_fourth_chapter() {
    fails_with(
        Some("rejection"),
        "1,4",
        "chapter 4 did not happen as told: waited 45 s in vain for: its rejection",
    );
}

#[test]
fn with_nobody_who_reads_on_it_leaves_nothing_either() {
    let dir = tempfile::tempdir().unwrap();
    let mut child = demo(dir.path(), &[]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert!(lines.any(|line| line.contains("r1 enters beta/az-1")), "it ended by itself");
    // As with `| head`.
    drop(lines);
    let told_more = || std::fs::read_dir(dir.path()).unwrap().count() > 0 && left_in(dir.path()).len() > 4;
    crate::world::wait_for(|| told_more().then_some(())).expect("the story goes on unread");
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let status = child.wait().unwrap();
    assert_eq!(status.code(), Some(130));
    assert_eq!(left_in(dir.path()), Vec::<String>::new());
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "files are left");
}

#[test]
fn interrupted_in_the_middle_of_a_deployment_it_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut child = demo(dir.path(), &[]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert!(lines.any(|line| line.contains("r1 enters beta/az-1")), "it ended by itself");
    assert!(left_in(dir.path()).len() > 2, "a server, a fleet and a box run now");
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    // Reads on, so that it is not held up by a full pipe.
    assert!(lines.any(|line| line.contains("ending everything")), "it says that it ends everything");
    lines.for_each(drop);
    let status = child.wait().unwrap();
    assert_eq!(status.code(), Some(130), "as a shell tells of Ctrl-C");
    assert_eq!(left_in(dir.path()), Vec::<String>::new());
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "files are left");
}

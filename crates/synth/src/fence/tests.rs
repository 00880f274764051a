//! The fence from inside. A probe is Rust code in a process of its own, which [`Synth`] starts as it starts the evaluator: it
//! enters the same fence, tries what nothing may do behind it, and answers in the evaluator's words. So what is proven here
//! does not rest on the engine, which gives programs nothing of this anyway.

use super::*;
use crate::child::unfenced;
use crate::wire::{Answer, Report, Reports};
use crate::{Synth, SynthError};
use rustix::process::{Pid, test_kill_process};
use rustix::thread::{set_thread_gid, set_thread_uid};
use std::collections::BTreeMap;
use std::io::ErrorKind::PermissionDenied;
use std::io::Write;
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::process::{Command, Stdio};
use std::{fs, io, thread};

/// Of nobody; a user who owns nothing here.
const NOBODY: u32 = 65_534;

/// The other end of what probes connect to: open while the process that tests is.
const PORT: &str = "a port that listens";

/// Starts a probe by its name; what it says.
fn probe(name: &str) -> Vec<String> {
    let test = format!("fence::tests::{name}");
    let program = std::env::current_exe().unwrap();
    let synth = Synth::new(program, &[&test, "--exact", "--ignored", "--nocapture", "--test-threads=1"]);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    match synth.files(BTreeMap::from([(PORT.to_owned(), port)])) {
        Err(SynthError::Problems { problems, notes }) => notes
            .into_iter()
            .chain(problems.into_iter().map(|p| format!("{}: {}", p.code, p.message)))
            .collect(),
        other => panic!("{name} did not answer: {other:?}"),
    }
}

/// What is tried, and whether that is refused.
fn attempts(port: u16, parent: Pid) -> Vec<(&'static str, bool)> {
    let here = Ipv4Addr::LOCALHOST;
    let refused = |result: io::Result<()>| result.is_err_and(|error| error.kind() == PermissionDenied);
    vec![
        ("read a file", refused(fs::read("/etc/passwd").map(drop))),
        ("read the environment", refused(fs::read("/proc/self/environ").map(drop))),
        ("list a folder", refused(fs::read_dir("/").map(drop))),
        ("make a file", refused(fs::write(std::env::temp_dir().join("tidegate-probe"), "").map(drop))),
        ("connect", refused(TcpStream::connect((here, port)).map(drop))),
        ("listen", refused(TcpListener::bind((here, 0)).map(drop))),
        ("use a datagram", refused(UdpSocket::bind((here, 0)).map(drop))),
        ("use a local socket", refused(UnixDatagram::unbound().map(drop))),
        ("make a pair of sockets", refused(UnixStream::pair().map(drop))),
        ("start a process", refused(Command::new("/bin/true").stdin(Stdio::inherit()).status().map(drop))),
        ("start a thread", refused(thread::Builder::new().spawn(|| ()).map(drop))),
        ("signal its parent", refused(test_kill_process(parent).map_err(Into::into))),
    ]
}

/// Enters the fence after `before`, tries everything, and answers.
fn answer(before: impl FnOnce()) {
    let request: serde_json::Value = serde_json::from_reader(io::stdin().lock()).unwrap();
    let port = request["files"][PORT].as_str().unwrap().parse().unwrap();
    let variables = std::env::vars_os().count();
    let parent = rustix::process::getppid().unwrap();
    // The fence is the thread's; what the harness does on others is not asked for.
    before();
    let entered = enter();
    let told = match &entered {
        Err(error) => unfenced(error),
        Ok(missing) => {
            let tried = attempts(port, parent)
                .into_iter()
                .map(|(what, refused)| format!("{what}: {}", if refused { "refused" } else { "possible" }));
            let first = [format!("variables: {variables}")];
            let last = missing.map(|text| format!("missing: {text}"));
            let problem = crate::Problem::new("END", "of the probe", "");
            Answer {
                notes: first.into_iter().chain(tried).chain(last).collect(),
                problems: vec![problem],
                ..Answer::default()
            }
        }
    };
    // The harness has begun a line.
    io::stdout().write_all(b"\n").unwrap();
    done(told);
}

/// Lets the kernel seem not to have these system calls.
fn without(calls: &[i64]) {
    let rules = calls.iter().map(|call| (*call, Vec::new())).collect();
    let absent = SeccompAction::Errno(libc::ENOSYS.unsigned_abs());
    let architecture = std::env::consts::ARCH.try_into().unwrap();
    let filter: BpfProgram =
        SeccompFilter::new(rules, SeccompAction::Allow, absent, architecture).unwrap().try_into().unwrap();
    apply_filter(&filter).unwrap();
}

#[test]
#[ignore = "a probe: started by a test, in a process of its own"]
fn inside() {
    answer(|| ());
}

#[test]
#[ignore = "a probe: started by a test, in a process of its own"]
fn inside_as_nobody() {
    answer(|| {
        if rustix::process::geteuid().is_root() {
            set_thread_gid(rustix::process::Gid::from_raw(NOBODY)).unwrap();
            set_thread_uid(rustix::process::Uid::from_raw(NOBODY)).unwrap();
        }
    });
}

#[test]
#[ignore = "a probe: started by a test, in a process of its own"]
fn without_seccomp() {
    answer(|| without(&[libc::SYS_seccomp]));
}

#[test]
#[ignore = "a probe: started by a test, in a process of its own"]
fn without_landlock() {
    answer(|| without(&[libc::SYS_landlock_create_ruleset]));
}

#[test]
#[ignore = "a probe: started by a test, in a process of its own"]
fn without_either() {
    answer(|| without(&[libc::SYS_seccomp, libc::SYS_landlock_create_ruleset]));
}

#[test]
#[ignore = "a probe: started by a test, in a process of its own"]
fn outside() {
    let request: serde_json::Value = serde_json::from_reader(io::stdin().lock()).unwrap();
    let port = request["files"][PORT].as_str().unwrap().parse().unwrap();
    let tried = attempts(port, rustix::process::getppid().unwrap())
        .into_iter()
        .filter(|(_, refused)| *refused)
        .map(|(what, _)| what.to_owned());
    let problem = crate::Problem::new("END", "of the probe", "");
    io::stdout().write_all(b"\n").unwrap();
    done(Answer { notes: tried.collect(), problems: vec![problem], ..Answer::default() });
}

fn done(told: Answer) {
    Reports::new(&mut io::stdout().lock()).say(&Report::Done(Box::new(told)));
}

/// What must be refused by a whole fence: everything that is tried.
fn check(said: &[String]) {
    assert_eq!(said.first().map(String::as_str), Some("variables: 0"), "{said:?}");
    assert_eq!(said.iter().filter(|line| line.ends_with(": refused")).count(), 12, "{said:?}");
    assert!(!said.iter().any(|line| line.ends_with(": possible")), "{said:?}");
    assert_eq!(said.last().map(String::as_str), Some("END: of the probe"), "{said:?}");
}

#[test]
fn nothing_gets_out_of_the_fence() {
    check(&probe("inside"));
}

#[test]
fn nothing_gets_out_of_the_fence_without_root() {
    check(&probe("inside_as_nobody"));
}

#[test]
fn the_same_attempts_succeed_without_a_fence() {
    assert_eq!(probe("outside"), ["END: of the probe"]);
}

#[test]
fn a_kernel_without_landlock_is_told_and_the_filter_holds_alone() {
    let said = probe("without_landlock");
    check(&said);
    assert!(said.iter().any(|line| line.starts_with("missing: this kernel has no Landlock")), "{said:?}");
}

#[test]
fn a_kernel_without_filters_is_told_or_refused() {
    let said = probe("without_seccomp");
    match said.first().map(String::as_str) {
        // No Landlock here, or only a part of it.
        Some(first) if first.starts_with("TG398") => assert!(first.contains("Landlock"), "{said:?}"),
        _ => {
            assert!(said.iter().any(|line| line.starts_with("missing: this kernel filters no")), "{said:?}");
            for what in ["read a file", "read the environment", "list a folder", "make a file", "connect"] {
                assert!(said.contains(&format!("{what}: refused")), "{what}: {said:?}");
            }
        }
    }
}

#[test]
fn without_any_fence_nothing_is_evaluated() {
    let said = probe("without_either");
    assert_eq!(
        said,
        ["TG398: the evaluator cannot fence itself: the kernel neither filters system calls (seccomp) nor \
          restricts files and network (Landlock)"]
    );
}

#[test]
fn what_may_be_missing() {
    let told = |filter, landlock| missing(filter, landlock).map(|text| text.is_some());
    assert!(matches!(told(true, RulesetStatus::FullyEnforced), Ok(false)));
    assert!(matches!(told(true, RulesetStatus::PartiallyEnforced), Ok(false)));
    assert!(matches!(told(true, RulesetStatus::NotEnforced), Ok(true)));
    assert!(matches!(told(false, RulesetStatus::FullyEnforced), Ok(true)));
    assert!(matches!(told(false, RulesetStatus::PartiallyEnforced), Err(FenceError::Open)));
    assert!(matches!(told(false, RulesetStatus::NotEnforced), Err(FenceError::Open)));
}

//! `tidegate sim` as a developer of tidegate meets it: words, exit codes, and files.

use crate::world::{Told, run};
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tidegate_core::pipeline::Break;
use tidegate_sim::{Mutation, Options, Recording, Sim, campaign};

/// Some seed with this break of a rule fails before it.
const SEEDS_MAX: u64 = 10;
/// The break that is made: two deploy in one Region at a time (rule 1).
const BROKEN: Mutation = Mutation::Core(Break::NoLease);

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.arg("sim").args(arguments).env_clear();
    command
}

fn sim(arguments: &[&str]) -> Told {
    run(&mut command(arguments))
}

/// The file of a failure, which a break of a rule has made.
fn failure_in(dir: &Path) -> (String, std::path::PathBuf) {
    let options = Options { mutation: Some(BROKEN), ..Options::default() };
    let failure = (1..SEEDS_MAX).find_map(|seed| Sim::new(seed, options).run().err());
    let (failure, path) = campaign::keep(failure.expect("it is seen"), options, dir).unwrap();
    (failure.headline(), path)
}

#[test]
fn a_seed_on_which_all_rules_hold_is_told_in_a_line() {
    let told = sim(&["run", "--seed", "3"]);
    let line = told.clone().well();
    assert!(line.starts_with("1 seeds: ") && line.ends_with(" s\n") && line.lines().count() == 1, "{told:?}");
    assert_eq!(told.talk, "");
    assert_eq!(line, sim(&["run", "--seed", "3"]).well(), "a seed gives the same run every time");
}

#[test]
fn a_failure_s_file_fails_again_in_the_same_way() {
    let dir = tempfile::tempdir().unwrap();
    let (headline, path) = failure_in(dir.path());
    let path = path.to_str().unwrap();
    let told = sim(&["replay", path]);
    assert_eq!(told.code, 1, "{told:?}");
    assert!(told.out.ends_with(&format!("{headline}\n")), "{headline} and {told:?}");
    assert!(told.talk.starts_with("tidegate: failed to keep the rules: "), "{told:?}");

    // Nobody reads on after the first line: no panic, and the exit code says the same.
    let mut child = command(&["replay", path]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut first = String::new();
    BufReader::with_capacity(1, child.stdout.take().unwrap()).read_line(&mut first).unwrap();
    assert_eq!(Some(first.trim_end()), told.out.lines().next());
    let ended = child.wait_with_output().unwrap();
    let talk = String::from_utf8(ended.stderr).unwrap();
    assert_eq!((ended.status.code(), talk.as_str()), (Some(1), told.talk.as_str()));
}

/// The seed that a soak says it began with, and the rest of that line.
fn begins(talk: &str) -> (u64, &str) {
    let (seed, rest) = talk.strip_prefix("seeds from ").and_then(|t| t.split_once(' ')).expect(talk);
    (seed.parse().unwrap(), rest.lines().next().unwrap())
}

#[test]
fn a_soak_tells_where_its_seeds_began_and_how_many_held() {
    let started = Instant::now();
    let told = sim(&["soak", "--seconds", "2"]);
    assert!(started.elapsed() >= Duration::from_secs(2), "{told:?}");
    let (first, rest) = begins(&told.talk);
    assert_eq!((rest, told.talk.lines().count()), ("on, for 2s", 1), "{told:?}");
    let line = told.clone().well();
    let seeds: u64 = line.split_once(" seeds: ").and_then(|(n, _)| n.parse().ok()).expect(&line);
    assert!(seeds > 0 && line.lines().count() == 1, "{line}");
    // The next one begins above all of these.
    let (next, _) = begins(&sim(&["soak", "--seconds", "1"]).talk);
    assert!(next > first + seeds, "{first} and {seeds} seeds, then {next}");
}

#[test]
fn a_soak_that_meets_a_failure_ends_and_its_file_fails_under_the_same_rule() {
    let dir = tempfile::tempdir().unwrap();
    let into = dir.path().to_str().unwrap();
    let told = sim(&["soak", "--seconds", "60", "--into", into, "--test-only-disable", "lease"]);
    assert_eq!(told.code, 1, "{told:?}");
    let (first, _) = begins(&told.talk);
    let files: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|file| file.unwrap().path()).collect();
    let [file] = &files[..] else { panic!("{files:?} and {told:?}") };
    let recording = Recording::read(file).unwrap();
    assert_eq!((recording.mutation, recording.rule), (Some(BROKEN), 1), "{told:?}");
    assert!(recording.seed >= first, "{told:?}");
    let path = file.to_str().unwrap();
    let why = format!("tidegate: failed to keep the rules: tidegate sim replay {path} runs it again\n");
    assert!(told.talk.ends_with(&why), "{told:?}");

    let again = sim(&["replay", path]);
    assert_eq!(again.code, 1, "{again:?}");
    let headline = told.out.lines().last().unwrap();
    assert!(headline.contains(": rule 1: ") && again.out.lines().last() == Some(headline), "{again:?}");
}

#[test]
fn a_soak_wants_one_length() {
    for arguments in
        [&["soak"][..], &["soak", "--minutes", "1", "--seconds", "1"], &["soak", "--seconds", "0"]]
    {
        let told = sim(arguments);
        assert_eq!((told.code, told.out.as_str()), (2, ""), "{told:?}");
    }
}

#[test]
fn a_closed_output_is_no_failure_of_a_seed() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let ended = command(&["run", "--seed", "3"]).stdout(writer).stderr(Stdio::piped()).output().unwrap();
    assert_eq!((ended.status.code(), String::from_utf8(ended.stderr).unwrap().as_str()), (Some(0), ""));
}

#[test]
fn a_file_that_cannot_be_run_is_refused_with_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("broken.json");
    let path = file.to_str().unwrap();
    let refused = || {
        let told = sim(&["replay", path]);
        assert_eq!((told.code, told.out.as_str()), (1, ""), "{told:?}");
        told.talk.replace(path, "FILE")
    };
    assert!(refused().starts_with("tidegate: failed to replay: cannot read FILE: "), "{}", refused());
    fs::write(&file, "{\"format\": \"tidegate.sim-recording/1\", \"seed\": 3}").unwrap();
    let talk = refused();
    assert!(
        talk.starts_with("tidegate: failed to replay: FILE is no recording of the simulator: "),
        "{talk}"
    );
    assert!(talk.contains("missing field"), "{talk}");
    fs::write(&file, "{\"format\": \"tidegate.sim-recording/2\"}").unwrap();
    assert!(refused().contains("this version reads 'tidegate.sim-recording/1'"), "{}", refused());

    let told = sim(&["run", "--seeds", "0"]);
    assert_eq!(told.code, 2, "{told:?}");
}

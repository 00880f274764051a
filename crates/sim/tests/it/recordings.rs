//! What is done with a failure: it is the same whenever it runs, its list gets short, and its file runs again.

use std::fs;
use std::path::Path;
use tidegate_core::pipeline::Break;
use tidegate_sim::{Deed, Failure, Mutation, Options, Recording, Sim, campaign};

/// A failure that needs something to happen: a commit and a person's rollback, an alarm, or a box that breaks.
fn failure() -> (Box<Failure>, Options) {
    let mutation = Some(Mutation::Core(Break::NoRollback));
    let options = Options { mutation, ..Options::default() };
    let failure = (1..10).find_map(|seed| Sim::new(seed, options).run().err());
    (failure.expect("a rollback that does not happen is seen"), options)
}

#[test]
fn the_same_seed_and_the_same_list_give_the_same_run() {
    let short = Options { safety_s: 600, ..Options::default() };
    assert_eq!(Sim::new(3, short).run(), Sim::new(3, short).run());
    let (failure, options) = failure();
    assert!(!failure.choices.is_empty());
    assert_eq!(Sim::new(failure.seed, options).run().unwrap_err(), failure);
    assert_eq!(Sim::recorded(failure.seed, options, &failure.choices).run().unwrap_err(), failure);
}

#[test]
fn a_failure_s_list_gets_short_and_its_file_runs_again() {
    let (failure, options) = failure();
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("a-short-list");
    fs::create_dir_all(&directory).unwrap();
    let before = failure.choices.len();
    let (short, path) = campaign::keep(failure, options, &directory).unwrap();
    assert!(short.choices.len() <= 3 && short.choices.len() < before, "{short}");
    assert!(short.choices.iter().all(|choice| choice.deed != Deed::ClockJump), "{short}");
    let recording = Recording::read(&path).unwrap();
    assert_eq!(recording, Recording::of(&short, options));
    let again = recording.sim(campaign::LOG_LINES).run().unwrap_err();
    assert_eq!((&again.rule, &again.evidence, &again.log), (&short.rule, &short.evidence, &short.log));
    fs::remove_dir_all(&directory).unwrap();
}

#[test]
fn files_that_are_no_recordings_are_refused_by_name() {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let refused = |name: &str, text: &str| {
        let path = directory.join(name);
        fs::write(&path, text).unwrap();
        let error = Recording::read(&path).unwrap_err().to_string();
        fs::remove_file(&path).unwrap();
        error.replace(&directory.display().to_string(), "DIR")
    };
    assert_eq!(refused("no-json.json", "seed 7"), "DIR/no-json.json is no recording of the simulator");
    assert_eq!(refused("no-format.json", "{}"), "DIR/no-format.json is no recording of the simulator");
    assert_eq!(
        refused("later.json", r#"{"format": "tidegate.sim-recording/2"}"#),
        "DIR/later.json is a recording of format 'tidegate.sim-recording/2'; this version reads \
         'tidegate.sim-recording/1'"
    );
    let absent = Recording::read(Path::new("/nonexistent/file.json")).unwrap_err();
    assert_eq!(absent.to_string(), "cannot read /nonexistent/file.json");
}

//! Folders made by chance, of which all rules must hold: those that once found something, and a fixed budget of others. For a
//! search use `tidegate fuzz soak`.

use crate::synth;
use std::fs;
use std::path::Path;
use tidegate_synth::fuzz::{self, Broken, Case, RULES};

/// How many seeds each of the two tests below runs.
const SEEDS: u64 = 120;

/// Runs some seeds; the file of one that fails is beside the test's binary.
fn hold(first: u64) {
    let scratch = tempfile::tempdir().unwrap();
    let tally = fuzz::search(&synth(), scratch.path(), first, |begun| begun < SEEDS).unwrap();
    if let Some((case, broken)) = tally.failure {
        let path = case.keep(&broken, Path::new(env!("CARGO_TARGET_TMPDIR"))).unwrap();
        panic!("{broken:?}\n`tidegate fuzz replay {}` runs it again", path.display());
    }
    assert_eq!(tally.seeds, SEEDS);
    // A fuzzer whose folders are all refused, or all taken, tries nothing.
    assert!(tally.accepted > SEEDS / 20 && tally.refused.len() > 5, "{tally:?}");
}

#[test]
fn all_rules_hold_on_folders_1() {
    hold(1_001);
}

#[test]
fn all_rules_hold_on_folders_2() {
    hold(2_001);
}

/// Each file says why it is kept.
#[test]
fn kept_folders() {
    let scratch = tempfile::tempdir().unwrap();
    let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/kept");
    for entry in fs::read_dir(kept).unwrap() {
        let path = entry.unwrap().path();
        let (case, why) = Case::read(&path).unwrap();
        if let Err(broken) = case.hold(&synth(), scratch.path()).unwrap() {
            panic!("{}: {broken:?}\nit was kept because {why}", path.display());
        }
    }
}

#[test]
fn a_recording_is_the_folder_again() {
    let room = tempfile::tempdir().unwrap();
    let case = Case { seed: 3, files: [("a.ts".to_owned(), vec![0, 255, b'x'])].into() };
    let broken = Broken { rule: RULES[1], evidence: "it fell over".to_owned() };
    let path = case.keep(&broken, room.path()).unwrap();
    let (again, why) = Case::read(&path).unwrap();
    assert_eq!((again, why.ends_with("it fell over")), (case, true));
    fs::write(&path, "{}").unwrap();
    let refused = Case::read(&path).unwrap_err().to_string();
    assert!(refused.ends_with("is no recording of a folder (tidegate.synth-recording/1)"), "{refused}");
}

/// A child that is no evaluator breaks a rule, and the folder gets small.
#[test]
fn a_broken_rule_is_seen() {
    let scratch = tempfile::tempdir().unwrap();
    let broken = tidegate_synth::Synth::new("/bin/true", &[]);
    let tally = fuzz::search(&broken, scratch.path(), 1, |begun| begun < 3).unwrap();
    let (case, broken) = tally.failure.unwrap();
    assert_eq!(broken.rule, RULES[1]);
    assert!(case.files.values().map(Vec::len).sum::<usize>() <= 1, "{case:?}");
}

//! The parts of the way, in this process: taking types away, finding places, and hearing what a child says that is no longer
//! ours. Nothing is evaluated here: that needs the fence.

use super::mutate::Random;
use super::{Broken, Case, broken};
use crate::documents::documents;
use crate::locate::{locate, path};
use crate::strip::strip;
use crate::synth::judge;
use crate::wire::{Draft, Kind, Report, Reports};
use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitStatus;
use std::thread;

/// The parser calls itself for each level of a source, and development builds need more for each than releases.
const STACK_BYTES: usize = 512 << 20;
/// What a class may be called whose places are asked for, and where in its draft.
const CLASSES: [&str; 5] = ["Web", "One", "ShopPipeline", "Stacks", "default"];
const POINTERS: [&str; 7] =
    ["", "/name", "/stages/0/bake/one_box", "/run/engine/process/command/0", "/sources/-1", "//", "/~1~0/~"];

pub(super) fn hold(case: &Case) -> Result<(), Broken> {
    let work = || {
        let tried = catch_unwind(AssertUnwindSafe(|| all(case)));
        tried.unwrap_or_else(|payload| {
            let text = payload.downcast_ref::<String>().map(String::as_str);
            let text = text.or(payload.downcast_ref::<&str>().copied()).unwrap_or("a panic");
            Err(broken(1, format!("a part panics: {text}")))
        })
    };
    let joined = thread::scope(|scope| {
        let started = thread::Builder::new().stack_size(STACK_BYTES).spawn_scoped(scope, work);
        started.map(|handle| handle.join())
    });
    match joined {
        Ok(Ok(held)) => held,
        _ => Err(broken(1, "its parts cannot be tried".to_owned())),
    }
}

fn all(case: &Case) -> Result<(), Broken> {
    let mut random = Random::new(!case.seed);
    let files: BTreeMap<String, String> = case
        .files
        .iter()
        .filter_map(|(name, bytes)| Some((name.clone(), String::from_utf8(bytes.clone()).ok()?)))
        .collect();
    for (name, text) in &files {
        let [first, again] = [strip(name, text), strip(name, text)].map(|stripped| match stripped {
            Ok(stripped) => stripped.code,
            Err(problem) => problem.to_string(),
        });
        if first != again {
            return Err(broken(2, format!("types of {name} are taken away in two ways")));
        }
        let classes = [(*random.one(&CLASSES)).to_owned()];
        let _ = locate(&files, name, &classes, &path(random.one::<&str>(&POINTERS)));
    }
    heard(&mut random, files.values().next().map_or("", String::as_str));
    Ok(())
}

/// What a child says that somebody else has taken over.
fn heard(random: &mut Random, text: &str) {
    let mut bytes = Vec::new();
    let mut reports = Reports::new(&mut bytes);
    reports.say(&Report::Running("a.ts".to_owned()));
    let draft = Draft { kind: Kind::Pipeline, file: "a.ts".to_owned(), classes: vec!["Web".to_owned()] };
    reports.draft(draft, br#"{"schema":"tidegate.pipeline/1","name":"web-app","service":"web"}"#);
    reports.say(&Report::Done(Box::default()));
    drop(reports);
    for _ in 0..random.below(6) {
        let start = random.below(bytes.len());
        let end = (start + random.below(12)).min(bytes.len());
        let from = random.below(text.len());
        let put = text.as_bytes()[from..(from + random.below(30)).min(text.len())].to_vec();
        bytes.splice(start..end, put);
    }
    // Whatever it is, it is an error or drafts, and the drafts are definitions or findings.
    if let Ok(heard) = judge(&bytes, ExitStatus::from_raw(0), false, false) {
        let _ = documents(heard.drafts);
    }
}

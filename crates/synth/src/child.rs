//! The evaluator's process: fences itself, then reads one request on stdin, and answers on stdout.

use crate::eval;
use crate::fence::{self, FenceError};
use crate::limits::PROBLEMS_MAX;
use crate::locate::{locate, path};
use crate::problem::{Place, Problem};
use crate::strip::{Stripped, resolve, strip};
use crate::wire::{Answer, Report, Reports, Request};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

/// The exit code of a child that could not fence itself.
pub(crate) const UNFENCED: u8 = 71;

/// Does a child's work. To be called first of all in the process that [`crate::Synth`] starts, before there are threads.
#[must_use]
pub fn main() -> ExitCode {
    let mut stdout = std::io::stdout().lock();
    let mut reports = Reports::new(&mut stdout);
    let missing = match fence::enter() {
        Ok(missing) => missing,
        Err(error) => {
            reports.say(&Report::Done(Box::new(unfenced(&error))));
            return ExitCode::from(UNFENCED);
        }
    };
    // A panic has nothing to say but what it is answered with.
    std::panic::set_hook(Box::new(|_| {}));
    let mut text = Vec::new();
    let answer = match std::io::stdin().lock().read_to_end(&mut text) {
        Ok(_) => answer(&text, &mut reports),
        Err(error) => internal(&error.to_string()),
    };
    reports.say(&Report::Done(Box::new(Answer { missing: missing.map(str::to_owned), ..answer })));
    ExitCode::SUCCESS
}

/// Does what a request asks for; drafts are said on the way.
fn answer(request: &[u8], reports: &mut Reports<'_>) -> Answer {
    let work = || match serde_json::from_slice(request) {
        Ok(request) => answer_to(&request, reports),
        Err(error) => internal(&error.to_string()),
    };
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|payload| {
        let text = payload.downcast_ref::<String>().map(String::as_str);
        internal(text.or(payload.downcast_ref::<&str>().copied()).unwrap_or("a panic"))
    })
}

pub(crate) fn unfenced(error: &FenceError) -> Answer {
    let message = format!("the evaluator cannot fence itself: {}", tidegate_core::causes(error));
    let hint = "see the limits of this process (ulimit -a), and what its container lets it do";
    Answer { problems: vec![Problem::new("TG398", message, hint)], ..Answer::default() }
}

fn internal(why: &str) -> Answer {
    let hint = "this is a mistake of tidegate's: please report it with the folder";
    Answer {
        problems: vec![Problem::new("TG399", format!("the evaluator failed: {why}"), hint)],
        ..Answer::default()
    }
}

fn answer_to(request: &Request, reports: &mut Reports<'_>) -> Answer {
    let (modules, problems) = strip_all(&request.files, reports);
    if !problems.is_empty() {
        return Answer { problems, ..Answer::default() };
    }
    let ran = match eval::run(&request.files, modules, reports) {
        Ok(ran) => ran,
        Err(problem) => return Answer { problems: vec![problem], ..Answer::default() },
    };
    let places = request.locate.iter().map(|wanted| {
        let draft = ran.drafts.get(wanted.draft)?;
        locate(&request.files, &draft.file, &draft.classes, &path(&wanted.pointer))
    });
    let places = places.collect();
    let mut problems = ran.problems;
    problems.truncate(PROBLEMS_MAX);
    Answer { notes: ran.notes, problems, places, missing: None }
}

fn strip_all(
    files: &BTreeMap<String, String>,
    reports: &mut Reports<'_>,
) -> (BTreeMap<String, Stripped>, Vec<Problem>) {
    let (mut modules, mut problems) = (BTreeMap::new(), Vec::new());
    for (file, text) in files {
        reports.say(&Report::Parsing(file.clone()));
        match strip(file, text) {
            Ok(module) => {
                modules.insert(file.clone(), module);
            }
            Err(problem) => problems.push(problem),
        }
    }
    let mut imports: BTreeMap<&str, Vec<(String, Place)>> = BTreeMap::new();
    for (file, module) in &modules {
        let text = files.get(file).map_or("", String::as_str);
        for (name, at) in &module.imports {
            let place = Place::of(file, text, at);
            match resolve(file, name, |path| files.contains_key(path)) {
                Ok(to) => imports.entry(file).or_default().push((to, place)),
                Err((code, message, hint)) => problems.push(Problem::new(code, message, hint).at(place)),
            }
        }
    }
    problems.extend(cycle(&imports));
    problems.truncate(PROBLEMS_MAX);
    (modules, problems)
}

/// The first cycle of imports: in one, a class may be extended before it is there, depending on the order of files.
fn cycle(imports: &BTreeMap<&str, Vec<(String, Place)>>) -> Option<Problem> {
    let mut finished: BTreeSet<&str> = BTreeSet::new();
    for start in imports.keys() {
        // The files on the way, each with the number of its next import.
        let mut way: Vec<(&str, usize)> = vec![(start, 0)];
        while let Some((file, next)) = way.last_mut() {
            let Some((to, place)) = imports.get(*file).and_then(|of| of.get(*next)) else {
                finished.insert(file);
                way.pop();
                continue;
            };
            *next += 1;
            if let Some(first) = way.iter().position(|(file, _)| file == to) {
                let names: Vec<&str> =
                    way[first..].iter().map(|(file, _)| *file).chain([to.as_str()]).collect();
                let message = if names.len() == 2 {
                    format!("{to} imports itself")
                } else {
                    format!("these files import each other: {}", names.join(" -> "))
                };
                let hint = "put what both need into a file of its own";
                return Some(Problem::new("TG315", message, hint).at(place.clone()));
            }
            if !finished.contains(to.as_str()) {
                way.push((to, 0));
            }
        }
    }
    None
}

//! Folders made by chance, for developers of tidegate: valid ones and hostile ones with parts exchanged, through the whole way
//! from bytes in a folder over the fenced child to definitions, and through its parts in this process. A seed gives the same
//! folder on every machine. What must hold of each is in [`RULES`].

mod mutate;
mod parts;

use crate::{Subject, Synth, SynthError, limits::WALL_TIME_MAX};
use mutate::Random;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tidegate_core::definition::{OrganisationDef, PipelineDef};
use tidegate_core::lint;

/// What must hold, whatever a folder holds.
pub const RULES: [&str; 5] = [
    "there is an answer within the limits",
    "tidegate makes no mistake of its own (TG398, TG399), and nothing panics",
    "the same folder gives the same bytes",
    "a definition survives the way through its JSON",
    "an error stands in a file of the folder",
];
/// How long an answer may take: the backstop, and what starting costs on a machine that does much else.
const ANSWER_MAX: Duration = WALL_TIME_MAX.saturating_add(Duration::from_secs(10));
/// How often a folder that breaks a rule is run to make it small.
const SHRINK_RUNS_MAX: usize = 200;
const FORMAT: &str = "tidegate.synth-recording/1";

/// A folder: paths with '/', and bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Case {
    /// What its changes were chosen by.
    pub seed: u64,
    /// Its files.
    pub files: BTreeMap<String, Vec<u8>>,
}

/// A rule that does not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    /// One of [`RULES`].
    pub rule: &'static str,
    /// What was seen.
    pub evidence: String,
}

/// A case that cannot be tried, or a recording that cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum FuzzError {
    /// A file or folder fails.
    #[error("cannot use {path}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is no recording of this format.
    #[error("{path} is no recording of a folder ({FORMAT})")]
    Format {
        /// Which.
        path: PathBuf,
    },
}

/// What many seeds came to.
#[derive(Debug, Default)]
pub struct Tally {
    /// Seeds on which all rules held.
    pub seeds: u64,
    /// How many of them gave definitions.
    pub accepted: u64,
    /// How many were refused, by the first problem's code.
    pub refused: BTreeMap<String, u64>,
    /// The first that broke a rule, made small.
    pub failure: Option<(Case, Broken)>,
}

/// Tries seeds from the first on as long as none breaks a rule and `goes_on` says so of the number that were begun.
///
/// # Errors
/// The folder for them cannot be used.
pub fn search(
    synth: &Synth,
    scratch: &Path,
    first: u64,
    goes_on: impl Fn(u64) -> bool,
) -> Result<Tally, FuzzError> {
    let mut tally = Tally::default();
    while goes_on(tally.seeds) {
        let case = Case::of(first.wrapping_add(tally.seeds));
        match case.hold(synth, scratch)? {
            Ok(None) => tally.accepted += 1,
            Ok(Some(code)) => *tally.refused.entry(code).or_default() += 1,
            Err(broken) => {
                tally.failure = Some(case.shrink(synth, scratch, broken)?);
                return Ok(tally);
            }
        }
        tally.seeds += 1;
    }
    Ok(tally)
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Recording {
    format: String,
    seed: u64,
    /// Why it is kept.
    why: String,
    /// Bytes as the characters with their numbers.
    files: BTreeMap<String, String>,
}

impl Case {
    /// The case of a seed.
    #[must_use]
    pub fn of(seed: u64) -> Case {
        Case { seed, files: mutate::folder(&mut Random::new(seed)) }
    }

    /// The case of a file, and why it was kept.
    ///
    /// # Errors
    /// It cannot be read, or is no recording.
    pub fn read(path: &Path) -> Result<(Case, String), FuzzError> {
        let text = fs::read_to_string(path).map_err(|source| file(path, source))?;
        let format = || FuzzError::Format { path: path.to_owned() };
        let read: Recording = serde_json::from_str(&text).map_err(|_| format())?;
        if read.format != FORMAT {
            return Err(format());
        }
        let bytes = |text: String| text.chars().map(u8::try_from).collect::<Result<Vec<u8>, _>>();
        let files = read.files.into_iter().map(|(name, text)| Some((name, bytes(text).ok()?)));
        let files = files.collect::<Option<_>>().ok_or_else(format)?;
        Ok((Case { seed: read.seed, files }, read.why))
    }

    /// Writes it into this directory; returns the file.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn keep(&self, broken: &Broken, directory: &Path) -> Result<PathBuf, FuzzError> {
        let path = directory.join(format!("synth-seed-{}.json", self.seed));
        let text = |bytes: &Vec<u8>| bytes.iter().map(|b| char::from(*b)).collect();
        let recording = Recording {
            format: FORMAT.to_owned(),
            seed: self.seed,
            why: format!("{}: {}", broken.rule, broken.evidence),
            files: self.files.iter().map(|(name, bytes)| (name.clone(), text(bytes))).collect(),
        };
        let written = serde_json::to_vec_pretty(&recording).map_err(io::Error::from);
        written.and_then(|json| fs::write(&path, json)).map_err(|source| file(&path, source))?;
        Ok(path)
    }

    /// Whether the rules hold of it: none if it gives definitions, otherwise the first problem's code.
    ///
    /// # Errors
    /// Its folder, which is made below `scratch`, cannot be made.
    pub fn hold(&self, synth: &Synth, scratch: &Path) -> Result<Result<Option<String>, Broken>, FuzzError> {
        let folder = scratch.join("folder");
        match fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(file(&folder, error)),
            _ => {}
        }
        fs::create_dir_all(&folder).map_err(|source| file(&folder, source))?;
        for (name, bytes) in &self.files {
            let path = folder.join(name);
            let parent = path.parent().unwrap_or(&folder);
            let written = fs::create_dir_all(parent).and_then(|()| fs::write(&path, bytes));
            written.map_err(|source| file(&path, source))?;
        }
        Ok(self.judge(synth, &folder).and_then(|code| parts::hold(self).map(|()| code)))
    }

    fn judge(&self, synth: &Synth, folder: &Path) -> Result<Option<String>, Broken> {
        let [first, again] = [answer(synth, folder)?, answer(synth, folder)?];
        let (code, said) = self.look(&first)?;
        let (_, repeated) = self.look(&again)?;
        // What ends by a limit of the process ends where the machine's pace has brought it.
        if said != repeated && !said.contains("when it was ") && !repeated.contains("when it was ") {
            return Err(broken(2, format!("{said}\nand then\n{repeated}")));
        }
        Ok(code)
    }

    /// The first problem's code, and everything that was said.
    fn look(
        &self,
        answer: &Result<crate::Synthesized, SynthError>,
    ) -> Result<(Option<String>, String), Broken> {
        match answer {
            Ok(made) => {
                let organisation = made.documents.iter().find_map(|d| match &d.subject {
                    Subject::Organisation(organisation) => Some(&**organisation),
                    Subject::Pipeline(_) => None,
                });
                for document in &made.documents {
                    survives(&document.subject, &document.json, organisation)?;
                }
                let all: Vec<&str> = made.documents.iter().map(|d| d.json.as_str()).collect();
                Ok((None, format!("{}\n{}", all.join("\n"), made.notes.join("\n"))))
            }
            Err(SynthError::Problems { problems, notes }) => {
                for problem in problems {
                    if ["TG398", "TG399"].contains(&problem.code.as_str()) {
                        return Err(broken(1, problem.to_string()));
                    }
                    for place in problem.place.iter().chain(&problem.others) {
                        let known = self.files.contains_key(&place.file);
                        if !known && !self.files.keys().any(|f| f.starts_with(&format!("{}/", place.file))) {
                            return Err(broken(4, problem.to_string()));
                        }
                    }
                }
                let told: Vec<String> = problems.iter().map(ToString::to_string).collect();
                let code = problems.first().map(|problem| problem.code.clone());
                Ok((code, format!("{}\n{}", told.join("\n"), notes.join("\n"))))
            }
            Err(error) => Err(broken(1, tidegate_core::causes(error))),
        }
    }

    /// Without the files and parts of files that the broken rule does not need.
    fn shrink(self, synth: &Synth, scratch: &Path, found: Broken) -> Result<(Case, Broken), FuzzError> {
        let (mut best, mut why, mut runs) = (self, found, 0);
        let mut part = usize::MAX;
        while part > 0 && runs < SHRINK_RUNS_MAX {
            let mut smaller = None;
            for candidate in best.without(part) {
                runs += 1;
                if runs > SHRINK_RUNS_MAX {
                    break;
                }
                match candidate.hold(synth, scratch)? {
                    Err(broken) if broken.rule == why.rule => {
                        smaller = Some((candidate, broken));
                        break;
                    }
                    _ => {}
                }
            }
            match smaller {
                Some(found) => (best, why) = found,
                None if part == usize::MAX => {
                    part = best.files.values().map(Vec::len).max().unwrap_or(0).div_ceil(2);
                }
                None => part /= 2,
            }
        }
        Ok((best, why))
    }

    /// With one part of so many bytes less; with the largest number, with one file less.
    fn without(&self, part: usize) -> Vec<Case> {
        let mut all = Vec::new();
        for (name, bytes) in &self.files {
            if part >= bytes.len() {
                let mut less = self.clone();
                less.files.remove(name);
                all.push(less);
                continue;
            }
            for start in (0..bytes.len()).step_by(part) {
                let mut less = self.clone();
                let rest = [&bytes[..start], &bytes[(start + part).min(bytes.len())..]].concat();
                less.files.insert(name.clone(), rest);
                all.push(less);
            }
        }
        all
    }
}

fn answer(synth: &Synth, folder: &Path) -> Result<Result<crate::Synthesized, SynthError>, Broken> {
    let began = Instant::now();
    let answer = synth.folder(folder);
    let took = began.elapsed();
    if took > ANSWER_MAX {
        return Err(broken(0, format!("it took {took:?}")));
    }
    Ok(answer)
}

/// A definition through its JSON, and through the checks, which must say something of it or nothing.
fn survives(subject: &Subject, json: &str, organisation: Option<&OrganisationDef>) -> Result<(), Broken> {
    let lost = |what: &str| Err(broken(3, format!("{what}: {json}")));
    let again = match subject {
        Subject::Organisation(of) => {
            let _ = lint::organisation(of);
            let read: Result<OrganisationDef, _> = serde_json::from_str(json);
            let Ok(read) = read else { return lost("it is not read") };
            if read != **of {
                return lost("it is another one");
            }
            serde_json::to_string(&read)
        }
        Subject::Pipeline(of) => {
            let _ = organisation.map(|organisation| lint::pipeline(of, organisation));
            let read: Result<PipelineDef, _> = serde_json::from_str(json);
            let Ok(read) = read else { return lost("it is not read") };
            if read != **of {
                return lost("it is another one");
            }
            serde_json::to_string(&read)
        }
    };
    if again.is_ok_and(|again| again == json) { Ok(()) } else { lost("it is written differently") }
}

fn broken(rule: usize, evidence: String) -> Broken {
    Broken { rule: RULES[rule], evidence }
}

fn file(path: &Path, source: io::Error) -> FuzzError {
    FuzzError::File { path: path.to_owned(), source }
}

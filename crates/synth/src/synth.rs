//! The parent: reads the folder, starts the child, waits for it no longer than it may take, and judges what it says as what it
//! is, the words of a stranger.

use crate::child::UNFENCED;
use crate::documents::{Document, Subject, documents, problem, twice};
use crate::eval::property;
use crate::folder;
use crate::limits::{ANSWER_BYTES_MAX, PROBLEMS_MAX, WALL_TIME_MAX};
use crate::locate::path;
use crate::problem::{Place, Problem};
use crate::wire::{Answer, Draft, Locate, Report, Request};
use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;
use tidegate_api::Finding;
use tidegate_core::lint;

/// Why a folder gives no pipelines.
#[derive(Debug, thiserror::Error)]
pub enum SynthError {
    /// The folder says something wrong.
    #[error("the folder has {} problems", problems.len())]
    Problems {
        /// At least one.
        problems: Vec<Problem>,
        /// What its program printed.
        notes: Vec<String>,
    },
    /// Something of the folder cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// What.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The evaluator cannot be started.
    #[error("cannot start the evaluator {program}")]
    Start {
        /// The program.
        program: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The evaluator cannot be talked to.
    #[error("cannot talk to the evaluator")]
    Talk(#[source] io::Error),
}

impl From<Problem> for SynthError {
    fn from(problem: Problem) -> SynthError {
        SynthError::Problems { problems: vec![problem], notes: Vec::new() }
    }
}

/// What a folder says.
#[derive(Debug)]
pub struct Synthesized {
    /// The organisation, if the folder has one, and then the pipelines by their names.
    pub documents: Vec<Document>,
    /// What the program printed.
    pub notes: Vec<String>,
    /// What is missing of the fence around the program on this machine, if something is.
    pub missing: Option<String>,
    files: BTreeMap<String, String>,
}

/// Turns folders into definitions.
#[derive(Debug, Clone)]
pub struct Synth {
    program: PathBuf,
    arguments: Vec<String>,
    wall_time: Duration,
}

impl Synth {
    /// With the program that is the child: it calls [`crate::child::main`] when it is started with these arguments.
    #[must_use]
    pub fn new(program: impl Into<PathBuf>, arguments: &[&str]) -> Synth {
        let arguments = arguments.iter().map(|&a| a.to_owned()).collect();
        Synth { program: program.into(), arguments, wall_time: WALL_TIME_MAX }
    }

    /// Reads, evaluates and judges a folder.
    ///
    /// # Errors
    /// See [`SynthError`].
    pub fn folder(&self, folder: &Path) -> Result<Synthesized, SynthError> {
        self.files(folder::read(folder)?)
    }

    /// As [`Synth::folder`], of files that were read already.
    ///
    /// # Errors
    /// See [`SynthError`].
    pub fn files(&self, files: BTreeMap<String, String>) -> Result<Synthesized, SynthError> {
        let request = Request { files, locate: Vec::new() };
        let Heard { drafts, answer } = self.ask(&request)?;
        let files = request.files;
        let of: Vec<Vec<String>> = drafts.iter().map(|(draft, _)| draft.classes.clone()).collect();
        let notes = answer.notes;
        if !answer.problems.is_empty() {
            return Err(SynthError::Problems { problems: answer.problems, notes });
        }
        let mut documents = match documents(drafts) {
            Ok(documents) => documents,
            Err(found) => {
                let problems = self.placed(&files, found, &|draft| &of[draft])?;
                return Err(SynthError::Problems { problems, notes });
            }
        };
        let twice = twice(&documents);
        if !twice.is_empty() {
            let problems = self.collisions(&files, &documents, twice)?;
            return Err(SynthError::Problems { problems, notes });
        }
        documents.sort_by(|a, b| {
            let key = |d: &Document| matches!(d.subject, Subject::Pipeline(_));
            (key(a), a.name()).cmp(&(key(b), b.name()))
        });
        Ok(Synthesized { documents, notes, missing: answer.missing, files })
    }

    /// Findings of a check of a folder's documents, each with the document's index, as problems with their lines.
    ///
    /// # Errors
    /// The evaluator fails.
    pub fn problems(
        &self,
        of: &Synthesized,
        findings: Vec<(usize, lint::Finding)>,
    ) -> Result<Vec<Problem>, SynthError> {
        let drafts: BTreeMap<usize, &Document> = of.documents.iter().map(|d| (d.draft, d)).collect();
        let plain = |(n, finding)| {
            let document: &Document = of.documents.get(n)?;
            Some((document.draft, tidegate_api::document::plain(finding)))
        };
        let found = findings.into_iter().filter_map(plain).collect();
        self.placed(&of.files, found, &|draft| drafts.get(&draft).map_or(&[][..], |d| &d.classes))
    }

    fn placed<'d>(
        &self,
        files: &BTreeMap<String, String>,
        mut found: Vec<(usize, Finding)>,
        classes: &dyn Fn(usize) -> &'d [String],
    ) -> Result<Vec<Problem>, SynthError> {
        found.truncate(PROBLEMS_MAX);
        let wanted = found.iter().map(|(draft, f)| Locate { draft: *draft, pointer: f.place.clone() });
        let places = self.locate(files, wanted.collect())?;
        let told = found.into_iter().zip(places).map(|((draft, finding), place)| {
            let class = classes(draft).first().map_or("?", String::as_str);
            let property = property(&path(&finding.place), class);
            problem(finding, place, property)
        });
        Ok(told.collect())
    }

    fn collisions(
        &self,
        files: &BTreeMap<String, String>,
        documents: &[Document],
        twice: Vec<(usize, usize, Problem)>,
    ) -> Result<Vec<Problem>, SynthError> {
        let name = |n: usize| Locate { draft: documents[n].draft, pointer: "/name".to_owned() };
        let wanted = twice.iter().flat_map(|(first, second, _)| [name(*first), name(*second)]).collect();
        let places = self.locate(files, wanted)?;
        let place = |n: usize, k: usize| {
            places.get(k).cloned().flatten().unwrap_or_else(|| Place::file(&documents[n].file))
        };
        let told = twice.into_iter().enumerate().map(|(k, (first, second, problem))| Problem {
            others: vec![place(first, 2 * k)],
            ..problem.at(place(second, 2 * k + 1))
        });
        Ok(told.take(PROBLEMS_MAX).collect())
    }

    /// Runs the same program again, which gives the same drafts, and asks for places.
    fn locate(
        &self,
        files: &BTreeMap<String, String>,
        locate: Vec<Locate>,
    ) -> Result<Vec<Option<Place>>, SynthError> {
        let number = locate.len();
        let mut places = self.ask(&Request { files: files.clone(), locate })?.answer.places;
        places.resize(number, None);
        Ok(places)
    }

    fn ask(&self, request: &Request) -> Result<Heard, SynthError> {
        let failed = |source| SynthError::Start { program: self.program.clone(), source };
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).env_clear().current_dir("/");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = Ended(command.spawn().map_err(failed)?);
        let (Some(mut input), Some(output)) = (child.0.stdin.take(), child.0.stdout.take()) else {
            return Err(failed(io::Error::other("it has no pipes")));
        };
        let text = serde_json::to_vec(request).map_err(|error| SynthError::Talk(error.into()))?;
        // A child that dies before it has read everything says why by how it ends.
        let writer = thread::spawn(move || drop(input.write_all(&text)));
        let (sender, receiver) = mpsc::channel();
        let reader = thread::spawn(move || {
            let mut bytes = Vec::new();
            let read = output.take(ANSWER_BYTES_MAX + 1).read_to_end(&mut bytes);
            // Nobody listens any more after the time is over.
            let _ = sender.send(read.map(|_| bytes));
        });
        let received = receiver.recv_timeout(self.wall_time);
        let late = received.is_err();
        if late {
            child.kill();
        }
        let received = received.ok().or_else(|| receiver.recv().ok());
        let bytes = received.transpose().map_err(SynthError::Talk)?;
        let too_much = bytes.as_ref().is_some_and(|b| b.len() as u64 > ANSWER_BYTES_MAX);
        if too_much {
            child.kill();
        }
        let status = child.0.wait().map_err(SynthError::Talk)?;
        // Both threads end with the child's ends of their pipes.
        let _ = (writer.join(), reader.join());
        judge(&bytes.unwrap_or_default(), status, late, too_much)
    }
}

/// A child that does not outlive its use.
struct Ended(Child);

impl Ended {
    fn kill(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
    }
}

impl Drop for Ended {
    fn drop(&mut self) {
        self.kill();
        let _ = self.0.wait();
    }
}

/// What a child said.
pub(crate) struct Heard {
    /// With their values, which nobody has looked into.
    pub(crate) drafts: Vec<(Draft, String)>,
    answer: Answer,
}

/// What a child said, or how it ended without saying it.
pub(crate) fn judge(
    bytes: &[u8],
    status: ExitStatus,
    late: bool,
    too_much: bool,
) -> Result<Heard, SynthError> {
    let mut at: Option<(&str, String)> = None;
    let mut drafts = Vec::new();
    let mut lines = bytes.split(|b| *b == b'\n');
    while let Some(line) = lines.next() {
        match serde_json::from_slice(line) {
            Ok(Report::Done(answer)) if !too_much => return Ok(Heard { drafts, answer: *answer }),
            Ok(Report::Parsing(file)) => at = Some(("parsed", file)),
            Ok(Report::Running(file)) => at = Some(("run", file)),
            Ok(Report::Draft(draft)) => {
                let value = lines.next().unwrap_or_default();
                drafts.push((draft, String::from_utf8_lossy(value).into_owned()));
            }
            _ => {}
        }
    }
    const XCPU: i32 = Signal::XCPU.as_raw();
    use rustix::process::Signal;
    let (code, why, hint) = match (late, status.signal(), status.code()) {
        _ if too_much => ("TG325", "it says more than 256 MiB".to_owned(), "use several folders"),
        (true, ..) | (_, Some(XCPU), _) => {
            ("TG321", "it took more time than it may".to_owned(), "see whether everything in it ends")
        }
        (_, Some(signal), _) => (
            "TG322",
            format!("it needs more memory or deeper calls than it may have (signal {signal})"),
            "see how deep its expressions are nested, and how long its texts and lists are",
        ),
        (_, _, Some(code)) if code == i32::from(UNFENCED) => (
            "TG398",
            "the evaluator cannot fence itself".to_owned(),
            "see the limits of this process (ulimit -a)",
        ),
        _ => ("TG399", format!("the evaluator ended without an answer ({status})"), "please report this"),
    };
    let problem = match at {
        Some((what, file)) => {
            Problem::new(code, format!("when it was {what}: {why}"), hint).at(Place::file(file))
        }
        None => Problem::new(code, why, hint),
    };
    Err(problem.into())
}

//! What parent and child say to each other: one request on the child's stdin, then reports on its stdout, one JSON text in
//! each line. The last report is [`Report::Done`]; those before say at what the child was when it died, and what was found.
//! The line after a [`Report::Draft`] is that draft's value, as it is: so nothing of it is read before it is judged.

use crate::problem::{Place, Problem};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::{BufWriter, Write};

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Request {
    /// Path relative to the folder, with '/', to text.
    pub(crate) files: BTreeMap<String, String>,
    /// Values of the drafts whose places are wanted.
    pub(crate) locate: Vec<Locate>,
}

/// A value of a draft.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Locate {
    /// The index of the draft.
    pub(crate) draft: usize,
    /// A JSON pointer in it.
    pub(crate) pointer: String,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Report {
    Parsing(String),
    Running(String),
    Draft(Draft),
    Done(Box<Answer>),
}

#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Answer {
    /// What the program printed.
    pub(crate) notes: Vec<String>,
    /// If there are any, no draft counts.
    pub(crate) problems: Vec<Problem>,
    /// For each of [`Request::locate`].
    pub(crate) places: Vec<Option<Place>>,
    /// What is missing of the fence, if something is.
    pub(crate) missing: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Kind {
    Pipeline,
    Organisation,
}

/// What a file exports, in the model's names but not yet judged.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Draft {
    pub(crate) kind: Kind,
    pub(crate) file: String,
    /// Its class, its parents, and the library's.
    pub(crate) classes: Vec<String>,
}

/// Where the child says what it says. That nobody listens is no error: whoever does not read any more has ended it as well.
pub(crate) struct Reports<'w>(BufWriter<&'w mut dyn Write>);

impl<'w> Reports<'w> {
    pub(crate) fn new(to: &'w mut dyn Write) -> Reports<'w> {
        Reports(BufWriter::with_capacity(1 << 16, to))
    }

    /// Says it at once.
    pub(crate) fn say(&mut self, report: &Report) {
        let _ = self.line(report).and_then(|()| self.0.flush());
    }

    /// Says a draft and its value, with what is said next.
    pub(crate) fn draft(&mut self, draft: Draft, value: &[u8]) {
        let said = self.line(&Report::Draft(draft));
        let _ = said.and_then(|()| self.0.write_all(value)).and_then(|()| self.0.write_all(b"\n"));
    }

    fn line(&mut self, report: &Report) -> std::io::Result<()> {
        serde_json::to_writer(&mut self.0, report)?;
        self.0.write_all(b"\n")
    }
}

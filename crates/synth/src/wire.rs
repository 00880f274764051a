//! What parent and child say to each other: one request on the child's stdin, then reports on its stdout, one JSON text in
//! each line. The last report is [`Report::Done`]; those before say at what the child was when it died.

use crate::problem::{Place, Problem};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

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
    Done(Box<Answer>),
}

#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Answer {
    pub(crate) drafts: Vec<Draft>,
    /// What the program printed.
    pub(crate) notes: Vec<String>,
    /// If there are any, nothing else counts.
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
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Draft {
    pub(crate) kind: Kind,
    pub(crate) file: String,
    /// Its class, its parents, and the library's.
    pub(crate) classes: Vec<String>,
    pub(crate) value: serde_json::Value,
}

//! What keeps a folder from becoming pipelines: a code, words, and the line.

use serde::{Deserialize, Serialize};
use std::ops::Range;
use tidegate_api::Excerpt;

/// A place in the folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Place {
    /// Relative to the folder.
    pub file: String,
    /// The line with its marked part; none for a file as a whole.
    pub excerpt: Option<Excerpt>,
}

impl Place {
    pub(crate) fn of(file: &str, text: &str, range: &Range<usize>) -> Place {
        Place { file: file.to_owned(), excerpt: Some(Excerpt::of(text, range)) }
    }

    pub(crate) fn file(file: impl Into<String>) -> Place {
        Place { file: file.into(), excerpt: None }
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.excerpt {
            Some(excerpt) => write!(f, "{}:{}:{}", self.file, excerpt.line, excerpt.column),
            None => f.write_str(&self.file),
        }
    }
}

/// Something that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Problem {
    /// Stable: `TG310`. Those of definitions (`TG1xx`) mean what they mean for JSON.
    pub code: String,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub hint: String,
    /// Where; none when it is no one's line.
    pub place: Option<Place>,
    /// Which value of which class, such as `stages[1].bake.oneBox of class Web`.
    pub property: Option<String>,
    /// Other places that belong to it: an exception's callers, innermost first, or what it collides with.
    pub others: Vec<Place>,
}

impl Problem {
    pub(crate) fn new(code: &str, message: impl Into<String>, hint: impl Into<String>) -> Problem {
        Problem {
            code: code.to_owned(),
            message: message.into(),
            hint: hint.into(),
            place: None,
            property: None,
            others: Vec::new(),
        }
    }

    pub(crate) fn at(self, place: Place) -> Problem {
        Problem { place: Some(place), ..self }
    }
}

impl std::fmt::Display for Problem {
    /// As people read it: code and message, the place with its line and marker, other places, and what to do.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{}: {}", self.code, clean(&self.message))?;
        match (&self.place, &self.property) {
            (Some(place), Some(property)) => writeln!(f, "  at {place} ({})", clean(property))?,
            (Some(place), None) => writeln!(f, "  at {place}")?,
            (None, Some(property)) => writeln!(f, "  at {}", clean(property))?,
            (None, None) => {}
        }
        if let Some(excerpt) = self.place.as_ref().and_then(|place| place.excerpt.as_ref()) {
            for line in excerpt.render().lines() {
                writeln!(f, "    {line}")?;
            }
        }
        for other in &self.others {
            writeln!(f, "  and {other}")?;
        }
        writeln!(f, "  hint: {}", clean(&self.hint))
    }
}

/// Without control characters: names and messages are a program's, and a terminal obeys what it is told.
fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

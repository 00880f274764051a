//! Why a text is no expression, with the place.

use std::fmt;
use std::ops::Range;

/// What is wrong with an expression, and where. [`fmt::Display`] is one line; [`ExpressionError::render`] shows the place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExpressionError {
    /// Characters (not bytes) of the text, counted from 0. Empty at the end of the text.
    pub at: Range<usize>,
    /// What is wrong: a lower-case fragment.
    pub message: String,
    /// What to write instead, where that is known.
    pub hint: Option<String>,
    /// The text as it was given.
    text: String,
}

/// The most characters of a line that [`ExpressionError::render`] shows.
const RENDER_COLUMNS: usize = 100;

impl ExpressionError {
    pub(super) fn new(
        text: &str,
        at: Range<usize>,
        message: impl Into<String>,
        hint: Option<String>,
    ) -> ExpressionError {
        ExpressionError { at, message: message.into(), hint, text: text.to_owned() }
    }

    /// The message, the line with a marker beneath, and the hint; every line ends with a newline. Of a long line the part
    /// around the marker is shown. Control characters are shown as spaces, so that the marker stands where it should.
    #[must_use]
    pub fn render(&self) -> String {
        let mut start = 0;
        let mut number = 1;
        for (i, c) in self.text.chars().take(self.at.start).enumerate() {
            if c == '\n' {
                start = i + 1;
                number += 1;
            }
        }
        let line: Vec<char> = self.text.chars().skip(start).take_while(|c| *c != '\n').collect();
        let column = self.at.start - start;
        let first = column.saturating_sub(RENDER_COLUMNS / 2).min(line.len().saturating_sub(RENDER_COLUMNS));
        let last = (first + RENDER_COLUMNS).min(line.len());
        let mut shown: String = if first > 0 { "…".into() } else { String::new() };
        shown.extend(line[first..last].iter().map(|c| if c.is_control() { ' ' } else { *c }));
        if last < line.len() {
            shown.push('…');
        }
        let indent = column - first + usize::from(first > 0);
        let width = self.at.len().min(last.saturating_sub(column)).max(1);
        let gutter = " ".repeat(number.to_string().len());
        let mut out = format!(
            "{}\n{gutter} |\n{number} | {shown}\n{gutter} | {}{}\n",
            self.message,
            " ".repeat(indent),
            "^".repeat(width),
        );
        if let Some(hint) = &self.hint {
            out.push_str(&format!("{gutter} = hint: {hint}\n"));
        }
        out
    }
}

impl fmt::Display for ExpressionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (at character {})", self.message, self.at.start + 1)?;
        match &self.hint {
            Some(hint) => write!(f, "; {hint}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for ExpressionError {}

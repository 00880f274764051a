//! How the server says no. A code is a contract: it keeps its meaning for ever, and scripts and docs refer to it.

use serde::{Deserialize, Serialize};
use std::ops::Range;
use utoipa::ToSchema;

/// The answer to everything that is not done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ErrorAnswer {
    /// Always 1.
    pub version: u32,
    /// What is wrong.
    pub error: ErrorBody,
}

/// What is wrong and what to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ErrorBody {
    /// Stable, such as `TG004`.
    pub code: Code,
    /// What is wrong: a lower-case fragment.
    pub message: String,
    /// What to do.
    pub hint: String,
    /// What is wrong with a definition; empty for every other error.
    #[serde(default)]
    pub findings: Vec<Finding>,
}

/// The kinds of refusal. The codes of findings in definitions are `TG1xx` and stand in [`Finding::code`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
pub enum Code {
    /// No token, or one that is not known: status 401.
    #[serde(rename = "TG001")]
    Unauthenticated,
    /// The user may not do this: status 403.
    #[serde(rename = "TG002")]
    Forbidden,
    /// There is no such thing: status 404.
    #[serde(rename = "TG003")]
    NotFound,
    /// It does not fit what is so: status 409.
    #[serde(rename = "TG004")]
    Illegal,
    /// The request cannot be read: status 400.
    #[serde(rename = "TG005")]
    BadRequest,
    /// More than one thing is meant: status 400.
    #[serde(rename = "TG006")]
    Ambiguous,
    /// The body is too large: status 413.
    #[serde(rename = "TG007")]
    TooLarge,
    /// A definition has findings: status 422.
    #[serde(rename = "TG008")]
    Definition,
    /// The server is busy; the same request may succeed later: status 503.
    #[serde(rename = "TG009")]
    Busy,
    /// The server's disk is full; rollbacks still go: status 507.
    #[serde(rename = "TG010")]
    NoSpace,
    /// It took too long: status 504.
    #[serde(rename = "TG011")]
    TimedOut,
    /// Something in the server failed: status 500.
    #[serde(rename = "TG012")]
    Internal,
    /// The user sends more than the server takes of one: status 429.
    #[serde(rename = "TG013")]
    TooMany,
    /// This server is a standby; another one works: status 503.
    #[serde(rename = "TG014")]
    Standby,
    /// Another server has the data directory: this one does not start.
    #[serde(rename = "TG015")]
    InUse,
    /// A newer version of tidegate has written what is there: this one does not start on it, and does not read it.
    #[serde(rename = "TG016")]
    Newer,
}

impl Code {
    /// The code as text.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Code::Unauthenticated => "TG001",
            Code::Forbidden => "TG002",
            Code::NotFound => "TG003",
            Code::Illegal => "TG004",
            Code::BadRequest => "TG005",
            Code::Ambiguous => "TG006",
            Code::TooLarge => "TG007",
            Code::Definition => "TG008",
            Code::Busy => "TG009",
            Code::NoSpace => "TG010",
            Code::TimedOut => "TG011",
            Code::Internal => "TG012",
            Code::TooMany => "TG013",
            Code::Standby => "TG014",
            Code::InUse => "TG015",
            Code::Newer => "TG016",
        }
    }

    /// The HTTP status that goes with it; what keeps a server from starting is never sent.
    #[must_use]
    pub const fn status(self) -> u16 {
        match self {
            Code::Unauthenticated => 401,
            Code::Forbidden => 403,
            Code::NotFound => 404,
            Code::Illegal | Code::InUse | Code::Newer => 409,
            Code::BadRequest | Code::Ambiguous => 400,
            Code::TooLarge => 413,
            Code::Definition => 422,
            Code::Busy | Code::Standby => 503,
            Code::NoSpace => 507,
            Code::TimedOut => 504,
            Code::Internal => 500,
            Code::TooMany => 429,
        }
    }
}

impl std::fmt::Display for Code {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Something that keeps a definition from being taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Finding {
    /// Stable, such as `TG101`.
    pub code: String,
    /// The pipeline that a new organisation's definition would break; none when the finding is in what was sent.
    pub pipeline: Option<String>,
    /// Which of the definitions that were sent together it is in, from 0; none when one was sent, or it is in none of them.
    pub definition: Option<usize>,
    /// JSON pointer to the place, such as `/stages/2/waves/0/steps/1`; empty for the document as a whole.
    pub place: String,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub hint: String,
    /// The place in the text that was sent; none when the finding is not in it.
    pub excerpt: Option<Excerpt>,
}

/// The most characters of a line that are shown.
const LINE_SHOWN_MAX: usize = 100;

/// A line of a document with a marked part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Excerpt {
    /// From 1.
    pub line: usize,
    /// Where the marked part begins, in characters from 1.
    pub column: usize,
    /// The line; of a long one, the part around the mark. Control characters are spaces.
    pub text: String,
    /// Where the mark begins in `text`, in characters from 0.
    pub mark_at: usize,
    /// How many characters are marked; at least 1.
    pub mark_len: usize,
}

impl Excerpt {
    /// The line of a range of bytes, with the range marked as far as it is on that line.
    #[must_use]
    pub fn of(text: &str, range: &Range<usize>) -> Excerpt {
        let start = floor(text, range.start.min(text.len()));
        let end = floor(text, range.end.clamp(start, text.len()));
        let line_start = text[..start].rfind('\n').map_or(0, |n| n + 1);
        let line_end = text[start..].find('\n').map_or(text.len(), |n| start + n);
        let line: Vec<char> = text[line_start..line_end].chars().collect();
        let column = text[line_start..start].chars().count();
        let first = column.saturating_sub(LINE_SHOWN_MAX / 2).min(line.len().saturating_sub(LINE_SHOWN_MAX));
        let last = (first + LINE_SHOWN_MAX).min(line.len());
        let shown: String = line[first..last].iter().map(|c| if c.is_control() { ' ' } else { *c }).collect();
        let marked = text[start..end.min(line_end).max(start)].chars().count();
        Excerpt {
            line: text[..start].matches('\n').count() + 1,
            column: column + 1,
            text: shown,
            mark_at: column - first,
            mark_len: marked.min(last.saturating_sub(column)).max(1),
        }
    }

    /// The line with its number and a marker beneath, both ending with a newline.
    #[must_use]
    pub fn render(&self) -> String {
        let number = self.line.to_string();
        let gutter = " ".repeat(number.len());
        let (indent, mark) = (" ".repeat(self.mark_at), "^".repeat(self.mark_len));
        format!("{number} | {}\n{gutter} | {indent}{mark}\n", self.text)
    }
}

fn floor(text: &str, mut at: usize) -> usize {
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_written_as_it_is_named() {
        for code in [
            Code::Unauthenticated,
            Code::Forbidden,
            Code::NotFound,
            Code::Illegal,
            Code::BadRequest,
            Code::Ambiguous,
            Code::TooLarge,
            Code::Definition,
            Code::Busy,
            Code::NoSpace,
            Code::TimedOut,
            Code::Internal,
        ] {
            assert_eq!(serde_json::to_value(code).unwrap(), code.as_str());
            assert!((400..600).contains(&code.status()));
        }
    }
}

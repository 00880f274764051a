//! Definitions as people send them: reading them, and saying where in their text something is wrong.

use crate::place;
use crate::{Excerpt, Finding};
use tidegate_core::expr::Expression;
use tidegate_core::lint;

/// The most findings that are told at once.
pub const FINDINGS_MAX: usize = 100;

/// A finding of a check without its line.
#[must_use]
pub fn plain(finding: lint::Finding) -> Finding {
    Finding {
        code: finding.code,
        pipeline: None,
        definition: None,
        place: finding.place,
        message: finding.message,
        hint: finding.hint,
        excerpt: None,
    }
}

/// A finding of a check with its line in the text.
#[must_use]
pub fn placed(finding: lint::Finding, text: &str) -> Finding {
    let excerpt = Excerpt::of(text, &place::locate(text, &finding.place, false));
    Finding { excerpt: Some(excerpt), ..plain(finding) }
}

/// Reads a document; what is wrong with it is one finding, because a parser stops at the first.
///
/// # Errors
/// `TG102`: it is no JSON. `TG103`: an unknown field. `TG104`: a value that does not fit. `TG105`: a missing field.
pub fn read<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, Vec<Finding>> {
    let mut parser = serde_json::Deserializer::from_str(text);
    let syntax = |error: &serde_json::Error| {
        let at = place::offset(text, error.line(), error.column());
        finding("TG102", "", message_of(error), "write one JSON document", text, &(at..at + 1))
    };
    // Where it is wrong is asked only when it is: that takes twice the time.
    if let Ok(value) = serde_json::from_str(text) {
        return Ok(value);
    }
    let value = serde_path_to_error::deserialize(&mut parser).map_err(|error| {
        vec![if error.inner().is_data() { misfit(&error, text) } else { syntax(error.inner()) }]
    })?;
    parser.end().map_err(|error| vec![syntax(&error)])?;
    Ok(value)
}

fn finding(
    code: &str,
    place: &str,
    message: impl Into<String>,
    hint: impl Into<String>,
    text: &str,
    at: &std::ops::Range<usize>,
) -> Finding {
    Finding {
        code: code.to_owned(),
        pipeline: None,
        definition: None,
        place: place.to_owned(),
        message: message.into(),
        hint: hint.into(),
        excerpt: Some(Excerpt::of(text, at)),
    }
}

/// The parser's message without the position, which is shown by the excerpt.
fn message_of(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let end = text.rfind(" at line ").unwrap_or(text.len());
    text[..end].to_owned()
}

/// JSON of the wrong shape.
fn misfit(error: &serde_path_to_error::Error<serde_json::Error>, text: &str) -> Finding {
    let pointer = pointer(error.path());
    let message = message_of(error.inner());
    // What stands between back-quotes is the field, then the ones that are known.
    let mut quoted = message.split('`').skip(1).step_by(2);
    if message.starts_with("unknown field") {
        let field = quoted.next().unwrap_or_default().to_owned();
        let known: Vec<&str> = quoted.collect();
        let place =
            if pointer.ends_with(&format!("/{field}")) { pointer } else { format!("{pointer}/{field}") };
        let hint = match nearest(&field, &known) {
            Some(name) => format!("did you mean \"{name}\"?"),
            None if known.is_empty() => "no fields are known here; leave it out".to_owned(),
            None => format!("known here: {}", known.join(", ")),
        };
        let at = place::locate(text, &place, true);
        return finding("TG103", &place, format!("unknown field '{field}'"), hint, text, &at);
    }
    let at = place::locate(text, &pointer, false);
    if message.starts_with("missing field") {
        let field = quoted.next().unwrap_or_default();
        let hint = format!("add \"{field}\"");
        return finding("TG105", &pointer, format!("'{field}' is missing"), hint, text, &at);
    }
    // An expression knows better than its parser's one line where it is wrong.
    let written: Option<String> = text.get(at.clone()).and_then(|value| serde_json::from_str(value).ok());
    if let Some(expression) = written.filter(|_| pointer.ends_with("/aggregate"))
        && let Err(wrong) = Expression::parse(&expression)
    {
        let inner = &text[at.start + 1..at.end];
        let from = inner.char_indices().nth(wrong.at.start).map_or(inner.len() - 1, |(n, _)| n);
        let length = wrong.at.len().max(1);
        let marked = at.start + 1 + from..at.start + 1 + from + length;
        let hint = wrong.hint.clone().unwrap_or_else(|| "see the grammar of alarm expressions".to_owned());
        return finding("TG104", &pointer, wrong.message.clone(), hint, text, &marked);
    }
    let hint = if message.contains("span of time") {
        "write a whole number and a unit, such as 90s, 1h30m or 250ms"
    } else {
        "write a value that fits; GET /v1/schemas/organisation.json and pipeline.json describe them"
    };
    finding("TG104", &pointer, message, hint, text, &at)
}

fn pointer(path: &serde_path_to_error::Path) -> String {
    use serde_path_to_error::Segment;
    use std::fmt::Write;
    let mut pointer = String::new();
    for segment in path {
        let _ = match segment {
            Segment::Seq { index } => write!(pointer, "/{index}"),
            Segment::Map { key } => write!(pointer, "/{}", key.replace('~', "~0").replace('/', "~1")),
            Segment::Enum { variant } => write!(pointer, "/{variant}"),
            Segment::Unknown => Ok(()),
        };
    }
    pointer
}

/// The known name with the fewest edits, if they are at most a third of its length.
fn nearest<'a>(field: &str, known: &[&'a str]) -> Option<&'a str> {
    let distance = |name: &str| {
        let name: Vec<char> = name.chars().collect();
        let mut row: Vec<usize> = (0..=name.len()).collect();
        for (i, c) in field.chars().enumerate() {
            let mut diagonal = std::mem::replace(&mut row[0], i + 1);
            for (j, other) in name.iter().enumerate() {
                let replaced = diagonal + usize::from(c != *other);
                diagonal = row[j + 1];
                row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
            }
        }
        row[name.len()]
    };
    let (edits, name) = known.iter().map(|name| (distance(name), *name)).min_by_key(|(edits, _)| *edits)?;
    (edits <= (name.chars().count() / 3).max(1)).then_some(name)
}

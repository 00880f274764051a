//! From drafts to definitions: through the core's own types, so that order and defaults are theirs, with the SHA-256 of the
//! canonical JSON.

use crate::problem::{Place, Problem};
use crate::wire::{Draft, Kind};
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;
use tidegate_api::{Finding, document};
use tidegate_core::definition::{ORGANISATION_SCHEMA, OrganisationDef, PIPELINE_SCHEMA, PipelineDef};
use tidegate_core::run_spec::hex;

pub use tidegate_core::definition::Definition as Subject;

/// The JSON Schemas of what comes out, by the schema's name.
pub static SCHEMAS: LazyLock<BTreeMap<&'static str, serde_json::Value>> = LazyLock::new(|| {
    BTreeMap::from([
        (PIPELINE_SCHEMA, schemars::schema_for!(PipelineDef).to_value()),
        (ORGANISATION_SCHEMA, schemars::schema_for!(OrganisationDef).to_value()),
    ])
});

/// A definition.
#[derive(Debug, Clone, PartialEq)]
pub struct Document {
    /// The definition itself.
    pub subject: Subject,
    /// Its canonical JSON: fields in the order of the model, every default written.
    pub json: String,
    /// The SHA-256 of the canonical JSON, in hexadecimal.
    pub digest: String,
    /// The file that exports it, relative to the folder.
    pub file: String,
    /// Its class, and that one's parents up to the library's.
    pub classes: Vec<String>,
    /// Its index among the drafts.
    pub(crate) draft: usize,
}

impl Document {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        match &self.subject {
            Subject::Organisation(organisation) => &organisation.name,
            Subject::Pipeline(pipeline) => pipeline.name.as_str(),
        }
    }
}

/// A finding in a draft.
pub(crate) type Found = (usize, Finding);

/// Judges drafts with their values.
pub(crate) fn documents(drafts: Vec<(Draft, String)>) -> Result<Vec<Document>, Vec<Found>> {
    let (mut documents, mut found) = (Vec::new(), Vec::new());
    for (draft, (of, text)) in drafts.into_iter().enumerate() {
        let read = match of.kind {
            Kind::Organisation => document::read(&text).map(|o| Subject::Organisation(Box::new(o))),
            Kind::Pipeline => document::read(&text).map(|p| Subject::Pipeline(Box::new(p))),
        };
        match read {
            Ok(subject) => {
                let json = match &subject {
                    Subject::Organisation(organisation) => canonical(organisation),
                    Subject::Pipeline(pipeline) => canonical(pipeline),
                };
                let digest = hex(&Sha256::digest(&json));
                documents.push(Document { subject, json, digest, file: of.file, classes: of.classes, draft });
            }
            Err(findings) => found.extend(findings.into_iter().map(|finding| (draft, finding))),
        }
    }
    if found.is_empty() { Ok(documents) } else { Err(found) }
}

fn canonical(definition: &impl Serialize) -> String {
    serde_json::to_string(definition).expect("a definition has only string keys and no failing serializer")
}

/// Documents that cannot be there together: two pipelines of one name, two organisations.
pub(crate) fn twice(documents: &[Document]) -> Vec<(usize, usize, Problem)> {
    let mut pipelines: BTreeMap<&str, usize> = BTreeMap::new();
    let mut organisation = None;
    let mut found = Vec::new();
    for (n, document) in documents.iter().enumerate() {
        match &document.subject {
            Subject::Organisation(_) => {
                if let Some(first) = organisation {
                    let message = "there is a second organisation";
                    found.push((first, n, Problem::new("TG334", message, "a folder has one: join them")));
                }
                organisation = organisation.or(Some(n));
            }
            Subject::Pipeline(_) => {
                if let Some(first) = pipelines.insert(document.name(), n) {
                    let message = format!("there is a second pipeline by the name of '{}'", document.name());
                    let hint = "give one of them another name: name = \"...\"";
                    found.push((first, n, Problem::new("TG332", message, hint)));
                }
            }
        }
    }
    found
}

/// What the model's parser says, and what TypeScript calls it.
const WORDS: [(&str, &str); 7] = [
    ("expected u32", "expected a whole number from 0 up"),
    ("expected u64", "expected a whole number from 0 up"),
    ("expected u16", "expected a whole number from 0 up"),
    ("expected a sequence", "expected a list"),
    ("invalid type: map", "invalid type: object"),
    ("invalid type: sequence", "invalid type: list"),
    ("GET /v1/schemas/organisation.json and pipeline.json describe them", "the library's types say which"),
];

/// A finding in the words of TypeScript.
pub(crate) fn problem(finding: Finding, place: Option<Place>, property: String) -> Problem {
    let of_unknown_field = finding.code == "TG103";
    let words = |text: &str| {
        let text = WORDS.iter().fold(text.to_owned(), |text, (from, to)| text.replace(from, to));
        in_camel_case(&text, of_unknown_field)
    };
    Problem {
        message: words(&finding.message),
        hint: words(&finding.hint),
        code: finding.code,
        place,
        property: Some(property),
        others: Vec::new(),
    }
}

/// The model's fields that TypeScript writes differently.
static FIELDS: LazyLock<BTreeSet<String>> = LazyLock::new(|| {
    fn collect(value: &serde_json::Value, into: &mut BTreeSet<String>) {
        match value {
            serde_json::Value::Object(map) => {
                into.extend(map.keys().filter(|key| key.contains('_')).cloned());
                map.values().for_each(|value| collect(value, into));
            }
            serde_json::Value::Array(list) => list.iter().for_each(|value| collect(value, into)),
            _ => {}
        }
    }
    let mut fields = BTreeSet::new();
    SCHEMAS.values().for_each(|schema| collect(schema, &mut fields));
    fields
});

/// With the model's fields as TypeScript writes them; with `all`, also what is written like one.
fn in_camel_case(text: &str, all: bool) -> String {
    let of_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find(of_word) {
        let end = rest[start..].find(|c| !of_word(c)).map_or(rest.len(), |n| start + n);
        let word = &rest[start..end];
        out.push_str(&rest[..start]);
        out.push_str(&if all || FIELDS.contains(word) {
            crate::locate::camel(word)
        } else {
            word.to_owned()
        });
        rest = &rest[end..];
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_the_model_are_told_in_those_of_typescript() {
        let told = in_camel_case("write \"one_box\": true, not 'boxes_per_az' or my_own", false);
        assert_eq!(told, "write \"oneBox\": true, not 'boxesPerAz' or my_own");
    }
}

//! `tidegate synth`.

use crate::Global;
use crate::error::CliError;
use crate::folder::Folder;
use crate::text::print;
use clap::Args;
use std::path::PathBuf;
use tidegate_api::VERSION;
use tidegate_core::definition::{ORGANISATION_SCHEMA, PIPELINE_SCHEMA};
use tidegate_synth::{Document, SCHEMAS, Subject};

/// Print the definitions that a folder of TypeScript makes, as canonical JSON: one in each line, the organisation's first.
///
/// Every .ts file of the folder is run, in the order of their names; what a file exports that is a pipeline or an organisation
/// counts. With --json it is one document, with each definition's file and SHA-256.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The folder, or the one that has the folder 'pipelines'.
    #[arg(default_value = ".")]
    folder: PathBuf,
    /// Print the JSON Schema of what comes out instead: of 'pipeline' or 'organisation'.
    #[arg(long, value_name = "KIND", value_parser = ["pipeline", "organisation"])]
    schema: Option<String>,
}

pub(crate) fn run(global: &Global, options: Options) -> Result<(), CliError> {
    if let Some(kind) = options.schema {
        let schema = if kind == "pipeline" { PIPELINE_SCHEMA } else { ORGANISATION_SCHEMA };
        return print(&format!("{:#}\n", SCHEMAS.get(schema).cloned().unwrap_or_default()));
    }
    let folder = Folder::read(&options.folder)?;
    let documents = &folder.made.documents;
    if global.json {
        let all: Vec<String> = documents.iter().map(defined).collect();
        return print(&format!("{{\"version\":{VERSION},\"documents\":[{}]}}\n", all.join(",")));
    }
    print(&documents.iter().map(|document| format!("{}\n", document.json)).collect::<String>())?;
    let told = |d: &Document| format!("{}  sha256:{}  ({})\n", d.name(), d.digest, d.file);
    // As a whole: stderr has no buffer, and there may be thousands.
    eprint!("{}", documents.iter().map(told).collect::<String>());
    Ok(())
}

/// The definition as it is, in the order of the model, within what is said of it.
fn defined(document: &Document) -> String {
    let schema = match &document.subject {
        Subject::Organisation(_) => ORGANISATION_SCHEMA,
        Subject::Pipeline(_) => PIPELINE_SCHEMA,
    };
    let [name, file] = [document.name(), &document.file].map(serde_json::Value::from);
    format!(
        "{{\"schema\":\"{schema}\",\"name\":{name},\"file\":{file},\"digest\":\"sha256:{}\",\"definition\":{}}}",
        document.digest, document.json
    )
}

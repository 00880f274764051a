//! Folders of TypeScript through the real evaluator's process: what comes out, how errors read, and that nothing that a folder
//! holds does harm or hangs.

#![expect(clippy::unwrap_used, reason = "a failed unwrap fails the test, also in its helpers")]

mod arbitrary;
mod errors;
mod fuzz;
mod hostile;
mod library;
mod typescript;

use std::collections::BTreeMap;
use tidegate_synth::{Document, Problem, Synth, SynthError, Synthesized};

fn synth() -> Synth {
    Synth::new(env!("CARGO_BIN_EXE_tidegate-synth-child"), &[])
}

fn run(files: &[(&str, &str)]) -> Result<Synthesized, SynthError> {
    let files = files.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned()));
    synth().files(files.collect::<BTreeMap<_, _>>())
}

/// What is wrong with a folder.
fn problems(files: &[(&str, &str)]) -> Vec<Problem> {
    match run(files) {
        Err(SynthError::Problems { problems, .. }) => problems,
        other => panic!("no problems: {other:?}"),
    }
}

/// The same, as people read it.
fn told(files: &[(&str, &str)]) -> String {
    problems(files).iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

fn json(document: &Document) -> serde_json::Value {
    serde_json::from_str(&document.json).unwrap()
}

/// A team's parent class.
const TEAM: &str = r#"import { ApplicationPipeline, type Build, beta, files, gamma, production, step } from "tidegate";

export abstract class ShopPipeline extends ApplicationPipeline {
  get repository(): string {
    return `https://git.acme.test/${this.service}.git`;
  }
  get command() {
    return [`./${this.service}`];
  }
  build(): Build {
    return { steps: [step("build", "cargo", "build")], package: [files(`target/${this.service}`, this.service)] };
  }
  stages() {
    return [beta({ regions: ["north"], boxesPerAz: 1 }), gamma({ regions: ["north"] }), production()];
  }
}
"#;

/// A pipeline of the team with these members.
fn web(members: &str) -> String {
    format!(
        "import {{ ShopPipeline }} from \"./team\";\n\nclass Web extends ShopPipeline {{\n  service = \"web\";\n{members}\n}}\n\nexport default new Web();\n"
    )
}

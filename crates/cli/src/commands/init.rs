//! `tidegate init`.

mod propose;

use crate::Global;
use crate::error::CliError;
use crate::text::print;
use clap::Args;
use propose::{Proposal, propose};
use serde_json::json;
use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use tidegate_api::VERSION;
use tidegate_synth::{DECLARATIONS, TSCONFIG};

/// Write a first folder 'pipelines' into a repository: a team's class, one pipeline, the organisation, and the types.
///
/// Looks at Cargo.toml, package.json, pyproject.toml, go.mod and pom.xml and proposes how to build and test. What is there
/// already is left as it is.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The repository.
    #[arg(default_value = ".")]
    folder: PathBuf,
}

pub(crate) async fn run(global: &Global, options: Options) -> Result<(), CliError> {
    let repository = options.folder;
    let proposal = propose(&repository)?;
    let url = git(&repository, &["remote", "get-url", "origin"]);
    let person = Person::of(&repository);
    let folder = repository.join("pipelines");
    fs::create_dir_all(&folder).map_err(|e| CliError::failed(format!("make {}", folder.display()), e))?;
    let files = [
        ("tidegate.d.ts".to_owned(), DECLARATIONS.to_owned()),
        ("tsconfig.json".to_owned(), TSCONFIG.to_owned()),
        ("team.ts".to_owned(), team(&proposal)),
        (format!("{}.ts", proposal.service), pipeline(&proposal, url.as_deref())),
        ("organisation.ts".to_owned(), organisation(&proposal, &person)),
    ];
    let (mut written, mut kept) = (Vec::new(), Vec::new());
    for (name, text) in files {
        let path = folder.join(&name);
        if write_new(&path, &text)? { written.push(path) } else { kept.push(path) }
    }
    if global.json {
        let files = |paths: &[PathBuf]| paths.iter().map(|p| p.display().to_string()).collect::<Vec<_>>();
        return print(&format!(
            "{}\n",
            json!({"version": VERSION, "written": files(&written), "kept": files(&kept)})
        ));
    }
    let mut out = String::new();
    for (what, paths) in [("wrote", &written), ("kept", &kept)] {
        paths.iter().for_each(|path| out.push_str(&format!("{what:<6}{}\n", path.display())));
    }
    print(&out)?;
    match proposal.seen {
        Some(file) => {
            eprintln!("\nBuild and tests are proposed from {file}: see {}/team.ts.", folder.display())
        }
        None => eprintln!(
            "\nNone of Cargo.toml, package.json, pyproject.toml, go.mod and pom.xml is here: say in {}/team.ts how it is built.",
            folder.display()
        ),
    }
    if url.is_none() {
        eprintln!("The repository has no remote 'origin': write its URL into {}.ts.", proposal.service);
    }
    eprintln!(
        "Next: look at the files, then 'tidegate check {}', and 'tidegate apply {0}'.",
        folder.display()
    );
    Ok(())
}

/// Whether the file was written; one that is there already is not.
fn write_new(path: &Path, text: &str) -> Result<bool, CliError> {
    let failed = |e| CliError::failed(format!("write {}", path.display()), e);
    match OpenOptions::new().write(true).create_new(true).open(path) {
        Ok(mut file) => file.write_all(text.as_bytes()).map(|()| true).map_err(failed),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(failed(error)),
    }
}

fn git(repository: &Path, arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").arg("-C").arg(repository).args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let text = text.trim();
    (output.status.success() && !text.is_empty()).then(|| text.to_owned())
}

/// Who writes these files: the first user.
struct Person {
    name: String,
    email: String,
}

impl Person {
    fn of(repository: &Path) -> Person {
        let email =
            git(repository, &["config", "user.email"]).unwrap_or_else(|| "you@example.com".to_owned());
        let name = propose::word(email.split('@').next().unwrap_or_default());
        Person { name: name.unwrap_or_else(|| "you".to_owned()), email }
    }
}

/// A text as TypeScript writes it: as JSON does.
fn text(value: &str) -> String {
    serde_json::Value::from(value).to_string()
}

fn texts(values: &[String]) -> String {
    values.iter().map(|value| text(value)).collect::<Vec<_>>().join(", ")
}

fn team(proposal: &Proposal) -> String {
    let step =
        |(name, run): &(String, Vec<String>)| format!("        step({}, {}),\n", text(name), texts(run));
    let steps = |list: &[(String, Vec<String>)]| list.iter().map(step).collect::<String>();
    let mut build = String::new();
    if !proposal.fetch.is_empty() {
        let fetch = steps(&proposal.fetch);
        let files = texts(&proposal.lock_files);
        build.push_str(&format!("      // With network, and only when one of these files has changed.\n      lockFiles: [{files}],\n      fetch: [\n{fetch}      ],\n"));
    }
    build.push_str(&format!(
        "      // Without network.\n      steps: [\n{}      ],\n",
        steps(&proposal.steps)
    ));
    let paths = proposal.package.iter().map(|(from, to)| format!("files({}, {})", text(from), text(to)));
    build.push_str(&format!("      package: [{}],\n", paths.collect::<Vec<_>>().join(", ")));
    if !proposal.environment.is_empty() {
        let of = proposal.environment.iter().map(|(name, value)| format!("{name}: {}", text(value)));
        build.push_str(&format!("      environment: {{ {} }},\n", of.collect::<Vec<_>>().join(", ")));
    }
    format!(
        "import {{ ApplicationPipeline, type Build, type Stage, beta, files, gamma, production, step }} from \"tidegate\";\n\n\
         /** What all of the team's pipelines share. */\n\
         export abstract class TeamPipeline extends ApplicationPipeline {{\n  \
           build(): Build {{\n    return {{\n{build}    }};\n  }}\n\n  \
           stages(): Stage[] {{\n    \
             return [beta({{ regions: [\"north\"], boxesPerAz: 1 }}), gamma({{ regions: [\"north\"] }}), production()];\n  }}\n}}\n"
    )
}

fn pipeline(proposal: &Proposal, url: Option<&str>) -> String {
    let class = propose::class(&proposal.service);
    let fallback = format!("https://git.example.com/{}.git", proposal.service);
    format!(
        "import {{ TeamPipeline }} from \"./team\";\n\n\
         class {class} extends TeamPipeline {{\n  service = {};\n  repository = {};\n  \
           // It listens on the address in TIDEGATE_ADDRESS, and answers GET /health.\n  command = [{}];\n}}\n\n\
         export default new {class}();\n",
        text(&proposal.service),
        text(url.unwrap_or(&fallback)),
        texts(&proposal.command),
    )
}

fn organisation(proposal: &Proposal, person: &Person) -> String {
    let (name, email, service) = (text(&person.name), text(&person.email), text(&proposal.service));
    format!(
        "import {{ Organisation }} from \"tidegate\";\n\n\
         export default new Organisation({{\n  name: {service},\n  \
           // A change is approved by somebody who did not write it: add your colleagues.\n  \
           users: [{{ name: {name}, emails: [{email}] }}],\n  \
           teams: [{{ name: \"team\", members: [{name}] }}],\n  \
           services: [{{ name: {service}, team: \"team\", canaries: [{{ name: \"home\", path: \"/\" }}] }}],\n  \
           // The least traffic goes first; a Region that is added here comes into every pipeline's last wave.\n  \
           regions: [\n    {{ name: \"north\", azs: [\"a\", \"b\"], traffic: 10 }},\n    \
             {{ name: \"south\", azs: [\"a\", \"b\"], traffic: 40 }},\n  ],\n}});\n"
    )
}

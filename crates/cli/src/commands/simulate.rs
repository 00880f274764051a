//! `tidegate simulate`.

use crate::Global;
use crate::error::CliError;
use crate::folder::Folder;
use crate::text::print;
use clap::Args;
use std::path::{Path, PathBuf};
use tidegate_api::document::{FINDINGS_MAX, placed, plain, read};
use tidegate_api::{Code, ErrorBody, Finding};
use tidegate_core::definition::{OrganisationDef, PipelineDef};
use tidegate_core::explore;
use tidegate_core::lint;
use tidegate_core::units::{Span, Timestamp};
use tidegate_sim::forecast::{self, COMMITS_MAX, Commits, Fault, Forecast, Input, Moment, Scenario};
use tidegate_synth::Subject;
use tidegate_workers::git::Mirror;

/// Simulate a pipeline before it exists: when is a change everywhere, and what would have happened if ...?
///
/// The files are the organisation's definition, the pipeline's, and perhaps a scenario; they are told apart by their schemas. A
/// folder of TypeScript stands for the definitions that it makes; of several pipelines '--pipeline' chooses one. The
/// real rules decide; virtual are time, builds, boxes, customers and alarms' metrics. No server is needed.
///
/// A fault is its kind and then key=value, between commas: regression,release=3,faults=20 (or latency=2s, or crash), with
/// after=2h, region=NAME, api=NAME, above=N requests/s; outage,region=NAME,from=1d,until=1d2h; blind,region=NAME,from=..,until=..;
/// large-scale-event,from=..,until=..; slow-engine,delay=5m,from=..,until=..; sick-box,release=3,region=NAME. Release 1 runs
/// when the simulation begins.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The files and folders.
    #[arg(required_unless_present = "schema")]
    files: Vec<PathBuf>,
    /// Which of a folder's pipelines.
    #[arg(long, value_name = "NAME")]
    pipeline: Option<String>,
    /// When it begins, such as 2026-01-05T09:00:00Z.
    #[arg(long, value_name = "TIME")]
    start: Option<Moment>,
    /// How long commits arrive, such as 14d.
    #[arg(long, value_name = "SPAN")]
    length: Option<Span>,
    /// So many commits on each day from Monday to Friday.
    #[arg(long, value_name = "N", conflicts_with = "git")]
    commits: Option<u32>,
    /// Commits arrive as they did on the mainline of this git repository.
    #[arg(long, value_name = "DIR")]
    git: Option<String>,
    /// Requests per second of all customers.
    #[arg(long, value_name = "N")]
    requests_per_second: Option<u64>,
    /// Something that goes wrong; may be given several times.
    #[arg(long = "fault", value_name = "FAULT", value_parser = forecast::fault)]
    faults: Vec<Fault>,
    /// Also simulate with this other pipeline's or organisation's definition, and compare.
    #[arg(long, value_name = "OTHER_FILE")]
    compare: Option<PathBuf>,
    /// Also draw the waves over time into this file.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Print the JSON Schema of scenarios, and nothing else.
    #[arg(long)]
    schema: bool,
}

pub(crate) async fn run(global: &Global, options: Options) -> Result<(), CliError> {
    if options.schema {
        return print_json(&forecast::scenario_schema());
    }
    let documents = documents(&options)?;
    let organisation = one(&documents, Kind::Organisation)?.ok_or_else(|| {
        CliError::Usage("give the organisation's definition as well: it has the Regions".to_owned())
    })?;
    let pipeline = one(&documents, Kind::Pipeline)?
        .ok_or_else(|| CliError::Usage("which pipeline? give its definition".to_owned()))?;
    let scenario = one(&documents, Kind::Scenario)?;
    let mut input = definitions(organisation, pipeline)?;
    if let Some(document) = scenario {
        input.scenario = document.parse()?;
    }
    flags(&mut input, &options).await?;
    check(&input, scenario)?;
    let result = simulate(&input)?;
    if let Some(file) = &options.svg {
        std::fs::write(file, forecast::svg(&result))
            .map_err(|e| CliError::failed(format!("write {}", file.display()), e))?;
    }
    let Some(file) = &options.compare else {
        if global.json {
            print_json(&result)?
        } else {
            print(&forecast::text(&result))?
        }
        return ended(&result);
    };
    let other = Document::read(file)?;
    let (mut another, replaced) = match other.kind {
        Kind::Organisation => (definitions(&other, pipeline)?, organisation),
        Kind::Pipeline => (definitions(organisation, &other)?, pipeline),
        Kind::Scenario => {
            return Err(CliError::Usage(
                "compare with another definition; the scenario is the same for both".to_owned(),
            ));
        }
    };
    // Down to what flags and a repository's history have made of it.
    another.scenario = input.scenario;
    check(&another, scenario)?;
    let comparison = forecast::compare(result, simulate(&another)?);
    if global.json {
        print_json(&comparison)?;
    } else {
        print(&comparison.text(&replaced.short(), &other.short()))?;
    }
    ended(&comparison.this).and(ended(&comparison.other))
}

fn documents(options: &Options) -> Result<Vec<Document>, CliError> {
    let mut documents = Vec::new();
    for path in &options.files {
        if path.is_dir() {
            documents.extend(of_folder(&Folder::read(path)?, options.pipeline.as_deref())?);
        } else {
            documents.push(Document::read(path)?);
        }
    }
    Ok(documents)
}

/// A folder's definitions, judged by the rules as far as the folder has an organisation, with the one pipeline that is meant.
fn of_folder(folder: &Folder, name: Option<&str>) -> Result<Vec<Document>, CliError> {
    folder.refuse(folder.lint(None, |_| None)?, false)?;
    let is_meant = |document: &&tidegate_synth::Document| match (&document.subject, name) {
        (Subject::Pipeline(_), Some(name)) => document.name() == name,
        _ => true,
    };
    let of = folder.made.documents.iter().filter(is_meant).map(|document| Document {
        path: folder.path.join(&document.file),
        text: document.json.clone(),
        kind: match document.subject {
            Subject::Organisation(_) => Kind::Organisation,
            Subject::Pipeline(_) => Kind::Pipeline,
        },
    });
    let documents: Vec<Document> = of.collect();
    if documents.iter().filter(|document| document.kind == Kind::Pipeline).count() > 1 {
        let pipelines = folder.made.documents.iter().filter(|d| matches!(d.subject, Subject::Pipeline(_)));
        let names: Vec<&str> = pipelines.map(tidegate_synth::Document::name).collect();
        let message = format!("which pipeline? '--pipeline' takes one of: {}", names.join(", "));
        return Err(CliError::Usage(message));
    }
    Ok(documents)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Organisation,
    Pipeline,
    Scenario,
}

/// A file that was given.
#[derive(Debug)]
struct Document {
    path: PathBuf,
    text: String,
    kind: Kind,
}

impl Document {
    fn read(path: &Path) -> Result<Document, CliError> {
        let text = std::fs::read_to_string(path)
            .map_err(|e| CliError::failed(format!("read {}", path.display()), e))?;
        // By its schema's name, also if the document is broken elsewhere: then it is told where.
        let kind = if text.contains("\"tidegate.organisation/") {
            Kind::Organisation
        } else if text.contains("\"tidegate.scenario/") {
            Kind::Scenario
        } else {
            Kind::Pipeline
        };
        Ok(Document { path: path.to_owned(), text, kind })
    }

    fn parse<T: serde::de::DeserializeOwned>(&self) -> Result<T, CliError> {
        read(&self.text).map_err(|findings| refused(&self.name(), findings))
    }

    fn refuse(&self, findings: Vec<lint::Finding>) -> Result<(), CliError> {
        if findings.is_empty() {
            Ok(())
        } else {
            Err(refused(&self.name(), findings.into_iter().map(|f| placed(f, &self.text)).collect()))
        }
    }

    fn name(&self) -> String {
        self.path.display().to_string()
    }

    fn short(&self) -> String {
        self.path.file_name().map_or_else(|| self.name(), |name| name.to_string_lossy().into_owned())
    }
}

/// The one document of a kind, if there is one.
fn one(documents: &[Document], kind: Kind) -> Result<Option<&Document>, CliError> {
    let mut of_kind = documents.iter().filter(|d| d.kind == kind);
    match (of_kind.next(), of_kind.next()) {
        (Some(first), Some(second)) => Err(CliError::Usage(format!(
            "{} and {} are of the same kind: one of each is simulated; '--compare' takes another definition",
            first.name(),
            second.name()
        ))),
        (first, _) => Ok(first),
    }
}

/// Both definitions, checked as if they were applied, and the scenario that nobody has written.
fn definitions(organisation: &Document, pipeline: &Document) -> Result<Input, CliError> {
    let of_organisation: OrganisationDef = organisation.parse()?;
    organisation.refuse(lint::organisation(&of_organisation))?;
    let of_pipeline: PipelineDef = pipeline.parse()?;
    pipeline.refuse(explore::pipeline(&of_pipeline, &of_organisation))?;
    Ok(Input { organisation: of_organisation, pipeline: of_pipeline, scenario: Scenario::default() })
}

/// What flags say goes before what the scenario says; faults are added.
async fn flags(input: &mut Input, options: &Options) -> Result<(), CliError> {
    let scenario = &mut input.scenario;
    scenario.start = options.start.or(scenario.start);
    scenario.length = options.length.unwrap_or(scenario.length);
    scenario.traffic.requests_per_second =
        options.requests_per_second.unwrap_or(scenario.traffic.requests_per_second);
    scenario.faults.extend(options.faults.iter().cloned());
    if let Some(count) = options.commits {
        scenario.commits = Commits::PerBusinessDay(count);
    }
    if let Some(dir) = &options.git {
        scenario.commits = Commits::Git(dir.clone());
    }
    let Commits::Git(dir) = &scenario.commits else { return Ok(()) };
    let branch = input.pipeline.sources.first().map_or("main", |source| source.branch.as_str());
    let mut times = history(dir, branch).await?;
    if let Some(newest) = times.iter().max().filter(|_| scenario.start.is_none()) {
        scenario.start = Some(Moment(*newest + Span(1) - scenario.length));
    }
    times.truncate(COMMITS_MAX);
    scenario.commits = Commits::At(times.into_iter().map(Moment).collect());
    Ok(())
}

/// The commit times of a repository's mainline.
async fn history(dir: &str, branch: &str) -> Result<Vec<Timestamp>, CliError> {
    let failed = |error| CliError::failed(format!("read the history of {dir}"), error);
    let place = tempfile::tempdir().map_err(|e| CliError::failed("make a folder for a mirror", e))?;
    let url = std::path::absolute(dir).map_err(|e| CliError::failed(format!("find {dir}"), e))?;
    let mirror = Mirror::open(place.path(), &url.to_string_lossy(), None).await.map_err(failed)?;
    mirror.fetch().await.map_err(failed)?;
    mirror.commit_times(branch, COMMITS_MAX).await.map_err(failed)
}

fn check(input: &Input, scenario: Option<&Document>) -> Result<(), CliError> {
    let findings = forecast::check(&input.scenario, &input.organisation, &input.pipeline);
    match scenario {
        // Flags have no lines, and their places may not be in the file.
        Some(document) => document.refuse(findings),
        None if findings.is_empty() => Ok(()),
        None => Err(refused("the flags", findings.into_iter().map(plain).collect())),
    }
}

fn refused(file: &str, mut findings: Vec<Finding>) -> CliError {
    findings.truncate(FINDINGS_MAX);
    let message = match findings.len() {
        1 => "it cannot be simulated: 1 finding".to_owned(),
        n => format!("it cannot be simulated: {n} findings"),
    };
    let hint = "mend what the findings say; 'tidegate simulate --schema' describes scenarios".to_owned();
    let error = Box::new(ErrorBody { code: Code::Definition, message, hint, findings });
    CliError::Refused { files: vec![file.to_owned()], error }
}

fn simulate(input: &Input) -> Result<Forecast, CliError> {
    forecast::simulate(input).map_err(|error| CliError::failed("simulate", error))
}

/// A simulation that does not end was told, and is no success.
fn ended(result: &Forecast) -> Result<(), CliError> {
    match &result.stuck {
        None => Ok(()),
        Some(stuck) => Err(CliError::Failed {
            what: format!("simulate {} to the end", result.pipeline),
            why: format!("not everything arrives: {}", stuck.why),
        }),
    }
}

fn print_json(value: &impl serde::Serialize) -> Result<(), CliError> {
    let json = serde_json::to_string(value).map_err(|e| CliError::failed("write JSON", e))?;
    print(&format!("{json}\n"))
}

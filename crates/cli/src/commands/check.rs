//! `tidegate check`.

use crate::Global;
use crate::error::CliError;
use crate::folder::Folder;
use crate::text::{Paint, clean, print, wrap};
use clap::Args;
use serde_json::json;
use std::path::PathBuf;
use tidegate_api::document::{FINDINGS_MAX, placed, read};
use tidegate_api::{Code, ErrorBody, Finding, VERSION};
use tidegate_core::definition::{EngineDef, Mode, OrganisationDef, PipelineDef, Profile, RollbackScope};
use tidegate_core::explore;
use tidegate_core::ids::Role;
use tidegate_core::lint;
use tidegate_core::plan::{Plan, Stage, plan};
use tidegate_core::run_spec::DefinitionsScope;
use tidegate_core::units::Span;
use tidegate_core::window::Windows;
use tidegate_synth::Subject;

/// Say in words what pipelines mean, and check them against the rules. No server is needed.
///
/// Takes folders of TypeScript and JSON files, together: Regions and names come from the organisation among them. Exits with 1
/// if a rule speaks against something.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Folders and files.
    #[arg(default_value = ".")]
    sources: Vec<PathBuf>,
}

/// A pipeline and where it is written.
pub(super) struct Written {
    pub(super) pipeline: PipelineDef,
    place: String,
}

/// What folders and files define.
#[derive(Default)]
pub(super) struct Collected {
    folders: Vec<Folder>,
    organisations: Vec<OrganisationDef>,
    /// Of files: name, text.
    pipelines: Vec<(String, String, PipelineDef)>,
    files: Vec<(String, String, OrganisationDef)>,
}

impl Collected {
    /// The organisation, if there is one; two are too many.
    pub(super) fn organisation(&self) -> Result<Option<&OrganisationDef>, CliError> {
        match &self.organisations[..] {
            [] => Ok(None),
            [one] => Ok(Some(one)),
            _ => Err(CliError::Usage("there are two organisations: give one".to_owned())),
        }
    }
}

pub(crate) fn run(global: &Global, options: Options) -> Result<(), CliError> {
    let collected = collect(&options.sources)?;
    let organisation = collected.organisation()?;
    refuse(&collected, organisation, |_| None)?;
    let written = written(&collected);
    if organisation.is_none() {
        eprintln!("note: there is no organisation among these, so names and Regions are not checked");
    }
    if global.json {
        let pipelines: Vec<_> = written.iter().map(|w| as_json(w, organisation)).collect();
        return print(&format!("{}\n", json!({"version": VERSION, "pipelines": pipelines})));
    }
    let paint = Paint::stdout();
    let told: Vec<String> = written.iter().map(|w| words(w, organisation, paint)).collect();
    print(&told.join("\n"))
}

pub(super) fn collect(sources: &[PathBuf]) -> Result<Collected, CliError> {
    let mut collected = Collected::default();
    for path in sources {
        if path.is_dir() {
            let folder = Folder::read(path)?;
            collected.organisations.extend(folder.organisation().cloned());
            collected.folders.push(folder);
            continue;
        }
        let name = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|e| CliError::failed(format!("read {name}"), e))?;
        if text.contains("\"tidegate.organisation/") {
            let organisation: OrganisationDef = read(&text).map_err(|findings| refused(&name, findings))?;
            collected.organisations.push(organisation.clone());
            collected.files.push((name, text, organisation));
        } else {
            let pipeline = read(&text).map_err(|findings| refused(&name, findings))?;
            collected.pipelines.push((name, text, pipeline));
        }
    }
    Ok(collected)
}

/// Fails with what the rules, and `also` whoever asks, say against what was collected.
pub(super) fn refuse(
    collected: &Collected,
    organisation: Option<&OrganisationDef>,
    also: impl Fn(&PipelineDef) -> Option<lint::Finding>,
) -> Result<(), CliError> {
    for folder in &collected.folders {
        folder.refuse(folder.lint(organisation, &also)?, false)?;
    }
    for (name, text, organisation) in &collected.files {
        let findings =
            lint::organisation(organisation).into_iter().map(|f| placed(f, text)).collect::<Vec<_>>();
        if !findings.is_empty() {
            return Err(refused(name, findings));
        }
    }
    for (name, text, pipeline) in &collected.pipelines {
        let findings = organisation.map_or_else(Vec::new, |o| explore::pipeline(pipeline, o));
        let findings: Vec<_> = findings.into_iter().chain(also(pipeline)).map(|f| placed(f, text)).collect();
        if !findings.is_empty() {
            return Err(refused(name, findings));
        }
    }
    Ok(())
}

fn refused(file: &str, mut findings: Vec<Finding>) -> CliError {
    findings.truncate(FINDINGS_MAX);
    let message = format!("{} finding{}", findings.len(), if findings.len() == 1 { "" } else { "s" });
    let hint = "mend what the findings say".to_owned();
    let error = Box::new(ErrorBody { code: Code::Definition, message, hint, findings });
    CliError::Unsound { file: file.to_owned(), error }
}

pub(super) fn written(collected: &Collected) -> Vec<Written> {
    let mut all = Vec::new();
    for folder in &collected.folders {
        for document in &folder.made.documents {
            if let Subject::Pipeline(pipeline) = &document.subject {
                let class = document.classes.first().map_or("?", String::as_str);
                let place = format!("{}, class {class}", folder.path.join(&document.file).display());
                all.push(Written { pipeline: (**pipeline).clone(), place });
            }
        }
    }
    let of_files = collected.pipelines.iter();
    all.extend(of_files.map(|(name, _, p)| Written { pipeline: p.clone(), place: name.clone() }));
    all
}

/// The least time from a commit's release to its last target: everything that must bake, one after the other.
fn at_least(plan: &Plan) -> Span {
    plan.steps().fold(Span::ZERO, |sum, (_, step)| sum.plus(step.bake))
}

fn words(written: &Written, organisation: Option<&OrganisationDef>, paint: Paint) -> String {
    let pipeline = &written.pipeline;
    let mut out = format!("{} ({})\n", paint.bold(pipeline.name.as_str()), clean(&written.place));
    let mut line = |label: &str, text: &str| {
        let text = wrap(text, 14);
        out.push_str(&format!("  {label:<12}{text}\n"));
    };
    let team = organisation.and_then(|o| o.team(&o.service(&pipeline.service)?.team));
    let of_team = team.map(|team| format!(", of team {}", team.name)).unwrap_or_default();
    line("service", &format!("{}{of_team}", pipeline.service));
    for source in &pipeline.sources {
        line("source", &format!("{}: {} ({})", source.name, source.url, source.branch));
    }
    line("build", &build(pipeline));
    line("runs", &runs(pipeline));
    let settings = organisation.map_or_else(|| pipeline.settings_alone(), |o| pipeline.settings(o));
    if settings.profile == Profile::Critical {
        line("profile", "critical: what it does not say itself is more careful");
    }
    match organisation {
        Some(organisation) => {
            let plan = plan(pipeline, organisation);
            for stage in &plan.stages {
                line(stage.id.as_str(), &stage_words(stage));
            }
            let windows = match team.map(|team| &team.windows) {
                Some(Windows::Weekly(weekly)) => {
                    let open = weekly.open.iter().map(|o| format!("{} {}", days(&o.days), o.hours));
                    let open: Vec<String> = open.collect();
                    format!("production starts {} ({})", open.join(", "), weekly.time_zone)
                }
                _ => "production starts at any time".to_owned(),
            };
            line("windows", &windows);
            let least = at_least(&plan);
            line("a change", &format!("takes at least {least} to be everywhere, for its bakes alone"));
        }
        None => {
            for stage in &pipeline.stages {
                let regions: Vec<&str> = stage.regions.iter().map(|r| r.as_str()).collect();
                let regions = if regions.is_empty() { "all Regions".to_owned() } else { regions.join(", ") };
                line(stage.environment.as_str(), &regions);
            }
        }
    }
    line(
        "if it harms",
        match settings.rollback {
            RollbackScope::UnfinishedWaves => "it is taken back from all waves that still bake",
            RollbackScope::Production => "it is taken back from all of production",
        },
    );
    if pipeline.mode == Mode::ObserveOnly {
        line("for now", "it only observes: it says what it would do, and moves nothing");
    }
    out
}

fn build(pipeline: &PipelineDef) -> String {
    let build = &pipeline.build;
    let commands = |steps: &[tidegate_core::definition::BuildStep]| {
        steps.iter().map(|step| step.run.join(" ")).collect::<Vec<_>>().join("; ")
    };
    let package: Vec<&str> = build.package.iter().map(|path| path.to.as_str()).collect();
    let parts = [
        (!build.fetch.is_empty()).then(|| format!("with network: {}", commands(&build.fetch))),
        (!build.steps.is_empty()).then(|| format!("without: {}", commands(&build.steps))),
        Some(format!("package: {}", package.join(", "))),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join("; ")
}

fn runs(pipeline: &PipelineDef) -> String {
    match &pipeline.run.engine {
        EngineDef::Process(process) => {
            format!("{}, healthy when GET {} answers", process.command.join(" "), process.health.path)
        }
        EngineDef::Command(command) => {
            format!("{} deploys, {} tells what is so", command.deploy.join(" "), command.observe.join(" "))
        }
        EngineDef::Configuration(configuration) => {
            format!("files for the service's boxes, told by POST {}", configuration.reload)
        }
        EngineDef::Definitions(definitions) => {
            let what = match definitions.scope {
                DefinitionsScope::Team => "the team's pipelines",
                DefinitionsScope::Organisation => "everybody's pipelines and the organisation",
            };
            format!("the folder {} of the package is applied here and may define {what}", definitions.folder)
        }
    }
}

/// `north, south: one-box, bakes 1h; 2 AZs of 3 boxes, bake 15m; then 12h`.
fn stage_words(stage: &Stage) -> String {
    let regions: Vec<&str> = stage.regions().into_iter().map(|region| region.as_str()).collect();
    let mut parts = Vec::new();
    let main: Vec<_> = stage.steps.iter().filter(|step| step.role == Role::Main).collect();
    if let Some(step) = stage.steps.iter().find(|step| step.role == Role::OneBox) {
        parts.push(format!("one-box, bakes {}", step.bake));
    }
    if let Some((last, before)) = main.split_last() {
        let boxes = last.targets.first().map_or(0, |target| target.boxes);
        let plural = |n: usize, one: &str| if n == 1 { format!("1 {one}") } else { format!("{n} {one}s") };
        let of_boxes = if boxes == 1 { "1 box".to_owned() } else { format!("{boxes} boxes") };
        let each = before.first().map(|step| format!(", {} between", step.bake)).unwrap_or_default();
        parts.push(format!("{} of {of_boxes}{each}", plural(main.len(), "AZ")));
        parts.push(format!("then {}", last.bake));
    }
    if !stage.tests.is_empty() {
        let names: Vec<&str> = stage.tests.iter().map(|test| test.name.as_str()).collect();
        parts.push(format!("tests: {}", names.join(", ")));
    }
    format!("{}: {}", regions.join(", "), parts.join("; "))
}

fn days(days: &std::collections::BTreeSet<tidegate_core::window::Weekday>) -> String {
    let name = |day| serde_json::to_value(day).ok().and_then(|v| v.as_str().map(|text| text[..3].to_owned()));
    days.iter().filter_map(name).collect::<Vec<_>>().join("/")
}

fn as_json(written: &Written, organisation: Option<&OrganisationDef>) -> serde_json::Value {
    let pipeline = &written.pipeline;
    let plan = organisation.map(|organisation| plan(pipeline, organisation));
    let steps = |stage: &Stage| -> Vec<serde_json::Value> {
        let of = stage.steps.iter().map(|step| {
            let targets: Vec<String> = step.targets.iter().map(|t| t.id.to_string()).collect();
            json!({"step": step.id, "targets": targets, "bake": step.bake})
        });
        of.collect()
    };
    let stages = plan.as_ref().map(|plan| {
        let of = plan
            .stages
            .iter()
            .map(|s| json!({"stage": s.id, "environment": s.environment, "steps": steps(s)}));
        of.collect::<Vec<_>>()
    });
    json!({
        "name": pipeline.name, "place": written.place, "stages": stages,
        "at_least": plan.as_ref().map(at_least), "definition": pipeline,
    })
}

//! `tidegate diff`.

mod compare;

use super::check::{collect, refuse, written};
use crate::Global;
use crate::client::Client;
use crate::error::CliError;
use crate::text::{clean, print};
use clap::Args;
use compare::{Change, StepChange};
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use tidegate_api::{Code, OrganisationDefinition, PipelineDefinition, PipelineStatus, Status, VERSION};
use tidegate_core::definition::{OrganisationDef, PipelineDef};
use tidegate_core::lint;
use tidegate_core::plan::{Plan, plan};

/// Characters of a value that are shown to people.
const VALUE_CHARS_MAX: usize = 80;

/// Show what applying definitions would change on the server, and what that means for releases in flight.
///
/// Takes folders of TypeScript and JSON files, as apply does, and changes nothing. Applying redeploys nothing: of each
/// property that differs it is said when it counts, and of each step that goes what is under way there. An organisation with
/// other Regions is compared for every pipeline of the server. Exits with 0, also if there are differences.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Folders and files.
    #[arg(default_value = ".")]
    sources: Vec<PathBuf>,
    /// Exit with 1 if there are differences.
    #[arg(long)]
    exit_code: bool,
}

/// How something on the server compares with what is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum State {
    New,
    Changed,
    Unchanged,
    /// Retired on the server; applying revives it.
    Revived,
    /// On the server and not given.
    NotGiven,
}

#[derive(Debug, Serialize)]
struct Compared {
    name: String,
    state: State,
    changes: Vec<Change>,
    steps: Vec<StepChange>,
    in_flight: Vec<String>,
}

impl Compared {
    fn is_same(&self) -> bool {
        self.changes.is_empty() && self.steps.is_empty()
    }
}

#[derive(Debug, Serialize)]
struct Diff {
    version: u32,
    different: bool,
    /// None if none is given.
    organisation: Option<Compared>,
    pipelines: Vec<Compared>,
}

/// What the server has.
struct Server {
    organisation: Option<OrganisationDef>,
    pipelines: BTreeMap<String, (PipelineStatus, PipelineDefinition)>,
}

pub(crate) async fn run(global: &Global, options: Options) -> Result<ExitCode, CliError> {
    let collected = collect(&options.sources)?;
    let given = collected.organisation()?;
    let server = read(&Client::new(global)?).await?;
    let Some(after) = given.or(server.organisation.as_ref()) else {
        return Err(CliError::Usage(
            "neither these nor the server have an organisation: give one".to_owned(),
        ));
    };
    refuse(&collected, Some(after), |new| {
        let (_, known) = server.pipelines.get(new.name.as_str())?;
        lint::successor(&known.definition, new)
    })?;
    let pipelines = written(&collected).into_iter().map(|w| (w.pipeline.name.to_string(), w.pipeline));
    let diff = diff(&server, given, after, &pipelines.collect())?;
    let text = if global.json {
        let json =
            serde_json::to_string(&diff).map_err(|error| CliError::failed("write the answer", error))?;
        format!("{json}\n")
    } else {
        words(&diff)
    };
    print(&text)?;
    Ok(ExitCode::from(u8::from(diff.different && options.exit_code)))
}

async fn read(client: &Client) -> Result<Server, CliError> {
    let organisation = match client.get::<OrganisationDefinition>("/v1/organisation").await {
        Ok(answer) => Some(answer.value.definition),
        Err(CliError::Answered(error)) if error.code == Code::NotFound => None,
        Err(error) => return Err(error),
    };
    let (mut pipelines, mut path) = (BTreeMap::new(), "/v1/status".to_owned());
    // Each page begins after the last name of the one before, so this ends.
    loop {
        let page = client.get::<Status>(&path).await?.value;
        for status in page.pipelines {
            let definition = client.get(&format!("/v1/pipelines/{}", status.name)).await?.value;
            pipelines.insert(status.name.to_string(), (status, definition));
        }
        match page.next {
            Some(next) => path = format!("/v1/status?after={next}"),
            None => return Ok(Server { organisation, pipelines }),
        }
    }
}

fn json(value: &impl Serialize) -> Result<Value, CliError> {
    serde_json::to_value(value).map_err(|error| CliError::failed("compare definitions", error))
}

fn diff(
    server: &Server,
    given: Option<&OrganisationDef>,
    after: &OrganisationDef,
    pipelines: &BTreeMap<String, PipelineDef>,
) -> Result<Diff, CliError> {
    let organisation = given.map(|given| {
        let changes = match &server.organisation {
            None => Vec::new(),
            // When they count is said of pipelines' properties only.
            Some(before) => {
                let changes = compare::changes(&json(before)?, &json(given)?).into_iter();
                changes.map(|change| Change { counts: None, ..change }).collect()
            }
        };
        let state = match &server.organisation {
            None => State::New,
            Some(_) if changes.is_empty() => State::Unchanged,
            Some(_) => State::Changed,
        };
        let name = given.name.clone();
        Ok::<_, CliError>(Compared { name, state, changes, steps: Vec::new(), in_flight: Vec::new() })
    });
    let before = server.organisation.as_ref().unwrap_or(after);
    let mut compared = Vec::new();
    for (name, to) in pipelines {
        compared.push(of_pipeline(name, server.pipelines.get(name), Some(to), before, after)?);
    }
    for (name, there) in server.pipelines.iter().filter(|(name, _)| !pipelines.contains_key(*name)) {
        compared.push(of_pipeline(name, Some(there), None, before, after)?);
    }
    let organisation = organisation.transpose()?;
    let is_different =
        |c: &Compared| matches!(c.state, State::New | State::Changed | State::Revived) || !c.is_same();
    let different = organisation.iter().chain(&compared).any(is_different);
    Ok(Diff { version: VERSION, different, organisation, pipelines: compared })
}

fn of_pipeline(
    name: &str,
    there: Option<&(PipelineStatus, PipelineDefinition)>,
    given: Option<&PipelineDef>,
    before: &OrganisationDef,
    after: &OrganisationDef,
) -> Result<Compared, CliError> {
    let mut compared = Compared {
        name: name.to_owned(),
        state: State::New,
        changes: Vec::new(),
        steps: Vec::new(),
        in_flight: Vec::new(),
    };
    let from = there.map(|(_, there)| &there.definition);
    let layout = |of: Option<&PipelineDef>, in_it| of.map_or_else(Plan::default, |of| plan(of, in_it));
    // What is not given stays as it is, in an organisation that may have other Regions.
    let to = given.or(from);
    let planned = layout(to, after);
    let retired = there.is_some_and(|(_, there)| there.retired);
    if given.is_some() || !retired {
        compared.steps = compare::steps(&layout(from, before), &planned);
    }
    if let (Some(from), Some(to)) = (from, to.filter(|_| given.is_some() || !retired)) {
        // With the defaults in it, of which an organisation may have others.
        compared.changes = compare::changes(&json(&from.completed(before))?, &json(&to.completed(after))?);
    }
    compared.state = match (there, given) {
        (None, _) => State::New,
        (_, None) => State::NotGiven,
        _ if retired => State::Revived,
        _ if compared.is_same() => State::Unchanged,
        _ => State::Changed,
    };
    if let Some((status, _)) = there.filter(|_| !compared.steps.is_empty()) {
        compared.in_flight = compare::in_flight(status, &planned);
    }
    Ok(compared)
}

fn words(diff: &Diff) -> String {
    let mut out = String::new();
    let organisation = diff.organisation.iter().map(|o| ("organisation", o));
    for (kind, compared) in organisation.chain(diff.pipelines.iter().map(|p| ("pipeline", p))) {
        let state = match (compared.state, compared.is_same()) {
            (State::New, _) => "new",
            (State::Changed, _) => "changed",
            (State::Unchanged, _) => "unchanged",
            (State::Revived, _) => "retired on the server, would be revived",
            (State::NotGiven, true) => "on the server only, stays as it is",
            (State::NotGiven, false) => "on the server only, follows the organisation",
        };
        out.push_str(&format!("{kind} {}  {state}\n", clean(&compared.name)));
        for change in &compared.changes {
            let (from, to) = (shown(change.from.as_ref()), shown(change.to.as_ref()));
            out.push_str(&format!("  {}: {from} -> {to}\n", clean(&change.property)));
            change.counts.iter().for_each(|counts| out.push_str(&format!("    counts {counts}\n")));
        }
        for step in &compared.steps {
            out.push_str(&format!("  step {}  {}\n", step.step, step.state));
            step.targets_added.iter().for_each(|target| out.push_str(&format!("    + {target}\n")));
            step.targets_removed.iter().for_each(|target| out.push_str(&format!("    - {target}\n")));
        }
        for text in &compared.in_flight {
            out.push_str(&format!("  in flight: {text}\n"));
        }
    }
    let revived = diff.pipelines.iter().any(|p| p.state == State::Revived);
    out.push_str(match (diff.different, revived) {
        (true, true) => {
            "applying this redeploys nothing that runs, but takes back at once what was left half way when the pipeline was \
             retired\n"
        }
        (true, false) => "applying this redeploys nothing that runs\n",
        (false, _) => "nothing would change\n",
    });
    out
}

fn shown(value: Option<&Value>) -> String {
    let text = value.map_or_else(|| "nothing".to_owned(), |value| clean(&value.to_string()));
    if text.chars().count() <= VALUE_CHARS_MAX {
        return text;
    }
    text.chars().take(VALUE_CHARS_MAX).chain("...".chars()).collect()
}

//! Checks a scenario against the definitions that it is for, as `tidegate_core::lint` checks those; and reads faults as
//! they are written on a command line. Codes: TG200 to TG209.

use super::scenario::{COMMITS_MAX, Commits, FAULTS_MAX, Fault, Harm, LENGTH_MAX, SCENARIO_SCHEMA, Scenario};
use serde_json::{Map, Value};
use tidegate_core::definition::{EngineDef, OrganisationDef, PipelineDef};
use tidegate_core::ids::RegionId;
use tidegate_core::lint::Finding;
use tidegate_core::plan::plan;
use tidegate_core::units::Span;

/// Findings in a scenario; empty when it can be simulated with these definitions, which have passed their own checks.
#[must_use]
pub fn check(scenario: &Scenario, organisation: &OrganisationDef, pipeline: &PipelineDef) -> Vec<Finding> {
    let mut found = Found(Vec::new());
    if scenario.schema != SCENARIO_SCHEMA {
        let message = format!("'{}' is not a schema that this version reads", scenario.schema);
        found.add("TG200", "/schema", message, &format!("write \"{SCENARIO_SCHEMA}\""));
    }
    found.length(scenario);
    found.traffic(scenario);
    found.pipeline(organisation, pipeline);
    if scenario.faults.len() > FAULTS_MAX {
        let message = format!("{} faults are more than the {FAULTS_MAX} allowed", scenario.faults.len());
        found.add("TG201", "/faults", message, "simulate them one after the other");
    }
    let stages = plan(pipeline, organisation).stages;
    let production: Vec<&RegionId> =
        stages.iter().filter(|s| s.production).flat_map(|s| s.regions()).collect();
    let all: Vec<&RegionId> = stages.iter().flat_map(|s| s.regions()).collect();
    for (n, fault) in scenario.faults.iter().enumerate() {
        let at = format!("/faults/{n}");
        match fault {
            Fault::Regression(r) => {
                let at = format!("{at}/regression");
                found.release(&at, r.release);
                if let Some(region) = &r.region {
                    found.region(&at, region, &all);
                }
                if matches!(&r.harm, Harm::Faults(percent) if percent.get() == 0) {
                    let message = "0 % of the requests is no fault";
                    found.add("TG205", format!("{at}/harm/faults"), message, "write 1 to 100");
                }
                if let Some(api) =
                    r.api.as_ref().filter(|a| scenario.traffic.apis.iter().all(|b| b.name != **a))
                {
                    let known: Vec<&str> = scenario.traffic.apis.iter().map(|a| a.name.as_str()).collect();
                    let hint = format!("known here: {}; add it to the traffic's apis", known.join(", "));
                    found.add("TG206", format!("{at}/api"), format!("customers do not call '{api}'"), &hint);
                }
            }
            Fault::SickBox(s) => {
                found.release(&format!("{at}/sick-box"), s.release);
                found.region(&format!("{at}/sick-box"), &s.region, &production);
            }
            Fault::Outage(o) => {
                let at = format!("{at}/outage");
                found.region(&at, &o.region, &production);
                found.between(&at, o.from, o.until, scenario.length);
                if let Some(service) = o.service.as_ref().filter(|s| {
                    let own = organisation.service(&pipeline.service).map(|own| &own.team);
                    organisation.service(s).map(|s| &s.team) != own
                }) {
                    let message = format!("'{service}' is no service of the team that owns the pipeline");
                    let hint = "only alarms of the team's own services stop its deployments";
                    found.add("TG203", format!("{at}/service"), message, hint);
                }
            }
            Fault::Blind(b) => {
                found.region(&format!("{at}/blind"), &b.region, &production);
                found.between(&format!("{at}/blind"), b.from, b.until, scenario.length);
            }
            Fault::LargeScaleEvent(e) => {
                found.between(&format!("{at}/large-scale-event"), e.from, e.until, scenario.length);
            }
            Fault::SlowEngine(s) => {
                let at = format!("{at}/slow-engine");
                if let Some(region) = &s.region {
                    found.region(&at, region, &all);
                }
                found.between(&at, s.from, s.until, scenario.length);
            }
        }
    }
    found.0
}

struct Found(Vec<Finding>);

impl Found {
    fn add(&mut self, code: &str, place: impl Into<String>, message: impl Into<String>, hint: &str) {
        self.0.push(Finding::new(code, place, message, hint));
    }

    fn length(&mut self, scenario: &Scenario) {
        if scenario.length == Span::ZERO || scenario.length > LENGTH_MAX {
            let message = format!("{} is no time that can be simulated", scenario.length);
            self.add("TG201", "/length", message, &format!("write more than 0s and at most {LENGTH_MAX}"));
        }
        match &scenario.commits {
            Commits::PerBusinessDay(n) if *n == 0 || *n > 1_000 => {
                let message = format!("{n} commits a day");
                self.add("TG202", "/commits/per-business-day", message, "write 1 to 1000");
            }
            Commits::At(times) if times.is_empty() || times.len() > COMMITS_MAX => {
                let message = format!("{} commits", times.len());
                self.add("TG202", "/commits/at", message, &format!("write 1 to {COMMITS_MAX}"));
            }
            _ => {}
        }
    }

    fn traffic(&mut self, scenario: &Scenario) {
        let apis = &scenario.traffic.apis;
        let sum: u32 = apis.iter().map(|api| u32::from(api.share.get())).sum();
        if sum != 100 {
            let message = format!("the shares of the APIs make {sum} %");
            self.add("TG207", "/traffic/apis", message, "all shares together make 100");
        }
        for (n, api) in apis.iter().enumerate() {
            if apis.iter().take(n).any(|other| other.name == api.name) {
                let message = format!("'{}' stands here a second time", api.name);
                self.add("TG207", format!("/traffic/apis/{n}/name"), message, "each API is named once");
            }
        }
        const RATE_MAX: u64 = 1_000_000_000;
        for (field, rate) in [
            ("requests_per_second", scenario.traffic.requests_per_second),
            ("test_requests_per_second", scenario.traffic.test_requests_per_second),
        ] {
            if rate > RATE_MAX {
                let message = format!("{rate} requests per second");
                self.add("TG205", format!("/traffic/{field}"), message, &format!("write at most {RATE_MAX}"));
            }
        }
    }

    fn pipeline(&mut self, organisation: &OrganisationDef, pipeline: &PipelineDef) {
        if matches!(pipeline.run.engine, EngineDef::Configuration(_)) {
            let message = format!("{} gives values to the boxes of another pipeline", pipeline.name);
            self.add("TG208", "", message, "only pipelines with boxes of their own can be simulated");
        }
        let team = organisation.service(&pipeline.service).and_then(|s| organisation.team(&s.team));
        if let Some(team) = team.filter(|team| team.members.is_empty()) {
            let message = format!("{} has no members, so nobody could approve a commit", team.name);
            self.add("TG208", "", message, "add a member to the team in the organisation's definition");
        }
    }

    fn release(&mut self, at: &str, release: u64) {
        if release < 2 {
            let hint = "release 1 runs when the simulation begins; the first that is made is 2";
            self.add("TG205", format!("{at}/release"), format!("release {release} is not made here"), hint);
        }
    }

    fn region(&mut self, at: &str, region: &RegionId, known: &[&RegionId]) {
        if !known.contains(&region) {
            let message = format!("the pipeline does not deploy to '{region}' there");
            let mut names: Vec<&str> = known.iter().map(|r| r.as_str()).collect();
            names.sort_unstable();
            names.dedup();
            self.add("TG203", format!("{at}/region"), message, &format!("known here: {}", names.join(", ")));
        }
    }

    fn between(&mut self, at: &str, from: Span, until: Span, length: Span) {
        if until <= from {
            let message = format!("it would end at {until}, before it begins at {from}");
            self.add("TG204", format!("{at}/until"), message, "write a later end");
        } else if from >= length {
            let message = format!("it would begin at {from}, after the simulated {length}");
            self.add("TG204", format!("{at}/from"), message, "write an earlier time, or a longer simulation");
        }
    }
}

/// Why a fault on a command line is not understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{text}' is no fault: {why}")]
pub struct InvalidFault {
    /// As it was given.
    pub text: String,
    /// What is wrong with it.
    pub why: String,
}

/// Reads a fault as it is written on a command line: its kind and then `key=value`, between commas, such as
/// `regression,release=3,faults=20,region=eu-1`. The keys are the scenario's; `faults=PERCENT`, `latency=SPAN` and `crash`
/// stand for the harm of a regression.
///
/// # Errors
/// If it is none; the message says why.
pub fn fault(text: &str) -> Result<Fault, InvalidFault> {
    let fail = |why: String| InvalidFault { text: text.chars().take(200).collect(), why };
    let mut parts = text.split(',').map(str::trim);
    let kind = parts.next().unwrap_or_default().to_owned();
    let mut fields = Map::new();
    for part in parts {
        let (key, value) = part.split_once('=').unwrap_or((part, ""));
        let number = value.parse::<u64>().ok().map(Value::from);
        let value = number.unwrap_or_else(|| Value::from(value));
        let (key, value) = match key {
            "crash" => ("harm", Value::from("crash")),
            "faults" | "latency" => ("harm", Value::from(Map::from_iter([(key.to_owned(), value)]))),
            "above" => ("above_requests_per_second", value),
            "release" => ("release", release_number(&value)),
            other => (other, value),
        };
        if fields.insert(key.to_owned(), value).is_some() {
            return Err(fail(format!("'{key}' is said twice")));
        }
    }
    let value = Value::from(Map::from_iter([(kind, Value::from(fields))]));
    serde_json::from_value(value).map_err(|error| fail(error.to_string()))
}

/// `r3` is 3.
fn release_number(value: &Value) -> Value {
    let text = value.as_str().and_then(|text| text.strip_prefix('r')).and_then(|n| n.parse::<u64>().ok());
    text.map_or_else(|| value.clone(), Value::from)
}

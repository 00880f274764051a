//! Checks a definition before it is taken (X7): names that do not resolve, values out of range, and layouts that could
//! break a rule, with the counterexample. Each finding has a stable code and a place (a JSON pointer into the document).

mod alarms;
mod engine;
mod forge;

use crate::definition::{
    BuildDef, ORGANISATION_SCHEMA, OrganisationDef, PIPELINE_SCHEMA, PageTarget, PipelineDef, WaveDef,
};
use crate::ids::RegionId;
use crate::plan::{Plan, plan};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// Something that keeps a definition from being taken.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Finding {
    /// Stable, for scripts and docs: `TG101`.
    pub code: String,
    /// JSON pointer to the place, such as `/stages/2/waves/0/steps/1`.
    pub place: String,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub hint: String,
}

impl Finding {
    /// What is wrong where, and what to do.
    #[must_use]
    pub fn new(code: &str, place: impl Into<String>, message: impl Into<String>, hint: &str) -> Finding {
        let (code, hint) = (code.to_owned(), hint.to_owned());
        Finding { code, place: place.into(), message: message.into(), hint }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}: {} ({})", self.code, self.place, self.message, self.hint)
    }
}

struct Findings(Vec<Finding>);

impl Findings {
    fn add(&mut self, code: &str, place: impl Into<String>, message: impl Into<String>, hint: &str) {
        self.0.push(Finding::new(code, place, message, hint));
    }

    fn unique<'a, T: Ord + fmt::Display + 'a>(&mut self, list: &str, names: impl Iterator<Item = &'a T>) {
        let mut seen = BTreeSet::new();
        for (n, name) in names.enumerate() {
            if !seen.insert(name) {
                let hint = "names are unique within their list";
                self.add(
                    "TG110",
                    format!("{list}/{n}/name"),
                    format!("'{name}' stands here a second time"),
                    hint,
                );
            }
        }
    }
}

/// A page to a wrong address would be missed on the day when it matters.
fn is_web_address(url: &str) -> bool {
    let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
    let host = rest.and_then(|rest| rest.split(['/', '?', '#']).next());
    host.is_some_and(|host| !host.is_empty()) && !url.contains(|c: char| c.is_whitespace() || c.is_control())
}

fn page_target(f: &mut Findings, place: &str, target: &PageTarget) {
    let web = |f: &mut Findings, field: &str, url: &str| {
        if !is_web_address(url) {
            let message = "this is no address that can be called";
            let hint = "write http://host/path or https://host/path, without spaces";
            f.add("TG140", format!("{place}/{field}"), message, hint);
        }
    };
    match target {
        PageTarget::Webhook(url) => web(f, "webhook", url),
        PageTarget::Pagerduty(def) => {
            if let Some(url) = &def.url {
                web(f, "pagerduty/url", url);
            }
        }
        PageTarget::Slack(_) => {}
        PageTarget::Alertmanager(def) => web(f, "alertmanager/url", &def.url),
        PageTarget::Email(def) => {
            for (field, text) in [("to", &def.to), ("from", &def.from)] {
                let parts = text.split_once('@').filter(|(user, host)| !user.is_empty() && !host.is_empty());
                if parts.is_none() || text.contains(|c: char| c.is_whitespace() || c.is_control()) {
                    let message = format!("'{text}' is no mail address");
                    f.add("TG140", format!("{place}/email/{field}"), message, "write name@host");
                }
            }
            let port = def
                .server
                .rsplit_once(':')
                .and_then(|(host, port)| (!host.is_empty()).then(|| port.parse::<u16>().ok()).flatten());
            if port.is_none() {
                let message = format!("'{}' is no mail server", def.server);
                f.add(
                    "TG140",
                    format!("{place}/email/server"),
                    message,
                    "write host:port, such as smtp.acme.test:587",
                );
            }
            if def.user.is_some() != def.secret.is_some() {
                let hint = "write both 'user' and 'secret', or neither";
                f.add("TG140", format!("{place}/email"), "a login is a name and a password", hint);
            }
        }
    }
}

/// Findings in an organisation's definition; empty when it may be taken.
#[must_use]
pub fn organisation(def: &OrganisationDef) -> Vec<Finding> {
    let mut f = Findings(Vec::new());
    check_schema(&mut f, &def.schema, ORGANISATION_SCHEMA);
    f.unique("/users", def.users.iter().map(|u| &u.name));
    f.unique("/teams", def.teams.iter().map(|t| &t.name));
    f.unique("/services", def.services.iter().map(|s| &s.name));
    f.unique("/regions", def.regions.iter().map(|r| &r.name));
    for (n, team) in def.teams.iter().enumerate() {
        for (list, named) in [("members", &team.members), ("reporters", &team.reporters)] {
            for (m, user) in named.iter().enumerate().filter(|(_, user)| def.user(user).is_none()) {
                let message = format!("'{user}' is not among the users");
                f.add("TG111", format!("/teams/{n}/{list}/{m}"), message, "add the user, or mend the name");
            }
        }
        for (m, target) in team.pages.iter().enumerate() {
            page_target(&mut f, &format!("/teams/{n}/pages/{m}"), target);
        }
        for profile in team.defaults.keys() {
            let (_, rolling) = team.defaults(*profile);
            engine::rolling(&mut f, &format!("/teams/{n}/defaults/{profile}/rolling"), &rolling);
        }
        let services: Vec<_> = def.services.iter().filter(|s| s.team == team.name).collect();
        if let Some(expression) = &team.aggregate
            && let Err(error) = expression.check_names(&crate::team::known_names(&services))
        {
            let hint = "an aggregate is made of the names of the team's alarms";
            f.add("TG112", format!("/teams/{n}/aggregate"), error.to_string(), hint);
        }
    }
    alarms::organisation(&mut f, def);
    forge::organisation(&mut f, def);
    for (n, service) in def.services.iter().enumerate() {
        if def.team(&service.team).is_none() {
            let message = format!("'{}' is not among the teams", service.team);
            f.add("TG111", format!("/services/{n}/team"), message, "add the team, or mend the name");
        }
        for (m, canary) in service.canaries.iter().enumerate() {
            if !canary.path.starts_with('/') {
                f.add(
                    "TG114",
                    format!("/services/{n}/canaries/{m}/path"),
                    "a path begins with '/'",
                    "write /path",
                );
            }
            if canary.every.millis() < 100 {
                f.add(
                    "TG115",
                    format!("/services/{n}/canaries/{m}/every"),
                    "a canary runs at most ten times a second",
                    "write at least 100ms",
                );
            }
        }
    }
    for (n, region) in def.regions.iter().enumerate() {
        if region.azs.is_empty() {
            f.add(
                "TG116",
                format!("/regions/{n}/azs"),
                "a Region has at least one AZ or cell",
                "name its AZs",
            );
        }
        f.unique_in(&format!("/regions/{n}/azs"), region.azs.iter());
    }
    f.0
}

impl Findings {
    fn unique_in<'a, T: Ord + fmt::Display + 'a>(&mut self, list: &str, names: impl Iterator<Item = &'a T>) {
        let mut seen = BTreeSet::new();
        for (n, name) in names.enumerate() {
            if !seen.insert(name) {
                self.add(
                    "TG110",
                    format!("{list}/{n}"),
                    format!("'{name}' stands here a second time"),
                    "name it once",
                );
            }
        }
    }
}

fn check_schema(f: &mut Findings, found: &str, expected: &str) {
    if found != expected {
        f.add(
            "TG100",
            "/schema",
            format!("'{found}' is not a schema that this version reads"),
            &format!("write \"{expected}\""),
        );
    }
}

/// Findings in a pipeline's definition within its organisation; empty when it may be taken.
#[must_use]
pub fn pipeline(def: &PipelineDef, organisation: &OrganisationDef) -> Vec<Finding> {
    let mut f = Findings(Vec::new());
    check_schema(&mut f, &def.schema, PIPELINE_SCHEMA);
    if organisation.service(&def.service).is_none() {
        f.add(
            "TG111",
            "/service",
            format!("'{}' is not among the organisation's services", def.service),
            "add the service to the organisation first, or mend the name",
        );
    }
    f.unique("/sources", def.sources.iter().map(|s| &s.name));
    if def.sources.is_empty() {
        f.add("TG120", "/sources", "a pipeline has at least one source", "name a repository");
    }
    for (n, source) in def.sources.iter().enumerate() {
        if source.url.trim().is_empty() || source.url.starts_with('-') {
            f.add(
                "TG121",
                format!("/sources/{n}/url"),
                format!("'{}' is no git URL", source.url),
                "write any git URL",
            );
        }
    }
    forge::pipeline(&mut f, def);
    build(&mut f, &def.build);
    engine::engine(&mut f, def, organisation);
    if def.stages.is_empty() {
        f.add("TG122", "/stages", "a pipeline has at least one stage", "begin with beta");
    }
    for n in 0..def.stages.len() {
        stage_shape(&mut f, def, n, organisation);
    }
    f.unique_in("/stages", def.stages.iter().map(|s| &s.environment));
    if f.0.is_empty() {
        let laid_out = plan(def, organisation);
        layout(&mut f, def, &laid_out, organisation);
    }
    f.0
}

/// What keeps a definition from taking another one's place: what runs stays what it is, and whose.
#[must_use]
pub fn successor(known: &PipelineDef, new: &PipelineDef) -> Option<Finding> {
    let (place, message) = if known.service != new.service {
        (
            "/service",
            format!("pipeline '{}' cannot be moved from service '{}' to another", new.name, known.service),
        )
    } else if std::mem::discriminant(&known.run.engine) != std::mem::discriminant(&new.run.engine) {
        ("/run/engine", format!("pipeline '{}' cannot change the kind of thing that it deploys", new.name))
    } else {
        return None;
    };
    Some(Finding::new("TG145", place, message, "give the new one a name of its own, and retire the other"))
}

fn build(f: &mut Findings, build: &BuildDef) {
    for (list, steps) in [("fetch", &build.fetch), ("steps", &build.steps)] {
        for (n, step) in steps.iter().enumerate() {
            if step.run.is_empty() {
                f.add(
                    "TG123",
                    format!("/build/{list}/{n}/run"),
                    "a command has at least a program",
                    "write [\"program\", ...]",
                );
            }
        }
    }
    if build.package.is_empty() {
        f.add("TG124", "/build/package", "nothing goes into the package", "name at least one file or folder");
    }
    for (n, path) in build.package.iter().enumerate() {
        for (field, text) in [("from", &path.from), ("to", &path.to)] {
            if text.starts_with('/') || text.split('/').any(|part| part == "..") {
                let message = format!("'{text}' leads out of its folder");
                f.add(
                    "TG125",
                    format!("/build/package/{n}/{field}"),
                    message,
                    "write a relative path without '..'",
                );
            }
        }
    }
}

fn stage_shape(f: &mut Findings, def: &PipelineDef, n: usize, organisation: &OrganisationDef) {
    let stage = &def.stages[n];
    let place = format!("/stages/{n}");
    let known = |f: &mut Findings, place: String, region: &RegionId| {
        if organisation.region(region).is_none() {
            f.add(
                "TG111",
                place,
                format!("'{region}' is not in the organisation's Region list"),
                "add the Region there, or mend the name",
            );
        }
    };
    for (m, region) in stage.regions.iter().enumerate() {
        known(f, format!("{place}/regions/{m}"), region);
    }
    f.unique_in(&format!("{place}/regions"), stage.regions.iter());
    if stage.boxes_per_az == 0 {
        f.add("TG129", format!("{place}/boxes_per_az"), "an AZ has at least one box", "write 1 or more");
    }
    if stage.is_production() && !stage.one_box && def.defines().is_none() {
        f.add(
            "TG130",
            format!("{place}/one_box"),
            "production begins every wave with a one-box",
            "write \"one_box\": true (requirement P4)",
        );
    }
    if !stage.is_production() && !stage.waves.is_empty() {
        f.add(
            "TG131",
            format!("{place}/waves"),
            "only production has waves",
            "name the environment 'production'",
        );
    }
    for (m, test) in stage.tests.iter().enumerate() {
        if test.run.is_empty() {
            f.add(
                "TG123",
                format!("{place}/tests/{m}/run"),
                "a command has at least a program",
                "write [\"program\", ...]",
            );
        }
    }
    let (mut placed, mut names) = (BTreeMap::new(), BTreeSet::new());
    for (w, wave) in stage.waves.iter().enumerate() {
        let here = format!("{place}/waves/{w}");
        if wave.name.as_ref().is_some_and(|name| !names.insert(name)) {
            f.add(
                "TG110",
                format!("{here}/name"),
                "this name stands here a second time",
                "waves have names of their own",
            );
        }
        for (m, region) in wave.regions.iter().enumerate() {
            known(f, format!("{here}/regions/{m}"), region);
            if !stage.regions.is_empty() && !stage.regions.contains(region) {
                f.add(
                    "TG132",
                    format!("{here}/regions/{m}"),
                    format!("'{region}' is not among the stage's Regions"),
                    "add it to the stage's regions",
                );
            }
            if let Some(before) = placed.insert(region, w) {
                f.add(
                    "TG133",
                    format!("{here}/regions/{m}"),
                    format!("'{region}' is in wave {} already", before + 1),
                    "a Region is in one wave",
                );
            }
        }
    }
    if !stage.waves.is_empty() {
        let all: Vec<&RegionId> = if stage.regions.is_empty() {
            organisation.regions.iter().map(|r| &r.name).collect()
        } else {
            stage.regions.iter().collect()
        };
        for region in all.into_iter().filter(|r| !placed.contains_key(r)) {
            f.add(
                "TG134",
                format!("{place}/waves"),
                format!("'{region}' is in no wave"),
                "add it to the last wave",
            );
        }
    }
}

/// Steps by hand leave no AZ of the wave's Regions out (that one is in two is found where they are laid out).
fn every_az(f: &mut Findings, place: &str, wave: &WaveDef, organisation: &OrganisationDef) {
    let named: BTreeSet<&String> = wave.steps.iter().flatten().collect();
    let regions = wave.regions.iter().filter_map(|r| organisation.region(r));
    let all = regions.flat_map(|r| r.azs.iter().map(move |az| format!("{}/{az}", r.name)));
    for az in all.filter(|az| !named.is_empty() && !named.contains(az)) {
        f.add("TG138", place, format!("'{az}' is in no step"), "name every AZ of the wave's Regions once");
    }
}

/// The rules over what was laid out: one AZ of each Region per step (P1), every AZ in exactly one step, and every
/// reference of a step by hand resolved.
fn layout(f: &mut Findings, def: &PipelineDef, plan: &Plan, organisation: &OrganisationDef) {
    for (n, stage) in def.stages.iter().enumerate() {
        for (w, wave) in stage.waves.iter().enumerate() {
            every_az(f, &format!("/stages/{n}/waves/{w}/steps"), wave, organisation);
            for (s, texts) in wave.steps.iter().enumerate() {
                let place = format!("/stages/{n}/waves/{w}/steps/{s}");
                let mut by_region: BTreeMap<&str, &str> = BTreeMap::new();
                for text in texts {
                    let Some((region, az)) = text.split_once('/') else {
                        f.add("TG135", &*place, format!("'{text}' is no region/az"), "write region/az");
                        continue;
                    };
                    if let Some(other) = by_region.insert(region, az) {
                        f.add("TG101", &*place,
                            format!("this step deploys to {region}/{other} and {region}/{az} at the same time"),
                            "never two AZs of one Region at once: put them in different steps (requirement P1)");
                    }
                    let found = plan.targets().any(|t| {
                        t.id.environment == stage.environment
                            && t.id.region.as_str() == region
                            && t.id.az.as_str() == az
                    });
                    if !found {
                        f.add(
                            "TG111",
                            &*place,
                            format!("'{text}' is no AZ of this wave's Regions"),
                            "mend the name",
                        );
                    }
                }
            }
        }
    }
    for stage in &plan.stages {
        let mut seen = BTreeSet::new();
        for step in &stage.steps {
            if step.targets.is_empty() {
                f.add(
                    "TG136",
                    "/stages",
                    format!("step {} deploys to nothing", step.id),
                    "name at least one Region",
                );
            }
            for target in &step.targets {
                if !seen.insert(&target.id) {
                    f.add(
                        "TG137",
                        "/stages",
                        format!("{} is in two steps of {}", target.id, stage.id),
                        "name each AZ once",
                    );
                }
            }
        }
    }
}

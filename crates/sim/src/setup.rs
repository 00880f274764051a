//! What is simulated: one team with two services, gamma, and production in three Regions and two waves; bakes are short, so
//! that a release is everywhere within minutes of virtual time.

use crate::rng::Rng;
use tidegate_core::alarm::{
    AlarmName, Comparison, Datapoints, Metric, MetricAlarm, MissingData, Period, Quantity, Scope as Measured,
};
use tidegate_core::definition::{
    Bake, BuildDef, DataRequirement, EngineDef, LateApproval, ORGANISATION_SCHEMA, OrganisationDef,
    PIPELINE_SCHEMA, PackagePath, PageTarget, PipelineDef, RegionDef, RollingDef, RunDef, ServiceDef,
    SourceDef, StageDef, TeamDef, TestSpec, UserDef, WaveDef,
};
use tidegate_core::ids::{EnvironmentId, PipelineId, RegionId, ServiceId, StageId, TeamId, UserId};
use tidegate_core::run_spec::{BoxLimits, HealthCheck, ProcessSpec};
use tidegate_core::team::TeamEvent;
use tidegate_core::units::Span;
use tidegate_core::window::{OpenHours, Weekday, Weekly, Windows};

/// The people; none of them reviews what they wrote.
pub(crate) const PEOPLE: [&str; 3] = ["ada", "ben", "cleo"];

/// Parses a name that stands in this file or is made of such names.
pub(crate) fn word<T>(text: &str) -> T
where
    T: std::str::FromStr,
    T::Err: std::fmt::Debug,
{
    text.parse().expect("names of the simulation are valid")
}

pub(crate) fn team() -> TeamId {
    word("shop")
}

pub(crate) fn email(person: &str) -> String {
    format!("{person}@shop.example")
}

/// The alarm over a service's main fleets, or over its one-boxes.
pub(crate) fn alarm_name(service: &ServiceId, one_box: bool) -> AlarmName {
    let place = if one_box { "one-box" } else { "main" };
    AlarmName::new(format!("{service}-{place}-faults")).expect("a name of the simulation is valid")
}

fn alarm(service: &ServiceId, one_box: bool) -> MetricAlarm {
    MetricAlarm {
        name: alarm_name(service, one_box),
        scope: if one_box { Measured::OneBox } else { Measured::Service },
        metric: Metric::FaultRate { api: None },
        comparison: Comparison::Above,
        threshold: Quantity::whole(1),
        period: Period::default(),
        datapoints: Datapoints::default(),
        missing: MissingData::Missing,
        min_samples: 1,
    }
}

pub(crate) fn services() -> Vec<ServiceId> {
    vec![word("frontend"), word("orders")]
}

/// Three Regions; `shape` decides which of them has two AZs and which three.
pub(crate) fn organisation(shape: u64) -> OrganisationDef {
    let region = |index: u64, name: &str, traffic: u64| RegionDef {
        name: word(name),
        azs: ["a", "b", "c"]
            .iter()
            .take(if (shape >> index) & 1 == 1 { 3 } else { 2 })
            .map(|az| word(az))
            .collect(),
        traffic,
    };
    OrganisationDef {
        schema: ORGANISATION_SCHEMA.to_owned(),
        name: "simulated".to_owned(),
        users: PEOPLE
            .iter()
            .map(|name| UserDef {
                name: word(name),
                emails: vec![email(name)],
                accounts: Default::default(),
                roles: Vec::new(),
            })
            .collect(),
        teams: vec![TeamDef {
            name: team(),
            members: PEOPLE.iter().map(|name| word::<UserId>(name)).collect(),
            reporters: Vec::new(),
            late_approval: LateApproval::Allow,
            windows: windows(shape),
            pages: vec![PageTarget::Webhook("http://127.0.0.1:9/page".to_owned())],
            aggregate: None,
            prometheus: None,
            profile: Default::default(),
            defaults: Default::default(),
        }],
        services: services()
            .into_iter()
            .map(|name| ServiceDef {
                team: team(),
                alarms: vec![alarm(&name, false), alarm(&name, true)],
                outside: Vec::new(),
                canaries: Vec::new(),
                profile: None,
                name,
            })
            .collect(),
        regions: vec![region(0, "ap-1", 10), region(1, "eu-1", 50), region(2, "us-1", 90)],
        prometheus: None,
    }
}

/// Always, or closed for some minutes in the middle of the phase with faults.
fn windows(shape: u64) -> Windows {
    if shape & 64 == 0 {
        return Windows::default();
    }
    let hours = |text: &str| OpenHours { days: [Weekday::Monday].into(), hours: word(text) };
    Windows::Weekly(Weekly {
        time_zone: word("UTC"),
        open: vec![hours("00:00-08:06"), hours("08:10-08:15"), hours("08:20-24:00")],
        closed: Vec::new(),
    })
}

/// What the team is told of an organisation.
pub(crate) fn team_of(organisation: &OrganisationDef) -> TeamEvent {
    TeamEvent::Applied {
        definition: Box::new(organisation.teams[0].clone()),
        services: organisation.services.clone(),
        emails: organisation.users.iter().map(|u| (u.name.clone(), u.emails.clone())).collect(),
        accounts: organisation.accounts(),
    }
}

/// Changes a definition in one place.
pub(crate) fn edit(definition: &mut PipelineDef, rng: &mut Rng) {
    let what = rng.range(0, 10);
    let seconds = |n: i64| Span::seconds(u64::try_from(n).unwrap_or(30));
    let length = seconds(rng.range(10, 60));
    let Some(production) = definition.stages.last_mut() else { return };
    match what {
        0 => production.bake.one_box = Some(length),
        1 => production.bake.first_wave = Some(length),
        2 => production.boxes_per_az = if production.boxes_per_az == 3 { 4 } else { 3 },
        3 => production.one_box = !production.one_box,
        4 => production.waves.reverse(),
        5 => definition.rolling.progress_deadline = Some(seconds(rng.range(60, 120))),
        6 => drop(definition.run.environment.insert("EDITED".to_owned(), length.to_string())),
        // Stages come and go, at the beginning and between two; waves get names and lose them.
        8 | 9 => {
            let (name, at) = if what == 8 { ("alpha", 0) } else { ("zeta", definition.stages.len() - 1) };
            let environment: EnvironmentId = word(name);
            match definition.stages.iter().position(|stage| stage.environment == environment) {
                Some(at) => drop(definition.stages.remove(at)),
                None => {
                    let tests = Vec::new();
                    let stage = StageDef { environment, tests, ..definition.stages[0].clone() };
                    definition.stages.insert(at, stage);
                }
            }
        }
        10 => {
            for (n, wave) in production.waves.iter_mut().enumerate() {
                let name = StageId::new(format!("named-{}", n + 1)).expect("a valid name");
                wave.name = if wave.name.is_none() { Some(name) } else { None };
            }
        }
        // A Region comes or goes.
        _ => {
            let last = production.waves.iter_mut().max_by_key(|wave| wave.regions.len());
            let Some(wave) = last else { return };
            let region: RegionId = word("us-1");
            match wave.regions.iter().position(|r| *r == region) {
                Some(at) if wave.regions.len() > 1 => drop(wave.regions.remove(at)),
                Some(_) => {}
                None => wave.regions.push(region),
            }
        }
    }
}

/// The pipelines: one for each service, and perhaps a second one for the first service.
pub(crate) fn pipelines(shape: u64) -> Vec<PipelineDef> {
    let mut all = vec![pipeline("frontend-app", "frontend", shape), pipeline("orders-app", "orders", shape)];
    if shape & 8 != 0 {
        all.push(pipeline("frontend-config", "frontend", shape));
    }
    all
}

fn pipeline(name: &str, service: &str, shape: u64) -> PipelineDef {
    let bake = Bake {
        one_box: Span::seconds(30),
        az: Span::seconds(15),
        first_wave: Span::seconds(60),
        second_wave: Span::seconds(40),
        last_wave: Span::seconds(30),
        data: vec![DataRequirement { api: None, requests: 10 }],
    };
    let test = TestSpec {
        name: "smoke".to_owned(),
        run: vec!["bin/smoke".to_owned()],
        time_limit: Span::seconds(60),
    };
    let stage = |environment: &str| StageDef {
        environment: word(environment),
        regions: Vec::new(),
        boxes_per_az: 3,
        one_box: false,
        waves: Vec::new(),
        tests: Vec::new(),
        bake: bake.clone().into(),
        others: None,
        own: None,
    };
    let gamma = StageDef {
        regions: vec![word("eu-1")],
        boxes_per_az: 1 + u32::from(shape & 16 != 0),
        tests: vec![test],
        ..stage("gamma")
    };
    let wave = |regions: &[&str]| WaveDef {
        name: None,
        regions: regions.iter().map(|r| word::<RegionId>(r)).collect(),
        steps: Vec::new(),
    };
    let production = StageDef {
        one_box: true,
        boxes_per_az: if shape & 32 != 0 { 4 } else { 3 },
        waves: vec![wave(&["ap-1"]), wave(&["eu-1", "us-1"])],
        ..stage("production")
    };
    let id: PipelineId = word(name);
    PipelineDef {
        schema: PIPELINE_SCHEMA.to_owned(),
        service: word(service),
        sources: vec![SourceDef {
            name: word(name),
            url: format!("https://git.example/{name}"),
            branch: "main".to_owned(),
            secret: None,
            since: None,
            poll: Span::seconds(60),
            review: None,
        }],
        build: BuildDef {
            fetch: Vec::new(),
            lock_files: Vec::new(),
            steps: Vec::new(),
            package: vec![PackagePath { from: name.to_owned(), to: ".".to_owned() }],
            environment: Default::default(),
            limits: Default::default(),
        },
        run: RunDef {
            engine: EngineDef::Process(process()),
            environment: [("PIPELINE".to_owned(), name.to_owned())].into(),
            secrets: Default::default(),
            calls: Vec::new(),
        },
        stages: vec![gamma, production],
        rolling: RollingDef {
            healthy_for: Some(Span::seconds(3)),
            progress_deadline: Some(Span::seconds(90)),
            ..RollingDef::default()
        },
        rollback: Default::default(),
        mode: Default::default(),
        name: id,
    }
}

fn process() -> ProcessSpec {
    ProcessSpec {
        command: vec!["bin/serve".to_owned()],
        health: HealthCheck {
            path: "/healthy".to_owned(),
            interval: Span::seconds(1),
            timeout: Span::seconds(1),
            healthy_after: 1,
            unhealthy_after: 1,
            start_timeout: Span::seconds(15),
        },
        limits: BoxLimits::default(),
        drain_timeout: Span::seconds(5),
        stop_timeout: Span::seconds(5),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shape_passes_the_checks_of_definitions() {
        for shape in 0..128 {
            let organisation = organisation(shape);
            assert_eq!(tidegate_core::lint::organisation(&organisation), []);
            for pipeline in pipelines(shape) {
                assert_eq!(tidegate_core::lint::pipeline(&pipeline, &organisation), []);
            }
        }
    }
}

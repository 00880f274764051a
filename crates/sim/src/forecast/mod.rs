//! A pipeline before it exists: when will my change be everywhere, and what would have happened if ...? Virtual are the clock,
//! builds, boxes, customers and what monitoring measures; the core and the runtime are the real ones.
//!
//! Begin with [`simulate`]. What must hold here: the same input gives the same bytes; nothing is decided here that the core
//! decides; where nothing is abnormal nothing is sampled, so that days take milliseconds. Absent on purpose: crashes, lost
//! and repeated results, and people at the worst moment, which are the rest of this crate's.

mod ahead;
mod boot;
mod boxes;
mod check;
mod compare;
mod exposure;
mod eyes;
mod hands;
mod journal;
mod monitor;
mod picture;
mod result;
mod scenario;
mod svg;
mod text;
mod traffic;
mod words;
mod world;

pub use ahead::{Estimates, Expected, estimates};
pub use check::{InvalidFault, check, fault};
pub use compare::{COMPARISON_SCHEMA, Comparison, compare};
pub use result::{
    Change, Cost, EndlessBake, Exposed, FORECAST_SCHEMA, FaultReport, Forecast, Pass, Passed, Release,
    ShutGate, Step, Stuck, Totals, Verdict, Wait,
};
pub use scenario::{
    Api, Between, Blind, COMMITS_MAX, Commits, FAULTS_MAX, Fault, Harm, InvalidMoment, LENGTH_MAX, Moment,
    Outage, Regression, SCENARIO_SCHEMA, Scenario, SickBox, SlowEngine, Traffic,
};
pub use svg::svg;
pub use text::text;
pub use words::{describe, missing};

use tidegate_core::definition::{OrganisationDef, PipelineDef, ServiceDef, TeamDef};
use tidegate_core::ids::InvalidId;
use tidegate_core::units::{Span, Timestamp};
use tidegate_runtime::{RuntimeError, SubmitError};
use world::World;

/// What is simulated. Definitions and scenario have passed their checks ([`tidegate_core::lint`], [`check`]).
#[derive(Debug, Clone)]
pub struct Input {
    /// The organisation: Regions, teams, windows.
    pub organisation: OrganisationDef,
    /// The pipeline.
    pub pipeline: PipelineDef,
    /// What happens.
    pub scenario: Scenario,
}

impl Input {
    fn owner(&self) -> Result<(&ServiceDef, &TeamDef), ForecastError> {
        let service = self.organisation.service(&self.pipeline.service).ok_or(ForecastError::NoOwner)?;
        let team = self.organisation.team(&service.team).ok_or(ForecastError::NoOwner)?;
        Ok((service, team))
    }
}

/// Why a simulation has no result. One that ends early has one: see [`Forecast::stuck`].
#[derive(Debug, thiserror::Error)]
pub enum ForecastError {
    /// The definitions do not fit together.
    #[error("the pipeline's service or its team is not in the organisation's definition")]
    NoOwner,
    /// Nobody could approve anything.
    #[error("the team that owns the pipeline has no members")]
    NoMember,
    /// What runs at the beginning could not be put there.
    #[error("failed to put release 1 everywhere: {why}")]
    Start {
        /// What was in the way.
        why: String,
    },
    /// It does not come to an end.
    #[error("after {moments} moments it is {at} in the simulation, and it does not come to an end")]
    Circle {
        /// The limit.
        moments: u64,
        /// How far it came.
        at: Timestamp,
    },
    /// A name that is none.
    #[error(transparent)]
    Name(InvalidId),
    /// The core refused something, or the store failed.
    #[error(transparent)]
    Submit(#[from] SubmitError),
    /// The store failed.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
}

/// Simulates a pipeline.
///
/// # Errors
/// See [`ForecastError`].
pub fn simulate(input: &Input) -> Result<Forecast, ForecastError> {
    let mut world = World::new(input)?;
    world.boot()?;
    let stuck = world.run()?;
    Ok(conclude(world, stuck))
}

/// The JSON Schema of scenarios.
#[must_use]
pub fn scenario_schema() -> schemars::Schema {
    schemars::schema_for!(Scenario)
}

fn conclude(world: World<'_>, stuck: Option<Stuck>) -> Forecast {
    let input = world.input;
    let plan = tidegate_core::plan::plan(&input.pipeline, &input.organisation);
    let steps = plan.steps().map(|(stage, step)| Step {
        id: step.id.clone(),
        stage: stage.id.to_string(),
        regions: step.regions().into_iter().cloned().collect(),
        targets: step.targets.len(),
        bake: step.bake,
    });
    let steps: Vec<Step> = steps.collect();
    let reports = reports(&world);
    let exposed = reports.iter().filter_map(|r| r.exposed.as_ref()).map(|e| e.requests_until_caught).sum();
    let requests = world.exposure.requests();
    let mut cost = world.cost;
    cost.facts = world.journal.facts;
    let releases: Vec<Release> = world.journal.releases.into_values().collect();
    let mut totals = totals(&releases, world.start, &world.zone);
    (totals.requests_exposed, totals.requests, totals.pages) = (exposed, requests, world.pages);
    Forecast {
        schema: FORECAST_SCHEMA.to_owned(),
        pipeline: world.id,
        time_zone: world.zone.iana_name().unwrap_or("UTC").to_owned(),
        start: world.start,
        end: world.now,
        steps,
        releases,
        totals,
        faults: reports,
        stuck,
        assumptions: world.assumptions,
        cost,
    }
}

fn totals(releases: &[Release], start: Timestamp, zone: &jiff::tz::TimeZone) -> Totals {
    let arrivals = journal::arrivals(releases);
    let spans = journal::spans(&arrivals);
    let business: Vec<Span> =
        arrivals.iter().map(|(from, until)| journal::business_time(*from, *until, zone)).collect();
    let arrived: Vec<Timestamp> = releases.iter().filter_map(|r| r.everywhere).collect();
    let mut carried: Vec<u64> = Vec::new();
    let mut carries = 0;
    for release in releases {
        carries += release.changes.len() as u64;
        if release.everywhere.is_some() {
            carried.push(std::mem::take(&mut carries));
        }
    }
    let took = arrived.iter().max().map_or(Span::ZERO, |last| last.since(start));
    let per_day = arrived.len() as u64 * 1_000 * 86_400_000 / took.millis().max(1);
    Totals {
        changes: releases.iter().map(|r| r.changes.len()).sum(),
        changes_everywhere: arrivals.len(),
        to_all_regions_median: journal::quantile(&spans, 500),
        to_all_regions_p90: journal::quantile(&spans, 900),
        business_time_median: journal::quantile(&business, 500),
        business_time_p90: journal::quantile(&business, 900),
        releases: releases.len(),
        releases_everywhere: arrived.len(),
        releases_per_day_milli: per_day,
        changes_per_release_median: journal::quantile(&carried, 500),
        requests_exposed: 0,
        requests: 0,
        pages: 0,
    }
}

fn reports(world: &World<'_>) -> Vec<FaultReport> {
    let report = |(n, fault): (usize, &Fault)| {
        let (began, over) = (world.began.get(&n).copied(), world.over.get(&n).copied());
        let regression = matches!(fault, Fault::Regression(_));
        let concerns = |release: &Release, verdict: &Verdict| match fault {
            Fault::Regression(_) => {
                world.flawed.get(&release.release).is_some_and(|flaws| flaws.contains(&n))
            }
            Fault::SickBox(sick) => release.release.0 == sick.release,
            // What comes to light a little later is of that time as well.
            _ => began.is_some_and(|began| {
                verdict.at >= began && over.is_none_or(|over| verdict.at <= over + Span::minutes(10))
            }),
        };
        let mut verdicts = std::collections::BTreeMap::new();
        for release in world.journal.releases.values() {
            let of: Vec<Verdict> =
                release.verdicts.iter().filter(|v| concerns(release, v)).cloned().collect();
            if !of.is_empty() {
                verdicts.insert(release.release, of);
            }
        }
        let exposed = regression.then(|| world.exposure.tell(n));
        FaultReport { fault: fault.clone(), began, verdicts, over, exposed }
    };
    world.scenario.faults.iter().enumerate().map(report).collect()
}

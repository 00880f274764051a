//! How fast a pipeline is simulated: a week of ten commits a day through gamma and 24 Regions with 76 AZs, with the article's
//! bakes and business hours, on one thread; the same with a regression that is caught in the third wave.

use crate::report::{Figure, percentile};
use crate::scene::Scene;
use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Instant;
use tidegate_sim::forecast::{Forecast, Input, simulate};

/// Each is simulated so often; the median counts.
const RUNS: usize = 5;
const DAY_MS: f64 = 86_400_000.0;

/// Measures.
pub(crate) fn take(_: &Scene) -> Result<Figure> {
    let mut text = format!(
        "simulate: a week of 10 commits a day through gamma and 24 Regions with 76 AZs, medians of {RUNS}\n\
         {:<24}{:>10}{:>10}{:>16}{:>12}{:>16}\n",
        "", "ms", "days", "days per second", "decisions", "us per decision"
    );
    let mut values = BTreeMap::new();
    let regression = json!([{"regression": {"release": 2, "harm": {"faults": 20}, "region": "region-02"}}]);
    for (name, faults) in [("nothing goes wrong", json!([])), ("a regression in wave 3", regression)] {
        let input = input(&faults)?;
        let (mut took_ms, mut last) = (Vec::new(), None);
        for _ in 0..RUNS {
            let begun = Instant::now();
            let forecast = simulate(&input)?;
            took_ms.push(begun.elapsed().as_secs_f64() * 1e3);
            last = Some(forecast);
        }
        let forecast: Forecast = last.context("nothing was simulated")?;
        anyhow::ensure!(forecast.stuck.is_none(), "the simulation does not end: {:?}", forecast.stuck);
        let ms = percentile(took_ms.iter().copied(), 0.5);
        // After the week the last changes are still on their way.
        let days = forecast.end.since(forecast.start).millis() as f64 / DAY_MS;
        let decisions = forecast.cost.decisions;
        let each_us = ms * 1e3 / decisions as f64;
        let per_second = days / ms * 1e3;
        text.push_str(&format!(
            "{name:<24}{ms:>10.0}{days:>10.1}{per_second:>16.1}{decisions:>12}{each_us:>16.0}\n"
        ));
        values.insert(
            name.to_owned(),
            json!({
                "ms": ms, "days": days, "days_per_second": per_second, "us_per_decision": each_us,
                "week_ms": ms / days * 7.0, "cost": forecast.cost
            }),
        );
    }
    Figure::new("simulate", text, values)
}

fn input(faults: &Value) -> Result<Input> {
    let azs = ["a", "b", "c", "d"];
    let region = |n: usize| {
        let count = 3 + usize::from(n >= 20);
        json!({"name": format!("region-{n:02}"), "azs": &azs[..count], "traffic": 10 + 10 * n})
    };
    let windows = json!({"weekly": {"time_zone": "Europe/Berlin", "open": [
        {"days": ["monday", "tuesday", "wednesday", "thursday"], "hours": "09:00-16:00"},
        {"days": ["friday"], "hours": "09:00-12:00"}
    ]}});
    let organisation = json!({
        "schema": "tidegate.organisation/1", "name": "bench",
        "users": [{"name": "alice"}, {"name": "bob"}],
        "teams": [{"name": "shop", "members": ["alice", "bob"], "windows": windows}],
        "services": [{"name": "shop", "team": "shop"}],
        "regions": (0..24).map(region).collect::<Vec<_>>()
    });
    let pipeline = json!({
        "schema": "tidegate.pipeline/1", "name": "shop-app", "service": "shop",
        "sources": [{"name": "code", "url": "https://git.invalid/shop"}],
        "build": {"package": [{"from": "bin", "to": "bin"}]},
        "run": {"engine": {"process": {"command": ["bin/shop"], "health": {"path": "/health"}}}},
        "stages": [
            {"environment": "gamma", "regions": ["region-00", "region-01"], "one_box": true,
                "tests": [{"name": "smoke", "run": ["bin/smoke"]}]},
            {"environment": "production", "one_box": true}
        ]
    });
    let scenario = json!({
        "schema": "tidegate.scenario/1", "length": "7d", "commits": {"per-business-day": 10}, "faults": faults
    });
    Ok(Input {
        organisation: serde_json::from_value(organisation)?,
        pipeline: serde_json::from_value(pipeline)?,
        scenario: serde_json::from_value(scenario)?,
    })
}

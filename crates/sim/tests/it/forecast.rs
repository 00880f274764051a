//! What `tidegate simulate` says: the article's figures, faults, comparisons, and bad input.

use serde_json::{Value, json};
use tidegate_sim::forecast::{Forecast, Input, simulate};

/// 24 Regions with 76 AZs: one with little traffic, one with much, and what the article's figures are for.
fn organisation(windows: &Value) -> Value {
    let azs = ["a", "b", "c", "d"];
    let region = |n: usize| {
        let count = 3 + usize::from(n >= 20);
        json!({"name": format!("region-{n:02}"), "azs": &azs[..count], "traffic": 10 + 10 * n})
    };
    json!({
        "schema": "tidegate.organisation/1", "name": "acme",
        "users": [{"name": "alice"}, {"name": "bob"}],
        "teams": [{"name": "shop", "members": ["alice", "bob"], "windows": windows}],
        "services": [{"name": "shop", "team": "shop"}, {"name": "stock", "team": "shop"}],
        "regions": (0..24).map(region).collect::<Vec<_>>()
    })
}

/// Business hours of one time zone without Friday afternoon.
fn business_hours() -> Value {
    json!({"weekly": {"time_zone": "Europe/Berlin", "open": [
        {"days": ["monday", "tuesday", "wednesday", "thursday"], "hours": "09:00-16:00"},
        {"days": ["friday"], "hours": "09:00-12:00"}
    ]}})
}

/// Gamma, and production with everything that is not said here at the article's defaults.
fn pipeline() -> Value {
    json!({
        "schema": "tidegate.pipeline/1", "name": "shop-app", "service": "shop",
        "sources": [{"name": "code", "url": "https://git.invalid/shop"}],
        "build": {"package": [{"from": "bin", "to": "bin"}]},
        "run": {"engine": {"process": {"command": ["bin/shop"], "health": {"path": "/health"}}}},
        "stages": [
            {"environment": "gamma", "regions": ["region-00", "region-01"], "one_box": true,
                "tests": [{"name": "smoke", "run": ["bin/smoke"]}]},
            {"environment": "production", "one_box": true}
        ]
    })
}

fn input(windows: &Value, pipeline: &Value, scenario: &Value) -> Input {
    let input = Input {
        organisation: serde_json::from_value(organisation(windows)).unwrap(),
        pipeline: serde_json::from_value(pipeline.clone()).unwrap(),
        scenario: serde_json::from_value(scenario.clone()).unwrap(),
    };
    assert_eq!(tidegate_core::lint::organisation(&input.organisation), []);
    assert_eq!(tidegate_core::lint::pipeline(&input.pipeline, &input.organisation), []);
    assert_eq!(tidegate_sim::forecast::check(&input.scenario, &input.organisation, &input.pipeline), []);
    input
}

fn run(scenario: &Value) -> Forecast {
    simulate(&input(&business_hours(), &pipeline(), scenario)).unwrap()
}

#[test]
fn with_the_article_s_defaults_a_change_takes_four_to_five_business_days() {
    let forecast = run(&json!({
        "schema": "tidegate.scenario/1", "start": "2026-01-04T23:00:00Z", "length": "21d",
        "commits": {"per-business-day": 10}
    }));
    println!("{}", tidegate_sim::forecast::text(&forecast));
    println!("{:?} {:?}", forecast.totals, forecast.cost);
}

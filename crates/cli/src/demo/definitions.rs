//! The demo's organisation and pipelines. They are what a user would write as JSON, made here with the model's own types.
//! Bake times are seconds because this definition says so.

use serde_json::{Value, json};
use std::path::Path;

/// Regions in which gamma stands.
pub(crate) const GAMMA: [&str; 2] = ["north", "west"];
/// The Region of beta, and of the first wave: the one with the least traffic.
pub(crate) const FIRST: &str = "north";
/// All Regions with their AZs and traffic. The planner makes three waves of them: north, east, then south and west.
pub(crate) const REGIONS: [(&str, &[&str], u64); 4] = [
    ("north", &["a", "b"], 10),
    ("east", &["a", "b", "c"], 40),
    ("south", &["a", "b"], 20),
    ("west", &["a", "b"], 30),
];

/// The organisation: one team with two services, three people, four Regions.
pub(crate) fn organisation(pages: &str) -> Value {
    let regions: Vec<Value> = REGIONS
        .iter()
        .map(|(name, azs, traffic)| json!({"name": name, "azs": azs, "traffic": traffic}))
        .collect();
    json!({
        "schema": "tidegate.organisation/1",
        "name": "demo",
        "users": [
            {"name": "alice", "emails": ["alice@example.test"]},
            {"name": "bob", "emails": ["bob@example.test"]},
            {"name": "carol", "emails": ["carol@example.test"], "roles": ["principal-engineer"]}
        ],
        "teams": [{
            "name": "shop",
            "members": ["alice", "bob"],
            "late_approval": "allow",
            "pages": [{"webhook": pages}]
        }],
        "services": [service("frontend", "/items/1"), service("backend", "/stock/1")],
        "regions": regions
    })
}

fn service(name: &str, canary: &str) -> Value {
    let prefix = if name == "frontend" { "Frontend" } else { "Backend" };
    let alarm = |what: &str, scope: &str, metric: Value, threshold: u64, min_samples: u64| {
        // A one-box has few requests and a short bake: one bad period is enough.
        // The first boxes of an environment are all starting, for longer where CPU is wanting.
        let datapoints = match (what, scope) {
            ("High_Failing_Health_Checks", _) => "5 of 6",
            (_, "one-box") => "1 of 2",
            _ => "2 of 3",
        };
        json!({
            "name": format!("{prefix}_{what}"), "scope": scope, "metric": metric, "threshold": threshold,
            "period": "2s", "datapoints": datapoints, "min_samples": min_samples
        })
    };
    json!({
        "name": name,
        "team": "shop",
        "alarms": [
            alarm("High_Fault_Rate", "service", json!({"fault-rate": {}}), 10, 5),
            alarm("High_P90_Latency", "service", json!({"latency": {"percentile": "p90"}}), 1_500, 5),
            alarm("High_Failing_Health_Checks", "service", json!("unhealthy-boxes"), 60, 1),
            alarm("OneBox_High_Fault_Rate", "one-box", json!({"fault-rate": {}}), 10, 1),
            alarm("High_Canary_Failures", "service", json!("canary-failures"), 60, 1)
        ],
        "canaries": [{"name": "read", "path": canary, "every": "1s", "timeout": "3s"}]
    })
}

/// An application pipeline: beta, gamma in two Regions, production in three waves.
pub(crate) fn application(service: &str, repository: &Path, calls: &[&str]) -> Value {
    let cargo = |name: &str, words: &[&str]| {
        let run: Vec<&str> = ["cargo"].into_iter().chain(words.iter().copied()).collect();
        json!({"name": name, "run": run})
    };
    let tests = json!([{"name": "integration", "run": ["./itest"], "time_limit": "30s"}]);
    let bake = json!({"one_box": "5s", "az": "1s", "first_wave": "15s", "second_wave": "3s", "last_wave": "2s",
        "data": [{"requests": 5}]});
    json!({
        "schema": "tidegate.pipeline/1",
        "name": format!("{service}-app"),
        "service": service,
        "sources": [{"name": "code", "url": repository, "poll": "1s"}],
        "build": {
            "steps": [
                cargo("compile", &["build", "--release", "--offline", "--jobs", "1"]),
                cargo("unit tests", &["test", "--release", "--offline", "--jobs", "1", "--quiet"])
            ],
            "package": [
                {"from": format!("target/release/{service}"), "to": service},
                {"from": "target/release/itest", "to": "itest"}
            ],
            "limits": {"time": "5m"}
        },
        "run": {
            "engine": {"process": {
                "command": [format!("./{service}")],
                "health": {"path": "/health", "interval": "500ms", "timeout": "2s", "healthy_after": 1,
                    "unhealthy_after": 3, "start_timeout": "20s"},
                "drain_timeout": "5s", "stop_timeout": "5s"
            }},
            "calls": calls
        },
        "stages": [
            {"environment": "beta", "regions": [FIRST], "boxes_per_az": 1, "tests": tests, "bake": {"az": "1s"}},
            {"environment": "gamma", "regions": GAMMA, "boxes_per_az": 1, "one_box": true, "tests": tests,
                "bake": {"one_box": "1s", "az": "1s"}},
            {"environment": "production", "boxes_per_az": 3, "one_box": true, "bake": bake}
        ],
        "rolling": {"healthy_for": "500ms", "progress_deadline": "30s"}
    })
}

/// A pipeline of the team's own commands beside the application's: static assets, or infrastructure (S1, S4).
pub(crate) fn commands(name: &str, repository: &Path, content: &str) -> Value {
    let package: Vec<Value> = [content, "deploy.sh", "observe.sh", "rollback.sh"]
        .iter()
        .map(|file| json!({"from": format!("dist/{file}"), "to": file}))
        .collect();
    json!({
        "schema": "tidegate.pipeline/1",
        "name": format!("frontend-{name}"),
        "service": "frontend",
        "sources": [{"name": "files", "url": repository, "poll": "1s"}],
        "build": {
            "steps": [{"name": "check and pack", "run": ["./build.sh"]}],
            "package": package,
            "limits": {"time": "1m"}
        },
        "run": {"engine": {"command": {
            "shape": "one-unit", "deploy": ["./deploy.sh"], "observe": ["./observe.sh"], "rollback": ["./rollback.sh"],
            "time_limit": "20s"
        }}},
        "stages": [{
            "environment": "production", "regions": ["north", "east"], "boxes_per_az": 1, "one_box": true,
            "bake": {"one_box": "1s", "az": "1s", "first_wave": "1s", "second_wave": "1s", "last_wave": "1s"}
        }],
        "rolling": {"healthy_for": "0s", "progress_deadline": "30s"}
    })
}

//! The organisation and the pipeline of these tests: Region `eu` with one AZ, and `us` with two. What a test needs
//! otherwise, it changes.

use super::Repo;
use serde_json::{Value, json};

/// One team with two services. Each one's only alarm does not fire, so that nothing but what a test does takes a release
/// back.
pub(crate) fn organisation() -> Value {
    let service = |name: &str, alarm: &str| {
        json!({"name": name, "team": "web", "alarms": [{
            "name": alarm, "scope": "service", "metric": {"faults": {}}, "threshold": 1_000_000,
            "period": "1s", "datapoints": "1 of 1", "missing": "not-breaching"
        }]})
    };
    json!({
        "schema": "tidegate.organisation/1",
        "name": "shop",
        "users": [{"name": "alice", "emails": ["alice@example.test"]}, {"name": "bob"}],
        "teams": [{"name": "web", "members": ["alice", "bob"]}],
        "services": [service("shop", "Shop_Faults"), service("stock", "Stock_Faults")],
        "regions": [{"name": "eu", "azs": ["a"], "traffic": 1}, {"name": "us", "azs": ["a", "b"], "traffic": 2}]
    })
}

/// Flags of the service that [`application`] runs, in the same environment.
pub(crate) fn flags(repo: &Repo) -> Value {
    let mut definition = application(repo);
    definition["name"] = json!("flags");
    definition["build"] = json!({"package": [{"from": "limit", "to": "limit"}]});
    definition["run"] = json!({"engine": {"configuration": {"reload": "/reload"}}});
    definition
}

/// A service of processes: beta in `eu` with one box.
pub(crate) fn application(repo: &Repo) -> Value {
    json!({
        "schema": "tidegate.pipeline/1",
        "name": "app",
        "service": "shop",
        "sources": [{"name": "code", "url": repo.path(), "poll": "200ms"}],
        "build": {
            "steps": [{"name": "compile", "run": ["sh", "build.sh"]}],
            "package": [{"from": "out", "to": "app"}],
            "limits": {"time": "20s", "processes": 64, "output_mib": 1}
        },
        "run": {
            "engine": {"process": {
                "command": ["app/run"],
                "health": {"path": "/health", "interval": "100ms", "timeout": "5s", "healthy_after": 1,
                    "unhealthy_after": 3, "start_timeout": "20s"},
                "drain_timeout": "1s", "stop_timeout": "1s"
            }},
            "environment": {"TEST_EXE": std::env::current_exe().unwrap()}
        },
        "stages": [{"environment": "beta", "regions": ["eu"], "boxes_per_az": 1, "bake": {"az": "100ms"}}],
        "rolling": {"healthy_for": "100ms", "progress_deadline": "30s"}
    })
}

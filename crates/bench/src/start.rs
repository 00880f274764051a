//! From the start of `tidegate serve` to its first answer, and the memory that server and fleet hold: on an empty folder, and
//! with 1,000 pipelines. A cold start starts the fleet too; a restart finds it running. The file cache is warm: the program
//! was read before.

use crate::machine::{Cpu, resident_mib};
use crate::report::{Figure, median};
use crate::scene::{self, Scene};
use crate::server::{Server, fleet_folder};
use crate::shop;
use anyhow::{Context, Result};
use reqwest::Method;
use serde::Serialize;
use serde_json::{Value, json};
use std::path::Path;
use std::time::{Duration, Instant};

/// How often each start is measured; the median counts.
const TIMES: usize = 5;
const PIPELINES: usize = 1_000;
/// How long an idle server is looked at, after it came to rest.
const IDLE: Duration = Duration::from_secs(5);
/// How long it is left alone before that.
const REST: Duration = Duration::from_secs(5);

/// One size.
#[derive(Debug, Serialize)]
struct Starts {
    pipelines: usize,
    cold_start_ms: f64,
    restart_ms: f64,
    server_mib: f64,
    fleet_mib: f64,
    /// CPU of the server with nothing to do, as a share of one CPU.
    idle_cpu: f64,
}

/// Measures.
pub(crate) async fn take(scene: &Scene) -> Result<Figure> {
    let mut empty = None;
    let mut cold = Vec::new();
    for n in 0..TIMES {
        let data = scene.folder(&format!("empty-{n}"))?;
        let (server, took) = Server::start(scene, &data).await?;
        cold.push(millis(took));
        if n + 1 == TIMES {
            empty = Some(look(scene, server, &data, 0, &cold).await?);
        } else {
            server.stop().await?;
            scene::end_fleet(&fleet_folder(&data)).await?;
        }
    }
    let data = scene.folder("many")?;
    let applied_s = apply_many(scene, &data).await?;
    let mut cold = Vec::new();
    let mut many = None;
    for n in 0..TIMES {
        let (server, took) = Server::start(scene, &data).await?;
        cold.push(millis(took));
        if n + 1 == TIMES {
            many = Some(look(scene, server, &data, PIPELINES, &cold).await?);
        } else {
            server.stop().await?;
            scene::end_fleet(&fleet_folder(&data)).await?;
        }
    }
    let all: Vec<Starts> = empty.into_iter().chain(many).collect();
    let mut text = format!(
        "start: medians of {TIMES}; the file cache is warm\n{:<12}{:>15}{:>13}{:>13}{:>12}{:>12}\n",
        "pipelines", "cold start ms", "restart ms", "server MiB", "fleet MiB", "idle CPU %"
    );
    for one in &all {
        text.push_str(&format!(
            "{:<12}{:>15.0}{:>13.0}{:>13.1}{:>12.1}{:>12.1}\n",
            one.pipelines,
            one.cold_start_ms,
            one.restart_ms,
            one.server_mib,
            one.fleet_mib,
            one.idle_cpu * 100.0
        ));
    }
    text.push_str(&format!("applying {PIPELINES} pipelines one after the other: {applied_s:.1} s\n"));
    Figure::new("start", text, json!({"starts": all, "applied_s": applied_s, "applied": PIPELINES}))
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// Looks at a server at rest, restarts it beside its fleet, and ends both.
async fn look(scene: &Scene, server: Server, data: &Path, pipelines: usize, cold: &[f64]) -> Result<Starts> {
    tokio::time::sleep(REST).await;
    let before = Cpu::of(&[server.pid()?])?;
    tokio::time::sleep(IDLE).await;
    let used = Cpu::of(&[server.pid()?])? - before;
    let server_mib = resident_mib(server.pid()?)?;
    let fleet = server.fleet().status().await.context("failed to ask the fleet")?.pid;
    let fleet_mib = resident_mib(fleet)?;
    let mut server = server;
    let mut restarts = Vec::new();
    for _ in 0..TIMES {
        server.stop().await?;
        let (again, took) = Server::start(scene, data).await?;
        restarts.push(millis(took));
        server = again;
    }
    server.stop().await?;
    scene::end_fleet(&fleet_folder(data)).await?;
    Ok(Starts {
        pipelines,
        cold_start_ms: median(cold.iter().copied()),
        restart_ms: median(restarts),
        server_mib,
        fleet_mib,
        idle_cpu: used.total() / IDLE.as_secs_f64(),
    })
}

/// Applies the pipelines, each of a service of its own; the seconds that they took.
async fn apply_many(scene: &Scene, data: &Path) -> Result<f64> {
    let repository = data.with_extension("git");
    shop::empty_repository(&repository)?;
    let (server, _) = Server::start(scene, data).await?;
    let mut organisation = shop::organisation();
    let name = |n: usize| format!("service-{n}");
    let services: Vec<Value> = (0..PIPELINES).map(|n| json!({"name": name(n), "team": "shop"})).collect();
    organisation["services"] = Value::Array(services);
    server.admin().call::<Value>(Method::PUT, "/v1/organisation", &organisation).await?;
    let begun = Instant::now();
    for n in 0..PIPELINES {
        let mut pipeline = shop::pipeline(&repository, "1s")?;
        pipeline["name"] = json!(format!("{}-app", name(n)));
        pipeline["service"] = json!(name(n));
        pipeline["sources"][0]["poll"] = json!("1d");
        server.admin().call::<Value>(Method::PUT, "/v1/pipelines", &pipeline).await?;
    }
    let applied = begun.elapsed().as_secs_f64();
    server.stop().await?;
    scene::end_fleet(&fleet_folder(data)).await?;
    Ok(applied)
}

//! A server with one service of one team in one Region, its repository, and the way of a commit to its boxes: the real one,
//! through git, review, sandboxed build, signature, gates and rolling deployment. Health checks and bakes are short because
//! this definition says so.

use crate::load::{Load, Plan};
use crate::scene::{self, BOX_START, Scene};
use crate::server::{Caller, Server};
use anyhow::{Context, Result, bail, ensure};
use reqwest::Method;
use serde_json::{Value, json};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use tidegate_api::{LogEntry, LogPage, RollbackRequest};
use tidegate_core::decision::Fact;
use tidegate_core::ids::{ReleaseNo, RunSpecDigest};
use tidegate_core::pipeline::PipelineFact;
use tidegate_fleet::FleetClient;
use tidegate_fleet::protocol::{EndpointKey, SetEndpoint};

/// Clients; they keep their connections and never repeat a request.
pub(crate) const CONNECTIONS: u32 = 16;
/// Requests a second, every second one a POST with a body.
pub(crate) const PER_SECOND: u32 = 400;
/// How long anything in the life of a release may take.
const FACT_MAX: Duration = Duration::from_secs(60);
/// The pause between two looks at the log.
const LOOK: Duration = Duration::from_millis(10);
/// The pipeline.
const PIPELINE: &str = "shop-app";

/// See the head of this file.
pub(crate) struct Shop {
    server: Server,
    bob: Caller,
    repository: PathBuf,
    /// Where the service is called.
    address: SocketAddr,
    pub(crate) fleet: FleetClient,
    /// The newest entry of the log that was read.
    position: u64,
    /// The commit before, which the next one mends.
    newest: Option<String>,
}

impl Shop {
    /// Sets it up, and brings a first good release everywhere. `one_box_bake` as in a definition, such as `5s`.
    pub(crate) async fn open(scene: &Scene, name: &str, one_box_bake: &str) -> Result<Shop> {
        let dir = scene.folder(name)?;
        let repository = dir.join("repository");
        empty_repository(&repository)?;
        let start = repository.join("start");
        std::fs::write(&start, BOX_START)?;
        std::fs::set_permissions(&start, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        let data = dir.join("data");
        std::fs::create_dir(&data)?;
        let (server, _) = Server::start(scene, &data).await?;
        let admin = server.admin();
        admin.call::<Value>(Method::PUT, "/v1/organisation", &organisation()).await?;
        let bob = server.login("bob").await?;
        admin.call::<Value>(Method::PUT, "/v1/pipelines", &pipeline(&repository, one_box_bake)?).await?;
        let fleet = server.fleet();
        let endpoint = EndpointKey {
            service: "shop".parse()?,
            environment: "production".parse()?,
            region: "north".parse()?,
        };
        let made = fleet.set_endpoint(&SetEndpoint { endpoint, listen: None }).await?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, made.port));
        let mut shop = Shop { server, bob, repository, address, fleet, position: 0, newest: None };
        // Without requests its alarms would be blind, and a release that nobody watches goes nowhere.
        let load = Load::start(shop.customers())?;
        let first = shop.push("good").await?;
        shop.done(first).await?;
        load.end().await?;
        Ok(shop)
    }

    /// Who calls the service; a one-box gets a tenth of it.
    pub(crate) fn customers(&self) -> Plan {
        Plan { address: self.address, connections: CONNECTIONS, per_second: Some(PER_SECOND), posts: true }
    }

    /// A reviewed commit comes to the mainline; the release that is made of it. It mends the one before, so that a rejected
    /// one does not keep it out.
    pub(crate) async fn push(&mut self, mode: &str) -> Result<ReleaseNo> {
        std::fs::write(self.repository.join("mode"), mode)?;
        // No two releases have the same bytes: else there would be nothing to deploy.
        let before = self.newest.as_deref().unwrap_or("none");
        std::fs::write(self.repository.join("version"), format!("after {before}\n"))?;
        let mends = self.newest.as_ref().map(|commit| format!("\n\nFixes: {commit}")).unwrap_or_default();
        git(&self.repository, &["add", "--all"])?;
        git(&self.repository, &["commit", "--quiet", "--message", &format!("a {mode} release{mends}")])?;
        let commit = git(&self.repository, &["rev-parse", "HEAD"])?;
        self.bob.call::<Value>(Method::POST, "/v1/approvals", &json!({ "commit": commit })).await?;
        git(&self.repository, &["update-ref", "refs/heads/main", &commit])?;
        let notice = json!({ "url": self.repository });
        self.server.admin().call::<Value>(Method::POST, "/v1/notify", &notice).await?;
        self.newest = Some(commit);
        self.until("a release is made", |entry| match &entry.fact {
            Fact::Pipeline(PipelineFact::ReleaseCreated { release, .. }) => Some(*release),
            _ => None,
        })
        .await
    }

    /// Waits until one-box and main fleet run this release.
    pub(crate) async fn settled(&mut self, wanted: ReleaseNo) -> Result<()> {
        for _both in ["one-box", "main fleet"] {
            self.until(&format!("{wanted} is deployed"), |entry| match &entry.fact {
                Fact::Pipeline(PipelineFact::SlotSettled { release, .. }) if *release == Some(wanted) => {
                    Some(())
                }
                _ => None,
            })
            .await?;
        }
        Ok(())
    }

    /// What every box of the service runs; fails when they do not all run the same.
    pub(crate) async fn running(&self) -> Result<RunSpecDigest> {
        let slots = self.fleet.slots().await?.observations;
        let mut all =
            slots.iter().flat_map(|slot| &slot.boxes).filter(|b| b.health.is_healthy()).map(|b| &b.run_spec);
        let first = all.next().context("there is no healthy box")?.clone();
        ensure!(all.all(|other| *other == first), "the boxes do not run the same");
        Ok(first)
    }

    /// Waits until this release has passed the last step.
    pub(crate) async fn done(&mut self, wanted: ReleaseNo) -> Result<()> {
        self.until(&format!("{wanted} has passed"), |entry| match &entry.fact {
            Fact::Pipeline(PipelineFact::StepDone { release, step, .. })
                if *release == wanted && step.to_string().ends_with("az-1") =>
            {
                Some(())
            }
            _ => None,
        })
        .await
    }

    /// A person takes a release back, wherever it is.
    pub(crate) async fn roll_back(&mut self, release: ReleaseNo) -> Result<()> {
        let request = RollbackRequest { release, reason: "it is measured".to_owned(), everywhere: true };
        let path = format!("/v1/pipelines/{PIPELINE}/rollbacks");
        self.bob.call::<Value>(Method::POST, &path, &request).await.map(|_| ())
    }

    /// Reads the log on, until an entry is what is looked for.
    pub(crate) async fn until<T>(&mut self, what: &str, look: impl Fn(&LogEntry) -> Option<T>) -> Result<T> {
        let begun = Instant::now();
        loop {
            let page: LogPage =
                self.server.admin().get(&format!("/v1/log?after={}&limit=100", self.position)).await?;
            for entry in &page.entries {
                self.position = entry.position;
                if let Some(found) = look(entry) {
                    return Ok(found);
                }
            }
            if begun.elapsed() > FACT_MAX {
                let why: Value = self.server.admin().get("/v1/status").await?;
                bail!("it did not happen within {} s: {what}; the server says {why:#}", FACT_MAX.as_secs());
            }
            if page.entries.is_empty() {
                tokio::time::sleep(LOOK).await;
            }
        }
    }
}

/// A repository without a commit.
pub(crate) fn empty_repository(path: &Path) -> Result<()> {
    std::fs::create_dir(path).with_context(|| format!("failed to make {}", path.display()))?;
    git(path, &["init", "--quiet", "--initial-branch=work"]).map(|_| ())
}

fn git(dir: &Path, args: &[&str]) -> Result<String> {
    let output = Command::new("git")
        .arg("-C")
        .arg(dir)
        .args(args)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", dir)
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_AUTHOR_NAME", "alice")
        .env("GIT_AUTHOR_EMAIL", "alice@example.test")
        .env("GIT_COMMITTER_NAME", "alice")
        .env("GIT_COMMITTER_EMAIL", "alice@example.test")
        .output()
        .context("failed to run git")?;
    if !output.status.success() {
        bail!("git {} failed: {}", args.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// One team, one service, one Region. An alarm of the shortest period, so that its own length is no part of the figures.
pub(crate) fn organisation() -> Value {
    let alarm = |name: &str, scope: &str| {
        json!({
            "name": name, "scope": scope, "metric": {"fault-rate": {}}, "threshold": 10,
            "period": "1s", "datapoints": "1 of 1", "min_samples": 1
        })
    };
    json!({
        "schema": "tidegate.organisation/1",
        "name": "bench",
        "users": [
            {"name": "alice", "emails": ["alice@example.test"]},
            {"name": "bob", "emails": ["bob@example.test"]}
        ],
        "teams": [{"name": "shop", "members": ["alice", "bob"]}],
        "services": [{
            "name": "shop", "team": "shop",
            "alarms": [alarm("Faults", "service"), alarm("OneBox_Faults", "one-box")]
        }],
        "regions": [{"name": "north", "azs": ["a"], "traffic": 1}]
    })
}

/// Of the one service, from this repository.
pub(crate) fn pipeline(repository: &Path, one_box_bake: &str) -> Result<Value> {
    let bake = json!({"one_box": one_box_bake, "az": "0s", "first_wave": "0s", "second_wave": "0s", "last_wave": "0s"});
    Ok(json!({
        "schema": "tidegate.pipeline/1",
        "name": PIPELINE,
        "service": "shop",
        "sources": [{"name": "code", "url": repository, "poll": "1m"}],
        "build": {"package": [{"from": "start", "to": "start"}, {"from": "mode", "to": "mode"},
            {"from": "version", "to": "version"}]},
        "run": {
            "engine": {"process": {
                "command": ["./start"],
                "health": {"path": "/health", "interval": "100ms", "timeout": "5s", "healthy_after": 1,
                    "unhealthy_after": 3, "start_timeout": "20s"},
                "drain_timeout": "5s", "stop_timeout": "5s"
            }},
            "environment": scene::box_environment()?
        },
        "stages": [{"environment": "production", "boxes_per_az": 3, "one_box": true, "bake": bake}],
        "rolling": {"healthy_for": "0s", "progress_deadline": "30s"}
    }))
}

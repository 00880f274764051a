//! What the demo sets up and takes down: a server and a fleet as processes of their own, repositories, customers and the
//! on-call's webhook. After [`World::end`] nothing is left running.

use super::definitions::{COMMANDS, GAMMA, REGIONS, SERVICES, write, write_place};
use super::hooks::HookReceiver;
use super::load::{LoadGenerator, LoadRequest, LoadTarget};
use super::repo::{ASSETS, BACKEND, FRONTEND, INFRASTRUCTURE, Repo};
use crate::Global;
use crate::client::Client;
use crate::commands::fleet::end;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};
use tidegate_api::{LogEntry, LogPage, Status};
use tidegate_fleet::FleetConfig;
use tidegate_fleet::client::FleetClient;
use tidegate_fleet::protocol::{EndpointKey, SetEndpoint};
use tokio::process::{Child, Command};

/// How long the server may take until it answers.
const START_MAX: Duration = Duration::from_secs(60);
/// How long applying a folder may take.
const APPLY_MAX: Duration = Duration::from_secs(60);
/// How long it is tried to remove the demo's folder.
const REMOVE_MAX: Duration = Duration::from_secs(10);
/// Requests a second to each production endpoint of the frontend; elsewhere and to the backend fewer.
const PRODUCTION_RATE: u32 = 20;

/// Everything that the story plays with.
pub(crate) struct World {
    /// The folder of all of it.
    dir: PathBuf,
    server: Child,
    /// Ctrl-C ends the demo and not the server under it: they are in groups of their own.
    disabled: Vec<String>,
    /// As the administrator.
    pub(crate) admin: Client,
    /// As alice, who writes.
    pub(crate) alice: Client,
    /// As bob, who reviews.
    pub(crate) bob: Client,
    /// The repositories.
    pub(crate) frontend: Repo,
    pub(crate) backend: Repo,
    pub(crate) assets: Repo,
    pub(crate) infrastructure: Repo,
    /// What applying the folder of pipelines said.
    pub(crate) applied: Vec<String>,
    /// Customers.
    pub(crate) load: LoadGenerator,
    /// The on-call's pager.
    pub(crate) pager: HookReceiver,
    /// Everything that was logged so far, in order.
    pub(crate) log: Vec<LogEntry>,
}

impl World {
    /// Sets everything up in a fresh folder. When that fails, nothing is left of it.
    pub(crate) async fn begin(disabled: Vec<String>) -> Result<World, String> {
        let dir = std::env::temp_dir().join(format!("tidegate-demo-{}", std::process::id()));
        let made = World::make(&dir, disabled).await;
        if made.is_err() {
            end_fleet(&dir).await;
            remove(&dir).await;
        }
        made
    }

    async fn make(dir: &Path, disabled: Vec<String>) -> Result<World, String> {
        let dir = dir.to_owned();
        std::fs::create_dir_all(&dir).map_err(|e| format!("cannot make {}: {e}", dir.display()))?;
        let data = dir.join("data");
        let (server, admin) = start_server(&data, "127.0.0.1:0", &disabled).await?;
        let pager = HookReceiver::start().await.map_err(|e| format!("cannot receive webhooks: {e}"))?;
        let repositories = dir.join("repositories");
        let repo = |name: &str, files| Repo::create(&repositories.join(name), files);
        let (frontend, backend) = (repo("frontend", FRONTEND)?, repo("backend", BACKEND)?);
        let (assets, infrastructure) =
            (repo("static-assets", ASSETS)?, repo("infrastructure", INFRASTRUCTURE)?);
        let pipelines = dir.join("pipelines");
        write(&pipelines, &SERVICES)?;
        write_place(&pipelines, &format!("{}/pages", pager.url()), &repositories)?;
        let applied = apply(&pipelines, &data).await?;
        let alice = login(&admin, &data, "alice").await?;
        let bob = login(&admin, &data, "bob").await?;
        let load = LoadGenerator::start(customers(&data).await?);
        let log = Vec::new();
        Ok(World {
            dir,
            server,
            disabled,
            admin,
            alice,
            bob,
            frontend,
            backend,
            assets,
            infrastructure,
            applied,
            load,
            pager,
            log,
        })
    }

    /// Adds the pipelines of the team's own commands to the folder, and applies it again.
    pub(crate) async fn add_command_pipelines(&self) -> Result<Vec<String>, String> {
        write(&self.pipelines(), &COMMANDS)?;
        apply(&self.pipelines(), &self.data()).await
    }

    /// The folder of pipelines.
    pub(crate) fn pipelines(&self) -> PathBuf {
        self.dir.join("pipelines")
    }

    /// The server's data directory, for the user's own commands.
    pub(crate) fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// Kills the server with SIGKILL.
    pub(crate) async fn kill_server(&mut self) -> Result<(), String> {
        self.server.kill().await.map_err(|e| format!("cannot kill the server: {e}"))
    }

    /// Starts the server again.
    pub(crate) async fn restart_server(&mut self) -> Result<(), String> {
        let (server, admin) = start_server(&self.data(), "127.0.0.1:0", &self.disabled).await?;
        self.server = server;
        self.admin = admin;
        self.alice = login(&self.admin, &self.data(), "alice").await?;
        self.bob = login(&self.admin, &self.data(), "bob").await?;
        Ok(())
    }

    /// Reads what was logged since the last call.
    pub(crate) async fn read_log(&mut self) -> Result<(), String> {
        loop {
            let after = self.log.last().map_or(0, |e| e.position);
            let page: LogPage = self
                .admin
                .get(&format!("/v1/log?after={after}&limit=1000"))
                .await
                .map_err(|e| e.to_string())?
                .value;
            if page.entries.is_empty() {
                return Ok(());
            }
            self.log.extend(page.entries);
        }
    }

    /// One pipeline's state.
    pub(crate) async fn status(&self, pipeline: &str) -> Result<Status, String> {
        let answer = self.admin.get(&format!("/v1/status?pipeline={pipeline}")).await;
        Ok(answer.map_err(|e| e.to_string())?.value)
    }

    /// Shows the end of the server's log, for whoever wants to know what went wrong.
    pub(crate) fn show_logs(&self) {
        let said = std::fs::read_to_string(self.data().join("server.log")).unwrap_or_default();
        let lines: Vec<&str> = said.lines().collect();
        eprintln!("the end of the server's log:");
        for line in &lines[lines.len().saturating_sub(20)..] {
            eprintln!("  {line}");
        }
    }

    /// Tells how to look at what runs.
    pub(crate) fn invite(&self) {
        let binary = std::env::current_exe().unwrap_or_else(|_| "tidegate".into());
        tell!("\nThe server runs on. In another terminal:");
        tell!("  export TIDEGATE_DATA={}", self.data().display());
        tell!("  alias tidegate={}", binary.display());
        tell!("  tidegate status        tidegate watch        tidegate why COMMIT");
        tell!("The repositories are in {},", self.dir.join("repositories").display());
        tell!("the pipelines in {}: edit them, then tidegate diff or apply.", self.pipelines().display());
        tell!("Ctrl-C ends everything.");
    }

    /// Ends everything that was started, and removes the folder.
    pub(crate) async fn end(mut self) {
        self.load.stop().await;
        if let Some(pid) = self.server.id() {
            terminate(pid);
        }
        if tokio::time::timeout(Duration::from_secs(10), self.server.wait()).await.is_err() {
            let _ = self.server.kill().await;
        }
        end_fleet(&self.dir).await;
        remove(&self.dir).await;
    }
}

/// Removes the demo's folder; a build that is being ended may still write to it for a moment.
async fn remove(dir: &Path) {
    let begun = Instant::now();
    while let Err(error) = std::fs::remove_dir_all(dir) {
        if error.kind() == std::io::ErrorKind::NotFound {
            return;
        }
        if begun.elapsed() > REMOVE_MAX {
            return eprintln!("{} cannot be removed: {error}", dir.display());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Ends the fleet and its boxes, if one runs, and waits until it is gone.
async fn end_fleet(dir: &Path) {
    let fleet = FleetClient::new(FleetConfig::socket(&dir.join("data").join("fleet")));
    let Ok(status) = fleet.status().await else { return };
    if !matches!(end(&fleet, &status, true).await, Ok(true)) {
        eprintln!("the fleet (process {}) did not end", status.pid);
    }
}

fn terminate(pid: u32) {
    let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
    if let Some(pid) = pid {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    }
}

async fn start_server(data: &Path, listen: &str, disabled: &[String]) -> Result<(Child, Client), String> {
    std::fs::create_dir_all(data).map_err(|e| format!("cannot make {}: {e}", data.display()))?;
    let log = data.join("server.log");
    let open = || std::fs::OpenOptions::new().create(true).append(true).open(&log);
    let (out, err) = (open().map_err(|e| e.to_string())?, open().map_err(|e| e.to_string())?);
    let _ = std::fs::remove_file(data.join("server.json"));
    let mut command = Command::new("/proc/self/exe");
    command.arg("serve").arg("--data").arg(data).arg("--listen").arg(listen);
    for rule in disabled {
        command.arg("--test-only-disable").arg(rule);
    }
    let mut child = command
        .stdin(Stdio::null())
        .stdout(out)
        .stderr(err)
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(|e| format!("cannot start the server: {e}"))?;
    let begun = Instant::now();
    let global = Global { server: None, data: Some(data.to_owned()), json: false };
    loop {
        if let Ok(client) = Client::new(&global)
            && client.get::<Value>("/v1/health").await.is_ok()
        {
            return Ok((child, client));
        }
        if let Ok(Some(status)) = child.try_wait() {
            let said = std::fs::read_to_string(&log).unwrap_or_default();
            return Err(format!("the server ended with {status}:\n{said}"));
        }
        if begun.elapsed() > START_MAX {
            return Err("the server does not answer".to_owned());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Applies a folder as a user does, with the command; returns what it says.
async fn apply(pipelines: &Path, data: &Path) -> Result<Vec<String>, String> {
    let mut command = Command::new("/proc/self/exe");
    command.arg("apply").arg(pipelines).arg("--data").arg(data);
    // What the user's own server is called is nothing to the demo's.
    for variable in ["TIDEGATE_SERVER", "TIDEGATE_DATA", "TIDEGATE_TOKEN"] {
        command.env_remove(variable);
    }
    let running = command.stdin(Stdio::null()).kill_on_drop(true).output();
    let output = tokio::time::timeout(APPLY_MAX, running).await;
    let output = output.map_err(|_| "tidegate apply does not end".to_owned())?;
    let output = output.map_err(|e| format!("cannot start tidegate apply: {e}"))?;
    let [said, talk] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes));
    if !output.status.success() {
        return Err(format!("tidegate apply {} fails:\n{said}{talk}", pipelines.display()));
    }
    Ok(said.lines().map(str::to_owned).collect())
}

async fn login(admin: &Client, data: &Path, user: &str) -> Result<Client, String> {
    let made: Value =
        admin.post("/v1/tokens", &json!({ "user": user })).await.map_err(|e| e.to_string())?.value;
    let token = made["token"].as_str().unwrap_or_default();
    Client::with_token(&Global { server: None, data: Some(data.to_owned()), json: false }, token)
        .map_err(|e| e.to_string())
}

/// Customers of every endpoint, in every environment. They call from the start; what they see counts once a target is armed.
async fn customers(data: &Path) -> Result<Vec<LoadTarget>, String> {
    let fleet = FleetClient::new(FleetConfig::socket(&data.join("fleet")));
    let environments = [
        ("beta", vec![super::definitions::FIRST]),
        ("gamma", GAMMA.to_vec()),
        ("production", REGIONS.to_vec()),
    ];
    let mut all = Vec::new();
    for (environment, regions) in environments {
        for region in regions {
            for service in ["frontend", "backend"] {
                let word = |text: &str| format!("cannot name an endpoint: {text}");
                let endpoint = EndpointKey {
                    service: service.parse().map_err(|_| word(service))?,
                    environment: environment.parse().map_err(|_| word(environment))?,
                    region: region.parse().map_err(|_| word(region))?,
                };
                let set = SetEndpoint { endpoint, listen: None };
                let made = fleet.set_endpoint(&set).await.map_err(|e| e.to_string())?;
                let address = SocketAddr::from(([127, 0, 0, 1], made.port));
                let requests = if service == "frontend" {
                    vec![
                        LoadRequest::get("/"),
                        LoadRequest::get("/items/{n}"),
                        LoadRequest::post("/orders", "item={n}&quantity=1"),
                    ]
                } else {
                    vec![
                        LoadRequest::get("/stock/{n}"),
                        LoadRequest::post("/reserve", "order=o{n}&item={n}&quantity=1"),
                    ]
                };
                // Slow answers must not leave too few connections to see that they are slow.
                let (rate_per_second, connections) = match (environment, service) {
                    ("production", "frontend") => (PRODUCTION_RATE, 12),
                    _ => (10, 4),
                };
                let name = format!("{service}/{environment}/{region}");
                all.push(LoadTarget { name, address, rate_per_second, connections, requests });
            }
        }
    }
    Ok(all)
}

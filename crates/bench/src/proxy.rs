//! The proxy beside HAProxy and nginx: the same upstream, the same clients, the same number of workers, one after the other in
//! each round, so that what else the machine does meets all alike.
//!
//! The upstream is one box of a fleet. Clients, upstream and proxy share all CPUs; so requests a second tell what a user of
//! such a machine gets, and CPU seconds per 1,000 requests what the proxy alone costs.

use crate::load::Outcome;
use crate::machine::{self, Cpu};
use crate::report::{Figure, median};
use crate::scene::{self, BOX_START, Scene, until, until_listening};
use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use tidegate_core::engine::{Desired, Fence, Share};
use tidegate_core::ids::SlotId;
use tidegate_core::run_spec::{BoxLimits, HealthCheck, ProcessSpec, RunSpec, Workload};
use tidegate_core::units::{Span, Timestamp};
use tidegate_fleet::package::{ExternalParameters, PackItem, PackageStore, Provenance, SigningKey, pack};
use tidegate_fleet::protocol::{EndpointKey, SetEndpoint, SetSlot};
use tidegate_fleet::{FleetClient, FleetConfig};
use tokio::process::{Child, Command};

/// Keep-alive connections of the clients.
const CONNECTIONS: u32 = 64;
/// How often each is measured; the median counts.
const ROUNDS: usize = 5;
/// How long one measurement takes.
const SECONDS: f64 = 4.0;
/// A shorter one before the first, which does not count.
const WARM_UP_SECONDS: f64 = 1.0;
/// The share of the better of the others that is the goal.
const GOAL: f64 = 0.75;
/// How long a tracer looks at where the time goes.
const TRACE: Duration = Duration::from_secs(1);
/// How many system calls are named.
const CALLS_TOLD: usize = 5;

/// What is called, directly or through a proxy.
struct Contender {
    name: &'static str,
    address: SocketAddr,
    /// The process whose CPU counts; none for the upstream itself.
    pid: Option<u32>,
    /// That one, and its workers once they are there. The children of a fleet are boxes.
    pids: Vec<u32>,
    runs: Vec<Run>,
    calls: BTreeMap<String, f64>,
}

struct Run {
    load: Outcome,
    cpu: Cpu,
}

/// The medians of one contender.
#[derive(Debug, Serialize)]
struct Medians {
    requests_per_second: f64,
    p50_us: f64,
    p99_us: f64,
    cpu_user_s_per_1000: f64,
    cpu_system_s_per_1000: f64,
    cpu_s_per_1000: f64,
    clients_cpu_s_per_1000: f64,
    system_calls_per_request: BTreeMap<String, f64>,
}

impl Contender {
    fn new(name: &'static str, address: SocketAddr, pid: Option<u32>) -> Contender {
        Contender {
            name,
            address,
            pid,
            pids: pid.into_iter().collect(),
            runs: Vec::new(),
            calls: BTreeMap::new(),
        }
    }

    async fn run(&self, seconds: f64) -> Result<Run> {
        let before = Cpu::of(&self.pids)?;
        let load = call(self.address, seconds).await?;
        let cpu = Cpu::of(&self.pids)? - before;
        ensure!(load.failed == 0, "{} requests to {} failed: {:?}", load.failed, self.name, load.failures);
        Ok(Run { load, cpu })
    }

    fn medians(&self) -> Medians {
        let of = |value: &dyn Fn(&Run) -> f64| median(self.runs.iter().map(value));
        let per_1000 = |run: &Run, seconds: f64| seconds * 1000.0 / run.load.good as f64;
        Medians {
            requests_per_second: of(&|r| r.load.per_second()),
            p50_us: of(&|r| f64::from(r.load.p50_us)),
            p99_us: of(&|r| f64::from(r.load.p99_us)),
            cpu_user_s_per_1000: of(&|r| per_1000(r, r.cpu.user)),
            cpu_system_s_per_1000: of(&|r| per_1000(r, r.cpu.system)),
            cpu_s_per_1000: of(&|r| per_1000(r, r.cpu.total())),
            clients_cpu_s_per_1000: of(&|r| per_1000(r, r.load.cpu.total())),
            system_calls_per_request: self.calls.clone(),
        }
    }
}

/// Measures.
pub(crate) async fn take(scene: &Scene) -> Result<Figure> {
    let dir = scene.folder("proxy")?;
    let (tidegate, upstream) = start_fleet(scene, &dir).await?;
    let workers = machine::cpus();
    let haproxy = start_haproxy(&dir, upstream, workers).await?;
    let nginx = start_nginx(&dir, upstream, workers).await?;
    let mut all = [
        Contender::new("none", upstream, None),
        tidegate,
        Contender::new("haproxy", haproxy.address, haproxy.child.id()),
        Contender::new("nginx", nginx.address, nginx.child.id()),
    ];
    for one in &mut all {
        one.run(WARM_UP_SECONDS).await?;
        if let (Some(pid), "nginx" | "haproxy") = (one.pid, one.name) {
            one.pids = machine::with_children(pid);
        }
    }
    for round in 0..ROUNDS {
        // Another one begins each time, so that nobody always comes after the same.
        for n in 0..all.len() {
            let one = &mut all[(round + n) % 4];
            let run = one.run(SECONDS).await?;
            one.runs.push(run);
        }
    }
    for one in all.iter_mut().filter(|one| !one.pids.is_empty()) {
        one.calls = trace(one).await;
    }
    drop((haproxy, nginx));
    scene.end().await;
    tell(&all, workers)
}

fn tell(all: &[Contender], workers: usize) -> Result<Figure> {
    let medians: BTreeMap<&str, Medians> = all.iter().map(|one| (one.name, one.medians())).collect();
    let mut text = format!(
        "proxy: {CONNECTIONS} keep-alive connections, answers of 1 KiB, {workers} workers each, medians of {ROUNDS} interleaved \
         runs of {SECONDS} s\n{:<10}{:>12}{:>10}{:>10}{:>14}{:>10}{:>10}{:>14}\n",
        "", "requests/s", "p50 ms", "p99 ms", "CPU s/1000", "user", "system", "clients' CPU"
    );
    for one in all {
        let m = &medians[one.name];
        writeln!(
            text,
            "{:<10}{:>12.0}{:>10.2}{:>10.2}{:>14.4}{:>10.4}{:>10.4}{:>14.4}",
            one.name,
            m.requests_per_second,
            m.p50_us / 1000.0,
            m.p99_us / 1000.0,
            m.cpu_s_per_1000,
            m.cpu_user_s_per_1000,
            m.cpu_system_s_per_1000,
            m.clients_cpu_s_per_1000
        )?;
    }
    let (own, haproxy, nginx) = (&medians["tidegate"], &medians["haproxy"], &medians["nginx"]);
    let rate_ratio = own.requests_per_second / haproxy.requests_per_second.max(nginx.requests_per_second);
    let p99_ratio = own.p99_us / haproxy.p99_us.min(nginx.p99_us);
    let cpu_ratio = own.cpu_s_per_1000 / haproxy.cpu_s_per_1000.min(nginx.cpu_s_per_1000);
    let verdict = if rate_ratio >= GOAL { "reached" } else { "missed" };
    writeln!(
        text,
        "tidegate to the better: {rate_ratio:.2} of its requests/s (goal {GOAL}: {verdict}), {p99_ratio:.2} of its p99, \
         {cpu_ratio:.2} of its CPU"
    )?;
    for one in all.iter().filter(|one| !one.calls.is_empty()) {
        let mut calls: Vec<(&String, &f64)> = one.calls.iter().collect();
        calls.sort_by(|a, b| b.1.total_cmp(a.1));
        let words: Vec<String> =
            calls.iter().take(CALLS_TOLD).map(|(name, n)| format!("{name} {n:.2}")).collect();
        writeln!(text, "system calls per request of {}: {}", one.name, words.join(", "))?;
    }
    let values = serde_json::json!({
        "connections": CONNECTIONS, "workers": workers, "rounds": ROUNDS, "seconds": SECONDS, "medians": medians,
        "rate_to_better": rate_ratio, "p99_to_better": p99_ratio, "cpu_to_better": cpu_ratio, "goal": GOAL,
    });
    Figure::new("proxy", text, values)
}

/// Generates load in a process of its own.
async fn call(address: SocketAddr, seconds: f64) -> Result<Outcome> {
    let program = std::env::current_exe().context("failed to find this program")?;
    let output = Command::new(program)
        .args(["load", "--address", &address.to_string(), "--connections", &CONNECTIONS.to_string()])
        .args(["--seconds", &seconds.to_string()])
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .process_group(0)
        .kill_on_drop(true)
        .output()
        .await
        .context("failed to generate load")?;
    ensure!(output.status.success(), "the load generator ended with {}", output.status);
    serde_json::from_slice(&output.stdout).context("failed to read what the load generator told")
}

/// System calls per request, counted by strace under load; nothing where it is not there or may not look.
async fn trace(one: &Contender) -> BTreeMap<String, f64> {
    let mut command = Command::new("strace");
    command
        .args(["-f", "-c", "-U", "name,calls"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    for pid in &one.pids {
        command.args(["-p", &pid.to_string()]);
    }
    let Ok(tracer) = command.kill_on_drop(true).spawn() else { return BTreeMap::new() };
    let Some(pid) = tracer.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw) else {
        return BTreeMap::new();
    };
    let Ok(load) = call(one.address, TRACE.as_secs_f64()).await else { return BTreeMap::new() };
    let _ = kill_process(pid, Signal::INT);
    let Ok(Ok(output)) = tokio::time::timeout(scene::START_MAX, tracer.wait_with_output()).await else {
        return BTreeMap::new();
    };
    let text = String::from_utf8_lossy(&output.stderr);
    let count = |line: &str| {
        let (name, calls) = line.trim().split_once(char::is_whitespace)?;
        let calls: f64 = calls.trim().parse().ok()?;
        (name != "total").then(|| (name.to_owned(), calls / load.good as f64))
    };
    text.lines().filter_map(count).filter(|(_, calls)| *calls >= 0.005).collect()
}

/// A fleet with one box, which is everybody's upstream.
async fn start_fleet(scene: &Scene, dir: &Path) -> Result<(Contender, SocketAddr)> {
    let (data, packages, keys) = (dir.join("fleet"), dir.join("packages"), dir.join("trusted.pub"));
    let key = SigningKey::load_or_create(&dir.join("signing.key"), &keys).context("failed to make a key")?;
    let mut files = Vec::new();
    for (name, text) in [("start", BOX_START), ("mode", "good")] {
        let path = dir.join(name);
        std::fs::write(&path, text)?;
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        files.push(PackItem { from: path, to: name.into() });
    }
    let mut archive = Vec::new();
    pack(&files, &mut archive).context("failed to pack")?;
    let parameters = ExternalParameters::default();
    let provenance = Provenance::new(parameters, Vec::new(), key.key_id(), Timestamp(0), Timestamp(1));
    let package = PackageStore::open(&packages)?.put(&archive[..], "box", provenance, &key)?;
    let run_spec = RunSpec {
        service: "shop".parse()?,
        package,
        environment: scene::box_environment()?,
        secrets: BTreeMap::new(),
        endpoints: BTreeMap::new(),
        workload: Workload::Process(ProcessSpec {
            command: vec!["./start".to_owned()],
            health: HealthCheck {
                path: "/health".to_owned(),
                interval: Span::seconds(1),
                timeout: Span::seconds(5),
                healthy_after: 1,
                unhealthy_after: 3,
                start_timeout: Span::seconds(30),
            },
            limits: BoxLimits::default(),
            drain_timeout: Span::seconds(5),
            stop_timeout: Span::seconds(5),
        }),
    };
    let slot = SlotId { target: "shop/production/north/a/main".parse()?, pipeline: "shop-app".parse()? };
    scene.end_fleet_in(&data);
    let mut command = scene::command(&scene.tidegate, &dir.join("fleet.log"))?;
    command.args(["fleet", "run"]).arg("--data").arg(&data).arg("--packages").arg(&packages);
    // Its boxes need an orderly end, so it does not end with its handle.
    let _fleet = command.arg("--trusted-keys").arg(&keys).kill_on_drop(false).spawn()?;
    let fleet = FleetClient::new(FleetConfig::socket(&data));
    let pid = until("the fleet answers", async || Ok(fleet.status().await.ok().map(|s| s.pid))).await?;
    let key = EndpointKey::of(&slot.target);
    let share = Share { run_spec: run_spec.digest(), boxes: 1 };
    let set = SetSlot {
        slot,
        fence: Fence { epoch: 1, generation: 1 },
        desired: Desired {
            split: vec![share],
            condemned: Vec::new(),
            minimum_serving: 0,
            surge: false,
            rest: None,
        },
        run_specs: vec![run_spec],
        secrets: BTreeMap::new(),
        rollback: false,
        takes_up: None,
        acknowledges: None,
        glass: None,
    };
    fleet.set_slot(&set).await.context("failed to start the upstream")?;
    let endpoint = fleet.set_endpoint(&SetEndpoint { endpoint: key, listen: None }).await?;
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, endpoint.port));
    let http = reqwest::Client::builder().no_proxy().build()?;
    let upstream = until("the upstream serves", async || {
        let Ok(answer) = http.get(format!("http://{address}/address")).send().await else { return Ok(None) };
        Ok(answer.text().await.ok().and_then(|text| text.parse().ok()))
    })
    .await?;
    Ok((Contender::new("tidegate", address, Some(pid)), upstream))
}

/// Another proxy; it and its workers end with this value.
struct Other {
    child: Child,
    address: SocketAddr,
}

impl Drop for Other {
    fn drop(&mut self) {
        let group = self.child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
        if let Some(group) = group {
            // It may have ended by itself.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

/// Tries another port when somebody else took the one that was free.
async fn start_other(
    name: &str,
    dir: &Path,
    config: impl Fn(SocketAddr) -> String,
    arguments: impl Fn(&Path) -> Vec<String>,
) -> Result<Other> {
    const TRIES: usize = 3;
    let (file, log) = (dir.join(format!("{name}.conf")), dir.join(format!("{name}.log")));
    for _ in 0..TRIES {
        let address = scene::free_address()?;
        std::fs::write(&file, config(address))?;
        let mut command = scene::command(name, &log)?;
        // Servers are in sbin, which is not in every user's path.
        let path = std::env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("{path}:/usr/sbin:/sbin")).args(arguments(&file));
        let mut child = command.spawn().with_context(|| format!("failed to start {name}"))?;
        if until_listening(name, &mut child, address).await.is_ok() {
            return Ok(Other { child, address });
        }
    }
    bail!("{name} does not start: {}", std::fs::read_to_string(&log).unwrap_or_default().trim())
}

async fn start_haproxy(dir: &Path, upstream: SocketAddr, workers: usize) -> Result<Other> {
    let config = |address: SocketAddr| {
        format!(
            "global\n  nbthread {workers}\n  maxconn 4096\n\
             defaults\n  mode http\n  option forwardfor\n  http-reuse always\n\
               timeout connect 5s\n  timeout client 60s\n  timeout server 60s\n\
             frontend clients\n  bind {address}\n  default_backend boxes\n\
             backend boxes\n  server upstream {upstream}\n"
        )
    };
    start_other("haproxy", dir, config, |file| {
        vec!["-db".to_owned(), "-f".to_owned(), file.display().to_string()]
    })
    .await
}

async fn start_nginx(dir: &Path, upstream: SocketAddr, workers: usize) -> Result<Other> {
    let prefix = dir.join("nginx");
    std::fs::create_dir_all(&prefix)?;
    let config = |address: SocketAddr| {
        format!(
            "daemon off; worker_processes {workers}; pid nginx.pid; error_log stderr error;\n\
             events {{ worker_connections 4096; }}\n\
             http {{\n  access_log off;\n\
               client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path f; uwsgi_temp_path u; scgi_temp_path s;\n\
               keepalive_requests 1000000000;\n\
               upstream boxes {{ server {upstream}; keepalive {CONNECTIONS}; keepalive_requests 1000000000; }}\n\
               server {{\n    listen {address};\n    location / {{\n      proxy_pass http://boxes;\n\
                   proxy_http_version 1.1;\n      proxy_set_header Connection \"\";\n      proxy_set_header Host $http_host;\n\
                   proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;\n    }}\n  }}\n}}\n"
        )
    };
    let prefix = format!("{}/", prefix.display());
    start_other("nginx", dir, config, |file| {
        vec![
            "-e".to_owned(),
            "stderr".to_owned(),
            "-p".to_owned(),
            prefix.clone(),
            "-c".to_owned(),
            file.display().to_string(),
        ]
    })
    .await
}

//! `tidegate fleet`: the local data plane.

use crate::Global;
use crate::error::CliError;
use crate::logging::{self, LogFormat};
use crate::text::{clean, print};
use clap::{Args, Subcommand};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tidegate_core::engine::{BoxObservation, Observation};
use tidegate_core::ids::{PipelineId, RunSpecDigest, SlotId, TargetId};
use tidegate_core::run_spec::RunSpec;
use tidegate_fleet::client::FleetClient;
use tidegate_fleet::protocol::{BreakGlass, PutBack, Status, Stop};
use tidegate_fleet::{FleetConfig, may_go_back_to};
use tidegate_server::owner::{may_look, may_write};

/// The local fleet: supervises boxes and is the proxy to them. A process of its own that outlives the server.
#[derive(Debug, Args)]
pub(crate) struct Options {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Run a fleet on a folder of its own (--data). The server does this by itself.
    Run(RunOptions),
    /// Show whether the fleet of a server's data directory (--data) runs, and what each target has. The server need not.
    Status,
    /// Let the program that is on disk now take over, without a failed request. To be run after a new binary was put in
    /// its place.
    Upgrade,
    Rollback(RollbackOptions),
    /// End the fleet of a server's data directory (--data); a server that still runs starts it again. Boxes run on without
    /// their proxy, and the next fleet finds them; with --boxes they are drained and end as well.
    Stop {
        /// End the boxes too.
        #[arg(long)]
        boxes: bool,
    },
}

/// Break glass: put a target back to what it ran before, at the machine, with the server dead or its disk lost.
///
/// The fleet remembers what each target was whole with, and its packages are kept near. The newest whose signature and checksum are
/// right goes back to all boxes, each new box healthy before an old one leaves. The deed is recorded, survives restarts, and no
/// command of a server undoes it that has not seen it: when a server returns it takes the deed as your word against the release
/// that was there, which is rejected, and goes on from what you put back. While the server is well, use 'tidegate rollback' (with
/// --everywhere for what had finished).
#[derive(Debug, Args)]
struct RollbackOptions {
    /// The target, such as web/production/north/a/main.
    target: TargetId,
    /// Its slot of this pipeline, where it has several.
    #[arg(long)]
    pipeline: Option<PipelineId>,
    /// To this RunSpec instead of the newest before: the beginning of its digest, as 'tidegate fleet status' tells it.
    #[arg(long, value_name = "DIGEST")]
    to: Option<String>,
    /// Why; it stands in the log when the server returns.
    #[arg(long)]
    reason: String,
}

/// How long a fleet may take until it has ended, or until the next one has taken over: boxes are drained meanwhile.
pub(crate) const CHANGE_MAX: Duration = Duration::from_secs(60);
/// The fewest digits of a digest that name a RunSpec.
const TO_MIN: usize = 4;
/// How often it is asked meanwhile.
const CHANGE_LOOK: Duration = Duration::from_millis(50);

#[derive(Debug, Args)]
struct RunOptions {
    /// The package store.
    #[arg(long, value_name = "DIR")]
    packages: PathBuf,
    /// The keys whose signatures count.
    #[arg(long, value_name = "FILE")]
    trusted_keys: PathBuf,
    /// Take over from the fleet that runs on this folder, without a failed request: an upgrade.
    #[arg(long)]
    take_over: bool,
}

pub(crate) async fn run(global: &Global, options: Options) -> Result<(), CliError> {
    let data =
        global.data.clone().ok_or_else(|| CliError::Usage("which fleet? give --data DIR".to_owned()))?;
    let own = if matches!(options.action, Action::Run(_)) { may_write(&data) } else { may_look(&data) };
    own.map_err(|error| CliError::failed("reach the fleet", error))?;
    match options.action {
        Action::Run(options) => run_fleet(data, options).await,
        Action::Status => status(global, data).await,
        Action::Upgrade => upgrade(data).await,
        Action::Rollback(options) => roll_back(global, data, options).await,
        Action::Stop { boxes } => stop(data, boxes).await,
    }
}

async fn run_fleet(data: PathBuf, options: RunOptions) -> Result<(), CliError> {
    logging::begin(LogFormat::Text, false, None)?;
    let program = std::env::current_exe().map_err(|e| CliError::failed("find this program", e))?;
    // A server that starts it after its file was replaced is named so by the system; the successor is the file that is there.
    let replaced = program.to_str().and_then(|name| name.strip_suffix(" (deleted)")).map(PathBuf::from);
    let program = replaced.unwrap_or(program);
    let mut upgrade: Vec<OsString> = vec![program.into(), "fleet".into(), "run".into()];
    for (option, path) in
        [("--data", &data), ("--packages", &options.packages), ("--trusted-keys", &options.trusted_keys)]
    {
        upgrade.extend([option.into(), path.into()]);
    }
    upgrade.push("--take-over".into());
    let mut config = FleetConfig::new(data, options.packages, options.trusted_keys);
    config.take_over = options.take_over;
    config.upgrade_command = upgrade;
    tidegate_fleet::run(config).await.map_err(|error| CliError::failed("run the fleet", error))
}

/// The fleet of a data directory, which answers, and what it says of itself.
async fn reach(data: &Path) -> Result<(FleetClient, Status), CliError> {
    let socket = FleetConfig::socket(&data.join("fleet"));
    let client = FleetClient::new(&socket);
    let status = client.status().await.map_err(|error| {
        let start = "a server starts one ('systemctl start tidegate'), or 'tidegate fleet run'";
        CliError::Unreachable(format!("no fleet answers at {}: {error}; {start}", socket.display()))
    })?;
    Ok((client, status))
}

async fn upgrade(data: PathBuf) -> Result<(), CliError> {
    let (client, before) = reach(&data).await?;
    let next = client.upgrade().await.map_err(|error| CliError::failed("upgrade the fleet", error))?;
    let begun = Instant::now();
    while begun.elapsed() < CHANGE_MAX {
        if let Ok(now) = client.status().await
            && now.pid == next.pid
        {
            let (was, is) = (before.version, now.version);
            return print(&format!(
                "process {} (version {is}) took over from {} ({was})\n",
                now.pid, before.pid
            ));
        }
        tokio::time::sleep(CHANGE_LOOK).await;
    }
    let why = format!("process {} has not taken over; the old one goes on", next.pid);
    Err(CliError::failed("upgrade the fleet", std::io::Error::other(why)))
}

async fn roll_back(global: &Global, data: PathBuf, options: RollbackOptions) -> Result<(), CliError> {
    let (client, _) = reach(&data).await?;
    let RollbackOptions { target, pipeline, to, reason } = options;
    let reason = reason.trim().to_owned();
    if reason.is_empty() {
        return Err(CliError::Usage("a reason is missing: say why, it stands in the log".to_owned()));
    }
    let to = match to {
        Some(begins) => Some(remembered(&client, &data, &target, pipeline.as_ref(), &begins).await?),
        None => None,
    };
    let order = BreakGlass { target, pipeline, to, by: user(), reason };
    let done: PutBack =
        client.break_glass(&order).await.map_err(|error| CliError::failed("put the target back", error))?;
    for passed in &done.passed_over {
        eprintln!("note: passed over {}", clean(passed));
    }
    let observed = settled(&client, &done).await?;
    if global.json {
        let answer =
            serde_json::json!({ "version": tidegate_api::VERSION, "put_back": done, "healthy": observed });
        return print(&format!("{answer}\n"));
    }
    print(&format!(
        "{} runs RunSpec {} again, {observed} of {} boxes are healthy\n",
        done.slot.target,
        short(&done.glass.run_spec),
        done.boxes
    ))
}

/// The one RunSpec whose digest begins so, of those that a target may go back to.
async fn remembered(
    client: &FleetClient,
    data: &Path,
    target: &TargetId,
    pipeline: Option<&PipelineId>,
    begins: &str,
) -> Result<RunSpecDigest, CliError> {
    let failed = |why: String| CliError::Failed { what: "put the target back".to_owned(), why };
    // A whole one is the fleet's to judge.
    if let Ok(whole) = begins.parse() {
        return Ok(whole);
    }
    if begins.len() < TO_MIN {
        return Err(CliError::Usage(format!("--to wants {TO_MIN} digits of a RunSpec's digest, or more")));
    }
    let seen = client.slots().await.map_err(|error| CliError::failed("look at the fleet", error))?;
    let slots = seen.observations.into_iter().map(|seen| seen.slot);
    let of = |slot: &SlotId| &slot.target == target && pipeline.is_none_or(|name| &slot.pipeline == name);
    let mut known = BTreeSet::new();
    for slot in slots.filter(of) {
        let all = may_go_back_to(&data.join("fleet"), &slot);
        let all = all.map_err(|error| CliError::failed(format!("read what {slot} ran before"), error))?;
        known.extend(all.iter().map(RunSpec::digest));
    }
    let mut found = known.iter().filter(|digest| digest.as_str().starts_with(begins));
    match (found.next(), found.next()) {
        (Some(one), None) => Ok(one.clone()),
        (Some(_), Some(_)) => Err(failed(format!("several RunSpecs of {target} begin with {begins}"))),
        (None, _) => {
            let known: Vec<String> = known.iter().map(short).collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            Err(failed(format!(
                "{target} may go back to no RunSpec that begins with '{begins}', but to {known}"
            )))
        }
    }
}

/// Waits until the boxes are those that were put back, for as long as a change may take; how many are healthy.
async fn settled(client: &FleetClient, done: &PutBack) -> Result<usize, CliError> {
    let begun = Instant::now();
    loop {
        let seen = client.slots().await.map_err(|error| CliError::failed("look at the fleet", error))?;
        let slot = seen.observations.into_iter().find(|seen| seen.slot == done.slot);
        let boxes = slot.map(|seen| seen.boxes).unwrap_or_default();
        let right = |b: &&BoxObservation| b.run_spec == done.glass.run_spec && b.health.is_healthy();
        let healthy = boxes.iter().filter(right).count();
        let whole = healthy == done.boxes as usize && boxes.len() == healthy;
        if whole || begun.elapsed() > CHANGE_MAX {
            return Ok(healthy);
        }
        tokio::time::sleep(CHANGE_LOOK).await;
    }
}

/// Who sits at the machine: behind `sudo` the person, and not root.
fn user() -> String {
    let name = |variable: &str| std::env::var(variable).ok().filter(|name| !name.is_empty());
    let named = name("SUDO_USER").or_else(|| name("USER")).or_else(|| name("LOGNAME"));
    clean(&named.unwrap_or_else(|| format!("uid {}", rustix::process::getuid().as_raw())))
}

async fn stop(data: PathBuf, boxes: bool) -> Result<(), CliError> {
    let (client, status) = reach(&data).await?;
    if end(&client, &status, boxes).await? {
        let rest = if boxes { "with its boxes" } else { "its boxes run on" };
        return print(&format!("the fleet has ended, {rest}\n"));
    }
    let why = format!("process {} still runs after {} s", status.pid, CHANGE_MAX.as_secs());
    Err(CliError::failed("end the fleet", std::io::Error::other(why)))
}

/// Ends a fleet and waits until its process is gone; whether it is.
pub(crate) async fn end(client: &FleetClient, status: &Status, boxes: bool) -> Result<bool, CliError> {
    client.stop(Stop { boxes }).await.map_err(|error| CliError::failed("end the fleet", error))?;
    // A process that has ended and that nobody has waited for has an empty command line.
    let runs = || std::fs::read(format!("/proc/{}/cmdline", status.pid)).is_ok_and(|line| !line.is_empty());
    let begun = Instant::now();
    while runs() && begun.elapsed() < CHANGE_MAX {
        tokio::time::sleep(CHANGE_LOOK).await;
    }
    Ok(!runs())
}

async fn status(global: &Global, data: PathBuf) -> Result<(), CliError> {
    let (client, status) = reach(&data).await?;
    let slots = match client.slots().await {
        Ok(seen) => Some(seen.observations),
        // Of itself every fleet tells, and who asks may have nothing else.
        Err(error) => {
            eprintln!("tidegate: {error}");
            None
        }
    };
    if global.json {
        let before: Option<Vec<_>> = slots.as_ref().map(|slots| {
            let back = |seen: &Observation| -> Option<Vec<RunSpecDigest>> {
                let known = may_go_back_to(&data.join("fleet"), &seen.slot).ok()?;
                Some(known.iter().filter(|each| !runs(&seen.boxes, each)).map(RunSpec::digest).collect())
            };
            slots.iter().map(|seen| serde_json::json!({"slot": seen.slot, "run_specs": back(seen)})).collect()
        });
        let answer = serde_json::json!({
            "version": tidegate_api::VERSION, "fleet": status, "slots": slots, "before": before
        });
        return print(&format!("{answer}\n"));
    }
    let mut out = format!(
        "the fleet runs: process {}, {} boxes, version {}\n",
        status.pid, status.boxes, status.version
    );
    let mut slots = slots.unwrap_or_default();
    slots.sort_by(|a, b| a.slot.cmp(&b.slot));
    for slot in slots {
        out.push_str(&format!("  {}  {}: {}\n", slot.slot.target, slot.slot.pipeline, boxes(&slot.boxes)));
        if let Some(glass) = slot.glass {
            let why = clean(&glass.reason);
            out.push_str(&format!("    put back at the machine by {}: {why}\n", clean(&glass.by)));
        }
        match may_go_back_to(&data.join("fleet"), &slot.slot) {
            // Where something was put back, what it runs is among what it ran before.
            Ok(before) => before.iter().filter(|each| !runs(&slot.boxes, each)).for_each(|run_spec| {
                let package: String = run_spec.package.as_str().chars().take(12).collect();
                let digest = short(&run_spec.digest());
                out.push_str(&format!("    ran RunSpec {digest} before (package {package})\n"));
            }),
            Err(error) => eprintln!("tidegate: cannot read what {} ran before: {error}", slot.slot),
        }
    }
    print(&out)
}

/// `3 boxes run RunSpec 0123456789ab, 2 of them healthy`.
fn boxes(boxes: &[BoxObservation]) -> String {
    let mut by_run_spec: BTreeMap<&RunSpecDigest, (usize, usize)> = BTreeMap::new();
    for each in boxes {
        let (all, healthy) = by_run_spec.entry(&each.run_spec).or_default();
        *all += 1;
        *healthy += usize::from(each.health.is_healthy());
    }
    let told = by_run_spec.into_iter().map(|(run_spec, (all, healthy))| {
        let plural = if all == 1 { "box runs" } else { "boxes run" };
        format!("{all} {plural} RunSpec {}, {healthy} of them healthy", short(run_spec))
    });
    let told: Vec<String> = told.collect();
    if told.is_empty() { "no boxes".to_owned() } else { told.join("; ") }
}

fn runs(boxes: &[BoxObservation], run_spec: &RunSpec) -> bool {
    let digest = run_spec.digest();
    boxes.iter().any(|each| each.run_spec == digest)
}

fn short(digest: &RunSpecDigest) -> String {
    digest.as_str().chars().take(12).collect()
}

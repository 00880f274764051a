//! `tidegate fleet`: the local data plane.

use crate::Global;
use crate::error::CliError;
use crate::logging::{self, LogFormat};
use crate::text::print;
use clap::{Args, Subcommand};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tidegate_fleet::FleetConfig;
use tidegate_fleet::client::FleetClient;
use tidegate_fleet::protocol::{Status, Stop};

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
    /// Show whether the fleet of a server's data directory (--data) runs. The server need not.
    Status,
    /// Let the program that is on disk now take over, without a failed request. To be run after a new binary was put in
    /// its place.
    Upgrade,
    /// End the fleet of a server's data directory (--data); a server that still runs starts it again. Boxes run on without
    /// their proxy, and the next fleet finds them; with --boxes they are drained and end as well.
    Stop {
        /// End the boxes too.
        #[arg(long)]
        boxes: bool,
    },
}

/// How long a fleet may take until it has ended, or until the next one has taken over: boxes are drained meanwhile.
pub(crate) const CHANGE_MAX: Duration = Duration::from_secs(60);
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
    match options.action {
        Action::Run(options) => run_fleet(data, options).await,
        Action::Status => status(global, data).await,
        Action::Upgrade => upgrade(data).await,
        Action::Stop { boxes } => stop(data, boxes).await,
    }
}

async fn run_fleet(data: PathBuf, options: RunOptions) -> Result<(), CliError> {
    logging::begin(LogFormat::Text, false);
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
        CliError::Unreachable(format!("no fleet answers at {}: {error}", socket.display()))
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
    let (_, status) = reach(&data).await?;
    if global.json {
        let answer = serde_json::json!({ "version": tidegate_api::VERSION, "fleet": status });
        return print(&format!("{answer}\n"));
    }
    print(&format!(
        "the fleet runs: process {}, {} boxes, version {}\n",
        status.pid, status.boxes, status.version
    ))
}

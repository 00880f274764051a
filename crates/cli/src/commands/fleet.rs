//! `tidegate fleet`: the local data plane.

use crate::Global;
use crate::error::CliError;
use crate::text::print;
use clap::{Args, Subcommand};
use std::ffi::OsString;
use std::io::IsTerminal;
use std::path::PathBuf;
use tidegate_fleet::FleetConfig;
use tidegate_fleet::client::FleetClient;
use tracing_subscriber::EnvFilter;

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
}

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
    }
}

async fn run_fleet(data: PathBuf, options: RunOptions) -> Result<(), CliError> {
    log_to_stderr();
    let program = std::env::current_exe().map_err(|e| CliError::failed("find this program", e))?;
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

async fn status(global: &Global, data: PathBuf) -> Result<(), CliError> {
    let socket = FleetConfig::socket(&data.join("fleet"));
    let client = FleetClient::new(&socket);
    let status = client.status().await.map_err(|error| {
        CliError::Unreachable(format!("no fleet answers at {}: {error}", socket.display()))
    })?;
    if global.json {
        let answer = serde_json::json!({ "version": tidegate_api::VERSION, "fleet": status });
        return print(&format!("{answer}\n"));
    }
    print(&format!(
        "the fleet runs: process {}, {} boxes, version {}\n",
        status.pid, status.boxes, status.version
    ))
}

/// What long-running commands have to say goes to stderr; `TIDEGATE_LOG` chooses how much, `info` without it.
pub(crate) fn log_to_stderr() {
    let filter = EnvFilter::try_from_env("TIDEGATE_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    // Fails only if there is a subscriber already, and then that one is right.
    let colours = std::io::stderr().is_terminal();
    let log =
        tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colours).with_writer(std::io::stderr);
    let _ = log.try_init();
}

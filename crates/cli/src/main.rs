//! The tidegate command: the server, the fleet, and everything that people tell them. One command per file in `commands`;
//! a command's doc comment is its manual.
//!
//! Data goes to stdout and talk to stderr. Exit codes are a contract: see [`error`].

mod client;
mod commands;
mod demo;
mod error;
mod folder;
mod logging;
mod render;
mod service;
mod sse;
mod text;

use clap::{Args, Parser, Subcommand};
use commands as c;
use error::CliError;
use std::path::PathBuf;
use std::process::ExitCode;

/// Takes every reviewed commit to production safely and by itself, and takes it back by itself.
///
/// Exit codes: 0 done; 1 an error; 2 wrong usage; 3 the server refused; 4 the server cannot be reached;
/// 130 interrupted.
#[derive(Debug, Parser)]
#[command(name = "tidegate", version = env!("TIDEGATE_VERSION"), propagate_version = true)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// How the server is found, and how answers are told.
///
/// The token is read from TIDEGATE_TOKEN, or else from the data directory, which is the first administrator's.
#[derive(Debug, Clone, Args)]
struct Global {
    /// Where the server is, such as http://127.0.0.1:7420.
    #[arg(long, global = true, env = "TIDEGATE_SERVER", value_name = "URL")]
    server: Option<String>,
    /// The server's data directory, on this machine: its address and the administrator's token are found there.
    #[arg(long, global = true, env = "TIDEGATE_DATA", value_name = "DIR")]
    data: Option<PathBuf>,
    /// Print the answer as JSON, in the shape of the API.
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    Demo(demo::Options),
    Serve(c::serve::Options),
    Fleet(c::fleet::Options),
    Status(c::status::Options),
    Watch(c::watch::Options),
    Why(c::why::Options),
    Log(c::log::Options),
    BuildLog(c::build_log::Options),
    Adopt(c::adopt::Options),
    Approve(c::approve::Options),
    Hold(c::hold::Options),
    Unhold(c::unhold::Options),
    Override(c::override_::Options),
    Skip(c::skip::Options),
    Unskip(c::unskip::Options),
    Rollback(c::rollback::Options),
    Retry(c::retry::Options),
    Retire(c::retire::Options),
    Alarm(c::alarm::Options),
    Init(c::init::Options),
    Synth(c::synth::Options),
    Check(c::check::Options),
    Diff(c::diff::Options),
    Apply(c::apply::Options),
    Simulate(c::simulate::Options),
    Packages(c::packages::Options),
    Secret(c::secret::Options),
    Backup(c::backup::Options),
    Restore(c::restore::Options),
    Gc(c::gc::Options),
    Doctor(c::doctor::Options),
    Token(c::token::Options),
    Endpoints(c::endpoints::Options),
    #[command(hide = true)]
    Sim(c::sim::Options),
    #[command(hide = true)]
    Fuzz(c::fuzz::Options),
}

fn main() -> ExitCode {
    // Before there are threads, and before anything is read: it gives up most of what a process has.
    if std::env::args_os().nth(1).is_some_and(|word| word == folder::CHILD) {
        return tidegate_synth::child::main();
    }
    let cli = Cli::parse();
    let json = cli.global.json;
    // These wait for nothing but their child: threads for many tasks would only cost their start.
    let alone = match cli.command {
        Command::Synth(options) => c::synth::run(&cli.global, options),
        Command::Check(options) => c::check::run(&cli.global, options),
        command => return in_runtime(cli.global, command),
    };
    alone.map_or_else(|error| error.report(json), |()| ExitCode::SUCCESS)
}

fn in_runtime(global: Global, command: Command) -> ExitCode {
    let json = global.json;
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return CliError::failed("start", error).report(json),
    };
    match runtime.block_on(run(&global, command)) {
        Ok(code) => code,
        Err(error) => error.report(json),
    }
}

async fn run(global: &Global, command: Command) -> Result<ExitCode, CliError> {
    match command {
        // Those whose exit code says more than that they are done.
        Command::Diff(options) => return c::diff::run(global, options).await,
        Command::Doctor(options) => return c::doctor::run(global, options).await,
        Command::Demo(options) => demo::run(options).await,
        Command::Serve(options) => c::serve::run(global, options).await,
        Command::Fleet(options) => c::fleet::run(global, options).await,
        Command::Status(options) => c::status::run(global, options).await,
        Command::Watch(options) => c::watch::run(global, options).await,
        Command::Why(options) => c::why::run(global, options).await,
        Command::Log(options) => c::log::run(global, options).await,
        Command::BuildLog(options) => c::build_log::run(global, options).await,
        Command::Adopt(options) => c::adopt::run(global, options).await,
        Command::Approve(options) => c::approve::run(global, options).await,
        Command::Hold(options) => c::hold::run(global, options).await,
        Command::Unhold(options) => c::unhold::run(global, options).await,
        Command::Override(options) => c::override_::run(global, options).await,
        Command::Skip(options) => c::skip::run(global, options).await,
        Command::Unskip(options) => c::unskip::run(global, options).await,
        Command::Rollback(options) => c::rollback::run(global, options).await,
        Command::Retry(options) => c::retry::run(global, options).await,
        Command::Retire(options) => c::retire::run(global, options).await,
        Command::Alarm(options) => c::alarm::run(global, options).await,
        Command::Init(options) => c::init::run(global, options).await,
        Command::Synth(options) => c::synth::run(global, options),
        Command::Check(options) => c::check::run(global, options),
        Command::Apply(options) => c::apply::run(global, options).await,
        Command::Simulate(options) => c::simulate::run(global, options).await,
        Command::Packages(options) => c::packages::run(global, options).await,
        Command::Secret(options) => c::secret::run(global, options).await,
        Command::Token(options) => c::token::run(global, options).await,
        Command::Gc(options) => c::gc::run(global, options).await,
        Command::Backup(options) => c::backup::run(global, options).await,
        Command::Restore(options) => c::restore::run(global, options).await,
        Command::Endpoints(options) => c::endpoints::run(global, options).await,
        Command::Sim(options) => c::sim::run(global, options).await,
        Command::Fuzz(options) => c::fuzz::run(global, options),
    }?;
    Ok(ExitCode::SUCCESS)
}

//! Measures what docs/benchmarks.md tells: `./run bench`. A development tool in a crate of its own, so that no load generator
//! and no other proxy's configuration is part of the product.
//!
//! What must hold: the release build of `tidegate` is what is measured, through its own interfaces; everything is on
//! loopback, bounded in time, and ends with this program.

mod alarm;
mod box_server;
mod commits;
mod decide;
mod load;
mod machine;
mod many;
mod proxy;
mod report;
mod rollouts;
mod scale;
mod scene;
mod server;
mod shop;
mod simulate;
mod simulator;
mod start;
mod synth;
mod under_load;

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand, ValueEnum};
use report::Figure;
use scene::Scene;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use tidegate_core::units::Timestamp;
use tokio::signal::unix::{SignalKind, signal};

/// How long all figures together may take.
const ALL_MAX: Duration = Duration::from_secs(30 * 60);

/// Measures tidegate.
#[derive(Debug, Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Take figures; all of them unless some are named.
    Run(RunOptions),
    /// Serve as a box of a fleet.
    #[command(hide = true)]
    Box { mode: Mode },
    /// Hold a runtime that has nothing to do, and print what it needs, as JSON.
    #[command(hide = true)]
    Idle { data: PathBuf, at_ms: i64 },
    /// Generate load and print what became of it, as JSON.
    #[command(hide = true)]
    Load(LoadOptions),
}

#[derive(Debug, Args)]
struct RunOptions {
    /// The release build to be measured.
    #[arg(long, value_name = "FILE")]
    tidegate: PathBuf,
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
    /// Which figures.
    names: Vec<Name>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Name {
    Proxy,
    Rollouts,
    Alarm,
    Decide,
    Simulate,
    Commits,
    Start,
    Scale,
    RollbackUnderLoad,
    Simulator,
    Synth,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Mode {
    Good,
    Bad,
}

#[derive(Debug, Args)]
struct LoadOptions {
    #[arg(long)]
    address: SocketAddr,
    #[arg(long)]
    connections: u32,
    #[arg(long)]
    seconds: f64,
}

fn main() -> ExitCode {
    // The HTTP client needs one, although nothing here is encrypted. It fails only if there is one already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    match Cli::parse().command {
        Command::Run(options) => told(in_runtime(true, run(options))),
        Command::Box { mode } => told(in_runtime(false, box_server::run(mode == Mode::Bad))),
        Command::Idle { data, at_ms } => told(scale::idle(&data, Timestamp(at_ms))),
        Command::Load(options) => told(in_runtime(false, generate(options))),
    }
}

fn in_runtime(many_threads: bool, work: impl Future<Output = Result<()>>) -> Result<()> {
    let mut builder = if many_threads {
        tokio::runtime::Builder::new_multi_thread()
    } else {
        tokio::runtime::Builder::new_current_thread()
    };
    builder.enable_all().build().context("failed to start")?.block_on(work)
}

fn told(result: Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn generate(options: LoadOptions) -> Result<()> {
    let LoadOptions { address, connections, seconds } = options;
    let load = load::Load::start(load::Plan { address, connections, per_second: None, posts: false })?;
    tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
    println!("{}", serde_json::to_string(&load.end().await?)?);
    Ok(())
}

async fn run(options: RunOptions) -> Result<()> {
    let machine = machine::describe();
    let names = if options.names.is_empty() { Name::value_variants().to_vec() } else { options.names };
    let scene = Scene::new(options.tidegate)?;
    let mut figures = Vec::new();
    let mut interrupt = signal(SignalKind::interrupt()).context("failed to take signals")?;
    let mut terminate = signal(SignalKind::terminate()).context("failed to take signals")?;
    let result = tokio::select! {
        result = tokio::time::timeout(ALL_MAX, take_all(&scene, &names, options.json, &mut figures)) => {
            result.context("it took too long").flatten()
        }
        _ = interrupt.recv() => Err(anyhow::anyhow!("interrupted")),
        _ = terminate.recv() => Err(anyhow::anyhow!("terminated")),
    };
    scene.end().await;
    if options.json {
        report::print_json(&machine, &figures)?;
    } else {
        report::print(&format!("{machine}\n"))?;
    }
    result
}

async fn take_all(scene: &Scene, names: &[Name], quiet: bool, figures: &mut Vec<Figure>) -> Result<()> {
    for name in names {
        let word = name.to_possible_value().map_or_else(String::new, |v| v.get_name().to_owned());
        eprintln!("bench: {word}");
        let begun = Instant::now();
        let figure = match name {
            Name::Proxy => proxy::take(scene).await,
            Name::Rollouts => rollouts::take(scene).await,
            Name::Alarm => alarm::take(scene).await,
            Name::Decide => decide::take(scene),
            Name::Simulate => simulate::take(scene),
            Name::Commits => commits::take(scene),
            Name::Start => start::take(scene).await,
            Name::Scale => scale::take(scene).await,
            Name::RollbackUnderLoad => under_load::take(scene),
            Name::Simulator => simulator::take(scene),
            Name::Synth => synth::take(scene),
        };
        let figure = figure.with_context(|| format!("failed to measure: {word}"))?;
        if !quiet {
            report::print(&format!("{}(took {:.0} s)\n\n", figure.text, begun.elapsed().as_secs_f64()))?;
        }
        figures.push(figure);
    }
    Ok(())
}

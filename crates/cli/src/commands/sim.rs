//! `tidegate sim`: for developers of tidegate; docs/simulator.md is its manual.

use crate::Global;
use crate::error::CliError;
use crate::text::print;
use clap::{Args, Subcommand};
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tidegate_sim::campaign::{self, Tally};
use tidegate_sim::{Options as SimOptions, Recording};

/// Run the real core and the real runtime in a virtual world full of faults, and check the rules that always hold.
///
/// For developers of tidegate. A seed that fails is made short and written into a file, whose name is printed; `sim replay`
/// runs it again. Exit code 1 if something fails.
#[derive(Debug, Args)]
pub(crate) struct Options {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Run some seeds, one after the other.
    Run {
        /// The first.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// How many.
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
        seeds: u64,
        /// Where the file of a seed that fails is written.
        #[arg(long, default_value = ".", value_name = "DIR")]
        into: PathBuf,
    },
    /// Run the file of a seed that failed again.
    Replay {
        /// The file.
        file: PathBuf,
    },
    /// Run fresh seeds on all CPUs for as long as is asked.
    Soak {
        /// How long.
        #[arg(long, value_parser = clap::value_parser!(u64).range(1..=10_080))]
        minutes: u64,
        /// Where the file of a seed that fails is written.
        #[arg(long, default_value = ".", value_name = "DIR")]
        into: PathBuf,
    },
}

pub(crate) async fn run(_: &Global, options: Options) -> Result<(), CliError> {
    let work = move || match options.action {
        Action::Run { seed, seeds, into } => {
            let tally = campaign::search(seed, SimOptions::default(), 1, |begun| begun < seeds);
            conclude(tally, into)
        }
        Action::Replay { file } => replay(&file),
        Action::Soak { minutes, into } => {
            let end = Instant::now() + Duration::from_secs(minutes * 60);
            let first = fresh();
            eprintln!("seeds from {first} on, for {minutes} minutes");
            let threads = thread::available_parallelism().map_or(1, usize::from);
            let tally = campaign::search(first, SimOptions::default(), threads, |_| Instant::now() < end);
            conclude(tally, into)
        }
    };
    tokio::task::spawn_blocking(work).await.map_err(|e| CliError::failed("run the simulator", e))?
}

/// A first seed that no soak before has begun with: the time, with room for all the seeds of a long one.
fn fresh() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64) << 16
}

fn conclude(tally: Tally, into: PathBuf) -> Result<(), CliError> {
    let sum = &tally.sum;
    let held = print(&format!(
        "{} seeds: {} events, {} facts, {} releases of which {} were rejected, {} crashes; converged within {} s\n",
        tally.seeds, sum.events, sum.facts, sum.releases, sum.rejected, sum.crashes, sum.converged_s
    ));
    let Some(failure) = tally.failure else { return held };
    eprintln!("{}\nmaking its list of {} choices short", failure.headline(), failure.choices.len());
    let (failure, path) = campaign::keep(failure, SimOptions::default(), &into)
        .map_err(|error| CliError::failed("keep the failure", error))?;
    let choices: String = failure.choices.iter().map(|choice| format!("{choice}\n")).collect();
    // That it failed is told by the exit code as well, also when nobody reads this any more.
    let _ = print(&format!("{choices}{}\n", failure.headline()));
    let why = format!("tidegate sim replay {} runs it again", path.display());
    Err(CliError::Failed { what: "keep the rules".to_owned(), why })
}

fn replay(file: &std::path::Path) -> Result<(), CliError> {
    let recording = Recording::read(file).map_err(|error| CliError::failed("replay", error))?;
    match recording.sim(campaign::LOG_LINES).run() {
        Ok(report) => print(&format!("all rules hold: {} events, {} facts\n", report.events, report.facts)),
        Err(failure) => {
            let _ = print(&format!("{failure}\n"));
            Err(CliError::Failed { what: "keep the rules".to_owned(), why: failure.evidence })
        }
    }
}

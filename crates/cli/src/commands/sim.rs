//! `tidegate sim`: for developers of tidegate; docs/simulator.md is its manual.

use crate::Global;
use crate::error::CliError;
use crate::text::print;
use clap::{Args, Subcommand};
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
#[cfg(debug_assertions)]
use tidegate_core::pipeline::Break;
use tidegate_core::units::Span;
#[cfg(debug_assertions)]
use tidegate_sim::Mutation;
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
        #[command(flatten)]
        each: Each,
    },
    /// Run the file of a seed that failed again.
    Replay {
        /// The file.
        file: PathBuf,
    },
    /// Run fresh seeds on all CPUs for as long as is asked.
    Soak {
        /// How long. The seeds that have begun by then are brought to their end.
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=MINUTES_MAX))]
        #[arg(required_unless_present = "seconds", conflicts_with = "seconds")]
        minutes: Option<u64>,
        /// How long, in seconds instead.
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=60 * MINUTES_MAX))]
        seconds: Option<u64>,
        #[command(flatten)]
        each: Each,
    },
}

/// The longest soak: a week.
const MINUTES_MAX: u64 = 10_080;

/// How each seed is run, and what is done with one that fails.
#[derive(Debug, Args)]
struct Each {
    /// Where the file of a seed that fails is written.
    #[arg(long, default_value = ".", value_name = "DIR")]
    into: PathBuf,
    /// Break a rule on purpose, to prove that somebody notices.
    #[cfg(debug_assertions)]
    #[arg(long, hide = true, value_enum)]
    test_only_disable: Option<Rule>,
}

#[cfg(debug_assertions)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Rule {
    Lease,
}

impl Each {
    #[cfg(debug_assertions)]
    fn options(&self) -> SimOptions {
        let broken = |rule| match rule {
            Rule::Lease => Mutation::Core(Break::NoLease),
        };
        SimOptions { mutation: self.test_only_disable.map(broken), ..SimOptions::default() }
    }

    #[cfg(not(debug_assertions))]
    fn options(&self) -> SimOptions {
        SimOptions::default()
    }
}

pub(crate) async fn run(_: &Global, options: Options) -> Result<(), CliError> {
    let work = move || match options.action {
        Action::Run { seed, seeds, each } => {
            let tally = campaign::search(seed, each.options(), 1, |begun| begun < seeds);
            conclude(tally, &each)
        }
        Action::Replay { file } => replay(&file),
        Action::Soak { minutes, seconds, each } => {
            let length = Span::minutes(minutes.unwrap_or(0)).plus(Span::seconds(seconds.unwrap_or(0)));
            let end = Instant::now() + Duration::from_millis(length.millis());
            let first = fresh();
            eprintln!("seeds from {first} on, for {length}");
            let threads = thread::available_parallelism().map_or(1, usize::from);
            let tally = campaign::search(first, each.options(), threads, |_| Instant::now() < end);
            conclude(tally, &each)
        }
    };
    tokio::task::spawn_blocking(work).await.map_err(|e| CliError::failed("run the simulator", e))?
}

/// A first seed that no soak before has begun with: the time, with room for all the seeds of a long one.
fn fresh() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64) << 16
}

fn conclude(tally: Tally, each: &Each) -> Result<(), CliError> {
    let sum = &tally.sum;
    let held = print(&format!(
        "{} seeds: {} events, {} facts, {} releases of which {} were rejected, {} crashes; converged within {} s\n",
        tally.seeds, sum.events, sum.facts, sum.releases, sum.rejected, sum.crashes, sum.converged_s
    ));
    let Some(failure) = tally.failure else { return held };
    eprintln!("{}\nmaking its list of {} choices short", failure.headline(), failure.choices.len());
    let (failure, path) = campaign::keep(failure, each.options(), &each.into)
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

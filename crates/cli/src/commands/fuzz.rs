//! `tidegate fuzz`: for developers of tidegate; docs/simulator.md tells of it.

use crate::Global;
use crate::error::CliError;
use crate::folder::CHILD;
use crate::text::print;
use clap::{Args, Subcommand};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tidegate_synth::Synth;
use tidegate_synth::fuzz::{self, Case, FuzzError, Tally};

/// Run folders of TypeScript that are made by chance through the whole way to definitions, and check what must always hold.
///
/// For developers of tidegate. A folder that fails is made small and written into a file, whose name is printed; `fuzz replay`
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
    /// Run fresh seeds for as long as is asked.
    Soak {
        /// How long.
        #[arg(long, value_parser = clap::value_parser!(u64).range(1..=10_080))]
        minutes: u64,
        /// Where the file of a seed that fails is written.
        #[arg(long, default_value = ".", value_name = "DIR")]
        into: PathBuf,
    },
}

pub(crate) fn run(_: &Global, options: Options) -> Result<(), CliError> {
    let program = std::env::current_exe().map_err(|e| CliError::failed("find this program", e))?;
    let synth = Synth::new(program, &[CHILD]);
    let scratch = std::env::temp_dir().join(format!("tidegate-fuzz-{}", std::process::id()));
    let result = act(options.action, &synth, &scratch);
    // It is there only if something was tried.
    let _ = std::fs::remove_dir_all(&scratch);
    result
}

fn act(action: Action, synth: &Synth, scratch: &Path) -> Result<(), CliError> {
    let failed = |error: FuzzError| CliError::failed("try folders", error);
    match action {
        Action::Run { seed, seeds, into } => {
            conclude(fuzz::search(synth, scratch, seed, |begun| begun < seeds).map_err(failed)?, &into)
        }
        Action::Soak { minutes, into } => {
            let end = Instant::now() + Duration::from_secs(minutes * 60);
            // No soak before has begun with the time, with room for all the seeds of a long one.
            let now = SystemTime::now().duration_since(UNIX_EPOCH);
            let first = now.map_or(0, |since| since.as_millis() as u64) << 16;
            eprintln!("seeds from {first} on, for {minutes} minutes");
            conclude(fuzz::search(synth, scratch, first, |_| Instant::now() < end).map_err(failed)?, &into)
        }
        Action::Replay { file } => {
            let (case, _) = Case::read(&file).map_err(failed)?;
            match case.hold(synth, scratch).map_err(failed)? {
                Ok(code) => print(&format!("all rules hold: {}\n", code.as_deref().unwrap_or("accepted"))),
                Err(broken) => Err(CliError::Failed { what: broken.rule.to_owned(), why: broken.evidence }),
            }
        }
    }
}

fn conclude(tally: Tally, into: &Path) -> Result<(), CliError> {
    let refused: Vec<String> = tally.refused.iter().map(|(code, n)| format!("{n} {code}")).collect();
    let held = print(&format!(
        "{} seeds: {} folders gave definitions, the others an error: {}\n",
        tally.seeds,
        tally.accepted,
        refused.join(", ")
    ));
    let Some((case, broken)) = tally.failure else { return held };
    let path = case.keep(&broken, into).map_err(|error| CliError::failed("keep the failure", error))?;
    let why = format!("{}; tidegate fuzz replay {} runs it again", broken.evidence, path.display());
    Err(CliError::Failed { what: format!("keep the rule '{}'", broken.rule), why })
}

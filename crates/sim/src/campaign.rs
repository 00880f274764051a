//! Many seeds, on as many threads as are given; and what is done with the first that fails: its list is made short, and it is
//! written into a file.

use crate::recording::{Recording, RecordingError};
use crate::{Failure, Options, Report, Sim, shrink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

/// How many runs shortening a failure's list takes at most.
pub const SHRINK_RUNS_MAX: u32 = 300;
/// How many lines of the log a recording has.
pub const LOG_LINES: usize = 300;

/// What many runs came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    /// Seeds on which all rules held.
    pub seeds: u64,
    /// Sums over these.
    pub sum: Report,
    /// The first failure that was met.
    pub failure: Option<Box<Failure>>,
}

/// Runs seeds from the first on as long as none fails and `goes_on` says so of the number of seeds that were begun.
pub fn search(first: u64, options: Options, threads: usize, goes_on: impl Fn(u64) -> bool + Sync) -> Tally {
    let (begun, failed) = (AtomicU64::new(0), AtomicBool::new(false));
    let tally = Mutex::new(Tally::default());
    let work = || {
        while !failed.load(Ordering::SeqCst) {
            let number = begun.fetch_add(1, Ordering::SeqCst);
            if !goes_on(number) {
                return;
            }
            let result = Sim::new(first + number, options).run();
            let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
            match result {
                Ok(report) => {
                    tally.seeds += 1;
                    tally.sum.add(&report);
                }
                Err(failure) => {
                    failed.store(true, Ordering::SeqCst);
                    tally.failure.get_or_insert(failure);
                }
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(work);
        }
    });
    tally.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// Shortens a failure's list and writes it into this directory; returns it as it is now, and the file.
///
/// # Errors
/// If the file cannot be written.
pub fn keep(
    failure: Box<Failure>,
    options: Options,
    directory: &Path,
) -> Result<(Box<Failure>, PathBuf), RecordingError> {
    let shrunk = shrink(failure, Options { log_lines: LOG_LINES, ..options }, SHRINK_RUNS_MAX);
    let path = Recording::of(&shrunk.failure, options).write_into(directory)?;
    Ok((shrunk.failure, path))
}

impl Report {
    fn add(&mut self, other: &Report) {
        self.events += other.events;
        self.facts += other.facts;
        self.releases += other.releases;
        self.rejected += other.rejected;
        self.crashes += other.crashes;
        self.pages += other.pages;
        self.converged_s = self.converged_s.max(other.converged_s);
    }
}

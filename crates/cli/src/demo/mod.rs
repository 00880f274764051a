//! `tidegate demo`: the main job on one machine, with real processes, real traffic, real git and a real sandbox.
//!
//! What stands outside of tidegate in the story knows nothing of it: the customers' requests come from `load`, and what
//! tidegate tells the on-call arrives at `hooks`. So what they saw is evidence.

/// A line of the story. Whoever reads no further does not end it half way: what was started has to be ended.
macro_rules! tell {
    ($($text:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stdout(), $($text)*);
    }};
}

mod definitions;
mod hooks;
mod load;
mod repo;
mod story;
mod telling;
mod world;

use crate::error::CliError;
use clap::Args;
use telling::Story;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use world::World;

/// Tell the main job as a story, with everything real on this machine.
///
/// Starts a server and a local fleet of its own, makes sample repositories, and takes their commits to production while
/// customers call. Each line of the story is checked. Leaves the server running to play with until Ctrl-C.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// End after the story; with an error if anything in it did not happen as told.
    #[arg(long)]
    exit: bool,
    /// Tell only these of the eight chapters; all build on the first.
    #[arg(long, value_delimiter = ',', default_values_t = 1..=8, value_parser = clap::value_parser!(u32).range(1..=8),
        value_name = "N,...")]
    chapters: Vec<u32>,
    /// Break a rule on purpose, to prove that the story notices: rollback, review or rejection.
    #[cfg(debug_assertions)]
    #[arg(long, hide = true)]
    test_only_disable: Vec<String>,
}

pub(crate) async fn run(options: Options) -> Result<(), CliError> {
    #[cfg(debug_assertions)]
    let disabled = options.test_only_disable.clone();
    #[cfg(not(debug_assertions))]
    let disabled = Vec::new();
    let stop = CancellationToken::new();
    let signalled = stop.clone();
    let mut interrupt = signal(SignalKind::interrupt()).map_err(|e| CliError::failed("take signals", e))?;
    let mut terminate = signal(SignalKind::terminate()).map_err(|e| CliError::failed("take signals", e))?;
    tokio::spawn(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        signalled.cancel();
    });
    let failed = |why: String| CliError::failed("tell the story", std::io::Error::other(why));
    tell!("tidegate demo: a server, a fleet and sample repositories are set up");
    let mut world = World::begin(disabled).await.map_err(failed)?;
    let told = {
        let mut story = Story::new(&mut world);
        stop.run_until_cancelled(story.tell(&options.chapters)).await
    };
    match &told {
        Some(Ok(())) if !options.exit => {
            world.invite();
            stop.cancelled().await;
        }
        Some(Err(_)) => world.show_logs(),
        Some(Ok(())) | None => {}
    }
    tell!("ending everything that was started ...");
    world.end().await;
    told.map_or(Err(CliError::Interrupted), |result| result.map_err(failed))
}

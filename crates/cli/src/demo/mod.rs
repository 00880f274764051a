//! `tidegate demo`: the main job on one machine, with real processes, real traffic, real git and a real sandbox.
//!
//! What stands outside of tidegate in the story knows nothing of it: the customers' requests come from `load`, and what
//! tidegate tells the on-call arrives at `hooks`. So what they saw is evidence.

mod definitions;
mod hooks;
mod load;
mod repo;
mod story;
mod world;

use crate::error::CliError;
use clap::Args;
use story::Story;
use tokio::signal::unix::{SignalKind, signal};
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
    /// Tell only so many of the eight chapters.
    #[arg(long, default_value_t = 8, value_name = "N")]
    chapters: u32,
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
    let mut interrupt = signal(SignalKind::interrupt()).map_err(|e| CliError::failed("take signals", e))?;
    let mut terminate = signal(SignalKind::terminate()).map_err(|e| CliError::failed("take signals", e))?;
    let told = |why: String| CliError::failed("tell the story", std::io::Error::other(why));
    println!("tidegate demo: a server, a fleet and sample repositories are set up");
    let mut world = World::begin(disabled).await.map_err(told)?;
    let result = {
        let mut story = Story::new(&mut world);
        tokio::select! {
            result = story.tell(options.chapters) => result,
            _ = interrupt.recv() => Err("interrupted".to_owned()),
            _ = terminate.recv() => Err("interrupted".to_owned()),
        }
    };
    match &result {
        Ok(()) if !options.exit => {
            println!("\nThe server runs on. In another terminal:");
            println!("  export TIDEGATE_DATA={}", world.data().display());
            println!("  tidegate status        tidegate watch        tidegate why COMMIT");
            println!("Ctrl-C ends everything.");
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        }
        Ok(()) => {}
        Err(why) if why != "interrupted" => world.keep_logs(),
        Err(_) => {}
    }
    println!("ending everything that was started ...");
    world.end().await;
    result.map_err(told)
}

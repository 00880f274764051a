//! `tidegate watch`.

use crate::Global;
use crate::client::{Client, query};
use crate::error::CliError;
use crate::render;
use crate::sse::SseParser;
use crate::text::{Paint, print};
use clap::Args;
use std::time::{Duration, Instant};
use tidegate_api::LogEntry;
use tidegate_core::ids::PipelineId;

/// How long a server that went away is waited for, in milliseconds.
const RETURN_LIMIT_MS: u64 = 60_000;
/// The pause before it is asked again, in milliseconds.
const RETRY_PAUSE_MS: u64 = 500;

/// Follow live what happens, one line for each fact, until Ctrl-C.
///
/// If the server goes away it is waited for; nothing is missed and nothing shown twice.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Only this pipeline.
    pipeline: Option<PipelineId>,
    /// From the entry after this position; without it from now on.
    #[arg(long, value_name = "POSITION")]
    after: Option<u64>,
}

pub(crate) async fn run(global: &Global, options: Options) -> Result<(), CliError> {
    let mut last = options.after;
    let pipeline = options.pipeline.map(|p| p.to_string());
    let mut reached = false;
    let mut seen = Instant::now();
    loop {
        let path = format!("/v1/events{}", query(&[("pipeline", pipeline.clone())]));
        let ended = match follow(global, &path, &mut last, &mut reached, &mut seen).await {
            Ok(()) => CliError::Unreachable("the server has ended".to_owned()),
            Err(error) => error,
        };
        // A server that was never reached is not waited for, and a refusal is not asked for again.
        let patient = seen.elapsed() < Duration::from_millis(RETURN_LIMIT_MS);
        if !matches!(ended, CliError::Unreachable(_)) || !reached || !patient {
            return Err(ended);
        }
        tokio::time::sleep(Duration::from_millis(RETRY_PAUSE_MS)).await;
    }
}

async fn follow(
    global: &Global,
    path: &str,
    last: &mut Option<u64>,
    reached: &mut bool,
    seen: &mut Instant,
) -> Result<(), CliError> {
    // Found anew each time: a server that comes back may have another address.
    let client = Client::new(global)?;
    let mut response = client.stream(path, *last).await?;
    if *reached {
        eprintln!("tidegate: the server is back");
    }
    *reached = true;
    let mut parser = SseParser::default();
    while let Some(piece) = client.piece(&mut response).await? {
        *seen = Instant::now();
        let events = parser.push(&piece).map_err(|e| CliError::failed("follow the events", e))?;
        for event in events {
            let entry: LogEntry = serde_json::from_str(&event.data)
                .map_err(|e| CliError::failed("read an event (is the server another version?)", e))?;
            *last = Some(entry.position);
            if global.json {
                print(&format!("{}\n", event.data))?;
            } else {
                print(&render::entry(&entry, render::Moment::Time, Paint::stdout()))?;
            }
        }
    }
    *seen = Instant::now();
    Ok(())
}

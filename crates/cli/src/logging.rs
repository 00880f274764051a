//! What long-running commands have to say: lines on stderr, for people or for machines.

use crate::error::CliError;
use clap::ValueEnum;
use std::io::IsTerminal;
use tidegate_server::telemetry::Traces;
use tracing_subscriber::fmt::format::FmtSpan;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

/// How a line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// One JSON object on a line.
    Json,
}

/// What is told when nobody says otherwise; that there was nothing to migrate is no news.
const DEFAULT: &str = "info,refinery_core=warn";

/// Begins to log; `TIDEGATE_LOG` chooses how much, `info` without it. With `spans`, the end of each piece of work is a line as well,
/// with how long it took. Spans go to a collector of traces as long as what is answered is there.
pub(crate) fn begin(
    format: LogFormat,
    spans: bool,
    collector: Option<&str>,
) -> Result<Option<Traces>, CliError> {
    let traces = collector.map(Traces::begin).transpose();
    let (traces, layer) = traces.map_err(|error| CliError::failed("tell of traces", error))?.unzip();
    let filter = EnvFilter::try_from_env("TIDEGATE_LOG").unwrap_or_else(|_| EnvFilter::new(DEFAULT));
    let spans = if spans { FmtSpan::CLOSE } else { FmtSpan::NONE };
    // A log that cannot be written (a full disk, a reader that is gone) is no reason to panic.
    let log = tracing_subscriber::fmt::layer().with_span_events(spans);
    let log = log.with_writer(std::io::stderr).log_internal_errors(false);
    let registry = tracing_subscriber::registry().with(layer);
    // Fails only if there is a subscriber already, and then that one is right.
    let _ = match format {
        LogFormat::Text => {
            registry.with(log.with_ansi(std::io::stderr().is_terminal()).with_filter(filter)).try_init()
        }
        LogFormat::Json => {
            // Without the name of the module, whose key would be that of a deployment's target.
            let log = log.json().flatten_event(true).with_target(false).with_span_list(false);
            registry.with(log.with_filter(filter)).try_init()
        }
    };
    Ok(traces)
}

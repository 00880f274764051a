//! What long-running commands have to say: lines on stderr, for people or for machines.

use clap::ValueEnum;
use std::io::IsTerminal;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::FmtSpan;

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
/// with how long it took.
pub(crate) fn begin(format: LogFormat, spans: bool) {
    let filter = EnvFilter::try_from_env("TIDEGATE_LOG").unwrap_or_else(|_| EnvFilter::new(DEFAULT));
    let spans = if spans { FmtSpan::CLOSE } else { FmtSpan::NONE };
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_span_events(spans);
    // A log that cannot be written (a full disk, a reader that is gone) is no reason to panic.
    let log = log.with_writer(std::io::stderr).log_internal_errors(false);
    // Fails only if there is a subscriber already, and then that one is right.
    let _ = match format {
        LogFormat::Text => log.with_ansi(std::io::stderr().is_terminal()).try_init(),
        // Without the name of the module, whose key would be that of a deployment's target.
        LogFormat::Json => log.json().flatten_event(true).with_target(false).with_span_list(false).try_init(),
    };
}

//! `tidegate serve`.

use crate::Global;
use crate::error::CliError;
use crate::folder::CHILD;
use crate::logging::{self, LogFormat};
use crate::service;
use crate::text::print;
use bytesize::ByteSize;
use clap::Args;
use std::net::SocketAddr;
use std::path::PathBuf;
#[cfg(debug_assertions)]
use tidegate_core::pipeline::Break;
use tidegate_core::pipeline::Switches;
use tidegate_server::serve::{ServeOptions, Stage, serve};
use tidegate_synth::Synth;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// The smallest disk budget: stores reserve 112 MiB, and a build wants 256 MiB.
const BUDGET_MIN: ByteSize = ByteSize::mib(512);

/// Run the server on a data directory (--data). It starts the local fleet if none runs, and finds it again if one does.
///
/// Ends on SIGINT and SIGTERM; the fleet and its boxes run on. The address is printed, and stands in DIR/server.json as long
/// as the server serves. The first administrator's token is made at the first start, in DIR/admin-token.
///
/// Of several servers on one data directory one works. The others refuse to start, or with --standby wait, answer TG014, and
/// take over within a second when that one ends.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Where to listen; port 0 takes a free one. Everything is unencrypted: listen on loopback only.
    #[arg(long, default_value = "127.0.0.1:7420", value_name = "ADDRESS")]
    listen: SocketAddr,
    /// Take over from whatever server the engines have seen: for a data directory that was restored from a backup, copied, or is
    /// an older state of another one. To be said once; see that no other server works on the same engines.
    #[arg(long)]
    new_epoch: bool,
    /// Wait while another server has the data directory, and take over when it ends, however it ends. With the same --listen as the
    /// other's, this one listens when it has taken over; with another, it says meanwhile who works. Without another server it
    /// starts at once.
    #[arg(long)]
    standby: bool,
    /// How large the data directory may become, such as 50GiB: what nobody needs goes earlier than it would, and while what is
    /// needed is more than that, no build begins and 'tidegate status' says so. Rollbacks and deployments go on. At least 512MiB.
    #[arg(long, env = "TIDEGATE_DISK_BUDGET", value_name = "SIZE", value_parser = budget)]
    disk_budget: Option<ByteSize>,
    /// How lines on stderr look. What happens in pipelines is among them, with pipeline, release and target as fields; how much is
    /// told, TIDEGATE_LOG says (info, debug, or by module).
    #[arg(long, value_enum, default_value = "text", env = "TIDEGATE_LOG_FORMAT", value_name = "FORMAT")]
    log: LogFormat,
    /// Also tell of each piece of work when it ends, and how long it took.
    #[arg(long)]
    log_spans: bool,
    /// Tell a collector of OpenTelemetry of each piece of work, as traces (OTLP over HTTP, protobuf), such as
    /// http://127.0.0.1:4318/v1/traces. All work for a release is one trace.
    #[arg(long, env = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", value_name = "URL")]
    traces: Option<String>,
    /// Break a rule on purpose, to prove that somebody notices.
    #[cfg(debug_assertions)]
    #[arg(long, hide = true, value_enum)]
    test_only_disable: Vec<Rule>,
}

/// Nothing is none, as an empty variable in a file of options looks.
fn budget(text: &str) -> Result<ByteSize, String> {
    if text.is_empty() {
        return Ok(ByteSize::b(0));
    }
    let size: ByteSize =
        text.parse().map_err(|_| "a size is a number and a unit, such as 50GiB".to_owned())?;
    match size < BUDGET_MIN {
        true => Err(format!(
            "it is less than {}: what is reserved for rollbacks, and a build, need that",
            BUDGET_MIN.display().iec()
        )),
        false => Ok(size),
    }
}

#[cfg(debug_assertions)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Rule {
    Rollback,
    Review,
    Rejection,
}

#[cfg(debug_assertions)]
fn switches(options: &Options) -> Switches {
    let broken = |rule: &Rule| match rule {
        Rule::Rollback => Break::NoRollback,
        Rule::Review => Break::NoReview,
        Rule::Rejection => Break::NoRejection,
    };
    options.test_only_disable.iter().map(broken).collect()
}

#[cfg(not(debug_assertions))]
fn switches(_: &Options) -> Switches {
    Switches::default()
}

pub(crate) async fn run(global: &Global, options: Options) -> Result<(), CliError> {
    let data: PathBuf = global
        .data
        .clone()
        .ok_or_else(|| CliError::Usage("where shall everything be kept? give --data DIR".to_owned()))?;
    let _traces = logging::begin(options.log, options.log_spans, options.traces.as_deref())?;
    let stop = CancellationToken::new();
    let mut interrupt = signal(SignalKind::interrupt()).map_err(|e| CliError::failed("take signals", e))?;
    let mut terminate = signal(SignalKind::terminate()).map_err(|e| CliError::failed("take signals", e))?;
    let signalled = stop.clone();
    let waiter = tokio::spawn(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        service::tell(service::STOPPING);
        signalled.cancel();
    });
    let serve_options = ServeOptions {
        switches: switches(&options),
        data,
        listen: options.listen,
        new_epoch: options.new_epoch,
        standby: options.standby,
        disk_budget: options.disk_budget.map(|size| size.as_u64()).filter(|size| *size > 0),
        // This very program, also after another one was installed in its place.
        synth: Synth::new("/proc/self/exe", &[CHILD]),
    };
    let told = |stage: Stage<'_>| match stage {
        Stage::Standby(holder) => {
            match holder.is_silent {
                true => tracing::warn!("this server is a standby: {holder}"),
                false => tracing::info!("this server is a standby: {holder}"),
            }
            service::tell(&service::ready(&format!("standby: {holder}")));
        }
        Stage::Serving(address) => {
            // Whether anybody reads it is no matter of the server's.
            drop(print(&format!("http://{address}\n")));
            service::tell(&service::ready(&format!("serves at http://{address}")));
        }
    };
    let result = serve(serve_options, stop, told).await;
    waiter.abort();
    result.map_err(|error| CliError::told(error.told(), "serve", error))
}

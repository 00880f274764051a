//! `tidegate log`.

use crate::Global;
use crate::client::{Client, query};
use crate::error::CliError;
use crate::render;
use crate::text::{Paint, print};
use clap::{Args, Subcommand};
use std::time::SystemTime;
use tidegate_api::{Health, LogPage, LogVerified};
use tidegate_core::decision::AggregateId;
use tidegate_core::ids::{PipelineId, RegionId, ReleaseNo};
use tidegate_core::units::{Span, Timestamp};
use tidegate_server::format::Unusable;
use tidegate_server::offline::{LogFilter, OfflineLog, OpenError, Start, broken};

/// Entries that an export asks for at once.
const EXPORT_PAGE: usize = 200;

/// Show what happened, who or what caused it, and when; oldest first.
///
/// Of what is asked for, the newest entries are shown, or those after a position. With --data of a data directory on which no
/// server runs, or of a backup, the log is read from the disk, and nothing there is changed.
#[derive(Debug, Args)]
pub(crate) struct Options {
    #[command(subcommand)]
    action: Option<Action>,
    /// Only this pipeline.
    pipeline: Option<PipelineId>,
    #[command(flatten)]
    filter: Filter,
    /// From the entry after this position; without it the newest are shown.
    #[arg(long, value_name = "POSITION")]
    after: Option<u64>,
    /// How many entries, 1,000 at most.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=1_000))]
    limit: u16,
    /// The same as the word 'verify'.
    #[arg(long, hide = true, conflicts_with_all = ["pipeline", "after"])]
    verify: bool,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Check that nobody has changed the log, and that it adds up to what is stored; else say where it breaks.
    ///
    /// Every fact carries a hash of itself and of the one before it. What was changed, removed, moved, slipped in or appended
    /// behind the server's back shows. Somebody who writes everything anew from some fact on shows by the hashes that an
    /// earlier export has kept elsewhere. Exit code 1 when the log is not in order.
    Verify {
        /// Only this pipeline's log.
        #[arg(long)]
        pipeline: Option<PipelineId>,
    },
    /// Print the log as JSON lines, oldest first: one versioned record for each entry, with its hash.
    ///
    /// It ends with the entry that was the newest when it began. After an interruption it goes on with --after and the last
    /// position that was written.
    Export {
        /// Only this pipeline.
        #[arg(long)]
        pipeline: Option<PipelineId>,
        #[command(flatten)]
        filter: Filter,
        /// From the entry after this position; without it from the beginning.
        #[arg(long, value_name = "POSITION", default_value_t = 0)]
        after: u64,
    },
}

/// Which entries.
#[derive(Debug, Default, Args)]
struct Filter {
    /// Caused by this user, by 'tidegate' itself, or by a pipeline of definitions (NAME, or NAME/r7).
    #[arg(long, value_name = "WHO", value_parser = who)]
    by: Option<String>,
    /// That name this release, such as r7.
    #[arg(long)]
    release: Option<ReleaseNo>,
    /// That name this Region: its targets, alarms, skips and leases.
    #[arg(long)]
    region: Option<RegionId>,
    /// Not before this: 2026-11-28, 2026-11-28T14:30:00Z, or a span until now, such as 2d or 1h30m.
    #[arg(long, value_name = "TIME", value_parser = time)]
    since: Option<Timestamp>,
    /// Before this, written the same way.
    #[arg(long, value_name = "TIME", value_parser = time)]
    until: Option<Timestamp>,
}

impl Filter {
    fn is_given(&self) -> bool {
        self.by.is_some() || self.release.is_some() || self.region.is_some() || self.times_given()
    }

    fn times_given(&self) -> bool {
        self.since.is_some() || self.until.is_some()
    }

    fn of(self, pipeline: Option<PipelineId>) -> LogFilter {
        LogFilter {
            aggregate: pipeline.map(AggregateId::Pipeline),
            by: self.by,
            release: self.release,
            region: self.region,
            since: self.since,
            until: self.until,
        }
    }
}

fn who(text: &str) -> Result<String, String> {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '/';
    if !text.is_empty() && text.chars().all(fits) {
        Ok(text.to_owned())
    } else {
        Err("a user's or a pipeline's name is expected".to_owned())
    }
}

fn time(text: &str) -> Result<Timestamp, String> {
    if let Ok(span) = text.parse::<Span>() {
        return Ok(now() - span);
    }
    text.parse::<Timestamp>().map_err(|error| format!("{error}, or a span until now such as 2d"))
}

fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Timestamp(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

pub(crate) async fn run(global: &Global, options: Options) -> Result<(), CliError> {
    let own = options.pipeline.is_some() || options.filter.is_given() || options.after.is_some();
    if own && (options.verify || options.action.is_some()) {
        let message = "what is said before the word counts for 'tidegate log' alone: say it after the word";
        return Err(CliError::Usage(message.to_owned()));
    }
    let log = Log::find(global).await?;
    match options.action {
        Some(Action::Verify { pipeline }) => verify(global, &log, pipeline).await,
        None if options.verify => verify(global, &log, None).await,
        Some(Action::Export { pipeline, filter, after }) => export(&log, &filter.of(pipeline), after).await,
        None => {
            let filter = options.filter.of(options.pipeline);
            let page = collect(&log, &filter, options.after, usize::from(options.limit)).await?;
            if global.json {
                return print(&format!("{}\n", json(&page)?));
            }
            if page.entries.is_empty() {
                eprintln!(
                    "tidegate: nothing in the log is so: look at the names and the times that you have given"
                );
            }
            let lines = page.entries.iter().map(|e| render::entry(e, render::Moment::Day, Paint::stdout()));
            print(&lines.collect::<String>())
        }
    }
}

async fn verify(global: &Global, log: &Log, pipeline: Option<PipelineId>) -> Result<(), CliError> {
    let verified = log.verify(pipeline).await?;
    if global.json {
        return print(&format!("{}\n", json(&verified)?));
    }
    let (facts, aggregates) = (verified.facts, verified.aggregates);
    print(&format!("the log is in order: {facts} facts of {aggregates} aggregates\n"))
}

async fn export(log: &Log, filter: &LogFilter, mut after: u64) -> Result<(), CliError> {
    let newest = log.page(&LogFilter::default(), Start::Before(u64::MAX), 1).await?;
    let newest = newest.entries.last().map_or(0, |entry| entry.position);
    while after < newest {
        let page = log.page(filter, Start::After(after), EXPORT_PAGE).await?;
        let lines = page.entries.iter().filter(|entry| entry.position <= newest);
        print(&lines.map(|entry| json(entry).map(|line| line + "\n")).collect::<Result<String, _>>()?)?;
        let Some(next) = page.next else { break };
        after = next;
    }
    Ok(())
}

/// So many entries, however many searches that takes.
async fn collect(
    log: &Log,
    filter: &LogFilter,
    after: Option<u64>,
    limit: usize,
) -> Result<LogPage, CliError> {
    let start = after.map_or(Start::Before(u64::MAX), Start::After);
    let mut page = log.page(filter, start, limit).await?;
    while page.entries.len() < limit {
        let from = match (after, page.next, page.earlier) {
            (Some(_), Some(next), _) => Start::After(next),
            (None, _, Some(earlier)) => Start::Before(earlier),
            _ => break,
        };
        let mut more = log.page(filter, from, limit - page.entries.len()).await?;
        if after.is_some() {
            page.entries.append(&mut more.entries);
            match more.next {
                Some(next) => page.next = Some(next),
                None => break,
            }
        } else {
            page.earlier = more.earlier;
            page.next = page.next.or(more.next);
            more.entries.append(&mut page.entries);
            page.entries = more.entries;
        }
    }
    Ok(page)
}

/// Where the log is.
enum Log {
    Server(Client),
    Disk(OfflineLog),
}

impl Log {
    /// The server's; where only a data directory is given and no server answers there, that on the disk.
    async fn find(global: &Global) -> Result<Log, CliError> {
        let found = match Client::new(global) {
            Ok(client) if global.server.is_none() => {
                // A server that was killed has left its address.
                client.get::<Health>("/v1/health").await.map(|_| client)
            }
            found => found,
        };
        let unreachable = match (found, &global.server) {
            (Ok(client), _) => return Ok(Log::Server(client)),
            (Err(error @ CliError::Unreachable(_)), None) => error,
            (Err(error), _) => return Err(error),
        };
        let Some(data) = &global.data else { return Err(unreachable) };
        match OfflineLog::open(data) {
            Ok(log) => Ok(Log::Disk(log)),
            Err(Unusable::Open(OpenError::InUse { .. } | OpenError::Nothing { .. })) => Err(unreachable),
            Err(error) => Err(CliError::told(error.told(), "read the log on the disk", error)),
        }
    }

    async fn page(&self, filter: &LogFilter, start: Start, limit: usize) -> Result<LogPage, CliError> {
        let client = match self {
            Log::Server(client) => client,
            Log::Disk(log) => {
                return log.page(filter, start, limit).map_err(|e| CliError::failed("read the log", e));
            }
        };
        let pipeline = filter.aggregate.as_ref().and_then(|id| match id {
            AggregateId::Pipeline(id) => Some(id.to_string()),
            _ => None,
        });
        let (after, before) = match start {
            Start::After(position) => (Some(position.to_string()), None),
            Start::Before(u64::MAX) => (None, None),
            Start::Before(position) => (None, Some(position.to_string())),
        };
        let pairs = [
            ("pipeline", pipeline),
            ("after", after),
            ("before", before),
            ("limit", Some(limit.to_string())),
            ("by", filter.by.clone()),
            ("release", filter.release.map(|release| release.to_string())),
            ("region", filter.region.as_ref().map(ToString::to_string)),
            ("since", filter.since.map(|at| at.0.to_string())),
            ("until", filter.until.map(|at| at.0.to_string())),
        ];
        Ok(client.get::<LogPage>(&format!("/v1/log{}", query(&pairs))).await?.value)
    }

    async fn verify(&self, pipeline: Option<PipelineId>) -> Result<LogVerified, CliError> {
        match self {
            Log::Server(client) => {
                let pairs = [("pipeline", pipeline.map(|id| id.to_string()))];
                Ok(client.get::<LogVerified>(&format!("/v1/log/verify{}", query(&pairs))).await?.value)
            }
            Log::Disk(log) => {
                let only = pipeline.map(AggregateId::Pipeline);
                log.verify(only.as_ref()).map_err(|error| CliError::Answered(Box::new(broken(&error))))
            }
        }
    }
}

fn json(value: &impl serde::Serialize) -> Result<String, CliError> {
    serde_json::to_string(value).map_err(|error| CliError::failed("write JSON", error))
}

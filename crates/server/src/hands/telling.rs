//! Follows the log as it grows: each fact is a line of the server's own log, with its pipeline, release and target as fields, and
//! is counted.

use super::Hands;
use std::sync::Arc;
use std::time::Duration;
use tidegate_api::describe;
use tidegate_core::about::named;
use tidegate_core::decision::{Actor, AggregateId, Fact};
use tidegate_core::pipeline::PipelineFact;
use tidegate_core::team::TeamFact;
use tidegate_runtime::{LogEntry, Start};
use tokio_util::sync::CancellationToken;

/// Entries that are read at once.
const PAGE: usize = 200;
/// Pause after the log could not be read.
const TROUBLE_PAUSE: Duration = Duration::from_secs(1);

pub(super) async fn run(hands: Arc<Hands>, stop: CancellationToken) {
    let mut commits = hands.signals.any();
    let mut position = hands.began_at;
    while !stop.is_cancelled() {
        commits.mark_unchanged();
        match hands.blocking(move |h| h.runtime.log(None, Start::After(position), PAGE)).await {
            Ok(entries) => {
                entries.iter().for_each(|entry| {
                    hands.telemetry.happened(entry);
                    tell(entry);
                });
                if let Some(last) = entries.last() {
                    position = last.position;
                    continue;
                }
            }
            Err(error) => {
                tracing::error!("the log cannot be followed: {}", tidegate_core::causes(&error));
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(TROUBLE_PAUSE) => continue,
                }
            }
        }
        tokio::select! {
            () = stop.cancelled() => {}
            _ = commits.changed() => {}
        }
    }
}

fn tell(entry: &LogEntry) {
    let is_progress = is_progress(&entry.fact);
    if is_progress && !tracing::enabled!(tracing::Level::DEBUG) {
        return;
    }
    let named = named(&entry.aggregate, &entry.fact);
    let pipeline = match &entry.aggregate {
        AggregateId::Pipeline(id) => Some(id.as_str()),
        _ => None,
    };
    let aggregate = pipeline.is_none().then(|| entry.aggregate.to_string());
    let releases: Vec<String> = named.releases.iter().map(ToString::to_string).collect();
    let release = (!releases.is_empty()).then(|| releases.join(","));
    let target = named.target.map(|target| target.to_string());
    let regions: Vec<&str> = named.regions.iter().map(|region| region.as_str()).collect();
    let region = (target.is_none() && !regions.is_empty()).then(|| regions.join(","));
    let by = (entry.cause != Actor::Tidegate).then(|| entry.cause.to_string());
    let text = describe(&entry.fact);
    let position = entry.position;
    macro_rules! line {
        ($level:ident) => {
            tracing::$level!(
                pipeline,
                aggregate = aggregate.as_deref(),
                release = release.as_deref(),
                target = target.as_deref(),
                region = region.as_deref(),
                by = by.as_deref(),
                position,
                "{text}"
            )
        };
    }
    if is_progress { line!(debug) } else { line!(info) }
}

/// What happens often while something else goes on.
fn is_progress(fact: &Fact) -> bool {
    use PipelineFact as F;
    match fact {
        Fact::Pipeline(fact) => matches!(
            fact.plain(),
            F::SlotAsked { .. }
                | F::SlotProgressed { .. }
                | F::SlotResized { .. }
                | F::Watched { .. }
                | F::CandidateSet { .. }
                | F::ReleasesForgotten { .. }
        ),
        Fact::Lease(_) | Fact::Team(TeamFact::AlarmRenewed { .. }) => true,
        Fact::Team(_) | Fact::Organisation(_) => false,
    }
}

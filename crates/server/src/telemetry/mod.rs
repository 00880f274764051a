//! tidegate's figures about itself, for Prometheus. How many series there are does not depend on how many pipelines there
//! are; whoever asks for them by pipeline gets those in which something moves.
//!
//! Counters and durations are kept here as things happen; everything that is so now is read from where it stands when a page is
//! asked for ([`figures`]).

mod figures;
mod page;
mod traces;

pub(crate) use figures::{of_runtime, of_server};
pub(crate) use page::Kind;
pub use page::{CONTENT_TYPE, Page};
pub use traces::Traces;
pub(crate) use traces::belongs;

use page::Histogram;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tidegate_core::decision::{Effect, Fact, ForwardEffect};
use tidegate_core::ids::PipelineId;
use tidegate_core::pipeline::PipelineFact;
use tidegate_core::plan::StepId;
use tidegate_core::units::Timestamp;
use tidegate_runtime::LogEntry;

/// Effects, in the order of [`effect_kind`].
const EFFECTS: [&str; 5] = ["deploy", "return", "build", "test", "page"];
/// How a try of an effect ends.
const ENDS: [&str; 3] = ["done", "failed", "given-up"];
/// The most rollbacks whose beginning is remembered.
const ROLLBACKS_MAX: usize = 10_000;

/// How a try of an effect has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// It is done.
    Done,
    /// It is tried again.
    Failed,
    /// It is not.
    GivenUp,
}

/// What has happened since the server started.
#[derive(Debug, Default)]
pub struct Telemetry {
    tries: [[AtomicU64; ENDS.len()]; EFFECTS.len()],
    latency: [Histogram; EFFECTS.len()],
    rollbacks: Histogram,
    rolling_back: Mutex<BTreeMap<(PipelineId, StepId), Timestamp>>,
    rejections: AtomicU64,
    built: AtomicU64,
    not_built: AtomicU64,
    fleet_answers: AtomicBool,
    reserve_missing: AtomicBool,
    /// Up to which second monitoring has looked; 0 before the first look.
    watched_until: AtomicI64,
}

/// An effect's kind, as a place in [`EFFECTS`].
pub(crate) fn effect_kind(effect: &Effect) -> usize {
    match effect {
        Effect::Forward(ForwardEffect::Deploy(_)) => 0,
        Effect::Rollback(_) => 1,
        Effect::Forward(ForwardEffect::Build(_)) => 2,
        Effect::Forward(ForwardEffect::Test(_)) => 3,
        Effect::Forward(ForwardEffect::Page(_)) => 4,
    }
}

impl Telemetry {
    /// A try of an effect of this kind has ended, so long after it was ordered.
    pub(crate) fn tried(&self, kind: usize, ended: Ended, since_ordered: Duration) {
        let end = match ended {
            Ended::Done => 0,
            Ended::Failed => 1,
            Ended::GivenUp => 2,
        };
        self.tries[kind][end].fetch_add(1, Ordering::Relaxed);
        if ended != Ended::Failed {
            self.latency[kind].observe(since_ordered);
        }
    }

    /// Something happened.
    pub(crate) fn happened(&self, entry: &LogEntry) {
        let (Fact::Pipeline(fact), tidegate_core::decision::AggregateId::Pipeline(id)) =
            (&entry.fact, &entry.aggregate)
        else {
            return;
        };
        let mut rolling_back = self.rolling_back.lock().unwrap_or_else(PoisonError::into_inner);
        match fact {
            PipelineFact::Built { .. } => drop(self.built.fetch_add(1, Ordering::Relaxed)),
            PipelineFact::BuildFailed { .. } => drop(self.not_built.fetch_add(1, Ordering::Relaxed)),
            PipelineFact::Rejected { .. } => drop(self.rejections.fetch_add(1, Ordering::Relaxed)),
            PipelineFact::StepRollingBack { step, since, .. } if rolling_back.len() < ROLLBACKS_MAX => {
                rolling_back.entry((id.clone(), step.clone())).or_insert(*since);
            }
            // One that began before this server did is not measured.
            PipelineFact::StepRolledBack { step, at } => {
                if let Some(since) = rolling_back.remove(&(id.clone(), step.clone())) {
                    self.rollbacks.observe(at.since(since).into());
                }
            }
            _ => {}
        }
    }

    /// Whether the fleet answered when it was asked last.
    pub(crate) fn fleet(&self, answers: bool) {
        self.fleet_answers.store(answers, Ordering::Relaxed);
    }

    /// Whether the store has its reserve.
    pub(crate) fn reserve(&self, held: bool) {
        self.reserve_missing.store(!held, Ordering::Relaxed);
    }

    /// Monitoring has looked up to this second.
    pub(crate) fn watched(&self, until: i64) {
        self.watched_until.store(until, Ordering::Relaxed);
    }

    /// Everything that is kept here.
    fn write(&self, page: &mut Page, now: Timestamp) {
        let name = "tidegate_effect_tries_total";
        page.family(name, Kind::Counter, "Tries of effects, by how they ended.");
        for (effect, ends) in EFFECTS.iter().zip(&self.tries) {
            for (end, count) in ENDS.iter().zip(ends) {
                page.sample(name, &[("effect", effect), ("end", end)], count.load(Ordering::Relaxed) as f64);
            }
        }
        let name = "tidegate_effect_latency_seconds";
        page.family(
            name,
            Kind::Histogram,
            "From an effect's order to its end, waiting and failed tries included.",
        );
        for (effect, latency) in EFFECTS.iter().zip(&self.latency) {
            page.histogram(name, &[("effect", effect)], latency);
        }
        let name = "tidegate_rollback_duration_seconds";
        page.family(name, Kind::Histogram, "From the decision to take a step back until it is back.");
        page.histogram(name, &[], &self.rollbacks);
        let count = |n: &AtomicU64| n.load(Ordering::Relaxed) as f64;
        let help = "Releases that were rejected.";
        page.one("tidegate_rejections_total", Kind::Counter, help, count(&self.rejections));
        let name = "tidegate_builds_total";
        page.family(name, Kind::Counter, "Builds that have ended, by their result.");
        page.sample(name, &[("result", "built")], count(&self.built));
        page.sample(name, &[("result", "failed")], count(&self.not_built));
        let flag = |flag: bool| f64::from(u8::from(flag));
        let help = "Whether the local fleet answered when it was asked last.";
        let answers = self.fleet_answers.load(Ordering::Relaxed);
        page.one("tidegate_fleet_up", Kind::Gauge, help, flag(answers));
        let help = "Whether the store holds the disk space that it keeps for rollbacks.";
        let missing = self.reserve_missing.load(Ordering::Relaxed);
        page.one("tidegate_store_reserve_held", Kind::Gauge, help, flag(!missing));
        let until = self.watched_until.load(Ordering::Relaxed);
        if until > 0 {
            let help = "How far monitoring is behind the clock; while it is blind, this grows.";
            let behind = Duration::from(now.since(Timestamp(until.saturating_mul(1_000)))).as_secs_f64();
            page.one("tidegate_monitoring_behind_seconds", Kind::Gauge, help, behind);
        }
    }
}

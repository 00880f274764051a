//! What is so now: read from the runtime, the pipelines' summaries and the machine when somebody asks.

use super::Page;
use super::page::Kind;
use crate::hands::{Hands, Summary};
use crate::standby;
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::{Duration, UNIX_EPOCH};
use tidegate_core::alarm::AlarmState;
use tidegate_core::ids::PipelineId;
use tidegate_core::units::Timestamp;
use tidegate_runtime::{KINDS, Lane, OUTCOMES, Runtime, RuntimeError, Start};

/// What the runtime knows.
///
/// # Errors
/// If the store fails.
pub(crate) fn of_runtime(page: &mut Page, runtime: &Runtime) -> Result<(), RuntimeError> {
    let version = env!("CARGO_PKG_VERSION");
    page.family("tidegate_build_info", Kind::Gauge, "The program that runs.");
    page.sample("tidegate_build_info", &[("version", version)], 1.0);
    let help = "What this server's commands to engines are fenced with.";
    page.one("tidegate_epoch", Kind::Gauge, help, runtime.epoch() as f64);
    let counted = runtime.counted();
    let name = "tidegate_decisions_total";
    page.family(name, Kind::Counter, "Events that were decided on, by aggregate and by what came of them.");
    for (aggregate, outcomes) in KINDS.iter().zip(counted.decisions) {
        for (outcome, count) in OUTCOMES.iter().zip(outcomes) {
            page.sample(name, &[("aggregate", aggregate), ("outcome", outcome)], count as f64);
        }
    }
    let help = "Decisions that were made again because another one was faster.";
    page.one("tidegate_conflicts_total", Kind::Counter, help, counted.conflicts as f64);
    let newest = runtime.log(None, Start::Before(u64::MAX), 1)?.first().map_or(0, |entry| entry.position);
    page.one("tidegate_log_position", Kind::Gauge, "The newest entry of the log.", newest as f64);
    let (waiting, now) = (runtime.waiting()?, runtime.now());
    let lanes = [(Lane::Forward, "forward"), (Lane::Rollback, "rollback"), (Lane::Page, "page")];
    let of = |lane: Lane| waiting.iter().find(|w| w.lane == lane);
    let name = "tidegate_effects_waiting";
    page.family(
        name,
        Kind::Gauge,
        "Effects that have not ended, by lane; those that are being performed included.",
    );
    for (lane, label) in lanes {
        page.sample(name, &[("lane", label)], of(lane).map_or(0, |w| w.effects) as f64);
    }
    let name = "tidegate_effects_oldest_seconds";
    page.family(name, Kind::Gauge, "How long ago the oldest effect that has not ended was ordered, by lane.");
    for (lane, label) in lanes {
        let age = of(lane).map_or(Duration::ZERO, |w| now.since(Timestamp(w.oldest)).into());
        page.sample(name, &[("lane", label)], age.as_secs_f64());
    }
    alarms(page, runtime)
}

fn alarms(page: &mut Page, runtime: &Runtime) -> Result<(), RuntimeError> {
    let (mut firing, mut blind) = (0, 0);
    for id in runtime.teams()? {
        let team = runtime.team(&id)?;
        for status in team.scopes.values().flat_map(|alarms| alarms.values()) {
            match status.state {
                AlarmState::Alarm => firing += 1,
                AlarmState::InsufficientData => blind += 1,
                AlarmState::Ok => {}
            }
        }
    }
    let name = "tidegate_alarms";
    page.family(name, Kind::Gauge, "Alarms of all teams that are not OK, by state.");
    page.sample(name, &[("state", "alarm")], f64::from(firing));
    page.sample(name, &[("state", "insufficient-data")], f64::from(blind));
    let raised = runtime.organisation()?.alarms.len();
    let help = "Alarms that people have raised for the whole organisation.";
    page.one("tidegate_organisation_alarms", Kind::Gauge, help, raised as f64);
    Ok(())
}

/// What the hands know. Blocks on the disk.
pub(crate) fn of_server(page: &mut Page, hands: &Hands, by_pipeline: bool) {
    let now = hands.runtime.now();
    match hands.overview.look(&hands.runtime, &hands.signals) {
        Ok(pipelines) => of_pipelines(page, &pipelines, now, by_pipeline),
        Err(error) => tracing::warn!("pipelines are missing from the figures: {error}"),
    }
    hands.telemetry.write(page, now);
    let (asked, name) = (hands.forges.counted(), "tidegate_forge_requests_total");
    page.family(name, Kind::Counter, "Requests to forges, by how they ended.");
    for (end, count) in
        [("answered", &asked.answered), ("unchanged", &asked.unchanged), ("failed", &asked.failed)]
    {
        page.sample(name, &[("end", end)], count.load(Ordering::Relaxed) as f64);
    }
    let troubles = hands.troubles.list(now).len();
    let help = "What tidegate has to do and cannot at present; 'tidegate status' says what.";
    page.one("tidegate_troubles", Kind::Gauge, help, troubles as f64);
    let standbys = standby::waiting(&hands.dirs.data).len();
    let help = "Servers that wait to take over from this one.";
    page.one("tidegate_standbys", Kind::Gauge, help, standbys as f64);
    if let Ok(disk) = rustix::fs::statvfs(&hands.dirs.data) {
        let bytes = |blocks: u64| blocks.saturating_mul(disk.f_frsize) as f64;
        let help = "Free on the disk of the data directory.";
        page.one("tidegate_disk_free_bytes", Kind::Gauge, help, bytes(disk.f_bavail));
        let help = "The size of the disk of the data directory.";
        page.one("tidegate_disk_size_bytes", Kind::Gauge, help, bytes(disk.f_blocks));
    }
    let name = "tidegate_disk_used_bytes";
    page.family(name, Kind::Gauge, "Used by the data directory at the last look, by its parts.");
    for (part, bytes) in hands.keeping.usage().unwrap_or_default().parts() {
        page.sample(name, &[("part", part)], bytes as f64);
    }
    let help = "What the data directory may use; infinite without a budget.";
    let budget = hands.keeping.budget().map_or(f64::INFINITY, |bytes| bytes as f64);
    page.one("tidegate_disk_budget_bytes", Kind::Gauge, help, budget);
    if let Some(at) = hands.last_backup() {
        let help = "When the last backup was made.";
        let seconds = Duration::from(at.since(Timestamp(0))).as_secs_f64();
        page.one("tidegate_last_backup_timestamp_seconds", Kind::Gauge, help, seconds);
    }
    let help = "When this process started.";
    let started = hands.started.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    page.one("process_start_time_seconds", Kind::Gauge, help, started);
    of_process(page);
}

fn of_pipelines(page: &mut Page, all: &BTreeMap<PipelineId, Summary>, now: Timestamp, by_pipeline: bool) {
    let (mut active, mut retired) = (0_u64, 0_u64);
    let (mut work, mut waiting, mut blind, mut building) = (BTreeMap::<&str, u64>::new(), 0, 0, 0);
    let (mut short, mut unknown, mut oldest) = (0, 0, None);
    for summary in all.values() {
        *(if summary.active { &mut active } else { &mut retired }) += 1;
        for (kind, count) in &summary.work {
            *work.entry(kind).or_default() += count;
        }
        waiting += summary.waiting;
        blind += summary.blind;
        building += summary.building;
        short += summary.short;
        unknown += summary.unknown;
        oldest = [oldest, summary.rolling_back_since].into_iter().flatten().min();
    }
    page.family("tidegate_pipelines", Kind::Gauge, "Pipelines.");
    page.sample("tidegate_pipelines", &[("life", "active")], active as f64);
    page.sample("tidegate_pipelines", &[("life", "retired")], retired as f64);
    page.family(
        "tidegate_steps",
        Kind::Gauge,
        "Steps of pipelines in which something is under way, by what.",
    );
    for kind in WORK {
        page.sample("tidegate_steps", &[("work", kind)], *work.get(kind).unwrap_or(&0) as f64);
    }
    let mut one = |name: &str, help: &str, value: u64| page.one(name, Kind::Gauge, help, value as f64);
    one("tidegate_candidates_waiting", "Releases that wait before a step.", waiting);
    one("tidegate_bakes_blind", "Bakes that do not count because monitoring sees nothing.", blind);
    one("tidegate_builds_in_work", "Releases that are being built, or wait for it.", building);
    let name = "tidegate_targets_in_need";
    page.family(
        name,
        Kind::Gauge,
        "Targets with fewer healthy boxes than they need, or of which that is not known.",
    );
    page.sample(name, &[("capacity", "short")], short as f64);
    page.sample(name, &[("capacity", "unknown")], unknown as f64);
    let age = oldest.map_or(Duration::ZERO, |since| now.since(since).into());
    let help = "How long the oldest rollback in work has been so; 0 without one.";
    page.one("tidegate_rollback_oldest_seconds", Kind::Gauge, help, age.as_secs_f64());
    if by_pipeline {
        let name = "tidegate_pipeline_steps";
        page.family(name, Kind::Gauge, "Steps in which something is under way, by pipeline and by what.");
        for (id, summary) in all {
            for (kind, count) in &summary.work {
                page.sample(name, &[("pipeline", id.as_str()), ("work", kind)], *count as f64);
            }
        }
    }
}

/// What can be under way in a step.
pub(crate) const WORK: [&str; 5] = ["deploying", "testing", "baking", "recalled", "rolling-back"];

/// The figures that every process is watched by.
fn of_process(page: &mut Page) {
    let page_bytes = rustix::param::page_size() as f64;
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    if let Some(resident) = statm.split_whitespace().nth(1).and_then(|pages| pages.parse::<f64>().ok()) {
        let help = "Resident memory.";
        page.one("process_resident_memory_bytes", Kind::Gauge, help, resident * page_bytes);
    }
    if let Ok(files) = std::fs::read_dir("/proc/self/fd") {
        page.one("process_open_fds", Kind::Gauge, "Open files.", files.count() as f64);
    }
    let usage = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    let cpu = usage.tv_sec as f64 + usage.tv_nsec as f64 / 1e9;
    page.one("process_cpu_seconds_total", Kind::Counter, "CPU time.", cpu);
}

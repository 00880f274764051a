//! What many pipelines cost a runtime that has nothing to do: memory, start, CPU and disk, with 1,000 and 30,000 pipelines
//! through gamma and 24 Regions with 76 AZs, each after a release that went everywhere. The runtime is in a process of its
//! own that does what the server's loops do of it: it reads every pipeline once, and then asks for due times and effects.

use crate::machine::{Cpu, resident_mib};
use crate::many::{self, Original};
use crate::report::Figure;
use crate::scene::{self, Scene};
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};
use tidegate_core::units::Timestamp;
use tidegate_runtime::Lane;

/// What is looked at.
const COUNTS: [usize; 2] = [1_000, 30_000];
/// How long it is left alone.
const IDLE: Duration = Duration::from_secs(10);
/// The server's loops ask at least this often.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// As many as the server's loops ask for at once.
const BATCH: usize = 256;

/// What a process with a runtime told of itself.
#[derive(Debug, Serialize, Deserialize)]
struct Idle {
    open_ms: f64,
    read_all_s: f64,
    resident_mib: f64,
    /// CPU seconds per second.
    cpu: f64,
    /// Pipelines that were told the time meanwhile.
    told: usize,
}

/// Measures.
pub(crate) async fn take(scene: &Scene) -> Result<Figure> {
    let original = Original::at_rest(&scene.folder("scale-original")?)?;
    let mut text = format!(
        "scale: pipelines through gamma and 24 Regions with 76 AZs in one runtime, a state is {:.0} KiB\n\
         {:<11}{:>10}{:>12}{:>10}{:>12}{:>14}{:>16}\n",
        original.state_bytes as f64 / 1024.0,
        "pipelines",
        "open ms",
        "read all s",
        "MiB",
        "idle CPU %",
        "us/pipeline/s",
        "MiB on disk"
    );
    let mut values = Vec::new();
    for count in COUNTS {
        let dir = scene.folder(&format!("scale-{count}"))?;
        let begun = Instant::now();
        original.fill(&dir, count)?;
        eprintln!("bench: {count} pipelines copied in {:.0} s", begun.elapsed().as_secs_f64());
        let disk_mib = bytes_in(&dir)? as f64 / f64::from(1 << 20);
        let idle = of_process(&dir, original.at).await?;
        let per_pipeline_us = idle.cpu * 1e6 / count as f64;
        text.push_str(&format!(
            "{count:<11}{:>10.0}{:>12.1}{:>10.0}{:>12.2}{per_pipeline_us:>14.2}{disk_mib:>16.0}\n",
            idle.open_ms,
            idle.read_all_s,
            idle.resident_mib,
            idle.cpu * 100.0,
        ));
        values.push(json!({
            "pipelines": count, "disk_mib": disk_mib, "cpu_us_per_pipeline_second": per_pipeline_us, "idle": idle
        }));
        std::fs::remove_dir_all(&dir).with_context(|| format!("failed to remove {}", dir.display()))?;
    }
    Figure::new("scale", text, json!({"state_bytes": original.state_bytes, "sizes": values}))
}

fn bytes_in(dir: &Path) -> Result<u64> {
    let entries = std::fs::read_dir(dir).with_context(|| format!("failed to read {}", dir.display()))?;
    entries.into_iter().try_fold(0, |sum, entry| {
        let meta = entry?.metadata()?;
        Ok(sum + if meta.is_file() { meta.len() } else { 0 })
    })
}

async fn of_process(dir: &Path, at: Timestamp) -> Result<Idle> {
    let own = std::env::current_exe().context("failed to find this program")?;
    let mut command = scene::command(own, &dir.with_extension("log"))?;
    command.arg("idle").arg(dir).arg(at.0.to_string()).stdout(Stdio::piped());
    let output = command.spawn().context("failed to start")?.wait_with_output().await?;
    anyhow::ensure!(output.status.success(), "the idle runtime ended with {}", output.status);
    serde_json::from_slice(&output.stdout).context("failed to read what the idle runtime told")
}

/// The process that is measured.
pub(crate) fn idle(dir: &Path, at: Timestamp) -> Result<()> {
    let begun = Instant::now();
    let runtime = many::open(dir, at, None)?;
    let open_ms = begun.elapsed().as_secs_f64() * 1e3;
    let begun = Instant::now();
    for id in runtime.pipelines()? {
        runtime.pipeline(&id)?.context("a pipeline vanished")?;
    }
    let read_all_s = begun.elapsed().as_secs_f64();
    let (before, begun) = (Cpu::own()?, Instant::now());
    let mut told = 0;
    while begun.elapsed() < IDLE {
        told += runtime.tick_due(BATCH)?;
        runtime.next_due()?;
        for lane in [Lane::Forward, Lane::Rollback, Lane::Page] {
            runtime.effects(lane, BATCH)?;
            runtime.next_effect_at(lane)?;
        }
        std::thread::sleep(ASK_EVERY);
    }
    let cpu = (Cpu::own()? - before).total() / begun.elapsed().as_secs_f64();
    let resident_mib = resident_mib(std::process::id())?;
    let told = Idle { open_ms, read_all_s, resident_mib, cpu, told };
    crate::report::print(&serde_json::to_string(&told)?)
}

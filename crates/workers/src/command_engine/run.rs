//! Runs one command of a team: lock, packages, environment, child, log. What must hold: the packages are verified
//! anew before each deploy and rollback, and the child sees nothing but what `CommandSpec` documents.

use super::state::{self, Means, SlotState};
use super::target::{Kind, Target, Task};
use super::{Shared, definitions, lock, observe};
use crate::process::{Ending, Finished, Job};
use crate::secrets::{Masker, Secret};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};
use tidegate_core::causes;
use tidegate_core::engine::BoxObservation;
use tidegate_core::ids::{PackageDigest, RunSpecDigest};
use tidegate_core::run_spec::{RunSpec, Shape};
use tidegate_core::units::{Span, Timestamp};
use tidegate_fleet::package::{PackageError, PackageStore, TrustedKeys};

/// The logs of so many deploys and rollbacks are kept of each slot.
const LOGS_KEPT: usize = 20;
/// `observe` has this part of a command's time.
const OBSERVE_TIME_PART: u64 = 10;

/// What came of a task that could be run.
pub(super) enum Outcome {
    /// Nothing was ever deployed, so there is no command to run.
    Nothing,
    /// It made room for a rollback.
    Cancelled,
    /// It ended otherwise.
    Ended(Finished),
    /// The server did it itself, and all is well.
    Done,
    /// The server looked itself, and this is what is there.
    Seen(Vec<BoxObservation>),
}

/// The unpacked folder of each package of the split; `None` for one that is not to be had.
pub(super) type Packages = BTreeMap<PackageDigest, Option<PathBuf>>;

/// How a slot is brought to what it shall be, and by whose means.
pub(super) fn spec_and_means(state: &SlotState) -> Option<(&RunSpec, Means<'_>)> {
    state.commands_of().and_then(|spec| Some((spec, state::means(spec)?)))
}

pub(super) fn time_limit(task: &Task) -> Span {
    let whole = match spec_and_means(&task.state) {
        Some((_, Means::Commands(command))) => command.time_limit,
        Some((_, Means::Definitions(_))) | None => Span::ZERO,
    };
    if task.kind == Kind::Observe { Span(whole.millis() / OBSERVE_TIME_PART) } else { whole }
}

/// Runs the task's command under the target's lock; with `search` it first looks for what an earlier one left.
pub(super) async fn run(
    target: &Arc<Target>,
    shared: &Arc<Shared>,
    task: &Arc<Task>,
    search: bool,
) -> Result<Outcome, String> {
    let (spec, command) = match spec_and_means(&task.state) {
        Some((spec, Means::Commands(command))) => (spec, command),
        Some((_, Means::Definitions(_))) => return definitions::run(target, shared, task).await,
        None => return Ok(Outcome::Nothing),
    };
    let fail = |error: &dyn std::error::Error| format!("{}: {}", task.kind.name(), causes(error));
    let lock_path = target.dir().join("lock");
    let held = tokio::select! {
        biased;
        () = target.preempted(task) => return Ok(Outcome::Cancelled),
        held = lock::acquire(&lock_path, search) => held.map_err(|e| fail(&e))?,
    };
    let (with, of) = (Arc::clone(target), (Arc::clone(shared), Arc::clone(task)));
    let packages = tokio::task::spawn_blocking(move || prepare(&with, &of.0, &of.1))
        .await
        .map_err(|e| fail(&e))?
        .map_err(|e| fail(&e))?;
    let Some(Some(package_dir)) = packages.get(&spec.package) else {
        return Err(format!("{}: package {} is not there", task.kind.name(), spec.package.short()));
    };
    let argv = match task.kind {
        Kind::Rollback if !command.rollback.is_empty() => &command.rollback,
        Kind::Rollback | Kind::Deploy => &command.deploy,
        Kind::Observe => &command.observe,
    };
    let slot_dir = target.slot_dir(&task.state.slot.pipeline);
    let mut env = environment(task, spec, &packages, command.shape)?;
    env.insert("TIDEGATE_PACKAGE_DIR".to_owned(), text(package_dir)?);
    env.insert("TIDEGATE_STATE_DIR".to_owned(), text(&slot_dir.join("state"))?);
    env.insert(lock::LOCK_VARIABLE.to_owned(), text(&lock_path)?);
    // What is no valid secret is too short to be masked.
    let secrets: Vec<Secret> = task.secrets.values().filter_map(|v| Secret::new(v.as_str()).ok()).collect();
    let job = Job {
        command: argv.clone(),
        dir: package_dir.clone(),
        env,
        time_limit: time_limit(task).into(),
        niced: false,
        inherits: Some(held),
        log: Some(new_log(&slot_dir, task)),
        capture_max_bytes: (task.kind == Kind::Observe).then_some(observe::PRINT_MAX_BYTES),
        mask: Masker::new(&secrets),
    };
    let finished = job.run(target.preempted(task)).await.map_err(|e| fail(&e))?;
    Ok(if finished.ending == Ending::Cancelled { Outcome::Cancelled } else { Outcome::Ended(finished) })
}

/// Verifies and unpacks the packages of the split and removes all others. For a look, what was unpacked since the
/// engine was opened is good enough. Blocks.
pub(super) fn prepare(target: &Target, shared: &Shared, task: &Task) -> Result<Packages, PackageError> {
    let dir = target.slot_dir(&task.state.slot.pipeline).join("packages");
    let lead = task.state.commands_of();
    let split = task.state.desired.split.iter().filter(|s| s.boxes > 0);
    let needed: BTreeSet<&PackageDigest> = split
        .filter_map(|share| task.state.run_spec(&share.run_spec))
        .chain(lead)
        .map(|spec| &spec.package)
        .collect();
    remove_others(&dir, &needed).map_err(|source| PackageError::Unpack { path: dir.clone(), source })?;
    if task.state.rollback {
        // Only now it is known how much the removed ones gave back.
        shared.reserve.make_room();
    }
    let mut packages = Packages::new();
    for digest in needed {
        let path = dir.join(digest.as_str());
        let ready = task.kind == Kind::Observe && task.unpacked.contains(digest) && path.is_dir();
        let store = target.packages(shared);
        let result = if ready { Ok(()) } else { unpack(store, &shared.keys, digest, &path) };
        match result {
            Ok(()) => packages.insert(digest.clone(), Some(path)),
            // Nothing holds a rollback or the look at one, least of all the package of what it takes away.
            Err(error) if task.state.rollback && lead.is_some_and(|l| l.package != *digest) => {
                tracing::warn!(slot = %task.state.slot, %error, "a package that is rolled back from is not to be had");
                packages.insert(digest.clone(), None)
            }
            Err(error) => return Err(error),
        };
    }
    let unpacked = packages.iter().filter(|(_, path)| path.is_some()).map(|(d, _)| d.clone()).collect();
    target.unpacked(&task.state.slot, unpacked);
    Ok(packages)
}

fn unpack(
    store: &PackageStore,
    keys: &TrustedKeys,
    digest: &PackageDigest,
    to: &Path,
) -> Result<(), PackageError> {
    let package = store.verify(digest, keys)?;
    // What an earlier command did to its files must not reach the next. Removed first: a full disk has room again.
    remove(to).map_err(|source| PackageError::Unpack { path: to.to_owned(), source })?;
    package.unpack(to)
}

fn remove_others(dir: &Path, needed: &BTreeSet<&PackageDigest>) -> std::io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        if !needed.iter().any(|digest| name == digest.as_str()) {
            remove(&entry.path())?;
        }
    }
    Ok(())
}

fn remove(dir: &Path) -> std::io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

fn environment(
    task: &Task,
    spec: &RunSpec,
    packages: &Packages,
    shape: Shape,
) -> Result<BTreeMap<String, String>, String> {
    let (state, target) = (&task.state, &task.state.slot.target);
    let mut env = spec.environment.clone();
    for (variable, name) in &spec.secrets {
        let value = task.secrets.get(name).ok_or_else(|| format!("secret '{name}' has no value"))?;
        env.insert(variable.clone(), value.clone());
    }
    let lead = state.lead().map(|l| l.digest().to_string()).unwrap_or_default();
    let own = [
        ("SERVICE", target.service.to_string()),
        ("PIPELINE", state.slot.pipeline.to_string()),
        ("ENVIRONMENT", target.environment.to_string()),
        ("REGION", target.region.to_string()),
        ("AZ", target.az.to_string()),
        ("ROLE", target.role.to_string()),
        ("TARGET", target.to_string()),
        ("RUN_SPEC", lead),
        ("GENERATION", state.fence.generation.to_string()),
    ];
    env.extend(own.map(|(name, value)| (format!("TIDEGATE_{name}"), value)));
    if shape == Shape::ManyBoxes {
        env.insert("TIDEGATE_SPLIT".to_owned(), split(state, packages)?);
    }
    Ok(env)
}

fn split(state: &SlotState, packages: &Packages) -> Result<String, String> {
    let mut shares = Vec::new();
    for share in state.desired.split.iter().filter(|s| s.boxes > 0) {
        let path = state.run_spec(&share.run_spec).and_then(|spec| packages.get(&spec.package)?.as_ref());
        let package_dir = path.map(|p| text(p)).transpose()?;
        shares.push(SplitShare { run_spec: &share.run_spec, package_dir, boxes: share.boxes });
    }
    serde_json::to_string(&shares).map_err(|e| e.to_string())
}

/// One entry of `TIDEGATE_SPLIT`.
#[derive(Serialize)]
struct SplitShare<'a> {
    run_spec: &'a RunSpecDigest,
    package_dir: Option<String>,
    boxes: u32,
}

fn text(path: &Path) -> Result<String, String> {
    path.to_str().map(str::to_owned).ok_or_else(|| format!("the path {} is not UTF-8", path.display()))
}

/// The path of a new log; the oldest ones make room. A look has one log that is replaced each time.
fn new_log(slot_dir: &Path, task: &Task) -> PathBuf {
    let dir = slot_dir.join("logs");
    if task.kind == Kind::Observe {
        return dir.join("observe.log");
    }
    let mut kept = logs(slot_dir);
    kept.retain(|path| !path.ends_with("observe.log"));
    for old in kept.iter().take((kept.len() + 1).saturating_sub(LOGS_KEPT)) {
        if let Err(error) = fs::remove_file(old) {
            tracing::warn!(path = %old.display(), %error, "cannot remove an old log");
        }
    }
    dir.join(format!("{:014}-{}-{}.log", now().0, task.kind.name(), task.state.fence))
}

/// The logs of a slot, oldest first.
pub(super) fn logs(slot_dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(slot_dir.join("logs")).into_iter().flatten().flatten();
    let mut logs: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    logs.sort();
    logs
}

/// The time by the system's clock.
pub(super) fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

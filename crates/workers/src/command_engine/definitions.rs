//! Slots whose releases are definitions: no command of a team runs, the server takes them in. What must hold: what a look
//! tells was taken as a whole before, and a release that is not taken leaves what was.

use super::Shared;
use super::run::{self, Outcome, Packages};
use super::state::{self, Means, ReadError};
use super::target::{Kind, TROUBLE_MAX, Target, Task};
use serde::{Deserialize, Serialize};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tidegate_core::causes;
use tidegate_core::engine::{BoxHealth, BoxObservation};
use tidegate_core::ids::{RunSpecDigest, SlotId};
use tidegate_core::run_spec::{DefinitionsSpec, RunSpec};
use tidegate_core::units::Timestamp;

/// What is in place, in the slot's folder.
const TAKEN: &str = "taken.json";
/// The one box that the server is.
const BOX: &str = "server";

/// Definitions that are deployed.
#[derive(Debug)]
pub struct Given<'a> {
    /// Where to.
    pub slot: &'a SlotId,
    /// What they are deployed as.
    pub run_spec: &'a RunSpecDigest,
    /// Where in the package they are, and what they may define.
    pub spec: &'a DefinitionsSpec,
    /// The verified package, unpacked.
    pub package: &'a Path,
    /// They were there before, and are returned to: whatever cannot be put back must not hold the rest.
    pub rollback: bool,
}

/// Takes definitions in.
pub trait Definitions: Send + Sync {
    /// Takes all of them or none, in a rollback all that can be taken; taking what is there already changes nothing. Blocks;
    /// a rollback waits until it ends.
    ///
    /// # Errors
    /// Why not, for people: it is tried again.
    fn take(&self, given: &Given<'_>) -> Result<(), String>;
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Taken {
    run_spec: RunSpecDigest,
    since: Timestamp,
}

/// Takes a slot's definitions in, or tells which are in place.
pub(super) async fn run(
    target: &Arc<Target>,
    shared: &Arc<Shared>,
    task: &Arc<Task>,
) -> Result<Outcome, String> {
    let (target, shared, of) = (Arc::clone(target), Arc::clone(shared), Arc::clone(task));
    // It is let finish, also when a rollback waits: half of it would be worse than both.
    let done = tokio::task::spawn_blocking(move || match of.kind {
        Kind::Observe => look(&target.slot_dir(&of.state.slot.pipeline)).map(Outcome::Seen),
        Kind::Deploy | Kind::Rollback => take(&target, &shared, &of).map(|()| Outcome::Done),
    });
    let result = done.await.map_err(|error| causes(&error)).flatten();
    result.map_err(|why| format!("{}: {why}", task.kind.name()).chars().take(TROUBLE_MAX).collect())
}

fn take(target: &Target, shared: &Shared, task: &Task) -> Result<(), String> {
    let dir = target.slot_dir(&task.state.slot.pipeline);
    let Some(lead) = task.state.lead() else {
        // The definitions stay: nothing that runs hangs on who brought them.
        return remove(&dir.join(TAKEN));
    };
    let packages = run::prepare(target, shared, task).map_err(|error| causes(&error))?;
    let run_spec = lead.digest();
    shared.definitions.take(&given(task, lead, &run_spec, &packages)?)?;
    let before = taken(&dir)?.filter(|taken| taken.run_spec == run_spec);
    let since = before.map_or_else(run::now, |taken| taken.since);
    let taken = Taken { run_spec, since };
    state::write(&dir, TAKEN, &taken).map_err(|error| format!("cannot keep what was taken: {error}"))
}

fn given<'a>(
    task: &'a Task,
    lead: &'a RunSpec,
    run_spec: &'a RunSpecDigest,
    packages: &'a Packages,
) -> Result<Given<'a>, String> {
    let package: Option<&PathBuf> = packages.get(&lead.package).and_then(Option::as_ref);
    match (state::means(lead), package) {
        (Some(Means::Definitions(spec)), Some(package)) => Ok(Given {
            slot: &task.state.slot,
            run_spec,
            spec,
            package,
            rollback: task.kind == Kind::Rollback,
        }),
        (_, None) => Err(format!("package {} is not there", lead.package.short())),
        (_, Some(_)) => Err(format!("RunSpec {run_spec} has no definitions")),
    }
}

fn look(dir: &Path) -> Result<Vec<BoxObservation>, String> {
    let seen = taken(dir)?.map(|taken| BoxObservation {
        id: BOX.to_owned(),
        incarnation: 1,
        run_spec: taken.run_spec,
        health: BoxHealth::Healthy { since: taken.since },
        weight: 1,
    });
    Ok(seen.into_iter().collect())
}

fn taken(dir: &Path) -> Result<Option<Taken>, String> {
    match state::read(&dir.join(TAKEN)) {
        Ok(taken) => Ok(Some(taken)),
        Err(ReadError::Io(error)) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(format!("cannot read what was taken: {error}")),
    }
}

fn remove(path: &Path) -> Result<(), String> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(format!("cannot forget what was taken: {error}"))
        }
        _ => Ok(()),
    }
}

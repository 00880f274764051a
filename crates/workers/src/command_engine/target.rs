//! One target's worker: it picks what to run next, runs it, and records what came of it. One command at a time; a
//! rollback that is due comes first and ends whatever else runs.

use super::run::{self, Outcome};
use super::state::{self, SetError, SlotState};
use super::{Shared, make_dir, observe};
use crate::process::{Ending, Finished};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tidegate_core::engine::{BoxObservation, Observation};
use tidegate_core::ids::{PackageDigest, PipelineId, SecretName, SlotId};
use tidegate_core::run_spec::Shape;
use tidegate_fleet::package::PackageStore;
use tidegate_fleet::protocol::SetSlot;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

/// From one look to the next when nothing is to be done.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// Before the first repetition of what failed; doubled with each further one.
const RETRY_FIRST: Duration = Duration::from_secs(1);
/// At most so long between two tries: 1, 2, 4, ... 32, 60, 60 seconds.
const RETRY_MAX: Duration = Duration::from_secs(60);
/// The longest trouble, in characters.
pub(super) const TROUBLE_MAX: usize = 500;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Rollback,
    Deploy,
    Observe,
}

impl Kind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Kind::Rollback => "rollback",
            Kind::Deploy => "deploy",
            Kind::Observe => "observe",
        }
    }
}

/// One command to be run, with all that it needs: what is set meanwhile does not change it.
pub(super) struct Task {
    pub(super) kind: Kind,
    rank: u8,
    revision: u64,
    pub(super) state: SlotState,
    pub(super) secrets: BTreeMap<SecretName, String>,
    pub(super) unpacked: BTreeSet<PackageDigest>,
    before: Vec<BoxObservation>,
}

struct SlotWork {
    state: SlotState,
    secrets: BTreeMap<SecretName, String>,
    /// Grows when something else is wanted than before.
    revision: u64,
    /// When `deploy` or `rollback` is run; `None` when it has been.
    command_due: Option<Instant>,
    look_due: Instant,
    /// Failed tries of the command and of the look since the last that was well.
    failures: u32,
    look_failures: u32,
    boxes: Option<Vec<BoxObservation>>,
    command_trouble: Option<String>,
    look_trouble: Option<String>,
    /// Packages that were verified and unpacked since the engine was opened.
    unpacked: BTreeSet<PackageDigest>,
}

impl SlotWork {
    fn new(state: SlotState, secrets: BTreeMap<SecretName, String>) -> SlotWork {
        let now = Instant::now();
        SlotWork {
            command_due: (!state.applied && !state.only_condemns()).then_some(now),
            state,
            secrets,
            revision: 0,
            look_due: now,
            failures: 0,
            look_failures: 0,
            boxes: None,
            command_trouble: None,
            look_trouble: None,
            unpacked: BTreeSet::new(),
        }
    }

    fn observation(&self) -> Option<Observation> {
        let trouble = self.command_trouble.clone().or_else(|| self.look_trouble.clone());
        if self.boxes.is_none() && trouble.is_none() {
            return None;
        }
        let boxes = self.boxes.clone().unwrap_or_default();
        Some(Observation {
            slot: self.state.slot.clone(),
            fence: self.state.fence,
            boxes,
            trouble,
            glass: None,
        })
    }

    /// Nothing is known of what a rollback takes back, so that it cannot go on.
    fn must_be_seen(&self) -> bool {
        self.state.only_condemns() && self.observation().is_none()
    }

    fn rollback_due(&self) -> Option<Instant> {
        self.command_due.filter(|_| self.state.rollback)
    }

    /// When there has to be a look that a rollback cannot go on without.
    fn rollback_look_due(&self) -> Option<Instant> {
        (self.state.rollback && self.must_be_seen()).then_some(self.look_due)
    }

    /// What goes first, and ends whatever is behind it: a rollback's command, what a rollback has to see, all else.
    fn rank(&self, kind: Kind) -> u8 {
        match kind {
            Kind::Rollback => 0,
            Kind::Observe if self.rollback_look_due().is_some() => 1,
            Kind::Deploy | Kind::Observe => 2,
        }
    }
}

fn retry_after(failures: u32) -> Duration {
    RETRY_FIRST.saturating_mul(1 << failures.min(16)).min(RETRY_MAX)
}

pub(super) struct Target {
    dir: PathBuf,
    /// Where its packages are, if not in the engine's store.
    packages: Option<PackageStore>,
    slots: Mutex<BTreeMap<PipelineId, SlotWork>>,
    /// Grows with every accepted command.
    wake: watch::Sender<u64>,
}

/// The folders of a slot.
pub(super) fn make_slot_dirs(dir: &Path) -> std::io::Result<()> {
    ["", "logs", "packages", "state"].iter().try_for_each(|part| make_dir(&dir.join(part)))
}

impl Target {
    pub(super) fn new(dir: PathBuf) -> Target {
        Target { dir, packages: None, slots: Mutex::default(), wake: watch::Sender::new(0) }
    }

    /// One that is only looked at, with packages that are kept nowhere else yet.
    pub(super) fn to_look_at(dir: PathBuf, packages: PackageStore) -> Target {
        Target { packages: Some(packages), ..Target::new(dir) }
    }

    pub(super) fn packages<'a>(&'a self, shared: &'a Shared) -> &'a PackageStore {
        self.packages.as_ref().unwrap_or(&shared.store)
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    fn slots(&self) -> MutexGuard<'_, BTreeMap<PipelineId, SlotWork>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn slot_dir(&self, pipeline: &PipelineId) -> PathBuf {
        self.dir.join("slots").join(pipeline.as_str())
    }

    pub(super) fn resume(&self, state: SlotState, secrets: BTreeMap<SecretName, String>) {
        self.slots().insert(state.slot.pipeline.clone(), SlotWork::new(state, secrets));
        self.wake.send_modify(|n| *n += 1);
    }

    pub(super) fn set(&self, set: &SetSlot) -> Result<(), SetError> {
        let pipeline = &set.slot.pipeline;
        let mut slots = self.slots();
        let old = slots.get(pipeline);
        let state = SlotState::accept(old.map(|o| &o.state), set)?;
        let known = old.map(|o| o.secrets.clone()).unwrap_or_default();
        let secrets = state.named(known.into_iter().chain(set.secrets.clone()));
        let dir = self.slot_dir(pipeline);
        let fail = |source| SetError::Persist { path: dir.clone(), source };
        if old.is_none() {
            make_slot_dirs(&dir).map_err(fail)?;
        }
        if old.is_none_or(|o| o.secrets != secrets) {
            state::write_secrets(&dir, &secrets).map_err(fail)?;
        }
        if old.is_none_or(|o| o.state != state) {
            state.write(&dir).map_err(fail)?;
        }
        match slots.get_mut(pipeline) {
            None => {
                slots.insert(pipeline.clone(), SlotWork::new(state, secrets));
            }
            Some(work) => {
                let again = work.state.fence == state.fence;
                if work.state.desired != state.desired || work.state.rollback != state.rollback {
                    work.revision += 1;
                    work.command_trouble = None;
                }
                if !again && !state.applied {
                    let due = (!state.only_condemns()).then(Instant::now);
                    (work.command_due, work.failures) = (due, 0);
                }
                (work.state, work.secrets) = (state, secrets);
            }
        }
        drop(slots);
        self.wake.send_modify(|n| *n += 1);
        Ok(())
    }

    pub(super) fn knows(&self, slot: &SlotId) -> bool {
        self.slots().contains_key(&slot.pipeline)
    }

    pub(super) fn observe(&self, slot: &SlotId) -> Option<Observation> {
        self.slots().get(&slot.pipeline).and_then(SlotWork::observation)
    }

    pub(super) fn observe_all(&self) -> Vec<Observation> {
        self.slots().values().filter_map(SlotWork::observation).collect()
    }

    pub(super) fn highest_epoch(&self) -> u64 {
        self.slots().values().map(|s| s.state.fence.epoch).max().unwrap_or(0)
    }

    /// What is to be run now, or when there will be something.
    fn next(&self) -> Result<Task, Option<Instant>> {
        let slots = self.slots();
        let due = slots.values().flat_map(|work| {
            let kind = if work.state.rollback { Kind::Rollback } else { Kind::Deploy };
            let command = work.command_due.map(|at| (kind, at, work));
            command.into_iter().chain([(Kind::Observe, work.look_due, work)])
        });
        let now = Instant::now();
        let ready = due.clone().filter(|(_, at, _)| *at <= now);
        // Of those of one rank, which has waited longest.
        match ready.min_by_key(|(kind, at, work)| (work.rank(*kind), *at, *kind)) {
            None => Err(due.map(|(_, at, _)| at).min()),
            Some((kind, _, work)) => Ok(Task {
                kind,
                rank: work.rank(kind),
                revision: work.revision,
                state: work.state.clone(),
                secrets: work.secrets.clone(),
                unpacked: work.unpacked.clone(),
                before: work.boxes.clone().unwrap_or_default(),
            }),
        }
    }

    /// Ready when the task has to make room for a rollback.
    pub(super) async fn preempted(&self, task: &Task) {
        let mut wake = self.wake.subscribe();
        let due = |work: &SlotWork| {
            let own = work.state.slot == task.state.slot;
            if own && work.revision != task.revision && work.state.rollback {
                return Some(Instant::now());
            }
            let look = work.rollback_look_due().filter(|_| task.rank > 1);
            let command = work.rollback_due().filter(|_| task.rank > 0);
            look.into_iter().chain(command).min()
        };
        loop {
            let next = self.slots().values().filter_map(due).min();
            match next {
                Some(at) if at <= Instant::now() => return,
                Some(at) => {
                    let _ = tokio::time::timeout_at(at, wake.changed()).await;
                }
                // The sender lives as long as the target; were it gone, no rollback could come.
                None if wake.changed().await.is_err() => std::future::pending().await,
                None => {}
            }
        }
    }

    /// Notes which packages of a slot are verified and unpacked.
    pub(super) fn unpacked(&self, slot: &SlotId, packages: BTreeSet<PackageDigest>) {
        if let Some(work) = self.slots().get_mut(&slot.pipeline) {
            work.unpacked = packages;
        }
    }

    fn record(&self, task: &Task, shared: &Shared, change: impl FnOnce(&mut SlotWork)) {
        let mut slots = self.slots();
        let Some(work) = slots.get_mut(&task.state.slot.pipeline) else { return };
        let before = work.observation();
        change(work);
        if work.observation() != before {
            drop(slots);
            shared.changes.send_modify(|n| *n += 1);
        }
    }

    /// Keeps that the command for what is wanted has ended well. Blocks on the disk.
    fn applied(&self, task: &Task) {
        let mut slots = self.slots();
        let Some(work) = slots.get_mut(&task.state.slot.pipeline) else { return };
        if work.revision != task.revision {
            return;
        }
        work.state.applied = true;
        (work.command_due, work.command_trouble) = (None, None);
        if let Err(error) = work.state.write(&self.slot_dir(&task.state.slot.pipeline)) {
            // Then it is run once more after a restart, which does no harm.
            tracing::warn!(slot = %task.state.slot, %error, "cannot keep that a command has ended well");
        }
    }
}

/// Works for one target until it is aborted.
pub(super) async fn work(target: Arc<Target>, shared: Arc<Shared>) {
    let mut wake = target.wake.subscribe();
    let mut search = true;
    loop {
        wake.borrow_and_update();
        match target.next() {
            Ok(task) => {
                search = step(&target, &shared, task, search).await;
                // One that had to make room at once has waited for nothing.
                tokio::task::yield_now().await;
            }
            Err(next) => {
                let later = async {
                    match next {
                        Some(at) => sleep_until(at).await,
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    _ = wake.changed() => {}
                    () = later => {}
                }
            }
        }
    }
}

/// Runs a task and records its result; tells whether something of it may still be alive.
async fn step(target: &Arc<Target>, shared: &Arc<Shared>, task: Task, search: bool) -> bool {
    let lane = match task.kind {
        Kind::Rollback => &shared.rollbacks,
        Kind::Observe if task.state.rollback => &shared.rollbacks,
        Kind::Deploy => &shared.deploys,
        Kind::Observe => &shared.observes,
    };
    let permit = tokio::select! {
        biased;
        () = target.preempted(&task) => return search,
        permit = lane.acquire() => permit,
    };
    let task = Arc::new(task);
    let result = run::run(target, shared, &task, search).await;
    drop(permit);
    let clean = match &result {
        Ok(Outcome::Nothing | Outcome::Done | Outcome::Seen(_)) => true,
        Ok(Outcome::Ended(finished)) => matches!(finished.ending, Ending::Exited(_)),
        Ok(Outcome::Cancelled) | Err(_) => false,
    };
    match task.kind {
        Kind::Observe => looked(target, shared, &task, result),
        Kind::Rollback | Kind::Deploy => commanded(target, shared, &task, result).await,
    }
    // After a look that ended well the lock tells enough: the search costs more than most looks.
    !clean || task.kind != Kind::Observe
}

async fn commanded(target: &Arc<Target>, shared: &Shared, task: &Arc<Task>, result: Result<Outcome, String>) {
    let verdict = match result {
        Ok(Outcome::Nothing | Outcome::Done | Outcome::Seen(_)) => Ok(()),
        Ok(Outcome::Cancelled) => return,
        Ok(Outcome::Ended(finished)) => success(task, &finished),
        Err(why) => Err(why),
    };
    if verdict.is_ok() {
        let (target, task) = (Arc::clone(target), Arc::clone(task));
        if let Err(error) = tokio::task::spawn_blocking(move || target.applied(&task)).await {
            tracing::error!(%error, "recording a command's end failed");
        }
    }
    target.record(task, shared, |work| {
        work.look_due = Instant::now();
        if let Err(why) = verdict
            && work.revision == task.revision
        {
            tracing::warn!(slot = %task.state.slot, "{why}");
            work.command_due = Some(Instant::now() + retry_after(work.failures));
            work.failures += 1;
            work.command_trouble = Some(why);
        }
    });
}

/// Looks at a target that nobody works for.
pub(super) async fn look_once(
    target: &Arc<Target>,
    shared: &Arc<Shared>,
) -> Result<Vec<BoxObservation>, String> {
    let task = target.next().map_err(|_| "there is nothing to look at".to_owned())?;
    let _permit = shared.observes.acquire().await.map_err(|_| "the engine is closed".to_owned())?;
    let task = Arc::new(task);
    let result = run::run(target, shared, &task, true).await;
    seen(&task, result).unwrap_or_else(|| Err("the look was ended early".to_owned()))
}

/// What a look found; `None` if it made room for a rollback.
fn seen(task: &Task, result: Result<Outcome, String>) -> Option<Result<Vec<BoxObservation>, String>> {
    Some(match result {
        Ok(Outcome::Nothing | Outcome::Done) => Ok(Vec::new()),
        Ok(Outcome::Seen(boxes)) => Ok(boxes),
        Ok(Outcome::Cancelled) => return None,
        Ok(Outcome::Ended(finished)) => success(task, &finished).and_then(|()| {
            let shape = run::spec_and_means(&task.state).map_or(Shape::ManyBoxes, |(_, means)| means.shape());
            observe::read(&finished.captured, shape, &task.before, run::now())
                .map_err(|why| format!("observe: {why}"))
        }),
        Err(why) => Err(why),
    })
}

fn looked(target: &Target, shared: &Shared, task: &Task, result: Result<Outcome, String>) {
    let Some(boxes) = seen(task, result) else { return };
    target.record(task, shared, |work| match boxes {
        Err(why) => {
            work.look_due = Instant::now() + retry_after(work.look_failures);
            work.look_failures += 1;
            work.look_trouble = Some(why);
        }
        Ok(boxes) => {
            (work.look_due, work.look_failures) = (Instant::now() + LOOK_EVERY, 0);
            work.look_trouble = None;
            if work.state.applied && work.revision == task.revision {
                reconcile(work, &boxes);
            }
            work.boxes = Some(boxes);
        }
    });
}

/// Mends a target that was as wanted and is so no longer: the command is run again.
fn reconcile(work: &mut SlotWork, boxes: &[BoxObservation]) {
    let difference = observe::difference(boxes, &work.state.desired);
    if difference.is_none() && boxes.iter().all(|b| b.health.is_healthy()) {
        (work.command_due, work.failures, work.command_trouble) = (None, 0, None);
    } else if work.command_due.is_none() {
        work.command_due = Some(Instant::now() + retry_after(work.failures));
        work.failures += 1;
        work.command_trouble = difference;
    }
}

fn success(task: &Task, finished: &Finished) -> Result<(), String> {
    let kind = task.kind.name();
    let what = match finished.ending {
        Ending::Exited(status) if status.success() => return Ok(()),
        Ending::Exited(status) => format!("{kind} failed with {status}"),
        Ending::TimedOut => format!("{kind} was ended after its time limit of {}", run::time_limit(task)),
        Ending::Flooded => format!("{kind} was ended because it printed too much"),
        Ending::Cancelled => format!("{kind} was ended early"),
    };
    let last = finished.last_lines(1).pop().map(|line| format!(": {line}")).unwrap_or_default();
    Err(what.chars().chain(last.chars()).take(TROUBLE_MAX).collect())
}

//! Configuration of boxes that run (S5): which box is to have which values, and how one box comes to have them.
//!
//! What must hold: a box gets only files that were verified just before; they change as a whole; a box that cannot work
//! with its new values goes on with those it had, also after it was started again; what a box has is on disk before it
//! is asked to take it up, so the next supervisor asks again.

use crate::boxes::{BoxState, RESTART_DELAY_MAX_MS, RESTART_DELAY_MIN_MS, SlotSignals};
use crate::disk::{self, Durable};
use crate::error::is_full;
use crate::health;
use crate::metrics::{BoxMeter, lock};
use crate::plan::{Present, Standing};
use crate::protocol::SetSlot;
use crate::route::Upstream;
use crate::shared::{Shared, now};
use crate::start::{self, StartError};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tidegate_core::engine::{BoxHealth, Desired, Rest};
use tidegate_core::ids::{PipelineId, RunSpecDigest, SlotId};
use tidegate_core::run_spec::{ConfigurationSpec, RunSpec, Workload};
use tidegate_core::units::Timestamp;
use tokio::sync::watch;

/// The folder, within a box's own, in which it finds the values of each pipeline.
pub(crate) const FOLDER_NAME: &str = "configuration";
/// Where the files are that lead there.
const VERSIONS_NAME: &str = "values";
/// What a box has of each pipeline.
const RECORD_NAME: &str = "configuration.json";

/// The configuration of a target's boxes.
#[derive(Debug, Clone, Default)]
pub(crate) struct OfTarget {
    /// The slot whose boxes get it: the one that was told last to have some.
    pub(crate) boxes_of: Option<SlotId>,
    /// The newest command of each configuration slot.
    pub(crate) commands: BTreeMap<PipelineId, Arc<SetSlot>>,
}

/// What a box is to have of each pipeline.
pub(crate) type Wanted = BTreeMap<PipelineId, WantedValues>;

/// What a box is to have of one pipeline.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct WantedValues {
    pub(crate) run_spec: RunSpec,
    /// It is taken back to these: it may use the disk space that is kept for rollbacks.
    pub(crate) rollback: bool,
}

/// How far a box is with what it is to have of one pipeline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Taking {
    /// It was asked, or will be as soon as it is healthy.
    Asked {
        since: Timestamp,
    },
    Works {
        since: Timestamp,
    },
    Refused {
        why: String,
    },
}

/// What a box has of one pipeline, as its supervisor's task tells.
#[derive(Debug, Clone)]
pub(crate) struct Held {
    /// `None`: it is to have nothing of the pipeline, and still has something.
    pub(crate) run_spec: Option<RunSpecDigest>,
    /// What it works with, or at least was given.
    pub(crate) has: Option<RunSpecDigest>,
    pub(crate) taking: Taking,
}

/// Assigns a RunSpec, or nothing, to each box that does not leave: so many of each as the split says, and the rest to all
/// others. A box keeps what it was assigned before as long as that is wanted; unhealthy boxes are changed first.
pub(crate) fn assign(
    desired: &Desired,
    boxes: &[Present],
    before: impl Fn(&str) -> Option<RunSpecDigest>,
) -> BTreeMap<String, Option<RunSpecDigest>> {
    let mut boxes: Vec<&Present> = boxes.iter().filter(|b| b.standing != Standing::Leaving).collect();
    boxes.sort_by(|a, b| b.standing.cmp(&a.standing).then_with(|| a.id.cmp(&b.id)));
    let rest = match &desired.rest {
        Some(Rest::RunSpec(rest)) => Some(rest.clone()),
        Some(Rest::Nothing) | None => None,
    };
    let mut places: BTreeMap<&RunSpecDigest, usize> = BTreeMap::new();
    for share in &desired.split {
        *places.entry(&share.run_spec).or_default() += share.boxes as usize;
    }
    let mut assigned = BTreeMap::new();
    // The best keep what they have; whoever is left fills the other places, the worst first.
    boxes.retain(|b| match before(&b.id).and_then(|had| places.get_mut(&had).map(|n| (had, n))) {
        Some((had, n)) if *n > 0 => {
            *n -= 1;
            assigned.insert(b.id.clone(), Some(had));
            false
        }
        _ => true,
    });
    boxes.sort_by(|a, b| a.standing.cmp(&b.standing).then_with(|| a.id.cmp(&b.id)));
    let open = places.into_iter().flat_map(|(spec, n)| std::iter::repeat_n(Some(spec.clone()), n));
    let filled = open.chain(std::iter::repeat(rest));
    assigned.extend(boxes.into_iter().zip(filled).map(|(b, spec)| (b.id.clone(), spec)));
    assigned
}

/// What a configuration slot's observation says of a box: what it is to have, and how it is with that.
pub(crate) fn observed(
    held: Option<&Held>,
    wanted: Option<&RunSpecDigest>,
    process: &RunSpecDigest,
    health: &BoxHealth,
) -> (RunSpecDigest, BoxHealth) {
    let Some(wanted) = wanted else {
        let still = held.and_then(|held| held.has.clone());
        return match held.map(|held| &held.taking) {
            Some(Taking::Refused { why }) if still.is_some() && health.is_healthy() => {
                (still.unwrap_or_else(|| process.clone()), BoxHealth::Unhealthy { reason: why.clone() })
            }
            _ => (still.unwrap_or_else(|| process.clone()), health.clone()),
        };
    };
    let BoxHealth::Healthy { since } = health else { return (wanted.clone(), health.clone()) };
    let taking = held.filter(|held| held.run_spec.as_ref() == Some(wanted)).map(|held| &held.taking);
    let health = match taking {
        Some(Taking::Works { since: works }) => BoxHealth::Healthy { since: *since.max(works) },
        Some(Taking::Refused { why }) => BoxHealth::Unhealthy { reason: why.clone() },
        Some(Taking::Asked { since }) => BoxHealth::Starting { since: *since },
        None => BoxHealth::Starting { since: *since },
    };
    (wanted.clone(), health)
}

/// What a box has of one pipeline, on disk.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    /// What it works with; `None` for nothing.
    accepted: Option<RunSpec>,
    /// What its files may be beside that, and what it may have been asked to take up: it is asked again.
    given: Option<RunSpec>,
    /// It was started with what it was given, and has never worked with anything else.
    fresh: bool,
}

impl Entry {
    /// What of the pipeline may be in the box's files.
    fn any(&self) -> Option<&RunSpec> {
        self.accepted.as_ref().or(self.given.as_ref())
    }
}

type Entries = BTreeMap<PipelineId, Entry>;

fn read(folder: &Path) -> Entries {
    match disk::read_json(&folder.join(RECORD_NAME)) {
        Ok(entries) => entries.unwrap_or_default(),
        Err(error) => {
            tracing::warn!(%error, "a box's record of its configuration is not readable; it is asked anew");
            Entries::default()
        }
    }
}

/// What the box was given before this process began to watch over it.
pub(crate) fn on_disk(folder: &Path) -> Wanted {
    let accepted = |(pipeline, entry): (PipelineId, Entry)| {
        Some((pipeline, WantedValues { run_spec: entry.accepted?, rollback: false }))
    };
    read(folder).into_iter().filter_map(accepted).collect()
}

/// Lays out the files that a box starts with: those that it works with, or, where there are none, those that it is to have.
pub(crate) fn lay_out(shared: &Shared, folder: &Path, wanted: &Wanted) -> Result<(), StartError> {
    let had = read(folder);
    let link_folder = folder.join(FOLDER_NAME);
    for name in [FOLDER_NAME, VERSIONS_NAME] {
        match fs::remove_dir_all(folder.join(name)) {
            Err(e) if e.kind() != ErrorKind::NotFound => {
                return Err(start::io("remove the last start's configuration")(e));
            }
            _ => {}
        }
    }
    disk::private_dir(&link_folder).map_err(start::io("make the folder of its configuration"))?;
    let mut entries = Entries::new();
    for (pipeline, wanted) in wanted {
        // What it worked with, as long as that is not what is taken back: a process that its values keep down never gets so
        // far as to be asked.
        let known = had.get(pipeline).filter(|entry| !entry.fresh && !wanted.rollback);
        let entry = match known {
            Some(entry) => Entry { given: None, ..entry.clone() },
            None => Entry { accepted: None, given: Some(wanted.run_spec.clone()), fresh: true },
        };
        if let Some(run_spec) = entry.any() {
            place(shared, folder, pipeline, run_spec)?;
        }
        entries.insert(pipeline.clone(), entry);
    }
    disk::write_json(&folder.join(RECORD_NAME), &entries, Durable::No)
        .map_err(start::io("record its configuration"))
}

/// Whether the box has these files already.
fn leads_to(folder: &Path, pipeline: &PipelineId, run_spec: &RunSpec) -> bool {
    let link = fs::read_link(folder.join(FOLDER_NAME).join(pipeline.as_str()));
    link.is_ok_and(|to| to.ends_with(run_spec.digest().as_str()))
}

/// Verifies and unpacks the values, then lets the pipeline's name lead there in one step. Files that the box has are left
/// alone.
fn place(
    shared: &Shared,
    folder: &Path,
    pipeline: &PipelineId,
    run_spec: &RunSpec,
) -> Result<(), StartError> {
    if leads_to(folder, pipeline, run_spec) {
        return Ok(());
    }
    let to = folder.join(VERSIONS_NAME).join(run_spec.digest().as_str());
    match fs::remove_dir_all(&to) {
        Err(e) if e.kind() != ErrorKind::NotFound => return Err(start::io("remove an old version")(e)),
        _ => {}
    }
    disk::private_dir(&folder.join(VERSIONS_NAME)).map_err(start::io("make a folder for the values"))?;
    start::unpack(shared, &run_spec.package, &to)?;
    point(folder, pipeline, run_spec).map_err(start::io("put the new values in place"))
}

fn point(folder: &Path, pipeline: &PipelineId, run_spec: &RunSpec) -> std::io::Result<()> {
    let link = folder.join(FOLDER_NAME).join(pipeline.as_str());
    let new = folder.join(FOLDER_NAME).join(format!(".{pipeline}"));
    match fs::remove_file(&new) {
        Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    symlink(Path::new("..").join(VERSIONS_NAME).join(run_spec.digest().as_str()), &new)?;
    fs::rename(&new, &link)
}

fn unlink(folder: &Path, pipeline: &PipelineId) -> std::io::Result<()> {
    match fs::remove_file(folder.join(FOLDER_NAME).join(pipeline.as_str())) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// Who may change the files of a box's configuration at present: its start, or the keeper of its process.
#[derive(Debug, Clone, Default)]
pub(crate) struct Files(Arc<Mutex<()>>);

impl Files {
    pub(crate) fn lock(&self) -> MutexGuard<'_, ()> {
        lock(&self.0)
    }
}

/// Brings one box that runs to the values that it is to have.
pub(crate) struct Keeper {
    pub(crate) files: Files,
    /// Set when it ends: what it still has under way may change nothing any more.
    pub(crate) ended: Arc<AtomicBool>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) signals: Arc<SlotSignals>,
    pub(crate) state: Arc<Mutex<BoxState>>,
    pub(crate) meter: Arc<BoxMeter>,
    pub(crate) upstream: Arc<Upstream>,
    pub(crate) folder: PathBuf,
    pub(crate) wanted: watch::Receiver<Arc<Wanted>>,
    /// Whether the box passes its health checks.
    pub(crate) healthy: watch::Receiver<bool>,
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
    }
}

/// Without its slot (the fleet is frozen) nobody may change anything.
async fn or_never(changed: Result<(), watch::error::RecvError>) {
    if changed.is_err() {
        std::future::pending::<()>().await;
    }
}

impl Keeper {
    /// Until the process ends.
    pub(crate) async fn keep(mut self) -> Infallible {
        let mut entries = read(&self.folder);
        let mut failures = 0_u32;
        loop {
            // What is taken back is taken back from a sick box as well.
            while !*self.healthy.borrow_and_update() && !self.wanted.borrow().values().any(|w| w.rollback) {
                tokio::select! {
                    changed = self.healthy.changed() => or_never(changed).await,
                    changed = self.wanted.changed() => or_never(changed).await,
                }
            }
            let wanted = Arc::clone(&self.wanted.borrow_and_update());
            self.tell(&entries, &wanted, None);
            let mut next = self.wanted.clone();
            // Newer values wait for no answer to older ones; whatever is left half way is asked again.
            let refused = tokio::select! {
                refused = self.change_all(&mut entries, &wanted) => refused,
                changed = next.changed() => {
                    or_never(changed).await;
                    failures = 0;
                    continue;
                }
            };
            failures = if refused { (failures + 1).min(16) } else { 0 };
            let pause =
                RESTART_DELAY_MIN_MS.checked_shl(failures).unwrap_or(u64::MAX).min(RESTART_DELAY_MAX_MS);
            tokio::select! {
                changed = self.wanted.changed() => {
                    or_never(changed).await;
                    failures = 0;
                }
                // What could not be told to a box that was starting is told as soon as it serves.
                changed = self.healthy.changed(), if refused => {
                    or_never(changed).await;
                    failures = 0;
                }
                () = tokio::time::sleep(Duration::from_millis(pause)), if refused => {}
            }
        }
    }

    /// Brings the box to all that it is to have; whether it refused something.
    async fn change_all(&self, entries: &mut Entries, wanted: &Wanted) -> bool {
        let mut refused = false;
        let pipelines: BTreeSet<PipelineId> = entries.keys().chain(wanted.keys()).cloned().collect();
        for pipeline in pipelines {
            let entry = entries.get(&pipeline).cloned().unwrap_or_default();
            let new = wanted.get(&pipeline);
            if entry.given.is_none() && entry.accepted.as_ref() == new.map(|new| &new.run_spec) {
                continue;
            }
            let result = self.change(entries, &pipeline, new).await;
            refused |= result.is_err();
            self.tell(entries, wanted, Some((&pipeline, result)));
        }
        refused
    }

    /// Brings the box to these values of a pipeline, or to none. On failure it has those of before.
    async fn change(
        &self,
        entries: &mut Entries,
        pipeline: &PipelineId,
        new: Option<&WantedValues>,
    ) -> Result<(), String> {
        let rollback = new.is_none_or(|new| new.rollback);
        let entry = entries.entry(pipeline.clone()).or_default();
        let accepted = entry.accepted.clone();
        let given = new.map(|new| &new.run_spec).or(entry.any()).cloned();
        let Some(Workload::Configuration(how)) = given.as_ref().map(|spec| &spec.workload) else {
            // It has nothing, and is to have nothing.
            entries.remove(pipeline);
            return self.record(entries, rollback).await;
        };
        entry.given.clone_from(&given);
        self.record(entries, rollback).await?;
        let put = match new {
            Some(new) if accepted.as_ref() == Some(&new.run_spec) => {
                self.put_back(pipeline, accepted.clone()).await
            }
            Some(new) => self.put(pipeline, new.clone()).await,
            None => self.put_back(pipeline, None).await,
        };
        let result = match put {
            Ok(()) => self.reload(how).await,
            Err(why) => Err(why),
        };
        if result.is_err() {
            // A fresh process works with its files or not at all; any other has its own again. That it was asked stays on
            // disk: so it takes up what it is to have next, whatever that is.
            let fresh = entries.get(pipeline).is_some_and(|entry| entry.fresh);
            let back = if fresh { Ok(()) } else { self.put_back(pipeline, accepted).await };
            return result.and(back);
        }
        match new {
            Some(new) => {
                let accepted = Some(new.run_spec.clone());
                entries.insert(pipeline.clone(), Entry { accepted, ..Entry::default() });
            }
            None => {
                entries.remove(pipeline);
            }
        }
        self.record(entries, rollback).await?;
        self.sweep(entries).await;
        Ok(())
    }

    async fn put(&self, pipeline: &PipelineId, new: WantedValues) -> Result<(), String> {
        let permit = self.shared.start_permit(new.rollback).await?;
        let (shared, folder, pipeline) = (Arc::clone(&self.shared), self.folder.clone(), pipeline.clone());
        self.blocking(move || {
            let _permit = permit;
            if shared.is_frozen() {
                return Err("another process supervises by now".to_owned());
            }
            let place = || place(&shared, &folder, &pipeline, &new.run_spec);
            match place() {
                Err(StartError { disk_full: true, .. }) if new.rollback && shared.data.lend_reserve() => {
                    place()
                }
                other => other,
            }
            .map_err(|e| e.why)
        })
        .await
    }

    /// The files of before are still there; nothing is unpacked.
    async fn put_back(&self, pipeline: &PipelineId, before: Option<RunSpec>) -> Result<(), String> {
        let (folder, pipeline) = (self.folder.clone(), pipeline.clone());
        self.blocking(move || {
            let done = match before {
                Some(before) => point(&folder, &pipeline, &before),
                None => unlink(&folder, &pipeline),
            };
            done.map_err(|e| format!("failed to put the values of before back: {e}"))
        })
        .await
    }

    async fn reload(&self, how: &ConfigurationSpec) -> Result<(), String> {
        let limit = Duration::from(how.timeout);
        match tokio::time::timeout(limit, health::reload(&self.upstream, &how.reload)).await {
            Ok(answer) => answer,
            Err(_) => Err(format!("POST {} got no answer within {}", how.reload, how.timeout)),
        }
    }

    async fn record(&self, entries: &Entries, rollback: bool) -> Result<(), String> {
        let (path, entries, shared) =
            (self.folder.join(RECORD_NAME), entries.clone(), Arc::clone(&self.shared));
        let write = move || {
            let write = || disk::write_json(&path, &entries, Durable::No);
            match write() {
                Err(e) if rollback && is_full(&e) && shared.data.lend_reserve() => write(),
                other => other,
            }
            .map_err(|e| format!("failed to record the configuration: {e}"))
        };
        self.blocking(write).await
    }

    /// Removes the files that nothing leads to.
    async fn sweep(&self, entries: &Entries) {
        let of = |entry: &Entry| {
            entry.accepted.iter().chain(&entry.given).map(|s| s.digest().to_string()).collect()
        };
        let kept: Vec<String> = entries.values().flat_map(|entry| -> Vec<String> { of(entry) }).collect();
        let versions = self.folder.join(VERSIONS_NAME);
        // What is left is removed with the box at the latest.
        let _ = self
            .blocking(move || {
                for version in disk::entries(&versions).unwrap_or_default() {
                    if !kept.iter().any(|kept| version.ends_with(kept)) {
                        let _ = fs::remove_dir_all(version);
                    }
                }
                Ok(())
            })
            .await;
    }

    async fn blocking(
        &self,
        work: impl FnOnce() -> Result<(), String> + Send + 'static,
    ) -> Result<(), String> {
        let (files, ended) = (self.files.clone(), Arc::clone(&self.ended));
        // Who lets go of this fleet waits for it.
        let alive = self.shared.lives.subscribe();
        let work = move || {
            let (_files, _alive) = (files.lock(), alive);
            if ended.load(Ordering::SeqCst) { Err("its process has ended".to_owned()) } else { work() }
        };
        tokio::task::spawn_blocking(work).await.unwrap_or_else(|e| Err(format!("it broke off: {e}")))
    }

    /// Shows what the box has, after the result of one change if there is one.
    fn tell(&self, entries: &Entries, wanted: &Wanted, changed: Option<(&PipelineId, Result<(), String>)>) {
        let working = entries.values().filter_map(|e| e.accepted.as_ref()).map(RunSpec::digest);
        *lock(&self.meter.configuration) = working.collect();
        let mut state = lock(&self.state);
        let before = std::mem::take(&mut state.configuration);
        for pipeline in entries.keys().chain(wanted.keys()).collect::<BTreeSet<_>>() {
            let entry = entries.get(pipeline);
            let digest = |spec: Option<&RunSpec>| spec.map(RunSpec::digest);
            let run_spec = digest(wanted.get(pipeline).map(|w| &w.run_spec));
            let has = digest(entry.and_then(Entry::any));
            let works = entry.is_none_or(|e| e.given.is_none()) && has == run_spec;
            let result = changed.as_ref().filter(|(p, _)| *p == pipeline).map(|(_, result)| result);
            let was =
                before.get(pipeline).filter(|was| was.run_spec == run_spec).map(|was| was.taking.clone());
            let taking = match (result, was) {
                (Some(Err(why)), _) => Taking::Refused { why: why.clone() },
                (_, Some(was @ Taking::Works { .. })) if works => was,
                _ if works => Taking::Works { since: now() },
                // While it is asked again, what it said last stands.
                (None, Some(was @ (Taking::Refused { .. } | Taking::Asked { .. }))) => was,
                _ => Taking::Asked { since: now() },
            };
            state.configuration.insert(pipeline.clone(), Held { run_spec, has, taking });
        }
        drop(state);
        self.signals.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidegate_core::engine::Share;

    fn spec(c: char) -> RunSpecDigest {
        RunSpecDigest::new(c.to_string().repeat(64)).unwrap()
    }

    /// Boxes as `id standing had`, with `-` for nothing; the answer in the order of their ids.
    fn check(split: &[(char, u32)], rest: Option<char>, boxes: &[&str]) -> String {
        let desired = Desired {
            split: split.iter().map(|(c, boxes)| Share { run_spec: spec(*c), boxes: *boxes }).collect(),
            condemned: Vec::new(),
            minimum_serving: 0,
            surge: false,
            rest: Some(rest.map_or(Rest::Nothing, |c| Rest::RunSpec(spec(c)))),
        };
        let words: Vec<Vec<&str>> = boxes.iter().map(|b| b.split(' ').collect()).collect();
        let present: Vec<Present> = words
            .iter()
            .map(|w| Present {
                id: w[0].to_owned(),
                run_spec: spec('0'),
                standing: match w[1] {
                    "up" => Standing::Healthy,
                    "down" => Standing::Unhealthy,
                    _ => Standing::Leaving,
                },
            })
            .collect();
        let had = |id: &str| {
            let word = words.iter().find(|w| w[0] == id).map(|w| w[2])?;
            word.chars().next().filter(|c| *c != '-').map(spec)
        };
        assign(&desired, &present, had)
            .into_iter()
            .map(|(id, spec)| format!("{id}{}", spec.map_or("-".to_owned(), |s| s.as_str()[..1].to_owned())))
            .collect::<Vec<_>>()
            .join(" ")
    }

    #[test]
    fn as_many_boxes_as_the_split_says_get_the_new_values_and_the_others_the_rest() {
        let four = ["1 up a", "2 up a", "3 up a", "4 up a"];
        assert_eq!(check(&[('b', 1), ('a', 3)], Some('a'), &four), "1a 2a 3a 4b");
        let first = ["1 up -", "2 up -", "3 up -"];
        assert_eq!(
            check(&[('b', 1)], None, &first),
            "1b 2- 3-",
            "before the first release they have nothing"
        );
        assert_eq!(check(&[('b', 3)], Some('b'), &first), "1b 2b 3b");
        assert_eq!(check(&[], None, &["1 up b", "2 up b"]), "1- 2-");
    }

    #[test]
    fn a_box_keeps_what_it_has_and_unhealthy_boxes_change_first() {
        assert_eq!(check(&[('b', 2), ('a', 1)], Some('a'), &["1 up a", "2 up b", "3 up a"]), "1a 2b 3b");
        assert_eq!(check(&[('b', 1), ('a', 2)], Some('a'), &["1 up a", "2 up a", "3 down a"]), "1a 2a 3b");
    }

    #[test]
    fn boxes_beyond_the_split_get_the_rest_and_those_that_leave_nothing_new() {
        assert_eq!(check(&[('b', 1)], Some('b'), &["1 up b", "2 up -", "3 gone a"]), "1b 2b");
        assert_eq!(check(&[('b', 1), ('a', 1)], Some('a'), &["1 up b", "2 up a", "3 up -"]), "1b 2a 3a");
    }
}

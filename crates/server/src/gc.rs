//! What nobody needs any more goes: packages that no release can return to, logs of builds, mirrors that no pipeline names, scratch.
//!
//! What must hold: whatever a rollback may need stays. A package is needed as long as anything names its digest: a release that a
//! target runs, ran among its last five, or may yet run; an order to an engine; a box. And no build runs meanwhile, so that none is
//! told of a package that has just gone.

use crate::hands::Hands;
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use tidegate_api::{GcAnswer, GcItem, GcUse, VERSION};
use tidegate_core::causes;
use tidegate_core::definition::SourceDef;
use tidegate_core::ids::{PackageDigest, PipelineId, ReleaseNo};
use tidegate_core::pipeline::Pipeline;
use tidegate_runtime::RuntimeError;
use tidegate_workers::build::remove_tree;

/// A package that is younger stays: its release may not know of it yet.
const PACKAGE_KEPT: Duration = Duration::from_secs(24 * 3_600);
/// The log of a build stays so long, and longer as long as its release may run.
const LOG_KEPT: Duration = Duration::from_secs(30 * 24 * 3_600);
/// A mirror that no pipeline names stays so long after its last fetch.
const MIRROR_KEPT: Duration = Duration::from_secs(7 * 24 * 3_600);
/// A digest in hexadecimal digits.
const DIGEST_LEN: usize = 64;
/// The most items that are told one by one.
const ITEMS_MAX: usize = 10_000;

/// Why nothing was collected.
#[derive(Debug, thiserror::Error)]
pub enum GcError {
    /// The pipelines cannot be read: what they need is not known.
    #[error("cannot tell what is needed")]
    Runtime(#[from] RuntimeError),
    /// Something cannot be looked at: what it needs is not known.
    #[error("cannot read {path}", path = path.display())]
    Read {
        /// What.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// What is needed.
#[derive(Debug, Default)]
struct Needed {
    digests: BTreeSet<String>,
    releases: BTreeSet<(PipelineId, ReleaseNo)>,
    mirrors: BTreeSet<String>,
}

/// Something that can go.
struct Found {
    kind: &'static str,
    name: String,
    paths: Vec<PathBuf>,
}

/// Collects what nobody needs, or only tells of it. Blocks on the disk; unless it only tells, the caller holds every place for
/// builds.
///
/// # Errors
/// It is not known what is needed; then nothing was removed.
pub fn collect(hands: &Hands, dry_run: bool) -> Result<GcAnswer, GcError> {
    let needed = needed(hands)?;
    let mut found = packages(hands, &needed)?;
    found.extend(logs(hands, &needed)?);
    found.extend(mirrors(hands, &needed)?);
    if !dry_run {
        // A build that runs has its scratch there; the caller lets none run.
        found.extend(scratch(hands)?);
    }
    let mut answer = GcAnswer {
        version: VERSION,
        dry_run,
        items: Vec::new(),
        bytes: 0,
        used: used(hands),
        failed: Vec::new(),
    };
    for Found { kind, name, paths } in found {
        let bytes = paths.iter().map(|path| size(path)).sum();
        if !dry_run {
            if kind == MIRROR {
                hands.poller.forget(&name);
            }
            if let Err(error) = paths.iter().try_for_each(|path| remove(path)) {
                answer.failed.push(format!("{kind} {name}: {error}"));
                continue;
            }
            tracing::info!(kind, name, bytes, "was needed by nobody, and is removed");
        }
        answer.bytes += bytes;
        if answer.items.len() < ITEMS_MAX {
            answer.items.push(GcItem { kind: kind.to_owned(), name, bytes });
        }
    }
    Ok(answer)
}

const MIRROR: &str = "mirror";

fn needed(hands: &Hands) -> Result<Needed, GcError> {
    let mut needed = Needed::default();
    for id in hands.runtime.pipelines()? {
        let Some(pipeline) = hands.runtime.pipeline(&id)? else { continue };
        let kept = kept_releases(&pipeline);
        let releases: Vec<_> = pipeline.releases.iter().filter(|(no, _)| kept.contains(no)).collect();
        let told = serde_json::to_string(&(releases, &pipeline.slots, &pipeline.steps, &pipeline.reality))
            .unwrap_or_default();
        add_digests(&told, &mut needed.digests);
        needed.releases.extend(kept.into_iter().map(|no| (id.clone(), no)));
        if pipeline.life.is_active() {
            let sources = pipeline.definition.iter().flat_map(|definition| &definition.sources);
            needed.mirrors.extend(sources.map(mirror_name));
        }
    }
    // What engines were told, what somebody at the machine may put back, and what boxes run, also if this server's store does not know it (any more).
    for folder in ["fleet/slots", "fleet/configurations", "fleet/before", "fleet/boxes", "commands/targets"] {
        read_all(&hands.dirs.data.join(folder), &mut |text| add_digests(text, &mut needed.digests))?;
    }
    Ok(needed)
}

/// The releases that a target may run or return to: none is older than the oldest that a slot or a step names.
fn kept_releases(pipeline: &Pipeline) -> BTreeSet<ReleaseNo> {
    // Where it only observes, what is really so as well.
    let slots = pipeline.slots.values().chain(pipeline.real_slots().values());
    let in_slots = slots.flat_map(|slot| slot.history.iter().copied().chain(slot.running()));
    let steps = pipeline.steps.values().chain(pipeline.reality.iter().flat_map(|r| r.steps.values()));
    let in_steps = steps.flat_map(|step| {
        let work = step.work.under_way().map(|(release, _)| release);
        [step.candidate, step.done, work].into_iter().flatten()
    });
    let oldest = in_slots.chain(in_steps).min();
    pipeline.releases.keys().copied().filter(|no| oldest.is_none_or(|oldest| *no >= oldest)).collect()
}

/// Where the poller keeps the mirror of a source.
fn mirror_name(source: &SourceDef) -> String {
    crate::hands::Poller::mirror_name(source)
}

/// Adds every digest that stands in a text.
fn add_digests(text: &str, digests: &mut BTreeSet<String>) {
    let words = text.split(|c: char| !c.is_ascii_hexdigit()).filter(|word| word.len() == DIGEST_LEN);
    digests.extend(words.map(str::to_owned));
}

/// Reads every JSON file beneath a folder, but not what was unpacked there.
fn read_all(folder: &Path, take: &mut dyn FnMut(&str)) -> Result<(), GcError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| GcError::Read { path, source }
    };
    for (path, is_folder) in children(folder).map_err(failed(folder))? {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if is_folder && !matches!(name, "package" | "packages" | "tmp" | "logs" | "state" | "values") {
            read_all(&path, take)?;
        } else if !is_folder && name.ends_with(".json") {
            match fs::read_to_string(&path) {
                Ok(text) => take(&text),
                // It was replaced just now: its successor is read with the folder, or names what the store names.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(failed(&path)(error)),
            }
        }
    }
    Ok(())
}

fn packages(hands: &Hands, needed: &Needed) -> Result<Vec<Found>, GcError> {
    let folder = &hands.dirs.packages;
    let listed = hands
        .packages
        .list()
        .map_err(|error| GcError::Read { path: folder.clone(), source: io::Error::other(causes(&error)) })?;
    let paths = |digest: &PackageDigest| {
        ["dsse.json", "tar"].map(|end| folder.join(format!("{digest}.{end}"))).to_vec()
    };
    let unneeded = listed.into_iter().filter(|digest| !needed.digests.contains(digest.as_str()));
    let found =
        unneeded.map(|digest| Found { kind: "package", name: digest.to_string(), paths: paths(&digest) });
    Ok(found.filter(|found| found.paths.iter().all(|path| is_older(path, PACKAGE_KEPT))).collect())
}

fn logs(hands: &Hands, needed: &Needed) -> Result<Vec<Found>, GcError> {
    let folder = hands.dirs.logs.join("builds");
    let failed = |source| GcError::Read { path: folder.clone(), source };
    let mut found = Vec::new();
    for (of_pipeline, _) in children(&folder).map_err(failed)?.into_iter().filter(|(_, is_folder)| *is_folder)
    {
        let id = of_pipeline.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse().ok());
        let Some(id): Option<PipelineId> = id else { continue };
        for (path, _) in children(&of_pipeline).map_err(failed)? {
            let stem = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse().ok());
            let Some(release): Option<ReleaseNo> = stem else { continue };
            if !needed.releases.contains(&(id.clone(), release)) && is_older(&path, LOG_KEPT) {
                found.push(Found { kind: "build-log", name: format!("{id} {release}"), paths: vec![path] });
            }
        }
    }
    Ok(found)
}

fn mirrors(hands: &Hands, needed: &Needed) -> Result<Vec<Found>, GcError> {
    let folder = &hands.dirs.mirrors;
    let failed = |source| GcError::Read { path: folder.clone(), source };
    let mut found = Vec::new();
    for (path, _) in children(folder).map_err(failed)?.into_iter().filter(|(_, is_folder)| *is_folder) {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let fetched = path.join("FETCH_HEAD");
        let old =
            if fetched.exists() { is_older(&fetched, MIRROR_KEPT) } else { is_older(&path, MIRROR_KEPT) };
        if !needed.mirrors.contains(&name) && old {
            found.push(Found { kind: MIRROR, name, paths: vec![path] });
        }
    }
    Ok(found)
}

fn scratch(hands: &Hands) -> Result<Vec<Found>, GcError> {
    let folder = &hands.dirs.builds;
    let left = children(folder).map_err(|source| GcError::Read { path: folder.clone(), source })?;
    let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok(left
        .into_iter()
        .map(|(path, _)| Found { kind: "scratch", name: name(&path), paths: vec![path] })
        .collect())
}

/// What each part of the data directory uses.
fn used(hands: &Hands) -> Vec<GcUse> {
    let names = ["store", "packages", "logs", "mirrors", "cache", "builds", "tests", "fleet", "commands"];
    let used = names.map(|name| GcUse { name: name.to_owned(), bytes: size(&hands.dirs.data.join(name)) });
    used.to_vec()
}

fn children(folder: &Path) -> io::Result<Vec<(PathBuf, bool)>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut found: Vec<(PathBuf, bool)> = entries
        .map(|entry| entry.and_then(|entry| Ok((entry.path(), entry.file_type()?.is_dir()))))
        .collect::<io::Result<_>>()?;
    found.sort();
    Ok(found)
}

/// One whose age cannot be told is young.
fn is_older(path: &Path, kept: Duration) -> bool {
    let modified = fs::symlink_metadata(path).and_then(|metadata| metadata.modified());
    modified.is_ok_and(|at| SystemTime::now().duration_since(at).is_ok_and(|age| age > kept))
}

/// The bytes of a file, or of everything beneath a folder, as the disk counts them.
fn size(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let Ok(metadata) = fs::symlink_metadata(path) else { return 0 };
    let below = if metadata.is_dir() { children(path).unwrap_or_default() } else { Vec::new() };
    metadata.blocks() * 512 + below.iter().map(|(path, _)| size(path)).sum::<u64>()
}

fn remove(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return remove_tree(path);
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_found_wherever_they_stand() {
        let (one, two) = ("ab".repeat(32), "0".repeat(64));
        let mut digests = BTreeSet::new();
        add_digests(&format!("{{\"package\":\"{one}\",\"x\":[\"{two}\",\"{one}0\"]}}"), &mut digests);
        assert_eq!(digests.into_iter().collect::<Vec<_>>(), [two, one]);
    }
}

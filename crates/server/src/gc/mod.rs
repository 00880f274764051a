//! What nobody needs any more goes: packages that no release can return to, logs of builds, mirrors that no pipeline names, scratch.
//!
//! What must hold: whatever a rollback may need stays. A package is needed as long as anything names its digest: a release that a
//! target runs, ran among its last five, or may yet run; an order to an engine; a box. And no build runs meanwhile, so that none is
//! told of a package that has just gone. A disk budget makes things go before their time, and never what is needed.

mod needed;
mod usage;

pub use usage::Usage;

use self::needed::{Needed, needed};
use self::usage::size;
use crate::hands::{Hands, measured};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use tidegate_api::{GcAnswer, GcItem, VERSION};
use tidegate_core::causes;
use tidegate_core::ids::{PackageDigest, PipelineId, ReleaseNo};
use tidegate_runtime::RuntimeError;
use tidegate_workers::build::remove_tree;

const HOUR: Duration = Duration::from_secs(3_600);
/// What is younger stays whatever the budget is: somebody may be about to name it.
const YOUNG: Duration = HOUR;
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

/// What can go, in the order in which a budget takes it: what is easiest to have again comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Scratch,
    Package,
    Mirror,
    Dependencies,
    BuildLog,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Scratch => "scratch",
            Kind::Package => "package",
            Kind::Mirror => "mirror",
            Kind::Dependencies => "dependencies",
            Kind::BuildLog => "build-log",
        }
    }

    /// How old it becomes when there is room; builds themselves see to it that dependencies do not become too many.
    fn kept(self) -> Option<Duration> {
        match self {
            Kind::Scratch => Some(Duration::ZERO),
            // Its release may not know of it yet.
            Kind::Package => Some(24 * HOUR),
            // Since its last fetch.
            Kind::Mirror => Some(7 * 24 * HOUR),
            Kind::Dependencies => None,
            Kind::BuildLog => Some(30 * 24 * HOUR),
        }
    }
}

/// Something that nobody needs.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Found {
    kind: Kind,
    name: String,
    paths: Vec<PathBuf>,
    bytes: u64,
    age: Duration,
}

/// Since somebody has put it there, put the same there again, or used it; what cannot be told is young.
fn age(paths: &[PathBuf]) -> Duration {
    let modified =
        paths.iter().map(|path| fs::symlink_metadata(path).and_then(|found| found.modified()).ok());
    modified.max().flatten().and_then(|at| SystemTime::now().duration_since(at).ok()).unwrap_or_default()
}

impl Found {
    fn new(kind: Kind, name: String, paths: Vec<PathBuf>) -> Found {
        let bytes = paths.iter().map(|path| size(path)).sum();
        Found { kind, name, bytes, age: age(&paths), paths }
    }

    /// Whether somebody has put it there again since it was found.
    fn is_wanted_again(&self) -> bool {
        self.kind != Kind::Scratch && age(&self.paths) < self.age
    }

    fn is_past_its_time(&self) -> bool {
        self.kind == Kind::Scratch || self.kind.kept().is_some_and(|kept| self.age > kept)
    }
}

/// What goes: all that is past its time; and as long as more is used (beside scratch) than the budget, what is not, the oldest of
/// each kind first.
fn choose(found: Vec<Found>, used: u64, budget: Option<u64>) -> Vec<Found> {
    let (mut going, mut others): (Vec<Found>, Vec<Found>) =
        found.into_iter().partition(Found::is_past_its_time);
    let lasting = going.iter().filter(|found| found.kind != Kind::Scratch);
    let mut left = used.saturating_sub(lasting.map(|found| found.bytes).sum());
    others.retain(|found| found.age > YOUNG);
    others.sort_by(|a, b| (a.kind, b.age, &a.name).cmp(&(b.kind, a.age, &b.name)));
    for found in others {
        if budget.is_none_or(|budget| left <= budget) {
            break;
        }
        left = left.saturating_sub(found.bytes);
        going.push(found);
    }
    going
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
    found.extend(folders(&hands.dirs.cache, Kind::Dependencies)?);
    if !dry_run {
        // A build that runs has its scratch there; the caller lets none run.
        found.extend(folders(&hands.dirs.builds, Kind::Scratch)?);
    }
    let usage = Usage::measure(&hands.dirs.data);
    let budget = hands.keeping.budget();
    let mut answer = GcAnswer {
        version: VERSION,
        dry_run,
        items: Vec::new(),
        bytes: 0,
        used: usage.told(),
        budget,
        failed: Vec::new(),
    };
    for found in choose(found, usage.lasting(), budget) {
        if found.is_wanted_again() {
            continue;
        }
        let Found { kind, name, paths, bytes, .. } = found;
        let kind_name = kind.name();
        if !dry_run {
            if kind == Kind::Mirror {
                hands.poller.forget(&name);
            }
            if let Err(error) = paths.iter().try_for_each(|path| remove(path)) {
                answer.failed.push(format!("{kind_name} {name}: {error}"));
                continue;
            }
            tracing::info!(kind = kind_name, name, bytes, "was needed by nobody, and is removed");
        }
        answer.bytes += bytes;
        if answer.items.len() < ITEMS_MAX {
            answer.items.push(GcItem { kind: kind_name.to_owned(), name, bytes });
        }
    }
    if !dry_run {
        measured(hands);
    }
    Ok(answer)
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
    Ok(unneeded.map(|digest| Found::new(Kind::Package, digest.to_string(), paths(&digest))).collect())
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
            if !needed.releases.contains(&(id.clone(), release)) {
                found.push(Found::new(Kind::BuildLog, format!("{id} {release}"), vec![path]));
            }
        }
    }
    Ok(found)
}

fn mirrors(hands: &Hands, needed: &Needed) -> Result<Vec<Found>, GcError> {
    let mut found = folders(&hands.dirs.mirrors, Kind::Mirror)?;
    found.retain(|found| !needed.mirrors.contains(&found.name));
    Ok(found)
}

/// Each folder in a folder.
fn folders(folder: &Path, kind: Kind) -> Result<Vec<Found>, GcError> {
    let inner = children(folder).map_err(|source| GcError::Read { path: folder.to_owned(), source })?;
    let found = inner.into_iter().filter(|(_, is_folder)| *is_folder || kind == Kind::Scratch);
    Ok(found
        .map(|(path, _)| {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            Found::new(kind, name, vec![path])
        })
        .collect())
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

    fn found(kind: Kind, hours: u32, bytes: u64) -> Found {
        Found { kind, name: format!("{hours} h"), paths: Vec::new(), bytes, age: HOUR * hours }
    }

    #[test]
    fn what_is_past_its_time_goes_and_a_budget_takes_what_is_easiest_to_have_again() {
        let all = [
            found(Kind::BuildLog, 2, 10),
            found(Kind::BuildLog, 24 * 31, 10),
            found(Kind::Dependencies, 24 * 365, 10),
            found(Kind::Dependencies, 2, 10),
            found(Kind::Mirror, 24 * 6, 10),
            found(Kind::Package, 3, 10),
            found(Kind::Package, 23, 10),
            found(Kind::Package, 25, 10),
            found(Kind::Package, 1, 10),
        ];
        let goes = |budget| -> Vec<(Kind, String)> {
            choose(all.to_vec(), 100, budget).into_iter().map(|found| (found.kind, found.name)).collect()
        };
        let named = |kinds: &[(Kind, u32)]| -> Vec<(Kind, String)> {
            kinds.iter().map(|(kind, hours)| (*kind, format!("{hours} h"))).collect()
        };
        let past = [(Kind::BuildLog, 24 * 31), (Kind::Package, 25)];
        assert_eq!(goes(None), named(&past));
        assert_eq!(goes(Some(80)), named(&past), "it is kept to");
        let more = [(Kind::Package, 23), (Kind::Package, 3)];
        assert_eq!(goes(Some(79)), named(&[&past[..], &more[..1]].concat()));
        assert_eq!(goes(Some(60)), named(&[&past[..], &more].concat()));
        let rest = [
            (Kind::Mirror, 24 * 6),
            (Kind::Dependencies, 24 * 365),
            (Kind::Dependencies, 2),
            (Kind::BuildLog, 2),
        ];
        assert_eq!(goes(Some(0)), named(&[&past[..], &more, &rest].concat()), "what is young stays");
    }
}

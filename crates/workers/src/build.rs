//! Builds: from commits to a signed package (B1 to B4).
//!
//! A build exports its sources, fetches what they depend on (the only step with network, cached by the digest of the
//! lock files), runs its steps without network in a clean room, packs what they made, and signs it together with how
//! it came about. What must hold: nothing of a build runs outside the sandbox; no build sees another one's leavings;
//! what is packed lies inside the build's own folder, whatever links it made; a failure says which step, how it
//! ended, and what it said last.

mod dirs;
mod plan;

pub use dirs::remove_tree;
pub use plan::BuildPlan;

use crate::git::{GitError, Mirror};
use crate::sandbox::{Bind, Log, Outcome, Room, Sandbox, SandboxError};
use crate::secrets::Secret;
use dirs::{Caches, WorkDir};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tidegate_core::definition::BuildStep;
use tidegate_core::ids::{CommitId, PackageDigest, SourceId};
use tidegate_core::units::Timestamp;
use tidegate_fleet::package::{
    ExternalParameters, PackItem, PackageError, PackageStore, Provenance, ResourceDescriptor, SigningKey,
    StepRecord, pack,
};

/// Where the sources are in the sandbox: the only source itself, or one folder for each, named by its id.
pub const SRC: &str = "/src";
/// Where the fetched dependencies are in the sandbox: writable for fetch steps, and read-only afterwards.
pub const CACHE: &str = "/cache";
/// How many of its last lines a failed step's error holds.
const LAST_LINES: usize = 20;
/// A disk with less free than this, in bytes, is full.
const FREE_MIN_BYTES: u64 = 1 << 20;

/// A source at a commit.
pub struct BuildSource {
    /// Its id in the pipeline.
    pub id: SourceId,
    /// Where its files come from; the commit has been fetched.
    pub mirror: Arc<Mirror>,
    /// What is built.
    pub commit: CommitId,
    /// When that was committed.
    pub committed: Timestamp,
}

/// What a build has made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuiltPackage {
    /// The package's name in the store.
    pub digest: PackageDigest,
    /// The size of its tar in bytes.
    pub bytes: u64,
    /// How it came about.
    pub provenance: Provenance,
    /// Whether the dependencies had to be fetched, or were there from an earlier build.
    pub fetched: bool,
}

/// Why there is no package.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say what the fields are")]
pub enum BuildFailure {
    #[error("the build's definition cannot be carried out: {why}")]
    Plan { why: String },
    #[error("step '{step}' {outcome}")]
    Step { step: String, outcome: Outcome, last_lines: String },
    #[error("step '{step}' {outcome} (the disk is full)")]
    NoSpace { step: String, outcome: Outcome, last_lines: String },
    #[error("'{path}' is not usable as {role}: {why}")]
    Path { role: &'static str, path: String, why: String },
    #[error("the result cannot be packed")]
    Pack(#[source] PackageError),
    #[error("failed to export source '{id}'")]
    Export { id: SourceId, source: GitError },
    #[error("failed to run step '{step}'")]
    Sandbox { step: String, source: SandboxError },
    #[error("failed to store the package")]
    Store(#[source] PackageError),
    #[error("failed to {operation} {path}", path = path.display())]
    Disk { operation: &'static str, path: PathBuf, source: std::io::Error },
}

impl BuildFailure {
    /// Whether the commits or the definition are at fault, so that the same build would fail again; else it is the
    /// machine (disk, sandbox, git), and the build may be tried again.
    #[must_use]
    pub fn is_fault_of_change(&self) -> bool {
        matches!(
            self,
            BuildFailure::Plan { .. }
                | BuildFailure::Step { .. }
                | BuildFailure::Path { .. }
                | BuildFailure::Pack(_)
        )
    }
}

fn disk<'a>(operation: &'static str, path: &'a Path) -> impl Fn(std::io::Error) -> BuildFailure + use<'a> {
    move |source| BuildFailure::Disk { operation, path: path.to_owned(), source }
}

/// Builds packages. Several builds may run at the same time; one process uses its folders at a time.
pub struct Builder {
    sandbox: Sandbox,
    store: PackageStore,
    key: Arc<SigningKey>,
    work: PathBuf,
    caches: Caches,
}

impl Builder {
    /// A builder with its scratch folder `work`, of which it removes what a killed server has left, and the folder
    /// `cache` for fetched dependencies.
    pub fn open(
        sandbox: Sandbox,
        store: PackageStore,
        key: Arc<SigningKey>,
        work: &Path,
        cache: &Path,
    ) -> Result<Builder, BuildFailure> {
        dirs::make_empty(work).map_err(disk("empty", work))?;
        let caches = Caches::open(cache).map_err(disk("open", cache))?;
        let work = fs::canonicalize(work).map_err(disk("open", work))?;
        Ok(Builder { sandbox, store, key, work, caches })
    }

    /// Builds `plan` from `sources` and stores the package under its digest; `name` is what people call it. The
    /// `secrets`, by environment variable, are for the fetch steps alone; `log` must mask them. A dropped future
    /// ends the build.
    pub async fn build(
        &self,
        name: &str,
        plan: &BuildPlan,
        sources: &[BuildSource],
        secrets: &BTreeMap<String, Secret>,
        log: &Log,
    ) -> Result<BuiltPackage, BuildFailure> {
        let (started, clock) = (now(), Instant::now());
        plan.check().map_err(|why| BuildFailure::Plan { why })?;
        let work = WorkDir::create(&self.work).map_err(disk("make a folder in", &self.work))?;
        let src = work.path().join("src");
        export(sources, &src).await?;
        let env = environment(plan, sources);
        let run = Run { builder: self, plan, src: &src, env, log, started: clock };
        let (key, cache, fetched) = run.dependencies(secrets).await?;
        let cache_bind = cache.as_ref().map(|c| bind(c.path(), CACHE, false));
        for step in &plan.definition.steps {
            let binds = std::iter::once(bind(&src, SRC, true)).chain(cache_bind.clone()).collect();
            run.step(step, binds, &run.env, false).await?;
        }
        let record =
            |network| move |s: &BuildStep| StepRecord { name: s.name.clone(), run: s.run.clone(), network };
        let (fetch, steps) = (&plan.definition.fetch, &plan.definition.steps);
        let steps = fetch.iter().map(record(true)).chain(steps.iter().map(record(false))).collect();
        let materials =
            sources.iter().map(|s| ResourceDescriptor::git(s.id.as_str(), s.mirror.url(), &s.commit));
        let parameters = ExternalParameters { steps, dependencies_key: key };
        let provenance = Provenance::new(parameters, materials.collect(), self.key.key_id(), started, now());
        let (digest, bytes) = self.package(name, plan, &work, provenance.clone()).await?;
        log.line(&format!("== package {digest}, {bytes} bytes"));
        work.remove().await;
        Ok(BuiltPackage { digest, bytes, provenance, fetched })
    }

    async fn package(
        &self,
        name: &str,
        plan: &BuildPlan,
        work: &WorkDir,
        provenance: Provenance,
    ) -> Result<(PackageDigest, u64), BuildFailure> {
        let (store, key, name) = (self.store.clone(), self.key.clone(), name.to_owned());
        let (src, tar, wanted) =
            (work.path().join("src"), work.path().join("package.tar"), plan.definition.package.clone());
        let task = tokio::task::spawn_blocking(move || {
            let mut items = Vec::new();
            for path in &wanted {
                let from = inside(&src, &path.from, "a part of the package")?;
                items.push(PackItem { from, to: PathBuf::from(&path.to) });
            }
            let mut file = std::io::BufWriter::new(File::create_new(&tar).map_err(disk("create", &tar))?);
            pack(&items, &mut file).map_err(BuildFailure::Pack)?;
            drop(file.into_inner().map_err(|e| disk("write", &tar)(e.into_error()))?);
            let file = File::open(&tar).map_err(disk("open", &tar))?;
            let bytes = file.metadata().map_err(disk("open", &tar))?.len();
            let digest = store.put(file, &name, provenance, &key).map_err(BuildFailure::Store)?;
            Ok((digest, bytes))
        });
        task.await.unwrap_or_else(|e| Err(disk("pack", work.path())(std::io::Error::other(e))))
    }
}

/// One build under way.
struct Run<'a> {
    builder: &'a Builder,
    plan: &'a BuildPlan,
    src: &'a Path,
    env: BTreeMap<String, String>,
    log: &'a Log,
    started: Instant,
}

impl Run<'_> {
    /// The dependencies' key and folder, and whether they had to be fetched.
    async fn dependencies(
        &self,
        secrets: &BTreeMap<String, Secret>,
    ) -> Result<(Option<String>, Option<dirs::Cache>, bool), BuildFailure> {
        if self.plan.definition.fetch.is_empty() {
            return Ok((None, None, false));
        }
        let mut locks = Vec::new();
        for name in &self.plan.definition.lock_files {
            let path = inside(self.src, name, "a lock file")?;
            locks.push((name.as_str(), plan::digest_of(&path).map_err(disk("read", &path))?));
        }
        let key = self.plan.dependencies_key(&locks);
        let caches = &self.builder.caches;
        if let Some(cache) = caches.find(&key) {
            self.log.line(&format!("== dependencies {key} are there from an earlier build"));
            return Ok((Some(key), Some(cache), false));
        }
        let fresh = caches.begin().map_err(disk("make a folder in", caches.path()))?;
        let secrets = secrets.iter().map(|(name, value)| (name.clone(), value.expose().to_owned()));
        let env: BTreeMap<String, String> = self.env.clone().into_iter().chain(secrets).collect();
        for step in &self.plan.definition.fetch {
            // The sources are read-only here: what is written beside them would be missing after a cached fetch.
            let binds = vec![bind(self.src, SRC, false), bind(fresh.path(), CACHE, true)];
            self.step(step, binds, &env, true).await?;
        }
        let cache = caches.finish(fresh, &key).map_err(disk("keep dependencies in", caches.path()))?;
        Ok((Some(key), Some(cache), true))
    }

    async fn step(
        &self,
        step: &BuildStep,
        binds: Vec<Bind>,
        env: &BTreeMap<String, String>,
        network: bool,
    ) -> Result<(), BuildFailure> {
        self.log.line(&format!("== {}: {}", step.name, step.run.join(" ")));
        let time = Duration::from(self.plan.definition.limits.time);
        let room = Room {
            binds,
            tool_paths: self.plan.tool_paths.clone(),
            network,
            cwd: SRC.into(),
            env: env.clone(),
            limits: self.plan.limits(time.saturating_sub(self.started.elapsed())),
        };
        let outcome = self
            .builder
            .sandbox
            .run(room, &step.run, self.log)
            .await
            .map_err(|source| BuildFailure::Sandbox { step: step.name.clone(), source })?;
        if outcome.is_success() {
            return Ok(());
        }
        let (step, last_lines) = (step.name.clone(), self.log.tail(LAST_LINES));
        // Whoever has filled the disk: what a step says then speaks against no change.
        let full = outcome == Outcome::DiskFull
            || outcome != Outcome::DiskLimit && free_bytes(self.src) < FREE_MIN_BYTES;
        self.log.line(&format!("== {step} {outcome}{}", if full { " (the disk is full)" } else { "" }));
        Err(match full {
            true => BuildFailure::NoSpace { step, outcome, last_lines },
            false => BuildFailure::Step { step, outcome, last_lines },
        })
    }
}

async fn export(sources: &[BuildSource], src: &Path) -> Result<(), BuildFailure> {
    fs::create_dir(src).map_err(disk("make", src))?;
    for source in sources {
        let to = if sources.len() == 1 { src.to_owned() } else { src.join(source.id.as_str()) };
        source
            .mirror
            .export(&source.commit, &to)
            .await
            .map_err(|error| BuildFailure::Export { id: source.id.clone(), source: error })?;
    }
    Ok(())
}

/// What all steps find: the same for the same commits and definition.
fn environment(plan: &BuildPlan, sources: &[BuildSource]) -> BTreeMap<String, String> {
    let newest = sources.iter().map(|s| s.committed.0).max().unwrap_or(0).max(0) / 1_000;
    let mut env: BTreeMap<String, String> = [
        ("SOURCE_DATE_EPOCH".to_owned(), newest.to_string()),
        ("TIDEGATE_CACHE".to_owned(), CACHE.to_owned()),
    ]
    .into();
    if let [source] = sources {
        env.insert("TIDEGATE_COMMIT".to_owned(), source.commit.to_string());
    }
    env.extend(plan.definition.environment.clone());
    env
}

fn free_bytes(path: &Path) -> u64 {
    rustix::fs::statvfs(path).map_or(u64::MAX, |s| s.f_bavail.saturating_mul(s.f_frsize))
}

fn bind(from: &Path, to: &str, writable: bool) -> Bind {
    Bind { from: from.to_owned(), to: to.into(), writable }
}

/// The real place of a path in a build's folder. Links are followed, as no process of the build is left that could
/// change them, and must not lead out.
fn inside(root: &Path, path: &str, role: &'static str) -> Result<PathBuf, BuildFailure> {
    let refuse = |why: String| BuildFailure::Path { role, path: path.to_owned(), why };
    if Path::new(path).is_absolute() {
        return Err(refuse("it is absolute; it must be relative to the sources".to_owned()));
    }
    let real = fs::canonicalize(root.join(path)).map_err(|e| refuse(e.to_string()))?;
    if real.starts_with(root) { Ok(real) } else { Err(refuse("it leads out of the sources".to_owned())) }
}

fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

//! Takes over a service that runs already. Everything is looked at before anything is told to the core: what runs where, whether
//! it serves, and whether the folder that was given has what runs, so that it can really be returned to. Nothing is deployed.
//! Whoever only looks goes the same way up to the word of the core, which is asked and not told; until that word, the package is
//! aside, so that what is refused leaves nothing.

use crate::hands::{Hands, shortage_of};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read, Seek};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tidegate_api::{AdoptRequest, Adopted, AdoptedTarget, VERSION};
use tidegate_core::causes;
use tidegate_core::decision::{Actor, Event};
use tidegate_core::definition::EngineDef;
use tidegate_core::engine::{BoxHealth, BoxObservation, Desired, Fence, RunningProcess, Share};
use tidegate_core::ids::{PackageDigest, PipelineId, SlotId, TargetId};
use tidegate_core::pipeline::{ADOPTED, Adoption, Pipeline, PipelineEvent, run_specs};
use tidegate_core::run_spec::{ProcessSpec, RunSpec};
use tidegate_fleet::package::{PackItem, PackageStore, Provenance, pack};
use tidegate_fleet::protocol::SetSlot;
use tidegate_fleet::running::{self, Running};
use tidegate_runtime::SubmitError;
use tidegate_workers::command_engine::difference;

/// The most processes that one request hands over.
const PROCESSES_MAX: usize = 10_000;

/// How long an answer waits for the engines to see as healthy what was handed over.
const SEEN_WAIT_MAX: Duration = Duration::from_secs(10);
/// Between two looks at that.
const SEEN_EVERY: Duration = Duration::from_millis(50);

/// Why a service is not taken over. Nothing was changed; if its package is in the store all the same, nothing names it.
#[derive(Debug, thiserror::Error)]
pub enum NotAdopted {
    /// It cannot be returned to, or is not what the request says.
    #[error("{message}")]
    Refused {
        /// For people.
        message: String,
        /// What to do about it.
        hint: &'static str,
    },
    /// The pipeline does not take it.
    #[error(transparent)]
    Submit(#[from] SubmitError),
    /// Something of tidegate's own failed.
    #[error("{0}")]
    Failed(String),
}

fn refused(message: impl Into<String>, hint: &'static str) -> NotAdopted {
    NotAdopted::Refused { message: message.into(), hint }
}

/// Takes over what a request names, or only looks.
pub(crate) async fn adopt(
    hands: &Arc<Hands>,
    id: &PipelineId,
    request: &AdoptRequest,
    by: &Actor,
) -> Result<Adopted, NotAdopted> {
    let pipeline = hands.runtime.pipeline(id).map_err(|error| NotAdopted::Failed(causes(&error)))?;
    let pipeline = pipeline.filter(|pipeline| pipeline.definition.is_some());
    let pipeline = pipeline
        .ok_or_else(|| refused(format!("there is no pipeline '{id}'"), "apply its definition first"))?;
    let definition =
        pipeline.definition.clone().ok_or_else(|| NotAdopted::Failed("no definition".to_owned()))?;
    let folder = folder(&request.folder)?;
    let found = match &definition.run.engine {
        EngineDef::Process(spec) => processes(request, spec, &folder).await?,
        EngineDef::Command(command) => {
            let program = command.deploy.first().map(String::as_str).unwrap_or_default();
            packaged(&folder, program)?;
            commanded(&pipeline, request)?
        }
        EngineDef::Configuration(_) | EngineDef::Definitions(_) => {
            let message = format!("'{id}' deploys nothing that could run already");
            return Err(refused(message, "let its first release go its way"));
        }
    };
    let laid = lay_aside(hands, &folder, id, by).await?;
    let package = laid.package.clone();
    let plain =
        |running: &Vec<(RunningProcess, String)>| running.iter().map(|(process, _)| *process).collect();
    let adoption = Adoption {
        package: package.clone(),
        from: format!("{}{}", folder.display(), if request.unproven { " (unproven)" } else { "" }),
        targets: found.targets.iter().map(|(target, running)| (target.clone(), plain(running))).collect(),
        by: by.clone(),
        reason: request.reason.clone(),
    };
    let event = Event::Pipeline(id.clone(), PipelineEvent::Adopted { adoption });
    let asked = event.clone();
    hands.blocking(move |hands| hands.runtime.consider(&asked)).await?;
    let mut targets = Vec::new();
    let mut notes = found.notes;
    for (target, running) in &found.targets {
        let boxes = match found.kind {
            Kind::Processes => running.iter().map(|(_, words)| words.clone()).collect(),
            Kind::Commands => look(hands, id, &pipeline, target, &laid).await?,
        };
        targets.push(AdoptedTarget { target: target.clone(), boxes });
    }
    if found.kind == Kind::Processes {
        notes.push("whoever started these processes must not start them again when they end: from now on tidegate does".to_owned());
    }
    if !request.dry_run {
        keep(hands, laid).await?;
        let by = by.clone();
        hands.blocking(move |hands| hands.runtime.submit(&event, &by)).await?;
        notes.extend(until_seen(hands, id, &pipeline, found.kind, found.targets.keys()).await);
    }
    let (pipeline, dry_run) = (id.clone(), request.dry_run);
    Ok(Adopted { version: VERSION, pipeline, release: ADOPTED, package, dry_run, targets, notes })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Processes,
    Commands,
}

struct Found {
    kind: Kind,
    /// Where something runs: each process, and what it is for people.
    targets: BTreeMap<TargetId, Vec<(RunningProcess, String)>>,
    notes: Vec<String>,
}

fn folder(path: &str) -> Result<PathBuf, NotAdopted> {
    let hint =
        "name the folder with what runs, on the server's machine, laid out as the pipeline's package is";
    let given = Path::new(path);
    if !given.is_absolute() {
        return Err(refused(format!("'{path}' is not an absolute path"), hint));
    }
    let real = given.canonicalize().map_err(|error| refused(format!("cannot use {path}: {error}"), hint))?;
    if !real.is_dir() {
        return Err(refused(format!("{path} is not a folder"), hint));
    }
    // A package has none, and with all of its history it would be kept for ever.
    if real.join(".git").symlink_metadata().is_ok() {
        let message = format!("{path} is a git repository, and not laid out as the pipeline's package is");
        let hint = "copy what 'build.package' of the definition names into a folder of its own, at the same paths, and give that";
        return Err(refused(message, hint));
    }
    Ok(real)
}

/// A program of the definition in the folder: what a return would run.
fn packaged(folder: &Path, program: &str) -> Result<PathBuf, NotAdopted> {
    const HINT: &str = "restorable is what the folder has: lay it out as the pipeline's package is";
    let path = folder.join(program);
    let meta = path.metadata().map_err(|error| {
        refused(format!("the folder has no {program}, which the definition's command runs: {error}"), HINT)
    })?;
    if meta.is_file() && meta.permissions().mode() & 0o111 != 0 {
        return Ok(path);
    }
    Err(refused(
        format!("{program} in the folder is not executable, and the definition's command runs it"),
        HINT,
    ))
}

async fn processes(request: &AdoptRequest, spec: &ProcessSpec, folder: &Path) -> Result<Found, NotAdopted> {
    let count: usize = request.processes.values().map(Vec::len).sum();
    if count == 0 || count > PROCESSES_MAX {
        return Err(refused(
            format!("{count} processes are named; 1 to {PROCESSES_MAX} are expected"),
            "name each box's process as TARGET=PID or TARGET=PID:PORT",
        ));
    }
    let program = packaged(folder, spec.command.first().map(String::as_str).unwrap_or_default())?;
    let mut found = Found { kind: Kind::Processes, targets: BTreeMap::new(), notes: Vec::new() };
    let mut seen: BTreeMap<u32, TargetId> = BTreeMap::new();
    for (target, named) in &request.processes {
        let mut boxes = Vec::new();
        for text in named {
            let (pid, port) = process_name(text)?;
            if let Some(other) = seen.insert(pid, target.clone()) {
                return Err(refused(
                    format!("process {pid} is named for {other} already"),
                    "a process is one box",
                ));
            }
            let running = running::look(pid, port).map_err(|error| {
                refused(error.to_string(), "name processes that run and serve on this machine")
            })?;
            if !request.unproven {
                runs(&running, &program, folder)?;
            }
            healthy(&running.process, spec).await?;
            if running.arguments.get(1..) != spec.command.get(1..) {
                found.notes.push(format!(
                    "process {pid} was started as '{}'; when its box starts again it is '{}'",
                    running.arguments.join(" "),
                    spec.command.join(" ")
                ));
            }
            let words =
                format!("process {pid} on port {}, {}", running.process.port, running.program.display());
            boxes.push((running.process, words));
        }
        found.targets.insert(target.clone(), boxes);
    }
    Ok(found)
}

fn process_name(text: &str) -> Result<(u32, Option<u16>), NotAdopted> {
    let (pid, port) = text.split_once(':').map_or((text, None), |(pid, port)| (pid, Some(port)));
    let port = port.map(str::parse).transpose();
    match (pid.parse(), port) {
        (Ok(pid), Ok(port)) => Ok((pid, port)),
        _ => Err(refused(format!("'{text}' names no process"), "write PID or PID:PORT, such as 4711:8080")),
    }
}

/// Whether a process runs what the folder has: the program's very bytes, or for a script that script, or whatever the script has
/// become, as long as the folder has that.
fn runs(running: &Running, program: &Path, folder: &Path) -> Result<(), NotAdopted> {
    let failed = |path: &Path, error: io::Error| {
        NotAdopted::Failed(format!("cannot read {}: {error}", path.display()))
    };
    let image =
        running.image.try_clone().and_then(digest).map_err(|error| failed(&running.program, error))?;
    let mut file = File::open(program).map_err(|error| failed(program, error))?;
    let mut start = [0; 2];
    let script = file.read_exact(&mut start).is_ok() && start == *b"#!";
    if digest(file).map_err(|error| failed(program, error))? == image {
        return Ok(());
    }
    let pid = running.process.pid;
    if script {
        let cwd = PathBuf::from(format!("/proc/{pid}/cwd"));
        // What is no plain file may have no end.
        let is_file = |path: &PathBuf| path.metadata().is_ok_and(|meta| meta.is_file());
        let named = running.arguments.iter().map(|argument| cwd.join(argument)).filter(is_file);
        let named = named.filter_map(|path| File::open(path).ok());
        let mut parts: BTreeSet<[u8; 32]> = named.filter_map(|file| digest(file).ok()).collect();
        parts.insert(image);
        if has_any(folder, &parts).map_err(|error| failed(folder, error))? {
            return Ok(());
        }
    }
    let message = format!(
        "process {pid} runs {} and not the bytes of {}, so it could not be returned to",
        running.program.display(),
        program.display()
    );
    let hint =
        "give the folder with exactly what runs, or, if you know that it is the same, say so with --unproven";
    Err(refused(message, hint))
}

/// Whether some file below a folder has one of these contents.
fn has_any(folder: &Path, contents: &BTreeSet<[u8; 32]>) -> io::Result<bool> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        let found = if kind.is_dir() {
            has_any(&entry.path(), contents)?
        } else {
            kind.is_file() && contents.contains(&digest(File::open(entry.path())?)?)
        };
        if found {
            return Ok(true);
        }
    }
    Ok(false)
}

fn digest(mut file: File) -> io::Result<[u8; 32]> {
    file.rewind()?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 64 << 10];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hash.finalize().into()),
            n => hash.update(&buffer[..n]),
        }
    }
}

/// Asks a process as the definition's health check would.
async fn healthy(process: &RunningProcess, spec: &ProcessSpec) -> Result<(), NotAdopted> {
    let url = format!("http://127.0.0.1:{}{}", process.port, spec.health.path);
    let client = tidegate_workers::https::client().timeout(Duration::from(spec.health.timeout)).build();
    let client = client.map_err(|error| NotAdopted::Failed(causes(&error)))?;
    let why = match client.get(&url).send().await {
        Ok(answer) if answer.status().is_success() => return Ok(()),
        Ok(answer) => format!("answered {}", answer.status()),
        Err(error) => causes(&error),
    };
    let message =
        format!("process {} does not pass the health check GET {}: {why}", process.pid, spec.health.path);
    Err(refused(message, "mend the process or the definition's health check"))
}

fn commanded(pipeline: &Pipeline, request: &AdoptRequest) -> Result<Found, NotAdopted> {
    if !request.processes.is_empty() {
        return Err(refused(
            "this pipeline deploys by commands, which say themselves what runs",
            "name environments",
        ));
    }
    let wanted = |target: &TargetId| {
        request.environments.is_empty() || request.environments.contains(&target.environment)
    };
    let targets = pipeline.plan.targets().map(|t| t.id.clone()).filter(wanted);
    let targets: BTreeMap<_, _> = targets.map(|target| (target, Vec::new())).collect();
    if targets.is_empty() {
        let known: BTreeSet<&str> =
            pipeline.plan.targets().map(|target| target.id.environment.as_str()).collect();
        let known = known.into_iter().collect::<Vec<_>>().join(", ");
        let message = format!("the pipeline has no target in these environments; it has them in {known}");
        return Err(refused(message, "see 'tidegate status' for its steps"));
    }
    Ok(Found { kind: Kind::Commands, targets, notes: Vec::new() })
}

/// Asks the team's `observe` what is there, and wants exactly what the definition says, healthy.
async fn look(
    hands: &Arc<Hands>,
    id: &PipelineId,
    pipeline: &Pipeline,
    target: &TargetId,
    laid: &Laid,
) -> Result<Vec<String>, NotAdopted> {
    let (set, desired) = observed_as(hands, id, pipeline, target, &laid.package)?;
    let boxes = hands.engines.commands.look(&set, &laid.store).await;
    let hint = "the pipeline's 'observe' has to print, for what runs, the RunSpec in TIDEGATE_RUN_SPEC; see docs/operating.md";
    let boxes = boxes.map_err(|why| refused(format!("{target}: {why}"), hint))?;
    if let Some(difference) = difference(&boxes, &desired) {
        return Err(refused(format!("{target}: {difference}"), hint));
    }
    let sick = |b: &BoxObservation| match &b.health {
        BoxHealth::Unhealthy { reason } => Some(format!("{target}: box {} is not healthy: {reason}", b.id)),
        _ => None,
    };
    match boxes.iter().find_map(sick) {
        Some(message) => Err(refused(message, "adopt a service that works")),
        None => Ok(boxes.into_iter().map(|b| b.id).collect()),
    }
}

fn observed_as(
    hands: &Hands,
    id: &PipelineId,
    pipeline: &Pipeline,
    target: &TargetId,
    package: &PackageDigest,
) -> Result<(SetSlot, Desired), NotAdopted> {
    let failed = |why: String| NotAdopted::Failed(why);
    let team = pipeline.team.as_ref().ok_or_else(|| failed(format!("{id} has no team")))?;
    let team = hands.runtime.team(team).map_err(|error| failed(causes(&error)))?;
    let definition =
        pipeline.definition.as_deref().ok_or_else(|| failed(format!("{id} has no definition")))?;
    let planned = pipeline.plan.targets().find(|t| &t.id == target);
    let run_spec: Option<RunSpec> = run_specs(definition, package, &team).remove(&target.environment);
    let (Some(planned), Some(run_spec)) = (planned, run_spec) else {
        return Err(failed(format!("{target} is not in the plan of {id}")));
    };
    let mut secrets = BTreeMap::new();
    for name in run_spec.secrets.values() {
        let value = hands.secrets.get(name);
        let value =
            value.map_err(|error| refused(causes(&error), "set the secret with 'tidegate secret set'"))?;
        secrets.insert(name.clone(), value.expose().to_owned());
    }
    let desired = Desired {
        split: vec![Share { run_spec: run_spec.digest(), boxes: planned.boxes }],
        condemned: Vec::new(),
        minimum_serving: 0,
        surge: false,
        rest: None,
    };
    let set = SetSlot {
        slot: SlotId { target: target.clone(), pipeline: id.clone() },
        fence: Fence { epoch: 0, generation: 0 },
        desired: desired.clone(),
        run_specs: vec![run_spec],
        secrets,
        rollback: false,
        takes_up: Some(Vec::new()),
        acknowledges: None,
        glass: None,
    };
    Ok((set, desired))
}

/// A package that is not in the store: it goes with this.
struct Laid {
    package: PackageDigest,
    tar: File,
    name: String,
    provenance: Provenance,
    store: PackageStore,
    _dir: tempfile::TempDir,
}

fn cannot_keep(error: &dyn std::error::Error) -> NotAdopted {
    NotAdopted::Failed(format!("cannot keep the package: {}", causes(error)))
}

/// Packs the folder and signs it as a package that says whose word speaks for it, in a place of its own.
async fn lay_aside(
    hands: &Arc<Hands>,
    folder: &Path,
    id: &PipelineId,
    by: &Actor,
) -> Result<Laid, NotAdopted> {
    let (folder, name, by) = (folder.to_owned(), format!("{id}/{ADOPTED}"), by.to_string());
    let laid = hands.blocking(move |hands| {
        // Nobody collects anything there, and a server that starts empties it.
        let dir = tempfile::Builder::new().prefix("adopt-").tempdir_in(&hands.dirs.tests);
        let dir = dir.map_err(|error| cannot_keep(&error))?;
        let tar = tempfile::tempfile_in(dir.path()).map_err(|error| cannot_keep(&error))?;
        let item = PackItem { from: folder.clone(), to: PathBuf::new() };
        let mut packed = io::BufWriter::new(tar);
        pack(&[item], &mut packed)
            .map_err(|error| refused(causes(&error), "give a folder that has nothing but what runs"))?;
        let mut tar = packed.into_inner().map_err(|error| cannot_keep(error.error()))?;
        tar.rewind().map_err(|error| cannot_keep(&error))?;
        let (from, key) = (folder.display().to_string(), &hands.signing_key);
        let provenance = Provenance::imported(&by, &from, key.key_id(), hands.runtime.now());
        let store = PackageStore::open(&dir.path().join("packages")).map_err(|error| cannot_keep(&error))?;
        let package = store.put(&tar, &name, provenance.clone(), key).map_err(|error| cannot_keep(&error))?;
        Ok(Laid { package, tar, name, provenance, store, _dir: dir })
    });
    laid.await
}

/// Puts it into the store.
async fn keep(hands: &Arc<Hands>, laid: Laid) -> Result<(), NotAdopted> {
    let kept = hands.blocking(move |hands| {
        let Laid { mut tar, name, provenance, .. } = laid;
        tar.rewind().map_err(|error| cannot_keep(&error))?;
        let kept = hands.packages.put(tar, &name, provenance, &hands.signing_key);
        kept.map(|_| ()).map_err(|error| cannot_keep(&error))
    });
    kept.await
}

/// Waits until the engines see that what was handed over is healthy, as it was a moment ago: so nobody is told that it starts, and
/// its endpoint serves when the answer comes. What is not seen so in time is told in a note.
async fn until_seen(
    hands: &Hands,
    id: &PipelineId,
    pipeline: &Pipeline,
    kind: Kind,
    targets: impl Iterator<Item = &TargetId>,
) -> Option<String> {
    let boxes = |target: &TargetId| pipeline.real_slots().get(target).map_or(0, |slot| slot.boxes) as usize;
    let mut missing: BTreeMap<SlotId, usize> = targets
        .map(|target| (SlotId { target: target.clone(), pipeline: id.clone() }, boxes(target)))
        .collect();
    let end = tokio::time::Instant::now() + SEEN_WAIT_MAX;
    loop {
        let seen = match kind {
            Kind::Processes => {
                hands.engines.fleet.slots().await.map(|seen| seen.observations).unwrap_or_default()
            }
            Kind::Commands => hands.engines.commands.observe_all(),
        };
        for each in seen {
            let healthy = each.boxes.iter().filter(|b| b.health.is_healthy()).count();
            // Whoever told people that boxes were missing has seen it as well.
            if missing.get(&each.slot).is_some_and(|boxes| healthy >= *boxes)
                && !hands.troubles.is_told(&shortage_of(&each.slot))
            {
                missing.remove(&each.slot);
            }
        }
        if missing.is_empty() {
            return None;
        }
        if tokio::time::Instant::now() >= end {
            let targets: Vec<String> = missing.keys().map(|slot| slot.target.to_string()).collect();
            return Some(format!(
                "not seen healthy within {} s: {}; see 'tidegate status'",
                SEEN_WAIT_MAX.as_secs(),
                targets.join(", ")
            ));
        }
        tokio::time::sleep(SEEN_EVERY).await;
    }
}

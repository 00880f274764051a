//! One start of a box: the package is verified and unpacked fresh, every time, and only then its command runs (B4).

use crate::boxes::{BoxRecord, SlotSignals};
use crate::collect::LOG_NAME;
use crate::configuration::{self, Files, Wanted};
use crate::disk;
use crate::error::is_full;
use crate::package::{PackageError, TrustedKeys};
use crate::process::{BOX_VARIABLE, FLEET_VARIABLE, INCARNATION_VARIABLE, Launch, Process, TARGET_VARIABLE};
use crate::protocol::EndpointKey;
use crate::shared::Shared;
use std::collections::BTreeMap;
use std::error::Error;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tidegate_core::causes;
use tidegate_core::ids::PackageDigest;

/// Where programs of the system are found.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Starts the box's next incarnation. The error says for people what is in the way.
pub(crate) async fn start(
    shared: &Arc<Shared>,
    signals: &Arc<SlotSignals>,
    record: &mut BoxRecord,
    folder: &Path,
    wanted: Arc<Wanted>,
    files: Files,
) -> Result<Process, String> {
    let taken_back = wanted.values().any(|values| values.rollback);
    let rollback = taken_back || signals.rollback.load(Ordering::SeqCst);
    // Only so many at a time, and rollbacks do not stand in the others' queue.
    let permit = shared.start_permit(rollback).await?;
    let (shared, signals, folder) = (Arc::clone(shared), Arc::clone(signals), folder.to_owned());
    let mut next = record.clone();
    let started = tokio::task::spawn_blocking(move || {
        let _permit = permit;
        let _files = files.lock();
        let result = start_blocking(&shared, &mut next, &folder, &wanted);
        let result = match result {
            Err(StartError { disk_full: true, .. })
                if (taken_back || signals.rollback.load(Ordering::SeqCst)) && shared.data.lend_reserve() =>
            {
                start_blocking(&shared, &mut next, &folder, &wanted)
            }
            other => other,
        };
        result.map(|process| (process, next)).map_err(|e| e.why)
    })
    .await
    .map_err(|e| format!("the start broke off: {e}"))?;
    let (process, next) = started?;
    *record = next;
    Ok(process)
}

/// What is in the way of a start, for people.
pub(crate) struct StartError {
    pub(crate) why: String,
    pub(crate) disk_full: bool,
}

pub(crate) fn io(what: &'static str) -> impl Fn(std::io::Error) -> StartError {
    move |e| StartError { why: format!("failed to {what}: {e}"), disk_full: is_full(&e) }
}

fn start_blocking(
    shared: &Shared,
    record: &mut BoxRecord,
    folder: &Path,
    wanted: &Wanted,
) -> Result<Process, StartError> {
    disk::private_dir(folder).map_err(io("make the box's folder"))?;
    let launch_folder = folder.join("package");
    for name in ["package", "tmp"] {
        match fs::remove_dir_all(folder.join(name)) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(io("remove the last start's files")(e));
            }
            _ => {}
        }
    }
    unpack(shared, &record.run_spec.package, &launch_folder)?;
    disk::private_dir(&folder.join("tmp")).map_err(io("make the box's temporary folder"))?;
    configuration::lay_out(shared, folder, wanted)?;
    // Another port each time, so that whatever came first to the last one is avoided.
    let port = shared.ports.take().map_err(io("find a free port"))?;
    shared.ports.give_back(record.port);
    record.port = port;
    record.incarnation += 1;
    record.process = None;
    record.was_healthy = false;
    record.write(folder).map_err(io("record the start"))?;
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(folder.join(LOG_NAME))
        .map_err(io("open the log"))?;
    let spec = shared.process_spec(&record.run_spec);
    let (program, arguments) = spec
        .command
        .split_first()
        .ok_or_else(|| StartError { why: "the RunSpec has no command".to_owned(), disk_full: false })?;
    if shared.is_frozen() {
        return Err(StartError { why: "another process supervises by now".to_owned(), disk_full: false });
    }
    let process = Process::spawn(Launch {
        program: launch_folder.join(program),
        arguments: arguments.to_vec(),
        environment: environment(shared, record, folder),
        folder: launch_folder,
        log,
        limits: spec.limits,
        open_files: shared.open_files,
    })
    .map_err(|e| StartError { why: format!("failed to run {program}: {e}"), disk_full: is_full(&e) })?;
    record.process = Some(process.name());
    if let Err(error) = record.write(folder) {
        // The process is found by its environment should this supervisor die before the next write.
        tracing::warn!(%error, r#box = record.box_name(), "failed to record a started process");
    }
    Ok(process)
}

/// Verifies a package and unpacks it there.
pub(crate) fn unpack(shared: &Shared, digest: &PackageDigest, to: &Path) -> Result<(), StartError> {
    let failed = |e: PackageError| StartError {
        why: format!("package {} does not run: {}", digest.short(), causes(&e)),
        disk_full: is_disk_full(&e),
    };
    let keys = TrustedKeys::load(&shared.config.trusted_keys).map_err(failed)?;
    let package = shared.packages.verify(digest, &keys).map_err(failed)?;
    package.unpack(to).map_err(failed)
}

fn is_disk_full(error: &(dyn Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if error.downcast_ref::<std::io::Error>().is_some_and(is_full) {
            return true;
        }
        cause = error.source();
    }
    false
}

/// The box's whole environment.
fn environment(shared: &Shared, record: &BoxRecord, folder: &Path) -> BTreeMap<String, String> {
    let (target, run_spec) = (&record.slot.target, &record.run_spec);
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let mut environment: BTreeMap<String, String> = run_spec.environment.clone();
    for (name, secret) in &run_spec.secrets {
        if let Some(value) = record.secrets.get(secret) {
            environment.insert(name.clone(), value.clone());
        }
    }
    for (name, value) in
        [("PATH", PATH.to_owned()), ("HOME", text(folder)), ("TMPDIR", text(&folder.join("tmp")))]
    {
        environment.entry(name.to_owned()).or_insert(value);
    }
    for (service, environment_id) in &run_spec.endpoints {
        let key = EndpointKey {
            service: service.clone(),
            environment: environment_id.clone(),
            region: target.region.clone(),
        };
        if let Some(url) = shared.endpoints.url(&key) {
            let name = format!("TIDEGATE_ENDPOINT_{}", service.as_str().to_uppercase().replace('-', "_"));
            environment.insert(name, url);
        }
    }
    for (name, value) in [
        ("PORT", record.port.to_string()),
        ("TIDEGATE_ADDRESS", format!("127.0.0.1:{}", record.port)),
        ("TIDEGATE_SERVICE", target.service.to_string()),
        ("TIDEGATE_ENVIRONMENT", target.environment.to_string()),
        ("TIDEGATE_REGION", target.region.to_string()),
        ("TIDEGATE_AZ", target.az.to_string()),
        ("TIDEGATE_ROLE", target.role.to_string()),
        ("TIDEGATE_RELEASE", run_spec.digest().to_string()),
        ("TIDEGATE_CONFIGURATION", text(&folder.join(configuration::FOLDER_NAME))),
        (FLEET_VARIABLE, shared.fleet_id.clone()),
        (TARGET_VARIABLE, target.to_string()),
        (BOX_VARIABLE, record.id.clone()),
        (INCARNATION_VARIABLE, record.incarnation.to_string()),
    ] {
        environment.insert(name.to_owned(), value);
    }
    environment
}

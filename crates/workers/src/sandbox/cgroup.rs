//! cgroups for one run: memory and processes, by v1, v2, or a mixture, as far as this process may make any.

use super::{Limits, Outcome};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How long an empty group may refuse to go away.
const REMOVE_TIME_MAX: Duration = Duration::from_secs(2);
const PREFIX: &str = "tidegate-";

/// The groups of one run; removed when dropped.
#[derive(Default)]
pub(super) struct Groups {
    memory: Option<PathBuf>,
    processes: Option<PathBuf>,
    v2: bool,
}

impl Groups {
    /// Makes what can be made.
    pub(super) fn create(limits: &Limits) -> Groups {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = format!("{PREFIX}{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let bytes = (limits.memory_mib << 20).to_string();
        let processes = limits.processes.to_string();
        for parent in parents("") {
            // Fails where it is not ours to say; then the files below are missing.
            let _ = fs::write(parent.join("cgroup.subtree_control"), "+memory +pids");
            let required = [("memory.max", bytes.as_str()), ("pids.max", processes.as_str())];
            if let Some(dir) = make(&parent.join(&name), &required) {
                let _ = fs::write(dir.join("memory.swap.max"), "0");
                let _ = fs::write(dir.join("memory.oom.group"), "1");
                return Groups { memory: Some(dir.clone()), processes: Some(dir), v2: true };
            }
        }
        let first = |controller, file, value: &str| {
            parents(controller).iter().find_map(|p| make(&p.join(&name), &[(file, value)]))
        };
        let memory = first("memory", "memory.limit_in_bytes", &bytes);
        if let Some(dir) = &memory {
            // Missing where there is no swap.
            let _ = fs::write(dir.join("memory.memsw.limit_in_bytes"), &bytes);
        }
        Groups { memory, processes: first("pids", "pids.max", &processes), v2: false }
    }

    /// Whether both limits are kept by the kernel.
    pub(super) fn complete(&self) -> bool {
        self.memory.is_some() && self.processes.is_some()
    }

    fn dirs(&self) -> impl Iterator<Item = &PathBuf> {
        let processes = self.processes.iter().filter(|_| !self.v2);
        self.memory.iter().chain(processes)
    }

    /// The files by which a process joins.
    pub(super) fn doors(&self) -> Vec<PathBuf> {
        self.dirs().map(|dir| dir.join("cgroup.procs")).collect()
    }

    /// The limit that was hit, if any.
    pub(super) fn breach(&self) -> Option<Outcome> {
        let count = |dir: &Option<PathBuf>, file, key| {
            let text = dir.as_ref().and_then(|d| fs::read_to_string(d.join(file)).ok())?;
            text.lines().find_map(|l| l.strip_prefix(key)?.trim().parse::<u64>().ok())
        };
        let events = if self.v2 { "memory.events" } else { "memory.oom_control" };
        if count(&self.memory, events, "oom_kill ") > Some(0) {
            return Some(Outcome::MemoryLimit);
        }
        (count(&self.processes, "pids.events", "max ") > Some(0)).then_some(Outcome::ProcessLimit)
    }
}

impl Drop for Groups {
    fn drop(&mut self) {
        let started = Instant::now();
        for dir in self.dirs() {
            while let Err(error) = fs::remove_dir(dir) {
                if error.kind() == std::io::ErrorKind::NotFound {
                    break;
                }
                if started.elapsed() > REMOVE_TIME_MAX {
                    tracing::warn!(path = %dir.display(), %error, "failed to remove a cgroup");
                    break;
                }
                // The kernel lets go of the dead a moment later.
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }
}

fn make(dir: &Path, settings: &[(&str, &str)]) -> Option<PathBuf> {
    fs::create_dir(dir).ok()?;
    for (file, value) in settings {
        let file = dir.join(file);
        if !file.exists() || fs::write(file, value).is_err() {
            let _ = fs::remove_dir(dir);
            return None;
        }
    }
    Some(dir.to_owned())
}

/// Where groups may be made for a v1 controller, or for v2 if it is empty: below this process's own group, beside
/// it (v2 allows no child with limits to a group that has processes), and at the top.
fn parents(controller: &str) -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let Some((root, mount)) = mounts.lines().find_map(|line| mount_of(line, controller)) else {
        return Vec::new();
    };
    let own = own.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let found = fields.next()?.split(',').any(|c| c == controller);
        fields.next().filter(|_| found)
    });
    let below = own.and_then(|own| Path::new(own).strip_prefix(root).ok()).unwrap_or(Path::new(""));
    let mut parents = vec![mount.join(below)];
    parents.extend(below.parent().map(|p| mount.join(p)));
    parents.push(mount);
    parents.dedup();
    parents
}

fn mount_of<'a>(line: &'a str, controller: &str) -> Option<(&'a str, PathBuf)> {
    let (place, kind) = line.split_once(" - ")?;
    let mut place = place.split(' ').skip(3);
    let (root, mount) = (place.next()?, place.next()?);
    let mut kind = kind.split(' ');
    let (name, options) = (kind.next()?, kind.nth(1)?);
    let fits = match controller {
        "" => name == "cgroup2",
        _ => name == "cgroup" && options.split(',').any(|o| o == controller),
    };
    fits.then(|| (root, PathBuf::from(mount)))
}

/// Removes the empty groups of servers that were killed.
pub(super) fn remove_stale() {
    let parents = ["", "memory", "pids"].into_iter().flat_map(parents);
    for entry in parents.filter_map(|p| fs::read_dir(p).ok()).flatten().flatten() {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|n| n.strip_prefix(PREFIX)?.split('-').next()?.parse::<u32>().ok());
        if pid.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            // One that is in use refuses by itself.
            let _ = fs::remove_dir(entry.path());
        }
    }
}

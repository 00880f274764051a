//! A build's definition, checked and ready to be carried out.

use crate::sandbox::Limits;
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tidegate_core::definition::{BuildDef, BuildStep};
use tidegate_core::run_spec::hex;

/// The most steps, fetch steps, lock files and package paths, each.
const ITEMS_MAX: usize = 200;
/// The largest lock file that is read, in bytes.
const LOCK_BYTES_MAX: u64 = 256 << 20;

/// How a package is built here: the definition, and what the machine adds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuildPlan {
    /// The pipeline's.
    pub definition: BuildDef,
    /// Tools of the host outside `/usr`, such as a Rust toolchain's folder.
    pub tool_paths: Vec<PathBuf>,
}

impl BuildPlan {
    /// What makes the plan impossible to carry out, if anything.
    pub(super) fn check(&self) -> Result<(), String> {
        let BuildDef { fetch, lock_files, steps, package, .. } = &self.definition;
        let sizes = [fetch.len(), lock_files.len(), steps.len(), package.len()];
        if sizes.iter().any(|n| *n > ITEMS_MAX) {
            return Err(format!("it has more than {ITEMS_MAX} steps, lock files or package paths"));
        }
        if let Some(step) = fetch.iter().chain(steps).find(|s| s.run.is_empty()) {
            return Err(format!("step '{}' has no command", step.name));
        }
        let nul = |s: &BuildStep| s.run.iter().any(|word| word.contains('\0'));
        if let Some(step) = fetch.iter().chain(steps).find(|s| nul(s)) {
            return Err(format!("the command of step '{}' contains a NUL character", step.name));
        }
        if package.is_empty() {
            return Err("nothing goes into the package".to_owned());
        }
        if !fetch.is_empty() && lock_files.is_empty() {
            return Err(
                "it has fetch steps and names no lock files, so they would never be repeated".to_owned()
            );
        }
        match self.tool_paths.iter().find(|p| !p.is_absolute() || !p.exists()) {
            Some(path) => Err(format!("tool path '{}' is not an absolute path that exists", path.display())),
            None => Ok(()),
        }
    }

    /// What one command may use when the build has so much time left.
    pub(super) fn limits(&self, time: Duration) -> Limits {
        let limits = &self.definition.limits;
        Limits {
            cpu_seconds: limits.cpu_seconds,
            memory_mib: limits.memory_mib,
            processes: limits.processes,
            time,
            output_bytes: limits.output_mib.saturating_mul(1 << 20),
            disk_mib: limits.file_mib,
        }
    }

    /// Names the dependencies: SHA-256 over all that decides what a fetch brings, without secrets.
    pub(super) fn dependencies_key(&self, locks: &[(&str, String)]) -> String {
        // A JSON array is unambiguous about where one part ends.
        let parts =
            serde_json::json!([self.definition.fetch, locks, self.definition.environment, self.tool_paths]);
        hex(&Sha256::digest(parts.to_string().as_bytes()))
    }
}

/// The SHA-256 of a file.
pub(super) fn digest_of(path: &Path) -> std::io::Result<String> {
    let mut content = Vec::new();
    File::open(path)?.take(LOCK_BYTES_MAX + 1).read_to_end(&mut content)?;
    if content.len() as u64 > LOCK_BYTES_MAX {
        return Err(std::io::Error::other("it is larger than 256 MiB"));
    }
    Ok(hex(&Sha256::digest(&content)))
}

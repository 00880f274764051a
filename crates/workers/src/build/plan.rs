//! What a pipeline's definition says about its build.

use crate::sandbox::Limits;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// The most steps, fetch steps, lock files and package paths, each.
const ITEMS_MAX: usize = 200;
/// The largest lock file that is read, in bytes.
const LOCK_BYTES_MAX: u64 = 256 << 20;

/// One command of a build.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// What people call it.
    pub name: String,
    /// The program and its arguments; no shell is involved.
    pub run: Vec<String>,
}

/// Something that goes into the package.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PackagePath {
    /// A file or folder, relative to the sources.
    pub from: String,
    /// Its path in the package, relative; empty for a folder whose content becomes the package's root.
    pub to: String,
}

/// How a pipeline's package is built.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BuildPlan {
    /// Commands that bring the dependencies to `$TIDEGATE_CACHE`: the only ones with network and secrets.
    #[serde(default)]
    pub fetch: Vec<Step>,
    /// The files that say which dependencies are needed; the fetch is repeated when one changes.
    #[serde(default)]
    pub lock_files: Vec<String>,
    /// Everything else: compile, test, lint. Without network.
    pub steps: Vec<Step>,
    /// What goes into the package.
    pub package: Vec<PackagePath>,
    /// What each command may use.
    #[serde(default)]
    pub limits: Limits,
    /// Environment variables for all commands.
    #[serde(default)]
    pub environment: BTreeMap<String, String>,
    /// Tools of the host outside `/usr`, such as a Rust toolchain's folder.
    #[serde(default)]
    pub tool_paths: Vec<PathBuf>,
}

impl BuildPlan {
    /// What makes the plan impossible to carry out, if anything.
    pub(super) fn check(&self) -> Result<(), String> {
        let sizes = [self.fetch.len(), self.lock_files.len(), self.steps.len(), self.package.len()];
        if sizes.iter().any(|n| *n > ITEMS_MAX) {
            return Err(format!("it has more than {ITEMS_MAX} steps, lock files or package paths"));
        }
        if let Some(step) = self.fetch.iter().chain(&self.steps).find(|s| s.run.is_empty()) {
            return Err(format!("step '{}' has no command", step.name));
        }
        let nul = |s: &Step| s.run.iter().any(|word| word.contains('\0'));
        if let Some(step) = self.fetch.iter().chain(&self.steps).find(|s| nul(s)) {
            return Err(format!("the command of step '{}' contains a NUL character", step.name));
        }
        if self.package.is_empty() {
            return Err("nothing goes into the package".to_owned());
        }
        if !self.fetch.is_empty() && self.lock_files.is_empty() {
            return Err(
                "it has fetch steps and names no lock files, so they would never be repeated".to_owned()
            );
        }
        match self.tool_paths.iter().find(|p| !p.is_absolute() || !p.exists()) {
            Some(path) => Err(format!("tool path '{}' is not an absolute path that exists", path.display())),
            None => Ok(()),
        }
    }

    /// Names the dependencies: SHA-256 over all that decides what a fetch brings, without secrets.
    pub(super) fn dependencies_key(&self, locks: &[(&str, String)]) -> String {
        // A JSON array is unambiguous about where one part ends.
        let parts = serde_json::json!([self.fetch, locks, self.environment, self.tool_paths]);
        hex(&Sha256::digest(parts.to_string().as_bytes()))
    }
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut out, byte| {
        // Writing to a String cannot fail.
        let _ = write!(out, "{byte:02x}");
        out
    })
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

//! Which commit is built, for `tidegate --version`: two builds of one version can be told apart. From the environment
//! (`TIDEGATE_COMMIT`, for builds without a repository), else from git; neither is needed.

use std::path::Path;
use std::process::Command;

fn git(arguments: &[&str]) -> Option<String> {
    let output =
        Command::new("git").args(arguments).output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned()).filter(|text| !text.is_empty())
}

fn main() {
    println!("cargo:rerun-if-env-changed=TIDEGATE_COMMIT");
    println!("cargo:rerun-if-changed=build.rs");
    // Grows with every commit and checkout. A file that is not there would have this run each time.
    if let Some(log) = git(&["rev-parse", "--git-path", "logs/HEAD"]).filter(|log| Path::new(log).exists()) {
        println!("cargo:rerun-if-changed={log}");
    }
    // A repository around it that knows nothing of it says nothing of it.
    let known = || git(&["ls-files", "--error-unmatch", "build.rs"]);
    let given = std::env::var("TIDEGATE_COMMIT").ok().filter(|commit| !commit.is_empty());
    let commit =
        given.or_else(|| known().and_then(|_| git(&["log", "-1", "--abbrev=10", "--format=%h, %cs"])));
    let of = commit.map(|commit| format!(" ({commit})")).unwrap_or_default();
    println!("cargo:rustc-env=TIDEGATE_VERSION={}{of}", env!("CARGO_PKG_VERSION"));
}

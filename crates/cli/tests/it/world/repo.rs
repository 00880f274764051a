//! A repository of a service: a script that runs a box, and what the build makes of it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Starts the test binary as the box.
const RUN: &str = r#"#!/bin/sh
here=$(dirname "$0")
BEHAVIOUR=$(cat "$here/behaviour") VERSION=$(cat "$here/version")
export BEHAVIOUR VERSION
[ "$BEHAVIOUR" = stubborn ] && trap '' TERM
exec "$TEST_EXE" role_box --exact --nocapture
"#;

const BUILD: &str = "set -e; mkdir out; cp run version behaviour out; chmod +x out/run\n";

/// A repository with a work tree; everybody reads its branch `main`.
pub(crate) struct Repo {
    path: PathBuf,
}

impl Repo {
    pub(super) fn at(path: &Path) -> Repo {
        Repo { path: path.to_owned() }
    }

    pub(super) fn create(path: &Path) -> Repo {
        fs::create_dir_all(path).unwrap();
        let repo = Repo::at(path);
        repo.git(&["init", "--quiet", "--initial-branch=work"]);
        for (name, text) in [("run", RUN), ("build.sh", BUILD), ("version", "1"), ("behaviour", "good")] {
            fs::write(path.join(name), text).unwrap();
        }
        repo
    }

    /// Its folder, which is its URL.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Commits these files as alice with this message, for review; the commit's name.
    pub(crate) fn commit(&self, files: &[(&str, &str)], message: &str) -> String {
        for (name, text) in files {
            fs::write(self.path.join(name), text).unwrap();
        }
        self.git(&["add", "--all"]);
        self.git(&["commit", "--quiet", "--allow-empty", "--message", message]);
        self.head()
    }

    /// The mainline moves to this commit.
    pub(crate) fn merge(&self, commit: &str) {
        self.git(&["update-ref", "refs/heads/main", commit]);
    }

    /// The newest commit.
    pub(crate) fn head(&self) -> String {
        self.git(&["rev-parse", "HEAD"])
    }

    /// Runs git there as alice.
    pub(crate) fn git(&self, arguments: &[&str]) -> String {
        self.git_as("alice", arguments)
    }

    /// Runs git there as somebody.
    pub(crate) fn git_as(&self, who: &str, arguments: &[&str]) -> String {
        let mut command = Command::new("git");
        command.arg("-C").arg(&self.path).args(arguments).env_clear();
        command.env("PATH", std::env::var_os("PATH").unwrap()).env("HOME", &self.path);
        command.env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_CONFIG_GLOBAL", "/dev/null");
        for role in ["AUTHOR", "COMMITTER"] {
            command
                .env(format!("GIT_{role}_NAME"), who)
                .env(format!("GIT_{role}_EMAIL"), format!("{who}@example.test"));
        }
        super::run(&mut command).well().trim().to_owned()
    }
}

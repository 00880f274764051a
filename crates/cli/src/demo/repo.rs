//! The sample repositories of the demo: real git, with commits by named people.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A file of a sample: its path in the repository and its text.
type File = (&'static str, &'static str);

macro_rules! sample {
    ($name:literal: $($path:literal),* $(,)?) => {
        &[$(($path, include_str!(concat!("../../../../samples/", $name, "/", $path)))),*]
    };
}

/// The frontend's files.
pub(crate) const FRONTEND: &[File] = sample!("frontend": "Cargo.toml", "Cargo.lock", ".gitignore", "src/main.rs", "src/lib.rs",
    "src/app.rs", "src/http.rs", "src/faults.rs", "src/behaviour.rs", "src/version.rs", "src/bin/itest.rs");
/// The backend's files.
pub(crate) const BACKEND: &[File] = sample!("backend": "Cargo.toml", "Cargo.lock", ".gitignore", "src/main.rs", "src/lib.rs",
    "src/app.rs", "src/http.rs", "src/faults.rs", "src/behaviour.rs", "src/version.rs", "src/bin/itest.rs");
/// Static assets with their commands.
pub(crate) const ASSETS: &[File] = sample!("static-assets": ".gitignore", "assets/index.html", "assets/style.css", "build.sh",
    "deploy.sh", "observe.sh", "rollback.sh");
/// Infrastructure with its commands.
pub(crate) const INFRASTRUCTURE: &[File] = sample!("infrastructure": ".gitignore", "stack.conf", "build.sh", "deploy.sh",
    "observe.sh", "rollback.sh");

/// A repository with a work tree.
#[derive(Debug, Clone)]
pub(crate) struct Repo {
    /// Its folder, which is its URL.
    pub(crate) path: PathBuf,
}

impl Repo {
    /// Makes a repository of a sample, without a commit.
    pub(crate) fn create(path: &Path, files: &[File]) -> Result<Repo, String> {
        let failed = |e: std::io::Error| format!("cannot make the sample in {}: {e}", path.display());
        for (name, text) in files {
            let file = path.join(name);
            if let Some(dir) = file.parent() {
                fs::create_dir_all(dir).map_err(failed)?;
            }
            fs::write(&file, text).map_err(failed)?;
            if name.ends_with(".sh") {
                use std::os::unix::fs::PermissionsExt;
                fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).map_err(failed)?;
            }
        }
        let repo = Repo { path: path.to_owned() };
        repo.git("alice", &["init", "--quiet", "--initial-branch=work"])?;
        Ok(repo)
    }

    /// Commits everything on a branch as this person, for review; the commit's name.
    pub(crate) fn commit(&self, author: &str, message: &str) -> Result<String, String> {
        self.git(author, &["add", "--all"])?;
        self.git(author, &["commit", "--quiet", "--message", message])?;
        self.git(author, &["rev-parse", "HEAD"])
    }

    /// Reverts a commit as this person; the new commit's name.
    pub(crate) fn revert(&self, author: &str, commit: &str) -> Result<String, String> {
        self.git(author, &["revert", "--no-edit", commit])?;
        self.git(author, &["rev-parse", "HEAD"])
    }

    /// The newest commit on the branch.
    pub(crate) fn head(&self) -> Result<String, String> {
        self.git("alice", &["rev-parse", "HEAD"])
    }

    /// Merges a commit: the mainline moves to it.
    pub(crate) fn land(&self, commit: &str) -> Result<(), String> {
        self.git("alice", &["update-ref", "refs/heads/main", commit]).map(|_| ())
    }

    /// Changes one constant of a source file.
    pub(crate) fn set(&self, file: &str, constant: &str, value: &str) -> Result<(), String> {
        let path = self.path.join(file);
        let text = fs::read_to_string(&path).map_err(|e| format!("cannot read {}: {e}", path.display()))?;
        let begin = format!("pub const {constant}:");
        let lines: Vec<String> = text
            .lines()
            .map(|line| match line.strip_prefix(&begin).and_then(|rest| rest.split_once(" = ")) {
                Some((kind, _)) => format!("{begin}{kind} = {value};"),
                None => line.to_owned(),
            })
            .collect();
        let changed = lines.join("\n") + "\n";
        if changed == text {
            return Err(format!("{} has no other value for {constant}", path.display()));
        }
        fs::write(&path, changed).map_err(|e| format!("cannot write {}: {e}", path.display()))
    }

    fn git(&self, person: &str, args: &[&str]) -> Result<String, String> {
        let email = format!("{person}@example.test");
        let output = Command::new("git")
            .arg("-C")
            .arg(&self.path)
            .args(args)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", &self.path)
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_AUTHOR_NAME", person)
            .env("GIT_AUTHOR_EMAIL", &email)
            .env("GIT_COMMITTER_NAME", person)
            .env("GIT_COMMITTER_EMAIL", &email)
            .output()
            .map_err(|e| format!("cannot run git: {e}"))?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned());
        }
        Err(format!("git {} failed: {}", args.join(" "), String::from_utf8_lossy(&output.stderr).trim()))
    }
}

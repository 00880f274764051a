//! Processes that a world starts, and disks of their own for them.

use super::run;
use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Whether a server can have a disk of its own on this machine; else says so loudly.
pub(crate) fn can_have_a_disk() -> bool {
    let dir = tempfile::tempdir().unwrap();
    let told = run(unshare().args(["mount", "-t", "tmpfs", "none"]).arg(dir.path()));
    if told.code != 0 {
        eprintln!(
            "SKIPPED: no disk can be mounted here, neither as root nor in a user namespace: {}",
            told.talk
        );
    }
    told.code == 0
}

/// A mount namespace of its own. Only root may have that without a user namespace.
pub(crate) fn unshare() -> Command {
    let mut command = Command::new("unshare");
    command.arg(if rustix::process::geteuid().is_root() { "-m" } else { "-Urm" });
    command
}

/// The command where this folder is a small disk; its arguments are to be given.
pub(crate) fn on_disk(data: &Path, mib: u32) -> Command {
    let mut command = unshare();
    command.args(["sh", "-c", r#"mount -t tmpfs -o "size=$1m" none "$2" && shift 2 && exec "$@""#, "sh"]);
    command.arg(mib.to_string()).arg(data).arg(env!("CARGO_BIN_EXE_tidegate"));
    command
}

pub(super) fn spawn(command: &mut Command, dir: &Path) -> Child {
    spawn_with(command, dir, &[])
}

pub(super) fn spawn_with(command: &mut Command, dir: &Path, arguments: &[&str]) -> Child {
    command
        .arg("serve")
        .arg("--listen")
        .arg("127.0.0.1:0")
        .arg("--data")
        .arg(dir.join("data"))
        .args(arguments);
    spawn_logged(command, dir)
}

pub(super) fn spawn_logged(command: &mut Command, dir: &Path) -> Child {
    let log = File::options().create(true).append(true).open(dir.join("server.log")).unwrap();
    command
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .process_group(0)
        .spawn()
        .unwrap()
}

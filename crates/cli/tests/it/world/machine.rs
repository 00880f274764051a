//! A machine of its own with systemd, on which everything may be done that a page of the docs says: nothing of it is seen outside.

use super::{Told, run, wait_for};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;

/// How the machine is made; the file says what it is.
const MAKE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/world/machine.sh");
/// What it takes, and the Debian package that has it.
const NEEDED: [(&str, &str); 10] = [
    ("/usr/bin/systemctl", "systemd"),
    ("/lib/systemd/systemd", "systemd"),
    ("/usr/bin/dbus-daemon", "dbus"),
    ("/usr/bin/unshare", "util-linux"),
    ("/usr/bin/setpriv", "util-linux"),
    ("/sbin/ip", "iproute2"),
    ("/usr/bin/perl", "perl"),
    ("/usr/bin/curl", "curl"),
    ("/usr/bin/jq", "jq"),
    ("/usr/bin/promtool", "prometheus"),
];
/// Where control groups may be, in one hierarchy or in several.
const HIERARCHIES: [&str; 3] = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/systemd"];

/// Who runs a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Who {
    Root,
    /// The user `tidegate`, as by `sudo -u tidegate bash`.
    Service,
}

/// The machine. It ends, with all that runs on it, when it is dropped.
pub(crate) struct Machine {
    dir: TempDir,
    first: Child,
}

impl Machine {
    /// Whether there can be one; else says loudly why not.
    pub(crate) fn is_possible() -> bool {
        let missing: Vec<_> = NEEDED
            .iter()
            .filter(|(path, _)| !Path::new(path).exists())
            .map(|(_, package)| *package)
            .collect();
        let overlay = fs::read_to_string("/proc/filesystems").is_ok_and(|all| all.contains("overlay"));
        let possible = rustix::process::geteuid().is_root() && overlay && missing.is_empty();
        if !possible {
            eprintln!("SKIPPED: a machine with systemd needs root, overlayfs, and packages: {missing:?}");
        }
        possible
    }

    /// Starts one, with a clone of the repository and the program in `/clone`.
    pub(crate) fn start() -> Machine {
        let dir = tempfile::Builder::new().prefix("tidegate-machine-").tempdir().unwrap();
        let log = File::create(dir.path().join("console")).unwrap();
        let mut make = Command::new("bash");
        make.arg(MAKE).arg(dir.path()).arg(env!("CARGO_BIN_EXE_tidegate"));
        make.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
        make.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let mut machine = Machine { first: make.spawn().unwrap(), dir };
        let up = wait_for(|| {
            if let Some(status) = machine.first.try_wait().unwrap() {
                panic!("it ended with {status}: {}", machine.console());
            }
            machine.init()?;
            let told = machine.run(Who::Root, "systemctl is-active --quiet machine.target dbus");
            (told.code == 0).then_some(())
        });
        assert!(up.is_some(), "it does not come up: {}", machine.console());
        machine
    }

    fn console(&self) -> String {
        fs::read_to_string(self.dir.path().join("console")).unwrap_or_default()
    }

    /// The process that is the first one on the machine.
    fn init(&self) -> Option<u32> {
        let pid = self.first.id();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
        children.split_whitespace().next()?.parse().ok()
    }

    /// A command line of bash on the machine, in the clone.
    pub(crate) fn command(&self, who: Who, text: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.current_dir("/");
        let init = self.init().expect("the machine runs").to_string();
        command.args(["-t", &init, "-m", "-p", "-n", "-u", "-i", "-C", "--root", "--wd=/"]);
        let user = match who {
            Who::Root => "root",
            Who::Service => "tidegate",
        };
        if who == Who::Service {
            command.args(["setpriv", "--reuid=tidegate", "--regid=tidegate", "--init-groups"]);
        }
        command.args([
            "env",
            "-i",
            "-C",
            "/clone",
            "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        ]);
        command.args(["HOME=/nonexistent", "LANG=C.UTF-8", &format!("USER={user}"), "bash", "-c"]);
        command.arg(text).stdin(Stdio::null());
        command
    }

    /// Runs one, and waits for its end.
    pub(crate) fn run(&self, who: Who, text: &str) -> Told {
        run(&mut self.command(who, text))
    }

    /// What the machine's journal has of a unit, for a failed test.
    pub(crate) fn journal(&self, unit: &str) -> String {
        self.run(Who::Root, &format!("journalctl --unit {unit} --output cat --lines 40")).out
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Its first process dies with whoever made it, and everything on it with that.
        let _ = self.first.kill();
        let _ = self.first.wait();
        let name = self.dir.path().file_name().unwrap_or_default();
        let groups = HIERARCHIES.map(|hierarchy| Path::new(hierarchy).join(name));
        for group in groups.into_iter().filter(|group| group.exists()) {
            let _ = wait_for(|| remove_group(&group).ok());
        }
    }
}

/// Control groups are folders whose files go with them; those with processes stay.
fn remove_group(group: &Path) -> std::io::Result<()> {
    let inner: Vec<PathBuf> = fs::read_dir(group)?.flatten().map(|entry| entry.path()).collect();
    inner.iter().filter(|path| path.is_dir()).try_for_each(|path| remove_group(path))?;
    fs::remove_dir(group)
}

//! A disk whose reads fail: strace answers a process's reads of some files as the kernel does when a disk cannot give what it has.

use super::wait_for;
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use tempfile::NamedTempFile;

/// Whatever reads of a file in this project, or in a library that it uses.
const READS: &str = "read,pread64,readv,preadv,preadv2,copy_file_range,sendfile";

/// As long as this lives, reads fail.
pub(crate) struct Broken {
    strace: Child,
    told: NamedTempFile,
}

/// Whether reads can be made to fail; else says loudly why not.
pub(crate) fn can_break_reads() -> bool {
    let mut trial = Command::new("strace");
    trial.args(["-qq", "-e", "trace=none", "true"]).stdout(Stdio::null()).stderr(Stdio::null());
    let possible =
        trial.status().is_ok_and(|status| status.success()) && rustix::process::geteuid().is_root();
    if !possible {
        eprintln!("SKIPPED: reads can be made to fail only by root, with strace (on Debian: strace)");
    }
    possible
}

/// strace, as it makes reads of these files fail.
pub(crate) fn breaking(files: &[&Path]) -> Command {
    let mut strace = Command::new("strace");
    strace.args(["-f", "-e", &format!("trace={READS}"), "-e", &format!("inject={READS}:error=EIO")]);
    for file in files {
        strace.arg("-P").arg(file);
    }
    strace
}

impl Broken {
    /// From now on, for a process that runs.
    pub(crate) fn reads(pid: u32, files: &[&Path]) -> Broken {
        let told = NamedTempFile::new().unwrap();
        let strace = breaking(files)
            .args(["-p", &pid.to_string()])
            .stderr(told.reopen().unwrap())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let broken = Broken { strace, told };
        // It tells when it has all threads.
        let has_it = wait_for(|| broken.told().contains(&format!("Process {pid} attached")).then_some(()));
        assert!(has_it.is_some(), "{}", broken.told());
        broken
    }

    /// What strace told.
    fn told(&self) -> String {
        fs::read_to_string(self.told.path()).unwrap()
    }

    /// How many reads have failed.
    pub(crate) fn failed(&self) -> usize {
        self.told().matches("(INJECTED)").count()
    }
}

impl Drop for Broken {
    fn drop(&mut self) {
        // So it lets go of the process, which goes on.
        let _ = kill_process(Pid::from_child(&self.strace), Signal::INT);
        let _ = self.strace.wait();
    }
}

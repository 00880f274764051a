//! The machine, and what its processes have used: read from `/proc`, so it is the same measure for every program.

use anyhow::{Context, Result, anyhow};
use serde::{Deserialize, Serialize};
use std::fs;
use std::ops::{Add, Sub};

/// Clock ticks per second in `/proc`: fixed in Linux's interface to programs.
const TICKS_PER_SECOND: f64 = 100.0;

/// CPU seconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Cpu {
    /// In the program itself.
    pub(crate) user: f64,
    /// In the kernel on its behalf.
    pub(crate) system: f64,
}

impl Cpu {
    /// What these processes have used since they began.
    pub(crate) fn of(pids: &[u32]) -> Result<Cpu> {
        pids.iter().try_fold(Cpu::default(), |sum, pid| Ok(sum + Cpu::of_one(&pid.to_string())?))
    }

    /// What this process has used since it began.
    pub(crate) fn own() -> Result<Cpu> {
        Cpu::of_one("self")
    }

    fn of_one(pid: &str) -> Result<Cpu> {
        let path = format!("/proc/{pid}/stat");
        let text = fs::read_to_string(&path).with_context(|| format!("failed to read {path}"))?;
        // The name, in brackets, may contain anything; the fields after it are numbers.
        let fields: Vec<&str> =
            text.rsplit_once(')').map(|(_, rest)| rest.split_whitespace().collect()).unwrap_or_default();
        let seconds = |index: usize| {
            let ticks = fields.get(index).and_then(|f| f.parse::<u32>().ok());
            ticks
                .map(|t| f64::from(t) / TICKS_PER_SECOND)
                .ok_or_else(|| anyhow!("{path} has no field {index}"))
        };
        Ok(Cpu { user: seconds(11)?, system: seconds(12)? })
    }

    pub(crate) fn total(self) -> f64 {
        self.user + self.system
    }
}

impl Add for Cpu {
    type Output = Cpu;
    fn add(self, other: Cpu) -> Cpu {
        Cpu { user: self.user + other.user, system: self.system + other.system }
    }
}

impl Sub for Cpu {
    type Output = Cpu;
    fn sub(self, other: Cpu) -> Cpu {
        Cpu { user: self.user - other.user, system: self.system - other.system }
    }
}

/// A process and its direct children: a server with its workers.
pub(crate) fn with_children(pid: u32) -> Vec<u32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    [pid].into_iter().chain(children.split_whitespace().filter_map(|child| child.parse().ok())).collect()
}

/// Resident memory of a process in MiB.
pub(crate) fn resident_mib(pid: u32) -> Result<f64> {
    let path = format!("/proc/{pid}/status");
    let text = fs::read_to_string(&path).with_context(|| format!("failed to read {path}"))?;
    let kib = text
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:")?.trim().trim_end_matches(" kB").parse::<f64>().ok());
    Ok(kib.with_context(|| format!("{path} tells no resident memory"))? / 1024.0)
}

/// Number of CPUs that this process may use.
pub(crate) fn cpus() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// In one line, with how busy it was.
pub(crate) fn describe() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        line.split_once(':').map_or(String::new(), |(_, value)| value.trim().to_owned())
    };
    let memory = field(&read("/proc/meminfo"), "MemTotal");
    let gib = memory.trim_end_matches(" kB").parse::<f64>().unwrap_or(0.0) / f64::from(1 << 20);
    let load = read("/proc/loadavg").split_whitespace().take(3).collect::<Vec<_>>().join(" ");
    format!(
        "{} CPUs ({}), {gib:.0} GiB, Linux {}, load before {load}",
        cpus(),
        field(&read("/proc/cpuinfo"), "model name"),
        read("/proc/sys/kernel/osrelease").trim(),
    )
}

//! What a child gives up before it reads its first source: memory and CPU beyond its limits, new files and processes, and
//! every system call that is not about its own memory, its stdin, its stdout, or its end.
//!
//! The resource limits must hold, or the child refuses. Of the system-call filter and Landlock each is a whole fence for files
//! and network: where the kernel has only one of them, that is told; where it has neither, the child refuses.

use crate::limits::{ADDRESS_SPACE_MAX, CPU_SECONDS_MAX, NATIVE_STACK_MAX};
use landlock::{ABI, Access, AccessFs, AccessNet, Ruleset, RulesetAttr, RulesetError, RulesetStatus, Scope};
use rustix::process::{Resource, Rlimit, Signal, getrlimit, set_parent_process_death_signal, setrlimit};
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, apply_filter,
};

/// Why a child has not given up what it should.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FenceError {
    #[error("cannot set the limit of {what}")]
    Limit { what: &'static str, source: rustix::io::Errno },
    #[error("cannot ask to end with the parent")]
    Parent(#[source] rustix::io::Errno),
    #[error("cannot restrict files and network")]
    Landlock(#[from] RulesetError),
    #[error("cannot make the filter of system calls")]
    Filter(#[from] BackendError),
    #[error("the kernel neither filters system calls (seccomp) nor restricts files and network (Landlock)")]
    Open,
}

/// Fences this thread, which must be the only one. What is missing of the fence is told, if that may be missing.
pub(crate) fn enter() -> Result<Option<&'static str>, FenceError> {
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(FenceError::Parent)?;
    let limits = [
        ("CPU time", Resource::Cpu, CPU_SECONDS_MAX),
        ("address space", Resource::As, ADDRESS_SPACE_MAX),
        ("stack", Resource::Stack, NATIVE_STACK_MAX),
        ("file size", Resource::Fsize, 0),
        ("processes", Resource::Nproc, 0),
        ("core dumps", Resource::Core, 0),
        ("open files", Resource::Nofile, 16),
    ];
    for (what, resource, limit) in limits {
        // Nothing is raised above what is there already.
        let hard = getrlimit(resource).maximum.unwrap_or(u64::MAX);
        let limit = hard.min(limit);
        // The first CPU limit ends it with a signal that says so.
        let maximum = if resource == Resource::Cpu { hard.min(limit.saturating_add(1)) } else { limit };
        let both = Rlimit { current: Some(limit), maximum: Some(maximum) };
        setrlimit(resource, both).map_err(|source| FenceError::Limit { what, source })?;
    }
    let newest = ABI::V6;
    let landlock = Ruleset::default()
        .handle_access(AccessFs::from_all(newest))?
        .handle_access(AccessNet::from_all(newest))?
        .scope(Scope::from_all(newest))?
        .create()?
        .restrict_self()?;
    missing(apply_filter(&filter()?).is_ok(), landlock.ruleset)
}

/// What is missing, by what there is. A Landlock that lacks a part is not enough alone.
fn missing(filter: bool, landlock: RulesetStatus) -> Result<Option<&'static str>, FenceError> {
    match (filter, landlock) {
        (true, RulesetStatus::NotEnforced) => Ok(Some(
            "this kernel has no Landlock; the filter of system calls alone keeps files and network away",
        )),
        (true, _) => Ok(None),
        (false, RulesetStatus::FullyEnforced) => Ok(Some(
            "this kernel filters no system calls (seccomp); Landlock alone keeps files and network away",
        )),
        (false, _) => Err(FenceError::Open),
    }
}

fn filter() -> Result<BpfProgram, BackendError> {
    let is = |argument, value| {
        SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value)
            .and_then(|condition| SeccompRule::new(vec![condition]))
    };
    // Memory may be had, but none that can be run as code.
    let no_code = || {
        let code = u64::from(libc::PROT_EXEC.unsigned_abs());
        SeccompCondition::new(2, SeccompCmpArgLen::Dword, SeccompCmpOp::MaskedEq(code), 0)
            .and_then(|condition| SeccompRule::new(vec![condition]))
    };
    let own = rustix::process::getpid().as_raw_nonzero().get().unsigned_abs().into();
    let rules = [
        (libc::SYS_read, vec![is(0, 0)?]),
        (libc::SYS_write, vec![is(0, 1)?, is(0, 2)?]),
        (libc::SYS_mmap, vec![no_code()?]),
        (libc::SYS_mprotect, vec![no_code()?]),
        (libc::SYS_tgkill, vec![is(0, own)?]),
        (libc::SYS_munmap, vec![]),
        (libc::SYS_mremap, vec![]),
        (libc::SYS_madvise, vec![]),
        (libc::SYS_brk, vec![]),
        (libc::SYS_futex, vec![]),
        (libc::SYS_getrandom, vec![]),
        (libc::SYS_clock_gettime, vec![]),
        (libc::SYS_gettimeofday, vec![]),
        (libc::SYS_getpid, vec![]),
        (libc::SYS_gettid, vec![]),
        (libc::SYS_rt_sigaction, vec![]),
        (libc::SYS_rt_sigprocmask, vec![]),
        (libc::SYS_rt_sigreturn, vec![]),
        (libc::SYS_sigaltstack, vec![]),
        (libc::SYS_restart_syscall, vec![]),
        (libc::SYS_exit, vec![]),
        (libc::SYS_exit_group, vec![]),
    ];
    let refused = SeccompAction::Errno(libc::EPERM.unsigned_abs());
    let architecture = std::env::consts::ARCH.try_into()?;
    SeccompFilter::new(rules.into_iter().collect(), refused, SeccompAction::Allow, architecture)?.try_into()
}

#[cfg(test)]
mod tests;

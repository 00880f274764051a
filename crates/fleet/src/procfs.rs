//! What `/proc` tells about processes, their memory and their sockets. Everything here is a snapshot: a process may be
//! gone by the time the answer is read, so a missing file is `None` and never an error.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;

/// The longest environment that is read when boxes are searched for, in bytes.
const ENVIRON_MAX_BYTES: u64 = 256 << 10;

/// Fields of `/proc/PID/stat`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stat {
    pub(crate) pid: u32,
    /// `R`, `S`, `Z`, ...
    pub(crate) state: char,
    pub(crate) session: u32,
    /// User and system time of the process and of its children that were waited for, in clock ticks.
    pub(crate) cpu_ticks: u64,
    /// Clock ticks after boot: with the pid it names a process for ever.
    pub(crate) start_time: u64,
    /// Resident pages.
    pub(crate) resident_pages: u64,
}

impl Stat {
    /// Of one process, if it exists and is no zombie.
    pub(crate) fn read(pid: u32) -> Option<Stat> {
        let stat = Stat::parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)?;
        (!matches!(stat.state, 'Z' | 'X')).then_some(stat)
    }

    fn parse(line: &str) -> Option<Stat> {
        // The command stands in parentheses and may itself contain blanks and parentheses.
        let (pid, rest) = line.split_once(" (")?;
        let (_, rest) = rest.rsplit_once(") ")?;
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        let number = |n: usize| -> Option<u64> { fields.get(n - 3)?.parse().ok() };
        Some(Stat {
            pid: pid.parse().ok()?,
            state: fields.first()?.chars().next()?,
            session: u32::try_from(number(6)?).ok()?,
            cpu_ticks: number(14)? + number(15)? + number(16)? + number(17)?,
            start_time: number(22)?,
            resident_pages: number(24)?,
        })
    }
}

/// When a process was started, also if it is a zombie by now.
pub(crate) fn start_time(pid: u32) -> Option<u64> {
    Some(Stat::parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)?.start_time)
}

/// All processes there are, without zombies, ordered by pid.
pub(crate) fn processes() -> Vec<Stat> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let mut all: Vec<Stat> = entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(Stat::read)
        .collect();
    all.sort_by_key(|stat| stat.pid);
    all
}

/// CPU time and memory by session; a box is a session.
pub(crate) fn usage_by_session() -> BTreeMap<u32, (u64, u64)> {
    let mut usage = BTreeMap::new();
    for stat in processes() {
        let (ticks, pages) = usage.entry(stat.session).or_insert((0, 0));
        *ticks += stat.cpu_ticks;
        *pages += stat.resident_pages;
    }
    usage
}

/// The values of these variables in a process's environment at its start.
pub(crate) fn environ(pid: u32, names: &[&str]) -> Option<BTreeMap<String, String>> {
    let mut bytes = Vec::new();
    fs::File::open(format!("/proc/{pid}/environ"))
        .ok()?
        .take(ENVIRON_MAX_BYTES)
        .read_to_end(&mut bytes)
        .ok()?;
    let mut found = BTreeMap::new();
    for variable in bytes.split(|b| *b == 0) {
        let text = String::from_utf8_lossy(variable);
        if let Some((name, value)) = text.split_once('=')
            && names.contains(&name)
        {
            found.insert(name.to_owned(), value.to_owned());
        }
    }
    Some(found)
}

/// Whether a process of this session listens on the TCP port. `None` when `/proc` does not tell.
pub(crate) fn session_listens(session: u32, port: u16) -> Option<bool> {
    let inodes = listening_inodes(port)?;
    if inodes.is_empty() {
        return Some(false);
    }
    if holds_socket(session, &inodes) {
        return Some(true);
    }
    let others = processes().into_iter().filter(|stat| stat.session == session && stat.pid != session);
    Some(others.into_iter().any(|stat| holds_socket(stat.pid, &inodes)))
}

/// The TCP ports that a process listens on.
pub(crate) fn listening_ports(pid: u32) -> Vec<u16> {
    let mut ports = std::collections::BTreeSet::new();
    for (port, inode) in listening().unwrap_or_default() {
        if holds_socket(pid, &[inode]) {
            ports.insert(port);
        }
    }
    ports.into_iter().collect()
}

fn listening_inodes(port: u16) -> Option<Vec<String>> {
    let all = listening()?.into_iter();
    Some(all.filter(|(other, _)| *other == port).map(|(_, inode)| inode).collect())
}

/// Every TCP port that somebody listens on, with its socket.
fn listening() -> Option<Vec<(u16, String)>> {
    const LISTEN: &str = "0A";
    let tables: Vec<String> =
        ["/proc/net/tcp", "/proc/net/tcp6"].iter().filter_map(|path| fs::read_to_string(path).ok()).collect();
    if tables.is_empty() {
        return None;
    }
    let mut found = Vec::new();
    for line in tables.iter().flat_map(|table| table.lines().skip(1)) {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        if let (Some(local), Some(&LISTEN), Some(inode)) = (fields.get(1), fields.get(3), fields.get(9))
            && let Some(port) =
                local.rsplit_once(':').and_then(|(_, port)| u16::from_str_radix(port, 16).ok())
        {
            found.push((port, format!("socket:[{inode}]")));
        }
    }
    Some(found)
}

fn holds_socket(pid: u32, inodes: &[String]) -> bool {
    let Ok(handles) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    handles
        .flatten()
        .filter_map(|handle| fs::read_link(handle.path()).ok())
        .any(|link| link.to_str().is_some_and(|link| inodes.iter().any(|inode| inode == link)))
}

/// The first port that the kernel gives to outgoing connections; ports below it are ours to choose.
pub(crate) fn first_ephemeral_port() -> u16 {
    fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")
        .ok()
        .and_then(|text| text.split_ascii_whitespace().next()?.parse().ok())
        .unwrap_or(32_768)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_with_parentheses_is_read() {
        let line = "42 (a) b (c)) S 1 42 41 0 -1 4194560 100 0 0 0 7 5 2 1 20 0 1 0 9999 1000000 321 18446744073709551615";
        let stat = Stat::parse(line).unwrap();
        assert_eq!((stat.pid, stat.session, stat.state), (42, 41, 'S'));
        assert_eq!((stat.cpu_ticks, stat.start_time, stat.resident_pages), (15, 9999, 321));
    }

    #[test]
    fn this_process_is_found_with_its_socket() {
        let me = Stat::read(std::process::id()).unwrap();
        assert!(processes().contains(&me) || Stat::read(me.pid).unwrap().start_time == me.start_time);
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        assert_eq!(session_listens(me.session, port), Some(true));
        assert_eq!(session_listens(u32::MAX, port), Some(false));
        drop(listener);
    }
}

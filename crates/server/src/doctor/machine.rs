//! What the machine has to offer, and whom it reaches.

use super::{Check, Patient, ServerSeen};
use crate::offline::{LogFilter, OfflineLog, Start};
use std::collections::{BTreeMap, BTreeSet};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;
use tidegate_core::causes;
use tidegate_core::units::{Span, Timestamp};
use tidegate_synth::{Synth, SynthError, Synthesized};
use tidegate_workers::sandbox::Sandbox;

/// The sandbox's program.
const BUBBLEWRAP: &str = "bwrap";
/// The oldest git that is tried in tests: Debian 11's.
const GIT_MIN: (u32, u32) = (2, 30);
/// A clock that is off by more than this makes times in the log, and windows, wrong.
const CLOCK_OFF_MAX: Span = Span::seconds(30);
/// How long a connection may take.
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// The fewest open files: connections of customers, boxes' and the store's.
const OPEN_FILES_MIN: u64 = 4_096;
/// The smallest thing that can be evaluated.
const SMALLEST: &str = "import { Organisation } from 'tidegate';\n\
    export default new Organisation({ name: 'doctor', users: [], teams: [], services: [], regions: [] });\n";
/// The most addresses that are tried.
const ADDRESSES_MAX: usize = 200;

pub(super) fn git() -> Check {
    const NAME: &str = "git";
    let install = "install git 2.30 or newer, and see that it is in the PATH of the server's user";
    let output = match Command::new("git").arg("--version").stdin(Stdio::null()).output() {
        Ok(output) => output,
        Err(error) => return Check::fail(NAME, format!("git cannot be started: {error}"), install),
    };
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    let number = text.split(' ').find(|word| word.starts_with(|c: char| c.is_ascii_digit()));
    let mut parts = number.unwrap_or_default().split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    let version = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
    if !output.status.success() || version < GIT_MIN {
        return Check::fail(NAME, format!("'git --version' says '{text}'"), install);
    }
    Check::ok(NAME, text)
}

pub(super) async fn sandbox() -> Check {
    const NAME: &str = "sandbox";
    match Sandbox::check(Path::new(BUBBLEWRAP)).await {
        Ok(_) => Check::ok(NAME, "a command runs in bubblewrap, in namespaces of its own"),
        Err(error) => Check::fail(
            NAME,
            causes(&error),
            "without a sandbox nothing is built: install bubblewrap, and allow user namespaces (sysctl \
             kernel.unprivileged_userns_clone=1, user.max_user_namespaces above 0; on Ubuntu \
             kernel.apparmor_restrict_unprivileged_userns=0)",
        ),
    }
}

pub(super) async fn control_groups() -> Check {
    const NAME: &str = "cgroups";
    let mend = "builds are watched process by process then; a server that runs as the systemd unit does (Delegate=yes) has them, and \
                this looked at the shell that it was started from";
    match Sandbox::check(Path::new(BUBBLEWRAP)).await {
        Ok(sandbox) if sandbox.has_kernel_limits() => {
            Check::ok(NAME, "the kernel keeps builds' limits on memory and processes")
        }
        Ok(_) => Check::warn(NAME, "no control groups can be made here", mend),
        Err(_) => Check::warn(NAME, "not looked at: there is no sandbox", "mend the sandbox first"),
    }
}

pub(super) fn open_files() -> Check {
    const NAME: &str = "open-files";
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let maximum = limit.maximum.unwrap_or(u64::MAX);
    if maximum < OPEN_FILES_MIN {
        let mend = "raise it (LimitNOFILE= in the unit, or ulimit -Hn): customers' connections count";
        return Check::warn(NAME, format!("a process may have {maximum} open files"), mend);
    }
    Check::ok(NAME, format!("a process may have {maximum} open files"))
}

/// Whether pipelines as code can be evaluated, and how well the evaluator is fenced.
pub(super) fn evaluator(synth: &Synth) -> Check {
    const NAME: &str = "evaluator";
    let mend = "pipelines in TypeScript are evaluated behind seccomp and Landlock: use a kernel that has them (Linux 5.13 or newer, \
                with landlock among the 'lsm' of its command line); JSON works without";
    let files = BTreeMap::from([("organisation.ts".to_owned(), SMALLEST.to_owned())]);
    match synth.files(files) {
        Ok(Synthesized { missing: None, .. }) => {
            Check::ok(NAME, "TypeScript is evaluated behind seccomp and Landlock")
        }
        Ok(Synthesized { missing: Some(missing), .. }) => Check::warn(NAME, missing, mend),
        Err(SynthError::Problems { problems, .. }) => {
            let why: Vec<String> = problems.iter().map(ToString::to_string).collect();
            Check::fail(NAME, why.join("; "), mend)
        }
        Err(error) => Check::fail(NAME, causes(&error), mend),
    }
}

/// Whether a server answers, or could.
pub(super) fn server(patient: &Patient) -> Check {
    const NAME: &str = "server";
    match &patient.server {
        Ok(seen) if seen.troubles.is_empty() => Check::ok(NAME, format!("it serves at {}", seen.url)),
        Ok(seen) => Check::warn(
            NAME,
            format!("it serves at {}, and cannot do: {}", seen.url, seen.troubles.join("; ")),
            "see 'tidegate status'",
        ),
        Err(why) => match TcpListener::bind(patient.listen) {
            Ok(_) => Check::warn(
                NAME,
                format!("no server answers ({why}); {} is free for one", patient.listen),
                "start it: systemctl start tidegate, or tidegate serve --data DIR",
            ),
            Err(error) => Check::fail(
                NAME,
                format!("no server answers ({why}), and {} cannot be listened on: {error}", patient.listen),
                "end what listens there ('ss -ltnp' shows it), or start the server with another --listen",
            ),
        },
    }
}

/// Whether this machine's clock agrees with what is known of time.
pub(super) fn clock(patient: &Patient) -> Check {
    const NAME: &str = "clock";
    let mend = "let the machine keep its time (systemd-timesyncd or chrony); do not set a clock back while tidegate runs";
    let now = patient.now;
    if let Ok(ServerSeen { date: Some(date), asked_at, url, .. }) = &patient.server {
        let (ahead, behind) = (date.since(*asked_at), asked_at.since(*date));
        let (off, way) = if ahead > behind { (ahead, "ahead of") } else { (behind, "behind") };
        if off > CLOCK_OFF_MAX {
            return Check::fail(NAME, format!("the clock of {url} is {off} {way} this machine's"), mend);
        }
    }
    match newest(patient) {
        Some(newest) if newest.since(now) > CLOCK_OFF_MAX => Check::fail(
            NAME,
            format!(
                "it says {now}, which is {} before the newest entry of the log: time stands still until it has caught up",
                newest.since(now)
            ),
            mend,
        ),
        Some(newest) => Check::ok(NAME, format!("it says {now}; the newest entry of the log is of {newest}")),
        None => Check::ok(NAME, format!("it says {now}; there is nothing to compare it with")),
    }
}

/// When the newest entry of the log was made.
fn newest(patient: &Patient) -> Option<Timestamp> {
    if let Ok(seen) = &patient.server {
        return seen.newest;
    }
    let log = OfflineLog::open(patient.data.as_ref()?).ok()?;
    let page = log.page(&LogFilter::default(), Start::Before(u64::MAX), 1).ok()?;
    page.entries.last().map(|entry| entry.at)
}

/// Whether everybody answers whom the organisation's definition names by URL: webhooks, sources of alarms and metrics. Nothing is
/// sent to them, and of a URL only where it leads is told: the rest may be a secret.
pub(super) async fn reach(patient: &Patient) -> Check {
    const NAME: &str = "reach";
    let organisation = match &patient.server {
        Ok(ServerSeen { organisation: Some(organisation), .. }) => organisation,
        Ok(_) => return Check::ok(NAME, "not looked at: no organisation was applied yet"),
        Err(_) => {
            return Check::ok(
                NAME,
                "not looked at: only a server that runs knows the organisation's definition",
            );
        }
    };
    let mut urls = BTreeSet::new();
    collect_urls(&serde_json::to_value(organisation).unwrap_or_default(), &mut urls);
    let places: BTreeSet<(String, u16)> = urls.iter().filter_map(|url| place_of(url)).collect();
    let mut silent = Vec::new();
    for (host, port) in places.iter().take(ADDRESSES_MAX) {
        if let Err(why) = connect(host, *port).await {
            silent.push(format!("{host}:{port}: {why}"));
        }
    }
    if silent.is_empty() {
        return Check::ok(
            NAME,
            format!("{} addresses of the organisation's definition answer", places.len()),
        );
    }
    Check::fail(
        NAME,
        silent.join("; "),
        "pages and alarms depend on them: mend the address in the definition, or the network, its names and its firewall",
    )
}

fn collect_urls(value: &serde_json::Value, urls: &mut BTreeSet<String>) {
    use serde_json::Value;
    match value {
        Value::String(text) if text.starts_with("http://") || text.starts_with("https://") => {
            urls.insert(text.clone());
        }
        Value::Array(values) => values.iter().for_each(|value| collect_urls(value, urls)),
        Value::Object(values) => values.values().for_each(|value| collect_urls(value, urls)),
        _ => {}
    }
}

/// Host and port. What is no URL is refused when it is applied.
fn place_of(url: &str) -> Option<(String, u16)> {
    let uri: axum::http::Uri = url.parse().ok()?;
    let host = uri.host()?.trim_matches(['[', ']']).to_owned();
    Some((host, uri.port_u16().unwrap_or(if uri.scheme_str() == Some("https") { 443 } else { 80 })))
}

async fn connect(host: &str, port: u16) -> Result<(), String> {
    let connecting = tokio::net::TcpStream::connect((host, port));
    match tokio::time::timeout(CONNECT_MAX, connecting).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no connection within {} s", CONNECT_MAX.as_secs())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Health;

    fn patient(date: Option<i64>, newest: Option<i64>) -> Patient {
        let now = Timestamp(1_800_000_000_000);
        let server = ServerSeen {
            url: "http://tidegate.test".to_owned(),
            date: date.map(Timestamp),
            asked_at: now,
            newest: newest.map(Timestamp),
            troubles: Vec::new(),
            last_backup: None,
            organisation: None,
        };
        Patient {
            data: None,
            listen: ([127, 0, 0, 1], 0).into(),
            server: Ok(server),
            now,
            synth: Synth::new("/nowhere/tidegate", &[]),
        }
    }

    #[test]
    fn a_clock_that_is_off_is_found_and_in_which_direction() {
        let now = 1_800_000_000_000;
        let look = |date, newest| {
            let found = clock(&patient(date, newest));
            (found.health, found.seen)
        };
        assert_eq!(look(Some(now + 20_000), Some(now - 5_000)).0, Health::Ok);
        let (health, seen) = look(Some(now + 3_600_000), None);
        assert!(health == Health::Fail && seen.contains("is 1h ahead of this machine's"), "{seen}");
        let (health, seen) = look(Some(now - 3_600_000), None);
        assert!(health == Health::Fail && seen.contains("is 1h behind this machine's"), "{seen}");
        let (health, seen) = look(Some(now), Some(now + 3_600_000));
        assert!(health == Health::Fail && seen.contains("time stands still"), "{seen}");
    }

    #[test]
    fn an_evaluator_that_cannot_be_started_is_found() {
        let found = evaluator(&patient(None, None).synth);
        assert!(found.health == Health::Fail && found.seen.contains("/nowhere/tidegate"), "{found:?}");
    }
}

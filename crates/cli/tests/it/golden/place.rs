//! One place for whoever makes a golden data directory and for whoever opens it: the folder of the test, which its server sees as
//! [`PLACE`]. So nothing in it names the machine on which it was made.

use crate::world::{World, run, unshare};
use serde_json::{Value, json};
use std::fs::{self, File};
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};
use tempfile::TempDir;
use tidegate_core::units::{Span, Timestamp};

/// Where the server sees the test's folder: a folder of every Linux, which is covered for the server alone.
pub(super) const PLACE: &str = "/srv";
/// Whatever is awaited may take so long: much time lies between making and opening. A year is the longest that there is.
pub(super) const LONG: &str = "8000h";
/// Where pages go: an address of the machine's own that nothing else uses.
pub(super) const PAGER: &str = "127.113.17.9:8093";

/// Whether a server can have a place of its own on this machine; else says so loudly.
pub(super) fn can_have_a_place() -> bool {
    let dir = tempfile::tempdir().unwrap();
    let told = run(&mut in_place(dir.path(), "true"));
    if told.code != 0 {
        eprintln!(
            "SKIPPED: nothing can be mounted here, neither as root nor in a user namespace: {}",
            told.talk
        );
    }
    told.code == 0
}

/// The clock that a server has which opens what was made at this time: an hour later, if the library is there that makes it so. Else
/// it is what time it is, as long as what is awaited is not over; then this says so loudly.
pub(super) fn clock(made: Timestamp) -> Option<Vec<(&'static str, String)>> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let now = Timestamp(i64::try_from(now.as_millis()).unwrap());
    if let Some(library) = crate::worst::faketime() {
        let apart = (made + Span::hours(1)).0 - now.0;
        // As in `worst.rs`.
        return Some(vec![
            ("LD_PRELOAD", library.to_str().unwrap().to_owned()),
            ("FAKETIME", format!("{:+}", apart.div_euclid(1_000))),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
            ("DONT_FAKE_MONOTONIC", "1".to_owned()),
            ("PATH", "/usr/bin:/bin".to_owned()),
        ]);
    }
    let young = now.since(made) < LONG.parse::<Span>().unwrap();
    if !young {
        eprintln!(
            "SKIPPED: libfaketime is not installed (on Debian: faketime), and what this waits for is over"
        );
    }
    young.then(Vec::new)
}

/// A program that sees this folder as [`PLACE`]; its arguments are to be given.
fn in_place(dir: &Path, program: &str) -> Command {
    let mut command = unshare();
    let script = r#"mount --bind "$1" "$2" && shift 2 && exec "$@""#;
    command.args(["sh", "-c", script, "sh"]).arg(dir).args([PLACE, program]);
    command
}

/// Starts a server on `data` in this folder, which it sees as [`PLACE`].
pub(super) fn start(dir: TempDir, clock: &[(&str, String)], arguments: &[&str]) -> World {
    // What boxes are: the packages have a script that runs it with what the release says.
    let link = dir.path().join("box");
    let _ = fs::remove_file(&link);
    std::os::unix::fs::symlink(std::env::current_exe().unwrap(), link).unwrap();
    let log = File::options().create(true).append(true).open(dir.path().join("server.log")).unwrap();
    let mut command = in_place(dir.path(), env!("CARGO_BIN_EXE_tidegate"));
    command.envs(clock.iter().map(|(name, value)| (*name, value)));
    command.args(["serve", "--listen", "127.0.0.1:0", "--data"]).arg(format!("{PLACE}/data")).args(arguments);
    command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).process_group(0);
    let server = command.spawn().unwrap();
    World::over(dir, server)
}

/// As [`start`], where the server must end by itself; what it told.
pub(super) fn refused(dir: &Path) -> String {
    let mut command = in_place(dir, env!("CARGO_BIN_EXE_tidegate"));
    command.args(["serve", "--listen", "127.0.0.1:0", "--data"]).arg(format!("{PLACE}/data"));
    let told = run(&mut command);
    assert_eq!((told.code, told.out.as_str()), (1, ""), "{told:?}");
    told.talk
}

/// The pager's address, once nobody else has it.
pub(super) fn pager() -> TcpListener {
    crate::world::wait_for(|| TcpListener::bind(PAGER).ok()).expect("the pager's address is free")
}

/// A pipeline of a service of the same name: beta in `eu`, whose repository is in [`PLACE`].
pub(super) fn pipeline(name: &str, boxes: u32) -> Value {
    json!({
        "schema": "tidegate.pipeline/1",
        "name": name,
        "service": name,
        "sources": [{"name": "code", "url": format!("{PLACE}/repositories/{name}"), "poll": "200ms"}],
        "build": {
            "steps": [{"name": "compile", "run": ["sh", "build.sh"]}],
            "package": [{"from": "out", "to": "app"}],
            "limits": {"time": LONG, "processes": 64, "output_mib": 1}
        },
        "run": {
            "engine": {"process": {
                "command": ["app/run"],
                "health": {"path": "/health", "interval": "100ms", "timeout": "5s", "healthy_after": 1,
                    "unhealthy_after": 3, "start_timeout": "20s"},
                "drain_timeout": "1s", "stop_timeout": "1s"
            }},
            "environment": {"TEST_EXE": format!("{PLACE}/box")}
        },
        "stages": [{"environment": "beta", "regions": ["eu"], "boxes_per_az": boxes, "bake": {"az": "100ms"}}],
        "rolling": {"healthy_for": "100ms", "progress_deadline": LONG}
    })
}

/// One team, which is paged at [`PAGER`], with a service for each pipeline; of `web` somebody else tells as well.
pub(super) fn organisation(services: &[&str]) -> Value {
    let service = |name: &&str| {
        let alarm = format!("{}_Faults", capital(name));
        let mut service = json!({"name": name, "team": "team", "alarms": [{
            "name": alarm, "scope": "service", "metric": {"faults": {}}, "threshold": 1_000_000,
            "period": "1s", "datapoints": "1 of 1", "missing": "not-breaching"
        }]});
        if *name == "web" {
            service["outside"] = json!([{"name": "Web_Checks", "ttl": "1m"}]);
        }
        service
    };
    json!({
        "schema": "tidegate.organisation/1",
        "name": "golden",
        "users": [{"name": "alice", "emails": ["alice@example.test"]}, {"name": "bob"}],
        "teams": [{"name": "team", "members": ["alice", "bob"], "pages": [{"webhook": format!("http://{PAGER}/page")}]}],
        "services": services.iter().map(service).collect::<Vec<_>>(),
        "regions": [{"name": "eu", "azs": ["a"], "traffic": 1}]
    })
}

fn capital(name: &str) -> String {
    let (first, rest) = name.split_at(1);
    first.to_uppercase() + rest
}

//! A real Prometheus and a real Alertmanager, with the configuration that docs/alarms.md tells users to write: only addresses
//! and times are other ones.

use super::{LOOK_EVERY, PATIENCE, get};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

const DOCS: &str = include_str!("../../../../../docs/alarms.md");

/// Whether both are there; else says so loudly. `./run test` installs them.
pub(crate) fn is_there() -> bool {
    let all = ["prometheus", "prometheus-alertmanager"].iter().all(|name| program(name).is_some());
    if !all {
        eprintln!(
            "SKIPPED: there is no prometheus and prometheus-alertmanager here; './run test' installs them"
        );
    }
    all
}

fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(name)).find(|file| file.is_file())
}

/// The n-th block of YAML in the docs.
fn documented(n: usize) -> &'static str {
    DOCS.split("```yaml\n").nth(n + 1).and_then(|rest| rest.split("```").next()).expect("the docs have it")
}

/// The text with each of these replaced, which must be in it.
fn replaced(text: &str, pairs: &[(&str, &str)]) -> String {
    pairs.iter().fold(text.to_owned(), |text, (from, to)| {
        assert!(text.contains(from), "the docs do not say {from:?} any more");
        text.replace(from, to)
    })
}

/// A port that is free.
pub(crate) fn free_address() -> String {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

/// A program that serves HTTP, until it is ended or dropped.
pub(crate) struct Server {
    child: Child,
    log: PathBuf,
}

impl Server {
    /// A Prometheus on this address that asks a service's endpoint for its metrics, and tells an Alertmanager.
    pub(crate) fn prometheus(dir: &Path, address: &str, endpoint: &str, alertmanager: &str) -> Server {
        let dir = dir.join("prometheus");
        fs::create_dir_all(&dir).unwrap();
        let rules = dir.join("rules.yml");
        fs::write(&rules, replaced(documented(0), &[("for: 1m", "for: 0s")])).unwrap();
        let config = replaced(
            documented(1),
            &[
                ("scrape_interval: 15s", "scrape_interval: 250ms\n  scrape_timeout: 250ms"),
                ("evaluation_interval: 15s", "evaluation_interval: 250ms"),
                ("/etc/prometheus/tidegate-rules.yml", rules.to_str().unwrap()),
                ("alertmanager.acme.test:9093", alertmanager),
                ("shop.eu.acme.test:8080", endpoint),
            ],
        );
        fs::write(dir.join("prometheus.yml"), config).unwrap();
        let mut command = Command::new(program("prometheus").unwrap());
        command.arg("--config.file").arg(dir.join("prometheus.yml"));
        command.arg("--storage.tsdb.path").arg(dir.join("data"));
        command.args(["--web.listen-address", address, "--rules.alert.resend-delay", "500ms"]);
        Server::start(command, &dir, address)
    }

    /// An Alertmanager on this address that calls a server of tidegate.
    pub(crate) fn alertmanager(dir: &Path, address: &str, tidegate: &str, token: &str) -> Server {
        let dir = dir.join("alertmanager");
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("token"), token).unwrap();
        let config = replaced(
            documented(2),
            &[
                ("group_wait: 1s", "group_wait: 100ms"),
                ("group_interval: 15s", "group_interval: 500ms"),
                ("repeat_interval: 1m", "repeat_interval: 1s"),
                ("tidegate.acme.test:7420", tidegate),
                ("/etc/alertmanager/tidegate-token", dir.join("token").to_str().unwrap()),
            ],
        );
        fs::write(dir.join("alertmanager.yml"), config).unwrap();
        let mut command = Command::new(program("prometheus-alertmanager").unwrap());
        command.arg("--config.file").arg(dir.join("alertmanager.yml"));
        command.arg("--storage.path").arg(dir.join("data"));
        command.args(["--web.listen-address", address, "--cluster.listen-address", ""]);
        Server::start(command, &dir, address)
    }

    fn start(mut command: Command, dir: &Path, address: &str) -> Server {
        let log = dir.join("log");
        let file = File::options().create(true).append(true).open(&log).unwrap();
        command.stdin(Stdio::null()).stdout(file.try_clone().unwrap()).stderr(file);
        let mut server = Server { child: command.spawn().unwrap(), log };
        let end = Instant::now() + PATIENCE;
        while get(address, "/-/ready", None).is_none_or(|(status, _)| status != 200) {
            let ended = server.child.try_wait().unwrap();
            assert!(ended.is_none() && Instant::now() < end, "it does not serve: {}", server.log());
            std::thread::sleep(LOOK_EVERY);
        }
        server
    }

    /// What it has logged.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Ends it at once.
    pub(crate) fn end(mut self) {
        self.kill();
    }

    fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

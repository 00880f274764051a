//! The command against a real server's API on a free port: what it prints where, and how it ends.

use futures_util::future::BoxFuture;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;
use tidegate_api::{AdoptRequest, Adopted, BadPackage, Endpoint, PackagesVerified, VERSION};
use tidegate_core::decision::{Actor, AggregateId};
use tidegate_core::ids::{PipelineId, ReleaseNo};
use tidegate_core::units::Timestamp;
use tidegate_runtime::{Lane, Listener, Options, Runtime, SystemClock};
use tidegate_server::adopt::NotAdopted;
use tidegate_server::apply::Applier;
use tidegate_server::auth::Tokens;
use tidegate_server::http::{Api, Collaborators, router};
use tidegate_store::MemoryStore;
use tidegate_workers::secrets::SecretStore;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(20);

struct Bell(watch::Sender<u64>);

impl Listener for Bell {
    fn committed(&self, _: &[AggregateId], _: &[Lane]) {
        self.0.send_modify(|n| *n += 1);
    }
}

struct Outside(PathBuf, SecretStore);

impl Collaborators for Outside {
    fn troubles(&self) -> Vec<tidegate_api::WorkTrouble> {
        Vec::new()
    }

    fn source_changed(&self, _: &str) {}

    fn build_log(&self, _: &PipelineId, _: ReleaseNo) -> PathBuf {
        self.0.join("build.log")
    }

    fn endpoints(&self) -> BoxFuture<'_, Result<Vec<Endpoint>, String>> {
        let endpoint = Endpoint {
            service: "frontend".parse().unwrap(),
            environment: "beta".parse().unwrap(),
            region: "eu-1".parse().unwrap(),
            url: "http://127.0.0.1:1".to_owned(),
        };
        Box::pin(async { Ok(vec![endpoint]) })
    }

    fn secrets(&self) -> &SecretStore {
        &self.1
    }

    fn adopt<'a>(
        &'a self,
        _: &'a PipelineId,
        _: &'a AdoptRequest,
        _: &'a Actor,
    ) -> BoxFuture<'a, Result<Adopted, NotAdopted>> {
        Box::pin(async { Err(NotAdopted::Failed("there is no machine here".to_owned())) })
    }

    fn verify_packages(&self) -> BoxFuture<'_, Result<PackagesVerified, String>> {
        let bad = BadPackage { package: "ab".repeat(32), why: "its bytes were changed".to_owned() };
        Box::pin(async { Ok(PackagesVerified { version: VERSION, good: 2, bad: vec![bad] }) })
    }
}

pub(crate) struct Server {
    dir: tempfile::TempDir,
    stop: CancellationToken,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Server {
    pub(crate) fn start() -> Server {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().to_owned();
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let (told, ready) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let tokio = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
            tokio.block_on(async {
                let bell = Bell(watch::Sender::new(0));
                let commits = bell.0.subscribe();
                let options = Options { listener: Some(Arc::new(bell)), ..Options::default() };
                let store = Arc::new(MemoryStore::new());
                let runtime =
                    Arc::new(Runtime::open(store, Arc::new(SystemClock::new()), options, 0).unwrap());
                let tokens = Arc::new(Tokens::open(&data, Timestamp(0)).unwrap());
                let secrets = SecretStore::open(&data.join("secrets")).unwrap();
                let outside = Arc::new(Outside(data, secrets));
                let applier = Applier::new(Arc::clone(&runtime));
                let api = Api::new(runtime, applier, tokens, outside, commits, stopped.clone());
                let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
                told.send(listener.local_addr().unwrap()).unwrap();
                let serving = axum::serve(listener, router(api));
                serving.with_graceful_shutdown(async move { stopped.cancelled().await }).await.unwrap();
            });
        });
        let address: SocketAddr = ready.recv().unwrap();
        let found = format!("{{\"url\":\"http://{address}\",\"pid\":1}}");
        std::fs::write(dir.path().join("server.json"), found).unwrap();
        Server { dir, stop, thread: Some(thread) }
    }

    pub(crate) fn data(&self) -> &Path {
        self.dir.path()
    }

    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
        command.env_clear().env("TIDEGATE_DATA", self.data()).stdin(Stdio::null());
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> (i32, String, String) {
        told(self.command().args(arguments).output().unwrap())
    }

    fn as_user(&self, token: &str, arguments: &[&str]) -> (i32, String, String) {
        told(self.command().env("TIDEGATE_TOKEN", token).args(arguments).output().unwrap())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

fn told(output: Output) -> (i32, String, String) {
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

const ORGANISATION: &str = r#"{
  "schema": "tidegate.organisation/1",
  "name": "shop",
  "users": [{"name": "alice"}, {"name": "bob"}],
  "teams": [{"name": "web", "members": ["alice", "bob"]}],
  "services": [{"name": "frontend", "team": "web"}],
  "regions": [{"name": "eu-1", "azs": ["a"], "traffic": 1}]
}"#;

const PIPELINE: &str = r#"{
  "schema": "tidegate.pipeline/1",
  "name": "frontend",
  "service": "frontend",
  "sources": [{"name": "code", "url": "https://git.example/frontend.git"}],
  "build": {"package": [{"from": "code/out", "to": "bin"}]},
  "run": {"engine": {"process": {"command": ["bin/frontend"], "health": {"path": "/health"}}}},
  "stages": [{"environment": "beta", "bake": {"az": "1m"}}]
}"#;

/// A server with a pipeline and tokens for its people.
fn applied() -> (Server, BTreeMap<&'static str, String>) {
    let server = Server::start();
    let (organisation, pipeline) = (server.data().join("org.json"), server.data().join("frontend.json"));
    std::fs::write(&organisation, ORGANISATION).unwrap();
    std::fs::write(&pipeline, PIPELINE).unwrap();
    // The order on the command line does not matter.
    let files = [pipeline.to_str().unwrap(), organisation.to_str().unwrap()];
    let (code, out, talk) = server.run(&["apply", files[0], files[1]]);
    let expected = format!("shop  applied ({})\nfrontend  applied ({})\n", files[1], files[0]);
    assert_eq!((code, out.as_str(), talk.as_str()), (0, expected.as_str(), ""));
    let tokens = ["alice", "bob"].map(|user| {
        let (code, token, _) = server.run(&["token", "create", user]);
        assert_eq!(code, 0);
        (user, token.trim().to_owned())
    });
    (server, BTreeMap::from(tokens))
}

#[test]
fn people_steer_a_pipeline() {
    let (server, tokens) = applied();
    let alice = |arguments: &[&str]| server.as_user(&tokens["alice"], arguments);
    let (code, out, _) = alice(&["hold", "frontend", "--reason", "audit", "--for", "2h"]);
    assert_eq!((code, out.starts_with("1  frontend is held")), (0, true), "{out}");
    let (_, out, _) = alice(&["status"]);
    assert!(out.contains("HOLD 1  by alice for 0s, ends in") && out.contains(": audit"), "{out}");
    assert!(!out.contains('\u{1b}'), "no colours where there is no terminal");
    let (code, out, _) = alice(&["unhold", "frontend", "1"]);
    assert_eq!((code, out.as_str()), (0, "hold 1 of frontend is lifted\n"));
    let (code, out, _) = server.run(&["alarm", "set", "storm", "--reason", "packet loss"]);
    assert_eq!(code, 0, "{out}");
    let (_, out, _) = alice(&["status", "--json"]);
    let status: tidegate_api::Status = serde_json::from_str(&out).unwrap();
    assert_eq!(status.organisation.alarms[0].reason, "packet loss");
    let (_, out, _) = alice(&["log", "--limit", "1"]);
    assert!(out.contains("alarm storm raised by admin: packet loss") && out.ends_with("[admin]\n"), "{out}");
    let (code, out, _) = alice(&["log", "--verify"]);
    assert_eq!((code, out.starts_with("the log is in order")), (0, true), "{out}");
    let (_, out, _) = alice(&["endpoints"]);
    assert_eq!(out, "frontend/beta/eu-1  http://127.0.0.1:1\n");
    std::fs::write(server.data().join("build.log"), "compiling\n\u{1b}[31mred\n").unwrap();
    assert_eq!(alice(&["build-log", "frontend", "r1"]).1, "compiling\n [31mred\n");
}

#[test]
fn the_exit_code_says_how_it_ended() {
    let (server, tokens) = applied();
    let alice = |arguments: &[&str]| server.as_user(&tokens["alice"], arguments);
    let rollback = ["rollback", "frontend", "r9", "--reason", "x"];
    for (arguments, code, says) in [
        (&rollback[..], 3, "tidegate: TG004: frontend has no release r9\nhint: "),
        (&["alarm", "clear", "storm"][..], 3, "tidegate: TG002: alice is not an administrator\nhint: "),
        (&["why", "abc"][..], 3, "tidegate: TG003: no commit of this pipeline begins with 'abc'"),
        (&["why", "../../x"][..], 2, "tidegate: '../../x' is not the beginning of a commit's name"),
        (&["hold", "frontend"][..], 2, "error: the following required arguments were not provided"),
        (&["hold", "Front End", "--reason", "x"][..], 2, "error: invalid value 'Front End'"),
        (&["packages", "verify"][..], 1, "tidegate: failed to verify all packages"),
        (&["--server", "http://127.0.0.1:1", "status"][..], 4, "tidegate: cannot reach the server"),
        (&["--server", "https://127.0.0.1:1", "status"][..], 4, "tidegate: cannot reach the server"),
        (
            &["--server", "ftp://127.0.0.1", "status"][..],
            2,
            "tidegate: 'ftp://127.0.0.1' is no URL of a server",
        ),
    ] {
        let (found, _, talk) = alice(arguments);
        assert_eq!(found, code, "{arguments:?}: {talk}");
        assert!(talk.starts_with(says), "{arguments:?}: {talk}");
    }
    let (code, _, talk) = server.as_user("tg_wrong", &["status", "--json"]);
    let answer: tidegate_api::ErrorAnswer = serde_json::from_str(&talk).unwrap();
    assert_eq!((code, answer.error.code.as_str()), (3, "TG001"));
    let elsewhere = server.data().join("nothing");
    let (code, _, talk) = alice(&["--data", elsewhere.to_str().unwrap(), "status"]);
    assert_eq!((code, talk.contains("no server runs on")), (4, true), "{talk}");
    let (code, _, talk) = server.run(&["fleet", "status"]);
    assert_eq!((code, talk.contains("no fleet answers")), (4, true), "{talk}");
}

#[test]
fn a_definition_that_is_refused_shows_file_line_and_marker() {
    let (server, _) = applied();
    let broken = server.data().join("broken.json");
    std::fs::write(&broken, PIPELINE.replace("\"bake\"", "\"bakes\"")).unwrap();
    let (code, out, talk) = server.run(&["apply", broken.to_str().unwrap()]);
    assert_eq!((code, out.as_str()), (3, ""));
    let talk = talk.replace(server.data().to_str().unwrap(), "DIR");
    expect_test::expect![[r#"
        tidegate: TG008: the definition is refused: 1 finding

        TG103: unknown field 'bakes'
          at DIR/broken.json:8:38 (/stages/0/bakes)
            8 |   "stages": [{"environment": "beta", "bakes": {"az": "1m"}}]
              |                                      ^^^^^^^
          hint: did you mean "bake"?

        hint: mend what the findings say and apply it again; nothing was changed
    "#]]
    .assert_eq(&talk);
}

#[test]
fn watch_follows_live_and_again_after_a_position() {
    use std::io::{BufRead, BufReader};
    let (server, tokens) = applied();
    let (told, lines) = std::sync::mpsc::channel();
    let next = || lines.recv_timeout(PATIENCE).expect("a line in time");
    let mut command = server.command();
    command.args(["watch", "frontend", "--after", "0"]).stdout(Stdio::piped());
    let mut watching = command.spawn().unwrap();
    let output = BufReader::new(watching.stdout.take().unwrap());
    let reader = std::thread::spawn(move || output.lines().try_for_each(|line| told.send(line.unwrap())));
    let first: String = next();
    assert!(first.ends_with("frontend          pipeline defined: 1 stages, 1 steps  [admin]"), "{first}");
    server.as_user(&tokens["bob"], &["hold", "frontend", "--reason", "look"]);
    let second = next();
    assert!(second.ends_with("frontend          hold 1 placed by bob: look  [bob]"), "{second}");
    watching.kill().unwrap();
    watching.wait().unwrap();
    reader.join().unwrap().unwrap();
}

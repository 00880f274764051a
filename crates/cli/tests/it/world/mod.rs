//! A whole server as a user starts it, with all that it needs, and what a user asks of it. When a [`World`] is dropped,
//! nothing of it is left running.

pub(crate) mod broken;
pub(crate) mod definitions;
pub(crate) mod forge;
mod http;
pub(crate) mod machine;
pub(crate) mod monitoring;
mod repo;
mod start;

pub(crate) use http::{get, post};
pub(crate) use repo::Repo;
pub(crate) use start::{can_have_a_disk, on_disk, unshare};

use serde_json::Value;
use start::{spawn, spawn_logged, spawn_with};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tidegate_api::{
    LogEntry, LogPage, PipelineStatus, ReleaseStatus, Status, StepStatus, TargetStatus, WorkStatus,
};
use tidegate_core::ids::ReleaseNo;
use tidegate_fleet::protocol::Stop;
use tidegate_fleet::{FleetClient, FleetConfig};

/// How long anything may take in these tests; generous, for busy machines.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(40);
const LOG_PAGE: usize = 1_000;
/// Lines of the server's own log that a failed test shows.
const LOG_LINES_SHOWN: usize = 30;

/// What a command told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Told {
    /// Its exit code.
    pub(crate) code: i32,
    /// On stdout.
    pub(crate) out: String,
    /// On stderr.
    pub(crate) talk: String,
}

impl Told {
    /// What it told on stdout, if it ended well.
    #[track_caller]
    pub(crate) fn well(self) -> String {
        assert_eq!(self.code, 0, "{self:?}");
        self.out
    }
}

/// A server, its fleet, and its users.
pub(crate) struct World {
    dir: TempDir,
    /// Before every path that the server sees: empty, or its root if it has a disk of its own.
    root: PathBuf,
    server: Mutex<Child>,
    admin: String,
    bob: String,
}

impl World {
    /// A server that knows an organisation, whose people have tokens.
    pub(crate) fn start() -> World {
        World::start_with(&definitions::organisation(), None)
    }

    /// As [`World::start`], with another organisation; the data directory is a disk of so many MiB of its own.
    pub(crate) fn start_with(organisation: &Value, disk_mib: Option<u32>) -> World {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("data")).unwrap();
        let mut command = match disk_mib {
            None => Command::new(env!("CARGO_BIN_EXE_tidegate")),
            Some(mib) => on_disk(&dir.path().join("data"), mib),
        };
        let server = spawn(&mut command, dir.path());
        let root = disk_mib.map(|_| format!("/proc/{}/root", server.id()).into()).unwrap_or_default();
        let mut world =
            World { dir, root, server: Mutex::new(server), admin: String::new(), bob: String::new() };
        world.wait_up();
        world.admin = fs::read_to_string(world.data().join("admin-token")).unwrap().trim().to_owned();
        world.apply("organisation", organisation).well();
        world.bob = world.cli(&["token", "create", "bob"]).well().trim().to_owned();
        world
    }

    /// A server that was started on `data` in this folder by whatever command; nobody but the administrator has a token.
    pub(crate) fn over(dir: TempDir, server: Child) -> World {
        let (root, server) = (PathBuf::new(), Mutex::new(server));
        let mut world = World { dir, root, server, admin: String::new(), bob: String::new() };
        world.wait_up();
        world.admin = fs::read_to_string(world.data().join("admin-token")).unwrap().trim().to_owned();
        world
    }

    /// With a token for bob, whom the organisation's definition knows.
    pub(crate) fn with_people(mut self) -> World {
        self.bob = self.cli(&["token", "create", "bob"]).well().trim().to_owned();
        self
    }

    /// The data directory, as this process sees it.
    pub(crate) fn data(&self) -> PathBuf {
        let seen = self.dir.path().join("data");
        if self.root.as_os_str().is_empty() { seen } else { self.root.join(seen.strip_prefix("/").unwrap()) }
    }

    /// The folder around the data directory, for a test's own files.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A new repository with the service's files, without a commit.
    pub(crate) fn repo(&self, name: &str) -> Repo {
        Repo::create(&self.dir.path().join("repositories").join(name))
    }

    /// A repository that is there already.
    pub(crate) fn repo_again(&self, name: &str) -> Repo {
        Repo::at(&self.dir.path().join("repositories").join(name))
    }

    /// The server's process.
    pub(crate) fn server_pid(&self) -> u32 {
        self.server().id()
    }

    fn server(&self) -> MutexGuard<'_, Child> {
        self.server.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the server with SIGKILL, wherever it is. It must not have ended by itself.
    #[track_caller]
    pub(crate) fn kill_server(&self) {
        let mut server = self.server();
        if let Some(status) = server.try_wait().unwrap() {
            panic!("the server ended with {status}:\n{}", self.server_log());
        }
        server.kill().unwrap();
        server.wait().unwrap();
    }

    /// Asks the server to end, and waits until it has.
    pub(crate) fn end_server(&self) {
        let mut server = self.server();
        let pid = rustix::process::Pid::from_child(&server);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        let ended = wait_for(|| server.try_wait().unwrap());
        assert!(ended.expect("the server ends when it is asked to").success());
    }

    /// Starts the server again on its data directory.
    pub(crate) fn restart_server(&self) {
        self.begin_server();
        self.wait_up();
    }

    /// As [`World::restart_server`], without waiting until it serves.
    pub(crate) fn begin_server(&self) {
        *self.server() = spawn(&mut Command::new(env!("CARGO_BIN_EXE_tidegate")), self.dir.path());
    }

    /// As [`World::restart_server`], where the server is to take over with a new epoch.
    pub(crate) fn take_over(&self) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
        *self.server() = spawn_with(&mut command, self.dir.path(), &["--new-epoch"]);
        self.wait_up();
    }

    /// As [`World::restart_server`], by this command with these arguments more.
    pub(crate) fn start_by(&self, command: &mut Command, arguments: &[&str]) {
        *self.server() = spawn_with(command, self.dir.path(), arguments);
        self.wait_up();
    }

    /// As [`World::restart_server`], by a whole command line.
    pub(crate) fn start_as_it_is(&self, command: &mut Command) {
        *self.server() = spawn_logged(command, self.dir.path());
        self.wait_up();
    }

    /// From now on this is the server, which has taken over from the one before; that one must have ended.
    pub(crate) fn follow(&self, next: Child) {
        let mut before = std::mem::replace(&mut *self.server(), next);
        assert!(wait_for(|| before.try_wait().unwrap()).is_some(), "the server before has ended");
        self.wait_up();
    }

    /// Starts a server on a data directory, which must end by itself; what it told.
    pub(crate) fn refused(&self, data: &Path, arguments: &[&str]) -> Told {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
        command.args(["serve", "--listen", "127.0.0.1:0", "--data"]).arg(data).args(arguments);
        let told = run(&mut command);
        assert_eq!((told.code, told.out.as_str()), (1, ""), "{told:?}");
        told
    }

    /// The processes of all boxes, by folder.
    pub(crate) fn box_pids(&self) -> Vec<(PathBuf, Value)> {
        let records = self.box_records().into_iter();
        records.map(|(folder, record)| (folder, record["process"]["pid"].clone())).collect()
    }

    /// Ends the server, the fleet and its boxes, and removes the data directory.
    pub(crate) fn lose_machine(&self) {
        self.kill_server();
        self.end_fleet();
        fs::remove_dir_all(self.data()).unwrap();
    }

    /// Waits until the server serves.
    pub(crate) fn wait_up(&self) {
        let up = wait_for(|| {
            let ended = self.server().try_wait().unwrap();
            if let Some(status) = ended {
                panic!("the server ended with {status}:\n{}", self.server_log());
            }
            let address = self.address()?;
            get(&address, "/v1/health", None).filter(|(status, _)| *status == 200)
        });
        assert!(up.is_some(), "the server does not answer:\n{}", self.server_log());
    }

    /// Where the server serves; none while it does not.
    pub(crate) fn address(&self) -> Option<String> {
        let text = fs::read_to_string(self.data().join("server.json")).ok()?;
        let found: Value = serde_json::from_str(&text).ok()?;
        (found["pid"] == self.server_pid())
            .then(|| found["url"].as_str().unwrap()["http://".len()..].to_owned())
    }

    /// Runs a command as the administrator.
    pub(crate) fn cli(&self, arguments: &[&str]) -> Told {
        run(&mut self.command(&self.admin, arguments))
    }

    /// Runs a command as the administrator with this as its standard input.
    pub(crate) fn cli_with(&self, arguments: &[&str], input: File) -> Told {
        let output = self.command(&self.admin, arguments).stdin(input).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Told { code: output.status.code().unwrap(), out: text(output.stdout), talk: text(output.stderr) }
    }

    /// Runs a command as bob, who reviews.
    pub(crate) fn bob(&self, arguments: &[&str]) -> Told {
        run(&mut self.command(&self.bob, arguments))
    }

    /// As [`World::bob`] or [`World::cli`], where the server may be killed at any moment; none while it does not serve.
    pub(crate) fn try_cli(&self, bob: bool, arguments: &[&str]) -> Option<Told> {
        let address = self.address()?;
        let token = if bob { &self.bob } else { &self.admin };
        Some(run(&mut Self::command_at(&address, token, arguments)))
    }

    fn command(&self, token: &str, arguments: &[&str]) -> Command {
        Self::command_at(&self.address().expect("the server serves"), token, arguments)
    }

    fn command_at(address: &str, token: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
        command.env_clear().env("TIDEGATE_SERVER", format!("http://{address}")).env("TIDEGATE_TOKEN", token);
        command.args(arguments);
        command
    }

    /// Applies a definition that is in a file of this name.
    pub(crate) fn apply(&self, name: &str, definition: &Value) -> Told {
        self.apply_text(name, &serde_json::to_string_pretty(definition).unwrap())
    }

    /// As [`World::apply`] with a text.
    pub(crate) fn apply_text(&self, name: &str, text: &str) -> Told {
        let file = self.dir.path().join(format!("{name}.json"));
        fs::write(&file, text).unwrap();
        self.cli(&["apply", file.to_str().unwrap()])
    }

    /// Commits these files, lets bob approve the commit, and merges it; the commit's name.
    pub(crate) fn land(&self, repo: &Repo, files: &[(&str, &str)]) -> String {
        let commit = repo.commit(files, "a change");
        self.bob(&["approve", &commit]).well();
        repo.merge(&commit);
        commit
    }

    /// What `GET` answers, which must be well.
    pub(crate) fn get(&self, path: &str) -> String {
        let (status, body) =
            get(&self.address().unwrap(), path, Some(&self.admin)).expect("the server answers");
        assert_eq!(status, 200, "{path}: {body}");
        body
    }

    /// What `GET` answers; none unless it is well, such as while the server is killed.
    pub(crate) fn try_get(&self, path: &str) -> Option<String> {
        let (status, body) = get(&self.address()?, path, Some(&self.admin))?;
        (status == 200).then_some(body)
    }

    /// What is so now.
    pub(crate) fn status(&self) -> Status {
        serde_json::from_str(&self.get("/v1/status")).unwrap()
    }

    /// A pipeline.
    pub(crate) fn pipeline(&self, name: &str) -> PipelineStatus {
        let status: Status = serde_json::from_str(&self.get(&format!("/v1/status?pipeline={name}"))).unwrap();
        status.pipelines.into_iter().next().unwrap()
    }

    /// Everything in the log.
    pub(crate) fn log(&self) -> Vec<LogEntry> {
        let mut all: Vec<LogEntry> = Vec::new();
        loop {
            let after = all.last().map_or(0, |e| e.position);
            let text = self.get(&format!("/v1/log?after={after}&limit={LOG_PAGE}"));
            let page: LogPage = serde_json::from_str(&text).unwrap();
            if page.entries.is_empty() {
                return all;
            }
            all.extend(page.entries);
        }
    }

    /// The log's texts.
    pub(crate) fn told(&self) -> Vec<String> {
        self.log().into_iter().map(|entry| entry.text).collect()
    }

    /// Waits until the look gives something; fails the test when it does not in time.
    #[track_caller]
    pub(crate) fn until<T>(&self, what: &str, look: impl FnMut() -> Option<T>) -> T {
        match wait_for(look) {
            Some(found) => found,
            None => panic!(
                "it did not happen in time: {what}\n{}\nthe end of the server's log:\n{}",
                self.cli(&["status"]).out,
                self.server_log()
            ),
        }
    }

    /// Waits until a release has passed the pipeline's last step.
    #[track_caller]
    pub(crate) fn until_passed(&self, pipeline: &str, release: u64) {
        self.until(&format!("r{release} of {pipeline} passes"), || {
            let pipeline = self.pipeline(pipeline);
            let last = steps(&pipeline).last().unwrap();
            (last.done == Some(ReleaseNo(release)) && matches!(last.work, WorkStatus::Done { .. }))
                .then_some(())
        });
    }

    /// Waits until every target of the pipeline runs this release and does not move.
    #[track_caller]
    pub(crate) fn until_everywhere(&self, pipeline: &str, release: u64) {
        self.until(&format!("every target of {pipeline} runs r{release}"), || {
            let pipeline = self.pipeline(pipeline);
            let settled = |t: &TargetStatus| {
                t.current == Some(ReleaseNo(release))
                    && matches!(t.motion, tidegate_api::MotionStatus::Settled)
            };
            steps(&pipeline).flat_map(|s| &s.targets).all(settled).then_some(())
        });
    }

    /// Where a service is called, as `host:port`.
    pub(crate) fn endpoint(&self, service: &str, environment: &str, region: &str) -> String {
        let all: tidegate_api::Endpoints = serde_json::from_str(&self.get("/v1/endpoints")).unwrap();
        let found = all.endpoints.into_iter().find(|e| {
            (e.service.as_str(), e.environment.as_str(), e.region.as_str()) == (service, environment, region)
        });
        found.expect("the endpoint is known").url["http://".len()..].to_owned()
    }

    /// The records of all boxes that the fleet has on disk, by folder.
    pub(crate) fn box_records(&self) -> Vec<(PathBuf, Value)> {
        let mut found = Vec::new();
        let folders = |dir: &Path| fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.path());
        for target in folders(&self.data().join("fleet/boxes")) {
            for folder in folders(&target) {
                if let Ok(text) = fs::read(folder.join("box.json")) {
                    found.push((folder, serde_json::from_slice(&text).unwrap()));
                }
            }
        }
        found.sort_by(|a, b| a.0.cmp(&b.0));
        found
    }

    /// The end of what the server itself has logged.
    pub(crate) fn server_log(&self) -> String {
        let text = fs::read_to_string(self.dir.path().join("server.log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..].join("\n")
    }

    /// The fleet's process, if it answers.
    pub(crate) fn fleet_pid(&self) -> Option<u32> {
        let client = FleetClient::new(FleetConfig::socket(&self.data().join("fleet")));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(client.status()).ok().map(|fleet| fleet.pid)
    }

    /// Ends the fleet and its boxes, if there are any.
    pub(crate) fn end_fleet(&self) {
        self.stop_fleet(true);
    }

    /// Ends the fleet; its boxes run on.
    pub(crate) fn stop_fleet_alone(&self) {
        self.stop_fleet(false);
    }

    fn stop_fleet(&self, boxes: bool) {
        let client = FleetClient::new(FleetConfig::socket(&self.data().join("fleet")));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let Ok(fleet) = client.status().await else { return };
            let _ = client.stop(Stop { boxes }).await;
            let end = Instant::now() + PATIENCE;
            while alive(fleet.pid) && Instant::now() < end {
                tokio::time::sleep(LOOK_EVERY).await;
            }
        });
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // The server first ends what it runs itself, also when a test failed.
        if matches!(self.server().try_wait(), Ok(None)) && self.root.as_os_str().is_empty() {
            let mut server = self.server();
            let pid = rustix::process::Pid::from_child(&server);
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
            let _ = wait_for(|| server.try_wait().ok().flatten());
        }
        self.end_fleet();
        let mut server = self.server();
        let _ = server.kill();
        let _ = server.wait();
    }
}

/// Runs a command to its end.
pub(crate) fn run(command: &mut Command) -> Told {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Told { code: output.status.code().unwrap(), out: text(output.stdout), talk: text(output.stderr) }
}

/// Looks until there is something, at most as long as [`PATIENCE`].
pub(crate) fn wait_for<T>(look: impl FnMut() -> Option<T>) -> Option<T> {
    wait_at_most(PATIENCE, look)
}

/// Looks until there is something, at most so long.
pub(crate) fn wait_at_most<T>(limit: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + limit;
    loop {
        if let Some(found) = look() {
            return Some(found);
        }
        if Instant::now() > end {
            return None;
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// A text without its line breaks and indentation.
pub(crate) fn words(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Whether a process is there and is no zombie.
pub(crate) fn alive(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit_once(") ").unwrap().1.starts_with('Z'))
}

/// A pipeline's steps, in order.
pub(crate) fn steps(pipeline: &PipelineStatus) -> impl Iterator<Item = &StepStatus> {
    pipeline.stages.iter().flat_map(|s| &s.steps)
}

/// A release, if it was made.
pub(crate) fn release(pipeline: &PipelineStatus, number: u64) -> Option<ReleaseStatus> {
    pipeline.releases.iter().find(|r| r.release == ReleaseNo(number)).cloned()
}

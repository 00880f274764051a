//! Where everything takes place: a folder of its own, and the fleets in it. Children end with the values that hold them;
//! fleets and their boxes outlive whoever started them, so [`Scene::end`] ends them, also after Ctrl-C.

use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tidegate_fleet::protocol::Stop;
use tidegate_fleet::{FleetClient, FleetConfig};
use tokio::process::{Child, Command};

/// How long a program may take until it answers, and a fleet until it has ended.
pub(crate) const START_MAX: Duration = Duration::from_secs(60);
/// The pause between two looks.
const LOOK: Duration = Duration::from_millis(5);

/// See the head of this file.
pub(crate) struct Scene {
    dir: TempDir,
    /// The program that is measured: a release build.
    pub(crate) tidegate: PathBuf,
    fleets: Mutex<Vec<PathBuf>>,
}

impl Scene {
    pub(crate) fn new(tidegate: PathBuf) -> Result<Scene> {
        let tidegate =
            tidegate.canonicalize().with_context(|| format!("failed to find {}", tidegate.display()))?;
        let dir = tempfile::Builder::new()
            .prefix("tidegate-bench-")
            .tempdir()
            .context("failed to make a folder")?;
        Ok(Scene { dir, tidegate, fleets: Mutex::default() })
    }

    /// A fresh folder.
    pub(crate) fn folder(&self, name: &str) -> Result<PathBuf> {
        let path = self.dir.path().join(name);
        std::fs::create_dir(&path).with_context(|| format!("failed to make {}", path.display()))?;
        Ok(path)
    }

    /// The fleet in this folder is ended at the end, whoever starts it.
    pub(crate) fn end_fleet_in(&self, data: &Path) {
        self.fleets.lock().unwrap_or_else(PoisonError::into_inner).push(data.to_owned());
    }

    /// Ends every fleet with its boxes.
    pub(crate) async fn end(&self) {
        let fleets = std::mem::take(&mut *self.fleets.lock().unwrap_or_else(PoisonError::into_inner));
        for data in fleets {
            if let Err(error) = end_fleet(&data).await {
                eprintln!("the fleet in {} may still run: {error:#}", data.display());
            }
        }
    }
}

impl Drop for Scene {
    /// What a panic has left running.
    fn drop(&mut self) {
        if self.fleets.get_mut().is_ok_and(|fleets| fleets.is_empty()) {
            return;
        }
        let ended = std::thread::scope(|scope| {
            let end = || {
                tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .map(|r| r.block_on(self.end()))
            };
            scope.spawn(end).join()
        });
        if !matches!(ended, Ok(Ok(()))) {
            eprintln!("fleets in {} may still run", self.dir.path().display());
        }
    }
}

/// Ends the fleet in this folder with its boxes, and waits until it has.
pub(crate) async fn end_fleet(data: &Path) -> Result<()> {
    let fleet = FleetClient::new(FleetConfig::socket(data));
    let Ok(status) = fleet.status().await else { return Ok(()) };
    fleet.stop(Stop { boxes: true }).await.context("failed to stop the fleet")?;
    until("the fleet ends", async || Ok((!runs(status.pid)).then_some(()))).await
}

/// Whether a process is there and is no zombie.
fn runs(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, state)| !state.starts_with('Z'))
}

/// Waits, for at most [`START_MAX`], until the look finds something.
pub(crate) async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Result<Option<T>>) -> Result<T> {
    let begun = Instant::now();
    loop {
        if let Some(found) = look().await? {
            return Ok(found);
        }
        if begun.elapsed() > START_MAX {
            bail!("it did not happen within {} s: {what}", START_MAX.as_secs());
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Waits until somebody listens there; fails when the child ends before.
pub(crate) async fn until_listening(what: &str, child: &mut Child, address: SocketAddr) -> Result<()> {
    until(what, async || {
        if let Some(status) = child.try_wait()? {
            bail!("{what}: it ended with {status}");
        }
        Ok(tokio::net::TcpStream::connect(address).await.is_ok().then_some(()))
    })
    .await
}

/// A command for a child that ends with whoever holds it, and is not reached by Ctrl-C itself.
pub(crate) fn command(program: impl AsRef<std::ffi::OsStr>, log: &Path) -> Result<Command> {
    let log = std::fs::File::create(log).with_context(|| format!("failed to make {}", log.display()))?;
    let mut command = Command::new(program);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).process_group(0).kill_on_drop(true);
    Ok(command)
}

/// An address that was free a moment ago, for programs that cannot tell which port they were given.
pub(crate) fn free_address() -> Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("failed to find a free port")?;
    Ok(listener.local_addr()?)
}

/// What a box of these figures needs in its environment: this program is the box.
pub(crate) fn box_environment() -> Result<BTreeMap<String, String>> {
    let program = std::env::current_exe().context("failed to find this program")?;
    Ok([("BENCH_PROGRAM".to_owned(), program.to_string_lossy().into_owned())].into())
}

/// The package's start: `mode` is a file beside it, so that a bad release differs in its bytes.
pub(crate) const BOX_START: &str = "#!/bin/sh\nexec \"$BENCH_PROGRAM\" box $(cat mode)\n";

//! A fleet process with its folder, packages and keys.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tidegate_core::engine::{BoxHealth, BoxObservation, Desired, Fence, Observation, Share};
use tidegate_core::ids::{PackageDigest, SlotId, TargetId};
use tidegate_core::run_spec::{BoxLimits, HealthCheck, ProcessSpec, RunSpec, Workload};
use tidegate_core::units::{Span, Timestamp};
use tidegate_fleet::package::{ExternalParameters, PackItem, PackageStore, Provenance, SigningKey, pack};
use tidegate_fleet::protocol::{Accepted, EndpointKey, SetSlot, Stop};
use tidegate_fleet::{ClientError, FleetClient, FleetConfig};

/// How long anything may take in these tests; generous, for busy machines.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until the condition gives something.
pub(crate) async fn eventually<T>(what: &str, mut condition: impl AsyncFnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = condition().await {
            return value;
        }
        assert!(start.elapsed() < PATIENCE, "it did not happen in time: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Runs the fleet if this process is one; else does nothing.
pub(crate) fn fleet_main() {
    let Ok(dir) = std::env::var("TEST_FLEET_DIR") else { return };
    let dir = PathBuf::from(dir);
    let mut config = config_in(&dir);
    config.take_over = std::env::var("TEST_TAKE_OVER").is_ok();
    config.upgrade_command =
        ["/usr/bin/env".into(), "TEST_TAKE_OVER=1".into(), std::env::current_exe().unwrap().into()]
            .into_iter()
            .chain(ROLE_FLEET.iter().map(Into::into))
            .collect();
    let result = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
        .block_on(tidegate_fleet::run(config));
    if let Err(error) = result {
        eprintln!("fleet failed: {error}");
        std::process::exit(3);
    }
    std::process::exit(0);
}

const ROLE_FLEET: [&str; 3] = ["role_fleet", "--exact", "--nocapture"];

fn config_in(dir: &std::path::Path) -> FleetConfig {
    let mut config = FleetConfig::new(dir.join("data"), dir.join("packages"), dir.join("trusted.pem"));
    config.reserve_bytes = 1 << 20;
    config.request_limit = Duration::from_secs(2);
    config
}

pub(crate) struct Fleet {
    pub(crate) dir: TempDir,
    /// Its data folder as this process sees it.
    pub(crate) data: PathBuf,
    pub(crate) client: FleetClient,
    pub(crate) package: PackageDigest,
    pub(crate) child: Child,
    generation: std::cell::Cell<u64>,
}

impl Drop for Fleet {
    fn drop(&mut self) {
        let client = self.client.clone();
        // The fleet and its boxes end also when the test failed.
        let stop = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let pid = client.status().await.ok().map(|s| s.pid);
                let _ = client.stop(Stop { boxes: true }).await;
                let end = Instant::now() + PATIENCE;
                while pid.is_some_and(alive) && Instant::now() < end {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            });
        });
        let _ = stop.join();
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether a process is there and is no zombie.
pub(crate) fn alive(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit_once(") ").unwrap().1.starts_with('Z'))
}

impl Fleet {
    pub(crate) async fn start() -> Fleet {
        Fleet::start_on(None).await
    }

    /// As [`Fleet::start`]; the data folder is a disk of so many MiB of its own.
    pub(crate) async fn start_on(disk_mib: Option<u32>) -> Fleet {
        let dir = tempfile::tempdir().unwrap();
        let text = "#!/bin/sh\n[ \"$TEST_MODE\" = stubborn ] && trap '' TERM\n\
                    exec \"$TEST_EXE\" role_box --exact --nocapture\n";
        let package = pack_one(dir.path(), "run", text);
        let (child, root) = match disk_mib {
            None => (Fleet::spawn(dir.path()), PathBuf::new()),
            Some(mib) => {
                let child = Fleet::spawn_on_disk(dir.path(), mib);
                let root = format!("/proc/{}/root", child.id()).into();
                (child, root)
            }
        };
        let data = root
            .join(dir.path().strip_prefix(if disk_mib.is_some() { "/" } else { "" }).unwrap())
            .join("data");
        let client = FleetClient::new(FleetConfig::socket(&data));
        let fleet = Fleet { dir, data, client, package, child, generation: 0.into() };
        fleet.wait_up().await;
        fleet
    }

    pub(crate) fn command(dir: &std::path::Path) -> Command {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(ROLE_FLEET).env("TEST_FLEET_DIR", dir).stdin(Stdio::null());
        command
    }

    pub(crate) fn spawn(dir: &std::path::Path) -> Child {
        Fleet::command(dir).stdout(Stdio::null()).spawn().unwrap()
    }

    /// Starts the fleet in a mount namespace in which its data folder is a small disk.
    fn spawn_on_disk(dir: &std::path::Path, mib: u32) -> Child {
        std::fs::create_dir(dir.join("data")).unwrap();
        let script =
            format!("mount -t tmpfs -o size={mib}m none \"$TEST_FLEET_DIR/data\" && exec \"$0\" \"$@\"");
        Command::new("unshare")
            .args(["--map-root-user", "--mount", "--", "sh", "-c", &script])
            .arg(std::env::current_exe().unwrap())
            .args(ROLE_FLEET)
            .env("TEST_FLEET_DIR", dir)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap()
    }

    /// Starts the fleet's process again.
    pub(crate) async fn restart(&mut self) {
        self.child = Fleet::spawn(self.dir.path());
        self.wait_up().await;
    }

    /// Another fleet, on a copy of this one's folder.
    pub(crate) async fn copied(&self) -> Fleet {
        let dir = tempfile::tempdir().unwrap();
        // Sockets cannot be copied, and are not.
        let mut copying = Command::new("cp");
        copying.arg("-r").arg(self.dir.path().join(".")).arg(dir.path()).stderr(Stdio::null());
        copying.status().unwrap();
        let (child, data) = (Fleet::spawn(dir.path()), dir.path().join("data"));
        let client = FleetClient::new(FleetConfig::socket(&data));
        let fleet = Fleet { dir, data, client, package: self.package.clone(), child, generation: 0.into() };
        fleet.wait_up().await;
        fleet
    }

    async fn wait_up(&self) {
        eventually("the fleet answers", async || self.client.status().await.ok().map(|_| ())).await;
    }

    /// A signed package of one file.
    pub(crate) fn pack(&self, name: &str, text: &str) -> PackageDigest {
        pack_one(self.dir.path(), name, text)
    }

    /// A version of the program; `mode` as in the box server.
    pub(crate) fn run_spec(&self, version: &str, mode: &str) -> RunSpec {
        let exe = std::env::current_exe().unwrap().to_string_lossy().into_owned();
        let environment = [("TEST_EXE", exe.as_str()), ("TEST_MODE", mode), ("VERSION", version)];
        RunSpec {
            service: "shop".parse().unwrap(),
            package: self.package.clone(),
            environment: environment.into_iter().map(|(n, v)| (n.to_owned(), v.to_owned())).collect(),
            secrets: BTreeMap::new(),
            endpoints: BTreeMap::new(),
            workload: Workload::Process(ProcessSpec {
                command: vec!["run".into()],
                health: HealthCheck {
                    path: "/healthz".into(),
                    interval: Span(50),
                    timeout: Span::seconds(10),
                    healthy_after: 2,
                    unhealthy_after: 2,
                    start_timeout: Span::seconds(30),
                },
                limits: BoxLimits::default(),
                drain_timeout: Span::seconds(20),
                stop_timeout: Span::seconds(10),
            }),
        }
    }

    pub(crate) fn command_for(&self, slot: &SlotId, split: &[(&RunSpec, u32)]) -> SetSlot {
        self.generation.set(self.generation.get() + 1);
        SetSlot {
            slot: slot.clone(),
            fence: Fence { epoch: 1, generation: self.generation.get() },
            desired: Desired {
                split: split.iter().map(|(s, n)| Share { run_spec: s.digest(), boxes: *n }).collect(),
                condemned: Vec::new(),
                minimum_serving: 0,
                surge: false,
                rest: None,
            },
            run_specs: split.iter().map(|(s, _)| (*s).clone()).collect(),
            secrets: BTreeMap::new(),
            rollback: false,
            takes_up: None,
            acknowledges: None,
            glass: None,
        }
    }

    pub(crate) async fn set(&self, set: &SetSlot) -> Result<Accepted, ClientError> {
        self.client.set_slot(set).await
    }

    /// Sets a split and waits until exactly it is there, healthy.
    pub(crate) async fn bring(&self, slot: &SlotId, split: &[(&RunSpec, u32)]) {
        self.set(&self.command_for(slot, split)).await.unwrap();
        self.settled(slot, split).await;
    }

    /// Waits until exactly this split is there, healthy.
    pub(crate) async fn settled(&self, slot: &SlotId, split: &[(&RunSpec, u32)]) {
        let total: u32 = split.iter().map(|(_, n)| n).sum();
        self.until(slot, "the split is reached", |o| {
            let healthy = |spec: &RunSpec| {
                o.boxes.iter().filter(|b| b.run_spec == spec.digest() && b.health.is_healthy()).count() as u32
            };
            o.boxes.len() as u32 == total && split.iter().all(|(spec, n)| healthy(spec) == *n)
        })
        .await;
    }

    /// Waits, by watching, until the slot's observation is such.
    pub(crate) async fn until(
        &self,
        slot: &SlotId,
        what: &str,
        such: impl Fn(&Observation) -> bool,
    ) -> Observation {
        let (mut after, start, mut last) = (0, Instant::now(), None);
        loop {
            let rest = PATIENCE.saturating_sub(start.elapsed());
            match tokio::time::timeout(rest, self.client.watch(after)).await {
                Ok(Ok(seen)) => {
                    after = seen.version;
                    for observation in seen.observations {
                        if observation.slot == *slot {
                            if such(&observation) {
                                return observation;
                            }
                            last = Some(observation);
                        }
                    }
                }
                // A fleet that is being restarted.
                Ok(Err(_)) => tokio::time::sleep(Duration::from_millis(10)).await,
                Err(_) => panic!("it did not happen in time: {what}; last seen: {last:#?}"),
            }
        }
    }

    /// The present observation of a slot.
    pub(crate) async fn observe(&self, slot: &SlotId) -> Observation {
        let all = self.client.slots().await.unwrap().observations;
        all.into_iter().find(|o| o.slot == *slot).unwrap()
    }

    /// The port of the service's endpoint in the Region of this slot.
    pub(crate) async fn port(&self, slot: &SlotId) -> u16 {
        let key = EndpointKey::of(&slot.target);
        let all = self.client.endpoints().await.unwrap();
        all.into_iter().find(|e| e.endpoint == key).unwrap().port
    }

    /// The process of a box.
    pub(crate) fn pid(&self, slot: &SlotId, b: &BoxObservation) -> u32 {
        let record = std::fs::read(self.box_folder(&slot.target, &b.id).join("box.json")).unwrap();
        let record: serde_json::Value = serde_json::from_slice(&record).unwrap();
        u32::try_from(record["process"]["pid"].as_u64().unwrap()).unwrap()
    }

    pub(crate) fn box_folder(&self, target: &TargetId, id: &str) -> PathBuf {
        self.data.join("boxes").join(target.to_string().replace('/', ".")).join(id)
    }
}

fn pack_one(dir: &std::path::Path, name: &str, text: &str) -> PackageDigest {
    let key = SigningKey::load_or_create(&dir.join("private.pem"), &dir.join("trusted.pem")).unwrap();
    let file = dir.join(name);
    std::fs::write(&file, text).unwrap();
    std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let mut tar = Vec::new();
    pack(&[PackItem { from: file, to: name.into() }], &mut tar).unwrap();
    let (begun, ended) = (Timestamp(0), Timestamp(1));
    let provenance = Provenance::new(ExternalParameters::default(), Vec::new(), key.key_id(), begun, ended);
    let store = PackageStore::open(&dir.join("packages")).unwrap();
    store.put(&tar[..], name, provenance, &key).unwrap()
}

pub(crate) fn slot(target: &str) -> SlotId {
    SlotId { target: target.parse().unwrap(), pipeline: "app".parse().unwrap() }
}

pub(crate) fn main_slot() -> SlotId {
    slot("shop/production/eu-1/a/main")
}

pub(crate) fn reason(b: &BoxObservation) -> &str {
    match &b.health {
        BoxHealth::Unhealthy { reason } => reason,
        _ => "",
    }
}

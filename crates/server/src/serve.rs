//! Puts the server together: data directory, store, runtime, engines, hands, HTTP. Reads top-down as it starts.

use crate::apply::Applier;
use crate::auth::Tokens;
use crate::backup::{Backups, UNFINISHED};
use crate::collaborators::HandsForApi;
use crate::fleet::{self, FleetError};
use crate::format::{self, Unusable};
use crate::hands::{
    BUILDS_AT_ONCE, Engines, Forges, Hands, Keeping, Overview, Poller, Signals, TESTS_AT_ONCE, Troubles,
    Turns,
};
use crate::home;
use crate::http::Api;
use crate::owner::{self, AnotherUser};
use crate::self_update::SelfUpdate;
use crate::standby::{self, Holder, Place, Turn};
use crate::telemetry::Telemetry;
use serde::{Deserialize, Serialize};
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};
use tidegate_api::ErrorBody;
use tidegate_core::causes;
use tidegate_core::pipeline::Switches;
use tidegate_core::units::Timestamp;
use tidegate_fleet::package::{PackageStore, SigningKey};
use tidegate_runtime::{Options, Runtime, Start, SystemClock};
use tidegate_store::{OpenError, SqliteOptions, SqliteStore, StoreLock};
use tidegate_synth::Synth;
use tidegate_workers::canary::Canaries;
use tidegate_workers::command_engine::CommandEngine;
use tidegate_workers::notify::{Limits, Notifier};
use tidegate_workers::prometheus::Prometheus;
use tidegate_workers::secrets::SecretStore;
use tidegate_workers::served::Served;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// How long tasks may take to end when the server stops; what they had not finished is repeated at the next start.
const STOP_MAX: Duration = Duration::from_secs(5);

/// How long a Prometheus may take for an answer, the wait for its turn included; an alarm waits a little longer.
const ANSWER_MAX: Duration = Duration::from_secs(8);

/// How a server is started.
#[derive(Debug, Clone)]
pub struct ServeOptions {
    /// Everything that the server keeps.
    pub data: PathBuf,
    /// Where it listens; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Take an epoch above the engines' highest one although this store never had it: for a store that was restored.
    pub new_epoch: bool,
    /// Wait while another server has the data directory, and take over when it ends.
    pub standby: bool,
    /// How large the data directory may become, in bytes.
    pub disk_budget: Option<u64>,
    /// Evaluates folders of pipelines as code that are deployed to this server.
    pub synth: Synth,
    /// Breaks of the rules, for tests; only in builds for development.
    pub switches: Switches,
}

/// Why a server does not start, or has stopped.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say what the fields are")]
pub enum ServeError {
    #[error("failed to make {path}", path = path.display())]
    Dir { path: PathBuf, source: std::io::Error },
    #[error(transparent)]
    AnotherUser(#[from] AnotherUser),
    #[error("failed to open the store")]
    Store(#[from] OpenError),
    #[error(transparent)]
    Unusable(#[from] Unusable),
    #[error("failed to start the runtime")]
    Runtime(#[from] tidegate_runtime::RuntimeError),
    #[error("failed to prepare packages")]
    Packages(#[from] tidegate_fleet::package::PackageError),
    #[error("failed to open the secrets")]
    Secrets(#[from] tidegate_workers::secrets::SecretError),
    #[error("failed to open the command engine")]
    Commands(#[from] tidegate_workers::command_engine::OpenError),
    #[error("failed to prepare pages")]
    Notifier(#[from] tidegate_workers::notify::NotifierError),
    #[error("failed to prepare questions to Prometheus")]
    Prometheus(#[from] tidegate_workers::prometheus::PrometheusError),
    #[error("failed to prepare questions to forges")]
    Forges(#[from] tidegate_workers::forge::ClientError),
    #[error("failed to tell the teams their definitions")]
    Teams(#[from] tidegate_runtime::SubmitError),
    #[error("failed to prepare access tokens: {0}")]
    Tokens(String),
    #[error(transparent)]
    Fleet(#[from] FleetError),
    #[error("failed to look where the store belongs")]
    Home { source: tidegate_store::StoreError },
    #[error("failed to keep where the store belongs")]
    KeepHome(#[source] tidegate_store::CommitError),
    #[error(
        "this data directory was restored from a backup, and engines may have seen a newer server: if this one is to \
         take over, start it with --new-epoch"
    )]
    Restored,
    #[error(
        "this data directory is a copy of another one, whose server may be at work: if this one is to take over, start \
         it with --new-epoch"
    )]
    Copied,
    #[error(
        "a restore into {path} was interrupted, and what is there is not whole: restore it again",
        path = path.display()
    )]
    Unfinished { path: PathBuf },
    #[error(
        "the engines have seen a server with epoch {seen}, and this store only knows {own}: it is an old copy, or another \
         server works here; if this one is to take over, start it with --new-epoch"
    )]
    OldEpoch { seen: u64, own: u64 },
    #[error("failed to listen on {address}")]
    Listen { address: SocketAddr, source: std::io::Error },
    #[error("failed to serve")]
    Serve(#[source] std::io::Error),
}

impl ServeError {
    /// What is told of it, where a code and a hint go with it.
    #[must_use]
    pub fn told(&self) -> Option<ErrorBody> {
        match self {
            ServeError::Store(error) => format::of_store(error),
            ServeError::Unusable(error) => error.told(),
            _ => None,
        }
    }
}

/// The folders of a data directory.
#[derive(Debug, Clone)]
pub struct Dirs {
    /// All of it.
    pub data: PathBuf,
    /// The store.
    pub store: PathBuf,
    /// The fleet's own.
    pub fleet: PathBuf,
    /// The command engine's own.
    pub commands: PathBuf,
    /// Packages, by digest.
    pub packages: PathBuf,
    /// The signing key, and the keys that are trusted.
    pub keys: PathBuf,
    /// Mirrors of sources.
    pub mirrors: PathBuf,
    /// Scratch of builds.
    pub builds: PathBuf,
    /// Scratch of tests, apart from that of builds: each build begins with an empty one.
    pub tests: PathBuf,
    /// Fetched dependencies.
    pub cache: PathBuf,
    /// Logs of builds and tests.
    pub logs: PathBuf,
    /// Secrets by name.
    pub secrets: PathBuf,
}

/// Makes a folder that only its owner may enter, if it is not there.
fn make(path: &Path) -> Result<(), ServeError> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|source| ServeError::Dir { path: path.to_owned(), source })
}

fn data_directory(data: &Path) -> Result<PathBuf, ServeError> {
    make(data)?;
    data.canonicalize().map_err(|source| ServeError::Dir { path: data.to_owned(), source })
}

/// Where the server's address stands while it runs.
pub(crate) fn server_file(data: &Path) -> PathBuf {
    data.join("server.json")
}

/// The server that works on a data directory, as it says itself in [`server_file`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Server {
    /// Where it serves.
    pub url: String,
    /// Its process.
    pub pid: u32,
    /// Since when it works.
    pub since: Timestamp,
}

impl Dirs {
    /// Makes what is missing, for the owner alone.
    ///
    /// # Errors
    /// A folder cannot be made.
    pub fn open(data: &Path) -> Result<Dirs, ServeError> {
        let data = data_directory(data)?;
        let folder = |name: &str| -> Result<PathBuf, ServeError> {
            let path = data.join(name);
            make(&path)?;
            Ok(path)
        };
        Ok(Dirs {
            store: folder("store")?,
            fleet: folder("fleet")?,
            commands: folder("commands")?,
            packages: folder("packages")?,
            keys: folder("keys")?,
            mirrors: folder("mirrors")?,
            builds: folder("builds")?,
            tests: folder("tests")?,
            cache: folder("cache")?,
            logs: folder("logs")?,
            secrets: folder("secrets")?,
            data,
        })
    }

    /// The keys whose signatures count.
    #[must_use]
    pub fn trusted_keys(&self) -> PathBuf {
        self.keys.join("trusted.pub")
    }
}

/// How far a server is that was started.
#[derive(Debug)]
pub enum Stage<'a> {
    /// It waits: this one works.
    Standby(&'a Holder),
    /// It serves.
    Serving(SocketAddr),
}

/// Runs a server until `stop` is cancelled; `told` hears how far it is.
///
/// # Errors
/// It cannot start, or cannot serve any more.
pub async fn serve(
    options: ServeOptions,
    stop: CancellationToken,
    mut told: impl FnMut(Stage<'_>) + Send,
) -> Result<(), ServeError> {
    owner::may_write(&options.data)?;
    let data = data_directory(&options.data)?;
    // The store's lock comes first: a second server on one data directory touches nothing.
    let turn = match options.standby {
        true => standby::wait(&options, &data, &stop, &mut |holder| told(Stage::Standby(holder))).await?,
        false => Some(Turn { lock: StoreLock::take(&data.join("store"))?, listener: None, waited: false }),
    };
    match turn {
        Some(turn) => work(options, &data, turn, stop, |address| told(Stage::Serving(address))).await,
        None => Ok(()),
    }
}

/// Works, as the only one on this data directory.
async fn work(
    options: ServeOptions,
    data: &Path,
    turn: Turn,
    stop: CancellationToken,
    listening: impl FnOnce(SocketAddr),
) -> Result<(), ServeError> {
    if data.join(UNFINISHED).exists() {
        return Err(ServeError::Unfinished { path: data.to_owned() });
    }
    // Before anything is changed: what a newer version has written is left as it is.
    format::check(data, &turn.lock).await?;
    // What a server that was killed has left there says where nobody is.
    let _ = fs::remove_file(server_file(data));
    let store = Arc::new(SqliteStore::open_locked(turn.lock, &SqliteOptions::default())?);
    let dirs = Dirs::open(data)?;
    // And before anything is asked of an engine, or started that could take another one's boxes for its own.
    let home = home::check(&store, options.new_epoch)?;
    empty(&dirs.tests);
    // Before anything is started that would outlive a server that cannot listen.
    let place = match turn.listener {
        Some(listener) => Place::Listening(listener),
        None => Place::take(options.listen, turn.waited).await?,
    };
    let signing_key =
        Arc::new(SigningKey::load_or_create(&dirs.keys.join("signing.key"), &dirs.trusted_keys())?);
    let (fleet, found) = fleet::ensure(&dirs).await?;
    let packages = PackageStore::open(&dirs.packages)?;
    let trusted_keys = tidegate_fleet::package::TrustedKeys::load(&dirs.trusted_keys())?;
    let self_update = Arc::new(SelfUpdate::new(options.synth));
    let commands = CommandEngine::open(
        &dirs.commands,
        packages.clone(),
        trusted_keys.clone(),
        Arc::clone(&self_update) as _,
    )?;
    let seen = found.highest_epoch.max(commands.highest_epoch());

    let signals = Arc::new(Signals::default());
    let runtime_options = Options {
        switches: options.switches,
        listener: Some(Arc::clone(&signals) as _),
        ..Options::default()
    };
    let own = store.last_epoch().map_err(|source| ServeError::Home { source })?;
    // Before an epoch is taken: a server that is started again and again must not come above the engines' by itself.
    if own < seen && !options.new_epoch {
        return Err(ServeError::OldEpoch { seen, own });
    }
    // Before its first fact.
    format::keep(&store, &dirs.store)?;
    let clock = Arc::new(SystemClock::default());
    let runtime = Arc::new(Runtime::open(Arc::clone(&store) as _, clock, runtime_options, seen)?);
    home::keep(&store, home)?;
    // Before anything is told that would find out what is overdue.
    runtime.at_work()?;

    let poller = Arc::new(Poller::new(dirs.mirrors.clone()));
    let backups = Arc::new(Backups::new(store, dirs.clone()));
    let newest = runtime.log(None, Start::Before(u64::MAX), 1)?;
    let hands = Arc::new(Hands {
        runtime: Arc::clone(&runtime),
        signals: Arc::clone(&signals),
        overview: Overview::default(),
        engines: Arc::new(Engines { fleet, commands }),
        packages,
        signing_key,
        trusted_keys,
        secrets: SecretStore::open(&dirs.secrets)?,
        // Each failure is told and kept; the effect is what repeats.
        notifier: Notifier::new(Limits { attempts_max: 1, ..Limits::default() })?,
        paged: Mutex::default(),
        page_texts: Mutex::default(),
        served: Served::default(),
        troubles: Arc::new(Troubles::default()),
        telemetry: Telemetry::default(),
        started: SystemTime::now(),
        began_at: newest.first().map_or(0, |entry| entry.position),
        backups: Arc::clone(&backups),
        canaries: Canaries::new(),
        prometheus: Prometheus::new(ANSWER_MAX)?,
        poller: Arc::clone(&poller),
        forges: Forges::new(tidegate_workers::forge::Client::new()?),
        tool_paths: tool_paths(),
        turns: Turns::default(),
        build_places: Arc::new(Semaphore::new(BUILDS_AT_ONCE)),
        test_places: Semaphore::new(TESTS_AT_ONCE),
        dirs,
        keeping: Keeping::new(options.disk_budget),
    });

    let tokens = Tokens::open(&hands.dirs.data, runtime.now()).map_err(|e| ServeError::Tokens(causes(&e)))?;
    let applier = Applier::new(Arc::clone(&runtime));
    let collaborators = Arc::new(HandsForApi { hands: Arc::clone(&hands), poller, backups });
    let api = Api::new(
        Arc::clone(&runtime),
        applier.clone(),
        Arc::new(tokens),
        collaborators,
        signals.any(),
        stop.clone(),
    );
    crate::apply::complete(&runtime)?;
    self_update.begin(Arc::clone(&runtime), applier);
    let router = crate::http::router(api);
    let mut tasks = JoinSet::new();
    let listen_failed = |source| ServeError::Listen { address: options.listen, source };
    let address = place.address().map_err(listen_failed)?;
    let listener = place.listen().map_err(listen_failed)?;
    hands.start(&mut tasks, &stop);
    announce(&hands.dirs, address)?;
    listening(address);
    let stopped = stop.clone();
    let served =
        axum::serve(listener, router).with_graceful_shutdown(async move { stopped.cancelled().await });
    let served = tokio::select! {
        served = served => served.map_err(ServeError::Serve),
        // Connections that follow events stay open for ever: they do not hold up the end.
        () = async { stop.cancelled().await; tokio::time::sleep(Duration::from_millis(500)).await } => Ok(()),
    };
    stop.cancel();
    let _ = fs::remove_file(server_file(&hands.dirs.data));
    let ended = async { while tasks.join_next().await.is_some() {} };
    if tokio::time::timeout(STOP_MAX, ended).await.is_err() {
        tracing::info!("what is still in work is repeated at the next start");
    }
    served
}

/// Removes what a server that was killed has left in a folder of scratch.
fn empty(path: &Path) {
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if let Err(error) = fs::remove_dir_all(entry.path()) {
            tracing::warn!(path = %entry.path().display(), "cannot remove what an earlier test has left: {error}");
        }
    }
}

/// Writes the address where the CLI on this machine finds it; the file is there only while the server serves.
fn announce(dirs: &Dirs, address: SocketAddr) -> Result<(), ServeError> {
    let path = server_file(&dirs.data);
    // It is plain text and numbers.
    let text = serde_json::to_string(&Server::here(address)).unwrap_or_default() + "\n";
    let fresh = path.with_extension("json.new");
    fs::write(&fresh, text)
        .and_then(|()| fs::rename(&fresh, &path))
        .map_err(|source| ServeError::Dir { path, source })
}

/// Tools outside `/usr` that builds may use: a Rust toolchain in somebody's home, if there is one.
fn tool_paths() -> Vec<PathBuf> {
    let sysroot = Command::new("rustc").args(["--print", "sysroot"]).stderr(Stdio::null()).output();
    let found = sysroot.ok().filter(|o| o.status.success()).and_then(|o| String::from_utf8(o.stdout).ok());
    found
        .map(|text| PathBuf::from(text.trim()))
        .filter(|path| path.is_absolute() && !path.starts_with("/usr") && path.is_dir())
        .into_iter()
        .collect()
}

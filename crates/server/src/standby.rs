//! Two servers on one data directory: one works, and the others wait until its store is free. Who may work is the store's lock
//! alone: the kernel frees it when the process that has it ends, however it ends, and gives it to one of those that wait. So there
//! are never two, also when the one that works hangs or is stopped: then those that wait go on waiting, and say so.
//!
//! What must hold: a server that waits reads and writes nothing of the store, so a newer one migrates it only when it has taken
//! over. All that it leaves in the data directory is a file of its own in `standbys/`, which is locked as long as it waits: by that
//! the server that works knows of it.

use crate::http;
use crate::serve::{ServeError, ServeOptions, Server, server_file};
use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Write};
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tidegate_api::StandbyStatus;
use tidegate_core::causes;
use tidegate_core::units::Timestamp;
use tidegate_store::{OpenError, StoreLock};
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Between two looks whether the store is free: what a take-over waits at most.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Between two questions to the server that works.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// How long it may take for an answer.
const ANSWER_MAX: Duration = Duration::from_secs(2);
/// So many questions in a row without an answer, and it is told that it does not answer.
const SILENT_AFTER: u32 = 3;
/// How long after a take-over the address may still belong to the server that was there before.
const BIND_MAX: Duration = Duration::from_secs(10);
/// The same where no other server was there: one that has just ended may have it for another moment.
const BIND_MIN: Duration = Duration::from_secs(1);
/// How many calls may wait to be heard.
const BACKLOG: u32 = 1_024;
/// The folder in which each server that waits has a file.
const FOLDER: &str = "standbys";

/// The server that has the store, as far as it is known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Holder {
    /// Its process.
    pub pid: Option<u32>,
    /// Where it serves, and since when it works; none as long as it only starts.
    pub server: Option<Server>,
    /// Whether it has not answered for some seconds.
    pub is_silent: bool,
}

impl Holder {
    /// Whoever has signed the store's lock, with what it says of itself in the data directory.
    fn find(data: &Path, pid: Option<u32>) -> Holder {
        let said = Server::read(data).filter(|server| Some(server.pid) == pid);
        Holder { pid, server: said, is_silent: false }
    }

    /// Where it serves.
    #[must_use]
    pub fn url(&self) -> Option<&str> {
        self.server.as_ref().map(|server| server.url.as_str())
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.pid {
            Some(pid) => write!(f, "process {pid}")?,
            None => write!(f, "another process")?,
        }
        match &self.server {
            Some(server) => write!(f, " works at {}, since {}", server.url, server.since)?,
            // It starts, or ends.
            None => write!(f, " has the store, and says nowhere that it serves")?,
        }
        match (self.is_silent, self.pid) {
            (true, Some(pid)) => {
                write!(
                    f,
                    "; IT DOES NOT ANSWER: as long as it has the store, nobody works; 'kill -9 {pid}' ends it"
                )
            }
            (true, None) | (false, _) => Ok(()),
        }
    }
}

/// Whether there is such a process: the lock is signed only when the store is opened, and says until then who had it before. Nobody
/// is to be told to end a process that has ended.
fn is_there(pid: &u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

/// The right to work, after a wait or without one.
pub(crate) struct Turn {
    pub(crate) lock: StoreLock,
    /// Where this server has listened while it waited, and goes on listening.
    pub(crate) listener: Option<TcpListener>,
    /// Whether another server worked before.
    pub(crate) waited: bool,
}

/// Takes the store's lock; while another server has it, waits, answers on its own address if that is free, and tells who works:
/// when the wait begins, and whenever that changes. None when `stop` came first.
pub(crate) async fn wait(
    options: &ServeOptions,
    data: &Path,
    stop: &CancellationToken,
    told: &mut (impl FnMut(&Holder) + Send),
) -> Result<Option<Turn>, ServeError> {
    let store = data.join("store");
    let pid = match StoreLock::try_take(&store) {
        Ok(lock) => return Ok(Some(Turn { lock, listener: None, waited: false })),
        Err(OpenError::InUse { pid, .. }) => pid,
        Err(error) => return Err(error.into()),
    };
    let (known, holder) = watch::channel(Holder::find(data, pid.filter(is_there)));
    let over = CancellationToken::new();
    // Whatever ends the wait ends these.
    let _ends = over.clone().drop_guard();
    tokio::spawn(ask(known.clone(), over.clone()));
    let mut waiting = Waiting {
        options,
        data,
        known,
        holder,
        over,
        listening: None,
        presence: Presence::enter(data, None),
    };
    let Some(lock) = waiting.wait_for_lock(&store, stop, told).await? else { return Ok(None) };
    drop(waiting.presence);
    let listener = waiting.listening.map(|listening| listening.socket);
    let listener = listener.map(TcpListener::from_std).transpose().map_err(ServeError::Serve)?;
    Ok(Some(Turn { lock, listener, waited: true }))
}

/// A server that waits.
struct Waiting<'a> {
    options: &'a ServeOptions,
    data: &'a Path,
    known: watch::Sender<Holder>,
    holder: watch::Receiver<Holder>,
    over: CancellationToken,
    listening: Option<Listening>,
    presence: Option<Presence>,
}

/// A server that waits on an address of its own, while this process works elsewhere.
struct Listening {
    socket: std::net::TcpListener,
    beside: Option<u32>,
    over: CancellationToken,
}

impl Waiting<'_> {
    /// Answers on its own address, if that is another one than that of the server that works. As long as nobody knows where that
    /// one serves, this one listens nowhere: a server that has just taken over needs its address, and that may be this one's.
    async fn answer(&mut self) -> Result<(), ServeError> {
        let (pid, elsewhere) = {
            let holder = self.holder.borrow();
            let own = format!("http://{}", self.options.listen);
            (holder.pid, holder.server.as_ref().map(|server| server.url != own))
        };
        match &self.listening {
            None if elsewhere == Some(true) => self.listen(pid).await?,
            // A port that the system has chosen is nobody else's.
            Some(_) if self.options.listen.port() == 0 => {}
            Some(own) if elsewhere == Some(false) || elsewhere.is_none() && own.beside != pid => {
                self.listen_no_more();
            }
            Some(_) | None => {}
        }
        Ok(())
    }

    fn listen_no_more(&mut self) {
        let Some(listening) = self.listening.take() else { return };
        listening.over.cancel();
        self.presence = None;
        self.presence = Presence::enter(self.data, None);
    }

    async fn listen(&mut self, beside: Option<u32>) -> Result<(), ServeError> {
        let address = self.options.listen;
        let socket = match TcpListener::bind(address).await {
            Ok(listener) => listener.into_std().map_err(ServeError::Serve)?,
            Err(error) if error.kind() == ErrorKind::AddrInUse => return Ok(()),
            Err(source) => return Err(ServeError::Listen { address, source }),
        };
        let shared = socket.try_clone().and_then(TcpListener::from_std).map_err(ServeError::Serve)?;
        let over = self.over.child_token();
        tokio::spawn(http::standby::serve(shared, self.holder.clone(), over.clone()));
        let own = socket.local_addr().map_err(ServeError::Serve)?;
        self.presence = None;
        self.presence = Presence::enter(self.data, Some(own));
        self.listening = Some(Listening { socket, beside, over });
        Ok(())
    }

    async fn wait_for_lock(
        &mut self,
        store: &Path,
        stop: &CancellationToken,
        told: &mut (impl FnMut(&Holder) + Send),
    ) -> Result<Option<StoreLock>, ServeError> {
        let mut said = None;
        loop {
            match StoreLock::try_take_existing(store) {
                Ok(lock) => return Ok(Some(lock)),
                Err(OpenError::InUse { pid, .. }) => {
                    let found = Holder::find(self.data, pid.filter(is_there));
                    self.known.send_if_modified(|holder| {
                        let same = holder.pid == found.pid;
                        let found = Holder { is_silent: holder.is_silent && same, ..found };
                        let changed = *holder != found;
                        *holder = found;
                        changed
                    });
                }
                Err(error) => return Err(error.into()),
            }
            self.answer().await?;
            let holder = self.known.borrow().clone();
            if said.as_ref() != Some(&holder) {
                told(&holder);
                said = Some(holder);
            }
            tokio::select! {
                () = stop.cancelled() => return Ok(None),
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
    }
}

/// Asks the server that works whether it does, and keeps whether it has answered: a server that hangs has the lock all the same.
async fn ask(known: watch::Sender<Holder>, over: CancellationToken) {
    let Ok(http) = tidegate_workers::https::client().timeout(ANSWER_MAX).build() else { return };
    let (mut unanswered, mut asked) = (0, None);
    loop {
        tokio::select! {
            () = over.cancelled() => return,
            () = tokio::time::sleep(ASK_EVERY) => {}
        }
        let (pid, url) = {
            let holder = known.borrow();
            (holder.pid, holder.url().map(|url| format!("{url}/v1/health")))
        };
        if asked != pid {
            (unanswered, asked) = (0, pid);
        }
        // One that starts has no address yet.
        let answers = match url {
            Some(url) => http.get(url).send().await.is_ok(),
            None => true,
        };
        unanswered = if answers { 0 } else { unanswered + 1 };
        known.send_if_modified(|holder| {
            let is_silent = unanswered >= SILENT_AFTER && holder.pid == pid;
            let was = std::mem::replace(&mut holder.is_silent, is_silent);
            was != holder.is_silent
        });
    }
}

/// Where this server will listen: nobody listened there when it took the address, and whoever calls is refused until it serves.
pub(crate) enum Place {
    /// It has listened there while it waited.
    Listening(TcpListener),
    /// It has the address.
    Bound(TcpSocket),
}

impl Place {
    /// Takes an address that the server before this one may be about to give up.
    pub(crate) async fn take(address: SocketAddr, waited: bool) -> Result<Place, ServeError> {
        let end = tokio::time::Instant::now() + if waited { BIND_MAX } else { BIND_MIN };
        let bind = || -> io::Result<TcpSocket> {
            let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
            socket.set_reuseaddr(true)?;
            socket.bind(address)?;
            Ok(socket)
        };
        loop {
            match bind() {
                Err(error) if error.kind() == ErrorKind::AddrInUse && tokio::time::Instant::now() < end => {
                    tokio::time::sleep(LOOK_EVERY).await;
                }
                bound => {
                    return bound.map(Place::Bound).map_err(|source| ServeError::Listen { address, source });
                }
            }
        }
    }

    pub(crate) fn address(&self) -> io::Result<SocketAddr> {
        match self {
            Place::Listening(listener) => listener.local_addr(),
            Place::Bound(socket) => socket.local_addr(),
        }
    }

    /// From now on whoever calls is heard.
    pub(crate) fn listen(self) -> io::Result<TcpListener> {
        match self {
            Place::Listening(listener) => Ok(listener),
            Place::Bound(socket) => socket.listen(BACKLOG),
        }
    }
}

/// Shows that a server waits, as long as it is there: a file that it has locked.
struct Presence {
    path: PathBuf,
    _file: File,
}

impl Presence {
    /// Without it the server waits all the same, and nobody sees it.
    fn enter(data: &Path, address: Option<SocketAddr>) -> Option<Presence> {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let status = StandbyStatus {
            pid: std::process::id(),
            tidegate: crate::format::OWN.to_owned(),
            url: address.map(|address| format!("http://{address}")),
            since: Timestamp(i64::try_from(since.as_millis()).unwrap_or(i64::MAX)),
        };
        let folder = data.join(FOLDER);
        let name = format!("{}-{}.json", status.pid, since.as_nanos());
        let enter = || -> io::Result<Presence> {
            DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
            remove_dead(&folder);
            // It is locked before it can be seen.
            let hidden = folder.join(format!(".{name}"));
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&hidden)?;
            file.lock()?;
            file.write_all(&serde_json::to_vec(&status)?)?;
            let path = folder.join(&name);
            fs::rename(&hidden, &path)?;
            Ok(Presence { path, _file: file })
        };
        enter()
            .inspect_err(|error| tracing::warn!("nobody will see that this server waits: {}", causes(error)))
            .ok()
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        // What stays is free, and counts for nothing.
        let _ = fs::remove_file(&self.path);
    }
}

/// The servers that wait on a data directory, in the order in which they came.
#[must_use]
pub fn waiting(data: &Path) -> Vec<StandbyStatus> {
    let mut found: Vec<StandbyStatus> = files(&data.join(FOLDER))
        .filter(|path| is_locked(path))
        .filter_map(|path| serde_json::from_slice(&fs::read(path).ok()?).ok())
        .collect();
    found.sort_by_key(|standby| (standby.since, standby.pid));
    found
}

fn files(folder: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let hidden = |path: &Path| path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
    entries.map(|entry| entry.path()).filter(move |path| !hidden(path))
}

fn is_locked(path: &Path) -> bool {
    File::open(path).is_ok_and(|file| matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)))
}

/// Removes what servers have left that were killed while they waited.
fn remove_dead(folder: &Path) {
    for path in files(folder).filter(|path| !is_locked(path)) {
        let _ = fs::remove_file(path);
    }
}

/// What a server leaves where the CLI on this machine finds it, as long as it serves.
impl Server {
    /// Of this process, from now on.
    pub(crate) fn here(address: SocketAddr) -> Server {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Server {
            url: format!("http://{address}"),
            pid: std::process::id(),
            since: Timestamp(i64::try_from(since.as_millis()).unwrap_or(i64::MAX)),
        }
    }

    fn read(data: &Path) -> Option<Server> {
        serde_json::from_slice(&fs::read(server_file(data)).ok()?).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_is_seen_as_long_as_it_does_and_who_was_killed_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let address = "127.0.0.1:7421".parse().unwrap();
        let presence = Presence::enter(dir.path(), Some(address)).unwrap();
        let seen = waiting(dir.path());
        let urls: Vec<_> = seen.iter().map(|standby| standby.url.as_deref()).collect();
        assert_eq!(urls, [Some("http://127.0.0.1:7421")]);
        assert_eq!(seen[0].pid, std::process::id());
        let second = Presence::enter(dir.path(), None).unwrap();
        assert_eq!(waiting(dir.path()).len(), 2);
        drop(presence);
        assert_eq!(waiting(dir.path()).len(), 1);
        // What one leaves that is killed is there, and locked by nobody.
        fs::copy(&second.path, dir.path().join(FOLDER).join("1-1.json")).unwrap();
        assert_eq!(waiting(dir.path()).len(), 1);
        let third = Presence::enter(dir.path(), None).unwrap();
        assert_eq!(fs::read_dir(dir.path().join(FOLDER)).unwrap().count(), 2);
        drop((second, third));
        assert_eq!(waiting(dir.path()), []);
    }

    /// A server that has just taken over, and one that is started again at that moment, have the same address.
    #[tokio::test]
    async fn nothing_is_listened_on_before_it_is_known_where_the_other_one_serves() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().to_owned();
        let lock = StoreLock::try_take(&data.join("store")).unwrap();
        fs::write(data.join("store/lock"), std::process::id().to_string()).unwrap();
        let free = || {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            listener.local_addr().unwrap()
        };
        let options = ServeOptions {
            switches: tidegate_core::pipeline::Switches::default(),
            data: data.clone(),
            listen: free(),
            new_epoch: false,
            standby: true,
            disk_budget: None,
            synth: tidegate_synth::Synth::new("/nowhere", &[]),
        };
        let (listen, stop) = (options.listen, CancellationToken::new());
        let (told, mut heard) = tokio::sync::mpsc::unbounded_channel();
        let own = data.clone();
        let waits = tokio::spawn(async move {
            let mut tell = |holder: &Holder| told.send(holder.clone()).unwrap();
            wait(&options, &own, &stop, &mut tell).await.map(|turn| turn.unwrap().listener.is_some())
        });
        // It may be told more than once, for other reasons.
        let mut until = async |is: &dyn Fn(&Holder) -> bool| while !is(&heard.recv().await.unwrap()) {};
        until(&|holder| holder.server.is_none()).await;
        assert_eq!(waiting(&data)[0].url, None);
        let takes_over = std::net::TcpListener::bind(listen).unwrap();
        drop(takes_over);
        let said = |address: SocketAddr| {
            let server =
                Server { url: format!("http://{address}"), pid: std::process::id(), since: Timestamp(0) };
            fs::write(server_file(&data), serde_json::to_vec(&server).unwrap()).unwrap();
        };
        said(listen);
        until(&|holder| holder.server.is_some()).await;
        drop(std::net::TcpListener::bind(listen).unwrap());
        let elsewhere = free();
        said(elsewhere);
        until(&|holder| holder.url() == Some(&format!("http://{elsewhere}"))).await;
        assert_eq!(waiting(&data)[0].url, Some(format!("http://{listen}")));
        // Another one has taken over, and may be about to listen there.
        let mut process = std::process::Command::new("sleep").arg("600").spawn().unwrap();
        let another = process.id();
        fs::write(data.join("store/lock"), another.to_string()).unwrap();
        until(&|holder| holder.server.is_none()).await;
        assert_eq!(waiting(&data)[0].url, None);
        let bound = async || loop {
            match TcpListener::bind(listen).await {
                Ok(bound) => return bound,
                Err(_) => tokio::task::yield_now().await,
            }
        };
        drop(bound().await);
        let server = Server { url: "http://127.0.0.1:1".to_owned(), pid: another, since: Timestamp(0) };
        fs::write(server_file(&data), serde_json::to_vec(&server).unwrap()).unwrap();
        until(&|holder| holder.url() == Some("http://127.0.0.1:1")).await;
        process.kill().unwrap();
        process.wait().unwrap();
        assert_eq!(waiting(&data)[0].url, Some(format!("http://{listen}")));
        drop(lock);
        assert!(waits.await.unwrap().unwrap(), "it goes on listening there");
    }

    #[test]
    fn an_address_belongs_to_who_has_signed_the_lock() {
        let dir = tempfile::tempdir().unwrap();
        let said = Server { url: "http://127.0.0.1:1".to_owned(), pid: 17, since: Timestamp(0) };
        fs::write(server_file(dir.path()), serde_json::to_vec(&said).unwrap()).unwrap();
        let holder = Holder::find(dir.path(), Some(17));
        assert_eq!(
            holder.to_string(),
            "process 17 works at http://127.0.0.1:1, since 1970-01-01T00:00:00.000Z"
        );
        // What a server that was killed has left says nothing of the next.
        let holder = Holder::find(dir.path(), Some(18));
        assert_eq!(holder.to_string(), "process 18 has the store, and says nowhere that it serves");
    }
}

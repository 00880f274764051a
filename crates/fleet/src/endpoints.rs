//! One stable address per (service, environment, Region): the port is chosen on first use, kept on disk and used again
//! after every restart, so that whoever was told of it once finds the service there for ever.

use crate::collect::Metrics;
use crate::disk::{self, DataDir};
use crate::error::FleetError;
use crate::listen::{self, Clients};
use crate::metrics::lock;
use crate::process::Ports;
use crate::protocol::{Code, Endpoint, EndpointKey, Refusal};
use crate::route::Route;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;

/// The most endpoints of one fleet.
pub(crate) const ENDPOINTS_MAX: usize = 10_000;
/// The pause between two attempts to listen on a port that another process has, in milliseconds.
const LISTEN_RETRY_DELAY_MS: u64 = 1_000;

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    endpoint: EndpointKey,
    port: u16,
}

#[derive(Debug)]
struct Entry {
    port: u16,
    route: Arc<Route>,
    listener: Option<TcpListener>,
    trouble: Option<String>,
}

/// All endpoints of the fleet.
#[derive(Debug, Default)]
pub(crate) struct EndpointTable {
    entries: Mutex<BTreeMap<EndpointKey, Entry>>,
    /// True while clients are accepted.
    accepting: watch::Sender<bool>,
}

const FILE: &str = "endpoints.json";

impl EndpointTable {
    /// Reads the endpoints that there were, and takes the listening sockets that were handed over; nothing is accepted
    /// before [`EndpointTable::accept`].
    pub(crate) fn load(
        data: &DataDir,
        ports: &Ports,
        metrics: &Metrics,
        mut handed: BTreeMap<u16, TcpListener>,
    ) -> Result<EndpointTable, FleetError> {
        let records: Vec<Record> = disk::read_json(&data.path(FILE))?.unwrap_or_default();
        let mut entries = BTreeMap::new();
        for Record { endpoint, port } in records {
            ports.note(port);
            let route = Arc::new(Route::new(endpoint.clone()));
            metrics.add_route(Arc::clone(&route));
            entries.insert(endpoint, Entry { port, route, listener: handed.remove(&port), trouble: None });
        }
        Ok(EndpointTable { entries: Mutex::new(entries), accepting: watch::Sender::new(false) })
    }

    /// Makes the endpoint unless it is there. On disk before it is used.
    pub(crate) fn ensure(
        self: &Arc<Self>,
        key: &EndpointKey,
        listen: Option<u16>,
        rollback: bool,
        place: &Place<'_>,
    ) -> Result<Arc<Route>, Refusal> {
        let mut entries = lock(&self.entries);
        if let Some(entry) = entries.get(key) {
            return match listen {
                Some(port) if port != entry.port => Err(Refusal::new(
                    Code::BadCommand,
                    format!("{key} already listens on port {}; an endpoint never moves", entry.port),
                )),
                _ => Ok(Arc::clone(&entry.route)),
            };
        }
        if entries.len() >= ENDPOINTS_MAX {
            return Err(Refusal::new(
                Code::BadCommand,
                format!("there are {ENDPOINTS_MAX} endpoints already"),
            ));
        }
        let internal = |e: std::io::Error| Refusal::new(Code::Internal, format!("failed to open {key}: {e}"));
        let port = match listen {
            Some(port) => port,
            None => place.ports.take().map_err(internal)?,
        };
        let listener = match bind(port) {
            Ok(listener) => listener,
            Err(e) => {
                place.ports.give_back(port);
                return Err(Refusal::new(
                    Code::BadCommand,
                    format!("failed to listen on port {port} for {key}: {e}"),
                ));
            }
        };
        let mut records: Vec<Record> =
            entries.iter().map(|(endpoint, e)| Record { endpoint: endpoint.clone(), port: e.port }).collect();
        records.push(Record { endpoint: key.clone(), port });
        if let Err(e) = place.data.write_json_with_reserve(&place.data.path(FILE), &records, rollback) {
            place.ports.give_back(port);
            return Err(crate::slots::refusal(&e));
        }
        place.ports.note(port);
        let route = Arc::new(Route::new(key.clone()));
        place.metrics.add_route(Arc::clone(&route));
        entries.insert(
            key.clone(),
            Entry { port, route: Arc::clone(&route), listener: Some(listener), trouble: None },
        );
        drop(entries);
        if *self.accepting.borrow() {
            self.accept_one(key, place.clients);
        }
        Ok(route)
    }

    /// Begins to accept clients on every endpoint.
    pub(crate) fn accept(self: &Arc<Self>, clients: &Arc<Clients>) {
        self.accepting.send_replace(true);
        let keys: Vec<EndpointKey> = lock(&self.entries).keys().cloned().collect();
        for key in keys {
            self.accept_one(&key, clients);
        }
    }

    /// Accepts no clients any more; the sockets stay open, so clients wait and are not refused.
    pub(crate) fn stop_accepting(&self) {
        self.accepting.send_replace(false);
    }

    /// Closes this process's handles of the sockets: another one has its own.
    pub(crate) fn let_go(&self) {
        for entry in lock(&self.entries).values_mut() {
            entry.listener = None;
        }
    }

    fn accept_one(self: &Arc<Self>, key: &EndpointKey, clients: &Arc<Clients>) {
        let (table, key, clients) = (Arc::clone(self), key.clone(), Arc::clone(clients));
        let mut accepting = self.accepting.subscribe();
        tokio::spawn(async move {
            let (listener, route) = loop {
                match table.listener(&key) {
                    Ok(Some(found)) => break found,
                    Ok(None) => return,
                    Err(trouble) => tracing::warn!(endpoint = %key, trouble, "an endpoint does not listen"),
                }
                let pause = Duration::from_millis(LISTEN_RETRY_DELAY_MS);
                let stopped = accepting.wait_for(|accepting| !*accepting);
                if tokio::time::timeout(pause, stopped).await.is_ok() {
                    return;
                }
            };
            listen::accept(listener, route, clients, accepting).await;
        });
    }

    /// The endpoint's socket, opened if it was not; `None` when there is no such endpoint.
    fn listener(&self, key: &EndpointKey) -> Result<Option<(tokio::net::TcpListener, Arc<Route>)>, String> {
        let mut entries = lock(&self.entries);
        let Some(entry) = entries.get_mut(key) else { return Ok(None) };
        let port = entry.port;
        let opened = match &entry.listener {
            Some(listener) => listener.try_clone(),
            None => bind(port).and_then(|listener| {
                let clone = listener.try_clone()?;
                entry.listener = Some(listener);
                Ok(clone)
            }),
        };
        match opened.and_then(tokio::net::TcpListener::from_std) {
            Ok(listener) => {
                entry.trouble = None;
                Ok(Some((listener, Arc::clone(&entry.route))))
            }
            Err(e) => {
                let trouble = format!("failed to listen on port {port}: {e}");
                entry.trouble = Some(trouble.clone());
                Err(trouble)
            }
        }
    }

    /// Where an endpoint listens.
    pub(crate) fn url(&self, key: &EndpointKey) -> Option<String> {
        lock(&self.entries).get(key).map(|entry| url(entry.port))
    }

    /// The route of an endpoint.
    pub(crate) fn route(&self, key: &EndpointKey) -> Option<Arc<Route>> {
        lock(&self.entries).get(key).map(|entry| Arc::clone(&entry.route))
    }

    /// All endpoints, for people and programs.
    pub(crate) fn list(&self) -> Vec<Endpoint> {
        lock(&self.entries)
            .iter()
            .map(|(key, entry)| Endpoint {
                endpoint: key.clone(),
                url: url(entry.port),
                port: entry.port,
                trouble: entry.trouble.clone(),
            })
            .collect()
    }

    /// Copies of the listening sockets, to hand over.
    pub(crate) fn sockets(&self) -> std::io::Result<Vec<(u16, TcpListener)>> {
        lock(&self.entries)
            .values()
            .filter_map(|entry| Some((entry.port, entry.listener.as_ref()?)))
            .map(|(port, listener)| Ok((port, listener.try_clone()?)))
            .collect()
    }
}

/// Where an endpoint is made.
pub(crate) struct Place<'a> {
    pub(crate) data: &'a DataDir,
    pub(crate) ports: &'a Ports,
    pub(crate) metrics: &'a Metrics,
    pub(crate) clients: &'a Arc<Clients>,
}

fn url(port: u16) -> String {
    format!("http://127.0.0.1:{port}")
}

fn bind(port: u16) -> std::io::Result<TcpListener> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

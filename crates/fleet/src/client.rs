//! The control plane's side of the control protocol. Every call opens a connection of its own, so a fleet that was
//! restarted or upgraded in between is simply found again at the socket's path. The first one finds out which protocol both speak,
//! and so does the next one after a fleet was not found, or did not speak it any more.

use crate::protocol::{
    Accepted, BreakGlass, CONTROL_BODY_MAX_BYTES, Code, Endpoint, Endpoints, MetricsPage, Observations,
    PROTOCOL_HEADER, PROTOCOL_VERSION, Protocols, PutBack, Refusal, SetEndpoint, SetSlot, Status, Stop,
    Upgrading, WATCH_HOLD_MAX_MS,
};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::Request;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tidegate_core::ids::TargetId;
use tokio::net::UnixStream;

/// How long a call may take, in milliseconds; a watch has [`WATCH_HOLD_MAX_MS`] more.
const CALL_LIMIT_MS: u64 = 10_000;
/// How often a call is repeated that met a fleet which was just handing over to its successor.
const HAND_OVER_RETRIES_MAX: u32 = 200;
/// The pause between two of those.
const HAND_OVER_RETRY_DELAY_MS: u64 = 50;

/// Why a call to the fleet failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No fleet listens there.
    #[error("failed to connect to the fleet at {}", path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The connection broke.
    #[error("failed to ask the fleet for {call}")]
    Call {
        /// Method and path.
        call: String,
        /// What happened to the connection.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// No answer in time.
    #[error("the fleet did not answer {call} in time")]
    TimedOut {
        /// Method and path.
        call: String,
    },
    /// The answer is not what this version expects.
    #[error("failed to read the fleet's answer to {call}")]
    Answer {
        /// Method and path.
        call: String,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// There is no protocol that both speak.
    #[error(
        "the fleet is of tidegate {version} and speaks protocol {theirs}; this is {own} and speaks {ours}: {mend}",
        own = env!("CARGO_PKG_VERSION"),
        ours = Protocols::OWN,
        mend = if theirs.newest > PROTOCOL_VERSION {
            "use the newer program here as well"
        } else {
            "'tidegate fleet upgrade' lets this program take it over, and no request fails"
        }
    )]
    Protocol {
        /// The fleet's version.
        version: String,
        /// What it speaks.
        theirs: Protocols,
    },
    /// The fleet said no.
    #[error("the fleet refused {call}: {refusal}")]
    Refused {
        /// Method and path.
        call: String,
        /// Its reason.
        refusal: Refusal,
    },
}

impl ClientError {
    /// The fleet's code, when it was the fleet that said no.
    #[must_use]
    pub fn code(&self) -> Option<Code> {
        match self {
            ClientError::Refused { refusal, .. } => Some(refusal.code),
            _ => None,
        }
    }
}

/// A typed client of one fleet.
#[derive(Debug, Clone)]
pub struct FleetClient {
    socket: PathBuf,
    /// The protocol that both speak; 0 as long as that is not known. All copies of a client have found it out.
    agreed: Arc<AtomicU32>,
}

impl FleetClient {
    /// A client of the fleet whose control socket is at this path: `DIR/fleet.sock`. Nothing is opened yet.
    pub fn new(socket: impl Into<PathBuf>) -> FleetClient {
        FleetClient { socket: socket.into(), agreed: Arc::default() }
    }

    /// The socket's path.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Brings a slot to a split. Returns as soon as the command is on disk.
    pub async fn set_slot(&self, set: &SetSlot) -> Result<Accepted, ClientError> {
        self.call("PUT", "/v1/slots", Some(set), CALL_LIMIT_MS).await
    }

    /// Puts a slot back without the server.
    pub async fn break_glass(&self, order: &BreakGlass) -> Result<PutBack, ClientError> {
        self.call("POST", "/v1/glass", Some(order), CALL_LIMIT_MS).await
    }

    /// All observations.
    pub async fn slots(&self) -> Result<Observations, ClientError> {
        self.call("GET", "/v1/slots", None::<&()>, CALL_LIMIT_MS).await
    }

    /// Waits until something changed after that version, at most [`WATCH_HOLD_MAX_MS`]; 0 asks for everything at once.
    pub async fn watch(&self, after: u64) -> Result<Observations, ClientError> {
        let path = format!("/v1/watch?after={after}");
        self.call("GET", &path, None::<&()>, WATCH_HOLD_MAX_MS + CALL_LIMIT_MS).await
    }

    /// A page of closed seconds after that one.
    pub async fn metrics(&self, after_second: i64) -> Result<MetricsPage, ClientError> {
        let path = format!("/v1/metrics?after_second={after_second}");
        self.call("GET", &path, None::<&()>, CALL_LIMIT_MS).await
    }

    /// All endpoints.
    pub async fn endpoints(&self) -> Result<Vec<Endpoint>, ClientError> {
        let all: Endpoints = self.call("GET", "/v1/endpoints", None::<&()>, CALL_LIMIT_MS).await?;
        Ok(all.endpoints)
    }

    /// Makes an endpoint, or tells where it is.
    pub async fn set_endpoint(&self, set: &SetEndpoint) -> Result<Endpoint, ClientError> {
        self.call("PUT", "/v1/endpoints", Some(set), CALL_LIMIT_MS).await
    }

    /// Which process supervises, the highest epoch it knows, and which protocols it speaks. Every fleet answers this.
    pub async fn status(&self) -> Result<Status, ClientError> {
        self.call_as(PROTOCOL_VERSION, "GET", "/v1/status", None::<&()>, CALL_LIMIT_MS).await
    }

    /// The protocol that both speak.
    ///
    /// # Errors
    /// [`ClientError::Protocol`] if there is none, or the fleet does not answer.
    pub async fn agree(&self) -> Result<u32, ClientError> {
        match self.agreed.load(Ordering::SeqCst) {
            0 => {
                let status = self.status().await?;
                let theirs = status.speaks();
                let common = Protocols::OWN.common(theirs);
                let common = common.ok_or(ClientError::Protocol { version: status.version, theirs })?;
                self.agreed.store(common, Ordering::SeqCst);
                Ok(common)
            }
            known => Ok(known),
        }
    }

    /// The end of a box's log, at most [`crate::protocol::LOG_TAIL_BYTES`]; bytes that are no UTF-8 are replaced.
    pub async fn box_log(&self, target: &TargetId, box_id: &str) -> Result<String, ClientError> {
        let path = format!("/v1/boxes/log?target={target}&box={box_id}");
        let bytes = self.ask("GET", &path, Bytes::new(), CALL_LIMIT_MS).await?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Ends the fleet, with or without its boxes. The answer comes before it ends. Every fleet takes this.
    pub async fn stop(&self, stop: Stop) -> Result<(), ClientError> {
        let _: serde::de::IgnoredAny =
            self.call_as(PROTOCOL_VERSION, "POST", "/v1/stop", Some(&stop), CALL_LIMIT_MS).await?;
        Ok(())
    }

    /// Starts a new process of the program on disk that takes over without a failed request. Every fleet takes this.
    pub async fn upgrade(&self) -> Result<Upgrading, ClientError> {
        self.call_as(PROTOCOL_VERSION, "POST", "/v1/upgrade", None::<&()>, CALL_LIMIT_MS).await
    }

    async fn call<A: DeserializeOwned>(
        &self,
        method: &str,
        path: &str,
        body: Option<&impl Serialize>,
        limit_ms: u64,
    ) -> Result<A, ClientError> {
        read(method, path, self.ask(method, path, write(method, path, body)?, limit_ms).await?)
    }

    async fn call_as<A: DeserializeOwned>(
        &self,
        protocol: u32,
        method: &str,
        path: &str,
        body: Option<&impl Serialize>,
        limit_ms: u64,
    ) -> Result<A, ClientError> {
        let body = write(method, path, body)?;
        read(method, path, self.ask_as(protocol, method, path, body, limit_ms).await?)
    }

    /// In the protocol that both speak.
    async fn ask(&self, method: &str, path: &str, body: Bytes, limit_ms: u64) -> Result<Bytes, ClientError> {
        let protocol = self.agree().await?;
        let answer = self.ask_as(protocol, method, path, body, limit_ms).await;
        let forget = match &answer {
            Err(ClientError::Connect { .. }) => true,
            Err(error) => error.code() == Some(Code::OtherProtocol),
            Ok(_) => false,
        };
        if forget {
            // The next one that answers may be of another version.
            self.agreed.store(0, Ordering::SeqCst);
        }
        answer
    }

    /// In this protocol; again while the fleet is handed over.
    async fn ask_as(
        &self,
        protocol: u32,
        method: &str,
        path: &str,
        body: Bytes,
        limit_ms: u64,
    ) -> Result<Bytes, ClientError> {
        for attempt in 0.. {
            let (call, answer) = self.exchange(protocol, method, path, body.clone(), limit_ms).await?;
            match answer {
                Ok(bytes) => return Ok(bytes),
                Err(refusal) if refusal.code == Code::HandedOver && attempt < HAND_OVER_RETRIES_MAX => {
                    tokio::time::sleep(Duration::from_millis(HAND_OVER_RETRY_DELAY_MS)).await;
                }
                Err(refusal) => return Err(ClientError::Refused { call, refusal }),
            }
        }
        unreachable!("the loop returns at its last attempt")
    }

    async fn exchange(
        &self,
        protocol: u32,
        method: &str,
        path: &str,
        body: Bytes,
        limit_ms: u64,
    ) -> Result<(String, Result<Bytes, Refusal>), ClientError> {
        let call = format!("{method} {path}");
        match tokio::time::timeout(
            Duration::from_millis(limit_ms),
            self.exchange_unlimited(protocol, method, path, body),
        )
        .await
        {
            Ok(answer) => Ok((call, answer?)),
            Err(_) => Err(ClientError::TimedOut { call }),
        }
    }

    async fn exchange_unlimited(
        &self,
        protocol: u32,
        method: &str,
        path: &str,
        body: Bytes,
    ) -> Result<Result<Bytes, Refusal>, ClientError> {
        let stream = UnixStream::connect(&self.socket)
            .await
            .map_err(|source| ClientError::Connect { path: self.socket.clone(), source })?;
        let failed = |source: Box<dyn std::error::Error + Send + Sync>| ClientError::Call {
            call: format!("{method} {path}"),
            source,
        };
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "fleet")
            .header("content-type", "application/json")
            .header(PROTOCOL_HEADER, protocol)
            .body(Full::new(body))
            .map_err(|e| failed(e.into()))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|e| failed(e.into()))?;
        let exchange = async {
            let answer = sender.send_request(request).await.map_err(|e| failed(e.into()))?;
            let status = answer.status();
            let bytes = Limited::new(answer.into_body(), CONTROL_BODY_MAX_BYTES)
                .collect()
                .await
                .map_err(failed)?
                .to_bytes();
            Ok((status, bytes))
        };
        tokio::pin!(exchange);
        let mut connection = std::pin::pin!(connection);
        let (status, bytes) = tokio::select! {
            biased;
            answer = &mut exchange => answer?,
            _ = &mut connection => exchange.await?,
        };
        if status.is_success() {
            return Ok(Ok(bytes));
        }
        let refusal = serde_json::from_slice(&bytes).unwrap_or_else(|_| {
            Refusal::new(Code::Internal, format!("status {status}: {}", String::from_utf8_lossy(&bytes)))
        });
        Ok(Err(refusal))
    }
}

fn write(method: &str, path: &str, body: Option<&impl Serialize>) -> Result<Bytes, ClientError> {
    let Some(body) = body else { return Ok(Bytes::new()) };
    let written = serde_json::to_vec(body);
    written
        .map(Bytes::from)
        .map_err(|source| ClientError::Answer { call: format!("{method} {path}"), source })
}

fn read<A: DeserializeOwned>(method: &str, path: &str, bytes: Bytes) -> Result<A, ClientError> {
    let read = serde_json::from_slice(&bytes);
    read.map_err(|source| ClientError::Answer { call: format!("{method} {path}"), source })
}

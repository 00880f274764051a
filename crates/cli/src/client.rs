//! Talks to the server: finds it, carries the token, and turns its answers into values and its refusals into errors.

use crate::Global;
use crate::error::CliError;
use crate::text::print;
use reqwest::Method;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, DATE};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tidegate_api::{Code, ErrorAnswer, ErrorBody};
use tidegate_core::units::Timestamp;
use tidegate_server::owner::may_look;

/// How long a call may take, in milliseconds: more than the server gives itself.
const CALL_LIMIT_MS: u64 = 90_000;
/// How long a connection may take to be made, in milliseconds.
const CONNECT_LIMIT_MS: u64 = 5_000;
/// How often, in milliseconds, it is asked whether a server that has not answered is there at all, ...
const PULSE_EVERY_MS: u64 = 3_000;
/// ... how long it may take to say so, ...
const PULSE_LIMIT_MS: u64 = 4_000;
/// ... and how often in a row it must not say so to be given up.
const PULSES_MISSED: u32 = 2;
/// How long a stream of events may be silent, in milliseconds: the server says every 10 s that it is alive.
const SILENCE_LIMIT_MS: u64 = 35_000;

/// An answer: as a value, and as it came.
#[derive(Debug)]
pub(crate) struct Answer<T> {
    pub(crate) value: T,
    pub(crate) json: String,
}

impl<T> Answer<T> {
    /// Prints it as JSON, or for people.
    pub(crate) fn tell(&self, global: &Global, people: impl FnOnce(&T) -> String) -> Result<(), CliError> {
        if global.json { print(&format!("{}\n", self.json.trim_end())) } else { print(&people(&self.value)) }
    }
}

/// A server.
#[derive(Debug)]
pub(crate) struct Client {
    url: String,
    token: String,
    /// Its data directory and its process, if it is one of this machine.
    here: Option<(PathBuf, u32)>,
    http: reqwest::Client,
}

#[derive(Deserialize)]
struct ServerFile {
    url: String,
    pid: u32,
}

impl Client {
    /// Finds the server and the token.
    pub(crate) fn new(global: &Global) -> Result<Client, CliError> {
        let (url, here) = match (&global.server, &global.data) {
            (Some(url), _) => (url.clone(), None),
            (None, Some(data)) => {
                let ServerFile { url, pid } = server_of(data)?;
                (url, Some((data.clone(), pid)))
            }
            (None, None) => {
                let message = "which server? give --server URL, or --data DIR of a server on this machine";
                return Err(CliError::Usage(message.to_owned()));
            }
        };
        if !url.starts_with("http://") && !url.starts_with("https://") {
            return Err(CliError::Usage(format!("'{url}' is no URL of a server; write http://host:port")));
        }
        let given = std::env::var("TIDEGATE_TOKEN").ok().filter(|token| !token.is_empty());
        let token = match (given, &global.data) {
            (Some(token), _) => token,
            (None, Some(data)) => {
                let path = data.join("admin-token");
                std::fs::read_to_string(&path)
                    .map_err(|e| CliError::failed(format!("read the token in {}", path.display()), e))?
            }
            (None, None) => {
                let message =
                    "which token? set TIDEGATE_TOKEN, or give --data DIR of a server on this machine";
                return Err(CliError::Usage(message.to_owned()));
            }
        };
        let http = tidegate_workers::https::client()
            .connect_timeout(Duration::from_millis(CONNECT_LIMIT_MS))
            .read_timeout(Duration::from_millis(CALL_LIMIT_MS))
            .build()
            .map_err(|error| CliError::failed("prepare HTTP", error))?;
        Ok(Client { url: url.trim_end_matches('/').to_owned(), token: token.trim().to_owned(), here, http })
    }

    /// As somebody else than the environment says.
    pub(crate) fn with_token(global: &Global, token: &str) -> Result<Client, CliError> {
        Ok(Client { token: token.to_owned(), ..Client::new(global)? })
    }

    /// Where it is.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Its clock, to the second; none if it does not tell.
    pub(crate) async fn date(&self) -> Result<Option<Timestamp>, CliError> {
        let request = self.http.get(format!("{}/v1/health", self.url));
        let request = request.timeout(Duration::from_millis(CALL_LIMIT_MS));
        let response = self.send(request).await?;
        let date = response.headers().get(DATE).and_then(|value| value.to_str().ok());
        Ok(date.and_then(|text| Timestamp::from_http_date(text).ok()))
    }

    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<Answer<T>, CliError> {
        self.call(Method::GET, path, None).await
    }

    pub(crate) async fn delete<T: DeserializeOwned>(&self, path: &str) -> Result<Answer<T>, CliError> {
        self.call(Method::DELETE, path, None).await
    }

    /// Deletes, with a word on it.
    pub(crate) async fn delete_with<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<Answer<T>, CliError> {
        self.call(Method::DELETE, path, Some(to_json(body)?)).await
    }

    pub(crate) async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<Answer<T>, CliError> {
        self.call(Method::POST, path, Some(to_json(body)?)).await
    }

    pub(crate) async fn put<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<Answer<T>, CliError> {
        self.call(Method::PUT, path, Some(to_json(body)?)).await
    }

    /// A stream of events, or of a log, that may go on for ever.
    pub(crate) async fn stream(
        &self,
        path: &str,
        last_event: Option<u64>,
    ) -> Result<reqwest::Response, CliError> {
        let mut request = self.http.get(format!("{}{path}", self.url));
        if let Some(position) = last_event {
            request = request.header("Last-Event-ID", position.to_string());
        }
        self.begin_stream(request).await
    }

    /// What an order answers in pieces, as long as it takes.
    pub(crate) async fn stream_post(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<reqwest::Response, CliError> {
        let request = self.http.post(format!("{}{path}", self.url));
        self.begin_stream(request.header(CONTENT_TYPE, "application/json").body(to_json(body)?)).await
    }

    async fn begin_stream(&self, request: reqwest::RequestBuilder) -> Result<reqwest::Response, CliError> {
        let request = request.header(AUTHORIZATION, format!("Bearer {}", self.token));
        let limit = Duration::from_millis(SILENCE_LIMIT_MS);
        let sent = tokio::time::timeout(limit, self.send(request)).await;
        let response = sent.map_err(|_| CliError::Unreachable(format!("{} does not answer", self.url)))??;
        if response.status().is_success() { Ok(response) } else { Err(self.refusal(response).await) }
    }

    /// The next bytes of a stream; `None` at its end.
    pub(crate) async fn piece(
        &self,
        response: &mut reqwest::Response,
    ) -> Result<Option<bytes::Bytes>, CliError> {
        let limit = Duration::from_millis(SILENCE_LIMIT_MS);
        match tokio::time::timeout(limit, response.chunk()).await {
            Ok(piece) => piece.map_err(|error| self.unreachable(error)),
            Err(_) => Err(CliError::Unreachable(format!("{} went silent", self.url))),
        }
    }

    async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<String>,
    ) -> Result<Answer<T>, CliError> {
        let mut request = self.http.request(method, format!("{}{path}", self.url));
        request = request.header(AUTHORIZATION, format!("Bearer {}", self.token));
        request = request.timeout(Duration::from_millis(CALL_LIMIT_MS));
        if let Some(body) = body {
            request = request.header(CONTENT_TYPE, "application/json").body(body);
        }
        let response = self.send(request).await?;
        if !response.status().is_success() {
            return Err(self.refusal(response).await);
        }
        let json = response.text().await.map_err(|error| self.unreachable(error))?;
        let value = serde_json::from_str(&json)
            .map_err(|error| CliError::failed("read the server's answer (is it another version?)", error))?;
        Ok(Answer { value, json })
    }

    /// Waits for an answer as long as the server is there: one that hangs or is frozen is still connected to, and never answers.
    async fn send(&self, request: reqwest::RequestBuilder) -> Result<reqwest::Response, CliError> {
        let mut sending = std::pin::pin!(request.send());
        let mut missed = 0;
        loop {
            tokio::select! {
                sent = &mut sending => return sent.map_err(|error| self.unreachable(error)),
                () = tokio::time::sleep(Duration::from_millis(PULSE_EVERY_MS)) => {}
            }
            let pulse = self.http.get(format!("{}/v1/health", self.url));
            let pulse = pulse.timeout(Duration::from_millis(PULSE_LIMIT_MS)).send();
            tokio::select! {
                sent = &mut sending => return sent.map_err(|error| self.unreachable(error)),
                // Where nobody can be connected to at the moment, the network may come back.
                pulse = pulse => match pulse {
                    Err(error) if error.is_timeout() && !error.is_connect() => missed += 1,
                    Ok(_) | Err(_) => missed = 0,
                }
            }
            if missed >= PULSES_MISSED {
                return Err(self.silent());
            }
        }
    }

    fn silent(&self) -> CliError {
        // Of a process that has ended the number may be another's.
        let works = |(data, pid): &&(PathBuf, u32)| {
            let lock = std::fs::read_to_string(data.join("store/lock")).unwrap_or_default();
            lock.trim().parse() == Ok(*pid) && Path::new(&format!("/proc/{pid}")).exists()
        };
        let who = self.here.as_ref().filter(works).map_or_else(String::new, |(_, pid)| {
            format!(
                "; process {pid} hangs, is frozen or waits for its disk: 'kill -9 {pid}' ends it, and a standby or the service \
                 manager starts work anew"
            )
        });
        CliError::Unreachable(format!(
            "{} can be connected to, and DOES NOT ANSWER{who}. What was asked for may be done yet: look when it answers again",
            self.url
        ))
    }

    async fn refusal(&self, response: reqwest::Response) -> CliError {
        let status = response.status();
        let text = match response.text().await {
            Ok(text) => text,
            Err(error) => return self.unreachable(error),
        };
        match serde_json::from_str::<ErrorAnswer>(&text) {
            Ok(answer) => CliError::Answered(Box::new(answer.error)),
            Err(_) => CliError::Answered(Box::new(ErrorBody {
                code: Code::Internal,
                message: format!("{} answered {status} and nothing that tidegate would say", self.url),
                hint: "is this the address of a tidegate server?".to_owned(),
                findings: Vec::new(),
            })),
        }
    }

    fn unreachable(&self, error: reqwest::Error) -> CliError {
        match CliError::failed("", error.without_url()) {
            CliError::Failed { why, .. } => CliError::Unreachable(format!("{}: {why}", self.url)),
            other => other,
        }
    }
}

fn server_of(data: &Path) -> Result<ServerFile, CliError> {
    may_look(data).map_err(|error| CliError::failed("find the server", error))?;
    let path = data.join("server.json");
    let text = std::fs::read(&path).map_err(|error| {
        let why = format!(
            "no server runs on {} ({}: {error}); 'tidegate doctor --data {}' says what is wrong",
            data.display(),
            path.display(),
            data.display()
        );
        CliError::Unreachable(why)
    })?;
    serde_json::from_slice(&text).map_err(|error| CliError::failed(format!("read {}", path.display()), error))
}

fn to_json(body: &impl Serialize) -> Result<String, CliError> {
    serde_json::to_string(body).map_err(|error| CliError::failed("write the request", error))
}

/// A query string; values are names, numbers and words that need no escaping, or are refused.
pub(crate) fn query(pairs: &[(&str, Option<String>)]) -> String {
    let given: Vec<String> =
        pairs.iter().filter_map(|(key, value)| value.as_ref().map(|v| format!("{key}={v}"))).collect();
    if given.is_empty() { String::new() } else { format!("?{}", given.join("&")) }
}

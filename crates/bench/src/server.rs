//! A server as its users see it: started on a folder, called with a token. It ends with this value; its fleet ends with the
//! scene.

use crate::scene::{self, Scene, until};
use anyhow::{Context, Result, bail};
use reqwest::Method;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tidegate_fleet::{FleetClient, FleetConfig};
use tokio::process::Child;

/// How long a call may take.
const CALL_MAX: Duration = Duration::from_secs(90);

/// A running server.
pub(crate) struct Server {
    child: Child,
    data: PathBuf,
    caller: Caller,
}

/// Somebody with a token.
#[derive(Clone)]
pub(crate) struct Caller {
    url: String,
    token: String,
    http: reqwest::Client,
}

impl Server {
    /// Starts it, and tells how long that took until it answered for the first time.
    pub(crate) async fn start(scene: &Scene, data: &Path) -> Result<(Server, Duration)> {
        scene.end_fleet_in(&fleet_folder(data));
        let log = data.with_extension("log");
        let mut command = scene::command(&scene.tidegate, &log)?;
        command.args(["serve", "--listen", "127.0.0.1:0", "--data"]).arg(data);
        let begun = Instant::now();
        let mut child = command.spawn().context("failed to start the server")?;
        let http = reqwest::Client::builder().no_proxy().timeout(CALL_MAX).build()?;
        let url = until("the server answers", async || {
            if let Some(status) = child.try_wait()? {
                bail!(
                    "the server ended with {status}: {}",
                    std::fs::read_to_string(&log).unwrap_or_default()
                );
            }
            let Ok(text) = std::fs::read(data.join("server.json")) else { return Ok(None) };
            let Ok(file) = serde_json::from_slice::<Value>(&text) else { return Ok(None) };
            let url = file["url"].as_str().unwrap_or_default().to_owned();
            let healthy =
                http.get(format!("{url}/v1/health")).send().await.is_ok_and(|a| a.status().is_success());
            Ok(healthy.then_some(url))
        })
        .await?;
        let took = begun.elapsed();
        let token = std::fs::read_to_string(data.join("admin-token")).context("failed to read the token")?;
        let caller = Caller { url, token: token.trim().to_owned(), http };
        Ok((Server { child, data: data.to_owned(), caller }, took))
    }

    /// The administrator.
    pub(crate) fn admin(&self) -> &Caller {
        &self.caller
    }

    /// As somebody else.
    pub(crate) async fn login(&self, user: &str) -> Result<Caller> {
        let made: Value = self.caller.call(Method::POST, "/v1/tokens", &json!({ "user": user })).await?;
        let token = made["token"].as_str().context("the server gave no token")?.to_owned();
        Ok(Caller { token, ..self.caller.clone() })
    }

    /// Its fleet.
    pub(crate) fn fleet(&self) -> FleetClient {
        FleetClient::new(FleetConfig::socket(&fleet_folder(&self.data)))
    }

    /// Its process.
    pub(crate) fn pid(&self) -> Result<u32> {
        self.child.id().context("the server has ended")
    }

    /// Ends it in order; the fleet runs on.
    pub(crate) async fn stop(mut self) -> Result<()> {
        let pid = i32::try_from(self.pid()?).ok().and_then(rustix::process::Pid::from_raw);
        if let Some(pid) = pid {
            rustix::process::kill_process(pid, rustix::process::Signal::TERM)
                .context("failed to end the server")?;
        }
        let ended = tokio::time::timeout(scene::START_MAX, self.child.wait()).await;
        ended.context("the server does not end")?.map(|_| ()).context("failed to wait for the server")
    }
}

/// The fleet's part of a server's data.
pub(crate) fn fleet_folder(data: &Path) -> PathBuf {
    data.join("fleet")
}

impl Caller {
    pub(crate) async fn get<A: DeserializeOwned>(&self, path: &str) -> Result<A> {
        self.send(self.request(Method::GET, path), path).await
    }

    pub(crate) async fn call<A: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &impl Serialize,
    ) -> Result<A> {
        self.send(self.request(method, path).json(body), path).await
    }

    fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        self.http.request(method, format!("{}{path}", self.url)).bearer_auth(&self.token)
    }

    async fn send<A: DeserializeOwned>(&self, request: reqwest::RequestBuilder, path: &str) -> Result<A> {
        let answer = request.send().await.with_context(|| format!("failed to call {path}"))?;
        let status = answer.status();
        let text = answer.text().await.with_context(|| format!("failed to call {path}"))?;
        if !status.is_success() {
            bail!("{path} was answered with {status}: {text}");
        }
        serde_json::from_str(&text).with_context(|| format!("failed to read the answer to {path}"))
    }
}

//! `tidegate doctor`.

use crate::Global;
use crate::client::Client;
use crate::error::CliError;
use crate::folder::CHILD;
use crate::text::{Paint, clean, print, wrap};
use clap::Args;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::SystemTime;
use tidegate_api::{LogPage, OrganisationDefinition, Status};
use tidegate_core::units::Timestamp;
use tidegate_server::doctor::{Check, Health, Patient, ServerSeen, examine};
use tidegate_synth::Synth;

/// Look at the machine, a data directory (--data) and its server, and say what is wrong and how to mend it.
///
/// Nothing is changed, and it works whether or not a server runs. To be run as the server's user. Exit codes: 0 all is well, or
/// nearly; 1 something does not work.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Where the server listens, or will.
    #[arg(long, default_value = "127.0.0.1:7420", value_name = "ADDRESS")]
    listen: SocketAddr,
}

pub(crate) async fn run(global: &Global, options: Options) -> Result<ExitCode, CliError> {
    let server = match Client::new(global) {
        Ok(client) => see(&client).await,
        Err(error) => Err(error),
    };
    let server = match server {
        Ok(seen) => Ok(seen),
        Err(error @ CliError::Usage(_)) if global.data.is_none() && global.server.is_none() => {
            Err(format!("none was named: {error}"))
        }
        Err(error) => Err(error.to_string()),
    };
    let synth = Synth::new("/proc/self/exe", &[CHILD]);
    let patient = Patient { data: global.data.clone(), listen: options.listen, server, now: now(), synth };
    let checks = examine(&patient).await;
    let failed = checks.iter().any(|check| check.health == Health::Fail);
    if global.json {
        let answer = serde_json::json!({"version": tidegate_api::VERSION, "well": !failed, "checks": checks});
        print(&format!("{answer}\n"))?;
    } else {
        print(&render(&checks, Paint::stdout()))?;
    }
    Ok(if failed { ExitCode::from(1) } else { ExitCode::SUCCESS })
}

fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Timestamp(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

async fn see(client: &Client) -> Result<ServerSeen, CliError> {
    let asked_at = now();
    let date = client.date().await?;
    let status = client.get::<Status>("/v1/status").await?.value;
    let newest = client.get::<LogPage>("/v1/log?limit=1").await?.value;
    let organisation = client.get::<OrganisationDefinition>("/v1/organisation").await.ok();
    Ok(ServerSeen {
        url: client.url().to_owned(),
        date,
        asked_at,
        newest: newest.entries.last().map(|entry| entry.at),
        troubles: status
            .troubles
            .iter()
            .map(|trouble| format!("{} ({})", trouble.what, trouble.why))
            .collect(),
        last_backup: status.last_backup,
        organisation: organisation.map(|answer| answer.value.definition),
    })
}

fn render(checks: &[Check], paint: Paint) -> String {
    let width = checks.iter().map(|check| check.name.len()).max().unwrap_or(0);
    let mut out = String::new();
    for Check { name, health, seen, mend } in checks {
        let word = match health {
            Health::Ok => paint.good("ok  "),
            Health::Warn => paint.waits("warn"),
            Health::Fail => paint.bad("FAIL"),
        };
        let indent = 4 + 2 + width + 2;
        out.push_str(&format!("{word}  {name:width$}  {}\n", wrap(&clean(seen), indent)));
        if !mend.is_empty() {
            let text = format!("to mend: {mend}");
            out.push_str(&format!("{}{}\n", " ".repeat(indent), wrap(&text, indent)));
        }
    }
    out
}

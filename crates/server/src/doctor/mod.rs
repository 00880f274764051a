//! Looks at the machine and at a data directory, and says what is wrong and how to mend it. Nothing is changed. Each check is
//! one function, and none relies on another one's result.

mod data;
mod machine;

use crate::owner;
use serde::Serialize;
use std::net::SocketAddr;
use std::path::PathBuf;
use tidegate_core::definition::OrganisationDef;
use tidegate_core::units::Timestamp;
use tidegate_synth::Synth;

/// How a check came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Health {
    /// Nothing is to be done.
    Ok,
    /// It works, and may not for long, or not as well as it could.
    Warn,
    /// Something does not work.
    Fail,
}

/// One look at one thing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What was looked at; the name is stable.
    pub name: &'static str,
    /// How it came out.
    pub health: Health,
    /// What was seen.
    pub seen: String,
    /// What to do; empty if nothing is.
    pub mend: String,
}

impl Check {
    fn ok(name: &'static str, seen: impl Into<String>) -> Check {
        Check { name, health: Health::Ok, seen: seen.into(), mend: String::new() }
    }

    fn warn(name: &'static str, seen: impl Into<String>, mend: impl Into<String>) -> Check {
        Check { name, health: Health::Warn, seen: seen.into(), mend: mend.into() }
    }

    fn fail(name: &'static str, seen: impl Into<String>, mend: impl Into<String>) -> Check {
        Check { name, health: Health::Fail, seen: seen.into(), mend: mend.into() }
    }
}

/// A server that answers, as it was seen.
#[derive(Debug, Clone)]
pub struct ServerSeen {
    /// Where.
    pub url: String,
    /// Its clock, when this machine's was `asked_at`.
    pub date: Option<Timestamp>,
    /// This machine's clock at that moment.
    pub asked_at: Timestamp,
    /// The newest entry of its log.
    pub newest: Option<Timestamp>,
    /// What it cannot do at present.
    pub troubles: Vec<String>,
    /// When the last backup was made.
    pub last_backup: Option<Timestamp>,
    /// The organisation, if one was applied and may be read.
    pub organisation: Option<OrganisationDef>,
}

/// What is to be looked at.
#[derive(Debug, Clone)]
pub struct Patient {
    /// The data directory, if it is one of this machine.
    pub data: Option<PathBuf>,
    /// Where a server listens, or will.
    pub listen: SocketAddr,
    /// The server, or why none answers.
    pub server: Result<ServerSeen, String>,
    /// This machine's clock.
    pub now: Timestamp,
    /// What evaluates pipelines as code.
    pub synth: Synth,
}

/// Everything, in the order in which somebody would mend it.
pub async fn examine(patient: &Patient) -> Vec<Check> {
    // Whoever sees nothing of it would be told that nothing is there.
    if let Some(another) = patient.data.as_ref().and_then(|data| owner::may_look(data).err()) {
        return vec![data::of_another_user(&another)];
    }
    let mut checks = vec![
        machine::git(),
        machine::sandbox().await,
        machine::control_groups().await,
        machine::open_files(),
        machine::evaluator(&patient.synth),
    ];
    if let Some(data) = &patient.data {
        checks.push(data::writable(data));
        checks.push(data::private(data));
        checks.push(data::disk(data));
        checks.push(data::store(data, &patient.server));
        checks.push(data::fleet(data, &patient.server).await);
        checks.push(data::backup(data, &patient.server));
    }
    checks.push(machine::server(patient));
    checks.push(machine::clock(patient));
    checks.push(machine::reach(patient).await);
    checks
}

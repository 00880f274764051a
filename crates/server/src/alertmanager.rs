//! What an Alertmanager's webhook says (version 4 of its payload), as words on alarms.
//!
//! What must hold: an alert that cannot be understood is told in the answer and is never an error, for an Alertmanager would send
//! it again for ever; that an alarm has ended is believed only of a message that cannot have left out another one that fires
//! behind the same alarm; a watchdog is believed only of a message that left nothing out.

use serde::Deserialize;
use std::collections::BTreeMap;
use tidegate_api::IgnoredAlert;
use tidegate_core::alarm::{AlarmName, Source, Word};
use tidegate_core::ids::{RegionId, ServiceId, TeamId};
use tidegate_core::scope::Scope;
use tidegate_core::team::Team;
use tidegate_core::units::Timestamp;

/// The version of the payload that is read.
pub(crate) const VERSION: &str = "4";
/// The most alerts of one message.
pub(crate) const ALERTS_MAX: usize = 1_000;
/// The longest `why`, in characters.
const WHY_MAX_CHARS: usize = 300;
/// The label that makes an alert a watchdog, and its value.
const WATCHDOG: (&str, &str) = ("tidegate", "watchdog");
/// The annotation that says when a watchdog was evaluated.
const EVALUATED_AT: &str = "at";
/// Labels that name an alarm.
const NAMING: [&str; 4] = ["alertname", "service", "environment", "region"];

/// The payload. It grows with Alertmanager's versions; what is not known here is left out.
#[derive(Debug, Deserialize)]
pub(crate) struct Webhook {
    /// Of the payload's format.
    pub(crate) version: String,
    /// Alerts that were left out because of the receiver's `max_alerts`.
    #[serde(default, rename = "truncatedAlerts")]
    truncated: u64,
    #[serde(default, rename = "groupLabels")]
    group_labels: BTreeMap<String, String>,
    /// What fires and what has ended.
    pub(crate) alerts: Vec<Alert>,
}

/// One alert.
#[derive(Debug, Deserialize)]
pub(crate) struct Alert {
    status: String,
    labels: BTreeMap<String, String>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
    #[serde(rename = "startsAt")]
    starts_at: String,
    #[serde(default, rename = "endsAt")]
    ends_at: String,
}

/// Words by team, place and alarm.
pub(crate) type Words = BTreeMap<TeamId, BTreeMap<Scope, BTreeMap<AlarmName, Word>>>;

/// What a message comes to.
#[derive(Debug, Default)]
pub(crate) struct Heard {
    /// What is told to the teams.
    pub(crate) words: Words,
    /// Alerts that name an alarm, and watchdogs.
    pub(crate) taken: usize,
    /// What is not understood, or not believed.
    pub(crate) ignored: Vec<IgnoredAlert>,
}

/// Whom a message may speak to.
pub(crate) struct Audience<'a> {
    /// The caller's teams.
    pub(crate) teams: &'a [(TeamId, std::sync::Arc<Team>)],
    /// Whether a team deploys, or has deployed, to this place.
    pub(crate) knows: &'a dyn Fn(&TeamId, &Scope) -> bool,
}

/// Alerts that name the same alarm.
#[derive(Default)]
struct Behind<'a> {
    firing: Vec<(&'a Alert, Timestamp)>,
    ended: Vec<(&'a Alert, Timestamp)>,
}

type Key = (TeamId, Scope, AlarmName);

/// Takes a message apart.
#[must_use]
pub(crate) fn hear(message: &Webhook, audience: &Audience<'_>, now: Timestamp) -> Heard {
    let mut heard = Heard::default();
    let mut behind: BTreeMap<Key, Behind<'_>> = BTreeMap::new();
    for alert in &message.alerts {
        let taken = match alert.labels.get(WATCHDOG.0).map(String::as_str) {
            Some(value) if value == WATCHDOG.1 => watchdog(message, alert, audience, now, &mut heard.words),
            _ => alarm(alert, audience).and_then(|key| {
                let (firing, text) = match alert.status.as_str() {
                    "firing" => (true, &alert.starts_at),
                    "resolved" => (false, &alert.ends_at),
                    other => return Err(format!("'{}' is no status of an alert", short(other))),
                };
                let at = Timestamp::parse(text).ok_or_else(|| format!("'{}' is no time", short(text)))?;
                let behind = behind.entry(key).or_default();
                if firing { &mut behind.firing } else { &mut behind.ended }.push((alert, at));
                Ok(())
            }),
        };
        match taken {
            Ok(()) => heard.taken += 1,
            Err(why) => heard.ignored.push(ignored(alert, why)),
        }
    }
    for ((team, scope, name), behind) in behind {
        match behind.word(message) {
            // Whatever a watchdog in the same message says of it.
            Ok(word) => {
                heard.words.entry(team).or_default().entry(scope).or_default().insert(name, word);
            }
            Err(why) => {
                heard.taken -= behind.ended.len();
                heard.ignored.extend(behind.ended.iter().map(|(alert, _)| ignored(alert, why.to_owned())));
            }
        }
    }
    heard
}

impl Behind<'_> {
    /// What all alerts behind an alarm say together: it fires while one does.
    fn word(&self, message: &Webhook) -> Result<Word, &'static str> {
        let newest = |all: &[(&Alert, Timestamp)]| all.iter().map(|(_, at)| *at).max();
        if let Some(since) = newest(&self.firing) {
            let first = self.firing[0].0;
            let why = match self.firing.len() {
                1 => describe(first),
                n => format!("{n} alerts, one of them: {}", describe(first)),
            };
            return Ok(Word::Since { firing: true, since, why: cut(&why) });
        }
        if message.truncated > 0 {
            return Err("the message left alerts out, which may still fire");
        }
        if message.group_labels.keys().any(|label| !NAMING.contains(&label.as_str())) {
            return Err(
                "alerts are grouped by more than alertname, service, environment and region, so others of this \
                        alarm may still fire",
            );
        }
        let since = newest(&self.ended).unwrap_or(Timestamp(0));
        Ok(Word::Since { firing: false, since, why: format!("Alertmanager: it ended at {since}") })
    }
}

/// The alarm that an alert names.
fn alarm(alert: &Alert, audience: &Audience<'_>) -> Result<Key, String> {
    let label = |name: &str| {
        let value = alert.labels.get(name).filter(|value| !value.is_empty());
        value.ok_or_else(|| format!("it has no label '{name}'"))
    };
    let service = ServiceId::new(label("service")?.as_str()).map_err(|e| e.to_string())?;
    let owns = |(_, team): &&(TeamId, std::sync::Arc<Team>)| team.services.iter().any(|s| s.name == service);
    let (id, team) = audience
        .teams
        .iter()
        .find(owns)
        .ok_or_else(|| format!("no team of the caller's has a service '{service}'"))?;
    let scope = format!("{}/{}", label("environment")?, label("region")?);
    let scope = Scope::try_from(scope).map_err(|e| e.to_string())?;
    let name = AlarmName::new(label("alertname")?.as_str()).map_err(|e| e.to_string())?;
    let of_service = team.services.iter().filter(|s| s.name == service).flat_map(|s| &s.outside);
    match of_service.into_iter().find(|alarm| alarm.name == name) {
        Some(alarm) if alarm.from != Source::Alertmanager => {
            return Err(format!("the alarm '{name}' is not told by an Alertmanager"));
        }
        Some(_) => {}
        None => return Err(format!("the service '{service}' has no alarm '{name}' from outside")),
    }
    if !(audience.knows)(id, &scope) {
        return Err(format!("{id} does not deploy to {scope}"));
    }
    Ok((id.clone(), scope, name))
}

/// A watchdog says of every alarm of the places that it names, or of all, that it would be heard.
fn watchdog(
    message: &Webhook,
    alert: &Alert,
    audience: &Audience<'_>,
    now: Timestamp,
    words: &mut Words,
) -> Result<(), String> {
    if alert.status != "firing" {
        return Err("a watchdog that has ended says nothing".to_owned());
    }
    if message.truncated > 0 {
        return Err("the message left alerts out, so silence of others says nothing".to_owned());
    }
    let at = match alert.annotations.get(EVALUATED_AT) {
        Some(text) => time(text).ok_or_else(|| format!("its annotation '{EVALUATED_AT}' is no time"))?,
        None => now,
    };
    let is = |label: &str, value: &str| alert.labels.get(label).is_none_or(|wanted| wanted == value);
    let mut any = false;
    for (id, team) in audience.teams {
        for scope in places(alert, id, team, audience) {
            let services = team.services.iter().filter(|service| is("service", service.name.as_str()));
            let alarms = services.flat_map(|s| &s.outside).filter(|a| a.from == Source::Alertmanager);
            for alarm in alarms {
                any = true;
                let of_scope = words.entry(id.clone()).or_default().entry(scope.clone()).or_default();
                let why = format!("Alertmanager told of no such alert; its watchdog spoke at {at}");
                of_scope.entry(alarm.name.clone()).or_insert(Word::Quiet { at, why });
            }
        }
    }
    if any { Ok(()) } else { Err("it speaks for no alarm of a team of the caller's".to_owned()) }
}

/// The places of a team that a watchdog speaks for: the one that it names, or all that fit.
fn places(alert: &Alert, id: &TeamId, team: &Team, audience: &Audience<'_>) -> Vec<Scope> {
    let label = |name: &str| alert.labels.get(name).map(String::as_str);
    if let (Some(environment), Some(region)) = (label("environment"), label("region")) {
        let scope = Scope::try_from(format!("{environment}/{region}")).ok();
        return scope.filter(|scope| (audience.knows)(id, scope)).into_iter().collect();
    }
    let fits = |scope: &&Scope| {
        let region: &RegionId = &scope.region;
        label("environment").is_none_or(|wanted| wanted == scope.environment.as_str())
            && label("region").is_none_or(|wanted| wanted == region.as_str())
    };
    team.scopes.keys().filter(fits).cloned().collect()
}

/// Seconds since 1970 as Prometheus prints a value, or RFC 3339.
fn time(text: &str) -> Option<Timestamp> {
    let seconds = text.parse::<f64>().ok().filter(|seconds| (0.0..1e11).contains(seconds));
    match seconds {
        Some(seconds) => Some(Timestamp((seconds * 1_000.0) as i64)),
        None => Timestamp::parse(text),
    }
}

fn describe(alert: &Alert) -> String {
    let said = ["summary", "description", "message"].iter().find_map(|name| alert.annotations.get(*name));
    match said {
        Some(text) => text.clone(),
        None => format!("it fires since {}", short(&alert.starts_at)),
    }
}

fn ignored(alert: &Alert, why: String) -> IgnoredAlert {
    let name = alert.labels.get("alertname").map_or("(without a name)", String::as_str);
    IgnoredAlert { alert: short(name), why }
}

fn cut(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(WHY_MAX_CHARS).collect()
}

fn short(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(80).collect()
}

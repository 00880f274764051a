//! Checks alarms: their names, how far they look back, what they ask, and whom.

use super::{Findings, is_web_address};
use crate::alarm::{AlarmName, Metric, MetricAlarm, OutsideAlarm};
use crate::definition::{OrganisationDef, PrometheusDef, ServiceDef};
use crate::team::{aggregate_name, composite_names, metric_alarms};
use std::collections::{BTreeMap, BTreeSet};

/// How far back monitoring keeps metrics, in seconds: an alarm that looks back further would never see all of its periods.
const METRICS_KEPT_SECONDS: u64 = 900;
/// The longest query, in bytes.
const QUERY_MAX_BYTES: usize = 4_096;
/// The most alarms from outside that one service may have.
const OUTSIDE_MAX: usize = 200;

pub(super) fn organisation(f: &mut Findings, def: &OrganisationDef) {
    connected(f, "/prometheus", def.prometheus.as_ref());
    for (n, team) in def.teams.iter().enumerate() {
        connected(f, &format!("/teams/{n}/prometheus"), team.prometheus.as_ref());
        let services: Vec<(usize, &ServiceDef)> =
            def.services.iter().enumerate().filter(|(_, s)| s.team == team.name).collect();
        outside_names(f, &services);
    }
    for (n, service) in def.services.iter().enumerate() {
        let asks =
            def.prometheus.is_some() || def.team(&service.team).is_some_and(|team| team.prometheus.is_some());
        of_service(f, n, service, asks);
    }
}

fn connected(f: &mut Findings, place: &str, prometheus: Option<&PrometheusDef>) {
    if prometheus.is_some_and(|p| !is_web_address(&p.url)) {
        let message = "this is no address that can be called";
        f.add(
            "TG140",
            format!("{place}/url"),
            message,
            "write http://host:port or https://host, without spaces",
        );
    }
}

fn of_service(f: &mut Findings, n: usize, service: &ServiceDef, can_ask: bool) {
    let mut names = BTreeSet::new();
    for (m, alarm) in service.alarms.iter().enumerate() {
        if !names.insert(&alarm.name) {
            let message = format!("'{}' stands here a second time", alarm.name);
            let hint = "alarm names are unique within a service";
            f.add("TG110", format!("/services/{n}/alarms/{m}/name"), message, hint);
        }
        let place = format!("/services/{n}/alarms/{m}");
        looks_back(f, &place, alarm);
        if let Metric::Promql { query } = &alarm.metric {
            asks(f, &format!("{place}/metric"), query, can_ask);
        }
    }
    if service.outside.len() > OUTSIDE_MAX {
        let message = format!("{} alarms from outside are more than {OUTSIDE_MAX}", service.outside.len());
        f.add("TG146", format!("/services/{n}/outside"), message, "let a rule outside sum several up");
    }
    for (m, alarm) in service.outside.iter().enumerate() {
        if !(OutsideAlarm::TTL_MIN..=OutsideAlarm::TTL_MAX).contains(&alarm.ttl) {
            let message = format!("a word cannot count for {}", alarm.ttl);
            f.add("TG146", format!("/services/{n}/outside/{m}/ttl"), message, "write 1s to 1d");
        }
    }
}

/// A name that an alarm of the team has already would hide that one, or be hidden by it.
fn outside_names(f: &mut Findings, services: &[(usize, &ServiceDef)]) {
    let mut taken: BTreeMap<AlarmName, &str> = BTreeMap::new();
    for (_, service) in services {
        taken.extend(
            metric_alarms(service).into_iter().map(|alarm| (alarm.name, "a metric alarm of the team")),
        );
    }
    let all: Vec<&ServiceDef> = services.iter().map(|(_, service)| *service).collect();
    let composites = composite_names(&all).into_iter().chain([aggregate_name()]);
    taken.extend(composites.map(|name| (name, "a composite alarm of the team")));
    for (n, service) in services {
        for (m, alarm) in service.outside.iter().enumerate() {
            if let Some(what) = taken.insert(alarm.name.clone(), "another alarm of the team from outside") {
                let message = format!("'{}' is the name of {what}", alarm.name);
                let hint = "alarm names are unique within a team";
                f.add("TG110", format!("/services/{n}/outside/{m}/name"), message, hint);
            }
        }
    }
}

fn looks_back(f: &mut Findings, place: &str, alarm: &MetricAlarm) {
    let seconds = alarm.period.seconds() * alarm.periods() as u64;
    if seconds > METRICS_KEPT_SECONDS {
        let message = format!(
            "'{}' looks back {seconds} s ({} periods), and metrics are kept for {METRICS_KEPT_SECONDS} s",
            alarm.name,
            alarm.periods()
        );
        f.add("TG139", format!("{place}/period"), message, "use a shorter period or fewer data points");
    }
}

fn asks(f: &mut Findings, place: &str, query: &str, can_ask: bool) {
    let place = format!("{place}/promql/query");
    if !can_ask {
        let hint = "name one: \"prometheus\": {\"url\": ...}, of the team or of the organisation";
        f.add("TG147", &*place, "there is no Prometheus that could be asked", hint);
    }
    if query.trim().is_empty() || query.len() > QUERY_MAX_BYTES {
        let message = format!("a query has 1 to {QUERY_MAX_BYTES} bytes");
        f.add("TG147", &*place, message, "record a rule in Prometheus, and ask for its name");
    }
    for unknown in unknown_placeholders(query) {
        let message = format!("'${unknown}' stands for nothing");
        let hint = "$service, $environment, $region and $period stand for something";
        f.add("TG147", &*place, message, hint);
    }
}

/// A `$` before a letter begins a placeholder; any other is PromQL's own.
fn unknown_placeholders(query: &str) -> Vec<&str> {
    query
        .split('$')
        .skip(1)
        .filter_map(|rest| {
            let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
            let name = &rest[..end];
            let begins = name.starts_with(|c: char| c.is_ascii_alphabetic());
            (begins && !["service", "environment", "region", "period"].contains(&name)).then_some(name)
        })
        .collect()
}

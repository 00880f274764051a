//! A team's composite alarms: of each service, of its one-boxes, of the canaries, and the aggregate over them.

use super::{Team, aggregate_name, canaries_name, is_canary, metric_alarms, one_box_name};
use crate::alarm::{AlarmName, AlarmState, MetricAlarm, Scope as Measured, high_severity_name};
use crate::expr::Expression;
use std::collections::BTreeSet;

/// An alarm that is an expression over others.
#[derive(Debug)]
pub(super) struct Composite {
    pub(super) name: AlarmName,
    pub(super) expression: Expression,
    /// The metric alarms beneath it, also through other composites.
    pub(super) leaves: BTreeSet<AlarmName>,
    /// Whether it is in ALARM when all of these are OK.
    pub(super) when_quiet: bool,
}

/// See [`Alarms`].
pub(super) fn composites(team: &Team) -> Vec<Composite> {
    let mut all: Vec<Composite> = Vec::new();
    for (name, expression) in expressions(team) {
        let beneath = |part: &AlarmName| all.iter().find(|composite| &composite.name == part);
        let leaves =
            |part: &AlarmName| beneath(part).map_or_else(|| [part.clone()].into(), |c| c.leaves.clone());
        let state = |part: &AlarmName| match beneath(part) {
            Some(composite) if composite.when_quiet => AlarmState::Alarm,
            _ => AlarmState::Ok,
        };
        let when_quiet = expression.state(state) == AlarmState::Alarm;
        let leaves = expression.names().into_iter().flat_map(leaves).collect();
        all.push(Composite { name, expression, leaves, when_quiet });
    }
    all
}

fn expressions(team: &Team) -> Vec<(AlarmName, Expression)> {
    let any = |names: Vec<AlarmName>| {
        Expression::any_in_alarm(names.iter())
            .unwrap_or_else(|_| Expression::parse("TRUE").expect("a constant parses"))
    };
    let mut all = Vec::new();
    let mut canaries = Vec::new();
    for service in team.services.iter() {
        let (canary, metric): (Vec<MetricAlarm>, Vec<MetricAlarm>) =
            metric_alarms(service).into_iter().partition(is_canary);
        canaries.extend(canary.into_iter().map(|a| a.name));
        let (one_box, whole): (Vec<MetricAlarm>, Vec<MetricAlarm>) =
            metric.into_iter().partition(|a| a.scope == Measured::OneBox);
        let names = |metric: Vec<MetricAlarm>, scope: Measured| {
            let outside = service.outside.iter().filter(|a| a.scope == scope).map(|a| a.name.clone());
            metric.into_iter().map(|a| a.name).chain(outside).collect()
        };
        all.push((high_severity_name(&service.name), any(names(whole, Measured::Service))));
        all.push((one_box_name(&service.name), any(names(one_box, Measured::OneBox))));
    }
    all.push((canaries_name(), any(canaries)));
    let aggregate = team.definition.as_ref().and_then(|d| d.aggregate.clone()).unwrap_or_else(|| {
        let mut parts: Vec<AlarmName> = team.services.iter().map(|s| high_severity_name(&s.name)).collect();
        parts.push(canaries_name());
        any(parts)
    });
    all.push((aggregate_name(), aggregate));
    all
}

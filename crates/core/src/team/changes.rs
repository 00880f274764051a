//! What alarms become by one event: the leaves first, then every composite over them, so that no composite is ever decided on
//! without what changed beneath it.

use super::{AlarmStatus, Composite, LastAlarm, Report, Team, TeamFact};
use crate::alarm::{AlarmName, AlarmState, Heard};
use crate::scope::Scope;
use crate::units::Timestamp;
use std::collections::BTreeSet;

/// A team as it is after the facts so far.
pub(super) struct Changes {
    pub(super) after: Team,
    pub(super) facts: Vec<TeamFact>,
}

impl Changes {
    pub(super) fn of(team: &Team) -> Changes {
        Changes { after: team.clone(), facts: Vec::new() }
    }

    /// Takes what an evaluation says of an alarm that is no expression, unless something newer is known.
    pub(super) fn leaf(&mut self, scope: &Scope, alarm: &AlarmName, report: &Report, at: Timestamp) {
        let before = self.status(scope, alarm);
        // What somebody outside says counts as long as it does, whatever an evaluation thinks of their silence.
        let heard = before.and_then(|b| b.heard);
        let counts = heard.is_some_and(|heard| heard.expires.is_some());
        if counts || before.is_some_and(|b| b.state == report.state || b.since > at) {
            return;
        }
        self.set(scope, alarm, report.clone(), at, vec![report.why.clone()], heard);
    }

    /// Brings every composite of a place up to date. They follow from what is recorded beneath them, whatever the time that
    /// was about: a composite that has changed later than that changes again nevertheless.
    pub(super) fn roll_up(&mut self, scope: &Scope, at: Timestamp) {
        let list =
            |names: &BTreeSet<AlarmName>| names.iter().map(AlarmName::as_str).collect::<Vec<_>>().join(", ");
        for n in 0..self.after.composites().len() {
            let Composite { name, .. } = &self.after.composites()[n];
            let name = name.clone();
            let view = self.after.view(scope, &name, &BTreeSet::new());
            let (state, why) = match (view.in_alarm, view.blind.is_empty()) {
                (true, _) => (AlarmState::Alarm, format!("firing: {}", list(&view.firing))),
                (false, true) => (AlarmState::Ok, "all quiet".to_owned()),
                (false, false) => (AlarmState::InsufficientData, format!("no data: {}", list(&view.blind))),
            };
            let before = self.status(scope, &name);
            if before.is_some_and(|b| b.state == state) {
                continue;
            }
            let at = before.map_or(at, |b| b.since.max(at));
            let evidence = self.after.describe(scope, &view.firing);
            self.set(scope, &name, Report { state, why }, at, evidence, None);
        }
    }

    pub(super) fn set(
        &mut self,
        scope: &Scope,
        alarm: &AlarmName,
        report: Report,
        at: Timestamp,
        evidence: Vec<String>,
        heard: Option<Heard>,
    ) {
        let last_alarm = match report.state {
            AlarmState::Alarm => Some(LastAlarm { at, evidence }),
            _ => self.status(scope, alarm).and_then(|b| b.last_alarm.clone()),
        };
        let unsettled = match report.state {
            AlarmState::Alarm => true,
            AlarmState::Ok => false,
            AlarmState::InsufficientData => self.status(scope, alarm).is_some_and(|b| b.unsettled),
        };
        let Report { state, why } = report;
        let status = AlarmStatus { state, since: at, why, last_alarm, heard, unsettled };
        self.push(TeamFact::AlarmChanged { scope: scope.clone(), alarm: alarm.clone(), status });
    }

    pub(super) fn push(&mut self, fact: TeamFact) {
        self.after.apply(&fact);
        self.facts.push(fact);
    }

    pub(super) fn status(&self, scope: &Scope, alarm: &AlarmName) -> Option<&AlarmStatus> {
        self.after.scopes.get(scope).and_then(|alarms| alarms.get(alarm))
    }
}

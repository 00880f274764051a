//! Alarms from outside as a team keeps them: words that come, and words that run out.

use super::{AlarmStatus, Changes, Report, Team, TeamFact};
use crate::alarm::{AlarmName, AlarmState, Heard, Heeded, Known, OutsideAlarm, Word};
use crate::decision::Illegal;
use crate::scope::Scope;
use crate::units::Timestamp;
use std::collections::BTreeMap;

impl Team {
    /// The alarms from outside of all its services.
    pub fn outside(&self) -> impl Iterator<Item = &OutsideAlarm> {
        self.services.iter().flat_map(|service| &service.outside)
    }

    /// When the next word runs out.
    #[must_use]
    pub fn due(&self) -> Option<Timestamp> {
        let of = |alarms: &BTreeMap<AlarmName, AlarmStatus>| {
            let expires = |alarm: &OutsideAlarm| alarms.get(&alarm.name)?.heard?.expires;
            self.outside().filter_map(expires).min()
        };
        // Most teams have none, and many scopes.
        self.outside().next()?;
        self.scopes.values().filter_map(|alarms| of(alarms)).min()
    }

    /// Alarms for which no word counts any more: blind, also those that fired (X2).
    pub(super) fn run_out(&self, now: Timestamp) -> Vec<TeamFact> {
        if self.due().is_none_or(|due| due > now) {
            return Vec::new();
        }
        let mut changes = Changes::of(self);
        for (scope, alarms) in &self.scopes {
            let mut any = false;
            for alarm in self.outside() {
                let Some(status) = alarms.get(&alarm.name) else { continue };
                let Some(heard) = status.heard.filter(|h| h.expires.is_some_and(|at| at <= now)) else {
                    continue;
                };
                any = true;
                changes.silent(scope, alarm, status, heard, now);
            }
            if any {
                changes.roll_up(scope, now);
            }
        }
        changes.facts
    }

    /// Takes words. Each is about an alarm that the definition has, and from its own source.
    pub(super) fn reported(
        &self,
        words: &BTreeMap<Scope, BTreeMap<AlarmName, Word>>,
        now: Timestamp,
    ) -> Result<Vec<TeamFact>, Illegal> {
        let mut heeded = Vec::new();
        // What has run out counts as that, also when its timer comes later than the next word.
        let run_out = self.run_out(now);
        for (scope, words) in words {
            for (name, word) in words {
                let Some(alarm) = self.outside().find(|alarm| &alarm.name == name) else {
                    return Err(Illegal::new(format!("the team has no alarm '{name}' from outside")));
                };
                if alarm.from != word.source() {
                    let who = match word.source() {
                        crate::alarm::Source::Api => "the API",
                        crate::alarm::Source::Alertmanager => "an Alertmanager",
                    };
                    return Err(Illegal::new(format!("the alarm '{name}' is not told by {who}")));
                }
                let status = self.scopes.get(scope).and_then(|alarms| alarms.get(name));
                match known(status, now).hear(alarm, word, now) {
                    Heeded::Nothing => {}
                    other => heeded.push((scope, alarm, other)),
                }
            }
        }
        if heeded.is_empty() {
            return Ok(run_out);
        }
        let mut changes = Changes::of(self);
        run_out.into_iter().for_each(|fact| changes.push(fact));
        let mut places: Vec<&Scope> = Vec::new();
        for (scope, alarm, heeded) in heeded {
            changes.heed(scope, alarm, heeded, now);
            if places.last() != Some(&scope) {
                places.push(scope);
            }
        }
        places.into_iter().for_each(|scope| changes.roll_up(scope, now));
        Ok(changes.facts)
    }
}

/// What is known of an alarm when a word comes.
fn known(status: Option<&AlarmStatus>, now: Timestamp) -> Known {
    let Some(status) = status else { return Known::NOTHING };
    let heard = status.heard.unwrap_or(Heard { at: None, expires: None });
    let state = match heard.expires {
        Some(expires) if expires <= now => AlarmState::InsufficientData,
        _ => status.state,
    };
    Known { state, heard: Heard { expires: heard.expires.filter(|expires| *expires > now), ..heard } }
}

impl Changes {
    fn silent(
        &mut self,
        scope: &Scope,
        alarm: &OutsideAlarm,
        status: &AlarmStatus,
        heard: Heard,
        now: Timestamp,
    ) {
        let heard = Heard { expires: None, ..heard };
        let since = status.heard.and_then(|h| h.expires).unwrap_or(now);
        let why = format!("no word that counts since {since} (ttl {}); it was {}", alarm.ttl, status.state);
        if status.state == AlarmState::InsufficientData {
            let (scope, alarm) = (scope.clone(), alarm.name.clone());
            return self.push(TeamFact::AlarmRenewed { scope, alarm, why, heard });
        }
        let report = Report { state: AlarmState::InsufficientData, why };
        self.set(scope, &alarm.name, report, now, Vec::new(), Some(heard));
    }

    fn heed(&mut self, scope: &Scope, alarm: &OutsideAlarm, heeded: Heeded, now: Timestamp) {
        match heeded {
            Heeded::Nothing => {}
            Heeded::Renewed { why, heard } => {
                let (scope, alarm) = (scope.clone(), alarm.name.clone());
                self.push(TeamFact::AlarmRenewed { scope, alarm, why, heard });
            }
            Heeded::Changed { state, why, heard } => {
                let evidence = vec![why.clone()];
                self.set(scope, &alarm.name, Report { state, why }, now, evidence, Some(heard));
            }
        }
    }
}

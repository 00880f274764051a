//! Alarms whose state comes from outside: the team's Alertmanager, or a program that calls the API. What is heard of one
//! counts for a time; after that the alarm is INSUFFICIENT_DATA, whatever it was (X2).
//!
//! What must hold: a word that is older than the newest one changes nothing that the newer one said, so nothing is gained
//! by saying it again; what somebody asserts of now, against an older end of it, is a contradiction, and that is blindness
//! and neither good nor bad; a watchdog vouches only for what does not fire; nothing but a word makes an alarm OK.

#[cfg(test)]
mod tests;

use super::{AlarmName, AlarmState, Scope};
use crate::units::{Span, Timestamp};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// An end of an alarm that lies further back than this is history, and says nothing of now.
const ENDED_WITHIN: Span = Span::hours(1);

/// An alarm whose state comes from outside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OutsideAlarm {
    /// Unique in its team. Alertmanager says it in the label `alertname`.
    pub name: AlarmName,
    /// Whether it judges every release of the service, or one-boxes alone.
    #[serde(default)]
    pub scope: Scope,
    /// Who says in which state it is.
    #[serde(default)]
    pub from: Source,
    /// How long a word counts: silence for longer is INSUFFICIENT_DATA, and nothing bakes. From one second to one day.
    #[serde(default = "OutsideAlarm::default_ttl")]
    pub ttl: Span,
}

impl OutsideAlarm {
    /// The shortest time that a word may count.
    pub const TTL_MIN: Span = Span::seconds(1);
    /// The longest.
    pub const TTL_MAX: Span = Span::hours(24);

    fn default_ttl() -> Span {
        Span::minutes(5)
    }
}

/// Who says in which state an alarm is. One alarm has one source, so that none undoes what another has said.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// Whoever calls the API with the alarm's name.
    #[default]
    Api,
    /// An Alertmanager by its webhook: it says what fires and what has ended. While nothing fires it says nothing; that this is
    /// health, and not a broken way, is told by an alert that always fires, with the label `tidegate: watchdog`.
    Alertmanager,
}

/// What somebody outside says of an alarm.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Word {
    /// It was in this state then.
    State {
        /// The state.
        state: AlarmState,
        /// Why, for people.
        why: String,
        /// When it was so. A time that has not come yet is taken for now.
        at: Timestamp,
        /// How long that counts, if shorter than the definition's time.
        ttl: Option<Span>,
    },
    /// It fires (or has ended) since then, and that is still so.
    Since {
        /// Whether it fires.
        firing: bool,
        /// Since when.
        since: Timestamp,
        /// Why, for people.
        why: String,
    },
    /// Whoever would say that it fires was well then, and did not.
    Quiet {
        /// When.
        at: Timestamp,
        /// Who says so, for people.
        why: String,
    },
}

impl Word {
    /// Who may say it.
    #[must_use]
    pub fn source(&self) -> Source {
        match self {
            Word::State { .. } => Source::Api,
            Word::Since { .. } | Word::Quiet { .. } => Source::Alertmanager,
        }
    }

    /// Whether it says that something is wrong.
    #[must_use]
    pub fn is_bad(&self) -> bool {
        match self {
            Word::State { state, .. } => *state == AlarmState::Alarm,
            Word::Since { firing, .. } => *firing,
            Word::Quiet { .. } => false,
        }
    }
}

/// What was heard of an alarm from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Heard {
    /// The newest time that a word was about; a watchdog's is about none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<Timestamp>,
    /// Until when what was heard counts; none when it has run out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Timestamp>,
}

/// What follows from a word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Heeded {
    /// Nothing: it is older than what is known, or says the same so soon that it need not be kept.
    Nothing,
    /// The state is as it was, and counts for longer.
    Renewed { why: String, heard: Heard },
    /// Another state.
    Changed { state: AlarmState, why: String, heard: Heard },
}

/// An alarm as it is known when a word comes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Known {
    pub(crate) state: AlarmState,
    pub(crate) heard: Heard,
}

impl Known {
    /// Of what nobody has said anything yet.
    pub(crate) const NOTHING: Known =
        Known { state: AlarmState::InsufficientData, heard: Heard { at: None, expires: None } };

    /// The state, while a word for it counts.
    fn in_force(&self, now: Timestamp) -> Option<AlarmState> {
        self.heard.expires.is_some_and(|expires| expires > now).then_some(self.state)
    }

    /// Takes a word.
    pub(crate) fn hear(&self, alarm: &OutsideAlarm, word: &Word, now: Timestamp) -> Heeded {
        match word {
            Word::State { state, why, at, ttl } => {
                let at = (*at).min(now);
                let ttl = ttl.unwrap_or(alarm.ttl).min(alarm.ttl);
                if at + ttl <= now || self.heard.at.is_some_and(|known| known >= at) {
                    return Heeded::Nothing;
                }
                self.take(*state, why, Heard { at: Some(at), expires: Some(at + ttl) }, ttl, now)
            }
            Word::Since { firing: true, since, why } => self.fires(alarm, (*since).min(now), why, now),
            Word::Since { firing: false, since, why } => self.ended(alarm, (*since).min(now), why, now),
            Word::Quiet { at, why } => {
                let expires = (*at).min(now) + alarm.ttl;
                let newer = self.heard.expires.is_none_or(|known| known < expires);
                if expires <= now || !newer || self.in_force(now).is_some_and(|s| s != AlarmState::Ok) {
                    return Heeded::Nothing;
                }
                let heard = Heard { at: self.heard.at, expires: Some(expires) };
                self.take(AlarmState::Ok, why, heard, alarm.ttl, now)
            }
        }
    }

    fn fires(&self, alarm: &OutsideAlarm, since: Timestamp, why: &str, now: Timestamp) -> Heeded {
        let expires = Some(now + alarm.ttl);
        let newest = self.heard.at.map_or(since, |known| known.max(since));
        let heard = Heard { at: Some(newest), expires };
        // One of several that are behind this alarm may fire for longer than the one that was told of first.
        if newest == since || self.in_force(now) == Some(AlarmState::Alarm) {
            return self.take(AlarmState::Alarm, why, heard, alarm.ttl, now);
        }
        // It ended after that, and nothing has begun since: either this word is an old one, or the end was none. When
        // nothing else counts there is nothing to contradict, and it stays as blind as it is.
        match self.in_force(now) {
            None => Heeded::Nothing,
            Some(_) => {
                let why = format!("a contradiction: it ended at {newest}, and is said to fire since {since}");
                self.take(AlarmState::InsufficientData, &why, heard, alarm.ttl, now)
            }
        }
    }

    fn ended(&self, alarm: &OutsideAlarm, since: Timestamp, why: &str, now: Timestamp) -> Heeded {
        // What has ended is told once: the same again renews nothing.
        if self.heard.at.is_some_and(|known| known >= since) || now.since(since) > ENDED_WITHIN {
            return Heeded::Nothing;
        }
        let heard = Heard { at: Some(since), expires: Some(now + alarm.ttl) };
        match self.in_force(now) {
            Some(AlarmState::Ok) => Heeded::Renewed { why: why.to_owned(), heard },
            _ => self.take(AlarmState::Ok, why, heard, alarm.ttl, now),
        }
    }

    /// The same state is kept anew only when less than half of its time is left: a thousand words a second are one fact.
    fn take(&self, state: AlarmState, why: &str, heard: Heard, ttl: Span, now: Timestamp) -> Heeded {
        let why = why.to_owned();
        if self.state != state {
            return Heeded::Changed { state, why, heard };
        }
        let left = self.heard.expires.map_or(Span::ZERO, |expires| expires.since(now));
        let longer = heard.expires > self.heard.expires;
        if left.millis() > ttl.millis() / 2 || !longer {
            return Heeded::Nothing;
        }
        Heeded::Renewed { why, heard }
    }
}

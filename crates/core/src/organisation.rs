//! The organisation: its definition and its alarms, such as a large-scale event (W2).

use crate::Shared;
use crate::alarm::AlarmName;
use crate::decision::{Actor, Illegal};
use crate::definition::OrganisationDef;
use crate::units::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// State of the organisation.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Organisation {
    /// What was applied last; `None` until the first time.
    pub definition: Option<Shared<OrganisationDef>>,
    /// Alarms in ALARM that hold every start in the organisation.
    pub alarms: BTreeMap<AlarmName, OrganisationAlarm>,
}

/// An alarm that somebody raised for the whole organisation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OrganisationAlarm {
    /// Who raised it.
    pub by: Actor,
    /// Why.
    pub reason: String,
    /// Since when.
    pub since: Timestamp,
}

/// What the organisation can be told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum OrganisationEvent {
    /// A definition that passed [`crate::lint::organisation`].
    Applied {
        /// All of it.
        definition: Box<OrganisationDef>,
    },
    /// Raises an alarm.
    AlarmRaised {
        /// Its name.
        name: AlarmName,
        /// Why.
        reason: String,
        /// By whom.
        by: Actor,
    },
    /// Ends an alarm.
    AlarmCleared {
        /// Its name.
        name: AlarmName,
        /// By whom.
        by: Actor,
    },
}

/// What happened to the organisation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum OrganisationFact {
    /// Its definition was replaced.
    Defined {
        /// All of it.
        definition: Box<OrganisationDef>,
    },
    /// An alarm was raised.
    AlarmRaised {
        /// Its name.
        name: AlarmName,
        /// By whom, why, since when.
        alarm: OrganisationAlarm,
    },
    /// An alarm ended.
    AlarmCleared {
        /// Its name.
        name: AlarmName,
        /// By whom.
        by: Actor,
    },
}

impl Organisation {
    /// The state after a fact.
    pub fn apply(&mut self, fact: &OrganisationFact) {
        match fact {
            OrganisationFact::Defined { definition } => self.definition = Some((**definition).clone().into()),
            OrganisationFact::AlarmRaised { name, alarm } => {
                self.alarms.insert(name.clone(), alarm.clone());
            }
            OrganisationFact::AlarmCleared { name, .. } => {
                self.alarms.remove(name);
            }
        }
    }

    /// Decides on an event: the facts that follow from it.
    pub(crate) fn decide(
        &self,
        event: &OrganisationEvent,
        now: Timestamp,
    ) -> Result<Vec<OrganisationFact>, Illegal> {
        match event {
            OrganisationEvent::Applied { definition } => {
                if self.definition.as_deref() == Some(&**definition) {
                    return Ok(Vec::new());
                }
                Ok(vec![OrganisationFact::Defined { definition: definition.clone() }])
            }
            OrganisationEvent::AlarmRaised { name, reason, by } => {
                let alarm = OrganisationAlarm { by: by.clone(), reason: reason.clone(), since: now };
                Ok(vec![OrganisationFact::AlarmRaised { name: name.clone(), alarm }])
            }
            OrganisationEvent::AlarmCleared { name, by } => {
                if !self.alarms.contains_key(name) {
                    return Err(Illegal::new(format!("the organisation's alarm '{name}' is not raised")));
                }
                Ok(vec![OrganisationFact::AlarmCleared { name: name.clone(), by: by.clone() }])
            }
        }
    }
}

//! A team: its services, the states of its alarms in every environment and Region, the approvals that its members gave,
//! and whose turn it is to come back after a rollback that it did not cause.

mod changes;
mod composites;
mod outside;

use self::changes::Changes;
use self::composites::{Composite, composites};
use crate::Shared;
use crate::alarm::{
    AlarmName, AlarmState, Comparison, Datapoints, Heard, Metric, MetricAlarm, MissingData, Period, Quantity,
    Scope as Measured, Word, alarm_prefix, high_severity_name, standard_alarms,
};
use crate::decision::Illegal;
use crate::definition::{Accounts, LateApproval, ServiceDef, TeamDef};
use crate::forge::Forge;
use crate::ids::{CommitId, PipelineId, ServiceId, UserId};
use crate::scope::Scope;
use crate::units::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, LazyLock, OnceLock};

/// How many approvals a team keeps; the oldest go first. At 100 a day this is more than a year and a half.
pub const APPROVALS_MAX: usize = 65_536;

/// State of a team.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Team {
    /// Its definition; `None` until the first time.
    pub definition: Option<Shared<TeamDef>>,
    /// Its services.
    pub services: Shared<Vec<ServiceDef>>,
    /// Under which addresses members commit.
    pub emails: BTreeMap<UserId, Vec<String>>,
    /// Under which names members review changes on forges.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub accounts: BTreeMap<UserId, Accounts>,
    /// The pipelines of its services.
    pub pipelines: BTreeSet<PipelineId>,
    /// Alarms by environment and Region. An alarm that was never reported there is INSUFFICIENT_DATA.
    pub scopes: BTreeMap<Scope, Shared<BTreeMap<AlarmName, AlarmStatus>>>,
    /// Who approved which commit.
    pub approvals: BTreeMap<CommitId, Vec<Approval>>,
    /// The pipeline whose suspect release is on its way back; one at a time.
    pub suspect_turn: Option<PipelineId>,
    /// Made of the definition when first asked for.
    #[serde(skip)]
    alarms: Alarms,
}

/// What follows from a team's alarms, kept because it is asked for at every decision.
#[derive(Debug, Clone, Default)]
struct Alarms {
    /// Those below the aggregate, the aggregate last; each refers only to metric alarms and to ones before it.
    composites: OnceLock<Arc<[Composite]>>,
    metric: OnceLock<Arc<[MetricAlarm]>>,
    /// Where one is in ALARM, and where one ever was: until one changes.
    firing: OnceLock<Arc<BTreeSet<Scope>>>,
    fired: OnceLock<Arc<BTreeSet<Scope>>>,
    unheard: OnceLock<Arc<BTreeSet<Scope>>>,
}

/// It follows from the definition, the services and the alarms' states, which are compared themselves.
impl PartialEq for Alarms {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

/// An alarm's state and where it comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AlarmStatus {
    /// OK, ALARM or INSUFFICIENT_DATA.
    pub state: AlarmState,
    /// Since when it is in this state.
    pub since: Timestamp,
    /// The values, the threshold and the periods, or the alarms that an expression found firing; for people.
    pub why: String,
    /// The last time that it was in ALARM and what fired then: an alarm that has come and gone still counts for whoever was
    /// under way.
    pub last_alarm: Option<LastAlarm>,
    /// Of an alarm from outside: what was heard of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heard: Option<Heard>,
    /// Whether it has been in ALARM and not been OK since.
    #[serde(default, skip_serializing_if = "is_false")]
    pub unsettled: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_false(value: &bool) -> bool {
    !*value
}

impl AlarmStatus {
    fn is_unheard(&self) -> bool {
        self.heard.is_some() && self.unsettled && self.state == AlarmState::InsufficientData
    }
}

/// The last time that an alarm was in ALARM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LastAlarm {
    /// The end of the period that made it fire.
    pub at: Timestamp,
    /// The metric alarms beneath it and why they fired.
    pub evidence: Vec<String>,
}

/// Somebody's approval of exactly one commit (R1).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Approval {
    /// A member of the team at that time.
    pub by: UserId,
    /// When.
    pub at: Timestamp,
}

/// What a team can be told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum TeamEvent {
    /// The organisation's definition was applied.
    Applied {
        /// The team's part.
        definition: Box<TeamDef>,
        /// Its services.
        services: Vec<ServiceDef>,
        /// Its members' addresses.
        emails: BTreeMap<UserId, Vec<String>>,
        /// Its members' names on forges.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        accounts: BTreeMap<UserId, Accounts>,
    },
    /// Metric alarms were evaluated over periods that ended at `at`. Alarms that are not named keep their state.
    Evaluated {
        /// Where.
        scope: Scope,
        /// The end of the newest period.
        at: Timestamp,
        /// The metric alarms' states.
        alarms: BTreeMap<AlarmName, Report>,
    },
    /// Somebody outside said something of alarms of which they may.
    Reported {
        /// By place and alarm.
        words: BTreeMap<Scope, BTreeMap<AlarmName, Word>>,
    },
    /// Time has passed.
    Tick,
    /// A member approves a commit.
    Approved {
        /// The exact commit.
        commit: CommitId,
        /// The member.
        by: UserId,
    },
}

/// What an evaluation says of one metric alarm.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Report {
    /// Its state.
    pub state: AlarmState,
    /// Why, for people.
    pub why: String,
}

/// What happened to a team.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum TeamFact {
    /// Its definition was replaced.
    Defined {
        /// The team's part.
        definition: Box<TeamDef>,
        /// Its services.
        services: Vec<ServiceDef>,
        /// Its members' addresses.
        emails: BTreeMap<UserId, Vec<String>>,
        /// Its members' names on forges.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        accounts: BTreeMap<UserId, Accounts>,
    },
    /// One of its services got a pipeline.
    PipelineAdded {
        /// Which.
        pipeline: PipelineId,
    },
    /// A pipeline was deleted.
    PipelineRemoved {
        /// Which.
        pipeline: PipelineId,
    },
    /// An alarm changed its state.
    AlarmChanged {
        /// Where.
        scope: Scope,
        /// Which.
        alarm: AlarmName,
        /// Its state now.
        status: AlarmStatus,
    },
    /// What was heard of an alarm from outside counts for longer; its state is as it was.
    AlarmRenewed {
        /// Where.
        scope: Scope,
        /// Which.
        alarm: AlarmName,
        /// What was said last.
        why: String,
        /// Until when that counts.
        heard: Heard,
    },
    /// A commit was approved.
    Approved {
        /// The exact commit.
        commit: CommitId,
        /// By whom and when.
        approval: Approval,
    },
    /// A suspect release of this pipeline is on its way back.
    SuspectTurnTaken {
        /// The pipeline.
        pipeline: PipelineId,
    },
    /// It has arrived, or was rejected.
    SuspectTurnEnded {
        /// The pipeline.
        pipeline: PipelineId,
    },
}

/// The aggregate alarm's name within a team.
#[must_use]
pub fn aggregate_name() -> AlarmName {
    static NAME: LazyLock<AlarmName> =
        LazyLock::new(|| AlarmName::new("High_Severity_Aggregate").expect("a valid name"));
    NAME.clone()
}

/// The name of a service's one-box alarm (M4).
#[must_use]
pub fn one_box_name(service: &ServiceId) -> AlarmName {
    AlarmName::new(format!("{}_OneBox_High_Severity", alarm_prefix(service)))
        .expect("a service and a word make a valid name")
}

fn canaries_name() -> AlarmName {
    AlarmName::new("Canaries_High_Severity").expect("a valid name")
}

/// A service's metric alarms in every environment and Region: its own, or the standard set with one over its canaries.
#[must_use]
pub fn metric_alarms(service: &ServiceDef) -> Vec<MetricAlarm> {
    let mut all =
        if service.alarms.is_empty() { standard_alarms(&service.name) } else { service.alarms.clone() };
    if !service.canaries.is_empty() && !all.iter().any(is_canary) {
        all.push(standard_canary_alarm(&service.name));
    }
    all
}

fn is_canary(alarm: &MetricAlarm) -> bool {
    alarm.metric == Metric::CanaryFailures
}

/// More than half of the canary runs of a minute failed, in 2 of 3 minutes.
fn standard_canary_alarm(service: &ServiceId) -> MetricAlarm {
    MetricAlarm {
        name: AlarmName::new(format!("{}_High_Canary_Failures", alarm_prefix(service)))
            .expect("a service and a word make a valid name"),
        scope: Measured::Service,
        metric: Metric::CanaryFailures,
        comparison: Comparison::Above,
        threshold: Quantity::whole(50),
        period: Period::default(),
        datapoints: Datapoints::default(),
        missing: MissingData::Missing,
        min_samples: 1,
    }
}

/// The names that a team's aggregate may be made of: every metric alarm, every one from outside, and every composite below
/// the aggregate.
#[must_use]
pub fn known_names(services: &[&ServiceDef]) -> BTreeSet<AlarmName> {
    let mut names = composite_names(services);
    names.extend(services.iter().flat_map(|service| leaf_names(service)));
    names
}

/// The names of the composite alarms below a team's aggregate.
#[must_use]
pub fn composite_names(services: &[&ServiceDef]) -> BTreeSet<AlarmName> {
    let of = |service: &&ServiceDef| [high_severity_name(&service.name), one_box_name(&service.name)];
    services.iter().flat_map(of).chain([canaries_name()]).collect()
}

/// The names of a service's alarms that are no expressions: its metric alarms and those from outside.
#[must_use]
pub fn leaf_names(service: &ServiceDef) -> Vec<AlarmName> {
    let outside = service.outside.iter().map(|alarm| alarm.name.clone());
    metric_alarms(service).into_iter().map(|alarm| alarm.name).chain(outside).collect()
}

/// What a composite alarm says, down to the metric alarms beneath it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    /// Whether it is in ALARM.
    pub in_alarm: bool,
    /// The metric alarms beneath it that are in ALARM and not masked.
    pub firing: BTreeSet<AlarmName>,
    /// The metric alarms beneath it without data: while there are any, nothing bakes (X2).
    pub blind: BTreeSet<AlarmName>,
}

impl Team {
    /// The state of a metric or composite alarm as it was last recorded.
    #[must_use]
    pub fn alarm(&self, scope: &Scope, name: &AlarmName) -> AlarmState {
        self.scopes.get(scope).and_then(|a| a.get(name)).map_or(AlarmState::InsufficientData, |s| s.state)
    }

    /// Where an alarm is in ALARM: nothing fires elsewhere.
    #[must_use]
    pub fn firing(&self) -> &BTreeSet<Scope> {
        self.alarms.firing.get_or_init(|| self.scopes_with(|alarm| alarm.state == AlarmState::Alarm))
    }

    /// Where an alarm from outside has fired, and has run out since without a word that it is over.
    #[must_use]
    pub fn unheard(&self) -> &BTreeSet<Scope> {
        self.alarms.unheard.get_or_init(|| self.scopes_with(AlarmStatus::is_unheard))
    }

    /// Whether this alarm is such a one.
    #[must_use]
    pub fn is_unheard(&self, scope: &Scope, alarm: &AlarmName) -> bool {
        self.scopes.get(scope).and_then(|alarms| alarms.get(alarm)).is_some_and(AlarmStatus::is_unheard)
    }

    /// Where an alarm has ever been in ALARM: nothing has fired elsewhere.
    #[must_use]
    pub fn fired(&self) -> &BTreeSet<Scope> {
        self.alarms.fired.get_or_init(|| self.scopes_with(|alarm| alarm.last_alarm.is_some()))
    }

    fn scopes_with(&self, holds: impl Fn(&AlarmStatus) -> bool) -> Arc<BTreeSet<Scope>> {
        let any = |alarms: &BTreeMap<AlarmName, AlarmStatus>| alarms.values().any(&holds);
        let scopes: BTreeSet<Scope> =
            self.scopes.iter().filter(|(_, alarms)| any(alarms)).map(|(scope, _)| scope.clone()).collect();
        scopes.into()
    }

    /// Since when the aggregate alarm has not been in ALARM; `None` while it is.
    #[must_use]
    pub fn aggregate_quiet_since(&self, scope: &Scope) -> Option<Timestamp> {
        match self.scopes.get(scope).and_then(|a| a.get(&aggregate_name())) {
            Some(status) if status.state == AlarmState::Alarm => None,
            Some(status) => Some(status.since),
            None => Some(Timestamp(0)),
        }
    }

    /// What a composite alarm says with some metric alarms masked as OK (an override's masks).
    #[must_use]
    pub fn view(&self, scope: &Scope, name: &AlarmName, masked: &BTreeSet<AlarmName>) -> View {
        let mut view = View { in_alarm: false, firing: BTreeSet::new(), blind: BTreeSet::new() };
        // As nearly always: every metric alarm beneath it is OK.
        let recorded = self.scopes.get(scope);
        let is_ok = |leaf| recorded.and_then(|all| all.get(leaf)).is_some_and(|a| a.state == AlarmState::Ok);
        if let Some(composite) = self.composites().iter().find(|c| &c.name == name)
            && composite.leaves.iter().all(is_ok)
        {
            view.in_alarm = composite.when_quiet;
            return view;
        }
        view.in_alarm =
            self.look(self.scopes.get(scope).map(|all| &**all), name, masked, &mut view) == AlarmState::Alarm;
        view
    }

    fn composites(&self) -> &[Composite] {
        self.alarms.composites.get_or_init(|| composites(self).into())
    }

    /// The metric alarms of all its services.
    #[must_use]
    pub fn metric_alarms(&self) -> &[MetricAlarm] {
        self.alarms.metric.get_or_init(|| self.services.iter().flat_map(metric_alarms).collect())
    }

    fn look(
        &self,
        recorded: Option<&BTreeMap<AlarmName, AlarmStatus>>,
        name: &AlarmName,
        masked: &BTreeSet<AlarmName>,
        view: &mut View,
    ) -> AlarmState {
        let Some(composite) = self.composites().iter().find(|composite| &composite.name == name) else {
            let recorded = recorded.and_then(|alarms| alarms.get(name));
            let state = match recorded {
                _ if masked.contains(name) => AlarmState::Ok,
                Some(status) => status.state,
                None => AlarmState::InsufficientData,
            };
            match state {
                AlarmState::Alarm => view.firing.insert(name.clone()),
                AlarmState::InsufficientData => view.blind.insert(name.clone()),
                AlarmState::Ok => false,
            };
            return state;
        };
        let names = composite.expression.names().into_iter();
        let states: Vec<(&AlarmName, AlarmState)> =
            names.map(|part| (part, self.look(recorded, part, masked, view))).collect();
        let state_of = |part: &AlarmName| states.iter().find(|(name, _)| *name == part).map(|(_, s)| *s);
        composite.expression.state(|part| state_of(part).unwrap_or(AlarmState::InsufficientData))
    }

    /// The words that describe firing alarms: each one's name and why.
    #[must_use]
    pub fn describe(&self, scope: &Scope, names: &BTreeSet<AlarmName>) -> Vec<String> {
        let status = |name: &AlarmName| self.scopes.get(scope).and_then(|a| a.get(name));
        names.iter().map(|n| format!("{n}: {}", status(n).map_or("no data", |s| s.why.as_str()))).collect()
    }

    /// Whether approvals may come after the merge.
    #[must_use]
    pub fn late_approval(&self) -> LateApproval {
        self.definition.as_ref().map_or(LateApproval::Forbid, |d| d.late_approval)
    }

    /// The user who commits under this address, if it is a known one.
    #[must_use]
    pub fn user_of(&self, email: &str) -> Option<&UserId> {
        self.emails
            .iter()
            .find(|(_, all)| all.iter().any(|e| e.eq_ignore_ascii_case(email)))
            .map(|(user, _)| user)
    }

    /// Whether a user commits under this address, whoever else does as well.
    #[must_use]
    pub fn commits_as(&self, user: &UserId, email: &str) -> bool {
        self.emails.get(user).is_some_and(|all| all.iter().any(|e| e.eq_ignore_ascii_case(email)))
    }

    /// The member who reviews under this name, if it is a known one.
    #[must_use]
    pub fn user_on(&self, forge: Forge, account: &str) -> Option<&UserId> {
        let is = |accounts: &Accounts| accounts.on(forge).is_some_and(|a| a.eq_ignore_ascii_case(account));
        self.accounts.iter().find(|(_, accounts)| is(accounts)).map(|(user, _)| user)
    }

    /// The state after a fact.
    pub fn apply(&mut self, fact: &TeamFact) {
        match fact {
            TeamFact::Defined { definition, services, emails, accounts } => {
                self.definition = Some((**definition).clone().into());
                self.services = services.clone().into();
                self.emails.clone_from(emails);
                self.accounts.clone_from(accounts);
                self.alarms = Alarms::default();
            }
            TeamFact::PipelineAdded { pipeline } => {
                self.pipelines.insert(pipeline.clone());
            }
            TeamFact::PipelineRemoved { pipeline } => {
                self.pipelines.remove(pipeline);
            }
            TeamFact::AlarmChanged { scope, alarm, status } => {
                self.scopes.entry(scope.clone()).or_default().insert(alarm.clone(), status.clone());
                (self.alarms.firing, self.alarms.fired) = (OnceLock::new(), OnceLock::new());
                self.alarms.unheard = OnceLock::new();
            }
            TeamFact::AlarmRenewed { scope, alarm, why, heard } => {
                let alarms = self.scopes.get_mut(scope);
                if let Some(status) = alarms.and_then(|alarms| alarms.get_mut(alarm)) {
                    status.why.clone_from(why);
                    status.heard = Some(*heard);
                }
            }
            TeamFact::Approved { commit, approval } => {
                self.approvals.entry(commit.clone()).or_default().push(approval.clone());
                while self.approvals.len() > APPROVALS_MAX {
                    let oldest = self.approvals.iter().min_by_key(|(_, a)| a.iter().map(|a| a.at).max());
                    let Some(oldest) = oldest.map(|(commit, _)| commit.clone()) else { break };
                    self.approvals.remove(&oldest);
                }
            }
            TeamFact::SuspectTurnTaken { pipeline } => self.suspect_turn = Some(pipeline.clone()),
            TeamFact::SuspectTurnEnded { pipeline } => {
                if self.suspect_turn.as_ref() == Some(pipeline) {
                    self.suspect_turn = None;
                }
            }
        }
    }

    /// Decides on an event: the facts that follow from it.
    pub(crate) fn decide(&self, event: &TeamEvent, now: Timestamp) -> Result<Vec<TeamFact>, Illegal> {
        match event {
            TeamEvent::Applied { definition, services, emails, accounts } => {
                if self.definition.as_deref() == Some(&**definition)
                    && *self.services == *services
                    && &self.emails == emails
                    && &self.accounts == accounts
                {
                    return Ok(Vec::new());
                }
                let (definition, services) = (definition.clone(), services.clone());
                let (emails, accounts) = (emails.clone(), accounts.clone());
                Ok(vec![TeamFact::Defined { definition, services, emails, accounts }])
            }
            TeamEvent::Evaluated { scope, at, alarms } => Ok(self.evaluated(scope, *at, alarms)),
            TeamEvent::Reported { words } => self.reported(words, now),
            TeamEvent::Tick => Ok(self.run_out(now)),
            TeamEvent::Approved { commit, by } => {
                let member = self.definition.as_ref().is_some_and(|d| d.members.contains(by));
                if !member {
                    return Err(Illegal::new(format!(
                        "{by} is not a member of this team, and only members approve"
                    )));
                }
                if self.approvals.get(commit).is_some_and(|all| all.iter().any(|a| &a.by == by)) {
                    return Ok(Vec::new());
                }
                let approval = Approval { by: by.clone(), at: now };
                Ok(vec![TeamFact::Approved { commit: commit.clone(), approval }])
            }
        }
    }

    fn evaluated(
        &self,
        scope: &Scope,
        at: Timestamp,
        reports: &BTreeMap<AlarmName, Report>,
    ) -> Vec<TeamFact> {
        let mut changes = Changes::of(self);
        for (alarm, report) in reports {
            changes.leaf(scope, alarm, report, at);
        }
        changes.roll_up(scope, at);
        changes.facts
    }
}

//! Any aggregate: the one place where events meet states. `decide` is total and deterministic; `apply` folds facts. What
//! `decide` returns as the new state is what folding its facts gives (rule 10).

use crate::alarm::AlarmState;
use crate::decision::{
    AggregateId, Decision, Effect, EffectId, Event, Fact, ForwardEffect, Illegal, NewEffect, Page, PageKind,
    Severity,
};
use crate::lease::Lease;
use crate::organisation::{Organisation, OrganisationFact};
use crate::pipeline::{Pipeline, Snapshots, told_of_ends};
use crate::team::{Team, TeamFact, aggregate_name};
use crate::units::Timestamp;
use serde::{Deserialize, Serialize};

/// The state of one aggregate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum State {
    /// Of the organisation.
    Organisation(Organisation),
    /// Of a team.
    Team(Team),
    /// Of a pipeline.
    Pipeline(Pipeline),
    /// Of a lease.
    Lease(Lease),
}

/// A fact that is not of this aggregate's kind: the log or the caller is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a fact of another kind of aggregate was recorded for {0}")]
pub struct WrongKind(pub String);

impl State {
    /// The state before any fact.
    #[must_use]
    pub fn initial(id: &AggregateId) -> State {
        match id {
            AggregateId::Organisation => State::Organisation(Organisation::default()),
            AggregateId::Team(_) => State::Team(Team::default()),
            AggregateId::Pipeline(_) => State::Pipeline(Pipeline::default()),
            AggregateId::Lease(_) => State::Lease(Lease::default()),
        }
    }

    /// The state after a fact.
    ///
    /// # Errors
    /// The fact is of another kind.
    pub fn apply(&mut self, fact: &Fact) -> Result<(), WrongKind> {
        match (self, fact) {
            (State::Organisation(state), Fact::Organisation(fact)) => state.apply(fact),
            (State::Team(state), Fact::Team(fact)) => state.apply(fact),
            (State::Pipeline(state), Fact::Pipeline(fact)) => state.apply(fact),
            (State::Lease(state), Fact::Lease(fact)) => state.apply(fact),
            (state, _) => return Err(WrongKind(state.kind().to_owned())),
        }
        Ok(())
    }

    fn kind(&self) -> &'static str {
        match self {
            State::Organisation(_) => "the organisation",
            State::Team(_) => "a team",
            State::Pipeline(_) => "a pipeline",
            State::Lease(_) => "a lease",
        }
    }
}

/// Decides on an event: the new state of the event's aggregate, and everything that follows.
///
/// `snapshots` are used by pipelines only; `now` must not decrease within an aggregate.
///
/// # Errors
/// The event does not fit the state; nothing happens.
pub fn decide(
    state: State,
    event: &Event,
    now: Timestamp,
    snapshots: &Snapshots,
) -> Result<(State, Decision), Illegal> {
    match (state, event) {
        (State::Organisation(mut state), Event::Organisation(event)) => {
            let facts = state.decide(event, now)?;
            facts.iter().for_each(|fact| state.apply(fact));
            let wake_all = !facts.is_empty();
            let facts = facts
                .into_iter()
                .map(|f: OrganisationFact| (AggregateId::Organisation, Fact::Organisation(f)));
            Ok((
                State::Organisation(state),
                Decision { facts: facts.collect(), wake_all, ..Decision::default() },
            ))
        }
        (State::Team(mut state), Event::Team(id, event)) => {
            let facts = state.decide(event, now)?;
            let effects =
                facts.iter().filter_map(|fact| alarm_page(&state, id.as_str(), fact, now)).collect();
            facts.iter().for_each(|fact| state.apply(fact));
            let mut decision = Decision { effects, due: state.due(), ..Decision::default() };
            // That a state lasts changes nothing for anybody.
            if facts.iter().any(|fact| !matches!(fact, TeamFact::AlarmRenewed { .. })) {
                decision.wake = state.pipelines.iter().cloned().map(AggregateId::Pipeline).collect();
            }
            decision.facts =
                facts.into_iter().map(|f| (AggregateId::Team(id.clone()), Fact::Team(f))).collect();
            Ok((State::Team(state), decision))
        }
        (State::Pipeline(state), Event::Pipeline(id, event)) => {
            let (state, decision) = crate::pipeline::decide(id, state, event, now, snapshots)?;
            Ok((State::Pipeline(state), decision))
        }
        (state, event) => {
            Err(Illegal::new(format!("{} cannot take an event for {}", state.kind(), event.aggregate())))
        }
    }
}

/// The aggregate alarm pages the on-call engineer when it fires (M6), and says when it is over. `team` is as it was before.
fn alarm_page(team: &Team, id: &str, fact: &TeamFact, now: Timestamp) -> Option<NewEffect> {
    let TeamFact::AlarmChanged { scope, alarm, status } = fact else { return None };
    if *alarm != aggregate_name() {
        return None;
    }
    let before = team.scopes.get(scope).and_then(|alarms| alarms.get(alarm));
    let unsettled = before.is_some_and(|before| before.unsettled);
    let pages = team.definition.as_ref().map(|d| d.pages.clone())?;
    let (kind, severity, to, text) = match status.state {
        AlarmState::Alarm => {
            let evidence = status.last_alarm.as_ref().map(|l| l.evidence.join("\n")).unwrap_or_default();
            let text = format!(
                "{evidence}\nSince: {}\nDeployments of the team in this Region are rolled back.\nNext: tidegate status",
                status.since
            );
            (PageKind::Opened, Severity::High, pages, text)
        }
        AlarmState::Ok if unsettled => {
            let text = format!("Over: the aggregate alarm is OK since {}.", status.since);
            (PageKind::Resolved, Severity::Low, told_of_ends(&pages), text)
        }
        AlarmState::Ok | AlarmState::InsufficientData => return None,
    };
    if to.is_empty() {
        return None;
    }
    let title = format!("{id}: the aggregate alarm fires in {scope}");
    let page =
        Page { key: format!("{id}/alarm/{scope}"), severity, title, text, at: now, to, kind, about: None };
    let over = if kind == PageKind::Resolved { "over/" } else { "" };
    let name = EffectId(format!("team/{id}/page/{over}{scope}/{}/{}", status.since.0, now.0));
    Some(NewEffect { id: name, effect: Effect::Forward(ForwardEffect::Page(page)) })
}

//! Who may tell the runtime what, and telling it. Blocking: to be called through [`super::Api::run`].

use super::ApiError;
use super::extract::Caller;
use crate::auth::Rights;
use tidegate_api::{AlarmRequest, ApprovalRequest, Code, Done, VERSION};
use tidegate_core::alarm::AlarmName;
use tidegate_core::decision::{Event, Fact};
use tidegate_core::ids::{CommitId, PipelineId, TeamId};
use tidegate_core::organisation::OrganisationEvent;
use tidegate_core::pipeline::{PipelineEvent, PipelineFact};
use tidegate_core::team::TeamEvent;
use tidegate_runtime::{Outcome, Runtime};

/// The longest reason, in characters.
const REASON_MAX_CHARS: usize = 1_000;
/// The fewest digits of a commit that an approval may name.
const COMMIT_DIGITS_MIN: usize = 7;

/// Checks that a reason is one.
pub(super) fn reason(text: &str) -> Result<String, ApiError> {
    let text = text.trim();
    if text.is_empty() {
        return Err(ApiError::bad(
            "a reason is missing",
            "say why; it stands in the log and beside the state",
        ));
    }
    if text.chars().count() > REASON_MAX_CHARS {
        let message = format!("the reason is longer than {REASON_MAX_CHARS} characters");
        return Err(ApiError::bad(message, "say it shorter"));
    }
    Ok(text.to_owned())
}

/// Only administrators pass.
pub(super) fn administrator(runtime: &Runtime, caller: &Caller) -> Result<(), ApiError> {
    let organisation = runtime.organisation()?;
    if (Rights { user: &caller.0, organisation: organisation.definition.as_deref() }).administrator() {
        return Ok(());
    }
    let message = format!("{} is not an administrator", caller.0);
    Err(ApiError::forbidden(message, "ask an administrator of the organisation"))
}

/// Tells a pipeline something in the name of a member of its team.
pub(super) fn steer(
    runtime: &Runtime,
    caller: &Caller,
    id: &PipelineId,
    event: PipelineEvent,
) -> Result<Outcome, ApiError> {
    let team = owner(runtime, id)?;
    let organisation = runtime.organisation()?;
    if !(Rights { user: &caller.0, organisation: organisation.definition.as_deref() }).member(&team) {
        let message = format!("{} is not a member of the team '{team}', which owns '{id}'", caller.0);
        return Err(ApiError::forbidden(message, "ask a member of the team"));
    }
    Ok(runtime.submit(&Event::Pipeline(id.clone(), event), &caller.actor())?)
}

/// The team that owns a pipeline.
fn owner(runtime: &Runtime, id: &PipelineId) -> Result<TeamId, ApiError> {
    let pipeline = runtime.pipeline(id)?.filter(|p| p.definition.is_some());
    pipeline.and_then(|p| p.team.clone()).ok_or_else(|| {
        ApiError::not_found(format!("there is no pipeline '{id}'"), "see 'tidegate status' for their names")
    })
}

/// Deletes a pipeline. Definitions are the administrators', and so is their end.
pub(super) fn retire(
    runtime: &Runtime,
    caller: &Caller,
    id: &PipelineId,
    text: &str,
) -> Result<Done, ApiError> {
    administrator(runtime, caller)?;
    owner(runtime, id)?;
    let event = PipelineEvent::RetireOrdered { by: caller.actor(), reason: reason(text)? };
    runtime.submit(&Event::Pipeline(id.clone(), event), &caller.actor())?;
    Ok(done(format!("{id} is retired; its boxes run on, and applying its definition revives it")))
}

/// The number of the hold, override or skip that came of an order.
pub(super) fn number(outcome: &Outcome) -> Option<u64> {
    outcome.facts.iter().find_map(|(_, fact)| match fact {
        Fact::Pipeline(
            PipelineFact::HoldPlaced { number, .. }
            | PipelineFact::Overridden { number, .. }
            | PipelineFact::RegionSkipped { number, .. },
        ) => Some(*number),
        _ => None,
    })
}

/// An answer without a number.
pub(super) fn done(text: impl Into<String>) -> Done {
    Done { version: VERSION, text: text.into(), number: None }
}

/// Records an approval.
pub(super) fn approve(
    runtime: &Runtime,
    caller: &Caller,
    request: ApprovalRequest,
) -> Result<Done, ApiError> {
    let organisation = runtime.organisation()?;
    let teams = Rights { user: &caller.0, organisation: organisation.definition.as_deref() }.teams();
    let team = match (request.team, teams.as_slice()) {
        (Some(team), _) if teams.contains(&team) => team,
        (Some(team), _) => {
            let message = format!("{} is not a member of the team '{team}'", caller.0);
            return Err(ApiError::forbidden(message, "ask a member of the team"));
        }
        (None, [only]) => only.clone(),
        (None, []) => {
            let message = format!("{} is in no team, and only members of a team approve", caller.0);
            return Err(ApiError::forbidden(message, "ask a member of the team"));
        }
        (None, _) => {
            let names: Vec<&str> = teams.iter().map(TeamId::as_str).collect();
            let hint = format!("name one of {}", names.join(", "));
            return Err(ApiError::new(Code::Ambiguous, "you are a member of more than one team", hint));
        }
    };
    let commit = full_name(runtime, &team, &request.commit)?;
    let event = TeamEvent::Approved { commit: commit.clone(), by: caller.0.clone() };
    let outcome = runtime.submit(&Event::Team(team.clone(), event), &caller.actor())?;
    let known = if outcome.facts.is_empty() { " already" } else { "" };
    Ok(done(format!("{} is{known} approved for {team} by {}", commit.short(), caller.0)))
}

/// The commit that is meant: a full name as it is, or the only one that begins so among those that the team's pipelines
/// have seen.
fn full_name(runtime: &Runtime, team: &TeamId, text: &str) -> Result<CommitId, ApiError> {
    if let Ok(commit) = CommitId::new(text) {
        return Ok(commit);
    }
    if text.len() < COMMIT_DIGITS_MIN {
        let message = format!("'{text}' names no commit: it has fewer than {COMMIT_DIGITS_MIN} digits");
        return Err(ApiError::bad(message, "write more digits"));
    }
    let mut found: Option<CommitId> = None;
    for id in &runtime.team(team)?.pipelines {
        let Some(pipeline) = runtime.pipeline(id)? else { continue };
        let pending = pipeline.sources.values().flat_map(|s| s.pending.iter().map(|seen| &seen.commit.id));
        let released = pipeline.releases.values().flat_map(|r| r.changes.iter().map(|c| &c.commit.id));
        for commit in pending.chain(released).filter(|c| c.as_str().starts_with(text)) {
            if found.as_ref().is_some_and(|other| other != commit) {
                let message = format!("more than one commit begins with '{text}'");
                return Err(ApiError::new(Code::Ambiguous, message, "write more digits"));
            }
            found = Some(commit.clone());
        }
    }
    found.ok_or_else(|| {
        let message = format!("no commit that the pipelines of {team} have seen begins with '{text}'");
        ApiError::not_found(message, "a commit that is not merged yet is approved by its full name")
    })
}

/// Raises or clears an alarm of the organisation.
pub(super) fn alarm(
    runtime: &Runtime,
    caller: &Caller,
    name: AlarmName,
    raise: Option<AlarmRequest>,
) -> Result<Done, ApiError> {
    administrator(runtime, caller)?;
    let by = caller.actor();
    let (event, text) = match raise {
        Some(request) => {
            let text = format!("alarm {name} is raised; nothing starts anywhere until it is cleared");
            (OrganisationEvent::AlarmRaised { name, reason: reason(&request.reason)?, by }, text)
        }
        None => {
            let text = format!("alarm {name} is cleared");
            (OrganisationEvent::AlarmCleared { name, by }, text)
        }
    };
    runtime.submit(&Event::Organisation(event), &caller.actor())?;
    Ok(done(text))
}

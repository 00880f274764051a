//! Takes definitions: reads them, checks them, and tells the organisation, its teams and its pipelines. A definition with a
//! finding changes nothing. Each finding says where it is, in the text as it was sent.

use std::collections::BTreeMap;
use tidegate_api::document::{FINDINGS_MAX, placed, plain, read};
use tidegate_api::{Applied, Finding, VERSION};
use tidegate_core::decision::{Actor, Event};
use tidegate_core::definition::{OrganisationDef, PipelineDef};
use tidegate_core::explore;
use tidegate_core::lint;
use tidegate_core::organisation::OrganisationEvent;
use tidegate_core::pipeline::PipelineEvent;
use tidegate_core::plan::plan;
use tidegate_core::team::TeamEvent;
use tidegate_runtime::{Runtime, RuntimeError, SubmitError};

/// The most pipelines that are explored ([`explore`]) when an organisation's definition lays them out anew; each takes up to
/// 0.3 s. All of them pass the static checks.
pub const EXPLORED_MAX: usize = 16;

/// Why a definition was not taken. Nothing has changed, unless it is [`ApplyError::Submit`] on an organisation: then some of
/// its teams may not have been told; applying it again, or the next start of the server, tells them.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// It is not right.
    #[error("the definition has {} findings", .0.len())]
    Findings(Vec<Finding>),
    /// A pipeline needs an organisation to live in.
    #[error("no organisation has been applied yet")]
    NoOrganisation,
    /// It was not recorded.
    #[error(transparent)]
    Submit(#[from] SubmitError),
    /// What is there cannot be read.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
}

/// Takes an organisation's definition: checks it, and every pipeline against it, and tells the organisation and its teams.
///
/// # Errors
/// See [`ApplyError`].
pub fn organisation(runtime: &Runtime, text: &str, by: &Actor, dry_run: bool) -> Result<Applied, ApplyError> {
    let definition: OrganisationDef = read(text).map_err(ApplyError::Findings)?;
    let mut findings = placed(lint::organisation(&definition), text);
    let mut explored = 0;
    for id in runtime.pipelines()? {
        if findings.len() >= FINDINGS_MAX {
            break;
        }
        let Some(pipeline) = runtime.pipeline(&id)? else { continue };
        // A retired pipeline holds nobody; whoever revives it has it checked then.
        let Some(of_pipeline) = pipeline.definition.as_deref().filter(|_| pipeline.life.is_active()) else {
            continue;
        };
        findings.extend(
            lint::pipeline(of_pipeline, &definition)
                .into_iter()
                .map(|finding| Finding { pipeline: Some(id.to_string()), ..plain(finding) }),
        );
        // Another Region list may lay a pipeline out anew.
        if findings.is_empty() && explored < EXPLORED_MAX && plan(of_pipeline, &definition) != *pipeline.plan
        {
            explored += 1;
            let found = explore::findings(of_pipeline, &definition).into_iter();
            findings.extend(found.map(|f| Finding { pipeline: Some(id.to_string()), ..plain(f) }));
        }
    }
    refuse(findings)?;
    let name = definition.name.clone();
    let mut changed = runtime.organisation()?.definition.as_deref() != Some(&definition);
    if !dry_run {
        let event = OrganisationEvent::Applied { definition: Box::new(definition.clone()) };
        changed = !runtime.submit(&Event::Organisation(event), by)?.facts.is_empty();
        tell_teams(runtime, &definition, by)?;
    }
    Ok(Applied { version: VERSION, name, changed, dry_run, findings: Vec::new() })
}

/// Takes a pipeline's definition.
///
/// # Errors
/// See [`ApplyError`].
pub fn pipeline(runtime: &Runtime, text: &str, by: &Actor, dry_run: bool) -> Result<Applied, ApplyError> {
    let definition: PipelineDef = read(text).map_err(ApplyError::Findings)?;
    let organisation = runtime.organisation()?;
    let organisation = organisation.definition.as_deref().ok_or(ApplyError::NoOrganisation)?;
    refuse(placed(lint::pipeline(&definition, organisation), text))?;
    let name = definition.name.clone();
    let before = runtime.pipeline(&name)?;
    let mut changed =
        before.is_none_or(|p| p.definition.as_deref() != Some(&definition) || !p.life.is_active());
    if changed {
        refuse(placed(explore::findings(&definition, organisation), text))?;
    }
    if !dry_run {
        let event = PipelineEvent::Applied { definition: Box::new(definition) };
        changed = !runtime.submit(&Event::Pipeline(name.clone(), event), by)?.facts.is_empty();
    }
    Ok(Applied { version: VERSION, name: name.to_string(), changed, dry_run, findings: Vec::new() })
}

/// Tells the teams what the organisation's definition says of them, in case a server ended in the middle of that. To be
/// called when a server starts; tells nothing that is known.
///
/// # Errors
/// A team cannot be told.
pub fn complete(runtime: &Runtime) -> Result<(), SubmitError> {
    let organisation = runtime.organisation()?;
    organisation.definition.as_deref().map_or(Ok(()), |d| tell_teams(runtime, d, &Actor::Tidegate))
}

fn tell_teams(runtime: &Runtime, definition: &OrganisationDef, by: &Actor) -> Result<(), SubmitError> {
    for team in &definition.teams {
        let members = definition.users.iter().filter(|u| team.members.contains(&u.name));
        let emails: BTreeMap<_, _> = members.map(|u| (u.name.clone(), u.emails.clone())).collect();
        let services = definition.services.iter().filter(|s| s.team == team.name).cloned().collect();
        let event = TeamEvent::Applied { definition: Box::new(team.clone()), services, emails };
        runtime.submit(&Event::Team(team.name.clone(), event), by)?;
    }
    Ok(())
}

fn refuse(mut findings: Vec<Finding>) -> Result<(), ApplyError> {
    findings.truncate(FINDINGS_MAX);
    if findings.is_empty() { Ok(()) } else { Err(ApplyError::Findings(findings)) }
}

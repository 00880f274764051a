//! Takes definitions: checks all that are given together, each against what would be there, and tells the organisation, its
//! teams and its pipelines. Definitions with a finding change nothing, none of them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use tidegate_api::document::FINDINGS_MAX;
use tidegate_core::decision::{Actor, Event};
use tidegate_core::definition::{Definition, EngineDef, OrganisationDef, PipelineDef};
use tidegate_core::explore;
use tidegate_core::ids::PipelineId;
use tidegate_core::lint::{self, Finding};
use tidegate_core::organisation::OrganisationEvent;
use tidegate_core::pipeline::{Pipeline, PipelineEvent};
use tidegate_core::plan::plan;
use tidegate_core::team::TeamEvent;
use tidegate_runtime::{Runtime, RuntimeError, SubmitError};

/// The most layouts that are explored ([`explore`]) when definitions are taken: with 24 Regions and 76 AZs each takes some
/// 0.1 s of CPU. Pipelines of one layout are explored once; all of them pass the static checks.
pub const EXPLORED_MAX: usize = 64;
/// How many explored layouts are remembered: pipelines that come one by one are mostly of a few.
const LAYOUTS_KEPT_MAX: usize = 1_024;

/// Something that keeps definitions from being taken.
#[derive(Debug, Clone, PartialEq)]
pub struct Wrong {
    /// Where it is.
    pub of: Of,
    /// What it is.
    pub finding: Finding,
}

/// What a finding is in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Of {
    /// A definition that was given, by its index.
    Given(usize),
    /// A pipeline that was not given, and that a new organisation's definition would break.
    Pipeline(PipelineId),
}

/// Why definitions were not taken. Nothing has changed, unless it is [`ApplyError::Submit`]: then what comes before the one
/// that was not recorded is there (the organisation first), and applying all of them again takes the rest.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// They are not right.
    #[error("the definitions have {} findings", .0.len())]
    Wrong(Vec<Wrong>),
    /// A pipeline needs an organisation to live in.
    #[error("no organisation has been applied yet")]
    NoOrganisation,
    /// One was not recorded.
    #[error(transparent)]
    Submit(#[from] SubmitError),
    /// What is there cannot be read.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
}

/// Applies definitions, one set after the other: so each is judged against what will be there.
#[derive(Clone)]
pub struct Applier {
    runtime: Arc<Runtime>,
    turn: Arc<Mutex<Explored>>,
}

/// What was found in layouts, within one definition of the organisation.
#[derive(Default)]
struct Explored {
    organisation: Option<OrganisationDef>,
    layouts: BTreeMap<String, Vec<Finding>>,
}

impl Explored {
    /// Keeps what still holds within this organisation.
    fn within(&mut self, organisation: &OrganisationDef) -> &mut BTreeMap<String, Vec<Finding>> {
        if self.organisation.as_ref() != Some(organisation) || self.layouts.len() > LAYOUTS_KEPT_MAX {
            self.organisation = Some(organisation.clone());
            self.layouts.clear();
        }
        &mut self.layouts
    }
}

impl Applier {
    /// For a runtime; there is one for each.
    #[must_use]
    pub fn new(runtime: Arc<Runtime>) -> Applier {
        Applier { runtime, turn: Arc::default() }
    }

    /// Takes definitions, all of them or none, and says of each whether it differs from what was there.
    ///
    /// # Errors
    /// See [`ApplyError`].
    pub fn apply(&self, given: &[Definition], by: &Actor, dry_run: bool) -> Result<Vec<bool>, ApplyError> {
        self.apply_if(given, by, dry_run, |_| Ok(Vec::new()))
    }

    /// As [`Applier::apply`], if `may` finds nothing wrong either: nothing changes between its look and the taking.
    ///
    /// # Errors
    /// See [`ApplyError`].
    pub fn apply_if(
        &self,
        given: &[Definition],
        by: &Actor,
        dry_run: bool,
        may: impl FnOnce(&Runtime) -> Result<Vec<Wrong>, RuntimeError>,
    ) -> Result<Vec<bool>, ApplyError> {
        let mut turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let mut wrong = may(&self.runtime)?;
        wrong.extend(self.judge(given, &mut turn)?);
        if !wrong.is_empty() {
            wrong.truncate(FINDINGS_MAX);
            return Err(ApplyError::Wrong(wrong));
        }
        // Pipelines live in the organisation.
        let mut order: Vec<usize> = (0..given.len()).collect();
        order.sort_by_key(|n| matches!(given[*n], Definition::Pipeline(_)));
        let mut changed = vec![false; given.len()];
        for n in order {
            changed[n] = match &given[n] {
                Definition::Organisation(definition) => self.organisation(definition, by, dry_run)?,
                Definition::Pipeline(definition) => self.pipeline(definition, by, dry_run)?,
            };
        }
        Ok(changed)
    }

    /// What is wrong with definitions, as if all of them were there.
    fn judge(&self, given: &[Definition], explored: &mut Explored) -> Result<Vec<Wrong>, ApplyError> {
        let new = given.iter().find_map(|definition| match definition {
            Definition::Organisation(organisation) => Some(&**organisation),
            Definition::Pipeline(_) => None,
        });
        let known = self.runtime.organisation()?;
        let Some(organisation) = new.or(known.definition.as_deref()) else {
            return if given.is_empty() { Ok(Vec::new()) } else { Err(ApplyError::NoOrganisation) };
        };
        let mut judge = Judge { organisation, layouts: explored.within(organisation), explored: 0 };
        let mut wrong = twice(given);
        for (n, definition) in given.iter().enumerate() {
            let found = match definition {
                Definition::Organisation(organisation) => lint::organisation(organisation),
                Definition::Pipeline(pipeline) => {
                    judge.pipeline(pipeline, self.runtime.pipeline(&pipeline.name)?.as_deref())
                }
            };
            wrong.extend(found.into_iter().map(|finding| Wrong { of: Of::Given(n), finding }));
        }
        if new.is_some() {
            let names: BTreeSet<_> = given.iter().filter_map(pipeline_name).collect();
            for id in self.runtime.pipelines()?.into_iter().filter(|id| !names.contains(id)) {
                if wrong.len() >= FINDINGS_MAX {
                    break;
                }
                let Some(pipeline) = self.runtime.pipeline(&id)? else { continue };
                // A retired pipeline holds nobody; whoever revives it has it checked then.
                let active = pipeline.definition.as_deref().filter(|_| pipeline.life.is_active());
                let found = active.map(|definition| judge.pipeline(definition, Some(&pipeline)));
                let of = || Of::Pipeline(id.clone());
                wrong.extend(found.into_iter().flatten().map(|finding| Wrong { of: of(), finding }));
            }
        }
        Ok(wrong)
    }

    fn organisation(&self, new: &OrganisationDef, by: &Actor, dry_run: bool) -> Result<bool, ApplyError> {
        if dry_run {
            return Ok(self.runtime.organisation()?.definition.as_deref() != Some(new));
        }
        let event = OrganisationEvent::Applied { definition: Box::new(new.clone()) };
        let changed = !self.runtime.submit(&Event::Organisation(event), by)?.facts.is_empty();
        tell_teams(&self.runtime, new, by)?;
        Ok(changed)
    }

    fn pipeline(&self, new: &PipelineDef, by: &Actor, dry_run: bool) -> Result<bool, ApplyError> {
        if dry_run {
            return Ok(differs(new, self.runtime.pipeline(&new.name)?.as_deref()));
        }
        let event = PipelineEvent::Applied { definition: Box::new(new.clone()) };
        Ok(!self.runtime.submit(&Event::Pipeline(new.name.clone(), event), by)?.facts.is_empty())
    }
}

/// Judges pipelines within an organisation.
struct Judge<'o> {
    organisation: &'o OrganisationDef,
    /// What the exploration of each layout found.
    layouts: &'o mut BTreeMap<String, Vec<Finding>>,
    /// How many were explored for this judgement.
    explored: usize,
}

impl Judge<'_> {
    /// What is wrong with a definition, where `known` is the pipeline of that name. One that changes nothing was explored
    /// before.
    fn pipeline(&mut self, definition: &PipelineDef, known: Option<&Pipeline>) -> Vec<Finding> {
        let mut found = lint::pipeline(definition, self.organisation);
        found.extend(known.and_then(|k| lint::successor(k.definition.as_deref()?, definition)));
        let same = !differs(definition, known)
            && known.is_some_and(|known| *known.plan == plan(definition, self.organisation));
        if same || !found.is_empty() {
            return found;
        }
        // All that the exploration looks at: what is built and run changes nothing of how it goes through the steps.
        let team = self.organisation.service(&definition.service).map(|service| &service.team);
        let sources: Vec<_> = definition.sources.iter().map(|source| &source.name).collect();
        // With every default in it, and with the profile, which decides on waves as well.
        let PipelineDef { stages, rolling, rollback, .. } = &definition.completed(self.organisation);
        let profile = definition.profile(self.organisation);
        let fleet = matches!(definition.run.engine, EngineDef::Configuration(_));
        let of = (team, sources, stages, rolling, rollback, profile, fleet, definition.defines());
        let layout = serde_json::to_string(&of).unwrap_or_default();
        let full = self.explored >= EXPLORED_MAX;
        match self.layouts.get(&layout) {
            Some(found) => found.clone(),
            None if full => Vec::new(),
            None => {
                let found = explore::findings(definition, self.organisation);
                self.explored += 1;
                self.layouts.insert(layout, found.clone());
                found
            }
        }
    }
}

fn differs(definition: &PipelineDef, known: Option<&Pipeline>) -> bool {
    known.is_none_or(|known| known.definition.as_deref() != Some(definition) || !known.life.is_active())
}

fn pipeline_name(definition: &Definition) -> Option<PipelineId> {
    match definition {
        Definition::Pipeline(pipeline) => Some(pipeline.name.clone()),
        Definition::Organisation(_) => None,
    }
}

/// Definitions that cannot be there together.
fn twice(given: &[Definition]) -> Vec<Wrong> {
    let mut seen = BTreeSet::new();
    let again = given.iter().enumerate().filter(|(_, one)| !seen.insert(pipeline_name(one)));
    let told = again.map(|(n, one)| {
        let what =
            pipeline_name(one).map_or("the organisation".to_owned(), |name| format!("pipeline '{name}'"));
        let message = format!("{what} is defined twice");
        let finding = Finding::new("TG143", "/name", message, "leave one of the definitions");
        Wrong { of: Of::Given(n), finding }
    });
    told.collect()
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
        let mut accounts = definition.accounts();
        accounts.retain(|user, _| team.members.contains(user));
        let event = TeamEvent::Applied { definition: Box::new(team.clone()), services, emails, accounts };
        runtime.submit(&Event::Team(team.name.clone(), event), by)?;
    }
    Ok(())
}

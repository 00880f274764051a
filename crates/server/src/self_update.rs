//! Pipelines as code that apply themselves: what a pipeline deploys to this server is taken in as if an administrator had
//! applied it, within what the pipeline may define.

use crate::apply::{Applier, ApplyError, Of, Wrong};
use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};
use tidegate_core::causes;
use tidegate_core::decision::Actor;
use tidegate_core::definition::{Definition, PipelineDef};
use tidegate_core::ids::{SecretName, TeamId};
use tidegate_core::lint::Finding;
use tidegate_core::pipeline::Pipeline;
use tidegate_core::run_spec::{DefinitionsScope, DefinitionsSpec};
use tidegate_runtime::{Runtime, RuntimeError};
use tidegate_synth::{Problem, Synth, SynthError, Synthesized};
use tidegate_workers::command_engine::{Definitions, Given};

/// The most findings that are told as what is in a deployment's way; of the others in the folder it is told how many there are.
const TOLD_MAX: usize = 3;

/// Takes in what pipelines deploy to this server.
pub(crate) struct SelfUpdate {
    synth: Synth,
    /// Known once the server is put together: the engine that asks is opened before, because its epoch counts.
    server: OnceLock<Server>,
}

struct Server {
    runtime: Arc<Runtime>,
    applier: Applier,
}

impl SelfUpdate {
    /// With what evaluates folders.
    #[must_use]
    pub(crate) fn new(synth: Synth) -> SelfUpdate {
        SelfUpdate { synth, server: OnceLock::new() }
    }

    /// From now on definitions are taken.
    pub(crate) fn begin(&self, runtime: Arc<Runtime>, applier: Applier) {
        // A server is put together once.
        let _ = self.server.set(Server { runtime, applier });
    }

    fn problems(&self, made: &Synthesized, found: Vec<(usize, Finding)>) -> String {
        match self.synth.problems(made, found) {
            Ok(problems) => told(&problems),
            Err(error) => causes(&error),
        }
    }
}

impl Definitions for SelfUpdate {
    fn take(&self, given: &Given<'_>) -> Result<(), String> {
        let server = self.server.get().ok_or("the server is still starting")?;
        let made =
            self.synth.folder(&given.package.join(&given.spec.folder)).map_err(|error| match error {
                SynthError::Problems { problems, .. } => told(&problems),
                other => causes(&other),
            })?;
        let by = server.actor(given).map_err(|error| causes(&error))?;
        // A retired pipeline is revived by a person.
        let mut taken: Vec<usize> = Vec::new();
        for (n, document) in made.documents.iter().enumerate() {
            if server.is_retired(&document.subject).map_err(|error| causes(&error))? {
                tracing::warn!(slot = %given.slot, "{} is retired, and stays so", document.name());
            } else {
                taken.push(n);
            }
        }
        loop {
            let definitions: Vec<Definition> =
                taken.iter().map(|n| made.documents[*n].subject.clone()).collect();
            let may = |runtime: &Runtime| beyond(runtime, given, &definitions);
            let wrong = match server.applier.apply_if(&definitions, &by, false, may) {
                Ok(changed) => {
                    let changed = changed.iter().filter(|changed| **changed).count();
                    let all = definitions.len();
                    tracing::info!(slot = %given.slot, by = %by, "{changed} of {all} definitions changed");
                    return Ok(());
                }
                Err(ApplyError::Wrong(wrong)) => wrong,
                Err(error) => return Err(causes(&error)),
            };
            let words = self.words(&made, &taken, &wrong);
            if !given.rollback {
                return Err(words);
            }
            // What was before may not fit any more: an administrator has changed the rest, or a pipeline that came with the
            // organisation stays. Nothing holds the return of all else. Each turn leaves something out, so this ends.
            tracing::warn!(slot = %given.slot, "of what is returned to, this cannot be taken and is left out: {words}");
            let organisation = |n: usize| matches!(made.documents[n].subject, Definition::Organisation(_));
            let in_the_way = |at: usize, n: usize| {
                wrong.iter().any(|wrong| match &wrong.of {
                    Of::Given(given) => *given == at,
                    Of::Pipeline(_) => organisation(n),
                })
            };
            let left: Vec<usize> =
                taken.iter().enumerate().filter(|(at, n)| !in_the_way(*at, **n)).map(|(_, n)| *n).collect();
            if left.len() == taken.len() {
                return Err(words);
            }
            taken = left;
        }
    }
}

impl SelfUpdate {
    /// What is wrong, with the lines of what is in the folder; `taken` are the documents that were given.
    fn words(&self, made: &Synthesized, taken: &[usize], wrong: &[Wrong]) -> String {
        let (mut here, mut elsewhere) = (Vec::new(), Vec::new());
        for wrong in wrong {
            match &wrong.of {
                Of::Given(n) => here.push((taken[*n], wrong.finding.clone())),
                Of::Pipeline(id) => elsewhere.push(format!("pipeline {id}: {}", wrong.finding)),
            }
        }
        let mut told: Vec<String> = Vec::new();
        if !here.is_empty() {
            told.push(self.problems(made, here));
        }
        told.extend(elsewhere.into_iter().take(TOLD_MAX));
        told.join("; ")
    }
}

/// What a pipeline has no right to define.
fn beyond(
    runtime: &Runtime,
    given: &Given<'_>,
    definitions: &[Definition],
) -> Result<Vec<Wrong>, RuntimeError> {
    let deployer = runtime.pipeline(&given.slot.pipeline)?;
    let now = deployer.as_ref().and_then(|pipeline| pipeline.definition.as_deref()?.defines());
    // The narrower of what it may by its release and by its definition of today: a scope can be taken away.
    let everything = |spec: &DefinitionsSpec| spec.scope == DefinitionsScope::Organisation;
    if everything(given.spec) && now.is_some_and(everything) {
        return Ok(Vec::new());
    }
    let organisation = runtime.organisation()?;
    let known = organisation.definition.as_deref();
    let own = deployer.as_ref().and_then(|pipeline| pipeline.team.clone());
    let mut secrets: BTreeSet<SecretName> = BTreeSet::new();
    for id in runtime.pipelines()? {
        let Some(pipeline) = runtime.pipeline(&id)?.filter(|pipeline| pipeline.team == own) else { continue };
        secrets.extend(pipeline.definition.iter().flat_map(|definition| secrets_of(definition)).cloned());
    }
    let hint = "an administrator applies it, or the scope of the pipeline that deploys this folder is 'organisation'";
    let mut found = Vec::new();
    for (n, definition) in definitions.iter().enumerate() {
        let (place, what) = match definition {
            Definition::Organisation(_) => ("", "the organisation".to_owned()),
            Definition::Pipeline(new) => {
                // A service that nobody knows is told by the rules.
                let Some(service) = known.and_then(|known| known.service(&new.service)) else { continue };
                let there = runtime.pipeline(&new.name)?.and_then(|there| there.team.clone());
                let foreign = |team: &TeamId| Some(team) != own.as_ref();
                if new.defines().is_some_and(everything) {
                    (
                        "/run/engine/definitions/scope",
                        "who may define more than the team's pipelines".to_owned(),
                    )
                } else if foreign(&service.team) || there.as_ref().is_some_and(foreign) {
                    ("/service", "pipelines of another team's service".to_owned())
                } else if let Some(secret) = secrets_of(new).find(|secret| !secrets.contains(*secret)) {
                    ("", format!("a use of secret '{secret}', which no pipeline of the team has yet"))
                } else {
                    continue;
                }
            }
        };
        let message = format!("{} may not define {what}", given.slot.pipeline);
        found.push(Wrong { of: Of::Given(n), finding: Finding::new("TG144", place, message, hint) });
    }
    Ok(found)
}

fn secrets_of(definition: &PipelineDef) -> impl Iterator<Item = &SecretName> {
    definition
        .run
        .secrets
        .values()
        .chain(definition.sources.iter().filter_map(|source| source.secret.as_ref()))
        .chain(definition.sources.iter().filter_map(|source| source.review.as_ref()?.token()))
        .chain(definition.sources.iter().filter_map(|source| source.review.as_ref()?.webhook()))
}

impl Server {
    fn is_retired(&self, definition: &Definition) -> Result<bool, RuntimeError> {
        let Definition::Pipeline(pipeline) = definition else { return Ok(false) };
        Ok(self.runtime.pipeline(&pipeline.name)?.is_some_and(|there| !there.life.is_active()))
    }

    /// The release that brings them: its commits say who wrote and approved them.
    fn actor(&self, given: &Given<'_>) -> Result<Actor, RuntimeError> {
        let (pipeline, environment) = (&given.slot.pipeline, &given.slot.target.environment);
        let state = self.runtime.pipeline(pipeline)?;
        let of = |state: &Pipeline| {
            let brings = |no| state.run_spec(no, environment) == Some(given.run_spec);
            state.releases.keys().rev().copied().find(|no| brings(*no))
        };
        let release = state.as_deref().and_then(of);
        Ok(release.map_or(Actor::Tidegate, |release| Actor::Release { pipeline: pipeline.clone(), release }))
    }
}

/// Problems in a line: what is in the way of a deployment is one.
fn told(problems: &[Problem]) -> String {
    let line = |problem: &Problem| {
        let place = problem.place.as_ref().map(|place| format!(" at {place}")).unwrap_or_default();
        format!("{}{place}: {} ({})", problem.code, problem.message, problem.hint)
    };
    let mut lines: Vec<String> = problems.iter().take(TOLD_MAX).map(line).collect();
    if problems.len() > TOLD_MAX {
        lines.push(format!("and {} more", problems.len() - TOLD_MAX));
    }
    lines.join("; ")
}

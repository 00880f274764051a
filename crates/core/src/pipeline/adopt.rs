//! A service that already runs is adopted: what is there becomes release 0, and nothing is deployed. From then on the pipeline
//! goes on as any other, and has something real to return to.

use super::decide::Deciding;
use super::{Build, Motion, Origin, Pipeline, PipelineFact, Release, Standing};
use crate::decision::{Actor, Effect, ForwardEffect, Illegal, SlotOrder};
use crate::definition::EngineDef;
use crate::engine::{Desired, RunningProcess, Share};
use crate::ids::{EnvironmentId, PackageDigest, ReleaseNo, RunSpecDigest, SlotId, TargetId};
use crate::plan::Plan;
use crate::units::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// What was adopted.
pub const ADOPTED: ReleaseNo = ReleaseNo(0);
/// Targets that were forgotten are told one by one up to so many.
const FORGOTTEN_TOLD_MAX: usize = 20;

/// What a person hands over. Whoever tells the core has looked: the package is there, and each target runs what it says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Adoption {
    /// The bytes that run, so that they can be returned to.
    pub package: PackageDigest,
    /// The folder that the package was made of.
    pub from: String,
    /// Where it runs: the processes of a fleet; none where the team's own commands move what is there.
    pub targets: BTreeMap<TargetId, Vec<RunningProcess>>,
    /// Who.
    pub by: Actor,
    /// Why.
    pub reason: String,
}

impl Deciding<'_> {
    /// Takes over what runs, if tidegate has moved nothing of this pipeline yet.
    pub(super) fn adopt(&mut self, adoption: &Adoption) -> Result<(), Illegal> {
        let Some(definition) = self.p.definition.clone() else { return Ok(()) };
        let processes = match &definition.run.engine {
            EngineDef::Process(_) => true,
            EngineDef::Command(_) => false,
            EngineDef::Configuration(_) | EngineDef::Definitions(_) => {
                let text = format!(
                    "{} deploys nothing that could run already: its first release goes its way",
                    self.id
                );
                return Err(Illegal::new(text));
            }
        };
        self.has_moved_nothing()?;
        if adoption.targets.is_empty() {
            return Err(Illegal::new("no target is named"));
        }
        let plan = self.p.reality.as_ref().map_or(&self.p.plan, |reality| &reality.plan);
        for target in adoption.targets.keys() {
            if !plan.targets().any(|t| &t.id == target) {
                return Err(Illegal::new(format!("{} has no target '{target}'", self.id)));
            }
        }
        self.whole_environments(plan, adoption)?;
        for (target, running) in &adoption.targets {
            let Some(planned) = plan.targets().find(|t| &t.id == target) else { continue };
            let boxes = planned.boxes as usize;
            if processes && running.len() != boxes {
                let text = format!(
                    "{target} has {boxes} boxes by its definition, and {} are handed over; what is missing would be started, \
                     and what is beyond stopped",
                    running.len()
                );
                return Err(Illegal::new(text));
            }
        }
        let run_specs = self.make_run_specs(&definition, &adoption.package, &BTreeMap::new());
        let at = self.now;
        self.fact(PipelineFact::Adopted { adoption: adoption.clone(), run_specs, at });
        for (target, running) in &adoption.targets {
            let running = if processes { running.clone() } else { Vec::new() };
            self.order_taken_up(target, running);
        }
        Ok(())
    }

    /// Release 0 is handed over once, so what is forgotten of an environment could never be: the first release would be started
    /// beside what runs there. Environments of which nothing is named are left to the first release on purpose.
    fn whole_environments(&self, plan: &Plan, adoption: &Adoption) -> Result<(), Illegal> {
        let environments: BTreeSet<&EnvironmentId> =
            adoption.targets.keys().map(|t| &t.environment).collect();
        let forgotten = plan.targets().map(|t| &t.id).filter(|target| {
            environments.contains(&target.environment) && !adoption.targets.contains_key(*target)
        });
        let forgotten: Vec<String> = forgotten.map(ToString::to_string).collect();
        if forgotten.is_empty() {
            return Ok(());
        }
        let more = forgotten.len().saturating_sub(FORGOTTEN_TOLD_MAX);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        let text = format!(
            "an environment is handed over as a whole or not at all, and nothing is named for {}{more}",
            forgotten[..forgotten.len().min(FORGOTTEN_TOLD_MAX)].join(", ")
        );
        Err(Illegal::new(text))
    }

    fn has_moved_nothing(&self) -> Result<(), Illegal> {
        if let Some(origin) = self.p.releases.get(&ADOPTED).and_then(|release| release.origin.as_ref()) {
            let text = format!("{} was adopted already, by {} from {}", self.id, origin.by, origin.from);
            return Err(Illegal::new(text));
        }
        let moved =
            self.p.real_slots().iter().find(|(_, slot)| slot.generation > 0 || !slot.history.is_empty());
        match moved {
            None => Ok(()),
            Some((target, _)) => {
                let text = format!(
                    "{} has deployed to {target} already; only what ran before can be adopted",
                    self.id
                );
                Err(Illegal::new(text))
            }
        }
    }

    /// Tells the engine what is there, so that it looks after it.
    fn order_taken_up(&mut self, target: &TargetId, running: Vec<RunningProcess>) {
        let Some(slot) = self.p.real_slots().get(target) else { return };
        let Some(run_spec) = self.p.run_spec(ADOPTED, &target.environment).cloned() else { return };
        let (boxes, generation) = (slot.boxes, slot.generation);
        let desired = Desired {
            split: vec![Share { run_spec, boxes }],
            condemned: Vec::new(),
            minimum_serving: 0,
            surge: false,
            rest: None,
        };
        let slot = SlotId { target: target.clone(), pipeline: self.id.clone() };
        let order = SlotOrder { slot, generation, desired, takes_up: Some(running), acknowledges: None };
        self.effect(format!("{target}/{generation}"), Effect::Forward(ForwardEffect::Deploy(order)));
    }
}

impl Pipeline {
    pub(super) fn take_over(
        &mut self,
        adoption: &Adoption,
        run_specs: &BTreeMap<EnvironmentId, RunSpecDigest>,
        at: Timestamp,
    ) {
        let (by, from, reason) = (adoption.by.clone(), adoption.from.clone(), adoption.reason.clone());
        let release = Release {
            commits: BTreeMap::new(),
            changes: Vec::new(),
            created_at: at,
            build: Build::Built { package: adoption.package.clone(), run_specs: run_specs.clone(), at },
            standing: Standing::Good,
            suspected: 0,
            masks: BTreeMap::new(),
            origin: Some(Origin { by, from, reason }),
        };
        self.releases.insert(ADOPTED, release.into());
        for target in adoption.targets.keys() {
            if let Some(slot) = self.slots.get_mut(target) {
                slot.generation += 1;
                (slot.history, slot.finished) = (vec![ADOPTED], Some(ADOPTED));
                slot.motion = Motion::Settled;
            }
        }
        // A step of which only some targets were handed over has passed nothing; earlier versions took such halves.
        let whole = self
            .plan
            .steps()
            .filter(|(_, step)| step.targets.iter().all(|t| adoption.targets.contains_key(&t.id)));
        let whole: Vec<_> = whole.map(|(_, step)| step.id.clone()).collect();
        for step in whole {
            if let Some(state) = self.steps.get_mut(&step) {
                state.done = Some(ADOPTED);
            }
        }
    }
}

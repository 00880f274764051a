//! What is ordered from engines, builders and testers: from the pipeline's state to effects.

use super::decide::Deciding;
use super::{Break, Motion, Pipeline};
use crate::decision::{
    Awaited, BuildOrder, Effect, EffectId, ForwardEffect, NewEffect, RollbackEffect, SlotOrder, TestOrder,
};
use crate::definition::{EngineDef, PipelineDef, Rolling, StageDef};
use crate::engine::{Desired, Rest, Share};
use crate::ids::{
    EnvironmentId, PackageDigest, ReleaseNo, Role, RunSpecDigest, ServiceId, SlotId, SourceId, TargetId,
};
use crate::plan::{Stage, Step, StepId, Target};
use crate::rollout::{Direction, minimum_healthy, surges};
use crate::run_spec::{RunSpec, Workload};
use crate::team::Team;
use crate::units::{Percent, Span};
use std::collections::{BTreeMap, BTreeSet};

/// Beyond a build's own limit: time in which its result must arrive.
pub(super) const BUILD_GRACE: Span = Span::minutes(10);
/// Beyond the tests' own limits: time in which their result must arrive.
pub(super) const TEST_GRACE: Span = Span::minutes(2);

impl Deciding<'_> {
    /// Orders an effect under a name that is unique in this pipeline: one decision may page twice about the same thing, such as
    /// a release that is taken back in two Regions, and a name that stands twice would keep all of it from being committed.
    pub(super) fn effect(&mut self, name: String, effect: Effect) -> EffectId {
        let mut id = EffectId(format!("{}/{name}", self.id));
        let mut number = 1;
        while self.out.effects.iter().any(|e| e.id == id) {
            number += 1;
            id = EffectId(format!("{}/{name}/{number}", self.id));
        }
        self.out.effects.push(NewEffect { id: id.clone(), effect });
        id
    }

    /// Orders an engine to bring a slot to the split that its motion asks for now. The order before it need not be performed
    /// any more, and must not be: repeated after a restart it would come with a newer epoch, so that engines would take it.
    pub(super) fn order_slot(&mut self, target: &TargetId) {
        if self.p.observes() {
            return self.look_again(self.now);
        }
        let Some(order) = self.order(target) else { return };
        let generation = order.generation;
        let back = matches!(self.p.slots.get(target).map(|s| &s.motion), Some(Motion::Back { .. }));
        let effect = if back {
            Effect::Rollback(RollbackEffect::Return(order))
        } else {
            Effect::Forward(ForwardEffect::Deploy(order))
        };
        self.cancel_order(target, generation - 1);
        self.effect(format!("{target}/{generation}"), effect);
    }

    /// An order to a slot is not performed any more, if it has not been.
    pub(super) fn cancel_order(&mut self, target: &TargetId, generation: u64) {
        let id = EffectId(format!("{}/{target}/{generation}", self.id));
        // What was ordered by this very decision is not there yet to be cancelled.
        self.out.effects.retain(|new| new.id != id);
        self.out.cancelled.push(id);
    }

    pub(super) fn rolling(&self) -> Rolling {
        let mut rolling = self.p.settings().rolling;
        if self.switches.has(Break::HalfBatches) {
            let half = Percent::constant(50);
            (rolling.max_unavailable_percent, rolling.min_healthy_percent) = (half, half);
        }
        rolling
    }

    /// Until when the next box has to be healthy.
    pub(super) fn progress_deadline(&self) -> Awaited {
        Awaited::new(self.now, self.rolling().progress_deadline)
    }

    /// The split that a moving slot is brought to now.
    pub(super) fn order(&self, target: &TargetId) -> Option<SlotOrder> {
        let slot = self.p.slots.get(target)?;
        let spec = |release: ReleaseNo| self.p.run_spec(release, &target.environment).cloned();
        let rolling = self.rolling();
        let share = |release: ReleaseNo, boxes: u32| spec(release).map(|run_spec| Share { run_spec, boxes });
        let (shares, condemned, direction): (Vec<Option<Share>>, Vec<RunSpecDigest>, _) = match &slot.motion {
            Motion::Settled | Motion::Abandoned { .. } => return None,
            Motion::Forward { release, asked, .. } => {
                let rest = slot.boxes.saturating_sub(*asked);
                let old = slot.current().filter(|_| rest > 0).map(|old| share(old, rest));
                let new = if *asked > 0 { Some(share(*release, *asked)) } else { None };
                (new.into_iter().chain(old).collect(), Vec::new(), Direction::Forward)
            }
            Motion::Back { to: None, from, .. } => {
                (Vec::new(), from.keys().filter_map(|r| spec(*r)).collect(), Direction::Back)
            }
            Motion::Back { to: Some(to), from, asked, .. } => {
                let mut shares = if *asked > 0 { vec![share(*to, *asked)] } else { Vec::new() };
                let mut rest = slot.boxes.saturating_sub(*asked);
                // The newest goes first: what remains is filled up from the oldest.
                for (release, had) in from {
                    let keep = (*had).min(rest);
                    rest -= keep;
                    if keep > 0 {
                        shares.push(share(*release, keep));
                    }
                }
                // Boxes that none of them had are the good release's.
                if rest > 0 {
                    match shares.first_mut().filter(|_| *asked > 0) {
                        Some(Some(first)) => first.boxes += rest,
                        _ => shares.insert(0, share(*to, rest)),
                    }
                }
                // Releases of the same bytes share a RunSpec, and what is returned to is not condemned.
                let good = spec(*to);
                let condemned = from.keys().filter_map(|r| spec(*r)).filter(|bad| Some(bad) != good.as_ref());
                (shares, condemned.collect(), Direction::Back)
            }
        };
        let minimum_serving =
            if target.role == Role::OneBox { 0 } else { minimum_healthy(&rolling, slot.boxes) };
        let desired = Desired {
            split: shares.into_iter().collect::<Option<Vec<Share>>>()?,
            condemned,
            minimum_serving,
            surge: surges(&rolling, slot.boxes, direction),
            rest: self.p.is_configuration().then(|| {
                let rest = match &slot.motion {
                    Motion::Forward { release, asked, .. } if *asked > 0 && *asked >= slot.boxes => {
                        Some(*release)
                    }
                    Motion::Back { to, .. } => *to,
                    Motion::Forward { .. } | Motion::Settled | Motion::Abandoned { .. } => slot.current(),
                };
                rest.and_then(spec).map_or(Rest::Nothing, Rest::RunSpec)
            }),
        };
        let slot_id = SlotId { target: target.clone(), pipeline: self.id.clone() };
        Some(SlotOrder {
            slot: slot_id,
            generation: slot.generation,
            desired,
            takes_up: None,
            acknowledges: slot.glass.clone(),
        })
    }

    pub(super) fn order_build(
        &mut self,
        release: ReleaseNo,
        commits: BTreeMap<SourceId, crate::ids::CommitId>,
    ) -> Option<(EffectId, Awaited)> {
        let definition = self.p.definition.clone()?;
        let awaited = Awaited::new(self.now, self.build_limit()?);
        let order = BuildOrder {
            pipeline: self.id.clone(),
            release,
            commits,
            sources: definition.sources.clone(),
            build: definition.build.clone(),
        };
        let name = format!("{release}/build/{}", self.now.0);
        Some((self.effect(name, Effect::Forward(ForwardEffect::Build(order))), awaited))
    }

    pub(super) fn order_tests(
        &mut self,
        stage: &Stage,
        step: &Step,
        release: ReleaseNo,
    ) -> Option<(EffectId, Awaited)> {
        let definition = self.p.definition.clone()?;
        let super::Build::Built { package, .. } = &self.p.releases.get(&release)?.build else { return None };
        let stage_def = definition.stages.iter().find(|s| s.environment == stage.environment)?;
        let regions: BTreeSet<_> = self.p.bakes_in(stage, step, release).into_iter().cloned().collect();
        let awaited = Awaited::new(self.now, self.tests_limit(&step.id, release)?);
        let order = TestOrder {
            pipeline: self.id.clone(),
            step: step.id.clone(),
            release,
            package: package.clone(),
            service: definition.service.clone(),
            environment: stage.environment.clone(),
            regions: regions.into_iter().collect(),
            endpoints: endpoints(&definition, stage_def, &self.team),
            tests: stage.tests.clone(),
        };
        let name = format!("{}/test/{release}/{}", step.id, self.now.0);
        let effect = self.effect(name, Effect::Forward(ForwardEffect::Test(order)));
        Some((effect, awaited))
    }

    /// How long a build may take until its result is there.
    pub(super) fn build_limit(&self) -> Option<Span> {
        Some(self.p.definition.as_ref()?.build.limits.time.plus(BUILD_GRACE))
    }

    /// How long a step's tests may take: each Region's run one after the other.
    pub(super) fn tests_limit(&self, step: &StepId, release: ReleaseNo) -> Option<Span> {
        let (stage, step) = self.p.plan.step(step)?;
        let once = stage.tests.iter().fold(Span::ZERO, |sum, test| sum.plus(test.time_limit));
        let regions: BTreeSet<_> = self.p.bakes_in(stage, step, release).into_iter().collect();
        Some(Span(once.millis().saturating_mul(regions.len() as u64)).plus(TEST_GRACE))
    }

    /// What targets run of a release, of each environment that is not known: made once, when it is built or the environment
    /// is new.
    pub(super) fn make_run_specs(
        &mut self,
        definition: &PipelineDef,
        package: &PackageDigest,
        known: &BTreeMap<EnvironmentId, RunSpecDigest>,
    ) -> BTreeMap<EnvironmentId, RunSpecDigest> {
        let mut specs = run_specs(definition, package, &self.team);
        specs.retain(|environment, _| !known.contains_key(environment));
        let digests = specs.iter().map(|(e, spec)| (e.clone(), spec.digest())).collect();
        // Environments that call the same endpoints share one, and so do releases of the same bytes, such as what was handed over
        // and the first release that was built of it.
        for made in specs.into_values().map(|spec| (spec.digest(), spec)) {
            if !self.out.run_specs.contains(&made) {
                self.out.run_specs.push(made);
            }
        }
        digests
    }
}

/// What targets of each environment run of a package, by a definition and what its team owns.
#[must_use]
pub fn run_specs(
    definition: &PipelineDef,
    package: &PackageDigest,
    team: &Team,
) -> BTreeMap<EnvironmentId, RunSpec> {
    let workload = match &definition.run.engine {
        EngineDef::Process(process) => Workload::Process(process.clone()),
        EngineDef::Command(command) => Workload::Command(command.clone()),
        EngineDef::Configuration(configuration) => Workload::Configuration(configuration.clone()),
        EngineDef::Definitions(definitions) => Workload::Definitions(definitions.clone()),
    };
    let spec = |stage: &StageDef| RunSpec {
        service: definition.service.clone(),
        package: package.clone(),
        environment: definition.run.environment.clone(),
        secrets: definition.run.secrets.clone(),
        endpoints: endpoints(definition, stage, team),
        workload: workload.clone(),
    };
    definition.stages.iter().map(|stage| (stage.environment.clone(), spec(stage))).collect()
}

/// Which environment's endpoints are called (T5): the stage's own for the team's services, production for others'.
fn endpoints(definition: &PipelineDef, stage: &StageDef, team: &Team) -> BTreeMap<ServiceId, EnvironmentId> {
    let production = EnvironmentId::new("production").expect("a word is a valid environment name");
    let own = stage.own.clone().unwrap_or_else(|| stage.environment.clone());
    let others = stage.others.clone().unwrap_or(production);
    let team_owns = |service: &ServiceId| team.services.iter().any(|s| &s.name == service);
    let environment = |service: &ServiceId| if team_owns(service) { own.clone() } else { others.clone() };
    definition.run.calls.iter().map(|service| (service.clone(), environment(service))).collect()
}

/// The leases that targets need to move.
pub(super) fn leases_of(pipeline: &Pipeline, targets: &[&Target]) -> BTreeSet<crate::lease::LeaseId> {
    let Some(definition) = &pipeline.definition else { return BTreeSet::new() };
    targets
        .iter()
        .map(|t| crate::lease::LeaseId::new(&definition.service, crate::scope::Scope::of(&t.id)))
        .collect()
}

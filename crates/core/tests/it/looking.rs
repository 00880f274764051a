//! What is so in a scenario: states, leases, steps, what boxes run, and what has happened so far.

use crate::scenario::{Scenario, scope};
use std::collections::{BTreeMap, BTreeSet};
use tidegate_core::aggregate::State;
use tidegate_core::decision::{AggregateId, EffectId, Fact};
use tidegate_core::ids::{PipelineId, ReleaseNo, SlotId, TargetId, TeamId};
use tidegate_core::invariants::awaited;
use tidegate_core::lease::{Lease, LeaseId};
use tidegate_core::organisation::Organisation;
use tidegate_core::pipeline::{Build, Pipeline, PipelineFact, Snapshots, StepState};
use tidegate_core::plan::StepId;
use tidegate_core::scope::Scope;
use tidegate_core::team::Team;
use tidegate_core::units::Timestamp;

impl Scenario {
    pub(crate) fn state(&self, id: &AggregateId) -> State {
        self.states.get(id).cloned().unwrap_or_else(|| State::initial(id))
    }

    pub(crate) fn snapshots(&self) -> Snapshots {
        let (team, organisation, leases) = (self.team(), self.organisation(), self.leases());
        Snapshots { team: team.into(), organisation: organisation.into(), leases, ..Snapshots::default() }
    }

    pub(crate) fn pipelines(&self) -> Vec<PipelineId> {
        let pipelines = self.states.keys().filter_map(|id| match id {
            AggregateId::Pipeline(id) => Some(id.clone()),
            _ => None,
        });
        pipelines.collect()
    }

    pub(crate) fn pipeline(&self, id: &str) -> Pipeline {
        self.look(id).clone()
    }

    pub(crate) fn look(&self, id: &str) -> &Pipeline {
        match self.states.get(&AggregateId::Pipeline(PipelineId::new(id).unwrap())) {
            Some(State::Pipeline(pipeline)) => pipeline,
            other => panic!("{id} is no pipeline: {other:?}"),
        }
    }

    pub(crate) fn team(&self) -> Team {
        match self.state(&AggregateId::Team(TeamId::new("shop").unwrap())) {
            State::Team(team) => team,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn organisation(&self) -> Organisation {
        match self.state(&AggregateId::Organisation) {
            State::Organisation(organisation) => organisation,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn leases(&self) -> BTreeMap<LeaseId, Lease> {
        let leases = self.states.iter().filter_map(|(id, state)| match (id, state) {
            (AggregateId::Lease(id), State::Lease(lease)) => Some((id.clone(), lease.clone())),
            _ => None,
        });
        leases.collect()
    }

    pub(crate) fn lease(&self, service: &str, place: &str) -> Lease {
        self.leases().remove(&LeaseId::new(&service.parse().unwrap(), scope(place))).unwrap_or_default()
    }

    pub(crate) fn scopes(&self) -> Vec<Scope> {
        let regions = self.organisation().definition.unwrap().regions.clone();
        let of = |environment: &'static str| {
            regions.iter().map(move |r| scope(&format!("{environment}/{}", r.name)))
        };
        let plans = self.pipelines().into_iter().map(|id| self.look(id.as_str()).plan.clone());
        let planned = plans.flat_map(|plan| plan.targets().map(|t| Scope::of(&t.id)).collect::<Vec<_>>());
        let all: BTreeSet<Scope> = of("gamma").chain(of("production")).chain(planned).collect();
        all.into_iter().collect()
    }

    pub(crate) fn step(&self, pipeline: &str, step: &str) -> StepState {
        let id = StepId(step.into());
        self.look(pipeline).steps.get(&id).map(|s| (**s).clone()).unwrap_or_else(|| panic!("no step {step}"))
    }

    pub(crate) fn phase(&self, pipeline: &str, step: &str) -> &'static str {
        self.step(pipeline, step).work.phase()
    }

    /// Why the step's candidate waits, in words.
    pub(crate) fn waits(&self, pipeline: &str, step: &str) -> String {
        let words: Vec<String> = self.step(pipeline, step).waiting.iter().map(ToString::to_string).collect();
        words.join("; ")
    }

    /// What the target's boxes run, if all of them run the same.
    pub(crate) fn runs(&self, pipeline: &str, target: &str) -> Option<ReleaseNo> {
        let (id, target): (PipelineId, TargetId) = (pipeline.parse().unwrap(), target.parse().unwrap());
        let state = self.pipeline(pipeline);
        let running = self.fleet.running(&SlotId { target: target.clone(), pipeline: id });
        let [spec] = running.keys().collect::<Vec<_>>()[..] else { return None };
        let of = |r: &&ReleaseNo| state.run_spec(**r, &target.environment) == Some(spec);
        state.releases.keys().find(of).copied()
    }

    /// How often a fact of a pipeline happened.
    pub(crate) fn count(&self, what: impl Fn(&PipelineFact) -> bool) -> usize {
        self.log.iter().filter(|(_, fact)| matches!(fact, Fact::Pipeline(fact) if what(fact))).count()
    }

    pub(crate) fn paged(&self, text: &str) -> usize {
        self.pages.iter().filter(|p| p.title.contains(text) || p.text.contains(text)).count()
    }

    pub(crate) fn build_effect(&self, pipeline: &str, release: ReleaseNo) -> EffectId {
        match &self.pipeline(pipeline).releases[&release].build {
            Build::Building { effect, .. } => effect.clone(),
            other => panic!("{release} is not being built: {other:?}"),
        }
    }

    /// Every moment until which something is awaited.
    pub(crate) fn deadlines(&self, pipeline: &str) -> Vec<Timestamp> {
        awaited(self.look(pipeline)).map(|(_, deadline)| deadline).collect()
    }
}

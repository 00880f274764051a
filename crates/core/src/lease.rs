//! One lease per (service, environment, Region): over all pipelines of a service, at most one AZ of a Region is deployed to
//! at a time (P1). Deploying holds it alone. Rollbacks take it from whoever deploys, and several may hold it together. What
//! they interrupted stands half way, so nobody else may deploy before it has gone on: it gets the lease back when the last
//! of them has ended.

use crate::ids::{PipelineId, RegionId, ServiceId};
use crate::plan::StepId;
use crate::scope::Scope;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt;

/// Names a lease; `frontend/production/eu-1`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LeaseId {
    /// The service.
    pub service: ServiceId,
    /// Environment and Region.
    pub scope: Scope,
}

impl LeaseId {
    /// The lease of a service in a Region of an environment.
    #[must_use]
    pub fn new(service: &ServiceId, scope: Scope) -> LeaseId {
        LeaseId { service: service.clone(), scope }
    }

    /// The Region it is about.
    #[must_use]
    pub fn region(&self) -> &RegionId {
        &self.scope.region
    }
}

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.service, self.scope)
    }
}

/// Who holds it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Lease {
    /// Nobody.
    #[default]
    Free,
    /// One step of one pipeline deploys.
    Deploying {
        /// The pipeline.
        pipeline: PipelineId,
        /// Its step.
        step: StepId,
    },
    /// These pipelines roll back.
    RollingBack {
        /// At least one.
        pipelines: BTreeSet<PipelineId>,
        /// The deployment that they took it from and that has not been given up: it goes on after them.
        interrupted: Option<Interrupted>,
    },
}

/// A deployment that stands half way because rollbacks took its lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Interrupted {
    /// The pipeline.
    pub pipeline: PipelineId,
    /// Its step.
    pub step: StepId,
}

/// What happened to a lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum LeaseFact {
    /// A step took it while it was free.
    Taken {
        /// The pipeline.
        pipeline: PipelineId,
        /// Its step.
        step: StepId,
    },
    /// A rollback took it, from a deployment if one held it.
    Seized {
        /// The pipeline that rolls back.
        pipeline: PipelineId,
    },
    /// A pipeline is done with it: its deployment, or its rollback.
    Released {
        /// The pipeline.
        pipeline: PipelineId,
    },
    /// A deployment that rollbacks interrupted does not go on: it was taken back itself, or its pipeline was retired.
    GivenUp {
        /// The pipeline.
        pipeline: PipelineId,
    },
}

impl Lease {
    /// The state after a fact.
    pub fn apply(&mut self, fact: &LeaseFact) {
        *self = match (std::mem::take(self), fact) {
            (_, LeaseFact::Taken { pipeline, step }) => {
                Lease::Deploying { pipeline: pipeline.clone(), step: step.clone() }
            }
            (Lease::RollingBack { mut pipelines, interrupted }, LeaseFact::Seized { pipeline }) => {
                pipelines.insert(pipeline.clone());
                Lease::RollingBack { pipelines, interrupted }
            }
            (Lease::Free, LeaseFact::Seized { pipeline }) => {
                Lease::RollingBack { pipelines: BTreeSet::from([pipeline.clone()]), interrupted: None }
            }
            (Lease::Deploying { pipeline: holder, step }, LeaseFact::Seized { pipeline }) => {
                Lease::RollingBack {
                    pipelines: BTreeSet::from([pipeline.clone()]),
                    interrupted: Some(Interrupted { pipeline: holder, step }),
                }
            }
            (Lease::RollingBack { mut pipelines, interrupted }, LeaseFact::Released { pipeline }) => {
                pipelines.remove(pipeline);
                match interrupted {
                    Some(Interrupted { pipeline, step }) if pipelines.is_empty() => {
                        Lease::Deploying { pipeline, step }
                    }
                    None if pipelines.is_empty() => Lease::Free,
                    interrupted => Lease::RollingBack { pipelines, interrupted },
                }
            }
            (Lease::RollingBack { pipelines, interrupted }, LeaseFact::GivenUp { pipeline }) => {
                let interrupted = interrupted.filter(|i| &i.pipeline != pipeline);
                Lease::RollingBack { pipelines, interrupted }
            }
            (
                Lease::Deploying { pipeline: holder, .. },
                LeaseFact::Released { pipeline } | LeaseFact::GivenUp { pipeline },
            ) if &holder == pipeline => Lease::Free,
            (
                lease @ (Lease::Free | Lease::Deploying { .. }),
                LeaseFact::Released { .. } | LeaseFact::GivenUp { .. },
            ) => lease,
        };
    }

    /// Whether this pipeline deploys under it.
    #[must_use]
    pub fn is_deploying(&self, by: &PipelineId) -> bool {
        matches!(self, Lease::Deploying { pipeline, .. } if pipeline == by)
    }

    /// Whether a deployment of this pipeline goes on when the rollbacks under it have ended.
    #[must_use]
    pub fn is_interrupted(&self, of: &PipelineId) -> bool {
        matches!(self, Lease::RollingBack { interrupted: Some(i), .. } if &i.pipeline == of)
    }

    /// Whether this pipeline rolls back under it.
    #[must_use]
    pub fn is_rolling_back(&self, by: &PipelineId) -> bool {
        matches!(self, Lease::RollingBack { pipelines, .. } if pipelines.contains(by))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(name: &str) -> PipelineId {
        PipelineId::new(name).unwrap()
    }

    fn after(facts: &[LeaseFact]) -> Lease {
        facts.iter().fold(Lease::Free, |mut lease, fact| {
            lease.apply(fact);
            lease
        })
    }

    fn taken(pipeline: &str) -> LeaseFact {
        LeaseFact::Taken { pipeline: id(pipeline), step: StepId("wave-1/az-1".into()) }
    }

    fn seized(pipeline: &str) -> LeaseFact {
        LeaseFact::Seized { pipeline: id(pipeline) }
    }

    fn released(pipeline: &str) -> LeaseFact {
        LeaseFact::Released { pipeline: id(pipeline) }
    }

    fn given_up(pipeline: &str) -> LeaseFact {
        LeaseFact::GivenUp { pipeline: id(pipeline) }
    }

    #[test]
    fn a_rollback_takes_the_lease_and_the_interrupted_deployment_gets_it_back_when_all_have_ended() {
        let mut facts = vec![taken("app"), seized("infra"), seized("settings")];
        let lease = after(&facts);
        assert!(lease.is_rolling_back(&id("infra")) && lease.is_rolling_back(&id("settings")));
        assert!(lease.is_interrupted(&id("app")) && !lease.is_deploying(&id("app")));
        facts.push(released("infra"));
        assert!(!after(&facts).is_deploying(&id("app")), "one rollback is still under way");
        facts.push(released("settings"));
        assert!(after(&facts).is_deploying(&id("app")));
        facts.push(released("app"));
        assert_eq!(after(&facts), Lease::Free);
    }

    #[test]
    fn a_deployment_that_was_given_up_does_not_get_it_back() {
        assert_eq!(after(&[taken("app"), seized("app"), given_up("app"), released("app")]), Lease::Free);
        let facts = [taken("app"), seized("infra"), seized("app"), given_up("app"), released("infra")];
        assert_eq!(
            after(&facts),
            Lease::RollingBack { pipelines: BTreeSet::from([id("app")]), interrupted: None }
        );
    }

    #[test]
    fn a_pipeline_that_deploys_and_rolls_back_in_one_region_goes_on_after_its_own_rollback() {
        assert!(after(&[taken("app"), seized("app"), released("app")]).is_deploying(&id("app")));
    }

    #[test]
    fn a_release_by_somebody_else_changes_nothing() {
        assert!(after(&[taken("app"), released("infra"), given_up("infra")]).is_deploying(&id("app")));
    }
}

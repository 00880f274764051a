//! One lease per (service, environment, Region): over all pipelines of a service, at most one AZ of a Region is deployed to
//! at a time (P1). Deploying holds it alone. Rollbacks take it from whoever deploys, and several may hold it together.

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
    },
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
    /// A pipeline is done with it.
    Released {
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
            (Lease::RollingBack { mut pipelines }, LeaseFact::Seized { pipeline }) => {
                pipelines.insert(pipeline.clone());
                Lease::RollingBack { pipelines }
            }
            (Lease::Free | Lease::Deploying { .. }, LeaseFact::Seized { pipeline }) => {
                Lease::RollingBack { pipelines: BTreeSet::from([pipeline.clone()]) }
            }
            (Lease::RollingBack { mut pipelines }, LeaseFact::Released { pipeline }) => {
                pipelines.remove(pipeline);
                if pipelines.is_empty() { Lease::Free } else { Lease::RollingBack { pipelines } }
            }
            (Lease::Deploying { pipeline: holder, step }, LeaseFact::Released { pipeline }) => {
                if &holder == pipeline { Lease::Free } else { Lease::Deploying { pipeline: holder, step } }
            }
            (Lease::Free, LeaseFact::Released { .. }) => Lease::Free,
        };
    }

    /// Whether this pipeline deploys under it.
    #[must_use]
    pub fn is_deploying(&self, by: &PipelineId) -> bool {
        matches!(self, Lease::Deploying { pipeline, .. } if pipeline == by)
    }

    /// Whether this pipeline rolls back under it.
    #[must_use]
    pub fn is_rolling_back(&self, by: &PipelineId) -> bool {
        matches!(self, Lease::RollingBack { pipelines } if pipelines.contains(by))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rollback_takes_the_lease_and_gives_it_back_when_all_have_ended() {
        let id = |n: &str| PipelineId::new(n).unwrap();
        let mut lease = Lease::Free;
        lease.apply(&LeaseFact::Taken { pipeline: id("app"), step: StepId("wave-1/az-1".into()) });
        assert!(lease.is_deploying(&id("app")));
        lease.apply(&LeaseFact::Seized { pipeline: id("infra") });
        lease.apply(&LeaseFact::Seized { pipeline: id("app") });
        assert!(!lease.is_deploying(&id("app")) && lease.is_rolling_back(&id("app")));
        lease.apply(&LeaseFact::Released { pipeline: id("app") });
        assert!(lease.is_rolling_back(&id("infra")));
        lease.apply(&LeaseFact::Released { pipeline: id("infra") });
        assert_eq!(lease, Lease::Free);
    }

    #[test]
    fn a_release_by_somebody_else_changes_nothing() {
        let id = |n: &str| PipelineId::new(n).unwrap();
        let mut lease = Lease::Deploying { pipeline: id("app"), step: StepId("beta/az-1".into()) };
        lease.apply(&LeaseFact::Released { pipeline: id("infra") });
        assert!(lease.is_deploying(&id("app")));
    }
}

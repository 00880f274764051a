//! What a fact names, so that people can ask the log for all that concerns a release or a Region. The matches are exhaustive on
//! purpose: a new kind of fact has to say what it is about before it compiles.
//!
//! A fact about a step alone names no Region: which ones the step had then is what the facts of its targets tell.

use crate::decision::{AggregateId, Fact};
use crate::ids::{RegionId, ReleaseNo, TargetId};
use crate::organisation::OrganisationFact;
use crate::pipeline::{ADOPTED, Cause, PipelineFact};
use crate::team::TeamFact;
use std::collections::BTreeSet;

/// What a fact names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Named {
    /// Releases of the pipeline that it happened to.
    pub releases: BTreeSet<ReleaseNo>,
    /// Regions, those of targets included.
    pub regions: BTreeSet<RegionId>,
    /// The target, of a fact that is about one.
    pub target: Option<TargetId>,
}

impl Named {
    fn on(&mut self, target: &TargetId) {
        self.regions.insert(target.region.clone());
        self.target = Some(target.clone());
    }
}

/// What this fact of this aggregate names.
#[must_use]
pub fn named(aggregate: &AggregateId, fact: &Fact) -> Named {
    let mut named = Named::default();
    if let AggregateId::Lease(lease) = aggregate {
        named.regions.insert(lease.region().clone());
    }
    match fact {
        Fact::Pipeline(fact) => pipeline(fact, &mut named),
        Fact::Team(TeamFact::AlarmChanged { scope, .. } | TeamFact::AlarmRenewed { scope, .. }) => {
            named.regions.insert(scope.region.clone());
        }
        Fact::Team(
            TeamFact::Defined { .. }
            | TeamFact::PipelineAdded { .. }
            | TeamFact::PipelineRemoved { .. }
            | TeamFact::Approved { .. }
            | TeamFact::SuspectTurnTaken { .. }
            | TeamFact::SuspectTurnEnded { .. },
        )
        | Fact::Organisation(
            OrganisationFact::Defined { .. }
            | OrganisationFact::AlarmRaised { .. }
            | OrganisationFact::AlarmCleared { .. },
        )
        | Fact::Lease(_) => {}
    }
    named
}

fn pipeline(fact: &PipelineFact, named: &mut Named) {
    use PipelineFact as F;
    match fact {
        F::ReleaseCreated { release, .. }
        | F::BuildStarted { release, .. }
        | F::TurnAwaited { release, .. }
        | F::Built { release, .. }
        | F::RunSpecsMade { release, .. }
        | F::BuildFailed { release, .. }
        | F::CandidateSet { release, .. }
        | F::Waits { release, .. }
        | F::StepDone { release, .. }
        | F::StepRecalled { release, .. }
        | F::SuspectReturned { release }
        | F::TaintCleared { release, .. }
        | F::RollbackOrdered { release, .. } => {
            named.releases.insert(*release);
        }
        F::Adopted { adoption, .. } => {
            named.releases.insert(ADOPTED);
            named.regions.extend(adoption.targets.keys().map(|target| target.region.clone()));
        }
        F::Pretended { fact } => pipeline(fact, named),
        F::Overridden { allowed, .. } => {
            named.releases.insert(allowed.release);
        }
        F::Entered { release, without, .. } => {
            named.releases.insert(*release);
            named.regions.extend(without.keys().cloned());
        }
        F::Rejected { release, cause, .. } | F::StepRollingBack { release, cause, .. } => {
            named.releases.insert(*release);
            named.regions.extend(region_of(cause).cloned());
        }
        F::Suspected { release, scope, .. } | F::MasksLifted { release, scope, .. } => {
            named.releases.insert(*release);
            named.regions.insert(scope.region.clone());
        }
        F::RegionSkipped { skip, .. } => {
            named.releases.extend(skip.release);
            named.regions.insert(skip.scope.region.clone());
        }
        F::SlotForward { target, release, .. } => {
            named.releases.insert(*release);
            named.on(target);
        }
        F::SlotBack { target, from, to, .. } => {
            named.releases.extend(from.keys().copied().chain(*to));
            named.on(target);
        }
        F::SlotSettled { target, release } => {
            named.releases.extend(*release);
            named.on(target);
        }
        F::SlotResized { target, .. }
        | F::SlotAsked { target, .. }
        | F::SlotProgressed { target, .. }
        | F::SlotTroubled { target, .. }
        | F::SlotStuck { target, .. }
        | F::GlassBroken { target, .. }
        | F::CapacityChanged { target, .. } => {
            named.on(target);
        }
        F::BakeStarted { clock, .. } | F::Watched { clock, .. } => {
            named.regions.extend(clock.regions.keys().cloned());
        }
        F::Defined { .. }
        | F::Resumed { .. }
        | F::CommitsSeen { .. }
        | F::SourceTroubled { .. }
        | F::SourceRecovered { .. }
        | F::ForgeTold { .. }
        | F::TestsStarted { .. }
        | F::StepRolledBack { .. }
        | F::HoldPlaced { .. }
        | F::HoldLifted { .. }
        | F::SkipLifted { .. }
        | F::Retiring { .. }
        | F::Retired { .. }
        | F::Revived { .. }
        | F::PageOpened { .. }
        | F::PageResolved { .. }
        | F::ObservingBegan { .. }
        | F::ObservingEnded { .. }
        | F::ReleasesForgotten { .. } => {}
    }
}

fn region_of(cause: &Cause) -> Option<&RegionId> {
    match cause {
        Cause::Alarm { scope, .. } => Some(&scope.region),
        Cause::Health { target, .. } => Some(&target.region),
        Cause::Tests { .. } | Cause::Person { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn check(aggregate: &AggregateId, fact: Value, releases: &[u64], regions: &[&str]) {
        let found = named(aggregate, &serde_json::from_value(fact.clone()).unwrap());
        let found = (
            found.releases.iter().map(|r| r.0).collect::<Vec<_>>(),
            found.regions.iter().map(RegionId::as_str).collect::<Vec<_>>(),
        );
        assert_eq!(found, (releases.to_vec(), regions.to_vec()), "{fact}");
    }

    #[test]
    fn facts_name_their_releases_and_regions() {
        let own = AggregateId::Pipeline("frontend".parse().unwrap());
        let of = |fact: Value| json!({ "pipeline": fact });
        let target = "frontend/production/eu-1/a/main";
        let awaited = json!({"since": 0, "deadline": 1});
        let back = json!({"slot-back": {"target": target, "from": {"7": 2, "8": 1}, "to": 6, "generation": 3,
            "asked": 3, "awaited": awaited}});
        check(&own, of(back), &[6, 7, 8], &["eu-1"]);
        let cause = json!({"alarm": {"alarm": "A", "scope": "production/us-1", "evidence": []}});
        let rejected = json!({"rejected": {"release": 7, "at": 0, "taint": [], "first": 7, "cause": cause}});
        check(&own, of(rejected), &[7], &["us-1"]);
        let skip = json!({"region-skipped": {"number": 4, "skip": {"scope": "beta/eu-1", "release": null,
            "by": {"user": "bob"}, "reason": "cables", "since": 0}}});
        check(&own, of(skip), &[], &["eu-1"]);
        let lease = lease_of("frontend", "production/eu-2");
        check(&lease, json!({"lease": {"seized": {"pipeline": "frontend"}}}), &[], &["eu-2"]);
        check(&own, of(json!({"hold-lifted": {"number": 1, "by": {"user": "bob"}}})), &[], &[]);
    }

    fn lease_of(service: &str, scope: &str) -> AggregateId {
        let scope = crate::scope::Scope::try_from(scope.to_owned()).unwrap();
        AggregateId::Lease(crate::lease::LeaseId::new(&service.parse().unwrap(), scope))
    }
}

//! What goes over the wire between the server and its clients, and the words in which facts and reasons are told to people.
//!
//! Every top-level answer has `"version": 1`; a field is added to a version, never changed or taken away. Points in time
//! are milliseconds since 1970-01-01T00:00:00Z, spans are texts such as `1h30m`, releases are numbers. Where a value of
//! the core is told (a reason, a cause, a fact), it comes as that value and as a sentence, both made from the same thing.
//! A request with an unknown field is refused. In an answer's own shapes it is passed over, so that an older client reads what a
//! newer server adds; a new kind of fact, reason or cause it does not know.

mod backup;
mod describe;
pub mod document;
mod error;
mod estimate;
mod gc;
mod log;
mod orders;
mod place;
mod places;
mod status;
mod why;

pub use backup::{BackupLine, BackupMade, BackupRequest};
pub use describe::describe;
pub use error::{Code, ErrorAnswer, ErrorBody, Excerpt, Finding};
pub use estimate::{ArrivalEta, EstimatesStatus, Eta, StepEta};
pub use gc::{GcAnswer, GcItem, GcRequest, GcUse};
pub use log::{LogEntry, LogPage, LogVerified};
pub use orders::{
    AdoptRequest, Adopted, AdoptedTarget, AlarmRequest, AlertsTaken, AllApplied, Applied, ApprovalRequest,
    Definitions, Done, HoldRequest, IgnoredAlert, NotifyRequest, OrganisationDefinition, OverrideRequest,
    PipelineDefinition, ReportRequest, RetireRequest, RetryRequest, RollbackRequest, SecretNames,
    SecretRequest, SkipRequest, TokenCreated, TokenRequest,
};
pub use places::{BadPackage, Endpoint, Endpoints, Health, PackagesVerified};
pub use status::{
    BakeStatus, BlindStatus, BuildStatus, CapacityStatus, CauseStatus, ChangeStatus, CommitStatus,
    DataStatus, HoldStatus, LeftOutStatus, MotionStatus, OrganisationStatus, OverrideStatus, PipelineStatus,
    RaisedAlarm, ReasonStatus, RegionBake, ReleaseStatus, RetirementStatus, SkipStatus, SourceStatus,
    StageStatus, StandbyStatus, StandingStatus, Status, StepStatus, TaintStatus, TargetStatus, TeamAlarm,
    TeamStatus, TroubleStatus, WaitingStatus, WorkStatus, WorkTrouble,
};
pub use why::{WhyAnswer, WhyCommit, WhyStep};

/// The version of every shape in this crate.
pub const VERSION: u32 = 1;

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_client_reads_what_a_newer_server_adds_and_a_server_refuses_what_it_does_not_know() {
        let added = json!({"earliest": 1, "latest": null, "likely": 2});
        assert_eq!(serde_json::from_value::<Eta>(added).unwrap().latest, None);
        let added = json!({"state": "building", "since": 1, "deadline": 2, "machine": "a"});
        assert!(matches!(serde_json::from_value(added).unwrap(), BuildStatus::Building { .. }));
        let request: Result<HoldRequest, _> = serde_json::from_value(json!({"reason": "why", "reazon": 1}));
        assert!(request.unwrap_err().to_string().contains("reazon"));
    }
}

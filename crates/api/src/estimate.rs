//! When what is on its way arrives (X5): a range, from running the real scheduler ahead of the real state, with what was taken
//! for granted.

use serde::{Deserialize, Serialize};
use tidegate_core::units::Timestamp;
use utoipa::ToSchema;

/// A time that is not known exactly, in milliseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Eta {
    /// Not before: with everything that tidegate does not decide as quick as it has been.
    #[schema(value_type = i64)]
    pub earliest: Timestamp,
    /// Not after, as long as nothing fails: with builds as slow as they have been, and tests and boxes as slow as they may be;
    /// none if it may never be by itself.
    #[schema(value_type = Option<i64>)]
    pub latest: Option<Timestamp>,
}

/// When a release gets into a step and through it, or a newer one that takes its changes along.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StepEta {
    /// When it enters; none if it is there already, or never will be by itself.
    pub enters: Option<Eta>,
    /// When it has passed; none if it never will by itself.
    pub passes: Option<Eta>,
}

/// When a commit is everywhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ArrivalEta {
    /// When it has passed the last step; none if it never will by itself.
    pub everywhere: Option<Eta>,
    /// Why it does not go on by itself, if it does not.
    pub stuck: Option<String>,
    /// How the estimate was made.
    pub made: EstimatesStatus,
}

/// How estimates were made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EstimatesStatus {
    /// From the states at this time.
    #[schema(value_type = i64)]
    pub made_at: Timestamp,
    /// What was taken for granted.
    pub assumptions: Vec<String>,
}

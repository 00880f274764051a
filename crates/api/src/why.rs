//! "Why is my commit not in production?": the core's exact answer, and the same in words (X5).

use crate::estimate::{ArrivalEta, StepEta};
use crate::status::missing_text;
use serde::{Deserialize, Serialize};
use tidegate_core::ids::{CommitId, PipelineId};
use tidegate_core::pipeline::{Position, StepPosition, Why};
use utoipa::ToSchema;

/// The answer: one entry for each pipeline that knows the commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WhyAnswer {
    /// Always 1.
    pub version: u32,
    /// Ordered by pipeline; at least one.
    pub commits: Vec<WhyCommit>,
}

/// Where a commit is in one pipeline.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WhyCommit {
    /// The pipeline.
    #[schema(value_type = String)]
    pub pipeline: PipelineId,
    /// The commit's full name.
    #[schema(value_type = String)]
    pub commit: CommitId,
    /// The first line of its message.
    pub subject: String,
    /// The source that it comes from.
    pub source: String,
    /// How far it has come, for people.
    pub text: String,
    /// How far it has come.
    #[schema(value_type = Object)]
    pub position: Position,
    /// Every step, in order; empty before there is a release.
    pub steps: Vec<WhyStep>,
    /// When it is everywhere; none if it is already, or if that cannot be told.
    #[serde(default)]
    pub arrival: Option<ArrivalEta>,
}

/// What a step does with the commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WhyStep {
    /// The step's name.
    pub step: String,
    /// For people.
    pub text: String,
    /// As the core says it.
    #[schema(value_type = Object)]
    pub position: StepPosition,
    /// When it comes and has passed; none if it has.
    #[serde(default)]
    pub eta: Option<StepEta>,
}

impl WhyCommit {
    /// The core's answer for one pipeline.
    #[must_use]
    pub fn new(pipeline: PipelineId, why: Why) -> WhyCommit {
        let step = |place: tidegate_core::pipeline::Place| WhyStep {
            step: place.step.to_string(),
            text: place
                .left_out
                .iter()
                .fold(step_text(&place.position), |text, left| format!("{text}; {left}")),
            position: place.position,
            eta: None,
        };
        WhyCommit {
            pipeline,
            commit: why.commit,
            subject: why.subject,
            source: why.source.to_string(),
            text: position_text(&why.position),
            position: why.position,
            steps: why.steps.into_iter().map(step).collect(),
            arrival: None,
        }
    }
}

fn position_text(position: &Position) -> String {
    match position {
        Position::Unreviewed { why } => format!("it waits for its review: {why}"),
        Position::BehindUnreviewed { commit, why } => {
            format!("it waits behind {}, which lacks its review: {why}", commit.short())
        }
        Position::NextRelease { building: Some(building) } => {
            format!("it will be in the next release, which is made when {building} is built")
        }
        Position::NextRelease { building: None } => "it will be in the next release".to_owned(),
        Position::Building { release } => format!("it is in {release}, which is being built"),
        Position::BuildFailed { release, why } => format!("it is in {release}, which cannot be built: {why}"),
        Position::Rejected { release, cause } => format!("{release}, which brings it, was rejected: {cause}"),
        Position::OnItsWay { release } => format!("it is on its way in {release}"),
        Position::Everywhere { release } => format!("it is everywhere, with {release}"),
    }
}

fn step_text(position: &StepPosition) -> String {
    match position {
        StepPosition::Passed { release } => format!("passed with {release}"),
        StepPosition::InWork { release, phase, missing, .. } if missing.is_empty() => {
            format!("{release} is {phase}")
        }
        StepPosition::InWork { release, phase, missing, .. } => {
            let missing: Vec<String> = missing.iter().map(missing_text).collect();
            format!("{release} is {phase}; missing {}", missing.join(", "))
        }
        StepPosition::Waiting { release, reasons } if reasons.is_empty() => format!("{release} enters next"),
        StepPosition::Waiting { release, reasons } => {
            let reasons: Vec<String> = reasons.iter().map(ToString::to_string).collect();
            format!("{release} waits: {}", reasons.join("; "))
        }
        StepPosition::TakenBack { release, cause } => format!("{release} was taken back: {cause}"),
        StepPosition::NotYet => "not here yet".to_owned(),
    }
}

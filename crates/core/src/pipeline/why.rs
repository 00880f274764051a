//! "Why is my commit not in production?": one exact answer (X5), from the same values that the gates decided with.

use super::{Build, Cause, LeftOut, Pipeline, Standing, Work, review};
use crate::bake::Missing;
use crate::ids::{CommitId, ReleaseNo, SourceId};
use crate::pipeline::gates::Reason;
use crate::plan::StepId;
use crate::team::Team;
use crate::units::Timestamp;
use serde::{Deserialize, Serialize};

/// Where a commit is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Why {
    /// The commit.
    pub commit: CommitId,
    /// The first line of its message.
    pub subject: String,
    /// Its source.
    pub source: SourceId,
    /// How far it has come.
    pub position: Position,
    /// Every step of the pipeline, in order; empty before there is a release.
    pub steps: Vec<Place>,
}

/// How far a commit has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Position {
    /// Its own review is missing.
    Unreviewed {
        /// Whose word.
        why: String,
    },
    /// It is reviewed; a commit among its ancestors is not.
    BehindUnreviewed {
        /// Which.
        commit: CommitId,
        /// Whose word is missing there.
        why: String,
    },
    /// It will be in the next release, which is made when the one that builds now is built.
    NextRelease {
        /// The one that builds.
        building: Option<ReleaseNo>,
    },
    /// It is in a release that builds.
    Building {
        /// Which.
        release: ReleaseNo,
    },
    /// It is in a release that cannot be built.
    BuildFailed {
        /// Which.
        release: ReleaseNo,
        /// Why.
        why: String,
    },
    /// The release that brings it was rejected.
    Rejected {
        /// Which.
        release: ReleaseNo,
        /// Why.
        cause: Cause,
    },
    /// It goes through the steps.
    OnItsWay {
        /// In this release.
        release: ReleaseNo,
    },
    /// It has passed every step.
    Everywhere {
        /// With this release, or a newer one.
        release: ReleaseNo,
    },
}

/// What a step knows of a commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Place {
    /// The step.
    pub step: StepId,
    /// What it does with it.
    pub position: StepPosition,
    /// Regions of the step that run an older release, although the commit has come this far or somebody skips them.
    pub left_out: Vec<LeftOut>,
}

/// What a step does with a commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum StepPosition {
    /// It has passed with this release.
    Passed {
        /// Which.
        release: ReleaseNo,
    },
    /// A release that contains it is in work.
    InWork {
        /// Which.
        release: ReleaseNo,
        /// Deploying, testing or baking.
        phase: String,
        /// Since when it is in this step.
        entered: Timestamp,
        /// What the bake still waits for.
        missing: Vec<Missing>,
    },
    /// A release that contains it waits to enter.
    Waiting {
        /// Which.
        release: ReleaseNo,
        /// Why.
        reasons: Vec<Reason>,
    },
    /// A release that contains it is taken back, or was.
    TakenBack {
        /// Which.
        release: ReleaseNo,
        /// Why.
        cause: Cause,
    },
    /// Nothing that contains it has come here yet.
    NotYet,
}

/// No commit, or more than one, is meant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotFound {
    /// None begins like this.
    #[error("no commit of this pipeline begins with '{0}'; it may not be merged, or not have been seen yet")]
    Unknown(String),
    /// Several do.
    #[error("more than one commit begins with '{0}'; write more digits")]
    Ambiguous(String),
}

/// Answers for the commit whose name begins like this.
///
/// # Errors
/// None or several do.
pub fn why(pipeline: &Pipeline, team: &Team, prefix: &str) -> Result<Why, NotFound> {
    let pending = pipeline
        .sources
        .iter()
        .flat_map(|(source, s)| s.pending.iter().map(move |seen| (source, &seen.commit, None)));
    let released = pipeline
        .releases
        .iter()
        .flat_map(|(no, r)| r.changes.iter().map(move |c| (&c.source, &c.commit, Some(*no))));
    let mut found = pending.chain(released).filter(|(_, commit, _)| commit.id.as_str().starts_with(prefix));
    let Some((source, commit, release)) = found.next().filter(|_| !prefix.is_empty()) else {
        return Err(NotFound::Unknown(prefix.to_owned()));
    };
    if found.any(|(_, other, _)| other.id != commit.id) {
        return Err(NotFound::Ambiguous(prefix.to_owned()));
    }
    let (position, steps) = match release {
        None => (before_release(pipeline, team, source, &commit.id), Vec::new()),
        Some(release) => in_release(pipeline, release),
    };
    Ok(Why {
        commit: commit.id.clone(),
        subject: commit.subject.clone(),
        source: source.clone(),
        position,
        steps,
    })
}

fn before_release(pipeline: &Pipeline, team: &Team, source: &SourceId, commit: &CommitId) -> Position {
    let missing = pipeline.sources.get(source).map(|s| review::unreviewed(s, team)).unwrap_or_default();
    if let Some((_, why)) = missing.iter().find(|(seen, _)| &seen.commit.id == commit) {
        return Position::Unreviewed { why: why.to_string() };
    }
    if let Some((seen, why)) = missing.first() {
        return Position::BehindUnreviewed { commit: seen.commit.id.clone(), why: why.to_string() };
    }
    let building =
        pipeline.releases.iter().find(|(_, r)| matches!(r.build, Build::Building { .. })).map(|(no, _)| *no);
    Position::NextRelease { building }
}

fn in_release(pipeline: &Pipeline, release: ReleaseNo) -> (Position, Vec<Place>) {
    let Some(state) = pipeline.releases.get(&release) else {
        return (Position::OnItsWay { release }, Vec::new());
    };
    let steps: Vec<Place> = pipeline
        .plan
        .steps()
        .map(|(_, step)| {
            let position = at_step(pipeline, &step.id, release);
            let passed = matches!(position, StepPosition::Passed { .. });
            let mut left_out = pipeline.older_than(step, release);
            left_out.retain(|left| passed || left.skip.is_some());
            Place { step: step.id.clone(), position, left_out }
        })
        .collect();
    let passed = |s: &Place| matches!(s.position, StepPosition::Passed { .. }) && s.left_out.is_empty();
    let passed_all = steps.iter().all(passed);
    let position = match (&state.build, &state.standing) {
        _ if passed_all && !steps.is_empty() => Position::Everywhere { release },
        (_, Standing::Rejected { cause, .. }) => Position::Rejected { release, cause: cause.clone() },
        (Build::Building { .. }, _) => Position::Building { release },
        (Build::Failed { why, .. }, _) => Position::BuildFailed { release, why: why.clone() },
        (Build::Built { .. }, _) => Position::OnItsWay { release },
    };
    (position, steps)
}

/// A newer release carries the changes of every older one.
fn at_step(pipeline: &Pipeline, step: &StepId, release: ReleaseNo) -> StepPosition {
    let Some(state) = pipeline.steps.get(step) else { return StepPosition::NotYet };
    if let Some(done) = state.done.filter(|done| *done >= release) {
        return StepPosition::Passed { release: done };
    }
    if let Some((inside, entered)) = state.work.under_way().filter(|(r, _)| *r >= release) {
        let missing = match &state.work {
            Work::Baking { clock, .. } => clock.missing(),
            _ => Vec::new(),
        };
        return StepPosition::InWork {
            release: inside,
            phase: state.work.phase().to_owned(),
            entered,
            missing,
        };
    }
    if let Some(candidate) = state.candidate.filter(|c| *c >= release) {
        return StepPosition::Waiting { release: candidate, reasons: state.waiting.clone() };
    }
    match &state.work {
        Work::RollingBack { release: back, cause, .. } | Work::RolledBack { release: back, cause, .. }
            if *back >= release =>
        {
            StepPosition::TakenBack { release: *back, cause: cause.clone() }
        }
        _ => StepPosition::NotYet,
    }
}

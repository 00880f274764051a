//! When what is on its way arrives: made by running the scheduler ahead ([`tidegate_sim::forecast::estimates`]), kept for a
//! while, and put beside the states that people ask for. Absent on purpose: anything that decides. An estimate that cannot be
//! made is missing, and nothing else is.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, TryLockError};
use std::time::{Duration, Instant};
use tidegate_api::{ArrivalEta, EstimatesStatus, Eta, PipelineStatus, StepEta, WhyCommit};
use tidegate_core::ids::PipelineId;
use tidegate_core::pipeline::{Build, Pipeline, Position, Standing, StepPosition};
use tidegate_runtime::Runtime;
use tidegate_sim::forecast::{Estimates, Expected, estimates};

/// Estimates of a state are good for this long; time goes on, and some of what is awaited does not come.
const FRESH: Duration = Duration::from_secs(30);
/// While the state changes, a new estimate is made this often at most.
const PAUSE: Duration = Duration::from_secs(2);
/// Estimates of so many pipelines are kept.
const KEPT_MAX: usize = 256;
/// How long one answer may spend on making estimates; the pipelines after that have those that are kept, or none.
const ANSWER_MAX: Duration = Duration::from_millis(500);

/// Makes and keeps estimates. One is made at a time, so that they never take more than one CPU.
#[derive(Default)]
pub(crate) struct Estimator {
    kept: Mutex<BTreeMap<PipelineId, Kept>>,
    making: Mutex<()>,
}

struct Kept {
    of: Arc<Pipeline>,
    at: Instant,
    /// None if they could not be made.
    estimates: Option<Arc<Estimates>>,
}

impl Kept {
    fn is_fresh(&self, pipeline: &Arc<Pipeline>) -> bool {
        let age = self.at.elapsed();
        age < PAUSE || age < FRESH && Arc::ptr_eq(&self.of, pipeline)
    }
}

impl Estimator {
    /// Puts estimates into the state of a pipeline; `begun` is when its answer was.
    pub(crate) fn tell(
        &self,
        runtime: &Runtime,
        pipeline: &Arc<Pipeline>,
        status: &mut PipelineStatus,
        begun: Instant,
    ) {
        if !is_under_way(pipeline) {
            return;
        }
        let Some(estimates) = self.get(runtime, &status.name, pipeline, begun.elapsed() < ANSWER_MAX) else {
            return;
        };
        status.estimates = Some(made(&estimates));
        for release in &mut status.releases {
            let failed = pipeline.releases.get(&release.release).is_none_or(|r| {
                matches!(r.build, Build::Failed { .. }) || matches!(r.standing, Standing::Rejected { .. })
            });
            // What ran before is where it is, and nobody takes it anywhere.
            let adopted = release.adopted.is_some();
            if !failed && !adopted && pipeline.everywhere() < Some(release.release) {
                release.everywhere = estimates.everywhere(release.release).map(eta);
            }
        }
        for step in status.stages.iter_mut().flat_map(|stage| &mut stage.steps) {
            let Some(state) = pipeline.steps.get(&step.name) else { continue };
            let in_work = state.work.under_way().map(|(release, _)| release);
            step.passes = in_work.and_then(|release| estimates.passes(release, &step.name)).map(eta);
            step.waiting_enters =
                state.candidate.and_then(|release| estimates.enters(release, &step.name)).map(eta);
        }
    }

    /// Puts estimates into the answer to why a commit is not further.
    pub(crate) fn tell_why(
        &self,
        runtime: &Runtime,
        pipeline: &Arc<Pipeline>,
        why: &mut WhyCommit,
        begun: Instant,
    ) {
        if !is_under_way(pipeline) {
            return;
        }
        let release = match &why.position {
            Position::Everywhere { .. } | Position::Rejected { .. } | Position::BuildFailed { .. } => return,
            Position::Building { release } | Position::OnItsWay { release } => Some(*release),
            Position::Unreviewed { .. }
            | Position::BehindUnreviewed { .. }
            | Position::NextRelease { .. } => None,
        };
        let Some(estimates) = self.get(runtime, &why.pipeline, pipeline, begun.elapsed() < ANSWER_MAX) else {
            return;
        };
        let Some(release) = release.or_else(|| estimates.release_of(&why.commit)) else { return };
        for step in &mut why.steps {
            if matches!(step.position, StepPosition::Passed { .. }) {
                continue;
            }
            let id = step.step.clone().into();
            let inside = matches!(step.position, StepPosition::InWork { .. });
            let enters = estimates.enters(release, &id).filter(|_| !inside).map(eta);
            step.eta = Some(StepEta { enters, passes: estimates.passes(release, &id).map(eta) });
        }
        why.arrival = Some(ArrivalEta {
            everywhere: estimates.everywhere(release).map(eta),
            stuck: estimates.stuck(release),
            made: made(&estimates),
        });
    }

    fn get(
        &self,
        runtime: &Runtime,
        id: &PipelineId,
        pipeline: &Arc<Pipeline>,
        may_make: bool,
    ) -> Option<Arc<Estimates>> {
        if let Some(kept) = self.kept(id, |kept| !may_make || kept.is_fresh(pipeline)) {
            return kept;
        }
        if !may_make {
            return None;
        }
        // Whoever asks while another is being made has what there is: orders wait behind nobody who only reads.
        let _turn = match self.making.try_lock() {
            Ok(turn) => turn,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return self.kept(id, |_| true).flatten(),
        };
        let made = estimates(runtime, id).unwrap_or_else(|error| {
            tracing::warn!(pipeline = id.as_str(), "when its releases arrive cannot be told: {error}");
            None
        });
        let estimates = made.map(Arc::new);
        let mut all = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let new = Kept { of: Arc::clone(pipeline), at: Instant::now(), estimates: estimates.clone() };
        all.insert(id.clone(), new);
        while all.len() > KEPT_MAX {
            let Some(oldest) = all.iter().min_by_key(|(_, kept)| kept.at).map(|(id, _)| id.clone()) else {
                break;
            };
            all.remove(&oldest);
        }
        estimates
    }

    fn kept(&self, id: &PipelineId, good: impl Fn(&Kept) -> bool) -> Option<Option<Arc<Estimates>>> {
        let all = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(id).filter(|kept| good(kept)).map(|kept| kept.estimates.clone())
    }
}

/// Whether anything moves, is built, or waits.
fn is_under_way(pipeline: &Pipeline) -> bool {
    pipeline.life.is_active()
        && (pipeline.sources.values().any(|source| !source.pending.is_empty())
            || pipeline.releases.values().any(|release| matches!(release.build, Build::Building { .. }))
            || pipeline
                .steps
                .values()
                .any(|step| step.candidate.is_some() || step.work.under_way().is_some()))
}

fn eta(expected: Expected) -> Eta {
    Eta { earliest: expected.earliest, latest: expected.latest }
}

fn made(estimates: &Estimates) -> EstimatesStatus {
    EstimatesStatus { made_at: estimates.made_at, assumptions: estimates.assumptions.clone() }
}

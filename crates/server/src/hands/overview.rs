//! What the loops want to know of every pipeline, kept beside the states and brought up to date where a commit has changed
//! one: nothing reads all pipelines again and again.

use super::Signals;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use tidegate_core::bake::{BakeClock, Missing};
use tidegate_core::definition::{EngineDef, SourceDef};
use tidegate_core::ids::{CommitId, PipelineId, ServiceId, TeamId};
use tidegate_core::pipeline::{Build, Capacity, Pipeline, SourceState, Work};
use tidegate_core::scope::Scope;
use tidegate_core::units::{Span, Timestamp};
use tidegate_runtime::{Runtime, RuntimeError};

/// Every pipeline in a few words.
#[derive(Debug, Default)]
pub struct Overview {
    pipelines: Mutex<BTreeMap<PipelineId, Summary>>,
}

/// A pipeline in a few words.
#[derive(Debug, Clone, Default)]
pub(crate) struct Summary {
    pub(super) team: Option<TeamId>,
    pub(super) service: Option<ServiceId>,
    /// Its sources and the newest commit that is known of each; none if nothing shall be looked for any more.
    pub(super) sources: Vec<(SourceDef, Option<CommitId>)>,
    /// The Regions in which something bakes, and how far that is.
    pub(super) baking: BTreeMap<Scope, Baking>,
    /// The Regions in which it runs, or has run, boxes of the fleet.
    pub(super) ran: BTreeSet<Scope>,
    /// The Regions in which anything of it is deployed, by whatever engine.
    pub(super) placed: BTreeSet<Scope>,
    /// Whether it has not been retired.
    pub(crate) active: bool,
    /// How many of its steps have something under way, by what.
    pub(crate) work: BTreeMap<&'static str, u64>,
    /// Releases that wait before a step.
    pub(crate) waiting: u64,
    /// Bakes that do not count because monitoring sees nothing.
    pub(crate) blind: u64,
    /// Releases that are being built.
    pub(crate) building: u64,
    /// Targets with too few healthy boxes.
    pub(crate) short: u64,
    /// Targets that run something of which it is not known whether it is enough.
    pub(crate) unknown: u64,
    /// Since when its oldest rollback is in work.
    pub(crate) rolling_back_since: Option<Timestamp>,
}

/// What bakes in a Region of an environment, for the bakes that are nearest to their ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Baking {
    /// The shortest bake.
    pub(super) minimum: Span,
    /// The least watched time that some bake still needs; zero if all only need data points.
    pub(super) left: Span,
}

impl Overview {
    /// All pipelines as they are now.
    ///
    /// # Errors
    /// A state cannot be read; what cannot is looked at again next time.
    pub(crate) fn look(
        &self,
        runtime: &Runtime,
        signals: &Signals,
    ) -> Result<MutexGuard<'_, BTreeMap<PipelineId, Summary>>, RuntimeError> {
        let mut pipelines = self.pipelines.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = signals.take_changed();
        let ids = match &changed {
            // Taken before anything is read: what changes meanwhile is looked at again.
            None => runtime.pipelines().inspect_err(|_| signals.changed_everything())?,
            Some(ids) => ids.iter().cloned().collect(),
        };
        for (n, id) in ids.iter().enumerate() {
            match runtime.pipeline(id) {
                Ok(Some(pipeline)) => {
                    pipelines.insert(id.clone(), summary(&pipeline));
                }
                Ok(None) => {
                    pipelines.remove(id);
                }
                Err(error) => {
                    signals.changed_again(ids.iter().skip(n).cloned());
                    return Err(error);
                }
            }
        }
        Ok(pipelines)
    }
}

fn summary(pipeline: &Pipeline) -> Summary {
    let Some(definition) = &pipeline.definition else { return Summary::default() };
    let head =
        |source: &SourceDef| pipeline.sources.get(&source.name).and_then(|s: &SourceState| s.head.clone());
    let active = definition.sources.iter().filter(|_| pipeline.life.is_active());
    let is_process = matches!(definition.run.engine, EngineDef::Process(_));
    let ran = pipeline.real_slots().iter().filter(|(_, slot)| is_process && !slot.history.is_empty());
    let placed = pipeline.slots.iter().filter(|(_, slot)| !slot.running().is_empty());
    Summary {
        team: pipeline.team.clone(),
        service: Some(definition.service.clone()),
        sources: active.map(|source| (source.clone(), head(source))).collect(),
        baking: baking(pipeline),
        ran: ran.map(|(target, _)| Scope::of(target)).collect(),
        placed: placed.map(|(target, _)| Scope::of(target)).collect(),
        ..state_of(pipeline)
    }
}

/// What is under way, counted.
fn state_of(pipeline: &Pipeline) -> Summary {
    let mut summary = Summary { active: pipeline.life.is_active(), ..Summary::default() };
    for step in pipeline.steps.values() {
        summary.waiting += u64::from(step.candidate.is_some());
        let kind = match &step.work {
            Work::Free | Work::Done { .. } | Work::RolledBack { .. } => continue,
            Work::Deploying { .. } => "deploying",
            Work::Testing { .. } => "testing",
            Work::Baking { blind, .. } => {
                summary.blind += u64::from(blind.is_some());
                "baking"
            }
            Work::Recalled { .. } => "recalled",
            // What only would be taken back wakes nobody.
            Work::RollingBack { .. } if pipeline.observes() => "rolling-back",
            Work::RollingBack { since, .. } => {
                let known = summary.rolling_back_since;
                summary.rolling_back_since = [known, Some(*since)].into_iter().flatten().min();
                "rolling-back"
            }
        };
        *summary.work.entry(kind).or_default() += 1;
    }
    let building = pipeline.releases.values().filter(|r| matches!(r.build, Build::Building { .. }));
    summary.building = building.count() as u64;
    // Where it only observes, nobody tells of its boxes.
    for slot in pipeline.slots.values().filter(|_| !pipeline.observes()) {
        match slot.capacity {
            Capacity::Short { .. } => summary.short += 1,
            Capacity::Unknown if !slot.history.is_empty() => summary.unknown += 1,
            Capacity::Unknown | Capacity::Enough => {}
        }
    }
    summary
}

fn baking(pipeline: &Pipeline) -> BTreeMap<Scope, Baking> {
    let mut all: BTreeMap<Scope, Baking> = BTreeMap::new();
    for (stage, step) in pipeline.plan.steps() {
        let Some(Work::Baking { clock, .. }) = pipeline.steps.get(&step.id).map(|s| &s.work) else {
            continue;
        };
        let left = time_left(clock);
        for region in clock.regions.keys() {
            let scope = Scope { environment: stage.environment.clone(), region: region.clone() };
            let here =
                Baking { minimum: clock.minimum, left: left.get(region).copied().unwrap_or(Span::ZERO) };
            let nearest = |had: &mut Baking| {
                let lefts = [had.left, here.left].into_iter().filter(|left| *left > Span::ZERO);
                let left = lefts.min().unwrap_or(Span::ZERO);
                *had = Baking { minimum: had.minimum.min(here.minimum), left };
            };
            all.entry(scope).and_modify(nearest).or_insert(here);
        }
    }
    all
}

fn time_left(clock: &BakeClock) -> BTreeMap<tidegate_core::ids::RegionId, Span> {
    let times = clock.missing().into_iter().filter_map(|missing| match missing {
        Missing::Time { region, left } => Some((region, left)),
        Missing::Requests { .. } => None,
    });
    times.collect()
}

//! The planner: from a pipeline's stages and the central Region list to steps and targets (P1, P2). A plan is
//! immutable; whether it keeps the rules is checked by [`crate::lint`], also for what people placed by hand.

use crate::Shared;
use crate::definition::{
    Bake, DataRequirement, OrganisationDef, PipelineDef, Profile, RegionDef, Settings, StageDef, TestSpec,
    WaveDef,
};
use crate::ids::{AzId, EnvironmentId, RegionId, Role, StageId, TargetId};
use crate::units::Span;
use serde::{Deserialize, Serialize};
use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, OnceLock};

/// A step of a pipeline: `wave-1/one-box`, `wave-1/az-2`. Stable as long as its stage is named the same.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub struct StepId(pub Arc<str>);

/// Most that are compared are copies of one another, which need not be read.
impl Ord for StepId {
    fn cmp(&self, other: &Self) -> Ordering {
        if Arc::ptr_eq(&self.0, &other.0) { Ordering::Equal } else { self.0.cmp(&other.0) }
    }
}

impl PartialOrd for StepId {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl StepId {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<String> for StepId {
    fn from(text: String) -> StepId {
        StepId(text.into())
    }
}

impl From<StepId> for String {
    fn from(id: StepId) -> String {
        id.0.as_ref().to_owned()
    }
}

impl fmt::Display for StepId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for StepId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// All stages of a pipeline, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// The stages; production's waves are stages of their own.
    pub stages: Vec<Stage>,
    /// What holds for all of them. None in plans of definitions from before there were defaults: those say all themselves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settings: Option<Settings>,
    #[serde(skip)]
    kept: Kept,
}

/// What saves work, and follows from what a plan is made of.
#[derive(Debug, Clone, Default)]
struct Kept {
    /// Every target in the order of the names, which is the order of a pipeline's slots. Made when first asked for.
    by_name: OnceLock<Arc<[Placed]>>,
    /// The very copies of the definitions that give this plan, if they are known.
    of: Option<(Shared<PipelineDef>, Shared<OrganisationDef>)>,
}

/// Plans are compared by their stages.
impl PartialEq for Kept {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Kept {}

/// A target, and where it stands in its plan.
#[derive(Debug, Clone)]
pub(crate) struct Placed {
    pub(crate) target: TargetId,
    /// The number of its stage among [`Plan::stages`].
    pub(crate) stage: usize,
    /// The number of its step among [`Plan::steps`].
    pub(crate) step: usize,
}

/// Beta, gamma, or a production wave.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stage {
    /// Its name.
    pub id: StageId,
    /// The environment it belongs to.
    pub environment: EnvironmentId,
    /// Whether windows apply.
    pub production: bool,
    /// Its steps, in order: the one-box first, if there is one.
    pub steps: Vec<Step>,
    /// Run after each step's deployment.
    pub tests: Vec<TestSpec>,
    /// Data points that every bake needs, in each Region. None as with [`Plan::settings`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<Vec<DataRequirement>>,
}

/// The unit of promotion: at most one AZ of each Region.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// Its name.
    pub id: StepId,
    /// One-box or main.
    pub role: Role,
    /// What it deploys to, all in parallel.
    pub targets: Vec<Target>,
    /// How long it bakes; for a stage's last step this is the stage's bake.
    pub bake: Span,
}

/// A target and its size.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Target {
    /// Its stable name.
    pub id: TargetId,
    /// How many boxes it has.
    pub boxes: u32,
}

impl Plan {
    /// Every step with its stage, in order.
    pub fn steps(&self) -> impl DoubleEndedIterator<Item = (&Stage, &Step)> {
        self.stages.iter().flat_map(|stage| stage.steps.iter().map(move |step| (stage, step)))
    }

    /// The step of that name with its stage.
    #[must_use]
    pub fn step(&self, id: &StepId) -> Option<(&Stage, &Step)> {
        self.steps().find(|(_, step)| &step.id == id)
    }

    /// The step after that one; `None` after the last.
    #[must_use]
    pub fn next(&self, id: &StepId) -> Option<(&Stage, &Step)> {
        self.steps().skip_while(|(_, step)| &step.id != id).nth(1)
    }

    /// The step that deploys to a target, with its stage.
    #[must_use]
    pub fn step_of(&self, target: &TargetId) -> Option<(&Stage, &Step)> {
        self.steps().find(|(_, step)| step.targets.iter().any(|t| &t.id == target))
    }

    /// Every target in the order of the names.
    pub(crate) fn by_name(&self) -> &[Placed] {
        self.kept.by_name.get_or_init(|| {
            let stages = self.stages.iter().enumerate();
            let steps = stages.flat_map(|(stage, s)| s.steps.iter().map(move |step| (stage, step)));
            let mut all: Vec<Placed> = Vec::new();
            for (step, (stage, s)) in steps.enumerate() {
                all.extend(s.targets.iter().map(|t| Placed { target: t.id.clone(), stage, step }));
            }
            all.sort_by(|a, b| a.target.cmp(&b.target));
            all.into()
        })
    }

    /// Notes which copies of the definitions give this plan.
    pub(crate) fn of(self, pipeline: &Shared<PipelineDef>, organisation: &Shared<OrganisationDef>) -> Plan {
        let of = Some((pipeline.clone(), organisation.clone()));
        Plan { kept: Kept { of, ..self.kept }, ..self }
    }

    /// Whether these copies of the definitions are known to give this plan; if not, they may all the same.
    #[must_use]
    pub fn is_of(&self, pipeline: &Shared<PipelineDef>, organisation: &Shared<OrganisationDef>) -> bool {
        self.kept.of.as_ref().is_some_and(|(p, o)| p.is(pipeline) && o.is(organisation))
    }

    /// Every target.
    pub fn targets(&self) -> impl Iterator<Item = &Target> {
        self.steps().flat_map(|(_, step)| step.targets.iter())
    }
}

impl Stage {
    /// The Regions that its steps deploy to.
    #[must_use]
    pub fn regions(&self) -> BTreeSet<&RegionId> {
        self.steps.iter().flat_map(Step::regions).collect()
    }
}

impl Step {
    /// The Regions that it deploys to.
    #[must_use]
    pub fn regions(&self) -> BTreeSet<&RegionId> {
        self.targets.iter().map(|t| &t.id.region).collect()
    }
}

/// Lays out a pipeline's steps. References that do not resolve (a Region that is not in the list) are left out here and
/// reported by [`crate::lint`], which every definition passes before its plan is used.
#[must_use]
pub fn plan(pipeline: &PipelineDef, organisation: &OrganisationDef) -> Plan {
    let settings = pipeline.settings(organisation);
    let mut stages = Vec::new();
    for stage in &pipeline.stages {
        let bake = pipeline.bake(stage, organisation);
        let regions: Vec<&RegionDef> = if stage.regions.is_empty() {
            organisation.regions.iter().collect()
        } else {
            stage.regions.iter().filter_map(|r| organisation.region(r)).collect()
        };
        if stage.is_production() {
            let waves = if stage.waves.is_empty() {
                plan_waves(&regions, settings.profile)
            } else {
                stage.waves.clone()
            };
            for (index, wave) in waves.iter().enumerate() {
                stages.push(wave_stage(pipeline, stage, wave, index, &regions, &bake));
            }
        } else if let Ok(id) = StageId::new(stage.environment.as_str()) {
            stages.push(lay_out(pipeline, stage, id, &regions, &[], &bake, bake.az));
        }
    }
    Plan { stages, settings: Some(settings), kept: Kept::default() }
}

/// Waves of growing size (P2): the Region with the least traffic, then the one with the most, then 3, then up to 12,
/// then the rest, for standard services; among equals by name.
fn plan_waves(regions: &[&RegionDef], profile: Profile) -> Vec<WaveDef> {
    let mut rest: Vec<&RegionDef> = regions.to_vec();
    rest.sort_by(|a, b| (a.traffic, &a.name).cmp(&(b.traffic, &b.name)));
    let mut waves: Vec<Vec<RegionId>> = Vec::new();
    if !rest.is_empty() {
        waves.push(vec![rest.remove(0).name.clone()]);
    }
    if let Some(busiest) = rest.pop() {
        waves.push(vec![busiest.name.clone()]);
    }
    for number in 0.. {
        let take = rest.len().min(profile.wave_size(number));
        if take == 0 {
            break;
        }
        waves.push(rest.drain(..take).map(|r| r.name.clone()).collect());
    }
    waves.into_iter().map(|regions| WaveDef { name: None, regions, steps: Vec::new() }).collect()
}

fn wave_stage(
    pipeline: &PipelineDef,
    stage: &StageDef,
    wave: &WaveDef,
    index: usize,
    all: &[&RegionDef],
    bake: &Bake,
) -> Stage {
    let id = wave.name.clone().unwrap_or_else(|| {
        StageId::new(format!("wave-{}", index + 1))
            .expect("a word, a dash and a number are a valid stage name")
    });
    let regions: Vec<&RegionDef> =
        wave.regions.iter().filter_map(|name| all.iter().find(|r| &r.name == name).copied()).collect();
    let last = match index {
        0 => bake.first_wave,
        later => {
            let shorter = Span::hours(later as u64 - 1).millis();
            Span(bake.second_wave.millis().saturating_sub(shorter)).max(bake.last_wave)
        }
    };
    lay_out(pipeline, stage, id, &regions, &wave.steps, bake, last)
}

/// One-box in every Region, then the first AZ of every Region, then the second, ...
fn lay_out(
    pipeline: &PipelineDef,
    stage: &StageDef,
    id: StageId,
    regions: &[&RegionDef],
    by_hand: &[Vec<String>],
    bakes: &Bake,
    stage_bake: Span,
) -> Stage {
    let target = |region: &RegionDef, az: &AzId, role: Role| Target {
        id: TargetId {
            service: pipeline.service.clone(),
            environment: stage.environment.clone(),
            region: region.name.clone(),
            az: az.clone(),
            role,
        },
        boxes: if role == Role::OneBox { 1 } else { stage.boxes_per_az },
    };
    let step = |name: String, role: Role, targets: Vec<Target>, bake: Span| Step {
        id: StepId(format!("{id}/{name}").into()),
        role,
        targets,
        bake,
    };
    let mut steps = Vec::new();
    if stage.one_box {
        let targets =
            regions.iter().filter_map(|r| r.azs.first().map(|az| target(r, az, Role::OneBox))).collect();
        steps.push(step("one-box".to_owned(), Role::OneBox, targets, bakes.one_box));
    }
    let main: Vec<Vec<Target>> = if by_hand.is_empty() {
        let azs = regions.iter().map(|r| r.azs.len()).max().unwrap_or(0);
        // The server is one, wherever its Region's AZs are.
        let most = if pipeline.defines().is_some() { azs.min(1) } else { azs };
        (0..most)
            .map(|n| {
                regions.iter().filter_map(|r| r.azs.get(n).map(|az| target(r, az, Role::Main))).collect()
            })
            .collect()
    } else {
        by_hand
            .iter()
            .map(|step| {
                step.iter()
                    .filter_map(|text| {
                        let (region, az) = text.split_once('/')?;
                        let region = regions.iter().find(|r| r.name.as_str() == region)?;
                        Some(target(region, region.azs.iter().find(|a| a.as_str() == az)?, Role::Main))
                    })
                    .collect()
            })
            .collect()
    };
    let last = main.len().saturating_sub(1);
    for (n, targets) in main.into_iter().enumerate() {
        let bake = if n == last { stage_bake } else { bakes.az };
        steps.push(step(format!("az-{}", n + 1), Role::Main, targets, bake));
    }
    Stage {
        id,
        environment: stage.environment.clone(),
        production: stage.is_production(),
        steps,
        tests: stage.tests.clone(),
        data: Some(bakes.data.clone()),
    }
}

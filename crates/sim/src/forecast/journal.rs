//! Writes down, from the facts that the core decided, how each release went. Nothing here decides anything.

use super::result::{Change, Pass, Passed, Release, Verdict, Wait};
use super::scenario::{instant, is_business_day, local};
use jiff::civil;
use jiff::tz::TimeZone;
use std::collections::BTreeMap;
use tidegate_core::decision::Fact;
use tidegate_core::ids::ReleaseNo;
use tidegate_core::pipeline::{Build, Cause, Pipeline, PipelineFact};
use tidegate_core::plan::StepId;
use tidegate_core::scope::Scope;
use tidegate_core::units::{Span, Timestamp};

/// The releases so far.
#[derive(Debug, Default)]
pub(super) struct Journal {
    pub(super) releases: BTreeMap<ReleaseNo, Release>,
    /// The release in work in a step.
    inside: BTreeMap<StepId, ReleaseNo>,
    pub(super) facts: u64,
}

impl Journal {
    /// Begins with what is on its way already.
    pub(super) fn begin(&mut self, pipeline: &Pipeline) {
        for (no, release) in &pipeline.releases {
            let built = match &release.build {
                Build::Built { at, .. } => Some(*at),
                Build::Building { .. } | Build::Failed { .. } => None,
            };
            let mut known = Release::new(*no, release.created_at, &release.changes);
            known.built = built;
            self.releases.insert(*no, known);
        }
        for (step, state) in &pipeline.steps {
            let Some((release, entered)) = state.work.under_way() else { continue };
            self.inside.insert(step.clone(), release);
            self.with(release, |r| r.passes.push(Pass::new(step, entered)));
        }
    }

    /// Notes a fact. `last` is the pipeline's last step.
    pub(super) fn note(&mut self, at: Timestamp, fact: &Fact, last: Option<&StepId>) {
        self.facts += 1;
        let Fact::Pipeline(fact) = fact else { return };
        match fact.plain() {
            PipelineFact::ReleaseCreated { release, changes, at, .. } => {
                let new = Release::new(*release, *at, changes);
                self.releases.insert(*release, new);
            }
            PipelineFact::Built { release, at, .. } => {
                self.with(*release, |r| r.built = Some(*at));
            }
            PipelineFact::CandidateSet { step, release } => self.take_over(step, *release, at),
            PipelineFact::Waits { step, release, reasons } => {
                self.end_waits(step, at, |r| r == *release);
                if !reasons.is_empty() {
                    let (step, reasons) = (step.clone(), reasons.clone());
                    self.with(*release, |r| r.wait(Wait { step, from: at, until: None, reasons }));
                }
            }
            PipelineFact::Entered { step, release, at, .. } => {
                self.end_waits(step, *at, |r| r == *release);
                self.inside.insert(step.clone(), *release);
                let pass = Pass::new(step, *at);
                self.with(*release, |r| r.passes.push(pass));
            }
            PipelineFact::BakeStarted { step, clock } => {
                let started = clock.started;
                self.inside(step, |pass| pass.baking = Some(started));
            }
            PipelineFact::StepDone { step, release, at } => {
                self.with(*release, |r| {
                    r.pass(step, |pass| pass.done = Some(*at));
                    if Some(step) == last {
                        r.everywhere = r.everywhere.or(Some(*at));
                    }
                });
            }
            PipelineFact::StepRollingBack { step, release, since, .. } => {
                self.inside.insert(step.clone(), *release);
                self.inside(step, |pass| pass.taken_back = Some(*since));
            }
            PipelineFact::StepRolledBack { step, at } => self.inside(step, |pass| pass.back = Some(*at)),
            PipelineFact::Rejected { release, cause, at, .. } => self.verdict(*release, *at, true, cause),
            PipelineFact::Suspected { release, cause, at, .. } => self.verdict(*release, *at, false, cause),
            PipelineFact::Overridden { allowed, .. } => {
                let (steps, reason) = (allowed.steps.clone(), allowed.reason.clone());
                self.with(allowed.release, |r| r.overrides.push(Passed { at: allowed.at, steps, reason }));
            }
            _ => {}
        }
    }

    fn with(&mut self, release: ReleaseNo, change: impl FnOnce(&mut Release)) {
        if let Some(release) = self.releases.get_mut(&release) {
            change(release);
        }
    }

    fn inside(&mut self, step: &StepId, change: impl FnOnce(&mut Pass)) {
        if let Some(release) = self.inside.get(step).copied() {
            self.with(release, |r| r.pass(step, change));
        }
    }

    /// A newer candidate waits for what the one before it waited for, until the gate says otherwise.
    fn take_over(&mut self, step: &StepId, release: ReleaseNo, at: Timestamp) {
        let waits = self.releases.iter().filter(|(no, _)| **no != release).flat_map(|(_, r)| &r.waits);
        let open = waits.filter(|w| &w.step == step && w.until.is_none()).map(|w| w.reasons.clone()).next();
        self.end_waits(step, at, |r| r != release);
        if let Some(reasons) = open {
            let step = step.clone();
            self.with(release, |r| r.wait(Wait { step, from: at, until: None, reasons }));
        }
    }

    fn end_waits(&mut self, step: &StepId, at: Timestamp, of: impl Fn(ReleaseNo) -> bool) {
        for (_, release) in self.releases.iter_mut().filter(|(no, _)| of(**no)) {
            let open = release.waits.iter_mut().rev().find(|w| &w.step == step && w.until.is_none());
            if let Some(wait) = open {
                wait.until = Some(at);
            }
            release.waits.retain(|wait| wait.until != Some(wait.from));
        }
    }

    fn verdict(&mut self, release: ReleaseNo, at: Timestamp, rejected: bool, cause: &Cause) {
        let scope = match cause {
            Cause::Alarm { scope, .. } => Some(scope.clone()),
            Cause::Health { target, .. } => Some(Scope::of(target)),
            Cause::Tests { .. } | Cause::Person { .. } => None,
        };
        let cause = cause.clone();
        self.with(release, |r| {
            let step = r.passes.last().map(|pass| pass.step.clone());
            r.verdicts.push(Verdict { at, rejected, step, scope, cause });
        });
    }
}

impl Pass {
    fn new(step: &StepId, entered: Timestamp) -> Pass {
        Pass { step: step.clone(), entered, baking: None, done: None, taken_back: None, back: None }
    }
}

impl Release {
    fn new(release: ReleaseNo, created: Timestamp, changes: &[tidegate_core::pipeline::Change]) -> Release {
        let change = |c: &tidegate_core::pipeline::Change| Change {
            commit: c.commit.id.clone(),
            at: c.commit.committed_at,
        };
        Release {
            release,
            created,
            changes: changes.iter().map(change).collect(),
            built: None,
            passes: Vec::new(),
            waits: Vec::new(),
            everywhere: None,
            verdicts: Vec::new(),
            overrides: Vec::new(),
        }
    }

    fn pass(&mut self, step: &StepId, change: impl FnOnce(&mut Pass)) {
        if let Some(pass) = self.passes.iter_mut().rev().find(|pass| &pass.step == step) {
            change(pass);
        }
    }

    /// A wait that goes on for the same reasons is one.
    fn wait(&mut self, new: Wait) {
        if let Some(last) = self.waits.last_mut()
            && (&last.step, &last.reasons, last.until) == (&new.step, &new.reasons, Some(new.from))
        {
            last.until = None;
            return;
        }
        self.waits.push(new);
    }
}

/// The value that this share of all does not exceed, per mille; the nearest rank.
pub(super) fn quantile<T: Ord + Copy>(all: &[T], per_mille: usize) -> Option<T> {
    let mut sorted = all.to_vec();
    sorted.sort_unstable();
    let rank = (sorted.len() * per_mille).div_ceil(1_000).max(1);
    sorted.get(rank - 1).copied()
}

/// The time between two moments, Saturdays and Sundays of the zone taken out.
pub(super) fn business_time(from: Timestamp, until: Timestamp, zone: &TimeZone) -> Span {
    let Some(mut date) = local(from, zone).map(civil::DateTime::date) else { return Span::ZERO };
    let midnight = |date: civil::Date| instant(date.to_datetime(civil::Time::midnight()), zone);
    let mut all = Span::ZERO;
    while let Ok(tomorrow) = date.tomorrow() {
        if midnight(date) >= until {
            break;
        }
        if is_business_day(date) {
            all = all.plus(midnight(tomorrow).min(until).since(midnight(date).max(from)));
        }
        date = tomorrow;
    }
    all
}

/// From the merge of each change until it was everywhere.
pub(super) fn arrivals(releases: &[Release]) -> Vec<(Timestamp, Timestamp)> {
    let mut all = Vec::new();
    for (n, release) in releases.iter().enumerate() {
        // A newer release takes along what it overtakes.
        let arrived = releases[n..].iter().filter_map(|r| r.everywhere).min();
        all.extend(release.changes.iter().filter_map(|change| Some((change.at, arrived?))));
    }
    all
}

/// The spans of pairs.
pub(super) fn spans(pairs: &[(Timestamp, Timestamp)]) -> Vec<Span> {
    pairs.iter().map(|(from, until)| until.since(*from)).collect()
}

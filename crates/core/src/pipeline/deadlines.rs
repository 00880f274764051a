//! Whatever is awaited has a deadline (rule 8), and time in which it could not come is not held against it: when nobody worked,
//! because no server ran, it was frozen or the clock jumped ahead; and when a build or tests waited for their turn.

use super::decide::Deciding;
use super::orders::{BUILD_GRACE, TEST_GRACE};
use super::{
    Blind, Break, Build, Cause, Matter, Motion, Pipeline, PipelineFact, Release, SlotState, StepState, Work,
};
use crate::Shared;
use crate::alarm::AlarmName;
use crate::decision::{Awaited, EffectId, Severity};
use crate::ids::{ReleaseNo, TargetId};
use crate::plan::StepId;
use crate::units::{Span, Timestamp};
use std::collections::BTreeSet;

/// How long a bake may be blind until the on-call engineer is told.
pub(super) const BLIND_PAGE_AFTER: Span = Span::minutes(10);

impl Deciding<'_> {
    /// Whatever is awaited has a deadline (rule 8).
    pub(super) fn time_out(&mut self) {
        let now = self.now;
        let mut builds = Vec::new();
        for (no, release) in &self.p.releases {
            if let Build::Building { effect, awaited } = &release.build {
                builds.push((*no, effect.clone(), awaited.deadline));
            }
        }
        for (release, effect, deadline) in builds {
            if deadline <= now {
                self.out.cancelled.push(effect);
                self.build_failed(release, "no result within its time limit");
            } else {
                self.look_again(deadline);
            }
        }
        let moving = self.p.slots.iter().filter(|(_, slot)| slot.motion != Motion::Settled);
        for target in moving.map(|(target, _)| target.clone()).collect::<Vec<TargetId>>() {
            self.time_out_slot(&target);
        }
        let plan = self.p.plan.clone();
        for (_, step) in plan.steps() {
            self.time_out_step(&step.id);
        }
    }

    fn time_out_slot(&mut self, target: &TargetId) {
        let Some(slot) = self.p.slots.get(target) else { return };
        match slot.motion.clone() {
            Motion::Settled | Motion::Abandoned { .. } => {}
            // Nothing more is asked for while a rollback has its lease: that is not its fault, and then it has time left.
            Motion::Forward { asked, settled, awaited, .. }
                if settled >= asked && !self.holds_lease(target) =>
            {
                let half = Span(self.rolling().progress_deadline.millis() / 2);
                if awaited.deadline.since(self.now) <= half {
                    let awaited = self.progress_deadline();
                    self.fact(PipelineFact::SlotProgressed { target: target.clone(), settled, awaited });
                }
                self.look_again(self.now + half);
            }
            Motion::Forward { .. } if self.switches.has(Break::NoDeadlines) => {}
            Motion::Forward { release, awaited, trouble, .. } if awaited.deadline <= self.now => {
                let why = trouble.unwrap_or_else(|| "no box became healthy in time".to_owned());
                self.reject(release, Cause::Health { target: target.clone(), why }, false);
            }
            Motion::Back { awaited, trouble, to, .. } if awaited.deadline <= self.now => {
                let awaited = self.progress_deadline();
                self.look_again(awaited.deadline);
                self.fact(PipelineFact::SlotStuck { target: target.clone(), awaited });
                let to = to.map_or_else(|| "nothing".to_owned(), |r| r.to_string());
                let title = format!("{}: the rollback of {target} makes no progress", self.id);
                let why = trouble.unwrap_or_else(|| "the engine tells of nothing in its way".to_owned());
                let text = format!("to {to}; {why}. tidegate goes on trying.");
                self.page(Matter::Stuck(target.clone()), Severity::High, title, text);
            }
            Motion::Forward { awaited, .. } | Motion::Back { awaited, .. } => {
                self.look_again(awaited.deadline)
            }
        }
    }

    fn time_out_step(&mut self, id: &StepId) {
        let Some(state) = self.p.steps.get(id) else { return };
        match &state.work {
            Work::Testing { release, awaited, .. } => {
                let (release, deadline) = (*release, awaited.deadline);
                if deadline <= self.now {
                    let why = "no result within the tests' time limit".to_owned();
                    self.reject(release, Cause::Tests { step: id.clone(), why }, false);
                } else {
                    self.look_again(deadline);
                }
            }
            Work::Baking { clock, blind, .. } if blind.as_ref().is_none_or(|b| !b.paged) => {
                // Monitoring that tells nothing at all is as blind as monitoring without data.
                let told = clock.regions.values().map(|c| c.until).min().unwrap_or(clock.started);
                let unwatched =
                    || Blind { since: told, regions: BTreeSet::new(), alarms: BTreeSet::new(), paged: false };
                // As long as nobody worked, nobody could tell.
                let since = blind.as_ref().map_or(told, |blind| blind.since);
                let since = self.p.resumed.map_or(since, |resumed| since.max(resumed));
                let tell_at = since + BLIND_PAGE_AFTER;
                if tell_at > self.now {
                    return self.look_again(tell_at);
                }
                let (clock, blind) = (clock.clone(), blind.clone().unwrap_or_else(unwatched));
                let mut names: Vec<&str> = blind.alarms.iter().map(AlarmName::as_str).collect();
                if names.is_empty() {
                    names.push("any alarm");
                }
                let title = format!("{}: the bake of {id} stands still, monitoring is blind", self.id);
                let text = format!("no data since {} for {}", blind.since, names.join(", "));
                self.page(Matter::Blind(id.clone()), Severity::Low, title, text);
                let blind = Some(Blind { paged: true, ..blind });
                self.fact(PipelineFact::Watched { step: id.clone(), clock, blind });
            }
            _ => {}
        }
    }

    /// What was awaited while nobody worked has as much more time.
    pub(super) fn resumed(&mut self, absent: Span) {
        if self.p.awaits() {
            self.fact(PipelineFact::Resumed { absent, at: self.now });
        }
    }

    /// As long as a build or tests wait for their turn, their time does not run. Said again and again it is recorded when half
    /// of what they have beyond their own limit is over. What is not awaited any more waits in vain.
    pub(super) fn turn_awaited(&mut self, effect: &EffectId) {
        let Some((release, step, awaited)) = self.awaited_of(effect) else { return };
        let limit = match &step {
            None => self.build_limit().map(|limit| (limit, BUILD_GRACE)),
            Some(step) => self.tests_limit(step, release).map(|limit| (limit, TEST_GRACE)),
        };
        let Some((limit, grace)) = limit else { return };
        let until = Awaited::new(self.now, limit);
        if until.deadline.since(awaited.deadline).millis() >= grace.millis() / 2 {
            self.fact(PipelineFact::TurnAwaited { release, step, awaited: until });
        }
    }

    /// The build or the tests (of which step) that an effect does, if they are awaited.
    fn awaited_of(&self, effect: &EffectId) -> Option<(ReleaseNo, Option<StepId>, Awaited)> {
        let build = self.p.releases.iter().find_map(|(no, release)| match &release.build {
            Build::Building { effect: of, awaited } if of == effect => Some((*no, None, *awaited)),
            _ => None,
        });
        let tests = || {
            self.p.steps.iter().find_map(|(id, step)| match &step.work {
                Work::Testing { release, effect: of, awaited, .. } if of == effect => {
                    Some((*release, Some(id.clone()), *awaited))
                }
                _ => None,
            })
        };
        build.or_else(tests)
    }
}

fn is_built(release: &Shared<Release>) -> bool {
    matches!(release.build, Build::Building { .. })
}

fn moves(slot: &Shared<SlotState>) -> bool {
    matches!(slot.motion, Motion::Forward { .. } | Motion::Back { .. })
}

fn is_tested(step: &Shared<StepState>) -> bool {
    matches!(step.work, Work::Testing { .. })
}

impl Pipeline {
    /// Whether anything of it could have come meanwhile, if somebody had worked.
    #[must_use]
    pub fn awaits(&self) -> bool {
        let baking = |step: &Shared<StepState>| matches!(step.work, Work::Baking { .. });
        self.releases.values().any(is_built)
            || self.slots.values().any(moves)
            || self.steps.values().any(|step| is_tested(step) || baking(step))
    }

    pub(super) fn apply_resumed(&mut self, absent: Span, at: Timestamp) {
        self.resumed = Some(at);
        let put_off = |awaited: &mut Awaited| awaited.deadline = awaited.deadline + absent;
        for release in self.releases.values_mut().filter(|release| is_built(release)) {
            if let Build::Building { awaited, .. } = &mut release.build {
                put_off(awaited);
            }
        }
        for slot in self.slots.values_mut().filter(|slot| moves(slot)) {
            if let Motion::Forward { awaited, .. } | Motion::Back { awaited, .. } = &mut slot.motion {
                put_off(awaited);
            }
        }
        for step in self.steps.values_mut().filter(|step| is_tested(step)) {
            if let Work::Testing { awaited, .. } = &mut step.work {
                put_off(awaited);
            }
        }
    }

    pub(super) fn apply_turn_awaited(&mut self, release: ReleaseNo, step: Option<&StepId>, until: Awaited) {
        let awaited = match step {
            None => match self.releases.get_mut(&release).map(|release| &mut release.build) {
                Some(Build::Building { awaited, .. }) => awaited,
                _ => return,
            },
            Some(step) => match self.steps.get_mut(step).map(|step| &mut step.work) {
                Some(Work::Testing { awaited, .. }) => awaited,
                _ => return,
            },
        };
        *awaited = until;
    }
}

//! One pass over a pipeline: alarms first, then what has run out of time, then what has arrived, then what may start. It
//! takes no hints from the event that caused it.

use super::decide::Deciding;
use super::{Break, Build, Change, Motion, PipelineFact, Standing, Work, review};
use crate::bake::BakeClock;
use crate::decision::Actor;
use crate::ids::ReleaseNo;
use crate::lease::{LeaseFact, LeaseId};
use crate::plan::StepId;
use crate::scope::Scope;
use crate::team::TeamFact;
use std::collections::{BTreeMap, BTreeSet};

/// How many releases are remembered beyond those that something still refers to.
const RELEASES_KEPT: usize = 100;

pub(super) fn advance(d: &mut Deciding<'_>) {
    if d.p.life.is_active() {
        d.lift_masks();
        d.heed_alarms();
        d.end_holds();
    }
    d.pretend();
    d.time_out();
    d.complete_steps();
    if d.p.life.is_active() {
        d.make_release();
        d.enter_steps();
    }
    d.end_retirement();
    d.release_leases();
    d.end_suspect_turn();
    d.end_pages();
    d.forget_releases();
}

impl Deciding<'_> {
    fn end_holds(&mut self) {
        let now = self.now;
        let ended: Vec<u64> =
            self.p.holds.iter().filter(|(_, h)| h.until.is_some_and(|u| u <= now)).map(|(n, _)| *n).collect();
        for number in ended {
            self.fact(PipelineFact::HoldLifted { number, by: Actor::Tidegate });
        }
    }

    /// Steps whose slots have arrived, or whose bake is over.
    fn complete_steps(&mut self) {
        let plan = self.p.plan.clone();
        for (stage, step) in plan.steps() {
            let Some(state) = self.p.steps.get(&step.id) else { continue };
            let all_settled = || {
                let mut slots = step.targets.iter().map(|t| self.p.slots.get(&t.id));
                slots.all(|slot| slot.is_some_and(|slot| slot.motion == Motion::Settled))
            };
            match &state.work {
                Work::Deploying { release, .. } if all_settled() => {
                    let release = *release;
                    let none = stage.tests.is_empty() || self.p.observes();
                    let order = if none { None } else { self.order_tests(stage, step, release) };
                    match order {
                        Some((effect, awaited)) => {
                            self.look_again(awaited.deadline);
                            self.fact(PipelineFact::TestsStarted { step: step.id.clone(), effect, awaited });
                        }
                        None => self.start_bake(&step.id),
                    }
                    if self.switches.has(Break::StepNotPassed)
                        && let Some((_, next)) = plan.next(&step.id)
                    {
                        self.candidate(&next.id, release);
                    }
                }
                Work::RollingBack { .. } if all_settled() => {
                    let at = self.now;
                    self.fact(PipelineFact::StepRolledBack { step: step.id.clone(), at });
                }
                _ => {}
            }
            self.complete_bake(&step.id);
        }
    }

    pub(super) fn start_bake(&mut self, step: &StepId) {
        let Some((stage, planned)) = self.p.plan.step(step) else { return };
        let Some((release, _)) = self.p.steps.get(step).and_then(|s| s.work.under_way()) else { return };
        // No box that runs the release gets requests where it only would, or where a newer one has come first by an edit.
        let runs = stage.steps.iter().flat_map(|s| &s.targets).any(|t| self.p.is_watched(&t.id, release));
        let requirements = if self.p.observes() || !runs { Vec::new() } else { self.p.requirements(stage) };
        let clock =
            BakeClock::start(self.now, planned.bake, &requirements, self.p.bakes_in(stage, planned, release));
        self.fact(PipelineFact::BakeStarted { step: step.clone(), clock });
    }

    fn complete_bake(&mut self, step: &StepId) {
        let Some(Work::Baking { release, clock, .. }) = self.p.steps.get(step).map(|s| &s.work) else {
            return;
        };
        if !clock.is_over() {
            return;
        }
        let (release, at) = (*release, self.now);
        self.fact(PipelineFact::StepDone { step: step.clone(), release, at });
        let next = self.p.plan.next(step).map(|(_, next)| next).filter(|next| self.needs(next, release));
        if let Some(next) = next.map(|next| next.id.clone()) {
            self.candidate(&next, release);
        }
    }

    /// Makes a release of the newest reviewed commits, unless one is being built: later commits wait, and the next build
    /// takes the newest.
    fn make_release(&mut self) {
        let Some(definition) = self.p.definition.clone() else { return };
        if self.p.releases.values().any(|r| matches!(r.build, Build::Building { .. })) {
            return;
        }
        let (mut commits, mut changes, mut anything_new) = (BTreeMap::new(), Vec::new(), false);
        for source in &definition.sources {
            let Some(state) = self.p.sources.get(&source.name) else { return };
            let newest = if self.switches.has(Break::NoReview) {
                review::unchecked(state)
            } else {
                review::newest_approved(state, &self.team)
            };
            if let Some((commit, taken)) = newest {
                anything_new = true;
                commits.insert(source.name.clone(), commit.clone());
                changes.extend(taken.into_iter().map(|(seen, review)| Change {
                    source: source.name.clone(),
                    commit: seen.commit.clone(),
                    review,
                }));
            } else if let Some(released) = &state.released {
                commits.insert(source.name.clone(), released.clone());
            } else {
                return;
            }
        }
        if !anything_new {
            return;
        }
        let release = ReleaseNo(self.p.newest().map_or(1, |(no, _)| no.0 + 1));
        let Some((effect, awaited)) = self.order_build(release, commits.clone()) else { return };
        let at = self.now;
        self.look_again(awaited.deadline);
        self.fact(PipelineFact::ReleaseCreated { release, commits, changes, at, effect, awaited });
    }

    /// Deploying and rolling back hold the lease; testing and baking do not.
    fn release_leases(&mut self) {
        let moving = |wanted: fn(&Motion) -> bool| -> BTreeSet<Scope> {
            let slots = self.p.slots.iter().filter(|(_, slot)| wanted(&slot.motion));
            slots.map(|(target, _)| Scope::of(target)).collect()
        };
        let forward = moving(|motion| matches!(motion, Motion::Forward { .. }));
        let back = moving(|motion| matches!(motion, Motion::Back { .. }));
        let (forward, back) = (|scope| forward.contains(scope), |scope| back.contains(scope));
        let mut ended: Vec<(LeaseId, LeaseFact)> = Vec::new();
        for (id, lease) in self.leases.iter() {
            let pipeline = || self.id.clone();
            if lease.is_interrupted(self.id) && !forward(&id.scope) {
                ended.push((id.clone(), LeaseFact::GivenUp { pipeline: pipeline() }));
            }
            if lease.is_deploying(self.id) && !forward(&id.scope)
                || lease.is_rolling_back(self.id) && !back(&id.scope)
            {
                ended.push((id.clone(), LeaseFact::Released { pipeline: pipeline() }));
            }
        }
        for (id, fact) in ended {
            self.lease(id, fact);
            // What waits here for the lease had its look before it was free.
            self.look_again(self.now);
        }
    }

    /// The turn of a suspect that came back ends when its wave is finished or it was rejected.
    fn end_suspect_turn(&mut self) {
        if self.team.suspect_turn.as_ref() != Some(self.id) {
            return;
        }
        let everywhere = self.p.everywhere();
        let on_its_way = self.p.plan.steps().any(|(_, step)| {
            let Some(state) = self.p.steps.get(&step.id) else { return false };
            let release = match &state.work {
                Work::Done { release, .. } | Work::Recalled { release, .. } => {
                    step.targets.iter().any(|t| self.p.is_watched(&t.id, *release)).then_some(*release)
                }
                other => other.under_way().map(|(release, _)| release),
            };
            release
                .filter(|r| everywhere.is_none_or(|e| e < *r))
                .and_then(|r| self.p.releases.get(&r))
                .is_some_and(|r| r.suspected > 0 && r.standing == Standing::Good)
        });
        if !on_its_way {
            self.team_fact(TeamFact::SuspectTurnEnded { pipeline: self.id.clone() });
            self.wake_others();
        }
    }

    /// Forgets old releases that no target, step or taint can need any more.
    fn forget_releases(&mut self) {
        if self.p.releases.len() <= 2 * RELEASES_KEPT {
            return;
        }
        let kept = self.p.releases.keys().rev().nth(RELEASES_KEPT).copied();
        let slots = self.p.slots.values().chain(self.p.real_slots().values());
        let in_slots = slots.flat_map(|s| s.history.iter().copied().chain(s.running())).min();
        let reality = self.p.reality.iter();
        let in_steps = self
            .p
            .steps
            .values()
            .chain(reality.clone().flat_map(|reality| reality.steps.values()))
            .filter_map(|s| {
                s.candidate.into_iter().chain(s.done).chain(s.work.under_way().map(|(r, _)| r)).min()
            })
            .min();
        let taints = self.p.taints.values().chain(reality.flat_map(|reality| reality.taints.values()));
        let tainted = taints.filter(|t| t.cleared.is_none()).map(|t| t.first).min();
        let Some(before) = [kept, in_slots, in_steps, tainted].into_iter().flatten().min() else { return };
        if self.p.releases.first_key_value().is_some_and(|(first, _)| *first < before) {
            self.fact(PipelineFact::ReleasesForgotten { before });
        }
    }
}

//! What sources, builds, tests, engines and monitoring tell.

use super::decide::Deciding;
use super::{
    Asked, Blind, Break, Build, Capacity, Cause, Grant, Motion, PENDING_COMMITS_MAX, PipelineFact, SlotState,
    Trouble, Work,
};
use crate::alarm::AlarmName;
use crate::bake::{BakeClock, WatchedInterval};
use crate::change::SourceObservation;
use crate::decision::{EffectId, Illegal};
use crate::engine::{BoxHealth, BoxObservation, Observation};
use crate::forge::Brought;
use crate::ids::{CommitId, PackageDigest, ReleaseNo, Role, SourceId, TargetId};
use crate::lease::LeaseId;
use crate::rollout::{self, Direction, Next};
use crate::scope::Scope;
use std::collections::{BTreeMap, BTreeSet};

impl Deciding<'_> {
    pub(super) fn source_observed(
        &mut self,
        source: &SourceId,
        seen: &SourceObservation,
    ) -> Result<(), Illegal> {
        let Some(state) = self.p.sources.get(source) else {
            return Err(Illegal::new(format!("{} has no source '{source}'", self.id)));
        };
        let trouble = if seen.rewritten {
            let known = state.head.as_ref().map_or("", |h| h.short());
            Some(format!(
                "the history was rewritten: {known} is no ancestor of {} any more; no source moves backward, so push \
                 a mainline that contains {known}",
                seen.head.short()
            ))
        } else if state.pending.len() + seen.commits.len() > PENDING_COMMITS_MAX {
            Some(format!(
                "more than {PENDING_COMMITS_MAX} commits wait for review; name the history that was there before as 'since'"
            ))
        } else {
            None
        };
        if let Some(why) = trouble {
            return self.source_failed(source, &why);
        }
        let (had_trouble, new_head) = (state.trouble.is_some(), state.head.as_ref() != Some(&seen.head));
        let known: BTreeSet<_> = state.pending.iter().map(|s| s.commit.id.clone()).collect();
        if had_trouble {
            self.fact(PipelineFact::SourceRecovered { source: source.clone() });
        }
        if new_head {
            let commits = seen.commits.iter().filter(|c| !known.contains(&c.id)).cloned().collect();
            let (source, head, at) = (source.clone(), seen.head.clone(), self.now);
            self.fact(PipelineFact::CommitsSeen { source, head, commits, at });
        }
        Ok(())
    }

    pub(super) fn source_failed(&mut self, source: &SourceId, why: &str) -> Result<(), Illegal> {
        let Some(state) = self.p.sources.get(source) else {
            return Err(Illegal::new(format!("{} has no source '{source}'", self.id)));
        };
        if state.trouble.as_ref().is_none_or(|t| t.why != why) {
            let since = state.trouble.as_ref().map_or(self.now, |t| t.since);
            let trouble = Trouble { why: why.to_owned(), since };
            self.fact(PipelineFact::SourceTroubled { source: source.clone(), trouble });
        }
        Ok(())
    }

    /// What was said before and is said again is no news; commits that are in a release by now are not asked about any more. An
    /// answer that was under way while the definition came to name another forge, repository or branch is nobody's any more.
    pub(super) fn forge_told(
        &mut self,
        source: &SourceId,
        told: &BTreeMap<CommitId, Brought>,
        asked: Option<&Asked>,
    ) -> Result<(), Illegal> {
        let Some(state) = self.p.sources.get(source) else {
            return Err(Illegal::new(format!("{} has no source '{source}'", self.id)));
        };
        let names = self.p.source_def(source).and_then(Asked::of);
        if names.is_none() || names.as_ref() != asked {
            return Ok(());
        }
        let news = state.pending.iter().filter_map(|seen| {
            let brought = told.get(&seen.commit.id)?;
            let known = seen.told.as_ref().map(|told| &told.brought);
            (known != Some(brought)).then(|| (seen.commit.id.clone(), brought.clone()))
        });
        let news: BTreeMap<CommitId, Brought> = news.collect();
        if !news.is_empty() {
            self.fact(PipelineFact::ForgeTold { source: source.clone(), told: news, at: self.now });
        }
        Ok(())
    }

    /// The first result of the build that is awaited counts; any other is late and changes nothing.
    pub(super) fn build_ended(&mut self, effect: &EffectId, result: &Result<PackageDigest, String>) {
        let awaited = self.p.releases.iter().find(|(_, release)| {
            matches!(&release.build, Build::Building { effect: awaited, .. } if awaited == effect)
        });
        let Some(release) = awaited.map(|(no, _)| *no) else { return };
        let at = self.now;
        match result {
            Ok(package) => {
                let Some(definition) = self.p.definition.clone() else { return };
                let run_specs = self.make_run_specs(&definition, package, &BTreeMap::new());
                self.fact(PipelineFact::Built { release, package: package.clone(), run_specs, at });
                let first = self.p.plan.steps().next().map(|(_, step)| step.id.clone());
                // What was made while the pipeline only observed waits for a person's word.
                let may = self.p.observed.is_none_or(|observed| release > observed);
                if let Some(first) = first.filter(|_| may) {
                    self.candidate(&first, release);
                }
            }
            Err(why) => self.build_failed(release, why),
        }
    }

    pub(super) fn build_failed(&mut self, release: ReleaseNo, why: &str) {
        let at = self.now;
        self.fact(PipelineFact::BuildFailed { release, why: why.to_owned(), at });
        let title = format!("{}: {release} cannot be built", self.id);
        let text = format!("{why}\nNext: push a fix, or tidegate retry {} {release} --reason WHY", self.id);
        self.page(super::Matter::Build(release), crate::decision::Severity::Low, title, text);
    }

    /// Makes a release the candidate of a step, unless a newer one is.
    pub(super) fn candidate(&mut self, step: &crate::plan::StepId, release: ReleaseNo) {
        let newer = self.p.steps.get(step).is_some_and(|s| s.candidate.is_some_and(|c| c >= release));
        if !newer {
            self.fact(PipelineFact::CandidateSet { step: step.clone(), release });
        }
    }

    pub(super) fn tests_ended(&mut self, effect: &EffectId, result: &Result<(), String>) {
        let awaited = self.p.steps.iter().find_map(|(id, step)| match &step.work {
            Work::Testing { release, effect: awaited, .. } if awaited == effect => {
                Some((id.clone(), *release))
            }
            _ => None,
        });
        let Some((step, release)) = awaited else { return };
        match result {
            Ok(()) => self.start_bake(&step),
            Err(why) => self.reject(release, Cause::Tests { step, why: why.clone() }, false),
        }
    }

    pub(super) fn slot_observed(&mut self, seen: &Observation) {
        let target = &seen.slot.target;
        let Some(slot) = self.p.slots.get(target).filter(|_| &seen.slot.pipeline == self.id) else { return };
        if let Some(glass) = seen.glass.as_ref().filter(|glass| slot.glass.as_ref() != Some(&glass.id)) {
            return self.glass_broken(target, glass);
        }
        if seen.fence.generation < slot.generation && !self.switches.has(Break::OldGenerations) {
            return;
        }
        self.note_capacity(seen);
        if self.resize(seen) {
            return;
        }
        let Some(slot) = self.p.slots.get(target) else { return };
        let (direction, wanted, asked, settled, had_trouble) = match &slot.motion {
            Motion::Settled | Motion::Abandoned { .. } => return,
            Motion::Forward { release, asked, settled, trouble, .. } => {
                (Direction::Forward, Some(*release), *asked, *settled, trouble.clone())
            }
            Motion::Back { to, asked, settled, trouble, .. } => {
                (Direction::Back, *to, *asked, *settled, trouble.clone())
            }
        };
        let Some(wanted) = wanted else {
            if !self.runs_what_is_taken_back(slot, seen) {
                self.fact(PipelineFact::SlotSettled { target: target.clone(), release: None });
            }
            return;
        };
        let Some(new) = self.p.run_spec(wanted, &target.environment).cloned() else { return };
        let boxes = slot.boxes;
        let of_new = || seen.boxes.iter().filter(|b| b.run_spec == new);
        let healthy = of_new().filter(|b| b.health.is_healthy()).count();
        let healthy = u32::try_from(healthy).unwrap_or(boxes);
        let sick = of_new().find_map(|b| match &b.health {
            BoxHealth::Unhealthy { reason } => Some(format!("box {}: {reason}", b.id)),
            _ => None,
        });
        // A box that starts again says nothing: what it said last stands until it is healthy.
        let starts = of_new().any(|b| matches!(b.health, BoxHealth::Starting { .. }));
        let before = || had_trouble.clone().filter(|_| starts);
        let trouble = seen.trouble.clone().or(sick).or_else(before);
        if trouble != had_trouble {
            self.fact(PipelineFact::SlotTroubled { target: target.clone(), trouble });
        }
        if healthy != settled {
            // Only more healthy boxes are progress; boxes that come and go do not put the deadline off.
            let awaited = if healthy > settled { self.progress_deadline() } else { self.awaited(target) };
            self.fact(PipelineFact::SlotProgressed { target: target.clone(), settled: healthy, awaited });
        }
        match rollout::next(&self.rolling(), direction, boxes, &new, asked, &seen.boxes, self.now) {
            Next::Ask(more) => {
                let left = self.left(target, more, &seen.boxes);
                self.ask(target, more, left, direction);
            }
            // Moving slots are observed again at least every second.
            Next::Wait | Next::WaitUntil(_) => {}
            Next::Complete => {
                self.fact(PipelineFact::SlotSettled { target: target.clone(), release: Some(wanted) })
            }
        }
    }

    /// A configuration slot is as large as the fleet that it is for. Whether it was ordered anew: a split that was made for
    /// another number of boxes would stand for good once the slot has settled.
    fn resize(&mut self, seen: &Observation) -> bool {
        let target = &seen.slot.target;
        let Some(slot) = self.p.slots.get(target) else { return false };
        let boxes = self.p.size(slot, seen);
        let (asked, direction) = match &slot.motion {
            Motion::Forward { asked, .. } => (*asked, Direction::Forward),
            Motion::Back { asked, .. } => (*asked, Direction::Back),
            Motion::Settled | Motion::Abandoned { .. } => (0, Direction::Forward),
        };
        // What may not be ordered now is noticed again when it may.
        let may = direction == Direction::Back || asked == 0 || self.holds_lease(target);
        if slot.boxes == boxes || !may {
            return slot.boxes != boxes;
        }
        self.fact(PipelineFact::SlotResized { target: target.clone(), boxes });
        if asked > 0 {
            self.ask(target, asked, None, direction);
        }
        asked > 0
    }

    /// How many boxes each of several releases that are taken back keeps when `asked` are the good one's. What does not serve
    /// goes first, then the newest: the other way round, boxes that serve would make room while those that start do not serve yet.
    fn left(
        &self,
        target: &TargetId,
        asked: u32,
        seen: &[BoxObservation],
    ) -> Option<BTreeMap<ReleaseNo, u32>> {
        let slot = self.p.slots.get(target)?;
        let Motion::Back { from, to, .. } = &slot.motion else { return None };
        let good = to.and_then(|to| self.p.run_spec(to, &target.environment));
        if from.len() < 2 {
            return None;
        }
        let mut rest = slot.boxes.saturating_sub(asked);
        let mut left: BTreeMap<ReleaseNo, u32> = from.keys().map(|release| (*release, 0)).collect();
        for serves in [true, false] {
            let mut counted = BTreeSet::new();
            for (release, keeps) in &mut left {
                let Some(spec) = self.p.run_spec(*release, &target.environment) else { continue };
                let stays = |each: &&BoxObservation| {
                    each.run_spec == *spec
                        && each.health != BoxHealth::Leaving
                        && each.health.is_healthy() == serves
                };
                // Releases of the same bytes share their boxes, and those of the good one's are its own.
                let own = Some(spec) != good && counted.insert(spec);
                let here = if own { seen.iter().filter(stays).count() } else { 0 };
                let more = u32::try_from(here).unwrap_or(rest).min(rest);
                *keeps += more;
                rest -= more;
            }
        }
        Some(left)
    }

    /// Whether boxes are left of what is taken back to nothing. Boxes that only lose their configuration stay.
    fn runs_what_is_taken_back(&self, slot: &SlotState, seen: &Observation) -> bool {
        let Motion::Back { from, .. } = &slot.motion else { return false };
        let environment = &seen.slot.target.environment;
        let taken = |b: &BoxObservation| {
            from.keys().any(|release| self.p.run_spec(*release, environment) == Some(&b.run_spec))
        };
        if self.p.is_configuration() { seen.boxes.iter().any(taken) } else { !seen.boxes.is_empty() }
    }

    pub(super) fn awaited(&self, target: &TargetId) -> crate::decision::Awaited {
        match self.p.slots.get(target).map(|s| &s.motion) {
            Some(Motion::Forward { awaited, .. } | Motion::Back { awaited, .. }) => *awaited,
            Some(Motion::Settled | Motion::Abandoned { .. }) | None => self.progress_deadline(),
        }
    }

    fn ask(
        &mut self,
        target: &TargetId,
        asked: u32,
        left: Option<BTreeMap<ReleaseNo, u32>>,
        direction: Direction,
    ) {
        // A rollback of another pipeline may have taken the lease: then nothing more is replaced until it is back.
        if direction == Direction::Forward && !self.holds_lease(target) {
            return;
        }
        let Some(generation) = self.p.slots.get(target).map(|s| s.generation + 1) else { return };
        self.fact(PipelineFact::SlotAsked { target: target.clone(), generation, asked, left });
        self.order_slot(target);
    }

    /// Whether the lease that the target's deployment took is still its own, or is it again.
    pub(super) fn holds_lease(&self, target: &TargetId) -> bool {
        let id = LeaseId::new(&target.service, Scope::of(target));
        self.p.observes() || self.leases.get(&id).is_some_and(|lease| lease.is_deploying(self.id))
    }

    pub(super) fn note_capacity(&mut self, seen: &Observation) {
        let target = &seen.slot.target;
        let Some(slot) = self.p.slots.get(target).filter(|_| target.role == Role::Main) else { return };
        if slot.history.is_empty() {
            return;
        }
        let minimum = rollout::minimum_healthy(&self.rolling(), self.p.size(slot, seen));
        let healthy = seen.boxes.iter().filter(|b| b.health.is_healthy()).count();
        let healthy = u32::try_from(healthy).unwrap_or(u32::MAX);
        let capacity =
            if healthy >= minimum { Capacity::Enough } else { Capacity::Short { healthy, minimum } };
        if slot.capacity != capacity {
            self.fact(PipelineFact::CapacityChanged { target: target.clone(), capacity });
        }
    }

    /// Credits what was watched to every bake that it is about.
    pub(super) fn watched(&mut self, grants: &[Grant]) {
        let plan = self.p.plan.clone();
        for (stage, step) in plan.steps() {
            let Some(Work::Baking { release, clock, blind, .. }) =
                self.p.steps.get(&step.id).map(|s| &s.work)
            else {
                continue;
            };
            let (release, mut clock, mut blind) = (*release, clock.clone(), blind.clone());
            let mut changed = false;
            for grant in grants.iter().filter(|grant| grant.scope.environment == stage.environment) {
                if !clock.regions.contains_key(&grant.scope.region) {
                    continue;
                }
                let (before, was_blind) = (clock.regions.get(&grant.scope.region).cloned(), blind.clone());
                self.credit(&mut clock, &mut blind, grant, step.role, release);
                changed |= clock.regions.get(&grant.scope.region) != before.as_ref() || blind != was_blind;
            }
            if changed {
                self.fact(PipelineFact::Watched { step: step.id.clone(), clock, blind });
            }
        }
    }

    fn credit(
        &self,
        clock: &mut BakeClock,
        blind: &mut Option<Blind>,
        grant: &Grant,
        role: Role,
        release: ReleaseNo,
    ) {
        let watch = self.watch(&grant.scope, role, release);
        // What this grant says is newer than what the team's alarms last recorded.
        let mut blind_now = watch.blind;
        blind_now.extend(grant.blind.iter().filter(|alarm| self.counts(alarm, role)).cloned());
        let nothing = BTreeMap::new();
        let spec = self.p.run_spec(release, &grant.scope.environment);
        let interval = WatchedInterval {
            from: grant.from,
            until: grant.until,
            quiet: (blind_now.is_empty() || self.switches.has(Break::BlindTimeCounts)) && !watch.in_alarm,
            requests: spec.and_then(|s| grant.requests.get(s)).unwrap_or(&nothing),
        };
        clock.credit(&grant.scope.region, &interval, self.now);
        *blind = still_blind(blind.as_ref(), grant, blind_now);
    }
}

/// What is blind after a Region was watched: the others are as blind as before.
fn still_blind(was: Option<&Blind>, grant: &Grant, alarms: BTreeSet<AlarmName>) -> Option<Blind> {
    let mut regions = was.map(|b| b.regions.clone()).unwrap_or_default();
    if alarms.is_empty() {
        regions.remove(&grant.scope.region);
    } else {
        regions.insert(grant.scope.region.clone());
    }
    if regions.is_empty() {
        return None;
    }
    let (since, paged) = was.map_or((grant.from, false), |b| (b.since, b.paged));
    let others = was.filter(|_| alarms.is_empty() || regions.len() > 1).map(|b| b.alarms.clone());
    let alarms = others.into_iter().flatten().chain(alarms).collect();
    Some(Blind { since, regions, alarms, paged })
}

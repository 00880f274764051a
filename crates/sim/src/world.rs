//! What happens in the virtual world: the queue's contents, the faults, what alarms truly say, and when everything has
//! come to rest.

use crate::repo::{Draft, Flaw};
use crate::setup::{self, alarm_name, word};
use crate::store::Death;
use crate::{Failure, Sim};
use std::collections::BTreeMap;
use tidegate_core::alarm::AlarmName;
use tidegate_core::decision::{EffectId, Event};
use tidegate_core::engine::{Desired, Fence};
use tidegate_core::ids::{CommitId, Role, ServiceId, SlotId, SourceId, UserId};
use tidegate_core::lease::Lease;
use tidegate_core::pipeline::{Build, Motion, Standing};
use tidegate_core::scope::Scope;
use tidegate_runtime::Lane;
use tidegate_store::{Fault, Store};

/// An entry of the queue. What carries a life belongs to a server and dies with it.
#[derive(Debug, Clone)]
pub(crate) enum Happening {
    Fleet,
    Push,
    Approve { commit: CommitId, by: UserId },
    Person,
    Mischief,
    StartServer,
    Deliver { slot: SlotId, desired: Desired, fence: Fence, decided_at: i64 },
    Dispatch { life: u64, lane: Lane },
    Tick { life: u64 },
    Observe { life: u64 },
    Monitor { life: u64 },
    Poll { life: u64 },
    Result { life: u64, effect: EffectId, event: Box<Event> },
    Late { life: u64, event: Box<Event> },
}

impl Sim {
    /// The first entries of what repeats itself.
    pub(crate) fn begin(&mut self) {
        for source in self.audit_sources() {
            self.push(&source, Draft::default(), true);
        }
        self.at(0, Happening::Fleet);
        self.at(60_000, Happening::Push);
        self.at(30_000, Happening::Person);
        self.at(45_000, Happening::Mischief);
    }

    fn audit_sources(&mut self) -> Vec<SourceId> {
        self.audit.read(&self.store.inner);
        let names = self.audit.pipelines().map(|(id, _)| word(id.as_str())).collect::<Vec<SourceId>>();
        for name in &names {
            self.sources.repos.entry(name.clone()).or_default();
        }
        names
    }

    pub(crate) fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Fleet => {
                self.at(500, Happening::Fleet);
                self.fleet.step(self.now, &mut self.rng);
                self.feel();
            }
            Happening::Push => {
                if self.faults {
                    let again = self.rng.range(20_000, 240_000);
                    self.at(again, Happening::Push);
                    self.push_something();
                }
            }
            Happening::Approve { commit, by } => self.approve(&commit, &by),
            Happening::Person => {
                let again = if self.faults { self.rng.range(20_000, 120_000) } else { 20_000 };
                self.at(again, Happening::Person);
                self.person();
            }
            Happening::Mischief => {
                if self.faults {
                    let again = self.rng.range(5_000, 60_000);
                    self.at(again, Happening::Mischief);
                    self.mischief();
                }
            }
            Happening::StartServer => self.start_server(),
            Happening::Deliver { slot, desired, fence, decided_at } => {
                self.fleet.set(&slot, &desired, fence, decided_at);
            }
            Happening::Dispatch { life, .. }
            | Happening::Tick { life }
            | Happening::Observe { life }
            | Happening::Monitor { life }
            | Happening::Poll { life }
            | Happening::Result { life, .. }
            | Happening::Late { life, .. } => {
                if self.server.as_ref().is_some_and(|s| s.life == life) {
                    self.serve(happening);
                }
            }
        }
    }

    /// A commit arrives on a mainline; `seen` if it was approved before that.
    pub(crate) fn push(&mut self, source: &SourceId, draft: Draft, approved: bool) {
        let Some(repo) = self.sources.repos.get_mut(source) else { return };
        let pushed = repo.push(source, self.now, draft, &mut self.rng);
        let others: Vec<&str> = setup::PEOPLE.iter().copied().filter(|p| *p != pushed.author).collect();
        let by: UserId = word(self.rng.pick(&others).copied().unwrap_or("ada"));
        let commit = pushed.commit.id;
        if approved {
            self.approve(&commit, &by);
        } else if self.rng.chance(300) {
            self.approve(&commit, &word(pushed.author));
        } else if self.rng.chance(700) {
            let later = self.rng.range(30_000, 300_000);
            self.at(later, Happening::Approve { commit, by });
        }
    }

    fn push_something(&mut self) {
        let all: Vec<SourceId> = self.sources.repos.keys().cloned().collect();
        let Some(source) = self.rng.pick(&all).cloned() else { return };
        let head = self.sources.repos[&source].history.last().map(|c| c.commit.id.clone());
        let broken: Vec<CommitId> = head
            .map(|h| self.sources.repos[&source].unmended(&h).iter().map(|c| c.commit.id.clone()).collect())
            .unwrap_or_default();
        let mut draft = Draft::default();
        if let Some(commit) = broken.first().filter(|_| self.rng.chance(400)) {
            if self.rng.chance(500) {
                draft.reverts.push(commit.clone());
            } else {
                draft.fixes.push(commit.clone());
            }
        } else if self.rng.chance(350) {
            draft.flaw = Some(match self.rng.range(0, 9) {
                0 => Flaw::FailsBuild,
                1 => Flaw::FailsTests,
                2 => Flaw::NeverHealthy,
                3..=6 => Flaw::Alarm { after_ms: self.rng.range(2_000, 15_000) },
                _ => Flaw::Alarm { after_ms: self.rng.range(60_000, 200_000) },
            });
        }
        let approved = self.rng.chance(800);
        self.push(&source, draft, approved);
    }

    /// Faults of what the server stands on.
    fn mischief(&mut self) {
        match self.rng.range(0, 11) {
            0 => self.store.die_at_next(Death::BeforeCommit),
            1 => self.store.die_at_next(Death::AfterCommit),
            2 => self.store.kill(),
            3 => self.store.inner.fail_next(Fault::Refused),
            4 => self.store.inner.fail_next(Fault::Unacknowledged),
            5 => {
                // A full disk; whoever tends the store frees it after a while.
                for _ in 0..self.rng.range(1, 40) {
                    self.store.inner.fail_next(Fault::NoSpace);
                }
                self.disturbed(self.now + 10_000);
            }
            6 => {
                let times = u32::try_from(self.rng.range(1, 40)).unwrap_or(1);
                self.store.conflict_next(times);
            }
            7 => {
                self.deaf_until = self.now + self.rng.range(2_000, 60_000);
                self.disturbed(self.deaf_until);
            }
            8 | 9 => {
                if let Some(scope) = self.any_scope() {
                    let until = self.now + self.rng.range(5_000, 90_000);
                    self.blind_until.insert(scope, until);
                    self.disturbed(until);
                }
            }
            _ => {
                let services = setup::services();
                let service = self.rng.pick(&services).cloned();
                if let (Some(scope), Some(service)) = (self.any_scope(), service) {
                    let until = self.now + self.rng.range(3_000, 60_000);
                    let one_box = self.rng.chance(300);
                    self.weather.insert((scope, alarm_name(&service, one_box)), until);
                }
            }
        }
    }

    fn any_scope(&mut self) -> Option<Scope> {
        let all: Vec<Scope> = self.scopes().into_iter().collect();
        self.rng.pick(&all).cloned()
    }

    /// Every environment and Region that a pipeline deploys to.
    pub(crate) fn scopes(&self) -> std::collections::BTreeSet<Scope> {
        self.audit.pipelines().flat_map(|(_, p)| p.plan.targets().map(|t| Scope::of(&t.id))).collect()
    }

    /// Notes which alarms fire at this moment.
    fn feel(&mut self) {
        for (slot, state) in &self.fleet.slots {
            for one in state.boxes.values() {
                let Some(since) = one.serves_since() else { continue };
                let flaws = self.fleet.behaviour.get(&one.run_spec).map(|p| &p.flaws);
                let burns = flaws.is_some_and(|all| {
                    all.iter().any(|f| matches!(f, Flaw::Alarm { after_ms } if self.now - since >= *after_ms))
                });
                if burns {
                    let one_box = slot.target.role == Role::OneBox;
                    let name = alarm_name(&slot.target.service, one_box);
                    self.fired.insert((Scope::of(&slot.target), name));
                }
            }
        }
        let raging =
            self.weather.iter().filter(|(_, until)| **until > self.now).map(|(what, _)| what.clone());
        self.fired.extend(raging);
        let now = self.now;
        self.weather.retain(|_, until| *until > now);
    }

    /// All metric alarms of a scope: whether each fired since it was asked for last.
    pub(crate) fn alarms(&self, scope: &Scope) -> BTreeMap<AlarmName, bool> {
        let names = |service: &ServiceId| [alarm_name(service, false), alarm_name(service, true)];
        let all = setup::services().iter().flat_map(names).collect::<Vec<_>>();
        all.into_iter().map(|name| (name.clone(), self.fired.contains(&(scope.clone(), name)))).collect()
    }

    /// From now on nothing disturbs, and people put things right.
    pub(crate) fn end_faults(&mut self) {
        self.faults = false;
        self.fleet.failures_per_mille = 0;
        self.weather.clear();
        self.blind_until.clear();
        self.deaf_until = 0;
        self.store.calm();
        self.disturbed(self.now + 5_000);
    }

    /// What has not come to rest yet; `None` when good releases are everywhere and nothing moves.
    pub(crate) fn unsettled(&self) -> Option<String> {
        for (id, pipeline) in self.audit.pipelines() {
            if !pipeline.life.is_active() || !pipeline.skips.is_empty() {
                return Some(format!("{id}: {:?}, skips {:?}", pipeline.life, pipeline.skips));
            }
            for (target, slot) in &pipeline.slots {
                if slot.motion != Motion::Settled {
                    return Some(format!("{target} of {id} moves: {:?}", slot.motion));
                }
            }
            for (source, state) in &pipeline.sources {
                let head =
                    self.sources.repos.get(source).and_then(|r| r.history.last()).map(|c| &c.commit.id);
                if state.released.as_ref() != head {
                    return Some(format!("the head of {source} is in no release of {id}"));
                }
            }
            let Some((newest, release)) = pipeline.newest() else {
                return Some(format!("{id} has no release"));
            };
            if !matches!(release.build, Build::Built { .. }) || release.standing != Standing::Good {
                return Some(format!("{newest} of {id} is {:?}, {:?}", release.build, release.standing));
            }
            for (_, step) in pipeline.plan.steps() {
                let state = pipeline.steps.get(&step.id);
                if state.and_then(|s| s.done) != Some(newest) {
                    return Some(format!("{newest} of {id} has not passed {}: {state:?}", step.id));
                }
                for target in &step.targets {
                    let slot_id = SlotId { target: target.id.clone(), pipeline: id.clone() };
                    let wanted = pipeline.run_spec(newest, &target.id.environment);
                    let right = self.fleet.slots.get(&slot_id).is_some_and(|s| {
                        s.serving() == target.boxes
                            && s.boxes.len() == usize::try_from(target.boxes).unwrap_or(0)
                            && s.boxes.values().all(|b| Some(&b.run_spec) == wanted)
                    });
                    if !right || pipeline.slots.get(&target.id).and_then(|s| s.current()) != Some(newest) {
                        return Some(format!("{slot_id} does not run {newest} on all its boxes"));
                    }
                }
            }
        }
        if let Some((id, lease)) = self.audit.leases().find(|(_, l)| **l != Lease::Free) {
            return Some(format!("{id} is not free: {lease:?}"));
        }
        if let Some(pipeline) = self.audit.team().and_then(|t| t.suspect_turn.as_ref()) {
            return Some(format!("it is still the turn of {pipeline}'s suspect"));
        }
        for lane in [Lane::Forward, Lane::Rollback, Lane::Page] {
            if let Ok(effects) = self.store.inner.effects(lane, i64::MAX, 1)
                && let Some(effect) = effects.first()
            {
                return Some(format!("effect {} has not ended", effect.id));
            }
        }
        None
    }

    pub(crate) fn verify_everything(&self) -> Result<(), Box<Failure>> {
        let Some(server) = &self.server else { return Ok(()) };
        match server.runtime.verify_log(None) {
            Ok(_) => Ok(()),
            Err(error) => Err(self.failure(10, error.to_string())),
        }
    }
}

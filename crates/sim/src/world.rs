//! What happens in the virtual world: the queue's contents, what alarms truly say, and when everything has come to rest.

use crate::repo::{Draft, Flaw};
use crate::setup::{self, alarm_name, word};
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
use tidegate_store::Store;

/// An entry of the queue. What carries a life belongs to a server and dies with it.
#[derive(Debug, Clone)]
pub(crate) enum Happening {
    Fleet,
    Approve {
        commit: CommitId,
        by: UserId,
    },
    /// Somebody mends what only people can mend.
    PutRight,
    /// An alarm fires for no reason of ours.
    Weather {
        alarm: (Scope, AlarmName),
        lasts: i64,
    },
    StartServer,
    Deliver {
        slot: SlotId,
        desired: Desired,
        fence: Fence,
        decided_at: i64,
    },
    Dispatch {
        life: u64,
        lane: Lane,
    },
    Tick {
        life: u64,
    },
    Observe {
        life: u64,
    },
    Monitor {
        life: u64,
    },
    Poll {
        life: u64,
    },
    Result {
        life: u64,
        effect: EffectId,
        event: Box<Event>,
    },
    Late {
        life: u64,
        event: Box<Event>,
    },
}

impl Happening {
    /// Of which stream it draws.
    pub(crate) fn stream(&self) -> u64 {
        match self {
            Happening::Fleet => 1,
            Happening::Approve { .. } => 2,
            Happening::PutRight => 3,
            Happening::Weather { .. } => 4,
            Happening::StartServer => 5,
            Happening::Deliver { .. } => 6,
            Happening::Dispatch { lane: Lane::Forward, .. } => 7,
            Happening::Dispatch { lane: Lane::Rollback, .. } => 8,
            Happening::Tick { .. } => 9,
            Happening::Observe { .. } => 10,
            Happening::Monitor { .. } => 11,
            Happening::Poll { .. } => 12,
            Happening::Result { .. } => 13,
            Happening::Late { .. } => 14,
            Happening::Dispatch { lane: Lane::Page, .. } => 15,
        }
    }
}

impl Sim {
    /// The first entries of what repeats itself.
    pub(crate) fn begin(&mut self) {
        for source in self.audit_sources() {
            self.push(&source, Draft::default(), true);
        }
        self.at(0, Happening::Fleet);
    }

    fn audit_sources(&mut self) -> Vec<SourceId> {
        self.audit.read(&self.store.inner, self.now);
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
                self.fleet.step(self.now, &mut self.rng, &mut self.script);
                self.feel();
            }
            Happening::Approve { commit, by } => self.approve(&commit, &by),
            Happening::PutRight => {
                self.at(20_000, Happening::PutRight);
                self.put_right();
            }
            Happening::Weather { alarm, lasts } => {
                if self.faults {
                    self.weather.insert(alarm, self.now + lasts);
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
                if self.server.as_ref().is_none_or(|s| s.life != life) {
                    return;
                }
                match self.paused_until - self.now {
                    stands_still if stands_still > 0 => self.at(stands_still, happening),
                    _ => self.serve(happening),
                }
            }
        }
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
        self.script.end();
        self.weather.clear();
        let now = self.now;
        for (_, until) in self.blind.values_mut().flatten() {
            *until = (*until).min(now);
        }
        self.deaf_until = 0;
        self.paused_until = 0;
        self.start_dies_after = None;
        self.store.calm();
        self.disturbed(self.now + 5_000);
        self.at(20_000, Happening::PutRight);
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

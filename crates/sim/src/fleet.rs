//! Virtual boxes. A slot goes at once to the split that it was last told, as the engines of tidegate do: surplus boxes
//! leave, missing ones start; with surge a new box is healthy before an old one leaves; condemned boxes get no requests
//! as long as enough others are healthy. Commands with an older fence are refused.

use crate::repo::{Flaw, Package};
use crate::rng::Rng;
use crate::script::{Deed, Script};
use std::collections::{BTreeMap, BTreeSet};
use tidegate_core::engine::{BoxHealth, BoxObservation, Desired, Fence, Observation};
use tidegate_core::ids::{Role, RunSpecDigest, SlotId};
use tidegate_core::units::Timestamp;

const START_TIMEOUT_MS: i64 = 15_000;
/// What an observation may be old when a decision is made on it: boxes that failed since are not of tidegate's doing.
const OBSERVED_WITHIN_MS: i64 = 6_000;
/// How often a box fails by itself, in a million steps.
const BREAKS_PER_MILLION: u64 = 200;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Life {
    Starting {
        ready_at: Option<i64>,
    },
    Healthy {
        since: i64,
    },
    /// `was_healthy`: it served until then.
    Unhealthy {
        since: i64,
        was_healthy: bool,
        restart_at: i64,
    },
    Leaving {
        until: i64,
    },
}

#[derive(Debug, Clone)]
pub(crate) struct VBox {
    pub(crate) run_spec: RunSpecDigest,
    pub(crate) life: Life,
    pub(crate) weight: u32,
    incarnation: u32,
    started: i64,
}

impl VBox {
    pub(crate) fn serves_since(&self) -> Option<i64> {
        match self.life {
            Life::Healthy { since } if self.weight > 0 => Some(since),
            _ => None,
        }
    }
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Slot {
    pub(crate) fence: Fence,
    pub(crate) desired: Option<Desired>,
    /// When what it was told was decided.
    decided_at: i64,
    pub(crate) boxes: BTreeMap<u64, VBox>,
    next_box: u64,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Fleet {
    pub(crate) slots: BTreeMap<SlotId, Slot>,
    /// What a RunSpec's boxes do.
    pub(crate) behaviour: BTreeMap<RunSpecDigest, Package>,
    /// A break of rule 9, for tests.
    pub(crate) takes_old_fences: bool,
    /// What was found against rule 2, once seen never forgotten.
    pub(crate) below_minimum: Option<String>,
    /// What was found against rule 9.
    pub(crate) fence_went_back: Option<String>,
}

impl Fleet {
    /// A command; false if it is older than one that was taken.
    pub(crate) fn set(&mut self, slot: &SlotId, desired: &Desired, fence: Fence, decided_at: i64) -> bool {
        let state = self.slots.entry(slot.clone()).or_default();
        if fence < state.fence && !self.takes_old_fences {
            return false;
        }
        if fence.generation < state.fence.generation && self.fence_went_back.is_none() {
            self.fence_went_back = Some(format!("{slot}: {fence} was sent after {}", state.fence));
        }
        state.fence = fence;
        state.desired = Some(desired.clone());
        state.decided_at = decided_at;
        true
    }

    pub(crate) fn highest_epoch(&self) -> u64 {
        self.slots.values().map(|s| s.fence.epoch).max().unwrap_or(0)
    }

    /// What an engine tells of a slot, by a clock that is this far ahead of the world's.
    pub(crate) fn observe(&self, slot: &SlotId, skew: i64) -> Observation {
        let nothing = Slot::default();
        let state = self.slots.get(slot).unwrap_or(&nothing);
        let boxes = state.boxes.iter().map(|(id, b)| BoxObservation {
            id: format!("box-{id:06}"),
            incarnation: b.incarnation,
            run_spec: b.run_spec.clone(),
            health: match b.life {
                Life::Starting { .. } => BoxHealth::Starting { since: Timestamp(b.started + skew) },
                Life::Healthy { since } => BoxHealth::Healthy { since: Timestamp(since + skew) },
                Life::Unhealthy { .. } => BoxHealth::Unhealthy { reason: "exit status 1".to_owned() },
                Life::Leaving { .. } => BoxHealth::Leaving,
            },
            weight: b.weight,
        });
        Observation {
            slot: slot.clone(),
            fence: state.fence,
            boxes: boxes.collect(),
            trouble: None,
            glass: None,
        }
    }

    /// Lets time pass.
    pub(crate) fn step(&mut self, now: i64, rng: &mut Rng, script: &mut Script) {
        let mut found = None;
        for (number, (id, slot)) in (0_u64..).zip(&mut self.slots) {
            for (key, one) in &mut slot.boxes {
                let sick =
                    self.behaviour.get(&one.run_spec).is_some_and(|p| p.flaws.contains(&Flaw::NeverHealthy));
                let healthy = matches!(one.life, Life::Healthy { .. });
                let subject = number << 32 | key;
                match script.strikes(Deed::BreakBox, subject, if healthy { BREAKS_PER_MILLION } else { 0 }) {
                    Some(mut fault) => one.fail(now, &mut fault),
                    None => one.live(now, sick, rng),
                }
            }
            slot.boxes.retain(|_, b| !matches!(b.life, Life::Leaving { until } if until <= now));
            let taken = slot.converge(now, &self.behaviour, rng);
            if let Some(why) = slot.too_few(id, taken) {
                found.get_or_insert(why);
            }
        }
        if self.below_minimum.is_none() {
            self.below_minimum = found;
        }
    }
}

fn sick(behaviour: &BTreeMap<RunSpecDigest, Package>, spec: &RunSpecDigest) -> bool {
    behaviour.get(spec).is_some_and(|p| p.flaws.contains(&Flaw::NeverHealthy))
}

impl VBox {
    /// Fails by itself.
    fn fail(&mut self, now: i64, rng: &mut Rng) {
        let restart_at = now + rng.range(2_000, 10_000);
        self.life = Life::Unhealthy { since: now, was_healthy: true, restart_at };
    }

    fn live(&mut self, now: i64, sick: bool, rng: &mut Rng) {
        match self.life {
            Life::Starting { ready_at: Some(at) } if at <= now => self.life = Life::Healthy { since: now },
            Life::Starting { ready_at: None } if now - self.started > START_TIMEOUT_MS => {
                let restart_at = now + 5_000;
                self.life = Life::Unhealthy { since: now, was_healthy: false, restart_at };
            }
            Life::Unhealthy { restart_at, .. } if restart_at <= now => {
                self.incarnation += 1;
                self.start(now, sick, rng);
            }
            _ => {}
        }
    }

    fn start(&mut self, now: i64, sick: bool, rng: &mut Rng) {
        self.started = now;
        let ready_at = (!sick).then(|| now + rng.range(1_000, 6_000));
        self.life = Life::Starting { ready_at };
    }
}

impl Slot {
    /// Brings the boxes to what is desired; returns how many serving boxes were taken out.
    fn converge(&mut self, now: i64, behaviour: &BTreeMap<RunSpecDigest, Package>, rng: &mut Rng) -> u32 {
        let Some(desired) = self.desired.clone() else { return 0 };
        let before = self.serving();
        let total: u32 = desired.split.iter().map(|s| s.boxes).sum();
        let share = |spec: &RunSpecDigest| {
            desired.split.iter().filter(|s| &s.run_spec == spec).map(|s| s.boxes).sum::<u32>()
        };
        let specs: BTreeSet<RunSpecDigest> = self
            .boxes
            .values()
            .map(|b| b.run_spec.clone())
            .chain(desired.split.iter().map(|s| s.run_spec.clone()))
            .collect();
        for spec in &specs {
            let mut mine = self.present(spec);
            // Who does not serve goes first.
            mine.sort_by_key(|id| self.boxes[id].worth());
            let surplus = u32::try_from(mine.len()).unwrap_or(0).saturating_sub(share(spec));
            for id in mine.into_iter().take(usize::try_from(surplus).unwrap_or(0)) {
                let healthy = matches!(self.boxes[&id].life, Life::Healthy { .. });
                if desired.surge && total > 0 && healthy && self.healthy() <= total {
                    continue;
                }
                if let Some(one) = self.boxes.get_mut(&id) {
                    one.life = Life::Leaving { until: now + rng.range(500, 3_000) };
                    one.weight = 0;
                }
            }
        }
        for wanted in &desired.split {
            let present = u32::try_from(self.present(&wanted.run_spec).len()).unwrap_or(0);
            for _ in present..wanted.boxes {
                self.next_box += 1;
                let mut one = VBox {
                    run_spec: wanted.run_spec.clone(),
                    life: Life::Starting { ready_at: None },
                    weight: 1,
                    incarnation: 1,
                    started: now,
                };
                one.start(now, sick(behaviour, &wanted.run_spec), rng);
                self.boxes.insert(self.next_box, one);
            }
        }
        self.weigh(&desired);
        before.saturating_sub(self.serving())
    }

    fn weigh(&mut self, desired: &Desired) {
        for one in self.boxes.values_mut().filter(|b| !matches!(b.life, Life::Leaving { .. })) {
            one.weight = 1;
        }
        let condemned: Vec<u64> = self
            .boxes
            .iter()
            .filter(|(_, b)| desired.condemned.contains(&b.run_spec) && b.serves_since().is_some())
            .map(|(id, _)| *id)
            .collect();
        for id in condemned {
            if self.serving() > desired.minimum_serving
                && let Some(one) = self.boxes.get_mut(&id)
            {
                one.weight = 0;
            }
        }
    }

    fn present(&self, spec: &RunSpecDigest) -> Vec<u64> {
        let here = |b: &VBox| &b.run_spec == spec && !matches!(b.life, Life::Leaving { .. });
        self.boxes.iter().filter(|(_, b)| here(b)).map(|(id, _)| *id).collect()
    }

    fn healthy(&self) -> u32 {
        let healthy = self.boxes.values().filter(|b| matches!(b.life, Life::Healthy { .. }));
        u32::try_from(healthy.count()).unwrap_or(u32::MAX)
    }

    pub(crate) fn serving(&self) -> u32 {
        u32::try_from(self.boxes.values().filter(|b| b.serves_since().is_some()).count()).unwrap_or(u32::MAX)
    }

    /// Rule 2, at the moment when serving boxes were taken out. Boxes that failed by themselves after the decision, or so
    /// shortly before it that it could not know, count as healthy.
    fn too_few(&self, id: &SlotId, taken: u32) -> Option<String> {
        let desired = self.desired.as_ref()?;
        let total: u32 = desired.split.iter().map(|s| s.boxes).sum();
        if taken == 0 || total == 0 || id.target.role == Role::OneBox {
            return None;
        }
        let minimum = (total * 2).div_ceil(3);
        let unforeseen = |b: &&VBox| {
            matches!(b.life, Life::Unhealthy { since, was_healthy: true, .. } if since + OBSERVED_WITHIN_MS > self.decided_at)
                || matches!(b.life, Life::Starting { .. } if b.incarnation > 1 && b.started + OBSERVED_WITHIN_MS > self.decided_at)
        };
        let failed = u32::try_from(self.boxes.values().filter(unforeseen).count()).unwrap_or(0);
        (self.serving() + failed < minimum).then(|| {
            format!(
                "{id}: {taken} serving boxes were taken out, {} serve, {failed} failed meanwhile, {minimum} are needed; \
                 desired {desired:?}",
                self.serving()
            )
        })
    }
}

impl VBox {
    fn worth(&self) -> (u8, i64) {
        match self.life {
            Life::Unhealthy { .. } => (0, self.started),
            Life::Starting { .. } => (1, self.started),
            Life::Healthy { since } => (2 + u8::from(self.weight > 0), since),
            Life::Leaving { .. } => (9, 0),
        }
    }
}

//! Virtual boxes: they do what they are told, start in a given time and then serve, unless what they run, or a fault of the
//! scenario, keeps them from it. What must hold: whatever an order changes is observed again when it has come to pass.

use std::collections::BTreeMap;
use tidegate_core::decision::SlotOrder;
use tidegate_core::engine::{BoxHealth, BoxObservation, Fence, Observation};
use tidegate_core::ids::{RunSpecDigest, SlotId};
use tidegate_core::units::{Span, Timestamp};

/// A box.
#[derive(Debug, Clone)]
pub(super) struct VBox {
    id: u32,
    pub(super) run_spec: RunSpecDigest,
    started: Timestamp,
    /// When it becomes healthy; `None` if it never does.
    healthy_at: Option<Timestamp>,
}

impl VBox {
    /// Since when it serves, if it does.
    pub(super) fn healthy_since(&self, now: Timestamp) -> Option<Timestamp> {
        self.healthy_at.filter(|at| *at <= now)
    }
}

/// What a slot's engine knows.
#[derive(Debug, Default)]
pub(super) struct Slot {
    generation: u64,
    pub(super) boxes: Vec<VBox>,
    /// Old boxes that stay until the new ones are healthy.
    leaving: Vec<VBox>,
    condemned: Vec<RunSpecDigest>,
    minimum_serving: u32,
}

impl Slot {
    /// Every box, and whether it takes requests: healthy, and not condemned as long as enough others serve.
    pub(super) fn serving(&self, now: Timestamp) -> impl Iterator<Item = (&VBox, bool)> {
        let healthy = move |b: &VBox| b.healthy_since(now).is_some();
        let good = self.all().filter(|b| healthy(b) && !self.condemned.contains(&b.run_spec)).count();
        let enough = good >= usize::try_from(self.minimum_serving).unwrap_or(usize::MAX);
        self.all().map(move |b| (b, healthy(b) && !(enough && self.condemned.contains(&b.run_spec))))
    }

    /// Whether some box never becomes healthy.
    pub(super) fn is_ill(&self) -> bool {
        self.boxes.iter().any(|b| b.healthy_at.is_none())
    }

    /// Every box that there is.
    fn all(&self) -> impl Iterator<Item = &VBox> {
        self.boxes.iter().chain(&self.leaving)
    }
}

/// How boxes start.
pub(super) struct Starting {
    /// From its start until a box is healthy.
    pub(super) takes: Span,
    /// Until when a box that does not become healthy counts as starting.
    pub(super) time_out: Span,
    /// How many of the new boxes never become healthy.
    pub(super) never: u32,
}

/// All slots.
#[derive(Debug, Default)]
pub(super) struct Boxes {
    pub(super) slots: BTreeMap<SlotId, Slot>,
    started: u32,
}

impl Boxes {
    /// Puts boxes there that run already: of each RunSpec so many, of which so many start only now.
    pub(super) fn put(
        &mut self,
        id: &SlotId,
        generation: u64,
        running: &[(RunSpecDigest, u32, u32)],
        now: Timestamp,
        start: Span,
    ) {
        let slot = self.slots.entry(id.clone()).or_default();
        slot.generation = generation;
        for (run_spec, boxes, starting) in running {
            for n in 0..*boxes {
                self.started += 1;
                let healthy_at = if n < *starting { now + start } else { now };
                let run_spec = run_spec.clone();
                slot.boxes.push(VBox {
                    id: self.started,
                    run_spec,
                    started: now,
                    healthy_at: Some(healthy_at),
                });
            }
        }
    }

    /// Takes an order, unless a newer one was taken; returns when boxes become healthy, or are known not to.
    pub(super) fn obey(
        &mut self,
        order: &SlotOrder,
        now: Timestamp,
        starting: impl Fn(&RunSpecDigest) -> Starting,
    ) -> Vec<Timestamp> {
        let slot = self.slots.entry(order.slot.clone()).or_default();
        if order.generation <= slot.generation {
            return Vec::new();
        }
        slot.generation = order.generation;
        slot.condemned.clone_from(&order.desired.condemned);
        slot.minimum_serving = order.desired.minimum_serving;
        let mut rest: Vec<VBox> = std::mem::take(&mut slot.boxes);
        rest.append(&mut slot.leaving);
        // Boxes that serve are kept first.
        rest.sort_by_key(|b| (b.healthy_since(now).is_none(), b.id));
        let mut times = Vec::new();
        for share in &order.desired.split {
            let how = starting(&share.run_spec);
            let ill = rest.iter().filter(|b| b.run_spec == share.run_spec && b.healthy_at.is_none()).count();
            let mut never = how.never.saturating_sub(u32::try_from(ill).unwrap_or(u32::MAX));
            for _ in 0..share.boxes {
                if let Some(at) = rest.iter().position(|b| b.run_spec == share.run_spec) {
                    slot.boxes.push(rest.remove(at));
                    continue;
                }
                let ill = never > 0;
                never = never.saturating_sub(1);
                self.started += 1;
                let healthy_at = (!ill).then(|| now + how.takes);
                times.push(healthy_at.unwrap_or(now + how.time_out));
                let run_spec = share.run_spec.clone();
                slot.boxes.push(VBox { id: self.started, run_spec, started: now, healthy_at });
            }
        }
        if order.desired.surge {
            slot.leaving = rest.into_iter().filter(|b| b.healthy_since(now).is_some()).collect();
        }
        if times.is_empty() {
            times.push(now);
        }
        times.sort_unstable();
        times.dedup();
        times
    }

    /// What the engine tells of a slot.
    pub(super) fn observe(&mut self, id: &SlotId, epoch: u64, now: Timestamp, time_out: Span) -> Observation {
        let slot = self.slots.entry(id.clone()).or_default();
        if slot.boxes.iter().all(|b| b.healthy_since(now).is_some()) {
            slot.leaving.clear();
        }
        let health = |one: &VBox| match one.healthy_since(now) {
            Some(since) => BoxHealth::Healthy { since },
            None if one.healthy_at.is_none() && now.since(one.started) >= time_out => {
                BoxHealth::Unhealthy { reason: "it exited with status 1 before it was healthy".to_owned() }
            }
            None => BoxHealth::Starting { since: one.started },
        };
        let tell = |one: &VBox| BoxObservation {
            id: format!("box-{}", one.id),
            incarnation: 1,
            run_spec: one.run_spec.clone(),
            health: health(one),
            weight: u32::from(!slot.condemned.contains(&one.run_spec)),
        };
        let boxes = slot.all().map(tell).collect();
        let fence = Fence { epoch, generation: slot.generation };
        Observation { slot: id.clone(), fence, boxes, trouble: None, glass: None }
    }
}

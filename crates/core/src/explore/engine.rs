//! Boxes as they are explored: they start as ordered, and are healthy when somebody says so.

use super::BOXES_MAX;
use crate::decision::SlotOrder;
use crate::engine::{BoxHealth, BoxObservation, Fence, Observation, Rest};
use crate::ids::{Role, RunSpecDigest};
use crate::units::Timestamp;

/// A slot's boxes.
#[derive(Debug, Clone, Default)]
pub(super) struct Boxes {
    generation: u64,
    started: u32,
    /// Those that are to be there.
    pub(super) boxes: Vec<BoxObservation>,
    /// Those that leave when the others are healthy.
    leaving: Vec<BoxObservation>,
}

impl Boxes {
    /// Begins with what an order asks for.
    pub(super) fn obey(&mut self, order: &SlotOrder, now: Timestamp) {
        if order.generation <= self.generation {
            return;
        }
        self.generation = order.generation;
        if let Some(rest) = &order.desired.rest {
            return self.configure(order, rest, now);
        }
        let mut rest = std::mem::take(&mut self.boxes);
        rest.append(&mut self.leaving);
        for share in &order.desired.split {
            for _ in 0..share.boxes {
                let same = |b: &BoxObservation| b.run_spec == share.run_spec;
                let found = rest.iter().position(|b| same(b) && b.health.is_healthy());
                let one = match found.or_else(|| rest.iter().position(same)) {
                    Some(at) => rest.remove(at),
                    None => self.start(share.run_spec.clone(), BoxHealth::Starting { since: now }),
                };
                self.boxes.push(one);
            }
        }
        if order.desired.surge {
            self.leaving = rest;
        }
    }

    fn start(&mut self, run_spec: RunSpecDigest, health: BoxHealth) -> BoxObservation {
        self.started += 1;
        BoxObservation { id: format!("box-{:04}", self.started), incarnation: 1, run_spec, health, weight: 1 }
    }

    /// Boxes of another slot take up values, those first that have what is to stay.
    fn configure(&mut self, order: &SlotOrder, rest: &Rest, now: Timestamp) {
        let none = RunSpecDigest::new("0".repeat(64)).expect("64 zeros are a valid digest");
        if self.boxes.is_empty() {
            let count = if order.slot.target.role == Role::OneBox { 1 } else { BOXES_MAX };
            self.boxes =
                (0..count).map(|_| self.start(none.clone(), BoxHealth::Healthy { since: now })).collect();
        }
        let split = order.desired.split.iter();
        let mut places: Vec<RunSpecDigest> =
            split.flat_map(|s| std::iter::repeat_n(s.run_spec.clone(), s.boxes as usize)).collect();
        let mut others = Vec::new();
        for one in &mut self.boxes {
            match places.iter().position(|p| *p == one.run_spec) {
                Some(at) => drop(places.remove(at)),
                None => others.push(one),
            }
        }
        for one in others {
            one.run_spec = match (places.pop(), rest) {
                (Some(place), _) => place,
                (None, Rest::RunSpec(rest)) => rest.clone(),
                (None, Rest::Nothing) => none.clone(),
            };
        }
    }

    /// How many have not been healthy yet.
    pub(super) fn starting(&self) -> usize {
        self.boxes.iter().filter(|b| !b.health.is_healthy()).count()
    }

    /// So many boxes become healthy, and have been for long enough when `since` is long ago.
    pub(super) fn become_healthy(&mut self, boxes: usize, since: Timestamp) {
        for one in self.boxes.iter_mut().filter(|b| !b.health.is_healthy()).take(boxes) {
            one.health = BoxHealth::Healthy { since };
        }
        if self.starting() == 0 {
            self.leaving.clear();
        }
    }

    /// Everything that serves or is to serve.
    pub(super) fn all(&self) -> Vec<BoxObservation> {
        self.boxes.iter().chain(&self.leaving).cloned().collect()
    }

    pub(super) fn observe(&self, order: &SlotOrder) -> Observation {
        let mut boxes = self.all();
        boxes.sort_by(|a, b| a.id.cmp(&b.id));
        let fence = Fence { epoch: 1, generation: self.generation };
        Observation { slot: order.slot.clone(), fence, boxes, trouble: None, glass: None }
    }
}

//! An engine that obeys at once: boxes start as ordered and become healthy one by one, each of which it tells.

use std::collections::{BTreeMap, BTreeSet};
use tidegate_core::decision::SlotOrder;
use tidegate_core::engine::{BoxHealth, BoxObservation, BrokenGlass, Fence, Observation, Rest};
use tidegate_core::ids::{RunSpecDigest, SlotId};
use tidegate_core::units::Timestamp;

/// Every slot's boxes.
#[derive(Default)]
pub(crate) struct Fleet {
    slots: BTreeMap<SlotId, Boxes>,
    configurations: BTreeMap<SlotId, Configuration>,
    /// Boxes of these never become healthy.
    pub(crate) sick: BTreeSet<RunSpecDigest>,
}

#[derive(Default)]
struct Boxes {
    generation: u64,
    boxes: Vec<BoxObservation>,
    started: u32,
    glass: Option<BrokenGlass>,
}

/// What the boxes of the slots on a target are to have of a configuration slot.
#[derive(Default)]
struct Configuration {
    generation: u64,
    rest: Option<RunSpecDigest>,
    had: BTreeMap<String, RunSpecDigest>,
}

impl Fleet {
    /// Somebody at the machine puts a slot back to this RunSpec.
    pub(crate) fn break_glass(&mut self, id: &SlotId, to: &RunSpecDigest, now: Timestamp) -> Observation {
        let slot = self.slots.get_mut(id).unwrap();
        for each in &mut slot.boxes {
            each.run_spec = to.clone();
        }
        let (by, reason) = ("carol".to_owned(), "the site is down".to_owned());
        slot.glass =
            Some(BrokenGlass { id: format!("deed-{now}"), run_spec: to.clone(), by, reason, at: now });
        slot.tell(id, &[])
    }

    /// Whether no engine was ever told anything.
    pub(crate) fn is_empty(&self) -> bool {
        self.slots.is_empty() && self.configurations.is_empty()
    }

    /// As [`Fleet::obey`], for configuration: boxes that are there take up values, at once or never.
    fn configure(&mut self, order: &SlotOrder) -> Vec<Observation> {
        let boxes: Vec<String> = self.boxes_on(&order.slot).iter().map(|b| b.id.clone()).collect();
        let state = self.configurations.entry(order.slot.clone()).or_default();
        if order.generation <= state.generation {
            return Vec::new();
        }
        state.generation = order.generation;
        state.rest = match &order.desired.rest {
            Some(Rest::RunSpec(rest)) => Some(rest.clone()),
            _ => None,
        };
        let split = order.desired.split.iter();
        let mut places: Vec<RunSpecDigest> = split
            .flat_map(|share| std::iter::repeat_n(share.run_spec.clone(), share.boxes as usize))
            .collect();
        let mut had = std::mem::take(&mut state.had);
        for id in &boxes {
            if let Some(at) = had.get(id).and_then(|had| places.iter().position(|p| p == had)) {
                state.had.insert(id.clone(), places.remove(at));
                had.remove(id);
            }
        }
        for id in boxes.iter().filter(|id| !state.had.contains_key(*id)).cloned().collect::<Vec<_>>() {
            let next = if places.is_empty() { state.rest.clone() } else { Some(places.remove(0)) };
            if let Some(next) = next {
                state.had.insert(id, next);
            }
        }
        self.observe(&order.slot).into_iter().collect()
    }

    /// The boxes of the process slot on a configuration slot's target.
    fn boxes_on(&self, slot: &SlotId) -> Vec<BoxObservation> {
        let own = self.slots.iter().filter(|(id, _)| id.target == slot.target && *id != slot);
        own.flat_map(|(_, slot)| slot.boxes.clone()).collect()
    }

    fn tell_configuration(&self, slot: &SlotId, state: &Configuration) -> Observation {
        let mut boxes = self.boxes_on(slot);
        for one in &mut boxes {
            if let Some(had) = state.had.get(&one.id).or(state.rest.as_ref()) {
                one.run_spec = had.clone();
            }
            if self.sick.contains(&one.run_spec) {
                one.health = BoxHealth::Unhealthy { reason: "POST /reload answered 422".to_owned() };
            }
        }
        let fence = Fence { epoch: 1, generation: state.generation };
        Observation { slot: slot.clone(), fence, boxes, trouble: None, glass: None }
    }

    /// Does what it is told, and returns what it tells: first the boxes as they start, then once for each that becomes
    /// healthy.
    pub(crate) fn obey(&mut self, order: &SlotOrder, now: Timestamp) -> Vec<Observation> {
        if order.desired.rest.is_some() {
            return self.configure(order);
        }
        let sick = self.sick.clone();
        let slot = self.slots.entry(order.slot.clone()).or_default();
        let unknowing =
            slot.glass.as_ref().is_some_and(|glass| order.acknowledges.as_ref() != Some(&glass.id));
        if order.generation <= slot.generation || unknowing {
            return Vec::new();
        }
        (slot.generation, slot.glass) = (order.generation, None);
        let mut rest = std::mem::take(&mut slot.boxes);
        let mut kept = Vec::new();
        for share in &order.desired.split {
            for _ in 0..share.boxes {
                let same = |b: &BoxObservation| b.run_spec == share.run_spec;
                let found = rest.iter().position(|b| same(b) && b.health.is_healthy());
                kept.push(match found.or_else(|| rest.iter().position(same)) {
                    Some(at) => rest.remove(at),
                    None => {
                        slot.started += 1;
                        BoxObservation {
                            id: format!("box-{}", slot.started),
                            incarnation: 1,
                            run_spec: share.run_spec.clone(),
                            health: BoxHealth::Starting { since: now },
                            weight: 1,
                        }
                    }
                });
            }
        }
        let leaving = if order.desired.surge { rest } else { Vec::new() };
        slot.boxes = kept;
        let mut told = vec![slot.tell(&order.slot, &leaving)];
        for n in 0..slot.boxes.len() {
            let one = &mut slot.boxes[n];
            if one.health.is_healthy() {
                continue;
            }
            one.health = if sick.contains(&one.run_spec) {
                BoxHealth::Unhealthy { reason: "exited with status 1".to_owned() }
            } else {
                BoxHealth::Healthy { since: now }
            };
            told.push(slot.tell(&order.slot, &leaving));
        }
        if !leaving.is_empty() && slot.boxes.iter().all(|b| b.health.is_healthy()) {
            told.push(slot.tell(&order.slot, &[]));
        }
        told
    }

    /// What a slot's healthy boxes run, and how many there are.
    pub(crate) fn running(&self, slot: &SlotId) -> BTreeMap<RunSpecDigest, usize> {
        let mut all = BTreeMap::new();
        let boxes = self.slots.get(slot).map_or(&[][..], |s| &s.boxes);
        for one in boxes.iter().filter(|b| b.health.is_healthy()) {
            *all.entry(one.run_spec.clone()).or_default() += 1;
        }
        all
    }

    /// The boxes of a slot.
    pub(crate) fn boxes(&self, slot: &SlotId) -> &[BoxObservation] {
        self.slots.get(slot).map_or(&[], |slot| &slot.boxes)
    }

    /// What the engine tells of a slot now.
    pub(crate) fn observe(&self, slot: &SlotId) -> Option<Observation> {
        match self.configurations.get(slot) {
            Some(state) => Some(self.tell_configuration(slot, state)),
            None => self.slots.get(slot).map(|boxes| boxes.tell(slot, &[])),
        }
    }

    /// A slot's boxes that are ill start again.
    pub(crate) fn start_again(&mut self, slot: &SlotId, now: Timestamp) {
        let state = self.slots.get_mut(slot).expect("a slot that was deployed to");
        for one in state.boxes.iter_mut().filter(|b| !b.health.is_healthy()) {
            (one.incarnation, one.health) = (one.incarnation + 1, BoxHealth::Starting { since: now });
        }
    }

    /// A slot has so many boxes now, whoever decided so: the last ones of before, and new ones that are healthy.
    pub(crate) fn resize(&mut self, slot: &SlotId, boxes: usize) {
        let state = self.slots.get_mut(slot).expect("a slot that was deployed to");
        state.boxes.drain(..state.boxes.len().saturating_sub(boxes));
        while state.boxes.len() < boxes {
            state.started += 1;
            let id = format!("box-{}", state.started);
            let like = state.boxes.first().expect("a slot with boxes").clone();
            state.boxes.push(BoxObservation { id, ..like });
        }
    }

    /// Some of a slot's boxes fall ill; what the engine tells then.
    pub(crate) fn break_boxes(&mut self, slot: &SlotId, how_many: usize) -> Observation {
        let state = self.slots.get_mut(slot).expect("a slot that was deployed to");
        for one in state.boxes.iter_mut().take(how_many) {
            one.health = BoxHealth::Unhealthy { reason: "the last check failed".to_owned() };
        }
        state.tell(slot, &[])
    }
}

impl Boxes {
    fn tell(&self, slot: &SlotId, leaving: &[BoxObservation]) -> Observation {
        let fence = Fence { epoch: 1, generation: self.generation };
        let mut boxes: Vec<BoxObservation> = self.boxes.iter().chain(leaving).cloned().collect();
        boxes.sort_by(|a, b| a.id.cmp(&b.id));
        Observation { slot: slot.clone(), fence, boxes, trouble: None, glass: self.glass.clone() }
    }
}

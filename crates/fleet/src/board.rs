//! What is so: each slot's boxes as they were last reported, their weights, and the routing tables that follow from
//! them. One small lock, taken when a box changes and never by a request.

use crate::metrics::lock;
use crate::protocol::{EndpointKey, Observations};
use crate::route::{Route, Table, Upstream, weights};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};
use tidegate_core::engine::{BoxHealth, BoxObservation, BrokenGlass, Fence, Observation};
use tidegate_core::ids::{Role, RunSpecDigest, SlotId};
use tokio::sync::watch;

/// A box as its slot reports it.
#[derive(Debug, Clone)]
pub(crate) struct BoxView {
    pub(crate) id: String,
    pub(crate) incarnation: u32,
    pub(crate) run_spec: RunSpecDigest,
    pub(crate) health: BoxHealth,
    /// Where requests may go: it is healthy and not condemned.
    pub(crate) serves: Option<Arc<Upstream>>,
}

/// A slot's report.
#[derive(Debug)]
pub(crate) struct SlotView {
    pub(crate) fence: Fence,
    pub(crate) boxes: Vec<BoxView>,
    pub(crate) trouble: Option<String>,
    /// What somebody did at the machine.
    pub(crate) glass: Option<BrokenGlass>,
}

impl SlotView {
    /// Of a slot that has accepted this command and has no boxes.
    pub(crate) fn empty(fence: Fence) -> SlotView {
        SlotView { fence, boxes: Vec::new(), trouble: None, glass: None }
    }
}

#[derive(Debug)]
struct Entry {
    view: SlotView,
    observation: Observation,
    version: u64,
}

#[derive(Debug, Default)]
struct State {
    slots: BTreeMap<SlotId, Entry>,
    serving: BTreeMap<EndpointKey, Vec<Arc<Upstream>>>,
    routes: BTreeMap<EndpointKey, Arc<Route>>,
    /// The routing tables stay as they are while boxes are taken up again, one by one.
    held: bool,
}

impl State {
    /// The boxes that serve behind an endpoint.
    fn serving_at(&self, key: &EndpointKey) -> Vec<Arc<Upstream>> {
        self.slots
            .iter()
            .filter(|(slot, _)| EndpointKey::of(&slot.target) == *key)
            .flat_map(|(_, entry)| entry.view.boxes.iter().filter_map(|b| b.serves.clone()))
            .collect()
    }

    /// Routes requests to these boxes. A table that would be the same keeps its place in the turns.
    fn route_to(&mut self, route: &Route, serving: Vec<Arc<Upstream>>) {
        let before = self.serving.get(&route.key).map_or(&[][..], Vec::as_slice);
        if before.len() != serving.len() || before.iter().zip(&serving).any(|(a, b)| !Arc::ptr_eq(a, b)) {
            route.table.store(Arc::new(Table::new(serving.clone())));
            self.serving.insert(route.key.clone(), serving);
        }
    }
}

/// All slots.
#[derive(Debug)]
pub(crate) struct Board {
    state: Mutex<State>,
    version: watch::Sender<u64>,
}

impl Board {
    /// An empty board. Its versions begin with the time, so that they grow over restarts.
    pub(crate) fn new() -> Board {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let version = u64::try_from(now.as_millis()).unwrap_or(1).max(1);
        Board { state: Mutex::default(), version: watch::Sender::new(version) }
    }

    /// Takes a slot's report and routes requests accordingly before it returns.
    pub(crate) fn publish(&self, slot: &SlotId, route: &Arc<Route>, view: SlotView) {
        let mut guard = lock(&self.state);
        let state = &mut *guard;
        let version = *self.version.borrow() + 1;
        let empty = |view| Entry {
            view,
            observation: Observation {
                slot: slot.clone(),
                fence: Fence::default(),
                boxes: Vec::new(),
                trouble: None,
                glass: None,
            },
            version: 0,
        };
        match state.slots.get_mut(slot) {
            Some(entry) => entry.view = view,
            None => {
                state.slots.insert(slot.clone(), empty(view));
            }
        }
        let same_endpoint = |slot: &SlotId| EndpointKey::of(&slot.target) == route.key;
        let serving = state.serving_at(&route.key);
        let weights = weights(&serving.iter().map(|u| u.role).collect::<Vec<Role>>());
        let weight_of = |upstream: &Option<Arc<Upstream>>| {
            let place = upstream.as_ref().and_then(|u| serving.iter().position(|s| Arc::ptr_eq(s, u)));
            place.and_then(|n| weights.get(n).copied()).unwrap_or(0)
        };
        let mut changed = false;
        for (slot, entry) in state.slots.iter_mut().filter(|(slot, _)| same_endpoint(slot)) {
            let observation = observe(slot, &entry.view, weight_of);
            if entry.version == 0 || entry.observation != observation {
                entry.observation = observation;
                entry.version = version;
                changed = true;
            }
        }
        state.routes.entry(route.key.clone()).or_insert_with(|| Arc::clone(route));
        if !state.held {
            state.route_to(route, serving);
        }
        if changed {
            self.version.send_replace(version);
        }
    }

    /// Leaves the routing tables as they are until [`Board::release`], whatever is published.
    pub(crate) fn hold(&self) {
        lock(&self.state).held = true;
    }

    /// Brings the routing tables to what was published.
    pub(crate) fn release(&self) {
        let mut state = lock(&self.state);
        state.held = false;
        for (key, route) in state.routes.clone() {
            let serving = state.serving_at(&key);
            state.route_to(&route, serving);
        }
        drop(state);
        self.wake();
    }

    /// Waits until so many boxes could serve.
    pub(crate) async fn until_serving(&self, boxes: usize) {
        let mut changes = self.changes();
        // Not within `wait_for`: its condition is asked under the lock that whoever publishes waits for.
        while self.able_to_serve() < boxes && changes.changed().await.is_ok() {}
    }

    fn able_to_serve(&self) -> usize {
        let state = lock(&self.state);
        state.slots.values().flat_map(|entry| &entry.view.boxes).filter(|b| b.serves.is_some()).count()
    }

    /// The observations that changed after that version, and the version that they bring the caller to. A version that
    /// this board has not reached yet asks for everything.
    pub(crate) fn observations(&self, after: u64) -> Observations {
        let state = lock(&self.state);
        let version = *self.version.borrow();
        let after = if after > version { 0 } else { after };
        let changed = state.slots.values().filter(|entry| entry.version > after);
        Observations { version, observations: changed.map(|entry| entry.observation.clone()).collect() }
    }

    /// Told of each change.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    /// Which boxes serve, by endpoint.
    pub(crate) fn serving(&self) -> BTreeMap<EndpointKey, Vec<Arc<Upstream>>> {
        lock(&self.state).serving.clone()
    }

    /// Wakes all that wait for a change.
    pub(crate) fn wake(&self) {
        self.version.send_modify(|version| *version += 1);
    }

    /// How many boxes there are.
    pub(crate) fn boxes(&self) -> usize {
        let state = lock(&self.state);
        // A box that is configured is in a slot for each of its configurations as well.
        let of = |(slot, entry): (&'_ SlotId, &'_ Entry)| {
            let target = slot.target.clone();
            entry.view.boxes.iter().map(move |b| (target.clone(), b.id.clone())).collect::<Vec<_>>()
        };
        state.slots.iter().flat_map(of).collect::<BTreeSet<_>>().len()
    }

    /// Whether the slot has boxes.
    pub(crate) fn has_boxes(&self, slot: &SlotId) -> bool {
        lock(&self.state).slots.get(slot).is_some_and(|entry| !entry.view.boxes.is_empty())
    }
}

fn observe(slot: &SlotId, view: &SlotView, weight_of: impl Fn(&Option<Arc<Upstream>>) -> u32) -> Observation {
    let mut boxes: Vec<BoxObservation> = view
        .boxes
        .iter()
        .map(|b| BoxObservation {
            id: b.id.clone(),
            incarnation: b.incarnation,
            run_spec: b.run_spec.clone(),
            health: b.health.clone(),
            weight: weight_of(&b.serves),
        })
        .collect();
    boxes.sort_by(|a, b| a.id.cmp(&b.id));
    Observation {
        slot: slot.clone(),
        fence: view.fence,
        boxes,
        trouble: view.trouble.clone(),
        glass: view.glass.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// Who waits for boxes and who publishes them never wait for each other.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn waiting_for_boxes_holds_no_publisher_up() {
        const ROUNDS: u64 = 2_000;
        let board = Arc::new(Board::new());
        let slot: SlotId = serde_json::from_value(serde_json::json!({
            "target": "shop/production/eu-1/a/main", "pipeline": "app"
        }))
        .unwrap();
        let route = Arc::new(Route::new(EndpointKey::of(&slot.target)));
        let waiting = tokio::spawn({
            let board = Arc::clone(&board);
            async move { board.until_serving(1).await }
        });
        let publisher = Arc::clone(&board);
        let published = tokio::task::spawn_blocking(move || {
            for generation in 1..=ROUNDS {
                let fence = Fence { epoch: 1, generation };
                publisher.publish(&slot, &route, SlotView::empty(fence));
            }
        });
        tokio::time::timeout(Duration::from_secs(30), published).await.expect("publishing hangs").unwrap();
        assert!(!waiting.is_finished(), "no box could serve");
        waiting.abort();
    }
}

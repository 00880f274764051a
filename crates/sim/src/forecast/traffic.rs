//! Who gets how many requests, which of them meet a regression, and what boxes report of it. Rates are whole thousandths of
//! a request per second, and counts follow from absolute time alone: the same input gives the same numbers everywhere.

use super::boxes::{Boxes, Slot};
use super::scenario::{Harm, Regression, Traffic};
use std::collections::{BTreeMap, BTreeSet};
use tidegate_core::alarm::Aggregate;
use tidegate_core::definition::CanarySpec;
use tidegate_core::ids::{Role, RunSpecDigest, SlotId};
use tidegate_core::metrics::{ApiCell, Cell, Sketch};
use tidegate_core::units::{Span, Timestamp};

/// The most of a Region's requests that its one-box gets: one in so many.
const ONE_BOX_SHARE: u64 = 10;
/// What customers wait without a regression: so many percent of the requests, so many microseconds.
const LATENCIES: [(u64, u64); 4] = [(50, 20_000), (40, 60_000), (9, 150_000), (1, 400_000)];
/// What a box uses, in the units of [`Cell`].
const CPU_MILLICORES: u32 = 300;
const MEMORY_KIB: u64 = 256 * 1_024;
const DISK_KIB: u64 = 100 * 1_024;

/// A box in a Region of an environment at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Load {
    slot: SlotId,
    run_spec: RunSpecDigest,
    serves: bool,
    /// Thousandths of a request per second.
    pub(super) milli: u64,
    /// The regressions that it shows now.
    pub(super) burns: BTreeSet<usize>,
}

impl Load {
    /// Whether the box runs this.
    pub(super) fn runs(&self, spec: &RunSpecDigest) -> bool {
        &self.run_spec == spec
    }
}

/// A scenario's regressions by number, and which RunSpecs have them.
#[derive(Debug, Default)]
pub(super) struct Flaws {
    pub(super) regressions: BTreeMap<usize, Regression>,
    pub(super) of: BTreeMap<RunSpecDigest, BTreeSet<usize>>,
}

impl Flaws {
    /// The regressions that a box shows at a load.
    fn burning(&self, slot: &SlotId, spec: &RunSpecDigest, healthy_for: Span, milli: u64) -> BTreeSet<usize> {
        let Some(all) = self.of.get(spec) else { return BTreeSet::new() };
        let shows = |n: &&usize| {
            self.regressions.get(*n).is_some_and(|r| {
                r.harm != Harm::Crash
                    && healthy_for >= r.after
                    && r.region.as_ref().is_none_or(|region| region == &slot.target.region)
                    && r.above_requests_per_second.is_none_or(|above| milli > above.saturating_mul(1_000))
            })
        };
        all.iter().filter(shows).copied().collect()
    }

    /// The regressions that end boxes when they start.
    pub(super) fn crashing(&self) -> Vec<usize> {
        let crash = |(_, r): &(&usize, &Regression)| r.harm == Harm::Crash;
        self.regressions.iter().filter(crash).map(|(n, _)| *n).collect()
    }

    /// Whether a box that runs this ends when it starts.
    pub(super) fn crashes(&self, slot: &SlotId, spec: &RunSpecDigest) -> bool {
        let crash = |n: &usize| {
            self.regressions.get(n).is_some_and(|r| {
                r.harm == Harm::Crash && r.region.as_ref().is_none_or(|region| region == &slot.target.region)
            })
        };
        self.of.get(spec).is_some_and(|all| all.iter().any(crash))
    }
}

/// Every box of a Region, and how many of the Region's `milli` requests it gets.
pub(super) fn loads(boxes: &Boxes, slots: &[SlotId], milli: u64, flaws: &Flaws, now: Timestamp) -> Vec<Load> {
    let nothing = Slot::default();
    let slot_of = |id: &SlotId| boxes.slots.get(id).unwrap_or(&nothing);
    let count = |role: Role| -> u64 {
        let of_role = slots.iter().filter(|s| s.target.role == role);
        of_role.map(|s| slot_of(s).serving(now).filter(|(_, serves)| *serves).count() as u64).sum()
    };
    let (main, one_boxes) = (count(Role::Main), count(Role::OneBox));
    let each_one_box =
        if one_boxes == 0 { 0 } else { (milli / ONE_BOX_SHARE).min(milli / (main + one_boxes)) };
    let each_main = (milli - each_one_box * one_boxes).checked_div(main).unwrap_or(0);
    let mut all = Vec::new();
    for id in slots {
        for (one, serves) in slot_of(id).serving(now) {
            let milli = match id.target.role {
                _ if !serves => 0,
                Role::OneBox => each_one_box,
                Role::Main => each_main,
            };
            let burns = match one.healthy_since(now) {
                Some(since) if serves => flaws.burning(id, &one.run_spec, now.since(since), milli),
                _ => BTreeSet::new(),
            };
            all.push(Load { slot: id.clone(), run_spec: one.run_spec.clone(), serves, milli, burns });
        }
    }
    all
}

/// How many requests meet a regression, in thousandths per second: on boxes with it, and of those the ones that it harms.
pub(super) fn exposed(load: &Load, regression: &Regression, traffic: &Traffic) -> u64 {
    let share = |api: &Option<String>| -> u64 {
        let named = traffic.apis.iter().filter(|a| api.as_ref().is_none_or(|name| &a.name == name));
        named.map(|a| u64::from(a.share.get())).sum()
    };
    let called = load.milli * share(&regression.api) / 100;
    match &regression.harm {
        Harm::Faults(percent) => called * u64::from(percent.get()) / 100,
        Harm::Latency(_) => called,
        Harm::Crash => 0,
    }
}

/// What the boxes of a Region report for an interval that ends now.
#[derive(Debug, Clone, Default)]
pub(super) struct Sample {
    pub(super) all: Aggregate,
    pub(super) one_box: Aggregate,
}

/// Measures a Region's boxes over the interval of this length that ends now, as if they had been as they are during all of it.
pub(super) fn sample(
    loads: &[Load],
    flaws: &Flaws,
    traffic: &Traffic,
    canaries: &[CanarySpec],
    now: Timestamp,
    length: Span,
) -> Sample {
    let mut sample = Sample::default();
    for load in loads {
        let cell = cell(load, flaws, traffic, now, length);
        sample.all.add(&cell);
        if load.slot.target.role == Role::OneBox {
            sample.one_box.add(&cell);
        }
    }
    let (requests, faults) = (sample.all.requests(None), sample.all.faults(None));
    for canary in canaries {
        let runs = length.millis().div_ceil(canary.every.millis().max(1));
        let failures = (runs * faults).checked_div(requests).unwrap_or(0);
        for run in 0..runs {
            sample.all.add_canary_run(run >= failures);
        }
    }
    sample
}

/// How many of a steady stream fall between two moments.
fn falls(milli: u64, from: Timestamp, until: Timestamp) -> u64 {
    let count = |at: Timestamp| u128::from(milli) * u128::from(at.0.unsigned_abs()) / 1_000_000;
    u64::try_from(count(until) - count(from)).unwrap_or(u64::MAX)
}

fn cell(load: &Load, flaws: &Flaws, traffic: &Traffic, now: Timestamp, length: Span) -> Cell {
    let from = now - length;
    let mut apis = BTreeMap::new();
    for api in &traffic.apis {
        let milli = load.milli * u64::from(api.share.get()) / 100;
        let requests = falls(milli, from, now);
        let (mut fault_percent, mut slower) = (0, 0);
        for regression in load.burns.iter().filter_map(|n| flaws.regressions.get(n)) {
            if regression.api.as_ref().is_some_and(|name| name != &api.name) {
                continue;
            }
            match &regression.harm {
                Harm::Faults(percent) => fault_percent = fault_percent.max(u64::from(percent.get())),
                Harm::Latency(more) => slower += more.millis() * 1_000,
                Harm::Crash => {}
            }
        }
        let faults = falls(milli * fault_percent / 100, from, now).min(requests);
        let latency = latencies(requests, slower);
        apis.insert(api.name.clone(), ApiCell { requests, faults, errors: 0, latency });
    }
    Cell {
        second: now.0 / 1_000,
        target: load.slot.target.clone(),
        box_id: String::new(),
        run_spec: load.run_spec.clone(),
        configuration: Vec::new(),
        apis,
        cpu_millicores: CPU_MILLICORES,
        memory_kib: MEMORY_KIB,
        disk_kib: DISK_KIB,
        log_errors: 0,
        healthy: load.serves,
    }
}

fn latencies(requests: u64, slower_us: u64) -> Sketch {
    let mut sketch = Sketch::default();
    let (mut told, mut percent) = (0, 0);
    for (share, micros) in LATENCIES {
        percent += share;
        let until = requests * percent / 100;
        sketch.add(Sketch::bucket(micros + slower_us), until - told);
        told = until;
    }
    sketch
}

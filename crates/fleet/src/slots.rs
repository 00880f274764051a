//! The supervisor: accepts commands for slots, keeps them on disk, and brings each slot's boxes to what it was last
//! told, by looking again whenever anything changes.
//!
//! What must hold: a command is on disk before anything is done about it; an older one is refused, also after a restart;
//! what a slot does next follows from its command and its boxes alone.

use crate::board::{BoxView, SlotView};
use crate::boxes::{self, BoxHandle, BoxRecord, BoxState, Order, RECORD_NAME, SlotSignals};
use crate::configuration::{self, OfTarget, Wanted, WantedValues};
use crate::disk::{self, DataDir};
use crate::endpoints::Place;
use crate::error::FleetError;
use crate::glass;
use crate::metrics::{BoxMeter, lock};
use crate::plan::{Present, Standing, plan};
use crate::process::{self, Found, Process, ProcessName};
use crate::protocol::{Accepted, BreakGlass, Code, EndpointKey, PutBack, Refusal, SetSlot};
use crate::route::Route;
use crate::running;
use crate::shared::{Shared, now};
use crate::validate;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tidegate_core::engine::{BoxHealth, Fence};
use tidegate_core::ids::{PipelineId, SlotId, TargetId};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// The most boxes of one slot.
pub(crate) const BOXES_PER_SLOT_MAX: u32 = 10_000;

/// All slots of the fleet.
#[derive(Debug)]
pub(crate) struct Supervisor {
    shared: Arc<Shared>,
    slots: Mutex<Slots>,
    /// How many adopted boxes were healthy under the process before.
    were_healthy: usize,
}

#[derive(Debug, Default)]
struct Slots {
    /// Those that have boxes.
    processes: BTreeMap<SlotId, Slot>,
    /// Those that give values to the boxes of a target.
    configurations: BTreeMap<TargetId, watch::Sender<Arc<OfTarget>>>,
}

impl Slots {
    /// The newest command of a slot.
    fn newest(&self, id: &SlotId) -> Option<Arc<SetSlot>> {
        let process = self.processes.get(id).map(|slot| Arc::clone(&slot.set.borrow()));
        process.or_else(|| self.configurations.get(&id.target)?.borrow().commands.get(&id.pipeline).cloned())
    }

    /// The command of the slot that somebody at the machine means.
    fn of(&self, order: &BreakGlass) -> Result<Arc<SetSlot>, Refusal> {
        let processes = self.processes.iter().filter(|(id, _)| id.target == order.target);
        let mut all: Vec<Arc<SetSlot>> = processes.map(|(_, slot)| Arc::clone(&slot.set.borrow())).collect();
        if let Some(of_target) = self.configurations.get(&order.target) {
            all.extend(of_target.borrow().commands.values().cloned());
        }
        let pipelines: Vec<&str> = all.iter().map(|set| set.slot.pipeline.as_str()).collect();
        let pipelines = pipelines.join(", ");
        let wanted = |set: &Arc<SetSlot>| {
            order.pipeline.as_ref().is_none_or(|pipeline| *pipeline == set.slot.pipeline)
        };
        let mut meant: Vec<Arc<SetSlot>> = all.into_iter().filter(wanted).collect();
        match (meant.pop(), meant.is_empty(), pipelines.is_empty()) {
            (Some(set), true, _) => Ok(set),
            (Some(_), false, _) => Err(Refusal::new(
                Code::BadCommand,
                format!("{} has slots of {pipelines}; name the pipeline", order.target),
            )),
            (None, _, true) => {
                let why = format!(
                    "this fleet has no target {}; 'tidegate fleet status' tells which it has",
                    order.target
                );
                Err(Refusal::new(Code::NotFound, why))
            }
            (None, _, false) => {
                Err(Refusal::new(Code::NotFound, format!("{} has slots of {pipelines} only", order.target)))
            }
        }
    }

    fn configuration(&mut self, target: &TargetId) -> &watch::Sender<Arc<OfTarget>> {
        self.configurations.entry(target.clone()).or_default()
    }

    fn configure(&mut self, set: SetSlot) {
        self.configuration(&set.slot.target).send_modify(|all| {
            Arc::make_mut(all).commands.insert(set.slot.pipeline.clone(), Arc::new(set));
        });
    }

    fn has_boxes(&mut self, id: &SlotId) {
        self.configuration(&id.target).send_if_modified(|all| {
            let other = all.boxes_of.as_ref() != Some(id);
            if other {
                Arc::make_mut(all).boxes_of = Some(id.clone());
            }
            other
        });
    }
}

#[derive(Debug)]
struct Slot {
    set: watch::Sender<Arc<SetSlot>>,
    halt: watch::Sender<bool>,
    task: JoinHandle<()>,
}

/// What a fleet's folder says that there should be, and what runs.
#[derive(Debug, Default)]
struct Adopted {
    boxes: BTreeMap<SlotId, Vec<(BoxRecord, Option<Process>)>>,
}

impl Supervisor {
    /// Takes up all slots that are on disk, with the boxes that still run.
    pub(crate) fn start(shared: &Arc<Shared>) -> Result<Supervisor, FleetError> {
        let sets = commands(&shared.data, PROCESSES)?;
        let mut slots = Slots::default();
        for set in commands(&shared.data, CONFIGURATIONS)? {
            slots.configure(set);
        }
        // Until the boxes that were healthy have passed a check, requests go where they went.
        shared.board.hold();
        let mut adopted = adopt(shared)?;
        let was_healthy =
            |b: &&(BoxRecord, Option<Process>)| b.1.is_some() && b.0.was_healthy && !b.0.leaving;
        let were_healthy = adopted.boxes.values().flatten().filter(was_healthy).count();
        let route = |id: &SlotId| {
            let key = EndpointKey::of(&id.target);
            let why = || format!("the endpoint {key} of slot {id} is not on disk");
            shared.endpoints.route(&key).ok_or_else(|| FleetError::TakeOver { why: why() })
        };
        for set in &sets {
            if !set.desired.split.is_empty() || adopted.boxes.contains_key(&set.slot) {
                slots.has_boxes(&set.slot);
            }
        }
        for set in sets {
            let boxes = adopted.boxes.remove(&set.slot).unwrap_or_default();
            let configuration = slots.configuration(&set.slot.target).subscribe();
            let slot = spawn_slot(shared, Arc::new(set.clone()), route(&set.slot)?, boxes, configuration);
            slots.processes.insert(set.slot, slot);
        }
        for of_target in slots.configurations.values() {
            let of_target = of_target.borrow();
            for set in of_target.commands.values().filter(|_| of_target.boxes_of.is_none()) {
                shared.board.publish(&set.slot, &route(&set.slot)?, SlotView::empty(set.fence));
            }
        }
        Ok(Supervisor { shared: Arc::clone(shared), slots: Mutex::new(slots), were_healthy })
    }

    /// Waits, for so long at most, until the boxes that were healthy when they were adopted serve.
    pub(crate) async fn adopted_serve(&self, limit: Duration) {
        let board = &self.shared.board;
        // Those that do not pass their first check are taken in when they do.
        let _ = tokio::time::timeout(limit, board.until_serving(self.were_healthy)).await;
        board.release();
    }

    /// Accepts a command, or says why not. It is on disk when this returns. Blocks for as long as the disk does.
    pub(crate) fn set(&self, mut set: SetSlot) -> Result<Accepted, Refusal> {
        let mut slots = lock(&self.slots);
        if self.shared.is_frozen() {
            return Err(Refusal::new(Code::HandedOver, "another process takes over this fleet"));
        }
        let before = slots.newest(&set.slot);
        let configures = set.desired.rest.is_some();
        set.glass = None;
        if let Some(before) = &before {
            if let Some(glass) =
                before.glass.as_ref().filter(|glass| set.acknowledges.as_ref() != Some(&glass.id))
            {
                return Err(Refusal::new(
                    Code::GlassBroken,
                    format!(
                        "slot {} was put back by {} at the machine ({}), and this command does not know of it",
                        set.slot, glass.by, glass.reason
                    ),
                ));
            }
            if configures != before.desired.rest.is_some() {
                return Err(Refusal::new(
                    Code::BadCommand,
                    format!("slot {} cannot change between boxes and configuration", set.slot),
                ));
            }
            if set.fence < before.fence {
                return Err(Refusal::new(
                    Code::StaleFence,
                    format!("slot {} has accepted {} and {} is older", set.slot, before.fence, set.fence),
                ));
            }
            if set.fence == before.fence {
                return if set.desired == before.desired && set.rollback == before.rollback {
                    Ok(Accepted { fence: set.fence })
                } else {
                    Err(Refusal::new(
                        Code::FenceReused,
                        format!("slot {} has accepted {} with another content", set.slot, set.fence),
                    ))
                };
            }
        }
        if !configures && !set.desired.split.is_empty() {
            let other = slots.processes.iter().find(|(id, other)| {
                id.target == set.slot.target
                    && **id != set.slot
                    && (!other.set.borrow().desired.split.is_empty() || self.shared.board.has_boxes(id))
            });
            if let Some((other, _)) = other {
                return Err(Refusal::new(
                    Code::SlotTaken,
                    format!(
                        "{} already runs the processes of pipeline {}; a target has one process slot",
                        set.slot.target, other.pipeline
                    ),
                ));
            }
        }
        validate::complete(&mut set, before.as_deref())?;
        running::check(&set)?;
        for process in set.takes_up.iter().flatten() {
            let has = |other: &SetSlot| other.takes_up.iter().flatten().any(|taken| taken == process);
            let other =
                slots.processes.iter().find(|(id, other)| **id != set.slot && has(&other.set.borrow()));
            if let Some((other, _)) = other {
                let text = format!("process {} is a box of slot {other} already", process.pid);
                return Err(Refusal::new(Code::BadCommand, text));
            }
        }
        let route = self.endpoints_of(&set)?;
        let fence = set.fence;
        if let Some(before) = &before {
            glass::remember(&self.shared, before, &set);
        }
        self.accept(&mut slots, set, route)?;
        Ok(Accepted { fence })
    }

    /// Puts a slot back to what its target ran before, in place of the server's command. It is on disk when this returns.
    pub(crate) fn break_glass(&self, order: &BreakGlass) -> Result<PutBack, Refusal> {
        let mut slots = lock(&self.slots);
        if self.shared.is_frozen() {
            return Err(Refusal::new(Code::HandedOver, "another process takes over this fleet"));
        }
        let had = slots.of(order)?;
        let (set, passed_over) = glass::put_back(&self.shared, &had, order)?;
        let route = self.endpoints_of(&set)?;
        let from = set.desired.condemned.clone();
        let boxes = set.desired.split.iter().map(|share| share.boxes).sum();
        let (slot, glass) = (set.slot.clone(), set.glass.clone());
        let glass = glass.ok_or_else(|| Refusal::new(Code::Internal, "the deed has no name"))?;
        self.accept(&mut slots, set, route)?;
        tracing::warn!(%slot, by = glass.by, reason = glass.reason, run_spec = %glass.run_spec, "a slot was put back at the machine");
        Ok(PutBack { slot, glass, from, boxes, passed_over })
    }

    /// Keeps a command on disk, and lets its slot begin with it.
    fn accept(&self, slots: &mut Slots, set: SetSlot, route: Arc<Route>) -> Result<(), Refusal> {
        let configures = set.desired.rest.is_some();
        let path = self.slot_path(&set.slot, if configures { CONFIGURATIONS } else { PROCESSES });
        self.shared.data.write_json_with_reserve(&path, &set, set.rollback).map_err(|e| refusal(&e))?;
        let (fence, id) = (set.fence, set.slot.clone());
        if configures {
            slots.configure(set);
            if slots.configuration(&id.target).borrow().boxes_of.is_none() {
                self.shared.board.publish(&id, &route, SlotView::empty(fence));
            }
            return Ok(());
        }
        if !set.desired.split.is_empty() {
            slots.has_boxes(&id);
        }
        match slots.processes.get(&id) {
            Some(slot) => {
                slot.set.send_replace(Arc::new(set));
            }
            None => {
                let configuration = slots.configuration(&id.target).subscribe();
                let slot = spawn_slot(&self.shared, Arc::new(set), route, Vec::new(), configuration);
                slots.processes.insert(id, slot);
            }
        }
        Ok(())
    }

    /// Makes the endpoints that a command needs: the target's own and those that its RunSpecs call.
    fn endpoints_of(&self, set: &SetSlot) -> Result<Arc<Route>, Refusal> {
        let target = &set.slot.target;
        for run_spec in &set.run_specs {
            for (service, environment) in &run_spec.endpoints {
                let key = EndpointKey {
                    service: service.clone(),
                    environment: environment.clone(),
                    region: target.region.clone(),
                };
                self.ensure_endpoint(&key, None, set.rollback)?;
            }
        }
        self.ensure_endpoint(&EndpointKey::of(target), None, set.rollback)
    }

    /// Makes an endpoint unless it is there.
    pub(crate) fn ensure_endpoint(
        &self,
        key: &EndpointKey,
        listen: Option<u16>,
        rollback: bool,
    ) -> Result<Arc<Route>, Refusal> {
        let shared = &self.shared;
        let place = Place {
            data: &shared.data,
            ports: &shared.ports,
            metrics: &shared.metrics,
            clients: &shared.clients,
        };
        shared.endpoints.ensure(key, listen, rollback, &place)
    }

    fn slot_path(&self, slot: &SlotId, kind: &str) -> PathBuf {
        let name = format!("{}.{}.json", slot.target.to_string().replace('/', "."), slot.pipeline);
        self.shared.data.path(kind).join(name)
    }

    /// The highest epoch that any slot has accepted.
    pub(crate) fn highest_epoch(&self) -> u64 {
        let slots = lock(&self.slots);
        let processes = slots.processes.values().map(|slot| slot.set.borrow().fence.epoch);
        let of_target = |all: &watch::Sender<Arc<OfTarget>>| {
            all.borrow().commands.values().map(|set| set.fence.epoch).max().unwrap_or(0)
        };
        processes.chain(slots.configurations.values().map(of_target)).max().unwrap_or(0)
    }

    /// Drains and stops every box; the next fleet on this folder starts them again.
    pub(crate) async fn halt(&self) {
        // With what they are told of configuration, which they listen to until their end.
        let Slots { processes, configurations: _told } = std::mem::take(&mut *lock(&self.slots));
        for slot in processes.values() {
            slot.halt.send_replace(true);
        }
        for slot in processes.into_values() {
            // A slot ends when its boxes are gone.
            let _ = slot.task.await;
        }
    }

    /// Lets go of everything without touching a box. When it returns nothing is started or stopped by this any more.
    pub(crate) async fn freeze(&self) {
        self.shared.frozen.store(true, Ordering::SeqCst);
        // Whoever watches this process shall ask the next one.
        self.shared.board.wake();
        let Slots { processes, configurations: _told } = std::mem::take(&mut *lock(&self.slots));
        for slot in processes.into_values() {
            slot.task.abort();
            // It ends as cancelled.
            let _ = slot.task.await;
        }
        self.shared.lives.closed().await;
        self.shared.starts_done().await;
    }
}

/// How a failure in the data folder is told to the control plane.
pub(crate) fn refusal(error: &FleetError) -> Refusal {
    let cause = std::error::Error::source(error).map(|e| format!(": {e}")).unwrap_or_default();
    let code = if error.is_disk_full() { Code::DiskFull } else { Code::Internal };
    Refusal::new(code, format!("{error}{cause}; nothing was changed"))
}

/// Finds the boxes on disk, and their processes; ends processes of this fleet that belong to no box.
fn adopt(shared: &Shared) -> Result<Adopted, FleetError> {
    let mut found: BTreeMap<(String, u32), Found> = BTreeMap::new();
    for process in process::find_boxes(&shared.fleet_id) {
        found.insert((process.box_name.clone(), process.incarnation), process);
    }
    let mut adopted = Adopted::default();
    for target in disk::entries(&shared.data.path("boxes"))? {
        for folder in disk::entries(&target)? {
            let record = disk::read_json::<BoxRecord>(&folder.join(RECORD_NAME));
            let Ok(Some(mut record)) = record else {
                tracing::warn!(folder = %folder.display(), "a box's folder without a record is removed");
                let _ = std::fs::remove_dir_all(&folder);
                continue;
            };
            let in_proc = found.remove(&(record.box_name(), record.incarnation));
            let name = in_proc.map(|found| found.name).or(record.process);
            let process = name.and_then(Process::adopt);
            record.process = process.as_ref().map(Process::name);
            adopted.boxes.entry(record.slot.clone()).or_default().push((record, process));
        }
    }
    for stray in found.into_values() {
        tracing::warn!(r#box = stray.box_name, pid = stray.name.pid, "a process without a box is ended");
        process::end_stray(stray.name);
    }
    Ok(adopted)
}

fn spawn_slot(
    shared: &Arc<Shared>,
    set: Arc<SetSlot>,
    route: Arc<Route>,
    adopted: Vec<(BoxRecord, Option<Process>)>,
    configuration: watch::Receiver<Arc<OfTarget>>,
) -> Slot {
    let (set_sender, set_receiver) = watch::channel(set);
    let (halt_sender, halt_receiver) = watch::channel(false);
    let mut actor = Actor {
        shared: Arc::clone(shared),
        set: set_receiver,
        halt: halt_receiver,
        configuration,
        signals: Arc::default(),
        route,
        boxes: BTreeMap::new(),
        taken_up: adopted.iter().filter_map(|(record, _)| record.process).collect(),
    };
    for (record, process) in adopted {
        let had = configuration::on_disk(&shared.box_folder(&record));
        actor.add(record, process, had);
    }
    // Its boxes are on the board before anybody can ask.
    actor.look();
    Slot { set: set_sender, halt: halt_sender, task: tokio::spawn(actor.run()) }
}

/// Tells commands to a slot apart: what somebody does at the machine has the server's fence.
type Command = (Fence, Option<String>);

fn command_of(set: &SetSlot) -> Command {
    (set.fence, set.glass.as_ref().map(|glass| glass.id.clone()))
}

/// One slot's reconciler.
struct Actor {
    shared: Arc<Shared>,
    set: watch::Receiver<Arc<SetSlot>>,
    halt: watch::Receiver<bool>,
    configuration: watch::Receiver<Arc<OfTarget>>,
    signals: Arc<SlotSignals>,
    route: Arc<Route>,
    boxes: BTreeMap<String, BoxHandle>,
    /// Processes that are boxes already, or have been.
    taken_up: BTreeSet<ProcessName>,
}

impl Drop for Actor {
    fn drop(&mut self) {
        // Only a frozen fleet drops an actor that has boxes: their tasks end, their processes do not.
        for handle in self.boxes.values() {
            handle.task.abort();
        }
    }
}

impl Actor {
    async fn run(mut self) {
        loop {
            let halted = *self.halt.borrow();
            let seen = self.look();
            if halted && self.boxes.is_empty() {
                return;
            }
            let (mut set, mut halt) = (self.set.clone(), self.halt.clone());
            let mut configuration = self.configuration.clone();
            tokio::select! {
                () = self.signals.changed.notified() => {}
                _ = set.wait_for(|set| command_of(set) != seen) => {}
                _ = configuration.changed() => {}
                _ = halt.wait_for(|halt| *halt), if !halted => {}
            }
        }
    }

    /// Looks at what is wanted and what is there, does the next thing, and reports. Returns the command it looked at.
    fn look(&mut self) -> Command {
        let set = Arc::clone(&self.set.borrow());
        let configuration = Arc::clone(&self.configuration.borrow_and_update());
        self.signals.rollback.store(set.rollback, Ordering::SeqCst);
        self.boxes.retain(|_, handle| !lock(&handle.state).gone);
        if *self.halt.borrow() {
            for handle in self.boxes.values() {
                handle.order.send_replace(Order::Halt);
            }
            self.report(&set, &self.present(), &BTreeSet::new());
            return command_of(&set);
        }
        // Configuration is for the slot that has, or is to have, the target's boxes.
        let none = OfTarget::default();
        let is_mine = configuration.boxes_of.as_ref() == Some(&set.slot);
        let commands = if is_mine { &configuration.commands } else { &none.commands };
        self.take_up(&set);
        let next = plan(&set.desired, &self.present());
        for id in &next.leave {
            if let Some(handle) = self.boxes.get(id) {
                handle.order.send_replace(Order::Leave);
            }
        }
        let mut created = Vec::new();
        for run_spec in &next.create {
            let Some(run_spec) = set.run_specs.iter().find(|s| s.digest() == *run_spec) else { continue };
            let id = self.new_id(&created);
            let record = BoxRecord {
                id,
                slot: set.slot.clone(),
                secrets: validate::secrets_of(run_spec, &set.secrets),
                run_spec: run_spec.clone(),
                incarnation: 0,
                process: None,
                port: 0,
                was_healthy: false,
                leaving: false,
            };
            created.push(record);
        }
        let mut wanted = self.assign(commands, &created);
        for record in created {
            let wanted = wanted.remove(&record.id).unwrap_or_default();
            self.add(record, None, wanted);
        }
        for (id, wanted) in wanted {
            if let Some(handle) = self.boxes.get(&id) {
                handle.wanted.send_if_modified(|had| {
                    let other = **had != wanted;
                    if other {
                        *had = Arc::new(wanted);
                    }
                    other
                });
            }
        }
        let present = self.present();
        let weightless = plan(&set.desired, &present).weightless;
        self.report(&set, &present, &weightless);
        let commanded = Arc::clone(&set);
        for set in commands.values() {
            let wanted = commanded.desired.split.iter().map(|share| share.boxes as usize).sum();
            self.report_configuration(set, &present, wanted);
        }
        command_of(&set)
    }

    /// Makes boxes of processes that the command takes up, each once.
    fn take_up(&mut self, set: &SetSlot) {
        let lead = set.desired.split.first().map(|share| &share.run_spec);
        let Some(run_spec) = set.run_specs.iter().find(|s| Some(&s.digest()) == lead) else { return };
        for process in set.takes_up.iter().flatten() {
            if !self.taken_up.insert(running::name(process)) {
                continue;
            }
            let id = self.new_id(&[]);
            if let Some((record, process)) = running::take_up(&self.shared, set, run_spec, process, id) {
                self.add(record, Some(process), Wanted::new());
            }
        }
    }

    /// What each box that stays is to have of each configuration pipeline, those included that are about to be made.
    fn assign(
        &self,
        commands: &BTreeMap<PipelineId, Arc<SetSlot>>,
        created: &[BoxRecord],
    ) -> BTreeMap<String, Wanted> {
        let mut present = self.present();
        present.extend(created.iter().map(|record| Present {
            id: record.id.clone(),
            run_spec: record.run_spec.digest(),
            standing: Standing::Starting,
        }));
        let staying = present.iter().filter(|b| b.standing != Standing::Leaving);
        let mut all: BTreeMap<String, Wanted> = staying.map(|b| (b.id.clone(), Wanted::new())).collect();
        for (pipeline, set) in commands {
            let before = |id: &str| {
                let wanted = self.boxes.get(id)?.wanted.borrow();
                wanted.get(pipeline).map(|values| values.run_spec.digest())
            };
            for (id, digest) in configuration::assign(&set.desired, &present, before) {
                let run_spec = set.run_specs.iter().find(|s| Some(s.digest()) == digest);
                if let (Some(run_spec), Some(wanted)) = (run_spec, all.get_mut(&id)) {
                    let values = WantedValues { run_spec: run_spec.clone(), rollback: set.rollback };
                    wanted.insert(pipeline.clone(), values);
                }
            }
        }
        all
    }

    /// An id that no box of the target has had: later than all before it, also over restarts.
    fn new_id(&self, created: &[BoxRecord]) -> String {
        let mut number = u64::try_from(now().0).unwrap_or(0);
        let ids = self.boxes.keys().chain(created.iter().map(|record| &record.id));
        let last = ids.filter_map(|id| u64::from_str_radix(id.strip_prefix('b')?, 16).ok()).max();
        if let Some(last) = last {
            number = number.max(last + 1);
        }
        format!("b{number:x}")
    }

    fn add(&mut self, record: BoxRecord, process: Option<Process>, wanted: Wanted) {
        let meter = self.shared.metrics.meter(&record.slot.target, &record.id, || {
            BoxMeter::new(
                record.slot.target.clone(),
                record.id.clone(),
                record.run_spec.digest(),
                self.shared.box_folder(&record),
                Arc::clone(&self.route.labels),
            )
        });
        let id = record.id.clone();
        self.boxes.insert(id, boxes::spawn(&self.shared, &self.signals, record, process, meter, wanted));
    }

    fn present(&self) -> Vec<Present> {
        let standing = |handle: &BoxHandle| {
            if *handle.order.borrow() != Order::Run {
                return Standing::Leaving;
            }
            match lock(&handle.state).health {
                BoxHealth::Starting { .. } => Standing::Starting,
                BoxHealth::Healthy { .. } => Standing::Healthy,
                BoxHealth::Unhealthy { .. } => Standing::Unhealthy,
                BoxHealth::Leaving => Standing::Leaving,
            }
        };
        self.boxes
            .iter()
            .map(|(id, handle)| Present {
                id: id.clone(),
                run_spec: handle.run_spec.clone(),
                standing: standing(handle),
            })
            .collect()
    }

    /// Tells what the boxes that stay have of a configuration pipeline.
    fn report_configuration(&self, set: &SetSlot, present: &[Present], wanted: usize) {
        let mut views = Vec::new();
        let staying = || present.iter().filter(|b| b.standing != Standing::Leaving);
        // A box that starts before the one that it replaces is gone is not one more.
        let mut beyond = staying().count().saturating_sub(wanted);
        for b in staying() {
            if beyond > 0 && b.standing == Standing::Starting {
                beyond -= 1;
                continue;
            }
            let Some(handle) = self.boxes.get(&b.id) else { continue };
            let pipeline = &set.slot.pipeline;
            let wanted = handle.wanted.borrow().get(pipeline).map(|values| values.run_spec.digest());
            let state = lock(&handle.state);
            let held = state.configuration.get(pipeline);
            let (run_spec, health) =
                configuration::observed(held, wanted.as_ref(), &handle.run_spec, &state.health);
            let (id, incarnation) = (b.id.clone(), state.incarnation);
            views.push(BoxView { id, incarnation, run_spec, health, serves: None });
        }
        let view = SlotView { boxes: views, glass: set.glass.clone(), ..SlotView::empty(set.fence) };
        self.shared.board.publish(&set.slot, &self.route, view);
    }

    fn report(&self, set: &SetSlot, present: &[Present], weightless: &BTreeSet<String>) {
        let mut trouble = None;
        let mut views = Vec::with_capacity(present.len());
        for b in present {
            let Some(handle) = self.boxes.get(&b.id) else { continue };
            let state: BoxState = lock(&handle.state).clone();
            let leaving = b.standing == Standing::Leaving;
            let serves =
                b.standing == Standing::Healthy && state.health.is_healthy() && !weightless.contains(&b.id);
            trouble = trouble.or_else(|| state.trouble.as_ref().map(|t| format!("box {}: {t}", b.id)));
            views.push(BoxView {
                id: b.id.clone(),
                incarnation: state.incarnation,
                run_spec: b.run_spec.clone(),
                health: if leaving { BoxHealth::Leaving } else { state.health },
                serves: state.upstream.filter(|_| serves),
            });
        }
        self.shared.board.publish(
            &set.slot,
            &self.route,
            SlotView { fence: set.fence, boxes: views, trouble, glass: set.glass.clone() },
        );
    }
}

/// The folder of the commands to slots that have boxes.
const PROCESSES: &str = "slots";
/// The folder of the commands to configuration slots.
const CONFIGURATIONS: &str = "configurations";

/// The commands that are on disk.
fn commands(data: &DataDir, kind: &str) -> Result<Vec<SetSlot>, FleetError> {
    let mut sets = Vec::new();
    for path in disk::entries(&data.path(kind))? {
        if path.extension().is_some_and(|e| e == "json")
            && let Some(set) = disk::read_json(&path)?
        {
            sets.push(set);
        }
    }
    Ok(sets)
}

/// The target whose box's log is asked for must be one that has a folder here.
pub(crate) fn log_path(shared: &Shared, target: &TargetId, box_id: &str) -> Option<PathBuf> {
    let plain = !box_id.is_empty() && box_id.bytes().all(|b| b.is_ascii_alphanumeric());
    let path = shared.target_folder(target).join(box_id).join(crate::collect::LOG_NAME);
    (plain && path.is_file()).then_some(path)
}

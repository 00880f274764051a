//! How long a rollback waits for everything else: 1,000 pipelines deploy in one runtime on SQLite (`synchronous=FULL`), and
//! now and then an alarm fires on one of them. Measured is the time from the alarm's event to the commit of the effects that
//! take the release back. Each pipeline deploys to an AZ of three Regions of the third wave; a virtual fleet, which is
//! observed twice a second as the server does it, needs ten seconds for a box.

use crate::many::{self, Original, Slot};
use crate::report::{Figure, percentile};
use crate::scene::Scene;
use anyhow::{Context, Result, ensure};
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};
use tidegate_core::alarm::AlarmState;
use tidegate_core::decision::{Actor, AggregateId, Effect, Event, ForwardEffect, RollbackEffect};
use tidegate_core::ids::{PipelineId, SlotId, TargetId};
use tidegate_core::pipeline::{Motion, PipelineEvent};
use tidegate_core::scope::Scope;
use tidegate_core::units::Span;
use tidegate_runtime::{Lane, Listener, Runtime};

const PIPELINES: usize = 1_000;
const ALARMS: usize = 200;
/// Between two alarms.
const ALARM_EVERY: Duration = Duration::from_millis(150);
/// How long it goes before the first alarm.
const WARM_UP: Duration = Duration::from_secs(5);
/// How long the last rollbacks may take.
const LAST_MAX: Duration = Duration::from_secs(30);
/// How long a box takes to get healthy.
const BOX_START: Span = Span::seconds(10);
/// Moving slots are observed so often, as by the server.
const OBSERVE_EVERY: Duration = Duration::from_millis(500);
/// The longest pause of the loops, as in the server.
const PAUSE_MAX: Duration = Duration::from_secs(1);
const BATCH: usize = 256;

/// Hears of commits: wakes the loops, and takes the time of those that take something back.
#[derive(Default)]
struct Heard {
    commits: Mutex<u64>,
    bell: Condvar,
    awaited: Mutex<BTreeMap<PipelineId, Instant>>,
    took_ms: Mutex<Vec<f64>>,
}

impl Listener for Heard {
    fn committed(&self, aggregates: &[AggregateId], lanes: &[Lane]) {
        if lanes.contains(&Lane::Rollback) {
            for id in aggregates {
                let AggregateId::Pipeline(id) = id else { continue };
                if let Some(begun) = lock(&self.awaited).remove(id) {
                    lock(&self.took_ms).push(begun.elapsed().as_secs_f64() * 1e3);
                }
            }
        }
        *lock(&self.commits) += 1;
        self.bell.notify_all();
    }
}

impl Heard {
    /// Waits for a commit after the one that was seen.
    fn wait(&self, seen: &mut u64, most: Duration) {
        let commits = lock(&self.commits);
        let waited = self.bell.wait_timeout_while(commits, most, |now| *now == *seen);
        *seen = *waited.unwrap_or_else(PoisonError::into_inner).0;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Stage {
    runtime: Runtime,
    heard: Arc<Heard>,
    slots: Mutex<BTreeMap<SlotId, Slot>>,
    stop: AtomicBool,
    observations: AtomicU64,
}

/// Measures.
pub(crate) fn take(scene: &Scene) -> Result<Figure> {
    let original = Original::deploying(&scene.folder("under-load-original")?)?;
    let dir = scene.folder("under-load")?;
    original.fill(&dir, PIPELINES)?;
    let heard = Arc::new(Heard::default());
    let stage = Stage {
        runtime: many::open(&dir, original.at, Some(Arc::clone(&heard) as _))?,
        heard,
        slots: Mutex::new(original.slots(PIPELINES)?),
        stop: AtomicBool::new(false),
        observations: AtomicU64::new(0),
    };
    let (alarmed_s, ()) = thread::scope(|scope| {
        let mut loops = vec![scope.spawn(|| stage.timers()), scope.spawn(|| stage.observe())];
        for lane in [Lane::Rollback, Lane::Forward, Lane::Page] {
            let stage = &stage;
            loops.push(scope.spawn(move || stage.perform(lane)));
        }
        let alarmed = stage.alarm();
        stage.stop.store(true, Ordering::SeqCst);
        stage.heard.bell.notify_all();
        for ended in loops {
            ended.join().map_err(|_| anyhow::anyhow!("a loop panicked"))??;
        }
        Ok::<_, anyhow::Error>((alarmed?, ()))
    })?;
    let took = lock(&stage.heard.took_ms).clone();
    ensure!(took.len() == ALARMS, "{} of {ALARMS} alarms led to a rollback", took.len());
    let [median, p99, longest] = [0.5, 0.99, 1.0].map(|part| percentile(took.iter().copied(), part));
    let commits = *lock(&stage.heard.commits) as f64 / alarmed_s;
    let observed = stage.observations.load(Ordering::SeqCst) as f64 / alarmed_s;
    let text = format!(
        "rollback-under-load: {ALARMS} alarms while {PIPELINES} pipelines deploy in one runtime ({observed:.0} observations \
         and {commits:.0} commits a second)\n\
         from the alarm to the commit of what takes it back: median {median:.1} ms, p99 {p99:.1} ms, longest {longest:.1} ms\n"
    );
    let values = json!({
        "alarms": ALARMS, "pipelines": PIPELINES, "median_ms": median, "p99_ms": p99, "longest_ms": longest,
        "observations_per_second": observed, "commits_per_second": commits
    });
    Figure::new("rollback-under-load", text, values)
}

impl Stage {
    fn goes(&self) -> bool {
        !self.stop.load(Ordering::SeqCst)
    }

    /// Tells pipelines the time, as the server's loop does.
    fn timers(&self) -> Result<()> {
        let mut seen = 0;
        while self.goes() {
            let pause = match self.runtime.tick_due(BATCH)? {
                told if told >= BATCH => continue,
                _ => self.runtime.next_due()?.map_or(PAUSE_MAX, |due| due.since(self.runtime.now()).into()),
            };
            self.heard.wait(&mut seen, pause.min(PAUSE_MAX));
        }
        Ok(())
    }

    /// Performs the effects of a lane on the virtual fleet.
    fn perform(&self, lane: Lane) -> Result<()> {
        let mut seen = 0;
        while self.goes() {
            let pending = self.runtime.effects(lane, BATCH)?;
            for next in &pending {
                match &next.effect {
                    Effect::Forward(ForwardEffect::Deploy(order))
                    | Effect::Rollback(RollbackEffect::Return(order)) => {
                        let now = self.runtime.now();
                        lock(&self.slots).entry(order.slot.clone()).or_default().obey(order, now);
                    }
                    Effect::Forward(ForwardEffect::Page(_)) => {}
                    Effect::Forward(ForwardEffect::Build(_) | ForwardEffect::Test(_)) => continue,
                }
                self.runtime.effect_done(&next.id)?;
            }
            if pending.is_empty() {
                self.heard.wait(&mut seen, PAUSE_MAX);
            }
        }
        Ok(())
    }

    /// Tells pipelines what their moving slots show.
    fn observe(&self) -> Result<()> {
        while self.goes() {
            let begun = Instant::now();
            for number in 0..PIPELINES {
                let id = many::pipeline(number)?;
                let pipeline = self.runtime.pipeline(&id)?.context("a pipeline vanished")?;
                let moving = pipeline
                    .slots
                    .iter()
                    .filter(|(_, slot)| matches!(slot.motion, Motion::Forward { .. } | Motion::Back { .. }));
                let (epoch, now) = (self.runtime.epoch(), self.runtime.now());
                let observe = |target: &TargetId| {
                    let slot = SlotId { pipeline: id.clone(), target: target.clone() };
                    lock(&self.slots).get_mut(&slot).map(|s| s.observe(&slot, epoch, now, BOX_START))
                };
                let observations: Vec<_> = moving.filter_map(|(target, _)| observe(target)).collect();
                if !observations.is_empty() {
                    self.observations.fetch_add(observations.len() as u64, Ordering::SeqCst);
                    let event = Event::Pipeline(id.clone(), PipelineEvent::SlotsObserved { observations });
                    self.runtime.submit(&event, &Actor::Tidegate)?;
                }
                if !self.goes() {
                    return Ok(());
                }
            }
            thread::sleep(OBSERVE_EVERY.saturating_sub(begun.elapsed()));
        }
        Ok(())
    }

    /// Lets alarms fire; how long all of it took, in seconds.
    fn alarm(&self) -> Result<f64> {
        let begun = Instant::now();
        thread::sleep(WARM_UP);
        for n in 0..ALARMS {
            let number = n * PIPELINES / ALARMS;
            let (id, team) = (many::pipeline(number)?, many::team(number)?);
            let pipeline = self.runtime.pipeline(&id)?.context("a pipeline vanished")?;
            let moving =
                pipeline.slots.iter().find(|(_, slot)| matches!(slot.motion, Motion::Forward { .. }));
            let (target, _) = moving.with_context(|| format!("{id} deploys nothing any more"))?;
            let event = many::alarms(&self.runtime, &team, Scope::of(target), AlarmState::Alarm)?;
            lock(&self.heard.awaited).insert(id, Instant::now());
            self.runtime.submit(&event, &Actor::Tidegate)?;
            thread::sleep(ALARM_EVERY);
        }
        let end = Instant::now() + LAST_MAX;
        while !lock(&self.heard.awaited).is_empty() && Instant::now() < end {
            thread::sleep(Duration::from_millis(10));
        }
        Ok(begun.elapsed().as_secs_f64())
    }
}

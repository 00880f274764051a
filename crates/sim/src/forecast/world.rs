//! The virtual world around the real runtime: a queue of what happens, and a loop that goes from one moment to the next.
//!
//! What must hold: the core and the runtime decide everything that is decided; time only moves to the next moment at which
//! something can change; every loop has a limit. Monitoring grants watched time in one piece where nothing happened in
//! between: the core credits an interval as it would credit its seconds.

use super::boxes::Boxes;
use super::journal::Journal;
use super::monitor::{Monitoring, Sampler};
use super::result::{Cost, Stuck};
use super::scenario::{Fault, Scenario};
use super::traffic::Flaws;
use super::{ForecastError, Input};
use crate::store::VirtualClock;
use jiff::tz::TimeZone;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tidegate_core::alarm::{AlarmName, AlarmState};
use tidegate_core::decision::{Actor, EffectId, Event, SlotOrder};
use tidegate_core::ids::{CommitId, PipelineId, RegionId, ReleaseNo, SlotId, TeamId, UserId};
use tidegate_core::pipeline::{Motion, Pipeline, PipelineEvent, Reason, Standing};
use tidegate_core::plan::StepId;
use tidegate_core::scope::Scope;
use tidegate_core::team::metric_alarms;
use tidegate_core::units::{Span, Timestamp};
use tidegate_runtime::{Options, Outcome, Runtime, SubmitError};
use tidegate_store::MemoryStore;

/// The most moments of one simulation; more mean that the world runs in a circle. A month of a busy pipeline has a tenth.
const MOMENTS_MAX: u64 = 2_000_000;
/// How long the simulation goes on at most after the last commit may have arrived.
pub(super) const DRAIN_MAX: Span = Span::hours(24 * 60);
/// A timer that is due so soon is obeyed whatever else goes on.
const AT_ONCE: Span = Span::seconds(1);

/// An entry of the queue.
#[derive(Debug, Clone)]
pub(super) enum Happening {
    /// A commit is merged.
    Commit,
    /// A build has ended.
    Built(EffectId, ReleaseNo),
    /// Tests have ended.
    Tested(EffectId),
    /// An order reaches its boxes.
    Arrives(Box<SlotOrder>),
    /// The engine tells of a slot.
    Observe(SlotId),
    /// Something in a Region may show from now on.
    Shows(Scope),
    /// A sample of a Region ends.
    Sample(Scope),
    /// A fault with a time begins or ends.
    Begins(usize),
    Ends(usize),
    /// Somebody puts a rejection right.
    Mend {
        release: ReleaseNo,
        fixes: Vec<CommitId>,
        flaws: BTreeSet<usize>,
    },
    /// Somebody lets a fix pass an alarm.
    LetPass(StepId),
}

/// One environment in one Region.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) slots: Vec<SlotId>,
    pub(super) production: bool,
    /// Thousandths of a request per second.
    pub(super) milli: u64,
    pub(super) sampler: Option<Sampler>,
    /// The service's alarms as they were told last.
    pub(super) states: BTreeMap<AlarmName, AlarmState>,
    /// Alarms whose newest period has no data.
    pub(super) blind: BTreeSet<AlarmName>,
    /// How many faults keep its monitoring from having data.
    pub(super) dark: u32,
    /// Alarms of elsewhere that fire there.
    pub(super) outages: BTreeSet<AlarmName>,
}

/// See the head of this file.
pub(super) struct World<'a> {
    pub(super) input: &'a Input,
    pub(super) scenario: &'a Scenario,
    pub(super) id: PipelineId,
    pub(super) team: TeamId,
    pub(super) approver: UserId,
    pub(super) zone: TimeZone,
    pub(super) start: Timestamp,
    pub(super) now: Timestamp,
    clock: Arc<VirtualClock>,
    pub(super) runtime: Runtime,
    queue: BTreeMap<(Timestamp, u64), Happening>,
    queued: u64,
    pub(super) boxes: Boxes,
    pub(super) places: BTreeMap<Scope, Place>,
    pub(super) monitoring: Monitoring,
    pub(super) flaws: Flaws,
    pub(super) journal: Journal,
    pub(super) cost: Cost,
    pub(super) pages: u64,
    /// While what runs at the beginning is put there nothing takes time.
    pub(super) booting: bool,
    /// By source: how many commits were made, and the newest.
    pub(super) commits: u64,
    pub(super) head: Option<CommitId>,
    /// The regressions and the releases that have them.
    pub(super) flawed: BTreeMap<ReleaseNo, BTreeSet<usize>>,
    /// The commits that brought them.
    pub(super) culprits: BTreeMap<usize, CommitId>,
    /// Fix commits and what they fix.
    pub(super) fixed_by: BTreeMap<CommitId, BTreeSet<usize>>,
    /// Releases that bring a fix.
    pub(super) fixes: BTreeSet<ReleaseNo>,
    pub(super) mended: BTreeSet<usize>,
    /// Where which regression shows now.
    pub(super) burning: BTreeMap<usize, BTreeSet<Scope>>,
    pub(super) exposure: super::exposure::Exposures,
    pub(super) began: BTreeMap<usize, Timestamp>,
    pub(super) over: BTreeMap<usize, Timestamp>,
    /// When a release last came or went.
    pub(super) progress: Timestamp,
    /// How many moments it has at most.
    pub(super) moments_max: u64,
    /// What is not simulated, for people.
    pub(super) assumptions: Vec<String>,
    last_step: Option<StepId>,
}

impl<'a> World<'a> {
    pub(super) fn new(input: &'a Input) -> Result<World<'a>, ForecastError> {
        let clock = Arc::new(VirtualClock::default());
        let (_, team) = input.owner()?;
        let start = input.scenario.begins(&input.scenario.zone(Some(team)));
        let now = start - Span::hours(1);
        clock.set(now.0);
        let shared: Arc<VirtualClock> = Arc::clone(&clock);
        let options = Options { cache: 4_096, ..Options::default() };
        let runtime = Runtime::open(Arc::new(MemoryStore::forgetful()), shared, options, 0)?;
        World::around(input, runtime, clock, start, now)
    }

    /// The world around a runtime, on which this clock goes.
    pub(super) fn around(
        input: &'a Input,
        runtime: Runtime,
        clock: Arc<VirtualClock>,
        start: Timestamp,
        now: Timestamp,
    ) -> Result<World<'a>, ForecastError> {
        let (service, team) = input.owner()?;
        let approver = team.members.first().cloned().ok_or(ForecastError::NoMember)?;
        let zone = input.scenario.zone(Some(team));
        let regressions = input.scenario.faults.iter().enumerate().filter_map(|(n, fault)| match fault {
            Fault::Regression(regression) => Some((n, regression.clone())),
            _ => None,
        });
        let plan = tidegate_core::plan::plan(&input.pipeline, &input.organisation);
        Ok(World {
            input,
            scenario: &input.scenario,
            id: input.pipeline.name.clone(),
            team: team.name.clone(),
            approver,
            zone,
            start,
            now,
            clock,
            runtime,
            queue: BTreeMap::new(),
            queued: 0,
            boxes: Boxes::default(),
            places: BTreeMap::new(),
            monitoring: Monitoring::new(service),
            flaws: Flaws { regressions: regressions.collect(), of: BTreeMap::new() },
            journal: Journal::default(),
            cost: Cost::default(),
            pages: 0,
            booting: true,
            commits: 0,
            head: None,
            flawed: BTreeMap::new(),
            culprits: BTreeMap::new(),
            fixed_by: BTreeMap::new(),
            fixes: BTreeSet::new(),
            mended: BTreeSet::new(),
            burning: BTreeMap::new(),
            exposure: super::exposure::Exposures::default(),
            began: BTreeMap::new(),
            over: BTreeMap::new(),
            progress: now,
            moments_max: MOMENTS_MAX,
            assumptions: Vec::new(),
            last_step: plan.steps().last().map(|(_, step)| step.id.clone()),
        })
    }

    /// Puts an entry into the queue.
    pub(super) fn at(&mut self, at: Timestamp, happening: Happening) {
        self.queued += 1;
        self.queue.insert((at.max(self.now), self.queued), happening);
    }

    /// The slot that the queue's head wants to be observed now, if it wants that.
    pub(super) fn next_observed(&mut self) -> Option<SlotId> {
        let head = self.queue.first_entry()?;
        if head.key().0 > self.now || !matches!(head.get(), Happening::Observe(_)) {
            return None;
        }
        match head.remove() {
            Happening::Observe(slot) => Some(slot),
            _ => None,
        }
    }

    /// Runs until nothing is left to happen; why it cannot go on, if it cannot.
    pub(super) fn run(&mut self) -> Result<Option<Stuck>, ForecastError> {
        let limit = self.start + self.scenario.length + DRAIN_MAX;
        loop {
            self.cost.moments += 1;
            if self.cost.moments > self.moments_max {
                return Err(ForecastError::Circle { moments: self.moments_max, at: self.now });
            }
            let pipeline = self.pipeline()?;
            let Some((at, what)) = self.next(&pipeline)? else {
                return Ok(self.stuck(&pipeline, "nothing that can happen any more changes that"));
            };
            if at > limit {
                let why = format!("not within {DRAIN_MAX} after the last commit");
                return Ok(self.stuck(&pipeline, &why));
            }
            self.pass_time(at);
            match what {
                Next::Queue => {
                    if let Some((_, happening)) = self.queue.pop_first() {
                        self.happen(happening)?;
                    }
                }
                Next::Look => {
                    if !self.watch()? {
                        self.tell(PipelineEvent::Tick)?;
                    }
                }
            }
        }
    }

    /// Time passes, in which customers go on calling.
    fn pass_time(&mut self, at: Timestamp) {
        let at = at.max(self.now);
        self.exposure.pass(at.since(self.now));
        self.now = at;
        self.clock.set(at.0);
    }

    /// The runtime's clock follows.
    pub(super) fn tick_clock(&self) {
        self.clock.set(self.now.0);
    }

    /// The next moment at which something can change.
    fn next(&self, pipeline: &Pipeline) -> Result<Option<(Timestamp, Next)>, ForecastError> {
        let queue = self.queue.first_key_value().map(|((at, _), _)| (*at, Next::Queue));
        if let Some((at, _)) = &queue
            && *at <= self.now
        {
            return Ok(queue);
        }
        let due = self.runtime.next_due()?;
        // While nothing but quiet bakes goes on, timers only ask whether monitoring still tells.
        let timer = match due {
            Some(due) if !is_calm(pipeline) || due <= self.now + AT_ONCE => Some(due),
            _ => opens(pipeline, self.now),
        };
        let look = [timer, self.bake_ends(pipeline)].into_iter().flatten().min();
        let look = look.map(|at| (at.max(self.now), Next::Look));
        Ok(match (queue, look) {
            (Some(queue), Some(look)) => Some(if queue.0 <= look.0 { queue } else { look }),
            (queue, look) => queue.or(look),
        })
    }

    pub(super) fn pipeline(&self) -> Result<Arc<Pipeline>, ForecastError> {
        Ok(self.runtime.pipeline(&self.id)?.unwrap_or_default())
    }

    /// Tells the pipeline something.
    pub(super) fn tell(&mut self, event: PipelineEvent) -> Result<(), ForecastError> {
        let event = Event::Pipeline(self.id.clone(), event);
        self.submit(&event)
    }

    /// Tells anybody something, and does what follows.
    pub(super) fn submit(&mut self, event: &Event) -> Result<(), ForecastError> {
        let outcome = self.runtime.submit(event, &Actor::Tidegate);
        self.follow(outcome)
    }

    /// Tells of an effect's result, and does what follows.
    pub(super) fn result(&mut self, effect: &EffectId, event: PipelineEvent) -> Result<(), ForecastError> {
        let event = Event::Pipeline(self.id.clone(), event);
        let outcome = self.runtime.submit_result(effect, &event);
        self.follow(outcome)
    }

    fn follow(&mut self, outcome: Result<Outcome, SubmitError>) -> Result<(), ForecastError> {
        self.cost.decisions += 1;
        let outcome = match outcome {
            Ok(outcome) => outcome,
            // Nobody waits for it any more.
            Err(SubmitError::Illegal(_)) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        for (_, fact) in &outcome.facts {
            if !self.booting {
                self.journal.note(outcome.at, fact, self.last_step.as_ref());
            }
            self.learn(fact);
        }
        self.perform(outcome.effects)
    }

    /// The first metric alarm of a service of the team that the scenario does not name otherwise.
    pub(super) fn alarm_of_elsewhere(&self, outage: &super::scenario::Outage) -> Option<AlarmName> {
        let own = &self.input.pipeline.service;
        let of_team = || self.input.organisation.services.iter().filter(|s| s.team == self.team);
        let service = match &outage.service {
            Some(name) => of_team().find(|s| &s.name == name),
            None => of_team().find(|s| &s.name != own).or_else(|| of_team().next()),
        };
        service.and_then(|s| metric_alarms(s).into_iter().next()).map(|alarm| alarm.name)
    }

    /// Regions of production with their traffic, as thousandths of a request per second.
    pub(super) fn rates(&self, regions: &BTreeSet<RegionId>) -> BTreeMap<RegionId, u64> {
        let traffic = |region: &RegionId| self.input.organisation.region(region).map_or(0, |r| r.traffic);
        let all: u128 = regions.iter().map(|r| u128::from(traffic(r))).sum();
        let milli = u128::from(self.scenario.traffic.requests_per_second) * 1_000;
        let count = regions.len() as u128;
        let rate = |region: &RegionId| match all {
            // Nobody said who has how much.
            0 => milli / count.max(1),
            all => milli * u128::from(traffic(region)) / all,
        };
        regions.iter().map(|r| (r.clone(), u64::try_from(rate(r)).unwrap_or(u64::MAX))).collect()
    }
}

/// What happens next.
enum Next {
    /// The head of the queue.
    Queue,
    /// A timer, or the end of a bake.
    Look,
}

/// Whether nothing moves and nobody is suspected: then only bakes, windows and the queue decide when something changes.
fn is_calm(pipeline: &Pipeline) -> bool {
    pipeline.slots.values().all(|slot| slot.motion == Motion::Settled)
        && pipeline.holds.is_empty()
        && pipeline.releases.values().all(|r| !matches!(r.standing, Standing::Suspect { .. }))
}

/// When the next window opens that somebody waits for.
fn opens(pipeline: &Pipeline, now: Timestamp) -> Option<Timestamp> {
    let waiting = pipeline.steps.values().flat_map(|step| &step.waiting);
    let opens = waiting.filter_map(|reason| match reason {
        Reason::Window { opens } => *opens,
        _ => None,
    });
    opens.filter(|at| *at > now).min()
}

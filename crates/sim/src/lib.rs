//! The simulator, twice. For people who write pipelines: [`forecast`]. For those who write tidegate, the rest: the real core
//! and the real runtime on a virtual clock, a virtual store, virtual boxes, builds, tests, people and alarms, all from one
//! seed. Rules 1 to 10 of the design are checked after every event.
//!
//! A run has a safety phase with faults (crashes at any operation, lost, repeated and late results, late commands, deaf
//! engines, blind monitoring, full disks, conflicts, failing boxes, clocks that jump, people who meddle and who edit
//! definitions) and a liveness phase without, in which everything must converge. Whoever drives it needs only [`Sim::new`] and
//! [`Sim::run`]. A failure has its seed, the list of what happened before it, and the newest lines of the log; [`shrink`]
//! makes the list short and [`Sim::recorded`] runs it again.
//!
//! What must hold here: nothing depends on anything but the seed and the list (no clock, no hash order), and the world never
//! asks the server what is so.

mod audit;
pub mod campaign;
mod deeds;
mod fleet;
pub mod forecast;
mod people;
mod recording;
mod repo;
mod rng;
mod rules;
mod script;
mod server;
mod setup;
mod shrink;
mod store;
mod world;

use audit::Audit;
use fleet::Fleet;
use repo::Sources;
use rng::{Rng, mix};
use rules::RULES;
use script::Script;
use serde::{Deserialize, Serialize};
use server::Server;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use store::{MortalStore, VirtualClock, Wrong};
use tidegate_core::alarm::AlarmName;
use tidegate_core::ids::RunSpecDigest;
use tidegate_core::pipeline::Break;
use tidegate_core::scope::Scope;
use tidegate_core::units::Timestamp;
use world::Happening;

/// When virtual time begins: a Monday morning.
const START_MS: i64 = 1_767_600_000_000;

pub use recording::{Recording, RecordingError};
pub use script::{Choice, Deed};
pub use shrink::{Shrunk, shrink};

/// A deliberate break of a rule, to prove that the checker sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mutation {
    /// In what is decided.
    Core(Break),
    /// An effect is performed before the commit that orders it (rule 10).
    DispatchBeforeCommit,
    /// Engines take commands with an older fence than they have seen (rule 9).
    OldFencesTaken,
    /// The store loses facts and keeps the state (rule 10).
    FactsLost,
}

/// How a simulation is set up.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// With one the checker must find a violation.
    pub mutation: Option<Mutation>,
    /// Length of the phase with faults, in virtual seconds.
    pub safety_s: i64,
    /// Within how many virtual seconds without faults everything must have converged.
    pub liveness_s: i64,
    /// How many lines of the log a failure has.
    pub log_lines: usize,
}

impl Default for Options {
    fn default() -> Options {
        Options { mutation: None, safety_s: 1_800, liveness_s: 7_200, log_lines: 50 }
    }
}

/// What a run came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Happenings, after each of which all rules held.
    pub events: u64,
    /// Facts in the log.
    pub facts: u64,
    /// Releases that were made.
    pub releases: u64,
    /// Releases that were rejected.
    pub rejected: u64,
    /// Times that the server died.
    pub crashes: u64,
    /// Pages that were sent.
    pub pages: u64,
    /// Virtual seconds until everything had converged after the last fault; of many runs, of the slowest.
    pub converged_s: i64,
}

/// A rule that was broken, or something that did not converge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Repeats it.
    pub seed: u64,
    /// 1 to 10; 0 if something did not converge.
    pub rule: u8,
    /// What was seen.
    pub evidence: String,
    /// When, in milliseconds of virtual time since the run began.
    pub at_ms: i64,
    /// After how many happenings.
    pub events: u64,
    /// What the list of choices made happen before it.
    pub choices: Vec<Choice>,
    /// The newest lines of the log.
    pub log: Vec<String>,
}

impl Failure {
    /// The seed, the rule and what was seen, in one line.
    #[must_use]
    pub fn headline(&self) -> String {
        let what = if self.rule == 0 { "not converged".to_owned() } else { format!("rule {}", self.rule) };
        format!("seed {} after {} events: {what}: {}", self.seed, self.events, self.evidence)
    }
}

/// The end of the log, the list of what happened, and the headline.
impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in &self.log {
            writeln!(f, "{line}")?;
        }
        for choice in &self.choices {
            writeln!(f, "{choice}")?;
        }
        f.write_str(&self.headline())
    }
}

/// See the head of this file.
pub struct Sim {
    seed: u64,
    options: Options,
    /// Of a happening's own stream; see [`Script`] for what strikes.
    pub(crate) rng: Rng,
    pub(crate) script: Script,
    pub(crate) now: i64,
    /// How far the server's clock is ahead of the world's, in milliseconds.
    pub(crate) skew: i64,
    queue: BTreeMap<(i64, u64), Happening>,
    queued: u64,
    clock: Arc<VirtualClock>,
    pub(crate) store: Arc<MortalStore>,
    /// `None` while it is down.
    server: Option<Server>,
    lives: u64,
    /// How many states the server keeps in memory.
    cache: usize,
    pub(crate) faults: bool,
    pub(crate) fleet: Fleet,
    pub(crate) sources: Sources,
    pub(crate) audit: Audit,
    /// Alarms that fire for no reason of ours, until then.
    weather: BTreeMap<(Scope, AlarmName), i64>,
    /// Alarms that have fired since they were last asked for: metrics are retained.
    fired: BTreeSet<(Scope, AlarmName)>,
    /// From when until when monitoring has no data.
    pub(crate) blind: BTreeMap<Scope, Vec<(i64, i64)>>,
    /// Until when engines neither take commands nor tell anything.
    deaf_until: i64,
    /// Until when the server stands still.
    paused_until: i64,
    /// At which of its operations the next server dies.
    start_dies_after: Option<u32>,
    /// Since when neither the server nor the store nor monitoring nor an engine has been disturbed.
    undisturbed_since: i64,
    pub(crate) crash_changed_boxes: Option<String>,
    mended: BTreeSet<String>,
    /// RunSpecs that rule 4 has found in order.
    pub(crate) verified: RefCell<BTreeSet<RunSpecDigest>>,
    report: Report,
}

impl Sim {
    /// A world and a server that has just been set up.
    #[must_use]
    pub fn new(seed: u64, options: Options) -> Sim {
        Sim::with(seed, options, Script::of(seed, options.safety_s * 1_000))
    }

    /// The same with a list of choices that was recorded: nothing else happens.
    #[must_use]
    pub fn recorded(seed: u64, options: Options, choices: &[Choice]) -> Sim {
        Sim::with(seed, options, Script::recorded(seed, choices))
    }

    fn with(seed: u64, options: Options, script: Script) -> Sim {
        let mut rng = Rng::new(seed);
        let shape = rng.next();
        let wrong = match options.mutation {
            Some(Mutation::DispatchBeforeCommit) => Wrong::TellsEarly,
            Some(Mutation::FactsLost) => Wrong::LosesFacts,
            Some(Mutation::Core(_) | Mutation::OldFencesTaken) | None => Wrong::Nothing,
        };
        let takes_old_fences = options.mutation == Some(Mutation::OldFencesTaken);
        let clock = Arc::new(VirtualClock::default());
        clock.set(START_MS);
        let mut sim = Sim {
            seed,
            options,
            rng,
            script,
            now: START_MS,
            skew: 0,
            queue: BTreeMap::new(),
            queued: 0,
            clock,
            store: Arc::new(MortalStore::new(wrong)),
            server: None,
            lives: 0,
            // A few too little for all aggregates, or plenty.
            cache: if shape & 128 == 0 { 64 } else { 10 },
            faults: true,
            fleet: Fleet { takes_old_fences, ..Fleet::default() },
            sources: Sources::default(),
            audit: Audit::new(options.log_lines),
            weather: BTreeMap::new(),
            fired: BTreeSet::new(),
            blind: BTreeMap::new(),
            deaf_until: 0,
            paused_until: 0,
            start_dies_after: None,
            undisturbed_since: START_MS,
            crash_changed_boxes: None,
            mended: BTreeSet::new(),
            verified: RefCell::default(),
            report: Report::default(),
        };
        sim.start_server();
        sim.apply_definitions(shape);
        sim.begin();
        sim
    }

    /// Runs both phases.
    ///
    /// # Errors
    /// The first violation of a rule, or what did not converge.
    pub fn run(self) -> Result<Report, Box<Failure>> {
        self.run_until(i64::MAX)
    }

    /// Runs both phases as far as this, in milliseconds since the run began.
    fn run_until(mut self, end_ms: i64) -> Result<Report, Box<Failure>> {
        let end = end_ms.saturating_add(START_MS);
        let calm = self.now + self.options.safety_s * 1_000;
        while self.now < calm {
            self.one()?;
            if self.now > end {
                return Ok(self.report);
            }
        }
        self.end_faults();
        let from = self.now;
        let limit = from + self.options.liveness_s * 1_000;
        while let Some(why) = self.unsettled() {
            if self.now > limit {
                return Err(self.failure(0, why));
            }
            self.one()?;
            if self.now > end {
                return Ok(self.report);
            }
        }
        self.verify_everything()?;
        self.report.converged_s = (self.now - from) / 1_000;
        let releases = self.audit.pipelines().map(|(_, p)| p.newest().map_or(0, |(no, _)| no.0)).sum();
        self.report.releases = releases;
        self.report.rejected = self.audit.rejected();
        self.report.facts = self.audit.facts();
        Ok(self.report)
    }

    /// One happening, and all rules.
    fn one(&mut self) -> Result<(), Box<Failure>> {
        let next = self.queue.first_key_value().map(|((at, _), _)| *at);
        let deed_at = self.script.next_at().map(|at| START_MS + at);
        let (before, turns) = (self.audit.facts(), self.audit.turning_points);
        let in_world = match (deed_at, next) {
            (Some(deed), next) if next.is_none_or(|next| deed <= next) => {
                self.it_is(deed);
                if let Some(choice) = self.script.take() {
                    self.do_deed(choice);
                }
                true
            }
            _ => {
                let Some(((at, _), happening)) = self.queue.pop_first() else {
                    return Err(self.failure(0, "nothing happens any more".to_owned()));
                };
                self.it_is(at);
                let own = u64::try_from(self.now).unwrap_or(0).rotate_left(32) ^ happening.stream();
                self.rng = Rng::new(mix(self.seed ^ mix(own)));
                let world = matches!(
                    happening,
                    Happening::Fleet | Happening::Deliver { .. } | Happening::Dispatch { .. }
                );
                self.happen(happening);
                world
            }
        };
        self.report.events += 1;
        self.perform_early();
        let dead = self.server.is_some() && self.store.is_dead();
        if dead {
            self.crash();
        }
        self.audit.read(&self.store.inner, self.now);
        if self.audit.turning_points > turns {
            self.script.turning_point(self.audit.facts());
        }
        self.verify_claims();
        // Nothing has changed but the time, and the fleet's next step comes within a second.
        if !in_world && !dead && before == self.audit.facts() {
            return Ok(());
        }
        for (rule, check) in RULES {
            if let Err(why) = check(self) {
                return Err(self.failure(rule, why));
            }
        }
        Ok(())
    }

    fn failure(&self, rule: u8, evidence: String) -> Box<Failure> {
        let (log, choices) = (self.audit.lines.clone(), self.script.happened());
        let (at_ms, events) = (self.now - START_MS, self.report.events);
        Box::new(Failure { seed: self.seed, rule, evidence, at_ms, events, choices, log })
    }

    fn it_is(&mut self, at: i64) {
        self.now = self.now.max(at);
        self.clock.set(self.now + self.skew);
        self.script.at(self.now - START_MS);
    }

    /// The time by which the server decides: its clock's, but never before what is on record.
    pub(crate) fn server_now(&self) -> i64 {
        (self.now + self.skew).max(self.audit.newest)
    }

    /// When something that is on record as of then happened in the world, at the latest.
    pub(crate) fn in_world(&self, recorded: Timestamp) -> i64 {
        recorded.0 - self.skew
    }

    /// Since when nothing has kept the server from doing its work.
    pub(crate) fn working_since(&self) -> i64 {
        if self.server.is_some() { self.undisturbed_since } else { self.now }
    }

    /// Something disturbs the server until then.
    fn disturbed(&mut self, until: i64) {
        self.undisturbed_since = self.undisturbed_since.max(until);
    }

    fn at(&mut self, after_ms: i64, happening: Happening) {
        self.queued += 1;
        self.queue.insert((self.now + after_ms, self.queued), happening);
    }
}

//! The simulator, twice. For people who write pipelines: [`forecast`]. For those who write tidegate, the rest: the real core
//! and the real runtime on a virtual clock, a virtual store, virtual boxes, builds, tests, people and alarms, all from one
//! seed. Rules 1 to 10 of the design are checked after every event.
//!
//! A run has a safety phase with faults (crashes at any commit, lost and repeated results, late commands, deaf engines, blind
//! monitoring, full disks, conflicts, failing boxes) and a liveness phase without, in which everything must converge. Whoever
//! drives it needs only [`Sim::new`] and [`Sim::run`]; a failure prints its seed and the newest lines of the log.
//!
//! What must hold here: nothing depends on anything but the seed (no clock, no hash order), and the world never asks the
//! server what is so.

mod audit;
mod fleet;
pub mod forecast;
mod people;
mod repo;
mod rng;
mod rules;
mod server;
mod setup;
mod store;
mod world;

use audit::Audit;
use fleet::Fleet;
use repo::Sources;
use rng::Rng;
use rules::RULES;
use server::Server;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use store::{MortalStore, VirtualClock};
use tidegate_core::alarm::AlarmName;
use tidegate_core::ids::RunSpecDigest;
use tidegate_core::pipeline::Switches;
use tidegate_core::scope::Scope;
use world::Happening;

/// When virtual time begins: a Monday morning.
const START_MS: i64 = 1_767_600_000_000;

/// How a simulation is set up.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Breaks of the rules: with one of them the checker must find a violation.
    pub switches: Switches,
    /// Length of the phase with faults, in virtual seconds.
    pub safety_s: i64,
    /// Within how many virtual seconds without faults everything must have converged.
    pub liveness_s: i64,
    /// How many lines of the log a failure has.
    pub log_lines: usize,
}

impl Default for Options {
    fn default() -> Options {
        Options { switches: Switches::default(), safety_s: 1_800, liveness_s: 7_200, log_lines: 50 }
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
    /// Virtual seconds until everything had converged after the last fault.
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
    /// After how many happenings.
    pub events: u64,
    /// The newest lines of the log.
    pub log: Vec<String>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in &self.log {
            writeln!(f, "{line}")?;
        }
        let what = if self.rule == 0 { "not converged".to_owned() } else { format!("rule {}", self.rule) };
        write!(f, "seed {} after {} events: {what}: {}", self.seed, self.events, self.evidence)
    }
}

/// See the head of this file.
pub struct Sim {
    seed: u64,
    options: Options,
    pub(crate) rng: Rng,
    pub(crate) now: i64,
    queue: BTreeMap<(i64, u64), Happening>,
    queued: u64,
    clock: Arc<VirtualClock>,
    pub(crate) store: Arc<MortalStore>,
    /// `None` while it is down.
    server: Option<Server>,
    lives: u64,
    pub(crate) faults: bool,
    pub(crate) fleet: Fleet,
    pub(crate) sources: Sources,
    pub(crate) audit: Audit,
    /// Alarms that fire for no reason of ours, until then.
    weather: BTreeMap<(Scope, AlarmName), i64>,
    /// Alarms that have fired since they were last asked for: metrics are retained.
    fired: BTreeSet<(Scope, AlarmName)>,
    /// Until when monitoring has no data.
    blind_until: BTreeMap<Scope, i64>,
    /// Until when engines neither take commands nor tell anything.
    deaf_until: i64,
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
        let mut rng = Rng::new(seed);
        let shape = rng.next();
        let clock = Arc::new(VirtualClock::default());
        clock.set(START_MS);
        let mut sim = Sim {
            seed,
            options,
            rng,
            now: START_MS,
            queue: BTreeMap::new(),
            queued: 0,
            clock,
            store: Arc::new(MortalStore::default()),
            server: None,
            lives: 0,
            faults: true,
            fleet: Fleet { failures_per_mille: 5, ..Fleet::default() },
            sources: Sources::default(),
            audit: Audit::new(options.log_lines),
            weather: BTreeMap::new(),
            fired: BTreeSet::new(),
            blind_until: BTreeMap::new(),
            deaf_until: 0,
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
    pub fn run(mut self) -> Result<Report, Box<Failure>> {
        let calm = self.now + self.options.safety_s * 1_000;
        while self.now < calm {
            self.one()?;
        }
        self.end_faults();
        let from = self.now;
        let limit = from + self.options.liveness_s * 1_000;
        while let Some(why) = self.unsettled() {
            if self.now > limit {
                return Err(self.failure(0, why));
            }
            self.one()?;
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
        let Some(((at, _), happening)) = self.queue.pop_first() else {
            return Err(self.failure(0, "nothing happens any more".to_owned()));
        };
        self.now = self.now.max(at);
        self.clock.set(self.now);
        let before = self.audit.facts();
        let in_world =
            matches!(happening, Happening::Fleet | Happening::Deliver { .. } | Happening::Dispatch { .. });
        self.happen(happening);
        self.report.events += 1;
        let dead = self.server.is_some() && self.store.is_dead();
        if dead {
            self.crash();
        }
        self.audit.read(&self.store.inner);
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
        let log = self.audit.lines.clone();
        Box::new(Failure { seed: self.seed, rule, evidence, events: self.report.events, log })
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

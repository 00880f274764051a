//! Explores a definition before it is taken (X7): drives the real [`crate::aggregate::decide`] with it and checks the rules
//! ([`crate::invariants`]) after every event. What the static checks of [`crate::lint`] know by name is found there; what
//! they do not know shows here, with the events that lead to it.
//!
//! A release goes everywhere, a second one follows and a third close behind it. In every step one target lags behind all
//! others, which is the worst order for rule 1, and boxes become healthy one before the others, which is the worst for rule
//! 2. At every such moment the second release is also rejected, and once everything is held: from there the exploration
//! goes on until nothing moves any more, and then continues where it was. The earliest violation is found first.
//!
//! What is absent on purpose: failures of tidegate itself, of machines and of people, which do not depend on the definition
//! (the simulator has them), and fleets of more than [`BOXES_MAX`] boxes (the arithmetic of larger ones is that of
//! [`crate::rollout`], which has a property of its own).

mod engine;
mod path;
mod world;

use crate::decision::Actor;
use crate::definition::{OrganisationDef, PipelineDef};
use crate::ids::{ReleaseNo, TargetId};
use crate::invariants::Violation;
use crate::lint::{self, Finding};
use crate::pipeline::{PipelineEvent, Switches};
use world::World;

/// The most events of one exploration; 24 Regions with 76 AZs need less than half of it. What is larger is explored so far.
pub const EVENTS_MAX: usize = 20_000;
/// The most boxes of a target.
pub const BOXES_MAX: u32 = 6;
/// The most turns of a story: in each, time passes until a bake is over or somebody wants to look again.
const TURNS_MAX: usize = 2_000;
/// Turns after a rejection or under a hold in which nothing may start.
const TURNS_ASIDE: usize = 3;

/// How far an exploration went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Explored {
    /// How many events were decided.
    pub events: usize,
    /// At how many moments the second release was rejected as well.
    pub rejections: usize,
    /// Whether the releases came everywhere; otherwise something that is no rule stands in their way (a window that does not
    /// open), or there were too many events.
    pub everywhere: bool,
}

/// A violation and how it comes about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counterexample {
    /// The rule, of what, and what shows it.
    pub violation: Violation,
    /// What happens, in order; the last line leads to it.
    pub path: Vec<String>,
}

/// Findings in a pipeline's definition within its organisation: those of [`lint::pipeline`], and if there are none, that of
/// the exploration. Empty when it may be taken.
#[must_use]
pub fn pipeline(definition: &PipelineDef, organisation: &OrganisationDef) -> Vec<Finding> {
    let found = lint::pipeline(definition, organisation);
    if found.is_empty() { findings(definition, organisation) } else { found }
}

/// What the exploration of a definition finds, whatever static checks say of it.
#[must_use]
pub fn findings(definition: &PipelineDef, organisation: &OrganisationDef) -> Vec<Finding> {
    match explore(definition, organisation, Switches::default()) {
        Ok(_) => Vec::new(),
        Err(found) => {
            let path: Vec<String> = (1..).zip(&found.path).map(|(n, line)| format!("{n}. {line}")).collect();
            let rule = found.violation.rule.number();
            let message = format!("rule {rule} would not hold: {}. {}", path.join("; "), found.violation);
            vec![Finding::new(
                "TG150",
                "/stages",
                message,
                "lay the stages out so that this cannot come about",
            )]
        }
    }
}

/// Explores a definition; `switches` are breaks of the rules, for tests.
///
/// # Errors
/// The first violation, and how it comes about.
pub fn explore(
    definition: &PipelineDef,
    organisation: &OrganisationDef,
    switches: Switches,
) -> Result<Explored, Box<Counterexample>> {
    let Some(world) = World::new(definition, organisation, switches)? else {
        return Ok(Explored { events: 0, rejections: 0, everywhere: false });
    };
    let mut story = Story { world, rejections: 0, rejected_at: None };
    let everywhere = story.tell()?;
    Ok(Explored { events: story.world.events, rejections: story.rejections, everywhere })
}

struct Story {
    world: World,
    rejections: usize,
    /// What lagged behind when the second release was rejected last.
    rejected_at: Option<TargetId>,
}

const SECOND: ReleaseNo = ReleaseNo(2);
const THIRD: ReleaseNo = ReleaseNo(3);

impl Story {
    /// Whether all releases came everywhere.
    fn tell(&mut self) -> Result<bool, Box<Counterexample>> {
        self.world.push()?;
        if !self.until_everywhere(ReleaseNo(1))? {
            return Ok(false);
        }
        self.world.push()?;
        self.held()?;
        self.until_everywhere(THIRD)
    }

    /// Lets time pass until a release has passed every step; false if that does not come.
    fn until_everywhere(&mut self, release: ReleaseNo) -> Result<bool, Box<Counterexample>> {
        for _ in 0..TURNS_MAX {
            while self.world.events <= EVENTS_MAX
                && let Some(last) = self.world.last_to_move(release >= SECOND)
            {
                self.world.settle(Some(&last))?;
                self.reject(&last)?;
                self.world.settle_one(&last)?;
            }
            self.world.settle(None)?;
            if self.world.pipeline.everywhere() >= Some(release) {
                return Ok(true);
            }
            let first = self
                .world
                .pipeline
                .plan
                .steps()
                .next()
                .and_then(|(_, s)| self.world.pipeline.steps.get(&s.id));
            let close_behind = first.is_some_and(|s| s.done == Some(SECOND));
            if close_behind && self.world.pipeline.newest().is_some_and(|(newest, _)| newest == SECOND) {
                // It enters at once, so time must not pass before it has settled.
                self.world.push()?;
                continue;
            }
            if self.world.events > EVENTS_MAX || !self.world.pass_time()? {
                return Ok(false);
            }
        }
        Ok(false)
    }

    /// What if everything were held now.
    fn held(&mut self) -> Result<(), Box<Counterexample>> {
        let mut aside = self.world.clone();
        let reason = "what if".to_owned();
        let hold = PipelineEvent::HoldPlaced { by: Actor::Tidegate, reason, until: None, stage: None };
        aside.path.say("everything is held");
        aside.tell(&hold)?;
        self.aside(aside)
    }

    /// What if the second release were rejected now, while this target lags behind.
    fn reject(&mut self, last: &TargetId) -> Result<(), Box<Counterexample>> {
        let world = &self.world;
        let under_way = world.pipeline.slots.get(last).is_some_and(|slot| slot.runs(SECOND));
        if !under_way || world.events > EVENTS_MAX || self.rejected_at.as_ref() == Some(last) {
            return Ok(());
        }
        self.rejections += 1;
        self.rejected_at = Some(last.clone());
        let mut aside = world.clone();
        if aside.pipeline.newest().is_some_and(|(newest, _)| newest == SECOND) {
            aside.push()?;
        }
        let (by, reason) = (Actor::Tidegate, "what if".to_owned());
        aside.tell(&PipelineEvent::RollbackOrdered { release: SECOND, by, reason, everywhere: false })?;
        self.aside(aside)
    }

    /// Goes on there for a while; only what it cost stays.
    fn aside(&mut self, mut aside: World) -> Result<(), Box<Counterexample>> {
        for _ in 0..TURNS_ASIDE {
            aside.settle(None)?;
            if !aside.pass_time()? {
                break;
            }
        }
        self.world.events = aside.events;
        Ok(())
    }
}

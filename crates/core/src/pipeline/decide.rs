//! What follows from an event. First what the event itself says, then one pass of [`super::advance`], which looks at
//! everything again: signals are no hints, so a lost one costs time and never an outcome.

use super::advance::advance;
use super::gates::Surroundings;
use super::rollback::is_good;
use super::{Build, Life, Pipeline, PipelineEvent, PipelineFact, Retirement, Switches, Work};
use crate::Shared;
use crate::alarm::AlarmName;
use crate::decision::{AggregateId, Decision, EffectId, Fact, Illegal};
use crate::definition::{Mode, PipelineDef};
use crate::ids::{PipelineId, ReleaseNo, TargetId, TeamId};
use crate::lease::{Lease, LeaseFact, LeaseId};
use crate::lint;
use crate::organisation::Organisation;
use crate::plan::Plan;
use crate::team::{Team, TeamFact};
use crate::units::Timestamp;
use crate::window::WindowState;
use std::borrow::Cow;
use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// States of other aggregates that a decision relies on; the runtime checks at commit that they are still the same.
#[derive(Debug, Clone, Default)]
pub struct Snapshots {
    /// The team that owns the pipeline's service.
    pub team: Arc<Team>,
    /// The organisation.
    pub organisation: Arc<Organisation>,
    /// The leases of the pipeline's service; those that are free may be left out.
    pub leases: BTreeMap<LeaseId, Lease>,
    /// Breaks of the rules, for tests.
    pub switches: Switches,
}

/// A decision in the making: working copies that every fact changes at once.
pub(super) struct Deciding<'a> {
    pub(super) id: &'a PipelineId,
    pub(super) p: Pipeline,
    /// Copied when a fact changes it.
    pub(super) team: Cow<'a, Team>,
    pub(super) organisation: &'a Organisation,
    /// As the team.
    pub(super) leases: Cow<'a, BTreeMap<LeaseId, Lease>>,
    /// The team's window, if it is closed now; when somebody has looked.
    window: OnceCell<Option<WindowState>>,
    /// The service's composite alarms, when somebody has asked for them.
    pub(super) own_alarm: OnceCell<AlarmName>,
    pub(super) one_box_alarm: OnceCell<AlarmName>,
    pub(super) now: Timestamp,
    pub(super) switches: Switches,
    pub(super) out: Decision,
}

/// Decides on an event.
///
/// # Errors
/// The event does not fit the state.
pub(crate) fn decide(
    id: &PipelineId,
    state: Pipeline,
    event: &PipelineEvent,
    now: Timestamp,
    snapshots: &Snapshots,
) -> Result<(Pipeline, Decision), Illegal> {
    let mut d = Deciding {
        id,
        p: state,
        team: Cow::Borrowed(&snapshots.team),
        organisation: &snapshots.organisation,
        leases: Cow::Borrowed(&snapshots.leases),
        window: OnceCell::new(),
        own_alarm: OnceCell::new(),
        one_box_alarm: OnceCell::new(),
        now,
        switches: snapshots.switches,
        out: Decision::default(),
    };
    if d.p.definition.is_none() && !matches!(event, PipelineEvent::Applied { .. }) {
        return Err(Illegal::new(format!("there is no pipeline '{id}'")));
    }
    if let PipelineEvent::Resumed { absent } = event {
        // Nothing else is decided with it: it is recorded on a full disk too. What is retired may yet take something back.
        d.resumed(*absent);
        d.look_again(now);
        return Ok((d.p, d.out));
    }
    d.take(event)?;
    advance(&mut d);
    Ok((d.p, d.out))
}

impl Deciding<'_> {
    /// Records a fact of this pipeline.
    pub(super) fn fact(&mut self, fact: PipelineFact) {
        let fact = self.as_recorded(fact);
        self.p.apply(&fact);
        self.out.facts.push((AggregateId::Pipeline(self.id.clone()), Fact::Pipeline(fact)));
    }

    /// Records a fact of a lease.
    pub(super) fn lease(&mut self, id: LeaseId, fact: LeaseFact) {
        self.leases.to_mut().entry(id.clone()).or_default().apply(&fact);
        // Others may have waited for it, or have lost it.
        self.wake_others();
        self.out.facts.push((AggregateId::Lease(id), Fact::Lease(fact)));
    }

    /// Records a fact of the team.
    pub(super) fn team_fact(&mut self, fact: TeamFact) {
        let Some(team) = self.p.team.clone() else { return };
        self.team.to_mut().apply(&fact);
        self.out.facts.push((AggregateId::Team(team), Fact::Team(fact)));
    }

    pub(super) fn wake_others(&mut self) {
        let others = self.team.pipelines.iter().filter(|p| *p != self.id).cloned().map(AggregateId::Pipeline);
        for other in others {
            if !self.out.wake.contains(&other) {
                self.out.wake.push(other);
            }
        }
    }

    /// Asks to be told the time at the latest then.
    pub(super) fn look_again(&mut self, at: Timestamp) {
        let at = at.max(Timestamp(self.now.0 + 1));
        self.out.due = Some(self.out.due.map_or(at, |due| due.min(at)));
    }

    pub(super) fn around(&self) -> Surroundings<'_> {
        Surroundings {
            id: self.id,
            team: &self.team,
            organisation: self.organisation,
            leases: &self.leases,
            window: &self.window,
            now: self.now,
            switches: self.switches,
        }
    }

    fn take(&mut self, event: &PipelineEvent) -> Result<(), Illegal> {
        match event {
            PipelineEvent::Applied { definition } => self.applied(definition),
            // What engines have is not what this is about now.
            PipelineEvent::SlotsObserved { .. } if self.p.observes() => Ok(()),
            PipelineEvent::SlotsObserved { observations } => {
                observations.iter().for_each(|observation| self.slot_observed(observation));
                Ok(())
            }
            PipelineEvent::Tick
            | PipelineEvent::TurnAwaited { .. }
            | PipelineEvent::SourceObserved { .. }
            | PipelineEvent::SourceFailed { .. }
            | PipelineEvent::ForgeTold { .. }
            | PipelineEvent::BuildEnded { .. }
            | PipelineEvent::TestsEnded { .. }
            | PipelineEvent::Watched { .. } => match self.p.life {
                Life::Active => self.told(event),
                // What comes late to a retired pipeline is dropped.
                Life::Retiring(_) | Life::Retired(_) => Ok(()),
            },
            order => match self.p.life.retirement() {
                None => self.ordered(order),
                Some(Retirement { by, reason, since }) => {
                    let text = format!("{} was retired by {by} at {since}: {reason}", self.id);
                    Err(Illegal::new(format!("{text}; applying its definition revives it")))
                }
            },
        }
    }

    /// What the world tells of itself.
    fn told(&mut self, event: &PipelineEvent) -> Result<(), Illegal> {
        match event {
            PipelineEvent::SourceObserved { source, observation } => {
                return self.source_observed(source, observation);
            }
            PipelineEvent::ForgeTold { source, told, asked } => {
                return self.forge_told(source, told, asked.as_deref());
            }
            PipelineEvent::SourceFailed { source, why } => return self.source_failed(source, why),
            PipelineEvent::TurnAwaited { effect } => self.turn_awaited(effect),
            PipelineEvent::BuildEnded { effect, result } => self.build_ended(effect, result),
            PipelineEvent::TestsEnded { effect, result } => self.tests_ended(effect, result),
            PipelineEvent::Watched { grants } => self.watched(grants),
            _ => self.follow_the_region_list(),
        }
        Ok(())
    }

    fn applied(&mut self, definition: &PipelineDef) -> Result<(), Illegal> {
        let Some(organisation) = &self.organisation.definition else {
            return Err(Illegal::new("no organisation has been applied yet"));
        };
        let Some(service) = organisation.service(&definition.service) else {
            return Err(Illegal::new(format!("there is no service '{}'", definition.service)));
        };
        if let Some(found) = self.p.definition.as_deref().and_then(|known| lint::successor(known, definition))
        {
            return Err(Illegal::new(format!("{}; {}", found.message, found.hint)));
        }
        self.may_observe(definition)?;
        let (plan, team) = (crate::plan::plan(definition, organisation), service.team.clone());
        if !self.p.life.is_active() {
            self.revive();
        }
        if definition.mode == Mode::Act {
            self.end_observing();
        }
        if self.p.definition.as_deref() != Some(definition) || *self.p.plan != plan {
            self.define(definition.clone().into(), team, plan);
        }
        self.begin_to_observe();
        if !self.team.pipelines.contains(self.id) {
            self.team_fact(TeamFact::PipelineAdded { pipeline: self.id.clone() });
        }
        Ok(())
    }

    /// Whatever may yet be deployed, or returned to, can run in environments that are new; `also` may come again.
    pub(super) fn complete_run_specs(&mut self, also: Option<ReleaseNo>) {
        let Some(definition) = self.p.definition.clone() else { return };
        let slots =
            self.p.slots.values().chain(self.p.reality.iter().flat_map(|reality| reality.slots.values()));
        let in_slots = slots.flat_map(|slot| slot.history.iter().copied().chain(slot.running()));
        let steps =
            self.p.steps.values().chain(self.p.reality.iter().flat_map(|reality| reality.steps.values()));
        let in_steps = steps.flat_map(|step| {
            step.candidate
                .into_iter()
                .chain(step.done)
                .chain(step.work.under_way().map(|(release, _)| release))
        });
        let newest = self.p.newest().map(|(no, _)| no);
        let releases: BTreeSet<ReleaseNo> = in_slots.chain(in_steps).chain(newest).chain(also).collect();
        for release in releases {
            let Some(Build::Built { package, run_specs, .. }) =
                self.p.releases.get(&release).map(|r| &r.build)
            else {
                continue;
            };
            let (package, known) = (package.clone(), run_specs.clone());
            let run_specs = self.make_run_specs(&definition, &package, &known);
            if !run_specs.is_empty() {
                self.fact(PipelineFact::RunSpecsMade { release, run_specs });
            }
        }
    }

    fn define(&mut self, definition: Shared<PipelineDef>, team: TeamId, plan: Plan) {
        let tests = |p: &Pipeline| -> BTreeSet<EffectId> {
            let running = p.steps.values().filter_map(|state| match &state.work {
                Work::Testing { effect, .. } => Some(effect.clone()),
                _ => None,
            });
            running.collect()
        };
        let before = tests(&self.p);
        let left_alone: Vec<TargetId> =
            self.p.slots.iter().filter(|(_, slot)| slot.detached).map(|(id, _)| id.clone()).collect();
        self.fact(PipelineFact::Defined { definition, team, plan: plan.into() });
        self.out.cancelled.extend(before.difference(&tests(&self.p)).cloned());
        self.complete_run_specs(None);
        // What was rejected while nobody looked after a target is taken back when the target is the plan's again.
        for target in left_alone {
            let current =
                self.p.slots.get(&target).filter(|slot| !slot.detached).and_then(|slot| slot.current());
            if current.is_some_and(|r| !is_good(&self.p, r) && self.p.unfinished(&target, r)) {
                self.return_slot(&target);
            }
        }
    }

    /// A Region that was added to the central list comes into every pipeline (C2).
    fn follow_the_region_list(&mut self) {
        let (Some(organisation), Some(definition)) =
            (&self.organisation.definition, self.p.definition.clone())
        else {
            return;
        };
        if self.p.plan.is_of(&definition, organisation) {
            return;
        }
        let Some(team) = organisation.service(&definition.service).map(|s| s.team.clone()) else { return };
        let plan = crate::plan::plan(&definition, organisation).of(&definition, organisation);
        if *self.p.plan != plan || self.p.team.as_ref() != Some(&team) {
            self.define(definition, team, plan);
        } else {
            self.p.plan = plan.into();
        }
    }
}

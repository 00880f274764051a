//! What must be open before a release enters a step. Each gate answers Open or Closed with reasons, and those reasons are
//! what the CLI, the API and the log show. Rollback takes none of this (X1): see [`super::rollback`].

use super::{Break, Capacity, Hold, Motion, Override, Pipeline, Standing, Switches, Work};
use crate::alarm::AlarmName;
use crate::alarm::high_severity_name;
use crate::decision::Actor;
use crate::ids::{CommitId, PipelineId, ReleaseNo, Role, TargetId};
use crate::lease::{Lease, LeaseId};
use crate::organisation::Organisation;
use crate::plan::{Stage, Step, StepId, Target};
use crate::scope::Scope;
use crate::team::{Team, aggregate_name, one_box_name};
use crate::units::{Span, Timestamp};
use crate::window::WindowState;
use serde::{Deserialize, Serialize};
use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// A gate's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Gate {
    /// The release may enter.
    Open,
    /// It may not, for all of these reasons.
    Closed(Vec<Reason>),
}

/// Something that a person may override (W3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Blocker {
    /// The team's time window.
    Window,
    /// The team's aggregate alarm.
    AggregateAlarm,
    /// The organisation's alarms.
    OrganisationAlarm,
    /// Holds.
    Hold,
}

/// Why a release may not enter a step yet.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Reason {
    /// Another release is in the step.
    StepBusy {
        /// Which.
        release: ReleaseNo,
        /// What it does there.
        phase: String,
    },
    /// It was taken back from the step before and has to pass there again.
    NotPassed {
        /// The step before.
        step: StepId,
    },
    /// A target of the step has not come to rest yet.
    Moving {
        /// Which.
        target: TargetId,
    },
    /// It is being deployed in another step; a release deploys in one wave at a time.
    DeploysElsewhere {
        /// Where.
        target: TargetId,
    },
    /// A person leaves the Region out, and no other Region goes through the step.
    Skipped {
        /// The skip's number.
        skip: u64,
        /// Where.
        scope: Scope,
        /// Whose it is.
        by: Actor,
        /// Why.
        reason: String,
    },
    /// The Region has not come as far with this release, and no other Region goes through the step.
    RegionBehind {
        /// Where.
        scope: Scope,
    },
    /// The release was rejected.
    Rejected {
        /// Why.
        cause: String,
    },
    /// It contains changes of a rejected release, without a revert or a fix.
    Tainted {
        /// The rejected release.
        rejected: ReleaseNo,
        /// Its changes that are still in.
        commits: Vec<CommitId>,
    },
    /// It was rolled back as a suspect, and the alarm has not been quiet for long enough.
    SuspectPause {
        /// Where.
        scope: Scope,
        /// How long it has to be quiet.
        quiet_for: Span,
    },
    /// Another pipeline's suspect is on its way back.
    SuspectTurn {
        /// Whose.
        pipeline: PipelineId,
    },
    /// Outside the window.
    Window {
        /// When it opens; `None` if it does not within a year.
        opens: Option<Timestamp>,
    },
    /// The team's aggregate alarm fires.
    AggregateAlarm {
        /// Where.
        scope: Scope,
        /// The metric alarms beneath it, and those from outside.
        firing: Vec<AlarmName>,
        /// Alarms from outside beneath it that fired last, and of which nobody has said that they are over.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        unheard: Vec<AlarmName>,
    },
    /// An alarm of the organisation is raised.
    OrganisationAlarm {
        /// Which.
        alarm: AlarmName,
        /// By whom.
        by: Actor,
        /// Why.
        reason: String,
    },
    /// Somebody deploys or rolls back there.
    LeaseHeld {
        /// The lease.
        lease: String,
        /// Who and what.
        holder: String,
    },
    /// Another AZ of the Region has too few healthy boxes to carry the load.
    Capacity {
        /// Which target.
        target: TargetId,
        /// Its healthy boxes.
        healthy: u32,
        /// How many there must be.
        minimum: u32,
    },
    /// A person holds it.
    Hold {
        /// The hold's number.
        hold: u64,
        /// Whose it is.
        by: Actor,
        /// Why.
        reason: String,
    },
}

impl Reason {
    /// The blocker that it is, if a person may override it.
    #[must_use]
    pub fn blocker(&self) -> Option<Blocker> {
        match self {
            Reason::Window { .. } => Some(Blocker::Window),
            Reason::AggregateAlarm { .. } => Some(Blocker::AggregateAlarm),
            Reason::OrganisationAlarm { .. } => Some(Blocker::OrganisationAlarm),
            Reason::Hold { .. } => Some(Blocker::Hold),
            Reason::StepBusy { .. }
            | Reason::NotPassed { .. }
            | Reason::Moving { .. }
            | Reason::DeploysElsewhere { .. }
            | Reason::Skipped { .. }
            | Reason::RegionBehind { .. }
            | Reason::Rejected { .. }
            | Reason::Tainted { .. }
            | Reason::SuspectPause { .. }
            | Reason::SuspectTurn { .. }
            | Reason::LeaseHeld { .. }
            | Reason::Capacity { .. } => None,
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::StepBusy { release, phase } => write!(f, "{release} is {phase} here"),
            Reason::NotPassed { step } => {
                write!(f, "it was taken back from {step} and has to pass there again")
            }
            Reason::Moving { target } => write!(f, "{target} has not come to rest yet"),
            Reason::DeploysElsewhere { target } => {
                write!(f, "it is being deployed to {target}, and a release deploys in one wave at a time")
            }
            Reason::Skipped { skip, scope, by, reason } => {
                write!(f, "{scope} is skipped by {by}: {reason} (skip {skip}), and no other Region goes on")
            }
            Reason::RegionBehind { scope } => {
                write!(f, "{scope} has not come as far with this release, and no other Region goes on")
            }
            Reason::Rejected { cause } => write!(f, "it was rejected: {cause}"),
            Reason::Tainted { rejected, commits } => {
                let short: Vec<&str> = commits.iter().map(CommitId::short).collect();
                write!(
                    f,
                    "it still contains {} of {rejected}, which was rejected; revert it, fix it with a 'Fixes:' trailer, or \
                     clear it by 'retry' with a reason",
                    short.join(", ")
                )
            }
            Reason::SuspectPause { scope, quiet_for } => {
                write!(
                    f,
                    "it was rolled back as a suspect; waiting for the alarm in {scope} to be quiet for {quiet_for}"
                )
            }
            Reason::SuspectTurn { pipeline } => {
                write!(f, "it was rolled back as a suspect; {pipeline} comes back first")
            }
            Reason::Window { opens: Some(opens) } => {
                write!(f, "outside the deployment window, which opens {opens}")
            }
            Reason::Window { opens: None } => {
                f.write_str("outside the deployment window, which does not open within a year")
            }
            Reason::AggregateAlarm { scope, firing, unheard } => {
                let list =
                    |names: &[AlarmName]| names.iter().map(AlarmName::as_str).collect::<Vec<_>>().join(", ");
                if !firing.is_empty() {
                    write!(f, "the team's aggregate alarm fires in {scope} ({})", list(firing))?;
                }
                if !unheard.is_empty() {
                    let and = if firing.is_empty() { "" } else { ", and " };
                    let names = list(unheard);
                    write!(
                        f,
                        "{and}nobody outside has said that {names} is over in {scope}, which fired last"
                    )?;
                }
                Ok(())
            }
            Reason::OrganisationAlarm { alarm, by, reason } => {
                write!(f, "the organisation's alarm {alarm} is raised by {by}: {reason}")
            }
            Reason::LeaseHeld { lease, holder } => write!(f, "{lease} is in use: {holder}"),
            Reason::Capacity { target, healthy, minimum } => {
                write!(f, "{target} has {healthy} healthy boxes and needs {minimum}")
            }
            Reason::Hold { hold, by, reason } => write!(f, "hold {hold} by {by}: {reason}"),
        }
    }
}

/// What the gates look at beyond the pipeline itself.
pub(super) struct Surroundings<'a> {
    pub(super) id: &'a PipelineId,
    pub(super) team: &'a Team,
    pub(super) organisation: &'a Organisation,
    pub(super) leases: &'a BTreeMap<LeaseId, Lease>,
    /// The team's window, if it is closed now; when somebody has looked.
    pub(super) window: &'a OnceCell<Option<WindowState>>,
    pub(super) now: Timestamp,
    pub(super) switches: Switches,
}

/// Whether a release may enter a step now; `before` is the step before it.
pub(super) fn check(
    pipeline: &Pipeline,
    stage: &Stage,
    step: &Step,
    before: Option<&Step>,
    release: ReleaseNo,
    around: &Surroundings<'_>,
) -> Gate {
    let mut reasons = Vec::new();
    let movers = pipeline.movers(stage, step, release);
    order(pipeline, step, before, release, around, &mut reasons);
    reasons.extend(pipeline.nowhere(stage, step, release, &movers));
    guilt(pipeline, stage, release, around, &mut reasons);
    if reasons.is_empty() {
        window(stage, around, &mut reasons);
        alarms(pipeline, stage, step, release, &movers, around, &mut reasons);
        if !around.switches.has(Break::HoldsIgnored) {
            holds(pipeline, stage, around.now, &mut reasons);
        }
        if !around.switches.has(Break::NoLease) {
            leases(pipeline, &movers, around, &mut reasons);
        }
        capacity(pipeline, &movers, &mut reasons);
    }
    let open = overridden(pipeline, step, release, around.now);
    reasons.retain(|r| r.blocker().is_none_or(|b| !open.contains(&b)));
    if reasons.is_empty() { Gate::Open } else { Gate::Closed(reasons) }
}

/// The step is free, and what waits before it is still good at the step before.
fn order(
    pipeline: &Pipeline,
    step: &Step,
    before: Option<&Step>,
    release: ReleaseNo,
    around: &Surroundings<'_>,
    reasons: &mut Vec<Reason>,
) {
    let Some(state) = pipeline.steps.get(&step.id) else { return };
    let before = before.map(|before| &before.id);
    let taken_back = |s: &&StepId| pipeline.steps.get(*s).is_some_and(|s| s.done.is_none_or(|d| d < release));
    let rejected =
        pipeline.releases.get(&release).is_some_and(|r| matches!(r.standing, Standing::Rejected { .. }));
    let skipped = around.switches.has(Break::StepNotPassed);
    if let Some(step) = before.filter(taken_back).filter(|_| !rejected && !skipped) {
        reasons.push(Reason::NotPassed { step: step.clone() });
    }
    match &state.work {
        Work::Free | Work::Done { .. } | Work::Recalled { .. } | Work::RolledBack { .. } => {}
        Work::Deploying { release, .. }
        | Work::Testing { release, .. }
        | Work::Baking { release, .. }
        | Work::RollingBack { release, .. } => {
            reasons.push(Reason::StepBusy { release: *release, phase: state.work.phase().to_owned() });
            return;
        }
    }
    let moves = |target: &&Target| {
        let motion = pipeline.slots.get(&target.id).map(|slot| &slot.motion);
        matches!(motion, Some(Motion::Forward { .. } | Motion::Back { .. }))
    };
    if let Some(target) = step.targets.iter().find(moves) {
        reasons.push(Reason::Moving { target: target.id.clone() });
    }
    let deploys =
        |motion: &Motion| matches!(motion, Motion::Forward { release: other, .. } if *other == release);
    let own = |target: &TargetId| step.targets.iter().any(|t| &t.id == target);
    if let Some((target, _)) = pipeline.slots.iter().find(|(id, slot)| deploys(&slot.motion) && !own(id)) {
        reasons.push(Reason::DeploysElsewhere { target: target.clone() });
    }
}

/// Rejected, tainted, or suspect and not yet its turn (X4).
fn guilt(
    pipeline: &Pipeline,
    stage: &Stage,
    release: ReleaseNo,
    around: &Surroundings<'_>,
    reasons: &mut Vec<Reason>,
) {
    let Some(this) = pipeline.releases.get(&release) else { return };
    match &this.standing {
        Standing::Good => {}
        Standing::Rejected { cause, .. } => reasons.push(Reason::Rejected { cause: cause.to_string() }),
        Standing::Suspect { scopes, .. } => {
            let bake = stage.steps.first().map_or(Span::ZERO, |s| s.bake);
            for scope in scopes {
                let quiet = around.team.aggregate_quiet_since(scope);
                if quiet.is_none_or(|since| around.now.since(since) < bake) {
                    reasons.push(Reason::SuspectPause { scope: scope.clone(), quiet_for: bake });
                }
            }
            if let Some(other) = around.team.suspect_turn.as_ref().filter(|p| *p != around.id) {
                reasons.push(Reason::SuspectTurn { pipeline: other.clone() });
            }
        }
    }
    for (rejected, commits) in super::rollback::tainted(pipeline, release) {
        if rejected != release && !around.switches.has(Break::TaintLetIn) {
            reasons.push(Reason::Tainted { rejected, commits });
        }
    }
}

fn window(stage: &Stage, around: &Surroundings<'_>, reasons: &mut Vec<Reason>) {
    let Some(team) = around.team.definition.as_ref().filter(|_| stage.production) else { return };
    let closed = around.window.get_or_init(|| team.windows.closed(around.now));
    if let Some(WindowState::Closed { opens, .. }) = closed {
        reasons.push(Reason::Window { opens: *opens });
    }
}

/// The aggregate alarm in every Region of the step and in every Region of the environment that runs the release already
/// (W1), and the organisation's alarms (W2).
fn alarms(
    pipeline: &Pipeline,
    stage: &Stage,
    step: &Step,
    release: ReleaseNo,
    movers: &[&Target],
    around: &Surroundings<'_>,
    reasons: &mut Vec<Reason>,
) {
    let (firing, unheard) = (around.team.firing(), around.team.unheard());
    let elsewhere =
        pipeline.slots.iter().filter(|(id, slot)| id.environment == stage.environment && slot.runs(release));
    let looked_at = movers.iter().map(|target| &target.id).chain(elsewhere.map(|(id, _)| id));
    let speaks = |scope: &Scope| firing.contains(scope) || unheard.contains(scope);
    let scopes: BTreeSet<Scope> = match firing.is_empty() && unheard.is_empty() {
        true => BTreeSet::new(),
        false => looked_at.map(Scope::of).filter(speaks).collect(),
    };
    // What would roll the release back at once must not fire when it enters.
    let mut names = vec![aggregate_name()];
    if let Some(definition) = &pipeline.definition {
        names.push(high_severity_name(&definition.service));
        if step.role == Role::OneBox {
            names.push(one_box_name(&definition.service));
        }
    }
    for scope in scopes {
        let (mut firing, mut unheard) = (BTreeSet::new(), BTreeSet::new());
        for name in &names {
            let view = around.team.view(&scope, name, &BTreeSet::new());
            unheard.extend(view.blind.into_iter().filter(|alarm| around.team.is_unheard(&scope, alarm)));
            firing.extend(view.firing.into_iter().filter(|_| view.in_alarm));
        }
        if !firing.is_empty() || !unheard.is_empty() {
            let (firing, unheard) = (firing.into_iter().collect(), unheard.into_iter().collect());
            reasons.push(Reason::AggregateAlarm { scope, firing, unheard });
        }
    }
    for (alarm, raised) in &around.organisation.alarms {
        let (alarm, by, reason) = (alarm.clone(), raised.by.clone(), raised.reason.clone());
        reasons.push(Reason::OrganisationAlarm { alarm, by, reason });
    }
}

fn holds(pipeline: &Pipeline, stage: &Stage, now: Timestamp, reasons: &mut Vec<Reason>) {
    let stands = |hold: &Hold| {
        hold.until.is_none_or(|until| until > now) && hold.stage.as_ref().is_none_or(|s| s == &stage.id)
    };
    for (number, hold) in pipeline.holds.iter().filter(|(_, hold)| stands(hold)) {
        let (by, reason) = (hold.by.clone(), hold.reason.clone());
        reasons.push(Reason::Hold { hold: *number, by, reason });
    }
}

fn leases(pipeline: &Pipeline, movers: &[&Target], around: &Surroundings<'_>, reasons: &mut Vec<Reason>) {
    for id in super::orders::leases_of(pipeline, movers) {
        let holder = match around.leases.get(&id) {
            None | Some(Lease::Free) => continue,
            Some(Lease::Deploying { pipeline, step }) => format!("{pipeline} deploys {step}"),
            Some(Lease::RollingBack { pipelines, interrupted }) => {
                let names: Vec<&str> = pipelines.iter().map(PipelineId::as_str).collect();
                let next = interrupted.as_ref().map(|i| format!(", then {} deploys {}", i.pipeline, i.step));
                format!("{} rolls back{}", names.join(", "), next.unwrap_or_default())
            }
        };
        reasons.push(Reason::LeaseHeld { lease: id.to_string(), holder });
    }
}

/// The other AZs of the step's Regions must be able to carry the load (P6).
fn capacity(pipeline: &Pipeline, movers: &[&Target], reasons: &mut Vec<Reason>) {
    for (id, slot) in pipeline.slots.iter().filter(|(id, _)| id.role == Role::Main) {
        let Capacity::Short { healthy, minimum } = slot.capacity else { continue };
        let beside = |t: &&Target| t.id.region == id.region && t.id.environment == id.environment;
        if movers.iter().all(|t| &t.id != id) && movers.iter().any(beside) {
            reasons.push(Reason::Capacity { target: id.clone(), healthy, minimum });
        }
    }
}

/// The blockers that people have opened for this release at this step.
pub(super) fn overridden(
    pipeline: &Pipeline,
    step: &Step,
    release: ReleaseNo,
    now: Timestamp,
) -> BTreeSet<Blocker> {
    let applies = |o: &&Override| {
        o.release == release && o.expires > now && (o.steps.is_empty() || o.steps.contains(&step.id))
    };
    pipeline.overrides.values().filter(applies).flat_map(|o| o.blockers.iter().copied()).collect()
}

/// The earliest time at which one of these reasons can end without an event.
pub(super) fn looks_again(pipeline: &Pipeline, reasons: &[Reason], team: &Team) -> Option<Timestamp> {
    let at = |reason: &Reason| match reason {
        Reason::Window { opens } => *opens,
        Reason::Hold { hold, .. } => pipeline.holds.get(hold).and_then(|h| h.until),
        Reason::SuspectPause { scope, quiet_for } => {
            team.aggregate_quiet_since(scope).map(|t| t + *quiet_for)
        }
        Reason::StepBusy { .. }
        | Reason::NotPassed { .. }
        | Reason::Moving { .. }
        | Reason::DeploysElsewhere { .. }
        | Reason::Skipped { .. }
        | Reason::RegionBehind { .. }
        | Reason::Rejected { .. }
        | Reason::Tainted { .. }
        | Reason::SuspectTurn { .. }
        | Reason::AggregateAlarm { .. }
        | Reason::OrganisationAlarm { .. }
        | Reason::LeaseHeld { .. }
        | Reason::Capacity { .. } => None,
    };
    reasons.iter().filter_map(at).min()
}

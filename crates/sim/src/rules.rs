//! Rules 1 to 10 of the design, each checked after every event on the folded log and on the virtual world. What the states
//! alone show is checked by `tidegate_core::invariants`; here is what needs the world's own knowledge.

use crate::Sim;
use crate::audit::Claim;
use std::collections::{BTreeMap, BTreeSet};
use tidegate_core::alarm::{AlarmState, high_severity_name};
use tidegate_core::ids::Role;
use tidegate_core::invariants::{self, Violation};
use tidegate_core::lease::{Lease, LeaseId};
use tidegate_core::pipeline::Pipeline;
use tidegate_core::scope::Scope;
use tidegate_core::team::one_box_name;
use tidegate_core::units::Timestamp;
use tidegate_store::Store;

/// How long a server that is up, on a store that works, may take from an alarm to the rollback.
const ROLLBACK_WITHIN_MS: i64 = 20_000;
/// How long after its deadline something awaited may stand while the server is up.
const DEADLINE_GRACE_MS: i64 = 20_000;
/// How much later than the present somebody may have been woken.
const WAKE_GRACE_MS: i64 = 100;

/// A rule with its number.
pub(crate) type Rule = (u8, fn(&Sim) -> Result<(), String>);

/// All of them, first the one without which the log says nothing about the others.
pub(crate) const RULES: [Rule; 10] = [
    (10, rule_10),
    (1, rule_1),
    (2, rule_2),
    (3, rule_3),
    (4, rule_4),
    (5, rule_5),
    (6, rule_6),
    (7, rule_7),
    (8, rule_8),
    (9, rule_9),
];

fn said(found: Result<(), Violation>) -> Result<(), String> {
    found.map_err(|violation| violation.to_string())
}

fn noted(sim: &Sim, rule: u8) -> Result<(), String> {
    sim.audit.found.iter().find(|(number, _)| *number == rule).map_or(Ok(()), |(_, why)| Err(why.clone()))
}

impl Sim {
    /// Compares what the log has concluded with the world (rule 3): an engine whose observation counts has taken its newest
    /// command; a bake has been watched for as long as it was to be, by the world's clock and with data.
    pub(crate) fn verify_claims(&mut self) {
        for claim in std::mem::take(&mut self.audit.claims) {
            let wrong = match claim {
                Claim::Taken { slot, generation } => {
                    let taken = self.fleet.slots.get(&slot).map_or(0, |s| s.fence.generation);
                    (taken < generation).then(|| {
                        format!(
                            "what {slot} told counts for generation {generation}, and it has taken {taken}"
                        )
                    })
                }
                Claim::Baked { pipeline, step, release, bake } => {
                    let environment = self
                        .audit
                        .pipeline(&pipeline)
                        .and_then(|p| p.plan.step(&step))
                        .map(|(stage, _)| stage.environment.clone());
                    environment.and_then(|environment| {
                        let scopes =
                            bake.regions.iter().map(|r| Scope { environment: environment.clone(), region: r.clone() });
                        let seen = scopes.map(|scope| self.seen_since(&scope, bake.started)).min();
                        let needed = i64::try_from(bake.needed.millis()).unwrap_or(i64::MAX);
                        seen.filter(|seen| *seen < needed).map(|seen| {
                            format!(
                                "{release} of {pipeline} baked in {step}, watched for {seen} ms and not for {needed} ms"
                            )
                        })
                    })
                }
            };
            self.audit.found.extend(wrong.map(|why| (3, why)));
        }
    }

    /// How long monitoring has had data of a Region since then.
    fn seen_since(&self, scope: &Scope, from: i64) -> i64 {
        let mut blind: Vec<(i64, i64)> = self.blind.get(scope).cloned().unwrap_or_default();
        blind.sort_unstable();
        let (mut seen, mut at) = (0, from);
        for (start, end) in blind {
            seen += (start.min(self.now) - at).max(0);
            at = at.max(end);
        }
        seen + (self.now - at).max(0)
    }
}

/// Of a service in an environment, over all its pipelines, at most one AZ of a Region is deployed to at a time, and a release
/// is in no more Regions than its step says.
fn rule_1(sim: &Sim) -> Result<(), String> {
    let leases: BTreeMap<&String, &Lease> = sim.audit.leases().collect();
    let pipelines: Vec<_> = sim.audit.pipelines().collect();
    let lease = |id: &LeaseId| leases.get(&format!("lease/{id}")).copied();
    said(invariants::one_az(pipelines.iter().map(|(id, pipeline)| (id, *pipeline)), lease))
}

/// A target's healthy share never falls below its minimum because of tidegate.
fn rule_2(sim: &Sim) -> Result<(), String> {
    sim.fleet.below_minimum.clone().map_or(Ok(()), Err)
}

/// No release enters a step without having passed the one before; on no box runs what has not entered its step.
fn rule_3(sim: &Sim) -> Result<(), String> {
    noted(sim, 3)?;
    sim.audit.pipelines().try_for_each(|(id, pipeline)| said(invariants::order(&id, pipeline)))?;
    for (slot, state) in &sim.fleet.slots {
        let allowed = sim.audit.allowed.get(slot);
        let stranger = state.boxes.values().find(|b| !allowed.is_some_and(|a| a.contains(&b.run_spec)));
        if let Some(stranger) = stranger {
            return Err(format!("a box of {slot} runs {}, which never entered there", stranger.run_spec));
        }
    }
    Ok(())
}

/// A box only runs bytes that the builder made of reviewed commits, for its own pipeline.
fn rule_4(sim: &Sim) -> Result<(), String> {
    let mut seen = BTreeSet::new();
    for (slot, state) in &sim.fleet.slots {
        for one in state.boxes.values() {
            if !seen.insert((&slot.pipeline, &one.run_spec)) || sim.verified.borrow().contains(&one.run_spec)
            {
                continue;
            }
            let Some(package) = sim.fleet.behaviour.get(&one.run_spec) else {
                return Err(format!("a box of {slot} runs {}, whose bytes nobody built", one.run_spec));
            };
            if package.pipeline != slot.pipeline {
                return Err(format!("a box of {slot} runs a package of {}", package.pipeline));
            }
            if let Some(commit) = package.commits.iter().find(|c| !sim.sources.reviewed(c)) {
                return Err(format!("a box of {slot} runs {}, which nobody else reviewed", commit.short()));
            }
            // Approvals are never taken back.
            sim.verified.borrow_mut().insert(one.run_spec.clone());
        }
    }
    Ok(())
}

/// No gate, queue, build or full disk holds a rollback: what is rejected moves back in the same commit, and an alarm leads to a
/// rollback at once.
fn rule_5(sim: &Sim) -> Result<(), String> {
    for (id, pipeline) in sim.audit.pipelines() {
        said(invariants::returned(&id, pipeline))?;
        // The boxes of a retired pipeline stay, whatever the alarms say of them.
        if pipeline.life.is_active() {
            alarms_lead_to_rollback(sim, pipeline).map_err(|why| format!("{id}: {why}"))?;
        }
    }
    Ok(())
}

fn alarms_lead_to_rollback(sim: &Sim, pipeline: &Pipeline) -> Result<(), String> {
    let (Some(team), Some(definition)) = (sim.audit.team(), &pipeline.definition) else { return Ok(()) };
    for (_, step) in pipeline.plan.steps() {
        let Some(state) = pipeline.steps.get(&step.id) else { continue };
        let Some((release, entered)) = state.work.watched() else { continue };
        let masked = pipeline.releases.get(&release).is_some_and(|r| r.masks.values().any(|m| !m.is_empty()));
        if masked {
            continue;
        }
        for target in step.targets.iter().filter(|t| pipeline.is_watched(&t.id, release)) {
            let scope = Scope::of(&target.id);
            let mut names = vec![high_severity_name(&definition.service)];
            if step.role == Role::OneBox {
                names.push(one_box_name(&definition.service));
            }
            for name in names {
                let Some(status) = team.scopes.get(&scope).and_then(|a| a.get(&name)) else { continue };
                if status.state != AlarmState::Alarm {
                    continue;
                }
                let since = sim.in_world(status.since.max(entered)).max(sim.working_since());
                if sim.now - since > ROLLBACK_WITHIN_MS {
                    return Err(format!(
                        "{name} fires in {scope} since {}, and {release} in {} is not taken back",
                        status.since, step.id
                    ));
                }
            }
        }
    }
    Ok(())
}

/// A tainted change does not re-enter by itself.
fn rule_6(sim: &Sim) -> Result<(), String> {
    noted(sim, 6)?;
    sim.audit.pipelines().try_for_each(|(id, pipeline)| said(invariants::untainted(&id, pipeline)))
}

/// A deployment starts only when alarms and holds allow, or under an override that is unexpired and recorded.
fn rule_7(sim: &Sim) -> Result<(), String> {
    noted(sim, 7)
}

/// Whatever waits has at least one reason; whatever is awaited has a deadline, and a timer that fires by then.
fn rule_8(sim: &Sim) -> Result<(), String> {
    let timers: BTreeMap<String, i64> = match sim.store.inner.due(i64::MAX, usize::MAX) {
        Ok(due) => due.into_iter().map(|due| (due.id, due.at)).collect(),
        Err(error) => return Err(error.to_string()),
    };
    for (id, pipeline) in sim.audit.pipelines() {
        let timer = timers.get(&format!("pipeline/{id}")).copied();
        // In the log a deadline is never over before somebody looks.
        said(invariants::deadlines(&id, pipeline, timer.map(Timestamp), Timestamp(i64::MIN)))?;
        let overdue = |deadline: Timestamp| {
            sim.now - sim.in_world(deadline).max(sim.working_since()) > DEADLINE_GRACE_MS
        };
        if let Some((what, deadline)) = invariants::awaited(pipeline).find(|(_, at)| overdue(*at)) {
            return Err(format!("{what} of {id} is awaited beyond its deadline {deadline}"));
        }
        said(invariants::retirement(&id, pipeline))?;
        // Whoever was woken may not have looked yet; decisions of one moment are a millisecond apart.
        let looks = timer.is_some_and(|due| due <= sim.server_now() + WAKE_GRACE_MS);
        if pipeline.life.is_active() && !looks {
            said(invariants::reasons(&id, pipeline, sim.audit.team()))?;
        }
    }
    Ok(())
}

/// Serving continues when the control plane is down: a crash changes no box, and no old command is taken.
fn rule_9(sim: &Sim) -> Result<(), String> {
    if let Some(why) = &sim.crash_changed_boxes {
        return Err(why.clone());
    }
    sim.fleet.fence_went_back.clone().map_or(Ok(()), Err)
}

/// Folding the log gives the stored state, and nothing was ordered that does not stand in it.
fn rule_10(sim: &Sim) -> Result<(), String> {
    noted(sim, 10)?;
    for (slot, state) in &sim.fleet.slots {
        let recorded = sim.audit.pipeline(&slot.pipeline).and_then(|p| p.slots.get(&slot.target));
        let recorded = recorded.map_or(0, |s| s.generation);
        if state.fence.generation > recorded {
            return Err(format!(
                "{slot} was sent {}, and the log knows of generation {recorded}",
                state.fence
            ));
        }
    }
    Ok(())
}

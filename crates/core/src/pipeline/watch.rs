//! What the alarms say of releases that are under way, and who is guilty for it (K3, M3, M4).

use super::decide::Deciding;
use super::{Cause, Motion, PipelineFact, SlotState};
use crate::alarm::{AlarmName, AlarmState, high_severity_name};
use crate::ids::{ReleaseNo, Role, TargetId};
use crate::scope::Scope;
use crate::team::{View, aggregate_name, one_box_name};
use crate::units::Timestamp;
use std::collections::BTreeSet;

/// What the alarms say of a release in a Region.
pub(super) struct Watch {
    pub(super) in_alarm: bool,
    pub(super) blind: BTreeSet<AlarmName>,
}

impl Deciding<'_> {
    /// The composite alarms that judge a step: the team's aggregate, the service's own, and the one-box's (M3, M4).
    pub(super) fn judges(&self, role: Role) -> Vec<AlarmName> {
        let mut names = Vec::new();
        if let Some(definition) = &self.p.definition {
            if role == Role::OneBox {
                names.push(self.one_box_alarm.get_or_init(|| one_box_name(&definition.service)).clone());
            }
            let own = || high_severity_name(&definition.service);
            names.push(self.own_alarm.get_or_init(own).clone());
        }
        names.push(aggregate_name());
        names
    }

    fn masks(&self, release: ReleaseNo, scope: &Scope) -> BTreeSet<AlarmName> {
        self.p.releases.get(&release).and_then(|r| r.masks.get(scope)).cloned().unwrap_or_default()
    }

    pub(super) fn watch(&self, scope: &Scope, role: Role, release: ReleaseNo) -> Watch {
        let masks = self.masks(release, scope);
        let mut all = Watch { in_alarm: false, blind: BTreeSet::new() };
        for name in self.judges(role) {
            let View { in_alarm, blind, .. } = self.team.view(scope, &name, &masks);
            all.in_alarm |= in_alarm;
            all.blind.extend(blind);
        }
        all
    }

    /// Whether an alarm counts for a step: a one-box's own only for one-boxes (M4).
    pub(super) fn counts(&self, alarm: &AlarmName, role: Role) -> bool {
        let metric = self.team.metric_alarms().iter().map(|a| (&a.name, a.scope));
        metric
            .chain(self.team.outside().map(|a| (&a.name, a.scope)))
            .any(|(name, of)| name == alarm && (of == crate::alarm::Scope::Service || role == Role::OneBox))
    }

    /// Masks end when their alarm has been OK for the first time.
    pub(super) fn lift_masks(&mut self) {
        let mut lifted = Vec::new();
        for (release, state) in &self.p.releases {
            for (scope, masks) in &state.masks {
                let quiet = |alarm: &&AlarmName| self.team.alarm(scope, alarm) == AlarmState::Ok;
                let alarms: BTreeSet<AlarmName> = masks.iter().filter(quiet).cloned().collect();
                if !alarms.is_empty() {
                    lifted.push((*release, scope.clone(), alarms));
                }
            }
        }
        for (release, scope, alarms) in lifted {
            self.fact(PipelineFact::MasksLifted { release, scope, alarms });
        }
    }

    /// Whether a composite alarm has fired for a release since it entered; what fired, if so.
    fn fired(
        &self,
        name: &AlarmName,
        scope: &Scope,
        release: ReleaseNo,
        entered: Timestamp,
    ) -> Option<Cause> {
        let masks = self.masks(release, scope);
        let evidence = if masks.is_empty() {
            let status = self.team.scopes.get(scope)?.get(name)?;
            let last = status.last_alarm.as_ref()?;
            if status.state != AlarmState::Alarm && last.at < entered {
                return None;
            }
            last.evidence.clone()
        } else {
            let view = self.team.view(scope, name, &masks);
            if !view.in_alarm {
                return None;
            }
            self.team.describe(scope, &view.firing)
        };
        Some(Cause::Alarm { alarm: name.clone(), scope: scope.clone(), evidence })
    }

    /// Rolls back what alarms speak against: in every state of a step until its wave is finished (K3).
    pub(super) fn heed_alarms(&mut self) {
        let mut guilty: Vec<(ReleaseNo, Cause)> = Vec::new();
        let mut suspect: Vec<(ReleaseNo, Scope, Cause)> = Vec::new();
        if self.team.fired().is_empty() {
            return;
        }
        // Most of what runs has finished long ago, and its step need not be looked up.
        let watched = |slot: &SlotState| slot.motion != Motion::Settled || slot.current() > slot.finished;
        let watched: BTreeSet<&TargetId> =
            self.p.slots.iter().filter(|(_, slot)| watched(slot)).map(|(target, _)| target).collect();
        if watched.is_empty() {
            return;
        }
        let (one_box, main, aggregate) =
            (self.judges(Role::OneBox), self.judges(Role::Main), aggregate_name());
        for (_, step) in self.p.plan.steps() {
            let Some(state) = self.p.steps.get(&step.id) else { continue };
            let Some((release, entered)) = state.work.watched() else { continue };
            let own = step.targets.iter().filter(|t| watched.contains(&t.id));
            for target in own.filter(|t| self.p.is_watched(&t.id, release)) {
                let scope = Scope::of(&target.id);
                if !self.team.fired().contains(&scope) {
                    continue;
                }
                for name in if step.role == Role::OneBox { &one_box } else { &main } {
                    let Some(cause) = self.fired(name, &scope, release, entered) else { continue };
                    if *name == aggregate {
                        suspect.push((release, scope.clone(), cause));
                    } else {
                        guilty.push((release, cause));
                        break;
                    }
                }
            }
        }
        for (release, cause) in guilty {
            self.reject(release, cause, false);
        }
        for (release, scope, cause) in suspect {
            self.suspect(release, &scope, cause);
        }
    }
}

//! Somebody has put a slot back at the machine, because the server could not be asked. The server learns of it by looking, takes
//! it for that person's word that the release is bad, and does not fight it: what it orders next knows of the deed, and is what was
//! put back.

use super::decide::Deciding;
use super::{Cause, PipelineFact, SlotState};
use crate::decision::Actor;
use crate::engine::BrokenGlass;
use crate::ids::{ReleaseNo, TargetId};
use crate::scope::Scope;

impl Deciding<'_> {
    pub(super) fn glass_broken(&mut self, target: &TargetId, glass: &BrokenGlass) {
        let Some(slot) = self.p.slots.get(target) else { return };
        let is_put_back =
            |release: &ReleaseNo| self.p.run_spec(*release, &target.environment) == Some(&glass.run_spec);
        let unwanted = slot.running().into_iter().rfind(|release| !is_put_back(release));
        let known = self.p.releases.keys().rev().copied().find(|release| is_put_back(release));
        let before = slot.generation;
        self.cancel_order(target, before);
        let (glass, generation) = (glass.clone(), before + 1);
        let cause = Cause::Person { by: Actor::Machine(glass.by.clone()), reason: glass.reason.clone() };
        self.fact(PipelineFact::GlassBroken { target: target.clone(), glass, generation });
        if let Some(release) = unwanted {
            self.reject(release, cause, false);
        }
        match known {
            Some(release) => self.stays_put_back(target, release),
            // Of what this server does not know there is nothing to stay on.
            None => {
                self.return_slot(target);
            }
        }
    }

    /// Brings the slot to what it has been put back to: all of it at once, for it is there. What was decided before, or is for
    /// other targets, would bring boxes of the unwanted release again.
    fn stays_put_back(&mut self, target: &TargetId, to: ReleaseNo) {
        let Some(slot) = self.p.slots.get(target) else { return };
        let (asked, generation) = (slot.boxes, slot.generation + 1);
        let from = others(slot, to).map(|release| (release, asked)).collect();
        let awaited = self.progress_deadline();
        self.look_again(awaited.deadline);
        let (scope, to) = (Scope::of(target), Some(to));
        self.fact(PipelineFact::SlotBack { target: target.clone(), from, to, generation, asked, awaited });
        self.seize(&scope);
        self.order_slot(target);
    }
}

/// What may have boxes on the slot beside what it is brought to.
fn others(slot: &SlotState, to: ReleaseNo) -> impl Iterator<Item = ReleaseNo> {
    slot.running().into_iter().filter(move |release| *release != to)
}

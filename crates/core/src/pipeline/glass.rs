//! Somebody has put a slot back at the machine, because the server could not be asked. The server learns of it by looking, takes
//! it for that person's word that the release is bad, and does not fight it: what it orders next knows of the deed.

use super::decide::Deciding;
use super::{Cause, Motion, PipelineFact};
use crate::decision::{Actor, Effect, RollbackEffect, SlotOrder};
use crate::engine::{BrokenGlass, Desired, Rest, Share};
use crate::ids::{ReleaseNo, SlotId, TargetId};

impl Deciding<'_> {
    pub(super) fn glass_broken(&mut self, target: &TargetId, glass: &BrokenGlass) {
        let Some(slot) = self.p.slots.get(target) else { return };
        let (running, before) = (slot.running(), slot.generation);
        self.cancel_order(target, before);
        self.fact(PipelineFact::GlassBroken {
            target: target.clone(),
            glass: glass.clone(),
            generation: before + 1,
        });
        // Whatever else was, or was about to be, there is what that person did not want.
        let put_back =
            |release: &ReleaseNo| self.p.run_spec(*release, &target.environment) == Some(&glass.run_spec);
        let unwanted = running.into_iter().rfind(|release| !put_back(release));
        if let Some(release) = unwanted {
            let cause = Cause::Person { by: Actor::Machine(glass.by.clone()), reason: glass.reason.clone() };
            self.reject(release, cause, false);
            // A finished wave keeps what is rejected, but nobody puts back here what was just taken away.
            self.return_slot(target);
        }
        self.acknowledge(target, before + 1);
    }

    /// Orders what is decided by now, if nothing else has since the deed became known.
    fn acknowledge(&mut self, target: &TargetId, since: u64) {
        let Some(slot) = self.p.slots.get(target).filter(|slot| slot.generation == since) else { return };
        if slot.motion != Motion::Settled {
            return self.order_slot(target);
        }
        let run_spec =
            slot.current().and_then(|release| self.p.run_spec(release, &target.environment)).cloned();
        let rest = self.p.is_configuration().then(|| run_spec.clone().map_or(Rest::Nothing, Rest::RunSpec));
        let split = run_spec.map(|run_spec| Share { run_spec, boxes: slot.boxes }).into_iter().collect();
        let order = SlotOrder {
            slot: SlotId { target: target.clone(), pipeline: self.id.clone() },
            generation: since,
            desired: Desired { split, condemned: Vec::new(), minimum_serving: 0, surge: true, rest },
            takes_up: None,
            acknowledges: slot.glass.clone(),
        };
        self.effect(format!("{target}/{since}"), Effect::Rollback(RollbackEffect::Return(order)));
    }
}

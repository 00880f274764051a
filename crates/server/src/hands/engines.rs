//! Sends orders to the engine that a RunSpec names: the local fleet for processes, the command engine for a team's own
//! commands and for definitions, which this server takes in itself.

use super::Hands;
use super::dispatch::Performed;
use std::collections::BTreeMap;
use std::sync::Arc;
use tidegate_core::causes;
use tidegate_core::decision::SlotOrder;
use tidegate_core::definition::EngineDef;
use tidegate_core::engine::{Fence, Rest};
use tidegate_core::ids::{SecretName, SlotId};
use tidegate_core::run_spec::{RunSpec, Workload};
use tidegate_fleet::client::FleetClient;
use tidegate_fleet::protocol::{Code, SetSlot};
use tidegate_workers::command_engine::{CommandEngine, SetError};

/// The engines of this machine.
pub struct Engines {
    /// Supervises processes and proxies to them.
    pub fleet: FleetClient,
    /// Runs teams' own commands, and takes definitions in.
    pub commands: CommandEngine,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Fleet,
    Commands,
}

impl Engines {
    /// Brings a slot to what the order says. A newer order that was there first makes this one unnecessary.
    pub(super) async fn set(&self, hands: &Arc<Hands>, order: &SlotOrder, rollback: bool) -> Performed {
        let set = match self.prepare(hands, order, rollback).await {
            Ok(set) => set,
            Err(why) => return Performed::Failed(why),
        };
        match self.kind(hands, &set) {
            Kind::Fleet => match self.fleet.set_slot(&set).await {
                Ok(_) => Performed::Done,
                // What somebody did at the machine is seen by whoever looks, and ordered anew with that in mind.
                Err(error) if matches!(error.code(), Some(Code::StaleFence | Code::GlassBroken)) => {
                    superseded(order, &error.to_string())
                }
                Err(error) => Performed::Failed(causes(&error)),
            },
            Kind::Commands => {
                let hands = Arc::clone(hands);
                let result = hands.blocking(move |h| h.engines.commands.set(&set)).await;
                match result {
                    Ok(()) => Performed::Done,
                    Err(error @ SetError::StaleFence { .. }) => superseded(order, &error.to_string()),
                    Err(error) => Performed::Failed(causes(&error)),
                }
            }
        }
    }

    async fn prepare(
        &self,
        hands: &Arc<Hands>,
        order: &SlotOrder,
        rollback: bool,
    ) -> Result<SetSlot, String> {
        let order = order.clone();
        hands
            .blocking(move |h| {
                let mut run_specs: Vec<RunSpec> = Vec::new();
                let rest = match &order.desired.rest {
                    Some(Rest::RunSpec(rest)) => Some(rest),
                    Some(Rest::Nothing) | None => None,
                };
                let named = order.desired.split.iter().map(|s| &s.run_spec).chain(&order.desired.condemned);
                let named = named.chain(rest);
                for digest in named {
                    match h.runtime.run_spec(digest).map_err(|e| causes(&e))? {
                        Some(spec) if !run_specs.contains(&spec) => run_specs.push(spec),
                        Some(_) => {}
                        None => return Err(format!("the store has no RunSpec {digest}")),
                    }
                }
                let names: Vec<&SecretName> = run_specs.iter().flat_map(|s| s.secrets.values()).collect();
                let mut secrets = BTreeMap::new();
                for name in names {
                    let value = h.secrets.get(name).map_err(|e| causes(&e))?;
                    secrets.insert(name.clone(), value.expose().to_owned());
                }
                Ok(SetSlot {
                    slot: order.slot,
                    fence: Fence { epoch: h.runtime.epoch(), generation: order.generation },
                    desired: order.desired,
                    run_specs,
                    secrets,
                    rollback,
                    takes_up: order.takes_up,
                    acknowledges: order.acknowledges,
                    glass: None,
                })
            })
            .await
    }

    /// By what the slot is to run; for a slot that is emptied, by what its pipeline is defined to run.
    fn kind(&self, hands: &Hands, set: &SetSlot) -> Kind {
        let of = |workload: &Workload| match workload {
            Workload::Process(_) | Workload::Configuration(_) => Kind::Fleet,
            Workload::Command(_) | Workload::Definitions(_) => Kind::Commands,
        };
        if let Some(spec) = set.run_specs.first() {
            return of(&spec.workload);
        }
        self.kind_of(hands, &set.slot)
    }

    fn kind_of(&self, hands: &Hands, slot: &SlotId) -> Kind {
        let pipeline = hands.runtime.pipeline(&slot.pipeline).ok().flatten();
        match pipeline.as_ref().and_then(|p| p.definition.as_deref()).map(|d| &d.run.engine) {
            Some(EngineDef::Command(_) | EngineDef::Definitions(_)) => Kind::Commands,
            Some(EngineDef::Process(_) | EngineDef::Configuration(_)) | None => Kind::Fleet,
        }
    }
}

fn superseded(order: &SlotOrder, why: &str) -> Performed {
    tracing::info!(slot = %order.slot, generation = order.generation, "an order came too late and is not needed: {why}");
    Performed::Done
}

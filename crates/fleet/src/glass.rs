//! Breaking glass: a slot is put back at the machine itself, with the server dead or its disk lost. What slots ran before is kept
//! here with the values of their secrets, and its packages are kept near.
//!
//! What must hold: only what was whole on the slot before is put back, and only if its package verifies now; what was done is in
//! place of the server's command, in the same file, so that it survives whatever dies next; and no command of a server that
//! does not know of it undoes it.

use crate::disk;
use crate::package::TrustedKeys;
use crate::protocol::{BreakGlass, Code, Refusal, SetSlot};
use crate::shared::{Shared, now};
use crate::slots::refusal;
use crate::validate;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use tidegate_core::engine::{BrokenGlass, Desired, Rest, Share};
use tidegate_core::ids::{Role, RunSpecDigest, SecretName, SlotId};
use tidegate_core::run_spec::RunSpec;

/// How many RunSpecs a slot remembers, beside the present one.
pub(crate) const REMEMBERED_MAX: usize = 5;
/// The folder of what slots ran before.
const FOLDER: &str = "before";

/// What a slot was whole with, and may be put back to; the newest last.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Before {
    run_specs: Vec<Remembered>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Remembered {
    run_spec: RunSpec,
    secrets: BTreeMap<SecretName, String>,
}

fn path(shared: &Shared, slot: &SlotId) -> PathBuf {
    shared.data.path(FOLDER).join(name(slot))
}

fn name(slot: &SlotId) -> String {
    format!("{}.{}.json", slot.target.to_string().replace('/', "."), slot.pipeline)
}

fn read(shared: &Shared, slot: &SlotId) -> Before {
    match disk::read_json(&path(shared, slot)) {
        Ok(before) => before.unwrap_or_default(),
        Err(error) => {
            tracing::error!(%slot, %error, "what a slot ran before cannot be read, and is forgotten");
            Before::default()
        }
    }
}

/// The RunSpecs that a slot of the fleet on this folder was whole with and may be put back to, the newest first. Whether their
/// packages verify is seen when one is put back.
///
/// # Errors
/// What is kept of it cannot be read.
pub fn may_go_back_to(folder: &Path, slot: &SlotId) -> io::Result<Vec<RunSpec>> {
    let path = folder.join(FOLDER).join(name(slot));
    let before: Before = match std::fs::read(&path) {
        Ok(text) => serde_json::from_slice(&text)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    Ok(before.run_specs.into_iter().rev().map(|each| each.run_spec).collect())
}

/// Remembers what a slot was whole with when a command brings something else; what that command condemns is forgotten.
pub(crate) fn remember(shared: &Shared, had: &SetSlot, new: &SetSlot) {
    let names = |set: &SetSlot| -> BTreeSet<RunSpecDigest> {
        set.desired.split.iter().filter(|share| share.boxes > 0).map(|share| share.run_spec.clone()).collect()
    };
    let (had_names, new_names) = (names(had), names(new));
    if had_names == new_names {
        return;
    }
    let mut before = read(shared, &had.slot);
    if let Some(whole) = had_names.first().filter(|_| had_names.len() == 1)
        && let Some(run_spec) = had.run_specs.iter().find(|spec| spec.digest() == *whole)
    {
        before.run_specs.retain(|each| each.run_spec.digest() != *whole);
        let secrets = validate::secrets_of(run_spec, &had.secrets);
        before.run_specs.push(Remembered { run_spec: run_spec.clone(), secrets });
    }
    before.run_specs.retain(|each| !new.desired.condemned.contains(&each.run_spec.digest()));
    let surplus = before.run_specs.len().saturating_sub(REMEMBERED_MAX);
    before.run_specs.drain(..surplus);
    if let Err(error) = shared.data.write_json_with_reserve(&path(shared, &had.slot), &before, new.rollback) {
        // Nothing is lost but a way to go without the server.
        tracing::warn!(slot = %had.slot, error = %refusal(&error), "what a slot ran before cannot be kept");
    }
}

/// What is to be put in place of a slot's command, and what was passed over.
pub(crate) fn put_back(
    shared: &Shared,
    had: &SetSlot,
    order: &BreakGlass,
) -> Result<(SetSlot, Vec<String>), Refusal> {
    let boxes: u32 = had.desired.split.iter().map(|share| share.boxes).sum();
    let present: BTreeSet<&RunSpecDigest> = had.desired.split.iter().map(|share| &share.run_spec).collect();
    let lead: Option<&RunSpecDigest> = match &had.desired.split[..] {
        [only] => Some(&only.run_spec),
        // Half way back, there is where it shall go; half way forward, there is where it shall not.
        [_, ..] if had.rollback => None,
        [first, ..] => Some(&first.run_spec),
        [] => None,
    };
    let mut known = read(shared, &had.slot).run_specs;
    // In the order of the split: the newest first.
    let of = |share: &Share| had.run_specs.iter().find(|spec| spec.digest() == share.run_spec);
    known.extend(had.desired.split.iter().rev().filter_map(of).map(|run_spec| Remembered {
        run_spec: run_spec.clone(),
        secrets: validate::secrets_of(run_spec, &had.secrets),
    }));
    let keys = TrustedKeys::load(&shared.config.trusted_keys)
        .map_err(|error| Refusal::new(Code::Internal, format!("cannot read the trusted keys: {error}")))?;
    let mut passed_over = Vec::new();
    for each in known.into_iter().rev() {
        let digest = each.run_spec.digest();
        let condemned = order.to.is_none() && had.desired.condemned.contains(&digest);
        let bad = lead == Some(&digest) || condemned;
        if order.to.as_ref().is_some_and(|to| *to != digest) || bad {
            continue;
        }
        if let Err(error) = shared.packages.verify(&each.run_spec.package, &keys) {
            passed_over.push(format!("RunSpec {digest}: {error}"));
            continue;
        }
        // What was put away by hand before is not found by the next hand.
        let away = had.desired.condemned.iter().filter(|_| had.glass.is_some());
        let all: BTreeSet<RunSpecDigest> = present.iter().copied().chain(away).cloned().collect();
        let condemned: Vec<RunSpecDigest> = all.into_iter().filter(|each| *each != digest).collect();
        let minimum_serving = if had.slot.target.role == Role::OneBox { 0 } else { (2 * boxes).div_ceil(3) };
        let desired = Desired {
            split: vec![Share { run_spec: digest.clone(), boxes }],
            condemned,
            minimum_serving,
            // All are replaced at once, so each new one is healthy before an old one leaves.
            surge: true,
            rest: had.desired.rest.as_ref().map(|_| Rest::RunSpec(digest.clone())),
        };
        let at = now();
        let glass = BrokenGlass {
            id: format!("{}/{at}", shared.fleet_id),
            run_spec: digest,
            by: order.by.clone(),
            reason: order.reason.clone(),
            at,
        };
        let set = SetSlot {
            slot: had.slot.clone(),
            fence: had.fence,
            desired,
            run_specs: vec![each.run_spec],
            secrets: each.secrets,
            rollback: true,
            takes_up: None,
            acknowledges: None,
            glass: Some(glass),
        };
        return Ok((set, passed_over));
    }
    let why = match (&order.to, passed_over.is_empty()) {
        (Some(to), true) => format!("{} was never whole with RunSpec {to}, or runs it now", had.slot),
        (None, true) => format!("{} ran nothing before what it runs now", had.slot),
        (_, false) => format!("nothing that {} ran before verifies: {}", had.slot, passed_over.join("; ")),
    };
    Err(Refusal::new(Code::BadCommand, why))
}

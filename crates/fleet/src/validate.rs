//! What a command must be before it is accepted: nothing in it is found wrong later.

use crate::protocol::{Code, Refusal, SetSlot};
use crate::slots::BOXES_PER_SLOT_MAX;
use std::collections::BTreeMap;
use std::path::{Component, Path};
use tidegate_core::engine::Rest;
use tidegate_core::ids::{RunSpecDigest, SecretName};
use tidegate_core::run_spec::{RunSpec, Workload};

/// Variables that begin with this are the fleet's own.
const RESERVED_PREFIX: &str = "TIDEGATE_";

/// Checks a command and adds to it what the slot knows from the one before: RunSpecs that it names and left out.
pub(crate) fn complete(set: &mut SetSlot, before: Option<&SetSlot>) -> Result<(), Refusal> {
    let bad = |message: String| Err(Refusal::new(Code::BadCommand, message));
    let boxes: u64 = set.desired.split.iter().map(|share| u64::from(share.boxes)).sum();
    if boxes > u64::from(BOXES_PER_SLOT_MAX) {
        return bad(format!("{boxes} boxes are more than {BOXES_PER_SLOT_MAX}, the most of one slot"));
    }
    let mut known: BTreeMap<RunSpecDigest, RunSpec> = BTreeMap::new();
    for run_spec in set.run_specs.drain(..).chain(before.into_iter().flat_map(|b| b.run_specs.clone())) {
        known.entry(run_spec.digest()).or_insert(run_spec);
    }
    let rest = match &set.desired.rest {
        Some(Rest::RunSpec(rest)) => Some(rest.clone()),
        Some(Rest::Nothing) | None => None,
    };
    let named: Vec<RunSpecDigest> =
        set.desired.split.iter().map(|share| share.run_spec.clone()).chain(rest).collect();
    for digest in &named {
        let Some(run_spec) = known.get(digest) else {
            return bad(format!("RunSpec {digest} is in the split and was not given"));
        };
        check_run_spec(set, run_spec)?;
        for secret in run_spec.secrets.values() {
            if !set.secrets.contains_key(secret) {
                match before.and_then(|b| b.secrets.get(secret)) {
                    Some(value) => set.secrets.insert(secret.clone(), value.clone()),
                    None => return bad(format!("the value of secret {secret} was not given")),
                };
            }
        }
    }
    known.retain(|digest, _| named.contains(digest));
    set.run_specs = known.into_values().collect();
    Ok(())
}

/// Those of the values that a RunSpec uses.
pub(crate) fn secrets_of(
    run_spec: &RunSpec,
    values: &BTreeMap<SecretName, String>,
) -> BTreeMap<SecretName, String> {
    let used = |name: &SecretName| run_spec.secrets.values().any(|used| used == name);
    values.iter().filter(|(name, _)| used(name)).map(|(name, value)| (name.clone(), value.clone())).collect()
}

fn check_run_spec(set: &SetSlot, run_spec: &RunSpec) -> Result<(), Refusal> {
    let digest = run_spec.digest();
    let bad = |message: String| Err(Refusal::new(Code::BadCommand, format!("RunSpec {digest}: {message}")));
    if run_spec.service != set.slot.target.service {
        return bad(format!(
            "it belongs to service {} and not to {}",
            run_spec.service, set.slot.target.service
        ));
    }
    let spec = match (&run_spec.workload, &set.desired.rest) {
        (Workload::Process(spec), None) => spec,
        (Workload::Configuration(spec), Some(_)) => {
            let valid = spec.reload.starts_with('/') && spec.reload.parse::<hyper::Uri>().is_ok();
            return if valid { Ok(()) } else { bad(format!("its path '{}' is not a path", spec.reload)) };
        }
        (Workload::Command(_), _) => return bad("the fleet runs no commands".to_owned()),
        (Workload::Definitions(_), _) => return bad("the fleet takes no definitions".to_owned()),
        (Workload::Process(_), Some(_)) => return bad("a process is not configuration".to_owned()),
        (Workload::Configuration(_), None) => {
            return bad(
                "it is configuration, and the command does not say what the other boxes have".to_owned()
            );
        }
    };
    let Some(program) = spec.command.first() else { return bad("it has no command".to_owned()) };
    if program.is_empty()
        || !Path::new(program).components().all(|c| matches!(c, Component::Normal(_) | Component::CurDir))
    {
        return bad(format!("its program '{program}' is not a path within the package"));
    }
    if !spec.health.path.starts_with('/') || spec.health.path.parse::<hyper::Uri>().is_err() {
        return bad(format!("its health check's path '{}' is not a path", spec.health.path));
    }
    if spec.command.iter().chain(run_spec.environment.values()).any(|text| text.contains('\0')) {
        return bad("a NUL stands in its command or environment".to_owned());
    }
    for name in run_spec.environment.keys().chain(run_spec.secrets.keys()) {
        if name.is_empty() || name.contains(['=', '\0']) {
            return bad(format!("'{name}' is not a name of a variable"));
        }
        if name.starts_with(RESERVED_PREFIX) {
            return bad(format!("the variable {name} is the fleet's own to set"));
        }
    }
    Ok(())
}

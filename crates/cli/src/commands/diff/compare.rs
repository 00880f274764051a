//! What differs between two definitions, and what that means where releases are in flight. Pure.

use serde::Serialize;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use tidegate_api::{PipelineStatus, WorkStatus};
use tidegate_core::ids::TargetId;
use tidegate_core::plan::{Plan, Step, StepId};

/// A property with another value.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Change {
    /// Such as `stages[production].bake.az`.
    pub(super) property: String,
    /// None if it was not there.
    pub(super) from: Option<Value>,
    /// None if it is not there any more.
    pub(super) to: Option<Value>,
    /// When it counts, for people.
    pub(super) counts: Option<&'static str>,
}

/// A step that comes, goes or differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct StepChange {
    pub(super) step: StepId,
    /// `new`, `gone` or `changed`.
    pub(super) state: &'static str,
    pub(super) targets_added: Vec<TargetId>,
    pub(super) targets_removed: Vec<TargetId>,
}

/// What differs, property by property, in the order of the names.
pub(super) fn changes(from: &Value, to: &Value) -> Vec<Change> {
    let mut found = Vec::new();
    compare("", Some(from), Some(to), &mut found);
    found
}

fn compare(property: &str, from: Option<&Value>, to: Option<&Value>, found: &mut Vec<Change>) {
    if from == to {
        return;
    }
    let (before, after) = match (from, to) {
        (Some(Value::Object(from)), Some(Value::Object(to))) => {
            let name =
                |key: &String| if property.is_empty() { key.clone() } else { format!("{property}.{key}") };
            let fields =
                |of: &serde_json::Map<String, Value>| of.iter().map(|(k, v)| (name(k), v.clone())).collect();
            (fields(from), fields(to))
        }
        (Some(Value::Array(from)), Some(Value::Array(to))) => {
            match (named(property, from), named(property, to)) {
                (Some(from), Some(to)) if from.keys().ne(to.keys()) || !from.is_empty() => (from, to),
                _ => {
                    return found.push(change(
                        property,
                        Some(Value::from(from.clone())),
                        Some(Value::from(to.clone())),
                    ));
                }
            }
        }
        _ => return found.push(change(property, from.cloned(), to.cloned())),
    };
    if let (Some(Value::Array(from)), Some(Value::Array(to))) = (from, to) {
        let names = |list: &[Value]| list.iter().filter_map(name).map(str::to_owned).collect::<Vec<_>>();
        let (from, to) = (names(from), names(to));
        let kept = |list: &[String], other: &[String]| -> Vec<Value> {
            list.iter().filter(|name| other.contains(name)).map(|name| Value::from(name.as_str())).collect()
        };
        let (was, is) = (kept(&from, &to), kept(&to, &from));
        if was != is {
            let order = format!("{property} (their order)");
            found.push(Change { property: order, ..change(property, Some(was.into()), Some(is.into())) });
        }
    }
    let names: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    names.into_iter().for_each(|name| compare(name, before.get(name), after.get(name), found));
}

/// What an element of a list is called.
fn name(value: &Value) -> Option<&str> {
    value.get("name").or_else(|| value.get("environment"))?.as_str()
}

/// The elements of a list by what they are called; none if they are not, or twice the same.
fn named(property: &str, list: &[Value]) -> Option<BTreeMap<String, Value>> {
    let name = |value: &Value| Some((format!("{property}[{}]", name(value)?), value.clone()));
    let all: BTreeMap<_, _> = list.iter().map(name).collect::<Option<_>>()?;
    (all.len() == list.len()).then_some(all)
}

fn change(property: &str, from: Option<Value>, to: Option<Value>) -> Change {
    Change { property: property.to_owned(), from, to, counts: counts(property) }
}

/// When a pipeline's property counts, as the core has it.
fn counts(property: &str) -> Option<&'static str> {
    let first = property.split(['.', '[']).next().unwrap_or_default();
    match first {
        "sources" | "build" => Some("for releases that are made from now on"),
        "run" => Some("for releases that are built from now on; those that are built keep theirs"),
        "rolling" => Some("at once, also for deployments under way"),
        "rollback" => Some("at once"),
        "mode" => Some("at once; nothing is deployed for it"),
        "stages" if property.ends_with(".boxes_per_az") => {
            Some("with the next deployment to each target; fleets that run keep their size")
        }
        "stages" if property.contains(".bake") => {
            Some("for bakes that begin from now on; those under way keep theirs")
        }
        "stages" if property.contains(".tests") => Some("for tests that begin from now on"),
        _ => None,
    }
}

/// The steps that come, go, or have other targets.
pub(super) fn steps(from: &Plan, to: &Plan) -> Vec<StepChange> {
    let targets = |step: Option<&Step>| -> BTreeSet<TargetId> {
        step.into_iter().flat_map(|step| &step.targets).map(|target| target.id.clone()).collect()
    };
    let gone = from.steps().filter(|(_, step)| to.step(&step.id).is_none());
    let all = to.steps().chain(gone).map(|(_, step)| step.id.clone());
    let compared = all.filter_map(|step| {
        let [before, after] = [from, to].map(|plan| plan.step(&step).map(|(_, step)| step));
        let state = match (before, after) {
            (None, _) => "new",
            (_, None) => "gone",
            _ => "changed",
        };
        let (before, after) = (targets(before), targets(after));
        (state != "changed" || before != after).then(|| StepChange {
            step,
            state,
            targets_added: after.difference(&before).cloned().collect(),
            targets_removed: before.difference(&after).cloned().collect(),
        })
    });
    compared.collect()
}

/// What that means for what is under way on the server, in sentences.
pub(super) fn in_flight(status: &PipelineStatus, to: &Plan) -> Vec<String> {
    let mut told = Vec::new();
    let planned: BTreeSet<&TargetId> = to.targets().map(|target| &target.id).collect();
    let done: BTreeMap<&StepId, _> =
        status.stages.iter().flat_map(|stage| &stage.steps).map(|step| (&step.name, step.done)).collect();
    let before: BTreeMap<&StepId, &StepId> =
        to.steps().zip(to.steps().skip(1)).map(|((_, one), (_, next))| (&next.id, &one.id)).collect();
    for step in status.stages.iter().flat_map(|stage| &stage.steps) {
        let taken_back = matches!(step.work, WorkStatus::RollingBack { .. });
        let (what, release) = match &step.work {
            WorkStatus::Deploying { release, .. } => ("is being deployed in", release),
            WorkStatus::Testing { release, .. } => ("is tested in", release),
            WorkStatus::Baking { release, .. } => ("bakes in", release),
            WorkStatus::RollingBack { release, .. } => ("is being taken back in", release),
            WorkStatus::Free
            | WorkStatus::Done { .. }
            | WorkStatus::Recalled { .. }
            | WorkStatus::RolledBack { .. } => continue,
        };
        let Some((_, now)) = to.step(&step.name) else {
            let means = if taken_back { "its boxes go on returning" } else { "the step's work ends there" };
            told.push(format!("{release} {what} {}, which goes: {means}", step.name));
            continue;
        };
        let first =
            before.get(&step.name).filter(|before| done.get(*before).copied().flatten() < Some(*release));
        if let Some(first) = first.filter(|_| !taken_back) {
            told.push(format!("{release} {what} {}, and passes {first} first from now on", step.name));
        }
        let (was, is): (BTreeSet<_>, BTreeSet<_>) =
            (step.targets.iter().map(|t| &t.name).collect(), now.targets.iter().map(|t| &t.id).collect());
        if was != is {
            told.push(format!("{release} {what} {}, whose targets are others from now on", step.name));
        }
    }
    let leaving: Vec<String> = (status.stages.iter().flat_map(|stage| &stage.steps))
        .flat_map(|step| &step.targets)
        .filter(|target| target.current.is_some() && !planned.contains(&target.name))
        .map(|target| target.name.to_string())
        .collect();
    if !leaving.is_empty() {
        told.push(format!("boxes run on where no step deploys any more: {}", leaving.join(", ")));
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn another_order_shows_beside_another_change() {
        let from = json!({"stages": [{"environment": "beta"}, {"environment": "gamma", "n": 1}]});
        let to = json!({"stages": [{"environment": "gamma", "n": 2}, {"environment": "beta"}]});
        let told: Vec<String> = changes(&from, &to)
            .iter()
            .map(|c| format!("{}: {} -> {}", c.property, c.from.clone().unwrap(), c.to.clone().unwrap()))
            .collect();
        let order = r#"stages (their order): ["beta","gamma"] -> ["gamma","beta"]"#;
        assert_eq!(told, [order, "stages[gamma].n: 1 -> 2"]);
    }
}

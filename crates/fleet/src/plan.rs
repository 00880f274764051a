//! What a slot's boxes must do next. A pure function of what is wanted and what is there; it remembers nothing, so it may
//! run at any time and after any crash.

use std::collections::{BTreeMap, BTreeSet};
use tidegate_core::engine::Desired;
use tidegate_core::ids::RunSpecDigest;

/// How a box is, as far as planning goes. The order is that in which surplus boxes leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Standing {
    Unhealthy,
    Starting,
    Healthy,
    /// It was told to leave and is not gone yet.
    Leaving,
}

/// A box that is there.
#[derive(Debug, Clone)]
pub(crate) struct Present {
    pub(crate) id: String,
    pub(crate) run_spec: RunSpecDigest,
    pub(crate) standing: Standing,
}

/// What to do now.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Start a box of each of these.
    pub(crate) create: Vec<RunSpecDigest>,
    /// Drain and stop these.
    pub(crate) leave: Vec<String>,
    /// These get no requests although they may be healthy.
    pub(crate) weightless: BTreeSet<String>,
}

/// Plans. Without surge a box starts only where there is room, so the replacement starts when the one it replaces is
/// gone; with surge a box leaves only when enough wanted ones are healthy.
pub(crate) fn plan(desired: &Desired, boxes: &[Present]) -> Plan {
    let mut wanted: BTreeMap<&RunSpecDigest, usize> = BTreeMap::new();
    for share in &desired.split {
        *wanted.entry(&share.run_spec).or_default() += share.boxes as usize;
    }
    let total: usize = wanted.values().sum();

    // Those that stay are the best of their RunSpec; the oldest among equals.
    let mut active: Vec<&Present> = boxes.iter().filter(|b| b.standing != Standing::Leaving).collect();
    active.sort_by(|a, b| b.standing.cmp(&a.standing).then_with(|| a.id.cmp(&b.id)));
    let mut missing = wanted.clone();
    let (stay, mut surplus): (Vec<&Present>, Vec<&Present>) =
        active.iter().copied().partition(|b| match missing.get_mut(&b.run_spec) {
            Some(n) if *n > 0 => {
                *n -= 1;
                true
            }
            _ => false,
        });
    surplus.reverse();

    let mut plan = Plan { weightless: weightless(desired, boxes), ..Plan::default() };
    let healthy = |list: &[&Present]| list.iter().filter(|b| b.standing == Standing::Healthy).count();
    let mut serving = healthy(&stay) + healthy(&surplus);
    for present in surplus {
        let is_healthy = present.standing == Standing::Healthy;
        if desired.surge && is_healthy && serving <= total {
            continue;
        }
        serving -= usize::from(is_healthy);
        plan.leave.push(present.id.clone());
    }

    let deficit: Vec<RunSpecDigest> =
        missing.into_iter().flat_map(|(spec, n)| std::iter::repeat_n(spec.clone(), n)).collect();
    let room = if desired.surge { deficit.len() } else { total.saturating_sub(boxes.len()) };
    plan.create = deficit.into_iter().take(room).collect();
    plan
}

/// The boxes of condemned RunSpecs, but for as many healthy ones as must go on serving.
fn weightless(desired: &Desired, boxes: &[Present]) -> BTreeSet<String> {
    let (condemned, others): (Vec<&Present>, Vec<&Present>) =
        boxes.iter().partition(|b| desired.condemned.contains(&b.run_spec));
    let healthy = |b: &&Present| b.standing == Standing::Healthy;
    let must_serve =
        (desired.minimum_serving as usize).saturating_sub(others.into_iter().filter(healthy).count());
    let mut serving: Vec<&str> = condemned.iter().copied().filter(healthy).map(|b| b.id.as_str()).collect();
    serving.sort_unstable();
    serving.truncate(must_serve);
    condemned.into_iter().filter(|b| !serving.contains(&b.id.as_str())).map(|b| b.id.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use Standing::{Healthy, Leaving, Starting, Unhealthy};
    use tidegate_core::engine::Share;

    fn spec(name: char) -> RunSpecDigest {
        RunSpecDigest::new(name.to_string().repeat(64)).unwrap()
    }

    /// `split` as `a2 b1`; `boxes` as `1aH 2aU`.
    fn check(split: &str, surge: bool, condemned: &str, minimum: u32, boxes: &str, expected: &str) {
        let desired = Desired {
            split: split
                .split_whitespace()
                .map(|s| Share {
                    run_spec: spec(s.chars().next().unwrap()),
                    boxes: s.get(1..).unwrap().parse().unwrap(),
                })
                .collect(),
            condemned: condemned.chars().map(spec).collect(),
            minimum_serving: minimum,
            surge,
            rest: None,
        };
        let boxes: Vec<Present> = boxes
            .split_whitespace()
            .map(|b| {
                let [id, run_spec, standing] = b.chars().collect::<Vec<_>>()[..] else { panic!("{b}") };
                let standing = match standing {
                    'H' => Healthy,
                    'U' => Unhealthy,
                    'S' => Starting,
                    _ => Leaving,
                };
                Present { id: id.to_string(), run_spec: spec(run_spec), standing }
            })
            .collect();
        let plan = plan(&desired, &boxes);
        let create: String = plan.create.iter().map(|s| s.as_str().chars().next().unwrap()).collect();
        let weightless: Vec<String> = plan.weightless.into_iter().collect();
        let got = format!("+{create} -{} ={}", plan.leave.concat(), weightless.concat());
        assert_eq!(got, expected, "{split} surge {surge}");
    }

    #[test]
    fn a_replacement_starts_when_the_old_box_is_gone() {
        check("a3", false, "", 0, "", "+aaa - =");
        check("a2 b1", false, "", 0, "1aH 2aH 3aH", "+ -3 =");
        check("a2 b1", false, "", 0, "1aH 2aH 3aL", "+ - =");
        check("a2 b1", false, "", 0, "1aH 2aH", "+b - =");
        check("a2 b1", false, "", 0, "1aH 2aH 4bS", "+ - =");
        check("", false, "", 0, "1aH 2aU", "+ -21 =");
    }

    #[test]
    fn unhealthy_boxes_go_first() {
        check("a2 b1", false, "", 0, "1aU 2aH 3aH", "+ -1 =");
        check("a1 b2", false, "", 0, "1aS 2aU 3aH", "+ -21 =");
    }

    #[test]
    fn with_surge_the_new_box_is_healthy_first() {
        check("b1", true, "", 0, "1aH", "+b - =");
        check("b1", true, "", 0, "1aH 2bS", "+ - =");
        check("b1", true, "", 0, "1aH 2bH", "+ -1 =");
        check("b1", true, "", 0, "1aL 2bH", "+ - =");
        check("b1", true, "", 0, "1aU", "+b -1 =");
        check("b2", true, "", 0, "1aH 2aH 3bH 4bS", "+ -2 =");
        check("", true, "", 0, "1aH", "+ -1 =");
    }

    #[test]
    fn condemned_boxes_lose_their_weight_as_far_as_the_rest_can_serve() {
        check("a2 b1", false, "b", 2, "1aH 2aH 3bH", "+ - =3");
        check("a2 b1", false, "b", 3, "1aH 2aH 3bH", "+ - =");
        check("b3", false, "b", 1, "1bH 2bH 3bH", "+ - =23");
        check("b3", false, "b", 0, "1bH 2bU 3bL", "+ - =123");
        check("a1 b2", false, "b", 2, "1aS 2bH 3bH", "+ - =");
    }
}

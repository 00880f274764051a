//! How fast a bad release loses its requests: from the close of the last period that makes its one-box's alarm fire to the
//! box's weight at zero, through monitoring, core and fleet. The clock is the same on both ends: it is one machine.

use crate::load::Load;
use crate::report::{Figure, median, percentile};
use crate::scene::Scene;
use crate::shop::Shop;
use anyhow::{Context, Result, ensure};
use serde_json::json;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tidegate_core::alarm::AlarmState;
use tidegate_core::decision::Fact;
use tidegate_core::engine::Observation;
use tidegate_core::ids::{ReleaseNo, Role, RunSpecDigest};
use tidegate_core::pipeline::PipelineFact;
use tidegate_core::team::TeamFact;
use tidegate_fleet::FleetClient;

/// How many bad releases are caught.
const COUNT: usize = 20;
/// The longest time from the close of the period to the weight at zero that is the goal, in milliseconds.
const GOAL_MS: f64 = 1_000.0;
/// How long a bad release may serve at all.
const CAUGHT_MAX: Duration = Duration::from_secs(60);

/// What happened to one bad release, in milliseconds after the close of the period.
struct Caught {
    decided: f64,
    weight_zero: f64,
}

/// Measures.
pub(crate) async fn take(scene: &Scene) -> Result<Figure> {
    let mut shop = Shop::open(scene, "alarm", "5s").await?;
    let load = Load::start(shop.customers())?;
    let mut all = Vec::new();
    for _ in 0..COUNT {
        all.push(catch(&mut shop).await?);
    }
    let outcome = load.end().await?;
    drop(shop);
    scene.end().await;
    let of = |value: &dyn Fn(&Caught) -> f64, part| percentile(all.iter().map(value), part);
    let (decided, zero) = (|c: &Caught| c.decided, |c: &Caught| c.weight_zero);
    let longest = of(&zero, 1.0);
    let verdict = if longest <= GOAL_MS { "reached" } else { "missed" };
    let text = format!(
        "alarm: {COUNT} bad releases in a one-box, from the close of the last period that makes the alarm fire\nto the decision: \
         median {:.0} ms, longest {:.0} ms\nto the bad box's weight at zero: median {:.0} ms, longest {longest:.0} ms (goal \
         {GOAL_MS} ms: {verdict})\n{} of {} requests met a bad release\n",
        of(&decided, 0.5),
        of(&decided, 1.0),
        of(&zero, 0.5),
        outcome.failed,
        outcome.good + outcome.failed,
    );
    let values = json!({
        "releases": COUNT, "goal_ms": GOAL_MS,
        "decided_ms_median": median(all.iter().map(decided)), "decided_ms_max": of(&decided, 1.0),
        "weight_zero_ms_median": median(all.iter().map(zero)), "weight_zero_ms_max": longest,
        "requests": outcome.good + outcome.failed, "failed_requests": outcome.failed,
    });
    Figure::new("alarm", text, values)
}

async fn catch(shop: &mut Shop) -> Result<Caught> {
    let before = one_box(&shop.fleet.slots().await?.observations).context("there is no one-box")?.0;
    let release = shop.push("bad").await?;
    let gone = tokio::spawn(weight_zero(shop.fleet.clone(), before));
    let fired_at = shop.until("the alarm fires", fired).await?;
    let rejected_at = shop.until("it is rejected", |entry| rejected(&entry.fact, release)).await?;
    let gone =
        tokio::time::timeout(CAUGHT_MAX, gone).await.context("the bad box keeps its requests")???;
    let after = |at: f64| at - fired_at;
    ensure!(after(gone) > 0.0, "the weight was zero before the alarm fired");
    // The next one begins when this one is gone and all is quiet.
    shop.until("it is rolled back", |entry| match &entry.fact {
        Fact::Pipeline(PipelineFact::StepRolledBack { .. }) => Some(()),
        _ => None,
    })
    .await?;
    Ok(Caught { decided: after(rejected_at), weight_zero: after(gone) })
}

/// The end of the period after which the one-box's alarm fired, in milliseconds since 1970.
fn fired(entry: &tidegate_api::LogEntry) -> Option<f64> {
    match &entry.fact {
        Fact::Team(TeamFact::AlarmChanged { alarm, status, .. })
            if alarm.as_str() == "OneBox_Faults" && status.state == AlarmState::Alarm =>
        {
            Some(status.since.0 as f64)
        }
        _ => None,
    }
}

fn rejected(fact: &Fact, wanted: ReleaseNo) -> Option<f64> {
    match fact {
        Fact::Pipeline(PipelineFact::Rejected { release, at, .. }) if *release == wanted => Some(at.0 as f64),
        _ => None,
    }
}

/// What the one-box runs, and its weight.
fn one_box(slots: &[Observation]) -> Option<(RunSpecDigest, u32)> {
    let slot = slots.iter().find(|slot| slot.slot.target.role == Role::OneBox)?;
    slot.boxes.iter().max_by_key(|b| b.weight).map(|b| (b.run_spec.clone(), b.weight))
}

/// When the box that runs something else than before has no requests any more, after it had some; in milliseconds since
/// 1970.
async fn weight_zero(fleet: FleetClient, before: RunSpecDigest) -> Result<f64> {
    let (mut version, mut served) = (0, false);
    loop {
        let seen = fleet.watch(version).await?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock is before 1970")?;
        version = seen.version;
        for slot in seen.observations.iter().filter(|slot| slot.slot.target.role == Role::OneBox) {
            let serves = slot.boxes.iter().any(|b| b.run_spec != before && b.weight > 0);
            if served && !serves {
                return Ok(now.as_secs_f64() * 1000.0);
            }
            served |= serves;
        }
    }
}

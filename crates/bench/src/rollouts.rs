//! Deployments and rollbacks in a row under load, through the whole of tidegate: how many requests fail. None may.

use crate::load::Load;
use crate::report::{Figure, median, percentile};
use crate::scene::Scene;
use crate::shop::{CONNECTIONS, PER_SECOND, Shop};
use anyhow::{Result, ensure};
use serde_json::json;
use std::time::Instant;

/// Deployments, and as many rollbacks.
const COUNT: usize = 100;

/// Measures.
pub(crate) async fn take(scene: &Scene) -> Result<Figure> {
    let mut shop = Shop::open(scene, "rollouts", "0s").await?;
    let first = tidegate_core::ids::ReleaseNo(1);
    let good = shop.running().await?;
    let load = Load::start(shop.customers())?;
    let (mut forward, mut back) = (Vec::new(), Vec::new());
    for _ in 0..COUNT {
        let begun = Instant::now();
        let release = shop.push("good").await?;
        shop.settled(release).await?;
        forward.push(begun.elapsed().as_secs_f64());
        ensure!(shop.running().await? != good, "nothing was deployed");
        let begun = Instant::now();
        shop.roll_back(release).await?;
        shop.settled(first).await?;
        back.push(begun.elapsed().as_secs_f64());
        ensure!(shop.running().await? == good, "nothing was taken back");
    }
    let outcome = load.end().await?;
    drop(shop);
    scene.end().await;
    let (sent, failed) = (outcome.good + outcome.failed, outcome.failed);
    let spread = |seconds: &[f64]| {
        let of = |part| percentile(seconds.iter().copied(), part);
        format!("median {:.2} s, longest {:.2} s", of(0.5), of(1.0))
    };
    let mut text = format!(
        "rollouts: {COUNT} deployments and {COUNT} rollbacks of 4 boxes (a one-box, then 3) in a row, {CONNECTIONS} \
         connections, {PER_SECOND} \
         requests/s, half of them POSTs\nfailed requests: {failed} of {sent}\nfrom the commit to its last box: {}\nfrom the \
         order to the last box back: {}\np99 of the requests: {:.1} ms\n",
        spread(&forward),
        spread(&back),
        f64::from(outcome.p99_us) / 1000.0,
    );
    for failure in &outcome.failures {
        text.push_str(&format!("failed: {failure}\n"));
    }
    let values = json!({
        "deployments": COUNT, "rollbacks": COUNT, "requests": sent, "failed_requests": failed,
        "failures": outcome.failures, "p99_us": outcome.p99_us,
        "deployment_s_median": median(forward), "rollback_s_median": median(back),
    });
    Figure::new("rollouts", text, values)
}

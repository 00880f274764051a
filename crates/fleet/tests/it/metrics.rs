//! The standard metrics against what the clients counted.

use crate::load::{Load, ask};
use crate::support::{Fleet, eventually, main_slot};
use std::collections::BTreeMap;
use tidegate_core::metrics::{ApiCell, Cell};

async fn all_cells(fleet: &Fleet) -> (Vec<Cell>, u64, i64) {
    let (mut cells, mut unrouted, mut after) = (Vec::new(), 0, 0);
    loop {
        let page = fleet.client.metrics(after).await.unwrap();
        cells.extend(page.cells);
        unrouted += page.unrouted.iter().map(|u| u.requests).sum::<u64>();
        if page.complete_until == after {
            return (cells, unrouted, after);
        }
        after = page.complete_until;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_request_is_counted_once_and_quiet_seconds_are_zeros() {
    let fleet = Fleet::start().await;
    let (main, spec) = (main_slot(), fleet.run_spec("1", "ok"));
    fleet.bring(&main, &[(&spec, 2)]).await;
    let port = fleet.port(&main).await;
    let load = Load::start(port, 3);
    load.more(500).await;
    eventually("CPU time is measured", async || {
        all_cells(&fleet).await.0.iter().any(|c| c.cpu_millicores > 0).then_some(())
    })
    .await;
    let by_box = load.counters.clone();
    let good = load.finish();
    for _ in 0..3 {
        assert_eq!(ask(port, "GET", "/fail").status, 500);
        assert_eq!(ask(port, "GET", "/missing").status, 404);
        assert_eq!(ask(port, "GET", "/log").status, 200);
    }
    let expected = good + 9;
    let (cells, _, until) = eventually("everything is counted", async || {
        let (cells, unrouted, until) = all_cells(&fleet).await;
        let sum: u64 = cells.iter().flat_map(|c| c.apis.values()).map(|a| a.requests).sum();
        let errors: u32 = cells.iter().map(|c| c.log_errors).sum();
        assert!(sum <= expected, "{sum} of {expected}");
        (sum == expected && errors >= 3).then_some((cells, unrouted, until))
    })
    .await;

    let mut apis: BTreeMap<&str, ApiCell> = BTreeMap::new();
    let mut boxes: BTreeMap<String, u64> = BTreeMap::new();
    for cell in &cells {
        for (name, api) in &cell.apis {
            apis.entry(name).or_default().merge(api);
            *boxes.entry(cell.box_id.clone()).or_default() +=
                if name.ends_with("/work") { api.requests } else { 0 };
        }
    }
    assert_eq!(apis["POST /work"].requests + apis["GET /work"].requests, good);
    assert_eq!(apis["POST /work"].latency.count(), apis["POST /work"].requests);
    assert!(apis["POST /work"].latency.quantile(500).unwrap() > 0);
    assert_eq!((apis["GET /fail"].requests, apis["GET /fail"].faults), (3, 3));
    assert_eq!((apis["other"].requests, apis["other"].errors), (3, 3), "a 404 makes no label");
    assert_eq!(boxes, *by_box.by_box.lock().unwrap());
    assert_eq!(cells.iter().map(|c| c.log_errors).sum::<u32>(), 3);
    assert!(cells.iter().all(|c| c.target == main.target));
    assert!(cells.iter().any(|c| c.memory_kib > 0 && c.disk_kib > 0 && c.healthy));

    // Seconds without a request are there, for each box, with nothing in them.
    let (quiet, ..) = eventually("two quiet seconds pass", async || {
        let seen = all_cells(&fleet).await;
        (seen.2 >= until + 2).then_some(seen)
    })
    .await;
    let zeros: Vec<&Cell> = quiet.iter().filter(|c| c.second > until).collect();
    assert!(zeros.len() >= 4 && zeros.iter().all(|c| c.apis.is_empty() && c.healthy), "{zeros:?}");

    // Requests that no box could take are counted as such.
    fleet.bring(&main, &[]).await;
    (0..4).for_each(|_| assert_eq!(ask(port, "POST", "/work").status, 503));
    eventually("they are counted", async || (all_cells(&fleet).await.1 == 4).then_some(())).await;
}

//! One fleet process follows another under load.

use crate::load::{Client, Load};
use crate::support::{Fleet, alive, eventually, main_slot, slot};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upgrade_fails_no_request_and_touches_no_box() {
    let fleet = Fleet::start().await;
    let (main, one_box, spec) =
        (main_slot(), slot("shop/production/eu-1/a/one-box"), fleet.run_spec("1", "ok"));
    fleet.bring(&main, &[(&spec, 3)]).await;
    fleet.bring(&one_box, &[(&spec, 1)]).await;
    let port = fleet.port(&main).await;
    let pids: Vec<u32> = fleet.observe(&main).await.boxes.iter().map(|b| fleet.pid(&main, b)).collect();
    let load = Load::start(port, 4);
    load.more(200).await;
    // A slow request that is under way during the whole hand-over, and one connection that idles through it.
    let slow = std::thread::spawn(move || crate::load::ask(port, "POST", "/slow?ms=1500").status);
    let mut idle = Client::connect(port).unwrap();
    assert_eq!(idle.ask("POST", "/work", b"1").unwrap().status, 200);
    let mut supervisor = fleet.client.status().await.unwrap().pid;
    for _ in 0..2 {
        let next = fleet.client.upgrade().await.unwrap().pid;
        eventually("the successor supervises", async || {
            fleet.client.status().await.ok().filter(|s| s.pid == next)
        })
        .await;
        load.more(200).await;
        if let Ok(answer) = idle.ask("POST", "/work", b"2") {
            assert_eq!(answer.status, 200);
            assert_eq!(answer.headers["connection"], "close");
            idle = Client::connect(port).unwrap();
            assert_eq!(idle.ask("POST", "/work", b"3").unwrap().status, 200);
        } else {
            panic!("an idle connection was cut");
        }
        eventually("the process before ends", async || (!alive(supervisor)).then_some(())).await;
        supervisor = next;
    }
    assert_eq!(slow.join().unwrap(), 200);
    // The new process supervises in full: it replaces boxes under the same load.
    let new = fleet.run_spec("2", "ok");
    fleet.bring(&main, &[(&spec, 1), (&new, 2)]).await;
    fleet.bring(&main, &[(&spec, 3)]).await;
    load.more(100).await;
    let again = fleet.observe(&main).await;
    assert!(again.boxes.iter().all(|b| b.incarnation == 1));
    assert!(again.boxes.iter().any(|b| pids.contains(&fleet.pid(&main, b))), "no box survived");
    let good = load.finish();

    // Every request of the load was counted once, whichever process served it.
    let counted = eventually("all requests are counted", async || {
        let (mut after, mut sum) = (0, 0);
        loop {
            let page = fleet.client.metrics(after).await.unwrap();
            let cells = page
                .cells
                .iter()
                .filter_map(|c| Some((c, c.apis.iter().filter(|(n, _)| n.ends_with("/work")))));
            sum += cells.flat_map(|(_, apis)| apis.map(|(_, api)| api.requests)).sum::<u64>();
            if page.complete_until == after {
                break;
            }
            after = page.complete_until;
        }
        // Those of the idle connection: one before, two in each round.
        (sum >= good + 5).then_some(sum)
    })
    .await;
    assert_eq!(counted, good + 5);
}

//! One fleet process follows another under load.

use crate::load::{Client, Load};
use crate::support::{Fleet, alive, eventually, main_slot, slot};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

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
            let apis = page.cells.iter().flat_map(|cell| &cell.apis);
            sum += apis.filter(|(name, _)| name.ends_with("/work")).map(|(_, api)| api.requests).sum::<u64>();
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

/// A successor that has said these words; none while the fleet takes its boxes up again after another one.
fn greet(fleet: &Fleet, hello: &[u8]) -> Option<UnixStream> {
    let mut successor = UnixStream::connect(fleet.data.join("handover.sock")).ok()?;
    let length = u32::try_from(hello.len()).unwrap();
    successor.write_all(&[&length.to_le_bytes()[..], hello].concat()).ok()?;
    Some(successor)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_successor_that_fails_leaves_everything_as_it_was() {
    let fleet = Fleet::start().await;
    let (main, spec) = (main_slot(), fleet.run_spec("1", "ok"));
    fleet.bring(&main, &[(&spec, 2)]).await;
    let boxes = fleet.observe(&main).await.boxes;
    let pids: Vec<u32> = boxes.iter().map(|b| fleet.pid(&main, b)).collect();
    let load = Load::start(fleet.port(&main).await, 3);
    load.more(50).await;
    // One that speaks no protocol of this one's is given nothing.
    let mut stranger = greet(&fleet, br#"{"protocol":3,"oldest":2}"#).unwrap();
    assert!(matches!(stranger.read(&mut [0]), Ok(0) | Err(_)), "it is left standing");
    // A newer one that still speaks this one's greets, is given everything in that, and dies before it says that it is ready.
    let mut length = [0; 4];
    let mut successor = eventually("the fleet hands over again", async || {
        let mut successor = greet(&fleet, br#"{"protocol":2,"oldest":1,"more":true}"#)?;
        successor.read_exact(&mut length).is_ok().then_some(successor)
    })
    .await;
    let mut estate = vec![0; u32::from_le_bytes(length) as usize];
    successor.read_exact(&mut estate).unwrap();
    let estate: serde_json::Value = serde_json::from_slice(&estate).unwrap();
    assert_eq!(estate["protocol"], 1);
    drop(successor);
    let version = eventually("the fleet supervises again", async || {
        let status = fleet.client.status().await.ok()?;
        (status.pid == fleet.child.id() && status.boxes == 2).then_some(status.version)
    })
    .await;
    assert!(!version.is_empty());
    fleet.settled(&main, &[(&spec, 2)]).await;
    let again: Vec<u32> = fleet.observe(&main).await.boxes.iter().map(|b| fleet.pid(&main, b)).collect();
    assert_eq!(pids, again);
    fleet.bring(&main, &[(&spec, 3)]).await;
    load.more(100).await;
    load.finish();
}

//! Rolling, surge, condemned RunSpecs, scaling, environment.

use crate::load::{Load, ask};
use crate::support::{Fleet, eventually, main_slot, slot};
use tidegate_core::engine::BoxHealth;
use tidegate_core::ids::SecretName;
use tidegate_core::run_spec::Workload;
use tidegate_fleet::protocol::Code;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_split_fails_no_request() {
    let fleet = Fleet::start().await;
    let (slot, old, new) = (main_slot(), fleet.run_spec("1", "ok"), fleet.run_spec("2", "ok"));
    fleet.bring(&slot, &[(&old, 3)]).await;
    let load = Load::start(fleet.port(&slot).await, 4);
    load.more(100).await;
    for n in 1..=3 {
        fleet.bring(&slot, &[(&old, 3 - n), (&new, n)]).await;
    }
    for n in 1..=3 {
        fleet.bring(&slot, &[(&new, 3 - n), (&old, n)]).await;
    }
    load.more(100).await;
    let versions = load.counters.by_version.lock().unwrap().clone();
    assert!(versions["1"] > 0 && versions["2"] > 0, "{versions:?}");
    load.finish();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_surge_the_new_box_is_healthy_before_the_old_one_leaves() {
    let fleet = Fleet::start().await;
    let (slot, old, new) = (main_slot(), fleet.run_spec("1", "ok"), fleet.run_spec("2", "ok"));
    fleet.bring(&slot, &[(&old, 1)]).await;
    let load = Load::start(fleet.port(&slot).await, 2);
    load.more(10).await;
    let mut set = fleet.command_for(&slot, &[(&new, 1)]);
    set.desired.surge = true;
    fleet.set(&set).await.unwrap();
    fleet
        .until(&slot, "the new box is there", |o| {
            let healthy = |spec: &tidegate_core::run_spec::RunSpec| {
                o.boxes.iter().any(|b| b.run_spec == spec.digest() && b.health.is_healthy())
            };
            assert!(healthy(&old) || healthy(&new), "no box serves: {o:?}");
            o.boxes.len() == 1 && healthy(&new)
        })
        .await;
    load.more(10).await;
    load.finish();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_condemned_run_spec_loses_its_requests_as_far_as_the_rest_can_serve() {
    let fleet = Fleet::start().await;
    let (slot, good, bad) = (main_slot(), fleet.run_spec("good", "ok"), fleet.run_spec("bad", "ok"));
    fleet.bring(&slot, &[(&good, 2), (&bad, 2)]).await;
    let port = fleet.port(&slot).await;
    let mut set = fleet.command_for(&slot, &[(&good, 2), (&bad, 2)]);
    set.desired.condemned = vec![bad.digest()];
    set.desired.minimum_serving = 3;
    fleet.set(&set).await.unwrap();
    let serving = |o: &tidegate_core::engine::Observation| o.boxes.iter().filter(|b| b.weight > 0).count();
    fleet.until(&slot, "one bad box serves on", |o| o.fence == set.fence && serving(o) == 3).await;
    let mut set = fleet.command_for(&slot, &[(&good, 2), (&bad, 2)]);
    set.desired.condemned = vec![bad.digest()];
    set.desired.minimum_serving = 2;
    let start = std::time::Instant::now();
    fleet.set(&set).await.unwrap();
    let seen = fleet.until(&slot, "no bad box serves", |o| o.fence == set.fence && serving(o) == 2).await;
    assert!(start.elapsed().as_secs() < 5, "it took {:?}", start.elapsed());
    assert!(
        seen.boxes.iter().all(|b| b.health.is_healthy() && (b.weight > 0) == (b.run_spec == good.digest()))
    );
    for _ in 0..20 {
        assert_eq!(ask(port, "GET", "/work").headers["x-version"], "good");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_split_drains_and_stops_everything() {
    let fleet = Fleet::start().await;
    let (slot, spec) = (main_slot(), fleet.run_spec("1", "ok"));
    fleet.bring(&slot, &[(&spec, 2)]).await;
    let port = fleet.port(&slot).await;
    let pids: Vec<u32> = fleet.observe(&slot).await.boxes.iter().map(|b| fleet.pid(&slot, b)).collect();
    let slow = std::thread::spawn(move || ask(port, "GET", "/slow?ms=700"));
    let busy = async || {
        let page = fleet.client.metrics(0).await.unwrap();
        (!page.cells.is_empty()).then_some(())
    };
    eventually("the fleet counts", busy).await;
    fleet.bring(&slot, &[]).await;
    assert_eq!(slow.join().unwrap().status, 200, "a request in flight was broken off");
    assert!(pids.iter().all(|pid| !crate::support::alive(*pid)));
    assert!(std::fs::read_dir(fleet.box_folder(&slot.target, "")).unwrap().next().is_none());
    let answer = ask(port, "GET", "/work");
    assert_eq!(answer.status, 503);
    assert!(String::from_utf8_lossy(&answer.body).contains("no healthy box"), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_box_gets_its_environment_and_nothing_else() {
    let fleet = Fleet::start().await;
    let one_box = slot("shop/production/eu-1/a/one-box");
    let mut spec = fleet.run_spec("1", "ok");
    spec.secrets.insert("PASSWORD".into(), "db-password".parse().unwrap());
    spec.endpoints.insert("stock-room".parse().unwrap(), "gamma".parse().unwrap());
    let mut set = fleet.command_for(&one_box, &[(&spec, 1)]);
    let refused = fleet.set(&set).await.unwrap_err();
    assert_eq!(refused.code(), Some(Code::BadCommand), "{refused}");
    set.secrets.insert(SecretName::new("db-password").unwrap(), "hush".into());
    fleet.set(&set).await.unwrap();
    fleet.settled(&one_box, &[(&spec, 1)]).await;
    let text = String::from_utf8(ask(fleet.port(&one_box).await, "GET", "/env").body).unwrap();
    let b = &fleet.observe(&one_box).await.boxes[0];
    let folder = fleet.box_folder(&one_box.target, &b.id).canonicalize().unwrap();
    let endpoints = fleet.client.endpoints().await.unwrap();
    let stock = endpoints.iter().find(|e| e.endpoint.service.as_str() == "stock-room").unwrap();
    assert_eq!(stock.endpoint.region.as_str(), "eu-1");
    for line in [
        format!("HOME={}", folder.display()),
        format!("TMPDIR={}/tmp", folder.display()),
        "PASSWORD=hush".to_owned(),
        "TIDEGATE_SERVICE=shop".to_owned(),
        "TIDEGATE_ENVIRONMENT=production".to_owned(),
        "TIDEGATE_REGION=eu-1".to_owned(),
        "TIDEGATE_AZ=a".to_owned(),
        "TIDEGATE_ROLE=one-box".to_owned(),
        format!("TIDEGATE_BOX={}", b.id),
        format!("TIDEGATE_RELEASE={}", spec.digest()),
        format!("TIDEGATE_ENDPOINT_STOCK_ROOM={}", stock.url),
    ] {
        assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
    }
    let allowed = [
        "PATH",
        "HOME",
        "TMPDIR",
        "PORT",
        "PASSWORD",
        "VERSION",
        "TEST_EXE",
        "TEST_MODE",
        "PWD",
        "OLDPWD",
        "SHLVL",
        "_",
    ];
    for name in text.lines().map(|l| l.split('=').next().unwrap()) {
        assert!(name.starts_with("TIDEGATE_") || allowed.contains(&name), "{name} leaked into the box");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_command_may_not_ask_is_refused() {
    let fleet = Fleet::start().await;
    let (main, spec) = (main_slot(), fleet.run_spec("1", "ok"));
    fleet.bring(&main, &[(&spec, 1)]).await;
    let check = async |what: &str, set: &tidegate_fleet::protocol::SetSlot, code: Code, text: &str| {
        let refused = fleet.set(set).await.unwrap_err();
        assert_eq!(refused.code(), Some(code), "{what}: {refused}");
        assert!(refused.to_string().contains(text), "{what}: {refused}");
    };
    let mut other = main.clone();
    other.pipeline = "os".parse().unwrap();
    check("two slots", &fleet.command_for(&other, &[(&spec, 1)]), Code::SlotTaken, "pipeline app").await;

    let mut set = fleet.command_for(&main, &[(&spec, 1)]);
    set.fence.generation = 0;
    check("older", &set, Code::StaleFence, "older").await;
    let accepted = fleet.command_for(&main, &[(&spec, 1)]);
    fleet.set(&accepted).await.unwrap();
    fleet.set(&accepted).await.unwrap();
    let mut set = fleet.command_for(&main, &[(&spec, 2)]);
    set.fence = accepted.fence;
    check("same fence, other content", &set, Code::FenceReused, "another content").await;

    let mut reserved = spec.clone();
    reserved.environment.insert("TIDEGATE_BOX".into(), "x".into());
    check("reserved", &fleet.command_for(&main, &[(&reserved, 1)]), Code::BadCommand, "TIDEGATE_BOX").await;
    let mut outside = spec.clone();
    if let Workload::Process(process) = &mut outside.workload {
        process.command = vec!["../run".into()];
    }
    check("outside", &fleet.command_for(&main, &[(&outside, 1)]), Code::BadCommand, "../run").await;
    let mut set = fleet.command_for(&main, &[(&fleet.run_spec("9", "ok"), 1)]);
    set.run_specs.clear();
    check("unknown RunSpec", &set, Code::BadCommand, "was not given").await;
    assert!(matches!(fleet.observe(&main).await.boxes[0].health, BoxHealth::Healthy { .. }));
}

//! Alarms from what a team has: a real Prometheus looks at a box's own metrics, a rule of it fires, a real Alertmanager tells
//! of it, and the release is rolled back; and what it means when one of them is silent.

use crate::world::monitoring::{self, Server, free_address};
use crate::world::{Repo, World, definitions, release, steps, words};
use serde_json::{Value, json};
use std::fs;
use tidegate_api::{StandingStatus, WorkStatus};
use tidegate_core::alarm::AlarmName;

const BROKEN: &str = "Shop_Broken";

/// The alarms without data for which the only step's bake stands still.
fn blind_for(world: &World) -> Option<Vec<AlarmName>> {
    let pipeline = world.pipeline("app");
    match &steps(&pipeline).next()?.work {
        WorkStatus::Baking { bake, .. } => Some(bake.blind.clone()?.alarms.into_iter().collect()),
        _ => None,
    }
}

fn cause(world: &World, number: u64) -> Option<String> {
    match release(&world.pipeline("app"), number)?.standing {
        StandingStatus::Rejected { cause, .. } => Some(cause.text),
        _ => None,
    }
}

fn bakes(world: &World, number: u64) -> Option<()> {
    let pipeline = world.pipeline("app");
    let baking =
        |work: &WorkStatus| matches!(work, WorkStatus::Baking { release, .. } if release.0 == number);
    baking(&steps(&pipeline).next()?.work).then_some(())
}

/// A third version that mends this commit comes to the mainline.
fn mended(world: &World, repo: &Repo, broken: &str) {
    let message = format!("mend it\n\nFixes: {broken}");
    let commit = repo.commit(&[("version", "3"), ("behaviour", "good")], &message);
    world.bob(&["approve", &commit]).well();
    repo.merge(&commit);
}

fn only_broken(names: &[AlarmName]) -> bool {
    matches!(names, [name] if name.as_str() == BROKEN)
}

#[test]
fn an_alertmanager_s_alert_rolls_back_and_its_silence_is_blindness() {
    if !monitoring::is_there() {
        return;
    }
    let mut organisation = definitions::organisation();
    organisation["services"][0]["outside"] = json!([{"name": BROKEN, "from": "alertmanager", "ttl": "5s"}]);
    let world = World::start_with(&organisation, None);
    let repo = world.repo("shop");
    world.land(&repo, &[]);
    let mut definition = definitions::application(&repo);
    world.apply("app", &definition).well();
    world.until("nobody has spoken of the alarm, so nothing bakes", || {
        blind_for(&world).filter(|names| only_broken(names))
    });

    let token = world.cli(&["token", "create", "alice"]).well().trim().to_owned();
    let addresses = [free_address(), free_address()];
    let tidegate = world.address().unwrap();
    let alertmanager = Server::alertmanager(world.dir(), &addresses[0], &tidegate, &token);
    let endpoint = world.endpoint("shop", "beta", "eu");
    let _prometheus = Server::prometheus(world.dir(), &addresses[1], &endpoint, &addresses[0]);
    // The watchdog comes, and nothing fires.
    world.until_passed("app", 1);

    definition["stages"][0]["bake"]["az"] = json!("1h");
    world.apply("app", &definition).well();
    let broken = world.land(&repo, &[("version", "2"), ("behaviour", "broken")]);
    let why = world.until("r2 is rolled back", || cause(&world, 2));
    assert!(why.contains("Shop_High_Severity") && why.contains("beta/eu"), "{why}");
    assert!(why.contains("Shop_Broken: the shop says that it is broken: 1"), "{why}");
    world.until_everywhere("app", 1);

    // The next one is watched, until nobody watches any more.
    mended(&world, &repo, &broken);
    world.until("r3 bakes and is seen", || bakes(&world, 3).filter(|()| blind_for(&world).is_none()));
    alertmanager.end();
    world.until("the bake stands still", || blind_for(&world).filter(|names| only_broken(names)));
    let status = words(&world.cli(&["status"]).well());
    assert!(status.contains("INSUFFICIENT_DATA Shop_Broken since"), "{status}");
    assert!(status.contains("no word that counts since"), "{status}");
    assert!(status.contains("no data for Shop_Broken"), "{status}");
    assert_eq!(cause(&world, 3), None, "silence convicts nobody");
    let _alertmanager = Server::alertmanager(world.dir(), &addresses[0], &tidegate, &token);
    world.until("it is seen again", || blind_for(&world).is_none().then_some(()));
    world.until("and bakes", || bakes(&world, 3));

    // Whoever loses the token tells nothing any more.
    world.cli(&["token", "revoke", "alice"]).well();
    world.until("revoked, it is silence", || blind_for(&world).filter(|names| only_broken(names)));
}

/// The organisation with an alarm that asks a Prometheus.
fn asking(address: &str) -> Value {
    let mut organisation = definitions::organisation();
    organisation["teams"][0]["prometheus"] =
        json!({"url": format!("http://{address}"), "secret": "prometheus"});
    let labels = "service=\"$service\", environment=\"$environment\", region=\"$region\"";
    let query = format!("max(last_over_time(shop_broken{{{labels}}}[2s]))");
    organisation["services"][0]["alarms"].as_array_mut().unwrap().push(json!({
        "name": BROKEN, "metric": {"promql": {"query": query}}, "threshold": 0, "period": "1s", "datapoints": "1 of 1"
    }));
    organisation
}

#[test]
fn a_query_in_promql_rolls_back_and_a_prometheus_that_is_gone_is_blindness() {
    if !monitoring::is_there() {
        return;
    }
    let addresses = [free_address(), free_address()];
    let world = World::start_with(&asking(&addresses[1]), None);
    let secret = world.dir().join("secret");
    fs::write(&secret, "a token that this Prometheus does not ask for").unwrap();
    let repo = world.repo("shop");
    world.land(&repo, &[]);
    let mut definition = definitions::application(&repo);
    world.apply("app", &definition).well();
    let trouble = |says: &'static str| {
        let status = words(&world.cli(&["status"]).well());
        let what = "TROUBLE Prometheus has no data for Shop_Broken in beta/eu";
        (status.contains(what) && status.contains(says)).then_some(status)
    };
    world.until("there is no token", || trouble("secret"));
    let file = fs::File::open(&secret).unwrap();
    world.cli_with(&["secret", "set", "prometheus"], file).well();
    world.until("nobody answers", || trouble("refused"));
    assert!(blind_for(&world).is_some_and(|names| only_broken(&names)));
    let status = words(&world.cli(&["status"]).well());
    assert!(!status.contains(&addresses[1]), "an address may hold a secret: {status}");

    let endpoint = world.endpoint("shop", "beta", "eu");
    let prometheus = Server::prometheus(world.dir(), &addresses[1], &endpoint, &addresses[0]);
    world.until_passed("app", 1);
    world.until("the trouble is over", || world.status().troubles.is_empty().then_some(()));

    definition["stages"][0]["bake"]["az"] = json!("1h");
    world.apply("app", &definition).well();
    let broken = world.land(&repo, &[("version", "2"), ("behaviour", "broken")]);
    let why = world.until("r2 is rolled back", || cause(&world, 2));
    assert!(why.contains("Shop_Broken: PromQL max(last_over_time(shop_broken{"), "{why}");
    assert!(why.contains(" 1 > 0 in 1 of 1 periods of 1s"), "{why}");
    world.until_everywhere("app", 1);

    mended(&world, &repo, &broken);
    world.until("r3 bakes and is seen", || bakes(&world, 3).filter(|()| blind_for(&world).is_none()));
    prometheus.end();
    world.until("the bake stands still", || blind_for(&world).filter(|names| only_broken(names)));
    assert_eq!(cause(&world, 3), None, "silence convicts nobody");
}

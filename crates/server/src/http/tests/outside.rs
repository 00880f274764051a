//! Words on alarms from outside: of members and of others, old, huge, garbled, and a thousand a second.

use super::*;
use tidegate_core::alarm::AlarmState;
use tidegate_core::ids::TeamId;
use tidegate_core::team::Team;

const REPORT: &str = "/v1/teams/web/alarms/beta/eu-1/Payments";
const ALERTS: &str = "/v1/alertmanager";

/// A service with an alarm of the API and two of an Alertmanager.
async fn world() -> World {
    let world = applied().await;
    let mut organisation = organisation();
    organisation["services"][0]["outside"] = json!([
        {"name": "Payments", "ttl": "10m"},
        {"name": "HighLatency", "from": "alertmanager", "ttl": "10m"},
        {"name": "Panics", "from": "alertmanager", "scope": "one-box", "ttl": "10m"},
    ]);
    let (status, answer) =
        world.call("PUT", "/v1/organisation", &world.admin, &organisation.to_string()).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    world
}

impl World {
    fn team(&self) -> Arc<Team> {
        self.runtime.team(&TeamId::new("web").unwrap()).unwrap()
    }

    fn state(&self, place: &str, alarm: &str) -> AlarmState {
        self.team().alarm(&place.to_owned().try_into().unwrap(), &alarm.parse().unwrap())
    }

    /// The server's time; each look at it is a second.
    fn now(&self) -> i64 {
        self.runtime.now().0
    }
}

fn alert(name: &str, status: &str, starts_at: i64, ends_at: i64) -> Value {
    json!({
        "status": status,
        "labels": {"alertname": name, "service": "frontend", "environment": "beta", "region": "eu-1",
            "severity": "page"},
        "annotations": {"summary": "p99 is 4 s"},
        "startsAt": Timestamp(starts_at).to_string(),
        "endsAt": if ends_at == 0 { "0001-01-01T00:00:00Z".to_owned() } else { Timestamp(ends_at).to_string() },
        "generatorURL": "http://prometheus.test/graph",
        "fingerprint": "c95ac2b5d9cc8b61",
    })
}

fn watchdog(at: Option<i64>) -> Value {
    let annotations = at.map_or(json!({}), |at| json!({"at": format!("{}", at / 1_000)}));
    json!({
        "status": "firing", "labels": {"alertname": "Watchdog", "tidegate": "watchdog"}, "annotations": annotations,
        "startsAt": "2026-01-01T00:00:00Z", "endsAt": "0001-01-01T00:00:00Z",
    })
}

/// As Alertmanager 0.25 sends it.
fn message(alerts: &[Value]) -> Value {
    json!({
        "receiver": "tidegate", "status": "firing", "alerts": alerts,
        "groupLabels": {"alertname": "HighLatency", "service": "frontend"},
        "commonLabels": {}, "commonAnnotations": {}, "externalURL": "http://alertmanager.test",
        "version": "4", "groupKey": "{}:{alertname=\"HighLatency\"}", "truncatedAlerts": 0,
    })
}

async fn sends(world: &World, token: &str, message: &Value) -> Value {
    let (status, answer) = world.call("POST", ALERTS, token, &message.to_string()).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    answer
}

#[tokio::test]
async fn a_member_says_in_which_state_an_alarm_is_and_old_words_change_nothing() {
    let world = world().await;
    let alice = world.token("alice");
    let body = json!({"state": "alarm", "why": "cards are declined"});
    let (status, answer) = world.call("PUT", REPORT, &alice, &body.to_string()).await;
    assert_eq!(
        (status, &answer["text"]),
        (StatusCode::OK, &json!("Payments in beta/eu-1 is ALARM")),
        "{answer}"
    );
    let (_, status) = world.call("GET", "/v1/status", &alice, "").await;
    let alarms = status["teams"].as_array().unwrap().iter().flat_map(|t| t["alarms"].as_array().unwrap());
    let shown: Vec<&Value> = alarms.filter(|a| a["name"] == "Payments").collect();
    assert_eq!(shown.len(), 1, "{status}");
    assert_eq!((&shown[0]["state"], &shown[0]["why"]), (&json!("alarm"), &json!("cards are declined")));
    let (_, log) = world.call("GET", "/v1/log", &alice, "").await;
    let entry = log["entries"]
        .as_array()
        .unwrap()
        .iter()
        .find(|e| e["text"].as_str().unwrap().starts_with("Payments in beta/eu-1 is ALARM"));
    assert_eq!(entry.unwrap()["by"], json!({"user": "alice"}));

    let old = json!({"state": "ok", "why": "fine", "at": world.now() - 60_000});
    let (status, answer) = world.call("PUT", REPORT, &alice, &old.to_string()).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    assert!(answer["text"].as_str().unwrap().contains("nothing new"), "{answer}");
    assert_eq!(world.state("beta/eu-1", "Payments"), AlarmState::Alarm);
    let new = json!({"state": "ok", "why": "fine", "at": world.now(), "ttl": "30s"});
    world.call("PUT", REPORT, &alice, &new.to_string()).await;
    assert_eq!(world.state("beta/eu-1", "Payments"), AlarmState::Ok);
    // One that overtakes another which said the same as before, and was not kept, is old as well.
    let late = new["at"].as_i64().unwrap();
    for (state, at) in [("ok", late + 3_000), ("alarm", late + 1_000)] {
        let body = json!({"state": state, "why": "late", "at": at, "ttl": "30s"}).to_string();
        let (status, answer) = world.call("PUT", REPORT, &alice, &body).await;
        assert!(
            status == StatusCode::OK && answer["text"].as_str().unwrap().contains("nothing new"),
            "{answer}"
        );
    }
    assert_eq!(world.state("beta/eu-1", "Payments"), AlarmState::Ok);
    // Each look at the clock is a second.
    while world.state("beta/eu-1", "Payments") == AlarmState::Ok {
        world.runtime.tick_due(100).unwrap();
        assert!(world.now() < late + 60_000, "it runs out after 30 s");
    }
    assert_eq!(world.state("beta/eu-1", "Payments"), AlarmState::InsufficientData);
}

#[tokio::test]
async fn words_of_others_and_about_nothing_are_refused() {
    let world = world().await;
    let (alice, carol) = (world.token("alice"), world.token("carol"));
    let (alice, carol, admin) = (alice.as_str(), carol.as_str(), world.admin.as_str());
    let body = json!({"state": "ok", "why": "fine"}).to_string();
    let ahead = json!({"state": "ok", "why": "fine", "at": world.now() + 3_600_000}).to_string();
    let (body, ahead) = (body.as_str(), ahead.as_str());
    for (token, path, body, expected, says) in [
        ("", REPORT, body, 401, "no token"),
        ("tg_forged", REPORT, body, 401, "not known"),
        (carol, REPORT, body, 403, "not a member"),
        (admin, REPORT, body, 403, "not a reporter"),
        (alice, "/v1/teams/web/alarms/beta/eu-1/Refunds", body, 404, "has no alarm 'Refunds'"),
        (alice, "/v1/teams/web/alarms/gamma/eu-1/Payments", body, 404, "does not deploy to gamma/eu-1"),
        (alice, "/v1/teams/web/alarms/beta/eu-1/HighLatency", body, 409, "is not told by the API"),
        (alice, REPORT, ahead, 400, "ahead of the server's clock"),
        (alice, REPORT, r#"{"state": "good", "why": "x"}"#, 400, "does not fit"),
        (alice, REPORT, r#"{"state": "ok", "why": " "}"#, 400, "a reason is missing"),
    ] {
        let (status, answer) = world.call("PUT", path, token, body).await;
        let message = answer["error"]["message"].as_str().unwrap_or_default();
        assert!(status.as_u16() == expected && message.contains(says), "{path} {body}: {status} {answer}");
    }
    assert_eq!(world.state("beta/eu-1", "Payments"), AlarmState::InsufficientData);
}

#[tokio::test]
async fn a_token_that_is_revoked_while_it_is_used_opens_nothing_from_then_on() {
    let world = world().await;
    let (alice, bob) = (world.token("alice"), world.token("bob"));
    let body = json!({"state": "ok", "why": "fine"}).to_string();
    assert_eq!(world.call("PUT", REPORT, &alice, &body).await.0, StatusCode::OK);
    assert_eq!(world.call("DELETE", "/v1/tokens/alice", &bob, "").await.0, StatusCode::FORBIDDEN);
    assert_eq!(world.call("DELETE", "/v1/tokens/alice", &world.admin, "").await.0, StatusCode::OK);
    assert_eq!(world.call("PUT", REPORT, &alice, &body).await.0, StatusCode::UNAUTHORIZED);
    let told = message(&[watchdog(None)]).to_string();
    assert_eq!(world.call("POST", ALERTS, &alice, &told).await.0, StatusCode::UNAUTHORIZED);
    assert_eq!(world.call("POST", ALERTS, &bob, &told).await.0, StatusCode::OK);
    assert_eq!(world.call("DELETE", "/v1/tokens/alice", &world.admin, "").await.0, StatusCode::NOT_FOUND);
    // The first administrator's is another one from then on.
    assert_eq!(world.call("DELETE", "/v1/tokens/admin", &world.admin, "").await.0, StatusCode::OK);
    let (status, _) = world.call("DELETE", "/v1/tokens/bob", &world.admin, "").await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    let new = std::fs::read_to_string(world.tokens_dir().join(crate::auth::ADMIN_TOKEN_FILE)).unwrap();
    assert_eq!(world.call("DELETE", "/v1/tokens/nobody", new.trim(), "").await.0, StatusCode::NOT_FOUND);
    let again = Tokens::open(world.tokens_dir(), Timestamp(0)).unwrap();
    assert_eq!((again.user_of(&alice), again.user_of(&bob).is_some()), (None, true), "it stays revoked");
}

#[tokio::test]
async fn an_alertmanager_s_alerts_are_alarms_until_they_have_ended() {
    let world = world().await;
    let alice = world.token("alice");
    let states = |world: &World| ["HighLatency", "Panics"].map(|name| world.state("beta/eu-1", name));
    let answer = sends(&world, &alice, &message(&[watchdog(None)])).await;
    assert_eq!(
        answer["ignored"][0]["why"], "it speaks for no alarm of a team of the caller's",
        "no place is known yet"
    );
    let begin = world.now();
    let fires = message(&[alert("HighLatency", "firing", begin, 0)]);
    let answer = sends(&world, &alice, &fires).await;
    assert_eq!(answer, json!({"version": 1, "taken": 1, "ignored": []}));
    assert_eq!(states(&world), [AlarmState::Alarm, AlarmState::InsufficientData]);
    let why = world.team().scopes.values().next().unwrap()[&"HighLatency".parse().unwrap()].why.clone();
    assert_eq!(why, "p99 is 4 s");
    // The way works, and the other one does not fire; the one that fires goes on.
    sends(&world, &alice, &message(&[watchdog(Some(world.now()))])).await;
    assert_eq!(states(&world), [AlarmState::Alarm, AlarmState::Ok]);
    let ended = message(&[alert("HighLatency", "resolved", begin, world.now())]);
    sends(&world, &alice, &ended).await;
    assert_eq!(states(&world), [AlarmState::Ok, AlarmState::Ok]);
    // Sent again by somebody who has recorded it: no alarm, and nobody goes on as if nothing were said.
    sends(&world, &alice, &fires).await;
    assert_eq!(states(&world)[0], AlarmState::InsufficientData);
    let now = world.now();
    sends(&world, &alice, &message(&[alert("HighLatency", "firing", now, 0)])).await;
    sends(&world, &alice, &ended).await;
    assert_eq!(states(&world)[0], AlarmState::Alarm, "an old end ends nothing");
}

#[tokio::test]
async fn that_an_alarm_has_ended_is_believed_only_of_a_message_that_would_know() {
    let world = world().await;
    let alice = world.token("alice");
    let fires = alert("HighLatency", "firing", world.now(), 0);
    sends(&world, &alice, &message(std::slice::from_ref(&fires))).await;
    let ended = alert("HighLatency", "resolved", world.now() - 5_000, world.now());
    // Another one behind the same alarm fires still.
    let answer = sends(&world, &alice, &message(&[ended.clone(), fires])).await;
    assert_eq!(answer["taken"], 2);
    assert_eq!(world.state("beta/eu-1", "HighLatency"), AlarmState::Alarm);
    let mut by_instance = message(std::slice::from_ref(&ended));
    by_instance["groupLabels"]["instance"] = json!("10.0.0.1");
    let mut truncated = message(&[ended.clone(), watchdog(None)]);
    truncated["truncatedAlerts"] = json!(3);
    for (message, ignored) in [(by_instance, 1), (truncated, 2)] {
        let answer = sends(&world, &alice, &message).await;
        assert_eq!(answer["ignored"].as_array().unwrap().len(), ignored, "{answer}");
        assert_eq!(world.state("beta/eu-1", "HighLatency"), AlarmState::Alarm);
    }
    sends(&world, &alice, &message(&[alert("HighLatency", "resolved", 0, world.now())])).await;
    assert_eq!(world.state("beta/eu-1", "HighLatency"), AlarmState::Ok);
}

#[tokio::test]
async fn what_an_alertmanager_says_of_nothing_is_told_and_never_its_fault() {
    let world = world().await;
    let alice = world.token("alice");
    let with = |name: &str, label: &str, value: &str| {
        let mut alert = alert(name, "firing", world.now(), 0);
        alert["labels"][label] = json!(value);
        alert
    };
    let mut silent = alert("HighLatency", "firing", 0, 0);
    silent["labels"].as_object_mut().unwrap().remove("region");
    let mut when = alert("HighLatency", "firing", 0, 0);
    when["startsAt"] = json!("yesterday");
    let mut watchdog = watchdog(None);
    watchdog["annotations"]["at"] = json!("NaN");
    let alerts = [
        with("Unknown", "service", "frontend"),
        with("HighLatency", "service", "billing"),
        with("HighLatency", "environment", "nowhere"),
        with("HighLatency", "region", "../../etc"),
        with("Payments", "service", "frontend"),
        alert("HighLatency", "pending", 0, 0),
        silent,
        when,
        watchdog,
    ];
    let before = world.newest_position();
    let answer = sends(&world, &alice, &message(&alerts)).await;
    let told: Vec<&str> =
        answer["ignored"].as_array().unwrap().iter().map(|i| i["why"].as_str().unwrap()).collect();
    expect_test::expect![[r#"
        [
            "the service 'frontend' has no alarm 'Unknown' from outside",
            "no team of the caller's has a service 'billing'",
            "web does not deploy to nowhere/eu-1",
            "'../../etc' is not a valid Region name: only a-z, 0-9 and '-' may stand in it",
            "the alarm 'Payments' is not told by an Alertmanager",
            "'pending' is no status of an alert",
            "it has no label 'region'",
            "'yesterday' is no time",
            "its annotation 'at' is no time",
        ]
    "#]]
    .assert_debug_eq(&told);
    assert_eq!((answer["taken"].as_u64(), world.newest_position()), (Some(0), before));
}

#[tokio::test]
async fn messages_that_are_forged_garbled_or_huge_are_refused() {
    let world = world().await;
    let (alice, carol) = (world.token("alice"), world.token("carol"));
    let (alice, carol, admin) = (alice.as_str(), carol.as_str(), world.admin.as_str());
    let good = message(&[alert("HighLatency", "firing", 1, 0)]).to_string();
    let other = message(&[]).to_string().replace("\"4\"", "\"3\"");
    let many = message(&vec![watchdog(None); 1_001]).to_string();
    let huge = format!("{{\"version\": \"4\", \"x\": \"{}\"}}", "x".repeat(2 << 20));
    let (good, deep) = (good.as_str(), "[".repeat(100_000));
    for (token, body, expected) in [
        ("", good, 401),
        ("tg_forged", good, 401),
        (carol, good, 403),
        (admin, good, 403),
        (alice, "", 400),
        (alice, "{", 400),
        (alice, "[]", 400),
        (alice, "{\"version\": \"4\"}", 400),
        (alice, other.as_str(), 400),
        (alice, many.as_str(), 413),
        (alice, huge.as_str(), 413),
        (alice, deep.as_str(), 400),
    ] {
        let (status, answer) = world.call("POST", ALERTS, token, body).await;
        assert_eq!(status.as_u16(), expected, "{:.60}: {answer}", body);
        assert!(answer["error"]["hint"].is_string(), "{answer}");
    }
    assert_eq!(world.state("beta/eu-1", "HighLatency"), AlarmState::InsufficientData);
}

/// A program's token that is lost lets nobody approve or steer.
#[tokio::test]
async fn a_reporter_speaks_of_alarms_and_of_nothing_else() {
    let world = world().await;
    let mut organisation = organisation();
    organisation["services"][0]["outside"] = json!([{"name": "Payments", "ttl": "10m"}]);
    organisation["teams"][0]["reporters"] = json!(["carol"]);
    let body = organisation.to_string();
    assert_eq!(world.call("PUT", "/v1/organisation", &world.admin, &body).await.0, StatusCode::OK);
    let carol = world.token("carol");
    let word = json!({"state": "alarm", "why": "cards are declined"}).to_string();
    assert_eq!(world.call("PUT", REPORT, &carol, &word).await.0, StatusCode::OK);
    assert_eq!(world.state("beta/eu-1", "Payments"), AlarmState::Alarm);
    assert_eq!(world.call("POST", ALERTS, &carol, &message(&[]).to_string()).await.0, StatusCode::OK);
    let approval = json!({"commit": "a".repeat(40)}).to_string();
    let (status, answer) = world.call("POST", "/v1/approvals", &carol, &approval).await;
    assert_eq!(status, StatusCode::FORBIDDEN, "{answer}");
    organisation["teams"][0]["reporters"] = json!(["nobody"]);
    let (status, answer) =
        world.call("PUT", "/v1/organisation", &world.admin, &organisation.to_string()).await;
    assert!(status == StatusCode::UNPROCESSABLE_ENTITY || status == StatusCode::BAD_REQUEST, "{answer}");
    assert!(answer.to_string().contains("/teams/0/reporters/0"), "{answer}");
}

#[tokio::test]
async fn thousands_of_messages_cost_their_sender_and_nobody_else() {
    let world = world().await;
    let (alice, bob) = (world.token("alice"), world.token("bob"));
    let mut answers = std::collections::BTreeMap::new();
    let before = world.newest_position();
    for n in 0..2_000 {
        let status = if n % 2 == 0 { "alarm" } else { "ok" };
        let body = json!({"state": status, "why": "flapping"}).to_string();
        let (status, answer) = world.call("PUT", REPORT, &alice, &body).await;
        if status == StatusCode::TOO_MANY_REQUESTS {
            assert_eq!(answer["error"]["code"], "TG013", "{answer}");
        }
        *answers.entry(status.as_u16()).or_insert(0) += 1;
    }
    let (taken, refused) = (answers[&200], answers[&429]);
    assert!(taken + refused == 2_000 && taken >= 200 && refused > 500, "{answers:?}");
    // Each change is one of this alarm, of the service's and the team's.
    assert!(world.newest_position() - before <= 3 * taken, "{answers:?}");
    let told = message(&[alert("HighLatency", "firing", world.now(), 0)]).to_string();
    assert_eq!(world.call("POST", ALERTS, &bob, &told).await.0, StatusCode::OK, "another one is heard");
    assert_eq!(world.state("beta/eu-1", "HighLatency"), AlarmState::Alarm);
}

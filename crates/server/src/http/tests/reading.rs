//! What is read, and what orders answer.

use super::*;
use expect_test::expect;
use tidegate_api::{LogPage, Status, WhyAnswer};

#[tokio::test]
async fn status_says_whose_word_is_missing_and_then_what_is_built() {
    let world = applied().await;
    world.push('a', None, "add a cache");
    let (_, answer) = world.call("GET", "/v1/status?pipeline=frontend", &world.admin, "").await;
    let status: Status = serde_json::from_value(answer).unwrap();
    let pending = &status.pipelines[0].sources[0].pending[0];
    expect!["no approval by a team member other than its author (bob)"]
        .assert_eq(pending.unreviewed.as_deref().unwrap_or_default());
    let approval = json!({"commit": "aaaaaaa", "team": "web"}).to_string();
    let (code, answer) = world.call("POST", "/v1/approvals", &world.token("bob"), &approval).await;
    assert_eq!(code, StatusCode::OK, "{answer}");
    world.tick();
    let (_, answer) = world.call("GET", "/v1/status", &world.admin, "").await;
    let status: Status = serde_json::from_value(answer).unwrap();
    let [release] = &status.pipelines[0].releases[..] else { panic!("{:?}", status.pipelines[0].releases) };
    let [change] = &release.changes[..] else { panic!("{:?}", release.changes) };
    assert_eq!((release.release.to_string().as_str(), change.subject.as_str()), ("r1", "add a cache"));
    assert_eq!((change.author.as_str(), change.approved_by.as_str(), change.late), ("Alice", "bob", true));
    assert!(matches!(release.build, tidegate_api::BuildStatus::Building { .. }), "{:?}", release.build);
    assert!(matches!(release.standing, tidegate_api::StandingStatus::Good), "{:?}", release.standing);
    let (_, answer) = world.call("GET", "/v1/why/aaaa", &world.admin, "").await;
    let why: WhyAnswer = serde_json::from_value(answer).unwrap();
    assert_eq!(why.commits[0].text, "it is in r1, which is being built");
    let steps: Vec<&str> = why.commits[0].steps.iter().map(|s| s.step.as_str()).collect();
    let expected = [
        "beta/az-1",
        "beta/az-2",
        "wave-1/one-box",
        "wave-1/az-1",
        "wave-1/az-2",
        "wave-2/one-box",
        "wave-2/az-1",
        "wave-2/az-2",
    ];
    assert_eq!(steps, expected);
}

#[tokio::test]
async fn holds_have_numbers_by_which_they_are_lifted() {
    let world = applied().await;
    let alice = world.token("alice");
    let hold = json!({"reason": "audit", "expires_in": "2h", "stage": "beta"}).to_string();
    let (status, answer) = world.call("POST", "/v1/pipelines/frontend/holds", &alice, &hold).await;
    assert_eq!((status, &answer["number"]), (StatusCode::OK, &json!(1)), "{answer}");
    let (_, answer) = world.call("GET", "/v1/status", &alice, "").await;
    let status: Status = serde_json::from_value(answer).unwrap();
    let standing = &status.pipelines[0].holds[0];
    assert_eq!((standing.number, standing.reason.as_str()), (1, "audit"));
    assert!(standing.until.unwrap().since(standing.since).millis() >= 7_200_000 - 60_000);
    for (body, says) in [
        (json!({"reason": " "}), "a reason is missing"),
        (json!({"reason": "x", "stage": "nowhere"}), "frontend has no stage 'nowhere'"),
        (json!({"reason": "x", "until": 1}), "unknown field `until`"),
    ] {
        let path = "/v1/pipelines/frontend/holds";
        let (status, answer) = world.call("POST", path, &alice, &body.to_string()).await;
        let message = answer["error"]["message"].as_str().unwrap();
        assert!(status.is_client_error() && message.contains(says), "{answer}");
    }
    for (number, expected) in [("1", 200), ("1", 409), ("x", 400)] {
        let path = format!("/v1/pipelines/frontend/holds/{number}");
        assert_eq!(world.call("DELETE", &path, &alice, "").await.0.as_u16(), expected, "{number}");
    }
}

#[tokio::test]
async fn what_is_not_there_is_said_in_the_same_form() {
    let world = applied().await;
    for (method, path, status, code) in [
        ("GET", "/v1/status?pipeline=nothing", 404, "TG003"),
        ("GET", "/v1/status?pipeline=No_Name", 400, "TG005"),
        ("GET", "/v1/status?colour=red", 400, "TG005"),
        ("GET", "/v1/why/abcd", 404, "TG003"),
        ("GET", "/v1/why/abcd?pipeline=nothing", 404, "TG003"),
        ("GET", "/v1/log?pipeline=nothing", 404, "TG003"),
        ("GET", "/v1/log?after=1&before=2", 400, "TG005"),
        ("GET", "/v1/log?release=newest", 400, "TG005"),
        ("GET", "/v1/log?region=No_Name", 400, "TG005"),
        ("GET", "/v1/log?since=yesterday", 400, "TG005"),
        ("GET", "/v1/log/verify?pipeline=nothing", 404, "TG003"),
        ("GET", "/metrics?pipelines=some", 400, "TG005"),
        ("POST", "/v1/backups", 400, "TG005"),
        ("POST", "/v1/gc", 400, "TG005"),
        ("GET", "/v1/builds/frontend/r1/log", 404, "TG003"),
        ("GET", "/v1/builds/..%2f..%2fetc/r1/log", 400, "TG005"),
        ("GET", "/v1/schemas/other.json", 404, "TG003"),
        ("GET", "/v2/status", 404, "TG003"),
        ("POST", "/v1/status", 400, "TG005"),
        ("DELETE", "/v1/alarms/storm", 409, "TG004"),
        ("POST", "/v1/notify", 400, "TG005"),
        ("DELETE", "/v1/pipelines/frontend", 400, "TG005"),
    ] {
        let (found, answer) = world.call(method, path, &world.admin, "").await;
        let said = (found.as_u16(), answer["error"]["code"].as_str().unwrap_or("none"));
        assert_eq!(said, (status, code), "{method} {path}: {answer}");
    }
}

#[tokio::test]
async fn the_log_comes_in_pages_and_verifies() {
    let world = applied().await;
    for digit in ['a', 'b', 'c'] {
        world.push(digit, None, "change");
    }
    let newest = world.newest_position();
    let (_, answer) = world.call("GET", "/v1/log?limit=2", &world.admin, "").await;
    let page: LogPage = serde_json::from_value(answer).unwrap();
    let positions: Vec<u64> = page.entries.iter().map(|e| e.position).collect();
    assert_eq!(positions, [newest - 1, newest]);
    let (mut after, mut seen) = (0, 0);
    while let Some(next) = {
        let path = format!("/v1/log?after={after}&limit=3&pipeline=frontend");
        let (_, answer) = world.call("GET", &path, &world.admin, "").await;
        let page: LogPage = serde_json::from_value(answer).unwrap();
        seen += page.entries.len();
        page.next
    } {
        assert!(next > after);
        after = next;
    }
    assert_eq!(seen, 4, "the definition and three commits");
    let (_, answer) = world.call("GET", "/v1/log/verify", &world.admin, "").await;
    assert_eq!(answer["facts"], newest);
}

#[tokio::test]
async fn the_log_is_searched_on_the_server() {
    let world = applied().await;
    let bob = world.token("bob");
    let hold = json!({"reason": "audit"}).to_string();
    world.call("POST", "/v1/pipelines/frontend/holds", &bob, &hold).await;
    for digit in ['a', 'b', 'c'] {
        world.push(digit, None, "change");
    }
    let page = |query: &'static str| {
        let world = &world;
        async move {
            let path = format!("/v1/log?{query}");
            let (status, answer) = world.call("GET", &path, &world.admin, "").await;
            assert_eq!(status, StatusCode::OK, "{answer}");
            serde_json::from_value::<LogPage>(answer).unwrap()
        }
    };
    let found = page("by=bob").await;
    let [held] = &found.entries[..] else { panic!("{found:?}") };
    assert_eq!((held.text.as_str(), held.hash.len()), ("hold 1 placed by bob: audit", 64));
    // Backward in pages, to the beginning.
    let (mut before, mut seen) = (u64::MAX, Vec::new());
    loop {
        let path = format!("/v1/log?by=tidegate&limit=2&before={before}");
        let (_, answer) = world.call("GET", &path, &world.admin, "").await;
        let page: LogPage = serde_json::from_value(answer).unwrap();
        seen.splice(0..0, page.entries.iter().map(|entry| entry.text.clone()));
        let Some(earlier) = page.earlier else { break };
        assert!(earlier < before);
        before = earlier;
    }
    assert_eq!(seen.iter().filter(|text| text.contains("1 new commit")).count(), 3, "{seen:#?}");
    let since = format!("/v1/log?since={}", held.at.0);
    let (_, answer) = world.call("GET", &since, &world.admin, "").await;
    let later: LogPage = serde_json::from_value(answer).unwrap();
    assert!(later.entries.iter().all(|entry| entry.at >= held.at) && later.entries.len() >= 4, "{later:?}");
    assert_eq!(page("by=nobody").await.entries, []);
}

#[tokio::test]
async fn figures_need_a_token_and_a_store_in_memory_has_no_backup() {
    let world = applied().await;
    let (status, answer) = world.call("GET", "/metrics", "", "").await;
    assert_eq!((status.as_u16(), answer["error"]["code"].as_str()), (401, Some("TG001")));
    let (status, answer) = world.call("GET", "/metrics", &world.token("carol"), "").await;
    assert_eq!(status, StatusCode::OK);
    let text = answer.as_str().unwrap();
    let committed = r#"tidegate_decisions_total{aggregate="organisation",outcome="committed"} 1"#;
    assert!(
        text.contains(committed) && text.contains("tidegate_effects_waiting{lane=\"rollback\"} 0"),
        "{text}"
    );
    let into = json!({"into": "/nowhere/backup"}).to_string();
    let (status, answer) = world.call("POST", "/v1/backups", &world.admin, &into).await;
    assert_eq!((status.as_u16(), answer["error"]["code"].as_str()), (409, Some("TG004")));
    let (status, _) = world.call("POST", "/v1/backups", &world.token("bob"), &into).await;
    assert_eq!(status.as_u16(), 403);
}

#[tokio::test]
async fn collaborators_are_asked() {
    let world = applied().await;
    let (_, answer) = world.call("GET", "/v1/endpoints", &world.admin, "").await;
    assert_eq!((&answer["endpoints"][0]["region"], &answer["version"]), (&json!("eu-1"), &json!(1)));
    let url = json!({"url": "https://git.example/frontend.git"}).to_string();
    world.call("POST", "/v1/notify", &world.admin, &url).await;
    assert_eq!(*world.outside.notified.lock().unwrap(), ["https://git.example/frontend.git"]);
    let long = "line\n".repeat(50_000);
    std::fs::write(world.outside.data.join("frontend-r1.log"), &long).unwrap();
    let (_, answer) = world.call("GET", "/v1/builds/frontend/r1/log", &world.admin, "").await;
    assert_eq!(answer, json!(long));
}

#[tokio::test]
async fn the_server_describes_itself() {
    let world = empty();
    let (_, openapi) = world.call("GET", "/v1/openapi.json", "", "").await;
    assert!(openapi["openapi"].as_str().unwrap().starts_with("3.1"), "{}", openapi["openapi"]);
    let paths = [
        "/v1/status",
        "/v1/events",
        "/v1/alarms/{name}",
        "/v1/pipelines/{pipeline}",
        "/v1/pipelines/{pipeline}/holds/{number}",
        "/v1/pipelines/{pipeline}/skips/{number}",
    ];
    for path in paths {
        assert!(openapi["paths"][path].is_object(), "{path}");
    }
    assert!(openapi["components"]["schemas"]["WorkStatus"]["oneOf"].is_array());
    for (name, property) in [("organisation", "regions"), ("pipeline", "stages")] {
        let (_, schema) = world.call("GET", &format!("/v1/schemas/{name}.json"), "", "").await;
        assert!(schema["properties"][property].is_object(), "{schema}");
        assert_eq!(schema["additionalProperties"], false);
    }
}

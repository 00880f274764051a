//! Who may do what.

use super::*;

/// Asks with nobody's, a wrong, a stranger's, a member's and an administrator's token.
async fn check(world: &World, method: &str, path: &str, body: &Value, expected: [u16; 5]) {
    let tokens = [
        String::new(),
        "tg_wrong".to_owned(),
        world.token("carol"),
        world.token("alice"),
        world.token("root"),
    ];
    let mut found = [0; 5];
    for (token, found) in tokens.iter().zip(&mut found) {
        *found = world.call(method, path, token, &body.to_string()).await.0.as_u16();
    }
    assert_eq!(found, expected, "{method} {path}");
}

#[tokio::test]
async fn only_those_who_may_do_it_do_it() {
    let world = applied().await;
    world.push('a', None, "add a cache");
    let reason = json!({"reason": "because"});
    let on = |rest: &str| format!("/v1/pipelines/frontend/{rest}");
    let release = json!({"release": 9, "reason": "because"});
    let passing = json!({"release": 9, "reason": "because", "blockers": ["window"], "expires_in": "1h"});
    for (method, path, body, expected) in [
        ("GET", "/v1/status".to_owned(), json!(null), [401, 401, 200, 200, 200]),
        ("GET", "/v1/log".to_owned(), json!(null), [401, 401, 200, 200, 200]),
        ("GET", "/v1/why/aaaa".to_owned(), json!(null), [401, 401, 200, 200, 200]),
        ("GET", "/v1/log/verify".to_owned(), json!(null), [401, 401, 200, 200, 200]),
        ("GET", "/v1/endpoints".to_owned(), json!(null), [401, 401, 200, 200, 200]),
        ("GET", "/v1/packages/verify".to_owned(), json!(null), [401, 401, 200, 200, 200]),
        ("GET", "/v1/health".to_owned(), json!(null), [200; 5]),
        ("POST", "/v1/notify".to_owned(), json!({"url": "x"}), [401, 401, 200, 200, 200]),
        ("GET", "/v1/secrets".to_owned(), json!(null), [401, 401, 403, 403, 200]),
        ("PUT", "/v1/secrets/git".to_owned(), json!({"value": "hunter22"}), [401, 401, 403, 403, 200]),
        ("DELETE", "/v1/secrets/git".to_owned(), json!(null), [401, 401, 403, 403, 200]),
        ("POST", "/v1/approvals".to_owned(), json!({"commit": "aaaaaaa"}), [401, 401, 403, 200, 403]),
        ("POST", on("holds"), reason.clone(), [401, 401, 403, 200, 403]),
        ("DELETE", on("holds/1"), json!(null), [401, 401, 403, 200, 403]),
        ("POST", on("skips"), json!({"region": "eu-1", "reason": "because"}), [401, 401, 403, 200, 403]),
        ("DELETE", on("skips/2"), json!(null), [401, 401, 403, 200, 403]),
        // There is no release 9: whoever may, learns that.
        ("POST", on("overrides"), passing, [401, 401, 403, 409, 403]),
        ("POST", on("rollbacks"), release.clone(), [401, 401, 403, 409, 403]),
        ("POST", on("retries"), release, [401, 401, 403, 409, 403]),
        ("PUT", "/v1/alarms/storm".to_owned(), reason, [401, 401, 403, 403, 200]),
        ("DELETE", "/v1/alarms/storm".to_owned(), json!(null), [401, 401, 403, 403, 200]),
        ("POST", "/v1/tokens".to_owned(), json!({"user": "bob"}), [401, 401, 403, 403, 200]),
        ("DELETE", "/v1/tokens/bob".to_owned(), json!(null), [401, 401, 403, 403, 200]),
        // There is no such alarm: whoever may, learns that.
        (
            "PUT",
            "/v1/teams/web/alarms/beta/eu-1/x".to_owned(),
            json!({"state": "ok", "why": "because"}),
            [401, 401, 403, 404, 403],
        ),
        (
            "POST",
            "/v1/alertmanager".to_owned(),
            json!({"version": "4", "alerts": []}),
            [401, 401, 403, 200, 403],
        ),
        ("PUT", "/v1/organisation".to_owned(), organisation(), [401, 401, 403, 403, 200]),
        ("DELETE", "/v1/pipelines/frontend".to_owned(), json!({"reason": "over"}), [401, 401, 403, 403, 200]),
        ("PUT", "/v1/pipelines".to_owned(), pipeline(), [401, 401, 403, 403, 200]),
    ] {
        check(&world, method, &path, &body, expected).await;
    }
}

#[tokio::test]
async fn a_user_who_left_the_organisation_is_nobody() {
    let world = applied().await;
    let carol = world.token("carol");
    assert_eq!(world.call("GET", "/v1/status", &carol, "").await.0, StatusCode::OK);
    let mut definition = organisation();
    definition["users"].as_array_mut().unwrap().remove(2);
    let (status, answer) = world.call("PUT", "/v1/organisation", &world.admin, &definition.to_string()).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    assert_eq!(world.call("GET", "/v1/status", &carol, "").await.0, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn tokens_are_made_for_users_of_the_organisation_only() {
    let world = applied().await;
    let make = |user: &str| json!({"user": user}).to_string();
    let (status, answer) = world.call("POST", "/v1/tokens", &world.admin, &make("mallory")).await;
    assert_eq!((status, &answer["error"]["code"]), (StatusCode::NOT_FOUND, &json!("TG003")));
    let (status, answer) = world.call("POST", "/v1/tokens", &world.admin, &make("bob")).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let token = answer["token"].as_str().unwrap();
    assert_eq!(world.call("GET", "/v1/status", token, "").await.0, StatusCode::OK);
    let before_any = empty();
    let (status, _) = before_any.call("POST", "/v1/tokens", &before_any.admin, &make("admin")).await;
    assert_eq!(status, StatusCode::OK);
}

#[tokio::test]
async fn a_member_of_two_teams_says_for_which_one_an_approval_is() {
    let world = applied().await;
    world.push('a', None, "add a cache");
    let bob = world.token("bob");
    let approve = |team: Value| json!({"commit": commit_id('a'), "team": team}).to_string();
    let (status, answer) = world.call("POST", "/v1/approvals", &bob, &approve(json!(null))).await;
    assert_eq!((status, &answer["error"]["code"]), (StatusCode::BAD_REQUEST, &json!("TG006")));
    assert_eq!(answer["error"]["hint"], "name one of web, data");
    let (status, answer) = world.call("POST", "/v1/approvals", &bob, &approve(json!("web"))).await;
    assert_eq!((status, &answer["text"]), (StatusCode::OK, &json!("aaaaaaaaaa is approved for web by bob")));
    let (_, answer) = world.call("POST", "/v1/approvals", &bob, &approve(json!("web"))).await;
    assert_eq!(answer["text"], "aaaaaaaaaa is already approved for web by bob");
}

#[tokio::test]
async fn a_secret_is_kept_by_name_and_its_value_never_told() {
    let world = applied().await;
    let call = async |method: &str, path: &str, body: Value| {
        let (status, answer) = world.call(method, path, &world.admin, &body.to_string()).await;
        assert!(!answer.to_string().contains("hunter22"), "{answer}");
        (status.as_u16(), answer)
    };
    assert_eq!(call("PUT", "/v1/secrets/git", json!({"value": "hunter22\n"})).await.0, 200);
    let kept = world.outside.secrets().get(&"git".parse().unwrap()).unwrap();
    assert_eq!(kept.expose(), "hunter22");
    assert_eq!(call("GET", "/v1/secrets", json!(null)).await.1["names"], json!(["git"]));
    let (status, refused) = call("PUT", "/v1/secrets/git", json!({"value": "abc"})).await;
    assert_eq!((status, refused.to_string().contains("shorter than 4 bytes")), (400, true), "{refused}");
    assert_eq!(call("PUT", "/v1/secrets/..%2Fescape", json!({"value": "hunter22"})).await.0, 400);
    assert_eq!(call("DELETE", "/v1/secrets/git", json!(null)).await.0, 200);
    assert_eq!(call("DELETE", "/v1/secrets/git", json!(null)).await.0, 404);
    assert_eq!(call("GET", "/v1/secrets", json!(null)).await.1["names"], json!([]));
}

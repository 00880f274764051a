//! Orders of people, and how they show: skips, and the end of a pipeline.

use super::*;

async fn status(world: &World) -> Value {
    let (_, answer) = world.call("GET", "/v1/status?pipeline=frontend", &world.admin, "").await;
    answer["pipelines"][0].clone()
}

#[tokio::test]
async fn a_skip_shows_with_reason_and_owner_until_it_is_lifted() {
    let world = applied().await;
    let alice = world.token("alice");
    let body = json!({"region": "us-1", "reason": "a cable is cut"}).to_string();
    let path = "/v1/pipelines/frontend/skips";
    let (code, answer) = world.call("POST", path, &alice, &body).await;
    assert_eq!((code, &answer["number"]), (StatusCode::OK, &json!(1)), "{answer}");
    let shown = status(&world).await["skips"][0].clone();
    assert_eq!((&shown["scope"], &shown["reason"]), (&json!("production/us-1"), &json!("a cable is cut")));
    assert_eq!((&shown["by"], &shown["release"]), (&json!({"user": "alice"}), &json!(null)));
    let (code, answer) = world.call("POST", path, &alice, &body).await;
    let message = answer["error"]["message"].as_str().unwrap();
    assert_eq!(code, StatusCode::CONFLICT);
    assert!(message.contains("skipped already by alice: a cable is cut (skip 1)"), "{message}");
    for (body, says) in [
        (json!({"region": "eu-1", "environment": "gamma", "reason": "x"}), "does not deploy to gamma/eu-1"),
        (json!({"region": "eu-1", "release": 9, "reason": "x"}), "has no release r9"),
        (json!({"region": "eu-1", "reason": " "}), "a reason is missing"),
    ] {
        let (code, answer) = world.call("POST", path, &alice, &body.to_string()).await;
        let message = answer["error"]["message"].as_str().unwrap();
        assert!(code.is_client_error() && message.contains(says), "{answer}");
    }
    for (number, expected) in [("1", 200), ("1", 409), ("x", 400)] {
        let path = format!("{path}/{number}");
        assert_eq!(world.call("DELETE", &path, &alice, "").await.0.as_u16(), expected, "{number}");
    }
    assert_eq!(status(&world).await["skips"], json!([]));
    let (_, log) = world.call("GET", "/v1/log?pipeline=frontend", &alice, "").await;
    let entries = log["entries"].as_array().unwrap();
    let told: Vec<(&Value, &Value)> = entries.iter().map(|e| (&e["by"], &e["text"])).collect();
    let by = json!({"user": "alice"});
    assert_eq!(told[1], (&by, &json!("skip 1: starts without production/us-1 by alice: a cable is cut")));
    assert_eq!(told[2], (&by, &json!("skip 1 lifted by alice")));
}

#[tokio::test]
async fn a_retired_pipeline_shows_why_takes_no_orders_and_is_revived_by_its_definition() {
    let world = applied().await;
    let body = json!({"reason": "one service less"}).to_string();
    let delete = |world: &World, path: &str| {
        let (router, path, admin, body) =
            (world.router.clone(), path.to_owned(), world.admin.clone(), body.clone());
        async move {
            let request = Request::builder().method("DELETE").uri(path);
            let request =
                request.header("authorization", format!("Bearer {admin}")).body(Body::from(body)).unwrap();
            router.oneshot(request).await.unwrap().status()
        }
    };
    assert_eq!(delete(&world, "/v1/pipelines/nothing").await, StatusCode::NOT_FOUND);
    assert_eq!(delete(&world, "/v1/pipelines/frontend").await, StatusCode::OK);
    let shown = status(&world).await["retirement"].clone();
    assert_eq!((&shown["complete"], &shown["reason"]), (&json!(true), &json!("one service less")));
    assert_eq!(shown["by"], json!({"user": "admin"}));
    let alice = world.token("alice");
    let (code, answer) =
        world.call("POST", "/v1/pipelines/frontend/holds", &alice, &json!({"reason": "x"}).to_string()).await;
    let message = answer["error"]["message"].as_str().unwrap();
    assert_eq!(code, StatusCode::CONFLICT);
    assert!(message.contains("was retired by admin") && message.contains("revives it"), "{message}");
    assert_eq!(delete(&world, "/v1/pipelines/frontend").await, StatusCode::CONFLICT, "once is enough");
    // Its service may go: a retired pipeline holds no definition up.
    let mut organisation = organisation();
    organisation["services"] = json!([]);
    let (code, answer) = world.call("PUT", "/v1/organisation", &world.admin, &organisation.to_string()).await;
    assert_eq!(code, StatusCode::OK, "{answer}");
    let (code, _) = world.call("PUT", "/v1/pipelines", &world.admin, &pipeline().to_string()).await;
    assert!(code.is_client_error(), "without a service there is nothing to revive it for");
    world.call("PUT", "/v1/organisation", &world.admin, &super::organisation().to_string()).await;
    let (code, answer) = world.call("PUT", "/v1/pipelines", &world.admin, &pipeline().to_string()).await;
    assert_eq!((code, &answer["changed"]), (StatusCode::OK, &json!(true)), "{answer}");
    assert_eq!(status(&world).await["retirement"], json!(null));
    world.push('a', None, "after its return");
    assert_eq!(status(&world).await["sources"][0]["pending_count"], json!(1));
}

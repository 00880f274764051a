//! Webhooks of forges: signed, forged, sent again, too large, too many.

use super::{World, applied, pipeline};
use axum::body::{Body, Bytes, to_bytes};
use axum::http::{Request, StatusCode};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures_util::stream;
use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use sha2::Sha256;
use tidegate_workers::secrets::Secret;

const KEY: &str = "a key that only the forge and the server know";

/// The pipeline's source is reviewed on a forge whose webhook has this secret.
async fn world(review: Value, secret: &str) -> World {
    let world = applied().await;
    let mut definition = pipeline();
    definition["sources"][0]["review"] = review;
    let (status, answer) = world.call("PUT", "/v1/pipelines", &world.admin, &definition.to_string()).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let secrets = world.outside.secrets.as_ref().unwrap();
    secrets.set(&"hook".parse().unwrap(), &Secret::new(secret).unwrap()).unwrap();
    world
}

async fn github() -> World {
    world(json!({"github": {"repository": "acme/shop", "webhook": "hook"}}), KEY).await
}

async fn gitlab(secret: &str) -> World {
    world(json!({"gitlab": {"project": "acme/shop", "webhook": "hook"}}), secret).await
}

fn mac(key: &[u8], text: &[u8]) -> Vec<u8> {
    Hmac::<Sha256>::new_from_slice(key).unwrap().chain_update(text).finalize().into_bytes().to_vec()
}

fn signed(body: &str) -> String {
    let hex: String = mac(KEY.as_bytes(), body.as_bytes()).iter().map(|b| format!("{b:02x}")).collect();
    format!("sha256={hex}")
}

impl World {
    async fn hook(&self, headers: &[(&str, &str)], body: &str) -> (StatusCode, Value) {
        self.hook_to("/v1/webhooks/frontend/code", headers, Body::from(body.to_owned())).await
    }

    async fn hook_to(&self, path: &str, headers: &[(&str, &str)], body: Body) -> (StatusCode, Value) {
        let mut request = Request::post(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = self.send(request.body(body).unwrap()).await;
        let status = response.status();
        let bytes = to_bytes(response.into_body(), 1 << 20).await.unwrap();
        (status, serde_json::from_slice(&bytes).unwrap())
    }

    fn hinted(&self) -> usize {
        self.outside.notified.lock().unwrap().len()
    }

    async fn counted(&self) -> Vec<String> {
        let (_, page) = self.call("GET", "/metrics", &self.admin, "").await;
        let lines =
            page.as_str().unwrap().lines().filter(|line| line.starts_with("tidegate_webhooks_total{"));
        lines.map(|line| line["tidegate_webhooks_total".len()..].to_owned()).collect()
    }
}

#[tokio::test]
async fn a_signed_webhook_needs_no_token_and_makes_the_source_be_looked_at() {
    let world = github().await;
    let body = r#"{"action": "closed", "pull_request": {"number": 12, "merged": true}}"#;
    let (status, answer) = world.hook(&[("x-hub-signature-256", &signed(body))], body).await;
    assert_eq!((status, &answer["text"]), (StatusCode::OK, &json!("the source is looked at")));
    assert_eq!(*world.outside.notified.lock().unwrap(), ["https://git.example/frontend.git"]);
}

#[tokio::test]
async fn a_forged_one_does_nothing_and_learns_nothing() {
    let world = github().await;
    let (body, other) = ("{}", "{ }");
    let good = signed(body);
    let upper = good.to_uppercase();
    let elsewhere = ["/v1/webhooks/frontend/other", "/v1/webhooks/nothing/code", "/v1/webhooks/UP/code"];
    let mut answers = Vec::new();
    for headers in [
        &[("x-hub-signature-256", signed(other))][..],
        &[("x-hub-signature-256", upper)],
        &[("x-hub-signature-256", "sha256=".to_owned())],
        &[("x-hub-signature-256", "sha256=zz".to_owned())],
        &[("x-hub-signature", "sha1=0".to_owned())],
        &[("x-gitlab-token", KEY.to_owned())],
        &[],
    ] {
        let headers: Vec<(&str, &str)> = headers.iter().map(|(n, v)| (*n, v.as_str())).collect();
        answers.push(world.hook(&headers, body).await);
    }
    for path in elsewhere {
        let headers = [("x-hub-signature-256", good.as_str())];
        answers.push(world.hook_to(path, &headers, Body::from(body)).await);
    }
    let first = answers[0].clone();
    assert_eq!((first.0, &first.1["error"]["code"]), (StatusCode::UNAUTHORIZED, &json!("TG001")));
    assert!(answers.iter().all(|answer| *answer == first), "all are told the same: {answers:?}");
    assert_eq!(world.hinted(), 0);
    assert_eq!(world.counted().await[1], "{end=\"forged\"} 10");
    assert_eq!(world.hook(&[("x-hub-signature-256", &good)], body).await.0, StatusCode::OK);
}

#[tokio::test]
async fn one_that_was_taken_is_refused_whatever_name_its_delivery_has() {
    let world = github().await;
    let body = r#"{"ref": "refs/heads/main"}"#;
    let good = signed(body);
    let mut told = Vec::new();
    for delivery in ["72d3162e-cc78-11e3-81ab-4c9367dc0958", "72d3162e-cc78-11e3-81ab-4c9367dc0958", "other"]
    {
        let headers = [("x-hub-signature-256", good.as_str()), ("x-github-delivery", delivery)];
        told.push(world.hook(&headers, body).await.0);
    }
    assert_eq!(told, [StatusCode::OK, StatusCode::CONFLICT, StatusCode::CONFLICT]);
    assert_eq!(world.hinted(), 1);
    let counts = world.counted().await;
    assert_eq!(counts[..3], ["{end=\"taken\"} 1", "{end=\"forged\"} 0", "{end=\"replayed\"} 2"]);
}

#[tokio::test]
async fn a_huge_one_is_refused_before_it_is_read_or_when_it_turns_out_so() {
    let world = github().await;
    let headers = [("x-hub-signature-256", signed("")), ("content-length", (25 << 20).to_string())];
    let headers: Vec<(&str, &str)> = headers.iter().map(|(n, v)| (*n, v.as_str())).collect();
    // Nothing of the body ever comes.
    let never = Body::from_stream(stream::pending::<Result<Bytes, std::io::Error>>());
    let (status, answer) = world.hook_to("/v1/webhooks/frontend/code", &headers, never).await;
    assert_eq!((status, &answer["error"]["code"]), (StatusCode::PAYLOAD_TOO_LARGE, &json!("TG007")));
    // Without a length, as much is read as one may have.
    let piece = || Ok::<_, std::io::Error>(Bytes::from(vec![b' '; 64 << 10]));
    let endless = Body::from_stream(stream::repeat_with(piece));
    let (status, _) = world.hook_to("/v1/webhooks/frontend/code", &headers[..1], endless).await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(world.counted().await[3], "{end=\"too-large\"} 2");
    assert_eq!(world.hinted(), 0);
}

#[tokio::test]
async fn more_than_are_taken_at_a_time_are_refused_at_once_and_others_are_served() {
    let world = std::sync::Arc::new(github().await);
    let hold = || {
        let (world, good) = (std::sync::Arc::clone(&world), signed(""));
        tokio::spawn(async move {
            let never = Body::from_stream(stream::pending::<Result<Bytes, std::io::Error>>());
            world.hook_to("/v1/webhooks/frontend/code", &[("x-hub-signature-256", &good)], never).await
        })
    };
    // They send nothing; the last to come has no place.
    let mut held: Vec<_> = (0..65).map(|_| hold()).collect();
    let refused = loop {
        tokio::task::yield_now().await;
        if let Some(n) = held.iter().position(|task| task.is_finished()) {
            break held.remove(n).await.unwrap();
        }
    };
    assert_eq!((refused.0, &refused.1["error"]["code"]), (StatusCode::TOO_MANY_REQUESTS, &json!("TG013")));
    let (status, _) = world.call("GET", "/v1/status", &world.admin, "").await;
    assert_eq!(status, StatusCode::OK);
    held.iter().for_each(|task| task.abort());
}

#[tokio::test]
async fn gitlab_s_token_and_its_signature_are_checked() {
    let world = gitlab("a-token").await;
    assert_eq!(world.hook(&[("x-gitlab-token", "a-tokem")], "{}").await.0, StatusCode::UNAUTHORIZED);
    assert_eq!(world.hook(&[("x-hub-signature-256", &signed("{}"))], "{}").await.0, StatusCode::UNAUTHORIZED);
    assert_eq!(world.hook(&[("x-gitlab-token", "a-token")], "{}").await.0, StatusCode::OK);
    assert_eq!(world.hook(&[("x-gitlab-token", "a-token")], "{}").await.0, StatusCode::CONFLICT);

    let key = [7_u8; 32];
    let world = gitlab(&format!("whsec_{}", STANDARD.encode(key))).await;
    let now = world.runtime.now().0 / 1_000;
    let sign = |id: &str, at: i64, body: &str| {
        let good = STANDARD.encode(mac(&key, format!("{id}.{at}.{body}").as_bytes()));
        format!("v1,{} v1,{good}", STANDARD.encode([0; 32]))
    };
    let mut told = Vec::new();
    for (id, signed_id, at, signed_at) in [
        ("one", "one", now, now),
        ("one", "one", now, now),
        ("two", "one", now, now),
        ("two", "two", now + 1, now),
        ("two", "two", now - 600, now - 600),
        ("two", "two", now, now),
    ] {
        let (text, signature) = (at.to_string(), sign(signed_id, signed_at, "{}"));
        let headers =
            [("webhook-id", id), ("webhook-timestamp", text.as_str()), ("webhook-signature", &signature)];
        told.push(world.hook(&headers, "{}").await.0.as_u16());
    }
    // Good, again, under another name, at another time, long ago, and the same event in another delivery.
    assert_eq!(told, [200, 409, 401, 401, 409, 200]);
}

#[tokio::test]
async fn without_a_secret_there_is_no_webhook() {
    let world = world(json!({"github": {"repository": "acme/shop"}}), KEY).await;
    let body = "{}";
    assert_eq!(world.hook(&[("x-hub-signature-256", &signed(body))], body).await.0, StatusCode::UNAUTHORIZED);
    let other = applied().await;
    assert_eq!(other.hook(&[("x-hub-signature-256", &signed(body))], body).await.0, StatusCode::UNAUTHORIZED);
}

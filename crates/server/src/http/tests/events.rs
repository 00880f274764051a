//! Events: nothing is missed and nothing comes twice, over reconnections.

use super::*;
use futures_util::StreamExt;
use std::time::Duration;

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(20);

struct Events {
    body: axum::body::BodyDataStream,
    text: String,
}

impl Events {
    async fn follow(world: &World, path: &str, last: Option<u64>) -> Events {
        Events::follow_as(world, &world.admin, path, last).await
    }

    async fn follow_as(world: &World, token: &str, path: &str, last: Option<u64>) -> Events {
        let mut request = Request::builder().uri(path).header("authorization", format!("Bearer {token}"));
        if let Some(last) = last {
            request = request.header("last-event-id", last.to_string());
        }
        let response = world.send(request.body(Body::empty()).unwrap()).await;
        assert_eq!(response.status(), StatusCode::OK);
        Events { body: response.into_body().into_data_stream(), text: String::new() }
    }

    /// The next event's id and text; `None` at the end of the stream.
    async fn next(&mut self) -> Option<(u64, String)> {
        loop {
            if let Some((event, rest)) = self.text.split_once("\n\n") {
                let (event, rest) = (event.to_owned(), rest.to_owned());
                self.text = rest;
                let field = |name: &str| event.lines().find_map(|l| l.strip_prefix(name).map(str::to_owned));
                let Some(data) = field("data: ") else { continue };
                let data: Value = serde_json::from_str(&data).unwrap();
                let id = field("id: ").unwrap().parse().unwrap();
                assert_eq!(data["position"], id);
                return Some((id, data["text"].as_str().unwrap().to_owned()));
            }
            let piece = tokio::time::timeout(PATIENCE, self.body.next()).await.expect("an event in time")?;
            self.text.push_str(std::str::from_utf8(&piece.unwrap()).unwrap());
        }
    }
}

#[tokio::test]
async fn events_follow_the_log_and_resume_where_they_were_left() {
    let world = applied().await;
    let mut all = Events::follow(&world, "/v1/events?after=0", None).await;
    let (first, text) = all.next().await.unwrap();
    assert_eq!((first, text.as_str()), (1, "organisation shop defined: 2 teams, 1 services, 2 Regions"));
    let end = world.newest_position();
    let mut fresh = Events::follow(&world, "/v1/events", None).await;
    world.push('a', None, "add a cache");
    let seen = fresh.next().await.unwrap();
    assert_eq!(seen, (end + 1, "code has 1 new commit: aaaaaaaaaa \"add a cache\"".to_owned()));
    drop(fresh);
    world.push('b', Some('a'), "warm it");
    world.push('c', Some('b'), "cool it");
    let mut again = Events::follow(&world, "/v1/events", Some(seen.0)).await;
    assert_eq!(again.next().await.unwrap().1, "code has 1 new commit: bbbbbbbbbb \"warm it\"");
    assert_eq!(again.next().await.unwrap().1, "code has 1 new commit: cccccccccc \"cool it\"");
    for position in 2..=world.newest_position() {
        assert_eq!(all.next().await.unwrap().0, position);
    }
}

#[tokio::test]
async fn events_of_one_pipeline_leave_out_the_others_and_end_with_the_server() {
    let world = applied().await;
    let mut own = Events::follow(&world, "/v1/events?after=0&pipeline=frontend", None).await;
    assert_eq!(own.next().await.unwrap().1, "pipeline defined: 2 stages, 8 steps");
    world.stop.cancel();
    assert_eq!(own.next().await, None);
}

#[tokio::test]
async fn events_end_with_the_token_of_whoever_follows() {
    let world = applied().await;
    let bob = world.token("bob");
    let mut followed = Events::follow_as(&world, &bob, "/v1/events", None).await;
    world.push('a', None, "add a cache");
    assert!(followed.next().await.is_some());
    assert_eq!(world.call("DELETE", "/v1/tokens/bob", &world.admin, "").await.0, StatusCode::OK);
    world.push('b', Some('a'), "what is none of bob's business any more");
    assert_eq!(followed.next().await, None);
}

#[tokio::test]
async fn a_last_event_id_that_is_none_is_refused() {
    let world = applied().await;
    let request = Request::builder()
        .uri("/v1/events")
        .header("authorization", format!("Bearer {}", world.admin))
        .header("last-event-id", "yesterday");
    let response = world.send(request.body(Body::empty()).unwrap()).await;
    assert_eq!(response.status(), StatusCode::BAD_REQUEST);
}

//! The reverse proxy: what happens to one request.
//!
//! What must hold: no request fails because of tidegate. One that certainly never reached a box is sent to another;
//! one that may have reached a box is sent again only if its method is idempotent and it has no body; everything is
//! streamed both ways with the slower side setting the pace, so nothing is held in memory but a few buffers.

use crate::answer::{AnswerBody, Exchange};
use crate::listen::ClientSide;
use crate::metrics::Outcome;
use crate::pool::{Connection, Failed, REQUEST_BODY_MAX_BYTES, Upload};
use crate::route::Upstream;
use bytes::Bytes;
use hyper::body::Incoming;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::upgrade::OnUpgrade;
use hyper::{Method, Request, Response, StatusCode, Uri, Version};
use hyper_util::rt::TokioIo;
use std::future::{Future, poll_fn};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use tokio::io::AsyncWriteExt;

/// How often a request is tried in all. Each try but the last ended before the box could have seen the request, or
/// was of an idempotent request.
const ATTEMPTS_MAX: u32 = 8;
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// Answers one request of a client.
pub(crate) async fn handle(client: Arc<ClientSide>, mut request: Request<Incoming>) -> Response<AnswerBody> {
    let label = client.route.labels.of(request.method(), request.uri().path());
    let mut exchange = Exchange::begin(Arc::clone(&client), label);
    let upgrade = upgrade_of(request.headers()).map(|protocol| (protocol, hyper::upgrade::on(&mut request)));
    let answer = match prepare(&client, request, upgrade.as_ref().map(|(protocol, _)| protocol)) {
        Err(refused) => exchange.answer(refused.0, refused.1),
        Ok(request) => match forward(&client, &mut exchange, request).await {
            Err(failed) => exchange.answer(failed.0, failed.1),
            Ok((answer, _)) if answer.status() == StatusCode::SWITCHING_PROTOCOLS && upgrade.is_none() => {
                exchange.answer(StatusCode::BAD_GATEWAY, "the box switched protocols unasked\n")
            }
            Ok((answer, connection)) if answer.status() == StatusCode::SWITCHING_PROTOCOLS => {
                tunnel(exchange, answer, connection, upgrade)
            }
            Ok((answer, connection)) => relay(exchange, answer, connection),
        },
    };
    close_when_leaving(&client, answer)
}

type Refused = (StatusCode, &'static str);

/// Makes a client's request one of this proxy's own.
fn prepare(
    client: &Arc<ClientSide>,
    request: Request<Incoming>,
    upgrade: Option<&HeaderValue>,
) -> Result<Request<Upload>, Refused> {
    let (mut head, body) = request.into_parts();
    if head.method == Method::CONNECT {
        return Err((StatusCode::METHOD_NOT_ALLOWED, "this is no forward proxy\n"));
    }
    let length = head.headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
    if length.is_some_and(|length| length > REQUEST_BODY_MAX_BYTES) {
        return Err((StatusCode::PAYLOAD_TOO_LARGE, "the request body is too long\n"));
    }
    if head.uri.authority().is_some() {
        if !head.headers.contains_key(header::HOST)
            && let Some(host) = head.uri.authority().and_then(|a| HeaderValue::from_str(a.as_str()).ok())
        {
            head.headers.insert(header::HOST, host);
        }
        let path = head.uri.path_and_query().map_or("/", |p| p.as_str());
        head.uri =
            Uri::try_from(path).map_err(|_| (StatusCode::BAD_REQUEST, "the request has no valid path\n"))?;
    }
    strip_hop_by_hop(&mut head.headers);
    // The client was or will be told to go on by the server side of this proxy.
    head.headers.remove(header::EXPECT);
    if let Some(protocol) = upgrade {
        head.headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        head.headers.insert(header::UPGRADE, protocol.clone());
    }
    if !head.headers.contains_key(header::HOST) {
        head.headers.insert(header::HOST, HeaderValue::from_static("localhost"));
    }
    let forwarded = match head.headers.get(FORWARDED_FOR) {
        None => client.peer.clone(),
        Some(before) => {
            let all = [before.as_bytes(), b", ", client.peer.as_bytes()].concat();
            HeaderValue::from_maybe_shared(Bytes::from(all)).unwrap_or_else(|_| client.peer.clone())
        }
    };
    head.headers.insert(FORWARDED_FOR, forwarded);
    head.version = Version::HTTP_11;
    Ok(Request::from_parts(head, Upload::new(body, client)))
}

/// Finds a box that answers.
async fn forward(
    client: &ClientSide,
    exchange: &mut Exchange,
    mut request: Request<Upload>,
) -> Result<(Response<Incoming>, Connection), Refused> {
    let mut spare = spare(&request);
    let mut tried: Vec<Arc<Upstream>> = Vec::new();
    for _ in 0..ATTEMPTS_MAX {
        let Some(flight) = client.route.pick(&tried) else {
            if tried.is_empty() {
                client.route.unrouted.fetch_add(1, Ordering::Relaxed);
                return Err((
                    StatusCode::SERVICE_UNAVAILABLE,
                    "no healthy box serves this endpoint at present\n",
                ));
            }
            break;
        };
        let upstream = Arc::clone(flight.upstream());
        exchange.enter(flight);
        let mut connection = match Connection::take_idle(&upstream) {
            Some(connection) => connection,
            None => match Connection::open(&upstream).await {
                Ok(connection) => connection,
                Err(_) => {
                    upstream.suspect.notify_one();
                    tried.push(upstream);
                    continue;
                }
            },
        };
        match in_time(client, connection.exchange(request)).await {
            None => return Err((StatusCode::GATEWAY_TIMEOUT, "the box did not answer in time\n")),
            Some(Ok(answer)) => return Ok((answer, connection)),
            Some(Err(Failed::NotSent(again))) => request = *again,
            Some(Err(Failed::Broken(error))) if error.is_user() => {
                exchange.outcome(Outcome::Error);
                return Err((StatusCode::BAD_REQUEST, "the request body broke off or is too long\n"));
            }
            Some(Err(Failed::Broken(_))) => {
                upstream.suspect.notify_one();
                match spare.take() {
                    Some(again) => request = again,
                    None => {
                        return Err((
                            StatusCode::BAD_GATEWAY,
                            "the box closed the connection without an answer\n",
                        ));
                    }
                }
                tried.push(upstream);
            }
        }
    }
    Err((StatusCode::BAD_GATEWAY, "no box could be reached\n"))
}

/// A copy of a request that may be sent twice: its method is idempotent and it has no body.
fn spare(request: &Request<Upload>) -> Option<Request<Upload>> {
    use hyper::body::Body;
    if !request.method().is_idempotent()
        || !request.body().is_end_stream()
        || request.headers().contains_key(header::UPGRADE)
    {
        return None;
    }
    let mut copy = Request::new(Upload::none());
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.headers_mut() = request.headers().clone();
    Some(copy)
}

/// Waits for the head of the answer unless nothing moved for the time limit of a request; see [`ClientSide`].
async fn in_time<T>(client: &ClientSide, answer: impl Future<Output = T>) -> Option<T> {
    let mut answer = std::pin::pin!(answer);
    poll_fn(|cx| match answer.as_mut().poll(cx) {
        Poll::Ready(answer) => Poll::Ready(Some(answer)),
        Poll::Pending if client.activity.is_expired() => Poll::Ready(None),
        Poll::Pending => Poll::Pending,
    })
    .await
}

fn relay(mut exchange: Exchange, answer: Response<Incoming>, connection: Connection) -> Response<AnswerBody> {
    let (mut head, body) = answer.into_parts();
    exchange.status(head.status);
    strip_hop_by_hop(&mut head.headers);
    head.version = Version::HTTP_11;
    Response::from_parts(head, AnswerBody::relay(exchange, body, connection))
}

/// Joins client and box after a 101; the request stays in flight until one of them closes.
fn tunnel(
    mut exchange: Exchange,
    answer: Response<Incoming>,
    connection: Connection,
    upgrade: Option<(HeaderValue, OnUpgrade)>,
) -> Response<AnswerBody> {
    let mut head = answer.into_parts().0;
    exchange.status(head.status);
    let protocol = head.headers.get(header::UPGRADE).cloned();
    strip_hop_by_hop(&mut head.headers);
    head.headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    if let Some(protocol) = protocol {
        head.headers.insert(header::UPGRADE, protocol);
    }
    let flight = exchange.finish();
    if let Some((_, client)) = upgrade {
        tokio::spawn(async move {
            let (mut server, early) = connection.into_tunnel().await;
            if let Ok(client) = client.await {
                let mut client = TokioIo::new(client);
                if client.write_all(&early).await.is_ok() {
                    // Either side may break off at any time; that ends the tunnel and is no failure.
                    let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
                }
            }
            drop(flight);
        });
    }
    Response::from_parts(head, AnswerBody::text(""))
}

/// Asks the client to come back on a new connection when this process no longer accepts any.
fn close_when_leaving(client: &ClientSide, mut answer: Response<AnswerBody>) -> Response<AnswerBody> {
    if client.is_leaving() && answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    answer
}

/// The protocol that a request asks to be upgraded to.
fn upgrade_of(headers: &HeaderMap) -> Option<HeaderValue> {
    let protocol = headers.get(header::UPGRADE)?;
    let asked = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|token| token.trim().eq_ignore_ascii_case("upgrade"));
    asked.then(|| protocol.clone())
}

/// Removes what belongs to one connection only (RFC 9110, section 7.6.1).
fn strip_hop_by_hop(headers: &mut HeaderMap) {
    const ALWAYS: [HeaderName; 6] = [
        header::CONNECTION,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
        header::TE,
        KEEP_ALIVE,
        PROXY_CONNECTION,
    ];
    if !headers.keys().any(|name| ALWAYS.contains(name)) {
        return;
    }
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|token| !token.eq_ignore_ascii_case("keep-alive") && !token.eq_ignore_ascii_case("close"))
        .filter_map(|token| HeaderName::from_bytes(token.as_bytes()).ok())
        .collect();
    for name in ALWAYS.iter().chain(&named) {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_of_one_connection_are_removed_and_those_they_name() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "keep-alive, X-Private"),
            ("keep-alive", "timeout=5"),
            ("x-private", "1"),
            ("transfer-encoding", "chunked"),
            ("x-kept", "2"),
        ] {
            headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        strip_hop_by_hop(&mut headers);
        assert_eq!(headers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["x-kept"]);
    }

    #[test]
    fn an_upgrade_needs_both_headers() {
        let mut headers = HeaderMap::new();
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        assert!(upgrade_of(&headers).is_none());
        headers.insert(header::CONNECTION, HeaderValue::from_static("keep-alive, Upgrade"));
        assert_eq!(upgrade_of(&headers).unwrap(), "websocket");
    }
}

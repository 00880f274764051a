//! A request's account, from its head to the end of its answer, and the answer's body. The account is settled when it
//! is dropped, so whatever happens to a request, it is counted once.

use crate::listen::ClientSide;
use crate::metrics::{Label, Outcome};
use crate::pool::{BodyError, Connection};
use crate::route::Flight;
use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::header::{self, HeaderValue};
use hyper::{Response, StatusCode};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

/// One request's account.
#[derive(Debug)]
pub(crate) struct Exchange {
    client: Arc<ClientSide>,
    flight: Option<Flight>,
    label: Label,
    start: Instant,
    /// As long as nothing better is known: the client broke off before there was an answer.
    outcome: Outcome,
    exists: bool,
}

impl Exchange {
    /// Begins when a request's head was received.
    pub(crate) fn begin(client: Arc<ClientSide>, label: Label) -> Exchange {
        client.activity.begin();
        Exchange {
            client,
            flight: None,
            label,
            start: Instant::now(),
            outcome: Outcome::Error,
            exists: false,
        }
    }

    /// The request is on this box from now on, and on no other.
    pub(crate) fn enter(&mut self, flight: Flight) {
        self.flight = Some(flight);
    }

    pub(crate) fn outcome(&mut self, outcome: Outcome) {
        self.outcome = outcome;
    }

    /// The box's answer has this status.
    pub(crate) fn status(&mut self, status: StatusCode) {
        self.outcome = Outcome::of(status);
        self.exists = !matches!(status, StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED);
    }

    /// Answers for the box. A server's error counts as a fault of the box that was tried last, if any was.
    pub(crate) fn answer(mut self, status: StatusCode, text: &'static str) -> Response<AnswerBody> {
        self.outcome = Outcome::of(status);
        let mut response = Response::new(AnswerBody::text(text));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        if status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }

    /// Settles the account; the request stays on its box as long as the result lives.
    pub(crate) fn finish(mut self) -> Option<Flight> {
        self.settle();
        self.flight.take()
    }

    fn settle(&mut self) {
        if let Some(flight) = &self.flight {
            let latency_us = u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX);
            flight.upstream().meter.record(&self.label, self.exists, self.outcome, latency_us);
        }
        self.client.activity.end();
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if self.flight.is_some() {
            self.settle();
        } else {
            self.client.activity.end();
        }
    }
}

/// The body of an answer: a short text, or what the box sends.
#[derive(Debug)]
pub(crate) enum AnswerBody {
    Text(Bytes),
    Relay(Box<Relay>),
    Ended,
}

/// The box's body, the connection that it comes from, and the account.
#[derive(Debug)]
pub(crate) struct Relay {
    body: Incoming,
    connection: Connection,
    exchange: Exchange,
}

impl AnswerBody {
    pub(crate) fn text(text: &'static str) -> AnswerBody {
        if text.is_empty() {
            AnswerBody::Ended
        } else {
            AnswerBody::Text(Bytes::from_static(text.as_bytes()))
        }
    }

    pub(crate) fn relay(exchange: Exchange, body: Incoming, connection: Connection) -> AnswerBody {
        let relay = Box::new(Relay { body, connection, exchange });
        if relay.body.is_end_stream() {
            relay.end(&mut Context::from_waker(std::task::Waker::noop()));
            return AnswerBody::Ended;
        }
        AnswerBody::Relay(relay)
    }
}

impl Relay {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Pending => {
                self.connection.drive(cx);
                Pin::new(&mut self.body).poll_frame(cx)
            }
            ready => ready,
        };
        match frame {
            Poll::Pending if self.exchange.client.activity.is_expired() => {
                self.exchange.outcome(Outcome::Fault);
                Poll::Ready(Some(Err("the box did not go on in time".into())))
            }
            Poll::Pending => Poll::Pending,
            Poll::Ready(Some(Err(error))) => {
                self.exchange.outcome(Outcome::Fault);
                Poll::Ready(Some(Err(error.into())))
            }
            Poll::Ready(frame) => {
                self.exchange.client.activity.moved();
                Poll::Ready(frame.map(|frame| frame.map_err(BodyError::from)))
            }
        }
    }

    /// The last byte was read: the connection may serve the next request.
    fn end(self, cx: &mut Context<'_>) {
        let Relay { connection, exchange, .. } = self;
        if let Some(flight) = &exchange.flight {
            connection.give_back(flight.upstream(), cx);
        }
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        match std::mem::replace(this, AnswerBody::Ended) {
            AnswerBody::Ended => Poll::Ready(None),
            AnswerBody::Text(text) => Poll::Ready(Some(Ok(Frame::data(text)))),
            AnswerBody::Relay(mut relay) => match relay.poll(cx) {
                Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(error))),
                Poll::Ready(None) => {
                    relay.end(cx);
                    Poll::Ready(None)
                }
                Poll::Ready(frame) if relay.body.is_end_stream() => {
                    relay.end(cx);
                    Poll::Ready(frame)
                }
                other => {
                    *this = AnswerBody::Relay(relay);
                    other
                }
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, AnswerBody::Ended)
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            AnswerBody::Ended => SizeHint::with_exact(0),
            AnswerBody::Text(text) => SizeHint::with_exact(text.len() as u64),
            AnswerBody::Relay(relay) => relay.body.size_hint(),
        }
    }
}

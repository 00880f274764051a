//! Which box gets a request. The routing table is computed when a box changes and only read by requests.
//!
//! Boxes of the main fleets of all AZs share a Region's requests evenly, in turns; the one-box gets an equal share or a
//! tenth, whichever is less, by the very order of the turns and not by chance (P4). A box that answers fast does not
//! draw more requests, because errors are fast; a box that hangs is passed over.

use crate::metrics::{BoxMeter, Labels};
use crate::pool::Idle;
use crate::protocol::EndpointKey;
use arc_swap::ArcSwap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use tidegate_core::ids::Role;
use tokio::sync::Notify;

/// Of ten requests of a Region this many go to the main fleets at least.
const MAIN_TURNS_PER_ONE_BOX_TURN: u32 = 9;
/// A box is passed over when it has more than twice the requests of the next in turn and this many.
const PASS_OVER_SLACK: u32 = 8;
/// How many turns a request looks at for a box that it has not tried yet.
const TURNS_PER_PICK_MAX: usize = 64;

/// One start of a box, as the proxy sees it.
#[derive(Debug)]
pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
    pub(crate) role: Role,
    pub(crate) meter: Arc<BoxMeter>,
    /// Connections without a request.
    pub(crate) idle: Idle,
    in_flight: AtomicU32,
    leaving: AtomicBool,
    drained: Notify,
    /// The proxy could not reach it: its health is to be checked now.
    pub(crate) suspect: Notify,
}

impl Upstream {
    pub(crate) fn new(address: SocketAddr, role: Role, meter: Arc<BoxMeter>) -> Upstream {
        Upstream {
            address,
            role,
            meter,
            idle: Idle::default(),
            in_flight: AtomicU32::new(0),
            leaving: AtomicBool::new(false),
            drained: Notify::new(),
            suspect: Notify::new(),
        }
    }

    /// How many requests are on the box.
    pub(crate) fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::SeqCst)
    }

    /// Lets nothing more in, not even requests that read an older table, and waits for the last request.
    pub(crate) async fn drain(&self) {
        self.leaving.store(true, Ordering::SeqCst);
        loop {
            let notified = self.drained.notified();
            tokio::pin!(notified);
            notified.as_mut().enable();
            if self.in_flight() == 0 {
                return;
            }
            notified.await;
        }
    }
}

/// A request on a box, from before it is sent until its answer has ended.
#[derive(Debug)]
pub(crate) struct Flight {
    upstream: Arc<Upstream>,
}

impl Flight {
    /// Enters, unless the box has begun to leave: either the entrance is seen by [`Upstream::drain`], or the leave
    /// is seen here.
    fn enter(upstream: &Arc<Upstream>) -> Option<Flight> {
        upstream.in_flight.fetch_add(1, Ordering::SeqCst);
        let flight = Flight { upstream: Arc::clone(upstream) };
        (!upstream.leaving.load(Ordering::SeqCst)).then_some(flight)
    }

    pub(crate) fn upstream(&self) -> &Arc<Upstream> {
        &self.upstream
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        let before = self.upstream.in_flight.fetch_sub(1, Ordering::SeqCst);
        if before == 1 && self.upstream.leaving.load(Ordering::SeqCst) {
            self.upstream.drained.notify_waiters();
        }
    }
}

/// The boxes that serve at this moment, and the order of their turns.
#[derive(Debug, Default)]
pub(crate) struct Table {
    boxes: Vec<Arc<Upstream>>,
    /// Indices into `boxes`.
    turns: Vec<u32>,
    next: AtomicUsize,
}

impl Table {
    /// A table of these boxes, all of which are healthy and not condemned.
    pub(crate) fn new(boxes: Vec<Arc<Upstream>>) -> Table {
        let turns = turns(&boxes.iter().map(|b| b.role).collect::<Vec<_>>());
        Table { boxes, turns, next: AtomicUsize::new(0) }
    }

    fn pick(&self, tried: &[Arc<Upstream>]) -> Option<Flight> {
        let turn =
            |n: usize| self.turns.get(n % self.turns.len()).and_then(|index| self.boxes.get(*index as usize));
        if self.turns.is_empty() {
            return None;
        }
        for _ in 0..TURNS_PER_PICK_MAX.max(self.turns.len()) {
            let n = self.next.fetch_add(1, Ordering::Relaxed);
            let (chosen, following) = (turn(n)?, turn(n.wrapping_add(1))?);
            if tried.iter().any(|t| Arc::ptr_eq(t, chosen)) {
                continue;
            }
            let busy = chosen.in_flight.load(Ordering::Relaxed);
            let pass_over = busy > PASS_OVER_SLACK
                && following.role == Role::Main
                && busy > following.in_flight.load(Ordering::Relaxed).saturating_mul(2) + PASS_OVER_SLACK
                && !tried.iter().any(|t| Arc::ptr_eq(t, following));
            if let Some(flight) = Flight::enter(if pass_over { following } else { chosen }) {
                return Some(flight);
            }
        }
        None
    }
}

/// The boxes' shares relative to each other, in the order given.
pub(crate) fn weights(roles: &[Role]) -> Vec<u32> {
    let count = |role| u32::try_from(roles.iter().filter(|r| **r == role).count()).unwrap_or(u32::MAX);
    let (main, one) = (count(Role::Main), count(Role::OneBox));
    // Without any main box the one-box takes everything: to refuse requests would protect nobody.
    let main_weight = MAIN_TURNS_PER_ONE_BOX_TURN.saturating_mul(one).max(1);
    let one_weight = if main == 0 { 1 } else { main.min(main_weight) };
    roles.iter().map(|role| if *role == Role::Main { main_weight } else { one_weight }).collect()
}

/// One round of turns in which each box occurs in proportion to its weight and the one-box last.
fn turns(roles: &[Role]) -> Vec<u32> {
    let of = |role| (0_u32..).zip(roles).filter(move |(_, r)| **r == role).map(|(n, _)| n);
    let (main, one): (Vec<u32>, Vec<u32>) = (of(Role::Main).collect(), of(Role::OneBox).collect());
    if main.is_empty() || one.is_empty() {
        return if main.is_empty() { one } else { main };
    }
    let group = MAIN_TURNS_PER_ONE_BOX_TURN as usize;
    if main.len() >= group * one.len() {
        // Equal shares: each one-box stands after its part of the main boxes.
        let part = main.len().div_ceil(one.len());
        let mut round = Vec::with_capacity(main.len() + one.len());
        for (n, one_box) in one.iter().enumerate() {
            round.extend(main.iter().skip(n * part).take(part));
            round.push(*one_box);
        }
        return round;
    }
    // A tenth: nine turns of the main boxes, then one of a one-box, until both have come round.
    let (mut main_turns, mut one_turns) = (main.iter().cycle(), one.iter().cycle());
    let mut round = Vec::new();
    for _ in 0..main.len() * one.len() {
        round.extend(main_turns.by_ref().take(group));
        round.extend(one_turns.next());
    }
    round
}

/// Where the requests of one endpoint go.
#[derive(Debug)]
pub(crate) struct Route {
    pub(crate) key: EndpointKey,
    pub(crate) table: ArcSwap<Table>,
    pub(crate) labels: Arc<Labels>,
    /// Requests of this second that no box could take.
    pub(crate) unrouted: AtomicU64,
}

impl Route {
    pub(crate) fn new(key: EndpointKey) -> Route {
        Route { key, table: ArcSwap::default(), labels: Arc::default(), unrouted: AtomicU64::new(0) }
    }

    /// The next box in turn that is not among those tried.
    pub(crate) fn pick(&self, tried: &[Arc<Upstream>]) -> Option<Flight> {
        let flight = self.table.load().pick(tried);
        // A box that left between the read of the table and the entrance is not in the table that is there by now.
        flight.or_else(|| self.table.load_full().pick(tried))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Role::{Main, OneBox};

    fn share(roles: &[Role]) -> (usize, usize) {
        let round = turns(roles);
        let one = round.iter().filter(|n| roles[**n as usize] == OneBox).count();
        (one, round.len())
    }

    #[test]
    fn the_one_box_gets_a_tenth_at_most_whatever_the_number_of_boxes() {
        for main in 1..40 {
            for one in 1..3 {
                let roles: Vec<Role> =
                    std::iter::repeat_n(Main, main).chain(std::iter::repeat_n(OneBox, one)).collect();
                let (got, all) = share(&roles);
                assert!(got * 10 <= all, "{main} main, {one} one-box: {got} of {all}");
                let weights = weights(&roles);
                for (n, weight) in (0_u32..).zip(&weights) {
                    let occurs = turns(&roles).iter().filter(|t| **t == n).count();
                    let sum: u32 = weights.iter().sum();
                    assert_eq!(occurs * sum as usize, all * *weight as usize, "{main} {one} box {n}");
                }
                let round = turns(&roles);
                let seen = round.iter().enumerate().try_fold(0, |seen, (n, t)| {
                    let seen = seen + usize::from(roles[*t as usize] == OneBox);
                    (seen * 10 <= n + 1).then_some(seen)
                });
                assert!(seen.is_some(), "a prefix of the round gives the one-box more: {main} {one}");
            }
        }
    }

    #[test]
    fn alone_the_one_box_serves() {
        assert_eq!(turns(&[OneBox]), [0]);
        assert_eq!(weights(&[OneBox]), [1]);
        assert_eq!(weights(&[Main, Main]), [1, 1]);
        assert_eq!(weights(&[Main, Main, OneBox]), [9, 9, 2]);
        assert!(turns(&[]).is_empty());
    }
}

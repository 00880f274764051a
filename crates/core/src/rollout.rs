//! The rolling deployment of one target (P5, P6): given the boxes as observed and the split that was asked for last, which
//! split comes next. A sliding window: as one new box is healthy for long enough, the next old one is replaced.
//!
//! What must hold: boxes that are out because of tidegate and for other reasons together never exceed the limit by our
//! doing. Unhealthy boxes are replaced first and for free, for they do not serve anyway; those that start will serve soon, so
//! on the way forward they are waited for.

use crate::definition::Rolling;
use crate::engine::{BoxHealth, BoxObservation};
use crate::ids::RunSpecDigest;
use crate::units::{Percent, Timestamp};

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Ask for this many boxes of the new RunSpec in all (more than were asked for so far).
    Ask(u32),
    /// Wait for the engine to tell of progress.
    Wait,
    /// Wait, and look again then: a box has to be healthy for a while longer.
    WaitUntil(Timestamp),
    /// Every box runs the new RunSpec and is healthy.
    Complete,
}

/// Direction and batch of a rollout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// A release goes forward.
    Forward,
    /// A release is taken back: its own, usually larger batch.
    Back,
}

/// Exactly a third or two thirds for 33 and 66, hundredths otherwise.
fn fraction(percent: Percent) -> (u64, u64) {
    match percent.get() {
        33 => (1, 3),
        66 => (2, 3),
        n => (u64::from(n), 100),
    }
}

/// How many of `boxes` must be healthy at every moment: the share rounded up.
#[must_use]
pub fn minimum_healthy(rolling: &Rolling, boxes: u32) -> u32 {
    let (num, den) = fraction(rolling.min_healthy_percent);
    u32::try_from((u64::from(boxes) * num).div_ceil(den)).unwrap_or(boxes)
}

/// How many may be out at once: the share rounded down, at least one where the minimum allows it, never more than the
/// minimum allows. Zero means that new boxes start before old ones stop ([`surges`]).
#[must_use]
pub fn maximum_out(rolling: &Rolling, boxes: u32, direction: Direction) -> u32 {
    let (num, den) = fraction(match direction {
        Direction::Forward => rolling.max_unavailable_percent,
        Direction::Back => rolling.rollback_percent,
    });
    let share = u32::try_from(u64::from(boxes) * num / den).unwrap_or(0).max(1);
    share.min(boxes - minimum_healthy(rolling, boxes).min(boxes))
}

/// Whether a fleet of this size is too small to take a box out: then the new one starts before the old one stops.
#[must_use]
pub fn surges(rolling: &Rolling, boxes: u32, direction: Direction) -> bool {
    maximum_out(rolling, boxes, direction) == 0
}

/// Decides the next split of a target of `boxes` boxes that is brought to `new`, of which `asked` were asked for so far.
#[must_use]
pub fn next(
    rolling: &Rolling,
    direction: Direction,
    boxes: u32,
    new: &RunSpecDigest,
    asked: u32,
    seen: &[BoxObservation],
    now: Timestamp,
) -> Next {
    let mut settled = 0_u32;
    let mut settles_at: Option<Timestamp> = None;
    let (mut old_total, mut old_healthy, mut old_starting) = (0_u32, 0_u32, 0_u32);
    for one in seen {
        match (&one.health, &one.run_spec == new) {
            (BoxHealth::Healthy { since }, true) => {
                let at = match direction {
                    Direction::Forward => *since + rolling.healthy_for,
                    Direction::Back => *since,
                };
                if at <= now {
                    settled += 1;
                } else {
                    settles_at = Some(settles_at.map_or(at, |t| t.min(at)));
                }
            }
            (BoxHealth::Healthy { .. }, false) => {
                old_total += 1;
                old_healthy += 1;
            }
            (BoxHealth::Starting { .. }, false) => {
                old_total += 1;
                old_starting += u32::from(direction == Direction::Forward);
            }
            (BoxHealth::Unhealthy { .. }, false) => old_total += 1,
            (BoxHealth::Starting { .. } | BoxHealth::Unhealthy { .. }, true) => {}
            // A box that leaves still belongs to what is under way.
            (BoxHealth::Leaving, false) => old_total += 1,
            (BoxHealth::Leaving, true) => {}
        }
    }
    let wait = settles_at.map_or(Next::Wait, Next::WaitUntil);
    if asked == 0 && boxes == 0 {
        // Configuration for a fleet that is not there yet: whatever starts there is to start with it.
        return Next::Ask(1);
    }
    if asked >= boxes {
        return if settled >= boxes && old_total == 0 { Next::Complete } else { wait };
    }
    // What was asked for and has not come yet is out, whether the engine has begun with it or not.
    let coming = asked.saturating_sub(settled);
    let staying = boxes - asked;
    let staying_healthy = old_healthy.min(staying);
    let staying_out = staying - staying_healthy;
    let free = staying_out.saturating_sub(old_starting);
    let limit = maximum_out(rolling, boxes, direction);
    let more = if limit == 0 {
        u32::from(coming == 0 || staying_healthy == 0)
    } else {
        limit.saturating_sub(coming + staying_out) + free
    };
    let target = asked + more.min(staying);
    if target > asked { Next::Ask(target) } else { wait }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::Span;
    use proptest::prelude::*;

    fn digest(c: char) -> RunSpecDigest {
        RunSpecDigest::new(c.to_string().repeat(64)).unwrap()
    }

    fn boxes(spec: &[(char, bool)]) -> Vec<BoxObservation> {
        spec.iter()
            .enumerate()
            .map(|(n, (c, healthy))| BoxObservation {
                id: n.to_string(),
                incarnation: 1,
                run_spec: digest(*c),
                health: if *healthy {
                    BoxHealth::Healthy { since: Timestamp(0) }
                } else {
                    BoxHealth::Unhealthy { reason: "exited".into() }
                },
                weight: 1,
            })
            .collect()
    }

    fn check(n: u32, asked: u32, seen: &[(char, bool)]) -> Next {
        let rolling = Rolling::default();
        next(&rolling, Direction::Forward, n, &digest('b'), asked, &boxes(seen), Timestamp(60_000))
    }

    #[test]
    fn the_article_s_batches() {
        let rolling = Rolling::default();
        let table: Vec<(u32, u32, u32)> = [1, 2, 3, 4, 6, 10, 100]
            .iter()
            .map(|n| (*n, maximum_out(&rolling, *n, Direction::Forward), minimum_healthy(&rolling, *n)))
            .collect();
        assert_eq!(table, [(1, 0, 1), (2, 0, 2), (3, 1, 2), (4, 1, 3), (6, 2, 4), (10, 3, 7), (100, 33, 67)]);
    }

    #[test]
    fn small_batches_and_faster_rollback() {
        let rolling = Rolling { max_unavailable_percent: Percent::constant(5), ..Rolling::default() };
        assert_eq!(maximum_out(&rolling, 100, Direction::Forward), 5);
        assert_eq!(maximum_out(&rolling, 100, Direction::Back), 33);
        assert_eq!(
            maximum_out(&rolling, 6, Direction::Forward),
            1,
            "at least one, or nothing would ever move"
        );
    }

    #[test]
    fn the_window_slides_by_one_as_one_becomes_healthy() {
        let old = [('a', true); 6];
        assert_eq!(check(6, 0, &old), Next::Ask(2));
        assert_eq!(check(6, 2, &old), Next::Wait, "the engine has not begun yet: nothing more is asked for");
        let one_came = [('b', true), ('b', false), ('a', true), ('a', true), ('a', true), ('a', true)];
        assert_eq!(check(6, 2, &one_came), Next::Ask(3));
        assert_eq!(check(6, 6, &[('b', true); 6]), Next::Complete);
    }

    #[test]
    fn unhealthy_boxes_go_first_and_for_free() {
        let half_down = [('a', false), ('a', false), ('a', false), ('a', true), ('a', true), ('a', true)];
        assert_eq!(
            check(6, 0, &half_down),
            Next::Ask(3),
            "three are out already: they are replaced, no healthy one is"
        );
        assert_eq!(check(6, 3, &half_down[..]), Next::Wait);
    }

    #[test]
    fn boxes_that_start_are_waited_for_and_condemned_ones_are_not() {
        let rolling = Rolling::default();
        let mut seen = boxes(&[('a', true); 6]);
        seen[3..].iter_mut().for_each(|b| b.health = BoxHealth::Starting { since: Timestamp(0) });
        let next = |direction| next(&rolling, direction, 6, &digest('b'), 0, &seen, Timestamp(60_000));
        assert_eq!(next(Direction::Forward), Next::Wait, "half of them will serve in a moment");
        assert_eq!(next(Direction::Back), Next::Ask(3));
    }

    #[test]
    fn fewer_than_three_boxes_start_the_new_one_first() {
        assert_eq!(check(1, 0, &[('a', true)]), Next::Ask(1));
        assert_eq!(check(2, 0, &[('a', true); 2]), Next::Ask(1));
        assert_eq!(check(2, 1, &[('a', true); 2]), Next::Wait);
        assert_eq!(check(2, 1, &[('a', true), ('b', true)]), Next::Ask(2));
    }

    #[test]
    fn an_empty_target_is_filled_at_once() {
        assert_eq!(check(6, 0, &[]), Next::Ask(6));
    }

    #[test]
    fn a_box_counts_only_when_it_was_healthy_for_long_enough() {
        let rolling = Rolling { healthy_for: Span::seconds(10), ..Rolling::default() };
        let seen = boxes(&[('b', true)]);
        let at = |now| next(&rolling, Direction::Forward, 1, &digest('b'), 1, &seen, Timestamp(now));
        assert_eq!(at(9_999), Next::WaitUntil(Timestamp(10_000)));
        assert_eq!(at(10_000), Next::Complete);
    }

    proptest! {
        /// Whatever is observed: replacing healthy boxes never takes the healthy share below the minimum.
        #[test]
        fn the_minimum_is_never_broken_by_asking(
            n in 3_u32..40, asked in 0_u32..40, down in prop::collection::vec(any::<bool>(), 40),
            came in 0_u32..40, out in 1_u8..=33,
        ) {
            let rolling = Rolling { max_unavailable_percent: Percent::constant(out), ..Rolling::default() };
            let asked = asked.min(n);
            let came = came.min(asked);
            let mut spec: Vec<(char, bool)> = (0..came).map(|_| ('b', true)).collect();
            spec.extend((0..n - asked).map(|i| ('a', down[i as usize])));
            let healthy_old = spec.iter().filter(|(c, up)| *c == 'a' && *up).count() as u32;
            if let Next::Ask(k) = next(&rolling, Direction::Forward, n, &digest('b'), asked, &boxes(&spec), Timestamp(60_000)) {
                prop_assert!(k > asked && k <= n);
                let unhealthy_old = (n - asked) - healthy_old;
                let healthy_taken = (k - asked).saturating_sub(unhealthy_old);
                let left = came + healthy_old - healthy_taken;
                prop_assert!(healthy_taken == 0 || left >= minimum_healthy(&rolling, n));
            }
        }
    }
}

//! What is left to chance: every commit, every order of a person and every fault is a [`Choice`] in a list. A seed makes the
//! list as it goes; a recording brings one, and then nothing happens that does not stand in it. So a run can be repeated, and
//! shortened by leaving choices out.
//!
//! What must hold here: whether a fault strikes depends on the seed, the time and the subject alone, never on what was drawn
//! before; so what remains when a choice is left out stays as it was.

use crate::rng::{Rng, mix};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt;

/// Something that happens beyond the ordinary course of the world.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "the names say it; those that do not have a word")]
pub enum Deed {
    // Commits.
    Push,
    // People.
    Hold,
    LiftHolds,
    Rollback,
    Override,
    RaiseAlarm,
    ClearAlarm,
    Skip,
    LiftSkips,
    Retire,
    Revive,
    Retry,
    EditPipeline,
    EditOrganisation,
    // The server and what it stands on.
    DieBeforeCommit,
    DieAfterCommit,
    /// Between any two operations on the store, reads included.
    DieAtOperation,
    Kill,
    /// Dies, and dies again while it starts.
    DieWhileStarting,
    RefuseCommit,
    /// A commit is made, and the server is told that it failed.
    LoseAcknowledgement,
    FillDisk,
    Conflicts,
    /// The server stands still and then goes on as if nothing had been.
    Pause,
    ClockJump,
    // Engines and monitoring.
    DeafEngines,
    BlindMonitoring,
    Alarm,
    FlappingAlarm,
    // What strikes at what is on its way.
    LoseResult,
    RepeatResult,
    /// Beyond its deadline.
    DelayResult,
    DelayCommand,
    RepeatCommand,
    DelayObservation,
    BreakBox,
}

/// What people do, as often as it stands here.
const PEOPLE: [Deed; 16] = [
    Deed::Hold,
    Deed::LiftHolds,
    Deed::LiftHolds,
    Deed::Rollback,
    Deed::Override,
    Deed::Override,
    Deed::RaiseAlarm,
    Deed::ClearAlarm,
    Deed::ClearAlarm,
    Deed::Skip,
    Deed::LiftSkips,
    Deed::Retire,
    Deed::Revive,
    Deed::Retry,
    Deed::EditPipeline,
    Deed::EditOrganisation,
];

/// What befalls the server, the engines and monitoring.
const MISCHIEF: [Deed; 18] = [
    Deed::DieBeforeCommit,
    Deed::DieAfterCommit,
    Deed::DieAtOperation,
    Deed::DieAtOperation,
    Deed::Kill,
    Deed::DieWhileStarting,
    Deed::RefuseCommit,
    Deed::LoseAcknowledgement,
    Deed::FillDisk,
    Deed::Conflicts,
    Deed::Pause,
    Deed::ClockJump,
    Deed::DeafEngines,
    Deed::BlindMonitoring,
    Deed::BlindMonitoring,
    Deed::Alarm,
    Deed::Alarm,
    Deed::FlappingAlarm,
];

/// What comes at the worst moment.
const WORST: [Deed; 10] = [
    Deed::Hold,
    Deed::Rollback,
    Deed::Override,
    Deed::Skip,
    Deed::Retire,
    Deed::Revive,
    Deed::EditPipeline,
    Deed::EditOrganisation,
    Deed::DieAtOperation,
    Deed::Push,
];

/// How often a turning point is a worst moment, in a million.
const WORST_PER_MILLION: u64 = 15_000;

/// One entry of the list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Choice {
    /// When, in milliseconds of virtual time since the run began.
    pub at_ms: i64,
    /// What.
    pub deed: Deed,
    /// Decides its particulars: whom it befalls, for how long.
    pub chance: u64,
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seconds, millis) = (self.at_ms / 1_000, self.at_ms % 1_000);
        write!(f, "{:>4}.{millis:03} s  {:?} ({:016x})", seconds, self.deed, self.chance)
    }
}

/// The list of a run.
#[derive(Debug, Clone)]
pub(crate) struct Script {
    seed: u64,
    now_ms: i64,
    over: bool,
    /// What alone may happen; `None` while the seed decides.
    kept: Option<BTreeSet<Choice>>,
    /// Deeds whose time has not come.
    to_come: BTreeSet<Choice>,
    /// What has happened.
    happened: BTreeSet<Choice>,
}

impl Script {
    /// The list that a seed makes, for a phase with faults of this length.
    pub(crate) fn of(seed: u64, length_ms: i64) -> Script {
        let mut rng = Rng::new(mix(seed ^ 0x005c_a1ed));
        let mut to_come = BTreeSet::new();
        let mut fill = |first: i64, every: (i64, i64), deeds: &[Deed]| {
            let mut at_ms = first;
            while at_ms < length_ms {
                let deed = rng.pick(deeds).copied().unwrap_or(Deed::Push);
                to_come.insert(Choice { at_ms, deed, chance: rng.next() });
                at_ms += rng.range(every.0, every.1);
            }
        };
        fill(60_000, (20_000, 240_000), &[Deed::Push]);
        fill(30_000, (20_000, 120_000), &PEOPLE);
        fill(45_000, (5_000, 60_000), &MISCHIEF);
        Script { seed, now_ms: 0, over: false, kept: None, to_come, happened: BTreeSet::new() }
    }

    /// A list that was recorded.
    pub(crate) fn recorded(seed: u64, choices: &[Choice]) -> Script {
        let kept: BTreeSet<Choice> = choices.iter().copied().collect();
        let to_come = kept.iter().copied().filter(|choice| choice.deed < Deed::LoseResult).collect();
        Script { seed, now_ms: 0, over: false, kept: Some(kept), to_come, happened: BTreeSet::new() }
    }

    /// It is then.
    pub(crate) fn at(&mut self, now_ms: i64) {
        self.now_ms = now_ms;
    }

    /// No fault and no deed any more.
    pub(crate) fn end(&mut self) {
        self.over = true;
        self.to_come.clear();
    }

    /// When the next deed is due.
    pub(crate) fn next_at(&self) -> Option<i64> {
        self.to_come.first().map(|choice| choice.at_ms)
    }

    /// The next deed, which happens now.
    pub(crate) fn take(&mut self) -> Option<Choice> {
        let choice = self.to_come.pop_first()?;
        self.happened.insert(choice);
        Some(choice)
    }

    /// What has happened so far, in order.
    pub(crate) fn happened(&self) -> Vec<Choice> {
        self.happened.iter().copied().collect()
    }

    /// Whether a fault strikes this subject now, which it does so often in a million; with what its particulars are drawn from.
    pub(crate) fn strikes(&mut self, deed: Deed, subject: u64, per_million: u64) -> Option<Rng> {
        if self.over {
            return None;
        }
        let choice = self.choice(deed, subject);
        let strikes = match &self.kept {
            None => choice.chance % 1_000_000 < per_million,
            Some(kept) => kept.contains(&choice),
        };
        strikes.then(|| {
            self.happened.insert(choice);
            Rng::new(mix(choice.chance))
        })
    }

    /// Something decisive has just happened: now and then that is when a person acts, or the server dies.
    pub(crate) fn turning_point(&mut self, number: u64) {
        if self.over || self.kept.is_some() {
            return;
        }
        let chance = self.choice(Deed::Push, number).chance;
        if chance % 1_000_000 < WORST_PER_MILLION {
            let mut rng = Rng::new(mix(chance));
            let deed = rng.pick(&WORST).copied().unwrap_or(Deed::Hold);
            let at_ms = self.now_ms + rng.range(1, 1_500);
            self.to_come.insert(Choice { at_ms, deed, chance: rng.next() });
        }
    }

    fn choice(&self, deed: Deed, subject: u64) -> Choice {
        let at = u64::try_from(self.now_ms).unwrap_or(0);
        let chance = mix(mix(mix(self.seed ^ at.rotate_left(32)) ^ subject) ^ deed as u64);
        Choice { at_ms: self.now_ms, deed, chance }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_strikes_depends_on_the_subject_and_not_on_what_was_asked_before() {
        let struck = |asked_before: u64| {
            let mut script = Script::of(7, 1_000);
            script.at(500);
            let before = (0..asked_before).filter_map(|n| script.strikes(Deed::BreakBox, n + 1_000, 500_000));
            assert!(asked_before == 0 || before.count() > 0);
            (0..64).map(|n| script.strikes(Deed::LoseResult, n, 500_000).is_some()).collect::<Vec<_>>()
        };
        assert_eq!(struck(0), struck(40));
        assert!(struck(0).contains(&true) && struck(0).contains(&false));
    }

    #[test]
    fn a_recorded_list_lets_happen_what_stands_in_it_and_nothing_else() {
        let mut made = Script::of(7, 600_000);
        made.at(500);
        while made.strikes(Deed::BreakBox, 3, 500_000).is_none() {
            made.at(made.now_ms + 1);
        }
        let (then, deed) = (made.now_ms, made.take().unwrap());
        let mut again = Script::recorded(7, &made.happened());
        assert_eq!(again.take(), Some(deed));
        assert_eq!(again.take(), None);
        again.at(then);
        assert!(again.strikes(Deed::BreakBox, 3, 0).is_some());
        assert!(again.strikes(Deed::BreakBox, 4, 1_000_000).is_none());
        again.end();
        assert!(again.strikes(Deed::BreakBox, 3, 1_000_000).is_none(), "the faults are over");
    }
}

//! What the list of choices makes happen: commits, faults of the server and of what it stands on, blind monitoring, alarms.
//! What people do is in [`crate::people`].

use crate::repo::{Draft, Flaw};
use crate::rng::{Rng, mix};
use crate::script::{Choice, Deed};
use crate::setup::{self, alarm_name, word};
use crate::store::Death;
use crate::{Sim, world::Happening};
use tidegate_core::ids::{CommitId, SourceId, UserId};
use tidegate_core::scope::Scope;
use tidegate_store::Fault;

/// How far the server's clock is off at most, in milliseconds.
const SKEW_MAX_MS: i64 = 90_000;
/// How often an alarm that flaps comes and goes at most.
const FLAPS_MAX: i64 = 12;

impl Sim {
    /// Does what the list says, with particulars of its own chance.
    pub(crate) fn do_deed(&mut self, choice: Choice) {
        self.rng = Rng::new(mix(choice.chance));
        match choice.deed {
            Deed::Push => self.push_something(),
            Deed::Hold
            | Deed::LiftHolds
            | Deed::Rollback
            | Deed::Override
            | Deed::RaiseAlarm
            | Deed::ClearAlarm
            | Deed::Skip
            | Deed::LiftSkips
            | Deed::Retire
            | Deed::Revive
            | Deed::Retry
            | Deed::EditPipeline
            | Deed::EditOrganisation => self.meddle(choice.deed),
            Deed::DieBeforeCommit => self.die(Death::BeforeCommit, 10),
            Deed::DieAfterCommit => self.die(Death::AfterCommit, 10),
            Deed::DieAtOperation => self.die(Death::AtOperation, 80),
            Deed::Kill => self.store.kill(),
            Deed::DieWhileStarting => {
                self.store.kill();
                self.start_dies_after = u32::try_from(self.rng.range(0, 12)).ok();
            }
            Deed::RefuseCommit => self.store.inner.fail_next(Fault::Refused),
            Deed::LoseAcknowledgement => self.store.inner.fail_next(Fault::Unacknowledged),
            Deed::FillDisk => {
                // Whoever tends the store frees it after a while.
                for _ in 0..self.rng.range(1, 40) {
                    self.store.inner.fail_next(Fault::NoSpace);
                }
                self.disturbed(self.now + 10_000);
            }
            Deed::Conflicts => {
                let times = u32::try_from(self.rng.range(1, 40)).unwrap_or(1);
                self.store.conflict_next(times);
            }
            Deed::Pause => {
                self.paused_until = self.now + self.rng.range(500, 45_000);
                self.disturbed(self.paused_until);
            }
            Deed::ClockJump => self.jump(),
            Deed::DeafEngines => {
                self.deaf_until = self.now + self.rng.range(2_000, 60_000);
                self.disturbed(self.deaf_until);
            }
            Deed::BlindMonitoring => {
                if let Some(scope) = self.any_scope() {
                    let until = self.now + self.rng.range(5_000, 90_000);
                    self.blind.entry(scope).or_default().push((self.now, until));
                    self.disturbed(until);
                }
            }
            Deed::Alarm | Deed::FlappingAlarm => self.false_alarm(choice.deed == Deed::FlappingAlarm),
            // These strike where something is on its way.
            Deed::LoseResult
            | Deed::RepeatResult
            | Deed::DelayResult
            | Deed::DelayCommand
            | Deed::RepeatCommand
            | Deed::DelayObservation
            | Deed::BreakBox => {}
        }
    }

    fn die(&mut self, death: Death, after_max: i64) {
        let after = u32::try_from(self.rng.range(0, after_max)).unwrap_or(0);
        self.store.die(death, after);
    }

    /// The clock of the server's machine is set, forward or back; the world goes on.
    fn jump(&mut self) {
        let newest = self.server_now();
        self.skew = self.rng.range(-SKEW_MAX_MS, SKEW_MAX_MS);
        self.clock.set(self.now + self.skew);
        // Until the clock has caught up with what is on record, time stands still for the server.
        let caught_up = self.now + (newest - (self.now + self.skew)).max(0);
        self.disturbed(caught_up);
    }

    /// An alarm fires for no reason of ours: for a while, or on and off.
    fn false_alarm(&mut self, flaps: bool) {
        let services = setup::services();
        let service = self.rng.pick(&services).cloned();
        let (Some(scope), Some(service)) = (self.any_scope(), service) else { return };
        let alarm = (scope, alarm_name(&service, self.rng.chance(300)));
        if !flaps {
            let until = self.now + self.rng.range(3_000, 60_000);
            self.weather.insert(alarm, until);
            return;
        }
        let mut after = 0;
        for _ in 0..self.rng.range(2, FLAPS_MAX) {
            let lasts = self.rng.range(500, 6_000);
            self.at(after, Happening::Weather { alarm: alarm.clone(), lasts });
            after += lasts + self.rng.range(500, 12_000);
        }
    }

    fn any_scope(&mut self) -> Option<Scope> {
        let all: Vec<Scope> = self.scopes().into_iter().collect();
        self.rng.pick(&all).cloned()
    }

    /// A commit arrives on a mainline; `approved` if it was approved before that.
    pub(crate) fn push(&mut self, source: &SourceId, draft: Draft, approved: bool) {
        let Some(repo) = self.sources.repos.get_mut(source) else { return };
        let pushed = repo.push(source, self.now, draft, &mut self.rng);
        let others: Vec<&str> = setup::PEOPLE.iter().copied().filter(|p| *p != pushed.author).collect();
        let by: UserId = word(self.rng.pick(&others).copied().unwrap_or("ada"));
        let commit = pushed.commit.id;
        if approved {
            self.approve(&commit, &by);
        } else if self.rng.chance(300) {
            self.approve(&commit, &word(pushed.author));
        } else if self.rng.chance(700) {
            let later = self.rng.range(30_000, 300_000);
            self.at(later, Happening::Approve { commit, by });
        }
    }

    fn push_something(&mut self) {
        let all: Vec<SourceId> = self.sources.repos.keys().cloned().collect();
        let Some(source) = self.rng.pick(&all).cloned() else { return };
        let head = self.sources.repos[&source].history.last().map(|c| c.commit.id.clone());
        let broken: Vec<CommitId> = head
            .map(|h| self.sources.repos[&source].unmended(&h).iter().map(|c| c.commit.id.clone()).collect())
            .unwrap_or_default();
        let mut draft = Draft::default();
        if let Some(commit) = broken.first().filter(|_| self.rng.chance(400)) {
            if self.rng.chance(500) {
                draft.reverts.push(commit.clone());
            } else {
                draft.fixes.push(commit.clone());
            }
        } else if self.rng.chance(350) {
            draft.flaw = Some(match self.rng.range(0, 9) {
                0 => Flaw::FailsBuild,
                1 => Flaw::FailsTests,
                2 => Flaw::NeverHealthy,
                3..=6 => Flaw::Alarm { after_ms: self.rng.range(2_000, 15_000) },
                _ => Flaw::Alarm { after_ms: self.rng.range(60_000, 200_000) },
            });
        }
        let approved = self.rng.chance(800);
        self.push(&source, draft, approved);
    }
}

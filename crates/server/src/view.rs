//! From the core's states to what is told of them. Pure: whoever calls reads the states first. Nothing is decided here;
//! the reasons are the ones that the gates gave.

use std::collections::BTreeSet;
use tidegate_api::{
    BakeStatus, BuildStatus, CapacityStatus, CauseStatus, ChangeStatus, CommitStatus, HoldStatus,
    LeftOutStatus, LogEntry, LogPage, MotionStatus, OrganisationStatus, OverrideStatus, PipelineStatus,
    RaisedAlarm, ReasonStatus, ReleaseStatus, RetirementStatus, SkipStatus, SourceStatus, StageStatus,
    StandingStatus, StepStatus, TaintStatus, TargetStatus, TeamAlarm, TeamStatus, TroubleStatus, VERSION,
    WaitingStatus, WorkStatus, describe,
};
use tidegate_core::alarm::AlarmState;
use tidegate_core::ids::{PipelineId, ReleaseNo, SourceId, TargetId, TeamId};
use tidegate_core::organisation::Organisation;
use tidegate_core::pipeline::{
    Build, Capacity, Life, Motion, Pipeline, Release, SlotState, SourceState, Standing, StepState, Taint,
    Work, unreviewed,
};
use tidegate_core::plan::Step;
use tidegate_core::run_spec::hex;
use tidegate_core::team::Team;
use tidegate_core::units::Timestamp;
use tidegate_runtime::Start;
use tidegate_runtime::audit::Found;

/// The most pending commits that are listed of a source.
pub const PENDING_SHOWN_MAX: usize = 50;
/// The most releases that are listed of a pipeline; those that run somewhere are always listed.
pub const RELEASES_SHOWN_MAX: usize = 30;

/// The organisation.
#[must_use]
pub fn organisation(state: &Organisation) -> OrganisationStatus {
    let alarms = state.alarms.iter().map(|(name, alarm)| RaisedAlarm {
        name: name.clone(),
        by: alarm.by.clone(),
        reason: alarm.reason.clone(),
        since: alarm.since,
    });
    OrganisationStatus { name: state.definition.as_deref().map(|d| d.name.clone()), alarms: alarms.collect() }
}

/// A team, with its alarms that are not OK.
#[must_use]
pub fn team(name: &TeamId, state: &Team) -> TeamStatus {
    let all = state.scopes.iter().flat_map(|(scope, alarms)| alarms.iter().map(move |a| (scope, a)));
    let alarms =
        all.filter(|(_, (_, status))| status.state != AlarmState::Ok).map(|(scope, (name, status))| {
            TeamAlarm {
                scope: scope.clone(),
                name: name.clone(),
                state: status.state,
                since: status.since,
                why: status.why.clone(),
            }
        });
    TeamStatus { name: name.clone(), alarms: alarms.collect(), suspect_turn: state.suspect_turn.clone() }
}

/// A pipeline; `team` is its owner's state, `now` ends overrides.
#[must_use]
pub fn pipeline(name: &PipelineId, state: &Pipeline, team: &Team, now: Timestamp) -> PipelineStatus {
    let planned: BTreeSet<&TargetId> = state.plan.targets().map(|t| &t.id).collect();
    let detached = state.slots.iter().filter(|(target, _)| !planned.contains(target));
    let stages = state.plan.stages.iter().map(|stage| StageStatus {
        name: stage.id.clone(),
        environment: stage.environment.clone(),
        production: stage.production,
        steps: stage.steps.iter().map(|s| step(state, s)).collect(),
    });
    PipelineStatus {
        name: name.clone(),
        service: state.definition.as_deref().map(|d| d.service.clone()),
        team: state.team.clone(),
        sources: state.sources.iter().map(|(id, s)| source(id, s, team)).collect(),
        releases: releases(state),
        stages: stages.collect(),
        detached: detached.map(|(id, slot)| target(id, slot.boxes, Some(slot))).collect(),
        holds: holds(state),
        overrides: overrides(state, now),
        skips: skips(state),
        retirement: state.life.retirement().map(|r| RetirementStatus {
            complete: matches!(state.life, Life::Retired(_)),
            by: r.by.clone(),
            reason: r.reason.clone(),
            since: r.since,
        }),
        observes_since: state.reality.as_ref().map(|reality| reality.since),
        estimates: None,
    }
}

fn source(name: &SourceId, state: &SourceState, team: &Team) -> SourceStatus {
    let missing = unreviewed(state, team);
    let commit = |seen: &tidegate_core::pipeline::SeenCommit| CommitStatus {
        commit: seen.commit.id.clone(),
        subject: seen.commit.subject.clone(),
        author: seen.commit.author_name.clone(),
        seen_at: seen.seen_at,
        unreviewed: missing
            .iter()
            .find(|(other, _)| other.commit.id == seen.commit.id)
            .map(|(_, why)| why.to_string()),
    };
    SourceStatus {
        name: name.clone(),
        head: state.head.clone(),
        pending: state.pending.iter().take(PENDING_SHOWN_MAX).map(commit).collect(),
        pending_count: state.pending.len(),
        trouble: state.trouble.as_ref().map(|t| TroubleStatus { why: t.why.clone(), since: t.since }),
    }
}

fn releases(state: &Pipeline) -> Vec<ReleaseStatus> {
    let running: BTreeSet<ReleaseNo> = state.slots.values().flat_map(|slot| slot.running()).collect();
    let newest = state.releases.iter().rev().enumerate();
    newest
        .filter(|(n, (no, _))| *n < RELEASES_SHOWN_MAX || running.contains(no))
        .map(|(_, (no, r))| release(*no, r, state.taints.get(no)))
        .collect()
}

fn release(no: ReleaseNo, state: &Release, taint: Option<&Taint>) -> ReleaseStatus {
    let change = |c: &tidegate_core::pipeline::Change| ChangeStatus {
        source: c.source.clone(),
        commit: c.commit.id.clone(),
        subject: c.commit.subject.clone(),
        author: c.commit.author_name.clone(),
        approved_by: c.review.by.clone(),
        approved_at: c.review.at,
        late: c.review.late,
        approved_on: c.review.on.as_ref().map(|on| on.change.to_string()),
    };
    let build = match &state.build {
        Build::Building { awaited, .. } => {
            BuildStatus::Building { since: awaited.since, deadline: awaited.deadline }
        }
        Build::Failed { why, at } => BuildStatus::Failed { why: why.clone(), at: *at },
        Build::Built { package, at, .. } => BuildStatus::Built { package: package.clone(), at: *at },
    };
    let standing = match &state.standing {
        Standing::Good => StandingStatus::Good,
        Standing::Suspect { since, scopes, cause } => {
            StandingStatus::Suspect { since: *since, scopes: scopes.clone(), cause: CauseStatus::from(cause) }
        }
        Standing::Rejected { at, cause } => {
            StandingStatus::Rejected { at: *at, cause: CauseStatus::from(cause) }
        }
    };
    let taint = taint.map(|t| TaintStatus {
        commits: t.commits.clone(),
        cleared: t.cleared.as_ref().map(|c| format!("{}: {}", c.by, c.reason)),
    });
    ReleaseStatus {
        release: no,
        commits: state.commits.clone(),
        changes: state.changes.iter().map(change).collect(),
        created_at: state.created_at,
        build,
        standing,
        taint,
        everywhere: None,
        adopted: state.origin.as_ref().map(|o| format!("{} from {}: {}", o.by, o.from, o.reason)),
    }
}

fn step(pipeline: &Pipeline, step: &Step) -> StepStatus {
    let fresh = StepState::default();
    let state = pipeline.steps.get(&step.id).map_or(&fresh, |state| &**state);
    let waiting = state.candidate.map(|release| WaitingStatus {
        release,
        reasons: state.waiting.iter().map(ReasonStatus::from).collect(),
    });
    StepStatus {
        name: step.id.clone(),
        role: step.role,
        work: work(&state.work),
        done: state.done,
        waiting,
        targets: step
            .targets
            .iter()
            .map(|t| target(&t.id, t.boxes, pipeline.slots.get(&t.id).map(|s| &**s)))
            .collect(),
        passes: None,
        waiting_enters: None,
        left_out: pipeline.left_out(step).iter().map(LeftOutStatus::from).collect(),
    }
}

fn work(state: &Work) -> WorkStatus {
    match state {
        Work::Free => WorkStatus::Free,
        Work::Deploying { release, entered } => WorkStatus::Deploying { release: *release, since: *entered },
        Work::Testing { release, entered, awaited, .. } => {
            WorkStatus::Testing { release: *release, since: *entered, deadline: awaited.deadline }
        }
        Work::Baking { release, entered, clock, blind } => WorkStatus::Baking {
            release: *release,
            since: *entered,
            bake: BakeStatus::new(clock, blind.as_ref()),
        },
        Work::Done { release, entered, at } => {
            WorkStatus::Done { release: *release, since: *entered, at: *at }
        }
        Work::Recalled { release, entered } => WorkStatus::Recalled { release: *release, since: *entered },
        Work::RollingBack { release, since, cause } => {
            WorkStatus::RollingBack { release: *release, since: *since, cause: CauseStatus::from(cause) }
        }
        Work::RolledBack { release, at, cause } => {
            WorkStatus::RolledBack { release: *release, at: *at, cause: CauseStatus::from(cause) }
        }
    }
}

fn target(id: &TargetId, boxes: u32, slot: Option<&SlotState>) -> TargetStatus {
    let motion = match slot.map(|s| &s.motion) {
        None | Some(Motion::Settled) => MotionStatus::Settled,
        Some(Motion::Abandoned { release, asked }) => {
            MotionStatus::Abandoned { release: *release, asked: *asked }
        }
        Some(Motion::Forward { release, asked, settled, awaited, trouble }) => MotionStatus::Forward {
            release: *release,
            asked: *asked,
            settled: *settled,
            deadline: awaited.deadline,
            trouble: trouble.clone(),
        },
        Some(Motion::Back { from, to, asked, settled, awaited, trouble }) => MotionStatus::Back {
            from: from.keys().copied().collect(),
            to: *to,
            asked: *asked,
            settled: *settled,
            deadline: awaited.deadline,
            trouble: trouble.clone(),
        },
    };
    let capacity = match slot.map(|s| s.capacity) {
        None | Some(Capacity::Unknown) => CapacityStatus::Unknown,
        Some(Capacity::Enough) => CapacityStatus::Enough,
        Some(Capacity::Short { healthy, minimum }) => CapacityStatus::Short { healthy, minimum },
    };
    TargetStatus {
        name: id.clone(),
        region: id.region.clone(),
        az: id.az.clone(),
        boxes: slot.map_or(boxes, |s| s.boxes),
        current: slot.and_then(SlotState::current),
        motion,
        capacity,
    }
}

fn holds(state: &Pipeline) -> Vec<HoldStatus> {
    let hold = |(number, hold): (&u64, &tidegate_core::pipeline::Hold)| HoldStatus {
        number: *number,
        by: hold.by.clone(),
        reason: hold.reason.clone(),
        since: hold.since,
        until: hold.until,
        stage: hold.stage.clone(),
    };
    state.holds.iter().map(hold).collect()
}

fn skips(state: &Pipeline) -> Vec<SkipStatus> {
    let skip = |(number, skip): (&u64, &tidegate_core::pipeline::Skip)| SkipStatus {
        number: *number,
        scope: skip.scope.clone(),
        release: skip.release,
        by: skip.by.clone(),
        reason: skip.reason.clone(),
        since: skip.since,
    };
    state.skips.iter().map(skip).collect()
}

fn overrides(state: &Pipeline, now: Timestamp) -> Vec<OverrideStatus> {
    let standing = state.overrides.iter().filter(|(_, o)| o.expires > now);
    let show = |(number, o): (&u64, &tidegate_core::pipeline::Override)| OverrideStatus {
        number: *number,
        release: o.release,
        blockers: o.blockers.clone(),
        steps: o.steps.clone(),
        by: o.by.clone(),
        reason: o.reason.clone(),
        at: o.at,
        expires: o.expires,
    };
    standing.map(show).collect()
}

/// An entry of the log, with its words.
#[must_use]
pub fn log_entry(entry: tidegate_runtime::LogEntry) -> LogEntry {
    LogEntry {
        version: VERSION,
        position: entry.position,
        aggregate: entry.aggregate.to_string(),
        seq: entry.seq,
        at: entry.at,
        by: entry.cause,
        text: describe(&entry.fact),
        fact: entry.fact,
        hash: hex(&entry.hash),
    }
}

/// A part of the log that was searched from there.
#[must_use]
pub fn log_page(found: Found, start: Start) -> LogPage {
    let mut entries: Vec<LogEntry> = found.entries.into_iter().map(log_entry).collect();
    let (next, earlier) = match start {
        Start::After(_) => (found.reached, None),
        Start::Before(_) => {
            entries.reverse();
            (entries.last().map(|entry| entry.position), found.reached)
        }
    };
    LogPage { version: VERSION, entries, next, earlier }
}

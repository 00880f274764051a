//! States for people: compact, every state with its reason, readable at 100 columns. Pure: from an answer to a text.

#[cfg(test)]
mod tests;

use crate::text::{Paint, between, clean, roughly, wrap};
use std::collections::BTreeSet;
use tidegate_api::{
    BuildStatus, CapacityStatus, Eta, LogEntry, MotionStatus, PipelineStatus, ReleaseStatus, SourceStatus,
    StandingStatus, Status, StepStatus, TargetStatus, WhyAnswer, WorkStatus,
};
use tidegate_core::alarm::AlarmState;
use tidegate_core::decision::Actor;
use tidegate_core::ids::{CommitId, ReleaseNo};
use tidegate_core::pipeline::Blocker;
use tidegate_core::units::Timestamp;

/// How many releases are shown.
const RELEASES_MAX: usize = 6;
/// How many waiting commits of a source are shown.
const COMMITS_MAX: usize = 5;

/// Everything.
pub(crate) fn status(status: &Status, paint: Paint) -> String {
    let organisation = status.organisation.name.as_deref().unwrap_or("(no organisation applied yet)");
    let mut out = format!("{}  {}\n", paint.bold(&clean(organisation)), paint.dim(&status.now.to_string()));
    for trouble in &status.troubles {
        let since = between(status.now, trouble.since);
        let tried = match trouble.tries {
            0 => String::new(),
            1 => ", tried once".to_owned(),
            n => format!(", tried {n} times"),
        };
        let text = format!("{} (for {since}{tried}): {}", trouble.what, trouble.why);
        out.push_str(&line(2, &paint.bad("TROUBLE"), 7, &text));
    }
    for standby in &status.standbys {
        let place = standby.url.as_ref().map(|url| format!(" at {}", clean(url))).unwrap_or_default();
        let since = between(status.now, standby.since);
        let text = format!(
            "process {}{place} waits to take over (for {since}, tidegate {})",
            standby.pid,
            clean(&standby.tidegate)
        );
        out.push_str(&line(2, &paint.dim("standby"), 7, &text));
    }
    for alarm in &status.organisation.alarms {
        let since = between(status.now, alarm.since);
        let text = format!("raised by {} {since} ago: {}; nothing starts anywhere", alarm.by, alarm.reason);
        out.push_str(&line(
            2,
            &paint.bad(&format!("ALARM {}", alarm.name)),
            alarm.name.as_str().len() + 6,
            &text,
        ));
    }
    for team in &status.teams {
        if team.alarms.is_empty() && team.suspect_turn.is_none() {
            continue;
        }
        out.push_str(&format!("\nteam {}\n", paint.bold(team.name.as_str())));
        let width = team.alarms.iter().map(|a| a.scope.to_string().len()).max().unwrap_or(0);
        let states = team.alarms.iter().map(|a| a.state.to_string().len()).max().unwrap_or(0);
        for alarm in &team.alarms {
            let state = format!("{:states$}", alarm.state.to_string());
            let painted = match alarm.state {
                AlarmState::Alarm => paint.bad(&state),
                AlarmState::InsufficientData => paint.waits(&state),
                AlarmState::Ok => paint.good(&state),
            };
            let head = format!("{:width$}  {painted}", alarm.scope.to_string());
            let text = format!("{} since {}: {}", alarm.name, between(status.now, alarm.since), alarm.why);
            out.push_str(&line(2, &head, width + 2 + state.len(), &text));
        }
        if let Some(pipeline) = &team.suspect_turn {
            out.push_str(&format!("  the suspect release of {pipeline} is on its way back\n"));
        }
    }
    for pipeline in &status.pipelines {
        out.push('\n');
        out.push_str(&of_pipeline(pipeline, status.now, paint));
    }
    if let Some(next) = &status.next {
        out.push_str(&format!("\nthere are more pipelines: tidegate status --after {next}\n"));
    }
    out
}

/// A line whose text is wrapped under its own beginning; `width` is the head's visible width.
fn line(indent: usize, head: &str, width: usize, text: &str) -> String {
    format!("{}{head}  {}\n", " ".repeat(indent), wrap(text, indent + width + 2))
}

fn of_pipeline(pipeline: &PipelineStatus, now: Timestamp, paint: Paint) -> String {
    let mut out = paint.bold(pipeline.name.as_str());
    if let Some(service) = &pipeline.service {
        out.push_str(&format!("  service {service}"));
    }
    if let Some(team) = &pipeline.team {
        out.push_str(&format!(", team {team}"));
    }
    out.push('\n');
    if let Some(retired) = &pipeline.retirement {
        let head = if retired.complete { "RETIRED" } else { "RETIRING" };
        let since = between(now, retired.since);
        let text = format!("by {} {since} ago: {}; its boxes run on", retired.by, retired.reason);
        out.push_str(&line(2, &paint.bad(head), head.len(), &text));
    }
    if let Some(since) = pipeline.observes_since {
        let text = format!("for {}: what follows is what it would do; nothing moves", between(now, since));
        out.push_str(&line(2, &paint.waits("OBSERVES ONLY"), 13, &text));
    }
    for hold in &pipeline.holds {
        let stage = hold.stage.as_ref().map(|s| format!("{s} ")).unwrap_or_default();
        let until = hold.until.map(|u| format!(", ends in {}", between(u, now))).unwrap_or_default();
        let since = between(now, hold.since);
        let text = format!("{stage}by {} for {since}{until}: {}", hold.by, hold.reason);
        let head = format!("HOLD {}", hold.number);
        out.push_str(&line(2, &paint.waits(&head), head.len(), &text));
    }
    for skip in &pipeline.skips {
        let releases = skip.release.map_or_else(String::new, |release| format!(" for {release}"));
        let since = between(now, skip.since);
        let text =
            format!("{} is left out{releases} by {} for {since}: {}", skip.scope, skip.by, skip.reason);
        let head = format!("SKIP {}", skip.number);
        out.push_str(&line(2, &paint.waits(&head), head.len(), &text));
    }
    for o in &pipeline.overrides {
        let blockers: Vec<&str> = o.blockers.iter().map(|b| blocker(*b)).collect();
        let ends = between(o.expires, now);
        let text = format!(
            "{} may pass {} by {}, ends in {ends}: {}",
            o.release,
            blockers.join(", "),
            o.by,
            o.reason
        );
        let head = format!("OVERRIDE {}", o.number);
        out.push_str(&line(2, &paint.waits(&head), head.len(), &text));
    }
    pipeline.sources.iter().for_each(|s| out.push_str(&source(s, now, paint)));
    pipeline.releases.iter().take(RELEASES_MAX).for_each(|r| out.push_str(&release(r, now, paint)));
    if let Some(estimates) = &pipeline.estimates {
        let text = format!("as long as {}", estimates.assumptions.join("; "));
        out.push_str(&line(2, &paint.dim("estimates"), 9, &text));
    }
    let steps = || pipeline.stages.iter().flat_map(|s| s.steps.iter());
    let width = steps().map(|s| s.name.to_string().len()).max().unwrap_or(0);
    let rejected: BTreeSet<ReleaseNo> = pipeline
        .releases
        .iter()
        .filter(|release| matches!(release.standing, StandingStatus::Rejected { .. }))
        .map(|release| release.release)
        .collect();
    steps().for_each(|s| out.push_str(&step(s, &rejected, width, now, paint)));
    for target in &pipeline.detached {
        out.push_str(&format!("  {} is in no stage any more; its boxes run on\n", target.name));
    }
    out
}

/// As an override names it.
fn blocker(blocker: Blocker) -> &'static str {
    match blocker {
        Blocker::Window => "window",
        Blocker::AggregateAlarm => "aggregate-alarm",
        Blocker::OrganisationAlarm => "organisation-alarm",
        Blocker::Hold => "hold",
    }
}

fn source(source: &SourceStatus, now: Timestamp, paint: Paint) -> String {
    let head = source.head.as_ref().map_or("no commit seen yet", CommitId::short);
    let waiting = match source.pending_count {
        0 => "all of it is in releases".to_owned(),
        1 => "1 commit is in no release yet".to_owned(),
        n => format!("{n} commits are in no release yet"),
    };
    let mut out = format!("  source {}  at {head}, {waiting}\n", source.name);
    if let Some(trouble) = &source.trouble {
        let text = format!("since {}: {}", between(now, trouble.since), trouble.why);
        out.push_str(&line(4, &paint.bad("TROUBLE"), 7, &text));
    }
    for commit in source.pending.iter().take(COMMITS_MAX) {
        let why = match &commit.unreviewed {
            Some(why) => format!("\"{}\" by {}: {why}", commit.subject, commit.author),
            None => format!("\"{}\" by {}: reviewed", commit.subject, commit.author),
        };
        let id = commit.commit.short();
        let painted = if commit.unreviewed.is_some() { paint.waits(id) } else { id.to_owned() };
        out.push_str(&line(4, &painted, id.len(), &why));
    }
    if source.pending_count > COMMITS_MAX {
        out.push_str(&format!("    and {} more\n", source.pending_count - COMMITS_MAX));
    }
    out
}

fn release(release: &ReleaseStatus, now: Timestamp, paint: Paint) -> String {
    let name = format!("{:<4}", release.release.to_string());
    let (state, painted, mut text) = match (&release.build, &release.standing) {
        (_, StandingStatus::Rejected { at, cause }) => {
            ("REJECTED", paint.bad("REJECTED"), format!("{} ago: {}", between(now, *at), cause.text))
        }
        (_, StandingStatus::Suspect { since, cause, .. }) => {
            let since = between(now, *since);
            let text = format!("for {since}, and comes back by itself when it is quiet: {}", cause.text);
            ("SUSPECT", paint.waits("SUSPECT"), text)
        }
        (BuildStatus::Failed { why, at }, StandingStatus::Good) => {
            ("FAILED", paint.bad("FAILED"), format!("to build {} ago: {why}", between(now, *at)))
        }
        (BuildStatus::Building { since, deadline }, StandingStatus::Good) => {
            let (since, left) = (between(now, *since), between(*deadline, now));
            ("building", paint.moving("building"), format!("for {since}, given up in {left}"))
        }
        (BuildStatus::Built { .. }, StandingStatus::Good) => match &release.adopted {
            Some(adopted) => {
                ("adopted", paint.good("adopted"), format!("ran before; handed over by {adopted}"))
            }
            None => ("built", paint.good("built"), String::new()),
        },
    };
    let changes: Vec<String> = release
        .changes
        .iter()
        .map(|c| {
            let late = if c.late { " late" } else { "" };
            let on = c.approved_on.as_ref().map(|on| format!(" in {on}")).unwrap_or_default();
            format!("{} \"{}\" (approved{late} by {}{on})", c.commit.short(), c.subject, c.approved_by)
        })
        .collect();
    if !text.is_empty() && !changes.is_empty() {
        text.push_str("; ");
    }
    text.push_str(&changes.join(", "));
    if let Some(everywhere) = &release.everywhere {
        text.push_str(&format!("; everywhere {}", eta(everywhere, now)));
    }
    let pad = " ".repeat(8_usize.saturating_sub(state.len()));
    line(2, &format!("{} {painted}{pad}", paint.bold(&name)), 13, &text)
}

fn step(
    step: &StepStatus,
    rejected: &BTreeSet<ReleaseNo>,
    width: usize,
    now: Timestamp,
    paint: Paint,
) -> String {
    let (release, phase, painted, text) = match &step.work {
        WorkStatus::Free => match here_before(step) {
            Some(release) => (
                Some(release),
                "free",
                paint.dim("free"),
                "ran here before; nothing was deployed yet".to_owned(),
            ),
            None => (None, "free", paint.dim("free"), "nothing has come here yet".to_owned()),
        },
        WorkStatus::Deploying { release, since } => {
            (Some(release), "deploying", paint.moving("deploying"), format!("for {}", between(now, *since)))
        }
        WorkStatus::Testing { release, deadline, .. } => {
            let text = format!("given up in {}", between(*deadline, now));
            (Some(release), "testing", paint.moving("testing"), text)
        }
        WorkStatus::Baking { release, bake, .. } => {
            let blind = bake.blind.as_ref().map(|b| {
                let alarms: Vec<&str> = b.alarms.iter().map(|a| a.as_str()).collect();
                format!("BLIND for {}: no data for {}; ", between(now, b.since), alarms.join(", "))
            });
            let missing = match bake.missing.len() {
                0 => "nothing is missing".to_owned(),
                _ => format!("missing {}", bake.missing.join(", ")),
            };
            let text = format!("{}{missing}", blind.unwrap_or_default());
            (Some(release), "baking", paint.moving("baking"), text)
        }
        WorkStatus::Done { release, at, .. } if rejected.contains(release) => {
            let runs = step.targets.iter().any(|target| target.current == Some(*release));
            let still = if runs { "and still runs here" } else { "and runs here no more" };
            let text = format!("{} ago; it is REJECTED, {still}", between(now, *at));
            (Some(release), "done", paint.bad("done"), text)
        }
        WorkStatus::Done { release, at, .. } => {
            (Some(release), "done", paint.good("done"), format!("{} ago", between(now, *at)))
        }
        WorkStatus::Recalled { release, .. } => {
            let text = "it passes what stands before first; its boxes are watched".to_owned();
            (Some(release), "recalled", paint.moving("recalled"), text)
        }
        WorkStatus::RollingBack { release, since, cause } => {
            let text = format!("for {}: {}", between(now, *since), cause.text);
            (Some(release), "ROLLING BACK", paint.bad("ROLLING BACK"), text)
        }
        WorkStatus::RolledBack { release, at, cause } => {
            let good = step.done.map(|d| format!(" to {d}")).unwrap_or_default();
            let text = format!("{} ago{good}: {}", between(now, *at), cause.text);
            (Some(release), "rolled back", paint.bad("rolled back"), text)
        }
    };
    let passes = step.passes.map(|passes| format!("; passes {}", eta(&passes, now)));
    let text = format!("{text}{}", passes.unwrap_or_default());
    let release = release.map_or_else(|| "-".to_owned(), ToString::to_string);
    let pad = " ".repeat(12_usize.saturating_sub(phase.len()));
    let head = format!("{:width$}  {release:<4} {painted}{pad}", step.name.to_string());
    let mut out = line(2, &head, width + 2 + 5 + 12, &text);
    step.targets.iter().for_each(|t| out.push_str(&target(t, now, paint)));
    for left in &step.left_out {
        let head = "left out";
        let painted = if left.skip.is_some() { paint.waits(head) } else { paint.dim(head) };
        out.push_str(&line(6, &painted, head.len(), &left.text));
    }
    if let Some(waiting) = &step.waiting {
        let reasons: Vec<&str> = waiting.reasons.iter().map(|r| r.text.as_str()).collect();
        let text = if reasons.is_empty() { "it enters next".to_owned() } else { reasons.join("; ") };
        let enters = step.waiting_enters.map(|enters| format!("; enters {}", eta(&enters, now)));
        let text = format!("{text}{}", enters.unwrap_or_default());
        let head = format!("{} waits", waiting.release);
        out.push_str(&line(6, &paint.waits(&head), head.len(), &text));
    }
    out
}

/// What all targets of a step run although nothing was deployed to it: what was handed over.
fn here_before(step: &StepStatus) -> Option<&ReleaseNo> {
    let mut current = step.targets.iter().map(|target| target.current.as_ref());
    let first = current.next().flatten()?;
    current.all(|other| other == Some(first)).then_some(first)
}

/// Only targets about which there is something to say.
fn target(target: &TargetStatus, now: Timestamp, paint: Paint) -> String {
    let motion = match &target.motion {
        MotionStatus::Settled => None,
        MotionStatus::Abandoned { release, asked } => {
            Some(format!("left half way: {asked} of {} boxes were asked to run {release}", target.boxes))
        }
        MotionStatus::Forward { release, asked, settled, deadline, trouble } => {
            let trouble = trouble.as_ref().map(|t| format!("; {t}")).unwrap_or_default();
            let left = between(*deadline, now);
            Some(format!(
                "{settled} of {} boxes run {release}, {asked} asked for; the next within {left}{trouble}",
                target.boxes
            ))
        }
        MotionStatus::Back { from, to, settled, trouble, .. } => {
            let trouble = trouble.as_ref().map(|t| format!("; {t}")).unwrap_or_default();
            let from: Vec<String> = from.iter().map(ToString::to_string).collect();
            let to = to.map_or_else(|| "nothing: it is stopped".to_owned(), |to| to.to_string());
            let boxes = target.boxes;
            Some(format!("back from {} to {to}, {settled} of {boxes} boxes{trouble}", from.join(", ")))
        }
    };
    let short = match target.capacity {
        CapacityStatus::Short { healthy, minimum } => {
            Some(format!("only {healthy} boxes are healthy, and {minimum} must be"))
        }
        CapacityStatus::Enough | CapacityStatus::Unknown => None,
    };
    let said: Vec<String> = motion.into_iter().chain(short.clone()).collect();
    if said.is_empty() {
        return String::new();
    }
    let name = format!("{}/{}", target.region, target.az);
    let painted = if short.is_some() { paint.bad(&name) } else { name.clone() };
    line(6, &painted, name.len(), &said.join("; "))
}

/// When something comes, seen from now.
fn eta(eta: &Eta, now: Timestamp) -> String {
    let (soon, earliest) = (eta.earliest <= now, roughly(eta.earliest.since(now)));
    match eta.latest.map(|latest| roughly(latest.since(now))) {
        None if soon => "at any time".to_owned(),
        None => format!("in {earliest} at the earliest"),
        Some(latest) if soon => format!("within {latest}"),
        Some(latest) if latest == earliest => format!("in {earliest}"),
        Some(latest) => format!("in {earliest} to {latest}"),
    }
}

/// Where a commit is.
pub(crate) fn why(answer: &WhyAnswer, paint: Paint) -> String {
    let mut out = String::new();
    for commit in &answer.commits {
        let name = format!("{} \"{}\"", commit.commit.short(), clean(&commit.subject));
        out.push_str(&format!("{}  in {}, source {}\n", paint.bold(&name), commit.pipeline, commit.source));
        out.push_str(&format!("  {}\n", wrap(&commit.text, 2)));
        let width = commit.steps.iter().map(|s| s.step.len()).max().unwrap_or(0);
        let made_at = commit.arrival.as_ref().map(|arrival| arrival.made.made_at);
        for step in &commit.steps {
            let eta = made_at.zip(step.eta).map_or_else(String::new, |(now, step)| {
                match (step.enters, step.passes) {
                    (_, Some(passes)) => format!("; passes {}", eta(&passes, now)),
                    (Some(enters), None) => format!("; enters {}", eta(&enters, now)),
                    (None, None) => String::new(),
                }
            });
            out.push_str(&line(2, &format!("{:width$}", step.step), width, &format!("{}{eta}", step.text)));
        }
        if let Some(arrival) = &commit.arrival {
            let text = match (&arrival.everywhere, &arrival.stuck) {
                (Some(everywhere), _) => {
                    let at = format!("{}", everywhere.earliest);
                    let at = at.get(..16).unwrap_or(&at).replace('T', " ");
                    format!("everywhere {} ({at} UTC)", eta(everywhere, arrival.made.made_at))
                }
                (None, Some(why)) => format!("it does not get everywhere by itself: {why}"),
                (None, None) => "when it is everywhere cannot be told".to_owned(),
            };
            out.push_str(&format!("  {}\n", wrap(&text, 2)));
            let text = format!("as long as {}", arrival.made.assumptions.join("; "));
            out.push_str(&format!("  {}\n", paint.dim(&wrap(&text, 2))));
        }
    }
    out
}

/// How much of the time is shown.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Moment {
    /// With the day.
    Day,
    /// Without it, with milliseconds.
    Time,
}

/// One line for one fact.
pub(crate) fn entry(entry: &LogEntry, moment: Moment, paint: Paint) -> String {
    let at = entry.at.to_string();
    let at = match moment {
        Moment::Day => at.get(..19).unwrap_or(&at).replace('T', " "),
        Moment::Time => at.get(11..23).unwrap_or(&at).to_owned(),
    };
    let by = match &entry.by {
        Actor::User(user) => format!("  [{user}]"),
        by @ (Actor::Release { .. } | Actor::Machine(_)) => format!("  [{by}]"),
        Actor::Tidegate => String::new(),
    };
    let aggregate = entry.aggregate.strip_prefix("pipeline/").unwrap_or(&entry.aggregate);
    format!("{}  {aggregate:<16}  {}{}\n", paint.dim(&at), clean(&entry.text), paint.dim(&by))
}

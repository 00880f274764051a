//! Every fact in words: one line, without its time and its cause, which stand beside it. The match is exhaustive on
//! purpose: a new kind of fact has to say what it means before it compiles.

use crate::status::missing_text;
use std::collections::BTreeMap;
use tidegate_core::alarm::AlarmName;
use tidegate_core::bake::BakeClock;
use tidegate_core::decision::Fact;
use tidegate_core::forge::{Brought, ChangeRef};
use tidegate_core::ids::{CommitId, ReleaseNo};
use tidegate_core::lease::LeaseFact;
use tidegate_core::organisation::OrganisationFact;
use tidegate_core::pipeline::{ADOPTED, Capacity, Change, PipelineFact, Reason};
use tidegate_core::team::TeamFact;

/// The most commits that one line names.
const NAMED_MAX: usize = 3;

/// A fact in words, on one line.
#[must_use]
pub fn describe(fact: &Fact) -> String {
    let text = match fact {
        Fact::Organisation(fact) => organisation(fact),
        Fact::Team(fact) => team(fact),
        Fact::Pipeline(fact) => pipeline(fact),
        Fact::Lease(fact) => lease(fact),
    };
    // Subjects, reasons and outputs are other people's texts: they do not get to break the line or move the cursor.
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn organisation(fact: &OrganisationFact) -> String {
    match fact {
        OrganisationFact::Defined { definition } => format!(
            "organisation {} defined: {} teams, {} services, {} Regions",
            definition.name,
            definition.teams.len(),
            definition.services.len(),
            definition.regions.len()
        ),
        OrganisationFact::AlarmRaised { name, alarm } => {
            format!("alarm {name} raised by {}: {}; nothing starts anywhere", alarm.by, alarm.reason)
        }
        OrganisationFact::AlarmCleared { name, by } => format!("alarm {name} cleared by {by}"),
    }
}

fn team(fact: &TeamFact) -> String {
    match fact {
        TeamFact::Defined { definition, services, .. } => {
            format!("team defined: {} members, {} services", definition.members.len(), services.len())
        }
        TeamFact::PipelineAdded { pipeline } => format!("pipeline {pipeline} added"),
        TeamFact::PipelineRemoved { pipeline } => format!("pipeline {pipeline} removed"),
        TeamFact::AlarmChanged { scope, alarm, status } => {
            format!("{alarm} in {scope} is {} ({})", status.state, status.why)
        }
        TeamFact::AlarmRenewed { scope, alarm, why, heard } => match heard.expires {
            Some(expires) => format!("{alarm} in {scope} stays as it is until {expires} ({why})"),
            None => format!("{alarm} in {scope} stays as it is ({why})"),
        },
        TeamFact::Approved { commit, approval } => {
            format!("{} approved by {}", commit.short(), approval.by)
        }
        TeamFact::SuspectTurnTaken { pipeline } => format!("the suspect release of {pipeline} comes back"),
        TeamFact::SuspectTurnEnded { pipeline } => format!("the return of {pipeline}'s suspect has ended"),
    }
}

fn lease(fact: &LeaseFact) -> String {
    match fact {
        LeaseFact::Taken { pipeline, step } => format!("{pipeline} deploys here in {step}"),
        LeaseFact::Seized { pipeline } => format!("{pipeline} rolls back here"),
        LeaseFact::Released { pipeline } => format!("{pipeline} is done here"),
        LeaseFact::GivenUp { pipeline } => {
            format!("the deployment of {pipeline} that was interrupted here does not go on")
        }
    }
}

// One flat match, longer than a function usually is, so that no group of facts needs an arm for "the others".
fn pipeline(fact: &PipelineFact) -> String {
    use PipelineFact as F;
    match fact {
        F::Defined { definition, plan, .. } => {
            format!("pipeline defined: {} stages, {} steps", definition.stages.len(), plan.steps().count())
        }
        F::CommitsSeen { source, commits, .. } => {
            format!("{source} has {}", named(commits.iter().map(|c| (c.id.short(), c.subject.as_str()))))
        }
        F::ForgeTold { source, told, .. } => format!("{source}: {}", forge_told(told)),
        F::SourceTroubled { source, trouble } => format!("{source} cannot be read: {}", trouble.why),
        F::SourceRecovered { source } => format!("{source} can be read again"),
        F::ReleaseCreated { release, changes, .. } => {
            format!("{release} made of {}; its build starts", changed(changes))
        }
        F::Resumed { absent, .. } => {
            format!("nobody worked for {absent}: what is awaited has as much more time")
        }
        F::TurnAwaited { release, step: None, .. } => format!("the build of {release} waits for its turn"),
        F::TurnAwaited { release, step: Some(step), .. } => {
            format!("the tests of {release} in {step} wait for their turn")
        }
        F::BuildStarted { release, by, reason, .. } => {
            format!("the build of {release} is tried again by {by}: {reason}")
        }
        F::Adopted { adoption, .. } => format!(
            "{ADOPTED} is what runs on {} targets, handed over by {} from {} (package {}): {}; nothing was deployed",
            adoption.targets.len(),
            adoption.by,
            adoption.from,
            adoption.package.short(),
            adoption.reason
        ),
        F::Built { release, package, .. } => format!("{release} built: package {}", package.short()),
        F::RunSpecsMade { release, run_specs } => {
            let environments: Vec<&str> = run_specs.keys().map(|environment| environment.as_str()).collect();
            format!("{release} can be deployed to what is new: {}", environments.join(", "))
        }
        F::BuildFailed { release, why, .. } => format!("{release} cannot be built: {why}"),
        F::CandidateSet { step, release } => format!("{release} wants to enter {step}"),
        F::Waits { step, release, reasons } if reasons.is_empty() => {
            format!("{release} no longer waits for {step}")
        }
        F::Waits { step, release, reasons } => {
            let reasons: Vec<String> = reasons.iter().map(Reason::to_string).collect();
            format!("{release} waits for {step}: {}", reasons.join("; "))
        }
        F::Entered { step, release, overrides, masks, without, .. } => {
            let under = if overrides.is_empty() { "" } else { " under override " };
            let overrides: Vec<String> = overrides.iter().map(u64::to_string).collect();
            let masked: Vec<&str> = masks.values().flatten().map(AlarmName::as_str).collect();
            let masked =
                if masked.is_empty() { String::new() } else { format!("; masked: {}", masked.join(", ")) };
            let without: Vec<String> =
                without.iter().map(|(region, skip)| format!(" without {region} (skip {skip})")).collect();
            format!("{release} enters {step}{}{under}{}{masked}", without.join(","), overrides.join(", "))
        }
        F::SlotForward { target, release, .. } => format!("{target} moves to {release}"),
        F::SlotBack { target, from, to: Some(to), asked, .. } => {
            format!("{target} returns from {} to {to}, {asked} boxes at once", releases(from.keys()))
        }
        F::SlotBack { target, from, to: None, .. } => {
            format!(
                "{target} is drained and stopped: nothing good ran there before {}",
                releases(from.keys())
            )
        }
        F::SlotResized { target, boxes } => format!("{target} has {boxes} boxes to configure"),
        F::SlotAsked { target, asked, .. } => format!("{target}: {asked} boxes asked for"),
        F::SlotProgressed { target, settled, .. } => format!("{target}: {settled} boxes settled"),
        F::SlotTroubled { target, trouble: Some(trouble) } => format!("{target}: in the way: {trouble}"),
        F::SlotTroubled { target, trouble: None } => format!("{target}: nothing is in the way any more"),
        F::GlassBroken { target, glass, .. } => {
            format!("{target} was PUT BACK by {} at the machine: {}", glass.by, glass.reason)
        }
        F::SlotStuck { target, .. } => {
            format!("{target}: the rollback makes no progress; it goes on, and the on-call was paged")
        }
        F::SlotSettled { target, release: Some(release) } => format!("{target} runs {release}"),
        F::SlotSettled { target, release: None } => format!("{target} is stopped"),
        F::CapacityChanged { target, capacity: Capacity::Short { healthy, minimum } } => {
            format!("{target} has {healthy} healthy boxes and needs {minimum}")
        }
        F::CapacityChanged { target, capacity: Capacity::Enough } => {
            format!("{target} has enough healthy boxes")
        }
        F::CapacityChanged { target, capacity: Capacity::Unknown } => {
            format!("the healthy boxes of {target} are not known")
        }
        F::TestsStarted { step, .. } => format!("tests of {step} start"),
        F::BakeStarted { step, clock } => format!("{step} bakes for {}", clock.minimum),
        F::PageOpened { page, .. } => format!("paged: {}", page.title),
        F::PageResolved { key } => format!("what was paged as {key} is over"),
        F::Watched { step, blind: Some(blind), .. } => {
            let alarms: Vec<&str> = blind.alarms.iter().map(AlarmName::as_str).collect();
            format!("{step}: monitoring is blind, and the bake does not count ({})", alarms.join(", "))
        }
        F::Watched { step, clock, blind: None } => format!("{step} watched; {}", still_missing(clock)),
        F::StepDone { step, release, .. } => format!("{release} passed {step}"),
        F::Rejected { release, cause, .. } => format!("{release} REJECTED: {cause}"),
        F::Suspected { release, scope, cause, .. } => {
            format!("{release} SUSPECTED in {scope} and taken back there: {cause}")
        }
        F::SuspectReturned { release } => format!("{release} was a suspect and may come back"),
        F::StepRollingBack { step, release, done, .. } => match done {
            Some(done) => format!("{step} ROLLS BACK from {release} to {done}"),
            None => format!("{step} ROLLS BACK from {release}"),
        },
        F::StepRecalled { step, release, .. } => {
            format!(
                "{release} is called back from {step}: it was taken back before, and passes there again first"
            )
        }
        F::StepRolledBack { step, .. } => format!("{step} is rolled back"),
        F::MasksLifted { release, scope, alarms } => {
            let alarms: Vec<&str> = alarms.iter().map(AlarmName::as_str).collect();
            format!("{} in {scope} count again for {release}", alarms.join(", "))
        }
        F::TaintCleared { release, cleared } => {
            format!("{release} and its changes cleared by {}: {}", cleared.by, cleared.reason)
        }
        F::HoldPlaced { number, hold } => {
            let stage = hold.stage.as_ref().map(|s| format!(" on {s}")).unwrap_or_default();
            let until = hold.until.map(|u| format!(" until {u}")).unwrap_or_default();
            format!("hold {number}{stage} placed by {}{until}: {}", hold.by, hold.reason)
        }
        F::HoldLifted { number, by } => format!("hold {number} lifted by {by}"),
        F::Overridden { number, allowed } => format!(
            "override {number} for {} by {} until {}: {}",
            allowed.release, allowed.by, allowed.expires, allowed.reason
        ),
        F::RegionSkipped { number, skip } => {
            let releases = skip.release.map_or_else(|| "starts".to_owned(), |release| release.to_string());
            format!("skip {number}: {releases} without {} by {}: {}", skip.scope, skip.by, skip.reason)
        }
        F::SkipLifted { number, by } => format!("skip {number} lifted by {by}"),
        F::Retiring { retirement } => {
            format!(
                "RETIRED by {}: {}; nothing more is begun, boxes run on",
                retirement.by, retirement.reason
            )
        }
        F::Retired { .. } => "nothing moves any more; it is retired".to_owned(),
        F::Revived { .. } => "revived: it goes on".to_owned(),
        F::RollbackOrdered { release, by, reason } => {
            format!("rollback of {release} ordered by {by}: {reason}")
        }
        F::ObservingBegan { .. } => {
            "it only observes from now on: it says what it would do, and moves nothing".to_owned()
        }
        F::ObservingEnded { .. } => "it acts from now on, and goes on from what is really so".to_owned(),
        F::Pretended { fact } => format!("WOULD BE: {}", pipeline(fact)),
        F::ReleasesForgotten { before } => {
            format!("releases before {before} that nothing refers to are forgotten")
        }
    }
}

fn still_missing(clock: &BakeClock) -> String {
    let missing: Vec<String> = clock.missing().iter().map(missing_text).collect();
    if missing.is_empty() {
        "nothing is missing".to_owned()
    } else {
        format!("missing {}", missing.join(", "))
    }
}

fn releases<'a>(all: impl Iterator<Item = &'a ReleaseNo>) -> String {
    all.map(ReleaseNo::to_string).collect::<Vec<_>>().join(", ")
}

/// `GitHub says that 2 commits came by pull request acme/shop#12`.
fn forge_told(told: &BTreeMap<CommitId, Brought>) -> String {
    let mut ways: BTreeMap<String, usize> = BTreeMap::new();
    for brought in told.values() {
        let Brought { forge, repository, changes } = brought;
        let change = |number| ChangeRef { forge: *forge, repository: repository.clone(), number };
        let names: Vec<String> = changes.iter().map(|c| change(c.number).to_string()).collect();
        let way = match names.is_empty() {
            true => format!("by no merged {} of {repository}", forge.change()),
            false => format!("by {}", names.join(" and ")),
        };
        *ways.entry(format!("{forge} says that %n came {way}")).or_default() += 1;
    }
    let count = |n: &usize| if *n == 1 { "1 commit".to_owned() } else { format!("{n} commits") };
    let all: Vec<String> = ways.iter().map(|(way, n)| way.replacen("%n", &count(n), 1)).collect();
    let more =
        if all.len() > NAMED_MAX { format!("; and {} more", all.len() - NAMED_MAX) } else { String::new() };
    format!("{}{more}", all[..all.len().min(NAMED_MAX)].join("; "))
}

fn changed(changes: &[Change]) -> String {
    named(changes.iter().map(|c| (c.commit.id.short(), c.commit.subject.as_str())))
}

/// `2 commits: 1a2b3c4d5e "add a cache", ...`.
fn named<'a>(commits: impl ExactSizeIterator<Item = (&'a str, &'a str)>) -> String {
    let count = commits.len();
    let mut names: Vec<String> =
        commits.take(NAMED_MAX).map(|(id, subject)| format!("{id} \"{subject}\"")).collect();
    if count > NAMED_MAX {
        names.push(format!("and {} more", count - NAMED_MAX));
    }
    let noun = if count == 1 { "new commit" } else { "new commits" };
    format!("{count} {noun}: {}", names.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;
    use serde_json::{Value, json};

    fn told(facts: &[Value]) -> String {
        let line = |fact: &Value| describe(&serde_json::from_value(fact.clone()).unwrap()) + "\n";
        facts.iter().map(line).collect()
    }

    #[test]
    fn facts_are_told_in_one_line_each() {
        let commit = |digit: &str, subject: &str| {
            json!({
                "id": digit.repeat(40), "parents": [], "author_name": "Alice", "author_email": "a@shop.example",
                "committed_at": 0, "subject": subject, "reverts": [], "fixes": [],
            })
        };
        let of = |fact: Value| json!({ "pipeline": fact });
        let target = "frontend/production/eu-1/a/main";
        let awaited = json!({"since": 0, "deadline": 1_000});
        let facts = [
            of(json!({"commits-seen": {"source": "code", "head": "d".repeat(40), "at": 0, "commits": [
                commit("a", "one"), commit("b", "two\u{1b}[2J\nlines"), commit("c", "three"), commit("d", "four"),
            ]}})),
            of(json!({"waits": {"step": "beta/az-1", "release": 7, "reasons": [
                {"step-busy": {"release": 6, "phase": "baking"}}, {"window": {"opens": null}},
            ]}})),
            of(json!({"waits": {"step": "beta/az-1", "release": 7, "reasons": []}})),
            of(json!({"entered": {"step": "beta/az-1", "release": 7, "at": 0, "overrides": [3],
                "masks": {"beta/eu-1": ["Frontend_High_Faults"]}}})),
            of(json!({"entered": {"step": "beta/az-1", "release": 7, "at": 0, "overrides": [], "masks": {},
                "without": {"eu-1": 4}}})),
            of(json!({"region-skipped": {"number": 4, "skip": {"scope": "beta/eu-1", "release": null,
                "by": {"user": "bob"}, "reason": "cables", "since": 0}}})),
            of(json!({"slot-back": {"target": target, "from": {"7": 2, "8": 1}, "to": 6, "generation": 3,
                "asked": 3, "awaited": awaited}})),
            of(json!({"slot-back": {"target": target, "from": {"7": 2}, "to": null, "generation": 3,
                "asked": 0, "awaited": awaited}})),
            of(
                json!({"capacity-changed": {"target": target, "capacity": {"short": {"healthy": 1, "minimum": 2}}}}),
            ),
            of(
                json!({"watched": {"step": "beta/az-1", "blind": null, "clock": {"started": 0, "minimum": "1m",
                "data": [{"api": "POST /orders", "requests": 100}],
                "regions": {"eu-1": {"watched": "12s", "until": 0, "requests": [40]}}}}}),
            ),
            of(json!({"rejected": {"release": 7, "at": 0, "taint": [], "first": 7,
                "cause": {"person": {"by": {"user": "bob"}, "reason": "it is slow"}}}})),
            json!({"organisation": {"alarm-raised": {"name": "storm", "alarm": {"by": {"user": "root"}, "reason": "loss", "since": 0}}}}),
            json!({"lease": {"seized": {"pipeline": "frontend"}}}),
        ];
        expect![[r#"
            code has 4 new commits: aaaaaaaaaa "one", bbbbbbbbbb "two [2J lines", cccccccccc "three", and 1 more
            r7 waits for beta/az-1: r6 is baking here; outside the deployment window, which does not open within a year
            r7 no longer waits for beta/az-1
            r7 enters beta/az-1 under override 3; masked: Frontend_High_Faults
            r7 enters beta/az-1 without eu-1 (skip 4)
            skip 4: starts without beta/eu-1 by bob: cables
            frontend/production/eu-1/a/main returns from r7, r8 to r6, 3 boxes at once
            frontend/production/eu-1/a/main is drained and stopped: nothing good ran there before r7
            frontend/production/eu-1/a/main has 1 healthy boxes and needs 2
            beta/az-1 watched; missing 48s of watched time in eu-1, 60 of 100 requests to POST /orders in eu-1
            r7 REJECTED: bob: it is slow
            alarm storm raised by root: loss; nothing starts anywhere
            frontend rolls back here
        "#]].assert_eq(&told(&facts));
    }
}

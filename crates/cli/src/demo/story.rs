//! The demo's story: eight chapters, each of which is checked against the log, the API and the customers' own counters.
//! A chapter that does not happen as told ends the story with an error.

use super::definitions::FIRST;
use super::telling::{Story, Told, done, done_with, entered};
use serde_json::{Value, json};
use std::time::Duration;
use tidegate_api::{LogEntry, MotionStatus, TargetStatus};
use tidegate_core::decision::Fact;
use tidegate_core::ids::{ReleaseNo, TargetId};
use tidegate_core::pipeline::{Cause, PipelineFact, Reason};

/// From the entry of a bad release to its rejection: its boxes have to start, and a period of two seconds to close.
const DETECTION_MAX: Duration = Duration::from_secs(45);

const FRONTEND: &str = "frontend-app";
const BACKEND: &str = "backend-app";

impl Story<'_> {
    /// Tells these chapters.
    pub(crate) async fn tell(&mut self, chapters: &[u32]) -> Told {
        let mut at = 0;
        macro_rules! chapter {
            ($title:literal, $chapter:ident) => {
                at += 1;
                if chapters.contains(&at) {
                    tell!("\n{}", self.paint.bold(&format!("{at}. {}", $title)));
                    self.$chapter()
                        .await
                        .map_err(|why| format!("chapter {at} did not happen as told: {why}"))?;
                }
            };
        }
        chapter!("A first commit goes everywhere by itself", first);
        chapter!("A good one follows, and a third behind it", following);
        chapter!("A commit that nobody approved", unapproved);
        chapter!("A bad commit is caught in the first wave's one-box", bad);
        chapter!("Rejected stays rejected; the revert goes through", stays_rejected);
        chapter!("A slow burn, and a suspect that comes back", slow_burn);
        chapter!("A large-scale event", large_scale_event);
        chapter!("The control plane is killed", killed);
        tell!("\nThe story took {} s.", self.begun.elapsed().as_secs());
        Ok(())
    }

    async fn first(&mut self) -> Told {
        let backend = self.world.backend.clone();
        let frontend = self.world.frontend.clone();
        let applied = self.world.applied.clone();
        self.show_applied(&applied);
        self.merge(&backend, "backend: first version", true).await?;
        let mark = self.mark();
        // The frontend's tests in beta call the backend there.
        self.wait("the backend in beta", BACKEND, mark, |f| done(f, "beta/az-2")).await?;
        self.merge(&frontend, "frontend: first version", true).await?;
        self.done_everywhere(BACKEND, ReleaseNo(1), mark).await?;
        self.done_everywhere(FRONTEND, ReleaseNo(1), mark).await?;
        self.show_order(FRONTEND, ReleaseNo(1));
        self.in_order(FRONTEND, ReleaseNo(1)).await?;
        let names: Vec<String> = self.world.load.snapshot().targets.keys().cloned().collect();
        for name in &names {
            if !self.world.load.wait_served(name, Duration::from_secs(20)).await {
                return Err(format!("customers of {name} are not served"));
            }
            self.world.load.arm(name);
        }
        self.ok(&format!("customers call {} endpoints in every environment and Region", names.len()));
        let verified: Value = self.get("/v1/packages/verify").await?;
        if verified["good"].as_u64().unwrap_or(0) < 2 || verified["bad"] != json!([]) {
            return Err(format!("packages do not verify: {verified}"));
        }
        self.ok("both packages verify: digest, signature, provenance");
        let assets = self.world.assets.clone();
        let infrastructure = self.world.infrastructure.clone();
        let applied = self.world.add_command_pipelines().await?;
        self.show_applied(&applied);
        self.merge(&assets, "assets: first version", true).await?;
        self.merge(&infrastructure, "infrastructure: first version", true).await
    }

    /// What applying the folder of TypeScript said.
    fn show_applied(&self, applied: &[String]) {
        self.ok(&format!("tidegate apply {}", self.world.pipelines().display()));
        for line in applied {
            tell!("      {line}");
        }
    }

    async fn following(&mut self) -> Told {
        let frontend = self.world.frontend.clone();
        let (mark, before) = (self.mark(), self.world.load.snapshot());
        frontend.set("src/version.rs", "VERSION", "\"1.1.0\"")?;
        self.merge(&frontend, "frontend: version 1.1.0", true).await?;
        let second = self.created(FRONTEND, mark).await?;
        self.wait("the second release in wave 1", FRONTEND, mark, |f| entered(f, "wave-1/az-2", second))
            .await?;
        frontend.set("src/version.rs", "VERSION", "\"1.2.0\"")?;
        let next = self.mark();
        self.merge(&frontend, "frontend: version 1.2.0", true).await?;
        let third = self.created(FRONTEND, next).await?;
        let into_two = self
            .wait("the second release in wave 2", FRONTEND, mark, |f| entered(f, "wave-2/one-box", second))
            .await?;
        self.done_everywhere(FRONTEND, second, mark).await?;
        let out_of_two = self
            .find(FRONTEND, mark, |f| done_with(f, "wave-2/az-3", second))
            .map_or(u64::MAX, |e| e.position);
        // A third that was quick is in the one-box already when the second enters wave 2.
        let window = into_two.position..out_of_two;
        let behind = ["wave-1/one-box", "wave-1/az-1", "wave-1/az-2"]
            .into_iter()
            .find(|step| {
                let entry = self.find(FRONTEND, next, |f| entered(f, step, third));
                entry.is_some_and(|e| window.contains(&e.position))
            })
            .ok_or_else(|| format!("{third} entered nothing of wave 1 while {second} was in wave 2"))?;
        self.ok(&format!("{third} entered {behind} while {second} was in wave 2 (P3)"));
        let during = self.world.load.snapshot().since(&before);
        self.nothing_failed(&during)?;
        for pipeline in ["frontend-assets", "frontend-infrastructure"] {
            self.done_everywhere(pipeline, ReleaseNo(1), 0).await?;
        }
        self.ok("static assets and infrastructure went their own way beside it (S1, S4)");
        Ok(())
    }

    async fn unapproved(&mut self) -> Told {
        let backend = self.world.backend.clone();
        backend.set("src/version.rs", "VERSION", "\"1.1.0\"")?;
        let mark = self.mark();
        let commit = self.merge_commit(&backend, "backend: not reviewed by anybody", false).await?;
        let why = self
            .until("the pipeline stops at it", async |s: &mut Story<'_>| {
                if s.find(BACKEND, mark, |f| matches!(f, PipelineFact::ReleaseCreated { .. })).is_some() {
                    return Err("a release was made of a commit that nobody approved".to_owned());
                }
                let status = s.world.status(BACKEND).await?;
                let pending = status.pipelines.iter().flat_map(|p| &p.sources).flat_map(|s| &s.pending);
                Ok(pending.filter(|c| c.commit.as_str() == commit).find_map(|c| c.unreviewed.clone()))
            })
            .await?;
        self.ok(&format!("{} is held: {why}", &commit[..10]));
        if !why.contains("bob") || why.contains("alice") {
            return Err(format!("it does not say whose approval is missing: {why}"));
        }
        // Her own word is recorded, and does not count.
        let answer = self.world.alice.post::<Value>("/v1/approvals", &json!({ "commit": commit })).await;
        answer.map_err(|e| e.to_string())?;
        if self.find(BACKEND, mark, |f| matches!(f, PipelineFact::ReleaseCreated { .. })).is_some() {
            return Err("a release was made of a commit that only its author approved".to_owned());
        }
        self.approve(&commit).await?;
        let release = self.created(BACKEND, mark).await?;
        let entry = self
            .wait("the release", BACKEND, mark, |f| matches!(f, PipelineFact::ReleaseCreated { .. }))
            .await?;
        let late = matches!(&entry.fact, Fact::Pipeline(PipelineFact::ReleaseCreated { changes, .. })
            if changes.iter().any(|c| c.commit.id.as_str() == commit && c.review.late && c.review.by.as_str() == "bob"));
        if !late {
            return Err("the approval was not recorded as late".to_owned());
        }
        self.ok(&format!("bob approved it afterwards: recorded as late, and {release} goes on"));
        self.wait("beta", BACKEND, mark, |f| entered(f, "beta/az-1", release)).await.map(|_| ())
    }

    async fn bad(&mut self) -> Told {
        let frontend = self.world.frontend.clone();
        let mark = self.mark();
        frontend.set("src/behaviour.rs", "FAULT_PERCENT_IN_PRODUCTION", "40")?;
        self.merge(&frontend, "frontend: a bug that no test sees", true).await?;
        let release = self.created(FRONTEND, mark).await?;
        self.doomed.push((FRONTEND, release, "wave-1/az-1"));
        let before = self.world.load.snapshot();
        let entered_at = self
            .wait("the bad release in wave 1's one-box", FRONTEND, mark, |f| {
                entered(f, "wave-1/one-box", release)
            })
            .await?;
        let rejected = self
            .wait_at_most(
                DETECTION_MAX,
                "its rejection",
                FRONTEND,
                mark,
                |f| matches!(f, PipelineFact::Rejected { release: r, .. } if *r == release),
            )
            .await?;
        let Fact::Pipeline(PipelineFact::Rejected { cause: Cause::Alarm { alarm, evidence, .. }, .. }) =
            &rejected.fact
        else {
            return Err(format!("it was rejected for another cause: {}", rejected.text));
        };
        self.ok(&format!("caught by {alarm}: {}", evidence.join("; ")));
        // It was ordered together with the rejection.
        if self.find(FRONTEND, mark, |f| matches!(f, PipelineFact::StepRollingBack { .. })).is_none() {
            return Err("it is not rolled back".to_owned());
        }
        let back = self
            .wait(
                "its rollback",
                FRONTEND,
                mark,
                |f| matches!(f, PipelineFact::StepRolledBack { step, .. } if step.as_str() == "wave-1/one-box"),
            )
            .await?;
        let page = self
            .world
            .pager
            .wait_for(|h| h.body.to_string().contains("is rolled back"), Duration::from_secs(15))
            .await
            .ok_or("the on-call was not paged")?;
        self.ok(&format!("the on-call was paged: {}", page.body["title"].as_str().unwrap_or("?")));
        self.settle().await;
        let during = self.world.load.snapshot().since(&before);
        let production = during.sum(|name| name.starts_with("frontend/production"));
        // None is possible: a canary may be the first that meets the bug.
        let failed = production.failed.total();
        let share = 100.0 * failed as f64 / production.sent.max(1) as f64;
        if share > 10.0 {
            return Err(format!("{share:.1} % of all requests failed"));
        }
        let seconds = |a: &LogEntry, b: &LogEntry| b.at.since(a.at).millis() as f64 / 1_000.0;
        self.ok(&format!(
            "{:.1} s from entering the one-box to its rejection, {:.1} s more until it was back; {failed} of {} customer \
             requests failed ({share:.2} %)",
            seconds(&entered_at, &rejected), seconds(&rejected, &back), production.sent
        ));
        Ok(())
    }

    async fn stays_rejected(&mut self) -> Told {
        let frontend = self.world.frontend.clone();
        let mark = self.mark();
        let bad = self.last_commit(&frontend)?;
        frontend.set("src/version.rs", "VERSION", "\"1.3.0\"")?;
        self.merge(&frontend, "frontend: version 1.3.0, on top of the bug", true).await?;
        let release = self.created(FRONTEND, mark).await?;
        let waits = self
            .wait("the release on top is not let in", FRONTEND, mark, |f| {
                matches!(f, PipelineFact::Waits { release: r, reasons, .. }
                    if *r == release && reasons.iter().any(|x| matches!(x, Reason::Tainted { .. })))
            })
            .await?;
        self.ok(&waits.text);
        let mark = self.mark();
        let revert = frontend.revert("alice", &bad)?;
        self.approve(&revert).await?;
        self.land(&frontend, &revert).await?;
        let revert = self.created(FRONTEND, mark).await?;
        self.wait("the revert passes wave 1", FRONTEND, mark, |f| done_with(f, "wave-1/az-2", revert))
            .await?;
        if self
            .find(FRONTEND, 0, |f| matches!(f, PipelineFact::Entered { release: r, .. } if *r == release))
            .is_some()
        {
            return Err(format!("{release} was let in"));
        }
        self.ok(&format!("{revert} contains the revert and goes through by itself"));
        self.revert = Some(revert);
        Ok(())
    }

    async fn slow_burn(&mut self) -> Told {
        let (frontend, backend) = (self.world.frontend.clone(), self.world.backend.clone());
        let settled = self.newest_of(BACKEND).await?;
        self.done_everywhere(BACKEND, settled, 0).await?;
        let mark = self.mark();
        // The one-box alone is a tenth of the traffic, too little for a p90; the first AZ makes it fire.
        for (name, value) in [("AFTER_SECONDS", "13"), ("MS_PER_SECOND", "1000"), ("MAX_MS", "2500")] {
            frontend.set("src/behaviour.rs", &format!("SLOW_BURN_{name}"), value)?;
        }
        self.merge(&frontend, "frontend: a slow burn", true).await?;
        let slow = self.created(FRONTEND, mark).await?;
        self.doomed.push((FRONTEND, slow, "wave-2/one-box"));
        self.wait("the slow burn in beta", FRONTEND, mark, |f| entered(f, "beta/az-1", slow)).await?;
        backend.set("src/version.rs", "VERSION", "\"1.2.0\"")?;
        self.merge(&backend, "backend: version 1.2.0", true).await?;
        self.wait("it passes the one-box", FRONTEND, mark, |f| done_with(f, "wave-1/one-box", slow)).await?;
        self.wait("it passes the first AZ", FRONTEND, mark, |f| done_with(f, "wave-1/az-1", slow)).await?;
        let rejected = self
            .wait(
                "its rejection",
                FRONTEND,
                mark,
                |f| matches!(f, PipelineFact::Rejected { release: r, .. } if *r == slow),
            )
            .await?;
        self.ok(&rejected.text);
        self.until("every target that ran it has returned", async |s: &mut Story<'_>| {
            let status = s.world.status(FRONTEND).await?;
            let steps = status.pipelines.iter().flat_map(|p| &p.stages).flat_map(|s| &s.steps);
            let in_wave =
                |id: &TargetId| id.environment.as_str() == "production" && id.region.as_str() == FIRST;
            let mut targets = steps.flat_map(|s| &s.targets).filter(|t| in_wave(&t.name));
            let returned = |t: &TargetStatus| t.current != Some(slow) && t.motion == MotionStatus::Settled;
            Ok(targets.all(returned).then_some(()))
        })
        .await?;
        for step in ["wave-1/one-box", "wave-1/az-1"] {
            let back = |f: &PipelineFact| matches!(f, PipelineFact::StepRolledBack { step: s, .. } if s.as_str() == step);
            self.find(FRONTEND, mark, back).ok_or_else(|| format!("{step} was not rolled back"))?;
        }
        self.ok(
            "every target of the unfinished wave returned, the one-box and the AZ that was Done included",
        );
        let suspected = self
            .wait("the other service is suspected", BACKEND, mark, |f| {
                matches!(f, PipelineFact::Suspected { .. })
            })
            .await?;
        self.ok(&suspected.text);
        let returned = self
            .wait("the suspect comes back", BACKEND, mark, |f| {
                matches!(f, PipelineFact::SuspectReturned { .. })
            })
            .await?;
        let Fact::Pipeline(PipelineFact::SuspectReturned { release }) = returned.fact else { return Ok(()) };
        self.wait("and passes", BACKEND, returned.position, |f| done_with(f, "wave-1/az-1", release)).await?;
        self.ok(&format!(
            "the backend's {release} came back by itself and passed the one-box and the first AZ"
        ));
        Ok(())
    }

    async fn large_scale_event(&mut self) -> Told {
        let frontend = self.world.frontend.clone();
        if let Some(revert) = self.revert {
            self.done_everywhere(FRONTEND, revert, 0).await?;
        }
        let running = self.newest_of(BACKEND).await?;
        let reason = json!({"reason": "power failure at a supplier"});
        let _: Value = self
            .world
            .admin
            .put("/v1/alarms/Large_Scale_Event", &reason)
            .await
            .map_err(|e| e.to_string())?
            .value;
        let mark = self.mark();
        let slow = self.last_commit(&frontend)?;
        let revert = frontend.revert("alice", &slow)?;
        self.approve(&revert).await?;
        self.land(&frontend, &revert).await?;
        let release = self.created(FRONTEND, mark).await?;
        let waits = self
            .wait("it is held", FRONTEND, mark, |f| {
                matches!(f, PipelineFact::Waits { release: r, reasons, .. }
                    if *r == release && reasons.iter().any(|x| matches!(x, Reason::OrganisationAlarm { .. })))
            })
            .await?;
        self.ok(&waits.text);
        self.doomed.push((BACKEND, running, "beta/az-1"));
        let order = json!({"release": running, "reason": "to show that nothing holds a rollback", "everywhere": true});
        let _: Value = self
            .world
            .bob
            .post(&format!("/v1/pipelines/{BACKEND}/rollbacks"), &order)
            .await
            .map_err(|e| e.to_string())?
            .value;
        for step in ["wave-1/one-box", "wave-1/az-1"] {
            self.wait(
                "the rollback",
                BACKEND,
                mark,
                |f| matches!(f, PipelineFact::StepRolledBack { step: s, .. } if s.as_str() == step),
            )
            .await?;
        }
        self.ok(&format!("a rollback of the backend's {running}, everywhere, was not held"));
        let body = json!({
            "release": release, "blockers": ["organisation-alarm"], "reason": "the fix has to go out", "expires_in": "10m"
        });
        let path = format!("/v1/pipelines/{FRONTEND}/overrides");
        let _: Value = self.world.bob.post(&path, &body).await.map_err(|e| e.to_string())?.value;
        self.wait("the override lets it pass", FRONTEND, mark, |f| entered(f, "beta/az-1", release)).await?;
        self.ok(&format!("an override with a reason lets {release} pass, and only it"));
        Ok(())
    }

    async fn killed(&mut self) -> Told {
        let release = self.newest_of(FRONTEND).await?;
        self.wait("a rolling deployment", FRONTEND, 0, |f| entered(f, "wave-2/az-1", release)).await?;
        let before = self.world.load.snapshot();
        self.world.kill_server().await?;
        tell!("      the server got SIGKILL in the middle of wave-2/az-1");
        // Customers go on without it for a while: measured by their own clock.
        let mut ticks = tokio::time::interval(Duration::from_secs(1));
        for _ in 0..4 {
            ticks.tick().await;
        }
        self.world.restart_server().await?;
        let clear: Result<Value, String> = async {
            let answer = self.world.admin.delete("/v1/alarms/Large_Scale_Event").await;
            Ok(answer.map_err(|e| e.to_string())?.value)
        }
        .await;
        clear?;
        self.wait("the rest of the wave", FRONTEND, 0, |f| done_with(f, "wave-2/az-3", release)).await?;
        self.settle().await;
        let during = self.world.load.snapshot().since(&before);
        self.nothing_failed(&during)?;
        self.ok(&format!("after the restart {release} finished its wave as if nothing had happened"));
        let verified: Value = self.get("/v1/log/verify").await?;
        self.ok(&format!("the log's chain holds over {} facts", verified["facts"]));
        Ok(())
    }
}

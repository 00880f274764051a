//! The demo's story: eight chapters, each of which is checked against the log, the API and the customers' own counters.
//! A chapter that does not happen as told ends the story with an error.

use super::load::Counters;
use super::repo::Repo;
use super::world::World;
use crate::text::Paint;
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use tidegate_api::LogEntry;
use tidegate_core::decision::Fact;
use tidegate_core::ids::ReleaseNo;
use tidegate_core::pipeline::{Cause, PipelineFact, Reason};

/// The longest that anything in the story may take.
const PATIENCE: Duration = Duration::from_secs(150);
/// How often the log is read.
const LOOK_EVERY: Duration = Duration::from_millis(100);

const FRONTEND: &str = "frontend-app";
const BACKEND: &str = "backend-app";

/// What the story remembers from chapter to chapter.
pub(crate) struct Story<'w> {
    pub(crate) world: &'w mut World,
    begun: Instant,
    paint: Paint,
    /// The release with the revert of chapter 5.
    revert: Option<ReleaseNo>,
    /// Log entries before this were told to the user already.
    told: usize,
    /// What is meant to be rejected, and the step that it must not get to. Whatever else is rejected ends the story.
    doomed: Vec<(&'static str, ReleaseNo, &'static str)>,
}

type Told = Result<(), String>;

impl<'w> Story<'w> {
    pub(crate) fn new(world: &'w mut World) -> Story<'w> {
        Story {
            world,
            begun: Instant::now(),
            paint: Paint::stdout(),
            revert: None,
            told: 0,
            doomed: Vec::new(),
        }
    }

    /// Tells these chapters.
    pub(crate) async fn tell(&mut self, chapters: &[u32]) -> Told {
        let mut at = 0;
        macro_rules! chapter {
            ($title:literal, $chapter:ident) => {
                at += 1;
                if chapters.contains(&at) {
                    println!("\n{}", self.paint.bold(&format!("{at}. {}", $title)));
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
        println!("\nThe story took {} s.", self.begun.elapsed().as_secs());
        Ok(())
    }

    async fn first(&mut self) -> Told {
        let backend = self.world.backend.clone();
        let frontend = self.world.frontend.clone();
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
        self.world.add_command_pipelines().await?;
        self.merge(&assets, "assets: first version", true).await?;
        self.merge(&infrastructure, "infrastructure: first version", true).await
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
        let behind = self
            .wait("the third release in wave 1", FRONTEND, next, |f| entered(f, "wave-1/one-box", third))
            .await?;
        self.done_everywhere(FRONTEND, second, mark).await?;
        let out_of_two = self
            .find(FRONTEND, mark, |f| done_with(f, "wave-2/az-3", second))
            .map_or(u64::MAX, |e| e.position);
        if !(into_two.position < behind.position && behind.position < out_of_two) {
            return Err(format!("{third} did not enter wave 1 while {second} was in wave 2"));
        }
        self.ok(&format!("{third} entered wave 1 while {second} was in wave 2 (P3)"));
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
            .wait(
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
                |f| matches!(f, PipelineFact::StepRolledBack { step, .. } if step.0 == "wave-1/one-box"),
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
        let failed = production.failed.total();
        if failed == 0 {
            return Err("no customer noticed, so this was no bad release".to_owned());
        }
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
        for (name, value) in [("AFTER_SECONDS", "13"), ("MS_PER_SECOND", "500"), ("MAX_MS", "1000")] {
            frontend.set("src/behaviour.rs", &format!("SLOW_BURN_{name}"), value)?;
        }
        self.merge(&frontend, "frontend: a slow burn", true).await?;
        let slow = self.created(FRONTEND, mark).await?;
        self.doomed.push((FRONTEND, slow, "wave-2/one-box"));
        self.wait("the slow burn in gamma", FRONTEND, mark, |f| entered(f, "gamma/one-box", slow)).await?;
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
        for step in ["wave-1/one-box", "wave-1/az-1"] {
            self.wait(
                "the return",
                FRONTEND,
                mark,
                |f| matches!(f, PipelineFact::StepRolledBack { step: s, .. } if s.0 == step),
            )
            .await?;
        }
        let status = self.world.status(FRONTEND).await?;
        let runs = status
            .pipelines
            .iter()
            .flat_map(|p| &p.stages)
            .filter(|s| s.name.as_str().starts_with("wave"))
            .flat_map(|s| &s.steps)
            .flat_map(|s| &s.targets)
            .find(|t| t.current == Some(slow));
        if let Some(target) = runs {
            return Err(format!("{} still runs {slow}", target.name));
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
                |f| matches!(f, PipelineFact::StepRolledBack { step: s, .. } if s.0 == step),
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
        println!("      the server got SIGKILL in the middle of wave-2/az-1");
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

/// Tools of the chapters.
impl Story<'_> {
    fn ok(&self, text: &str) {
        println!("  {} {:>5.1}s {text}", self.paint.good("✔"), self.begun.elapsed().as_secs_f64());
    }

    fn mark(&self) -> u64 {
        self.world.log.last().map_or(0, |e| e.position)
    }

    async fn get(&self, path: &str) -> Result<Value, String> {
        Ok(self.world.admin.get(path).await.map_err(|e| e.to_string())?.value)
    }

    async fn approve(&self, commit: &str) -> Told {
        let body = json!({ "commit": commit });
        let answer: Result<crate::client::Answer<Value>, _> =
            self.world.bob.post("/v1/approvals", &body).await;
        answer.map(|_| ()).map_err(|e| e.to_string())
    }

    async fn land(&self, repo: &Repo, commit: &str) -> Told {
        repo.land(commit)?;
        let body = json!({ "url": repo.path });
        let answer: Result<crate::client::Answer<Value>, _> =
            self.world.admin.post("/v1/notify", &body).await;
        answer.map(|_| ()).map_err(|e| e.to_string())
    }

    /// Commits as alice, lets bob approve, and merges.
    async fn merge(&mut self, repo: &Repo, message: &str, approved: bool) -> Told {
        self.merge_commit(repo, message, approved).await.map(|_| ())
    }

    async fn merge_commit(&mut self, repo: &Repo, message: &str, approved: bool) -> Result<String, String> {
        let commit = repo.commit("alice", message)?;
        if approved {
            self.approve(&commit).await?;
        }
        self.land(repo, &commit).await?;
        println!("      {} \"{message}\" is merged", &commit[..10]);
        Ok(commit)
    }

    fn last_commit(&self, repo: &Repo) -> Result<String, String> {
        repo.head()
    }

    /// Reads the log and tells the user what has happened since.
    async fn read(&mut self) -> Told {
        self.world.read_log().await?;
        for entry in &self.world.log[self.told..] {
            if let Some(line) = narrate(entry) {
                let line = format!("{:>5.1}s {line}", self.begun.elapsed().as_secs_f64());
                println!("      {}", self.paint.dim(&line));
            }
        }
        let new = &self.world.log[self.told..];
        self.told = self.world.log.len();
        match new.iter().find(|entry| self.unexpected(entry)) {
            Some(entry) => Err(format!("this was not to happen: {}", entry.text)),
            None => Ok(()),
        }
    }

    /// A build that failed, a release that was rejected and is not among the doomed, or one of these that got too far.
    fn unexpected(&self, entry: &LogEntry) -> bool {
        let pipeline = entry.aggregate.trim_start_matches("pipeline/");
        let doomed = |release| self.doomed.iter().find(|(p, r, _)| *p == pipeline && *r == release);
        match &entry.fact {
            Fact::Pipeline(PipelineFact::BuildFailed { .. }) => true,
            Fact::Pipeline(PipelineFact::Rejected { release, .. }) => doomed(*release).is_none(),
            Fact::Pipeline(PipelineFact::Entered { release, step, .. }) => {
                doomed(*release).is_some_and(|(.., limit)| step.0 == *limit)
            }
            _ => false,
        }
    }

    fn find(&self, pipeline: &str, after: u64, holds: impl Fn(&PipelineFact) -> bool) -> Option<&LogEntry> {
        let aggregate = format!("pipeline/{pipeline}");
        let from = self.world.log.partition_point(|e| e.position <= after);
        self.world.log[from..]
            .iter()
            .filter(|e| e.aggregate == aggregate)
            .find(|e| matches!(&e.fact, Fact::Pipeline(fact) if holds(fact)))
    }

    async fn wait(
        &mut self,
        what: &str,
        pipeline: &str,
        after: u64,
        holds: impl Fn(&PipelineFact) -> bool,
    ) -> Result<LogEntry, String> {
        let begun = Instant::now();
        loop {
            self.read().await?;
            if let Some(entry) = self.find(pipeline, after, &holds) {
                return Ok(entry.clone());
            }
            if begun.elapsed() > PATIENCE {
                return Err(format!("waited {} s in vain for: {what} ({pipeline})", PATIENCE.as_secs()));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    async fn until<T>(
        &mut self,
        what: &str,
        look: impl AsyncFn(&mut Self) -> Result<Option<T>, String>,
    ) -> Result<T, String> {
        let begun = Instant::now();
        loop {
            self.read().await?;
            if let Some(found) = look(self).await? {
                return Ok(found);
            }
            if begun.elapsed() > PATIENCE {
                return Err(format!("waited {} s in vain until {what}", PATIENCE.as_secs()));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    async fn created(&mut self, pipeline: &str, after: u64) -> Result<ReleaseNo, String> {
        let entry = self
            .wait("a release", pipeline, after, |f| matches!(f, PipelineFact::ReleaseCreated { .. }))
            .await?;
        match entry.fact {
            Fact::Pipeline(PipelineFact::ReleaseCreated { release, .. }) => Ok(release),
            _ => Err("not a release".to_owned()),
        }
    }

    async fn last_step(&self, pipeline: &str) -> Result<String, String> {
        let status = self.world.status(pipeline).await?;
        let last = status.pipelines.first().and_then(|p| p.stages.last()).and_then(|s| s.steps.last());
        Ok(last.ok_or("no steps")?.name.0.clone())
    }

    async fn done_everywhere(&mut self, pipeline: &str, release: ReleaseNo, after: u64) -> Told {
        let last = self.last_step(pipeline).await?;
        self.wait(&format!("{release} everywhere"), pipeline, after, |f| done_with(f, &last, release))
            .await?;
        self.ok(&format!("{pipeline}: {release} has passed every step"));
        Ok(())
    }

    async fn newest_of(&self, pipeline: &str) -> Result<ReleaseNo, String> {
        let status = self.world.status(pipeline).await?;
        let newest = status.pipelines.first().and_then(|p| p.releases.iter().map(|r| r.release).max());
        newest.ok_or_else(|| "no release".to_owned())
    }

    /// Lets requests in flight end, so that counters before and after can be compared.
    async fn settle(&self) {
        tokio::time::sleep(Duration::from_millis(500)).await;
    }

    fn nothing_failed(&self, during: &Counters) -> Told {
        let all = during.sum(|_| true);
        if all.failed.total() > 0 {
            let failures = self.world.load.failures().join("\n  ");
            return Err(format!("{} of {} requests failed:\n  {failures}", all.failed.total(), all.sent));
        }
        if all.sent == 0 {
            return Err("no customer called".to_owned());
        }
        self.ok(&format!("{} requests of customers, 0 failed", all.sent));
        Ok(())
    }

    /// Every step was entered, and only after the release had passed the one before (rule 3); so there is never more than
    /// one AZ of a Region in work (rule 1).
    async fn in_order(&self, pipeline: &str, release: ReleaseNo) -> Told {
        let status = self.world.status(pipeline).await?;
        let stages = status.pipelines.iter().flat_map(|p| &p.stages);
        let steps: Vec<String> = stages.flat_map(|s| &s.steps).map(|s| s.name.0.clone()).collect();
        let at = |holds: &dyn Fn(&PipelineFact) -> bool| self.find(pipeline, 0, holds).map(|e| e.position);
        for pair in steps.windows(2) {
            let [before, step] = pair else { continue };
            let passed = at(&|f| {
                matches!(f, PipelineFact::StepDone { step: s, release: r, .. }
                if s.0 == *before && *r == release)
            });
            match (passed, at(&|f| entered(f, step, release))) {
                (Some(passed), Some(entered)) if passed < entered => {}
                (_, None) => return Err(format!("{step} was never entered")),
                _ => return Err(format!("{step} was entered before {before} was passed")),
            }
        }
        self.ok(&format!(
            "{release} went through {} steps, each after the one before had passed",
            steps.len()
        ));
        Ok(())
    }

    fn show_order(&self, pipeline: &str, release: ReleaseNo) {
        let aggregate = format!("pipeline/{pipeline}");
        let mut begun = None;
        let mut entered_at: Vec<(String, f64)> = Vec::new();
        println!("      {pipeline} {release}, step by step (seconds since its first step):");
        for entry in self.world.log.iter().filter(|e| e.aggregate == aggregate) {
            let zero = *begun.get_or_insert(entry.at);
            let at = entry.at.since(zero).millis() as f64 / 1_000.0;
            match &entry.fact {
                Fact::Pipeline(PipelineFact::Entered { step, release: r, .. }) if *r == release => {
                    entered_at.push((step.0.clone(), at));
                }
                Fact::Pipeline(PipelineFact::StepDone { step, release: r, .. }) if *r == release => {
                    let from = entered_at.iter().rev().find(|(s, _)| *s == step.0).map_or(at, |(_, t)| *t);
                    let (blank, bar) = ((from / 2.0) as usize, ((at - from) / 2.0).max(1.0) as usize);
                    println!(
                        "      {:<16} {}{} {from:.0}-{at:.0}",
                        step.0,
                        " ".repeat(blank),
                        "█".repeat(bar)
                    );
                }
                _ => {}
            }
        }
    }
}

fn entered(fact: &PipelineFact, step: &str, release: ReleaseNo) -> bool {
    matches!(fact, PipelineFact::Entered { step: s, release: r, .. } if s.0 == step && *r == release)
}

fn done(fact: &PipelineFact, step: &str) -> bool {
    matches!(fact, PipelineFact::StepDone { step: s, .. } if s.0 == step)
}

/// Passed with this release or with a newer one, which carries its changes.
fn done_with(fact: &PipelineFact, step: &str, release: ReleaseNo) -> bool {
    matches!(fact, PipelineFact::StepDone { step: s, release: r, .. } if s.0 == step && *r >= release)
}

/// What of the log the user reads while the story goes on.
fn narrate(entry: &LogEntry) -> Option<String> {
    let Fact::Pipeline(fact) = &entry.fact else { return None };
    let tell = match fact {
        PipelineFact::ReleaseCreated { .. }
        | PipelineFact::Built { .. }
        | PipelineFact::BuildFailed { .. }
        | PipelineFact::Entered { .. }
        | PipelineFact::Rejected { .. }
        | PipelineFact::Suspected { .. }
        | PipelineFact::SuspectReturned { .. }
        | PipelineFact::StepRollingBack { .. }
        | PipelineFact::StepRolledBack { .. } => true,
        PipelineFact::Waits { reasons, .. } => {
            reasons.iter().any(|r| !matches!(r, Reason::StepBusy { .. } | Reason::LeaseHeld { .. }))
        }
        _ => false,
    };
    tell.then(|| format!("{}: {}", entry.aggregate.trim_start_matches("pipeline/"), entry.text))
}

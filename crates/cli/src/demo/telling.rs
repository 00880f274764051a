//! What the chapters of the story are told with: they merge, wait for what the log says, and compare what customers saw.
//! Whatever waits has an end, and what was not to happen ends the story with its reason.

use super::load::Counters;
use super::repo::Repo;
use super::world::World;
use crate::text::Paint;
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use tidegate_api::LogEntry;
use tidegate_core::decision::Fact;
use tidegate_core::ids::ReleaseNo;
use tidegate_core::pipeline::{PipelineFact, Reason};

/// The longest that anything in the story may take.
const PATIENCE: Duration = Duration::from_secs(150);
/// How often the log is read.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What the story remembers from chapter to chapter.
pub(crate) struct Story<'w> {
    pub(super) world: &'w mut World,
    pub(super) begun: Instant,
    pub(super) paint: Paint,
    /// The release with the revert of chapter 5.
    pub(super) revert: Option<ReleaseNo>,
    /// Log entries before this were told to the user already.
    pub(super) told: usize,
    /// What is meant to be rejected, and the step that it must not get to. Whatever else is rejected ends the story.
    pub(super) doomed: Vec<(&'static str, ReleaseNo, &'static str)>,
}

/// How a chapter ended; the error says what did not happen as told.
pub(super) type Told = Result<(), String>;

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
}

impl Story<'_> {
    pub(super) fn ok(&self, text: &str) {
        tell!("  {} {:>5.1}s {text}", self.paint.good("✔"), self.begun.elapsed().as_secs_f64());
    }

    pub(super) fn mark(&self) -> u64 {
        self.world.log.last().map_or(0, |e| e.position)
    }

    pub(super) async fn get(&self, path: &str) -> Result<Value, String> {
        Ok(self.world.admin.get(path).await.map_err(|e| e.to_string())?.value)
    }

    pub(super) async fn approve(&self, commit: &str) -> Told {
        let body = json!({ "commit": commit });
        let answer: Result<crate::client::Answer<Value>, _> =
            self.world.bob.post("/v1/approvals", &body).await;
        answer.map(|_| ()).map_err(|e| e.to_string())
    }

    pub(super) async fn land(&self, repo: &Repo, commit: &str) -> Told {
        repo.land(commit)?;
        let body = json!({ "url": repo.path });
        let answer: Result<crate::client::Answer<Value>, _> =
            self.world.admin.post("/v1/notify", &body).await;
        answer.map(|_| ()).map_err(|e| e.to_string())
    }

    /// Commits as alice, lets bob approve, and merges.
    pub(super) async fn merge(&mut self, repo: &Repo, message: &str, approved: bool) -> Told {
        self.merge_commit(repo, message, approved).await.map(|_| ())
    }

    pub(super) async fn merge_commit(
        &mut self,
        repo: &Repo,
        message: &str,
        approved: bool,
    ) -> Result<String, String> {
        let commit = repo.commit("alice", message)?;
        if approved {
            self.approve(&commit).await?;
        }
        self.land(repo, &commit).await?;
        tell!("      {} \"{message}\" is merged", &commit[..10]);
        Ok(commit)
    }

    pub(super) fn last_commit(&self, repo: &Repo) -> Result<String, String> {
        repo.head()
    }

    /// Reads the log and tells the user what has happened since.
    pub(super) async fn read(&mut self) -> Told {
        self.world.read_log().await?;
        for entry in &self.world.log[self.told..] {
            if let Some(line) = narrate(entry) {
                let line = format!("{:>5.1}s {line}", self.begun.elapsed().as_secs_f64());
                tell!("      {}", self.paint.dim(&line));
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
                doomed(*release).is_some_and(|(.., limit)| step.as_str() == *limit)
            }
            _ => false,
        }
    }

    pub(super) fn find(
        &self,
        pipeline: &str,
        after: u64,
        holds: impl Fn(&PipelineFact) -> bool,
    ) -> Option<&LogEntry> {
        let aggregate = format!("pipeline/{pipeline}");
        let from = self.world.log.partition_point(|e| e.position <= after);
        self.world.log[from..]
            .iter()
            .filter(|e| e.aggregate == aggregate)
            .find(|e| matches!(&e.fact, Fact::Pipeline(fact) if holds(fact)))
    }

    pub(super) async fn wait(
        &mut self,
        what: &str,
        pipeline: &str,
        after: u64,
        holds: impl Fn(&PipelineFact) -> bool,
    ) -> Result<LogEntry, String> {
        self.wait_at_most(PATIENCE, what, pipeline, after, holds).await
    }

    pub(super) async fn wait_at_most(
        &mut self,
        limit: Duration,
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
            if begun.elapsed() > limit {
                return Err(format!("waited {} s in vain for: {what} ({pipeline})", limit.as_secs()));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    pub(super) async fn until<T>(
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

    pub(super) async fn created(&mut self, pipeline: &str, after: u64) -> Result<ReleaseNo, String> {
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
        Ok(last.ok_or("no steps")?.name.to_string())
    }

    pub(super) async fn done_everywhere(&mut self, pipeline: &str, release: ReleaseNo, after: u64) -> Told {
        let last = self.last_step(pipeline).await?;
        self.wait(&format!("{release} everywhere"), pipeline, after, |f| done_with(f, &last, release))
            .await?;
        self.ok(&format!("{pipeline}: {release} has passed every step"));
        Ok(())
    }

    pub(super) async fn newest_of(&self, pipeline: &str) -> Result<ReleaseNo, String> {
        let status = self.world.status(pipeline).await?;
        let newest = status.pipelines.first().and_then(|p| p.releases.iter().map(|r| r.release).max());
        newest.ok_or_else(|| "no release".to_owned())
    }

    /// Lets requests in flight end, so that counters before and after can be compared.
    pub(super) async fn settle(&self) {
        tokio::time::sleep(Duration::from_millis(500)).await;
    }

    pub(super) fn nothing_failed(&self, during: &Counters) -> Told {
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
    pub(super) async fn in_order(&self, pipeline: &str, release: ReleaseNo) -> Told {
        let status = self.world.status(pipeline).await?;
        let stages = status.pipelines.iter().flat_map(|p| &p.stages);
        let steps: Vec<String> = stages.flat_map(|s| &s.steps).map(|s| s.name.to_string()).collect();
        let at = |holds: &dyn Fn(&PipelineFact) -> bool| self.find(pipeline, 0, holds).map(|e| e.position);
        for pair in steps.windows(2) {
            let [before, step] = pair else { continue };
            let passed = at(&|f| {
                matches!(f, PipelineFact::StepDone { step: s, release: r, .. }
                if s.as_str() == before && *r == release)
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

    pub(super) fn show_order(&self, pipeline: &str, release: ReleaseNo) {
        let aggregate = format!("pipeline/{pipeline}");
        let mut begun = None;
        let mut entered_at: Vec<(String, f64)> = Vec::new();
        tell!("      {pipeline} {release}, step by step (seconds since its first step):");
        for entry in self.world.log.iter().filter(|e| e.aggregate == aggregate) {
            let zero = *begun.get_or_insert(entry.at);
            let at = entry.at.since(zero).millis() as f64 / 1_000.0;
            match &entry.fact {
                Fact::Pipeline(PipelineFact::Entered { step, release: r, .. }) if *r == release => {
                    entered_at.push((step.to_string(), at));
                }
                Fact::Pipeline(PipelineFact::StepDone { step, release: r, .. }) if *r == release => {
                    let from =
                        entered_at.iter().rev().find(|(s, _)| s == step.as_str()).map_or(at, |(_, t)| *t);
                    let (blank, bar) = ((from / 2.0) as usize, ((at - from) / 2.0).max(1.0) as usize);
                    tell!("      {:<16} {}{} {from:.0}-{at:.0}", step.0, " ".repeat(blank), "█".repeat(bar));
                }
                _ => {}
            }
        }
    }
}

pub(super) fn entered(fact: &PipelineFact, step: &str, release: ReleaseNo) -> bool {
    matches!(fact, PipelineFact::Entered { step: s, release: r, .. } if s.as_str() == step && *r == release)
}

pub(super) fn done(fact: &PipelineFact, step: &str) -> bool {
    matches!(fact, PipelineFact::StepDone { step: s, .. } if s.as_str() == step)
}

/// Passed with this release or with a newer one, which carries its changes.
pub(super) fn done_with(fact: &PipelineFact, step: &str, release: ReleaseNo) -> bool {
    matches!(fact, PipelineFact::StepDone { step: s, release: r, .. } if s.as_str() == step && *r >= release)
}

/// What of the log the user reads while the story goes on.
fn narrate(entry: &LogEntry) -> Option<String> {
    let Fact::Pipeline(fact) = &entry.fact else { return None };
    let tell = match fact {
        PipelineFact::ReleaseCreated { .. }
        | PipelineFact::Built { .. }
        | PipelineFact::RunSpecsMade { .. }
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

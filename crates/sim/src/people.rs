//! People: they review, hold, lift, override, roll back, raise alarms and edit definitions; when the faults are over they put things right, with
//! the means that tidegate gives them: fixes, reverts, approvals, and a retry with a reason.

use crate::repo::Draft;
use crate::script::Deed;
use crate::server::{failed_build, flip};
use crate::setup::{self, PEOPLE, team, word};
use crate::{Sim, world::Happening};
use std::collections::BTreeSet;
use tidegate_core::alarm::AlarmName;
use tidegate_core::decision::{Actor, Event};
use tidegate_core::ids::{CommitId, PipelineId, ReleaseNo, SourceId, UserId};
use tidegate_core::lint;
use tidegate_core::organisation::OrganisationEvent;
use tidegate_core::pipeline::{Blocker, Build, Pipeline, PipelineEvent, Release, Standing};
use tidegate_core::scope::Scope;
use tidegate_core::team::TeamEvent;
use tidegate_core::units::{Span, Timestamp};

impl Sim {
    /// Approves a commit, and again until it was recorded.
    pub(crate) fn approve(&mut self, commit: &CommitId, by: &UserId) {
        let event = TeamEvent::Approved { commit: commit.clone(), by: by.clone() };
        if self.submit(&Event::Team(team(), event), &Actor::User(by.clone())).is_some() {
            self.sources.approvals.entry(commit.clone()).or_default().insert(by.clone());
        } else {
            // It may have been recorded all the same.
            self.sources.maybe_approved(commit, by);
            self.at(3_000, Happening::Approve { commit: commit.clone(), by: by.clone() });
        }
    }

    fn someone(&mut self) -> Actor {
        Actor::User(word(self.rng.pick(&PEOPLE).copied().unwrap_or("ada")))
    }

    fn tell(&mut self, pipeline: &PipelineId, event: PipelineEvent, by: &Actor) {
        let _ = self.submit(&Event::Pipeline(pipeline.clone(), event), by);
    }

    /// What the list says that a person does, to a pipeline of the list's choice.
    pub(crate) fn meddle(&mut self, deed: Deed) {
        let all: Vec<PipelineId> = self.audit.pipelines().map(|(id, _)| id).collect();
        let Some(id) = self.rng.pick(&all).cloned() else { return };
        let by = self.someone();
        let reason = "a person of the simulation says so".to_owned();
        let Some(pipeline) = self.audit.pipeline(&id).cloned() else { return };
        match deed {
            Deed::Hold => {
                let now = Timestamp(self.server_now());
                let until = flip(&mut self.rng).then(|| now + Span::seconds(60));
                self.tell(&id, PipelineEvent::HoldPlaced { by: by.clone(), reason, until, stage: None }, &by);
            }
            Deed::LiftHolds => self.lift_holds(&id, &pipeline, &by),
            Deed::Rollback => self.order_rollback(&id, &pipeline, &by, reason),
            Deed::Override => self.open_everything(&id, &pipeline, &by, reason),
            Deed::RaiseAlarm => self.organisation_alarm(true, &by),
            Deed::ClearAlarm => self.organisation_alarm(false, &by),
            Deed::Skip => self.skip(&id, &pipeline, &by, reason),
            Deed::LiftSkips => self.lift_skips(&id, &pipeline, &by),
            Deed::Retire => self.tell(&id, PipelineEvent::RetireOrdered { by: by.clone(), reason }, &by),
            Deed::Revive if !pipeline.life.is_active() => self.revive(&id, &pipeline, &by),
            Deed::EditPipeline => self.edit_pipeline(&id, &pipeline, &by),
            Deed::EditOrganisation => self.edit_organisation(&by),
            _ => self.retry_failed(&id, &pipeline),
        }
    }

    fn lift_holds(&mut self, id: &PipelineId, pipeline: &Pipeline, by: &Actor) {
        for hold in pipeline.holds.keys() {
            self.tell(id, PipelineEvent::HoldLifted { hold: *hold, by: by.clone() }, by);
        }
    }

    /// Lets the newest release pass everything that a person may open.
    fn open_everything(&mut self, id: &PipelineId, pipeline: &Pipeline, by: &Actor, reason: String) {
        let Some((release, _)) = pipeline.newest() else { return };
        let event = PipelineEvent::Overridden {
            release,
            blockers: [Blocker::Window, Blocker::Hold, Blocker::AggregateAlarm, Blocker::OrganisationAlarm]
                .into(),
            steps: BTreeSet::new(),
            by: by.clone(),
            reason,
            expires: Timestamp(self.server_now()) + Span::seconds(120),
        };
        self.tell(id, event, by);
    }

    /// Another bake, another size, another batch: whatever is under way.
    fn edit_pipeline(&mut self, id: &PipelineId, pipeline: &Pipeline, by: &Actor) {
        let (Some(mut definition), Some(organisation)) = (
            pipeline.definition.as_deref().cloned(),
            self.audit.organisation().and_then(|o| o.definition.clone()),
        ) else {
            return;
        };
        setup::edit(&mut definition, &mut self.rng);
        // The server takes no other.
        if lint::pipeline(&definition, &organisation).is_empty() {
            self.tell(id, PipelineEvent::Applied { definition: Box::new(definition) }, by);
        }
    }

    /// An AZ more or less, another window.
    fn edit_organisation(&mut self, by: &Actor) {
        let shape = self.rng.next();
        let organisation = setup::organisation(shape);
        let team_event = setup::team_of(&organisation);
        let event = OrganisationEvent::Applied { definition: Box::new(organisation) };
        let _ = self.submit(&Event::Organisation(event), by);
        let _ = self.submit(&Event::Team(team(), team_event), by);
    }

    fn skip(&mut self, id: &PipelineId, pipeline: &Pipeline, by: &Actor, reason: String) {
        let scopes: BTreeSet<Scope> = pipeline.plan.targets().map(|t| Scope::of(&t.id)).collect();
        let scopes: Vec<Scope> = scopes.into_iter().collect();
        let Some(scope) = self.rng.pick(&scopes).cloned() else { return };
        let release = pipeline.newest().map(|(release, _)| release).filter(|_| flip(&mut self.rng));
        self.tell(id, PipelineEvent::RegionSkipped { scope, release, by: by.clone(), reason }, by);
    }

    fn lift_skips(&mut self, id: &PipelineId, pipeline: &Pipeline, by: &Actor) {
        for skip in pipeline.skips.keys() {
            self.tell(id, PipelineEvent::SkipLifted { skip: *skip, by: by.clone() }, by);
        }
    }

    fn revive(&mut self, id: &PipelineId, pipeline: &Pipeline, by: &Actor) {
        if let Some(definition) = pipeline.definition.as_deref() {
            self.tell(id, PipelineEvent::Applied { definition: Box::new(definition.clone()) }, by);
        }
    }

    fn order_rollback(&mut self, id: &PipelineId, pipeline: &Pipeline, by: &Actor, reason: String) {
        let running: Vec<ReleaseNo> =
            pipeline.steps.values().filter_map(|s| s.work.under_way()).map(|(r, _)| r).collect();
        let Some(release) = self.rng.pick(&running).copied() else { return };
        let everywhere = self.rng.chance(300);
        let event = PipelineEvent::RollbackOrdered { release, by: by.clone(), reason, everywhere };
        self.tell(id, event, by);
    }

    fn organisation_alarm(&mut self, raise: bool, by: &Actor) {
        let name = AlarmName::new("large-scale-event").expect("a valid name");
        let event = if raise {
            OrganisationEvent::AlarmRaised { name, reason: "simulated".to_owned(), by: by.clone() }
        } else {
            OrganisationEvent::AlarmCleared { name, by: by.clone() }
        };
        let _ = self.submit(&Event::Organisation(event), by);
    }

    /// After the faults: everything that only people can mend.
    pub(crate) fn put_right(&mut self) {
        let by = self.someone();
        self.organisation_alarm(false, &by);
        let all: Vec<(PipelineId, Pipeline)> =
            self.audit.pipelines().map(|(id, p)| (id, p.clone())).collect();
        for (id, pipeline) in all {
            if !pipeline.life.is_active() {
                self.revive(&id, &pipeline, &by);
            }
            self.lift_skips(&id, &pipeline, &by);
            self.lift_holds(&id, &pipeline, &by);
            self.review_everything(&id);
            self.mend(&id, &pipeline);
            self.retry_failed(&id, &pipeline);
            self.let_the_fix_in(&id, &pipeline, &by);
        }
    }

    /// What burns in a finished stage holds its own fix: somebody has to let it in.
    fn let_the_fix_in(&mut self, id: &PipelineId, pipeline: &Pipeline, by: &Actor) {
        let blocked = pipeline.steps.iter().find_map(|(step, state)| {
            let alarm = state.waiting.iter().any(|r| r.blocker() == Some(Blocker::AggregateAlarm));
            Some((step.clone(), state.candidate.filter(|_| alarm)?))
        });
        let Some((step, release)) = blocked else { return };
        let now = Timestamp(self.server_now());
        let expires = now + Span::seconds(60);
        let given = |o: &tidegate_core::pipeline::Override| o.release == release && o.expires >= now;
        let flawless = pipeline.releases.get(&release).is_some_and(|r| self.is_flawless(r));
        if !flawless || pipeline.overrides.values().any(given) {
            return;
        }
        let event = PipelineEvent::Overridden {
            release,
            blockers: BTreeSet::from([Blocker::AggregateAlarm]),
            steps: BTreeSet::from([step]),
            by: by.clone(),
            reason: "it is the fix".to_owned(),
            expires,
        };
        self.tell(id, event, by);
    }

    fn is_flawless(&self, release: &Release) -> bool {
        release.commits.iter().all(|(source, commit)| {
            self.sources.repos.get(source).is_some_and(|r| r.unmended(commit).is_empty())
        })
    }

    fn review_everything(&mut self, id: &PipelineId) {
        let source: SourceId = word(id.as_str());
        let Some(repo) = self.sources.repos.get(&source) else { return };
        let open: Vec<(CommitId, &'static str)> = repo
            .history
            .iter()
            .filter(|c| !self.sources.reviewed(&c.commit.id))
            .map(|c| (c.commit.id.clone(), c.author))
            .collect();
        for (commit, author) in open {
            let by = PEOPLE.iter().find(|p| **p != author).copied().unwrap_or("ada");
            self.approve(&commit, &word(by));
        }
    }

    /// One commit fixes whatever is broken on the mainline; a rejection that nothing broken explains is fixed by name as well.
    fn mend(&mut self, id: &PipelineId, pipeline: &Pipeline) {
        let source: SourceId = word(id.as_str());
        let Some(head) =
            self.sources.repos.get(&source).and_then(|r| r.history.last()).map(|c| c.commit.id.clone())
        else {
            return;
        };
        let broken = self.sources.repos[&source].unmended(&head).into_iter().map(|c| c.commit.id.clone());
        let mut fixes: BTreeSet<CommitId> = broken.collect();
        for (release, taint) in &pipeline.taints {
            if taint.cleared.is_none() && self.mended.insert(format!("{id}/{release}")) {
                fixes.extend(taint.commits.iter().cloned());
            }
        }
        if !fixes.is_empty() {
            self.push(&source, Draft { fixes: fixes.into_iter().collect(), ..Draft::default() }, true);
        }
    }

    /// A build whose result was lost is tried again if it is the newest; so is a good release that was rejected without guilt.
    fn retry_failed(&mut self, id: &PipelineId, pipeline: &Pipeline) {
        let Some((newest, release)) = pipeline.newest() else { return };
        let flawless = self.is_flawless(release);
        let failed = failed_build(&release.build, self.server_now());
        let rejected = matches!(release.build, Build::Built { .. })
            && matches!(release.standing, Standing::Rejected { .. })
            && !self.faults;
        if flawless && (failed || rejected) {
            let by = self.someone();
            let reason = "it was not its fault".to_owned();
            self.tell(id, PipelineEvent::Retried { release: newest, by: by.clone(), reason }, &by);
        }
    }
}

//! Who is paged, about what, and when that is over (M6). Nothing waits for a page. What was paged and is not over is
//! remembered, so that whoever was called is told of the end; only those destinations that can tell the two apart are.

use super::decide::Deciding;
use super::{Build, Cause, Motion, Pipeline, PipelineFact, Work};
use crate::decision::{Effect, ForwardEffect, Page, PageAbout, PageKind, Severity};
use crate::definition::PageTarget;
use crate::ids::{PipelineId, ReleaseNo, TargetId};
use crate::plan::StepId;
use crate::units::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt::Write;

/// Changes that a page names; of more, it says how many.
const CHANGES_SHOWN: usize = 10;

/// A page that was sent and whose matter is not over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OpenPage {
    /// Its first line.
    pub title: String,
    /// Since when.
    pub since: Timestamp,
    /// What it is about.
    pub matter: Matter,
}

/// What a page is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Matter {
    /// A release is taken back: until nothing that runs it, or a later one, is on its way back any more.
    Rollback(ReleaseNo),
    /// A rollback makes no progress on a target: until the target is back.
    Stuck(TargetId),
    /// A bake stands still because monitoring is blind: until it sees, or the step does not bake any more.
    Blind(StepId),
    /// A release cannot be built: until it can, or a later one is.
    Build(ReleaseNo),
}

impl Matter {
    fn key(&self) -> String {
        match self {
            Matter::Rollback(release) => format!("rollback/{release}"),
            Matter::Stuck(target) => format!("stuck/{target}"),
            Matter::Blind(step) => format!("blind/{step}"),
            Matter::Build(release) => format!("build/{release}"),
        }
    }

    fn release(&self) -> Option<ReleaseNo> {
        match self {
            Matter::Rollback(release) | Matter::Build(release) => Some(*release),
            Matter::Stuck(_) | Matter::Blind(_) => None,
        }
    }

    /// Whether it is over, and how it ended.
    fn ended(&self, p: &Pipeline) -> Option<&'static str> {
        match self {
            Matter::Rollback(release) => {
                let returns = |motion: &Motion| matches!(motion, Motion::Back { from, .. } if from.keys().any(|r| r >= release));
                let returning = p.slots.values().any(|slot| returns(&slot.motion));
                (!returning).then_some("everything that ran it is back on a release that is good")
            }
            Matter::Stuck(target) => {
                let returns = p.slots.get(target).is_some_and(|s| matches!(s.motion, Motion::Back { .. }));
                (!returns).then_some("the target is back")
            }
            Matter::Blind(step) => {
                let work = p.steps.get(step).map(|state| &state.work);
                let blind = matches!(work, Some(Work::Baking { blind: Some(_), .. }));
                (!blind).then_some("monitoring sees again, or nothing bakes there any more")
            }
            Matter::Build(release) => {
                let failed = p.releases.get(release).is_some_and(|r| matches!(r.build, Build::Failed { .. }));
                let later = p.releases.range(*release..).any(|(_, r)| matches!(r.build, Build::Built { .. }));
                (!failed || later).then_some("it is built again, or a later release is there")
            }
        }
    }
}

/// Destinations that know an end from a beginning; anybody else would be called twice.
fn hears_ends(target: &PageTarget) -> bool {
    !matches!(target, PageTarget::Webhook(_))
}

/// Those of a team's destinations that are told of an end.
pub(crate) fn told_of_ends(pages: &[PageTarget]) -> Vec<PageTarget> {
    pages.iter().filter(|target| hears_ends(target)).cloned().collect()
}

impl Deciding<'_> {
    /// Tells the team's on-call engineer, if the team says where.
    pub(super) fn page(&mut self, matter: Matter, severity: Severity, title: String, text: String) {
        let to = self.team.definition.as_ref().map(|d| d.pages.clone()).unwrap_or_default();
        // Nobody is woken for what would be. What cannot be built is really so, and is told in the log.
        if to.is_empty() || self.p.observes() {
            return;
        }
        let key = matter.key();
        if !told_of_ends(&to).is_empty() && !self.p.pages.contains_key(&key) {
            let page = OpenPage { title: title.clone(), since: self.now, matter: matter.clone() };
            self.fact(PipelineFact::PageOpened { key: key.clone(), page });
        }
        self.send_page(&key, PageKind::Opened, severity, title, text, to, matter.release());
    }

    /// Tells of pages whose matter is over.
    pub(super) fn end_pages(&mut self) {
        let over = |(key, page): (&String, &OpenPage)| {
            Some((key.clone(), page.clone(), page.matter.ended(&self.p)?))
        };
        let over: Vec<(String, OpenPage, &'static str)> = self.p.pages.iter().filter_map(over).collect();
        for (key, OpenPage { title, since, matter }, how) in over {
            self.fact(PipelineFact::PageResolved { key: key.clone() });
            let pages = self.team.definition.as_ref().map(|d| d.pages.clone()).unwrap_or_default();
            let to = told_of_ends(&pages);
            if !to.is_empty() {
                let text = format!("Over: {how}.\nFrom: {since}\nUntil: {}", self.now);
                let release = matter.release();
                self.send_page(&key, PageKind::Resolved, Severity::Low, title, text, to, release);
            }
        }
    }

    #[expect(clippy::too_many_arguments, reason = "all parts of one page, used twice")]
    fn send_page(
        &mut self,
        key: &str,
        kind: PageKind,
        severity: Severity,
        title: String,
        text: String,
        to: Vec<PageTarget>,
        release: Option<ReleaseNo>,
    ) {
        let about = release.map(|release| PageAbout { pipeline: self.id.clone(), release });
        let at = self.now;
        let page = Page { key: format!("{}/{key}", self.id), severity, title, text, at, to, kind, about };
        let over = if kind == PageKind::Resolved { "over/" } else { "" };
        let name = format!("page/{over}{key}/{}", self.now.0);
        self.effect(name, Effect::Forward(ForwardEffect::Page(page)));
    }

    /// When a release entered the first of the steps that it is in.
    pub(super) fn came(&self, release: ReleaseNo) -> Option<Timestamp> {
        let under_way = self.p.steps.values().filter_map(|state| state.work.under_way());
        under_way.filter(|(r, _)| *r == release).map(|(_, at)| at).min()
    }

    /// What a rollback's page says: what, where, why, since when, and what to run next.
    pub(super) fn rollback_text(
        &self,
        release: ReleaseNo,
        came: Option<Timestamp>,
        returned: &[TargetId],
        cause: &Cause,
    ) -> String {
        let mut text = String::new();
        let _ = write!(text, "What: {release} of {} is being rolled back.", self.id);
        self.tell_changes(&mut text, release);
        let _ = write!(text, "\nWhy: {cause}\nWhere: {}", places(&self.p, returned));
        let _ = write!(text, "\nSince: {}", self.now);
        if let Some(came) = came {
            let _ = write!(text, " (it came in at {came})");
        }
        let rejected = self.p.taints.contains_key(&release);
        let _ = write!(text, "\nNext: {}", next(self.id, release, rejected, &self.p));
        text
    }

    fn tell_changes(&self, text: &mut String, release: ReleaseNo) {
        let Some(state) = self.p.releases.get(&release) else { return };
        for change in state.changes.iter().take(CHANGES_SHOWN) {
            let commit = &change.commit;
            let _ =
                write!(text, "\n  {} \"{}\" by {}", commit.id.short(), commit.subject, commit.author_name);
        }
        let more = state.changes.len().saturating_sub(CHANGES_SHOWN);
        if more > 0 {
            let _ = write!(text, "\n  and {more} more");
        }
    }
}

/// Targets by environment and Region, with what each goes back to.
fn places(p: &Pipeline, targets: &[TargetId]) -> String {
    let mut regions: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for target in targets {
        let to = match p.slots.get(target).map(|slot| &slot.motion) {
            Some(Motion::Back { to: Some(to), .. }) => format!(" to {to}"),
            Some(Motion::Back { to: None, .. }) => " to nothing".to_owned(),
            _ => String::new(),
        };
        let place = format!("{}/{}", target.environment, target.region);
        regions.entry(place).or_default().push(format!("{}/{}{to}", target.az, target.role));
    }
    let texts: Vec<String> = regions.iter().map(|(at, all)| format!("{at} ({})", all.join(", "))).collect();
    texts.join(", ")
}

/// Commands that the engineer runs next, as they are typed.
fn next(id: &PipelineId, release: ReleaseNo, rejected: bool, p: &Pipeline) -> String {
    let mut text = format!("tidegate status {id}");
    let commit = p.releases.get(&release).and_then(|r| r.changes.first()).map(|c| c.commit.id.short());
    if let Some(commit) = commit {
        let _ = write!(text, "; tidegate why {commit}");
        if rejected {
            let _ = write!(text, "; git revert {commit}, or a fix whose message says 'Fixes: {commit}'");
        }
    }
    if rejected {
        let _ = write!(text, "; if the change is not to blame: tidegate retry {id} {release} --reason WHY");
    } else {
        text.push_str("; it comes back once by itself when the alarm has been OK for a while");
    }
    text
}

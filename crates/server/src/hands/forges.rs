//! Asks forges how commits came that wait for a release, after each look at their source, and again while that may change soon:
//! also about those that were approved there, for an approval may be withdrawn while something else is waited for. Nothing waits for a
//! forge: commits are told of without it, and it is asked beside.
//!
//! What must hold: a forge that does not answer is told of among the troubles and is no verdict; however many pipelines and hints there
//! are, each repository's forge is asked by one task at a time.

use super::Hands;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tidegate_core::causes;
use tidegate_core::definition::{ReviewDef, SourceDef};
use tidegate_core::ids::{CommitId, PipelineId, SourceId};
use tidegate_core::pipeline::{Asked, PipelineEvent, unreviewed};
use tidegate_core::units::{Span, Timestamp};
use tidegate_runtime::{Runtime, RuntimeError};
use tidegate_workers::forge::{self, Client, Counted, ForgeError, Question, Server, Stopped};
use tidegate_workers::git::Mirror;
use tokio::sync::Notify;

/// A commit came so short a time ago that its forge may not know yet what it knows soon.
const YOUNG: Span = Span::minutes(5);
/// Pause before a forge is asked again about young commits, or after it did not answer.
const AGAIN_AFTER: Duration = Duration::from_secs(20);
/// Pause where some commits were asked about in vain, and others were not.
const FAILED_AGAIN_AFTER: Duration = Duration::from_secs(60);
/// The longest pause; whatever a forge asks for beyond it is heeded at the next look.
const PAUSE_MAX: Duration = Duration::from_secs(600);

/// What a forge is asked about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) review: ReviewDef,
    pub(super) branch: String,
}

/// The repository, and where it is reviewed.
type Key = (String, Place);
/// Sources of pipelines.
type Sources = BTreeSet<(PipelineId, SourceId)>;
/// What waits for a review, by source.
type AllPending = BTreeMap<(PipelineId, SourceId), Vec<Pending>>;

/// A task that asks.
#[derive(Debug, Default)]
struct Asking {
    /// For these sources.
    sources: Sources,
    /// Somebody has looked since it began to ask.
    again: bool,
    bell: Arc<Notify>,
}

/// Asks forges.
pub struct Forges {
    client: Client,
    asking: Mutex<BTreeMap<Key, Asking>>,
    /// When each commit was asked about last, of those that wait: what was not asked for longest comes first.
    asked: Mutex<BTreeMap<Place, BTreeMap<CommitId, Instant>>>,
}

impl Forges {
    /// By this client.
    #[must_use]
    pub fn new(client: Client) -> Forges {
        Forges { client, asking: Mutex::default(), asked: Mutex::default() }
    }

    /// How requests have ended so far.
    pub(crate) fn counted(&self) -> &Counted {
        self.client.counted()
    }

    fn asking(&self) -> MutexGuard<'_, BTreeMap<Key, Asking>> {
        self.asking.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Asks soon, beside whatever else goes on.
pub(super) fn ask(
    hands: &Arc<Hands>,
    mirror: Arc<Mirror>,
    place: Place,
    sources: Vec<(PipelineId, SourceId)>,
) {
    let key = (mirror.url().to_owned(), place);
    let mut all = hands.forges.asking();
    let is_asked = all.contains_key(&key);
    let asking = all.entry(key.clone()).or_default();
    asking.sources.extend(sources);
    if is_asked {
        asking.again = true;
        asking.bell.notify_one();
    } else {
        tokio::spawn(run(Arc::clone(hands), mirror, key));
    }
}

impl Forges {
    /// What a task asks for now, and what wakes it; what comes from now on is asked for after that.
    fn begin(&self, key: &Key) -> Option<(Sources, Arc<Notify>)> {
        let mut all = self.asking();
        let asking = all.get_mut(key)?;
        asking.again = false;
        Some((asking.sources.clone(), Arc::clone(&asking.bell)))
    }

    /// Whether a task has nothing more to ask: whoever looks after this finds none, and begins one.
    fn is_over(&self, key: &Key) -> bool {
        let mut all = self.asking();
        let over = all.get(key).is_none_or(|asking| !asking.again);
        if over {
            all.remove(key);
        }
        over
    }

    fn remember(&self, place: &Place, told: impl Iterator<Item = CommitId>) {
        let (mut all, now) = (self.asked.lock().unwrap_or_else(PoisonError::into_inner), Instant::now());
        all.entry(place.clone()).or_default().extend(told.map(|commit| (commit, now)));
    }
}

/// If a task does not come to its end, the next one can begin nevertheless.
struct Unfinished<'a> {
    forges: &'a Forges,
    key: Option<&'a Key>,
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            self.forges.asking().remove(key);
        }
    }
}

async fn run(hands: Arc<Hands>, mirror: Arc<Mirror>, key: Key) {
    let mut unfinished = Unfinished { forges: &hands.forges, key: Some(&key) };
    while let Some((sources, bell)) = hands.forges.begin(&key) {
        if let Some(pause) = look(&hands, &mirror, &key, sources).await {
            tokio::select! {
                () = bell.notified() => {}
                () = tokio::time::sleep(pause.min(PAUSE_MAX)) => {}
            }
        } else if hands.forges.is_over(&key) {
            unfinished.key = None;
            return;
        }
    }
}

/// A commit that waits, and that nobody has approved or a forge alone.
struct Pending {
    commit: CommitId,
    seen_at: Timestamp,
}

/// Asks once, and tells what was said. After how long it is to be asked again, if not only after the next look.
async fn look(hands: &Arc<Hands>, mirror: &Mirror, key: &Key, sources: Sources) -> Option<Duration> {
    let (url, place) = key;
    let asked = Asked { review: place.review.clone(), url: url.clone(), branch: place.branch.clone() };
    let (about, wanted) = (sources, asked.clone());
    let read = hands.blocking(move |hands| pending(&hands.runtime, &about, &wanted)).await;
    let pending = match read {
        Ok(pending) => pending,
        Err(error) => {
            tracing::error!("cannot read which commits wait for a review: {}", causes(&error));
            return Some(AGAIN_AFTER);
        }
    };
    let commits = in_turn(hands, place, &pending);
    let what = format!("asking {} about {}", place.review.forge(), place.review.repository());
    // Another branch or source of the same repository has troubles of its own.
    let trouble = format!("{what} for {} of {url} at {:?}", place.branch, place.review);
    if commits.is_empty() {
        hands.troubles.over(&trouble);
        return None;
    }
    let token = place.review.token().map(|name| hands.secrets.get(name)).transpose();
    let told = match token {
        Ok(token) => {
            let token = token.map(|secret| secret.expose().trim().to_owned());
            let server = Server { api: place.review.api().to_owned(), token };
            let (review, branch) = (&place.review, place.branch.as_str());
            let question = Question { review, server: &server, branch, commits: &commits };
            Ok(forge::ask(&hands.forges.client, mirror, &question).await)
        }
        Err(error) => Err(causes(&error)),
    };
    let now = hands.runtime.now();
    let (why, pause) = match told {
        Ok(told) => {
            hands.forges.remember(place, told.brought.keys().chain(&told.failed).cloned());
            let young = tell(hands, &pending, &asked, &told.brought, now).await;
            match told.stopped {
                None => {
                    hands.troubles.over(&trouble);
                    return young.then_some(AGAIN_AFTER);
                }
                Some(Stopped::Forge(ForgeError::Limited { wait })) => {
                    (ForgeError::Limited { wait }.to_string(), wait)
                }
                Some(stopped) if stopped.ends_the_look() => (causes(&stopped), AGAIN_AFTER),
                Some(stopped) => (causes(&stopped), FAILED_AGAIN_AFTER),
            }
        }
        Err(why) => (why, AGAIN_AFTER),
    };
    let again = now + Span(u64::try_from(pause.as_millis()).unwrap_or(u64::MAX));
    hands.troubles.failed(&trouble, what, &why, now, again);
    Some(pause)
}

/// Tells each pipeline what was said of its commits. Whether a commit that came lately may still wait.
async fn tell(
    hands: &Arc<Hands>,
    pending: &AllPending,
    asked: &Asked,
    brought: &BTreeMap<CommitId, tidegate_core::forge::Brought>,
    now: Timestamp,
) -> bool {
    let mut young = false;
    for ((pipeline, source), commits) in pending {
        let of = |p: &Pending| Some((p.commit.clone(), brought.get(&p.commit)?.clone()));
        let told: BTreeMap<_, _> = commits.iter().filter_map(of).collect();
        if !told.is_empty() {
            let (source, asked) = (source.clone(), Some(Box::new(asked.clone())));
            hands.tell(pipeline, PipelineEvent::ForgeTold { source, told, asked }).await;
        }
        young |= commits.iter().any(|p| now.since(p.seen_at) < YOUNG);
    }
    young
}

/// The commits that wait, of sources that still are what they were: those that nobody has approved, and those of which a forge has
/// said something that it may take back.
fn pending(runtime: &Runtime, sources: &Sources, asked: &Asked) -> Result<AllPending, RuntimeError> {
    let mut all = BTreeMap::new();
    for (id, source) in sources {
        let Some(pipeline) = runtime.pipeline(id)?.filter(|p| p.life.is_active()) else { continue };
        let defined = pipeline.definition.iter().flat_map(|d| &d.sources).find(|s| &s.name == source);
        let same = |s: &&SourceDef| Asked::of(s).as_ref() == Some(asked);
        let (Some(_), Some(state), Some(team)) =
            (defined.filter(same), pipeline.sources.get(source), &pipeline.team)
        else {
            continue;
        };
        let team = runtime.team(team)?;
        let lacking: BTreeSet<_> =
            unreviewed(state, &team).into_iter().map(|(seen, _)| &seen.commit.id).collect();
        let wait = state.pending.iter().filter(|s| s.told.is_some() || lacking.contains(&s.commit.id));
        let wait = wait.map(|seen| Pending { commit: seen.commit.id.clone(), seen_at: seen.seen_at });
        all.insert((id.clone(), source.clone()), wait.collect());
    }
    Ok(all)
}

/// Commits in the order in which they are asked about: those that never were, the newest first, for a merge vouches for what it
/// brings; then those that were not asked about for longest.
fn in_turn(hands: &Hands, place: &Place, pending: &AllPending) -> Vec<CommitId> {
    let mut asked = hands.forges.asked.lock().unwrap_or_else(PoisonError::into_inner);
    let known = asked.entry(place.clone()).or_default();
    let waiting: BTreeSet<&CommitId> = pending.values().flatten().map(|p| &p.commit).collect();
    known.retain(|commit, _| waiting.contains(commit));
    let mut seen = BTreeSet::new();
    let newest_first = pending.values().flat_map(|commits| commits.iter().rev()).map(|p| &p.commit);
    let mut commits: Vec<CommitId> = newest_first.filter(|id| seen.insert(*id)).cloned().collect();
    commits.sort_by_key(|id| known.get(id).copied());
    if known.is_empty() && commits.is_empty() {
        asked.remove(place);
    }
    commits
}

//! Looks at sources: at the pace of their definition, and at once when somebody notifies. What comes is told before any forge is
//! asked about it.

use super::{Hands, forges};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tidegate_core::causes;
use tidegate_core::change::SourceObservation;
use tidegate_core::definition::SourceDef;
use tidegate_core::ids::{CommitId, PipelineId, SourceId};
use tidegate_core::pipeline::{PENDING_COMMITS_MAX, PipelineEvent};
use tidegate_core::run_spec::hex;
use tidegate_workers::git::Mirror;
use tokio::sync::{Mutex, Notify, Semaphore};
use tokio_util::sync::CancellationToken;

/// The list of pipelines is looked at this often for sources that are due.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// A look that takes longer is told of. It ends by itself in any case: git's calls have time limits.
const SLOW_AFTER: Duration = Duration::from_secs(10);
/// A source is looked at for a webhook's sake this long after the last look began, whatever number of webhooks comes.
const HINT_LOOK_EVERY: Duration = Duration::from_secs(1);
/// How many repositories are looked at at once: after a start all of them are due, and each look is a few processes.
const LOOKS_AT_ONCE: usize = 64;

/// Keeps the mirrors of all sources, one for each URL and secret.
pub struct Poller {
    dir: PathBuf,
    mirrors: Mutex<BTreeMap<String, Arc<Mirror>>>,
    looked: std::sync::Mutex<BTreeMap<(PipelineId, SourceId), Instant>>,
    /// When it was hinted last that a repository has changed, by its URL: whoever hints has shown that a definition names it.
    hinted: std::sync::Mutex<BTreeMap<String, Instant>>,
    /// Looks that have not ended, and since when; those that wait for their place have no time. Each source is looked at once
    /// at a time.
    looking: std::sync::Mutex<BTreeMap<(PipelineId, SourceId), Option<Instant>>>,
    places: Semaphore,
    notified: Notify,
}

impl Poller {
    /// Mirrors are kept in this folder.
    #[must_use]
    pub fn new(dir: PathBuf) -> Self {
        Self {
            dir,
            mirrors: Mutex::default(),
            looked: std::sync::Mutex::default(),
            hinted: std::sync::Mutex::default(),
            looking: std::sync::Mutex::default(),
            places: Semaphore::new(LOOKS_AT_ONCE),
            notified: Notify::new(),
        }
    }

    /// A source has changed: every source is looked at now. Whoever notifies names no source that could be wrong.
    pub fn notify(&self) {
        self.looked.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.notified.notify_one();
    }

    /// A webhook says that this repository, or what is said of it, has changed. It is looked at soon, at most once a second
    /// ([`HINT_LOOK_EVERY`]), and once more after a look that is under way. Nobody is woken for it: hints may come by the
    /// thousand, and the loop comes by anyway.
    pub fn hint(&self, url: &str) {
        let mut hinted = self.hinted.lock().unwrap_or_else(PoisonError::into_inner);
        hinted.insert(url.to_owned(), Instant::now());
    }

    fn looking(&self) -> MutexGuard<'_, BTreeMap<(PipelineId, SourceId), Option<Instant>>> {
        self.looking.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a look begins now.
    fn begins(&self, pipeline: &PipelineId, source: &SourceDef) -> bool {
        let mut looked = self.looked.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (pipeline.clone(), source.name.clone());
        let hint = self.hinted.lock().unwrap_or_else(PoisonError::into_inner).get(&source.url).copied();
        let due = looked.get(&key).is_none_or(|at| {
            let hinted = hint.is_some_and(|hint| hint >= *at) && at.elapsed() >= HINT_LOOK_EVERY;
            hinted || at.elapsed() >= Duration::from(source.poll)
        });
        let begins = due && !self.looking().contains_key(&key);
        if begins {
            looked.insert(key.clone(), Instant::now());
            self.looking().insert(key, None);
        }
        begins
    }

    /// The folder of a source's mirror.
    pub(crate) fn mirror_name(source: &SourceDef) -> String {
        folder_of(&key_of(source))
    }

    /// A mirror is removed: whoever names it again gets a new one. Blocks for as long as one is being made.
    pub(crate) fn forget(&self, name: &str) {
        self.mirrors.blocking_lock().retain(|key, _| folder_of(key) != name);
    }

    /// The mirror of a source; made, but not fetched, if it is not there.
    pub(super) async fn mirror(&self, hands: &Arc<Hands>, source: &SourceDef) -> Result<Arc<Mirror>, String> {
        let key = key_of(source);
        let mut mirrors = self.mirrors.lock().await;
        if let Some(known) = mirrors.get(&key) {
            return Ok(Arc::clone(known));
        }
        let secret =
            source.secret.as_ref().map(|name| hands.secrets.get(name)).transpose().map_err(|e| causes(&e))?;
        let dir = self.dir.join(folder_of(&key));
        let mirror = Mirror::open(&dir, &source.url, secret).await.map_err(|e| causes(&e))?;
        let mirror = Arc::new(mirror);
        mirrors.insert(key, Arc::clone(&mirror));
        Ok(mirror)
    }
}

/// One mirror for each URL and secret.
fn key_of(source: &SourceDef) -> String {
    let secret = source.secret.as_ref().map_or("", |secret| secret.as_str());
    format!("{secret} {}", source.url)
}

fn folder_of(key: &str) -> String {
    let mut name = hex(&<sha2::Sha256 as sha2::Digest>::digest(key.as_bytes()));
    name.truncate(32);
    name
}

pub(super) async fn run(hands: Arc<Hands>, stop: CancellationToken) {
    while !stop.is_cancelled() {
        let poller = Arc::clone(&hands.poller);
        let due = hands.overview(move |all| {
            let sources = all.iter().flat_map(|(id, pipeline)| pipeline.sources.iter().map(move |s| (id, s)));
            let due = sources.filter(|(id, (source, _))| poller.begins(id, source));
            let look = |(id, (source, known)): (&PipelineId, &(SourceDef, Option<CommitId>))| Look {
                pipeline: id.clone(),
                source: source.clone(),
                known: known.clone(),
            };
            due.map(look).collect::<Vec<_>>()
        });
        match due.await {
            Ok(due) => {
                let mut repositories: BTreeMap<_, Vec<Look>> = BTreeMap::new();
                for look in due {
                    let repository = (look.source.url.clone(), look.source.secret.clone());
                    repositories.entry(repository).or_default().push(look);
                }
                for looks in repositories.into_values() {
                    // One that hangs holds up no other as long as there are places; a fetch ends within its time.
                    tokio::spawn(look_at_repository(Arc::clone(&hands), looks));
                }
            }
            Err(error) => tracing::error!("cannot look at sources: {}", causes(&error)),
        }
        tell_of_slow_ones(&hands);
        tokio::select! {
            () = stop.cancelled() => {}
            () = hands.poller.notified.notified() => {}
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
}

/// However a look ends, the next one can begin.
struct EndOfLook<'a> {
    hands: &'a Hands,
    key: (PipelineId, SourceId),
}

impl Drop for EndOfLook<'_> {
    fn drop(&mut self) {
        self.hands.poller.looking().remove(&self.key);
        self.hands.troubles.over(&name(&self.key.0, &self.key.1));
    }
}

fn name(pipeline: &PipelineId, source: &SourceId) -> String {
    format!("reading source {source} of {pipeline}")
}

fn tell_of_slow_ones(hands: &Hands) {
    let looking = hands.poller.looking();
    let begun = looking.iter().filter_map(|(key, since)| Some((key, since.as_ref()?)));
    for ((pipeline, source), since) in begun.filter(|(_, since)| since.elapsed() > SLOW_AFTER) {
        let name = name(pipeline, source);
        let why = format!("the repository has not answered for {} s", since.elapsed().as_secs());
        hands.troubles.lasts(&name, name.clone(), &why, hands.runtime.now());
    }
}

/// A look at a source, and what is known of it.
struct Look {
    pipeline: PipelineId,
    source: SourceDef,
    known: Option<CommitId>,
}

/// Looks for all pipelines that have this repository as a source and are due: it is fetched once.
async fn look_at_repository(hands: Arc<Hands>, looks: Vec<Look>) {
    let key = |look: &Look| (look.pipeline.clone(), look.source.name.clone());
    let ends: Vec<_> = looks.iter().map(|look| EndOfLook { hands: &hands, key: key(look) }).collect();
    let Ok(_place) = hands.poller.places.acquire().await else { return };
    let begun = Some(Instant::now());
    hands.poller.looking().extend(looks.iter().map(|look| (key(look), begun)));
    let Some(first) = looks.first() else { return };
    let fetched = async {
        let mirror = hands.poller.mirror(&hands, &first.source).await?;
        mirror.fetch().await.map(|()| mirror).map_err(|e| causes(&e))
    };
    let fetched = fetched.await;
    // Most pipelines of a repository look at the same branch and know the same of it.
    let mut seen: BTreeMap<_, Result<SourceObservation, String>> = BTreeMap::new();
    let mut reviewed: BTreeMap<forges::Place, Vec<(PipelineId, SourceId)>> = BTreeMap::new();
    for (look, _end) in looks.into_iter().zip(ends) {
        let Look { pipeline, source, known } = look;
        let what = (source.branch.clone(), known, source.since.clone());
        let found = match (seen.get(&what), &fetched) {
            (Some(found), _) => found.clone(),
            (None, Err(why)) => Err(why.clone()),
            (None, Ok(mirror)) => {
                let (branch, known, since) = &what;
                let observing = mirror.observe(branch, known.as_ref(), since.as_ref(), PENDING_COMMITS_MAX);
                let found = observing.await.map_err(|e| causes(&e));
                seen.insert(what, found.clone());
                found
            }
        };
        let event = match found {
            Ok(observation) => PipelineEvent::SourceObserved { source: source.name.clone(), observation },
            Err(why) => PipelineEvent::SourceFailed { source: source.name.clone(), why },
        };
        hands.tell(&pipeline, event).await;
        if let (Ok(_), Some(review)) = (&fetched, &source.review) {
            let place = forges::Place { review: review.clone(), branch: source.branch.clone() };
            reviewed.entry(place).or_default().push((pipeline, source.name));
        }
    }
    if let Ok(mirror) = fetched {
        for (place, sources) in reviewed {
            forges::ask(&hands, Arc::clone(&mirror), place, sources);
        }
    }
}

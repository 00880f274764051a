//! A server that is killed at random moments until a story is told, at least two hundred times, and now and then its fleet
//! with it. What comes of the story is what comes of it when nobody kills anything: the same happens to each release, as often and
//! for the same reason, and the same runs at the end. Customers notice nothing unless the fleet is killed as well.
//!
//! Whoever gives an order here repeats it until it is answered, after a look whether it was taken all the same.

use crate::box_server::FAULT;
use crate::world::{Repo, World, alive, definitions, get, release, steps, wait_at_most, wait_for};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tidegate_api::{
    BuildStatus, MotionStatus, PipelineStatus, StandingStatus, Status, StepStatus, WorkStatus,
};
use tidegate_core::decision::Fact;
use tidegate_core::ids::{ReleaseNo, ServiceId};
use tidegate_core::lease::{Lease, LeaseId};
use tidegate_core::pipeline::{Cause, PipelineFact, Reason};
use tidegate_core::scope::Scope;
use tidegate_core::team::TeamFact;
use tidegate_runtime::{Lane, Options, Runtime, SystemClock};
use tidegate_store::{SqliteOptions, SqliteStore};

const KILLS_MIN: u64 = 200;
/// After that many a server lives this many times as long, or the last chapters would take a busy machine for ever.
const LATER_LIVES: u64 = 3;
/// With one in so many kills, the fleet is killed too.
const FLEET_EVERY: u64 = 20;
/// How long one thing of the story may take, however often the server is killed meanwhile.
const THING_MAX: Duration = Duration::from_secs(240);
/// Between two requests of a customer.
const CUSTOMER_PAUSE: Duration = Duration::from_millis(5);
/// Sets the seed of the moments; without it they are others in every run.
const SEED: &str = "CAMPAIGN_SEED";

#[test]
fn what_comes_of_a_story_is_the_same_however_often_the_server_is_killed() {
    let given = std::env::var(SEED).ok().map(|text| text.parse().unwrap());
    let seed = given.unwrap_or_else(|| SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs());
    eprintln!("{SEED}={seed}");
    let (quiet, killed) = thread::scope(|scope| {
        let quiet = scope.spawn(|| told(None));
        let killed = told(Some(seed));
        (quiet.join().unwrap(), killed)
    });
    assert_eq!(quiet, killed);
}

/// What remains of a story.
#[derive(Debug, PartialEq)]
struct Outcome {
    /// Each release: its fate and its causes.
    releases: Vec<String>,
    /// Each target: what runs there.
    targets: Vec<String>,
    /// Everything that happened and may not depend on how long it took, sorted: what happened twice stands here twice.
    facts: Vec<String>,
}

/// Tells the story, with kills if there is a seed for them; what came of it.
fn told(seed: Option<u64>) -> Outcome {
    let world = World::start_with(&organisation(), None);
    let (told, ended) = (AtomicBool::new(false), AtomicBool::new(false));
    let outages = AtomicU64::new(0);
    let mut story = Story { world: &world, repo: world.repo("shop"), commits: Vec::new() };
    // Its first release makes the endpoints that customers call.
    story.begin();
    let endpoints = ["eu", "us"].map(|region| world.endpoint("shop", "production", region));
    thread::scope(|scope| {
        let customers: Vec<_> =
            endpoints.iter().map(|endpoint| scope.spawn(|| call(endpoint, &ended, &outages))).collect();
        let killer = seed.map(|seed| {
            let (world, outages, endpoints) = (&world, &outages, &endpoints);
            let (told, ended) = (&told, &ended);
            scope.spawn(move || kill(world, seed, (told, ended), outages, endpoints))
        });
        // However it goes, the others end.
        let end = EndOnDrop([&told, &ended]);
        story.go_on();
        told.store(true, Ordering::SeqCst);
        let kills = killer.map(|killer| {
            wait_at_most(THING_MAX, || killer.is_finished().then_some(())).expect("the kills end");
            killer.join().unwrap()
        });
        drop(end);
        eprintln!("{kills:?} kills of server and fleet");
        for customer in customers {
            let Called { answered, failed } = customer.join().unwrap();
            assert!(answered > 100, "{answered} requests are no proof");
            assert!(
                failed.is_empty(),
                "of {answered} requests failed, while only the server was killed: {failed:?}"
            );
        }
    });
    let outcome = story.outcome();
    let dir = world.dir().to_owned();
    drop(world);
    let left = wait_for(|| processes_of(&dir).is_empty().then_some(()));
    assert!(left.is_some(), "processes are left: {:?}", processes_of(&dir));
    outcome
}

struct EndOnDrop<'a>([&'a AtomicBool; 2]);

impl Drop for EndOnDrop<'_> {
    fn drop(&mut self) {
        self.0.iter().for_each(|flag| flag.store(true, Ordering::SeqCst));
    }
}

/// Kills the server at random moments, in its start as well, until the story is told; how often server and fleet died.
fn kill(
    world: &World,
    seed: u64,
    (told, ended): (&AtomicBool, &AtomicBool),
    outages: &AtomicU64,
    endpoints: &[String],
) -> (u64, u64) {
    let mut random = seed;
    let (mut kills, mut fleets) = (0, 0);
    let over = |kills| kills >= KILLS_MIN && told.load(Ordering::SeqCst);
    while !over(kills) && !ended.load(Ordering::SeqCst) {
        // Now and then it gets far, often it hardly starts.
        let moment = match draw(&mut random, 4) {
            0 => draw(&mut random, 120),
            1 | 2 => draw(&mut random, 400),
            _ => draw(&mut random, 1_200),
        };
        let times = if kills < KILLS_MIN { 1 } else { LATER_LIVES };
        thread::sleep(Duration::from_millis(moment * times));
        kills += 1;
        let fleet = kills.is_multiple_of(FLEET_EVERY).then(|| world.fleet_pid()).flatten();
        if let Some(fleet) = fleet {
            fleets += 1;
            outages.fetch_add(1, Ordering::SeqCst);
            let pid = rustix::process::Pid::from_raw(i32::try_from(fleet).unwrap()).unwrap();
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
            wait_for(|| (!alive(fleet)).then_some(())).expect("the fleet dies");
        }
        world.kill_server();
        world.begin_server();
        if fleet.is_some() {
            world.wait_up();
            let served =
                || endpoints.iter().all(|e| get(e, "/", None).is_some_and(|(status, _)| status != 503));
            wait_for(|| served().then_some(())).expect("the boxes serve again");
            outages.fetch_add(1, Ordering::SeqCst);
        }
    }
    world.wait_up();
    (kills, fleets)
}

/// A number below `below` (SplitMix64).
fn draw(state: &mut u64, below: u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (z ^ (z >> 31)) % below
}

struct Called {
    answered: u64,
    failed: Vec<String>,
}

/// A customer: what was not answered by a box although the fleet was there all the time.
fn call(endpoint: &str, ended: &AtomicBool, outages: &AtomicU64) -> Called {
    let mut called = Called { answered: 0, failed: Vec::new() };
    while !ended.load(Ordering::SeqCst) {
        let outage = outages.load(Ordering::SeqCst);
        let answer = get(endpoint, "/", None);
        let of_a_box = answer.as_ref().is_some_and(|(status, body)| match status {
            200 => true,
            500 => body == FAULT,
            _ => false,
        });
        let fleet_was_there = outage.is_multiple_of(2) && outages.load(Ordering::SeqCst) == outage;
        if of_a_box {
            called.answered += 1;
        } else if fleet_was_there {
            called.failed.push(format!("{answer:?}"));
        }
        thread::sleep(CUSTOMER_PAUSE);
    }
    called
}

/// The usual one, where faults of a release are an alarm.
fn organisation() -> Value {
    let mut organisation = definitions::organisation();
    organisation["services"][0]["alarms"][0]["threshold"] = json!(0);
    organisation
}

/// Beta with a test, gamma, and production in two waves, where a faulty release meets enough customers to be noticed.
fn definition(repo: &Repo) -> Value {
    let mut definition = definitions::application(repo);
    let bake = json!({"one_box": "1s", "az": "0s", "first_wave": "0s", "second_wave": "0s", "last_wave": "0s",
            "data": [{"requests": 15}]});
    definition["build"]["package"] = json!([{"from": "out", "to": "app"}]);
    definition["stages"] = json!([
        {"environment": "beta", "regions": ["eu"], "boxes_per_az": 1, "bake": {"az": "0s"},
            "tests": [{"name": "smoke", "run": ["sh", "app/test.sh"], "time_limit": "1m"}]},
        {"environment": "gamma", "regions": ["us"], "boxes_per_az": 1, "bake": {"az": "0s"}},
        {"environment": "production", "boxes_per_az": 1, "one_box": true, "bake": bake,
            "waves": [{"regions": ["eu"]}, {"regions": ["us"]}]}
    ]);
    definition["rolling"]["progress_deadline"] = json!("4m");
    definition
}

const BUILD: &str = "set -e; mkdir out; cp run version behaviour test.sh out; chmod +x out/run\n";
const TEST: &str = "if grep -q untested app/behaviour; then echo this cannot pass; exit 1; fi\n";

struct Story<'a> {
    world: &'a World,
    repo: Repo,
    /// One for each release.
    commits: Vec<String>,
}

impl Story<'_> {
    /// A first release goes everywhere; nobody is killed yet, and there are no customers.
    fn begin(&mut self) {
        self.land("the first", "good", "");
        let mut definition = definition(&self.repo);
        definition["stages"][2]["bake"]["data"] = json!([]);
        self.world.apply("app", &definition).well();
        self.until_everywhere(1);
    }

    fn go_on(&mut self) {
        self.apply(&definition(&self.repo));
        self.order(&["hold", "app", "--reason", "the sale"], |p| !p.holds.is_empty());
        self.land("a second, held", "good", "");
        self.until("r2 waits for the hold", |p| {
            let mut waiting = steps(p).filter_map(|s| s.waiting.as_ref()).flat_map(|w| &w.reasons);
            waiting.any(|w| matches!(w.reason, Reason::Hold { .. })).then_some(())
        });
        let hold = self.until("the hold is known", |p| Some(p.holds.first()?.number)).to_string();
        self.order(&["unhold", "app", &hold], |p| p.holds.is_empty());
        self.until_everywhere(2);

        let untested = self.land("one whose test fails", "untested", "");
        self.until_rejected(3, 2);
        // It passes the test and harms customers.
        let faulty = self.land("its revert", "faulty", &format!("This reverts commit {untested}."));
        self.until_rejected(4, 2);
        let mended = format!("This reverts commit {faulty}.\n\nFixes: {untested}");
        self.land("both are mended", "good", &mended);
        self.until_everywhere(5);

        let mut slow = definition(&self.repo);
        slow["stages"][0]["bake"]["az"] = json!("1h");
        self.apply(&slow);
        let disliked = self.land("one that somebody dislikes", "good", "");
        self.until("r6 bakes in beta", |p| {
            let bakes = |w: &WorkStatus| matches!(w, WorkStatus::Baking { release, .. } if release.0 == 6);
            steps(p).next().filter(|s| bakes(&s.work)).map(|_| ())
        });
        let rejected = |p: &PipelineStatus| {
            release(p, 6).is_some_and(|r| matches!(r.standing, StandingStatus::Rejected { .. }))
        };
        self.order(&["rollback", "app", "r6", "--reason", "it looks wrong"], rejected);
        self.until_rejected(6, 5);
        self.apply(&definition(&self.repo));
        self.land("a better one", "good", &format!("Fixes: {disliked}"));
        self.until_everywhere(7);
    }

    /// Commits, reviews and merges; the commit.
    fn land(&mut self, subject: &str, behaviour: &str, trailer: &str) -> String {
        let version = (self.commits.len() + 1).to_string();
        let files =
            [("version", &*version), ("behaviour", behaviour), ("build.sh", BUILD), ("test.sh", TEST)];
        let commit = self.repo.commit(&files, &format!("{subject}\n\n{trailer}"));
        // Approving twice is approving once.
        self.give(&["approve", &commit], || false);
        self.repo.merge(&commit);
        self.commits.push(commit.clone());
        commit
    }

    /// Applying a definition twice is applying it once.
    fn apply(&self, definition: &Value) {
        let file = self.world.dir().join("app.json");
        fs::write(&file, definition.to_string()).unwrap();
        wait_at_most(THING_MAX, || answered(self.world.try_cli(false, &["apply", file.to_str().unwrap()])))
            .expect("the definition is applied");
    }

    fn order(&self, arguments: &[&str], taken: impl Fn(&PipelineStatus) -> bool) {
        self.give(arguments, || self.look().is_some_and(|p| taken(&p)));
    }

    fn give(&self, arguments: &[&str], taken: impl Fn() -> bool) {
        let mut tries = 0;
        let given = wait_at_most(THING_MAX, || {
            if tries > 0 {
                // Nobody knows whether it was taken until the server serves.
                self.look()?;
            }
            if tries > 0 && taken() {
                return Some(());
            }
            tries += 1;
            answered(self.world.try_cli(true, arguments))
        });
        assert!(given.is_some(), "{arguments:?} is not answered");
    }

    fn look(&self) -> Option<PipelineStatus> {
        let status: Status = serde_json::from_str(&self.world.try_get("/v1/status?pipeline=app")?).ok()?;
        status.pipelines.into_iter().next()
    }

    #[track_caller]
    fn until<T>(&self, what: &str, mut there: impl FnMut(&PipelineStatus) -> Option<T>) -> T {
        let found = wait_at_most(THING_MAX, || there(&self.look()?));
        found.unwrap_or_else(|| {
            let status = self.world.try_cli(false, &["status"]);
            panic!(
                "it did not happen: {what}\n{}\n{}",
                status.unwrap_or_default().out,
                self.world.server_log()
            )
        })
    }

    #[track_caller]
    fn until_everywhere(&self, number: u64) {
        self.until(&format!("r{number} is everywhere"), |p| {
            let passed =
                steps(p).all(|s| matches!(&s.work, WorkStatus::Done { release, .. } if release.0 == number));
            (passed && run(steps(p), number)).then_some(())
        });
    }

    /// Waits until the release is rejected, and production runs the one before it.
    #[track_caller]
    fn until_rejected(&self, number: u64, before: u64) {
        self.until(&format!("r{number} is taken back"), |p| {
            let rejected = matches!(release(p, number)?.standing, StandingStatus::Rejected { .. });
            let moves = steps(p).any(|s| matches!(s.work, WorkStatus::RollingBack { .. }));
            let production = p.stages.iter().filter(|s| s.production).flat_map(|s| &s.steps);
            (rejected && !moves && run(production, before)).then_some(())
        });
    }

    /// Ends the server, checks what it has left, and tells it.
    fn outcome(&self) -> Outcome {
        let world = self.world;
        assert!(world.cli(&["log", "--verify"]).well().starts_with("the log is in order"));
        assert!(world.status().troubles.is_empty(), "{:?}", world.status().troubles);
        let pipeline = world.pipeline("app");
        for (region, version) in [("eu", "7"), ("us", "7")] {
            let answer = get(&world.endpoint("shop", "production", region), "/", None);
            assert_eq!(answer, Some((200, version.to_owned())));
        }
        let commits: BTreeMap<&str, usize> = self.commits.iter().map(String::as_str).zip(1..).collect();
        let log = world.log();
        // Whether a box that an alarm speaks against was healthy for long enough before that is a matter of moments.
        let caught = |release: &Option<ReleaseNo>| {
            log.iter().any(|entry| {
                let Fact::Pipeline(PipelineFact::Rejected { release: rejected, cause, .. }) = &entry.fact
                else {
                    return false;
                };
                Some(*rejected) == *release && matches!(cause, Cause::Alarm { .. })
            })
        };
        let of_moments = |fact: &Fact| matches!(fact, Fact::Pipeline(PipelineFact::SlotSettled { release, .. }) if caught(release));
        let facts = log.iter().filter(|entry| !of_moments(&entry.fact)).filter_map(|entry| {
            lasting(&entry.fact, &commits).map(|fact| format!("{}: {fact}", entry.aggregate))
        });
        let mut facts: Vec<String> = facts.collect();
        facts.sort();
        let ended = wait_at_most(THING_MAX, || {
            world.end_server();
            let open = check_the_store(world, &pipeline);
            if let Some(effect) = &open {
                eprintln!("still to be done: {effect}");
                world.restart_server();
            }
            open.is_none().then_some(())
        });
        assert!(ended.is_some(), "something is left to be done for ever");
        let running = steps(&pipeline).flat_map(|s| &s.targets);
        Outcome {
            releases: pipeline.releases.iter().map(|r| fate(r, &commits)).collect(),
            targets: running.map(|t| format!("{} runs {:?} ({:?})", t.name, t.current, t.motion)).collect(),
            facts,
        }
    }
}

/// Whether every target of these steps runs this release and rests.
fn run<'a>(steps: impl Iterator<Item = &'a StepStatus>, number: u64) -> bool {
    steps
        .flat_map(|s| &s.targets)
        .all(|t| t.current == Some(ReleaseNo(number)) && matches!(t.motion, MotionStatus::Settled))
}

/// Whether the command was answered: it went well, or the server was killed under it.
fn answered(told: Option<crate::world::Told>) -> Option<()> {
    let told = told?;
    assert!(matches!(told.code, 0 | 4), "{told:?}");
    (told.code == 0).then_some(())
}

/// What is left to be done. If it is nothing, leases are free, and the log adds up to the states.
fn check_the_store(world: &World, pipeline: &PipelineStatus) -> Option<String> {
    let store = SqliteStore::open(&world.data().join("store"), &SqliteOptions::default()).unwrap();
    let clock = Arc::new(SystemClock::default());
    let runtime = Runtime::open(Arc::new(store), clock, Options::default(), 0).unwrap();
    for lane in [Lane::Forward, Lane::Rollback, Lane::Page] {
        if let Some(at) = runtime.next_effect_at(lane).unwrap() {
            return Some(format!("{:?} at {at}", runtime.effects(lane, 1)));
        }
    }
    let service: ServiceId = "shop".parse().unwrap();
    for target in steps(pipeline).flat_map(|s| &s.targets) {
        let lease = LeaseId::new(&service, Scope::of(&target.name));
        assert_eq!(*runtime.lease(&lease).unwrap(), Lease::Free, "{lease:?}");
    }
    runtime.verify_log(None).unwrap();
    None
}

fn fate(release: &tidegate_api::ReleaseStatus, commits: &BTreeMap<&str, usize>) -> String {
    let built = matches!(release.build, BuildStatus::Built { .. });
    let standing = match &release.standing {
        StandingStatus::Good => "good".to_owned(),
        StandingStatus::Suspect { .. } => "suspect".to_owned(),
        StandingStatus::Rejected { cause, .. } => format!("rejected: {}", reason(&cause.cause)),
    };
    let number = |commit: &str| commits.get(commit).copied();
    let changes: Vec<_> = release.changes.iter().map(|c| number(c.commit.as_str())).collect();
    let taint = release.taint.as_ref();
    // Their names are others in every run, and so is their order.
    let taint: BTreeSet<_> = taint.iter().flat_map(|t| &t.commits).map(|c| number(c.as_str())).collect();
    format!("{}: built {built}, {standing}, changes {changes:?}, taint {taint:?}", release.release)
}

/// What was the reason, without what was measured.
fn reason(cause: &Cause) -> String {
    match cause {
        Cause::Alarm { alarm, scope, .. } => format!("alarm {alarm} in {scope}"),
        other => other.to_string(),
    }
}

/// A fact that the story must have as often and in the same words in every run; none if it depends on how long something
/// took.
fn lasting(fact: &Fact, commits: &BTreeMap<&str, usize>) -> Option<String> {
    use PipelineFact as F;
    let fact = match fact {
        Fact::Organisation(_) => return Some(tidegate_api::describe(fact)),
        Fact::Team(TeamFact::Approved { commit, approval }) => {
            return Some(format!("commit {:?} approved by {}", commits.get(commit.as_str()), approval.by));
        }
        Fact::Pipeline(fact) => fact,
        Fact::Team(_) | Fact::Lease(_) => return None,
    };
    match fact {
        F::ReleaseCreated { release, changes, .. } => {
            let changes = changes.iter().map(|c| commits.get(c.commit.id.as_str()));
            Some(format!("{release} made of {:?}", changes.collect::<Vec<_>>()))
        }
        F::Built { release, .. } => Some(format!("{release} built")),
        F::Rejected { release, cause, .. } => Some(format!("{release} rejected: {}", reason(cause))),
        F::CandidateSet { .. }
        | F::Entered { .. }
        | F::SlotSettled { .. }
        | F::StepDone { .. }
        | F::StepRollingBack { .. }
        | F::StepRolledBack { .. }
        | F::Suspected { .. }
        | F::SuspectReturned { .. }
        | F::BuildStarted { .. }
        | F::BuildFailed { .. }
        | F::TaintCleared { .. }
        | F::HoldPlaced { .. }
        | F::HoldLifted { .. }
        | F::Overridden { .. }
        | F::RegionSkipped { .. }
        | F::SkipLifted { .. }
        | F::Defined { .. }
        | F::RollbackOrdered { .. } => Some(tidegate_api::describe(&Fact::Pipeline(fact.clone()))),
        _ => None,
    }
}

/// Processes that know of this folder.
fn processes_of(dir: &Path) -> Vec<String> {
    let text = dir.to_str().unwrap();
    let all = fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path());
    let names = |path: &Path, file: &str| {
        fs::read(path.join(file)).is_ok_and(|bytes| String::from_utf8_lossy(&bytes).contains(text))
    };
    let of_it = all.filter(|path| names(path, "cmdline") || names(path, "environ"));
    of_it.map(|path| fs::read_to_string(path.join("cmdline")).unwrap_or_default()).collect()
}

//! Regions that a person leaves out, and how they catch up (design, "Starting"; rules 1, 3 and 7).

use crate::scenario::{R1, R2, R3, Scenario, pipeline_json, scope, user};
use serde_json::{Value, json};
use tidegate_core::decision::Fact;
use tidegate_core::ids::ReleaseNo;
use tidegate_core::lease::Lease;
use tidegate_core::pipeline::{PipelineEvent, PipelineFact, Position, Standing, why};
use tidegate_core::units::Span;

/// Both Regions in one wave; east has an AZ more than north.
fn one_wave() -> Value {
    let mut all = pipeline_json("frontend", "frontend");
    all["stages"][1]["waves"] = json!([{"regions": ["north", "east"]}]);
    all
}

/// R1 everywhere, one wave.
fn running() -> Scenario {
    let mut s = Scenario::empty();
    s.apply(&one_wave());
    s.release("frontend");
    s.pass("frontend", "wave-1/az-3", R1);
    s
}

impl Scenario {
    fn skip(&mut self, place: &str, release: Option<ReleaseNo>) -> u64 {
        let (by, reason) = (user("alice"), "the cable is cut".to_owned());
        let event = PipelineEvent::RegionSkipped { scope: scope(place), release, by, reason };
        self.pipeline_event("frontend", event).unwrap();
        self.work();
        self.pipeline("frontend").last_number
    }

    fn lift(&mut self, skip: u64) {
        self.pipeline_event("frontend", PipelineEvent::SkipLifted { skip, by: user("bob") }).unwrap();
        self.work();
    }

    fn production(&self) -> Vec<(String, Option<ReleaseNo>)> {
        let targets = ["north/a/one-box", "north/a/main", "north/b/main", "east/a/one-box", "east/c/main"];
        let runs = |t: &&str| self.runs("frontend", &format!("frontend/production/{t}"));
        targets.iter().map(|t| ((*t).to_owned(), runs(t))).collect()
    }

    fn left_out(&self, step: &str) -> String {
        let p = self.pipeline("frontend");
        let (_, step) = p.plan.step(&tidegate_core::plan::StepId(step.into())).unwrap();
        p.left_out(step).iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
    }
}

fn expected(north: ReleaseNo, east: ReleaseNo) -> Vec<(String, Option<ReleaseNo>)> {
    let all = [("north/a/one-box", north), ("north/a/main", north), ("north/b/main", north)];
    let all = all.into_iter().chain([("east/a/one-box", east), ("east/c/main", east)]);
    all.map(|(target, release)| (target.to_owned(), Some(release))).collect()
}

#[test]
fn a_wave_goes_on_without_a_region_that_is_skipped_and_the_region_catches_up_az_by_az() {
    let mut s = running();
    let skip = s.skip("production/north", None);
    // Its alarms hold nobody else, and judge nobody else.
    s.release("frontend");
    s.reach("frontend", "wave-1/az-1", R2);
    s.fires("production/north", "Frontend_High_Fault_Rate");
    s.watch(Span::minutes(1));
    assert_eq!(s.lease("frontend", "production/north"), Lease::Free);
    s.pass("frontend", "wave-1/az-3", R2);
    assert_eq!(s.production(), expected(R1, R2));
    assert_eq!(s.left_out("wave-1/az-2"), "north still runs r1: skipped by alice: the cable is cut (skip 1)");
    let entered = s.count(|f| matches!(f, PipelineFact::Entered { .. }));
    s.ok("production/north", "Frontend_High_Fault_Rate");
    s.watch(Span::hours(20));
    assert_eq!(
        s.count(|f| matches!(f, PipelineFact::Entered { .. })),
        entered,
        "nothing tries again and again"
    );
    s.lift(skip);
    assert_eq!(s.phase("frontend", "wave-1/one-box"), "baking");
    assert_eq!(s.runs("frontend", "frontend/production/north/a/one-box"), Some(R2));
    assert_eq!(s.runs("frontend", "frontend/production/north/a/main"), Some(R1), "after its one-box");
    assert_eq!(s.left_out("wave-1/az-1"), "north still runs r1 and catches up");
    for _ in 0..40 {
        s.watch(Span::hours(1));
    }
    assert_eq!(s.production(), expected(R2, R2));
    assert_eq!(s.left_out("wave-1/az-2"), "");
    let p = s.pipeline("frontend");
    assert!(p.slots.values().all(|slot| slot.finished == Some(R2)), "the wave is finished in both Regions");
}

#[test]
fn why_names_who_skipped_and_a_commit_is_everywhere_only_when_all_regions_have_it() {
    let mut s = running();
    let commit = s.draft("frontend");
    let id = commit.id.clone();
    s.push_reviewed("frontend", commit);
    s.skip("production/north", Some(R2));
    s.pass("frontend", "wave-1/az-3", R2);
    let answer = why(&s.pipeline("frontend"), &s.team(), id.as_str()).unwrap();
    assert_eq!(answer.position, Position::OnItsWay { release: R2 });
    let step = answer.steps.iter().find(|p| p.step.as_str() == "wave-1/az-1").unwrap();
    let words: Vec<String> = step.left_out.iter().map(ToString::to_string).collect();
    assert_eq!(words, ["north still runs r1: skipped by alice: the cable is cut (skip 1)"]);
    // The skip was for that release only: the next one takes the Region along.
    s.release("frontend");
    s.pass("frontend", "wave-1/az-3", R3);
    assert_eq!(s.production(), expected(R3, R3));
    let answer = why(&s.pipeline("frontend"), &s.team(), id.as_str()).unwrap();
    assert_eq!(answer.position, Position::Everywhere { release: R2 });
}

#[test]
fn a_region_that_comes_back_in_the_middle_of_a_wave_begins_with_its_own_one_box() {
    let mut s = running();
    let skip = s.skip("production/north", None);
    s.release("frontend");
    s.reach("frontend", "wave-1/one-box", R2);
    s.lift(skip);
    for _ in 0..80 {
        s.watch(Span::minutes(30));
    }
    assert_eq!(s.production(), expected(R2, R2));
    let starts = s.log.iter().filter_map(|(_, fact)| match fact {
        Fact::Pipeline(PipelineFact::SlotForward { target, release: R2, .. }) => Some(target.to_string()),
        _ => None,
    });
    let north: Vec<String> = starts.filter(|t| t.contains("production/north")).collect();
    let name = |t: &str| format!("frontend/production/north/{t}");
    assert_eq!(
        north,
        [name("a/one-box"), name("a/main"), name("b/main")],
        "no AZ before its one-box (rule 3)"
    );
}

#[test]
fn a_region_that_catches_up_returns_alone() {
    let mut s = running();
    let skip = s.skip("production/north", None);
    s.release("frontend");
    s.pass("frontend", "wave-1/az-3", R2);
    s.lift(skip);
    // East is finished: it keeps what it runs when north takes it back.
    s.reach("frontend", "wave-1/one-box", R2);
    s.fires("production/north", "Frontend_High_Fault_Rate");
    assert!(matches!(s.pipeline("frontend").releases[&R2].standing, Standing::Rejected { .. }));
    assert_eq!(s.production(), expected(R1, R2));
}

#[test]
fn a_wave_needs_a_region_and_says_whom_it_waits_for() {
    let mut s = running();
    let north = s.skip("production/north", None);
    s.release("frontend");
    s.skip("production/east", Some(R2));
    s.pass("frontend", "gamma/az-2", R2);
    assert_eq!(
        s.waits("frontend", "wave-1/one-box"),
        "production/north is skipped by alice: the cable is cut (skip 1), and no other Region goes on; \
         production/east is skipped by alice: the cable is cut (skip 2), and no other Region goes on"
    );
    s.lift(north);
    assert_eq!(s.phase("frontend", "wave-1/one-box"), "baking");
    // North has two AZs: it carries the release through the third step, and bakes there for the wave.
    s.pass("frontend", "wave-1/az-3", R2);
    assert_eq!(s.production(), expected(R2, R1));
}

#[test]
fn skips_that_make_no_sense_are_refused() {
    let mut s = running();
    s.skip("production/north", None);
    let mut refused = |place: &str, release| {
        let (by, reason) = (user("bob"), "why not".to_owned());
        let event = PipelineEvent::RegionSkipped { scope: scope(place), release, by, reason };
        s.pipeline_event("frontend", event).unwrap_err().message
    };
    assert_eq!(
        refused("production/north", None),
        "production/north is skipped already by alice: the cable is cut (skip 1)"
    );
    assert_eq!(refused("gamma/east", None), "frontend does not deploy to gamma/east");
    assert_eq!(refused("production/east", Some(R3)), "frontend has no release r3");
    let lifted = s.pipeline_event("frontend", PipelineEvent::SkipLifted { skip: 7, by: user("bob") });
    assert_eq!(lifted.unwrap_err().message, "frontend has no skip 7");
}

#[test]
fn what_is_under_way_in_a_region_goes_on_when_it_is_skipped() {
    let mut s = running();
    s.release("frontend");
    s.stop_engines("production/north/a/main");
    s.pass("frontend", "wave-1/one-box", R2);
    s.skip("production/north", None);
    s.start_all();
    assert_eq!(s.runs("frontend", "frontend/production/north/a/main"), Some(R2), "nothing freezes half way");
    s.pass("frontend", "wave-1/az-3", R2);
    let north = s.production();
    assert_eq!((north[1].1, north[2].1), (Some(R2), Some(R1)), "its next AZ is left out");
}

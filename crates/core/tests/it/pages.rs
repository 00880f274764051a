//! Pages and their ends (M6): who is called, what they are told, and when it is over.

use crate::scenario::{R1, R2, Scenario, organisation_json, pipeline_json};
use serde_json::json;
use std::collections::BTreeSet;
use tidegate_core::alarm::{AlarmName, AlarmState};
use tidegate_core::decision::{Page, PageKind};
use tidegate_core::pipeline::Matter;
use tidegate_core::units::Span;

/// A team that is paged by a webhook and by PagerDuty.
fn paged_by_both() -> Scenario {
    let mut organisation = organisation_json();
    organisation["teams"][0]["pages"] =
        json!([{"webhook": "http://pager.invalid/"}, {"pagerduty": {"routing_key": "pagerduty"}}]);
    let mut s = Scenario::with_organisation(&organisation);
    s.apply(&pipeline_json("frontend", "frontend"));
    s
}

fn of<'a>(s: &'a Scenario, key: &str) -> Vec<&'a Page> {
    s.pages.iter().filter(|page| page.key == key).collect()
}

fn kinds(s: &Scenario, key: &str) -> Vec<(PageKind, usize)> {
    of(s, key).iter().map(|page| (page.kind, page.to.len())).collect()
}

const BEGIN: (PageKind, usize) = (PageKind::Opened, 2);
/// The webhook knows no ends.
const END: (PageKind, usize) = (PageKind::Resolved, 1);

#[test]
fn a_rollback_s_page_says_all_that_is_needed_and_its_end_is_told() {
    let mut s = paged_by_both();
    s.release("frontend");
    s.finish("frontend", R1);
    s.release("frontend");
    s.reach("frontend", "wave-1/one-box", R2);
    s.stop_engines("production");
    s.fires("production/north", "Frontend_High_Fault_Rate");
    assert_eq!(kinds(&s, "frontend/rollback/r2"), [BEGIN]);
    let page = of(&s, "frontend/rollback/r2")[0].clone();
    assert_eq!(page.about.as_ref().map(|about| about.release), Some(R2));
    let commit = s.pipeline("frontend").releases[&R2].changes[0].commit.clone();
    let short = commit.id.short();
    for says in [
        "What: r2 of frontend is being rolled back.",
        &format!("\n  {short} \"{}\" by {}", commit.subject, commit.author_name),
        "Why: alarm Frontend_High_Severity in production/north (Frontend_High_Fault_Rate: ",
        "Where: ",
        "production/north (a/one-box to r1)",
        "Since: 2025-",
        " (it came in at 2025-",
        &format!("Next: tidegate status frontend; tidegate why {short}; git revert {short}, or a fix"),
        "tidegate retry frontend r2 --reason WHY",
    ] {
        assert!(page.text.contains(says), "{says:?} is missing:\n{}", page.text);
    }
    assert!(matches!(s.pipeline("frontend").pages["rollback/r2"].matter, Matter::Rollback(R2)));
    s.start_all();
    s.work();
    assert_eq!(kinds(&s, "frontend/rollback/r2"), [BEGIN, END]);
    assert_eq!(s.pipeline("frontend").pages.len(), 0);
    assert!(of(&s, "frontend/rollback/r2")[1].text.contains("is back on a release that is good"));
}

#[test]
fn the_aggregate_s_page_ends_when_it_is_ok_and_not_when_it_is_blind() {
    let mut s = paged_by_both();
    let key = "shop/alarm/gamma/north";
    let set = |s: &mut Scenario, state| s.alarm("gamma/north", "Backend_High_Fault_Rate", state);
    set(&mut s, AlarmState::InsufficientData);
    set(&mut s, AlarmState::Ok);
    assert_eq!(kinds(&s, key), [], "what was blind and sees again paged nobody");
    set(&mut s, AlarmState::Alarm);
    set(&mut s, AlarmState::InsufficientData);
    assert_eq!(kinds(&s, key), [BEGIN]);
    set(&mut s, AlarmState::Ok);
    assert_eq!(kinds(&s, key), [BEGIN, END]);
    set(&mut s, AlarmState::InsufficientData);
    set(&mut s, AlarmState::Ok);
    assert_eq!(kinds(&s, key), [BEGIN, END]);
}

#[test]
fn a_blind_bake_s_page_ends_when_monitoring_sees_again() {
    let mut s = paged_by_both();
    s.release("frontend");
    let blind = BTreeSet::from([AlarmName::new("Frontend_High_Fault_Rate").unwrap()]);
    s.watch_blind(Span::minutes(1), &blind);
    s.watch_blind(Span::minutes(10), &blind);
    s.watch_blind(Span::minutes(10), &blind);
    let key = "frontend/blind/gamma/one-box";
    assert_eq!(kinds(&s, key), [BEGIN]);
    s.watch(Span::minutes(1));
    assert_eq!(kinds(&s, key), [BEGIN, END]);
}

#[test]
fn a_webhook_alone_is_told_of_no_end_and_nothing_is_kept_for_it() {
    let mut s = Scenario::running();
    s.release("frontend");
    s.reach("frontend", "wave-1/one-box", R2);
    s.rollback("frontend", R2);
    assert_eq!(kinds(&s, "frontend/rollback/r2"), [(PageKind::Opened, 1)]);
    assert_eq!(s.pipeline("frontend").pages.len(), 0);
}

#[test]
fn a_page_of_before_ends_and_kinds_is_read_as_a_beginning() {
    let old = json!({"key": "k", "severity": "high", "title": "t", "text": "x", "at": 1, "to": [{"webhook": "http://a/"}]});
    let page: Page = serde_json::from_value(old.clone()).unwrap();
    assert_eq!((page.kind, &page.about), (PageKind::Opened, &None));
    assert_eq!(serde_json::to_value(&page).unwrap(), old, "and is written as before");
}

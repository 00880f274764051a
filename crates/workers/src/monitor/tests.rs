//! What reports make of alarms: by the second, at every boundary, and through a gap.

use super::*;
use expect_test::expect;
use tidegate_core::alarm::{Comparison, Datapoints, Metric, MissingData, Period, Quantity};
use tidegate_core::definition::ServiceDef;
use tidegate_core::metrics::ApiCell;
use tidegate_core::team::AlarmStatus;
use tidegate_core::units::Span;

/// A second that all periods used here begin at.
const START: i64 = 1_700_000_000;

fn service() -> ServiceId {
    "frontend".parse().unwrap()
}

fn scope() -> Scope {
    "production/eu-1".to_owned().try_into().unwrap()
}

fn spec(digit: &str) -> RunSpecDigest {
    digit.repeat(64).parse().unwrap()
}

/// A box's report of the second `at` seconds after [`START`].
fn cell(at: i64, role: Role, requests: u64, faults: u64) -> Cell {
    let target = format!("frontend/production/eu-1/a/{role}").parse().unwrap();
    let run_spec = spec(if role == Role::OneBox { "b" } else { "a" });
    let counted = ApiCell { requests, faults, ..ApiCell::default() };
    Cell {
        second: START + at,
        target,
        box_id: "1".to_owned(),
        run_spec,
        configuration: vec![spec("c")],
        apis: if requests > 0 { [("GET /".to_owned(), counted)].into() } else { BTreeMap::new() },
        cpu_millicores: 0,
        memory_kib: 0,
        disk_kib: 0,
        log_errors: 0,
        healthy: true,
    }
}

/// Faults above zero in 2 of 3 periods.
fn alarm(name: &str, scope: Measured, period: u64) -> MetricAlarm {
    MetricAlarm {
        name: name.parse().unwrap(),
        scope,
        metric: Metric::Faults { api: None },
        comparison: Comparison::Above,
        threshold: Quantity::thousandths(0),
        period: Period::new(Span::seconds(period)).unwrap(),
        datapoints: Datapoints::new(2, 3).unwrap(),
        missing: MissingData::Missing,
        min_samples: 5,
    }
}

fn team(alarms: Vec<MetricAlarm>) -> Team {
    let service = ServiceDef {
        name: service(),
        team: "shop".parse().unwrap(),
        alarms,
        outside: Vec::new(),
        canaries: Vec::new(),
        profile: None,
    };
    let mut team = Team::default();
    team.services = vec![service].into();
    team
}

/// Boxes and a one-box stand there.
fn standing() -> Standing {
    let here = BTreeSet::from([(service(), scope())]);
    Standing { services: here.clone(), one_boxes: here.clone(), placed: here }
}

fn monitor(cells: &[Cell], until: i64) -> Monitor {
    let mut monitor = Monitor::default();
    monitor.take_metrics(cells, &[], START + until);
    monitor
}

fn state(found: &Found, name: &str) -> AlarmState {
    found.reports[&name.parse::<AlarmName>().unwrap()].state
}

#[test]
fn a_reported_zero_is_data_and_a_missing_cell_is_blindness() {
    let team = team(vec![alarm("a", Measured::Service, 1)]);
    let quiet: Vec<Cell> = (0..3).map(|at| cell(at, Role::Main, 0, 0)).collect();
    let mut monitor = monitor(&quiet, 10);
    let found = monitor.evaluate(&team, &scope(), START + 3, &standing());
    assert_eq!((state(&found, "a"), found.blind.len()), (AlarmState::Ok, 0));
    // One second after the last report: what was seen still says OK, and the newest second is not seen.
    let found = monitor.evaluate(&team, &scope(), START + 4, &standing());
    assert_eq!((state(&found, "a"), found.blind.len()), (AlarmState::Ok, 1));
    let found = monitor.evaluate(&team, &scope(), START + 9, &standing());
    assert_eq!((state(&found, "a"), found.blind.len()), (AlarmState::InsufficientData, 1));
    let nothing = Monitor::default().evaluate(&team, &scope(), START, &standing());
    assert_eq!((state(&nothing, "a"), nothing.blind.len()), (AlarmState::InsufficientData, 1));
}

#[test]
fn without_boxes_an_alarm_is_ok_and_says_why() {
    let team = team(vec![alarm("all", Measured::Service, 1), alarm("one", Measured::OneBox, 1)]);
    let only_main = Standing { one_boxes: BTreeSet::new(), ..standing() };
    let found = Monitor::default().evaluate(&team, &scope(), START, &only_main);
    assert_eq!((state(&found, "all"), state(&found, "one")), (AlarmState::InsufficientData, AlarmState::Ok));
    expect!["frontend has no boxes here"].assert_eq(&found.reports[&"one".parse().unwrap()].why);
    let found = Monitor::default().evaluate(&team, &scope(), START, &Standing::default());
    assert!(found.reports.values().all(|r| r.state == AlarmState::Ok) && found.blind.is_empty());
}

#[test]
fn an_alarm_fires_at_the_end_of_the_aligned_period_that_makes_m_of_n() {
    let team = team(vec![alarm("a", Measured::Service, 5)]);
    let cells: Vec<Cell> =
        (0..40).map(|at| cell(at, Role::Main, 1, u64::from((12..18).contains(&at)))).collect();
    let mut monitor = monitor(&cells, 40);
    let mut changes = String::new();
    let mut before = None;
    for end in 1..=40 {
        let found = monitor.evaluate(&team, &scope(), START + end, &standing());
        assert_eq!(found.at, Timestamp((START + end) * 1_000));
        let report = &found.reports[&"a".parse().unwrap()];
        if before.replace(report.state) != Some(report.state) {
            changes += &format!("{end}: {} ({})\n", report.state, report.why);
        }
    }
    // Faults in the periods that end at 15 and 20; of three, two are without faults again at 30.
    expect![[r#"
        1: INSUFFICIENT_DATA (no data for faults in 3 periods of 5s)
        5: OK (faults 0, not > 0, in 3 periods of 5s, 4 of the last 5 without data)
        20: ALARM (faults 3 > 0 in 2 of 3 periods of 5s)
        30: OK (faults 3 > 0 in 1 of 3 periods of 5s, 2 needed)
    "#]]
    .assert_eq(&changes);
}

#[test]
fn cells_of_the_one_box_count_for_itself_and_for_the_service() {
    let team = team(vec![alarm("all", Measured::Service, 1), alarm("one", Measured::OneBox, 1)]);
    let seconds = |role, faults| (0..3).map(move |at| cell(at, role, 10, faults)).collect::<Vec<_>>();
    let states = |cells: &[Cell]| {
        let found = monitor(cells, 3).evaluate(&team, &scope(), START + 3, &standing());
        (state(&found, "all"), state(&found, "one"))
    };
    let (main_bad, one_bad) = (seconds(Role::Main, 1), seconds(Role::OneBox, 1));
    let (main_good, one_good) = (seconds(Role::Main, 0), seconds(Role::OneBox, 0));
    assert_eq!(states(&[main_good, one_bad].concat()), (AlarmState::Alarm, AlarmState::Alarm));
    assert_eq!(states(&[main_bad, one_good].concat()), (AlarmState::Alarm, AlarmState::Ok));
}

#[test]
fn a_gap_that_is_read_afterwards_gives_what_was_missed_in_order() {
    let team = team(vec![alarm("a", Measured::Service, 1)]);
    let cells: Vec<Cell> =
        (0..30).map(|at| cell(at, Role::Main, 1, u64::from((8..12).contains(&at)))).collect();
    let states = |monitor: &mut Monitor, ends: std::ops::RangeInclusive<i64>| -> Vec<AlarmState> {
        ends.map(|end| state(&monitor.evaluate(&team, &scope(), START + end, &standing()), "a")).collect()
    };
    let mut all_along = Monitor::default();
    let mut live = Vec::new();
    for cell in &cells {
        let end = cell.second + 1 - START;
        all_along.take_metrics(std::slice::from_ref(cell), &[], START + end);
        live.extend(states(&mut all_along, end..=end));
    }
    let mut away = monitor(&cells[..5], 5);
    let mut late = states(&mut away, 1..=5);
    away.take_metrics(&cells[5..], &[], START + 30);
    assert_eq!(away.complete_until(), START + 30);
    late.extend(states(&mut away, 6..=30));
    assert_eq!(late, live);
    // The second and third newest of three: 8 and 9 make it fire at 10, and at 14 only one of three is left.
    let firing: Vec<usize> = (1..=30).filter(|end| live[end - 1] == AlarmState::Alarm).collect();
    assert_eq!(firing, [10, 11, 12, 13]);
}

#[test]
fn an_alarm_that_ignores_missing_data_keeps_its_state() {
    let keeps = MetricAlarm { missing: MissingData::Ignore, ..alarm("a", Measured::Service, 1) };
    let mut team = team(vec![keeps]);
    let why = String::new();
    let status = AlarmStatus {
        state: AlarmState::Alarm,
        since: Timestamp(0),
        why,
        last_alarm: None,
        heard: None,
        unsettled: false,
    };
    team.scopes.entry(scope()).or_default().insert("a".parse().unwrap(), status);
    let found = Monitor::default().evaluate(&team, &scope(), START, &standing());
    assert_eq!((state(&found, "a"), found.blind.len()), (AlarmState::Alarm, 1));
}

#[test]
fn requests_are_counted_by_run_spec_and_api_within_the_seconds_asked_for() {
    let cells: Vec<Cell> =
        (0..10).flat_map(|at| [cell(at, Role::Main, 3, 0), cell(at, Role::OneBox, 1, 0)]).collect();
    let monitor = monitor(&cells, 10);
    let count = |n: u64| BTreeMap::from([("GET /".to_owned(), n)]);
    assert_eq!(
        monitor.requests(&service(), &scope(), START + 2, START + 6),
        BTreeMap::from([(spec("a"), count(12)), (spec("b"), count(4)), (spec("c"), count(16))]),
        "c is the configuration of all boxes"
    );
    assert!(monitor.requests(&service(), &scope(), START + 6, START + 2).is_empty());
    assert!(monitor.requests(&"other".parse().unwrap(), &scope(), START, START + 9).is_empty());
}

#[test]
fn requests_that_no_box_took_are_faults_and_canaries_count_run_by_run() {
    let canaries = MetricAlarm { metric: Metric::CanaryFailures, ..alarm("canaries", Measured::Service, 1) };
    let team = team(vec![alarm("faults", Measured::Service, 1), canaries]);
    let scope = scope();
    let unrouted = |second| UnroutedCell {
        second,
        service: service(),
        environment: scope.environment.clone(),
        region: scope.region.clone(),
        requests: 1,
    };
    let canary = |second| CanaryCell {
        second,
        service: service(),
        environment: scope.environment.clone(),
        region: scope.region.clone(),
        runs: 5,
        failures: 1,
        last_failure: None,
    };
    let mut monitor = Monitor::default();
    // What nobody took before the first box was healthy is nobody's fault.
    monitor.take_metrics(&[], &[unrouted(START - 2)], START - 1);
    monitor.take_canaries(&[canary(START), canary(START + 1)]);
    let box_before = Cell { second: START - 1, ..cell(0, Role::Main, 1, 0) };
    monitor.take_metrics(&[box_before], &[unrouted(START), unrouted(START + 1)], START + 2);
    let found = monitor.evaluate(&team, &scope, START + 2, &standing());
    assert_eq!((state(&found, "faults"), state(&found, "canaries")), (AlarmState::Alarm, AlarmState::Alarm));
    let why = &found.reports[&"canaries".parse().unwrap()].why;
    assert!(why.starts_with("failed canary runs 20 % > 0 %"), "{why}");
}

#[test]
fn only_the_seconds_that_alarms_look_back_on_are_kept() {
    let mut monitor = monitor(&[cell(0, Role::Main, 1, 0)], 1);
    monitor.evaluate(&team(vec![alarm("a", Measured::Service, 5)]), &scope(), START + 1, &standing());
    assert!(!monitor.periods.is_empty());
    monitor.take_metrics(&[cell(1, Role::Main, 1, 0)], &[], START + KEPT_SECONDS + 1);
    assert_eq!(monitor.seconds[&(service(), scope())].keys().collect::<Vec<_>>(), [&(START + 1)]);
    monitor.take_metrics(&[], &[], START + KEPT_SECONDS + 20);
    assert!(monitor.seconds.is_empty() && monitor.periods.is_empty());
}

/// An alarm that asks a Prometheus: above 1 in 2 of 3 periods of so many seconds.
fn asks(name: &str, period: u64) -> MetricAlarm {
    let query = "rate(x{s=\"$service\", e=\"$environment\", r=\"$region\"}[$period])".to_owned();
    MetricAlarm {
        metric: Metric::Promql { query },
        threshold: Quantity::whole(1),
        ..alarm(name, Measured::Service, period)
    }
}

fn questions(monitor: &mut Monitor, team: &Team, end: i64) -> Vec<Question> {
    monitor.questions(&"shop".parse().unwrap(), team, &scope(), end, &standing())
}

#[test]
fn every_period_is_asked_for_once_and_at_its_end() {
    let (team, mut monitor) = (team(vec![asks("q", 5)]), Monitor::default());
    let first = questions(&mut monitor, &team, START + 12);
    let ends: Vec<i64> = first.iter().map(|q| q.about.end - START).collect();
    assert_eq!(ends, [-10, -5, 0, 5, 10], "all that it looks back on");
    assert_eq!(first[4].about.at(), Timestamp((START + 10) * 1_000));
    assert_eq!(first[0].query, "rate(x{s=\"frontend\", e=\"production\", r=\"eu-1\"}[5s])");
    assert_eq!(questions(&mut monitor, &team, START + 14), []);
    let next: Vec<i64> = questions(&mut monitor, &team, START + 15).iter().map(|q| q.about.end).collect();
    assert_eq!(next, [START + 15]);
    // After a gap, only what still matters.
    assert_eq!(questions(&mut monitor, &team, START + 600).len(), 5);
    let nowhere = Standing::default();
    let id = "shop".parse().unwrap();
    assert_eq!(monitor.questions(&id, &team, &scope(), START + 900, &nowhere), []);
}

#[test]
fn answers_are_judged_when_they_come_and_missed_when_they_do_not() {
    let (team, mut monitor) = (team(vec![asks("q", 1)]), Monitor::default());
    let mut table = String::new();
    // A number, a reason, or no answer at all, a second each.
    let answers = ["0", "1", "1.0001", "5", "NaN", "gone", "-", "-", "-7", "0", "0", "0"];
    for (at, answer) in (0_i64..).zip(answers) {
        let end = START + at;
        for Question { about, .. } in questions(&mut monitor, &team, end) {
            match answer {
                _ if about.end < end => monitor.take_answer(&about, Ok(0.0)),
                "-" => {}
                "gone" => monitor.take_answer(&about, Err("connection refused".to_owned())),
                number => monitor.take_answer(&about, Ok(number.parse().unwrap())),
            }
        }
        let found = monitor.evaluate(&team, &scope(), end, &standing());
        let report = &found.reports[&"q".parse().unwrap()];
        let sees = if found.blind.is_empty() { "" } else { " blind" };
        let why = report.why.split_once("[$period])").unwrap().1;
        table.push_str(&format!("{answer}: {}{sees}:{why}\n", report.state));
    }
    // Nobody answers for longer than is waited.
    for at in 12..40 {
        questions(&mut monitor, &team, START + at);
    }
    let found = monitor.evaluate(&team, &scope(), START + 39, &standing());
    let report = &found.reports[&"q".parse().unwrap()];
    table.push_str(&format!("then: {} {}", report.state, report.why.rsplit_once(": ").unwrap().1));
    assert_eq!(found.blind.len(), 1);
    expect_test::expect![[r#"
        0: OK: 0, not > 1, in 3 periods of 1s
        1: OK: 1, not > 1, in 3 periods of 1s
        1.0001: OK: 1.001 > 1 in 1 of 3 periods of 1s, 2 needed
        5: ALARM: 5 > 1 in 2 of 3 periods of 1s
        NaN: ALARM blind: 5 > 1 in 2 of 3 periods of 1s, 1 of the last 4 without data: NaN is no finite number
        gone: ALARM blind: 5 > 1 in 2 of 3 periods of 1s, 2 of the last 5 without data: connection refused
        -: ALARM blind: 5 > 1 in 2 of 3 periods of 1s, 2 of the last 5 without data: connection refused
        -: ALARM blind: 5 > 1 in 2 of 3 periods of 1s, 2 of the last 5 without data: connection refused
        -7: OK: -7, not > 1, in 3 periods of 1s, 4 of the last 5 without data
        0: OK: 0, not > 1, in 3 periods of 1s, 3 of the last 5 without data
        0: OK: 0, not > 1, in 3 periods of 1s
        0: OK: 0, not > 1, in 3 periods of 1s
        then: INSUFFICIENT_DATA Prometheus has not answered yet"#]]
    .assert_eq(&table);
}

#[test]
fn sources_that_are_gone_for_an_hour_are_blindness_for_an_hour_and_cost_nothing() {
    // A period of a minute ends there.
    const GONE: i64 = 640;
    const BACK: i64 = GONE + 3_600;
    let team = team(vec![alarm("boxes", Measured::Service, 60), asks("q", 60)]);
    let mut monitor = Monitor::default();
    let mut changes = String::new();
    let mut before: BTreeMap<AlarmName, AlarmState> = BTreeMap::new();
    let mut asked_while_gone = 0;
    for at in 1..=BACK + 600 {
        let (end, gone) = (START + at, (GONE..BACK).contains(&at));
        // Good until it is gone, and something is wrong when it is back.
        let bad = at >= BACK;
        let told = if gone { Vec::new() } else { vec![cell(at - 1, Role::Main, 10, u64::from(bad))] };
        monitor.take_metrics(&told, &[], end);
        for Question { about, .. } in questions(&mut monitor, &team, end) {
            asked_while_gone += u32::from(gone);
            let answer = if bad { Ok(5.0) } else { Ok(0.0) };
            monitor.take_answer(&about, if gone { Err("connection refused".to_owned()) } else { answer });
        }
        let found = monitor.evaluate(&team, &scope(), end, &standing());
        if (GONE + 60..BACK).contains(&at) {
            assert_eq!(found.blind.len(), 2, "{at}");
        }
        for (name, report) in found.reports {
            if before.insert(name.clone(), report.state) != Some(report.state) {
                changes += &format!("{at}: {name} {}\n", report.state);
            }
        }
    }
    assert_eq!(asked_while_gone, 60, "each period once");
    let kept = usize::try_from(KEPT_SECONDS).unwrap();
    assert!(
        monitor.seconds.values().all(|seconds| seconds.len() <= kept) && monitor.periods.len() <= kept / 60
    );
    expect![[r#"
        1: boxes INSUFFICIENT_DATA
        1: q OK
        40: boxes OK
        880: q INSUFFICIENT_DATA
        940: boxes INSUFFICIENT_DATA
        4300: boxes ALARM
        4300: q ALARM
    "#]]
    .assert_eq(&changes);
}

#[test]
fn an_alarm_from_outside_is_blind_until_somebody_speaks_and_nothing_where_nothing_is() {
    use tidegate_core::alarm::{Heard, OutsideAlarm, Source};
    let mut team = team(Vec::new());
    let outside = OutsideAlarm {
        name: "o".parse().unwrap(),
        scope: Measured::Service,
        from: Source::Api,
        ttl: Span::minutes(5),
    };
    let mut services = (*team.services).clone();
    services[0].outside = vec![outside];
    team.services = services.into();
    let look = |team: &Team, standing: &Standing| {
        let found = Monitor::default().evaluate(team, &scope(), START, standing);
        let name = "o".parse().unwrap();
        (found.reports.get(&name).map(|r| r.state), found.blind.contains(&name))
    };
    let mut known = |state: AlarmState, expires: Option<i64>| {
        let heard = expires.map(|at| Heard { at: None, expires: Some(Timestamp(at)) });
        let why = String::new();
        let status =
            AlarmStatus { state, since: Timestamp(0), why, last_alarm: None, heard, unsettled: false };
        team.scopes.entry(scope()).or_default().insert("o".parse().unwrap(), status);
        (look(&team, &standing()), look(&team, &Standing::default()))
    };
    use AlarmState::{Alarm, InsufficientData, Ok};
    let nothing = (None, false);
    assert_eq!(known(InsufficientData, None), ((None, true), (Some(Ok), false)));
    assert_eq!(known(Ok, None), ((Some(InsufficientData), true), nothing), "where nothing was it is OK");
    assert_eq!(known(Ok, Some(1)), (nothing, nothing), "a word counts wherever it is about");
    assert_eq!(known(Alarm, Some(1)), (nothing, nothing));
    assert_eq!(known(InsufficientData, Some(1)), ((None, true), nothing), "somebody says that it is blind");
    team.scopes.clear();
    assert_eq!(look(&team, &standing()), (Some(InsufficientData), true));
    assert_eq!(look(&team, &Standing::default()), (Some(Ok), false));
}

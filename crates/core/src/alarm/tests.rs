use super::*;
use crate::ids::ServiceId;
use crate::metrics::{ApiCell, Cell};
use crate::units::Timestamp;
use expect_test::expect;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

fn alarm(metric: Metric, threshold: i64, datapoints: &str, missing: MissingData) -> MetricAlarm {
    MetricAlarm {
        name: AlarmName::new("A").unwrap(),
        scope: Scope::Service,
        metric,
        comparison: Comparison::Above,
        threshold: Quantity::whole(threshold),
        period: Period::new(Span::seconds(5)).unwrap(),
        datapoints: datapoints.parse().unwrap(),
        missing,
        min_samples: 5,
    }
}

const FAULT_RATE: Metric = Metric::FaultRate { api: None };
const END: Timestamp = Timestamp(1_700_000_000_000);

fn cell(apis: &[(&str, u64, u64, &[u64])]) -> Cell {
    let api = |requests, faults, latencies: &[u64]| {
        let mut cell = ApiCell { requests, faults, ..ApiCell::default() };
        latencies.iter().for_each(|sample| cell.latency.record(*sample));
        cell
    };
    Cell {
        second: 0,
        target: "shop/production/eu-1/a/main".parse().unwrap(),
        box_id: "b1".into(),
        run_spec: "0".repeat(64).parse().unwrap(),
        configuration: Vec::new(),
        apis: apis.iter().map(|(name, r, f, l)| ((*name).to_owned(), api(*r, *f, l))).collect(),
        cpu_millicores: 500,
        memory_kib: 2_048,
        disk_kib: 512,
        log_errors: 0,
        healthy: true,
    }
}

fn seen(cells: &[Cell]) -> Aggregate {
    cells.iter().fold(Aggregate::default(), |mut all, cell| {
        all.add(cell);
        all
    })
}

fn with_faults(faults: u64) -> Option<Aggregate> {
    Some(seen(&[cell(&[("GET /", 1_000, faults, &[])])]))
}

/// `0` is good, `X` breaching, `-` missing; newest last.
fn periods(pattern: &str) -> Vec<Option<Aggregate>> {
    pattern
        .chars()
        .map(|c| match c {
            '0' => with_faults(0),
            'X' => with_faults(342),
            _ => None,
        })
        .collect()
}

#[test]
fn missing_data_is_treated_as_by_cloudwatch() {
    let mut table = String::new();
    let kinds =
        [MissingData::Missing, MissingData::Ignore, MissingData::Breaching, MissingData::NotBreaching];
    for (datapoints, patterns) in [
        ("3 of 3", ["0-X-X", "0----", "-----", "0XX-X", "--X--", "----X", "X0000"]),
        ("2 of 3", ["0-X-X", "00X0X", "0-X--", "----0", "---X-", "----X", "XX000"]),
    ] {
        for pattern in patterns {
            write!(table, "{datapoints} {pattern}").unwrap();
            for missing in kinds {
                let alarm = alarm(FAULT_RATE, 1, datapoints, missing);
                // A previous state that no other rule gives here is the mark of one that was kept.
                let states = [AlarmState::Ok, AlarmState::Alarm]
                    .map(|previous| evaluate(&alarm, END, &periods(pattern), previous).state);
                let state = if states[0] == states[1] { states[0].to_string() } else { "(kept)".into() };
                write!(table, " {state}").unwrap();
            }
            table.push('\n');
        }
    }
    // Columns: missing, ignore, breaching, not breaching.
    expect![[r#"
        3 of 3 0-X-X OK OK OK OK
        3 of 3 0---- OK OK OK OK
        3 of 3 ----- INSUFFICIENT_DATA (kept) ALARM OK
        3 of 3 0XX-X ALARM ALARM ALARM ALARM
        3 of 3 --X-- ALARM (kept) ALARM OK
        3 of 3 ----X INSUFFICIENT_DATA (kept) ALARM OK
        3 of 3 X0000 OK OK OK OK
        2 of 3 0-X-X ALARM ALARM ALARM ALARM
        2 of 3 00X0X ALARM ALARM ALARM ALARM
        2 of 3 0-X-- OK OK ALARM OK
        2 of 3 ----0 OK OK ALARM OK
        2 of 3 ---X- ALARM (kept) ALARM OK
        2 of 3 ----X INSUFFICIENT_DATA (kept) ALARM OK
        2 of 3 XX000 OK OK OK OK
    "#]]
    .assert_eq(&table);
}

#[test]
fn an_evaluation_explains_itself() {
    let mut text = String::new();
    for pattern in ["00X0X", "0X0", "000", "-----", "", "---X-", "XX000"] {
        let alarm = alarm(FAULT_RATE, 1, "2 of 3", MissingData::Missing);
        let found = evaluate(&alarm, END, &periods(pattern), AlarmState::Ok);
        let seen = if found.newest_has_data { "seen" } else { "blind" };
        writeln!(text, "{pattern}: {} {seen}: {}", found.state, found.explanation).unwrap();
    }
    expect![[r#"
        00X0X: ALARM seen: fault rate 34.2 % > 1 % in 2 of 3 periods of 5s
        0X0: OK seen: fault rate 34.2 % > 1 % in 1 of 3 periods of 5s, 2 needed
        000: OK seen: fault rate 0 %, not > 1 %, in 3 periods of 5s
        -----: INSUFFICIENT_DATA blind: no data for fault rate in 3 periods of 5s
        : INSUFFICIENT_DATA blind: no data for fault rate in 3 periods of 5s
        ---X-: ALARM blind: fault rate 34.2 % > 1 % in 1 of 3 periods of 5s, 4 of the last 5 without data
        XX000: OK seen: fault rate 0 %, not > 1 %, in 3 periods of 5s
    "#]]
    .assert_eq(&text);
}

#[test]
fn breaching_periods_are_dated_and_kept_as_json() {
    let alarm = alarm(FAULT_RATE, 1, "2 of 3", MissingData::Missing);
    let found = evaluate(&alarm, END, &periods("X0X"), AlarmState::Ok);
    let value = Quantity::thousandths(34_200);
    assert_eq!(found.explanation.breaching(), [(END - Span::seconds(10), value), (END, value)]);
    let json = serde_json::to_string(&found).unwrap();
    assert_eq!(serde_json::from_str::<Evaluated>(&json).unwrap(), found);
}

#[test]
fn values_of_every_metric() {
    let micros: Vec<u64> = (1..=100).map(|ms| ms * 1_000).collect();
    let mut second = cell(&[("GET /", 100, 1, &micros), ("POST /orders", 60, 20, &[64_000])]);
    second.cpu_millicores = 1_500;
    second.memory_kib = 4_096;
    second.log_errors = 3;
    second.healthy = false;
    let mut all = seen(&[cell(&[]), second]);
    all.add_unrouted(40);
    all.add_canary_run(true);
    all.add_canary_run(false);
    all.add_canary_run(true);
    all.add_custom("queue-age", Quantity::thousandths(1_500));
    all.add_custom("queue-age", Quantity::whole(-4));
    let orders = || Some("POST /orders".to_owned());
    let (average, maximum) = (Statistic::Average, Statistic::Maximum);
    let p = |text: &str| text.parse::<Percentile>().unwrap();
    let mut text = String::new();
    for metric in [
        FAULT_RATE,
        Metric::FaultRate { api: orders() },
        Metric::ErrorRate { api: None },
        Metric::Faults { api: None },
        Metric::Faults { api: Some("GET /none".into()) },
        Metric::FaultRate { api: Some("GET /none".into()) },
        Metric::Requests { api: None },
        Metric::Requests { api: orders() },
        Metric::Latency { percentile: p("p50"), api: None },
        Metric::Latency { percentile: p("p99.9"), api: orders() },
        Metric::Cpu { statistic: average },
        Metric::Cpu { statistic: maximum },
        Metric::Memory { statistic: average },
        Metric::Disk { statistic: maximum },
        Metric::LogErrors,
        Metric::UnhealthyBoxes,
        Metric::CanaryFailures,
        Metric::Custom { name: "queue-age".into(), statistic: average },
        Metric::Custom { name: "queue-age".into(), statistic: maximum },
        Metric::Custom { name: "none".into(), statistic: maximum },
    ] {
        match all.value(&metric) {
            Some(value) => writeln!(text, "{metric}: {value}{}", metric.unit()).unwrap(),
            None => writeln!(text, "{metric}: no data").unwrap(),
        }
        if !matches!(metric, Metric::Custom { .. }) {
            assert_eq!(Aggregate::default().value(&metric), None, "{metric}");
        }
    }
    expect![[r#"
        fault rate: 30.5 %
        fault rate of POST /orders: 33.334 %
        error rate: 0 %
        faults: 61
        faults of GET /none: 0
        fault rate of GET /none: no data
        requests: 200
        requests of POST /orders: 60
        p50 latency: 51.199 ms
        p99.9 latency of POST /orders: 64.511 ms
        average CPU: 100 %
        maximum CPU: 150 %
        average memory: 3 MiB
        maximum disk: 0.5 MiB
        errors in logs: 3
        unhealthy boxes: 50 %
        failed canary runs: 33.334 %
        average queue-age: -1.25
        maximum queue-age: 1.5
        no data for none
    "#]]
    .assert_eq(&text.replace("maximum none: no data", "no data for none"));
}

#[test]
fn few_requests_are_missing_data_for_rates_but_a_fault_among_them_is_counted() {
    let few = Some(seen(&[cell(&[("GET /", 4, 1, &[10])])]));
    let rate = alarm(FAULT_RATE, 1, "1 of 1", MissingData::Missing);
    let found = evaluate(&rate, END, std::slice::from_ref(&few), AlarmState::Ok);
    assert_eq!((found.state, found.newest_has_data), (AlarmState::InsufficientData, false));
    let count = alarm(Metric::Faults { api: None }, 0, "1 of 1", MissingData::Missing);
    assert_eq!(evaluate(&count, END, &[few], AlarmState::Ok).state, AlarmState::Alarm);
}

#[test]
fn a_reported_zero_is_data_and_silence_is_not() {
    let requests = alarm(Metric::Requests { api: None }, 10, "1 of 1", MissingData::Missing);
    let idle = Some(seen(&[cell(&[])]));
    assert_eq!(evaluate(&requests, END, &[idle], AlarmState::Ok).state, AlarmState::Ok);
    for silence in [None, Some(Aggregate::default())] {
        assert_eq!(evaluate(&requests, END, &[silence], AlarmState::Ok).state, AlarmState::InsufficientData);
    }
}

#[test]
fn a_definition_is_read_with_its_defaults_and_refused_with_reasons() {
    let read = |json: &str| serde_json::from_str::<MetricAlarm>(json);
    let alarm = read(
        r#"{"name": "Orders_P99", "metric": {"latency": {"percentile": "p99", "api": "POST /orders"}}, "threshold": 0.5}"#,
    )
    .unwrap();
    expect![[r#"{"name":"Orders_P99","scope":"service","metric":{"latency":{"percentile":"p99","api":"POST /orders"}},"comparison":">","threshold":0.5,"period":"1m","datapoints":"2 of 3","missing":"missing","min_samples":5}"#]]
    .assert_eq(&serde_json::to_string(&alarm).unwrap());

    let mut errors = String::new();
    for (metric, rest) in [
        ("\"log-errors\"", r#""threshold": 1, "colour": 1"#),
        (r#"{"fault-rate": {"ap": "x"}}"#, r#""threshold": 1"#),
        ("\"noise\"", r#""threshold": 1"#),
        (r#"{"latency": {"percentile": "p101"}}"#, r#""threshold": 1"#),
        (r#"{"latency": {"percentile": "p9.99"}}"#, r#""threshold": 1"#),
        ("\"log-errors\"", r#""threshold": 1e300"#),
        ("\"log-errors\"", r#""threshold": 0.0005"#),
        ("\"log-errors\"", r#""threshold": 1, "datapoints": "4 of 3""#),
        ("\"log-errors\"", r#""threshold": 1, "datapoints": "0 of 3""#),
        ("\"log-errors\"", r#""threshold": 1, "period": "1500ms""#),
        ("\"log-errors\"", r#""threshold": 1, "comparison": "!=""#),
    ] {
        let error = read(&format!(r#"{{"name": "A", "metric": {metric}, {rest}}}"#)).unwrap_err().to_string();
        writeln!(errors, "{}", error.split(" at line").next().unwrap()).unwrap();
    }
    expect![[r#"
        unknown field `colour`, expected one of `name`, `scope`, `metric`, `comparison`, `threshold`, `period`, `datapoints`, `missing`, `min_samples`
        unknown field `ap`, expected `api`
        unknown variant `noise`, expected one of `fault-rate`, `error-rate`, `faults`, `requests`, `latency`, `cpu`, `memory`, `disk`, `log-errors`, `unhealthy-boxes`, `canary-failures`, `custom`, `promql`
        'p101' is not a percentile: write p and a number above 0 up to 100 with at most one decimal, such as p99.9
        'p9.99' is not a percentile: write p and a number above 0 up to 100 with at most one decimal, such as p99.9
        1e300 is out of range: a number with at most three decimals, up to 1e12, is expected
        0.0005 is out of range: a number with at most three decimals, up to 1e12, is expected
        '4 of 3' is not a number of data points: write "M of N" with 1 <= M <= N <= 100, such as "2 of 3"
        '0 of 3' is not a number of data points: write "M of N" with 1 <= M <= N <= 100, such as "2 of 3"
        1s500ms is not a period: whole seconds from 1s to 1d are expected
        unknown variant `!=`, expected one of `>`, `>=`, `<`, `<=`
    "#]].assert_eq(&errors);
    assert!(
        AlarmName::new("a b").is_err()
            && AlarmName::new("").is_err()
            && AlarmName::new("x".repeat(129)).is_err()
    );
    assert!(AlarmName::new("Front-End_1.x").is_ok());
}

#[test]
fn the_schema_can_be_made() {
    let schema = serde_json::to_string(&schemars::schema_for!(MetricAlarm)).unwrap();
    assert!(schema.contains("fault-rate") && schema.contains("not-breaching"), "{schema}");
}

#[test]
fn standard_alarms_have_the_names_of_the_article() {
    let service: ServiceId = "front-end-api".parse().unwrap();
    let names: Vec<_> = standard_alarms(&service).into_iter().map(|a| (a.name, a.scope)).collect();
    let mut text = String::new();
    for (name, scope) in &names {
        writeln!(text, "{name} {scope:?}").unwrap();
    }
    expect![[r#"
        FrontEndApi_High_Fault_Rate Service
        FrontEndApi_High_P50_Latency Service
        FrontEndApi_High_P90_Latency Service
        FrontEndApi_High_P99_Latency Service
        FrontEndApi_High_Cpu_Usage Service
        FrontEndApi_High_Memory_Usage Service
        FrontEndApi_High_Disk_Usage Service
        FrontEndApi_High_Errors_In_Logs Service
        FrontEndApi_High_Failing_Health_Checks Service
        FrontEndApi_OneBox_High_Fault_Rate OneBox
        FrontEndApi_OneBox_High_P50_Latency OneBox
        FrontEndApi_OneBox_High_P90_Latency OneBox
        FrontEndApi_OneBox_High_P99_Latency OneBox
        FrontEndApi_OneBox_High_Cpu_Usage OneBox
        FrontEndApi_OneBox_High_Memory_Usage OneBox
        FrontEndApi_OneBox_High_Disk_Usage OneBox
        FrontEndApi_OneBox_High_Errors_In_Logs OneBox
        FrontEndApi_OneBox_High_Failing_Health_Checks OneBox
    "#]]
    .assert_eq(&text);
    assert_eq!(high_severity_name(&service).as_str(), "FrontEndApi_High_Severity");
}

fn any_alarm() -> impl Strategy<Value = MetricAlarm> {
    let missing = prop_oneof![
        Just(MissingData::Missing),
        Just(MissingData::NotBreaching),
        Just(MissingData::Breaching),
        Just(MissingData::Ignore)
    ];
    (1_u16..6, 0_u16..4, missing)
        .prop_map(|(m, more, missing)| alarm(FAULT_RATE, 1, &format!("{m} of {}", m + more), missing))
}

proptest! {
    #[test]
    fn with_full_data_the_state_is_m_of_n_whatever_missing_means(
        alarm in any_alarm(), breaching in prop::collection::vec(any::<bool>(), 12),
    ) {
        let periods: Vec<_> = breaching.iter().map(|b| with_faults(if *b { 11 } else { 10 })).collect();
        let n = usize::from(alarm.datapoints.n());
        let count = breaching[12 - n..].iter().filter(|b| **b).count();
        let expected =
            if count >= usize::from(alarm.datapoints.m()) { AlarmState::Alarm } else { AlarmState::Ok };
        let found = evaluate(&alarm, END, &periods, AlarmState::InsufficientData);
        prop_assert_eq!(found.state, expected);
        prop_assert_eq!(found.explanation.breaching().len(), count);
    }

    #[test]
    fn silence_never_makes_an_alarm_ok(alarm in any_alarm(), pattern in "[X-]{0,12}") {
        prop_assume!(alarm.missing == MissingData::Missing);
        let state = evaluate(&alarm, END, &periods(&pattern), AlarmState::Ok).state;
        prop_assert_ne!(state, AlarmState::Ok);
    }

    #[test]
    fn one_more_breach_never_calms_an_alarm(
        alarm in any_alarm(), pattern in "[0X-]{8}", at in any::<prop::sample::Index>(),
    ) {
        prop_assume!(alarm.missing != MissingData::Missing || !pattern.contains('-'));
        let mut worse = pattern.clone().into_bytes();
        let at = at.index(worse.len());
        prop_assume!(worse[at] == b'0');
        worse[at] = b'X';
        let state = |p: &str| evaluate(&alarm, END, &periods(p), AlarmState::Alarm).state;
        if state(&pattern) == AlarmState::Alarm {
            prop_assert_eq!(state(std::str::from_utf8(&worse).unwrap()), AlarmState::Alarm);
        }
    }

    #[test]
    fn merging_parts_is_adding_all(
        counts in prop::collection::vec((0_u64..50, 0_u64..1_000_000, any::<bool>()), 0..20),
        cut in any::<prop::sample::Index>(),
    ) {
        let cells: Vec<Cell> = counts.iter().map(|(n, latency, healthy)| {
            Cell { healthy: *healthy, ..cell(&[("GET /", *n, n / 2, &[*latency])]) }
        }).collect();
        let (left, right) = cells.split_at(cut.index(cells.len() + 1));
        let mut merged = seen(right);
        merged.merge(&seen(left));
        prop_assert_eq!(merged, seen(&cells));
    }

    #[test]
    fn quantities_survive_json_and_printing(n in -1_000_000_000_000_000_i64..=1_000_000_000_000_000) {
        let quantity = Quantity::thousandths(n);
        let json = serde_json::to_string(&quantity).unwrap();
        prop_assert_eq!(serde_json::from_str::<Quantity>(&json).unwrap(), quantity);
        let printed: f64 = quantity.to_string().parse().unwrap();
        prop_assert_eq!(Quantity::try_from(printed).unwrap(), quantity);
    }

    #[test]
    fn different_services_have_different_prefixes(names in prop::collection::btree_set("[a-c1][a-c1-]{0,4}", 2..20)) {
        let services: BTreeSet<ServiceId> = names.iter().filter_map(|n| n.parse().ok()).collect();
        let prefixes: BTreeMap<String, &ServiceId> = services.iter().map(|s| (alarm_prefix(s), s)).collect();
        prop_assert_eq!(prefixes.len(), services.len());
    }
}

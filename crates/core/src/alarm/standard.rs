//! The alarms that every service has without any work by its team (M1, M4); [`crate::team`] rolls them up. Names are those
//! of the article: `<Service>_High_Fault_Rate`, `<Service>_OneBox_High_P50_Latency`, `<Service>_High_Severity`.

use super::{
    AlarmName, Comparison, Datapoints, Metric, MetricAlarm, MissingData, Percentile, Period, Quantity,
};
use super::{Scope, Statistic};
use crate::ids::ServiceId;

/// A service's name as alarms have it: `front-end-api` is `FrontEndApi`. Different services never get the same one: a
/// hyphen is dropped only before a letter, which is then a capital.
#[must_use]
pub fn alarm_prefix(service: &ServiceId) -> String {
    let mut out = String::new();
    let mut capital = true;
    let mut chars = service.as_str().chars().peekable();
    while let Some(c) = chars.next() {
        if c == '-' && chars.peek().is_some_and(char::is_ascii_lowercase) {
            capital = true;
        } else {
            out.push(if capital { c.to_ascii_uppercase() } else { c });
            capital = false;
        }
    }
    out
}

/// A service's standard alarms: nine on all its boxes, and the same nine on its one-box.
///
/// Every period is a minute, 2 of 3, and missing data is missing. The thresholds: faults above 1 % of the requests;
/// latencies above 500 ms (p50), 1 s (p90) and 2 s (p99); on average over boxes CPU above 90 % of a core, memory above
/// 1 GiB and disk above 10 GiB; more than 10 errors in logs; more than half of the boxes failing health checks, which
/// no deployment does by itself. A team that knows better defines an alarm of the same name.
#[must_use]
pub fn standard_alarms(service: &ServiceId) -> Vec<MetricAlarm> {
    [Scope::Service, Scope::OneBox]
        .into_iter()
        .flat_map(|scope| {
            STANDARD.iter().map(move |(what, metric, threshold)| MetricAlarm {
                name: name(service, scope, what),
                scope,
                metric: metric(),
                comparison: Comparison::Above,
                threshold: Quantity::whole(*threshold),
                period: Period::default(),
                datapoints: Datapoints::default(),
                missing: MissingData::Missing,
                min_samples: MetricAlarm::default_min_samples(),
            })
        })
        .collect()
}

type Standard = (&'static str, fn() -> Metric, i64);

/// Name, metric, and the threshold above which it breaches.
const STANDARD: [Standard; 9] = [
    ("High_Fault_Rate", || Metric::FaultRate { api: None }, 1),
    ("High_P50_Latency", || latency(500), 500),
    ("High_P90_Latency", || latency(900), 1_000),
    ("High_P99_Latency", || latency(990), 2_000),
    ("High_Cpu_Usage", || Metric::Cpu { statistic: Statistic::Average }, 90),
    ("High_Memory_Usage", || Metric::Memory { statistic: Statistic::Average }, 1_024),
    ("High_Disk_Usage", || Metric::Disk { statistic: Statistic::Average }, 10_240),
    ("High_Errors_In_Logs", || Metric::LogErrors, 10),
    ("High_Failing_Health_Checks", || Metric::UnhealthyBoxes, 50),
];

fn latency(per_mille: u16) -> Metric {
    let percentile = Percentile::new(per_mille).expect("the standard percentiles are in range");
    Metric::Latency { percentile, api: None }
}

fn name(service: &ServiceId, scope: Scope, what: &str) -> AlarmName {
    let scope = match scope {
        Scope::Service => "",
        Scope::OneBox => "OneBox_",
    };
    AlarmName::new(format!("{}_{scope}{what}", alarm_prefix(service)))
        .expect("a service's name has at most 63 letters, digits and hyphens")
}

/// The name of the alarm over all of a service's metric alarms but its one-box's: `<Service>_High_Severity`.
#[must_use]
pub fn high_severity_name(service: &ServiceId) -> AlarmName {
    name(service, Scope::Service, "High_Severity")
}

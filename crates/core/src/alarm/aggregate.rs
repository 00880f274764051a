//! What was seen in one period: cells of boxes and seconds, added up.

use super::metric::{Metric, Quantity, Statistic};
use crate::metrics::{ApiCell, Cell, Sketch};
use std::collections::BTreeMap;

/// All that was reported for one period in an alarm's scope. Adding is commutative and associative. Without any box, it is
/// empty: what no one reported is missing, while a reported zero is data (X2).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Aggregate {
    apis: BTreeMap<String, ApiCell>,
    box_seconds: u64,
    unhealthy_box_seconds: u64,
    cpu_millicores: Gauge,
    memory_kib: Gauge,
    disk_kib: Gauge,
    log_errors: u64,
    unrouted: u64,
    canary_runs: u64,
    canary_failures: u64,
    /// In thousandths.
    custom: BTreeMap<String, CustomGauge>,
    /// What a Prometheus answered; a period that was asked for has nothing else.
    answer: Option<Quantity>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Gauge {
    sum: u128,
    max: u64,
}

impl Gauge {
    fn add(&mut self, sample: u64) {
        self.merge(Gauge { sum: u128::from(sample), max: sample });
    }

    fn merge(&mut self, other: Gauge) {
        self.sum = self.sum.saturating_add(other.sum);
        self.max = self.max.max(other.max);
    }

    fn value(self, statistic: Statistic, samples: u64, scale: u128, unit: u128) -> Quantity {
        match statistic {
            Statistic::Average => Quantity::ratio(self.sum, scale, u128::from(samples) * unit),
            Statistic::Maximum => Quantity::ratio(u128::from(self.max), scale, unit),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct CustomGauge {
    samples: u64,
    sum: i128,
    max: Quantity,
}

impl Aggregate {
    /// A period of which a Prometheus answered this.
    #[must_use]
    pub fn answered(answer: Quantity) -> Aggregate {
        Aggregate { answer: Some(answer), ..Aggregate::default() }
    }

    /// Adds what one box did in one second.
    pub fn add(&mut self, cell: &Cell) {
        for (name, api) in &cell.apis {
            self.add_api(name, api);
        }
        self.box_seconds += 1;
        self.unhealthy_box_seconds += u64::from(!cell.healthy);
        self.cpu_millicores.add(u64::from(cell.cpu_millicores));
        self.memory_kib.add(cell.memory_kib);
        self.disk_kib.add(cell.disk_kib);
        self.log_errors += u64::from(cell.log_errors);
    }

    /// Adds requests that no box took: each is a request and a fault, of no API.
    pub fn add_unrouted(&mut self, requests: u64) {
        self.unrouted += requests;
    }

    /// Adds the outcome of one canary run.
    pub fn add_canary_run(&mut self, passed: bool) {
        self.canary_runs += 1;
        self.canary_failures += u64::from(!passed);
    }

    /// Adds one sample of a gauge of the team's own.
    pub fn add_custom(&mut self, name: &str, sample: Quantity) {
        let one = CustomGauge { samples: 1, sum: i128::from(sample.as_thousandths()), max: sample };
        self.merge_custom(name, one);
    }

    /// Adds all of another aggregate, such as that of a shorter period.
    pub fn merge(&mut self, other: &Aggregate) {
        for (name, api) in &other.apis {
            self.add_api(name, api);
        }
        self.box_seconds += other.box_seconds;
        self.unhealthy_box_seconds += other.unhealthy_box_seconds;
        self.cpu_millicores.merge(other.cpu_millicores);
        self.memory_kib.merge(other.memory_kib);
        self.disk_kib.merge(other.disk_kib);
        self.log_errors += other.log_errors;
        self.unrouted += other.unrouted;
        self.canary_runs += other.canary_runs;
        self.canary_failures += other.canary_failures;
        for (name, gauge) in &other.custom {
            self.merge_custom(name, *gauge);
        }
    }

    /// How many seconds of boxes were reported; 0 is blindness.
    #[must_use]
    pub fn box_seconds(&self) -> u64 {
        self.box_seconds
    }

    /// Requests, of one API or of all; those that no box took are counted in all.
    #[must_use]
    pub fn requests(&self, api: Option<&str>) -> u64 {
        self.sum(api, |cell| cell.requests) + self.unrouted_of(api)
    }

    /// Faults, of one API or of all; requests that no box took are counted in all.
    #[must_use]
    pub fn faults(&self, api: Option<&str>) -> u64 {
        self.sum(api, |cell| cell.faults) + self.unrouted_of(api)
    }

    /// What was seen of each API.
    #[must_use]
    pub fn apis(&self) -> &BTreeMap<String, ApiCell> {
        &self.apis
    }

    /// How many samples a rate or a percentile rests on; `None` for metrics that need no number of samples.
    #[must_use]
    pub fn samples(&self, metric: &Metric) -> Option<u64> {
        match metric {
            Metric::FaultRate { api } | Metric::ErrorRate { api } => Some(self.requests(api.as_deref())),
            Metric::Latency { api, .. } => Some(self.latency(api.as_deref()).count()),
            Metric::CanaryFailures => Some(self.canary_runs),
            Metric::Faults { .. }
            | Metric::Requests { .. }
            | Metric::Cpu { .. }
            | Metric::Memory { .. }
            | Metric::Disk { .. }
            | Metric::LogErrors
            | Metric::UnhealthyBoxes
            | Metric::Custom { .. }
            | Metric::Promql { .. } => None,
        }
    }

    /// The metric's value in its unit, rounded up to a thousandth; `None` without data.
    ///
    /// Counts are data as soon as one box reported: an API that no box names had no requests. Rates and percentiles of
    /// no requests are no data.
    #[must_use]
    pub fn value(&self, metric: &Metric) -> Option<Quantity> {
        let percent = |part: u64, all: u64| (all > 0).then(|| Quantity::ratio(part.into(), 100, all.into()));
        let count = |n: u64, reported: bool| reported.then(|| Quantity::ratio(n.into(), 1, 1));
        let reported = self.box_seconds > 0;
        let gauge = |gauge: Gauge, statistic, scale, unit| {
            reported.then(|| gauge.value(statistic, self.box_seconds, scale, unit))
        };
        match metric {
            Metric::FaultRate { api } => percent(self.faults(api.as_deref()), self.requests(api.as_deref())),
            Metric::ErrorRate { api } => {
                percent(self.sum(api.as_deref(), |cell| cell.errors), self.requests(api.as_deref()))
            }
            Metric::Faults { api } => {
                count(self.faults(api.as_deref()), reported || self.unrouted_of(api.as_deref()) > 0)
            }
            Metric::Requests { api } => {
                count(self.requests(api.as_deref()), reported || self.unrouted_of(api.as_deref()) > 0)
            }
            Metric::Latency { percentile, api } => {
                let micros = self.latency(api.as_deref()).quantile(percentile.per_mille())?;
                Some(Quantity::ratio(micros.into(), 1, 1_000))
            }
            // A thousandth of a core is a tenth of a percent of one.
            Metric::Cpu { statistic } => gauge(self.cpu_millicores, *statistic, 1, 10),
            Metric::Memory { statistic } => gauge(self.memory_kib, *statistic, 1, 1_024),
            Metric::Disk { statistic } => gauge(self.disk_kib, *statistic, 1, 1_024),
            Metric::LogErrors => count(self.log_errors, reported),
            Metric::UnhealthyBoxes => percent(self.unhealthy_box_seconds, self.box_seconds),
            Metric::CanaryFailures => percent(self.canary_failures, self.canary_runs),
            Metric::Custom { name, statistic } => {
                let gauge = self.custom.get(name)?;
                Some(match statistic {
                    Statistic::Average => {
                        let mean = gauge.sum.div_euclid(i128::from(gauge.samples));
                        Quantity::thousandths(i64::try_from(mean).unwrap_or(i64::MAX))
                    }
                    Statistic::Maximum => gauge.max,
                })
            }
            Metric::Promql { .. } => self.answer,
        }
    }

    fn add_api(&mut self, name: &str, api: &ApiCell) {
        match self.apis.get_mut(name) {
            Some(sum) => sum.merge(api),
            None => {
                self.apis.insert(name.to_owned(), api.clone());
            }
        }
    }

    fn merge_custom(&mut self, name: &str, gauge: CustomGauge) {
        match self.custom.get_mut(name) {
            Some(all) => {
                all.samples += gauge.samples;
                all.sum += gauge.sum;
                all.max = all.max.max(gauge.max);
            }
            None => {
                self.custom.insert(name.to_owned(), gauge);
            }
        }
    }

    fn sum(&self, api: Option<&str>, of: impl Fn(&ApiCell) -> u64) -> u64 {
        match api {
            Some(name) => self.apis.get(name).map_or(0, of),
            None => self.apis.values().map(of).sum(),
        }
    }

    fn unrouted_of(&self, api: Option<&str>) -> u64 {
        if api.is_none() { self.unrouted } else { 0 }
    }

    fn latency(&self, api: Option<&str>) -> Sketch {
        match api {
            Some(name) => self.apis.get(name).map(|cell| cell.latency.clone()).unwrap_or_default(),
            None => self.apis.values().fold(Sketch::default(), |mut all, cell| {
                all.merge(&cell.latency);
                all
            }),
        }
    }
}

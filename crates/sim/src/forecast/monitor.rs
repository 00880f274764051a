//! Monitoring where something is abnormal: samples of a Region's boxes, kept for as long as alarms look back, and the
//! service's real metric alarms evaluated over them. Where nothing is abnormal nothing is sampled, and where everything has
//! been the same for as long as alarms look back sampling rests: it would only find the same again.

use super::traffic::{Load, Sample};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use tidegate_core::alarm::{
    Aggregate, AlarmName, AlarmState, Metric, MetricAlarm, Scope as Measured, evaluate,
};
use tidegate_core::definition::{CanarySpec, ServiceDef};
use tidegate_core::team::{Report, metric_alarms};
use tidegate_core::units::{Span, Timestamp};

/// The alarms of the simulated service, and how finely they are fed.
#[derive(Debug)]
pub(super) struct Monitoring {
    alarms: Vec<MetricAlarm>,
    pub(super) canaries: Vec<CanarySpec>,
    /// From one sample to the next: it divides every period.
    pub(super) every: Span,
    /// How many samples the alarm that looks back furthest needs.
    keep: usize,
}

/// The samples of one Region.
#[derive(Debug, Default)]
pub(super) struct Sampler {
    /// Newest last; `None` where nobody reported.
    samples: VecDeque<Option<Sample>>,
    /// What the newest was made of, and how often in a row that was the same.
    seen: Option<Vec<Load>>,
    same: usize,
    /// When the next sample is due; `None` while it rests.
    pub(super) next: Option<Timestamp>,
}

/// What an evaluation found.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) reports: BTreeMap<AlarmName, Report>,
    /// Alarms whose newest period has no data.
    pub(super) blind: BTreeSet<AlarmName>,
}

impl Sampler {
    /// Whether it has stopped because everything was the same for long.
    pub(super) fn rested(&self) -> bool {
        self.seen.is_some() && self.next.is_none()
    }
}

impl Monitoring {
    pub(super) fn new(service: &ServiceDef) -> Monitoring {
        // What a team measures itself is unknown here, and taken to be quiet.
        let known =
            |alarm: &MetricAlarm| !matches!(alarm.metric, Metric::Custom { .. } | Metric::Promql { .. });
        let alarms: Vec<MetricAlarm> = metric_alarms(service).into_iter().filter(known).collect();
        let common = alarms.iter().fold(0, |all, alarm| gcd(all, alarm.period.seconds())).max(1);
        let every = (1..=(common / 6).max(1)).rev().find(|n| common.is_multiple_of(*n)).unwrap_or(1);
        let back = alarms.iter().map(|a| a.periods() as u64 * a.period.seconds()).max().unwrap_or(60);
        let keep = usize::try_from(back.div_ceil(every)).unwrap_or(usize::MAX);
        Monitoring { alarms, canaries: service.canaries.clone(), every: Span::seconds(every), keep }
    }

    /// Whether an alarm measures one-boxes alone.
    pub(super) fn is_of_one_box(&self, name: &AlarmName) -> bool {
        self.alarms.iter().any(|alarm| &alarm.name == name && alarm.scope == Measured::OneBox)
    }

    /// Leaves an alarm out.
    pub(super) fn leave_out(&mut self, name: &AlarmName) {
        self.alarms.retain(|alarm| &alarm.name != name);
    }

    /// What every alarm says of a Region that has long been as in this sample.
    pub(super) fn normally(&self, sample: &Sample) -> Found {
        // Every period ends at midnight.
        self.judge(&self.begin(sample), Timestamp(0), &BTreeMap::new())
    }

    /// The first moment after `now` at which a sample ends.
    pub(super) fn next_sample(&self, now: Timestamp) -> Timestamp {
        let every = i64::try_from(self.every.millis()).unwrap_or(i64::MAX);
        Timestamp((now.0.div_euclid(every) + 1) * every)
    }

    /// Takes a sample that ends now and evaluates every alarm whose period ends now.
    pub(super) fn evaluate(
        &self,
        sampler: &mut Sampler,
        loads: Vec<Load>,
        sample: Option<Sample>,
        now: Timestamp,
        before: &BTreeMap<AlarmName, AlarmState>,
    ) -> Found {
        if sampler.seen.as_ref() == Some(&loads) {
            sampler.same += 1;
        } else {
            (sampler.same, sampler.seen) = (0, Some(loads));
        }
        sampler.samples.push_back(sample);
        while sampler.samples.len() > self.keep {
            sampler.samples.pop_front();
        }
        sampler.next = (sampler.same <= self.keep).then(|| self.next_sample(now));
        self.judge(sampler, now, before)
    }

    /// Begins with this many samples of how it was before.
    pub(super) fn begin(&self, normal: &Sample) -> Sampler {
        let samples = std::iter::repeat_n(Some(normal.clone()), self.keep).collect();
        Sampler { samples, ..Sampler::default() }
    }

    /// Goes on after a rest, during which everything was as in the newest sample.
    pub(super) fn resume(&self, sampler: &mut Sampler) {
        let newest = sampler.samples.back().cloned().flatten();
        sampler.samples = std::iter::repeat_n(newest, self.keep).collect();
        (sampler.seen, sampler.same) = (None, 0);
    }

    /// The states of all alarms whose periods end now.
    fn judge(&self, sampler: &Sampler, now: Timestamp, before: &BTreeMap<AlarmName, AlarmState>) -> Found {
        let mut found = Found::default();
        let mut sums: BTreeMap<(Measured, u64), Vec<Option<Aggregate>>> = BTreeMap::new();
        for alarm in &self.alarms {
            let seconds = alarm.period.seconds();
            if (now.0 / 1_000).rem_euclid(i64::try_from(seconds).unwrap_or(i64::MAX)) != 0 {
                continue;
            }
            let sums = sums
                .entry((alarm.scope, seconds))
                .or_insert_with(|| self.sums(sampler, alarm.scope, seconds));
            let was = before.get(&alarm.name).copied().unwrap_or(AlarmState::Ok);
            let evaluated = evaluate(alarm, now, sums, was);
            if !evaluated.newest_has_data {
                found.blind.insert(alarm.name.clone());
            }
            let why = evaluated.explanation.to_string();
            found.reports.insert(alarm.name.clone(), Report { state: evaluated.state, why });
        }
        found
    }

    /// The samples added up to periods, newest last.
    fn sums(&self, sampler: &Sampler, measured: Measured, seconds: u64) -> Vec<Option<Aggregate>> {
        let each = usize::try_from(seconds * 1_000 / self.every.millis()).unwrap_or(1).max(1);
        let mut newest_first = Vec::new();
        let mut rest: Vec<&Option<Sample>> = sampler.samples.iter().collect();
        while rest.len() >= each {
            let period = rest.split_off(rest.len() - each);
            let mut sum: Option<Aggregate> = None;
            for sample in period.into_iter().flatten() {
                let part = match measured {
                    Measured::Service => &sample.all,
                    Measured::OneBox => &sample.one_box,
                };
                sum.get_or_insert_default().merge(part);
            }
            newest_first.push(sum);
        }
        newest_first.reverse();
        newest_first
    }
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

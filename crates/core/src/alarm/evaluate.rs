//! M of N periods, with missing data treated as CloudWatch does.

use super::{
    Aggregate, AlarmState, Comparison, Datapoints, Metric, MetricAlarm, MissingData, Period, Quantity,
};
use crate::units::Timestamp;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Periods beyond N that are looked at, so that a few late or missing ones do not blind an alarm.
pub const EXTRA_PERIODS: usize = 2;

/// The outcome of one evaluation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Evaluated {
    /// The alarm's state at the end of the newest period.
    pub state: AlarmState,
    /// Whether the newest period has data. Where it has none, the state rests on older periods, and a bake must not be
    /// credited for it (X2).
    pub newest_has_data: bool,
    /// Why.
    pub explanation: Explanation,
}

/// Why an alarm is in its state; printed as one line, such as `fault rate 34.2 % > 1 % in 2 of 3 periods of 5s`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Explanation {
    /// What was measured.
    pub metric: Metric,
    /// How it was compared.
    pub comparison: Comparison,
    /// With what, in the metric's unit.
    pub threshold: Quantity,
    /// The length of a period.
    pub period: Period,
    /// M of N.
    pub datapoints: Datapoints,
    /// The newest periods, back to the oldest one that was judged, newest last.
    pub points: Vec<Point>,
    /// The state that follows.
    pub state: AlarmState,
}

/// One period.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Point {
    /// When it ended.
    pub end: Timestamp,
    /// The metric's value; `None` is missing data.
    pub value: Option<Quantity>,
    /// Whether the value crosses the threshold.
    pub breaching: bool,
}

impl Explanation {
    /// The periods that crossed the threshold: their ends and values, newest last.
    #[must_use]
    pub fn breaching(&self) -> Vec<(Timestamp, Quantity)> {
        self.points.iter().filter(|p| p.breaching).filter_map(|p| Some((p.end, p.value?))).collect()
    }
}

/// Evaluates an alarm at `end`, the end of the newest period.
///
/// `periods` are consecutive, newest last; `None`, and what is not given, has no data. Of them the newest N +
/// [`EXTRA_PERIODS`] are looked at, and of those with data the newest N are judged. If that makes N data points, M
/// breaching ones are ALARM, fewer are OK. If it makes fewer, the rest is filled:
///
/// - `breaching`: as many as are needed count as breaching; `not-breaching`: as not breaching.
/// - `missing`: M breaching ones are ALARM. Otherwise any good data point is OK. With breaching ones alone, the state is
///   ALARM if the oldest of them is at least M periods old, so that only missing data stands after it; a younger one
///   is not enough: INSUFFICIENT_DATA. So is no data at all.
/// - `ignore`: as `missing`, but where that would judge without M breaching and without a good data point, the alarm keeps
///   its `previous` state.
#[must_use]
pub fn evaluate(
    alarm: &MetricAlarm,
    end: Timestamp,
    periods: &[Option<Aggregate>],
    previous: AlarmState,
) -> Evaluated {
    let newest = &periods[periods.len().saturating_sub(alarm.periods())..];
    let mut points = Vec::with_capacity(newest.len());
    let mut period_end = end;
    let mut with_data = 0;
    for seen in newest.iter().rev() {
        if with_data == alarm.datapoints.n() {
            break;
        }
        let value = seen.as_ref().and_then(|seen| alarm.value(seen));
        let breaching = value.is_some_and(|value| alarm.comparison.breaches(value, alarm.threshold));
        with_data += u16::from(value.is_some());
        points.push(Point { end: period_end, value, breaching });
        period_end = period_end - alarm.period.span();
    }
    let state = judge(&points, alarm.datapoints, alarm.missing, previous);
    let newest_has_data = points.first().is_some_and(|point| point.value.is_some());
    points.reverse();
    let explanation = Explanation {
        metric: alarm.metric.clone(),
        comparison: alarm.comparison,
        threshold: alarm.threshold,
        period: alarm.period,
        datapoints: alarm.datapoints,
        points,
        state,
    };
    Evaluated { state, newest_has_data, explanation }
}

/// `points` are newest first and hold at most N with data. A data point's age is 1 for the newest period.
fn judge(points: &[Point], of: Datapoints, missing: MissingData, previous: AlarmState) -> AlarmState {
    let (m, n) = (usize::from(of.m()), usize::from(of.n()));
    let data: Vec<(usize, bool)> = points
        .iter()
        .enumerate()
        .filter(|(_, point)| point.value.is_some())
        .map(|(i, point)| (i + 1, point.breaching))
        .collect();
    let breaching = data.iter().filter(|(_, breaching)| *breaching).count();
    let to_fill = n - data.len();
    let alarm_if = |alarm| if alarm { AlarmState::Alarm } else { AlarmState::Ok };
    if breaching >= m {
        return AlarmState::Alarm;
    }
    let any_good = breaching < data.len();
    match missing {
        _ if to_fill == 0 => AlarmState::Ok,
        MissingData::Breaching => alarm_if(breaching + to_fill >= m),
        MissingData::NotBreaching => AlarmState::Ok,
        MissingData::Missing | MissingData::Ignore if any_good => AlarmState::Ok,
        MissingData::Ignore => previous,
        MissingData::Missing => match data.last() {
            Some((oldest, _)) if *oldest >= m => AlarmState::Alarm,
            _ => AlarmState::InsufficientData,
        },
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Explanation { metric, comparison, threshold, period, datapoints, points, state } = self;
        let unit = metric.unit();
        let (n, length) = (datapoints.n(), period.span());
        let breaching = self.breaching();
        let values = points.iter().filter_map(|point| point.value);
        let missing = points.iter().filter(|point| point.value.is_none()).count();
        match (comparison.worst(breaching.iter().map(|(_, value)| *value)), comparison.worst(values)) {
            (Some(worst), _) => {
                let k = breaching.len();
                write!(
                    f,
                    "{metric} {worst}{unit} {comparison} {threshold}{unit} in {k} of {n} periods of {length}"
                )?;
                if *state != AlarmState::Alarm {
                    write!(f, ", {} needed", datapoints.m())?;
                }
            }
            (None, Some(worst)) => {
                write!(
                    f,
                    "{metric} {worst}{unit}, not {comparison} {threshold}{unit}, in {n} periods of {length}"
                )?;
            }
            (None, None) => return write!(f, "no data for {metric} in {n} periods of {length}"),
        }
        match missing {
            0 => Ok(()),
            _ => write!(f, ", {missing} of the last {} without data", points.len()),
        }
    }
}

//! Monitoring: from what boxes and canaries reported for every second to the states of all metric alarms, and to the
//! intervals that were watched.
//!
//! What must hold: every second that is closed is evaluated once and in order, also those of a gap that is read afterwards
//! (an alarm in the gap counts, the gap earns no bake: the core sees to that by the age of a grant); a service that has boxes
//! somewhere and tells nothing there is blind, never quiet; memory is bounded by [`KEPT_SECONDS`].
//!
//! This room only computes. Who asks the fleet, and whom the results are told, is the server's.

mod answers;
#[cfg(test)]
mod tests;

pub use answers::{About, LATE_S, Question};

use self::answers::{Answers, Judged};
use crate::canary::CanaryCell;
use std::collections::{BTreeMap, BTreeSet};
use tidegate_core::alarm::{
    Aggregate, AlarmName, AlarmState, Metric, MetricAlarm, Scope as Measured, evaluate,
};
use tidegate_core::ids::{Role, RunSpecDigest, ServiceId, TeamId};
use tidegate_core::metrics::{Cell, UnroutedCell};
use tidegate_core::scope::Scope;
use tidegate_core::team::{Report, Team, metric_alarms};
use tidegate_core::units::Timestamp;

/// How many seconds are kept: the longest time that alarms look back, and what a server that was down reads afterwards.
pub const KEPT_SECONDS: i64 = 900;

/// A service in one Region of an environment.
pub type Place = (ServiceId, Scope);

/// Requests by RunSpec and API.
pub type Requests = BTreeMap<RunSpecDigest, BTreeMap<String, u64>>;

/// What was reported for one second of a place.
#[derive(Debug, Default)]
struct Second {
    all: Aggregate,
    one_box: Aggregate,
    requests: Requests,
}

/// Where boxes stand, as the engines tell.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Standing {
    /// Services that have boxes there.
    pub services: BTreeSet<Place>,
    /// Services that have a one-box there.
    pub one_boxes: BTreeSet<Place>,
    /// Services of which anything is deployed there, boxes of the fleet or not: whoever is outside may know of it.
    pub placed: BTreeSet<Place>,
}

/// What one evaluation found in one Region of an environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Where.
    pub scope: Scope,
    /// The end of the second that was evaluated.
    pub at: Timestamp,
    /// Every metric alarm of the team.
    pub reports: BTreeMap<AlarmName, Report>,
    /// Alarms whose newest period had no data.
    pub blind: BTreeSet<AlarmName>,
}

/// The seconds that alarms look back on.
#[derive(Debug, Default)]
pub struct Monitor {
    seconds: BTreeMap<Place, BTreeMap<i64, Second>>,
    complete_until: i64,
    /// Since which second a place serves: requests that nobody took count only after it.
    serving: BTreeMap<Place, i64>,
    /// Periods that were added up already: many alarms look at the same ones.
    periods: BTreeMap<(Place, Measured, u64, i64), Option<Aggregate>>,
    /// What a Prometheus answered.
    answers: Answers,
}

impl Monitor {
    /// Takes what the fleet reported. Seconds up to `complete_until` (exclusive) are closed.
    pub fn take_metrics(&mut self, cells: &[Cell], unrouted: &[UnroutedCell], complete_until: i64) {
        for cell in cells {
            let place = (cell.target.service.clone(), Scope::of(&cell.target));
            if cell.healthy {
                let since = self.serving.entry(place.clone()).or_insert(cell.second);
                *since = cell.second.min(*since);
            }
            let second = self.second(place, cell.second);
            second.all.add(cell);
            if cell.target.role == Role::OneBox {
                second.one_box.add(cell);
            }
            for run_spec in std::iter::once(&cell.run_spec).chain(&cell.configuration) {
                let requests = second.requests.entry(run_spec.clone()).or_default();
                for (api, counted) in &cell.apis {
                    *requests.entry(api.clone()).or_default() += counted.requests;
                }
            }
        }
        for cell in unrouted {
            let scope = Scope { environment: cell.environment.clone(), region: cell.region.clone() };
            let place = (cell.service.clone(), scope);
            // Before the first box was healthy there was no service to be at fault.
            if self.serving.get(&place).is_some_and(|since| *since < cell.second) {
                self.second(place, cell.second).all.add_unrouted(cell.requests);
            }
        }
        self.complete_until = self.complete_until.max(complete_until);
        self.forget();
    }

    /// Takes what the canaries found.
    pub fn take_canaries(&mut self, cells: &[CanaryCell]) {
        for cell in cells {
            let scope = Scope { environment: cell.environment.clone(), region: cell.region.clone() };
            let second = self.second((cell.service.clone(), scope), cell.second);
            for run in 0..cell.runs {
                second.all.add_canary_run(run >= cell.failures);
            }
        }
    }

    /// What is to be asked of a team's Prometheus, now that the seconds before `end` are closed. Each question comes once.
    pub fn questions(
        &mut self,
        id: &TeamId,
        team: &Team,
        scope: &Scope,
        end: i64,
        standing: &Standing,
    ) -> Vec<Question> {
        self.answers.due(id, team, scope, end, standing)
    }

    /// Takes what a Prometheus answered, or why there is no number.
    pub fn take_answer(&mut self, about: &About, answer: Result<f64, String>) {
        self.answers.take(about, answer);
    }

    /// Seconds before this are closed.
    #[must_use]
    pub fn complete_until(&self) -> i64 {
        self.complete_until
    }

    fn second(&mut self, place: Place, second: i64) -> &mut Second {
        self.seconds.entry(place).or_default().entry(second).or_default()
    }

    fn forget(&mut self) {
        let oldest = self.complete_until - KEPT_SECONDS;
        self.seconds.retain(|_, seconds| {
            *seconds = seconds.split_off(&oldest);
            !seconds.is_empty()
        });
        self.answers.forget(oldest);
        self.periods
            .retain(|(_, _, length, end), _| *end > oldest + i64::try_from(*length).unwrap_or(i64::MAX));
    }

    /// Requests of a service in a Region in the seconds from `from` until `until` (exclusive).
    #[must_use]
    pub fn requests(&self, service: &ServiceId, scope: &Scope, from: i64, until: i64) -> Requests {
        let mut all = Requests::new();
        let Some(seconds) = self.seconds.get(&(service.clone(), scope.clone())) else { return all };
        for (_, second) in seconds.range(from..until.max(from)) {
            for (spec, apis) in &second.requests {
                let counted = all.entry(spec.clone()).or_default();
                for (api, n) in apis {
                    *counted.entry(api.clone()).or_default() += n;
                }
            }
        }
        all
    }

    /// Evaluates a team's metric alarms in a Region as of the end of a closed second. Periods are aligned: one of 5 s ends
    /// at every multiple of 5 s. Of alarms from outside it tells which are blind, and what none can be told of.
    pub fn evaluate(&mut self, team: &Team, scope: &Scope, end: i64, standing: &Standing) -> Found {
        let mut found = Found {
            scope: scope.clone(),
            at: Timestamp(end * 1_000),
            reports: BTreeMap::new(),
            blind: BTreeSet::new(),
        };
        for service in team.services.iter() {
            let place = (service.name.clone(), scope.clone());
            if !standing.services.contains(&place) {
                // What was there before says nothing of what may come.
                self.leave(&place);
            }
            if !standing.placed.contains(&place) {
                self.answers.leave(&place);
            }
            for alarm in &service.outside {
                let placed = standing.placed.contains(&place);
                look_outside(&mut found, team, &alarm.name, &service.name, placed);
            }
            for alarm in metric_alarms(service) {
                let stands = match (&alarm.metric, alarm.scope) {
                    (Metric::Promql { .. }, _) => standing.placed.contains(&place),
                    (_, Measured::Service) => standing.services.contains(&place),
                    (_, Measured::OneBox) => standing.one_boxes.contains(&place),
                };
                if !stands {
                    let why = format!("{} has no boxes here", service.name);
                    found.reports.insert(alarm.name.clone(), Report { state: AlarmState::Ok, why });
                    continue;
                }
                let before = team.alarm(scope, &alarm.name);
                let (report, has_data) = self.evaluate_one(&alarm, &place, end, before);
                if !has_data {
                    found.blind.insert(alarm.name.clone());
                }
                found.reports.insert(alarm.name, report);
            }
        }
        found
    }

    fn leave(&mut self, place: &Place) {
        self.serving.remove(place);
        self.seconds.remove(place);
        self.periods.retain(|(of, ..), _| of != place);
    }

    fn evaluate_one(
        &mut self,
        alarm: &MetricAlarm,
        place: &Place,
        end: i64,
        before: AlarmState,
    ) -> (Report, bool) {
        if let Metric::Promql { .. } = alarm.metric {
            let Judged { end, periods, why } = self.answers.judged(alarm, place, end);
            let (Report { state, why: text }, sees) = judge(alarm, end, &periods, before);
            let why = why.map_or(text.clone(), |why| format!("{text}: {why}"));
            return (Report { state, why }, sees);
        }
        let length = alarm.period.seconds();
        let step = i64::try_from(length).unwrap_or(i64::MAX);
        let last = end.div_euclid(step) * step;
        let count = i64::try_from(alarm.periods()).unwrap_or(1);
        let periods: Vec<Option<Aggregate>> = (0..count)
            .rev()
            .map(|back| self.period(place, alarm.scope, length, last - back * step))
            .collect();
        judge(alarm, last, &periods, before)
    }

    fn period(&mut self, place: &Place, measured: Measured, length: u64, end: i64) -> Option<Aggregate> {
        let key = (place.clone(), measured, length, end);
        if let Some(known) = self.periods.get(&key) {
            return known.clone();
        }
        let start = end - i64::try_from(length).unwrap_or(i64::MAX);
        let mut sum: Option<Aggregate> = None;
        for (_, second) in self.seconds.get(place).into_iter().flat_map(|s| s.range(start..end)) {
            let part = match measured {
                Measured::Service => &second.all,
                Measured::OneBox => &second.one_box,
            };
            sum.get_or_insert_default().merge(part);
        }
        self.periods.insert(key, sum.clone());
        sum
    }
}

/// The alarm's state at the end of the newest period, and whether it sees.
fn judge(alarm: &MetricAlarm, end: i64, periods: &[Option<Aggregate>], before: AlarmState) -> (Report, bool) {
    let evaluated = evaluate(alarm, Timestamp(end * 1_000), periods, before);
    // An alarm that may do without data is never blind.
    let sees =
        evaluated.newest_has_data || evaluated.state != AlarmState::InsufficientData && tolerates(alarm);
    (Report { state: evaluated.state, why: evaluated.explanation.to_string() }, sees)
}

/// What can be said here of an alarm from outside: that it is blind, or that there is nothing that it could be about.
fn look_outside(found: &mut Found, team: &Team, alarm: &AlarmName, service: &ServiceId, placed: bool) {
    let known = team.scopes.get(&found.scope).and_then(|alarms| alarms.get(alarm));
    let heard = known.and_then(|status| status.heard).is_some_and(|heard| heard.expires.is_some());
    let state = known.map_or(AlarmState::InsufficientData, |status| status.state);
    let report = match (placed, state) {
        // Somebody's word counts, wherever it is about.
        _ if heard => None,
        (true, AlarmState::InsufficientData) if known.is_some() => None,
        (true, _) => {
            let why = "nobody has said anything of it here yet".to_owned();
            Some(Report { state: AlarmState::InsufficientData, why })
        }
        (false, AlarmState::InsufficientData | AlarmState::Alarm) => {
            Some(Report { state: AlarmState::Ok, why: format!("{service} has nothing here") })
        }
        (false, AlarmState::Ok) => None,
    };
    if placed && !(heard && state != AlarmState::InsufficientData) {
        found.blind.insert(alarm.clone());
    }
    if let Some(report) = report {
        found.reports.insert(alarm.clone(), report);
    }
}

/// Whether a period without data says something for this alarm.
fn tolerates(alarm: &MetricAlarm) -> bool {
    use tidegate_core::alarm::MissingData;
    matches!(alarm.missing, MissingData::NotBreaching | MissingData::Breaching)
}

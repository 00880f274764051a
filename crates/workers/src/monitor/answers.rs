//! What a Prometheus answered, period by period: which questions are due, and which period can be judged.
//!
//! What must hold: each period is asked for once; an answer that is late is waited for no longer than [`LATE_S`], and then the
//! period has no data; a service that has nothing in a place is not asked about there.

use super::{Place, Standing};
use std::collections::BTreeMap;
use tidegate_core::alarm::{Aggregate, AlarmName, Metric, MetricAlarm, Quantity};
use tidegate_core::ids::TeamId;
use tidegate_core::scope::Scope;
use tidegate_core::team::{Team, metric_alarms};
use tidegate_core::units::Timestamp;

/// How long an alarm waits for the answer about its newest period, in seconds.
pub const LATE_S: i64 = 10;

/// A question that is due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// What it is about.
    pub about: About,
    /// The query, with its placeholders filled in.
    pub query: String,
}

/// What a question is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct About {
    /// Whose Prometheus is asked.
    pub team: TeamId,
    /// The service and where.
    pub place: Place,
    /// The alarm.
    pub alarm: AlarmName,
    /// The end of the period, in seconds since 1970.
    pub end: i64,
}

#[derive(Debug, Clone, PartialEq)]
enum Answer {
    Awaited,
    Number(f64),
    Nothing(String),
}

/// Answers by alarm and end of period.
#[derive(Debug, Default)]
pub(super) struct Answers(BTreeMap<(Place, AlarmName), BTreeMap<i64, Answer>>);

/// The periods of an alarm that can be judged.
pub(super) struct Judged {
    /// The end of the newest.
    pub(super) end: i64,
    /// Newest last.
    pub(super) periods: Vec<Option<Aggregate>>,
    /// Why the newest has no data.
    pub(super) why: Option<String>,
}

impl Answers {
    /// Questions about periods that have ended at `end` or before, and that the alarms look back on.
    pub(super) fn due(
        &mut self,
        id: &TeamId,
        team: &Team,
        scope: &Scope,
        end: i64,
        standing: &Standing,
    ) -> Vec<Question> {
        let mut due = Vec::new();
        for service in team.services.iter() {
            let place = (service.name.clone(), scope.clone());
            if !standing.placed.contains(&place) {
                continue;
            }
            for alarm in metric_alarms(service) {
                let Metric::Promql { query } = &alarm.metric else { continue };
                let known = self.0.entry((place.clone(), alarm.name.clone())).or_default();
                for end in ends(&alarm, end) {
                    if known.contains_key(&end) {
                        continue;
                    }
                    known.insert(end, Answer::Awaited);
                    let query = fill_in(query, &place, &alarm);
                    let (team, place, alarm) = (id.clone(), place.clone(), alarm.name.clone());
                    due.push(Question { about: About { team, place, alarm, end }, query });
                }
            }
        }
        due
    }

    /// Keeps an answer, if it is still waited for.
    pub(super) fn take(&mut self, about: &About, answer: Result<f64, String>) {
        let key = (about.place.clone(), about.alarm.clone());
        if let Some(known) = self.0.get_mut(&key).and_then(|known| known.get_mut(&about.end)) {
            *known = match answer {
                Ok(number) if number.is_finite() => Answer::Number(number),
                Ok(number) => Answer::Nothing(format!("{number} is no finite number")),
                Err(why) => Answer::Nothing(why),
            };
        }
    }

    /// The newest periods that can be judged at `end`: up to the newest that was answered, or the newest that was waited for
    /// long enough.
    pub(super) fn judged(&self, alarm: &MetricAlarm, place: &Place, end: i64) -> Judged {
        let step = step(alarm);
        let known = self.0.get(&(place.clone(), alarm.name.clone()));
        let at = |end: i64| known.and_then(|known| known.get(&end));
        let answered = |end: &i64| !matches!(at(*end), None | Some(Answer::Awaited));
        let given_up = (end - LATE_S).div_euclid(step) * step;
        let newest = std::iter::successors(Some(end.div_euclid(step) * step), |end| Some(end - step))
            .take_while(|end| *end > given_up)
            .find(answered)
            .unwrap_or(given_up);
        let value = |end: i64| match at(end)? {
            Answer::Number(number) => Quantity::towards(*number, alarm.comparison).map(Aggregate::answered),
            Answer::Awaited | Answer::Nothing(_) => None,
        };
        let why = match at(newest) {
            Some(Answer::Number(_)) => None,
            Some(Answer::Nothing(why)) => Some(why.clone()),
            Some(Answer::Awaited) | None => Some("Prometheus has not answered yet".to_owned()),
        };
        let back = i64::try_from(alarm.periods()).unwrap_or(1);
        let periods = (0..back).rev().map(|back| value(newest - back * step)).collect();
        Judged { end: newest, periods, why }
    }

    pub(super) fn forget(&mut self, oldest: i64) {
        self.0.retain(|_, known| {
            *known = known.split_off(&oldest);
            !known.is_empty()
        });
    }

    pub(super) fn leave(&mut self, place: &Place) {
        self.0.retain(|(of, _), _| of != place);
    }
}

fn step(alarm: &MetricAlarm) -> i64 {
    i64::try_from(alarm.period.seconds()).unwrap_or(i64::MAX)
}

/// The ends of the periods that an alarm looks back on, oldest first.
fn ends(alarm: &MetricAlarm, end: i64) -> impl Iterator<Item = i64> {
    let step = step(alarm);
    let last = end.div_euclid(step) * step;
    let back = i64::try_from(alarm.periods()).unwrap_or(1);
    (0..back).rev().map(move |back| last - back * step)
}

/// Names are words of letters, digits and hyphens: nothing of them can end a string of the query.
fn fill_in(query: &str, (service, scope): &Place, alarm: &MetricAlarm) -> String {
    query
        .replace("$service", service.as_str())
        .replace("$environment", scope.environment.as_str())
        .replace("$region", scope.region.as_str())
        .replace("$period", &format!("{}s", alarm.period.seconds()))
}

impl About {
    /// The end of the period.
    #[must_use]
    pub fn at(&self) -> Timestamp {
        Timestamp(self.end * 1_000)
    }
}

//! Time windows (W4): when a deployment may start by itself. Only starts ask; nothing that is under way, and no rollback.
//!
//! A window is written in local time of a named zone and is decided instant by instant: open is what the clock and the
//! calendar on the wall say is open. So an hour that daylight saving time repeats counts twice, one that it skips never, and
//! the search for the next change looks at every instant at which a wall clock can cross a boundary. The time zone
//! database is compiled in: the same on every machine.

#[cfg(test)]
mod tests;
mod text;

pub use text::{Dates, Hours, InvalidWindowText, Zone};

use crate::units::Timestamp;
use jiff::civil;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};
use std::collections::BTreeSet;
use std::fmt;

/// How far ahead the next change is looked for, in days.
pub const SEARCH_DAYS: usize = 400;
/// The most entries of `open`, and of `closed`.
pub const MAX_ENTRIES: usize = 200;

/// When a deployment may start. In JSON `"always"` or `{"weekly": {..}}`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Windows {
    /// At any time.
    #[default]
    Always,
    /// In certain hours of the week, but for certain dates.
    Weekly(Weekly),
}

/// Hours of the week in local time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Weekly {
    /// The zone whose clock and calendar count: the on-call engineers'.
    pub time_zone: Zone,
    /// When it is open: in any of these; at most [`MAX_ENTRIES`].
    #[serde(deserialize_with = "bounded")]
    pub open: Vec<OpenHours>,
    /// When it is closed nevertheless: holidays, sale days; at most [`MAX_ENTRIES`].
    #[serde(default, deserialize_with = "bounded")]
    pub closed: Vec<Blackout>,
}

/// The same hours on some days of the week.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OpenHours {
    /// On these days.
    pub days: BTreeSet<Weekday>,
    /// From and until, such as `"09:00-16:00"`.
    pub hours: Hours,
}

/// Dates on which nothing starts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Blackout {
    /// One date, `"2026-12-25"`, or the first and the last, `"2026-12-24/2027-01-01"`.
    pub dates: Dates,
    /// For people, such as `year-end freeze`.
    pub reason: String,
}

/// A day of the week.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "the names say it")]
pub enum Weekday {
    Monday,
    Tuesday,
    Wednesday,
    Thursday,
    Friday,
    Saturday,
    Sunday,
}

impl Weekday {
    fn of(date: civil::Date) -> Weekday {
        match date.weekday() {
            civil::Weekday::Monday => Weekday::Monday,
            civil::Weekday::Tuesday => Weekday::Tuesday,
            civil::Weekday::Wednesday => Weekday::Wednesday,
            civil::Weekday::Thursday => Weekday::Thursday,
            civil::Weekday::Friday => Weekday::Friday,
            civil::Weekday::Saturday => Weekday::Saturday,
            civil::Weekday::Sunday => Weekday::Sunday,
        }
    }
}

/// Whether a deployment may start, and until when that holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum WindowState {
    /// It may.
    Open {
        /// The first instant at which it may not; `None` if there is none within [`SEARCH_DAYS`].
        until: Option<Timestamp>,
    },
    /// It may not.
    Closed {
        /// Why.
        why: ClosedBecause,
        /// The first instant at which it may; `None` if there is none within [`SEARCH_DAYS`].
        opens: Option<Timestamp>,
    },
}

/// Why a window is closed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum ClosedBecause {
    /// None of the open hours is now.
    OutsideHours,
    /// The date is closed.
    Blackout(Blackout),
}

impl fmt::Display for ClosedBecause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ClosedBecause::OutsideHours => f.write_str("outside the window's hours"),
            ClosedBecause::Blackout(blackout) => write!(f, "{} ({})", blackout.reason, blackout.dates),
        }
    }
}

impl WindowState {
    /// Whether a deployment may start.
    #[must_use]
    pub fn is_open(&self) -> bool {
        matches!(self, WindowState::Open { .. })
    }
}

impl Windows {
    /// The default of the article for production: business hours of the on-call's zone, Monday to Friday from 09:00 to
    /// 16:00, so that the people who could help are at work for some time yet; no nights, no weekends.
    #[must_use]
    pub fn business_hours(time_zone: Zone) -> Windows {
        use Weekday::{Friday, Monday, Thursday, Tuesday, Wednesday};
        let days = [Monday, Tuesday, Wednesday, Thursday, Friday].into();
        Windows::Weekly(Weekly {
            time_zone,
            open: vec![OpenHours { days, hours: Hours::BUSINESS }],
            closed: Vec::new(),
        })
    }

    /// The same windows, but closed on this day of every week: business hours without Friday.
    #[must_use]
    pub fn without(mut self, day: Weekday) -> Windows {
        if let Windows::Weekly(weekly) = &mut self {
            for open in &mut weekly.open {
                open.days.remove(&day);
            }
        }
        self
    }

    /// The window at `now` if a deployment may not start then; `None` if it may. What [`Windows::check`] says of a closed window,
    /// without looking for the end of an open one.
    #[must_use]
    pub fn closed(&self, now: Timestamp) -> Option<WindowState> {
        let Windows::Weekly(weekly) = self else { return None };
        let instant = jiff::Timestamp::from_millisecond(now.0).ok();
        if instant.is_some_and(|instant| weekly.closed_because(instant).is_none()) {
            return None;
        }
        Some(self.check(now))
    }

    /// Whether a deployment may start at `now`. A point in time beyond the calendar (the year 9999) is closed.
    #[must_use]
    pub fn check(&self, now: Timestamp) -> WindowState {
        let Windows::Weekly(weekly) = self else { return WindowState::Open { until: None } };
        let Ok(instant) = jiff::Timestamp::from_millisecond(now.0) else {
            return WindowState::Closed { why: ClosedBecause::OutsideHours, opens: None };
        };
        let why = weekly.closed_because(instant);
        let change = weekly.next_change(instant, why.is_none());
        let change = change.map(|instant| Timestamp(instant.as_millisecond()));
        match why {
            None => WindowState::Open { until: change },
            Some(why) => WindowState::Closed { why, opens: change },
        }
    }
}

/// How many days are searched at a time.
const CHUNK_DAYS: usize = 8;

impl Weekly {
    fn closed_because(&self, instant: jiff::Timestamp) -> Option<ClosedBecause> {
        let local = self.time_zone.get().to_datetime(instant);
        let day = Weekday::of(local.date());
        if let Some(blackout) = self.closed.iter().find(|blackout| blackout.dates.contains(local.date())) {
            return Some(ClosedBecause::Blackout(blackout.clone()));
        }
        let open = self.open.iter().any(|open| open.days.contains(&day) && open.hours.contains(local.time()));
        (!open).then_some(ClosedBecause::OutsideHours)
    }

    /// The first instant after `now` at which it is not as it `is_open` now.
    fn next_change(&self, now: jiff::Timestamp, is_open: bool) -> Option<jiff::Timestamp> {
        let mut day = self.time_zone.get().to_datetime(now).date();
        let mut from = now;
        for _ in 0..SEARCH_DAYS / CHUNK_DAYS {
            let next = (0..CHUNK_DAYS).try_fold(day, |day, _| day.tomorrow()).ok()?;
            let until = self.time_zone.get().to_ambiguous_timestamp(next.into()).later().ok()?;
            let found = self
                .boundaries(day, from, until)
                .into_iter()
                .find(|instant| self.closed_because(*instant).is_none() != is_open);
            if found.is_some() {
                return found;
            }
            (day, from) = (next, until);
        }
        None
    }

    /// All instants in (`from`, `until`] at which the window may change, where `from` is on `day` and `until` begins the day
    /// [`CHUNK_DAYS`] later: each boundary in local time (both instants of one that is repeated), midnights, and changes of the
    /// zone's offset. A day on either side is looked at too, as an offset may change at midnight.
    fn boundaries(
        &self,
        day: civil::Date,
        from: jiff::Timestamp,
        until: jiff::Timestamp,
    ) -> BTreeSet<jiff::Timestamp> {
        let zone = self.time_zone.get();
        let times: BTreeSet<civil::Time> = self
            .open
            .iter()
            .flat_map(|open| open.hours.boundaries())
            .chain([civil::Time::midnight()])
            .collect();
        let mut all: BTreeSet<jiff::Timestamp> =
            zone.following(from).map(|change| change.timestamp()).take_while(|at| *at <= until).collect();
        let mut date = day.yesterday().unwrap_or(day);
        for _ in 0..CHUNK_DAYS + 2 {
            for time in &times {
                let local = zone.to_ambiguous_timestamp(date.to_datetime(*time));
                all.extend([local.earlier(), local.later()].into_iter().flatten());
            }
            let Ok(tomorrow) = date.tomorrow() else { break };
            date = tomorrow;
        }
        all.into_iter().filter(|at| from < *at && *at <= until).collect()
    }
}

fn bounded<'de, D: Deserializer<'de>, T: Deserialize<'de>>(input: D) -> Result<Vec<T>, D::Error> {
    let list = Vec::deserialize(input)?;
    if list.len() > MAX_ENTRIES {
        let message = format!("{} entries are more than the {MAX_ENTRIES} allowed", list.len());
        return Err(serde::de::Error::custom(message));
    }
    Ok(list)
}

//! The parts of a window that people write as text: hours, dates, and the zone's name.

use crate::expr::suggest::nearest;
use jiff::civil::{Date, Time};
use jiff::tz::{TimeZone, TimeZoneDatabase};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// A text that is no part of a window.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidWindowText {
    /// Hours of a day.
    #[error("'{text}' are no hours of a day: {why}")]
    Hours {
        /// As it was given.
        text: String,
        /// What is wrong, or what to write.
        why: &'static str,
    },
    /// Dates.
    #[error("'{text}' are no dates: {why}")]
    Dates {
        /// As it was given.
        text: String,
        /// What is wrong, or what to write.
        why: &'static str,
    },
    /// A time zone.
    #[error("'{text}' is not a time zone: {hint}")]
    Zone {
        /// As it was given.
        text: String,
        /// What to write.
        hint: String,
    },
}

fn short(text: &str) -> String {
    text.chars().take(40).collect()
}

macro_rules! as_text {
    ($type:ty) => {
        impl TryFrom<String> for $type {
            type Error = InvalidWindowText;
            fn try_from(text: String) -> Result<Self, InvalidWindowText> {
                text.parse()
            }
        }

        impl From<$type> for String {
            fn from(value: $type) -> String {
                value.to_string()
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    };
}

/// Hours of one day: from (inclusive) until (exclusive), to the minute, within one day. Written `"09:00-16:00"`; the end of
/// the day is `24:00`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub struct Hours {
    /// Minutes since midnight, 0 to 1,439.
    from: u16,
    /// Minutes since midnight, above `from`, at most 1,440.
    until: u16,
}

as_text!(Hours);

const DAY_MINUTES: u16 = 24 * 60;

impl Hours {
    /// 09:00 to 16:00.
    pub const BUSINESS: Hours = Hours { from: 9 * 60, until: 16 * 60 };

    pub(super) fn contains(self, time: Time) -> bool {
        let minute = u16::from(time.hour().unsigned_abs()) * 60 + u16::from(time.minute().unsigned_abs());
        (self.from..self.until).contains(&minute)
    }

    /// From, and until unless that is midnight.
    pub(super) fn boundaries(self) -> impl Iterator<Item = Time> {
        [self.from, self.until].into_iter().filter_map(|minutes| {
            let (hour, minute) = (i8::try_from(minutes / 60).ok()?, i8::try_from(minutes % 60).ok()?);
            Time::new(hour, minute, 0, 0).ok()
        })
    }
}

impl FromStr for Hours {
    type Err = InvalidWindowText;
    fn from_str(text: &str) -> Result<Hours, InvalidWindowText> {
        let fail = |why| InvalidWindowText::Hours { text: short(text), why };
        let (from, until) = text
            .split_once('-')
            .and_then(|(from, until)| Some((minutes(from)?, minutes(until)?)))
            .ok_or_else(|| fail("write from and until, such as 09:00-16:00, between 00:00 and 24:00"))?;
        if from < until {
            Ok(Hours { from, until })
        } else {
            Err(fail("they must end after they begin; write hours over midnight as two entries"))
        }
    }
}

/// `HH:MM` in minutes since midnight, 0 to 1,440.
fn minutes(text: &str) -> Option<u16> {
    let [h1, h2, b':', m1, m2] = *text.as_bytes() else { return None };
    if ![h1, h2, m1, m2].iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = |tens: u8, ones: u8| u16::from(tens - b'0') * 10 + u16::from(ones - b'0');
    let (hour, minute) = (number(h1, h2), number(m1, m2));
    let total = hour * 60 + minute;
    (minute < 60 && total <= DAY_MINUTES).then_some(total)
}

impl fmt::Display for Hours {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Hours { from, until } = self;
        write!(f, "{:02}:{:02}-{:02}:{:02}", from / 60, from % 60, until / 60, until % 60)
    }
}

/// One date or a range of dates, first and last included. Written `"2026-12-25"` or `"2026-12-24/2027-01-01"`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub struct Dates {
    first: Date,
    last: Date,
}

as_text!(Dates);

impl Dates {
    pub(super) fn contains(self, date: Date) -> bool {
        (self.first..=self.last).contains(&date)
    }
}

impl FromStr for Dates {
    type Err = InvalidWindowText;
    fn from_str(text: &str) -> Result<Dates, InvalidWindowText> {
        let fail = |why| InvalidWindowText::Dates { text: short(text), why };
        let date = |part: &str| {
            let plain = part.len() == 10 && part.bytes().all(|b| b.is_ascii_digit() || b == b'-');
            plain.then(|| part.parse::<Date>().ok()).flatten()
        };
        let (first, last) = text.split_once('/').unwrap_or((text, text));
        let (first, last) = date(first).zip(date(last)).ok_or_else(|| {
            fail("write a date, 2026-12-25, or the first and the last, 2026-12-24/2027-01-01")
        })?;
        if first <= last { Ok(Dates { first, last }) } else { Err(fail("the last is before the first")) }
    }
}

impl fmt::Display for Dates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            return write!(f, "{}", self.first);
        }
        write!(f, "{}/{}", self.first, self.last)
    }
}

/// A time zone of the IANA database, by its name, such as `Europe/Berlin`. The database is the one compiled in.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub struct Zone(TimeZone);

as_text!(Zone);

impl Zone {
    /// UTC.
    pub const UTC: Zone = Zone(TimeZone::UTC);

    pub(super) fn get(&self) -> &TimeZone {
        &self.0
    }
}

impl FromStr for Zone {
    type Err = InvalidWindowText;
    fn from_str(text: &str) -> Result<Zone, InvalidWindowText> {
        let database = TimeZoneDatabase::bundled();
        match database.get(text) {
            Ok(zone) if zone.iana_name().is_some() => Ok(Zone(zone)),
            _ => {
                let text = short(text);
                let names: Vec<String> = database.available().map(|name| name.to_string()).collect();
                let hint = match nearest(&text, names.iter().map(String::as_str)) {
                    Some(name) => format!("did you mean {name}?"),
                    None => "write an IANA name, such as Europe/Berlin or UTC".to_owned(),
                };
                Err(InvalidWindowText::Zone { text, hint })
            }
        }
    }
}

impl fmt::Display for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.iana_name().unwrap_or("UTC"))
    }
}

//! Units: points in time, spans of time, percentages. Bare integers do not cross a function's signature.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::ops::{Add, Sub};
use std::str::FromStr;

/// A point in time: milliseconds since 1970-01-01T00:00:00Z.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize, JsonSchema,
)]
#[serde(transparent)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// As HTTP tells the time: `Sun, 06 Nov 1994 08:49:37 GMT` (RFC 9110).
    ///
    /// # Errors
    /// It is no such text.
    pub fn from_http_date(text: &str) -> Result<Timestamp, InvalidTimestamp> {
        jiff::fmt::rfc2822::parse(text)
            .map(|at| Timestamp(at.timestamp().as_millisecond()))
            .map_err(|_| InvalidTimestamp { text: text.chars().take(40).collect() })
    }

    /// The span from `earlier` to `self`; zero when `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Timestamp) -> Span {
        Span(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// Reads RFC 3339; `None` for anything else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Timestamp> {
        text.parse::<jiff::Timestamp>().ok().map(|at| Timestamp(at.as_millisecond()))
    }
}

impl fmt::Display for Timestamp {
    /// RFC 3339 in UTC with milliseconds.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_millisecond(self.0) {
            Ok(t) => write!(f, "{t:.3}"),
            Err(_) => write!(f, "{} ms", self.0),
        }
    }
}

/// Why a text is no point in time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{text}' is no point in time: write a day such as 2026-11-28, or 2026-11-28T14:30:00Z")]
pub struct InvalidTimestamp {
    /// The text as it was given.
    pub text: String,
}

impl FromStr for Timestamp {
    type Err = InvalidTimestamp;
    /// RFC 3339 with its offset, or a day, which begins at midnight UTC.
    fn from_str(text: &str) -> Result<Timestamp, InvalidTimestamp> {
        let day = || -> Result<jiff::Timestamp, jiff::Error> {
            Ok(text.parse::<jiff::civil::Date>()?.to_zoned(jiff::tz::TimeZone::UTC)?.timestamp())
        };
        let parsed = if text.contains(['T', 't', ' ']) { text.parse::<jiff::Timestamp>() } else { day() };
        parsed
            .map(|at| Timestamp(at.as_millisecond()))
            .map_err(|_| InvalidTimestamp { text: text.chars().take(40).collect() })
    }
}

impl Add<Span> for Timestamp {
    type Output = Timestamp;
    fn add(self, span: Span) -> Timestamp {
        Timestamp(self.0.saturating_add(i64::try_from(span.0).unwrap_or(i64::MAX)))
    }
}

impl Sub<Span> for Timestamp {
    type Output = Timestamp;
    fn sub(self, span: Span) -> Timestamp {
        Timestamp(self.0.saturating_sub(i64::try_from(span.0).unwrap_or(i64::MAX)))
    }
}

/// A span of time in milliseconds. In definitions it is written with units, such as `"90s"`, `"1h30m"`, `"250ms"`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub struct Span(pub u64);

impl Span {
    /// No time at all.
    pub const ZERO: Span = Span(0);

    /// A span of whole seconds.
    #[must_use]
    pub const fn seconds(n: u64) -> Span {
        Span(n * 1_000)
    }

    /// A span of whole minutes.
    #[must_use]
    pub const fn minutes(n: u64) -> Span {
        Span(n * 60_000)
    }

    /// A span of whole hours.
    #[must_use]
    pub const fn hours(n: u64) -> Span {
        Span(n * 3_600_000)
    }

    /// The number of milliseconds.
    #[must_use]
    pub const fn millis(self) -> u64 {
        self.0
    }

    /// The sum, at the maximum where it would overflow.
    #[must_use]
    pub const fn plus(self, other: Span) -> Span {
        Span(self.0.saturating_add(other.0))
    }
}

impl From<Span> for std::time::Duration {
    fn from(span: Span) -> Self {
        std::time::Duration::from_millis(span.0)
    }
}

const UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 {
            return f.write_str("0s");
        }
        let mut rest = self.0;
        for (name, size) in UNITS {
            let n = rest / size;
            rest %= size;
            if n > 0 {
                write!(f, "{n}{name}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why a text is no span of time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{text}' is not a span of time: {why}")]
pub struct InvalidSpan {
    /// The text as it was given.
    pub text: String,
    /// What is wrong with it.
    pub why: &'static str,
}

impl FromStr for Span {
    type Err = InvalidSpan;
    fn from_str(text: &str) -> Result<Span, InvalidSpan> {
        let fail = |why| InvalidSpan { text: text.chars().take(40).collect(), why };
        let example = "write a whole number and a unit, such as 90s, 1h30m or 250ms";
        if text.starts_with('-') {
            return Err(fail("it is negative"));
        }
        let (mut rest, mut total) = (text, 0_u64);
        if rest.is_empty() {
            return Err(fail(example));
        }
        while !rest.is_empty() {
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            let (number, tail) = rest.split_at(digits);
            let letters = tail.bytes().take_while(u8::is_ascii_alphabetic).count();
            let (unit, tail) = tail.split_at(letters);
            let number: u64 = number.parse().map_err(|_| fail(example))?;
            let (_, size) = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(|| fail(example))?;
            total = number
                .checked_mul(*size)
                .and_then(|n| total.checked_add(n))
                .filter(|n| *n <= 366 * 86_400_000)
                .ok_or_else(|| fail("it is longer than a year"))?;
            rest = tail;
        }
        Ok(Span(total))
    }
}

impl TryFrom<String> for Span {
    type Error = InvalidSpan;
    fn try_from(text: String) -> Result<Span, InvalidSpan> {
        text.parse()
    }
}

impl From<Span> for String {
    fn from(span: Span) -> String {
        span.to_string()
    }
}

/// A share in whole percent, 0 to 100.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "u8", into = "u8")]
#[schemars(with = "u8")]
pub struct Percent(u8);

/// A percentage above 100.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0} % is more than 100 %")]
pub struct InvalidPercent(u8);

impl Percent {
    /// Checks the range.
    pub fn new(n: u8) -> Result<Percent, InvalidPercent> {
        if n <= 100 { Ok(Percent(n)) } else { Err(InvalidPercent(n)) }
    }

    /// A constant; for defaults in this crate only, where the range is plain to see.
    pub(crate) const fn constant(n: u8) -> Percent {
        assert!(n <= 100);
        Percent(n)
    }

    /// The number, 0 to 100.
    #[must_use]
    pub const fn get(self) -> u8 {
        self.0
    }
}

impl TryFrom<u8> for Percent {
    type Error = InvalidPercent;
    fn try_from(n: u8) -> Result<Percent, InvalidPercent> {
        Percent::new(n)
    }
}

impl From<Percent> for u8 {
    fn from(p: Percent) -> u8 {
        p.0
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} %", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_read_and_printed() {
        for (text, millis) in
            [("90s", 90_000), ("1h30m", 5_400_000), ("250ms", 250), ("2d", 172_800_000), ("0s", 0)]
        {
            assert_eq!(text.parse::<Span>().unwrap(), Span(millis), "{text}");
        }
        assert_eq!(Span(5_400_000).to_string(), "1h30m");
        assert_eq!(Span(61_001).to_string(), "1m1s1ms");
    }

    #[test]
    fn points_in_time_are_read() {
        for (text, millis) in [
            ("1970-01-02", 86_400_000),
            ("1970-01-01T00:00:01Z", 1_000),
            ("1970-01-01T01:00:00.250+01:00", 250),
        ] {
            assert_eq!(text.parse(), Ok(Timestamp(millis)), "{text}");
        }
        assert_eq!(
            Timestamp::from_http_date("Sun, 06 Nov 1994 08:49:37 GMT"),
            Ok(Timestamp(784_111_777_000))
        );
        for text in ["", "yesterday", "1970-13-01", "1970-01-01T00:00:00", "12"] {
            assert!(text.parse::<Timestamp>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_bake_of_minus_one_is_refused() {
        let why = |t: &str| t.parse::<Span>().unwrap_err().why;
        assert_eq!(why("-1s"), "it is negative");
        assert_eq!(why("10000d"), "it is longer than a year");
        for text in ["", "5", "s", "1.5h", "1 h", "5w"] {
            assert!(why(text).starts_with("write a whole number"), "{text}");
        }
    }
}

//! Periods and their windows: calendar windows in UTC, a function of time alone.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Datelike, Days, Months, NaiveDate, NaiveTime, TimeDelta, Timelike, Utc};
use serde::{Deserialize, Serialize};

/// How often a quota starts from zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Period {
    /// At every full hour.
    Hour,
    /// At 00:00.
    Day,
    /// On Monday at 00:00.
    Week,
    /// On the 1st at 00:00.
    Month,
    /// Never.
    Lifetime,
}

/// One concrete `[start, end)` of a period.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Window {
    /// The first instant; the epoch for `lifetime`.
    pub start: DateTime<Utc>,
    /// The next window's first instant; `None` for `lifetime`.
    pub end: Option<DateTime<Utc>>,
}

impl Period {
    /// All of them, shortest first.
    pub const ALL: [Self; 5] = [Self::Hour, Self::Day, Self::Week, Self::Month, Self::Lifetime];

    /// As in tables and answers.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Hour => "hour",
            Self::Day => "day",
            Self::Week => "week",
            Self::Month => "month",
            Self::Lifetime => "lifetime",
        }
    }

    /// The window that contains `at`.
    pub fn window(self, at: DateTime<Utc>) -> Window {
        let midnight = |date: NaiveDate| date.and_time(NaiveTime::MIN).and_utc();
        let date = at.date_naive();
        let start = match self {
            Self::Hour => midnight(date) + TimeDelta::hours(i64::from(at.hour())),
            Self::Day => midnight(date),
            Self::Week => midnight(date - Days::new(u64::from(date.weekday().num_days_from_monday()))),
            Self::Month => midnight(date.with_day(1).unwrap_or(date)),
            Self::Lifetime => DateTime::UNIX_EPOCH,
        };
        let end = match self {
            Self::Hour => Some(start + TimeDelta::hours(1)),
            Self::Day => Some(start + TimeDelta::days(1)),
            Self::Week => Some(start + TimeDelta::days(7)),
            Self::Month => start.checked_add_months(Months::new(1)),
            Self::Lifetime => None,
        };
        Window { start, end }
    }

    /// The window before the one that starts at `start`; `None` for `lifetime`.
    pub fn window_before(self, start: DateTime<Utc>) -> Option<Window> {
        (self != Self::Lifetime).then(|| self.window(start - TimeDelta::milliseconds(1)))
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Period {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|period| period.as_str() == text)
            .ok_or_else(|| format!("one of hour, day, week, month, lifetime, got {text:?}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().expect("a test's own instant")
    }

    #[test]
    fn windows_are_calendar_windows_in_utc() {
        for (period, now, start, end) in [
            (Period::Hour, "2026-01-04T12:59:59.999Z", "2026-01-04T12:00:00Z", "2026-01-04T13:00:00Z"),
            (Period::Day, "2026-01-04T23:59:59.999Z", "2026-01-04T00:00:00Z", "2026-01-05T00:00:00Z"),
            (Period::Day, "2026-01-05T00:00:00Z", "2026-01-05T00:00:00Z", "2026-01-06T00:00:00Z"),
            (Period::Week, "2026-01-04T12:00:00Z", "2025-12-29T00:00:00Z", "2026-01-05T00:00:00Z"),
            (Period::Week, "2026-01-05T00:00:00Z", "2026-01-05T00:00:00Z", "2026-01-12T00:00:00Z"),
            (Period::Month, "2028-02-29T12:00:00Z", "2028-02-01T00:00:00Z", "2028-03-01T00:00:00Z"),
            (Period::Month, "2026-12-31T23:59:59Z", "2026-12-01T00:00:00Z", "2027-01-01T00:00:00Z"),
        ] {
            let window = period.window(at(now));
            assert_eq!((window.start, window.end), (at(start), Some(at(end))), "{period} at {now}");
        }
        assert_eq!(Period::Lifetime.window(at("2026-01-04T12:00:00Z")).end, None);
    }

    #[test]
    fn the_window_before_ends_where_the_window_starts() {
        for period in [Period::Hour, Period::Day, Period::Week, Period::Month] {
            let window = period.window(at("2028-03-01T00:00:00Z"));
            let before = period.window_before(window.start).and_then(|before| before.end);
            assert_eq!(before, Some(window.start), "{period}");
        }
        assert_eq!(Period::Lifetime.window_before(DateTime::UNIX_EPOCH), None);
    }
}

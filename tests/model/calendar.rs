//! Windows in whole milliseconds since the epoch, by arithmetic of our own.

const SECOND: i64 = 1_000;
pub const HOUR: i64 = 3_600 * SECOND;
pub const DAY: i64 = 24 * HOUR;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Period {
    Hour,
    Day,
    Week,
    Month,
    Lifetime,
}

pub const PERIODS: [Period; 5] = [Period::Hour, Period::Day, Period::Week, Period::Month, Period::Lifetime];

impl Period {
    pub fn word(self) -> &'static str {
        ["hour", "day", "week", "month", "lifetime"][self as usize]
    }

    pub fn of(word: &str) -> Self {
        PERIODS.into_iter().find(|period| period.word() == word).expect("a period")
    }

    /// Where the window starts that contains `at`.
    pub fn start(self, at: i64) -> i64 {
        let day = at.div_euclid(DAY);
        match self {
            Self::Hour => at - at.rem_euclid(HOUR),
            Self::Day => day * DAY,
            // Day 0 was a Thursday.
            Self::Week => (day - (day + 3).rem_euclid(7)) * DAY,
            Self::Month => (day - (civil(day).2 - 1)) * DAY,
            Self::Lifetime => 0,
        }
    }

    /// Where the window ends that starts at `start`.
    pub fn end(self, start: i64) -> Option<i64> {
        match self {
            Self::Hour => Some(start + HOUR),
            Self::Day => Some(start + DAY),
            Self::Week => Some(start + 7 * DAY),
            // Within 31 days there is exactly one first of a month that is not the start.
            Self::Month => (28..=31).map(|days| start + days * DAY).find(|&then| civil(then / DAY).2 == 1),
            Self::Lifetime => None,
        }
    }
}

/// Year, month and day of a day since the epoch, by counting.
fn civil(day: i64) -> (i64, usize, i64) {
    let is_leap = |year: i64| year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let (mut year, mut left) = (1970, day);
    while left >= 365 + i64::from(is_leap(year)) {
        left -= 365 + i64::from(is_leap(year));
        year += 1;
    }
    let february = 28 + i64::from(is_leap(year));
    let months = [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 0;
    while left >= months[month] {
        left -= months[month];
        month += 1;
    }
    (year, month + 1, left + 1)
}

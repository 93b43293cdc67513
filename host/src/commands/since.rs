//! `--since`: how far back a command looks.

use chrono::{DateTime, TimeDelta, Utc};

use super::Failure;

/// `90m`, `24h`, `7d` before `now`, or an instant.
pub(super) fn since(text: &str, now: DateTime<Utc>) -> Result<DateTime<Utc>, Failure> {
    if let Ok(instant) = text.parse::<DateTime<Utc>>() {
        return Ok(instant);
    }
    let ago = || {
        let unit = text.chars().next_back()?;
        let count: i64 = text.strip_suffix(unit)?.parse().ok().filter(|count| *count > 0)?;
        let ago = match unit {
            's' => TimeDelta::try_seconds(count),
            'm' => TimeDelta::try_minutes(count),
            'h' => TimeDelta::try_hours(count),
            'd' => TimeDelta::try_days(count),
            _ => None,
        };
        now.checked_sub_signed(ago?)
    };
    ago().ok_or_else(|| {
        Failure::new(format!("--since: a time such as 90m, 24h, 7d or 2026-01-04T12:00:00Z, got {text:?}"))
    })
}

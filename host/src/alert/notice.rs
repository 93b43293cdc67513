//! What people are told: who, how much of what limit, since when, how fast, until when it lasts, and what happens then.
//! Plain sentences; each channel puts them into its own shape and escapes them.

use chrono::{DateTime, TimeDelta, Utc};
use uuid::Uuid;

use crate::money::Money;
use crate::period::{Period, Window};

/// One thing to tell.
#[derive(Clone, Debug)]
pub struct Notice {
    /// The same for each attempt.
    pub id: Uuid,
    /// When it came about.
    pub at: DateTime<Utc>,
    /// What it is about.
    pub kind: Kind,
}

/// What a notice is about.
#[derive(Clone, Debug)]
pub enum Kind {
    /// So many percent of a limit are spent.
    Threshold(Subject, i16),
    /// At this rate the limit is reached before the window ends.
    Predicted(Subject),
    /// What a week or month came to.
    Summary(Summary),
    /// Nothing happened: somebody wants to know whether messages arrive.
    Test,
}

/// A quota as it stood.
#[derive(Clone, Debug)]
pub struct Subject {
    /// The row.
    pub quota_id: Uuid,
    /// `tenant`, `user`, `pool`, `global`.
    pub scope: String,
    /// `acme-corp`, `acme-corp/u-42`, `eu-team`, `*`.
    pub scope_id: String,
    /// `llm`, `e2b`, …
    pub resource_type: String,
    /// How often it starts from zero.
    pub period: Period,
    /// Its start may be later than the period's, for a quota that lasts for ever.
    pub window: Window,
    /// May be spent in it.
    pub limit: Money,
    /// Is spent.
    pub spend: Money,
    /// Requests beyond it are refused.
    pub enforced: bool,
}

/// What a week or month came to.
#[derive(Clone, Debug)]
pub struct Summary {
    /// Week or month.
    pub period: Period,
    /// Which.
    pub window: Window,
    /// All tenants' quotas together.
    pub total: Share,
    /// Those who spent most.
    pub most: Vec<Share>,
}

/// Somebody's part, and what it was in the window before.
#[derive(Clone, Debug)]
pub struct Share {
    /// `acme-corp llm`.
    pub name: String,
    /// In this window.
    pub spend: Money,
    /// In the one before.
    pub before: Money,
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Severity {
    Info,
    Warning,
    Critical,
}

impl Notice {
    /// One sentence.
    pub fn title(&self) -> String {
        match &self.kind {
            Kind::Threshold(subject, threshold) if *threshold >= 100 => {
                format!("{} has used up its {}", subject.who(), subject.rule())
            }
            Kind::Threshold(subject, threshold) => {
                format!("{} has used {threshold}% of its {}", subject.who(), subject.rule())
            }
            Kind::Predicted(subject) => {
                format!("{} will use up its {} before the {} ends", subject.who(), subject.rule(), subject.period)
            }
            Kind::Summary(summary) => {
                let from = summary.window.start.format("%Y-%m-%d");
                format!("{} spent in the {} from {from}", cents(summary.total.spend), summary.period)
            }
            Kind::Test => "A test message from Tollgate".to_owned(),
        }
    }

    /// What and how, a line each.
    pub fn lines(&self) -> Vec<(String, String)> {
        match &self.kind {
            Kind::Threshold(subject, _) | Kind::Predicted(subject) => subject.lines(self.at),
            Kind::Summary(summary) => summary.lines(),
            Kind::Test => vec![line("Meaning", "This channel works. Nothing has happened.")],
        }
    }

    /// The title and the lines as plain text.
    pub fn text(&self) -> String {
        let lines = self.lines().into_iter().map(|(label, text)| format!("{label}: {text}\n"));
        format!("{}\n\n{}", self.title(), lines.collect::<String>())
    }

    pub(super) fn severity(&self) -> Severity {
        match &self.kind {
            Kind::Threshold(_, threshold) if *threshold >= 100 => Severity::Critical,
            Kind::Threshold(..) | Kind::Predicted(_) => Severity::Warning,
            Kind::Summary(_) | Kind::Test => Severity::Info,
        }
    }
}

impl Subject {
    /// `tenant acme-corp`, `everybody`.
    fn who(&self) -> String {
        if self.scope == "global" { "everybody".to_owned() } else { format!("{} {}", self.scope, self.scope_id) }
    }

    /// `LLM limit of $50.00 a day`.
    fn rule(&self) -> String {
        format!("{} limit of {}", self.resource_type.to_ascii_uppercase(), self.amount_a_period())
    }

    fn amount_a_period(&self) -> String {
        match self.period {
            Period::Lifetime => format!("{} for ever", self.limit),
            period @ Period::Hour => format!("{} an {period}", self.limit),
            period => format!("{} a {period}", self.limit),
        }
    }

    fn lines(&self, at: DateTime<Utc>) -> Vec<(String, String)> {
        let permille = i128::from(self.spend.nanos()) * 1000 / i128::from(self.limit.nanos().max(1));
        let spend =
            format!("{} of {} ({}.{}%)", cents(self.spend), self.amount_a_period(), permille / 10, permille % 10);
        vec![
            line("Who", self.who()),
            line("Spent", spend),
            line("Since", minute(self.window.start)),
            line(
                "Rate",
                self.an_hour(at).map_or_else(|| "unknown".to_owned(), |rate| format!("{} an hour", cents(rate))),
            ),
            line("Lasts", self.lasts(at)),
            line("Then", self.then()),
        ]
    }

    fn an_hour(&self, at: DateTime<Utc>) -> Option<Money> {
        const HOUR_MS: i128 = 3_600_000;
        let elapsed = i128::from((at - self.window.start).num_milliseconds());
        let nanos = (i128::from(self.spend.nanos()) * HOUR_MS).checked_div(elapsed.max(0))?;
        i64::try_from(nanos).ok().map(Money::from_nanos)
    }

    /// When the limit is reached at the rate so far.
    fn runs_out_at(&self, at: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let elapsed = i128::from((at - self.window.start).num_milliseconds()).max(0);
        let left = i128::from((self.limit - self.spend).nanos());
        let rest = (left * elapsed).checked_div(i128::from(self.spend.nanos()))?;
        at.checked_add_signed(TimeDelta::try_milliseconds(i64::try_from(rest).ok()?)?)
    }

    fn lasts(&self, at: DateTime<Utc>) -> String {
        if self.spend >= self.limit {
            return "it is used up".to_owned();
        }
        match (self.runs_out_at(at), self.window.end) {
            (Some(out), Some(end)) if out >= end => format!("at this rate, until the {} ends", self.period),
            (Some(out), _) => format!("at this rate, until {} ({})", minute(out), duration(out - at)),
            (None, _) => "nothing is spent yet".to_owned(),
        }
    }

    fn then(&self) -> String {
        if !self.enforced {
            return "requests are let through and recorded: quotas are not enforced".to_owned();
        }
        let until = match self.window.end {
            Some(end) => format!("until {}", minute(end)),
            None => "until the limit is raised".to_owned(),
        };
        format!("requests that do not fit are denied with 429 {until}, unless the tier's policy allows more")
    }
}

impl Summary {
    fn lines(&self) -> Vec<(String, String)> {
        let mut lines = vec![
            line("From", minute(self.window.start)),
            line("To", self.window.end.map_or_else(|| "now".to_owned(), minute)),
            line("Spent", self.total.with_trend(self.period)),
        ];
        lines.extend(self.most.iter().map(|share| line(&share.name, share.with_trend(self.period))));
        lines
    }
}

impl Share {
    /// `$30.00, +50.0% against the week before ($20.00)`.
    fn with_trend(&self, period: Period) -> String {
        let (now, before) = (i128::from(self.spend.nanos()), i128::from(self.before.nanos()));
        let Some(permille) = ((now - before) * 1000).checked_div(before) else {
            return format!("{}, nothing in the {period} before", cents(self.spend));
        };
        let sign = if permille < 0 { '-' } else { '+' };
        let (whole, tenth) = (permille.abs() / 10, permille.abs() % 10);
        format!("{}, {sign}{whole}.{tenth}% against the {period} before ({})", cents(self.spend), cents(self.before))
    }
}

fn line(label: &str, text: impl Into<String>) -> (String, String) {
    (label.to_owned(), text.into())
}

fn minute(at: DateTime<Utc>) -> String {
    at.format("%Y-%m-%d %H:%M UTC").to_string()
}

fn duration(of: TimeDelta) -> String {
    let minutes = of.num_minutes();
    match (minutes / 1440, minutes / 60 % 24, minutes % 60) {
        (0, 0, minutes) => format!("in {minutes} min"),
        (0, hours, minutes) => format!("in {hours} h {minutes} min"),
        (days, hours, _) => format!("in {days} d {hours} h"),
    }
}

/// To the cent, towards zero, where there are cents: a rate has nine decimals that nobody wants to read.
fn cents(money: Money) -> Money {
    const CENT: i64 = 10_000_000;
    if money.nanos().abs() < CENT { money } else { Money::from_nanos(money.nanos() / CENT * CENT) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn notice(spend: i64, threshold: i16, at: &str) -> Notice {
        let at = at.parse().expect("an instant");
        let subject = Subject {
            quota_id: Uuid::nil(),
            scope: "tenant".to_owned(),
            scope_id: "acme-corp".to_owned(),
            resource_type: "llm".to_owned(),
            period: Period::Day,
            window: Period::Day.window(at),
            limit: Money::from_nanos(50_000_000_000),
            spend: Money::from_nanos(spend),
            enforced: true,
        };
        Notice { id: Uuid::nil(), at, kind: Kind::Threshold(subject, threshold) }
    }

    #[test]
    fn a_message_says_who_how_much_since_when_how_fast_until_when_and_what_then() {
        assert_eq!(
            notice(40_000_000_000, 80, "2026-01-04T12:00:00Z").text(),
            "tenant acme-corp has used 80% of its LLM limit of $50.00 a day\n\n\
             Who: tenant acme-corp\n\
             Spent: $40.00 of $50.00 a day (80.0%)\n\
             Since: 2026-01-04 00:00 UTC\n\
             Rate: $3.33 an hour\n\
             Lasts: at this rate, until 2026-01-04 15:00 UTC (in 3 h 0 min)\n\
             Then: requests that do not fit are denied with 429 until 2026-01-05 00:00 UTC, unless the tier's policy allows more\n"
        );
    }

    #[test]
    fn what_is_used_up_and_what_outlasts_its_window_is_said_so() {
        let over = notice(51_000_000_000, 100, "2026-01-04T12:00:00Z");
        assert_eq!(over.title(), "tenant acme-corp has used up its LLM limit of $50.00 a day");
        assert!(over.text().contains("Lasts: it is used up"), "{}", over.text());
        let slow = notice(40_000_000_000, 80, "2026-01-04T23:00:00Z").text();
        assert!(slow.contains("Lasts: at this rate, until the day ends"), "{slow}");
        let first = notice(40_000_000_000, 80, "2026-01-04T00:00:00Z").text();
        assert!(first.contains("Rate: unknown"), "{first}");
    }

    #[test]
    fn a_trend_is_said_against_the_window_before() {
        let share = |spend, before| Share {
            name: "acme-corp llm".to_owned(),
            spend: Money::from_nanos(spend),
            before: Money::from_nanos(before),
        };
        for (share, text) in [
            (share(30_000_000_000, 20_000_000_000), "$30.00, +50.0% against the week before ($20.00)"),
            (share(10_000_000_000, 20_000_000_000), "$10.00, -50.0% against the week before ($20.00)"),
            (share(10_000_000_000, 0), "$10.00, nothing in the week before"),
        ] {
            assert_eq!(share.with_trend(Period::Week), text);
        }
    }
}

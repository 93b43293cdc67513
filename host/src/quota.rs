//! Who is charged for what, and how a quota stands.

use std::fmt;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde::{Serialize, Serializer};
use uuid::Uuid;

use crate::money::Money;
use crate::period::{Period, Window};

/// The longest id of a tenant, user or pool, in characters.
const LONGEST_ID: usize = 128;
/// A quota has no more of them.
pub const MOST_THRESHOLDS: usize = 16;

/// Declares a name that was parsed at the door: cheap to clone, nothing to check again.
macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $check:expr) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Reads and checks a name.
            ///
            /// # Errors
            /// A sentence that completes "`field`: …": what would be right, and what was given.
            pub fn parse(text: &str) -> Result<Self, String> {
                let check: fn(&str) -> Result<(), String> = $check;
                check(text).map(|()| Self(text.into()))
            }

            /// The name as it is written.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }
    };
}

name!(
    /// Who is charged: 1 to 128 characters, no control characters.
    TenantId, is_id);
name!(
    /// A tenant's user, without the tenant's name: as a tenant, and no slash.
    UserId, is_user);
name!(
    /// A pool that tenants share.
    PoolId, is_id);
name!(
    /// What is bought: `llm`, `e2b` or any other `[a-z][a-z0-9_-]{0,31}`.
    ResourceType, is_word);
name!(
    /// The name of a customer class, `[a-z][a-z0-9_-]{0,31}`; picks the policy.
    Tier, is_word);

fn is_id(text: &str) -> Result<(), String> {
    // A scope id of its own: everybody.
    if text == "*" {
        return Err("a name; \"*\" is the scope id of the scope global".to_owned());
    }
    let length = text.chars().count();
    if (1..=LONGEST_ID).contains(&length) && !text.chars().any(char::is_control) {
        return Ok(());
    }
    Err(format!("1 to {LONGEST_ID} characters, no control characters, got {length} characters"))
}

fn is_user(text: &str) -> Result<(), String> {
    is_id(text)?;
    if text.contains('/') {
        return Err("no slash: the user's own name, without the tenant's".to_owned());
    }
    Ok(())
}

fn is_word(text: &str) -> Result<(), String> {
    let rest = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-';
    match text.as_bytes() {
        [first, others @ ..] if first.is_ascii_lowercase() && others.len() <= 31 && others.iter().all(|&b| rest(b)) => {
            Ok(())
        }
        _ => Err(format!("a lower-case letter, then up to 31 of a-z, 0-9, _ and -, got {text:?}")),
    }
}

impl ResourceType {
    /// Language model calls.
    pub const LLM: &str = "llm";
    /// Code sandboxes.
    pub const E2B: &str = "e2b";

    /// As messages and log lines write it: `LLM`.
    pub fn upper(&self) -> String {
        self.as_str().to_ascii_uppercase()
    }
}

/// Whose money a quota limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// One tenant.
    Tenant,
    /// One user of a tenant.
    User,
    /// The tenants of a pool together.
    Pool,
    /// Everybody together.
    Global,
}

impl Scope {
    const ALL: [Self; 4] = [Self::Tenant, Self::User, Self::Pool, Self::Global];

    /// As in tables and answers.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tenant => "tenant",
            Self::User => "user",
            Self::Pool => "pool",
            Self::Global => "global",
        }
    }

    /// Checks a scope id: a tenant, a tenant, slash and user, a pool, or `*`.
    ///
    /// # Errors
    /// A sentence that completes "`scopeId`: …".
    pub fn check_id(self, id: &str) -> Result<(), String> {
        match self {
            Self::Tenant => TenantId::parse(id).map(drop),
            Self::Pool => PoolId::parse(id).map(drop),
            Self::Global if id == "*" => Ok(()),
            Self::Global => Err(format!("\"*\" for the scope global, got {id:?}")),
            Self::User => {
                // The user has no slash, so the last one is where the tenant ends.
                let (tenant, user) = id
                    .rsplit_once('/')
                    .ok_or_else(|| format!("tenant, slash and user (acme-corp/u-42), got {id:?}"))?;
                TenantId::parse(tenant)?;
                UserId::parse(user).map(drop)
            }
        }
    }
}

impl std::str::FromStr for Scope {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|scope| scope.as_str() == text)
            .ok_or_else(|| format!("one of tenant, user, pool, global, got {text:?}"))
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What makes a quota the one it is: at most one row for each.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QuotaKey {
    /// Whose money.
    pub scope: Scope,
    /// `acme-corp`, `acme-corp/u-42`, `eu-team`, `*`.
    pub scope_id: Arc<str>,
    /// For what.
    pub resource_type: ResourceType,
    /// How often it starts from zero.
    pub period: Period,
}

/// A limit that ends by itself: an override.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TemporaryLimit {
    /// May be spent in a window.
    pub limit: Money,
    /// From then on the quota's own limit holds again.
    pub until: DateTime<Utc>,
}

/// A quota as its row stands. [`QuotaRow::at`] tells what that means at an instant.
#[derive(Clone, Debug, PartialEq)]
pub struct QuotaRow {
    /// The row.
    pub id: Uuid,
    /// Scope, scope id, resource type, period.
    pub key: QuotaKey,
    /// May be spent in a window.
    pub limit: Money,
    /// Holds instead of `limit` for a time.
    pub temporary: Option<TemporaryLimit>,
    /// Enforced by the host, whatever the policy says.
    pub hard_limit: Option<Money>,
    /// Settled in the row's window.
    pub spend: Money,
    /// Set aside in the row's window.
    pub held: Money,
    /// Operations admitted in the row's window.
    pub admitted: u64,
    /// The instant the row's window started, or one inside it; `None` means the current window.
    pub period_start: Option<DateTime<Utc>>,
    /// Start and total of the newest closed window.
    pub newest_closed: Option<(DateTime<Utc>, Money)>,
}

/// A quota at an instant, in the window that is open then. What a policy sees.
#[derive(Clone, Debug, PartialEq)]
pub struct Quota {
    /// The row.
    pub id: Uuid,
    /// Scope, scope id, resource type, period.
    pub key: QuotaKey,
    /// The open window.
    pub window: Window,
    /// May be spent in a window.
    pub limit: Money,
    /// Enforced by the host, whatever the policy says.
    pub hard_limit: Option<Money>,
    /// Settled in this window.
    pub spend: Money,
    /// Set aside in this window.
    pub held: Money,
    /// The total of the window before this one.
    pub previous_spend: Option<Money>,
    /// Operations admitted in this window.
    pub admitted: u64,
}

impl QuotaRow {
    /// The temporary limit, if it holds at `now`. The database has the same rule in `copilot_internal.limit_at`.
    pub fn temporary_at(&self, now: DateTime<Utc>) -> Option<TemporaryLimit> {
        self.temporary.filter(|temporary| now < temporary.until)
    }

    /// The quota at `now`. Windows only move forward: a row that another host's clock has already
    /// moved on stays where it is.
    pub fn at(&self, now: DateTime<Utc>) -> Quota {
        let period = self.key.period;
        let stored = period.window(self.period_start.unwrap_or(now));
        let current = period.window(now);
        let rolled = stored.start < current.start;
        let window = if rolled { current } else { stored };
        let before = period.window_before(window.start).map(|before| before.start);
        let previous_spend = if rolled && before == Some(stored.start) {
            Some(self.spend)
        } else {
            self.newest_closed.filter(|(start, _)| before == Some(*start)).map(|(_, spend)| spend)
        };
        let in_window = |amount| if rolled { Money::ZERO } else { amount };
        Quota {
            id: self.id,
            key: self.key.clone(),
            window,
            limit: self.temporary_at(now).map_or(self.limit, |temporary| temporary.limit),
            hard_limit: self.hard_limit,
            spend: in_window(self.spend),
            held: in_window(self.held),
            previous_spend,
            admitted: if rolled { 0 } else { self.admitted },
        }
    }
}

/// A window that is over, and what it came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClosedWindow {
    /// Whose.
    pub quota_id: Uuid,
    /// Which.
    pub start: DateTime<Utc>,
    /// Settled in it.
    pub spend: Money,
    /// Still set aside in it.
    pub held: Money,
    /// Operations admitted in it.
    pub admitted: u64,
}

impl QuotaRow {
    /// Sets `amount` aside for an operation admitted at `now`: tells in which window, and the one that this closes.
    pub fn hold(&mut self, now: DateTime<Utc>, amount: Money) -> (DateTime<Utc>, Option<ClosedWindow>) {
        let start = self.at(now).window.start;
        let stored = self.key.period.window(self.period_start.unwrap_or(now)).start;
        let closed = (stored < start).then(|| {
            let closed = ClosedWindow {
                quota_id: self.id,
                start: stored,
                spend: self.spend,
                held: self.held,
                admitted: self.admitted,
            };
            self.newest_closed = Some((stored, self.spend));
            (self.spend, self.held, self.admitted) = (Money::ZERO, Money::ZERO, 0);
            closed
        });
        self.period_start = Some(start);
        // A row counts to the largest amount, which no limit exceeds.
        self.held = (self.held + amount).min(Money::MAX);
        self.admitted += 1;
        (start, closed)
    }
}

impl Quota {
    /// Limit − spend − held; negative after an overrun.
    pub fn remaining(&self) -> Money {
        self.limit - self.spend - self.held
    }

    /// Spend over limit in tenths of a percent, rounded to nearest.
    pub fn utilization_permille(&self) -> i64 {
        let (spend, limit) = (i128::from(self.spend.nanos()), i128::from(self.limit.nanos().max(1)));
        i64::try_from((spend * 2000 + limit) / (limit * 2)).unwrap_or(i64::MAX)
    }

    /// When the window ends, as a sort key: a quota that never resets resets last.
    pub fn resets_at(&self) -> DateTime<Utc> {
        self.window.end.unwrap_or(DateTime::<Utc>::MAX_UTC)
    }
}

#[cfg(test)]
mod tests;

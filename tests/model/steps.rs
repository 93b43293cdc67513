//! What can happen, and how often it is tried.

use proptest::prelude::*;
use proptest::sample::{Index, select};

use super::calendar::{DAY, HOUR, PERIODS, Period};
use super::reference::Key;

const TENANTS: [&str; 3] = ["acme", "globex", "initech"];
const POOLS: [&str; 2] = ["eu", "us"];

/// A request for money.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    pub tenant: &'static str,
    pub user: Option<&'static str>,
    pub resource: &'static str,
    pub id: Option<u8>,
    pub usd: i64,
    /// Seconds.
    pub ttl: i64,
}

/// A cost without a reservation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spent {
    pub tenant: &'static str,
    pub user: Option<&'static str>,
    pub resource: &'static str,
    pub id: u8,
    pub usd: i64,
    /// Milliseconds since the epoch; now where it does not say.
    pub at: Option<i64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Actual {
    Below,
    Equal,
    Above,
    /// What it was settled with before, if it was.
    Same,
}

impl Actual {
    /// What it cost where `usd` was held.
    pub fn of(self, usd: i64) -> i64 {
        match self {
            Self::Below => usd / 2,
            Self::Equal | Self::Same => usd,
            Self::Above => usd + 1_250_000_001,
        }
    }
}

#[derive(Clone, Debug)]
pub enum Step {
    Check(Ask),
    Reserve(Ask),
    /// A request that was sent before, with the same body or with another.
    ReserveAgain {
        which: Index,
        other: bool,
    },
    Settle {
        which: Index,
        actual: Actual,
    },
    Release {
        which: Index,
    },
    Extend {
        which: Index,
        ttl: i64,
    },
    Cost {
        cost: Spent,
        ago: Option<i64>,
    },
    CostAgain {
        which: Index,
        other: bool,
    },
    SetQuota {
        key: Key,
        limit: i64,
        hard: Option<i64>,
    },
    SetLimitBySql {
        which: Index,
        limit: i64,
    },
    AddQuotaBySql {
        key: Key,
        limit: i64,
        spend: i64,
    },
    DeleteQuota {
        which: Index,
        by_sql: bool,
    },
    SetPool {
        tenant: &'static str,
        pool: Option<&'static str>,
        by_sql: bool,
    },
    /// Milliseconds.
    Advance(i64),
    ToNextWindow(Period),
    Expire,
    RollOver,
}

/// A step, and which of two hosts is asked.
#[derive(Clone, Debug)]
pub struct Sent {
    pub step: Step,
    pub host: usize,
}

fn usd() -> impl Strategy<Value = i64> {
    prop_oneof![6 => (0..=16_i64).prop_map(|quarters| quarters * 250_000_000), 1 => 0..=4_000_000_000_i64]
}

fn limit() -> impl Strategy<Value = i64> {
    prop_oneof![5 => (2..=32_i64).prop_map(|quarters| quarters * 250_000_000), 1 => 1..=9_000_000_000_i64]
}

fn tenant() -> impl Strategy<Value = &'static str> {
    prop_oneof![4 => Just(TENANTS[0]), 2 => Just(TENANTS[1]), 1 => Just(TENANTS[2])]
}

fn user() -> impl Strategy<Value = Option<&'static str>> {
    prop_oneof![Just(None), Just(Some("u-1"))]
}

fn resource() -> impl Strategy<Value = &'static str> {
    prop_oneof![9 => Just("llm"), 1 => Just("e2b")]
}

fn ask() -> impl Strategy<Value = Ask> {
    let id = prop_oneof![2 => Just(None), 1 => any::<u8>().prop_map(Some)];
    (tenant(), user(), resource(), id, usd(), select(vec![60_i64, 300, 300, 4_000, 86_400]))
        .prop_map(|(tenant, user, resource, id, usd, ttl)| Ask { tenant, user, resource, id, usd, ttl })
}

fn spent() -> impl Strategy<Value = Spent> {
    (tenant(), user(), resource(), any::<u8>(), usd()).prop_map(|(tenant, user, resource, id, usd)| Spent {
        tenant,
        user,
        resource,
        id,
        usd,
        at: None,
    })
}

fn key() -> impl Strategy<Value = Key> {
    let whose = prop_oneof![
        3 => Just(("tenant", "acme")),
        2 => Just(("tenant", "globex")),
        2 => Just(("user", "acme/u-1")),
        2 => Just(("pool", "eu")),
        1 => Just(("pool", "us")),
        2 => Just(("global", "*")),
    ];
    (whose, resource(), select(PERIODS.to_vec()))
        .prop_map(|((scope, id), resource, period)| (scope, id, resource, period))
}

fn step() -> impl Strategy<Value = Step> {
    let which = any::<Index>;
    let actual = select(vec![Actual::Below, Actual::Equal, Actual::Equal, Actual::Above, Actual::Same]);
    let ago = prop_oneof![2 => Just(None), 3 => select(vec![0, 60_000, HOUR, DAY, 8 * DAY, 40 * DAY]).prop_map(Some)];
    let pool = prop_oneof![1 => Just(None), 2 => select(POOLS.to_vec()).prop_map(Some)];
    let money = prop_oneof![
        1 => ask().prop_map(Step::Check),
        10 => ask().prop_map(Step::Reserve),
        3 => (which(), prop::bool::weighted(0.25)).prop_map(|(which, other)| Step::ReserveAgain { which, other }),
        8 => (which(), actual).prop_map(|(which, actual)| Step::Settle { which, actual }),
        3 => which().prop_map(|which| Step::Release { which }),
        2 => (which(), select(vec![1_i64, 600, 86_400])).prop_map(|(which, ttl)| Step::Extend { which, ttl }),
        4 => (spent(), ago).prop_map(|(cost, ago)| Step::Cost { cost, ago }),
        1 => (which(), prop::bool::weighted(0.25)).prop_map(|(which, other)| Step::CostAgain { which, other }),
    ];
    let rules = prop_oneof![
        2 => (key(), limit(), prop::option::weighted(0.2, limit()))
            .prop_map(|(key, limit, hard)| Step::SetQuota { key, limit, hard }),
        2 => (which(), limit()).prop_map(|(which, limit)| Step::SetLimitBySql { which, limit }),
        1 => (key(), limit(), usd()).prop_map(|(key, limit, spend)| Step::AddQuotaBySql { key, limit, spend }),
        1 => (which(), any::<bool>()).prop_map(|(which, by_sql)| Step::DeleteQuota { which, by_sql }),
        1 => (tenant(), pool, any::<bool>()).prop_map(|(tenant, pool, by_sql)| Step::SetPool { tenant, pool, by_sql }),
    ];
    let time = prop_oneof![
        3 => select(vec![1_i64, 30_000, 60_000, 300_000, 3_000_000]).prop_map(Step::Advance),
        2 => select(vec![Period::Hour, Period::Hour, Period::Day, Period::Week, Period::Month]).prop_map(Step::ToNextWindow),
        1 => Just(Step::Expire),
        1 => Just(Step::RollOver),
    ];
    prop_oneof![8 => money, 2 => rules, 2 => time]
}

pub fn sent() -> impl Strategy<Value = Sent> {
    (step(), 0..2_usize).prop_map(|(step, host)| Sent { step, host })
}

/// The time, the first quotas with their limits, and the tenants that are in a pool.
pub type Beginning = (i64, Vec<(Key, i64)>, Vec<(&'static str, &'static str)>);

/// Where a story begins.
pub fn beginning() -> impl Strategy<Value = Beginning> {
    // 2026-01-31T23:40Z (Saturday), 2028-02-28T22:59:30Z (a leap year), 2026-12-31T12:00Z, 2026-01-04T23:50Z (Sunday).
    let hours = select(vec![1_769_902_800_000_i64, 1_835_391_570_000, 1_798_718_400_000, 1_767_570_600_000]);
    let pools = Just(vec![("acme", "eu"), ("globex", "eu")]);
    (hours, prop::collection::vec((key(), limit()), 2..6), pools)
}

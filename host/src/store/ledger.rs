//! The ledger's arithmetic in SQL: what every statement that moves settled or held money has in common.
//!
//! Each such statement locks in one order, quotas by id, then reservations, then closed windows, then alerts, so that
//! hosts wait for each other and never deadlock. Rows to lock are named by an array, never by a join: PostgreSQL evaluates
//! a join again for a row that it had to wait for, and drops the row where a UNION ALL is in it. Its first part finds the quotas, locks them as `locked`, writes its
//! own records, and says what to charge as `charge (id, window_start, usd, freed, operations)`. Then:
//!
//! 1. `stood`: each locked quota is brought to the window that is open now;
//! 2. `post`: each charge goes to its window: the open one in the quota's row, an older one in the closed windows (an
//!    upsert: another host may have closed it after our snapshot was taken), and each threshold at which the open
//!    window now stands becomes an alert row. A window counts to the largest amount, which no limit exceeds, and stays
//!    there: what a quota cannot count must not keep an actual out of the books.

use sqlx::Row as _;
use sqlx::postgres::PgRow;

use crate::money::Money;
use crate::quota::{QuotaKey, QuotaRow, ResourceType, TemporaryLimit};

/// `applies`, `locked`: the quotas of each operation of `s`, and all of them, locked in the order of their ids.
macro_rules! lock_what_applies {
    () => {
        concat!(
            "applies AS MATERIALIZED (
                 SELECT s.id AS operation, q.id AS quota
                 FROM s ",
            its_tenant!(),
            " CROSS JOIN LATERAL (",
            quotas_that_apply!(),
            ") AS q
             ), locked AS MATERIALIZED (
                 SELECT * FROM copilot_internal.cost_quotas q
                 WHERE q.id = ANY (ARRAY(SELECT quota FROM applies))
                 ORDER BY q.id FOR UPDATE
             )"
        )
    };
}

/// `stood`: the locked rows, with `was`, the window in which they stand, and `window_start`, the one that is open.
macro_rules! stood {
    ($now:literal) => {
        concat!(
            "stood AS MATERIALIZED (
                 SELECT locked.*, was.window_start AS was,
                        greatest(was.window_start, copilot_internal.window_start(period, ",
            $now,
            ")) AS window_start
                 FROM locked, LATERAL (
                     SELECT copilot_internal.window_start(period, coalesce(period_start, ",
            $now,
            ")) AS window_start
                 ) AS was
             )"
        )
    };
}

/// `closed`, `stands`, `updated`, `alerted`: posts every charge. `stands` is how the quotas stand afterwards.
macro_rules! post {
    ($now:literal) => {
        concat!(
            "late AS MATERIALIZED (
                 SELECT id, was AS window_start, current_spend_usd AS usd, held_usd AS held, admitted_count AS operations
                 FROM stood WHERE was < window_start
                 UNION ALL
                 SELECT charge.id, charge.window_start, charge.usd, -charge.freed, charge.operations
                 FROM charge JOIN stood USING (id) WHERE charge.window_start < stood.window_start
             ), closed AS (
                 INSERT INTO copilot_internal.cost_quota_periods AS p
                     (quota_id, window_start, scope, scope_id, resource_type, period, limit_usd, spend_usd, held_usd, admitted_count)
                 SELECT late.id, late.window_start, q.scope, q.scope_id, q.resource_type, q.period, q.limit_usd,
                        least(sum(late.usd), 1000000000), least(greatest(sum(late.held), 0), 1000000000), sum(late.operations)
                 FROM late JOIN stood AS q USING (id)
                 GROUP BY late.id, late.window_start, q.scope, q.scope_id, q.resource_type, q.period, q.limit_usd
                 ORDER BY 1, 2
                 ON CONFLICT (quota_id, window_start) DO UPDATE
                 SET spend_usd = least(p.spend_usd + excluded.spend_usd, 1000000000),
                     -- Not excluded.held_usd: a row that is proposed must not be below zero, but what it takes away is.
                     held_usd = least(greatest(p.held_usd + (
                         SELECT sum(late.held) FROM late
                         WHERE late.id = excluded.quota_id AND late.window_start = excluded.window_start), 0), 1000000000),
                     admitted_count = p.admitted_count + excluded.admitted_count
             ), stands AS MATERIALIZED (
                 SELECT q.id, q.scope, q.scope_id, q.resource_type, q.period, q.limit_usd, q.hard_limit_usd, q.thresholds,
                        q.override_limit_usd, q.override_until,
                        copilot_internal.limit_at(q.limit_usd, q.override_limit_usd, q.override_until, ",
            $now,
            ") AS limit_now,
                        q.window_start, charge.id IS NOT NULL AS is_charged,
                        EXISTS (SELECT FROM late WHERE late.id = q.id) AS closed_changed,
                        least(CASE WHEN q.was < q.window_start THEN 0 ELSE q.current_spend_usd END
                            + coalesce(charge.usd, 0), 1000000000) AS spend_usd,
                        -- Whoever has set what is held to less by hand must not keep an actual out of the books.
                        least(greatest(CASE WHEN q.was < q.window_start THEN 0 ELSE q.held_usd END
                            - coalesce(charge.freed, 0), 0), 1000000000) AS held_usd,
                        CASE WHEN q.was < q.window_start THEN 0 ELSE q.admitted_count END
                            + coalesce(charge.operations, 0) AS admitted_count
                 FROM stood AS q LEFT JOIN charge ON charge.id = q.id AND charge.window_start = q.window_start
             ), updated AS (
                 UPDATE copilot_internal.cost_quotas q
                 SET current_spend_usd = stands.spend_usd, held_usd = stands.held_usd,
                     admitted_count = stands.admitted_count, period_start = stands.window_start, updated_at = ",
            $now,
            "    FROM stands WHERE q.id = stands.id
             ), alerted AS (",
            insert_alerts!("(SELECT * FROM stands WHERE is_charged)", $now),
            ")"
        )
    };
}

/// How a quota stands after a posting, as [`posted`] reads it.
macro_rules! stands_columns {
    () => {
        "stands.id, stands.scope, stands.scope_id, stands.resource_type, stands.period,
         (stands.limit_usd * 1000000000)::bigint, (stands.hard_limit_usd * 1000000000)::bigint,
         (stands.spend_usd * 1000000000)::bigint, (stands.held_usd * 1000000000)::bigint, stands.admitted_count,
         stands.window_start, stands.closed_changed,
         (stands.override_limit_usd * 1000000000)::bigint, stands.override_until"
    };
}

pub(super) use super::quotas::insert_alerts;
pub(super) use super::subjects::{its_tenant, quotas_that_apply};
pub(super) use {lock_what_applies, post, stands_columns, stood};

/// A quota after a posting.
#[derive(Clone, Debug, PartialEq)]
pub struct Posted {
    /// The row; its newest closed window is not told.
    pub row: QuotaRow,
    /// A closed window of it changed, or one was closed.
    pub closed_changed: bool,
}

/// Reads [`stands_columns`] from column `first` on; `None` where the operation touched no quota.
pub(super) fn posted(row: &PgRow, first: usize) -> Result<Option<Posted>, sqlx::Error> {
    let Some(id) = row.try_get(first)? else { return Ok(None) };
    let unknown = |fault: String| sqlx::Error::Decode(fault.into());
    let money = |column: usize| row.try_get::<i64, _>(first + column).map(Money::from_nanos);
    let limit = row.try_get::<Option<i64>, _>(first + 12)?.map(Money::from_nanos);
    let until = row.try_get(first + 13)?;
    Ok(Some(Posted {
        row: QuotaRow {
            id,
            key: QuotaKey {
                scope: row.try_get::<&str, _>(first + 1)?.parse().map_err(unknown)?,
                scope_id: row.try_get::<&str, _>(first + 2)?.into(),
                resource_type: ResourceType::parse(row.try_get(first + 3)?).map_err(unknown)?,
                period: row.try_get::<&str, _>(first + 4)?.parse().map_err(unknown)?,
            },
            limit: money(5)?,
            temporary: limit.zip(until).map(|(limit, until)| TemporaryLimit { limit, until }),
            hard_limit: row.try_get::<Option<i64>, _>(first + 6)?.map(Money::from_nanos),
            spend: money(7)?,
            held: money(8)?,
            admitted: u64::try_from(row.try_get::<i64, _>(first + 9)?).unwrap_or_default(),
            period_start: row.try_get(first + 10)?,
            newest_closed: None,
        },
        closed_changed: row.try_get(first + 11)?,
    }))
}

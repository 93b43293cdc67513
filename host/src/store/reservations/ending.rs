//! What ends reservations: settle, release, expire.

use chrono::{DateTime, Utc};
use sqlx::Row as _;
use sqlx::postgres::PgConnection;
use uuid::Uuid;

use super::{RESERVATION_COLUMNS, Reservation, reservation, reservation_columns};
use crate::money::Money;
use crate::quota::TenantId;
use crate::store::ledger::{Posted, insert_alerts, post, posted, stands_columns, stood};
use crate::store::subjects::{its_tenant, quotas_that_apply};
use crate::store::{Link, StoreError, column};

/// What ends a reservation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The operation is over and cost this much.
    Settle(Money),
    /// The operation did not take place.
    Release,
    /// Its time is over.
    Expire,
}

/// One reservation to end.
#[derive(Clone, Debug)]
pub struct Ending {
    /// Which one.
    pub id: Uuid,
    /// Whose.
    pub tenant: TenantId,
    /// How.
    pub end: End,
    /// When that was asked for, or was due.
    pub at: DateTime<Utc>,
}

/// What an ending came to.
#[derive(Clone, Debug, PartialEq)]
pub struct Ended {
    /// The reservation before it.
    pub before: Reservation,
    /// It changed something now; otherwise the reservation had ended before.
    pub now: bool,
    /// It came after release or expiry, or after the time of expiry.
    pub late: bool,
    /// The quotas that hold it, or held it, as they stand now.
    pub quotas: Vec<Posted>,
}

const END: &str = concat!(
    "WITH op AS MATERIALIZED (
         SELECT * FROM unnest($1::uuid[], $2::text[], $3::text[], $4::bigint[], $6::timestamptz[])
              AS op (id, tenant_id, kind, nanos, at)
     ), s AS MATERIALIZED (
         -- A look for each: planned while the table was empty, a join would read all of it ever after.
         SELECT op.kind, op.at, r.*
         FROM op CROSS JOIN LATERAL (
             SELECT r.id, r.tenant_id, r.user_id, r.resource_type, r.quota_ids, r.window_starts
             FROM copilot_internal.reservations r WHERE r.id = op.id AND r.tenant_id = op.tenant_id LIMIT 1
         ) AS r
     ), hold AS MATERIALIZED (
         SELECT s.id AS reservation, h.quota, h.window_start
         FROM s, unnest(s.quota_ids, s.window_starts) AS h (quota, window_start)
     ), newcomer AS MATERIALIZED (
         SELECT s.id AS reservation, q.id AS quota, s.at
         FROM s ",
    its_tenant!(),
    " CROSS JOIN LATERAL (",
    quotas_that_apply!(),
    ") AS q
         WHERE s.kind = 'settle' AND q.id <> ALL (s.quota_ids)
     ), touched AS MATERIALIZED (
         SELECT reservation, quota FROM hold UNION ALL SELECT reservation, quota FROM newcomer
     ), locked AS MATERIALIZED (
         SELECT * FROM copilot_internal.cost_quotas q
         WHERE q.id = ANY (ARRAY(SELECT quota FROM touched))
         ORDER BY q.id FOR UPDATE
     ), prior AS MATERIALIZED (
         SELECT r.* FROM copilot_internal.reservations r
         -- Counting makes the quotas' locks come first.
         WHERE r.id = ANY (ARRAY(SELECT id FROM s)) AND (SELECT count(*) FROM locked) >= 0
         ORDER BY r.id FOR UPDATE
     ), effective AS MATERIALIZED (
         SELECT op.kind, op.at, op.nanos * 0.000000001 AS actual, prior.id, prior.state, prior.held_usd,
                prior.state <> 'held' OR prior.expires_at <= op.at AS late
         FROM op JOIN prior USING (id)
         WHERE CASE op.kind
             WHEN 'settle' THEN prior.state <> 'settled'
             WHEN 'release' THEN prior.state = 'held' AND prior.expires_at > op.at
             ELSE prior.state = 'held' AND prior.expires_at <= op.at
         END
     ), ended AS (
         UPDATE copilot_internal.reservations r
         SET state = CASE e.kind WHEN 'settle' THEN 'settled' WHEN 'release' THEN 'released' ELSE 'expired' END,
             actual_usd = CASE e.kind WHEN 'settle' THEN e.actual END,
             late = e.kind = 'settle' AND e.late,
             ended_at = coalesce(r.ended_at, e.at),
             settled_at = CASE e.kind WHEN 'settle' THEN e.at END
         FROM effective e WHERE r.id = e.id
     ), ",
    stood!("$5"),
    ", charge AS MATERIALIZED (
         SELECT id, window_start, sum(usd) AS usd, sum(freed) AS freed, 0::bigint AS operations
         FROM (
             SELECT stood.id, least(hold.window_start, stood.window_start) AS window_start,
                    coalesce(e.actual, 0) AS usd, CASE e.state WHEN 'held' THEN e.held_usd ELSE 0 END AS freed
             FROM effective e JOIN hold ON hold.reservation = e.id JOIN stood ON stood.id = hold.quota
             UNION ALL
             -- In the window of its time: it may come from an outage that was over a window later.
             SELECT stood.id,
                    least(stood.window_start, copilot_internal.window_start(stood.period, newcomer.at)), e.actual, 0
             FROM effective e JOIN newcomer ON newcomer.reservation = e.id JOIN stood ON stood.id = newcomer.quota
         ) AS each
         GROUP BY 1, 2
     ), orphan AS MATERIALIZED (
         -- Holds of a quota that was deleted: its closed window waits for what they come to.
         SELECT hold.quota, hold.window_start, sum(coalesce(e.actual, 0)) AS usd,
                sum(CASE e.state WHEN 'held' THEN e.held_usd ELSE 0 END) AS freed
         FROM effective e JOIN hold ON hold.reservation = e.id
         WHERE hold.quota NOT IN (SELECT id FROM locked)
         GROUP BY 1, 2
     ), orphans AS MATERIALIZED (
         SELECT quota_id FROM copilot_internal.cost_quota_periods
         WHERE quota_id = ANY (ARRAY(SELECT quota FROM orphan))
         ORDER BY quota_id, window_start FOR UPDATE
     ), orphaned AS (
         UPDATE copilot_internal.cost_quota_periods p
         SET spend_usd = least(p.spend_usd + orphan.usd, 1000000000), held_usd = greatest(p.held_usd - orphan.freed, 0)
         FROM orphan
         WHERE p.quota_id = orphan.quota AND p.window_start = orphan.window_start
           AND (SELECT count(*) FROM orphans) > 0
     ), ",
    post!("$5"),
    " SELECT e.id IS NOT NULL, coalesce(e.late, false), ",
    reservation_columns!(),
    ", ",
    stands_columns!(),
    " FROM prior AS r LEFT JOIN effective e ON e.id = r.id
      LEFT JOIN touched ON touched.reservation = r.id
      LEFT JOIN stands ON stands.id = touched.quota",
);

async fn end(connection: &mut PgConnection, endings: &[Ending], now: DateTime<Utc>) -> Result<Vec<Ended>, StoreError> {
    let rows = sqlx::query(END)
        .bind(column(endings, |ending| ending.id))
        .bind(column(endings, |ending| ending.tenant.as_str()))
        .bind(
            endings
                .iter()
                .map(|ending| match ending.end {
                    End::Settle(_) => "settle",
                    End::Release => "release",
                    End::Expire => "expire",
                })
                .collect::<Vec<_>>(),
        )
        .bind(
            endings
                .iter()
                .map(|ending| match ending.end {
                    End::Settle(actual) => Some(actual.nanos()),
                    End::Release | End::Expire => None,
                })
                .collect::<Vec<_>>(),
        )
        .bind(now)
        .bind(column(endings, |ending| ending.at))
        .fetch_all(connection)
        .await?;
    let mut ended: Vec<Ended> = Vec::with_capacity(endings.len());
    let mut places = std::collections::HashMap::new();
    for row in &rows {
        let before = reservation(row, 2)?;
        let place = *places.entry(before.id).or_insert(ended.len());
        if place == ended.len() {
            ended.push(Ended { before, now: row.try_get(0)?, late: row.try_get(1)?, quotas: Vec::new() });
        }
        ended[place].quotas.extend(posted(row, 2 + RESERVATION_COLUMNS)?);
    }
    for each in &mut ended {
        each.quotas.sort_by(|a, b| a.row.key.cmp(&b.row.key));
    }
    Ok(ended)
}

impl Link {
    /// Ends reservations, each at most once, in one transaction; answers in no order. An ending whose reservation is
    /// not there has no answer. No reservation may be named twice in one call. Each ends at its own time; `now` says
    /// which windows are open.
    ///
    /// # Errors
    /// The database does not answer, or a constraint does not hold; then nothing was changed.
    pub async fn end(&mut self, endings: &[Ending], now: DateTime<Utc>) -> Result<Vec<Ended>, StoreError> {
        let mut connection = self.take().await?;
        let ended = self.guard(end(&mut connection, endings, now)).await;
        self.give_back(connection, ended)
    }
}

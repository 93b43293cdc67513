//! The checker: the books against what was answered, and against themselves.

use std::collections::HashMap;

use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions as _, PgConnection};

use super::report::Report;
use super::workload::Answered;
use crate::harness::until;

/// Micro-dollars of each, under the ids that the applications know.
const COSTS: &str = "SELECT cost_id, (actual_usd * 1000000)::bigint FROM copilot_internal.cost_records";
const SETTLES: &str =
    "SELECT id::text, (actual_usd * 1000000)::bigint FROM copilot_internal.reservations WHERE state = 'settled'";
/// Windows that still hold something, the open ones and the closed ones.
const HELD: &str = "SELECT (SELECT count(*) FROM copilot_internal.cost_quotas WHERE held_usd <> 0)
                         + (SELECT count(*) FROM copilot_internal.cost_quota_periods WHERE held_usd <> 0)";
/// Whichever of its windows a cost went to: all of them together are all costs of the tenant.
const DIFFER: &str = "
    SELECT count(*) FROM copilot_internal.cost_quotas q
    WHERE current_spend_usd
          + coalesce((SELECT sum(spend_usd) FROM copilot_internal.cost_quota_periods p WHERE p.quota_id = q.id), 0)
       <> coalesce((SELECT sum(actual_usd) FROM copilot_internal.cost_records c WHERE c.tenant_id = q.scope_id), 0)
          + coalesce((SELECT sum(actual_usd) FROM copilot_internal.reservations r WHERE r.tenant_id = q.scope_id), 0)";
/// Of the quotas by the hour: one for each that a clock was in, if something was spent in it.
const HOURS: &str = "
    SELECT count(DISTINCT window_start) FROM (
        SELECT window_start, spend_usd FROM copilot_internal.cost_quota_periods WHERE period = 'hour'
        UNION ALL SELECT period_start, current_spend_usd FROM copilot_internal.cost_quotas WHERE period = 'hour'
    ) AS windows (window_start, spend) WHERE spend > 0";
const OPEN: &str = "SELECT count(*) FROM copilot_internal.reservations WHERE state = 'held'";

/// Hours in which something was spent.
pub async fn hours(store: &PgConnectOptions) -> usize {
    count(&mut store.connect().await.expect("a connection"), HOURS).await
}

pub async fn check(store: &PgConnectOptions, answered: &Answered, report: &mut Report) {
    let mut connection = store.connect().await.expect("a connection");
    for (what, told, rows) in [("costs", &answered.costs, COSTS), ("settles", &answered.settles, SETTLES)] {
        let rows: Vec<(String, i64)> = sqlx::query_as(rows).fetch_all(&mut connection).await.expect(what);
        let books: HashMap<&str, i64> = rows.iter().map(|(id, micros)| (id.as_str(), *micros)).collect();
        let is_booked = |id: &str, micros| books.get(id).is_some_and(|booked| i64::try_from(micros) == Ok(*booked));
        let lost = told.iter().filter(|(id, micros)| !is_booked(id, **micros));
        report.check(&format!("acknowledged {what} that are not in the books"), lost.count());
        report.check(&format!("{what} that are in the books twice"), rows.len() - books.len());
        let invented = books.keys().filter(|id| !told.contains_key(**id));
        report.check(&format!("{what} in the books that nobody was told of"), invented.count());
        report.count(what, rows.len());
    }
    report.count("reservations", answered.reservations);
    report.count("answers while the store could not be reached", answered.degraded);
    until("nothing is held any more", || async {
        let mut connection = store.connect().await.expect("a connection");
        count(&mut connection, HELD).await == 0
    })
    .await;
    report.check("quotas whose windows are not the sum of their rows", count(&mut connection, DIFFER).await);
    report.check("reservations that have not ended", count(&mut connection, OPEN).await);
}

async fn count(connection: &mut PgConnection, sql: &'static str) -> usize {
    let count: i64 = sqlx::query_scalar(sql).fetch_one(connection).await.expect("a number");
    usize::try_from(count).expect("a count")
}

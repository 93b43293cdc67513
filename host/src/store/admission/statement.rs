//! The statements of an admission. Their parameters are bound in `admission.rs`, in the order of their numbers.

use crate::store::subjects::{its_tenant, newest_closed, quotas_that_apply};

/// No request id is there already.
macro_rules! first_time {
    () => {
        "AND NOT EXISTS (
                SELECT FROM generate_series(1, cardinality($29::text[])) AS i, LATERAL (
                    SELECT FROM copilot_internal.reservations r
                    WHERE r.tenant_id = ($2)[($28::bigint[])[i]] AND r.request_id = ($29)[i] AND r.request_id IS NOT NULL
                    LIMIT 1
                ) AS there)"
    };
}

/// Two hosts that were sent the same request ids wait for each other, and do not deadlock.
macro_rules! in_order {
    () => {
        " ORDER BY ($2)[($28::bigint[])[i]], ($29::text[])[i] "
    };
}

/// Keeps the totals of windows that are closed now.
macro_rules! closing {
    () => {
        "), closed AS (
         INSERT INTO copilot_internal.cost_quota_periods AS p
             (quota_id, window_start, scope, scope_id, resource_type, period, limit_usd, spend_usd, held_usd, admitted_count)
         SELECT q.id, w.window_start, q.scope, q.scope_id, q.resource_type, q.period, q.limit_usd,
                w.spend * 0.000000001, w.held * 0.000000001, w.admitted
         FROM unnest($22::uuid[], $23::timestamptz[], $24::bigint[], $25::bigint[], $26::bigint[])
              AS w (id, window_start, spend, held, admitted)
         JOIN locked q USING (id)
         WHERE (SELECT ok FROM same)
         ORDER BY 1, 2
         ON CONFLICT (quota_id, window_start) DO UPDATE
         SET spend_usd = least(p.spend_usd + excluded.spend_usd, 1000000000),
             held_usd = least(p.held_usd + excluded.held_usd, 1000000000),
             admitted_count = p.admitted_count + excluded.admitted_count
     "
    };
}

/// Commits an admission if the rows, all of them and every value, are those that the policies saw, and no request id
/// is there already. Tells whether it did.
///
/// Arrays are read by index: `unnest` would make a table of each of them. Quotas come in the order of their ids, in which
/// `width_bucket` finds each by halves; what applies comes by subject and id. No table is joined with a list that the
/// planner cannot count: see `its_tenant`.
/// What few batches need is left out of the others: a statement's parts cost by the mere being there.
macro_rules! admit {
    ($first_time:expr, $in_order:expr, $closing:expr) => {
        concat!(
            "WITH s AS MATERIALIZED (
         SELECT s.*, t.tier, t.pool
         FROM (SELECT n, ($2::text[])[n] AS tenant_id, ($3::text[])[n] AS user_id, ($4::text[])[n] AS resource_type
               FROM generate_series(1, cardinality($2)) AS n) AS s ",
            its_tenant!(),
            "
     ), locked AS MATERIALIZED (
         SELECT * FROM copilot_internal.cost_quotas q WHERE q.id = ANY ($9) ORDER BY q.id FOR UPDATE
     ), applying AS MATERIALIZED (
         SELECT s.n::bigint AS n, q.id AS quota FROM s CROSS JOIN LATERAL (SELECT s.pool) AS t CROSS JOIN LATERAL (",
            quotas_that_apply!(),
            ") AS q ORDER BY 1, 2
     ), same AS MATERIALIZED (
         SELECT (SELECT count(*) FROM (SELECT *, width_bucket(id, $9) AS i FROM locked) AS q ",
            newest_closed!(),
            "           WHERE (q.id, q.period, (q.limit_usd * 1000000000)::bigint, (q.hard_limit_usd * 1000000000)::bigint,
                       (q.current_spend_usd * 1000000000)::bigint, (q.held_usd * 1000000000)::bigint, q.admitted_count,
                       q.period_start, closed.window_start, (closed.spend_usd * 1000000000)::bigint,
                       (q.override_limit_usd * 1000000000)::bigint, q.override_until)
                      IS NOT DISTINCT FROM
                      (($9::uuid[])[q.i], ($43::text[])[q.i], ($10::bigint[])[q.i], ($11::bigint[])[q.i],
                       ($12::bigint[])[q.i], ($13::bigint[])[q.i], ($14::bigint[])[q.i],
                       ($15::timestamptz[])[q.i], ($16::timestamptz[])[q.i], ($17::bigint[])[q.i],
                       ($41::bigint[])[q.i], ($42::timestamptz[])[q.i])) = cardinality($9)
            AND NOT EXISTS (
                SELECT FROM s WHERE (s.tier, s.pool) IS DISTINCT FROM (($5::text[])[s.n], ($6::text[])[s.n]))
            AND ARRAY(SELECT n FROM applying) = $7::bigint[] AND ARRAY(SELECT quota FROM applying) = $8::uuid[]
            ",
            $first_time,
            " AS ok
     ), reserved AS (
         INSERT INTO copilot_internal.reservations
             (id, tenant_id, user_id, resource_type, request_id, body, estimate_usd, held_usd, created_at, expires_at,
              quota_ids, window_starts, policy_name, policy_digest)
         SELECT ($27::uuid[])[i], ($2)[($28::bigint[])[i]], ($3)[($28)[i]], ($4)[($28)[i]],
                ($29::text[])[i], ($30::text[])[i],
                ($31::bigint[])[i] * 0.000000001, ($32::bigint[])[i] * 0.000000001,
                ($33::timestamptz[])[i], ($34::timestamptz[])[i],
                ($37::uuid[])[($35::bigint[])[i] : ($36::bigint[])[i]],
                ($38::timestamptz[])[($35)[i] : ($36)[i]], ($39::text[])[i], ($40::text[])[i]
         FROM generate_series(1, cardinality($27)) AS i WHERE (SELECT ok FROM same)
     ",
            $in_order,
            $closing,
            "     ), updated AS (
         UPDATE copilot_internal.cost_quotas q
         SET current_spend_usd = ($18::bigint[])[width_bucket(id, $9)] * 0.000000001,
             held_usd = ($19::bigint[])[width_bucket(id, $9)] * 0.000000001,
             admitted_count = ($20::bigint[])[width_bucket(id, $9)],
             period_start = ($21::timestamptz[])[width_bucket(id, $9)], updated_at = $1
         WHERE q.id = ANY ($9) AND (SELECT ok FROM same)
     )
     SELECT ok FROM same",
        )
    };
}

/// The statement for a batch that closes windows or not, of requests with ids or not.
pub(super) const fn admit(closes: bool, has_ids: bool) -> &'static str {
    match (has_ids, closes) {
        (false, false) => admit!("", "", ""),
        (false, true) => admit!("", "", closing!()),
        (true, false) => admit!(first_time!(), in_order!(), ""),
        (true, true) => admit!(first_time!(), in_order!(), closing!()),
    }
}

/// How a subject stands, its rows locked until the transaction ends. Must be the transaction's first statement.
pub(super) const LOCK: &str = concat!(
    "WITH s AS MATERIALIZED (
         SELECT * FROM unnest($1::text[], $2::text[], $3::text[]) WITH ORDINALITY AS s (tenant_id, user_id, resource_type, n)
     ), applies AS MATERIALIZED (
         SELECT s.n, q.id FROM s ",
    its_tenant!(),
    " CROSS JOIN LATERAL (",
    quotas_that_apply!(),
    ") AS q
     )
     SELECT q.id FROM copilot_internal.cost_quotas q WHERE q.id = ANY (ARRAY(SELECT id FROM applies)) ORDER BY q.id FOR UPDATE"
);

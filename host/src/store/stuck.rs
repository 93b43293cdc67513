//! Rows that somebody else has and does not let go of: who would wait for one, so that nobody else of his batch does.

use sqlx::Row as _;
use uuid::Uuid;

use super::subjects::{Subject, columns, its_tenant, quotas_that_apply};
use super::{Store, StoreError, column};

/// What an operation is about to lock the quotas of.
#[derive(Clone, Debug, PartialEq)]
pub enum Wanted {
    /// Those that apply to it.
    Subject(Subject),
    /// Those that a reservation holds, and those that apply to it now.
    Reservation(Uuid),
}

const STUCK: &str = concat!(
    "WITH s AS MATERIALIZED (
         SELECT n, ($1::text[])[n] AS tenant_id, ($2::text[])[n] AS user_id, ($3::text[])[n] AS resource_type,
                '{}'::uuid[] AS quota_ids, NULL AS blocker
         FROM generate_series(1, cardinality($1)) AS n
         UNION ALL
         SELECT cardinality($1) + n, r.tenant_id, r.user_id, r.resource_type, r.quota_ids, r.blocker
         FROM generate_series(1, cardinality($4)) AS n CROSS JOIN LATERAL (
             SELECT r.*, r.xmax::text AS blocker FROM copilot_internal.reservations r WHERE r.id = ($4::uuid[])[n] LIMIT 1
         ) AS r
     ), wanted AS MATERIALIZED (
         SELECT quota.n, q.blocker
         FROM (
             SELECT s.n, q.id FROM s ",
    its_tenant!(),
    " CROSS JOIN LATERAL (",
    quotas_that_apply!(),
    ") AS q
             UNION ALL
             SELECT s.n, held.id FROM s, unnest(s.quota_ids) AS held (id)
         ) AS quota CROSS JOIN LATERAL (
             SELECT q.xmax::text AS blocker FROM copilot_internal.cost_quotas q WHERE q.id = quota.id LIMIT 1
         ) AS q
         UNION ALL
         SELECT s.n, s.blocker FROM s WHERE s.blocker IS NOT NULL
     ), waiting AS MATERIALIZED (
         SELECT l.transactionid::text AS blocker FROM pg_locks l JOIN pg_locks w ON w.pid = l.pid AND NOT w.granted
         WHERE l.locktype = 'transactionid' AND l.granted AND l.transactionid IS NOT NULL
     ), newest AS MATERIALIZED (
         SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint AS id
     ), blocking AS MATERIALIZED (
         -- A row names 32 bits of the transaction, which may be one within another that has no lock of its own any more.
         SELECT h.blocker
         FROM (SELECT DISTINCT blocker FROM wanted WHERE blocker <> '0') AS h, newest
         WHERE pg_xact_status(
                   greatest(newest.id - (newest.id - h.blocker::bigint + 4294967296) % 4294967296, 0)::text::xid8
               ) = 'in progress'
           AND h.blocker NOT IN (SELECT blocker FROM waiting)
     )
     SELECT n, min(blocker) FROM wanted WHERE blocker IN (SELECT blocker FROM blocking) GROUP BY n"
);

impl Store {
    /// For each of `wanted`, in their order, a transaction that has one of its rows and waits for nobody itself. Others let
    /// go when those do. It takes no lock.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn blockers(&self, wanted: &[Wanted]) -> Result<Vec<Option<String>>, StoreError> {
        let (mut subjects, mut subject_places) = (Vec::new(), Vec::new());
        let (mut reservations, mut reservation_places) = (Vec::new(), Vec::new());
        for (place, one) in wanted.iter().enumerate() {
            match one {
                Wanted::Subject(subject) => {
                    subjects.push(subject.clone());
                    subject_places.push(place);
                }
                Wanted::Reservation(id) => {
                    reservations.push(*id);
                    reservation_places.push(place);
                }
            }
        }
        let (tenants, users, resources) = columns(&subjects);
        let rows = sqlx::query(STUCK)
            .bind(tenants)
            .bind(users)
            .bind(resources)
            .bind(column(&reservations, |id| *id))
            .fetch_all(&self.pool)
            .await?;
        let places = [subject_places, reservation_places].concat();
        let mut blockers = vec![None; wanted.len()];
        for row in rows {
            let n = usize::try_from(row.try_get::<i32, _>(0)?).unwrap_or_default();
            if let Some(place) = n.checked_sub(1).and_then(|n| places.get(n)) {
                blockers[*place] = row.try_get(1)?;
            }
        }
        Ok(blockers)
    }
}

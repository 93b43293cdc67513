//! Rows that somebody else has at this moment: who would wait for one, so that nobody else of his batch does.

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
         SELECT n, ($1::text[])[n] AS tenant_id, ($2::text[])[n] AS user_id, ($3::text[])[n] AS resource_type, '{}'::uuid[] AS quota_ids
         FROM generate_series(1, cardinality($1)) AS n
         UNION ALL
         SELECT cardinality($1) + n, r.tenant_id, r.user_id, r.resource_type, r.quota_ids
         FROM generate_series(1, cardinality($4)) AS n CROSS JOIN LATERAL (
             SELECT * FROM copilot_internal.reservations r WHERE r.id = ($4::uuid[])[n] LIMIT 1
         ) AS r
     ), wanted AS MATERIALIZED (
         SELECT s.n, q.id AS quota FROM s ",
    its_tenant!(),
    " CROSS JOIN LATERAL (",
    quotas_that_apply!(),
    ") AS q
         UNION ALL
         SELECT s.n, q.id FROM s, unnest(s.quota_ids) AS held (quota), LATERAL (
             SELECT id FROM copilot_internal.cost_quotas WHERE id = held.quota LIMIT 1
         ) AS q
     ), free AS MATERIALIZED (
         SELECT q.id FROM copilot_internal.cost_quotas q
         WHERE q.id = ANY (ARRAY(SELECT quota FROM wanted))
         ORDER BY q.id FOR UPDATE SKIP LOCKED
     )
     SELECT DISTINCT n FROM wanted WHERE quota NOT IN (SELECT id FROM free)"
);

impl Store {
    /// Whether each of `wanted` would wait for a row, in their order. It waits for none itself.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn are_stuck(&self, wanted: &[Wanted]) -> Result<Vec<bool>, StoreError> {
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
        let mut are_stuck = vec![false; wanted.len()];
        for row in rows {
            let n = usize::try_from(row.try_get::<i32, _>(0)?).unwrap_or_default();
            if let Some(place) = n.checked_sub(1).and_then(|n| places.get(n)) {
                are_stuck[*place] = true;
            }
        }
        Ok(are_stuck)
    }
}

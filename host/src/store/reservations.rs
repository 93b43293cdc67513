//! Reservations: how they stand, and for how long.

mod due;
mod ending;

use chrono::{DateTime, Utc};
use sqlx::Row as _;
use sqlx::postgres::{PgConnection, PgRow};
use uuid::Uuid;

use super::{Link, Store, StoreError, column};
use crate::money::Money;
use crate::quota::TenantId;

pub use self::ending::{End, Ended, Ending};

/// A reservation as its row stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Reservation {
    /// Its id.
    pub id: Uuid,
    /// Who is charged.
    pub tenant_id: String,
    /// On whose behalf.
    pub user_id: Option<String>,
    /// What is bought.
    pub resource_type: String,
    /// The caller's idempotency id.
    pub request_id: Option<String>,
    /// Digest of what the caller sent.
    pub body: String,
    /// `held`, `settled`, `released`, `expired`.
    pub state: String,
    /// Expected cost.
    pub estimate: Money,
    /// Set aside while it is held.
    pub held: Money,
    /// What it cost, once settled.
    pub actual: Option<Money>,
    /// It was settled after it had been released or had expired.
    pub late: bool,
    /// Which policy admitted it.
    pub policy_name: String,
    /// `sha256:…`.
    pub policy_digest: String,
    /// The request's time.
    pub created_at: DateTime<Utc>,
    /// When the host gives it back.
    pub expires_at: DateTime<Utc>,
}

macro_rules! reservation_columns {
    () => {
        "r.id, r.tenant_id, r.user_id, r.resource_type, r.request_id, r.body, r.state, (r.estimate_usd * 1000000000)::bigint,
         (r.held_usd * 1000000000)::bigint, (r.actual_usd * 1000000000)::bigint, r.late, r.policy_name, r.policy_digest,
         r.created_at, r.expires_at"
    };
}
use reservation_columns;
/// How many columns that is.
const RESERVATION_COLUMNS: usize = 15;

fn reservation(row: &PgRow, first: usize) -> Result<Reservation, sqlx::Error> {
    Ok(Reservation {
        id: row.try_get(first)?,
        tenant_id: row.try_get(first + 1)?,
        user_id: row.try_get(first + 2)?,
        resource_type: row.try_get(first + 3)?,
        request_id: row.try_get(first + 4)?,
        body: row.try_get(first + 5)?,
        state: row.try_get(first + 6)?,
        estimate: Money::from_nanos(row.try_get(first + 7)?),
        held: Money::from_nanos(row.try_get(first + 8)?),
        actual: row.try_get::<Option<i64>, _>(first + 9)?.map(Money::from_nanos),
        late: row.try_get(first + 10)?,
        policy_name: row.try_get(first + 11)?,
        policy_digest: row.try_get(first + 12)?,
        created_at: row.try_get(first + 13)?,
        expires_at: row.try_get(first + 14)?,
    })
}

/// A reservation whose time was asked to be prolonged.
#[derive(Clone, Debug, PartialEq)]
pub struct Extended {
    /// As it stands now.
    pub reservation: Reservation,
    /// It was held, and lives longer; otherwise it has ended.
    pub is_held: bool,
}

const EXTEND: &str = concat!(
    "UPDATE copilot_internal.reservations r
     SET expires_at = greatest(r.expires_at, least($3, r.created_at + interval '24 hours'))
     WHERE r.id = $1 AND r.tenant_id = $2 AND r.state = 'held' AND r.expires_at > $4
     RETURNING ",
    reservation_columns!()
);

async fn extend(
    connection: &mut PgConnection,
    tenant: &TenantId,
    id: Uuid,
    until: DateTime<Utc>,
    now: DateTime<Utc>,
) -> Result<Option<Extended>, StoreError> {
    let query = sqlx::query(EXTEND).bind(id).bind(tenant.as_str()).bind(until).bind(now);
    let mut row = query.fetch_optional(&mut *connection).await?;
    let is_held = row.is_some();
    if !is_held {
        row = sqlx::query(ONE).bind(id).bind(tenant.as_str()).fetch_optional(connection).await?;
    }
    let reservation = row.as_ref().map(|row| reservation(row, 0)).transpose()?;
    Ok(reservation.map(|reservation| Extended { reservation, is_held }))
}

const ONE: &str = concat!(
    "SELECT ",
    reservation_columns!(),
    " FROM copilot_internal.reservations r WHERE r.id = $1 AND r.tenant_id = $2"
);

impl Link {
    /// As [`Store::extend`].
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn extend(
        &mut self,
        tenant: &TenantId,
        id: Uuid,
        until: DateTime<Utc>,
        now: DateTime<Utc>,
    ) -> Result<Option<Extended>, StoreError> {
        let mut connection = self.take().await?;
        let extended = self.guard(extend(&mut connection, tenant, id, until, now)).await;
        self.give_back(connection, extended)
    }
}

impl Store {
    /// Prolongs a reservation that is held; it never lives longer than 24 hours. `None` where the tenant has no such.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn extend(
        &self,
        tenant: &TenantId,
        id: Uuid,
        until: DateTime<Utc>,
        now: DateTime<Utc>,
    ) -> Result<Option<Extended>, StoreError> {
        let mut connection = self.pool.acquire().await?;
        extend(&mut connection, tenant, id, until, now).await
    }

    /// One reservation.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn reservation(&self, tenant: &TenantId, id: Uuid) -> Result<Option<Reservation>, StoreError> {
        let row = sqlx::query(ONE).bind(id).bind(tenant.as_str()).fetch_optional(&self.pool).await?;
        Ok(row.as_ref().map(|row| reservation(row, 0)).transpose()?)
    }

    /// The reservation that a decision has made, whosever it is; the two have one id.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn reservation_of(&self, decision: Uuid) -> Result<Option<Reservation>, StoreError> {
        let row = sqlx::query(concat!(
            "SELECT ",
            reservation_columns!(),
            " FROM copilot_internal.reservations r WHERE r.id = $1"
        ))
        .bind(decision)
        .fetch_optional(&self.pool)
        .await?;
        Ok(row.as_ref().map(|row| reservation(row, 0)).transpose()?)
    }

    /// Those reservations that `request_ids` of tenants have made, in no order.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn reservations_of(&self, request_ids: &[(&TenantId, &str)]) -> Result<Vec<Reservation>, StoreError> {
        let rows = sqlx::query(concat!(
            "SELECT ",
            reservation_columns!(),
            " FROM unnest($1::text[], $2::text[]) AS asked (tenant_id, request_id) CROSS JOIN LATERAL (
                  SELECT * FROM copilot_internal.reservations r
                  WHERE r.tenant_id = asked.tenant_id AND r.request_id = asked.request_id LIMIT 1
              ) AS r"
        ))
        .bind(column(request_ids, |(tenant, _)| tenant.as_str()))
        .bind(column(request_ids, |(_, request_id)| *request_id))
        .fetch_all(&self.pool)
        .await?;
        Ok(rows.iter().map(|row| reservation(row, 0)).collect::<Result<_, _>>()?)
    }
}

//! Where requests come in: each asks its lane, and where the store cannot be reached, does without (`outage`).

use std::sync::Arc;
use std::time::Instant;

use chrono::{DateTime, TimeDelta, Utc};
use tokio::sync::oneshot;
use uuid::Uuid;

use super::check::CheckJob;
use super::entry::Entry;
use super::lane::{Job, Lane};
use super::money::MoneyJob;
use super::once::Kept;
use super::promise::{self, Made};
use super::reserve::ReserveJob;
use super::{Gate, GateError, Reply, Reserved, Told, lines};
use crate::decision::{Decision, Request, new_id};
use crate::metrics::{self, Mode};
use crate::origin::Current;
use crate::quota::TenantId;
use crate::store::costs::{Cost, Recorded};
use crate::store::replay::Promised;
use crate::store::reservations::{End, Ended, Ending, Extended};

/// The store can go and come between two looks, but not for ever.
const TRIES: usize = 3;

impl Gate {
    /// Whether the request would be allowed now. Changes no money.
    ///
    /// # Errors
    /// There is no decision; see [`GateError`].
    pub async fn check(&self, request: Request) -> Result<Arc<Decision>, GateError> {
        let (started, resource) = (Instant::now(), request.resource_type.clone());
        let decided = self.decide(request).await;
        let decision = decided.as_ref().ok().map(|decision| &**decision);
        metrics::decided(resource.as_str(), decision, Mode::Check, started.elapsed());
        decided
    }

    async fn decide(&self, request: Request) -> Result<Arc<Decision>, GateError> {
        lines::asked(&request);
        let request = Arc::new(request);
        if !self.world.is_down() {
            let _asked = self.asking.one_more();
            let lane = &self.checks[self.asking.lane(self.lane(&request.tenant))];
            let decided =
                send(lane, |reply| CheckJob { request: request.clone(), origin: Current::get(), reply }).await;
            if !self.is_lost(&decided) {
                let decision = decided?;
                lines::decided(&decision);
                return Ok(decision);
            }
        }
        let decision = self.world.check_in_outage(&request)?;
        lines::degraded(&decision);
        Ok(Arc::new(decision))
    }

    /// Decides, and in the same step sets the estimate aside for `ttl`. `body` is a digest of what the caller sent.
    ///
    /// # Errors
    /// There is no decision; see [`GateError`]. Where the store did not answer, money may have been set aside.
    pub async fn reserve(&self, request: Request, ttl: TimeDelta, body: Arc<str>) -> Result<Reserved, GateError> {
        let (started, resource) = (Instant::now(), request.resource_type.clone());
        let reserved = self.set_aside(request, ttl, body).await;
        let decision = match &reserved {
            Ok(Reserved::Decided { decision, .. }) => Some(&**decision),
            // Not decided now.
            Ok(Reserved::Repeated(_) | Reserved::Promised(_)) => return reserved,
            Err(_) => None,
        };
        metrics::decided(resource.as_str(), decision, Mode::Reserve, started.elapsed());
        reserved
    }

    async fn set_aside(&self, request: Request, ttl: TimeDelta, body: Arc<str>) -> Result<Reserved, GateError> {
        let mut is_down = self.world.is_down();
        let mut request = named(request, is_down);
        for _ in 0..TRIES {
            let was_asked = !is_down;
            if was_asked {
                let lane = &self.money[self.lane(&request.tenant)];
                let (request, body) = (request.clone(), body.clone());
                let job = |reply| MoneyJob::Reserve(ReserveJob { request, ttl, body, origin: Current::get(), reply });
                let reserved = send(lane, job).await;
                if !self.is_lost(&reserved) {
                    if let Ok(Reserved::Decided { decision, .. }) = &reserved {
                        lines::decided(decision);
                    }
                    return reserved;
                }
            }
            let expires_at = request.at + ttl;
            match self.world.promise(&Promised::of(&request, &body, expires_at)).await? {
                Some(Made::Now) => {
                    let decision = Arc::new(Decision::degraded(request.clone()));
                    lines::degraded(&decision);
                    return Ok(Reserved::Decided { decision, held: Some((request.estimate, expires_at)) });
                }
                Some(Made::Before(first)) => return Ok(Reserved::Promised(first)),
                // The store has come back in this moment.
                None => is_down = self.world.is_down(),
            }
            // What the store was asked it may have done: that expires.
            if was_asked {
                request = named(Request { id: new_id(request.at), ..(*request).clone() }, is_down);
            }
        }
        Err(GateError::Overloaded)
    }

    /// Ends a reservation: what it holds becomes spend, or comes back. `None` where there is no such reservation.
    ///
    /// # Errors
    /// The store did not answer; sending it again is safe.
    pub async fn end(&self, tenant: TenantId, id: Uuid, end: End) -> Result<Told<Option<Ended>>, GateError> {
        let ending = Ending { id, tenant, end, at: self.world.clock.now() };
        let entry = Entry::end(&ending);
        let ask = || {
            let lane = &self.money[self.lane(&ending.tenant)];
            send(lane, |reply| MoneyJob::End(ending.clone(), reply))
        };
        let told = self.ask_or_keep(&entry, ask).await?;
        self.or_wait(told, id, &entry).await
    }

    /// Keeps what is asked of a reservation that is not there and that another host may have promised: it will be in the
    /// books when that one has brought it there.
    async fn or_wait<T>(&self, told: Told<Option<T>>, id: Uuid, entry: &Entry) -> Result<Told<Option<T>>, GateError> {
        let may_wait = matches!(told, Told::Done(None)) && promise::may_be_promised(id, self.world.clock.now());
        if may_wait && self.world.keep_waiting(entry).await? {
            return Ok(Told::Kept { duplicate: false });
        }
        Ok(told)
    }

    /// Prolongs a reservation until `until`, 24 hours after it was made at most. `None` where there is no such reservation.
    ///
    /// # Errors
    /// The store did not answer.
    pub async fn extend(
        &self,
        tenant: &TenantId,
        id: Uuid,
        until: DateTime<Utc>,
        now: DateTime<Utc>,
    ) -> Result<Told<Option<Extended>>, GateError> {
        let entry = Entry::Extend { id, tenant: tenant.to_string(), until, at: now };
        let ask = || async {
            let store = &self.world.store;
            let extended = store.guard(store.extend(tenant, id, until, now)).await;
            extended.map_err(|error| GateError::Store(Arc::new(error)))
        };
        let told = self.ask_or_keep(&entry, ask).await?;
        // It would live no longer than it has.
        if until <= now {
            return Ok(told);
        }
        self.or_wait(told, id, &entry).await
    }

    /// Records what an operation really cost, in full and once.
    ///
    /// # Errors
    /// It was not recorded, or was recorded before with another body; see [`GateError`].
    pub async fn record_cost(&self, cost: Cost) -> Result<Told<Recorded>, GateError> {
        let ask = || {
            let lane = &self.money[self.lane(&cost.tenant)];
            send(lane, |reply| MoneyJob::Cost(cost.clone(), reply))
        };
        self.ask_or_keep(&Entry::cost(&cost), ask).await
    }

    /// Asks the store, or keeps `entry` for when it is back. All that moves money is the same when it is done twice.
    async fn ask_or_keep<T, F: Future<Output = Result<T, GateError>>>(
        &self,
        entry: &Entry,
        ask: impl Fn() -> F,
    ) -> Result<Told<T>, GateError> {
        for _ in 0..TRIES {
            if !self.world.is_down() {
                let answer = ask().await;
                if !self.is_lost(&answer) {
                    return answer.map(Told::Done);
                }
            }
            match self.world.keep_once(entry.clone()).await? {
                Kept::Now => return Ok(Told::Kept { duplicate: false }),
                Kept::Before(_) => return Ok(Told::Kept { duplicate: true }),
                Kept::NotNeeded => {}
            }
        }
        Err(GateError::Overloaded)
    }

    /// Whether an answer says that the store cannot be reached; then nobody waits for it from now on.
    fn is_lost<T>(&self, answer: &Result<T, GateError>) -> bool {
        let outage = answer.as_ref().err().and_then(GateError::outage);
        outage.inspect(|error| self.world.lost(error)).is_some()
    }
}

/// The request under the id that its lines and its answer have. Where the store is asked, it may know the reservation;
/// where not, the id says that it does not.
fn named(request: Request, is_down: bool) -> Arc<Request> {
    let id = if is_down { promise::promised_id(request.id) } else { request.id };
    let request = Arc::new(Request { id, ..request });
    lines::asked(&request);
    request
}

async fn send<J: Job, T>(lane: &Lane<J>, job: impl FnOnce(Reply<T>) -> J) -> Result<T, GateError> {
    let (reply, answer) = oneshot::channel();
    lane.submit(job(reply))?;
    // The lane does not let it wait for ever; a timer for each request would cost more than its share of the statement.
    answer.await.map_err(|_| GateError::Overloaded)?
}

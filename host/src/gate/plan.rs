//! What a batch of reservations comes to, before anything is written.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use uuid::Uuid;

use super::World;
use super::guests::{Guests, Undecided, is_denied};
use super::known::Known;
use super::reserve::ReserveJob;
use crate::decision::{Decision, Facts};
use crate::policy::Generation;
use crate::quota::{ClosedWindow, QuotaRow};
use crate::store::admission::{Admission, NewReservation, RowChange};
use crate::store::subjects::{Standing, Subject};

/// What one round decided.
#[derive(Default)]
pub(super) struct Plan {
    pub(super) admission: Admission,
    /// With its reservations, one by one.
    pub(super) admitted: Vec<(ReserveJob, Decision)>,
    pub(super) denied: Vec<(ReserveJob, Decision)>,
    /// Not decided: the policy failed.
    pub(super) failed: Vec<(ReserveJob, Undecided)>,
    /// Beyond the guests' time; for the next batch.
    pub(super) left: Vec<ReserveJob>,
}

/// How a subject stands, and its number among those that are admitted.
struct Place {
    standing: Standing,
    number: Option<usize>,
}

/// Decides `jobs` in order, each on the rows as those before it leave them.
pub(super) fn plan(world: &World, generation: &Generation, known: &Known, jobs: Vec<ReserveJob>) -> Plan {
    let mut guests = Guests::new(world, generation);
    let mut plan = Plan::default();
    let mut running: HashMap<Uuid, RowChange> = HashMap::new();
    let mut closed: Vec<ClosedWindow> = Vec::new();
    let mut places: HashMap<Subject, Place> = HashMap::new();
    for job in jobs {
        if guests.are_out_of_time() {
            plan.left.push(job);
            continue;
        }
        let subject = job.subject();
        let place = match places.entry(subject) {
            Entry::Occupied(place) => place.into_mut(),
            Entry::Vacant(vacant) => {
                let Some(standing) = known.standing(vacant.key()) else {
                    plan.left.push(job);
                    continue;
                };
                vacant.insert(Place { standing, number: None })
            }
        };
        let standing = &place.standing;
        let current = |row: &QuotaRow| running.get(&row.id).map_or(row, |change| &change.written).at(job.request.at);
        let facts = Facts {
            quotas: Arc::new(standing.quotas.iter().map(current).collect()),
            tier: standing.tier.clone(),
            pool: standing.pool.clone(),
            request: job.request.clone(),
        };
        let decision = match job.origin.run(|| guests.decide(facts)) {
            Ok(decision) => decision,
            Err(undecided) => {
                plan.failed.push((job, undecided));
                continue;
            }
        };
        if is_denied(&decision) {
            plan.denied.push((job, decision));
            continue;
        }
        let held = decision.at_most.unwrap_or(job.request.estimate);
        let mut holds = Vec::with_capacity(standing.quotas.len());
        for row in &standing.quotas {
            let change = running.entry(row.id).or_insert_with(|| RowChange { seen: row.clone(), written: row.clone() });
            let (window, ended) = change.written.hold(job.request.at, held);
            closed.extend(ended);
            holds.push((row.id, window));
        }
        let subjects = &mut plan.admission.subjects;
        let subject = *place.number.get_or_insert_with(|| {
            subjects.push((job.subject(), standing.clone()));
            subjects.len() - 1
        });
        plan.admission.reservations.push(NewReservation {
            request: job.request.clone(),
            subject,
            body: job.body.clone(),
            held,
            expires_at: job.request.at + job.ttl,
            holds,
            policy: decision.policy.clone(),
        });
        plan.admitted.push((job, decision));
    }
    plan.admission.rows = running.into_values().collect();
    plan.admission.closed = closed;
    plan
}

//! What a lane knows of the rows: as they were after its last statement. A verdict on them is only ever committed if they
//! are still the same, and never becomes a denial without another look.

use std::collections::HashMap;

use uuid::Uuid;

use crate::quota::{PoolId, QuotaRow, Tier};
use crate::store::ledger::Posted;
use crate::store::subjects::{Standing, Subject};

/// More subjects than this are forgotten all at once: memory is bounded, and what is needed is read again.
const MOST_SUBJECTS: usize = 20_000;

#[derive(Default)]
pub(super) struct Known {
    subjects: HashMap<Subject, KnownSubject>,
    rows: HashMap<Uuid, QuotaRow>,
}

struct KnownSubject {
    tier: Option<Tier>,
    pool: Option<PoolId>,
    quotas: Vec<Uuid>,
}

impl Known {
    /// How a subject stands, if all of it is known.
    pub(super) fn standing(&self, subject: &Subject) -> Option<Standing> {
        let known = self.subjects.get(subject)?;
        let quotas = known.quotas.iter().map(|id| self.rows.get(id).cloned()).collect::<Option<_>>()?;
        Some(Standing { tier: known.tier.clone(), pool: known.pool.clone(), quotas })
    }

    /// What was just read.
    pub(super) fn learn(&mut self, subject: &Subject, standing: &Standing) {
        if self.subjects.len() >= MOST_SUBJECTS {
            self.subjects.clear();
            self.rows.clear();
        }
        let quotas = standing.quotas.iter().map(|row| row.id).collect();
        let known = KnownSubject { tier: standing.tier.clone(), pool: standing.pool.clone(), quotas };
        self.subjects.insert(subject.clone(), known);
        self.rows.extend(standing.quotas.iter().map(|row| (row.id, row.clone())));
    }

    /// What was just written.
    pub(super) fn wrote(&mut self, row: QuotaRow) {
        self.rows.insert(row.id, row);
    }

    /// How a quota stands after a posting; where a closed window changed, the row is read again when it is needed.
    pub(super) fn posted(&mut self, posted: &Posted) {
        if posted.closed_changed {
            self.rows.remove(&posted.row.id);
        } else if let Some(row) = self.rows.get_mut(&posted.row.id) {
            let newest_closed = row.newest_closed;
            *row = QuotaRow { newest_closed, ..posted.row.clone() };
        }
    }

    /// The subject is to be read again.
    pub(super) fn forget(&mut self, subject: &Subject) {
        self.subjects.remove(subject);
    }
}

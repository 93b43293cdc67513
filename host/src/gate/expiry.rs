//! Reservations whose time is over.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::money::MoneyJob;
use super::{Gate, GateError};

/// Expired reservations that are given back together: a part of a lane's queue.
const DUE_AT_ONCE: i64 = 256;

impl Gate {
    /// Gives back all that reservations hold whose time is over. By their lanes: what changes a lane's rows beside it makes
    /// it decide again. A tenant for whom that fails, such as since somebody has his row, keeps nobody else's.
    ///
    /// # Errors
    /// The store did not answer, or a lane has no time for it, at least for one of them.
    pub async fn expire_due(&self) -> Result<(), GateError> {
        let (mut failed, mut passed) = (Ok(()), Vec::new());
        loop {
            let due = self.world.due(self.world.clock.now(), DUE_AT_ONCE, &passed).await;
            let due = due.map_err(|error| GateError::Store(Arc::new(error)))?;
            let mut answers = Vec::with_capacity(due.len());
            for ending in due {
                let ((reply, answer), tenant) = (oneshot::channel(), ending.tenant.clone());
                self.money[self.lane(&tenant)].submit(MoneyJob::End(ending, reply))?;
                answers.push((tenant, answer));
            }
            if answers.is_empty() {
                return failed;
            }
            let passed_before = passed.len();
            let mut ended = 0;
            for (tenant, answer) in answers {
                match answer.await.unwrap_or(Err(GateError::Overloaded)) {
                    Ok(answer) => ended += usize::from(answer.is_some()),
                    Err(error) => {
                        failed = Err(error);
                        passed.push(tenant);
                    }
                }
            }
            if ended == 0 && passed.len() == passed_before {
                return failed;
            }
            passed.sort_unstable();
            passed.dedup();
        }
    }
}

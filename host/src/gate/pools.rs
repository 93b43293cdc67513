//! The pools of tenants, as far as this host has seen.

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};

use crate::quota::{PoolId, TenantId};

/// Which pool a tenant was in when it was last read: tells the lane, nothing else.
#[derive(Default)]
pub(super) struct Pools(RwLock<HashMap<TenantId, PoolId>>);

impl Pools {
    pub(super) fn of(&self, tenant: &TenantId) -> Option<PoolId> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(tenant).cloned()
    }

    pub(super) fn learn(&self, tenant: &TenantId, pool: Option<&PoolId>) {
        if self.of(tenant).as_ref() == pool {
            return;
        }
        let mut pools = self.0.write().unwrap_or_else(PoisonError::into_inner);
        match pool {
            Some(pool) => pools.insert(tenant.clone(), pool.clone()),
            None => pools.remove(tenant),
        };
    }
}

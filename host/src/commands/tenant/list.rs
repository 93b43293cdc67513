//! `tenant list`: who there is, and whom nothing limits.

use serde_json::json;

use super::super::{Failure, OpenStore, configured, table};
use crate::cli::StoreArgs;
use crate::clock::Clock;
use crate::store::inspect::Cover;

pub(super) async fn list(json: bool, store: &StoreArgs) -> Result<(), Failure> {
    let opened = OpenStore::open(&configured(store)?).await?;
    let tenants = opened.store.known_tenants(Clock::System.now()).await;
    opened.close().await?;
    let tenants = tenants?;
    if json {
        let tenants: Vec<_> = tenants
            .iter()
            .map(|tenant| {
                json!({
                    "tenantId": tenant.tenant_id, "tier": tenant.tier, "pool": tenant.pool,
                    "llm": word(tenant.llm), "e2b": word(tenant.e2b),
                })
            })
            .collect();
        println!("{}", serde_json::to_string_pretty(&tenants).map_err(|error| Failure::caused(&error))?);
        return Ok(());
    }
    if tenants.is_empty() {
        println!("No tenants. `tollgate tenant onboard ID --tier TIER` creates one.");
        return Ok(());
    }
    let dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    let mut rows = vec![["TENANT", "TIER", "POOL", "LLM", "E2B"].map(str::to_owned)];
    rows.extend(tenants.iter().map(|tenant| {
        let (llm, e2b) = (word(tenant.llm).to_owned(), word(tenant.e2b).to_owned());
        [tenant.tenant_id.clone(), dash(&tenant.tier), dash(&tenant.pool), llm, e2b]
    }));
    print!("{}", table::text(&rows, &[]));
    Ok(())
}

/// What limits a resource, in a word.
fn word(cover: Cover) -> &'static str {
    match cover {
        Cover::Nothing => "UNLIMITED",
        Cover::Shared => "shared",
        Cover::Own => "own",
    }
}

//! `policy promote` and `policy rollback`: what goes live, by digest.

use std::sync::Arc;

use chrono::{DateTime, Utc};

use crate::cli::PolicyChangeArgs;
use crate::clock::Clock;
use crate::commands::{Failure, shown};
use crate::config::Config;
use crate::policy::folder::ChangeError;
use crate::policy::{Folder, Generation, Workshop};

pub(super) type Change = fn(&Folder, &str, Option<&str>, DateTime<Utc>) -> Result<Arc<Generation>, ChangeError>;

/// Changes the folder; a host that serves from it watches it.
pub(super) fn change(args: PolicyChangeArgs, change: Change) -> Result<(), Failure> {
    let PolicyChangeArgs { name, digest, policies, store } = args;
    let flags = [("policies", policies), ("data_dir", store.data_dir)];
    let config = Config::load(store.config.as_deref(), &flags)?;
    let now = Clock::System.now();
    let folder = Folder::open(config.policies.clone(), Workshop::default(), now)
        .map_err(|error| Failure::from(error).hint("name the policy folder with --policies DIR"))?;
    let generation = change(&folder, &name, digest.as_deref(), now).map_err(|error| Failure::caused(&error))?;
    let live = generation.statuses().into_iter().find(|status| status.name == name).and_then(|status| status.serving);
    let digest = live.map(|live| live.digest).unwrap_or_default();
    println!("{name} is {digest} in {}; hosts that watch the folder follow.", shown(&config.policies));
    Ok(())
}

//! `policy promote` and `policy rollback`: what goes live, by digest.

use chrono::{DateTime, Utc};

use crate::cli::PolicyChangeArgs;
use crate::clock::Clock;
use crate::commands::source::compiler;
use crate::commands::{Failure, shown};
use crate::config::Config;
use crate::policy::AtRest;
use crate::policy::folder::ChangeError;
use crate::quota::Tier;

pub(super) type Change = fn(&AtRest, &str, Option<&str>, DateTime<Utc>) -> Result<String, ChangeError>;

/// Changes the folder; a host that serves from it watches it.
pub(super) fn change(args: PolicyChangeArgs, change: Change) -> Result<(), Failure> {
    let PolicyChangeArgs { name, digest, policies, store } = args;
    Tier::parse(&name)
        .map_err(|fault| Failure::new(format!("NAME: {fault}")).hint("a policy is called as its tier"))?;
    let flags = [("policies", policies), ("data_dir", store.data_dir)];
    let config = Config::load(store.config.as_deref(), &flags)?;
    let folder = AtRest::open(config.policies.clone(), compiler(), &config.data_dir)
        .map_err(|error| Failure::from(error).hint("name the policy folder with --policies DIR"))?;
    let digest = change(&folder, &name, digest.as_deref(), Clock::System.now()).map_err(|error| {
        let failure = Failure::caused(&error);
        match error {
            ChangeError::Refused { file, .. } => Failure { exit: 1, ..failure }.hint(format!(
                "the folder is as it was; `tollgate policy test {}` tries the file",
                shown(&config.policies.join(file))
            )),
            ChangeError::Conflict(_) | ChangeError::Failed(_) => failure,
        }
    })?;
    println!("{name} is {digest} in {}; hosts that watch the folder follow.", shown(&config.policies));
    Ok(())
}

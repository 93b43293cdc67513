//! The policies: each loads and passes its fixtures, under the limits of production.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};

use super::super::{Failure, shown};
use super::{Findings, Level};
use crate::config::Config;
use crate::policy::Folder;

const AREA: &str = "policies";

/// The names that serve, where the folder holds.
pub(super) async fn look(config: &Config, now: DateTime<Utc>, findings: &mut Findings) -> Option<BTreeSet<String>> {
    let dir = config.policies.clone();
    let opened = tokio::task::spawn_blocking(move || Folder::open(dir, crate::policy::Workshop::default(), now)).await;
    let folder = match opened.map_err(|error| Failure::new(error.to_string())) {
        Ok(Ok(folder)) => folder,
        Ok(Err(error)) => {
            let finding = findings.add(AREA, Level::Error, "");
            finding.of(error.into());
            finding.hint(format!("`tollgate policy build policies --out {}`", shown(&config.policies)));
            return None;
        }
        Err(failure) => {
            findings.add(AREA, Level::Error, "").of(failure);
            return None;
        }
    };
    let mut names = BTreeSet::new();
    for status in folder.generation().statuses() {
        if let Some(error) = &status.last_error {
            findings.add(AREA, Level::Error, format!("{} does not serve: {error}", status.name)).hint(format!(
                "`tollgate policy test {}`",
                shown(&config.policies.join(format!("{}.wasm", status.name)))
            ));
        }
        if let Some(serving) = &status.serving {
            let message = format!("{} {} passes its fixtures", status.name, serving.version);
            findings.add(AREA, Level::Ok, message);
            names.insert(status.name);
        }
    }
    for tier in config.tiers.keys().filter(|tier| !names.contains(tier.as_str())) {
        findings.add(AREA, Level::Note, format!("the tier {tier} has no policy of its own: the standard one decides"));
    }
    Some(names)
}

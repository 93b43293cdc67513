//! The policies: each loads and passes its fixtures, under the limits of production; and files that nobody reads.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use tracing::subscriber::{NoSubscriber, with_default};

use super::super::{Failure, shown};
use super::{Findings, Level};
use crate::config::Config;
use crate::policy::folder::{STANDARD, Status, strays};
use crate::policy::{Folder, PolicyError, Workshop};

const AREA: &str = "policies";

/// The names that serve, where the folder holds.
pub(super) async fn look(config: &Config, now: DateTime<Utc>, findings: &mut Findings) -> Option<BTreeSet<String>> {
    let dir = config.policies.clone();
    // What a host would log is a finding here.
    let open = move || with_default(NoSubscriber::default(), || Folder::open(dir, Workshop::default(), now));
    let folder = match tokio::task::spawn_blocking(open).await {
        Ok(Ok(folder)) => folder,
        Ok(Err(error)) => {
            without_standard(config, error, findings);
            look_for_strays(config, findings);
            return None;
        }
        Err(error) => {
            findings.add(AREA, Level::Error, "").of(Failure::new(error.to_string()));
            return None;
        }
    };
    let mut names = BTreeSet::new();
    for status in folder.generation().statuses() {
        look_at(config, &status, findings);
        if status.serving.is_some() {
            names.insert(status.name);
        }
    }
    look_for_strays(config, findings);
    for tier in config.tiers.keys().filter(|tier| !names.contains(tier.as_str())) {
        findings.add(AREA, Level::Note, format!("the tier {tier} has no policy of its own: the standard one decides"));
    }
    Some(names)
}

fn look_at(config: &Config, status: &Status, findings: &mut Findings) {
    let Status { name, serving, last_error, candidate } = status;
    let test = |file: String| format!("`tollgate policy test {}`", shown(&config.policies.join(file)));
    if let Some(error) = last_error {
        findings.add(AREA, Level::Error, format!("{name} does not serve: {error}")).hint(test(format!("{name}.wasm")));
    }
    match serving {
        Some(serving) if serving.cases == 0 => findings
            .add(AREA, Level::Note, format!("{name} {} loads; it has no fixtures", serving.version))
            .hint(format!("what it should decide goes beside it, as {name}.fixtures.toml")),
        Some(serving) => {
            findings.add(AREA, Level::Ok, format!("{name} {} passes its fixtures", serving.version));
        }
        None => {}
    }
    let Some(candidate) = candidate else { return };
    match &candidate.last_error {
        Some(error) => findings
            .add(AREA, Level::Warning, format!("the candidate for {name} was refused: {error}"))
            .hint(test(format!("{name}.next.wasm"))),
        None => {
            findings.add(AREA, Level::Ok, format!("the candidate for {name} can run in shadow"));
        }
    }
}

/// A host that has kept a last good version serves it; another one does not start.
fn without_standard(config: &Config, error: PolicyError, findings: &mut Findings) {
    let lies_there = |file: &str| config.policies.join(file).exists();
    let finding = findings.add(AREA, Level::Error, "");
    finding.of(error.into());
    finding.hint(if !lies_there("standard.wasm") {
        format!("`tollgate policy build policies --out {}`", shown(&config.policies))
    } else if lies_there("standard.previous.wasm") {
        format!("`tollgate policy rollback {STANDARD}` puts back what was live before")
    } else {
        format!("`tollgate policy test {}`", shown(&config.policies.join("standard.wasm")))
    });
}

fn look_for_strays(config: &Config, findings: &mut Findings) {
    // A folder that cannot be read has been found already.
    for (file, reason) in strays(&config.policies).unwrap_or_default() {
        findings
            .add(AREA, Level::Warning, format!("{file} is read by no host: {reason}"))
            .hint(format!("rename it, or remove it from {}", shown(&config.policies)));
    }
}

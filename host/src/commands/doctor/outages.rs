//! Outages: what a request gets then, and what earlier ones have left on this host's disk.

use std::fs;
use std::path::PathBuf;

use chrono::SecondsFormat;

use super::super::shown;
use super::{Findings, Level};
use crate::config::Config;
use crate::gate::{StoreFailure, waiting_since};

const AREA: &str = "outages";

/// Of the oldest record that waits.
fn since(files: &[(PathBuf, u64)]) -> String {
    let spools = files.iter().filter(|(path, _)| path.extension().is_some_and(|found| found == "spool"));
    let oldest = spools.filter_map(|(path, _)| waiting_since(path)).min();
    oldest.map_or_else(String::new, |oldest| {
        format!(", the oldest since {}", oldest.to_rfc3339_opts(SecondsFormat::Secs, true))
    })
}

pub(super) fn look(config: &Config, findings: &mut Findings) {
    let mode = match config.store_failure {
        StoreFailure::Open => "open: while the store cannot be reached everything is allowed".to_owned(),
        StoreFailure::Bounded(bound) => {
            format!("bounded: while the store cannot be reached each tenant is allowed {bound} on each host")
        }
        StoreFailure::Closed => "closed: while the store cannot be reached everything is refused with 503".to_owned(),
    };
    findings.add(AREA, Level::Note, format!("{mode}; what is spent is kept, up to {} MiB", config.spool_mib));
    let dir = config.data_dir.join("spool");
    let files: Vec<(PathBuf, u64)> = fs::read_dir(&dir)
        .into_iter()
        .flatten()
        .flatten()
        .map(|file| (file.path(), file.metadata().map_or(0, |file| file.len())))
        .collect();
    let bytes = |extension: &str| -> u64 {
        let of_kind = |path: &PathBuf| path.extension().is_some_and(|found| found == extension);
        files.iter().filter(|(path, _)| of_kind(path)).map(|(_, bytes)| bytes).sum()
    };
    match bytes("spool") {
        0 => {
            findings.add(AREA, Level::Ok, "nothing waits for the store on this host's disk");
        }
        waiting => findings
            .add(
                AREA,
                Level::Warning,
                format!("{waiting} bytes in {} wait for the store{}", shown(&dir), since(&files)),
            )
            .hint("a gate with this data directory brings them into the books; `GET /readyz` tells when it has"),
    }
    for (extension, what) in [("rejected", "records that cannot be in the books"), ("damaged", "damaged records")] {
        if bytes(extension) > 0 {
            findings
                .add(AREA, Level::Warning, format!("{what} in {}/*.{extension}", shown(&dir)))
                .hint("the log says what was wrong with each; enter by hand what is missing, and remove the file");
        }
    }
}

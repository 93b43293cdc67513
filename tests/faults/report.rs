//! What the fault suite has seen, as JSON, and the page that is written from it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::guests::repository;

/// One fault, from its mending on.
pub struct Run {
    pub fault: &'static str,
    pub recovered_in: Duration,
    pub degraded_micros: Vec<u64>,
}

#[derive(Default)]
pub struct Report {
    pub runs: Vec<Run>,
    pub seconds: u64,
    pub seed: u64,
    /// Invariants, and how often each did not hold.
    invariants: Vec<(String, usize)>,
    counts: Vec<(String, usize)>,
}

impl Report {
    pub fn check(&mut self, invariant: &str, violations: usize) {
        self.invariants.push((invariant.to_owned(), violations));
    }

    pub fn count(&mut self, what: &str, count: usize) {
        self.counts.push((what.to_owned(), count));
    }

    pub fn violations(&self) -> Vec<&(String, usize)> {
        self.invariants.iter().filter(|(_, violations)| *violations > 0).collect()
    }

    fn by_fault(&self) -> Vec<Value> {
        let mut faults: BTreeMap<&'static str, (Vec<u128>, Vec<u64>)> = BTreeMap::new();
        for run in &self.runs {
            let (recoveries, micros) = faults.entry(run.fault).or_default();
            recoveries.push(run.recovered_in.as_millis());
            micros.extend(&run.degraded_micros);
        }
        let seen = |(fault, (mut recoveries, mut micros)): (&str, (Vec<u128>, Vec<u64>))| {
            recoveries.sort_unstable();
            micros.sort_unstable();
            let at = |percent: usize| micros.get(micros.len() * percent / 100).map(|micros| micros / 1000);
            json!({
                "fault": fault, "runs": recoveries.len(),
                "medianRecoveryMs": recoveries[recoveries.len() / 2], "worstRecoveryMs": recoveries.last(),
                "degraded": micros.len(), "degradedP50Ms": at(50), "degradedP99Ms": at(99),
            })
        };
        faults.into_iter().map(seen).collect()
    }

    fn json(&self) -> Value {
        let pairs = |pairs: &[(String, usize)]| -> Vec<Value> {
            pairs.iter().map(|(what, count)| json!({ "what": what, "count": count })).collect()
        };
        json!({
            "seed": self.seed, "seconds": self.seconds, "runs": self.runs.len(), "faults": self.by_fault(),
            "violations": pairs(&self.invariants), "books": pairs(&self.counts),
        })
    }

    pub fn write(&self, folder: &Path) {
        let json = self.json();
        fs::create_dir_all(folder).expect("a folder");
        fs::write(folder.join("report.json"), format!("{json:#}\n")).expect("a file");
        fs::write(folder.join("RELIABILITY.md"), page(&json)).expect("a file");
    }
}

/// `RELIABILITY.md`, of a run's JSON.
fn page(run: &Value) -> String {
    let list = |name: &str| run[name].as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let or_none = |value: &Value| if value.is_null() { "–".to_owned() } else { value.to_string() };
    let (seconds, seed, runs) = (&run["seconds"], &run["seed"], &run["runs"]);
    let mut page = include_str!("page/head.md")
        .replace("{seconds}", &seconds.to_string())
        .replace("{seed}", &seed.to_string())
        .replace("{runs}", &runs.to_string());
    for fault in list("faults") {
        let _ = writeln!(
            page,
            "| {} | {} | {} | {} | {} | {} |",
            text(&fault["fault"]),
            fault["runs"],
            fault["medianRecoveryMs"],
            fault["worstRecoveryMs"],
            or_none(&fault["degradedP50Ms"]),
            or_none(&fault["degradedP99Ms"]),
        );
    }
    page.push_str("\n## What held\n\n| after all of it | violations |\n|---|---|\n");
    for pair in list("violations") {
        let _ = writeln!(page, "| {} | {} |", text(&pair["what"]), pair["count"]);
    }
    page.push_str("\n| in the books | |\n|---|---|\n");
    for pair in list("books") {
        let _ = writeln!(page, "| {} | {} |", text(&pair["what"]), pair["count"]);
    }
    page.push('\n');
    page.push_str(include_str!("page/tail.md"));
    page
}

#[test]
fn the_page_is_that_of_the_run_whose_json_is_beside_the_suite() {
    let run = fs::read_to_string(repository().join("tests/faults/report.json")).expect("a run's JSON");
    let written = page(&serde_json::from_str(&run).expect("JSON"));
    let place = repository().join("RELIABILITY.md");
    if std::env::var_os("UPDATE_RELIABILITY").is_some() {
        fs::write(&place, &written).expect("the page");
    }
    let page = fs::read_to_string(&place).expect("the page");
    assert!(page == written, "RELIABILITY.md is another run's: UPDATE_RELIABILITY=1 cargo test the_page_is_that");
}

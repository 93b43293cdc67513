//! What the fault suite has seen, as JSON and as a page.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::json;

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

    /// By fault: how often, the slowest recovery, and the 99th percentile of answers without a store, in milliseconds.
    fn by_fault(&self) -> BTreeMap<&'static str, (usize, u128, Option<u64>)> {
        let mut faults: BTreeMap<&'static str, (usize, Duration, Vec<u64>)> = BTreeMap::new();
        for run in &self.runs {
            let (count, worst, micros) = faults.entry(run.fault).or_default();
            *count += 1;
            *worst = (*worst).max(run.recovered_in);
            micros.extend(&run.degraded_micros);
        }
        let figures = |(count, worst, mut micros): (usize, Duration, Vec<u64>)| {
            micros.sort_unstable();
            let p99 = micros.get(micros.len() * 99 / 100).or(micros.last()).map(|micros| micros / 1000);
            (count, worst.as_millis(), p99)
        };
        faults.into_iter().map(|(fault, seen)| (fault, figures(seen))).collect()
    }

    pub fn write(&self, folder: &Path) {
        let faults: Vec<_> = self
            .by_fault()
            .into_iter()
            .map(|(fault, (runs, worst, p99))| {
                json!({ "fault": fault, "runs": runs, "worstRecoveryMs": worst, "degradedP99Ms": p99 })
            })
            .collect();
        let json = json!({
            "seed": self.seed, "seconds": self.seconds, "faults": faults,
            "invariants": self.invariants.iter().map(|(what, violations)| json!({ "invariant": what, "violations": violations })).collect::<Vec<_>>(),
            "books": self.counts.iter().map(|(what, count)| json!({ "what": what, "count": count })).collect::<Vec<_>>(),
        });
        fs::create_dir_all(folder).expect("a folder");
        fs::write(folder.join("faults.json"), format!("{json:#}\n")).expect("a file");
        fs::write(folder.join("RELIABILITY.md"), self.page()).expect("a file");
    }

    fn page(&self) -> String {
        let mut page = format!(
            "# Reliability\n\nWritten by `tests/faults.rs` (`TOLLGATE_FAULTS_REPORT=. TOLLGATE_FAULTS_SECONDS={} cargo test --test tollgate faults`): \
             two hosts on one database, eight applications that repeat what was not answered and remember what was, and \
             faults one after the other, with the applications going on through all of them. Seed {}, {} s, {} faults.\n\n\
             ## What broke\n\nRecovery is the time from the end of the fault until both hosts answer from the store again \
             and everything that was kept is in the books. The last column is the 99th percentile of answers that were \
             given without the store, those included that found out.\n\n\
             | fault | runs | worst recovery, ms | p99 without the store, ms |\n|---|---|---|---|\n",
            self.seconds,
            self.seed,
            self.seconds,
            self.runs.len(),
        );
        for (fault, (runs, worst, p99)) in self.by_fault() {
            let p99 = p99.map_or_else(|| "–".to_owned(), |p99| p99.to_string());
            let _ = writeln!(page, "| {fault} | {runs} | {worst} | {p99} |");
        }
        page.push_str("\n## What held\n\n| after all of it | violations |\n|---|---|\n");
        for (invariant, violations) in &self.invariants {
            let _ = writeln!(page, "| {invariant} | {violations} |");
        }
        page.push_str("\n| in the books | |\n|---|---|\n");
        for (what, count) in &self.counts {
            let _ = writeln!(page, "| {what} | {count} |");
        }
        page.push_str(
            "\n## What is not promised\n\n\
             - A standby that is promoted without commits that the old primary had acknowledged (asynchronous replication) \
             has lost them, and nobody can tell. Use synchronous replication where that matters.\n\
             - The spool is on one disk. With the disk, what it holds is gone: it is for outages of the store, not of both.\n\
             - While the store cannot be reached, `open` allows whatever is asked, and `bounded` up to its bound on every \
             host. The books are right afterwards, and can be over their limits; the log says which.\n\
             - A reply that was lost after its reservation was committed can leave that reservation held until it expires.\n\
             - A settle or release that comes to another host, for a reservation whose reply from the store was lost, is \
             answered 404 until its host has brought it into the books; repeat it.\n\
             - Allowed checks and the last decisions of a host that is killed are not in the decision log. Money is.\n",
        );
        page
    }
}

//! What a test came to, for people and as JSON.

use std::fmt::Write as _;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::commands::shown;
use crate::policy::fixture::{CaseResult, Difference};

/// Where both sides of a difference stand on one line.
const WIDEST: usize = 100;

/// A policy and what its fixtures came to.
pub(super) struct Tested {
    pub(super) component: PathBuf,
    /// What ran.
    pub(super) digest: Option<String>,
    /// Whether it has no fixtures, and needs none.
    pub(super) skipped: bool,
    pub(super) cases: Vec<CaseResult>,
    /// Why it could not be tested.
    pub(super) error: Option<String>,
}

impl Tested {
    /// How many cases did not pass.
    pub(super) fn failed(&self) -> usize {
        self.cases.iter().filter(|case| !case.passed()).count()
    }

    /// Its cases, a line each, and what differs.
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        for case in &self.cases {
            let _ = writeln!(text, "  {} {}", if case.passed() { "ok    " } else { "FAILED" }, case.name);
            if let Some(fault) = &case.fault {
                let _ = writeln!(text, "         {}", fault.replace('\n', "\n         "));
            }
            text.push_str(&side_by_side(&case.differences));
        }
        if self.skipped {
            text.push_str("  skipped: it has no fixtures; they are optional, and go beside it as NAME.fixtures.toml\n");
        }
        if self.error.is_some() {
            text.push_str("  not tested, as said below\n");
        }
        text
    }
}

/// Expected and actual in columns; one above the other where they are too long for that.
fn side_by_side(differences: &[Difference]) -> String {
    let widest = |of: fn(&Difference) -> &str| differences.iter().map(|each| of(each).chars().count()).max();
    let (Some(left), Some(right)) = (widest(|each| &each.expected), widest(|each| &each.actual)) else {
        return String::new();
    };
    let left = left.max("expected".len());
    let columns = left + right + "         retryAfter  ".len() <= WIDEST;
    let mut text = String::new();
    if columns {
        let _ = writeln!(text, "         {:10}  {:left$}  actual", "", "expected");
    }
    for Difference { field, expected, actual } in differences {
        let _ = if columns {
            writeln!(text, "         {field:10}  {expected:left$}  {actual}")
        } else {
            writeln!(text, "         {field:10}  expected  {expected}\n         {:10}  actual    {actual}", "")
        };
    }
    text
}

/// All of it as one object.
pub(super) fn document(all: &[Tested]) -> Value {
    let policies: Vec<Value> = all.iter().map(of_policy).collect();
    let failed = all.iter().map(Tested::failed).sum::<usize>();
    let passed = all.iter().map(|tested| tested.cases.len()).sum::<usize>() - failed;
    json!({ "passed": passed, "failed": failed, "policies": policies })
}

fn of_policy(tested: &Tested) -> Value {
    let case = |case: &CaseResult| {
        json!({
            "name": case.name,
            "passed": case.passed(),
            "fault": case.fault,
            "differences": case.differences,
            "tookMicros": u64::try_from(case.took.as_micros()).unwrap_or(u64::MAX),
        })
    };
    json!({
        "file": shown(&tested.component),
        "digest": tested.digest,
        "skipped": tested.skipped,
        "error": tested.error,
        "cases": tested.cases.iter().map(case).collect::<Vec<_>>(),
    })
}
